"""Linear heads against scikit-learn's solvers on the same folds, in one process, alternating.

    python tests/benchmarks/bench_heads.py [--repeats 5] [--peers newton,lbfgs] [--labels noisy]
    TRUSTQ_BENCH_FEATURES=a.npz:b.npz python tests/benchmarks/bench_heads.py --only sets|lightgbm

The second form compares five folds and the choice of the penalty on every file that is named (npz
with features and labels, and split and groups where there are some; else two that the data sets
hold), the worst set first; with `--rows 500` on so many rows of each, with `--to-gap` also until
ours is as near the minimum as each peer stops.

Every solution, ours and the peers', is scored by one float64 objective and gradient norm that
neither wrote. A peer that warns of convergence voids its ratio. Rows are appended to
`results_heads.md` beside this file. Both wall and processor seconds are printed: on a machine that
others use too, only the second compares.
"""

import argparse
import os
import statistics
import sys
import time
import warnings
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from threadpoolctl import threadpool_info, threadpool_limits

from trustq.heads import (
    LinearHead,
    MultinomialFits,
    SharedFeatures,
    choose_penalty,
    fit_multinomial,
)
from trustq.heads.feature_cache import cores
from trustq.heads.linear import fit_together
from trustq.metrics.probabilities import log_softmax, softmax

DATA = Path(__file__).resolve().parents[3] / "shared" / "data"
ATTO = DATA / "ham10000_features" / "convnext_atto_64px.npz"
CLIP = DATA / "food101_clip_embeddings" / "food101_10class_clip_vitb32.npz"
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
    parser.add_argument("--rows", type=int, default=0, help="of a set, by chance; 0: all")
    parser.add_argument(
        "--to-gap", action="store_true", help="time ours to each peer's gap as well"
    )
    parser.add_argument("--only", default="", help="grid, boosted, lightgbm or sets: that alone")
    options = parser.parse_args()
    if options.only == "sets":
        sets(options)
        return
    if options.only == "lightgbm":
        for file in bench_files():
            lightgbm_head(file)
        return
    if not ATTO.is_file():
        sys.exit(f"skipped: the real features are not there ({ATTO.name} in ../shared/data)")
    features, clean, noisy, folds = load(ATTO)
    used = np.array([folds != f for f in range(N_FOLDS)])
    if options.only:
        part = {"grid": grid, "boosted": boosted}[options.only]
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


def sets(options: argparse.Namespace) -> None:
    """Five folds and the choice of the penalty on several sets of features, the worst first.

    Ours has as many cores as the peers have threads, and so has all else: threads of BLAS that wait
    for work spin, and their time would count as that of whoever is measured next.
    """
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: options.peer_threads])
    with threadpool_limits(options.peer_threads, user_api="blas"):
        tables = sorted(one_set(file, options) for file in bench_files())
    rows = [row for _, table in tables for row in table]
    head = "| set, rows x columns x classes | what | solver | processor s | peer / trustq | gap |"
    head += " ours to that gap |" if options.to_gap else ""
    text = "\n".join([head, "|---" * (head.count("|") - 1) + "|", *rows])
    print(text)
    with RESULTS.open("a", encoding="utf-8") as out:
        title = (
            f"Several sets, worst first: threads of ours {cores()}, peers {options.peer_threads}"
        )
        out.write(f"\n## {title}, {machine()}\n\n{text}\n")


def bench_files() -> list[Path]:
    """Files of features that are named, else two that the data sets hold."""
    files = [Path(p) for p in os.environ.get("TRUSTQ_BENCH_FEATURES", "").split(":") if p]
    files = files or [file for file in (ATTO, CLIP) if file.is_file()]
    if not files:
        sys.exit("skipped: TRUSTQ_BENCH_FEATURES names no files of features")
    return files


def machine() -> str:
    """The processor, and the kernels that numpy's BLAS took for it."""
    kernels = {str(own.get("architecture")) for own in threadpool_info()}
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    name = next(line.split(":")[1].strip() for line in lines if line.startswith("model name"))
    wide = any("avx512f" in line for line in lines)
    return f"{name}{' with AVX-512' if wide else ''}, kernels {', '.join(sorted(kernels))}"


