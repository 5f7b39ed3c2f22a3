"""How often 95 % intervals cover the true difference, over 500 simulated studies.

Run: python tests/benchmarks/coverage_study.py
"""

import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from support import simulated_study

STUDIES = 500


def main() -> None:
    print(f"{STUDIES} studies of two arms: 200 lesions of 1-4 images, paired trainings")
    print("| trainings | crossed | nested | naive | seeds alone |")
    print("|---|---|---|---|---|")
    for n_seeds in (10, 5, 3):
        studies = [simulated_study(seed, n_seeds=n_seeds) for seed in range(STUDIES)]
        shares = (np.mean([s[name] for s in studies]) for name in studies[0])
        print(f"| {n_seeds} | " + " | ".join(f"{share:.3f}" for share in shares) + " |", flush=True)


if __name__ == "__main__":
    main()
