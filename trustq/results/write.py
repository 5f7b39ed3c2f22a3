"""Write results: immutable parts, `<table>/<part>.parquet`, that count once their cells do."""

import json
import re
import threading
import uuid
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path

import duckdb
import numpy as np

from trustq.core.atomic_files import replacing
from trustq.core.columns import Columns, copy_parquet
from trustq.errors import DamagedFile, InputError, NotFound
from trustq.results.digests import open_sealed, record_path, sealed_json, write_record
from trustq.results.schema import (
    COMPACTIONS,
    FORMAT,
    FORMAT_VERSION,
    FORMER_TABLES,
    MARKER,
    OF_CELLS,
    TABLES,
)

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
    with duckdb.connect() as connection, ExitStack() as renames:
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


def join_tables(parts: Sequence[dict[str, Columns]]) -> dict[str, Columns]:
    """The rows of several cells or groups as one part, in their order.

    A column that some of them lack is NULL there. Lists in one column are equally long.

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


def part_path(folder: Path, table: str, part: str) -> Path:
    """Where a table's part lies.

    >>> part_path(Path("results"), "runs", "p1").as_posix()
    'results/runs/p1.parquet'
    """
    return folder / table / f"{part}.parquet"


def stored_part(folder: Path, table: str, part: str) -> Path:
    """Where a table's part lies, which may be a part of format 1, in a folder of another name."""
    former = folder / FORMER_TABLES.get(table, table) / f"{part}.parquet"
    return former if former.exists() else part_path(folder, table, part)


def part_files(folder: Path, table: str) -> list[Path]:
    """All whole parts of a table, of either format, sorted by name."""
    folders = dict.fromkeys((table, FORMER_TABLES.get(table, table)))
    paths = [path for name in folders for path in (folder / name).glob("*.parquet")]
    # A hidden file is a part that somebody is writing.
    return sorted((p for p in paths if not p.name.startswith(".")), key=lambda p: p.name)


def superseded(folder: Path) -> set[str]:
    """Names of the parts whose rows lie in merged ones, by the records of compactions.

    Raises `TrustqError` for a record that cannot be read.
    """
    return {name for record in records(folder).values() for name in record}


def records(folder: Path) -> dict[Path, list[str]]:
    """The records of compactions with the parts that each supersedes.

    Raises `TrustqError` for a record that cannot be read.
    """
    found = {}
    may_be_plain = has_unrecorded(folder)
    for path in sorted((folder / COMPACTIONS).glob("*.json")):
        if path.name.startswith("."):
            continue  # somebody is writing it, or was killed
        try:
            data = path.read_bytes()
            record = json.loads(data) if may_be_plain and b'"digest"' not in data else None
            record = open_sealed(data) if record is None else record
            found[path] = [str(name) for name in record["supersedes"]]
        except FileNotFoundError:
            continue  # just cleaned, and its parts before it
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise DamagedFile(
                f"{path} is damaged: it is no record of a compaction. Delete it; the parts that it "
                "named are read again, and no row is shown twice.",
                path=path,
            ) from error
    return found


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


def check_marker(path: Path) -> int:
    """The format version that `results.json` names.

    Raises `TrustqError` unless it names this format in a version that is known.
    """
    try:
        marker = json.loads(path.read_text(encoding="utf-8"))
        known = marker["format"] == FORMAT
        version = int(marker["format_version"])
    except (ValueError, KeyError, TypeError, RecursionError, OverflowError):
        known, version = False, 0
    if not known or version < 1:
        raise DamagedFile(
            f"{path} does not say that this folder holds trustq results. Choose another folder.",
            path=path,
        )
    if version > FORMAT_VERSION:
        raise InputError(
            f"{path.parent} holds results of format {version}; this trustq knows formats up to "
            f"{FORMAT_VERSION}. Upgrade it: pip install -U trustq"
        )
    return version


def has_unrecorded(folder: Path) -> bool:
    """Whether parts of a folder have no record of digests yet, as those of format 1 do."""
    path = folder / MARKER
    return path.exists() and check_marker(path) < 2


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
    if any(isinstance(array, np.ma.MaskedArray) for array in arrays):
        merged: np.ndarray = np.ma.concatenate(arrays)  # an array of numpy's keeps no blanks
        return merged
    return np.concatenate(arrays)


def _n_rows(columns: Columns) -> int:
    return max((len(array) for array in columns.values()), default=0)