def one_set(file: Path, options: argparse.Namespace) -> tuple[float, list[str]]:
    """The least ratio of a peer's processor seconds to ours, and the table's rows."""
    features, labels, held_out, truth, folds = read_set(file)
    k = int(max(labels.max(), truth.max())) + 1
    if options.rows:
        some = np.random.default_rng(0).permutation(len(labels))[: options.rows]
        features, labels, folds = features[some], labels[some], folds[some]
    used = np.array([folds != f for f in range(N_FOLDS)])
    label_sets = np.broadcast_to(labels, used.shape)
    name = f"{file.stem}, {len(labels):,} x {features.shape[1]:,} x {k}"
    rows, ratios = [], []

    def ours(penalty: float, tolerance: float | None = None) -> Solutions:
        # What is made of the features is part of the time.
        shared = SharedFeatures(features)
        fits = fit_multinomial(
            shared, label_sets, n_classes=k, weights=used, penalties=penalty, tolerance=tolerance
        )
        return list(zip(fits.coef, fits.intercept, strict=True))

    def to_gap(penalty: float, objective: float) -> float:
        """Processor seconds of ours at the loosest tolerance that is as near the minimum."""
        for tolerance in (1e-2, 3e-3, 1e-3, 3e-4, 1e-4, 3e-5, 1e-5, 3e-6, 1e-6, 1e-7, 1e-8):
            seconds = []
            for _ in range(options.repeats):
                before = time.process_time()
                found = ours(penalty, tolerance)
                seconds.append(time.process_time() - before)
            if score(features, labels, used, penalty, found)[0].sum() <= objective:
                break
        return statistics.median(seconds)

    def peer(solver: str, penalty: float) -> Solutions:
        found = []
        with threadpool_limits(options.peer_threads, user_api="blas"):
            for own in used:
                model = LogisticRegression(C=penalty, solver=solver, max_iter=5000)
                model.fit(features[own], labels[own])
                found.append((model.coef_, model.intercept_))
        return found

    for penalty in map(float, options.penalties.split(",")):
        runs: dict[str, Callable[[], Solutions]] = {"trustq": lambda c=penalty: ours(c)}  # type: ignore[misc]
        for word, solver in (("lbfgs", "lbfgs"), ("newton", "newton-cg")):
            if word in options.peers:
                runs[f"{solver} float32"] = lambda s=solver, c=penalty: peer(s, c)  # type: ignore[misc]
        seconds: dict[str, list[float]] = {key: [] for key in runs}
        objectives = {}
        for repeat in range(options.repeats):
            for key, run in runs.items():
                if repeat and key != "trustq":
                    continue  # minutes on a busy machine
                before = time.process_time()
                found = run()
                seconds[key].append(time.process_time() - before)
                objectives[key] = score(features, labels, used, penalty, found)[0].sum()
        own = statistics.median(seconds["trustq"])
        least = min(objectives.values())
        for key, times in seconds.items():
            ratio = statistics.median(times) / own
            ratios += [] if key == "trustq" else [ratio]
            gap = objectives[key] / least - 1
            row = (
                f"| {name} | five folds, C = {penalty:g} | {key} | "
                f"{statistics.median(times):.3f} | {ratio:.1f} | {gap:.0e} |"
            )
            if options.to_gap:
                as_near = own if key == "trustq" else to_gap(penalty, objectives[key])
                row += f" {as_near:.3f}, {statistics.median(times) / as_near:.1f} |"
            rows.append(row)
    rows += choices(name, features, labels, held_out, truth, k)
    return min(ratios, default=1.0), rows


