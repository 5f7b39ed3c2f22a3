"""`trustq report`: one page of a results folder."""

from pathlib import Path
from typing import Annotated

import typer

from trustq.core.prose import say

from .output import print_text


def report(
    results: Annotated[Path, typer.Argument(help="Folder of result tables.")] = Path("results"),
    out: Annotated[
        Path | None,
        typer.Option(help="Page to write [default: report.html, or CHECKLIST.html]."),
    ] = None,
    checklist: Annotated[
        str | None, typer.Option(help="Fill a checklist: tripod-ai, claim or deployment.")
    ] = None,
    statements: Annotated[
        Path | None,
        typer.Option(help="TOML of what no record shows: [CHECKLIST] with NUMBER = TEXT."),
    ] = None,
    record: Annotated[
        list[Path] | None,
        typer.Option(help="JSON of explain failures, explain sanity or check; repeatable."),
    ] = None,
    where: Annotated[str, typer.Option(help="With --checklist, SQL condition on runs.")] = "",
) -> None:
    """Write one self-contained HTML page: warnings, tables, curves, calibration, ledger.

    With --checklist the page is that list, each item reported with the record that proves it,
    missing, or not applicable; --out may end in .html, .md or .json.

    Example: trustq report demo/results --checklist tripod-ai --out tripod.md
    """
    if checklist is not None:
        from trustq.analysis.checklists import checklist as fill
        from trustq.report.checklist_page import count_said, write_checklist

        found = fill(checklist, results, statements=statements, files=record or [], where=where)
        path = out or Path(f"{checklist}.html")
        write_checklist(found, path)
        print_text(count_said(found))
        say(f"{path} written")
        return
    if statements or record or where:
        raise typer.BadParameter("--statements, --record and --where go with --checklist.")
    out = out or Path("report.html")
    from trustq.report.page import write_report

    write_report(results, out)
    say(f"{out} written")
