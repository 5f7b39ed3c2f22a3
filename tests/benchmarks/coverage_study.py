"""How often 95 % intervals cover the true difference, and how wide they are, in simulated studies.

Run: python tests/benchmarks/coverage_study.py
"""

import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from support import simulated_study

STUDIES = 500
NAMES = ("crossed", "percentile", "nested", "naive", "seeds")


def main() -> None:
    print(f"{STUDIES} studies of two arms each: 200 lesions of 1-4 images, paired trainings")
    print("| trainings | seed sd | " + " | ".join(NAMES) + " |")
    print("|---" * (2 + len(NAMES)) + "|")
    for n_seeds in (10, 5, 3):
        for seed_sd in (0, 0.15, 0.6):
            studies = [
                simulated_study(seed, n_seeds=n_seeds, seed_sd=seed_sd, replicates=300)
                for seed in range(STUDIES)
            ]
            cells = [
                f"{np.mean([s.holds[name] for s in studies]):.3f} "
                f"({np.mean([s.width[name] for s in studies]):.3f})"
                for name in NAMES
            ]
            print(f"| {n_seeds} | {seed_sd} | " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    main()
