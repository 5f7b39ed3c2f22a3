"""The reference ablation by trustq and by a plain script, one process, alternating.

    python tests/benchmarks/bench_ablation.py [--seeds 5] [--solvers newton-cg] [--repeats 3]
    python tests/benchmarks/bench_ablation.py --equality [--seeds 5] [--features FILE.npz]

Arms none, random and self-confidence, five rounds of 1 % of the labels, five-fold scores, final
fits, temperature, all metrics, results written. The plain script is what one writes with
scikit-learn, cleanlab and netcal and no more thought; it replays trustq's ledger, so that test
figures can be compared, yet computes every score it would have bought by. Rows are appended to
`results_ablation.md` beside this file.

Peers are timed at their ordinary tolerances, at which they stop up to 6e-5 (relative objective)
above the minimum: enough to flip rows. Whether the figures are the same is another question, and
`--equality` asks it of a peer that is solved to the end, over the fits that are measured.
"""

import argparse
import cProfile
import json
import pstats
import statistics
import sys
import tempfile
import time
import warnings
from pathlib import Path

import numpy as np
from cleanlab.rank import get_label_quality_scores
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import (
    accuracy_score,
    balanced_accuracy_score,
    f1_score,
    log_loss,
    roc_auc_score,
)
from threadpoolctl import threadpool_limits

from trustq.experiments import repair
from trustq.heads import SharedFeatures, fit_multinomial, fit_penalty_path
from trustq.metrics.probabilities import softmax
from trustq.recipes import Recipe, load_recipe
from trustq.repair import draw_experiment
from trustq.repair.loop import REGULARISATION_GRID
from trustq.results import run_query
from trustq.store import Cache

DATA = Path(__file__).resolve().parents[3] / "shared" / "data" / "ham10000_features"
RESULTS = Path(__file__).with_name("results_ablation.md")
CLASSES = ("akiec", "bcc", "bkl", "df", "mel", "nv", "vasc")
ROUNDS = 5
ARMS = ("none", "random", "self_confidence")
SETTINGS = [
    "sweep.noise=symmetric:0.2",
    f"arms={','.join(ARMS)}",
    "budgets=5%",
    f"rounds={ROUNDS}",
]
SOLVERS = {"newton-cg": np.float32, "lbfgs": np.float64, "lbfgs-float32": np.float32}
STAGES = {  # function of trustq -> stage, for the shares
    "fit_folds": "heads",
    "draw_experiment": "experiment",
    "_measured": "metrics and temperature",
    "_ranked": "scores",
    "add_rounds": "ledger",
    "write_part": "writing",
}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--solvers", default="newton-cg")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--peer-threads", type=int, default=2)
    parser.add_argument("--equality", action="store_true")
    parser.add_argument("--features", type=Path, default=DATA / "convnext_atto_64px.npz")
    options = parser.parse_args()
    if not options.features.is_file():
        sys.exit(f"skipped: the real features are not there ({options.features})")
    cache = load(options.features)
    recipe = load_recipe(settings=[*SETTINGS, f"draws={options.seeds}"])
    if options.equality:
        equality(cache, recipe, options.seeds)
        return
    timed: dict[str, list[tuple[float, float]]] = {"trustq": []}
    figures: dict[str, dict[tuple[int, str, int], dict[str, float]]] = {}
    with tempfile.TemporaryDirectory() as folder:
        repair([cache], recipe=recipe, results=Path(folder) / "warm-up")
        for repeat in range(options.repeats):
            results = Path(folder) / str(repeat)
            began, before = time.perf_counter(), time.process_time()
            repair([cache], recipe=recipe, results=results)
            timed["trustq"].append((time.perf_counter() - began, time.process_time() - before))
            figures["trustq"] = read(results)
            for solver in options.solvers.split(","):
                if len(timed.get(solver, ())) < (3 if solver == "newton-cg" else 1):
                    began, before = time.perf_counter(), time.process_time()
                    with threadpool_limits(options.peer_threads, user_api="blas"):
                        figures[solver] = plain(cache, recipe, results, solver, Path(folder))
                    spent = (time.perf_counter() - began, time.process_time() - before)
                    timed.setdefault(solver, []).append(spent)
        profile = cProfile.Profile()
        profile.runcall(repair, [cache], recipe=recipe, results=Path(folder) / "profiled")
    base = [statistics.median(column) for column in zip(*timed["trustq"], strict=True)]
    for name, times in timed.items():
        wall, processor = (statistics.median(column) for column in zip(*times, strict=True))
        worst = max(
            abs(own[metric] - figures["trustq"][key][metric])
            for key, own in figures[name].items()
            for metric in own
            if own[metric] is not None  # a figure may have no value
        )
        write(
            f"{options.seeds} seeds, {cache.features.shape[1]:,} columns",
            name,
            f"{wall:.2f}",
            f"{processor:.2f}",
            f"{wall / base[0]:.1f} / {processor / base[1]:.1f}",
            f"largest difference of a test figure {worst:.1e}",
        )
    what = f"{options.seeds} seeds, {cache.features.shape[1]:,} columns"
    write(what, "trustq, share by stage", "", "", "", shares(profile))


