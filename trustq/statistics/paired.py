"""Paired differences between two arms: tests, intervals, effect sizes and families of p-values.

What resamples examples or groups of them lives in `trustq.evaluation.bootstrap`.
"""

import math
from collections.abc import Iterator
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import scipy

from trustq.core.counts import counted
from trustq.core.generators import generator
from trustq.errors import InputError

EXACT_UP_TO = 20  # differences; all 2^19 sign patterns up to symmetry take 5 ms
TIE_TOLERANCE = 1e-9  # of the sum of sizes; metrics subtracted in floats tie to about 1e-12
BLOCK = 1 << 22  # numbers drawn at once, so that memory does not grow with the replicates
# Numbers drawn that are kept, for a table has hundreds of tests and lines of as many units each.
KEPT_COUNTS = 1 << 24  # of one or two bytes
KEPT_SIGNS = 1 << 20  # of eight bytes


class SignFlip(NamedTuple):
    """A sign-flip test: `floor` is the smallest p-value that `n` differences can give."""

    p_value: float
    floor: float
    n: int
    exact: bool


def sign_flip_test(
    differences: np.ndarray, *, seed: int | None = None, replicates: int = 9999
) -> SignFlip:
    """Two-sided test that paired differences are symmetric about 0, by flipping their signs.

    `differences` is (n,), one per unit (seed, group). Up to 20 all 2^n patterns are counted and
    the floor is 2/2^n; beyond, `replicates` B are drawn from `seed`, p = (b + 1)/(B + 1), floor
    1/(B + 1). A pattern counts when its mean is at least as far from 0 as the observed one, float
    ties included. Errors: NaN, no difference, more than 20 without a seed. Fisher (1935).

    >>> sign_flip_test(np.array([0.1, 0.2, 0.3, 0.4, 0.5]))
    SignFlip(p_value=0.0625, floor=0.0625, n=5, exact=True)
    """
    differences = _checked(differences, "differences")
    check_replicates(replicates)
    if len(differences) > EXACT_UP_TO and seed is None:
        raise InputError(
            f"sign_flip_test was given {counted(len(differences), 'difference')} and no seed: "
            f"beyond {EXACT_UP_TO} patterns are drawn at random, so pass seed=."
        )
    return unchecked_sign_flip_test(differences, seed, replicates)


class Interval(NamedTuple):
    """Bounds of a confidence interval."""

    lower: float
    upper: float


def bootstrap_interval(
    differences: np.ndarray, *, seed: int, level: float = 0.95, replicates: int = 10_000
) -> Interval:
    """Percentile bootstrap interval of the mean, resampling units with replacement.

    `differences` is (n,), one per unit; a unit is what was drawn independently. NaN bounds for a
    single unit, which says nothing about spread. Efron and Tibshirani (1993), chapter 13.

    >>> interval = bootstrap_interval(np.array([0.1, 0.2, 0.3, 0.4]), seed=0)
    >>> round(interval.lower, 3), round(interval.upper, 3)
    (0.15, 0.35)
    """
    check_level(level)
    check_replicates(replicates)
    return _bootstrap_interval(_checked(differences, "differences"), seed, level, replicates)


def bootstrap_intervals(
    columns: np.ndarray, *, seed: int, level: float = 0.95, replicates: int = 10_000
) -> np.ndarray:
    """`bootstrap_interval` of each column of (n, m), from the same resamples, as (2, m).

    A line of a picture has many points and one set of units, and drawing resamples is what takes
    time. Equal to the single intervals but for the order of sums.

    >>> bootstrap_intervals(np.array([[0.1], [0.2], [0.3], [0.4]]), seed=0).round(3).tolist()
    [[0.15], [0.35]]
    """
    check_level(level)
    check_replicates(replicates)
    columns = np.asarray(columns, dtype=np.float64)
    n = len(columns)
    if n < 2:
        return np.full((2, columns.shape[1]), math.nan)
    counts = _kept_counts if n * replicates <= KEPT_COUNTS else _drawn_counts
    means = [count.astype(np.float64) @ columns / n for count in counts(n, seed, replicates)]
    tail = (1 - level) / 2
    return np.asarray(np.quantile(np.concatenate(means), [tail, 1 - tail], axis=0))


@lru_cache(maxsize=1)
def _kept_counts(n: int, seed: int, replicates: int) -> list[np.ndarray]:
    return list(_drawn_counts(n, seed, replicates))


