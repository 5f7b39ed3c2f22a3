"""Write results: immutable parts, `<table>/<part>.parquet`, that count once their cells do."""

import json
import re
import threading
import uuid
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from trustq.core.atomic_files import replacing
from trustq.core.columns import Columns, copy_parquet
from trustq.core.database import open_database
from trustq.errors import InputError, NotFound
from trustq.results.digests import record_path, sealed_json, write_record
from trustq.results.parts import check_marker, part_files, part_path, records
from trustq.results.schema import FORMAT, FORMAT_VERSION, MARKER, OF_CELLS, TABLES

_marking = threading.Lock()  # a temporary file is named by process, so threads take turns


def write_part(folder: Path, tables: dict[str, Columns], *, part: str) -> None:
    """Write one group of cells and all rows that belong to them, `runs` last.

    `tables` maps table names of the schema to equally long columns; a column left out is NULL, a
    table without rows is not written. A part is immutable and its name is used once: see
    `new_part`. Readers see its rows only when all of it is there. Raises `TrustqError` for a table
    or column that the schema does not have, for rows of a cell that is not in this part, and for a
    part that exists.
    """
    folder = Path(folder)
    _check_tables(tables)
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]*", part):
        raise InputError(
            f"{part!r} cannot name a part: use letters, digits, - and _, as new_part() does."
        )
    mark(folder)
    for table in TABLES:
        if part_path(folder, table, part).exists():
            raise InputError(
                f"{part_path(folder, table, part)} exists, and parts are never overwritten. "
                "Write under another name, from new_part()."
            )
    with open_database() as connection, ExitStack() as renames:
        written = {}
        # Files get their names in the reverse order, so that the runs come last.
        for table in sorted(tables, key=lambda name: name != "runs"):
            columns = tables[table]
            n = _n_rows(columns)
            if n == 0:
                continue
            types = TABLES[table]
            whole = {name: columns.get(name, np.full(n, None, dtype=object)) for name in types}
            path = part_path(folder, table, part)
            written[table] = renames.enter_context(replacing(path))
            copy_parquet(written[table], whole, types=types, connection=connection, of=path)
        if written:
            write_record(folder, part, written)


def table_columns(table: str, rows: Sequence[Mapping[str, Any]]) -> Columns:
    """Rows as columns of a table of the schema; what is missing, None or NaN is NULL."""
    found: Columns = {}
    for name, kind in TABLES[table].items():
        values = [row.get(name) for row in rows]
        if kind not in ("INTEGER", "DOUBLE"):
            found[name] = np.array([*values, None], dtype=object)[:-1]
            continue
        blank = np.array([value is None or value != value for value in values])
        filled = [0 if missing else value for value, missing in zip(values, blank, strict=True)]
        dtype = np.int64 if kind == "INTEGER" else np.float64
        found[name] = np.ma.masked_array(np.array(filled, dtype=dtype), mask=blank)
    return found


def join_tables(parts: Sequence[dict[str, Columns]]) -> dict[str, Columns]:
    """The rows of several cells or groups as one part, in their order.

    A column that some of them lack is NULL there. Lists in one column are equally long. Columns of
    a single part are not copied.

    >>> one, two = ({"runs": {"key": np.array([key])}} for key in "ab")
    >>> join_tables([one, two])["runs"]["key"].tolist()
    ['a', 'b']
    """
    joined: dict[str, Columns] = {}
    for table in TABLES:
        blocks = [part[table] for part in parts if table in part and _n_rows(part[table])]
        names = dict.fromkeys(name for block in blocks for name in block)
        if blocks:
            joined[table] = {
                name: _joined([_of(block, name) for block in blocks]) for name in names
            }
    return joined


def new_part(prefix: str = "part") -> str:
    """A part name that nobody else uses; names sort by time, so of two the first was first.

    >>> new_part("sweep").startswith("sweep-2")
    True
    """
    return f"{prefix}-{datetime.now(UTC):%Y%m%dT%H%M%S%f}-{uuid.uuid4().hex[:8]}"


def mark(folder: Path) -> None:
    """Make a folder a results folder, or check that it is one that this version can write to."""
    path = folder / MARKER
    with _marking:
        version = check_marker(path) if path.exists() else 0
        if version < FORMAT_VERSION:
            if version:
                _seal(folder)
            # Format 1 is raised before parts of today's are added, so that an older trustq says so.
            text = json.dumps({"format": FORMAT, "format_version": FORMAT_VERSION})
            with replacing(path) as temporary:
                temporary.write_text(text + "\n", encoding="utf-8")


def _seal(folder: Path) -> None:
    """Record the digests of all parts and compactions of a folder of format 1, as they are now."""
    for path, supersedes in records(folder).items():
        with replacing(path) as temporary:
            temporary.write_text(sealed_json({"supersedes": supersedes}), encoding="utf-8")
    parts: dict[str, dict[str, Path]] = {}
    for table in TABLES:
        for path in part_files(folder, table):
            parts.setdefault(path.stem, {})[table] = path
    for part, files in parts.items():
        if not record_path(folder, part).exists():
            write_record(folder, part, files)


def _check_tables(tables: dict[str, Columns]) -> None:
    for table, columns in tables.items():
        if table not in TABLES:
            raise InputError(
                f"Results have no table {table!r}, only {', '.join(TABLES)}.",
                expected=TABLES,
                found=table,
            )
        unknown = [name for name in columns if name not in TABLES[table]]
        if unknown:
            raise NotFound(
                f"Table {table} has no column {unknown[0]!r}, only {', '.join(TABLES[table])}."
            )
        lengths = {name: len(array) for name, array in columns.items()}
        if len(set(lengths.values())) > 1:
            raise InputError(f"Columns of table {table} differ in length: {lengths}.")
    keys: list[str] = list(tables.get("runs", {}).get("key", []))
    if len(set(keys)) < len(keys) or len(keys) != _n_rows(tables.get("runs", {})):
        raise InputError("Every row of table runs needs a key of its own.")
    for table in OF_CELLS:
        if table in tables:
            _check_cells(table, tables[table], keys)


def _check_cells(table: str, columns: Columns, keys: Iterable[str]) -> None:
    # Rows in another part than their cell would never be seen.
    if "run" not in columns and _n_rows(columns):
        raise InputError(f"Table {table} needs a column 'run', the key of each row's run.")
    strangers = set(columns.get("run", [])) - set(keys)
    if strangers:
        raise InputError(
            f"Table {table} has rows of run {min(strangers, key=str)!r}, which is not in table "
            "runs of the same part: write a run and its rows together."
        )


def _of(block: Columns, name: str) -> np.ndarray:
    return block[name] if name in block else np.full(_n_rows(block), None, dtype=object)


def _joined(arrays: list[np.ndarray]) -> np.ndarray:
    if len(arrays) == 1:
        return arrays[0]  # of a million rows a copy is as large as all else
    if any(isinstance(array, np.ma.MaskedArray) for array in arrays):
        merged: np.ndarray = np.ma.concatenate(arrays)  # an array of numpy's keeps no blanks
        return merged
    return np.concatenate(arrays)


def _n_rows(columns: Columns) -> int:
    return max((len(array) for array in columns.values()), default=0)
