"""`trustq compare`: paired figures of two or more models, or of arms of a results folder."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .options import Arrays, AsJson, Meta, refuse_beside
from .output import form_of, write_or_print

if TYPE_CHECKING:
    from trustq.evaluation.predictions import Predictions


@dataclass
class OfResults:
    """Which figures of a results folder are compared."""

    arms: Annotated[
        str | None, typer.Option(help="Arms of --results, the compared one first: a,b,c.")
    ] = None
    results: Annotated[Path, typer.Option(help="Folder of result tables.")] = Path("results")
    split: Annotated[str, typer.Option(help="Evaluated rows of --results.")] = "test"
    stage: Annotated[str, typer.Option(help="calibrated or uncalibrated.")] = "calibrated"
    budget: Annotated[
        str | None, typer.Option(help="Budget of --results, where several were run.")
    ] = None
    eval_dataset: Annotated[
        str | None, typer.Option(help="Evaluated data set of --results [default: its own].")
    ] = None
    where: Annotated[
        str, typer.Option(help="Cells of --results, in SQL, e.g. \"head = 'linear'\".")
    ] = ""
    metrics: Annotated[
        str | None, typer.Option(help="Figures of --arms, e.g. accuracy,aurc [default: all].")
    ] = None
    format: Annotated[
        str | None,
        typer.Option(
            help="Of --arms: markdown, csv or latex [default: by the ending of --out, else "
            "markdown]."
        ),
    ] = None


@dataclass
class Drawing:
    """How intervals are drawn."""

    intervals: Annotated[
        str, typer.Option(help="Of files: student, or a bootstrap: percentile or bca.")
    ] = "student"
    replicates: Annotated[int, typer.Option(help="Replicates of a bootstrap.")] = 10_000
    seed: Annotated[int, typer.Option(help="Seed of the bootstrap.")] = 0
    json: AsJson = False


def compare(
    of_results: OfResults,
    arrays: Arrays,
    drawing: Drawing,
    models: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[NAME=FILE...]",
            help="The first is compared with each other; NAME=FILE:ARRAY picks an array of it, or "
            "the columns of a table by their prefix. None: the --arms of --results.",
        ),
    ] = None,
    out: Annotated[Path | None, typer.Option(help="File to write instead of printing.")] = None,
    same_rows: Annotated[
        bool, typer.Option("--same-rows", help="Files have the same rows in the same order.")
    ] = False,
    meta: Meta = None,
) -> None:
    """Compare models on the same rows: paired intervals over groups, and McNemar's test.

    With --arms, arms of a results folder: intervals for seeds and groups at once, sign-flip tests
    with their floor, and Holm over the table.

    Example: trustq compare A=demo/cache/digits/digits/seed0.h5 B=demo/cache/digits/digits/seed1.h5

    Example: trustq compare --arms self_confidence,random --results demo/results --where
    "exposure = 'frozen'"
    """
    from trustq.errors import InputError

    arms = of_results.arms
    if bool(models) == bool(arms):
        raise InputError(
            "Name two models (A=a.npz B=b.npz), or arms of a results folder "
            "(--arms self_confidence,random --results results)" + (", not both." if arms else ".")
        )
    of_files = {**arrays.names, "normalize": arrays.normalize, "same_rows": same_rows, "meta": meta}
    if arms:
        drawn = vars(Drawing())
        of_files |= {
            name: getattr(drawing, name) != drawn[name] for name in ("intervals", "replicates")
        }
        refuse_beside([name for name, value in of_files.items() if value], "--arms")
        if drawing.json:
            refuse_beside(["format"] if of_results.format else [], "--json")
        form = "json" if drawing.json else form_of(of_results.format, out, "markdown")
        write_or_print(_arms(arms, of_results, drawing, form), out, form)
        return
    usual = vars(OfResults())
    given = [name for name, value in vars(of_results).items() if value != usual[name]]
    refuse_beside([name for name in given if name != "results"], "files of predictions")
    from trustq.core.prose import folded
    from trustq.evaluation.compare_models import compare_models, comparison_page
    from trustq.report.text import to_json

    found = compare_models(
        _read(models or [], arrays, meta or []),
        same_rows=same_rows,
        seed=drawing.seed,
        replicates=drawing.replicates,
        intervals=drawing.intervals,
    )
    form = "json" if drawing.json else form_of(None, out, "text")
    page = to_json(found.as_dict()) if form == "json" else folded(comparison_page(found))
    write_or_print(page, out, form if form == "json" else "text")


def _read(models: list[str], arrays: Arrays, meta: list[Path]) -> "dict[str, Predictions]":
    """The predictions of each NAME=FILE or NAME=FILE:ARRAY."""
    from trustq.errors import InputError
    from trustq.evaluation.predictions import read_predictions

    read = {}
    for model in models:
        name, equals, file = model.partition("=")
        if not equals or not name or not file:
            raise InputError(f"{model!r} is not of the form NAME=FILE, e.g. A=a.npz.")
        if name in read:
            raise InputError(f"Two models are called {name}: give each a name of its own.")
        path, _, array = file.rpartition(":")
        own = arrays.names
        if path.endswith(".npz") or (Path(path).is_file() and not Path(file).exists()):
            file, own = path, own | {"probs": array}
        read[name] = read_predictions(Path(file), names=own, meta=meta, normalize=arrays.normalize)
    return read


def _arms(arms: str, of_results: OfResults, drawing: Drawing, form: str) -> str:
    from dataclasses import asdict

    from trustq.analysis.compare_arms import arm_table, compare_arms, format_arm_table
    from trustq.analysis.pairs import Stored
    from trustq.errors import InputError
    from trustq.report.text import to_json

    chosen = [name.strip() for name in arms.split(",") if name.strip()]
    if len(chosen) < 2:
        raise InputError(f"--arms {','.join(chosen)}: name at least two, the compared one first.")
    names = ("split", "stage", "eval_dataset", "where")
    options: dict[str, Any] = {
        "stored": Stored(**{name: getattr(of_results, name) for name in names}),
        "budget": of_results.budget,
    }
    if of_results.metrics:
        options["figures"] = [metric.strip() for metric in of_results.metrics.split(",")]
    found = [
        compare_arms(of_results.results, chosen[0], other, seed=drawing.seed, **options)
        for other in chosen[1:]
    ]
    if form == "json":
        return to_json([asdict(row) for row in arm_table(found)])
    return format_arm_table(found, form)
