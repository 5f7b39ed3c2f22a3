"""How often 95 % intervals cover the truth, and tests of true nulls reject, in simulated studies.

Run: python tests/benchmarks/coverage_study.py [PART ...] [--studies N]

Each part prints a table and writes it as a section of `results_coverage.md`. All of them take some
minutes of one core. Shapes of miscalibration have `calibration_coverage.py`.
"""

import argparse
import sys
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path

import numpy as np
import scipy

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from support import simulated_study

from trustq.evaluation.bootstrap import (
    FIGURES,
    FURTHER,
    compare_figures,
    figure_intervals,
    figure_values,
)
from trustq.evaluation.slices import slice_figures
from trustq.metrics.per_class import class_figures
from trustq.metrics.probabilities import softmax
from trustq.statistics.intervals import grouped_share_interval
from trustq.statistics.runs import Parts, compare_runs, half_width

# Seven classes as rare as those of HAM10000.
PRIORS = np.array([0.033, 0.051, 0.110, 0.0115, 0.111, 0.669, 0.0145])
SHIFTS = ((0, 1), (1, 0), (1, 1), (2, 0.5))  # variances of networks and of draws
RANKED = "macro_auroc"
NAMES = ("crossed", "percentile", "nested", "naive", "seeds")
RESULTS = Path(__file__).with_name("results_coverage.md")
HEAD = """# Coverage of 95 % intervals

Simulated studies of known truth; each section is written by its script. Aim: 93 to 97 % from 1,000
rows on where classes have 10 groups of rows or more.
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("parts", nargs="*", default=[*PARTS])
    parser.add_argument("--studies", type=int, default=300)
    given = parser.parse_args()
    for name in given.parts:
        title, make = PARTS[name]
        lines = []
        for line in make(given.studies):
            print(line, flush=True)
            lines.append(line)
        write_section(f"{title} (coverage_study.py {name})", lines)


def write_section(title: str, lines: Sequence[str], *, merged: bool = False) -> None:
    """Put a section into `results_coverage.md`, in place of one of the same title.

    With `merged` the former section's rows of other cells stay: those that begin otherwise.
    """
    text = RESULTS.read_text(encoding="utf-8") if RESULTS.is_file() else HEAD
    head, *sections = text.split("\n## ")
    kept = {section.split("\n", 1)[0]: section.rstrip() for section in sections}
    if merged and title in kept:
        former = [line for line in kept[title].split("\n") if line.startswith("| ")][1:]
        new = {line.split(" | ")[0] for line in lines}
        lines = [*lines, *(line for line in former if line.split(" | ")[0] not in new)]
    kept[title] = "\n".join([title, "", *lines])
    RESULTS.write_text("\n\n## ".join([head.rstrip(), *kept.values()]) + "\n", encoding="utf-8")


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


CELLS = tuple((size, n) for size in (1, 4) for n in (200, 1000, 4000))
Lines = Iterator[str]


def figures(studies: int) -> Lines:
    """Every figure that is printed with an interval, alone and as a difference of two models."""
    names = (*FIGURES, *FURTHER)
    yield f"{studies} studies a cell, 7 classes of shares {', '.join(map(str, PRIORS))}; the truth "
    yield "is that of two million rows. Averages over classes are counted where all classes are "
    yield "there, ranking figures where every class has 10 groups of rows (else they have no "
    yield "interval; `judged` is the share that have one). A class of fewer than 10 rows is "
    yield "flagged by `evaluate`."
    yield ""
    head = [*names, "ranking figures judged", "recall, n < 10", "n >= 10", "precision, n >= 10"]
    yield "| n | rows a group | of | " + " | ".join(head) + " |"
    yield "|---" * (3 + len(head)) + "|"
    for size, n in CELLS:
        truth, apart, recalls, precisions = _truth(names, size)
        held: dict[str, list[list[float]]] = {"figure": [], "difference": []}
        of_class: dict[object, list[bool]] = {True: [], False: [], "precision": []}
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
            called = np.bincount(a.argmax(axis=1), minlength=len(PRIORS))
            for row in class_figures(labels, softmax(a), groups=groups):
                if row.n:
                    of_class[row.n < 10].append(_inside(row.recall_interval, recalls[row.label]))
                if called[row.label] >= 10:
                    inside = _inside(row.precision_interval, precisions[row.label])
                    of_class["precision"].append(inside)
        for of, rows in held.items():
            shares = [
                "none" if np.isnan(column).all() else f"{np.nanmean(column):.3f}"
                for column in np.array(rows).T
            ]
            own = [f"{np.mean(held):.3f}" if held else "" for held in of_class.values()]
            own = own if of == "figure" else [""] * len(own)
            # Without 10 groups in every class they have no interval.
            own.insert(0, f"{np.mean(~np.isnan(np.array(rows)[:, names.index(RANKED)])):.2f}")
            yield f"| {n} | {size} | {of} | " + " | ".join([*shares, *own]) + " |"


def _inside(interval: tuple[float, float], truth: float) -> bool:
    low, high = interval
    return bool(np.isnan(low) or low <= truth <= high)  # one group claims nothing


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
) -> tuple[dict[str, float], dict[str, float], np.ndarray, np.ndarray]:
    alone, apart, recalls, precisions = [], [], [], []
    for part in range(5):  # of 400,000 rows: together they are known to a sixth of what 4,000 are
        labels, a, b, _ = predictions(np.random.default_rng([7, part]), 400_000, size)
        found_a = figure_values(labels, logits=a, figures=names)
        found_b = figure_values(labels, logits=b, figures=names)
        alone.append([found_a[name] for name in names])
        apart.append([found_a[name] - found_b[name] for name in names])
        of_class = class_figures(labels, softmax(a))
        recalls.append([row.recall for row in of_class])
        precisions.append([row.precision for row in of_class])
    return (
        dict(zip(names, np.mean(alone, axis=0), strict=True)),
        dict(zip(names, np.mean(apart, axis=0), strict=True)),
        np.mean(recalls, axis=0),
        np.mean(precisions, axis=0),
    )


def nulls(studies: int) -> Lines:
    """True nulls over networks and draws: how often p <= .05, and intervals that cover 0."""
    n_nulls = max(20_000, studies)
    yield f"{n_nulls:,} true nulls a cell: share with p <= .05, then share of intervals that "
    yield "cover; variances of networks and of draws as named, draws of every network's own or "
    yield "shared by all. The last column has shared draws and runs that vary besides. Computed "
    yield "for all nulls at once; the first twenty of every cell are compared with `compare_runs`."
    yield ""
    head = [f"{a}/{b} {kind}" for kind in ("own draws", "shared draws") for a, b in SHIFTS]
    yield "| networks | draws | " + " | ".join([*head, "1/1 shared, runs 0.5"]) + " |"
    yield "|---" * (3 + len(head)) + "|"
    for n_networks in (4, 5, 6, 7, 8, 9, 10, 12):
        for n_draws in (2, 4, 10):
            rng = np.random.default_rng([n_networks, n_draws])
            cases = [(a, b, kind, 0.0) for kind in (False, True) for a, b in SHIFTS]
            cells = []
            for of_network, of_draw, shared, of_run in [*cases, (1, 1, True, 0.5)]:
                size = (n_nulls, n_networks, n_draws)
                tables = np.sqrt(of_network) * rng.normal(size=(*size[:2], 1))
                drawn = (n_nulls, 1, n_draws) if shared else size
                tables = tables + np.sqrt(of_draw) * rng.normal(size=drawn)
                tables = tables + np.sqrt(of_run) * rng.normal(size=size)
                p, half = _tested(tables)
                _check(tables[:20], p, half)
                covered = np.abs(tables.mean(axis=(1, 2))) <= half
                cells.append(f"{np.mean(p <= 0.05):.4f}, {covered.mean():.3f}")
            yield f"| {n_networks} | {n_draws} | " + " | ".join(cells) + " |"


def _tested(tables: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """p and half of the interval of every table (networks, draws) of differences, all at once."""
    n, n_networks, n_draws = tables.shape
    means = tables.mean(axis=2)
    left = tables - means[:, :, None]
    products = ((left.sum(axis=1) ** 2).sum(axis=1) - (left**2).sum(axis=(1, 2))) / 2
    of_draws = np.maximum(products / ((n_draws - 1) * n_networks * (n_networks - 1) / 2), 0)
    of_draws /= n_draws
    of_networks = means.var(axis=1, ddof=1) / n_networks
    half = [
        half_width(Parts(*row, n_networks, n_draws), level=0.95)
        for row in zip(of_networks.tolist(), of_draws.tolist(), strict=True)
    ]
    normal = scipy.special.ndtri(0.975) ** 2
    student = scipy.special.stdtrit(max(n_draws - 1, 1), 0.975) ** 2
    widened = max(1.0, student / normal * (1 - normal / n_networks))
    p = np.empty(n)
    for part in np.array_split(np.arange(n), max(1, n * 2**n_networks // 4_000_000)):
        own = means[part]
        sums = own[:, :1]
        for other in own.T[1:]:
            sums = np.concatenate([sums + other[:, None], sums - other[:, None]], axis=1)
        at_least = np.abs(own.sum(axis=1)) - 1e-9 * np.abs(own).sum(axis=1)
        p[part] = (np.abs(sums) >= at_least[:, None]).mean(axis=1)
        sd, mean = np.sqrt(of_draws[part] * widened)[:, None], np.abs(own.mean(axis=1))[:, None]
        with np.errstate(divide="ignore", invalid="ignore"):
            beyond = sum(
                scipy.special.ndtr((side * sums / n_networks - mean) / sd) for side in (1, -1)
            )
        blurred = np.where(sd[:, 0] > 0, np.minimum(1, np.mean(beyond, axis=1)), 0)
        p[part] = np.maximum(p[part], blurred)
    return p, np.array(half)


def _check(tables: np.ndarray, p: np.ndarray, half: np.ndarray) -> None:
    _, n_networks, n_draws = tables.shape
    for i, table in enumerate(tables):
        found = compare_runs(
            table.ravel(),
            np.zeros(table.size),
            networks=np.repeat(np.arange(n_networks), n_draws).tolist(),
            draws=np.tile(np.arange(n_draws), n_networks).tolist(),
        )
        own = (found.p_value, (found.upper - found.lower) / 2)
        np.testing.assert_allclose((p[i], half[i]), own, rtol=1e-6, atol=1e-12)


def crossed(studies: int) -> Lines:
    """Differences of accuracy over trainings and lesions, against simpler intervals."""
    yield f"{studies} studies of two arms each: 200 lesions of 1-4 images, paired trainings; share "
    yield "of intervals of accuracy that cover (mean width). `crossed` is `crossed_figures`."
    yield ""
    yield "| trainings | seed sd | " + " | ".join(NAMES) + " |"
    yield "|---" * (2 + len(NAMES)) + "|"
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
            yield f"| {n_seeds} | {seed_sd} | " + " | ".join(cells) + " |"


def points(studies: int) -> Lines:
    """Sensitivity, specificity and precision at an operating point, and figures of a slice."""
    yield f"{studies} studies a cell, the rows of `figures`; positive: the second class. "
    yield "Thresholds are chosen on as many validation rows; the truth of a study is that of its "
    yield "own threshold on 400,000 rows. Slices: the figures of a third of the rows."
    yield ""
    names = ("accuracy", "macro_f1", "nll", "ece", "augrc")
    head = ["sensitivity", "specificity", "precision", *(f"slice: {name}" for name in names)]
    yield "| n | rows a group | " + " | ".join(head) + " |"
    yield "|---" * (2 + len(head)) + "|"
    for size, n in CELLS:
        many, logits, _, _ = predictions(np.random.default_rng(11), 400_000, size)
        scores = softmax(logits)[:, 1]
        truth = _truth((*FIGURES, *FURTHER), size)[0]
        held = []
        for study in range(studies):
            rng = np.random.default_rng([study, n, size, 4])
            labels, a, _, _ = predictions(rng, n, size)
            at = float(np.quantile(softmax(a)[labels == 1, 1], 0.1)) if (labels == 1).any() else 0.5
            labels, a, _, groups = predictions(rng, n, size)
            called, is_one = softmax(a)[:, 1] >= at, labels == 1
            rows = []
            for hits, among, of_hits, of_among in (
                (called, is_one, scores >= at, many == 1),
                (~called, ~is_one, scores < at, many != 1),
                (is_one, called, many == 1, scores >= at),
            ):
                if among.sum() < 10:
                    rows.append(np.nan)
                    continue
                interval = grouped_share_interval(hits[among], groups[among])
                rows.append(float(_inside(interval, of_hits[of_among].mean())))
            place = groups % 3 == 0
            names_of = np.where(place, "one", "other")
            (own,) = [
                one
                for one in slice_figures(labels, names_of, logits=a, groups=groups, seed=study)
                if one.value == "one"
            ]
            whole = len(np.unique(labels[place])) == len(PRIORS)
            for name in names:
                found = own.figures[name]
                rows.append(_holds(found, truth[name], whole or not _macro(name)))
            held.append(rows)
        shares = np.nanmean(np.array(held), axis=0)
        yield f"| {n} | {size} | " + " | ".join(f"{share:.3f}" for share in shares) + " |"


def trust(studies: int) -> Lines:
    """The trust table's figures and paired differences to the clean condition."""
    names = ("accuracy", "macro_f1", "nll", "brier", "ece", "aurc", "augrc", "macro_auroc")
    yield f"{studies} studies a cell: the first model of `figures` is clean, the second under shift"
    yield "(less sure of what it should be); 500 replicates."
    yield ""
    yield "| n | rows a group | of | " + " | ".join(names) + " |"
    yield "|---" * (3 + len(names)) + "|"
    for size, n in CELLS:
        truth = _trust_truth(size)
        held: dict[str, list[list[float]]] = {"figure": [], "difference": []}
        for study in range(studies):
            rng = np.random.default_rng([study, n, size, 6])
            table, whole = _trusted(rng, n, size, replicates=500)
            for of, bounds in (
                ("figure", ("lower", "upper")),
                ("difference", ("delta_lower", "delta_upper")),
            ):
                rows = []
                for name in names:
                    own = table.value("blur-1", "softmax", name)
                    apart = truth["blur-1", name] - truth["clean", name]
                    known = truth["blur-1", name] if of == "figure" else apart
                    low_high = tuple(own[bound] for bound in bounds)
                    rows.append(_holds(low_high, known, whole or not _macro(name)))
                held[of].append(rows)
        for of, rows in held.items():
            shares = [
                "none" if np.isnan(column).all() else f"{np.nanmean(column):.3f}"
                for column in np.array(rows).T
            ]
            yield f"| {n} | {size} | {of} | " + " | ".join(shares) + " |"