def plain(
    cache: Cache, recipe: object, results: Path, solver: str, folder: Path
) -> dict[tuple[int, str, int], dict[str, float]]:
    """The ablation as a straightforward script; figures by (seed, arm, round)."""
    from netcal.scaling import TemperatureScaling

    dtype = SOLVERS[solver]
    figures: dict[tuple[int, str, int], dict[str, float]] = {}
    records: list[dict[str, object]] = []
    ledger = read_ledger(results)
    index = {sample: i for i, sample in enumerate(cache.sample_id.tolist())}
    for seed in range(recipe.sweep.draws):  # type: ignore[attr-defined]
        # Noise and folds are trustq's own draws, for the same start.
        start = draw_experiment(cache, sweep=recipe.sweep, draw_seed=seed)  # type: ignore[attr-defined]
        train = start.rows
        features = start.features.astype(dtype)
        validation, test = start.evaluation["val"], start.evaluation["test"]

        def fit(rows: np.ndarray, labels: np.ndarray, c: float) -> LogisticRegression:
            name = solver.removesuffix("-float32")
            model = LogisticRegression(C=c, solver=name, max_iter=5000)
            return model.fit(features[rows], labels)  # noqa: B023

        def measure(model: LogisticRegression, key: tuple[int, str, int]) -> None:
            temperature = TemperatureScaling()
            temperature.fit(
                model.predict_proba(features[validation]).astype(np.float64),  # noqa: B023
                cache.label[validation].astype(int),  # noqa: B023
            )
            probs = model.predict_proba(features[test]).astype(np.float64)  # noqa: B023
            probs /= probs.sum(axis=1, keepdims=True)
            truth = cache.label[test].astype(int)  # noqa: B023
            figures[key] = class_figures(truth, probs)
            calibrated = np.asarray(temperature.transform(probs))
            records.append({"key": key, "calibrated": class_figures(truth, calibrated)})
            records[-1]["raw"] = figures[key]

        observed = start.start.observed
        losses = {}
        for c in REGULARISATION_GRID:
            probs = fit(train, observed, c).predict_proba(features[validation])
            losses[c] = log_loss(cache.label[validation], probs.astype(np.float64), labels=range(7))
        best = min(losses, key=losses.__getitem__)
        for arm in ARMS:
            current = observed.copy()
            model = fit(train, current, best)
            measure(model, (seed, arm, 0))
            for number in range(1, ROUNDS + 1 if arm != "none" else 1):
                if arm == "self_confidence":
                    probs = np.empty((len(train), 7))
                    for fold in range(recipe.sweep.folds):  # type: ignore[attr-defined]
                        out = start.training.fold == fold
                        own = fit(train[~out], current[~out], best)
                        probs[out] = own.predict_proba(features[train[out]])
                    probs /= probs.sum(axis=1, keepdims=True)
                    quality = get_label_quality_scores(current, probs)
                    np.argsort(quality, kind="stable")  # its own purchase; the ledger's is replayed
                bought = [index[sample] for sample in ledger[seed, arm, number]]
                rows = np.searchsorted(train, bought)
                current[rows] = cache.label[train[rows]]
                measure(fit(train, current, best), (seed, arm, number))
    (folder / "plain.json").write_text(json.dumps(records), encoding="utf-8")
    return figures


def equality(cache: Cache, recipe: Recipe, n_seeds: int) -> None:
    """Test figures of every measured fit, ours against newton-cg in float64 to the end.

    And against our own solver at a tolerance of 1e-13, which tells whose tolerance a difference is.
    """
    found: dict[tuple[int, str, int], dict[str, float]]
    with tempfile.TemporaryDirectory() as folder:
        repair([cache], recipe=recipe, results=Path(folder))
        found, ledger = read(Path(folder)), read_ledger(Path(folder))
    index = {sample: i for i, sample in enumerate(cache.sample_id.tolist())}
    worst: dict[str, dict[str, float]] = {"newton-cg float64, tol 1e-7": {}, "trustq, 1e-13": {}}
    truth = cache.label.astype(int)
    for seed in range(n_seeds):
        start = draw_experiment(cache, sweep=recipe.sweep, draw_seed=seed)
        features, train, test = start.features, start.rows, start.evaluation["test"]
        validation = start.evaluation["val"]
        shared, double = SharedFeatures(features[train]), features.astype(np.float64)
        path = fit_penalty_path(
            shared,
            start.start.observed,
            n_classes=len(CLASSES),
            penalties=REGULARISATION_GRID,
            validation=(features[validation], truth[validation]),
        )
        peer = LogisticRegression(
            C=path.best.C, solver="newton-cg", tol=1e-7, max_iter=5000, warm_start=True
        )
        for arm in ARMS:
            current = start.start.observed.copy()
            for number in range(ROUNDS + 1 if arm != "none" else 1):
                bought = [index[sample] for sample in ledger.get((seed, arm, number), ())]
                rows = np.searchsorted(train, bought)
                current[rows] = truth[train[rows]]
                tight = fit_multinomial(
                    shared,
                    current[None],
                    n_classes=len(CLASSES),
                    penalties=path.best.C,
                    tolerance=1e-13,
                )
                own = softmax(tight.logits(features[test])[0])
                theirs = peer.fit(double[train], current).predict_proba(double[test])
                for name, probs in zip(worst, (theirs, own), strict=True):
                    for metric, value in class_figures(truth[test], probs).items():
                        off = abs(value - found[seed, arm, number][metric])
                        worst[name][metric] = max(off, worst[name].get(metric, 0.0))
    for name, figures in worst.items():
        text = ", ".join(f"{metric} {off:.1e}" for metric, off in figures.items())
        write(f"equality, {n_seeds} seeds", name, "", "", "", f"largest difference: {text}")


