"""How time and memory grow with rows, columns, classes, label sets, rounds, arms and draws.

    python tests/benchmarks/bench_growth.py [--small] [--large] [--wide FILE]

Each size runs in a process of its own, so that its peak memory is its own. Columns are real ones
of HAM10000 images, those that `wide_features.py` wrote where there is such a file and else the 320
that are stored; rows beyond them are real ones with noise of their own in every copy. `--small`
stops at sizes of a few seconds and writes no page (`make bench`), `--large` adds 1,000,000 x 768
float16.
Writes `results_growth.md` and `results_growth.png` beside this file.
"""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import argparse
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

HERE = Path(__file__).resolve().parent
DATA = Path(os.environ.get("TRUSTQ_DATA", HERE.parents[1].parent / "shared" / "data"))
FEATURES = DATA / "ham10000_features"
STORED, WIDE = FEATURES / "convnext_atto_64px.npz", FEATURES / "wide_features.npz"
HEADS = {"n": 6542, "p": 5, "d": 320, "K": 7}
REPAIRS = {"d": 1280, "rounds": 4, "arms": 3, "draws": 2}
AXES = {
    "n": (1000, 3000, 10_000, 30_000, 100_000, 300_000, 1_000_000),
    "d": (64, 128, 256, 512, 1024, 2048, 4096),
    "K": (2, 7, 20, 50, 100, 200),
    "p": (1, 5, 20, 50, 200),
    "rounds": (1, 2, 4, 8, 16),
    "arms": (1, 2, 4, 6, 8),
    "draws": (1, 2, 4, 8, 16),
}
NAMES = {
    "n": "rows",
    "d": "columns",
    "K": "classes",
    "p": "label sets",
    "rounds": "rounds",
    "arms": "arms",
    "draws": "draws",
}
SMALL = {"n": 30_000, "d": 1024, "K": 50, "p": 50, "rounds": 2, "arms": 2, "draws": 2}
LARGE = {"n": 1_000_000, "p": 1, "d": 768, "K": 7, "half": True}
ARMS = (
    *("self_confidence", "none", "random", "entropy", "normalized_margin", "oracle"),
    *("self_confidence:drop", "entropy:drop"),
)
FITTED = 3  # sizes, the largest ones, over which a slope is fitted
QUICK = 4.0  # processor seconds up to which a size is measured three times


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--small", action="store_true")
    parser.add_argument("--large", action="store_true")
    parser.add_argument("--wide", type=Path, default=WIDE, help="of wide_features.py")
    parser.add_argument("--size", default="", help="JSON: measure this size alone, in this process")
    parser.add_argument("--prepared", type=Path, help="with --size: where the columns lie")
    options = parser.parse_args()
    if not STORED.is_file():
        sys.exit(f"skipped: the real features are not there ({STORED})")
    if options.size:
        size = json.loads(options.size)
        measured = repaired if "rounds" in size else measure
        print(json.dumps(measured(options.prepared, **size)))
        return
    with tempfile.TemporaryDirectory() as folder:
        n_columns = prepare(options.wide, Path(folder))
        grow(Path(folder), n_columns, options)


def grow(prepared: Path, n_columns: int, options: argparse.Namespace) -> None:
    """Measure all sizes and write the page and the picture."""
    idle = run(HEADS | {"n": 1000, "d": 64, "p": 1}, prepared)["peak MB"]
    found: dict[str, list[dict[str, Any]]] = {}
    for axis, values in AXES.items():
        usual = HEADS if axis in HEADS else REPAIRS | {"d": min(REPAIRS["d"], n_columns)}
        for value in values:
            if options.small and value > SMALL[axis]:
                continue
            if axis == "d" and value > n_columns:
                print(f"left out: {value:,} columns, of which {n_columns} are there")
                continue
            found.setdefault(axis, []).append(run(usual | {axis: value}, prepared))
            print(row(f"{NAMES[axis]} = {value:,}", found[axis][-1], idle), flush=True)
    if options.small:
        return
    large = [run(LARGE, prepared)] if options.large else []
    page = written(found, large, idle, n_columns)
    (HERE / "results_growth.md").write_text(page, encoding="utf-8")
    draw(found, idle)


def prepare(wide: Path, folder: Path) -> int:
    """Write columns one after the other, standardised, float32, and labels; how many columns.

    A process reads those that it needs, so that none of the others is in its memory.
    """
    with np.load(wide if wide.is_file() else STORED, allow_pickle=False) as data:
        features = data["features"].astype(np.float32)
        labels, split = data["labels"].astype(np.int64), data["split"]
    # Every number of columns is a mixture of all sources.
    features = features[:, np.random.default_rng(0).permutation(features.shape[1])]
    train = split == 0
    center, scale = features[train].mean(axis=0), features[train].std(axis=0)
    features = (features - center) / (scale + 1e-6)
    features.T.tofile(folder / "columns")
    classes = {2: (labels == 5).astype(np.int64), HEADS["K"]: labels}  # nevi, the largest class
    for n in set(AXES["K"]) - set(classes):
        classes[n] = clusters(features[:, : HEADS["d"]], n)
    np.savez(folder / "rows.npz", split=split, **{f"of_{n}": own for n, own in classes.items()})
    return int(features.shape[1])


