"""Bootstrap of every figure over groups of rows: intervals, paired differences, crossed seeds.

A group (lesion, patient) is what was drawn independently, so whole groups are resampled, and the
same draw serves every arm. All figures are functions of sums over rows
(`trustq.evaluation.bootstrap_sums`).
"""

import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from scipy import stats

from trustq.core.generators import generator
from trustq.errors import InputError
from trustq.evaluation.bootstrap_sums import AreaSums, FigureSums, PredictionSums
from trustq.metrics.probabilities import checked_labels, checked_logits, checked_probs
from trustq.metrics.selective import _checked
from trustq.statistics.paired import Interval, _check_level, _check_replicates
from trustq.statistics.runs import _numbered, half_width, run_parts

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
        raise InputError(
            f"wrong has shape {wrong.shape} and confidence {confidence.shape}: "
            "pass the same rows in the same order.",
            where="wrong",
            found=wrong.shape,
        )
    single = wrong.ndim == 1
    pairs = [(wrong, confidence)] if single else list(zip(wrong, confidence, strict=True))
    if not pairs:
        raise InputError("wrong has no arms: pass at least one row of (a, n).")
    checked = [_checked(*pair) for pair in pairs]
    n = len(checked[0][0])
    codes, n_groups = _codes(groups, n)
    arms: list[FigureSums] = [AreaSums(*pair, codes, n_groups) for pair in checked]
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
    arm = PredictionSums(labels, logits, probs, codes, n_groups, figures)
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
    _check_options(figures, level, replicates, method)
    a, b = np.asarray(a)[None], np.asarray(b)[None]
    return _compared(labels, a, b, kind, seed, groups, figures, level, replicates, method)


def crossed_figures(
    labels: np.ndarray,
    a: np.ndarray,
    b: np.ndarray,
    *,
    kind: str = "probs",
    seed: int,
    groups: np.ndarray | None = None,
    networks: Sequence[object] | None = None,
    draws: Sequence[object] | None = None,
    figures: Sequence[str] = FIGURES,
    level: float = 0.95,
    replicates: int = REPLICATES,
) -> dict[str, Comparison]:
    """Mean figures of two arms over runs, with intervals of networks x draws x groups crossed.

    `a` and `b` are (r, n, k): the predictions of r paired runs on the same rows; `networks` and
    `draws` name those of each run, and without them every run is a network of its own. Means are
    those of networks, each averaged over its draws. The interval is for other networks, other draws
    and other groups at once, from the variance of the networks' means, that of the draws which
    networks share (`trustq.statistics.runs`), and the covariance of two networks' differences over
    the same redrawn groups, as in Obuchowski and Rockette (1995), who cross readers with cases.
    Their Student quantiles are weighted half as Cochran and Cox (1950), half by Satterthwaite's
    degrees of freedom: the one alone is too wide with four networks, the other too narrow with
    three. With one run this is the paired bootstrap of `compare_figures`. Otherwise as there.

    >>> labels = np.array([0, 1, 1, 0])
    >>> a = np.array([[[0.9, 0.1], [0.2, 0.8], [0.4, 0.6], [0.7, 0.3]]] * 3)
    >>> b = np.array([[[0.9, 0.1], [0.2, 0.8], [0.6, 0.4], [0.4, 0.6]]] * 3)
    >>> crossed_figures(labels, a, b, seed=0, figures=("accuracy",))["accuracy"].difference
    0.5
    """
    _check_options(figures, level, replicates)
    r = len(np.asarray(a))
    runs = (
        _numbered(range(r) if networks is None else networks),
        _numbered([0] * r if draws is None else draws),
    )
    if not len(runs[0]) == len(runs[1]) == r:
        raise InputError(
            f"There are {r} runs, {len(runs[0])} networks and {len(runs[1])} draws: "
            "name the network and the draw of every run."
        )
    return _compared(
        labels, a, b, kind, seed, groups, figures, level, replicates, "percentile", runs
    )


def _compared(
    labels: np.ndarray,
    a: np.ndarray,
    b: np.ndarray,
    kind: str,
    seed: int,
    groups: np.ndarray | None,
    figures: Sequence[str],
    level: float,
    replicates: int,
    method: str,
    runs: tuple[np.ndarray, np.ndarray] | None = None,
) -> dict[str, Comparison]:
    if kind not in ("probs", "logits"):
        raise InputError(f"kind is {kind!r}: expected probs or logits.", where="kind", found=kind)
    a, b = np.asarray(a), np.asarray(b)
    if a.ndim != 3 or a.shape != b.shape or not len(a):
        raise InputError(
            f"a has shape {a.shape} and b {b.shape}: "
            "pass the same seeds, rows and classes in the same order.",
            where="a",
            found=a.shape,
        )
    n_seeds = len(a)
    codes, n_groups = _codes(groups, a.shape[1])
    arms: list[FigureSums] = []
    for one in (*a, *b):
        own_labels, logits, probs = _checked_predictions(labels, **{kind: one})
        arms.append(PredictionSums(own_labels, logits, probs, codes, n_groups, figures))
    if runs is None or n_seeds == 1:
        contrast = np.array([[1.0, -1.0]])
        values, bounds = _intervals(arms, contrast, n_groups, seed, replicates, level, method)
        of_a, of_b = values
    else:
        values, bounds = _crossed_intervals(arms, runs, n_groups, seed, replicates, level)
        of_a, of_b = (_of_units(own, runs).mean(axis=0) for own in np.split(values, 2))
    return {
        name: Comparison(float(of_a[j]), float(of_b[j]), float(of_a[j] - of_b[j]), *bounds[j])
        for j, name in enumerate(figures)
    }


