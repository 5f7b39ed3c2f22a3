"""Confidence scores: how sure a prediction is, from logits, probabilities or features.

Every score is (n,), higher is surer, and serves as `confidence` in `trustq.metrics.selective`.
"""

import numpy as np

from trustq.core.counts import counted
from trustq.errors import InputError
from trustq.metrics.probabilities import (
    checked_indices,
    checked_logits,
    checked_probs,
    log_odds_of_rows,
    log_softmax_of_rows,
)

SMALLEST_SPREAD = 1e-9  # variance of a feature direction, relative to the largest
BLOCK = 1 << 24  # distances held at once: 128 MiB


def confidence_scores(
    *, logits: np.ndarray | None = None, probs: np.ndarray | None = None
) -> dict[str, np.ndarray]:
    """Every confidence score of one set of predictions, by name.

    Give `logits` or `probs`, (n, k). Both: `max_probability` in [1/k, 1], `margin` (first less
    second probability) in [0, 1], `negative_entropy` in [-log k, 0]. Logits also: `log_odds`, which
    orders as max_probability but does not saturate, `energy` (logsumexp; Liu et al. 2020) and
    `max_logit` (Hendrycks et al. 2022), which a shift of a row's logits changes.

    >>> scores = confidence_scores(logits=np.array([[2.0, 0.0], [0.0, 0.0]]))
    >>> {name: score.round(3).tolist() for name, score in scores.items() if name != "margin"}
    ... # doctest: +NORMALIZE_WHITESPACE
    {'max_probability': [0.881, 0.5], 'negative_entropy': [-0.365, -0.693],
     'log_odds': [2.0, 0.0], 'energy': [2.127, 0.693], 'max_logit': [2.0, 0.0]}
    """
    if (logits is None) == (probs is None):
        raise InputError("Pass either logits or probs, and not both.")
    if logits is None:
        assert probs is not None
        return _of_probs(checked_probs(probs))
    logits = checked_logits(logits)
    log_probs, highest = log_softmax_of_rows(logits), logits.max(axis=1)
    return _of_probs(np.exp(log_probs)) | {
        "log_odds": log_odds_of_rows(logits),
        "energy": highest - log_probs.max(axis=1),
        "max_logit": highest,
    }


