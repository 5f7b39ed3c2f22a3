"""Peak memory of audits, repairs and evaluations over the size of the features, and beyond memory.

    python tests/benchmarks/peak_study.py [--rows 20000] [--columns 768] [--beyond]

Each command runs in a process of its own; its peak is the largest resident set that the system saw,
less that of the same command on 500 rows. With `--beyond` it runs again where so much memory is
said to be free that features and what is made of them go to files, and their pages are dropped as
others need them: the answers must be equal. Made features, two classes of rows overlapping.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

CODE = """
import json, resource, sys
from trustq.core import scratch
if {free}:
    scratch.free_memory = lambda: {free}
sys.argv = ["trustq", *{words!r}]
from trustq.cli import app
app(standalone_mode=False)
"""


def make(path: Path, n: int, d: int, dtype: str, k: int = 10) -> None:
    """A cache of made features with a fifth of wrong labels."""
    from trustq.store import Cache, write_cache

    rng = np.random.default_rng(0)
    label = rng.integers(0, k, n)
    features = rng.standard_normal((n, d), dtype=np.float32)
    features[:, :k] += 2 * np.eye(k, dtype=np.float32)[label]
    observed = np.where(rng.random(n) < 0.2, rng.integers(0, k, n), label)
    ids = np.char.mod("i%07d", np.arange(n))
    split = np.where(np.arange(n) % 10 < 8, "train", np.where(np.arange(n) % 10 == 8, "val", "test"))
    write_cache(
        path,
        Cache(
            dataset="made",
            classes=tuple("abcdefghij"[:k]),
            exposure="frozen",
            sample_id=ids,
            split=split,
            group_id=ids,
            label=label.astype(np.int16),
            observed=observed.astype(np.int16),
            trusted=np.zeros(n, bool),
            seen=np.zeros(n, np.uint8),
            features=features.astype(dtype),
        ),
    )


def peak(words: list[str], folder: Path, free: int) -> float:
    """Megabytes at most of a command's process."""
    code = CODE.format(words=words, free=free)
    before = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    done = subprocess.run(
        [sys.executable, "-c", MEASURE, code], cwd=folder, capture_output=True, text=True
    )
    if done.returncode:
        raise SystemExit(done.stderr)
    del before
    return float(done.stderr.splitlines()[-1])


# The largest resident set of one child, in a process that has no other.
MEASURE = """
import resource, subprocess, sys
done = subprocess.run([sys.executable, "-c", sys.argv[1]], stdout=subprocess.DEVNULL)
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024, file=sys.stderr)
sys.exit(done.returncode)
"""
