"""Logits, log-probabilities and probabilities in float64, and the checks that every figure shares.

float32 softmax saturates: 2,469 of 10,000 confidences of one public file equal exactly 1.
"""

import numpy as np

from trustq.core.counts import counted
from trustq.errors import InputError

PROBABILITY_FLOOR = 1e-12  # below it a stored probability counts as this, so that logs are finite
NORMALIZATIONS = ("l1", "softmax")  # how rows that do not sum to 1 are made to
ROW_SUM_TOLERANCE = 1e-3  # ten classes stored with four decimals are off by up to 5e-4


def softmax(logits: np.ndarray) -> np.ndarray:
    """Probabilities of logits, in float64.

    `logits` is (n, k), finite, k >= 2; so is the result, whose rows sum to 1.

    >>> softmax(np.array([[0.0, 0.0], [0.0, np.log(3.0)]])).round(12)
    array([[0.5 , 0.5 ],
           [0.25, 0.75]])
    """
    return np.asarray(np.exp(log_softmax_of_rows(checked_logits(logits))))


def log_softmax(logits: np.ndarray) -> np.ndarray:
    """Log-probabilities of logits, in float64, exact near 0 as well as far below.

    `logits` is (n, k), finite, k >= 2. The largest entry of a row is -log1p(exp(-log-odds)), so
    that a probability of 1 - 1e-30 still differs from 1.

    >>> log_softmax(np.array([[80.0, 0.0]]))
    array([[-1.80485139e-35, -8.00000000e+01]])
    """
    return log_softmax_of_rows(checked_logits(logits))


def logits_from_probs(probs: np.ndarray) -> np.ndarray:
    """Logits whose softmax gives the stored probabilities back: log(clip(p, 1e-12)).

    `probs` is (n, k) with rows that sum to 1. What softmax rounded to 1 stays rounded: rank such
    rows by the stored probability, not by log-odds of these logits.

    >>> logits_from_probs(np.array([[1.0, 0.0]])).round(3)
    array([[  0.   , -27.631]])
    """
    return np.asarray(np.log(np.maximum(checked_probs(probs), PROBABILITY_FLOOR)))


def normalized(scores: np.ndarray, how: str) -> np.ndarray:
    """Rows of scores, (n, k), that sum to 1: divided by their sum (l1), or their softmax.

    Raises `TrustqError` for negative numbers or a row of zeros under l1.

    >>> normalized(np.array([[1.0, 3.0]]), "l1")
    array([[0.25, 0.75]])
    """
    scores = checked_logits(scores)
    if how == "softmax":
        return np.asarray(np.exp(log_softmax_of_rows(scores)))
    sums = scores.sum(axis=1, keepdims=True)
    if scores.min() < 0 or sums.min() <= 0:
        raise InputError("`normalize=l1` needs numbers >= 0 with a positive sum in every row.")
    return np.asarray(scores / sums)


def checked_logits(logits: np.ndarray, *, numbers: np.ndarray | None = None) -> np.ndarray:
    """`logits` as a float64 array (n, k), or a TrustqError, see `checked_probs`."""
    return _checked_rows(logits, "logits", numbers)


def checked_probs(probs: np.ndarray, *, numbers: np.ndarray | None = None) -> np.ndarray:
    """`probs` as a float64 array (n, k) in [0, 1] with rows that sum to 1, or a TrustqError.

    It calls a row by its number, (n,), such as that in a file; without `numbers` by its position.
    """
    probs = _checked_rows(probs, "probs", numbers)
    low, high = probs.min(), probs.max()
    if low < 0 or high > 1 + ROW_SUM_TOLERANCE:
        are_percents = low >= 0 and np.abs(probs.sum(axis=1) - 100).max() < 1
        way_out = (
            "divide percents by 100"
            if are_percents
            else ("pass probabilities, or pass these numbers as logits")
        )
        raise InputError(f"probs lies in [{low:g}, {high:g}], expected [0, 1]: {way_out}.")
    sums = probs.sum(axis=1)
    worst = int(np.argmax(np.abs(sums - 1)))
    if abs(sums[worst] - 1) > ROW_SUM_TOLERANCE:
        raise InputError(
            f"probs row {_number(worst, numbers)} sums to {sums[worst]:g}, expected 1: "
            "normalize the rows, or pass logits."
        )
    return probs


