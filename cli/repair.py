"""`trustq repair`: which labels to buy, and what it changes."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from trustq.core.counts import counted

from .app import print_remark
from .options import FeatureArrays, Progress
from .output import print_note, print_repair_table, progress, resumable
from .sweep_options import with_sweep_settings


@dataclass
class Written:
    """Where results go, and how the table is printed."""

    results: Annotated[Path, typer.Option(help="Folder for the result tables.")] = Path("results")
    allow_leak: Annotated[
        bool, typer.Option("--allow-leak", help="Run a dishonest experiment, marked as leaky.")
    ] = False
    as_json: Annotated[bool, typer.Option("--json", help="Print the table as JSON.")] = False


def _repair(
    caches: Annotated[
        list[str],
        typer.Argument(help="Cache files, folders, quoted patterns, or an npz of embeddings."),
    ],
    recipe: Annotated[str, typer.Option(help="Packaged recipe or TOML file.")] = "",
    *,
    values: dict[str, Any],
    arrays: FeatureArrays,
    shown: Progress,
    written: Written,
    external: Annotated[
        list[str] | None,
        typer.Option(help="Caches of other images by the same networks; may be repeated."),
    ] = None,
    settings: Annotated[
        list[str] | None, typer.Option("--set", help="Any recipe key, e.g. --set folds=10.")
    ] = None,
) -> None:
    """Buy the labels each arm finds suspicious, fit again, compare.

    Noise is put on known labels, so that every purchase can be checked. The table goes to stdout,
    all rows of it to RESULTS for `trustq sql`.

    Example: trustq repair demo/cache/digits/frozen --arms none,random,self_confidence --budget 15%
    --draws 10
    """
    from trustq.experiments import repair as run_repair
    from trustq.recipes import load_recipe
    from trustq.report import repair_table
    from trustq.store import find_caches, open_cache

    chosen = load_recipe(recipe, values=values, settings=settings or [], part="sweep")
    opened = [
        open_cache(path, names=arrays.names, normalize=arrays.normalize)
        for path in find_caches(caches)
    ]
    outside = [open_cache(path) for path in find_caches(external or [])]
    with (
        resumable(f"Runs so far stay in {written.results}; the same command goes on from there."),
        progress("repair", "runs") as report,
    ):
        run = run_repair(
            opened,
            recipe=chosen,
            results=written.results,
            externals=outside,
            allow_leak=written.allow_leak,
            progress=report,
        )
    for note in run.notes:
        print_note(note)
    old = len(run.keys) - run.n_new
    print_remark(
        f"{counted(run.n_new, 'new run')}, {old} were there already; results in {written.results}\n"
    )
    table = repair_table(written.results, run.keys)
    if written.as_json:
        typer.echo(json.dumps({"notes": run.notes, "arms": table.records}, indent=2))
        return
    print_repair_table(table)


repair = with_sweep_settings(_repair, left_out=("caches", "external"))
