"""`trustq sweep`: every cell of a recipe, on all cores or a cluster."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from trustq.core.counts import counted
from trustq.core.prose import say

from .app import print_remark
from .options import Progress
from .output import print_note, print_table, progress, resumable, terminal_width

_SHOWN_FAILURES = 5


@dataclass
class Runs:
    """How runs are shared out."""

    jobs: Annotated[int, typer.Option(help="Processes; 0 = one per core.")] = 0
    scheduler: Annotated[
        str, typer.Option(help="Run on the Dask cluster at this address, tcp://HOST:8786.")
    ] = ""
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="List the runs and their time; run none.")
    ] = False
    show_recipes: Annotated[
        bool, typer.Option("--list", help="List the packaged recipes that are sweeps.")
    ] = False
    allow_leak: Annotated[
        bool, typer.Option("--allow-leak", help="Run dishonest experiments, marked as leaky.")
    ] = False


@dataclass
class Told:
    """Where results go, and how the end is told."""

    results: Annotated[Path, typer.Option(help="Folder for the result tables.")] = Path("results")
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False


def sweep(
    runs: Runs,
    quietly: Progress,
    told: Told,
    recipe: Annotated[str, typer.Argument(help="Packaged recipe or TOML file.")] = "",
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", help="Any key, e.g. --set caches=PATTERN --set rounds=[1,4]."),
    ] = None,
    metadata: Annotated[
        list[Path] | None,
        typer.Option(help="Manifest, or table with sample_id, of columns named; repeatable."),
    ] = None,
    target: Annotated[
        str | None, typer.Option(help="Metadata column of the labels, e.g. malignant.")
    ] = None,
) -> None:
    """Run every cell that a recipe asks for and that is not there yet.

    A recipe's [sweep] names caches; a list where one value is expected makes a grid. A stopped
    sweep goes on where it stopped; a cell that fails is recorded in the table failures and the
    others go on.

    Example: trustq sweep score-comparison --set 'caches=demo/cache/digits/frozen/seed*.h5' --set
    noise=symmetric:0.2 --set draws=1 --jobs 2
    """
    import json

    from trustq.errors import InputError
    from trustq.recipes import load_sweep, packaged_sweeps, require_sweep

    if runs.show_recipes:
        known = [{"recipe": name, "title": title} for name, title in packaged_sweeps().items()]
        typer.echo(json.dumps(known, indent=2)) if told.as_json else print_table(known)
        return
    values: dict[str, Any] = {"metadata": [str(path) for path in metadata]} if metadata else {}
    if target is not None:
        values["target"] = target
    if not recipe and not settings and not values:
        raise typer.BadParameter("name a recipe (--list shows the packaged ones).")
    from trustq.experiments import plan_sweep

    require_sweep(recipe)
    plan = plan_sweep(
        load_sweep(recipe, values=values, settings=settings or []), results=told.results
    )
    print_remark(f"{counted(plan.n_cells, 'run')} to do, {len(plan.there)} are there already")
    if runs.dry_run:
        _show_plan(plan, told.results, runs.jobs, told.as_json)
        return
    run = _run(plan, runs, told.results)
    for note in run.notes:
        print_note(note)
    _compact(told.results)
    _report(run, told.results, told.as_json)
    if run.failures:
        shown = "\n".join(run.failures[:_SHOWN_FAILURES])
        raise InputError(
            f"{counted(len(run.failures), 'run')} failed; the others are committed.\n{shown}\n"
            f'All of them: trustq sql "SELECT * FROM failures" --results {told.results}. '
            "The same command tries them again."
        )


def _run(plan: Any, runs: Runs, results: Path) -> Any:
    from trustq.experiments import run_sweep

    with (
        resumable(f"Committed runs stay in {results}; the same command goes on from there."),
        progress("sweep", "runs") as report,
    ):
        return run_sweep(
            plan,
            results=results,
            jobs=runs.jobs,
            scheduler=runs.scheduler,
            allow_leak=runs.allow_leak,
            progress=report,
        )


def _show_plan(plan: Any, results: Path, jobs: int, as_json: bool) -> None:
    import json

    import joblib

    from trustq.experiments import estimate_seconds
    from trustq.recipes.schema import plain, sweep_settings

    seconds = estimate_seconds(plan, results=results)
    # A setting has a column where the points of the grid differ in it, or set it.
    always = ("noise", "head", "rounds", "arms", "budgets", "draws", "draw_seed", "caches")
    named = [
        s.name
        for s in sweep_settings()
        if s.name not in always
        and any(getattr(g.recipe.sweep, s.name) != s.default for g in plan.groups)
    ]
    cells = [
        {
            "cache": group.short_name,
            "dataset": group.dataset,
            "draw": group.draw_seed,
            "noise": group.recipe.sweep.noise,
            "head": group.recipe.sweep.head,
            **{name: plain(getattr(group.recipe.sweep, name)) for name in named},
            "arm": cell.arm.text,
            "budget": cell.budget,
            "rounds": group.recipe.sweep.rounds,
        }
        for group in plan.groups
        for cell in group.cells
    ]
    if as_json:
        typer.echo(json.dumps({"runs": cells, "core_seconds": seconds}, indent=2))
        return
    print_table(cells)
    workers = jobs or joblib.cpu_count()
    say(
        f"{counted(len(cells), 'run')}, about {seconds:.0f} s of one core, "
        f"{seconds / workers:.0f} s on "
        f"{workers}"
    )


def _report(run: Any, results: Path, as_json: bool) -> None:
    import json

    print_remark(f"{counted(run.n_new, 'new run')}; results in {results}\n")
    if as_json:
        answer = {"n_new": run.n_new, "n_runs": len(run.keys), "failures": run.failures}
        typer.echo(json.dumps(answer | {"notes": run.notes}, indent=2))
    elif run.keys:
        from trustq.analysis.main_table import main_table
        from trustq.report import format_main_table

        found = main_table(results, keys=run.keys)
        typer.echo(format_main_table(found, "table", width=terminal_width()))


def _compact(results: Path) -> None:
    from trustq.results import compact

    merged = compact(results, wait=False)
    if merged:
        print_remark(f"{merged} parts were merged (trustq results clean deletes them)")
