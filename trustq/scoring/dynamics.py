"""Scores of training dynamics: what a network said of a label while it learned it.

They look at logits of several moments, (e, n, k): the epochs of one training, or heads along a path
of penalties. Such logits are in-sample where the network or head was trained on these labels: a
label that is wrong is learned late, by what it shares with no others.
"""

from collections.abc import Callable

import numpy as np
import scipy

from trustq.errors import InputError


def dynamics_quality(labels: np.ndarray, logits: np.ndarray, *, score: str) -> np.ndarray:
    """Quality of each label, (n,) in [0, 1], lower is more suspicious, over moments of training.

    `labels` is (n,), `logits` (e, n, k); a moment that did not see a row is NaN and left out, and a
    row that none saw has no score (NaN). `aum`: mean margin of the label's logit over the highest
    other one (Pleiss et al. 2020), squeezed into [0, 1]; `mean_margin` and `mean_self_confidence`:
    the same of probabilities, and the mean probability of the label; `forgetting`: moments after
    which a label that was predicted no longer is (Toneva et al. 2019), never predicted being the
    most. Raises `TrustqError` for another score.

    >>> logits = np.array([[[2.0, 0.0], [0.0, 1.0]], [[3.0, 0.0], [0.0, 2.0]]])
    >>> dynamics_quality(np.array([0, 0]), logits, score="aum").round(2).tolist()
    [0.86, 0.2]
    """
    if score not in DYNAMICS:
        raise InputError(
            f"unknown score of training dynamics {score!r}; expected {', '.join(DYNAMICS)}.",
            expected=tuple(DYNAMICS),
            found=score,
        )
    return DYNAMICS[score](labels, logits)


def _aum(labels: np.ndarray, logits: np.ndarray) -> np.ndarray:
    margin = _mean(lambda own: _margin(labels, own), logits)
    # In the order of the margins, however large they are: a sigmoid would make ties of them.
    return np.asarray((1 + margin / (1 + np.abs(margin))) / 2)


def _mean_margin(labels: np.ndarray, logits: np.ndarray) -> np.ndarray:
    return (1 + _mean(lambda own: _margin(labels, scipy.special.softmax(own, axis=1)), logits)) / 2


def _mean_self_confidence(labels: np.ndarray, logits: np.ndarray) -> np.ndarray:
    rows = np.arange(len(labels))
    return _mean(lambda own: scipy.special.softmax(own, axis=1)[rows, labels], logits)


def _forgetting(labels: np.ndarray, logits: np.ndarray) -> np.ndarray:
    n = len(labels)
    before, forgotten = np.zeros(n, dtype=bool), np.zeros(n)
    ever, seen = np.zeros(n, dtype=bool), np.zeros(n)
    for own in logits:
        known = ~np.isnan(own).any(axis=1)
        right = known & (np.where(np.isnan(own), -np.inf, own).argmax(axis=1) == labels)
        forgotten += known & before & ~right
        before = np.where(known, right, before)
        ever |= right
        seen += known
    events = np.where(ever, forgotten, seen)
    return np.asarray(np.where(seen > 0, 1 - events / np.maximum(seen, 1), np.nan))


DYNAMICS: dict[str, Callable[[np.ndarray, np.ndarray], np.ndarray]] = {
    "aum": _aum,
    "mean_margin": _mean_margin,
    "mean_self_confidence": _mean_self_confidence,
    "forgetting": _forgetting,
}


def _margin(labels: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Value of the label less the highest other one, (n,)."""
    rows = np.arange(len(labels))
    others = values.copy()
    others[rows, labels] = -np.inf
    return np.asarray(values[rows, labels] - others.max(axis=1))


def _mean(of: Callable[[np.ndarray], np.ndarray], logits: np.ndarray) -> np.ndarray:
    """Mean over the moments that saw a row, one at a time, so that memory holds one of them."""
    total, n_seen = np.zeros(logits.shape[1]), np.zeros(logits.shape[1])
    for own in logits:
        values = of(np.asarray(own, dtype=np.float64))
        known = ~np.isnan(values)
        total[known] += values[known]
        n_seen += known
    return np.asarray(np.where(n_seen > 0, total / np.maximum(n_seen, 1), np.nan))
