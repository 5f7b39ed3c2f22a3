"""`trustq bundle`: check what `trustq export bundle` wrote."""

from pathlib import Path
from typing import Annotated

import typer

from trustq.core.counts import counted

from .app import App

app = App(help="Check what trustq export bundle wrote.", no_args_is_help=True)


@app.callback()
def bundle() -> None:
    """Check what trustq export bundle wrote."""


@app.command()
def verify(
    file: Annotated[Path, typer.Argument(help="Bundle (.zip).")],
    results: Annotated[Path, typer.Option(help="Folder of result tables.")] = Path("results"),
) -> None:
    """Check every file's digest, make every table again from the parts and compare.

    Example: trustq export bundle study.zip --results demo/results

    Example: trustq bundle verify study.zip --results demo/results
    """
    from trustq.report.bundle import verify_bundle

    found = verify_bundle(file, results)
    typer.echo(
        f"{file}: {counted(found.n_files, 'file')} as written; "
        f"{counted(found.n_tables, 'table')} of {counted(found.n_cells, 'run')} come out the same "
        f"from {results}"
    )