def knn_confidence(
    features: np.ndarray,
    reference: np.ndarray,
    *,
    k: int = 10,
    groups: np.ndarray | None = None,
    reference_groups: np.ndarray | None = None,
) -> np.ndarray:
    """Negative distance to the k-th nearest of the reference rows, in normalized feature space.

    `features` is (n, d), `reference` (m, d), as a rule training rows; both are scaled to length 1.
    Neighbours of the same group do not count where both groups are given. Lies in [-2, 0]. Errors:
    fewer than k other rows for some row. Sun et al. (2022).

    >>> reference = np.array([[1.0, 0.0], [0.8, 0.6], [0.0, 1.0]])
    >>> knn_confidence(np.array([[1.0, 0.0], [-1.0, 0.0]]), reference, k=1).round(3).tolist()
    [-0.0, -1.414]
    """
    features, reference = _checked_features(features, reference)
    m = len(reference)
    if (groups is None) != (reference_groups is None):
        raise InputError("groups and reference_groups go together: pass both or neither.")
    if not 1 <= k <= m:
        raise InputError(
            f"k is {k} and there are {m} reference rows: pass k from 1 to {m}.", where="k", found=k
        )
    ours, theirs = _unit_length(features), _unit_length(reference)
    found = np.empty(len(ours))
    width = max(1, BLOCK // m)
    for start in range(0, len(ours), width):
        rows = slice(start, start + width)
        squared = np.maximum(2 - 2 * (ours[rows] @ theirs.T), 0.0)
        if groups is not None:
            same = np.asarray(groups)[rows, None] == np.asarray(reference_groups)[None]
            squared[same] = np.inf
        found[rows] = np.sqrt(np.partition(squared, k - 1, axis=1)[:, k - 1])
    lonely = np.flatnonzero(np.isinf(found))
    if len(lonely):
        raise InputError(
            f"{len(lonely)} of {len(found)} rows have fewer than {k} neighbours of other groups, "
            f"first row {lonely[0]}: pass a smaller k or more reference rows."
        )
    return -found


def mahalanobis_confidence(
    features: np.ndarray, reference: np.ndarray, reference_labels: np.ndarray
) -> np.ndarray:
    """Negative squared Mahalanobis distance to the nearest class mean of the reference rows.

    `features` is (n, d), `reference` (m, d), `reference_labels` (m,). Classes share one covariance,
    shrunk as by Ledoit and Wolf (2004) so that it can be inverted with few rows. Lies in (-inf, 0].
    Lee et al. (2018).

    >>> reference = np.array([[0.0, 1.0], [1.0, 0.0], [5.0, 6.0], [6.0, 5.0]])
    >>> scores = mahalanobis_confidence(
    ...     np.array([[0.5, 0.5], [3.0, 3.0]]), reference, np.array([0, 0, 1, 1])
    ... )
    >>> bool(scores[0] > scores[1])
    True
    """
    return MeanDistance(reference, reference_labels).confidence(features)


class MeanDistance:
    """The fitted part of `mahalanobis_confidence`, for several sets of rows of one reference.

    >>> reference = np.array([[0.0, 1.0], [1.0, 0.0], [5.0, 6.0], [6.0, 5.0]])
    >>> fitted = MeanDistance(reference, np.array([0, 0, 1, 1]))
    >>> fitted.confidence(np.array([[0.5, 0.5]])).round(3).tolist()
    [-0.0]
    """

    def __init__(self, reference: np.ndarray, reference_labels: np.ndarray) -> None:
        from sklearn.covariance import LedoitWolf

        reference, _ = _checked_features(reference, reference)
        labels = checked_indices(reference_labels, "reference_labels")
        if len(labels) != len(reference):
            raise InputError(
                f"reference_labels has {counted(len(labels), 'row')} and reference has "
                f"{len(reference)}: pass the same rows in the same order."
            )
        classes, codes = np.unique(labels, return_inverse=True)
        means = np.stack([reference[codes == c].mean(axis=0) for c in range(len(classes))])
        centred = reference - means[codes]
        if not centred.any():
            raise InputError(
                "Every reference row equals its class mean, so there is no covariance: "
                "pass more rows per class."
            )
        covariance = LedoitWolf(assume_centered=True).fit(centred).covariance_
        variances, axes = np.linalg.eigh(covariance)
        # The shrinkage may come out as 0; a direction without any spread must not count as
        # infinite.
        self._whitening = axes / np.sqrt(np.maximum(variances, SMALLEST_SPREAD * variances[-1]))
        self._means = means
        self._reference = reference

    def confidence(self, features: np.ndarray) -> np.ndarray:
        """Negative squared distance of each row of (n, d) to the nearest class mean."""
        features, _ = _checked_features(features, self._reference)
        ours, theirs = features @ self._whitening, self._means @ self._whitening
        nearest = np.full(len(ours), np.inf)
        for mean in theirs:
            nearest = np.minimum(nearest, ((ours - mean) ** 2).sum(axis=1))
        return -nearest


def _of_probs(probs: np.ndarray) -> dict[str, np.ndarray]:
    ordered = np.partition(probs, -2, axis=1)
    # 0 log 0 is 0.
    logs = np.log(np.where(probs > 0, probs, 1.0))
    return {
        "max_probability": ordered[:, -1],
        "margin": ordered[:, -1] - ordered[:, -2],
        "negative_entropy": (probs * logs).sum(axis=1),
    }


def _checked_features(features: np.ndarray, reference: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    checked = []
    for rows, name in ((features, "features"), (reference, "reference")):
        rows = np.asarray(rows)
        if rows.ndim != 2 or not rows.size:
            raise InputError(
                f"{name} has shape {rows.shape}, expected (n, d): pass one row per sample.",
                where=name,
                found=rows.shape,
            )
        rows = rows.astype(np.float64, copy=False)
        if not np.isfinite(rows).all():
            raise InputError(f"{name} has NaN or infinite values: leave these rows out.")
        checked.append(rows)
    if checked[0].shape[1] != checked[1].shape[1]:
        raise InputError(
            f"features has {checked[0].shape[1]} columns and reference {checked[1].shape[1]}: "
            "pass features of the same network."
        )
    return checked[0], checked[1]


def _unit_length(rows: np.ndarray) -> np.ndarray:
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    return rows / np.where(lengths > 0, lengths, 1.0)
