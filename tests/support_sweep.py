"""Sweeps of trivial cells, run by the command line in processes that can be killed."""

import contextlib
import hashlib
import multiprocessing
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

from support import make_cache

from trustq.errors import TrustqError
from trustq.recipes import Recipe, load_sweep
from trustq.results import connect, run_query
from trustq.store import write_cache

# What is of the run and not of the cell.
_OF_RUN = {"runs": ("seconds", "created", "microseconds_per_row"), "rounds": ("fit_seconds",)}

_COMMAND = """
import sys
from trustq.cli import app
recipe, results, jobs = sys.argv[1:]
app(["sweep", recipe, "--results", results, "--jobs", jobs], standalone_mode=False)
app(["results", "compact", "--results", results], standalone_mode=False)
"""


def write_caches(folder: Path, n: int = 2, *, rows: int = 60, **fields: object) -> Path:
    """Small caches of one recipe, backbone seeds 0 and up; the pattern that finds them."""
    for seed in range(n):
        values = {"n": rows, "d": 4, "backbone_seed": seed, "recipe": {"name": "toy"}, **fields}
        write_cache(folder / f"seed{seed}.h5", make_cache(seed=seed, **values))  # type: ignore[arg-type]
    return folder / "seed*.h5"


def trivial_recipe(folder: Path, caches: Path, **keys: str) -> Path:
    """A recipe whose cells cost milliseconds: a head that knows only the largest class."""
    values = {
        "caches": f'["{caches}"]',
        "noise": '"symmetric:0.2"',
        "head": '"majority"',
        "arms": '["none", "random", "oracle"]',
        "budgets": '["3", "6"]',
        "folds": "2",
        "draws": "5",
    } | keys
    path = folder / "trivial.toml"
    text = "\n".join(f"{key} = {value}" for key, value in values.items())
    path.write_text(f"# Trivial.\n[sweep]\n{text}\n")
    return path


def points_of(recipe: Path) -> list[Recipe]:
    """The points of a recipe file's grid."""
    return load_sweep(str(recipe))


def rows_digest(results: Path) -> dict[str, str]:
    """Digest of each table's rows in an order of their own, without times."""
    digests = {}
    with connect(results) as connection:
        for table in ("runs", "rounds", "queries", "labels", "metrics", "predictions"):
            left_out = _OF_RUN.get(table, ())
            excluded = f" EXCLUDE ({', '.join(left_out)})" if left_out else ""
            rows = connection.execute(f"SELECT *{excluded} FROM {table} ORDER BY ALL").fetchall()
            digests[table] = f"{len(rows)} {hashlib.md5(repr(rows).encode()).hexdigest()}"
    return digests


def start_sweep(recipe: Path, results: Path, *, jobs: int) -> subprocess.Popen[bytes]:
    """A sweep and a compaction in a process group of their own."""
    return subprocess.Popen(
        [sys.executable, "-c", _COMMAND, str(recipe), str(results), str(jobs)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )


def kill_sweeps(
    recipe: Path, results: Path, *, kills: int, longest: float, seed: int = 0, jobs: int = 2
) -> int:
    """Start a sweep `kills` times and kill its whole group at random times; how many were alive."""
    rng = random.Random(seed)
    n_killed = 0
    for _ in range(kills):
        process = start_sweep(recipe, results, jobs=jobs)
        time.sleep(rng.uniform(0, longest))
        n_killed += process.poll() is None
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        assert process.stderr is not None
        process.stderr.close()
    return n_killed


def finish_sweep(recipe: Path, results: Path, *, jobs: int = 2) -> None:
    """Run a sweep to its end."""
    process = start_sweep(recipe, results, jobs=jobs)
    _, errors = process.communicate()
    assert process.returncode == 0, errors.decode()


def runs_of_cells(results: Path) -> dict[str, int]:
    """How often each cell was committed by a sweep, superseded parts included."""
    import duckdb

    pattern = str(results / "runs" / "sweep-*.parquet")
    if not list(results.glob("runs/sweep-*.parquet")):
        return {}  # every sweep was killed before its first commit
    with duckdb.connect() as connection:
        query = "SELECT key, count(*) FROM read_parquet(?) GROUP BY key"
        return dict(connection.execute(query, [pattern]).fetchall())


# Of each table, rows that are not of a whole cell. Every cell has one or two rounds, 3 classes.
_BROKEN = """
SELECT (SELECT count(*) FROM runs c WHERE NOT EXISTS (FROM metrics m WHERE m.run = c.key))
     + (SELECT count(*) FROM runs c WHERE n_bought <> (
            SELECT count(*) FROM queries q WHERE q.run = c.key))
     + (SELECT count(*) FROM runs c WHERE n_train <> (
            SELECT count(*) FROM labels l WHERE l.run = c.key))
     + (SELECT count(*) FROM metrics m WHERE NOT EXISTS (FROM runs c WHERE m.run = c.key))"""


def read_and_write(
    recipes: list[Path], results: Path, *, readers: int, seconds: float
) -> tuple[int, int]:
    """Sweeps of several recipes beside readers; queries answered and cells seen at the end.

    Each writer runs its sweep with other draws again and again and compacts. Raises the error of
    any of them, and where a query saw part of a cell.
    """
    context = multiprocessing.get_context("spawn")
    until = time.time() + seconds
    counts = context.Array("i", readers + len(recipes))
    writers = [
        context.Process(target=_write_until, args=(recipe, results, until, counts, number))
        for number, recipe in enumerate(recipes)
    ]
    reading = [
        context.Process(target=_read_until, args=(results, until, counts, len(recipes) + number))
        for number in range(readers)
    ]
    for process in (*writers, *reading):
        process.start()
    for process in (*writers, *reading):
        process.join()
    assert [process.exitcode for process in (*writers, *reading)] == [0] * len(counts)
    n_cells = run_query(results, "SELECT count(*) FROM runs").rows[0][0]
    return sum(counts[len(recipes) :]), n_cells


def _write_until(recipe: Path, results: Path, until: float, counts, number: int) -> None:  # type: ignore[no-untyped-def]
    from trustq.experiments import plan_sweep, run_sweep
    from trustq.results import compact

    first = 0
    while not first or time.time() < until:
        points = load_sweep(str(recipe), settings=[f"draw_seed={first}"])
        run = run_sweep(plan_sweep(points, results=results), results=results, jobs=1)
        assert not run.failures, run.failures
        compact(results, fewest=4, wait=False)
        first += points[0].sweep.draws
        counts[number] += 1


def _read_until(results: Path, until: float, counts, number: int) -> None:  # type: ignore[no-untyped-def]
    # However slowly processes start, there is an answer.
    while not counts[number] or time.time() < until:
        try:
            broken = run_query(results, _BROKEN).rows[0][0]
        except TrustqError as error:
            if "holds no results" in str(error):
                time.sleep(0.1)
                continue  # the first sweep has not begun
            raise
        assert broken == 0, f"{broken} rows without the rest of their run"
        counts[number] += 1
