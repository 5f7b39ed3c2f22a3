"""Repair on caches: cells of arm x budget x draw, each run once and recorded."""

import dataclasses
import json
import os
import platform
import time
from collections.abc import Callable, Sequence, Set
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cache as remember
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from trustq.calibrators import require_library
from trustq.digest import digest_array, digest_bytes, digest_json, digest_strings
from trustq.errors import TrustqError
from trustq.heads import SharedFeatures
from trustq.heads.classic import KINDS
from trustq.heads.shared import one_blas_thread
from trustq.recipes import Recipe, SweepRecipe
from trustq.repair.arms import Arm, parse_arm, round_sizes, with_references
from trustq.repair.experiment import Experiment, draw_experiment
from trustq.repair.loop import Loop
from trustq.repair.record import Recorder
from trustq.repair.rounds import Round
from trustq.results import committed_keys, join_tables, new_part, part_path, write_part
from trustq.store import Cache
from trustq.store.format import SEEN_SELECTION
from trustq.tables import Columns

# Part of every cell's key: raised when a change of code changes a number, so that cells of an older
# numerics are run again rather than mixed with new ones.
NUMERICS = 5

# Settings of a recipe that are one value in each cell, name no number, or concern one head.
_CELL_SETTINGS = (
    "arms",
    "references",
    "budgets",
    "rounds",
    "draws",
    "draw_seed",
    "caches",
    "external",
)
_HEAD_SETTINGS = ("regularisation", "trees", "components")
_POLICY_SETTINGS = (
    *("buy_unit", "schedule", "cost", "class_cap", "quota", "diversity", "stop_precision"),
    *("raters", "rater_error", "answers"),
)
_ARM_SETTINGS = (*_POLICY_SETTINGS, "flagged_weight", "ensemble")  # concern some arms only

_LAST_SEED = 2**31 - 1  # seeds are stored as 32-bit integers


@dataclass
class RepairRun:
    """What a call of `repair` did."""

    keys: list[str] = field(default_factory=list)  # every cell asked for, old and new
    n_new: int = 0
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Cell:
    """One experiment: an arm with a budget, of one cache, draw and setting."""

    arm: Arm
    budget: str
    key: str


@dataclass
class GroupRun:
    """What `run_group` did: rows to be written, and the cells that failed with their errors."""

    keys: list[str]  # every cell of the group, old and new
    new: list[str]
    tables: list[dict[str, Columns]]  # of each new cell
    notes: list[str]
    failures: list[tuple[Cell, Exception]]


class SharedOnce:
    """Keeps the last `SharedFeatures`, because draws of one cache train on the same rows."""

    def __init__(self) -> None:
        self._kept: SharedFeatures | None = None

    def of(self, features: np.ndarray) -> SharedFeatures:
        """Shared features of (n, d) training rows, made anew only for others than the last."""
        if self._kept is None or not np.array_equal(self._kept.features, features):
            self._kept = SharedFeatures(features)
        return self._kept


