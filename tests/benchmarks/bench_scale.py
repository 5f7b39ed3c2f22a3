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


def pairs_of_models() -> dict[str, tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]]:
    """Labels, probabilities of two models, and groups: real sets, also repeated to 100,000 rows."""
    cifar, worst = DATA / "predictions_cifar", DATA / "cifar10n_worst"
    lenet, wide = (np.load(cifar / f"{m}-cifar-10.npz") for m in ("lenet-5", "wideresnet-16-4"))
    swin, resnet = (np.load(worst / f"cifar10n_worst_{m}.npz") for m in ("swin", "resnet18"))
    derma = np.load(DATA / "predictions_dermamnist" / "dermamnist_test_predictions.npz")
    rng = np.random.default_rng(0)
    labels = rng.choice(7, 100_000, p=[0.67, 0.11, 0.11, 0.05, 0.03, 0.02, 0.01])
    made = rng.normal(size=(100_000, 7)) + 2 * np.eye(7)[labels]
    noised = made + 0.7 * rng.normal(size=made.shape)
    softened = [np.exp(z) / np.exp(z).sum(axis=1, keepdims=True) for z in (made, noised)]
    found = {
        "DermaMNIST, ViT - ConvNeXt": (derma["y_true"], derma["ViTBase"], derma["ConvNeXtBase"]),
        "CIFAR-10, WRN - LeNet": (
            lenet["ground_truth"],
            softmaxed(wide["predictions"]),
            softmaxed(lenet["predictions"]),
        ),
        "CIFAR-10N, Swin - ResNet-18": (
            swin["noisy_labels"],
            swin["pred_probs"],
            resnet["pred_probs"],
        ),
        "made, groups of 1.8": (labels, *softened),
    }
    for name in (
        "DermaMNIST, ViT - ConvNeXt",
        "CIFAR-10, WRN - LeNet",
        "CIFAR-10N, Swin - ResNet-18",
    ):
        rows = np.arange(100_000) % len(found[name][0])
        found[f"{name}, repeated"] = tuple(one[rows] for one in found[name])
    groups = {"made, groups of 1.8": np.sort(rng.integers(0, 75_000, 100_000))}
    return {
        name: (one[0].astype(np.int64), *map(summing_to_one, one[1:]))
        + (groups.get(name, np.arange(len(one[0]))),)
        for name, one in found.items()
    }


def softmaxed(values: np.ndarray) -> np.ndarray:
    """Probabilities of logits; probabilities as they are."""
    if values.min() >= 0 and np.allclose(values.sum(axis=1), 1, atol=1e-3):
        return values
    shifted = np.exp(values - values.max(axis=1, keepdims=True).astype(np.float64))
    return shifted / shifted.sum(axis=1, keepdims=True)


def summing_to_one(probs: np.ndarray) -> np.ndarray:
    """Probabilities in float64 whose rows sum to 1."""
    probs = np.asarray(probs, dtype=np.float64)
    return probs / probs.sum(axis=1, keepdims=True)


def compare() -> list[str]:
    """Paired intervals by influence beside the ends of 10,000 bootstrap replicates."""
    from trustq.evaluation.bootstrap import FIGURES, compare_figures

    rows = []
    for title, (labels, a, b, groups) in pairs_of_models().items():
        found, seconds = {}, {}
        for method in ("student", "percentile"):
            started = time.process_time()
            found[method] = compare_figures(labels, a, b, groups=groups, seed=0, method=method)
            seconds[method] = time.process_time() - started
        apart = {}
        for name in FIGURES:
            ours, theirs = found["student"][name], found["percentile"][name]
            width = theirs.upper - theirs.lower
            ends = (ours.lower - theirs.lower, ours.upper - theirs.upper)
            apart[name] = max(map(abs, ends)) / width
        ece = apart.pop("ece")
        name = max(apart, key=lambda own: apart[own])
        rows.append(
            (
                apart[name],
                f"| {title} | {len(labels):,} | {len(np.unique(groups)):,} | "
                f"{seconds['student']:.2f} | {seconds['percentile']:.1f} | "
                f"{seconds['percentile'] / seconds['student']:.0f} | "
                f"{100 * apart[name]:.1f} % ({name}) | {100 * ece:.0f} % |",
            )
        )
        print(rows[-1][1], flush=True)
    head = "| models | rows | groups | ours, s | 10,000 replicates, s | ratio | ends apart | ECE |"
    return [head, "|---" * 8 + "|", *(row for _, row in sorted(rows, reverse=True))]


PARTS: dict[str, Callable[[], list[str]]] = {"read": read, "compare": compare}


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
