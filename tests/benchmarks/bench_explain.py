"""Stability of stored maps: all four figures of trustq against one of Quantus, in one run.

    python tests/benchmarks/bench_explain.py

Quantus (0.6.0) computes max-sensitivity alone, from the same stored maps: its explaining function
looks them up, its inputs are as small as they can be, and its model is never asked. Processor
seconds, alternating, the least of five of each.
"""

import time
import warnings
from typing import Any

import numpy as np

from trustq.explain.stability import stability

N_IMAGES, N_PASSES, SIZE = 200, 20, 7


def main() -> None:
    """Print the two times, their ratio and the largest difference."""
    rng = np.random.default_rng(0)
    reference = rng.gamma(1, 1, (N_IMAGES, SIZE, SIZE)).astype(np.float32)
    noise = rng.normal(0, 0.3, (N_PASSES, N_IMAGES, SIZE, SIZE)).astype(np.float32)
    others = np.maximum(reference + noise, 0)
    metric, arguments = _quantus(reference, others)
    seconds: dict[str, list[float]] = {"trustq": [], "quantus": []}
    for _ in range(5):
        started = time.process_time()
        found = stability(reference, others)
        seconds["trustq"].append(time.process_time() - started)
        started = time.process_time()
        theirs = np.array(metric(**arguments()))
        seconds["quantus"].append(time.process_time() - started)
    ours, peer = min(seconds["trustq"]), min(seconds["quantus"])
    exact = np.linalg.norm((others - reference).reshape(N_PASSES, N_IMAGES, -1), axis=2).max(axis=0)
    exact = exact / np.linalg.norm(reference.reshape(N_IMAGES, -1), axis=1)
    print(f"{N_IMAGES} images x {N_PASSES} passes of {SIZE} x {SIZE} maps")
    print(f"trustq, four figures: {ours * 1e3:.1f} ms; Quantus, one: {peer * 1e3:.1f} ms")
    print(f"ratio {peer / ours:.1f}")
    print(
        f"largest difference to the definition: {np.abs(found.max_sensitivity - exact).max():.1e}"
    )
    print(f"largest difference to Quantus: {np.abs(found.max_sensitivity - theirs).max():.1e}")


def _quantus(reference: np.ndarray, others: np.ndarray) -> tuple[Any, Any]:
    import quantus
    import torch

    class Unasked(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x.flatten(1)[:, :2]

    metric = quantus.MaxSensitivity(
        nr_samples=len(others),
        abs=False,
        normalise=False,
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
