"""The whole loop: train, score, buy, train again, for several arms and seeds.

What `repair` does with a head on fixed features is done here with the network itself. Each step
leaves a file that the next run of the same loop finds, so a loop goes on wherever it was stopped.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from trustq.core.columns import Columns, read_table, write_parquet
from trustq.data.manifest import Manifest
from trustq.data.purchase_origin import Origin, file_origin
from trustq.errors import InputError
from trustq.experiments.run import repair
from trustq.extraction import Execution, Progress, extract
from trustq.recipes import Recipe, SweepRecipe
from trustq.repair.arms import Arm, budget_size, parse_arm, round_sizes
from trustq.results import connect, save_repaired_labels
from trustq.statistics.runs import compare_runs
from trustq.store import read_cache

FIGURES = ("accuracy", "macro_f1", "macro_auroc", "nll", "ece", "aurc", "augrc")
STAGES = ("uncalibrated", "calibrated")
_NONE = "none"


@dataclass(frozen=True)
class LoopRound:
    """A network of the loop: an arm's after a round of purchases, or the first one of all arms."""

    arm: str
    round: int
    seed: int
    cache: Path
    digest: str  # of the cache's content
    n_bought: int  # labels bought so far
    n_trusted: int  # labels clean from the start
    n_wrong: int  # labels of training rows that are still wrong


@dataclass(frozen=True)
class LoopRun:
    """What a loop did: its networks in order, and the results folder that describes them."""

    rounds: tuple[LoopRound, ...]
    results: Path

    def table(self, *, split: str = "test") -> Columns:
        """One row a network, with its own figures on a split before and after its temperature."""
        return _table(self, split)

    def means(self, *, split: str = "test") -> list[dict[str, Any]]:
        """Mean over seeds of every arm's round, with the sd of accuracy and macro-F1."""
        table = self.table(split=split)
        places: dict[tuple[str, int], list[int]] = {}
        for i, place in enumerate(zip(table["arm"], table["round"], strict=True)):
            places.setdefault(place, []).append(i)
        rows = []
        for (arm, number), own in places.items():
            row: dict[str, Any] = {"arm": arm, "round": number, "n_networks": len(own)}
            for name in ("n_trusted", "n_bought", "n_wrong"):
                row[name] = round(float(np.mean(table[name][own].astype(float))), 1)
            for name in FIGURES:
                values = table[name][own].astype(float)
                row[name] = round(float(values.mean()), 4)
                if name in ("accuracy", "macro_f1") and len(own) > 1:
                    row[f"{name}_sd"] = round(float(values.std(ddof=1)), 4)
            rows.append(row)
        return rows

    def save(self, path: Path, *, split: str = "test") -> None:
        """Write the table of networks as Parquet."""
        write_parquet(path, self.table(split=split))

    def paired(self, *, split: str = "test", against: str = _NONE) -> list[dict[str, Any]]:
        """Differences of each arm's last networks to those of another arm, paired by seed.

        A row an arm, stage and figure: mean difference, interval, p, and the smallest p that so
        many seeds can reach.
        """
        return _paired(self, split, against)


def train_loop(
    manifest: Manifest,
    *,
    recipe: Recipe,
    seeds: Sequence[int],
    out: Path,
    device: str = "auto",
    progress: Progress | None = None,
) -> LoopRun:
    """Train, score, buy and train again as a recipe's arms, budget and rounds say.

    `[extract]` says how a network learns and which labels are wrong at the start, `[sweep]` what is
    bought: its one budget is spent in `rounds` equal parts, and after each the network is trained
    again from its start on the labels that the arm then has. The first network of a seed is that of
    every arm. Caches, labels and results lie under `out`; what is there from the same recipe is not
    made again. Raises `TrustqError` for a recipe that trains no network, for more budgets than one,
    and for a source of scores that the networks do not give.

    >>> train_loop(manifest, recipe=load_recipe("loop"), seeds=[0], out=Path("loop"))
    ... # doctest: +SKIP
    """
    _require_loop(recipe)
    out = Path(out)
    loop = _Loop(manifest, recipe, out, device, progress)
    rounds = tuple(loop.run(sorted(set(seeds))))
    _measure([one.cache for one in rounds], recipe, out / "results")
    return LoopRun(rounds, out / "results")