def choices(
    name: str,
    features: np.ndarray,
    labels: np.ndarray,
    held_out: np.ndarray,
    truth: np.ndarray,
    k: int,
) -> list[str]:
    """The penalty chosen on held-out rows: the path against all of the grid, features included."""
    grid = (1e-3, 1e-2, 1e-1, 1.0)

    def fit(
        shared: SharedFeatures, c: float, start: LinearHead | None, tolerance: float | None
    ) -> LinearHead:
        head = LinearHead(n_classes=k, C=c)
        begun = None if start is None else [start]
        fit_together([head], shared, labels[None], start=begun, tolerance=tolerance)
        return head

    def loss(head: LinearHead) -> float:
        logs = log_softmax(head.predict_logits(held_out))
        return float(-logs[np.arange(len(truth)), truth].mean())

    before = time.process_time()
    shared = SharedFeatures(features)
    chosen, _ = choose_penalty(
        grid, fit=lambda c, start, tolerance: fit(shared, c, start, tolerance), loss=loss
    )
    path = time.process_time() - before
    shared = SharedFeatures(features)
    best = min((fit(shared, c, None, None) for c in grid), key=loss)
    whole = time.process_time() - before - path
    assert chosen == best.C, f"the path chose {chosen:g}, the grid {best.C:g}"
    return [
        f"| {name} | chosen C = {chosen:g} | trustq, path | {path:.2f} | 1.0 | |",
        f"| {name} | chosen C = {best.C:g} | trustq, whole grid | {whole:.2f} | "
        f"{whole / path:.1f} | |",
    ]


