"""Label shift: class frequencies outside that differ from inside, estimated and corrected.

Figures on external data fall for two reasons, other class frequencies and other images. What is
left after the first is taken away is due to the second.
"""

from typing import NamedTuple

import numpy as np

from trustq.errors import InputError
from trustq.metrics.calibration_error import equal_width_bins
from trustq.metrics.classification import expected_calibration_error
from trustq.metrics.probabilities import checked_labels, checked_probs

MOST_STEPS = 100
TOLERANCE = 1e-10  # largest change of a frequency at which Newton stops
_LOWEST = 1e-8  # an inside frequency below it is none


class ReweightedFigures(NamedTuple):
    """Figures of rows weighted so that classes are as frequent as wanted.

    `absent` are the wanted classes that have no row; their share is spread over the others.
    """

    accuracy: float
    nll: float
    brier: float
    ece: float
    absent: tuple[int, ...]


def em_frequencies(probs: np.ndarray, frequencies: np.ndarray) -> np.ndarray:
    """Class frequencies of unlabelled rows, (k,): those that expectation maximisation ends at.

    `probs`, (n, k), are calibrated for data whose class `frequencies`, (k,), are known, those that
    the model was trained on. Exact as n grows if only the frequencies changed; classes that were
    never seen stay at 0. Saerens et al. (2002). The likelihood is concave, so its maximum is found
    by Newton steps, 50 times faster than by hundreds of EM's.

    >>> probs = np.array([[0.9, 0.1]] * 9 + [[0.1, 0.9]])
    >>> em_frequencies(probs, np.array([0.5, 0.5])).round(3).tolist()
    [1.0, 0.0]
    """
    probs = checked_probs(probs)
    inside = _checked_frequencies(frequencies, probs.shape[1])
    seen = inside > _LOWEST
    ratio = probs[:, seen] / inside[seen]
    ratio = ratio[ratio.sum(axis=1) > 0]  # a row of classes never seen tells nothing
    found = np.zeros(len(inside))
    found[seen] = _likeliest_mixture(ratio, inside[seen]) if len(ratio) else inside[seen]
    return found


def _likeliest_mixture(ratio: np.ndarray, start: np.ndarray) -> np.ndarray:
    """Weights >= 0, summing to 1, that maximise the mean log of `ratio @ weights`, (k,)."""
    from scipy.optimize import nnls

    def loss(weights: np.ndarray) -> float:
        # Less the sum: its maximum over all weights >= 0 then sums to 1 by itself.
        return float(weights.sum() - np.log(np.maximum(ratio @ weights, 1e-300)).mean())

    n, k = ratio.shape
    found = start / start.sum()
    for _ in range(MOST_STEPS):
        before = found
        # A step of EM never loses; alone it would need hundreds.
        found = found * (ratio / (ratio @ found)[:, None]).mean(axis=0)
        scaled = ratio / (ratio @ found)[:, None]
        slope = scaled.mean(axis=0)
        hessian = scaled.T @ scaled / n
        # The ridge, far below what shows, is for classes that are predicted alike.
        root = np.linalg.cholesky(hessian + 1e-12 * np.trace(hessian) * np.eye(k))
        step = nnls(root.T, np.linalg.solve(root, 2 * slope - 1))[0] - found
        length, reached, gain = 1.0, loss(found), float((slope - 1) @ step)
        while length > TOLERANCE and loss(found + length * step) > reached - 1e-4 * length * gain:
            length /= 2
        if length > TOLERANCE:
            found = found + length * step
        if float(np.abs(found - before).max()) < TOLERANCE:
            break
    return np.asarray(found / found.sum())


