"""Bootstrap of every figure over groups of rows: intervals, paired differences, crossed seeds.

A group (lesion, patient) is what was drawn independently, so whole groups are resampled, and the
same draw serves every arm. All figures are functions of sums over rows: a replicate is one product
of a sparse matrix (sums x groups) with how often each group was drawn. AURC and AUGRC need one
sort, and then only how many rows precede each wrong one.
"""

import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from scipy import sparse, stats

from trustq.errors import TrustqError
from trustq.metrics import ECE_BINS
from trustq.probabilities import (
    PROBABILITY_FLOOR,
    _log_odds,
    _log_softmax,
    checked_labels,
    checked_logits,
    checked_probs,
)
from trustq.seeds import generator
from trustq.selective import _checked
from trustq.stats import Interval, _check_level, _check_replicates

FIGURES = ("accuracy", "macro_f1", "nll", "brier", "ece", "aurc", "augrc")
REPLICATES = 10_000
BLOCK = 1 << 20  # counts held at once: 8 MiB, whatever the number of replicates
METHODS = ("percentile", "bca")


class Estimate(NamedTuple):
    """A figure with the bounds of its bootstrap interval."""

    value: float
    lower: float
    upper: float


class Comparison(NamedTuple):
    """A figure of two arms and their difference, a minus b, with the bounds of its interval."""

    a: float
    b: float
    difference: float
    lower: float
    upper: float


def selective_replicates(
    wrong: np.ndarray,
    confidence: np.ndarray,
    *,
    seed: int,
    groups: np.ndarray | None = None,
    replicates: int = REPLICATES,
) -> tuple[np.ndarray, np.ndarray]:
    """AURC and AUGRC of resampled rows, (replicates,) each, exact with ties.

    `wrong` and `confidence` are (n,), or (a, n) for several arms on the same rows, which then
    share every draw and give (a, replicates). `groups`, (n,), are resampled whole; without them
    every row is its own. Errors as for `aurc`. Efron and Tibshirani (1993).

    >>> areas = selective_replicates(np.array([1, 0, 0]), np.arange(3), seed=0, replicates=4)
    >>> [area.shape for area in areas]
    [(4,), (4,)]
    """
    _check_replicates(replicates)
    wrong, confidence = np.asarray(wrong), np.asarray(confidence)
    if wrong.shape != confidence.shape or wrong.ndim not in (1, 2):
        raise TrustqError(
            f"wrong has shape {wrong.shape} and confidence {confidence.shape}: "
            "pass the same rows in the same order."
        )
    single = wrong.ndim == 1
    pairs = [(wrong, confidence)] if single else list(zip(wrong, confidence, strict=True))
    if not pairs:
        raise TrustqError("wrong has no arms: pass at least one row of (a, n).")
    checked = [_checked(*pair) for pair in pairs]
    n = len(checked[0][0])
    codes, n_groups = _codes(groups, n)
    arms: list[_Sums] = [_Areas(*pair, codes, n_groups) for pair in checked]
    drawn = _resample(arms, n_groups, seed, replicates)
    areas = np.moveaxis(drawn, 2, 0)  # (figure, arm, replicate)
    return (areas[0, 0], areas[1, 0]) if single else (areas[0], areas[1])


def figure_intervals(
    labels: np.ndarray,
    *,
    logits: np.ndarray | None = None,
    probs: np.ndarray | None = None,
    seed: int,
    groups: np.ndarray | None = None,
    figures: Sequence[str] = FIGURES,
    level: float = 0.95,
    replicates: int = REPLICATES,
    method: str = "percentile",
) -> dict[str, Estimate]:
    """Figures of one set of predictions with bootstrap intervals over groups of rows.

    `labels` is (n,); `logits` or `probs`, (n, k); `groups`, (n,), are resampled whole. Figures are
    those of `FIGURES`, defined as in `summarise`, but macro_f1 averages the classes present in the
    labels, in every replicate. `method` is percentile or bca (Efron 1987, jackknife over groups).
    NaN bounds for a single group.

    >>> probs = np.array([[0.9, 0.1], [0.2, 0.8], [0.6, 0.4], [0.7, 0.3]])
    >>> found = figure_intervals(np.array([0, 1, 1, 0]), probs=probs, seed=0, figures=("accuracy",))
    >>> found["accuracy"]
    Estimate(value=0.75, lower=0.25, upper=1.0)
    """
    _check_options(figures, level, replicates, method)
    labels, logits, probs = _checked_predictions(labels, logits, probs)
    codes, n_groups = _codes(groups, len(labels))
    arm = _Arm(labels, logits, probs, codes, n_groups, figures)
    values, bounds = _intervals([arm], np.ones((1, 1)), n_groups, seed, replicates, level, method)
    return {name: Estimate(float(values[0, j]), *bounds[j]) for j, name in enumerate(figures)}


