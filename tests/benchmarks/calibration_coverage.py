"""How often intervals of ECE cover the truth, over shapes of miscalibration, beside other methods.

    python tests/benchmarks/calibration_coverage.py [errors|calibrated|differences|others ...]
        [--studies N] [--shapes NAME,...]

Parts write their section of `results_coverage.md`. A confidence c is right with chance c less a
gap that has a shape over c, scaled so that the binned error of two million rows is the truth. The
method was chosen on the shapes `CHOSEN_ON`; the others show it.
"""

import argparse
from collections.abc import Callable
from functools import cache
from typing import NamedTuple

import numpy as np
from coverage_study import write_section

from trustq.evaluation.bootstrap import compare_figures, figure_intervals
from trustq.metrics.calibration_error import calibration_errors, equal_width_bins
from trustq.metrics.classification import ECE_BINS
from trustq.statistics.intervals import BinSums, calibration_bounds

Draw = Callable[[np.random.Generator, int], np.ndarray]
Gap = Callable[[np.ndarray], np.ndarray]
MANY = 2_000_000


class Shape(NamedTuple):
    """Where confidences lie, and the gap of each before it is scaled."""

    confidence: Draw
    gap: Gap


def _even(rng: np.random.Generator, n: int) -> np.ndarray:
    return rng.uniform(0.55, 1, n)


def _near_one(rng: np.random.Generator, n: int) -> np.ndarray:
    return 1 - 0.45 * rng.beta(0.35, 2.2, n)  # 69 % in the last bin


def _at_one(rng: np.random.Generator, n: int) -> np.ndarray:
    return 1 - 0.6 * rng.beta(0.12, 2.5, n)  # 87 % in the last bin


def _of_seven(rng: np.random.Generator, n: int) -> np.ndarray:
    scores = np.exp(2.2 * rng.normal(size=(n, 7)) + 1.5 * np.eye(7)[0])
    return np.asarray(scores.max(axis=1) / scores.sum(axis=1))


def _broad(rng: np.random.Generator, n: int) -> np.ndarray:
    return np.clip(rng.normal(0.7, 0.17, n), 0.25, 1)


def _one(c: np.ndarray) -> np.ndarray:
    return np.ones(len(c))


def _turns_at(place: float) -> Gap:
    return lambda c: np.where(c <= place, -1.0, 1.0)


SHAPES = {
    "equal": Shape(_even, _one),
    "slope": Shape(_even, lambda c: (c - 0.55) / 0.45),
    "sign turns between bins": Shape(_even, _turns_at(0.8)),
    "sign turns in a bin": Shape(_even, _turns_at(0.765)),
    "S": Shape(_even, lambda c: np.sin(2 * np.pi * (c - 0.55) / 0.45)),
    "one region": Shape(_even, lambda c: np.where((c > 0.7) & (c < 0.85), 1.0, 0.0)),
    "every other bin": Shape(_even, lambda c: np.where(equal_width_bins(c) % 2, 1.0, -1.0)),
    "seven classes": Shape(_of_seven, lambda c: c * (1 - c)),
    "seven classes as an S": Shape(_of_seven, lambda c: np.sin(2 * np.pi * c)),
    "near 1": Shape(_near_one, _one),
    "near 1 with a turn": Shape(_near_one, _turns_at(0.9)),
    "nearly all at 1": Shape(_at_one, _one),
    "far too unsure": Shape(_broad, lambda c: 0.7 * c - 0.8),
}
CHOSEN_ON = ("equal", "sign turns between bins", "sign turns in a bin", "seven classes as an S")
TRUTHS = (0.02, 0.05, 0.10)
LARGE = 0.28  # of a model that is far too unsure, as a forest is


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("parts", nargs="*", default=[*PARTS])
    parser.add_argument("--studies", type=int, default=1000)
    parser.add_argument("--shapes", default=",".join(SHAPES))
    given = parser.parse_args()
    for name in given.parts:
        PARTS[name](given.studies, given.shapes.split(","))


