"""Tables of delimited text (CSV, tab-separated), every cell as text, no row skipped or guessed.

DuckDB parses the rows, which is fast; what it would guess from samples of them (delimiter, header,
comments, rows to skip) is decided here, from the head of the file alone.
"""

import codecs
import re
import tempfile
import zlib
from contextlib import suppress
from pathlib import Path
from typing import Any

import duckdb
import numpy as np

from trustq.core.csv_scan import LONGEST, holds_marks, opener, read_head, scan_of
from trustq.core.database import open_database
from trustq.core.spreadsheets import as_written
from trustq.core.sql_text import blanks_as_none, first_line
from trustq.core.words import decimal_points
from trustq.errors import InputError, TrustqError


def read_csv(path: Path) -> dict[str, np.ndarray]:
    """Columns of a CSV or tab-separated file as object arrays of texts, with None for a blank.

    The separator is the one that makes most columns of the header: a comma, semicolon, tab or bar,
    or what a first line `sep=;` says. Empty lines and comments (`#`) before the header, and a title
    that an empty line follows, are passed over; every other line is a row, with as many cells as
    the header. Raises `TrustqError` for a file that is empty, damaged, of another encoding, or with
    other rows.
    """
    opened = opener(path)
    try:
        with opened(path, "rb") as file:
            start = file.read(200)
            _require_text(path, start)
            is_utf16 = start.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
            if start.startswith(codecs.BOM_UTF32_LE) or (b"\0" in start and not is_utf16):
                raise InputError(
                    f"{path} has zero bytes, as UTF-16 without a mark and UTF-32 have, not UTF-8: "
                    f"save it as UTF-8, for example: iconv -f {_wide_form(start)} -t UTF-8 "
                    f"{path} > utf8.csv",
                    path=path,
                )
            file.seek(0)
            whole = file.read() if is_utf16 else b""
    except (OSError, EOFError, zlib.error) as error:
        raise InputError(f"{path} could not be read: {error}.", path=path) from error
    if is_utf16:
        return _read_utf16(path, whole)
    try:
        with opened(path, "rt", encoding="utf-8-sig", newline="") as lines:
            head = read_head(lines, path)
        if head.is_mixed:
            return _again(path, opened, ValueError("lines end in several ways"))
        with open_database() as connection:
            found = connection.sql(f"SELECT * FROM {scan_of(path, head)}").fetchnumpy()
    except (UnicodeDecodeError, OSError, EOFError, zlib.error, duckdb.Error) as error:
        return _again(path, opened, error)
    texts = map(blanks_as_none, found.values())
    if head.delimiter != ",":  # as spreadsheets of many countries write numbers
        texts = map(_pointed, texts)
    # Cells that a list of ours marked as text for spreadsheets; no column is searched for none.
    if holds_marks(path, opened):
        return dict(zip(head.names, map(_unmarked, texts), strict=True))
    return dict(zip(head.names, texts, strict=True))


# How files of other kinds begin, which a name may hide.
_KINDS = {
    b"PK\x03\x04": "a zip archive, as Excel files (.xlsx) and npz files are",
    b"\xd0\xcf\x11\xe0": "an Excel file of the old kind (.xls)",
    b"PAR1": "a Parquet file",
    b"\x1f\x8b": "compressed by gzip (.csv.gz)",
    b"\x89HDF": "an HDF5 file",
    b"\x93NUMPY": "an npy file of numpy",
    b"\x89PNG": "an image",
    b"\xff\xd8\xff": "an image",
    b"%PDF": "a PDF",
}


def _require_text(path: Path, start: bytes) -> None:
    kind = next((said for mark, said in _KINDS.items() if start.startswith(mark)), None)
    if kind is not None:
        raise InputError(
            f"{path} is no CSV file but {kind}: give it the ending of its kind, or save it as CSV.",
            path=path,
        )