def compare_figures(
    labels: np.ndarray,
    a: np.ndarray,
    b: np.ndarray,
    *,
    kind: str = "probs",
    seed: int,
    groups: np.ndarray | None = None,
    figures: Sequence[str] = FIGURES,
    level: float = 0.95,
    replicates: int = REPLICATES,
    method: str = "percentile",
) -> dict[str, Comparison]:
    """Figures of two arms on the same rows, with paired bootstrap intervals of their difference.

    `a` and `b` are (n, k) probabilities, or logits with `kind="logits"`; groups are resampled
    whole, the same draw for both. Otherwise as `figure_intervals`.

    >>> labels = np.array([0, 1, 1, 0])
    >>> a = np.array([[0.9, 0.1], [0.2, 0.8], [0.4, 0.6], [0.7, 0.3]])
    >>> b = np.array([[0.9, 0.1], [0.2, 0.8], [0.6, 0.4], [0.4, 0.6]])
    >>> compare_figures(labels, a, b, seed=0, figures=("accuracy",))["accuracy"]
    Comparison(a=1.0, b=0.5, difference=0.5, lower=0.0, upper=1.0)
    """
    return crossed_figures(
        labels,
        np.asarray(a)[None],
        np.asarray(b)[None],
        kind=kind,
        seed=seed,
        groups=groups,
        figures=figures,
        level=level,
        replicates=replicates,
        method=method,
    )


def crossed_figures(
    labels: np.ndarray,
    a: np.ndarray,
    b: np.ndarray,
    *,
    kind: str = "probs",
    seed: int,
    groups: np.ndarray | None = None,
    figures: Sequence[str] = FIGURES,
    level: float = 0.95,
    replicates: int = REPLICATES,
    method: str = "percentile",
) -> dict[str, Comparison]:
    """Mean figures of two arms over seeds, with crossed seeds x groups intervals of the difference.

    `a` and `b` are (s, n, k): the predictions of s paired trainings on the same rows. A replicate
    draws seeds and groups independently, the same groups for every seed; redrawing groups for each
    seed averages example noise away. With one seed this is the paired group bootstrap; with two to
    four the interval is too narrow, for so few seeds hardly show their spread. bca needs one seed.
    Owen (2007). Otherwise as `compare_figures`.

    >>> labels = np.array([0, 1, 1, 0])
    >>> a = np.array([[[0.9, 0.1], [0.2, 0.8], [0.4, 0.6], [0.7, 0.3]]] * 3)
    >>> b = np.array([[[0.9, 0.1], [0.2, 0.8], [0.6, 0.4], [0.4, 0.6]]] * 3)
    >>> crossed_figures(labels, a, b, seed=0, figures=("accuracy",))["accuracy"].difference
    0.5
    """
    _check_options(figures, level, replicates, method)
    if kind not in ("probs", "logits"):
        raise TrustqError(f"kind is {kind!r}: expected probs or logits.")
    a, b = np.asarray(a), np.asarray(b)
    if a.ndim != 3 or a.shape != b.shape or not len(a):
        raise TrustqError(
            f"a has shape {a.shape} and b {b.shape}: "
            "pass the same seeds, rows and classes in the same order."
        )
    n_seeds = len(a)
    if method == "bca" and n_seeds > 1:
        raise TrustqError(
            f"bca was asked for with {n_seeds} seeds: it is defined for one resampled unit, "
            "so pass method='percentile'."
        )
    codes, n_groups = _codes(groups, a.shape[1])
    arms: list[_Sums] = []
    for one in (*a, *b):
        own_labels, logits, probs = _checked_predictions(labels, **{kind: one})
        arms.append(_Arm(own_labels, logits, probs, codes, n_groups, figures))
    contrast = np.concatenate([np.ones(n_seeds), -np.ones(n_seeds)])[None] / n_seeds
    values, bounds = _intervals(
        arms, contrast, n_groups, seed, replicates, level, method, n_seeds=n_seeds
    )
    of_a, of_b = values[:n_seeds].mean(axis=0), values[n_seeds:].mean(axis=0)
    return {
        name: Comparison(float(of_a[j]), float(of_b[j]), float(of_a[j] - of_b[j]), *bounds[j])
        for j, name in enumerate(figures)
    }


