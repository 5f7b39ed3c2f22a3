"""One changed bit in a results folder or a cache: is it noticed, or does nothing change?

Each trial copies nothing: it flips one random bit of one file (chosen by size or evenly, in turn),
reads every table (or the cache), and puts the bit back. A trial is `silent` when what was read
differs and nothing was said, and a `traceback` when something else than a `TrustqError` was raised.

Run: python tests/benchmarks/flip_study.py [--results 160] [--caches 150]
"""

import argparse
import random
import sys
import tempfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from support import make_cache

from trustq.errors import TrustqError
from trustq.experiments import repair
from trustq.recipes import load_recipe
from trustq.results import TABLES, compact, connect
from trustq.store import read_cache, write_cache


def write_results(folder: Path) -> None:
    """Results of small repairs, some of their parts merged."""
    settings = ["sweep.noise=symmetric:0.2", "head=majority", "budgets=3", "folds=2"]
    settings += ["arms=none,random", "references=false", "draws=3"]
    repair([make_cache(n=60, d=4)], recipe=load_recipe(settings=settings), results=folder)
    compact(folder, fewest=2)
    settings[-1] = "draw_seed=7"
    repair([make_cache(n=60, d=4)], recipe=load_recipe(settings=settings), results=folder)


def read_results(folder: Path) -> str:
    """Every row of every table."""
    with connect(folder) as connection:
        return repr(
            [connection.execute(f"FROM {table} ORDER BY ALL").fetchall() for table in TABLES]
        )


def read_caches(folder: Path) -> str:
    """Everything that a cache holds."""
    cache = read_cache(folder / "seed0.h5")
    arrays = (cache.sample_id, cache.label, cache.observed, cache.seen, cache.features)
    return repr([cache.content_digest, *(array.tobytes() for array in arrays)])


def flip(
    folder: Path, read: Callable[[Path], str], trials: int, rng: random.Random
) -> Counter[str]:
    """Count what came of `trials` flipped bits."""
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.stat().st_size)
    before = read(folder)
    seen: Counter[str] = Counter()
    for trial in range(trials):
        weights = [path.stat().st_size if trial % 2 else 1 for path in files]
        path = rng.choices(files, weights)[0]
        data = path.read_bytes()
        place = rng.randrange(len(data))
        flipped = bytes([data[place] ^ 1 << rng.randrange(8)])
        path.write_bytes(data[:place] + flipped + data[place + 1 :])
        try:
            seen["nothing changed" if read(folder) == before else "silent"] += 1
        except TrustqError:
            seen["noticed"] += 1
        except Exception as error:
            seen["traceback"] += 1
            print(f"{path.name}, byte {place}: {type(error).__name__}: {error}", file=sys.stderr)
        path.write_bytes(data)
    return seen


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--results", type=int, default=160)
    parser.add_argument("--caches", type=int, default=150)
    asked = parser.parse_args()
    print("| what | flips | noticed | nothing changed | silent | traceback |")
    print("|---" * 6 + "|")
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        write_results(root / "results")
        write_cache(root / "caches" / "seed0.h5", make_cache(n=60, d=4))
        for what, read, trials in (
            ("results", read_results, asked.results),
            ("caches", read_caches, asked.caches),
        ):
            seen = flip(root / what, read, trials, random.Random(0))
            kinds = ("noticed", "nothing changed", "silent", "traceback")
            print(f"| {what} | {trials} | " + " | ".join(str(seen[kind]) for kind in kinds) + " |")


if __name__ == "__main__":
    main()
