"""Confident learning (Northcutt et al. 2021): what the joint of given and true labels suspects.

The arithmetic is cleanlab's, number for number, without its imports and its processes.
"""

import numpy as np
import scipy

from trustq.core.rounding import steady
from trustq.errors import InputError
from trustq.metrics.confident_joint import (
    COMPARISON,
    class_thresholds,
    confident_class,
    confident_joint,
    whole_rows,
)

CLIP = 1e-6  # cleanlab's floor of divisors


def adjusted_probs(labels: np.ndarray, probs: np.ndarray) -> np.ndarray:
    """Probabilities less their class thresholds, shifted to be positive, rows summing to 1.

    What cleanlab calls `adjust_pred_probs`: a class that the model is seldom sure of is not
    suspected for that alone.

    >>> adjusted_probs(np.array([0, 1]), np.array([[0.9, 0.1], [0.5, 0.5]])).round(3).tolist()
    [[0.643, 0.357], [0.357, 0.643]]
    """
    thresholds = class_thresholds(labels, probs)
    adjusted = probs - thresholds + thresholds.max()
    return np.asarray(adjusted / adjusted.sum(axis=1, keepdims=True))


def noise_posterior(labels: np.ndarray, probs: np.ndarray) -> np.ndarray:
    """Probability that the given label is right, given the image and the label, (n,) in [0, 1].

    Bayes' rule over the true class y with the noise that the confident joint estimates: p(y | x)
    times p(given | y). Unlike p(given | x) alone it knows which mistakes are made, so a confusion
    that occurs all the time is suspected sooner. It takes the model's own errors for label errors:
    where the model is weak it promises too many wrong labels.

    >>> probs = np.array([[0.9, 0.1], [0.8, 0.2], [0.1, 0.9], [0.1, 0.9], [0.9, 0.1]])
    >>> noise_posterior(np.array([0, 0, 1, 1, 1]), probs).round(2).tolist()
    [1.0, 1.0, 0.96, 0.96, 0.25]
    """
    joint = confident_joint(labels, probs)
    given_of_true = joint / np.maximum(joint.sum(axis=0), 1)  # p(given | true), by [given, true]
    weights = probs * given_of_true[labels]
    total = weights.sum(axis=1)
    right = weights[np.arange(len(labels)), labels]
    # No class explains the row: what is left is the model's word.
    return np.where(
        total > 0, right / np.where(total > 0, total, 1), self_confidence(labels, probs)
    )


def estimated_joint(labels: np.ndarray, probs: np.ndarray) -> np.ndarray:
    """Shares of rows by given (row) and true class (column), (k, k), summing to 1.

    >>> probs = np.array([[0.9, 0.1], [0.8, 0.2], [0.1, 0.9], [0.1, 0.9], [0.9, 0.1]])
    >>> estimated_joint(np.array([0, 0, 1, 1, 1]), probs).tolist()
    [[0.4, 0.0], [0.2, 0.4]]
    """
    counts = confident_joint(labels, probs)
    return np.asarray(counts / counts.sum())


def estimated_noise_rate(labels: np.ndarray, probs: np.ndarray) -> float:
    """Share of given labels that the confident joint takes for wrong, in [0, 1].

    >>> probs = np.array([[0.9, 0.1], [0.8, 0.2], [0.1, 0.9], [0.1, 0.9], [0.9, 0.1]])
    >>> round(estimated_noise_rate(np.array([0, 0, 1, 1, 1]), probs), 3)
    0.2
    """
    return float(1 - estimated_joint(labels, probs).trace())


FILTERS = (
    "prune_by_class",
    "prune_by_noise_rate",
    "prune_by_both",
    "confident_learning",
    "predicted_neq_given",
    "low_self_confidence",
    "low_normalized_margin",
)


def find_label_issues(labels: np.ndarray, probs: np.ndarray, *, method: str) -> np.ndarray:
    """Rows whose label a filter takes for wrong, (n,) of bool.

    `method` is one of FILTERS, cleanlab's seven (its `both` is `prune_by_both`). Raises
    `TrustqError` for another.

    >>> probs = np.array([[0.9, 0.1], [0.8, 0.2], [0.1, 0.9], [0.1, 0.9], [0.9, 0.1]])
    >>> find_label_issues(np.array([0, 0, 1, 1, 1]), probs, method="prune_by_class").nonzero()[0]
    array([4])
    """
    if method not in FILTERS:
        raise InputError(
            f"Unknown filter {method!r}; there are {', '.join(FILTERS)}.",
            expected=FILTERS,
            found=method,
        )
    if method.startswith("low_"):
        lowest = _BY_NAME[method.removeprefix("low_")](labels, probs)
        issues = np.zeros(len(labels), dtype=bool)
        issues[np.argsort(lowest)[: int(_of_other_class(labels, probs).sum())]] = True
        return issues
    if method == "predicted_neq_given":
        issues = probs.argmax(axis=1) != labels
    elif method == "confident_learning":
        return _of_other_class(labels, probs)
    else:
        # Rows are true classes here, as in cleanlab's `prune_count_matrix`.
        counts = _keep_one_per_class(confident_joint(labels, probs).T)
        issues = np.ones(len(labels), dtype=bool)
        if method != "prune_by_noise_rate":
            issues &= _prune_by_class(labels, probs, counts)
        if method != "prune_by_class":
            issues &= _prune_by_noise_rate(labels, probs, counts)
    return np.asarray(issues & ~_nearly_predicted(labels, probs))


