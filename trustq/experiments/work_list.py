"""What a sweep has to do: the groups of cells that its recipes ask of their caches."""

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from trustq.errors import InputError
from trustq.experiments.run import (
    companions_of,
    request_digest,
    require_distinct,
    setting_digest,
)
from trustq.recipes import Recipe, SweepRecipe
from trustq.repair.arms import Arm
from trustq.repair.metadata import fitted_rows
from trustq.repair.relabelling import pose
from trustq.repair.settings import group_cells, require_noise, require_sound
from trustq.results import committed_cells
from trustq.store import Cache, find_caches, in_first_order, open_cache
from trustq.store.concat import stand_side_by_side


@dataclass(frozen=True)
class AskedCell:
    """A cell that is to be run."""

    arm: Arm
    budget: str
    request: str


@dataclass(frozen=True)
class Group:
    """Cells of one cache, draw and grid point that share round 0: the unit of work."""

    caches: tuple[Path, ...]  # one, or several whose features stand side by side
    classes: tuple[str, ...]  # in the order of the data set's first cache
    cache_digest: str
    dataset: str
    backbone_seed: int
    externals: tuple[tuple[Path, ...], ...]  # likewise
    recipe: Recipe
    draw_seed: int
    cells: tuple[AskedCell, ...]

    @property
    def cache(self) -> str:
        """The cache's files, as results name them."""
        return " + ".join(map(str, self.caches))

    @property
    def short_name(self) -> str:
        """Their names without folders."""
        return " + ".join(path.name for path in self.caches)


@dataclass(frozen=True)
class SweepPlan:
    """Groups that are to be run, the keys of the cells that are there, and the points asked for."""

    groups: tuple[Group, ...]
    there: tuple[str, ...]
    points: tuple[Recipe, ...]

    @property
    def n_cells(self) -> int:
        """Cells to be run."""
        return sum(len(group.cells) for group in self.groups)


def plan_sweep(
    points: Sequence[Recipe],
    *,
    results: Path,
    opened: Callable[[Path], Cache] = open_cache,
) -> SweepPlan:
    """Expand the points of a recipe over their caches and draws; leave out what is there.

    A cell that several points ask for is run once. Groups are ordered by cache. Raises
    `TrustqError`, before anything runs, for points without caches, patterns that match nothing,
    arms, budgets, noises and metadata that are none, caches of one data set that differ in their
    classes or cannot be told apart, and externals of other networks.
    """
    shelf: dict[Path, Cache] = {}

    def found(patterns: Sequence[str]) -> list[Cache]:
        paths = [path.resolve() for path in find_caches(patterns)]
        for path in paths:
            if path not in shelf:
                shelf[path] = _without_arrays(opened(path))
        return [shelf[path] for path in paths]

    there = {request: key for key, request in committed_cells(results).items() if request}
    groups, skipped = [], []
    planned: set[str] = set()
    used: list[Cache] = []
    for point in map(_with_whole_paths, points):
        sweep = point.sweep
        if not sweep.caches:
            raise InputError(
                f"Recipe {point.name} names no caches. Add `caches = [...]` to its [sweep], or "
                "`caches=PATTERN`."
            )
        require_sound(sweep)
        caches, externals = stand_side_by_side(
            found(sweep.caches), found(sweep.external), how=sweep.concat
        )
        caches = in_first_order(caches)
        used += [*caches, *externals]
        _require_same_classes(caches)
        wanted = group_cells(sweep)
        for cache in caches:
            companions, others = companions_of(cache, externals, sweep)
            posed = pose(cache, others, sweep=sweep)
            fitted_rows(cache, sweep=sweep)
            require_noise(sweep, posed.cache.classes)
            own = posed.externals
            setting = setting_digest(cache, externals=own, sweep=sweep, companions=companions)
            for draw_seed in range(sweep.draw_seed, sweep.draw_seed + sweep.draws):
                asked = _asked(wanted, setting, sweep, draw_seed)
                new = {cell.request: cell for cell in asked if cell.request not in planned}
                fresh = list(new.values())
                planned.update(cell.request for cell in fresh)
                skipped += [there[cell.request] for cell in fresh if cell.request in there]
                cells = [cell for cell in fresh if cell.request not in there]
                if cells:
                    groups.append(_group(cache, (*companions, *own), point, draw_seed, cells))
    require_distinct(used)
    groups.sort(key=lambda group: group.cache)  # stable: points and draws keep their order
    return SweepPlan(tuple(groups), tuple(skipped), tuple(points))


def _asked(
    wanted: Sequence[tuple[Arm, str]], setting: str, sweep: SweepRecipe, draw_seed: int
) -> list[AskedCell]:
    found = []
    for arm, budget in wanted:
        request = request_digest(setting, sweep=sweep, draw_seed=draw_seed, arm=arm, budget=budget)
        found.append(AskedCell(arm, budget, request))
    return found


def _group(
    cache: Cache,
    externals: Sequence[Cache],
    point: Recipe,
    draw_seed: int,
    cells: Sequence[AskedCell],
) -> Group:
    return Group(
        caches=cache.files,
        classes=cache.classes,
        cache_digest=cache.content_digest,
        dataset=cache.dataset,
        backbone_seed=cache.backbone_seed,
        externals=tuple(other.files for other in externals),
        recipe=point,
        draw_seed=draw_seed,
        cells=tuple(cells),
    )


def _with_whole_paths(point: Recipe) -> Recipe:
    # The workers of a cluster have folders of their own.
    metadata = tuple(str(Path(path).resolve()) for path in point.sweep.metadata)
    return dataclasses.replace(point, sweep=dataclasses.replace(point.sweep, metadata=metadata))


def _without_arrays(cache: Cache) -> Cache:
    # A plan knows many caches at once, and of none the large arrays.
    return dataclasses.replace(
        cache, features=np.empty((len(cache), 0), np.float32), logits=None, extra={}
    )


def _require_same_classes(caches: Sequence[Cache]) -> None:
    first: dict[str, Cache] = {}
    for cache in caches:
        other = first.setdefault(cache.dataset, cache)
        if other.classes != cache.classes:
            raise InputError(
                f"{other.name} and {cache.name} are both of data set {cache.dataset!r}, but their "
                f"classes are {', '.join(other.classes)} and {', '.join(cache.classes)}. Extract "
                "them from one manifest, or run them as two sweeps."
            )
