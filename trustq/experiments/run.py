"""Repair on caches: cells of arm x budget x draw, each run once and recorded."""

import time
from collections.abc import Callable, Sequence, Set
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from trustq.core.columns import Columns
from trustq.core.digest import digest_array, digest_json, digest_strings
from trustq.core.interrupts import heeded
from trustq.core.scratch import room_left
from trustq.errors import InputError
from trustq.experiments.cell_row import Cell, cell_row, group_row
from trustq.experiments.retrained import as_arm
from trustq.experiments.tables import Recorder
from trustq.heads import SharedFeatures
from trustq.heads.feature_cache import one_blas_thread
from trustq.heads.standardise import Standardised, equal_features
from trustq.recipes import Recipe, SweepRecipe
from trustq.repair.arms import Arm
from trustq.repair.external_caches import of_network
from trustq.repair.label_shift_stages import with_shift_figures
from trustq.repair.loop import Loop
from trustq.repair.metadata import metadata_setting
from trustq.repair.relabelling import pose
from trustq.repair.rounds import Round
from trustq.repair.settings import (
    arm_settings,
    arms_of,
    asked_arms,
    file_digests,
    further_settings,
    group_cells,
    head_settings,
    plugin_settings,
    require_noise,
    require_sound,
    shared_settings,
)
from trustq.repair.setup import Experiment, draw_experiment
from trustq.repair.slices import Slices, find_slices
from trustq.repair.views import ViewRows, split_companions, stored_views
from trustq.results import committed_keys, join_tables, new_part, part_path, write_part
from trustq.results.sample_columns import sample_columns
from trustq.store import Cache, in_first_order, in_order_of
from trustq.store.concat import stand_side_by_side
from trustq.store.format import MANIFEST_COLUMNS
from trustq.store.manifest_columns import manifest_columns

# Part of every cell's key: raised when a change of code changes a number, so that cells of an older
# numerics are run again rather than mixed with new ones.
NUMERICS = 12


@dataclass
class RepairRun:
    """What a call of `repair` did."""

    keys: list[str] = field(default_factory=list)  # every cell asked for, old and new
    n_new: int = 0
    notes: list[str] = field(default_factory=list)


@dataclass
class GroupRun:
    """What `run_group` did: rows to be written, and the cells that failed with their errors."""

    keys: list[str]  # every cell of the group, old and new
    new: list[str]
    tables: list[dict[str, Columns]]  # of all new cells, where there are any
    notes: list[str]
    failures: list[tuple[Cell, Exception]]


class SharedOnce:
    """Keeps the last `SharedFeatures`, because draws of one cache train on the same rows."""

    def __init__(self) -> None:
        self._kept: SharedFeatures | None = None

    def of(self, features: np.ndarray | Standardised) -> SharedFeatures:
        """Shared features of (n, d) training rows, made anew only for others than the last."""
        if self._kept is None or not equal_features(self._kept.features, features):
            self._kept = SharedFeatures(features)
        return self._kept

    def make_room(self) -> None:
        """Forget what fits made of the rows where memory is short, so that tables can be written.

        The next draw makes it anew.
        """
        if not room_left():
            self._kept = None


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
    images by the same networks; the recipe's `concat` puts caches, and these, side by side.
    `progress` is told cells done and in all. Raises `TrustqError` for an experiment that would not
    be honest; what was recorded before stays.
    """
    sweep = recipe.sweep
    require_sound(sweep)
    caches, externals = stand_side_by_side(caches, externals, how=sweep.concat)
    caches = in_first_order(caches)
    for classes in {cache.classes for cache in caches} if not sweep.target else ():
        require_noise(sweep, classes)
    require_distinct(caches)
    asked = asked_arms(sweep)
    arms = arms_of(sweep)
    run = RepairRun()
    if len(arms) > len(asked):
        added = ", ".join(arm.text for arm in arms[len(asked) :])
        run.notes.append(
            f"Also running reference arms: {added} (`references=false` leaves them out)."
        )
    there = committed_keys(results)
    total = len(caches) * sweep.draws * len(group_cells(sweep))
    with heeded() as check:
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
                shared.make_room()
                if group.tables:
                    write_part(results, join_tables(group.tables), part=new_part("repair"))
                    group.tables.clear()  # rows of samples are to be written beside nothing
                there.update(group.new)
                run.notes += [note for note in group.notes if note not in run.notes]
                run.keys += group.keys
                run.n_new += len(group.new)
                if progress:
                    progress(len(run.keys), total)
                check()
            for shown in (cache, *of_network(cache, companions_of(cache, externals, sweep)[1])):
                write_samples(shown, results)
    return run


def companions_of(
    cache: Cache, externals: Sequence[Cache], sweep: SweepRecipe
) -> tuple[tuple[Cache, ...], tuple[Cache, ...]]:
    """Caches that hold views of the cache's own rows, where views are asked for, and the others."""
    if not sweep.conditions:
        return (), tuple(externals)
    return split_companions(cache, externals)