def _resample(arms: Sequence[FigureSums], n_groups: int, seed: int, replicates: int) -> np.ndarray:
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


def _of_all_groups(arms: Sequence[FigureSums], n_groups: int) -> np.ndarray:
    """Figures (arms, figures) of all rows."""
    everything = np.ones((n_groups, 1))
    return np.stack([arm.figures(arm.matrix @ everything)[:, 0] for arm in arms])


def _intervals(
    arms: Sequence[FigureSums],
    contrast: np.ndarray,
    n_groups: int,
    seed: int,
    replicates: int,
    level: float,
    method: str,
) -> tuple[np.ndarray, list[Interval]]:
    """Figures (arms, figures) of all rows, and an interval of the contrast of arms per figure."""
    values = _of_all_groups(arms, n_groups)
    if n_groups == 1:
        return values, [Interval(math.nan, math.nan)] * values.shape[1]
    replicated = np.tensordot(contrast[0], _resample(arms, n_groups, seed, replicates), 1)
    tails = np.tile([(1 - level) / 2, (1 + level) / 2], (values.shape[1], 1))
    if method == "bca":
        tails = _bca_tails(arms, contrast, n_groups, contrast[0] @ values, replicated, tails[0])
    return values, [
        Interval(*map(float, np.quantile(column, own)))
        for column, own in zip(replicated.T, tails, strict=True)
    ]


def _crossed_intervals(
    arms: Sequence[FigureSums],
    runs: tuple[np.ndarray, np.ndarray],
    n_groups: int,
    seed: int,
    replicates: int,
    level: float,
) -> tuple[np.ndarray, list[Interval]]:
    """Figures (arms, figures) of all rows, and intervals of the mean difference over runs."""
    values = _of_all_groups(arms, n_groups)
    if n_groups == 1:
        return values, [Interval(math.nan, math.nan)] * values.shape[1]
    r = len(runs[0])
    differences = values[:r] - values[r:]
    drawn = _resample(arms, n_groups, seed, replicates)
    units = _of_units(drawn[:r] - drawn[r:], runs)  # (units, replicates, figures)
    n = len(units)
    # The variance of a mean of n is (own + (n - 1) covariance) / n.
    own, of_mean = units.var(axis=1).mean(axis=0), units.mean(axis=0).var(axis=0)
    of_groups = np.maximum((n * of_mean - own) / (n - 1), 0) if n > 1 else own
    parts = run_parts(differences.T, *runs)
    mean = _of_units(differences, runs).mean(axis=0)
    bounds = []
    for j, part in enumerate(parts):
        half = half_width(part, of_groups=float(of_groups[j]), n_groups=n_groups, level=level)
        bounds.append(Interval(float(mean[j]) - half, float(mean[j]) + half))
    return values, bounds


def _of_units(values: np.ndarray, runs: tuple[np.ndarray, np.ndarray]) -> np.ndarray:
    """Values (runs, ...) averaged within networks, or, with one network, within draws."""
    codes = runs[0] if runs[0].max() > 0 else runs[1]
    return np.stack([values[codes == unit].mean(axis=0) for unit in range(codes.max() + 1)])


def _bca_tails(
    arms: Sequence[FigureSums],
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
        raise InputError(
            f"groups has shape {groups.shape}, expected ({n},): pass the group of every row.",
            where="groups",
            found=groups.shape,
        )
    blank = np.array([group is None or group != group or group == "" for group in groups.tolist()])
    if blank.any():
        raise InputError(
            f"groups is blank in {blank.sum()} of {n} rows, first in row {blank.argmax()}: "
            "give these rows a group of their own, or leave them out."
        )
    names, codes = np.unique(groups, return_inverse=True)
    return codes.ravel(), len(names)


def _checked_predictions(
    labels: np.ndarray, logits: np.ndarray | None = None, probs: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray | None, np.ndarray | None]:
    if (logits is None) == (probs is None):
        raise InputError("Pass either logits or probs, and not both.")
    if logits is not None:
        logits = checked_logits(logits)
        return checked_labels(labels, *logits.shape, beside="logits"), logits, None
    assert probs is not None
    probs = checked_probs(probs)
    return checked_labels(labels, *probs.shape, beside="probs"), None, probs


def _check_options(
    figures: Sequence[str], level: float, replicates: int, method: str = "percentile"
) -> None:
    unknown = [name for name in figures if name not in FIGURES]
    if unknown or not figures:
        raise InputError(
            f"figures is {', '.join(figures) or 'empty'}: choose among {', '.join(FIGURES)}."
        )
    _check_level(level)
    _check_replicates(replicates)
    if method not in METHODS:
        raise InputError(
            f"method is {method!r}: expected {' or '.join(METHODS)}.",
            where="method",
            found=method,
            expected=METHODS,
        )
