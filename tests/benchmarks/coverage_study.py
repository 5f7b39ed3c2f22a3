"""How often 95 % intervals cover the truth, and tests of true nulls reject, in simulated studies.

Run: python tests/benchmarks/coverage_study.py [PART ...] [--studies N]

Each part prints a table; `studies.md` keeps them. All of them take some minutes of one core.
"""

import argparse
import sys
from functools import cache
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from support import simulated_study

from trustq.evaluation.bootstrap import (
    FIGURES,
    FURTHER,
    compare_figures,
    figure_intervals,
    figure_values,
)
from trustq.metrics.per_class import class_figures
from trustq.metrics.probabilities import softmax
from trustq.statistics.runs import compare_runs

# Seven classes as rare as those of HAM10000.
PRIORS = np.array([0.033, 0.051, 0.110, 0.0115, 0.111, 0.669, 0.0145])
SHIFTS = ((0, 1), (1, 0), (1, 1), (2, 0.5))  # variances of networks and of draws
RANKED = "macro_auroc"
NAMES = ("crossed", "percentile", "nested", "naive", "seeds")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("parts", nargs="*", default=["figures", "ece", "runs", "crossed"])
    parser.add_argument("--studies", type=int, default=150)
    given = parser.parse_args()
    parts = {
        "main": main_errors,
        "figures": figures,
        "ranking": ranking,
        "ece": calibration,
        "runs": runs,
        "crossed": crossed,
    }
    for name in given.parts:
        parts[name](given.studies)
        print(flush=True)


