"""`trustq sql`: ask the result tables."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from trustq.core.counts import counted

from .output import terminal_width, write_or_print

_BY_SUFFIX = {".csv": "csv", ".json": "json", ".md": "markdown", ".parquet": "parquet"}
_FORMATS = ("table", "lines", "csv", "json", "markdown", "parquet")


@dataclass
class Tables:
    """What can be asked."""

    results: Annotated[
        Path, typer.Option(metavar="FOLDER", help="Read the result tables in this folder.")
    ] = Path("results")
    table: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=FILE",
            help="Read a CSV or Parquet file of yours as the table NAME; may be repeated.",
        ),
    ] = None
    metadata: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="FILE",
            help="Manifest, or another table with sample_id, whose columns `samples` shall have; "
            "may be repeated.",
        ),
    ] = None


def sql(
    tables: Tables,
    query: Annotated[
        str | None,
        typer.Argument(
            help="One SELECT; without it a prompt on a terminal, else the tables are listed."
        ),
    ] = None,
    file: Annotated[
        Path | None, typer.Option("--file", "-f", help="Read the query from this file.")
    ] = None,
    param: Annotated[
        list[str] | None,
        typer.Option("--param", "-p", help="Value of $NAME in the query, NAME=VALUE."),
    ] = None,
    format: Annotated[
        str | None,
        typer.Option(
            help=f"{', '.join(_FORMATS[:-1])} or {_FORMATS[-1]} (needs --out) "
            "[default: by the ending of --out, else table]."
        ),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="File to write instead of printing the answer.")
    ] = None,
) -> None:
    """Ask the result tables in SQL; alone, open a prompt or list them with example queries.

    Statements only read, and only the results folder and the files that are named. On a terminal
    a table that is too wide is split between its columns; --format lines has a line per column.

    Example: trustq sql --results demo/results
    "SELECT arm, budget, metric, mean, sd, n FROM final_test_seeds"
    """
    from trustq.results import format_result, run_query, save_query

    if file is not None:
        if query is not None:
            raise typer.BadParameter("give a query or --file, not both.")
        query = _read(file)
    parameters = _once("--param", map(_parameter, param or []))
    named = _once("--table", map(_table, tables.table or []))
    joined: dict[str, Any] = {"tables": named, "metadata": tables.metadata or []}
    format = _format(format, out)
    if query is None:
        if out is not None:
            raise typer.BadParameter("--out needs a query.")
        _prompt_or_list(tables.results, format, joined)
    elif format == "parquet" and out is not None:
        save_query(tables.results, query, out, parameters, **joined)
    else:
        answer = run_query(tables.results, query, parameters, **joined)
        text = format_result(answer, format, width=None if out else terminal_width())
        write_or_print(text, out, format)


def _format(format: str | None, out: Path | None) -> str:
    """The format that was asked for, or that the file's name says."""
    if format is None:
        format = _BY_SUFFIX.get(out.suffix.lower(), "table") if out else "table"
    if format not in _FORMATS:
        raise typer.BadParameter(f"{format!r} is none of {', '.join(_FORMATS)}.")
    if format == "parquet" and out is None:
        raise typer.BadParameter("Parquet is for files: add --out FILE.parquet.")
    return format


def _read(file: Path) -> str:
    from trustq.errors import InputError

    try:
        return file.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{file}: the query could not be read ({error}).", path=file) from error


def _once(option: str, pairs: Iterable[tuple[str, Any]]) -> dict[str, Any]:
    """Pairs of an option by their names; raises for a name that is given two values."""
    found: dict[str, Any] = {}
    for name, value in pairs:
        if found.setdefault(name, value) != value:
            raise typer.BadParameter(f"{option} {name} is given twice: leave one out.")
    return found


def _table(text: str) -> tuple[str, Path]:
    name, equals, file = text.partition("=")
    if not equals or not name or not file:
        raise typer.BadParameter(f"{text!r} is not of the form NAME=FILE, e.g. mine=mine.csv.")
    return name, Path(file)


def _parameter(text: str) -> tuple[str, str | int | float]:
    name, equals, value = text.partition("=")
    if not equals or not name.isidentifier():
        raise typer.BadParameter(f"{text!r} is not of the form NAME=VALUE.")
    for kind in (int, float):
        try:
            return name, kind(value)
        except ValueError:
            continue
    return name, value


def _prompt_or_list(results: Path, format: str, joined: dict[str, Any]) -> None:
    import sys

    if not (sys.stdin.isatty() and sys.stdout.isatty() and format == "table"):
        _list_tables(results, format, joined)
        return
    from trustq.results.prompt import prompt

    prompt(results, history=Path(typer.get_app_dir("trustq")) / "sql_history", **joined)


def _list_tables(results: Path, format: str, joined: dict[str, Any]) -> None:
    import textwrap

    from trustq.results import EXAMPLES, describe_results, format_result

    tables = describe_results(results, **joined)
    if format != "table":
        typer.echo(format_result(tables, format))
        return
    for name, n_rows, columns in tables.rows:
        typer.echo(f"{name} ({'a view' if n_rows is None else counted(n_rows, 'row')})")
        typer.echo(textwrap.fill(columns, 96, initial_indent="    ", subsequent_indent="    "))
    typer.echo('\nQueries to start from (trustq sql "..."):')
    for title, query in EXAMPLES:
        typer.echo(f"\n-- {title}\n{query}")