def _drawn_counts(n: int, seed: int, replicates: int) -> Iterator[np.ndarray]:
    """How often resamples of n units hold each of them, in blocks of (b, n)."""
    rng = generator(seed, "bootstrap")
    for size in _blocks(replicates, n):
        places = rng.integers(0, n, size=(size, n))
        places += n * np.arange(size)[:, None]
        counts = np.bincount(places.ravel(), minlength=size * n).reshape(size, n)
        del places  # which is as large
        yield counts.astype(np.min_scalar_type(n))


class Paired(NamedTuple):
    """Paired comparison of two arms, a minus b."""

    n: int
    mean: float
    sd: float
    lower: float
    upper: float
    p_value: float
    floor: float


def paired_summary(a: np.ndarray, b: np.ndarray, *, seed: int) -> Paired:
    """Mean of a - b over paired units, with its sd, 95 % bootstrap interval and sign-flip p-value.

    Both are (n,), the same units in the same order. sd and interval are NaN for a single unit.

    >>> paired_summary(np.array([0.8, 0.7, 0.9]), np.array([0.7, 0.5, 0.6]), seed=0).floor
    0.25
    """
    a, b = checked_pair(a, b)
    differences = a - b
    n = len(differences)
    sd = float(differences.std(ddof=1)) if n > 1 else math.nan
    interval = _bootstrap_interval(differences, seed, 0.95, 10_000)
    test = unchecked_sign_flip_test(differences, seed, 9999)
    mean = float(differences.mean())
    return Paired(n, mean, sd, interval.lower, interval.upper, test.p_value, test.floor)


def holm(p_values: np.ndarray) -> np.ndarray:
    """p-values adjusted for a family of tests, so that any false alarm among them is rare.

    `p_values` is (m,), every test of the family; so is the result, in the same order, at least as
    large, at most 1. Valid under any dependence. Holm (1979).

    >>> holm(np.array([0.01, 0.04, 0.03])).round(6).tolist()
    [0.03, 0.06, 0.06]
    """
    p_values = _checked(p_values, "p_values")
    if p_values.min() < 0 or p_values.max() > 1:
        raise InputError(
            f"p_values lies in [{p_values.min():g}, {p_values.max():g}], expected [0, 1]: "
            "pass p-values, not statistics."
        )
    m = len(p_values)
    order = np.argsort(p_values, kind="stable")
    adjusted = np.empty(m)
    adjusted[order] = np.maximum.accumulate(p_values[order] * np.arange(m, 0, -1))
    return np.minimum(adjusted, 1.0)


class McNemar(NamedTuple):
    """Exact McNemar test: rows that only a or only b has right, and the two-sided p-value."""

    only_a_right: int
    only_b_right: int
    p_value: float


def mcnemar_test(wrong_a: np.ndarray, wrong_b: np.ndarray) -> McNemar:
    """Exact two-sided test that two classifiers are wrong equally often on the same rows.

    Both are (n,), true where the prediction is wrong. Binomial on the rows where they differ; p is
    1 where there is none. Rows count as independent, so images of one lesion make p too small.
    McNemar (1947).

    >>> mcnemar_test(np.array([0, 0, 0, 0, 1]), np.array([1, 1, 1, 0, 1]))
    McNemar(only_a_right=3, only_b_right=0, p_value=0.25)
    """
    wrong_a, wrong_b = _checked_flags(wrong_a, "wrong_a"), _checked_flags(wrong_b, "wrong_b")
    if len(wrong_a) != len(wrong_b):
        raise InputError(
            f"wrong_a has {counted(len(wrong_a), 'row')} and wrong_b has {len(wrong_b)}: "
            "pass the same rows in the same order."
        )
    only_a = int(np.count_nonzero(~wrong_a & wrong_b))
    only_b = int(np.count_nonzero(wrong_a & ~wrong_b))
    tail = scipy.special.bdtr(min(only_a, only_b), only_a + only_b, 0.5)
    return McNemar(only_a, only_b, float(min(1.0, 2 * tail)))


class Effect(NamedTuple):
    """An effect size with its 95 % interval, over `n` paired units."""

    value: float
    lower: float
    upper: float
    n: int


