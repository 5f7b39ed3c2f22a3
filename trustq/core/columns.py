"""Columns in and out of Parquet and CSV, through DuckDB, without pandas or pyarrow.

A table is a dict of equally long numpy arrays. Strings are object arrays with None for a blank;
numbers with blanks are masked arrays or floats with NaN, and a blank becomes NULL in the file.
"""

import json
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import duckdb
import numpy as np

from trustq.core.atomic_files import replacing
from trustq.core.csv_files import read_csv
from trustq.core.csv_scan import csv_notes, is_csv
from trustq.core.database import is_short, open_database, quiet
from trustq.core.excel import read_excel, sheet_notes
from trustq.core.sql_text import (
    blanks_as_none,
    exact_path,
    first_line,
    literal,
    quoted,
    scan_parquet,
)
from trustq.errors import InputError, NotFound, TrustqError

Columns = dict[str, np.ndarray]

NAMES = "trustq.columns"  # key of the footer: names of columns of which some differ in case alone
FEW_ROWS = 8192  # of a group where memory is short: 3 MB of 25 columns in place of 97
TABLES = (".parquet", ".csv", ".csv.gz", ".tsv", ".tab", ".xlsx")  # what `read_table` takes


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
    `metadata` key-value pairs (values as JSON) for the file's footer, where names that differ in
    case alone stand too: DuckDB renames such columns, and `read_table` names them back. Files
    written together may share a `connection`, for an own one takes 12 ms, more than a small file.
    """
    with replacing(path) as part:
        copy_parquet(part, columns, types=types, metadata=metadata, connection=connection, of=path)


def copy_parquet(
    part: Path,
    columns: Columns,
    *,
    of: Path,
    types: dict[str, str] | None = None,
    metadata: dict[str, Any] | None = None,
    connection: duckdb.DuckDBPyConnection | None = None,
) -> None:
    """Write columns to `part`, a temporary file that shall become `of`, which errors name."""
    types = types or {}
    flat: Columns = {}
    select = []
    if len({name.lower() for name in columns}) < len(columns):
        metadata = {**(metadata or {}), NAMES: list(columns)}
    for place, (name, array) in enumerate(columns.items()):
        # Columns of a frame have names of their own here: DuckDB merges `a` and `A`.
        if array.ndim == 2:
            parts = [f"c{place}_{j}" for j in range(array.shape[1])]
            flat.update({part: _column(array[:, j]) for j, part in enumerate(parts)})
            expression = f"[{', '.join(parts)}]"
        else:
            flat[f"c{place}"] = _column(array)
            expression = f"c{place}"
        if name in types:
            expression = f"CAST({expression} AS {types[name]})"
        select.append(f"{expression} AS {quoted(name)}")
    options = ["FORMAT parquet", "COMPRESSION zstd"]
    if is_short():  # a group of rows waits in memory until it is whole
        options.append(f"ROW_GROUP_SIZE {FEW_ROWS}")
    if metadata:
        pairs = ", ".join(
            f"{quoted(key)}: {literal(json.dumps(value, ensure_ascii=False))}"
            for key, value in metadata.items()
        )
        options.append(f"KV_METADATA {{{pairs}}}")
    with _own(connection) as connection:
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
                f"{of} could not be written: {first_line(error)}. "
                "Nothing was left half-written; free the disk or choose another place.",
                path=of,
            ) from error


def read_table(path: Path) -> Columns:
    """Read a Parquet, CSV, tab-separated or Excel file; CSV and Excel columns come as text.

    Strings are object arrays with None for a blank; numeric columns that hold blanks are masked
    arrays. Names that differ in case alone stay apart. Binary columns of Parquet that hold UTF-8
    are text, structs with a text field `path` are that path, the fields of other structs are
    columns of their own (`probs.mel`), and other binary columns, maps and lists of structs are left
    out. CSV is UTF-8, or UTF-16 with its mark. An Excel file gives its first sheet.
    Raises `TrustqError` where the file is missing, truncated, or of another kind or encoding.
    """
    path = Path(path)
    if path.is_dir():
        raise InputError(f"{path} is a folder; name the file in it.", path=path)
    if not path.is_file():
        raise NotFound(f"{path}: no such file.", path=path)
    require_content(path)
    name = path.name.lower()
    if name.endswith(".parquet"):
        return _read_parquet(path)
    if name.endswith(".xlsx"):
        return read_excel(path)
    if is_csv(path):
        return read_csv(path)
    raise InputError(
        f"{path}: expected a {', '.join(TABLES[:-1])} or {TABLES[-1]} file.", path=path
    )


def require_content(path: Path) -> None:
    """Raise `TrustqError` for a file that stands for another: Git LFS's pointer, or a web page."""
    with open(path, "rb") as file:
        start = file.read(64).lstrip().lower()
    if start.startswith(b"version https://git-lfs"):
        raise InputError(
            f"{path} is Git LFS's pointer to the file and not the file: git lfs pull fetches it.",
            path=path,
        )
    if start.startswith((b"<!doctype html", b"<html")):
        raise InputError(f"{path} is a web page and not the file: download it again.", path=path)


