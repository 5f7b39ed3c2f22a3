"""How often the stopping statement of a review is wrong, over simulated reviews.

Each review draws its random rows from what a list left over: labels of which a share is wrong, a
weak or a strong score having listed some of them, alone or in groups of ten that are wrong
together. The reviewer looks after every answer; a review counts as wrong if any look was.

    python tests/benchmarks/stopping_study.py --out tests/benchmarks/results_stopping.md
"""

import argparse
from pathlib import Path

import numpy as np

from trustq.statistics.confidence_sequence import evidence_against, share_bound

N_ROWS, N_ANSWERS = 2000, 200


def unlisted(noise: float, strength: float, grouped: bool, rng: np.random.Generator) -> np.ndarray:
    """Which of the rows that a list of 10 % left over are wrong."""
    wrong = rng.random(N_ROWS) < noise
    if grouped:
        wrong = np.repeat(rng.random(N_ROWS // 10) < noise, 10)
    suspicion = rng.normal(size=N_ROWS) + strength * wrong
    return wrong[np.argsort(suspicion)[: N_ROWS - N_ROWS // 10]]


def main() -> None:
    """Run the study and write its table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--reviews", type=int, default=2000)
    parser.add_argument("--out", type=Path)
    asked = parser.parse_args()
    lines = [
        f"{asked.reviews} simulated reviews a row, {N_ROWS} labels, {N_ANSWERS} random answers, a "
        "look after every answer; wrong: the true number lay outside the 95 % bounds at some look.",
        "",
        "| noise | score | groups | wrong | mean upper bound | true share |",
        "|---|---|---|---|---|---|",
    ]
    for noise in (0.01, 0.05, 0.2):
        for title, strength in (("weak", 0.5), ("strong", 3.0)):
            for grouped in (False, True):
                rng = np.random.default_rng(0)
                failures, highs, shares = 0, [], []
                for _ in range(asked.reviews):
                    rest = unlisted(noise, strength, grouped, rng)
                    drawn = rest[rng.permutation(len(rest))[:N_ANSWERS]]
                    bound = share_bound(drawn, n_rows=len(rest))
                    at_looks = evidence_against(
                        rest.sum(),
                        n_rows=len(rest),
                        n_sampled=np.arange(1, N_ANSWERS + 1),
                        n_wrong=np.cumsum(drawn),
                    )
                    failures += bool((at_looks >= np.log(20)).any())
                    highs.append(bound.high / len(rest))
                    shares.append(rest.mean())
                lines.append(
                    f"| {noise:g} | {title} | {'tens' if grouped else 'none'} | "
                    f"{failures / asked.reviews:.4f} | {np.mean(highs):.4f} | "
                    f"{np.mean(shares):.4f} |"
                )
                print(lines[-1], flush=True)
    if asked.out:
        asked.out.write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
