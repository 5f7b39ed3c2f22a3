"""Stability of stored maps: trustq against Quantus, in one run.

    python tests/benchmarks/bench_explain.py

Quantus (0.6.0) computes max-sensitivity from the same stored maps: its explaining function looks
them up, its inputs are as small as they can be, and its model is never asked. Its rank correlation
is called pass by pass, as its metrics do. Processor seconds, alternating, the least of five.
"""

import time
import warnings
from typing import Any

import numpy as np

from trustq.explain.stability import max_sensitivity, stability

N_IMAGES, N_PASSES, SIZE = 200, 20, 7


def main() -> None:
    """Print the two times, their ratio and the largest difference."""
    rng = np.random.default_rng(0)
    reference = rng.gamma(1, 1, (N_IMAGES, SIZE, SIZE)).astype(np.float32)
    noise = rng.normal(0, 0.3, (N_PASSES, N_IMAGES, SIZE, SIZE)).astype(np.float32)
    others = np.maximum(reference + noise, 0)
    metric, arguments = _quantus(reference, others)
    found = stability(reference, others)
    theirs = np.array(metric(**arguments()))
    runs = {
        "trustq, all four figures": lambda: stability(reference, others),
        "trustq, max-sensitivity": lambda: max_sensitivity(reference, others),
        "Quantus, max-sensitivity": lambda: metric(**arguments()),
        "Quantus, Spearman": lambda: _spearman(reference, others),
    }
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(5):
        for name, run in runs.items():
            started = time.process_time()
            run()
            seconds[name].append(time.process_time() - started)
    least = {name: min(found) for name, found in seconds.items()}
    ours, one, peer, spearman = least.values()
    exact = np.linalg.norm((others - reference).reshape(N_PASSES, N_IMAGES, -1), axis=2).max(axis=0)
    exact = exact / np.linalg.norm(reference.reshape(N_IMAGES, -1), axis=1)
    print(f"{N_IMAGES} images x {N_PASSES} passes of {SIZE} x {SIZE} maps")
    for name, found_seconds in least.items():
        print(f"{name}: {found_seconds * 1e3:.2f} ms")
    print(f"max-sensitivity, one against one: {peer / one:.0f} times faster")
    print(f"all four against Quantus's two: {(peer + spearman) / ours:.1f} times faster")
    print(
        f"largest difference to the definition: {np.abs(found.max_sensitivity - exact).max():.1e}"
    )
    print(f"largest difference to Quantus: {np.abs(found.max_sensitivity - theirs).max():.1e}")


def _spearman(reference: np.ndarray, others: np.ndarray) -> list[np.ndarray]:
    from quantus.functions.similarity_func import correlation_spearman

    flat = reference.reshape(len(reference), -1)
    return [correlation_spearman(flat, one.reshape(flat.shape), batched=True) for one in others]


def _quantus(reference: np.ndarray, others: np.ndarray) -> tuple[Any, Any]:
    import quantus
    import torch

    class Unasked(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x.flatten(1)[:, :2]

    metric = quantus.MaxSensitivity(
        nr_samples=len(others),
        abs=False,
        normalize=False,
        disable_warnings=True,
        display_progressbar=False,
    )
    images = np.random.default_rng(1).random((len(reference), 1, 7, 7)).astype(np.float32)

    def arguments() -> dict[str, Any]:
        passes = iter(others)
        return {
            "model": Unasked(),
            "x_batch": images,
            "y_batch": np.zeros(len(reference), dtype=int),
            "a_batch": reference[:, None],
            "explain_func": lambda **_: next(passes)[:, None],
            "batch_size": len(reference),
        }

    return metric, arguments


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    main()
