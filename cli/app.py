"""Commands and groups of commands that print a `TrustqError` as a paragraph and exit 1."""

from collections.abc import Callable
from contextvars import ContextVar
from pathlib import Path
from typing import Any, get_args, get_type_hints

import typer
from typer.core import TyperCommand
from typer.models import OptionInfo

from trustq.errors import TrustqError

from .hints import RUNNING, in_options

# Whether the command that runs shows how far it is.
PROGRESS: ContextVar[bool] = ContextVar("PROGRESS", default=True)
# Whether it prints nothing but its answer and errors.
QUIET: ContextVar[bool] = ContextVar("QUIET", default=False)


def print_error(error: TrustqError) -> None:
    """Print an error in options of the command that runs, on stderr."""
    typer.echo(f"Error: {in_options(str(error))}", err=True)


def print_remark(text: str) -> None:
    """Print what is not the answer on stderr, in options of the command, unless --quiet."""
    if not QUIET.get():
        typer.echo(in_options(text), err=True)


# What values are called in help where an option does not say it: by the first word, by the type.
_BY_WORD = {"Folder": "FOLDER", "Column": "COLUMN", "Columns": "COLUMNS", "Seed": "SEED"}
_BY_TYPE = {Path: "FILE", int: "N", float: "NUMBER", str: "TEXT"}


class Command(TyperCommand):
    """A command whose `TrustqError` is a paragraph in its own options; all else is a bug."""

    def invoke(self, ctx: Any) -> Any:
        RUNNING.set(ctx)
        try:
            return super().invoke(ctx)
        except TrustqError as error:
            print_error(error)
            raise typer.Exit(1) from error


class App(typer.Typer):
    """A group of such commands."""

    def command(self, name: str | None = None, **options: Any) -> Callable[[Any], Any]:
        """Register a function as a command, as Typer does."""
        options.setdefault("cls", Command)
        register = super().command(name, **options)

        def registered(function: Any) -> Any:
            _name_values(function)
            return register(function)

        return registered


def _name_values(function: Any) -> None:
    for hint in get_type_hints(function, include_extras=True).values():
        option = next((one for one in get_args(hint) if isinstance(one, OptionInfo)), None)
        if option is not None and option.metavar is None:
            word = (option.help or "").partition(" ")[0]
            kinds = {kind for one in get_args(hint)[:1] for kind in (one, *_inner(one))}
            by_type = next((name for kind, name in _BY_TYPE.items() if kind in kinds), None)
            option.metavar = by_type and _BY_WORD.get(word, by_type)


def _inner(kind: Any) -> list[Any]:
    return [inner for one in get_args(kind) for inner in (one, *_inner(one))]
