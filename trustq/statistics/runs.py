"""Two arms over runs of several networks and draws: one test and one interval for every command.

A run is one network (a backbone seed) with one draw (of noise, folds, random purchases). Runs of
one network share it, and runs of one draw share the draw, so runs are never independent units.
"""

import math
from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np
import scipy

from trustq.core.counts import counted
from trustq.errors import InputError
from trustq.statistics.paired import (
    EXACT_UP_TO,
    TIE_TOLERANCE,
    check_level,
    checked_pair,
    drawn_signs,
    sign_patterns,
    unchecked_sign_flip_test,
)

REPLICATES = 9999  # random sign patterns beyond 20 networks
# How much Cochran's and Cox's quantile counts beside Satterthwaite's.
COX = 0.25
COX_OF_TWO_DRAWS = 0.05  # a network, beyond the second: two draws hardly show their spread

Unit = Literal["network", "draw"]


class Parts(NamedTuple):
    """What makes a mean over runs vary: variances of the mean, and units that each rests on."""

    of_networks: float
    of_draws: float
    n_networks: int
    n_draws: int


class RunComparison(NamedTuple):
    """Paired comparison of two arms over runs, a minus b.

    `differences` has one number per unit; `copies` says that the draws of the one network are
    copies of each other, so that nothing can be tested.
    """

    unit: Unit
    n: int
    n_networks: int
    n_draws: int
    mean: float
    sd: float
    lower: float
    upper: float
    p_value: float
    floor: float
    exact: bool
    copies: bool
    of_a: np.ndarray
    of_b: np.ndarray
    differences: np.ndarray


def compare_runs(
    a: np.ndarray,
    b: np.ndarray,
    *,
    networks: Sequence[object],
    draws: Sequence[object],
    seed: int = 0,
    level: float = 0.95,
) -> RunComparison:
    """Test and interval of the mean of a - b over paired runs of several networks and draws.

    `a` and `b` are (r,), the same runs in the same order; `networks` and `draws` name those of each
    run. Where there are two networks or more, a network is the unit: differences are averaged over
    its draws, and signs of networks are flipped, exactly up to 20. Draws that networks share (the
    same noise) move all of them together, which flips cannot see: where the runs show it, p is
    enlarged by the variance of the shared draws. So p never lies below 2/2^n, and below six
    networks no p reaches .05. With one network the draws are the units, and the answer is about
    other draws for this very network.

    The interval adds the variance of networks and that of shared draws; its quantile lies between
    Satterthwaite's and Cochran's and Cox's weighting of Student quantiles. Simulated with four
    networks and 2, 4 or 10 draws it covers 94 to 97 %, `benchmarks/results_coverage.md`. NaN bounds
    for a single unit. Errors: NaN, runs of unequal number, a run twice.

    >>> a, b = np.array([0.8, 0.7, 0.9, 0.8]), np.array([0.7, 0.7, 0.6, 0.7])
    >>> found = compare_runs(a, b, networks=[1, 1, 2, 2], draws=[1, 2, 1, 2])
    >>> found.unit, found.n, found.floor, found.differences.round(6).tolist()
    ('network', 2, 0.5, [0.05, 0.2])
    """
    a, b = checked_pair(a, b)
    check_level(level)
    if not len(a) == len(networks) == len(draws):
        raise InputError(
            f"There are {counted(len(a), 'run')}, {len(networks)} networks and {len(draws)} draws: "
            "name the network and the draw of every run."
        )
    of_network, of_draw = numbered_groups(networks), numbered_groups(draws)
    if len(set(zip(of_network.tolist(), of_draw.tolist(), strict=True))) < len(a):
        raise InputError("A run is given twice: average runs of one network and draw before.")
    n_networks, n_draws = int(of_network.max()) + 1, int(of_draw.max()) + 1
    unit: Unit = "network" if n_networks > 1 or n_draws == 1 else "draw"
    codes, n = (of_network, n_networks) if unit == "network" else (of_draw, n_draws)
    of_a, of_b = (np.bincount(codes, weights=x) / np.bincount(codes) for x in (a, b))
    differences = of_a - of_b
    # Stored noise and cross-fitted scores leave nothing to draw: equal draws are no evidence.
    copies = unit == "draw" and np.ptp(of_a) == 0 and np.ptp(of_b) == 0
    parts = run_parts((a - b)[None], of_network, of_draw)[0]
    mean = float(differences.mean())
    lower, upper, sd = math.nan, math.nan, math.nan
    p_value, floor, exact = 1.0, 1.0, True
    if n > 1 and not copies:
        sd = float(differences.std(ddof=1))
        half = half_width(parts, level=level)
        lower, upper = mean - half, mean + half
        p_value, floor, _, exact = unchecked_sign_flip_test(differences, seed, REPLICATES)
        p_value = max(p_value, _with_shared_draws(differences, parts, seed))
    return RunComparison(
        unit=unit,
        n=n,
        n_networks=n_networks,
        n_draws=n_draws,
        mean=mean,
        sd=sd,
        lower=lower,
        upper=upper,
        p_value=p_value,
        floor=floor,
        exact=exact,
        copies=bool(copies),
        of_a=of_a,
        of_b=of_b,
        differences=differences,
    )


