"""`trustq results`: keep a results folder in order."""

from pathlib import Path
from typing import Annotated

import typer

from .app import App

app = App(help="Keep a results folder in order.", no_args_is_help=True)

_Folder = Annotated[Path, typer.Option(help="Folder of result tables.")]


@app.command()
def compact(results: _Folder = Path("results")) -> None:
    """Merge small parts into large ones; nothing is deleted, no query or sweep is disturbed.

    A sweep does it by itself when it ends.

    Example: trustq results compact --results results
    """
    from trustq.results import compact as merge

    merged = merge(results, fewest=2)
    typer.echo(f"{merged} parts were merged in {results}", err=True)


@app.command()
def clean(
    results: _Folder = Path("results"),
    grace: Annotated[
        float, typer.Option(help="Seconds for which what was merged is kept for open queries.")
    ] = 600.0,
) -> None:
    """Delete parts that were merged, and what killed writers left behind ten minutes ago or more.

    Example: trustq results clean --results results
    """
    from trustq.results import clean as delete

    deleted = delete(results, grace_seconds=grace)
    typer.echo(f"{deleted} parts were deleted from {results}", err=True)
