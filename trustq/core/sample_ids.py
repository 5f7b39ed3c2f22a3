"""Rows of two tables matched by id, with or without the ending of an image file."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from trustq.core.columns import Columns, read_table
from trustq.errors import InputError, NotFound

# What a column of ids may be called, the first that is there.
ID_COLUMNS = ("sample_ids", "sample_id", "image_id", "image", "isic_id", "id")
_IMAGE_ENDINGS = (".jpg", ".jpeg", ".png")


def id_keys(ids: np.ndarray) -> list[str]:
    """Ids as texts without the ending of an image file.

    >>> id_keys(np.array(["ISIC_1.JPG", "ISIC_2"]))
    ['ISIC_1', 'ISIC_2']
    """
    if ids.dtype.kind == "S":
        ids = np.char.decode(ids, "utf-8")
    keys = []
    for text in map(str, ids.tolist()):
        ending = next((e for e in _IMAGE_ENDINGS if text.lower().endswith(e)), "")
        keys.append(text[: len(text) - len(ending)])
    return keys


@dataclass(frozen=True)
class Joinable:
    """A table whose rows are found by id."""

    path: Path
    columns: Columns
    position: dict[str, int]

    def rows(self, keys: Sequence[str]) -> list[int | None]:
        """The row of each of `keys`, as `id_keys` makes them; None where the table lacks it."""
        return [self.position.get(key) for key in keys]


def read_joinable(table: Path, *, by: str | None = None) -> Joinable:
    """A table and the places of its ids.

    `by` names the column of ids [default: the first of `ID_COLUMNS` that is there]. Raises
    `TrustqError` for no such column, or ids twice.
    """
    columns = read_table(table)
    name = next((name for name in (by, *ID_COLUMNS) if name in columns), None)
    if name is None:
        raise NotFound(
            f"{table} has no column of ids; it has {', '.join(columns)}: "
            f"call it one of {', '.join(ID_COLUMNS)}.",
            path=table,
            expected=columns,
        )
    theirs = id_keys(columns[name])
    position = {key: row for row, key in enumerate(theirs)}
    if len(position) < len(theirs):
        raise InputError(f"{table}: {name} must be unique to be joined by.", path=table)
    return Joinable(table, columns, position)


def find_rows(
    table: Path, keys: Sequence[str], *, by: str | None = None
) -> tuple[Columns, list[int | None]]:
    """Columns of a table, and the row of each of `keys` (None where the table lacks it).

    Raises `TrustqError` as `read_joinable` does.
    """
    found = read_joinable(table, by=by)
    return found.columns, found.rows(keys)
