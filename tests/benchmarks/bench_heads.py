"""Linear heads against scikit-learn's solvers on the same folds, in one process, alternating.

    python tests/benchmarks/bench_heads.py [--repeats 5] [--peers newton,lbfgs] [--labels noisy]

Every solution, ours and the peers', is scored by one float64 objective and gradient norm that
neither wrote. A peer that warns of convergence voids its ratio. Rows are appended to
`results_heads.md` beside this file. Both wall and processor seconds are printed: on a machine that
others use too, only the second compares.
"""

import argparse
import statistics
import sys
import time
import warnings
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import numpy as np
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from threadpoolctl import threadpool_limits

from trustq.heads import SharedFeatures, fit_multinomial

DATA = Path(__file__).resolve().parents[3] / "shared" / "data" / "ham10000_features"
RESULTS = Path(__file__).with_name("results_heads.md")
N_FOLDS, N_CLASSES = 5, 7
Solutions = list[tuple[np.ndarray, np.ndarray]]  # coefficients and intercepts of each problem


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--peers", default="newton,lbfgs")
    parser.add_argument("--labels", default="noisy,clean")
    parser.add_argument("--penalties", default="1,0.01")
    parser.add_argument("--peer-threads", type=int, default=2)
    parser.add_argument("--only", default="", help="grid, boosted or growth: that alone")
    options = parser.parse_args()
    file = DATA / "convnext_atto_64px.npz"
    if not file.is_file():
        sys.exit(f"skipped: the real features are not there ({file.name} in ../shared/data)")
    features, clean, noisy, folds = load(file)
    used = np.array([folds != f for f in range(N_FOLDS)])
    if options.only:
        part = {"grid": grid, "boosted": boosted, "growth": growth}[options.only]
        part(features, noisy, used, options)
        return
    for name in options.labels.split(","):
        labels = {"clean": clean, "noisy": noisy}[name]
        for penalty in map(float, options.penalties.split(",")):
            compare(features, labels, used, penalty, name, options)
            refit(features, labels, clean, used, penalty, name, options.repeats)


