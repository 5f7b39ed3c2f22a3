"""Names, texts and paths within SQL, and what comes back from DuckDB as plain arrays."""

import re
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
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


def blanks_as_none(array: "np.ndarray") -> "np.ndarray":
    """A column as DuckDB gives it, with None for a blank text; numbers stay masked.

    >>> import numpy as np
    >>> blanks_as_none(np.ma.array(["a", ""], dtype=object, mask=[False, True])).tolist()
    ['a', None]
    """
    import numpy as np  # queries read no array and start sooner without it

    if not isinstance(array, np.ma.MaskedArray):
        return array
    if array.dtype == object:
        plain = array.data.copy()
        plain[np.ma.getmaskarray(array)] = None
        return plain
    return array if array.mask.any() else array.data


def scan_parquet(*paths: Path, options: str = "") -> str:
    """The SQL that reads these very Parquet files, wherever they lie.

    DuckDB takes columns from folders that are called `key=value`, and a path for a pattern.

    >>> scan_parquet(Path("arm=a/p[1].parquet"))
    "read_parquet(['arm=a/p[[]1].parquet'], hive_partitioning = false)"
    """
    listed = ", ".join(map(exact_path, paths))
    more = f", {options}" if options else ""
    return f"read_parquet([{listed}], hive_partitioning = false{more})"