def _again(path: Path, opened: Any, error: Exception) -> dict[str, np.ndarray]:
    """Read a file of mixed line ends with one kind of them; raise what is wrong with any other."""
    try:
        with opened(path, "rb") as file:
            whole = file.read()
    except (OSError, EOFError, zlib.error) as damaged:
        raise InputError(f"{path} could not be read: {damaged}.", path=path) from damaged
    _require_utf8(path, whole)
    plain = whole.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
    if plain != whole:
        return _of_text(path, plain.decode("utf-8-sig"))
    raise InputError(_sentence(path, str(error)), path=path) from error


def _sentence(path: Path, message: str) -> str:
    """What DuckDB says of a row that does not fit, in one sentence."""
    line = re.search(r"CSV Error on Line: (\d+)", message)
    cells = re.search(r"Expected Number of Columns: (\d+) Found: (\d+)", message)
    where = f"{path}, line {line[1]}" if line else str(path)
    if cells:
        found, expected = int(cells[2]), int(cells[1])
        short = f"{found} cell{'s' * (found != 1)}"
        # DuckDB stops counting at the first cell too many.
        found_text = f"more than {expected} cells" if found > expected else short
        return f"{where}: {found_text}, and the header names {expected} columns: mend that row."
    if "unterminated quote" in message or "quote should be followed" in message:
        return f'{where}: a quote (") is opened and not closed as CSV has it: mend that row.'
    if "Maximum line size" in message:
        return f"{where}: a row of more than {LONGEST >> 20} MB; is it a CSV file?"
    return f"{path} could not be read as CSV: {first_line(message)}"


def _pointed(column: np.ndarray) -> np.ndarray:
    """A column of numbers with decimal commas as such with points."""
    pointed = decimal_points(column.tolist())
    return column if pointed is None else np.array([*pointed, None], dtype=object)[:-1]


def _unmarked(column: np.ndarray) -> np.ndarray:
    if column.dtype != object:
        return column
    return np.array([as_written(value) for value in column.tolist()] + [None], dtype=object)[:-1]


def _read_utf16(path: Path, whole: bytes) -> dict[str, np.ndarray]:
    try:
        text = whole.decode("utf-16")
    except UnicodeDecodeError as error:
        raise InputError(f"{path} begins as UTF-16 and is not: {error}.", path=path) from error
    return _of_text(path, text)


def _of_text(path: Path, text: str) -> dict[str, np.ndarray]:
    with tempfile.TemporaryDirectory() as folder:
        plain = Path(folder) / "table.csv"
        with open(plain, "w", encoding="utf-8", newline="") as file:
            file.write(text.replace("\r\n", "\n").replace("\r", "\n"))
        try:
            return read_csv(plain)
        except TrustqError as error:
            raise InputError(str(error).replace(str(plain), str(path)), path=path) from error


def _require_utf8(path: Path, whole: bytes) -> None:
    with suppress(UnicodeDecodeError):
        whole.decode("utf-8")
        return
    for number, line in enumerate(whole.splitlines(keepends=True), 1):
        try:
            line.decode("utf-8")
        except UnicodeDecodeError as error:
            seen = line[max(error.start - 20, 0) : error.start + 20]
            raise InputError(
                f"{path} is not UTF-8: byte 0x{line[error.start]:02x} in line {number} (in "
                f"Windows-1252 it reads {seen.decode('cp1252', 'replace').strip()!r}). Save it "
                f"as UTF-8, for example: iconv -f CP1252 -t UTF-8 {path} > utf8.csv",
                path=path,
            ) from error


def _wide_form(start: bytes) -> str:
    """Which form of wide letters a text starts with, by where its zero bytes are.

    >>> [_wide_form("id,".encode(form)) for form in ("utf-16-le", "utf-16-be", "utf-32")]
    ['UTF-16LE', 'UTF-16BE', 'UTF-32']
    """
    if start.startswith((codecs.BOM_UTF32_LE, codecs.BOM_UTF32_BE)):
        return "UTF-32"
    zeros = [place % 4 for place, byte in enumerate(start) if not byte]
    if {0, 1} <= set(zeros) or {2, 3} <= set(zeros):
        return "UTF-32BE" if 0 in zeros and 3 not in zeros else "UTF-32LE"
    return "UTF-16BE" if sum(place % 2 == 0 for place in zeros) * 2 > len(zeros) else "UTF-16LE"