def load(file: Path) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Standardised training features, clean and noisy labels, folds by lesion."""
    with np.load(file, allow_pickle=False) as data:
        rows = data["split"] == 0
        features = data["features"][rows].astype(np.float64)
        labels = data["labels"][rows].astype(np.int64)
        groups = np.unique(data["groups"][rows], return_inverse=True)[1]
    features = (features - features.mean(axis=0)) / features.std(axis=0)
    rng = np.random.default_rng(0)
    wrong = rng.random(len(labels)) < 0.2
    noisy = np.where(wrong, (labels + rng.integers(1, N_CLASSES, len(labels))) % N_CLASSES, labels)
    folds = rng.integers(N_FOLDS, size=groups.max() + 1)[groups]
    return features.astype(np.float32), labels, noisy, folds


def compare(
    features: np.ndarray,
    labels: np.ndarray,
    used: np.ndarray,
    penalty: float,
    name: str,
    options: argparse.Namespace,
) -> None:
    """Five folds by every solver: seconds, objective, gradient, probabilities."""
    label_sets = np.broadcast_to(labels, used.shape)

    def ours() -> Solutions:
        shared = SharedFeatures(features)  # the Gram matrix is part of the time
        fits = fit_multinomial(
            shared, label_sets, n_classes=N_CLASSES, weights=used, penalties=penalty
        )
        return list(zip(fits.coef, fits.intercept, strict=True))

    def peer(solver: str, dtype: type, tol: float) -> Callable[[], Solutions]:
        def run() -> Solutions:
            solutions = []
            with threadpool_limits(options.peer_threads, user_api="blas"):
                for rows in used:
                    model = LogisticRegression(C=penalty, solver=solver, tol=tol, max_iter=5000)
                    model.fit(features[rows].astype(dtype), labels[rows])
                    solutions.append((model.coef_, model.intercept_))
            return solutions

        return run

    solvers = {"trustq": ours}
    if "newton" in options.peers:
        solvers["newton-cg float32"] = peer("newton-cg", np.float32, 1e-4)
    if "cholesky" in options.peers:
        solvers["newton-cholesky float64"] = peer("newton-cholesky", np.float64, 1e-4)
    if "lbfgs" in options.peers:
        solvers["lbfgs float64"] = peer("lbfgs", np.float64, 1e-4)
    ours()  # warm-up: imports, threads
    wall: dict[str, list[float]] = {key: [] for key in solvers}
    processor: dict[str, list[float]] = {key: [] for key in solvers}
    warned: dict[str, bool] = dict.fromkeys(solvers, False)
    solutions: dict[str, Solutions] = {}
    for repeat in range(options.repeats):
        for key, solve in solvers.items():
            if key == "lbfgs float64" and repeat >= 1 or key != "trustq" and repeat >= 2:
                continue  # a minute each, and more on a busy machine
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always", ConvergenceWarning)
                began, used_before = time.perf_counter(), time.process_time()
                solutions[key] = solve()
                wall[key].append(time.perf_counter() - began)
                processor[key].append(time.process_time() - used_before)
            warned[key] |= any(w.category is ConvergenceWarning for w in caught)
    scored = {
        key: score(features, labels, used, penalty, found) for key, found in solutions.items()
    }
    best = min(objective.sum() for objective, _, _ in scored.values())
    for key in solvers:
        objective, gradient, probs = scored[key]
        gap = objective.sum() / best - 1
        off = np.abs(probs - scored["trustq"][2]).max()
        times = (statistics.median(wall[key]), statistics.median(processor[key]))
        base = (statistics.median(wall["trustq"]), statistics.median(processor["trustq"]))
        write(
            f"five folds, {name}, C = {penalty:g}",
            key + (" (UNCONVERGED)" if warned[key] else ""),
            f"{times[0]:.3f}",
            f"{times[1]:.3f}",
            f"{times[0] / base[0]:.1f} / {times[1] / base[1]:.1f}",
            f"gap {gap:.1e}, |g| {gradient.max():.2g}, dp {off:.1e}",
        )
    ours_total, peers = scored["trustq"][0].sum(), [s[0].sum() for s in scored.values()]
    assert ours_total <= min(peers) * (1 + 1e-5), "our objective is worse than a peer's"


def refit(
    features: np.ndarray,
    labels: np.ndarray,
    clean: np.ndarray,
    used: np.ndarray,
    penalty: float,
    name: str,
    repeats: int,
) -> None:
    """One repair round: 1 % of labels changed, folds started from the last round's."""
    rng = np.random.default_rng(1)
    changed = labels.copy()
    rows = np.flatnonzero(labels != clean) if (labels != clean).any() else np.arange(len(labels))
    rows = rng.choice(rows, size=len(labels) // 100, replace=False)
    changed[rows] = clean[rows] if name == "noisy" else (labels[rows] + 1) % N_CLASSES
    shared = SharedFeatures(features)
    options = {"n_classes": N_CLASSES, "weights": used, "penalties": penalty}
    before = fit_multinomial(shared, np.broadcast_to(labels, used.shape), **options)
    after = np.broadcast_to(changed, used.shape)
    seconds: dict[str, list[float]] = {"cold": [], "warm": []}
    for _ in range(repeats):
        for key, start in (("cold", None), ("warm", before)):
            began = time.process_time()
            fits = fit_multinomial(shared, after, start=start, **options)
            seconds[key].append(time.process_time() - began)
            if start is None:
                evaluations = fits.n_evaluations
    cold, warm = statistics.median(seconds["cold"]), statistics.median(seconds["warm"])
    write(
        f"re-fit after 1 % of labels, {name}, C = {penalty:g}",
        "trustq warm / cold",
        "",
        f"{warm:.3f} / {cold:.3f}",
        f"{warm / cold:.2f}",
        f"evaluations {fits.n_evaluations.mean():.1f} / {evaluations.mean():.1f}",
    )


def grid(
    features: np.ndarray, labels: np.ndarray, used: np.ndarray, options: argparse.Namespace
) -> None:
    """8 penalties x 5 label sets at 6,542 x 768, and one label set against warm newton-cg."""
    rng = np.random.default_rng(2)
    mixed = np.maximum(features @ rng.standard_normal((320, 448)).astype(np.float32) / 18, 0)
    wide = np.hstack([features, (mixed - mixed.mean(axis=0)) / mixed.std(axis=0)])
    sets = np.array([labels, *(rng.permuted(labels[:, None], axis=0)[:, 0] for _ in range(4))])
    for i in range(1, 5):  # four more draws of noise: a tenth of the labels permuted
        sets[i] = np.where(rng.random(len(labels)) < 0.1, sets[i], labels)
    penalties = np.logspace(-4, 0, 8)

    def ours(n_sets: int) -> Solutions:
        fits = fit_multinomial(
            wide,
            np.repeat(sets[:n_sets], 8, axis=0),
            n_classes=N_CLASSES,
            penalties=np.tile(penalties, n_sets),
        )
        return list(zip(fits.coef, fits.intercept, strict=True))

    def newton() -> Solutions:
        model = LogisticRegression(solver="newton-cg", warm_start=True, max_iter=5000)
        found = []
        with threadpool_limits(options.peer_threads, user_api="blas"):
            for c in penalties:
                model.set_params(C=c).fit(wide, labels)
                found.append((model.coef_.copy(), model.intercept_.copy()))
        return found

    runs = {
        "trustq, 5 label sets": lambda: ours(5),
        "trustq, 1 label set": lambda: ours(1),
        "newton-cg float32 warm, 1 label set": newton,
    }
    found: dict[str, Solutions] = {}
    base = (1.0, 1.0)
    for key, run in runs.items():
        walls, processors = [], []
        for _ in range(1 if "newton" in key else options.repeats):
            began, before = time.perf_counter(), time.process_time()
            found[key] = run()
            walls.append(time.perf_counter() - began)
            processors.append(time.process_time() - before)
        times = (statistics.median(walls), statistics.median(processors))
        if key == "trustq, 1 label set":
            base = times
        ratio = f"{times[0] / base[0]:.1f} / {times[1] / base[1]:.1f}" if "newton" in key else ""
        everywhere = np.vstack([np.ones(len(labels), bool)])
        objectives = [
            score(wide, labels, everywhere, c, [solution])[0][0]
            for c, solution in zip(penalties, found[key][:8], strict=True)
        ]
        write(
            "8 penalties at 6,542 x 768",
            key,
            f"{times[0]:.2f}",
            f"{times[1]:.2f}",
            ratio,
            f"objectives sum to {sum(objectives):.3f}",
        )


def boosted(
    features: np.ndarray, labels: np.ndarray, used: np.ndarray, options: argparse.Namespace
) -> None:
    """Five folds of boosted heads: bins shared against bins made anew for every fit."""
    from trustq.heads import BoostedHead

    shared = SharedFeatures(features)
    seconds: dict[str, list[float]] = {"shared bins": [], "from scratch": []}
    probs: dict[str, list[np.ndarray]] = {"shared bins": [], "from scratch": []}
    for key in seconds:
        for rows in used:
            before = time.process_time()
            head = BoostedHead(n_classes=N_CLASSES, trees=5)
            own = shared if key == "shared bins" else SharedFeatures(features)
            head.fit(own, labels, sample_weight=rows)
            seconds[key].append(time.process_time() - before)
            probs[key].append(head.predict_logits(features[~rows]))
    off = max(np.abs(a - b).max() for a, b in zip(*probs.values(), strict=True))
    ours, scratch = (sum(times) for times in seconds.values())
    cells = (f"{ours:.2f} / {scratch:.2f}", f"{scratch / ours:.2f}", f"logits differ by {off:.1e}")
    write("boosted, 5 trees, five folds", "trustq / XGBoost from scratch", "", *cells)


def growth(
    features: np.ndarray, labels: np.ndarray, used: np.ndarray, options: argparse.Namespace
) -> None:
    """Seconds against rows (real ones with noise of their own), problems, features and classes."""
    rng = np.random.default_rng(3)

    def made(n: int, d: int) -> np.ndarray:
        rows = features[rng.integers(len(features), size=n)]
        rows = rows @ rng.standard_normal((320, d)).astype(np.float32) / 18 if d != 320 else rows
        return rows + 0.3 * rng.standard_normal((n, d)).astype(np.float32)

    usual = {"n": 6542, "p": 5, "d": 320, "K": 7}
    for axis, values in (
        ("n", (1000, 6542, 30_000, 100_000)),
        ("p", (1, 10, 50, 200)),
        ("d", (64, 320, 768, 1536)),
        ("K", (2, 7, 30, 100)),
    ):
        for value in values:
            size = usual | {axis: value}
            rows = made(size["n"], size["d"])
            own = (
                (rows[:, :1] > 0) * 1 if size["K"] == 2 else rng.integers(size["K"], size=len(rows))
            )
            sets = np.broadcast_to(own.reshape(1, -1), (size["p"], len(rows)))
            began, before = time.perf_counter(), time.process_time()
            fits = fit_multinomial(rows, sets, n_classes=size["K"], penalties=0.01)
            write(
                ", ".join(f"{k} = {v:,}" for k, v in size.items()),
                "trustq",
                f"{time.perf_counter() - began:.2f}",
                f"{time.process_time() - before:.2f}",
                "",
                f"evaluations {fits.n_evaluations.mean():.0f}",
            )


def score(
    features: np.ndarray, labels: np.ndarray, used: np.ndarray, penalty: float, found: Solutions
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Objective and gradient norm of each fold, and the out-of-fold probabilities, in float64."""
    wide = features.astype(np.float64)
    objectives, gradients, out_of_fold = [], [], np.empty((len(labels), N_CLASSES))
    for rows, (coef, intercept) in zip(used, found, strict=True):
        logits = wide @ coef.T.astype(np.float64) + intercept
        logits -= logits.max(axis=1, keepdims=True)
        probs = np.exp(logits)
        probs /= probs.sum(axis=1, keepdims=True)
        out_of_fold[~rows] = probs[~rows]
        own = np.flatnonzero(rows)
        losses = -np.log(probs[own, labels[own]])
        objectives.append(losses.sum() + (coef.astype(np.float64) ** 2).sum() / (2 * penalty))
        residuals = probs[own] - np.eye(N_CLASSES)[labels[own]]
        slope = residuals.T @ wide[own] + coef / penalty
        gradients.append(np.sqrt((slope**2).sum() + (residuals.sum(axis=0) ** 2).sum()))
    return np.array(objectives), np.array(gradients), out_of_fold


def write(*cells: str) -> None:
    """Print a row and append it to the table of results."""
    if not RESULTS.exists():
        versions = ", ".join(f"{p} {version(p)}" for p in ("numpy", "scikit-learn"))
        RESULTS.write_text(
            f"# Linear heads: timings\n\nHAM10000 features, 6,542 x 320 x 7, float32; {versions}.\n"
            "Ratios are peer / trustq, wall and processor seconds.\n\n"
            "| what | solver | wall s | processor s | ratio | check |\n|---|---|---|---|---|---|\n",
            encoding="utf-8",
        )
    row = "| " + " | ".join(cells) + " |"
    print(row, flush=True)
    with RESULTS.open("a", encoding="utf-8") as file:
        file.write(row + "\n")


if __name__ == "__main__":
    main()