class _Sums:
    """What is summed over rows, as a sparse matrix (sums, groups), and the figures of the sums."""

    matrix: sparse.csr_matrix
    n_figures: int

    def figures(self, sums: np.ndarray) -> np.ndarray:
        """Figures (n_figures, b) of sums (sums, b), one column per draw of groups."""
        raise NotImplementedError


class _Areas(_Sums):
    """AURC and AUGRC: a wrong row at position p of N adds (H_N - H_{p-1})/N and (N - p + .5)/N^2.

    So rows count only as cells: blocks of equal confidence that hold a wrong row, and the runs of
    right rows between them. Inside a block its wrong rows lie anywhere with equal chance, which
    averages the two terms over the block's positions.
    """

    n_figures = 2

    def __init__(
        self, wrong: np.ndarray, confidence: np.ndarray, codes: np.ndarray, n_groups: int
    ) -> None:
        order = np.argsort(-confidence, kind="stable")
        confidence, wrong, group = confidence[order], wrong[order], codes[order]
        block = np.append(0, np.cumsum(confidence[1:] != confidence[:-1]))
        has_wrong = np.bincount(block, weights=wrong) > 0
        # A new cell starts at a block with wrong rows and after one; other blocks join.
        starts = has_wrong | np.append(True, has_wrong[:-1])
        cell_of_block = np.cumsum(starts) - 1
        cell = cell_of_block[block]
        self.n_cells = int(cell_of_block[-1]) + 1
        self.wrong_cells = cell_of_block[has_wrong]
        row = np.concatenate([cell, self.n_cells + (np.cumsum(has_wrong) - 1)[block[wrong]]])
        column = np.concatenate([group, group[wrong]])
        shape = (self.n_cells + len(self.wrong_cells), n_groups)
        self.matrix = sparse.csr_matrix((np.ones(len(row)), (row, column)), shape=shape)
        self._tabulate(2 * len(codes))

    def _tabulate(self, top: int) -> None:
        kept = np.arange(top + 1)
        self.harmonic = np.append(0.0, np.cumsum(1 / kept[1:]))
        # Sum of H_0 to H_{m-1}, so that a block's average is a difference of two.
        self.summed = kept * self.harmonic - kept

    def figures(self, sums: np.ndarray) -> np.ndarray:
        kept = np.cumsum(sums[: self.n_cells], axis=0)
        n = kept[-1]
        if n.max() >= len(self.harmonic):  # a large group was drawn often
            self._tabulate(2 * int(n.max()))
        end = kept[self.wrong_cells]
        size = sums[self.wrong_cells]
        errors = sums[self.n_cells :]
        start = end - size
        share = errors / np.maximum(size, 1)
        passed = self.summed[end.astype(np.intp)] - self.summed[start.astype(np.intp)]
        total_errors = errors.sum(axis=0)
        aurc = total_errors * self.harmonic[n.astype(np.intp)] - np.einsum(
            "ij,ij->j", share, passed
        )
        augrc = total_errors * n - np.einsum("ij,ij->j", errors, start + size / 2)
        return np.stack([aurc / n, augrc / (n * n)])


