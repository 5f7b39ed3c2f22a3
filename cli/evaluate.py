"""`trustq evaluate`: calibration, selective and class figures of any predictions."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from trustq.core.prose import say

from .options import AsJson, OfClass, Slicing, SplitArrays, listed
from .output import print_text

if TYPE_CHECKING:
    from trustq.evaluation.predictions import Predictions


@dataclass
class Calibration:
    """On which rows and how probabilities are calibrated."""

    calibrate_on: Annotated[
        Path | None, typer.Option(help="Fit the calibrator on this file's rows.")
    ] = None
    calibrate: Annotated[
        str | None, typer.Option(help="cv:5 = cross-fit by group on the evaluated rows.")
    ] = None
    calibrator: Annotated[
        str, typer.Option(help="temperature, vector, netcal-beta, sklearn-isotonic, ...")
    ] = "temperature"
    noise: Annotated[
        str | None,
        typer.Option(help="Calibration labels are noisy, as in trustq repair: symmetric:0.2, ..."),
    ] = None


@dataclass
class Judged:
    """What is judged beside the rows of the file, and by which labels."""

    external: Annotated[
        list[Path] | None,
        typer.Option(help="Predictions of other data by the same model; may be given again."),
    ] = None
    target: Annotated[
        str | None, typer.Option(help="Column to use as labels, e.g. from --meta.")
    ] = None
    conditions: Annotated[
        str | None,
        typer.Option(help="More probability arrays of the npz, or views of the cache: a,b or all."),
    ] = None
    head: Annotated[
        str | None,
        typer.Option(help="Fit this head on the features of a cache first, e.g. linear."),
    ] = None


@dataclass
class Output:
    """How intervals are made, and where the page goes."""

    of_class: OfClass = None
    ece: Annotated[
        str | None,
        typer.Option(
            metavar="NAME,...",
            help="Also show ECE as others compute it, with the spread: guo, torchmetrics, netcal, "
            "torch-uncertainty, classwise, smooth, or all.",
        ),
    ] = None
    out: Annotated[
        Path | None, typer.Option(help="Folder for the page, JSON, curves, errors and pictures.")
    ] = None
    intervals: Annotated[str, typer.Option(help="student, or a bootstrap: percentile or bca.")] = (
        "student"
    )
    replicates: Annotated[int, typer.Option(help="Replicates of a bootstrap.")] = 2000
    seed: Annotated[int, typer.Option(help="Seed of bootstrap and folds.")] = 0
    json: AsJson = False


def evaluate(
    file: Annotated[Path, typer.Argument(help="npz, CSV, Parquet, or a cache (.h5).")],
    calibration: Calibration,
    slicing: Slicing,
    judged: Judged,
    arrays: SplitArrays,
    output: Output,
) -> None:
    """Evaluate predictions: calibration, selection, classes and slices on one page.

    Example: trustq evaluate demo/cache/digits/digits/seed0.h5 --calibrate cv:5 --out evaluation/
    """
    from trustq.data.noise import parse_noise
    from trustq.evaluation.evaluate import evaluate as run
    from trustq.metrics.ece_conventions import chosen_conventions
    from trustq.metrics.per_class import class_positions
    from trustq.report.evaluation import evaluation_page, write_evaluation
    from trustq.report.text import to_json

    folds, ece = _folds(calibration.calibrate), chosen_conventions(listed(output.ece))
    predictions = _read(file, slicing, judged, arrays)
    if output.of_class is not None:
        class_positions(predictions.classes, [output.of_class])  # whether it is one
    noise, matrix = calibration.noise, None
    if noise is not None:
        matrix = parse_noise(noise, classes=predictions.classes).matrix
    other = None
    if calibration.calibrate_on is not None:
        other = _other(calibration.calibrate_on, slicing, judged, arrays)
    # By their whole path: caches of one seed have one name.
    others = [
        replace(_other(path, slicing, judged, arrays), source=str(path))
        for path in judged.external or []
    ]
    found = run(
        predictions,
        labels_used="clean" if noise is None else "noisy",
        noise_matrix=matrix,
        calibrate_on=other,
        folds=folds,
        calibrator=calibration.calibrator,
        positive=listed(slicing.positive, predictions.classes),
        slices=listed(slicing.slices),
        ages=slicing.ages,
        externals=others,
        seed=output.seed,
        replicates=output.replicates,
        intervals=output.intervals,
    )
    if output.out is not None:
        for path in write_evaluation(found, output.out, of_class=output.of_class, ece=ece):
            say(f"wrote {path}")
    if output.json:
        typer.echo(to_json(found.report))
    else:
        print_text(evaluation_page(found, ece=ece))


def _folds(calibrate: str | None) -> int | None:
    from trustq.errors import InputError

    if calibrate is None:
        return None
    kind, _, number = calibrate.partition(":")
    if kind != "cv" or not number.isdigit() or int(number) < 2:
        raise InputError(
            f"--calibrate {calibrate}: expected cv:K with K folds, e.g. cv:5.",
            where="calibrate",
            found=calibrate,
        )
    return int(number)


def _read(file: Path, slicing: Slicing, judged: Judged, arrays: SplitArrays) -> "Predictions":
    """The judged predictions: those of the file, or of a head that is fitted on its features."""
    from trustq.evaluation.predictions import read_predictions

    wanted: dict[str, Any] = {
        "columns": slicing.columns,
        "meta": slicing.meta or [],
        "conditions": listed(judged.conditions),
    }
    if judged.head is not None:
        from trustq.experiments.trust_inputs import head_predictions

        return head_predictions(file, head=judged.head, **wanted)
    return read_predictions(
        file, names=arrays.names, normalize=arrays.normalize, target=judged.target, **wanted
    )


def _other(path: Path, slicing: Slicing, judged: Judged, arrays: SplitArrays) -> "Predictions":
    """Predictions of further rows by the same model."""
    from trustq.evaluation.predictions import read_predictions

    return read_predictions(
        path,
        names=arrays.names,
        meta=slicing.meta or [],
        normalize=arrays.normalize,
        target=judged.target,
    )