def effect_size(differences: np.ndarray) -> Effect:
    """Standardised mean of paired differences, Hedges' g: J(n - 1) mean / sd.

    `differences` is (n,), one per unit. The interval inverts the noncentral t distribution, so it
    is exact for normal differences. NaN for fewer than three units and where all are equal. Any
    sign; 0 is no difference, .8 is called large. Hedges (1981); Goulet-Pelletier and Cousineau
    (2018).

    >>> effect = effect_size(np.array([0.1, 0.2, 0.3, 0.4]))
    >>> [round(x, 3) for x in effect]
    [1.401, 0.105, 2.657, 4]
    """
    differences = _checked(differences, "differences")
    n = len(differences)
    sd = differences.std(ddof=1) if n > 2 else 0.0
    # Equal differences leave an sd of rounding errors, which would make an effect of 1e16.
    if sd <= TIE_TOLERANCE * np.abs(differences).max():
        return Effect(math.nan, math.nan, math.nan, n)
    t = float(differences.mean() / sd * math.sqrt(n))
    # J takes away the bias of a small sample, a factor of .8 at five seeds.
    shrink = math.exp(math.lgamma((n - 1) / 2) - math.lgamma((n - 2) / 2)) * math.sqrt(2 / (n - 1))
    lower, upper = (_noncentrality(t, n - 1, tail) for tail in (0.975, 0.025))
    scale = shrink / math.sqrt(n)
    return Effect(t * scale, lower * scale, upper * scale, n)


def probability_of_superiority(a: np.ndarray, b: np.ndarray) -> Effect:
    """Share of paired units in which a is larger than b, ties at one half: P(A > B).

    Both are (n,), the same units in the same order. The interval is Wilson's, which five wins of
    five do not shrink to a point. Lies in [0, 1]; one half is no difference, and .75 was proposed
    as worth reporting. Bouthillier et al. (2021).

    >>> found = probability_of_superiority(np.array([3.0, 2.0, 2.0, 5.0]), np.arange(4.0))
    >>> [round(x, 3) for x in found]
    [0.875, 0.396, 0.987, 4]
    """
    a, b = checked_pair(a, b)
    n = len(a)
    # Figures that are equal but for rounding are ties, as in the sign-flip test.
    close = np.abs(a - b) <= TIE_TOLERANCE * np.maximum(np.abs(a), np.abs(b))
    share = float(np.where(close, 0.5, a > b).mean())
    interval = _wilson(share, n, 0.95)
    return Effect(share, interval.lower, interval.upper, n)


def share_interval(k: int, n: int, *, level: float = 0.95) -> Interval:
    """Wilson's interval of a share, from `k` of `n` independent rows.

    Lies in [0, 1], holds k / n and never shrinks to a point. NaN bounds for no row. Wilson (1927).

    >>> interval = share_interval(0, 10)
    >>> round(interval.lower, 3), round(interval.upper, 3)
    (0.0, 0.278)
    """
    check_level(level)
    if not 0 <= k <= n:
        raise InputError(f"share_interval was given {k} of {n}: pass a count and its total.")
    return _wilson(k / n, n, level) if n else Interval(math.nan, math.nan)


def _wilson(share: float, n: int, level: float) -> Interval:
    z = float(scipy.special.ndtri((1 + level) / 2))
    middle = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    return Interval(max(0.0, middle - half), min(1.0, middle + half))


def _noncentrality(t: float, df: int, tail: float) -> float:
    """The noncentrality under which a t value lies at this share of its distribution."""
    from scipy import optimize

    if abs(t) > 1e4:
        # scipy's distribution function gives up; here only the sd still matters, not the mean.
        of_sd = 1 - tail if t > 0 else tail
        return t * math.sqrt(float(2 * scipy.special.gammaincinv(df / 2, of_sd)) / df)

    def excess(at: float) -> float:
        share = float(scipy.special.nctdtr(df, at, t))
        # NaN where it is 0 or 1 but for rounding.
        return (float(at < t) if math.isnan(share) else share) - tail

    # The distribution function falls in the noncentrality; widen until it is passed.
    reach = 5.0 + abs(t)
    while excess(t - reach) < 0 or excess(t + reach) > 0:
        reach *= 2
    return float(optimize.brentq(excess, t - reach, t + reach, xtol=1e-10))


