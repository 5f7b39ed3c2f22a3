"""`trustq repair`: which labels to buy, and what it changes."""

import json
from pathlib import Path
from typing import Annotated

import typer

from .app import print_remark
from .options import (
    Classes,
    Features,
    Groups,
    Labels,
    Logits,
    NoProgress,
    Normalize,
    Probs,
    Quiet,
    SampleIds,
    named,
)
from .output import print_note, print_repair_table, progress


def repair(
    caches: Annotated[
        list[str],
        typer.Argument(help="Cache files, folders, quoted patterns, or an npz of embeddings."),
    ],
    recipe: Annotated[str, typer.Option(help="Packaged recipe or TOML file.")] = "",
    noise: Annotated[
        str | None,
        typer.Option(
            help="symmetric:RATE, instance:RATE, reference, matrix:FILE, file:OBSERVED.csv, stored "
            "or none [default: the cache's own, else symmetric:0.2]."
        ),
    ] = None,
    noise_unit: Annotated[
        str | None, typer.Option(help="image, or group: relatives are mislabelled together.")
    ] = None,
    trusted: Annotated[
        str | None, typer.Option(help="Share of labels trusted from the start, or stored.")
    ] = None,
    arms: Annotated[
        str | None,
        typer.Option(
            help="Comma-separated SCORE[@SOURCE][:ACTION]; scores none, random, oracle, "
            "self_confidence, normalized_margin, confident_learning, knn_agreement, entropy, ...; "
            "sources head, heads, crossfit, passes, in_sample; actions relabel, drop, reweight."
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
    buy_unit: Annotated[
        str | None,
        typer.Option(help="image, or group: one purchase covers it, and budgets count groups."),
    ] = None,
    cost: Annotated[
        str | None,
        typer.Option(
            help="Cost per label by observed class (mel=3,bkl=2), or a CSV; budgets "
            "are then in cost units."
        ),
    ] = None,
    class_cap: Annotated[
        str | None,
        typer.Option(help="Maximum rows per class that a scoring arm may select: 10, 20%."),
    ] = None,
    answers: Annotated[
        str | None, typer.Option(help="People's answers, sample_id,label; only these are repaired.")
    ] = None,
    references: Annotated[
        bool, typer.Option(help="Run random and oracle beside every scored arm.")
    ] = True,
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
    metadata: Annotated[
        list[Path] | None,
        typer.Option(help="Manifest, or table with sample_id, of the columns below; repeatable."),
    ] = None,
    target: Annotated[
        str | None,
        typer.Option(help="Column of the labels, e.g. malignant [default: the cache's]."),
    ] = None,
    fit_on: Annotated[
        str | None,
        typer.Option(
            help="Fit heads only on train and val rows where COLUMN=VALUE,... or COLUMN!=VALUE,..."
        ),
    ] = None,
    row_weights: Annotated[
        str | None, typer.Option(help="Sample weights for fitting: none or domain_balanced.")
    ] = None,
    slices: Annotated[
        str | None, typer.Option(help="Columns to slice by, separated by commas.")
    ] = None,
    ages: Annotated[str | None, typer.Option(help="Column of ages, in bands of years.")] = None,
    positive: Annotated[
        str | None,
        typer.Option(help="Classes pooled into the positive class in slices: mel,bcc,akiec."),
    ] = None,
    settings: Annotated[
        list[str] | None, typer.Option("--set", help="Any recipe key, e.g. --set folds=10.")
    ] = None,
    features: Features = None,
    labels: Labels = None,
    probs: Probs = None,
    logits: Logits = None,
    sample_ids: SampleIds = None,
    groups: Groups = None,
    classes: Classes = None,
    normalize: Normalize = None,
    results: Annotated[Path, typer.Option(help="Folder for the result tables.")] = Path("results"),
    allow_leak: Annotated[
        bool, typer.Option("--allow-leak", help="Run a dishonest experiment, marked as leaky.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the table as JSON.")] = False,
    quiet: Quiet = False,
    no_progress: NoProgress = False,
) -> None:
    """Buy the labels each arm finds suspicious, fit again, compare.

    Noise is put on known labels, so that every purchase can be checked. The table goes to stdout,
    all rows of it to RESULTS for `trustq sql`.

    Example: trustq repair cache/digits/frozen --arms none,random,self_confidence --budget 15%
    --draws 10
    """
    from trustq.experiments import repair as run_repair
    from trustq.recipes import load_recipe
    from trustq.report import repair_table
    from trustq.store import find_caches, open_cache

    sugar = {
        "noise": noise,
        "noise_unit": noise_unit,
        "trusted": trusted,
        "arms": arms,
        "head": head,
        "budgets": budget,
        "buy_unit": buy_unit,
        "cost": cost,
        "class_cap": class_cap,
        "answers": answers,
        "references": None if references else "false",
        "rounds": rounds,
        "draws": draws,
        "draw_seed": draw_seed,
        "rows": rows,
        "metadata": json.dumps([str(path) for path in metadata]) if metadata else None,
        "target": target,
        "fit_on": fit_on,
        "row_weights": row_weights,
        "slices": slices,
        "ages": ages,
        "positive": positive,
    }
    given = [f"sweep.{key}={value}" for key, value in sugar.items() if value is not None]
    chosen = load_recipe(recipe, settings=[*given, *(settings or [])], part="sweep")
    names = named(
        features=features,
        labels=labels,
        probs=probs,
        logits=logits,
        sample_ids=sample_ids,
        groups=groups,
        classes=classes,
    )
    opened = [open_cache(path, names=names, normalise=normalize) for path in find_caches(caches)]
    outside = [open_cache(path) for path in find_caches(external or [])]
    with progress("repair", "runs") as report:
        run = run_repair(
            opened,
            recipe=chosen,
            results=results,
            externals=outside,
            allow_leak=allow_leak,
            progress=report,
        )
    for note in run.notes:
        print_note(note)
    old = len(run.keys) - run.n_new
    print_remark(f"{run.n_new} new runs, {old} were there already; results in {results}\n")
    table = repair_table(results, run.keys)
    if as_json:
        typer.echo(json.dumps({"notes": run.notes, "arms": table.records}, indent=2))
        return
    print_repair_table(table)
