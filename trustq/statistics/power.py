"""What a sign-flip test over n units can detect: its power, and the units that an effect needs.

Effects are standardised: the mean difference in units of the standard deviation of the paired
differences between units.
"""

import math
from functools import lru_cache

import numpy as np
import scipy

from trustq.errors import InputError
from trustq.statistics.paired import EXACT_UP_TO

# Units whose 2^(n-1) sign patterns are tried on simulated differences. At 15 and p <= .001
# Student's t promises 4 % too much, at 16 2 %.
SIMULATED_UP_TO = 15
SIMULATED = 1 << 24  # patterns times studies: 4,096 studies of 13 units, 1,024 of 15
LARGEST = 10_000  # units beyond which no design is named
REPLICATES = 9999  # random patterns of the test beyond its exact range


def sign_flip_floor(n: int) -> float:
    """The smallest p-value that n differences can give.

    >>> [sign_flip_floor(n) for n in (5, 6, 30)]
    [0.0625, 0.03125, 0.0001]
    """
    _check_n(n)
    return 2.0 ** (1 - n) if n <= EXACT_UP_TO else 1 / (REPLICATES + 1)


def fewest_units(alpha: float) -> int:
    """The fewest units whose floor lies at or below `alpha`.

    >>> fewest_units(0.05), fewest_units(0.05 / 6)
    (6, 8)
    """
    _check_share(alpha, "alpha")
    found = next((n for n in range(1, EXACT_UP_TO + 2) if sign_flip_floor(n) <= alpha), 0)
    if not found:
        raise InputError(
            f"No number of units reaches a p of {alpha:.2g}: the floor of the test is "
            f"{sign_flip_floor(EXACT_UP_TO + 1):g} however many there are. Compare fewer arms."
        )
    return found


def sign_flip_power(effect: float, n: int, *, alpha: float = 0.05) -> float:
    """Share of studies of n normal differences with this standardised mean that reach p <= alpha.

    In [0, 1]; 0 where the floor lies above `alpha`, whatever the effect. Up to 15 units by trying
    every sign pattern on thousands of quasi-random studies; beyond, Student's t, which the
    sign-flip test of normal differences follows.

    >>> round(sign_flip_power(1.8, 6), 2), sign_flip_power(100.0, 5)
    (0.8, 0.0)
    """
    _check_n(n)
    _check_share(alpha, "alpha")
    if sign_flip_floor(n) > alpha:
        return 0.0
    if n <= SIMULATED_UP_TO:
        return _simulated(abs(effect), n, alpha)
    return _of_t(abs(effect), n, alpha)


def detectable_effect(n: int, *, alpha: float = 0.05, power: float = 0.8) -> float:
    """The smallest standardised effect that n units detect with this power; inf where none is.

    >>> round(detectable_effect(10), 1), detectable_effect(5)
    (1.0, inf)
    """
    _check_share(power, "power")
    if sign_flip_floor(n) > alpha:
        return math.inf
    _check_share(alpha, "alpha")
    return _detectable(n, alpha, power)


def units_needed(effect: float, *, alpha: float = 0.05, power: float = 0.8) -> int | None:
    """The fewest units that detect a standardised effect with this power; None beyond 10,000.

    >>> units_needed(0.5), units_needed(0.0)
    (34, None)
    """
    _check_share(power, "power")
    low, high = fewest_units(alpha) - 1, LARGEST
    if not abs(effect) > 0 or sign_flip_power(effect, high, alpha=alpha) < power:
        return None
    while high - low > 1:  # power rises with the units
        middle = (low + high) // 2
        if sign_flip_power(effect, middle, alpha=alpha) >= power:
            high = middle
        else:
            low = middle
    return high


@lru_cache(maxsize=256)
def _detectable(n: int, alpha: float, power: float) -> float:
    from scipy import optimize

    of = _simulated if n <= SIMULATED_UP_TO else _of_t
    high = 1.0
    while of(high, n, alpha) < power:
        high *= 2
    return float(optimize.brentq(lambda effect: of(effect, n, alpha) - power, 0.0, high, xtol=1e-3))


def _of_t(effect: float, n: int, alpha: float) -> float:
    from scipy import stats

    shift, limit = effect * math.sqrt(n), stats.t.ppf(1 - alpha / 2, n - 1)
    upper = stats.nct.sf(limit, n - 1, shift)
    return float(np.nan_to_num(upper, nan=1.0) + np.nan_to_num(stats.nct.cdf(-limit, n - 1, shift)))


def _simulated(effect: float, n: int, alpha: float) -> float:
    sums, shifts = _patterns(n)
    # A shift of every difference moves a pattern's sum by the balance of its signs.
    moved = np.abs(sums + np.float32(effect) * shifts)
    own = np.abs(sums[:, :1] + np.float32(effect * n))
    share = (moved >= own * np.float32(1 - 1e-6)).mean(axis=1)
    return float((share <= alpha * (1 + 1e-9)).mean())


@lru_cache(maxsize=1)
def _patterns(n: int) -> tuple[np.ndarray, np.ndarray]:
    """Sums of simulated differences under every sign pattern, (studies, patterns), and balances."""
    from scipy.stats import qmc

    size = min(4096, SIMULATED >> (n - 1))
    # Evenly spread points spare nine tenths of the studies.
    points = qmc.Sobol(n, seed=0).random(size)
    differences = scipy.special.ndtri(np.clip(points, 1e-12, 1 - 1e-12))
    # The first sign is held, for a pattern and its mirror image are equally far from 0; the first
    # pattern is the data as they are.
    masks = np.arange(2 ** (n - 1))[:, None] >> np.arange(n - 1) & 1
    signs = np.hstack([np.ones((len(masks), 1)), 1 - 2 * masks])
    return (differences @ signs.T).astype(np.float32), signs.sum(axis=1).astype(np.float32)


def _check_n(n: int) -> None:
    if n < 1:
        raise InputError(f"n is {n}: a test needs at least one unit.", where="n", found=n)


def _check_share(value: float, name: str) -> None:
    if not 0 < value < 1:
        raise InputError(
            f"{name} is {value:g}, expected a share between 0 and 1.", where=name, found=value
        )