def class_figures(truth: np.ndarray, probs: np.ndarray) -> dict[str, float]:
    """Test figures that both sides report."""
    predicted = probs.argmax(axis=1)
    confidence = probs.max(axis=1)
    bins = np.clip(np.ceil(confidence * 15).astype(int) - 1, 0, 14)
    right = predicted == truth
    gaps = np.bincount(bins, weights=right - confidence, minlength=15)
    return {
        "accuracy": float(accuracy_score(truth, predicted)),
        "balanced_accuracy": float(balanced_accuracy_score(truth, predicted)),
        "macro_f1": float(f1_score(truth, predicted, average="macro")),
        "macro_auroc": float(roc_auc_score(truth, probs, multi_class="ovr", average="macro")),
        "nll": float(log_loss(truth, probs, labels=range(probs.shape[1]))),
        "brier": float(((probs - np.eye(probs.shape[1])[truth]) ** 2).sum(axis=1).mean()),
        "ece": float(np.abs(gaps).sum() / len(truth)),
    }


def load(file: Path) -> Cache:
    """The real features as a frozen cache: what is timed does not depend on their honesty."""
    with np.load(file, allow_pickle=False) as data:
        n = len(data["labels"])
        return Cache(
            dataset="ham10000",
            classes=CLASSES,
            exposure="frozen",
            sample_id=data["sample_ids"].astype(str),
            split=np.array(["train", "val", "test"])[data["split"]],
            group_id=data["groups"].astype(str),
            label=data["labels"].astype(np.int16),
            observed=np.full(n, -1, dtype=np.int16),
            trusted=np.zeros(n, dtype=bool),
            seen=np.zeros(n, dtype=np.uint8),
            features=data["features"].astype(np.float32),
            content_digest="benchmark",
        )


def read(results: Path) -> dict[tuple[int, str, int], dict[str, float]]:
    """trustq's uncalibrated test figures by (seed, arm, round)."""
    figures: dict[tuple[int, str, int], dict[str, float]] = {}
    for seed, arm, number, metric, value in run_query(
        results,
        """SELECT draw_seed, arm, round, metric, value FROM metric_values
           WHERE split = 'test' AND stage = 'uncalibrated'""",
    ).rows:
        figures.setdefault((seed, arm, number), {})[metric] = value
    return figures


def read_ledger(results: Path) -> dict[tuple[int, str, int], list[str]]:
    """Labels bought by (seed, arm, round)."""
    ledger: dict[tuple[int, str, int], list[str]] = {}
    for seed, arm, number, sample in run_query(
        results,
        """SELECT draw_seed, arm, round, sample_id FROM queries JOIN runs ON key = run
           ORDER BY round, rank""",
    ).rows:
        ledger.setdefault((seed, arm, number), []).append(sample)
    return ledger


def shares(profile: cProfile.Profile) -> str:
    """Share of the time by stage, from the profile's cumulative seconds."""
    stats = pstats.Stats(profile)
    total = max(entry[3] for entry in stats.stats.values())  # type: ignore[attr-defined]
    seconds = dict.fromkeys(STAGES.values(), 0.0)
    for (file, _, function), entry in stats.stats.items():  # type: ignore[attr-defined]
        if function in STAGES and "trustq" in file:
            seconds[STAGES[function]] += entry[3]
    return ", ".join(f"{stage} {value / total:.0%}" for stage, value in seconds.items())


def write(*cells: str) -> None:
    """Print a row and append it to the table of results."""
    if not RESULTS.exists():
        RESULTS.write_text(
            "# The reference ablation: timings\n\nRatios are plain script / trustq, wall and "
            "processor seconds.\n\n| what | who | wall s | processor s | ratio | check |\n"
            "|---|---|---|---|---|---|\n",
            encoding="utf-8",
        )
    row = "| " + " | ".join(cells) + " |"
    print(row, flush=True)
    with RESULTS.open("a", encoding="utf-8") as file:
        file.write(row + "\n")


if __name__ == "__main__":
    warnings.simplefilter("ignore", UserWarning)
    warnings.simplefilter("error", ConvergenceWarning)  # an unconverged peer is no peer
    main()
