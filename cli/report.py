"""`trustq report`: one page of a results folder."""

from pathlib import Path
from typing import Annotated

import typer


def report(
    results: Annotated[Path, typer.Argument(help="Folder of result tables.")] = Path("results"),
    out: Annotated[Path, typer.Option(help="Page to write.")] = Path("report.html"),
) -> None:
    """Write one self-contained HTML page: warnings, tables, curves, calibration, ledger.

    Example: trustq report results --out report.html
    """
    from trustq.report.page import write_report

    write_report(results, out)
    typer.echo(f"{out} written", err=True)
