"""`trustq compare`: paired figures of two or more models."""

from pathlib import Path
from typing import Annotated

import typer


def compare(
    models: Annotated[
        list[str],
        typer.Argument(
            metavar="NAME=FILE...",
            help="The first is compared with each other; NAME=FILE:ARRAY picks an array of an npz.",
        ),
    ],
    same_rows: Annotated[
        bool, typer.Option("--same-rows", help="Files have the same rows in the same order.")
    ] = False,
    meta: Annotated[
        list[Path] | None, typer.Option(help="Table to join by id; may be given again.")
    ] = None,
    labels: Annotated[str | None, typer.Option(help="Name of the labels.")] = None,
    probs: Annotated[str | None, typer.Option(help="Name of the probabilities.")] = None,
    logits: Annotated[str | None, typer.Option(help="Name of the logits.")] = None,
    sample_ids: Annotated[str | None, typer.Option(help="Name of the ids.")] = None,
    groups: Annotated[str | None, typer.Option(help="Name of the groups.")] = None,
    classes: Annotated[str | None, typer.Option(help="Class names in column order.")] = None,
    normalize: Annotated[str | None, typer.Option(help="Rows to sum 1: l1 or softmax.")] = None,
    replicates: Annotated[int, typer.Option(help="Bootstrap replicates.")] = 10_000,
    seed: Annotated[int, typer.Option(help="Seed of the bootstrap.")] = 0,
    json: Annotated[bool, typer.Option("--json", help="Print JSON instead of the page.")] = False,
) -> None:
    """Compare models on the same rows: paired intervals over groups, and McNemar's test.

    Example: trustq compare A=a.npz B=b.npz
    """
    from trustq.compare import compare_models, comparison_page
    from trustq.errors import TrustqError
    from trustq.predictions import read_predictions
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
    for model in models:
        name, equals, file = model.partition("=")
        if not equals or not name or not file:
            raise TrustqError(f"{model!r} is not of the form NAME=FILE, e.g. A=a.npz.")
        if name in read:
            raise TrustqError(f"Two models are called {name}: give each a name of its own.")
        path, _, array = file.rpartition(":")
        own = names
        if path.endswith(".npz"):
            file, own = path, names | {"probs": array}
        read[name] = read_predictions(Path(file), names=own, meta=meta or [], normalise=normalize)
    found = compare_models(read, same_rows=same_rows, seed=seed, replicates=replicates)
    typer.echo(to_json(found.as_dict()) if json else comparison_page(found))
