"""`trustq evaluate`: calibration, selective and class figures of any predictions."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from .options import Classes, Groups, Labels, Logits, Normalize, Probs, SampleIds, Split


def evaluate(
    file: Annotated[Path, typer.Argument(help="npz, CSV, Parquet, or a cache (.h5).")],
    calibrate_on: Annotated[
        Path | None, typer.Option(help="Fit the calibrator on this file's rows.")
    ] = None,
    calibrate: Annotated[
        str | None, typer.Option(help="cv:5 = cross-fit by group on the evaluated rows.")
    ] = None,
    calibrator: Annotated[
        str, typer.Option(help="temperature, vector, netcal-beta, sklearn-isotonic, ...")
    ] = "temperature",
    noise: Annotated[
        str | None,
        typer.Option(help="Calibration labels are noisy, as in trustq repair: symmetric:0.2, ..."),
    ] = None,
    positive: Annotated[
        str | None, typer.Option(help="Classes pooled into the positive class: mel,bcc,akiec.")
    ] = None,
    slices: Annotated[
        str | None, typer.Option(help="Columns to slice by, separated by commas.")
    ] = None,
    ages: Annotated[str | None, typer.Option(help="Column of ages, in bands of years.")] = None,
    meta: Annotated[
        list[Path] | None, typer.Option(help="Table to join by id; may be given again.")
    ] = None,
    external: Annotated[
        list[Path] | None,
        typer.Option(help="Predictions of other data by the same model; may be given again."),
    ] = None,
    target: Annotated[
        str | None, typer.Option(help="Column to use as labels, e.g. from --meta.")
    ] = None,
    conditions: Annotated[
        str | None,
        typer.Option(help="More probability arrays of the npz, or views of the cache: a,b or all."),
    ] = None,
    head: Annotated[
        str | None,
        typer.Option(help="Fit this head on the features of a cache first, e.g. linear."),
    ] = None,
    labels: Labels = None,
    probs: Probs = None,
    logits: Logits = None,
    sample_ids: SampleIds = None,
    groups: Groups = None,
    split: Split = None,
    classes: Classes = None,
    normalize: Normalize = None,
    of_class: Annotated[
        str | None, typer.Option(help="Class of the precision-recall picture.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Folder for the page, JSON, curves, errors and pictures.")
    ] = None,
    intervals: Annotated[
        str, typer.Option(help="student, or a bootstrap: percentile or bca.")
    ] = "student",
    replicates: Annotated[int, typer.Option(help="Replicates of a bootstrap.")] = 2000,
    seed: Annotated[int, typer.Option(help="Seed of bootstrap and folds.")] = 0,
    json: Annotated[bool, typer.Option("--json", help="Print JSON instead of the page.")] = False,
) -> None:
    """Evaluate predictions: calibration, selection, classes and slices on one page.

    Example: trustq evaluate predictions.npz --calibrate cv:5 --out evaluation/
    """
    from dataclasses import replace

    from trustq.data.noise import parse_noise
    from trustq.errors import InputError
    from trustq.evaluation.evaluate import evaluate as run
    from trustq.evaluation.predictions import Predictions, read_predictions
    from trustq.report.evaluation import evaluation_page, write_evaluation
    from trustq.report.text import to_json

    folds = None
    if calibrate is not None:
        kind, _, number = calibrate.partition(":")
        if kind != "cv" or not number.isdigit() or int(number) < 2:
            raise InputError(
                f"--calibrate {calibrate}: expected cv:K with K folds, e.g. cv:5.",
                where="calibrate",
                found=calibrate,
            )
        folds = int(number)
    given = {
        "labels": labels,
        "probs": probs,
        "logits": logits,
        "sample_ids": sample_ids,
        "groups": groups,
        "split": split,
        "classes": classes,
    }
    names = {name: value for name, value in given.items() if value is not None}
    wanted = _listed(slices)
    columns = list(dict.fromkeys([*wanted, *([ages] if ages else [])]))
    if head is not None:
        from trustq.experiments.trust_inputs import head_predictions

        predictions = head_predictions(
            file, head=head, conditions=_listed(conditions), columns=columns, meta=meta or []
        )
    else:
        predictions = read_predictions(
            file,
            names=names,
            columns=columns,
            meta=meta or [],
            conditions=_listed(conditions),
            normalize=normalize,
            target=target,
        )

    def read(path: Path) -> Predictions:
        return read_predictions(
            path, names=names, meta=meta or [], normalize=normalize, target=target
        )

    other = None if calibrate_on is None else read(calibrate_on)
    # By their whole path: caches of one seed have one name.
    others = [replace(read(path), source=str(path)) for path in external or []]
    matrix = None if noise is None else parse_noise(noise, classes=predictions.classes).matrix
    found = run(
        predictions,
        labels_used="clean" if noise is None else "noisy",
        noise_matrix=matrix,
        calibrate_on=other,
        folds=folds,
        calibrator=calibrator,
        positive=_listed(positive, predictions.classes),
        slices=wanted,
        ages=ages,
        externals=others,
        seed=seed,
        replicates=replicates,
        intervals=intervals,
    )
    if out is not None:
        for path in write_evaluation(found, out, of_class=of_class):
            typer.echo(f"wrote {path}", err=True)
    typer.echo(to_json(found.report) if json else evaluation_page(found))


def _listed(text: str | None, known: Sequence[str] = ()) -> list[str]:
    from trustq.core.words import split_names

    return split_names(text, known=known) if text else []
