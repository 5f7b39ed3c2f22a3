"""Operating points without a validation split, threshold sweeps, top-k and groups of people."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from trustq.errors import InputError
from trustq.metrics.classification import class_aurocs
from trustq.metrics.per_class import (
    SENSITIVITIES,
    OperatingPoint,
    operating_points,
    point_at,
    positive_score,
    sensitivity_at_specificity,
)
from trustq.metrics.probabilities import checked_labels, checked_probs

SWEEP = (0.1, 0.2, 0.3, 0.4, 0.5)  # thresholds on the positive probability
TOP_K = (1, 2, 3, 5)
FEWEST_ROWS = 2  # a group of one row is no group


def crossfitted_points(
    positive: np.ndarray,
    score: np.ndarray,
    *,
    fold: np.ndarray,
    groups: np.ndarray | None = None,
    specificity: float = 0.95,
    sensitivities: Sequence[float] = SENSITIVITIES,
) -> list[OperatingPoint]:
    """Sens@95Spec and the points of `sensitivities`, each row by the threshold of the other folds.

    `positive`, `score` and `fold` are (n,); the folds keep groups whole. `threshold` of a point is
    the mean over folds of those that are finite. Errors: other folds without both outcomes.

    >>> rows, score = np.tile([0, 1], 10), np.arange(20) / 20
    >>> points = crossfitted_points(rows, score, fold=np.arange(20) % 4)
    >>> len(points), points[0].n_positive
    (6, 10)
    """
    truth, score = np.asarray(positive).astype(bool), np.asarray(score, dtype=np.float64)
    fold = np.asarray(fold)
    if not truth.shape == score.shape == fold.shape or truth.ndim != 1:
        raise InputError(
            f"positive has shape {truth.shape}, score {score.shape} and fold {fold.shape}: "
            "pass the same rows in the same order."
        )
    targets = (specificity, *sensitivities)
    thresholds = np.empty((len(targets), len(score)))
    for held in np.unique(fold):
        own, others = fold == held, fold != held
        on: dict[str, Any] = {
            "validation_positive": truth[others],
            "validation_score": score[others],
        }
        first = sensitivity_at_specificity(
            truth[others], score[others], specificity=specificity, **on
        )
        points = operating_points(truth[others], score[others], sensitivities=sensitivities, **on)
        for place, point in enumerate((first, *points)):
            thresholds[place, own] = point.threshold
    found = []
    for target, own in zip(targets, thresholds, strict=True):
        finite = own[np.isfinite(own)]
        shown = float(finite.mean()) if len(finite) else math.inf
        # Shifted by its own threshold, a row is called where its score is 0 or more.
        point = point_at(target, 0.0, truth, score - own, groups)
        found.append(point._replace(threshold=shown))
    return found


def threshold_sweep(
    positive: np.ndarray,
    score: np.ndarray,
    groups: np.ndarray | None = None,
    *,
    thresholds: Sequence[float] = SWEEP,
) -> list[OperatingPoint]:
    """Sensitivity and specificity at fixed thresholds, which nothing was fitted for.

    `positive` and `score` are (n,); a row is called where score >= threshold.

    >>> points = threshold_sweep(np.array([0, 1]), np.array([0.2, 0.4]), thresholds=(0.1, 0.3))
    >>> [(point.sensitivity, point.specificity) for point in points]
    [(1.0, 0.0), (1.0, 1.0)]
    """
    truth, score = np.asarray(positive).astype(bool), np.asarray(score, dtype=np.float64)
    return [point_at(t, t, truth, score, groups) for t in thresholds]


def top_k_accuracies(
    labels: np.ndarray, probs: np.ndarray, *, ks: Sequence[int] = TOP_K
) -> dict[str, float]:
    """Share of rows whose label is among the k most probable classes, for every k below all.

    `labels` is (n,), `probs` (n, k). Of equal probabilities the earlier class comes first. Lies in
    [0, 1], higher is better.

    >>> top_k_accuracies(np.array([0, 1, 2]), np.array([[0.5, 0.3, 0.2]] * 3))
    {'top_1': 0.3333333333333333, 'top_2': 0.6666666666666666}
    """
    probs = checked_probs(probs)
    labels = checked_labels(labels, *probs.shape, beside="probs")
    own = probs[np.arange(len(labels)), labels]
    rank = np.zeros(len(labels), dtype=np.intp)  # classes that come before the label
    for c, column in enumerate(probs.T):
        rank += np.where(c < labels, column >= own, column > own)
    return {f"top_{k}": float((rank < k).mean()) for k in ks if k < probs.shape[1]}


def group_table(
    labels: np.ndarray,
    probs: np.ndarray,
    names: np.ndarray,
    *,
    order: Sequence[str],
    positive: Sequence[int] = (),
) -> list[dict[str, Any]]:
    """One row a group of people: n, accuracy, balanced accuracy, and the odds of the positive set.

    `labels` and `names` are (n,), `probs` (n, k). With `positive` classes also sensitivity,
    specificity, precision and F1 of the predicted class and AUROC of the summed probability. Groups
    of one row are left out; NaN where a figure has no rows to be of.

    >>> probs = np.array([[0.9, 0.1], [0.2, 0.8], [0.6, 0.4], [0.7, 0.3]])
    >>> rows = group_table(
    ...     np.array([0, 1, 1, 0]), probs, np.array(["f", "f", "m", "m"]), order=["f", "m"],
    ...     positive=[1],
    ... )
    >>> [(row["group"], row["n"], row["accuracy"], row["sensitivity"]) for row in rows]
    [('f', 2, 1.0, 1.0), ('m', 2, 0.5, 0.0)]
    """
    probs = checked_probs(probs)
    labels = checked_labels(labels, *probs.shape, beside="probs")
    said = probs.argmax(axis=1)
    truth, called = np.isin(labels, positive), np.isin(said, positive)
    score = positive_score(probs, positive) if len(positive) else None
    found = []
    for name in order:
        own = np.asarray(names) == name
        if int(own.sum()) < FEWEST_ROWS:
            continue
        present = np.unique(labels[own])
        row: dict[str, Any] = {
            "group": str(name),
            "n": int(own.sum()),
            "accuracy": float((said == labels)[own].mean()),
            "balanced_accuracy": float(
                np.mean([(said == c)[own & (labels == c)].mean() for c in present])
            ),
        }
        if score is not None:
            hits, n_positive = int((truth & called & own).sum()), int((truth & own).sum())
            n_called = int((called & own).sum())
            pair = np.column_stack([-score[own], score[own]])
            row |= {
                "n_positive": n_positive,
                "sensitivity": _share(hits, n_positive),
                "specificity": _share(
                    int((~truth & ~called & own).sum()), int((~truth & own).sum())
                ),
                "precision": _share(hits, n_called),
                "f1": _share(2 * hits, n_positive + n_called),
                "auroc": float(class_aurocs(truth[own].astype(np.intp), pair)[1]),
            }
        found.append(row)
    return found


def _share(part: int, whole: int) -> float:
    return part / whole if whole else math.nan
