"""Peak memory of an audit over the size of the features, and the same where memory is short.

    python tests/benchmarks/peak_study.py [--rows N] [--columns N] [--dtype float16] [--short MB]

The command runs in a process of its own; its peak is the largest resident set that the system saw,
less that of the same command on 500 rows. With `--short` it runs once more where the process may
hold so many megabytes besides files (RLIMIT_DATA), and the two lists must be equal byte by byte.
Made features, a fiftieth of the labels wrong.
"""

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

# The largest resident set of one child, in a process that has no other.
MEASURE = """
import resource, subprocess, sys
done = subprocess.run([sys.executable, "-c", sys.argv[1]], stdout=subprocess.DEVNULL)
used = resource.getrusage(resource.RUSAGE_CHILDREN)
print(used.ru_maxrss / 1024, used.ru_utime + used.ru_stime, file=sys.stderr)
sys.exit(done.returncode)
"""
COMMAND = """
import resource, sys
if {short}:
    resource.setrlimit(resource.RLIMIT_DATA, ({short} << 20, {short} << 20))
sys.argv = ["trustq", *{words!r}]
from trustq.cli import app
app()
"""


def make(path: Path, n: int, d: int, dtype: str, *, k: int = 3, noise: float = 0.02) -> None:
    """A cache of made features whose classes lie apart, with some wrong labels."""
    from trustq.store import Cache, write_cache

    rng = np.random.default_rng(0)
    label = rng.integers(0, k, n)
    features = rng.standard_normal((n, d), dtype=np.float32)
    features[:, :k] += 4 * np.eye(k, dtype=np.float32)[label]
    observed = np.where(rng.random(n) < noise, rng.integers(0, k, n), label)
    ids = np.char.mod("i%07d", np.arange(n))
    write_cache(
        path,
        Cache(
            dataset="made",
            classes=tuple("abcdefghij"[:k]),
            exposure="frozen",
            sample_id=ids,
            split=np.full(n, "train"),
            group_id=ids,
            label=label.astype(np.int16),
            observed=observed.astype(np.int16),
            trusted=np.zeros(n, bool),
            seen=np.zeros(n, np.uint8),
            features=features.astype(dtype),
        ),
    )


def measured(words: list[str], short: int = 0) -> tuple[float, float]:
    """Megabytes at most and processor seconds of a command's process."""
    code = COMMAND.format(words=words, short=short)
    done = subprocess.run([sys.executable, "-c", MEASURE, code], capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(done.stderr)
    megabytes, seconds = map(float, done.stderr.split()[-2:])
    return megabytes, seconds


def listed(folder: Path) -> dict[str, bytes]:
    """The lists that an audit wrote."""
    return {path.name: path.read_bytes() for path in sorted(folder.rglob("*.csv"))}


def main() -> None:
    """Print a row of the table of `studies.md`."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--rows", type=int, default=20_000)
    parser.add_argument("--columns", type=int, default=768)
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--short", type=int, default=0, metavar="MB")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make(folder / "small.h5", 500, asked.columns, asked.dtype)
        make(folder / "large.h5", asked.rows, asked.columns, asked.dtype)
        size = asked.rows * asked.columns * np.dtype(asked.dtype).itemsize / 2**20

        def audit(which: str, out: str, short: int = 0) -> tuple[float, float]:
            words = ["audit", "labels", str(folder / which), "--out", str(folder / out)]
            return measured(words, short)

        base, _ = audit("small.h5", "small")
        peak, seconds = audit("large.h5", "large")
        shape = f"{asked.rows:,} x {asked.columns} {asked.dtype}"
        print(f"| {shape} | {size:.0f} | {base:.0f} | {peak:.0f} | {(peak - base) / size:.2f} |")
        if asked.short:
            _, again = audit("large.h5", "short", asked.short)
            same = listed(folder / "large") == listed(folder / "short")
            print(f"within {asked.short} MB besides files: lists equal: {same}; ", end="")
            print(f"{again:.1f} processor s, {seconds:.1f} without the limit")


if __name__ == "__main__":
    main()