@dataclass(frozen=True)
class _Loop:
    manifest: Manifest
    recipe: Recipe
    out: Path
    device: str
    progress: Progress | None

    def run(self, seeds: Sequence[int]) -> Iterator[LoopRound]:
        """Every network, the first of each seed before any second one."""
        arms = [parse_arm(text) for text in self.recipe.sweep.arms]
        first = {seed: self._train(self.recipe.name, seed, self.recipe) for seed in seeds}
        for seed, path in first.items():
            yield _described(_NONE, 0, seed, path, bought=0)
        for arm in arms:
            if arm.score == _NONE:
                continue
            for seed, path in first.items():
                yield from self._rounds(arm, seed, path)

    def _rounds(self, arm: Arm, seed: int, path: Path) -> Iterator[LoopRound]:
        sweep = self.recipe.sweep
        start = read_cache(path)
        n_wrong = int((start.observed != start.label)[start.split == "train"].sum())
        n_rows = int((start.split == "train").sum())
        budget = budget_size(sweep.budgets[0], n_rows=n_rows, n_wrong=n_wrong)
        sizes = round_sizes(budget, sweep.rounds, sweep.schedule)
        bought = 0
        before: Origin | None = None  # what was bought up to here
        for number, size in enumerate(sizes, start=1):
            labels = self._bought(arm, seed, path, number, size, before)
            before = file_origin(labels)
            bought += _n_bought(labels)
            recipe = self._again(arm, number, labels, is_last=number == len(sizes))
            path = self._train(recipe.name, seed, recipe)
            yield _described(arm.text, number, seed, path, bought=bought)

    def _bought(
        self, arm: Arm, seed: int, path: Path, number: int, size: int, before: Origin | None
    ) -> Path:
        """The file of labels after one purchase by the scores of one network.

        It says all that was bought up to here, so that the network that is trained on it stands
        beside the first one, and beside other arms after as many labels, in one draw.
        """
        folder = self.out / "labels" / slug(arm.text) / f"round{number}"
        cache = read_cache(path)
        sweep = replace(
            self.recipe.sweep,
            noise="stored",
            trusted="stored",
            arms=(arm.text,),
            budgets=(str(size),),
            rounds=1,
            draws=1,
            draw_seed=self.recipe.sweep.draw_seed + number,
            references=False,
        )
        results = self.out / "purchases"
        done = repair([cache], recipe=replace(self.recipe, sweep=sweep), results=results)
        # Always written: the same bytes come out again, and a half-made folder is made whole.
        (saved,) = save_repaired_labels(
            results,
            folder,
            arm=arm.text,
            where=f"key = '{done.keys[0]}'",
            origin=lambda own: own.after(before, draw_seed=self.recipe.sweep.draw_seed),
        )
        return saved.path

    def _again(self, arm: Arm, number: int, labels: Path, *, is_last: bool) -> Recipe:
        extract_part = replace(
            self.recipe.extract,
            observed=str(labels),
            noise="none",
            trusted=0.0,
            # Nothing is bought by the last networks, so none need be blind to a fold.
            mode="finetune" if is_last else self.recipe.extract.mode,
        )
        name = f"{self.recipe.name}.{slug(arm.text)}.round{number}"
        return replace(self.recipe, name=name, extract=extract_part)

    def _train(self, name: str, seed: int, recipe: Recipe) -> Path:
        (made,) = extract(
            self.manifest,
            recipe=replace(recipe, name=name),
            seeds=[seed],
            out=self.out / "caches",
            execution=Execution(device=self.device),
            progress=self.progress,
        )
        return made.path


def slug(arm: str) -> str:
    """An arm as a folder's name.

    >>> slug("self_confidence@crossfit:drop")
    'self_confidence-crossfit-drop'
    """
    return re.sub(r"[^A-Za-z0-9_.]+", "-", arm)


def _require_loop(recipe: Recipe) -> None:
    sweep = recipe.sweep
    if recipe.extract.mode == "frozen":
        raise InputError(
            "mode=frozen trains no network, so there is none to train again. Use `trustq repair` "
            "on its cache, or `mode=finetune`.",
            where="mode",
        )
    if recipe.extract.observed:
        raise InputError(
            "observed gives labels to train on, but a loop makes them: say `noise` and `trusted` "
            "of the start.",
            where="observed",
        )
    if len(sweep.budgets) != 1:
        raise InputError(
            f"A loop spends one budget in {sweep.rounds} rounds; found {', '.join(sweep.budgets)}. "
            "Run one loop for each, in folders of their own.",
            where="budgets",
        )
    for text in sweep.arms:
        arm = parse_arm(text)
        if not arm.buys and arm.score != _NONE:
            raise InputError(
                f"Arm {text!r} buys no label. A loop trains again on labels that were bought.",
                where="arms",
            )
        if arm.source == "crossfit" and recipe.extract.mode != "crossfit":
            raise InputError(
                f"Arm {text!r} scores by cross-fitted networks, which mode={recipe.extract.mode} "
                "does not train. Use `mode=crossfit`, or score by a head out of fold: "
                f"{arm.score}.",
                where="arms",
            )