def errors(studies: int, shapes: list[str]) -> None:
    """Coverage by shape, true error and rows."""
    lines = [
        f"{studies} studies a cell: share of 95 % intervals that cover the true error (lie above "
        "it, lie below it), share that hold their own estimate; medians of the debiased estimate; "
        f"mean width. The method was chosen on {', '.join(CHOSEN_ON)}; the other shapes show it.",
        "",
        "| shape | true ECE | n | covers | above | below | holds itself | debiased | width |",
        "|---" * 9 + "|",
    ]
    for shape in shapes:
        for truth in (LARGE,) if shape == "far too unsure" else TRUTHS:
            for n in (1000, 4000):
                rows = np.array([_study(shape, truth, n, seed) for seed in range(studies)])
                lines.append(f"| {shape} | {truth} | {n} | {_cells(rows, truth)} |")
                print(lines[-1], flush=True)
    write_section(
        "ECE: shapes of miscalibration (calibration_coverage.py errors)", lines, merged=True
    )


def calibrated(studies: int, shapes: list[str]) -> None:
    """How often intervals of calibrated and nearly calibrated models reach 0."""
    lines = [
        f"{studies} studies a cell of calibrated models: share of intervals that reach 0, share of "
        "debiased estimates that are 0, and the means of the plain estimate and the upper end.",
        "",
        "| confidences | n | reaches 0 | debiased is 0 | ece | upper |",
        "|---" * 6 + "|",
    ]
    kinds = [name for name in ("equal", "seven classes", "near 1", "nearly all at 1")]
    for shape in [name for name in kinds if name in shapes]:
        for n in (200, 300, 1000, 4000):
            rows = np.array([_study(shape, 0.0, n, seed) for seed in range(studies)])
            shares = [np.mean(rows[:, 2] == 0), np.mean(rows[:, 1] == 0)]
            means = [rows[:, 0].mean(), rows[:, 3].mean()]
            cells = [f"{x:.3f}" for x in shares] + [f"{x:.4f}" for x in means]
            name = "even" if shape == "equal" else shape
            lines.append(f"| {name} | {n} | {' | '.join(cells)} |")
            print(lines[-1], flush=True)
    write_section("ECE: calibrated models (calibration_coverage.py calibrated)", lines, merged=True)


def differences(studies: int, shapes: list[str]) -> None:
    """Coverage of the difference of two models' errors on the same rows."""
    lines = [
        f"{studies} studies a cell: two models on the same rows, as often right; the first has the "
        "true error .05 and the shape, the second is calibrated, or has the shape turned round and "
        "the true error .05 too. Share of 95 % intervals of the difference that cover (lie above, "
        "below), and their mean width.",
        "",
        "| shape | second model | n | covers | above | below | width |",
        "|---" * 7 + "|",
    ]
    for shape in shapes:
        for second in ("calibrated", "turned round"):
            for n in (1000, 4000):
                rows = np.array([_pair(shape, second, n, seed) for seed in range(studies)])
                truth = 0.05 if second == "calibrated" else 0.05 - _turned(shape)
                above, below = np.mean(rows[:, 0] > truth), np.mean(rows[:, 1] < truth)
                shares = f"{1 - above - below:.3f} | {above:.3f} | {below:.3f}"
                width = np.mean(rows[:, 1] - rows[:, 0])
                lines.append(f"| {shape} | {second} | {n} | {shares} | {width:.4f} |")
                print(lines[-1], flush=True)
    write_section("ECE: differences (calibration_coverage.py differences)", lines, merged=True)


def others(studies: int, shapes: list[str]) -> None:
    """The same studies with intervals that others use, each of its own truth."""
    studies = min(studies, 200)
    lines = [
        f"{studies} studies a cell, 1,000 rows, 200 bootstrap replicates. Share of 95 % intervals "
        "that cover: ours; percentiles of the plain bootstrap; percentiles of the bootstrap of the "
        "estimate less its mean bias under normal noise (Kumar et al.'s `normal_debiased`); the "
        "same, turned round (basic); the delta method (Student's on the sign of each gap); "
        "percentiles of the squared L2 error less its bias (Kumar et al. 2019; its own truth) and "
        "of smooth ECE (Blasiok and Nakkiran 2023, as relplot's; its own truth, a third of the "
        "studies, 50 replicates).",
        "",
        "| shape | true ECE | ours | percentile | debiased | basic | delta | L2 | smooth |",
        "|---" * 9 + "|",
    ]
    kinds = ("equal", "sign turns between bins", "seven classes", "near 1 with a turn")
    for shape in [name for name in kinds if name in shapes]:
        for truth in TRUTHS:
            held = np.array([_by_others(shape, truth, seed) for seed in range(studies)])
            cells = [f"{x:.3f}" for x in np.nanmean(held, axis=0)]
            lines.append(f"| {shape} | {truth} | {' | '.join(cells)} |")
            print(lines[-1], flush=True)
    write_section("ECE: other methods (calibration_coverage.py others)", lines, merged=True)