def checked_pair(a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Two float64 arrays of the same units, (n,); raises `TrustqError` where they are not."""
    a, b = _checked(a, "a"), _checked(b, "b")
    if len(a) != len(b):
        raise InputError(
            f"a has {counted(len(a), 'unit')} and b has {len(b)}: pass the same units in the same "
            "order."
        )
    return a, b


def _checked_flags(flags: np.ndarray, name: str) -> np.ndarray:
    flags = np.asarray(flags)
    if flags.ndim != 1 or len(flags) == 0:
        raise InputError(
            f"{name} has shape {flags.shape}, expected (n,) with n >= 1: pass one flag per row.",
            where=name,
            found=flags.shape,
        )
    if flags.dtype != bool and not np.isin(flags, (0, 1)).all():
        raise InputError(
            f"{name} holds values other than 0 and 1: pass predicted != labels, not a loss."
        )
    return flags.astype(bool, copy=False)


def _checked(values: np.ndarray, name: str) -> np.ndarray:
    values = np.asarray(values, dtype=np.float64)
    if values.ndim != 1:
        raise InputError(
            f"{name} has shape {values.shape}, expected (n,): pass one number per unit.",
            where=name,
            found=values.shape,
        )
    if len(values) == 0:
        raise InputError(f"{name} is empty: pass at least one unit.")
    if not np.isfinite(values).all():
        bad = np.flatnonzero(~np.isfinite(values))
        raise InputError(
            f"{name} is NaN or infinite in {len(bad)} of {len(values)} units, first in {bad[0]}: "
            "leave these units out of both arms."
        )
    return values


def check_level(level: float) -> None:
    """Raise `TrustqError` for a level that is no share between 0 and 1."""
    if not 0 < level < 1:
        raise InputError(
            f"level is {level}, expected a share between 0 and 1: pass 0.95.",
            where="level",
            found=level,
        )


def check_replicates(replicates: int) -> None:
    """Raise `TrustqError` for fewer replicates than one."""
    if replicates < 1:
        raise InputError(
            f"replicates is {replicates}, expected at least 1: pass some thousands.",
            where="replicates",
            found=replicates,
        )


def unchecked_sign_flip_test(
    differences: np.ndarray, seed: int | None, replicates: int
) -> SignFlip:
    """The sign-flip test of checked differences; beyond EXACT_UP_TO signs are drawn by `seed`."""
    n = len(differences)
    # Without the tolerance 0.1 + 0.2 would not tie with 0.3, and p would depend on rounding.
    at_least = abs(differences.sum()) - TIE_TOLERANCE * np.abs(differences).sum()
    if n <= EXACT_UP_TO:
        sums = sign_patterns(differences)
        return SignFlip(float((np.abs(sums) >= at_least).mean()), 2 / 2**n, n, True)
    assert seed is not None
    beyond = 0
    for signs in drawn_signs(n, seed, replicates):
        beyond += int((np.abs(signs @ differences) >= at_least).sum())
    return SignFlip((beyond + 1) / (replicates + 1), 1 / (replicates + 1), n, False)


def sign_patterns(differences: np.ndarray) -> np.ndarray:
    """Sums of the differences under half of all sign patterns, those that keep the first sign.

    Flipping every sign keeps the size, so the other half adds nothing.
    """
    sums = differences[:1]
    for difference in differences[1:]:
        sums = np.concatenate([sums + difference, sums - difference])
    return sums


def drawn_signs(n: int, seed: int, replicates: int) -> Iterator[np.ndarray]:
    """Random signs in blocks of (b, n), which are only read."""
    if n * replicates <= KEPT_SIGNS:
        yield _kept_signs(n, seed, replicates)
        return
    yield from _drawn_signs(n, seed, replicates)


@lru_cache(maxsize=1)
def _kept_signs(n: int, seed: int, replicates: int) -> np.ndarray:
    (signs,) = _drawn_signs(n, seed, replicates)
    signs.flags.writeable = False
    return signs


def _drawn_signs(n: int, seed: int, replicates: int) -> Iterator[np.ndarray]:
    rng = generator(seed, "sign_flip")
    for size in _blocks(replicates, n):
        yield rng.integers(0, 2, size=(size, n), dtype=np.int8) * 2.0 - 1.0


def _bootstrap_interval(
    differences: np.ndarray, seed: int, level: float, replicates: int
) -> Interval:
    n = len(differences)
    if n == 1:
        return Interval(math.nan, math.nan)
    rng = generator(seed, "bootstrap")
    means = [
        differences[rng.integers(0, n, size=(size, n))].mean(axis=1)
        for size in _blocks(replicates, n)
    ]
    tail = (1 - level) / 2
    lower, upper = np.quantile(np.concatenate(means), [tail, 1 - tail])
    return Interval(float(lower), float(upper))


def _blocks(replicates: int, n: int) -> list[int]:
    """Sizes that add up to `replicates`, each of at most BLOCK numbers."""
    size = max(1, BLOCK // n)
    return [min(size, replicates - start) for start in range(0, replicates, size)]