def _n_bought(labels: Path) -> int:
    rounds = read_table(labels)["bought_round"].tolist()
    return sum(value is not None and float(value) > 0 for value in rounds)


def _described(arm: str, number: int, seed: int, path: Path, *, bought: int) -> LoopRound:
    cache = read_cache(path)
    rows = cache.split == "train"
    wrong = (cache.observed != cache.label) & rows & (cache.observed >= 0)
    n_clean = int(cache.trusted[rows].sum())
    return LoopRound(
        arm,
        number,
        seed,
        path,
        cache.content_digest,
        bought,
        n_clean - bought,
        int(wrong.sum()),
    )


def _measure(caches: Sequence[Path], recipe: Recipe, results: Path) -> None:
    """Record the networks' own figures, before and after their temperature."""
    sweep = SweepRecipe(
        noise="stored",
        trusted="stored",
        arms=(_NONE,),
        budgets=("0",),
        head="backbone",
        references=False,
        calibrator=recipe.sweep.calibrator,
        slices=recipe.sweep.slices,
        metadata=recipe.sweep.metadata,
    )
    for path in caches:
        repair([read_cache(path)], recipe=replace(recipe, sweep=sweep), results=results)


_FIGURES_OF = """
SELECT cache_digest, metric, stage, value FROM metric_values
WHERE split = ? AND head = 'backbone' AND is_final AND class_name IS NULL AND slice_name IS NULL
    AND eval_dataset = dataset
"""


def _figures(run: LoopRun, split: str) -> dict[tuple[str, str, str], float]:
    with connect(run.results) as connection:
        found = connection.execute(_FIGURES_OF, [split]).fetchall()
    return {(digest, metric, stage): value for digest, metric, stage, value in found}


def _table(run: LoopRun, split: str) -> Columns:
    figures = _figures(run, split)
    rows = []
    for one in run.rounds:
        row: dict[str, Any] = {
            "arm": one.arm,
            "round": one.round,
            "backbone_seed": one.seed,
            "n_trusted": one.n_trusted,
            "n_bought": one.n_bought,
            "n_wrong": one.n_wrong,
        }
        for stage in STAGES:
            for name in FIGURES:
                value = figures.get((one.digest, name, stage))
                row[name if stage == STAGES[0] else f"{name}_{stage}"] = value
        rows.append(row)
    return {name: np.array([row[name] for row in rows], dtype=object) for name in rows[0]}


def _paired(run: LoopRun, split: str, against: str) -> list[dict[str, Any]]:
    figures = _figures(run, split)
    last: dict[str, dict[int, LoopRound]] = {}
    for one in run.rounds:
        last.setdefault(one.arm, {})[one.seed] = one
    if against not in last:
        raise InputError(f"The loop has no arm {against!r}; it has {', '.join(last)}.")
    rows = []
    for arm, networks in last.items():
        if arm == against:
            continue
        seeds = sorted(set(networks) & set(last[against]))
        for stage in STAGES:
            for name in FIGURES:
                values = [
                    [figures[of[seed].digest, name, stage] for seed in seeds]
                    for of in (networks, last[against])
                ]
                rows.append(_difference(arm, against, name, stage, *map(np.array, values)))
    return rows


def _difference(
    arm: str, against: str, name: str, stage: str, ours: np.ndarray, theirs: np.ndarray
) -> dict[str, Any]:
    row: dict[str, Any] = {"arm": arm, "against": against, "figure": name, "stage": stage}
    told = compare_runs(ours, theirs, networks=range(len(ours)), draws=[0] * len(ours))
    return row | {
        "n": told.n,
        "difference": told.mean,
        "lower": told.lower,
        "upper": told.upper,
        "p": told.p_value,
        "smallest_p": told.floor,
    }