class _Arm(_Sums):
    """The figures of one set of predictions."""

    def __init__(
        self,
        labels: np.ndarray,
        logits: np.ndarray | None,
        probs: np.ndarray | None,
        codes: np.ndarray,
        n_groups: int,
        names: Sequence[str],
    ) -> None:
        self.names, self.n_figures = names, len(names)
        confidence, rank_by, log_prob, probs = _of_rows(labels, logits, probs)
        rows, k = np.arange(len(labels)), probs.shape[1]
        predicted = probs.argmax(axis=1) if logits is None else logits.argmax(axis=1)
        right = predicted == labels
        self.present = np.flatnonzero(np.bincount(labels, minlength=k))
        bins = (np.arange(1, ECE_BINS) / ECE_BINS).searchsorted(confidence, "left")
        residuals = probs.copy()
        residuals[rows, labels] -= 1
        once = np.ones(len(labels))
        # Each part: how many sums, which of them a row adds to, and how much.
        parts = {
            "n": (1, 0 * rows, once),
            "right": (1, 0 * rows, right.astype(float)),
            "log_prob": (1, 0 * rows, log_prob),
            "brier": (1, 0 * rows, np.einsum("ij,ij->i", residuals, residuals)),
            "gap": (ECE_BINS, bins, right - confidence),
            "hit": (k, labels, right.astype(float)),
            "label": (k, labels, once),
            "predicted": (k, predicted, once),
        }
        blocks, self.slices, start = [], {}, 0
        for part, (height, row, weight) in parts.items():
            blocks.append(sparse.csr_matrix((weight, (row, codes)), shape=(height, n_groups)))
            self.slices[part] = slice(start, start + height)
            start += height
        self.areas = None
        if {"aurc", "augrc"} & set(names):
            self.areas = _Areas(~right, rank_by, codes, n_groups)
            blocks.append(self.areas.matrix)
        self.n_linear = start
        self.matrix = sparse.vstack(blocks, format="csr")

    def figures(self, sums: np.ndarray) -> np.ndarray:
        part = {name: sums[where] for name, where in self.slices.items()}
        n = part["n"][0]
        both = (part["label"] + part["predicted"])[self.present]
        hits = part["hit"][self.present]
        found = {
            "accuracy": part["right"][0] / n,
            "macro_f1": (2 * hits / np.maximum(both, 1)).mean(axis=0),
            "nll": np.abs(part["log_prob"][0]) / n,
            "brier": part["brier"][0] / n,
            "ece": np.abs(part["gap"]).sum(axis=0) / n,
        }
        if self.areas is not None:
            found["aurc"], found["augrc"] = self.areas.figures(sums[self.n_linear :])
        return np.stack([found[name] for name in self.names])


