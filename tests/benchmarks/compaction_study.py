"""kill -9 at random moments of a compaction: are all rows there, and does a later one go through?

A results folder of many parts is copied for each trial. A child compacts the copy and is killed at
a uniformly random moment: in turn of the time that an undisturbed compaction takes, of the time
from the first byte of the merged cells, written last, and of that from their rename, over the
record that commits them to its own rename. A child that ended before its moment does not count.
Then every view must have the rows of the undisturbed folder, again after a second compaction and
again after `clean`, which must leave nothing that belongs to no cell.

Run: python tests/benchmarks/compaction_study.py [--trials 60] [--parts 200]
"""

import argparse
import hashlib
import multiprocessing
import os
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from support import make_cache

from trustq.experiments import repair
from trustq.recipes import load_recipe
from trustq.results import clean, compact, connect

# Children are forked from a server that has imported this and done nothing else.
CONTEXT = multiprocessing.get_context("forkserver")
# Their sums of floats run in an order of their own, which differs from one reading to the next.
AGGREGATED = ("seeds", "curves", "paired", "leaderboard")


def write_parts(folder: Path, n_parts: int) -> None:
    """Results of a small repair with a part for each draw."""
    settings = ["sweep.noise=symmetric:0.2", "head=majority", "budgets=3", "folds=2"]
    settings += ["arms=none,random", "references=false", f"draws={n_parts}"]
    repair([make_cache(n=60, d=4)], recipe=load_recipe(settings=settings), results=folder)


def view_digests(folder: Path) -> dict[str, str]:
    """Rows of every view in any order; aggregates to nine digits, without ranks by them."""
    digests = {}
    with connect(folder) as connection:
        names = connection.execute("SELECT view_name FROM duckdb_views() WHERE NOT internal")
        for (name,) in sorted(names.fetchall()):
            if name not in AGGREGATED:
                query = f"SELECT count(*), sum(hash(r)::HUGEINT) FROM {name} r"
                digests[name] = str(connection.execute(query).fetchone())
                continue
            ranks = " EXCLUDE (place)" if name == "leaderboard" else ""
            rows = connection.execute(f"SELECT *{ranks} FROM {name}").fetchall()
            text = "\n".join(sorted(repr(tuple(map(_rounded, row))) for row in rows))
            digests[name] = f"{len(rows)} {hashlib.md5(text.encode()).hexdigest()}"
    return digests


def _rounded(value: object) -> object:
    # Also what is 0 but for its last bits.
    return f"{round(value, 12) + 0.0:.9g}" if isinstance(value, float) else value


def compact_when_told(folder: Path, pipe: Connection) -> None:
    """What the child does: everything is imported before it says that it begins."""
    import duckdb

    duckdb.connect().close()
    pipe.send("ready")
    pipe.recv()
    compact(folder)


def start(folder: Path) -> multiprocessing.process.BaseProcess:
    """A child that has just begun to compact."""
    ours, theirs = CONTEXT.Pipe()
    child = CONTEXT.Process(target=compact_when_told, args=(folder, theirs))
    child.start()
    ours.recv()
    ours.send("go")
    return child


# Files that say how far the child is: begun, merged cells being written, and in their place.
MOMENTS = ("", "*compact-*", "compact-*")


def wait_for(pattern: str, child: multiprocessing.process.BaseProcess, folder: Path) -> None:
    """Until there are merged cells of a name, or the child has ended."""
    while pattern and child.is_alive() and not any((folder / "runs").glob(pattern)):
        pass


def measured(folder: Path, copy: Path) -> list[float]:
    """Seconds from each of `MOMENTS` to the end of an undisturbed compaction."""
    shutil.copytree(folder, copy)
    child = start(copy)
    times = []
    for pattern in MOMENTS:
        wait_for(pattern, child, copy)
        times.append(time.perf_counter())
    child.join()
    ended = time.perf_counter()
    shutil.rmtree(copy)
    return [ended - begun for begun in times]


def stage_of(folder: Path) -> str:
    """What the killed compaction had reached, by the files that it left."""
    if any((folder / "compactions").glob("compact-*.json")):
        return "recorded"
    if any((folder / "compactions").glob(".compact-*")):
        return "record being written"
    if any((folder / "runs").glob("compact-*")):
        return "all tables merged"
    if any((folder / "runs").glob(".compact-*")):
        return "runs being written"
    if any(folder.glob("*/compact-*")) or any(folder.glob("*/.compact-*")):
        return "tables being written"
    return "nothing written"


def strangers(folder: Path) -> list[str]:
    """Files of tables that belong to no committed part."""
    whole = {path.name for path in (folder / "runs").glob("[!.]*.parquet")}
    there = [path for path in folder.glob("*/*.parquet") if path.parent.name != "samples"]
    hidden = [path for path in folder.glob("*/.*") if ".part" in path.name]
    return [str(path) for path in {*there, *hidden} if path.name not in whole]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--trials", type=int, default=60)
    parser.add_argument("--parts", type=int, default=200)
    asked = parser.parse_args()
    rng = np.random.default_rng(0)
    reached: Counter[str] = Counter()
    equal: Counter[str] = Counter()
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        write_parts(root / "whole", asked.parts)
        expected = view_digests(root / "whole")
        times = [measured(root / "whole", root / "timed") for _ in range(3)]
        seconds = [max(column) for column in zip(*times, strict=True)]
        killed = trial = 0
        while killed < asked.trials:
            trial += 1
            copy = root / f"trial{trial}"
            shutil.copytree(root / "whole", copy)
            child = start(copy)
            moment = trial % len(MOMENTS)
            wait_for(MOMENTS[moment], child, copy)
            time.sleep(rng.uniform(0, seconds[moment]))
            if child.pid and child.is_alive():
                os.kill(child.pid, signal.SIGKILL)
            child.join()
            if child.exitcode == -signal.SIGKILL:
                killed += 1
                reached[stage_of(copy)] += 1
                equal["after the kill"] += view_digests(copy) == expected
                compact(copy)
                equal["after a second compaction"] += view_digests(copy) == expected
                for path in copy.rglob("*"):  # as if an hour had gone by
                    os.utime(path, (time.time() - 3600,) * 2)
                clean(copy)
                is_whole = view_digests(copy) == expected and not strangers(copy)
                equal["after clean, nothing else left"] += is_whole
            shutil.rmtree(copy)
    whole, cells, renamed = seconds
    print(
        f"{asked.parts} parts, compacted in {whole:.2f} s, of which {cells:.3f} s from the runs' "
        f"first byte and {renamed:.4f} s from their rename.\n"
    )
    print("| killed at work | " + " | ".join(f"rows equal {when}" for when in equal) + " |")
    print("|---" * (1 + len(equal)) + "|")
    print(f"| {killed} | " + " | ".join(map(str, equal.values())) + " |\n")
    print("Reached when killed: " + ", ".join(f"{stage} {n}" for stage, n in reached.most_common()))


if __name__ == "__main__":
    main()
