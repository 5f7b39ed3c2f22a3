"""Time of the whole trust table, and of fd-shifts' way of resampling the same AURC cells beside it.

    .venv/bin/python tests/benchmarks/bench_trust.py

20 conditions, 6 sources, 8 slices of 1,400 rows in about 750 groups, 2,000 paired replicates. The
peer walks a risk-coverage curve in Python for every replicate of every cell, as fd-shifts does
(written anew: it is not on PyPI); it is timed on some replicates of some cells, alternating with
ours, and scaled to all. Processor seconds, so that other work on the machine counts little.
"""

import resource
import time

import numpy as np

from trustq.core.generators import generator
from trustq.evaluation.conditions import ordered_conditions
from trustq.evaluation.trust_sources import Outputs, Source
from trustq.evaluation.trust_table import Cell, TrustRows, trust_table

N, REPLICATES = 1400, 2000
PEER_CELLS, PEER_REPLICATES = 6, 10
PRIOR = np.array([50, 78, 166, 18, 168, 1007, 22]) / 1509  # HAM10000's classes
FAMILIES = ("noise", "blur", "jpeg", "light", "cast", "down-up")
NAMES = ("softmax", "temperature", "energy", "max_logit", "passes", "ensemble")


def drawn() -> tuple[TrustRows, list[Cell], list[str]]:
    """Rows, cells and conditions of a simulated study of the size of a HAM10000 test split."""
    rng = generator(0, "bench_trust")
    labels = rng.choice(len(PRIOR), N, p=PRIOR)
    conditions = ["clean", *(f"{f}-{s}" for f in FAMILIES for s in (1, 2, 3)), "realistic"]
    cells = []
    threshold = np.full(N, 0.3)
    for place, condition in enumerate(conditions):
        logits = rng.standard_normal((N, 7)) + (2.0 - 0.05 * place) * np.eye(7)[labels]
        plain = Outputs.of_logits(logits)
        for name in NAMES:
            own, confidence = plain, plain.rank
            if name in ("energy", "max_logit"):
                confidence = plain.rank + rng.standard_normal(N)
            elif name != "softmax":
                own = Outputs.of_logits(0.8 * logits + 0.3 * rng.standard_normal((N, 7)))
                confidence = own.rank
            cells.append(Cell(condition, name, "network", Source(own, confidence), threshold))
    slices = {
        "sex": (rng.choice(["f", "m"], N), ["f", "m"]),
        "age": (rng.choice(list("abcdef"), N), list("abcdef")),
    }
    rows = TrustRows(labels, tuple("abcdefg"), rng.integers(0, 1000, N), (4,), slices)
    return rows, cells, conditions


def peer_aurc(wrong: np.ndarray, confidence: np.ndarray) -> float:
    """AURC by a walk over the sorted rows, one risk per distinct threshold, then trapezoids."""
    order = np.argsort(confidence)
    residuals, ordered = wrong[order], confidence[order]
    n = len(residuals)
    coverages, risks, weight, errors = [1.0], [residuals.sum() / n], 0, residuals.sum()
    for i in range(n - 1):
        errors -= residuals[i]
        weight += 1
        if i == 0 or ordered[i] != ordered[i - 1]:
            coverages.append((n - 1 - i) / n)
            risks.append(errors / (n - 1 - i))
            weight = 0
    if weight > 0:
        coverages.append(0.0)
        risks.append(risks[-1])
    return float(-np.trapezoid(risks, coverages))


def peer_seconds(rows: TrustRows, cells: list[Cell]) -> float:
    """Processor seconds of all AURC cells by the peer, from some of them."""
    rng = generator(0, "bench_trust peer")
    places = [np.arange(N)] + [
        np.flatnonzero(names == value) for names, order in rows.slices.values() for value in order
    ]
    chosen = cells[:: max(1, len(cells) // PEER_CELLS)][:PEER_CELLS]
    per_replicate = 0.0
    for own in places:
        started = time.process_time()
        for cell in chosen:
            wrong = (cell.value.outputs.predicted != rows.labels)[own]
            confidence = cell.value.confidence[own]
            for _ in range(PEER_REPLICATES):
                drawn_rows = rng.integers(0, len(own), len(own))
                peer_aurc(wrong[drawn_rows], confidence[drawn_rows])
        spent = time.process_time() - started
        per_replicate += spent / (len(chosen) * PEER_REPLICATES)
    return per_replicate * REPLICATES * len(cells)


def main() -> None:
    """Time both and print one line each."""
    rows, cells, conditions = drawn()
    wall, started = time.perf_counter(), time.process_time()
    table = trust_table(
        rows, cells, conditions=ordered_conditions(conditions), replicates=REPLICATES
    )
    ours, wall = time.process_time() - started, time.perf_counter() - wall
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    theirs = peer_seconds(rows, cells)
    n_cells = len(cells) * (1 + sum(len(order) for _, order in rows.slices.values()))
    print(
        f"{len(conditions)} conditions, {len(NAMES)} sources, {n_cells} cells, "
        f"{len(table.rows)} figures, {REPLICATES} replicates: {ours:.1f} processor seconds "
        f"({wall:.1f} s wall here), {memory:.0f} MB"
    )
    print(
        f"fd-shifts' way, AURC alone: {theirs:.0f} processor seconds by scaling, "
        f"{theirs / ours:.0f} times as long"
    )


if __name__ == "__main__":
    main()
