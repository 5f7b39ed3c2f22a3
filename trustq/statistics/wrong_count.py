"""How many are wrong in a finite set of which some were answered: an estimate with its interval."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import scipy

from trustq.core.generators import generator

_DRAWS = 4000


@dataclass(frozen=True)
class Stratum:
    """Rows of which a random sample was answered.

    `n_open` rows are unanswered. Of the `n_sampled` answered ones, drawn uniformly from the whole
    stratum, `n_wrong` were wrong and of `n_unknown` nobody could tell. `assumed` is the share wrong
    that the value takes where no answered row can tell; the interval then takes none or all.
    """

    n_open: int
    n_sampled: int
    n_wrong: int
    n_unknown: int = 0
    assumed: float | None = None


@dataclass(frozen=True)
class WrongCount:
    """How many of `n_rows` rows are wrong: `value`, and a 95 % interval from `low` to `high`.

    `value` is None where a stratum with open rows has no answer at all: nothing is known of it.
    `n_unknown` answered rows are counted as right in `low` and as wrong in `high`.
    """

    value: float | None
    low: int
    high: int
    n_rows: int
    n_answered: int
    n_wrong: int
    n_unknown: int


def wrong_count(
    strata: Sequence[Stratum], *, n_answered: int, n_wrong: int, n_unknown: int = 0
) -> WrongCount:
    """Estimate the number wrong from all answered rows and random samples of the unanswered.

    `n_answered` rows were answered, however they were chosen, and `n_wrong` of them were wrong; the
    strata divide the others. The value adds to the known ones each stratum's share, so that it is
    right on average whatever the model says. The interval is that of Jeffreys' posterior of each
    share and of the rows that are left: 95 % at one look. It is no bound for stopping when it looks
    good; `share_bound` is.

    >>> found = wrong_count([Stratum(900, 100, 5)], n_answered=100, n_wrong=5)
    >>> found.value, found.low, found.high
    (50.0, 21, 104)
    >>> wrong_count([Stratum(1000, 0, 0)], n_answered=0, n_wrong=0).high
    1000
    """
    rng = generator(0, "wrong count")
    low, high = np.full(_DRAWS, n_wrong), np.full(_DRAWS, n_wrong + n_unknown)
    value: float | None = float(n_wrong)
    most = 0
    for part in strata:
        told = part.n_sampled - part.n_unknown
        if value is not None and part.n_open:
            share = part.n_wrong / told if told else part.assumed
            value = None if share is None else value + part.n_open * share
        if not part.n_open:
            continue
        if not part.n_sampled:  # nothing is known: all of them or none
            most += part.n_open
            continue
        for draws, n_bad in ((low, part.n_wrong), (high, part.n_wrong + part.n_unknown)):
            shares = rng.beta(n_bad + 0.5, part.n_sampled - n_bad + 0.5, _DRAWS)
            draws += rng.binomial(part.n_open, shares)
    least = int(np.quantile(low, 0.025))
    highest = int(np.ceil(np.quantile(high, 0.975))) + most
    return WrongCount(
        value=value,
        # Where none of a sample is wrong, the posterior may leave out the value itself.
        low=least if value is None else min(least, int(value)),
        high=highest if value is None else max(highest, int(np.ceil(value))),
        n_rows=n_answered + sum(part.n_open for part in strata),
        n_answered=n_answered,
        n_wrong=n_wrong,
        n_unknown=n_unknown,
    )


def calibrated_wrong(p_wrong: np.ndarray, answered: np.ndarray, wrong: np.ndarray) -> np.ndarray:
    """Each row's probability of being wrong, (n,), as answers correct a model's `p_wrong`, (n,).

    A line through the log-odds, fitted to the rows `answered` (m,) of positions, of which `wrong`,
    (m,), were. Before the first answer it is `p_wrong` itself; few answers move it little, for the
    line starts as the identity (its offset has a standard deviation of 2, its slope of .5).

    >>> p = np.array([0.9, 0.8, 0.6, 0.4, 0.2])
    >>> few = calibrated_wrong(p, np.array([0, 1]), np.array([False, False]))
    >>> bool((few < p).all())
    True
    """
    clipped = np.clip(p_wrong, 1e-3, 1 - 1e-3)
    odds = np.log(clipped / (1 - clipped))
    design = np.stack([np.ones(len(answered)), odds[answered]], axis=1)
    line = _penalised_line(design, np.asarray(wrong, dtype=np.float64))
    return np.asarray(scipy.special.expit(line[0] + line[1] * odds))


_START = np.array([0.0, 1.0])  # the identity
_WEAK = np.array([1 / 2.0**2, 1 / 0.5**2])


def _penalised_line(design: np.ndarray, wrong: np.ndarray) -> np.ndarray:
    """Offset and slope of the lowest penalised log loss, by Newton's steps; it is convex."""

    def loss(line: np.ndarray) -> float:
        z = design @ line
        fit = np.logaddexp(0, z).sum() - wrong @ z
        return float(fit + _WEAK @ (line - _START) ** 2 / 2)

    line = _START
    for _ in range(50):
        share = scipy.special.expit(design @ line)
        slope = design.T @ (wrong - share) - _WEAK * (line - _START)
        curve = (design * (share * (1 - share))[:, None]).T @ design + np.diag(_WEAK)
        step = np.linalg.solve(curve, slope)
        # Where a model is sure and wrong throughout, whole steps go further and further out.
        while loss(line + step) > loss(line) + 1e-12 and np.abs(step).max() > 1e-12:
            step = step / 2
        line = line + step
        if np.abs(step).max() < 1e-10:
            break
    return line
