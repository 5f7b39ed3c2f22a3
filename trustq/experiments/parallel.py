"""Run a planned sweep on processes of this machine or on a Dask cluster."""

import functools
import json
import math
import os
import re
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trustq.core.atomic_files import replacing
from trustq.core.digest import digest_json
from trustq.core.interrupts import heeded
from trustq.errors import InputError, MissingExtra, TrustqError
from trustq.experiments.work_list import Group, SweepPlan
from trustq.experiments.worker import Done, Tell, run_groups
from trustq.recipes import resolved
from trustq.results import mark
from trustq.results.schema import RECIPES

CHUNKS_PER_JOB = 16  # so that workers end together and progress is seen
LARGEST_CHUNK = 256  # groups; workers commit by the clock, and open a cache for each chunk


@dataclass(frozen=True)
class SweepRun:
    """What a sweep did: keys of all its cells, how many are new, what to know, what failed."""

    keys: tuple[str, ...]
    n_new: int
    notes: tuple[str, ...]
    failures: tuple[str, ...]


def run_sweep(
    plan: SweepPlan,
    *,
    results: Path,
    jobs: int = 0,
    scheduler: str = "",
    allow_leak: bool = False,
    progress: Callable[[int, int, int], None] | None = None,
) -> SweepRun:
    """Run the groups of a plan and commit them under `results`.

    `jobs` processes (0: one per core) share the work, or the workers of the Dask cluster at
    `scheduler`, which must see the same paths. The rows are the same either way. `progress` is told
    cells done, cells in all and cells failed. A cell that fails is recorded and the others go on;
    what is committed stays when the sweep is stopped. Raises `TrustqError` where nothing can be
    written, a worker was killed or the cluster does not answer.
    """
    if jobs < 0:
        raise InputError(
            f"jobs is {jobs}, expected 1 or more, or 0 for one per core.", where="jobs", found=jobs
        )
    results = Path(results).resolve()
    mark(results)
    _keep_recipe(plan, results)
    done = Done(keys=list(plan.there))
    n_done = n_failed = 0

    def tell(new: int, failed: int) -> None:
        nonlocal n_done, n_failed
        n_done, n_failed = n_done + new, n_failed + failed
        if progress:
            progress(n_done, plan.n_cells, n_failed)
        check()

    run = functools.partial(
        run_groups, results=results, sweep_id=uuid.uuid4().hex, allow_leak=allow_leak
    )
    with heeded() as check:
        if scheduler:
            parts = _on_cluster(plan, run, scheduler, tell)
        else:
            parts = _on_this_machine(plan, run, jobs, tell)
        for part in parts:
            done.add(part)
    return SweepRun(tuple(done.keys), done.n_new, tuple(done.notes), tuple(done.failures))


def _keep_recipe(plan: SweepPlan, results: Path) -> None:
    # Cells name their recipe; what it said at the time lies beside them, for bundles and readers.
    points = [resolved(point, "sweep") for point in plan.points]
    name = re.sub(r"[^A-Za-z0-9_-]", "_", plan.points[0].name)
    path = results / RECIPES / f"{name}-{digest_json(points)[:8]}.json"
    if not path.exists():
        with replacing(path) as part:
            part.write_text(json.dumps(points, indent=2) + "\n", encoding="utf-8")


_Run = Callable[..., Done]  # `run_groups` with its folder and sweep


def _on_this_machine(plan: SweepPlan, run: _Run, jobs: int, tell: Tell) -> Iterator[Done]:
    import joblib
    from joblib.externals.loky import get_reusable_executor
    from joblib.externals.loky.process_executor import TerminatedWorkerError

    jobs = jobs or joblib.cpu_count()
    chunks = _chunks(plan, jobs)
    if jobs == 1 or len(chunks) < 2:
        for chunk in chunks:
            yield run(chunk, tell=tell)
        return
    # The processes are the parallelism: inside each, products of small matrices keep to one thread.
    with joblib.parallel_config("loky", n_jobs=jobs, inner_max_num_threads=1):
        pool = joblib.Parallel(return_as="generator_unordered", batch_size=1)
        parent = os.getpid()
        answers = pool(joblib.delayed(_counted_while)(parent, run, chunk) for chunk in chunks)
    try:
        for done, n_cells in answers:
            tell(n_cells, len(done.failures))
            yield done
    except TerminatedWorkerError as error:
        raise TrustqError(
            "A worker process was killed, as the system does when memory runs out. What was "
            "committed stays: run the same command again, with fewer `jobs`."
        ) from error
    finally:
        # joblib would keep the processes, and what they hold, for other work.
        get_reusable_executor().shutdown(wait=True, kill_workers=True)


def _on_cluster(plan: SweepPlan, run: _Run, scheduler: str, tell: Tell) -> Iterator[Done]:
    try:
        from distributed import Client, as_completed
    except ImportError as error:
        raise MissingExtra(
            "`scheduler` needs Dask, which is not installed: pip install 'trustq[dask]'"
        ) from error
    try:
        client = Client(scheduler, timeout="10s", set_as_default=False)
    except (OSError, ValueError, TimeoutError) as error:
        raise TrustqError(
            f"No Dask scheduler answers at {scheduler}. Start one with `dask scheduler`"
            " and workers with `dask worker ADDRESS --nthreads 1`, or leave out `scheduler`."
        ) from error
    with client:
        n_workers = len(client.scheduler_info(n_workers=-1)["workers"])
        if not n_workers:
            raise TrustqError(
                f"The Dask scheduler at {scheduler} has no workers. Start some with "
                f"`dask worker {scheduler} --nthreads 1`."
            )
        # Not pure: a sweep that is run again asks the same of other committed cells.
        futures = [
            client.submit(_counted, run, chunk, pure=False) for chunk in _chunks(plan, n_workers)
        ]
        try:
            for future in as_completed(futures, loop=client.loop):
                done, n_cells = future.result()
                tell(n_cells, len(done.failures))
                yield done
        finally:
            client.cancel(futures)


def _counted_while(parent: int, run: _Run, chunk: list[Group]) -> tuple[Done, int]:
    _end_with(parent)
    return _counted(run, chunk)


@functools.lru_cache(maxsize=1)
def _end_with(parent: int) -> None:
    """End this worker within a second or two of its parent, which may have been killed."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1.0)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _counted(run: _Run, chunk: list[Group]) -> tuple[Done, int]:
    done = run(chunk)
    return done, sum(len(group.cells) for group in chunk)


def _chunks(plan: SweepPlan, jobs: int) -> list[list[Group]]:
    """Groups of one cache with the same externals, in pieces that keep all workers busy.

    A single worker is busy anyway, commits by the clock, and opens a cache for each piece.
    """
    size = min(LARGEST_CHUNK, math.ceil(len(plan.groups) / (jobs * CHUNKS_PER_JOB)) or 1)
    if jobs == 1:
        size = len(plan.groups)
    chunks: list[list[Group]] = []
    for group in plan.groups:
        last: list[Group] = chunks[-1] if chunks else []
        if last and len(last) < size and _place(last[0]) == _place(group):
            last.append(group)
        else:
            chunks.append([group])
    return chunks


def _place(group: Group) -> tuple[Any, ...]:
    return group.cache, group.externals