def self_confidence(labels: np.ndarray, probs: np.ndarray) -> np.ndarray:
    """Probability of the given label, (n,) in [0, 1]."""
    return np.asarray(probs[np.arange(len(labels)), labels])


def normalized_margin(labels: np.ndarray, probs: np.ndarray) -> np.ndarray:
    """(Probability of the given label - the highest of the others + 1) / 2, (n,) in [0, 1]."""
    others = probs.copy()
    others[np.arange(len(labels)), labels] = -np.inf
    return np.asarray((self_confidence(labels, probs) - others.max(axis=1) + 1) / 2)


def confidence_weighted_entropy(labels: np.ndarray, probs: np.ndarray) -> np.ndarray:
    """log(1 + x) / x of x = entropy / (log k * probability of the given label), (n,) in [0, 1].

    As in cleanlab a row without any entropy scores 0, though its label may be the predicted one.
    """
    entropy = -scipy.special.xlogy(probs, probs).sum(axis=1) / np.log(probs.shape[1])
    ratio = entropy / np.maximum(self_confidence(labels, probs), CLIP)
    return np.asarray(np.log(ratio + 1) / np.maximum(ratio, CLIP))


def mean_rank(labels: np.ndarray, probs: np.ndarray) -> np.ndarray:
    """Mean place of a label by three scores, as a share of the labels, (n,) in (0, 1].

    The scores are self-confidence, the normalised margin and the noise posterior: the third finds
    mistakes that have a pattern, the first is safe where the model is weak, and each keeps the
    others from their worst. It depends on the other labels, as every rank does.

    >>> probs = np.array([[0.9, 0.1], [0.8, 0.2], [0.1, 0.9], [0.2, 0.8], [0.9, 0.1]])
    >>> mean_rank(np.array([0, 0, 1, 1, 1]), probs).round(2).tolist()
    [0.9, 0.63, 0.8, 0.47, 0.2]
    """
    scores = (self_confidence, normalized_margin, noise_posterior)
    return np.asarray(np.mean([_ranks(score(labels, probs)) for score in scores], axis=0))


def _ranks(values: np.ndarray) -> np.ndarray:
    """Places from the lowest, as shares of n; equal values share their mean place."""
    _, place, counts = np.unique(steady(values), return_inverse=True, return_counts=True)
    return np.asarray((np.cumsum(counts) - (counts - 1) / 2)[place] / len(values))


_BY_NAME = {"self_confidence": self_confidence, "normalized_margin": normalized_margin}


def _of_other_class(labels: np.ndarray, probs: np.ndarray) -> np.ndarray:
    guess, confident = confident_class(labels, probs)
    return np.asarray(confident & (guess != labels) & ~_nearly_predicted(labels, probs))


def _nearly_predicted(labels: np.ndarray, probs: np.ndarray) -> np.ndarray:
    raised = probs.copy()
    raised[np.arange(len(labels)), labels] += COMPARISON
    return np.asarray(raised.argmax(axis=1) == labels)


def _keep_one_per_class(counts: np.ndarray) -> np.ndarray:
    """Counts to prune, (true, given), with at least one row of each class left on the diagonal."""
    diagonal = np.maximum(counts.diagonal(), 1)
    raised = diagonal - counts.diagonal()
    n_rates = np.maximum(np.count_nonzero(counts, axis=0) - 1.0, 1.0)
    kept = np.maximum(counts - raised / n_rates, 0)
    np.fill_diagonal(kept, diagonal)
    # cleanlab truncates before it rounds.
    return whole_rows(kept.astype(int))


def _prune_by_class(labels: np.ndarray, probs: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """The rows of each given class with the lowest probability of it."""
    issues = np.zeros(len(labels), dtype=bool)
    for c in range(probs.shape[1]):
        rows = np.flatnonzero(labels == c)
        n_issues = len(rows) - counts[c, c]
        if len(rows) > 1 and n_issues > 0:
            issues[rows[np.argsort(probs[rows, c])[:n_issues]]] = True
    return issues


def _prune_by_noise_rate(labels: np.ndarray, probs: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """For each pair of classes, the rows given the one that lean most towards the other."""
    issues = np.zeros(len(labels), dtype=bool)
    for c in range(probs.shape[1]):
        rows = np.flatnonzero(labels == c)
        if len(rows) <= 1:
            continue
        for other in np.flatnonzero(counts[:, c] > 0):
            if other != c:
                lean = probs[rows, other] - probs[rows, c]
                issues[rows[np.argsort(-lean)[: counts[other, c]]]] = True
    return issues
