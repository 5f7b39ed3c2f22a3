"""Influence of each row on each figure, from which intervals follow without resampling.

The influence of a row is the derivative of a figure by the row's weight, times n: the infinitesimal
jackknife (Jaeckel 1972; Efron 1981). Sums over groups of rows give the variance of the figure over
other groups. All are exact for the definitions of `trustq.metrics`, ties included, and take one
sort of the rows.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from trustq.metrics.classification import ECE_BINS
from trustq.metrics.ranking import FEW_ROWS, falling_order

# Figures that average classes, so that a class of few rows decides how sure they are.
MACRO = ("macro_f1", "balanced_accuracy", "macro_auroc", "macro_auprc")
RANKED = ("macro_auroc", "macro_auprc")  # of them, those by the ranking of rows
SHARES = ("accuracy", *MACRO)  # in [0, 1], 1 is perfect
FEW = 10  # rows of a class below which nothing about it is well known
BLOCK = 1 << 18  # rows of classes ranked at once: what a cache holds


@dataclass(frozen=True)
class Influence:
    """A figure, the influence of every row (n,), and what rare classes add.

    Of macro figures `own` is the part of the influence through the row's own class, and `concealed`
    how much the figure moves with the recall of each class that is hit always or never, whose rows
    therefore show no spread; 0 of other classes.
    """

    value: float
    rows: np.ndarray
    own: np.ndarray | None = None
    concealed: np.ndarray | None = None


class Ranking:
    """Rows by falling score: how much lies above each, ties at one half or as a block.

    `scores` is (n,), or (c, n) for rankings of the same rows side by side.
    """

    def __init__(self, scores: np.ndarray) -> None:
        n, shape = scores.shape[-1], scores.shape
        # Places in the flat array: one take for all rankings, far faster than by an axis.
        self._row = np.arange(int(np.prod(shape[:-1]))).reshape(*shape[:-1], 1)
        if n > FEW_ROWS:
            order = np.stack([falling_order(row) for row in scores.reshape(-1, n)]).reshape(shape)
        else:  # of many short rankings at once, one call
            order = np.argsort(-scores, axis=-1, kind="stable")
        self._order = order + n * self._row
        ranked = scores.take(self._order)
        is_new = ranked[..., 1:] != ranked[..., :-1]
        places = np.zeros(shape, dtype=np.intp)
        np.multiply(is_new, np.arange(1, n), out=places[..., 1:])
        self.start = self._of_rows(np.maximum.accumulate(places, axis=-1))
        places = np.full(shape, n)
        np.putmask(places[..., :-1], is_new, np.broadcast_to(np.arange(1, n), is_new.shape))
        self.end = self._of_rows(np.minimum.accumulate(places[..., ::-1], axis=-1)[..., ::-1])

    def above(self, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Sums of weights strictly above each row, and above it with its ties."""
        width = weights.shape[-1] + 1
        sums = np.zeros((*weights.shape[:-1], width))
        np.cumsum(weights.take(self._order), axis=-1, out=sums[..., 1:])
        return sums.take(self.start + width * self._row), sums.take(self.end + width * self._row)

    def _of_rows(self, ranked: np.ndarray) -> np.ndarray:
        found = np.empty_like(ranked)
        found.reshape(-1)[self._order] = ranked
        return found


def influences(
    labels: np.ndarray,
    *,
    predicted: np.ndarray,
    probs: np.ndarray,
    log_prob: np.ndarray,
    class_scores: np.ndarray,
    rank_by: np.ndarray,
    names: Sequence[str],
    of_truth: bool,
) -> dict[str, Influence]:
    """Figures and influences of one set of predictions; `ece` is not among them.

    Labels and predictions are (n,) of class indices; `probs` and `class_scores` (n, k);
    `log_prob` of the label and `rank_by` (n,), what ranks rows for AURC and AUGRC. Classes are
    those in truth or prediction for macro-F1, with `of_truth` and for the other averages those in
    the truth.
    """
    wrong = predicted != labels
    makers: dict[str, Callable[[], Influence]] = {
        "accuracy": lambda: _mean(~wrong),
        "nll": lambda: _mean(np.abs(log_prob)),
        "brier": lambda: _mean(_squared_residuals(labels, probs)),
        "macro_f1": lambda: _macro_f1(labels, predicted, probs.shape[1], of_truth),
        "balanced_accuracy": lambda: _balanced_accuracy(labels, predicted, probs.shape[1]),
    }
    scores = {"macro_auroc": class_scores, "macro_auprc": probs}
    over_classes = _over_classes(labels, {name: scores[name] for name in names if name in scores})
    if {"aurc", "augrc"} & set(names):
        ranking = Ranking(rank_by)
        makers["aurc"] = lambda: _aurc(wrong, ranking)
        makers["augrc"] = lambda: _augrc(wrong, ranking)
    return {
        name: over_classes[name] if name in over_classes else makers[name]()
        for name in names
        if name != "ece"
    }


def calibration_residuals(
    right: np.ndarray, confidence: np.ndarray, codes: np.ndarray, n_groups: int
) -> np.ndarray:
    """Sums of right - confidence over n, by group and bin of equal width, (groups, bins)."""
    bins = (np.arange(1, ECE_BINS) / ECE_BINS).searchsorted(confidence, "left")
    cells = np.bincount(
        codes * ECE_BINS + bins, weights=right - confidence, minlength=n_groups * ECE_BINS
    )
    return cells.reshape(n_groups, ECE_BINS) / len(right)


def _mean(rows: np.ndarray) -> Influence:
    value = float(rows.mean())
    return Influence(value, rows - value)


def _squared_residuals(labels: np.ndarray, probs: np.ndarray) -> np.ndarray:
    residuals = probs.copy()
    residuals[np.arange(len(labels)), labels] -= 1
    squared: np.ndarray = np.einsum("ij,ij->i", residuals, residuals)
    return squared


