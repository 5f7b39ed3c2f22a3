"""Columns in and out of Parquet and CSV, through DuckDB, without pandas or pyarrow.

A table is a dict of equally long numpy arrays. Strings are object arrays with None for a blank;
numbers with blanks are masked arrays or floats with NaN, and a blank becomes NULL in the file.
"""

import codecs
import csv
import gzip
import itertools
import json
import re
import tempfile
import zlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import duckdb
import numpy as np

from trustq.core.atomic_files import replacing
from trustq.core.excel import read_excel
from trustq.core.spreadsheets import FORMULA_STARTS, MARK, as_written
from trustq.errors import InputError, NotFound, TrustqError

Columns = dict[str, np.ndarray]

CSV_ENDINGS = (".csv", ".tsv", ".tab")
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
    `metadata` key-value pairs (values as JSON) for the file's footer. Files written together may
    share a `connection`, for an own one takes 12 ms, more than a small file.
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
                f"{of} could not be written: {_first_line(error)}. "
                "Nothing was left half-written; free the disk or choose another place.",
                path=of,
            ) from error


def read_table(path: Path) -> Columns:
    """Read a Parquet, CSV, tab-separated or Excel file; CSV and Excel columns come as text.

    Strings are object arrays with None for a blank; numeric columns that hold blanks are masked
    arrays. Names that differ in case alone stay apart. Binary columns of Parquet that hold UTF-8
    are text, structs with a text field `path` are that path, and other binary columns, structs and
    maps are left out. CSV is UTF-8, or UTF-16 with its mark. An Excel file gives its first sheet.
    Raises `TrustqError` where the file is missing, truncated, or of another kind or encoding.
    """
    path = Path(path)
    if not path.is_file():
        raise NotFound(f"{path}: no such file.", path=path)
    name = path.name.lower()
    if name.endswith(".parquet"):
        return _read_parquet(path)
    if name.endswith(".xlsx"):
        return read_excel(path)
    # HAM10000_metadata has no ending.
    if name.removesuffix(".gz").endswith(CSV_ENDINGS) or "." not in name:
        return _read_csv(path)
    raise InputError(
        f"{path}: expected a {', '.join(TABLES[:-1])} or {TABLES[-1]} file.", path=path
    )


def scan_csv(path: Path) -> str:
    """The SQL that reads this very CSV file, every column as text."""
    # Quotes are told, for DuckDB looks for them in the first 20,480 rows only.
    options = """header = true, all_varchar = true, quote = '"', escape = '"'"""
    return f"read_csv({exact_path(path)}, {options}, hive_partitioning = false)"


def scan_parquet(*paths: Path, options: str = "") -> str:
    """The SQL that reads these very Parquet files, wherever they lie.

    DuckDB takes columns from folders that are called `key=value`, and a path for a pattern.

    >>> scan_parquet(Path("arm=a/p[1].parquet"))
    "read_parquet(['arm=a/p[[]1].parquet'], hive_partitioning = false)"
    """
    listed = ", ".join(map(exact_path, paths))
    more = f", {options}" if options else ""
    return f"read_parquet([{listed}], hive_partitioning = false{more})"


def exact_path(path: Path) -> str:
    """An SQL literal that DuckDB takes for this path and no other.

    >>> exact_path(Path("a*.csv"))
    "'a[*].csv'"
    """
    return literal(re.sub(r"([*?\[])", r"[\1]", str(path)))


def _read_csv(path: Path) -> Columns:
    opened = gzip.open if path.name.lower().endswith(".gz") else open
    try:
        with opened(path, "rb") as file:
            is_utf16 = file.read(2) in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
            file.seek(0)
            whole = file.read() if is_utf16 else b""
    except (OSError, EOFError, zlib.error) as error:
        raise InputError(f"{path} could not be read: {error}.", path=path) from error
    if is_utf16:
        return _read_utf16(path, whole)
    try:
        with duckdb.connect() as connection:
            columns = connection.sql(f"SELECT * FROM {scan_csv(path)}").fetchnumpy()
    except duckdb.Error as error:
        _require_utf8(path, opened)
        raise InputError(f"{path} could not be read: {_first_line(error)}", path=path) from error
    names = list(columns)
    if _may_be_renamed(names):
        with opened(path, "rt", encoding="utf-8-sig", newline="") as lines:
            names = _header(lines, names)
    texts = map(_blanks_as_none, columns.values())
    # Cells that a list of ours marked as text for spreadsheets; no column is searched for none.
    if _holds(path, opened, [f"{MARK}{start}".encode() for start in (*FORMULA_STARTS, MARK)]):
        return dict(zip(names, map(_unmarked, texts), strict=True))
    return dict(zip(names, texts, strict=True))


