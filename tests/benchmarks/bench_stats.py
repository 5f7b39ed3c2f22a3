"""Speeds of the statistics and of temperature scaling, as ratios to peers in one run.

Run: python tests/benchmarks/bench_stats.py [--out results_stats.md]
"""

import argparse
import sys
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import numpy as np

from trustq.calibration.temperature import TemperatureScaling
from trustq.evaluation.bootstrap import selective_replicates

N, REPLICATES = 10_000, 10_000
LOOP_REPLICATES = 100  # of the peers, times 100


def aurc_loop(wrong: np.ndarray, confidence: np.ndarray) -> float:
    """AURC as published implementations compute it: sort, then walk through the rows."""
    order = np.argsort(-confidence, kind="stable")
    errors, total = 0.0, 0.0
    for kept, i in enumerate(order.tolist(), start=1):
        errors += wrong[i]
        total += errors / kept
    return total / len(wrong)


def aurc_sorted(wrong: np.ndarray, confidence: np.ndarray) -> float:
    """The same, vectorised."""
    ranked = wrong[np.argsort(-confidence, kind="stable")]
    return float((np.cumsum(ranked) / np.arange(1, len(wrong) + 1)).mean())


def resampled(figure: Callable[..., float], wrong: np.ndarray, confidence: np.ndarray) -> None:
    rng = np.random.default_rng(0)
    for _ in range(LOOP_REPLICATES):
        rows = rng.integers(0, len(wrong), len(wrong))
        figure(wrong[rows], confidence[rows])


def seconds(call: Callable[[], object], repeats: int = 3) -> float:
    """The fastest of a few runs: other work on the machine only ever slows one down."""
    found = []
    for _ in range(repeats):
        start = time.perf_counter()
        call()
        found.append(time.perf_counter() - start)
    return min(found)


def peak_megabytes(call: Callable[[], object]) -> float:
    tracemalloc.start()
    call()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return peak / 1e6


def lbfgs(logits: np.ndarray, labels: np.ndarray) -> float:
    """Temperature by 100 LBFGS iterations in torch, the usual recipe."""
    import torch

    z, y = torch.from_numpy(logits), torch.from_numpy(labels)
    temperature = torch.ones(1, requires_grad=True, dtype=z.dtype)
    optimiser = torch.optim.LBFGS([temperature], lr=0.01, max_iter=100)

    def closure() -> object:
        optimiser.zero_grad()
        loss = torch.nn.functional.cross_entropy(z / temperature, y)
        loss.backward()
        return loss

    optimiser.step(closure)
    return float(temperature.detach())


def rows() -> list[tuple[str, float, str]]:
    rng = np.random.default_rng(0)
    confidence = rng.random(N)
    wrong = rng.random(N) > 0.8 + 0.2 * confidence
    tied, groups = confidence.round(2), rng.integers(0, 7000, N)
    both = np.stack([wrong, rng.random(N) < 0.1]), np.stack([confidence, rng.random(N)])

    def ours(w: np.ndarray, c: np.ndarray, **options: np.ndarray) -> float:
        return seconds(lambda: selective_replicates(w, c, seed=0, replicates=REPLICATES, **options))

    base = ours(wrong, confidence)
    scale = REPLICATES / LOOP_REPLICATES
    loop = scale * seconds(lambda: resampled(aurc_loop, wrong, confidence))
    vectorised = scale * seconds(lambda: resampled(aurc_sorted, wrong, confidence))
    found = [
        ("AURC and AUGRC, 10,000 replicates, n = 10,000", base, "1"),
        ("  with ties (two decimals)", t := ours(wrong, tied), f"{t / base:.2f}"),
        ("  7,000 groups", t := ours(wrong, confidence, groups=groups), f"{t / base:.2f}"),
        ("  two arms, paired", t := ours(*both), f"{t / base:.2f}"),
        ("  two arms, paired, groups", t := ours(*both, groups=groups), f"{t / base:.2f}"),
        ("  AURC alone, loop over rows (x 100 of 100)", loop, f"{loop / base:.1f}"),
        ("  AURC alone, sort and cumsum (x 100 of 100)", vectorised, f"{vectorised / base:.1f}"),
    ]
    logits = rng.normal(size=(100_000, 7)) * 3
    labels = (logits / 2 + rng.gumbel(size=logits.shape)).argmax(axis=1)
    exact = seconds(lambda: TemperatureScaling().fit(logits, labels))
    found.append(("temperature, n = 100,000 x 7", exact, "1"))
    try:
        import torch

        for threads in (1, torch.get_num_threads()):
            torch.set_num_threads(threads)
            peer = seconds(lambda: lbfgs(logits.astype(np.float32), labels))
            name = f"  100 LBFGS iterations, torch float32, {threads} threads"
            found.append((name, peer, f"{peer / exact:.1f}"))
    except ImportError:
        print("torch is not installed: its rows are left out", file=sys.stderr)
    few, many = (
        peak_megabytes(
            lambda count=count: selective_replicates(wrong, confidence, seed=0, replicates=count)
        )
        for count in (1000, 4000)
    )
    found.append(("peak MB of 1,000 replicates", few, "1"))
    found.append(("peak MB of 4,000 replicates", many, f"{many / few:.2f}"))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, help="Markdown file to write.")
    out = parser.parse_args().out
    lines = ["| what | seconds | ratio |", "|---|---|---|"]
    lines += [f"| {name} | {value:.3f} | {ratio} |" for name, value, ratio in rows()]
    print("\n".join(lines))
    if out is not None:
        out.write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
