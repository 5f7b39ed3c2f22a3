"""Figures of single classes and of positive sets, and operating points chosen on validation rows.

A positive set holds the classes that count as one, e.g. the malignant ones; its score is the sum of
their probabilities, never the largest probability of any class.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from trustq.core.class_names import ClassPosition, unknown_class
from trustq.core.counts import counted
from trustq.core.words import is_blank, rejoined
from trustq.errors import InputError
from trustq.metrics.classification import class_aurocs, confusion_counts
from trustq.metrics.probabilities import (
    checked_indices,
    checked_labels,
    checked_logits,
    checked_probs,
    log_softmax_of_rows,
)
from trustq.metrics.ranking import block_ends, falling_order
from trustq.statistics.intervals import grouped_share_interval
from trustq.statistics.paired import Interval

SENSITIVITIES = (0.99, 0.95, 0.90, 0.85, 0.80)


class ClassFigures(NamedTuple):
    """Figures of one class against the rest; NaN where they have no rows to be of."""

    label: int
    n: int  # rows of the class
    n_predicted: int
    recall: float
    recall_interval: Interval  # Wilson's, of as many rows as groups are worth
    precision: float
    precision_interval: Interval
    specificity: float
    f1: float
    auroc: float
    auprc: float


class MacroAuprc(NamedTuple):
    """Macro average precision, the number of classes averaged and those that could not be used."""

    value: float
    n_classes: int
    left_out: tuple[int, ...]


class OperatingPoint(NamedTuple):
    """A threshold chosen on validation rows for a target, and what it does on test rows.

    `threshold` is inf where no validation score meets the target: nothing is called positive.
    """

    target: float
    threshold: float
    sensitivity: float
    sensitivity_interval: Interval
    specificity: float
    specificity_interval: Interval
    n_positive: int
    n_negative: int


def class_figures(
    labels: np.ndarray, probs: np.ndarray, *, groups: np.ndarray | None = None
) -> list[ClassFigures]:
    """Recall, precision, specificity, F1, AUROC and average precision of every class.

    `labels` is (n,), `probs` (n, k); intervals take rows of one of the `groups`, (n,), for related,
    and without them rows for independent. All lie in [0, 1], higher is better; F1 is 0 for a class
    that is never hit and NaN for one that is neither true nor predicted.

    >>> probs = np.array([[0.9, 0.1], [0.4, 0.6], [0.3, 0.7]])
    >>> first, second = class_figures(np.array([0, 0, 1]), probs)
    >>> first.recall, first.precision, first.auroc, round(second.f1, 4)
    (0.5, 1.0, 1.0, 0.6667)
    """
    probs = checked_probs(probs)
    labels = checked_labels(labels, *probs.shape, beside="probs")
    n, k = probs.shape
    said = probs.argmax(axis=1)
    confusion = confusion_counts(labels, said, k)
    found = []
    for c in range(k):
        hits, of_class = int(confusion[c, c]), int(confusion[c].sum())
        predicted = int(confusion[:, c].sum())
        others = n - of_class
        right_others = others - (predicted - hits)
        auroc, auprc = _rank_figures(labels == c, probs[:, c])
        found.append(
            ClassFigures(
                label=c,
                n=of_class,
                n_predicted=predicted,
                recall=_share(hits, of_class),
                recall_interval=_interval(said == c, labels == c, groups),
                precision=_share(hits, predicted),
                precision_interval=_interval(labels == c, said == c, groups),
                specificity=_share(right_others, others),
                f1=_share(2 * hits, of_class + predicted),
                auroc=auroc,
                auprc=auprc,
            )
        )
    return found


def figures_by_class(labels: np.ndarray, logits: np.ndarray) -> dict[str, np.ndarray]:
    """Recall, precision, F1 and AUROC of every class, (k,) each, without intervals.

    `labels` is (n,), `logits` (n, k). As in `class_figures`, NaN included; but rows are ranked by
    log-probabilities, which do not saturate, so that the mean AUROC is that of `summarise`.

    >>> logits = np.array([[2.0, 0.0], [0.0, 1.0], [0.0, 3.0]])
    >>> figures = figures_by_class(np.array([0, 0, 1]), logits)
    >>> {name: of_class.round(4).tolist() for name, of_class in figures.items()}
    {'recall': [0.5, 1.0], 'precision': [1.0, 0.5], 'f1': [0.6667, 0.6667], 'auroc': [1.0, 1.0]}
    """
    logits = checked_logits(logits)
    labels = checked_labels(labels, *logits.shape, beside="logits")
    confusion = confusion_counts(labels, logits.argmax(axis=1), logits.shape[1])
    hits, of_class, predicted = confusion.diagonal(), confusion.sum(axis=1), confusion.sum(axis=0)
    with np.errstate(invalid="ignore"):  # 0 of 0 rows is NaN
        return {
            "recall": hits / of_class,
            "precision": hits / predicted,
            "f1": 2 * hits / (of_class + predicted),
            "auroc": class_aurocs(labels, log_softmax_of_rows(logits)),
        }


def macro_auprc(labels: np.ndarray, probs: np.ndarray) -> MacroAuprc:
    """Mean one-vs-rest average precision over the classes with both outcomes.

    `labels` is (n,), `probs` (n, k). Average precision is sum (R_i - R_{i-1}) P_i over distinct
    thresholds, without interpolation. Lies in [0, 1], higher is better; chance is a class's share.

    >>> probs = np.array([[0.8, 0.2, 0.0], [0.4, 0.6, 0.0], [0.6, 0.4, 0.0]])
    >>> macro_auprc(np.array([0, 1, 1]), probs)
    MacroAuprc(value=1.0, n_classes=2, left_out=(2,))
    """
    probs = checked_probs(probs)
    labels = checked_labels(labels, *probs.shape, beside="probs")
    return _mean_auprc([_rank_figures(labels == c, probs[:, c])[1] for c in range(probs.shape[1])])


def macro_auprc_of(rows: Sequence[ClassFigures]) -> MacroAuprc:
    """`macro_auprc` of figures of every class that are there already.

    >>> rows = class_figures(np.array([0, 1]), np.array([[0.9, 0.1], [0.2, 0.8]]))
    >>> macro_auprc_of(rows).value
    1.0
    """
    return _mean_auprc([row.auprc for row in rows])


def _mean_auprc(of_classes: Sequence[float]) -> MacroAuprc:
    areas = np.array(of_classes)
    used = ~np.isnan(areas)
    value = float(areas[used].mean()) if used.any() else math.nan
    return MacroAuprc(value, int(used.sum()), tuple(np.flatnonzero(~used).tolist()))


def positive_score(probs: np.ndarray, positive: Sequence[int]) -> np.ndarray:
    """Probability of a set of classes: the sum over the set, (n,).

    >>> positive_score(np.array([[0.2, 0.3, 0.5]]), [0, 2]).tolist()
    [0.7]
    """
    probs = checked_probs(probs)
    return np.asarray(probs[:, _checked_set(positive, probs.shape[1])].sum(axis=1))


def sensitivity_at_specificity(
    positive: np.ndarray,
    score: np.ndarray,
    *,
    validation_positive: np.ndarray,
    validation_score: np.ndarray,
    specificity: float = 0.95,
    groups: np.ndarray | None = None,
) -> OperatingPoint:
    """Sens@95Spec: the threshold is from validation rows, sensitivity and specificity from test.

    The threshold is the smallest validation score with specificity >= .95 on validation rows; a row
    is positive when score >= threshold. The realised specificity on test rows is another one, and
    is reported. `groups`, (n,), are of the test rows: their rows count as related in intervals.
    Errors: validation rows without a negative, rows without both outcomes.

    >>> positive_rows, score = np.array([0, 0, 1, 1]), np.array([0.1, 0.6, 0.4, 0.9])
    >>> point = sensitivity_at_specificity(
    ...     positive_rows, score, validation_positive=positive_rows, validation_score=score
    ... )
    >>> point.threshold, point.sensitivity, point.specificity
    (0.9, 0.5, 1.0)
    """
    truth, score = _checked_binary(positive, score, "positive")
    on, by = _checked_binary(validation_positive, validation_score, "validation_positive")
    _check_target(specificity)
    negatives = np.sort(by[~on])
    candidates = np.unique(by)
    reached = negatives.searchsorted(candidates, "left") / len(negatives)
    passing = candidates[reached >= specificity - 1e-12]
    return point_at(specificity, passing[0] if len(passing) else math.inf, truth, score, groups)


def operating_points(
    positive: np.ndarray,
    score: np.ndarray,
    *,
    validation_positive: np.ndarray,
    validation_score: np.ndarray,
    sensitivities: Sequence[float] = SENSITIVITIES,
    groups: np.ndarray | None = None,
) -> list[OperatingPoint]:
    """For each sensitivity wanted, the largest validation score that reaches it, applied to test.

    A row is positive when score >= threshold. Sensitivity on test rows will differ from the target.

    >>> rows, score = np.array([0, 1, 0, 1]), np.array([0.1, 0.4, 0.6, 0.9])
    >>> for point in operating_points(
    ...     rows, score, validation_positive=rows, validation_score=score, sensitivities=(1, 0.5)
    ... ):
    ...     print(point.threshold, point.sensitivity, point.specificity)
    0.4 1.0 0.5
    0.9 0.5 1.0
    """
    truth, score = _checked_binary(positive, score, "positive")
    on, by = _checked_binary(validation_positive, validation_score, "validation_positive")
    falling = np.sort(by[on])[::-1]
    points = []
    for target in sensitivities:
        _check_target(target)
        needed = max(1, math.ceil(target * len(falling) - 1e-9))
        points.append(point_at(target, falling[needed - 1], truth, score, groups))
    return points


def class_positions(classes: Sequence[str], wanted: Sequence[str]) -> tuple[int, ...]:
    """Positions of classes by name, see `ClassPosition`; raises `TrustqError` for one of no class.

    >>> class_positions(("mel", "nv"), ["NV"])
    (1,)
    """
    find = ClassPosition(classes)
    if any(find(name) is None for name in wanted):
        wanted = rejoined(wanted, classes)  # names that hold a comma
    places = [find(name) for name in wanted]
    strange = [name for name, place in zip(wanted, places, strict=True) if place is None]
    if strange:
        raise InputError(f"{unknown_class(strange[0], classes)}.", expected=classes)
    return tuple(place for place in places if place is not None)


class OddsGaps(NamedTuple):
    """Largest less smallest of each figure over groups, the largest gap, and the groups' figures.

    `by_group` maps a group to (n_positive, n_negative, sensitivity, specificity, f1); `left_out`
    names groups with too few rows of either outcome and the unknown one, which enter no gap.
    """

    sensitivity: float
    specificity: float
    f1: float
    largest: float
    by_group: dict[str, tuple[int, int, float, float, float]]
    left_out: tuple[str, ...]


def equalised_odds_gaps(
    positive: np.ndarray, predicted_positive: np.ndarray, groups: np.ndarray, *, min_rows: int = 1
) -> OddsGaps:
    """How far sensitivity, specificity and F1 for a positive set differ between groups.

    `positive` and `predicted_positive` are (n,) flags, `groups` (n,) names; a blank is "unknown",
    which is shown and stays out of the gaps, as does a group with fewer than `min_rows` positive or
    negative rows. Gaps lie in [0, 1], lower is fairer; NaN with fewer than two groups. Small groups
    make large gaps by chance: see `trustq.evaluation.fairness.gap_intervals`. Hardt et al. (2016).

    >>> gaps = equalised_odds_gaps(
    ...     np.array([1, 0, 1, 0]), np.array([1, 0, 0, 0]), np.array(["f", "f", "m", "m"])
    ... )
    >>> gaps.sensitivity, gaps.specificity, gaps.largest
    (1.0, 0.0, 1.0)
    """
    truth = np.asarray(positive).astype(bool)
    called = np.asarray(predicted_positive).astype(bool)
    groups = np.ma.asarray(groups)  # a masked value is a blank
    if truth.ndim != 1 or not truth.shape == called.shape == groups.shape or not len(truth):
        raise InputError(
            f"positive has shape {truth.shape}, predicted_positive {called.shape} and groups "
            f"{groups.shape}: pass the same rows in the same order.",
            where="positive",
            found=truth.shape,
        )
    names = np.array([slice_name(group) for group in groups.tolist()])
    by_group, left_out = {}, []
    for name in sorted(set(names.tolist())):
        own, said = truth[names == name], called[names == name]
        hits, n_positive = int((own & said).sum()), int(own.sum())
        n_negative = len(own) - n_positive
        by_group[name] = (
            n_positive,
            n_negative,
            _share(hits, n_positive),
            _share(int((~own & ~said).sum()), n_negative),
            _share(2 * hits, n_positive + int(said.sum())),
        )
        if name == UNKNOWN or min(n_positive, n_negative) < max(min_rows, 1):
            left_out.append(name)
    compared = np.array([row[2:] for name, row in by_group.items() if name not in left_out])
    gaps = np.ptp(compared, axis=0) if len(compared) > 1 else np.full(3, np.nan)
    sensitivity, specificity, f1 = map(float, gaps)
    return OddsGaps(sensitivity, specificity, f1, float(gaps.max()), by_group, tuple(left_out))


UNKNOWN = "unknown"  # a slice of its own that enters no gap


def slice_name(value: object) -> str:
    """A value as the name of its slice; blanks of any kind are "unknown".

    >>> [slice_name(value) for value in ("f", None, float("nan"), "", "Unknown", 3)]
    ['f', 'unknown', 'unknown', 'unknown', 'unknown', '3']
    """
    return UNKNOWN if is_blank(value) else str(value).strip()


def _rank_figures(truth: np.ndarray, score: np.ndarray) -> tuple[float, float]:
    """AUROC, ties at one half, and average precision; NaN without both outcomes."""
    n_positive = int(truth.sum())
    n_negative = len(truth) - n_positive
    if not n_positive or not n_negative:
        return math.nan, math.nan
    score = np.ascontiguousarray(score)
    order = falling_order(score)
    called = block_ends(score[order])
    hits = np.cumsum(truth[order])[called - 1]
    recall, precision = hits / n_positive, hits / called
    alarms = (called - hits) / n_negative
    steps = np.diff(recall, prepend=0.0)
    areas = np.diff(alarms, prepend=0.0) * (recall - steps / 2)
    return float(areas.sum()), float((steps * precision).sum())


def _interval(hits: np.ndarray, among: np.ndarray, groups: np.ndarray | None) -> Interval:
    """Interval of the share of hits among some rows."""
    return grouped_share_interval(hits[among], None if groups is None else groups[among])


def point_at(
    target: float,
    threshold: float,
    truth: np.ndarray,
    score: np.ndarray,
    groups: np.ndarray | None,
) -> OperatingPoint:
    """What a threshold does on rows that are checked: called positive where score >= threshold."""
    called = score >= threshold
    hits, n_positive = int((truth & called).sum()), int(truth.sum())
    right, n_negative = int((~truth & ~called).sum()), int((~truth).sum())
    return OperatingPoint(
        target=float(target),
        threshold=float(threshold),
        sensitivity=_share(hits, n_positive),
        sensitivity_interval=_interval(called, truth, groups),
        specificity=_share(right, n_negative),
        specificity_interval=_interval(~called, ~truth, groups),
        n_positive=n_positive,
        n_negative=n_negative,
    )


def _share(part: int, whole: int) -> float:
    return part / whole if whole else math.nan


def _checked_binary(
    truth: np.ndarray, score: np.ndarray, name: str
) -> tuple[np.ndarray, np.ndarray]:
    truth, score = np.asarray(truth), np.asarray(score, dtype=np.float64)
    if truth.ndim != 1 or truth.shape != score.shape:
        raise InputError(
            f"{name} has shape {truth.shape} and its score {score.shape}: "
            "pass the same rows in the same order.",
            where=name,
            found=truth.shape,
        )
    if np.isnan(score).any():
        raise InputError(f"The score of {name} is NaN in {counted(np.isnan(score).sum(), 'row')}.")
    truth = truth.astype(bool)
    if truth.all() or not truth.any():
        raise InputError(
            f"{name} is {'always' if truth.any() else 'never'} true in "
            f"{counted(len(truth), 'row')}: sensitivity and specificity need both outcomes."
        )
    return truth, score


def _checked_set(positive: Sequence[int], k: int) -> np.ndarray:
    classes = np.unique(checked_indices(np.asarray(positive, dtype=int), "positive"))
    if classes[-1] >= k or len(classes) == k:
        raise InputError(
            f"positive is {', '.join(map(str, classes))} of {k} classes: "
            "pass some of the classes, and not all."
        )
    return classes


def _check_target(target: float) -> None:
    if not 0 < target <= 1:
        raise InputError(f"The target is {target}, expected a share above 0 and at most 1.")
