"""Trust cells: correct x confident x stable, and whether stability adds anything to confidence.

Cuts are chosen on validation rows. The question is answered by comparing rows that are confident
and stable with as many of the most confident ones, on the same test rows, groups drawn whole.
"""

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from trustq.core.generators import generator
from trustq.errors import InputError
from trustq.statistics.intervals import grouped_share_interval
from trustq.statistics.paired import Interval, SignFlip, sign_flip_test

REPLICATES = 10_000
_BLOCK = 1 << 22


@dataclass(frozen=True)
class TrustRows:
    """Rows of one network: all (n,). `stability` is higher where maps hold still, NaN if blank.

    `confidence` is any ranking, e.g. log-odds; `groups` are names or numbers.
    """

    correct: np.ndarray
    confidence: np.ndarray
    stability: np.ndarray
    groups: np.ndarray

    def __post_init__(self) -> None:
        lengths = {name: len(values) for name, values in vars(self).items()}
        if len(set(lengths.values())) > 1:
            raise InputError(f"Rows of trust cells have different lengths: {lengths}.")


@dataclass(frozen=True)
class Cuts:
    """Where confident and stable begin, inclusive, and on how many validation rows that was found.

    Each is the value that best tells right rows from wrong ones: the largest sum of sensitivity and
    specificity (Youden 1950).
    """

    confidence: float
    stability: float
    n: int


@dataclass(frozen=True)
class Cell:
    """One of the eight: how many of the rows it holds, with an interval of the share by group."""

    correct: bool
    confident: bool
    stable: bool
    n: int
    share: float
    interval: Interval


@dataclass(frozen=True)
class AddedValue:
    """Risk of confident and stable rows against as many of the most confident ones.

    `difference` is the mean over networks of stable minus matched; below 0 stability helps.
    """

    coverage: float
    risk_confident: float  # of all confident rows
    coverage_confident: float
    risk_stable: float  # confident and stable
    risk_matched: float  # as many rows, by confidence alone
    difference: float
    interval: Interval
    by_network: tuple[float, ...]
    sign_flip: SignFlip | None  # over networks; None for one
    n_groups: int

    @property
    def adds(self) -> bool:
        """Whether the interval lies below 0: stability lowers the risk at equal coverage."""
        return bool(self.interval.upper < 0)


def choose_cuts(rows: TrustRows) -> Cuts:
    """Cuts from validation rows.

    Raises `TrustqError` where all rows are right, or none: nothing tells them apart then.

    >>> rows = TrustRows(np.array([1, 1, 0, 0]), np.array([4, 3, 2, 1]), np.array([0.9, 0.2, 0.3,
    ...     0.1]), np.arange(4))
    >>> choose_cuts(rows)
    Cuts(confidence=3.0, stability=0.2, n=4)
    """
    correct = np.asarray(rows.correct, dtype=bool)
    require_both(correct)
    return Cuts(_youden(rows.confidence, correct), _youden(rows.stability, correct), len(correct))


def require_both(correct: np.ndarray) -> None:
    """Raise unless some validation rows are right and some wrong."""
    if correct.all() or not correct.any():
        said = "right" if len(correct) and correct.all() else "wrong"
        raise InputError(
            f"All {len(correct):,} validation rows are {said}, so no cut tells right from wrong "
            "ones. Give more validation rows, or state both cuts (`confidence_cut`, "
            "`stability_cut`)."
        )


def trust_cells(rows: TrustRows, cuts: Cuts, *, level: float = 0.95) -> list[Cell]:
    """All eight cells of some rows, correct, confident and stable first.

    A row without stability (a blank map) is not stable. Shares add up to 1.

    >>> rows = TrustRows(np.array([1, 0]), np.array([2.0, 2.0]), np.array([1.0, 0.0]), np.arange(2))
    >>> [cell.n for cell in trust_cells(rows, Cuts(1.0, 0.5, 9))]
    [1, 0, 0, 0, 0, 1, 0, 0]
    """
    flags = np.stack(_flags(rows, cuts), axis=1)
    cells = []
    for wanted in itertools.product((True, False), repeat=3):
        inside = (flags == wanted).all(axis=1)
        share = float(inside.mean()) if len(inside) else math.nan
        interval = grouped_share_interval(inside, rows.groups, level=level)
        correct, confident, stable = wanted
        cells.append(Cell(correct, confident, stable, int(inside.sum()), share, interval))
    return cells


