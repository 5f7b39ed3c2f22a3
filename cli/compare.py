"""`trustq compare`: paired figures of two or more models, or of arms of a results folder."""

from pathlib import Path
from typing import Annotated, Any

import typer

from .options import Classes, Groups, Labels, Logits, Normalize, Probs, SampleIds
from .output import write_or_print


def compare(
    models: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[NAME=FILE...]",
            help="The first is compared with each other; NAME=FILE:ARRAY picks an array of an npz. "
            "None: the --arms of --results.",
        ),
    ] = None,
    arms: Annotated[
        str | None, typer.Option(help="Arms of --results, the compared one first: a,b,c.")
    ] = None,
    results: Annotated[Path, typer.Option(help="Folder of result tables.")] = Path("results"),
    split: Annotated[str, typer.Option(help="Evaluated rows of --results.")] = "test",
    stage: Annotated[str, typer.Option(help="calibrated or uncalibrated.")] = "calibrated",
    budget: Annotated[
        str | None, typer.Option(help="Budget of --results, where several were run.")
    ] = None,
    eval_dataset: Annotated[
        str | None, typer.Option(help="Evaluated data set of --results [default: its own].")
    ] = None,
    where: Annotated[
        str, typer.Option(help="Cells of --results, in SQL, e.g. \"head = 'linear'\".")
    ] = "",
    metrics: Annotated[
        str | None, typer.Option(help="Figures of --arms, e.g. accuracy,aurc [default: all].")
    ] = None,
    format: Annotated[str, typer.Option(help="Of --arms: markdown, csv or latex.")] = "markdown",
    out: Annotated[Path | None, typer.Option(help="File to write instead of printing.")] = None,
    same_rows: Annotated[
        bool, typer.Option("--same-rows", help="Files have the same rows in the same order.")
    ] = False,
    meta: Annotated[
        list[Path] | None, typer.Option(help="Table to join by id; may be given again.")
    ] = None,
    labels: Labels = None,
    probs: Probs = None,
    logits: Logits = None,
    sample_ids: SampleIds = None,
    groups: Groups = None,
    classes: Classes = None,
    normalize: Normalize = None,
    intervals: Annotated[
        str, typer.Option(help="Of files: student, or a bootstrap: percentile or bca.")
    ] = "student",
    replicates: Annotated[int, typer.Option(help="Replicates of a bootstrap.")] = 10_000,
    seed: Annotated[int, typer.Option(help="Seed of the bootstrap.")] = 0,
    json: Annotated[bool, typer.Option("--json", help="Print JSON instead of the page.")] = False,
) -> None:
    """Compare models on the same rows: paired intervals over groups, and McNemar's test.

    With --arms, arms of a results folder: intervals for seeds and groups at once, sign-flip tests
    with their floor, and Holm over the table.

    Example: trustq compare A=a.npz B=b.npz

    Example: trustq compare --arms self_confidence,random --results results
    """
    from trustq.errors import InputError

    if bool(models) == bool(arms):
        raise InputError(
            "Name two models (A=a.npz B=b.npz), or arms of a results folder "
            "(--arms self_confidence,random --results results)" + (", not both." if arms else ".")
        )
    if arms:
        chosen = [name.strip() for name in arms.split(",") if name.strip()]
        text = _arms(
            chosen,
            format="json" if json else format,
            results=results,
            split=split,
            stage=stage,
            budget=budget,
            eval_dataset=eval_dataset,
            where=where,
            seed=seed,
            **({"figures": [m.strip() for m in metrics.split(",")]} if metrics else {}),
        )
        _put(text, out)
        return
    from trustq.evaluation.compare_models import compare_models, comparison_page
    from trustq.evaluation.predictions import read_predictions
    from trustq.report.text import to_json

    given = {
        "labels": labels,
        "probs": probs,
        "logits": logits,
        "sample_ids": sample_ids,
        "groups": groups,
        "classes": classes,
    }
    names = {name: value for name, value in given.items() if value is not None}
    read = {}
    for model in models or []:
        name, equals, file = model.partition("=")
        if not equals or not name or not file:
            raise InputError(f"{model!r} is not of the form NAME=FILE, e.g. A=a.npz.")
        if name in read:
            raise InputError(f"Two models are called {name}: give each a name of its own.")
        path, _, array = file.rpartition(":")
        own = names
        if path.endswith(".npz"):
            file, own = path, names | {"probs": array}
        read[name] = read_predictions(Path(file), names=own, meta=meta or [], normalize=normalize)
    found = compare_models(
        read, same_rows=same_rows, seed=seed, replicates=replicates, intervals=intervals
    )
    _put(to_json(found.as_dict()) if json else comparison_page(found), out)


def _arms(chosen: list[str], *, format: str, results: Path, **options: Any) -> str:
    from dataclasses import asdict

    from trustq.analysis.compare_arms import arm_table, compare_arms, format_arm_table
    from trustq.errors import InputError
    from trustq.report.text import to_json

    if len(chosen) < 2:
        raise InputError(f"--arms {','.join(chosen)}: name at least two, the compared one first.")
    found = [compare_arms(results, chosen[0], other, **options) for other in chosen[1:]]
    if format == "json":
        return to_json([asdict(row) for row in arm_table(found)])
    return format_arm_table(found, format)


def _put(text: str, out: Path | None) -> None:

    write_or_print(text, out)
