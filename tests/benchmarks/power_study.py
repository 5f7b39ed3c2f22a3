"""How often what `trustq plan` calls detectable is detected, over 2,000 simulated sweeps.

Run: python tests/benchmarks/power_study.py
"""

import math
import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from support_power import detected

from trustq.analysis.study_design import variation
from trustq.statistics.paired import sign_flip_test
from trustq.statistics.power import detectable_effect, sign_flip_floor

SWEEPS = 2000


def main() -> None:
    print(f"Smallest effect at 80 % power, alpha .05, Holm over the family; {SWEEPS} sweeps each.")
    print(
        "Detected by `stats.sign_flip_test` and `stats.holm`; other comparisons have no effect.\n"
    )
    print("| units | floor | family | effect, sd | detected | skewed differences | heavy tails |")
    print("|---|---|---|---|---|---|---|")
    for n, family in [(5, 1), (6, 1), (6, 2), (8, 1), (8, 4), (10, 1), (12, 1), (12, 12), (15, 3)]:
        print(_row(n, family))
    for n, family in [(16, 1), (20, 1), (30, 1), (50, 3)]:
        print(_row(n, family))
    print("\nSweeps of 8 draws x 3 backbones with variance components; the sd is the pilot's.\n")
    print("| pilot draws | detected, mean over 20 pilots | lowest | highest |")
    print("|---|---|---|---|")
    for draws in (5, 20, 100):
        found = [_with_a_pilot(draws, seed) for seed in range(20)]
        print(f"| {draws} | {np.mean(found):.3f} | {min(found):.3f} | {max(found):.3f} |")


def _row(n: int, family: int) -> str:
    effect = detectable_effect(n, alpha=0.05 / family)
    tried = 100.0 if math.isinf(effect) else effect
    shapes = [None, _skewed, _heavy]
    found = [detected(n, tried, family=family, sweeps=SWEEPS, draw=draw) for draw in shapes]
    cells = [str(n), f"{sign_flip_floor(n):.3g}", str(family)]
    cells.append("none" if math.isinf(effect) else f"{effect:.3f}")
    return "| " + " | ".join([*cells, *(f"{share:.3f}" for share in found)]) + " |"


def _skewed(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    return rng.standard_gamma(4.0, shape) / 2 - 2  # skewness 1


def _heavy(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    return rng.standard_t(5, shape) / math.sqrt(5 / 3)


def _differences(rng: np.random.Generator, backbones: int, draws: int) -> np.ndarray:
    """Differences in units of a draw's own sd 1, residual sd 1."""
    return rng.standard_normal(draws) + rng.standard_normal((backbones, draws))


def _with_a_pilot(pilot_draws: int, seed: int) -> float:
    """Share of sweeps that find the effect which a pilot on two backbones called detectable."""
    rng = np.random.default_rng([seed, pilot_draws])
    v = variation([_differences(rng, 2, pilot_draws)])
    effect = detectable_effect(8) * math.sqrt(v.draw + v.residual / 3)
    sweeps = [_differences(rng, 3, 8).mean(axis=0) + effect for _ in range(SWEEPS)]
    return float(np.mean([sign_flip_test(sweep).p_value <= 0.05 for sweep in sweeps]))


if __name__ == "__main__":
    main()
