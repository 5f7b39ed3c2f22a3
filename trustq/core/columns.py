"""Columns in and out of Parquet and CSV, through DuckDB, without pandas or pyarrow.

A table is a dict of equally long numpy arrays. Strings are object arrays with None for a blank;
numbers with blanks are masked arrays or floats with NaN, and a blank becomes NULL in the file.
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import duckdb
import numpy as np

from trustq.core.atomic_files import replacing
from trustq.errors import TrustqError

Columns = dict[str, np.ndarray]


def write_parquet(
    path: Path,
    columns: Columns,
    *,
    types: dict[str, str] | None = None,
    metadata: dict[str, Any] | None = None,
    connection: duckdb.DuckDBPyConnection | None = None,
) -> None:
    """Write columns as one Parquet file, whole or not at all.

    A two-dimensional array becomes a list column. `types` gives SQL types by column name,
    `metadata` key-value pairs (values as JSON) for the file's footer. Files written together may
    share a `connection`, for an own one takes 12 ms, more than a small file.
    """
    types = types or {}
    flat: Columns = {}
    select = []
    for name, array in columns.items():
        if array.ndim == 2:
            parts = [f"{name}__{j}" for j in range(array.shape[1])]
            flat.update({part: _column(array[:, j]) for j, part in enumerate(parts)})
            expression = f"[{', '.join(map(quoted, parts))}]"
        else:
            flat[name] = _column(array)
            expression = quoted(name)
        if name in types:
            expression = f"CAST({expression} AS {types[name]})"
        select.append(f"{expression} AS {quoted(name)}")
    options = ["FORMAT parquet", "COMPRESSION zstd"]
    if metadata:
        pairs = ", ".join(
            f"{quoted(key)}: {literal(json.dumps(value, ensure_ascii=False))}"
            for key, value in metadata.items()
        )
        options.append(f"KV_METADATA {{{pairs}}}")
    with replacing(path) as part, _own(connection) as connection:
        try:
            connection.register("columns", flat)
            connection.execute(
                f"COPY (SELECT {', '.join(select)} FROM columns) TO {literal(str(part))} "
                f"({', '.join(options)})"
            )
        except RuntimeError as error:
            if str(error) == "Query interrupted":  # what DuckDB makes of Ctrl-C
                raise KeyboardInterrupt from error
            raise
        except duckdb.IOException as error:
            raise TrustqError(
                f"{path} could not be written: {_first_line(error)}. "
                "Nothing was left half-written; free the disk or choose another place."
            ) from error


def read_table(path: Path) -> Columns:
    """Read a Parquet or CSV file; every CSV column comes as text, a blank as None.

    Strings are object arrays; numeric columns that hold blanks are masked arrays.
    Raises `TrustqError` where the file is missing, truncated or of another kind.
    """
    path = Path(path)
    if not path.is_file():
        raise TrustqError(f"{path}: no such file.")
    name = path.name.lower()
    if name.endswith((".csv", ".csv.gz")) or "." not in name:  # HAM10000_metadata has no ending
        # Quotes are told, for DuckDB looks for them in the first 20,480 rows only.
        options = """header = true, all_varchar = true, quote = '"', escape = '"'"""
        source = f"read_csv({literal(str(path))}, {options})"
    elif name.endswith(".parquet"):
        source = f"read_parquet({literal(str(path))})"
    else:
        raise TrustqError(f"{path}: expected a .parquet, .csv or .csv.gz file.")
    try:
        with duckdb.connect() as connection:
            columns = connection.sql(f"SELECT * FROM {source}").fetchnumpy()
    except duckdb.Error as error:
        raise TrustqError(f"{path} could not be read: {_first_line(error)}") from error
    return {key: _blanks_as_none(array) for key, array in columns.items()}


def read_metadata(path: Path) -> dict[str, Any]:
    """Key-value pairs from a Parquet file's footer, as `write_parquet` put them there."""
    with duckdb.connect() as connection:
        rows = connection.execute(
            "SELECT decode(key), decode(value) FROM parquet_kv_metadata(?)", [str(path)]
        ).fetchall()
    metadata = {}
    for key, value in rows:
        try:
            metadata[key] = json.loads(value)
        except ValueError:
            continue  # another writer's footer entry
    return metadata


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


@contextmanager
def _own(connection: duckdb.DuckDBPyConnection | None) -> Iterator[duckdb.DuckDBPyConnection]:
    if connection is not None:
        with connection.cursor() as cursor:  # what is registered on it goes with it
            yield cursor
    else:
        with duckdb.connect() as own:
            yield own


def _column(array: np.ndarray) -> np.ndarray:
    # DuckDB reads numpy's fixed-length strings as enums and refuses half precision.
    if array.dtype.kind == "U":
        return array.astype(object)
    if array.dtype == np.float16:
        return array.astype(np.float32)
    return array


def _blanks_as_none(array: np.ndarray) -> np.ndarray:
    if not isinstance(array, np.ma.MaskedArray):
        return array
    if array.dtype == object:
        plain = array.data.copy()
        plain[np.ma.getmaskarray(array)] = None
        return plain
    return array if array.mask.any() else array.data


def _first_line(error: Exception) -> str:
    return str(error).splitlines()[0]
