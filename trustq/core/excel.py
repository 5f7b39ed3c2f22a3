"""The first sheet of an Excel file (.xlsx) as columns of text, as the same sheet saved as CSV."""

import zipfile
from pathlib import Path
from typing import Any

import numpy as np

from trustq.core.counts import counted, verb
from trustq.errors import DamagedFile, InputError


def read_excel(path: Path) -> dict[str, np.ndarray]:
    """Columns of the first sheet, whose first row holds the names; blanks are None.

    Empty rows before it, and a title that an empty row follows, are passed over. Needs openpyxl.
    Raises `TrustqError` for a damaged or an empty file.
    """
    try:
        import openpyxl
    except ModuleNotFoundError as error:
        raise InputError(
            f"{path}: Excel files need openpyxl (pip install openpyxl). Or save it as CSV.",
            path=path,
        ) from error
    try:
        # Not read_only: its sheets keep the file open, and some writers leave out their size.
        book = openpyxl.load_workbook(path, data_only=True)
        rows = [list(map(_cell, row)) for row in book.worksheets[0].iter_rows(values_only=True)]
    except Exception as error:  # openpyxl raises whatever a damaged part makes it stumble over
        raise DamagedFile(
            f"{path} could not be read as an Excel file: {error}.", path=path
        ) from error
    _require_values(path, book)
    while rows and not any(rows[0]):
        rows.pop(0)
    while rows and not any(rows[-1]):
        rows.pop()
    if not rows:
        raise InputError(f"{path}: the first sheet is empty.", path=path)
    below = next((row for row in range(1, len(rows)) if any(rows[row])), 0)
    if below > 1 and _n_cells(rows[0]) == 1 < _n_cells(rows[below]):
        rows = rows[below:]  # a title above the table, which an empty row sets apart, as in CSV
    names: list[str] = []
    for place, name in enumerate(rows[0]):
        title = (name or "").strip() or f"column{place}"
        if title in names:
            raise InputError(
                f"{path}: the first sheet names two columns {title!r}: give each its own name.",
                path=path,
            )
        names.append(title)
    columns = {}
    for place, name in enumerate(names):
        values = np.array([row[place] for row in rows[1:]] + [""], dtype=object)[:-1]
        if rows[0][place] is not None or any(value is not None for value in values):
            columns[name] = values
    return columns


def sheet_notes(path: Path) -> list[str]:
    """A note on further sheets that hold rows, which are not read, of a file that can be read."""
    with zipfile.ZipFile(path) as file:
        sheets = [one for one in file.namelist() if one.startswith("xl/worksheets/sheet")]
        filled = sum(b"<row" in file.read(one) for one in sheets) if len(sheets) > 1 else 1
    return [f"of {filled} sheets of {path.name} the first is read"] if filled > 1 else []


def _n_cells(row: list[str | None]) -> int:
    return sum(cell is not None for cell in row)


def _require_values(path: Path, book: Any) -> None:
    """Raise `TrustqError` for formulas whose value was not saved: they would read as blanks."""
    import openpyxl

    name = book.worksheets[0].title
    with zipfile.ZipFile(path) as file:
        sheets = [one for one in file.namelist() if one.startswith("xl/worksheets/")]
        if not any(b"<f>" in (text := file.read(one)) or b"<f " in text for one in sheets):
            return
    lost = [
        cell.coordinate
        for row in openpyxl.load_workbook(path)[name].iter_rows()
        for cell in row
        if cell.data_type == "f" and book[name][cell.coordinate].value is None
    ]
    if lost:
        raise InputError(
            f"{path}: {counted(len(lost), 'cell')}, first {lost[0]}, "
            f"{verb(len(lost), 'holds', 'hold')} a formula without its value: open it in a "
            "spreadsheet program and save it, or write texts that begin with = as texts.",
            path=path,
        )


def _cell(value: Any) -> str | None:
    """A cell as CSV would have it."""
    if value is None or value == "":
        return None
    if isinstance(value, bool):
        return str(value).upper()
    if isinstance(value, float) and value.is_integer() and abs(value) < 2**53:
        return str(int(value))
    return value.isoformat() if hasattr(value, "isoformat") else str(value)
