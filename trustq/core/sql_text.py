"""Names, texts and paths within SQL, and what comes back from DuckDB as plain arrays."""

import re
from pathlib import Path

import numpy as np


def quoted(name: str) -> str:
    """An SQL identifier.

    >>> quoted('a"b')
    '"a""b"'
    """
    return '"' + name.replace('"', '""') + '"'


def literal(text: str) -> str:
    """An SQL string literal.

    >>> literal("it's")
    "'it''s'"
    """
    return "'" + text.replace("'", "''") + "'"


def exact_path(path: Path) -> str:
    """An SQL literal that DuckDB takes for this path and no other.

    >>> exact_path(Path("a*.csv"))
    "'a[*].csv'"
    """
    return literal(re.sub(r"([*?\[])", r"[\1]", str(path)))


def first_line(error: object) -> str:
    """The first line of a message.

    >>> first_line(ValueError("one\\ntwo"))
    'one'
    """
    return next(iter(str(error).splitlines()), "")


def blanks_as_none(array: np.ndarray) -> np.ndarray:
    """A column as DuckDB gives it, with None for a blank text; numbers stay masked.

    >>> blanks_as_none(np.ma.array(["a", ""], dtype=object, mask=[False, True])).tolist()
    ['a', None]
    """
    if not isinstance(array, np.ma.MaskedArray):
        return array
    if array.dtype == object:
        plain = array.data.copy()
        plain[np.ma.getmaskarray(array)] = None
        return plain
    return array if array.mask.any() else array.data
