"""The demo: the whole flow on real handwritten digits, on a CPU, with nothing to download."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path

from trustq.datasets import prepare
from trustq.experiments import repair
from trustq.recipes import Recipe, load_recipe
from trustq.report import (
    RepairTable,
    repair_curve_figure,
    repair_table,
    risk_coverage_figure,
)
from trustq.results import Result, run_query
from trustq.store import read_cache

SEEDS = (0, 1)
ARMS = ("none", "random", "self_confidence")

# Plain SQL over the same results: what `trustq sql` answers.
TABLE_SQL = """\
SELECT arm_title, n, round(mean, 4) AS accuracy, round(sd, 4) AS sd
FROM seeds
WHERE exposure = 'frozen' AND metric = 'accuracy' AND split = 'test' AND is_final
  AND stage = 'calibrated'
ORDER BY mean"""

Progress = Callable[[str, str], AbstractContextManager[Callable[[int, int], None]]]


@dataclass(frozen=True)
class Demo:
    """What the demo made."""

    frozen: RepairTable
    trained: RepairTable
    sql: Result
    pictures: tuple[Path, ...]
    results: Path


def run_demo(out: Path, *, say: Callable[[str], None], progress: Progress) -> Demo:
    """Prepare digits, extract frozen and noise-trained caches, repair both, draw and query.

    Everything is written under `out`; a second run goes on from what is there. `say` is told each
    step; `progress(what, unit)` opens a progress line.
    """
    from trustq.extraction import extract  # torch, when it is needed and not before

    say("1. The 1,797 handwritten digits that come with scikit-learn, as images with splits.")
    manifest = prepare("digits", root=out / "images", out=out / "digits.parquet")
    caches = out / "cache"

    say("2. Frozen: features of a small network with random weights, which saw no label.")
    base = load_recipe("digits")
    frozen = replace(
        base, name="frozen", extract=replace(base.extract, mode="frozen", noise="none")
    )
    extract(manifest, recipe=frozen, seeds=SEEDS, out=caches)

    say("3. Fine-tuned: the same network trained on labels of which 20 % are wrong.")
    extract(manifest, recipe=base, seeds=SEEDS, out=caches)

    results = out / "results"
    say("4. Repair on the frozen features: 20 draws of 20 % noise, 15 % of labels bought.")
    frozen_keys = _repair(frozen, caches, results, progress, draws=20, noise="symmetric:0.2")
    say("5. Repair on the fine-tuned features, of the very labels that they were trained on.")
    trained_keys = _repair(base, caches, results, progress, draws=5, noise="stored")

    say("6. Pictures and SQL.")
    pictures = (out / "repair_curve.png", out / "risk_coverage.png")
    repair_curve_figure(results, frozen_keys, pictures[0])
    risk_coverage_figure(results, frozen_keys, pictures[1])
    return Demo(
        frozen=repair_table(results, frozen_keys),
        trained=repair_table(results, trained_keys),
        sql=run_query(results, TABLE_SQL),
        pictures=pictures,
        results=results,
    )


def _repair(
    recipe: Recipe, caches: Path, results: Path, progress: Progress, *, draws: int, noise: str
) -> list[str]:
    sweep = replace(recipe.sweep, noise=noise, arms=ARMS, budgets=("15%",), rounds=3, draws=draws)
    opened = [read_cache(caches / "digits" / recipe.name / f"seed{seed}.h5") for seed in SEEDS]
    with progress("repair", "runs") as report:
        run = repair(opened, recipe=replace(recipe, sweep=sweep), results=results, progress=report)
    return run.keys
