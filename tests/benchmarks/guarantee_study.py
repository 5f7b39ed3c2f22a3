"""How often the risk guarantee is violated, over 2,000 simulated draws, beside naive variants.

Run: python tests/benchmarks/guarantee_study.py
"""

import sys
from pathlib import Path

import numpy as np
from scipy.stats import binomtest

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from support import guarantee_draw

DRAWS = 2000


def main() -> None:
    print(f"risk .05, delta .1, {DRAWS} draws; violated = share with true risk above .05")
    print("| groups | images each | method | violated | p of <= .1 | mean coverage |")
    print("|---|---|---|---|---|---|")
    for n_groups, largest in ((2000, 1), (2000, 8)):
        draws = [guarantee_draw(seed, n_groups=n_groups, largest=largest) for seed in range(DRAWS)]
        for name in draws[0]:
            violated = sum(draw[name][0] for draw in draws)
            p = binomtest(violated, DRAWS, 0.1, alternative="greater").pvalue
            coverage = np.mean([draw[name][1] for draw in draws])
            size = "1" if largest == 1 else f"1-{largest}"
            print(
                f"| {n_groups} | {size} | {name} | {violated / DRAWS:.4f} | {p:.3g} "
                f"| {coverage:.3f} |"
            )


if __name__ == "__main__":
    main()
