"""Label sheets: tables of `sample_id` and `label` that people filled in."""

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

import numpy as np

from trustq.core import columns as tables
from trustq.core.atomic_files import replacing
from trustq.core.class_names import ClassPosition, unknown_class
from trustq.core.column_names import ID_COLUMNS, first_called
from trustq.core.spreadsheets import csv_text
from trustq.core.words import is_blank, plain_texts
from trustq.errors import InputError


def read_sheet(
    path: Path, *, classes: Sequence[str], columns: Sequence[str] = ("label",)
) -> dict[str, list[int]]:
    """Class indices by sample id, as many as the sheet has rows for the id; blanks are left out.

    The labels are in the first of `columns` that the file has, in any spelling by which
    `ClassPosition` finds one class. Join the ids by `find_ids`. Raises `TrustqError` where a column
    is missing, no row holds a label, or a label is none of `classes`.
    """
    table = tables.read_table(path)
    by, name = sheet_columns(table, columns, where=str(path))
    answers: dict[str, list[int]] = {}
    find = ClassPosition(classes)
    ids, texts = plain_texts(table[by]), plain_texts(table[name])
    for row, (sample, text) in enumerate(zip(ids, texts, strict=True), 2):
        if not sample or not text:
            continue
        place = find(text)
        if place is None and is_blank(text):  # NA, nan, unknown: no class has that name
            continue
        if place is None:
            raise InputError(
                f"{path}, row {row}: {unknown_class(text, classes)}.",
                path=path,
                expected=classes,
                found=text,
            )
        answers.setdefault(sample, []).append(place)
    if not answers:
        raise InputError(
            f"{path} holds no row with a label in its column {name}: fill it in, or leave it out.",
            path=path,
        )
    return answers


def sheet_columns(there: Collection[str], names: Sequence[str], *, where: str) -> tuple[str, str]:
    """The columns of ids and of what a sheet says, the first of `names` that is there.

    Raises `TrustqError` where one is missing.
    """
    by, name = first_called(there, ID_COLUMNS), first_called(there, names)
    if by is None or name is None:
        wanted = " or ".join(names)
        missing = ["sample_id"] * (by is None) + [wanted] * (name is None)
        raise InputError(
            f"{where} has the columns {', '.join(there)}; expected sample_id and {wanted}. Rename "
            f"a column to {' and another to '.join(missing)}."
        )
    return by, name


def require_csv(path: Path) -> None:
    """Raise `TrustqError` for a file to write whose ending is of another kind than CSV.

    >>> require_csv(Path("labels.csv"))
    """
    if path.suffix.lower() not in (".csv", ""):
        raise InputError(
            f"{path}: the table is written as CSV; call it {path.stem}.csv.", path=path
        )


def write_sheet(path: Path, rows: Sequence[Mapping[str, object]]) -> None:
    """Write rows, at least one, as a CSV file, whole or not at all; columns are the first row's.

    Raises `TrustqError` as `require_csv` does.
    """
    require_csv(path)
    names = list(rows[0])
    with replacing(path) as part, open(part, "w", encoding="utf-8", newline="") as file:
        file.write(csv_text(names, ([row[name] for name in names] for row in rows)))


def read_numbers(path: Path, *, column: str) -> dict[str, float]:
    """A number above 0 by sample id; raises `TrustqError` where one is not, or an id has two."""
    table = tables.read_table(path)
    by, name = sheet_columns(table, (column,), where=str(path))
    numbers: dict[str, float] = {}
    ids = plain_texts(table[by])
    for row, (sample, text) in enumerate(zip(ids, table[name].tolist(), strict=True), 2):
        try:
            number = float(text)
        except (TypeError, ValueError):
            number = -1.0
        if not 0 < number < np.inf:
            raise InputError(
                f"{path}, row {row}: {column} is {text!r}, expected a number above 0.", path=path
            )
        if numbers.setdefault(sample, number) != number:
            raise InputError(f"{path}, row {row}: {sample} has two numbers of {column}.", path=path)
    return numbers