def unread_columns(path: Path) -> dict[str, str]:
    """Columns that `read_table` left out, and why, as the end of a sentence on the column."""
    if not path.name.lower().endswith(".parquet"):
        return {}
    source = scan_parquet(path)
    with open_database() as connection:
        described = connection.execute(f"DESCRIBE SELECT * FROM {source}").fetchall()
        return {
            name: why
            for top, kind in (row[:2] for row in described)
            for name, (sql, why) in _as_plain(connection, source, top, quoted(top), kind).items()
            if sql is None
        }


_HOLDS_NAMED = (
    "holds named values (in maps or lists): write each as a column of its own, scores as "
    "prob_<class> or logit_<class>"
)
_FIELDS_ALIKE = "has fields whose names differ in case alone: write each as a column of its own"


def table_notes(path: Path) -> list[str]:
    """Notes on what `read_table` left out of a file: comments of CSV, further sheets of Excel."""
    if path.name.lower().endswith(".xlsx"):
        return sheet_notes(path)
    return csv_notes(path) if is_csv(path) else []


def _may_be_renamed(names: Sequence[str]) -> bool:
    """Whether DuckDB may have renamed one of two columns that differ in case: `a_1` beside `A`."""
    folded = {name.lower() for name in names}
    found = (re.fullmatch(r"(.*)_\d+", name, re.DOTALL) for name in names)
    return any(match is not None and match[1].lower() in folded for match in found)


def _apart(names: Sequence[str], renamed: Sequence[str]) -> list[str]:
    taken: set[str] = set()
    apart = []
    for name, own in zip(names, renamed, strict=True):
        apart.append(own if not name or name in taken else name)
        taken.add(apart[-1])
    return apart


def _read_parquet(path: Path) -> Columns:
    source = scan_parquet(path)
    try:
        with open_database() as connection:
            described = connection.execute(f"DESCRIBE SELECT * FROM {source}").fetchall()
            names = [row[0] for row in described]
            chosen = {}
            for name, kind in (row[:2] for row in described):
                for own, (sql, _) in _as_plain(
                    connection, source, name, quoted(name), kind
                ).items():
                    if sql is not None and (own == name or own not in names):
                        chosen[own] = sql
            if not chosen:
                return {}
            select = ", ".join(f"{sql} AS {quoted(name)}" for name, sql in chosen.items())
            columns = connection.sql(f"SELECT {select} FROM {source}").fetchnumpy()
            true = dict(zip(names, names, strict=True))
            if _may_be_renamed(names):
                true = dict(zip(names, _parquet_names(connection, path, names), strict=True))
    except duckdb.Error as error:
        raise InputError(f"{path} could not be read: {first_line(error)}.", path=path) from error
    return {true.get(key, key): blanks_as_none(array) for key, array in columns.items()}


