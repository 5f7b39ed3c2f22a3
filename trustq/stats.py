"""Paired differences between two arms: sign-flip test, bootstrap interval, and both at once."""

import math
from typing import NamedTuple

import numpy as np

from trustq.errors import TrustqError
from trustq.seeds import generator

EXACT_UP_TO = 20  # differences; all 2^19 sign patterns up to symmetry take 5 ms
TIE_TOLERANCE = 1e-9  # of the sum of sizes; metrics subtracted in floats tie to about 1e-12
BLOCK = 1 << 22  # numbers drawn at once, so that memory does not grow with the replicates


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
    _check_replicates(replicates)
    if len(differences) > EXACT_UP_TO and seed is None:
        raise TrustqError(
            f"sign_flip_test was given {len(differences)} differences and no seed: beyond "
            f"{EXACT_UP_TO} patterns are drawn at random, so pass seed=."
        )
    return _sign_flip_test(differences, seed, replicates)


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
    if not 0 < level < 1:
        raise TrustqError(f"level is {level}, expected a share between 0 and 1: pass 0.95.")
    _check_replicates(replicates)
    return _bootstrap_interval(_checked(differences, "differences"), seed, level, replicates)


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
    a, b = _checked(a, "a"), _checked(b, "b")
    if len(a) != len(b):
        raise TrustqError(
            f"a has {len(a)} units and b has {len(b)}: pass the same units in the same order."
        )
    differences = a - b
    n = len(differences)
    sd = float(differences.std(ddof=1)) if n > 1 else math.nan
    interval = _bootstrap_interval(differences, seed, 0.95, 10_000)
    test = _sign_flip_test(differences, seed, 9999)
    mean = float(differences.mean())
    return Paired(n, mean, sd, interval.lower, interval.upper, test.p_value, test.floor)


def _checked(values: np.ndarray, name: str) -> np.ndarray:
    values = np.asarray(values, dtype=np.float64)
    if values.ndim != 1:
        raise TrustqError(
            f"{name} has shape {values.shape}, expected (n,): pass one number per unit."
        )
    if len(values) == 0:
        raise TrustqError(f"{name} is empty: pass at least one unit.")
    if not np.isfinite(values).all():
        bad = np.flatnonzero(~np.isfinite(values))
        raise TrustqError(
            f"{name} is NaN or infinite in {len(bad)} of {len(values)} units, first in {bad[0]}: "
            "leave these units out of both arms."
        )
    return values


def _check_replicates(replicates: int) -> None:
    if replicates < 1:
        raise TrustqError(f"replicates is {replicates}, expected at least 1: pass some thousands.")


def _sign_flip_test(differences: np.ndarray, seed: int | None, replicates: int) -> SignFlip:
    n = len(differences)
    # Without the tolerance 0.1 + 0.2 would not tie with 0.3, and p would depend on rounding.
    at_least = abs(differences.sum()) - TIE_TOLERANCE * np.abs(differences).sum()
    if n <= EXACT_UP_TO:
        # Flipping every sign keeps the size, so half the patterns, first sign fixed, are enough.
        sums = differences[:1]
        for difference in differences[1:]:
            sums = np.concatenate([sums + difference, sums - difference])
        return SignFlip(float((np.abs(sums) >= at_least).mean()), 2 / 2**n, n, True)
    assert seed is not None
    rng = generator(seed, "sign_flip")
    beyond = 0
    for size in _blocks(replicates, n):
        signs = rng.integers(0, 2, size=(size, n), dtype=np.int8) * 2.0 - 1.0
        beyond += int((np.abs(signs @ differences) >= at_least).sum())
    return SignFlip((beyond + 1) / (replicates + 1), 1 / (replicates + 1), n, False)


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