def read(prepared: Path, d: int, K: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The first d columns, (9286, d), labels of K classes and splits, without copies of them."""
    with np.load(prepared / "rows.npz", allow_pickle=False) as rows:
        labels, split = rows[f"of_{K}"], rows["split"]
    features = np.empty((len(labels), d), np.float32)
    with open(prepared / "columns", "rb") as file:
        for column in range(d):
            features[:, column] = np.fromfile(file, np.float32, len(labels))
    return features, labels, split


def run(size: dict[str, Any], prepared: Path) -> dict[str, Any]:
    """Measure a size in processes of its own, three times where it takes seconds: the medians."""
    command = [sys.executable, __file__, "--prepared", str(prepared), "--size", json.dumps(size)]
    runs: list[dict[str, Any]] = []
    while len(runs) < (3 if not runs or runs[0]["processor s"] < QUICK else 1):
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            sys.exit(f"{size}: {done.stderr}")
        runs.append(json.loads(done.stdout))
    found = dict(size)
    for name, value in runs[0].items():
        numbers = [one[name] for one in runs]
        found[name] = value if isinstance(value, str) else statistics.median(numbers)
    return found


def measure(prepared: Path, n: int, p: int, d: int, K: int, half: bool = False) -> dict[str, Any]:
    """Seconds and peak memory of p problems."""
    from trustq.heads import SharedFeatures, fit_multinomial

    rng = np.random.default_rng(0)
    dtype = np.dtype(np.float16 if half else np.float32)
    features, labels = made(read(prepared, d, K), n, dtype, rng)
    sets = np.array([noisy(labels, K, rng) for _ in range(p)])
    before = time.process_time()
    shared = SharedFeatures(features)
    shared.prepare()
    between = time.process_time()
    fits = fit_multinomial(shared, sets, n_classes=K, penalties=0.01)
    ended = time.process_time()
    return {
        "what": f"{features.dtype}, {features.nbytes / 1e6:,.0f} MB",
        "data MB": (features.nbytes + sets.nbytes) / 2**20,
        "prepare s": between - before,
        "processor s": ended - before,
        "evaluations": float(fits.n_evaluations.mean()),
        "peak MB": peak(),
    }


def repaired(prepared: Path, d: int, rounds: int, arms: int, draws: int) -> dict[str, Any]:
    """Seconds and peak memory of a repair with five folds, 5 % of the labels bought."""
    import trustq as tq

    features, labels, split = read(prepared, d, HEADS["K"])
    data = {
        "features": features,
        "labels": labels,
        "split": np.array(["train", "val", "test"])[split],
        "groups": np.arange(len(labels)),
    }
    with tempfile.TemporaryDirectory() as folder:
        before = time.process_time()
        done = tq.repair(
            data,
            results=folder,
            noise="symmetric:0.2",
            arms=list(ARMS[:arms]),
            references=False,
            budgets=["5%"],
            rounds=rounds,
            draws=draws,
        )
        seconds = time.process_time() - before
    return {
        "what": f"{done.n_new} runs",
        "data MB": features.nbytes / 2**20,
        "prepare s": float("nan"),
        "processor s": seconds,
        "evaluations": float("nan"),
        "peak MB": peak(),
    }


def peak() -> float:
    """Peak memory of this process, MB; what `getrusage` says begins with that of its parent."""
    status = Path("/proc/self/status")
    if status.exists():
        lines = status.read_text(encoding="ascii").splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def made(
    real: tuple[np.ndarray, np.ndarray, np.ndarray], n: int, dtype: np.dtype, rng: Any
) -> tuple[np.ndarray, np.ndarray]:
    """Features, (n, d), of training rows, the first or copies with noise, and labels, (n,)."""
    own, truth = real[0][real[2] == 0], real[1][real[2] == 0]
    if n <= len(own) and dtype == own.dtype:
        return own[:n], truth[:n]
    features, labels = np.empty((n, own.shape[1]), dtype), np.empty(n, np.int64)
    for first in range(0, n, 10_000):
        rows = slice(first, min(first + 10_000, n))
        drawn = rng.integers(len(own), size=rows.stop - first)
        labels[rows] = truth[drawn]
        features[rows] = own[drawn]
        features[rows] += 0.3 * rng.standard_normal(features[rows].shape, dtype=np.float32)
    return features, labels


def clusters(features: np.ndarray, K: int) -> np.ndarray:
    """Clusters of real rows, (n,), by k-means: no set of real features has so many classes."""
    from sklearn.cluster import MiniBatchKMeans

    found = MiniBatchKMeans(K, n_init=1, random_state=0).fit_predict(features)
    return np.unique(found, return_inverse=True)[1]


def noisy(labels: np.ndarray, K: int, rng: np.random.Generator) -> np.ndarray:
    wrong = rng.random(len(labels)) < 0.2
    return np.where(wrong, (labels + rng.integers(1, K, len(labels))) % K, labels)


def beside(found: dict[str, Any], idle: float) -> float:
    return max(found["peak MB"] - found["data MB"] - idle, 0.0)


def row(name: str, found: dict[str, Any], idle: float) -> str:
    def text(value: float, digits: int) -> str:
        return "" if np.isnan(value) else f"{value:,.{digits}f}"

    cells = (
        found["what"],
        text(found["prepare s"], 2),
        f"{found['processor s']:.2f}",
        text(found["evaluations"], 0),
        f"{found['peak MB']:,.0f}",
        f"{beside(found, idle):,.0f}",
    )
    return f"| {name} | {' | '.join(cells)} |"


def slope(sizes: list[float], heights: list[float]) -> str:
    """Slope of logarithms over the largest sizes; blank where a height is about nothing."""
    x, y = np.array(sizes[-FITTED:], float), np.array(heights[-FITTED:], float)
    if len(x) < 2 or (y < 1e-2).any():
        return ""
    return f"{np.polyfit(np.log(x), np.log(y), 1)[0]:.2f}"


def written(
    found: dict[str, list[dict[str, Any]]],
    large: list[dict[str, Any]],
    idle: float,
    n_columns: int,
) -> str:
    heads = f"{HEADS['p']} label sets (a fifth wrong, C = .01) on {HEADS['n']:,} x {HEADS['d']}"
    lines = [
        "# Growth",
        "",
        "`python tests/benchmarks/bench_growth.py --large`. One size is changed at a time, each in "
        "a process of its own, beside other work; one thread, processor seconds (user and "
        f"system), medians of three runs up to {QUICK:g} s; numpy {version('numpy')}. Peak is of "
        "the whole process; beside data is without features, labels and an idle process. Of "
        f"{n_columns:,} different real columns (`wide_features.py`: EfficientNet-Lite0 at two "
        "sizes and its stages, ConvNeXt-Atto, thumbnails) each number is a random choice, so a "
        "mixture of all.",
        "",
        f"Linear heads: {heads} columns of {HEADS['K']} classes. More rows than 6,542 are real "
        "ones with noise of their own in every copy. Two classes are nevi and others, seven the "
        "diagnoses; of more classes there are no real features here, so they are clusters of the "
        "rows. Repairs: 9,286 images x 1,280 columns, symmetric noise of 20 %, five folds, 5 % of "
        f"the labels bought; {REPAIRS['arms']} arms, {REPAIRS['rounds']} rounds and "
        f"{REPAIRS['draws']} draws where another size is changed.",
        "",
        f"Slopes of logarithms, over the {FITTED} largest sizes (1: in proportion):",
        "",
        "| size | from | to | time | memory beside data | time over the whole range |",
        "|---|---|---|---|---|---|",
    ]
    for axis, runs in found.items():
        sizes = [one[axis] for one in runs]
        seconds = [one["processor s"] for one in runs]
        memory = [beside(one, idle) for one in runs]
        whole = np.polyfit(np.log(sizes), np.log(seconds), 1)[0]
        lines.append(
            f"| {NAMES[axis]} | {sizes[-FITTED:][0]:,} | {sizes[-1]:,} | {slope(sizes, seconds)} | "
            f"{slope(sizes, memory)} | {whole:.2f} ({sizes[0]:,} to {sizes[-1]:,}) |"
        )
    head = "| size | what | prepare s | processor s | evaluations | peak MB | beside data |"
    lines += ["", "![Growth](results_growth.png)", "", head, "|---" * 7 + "|"]
    for axis, runs in found.items():
        lines += [row(f"{NAMES[axis]} = {one[axis]:,}", one, idle) for one in runs]
    lines += [row("1,000,000 x 768, one label set", one, idle) for one in large]
    return "\n".join(lines) + "\n"


def draw(found: dict[str, list[dict[str, Any]]], idle: float) -> None:
    """Seconds and memory beside data against each size, both axes logarithmic."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot, ticker

    figure, panels = pyplot.subplots(
        2, len(found), figsize=(2.3 * len(found), 5), sharey="row", layout="constrained"
    )
    for column, (axis, runs) in enumerate(found.items()):
        sizes = [one[axis] for one in runs]
        heights = (
            [one["processor s"] for one in runs],
            [max(beside(one, idle), 1.0) for one in runs],
        )
        for panel, values in zip(panels[:, column], heights, strict=True):
            panel.loglog(sizes, values, "o-")
            # In proportion to the size, through the last point.
            panel.loglog(sizes, [values[-1] * size / sizes[-1] for size in sizes], "k:", lw=0.8)
            panel.grid(which="both", alpha=0.2)
            shown = sorted({sizes[0], sizes[len(sizes) // 2], sizes[-1]})
            panel.set_xticks(shown, [f"{size:,}" for size in shown], fontsize=8)
            panel.xaxis.set_minor_formatter(ticker.NullFormatter())
        panels[1, column].set_xlabel(NAMES[axis])
    panels[0, 0].set_ylabel("processor seconds")
    panels[1, 0].set_ylabel("peak memory beside data, MB")
    figure.suptitle("Dotted: in proportion to the size", fontsize=9)
    figure.savefig(HERE / "results_growth.png", dpi=80)


if __name__ == "__main__":
    main()