def _cells(rows: np.ndarray, truth: float) -> str:
    value, debiased, lower, upper = rows.T
    above, below = np.mean(lower > truth), np.mean(upper < truth)
    holds = np.mean((lower <= value) & (value <= upper))
    shares = [1 - above - below, above, below, holds]
    sizes = [np.median(debiased), np.mean(upper - lower)]
    return " | ".join([f"{x:.3f}" for x in shares] + [f"{x:.4f}" for x in sizes])


def _study(shape: str, truth: float, n: int, seed: int) -> tuple[float, float, float, float]:
    """Estimate, debiased estimate and bounds of one study, by what `figure_intervals` calls."""
    confidence, right = _drawn(shape, truth, n, seed)
    found = calibration_bounds(_bins(confidence, right), seed=seed)
    return found.value, found.debiased, found.lower, found.upper


def _drawn(shape: str, truth: float, n: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    name = int.from_bytes(shape.encode()[:6], "little")
    rng = np.random.default_rng([seed, n, round(1000 * truth), name])
    confidence = SHAPES[shape].confidence(rng, n)
    chance = confidence - _scale(shape, truth) * SHAPES[shape].gap(confidence)
    return confidence, rng.random(n) < np.clip(chance, 0, 1)


def _bins(confidence: np.ndarray, right: np.ndarray) -> BinSums:
    """Every row a group of its own, as without groups."""
    n, bins = len(confidence), equal_width_bins(confidence)
    sums = np.zeros((n, ECE_BINS))
    sums[np.arange(n), bins] = (right - confidence) / n
    counts = np.bincount(bins, minlength=ECE_BINS)
    certain = np.bincount(bins, confidence * (1 - confidence), minlength=ECE_BINS)
    sizes = np.full(n, 1 / n)
    return BinSums(sums, sizes, counts / n, certain / (4 * n * n))


def _probs(confidence: np.ndarray, predicted: np.ndarray) -> np.ndarray:
    """Eight classes, (n, 8), of which the predicted has the confidence and the others the rest."""
    probs = np.repeat(((1 - confidence) / 7)[:, None], 8, axis=1)
    probs[np.arange(len(probs)), predicted] = confidence
    return probs


@cache
def _many(shape: str) -> np.ndarray:
    return SHAPES[shape].confidence(np.random.default_rng(99), MANY)


def _binned(confidence: np.ndarray, chance: np.ndarray) -> np.ndarray:
    gaps: np.ndarray = np.bincount(
        equal_width_bins(confidence), np.clip(chance, 0, 1) - confidence, minlength=ECE_BINS
    )
    return gaps / len(confidence)


@cache
def _scale(shape: str, truth: float) -> float:
    confidence = _many(shape)
    gap = SHAPES[shape].gap(confidence)
    low, high = 0.0, 1.0 if truth else 0.0
    for _ in range(25):
        middle = (low + high) / 2
        error = np.abs(_binned(confidence, confidence - middle * gap)).sum()
        low, high = (middle, high) if error < truth else (low, middle)
    return high


@cache
def _turned(shape: str) -> float:
    """The true error of the shape with its signs turned round: some gaps are then cut off at 1."""
    confidence = _many(shape)
    gap = SHAPES[shape].gap(confidence)
    return float(np.abs(_binned(confidence, confidence + _scale(shape, 0.05) * gap)).sum())


def _pair(shape: str, second: str, n: int, seed: int) -> tuple[float, float]:
    """Bounds of the difference of two models, whose right rows are three quarters the same."""
    confidence, right = _drawn(shape, 0.05, n, seed)
    rng = np.random.default_rng([seed, n, 3])
    gap = SHAPES[shape].gap(confidence)
    chance = confidence if second == "calibrated" else confidence + _scale(shape, 0.05) * gap
    drawn = rng.random(n) < np.clip(chance, 0, 1)
    first = confidence - _scale(shape, 0.05) * gap
    # Rows that are the same for both draw one number: their chances are kept.
    shared = rng.random(n)
    same = rng.random(n) < 0.75
    right = np.where(same, shared < np.clip(first, 0, 1), right)
    drawn = np.where(same, shared < np.clip(chance, 0, 1), drawn)
    labels = np.zeros(n, dtype=int)
    probs = [_probs(confidence, np.where(hit, 0, wrong)) for hit, wrong in ((right, 1), (drawn, 2))]
    found = compare_figures(labels, *probs, seed=seed, figures=("ece",))["ece"]
    return found.lower, found.upper


def _by_others(shape: str, truth: float, seed: int) -> list[float]:
    n, replicates = 1000, 200
    confidence, right = _drawn(shape, truth, n, seed)
    labels, probs = np.where(right, 0, 1), _probs(confidence, np.zeros(n, dtype=int))
    ours = calibration_bounds(_bins(confidence, right), seed=seed)
    held = [ours.lower <= truth <= ours.upper]
    plain = figure_intervals(
        labels, probs=probs, seed=seed, figures=("ece",), method="percentile", replicates=replicates
    )["ece"]
    held.append(plain.lower <= truth <= plain.upper)
    rng = np.random.default_rng([seed, 5])
    taken = rng.integers(0, n, (replicates, n))
    estimate = _debiased(confidence, right, rng)
    drawn = np.array([_debiased(confidence[rows], right[rows], rng) for rows in taken])
    low, high = np.quantile(drawn[:, 0], [0.025, 0.975])
    held += [low <= truth <= high, 2 * estimate[0] - high <= truth <= 2 * estimate[0] - low]
    sums = _bins(confidence, right)
    of_rows = (sums.of_groups - sums.gaps / n) @ np.sign(sums.gaps)
    half = 1.96 * np.sqrt((of_rows**2).sum())
    held.append(abs(ours.value - truth) <= half)
    low, high = np.quantile(drawn[:, 1], [0.025, 0.975])
    held.append(low <= _true_square(shape, truth) <= high)
    if seed % 3:
        return [float(x) for x in held] + [np.nan]
    smooth = [calibration_errors(labels[rows], probs[rows])["smooth_ece"] for rows in taken[:50]]
    low, high = np.quantile(smooth, [0.025, 0.975])
    return [float(x) for x in held] + [float(low <= _true_smooth(shape, truth) <= high)]


def _debiased(
    confidence: np.ndarray, right: np.ndarray, rng: np.random.Generator
) -> tuple[float, float]:
    """ECE less the bias that normal noise adds to it, and the squared error less its bias."""
    bins = equal_width_bins(confidence)
    counts = np.bincount(bins, minlength=ECE_BINS)
    used = counts > 0
    n = counts[used]
    share = np.bincount(bins, right, minlength=ECE_BINS)[used] / n
    gap = np.bincount(bins, right - confidence, minlength=ECE_BINS)[used] / n
    variance = share * (1 - share) / n
    noisy = gap + np.sqrt(variance) * rng.standard_normal((100, len(gap)))
    weights = n / n.sum()
    plain = float((weights * np.abs(gap)).sum())
    bias = float((weights * np.abs(noisy)).sum(axis=1).mean()) - plain
    unbiased = share * (1 - share) / np.maximum(n - 1, 1)
    return plain - bias, float((weights * (gap**2 - unbiased)).sum())


@cache
def _true_square(shape: str, truth: float) -> float:
    confidence = _many(shape)
    chance = confidence - _scale(shape, truth) * SHAPES[shape].gap(confidence)
    gaps = _binned(confidence, chance)
    shares = np.bincount(equal_width_bins(confidence), minlength=ECE_BINS) / len(confidence)
    return float((gaps[shares > 0] ** 2 / shares[shares > 0]).sum())


@cache
def _true_smooth(shape: str, truth: float) -> float:
    confidence = _many(shape)
    chance = confidence - _scale(shape, truth) * SHAPES[shape].gap(confidence)
    right = np.random.default_rng(98).random(MANY) < np.clip(chance, 0, 1)
    probs = _probs(confidence, np.zeros(MANY, dtype=int))
    return calibration_errors(np.where(right, 0, 1), probs)["smooth_ece"]


PARTS = {
    "errors": errors,
    "calibrated": calibrated,
    "differences": differences,
    "others": others,
}

if __name__ == "__main__":
    main()
