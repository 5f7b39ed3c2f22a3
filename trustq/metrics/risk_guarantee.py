"""A promise about selective risk: at most r, but for a chance of delta."""

import math
from typing import NamedTuple

import numpy as np
import scipy

from trustq.core.generators import generator
from trustq.errors import DishonestError, InputError
from trustq.metrics.selective import checked_ranking, risk_steps

METHODS = ("sgr", "fixed-sequence")
SEQUENCE = 50  # thresholds of a fixed sequence, at equal steps of coverage


class Guarantee(NamedTuple):
    """A threshold with P(risk > `risk`) <= `delta`, where confidence >= threshold is accepted.

    `threshold` is inf, `coverage` 0 and `bound` NaN where no threshold passes: abstain everywhere.
    `bound` is the upper bound on the risk at this threshold, `coverage` that of the `n` rows used,
    `unit` what the risk is of: a random row, or a random row of a random group.
    """

    threshold: float
    bound: float
    coverage: float
    risk: float
    delta: float
    n: int
    n_tested: int
    method: str
    unit: str


def risk_guarantee(
    wrong: np.ndarray,
    confidence: np.ndarray,
    *,
    risk: float,
    delta: float,
    method: str = "sgr",
    groups: np.ndarray | None = None,
    seed: int | None = None,
    sample_ids: np.ndarray | None = None,
    chosen_on: np.ndarray | None = None,
) -> Guarantee:
    """The laxest threshold that these held-out rows prove to have risk <= `risk`, but for `delta`.

    `wrong` and `confidence` are (n,). `sgr` halves the range of thresholds at most ceil(log2 n)
    times, each tested at delta / ceil(log2 n); `fixed-sequence` goes from strict to lax in 50
    steps of coverage, each tested at delta, and ends at the first that fails. A test is the exact
    binomial tail of the errors among the accepted rows. Holds for independent rows where the error
    rate falls with confidence. Rows of one group are not independent: with `groups`, (n,), one row
    per group is drawn from `seed` first, and the promise is about a random row of a random group.
    The rows must not have chosen the score or fitted its calibration: `sample_ids` (of these rows)
    and `chosen_on` (of those) are refused where they overlap. Geifman and El-Yaniv (2017);
    Angelopoulos et al. (2021).

    >>> wrong, confidence = np.arange(200) < 20, np.arange(200)
    >>> found = risk_guarantee(wrong, confidence, risk=0.1, delta=0.05)
    >>> found.threshold, round(found.bound, 3), found.n_tested
    (12.0, 0.094, 7)
    """
    if not 0 < risk < 1 or not 0 < delta < 1:
        raise InputError(
            f"risk is {risk} and delta {delta}, expected shares between 0 and 1: "
            "pass risk=0.05, delta=0.1.",
            where="risk",
            found=risk,
        )
    if method not in METHODS:
        raise InputError(
            f"method is {method!r}: expected {' or '.join(METHODS)}.",
            where="method",
            found=method,
            expected=METHODS,
        )
    wrong, confidence = checked_ranking(wrong, confidence)
    if sample_ids is not None and chosen_on is not None:
        shared = np.isin(np.asarray(sample_ids), np.asarray(chosen_on))
        if shared.any():
            raise DishonestError(
                f"{shared.sum()} of {len(shared)} rows also chose or calibrated the score, so that "
                "no guarantee holds: keep these rows apart."
            )
    unit = "a random row"
    if groups is not None:
        if seed is None:
            raise InputError("groups were given and no seed: one row per group is drawn from it.")
        rows = one_row_per_group(groups, len(wrong), seed)
        wrong, confidence = wrong[rows], confidence[rows]
        unit = "a random row of a random group"
    steps = risk_steps(wrong, confidence)
    n = len(wrong)
    tests = max(1, math.ceil(math.log2(n))) if method == "sgr" else 1
    # Every threshold's binomial tail at once: P(at most so many errors | the risk is `risk`).
    passes = scipy.special.bdtr(steps.errors, steps.kept, risk) <= delta / tests
    if method == "sgr":
        best, n_tested = _halved(passes, steps.kept, n, tests)
    else:
        fewest = math.ceil(math.log(delta) / math.log1p(-risk))
        best, n_tested = _in_sequence(passes, steps.kept, n, fewest)
    if best is None:
        return Guarantee(math.inf, math.nan, 0.0, risk, delta, n, n_tested, method, unit)
    kept, errors = int(steps.kept[best]), int(steps.errors[best])
    bound = (
        scipy.special.betaincinv(errors + 1, kept - errors, 1 - delta / tests)
        if errors < kept
        else 1.0
    )
    threshold = float(steps.threshold[best])
    return Guarantee(threshold, float(bound), kept / n, risk, delta, n, n_tested, method, unit)


def one_row_per_group(groups: np.ndarray, n: int, seed: int) -> np.ndarray:
    """A row of every group, drawn at random: positions in order of the groups' names.

    >>> rows = one_row_per_group(np.array(["a", "a", "b"]), 3, 0)
    >>> rows[0] in (0, 1), int(rows[1])
    (True, 2)
    """
    groups = np.asarray(groups)
    if groups.shape != (n,):
        raise InputError(
            f"groups has shape {groups.shape}, expected ({n},): pass the group of every row.",
            where="groups",
            found=groups.shape,
        )
    order = generator(seed, "one_row_per_group").permutation(n)
    return order[np.unique(groups[order], return_index=True)[1]]


def _halved(passes: np.ndarray, kept: np.ndarray, n: int, tests: int) -> tuple[int | None, int]:
    """Binary search for the laxest threshold that passes, of at most `tests` tests."""
    low, high, best, tested = 0, n, None, 0
    while tested < tests and low < high:
        # The number of rows aimed at; ties round it up to the end of their block.
        middle = (low + high + 1) // 2
        at = int(np.searchsorted(kept, middle))
        tested += 1
        if passes[at]:
            best, low = at, int(kept[at])
        else:
            high = middle - 1
    return best, tested


def _in_sequence(
    passes: np.ndarray, kept: np.ndarray, n: int, fewest: int
) -> tuple[int | None, int]:
    """The last of the thresholds, from strict to lax, before the first that fails."""
    # Equal steps of coverage, fixed before errors are seen. Fewer rows than `fewest` fail however
    # right they are; twice as many bear an error, which else would end the sequence at its start.
    best, tested = None, 0
    for wanted in np.unique(np.linspace(min(2 * fewest, n), n, SEQUENCE).astype(int)):
        at = int(np.searchsorted(kept, wanted))
        tested += 1
        if not passes[at]:
            break
        best = at
    return best, tested