def read_set(file: Path) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Standardised training rows, labels a fifth of which are wrong, held-out rows, folds."""
    with np.load(file, allow_pickle=False) as data:
        if "features" in data:
            features, labels = data["features"].astype(np.float64), data["labels"].astype(np.int64)
            split = data["split"]
            groups = np.unique(data["groups"], return_inverse=True)[1]
        else:  # training and test rows apart
            parts = ("train", "test")
            features = np.vstack([data[f"{part}_features"] for part in parts]).astype(np.float64)
            labels = np.concatenate([data[f"{part}_labels"] for part in parts]).astype(np.int64)
            split = np.repeat([0, 1], [len(data[f"{part}_labels"]) for part in parts])
            groups = np.arange(len(labels))
    train, held_out = split == 0, split == 1
    scale = features[train].std(axis=0)
    scale[scale < 1e-9] = 1.0
    features = ((features - features[train].mean(axis=0)) / scale).astype(np.float32)
    k, rng = int(labels.max()) + 1, np.random.default_rng(0)
    own = labels[train]
    wrong = rng.random(len(own)) < 0.2
    noisy = np.where(wrong, (own + rng.integers(1, k, len(own))) % k, own)
    folds = rng.integers(N_FOLDS, size=groups.max() + 1)[groups[train]]
    return features[train], noisy, features[held_out], labels[held_out], folds


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
    n_changed = len(labels) // 100
    first = labels
    if not (labels != clean).any():  # a repair puts labels right, so some are wrong before it
        rows = rng.choice(len(labels), size=n_changed, replace=False)
        first = labels.copy()
        first[rows] = (labels[rows] + rng.integers(1, N_CLASSES, n_changed)) % N_CLASSES
    rows = rng.choice(np.flatnonzero(first != clean), size=n_changed, replace=False)
    changed = first.copy()
    changed[rows] = clean[rows]
    shared = SharedFeatures(features)
    settings: dict[str, Any] = {"n_classes": N_CLASSES, "weights": used, "penalties": penalty}

    def fit(labels: np.ndarray, **options: Any) -> MultinomialFits:
        return fit_multinomial(shared, np.broadcast_to(labels, used.shape), **settings, **options)

    before, best = fit(first), fit(changed, tolerance=1e-11)
    seconds: dict[str, list[float]] = {"from features": [], "cold": [], "warm": []}
    for _ in range(repeats):
        for key, own in seconds.items():
            began = time.process_time()
            if key == "from features":
                shared = SharedFeatures(features)
            fit(changed, start=before if key == "warm" else None)
            own.append(time.process_time() - began)
    whole, cold, warm = (statistics.median(own) for own in seconds.values())
    write(
        f"re-fit after 1 % of labels, {name}, C = {penalty:g}",
        "trustq warm / cold / cold with its Gram matrix",
        "",
        f"{warm:.3f} / {cold:.3f} / {whole:.3f}",
        f"{warm / cold:.2f} / {warm / whole:.2f}",
        "",
    )
    for tolerance in (1e-5, 1e-6, 1e-7, 1e-8):
        fits = [fit(changed, start=start, tolerance=tolerance) for start in (before, None)]
        write(
            f"re-fit after 1 % of labels, {name}, C = {penalty:g}",
            f"to tolerance {tolerance:.0e}, warm / cold",
            "",
            "",
            f"{fits[0].n_evaluations.mean() / fits[1].n_evaluations.mean():.2f}",
            " / ".join(f"{own.n_evaluations.mean():.1f} evaluations" for own in fits)
            + ", gap "
            + " / ".join(f"{(own.objective / best.objective - 1).max():.0e}" for own in fits),
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

    def lbfgs() -> Solutions:
        found, double = [], wide.astype(np.float64)
        with threadpool_limits(options.peer_threads, user_api="blas"):
            for c in penalties:
                model = LogisticRegression(C=c, max_iter=5000).fit(double, labels)
                found.append((model.coef_, model.intercept_))
        return found

    runs = {"trustq, 5 label sets": lambda: ours(5), "trustq, 1 label set": lambda: ours(1)}
    if "newton" in options.peers:
        runs["newton-cg float32 warm, 1 label set"] = newton
    if "lbfgs" in options.peers:
        runs["lbfgs float64 cold, 1 label set"] = lbfgs
    found: dict[str, Solutions] = {}
    base = (1.0, 1.0)
    for key, run in runs.items():
        walls, processors = [], []
        for _ in range(options.repeats if "trustq" in key else 1):
            began, before = time.perf_counter(), time.process_time()
            found[key] = run()
            walls.append(time.perf_counter() - began)
            processors.append(time.process_time() - before)
        times = (statistics.median(walls), statistics.median(processors))
        if key == "trustq, 1 label set":
            base = times
        ratio = (
            f"{times[0] / base[0]:.1f} / {times[1] / base[1]:.1f}" if "trustq" not in key else ""
        )
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
    """Out-of-fold boosted heads of five label sets: shared bins and one fit a core, against
    XGBClassifier made anew for each; and where the time of one fit goes."""
    import xgboost

    from trustq.heads import BoostedHead, fit_heads

    rng = np.random.default_rng(4)
    wrong = rng.random((5, len(labels))) < 0.05
    sets = np.where(wrong, rng.integers(N_CLASSES, size=wrong.shape), labels)
    rows, targets = np.tile(used, (5, 1)), np.repeat(sets, N_FOLDS, axis=0)

    def ours(trees: int, together: bool) -> list[np.ndarray]:
        heads = [BoostedHead(n_classes=N_CLASSES, trees=trees) for _ in rows]
        if together:
            fit_heads(heads, SharedFeatures(features), targets, used=rows)
        else:  # the same bins, made anew for each
            for head, own, of_fold in zip(heads, targets, rows, strict=True):
                head.fit(features, own, sample_weight=of_fold)
        return [head.predict_logits(features[~own]) for head, own in zip(heads, rows, strict=True)]

    def peer(trees: int) -> list[np.ndarray]:
        probs = []
        for own, of_fold in zip(targets, rows, strict=True):
            model = xgboost.XGBClassifier(
                n_estimators=trees, learning_rate=0.1, max_depth=4, tree_method="hist", max_bin=64,
                subsample=0.8, colsample_bytree=0.8, n_jobs=options.peer_threads,
            )  # fmt: skip
            model.fit(features[of_fold], own[of_fold])
            probs.append(model.predict_proba(features[~of_fold]))
        return probs

    for trees in (10, 40):
        runs: dict[str, Callable[[], list[np.ndarray]]] = {
            "trustq": lambda trees=trees: ours(trees, True),  # type: ignore[misc]
            "bins made anew": lambda trees=trees: ours(trees, False),  # type: ignore[misc]
            "XGBClassifier": lambda trees=trees: peer(trees),  # type: ignore[misc]
        }
        found, times = {}, {}
        for key, run in runs.items():
            began, before = time.perf_counter(), time.process_time()
            found[key] = run()
            times[key] = (time.perf_counter() - began, time.process_time() - before)
        off = max(
            np.abs(softmax(a) - softmax(b)).max()
            for a, b in zip(found["trustq"], found["bins made anew"], strict=True)
        )
        for key, (wall, processor) in times.items():
            write(
                f"boosted, {trees} trees, five label sets x five folds, 64 bins",
                key,
                f"{wall:.2f}",
                f"{processor:.2f}",
                f"{wall / times['trustq'][0]:.2f} / {processor / times['trustq'][1]:.2f}",
                f"dp {off:.1e}" if key == "bins made anew" else "",
            )
    shared = SharedFeatures(features)
    head = BoostedHead(n_classes=N_CLASSES, trees=40)
    clocks = [time.process_time()]
    with shared.bins(head.max_bin, np.ones(len(labels), dtype=bool)):
        clocks.append(time.process_time())
    head.fit(shared, labels)
    clocks.append(time.process_time())
    head.predict_logits(features[~used[0]])
    seconds = np.diff([*clocks, time.process_time()])
    text = "binning {:.2f}, 40 trees {:.2f}, a fold's prediction {:.3f}".format(*seconds)
    write("boosted, one fit", "trustq, processor s by part", "", "", "", text)


def lightgbm_head(file: Path) -> None:
    """The lightgbm head on five label sets x five folds against some of XGBClassifier's fits."""
    import xgboost

    from trustq.heads import LightBoostedHead, fit_heads

    features, labels, held_out, truth, folds = read_set(file)
    k, rng = int(max(labels.max(), truth.max())) + 1, np.random.default_rng(4)
    used = np.array([folds != f for f in range(N_FOLDS)])
    wrong = rng.random((5, len(labels))) < 0.05
    sets = np.where(wrong, rng.integers(k, size=wrong.shape), labels)
    rows, targets = np.tile(used, (5, 1)), np.repeat(sets, N_FOLDS, axis=0)
    some = np.arange(0, len(rows), 6)  # of each fold and each label set one

    def losses(models: list[Any]) -> str:
        parts = []
        for i, model in zip(some, models, strict=True):
            for own, of in ((features[~rows[i]], labels[~rows[i]]), (held_out, truth)):
                probs = model.predict_proba(own).astype(np.float64)
                parts.append(-np.log(probs[np.arange(len(of)), of]).mean())
        unseen, held = np.mean(parts[::2]), np.mean(parts[1::2])
        return f"out of fold {unseen:.4f}, held out, true labels {held:.4f}"

    for trees in (10, 40):
        heads = [LightBoostedHead(n_classes=k, trees=trees) for _ in rows]
        before = time.process_time()
        fit_heads(heads, SharedFeatures(features), targets, used=rows)
        ours = (time.process_time() - before) / len(rows)
        before, peers = time.process_time(), []
        for i in some:
            model = xgboost.XGBClassifier(
                n_estimators=trees, learning_rate=0.1, max_depth=4, tree_method="hist", max_bin=64,
                subsample=0.8, colsample_bytree=0.8, n_jobs=1,
            )  # fmt: skip
            peers.append(model.fit(features[rows[i]], targets[i][rows[i]]))
        peer = (time.process_time() - before) / len(some)
        what = f"{file.stem}, {trees} trees, a fit of 25"
        write(what, "lightgbm head", "", f"{ours:.3f}", "1.0", losses([heads[i] for i in some]))
        write(what, "XGBClassifier", "", f"{peer:.3f}", f"{peer / ours:.1f}", losses(peers))


def score(
    features: np.ndarray, labels: np.ndarray, used: np.ndarray, penalty: float, found: Solutions
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Objective and gradient norm of each fold, and the out-of-fold probabilities, in float64."""
    wide = features.astype(np.float64)
    objectives, gradients, out_of_fold = [], [], np.empty((len(labels), len(found[0][1])))
    for rows, (coef, intercept) in zip(used, found, strict=True):
        logits = wide @ coef.T.astype(np.float64) + intercept
        logits -= logits.max(axis=1, keepdims=True)
        probs = np.exp(logits)
        probs /= probs.sum(axis=1, keepdims=True)
        out_of_fold[~rows] = probs[~rows]
        own = np.flatnonzero(rows)
        losses = -np.log(probs[own, labels[own]])
        objectives.append(losses.sum() + (coef.astype(np.float64) ** 2).sum() / (2 * penalty))
        residuals = probs[own] - np.eye(len(intercept))[labels[own]]
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
