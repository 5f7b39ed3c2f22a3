"""Intervals of figures from their spread over groups: shares, positive figures, calibration errors.

What each covers in simulations is in `tests/benchmarks/results_coverage.md`.
"""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import scipy

from trustq.core.generators import generator
from trustq.statistics.paired import Interval, share_interval

NOISE_REPLICATES = 2000  # simulated calibration errors: ends move by a thirtieth of the width
TRUTHS = 0.4  # how far from its median a value may lie among its estimates, as a quantile
RESOLUTION = 1e-6  # of a true error that is sought
NOTHING = 1e-8  # a difference below it is one of rounding
ROUNDING = 1e-22  # a variance below it is what floats leave of none
WIDEST = 1e4  # degrees of freedom that are as good as none


class Spread(NamedTuple):
    """Variance of a figure over other groups, and how well it is known."""

    variance: float
    freedom: float  # degrees of freedom

    def quantile(self, level: float) -> float:
        """Student's quantile of a two-sided interval."""
        return float(scipy.special.stdtrit(self.freedom, (1 + level) / 2))


def spread_of(of_groups: np.ndarray) -> Spread:
    """Spread of a figure whose influence is (g,) by group, summing to about 0.

    Degrees of freedom are those of a variance whose terms have this kurtosis, so that a spread that
    a few groups decide counts as known from few. (2 g / (kurtosis - 1), at most g - 1.)
    """
    n = len(of_groups)
    squares = of_groups**2
    total = float(squares.sum())
    if n < 2 or total <= ROUNDING:
        return Spread(0.0, max(n - 1, 1))
    kurtosis = n * float((squares**2).sum()) / total**2
    freedom = min(max(2 * n / max(kurtosis - 1, 1e-12), 2.0), n - 1)
    return Spread(total * n / (n - 1), freedom)


