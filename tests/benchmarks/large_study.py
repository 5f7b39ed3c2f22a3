"""Audit, repair and evaluation of made features of any size, and what they take.

    python tests/benchmarks/large_study.py make FILE --rows N --columns D [--classes 10]
    python tests/benchmarks/large_study.py run [--short MB] NAME COMMAND...
    python tests/benchmarks/large_study.py recall FILE [--sample N]

`make` writes a cache in blocks of rows: classes of eight clusters each, on 96 directions of
falling spread, and some of the labels wrong. `run` runs a command of trustq in a process of its
own, where it may hold so many megabytes besides files (RLIMIT_DATA), and prints wall and processor
seconds, the largest resident set, pages of files included, and what was read from disk. `recall`
compares the audit's neighbours of random rows with those among all rows in all columns.
"""

import argparse
import os
import resource
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

N_CLUSTERS, N_DIRECTIONS = 8, 96
BLOCK = 1 << 14
LIMITED = """
import resource, sys
if {short}:
    resource.setrlimit(resource.RLIMIT_DATA, ({short} << 20, {short} << 20))
from trustq.cli import app
app()
"""


def blocks(rng: np.random.Generator, label: np.ndarray, d: int, k: int) -> Iterator[np.ndarray]:
    """Features of the rows with these labels, a block at a time, float32."""
    spread = (np.arange(1, N_DIRECTIONS + 1) ** -0.6).astype(np.float32)
    centers = rng.standard_normal((k, N_CLUSTERS, N_DIRECTIONS), np.float32) * spread
    turn = rng.standard_normal((N_DIRECTIONS, d), np.float32) / np.sqrt(N_DIRECTIONS)
    for start in range(0, len(label), BLOCK):
        own = label[start : start + BLOCK]
        place = centers[own, rng.integers(0, N_CLUSTERS, len(own))]
        place += 0.7 * spread * rng.standard_normal(place.shape, np.float32)
        yield place @ turn + 0.05 * rng.standard_normal((len(own), d), np.float32)


def make(path: Path, n: int, d: int, dtype: str, *, k: int = 10, wrong: float = 1 / 6) -> None:
    """A cache of made features, written block by block."""
    from trustq.store.format import ATTRIBUTES, Cache
    from trustq.store.write import writing_cache

    rng = np.random.default_rng(0)
    label = rng.integers(0, k, n).astype(np.int16)
    is_wrong = rng.random(n) < wrong
    observed = np.where(is_wrong, (label + rng.integers(1, k, n)) % k, label)
    split = np.where(np.arange(n) % 10 < 8, "train", np.where(np.arange(n) % 10 < 9, "val", "test"))
    ids = np.char.mod("i%08d", np.arange(n))
    head = rng.standard_normal((d, k), np.float32) / np.sqrt(d)
    logits = np.empty((n, k), np.float32)
    rows = {
        "sample_id": ids,
        "split": split,
        "group_id": ids,
        "label": label,
        "observed": observed.astype(np.int16),
        "trusted": np.zeros(n, bool),
        "seen": np.zeros(n, np.uint8),
    }
    with writing_cache(path, n, {"features": (d, dtype)}) as writer:
        for name, array in rows.items():
            writer.put(name, array)
        start = 0
        for block in blocks(rng, label, d, k):
            writer.append("features", block)
            logits[start : start + len(block)] = block @ head
            start += len(block)
        logits[np.arange(n), label] += 4
        writer.put("logits", logits)
        empty = Cache("made", tuple("abcdefghij"[:k]), "frozen", features=np.empty((0, d)), **rows)
        writer.finish({name: getattr(empty, name) for name in ATTRIBUTES})


def run(name: str, words: list[str], short: int) -> int:
    """Run a command and print what it took."""
    command = [sys.executable, "-c", LIMITED.format(short=short), *words]
    before = time.perf_counter()
    with subprocess.Popen(command) as child:
        done, status, used = os.wait4(child.pid, 0)
        child.returncode = os.waitstatus_to_exitcode(status)
    wall = time.perf_counter() - before
    print(
        f"{name}: exit {child.returncode}, wall {wall:.0f} s, processor {used.ru_utime:.0f} + "
        f"{used.ru_stime:.0f} s, largest resident set {used.ru_maxrss / 1024:.0f} MiB, read "
        f"{used.ru_inblock / 2048:.0f} MiB from disk, wrote {used.ru_oublock / 2048:.0f} MiB",
        file=sys.stderr,
        flush=True,
    )
    return child.returncode


def recall(path: Path, n_sample: int) -> None:
    """The share of the ten nearest rows that the audit's search finds, and what it takes."""
    from trustq.audit.neighbours import K, NeighbourSearch, nearest
    from trustq.heads.standardise import Standardised, scale_of
    from trustq.store import read_cache

    cache = read_cache(path)
    rows = np.arange(len(cache))
    groups = np.unique(cache.group_id, return_inverse=True)[1]
    features = Standardised(cache.features, rows, scale_of(cache.features, rows))
    sample = np.sort(np.random.default_rng(1).permutation(len(rows))[:n_sample])
    began = time.process_time()
    search = NeighbourSearch(features, groups)
    chosen = time.process_time()
    found = search.nearest(sample)
    searched = time.process_time()
    exact = nearest(features, groups, rows=sample)
    compared = time.process_time()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    hits = [len(np.intersect1d(a, b)) for a, b in zip(found.rows, exact.rows, strict=True)]
    print(
        f"{len(rows):,} x {features.shape[1]}: recall@{K} {np.mean(hits) / K:.4f} on "
        f"{len(sample):,} rows ({search.n_axes} axes; {search.recall:.4f} on 200); processor s: "
        f"axes {chosen - began:.0f}, search {searched - chosen:.0f}, exact "
        f"{compared - searched:.0f}; peak {peak:.0f} MiB"
    )


def main() -> None:
    """Do what was asked."""
    parser = argparse.ArgumentParser()
    verbs = parser.add_subparsers(dest="verb", required=True)
    made = verbs.add_parser("make")
    made.add_argument("file", type=Path)
    made.add_argument("--rows", type=int, required=True)
    made.add_argument("--columns", type=int, required=True)
    made.add_argument("--dtype", default="float16")
    made.add_argument("--classes", type=int, default=10)
    made.add_argument("--wrong", type=float, default=1 / 6)
    ran = verbs.add_parser("run")
    ran.add_argument("name")
    ran.add_argument("--short", type=int, default=0, metavar="MB")
    ran.add_argument("words", nargs=argparse.REMAINDER)
    compared = verbs.add_parser("recall")
    compared.add_argument("file", type=Path)
    compared.add_argument("--sample", type=int, default=50_000)
    asked = parser.parse_args()
    if asked.verb == "make":
        shape = (asked.rows, asked.columns, asked.dtype)
        make(asked.file, *shape, k=asked.classes, wrong=asked.wrong)
    elif asked.verb == "recall":
        recall(asked.file, asked.sample)
    else:
        raise SystemExit(run(asked.name, asked.words, asked.short))


if __name__ == "__main__":
    main()
