"""How the cost of linear heads grows with rows, problems, features and classes.

    python tests/benchmarks/bench_growth.py [--small] [--large]

Each size runs in a process of its own, so that its peak memory is its own. Rows are real ones
(HAM10000 features, labels a fifth wrong) with noise of their own in every copy; columns beyond 320
are random projections of them. `--small` stops at 100,000 rows (`make bench`), `--large` adds
1,000,000 x 768 float16. Writes `results_growth.md` and `results_growth.png` beside this file.
"""

import argparse
import json
import resource
import subprocess
import sys
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

HERE = Path(__file__).resolve().parent
DATA = HERE.parents[1].parent / "shared" / "data" / "ham10000_features"
USUAL = {"n": 6542, "p": 5, "d": 320, "K": 7}
AXES = {
    "n": (1000, 3000, 10_000, 30_000, 100_000, 300_000, 1_000_000),
    "p": (1, 5, 20, 50, 200),
    "d": (64, 128, 320, 768, 1536),
    "K": (2, 7, 30, 100),
}
SMALL, LARGE = 100_000, {"n": 1_000_000, "p": 1, "d": 768, "K": 7, "half": True}
COLUMNS = ("features", "prepare s", "fit s", "processor s", "evaluations", "peak MB", "beside data")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--small", action="store_true")
    parser.add_argument("--large", action="store_true")
    parser.add_argument("--size", default="", help="JSON: measure this size alone, in this process")
    options = parser.parse_args()
    if not DATA.is_dir():
        sys.exit("skipped: the real features are not there (../shared/data)")
    if options.size:
        print(json.dumps(measure(**json.loads(options.size))))
        return
    found: dict[str, list[dict[str, Any]]] = {}
    lines = [
        "# Growth of the linear head",
        "",
        f"{USUAL['p']} problems (labels a fifth wrong, C = .01) on {USUAL['n']:,} x {USUAL['d']} "
        f"features of {USUAL['K']} classes, one size changed at a time; numpy {version('numpy')}. "
        "Peak is of the whole process; beside data, without features, labels and an idle process.",
        "",
        f"| size | {' | '.join(COLUMNS)} |",
        "|---" * (1 + len(COLUMNS)) + "|",
    ]
    idle = run(USUAL | {"n": 1000, "d": 64, "p": 1})["peak MB"]
    for axis, values in AXES.items():
        for value in values:
            if not (options.small and value > SMALL):
                found.setdefault(axis, []).append(run(USUAL | {axis: value}))
                lines.append(row(f"{axis} = {value:,}", found[axis][-1], idle))
    if options.large:
        lines.append(row("1,000,000 x 768, one problem", run(LARGE), idle))
    (HERE / "results_growth.md").write_text("\n".join(lines) + "\n", encoding="utf-8")
    draw(found)


def run(size: dict[str, Any]) -> dict[str, Any]:
    """Measure a size in a process of its own."""
    command = [sys.executable, __file__, "--size", json.dumps(size)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    found: dict[str, Any] = size | json.loads(done.stdout)
    return found


def measure(n: int, p: int, d: int, K: int, half: bool = False) -> dict[str, Any]:
    """Seconds and peak memory of p problems."""
    from trustq.heads import SharedFeatures, fit_multinomial

    rng = np.random.default_rng(0)
    features, labels = made(n, d, K, np.dtype(np.float16 if half else np.float32), rng)
    sets = np.array([noisy(labels, K, rng) for _ in range(p)])
    began, before = time.perf_counter(), time.process_time()
    shared = SharedFeatures(features)
    shared.prepare()
    prepared = time.perf_counter()
    fits = fit_multinomial(shared, sets, n_classes=K, penalties=0.01)
    ended = time.perf_counter()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {
        "features": f"{features.dtype}, {features.nbytes / 1e6:,.0f} MB",
        "data MB": (features.nbytes + sets.nbytes) / 2**20,
        "prepare s": prepared - began,
        "fit s": ended - prepared,
        "processor s": time.process_time() - before,
        "evaluations": float(fits.n_evaluations.mean()),
        "peak MB": peak,
    }


def made(
    n: int, d: int, K: int, dtype: np.dtype, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Standardised features, (n, d), made block by block, and labels that they tell of, (n,)."""
    with np.load(DATA / "convnext_atto_64px.npz", allow_pickle=False) as data:
        train = data["split"] == 0
        real, truth = data["features"][train].astype(np.float32), data["labels"][train]
    real = (real - real.mean(axis=0)) / real.std(axis=0)
    turn = rng.standard_normal((320, d)).astype(np.float32) / 18
    scores = rng.standard_normal((320, K)).astype(np.float32)
    features, labels = np.empty((n, d), dtype), np.empty(n, np.int64)
    for first in range(0, n, 10_000):
        rows = slice(first, min(first + 10_000, n))
        drawn = rng.integers(len(real), size=rows.stop - first)
        own = real[drawn]
        if USUAL["K"] == K:
            labels[rows] = truth[drawn]
        elif K == 2:
            labels[rows] = truth[drawn] == 5  # nevi, the largest class
        else:
            labels[rows] = (own @ scores).argmax(axis=1)
        own = own if d == 320 else own @ turn
        features[rows] = own + 0.3 * rng.standard_normal(own.shape, dtype=np.float32)
    return features, labels


def noisy(labels: np.ndarray, K: int, rng: np.random.Generator) -> np.ndarray:
    wrong = rng.random(len(labels)) < 0.2
    return np.where(wrong, (labels + rng.integers(1, K, len(labels))) % K, labels)


def row(name: str, found: dict[str, Any], idle: float) -> str:
    beside = max(found["peak MB"] - found["data MB"] - idle, 0)
    cells = (
        found["features"],
        *(f"{found[column]:.2f}" for column in COLUMNS[1:4]),
        f"{found['evaluations']:.0f}",
        f"{found['peak MB']:,.0f}",
        f"{beside:,.0f}",
    )
    text = f"| {name} | {' | '.join(cells)} |"
    print(text, flush=True)
    return text


def draw(found: dict[str, list[dict[str, Any]]]) -> None:
    """Seconds and peak memory against each size, both axes logarithmic."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    names = {"n": "rows", "p": "problems", "d": "features", "K": "classes"}
    figure, panels = pyplot.subplots(2, 4, figsize=(11, 5), sharey="row", layout="constrained")
    for column, (axis, sizes) in enumerate(found.items()):
        values = [size[axis] for size in sizes]
        seconds = [size["processor s"] for size in sizes]
        for panel, heights in zip(
            panels[:, column], (seconds, [size["peak MB"] for size in sizes]), strict=True
        ):
            panel.loglog(values, heights, "o-")
            panel.grid(which="both", alpha=0.2)
        panels[1, column].set_xlabel(names[axis])
    panels[0, 0].set_ylabel("processor seconds")
    panels[1, 0].set_ylabel("peak memory, MB")
    figure.savefig(HERE / "results_growth.png", dpi=80)


if __name__ == "__main__":
    main()
