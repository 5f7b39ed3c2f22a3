"""Options that several commands share, each declared once, alone or in bundles.

A bundle is a dataclass whose fields are options: a command has one parameter of that type.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
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


Meta = Annotated[list[Path] | None, typer.Option(help="Table to join by id; may be given again.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of the page.")]
OfClass = Annotated[str | None, typer.Option(help="Class of the precision-recall picture.")]


@dataclass
class Arrays:
    """What is where in a file of predictions."""

    labels: Labels = None
    probs: Probs = None
    logits: Logits = None
    sample_ids: SampleIds = None
    groups: Groups = None
    classes: Classes = None
    normalize: Normalize = None

    @property
    def names(self) -> dict[str, str]:
        """The names that were given, as the library takes them."""
        return named(self, besides=("normalize",))


@dataclass
class SplitArrays(Arrays):
    """Likewise, with the splits of the rows."""

    split: Split = None


@dataclass
class FeatureArrays(Arrays):
    """Likewise, with features."""

    features: Features = None


@dataclass
class Slicing:
    """What figures are split by, and the classes that are pooled."""

    positive: Annotated[
        str | None, typer.Option(help="Classes pooled into the positive class: mel,bcc,akiec.")
    ] = None
    slices: Annotated[
        str | None, typer.Option(help="Columns to slice by, separated by commas.")
    ] = None
    ages: Annotated[str | None, typer.Option(help="Column of ages, in bands of years.")] = None
    meta: Meta = None

    @property
    def columns(self) -> list[str]:
        """Columns that must be read for the slices."""
        return list(dict.fromkeys([*listed(self.slices), *([self.ages] if self.ages else [])]))


@dataclass
class Progress:
    """What a command that takes a while prints beside its answer; callbacks do all there is."""

    quiet: Quiet = False
    no_progress: NoProgress = False


def refuse_beside(given: Iterable[str], beside: str) -> None:
    """Raise `TrustqError` for settings that say nothing beside the others that were given."""
    from trustq.errors import InputError

    if texts := [f"`{name}`" for name in given]:
        raise InputError(f"{', '.join(texts)}: not used beside {beside}, so leave it out.")


def named(given: Any, *, besides: Iterable[str] = ()) -> dict[str, Any]:
    """The options of a bundle that were given, by name."""
    values = {field.name: getattr(given, field.name) for field in fields(given)}
    return {
        name: value for name, value in values.items() if value is not None and name not in besides
    }


def seed_numbers(text: str) -> list[int]:
    """The whole numbers of a list that is one option."""
    from trustq.errors import InputError

    try:
        return [int(seed) for seed in text.split(",")]
    except ValueError as error:
        raise InputError(
            f"--seeds {text}: expected whole numbers, e.g. --seeds 42,52.",
            where="seeds",
            found=text,
        ) from error


def listed(text: str | None, known: Sequence[str] = ()) -> list[str]:
    """The names in a list that is one option, none where it was not given."""
    from trustq.core.words import split_names

    return split_names(text, known=known) if text else []