def run_parts(differences: np.ndarray, networks: np.ndarray, draws: np.ndarray) -> list[Parts]:
    """Variance components of the mean difference over runs, one for each row of (m, r).

    `networks` and `draws` are (r,) of codes from 0. The mean is that of the network means, each
    averaged over its draws (with one network, over draws). The part of the draws is the covariance
    of two networks in the same draws, after each network's own mean, so it is 0 in expectation
    where networks do not share what is drawn.
    """
    n_networks, n_draws = int(networks.max()) + 1, int(draws.max()) + 1
    if n_networks == 1:
        spread = differences.var(axis=1, ddof=1) / n_draws if n_draws > 1 else [0.0]
        return [
            Parts(0.0, float(one), 1, n_draws) for one in np.broadcast_to(spread, len(differences))
        ]
    table = np.full((len(differences), n_networks, n_draws), np.nan)
    table[:, networks, draws] = differences
    with np.errstate(invalid="ignore"):
        means = np.nanmean(table, axis=2)
    of_networks = means.var(axis=1, ddof=1) / n_networks
    known = ~np.isnan(table[0])
    residuals = np.where(known, table - means[:, :, None], 0.0)
    # Pairs of networks with two draws in common and more: products over draws, less the degree of
    # freedom that the networks' own means take.
    together = (known[:, None] & known[None]).sum(axis=2)
    products = np.einsum("mid,mjd->mij", residuals, residuals)
    upper = np.triu_indices(n_networks, 1)
    used = together[upper] > 1
    shared = np.zeros(len(differences))
    if used.any():
        freedom = float((together[upper][used] - 1).sum())
        shared = np.maximum(products[:, upper[0][used], upper[1][used]].sum(axis=1) / freedom, 0)
    return [
        Parts(float(one), float(draw) / n_draws, n_networks, n_draws)
        for one, draw in zip(of_networks, shared, strict=True)
    ]


def half_width(
    parts: Parts, *, of_groups: float = 0.0, group_freedom: float = 1.0, level: float
) -> float:
    """Half of the interval of a mean over runs, and over groups of examples where they are drawn.

    Each part has the Student quantile of its own degrees of freedom. Cochran's and Cox's weighting
    of these quantiles covers 95 to 98 %, Satterthwaite's degrees of freedom 91 to 96 %: a quarter
    of the one and three of the other keep 94 to 97 % with four networks. Two draws show their
    spread so badly that the weight must grow with the networks, from a tenth with four of them.
    """
    variances = np.array([parts.of_networks, parts.of_draws, of_groups])
    freedom = np.maximum([parts.n_networks - 1, parts.n_draws - 1, group_freedom], 1.0)
    total = variances.sum()
    if total <= 0:
        return 0.0
    tail = (1 + level) / 2
    weighted = (scipy.special.stdtrit(freedom, tail) * variances).sum() / math.sqrt(total)
    satterthwaite = scipy.special.stdtrit(
        total**2 / (variances**2 / freedom).sum(), tail
    ) * math.sqrt(total)
    cox = COX
    if parts.n_draws == 2 and parts.n_networks > 1:
        cox = min(1.0, COX_OF_TWO_DRAWS * (parts.n_networks - 2))
    return float(cox * weighted + (1 - cox) * satterthwaite)


def _with_shared_draws(differences: np.ndarray, parts: Parts, seed: int) -> float:
    """p of the mean of networks whose signs are flipped, blurred by the draws that they share."""
    if parts.n_networks == 1 or parts.of_draws <= 0:
        return 0.0
    n = len(differences)
    # Few draws show their spread badly, which Student's quantile makes up for; the flips, which are
    # about 0 and not about the mean, make up for a part of it already. As in the view `paired`.
    normal = float(scipy.special.ndtri(0.975)) ** 2
    freedom = max(parts.n_draws - 1, 1)
    widened = float(scipy.special.stdtrit(freedom, 0.975)) ** 2 / normal * (1 - normal / n)
    sd = math.sqrt(parts.of_draws * max(1.0, widened))
    mean = abs(float(differences.mean()))
    if sd <= TIE_TOLERANCE * float(np.abs(differences).mean()):
        return 0.0
    if n <= EXACT_UP_TO:
        means = sign_patterns(differences) / n
    else:
        means = (
            np.concatenate([signs @ differences for signs in drawn_signs(n, seed, REPLICATES)]) / n
        )
    beyond = scipy.special.ndtr((means - mean) / sd) + scipy.special.ndtr((-means - mean) / sd)
    return float(min(1.0, beyond.mean()))


def over_runs(unit: str, n_networks: int, n_draws: int) -> str:
    """What a comparison over runs is about, in words for a note.

    >>> over_runs("network", 4, 10)
    '4 networks, each averaged over its draws, 10 in all'
    >>> over_runs("draw", 1, 5)
    '5 draws of one network: about other draws, not about other networks'
    """
    if unit == "network":
        of = f", each averaged over its draws, {n_draws} in all" if n_draws > 1 else ""
        if n_draws == 2 and n_networks > 1:
            of += (
                ", which hardly show how draws vary: p may be too small and the interval too short"
            )
        return f"{n_networks} networks{of}" if n_networks > 1 else "one network and one draw"
    return f"{n_draws} draws of one network: about other draws, not about other networks"


def numbered_groups(names: Sequence[object]) -> np.ndarray:
    """Codes from 0 in order of appearance; None, of an imported cache, is a name like another."""
    known: dict[object, int] = {}
    return np.array([known.setdefault(name, len(known)) for name in names])