def added_value(
    networks: Sequence[TrustRows],
    cuts: Sequence[Cuts],
    *,
    seed: int = 0,
    replicates: int = REPLICATES,
    level: float = 0.95,
) -> AddedValue:
    """Whether stability adds to confidence at equal coverage, on the test rows of each network.

    Every network has the same rows in the same order. Groups are drawn whole, the same for all
    networks, and networks are drawn too where there are several; in each replicate the confidence
    that accepts as many rows is found again. A block of equal confidences is accepted in part, as a
    random order would on average. Raises `TrustqError` where no row is confident and stable.
    """
    groups = networks[0].groups
    codes = np.unique(groups, return_inverse=True)[1].ravel()
    n_groups = int(codes.max()) + 1
    arms = [_Arm(rows, cut) for rows, cut in zip(networks, cuts, strict=True)]
    ones = np.ones((1, len(groups)))
    points = np.array([arm.figures(ones)[0] for arm in arms])  # (s, 5)
    if not (points[:, 0] > 0).all():
        raise InputError(
            "No test row is confident and stable in one of the networks, so its risk is of "
            "nothing. Lower a cut (`confidence_cut`, `stability_cut`)."
        )
    by_network = points[:, 1] - points[:, 2]
    rng = generator(seed, "added value of stability")
    drawn = []
    width = max(1, _BLOCK // max(len(groups), 1))
    for start in range(0, replicates, width):
        size = min(width, replicates - start)
        picks = rng.integers(0, n_groups, (size, n_groups))
        counts = np.stack([np.bincount(pick, minlength=n_groups) for pick in picks])
        weights = counts[:, codes].astype(np.float64)
        found = np.stack([arm.figures(weights) for arm in arms])  # (s, size, 5)
        differences = found[:, :, 1] - found[:, :, 2]
        of_networks = rng.integers(0, len(arms), (len(arms), size))
        drawn.append(np.take_along_axis(differences, of_networks, axis=0).mean(axis=0))
    replicated = np.concatenate(drawn)
    tails = np.nanquantile(replicated, [(1 - level) / 2, (1 + level) / 2])
    mean = points.mean(axis=0)
    return AddedValue(
        coverage=float(mean[0]),
        risk_stable=float(mean[1]),
        risk_matched=float(mean[2]),
        coverage_confident=float(mean[3]),
        risk_confident=float(mean[4]),
        difference=float(by_network.mean()),
        interval=Interval(float(tails[0]), float(tails[1])),
        by_network=tuple(by_network.tolist()),
        sign_flip=sign_flip_test(by_network) if len(arms) > 1 else None,
        n_groups=n_groups,
    )


def verdict(found: AddedValue) -> str:
    """The answer in a paragraph, with a no where it is a no."""
    shown = (
        f"At {found.coverage:.1%} coverage, confident and stable rows are wrong in "
        f"{found.risk_stable:.2%}, as many rows by calibrated confidence alone in "
        f"{found.risk_matched:.2%}: difference {found.difference * 100:+.2f} points "
        f"[{found.interval.lower * 100:+.2f}, {found.interval.upper * 100:+.2f}] "
        f"({found.n_groups:,} groups drawn whole"
        + (f", {len(found.by_network)} networks" if len(found.by_network) > 1 else "")
        + ")."
    )
    if found.adds:
        answer = "Yes: stability lowers the risk at equal coverage."
    elif found.interval.lower > 0:
        answer = (
            "No: at equal coverage, asking for stability raises the risk. Confidence alone is "
            "better."
        )
    else:
        answer = (
            "No: the interval holds 0, so these rows do not show that stability adds anything to "
            "confidence."
        )
    if found.sign_flip is not None:
        answer += (
            f" Over networks alone: sign-flip p = {found.sign_flip.p_value:.3g}, at least "
            f"{found.sign_flip.floor:.3g} with {found.sign_flip.n}."
        )
    return f"{answer} {shown}"


class _Arm:
    """One network's rows sorted by confidence, for figures under any weights of rows."""

    def __init__(self, rows: TrustRows, cuts: Cuts) -> None:
        correct, confident, stable = _flags(rows, cuts)
        self._wrong = (~correct).astype(np.float64)
        self._confident = confident.astype(np.float64)
        self._accepted = (confident & stable).astype(np.float64)
        order = np.argsort(-np.asarray(rows.confidence), kind="stable")
        ordered = np.asarray(rows.confidence)[order]
        self._order = order
        self._starts = np.flatnonzero(np.r_[True, ordered[1:] != ordered[:-1]])

    def figures(self, weights: np.ndarray) -> np.ndarray:
        """For weights (b, n): coverage and risk of stable, risk of matched, and of confident."""
        total = weights.sum(axis=1)
        n_stable = weights @ self._accepted
        n_confident = weights @ self._confident
        with np.errstate(invalid="ignore", divide="ignore"):
            risk_stable = weights @ (self._accepted * self._wrong) / n_stable
            risk_confident = weights @ (self._confident * self._wrong) / n_confident
        sorted_weights = weights[:, self._order]
        kept = np.cumsum(np.add.reduceat(sorted_weights, self._starts, axis=1), axis=1)
        sorted_wrong = sorted_weights * self._wrong[self._order]
        errors = np.cumsum(np.add.reduceat(sorted_wrong, self._starts, axis=1), axis=1)
        zero = np.zeros(1)
        matched = np.array(
            [
                np.interp(n, np.concatenate([zero, k]), np.concatenate([zero, e])) / n
                if n > 0
                else math.nan
                for n, k, e in zip(n_stable, kept, errors, strict=True)
            ]
        )
        return np.stack(
            [n_stable / total, risk_stable, matched, n_confident / total, risk_confident], axis=1
        )


def _flags(rows: TrustRows, cuts: Cuts) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    correct = np.asarray(rows.correct, dtype=bool)
    confident = np.asarray(rows.confidence) >= cuts.confidence
    return correct, confident, np.nan_to_num(rows.stability, nan=-np.inf) >= cuts.stability


def _youden(values: np.ndarray, correct: np.ndarray) -> float:
    known = ~np.isnan(np.asarray(values, dtype=np.float64))
    values, correct = np.asarray(values, dtype=np.float64)[known], correct[known]
    if not correct.any() or correct.all():
        raise InputError(
            "Rows with a map are all right, or all wrong, so no cut of stability can be found. "
            "Give more validation rows, or state it (`stability_cut`)."
        )
    candidates, codes = np.unique(values, return_inverse=True)
    right = np.bincount(codes.ravel(), weights=correct, minlength=len(candidates))
    wrong = np.bincount(codes.ravel(), weights=~correct, minlength=len(candidates))
    # At each candidate: rows at or above it.
    kept_right = right[::-1].cumsum()[::-1] / right.sum()
    kept_wrong = wrong[::-1].cumsum()[::-1] / wrong.sum()
    return float(candidates[int((kept_right - kept_wrong).argmax())])