def _macro_f1(labels: np.ndarray, predicted: np.ndarray, k: int, of_truth: bool) -> Influence:
    of_label, of_prediction = (np.bincount(x, minlength=k) for x in (labels, predicted))
    hit = labels == predicted
    hits = np.bincount(labels[hit], minlength=k)
    both = of_label + of_prediction
    present = (of_label if of_truth else both) > 0
    scores = 2 * hits / np.maximum(both, 1)
    scale = present * len(labels) / (np.maximum(both, 1) * present.sum())
    own = (2 * hit - scores[labels] * (1 + hit)) * scale[labels]
    rest = np.where(hit, 0.0, -scores[predicted] * scale[predicted])
    # A miss costs its class, and the class that it is taken for as much.
    slope = present * 2 * of_label / (np.maximum(both, 1) * present.sum())
    concealed = np.where((hits == 0) | (hits == of_label), slope, 0.0)
    return Influence(float(scores[present].mean()), own + rest, own, concealed)


def _balanced_accuracy(labels: np.ndarray, predicted: np.ndarray, k: int) -> Influence:
    of_label = np.bincount(labels, minlength=k)
    hit = labels == predicted
    hits = np.bincount(labels[hit], minlength=k)
    present = of_label > 0
    recall = hits / np.maximum(of_label, 1)
    own = (hit - recall[labels]) * len(labels) / (of_label[labels] * present.sum())
    concealed = present * ((hits == 0) | (hits == of_label)) / present.sum()
    return Influence(float(recall[present].mean()), own, own, concealed)


def _over_classes(labels: np.ndarray, scores: dict[str, np.ndarray]) -> dict[str, Influence]:
    """Averages over the classes with both outcomes, by name, of scores (n, k) each."""
    if not scores:
        return {}
    figures = {"macro_auroc": _auroc, "macro_auprc": _average_precision}
    n, k = next(iter(scores.values())).shape
    of_label = np.bincount(labels, minlength=k)
    used = np.flatnonzero((of_label > 0) & (of_label < n))
    values: dict[str, list[float]] = {name: [] for name in scores}
    sums = {name: (np.zeros(n), np.zeros(n)) for name in scores}
    width = max(1, BLOCK // n)
    for start in range(0, len(used), width):
        block = used[start : start + width]
        positive = labels == block[:, None]
        ranked: dict[int, Ranking] = {}  # by the array: both averages may rank the same one
        for name, given in scores.items():
            if id(given) not in ranked:
                ranked[id(given)] = Ranking(np.ascontiguousarray(given[:, block].T))
            found, rows = figures[name](positive, ranked[id(given)])
            values[name] += found
            total, own = sums[name]
            for mask, influence in zip(positive, rows, strict=True):
                total += influence / len(used)
                own[mask] = influence[mask] / len(used)
    return {
        name: Influence(
            float(np.mean(values[name])) if len(used) else np.nan, *sums[name], np.zeros(k)
        )
        for name in scores
    }


def _auroc(positive: np.ndarray, ranking: Ranking) -> tuple[list[float], np.ndarray]:
    """One-vs-rest AUROC of (c, n) and its placement values. DeLong et al. (1988)."""
    n, m = positive.shape[1], positive.sum(axis=1, keepdims=True)
    above, with_ties = ranking.above(positive.astype(float))
    positives_above = (above + with_ties) / (2 * m)
    above, with_ties = ranking.above((~positive).astype(float))
    negatives_below = 1 - (above + with_ties) / (2 * (n - m))
    values = _means(negatives_below, positive)
    value = np.array(values)[:, None]
    rows = np.where(positive, (negatives_below - value) / m, (positives_above - value) / (n - m))
    return values, rows * n


def _average_precision(positive: np.ndarray, ranking: Ranking) -> tuple[list[float], np.ndarray]:
    n, m = positive.shape[1], positive.sum(axis=1, keepdims=True)
    hits = ranking.above(positive.astype(float))[1]
    precision = hits / ranking.end
    values = _means(precision, positive)
    # A row counts in the precision of every positive that it does not lie below.
    parts = positive / ranking.end, positive * precision / ranking.end
    gained, lost = (part.sum(axis=1, keepdims=True) - ranking.above(part)[0] for part in parts)
    rows = np.where(positive, precision - np.array(values)[:, None] + gained, 0.0) - lost
    return values, rows * n / m


def _means(figures: np.ndarray, positive: np.ndarray) -> list[float]:
    return [float(own[mask].mean()) for own, mask in zip(figures, positive, strict=True)]


def _augrc(wrong: np.ndarray, ranking: Ranking) -> Influence:
    n = len(wrong)
    below = n - (ranking.start + ranking.end) / 2
    above, with_ties = ranking.above(wrong.astype(float))
    value = float((wrong * below).sum() / n**2)
    return Influence(value, (wrong * below + (above + with_ties) / 2) / n - 2 * value)


def _aurc(wrong: np.ndarray, ranking: Ranking) -> Influence:
    n = len(wrong)
    harmonic = np.append(0.0, np.cumsum(1 / np.arange(1, n + 1)))
    summed = np.append(0.0, np.cumsum(harmonic))
    start, end = ranking.start, ranking.end
    passed = harmonic[n] - (summed[end] - summed[start]) / (end - start)
    value = float((wrong * passed).sum() / n)
    # One more row above a wrong one lowers its part by 1 / position.
    at = wrong * (harmonic[end] - harmonic[start]) / (end - start)
    above, with_ties = ranking.above(at)
    below = at.sum() - (above + with_ties) / 2
    rows = wrong * passed + wrong.sum() / n - below
    return Influence(value, rows - rows.mean())
