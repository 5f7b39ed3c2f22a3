"""Ratios against peers on the same input in one process, alternating; writes results.md beside it.

    make bench

Never a test: a ratio on a busy machine says little, so the median of several alternating runs is
given and nothing fails.
"""

import platform
import statistics
import tempfile
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import numpy as np

REPEATS = 7
HERE = Path(__file__).parent


def alternate(ours: Callable[[], object], peer: Callable[[], object]) -> tuple[float, float]:
    """Median seconds of both, run in turn after one warm-up each."""
    seconds: dict[Callable[[], object], list[float]] = {ours: [], peer: []}
    for repeat in range(REPEATS + 1):
        for run, times in seconds.items():
            started = time.perf_counter()
            run()
            if repeat:
                times.append(time.perf_counter() - started)
    return statistics.median(seconds[ours]), statistics.median(seconds[peer])


def verified_read() -> tuple[str, str, float, float]:
    """A verified cache against a bare numpy.load of the same features."""
    from trustq.store import Cache, read_cache, write_cache

    n, d = 25_000, 768
    rng = np.random.default_rng(0)
    features = rng.standard_normal((n, d)).astype(np.float32)
    ids = np.array([f"ISIC_{i:07d}" for i in range(n)])
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
    with tempfile.TemporaryDirectory() as folder:
        write_cache(Path(folder) / "cache.h5", cache)
        np.save(Path(folder) / "features.npy", features)
        ours, peer = alternate(
            lambda: read_cache(Path(folder) / "cache.h5"),
            lambda: np.load(Path(folder) / "features.npy"),
        )
    return "verified cache read, 25,000 x 768", "numpy.load of the features alone", ours, peer


def figures() -> tuple[str, str, float, float]:
    """All figures of one prediction set against scikit-learn's functions and a loop for AURC."""
    from sklearn import metrics as peer_metrics

    from trustq.metrics.classification import summarise
    from trustq.metrics.probabilities import softmax

    rng = np.random.default_rng(0)
    n, k = 1_400, 7
    labels = rng.integers(k, size=n)
    logits = rng.standard_normal((n, k)) + 2 * np.eye(k)[labels]

    def peer() -> None:
        probs = softmax(logits)
        predicted = probs.argmax(axis=1)
        peer_metrics.accuracy_score(labels, predicted)
        peer_metrics.balanced_accuracy_score(labels, predicted)
        peer_metrics.f1_score(labels, predicted, average="macro")
        peer_metrics.roc_auc_score(labels, probs, multi_class="ovr")
        peer_metrics.log_loss(labels, probs)
        wrong = (predicted != labels)[np.argsort(-probs.max(axis=1), kind="stable")]
        np.mean(np.cumsum(wrong) / np.arange(1, n + 1))

    ours, theirs = alternate(lambda: summarise(labels, logits=logits), peer)
    return (
        "12 figures of 1,400 x 7 predictions",
        "6 of them with scikit-learn and numpy",
        ours,
        theirs,
    )


def temperature() -> tuple[str, str, float, float]:
    """The exact temperature against scipy's bounded scalar minimiser to the same tolerance."""
    from scipy.optimize import minimize_scalar

    from trustq.calibration.temperature import TemperatureScaling
    from trustq.metrics.probabilities import log_softmax

    rng = np.random.default_rng(0)
    n, k = 100_000, 7
    labels = rng.integers(k, size=n)
    logits = 3 * (rng.standard_normal((n, k)) + np.eye(k)[labels])
    rows = np.arange(n)

    def loss(log_temperature: float) -> float:
        return float(-log_softmax(logits / np.exp(log_temperature))[rows, labels].mean())

    ours, peer = alternate(
        lambda: TemperatureScaling().fit(logits, labels),
        lambda: minimize_scalar(loss, bounds=(-3, 3), method="bounded", options={"xatol": 1e-8}),
    )
    return "temperature of 100,000 x 7 logits", "scipy minimize_scalar, xatol 1e-8", ours, peer


def main() -> None:
    """Run all and write the table."""
    lines = [
        "# Benchmarks",
        "",
        f"`make bench`: median of {REPEATS} alternating runs in one process, {platform.machine()}, "
        f"Python {platform.python_version()}, numpy {version('numpy')}, h5py {version('h5py')}, "
        f"scikit-learn {version('scikit-learn')}. Ratios are what to read; seconds depend on the "
        "machine.",
        "",
        "| ours | peer | ours, ms | peer, ms | ours / peer |",
        "|---|---|---|---|---|",
    ]
    for benchmark in (verified_read, figures, temperature):
        name, peer_name, ours, peer = benchmark()
        row = f"| {name} | {peer_name} | {ours * 1e3:.1f} | {peer * 1e3:.1f} | {ours / peer:.2f} |"
        print(row)
        lines.append(row)
    (HERE / "results.md").write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