def _of_rows(
    labels: np.ndarray, logits: np.ndarray | None, probs: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Confidence, what ranks rows, log-probability of the label, and probabilities."""
    rows = np.arange(len(labels))
    if logits is not None:
        log_probs, log_odds = _log_softmax(logits), _log_odds(logits)
        return 1 / (1 + np.exp(-log_odds)), log_odds, log_probs[rows, labels], np.exp(log_probs)
    assert probs is not None
    confidence = probs.max(axis=1)
    log_prob = np.log(np.maximum(probs[rows, labels], PROBABILITY_FLOOR))
    return confidence, confidence, log_prob, probs


def _resample(arms: Sequence[_Sums], n_groups: int, seed: int, replicates: int) -> np.ndarray:
    """Figures (arms, replicates, figures) of draws of groups, the same draws for every arm."""
    found = np.empty((len(arms), replicates, arms[0].n_figures))
    start = 0
    for counts in _drawn_counts(n_groups, seed, replicates):
        end = start + counts.shape[1]
        for arm, own in zip(arms, found, strict=True):
            own[start:end] = arm.figures(arm.matrix @ counts).T
        start = end
    return found


def _drawn_counts(n_groups: int, seed: int, replicates: int) -> Iterator[np.ndarray]:
    """How often each group is drawn, (n_groups, b) blocks that add up to the replicates."""
    rng = generator(seed, "bootstrap_groups")
    width = max(1, BLOCK // n_groups)
    # Narrow integers are drawn several to a random word.
    kind = np.uint16 if n_groups <= 1 << 16 else np.uint32
    for start in range(0, replicates, width):
        size = min(width, replicates - start)
        drawn = rng.integers(0, n_groups, size=(size, n_groups), dtype=kind)
        counts = np.empty((size, n_groups))
        for row, own in zip(drawn, counts, strict=True):
            own[:] = np.bincount(row, minlength=n_groups)
        yield np.ascontiguousarray(counts.T)


def _intervals(
    arms: Sequence[_Sums],
    contrast: np.ndarray,
    n_groups: int,
    seed: int,
    replicates: int,
    level: float,
    method: str,
    *,
    n_seeds: int = 1,
) -> tuple[np.ndarray, list[Interval]]:
    """Figures (arms, figures) of all rows, and an interval of the contrast of arms per figure."""
    everything = np.ones((n_groups, 1))
    values = np.stack([arm.figures(arm.matrix @ everything)[:, 0] for arm in arms])
    if n_groups == 1:
        return values, [Interval(math.nan, math.nan)] * values.shape[1]
    drawn = _resample(arms, n_groups, seed, replicates)
    if n_seeds == 1:
        replicated = np.tensordot(contrast[0], drawn, 1)
    else:
        # Seeds are drawn beside the groups: a weight of each seed, the same in both arms.
        rng = generator(seed, "bootstrap_seeds")
        chosen = rng.integers(0, n_seeds, size=(replicates, n_seeds))
        weights = np.stack([(chosen == s).sum(axis=1) for s in range(n_seeds)]) / n_seeds
        difference = drawn[:n_seeds] - drawn[n_seeds:]
        replicated = np.einsum("sr,srf->rf", weights, difference)
    tails = np.tile([(1 - level) / 2, (1 + level) / 2], (values.shape[1], 1))
    if method == "bca":
        tails = _bca_tails(arms, contrast, n_groups, contrast[0] @ values, replicated, tails[0])
    return values, [
        Interval(*map(float, np.quantile(column, own)))
        for column, own in zip(replicated.T, tails, strict=True)
    ]


def _bca_tails(
    arms: Sequence[_Sums],
    contrast: np.ndarray,
    n_groups: int,
    point: np.ndarray,
    replicated: np.ndarray,
    tails: np.ndarray,
) -> np.ndarray:
    """Which quantiles of the replicates bound each figure, (figures, 2). Efron (1987)."""
    parts = []
    width = max(1, BLOCK // n_groups)
    for start in range(0, n_groups, width):
        end = min(start + width, n_groups)
        counts = np.ones((n_groups, end - start))
        counts[np.arange(start, end), np.arange(end - start)] = 0
        left_out = np.stack([arm.figures(arm.matrix @ counts) for arm in arms])
        parts.append(np.tensordot(contrast[0], left_out, 1).T)
    jackknife = np.concatenate(parts)
    influence = jackknife.mean(axis=0) - jackknife
    spread = 6 * ((influence**2).sum(axis=0)) ** 1.5
    acceleration = (influence**3).sum(axis=0) / np.where(spread > 0, spread, 1)
    below = (replicated < point).mean(axis=0) + (replicated == point).mean(axis=0) / 2
    # All replicates on one side: the correction is infinite, so hold it at half a replicate.
    edge = 0.5 / len(replicated)
    bias = stats.norm.ppf(np.clip(below, edge, 1 - edge))[:, None]
    z = bias + stats.norm.ppf(tails)
    return np.asarray(stats.norm.cdf(bias + z / (1 - acceleration[:, None] * z)))


def _codes(groups: np.ndarray | None, n: int) -> tuple[np.ndarray, int]:
    if groups is None:
        return np.arange(n), n
    groups = np.asarray(groups)
    if groups.shape != (n,):
        raise TrustqError(
            f"groups has shape {groups.shape}, expected ({n},): pass the group of every row."
        )
    blank = np.array([group is None or group != group or group == "" for group in groups.tolist()])
    if blank.any():
        raise TrustqError(
            f"groups is blank in {blank.sum()} of {n} rows, first in row {blank.argmax()}: "
            "give these rows a group of their own, or leave them out."
        )
    names, codes = np.unique(groups, return_inverse=True)
    return codes.ravel(), len(names)


def _checked_predictions(
    labels: np.ndarray, logits: np.ndarray | None = None, probs: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray | None, np.ndarray | None]:
    if (logits is None) == (probs is None):
        raise TrustqError("Pass either logits or probs, and not both.")
    if logits is not None:
        logits = checked_logits(logits)
        return checked_labels(labels, *logits.shape, beside="logits"), logits, None
    assert probs is not None
    probs = checked_probs(probs)
    return checked_labels(labels, *probs.shape, beside="probs"), None, probs


def _check_options(figures: Sequence[str], level: float, replicates: int, method: str) -> None:
    unknown = [name for name in figures if name not in FIGURES]
    if unknown or not figures:
        raise TrustqError(
            f"figures is {', '.join(figures) or 'empty'}: choose among {', '.join(FIGURES)}."
        )
    _check_level(level)
    _check_replicates(replicates)
    if method not in METHODS:
        raise TrustqError(f"method is {method!r}: expected {' or '.join(METHODS)}.")
