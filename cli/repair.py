"""`trustq repair`: which labels to buy, and what it changes."""

import json
from pathlib import Path
from typing import Annotated

import typer

from .output import print_repair_table, progress


def repair(
    caches: Annotated[
        list[str],
        typer.Argument(help="Cache files, folders, quoted patterns, or an npz of embeddings."),
    ],
    recipe: Annotated[str, typer.Option(help="Packaged recipe or TOML file.")] = "",
    noise: Annotated[
        str | None,
        typer.Option(
            help="symmetric:RATE, reference, matrix:FILE, stored or none "
            "[default: the cache's own, else symmetric:0.2]."
        ),
    ] = None,
    trusted: Annotated[
        str | None, typer.Option(help="Share of labels trusted from the start, or stored.")
    ] = None,
    arms: Annotated[
        str | None,
        typer.Option(
            help="Comma-separated SCORE[@SOURCE]; scores none, random, oracle, self_confidence, "
            "normalized_margin, entropy; sources head, crossfit, in_sample."
        ),
    ] = None,
    head: Annotated[
        str | None,
        typer.Option(
            help="linear, balanced, xgboost, xgboost_study, knn, centroid, lda, ridge, mlp, "
            "majority, prior or backbone."
        ),
    ] = None,
    budget: Annotated[
        str | None, typer.Option(help="Comma-separated labels to buy: 64, 5%, all-wrong.")
    ] = None,
    rounds: Annotated[int | None, typer.Option(help="Parts in which a budget is bought.")] = None,
    draws: Annotated[
        int | None, typer.Option(help="Draws of noise, folds and purchases per cache.")
    ] = None,
    draw_seed: Annotated[int | None, typer.Option(help="First draw seed.")] = None,
    rows: Annotated[
        str | None, typer.Option(help="split, or unseen: rows the backbone never saw, split anew.")
    ] = None,
    external: Annotated[
        list[str] | None,
        typer.Option(help="Caches of other images by the same networks; may be repeated."),
    ] = None,
    settings: Annotated[
        list[str] | None, typer.Option("--set", help="Any recipe key, e.g. --set folds=10.")
    ] = None,
    results: Annotated[Path, typer.Option(help="Folder for the result tables.")] = Path("results"),
    allow_leak: Annotated[
        bool, typer.Option("--allow-leak", help="Run a dishonest experiment, marked as leaky.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the table as JSON.")] = False,
) -> None:
    """Buy the labels each arm finds suspicious, fit again, compare.

    Noise is put on known labels, so that every purchase can be checked. The table goes to stdout,
    all rows of it to RESULTS for `trustq sql`.

    Example: trustq repair cache/digits/frozen --arms none,random,self_confidence --budget 15%
    --draws 10
    """
    from trustq.recipes import load_recipe
    from trustq.repair import repair as run_repair
    from trustq.report import repair_table
    from trustq.store import find_caches, open_cache

    sugar = {
        "noise": noise,
        "trusted": trusted,
        "arms": arms,
        "head": head,
        "budgets": budget,
        "rounds": rounds,
        "draws": draws,
        "draw_seed": draw_seed,
        "rows": rows,
    }
    given = [f"sweep.{key}={value}" for key, value in sugar.items() if value is not None]
    chosen = load_recipe(recipe, settings=[*given, *(settings or [])], part="sweep")
    opened = [open_cache(path) for path in find_caches(caches)]
    outside = [open_cache(path) for path in find_caches(external or [])]
    with progress("repair", "cells") as report:
        run = run_repair(
            opened,
            recipe=chosen,
            results=results,
            externals=outside,
            allow_leak=allow_leak,
            progress=report,
        )
    for note in run.notes:
        typer.echo(f"Note: {note}", err=True)
    old = len(run.keys) - run.n_new
    typer.echo(f"{run.n_new} cells run, {old} were there already; results in {results}\n", err=True)
    table = repair_table(results, run.keys)
    if as_json:
        typer.echo(json.dumps({"notes": run.notes, "arms": table.records}, indent=2))
        return
    print_repair_table(table)
