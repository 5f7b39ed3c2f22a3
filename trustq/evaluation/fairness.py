"""How sure the gaps between groups of people are: intervals, and what chance alone would make."""

import math
from typing import NamedTuple

import numpy as np

from trustq.core.generators import generator
from trustq.errors import InputError
from trustq.evaluation.bootstrap import group_codes
from trustq.metrics.per_class import equalised_odds_gaps, slice_name
from trustq.statistics.intervals import ratio_bounds

MIN_ROWS = 10  # of either outcome, for a group to be part of a gap
FIGURES = ("sensitivity", "specificity", "f1")


class Gap(NamedTuple):
    """A gap with its interval, and the gap that 95 % of random groupings stay below.

    A gap is a largest less a smallest, which noise makes larger: `lower` is 0 where no two groups
    are known to differ.
    """

    value: float
    lower: float
    upper: float
    by_chance: float


def gap_intervals(
    positive: np.ndarray,
    predicted_positive: np.ndarray,
    groups: np.ndarray,
    *,
    units: np.ndarray | None = None,
    min_rows: int = MIN_ROWS,
    replicates: int = 2000,
    level: float = 0.95,
    seed: int,
) -> dict[str, Gap]:
    """Equalised-odds gaps of sensitivity, specificity and F1 with intervals over units.

    `positive`, `predicted_positive` and `groups` (n,) are those of `equalised_odds_gaps`, `units`
    (n,) lesions or patients, whose rows are related. Groups with fewer than `min_rows` rows of
    either outcome and the unknown one stay out. Bounds are the largest of the bounds of all
    differences of two groups, made of Wilson's intervals of both (Newcombe 1998) at the level that
    holds for all pairs together (Tukey's studentised range); percentiles of resampled gaps lie
    above the truth. `by_chance` is from units dealt to the groups at random, `replicates` times.
    Empty where fewer than two groups are left; NaN bounds for a single unit.

    >>> truth = np.tile([1, 0], 40)
    >>> groups = np.repeat(["f", "m"], 40)
    >>> found = gap_intervals(truth, truth, groups, replicates=50, seed=0)
    >>> Gap(*(round(x, 3) for x in found["sensitivity"]))
    Gap(value=0.0, lower=0.0, upper=0.18, by_chance=0.0)
    """
    truth = np.asarray(positive).astype(bool)
    called = np.asarray(predicted_positive).astype(bool)
    observed = equalised_odds_gaps(truth, called, groups, min_rows=min_rows)
    kept = [name for name in observed.by_group if name not in observed.left_out]
    if len(kept) < 2:
        return {}
    if not 0 < level < 1 or replicates < 1:
        raise InputError(f"Expected a level in (0, 1) and replicates; found {level}, {replicates}.")
    names = np.array([slice_name(group) for group in np.ma.asarray(groups).tolist()])
    inside = np.isin(names, kept)
    unit, n_units = group_codes(
        None if units is None else np.asarray(units)[inside], int(inside.sum())
    )
    of_group = np.searchsorted(np.array(kept), names[inside])
    kinds = 2 * truth[inside] + called[inside]  # 0 right negative, 1 alarm, 2 miss, 3 hit
    sums = _sums(unit, of_group, kinds, n_units, len(kept))
    dealt = _dealt(unit, of_group, kinds, n_units, len(kept), replicates, seed)
    found = {}
    for place, figure in enumerate(FIGURES):
        lower, upper = np.nan, np.nan
        if n_units > 1:
            lower, upper = _gap_bounds(*_parts(sums, figure), level=level)
        (by_chance,) = _quantiles(dealt[:, place], [level])
        found[figure] = Gap(float(getattr(observed, figure)), lower, upper, by_chance)
    return found


def _parts(sums: np.ndarray, figure: str) -> tuple[np.ndarray, np.ndarray]:
    """A figure as a ratio: its numerator and denominator by unit and group, (units, groups)."""
    right, alarms, misses, hits = np.moveaxis(sums, 2, 0)
    if figure == "sensitivity":
        return hits, hits + misses
    if figure == "specificity":
        return right, right + alarms
    return 2 * hits, 2 * hits + misses + alarms


