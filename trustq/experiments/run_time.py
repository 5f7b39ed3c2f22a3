"""How long a sweep will take, from cells that were run before or from one that is tried."""

import time
from collections.abc import Callable, Sequence
from pathlib import Path

from trustq.experiments.run import run_group
from trustq.experiments.work_list import Group, SweepPlan
from trustq.results import connect
from trustq.results.schema import MARKER
from trustq.store import Cache
from trustq.store.concat import open_side_by_side

# Of a cell's own and of round 0, which the cells of a group share.
_SECONDS = """
SELECT dataset, head, n_rounds, avg(seconds - fit_seconds), avg(fit_seconds)
FROM runs JOIN rounds ON run = key AND round = 0
WHERE seconds IS NOT NULL AND fit_seconds IS NOT NULL GROUP BY ALL
"""


def estimate_seconds(
    plan: SweepPlan,
    *,
    results: Path,
    opened: Callable[[Sequence[Path]], Cache] = open_side_by_side,
) -> float:
    """Seconds of one core that a plan will take, by data set, head and rounds.

    Cells of the same kind in the results folder give their mean; of a kind that is not there, one
    group is run and thrown away.
    """
    known: dict[tuple[str, str, int], tuple[float, float]] = {}
    if (Path(results) / MARKER).is_file():
        with connect(results) as connection:
            for dataset, head, rounds, own, shared in connection.execute(_SECONDS).fetchall():
                known[dataset, head, rounds] = (own, shared)
    total = 0.0
    for group in plan.groups:
        once = 0.0
        for cell in group.cells:
            rounds = 0 if cell.arm.score == "none" else group.recipe.sweep.rounds
            kind = (group.dataset, group.recipe.sweep.head, rounds)
            if kind not in known:
                known[kind] = (_tried(group, opened), 0.0)
            own, shared = known[kind]
            total, once = total + own, max(once, shared)
        total += once
    return total


def _tried(group: Group, opened: Callable[[Sequence[Path]], Cache]) -> float:
    cache = opened(group.caches)
    externals = [opened(paths) for paths in group.externals]
    started = time.perf_counter()
    run_group(
        cache,
        recipe=group.recipe,
        draw_seed=group.draw_seed,
        externals=externals,
        only=[(cell.arm, cell.budget) for cell in group.cells],
        allow_leak=True,  # only timed; whether it may be recorded is for the run to say
        keep_going=True,
    )
    return (time.perf_counter() - started) / len(group.cells)
