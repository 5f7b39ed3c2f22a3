"""What size costs: reads, start-up, comparisons, sweeps, reports, hashes, beside plain peers.

    python tests/benchmarks/bench_scale.py [PART...]

Processor seconds (user and system), one thread, runs of both sides in turn; the median of them. The
worst set stands first. Parts write their table between their own marks in results_scale.md, so that
one can be run again alone.
"""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

RESULTS = Path(__file__).parent / "results_scale.md"
DATA = Path(os.environ.get("TRUSTQ_DATA", "../shared/data"))
REPEATS = 9


def in_turn(**runs: Callable[[], object]) -> dict[str, float]:
    """Median processor seconds of each, run in turn after one warm-up of each."""
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for repeat in range(REPEATS + 1):
        for name, run in runs.items():
            started = time.process_time()
            run()
            if repeat:
                seconds[name].append(time.process_time() - started)
    return {name: statistics.median(own) for name, own in seconds.items()}


def feature_sets() -> dict[str, np.ndarray]:
    """Features of three real networks, real rows over and over, and made ones."""
    atto = np.load(DATA / "ham10000_features" / "convnext_atto_64px.npz")
    clip = np.load(DATA / "food101_clip_embeddings" / "food101_10class_clip_vitb32.npz")
    found = {"made": np.random.default_rng(0).standard_normal((25_000, 768), dtype=np.float32)}
    for title, file in (("HAM10000, ConvNeXt-Atto", atto), ("Food-101, CLIP", clip)):
        matrices = [file[name] for name in file.files]
        own = max((m for m in matrices if m.ndim == 2 and m.dtype.kind == "f"), key=np.size)
        found[title] = own
        found[f"{title}, ten times over"] = np.tile(own, (10, 1)).astype(np.float32)
    return found


def read() -> list[str]:
    """A verified cache beside numpy.load of its features alone, both from the page cache."""
    from trustq.store import Cache, read_cache, write_cache

    rows = []
    with tempfile.TemporaryDirectory() as name:
        for title, features in feature_sets().items():
            n = len(features)
            ids = np.array([f"image-{i:07d}" for i in range(n)])
            cache = Cache(
                dataset="bench",
                classes=("a", "b"),
                exposure="frozen",
                sample_id=ids,
                split=np.full(n, "train"),
                group_id=ids,
                label=np.zeros(n, np.int16),
                observed=np.full(n, -1, np.int16),
                trusted=np.zeros(n, bool),
                seen=np.zeros(n, np.uint8),
                features=features,
            )
            h5, npy = Path(name) / "cache.h5", Path(name) / "features.npy"
            write_cache(h5, cache)
            np.save(npy, features)
            found = in_turn(
                ours=lambda h5=h5: read_cache(h5),
                load=lambda npy=npy: np.load(npy),
                summed=lambda npy=npy: np.load(npy).sum(dtype=np.float64),
                ours_summed=lambda h5=h5: read_cache(h5).features.sum(dtype=np.float64),
            )
            ours, load = found["ours"], found["load"]
            used = found["ours_summed"] / found["summed"]
            rows.append(
                (
                    ours / load,
                    f"| {title} | {n:,} x {features.shape[1]} {features.dtype} "
                    f"| {features.nbytes / 1e6:.0f} | {ours * 1e3:.1f} | {load * 1e3:.1f} "
                    f"| {ours / load:.2f} | {used:.2f} |",
                )
            )
    head = "| features | rows x columns | MB | verified read, ms | numpy.load, ms | ratio | used |"
    return [head, "|---" * 7 + "|", *(row for _, row in sorted(rows, reverse=True))]


PARTS: dict[str, Callable[[], list[str]]] = {"read": read}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("parts", nargs="*", choices=[*PARTS, []])
    for part in parser.parse_args().parts or PARTS:
        put(part, PARTS[part]())


def put(part: str, lines: list[str]) -> None:
    """Replace the table of a part in the page of results."""
    print("\n".join(lines))
    text = RESULTS.read_text(encoding="utf-8")
    start, end = f"<!-- {part} -->\n", f"<!-- end of {part} -->"
    before, _, rest = text.partition(start)
    after = rest.partition(end)[2]
    RESULTS.write_text(before + start + "\n".join(lines) + "\n" + end + after, encoding="utf-8")


if __name__ == "__main__":
    main()
