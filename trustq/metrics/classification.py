"""Class, probability and calibration figures of one set of predictions, and all of them at once."""

from typing import Literal, NamedTuple

import numpy as np

from trustq.core.counts import counted
from trustq.errors import InputError
from trustq.metrics import selective
from trustq.metrics.probabilities import (
    PROBABILITY_FLOOR,
    checked_indices,
    checked_labels,
    checked_logits,
    checked_probs,
    log_odds_of_rows,
)

ECE_BINS = 15  # of equal width, (lo, hi]: the convention of Guo et al. (2017)
CONFIDENCE_THRESHOLD = 0.5  # of coverage_at_0_5 and risk_at_0_5, as in the seed tables


class Summary(NamedTuple):
    """All figures of one set of predictions.

    `ranking` names the confidence by which the selective figures order rows; `left_out` the
    classes that macro_auroc cannot use, for lack of both outcomes.
    """

    figures: dict[str, float]
    ranking: Literal["log_odds", "probability"]
    left_out: tuple[int, ...]


def summarise(
    labels: np.ndarray, *, logits: np.ndarray | None = None, probs: np.ndarray | None = None
) -> Summary:
    """Every figure of one set of predictions, sharing the sorting and the softmax.

    `labels` is (n,); give either `logits`, (n, k), log-probabilities included, or, when only those
    were stored, `probs`, (n, k). Logits are ranked by log-odds (`log_odds`), which do not saturate,
    and their NLL is not clipped; probabilities by their stored maximum (`probability`). The figures
    are accuracy, balanced_accuracy, macro_f1, macro_auroc, nll, brier, ece, aurc, e_aurc, augrc,
    coverage_at_0_5 and risk_at_0_5, as the functions of those names define them. NaN: macro_auroc
    where all labels are one class, risk_at_0_5 where no confidence reaches one half.

    >>> logits = np.array([[2.0, 0.0], [0.0, 1.0], [3.0, 0.0], [0.5, 0.0]])
    >>> summary = summarise(np.array([0, 1, 0, 1]), logits=logits)
    >>> summary.figures["accuracy"], summary.figures["augrc"], summary.ranking
    (0.75, 0.03125, 'log_odds')
    """
    if logits is not None and probs is None:
        logits = checked_logits(logits)
        return _summarise_logits(checked_labels(labels, *logits.shape, beside="logits"), logits)
    if probs is not None and logits is None:
        probs = checked_probs(probs)
        return _summarise_probs(checked_labels(labels, *probs.shape, beside="probs"), probs)
    raise InputError(
        f"summarise was given {'neither' if logits is None else 'both'} of logits and probs: "
        "pass logits, or probs where no logits were stored."
    )


def accuracy(labels: np.ndarray, predicted: np.ndarray) -> float:
    """Share of rows whose predicted class is the label.

    Both are (n,) of class indices. Lies in [0, 1], higher is better.

    >>> accuracy(np.array([0, 1, 1, 1]), np.array([0, 1, 1, 0]))
    0.75
    """
    return _accuracy(_checked_confusion(labels, predicted))


def balanced_accuracy(labels: np.ndarray, predicted: np.ndarray) -> float:
    """Mean recall over the classes present in the labels.

    Both are (n,) of class indices. Lies in [0, 1], higher is better.

    >>> balanced_accuracy(np.array([0, 1, 1, 1, 1]), np.array([0, 1, 1, 0, 0]))
    0.75
    """
    return _balanced_accuracy(_checked_confusion(labels, predicted))


def macro_f1(labels: np.ndarray, predicted: np.ndarray) -> float:
    """Mean F1 over the classes present in labels or predictions; 0 where a class is never hit.

    Both are (n,) of class indices. Lies in [0, 1], higher is better.

    >>> round(macro_f1(np.array([0, 0, 1, 2]), np.array([0, 0, 1, 1])), 4)
    0.5556
    """
    return _macro_f1(_checked_confusion(labels, predicted))


class MacroAuroc(NamedTuple):
    """Macro-AUROC, the number of classes that it averages and the classes that it could not use."""

    value: float
    n_classes: int
    left_out: tuple[int, ...]