def _holds(path: Path, opened: Any, wanted: list[bytes]) -> bool:
    with opened(path, "rb") as file:
        while block := file.read(1 << 24):
            if any(text in block for text in wanted):
                return True
    return False


def _unmarked(column: np.ndarray) -> np.ndarray:
    if column.dtype != object:
        return column
    return np.array([as_written(value) for value in column.tolist()] + [None], dtype=object)[:-1]


def _read_utf16(path: Path, whole: bytes) -> Columns:
    try:
        text = whole.decode("utf-16")
    except UnicodeDecodeError as error:
        raise InputError(f"{path} begins as UTF-16 and is not: {error}.", path=path) from error
    with tempfile.TemporaryDirectory() as folder:
        plain = Path(folder) / "table.csv"
        with open(plain, "w", encoding="utf-8", newline="") as file:
            file.write(text)
        try:
            return _read_csv(plain)
        except TrustqError as error:
            raise InputError(str(error).replace(str(plain), str(path))) from error


def _require_utf8(path: Path, opened: Any) -> None:
    with opened(path, "rb") as file:
        for number, line in enumerate(file, 1):
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


def _may_be_renamed(names: Sequence[str]) -> bool:
    """Whether DuckDB may have renamed one of two columns that differ in case: `a_1` beside `A`."""
    folded = {name.lower() for name in names}
    found = (re.fullmatch(r"(.*)_\d+", name, re.DOTALL) for name in names)
    return any(match is not None and match[1].lower() in folded for match in found)


def _header(lines: Iterable[str], renamed: list[str]) -> list[str]:
    """The column names as the file has them; repeated ones as DuckDB made them different."""
    head = list(itertools.islice(lines, 100))
    for delimiter in (",", ";", "\t", "|"):
        for row in csv.reader(head, delimiter=delimiter):
            names = [
                name.strip() if name.strip() == own else name
                for name, own in zip(row, renamed, strict=False)
            ]
            if len(row) == len(renamed) and _is_renaming(names, renamed):
                return _apart(names, renamed)
    return renamed


def _is_renaming(names: Sequence[str], renamed: Sequence[str]) -> bool:
    return all(
        not name or own == name or re.fullmatch(re.escape(name) + r"_\d+", own, re.DOTALL)
        for name, own in zip(names, renamed, strict=True)
    )


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
        with duckdb.connect() as connection:
            described = connection.execute(f"DESCRIBE SELECT * FROM {source}").fetchall()
            names = [row[0] for row in described]
            chosen = {}
            for name, kind in (row[:2] for row in described):
                expression = _as_plain(connection, source, name, kind)
                if expression is not None:
                    chosen[name] = expression
            if not chosen:
                return {}
            select = ", ".join(f"{sql} AS {quoted(name)}" for name, sql in chosen.items())
            columns = connection.sql(f"SELECT {select} FROM {source}").fetchnumpy()
            true = dict(zip(names, names, strict=True))
            if _may_be_renamed(names):
                true = dict(zip(names, _parquet_names(connection, path, names), strict=True))
    except duckdb.Error as error:
        raise InputError(f"{path} could not be read: {_first_line(error)}", path=path) from error
    return {true[key]: _blanks_as_none(array) for key, array in columns.items()}


def _as_plain(
    connection: duckdb.DuckDBPyConnection, source: str, name: str, kind: str
) -> str | None:
    """SQL that gives a column as numbers, texts or lists of numbers; None where it is neither."""
    column = quoted(name)
    if kind == "BLOB":
        sample = connection.execute(
            f"SELECT {column} FROM {source} WHERE {column} IS NOT NULL LIMIT 20"
        ).fetchall()
        if not all(_is_text(bytes(row[0])) for row in sample):
            return None
        try:
            connection.execute(f"SELECT max(decode({column})) FROM {source}")
        except duckdb.Error:
            return None
        return f"decode({column})"
    if kind.startswith("STRUCT"):  # images of Hugging Face: bytes, and the path they are of
        has_path = re.search(r"[(,] ?\"?path\"? VARCHAR", kind)
        return f"{column}.path" if has_path else None
    if kind.startswith(("MAP", "UNION")) or "BLOB" in kind or "STRUCT" in kind:
        return None
    return f"CAST({column} AS VARCHAR)" if kind == "UUID" else column


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
    return _apart(names, renamed) if len(names) == len(renamed) else list(renamed)


def read_metadata(path: Path) -> dict[str, Any]:
    """Key-value pairs from a Parquet file's footer, as `write_parquet` put them there."""
    with duckdb.connect() as connection:
        rows = connection.execute(
            f"SELECT decode(key), decode(value) FROM parquet_kv_metadata({exact_path(path)})"
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