def checked_labels(labels: np.ndarray, n: int, k: int, *, beside: str) -> np.ndarray:
    """`labels` as class indices in [0, k) for the n rows of `beside`, or a TrustqError."""
    labels = checked_indices(labels, "labels")
    if len(labels) != n:
        raise InputError(
            f"labels has {counted(len(labels), 'row')} and {beside} has {n:,}: "
            "pass the same rows in the same order."
        )
    if labels.max() >= k:
        raise InputError(
            f"labels holds class {labels.max()}, but {beside} has columns for 0 to {k - 1}: "
            "give every class its column, in class order."
        )
    return labels


def checked_indices(indices: np.ndarray, name: str) -> np.ndarray:
    """A non-empty (n,) array of integers >= 0, or a TrustqError that calls it `name`."""
    indices = np.asarray(indices)
    if indices.ndim != 1:
        raise InputError(
            f"{name} has shape {indices.shape}, expected (n,): pass one class index per row.",
            where=name,
            found=indices.shape,
        )
    if len(indices) == 0:
        raise InputError(f"{name} is empty: pass at least one row.")
    if not np.issubdtype(indices.dtype, np.integer):
        raise InputError(
            f"{name} holds {indices.dtype}, expected integers: pass class indices, not names."
        )
    if indices.min() < 0:
        raise InputError(
            f"{name} holds {indices.min()}, expected class indices from 0: "
            "leave out the rows without a label."
        )
    return indices.astype(np.intp, copy=False)


def _checked_rows(rows: np.ndarray, name: str, numbers: np.ndarray | None) -> np.ndarray:
    rows = np.asarray(rows)
    if rows.ndim != 2 or rows.shape[1] < 2:
        raise InputError(
            f"{name} has shape {rows.shape}, expected (n, k) with k >= 2: "
            "pass one row per sample and one column per class.",
            where=name,
            found=rows.shape,
        )
    if len(rows) == 0:
        raise InputError(f"{name} is empty: pass at least one row.")
    try:
        rows = rows.astype(np.float64, copy=False)
    except (TypeError, ValueError) as error:
        raise InputError(f"{name} holds what is no number ({error}).") from error
    if not np.isfinite(rows).all():
        bad = np.flatnonzero(~np.isfinite(rows).all(axis=1))
        raise InputError(
            f"{name} has NaN or infinite values in {len(bad)} of {len(rows)} rows, first in row "
            f"{_number(bad[0], numbers)}: leave these rows out, or clip log-probabilities of zero."
        )
    return rows


def _number(row: int, numbers: np.ndarray | None) -> int:
    return int(row if numbers is None else numbers[row])


def log_softmax_of_rows(logits: np.ndarray) -> np.ndarray:
    """Log probabilities of checked float64 logits, (n, k), exact near 1."""
    # log(1 + others / top) through the log-odds, because 1 + 1e-20 is 1.
    minus_log_top = np.log1p(np.exp(-log_odds_of_rows(logits)))
    return np.asarray(logits - logits.max(axis=1, keepdims=True) - minus_log_top[:, None])


def log_odds_of_rows(logits: np.ndarray) -> np.ndarray:
    """log p_max - log(1 - p_max): the gap between the top logit and logsumexp of the others."""
    # Sorted first, so that the sum over the others does not depend on the order of the classes.
    ordered = np.sort(logits, axis=1)
    second = ordered[:, -2]
    others = np.exp(ordered[:, :-1] - second[:, None]).sum(axis=1)
    return np.asarray(ordered[:, -1] - second - np.log(others))
