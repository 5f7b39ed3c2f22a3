"""Where the rows of a CSV file begin, what its columns are called, and the SQL that reads them.

No array is made here, so that a query of a file starts without numpy.
"""

import codecs
import csv
import gzip
import itertools
import re
import zlib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from trustq.core.counts import counted
from trustq.core.spreadsheets import FORMULA_STARTS, MARK
from trustq.core.sql_text import exact_path, literal
from trustq.errors import InputError, TrustqError

CSV_ENDINGS = (".csv", ".tsv", ".tab")
DELIMITERS = (",", ";", "\t", "|")
LONGEST = 1 << 28  # bytes of one row
_NUMBER = re.compile(r"\s*[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?\s*", re.IGNORECASE | re.ASCII)
_HEAD = 100  # lines in which the header is looked for


class Head(NamedTuple):
    """Where the rows of a file begin, what separates cells, and the names of the columns."""

    skipped: int  # lines before the header
    delimiter: str
    names: list[str]
    comments: int = 0  # lines that begin with #, of those skipped
    is_mixed: bool = False  # lines end in several ways, with which DuckDB skips them wrongly


def is_csv(path: Path) -> bool:
    """Whether a file is read as delimited text; HAM10000_metadata has no ending."""
    name = path.name.lower()
    return name.removesuffix(".gz").endswith(CSV_ENDINGS) or "." not in name


def scan_csv(path: Path) -> tuple[str, list[str]] | None:
    """SQL that reads the rows of a plain file as texts called c0, c1, ..., and the columns' names.

    None for a file of which `read_csv` does more than DuckDB, or says what is wrong. DuckDB may
    still fail where a row does not fit, which `read_csv` then says.
    """
    opened = opener(path)
    try:
        with opened(path, "rb") as file:
            if b"\0" in file.read(200):  # of wide letters
                return None
        with opened(path, "rt", encoding="utf-8-sig", newline="") as lines:
            head = read_head(lines, path)
        if head.delimiter != "," or head.is_mixed or holds_marks(path, opened):
            return None
    except (UnicodeDecodeError, OSError, EOFError, zlib.error, TrustqError):
        return None
    return scan_of(path, head), head.names


def csv_notes(path: Path) -> list[str]:
    """A note on comments above the header of a CSV file that can be read."""
    opened = opener(path)
    with opened(path, "rb") as file:
        is_utf16 = file.read(2) in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
    encoding = "utf-16" if is_utf16 else "utf-8-sig"
    with opened(path, "rt", encoding=encoding, newline="") as lines:
        n = read_head(lines, path).comments
    return [f"{counted(n, 'line')} above the header of {path.name} left out (#)"] if n else []


def opener(path: Path) -> Any:
    """What opens a file as it is named: `gzip.open` or `open`."""
    return gzip.open if path.name.lower().endswith(".gz") else open


def holds_marks(path: Path, opened: Any) -> bool:
    """Whether any cell may have the mark that keeps spreadsheets from taking it for a formula."""
    marked = [f"{MARK}{start}".encode() for start in (*FORMULA_STARTS, MARK)]
    with opened(path, "rb") as file:
        while block := file.read(1 << 24):
            # One byte is found much faster than one of seven texts, and most files have none.
            if MARK.encode() in block and any(text in block for text in marked):
                return True
    return False


def read_head(lines: Iterable[str], path: Path) -> Head:
    """The header, by the first lines of the file, which are read with their ends."""
    head = list(itertools.islice(lines, _HEAD))
    found = _header(head, path)
    ends = {line[len(line.rstrip("\r\n")) :][-2:] for line in head if line.endswith(("\r", "\n"))}
    return found._replace(is_mixed=found.skipped > 0 and len(ends) > 1)


def _header(head: Sequence[str], path: Path) -> Head:
    skipped = _first_line(head, 0)
    comments = _comments(head, skipped, path)
    skipped = _first_line(head, skipped + comments)
    if skipped == len(head):
        raise InputError(f"{path} is empty: it has no row of column names.", path=path)
    stated = re.fullmatch(r"sep=(.)[\r\n]*", head[skipped], re.IGNORECASE)  # as Excel writes it
    if stated is not None and skipped + 1 < len(head):
        names = _names(path, _record(head[skipped + 1 :], stated[1]))
        return Head(skipped + 1, stated[1], names, comments)
    delimiter, cells = _most_cells(head[skipped:])
    if len(cells) == 1:
        # A title above the table, which an empty line sets apart.
        below = _first_line(head, skipped + 1)
        if skipped + 1 < below < len(head):
            titled, under = _most_cells(head[below:])
            if len(under) > 1:
                skipped, delimiter, cells = below, titled, under
    return Head(skipped, delimiter, _names(path, cells), comments)


def _first_line(head: Sequence[str], start: int) -> int:
    """The next line that is not blank, or the end."""
    return next((n for n in range(start, len(head)) if head[n].strip()), len(head))


def _comments(head: Sequence[str], start: int, path: Path) -> int:
    """How many lines from here begin with # and are comments, for a header follows them.

    The header itself may begin so (`#id,label`), and so may rows: a comment has another number of
    cells than the header, in which no cell is a number. Raises `TrustqError` for several lines that
    may be either.
    """
    after = start
    while after < len(head) and head[after].startswith("#"):
        after += 1
    header = _first_line(head, after)
    if after == start or header == len(head):
        return 0
    delimiter, cells = _most_cells(head[header:])
    widths = [len(_record([line], delimiter)) for line in head[start:after]]
    is_header = len(cells) > 1 and not any(map(_NUMBER.fullmatch, cells))
    if is_header and len(cells) not in widths:
        return after - start
    if len(widths) == 1 or widths[0] == len(cells):
        return 0  # the header, as far as can be known
    raise InputError(
        f"{path}: lines {start + 1} to {after} begin with #, and which are comments is not known: "
        "delete those, and write the names of the columns in the line above the rows, without #.",
        path=path,
    )


def _most_cells(head: Sequence[str]) -> tuple[str, list[str]]:
    rows = {delimiter: _record(head, delimiter) for delimiter in DELIMITERS}
    delimiter = max(rows, key=lambda own: len(rows[own]))  # the first of several
    return delimiter, rows[delimiter]


def _record(head: Sequence[str], delimiter: str) -> list[str]:
    try:
        return next(csv.reader(head, delimiter=delimiter), [])
    except csv.Error:  # a cell of more than 128 kB
        return [""]


def _names(path: Path, cells: Sequence[str]) -> list[str]:
    """Names of columns, all different: `column2` for a blank one."""
    names: list[str] = []
    for place, cell in enumerate(cells):
        name = cell.strip()
        if name and name in names:
            raise InputError(
                f"{path}: the header names two columns {name!r}: give each its own name.", path=path
            )
        names.append(name or f"column{place}")
    return names


def scan_of(path: Path, head: Head) -> str:
    """The SQL that reads every row of this very file as text."""
    columns = ", ".join(f"'c{place}': 'VARCHAR'" for place in range(len(head.names)))
    compression = "gzip" if path.name.lower().endswith(".gz") else "none"
    return (
        f"read_csv({exact_path(path)}, auto_detect = false, columns = {{{columns}}}, "
        f"compression = {literal(compression)}, "
        f"header = true, skip = {head.skipped}, delim = {literal(head.delimiter)}, "
        """quote = '"', escape = '"', comment = '', """
        f"max_line_size = {LONGEST}, hive_partitioning = false)"
    )