def macro_auroc(labels: np.ndarray, probs: np.ndarray) -> MacroAuroc:
    """Mean one-vs-rest AUROC over the classes with both outcomes, ties at one half.

    `labels` is (n,); `probs`, (n, k). The value lies in [0, 1], higher is better, and is NaN when
    all labels are one class. Classes without both outcomes are named in `left_out`.

    >>> probs = np.array([[0.8, 0.2, 0.0], [0.4, 0.6, 0.0], [0.6, 0.4, 0.0]])
    >>> macro_auroc(np.array([0, 1, 1]), probs)
    MacroAuroc(value=1.0, n_classes=2, left_out=(2,))
    """
    probs = checked_probs(probs)
    return _macro_auroc(checked_labels(labels, *probs.shape, beside="probs"), probs)


def nll(labels: np.ndarray, probs: np.ndarray) -> float:
    """Mean negative log-likelihood of the labels, in nats, also called log loss.

    `labels` is (n,); `probs`, (n, k), is clipped at 1e-12. Lies in [0, 27.64], lower is better.

    >>> round(nll(np.array([0, 1]), np.array([[0.5, 0.5], [0.0, 1.0]])), 6)
    0.346574
    """
    probs = checked_probs(probs)
    labels = checked_labels(labels, *probs.shape, beside="probs")
    return _nll(np.log(_clipped_at_label(labels, probs)))


def brier_score(labels: np.ndarray, probs: np.ndarray) -> float:
    """Mean squared distance between probabilities and one-hot labels.

    `labels` is (n,) of class indices; rows of `probs`, (n, k), sum to 1.
    Lies in [0, 2], lower is better; twice scikit-learn's binary score. Brier (1950).

    >>> brier_score(np.array([0, 1]), np.array([[1.0, 0.0], [0.5, 0.5]]))
    0.25
    """
    probs = checked_probs(probs)
    return _brier_score(checked_labels(labels, *probs.shape, beside="probs"), probs)


def expected_calibration_error(labels: np.ndarray, probs: np.ndarray) -> float:
    """Mean gap between top-label confidence and accuracy, weighted over 15 bins of equal width.

    `labels` is (n,); `probs`, (n, k). Bins are (lo, hi], L1; 0 falls in the first, 1 in the last.
    Lies in [0, 1], lower is better. Naeini et al. (2015), bins of Guo et al. (2017).

    >>> round(expected_calibration_error(np.array([0, 1]), np.array([[0.9, 0.1], [0.9, 0.1]])), 6)
    0.4
    """
    probs = checked_probs(probs)
    labels = checked_labels(labels, *probs.shape, beside="probs")
    return _expected_calibration_error(probs.argmax(axis=1) == labels, probs.max(axis=1))


def _summarise_logits(labels: np.ndarray, logits: np.ndarray) -> Summary:
    log_odds = log_odds_of_rows(logits)
    # `trustq.metrics.probabilities`' log-softmax, written out because the log-odds are at hand.
    log_probs = logits - logits.max(axis=1, keepdims=True)
    log_probs -= np.log1p(np.exp(-log_odds))[:, None]
    return _summarise(
        labels,
        predicted=logits.argmax(axis=1),
        probs=np.exp(log_probs),
        log_prob_of_label=log_probs[np.arange(len(labels)), labels],
        # Ranks a class's rows as probabilities do, and tells 1 - 1e-20 from 1.
        class_scores=log_probs,
        confidence=1 / (1 + np.exp(-log_odds)),
        rank_by=log_odds,
        ranking="log_odds",
    )


def _summarise_probs(labels: np.ndarray, probs: np.ndarray) -> Summary:
    confidence = probs.max(axis=1)
    return _summarise(
        labels,
        predicted=probs.argmax(axis=1),
        probs=probs,
        log_prob_of_label=np.log(_clipped_at_label(labels, probs)),
        class_scores=probs,
        confidence=confidence,
        rank_by=confidence,
        ranking="probability",
    )


def _summarise(
    labels: np.ndarray,
    *,
    predicted: np.ndarray,
    probs: np.ndarray,
    log_prob_of_label: np.ndarray,
    class_scores: np.ndarray,
    confidence: np.ndarray,
    rank_by: np.ndarray,
    ranking: Literal["log_odds", "probability"],
) -> Summary:
    wrong = predicted != labels
    confusion = confusion_counts(labels, predicted, probs.shape[1])
    auroc = _macro_auroc(labels, class_scores)
    steps = selective.risk_steps(wrong, rank_by)
    area = selective.aurc_of_steps(steps)
    kept = confidence >= CONFIDENCE_THRESHOLD
    figures = {
        "accuracy": _accuracy(confusion),
        "balanced_accuracy": _balanced_accuracy(confusion),
        "macro_f1": _macro_f1(confusion),
        "macro_auroc": auroc.value,
        "nll": _nll(log_prob_of_label),
        "brier": _brier_score(labels, probs),
        "ece": _expected_calibration_error(~wrong, confidence),
        "aurc": area,
        "e_aurc": area - selective.oracle_aurc_of_steps(steps),
        "augrc": selective.augrc_of_steps(steps),
        "coverage_at_0_5": float(kept.mean()),
        "risk_at_0_5": selective.risk_of(wrong, kept),
    }
    return Summary(figures, ranking, auroc.left_out)


