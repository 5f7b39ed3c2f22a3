"""CSV that people open in a spreadsheet: no cell is a formula, and reading gives back what was."""

import csv
from collections.abc import Iterable, Sequence
from typing import Any

# A spreadsheet takes a cell that begins so for a formula; behind an apostrophe it is text.
FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r")
MARK = "'"
_MARKED = (*FORMULA_STARTS, MARK)


def csv_text(header: Sequence[object], rows: Iterable[Iterable[object]]) -> str:
    """A header and rows as CSV with a line end after each; texts are no formulas.

    >>> print(csv_text(["id", "x"], [["=1+1", -2.5], ["-", "-3"]]), end="")
    id,x
    '=1+1,-2.5
    '-,-3
    """
    lines = _Lines()
    writer = csv.writer(lines, lineterminator="\r\n")  # so that both are quoted within cells
    writer.writerow(map(harmless, header))
    writer.writerows(map(harmless, row) for row in rows)
    return "".join(lines.kept)


class _Lines:
    """A file for a csv writer, which writes a row at a time: line ends are single ones."""

    def __init__(self) -> None:
        self.kept: list[str] = []

    def write(self, text: str) -> None:
        self.kept.append(text.removesuffix("\r\n") + "\n")


def harmless(value: Any) -> Any:
    """A text that would be a formula, behind an apostrophe; all else, and numbers, as they are."""
    if not isinstance(value, str) or not value.startswith(_MARKED):
        return value
    if value.startswith(MARK):  # marked too where taking the mark off would change it
        return MARK + value if value[1:].startswith(_MARKED) else value
    try:
        float(value)
    except ValueError:
        return MARK + value
    return value


def as_written(value: Any) -> Any:
    """What `harmless` was given, from what it gave.

    >>> [as_written(harmless(text)) for text in ("=1", "'=1", "'a", "-2", "''")]
    ['=1', "'=1", "'a", '-2', "''"]
    """
    if isinstance(value, str) and value[:1] == MARK and value[1:2] in _MARKED:
        return value[1:]
    return value
