"""Caches and the experiments on them: repair, sweeps, and the plan before either."""

import dataclasses
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from trustq.analysis.main_table import main_table
from trustq.analysis.repair_table import repair_table
from trustq.analysis.study_design import Plan, Question
from trustq.analysis.study_design import plan_sweep as plan_study
from trustq.api.frames import Source, Table, as_file
from trustq.api.results import Results
from trustq.core.prose import folded
from trustq.experiments import plan_sweep, run_sweep
from trustq.experiments import repair as run_repair
from trustq.recipes import Recipe, load_recipe, load_sweep, require_sweep
from trustq.report.plan import plan_page, plan_summary
from trustq.store import Cache, find_caches
from trustq.store import import_cache as import_file
from trustq.store import open_cache as open_file

Caches = Cache | Source | Sequence[Cache | Source]


def open_cache(path: str | Path) -> Cache:
    """A cache file, verified; or a file of embeddings with unknown exposure.

    Raises `TrustqError` for a damaged file or one of another kind.
    """
    return open_file(Path(path))


def import_cache(
    source: Source,
    *,
    exposure: str | None = None,
    names: dict[str, str] | None = None,
    dataset: str = "",
    ids: str | Path | None = None,
    meta: Sequence[str | Path] = (),
    normalize: str | None = None,
) -> Cache:
    """A cache, in memory, of embeddings: a file, a data frame or a mapping of arrays.

    Needs `features`, (n, d), and `labels`, (n,); optional are `logits` or `probs`, `sample_ids`,
    `groups`, `split`, `observed` and `classes` (in frames and tables `feature_*`, `logit_<class>`,
    `prob_<class>`). `exposure` states what labels the network of the features was trained on.
    `trustq.store.write_cache` writes it. Raises `TrustqError` for what is missing or does not fit.

    >>> import numpy as np
    >>> cache = import_cache(
    ...     {"features": np.eye(4), "labels": [0, 1, 0, 1]}, exposure="frozen", dataset="mine"
    ... )
    >>> cache.dataset, cache.exposure, len(cache)
    ('mine', 'frozen', 4)
    """
    with as_file(source, names) as path:
        cache = import_file(
            path,
            exposure=exposure,
            names=names,
            dataset=dataset,
            ids=None if ids is None else Path(ids),
            meta=[Path(table) for table in meta],
            normalize=normalize,
        )
    return cache if isinstance(source, str | Path) else dataclasses.replace(cache, path=None)


class ExperimentReport:
    """What a repair or a sweep did: `table`, `notes`, `failures`, and its `results` to query.

    `table` has a row for each arm and budget with all that is known of it, `shown` the columns that
    people read first. `keys` are those of every run that was asked for; `n_new` were not there
    before.
    """

    def __init__(
        self,
        results: Results,
        *,
        rows: Sequence[dict[str, Any]],
        shown: Sequence[dict[str, Any]],
        keys: Sequence[str],
        n_new: int,
        notes: Sequence[str],
        failures: Sequence[str] = (),
    ) -> None:
        self.results = results
        self.table = Table.of_rows([_flat(row) for row in rows])
        self.shown = Table.of_rows(shown)
        self.keys = tuple(keys)
        self.n_new = n_new
        self.notes = tuple(notes)
        self.failures = tuple(failures)

    def to_pandas(self) -> Any:
        """`table` as a pandas data frame."""
        return self.table.to_pandas()

    def to_polars(self) -> Any:
        """`table` as a polars data frame."""
        return self.table.to_polars()

    def __repr__(self) -> str:
        return "\n".join([repr(self.shown), *(f"Note: {note}" for note in self.notes)])

    def _repr_html_(self) -> str:
        return self.shown._repr_html_()


def repair(
    caches: Caches,
    *,
    recipe: str | Path | Recipe = "",
    results: str | Path = "results",
    external: Caches = (),
    allow_leak: bool = False,
    progress: Callable[[int, int], None] | None = None,
    **settings: Any,
) -> ExperimentReport:
    """Buy the labels that each arm finds suspicious, fit again, compare.

    `caches` are caches, paths, patterns, data frames or mappings of arrays, one or several.
    `recipe` is a packaged recipe, a TOML file or a `Recipe`; `settings` are its keys (`arms=`,
    `budgets=`, `noise=`, `draws=`, `head=`, ...). Everything is recorded in the folder `results`;
    runs that are there already are not run again. `table` has a row for each arm and budget.
    Raises `TrustqError` for an experiment that would not be honest.
    """
    chosen = recipe if isinstance(recipe, Recipe) else load_recipe(str(recipe), part="sweep")
    if settings:
        chosen = _with_settings(chosen, settings)
    folder = Path(results)
    run = run_repair(
        _opened(caches),
        recipe=chosen,
        results=folder,
        externals=_opened(external),
        allow_leak=allow_leak,
        progress=progress,
    )
    table = repair_table(folder, run.keys)
    return ExperimentReport(
        Results(folder),
        rows=table.records,
        shown=table.rows,
        keys=run.keys,
        n_new=run.n_new,
        notes=run.notes,
    )


