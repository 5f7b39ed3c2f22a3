"""An answer as text: an aligned table, CSV, JSON or Markdown."""

import json
import math
import textwrap
from collections.abc import Callable, Sequence
from decimal import Decimal
from typing import Any

from trustq.core.spreadsheets import csv_text
from trustq.core.text_tables import column_blocks
from trustq.errors import NotFound
from trustq.results.query import Result

REPEATED = 0.4  # of the width: what the first columns may take when later blocks repeat them


def format_result(result: Result, format: str = "table", *, width: int | None = None) -> str:
    """Text of an answer, without a last line break.

    `table`, `lines` (a block per row, a line per column) and `markdown` round to 6 significant
    digits; `csv` and `json` (a list of objects, NULL and NaN as null) keep every digit. Text is
    never cut. Where a table is wider than `width` it is split between columns, its first columns
    are repeated, and where that does not fit either it is shown as `lines`. Raises `TrustqError`
    for another format.

    >>> print(format_result(Result(["arm", "mean"], [("none", 1 / 3), ("random", None)])))
    arm         mean
    ------  --------
    none    0.333333
    random
    """
    formats: dict[str, Callable[[Result], str]] = {
        "table": lambda result: _table(result, width),
        "lines": lambda result: _lines(result, width),
        "csv": _csv,
        "json": _json,
        "markdown": _markdown,
    }
    if format not in formats:
        raise NotFound(
            f"Unknown format {format!r}; expected one of {', '.join(formats)}.",
            expected=formats,
            found=format,
        )
    return formats[format](result)


def _table(result: Result, width: int | None) -> str:
    if result.columns[:2] == ["explain_key", "explain_value"]:
        return "\n".join(str(row[1]).rstrip("\n") for row in result.rows)
    texts = [[_printable(_rounded(value)) for value in row] for row in result.rows]
    columns = list(zip(result.columns, *texts, strict=True))
    widths = [max(map(len, column)) for column in columns]
    right = [any(_is_number(row[j]) for row in result.rows) for j in range(len(result.columns))]
    blocks = _blocks(widths, right, width)
    if blocks is None:
        return _lines(result, width)

    def line(cells: Sequence[str], shown: list[int]) -> str:
        aligned = (
            cells[j].rjust(widths[j]) if right[j] else cells[j].ljust(widths[j]) for j in shown
        )
        return "  ".join(aligned).rstrip()

    rule = ["-" * width for width in widths]
    return "\n\n".join(
        "\n".join(line(cells, shown) for cells in (result.columns, rule, *texts))
        for shown in blocks
    )


def _blocks(widths: list[int], right: list[bool], width: int | None) -> list[list[int]] | None:
    """Columns of each block of a table that fits; None where a column does not fit in any."""
    if width is None:
        return [list(range(len(widths)))]
    # Texts in front say what a row is; they are repeated, the first of them in any case.
    repeated = 1
    for j in range(1, len(widths)):
        if right[j] or sum(widths[: j + 1]) + 2 * j > REPEATED * width:
            break
        repeated += 1
    return column_blocks(widths, repeated, width)


def _lines(result: Result, width: int | None) -> str:
    """A block per row, a line per column; a longer text goes on under its beginning."""
    longest = max(map(len, result.columns), default=0)
    blocks = []
    for number, row in enumerate(result.rows, start=1):
        lines = [f"-- {number} of {len(result.rows)}"]
        for name, value in zip(result.columns, row, strict=True):
            text = _printable(_rounded(value))
            parts = [text]
            if width is not None and (room := width - longest - 2) > 0:
                parts = textwrap.wrap(
                    text, room, break_long_words=False, break_on_hyphens=False
                ) or [""]
            lines.append(f"{name.ljust(longest)}  {parts[0]}".rstrip())
            lines += [" " * (longest + 2) + part for part in parts[1:]]
        blocks.append("\n".join(lines))
    return "\n\n".join(blocks) if blocks else "(no rows)"


def _csv(result: Result) -> str:
    rows = (
        [json.dumps(_plain(v)) if isinstance(v, (list, dict)) else v for v in row]
        for row in result.rows
    )
    return csv_text(result.columns, rows).removesuffix("\n")


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