def _trusted(rng: np.random.Generator, n: int, size: int, *, replicates: int):  # type: ignore
    from trustq.evaluation.conditions import condition_of
    from trustq.evaluation.trust_table import Cell, Outputs, Source, TrustRows, trust_table

    labels, a, b, groups = predictions(rng, n, size)
    cells = []
    for condition, logits in (("clean", a), ("blur-1", 1.6 * b)):
        own = Outputs.of_probs(softmax(logits))
        cells.append(Cell(condition, "softmax", "a", Source(own, own.rank)))
    conditions = [condition_of("clean"), condition_of("blur-1")]
    rows = TrustRows(labels, tuple("abcdefg"), groups=groups)
    table = trust_table(rows, cells, conditions=conditions, replicates=replicates)
    return table, len(np.unique(labels)) == len(PRIORS)


@cache
def _trust_truth(size: int) -> dict[tuple[str, str], float]:
    parts: dict[tuple[str, str], list[float]] = {}
    for part in range(5):
        table, _ = _trusted(np.random.default_rng([8, part]), 200_000, size, replicates=2)
        for row in table.rows:
            key = (row["condition"], row["metric"])
            parts.setdefault(key, []).append(row["value"])
    return {key: float(np.mean(values)) for key, values in parts.items()}


PARTS = {
    "figures": ("Every figure", figures),
    "points": ("Operating points and slices", points),
    "trust": ("The trust table", trust),
    "nulls": ("Networks and draws", nulls),
    "crossed": ("Trainings crossed with lesions", crossed),
}

if __name__ == "__main__":
    main()
