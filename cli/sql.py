"""`trustq sql`: ask the result tables."""

from pathlib import Path
from typing import Annotated

import typer

_BY_SUFFIX = {".csv": "csv", ".json": "json", ".md": "markdown", ".parquet": "parquet"}
_FORMATS = ("table", "csv", "json", "markdown", "parquet")


def sql(
    query: Annotated[
        str | None, typer.Argument(help="One SELECT; without it the tables are listed.")
    ] = None,
    results: Annotated[Path, typer.Option(help="Folder of result tables.")] = Path("results"),
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
    """Ask the result tables in SQL, or list them with example queries.

    Statements only read, and only the results folder.

    Example: trustq sql "SELECT arm, metric, mean, sd, n FROM seeds WHERE is_final"
    """
    from trustq.files import replacing
    from trustq.results import format_result, run_query, save_query

    if format is None:
        format = _BY_SUFFIX.get(out.suffix.lower(), "table") if out else "table"
    if format not in _FORMATS:
        raise typer.BadParameter(f"{format!r} is none of {', '.join(_FORMATS)}.")
    if format == "parquet" and out is None:
        raise typer.BadParameter("Parquet is for files: add --out FILE.parquet.")
    if query is None:
        if out is not None:
            raise typer.BadParameter("--out needs a query.")
        _list_tables(results, format)
    elif format == "parquet" and out is not None:
        save_query(results, query, out)
    else:
        text = format_result(run_query(results, query), format)
        if out is None:
            typer.echo(text)
        else:
            with replacing(out) as part:
                part.write_text(text + "\n", encoding="utf-8")


def _list_tables(results: Path, format: str) -> None:
    import textwrap

    from trustq.results import EXAMPLES, describe_results, format_result

    tables = describe_results(results)
    if format != "table":
        typer.echo(format_result(tables, format))
        return
    for name, n_rows, columns in tables.rows:
        typer.echo(f"{name} ({'a view' if n_rows is None else f'{n_rows:,} rows'})")
        typer.echo(textwrap.fill(columns, 96, initial_indent="    ", subsequent_indent="    "))
    typer.echo('\nQueries to start from (trustq sql "..."):')
    for title, query in EXAMPLES:
        typer.echo(f"\n-- {title}\n{query}")