def setting_digest(
    cache: Cache,
    *,
    externals: Sequence[Cache],
    sweep: SweepRecipe,
    companions: Sequence[Cache] = (),
) -> str:
    """Digest of what is asked of every cell of a cache, before noise is drawn.

    `externals` are those of the cache's own network, `companions` hold views of its rows.
    """
    return digest_json(
        {
            "numerics": NUMERICS,
            "cache": cache.content_digest,
            "externals": sorted(other.content_digest for other in externals),
            "sweep": shared_settings(sweep),
            "files": file_digests(sweep),
        }
        | metadata_setting(cache, externals, sweep=sweep)
        # As before there were any, where there are none.
        | ({"views": sorted(one.content_digest for one in companions)} if companions else {})
    )


def request_digest(
    setting: str, *, sweep: SweepRecipe, draw_seed: int, arm: Arm, budget: str
) -> str:
    """Digest of what is asked of one cell, known before anything is fitted.

    `setting` is from `setting_digest`. Equal requests have equal keys, so a cell whose request is
    there need not be looked at again.
    """
    named = arm_settings(arm, sweep)
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
    companions, externals = companions_of(cache, externals, sweep)
    companions = tuple(in_order_of(one, cache.classes) for one in companions)
    posed = pose(cache, externals, sweep=sweep)
    cache, own = posed.cache, posed.externals
    experiment = draw_experiment(cache, sweep=sweep, draw_seed=draw_seed, allow_leak=allow_leak)
    _require_calibratable(experiment, sweep)
    views = stored_views(experiment, companions, sweep.conditions)
    shared_key = _shared_key(experiment, sweep, own, views)
    slices = find_slices(experiment, own, sweep)
    setting = setting_digest(cache, externals=own, sweep=sweep, companions=companions)
    wanted = group_cells(sweep) if only is None else only
    cells = _cells(sweep, shared_key, setting, draw_seed, wanted)
    missing = [cell for cell in cells if cell.key not in there]
    run = GroupRun([cell.key for cell in cells], [], [], [*posed.notes, *experiment.notes], [])
    if not missing:
        return run
    shared = shared or SharedOnce()
    of_rows = shared.of(experiment.training_features)
    loop = Loop(experiment, sweep, own, views, shared=of_rows)
    # One thread: the solver has its own, and small products gain nothing from two.
    with one_blas_thread():
        started = time.perf_counter()
        zero = loop.round_zero([cell.arm for cell in missing])
        shared_seconds = time.perf_counter() - started
        common = group_row(loop, recipe, shared_key) | {"results_version": NUMERICS}
        recorder = Recorder(experiment.cache.classes)
        for cell in missing:
            try:
                added, notes = _run_cell(cell, loop, recipe, zero, slices, common, shared_seconds)
            except Exception as error:
                if not keep_going:
                    raise
                run.failures.append((cell, error))
                continue
            recorder.add(added)  # whole: nothing is left of a cell that failed
            run.new.append(cell.key)
            run.notes += [note for note in notes if note not in run.notes]
        run.tables += [recorder.tables()] if run.new else []
    return run