def sweep(
    recipe: str | Path | Sequence[Recipe] = "",
    *,
    results: str | Path = "results",
    jobs: int = 0,
    scheduler: str = "",
    allow_leak: bool = False,
    progress: Callable[[int, int, int], None] | None = None,
    **settings: Any,
) -> ExperimentReport:
    """Run every point of a recipe's grid on its caches that is not there yet.

    `settings` are keys of the recipe, a list where one value is expected makes a grid
    (`caches="cache/digits/frozen/seed*.h5", rounds=[1, 4]`). `jobs` processes share the work (0:
    one per core), or a Dask cluster at `scheduler`. A run that fails stands in `failures` and the
    others go on. `table` compares the arms of all points. Raises `TrustqError` as `repair` does.
    """
    if isinstance(recipe, str | Path):
        require_sweep(str(recipe))
        points = load_sweep(str(recipe), values=settings)
    else:
        points = list(recipe)
    folder = Path(results)
    run = run_sweep(
        plan_sweep(points, results=folder),
        results=folder,
        jobs=jobs,
        scheduler=scheduler,
        allow_leak=allow_leak,
        progress=progress,
    )
    rows = main_table(folder, keys=list(run.keys)).rows if run.keys else ()
    found = [
        row.texts
        | {name: figure.mean for name, figure in row.figures.items()}
        | {f"{name}_sd": figure.sd for name, figure in row.figures.items()}
        for row in rows
    ]
    return ExperimentReport(
        Results(folder),
        rows=found,
        shown=found,
        keys=run.keys,
        n_new=run.n_new,
        notes=run.notes,
        failures=run.failures,
    )


class PlanReport:
    """What a design could show: `summary` as a dict, `budgets` as a table, `page` as text."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan

    @property
    def summary(self) -> dict[str, Any]:
        """Everything that was found, as JSON would have it."""
        return plan_summary(self.plan)

    @property
    def budgets(self) -> Table:
        """One row a budget: labels, minutes, and whether it can answer."""
        return Table.of_rows(self.summary["budgets"])

    @property
    def page(self) -> str:
        """The plan as text."""
        return plan_page(self.plan)

    def to_pandas(self) -> Any:
        """`budgets` as a pandas data frame."""
        return self.budgets.to_pandas()

    def to_polars(self) -> Any:
        """`budgets` as a polars data frame."""
        return self.budgets.to_polars()

    def __repr__(self) -> str:
        return folded(self.page)

    def _repr_html_(self) -> str:
        return self.budgets._repr_html_()


def plan(
    recipe: str | Path | Recipe = "",
    caches: Caches = (),
    *,
    results: str | Path | None = None,
    backbones: int | None = None,
    metric: str = "accuracy",
    baseline: str = "random",
    effect: float | None = None,
    minutes_per_label: float = math.nan,
    alpha: float = 0.05,
    power: float = 0.8,
    **settings: Any,
) -> PlanReport:
    """What a sweep can detect before it runs, what there is to gain, and what labels cost.

    A short pilot runs on `caches`, or earlier `results` stand in for it; without either,
    `backbones` says how many networks there will be. Raises `TrustqError` for an unknown recipe.

    >>> plan("reference-study", backbones=5).plan.floor
    0.0625
    """
    chosen = recipe if isinstance(recipe, Recipe) else load_recipe(str(recipe), part="sweep")
    if settings:
        chosen = _with_settings(chosen, settings)
    return PlanReport(
        plan_study(
            chosen,
            _opened(caches),
            results=None if results is None else Path(results),
            backbones=backbones,
            minutes_per_label=minutes_per_label,
            question=Question(
                metric=metric, baseline=baseline, effect=effect, alpha=alpha, power=power
            ),
        )
    )


def _opened(caches: Caches) -> list[Cache]:
    opened: list[Cache] = []
    for one in caches if isinstance(caches, list | tuple) else [caches]:
        if isinstance(one, Cache):
            opened.append(one)
        elif isinstance(one, str | Path):
            opened += [open_file(path) for path in find_caches([one])]
        else:
            opened.append(import_cache(one))
    return opened


def _with_settings(recipe: Recipe, settings: dict[str, Any]) -> Recipe:
    """A recipe with some keys of its sweep set anew, checked as in a file."""
    own = load_recipe("", values=settings, part="sweep").sweep
    set_anew = {name: getattr(own, name) for name in settings}
    return dataclasses.replace(recipe, sweep=dataclasses.replace(recipe.sweep, **set_anew))


def _flat(row: dict[str, Any]) -> dict[str, Any]:
    """A row whose cells are single values: of a dict each entry is a column, a list is text."""
    flat: dict[str, Any] = {}
    for name, value in row.items():
        if isinstance(value, dict):
            flat |= {f"{name}_{key}": inner for key, inner in value.items()}
        else:
            flat[name] = ", ".join(map(str, value)) if isinstance(value, list) else value
    return flat
