"""Commands and groups of commands that print a `TrustqError` as a paragraph and exit 1."""

from collections.abc import Callable
from typing import Any

import typer
from typer.core import TyperCommand

from trustq.errors import TrustqError

from .hints import RUNNING, in_options


def print_error(error: TrustqError) -> None:
    """Print an error in options of the command that runs, on stderr."""
    typer.echo(f"Error: {in_options(str(error))}", err=True)


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
        return super().command(name, **options)
