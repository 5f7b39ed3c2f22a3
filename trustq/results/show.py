"""An answer as text: an aligned table, CSV, JSON or Markdown."""

import csv
import io
import json
import math
from decimal import Decimal
from typing import Any

from trustq.errors import NotFound
from trustq.results.query import Result

WIDEST = 60  # characters of a cell in an aligned table; longer ones are cut


def format_result(result: Result, format: str = "table") -> str:
    """Text of an answer, without a last line break.

    `table` and `markdown` round to 6 significant digits, `table` cuts long cells; `csv` and `json`
    (a list of objects, NULL and NaN as null) keep every digit. Raises `TrustqError` for another
    format.

    >>> print(format_result(Result(["arm", "mean"], [("none", 1 / 3), ("random", None)])))
    arm         mean
    ------  --------
    none    0.333333
    random
    """
    formats = {"table": _table, "csv": _csv, "json": _json, "markdown": _markdown}
    if format not in formats:
        raise NotFound(
            f"There is no format {format!r}, only {', '.join(formats)}.",
            expected=formats,
            found=format,
        )
    return formats[format](result)


def _table(result: Result) -> str:
    if result.columns[:2] == ["explain_key", "explain_value"]:
        return "\n".join(str(row[1]).rstrip("\n") for row in result.rows)
    texts = [[_cut(_printable(_rounded(value))) for value in row] for row in result.rows]
    columns = list(zip(result.columns, *texts, strict=True))
    widths = [max(map(len, column)) for column in columns]
    right = [any(_is_number(row[j]) for row in result.rows) for j in range(len(result.columns))]

    def line(cells: list[str]) -> str:
        aligned = (
            cell.rjust(width) if number else cell.ljust(width)
            for cell, width, number in zip(cells, widths, right, strict=True)
        )
        return "  ".join(aligned).rstrip()

    rule = ["-" * width for width in widths]
    return "\n".join(line(cells) for cells in (result.columns, rule, *texts))


def _csv(result: Result) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(result.columns)
    for row in result.rows:
        writer.writerow(
            [
                json.dumps(_plain(value)) if isinstance(value, (list, dict)) else value
                for value in row
            ]
        )
    return text.getvalue().removesuffix("\n")


def _json(result: Result) -> str:
    objects = [
        {name: _plain(value) for name, value in zip(result.columns, row, strict=True)}
        for row in result.rows
    ]
    return json.dumps(objects, indent=2, ensure_ascii=False, allow_nan=False)


def _markdown(result: Result) -> str:
    def line(cells: list[str]) -> str:
        return "| " + " | ".join(cells) + " |"

    rule = [
        "---:" if any(_is_number(row[j]) for row in result.rows) else "---"
        for j in range(len(result.columns))
    ]
    texts = [
        [_printable(_rounded(value)).replace("|", "\\|") for value in row] for row in result.rows
    ]
    return "\n".join(line(cells) for cells in (result.columns, rule, *texts))


def _rounded(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, (float, Decimal)):
        return f"{value:.6g}"
    if isinstance(value, list):
        return f"[{', '.join(map(_rounded, value))}]"
    return str(value)


def _printable(text: str) -> str:
    # A class name must not steer the terminal or break a line of the table.
    return "".join(letter if letter.isprintable() else " " for letter in text)


def _cut(text: str) -> str:
    return text if len(text) <= WIDEST else text[: WIDEST - 1] + "…"


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float, Decimal)) and not isinstance(value, bool)


def _plain(value: Any) -> Any:
    # What JSON has no name for: numbers that are none become null, dates become text.
    if isinstance(value, Decimal):
        return float(value)
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return value if value is None or isinstance(value, (bool, int, str)) else str(value)
