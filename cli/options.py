"""Options that several commands share, each declared once."""

from typing import Annotated, Any

import typer

from .app import PROGRESS, QUIET


def _column(what: str) -> Any:
    return typer.Option(metavar="COLUMN", help=f"Array or column that holds the {what}.")


# What is where in a file of another program.
Features = Annotated[str | None, _column("features; of a table a prefix of its columns")]
Labels = Annotated[str | None, _column("labels")]
Probs = Annotated[str | None, _column("probabilities; of a table columns a,b,c or a prefix")]
Logits = Annotated[str | None, _column("logits; of a table columns a,b,c or a prefix")]
SampleIds = Annotated[str | None, _column("ids of the samples")]
Groups = Annotated[str | None, _column("groups, such as patients or lesions")]
Split = Annotated[str | None, _column("splits")]
Classes = Annotated[
    str | None,
    typer.Option(
        metavar="NAMES", help="Class names in the order of the columns, a,b,c, or their array."
    ),
]
Normalize = Annotated[
    str | None,
    typer.Option(metavar="l1|softmax", help="Normalize rows to sum to 1: l1 or softmax."),
]


def _set_quiet(value: bool) -> bool:
    QUIET.set(value)
    return value


def _set_no_progress(value: bool) -> bool:
    PROGRESS.set(not value)
    return value


# Of commands that take a while. Their callbacks do all there is to do.
Quiet = Annotated[
    bool,
    typer.Option(
        "--quiet",
        "-q",
        callback=_set_quiet,
        help="Print the answer and errors, no progress and no notes.",
    ),
]
NoProgress = Annotated[
    bool,
    typer.Option("--no-progress", callback=_set_no_progress, help="Print notes and no progress."),
]


def named(**names: str | None) -> dict[str, str]:
    """The names that were given, as the library takes them."""
    return {name: value for name, value in names.items() if value is not None}