def _as_plain(
    connection: duckdb.DuckDBPyConnection, source: str, name: str, column: str, kind: str
) -> dict[str, tuple[str | None, str]]:
    """SQL that gives a column, or the fields of a struct, as numbers, texts or lists of numbers.

    By name; for what is none of these, None and why. `column` is the SQL of the column itself.
    """
    if kind == "BLOB":
        sample = connection.execute(
            f"SELECT {column} FROM {source} WHERE {column} IS NOT NULL LIMIT 20"
        ).fetchall()
        unread: dict[str, tuple[str | None, str]] = {name: (None, "holds bytes")}
        if not all(_is_text(bytes(row[0])) for row in sample):
            return unread
        try:
            connection.execute(f"SELECT max(decode({column})) FROM {source}").fetchall()
        except duckdb.Error:
            return unread
        return {name: (f"decode({column})", "")}
    if kind.startswith("STRUCT(") and not kind.endswith("]"):
        if re.search(
            r"[(,] ?\"?path\"? VARCHAR", kind
        ):  # images of Hugging Face: bytes, and a path
            return {name: (f"{column}.path", "")}
        fields = connection.execute(f"DESCRIBE SELECT unnest({column}) FROM {source}").fetchall()
        if _may_be_renamed([row[0] for row in fields]):
            return {name: (None, _FIELDS_ALIKE)}
        found: dict[str, tuple[str | None, str]] = {}
        for place, (field, own) in enumerate((row[:2] for row in fields), start=1):
            at = f"struct_extract_at({column}, {place})"
            found |= _as_plain(connection, source, f"{name}.{field}", at, own)
        return found
    if kind.startswith(("MAP", "UNION")) or "BLOB" in kind or "STRUCT" in kind:
        return {name: (None, _HOLDS_NAMED)}
    return {name: (f"CAST({column} AS VARCHAR)" if kind == "UUID" else column, "")}


def _is_text(value: bytes) -> bool:
    try:
        text = value.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return all(letter >= " " or letter in "\t\r\n" for letter in text)


def _parquet_names(
    connection: duckdb.DuckDBPyConnection, path: Path, renamed: Sequence[str]
) -> list[str]:
    rows = connection.execute(
        f"SELECT name, num_children FROM parquet_schema({exact_path(path)})"
    ).fetchall()
    names = []
    at = 1  # after the root

    def skip(place: int) -> int:
        after = place + 1
        for _ in range(rows[place][1] or 0):
            after = skip(after)
        return after

    while at < len(rows):
        names.append(rows[at][0])
        at = skip(at)
    stated = read_metadata(path, connection).get(NAMES)
    if isinstance(stated, list) and len(stated) == len(names):
        names = list(map(str, stated))
    return _apart(names, renamed) if len(names) == len(renamed) else list(renamed)


def read_metadata(
    path: Path, connection: duckdb.DuckDBPyConnection | None = None
) -> dict[str, Any]:
    """Key-value pairs from a Parquet file's footer, as `write_parquet` put them there."""
    with _own(connection) as connection:
        rows = connection.execute(
            f"SELECT decode(key), decode(value) FROM parquet_kv_metadata({exact_path(path)})"
        ).fetchall()
    metadata = {}
    for key, value in rows:
        try:
            metadata[key] = json.loads(value)
        except (ValueError, RecursionError):
            continue  # another writer's footer entry
    return metadata


@contextmanager
def _own(connection: duckdb.DuckDBPyConnection | None) -> Iterator[duckdb.DuckDBPyConnection]:
    if connection is not None:
        with connection.cursor() as cursor:  # what is registered on it goes with it
            yield quiet(cursor)
    else:
        with open_database() as own:
            yield own


def _column(array: np.ndarray) -> np.ndarray:
    # DuckDB reads numpy's fixed-length strings as enums and refuses half precision.
    if array.dtype.kind == "U":
        return array.astype(object)
    if array.dtype == np.float16:
        return array.astype(np.float32)
    return array