def predictions(
    rng: np.random.Generator, n: int, size: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Labels, logits of two models and groups of `size` rows that share label and difficulty."""
    groups = np.arange(n) // size
    n_groups, k = groups[-1] + 1, len(PRIORS)
    labels = rng.choice(k, n_groups, p=PRIORS)[groups]
    shared = rng.normal(size=(n_groups, k))[groups]
    base = shared + rng.normal(size=(n, k))
    base[np.arange(n), labels] += 2.2
    base += np.log(PRIORS) / 2
    other = base + 0.5 * rng.normal(size=(n, k))
    return labels, 1.3 * base, 1.1 * other, groups


def ranking(studies: int) -> None:
    """Macro-AUROC and macro-AUPRC alone: 1,000 studies a cell, or more."""
    figures(max(studies, 1000), (RANKED, "macro_auprc"), cells=((1, 1000), (1, 4000), (4, 4000)))


CELLS = tuple((size, n) for size in (1, 4) for n in (200, 1000, 4000))


def figures(
    studies: int,
    names: tuple[str, ...] = (*FIGURES, *FURTHER),
    cells: tuple[tuple[int, int], ...] = CELLS,
) -> None:
    """Every figure that is printed with an interval, alone and as a difference of two models."""
    print(f"{studies} studies a cell, 7 classes of shares {', '.join(map(str, PRIORS))}.")
    head = [*names, "ranking figures judged", "recall, n < 10", "n >= 10"]
    print("| n | rows a group | of | " + " | ".join(head) + " |")
    print("|---" * (3 + len(head)) + "|")
    for size, n in cells:
        truth, apart, recalls = _truth(names, size)
        held: dict[str, list[list[float]]] = {"figure": [], "difference": []}
        of_class: dict[bool, list[bool]] = {True: [], False: []}
        for study in range(studies):
            labels, a, b, groups = predictions(np.random.default_rng([study, n, size]), n, size)
            alone = figure_intervals(labels, logits=a, groups=groups, figures=names, seed=study)
            pair = compare_figures(
                labels, a, b, kind="logits", groups=groups, figures=names, seed=study
            )
            # Averages over classes have another truth where a class is missing.
            whole = len(np.unique(labels)) == len(PRIORS)
            held["figure"].append(
                [_holds(alone[f], truth[f], whole or not _macro(f)) for f in names]
            )
            held["difference"].append(
                [_holds(pair[f], apart[f], whole or not _macro(f)) for f in names]
            )
            for row in class_figures(labels, softmax(a), groups=groups):
                if row.n:
                    low, high = row.recall_interval
                    # One group has no interval, which claims nothing.
                    inside = np.isnan(low) or low <= recalls[row.label] <= high
                    of_class[row.n < 10].append(bool(inside))
        for of, rows in held.items():
            shares = [
                "none" if np.isnan(column).all() else f"{np.nanmean(column):.3f}"
                for column in np.array(rows).T
            ]
            own = [f"{np.mean(of_class[few]):.3f}" if of_class[few] else "" for few in (1, 0)]
            own = own if of == "figure" else ["", ""]
            # Without 10 groups in every class they have no interval.
            own.insert(0, f"{np.mean(~np.isnan(np.array(rows)[:, names.index(RANKED)])):.2f}")
            print(f"| {n} | {size} | {of} | " + " | ".join([*shares, *own]) + " |", flush=True)


def _macro(name: str) -> bool:
    return name.startswith(("macro", "balanced"))


def _holds(row: tuple[float, ...], truth: float, known: bool) -> float:
    lower, upper = row[-2:]
    if not known or np.isnan(lower):
        return np.nan
    return float(lower <= truth <= upper)


@cache
def _truth(
    names: tuple[str, ...], size: int
) -> tuple[dict[str, float], dict[str, float], np.ndarray]:
    alone, apart, recalls = [], [], []
    for part in range(5):  # of 400,000 rows: together they are known to a sixth of what 4,000 are
        labels, a, b, _ = predictions(np.random.default_rng([7, part]), 400_000, size)
        found_a = figure_values(labels, logits=a, figures=names)
        found_b = figure_values(labels, logits=b, figures=names)
        alone.append([found_a[name] for name in names])
        apart.append([found_a[name] - found_b[name] for name in names])
        recalls.append([row.recall for row in class_figures(labels, softmax(a))])
    return (
        dict(zip(names, np.mean(alone, axis=0), strict=True)),
        dict(zip(names, np.mean(apart, axis=0), strict=True)),
        np.mean(recalls, axis=0),
    )


def calibration(studies: int) -> None:
    """ECE of confidences whose truth lies a known gap below them, in one or several patterns."""
    print(f"{studies} studies a cell: how often the interval of ECE covers, lies above the truth,")
    print("and holds its own estimate; means of the estimate, without its bias, and of the width")
    print("| gaps | true ECE | n | covers | lies above | holds itself | ece | debiased | width |")
    print("|---" * 9 + "|")
    for pattern in ("equal", "slope", "two signs"):
        for truth in (0.0, 0.02, 0.05, 0.10):
            for n in (300, 1000, 4000):
                rows = [_one_ece(pattern, truth, n, study) for study in range(studies)]
                means = np.mean(rows, axis=0)
                shares, sizes = means[:3], means[3:]
                cells = [f"{x:.3f}" for x in shares] + [f"{x:.4f}" for x in sizes]
                print(f"| {pattern} | {truth} | {n} | {' | '.join(cells)} |", flush=True)


def main_errors(studies: int) -> None:
    """The cells that matter most of `ece`: 1,000 studies each, or more."""
    studies = max(studies, 1000)
    print(f"{studies} studies a cell: how often the interval of ECE covers, lies above the truth,")
    print("and holds its own estimate")
    print("| gaps | true ECE | n | covers | lies above | holds itself |")
    print("|---" * 6 + "|")
    for pattern in ("equal", "slope", "two signs"):
        for truth in (0.02, 0.05, 0.10):
            for n in (1000, 4000):
                rows = [_one_ece(pattern, truth, n, study)[:3] for study in range(studies)]
                shares = " | ".join(f"{x:.3f}" for x in np.mean(rows, axis=0))
                print(f"| {pattern} | {truth} | {n} | {shares} |", flush=True)


def _one_ece(pattern: str, truth: float, n: int, study: int) -> list[float]:
    from trustq.evaluation.bootstrap import debiased_ece

    rng = np.random.default_rng([study, n, round(1000 * truth)])
    confidence = rng.uniform(0.55, 1, n)
    place = (confidence - 0.55) / 0.45
    shape = {
        "equal": np.ones(n),
        "slope": 2 * place,
        # The sign turns on a bin's edge, .8: within a bin the gaps would cancel.
        "two signs": np.where(confidence <= 0.8, -1.0, 1.0),
    }[pattern]
    right = rng.random(n) < np.clip(confidence - truth * shape, 0, 1)
    probs = np.stack([confidence, 1 - confidence], axis=1)
    labels = np.where(right, 0, 1)
    found = figure_intervals(labels, probs=probs, seed=study, figures=("ece",))["ece"]
    value, lower, upper = found
    debiased = debiased_ece(labels, probs=probs, seed=study)
    covers, above, itself = lower <= truth <= upper, lower > truth, lower <= value <= upper
    return [covers, above, itself, value, debiased, upper - lower]


def runs(studies: int) -> None:
    """True nulls over networks and draws: how often p <= .05, and intervals that cover 0."""
    nulls = max(2000, studies)
    print(f"{nulls} true nulls a cell: share with p <= .05, share of intervals that cover")
    head = [f"{a}/{b} {kind}" for kind in ("own draws", "shared draws") for a, b in SHIFTS]
    print("| networks | draws | " + " | ".join(head) + " |")
    print("|---" * (2 + len(head)) + "|")
    for n_networks, n_draws in ((4, 4), (4, 10), (5, 10), (6, 4), (7, 4), (8, 4), (8, 10), (12, 5)):
        cells = []
        for shared in (False, True):
            for of_network, of_draw in SHIFTS:
                rng = np.random.default_rng([n_networks, n_draws, shared])
                found = [
                    _null(rng, n_networks, n_draws, of_network, of_draw, shared=shared)
                    for _ in range(nulls)
                ]
                rejected, covered = np.mean(found, axis=0)
                cells.append(f"{rejected:.3f}, {covered:.3f}")
        print(f"| {n_networks} | {n_draws} | " + " | ".join(cells) + " |", flush=True)


def _null(
    rng: np.random.Generator,
    n_networks: int,
    n_draws: int,
    of_network: float,
    of_draw: float,
    *,
    shared: bool,
) -> tuple[bool, bool]:
    shape = (1 if shared else n_networks, n_draws)
    table = np.sqrt(of_network) * rng.normal(size=(n_networks, 1))
    table = table + np.sqrt(of_draw) * rng.normal(size=shape)
    found = compare_runs(
        table.ravel(),
        np.zeros(table.size),
        networks=np.repeat(np.arange(n_networks), n_draws).tolist(),
        draws=np.tile(np.arange(n_draws), n_networks).tolist(),
    )
    return found.p_value <= 0.05, found.lower <= 0 <= found.upper


def crossed(studies: int) -> None:
    """Differences of accuracy over trainings and lesions, against simpler intervals."""
    print(f"{studies} studies of two arms each: 200 lesions of 1-4 images, paired trainings")
    print("| trainings | seed sd | " + " | ".join(NAMES) + " |")
    print("|---" * (2 + len(NAMES)) + "|")
    for n_seeds in (10, 5, 4, 3):
        for seed_sd in (0, 0.15, 0.6):
            found = [
                simulated_study(seed, n_seeds=n_seeds, seed_sd=seed_sd, replicates=300)
                for seed in range(studies)
            ]
            cells = [
                f"{np.mean([s.holds[name] for s in found]):.3f} "
                f"({np.mean([s.width[name] for s in found]):.3f})"
                for name in NAMES
            ]
            print(f"| {n_seeds} | {seed_sd} | " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    main()
