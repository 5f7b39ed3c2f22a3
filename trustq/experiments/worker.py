"""What one worker does: run groups of cells of one cache, and commit them as parts."""

import functools
import threading
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import numpy as np

from trustq.core.columns import Columns
from trustq.errors import InputError, TrustqError
from trustq.experiments.run import SharedOnce, run_group, write_samples
from trustq.experiments.work_list import AskedCell, Group
from trustq.results import committed_keys, join_tables, new_part, write_part
from trustq.store import Cache, moved_to
from trustq.store.concat import open_side_by_side

SECONDS_PER_PART = 2.0  # runs are committed this often, so that small ones share a part
MOST_SECONDS_PER_PART = 10.0  # where commits are slow, so that they take a tenth of the time


@dataclass
class Done:
    """What came of some groups."""

    keys: list[str] = field(default_factory=list)  # of every cell that is there now
    n_new: int = 0
    notes: list[str] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)  # one line each

    def add(self, other: "Done") -> None:
        """Add what came of others."""
        self.keys += other.keys
        self.n_new += other.n_new
        self.notes += [note for note in other.notes if note not in self.notes]
        self.failures += other.failures


Tell = Callable[[int, int], None]  # told cells done and cells failed, since the last time


def run_groups(
    groups: Sequence[Group],
    results: Path,
    *,
    sweep_id: str,
    allow_leak: bool = False,
    tell: Tell | None = None,
) -> Done:
    """Run groups of one cache and commit their cells, at the latest every few seconds.

    Cells that were there when the sweep `sweep_id` began are left as they are. A cell or group that
    raises is written to `failures` and the others go on. Raises `TrustqError` where nothing can be
    written or the cache has changed since the plan was made.
    """
    # A worker of a cluster may have threads; one of them at a time computes with one BLAS thread.
    with _busy:
        return _run_groups(groups, results, _there(results, sweep_id), allow_leak, tell)


_busy = threading.Lock()


@functools.lru_cache(maxsize=1)
def _there(results: Path, sweep_id: str) -> set[str]:
    # Read once by each process of a sweep: a thousand parts take a second.
    return committed_keys(results)


def _run_groups(
    groups: Sequence[Group],
    results: Path,
    there: set[str],
    allow_leak: bool,
    tell: Tell | None,
) -> Done:
    cache = _opened(groups[0])
    externals = {paths: open_side_by_side(paths) for paths in groups[0].externals}
    shared, done, waiting = SharedOnce(), Done(), _Waiting(results)
    for group in groups:
        by_cell = {(cell.arm, cell.budget): cell for cell in group.cells}
        failed: list[tuple[AskedCell, Exception]] = []
        try:
            run = run_group(
                cache,
                recipe=group.recipe,
                draw_seed=group.draw_seed,
                externals=[externals[paths] for paths in group.externals],
                only=list(by_cell),
                there=there,
                shared=shared,
                allow_leak=allow_leak,
                keep_going=True,
            )
        except Exception as error:
            failed = [(cell, error) for cell in group.cells]
        else:
            failed = [(by_cell[cell.arm, cell.budget], error) for cell, error in run.failures]
            of_failed = {cell.key for cell, _ in run.failures}
            done.keys += [key for key in run.keys if key not in of_failed]
            done.n_new += len(run.new)
            there.update(run.new)  # two groups may ask for one cell in different words
            done.notes += [note for note in run.notes if note not in done.notes]
            waiting.tables += run.tables
        if failed:
            waiting.tables.append({"failures": _failures(group, failed)})
            done.failures += [f"{_named(group, cell)}: {_said(error)}" for cell, error in failed]
        waiting.commit_when_due()
        if tell:
            tell(len(group.cells), len(failed))
    waiting.commit()
    for shown in (cache, *externals.values()):
        write_samples(shown, results)
    return done


class _Waiting:
    """Rows that are not committed yet."""

    def __init__(self, results: Path) -> None:
        self.tables: list[dict[str, Columns]] = []
        self._results = results
        self._since = time.monotonic()
        self._wait = SECONDS_PER_PART

    def commit_when_due(self) -> None:
        if time.monotonic() - self._since > self._wait:
            self.commit()

    def commit(self) -> None:
        started = time.monotonic()
        if self.tables:
            write_part(self._results, join_tables(self.tables), part=new_part("sweep"))
        self.tables = []
        self._since = time.monotonic()
        took = self._since - started
        self._wait = min(max(SECONDS_PER_PART, 10 * took), MOST_SECONDS_PER_PART)


def _opened(group: Group) -> Cache:
    cache = moved_to(open_side_by_side(group.caches), group.classes)
    if cache.content_digest != group.cache_digest:
        raise InputError(f"{group.cache} has changed since the sweep began. Run it again.")
    return cache


def _failures(group: Group, failed: Sequence[tuple[AskedCell, Exception]]) -> Columns:
    sweep = group.recipe.sweep
    rows = [
        {
            "request": cell.request,
            "recipe": group.recipe.name,
            "dataset": group.dataset,
            "cache": group.cache,
            "backbone_seed": group.backbone_seed,
            "draw_seed": group.draw_seed,
            "noise": sweep.noise,
            "head": sweep.head,
            "arm": cell.arm.text,
            "budget": cell.budget,
            "n_rounds": sweep.rounds,
            "error": _said(error),
            "traceback": "".join(traceback.format_exception(error)),
            "created": datetime.now(UTC).isoformat("T", "seconds"),
        }
        for cell, error in failed
    ]
    numbers = ("backbone_seed", "draw_seed", "n_rounds")
    return {
        name: np.array([row[name] for row in rows], dtype=int if name in numbers else object)
        for name in rows[0]
    }


def _named(group: Group, cell: AskedCell) -> str:
    sweep = group.recipe.sweep
    fitted = f", fitted on {sweep.fit_on}" if sweep.fit_on else ""
    return (
        f"{group.short_name}, draw {group.draw_seed}, head {sweep.head}{fitted}, arm "
        f"{cell.arm.text}, budget {cell.budget}"
    )


def _said(error: Exception) -> str:
    return str(error) if isinstance(error, TrustqError) else f"{type(error).__name__}: {error}"
