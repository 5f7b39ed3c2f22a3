"""`trustq audit`: what is wrong with a data set."""

import typer

from . import audit_duplicates

app = typer.Typer(no_args_is_help=True, help="Find what is wrong with a data set.")


@app.callback()
def audit() -> None:
    """Find what is wrong with a data set."""


app.command()(audit_duplicates.duplicates)