def bbse_frequencies(
    labels: np.ndarray, probs: np.ndarray, external_probs: np.ndarray
) -> np.ndarray:
    """Class frequencies of unlabelled rows, (k,), from how often each class is predicted.

    `labels` and `probs` are of held-out inside rows, which give the confusion matrix (soft: means
    of probabilities); it is solved for the frequencies under which the means of `external_probs`
    arise, in least squares with frequencies >= 0. Needs no calibrated probabilities. Raises
    `TrustqError` where the matrix cannot be solved, as when a class has no inside row. Lipton et
    al. (2018).

    >>> probs = np.array([[0.8, 0.2], [0.3, 0.7]])
    >>> bbse_frequencies(np.array([0, 1]), probs, probs[[0, 0, 0, 1]]).round(3).tolist()
    [0.75, 0.25]
    """
    from scipy.optimize import nnls

    probs, outside = checked_probs(probs), checked_probs(external_probs)
    labels = checked_labels(labels, *probs.shape, beside="probs")
    k = probs.shape[1]
    counts = np.bincount(labels, minlength=k)
    if outside.shape[1] != k or not counts.all():
        missing = ", ".join(map(str, np.flatnonzero(counts == 0)))
        raise InputError(
            f"The inside rows must have every class of the {k} and the outside probabilities "
            f"{k} columns; found no row of class {missing or 'none'} and {outside.shape[1]} "
            "columns."
        )
    predicted = np.stack([probs[labels == c].mean(axis=0) for c in range(k)], axis=1)
    if np.linalg.cond(predicted) > 1e8:
        raise InputError(
            "The confusion matrix has no inverse: two classes are predicted alike. Use EM."
        )
    found = nnls(predicted, outside.mean(axis=0))[0]
    return np.asarray(found / found.sum())


def corrected_probs(
    probs: np.ndarray, frequencies: np.ndarray, new_frequencies: np.ndarray
) -> np.ndarray:
    """Probabilities for data with other class frequencies, (n, k): each times new over old.

    A class that was never seen inside stays at 0.

    >>> corrected_probs(np.array([[0.5, 0.5]]), np.array([0.5, 0.5]), np.array([0.8, 0.2])).tolist()
    [[0.8, 0.2]]
    """
    probs = checked_probs(probs)
    old = _checked_frequencies(frequencies, probs.shape[1])
    new = _checked_frequencies(new_frequencies, probs.shape[1])
    ratio = np.where(old > _LOWEST, new / np.maximum(old, _LOWEST), 0.0)
    weighted = probs * ratio
    total = weighted.sum(axis=1, keepdims=True)
    # A row whose every class has vanished keeps its probabilities.
    return np.where(total > 0, weighted / np.maximum(total, 1e-300), probs)


def reweighted_figures(
    labels: np.ndarray, probs: np.ndarray, frequencies: np.ndarray
) -> ReweightedFigures:
    """Figures of external rows as if their classes were as frequent as inside.

    `labels` is (n,), `probs` (n, k), `frequencies` (k,). Every row counts as its class's wanted
    over its found share. The calibration error is that of rows drawn with these weights, 15 equal
    bins. Macro-averaged figures do not change under it and are not given.

    >>> probs = np.array([[0.9, 0.1], [0.8, 0.2], [0.6, 0.4]])
    >>> reweighted_figures(np.array([0, 0, 1]), probs, np.array([0.5, 0.5])).accuracy
    0.5
    """
    probs = checked_probs(probs)
    labels = checked_labels(labels, *probs.shape, beside="probs")
    wanted = _checked_frequencies(frequencies, probs.shape[1])
    found = np.bincount(labels, minlength=probs.shape[1]) / len(labels)
    weights = np.where(found > 0, wanted / np.where(found > 0, found, 1.0), 0.0)[labels]
    if not weights.sum() > 0:
        raise InputError("No row is of a class that is wanted, so none has a weight.")
    weights = weights / weights.sum()
    own = probs[np.arange(len(labels)), labels]
    squared = (probs**2).sum(axis=1) - 2 * own + 1
    return ReweightedFigures(
        accuracy=float(weights @ (probs.argmax(axis=1) == labels)),
        nll=float(weights @ -np.log(np.maximum(own, 1e-12))),
        brier=float(weights @ squared),
        ece=_weighted_ece(labels, probs, weights),
        absent=tuple(np.flatnonzero((wanted > 0) & (found == 0)).tolist()),
    )


def _weighted_ece(labels: np.ndarray, probs: np.ndarray, weights: np.ndarray) -> float:
    if np.allclose(weights, weights[0]):
        return expected_calibration_error(labels, probs)
    top = probs.max(axis=1)
    right = probs.argmax(axis=1) == labels
    gaps = np.bincount(equal_width_bins(top), weights=weights * (right - top))
    return float(np.abs(gaps).sum())


def _checked_frequencies(frequencies: np.ndarray, k: int) -> np.ndarray:
    found = np.asarray(frequencies, dtype=np.float64)
    if found.shape != (k,) or not (found >= 0).all() or abs(found.sum() - 1) > 1e-6:
        raise InputError(
            f"Class frequencies must be {k} numbers >= 0 that sum to 1; found {found.shape} that "
            f"sum to {found.sum():.6g}."
        )
    return found
