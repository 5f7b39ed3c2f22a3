"""What an adapter hands over: the rows of a data set, not yet split, and how errors name them."""

import difflib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from trustq.errors import TrustqError
from trustq.tables import Columns

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp")


@dataclass(frozen=True)
class Rows:
    """Rows of a data set in its published order, before they are split.

    `columns` holds what a manifest needs but `split`, which it holds only where the data set comes
    with splits (`split_origin` then says from where). `source` names the origin of the rows in
    errors, `notes` are sentences for the person who prepares.
    """

    columns: Columns
    classes: tuple[str, ...]
    root: Path
    source: str
    split_origin: dict[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


def column(columns: Columns, name: str, *, source: str) -> np.ndarray:
    """A column by its name; `TrustqError` names the nearest one where it is missing.

    >>> column({"dx": np.array(["nv"])}, "dx", source="a.csv").tolist()
    ['nv']
    """
    if name in columns:
        return columns[name]
    close = difflib.get_close_matches(name, list(columns), n=1, cutoff=0.5)
    nearest = f" Did you mean {close[0]!r}?" if close else ""
    raise TrustqError(
        f"{source} has no column {name!r}; its columns are {', '.join(columns)}.{nearest}"
    )


def named_rows(rows: Sequence[int], ids: Sequence[Any], *, most: int = 5) -> str:
    """Rows with their ids as an error names them, counted from 1 below the header.

    >>> named_rows([0, 2], ["a", "b", "c"])
    'rows 1 (a) and 3 (c)'
    """
    named = [f"{row + 1} ({ids[row]})" for row in rows]
    if len(named) > most:
        return f"rows {', '.join(named[:most])} and {len(named) - most} more"
    *head, last = named
    return f"rows {', '.join(head)} and {last}" if head else f"row {last}"


def texts(values: Sequence[Any]) -> np.ndarray:
    """Values as an object array of strings, with None for a blank.

    >>> texts([1, None, "a"]).tolist()
    ['1', None, 'a']
    """
    array = np.empty(len(values), dtype=object)
    array[:] = [None if value is None or value == "" else str(value) for value in values]
    return array