def repair(
    caches: Sequence[Cache],
    *,
    recipe: Recipe,
    results: Path,
    externals: Sequence[Cache] = (),
    allow_leak: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> RepairRun:
    """Run the recipe's arms, budgets and draws on caches and record them under `results`.

    Beside every scored arm run what bounds it, random and oracle, unless the recipe's `references`
    is false. Cells that are there already are left as they are. `externals` are caches of other
    images by the same networks; `progress` is told cells done and in all. Raises `TrustqError` for
    an experiment that would not be honest; what was recorded before stays.
    """
    sweep = recipe.sweep
    check_sweep(sweep)
    require_distinct(caches)
    asked = _asked(sweep)
    arms = _arms(sweep)
    run = RepairRun()
    if len(arms) > len(asked):
        added = ", ".join(arm.text for arm in arms[len(asked) :])
        run.notes.append(f"Run beside the arms, as references: {added} (--no-references: not).")
    there = committed_keys(results)
    total = len(caches) * sweep.draws * len(group_cells(sweep))
    for cache in caches:
        shared = SharedOnce()
        for draw_seed in range(sweep.draw_seed, sweep.draw_seed + sweep.draws):
            group = run_group(
                cache,
                recipe=recipe,
                draw_seed=draw_seed,
                externals=externals,
                there=there,
                shared=shared,
                allow_leak=allow_leak,
            )
            if group.tables:
                write_part(results, join_tables(group.tables), part=new_part("repair"))
            there.update(group.new)
            run.notes += [note for note in group.notes if note not in run.notes]
            run.keys += group.keys
            run.n_new += len(group.new)
            if progress:
                progress(len(run.keys), total)
        for shown in (cache, *matching_externals(cache, externals)):
            write_samples(shown, results)
    return run


def _asked(sweep: SweepRecipe) -> list[Arm]:
    return list(dict.fromkeys(parse_arm(text) for text in sweep.arms))


def _arms(sweep: SweepRecipe) -> list[Arm]:
    """The arms that were asked for and, unless they are left out, what bounds them."""
    return with_references(_asked(sweep)) if sweep.references else _asked(sweep)


def group_cells(sweep: SweepRecipe) -> list[tuple[Arm, str]]:
    """Arm and budget of every cell that one cache and draw have; an arm without budget is one."""
    return [
        (arm, budget)
        for arm in _arms(sweep)
        for budget in (("0",) if arm.score == "none" else dict.fromkeys(sweep.budgets))
    ]


def setting_digest(cache: Cache, *, externals: Sequence[Cache], sweep: SweepRecipe) -> str:
    """Digest of what is asked of every cell of a cache, before noise is drawn.

    `externals` are those of the cache's own network.
    """
    asked = {
        name: value
        for name, value in dataclasses.asdict(sweep).items()
        if name not in (*_CELL_SETTINGS, *_HEAD_SETTINGS, *_ARM_SETTINGS, "calibrator")
    }
    # Some settings name a file (matrix:noise.toml), which may change under its name.
    files = {
        name: digest_bytes(path.read_bytes())
        for name, value in asked.items()
        if isinstance(value, str) and (path := Path(value.rpartition(":")[2])).is_file()
    }
    return digest_json(
        {
            "numerics": NUMERICS,
            "cache": cache.content_digest,
            "externals": sorted(other.content_digest for other in externals),
            "sweep": asked | _head_settings(sweep) | _calibrator_setting(sweep),
            "files": files,
        }
    )


def request_digest(
    setting: str, *, sweep: SweepRecipe, draw_seed: int, arm: Arm, budget: str
) -> str:
    """Digest of what is asked of one cell, known before anything is fitted.

    `setting` is from `setting_digest`. Equal requests have equal keys, so a cell whose request is
    there need not be looked at again.
    """
    named = _arm_settings(arm, sweep)
    return digest_strings([setting, str(draw_seed), arm.text, budget, digest_json(named)])


def run_group(
    cache: Cache,
    *,
    recipe: Recipe,
    draw_seed: int,
    externals: Sequence[Cache] = (),
    there: Set[str] = frozenset(),
    only: Sequence[tuple[Arm, str]] | None = None,
    shared: SharedOnce | None = None,
    allow_leak: bool = False,
    keep_going: bool = False,
) -> GroupRun:
    """Run the cells of one cache and draw, which share round 0, and write nothing.

    `only` names cells by arm and budget (default: all that `group_cells` lists); those whose key is
    in `there` are left out. With `keep_going`, the error of one cell is kept in
    `failures` and the others go on; errors that concern all of them are raised. The rows depend on
    the arguments alone, so that any process on any machine may run the group.
    """
    sweep = recipe.sweep
    own = matching_externals(cache, externals)
    experiment = draw_experiment(cache, sweep=sweep, draw_seed=draw_seed, allow_leak=allow_leak)
    if _calibrator_setting(sweep) and not len(experiment.validation):
        raise TrustqError(
            f"calibrator is {sweep.calibrator!r}, but {cache.name} has no validation rows to fit "
            "it on. Leave calibrator out, or give rows to a val split."
        )
    shared_key = _shared_key(experiment, sweep, own)
    cells = _cells(sweep, shared_key, group_cells(sweep) if only is None else only)
    missing = [cell for cell in cells if cell.key not in there]
    run = GroupRun([cell.key for cell in cells], [], [], list(experiment.notes), [])
    if not missing:
        return run
    shared = shared or SharedOnce()
    loop = Loop(experiment, sweep, own, shared.of(experiment.features[experiment.rows]))
    # One thread: the solver has its own, and small products gain nothing from two.
    with one_blas_thread():
        started = time.perf_counter()
        zero = loop.round_zero([cell.arm for cell in missing])
        shared_seconds = time.perf_counter() - started
        for cell in missing:
            try:
                tables, notes = _run_cell(cell, loop, recipe, zero, shared_key, shared_seconds)
            except Exception as error:
                if not keep_going:
                    raise
                run.failures.append((cell, error))
                continue
            run.tables.append(tables)
            run.new.append(cell.key)
            run.notes += notes
    return run


def _run_cell(
    cell: Cell,
    loop: Loop,
    recipe: Recipe,
    zero: Round,
    shared_key: str,
    shared_seconds: float,
) -> tuple[dict[str, Columns], list[str]]:
    experiment = loop.experiment
    started = time.perf_counter()
    budget = loop.budget(cell.arm, cell.budget)
    rounds = [zero, *loop.rounds(cell.arm, zero, budget=budget)]
    seconds = shared_seconds + time.perf_counter() - started
    recorder = Recorder(experiment.cache.classes)
    recorder.add_cell(_cell_row(cell, loop, recipe, rounds, shared_key, seconds, budget))
    recorder.add_rounds(cell.key, cell.arm, experiment, rounds, loop.settings)
    return recorder.tables(), [note for state in rounds for note in state.notes]


def write_samples(cache: Cache, results: Path) -> None:
    """Add the rows of a cache to `samples`, once for the same rows."""
    columns = {
        "sample_id": cache.sample_id,
        "label": np.array([*cache.classes, None], dtype=object)[cache.label],
        "group_id": cache.group_id,
        "split": cache.split,
    }
    digest = digest_strings([cache.dataset, *map(digest_array, columns.values())])
    parts = part_path(results, "samples", "any").parent
    if not any(parts.glob(f"samples-*-{digest}.parquet")):
        dataset = np.full(len(cache), cache.dataset, dtype=object)
        # Named by time first, since of two parts with a sample the newest is shown.
        part = f"{new_part('samples')}-{digest}"
        write_part(results, {"samples": {"dataset": dataset, **columns}}, part=part)


def _cells(sweep: SweepRecipe, shared_key: str, wanted: Sequence[tuple[Arm, str]]) -> list[Cell]:
    cells = []
    for arm, budget in wanted:
        named = {"shared": shared_key, "arm": arm.text, "budget": budget}
        cells.append(Cell(arm, budget, digest_json(named | _arm_settings(arm, sweep))))
    return cells


def _arm_settings(arm: Arm, sweep: SweepRecipe) -> dict[str, Any]:
    """The settings that change an arm's numbers, and no others: grids over them run it once."""
    # No purchase: one cell, whatever the budgets, rounds and policies.
    named: dict[str, Any] = {"rounds": 1 if arm.score == "none" else sweep.rounds}
    # Only what is set, so that cells from before a setting was there keep their key.
    if arm.score != "none" and (policy := _policy_settings(sweep)):
        named["policy"] = policy
    if arm.action == "reweight":
        named["weight"] = sweep.flagged_weight
    if _uses_ensemble(arm):
        named["ensemble"] = list(sweep.ensemble)
        if settings := _ensemble_settings(sweep):
            named["ensemble_settings"] = settings
    return named


def check_sweep(sweep: SweepRecipe) -> None:
    """Raise `TrustqError` for counts and seeds out of their range."""
    for name in ("draws", "rounds", "trees"):
        if getattr(sweep, name) < 1:
            raise TrustqError(f"{name} is {getattr(sweep, name)}, expected 1 or more.")
    if not 0 <= sweep.draw_seed <= _LAST_SEED - sweep.draws:
        raise TrustqError(
            f"draw_seed is {sweep.draw_seed}; seeds are whole numbers from 0 to {_LAST_SEED}."
        )
    if not 0 < sweep.flagged_weight < 1:
        raise TrustqError(
            f"flagged_weight is {sweep.flagged_weight:g}, expected above 0 (which :drop is) and "
            "below 1."
        )
    if not 0 <= sweep.stop_precision <= 1:
        raise TrustqError(f"stop_precision is {sweep.stop_precision:g}, expected 0 to 1.")
    round_sizes(0, sweep.rounds, sweep.schedule)
    require_library(sweep.calibrator)
    for arm in _arms(sweep):
        heads = [sweep.head, *(sweep.ensemble if _uses_ensemble(arm) and sweep.rounds > 1 else ())]
        unweighed = [name for name in heads if name in KINDS]
        if arm.action == "reweight" and unweighed:
            raise TrustqError(
                f"Arm {arm.text!r}: the {unweighed[0]} head takes no weights between 0 and 1. Use "
                ":drop, or a head that does (linear, balanced, xgboost)."
            )


def require_distinct(caches: Sequence[Cache]) -> None:
    """Raise when two caches would be told apart by nothing in a table."""
    names: dict[tuple[Any, ...], Cache] = {}
    for cache in caches:
        name = (cache.dataset, cache.recipe.get("name"), cache.backbone, cache.backbone_seed)
        other = names.setdefault(name, cache)
        if other.content_digest != cache.content_digest:
            raise TrustqError(
                f"{other.name} and {cache.name} are different, but both are data set "
                f"{cache.dataset!r}, recipe {name[1]!r}, seed {cache.backbone_seed}, so their rows "
                "could not be told apart. Run them with separate --results, or name the data sets "
                "(`trustq cache import --dataset`)."
            )


def _shared_key(experiment: Experiment, sweep: SweepRecipe, externals: tuple[Cache, ...]) -> str:
    """Digest of all that changes a number of round 0."""
    # Noise by group needs no entry of its own: the digest of the labels that it drew is there.
    return digest_json(
        {
            "numerics": NUMERICS,
            "cache": experiment.cache.content_digest,
            "rows": sweep.rows,
            "noise": [experiment.noise, experiment.noise_process, experiment.start.digest],
            "trusted": [experiment.trusted, sweep.trusted_strata],
            "draw_seed": experiment.draw_seed,
            "head": [sweep.head, _head_settings(sweep)],
            "folds": sweep.folds,
            "externals": sorted(cache.content_digest for cache in externals),
        }
        | _calibrator_setting(sweep)
    )


def _cell_row(
    cell: Cell,
    loop: Loop,
    recipe: Recipe,
    rounds: list[Round],
    shared_key: str,
    seconds: float,
    budget: int,
) -> dict[str, Any]:
    experiment, sweep = loop.experiment, recipe.sweep
    cache, arm = experiment.cache, cell.arm
    head, validation = rounds[-1].head, experiment.validation
    digest = digest_strings(cache.sample_id[validation].tolist()) if len(validation) else None
    uses_validation = bool(len(validation))
    # Clean labels that chose the backbone's checkpoint were paid for as well.
    chose_checkpoint = np.flatnonzero(cache.seen & SEEN_SELECTION)
    trained_on = experiment.training.rows_digest
    saw_rows = bool(cache.seen_labels[experiment.rows].any())
    purchases = [state.purchase for state in rounds if state.purchase]
    policy = _policy_settings(sweep) if arm.score != "none" else {}
    return {
        "key": cell.key,
        "request": request_digest(
            setting_digest(cache, externals=loop.externals, sweep=sweep),
            sweep=sweep,
            draw_seed=experiment.draw_seed,
            arm=arm,
            budget=cell.budget,
        ),
        "results_version": NUMERICS,
        "recipe": recipe.name,
        "dataset": cache.dataset,
        "classes": json.dumps(cache.classes, ensure_ascii=False),
        "cache": str(cache.path or ""),
        "cache_recipe": str(cache.recipe.get("name", "")),
        "cache_digest": cache.content_digest,
        "backbone": cache.backbone,
        "backbone_seed": cache.backbone_seed,
        "draw_seed": experiment.draw_seed,
        "rows_used": sweep.rows,
        "noise": experiment.noise,
        "noise_process": experiment.noise_process,
        "noise_unit": sweep.noise_unit,
        "noise_rate": experiment.start.rate,
        "buy_unit": sweep.buy_unit,
        "policy": json.dumps(policy, sort_keys=True) if policy else None,
        "arm": arm.text,
        "score": arm.score,
        "source": arm.source if arm.uses_probabilities else None,
        "action": arm.action,
        "arm_title": _title(arm, sweep),
        "head": sweep.head,
        "head_settings": json.dumps(_head_settings(sweep), sort_keys=True),
        "refit": _refit(cache, sweep),
        "calibrator": sweep.calibrator if uses_validation else None,
        "calibration_labels": (
            f"reference labels of {len(validation)} validation rows"
            if uses_validation
            else "none: there are no validation rows"
        ),
        "budget": cell.budget,
        "n_rounds": sweep.rounds if arm.score != "none" else 0,
        "n_rounds_done": len(rounds) - 1,
        "n_folds": sweep.folds,
        "trusted": experiment.trusted,
        "trusted_strata": sweep.trusted_strata,
        "exposure": cache.exposure,
        "leaky": experiment.leaky,
        "in_sample": _in_sample(arm, saw_rows),
        "backbone_saw_rows": saw_rows,
        "n_train": len(experiment.rows),
        "n_wrong_start": experiment.n_wrong,
        "n_bought": sum(purchase.n_bought for purchase in purchases),
        "n_flagged": sum(len(purchase.rows) for purchase in purchases),
        "n_votes": sum(purchase.n_votes for purchase in purchases),
        "spent": rounds[-1].spent if arm.buys else 0.0,
        "hits_possible": loop.most_hits(arm, budget),
        "stopped": _why_stopped(arm, rounds[-1], budget),
        "n_trusted": int(experiment.start.trusted.sum()),
        "n_clean_validation": len(set(validation.tolist()) | set(chose_checkpoint.tolist())),
        "n_unscored": max(state.n_unscored for state in rounds),
        "selection_digest": {"val": digest, "train": trained_on}.get(loop.chosen_on),
        "calibration_digest": digest,
        "shared_key": shared_key,
        "threads": os.cpu_count(),
        "seconds": seconds,
        "head_bytes": head.n_bytes if head else None,
        "microseconds_per_row": loop.microseconds_per_row,
        "created": datetime.now(UTC).isoformat("T", "seconds"),
        "versions": json.dumps(_versions()),
    }


def _policy_settings(sweep: SweepRecipe) -> dict[str, Any]:
    """How a budget is spent and by whom it is answered, where that is not the default."""
    policy: dict[str, Any] = {}
    for name, default in _POLICY_DEFAULTS.items():
        if (value := getattr(sweep, name)) != default:
            policy[name] = value
    for name in ("answers", "cost"):
        if Path(str(policy.get(name, ""))).suffix in (".csv", ".gz", ".parquet"):
            # A file may change under its name.
            policy[f"{name}_digest"] = digest_bytes(_bytes_of(Path(policy[name])))
    return policy


_POLICY_DEFAULTS: dict[str, Any] = {
    f.name: f.default for f in dataclasses.fields(SweepRecipe) if f.name in _POLICY_SETTINGS
}


def _bytes_of(path: Path) -> bytes:
    if not path.is_file():
        raise TrustqError(f"{path}: no such file.")
    return path.read_bytes()


def _in_sample(arm: Arm, saw_rows: bool) -> bool:
    if arm.like:
        return _in_sample(parse_arm(arm.like), saw_rows)
    known = arm.source == "in_sample" or (arm.source == "passes" and saw_rows)
    return arm.uses_probabilities and known


def _why_stopped(arm: Arm, last: Round, budget: int) -> str:
    if arm.score == "none":
        return "nothing to buy"
    if last.stopped:
        return "precision below the cut"
    return "budget spent" if last.spent >= budget - 1e-9 else "nothing left to take"


def _title(arm: Arm, sweep: SweepRecipe) -> str:
    """An arm for people, with what it was set to: tables tell settings apart by it."""
    default = SweepRecipe()
    told = []
    if arm.action == "reweight" and sweep.flagged_weight != default.flagged_weight:
        told.append(f"to {sweep.flagged_weight:g}")
    if _uses_ensemble(arm):
        settings = _ensemble_settings(sweep)
        if settings or sweep.ensemble != default.ensemble:
            values = [f"{name} {value}" for name, value in settings.items()]
            told.append(", ".join(["with", *sweep.ensemble, *values]).replace(",", "", 1))
    return f"{arm.title} ({'; '.join(told)})" if told else arm.title


def _uses_ensemble(arm: Arm) -> bool:
    return arm.source == "heads" or (arm.like != "" and parse_arm(arm.like).source == "heads")


def _ensemble_settings(sweep: SweepRecipe) -> dict[str, Any]:
    """What was asked of the heads beside the head, where that is not the default."""
    default = SweepRecipe()
    settings: dict[str, Any] = {}
    for name in sweep.ensemble:
        asked = _head_settings(dataclasses.replace(sweep, head=name))
        if asked != _head_settings(dataclasses.replace(default, head=name)):
            settings |= asked
    return settings


def _refit(cache: Cache, sweep: SweepRecipe) -> str:
    """What repaired labels were put to: the head, the backbone (`extract --observed`), or none."""
    if sweep.head != "backbone":
        return "head"
    return "backbone" if str(cache.noise.get("spec", "")).startswith("file:") else "none"


def _calibrator_setting(sweep: SweepRecipe) -> dict[str, str]:
    # Only what is set, so that cells from before the setting was there keep their key.
    is_default = sweep.calibrator == SweepRecipe().calibrator
    return {} if is_default else {"calibrator": sweep.calibrator}


def _head_settings(sweep: SweepRecipe) -> dict[str, Any]:
    """What was asked of the head; other settings do not concern it."""
    components = {"components": sweep.components} if sweep.components else {}
    settings: dict[str, dict[str, Any]] = {
        "linear": {"regularisation": sweep.regularisation},
        "balanced": {"regularisation": sweep.regularisation},
        "xgboost": {"trees": sweep.trees} | components,
        "xgboost_study": components,
    }
    return settings.get(sweep.head, {})


@remember  # reading the metadata of five packages takes 20 ms
def _versions() -> dict[str, str]:
    names = ("trustq", "numpy", "scikit-learn", "cleanlab", "xgboost")
    return {"python": platform.python_version()} | {name: version(name) for name in names}


def matching_externals(cache: Cache, externals: Sequence[Cache]) -> tuple[Cache, ...]:
    """The external caches that came through the same network, with labels in this class order."""
    own = [
        other
        for other in externals
        if other.weights_digest and other.weights_digest == cache.weights_digest
    ]
    if externals and not own:
        raise TrustqError(
            f"None of the external caches is known to be of the network of {cache.name}. Make them "
            f"with `trustq extract OTHER.parquet --with {cache.name}`."
        )
    own.sort(key=lambda other: other.content_digest)
    names = [other.dataset for other in own]
    if len(set(names)) < len(names):
        raise TrustqError(f"Two external caches are of data set {sorted(names)[0]!r}; give one.")
    return tuple(_relabelled(other, cache) for other in own)


def _relabelled(other: Cache, cache: Cache) -> Cache:
    shared = set(other.group_id.tolist()) & set(cache.group_id.tolist())
    shared |= set(other.sample_id.tolist()) & set(cache.sample_id.tolist())
    # A view is called DATASET@VIEW, and shows the same images.
    is_same = other.dataset.partition("@")[0] == cache.dataset.partition("@")[0]
    if other.seen_labels.any() or (is_same and shared):
        n_seen = int(other.seen_labels.sum())
        raise TrustqError(
            f"{other.name} holds rows of {cache.name} ({len(shared)} ids or groups; {n_seen} rows "
            "that the backbone was trained on), so it is no external test. Leave them out of its "
            "manifest."
        )
    if not (other.label >= 0).any():
        raise TrustqError(f"{other.name} has no labelled row to evaluate.")
    strange = set(other.classes) - set(cache.classes)
    if strange:
        raise TrustqError(
            f"{other.name} has classes that {cache.name} lacks: {', '.join(sorted(strange))}."
        )
    position = np.array([cache.classes.index(name) for name in other.classes] + [-1])
    return dataclasses.replace(other, classes=cache.classes, label=position[other.label])
