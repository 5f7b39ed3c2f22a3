"""The sixteen comparisons that were named beforehand, with Holm over all of them.

Run: python family.py RESULTS
"""

import json
import subprocess
import sys

import numpy as np

from trustq.statistics.paired import holm

NOISES = ("reference", "symmetric:0.2", "pair:0.2", "instance:0.2")


def compared(results: str, noise: str) -> list[dict[str, object]]:
    """Self-confidence against random and against none at a budget of 10 %, paired by draw."""
    where = f"noise = '{noise}' AND budget IN ('0', '10%')"
    words = ["export", "significance", "--results", results, "--where", where, "--json"]
    words += ["--arms", "self_confidence,random,none", "--metrics", "accuracy,macro_f1"]
    done = subprocess.run(["trustq", *words], check=True, capture_output=True, text=True)
    return [{"noise": noise, **row} for row in json.loads(done.stdout)]


def main() -> None:
    """Print the table in Markdown."""
    rows = [row for noise in NOISES for row in compared(sys.argv[1], noise)]
    adjusted = holm(np.array([row["p_value"] for row in rows], dtype=float))
    print(
        "| noise | self-confidence less | figure | difference | 95 % interval | p | Holm p of 16 |"
    )
    print("|---|---|---|---|---|---|---|")
    for row, p in zip(rows, adjusted, strict=True):
        interval = f"[{row['lower']:+.4f}, {row['upper']:+.4f}]"
        cells = (row["noise"], row["b"], row["metric"], f"{row['difference']:+.4f}", interval)
        print(f"| {' | '.join(map(str, cells))} | {row['p_value']:.2g} | {p:.2g} |")


if __name__ == "__main__":
    main()