def _gap_bounds(above: np.ndarray, below: np.ndarray, *, level: float) -> tuple[float, float]:
    """Bounds of the largest difference of ratios of two groups."""
    n_groups = above.shape[1]
    from scipy import stats  # a second of processor time, which most runs do not need

    reach = float(stats.studentized_range.ppf(level, n_groups, np.inf)) / math.sqrt(2)
    of_one = float(2 * stats.norm.cdf(reach) - 1)
    known = [_ratio(above[:, g], below[:, g], of_one) for g in range(n_groups)]
    known = [own for own in known if not math.isnan(own[0])]
    lower = upper = 0.0
    for value, low, high in known:
        for other, other_low, other_high in known:
            apart = value - other
            lower = max(lower, apart - math.hypot(value - low, other_high - other))
            upper = max(upper, apart + math.hypot(high - value, other - other_low))
    return lower, min(upper, 1.0)


def _ratio(above: np.ndarray, below: np.ndarray, level: float) -> tuple[float, float, float]:
    """A ratio of sums over units, in [0, 1], with Wilson's interval of what its spread is worth."""
    there = below > 0
    above, below = above[there], below[there]
    if not len(below):
        return math.nan, math.nan, math.nan
    bounds = ratio_bounds(above, below, level)
    value = float(above.sum()) / float(below.sum())
    return value, bounds.lower, bounds.upper


def _quantiles(gaps: np.ndarray, at: list[float]) -> list[float]:
    if np.isnan(gaps).all():
        return [np.nan] * len(at)
    return [float(value) for value in np.nanquantile(gaps, at)]


def _sums(
    unit: np.ndarray, of_group: np.ndarray, kinds: np.ndarray, n_units: int, n_groups: int
) -> np.ndarray:
    """Rows of each unit by group and kind, (units, groups, 4)."""
    cells = (unit * n_groups + of_group) * 4 + kinds
    counts = np.bincount(cells, minlength=n_units * n_groups * 4)
    return counts.reshape(n_units, n_groups, 4).astype(np.float64)


def _gaps(tables: np.ndarray) -> np.ndarray:
    """Gaps (r, 3) of tables of (replicates, groups, 4); a group without an outcome has no part."""
    right, alarms, misses, hits = np.moveaxis(tables, 2, 0)
    with np.errstate(invalid="ignore", divide="ignore"):
        figures = np.stack(
            [
                hits / (hits + misses),
                right / (right + alarms),
                2 * hits / (2 * hits + misses + alarms),
            ]
        )
    known = ~np.isnan(figures)
    largest = np.where(known, figures, -np.inf).max(axis=2)
    smallest = np.where(known, figures, np.inf).min(axis=2)
    return np.where(known.sum(axis=2) > 1, largest - smallest, np.nan).T


def _dealt(
    unit: np.ndarray,
    of_group: np.ndarray,
    kinds: np.ndarray,
    n_units: int,
    n_groups: int,
    replicates: int,
    seed: int,
) -> np.ndarray:
    """Gaps (r, 3) when each unit is given the group of another unit, drawn without return."""
    rng = generator(seed, "dealt_groups")
    of_unit = np.zeros(n_units, dtype=np.intp)
    of_unit[unit] = of_group  # the last row's; a lesion rarely lies in two groups
    by_kind = np.bincount(unit * 4 + kinds, minlength=4 * n_units).reshape(n_units, 4)
    found = np.empty((replicates, 3))
    for start in range(0, replicates, 50):
        rows = range(start, min(start + 50, replicates))
        tables = np.zeros((len(rows), n_groups, 4))
        for place in range(len(rows)):
            np.add.at(tables[place], rng.permutation(of_unit), by_kind)
        found[rows.start : rows.stop] = _gaps(tables)
    return found