def _checked_confusion(labels: np.ndarray, predicted: np.ndarray) -> np.ndarray:
    labels, predicted = checked_indices(labels, "labels"), checked_indices(predicted, "predicted")
    if len(labels) != len(predicted):
        raise InputError(
            f"labels has {counted(len(labels), 'row')} and predicted has {len(predicted)}: "
            "pass the same rows in the same order."
        )
    # Only the classes that occur: an index of a million must not make a square of it.
    classes, codes = np.unique(np.concatenate([labels, predicted]), return_inverse=True)
    return confusion_counts(codes[: len(labels)], codes[len(labels) :], len(classes))


def confusion_counts(labels: np.ndarray, predicted: np.ndarray, k: int) -> np.ndarray:
    """Counts (k, k): row the label, column the prediction."""
    return np.bincount(labels * k + predicted, minlength=k * k).reshape(k, k)


def _accuracy(confusion: np.ndarray) -> float:
    return float(np.trace(confusion) / confusion.sum())


def _balanced_accuracy(confusion: np.ndarray) -> float:
    of_class = confusion.sum(axis=1)
    present = of_class > 0
    return float((confusion.diagonal()[present] / of_class[present]).mean())


def _macro_f1(confusion: np.ndarray) -> float:
    both = confusion.sum(axis=0) + confusion.sum(axis=1)
    present = both > 0
    return float((2 * confusion.diagonal()[present] / both[present]).mean())


def _macro_auroc(labels: np.ndarray, scores: np.ndarray) -> MacroAuroc:
    areas = class_aurocs(labels, scores)
    unusable = np.isnan(areas)
    left_out = tuple(np.flatnonzero(unusable).tolist())
    if unusable.all():
        return MacroAuroc(float("nan"), 0, left_out)
    used = areas[~unusable]
    return MacroAuroc(float(np.mean(used)), len(used), left_out)


def class_aurocs(labels: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """AUROC of each class against the rest, (k,); NaN for a class without both outcomes."""
    n, k = scores.shape
    of_class = np.bincount(labels, minlength=k)
    areas = np.full(k, np.nan)
    used = np.flatnonzero((of_class > 0) & (of_class < n))
    if len(used) == 0:
        return areas
    columns = np.sort(np.ascontiguousarray(scores.T), axis=1)
    for c in used:
        # Mann-Whitney: twice the rank (ties share the middle one) of each row of the class. Only
        # those rows are looked up, n in all over the classes, which beats ranking every column; in
        # rising order, so that of a million rows neighbours in memory are looked up together.
        own = scores[labels == c, c]
        own.sort()
        twice_ranks = columns[c].searchsorted(own, "left") + columns[c].searchsorted(own, "right")
        m = len(own)
        # Looked-up positions count the class's own rows too: m^2 of the doubled pairs.
        areas[c] = (int(twice_ranks.sum()) - m * m) / (2 * m * (n - m))
    return areas


def _clipped_at_label(labels: np.ndarray, probs: np.ndarray) -> np.ndarray:
    return np.asarray(np.maximum(probs[np.arange(len(labels)), labels], PROBABILITY_FLOOR))


def _nll(log_prob_of_label: np.ndarray) -> float:
    # Not -mean, which is -0.0 for a perfect prediction.
    return float(np.abs(log_prob_of_label.mean()))


def _brier_score(labels: np.ndarray, probs: np.ndarray) -> float:
    residuals = probs.copy()
    residuals[np.arange(len(labels)), labels] -= 1
    return float(np.vdot(residuals, residuals) / len(labels))


def _expected_calibration_error(right: np.ndarray, confidence: np.ndarray) -> float:
    inner_edges = np.arange(1, ECE_BINS) / ECE_BINS
    bins = inner_edges.searchsorted(confidence, "left")
    gaps = np.bincount(bins, weights=right - confidence, minlength=ECE_BINS)
    return float(np.abs(gaps).sum() / len(confidence))