def _require_calibratable(experiment: Experiment, sweep: SweepRecipe) -> None:
    if sweep.calibrator != SweepRecipe().calibrator and not len(experiment.validation):
        raise InputError(
            f"calibrator is {sweep.calibrator!r}, but {experiment.cache.name} has no validation "
            "rows to fit it on. Leave calibrator out, or give rows to a val split.",
            where="calibrator",
            found=sweep.calibrator,
        )


def _run_cell(
    cell: Cell,
    loop: Loop,
    recipe: Recipe,
    zero: Round,
    slices: Slices,
    common: dict[str, Any],
    shared_seconds: float,
) -> tuple[Recorder, list[str]]:
    experiment = loop.experiment
    started = time.perf_counter()
    budget = loop.budget(cell.arm, cell.budget)
    rounds = [zero, *loop.rounds(cell.arm, zero, budget=budget)]
    rounds[-1] = with_shift_figures(rounds[-1], experiment.cache.classes)
    row = common | cell_row(loop, recipe, rounds, cell, allowed=budget)
    row["seconds"] = shared_seconds + time.perf_counter() - started
    row, note = as_arm(row, experiment.cache)
    recorder = Recorder(experiment.cache.classes)
    recorder.add_cell(row)
    recorder.add_rounds(cell.key, cell.arm, experiment, rounds, loop.settings)
    recorder.add_slices(cell.key, rounds[-1], slices)
    notes = [note for state in rounds for note in state.notes]
    return recorder, notes + ([note] if note else [])


def write_samples(cache: Cache, results: Path) -> None:
    """Add the rows of a cache and what it knows of their manifest to `samples`, once."""
    columns = {
        "sample_id": cache.sample_id,
        "label": np.array([*cache.classes, None], dtype=object)[cache.label],
        "group_id": cache.group_id,
        "split": cache.split,
    }
    known = [cache.extra[MANIFEST_COLUMNS]] if MANIFEST_COLUMNS in cache.extra else []
    digest = digest_strings([cache.dataset, *map(digest_array, [*columns.values(), *known])])
    parts = part_path(results, "samples", "any").parent
    if not any(parts.glob(f"samples-*-{digest}.parquet")):
        dataset = np.full(len(cache), cache.dataset, dtype=object)
        columns |= sample_columns(manifest_columns(cache))
        # Named by time first, since of two parts with a sample the newest is shown.
        part = f"{new_part('samples')}-{digest}"
        write_part(results, {"samples": {"dataset": dataset, **columns}}, part=part)


def _cells(
    sweep: SweepRecipe,
    shared_key: str,
    setting: str,
    draw_seed: int,
    wanted: Sequence[tuple[Arm, str]],
) -> list[Cell]:
    cells = []
    for arm, budget in wanted:
        named = {"shared": shared_key, "arm": arm.text, "budget": budget}
        key = digest_json(named | arm_settings(arm, sweep))
        request = request_digest(setting, sweep=sweep, draw_seed=draw_seed, arm=arm, budget=budget)
        cells.append(Cell(arm, budget, key, request))
    return cells


def require_distinct(caches: Sequence[Cache]) -> None:
    """Raise when two caches would be told apart by nothing in a table."""
    names: dict[tuple[Any, ...], Cache] = {}
    for cache in caches:
        name = (cache.dataset, cache.recipe.get("name"), cache.backbone, cache.backbone_seed)
        other = names.setdefault(name, cache)
        if other.content_digest != cache.content_digest:
            raise InputError(
                f"{other.name} and {cache.name} are different, but both are data set "
                f"{cache.dataset!r}, recipe {name[1]!r}, seed {cache.backbone_seed}, so their rows "
                "could not be told apart. Run them with `results` of their own, or name the "
                "data sets (`trustq cache import` with `dataset`)."
            )


def _shared_key(
    experiment: Experiment,
    sweep: SweepRecipe,
    externals: tuple[Cache, ...],
    views: tuple[ViewRows, ...] = (),
) -> str:
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
            "head": [sweep.head, head_settings(sweep)],
            "folds": sweep.folds,
            "externals": sorted(cache.content_digest for cache in externals),
        }
        | further_settings(sweep)
        | plugin_settings(sweep)
        | metadata_setting(experiment.cache, externals, sweep=sweep)
        | ({"views": [view.digest for view in views]} if views else {})
    )