def leaving_out(of_groups: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """Influence of groups as each shows it where it is left out, (g,): the jackknife over groups.

    `sizes` are their shares of the rows. A group of many rows draws the figure towards itself, so
    that its influence looks smaller than it is, and the interval of a set of which one patient has
    most images is far too short. Exact for shares; groups of one size stay as they are.

    >>> leaving_out(np.array([-0.1, 0.1]), np.array([0.5, 0.5])).tolist()
    [-0.1, 0.1]
    """
    return of_groups * (1 - 1 / len(of_groups)) / (1 - sizes) if len(of_groups) > 1 else of_groups


def share_bounds(share: float, spread: Spread, n_groups: int, level: float) -> Interval:
    """Wilson's interval of a figure in [0, 1], with as many rows as its spread is worth.

    A share of 0 or 1 shows no spread: it is worth one row per group, unless a spread is given.

    >>> bounds = share_bounds(1.0, Spread(0.0, 39), 40, 0.95)
    >>> round(bounds.lower, 3), bounds.upper
    (0.907, 1.0)
    """
    worth = float(n_groups)
    if spread.variance > 0:
        inside = min(max(share, 1 / (n_groups + 2)), 1 - 1 / (n_groups + 2))
        worth = inside * (1 - inside) / spread.variance
    return _wilson(share, worth, spread.quantile(level))


def rows_bounds(share: float, spread: Spread, n_groups: int, level: float) -> Interval:
    """`share_bounds` of a share of rows, whose spread (`share_spread`) is worth at most the rows.

    >>> round(rows_bounds(0.95, Spread(0.95 * 0.05 / 20, 19), 5, 0.95).lower, 3)
    0.746
    """
    worth = share * (1 - share) / spread.variance if spread.variance > 0 else float(n_groups)
    return _wilson(share, worth, spread.quantile(level))


def _wilson(share: float, worth: float, t: float) -> Interval:
    middle = (share + t * t / (2 * worth)) / (1 + t * t / worth)
    half = t / (1 + t * t / worth) * math.sqrt(share * (1 - share) / worth + (t / (2 * worth)) ** 2)
    return Interval(min(share, max(0.0, middle - half)), max(share, min(1.0, middle + half)))


def grouped_share_interval(
    hits: np.ndarray, groups: np.ndarray | None = None, *, level: float = 0.95
) -> Interval:
    """Wilson's interval of the share of rows that are hits, rows of one group counting as related.

    `hits` is (n,) of flags, `groups` (n,), without which rows are independent. As many rows are
    counted as the spread between groups is worth, at most n; where every row is a hit, or none,
    groups are counted. NaN bounds for no row.

    >>> hits = np.repeat([True, True, True, False], 5)
    >>> [round(x, 2) for x in grouped_share_interval(hits)]
    [0.53, 0.89]
    >>> [round(x, 2) for x in grouped_share_interval(hits, np.repeat(np.arange(4), 5))]
    [0.13, 0.98]
    """
    hits = np.asarray(hits, dtype=bool)
    n = len(hits)
    if groups is None or not n:
        return share_interval(int(hits.sum()), n, level=level)
    codes = np.unique(groups, return_inverse=True)[1].ravel()
    sizes = np.bincount(codes)
    if len(sizes) == n:
        return share_interval(int(hits.sum()), n, level=level)
    if len(sizes) == 1:
        return Interval(math.nan, math.nan)
    return ratio_bounds(np.bincount(codes, weights=hits), sizes, level)


def ratio_bounds(hits: np.ndarray, rows: np.ndarray, level: float) -> Interval:
    """Wilson's interval of the share of rows that are hits, from both by group, (g,), rows > 0."""
    n_groups, total = len(rows), float(rows.sum())
    share = float(hits.sum()) / total
    spread = share_spread(share, hits - share * rows, rows)
    if total == n_groups:  # single rows are binomial
        spread = spread._replace(freedom=n_groups - 1)
    return rows_bounds(share, spread, n_groups, level)


def share_spread(share: float, residuals: np.ndarray, rows: np.ndarray) -> Spread:
    """Spread of a share of rows, from hits less the share of rows and rows, by group, (g,).

    Where few rows miss, the large groups often have no miss, and their own residuals then hide what
    they vary by. So the variance is at least what groups of these sizes would have if rows of all
    of them were as alike as rows show on average; with groups of one size both are the same.
    """
    n_groups, total = len(rows), float(rows.sum())
    spread = spread_of(leaving_out(residuals / total, rows / total))
    if spread.variance <= 0:
        return spread
    binary = share * (1 - share)
    alike = 0.0  # correlation of two rows of one group; related rows may look unrelated by chance
    many = rows > 1
    if many.any():
        seen = float((residuals[many] ** 2 / rows[many]).sum()) / binary * n_groups / (n_groups - 1)
        alike = (seen - int(many.sum())) / float((rows[many] - 1).sum())
        alike = min(max(alike, 0.0), 1.0)
    expected = binary * (total + alike * (float((rows**2).sum()) - total)) / total**2
    # How alike rows are is known from groups that count by their rows, not by their squares.
    modelled = Spread(expected, spread_of(residuals / np.sqrt(rows)).freedom)
    return max(spread, modelled, key=lambda one: one.quantile(0.95) ** 2 * one.variance)


def positive_bounds(value: float, spread: Spread, level: float) -> Interval:
    """Interval of a figure above 0, on the scale of its logarithm."""
    if value <= 0 or spread.variance <= 0:
        return Interval(math.nan, math.nan)
    factor = math.exp(spread.quantile(level) * math.sqrt(spread.variance) / value)
    return Interval(value / factor, value * factor)


class CalibrationEstimate(NamedTuple):
    """A binned calibration error: as it is, without its bias, and its interval."""

    value: float
    debiased: float
    lower: float
    upper: float


class BinSums(NamedTuple):
    """What a binned calibration error is made of.

    `of_groups` is (g, bins): sums of right - confidence over n by group and bin; `sizes` (g,) the
    share of rows of each group, `weights` (bins,) of each bin; `floor` (bins,) the least variance
    of a bin's sum, for a bin whose rows are all right shows none.
    """

    of_groups: np.ndarray
    sizes: np.ndarray
    weights: np.ndarray
    floor: np.ndarray

    @property
    def gaps(self) -> np.ndarray:
        """Sums of right - confidence over n by bin, (bins,)."""
        sums: np.ndarray = self.of_groups.sum(axis=0)
        return sums


def calibration_bounds(
    bins: BinSums,
    *,
    seed: int,
    level: float = 0.95,
) -> CalibrationEstimate:
    """ECE with an interval of the error that other groups would show without end.

    The binned error of n rows is too large, for noise in a bin adds up and never cancels, so that
    percentile intervals lie above the truth. Here the truth that could have given the value is
    sought. Gaps of bins are drawn as likely given those seen (`likely_gaps`): a smaller error has
    them in proportion, in a larger one they grow where they are least known. Noise has the
    covariance of groups. `upper` is the largest error whose 2.5 % quantile does not exceed the
    value, and at least the value itself; `debiased` that whose median it is. `lower` is 0 where the
    value is within 97.5 % of those of a calibrated model, else the smallest error that could have
    given it: with a chance of 2.5 %, and of what `upper` does not miss because it holds the value.
    """
    value = float(np.abs(bins.gaps).sum())
    if len(bins.of_groups) < 2:
        return CalibrationEstimate(value, math.nan, math.nan, math.nan)
    (errors,) = _simulated([bins], seed=seed)
    tail = (1 - level) / 2
    median, upper = (errors.behind(value, q) for q in (0.5, tail))
    lower = errors.least_behind(value, level)
    return CalibrationEstimate(value, median, min(lower, value), min(1.0, max(upper, value)))


def calibration_difference_bounds(
    a: BinSums, b: BinSums, *, seed: int, level: float = 0.95
) -> Interval:
    """Interval of the difference of two calibration errors on the same groups, a minus b.

    Both are simulated with noise that varies together as the groups show. How much noise adds
    depends on the error itself, so several pairs of truths are tried: both large, both small, and,
    as far as the arms vary apart, one large and one small. The interval holds what the errors of
    these simulations leave, and the difference of the values.
    """
    if len(a.of_groups) < 2:
        return Interval(math.nan, math.nan)
    values = [float(np.abs(own.gaps).sum()) for own in (a, b)]
    arms = _simulated([a, b], seed=seed)
    tail = (1 - level) / 2
    difference = values[0] - values[1]
    lower = upper = difference

    def errors_at(*quantiles: float) -> list[np.ndarray]:
        found = []
        for value, arm, q in zip(values, arms, quantiles, strict=True):
            truth = arm.behind(value, q)
            found.append(arm.estimates(truth) - truth)
        return found

    middle = errors_at(0.5, 0.5)
    spreads = [float(errors.std()) for errors in middle]
    together = float(np.corrcoef(middle)[0, 1]) if min(spreads) > NOTHING else 0.0
    apart = TRUTHS * math.sqrt(min(max(1 - together, 0.0), 1.0))
    tried = [middle]
    tried += [errors_at(0.5 - way * TRUTHS, 0.5 - way * TRUTHS) for way in (1, -1)]
    tried += [errors_at(0.5 - way * apart, 0.5 + way * apart) for way in (1, -1)]
    for errors in tried:
        low, high = (float(np.quantile(errors[0] - errors[1], t)) for t in (tail, 1 - tail))
        if max(abs(low), abs(high)) > NOTHING:  # else an arm and itself
            lower, upper = min(lower, difference - high), max(upper, difference - low)
    return Interval(lower, upper)


class _SimulatedErrors(NamedTuple):
    """What binned errors may be behind a true one: (replicates, bins) of the bins with rows."""

    gaps: np.ndarray  # likely given the gaps seen, with signs
    sizes: np.ndarray  # (replicates, 1): their true errors
    growing: np.ndarray  # (bins,): what of a larger error lies in which bin
    noise: np.ndarray

    def estimates(self, error: float) -> np.ndarray:
        """Binned errors, (replicates,), of rows whose true error is `error`."""
        less = np.where(self.sizes > error, error / np.maximum(self.sizes, error), 1.0)
        more = np.maximum(error - self.sizes, 0.0)
        gaps = self.gaps * less + np.copysign(more * self.growing, self.gaps)
        found: np.ndarray = np.abs(gaps + self.noise).sum(axis=1)
        return found

    def behind(self, value: float, q: float) -> float:
        """The true error whose estimates have `value` as their quantile q, 0 where it is less."""
        return _reaching(lambda error: float(np.quantile(self.estimates(error), q)), value)

    def least_behind(self, value: float, level: float) -> float:
        """The least true error for which `value` is not too large."""
        tail = (1 - level) / 2

        def most(error: float) -> float:
            found = self.estimates(error)
            missed = float(np.mean(found < min(float(np.quantile(found, tail)), error)))
            return float(np.quantile(found, level + missed))

        if float(np.quantile(self.estimates(0.0), 1 - tail)) >= value:
            return 0.0
        return _reaching(most, value)


def _reaching(figure: Callable[[float], float], value: float) -> float:
    """Where a figure of the true error, which grows with it, reaches a value; at least 0."""
    if figure(0.0) >= value:
        return 0.0
    high = min(1.0, value + 0.05)
    while (found := figure(high)) < value:
        if high >= 2:
            return high
        high *= 1.5
    if found == value:
        return high
    return float(
        scipy.optimize.brentq(lambda error: figure(error) - value, 0.0, high, xtol=RESOLUTION)
    )


def _simulated(arms: Sequence[BinSums], *, seed: int) -> list[_SimulatedErrors]:
    found = []
    for own, noise in zip(arms, gap_noise(arms, seed=seed), strict=True):
        used = own.weights > 0
        drawn = len(noise) // len(arms)
        variance = noise[:, used].var(axis=0)
        gaps = likely_gaps(own.gaps[used], own.weights[used], variance, drawn, seed=seed)
        # As the noise of arms, whose first half is the other with the arms exchanged.
        gaps = np.tile(gaps, (len(arms), 1))
        sizes = np.abs(gaps).sum(axis=1, keepdims=True)
        growing = variance / max(float(variance.sum()), ROUNDING)
        found.append(_SimulatedErrors(gaps, sizes, growing, noise[:, used]))
    return found


def gap_noise(arms: Sequence[BinSums], *, seed: int) -> list[np.ndarray]:
    """Simulated noise of the sums of bins of each arm, (replicates, bins), as groups vary.

    Arms vary together. Swapping two arms swaps their noise: half of the draws are the other half
    with the arms exchanged.
    """
    n_groups, n_bins = arms[0].of_groups.shape
    # Groups vary in size: what one adds to a bin is its sum less what its size would give.
    centred = np.concatenate(
        [own.of_groups - own.sizes[:, None] * own.gaps for own in arms], axis=1
    )
    covariance = centred.T @ centred * n_groups / (n_groups - 1)
    places = np.arange(n_bins)
    lacking = [
        np.maximum(own.floor - np.diag(covariance)[place * n_bins + places], 0)
        for place, own in enumerate(arms)
    ]
    for i in range(len(arms)):
        for j in range(len(arms)):
            at = (i * n_bins + places, j * n_bins + places)
            covariance[at] += np.minimum(lacking[i], lacking[j])
    sizes, directions = np.linalg.eigh(covariance)
    root = (directions * np.sqrt(np.maximum(sizes, 0))) @ directions.T
    rng = generator(seed, "calibration_noise")
    drawn = rng.standard_normal((NOISE_REPLICATES // len(arms), len(covariance)))
    # Student's, not normal: the covariance is estimated from this many groups.
    freedom = min(n_groups - 1, WIDEST)
    drawn *= np.sqrt(freedom / rng.chisquare(freedom, len(drawn)))[:, None]
    if len(arms) == 2:
        drawn = np.concatenate([drawn, np.roll(drawn, n_bins, axis=1)])
    return np.split(drawn @ root, len(arms), axis=1)


def likely_gaps(
    gaps: np.ndarray, weights: np.ndarray, variance: np.ndarray, n: int, *, seed: int
) -> np.ndarray:
    """Gaps of bins, times the bins' shares of rows, that may be behind those seen: (n, bins).

    Mean gaps of bins are taken as normal around one mean, with a spread between bins; mean, spread
    and gaps are drawn given the gaps seen, so that bins that tell nothing take after the others.
    The mean of such draws instead of each would have no gap where it is not known which sign a gap
    has, and so an interval that is too short upwards.
    """
    noise = np.maximum(variance, ROUNDING) / weights**2
    mean_gaps = gaps / weights
    spreads = np.append(0.0, np.geomspace(0.003, 0.5, 25))[:, None]
    precision = 1 / (noise + spreads**2)
    total = precision.sum(axis=1)
    centre = (precision * mean_gaps).sum(axis=1) / total
    likelihood = 0.5 * (
        np.log(precision).sum(axis=1)
        - np.log(total)
        - (precision * (mean_gaps - centre[:, None]) ** 2).sum(axis=1)
    )
    # A quarter of the prior on no spread between bins, the rest evenly over the others.
    prior = np.append(0.25, np.full(25, 0.03))
    posterior = np.exp(likelihood - likelihood.max()) * prior
    # The same numbers for every arm, so that an arm and itself have the same gaps.
    rng = generator(seed, "calibration_gaps")
    drawn = rng.choice(len(spreads), n, p=posterior / posterior.sum())
    middle = centre[drawn] + rng.standard_normal(n) / np.sqrt(total[drawn])
    square, kept = spreads[drawn] ** 2, precision[drawn]
    known = middle[:, None] + square * kept * (mean_gaps - middle[:, None])
    drawn_gaps = known + np.sqrt(square * noise * kept) * rng.standard_normal(known.shape)
    return np.asarray(weights * drawn_gaps)
