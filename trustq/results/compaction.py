"""Merge small parts into large ones, while others read and write; delete what was merged."""

import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from pathlib import Path

import duckdb

from trustq.core.atomic_files import replacing
from trustq.core.sql_text import literal
from trustq.errors import InputError
from trustq.results.digests import FOLDER, record_path, sealed_json, write_record
from trustq.results.parts import (
    check_marker,
    part_names,
    part_path,
    records,
    stored_part,
    superseded,
)
from trustq.results.query import (
    LAST_FAILURE,
    Opened,
    has_former_names,
    typed_select,
)
from trustq.results.schema import COMPACTIONS, FORMER_TABLES, MARKER, OF_CELLS, TABLES
from trustq.results.write import mark, new_part

FEWEST = 16  # parts; fewer are left as they are
LARGE = 64 << 20  # bytes; a part of this size is left as it is
LARGEST = 4 * LARGE  # bytes that go into one merged part
GRACE_SECONDS = 600.0  # what was merged is kept so long for queries that began before

# What belongs to a sweep. Samples and label issues have few parts, found again by their names.
_MERGED = ("failures", *OF_CELLS, "runs")


def compact(folder: Path, *, fewest: int = FEWEST, wait: bool = True) -> int:
    """Merge small parts into large ones where there are `fewest` or more; say how many were.

    Rows stay as they are, a cell that was written twice keeps the rows that are shown. The merged
    part is written whole, then a record renamed into place says which parts it supersedes; those
    stay until `clean`, so no reader or writer notices. A process that is killed leaves rows that
    nobody sees. One compaction runs at a time: another waits for nothing and raises `TrustqError`,
    or, without `wait`, returns 0. Raises it also for a damaged part and a full disk.
    """
    folder = Path(folder)
    check_marker(folder / MARKER)
    with _locked(folder) as is_ours:
        if not is_ours:
            if wait:
                raise InputError(
                    f"{folder} is being compacted by another process. Try later.", path=folder
                )
            return 0
        small = _small_parts(folder)
        if len(small) < fewest:
            return 0
        mark(folder)  # what is merged has today's format
        for batch in _batches(small):
            _merge(folder, batch)
        return len(small)


def clean(folder: Path, *, grace_seconds: float = GRACE_SECONDS) -> int:
    """Delete parts that were merged, and rows of writers that were killed; say how many parts.

    What was merged goes when it is older than `grace_seconds`, so that a query at work keeps its
    files. Rows without their cells may be of a writer at work: they stay for ten minutes in any
    case. Raises `TrustqError` while a compaction is at work, and for a damaged record.
    """
    folder = Path(folder)
    check_marker(folder / MARKER)
    with _locked(folder) as is_ours:
        if not is_ours:
            raise InputError(
                f"{folder} is being compacted by another process. Try later.", path=folder
            )
        before = time.time() - grace_seconds
        names = set()
        for record, supersedes in records(folder).items():
            if record.stat().st_mtime > before:
                continue
            for name in supersedes:
                _delete(folder, name)
            names.update(supersedes)
            record.unlink()
        # A record that a killed compaction was writing; while we hold the lock nobody writes one.
        for unfinished in (folder / COMPACTIONS).glob(".*.json"):
            unfinished.unlink(missing_ok=True)
        long_gone = min(before, time.time() - GRACE_SECONDS)
        for name in _abandoned(folder, long_gone):
            _delete(folder, name)
            names.add(name)
        # Files that never became whole, also of tables that are not merged.
        for table in TABLES:
            for unfinished in (folder / table).glob(".*.parquet"):
                if _is_older(unfinished, long_gone):
                    unfinished.unlink(missing_ok=True)
                    names.add(unfinished.stem)
        return len(names)


@contextmanager
def _locked(folder: Path) -> Iterator[bool]:
    # The lock is the kernel's: it goes with its process, however that ends.
    from filelock import FileLock, Timeout

    lock = FileLock(folder / ".compaction.lock", timeout=0)
    try:
        lock.acquire()
    except Timeout:
        yield False
        return
    try:
        yield True
    finally:
        lock.release()


def _small_parts(folder: Path) -> dict[str, int]:
    """Names and bytes of the parts that are worth merging."""
    merged = superseded(folder)
    sizes = {}
    for name in sorted({*part_names(folder, "runs"), *part_names(folder, "failures")}):
        if name not in merged:
            files = (stored_part(folder, table, name) for table in _MERGED)
            sizes[name] = sum(file.stat().st_size for file in files if file.exists())
    return {name: size for name, size in sizes.items() if size < LARGE}


def _batches(sizes: dict[str, int]) -> list[list[str]]:
    batches: list[list[str]] = [[]]
    total = 0
    for name, size in sizes.items():
        if batches[-1] and total + size > LARGEST:
            batches.append([])
            total = 0
        batches[-1].append(name)
        total += size
    return [batch for batch in batches if len(batch) > 1]


def _merge(folder: Path, names: list[str]) -> None:
    part = new_part("compact")
    parts = {
        table: [name for name in names if stored_part(folder, table, name).exists()]
        for table in _MERGED
    }
    opened = Opened(folder)
    former = has_former_names(folder)
    with opened as connection:
        try:
            # As readers do: of two parts with a cell, its rows are those of the first.
            connection.execute(f"""
                CREATE TABLE chosen AS
                SELECT key, parse_filename(filename, true) AS part
                FROM ({typed_select("runs", parts["runs"], former=former)})
                QUALIFY row_number() OVER (PARTITION BY key ORDER BY filename) = 1""")
            with ExitStack() as renames:
                written = {}
                # Files get their names in the reverse order, so that the cells come last.
                for table in reversed(_MERGED):
                    if parts[table]:
                        target = replacing(part_path(folder, table, part))
                        written[table] = renames.enter_context(target)
                        select = typed_select(table, parts[table], former=former)
                        _copy(connection, table, select, written[table])
                write_record(folder, part, written)
        except duckdb.Error as error:
            raise opened.damage() or InputError(
                f"{folder} could not be compacted: {str(error).splitlines()[0]}. The parts are as "
                "they were; free the disk or leave them.",
                path=folder,
            ) from error
    record = {"part": part, "supersedes": names, "created": datetime.now(UTC).isoformat()}
    with replacing(folder / COMPACTIONS / f"{part}.json") as temporary:
        temporary.write_text(sealed_json(record), encoding="utf-8")


def _copy(connection: duckdb.DuckDBPyConnection, table: str, typed: str, target: Path) -> None:
    columns = ", ".join(TABLES[table])
    select = f"SELECT {columns} FROM ({typed}) r"
    if table == "failures":
        select += f" QUALIFY {LAST_FAILURE}"
    else:
        key = "key" if table == "runs" else "run"
        select += f""" SEMI JOIN chosen c
            ON r.{key} = c.key AND parse_filename(r.filename, true) = c.part"""
    connection.execute(
        f"COPY ({select}) TO {literal(str(target))} (FORMAT parquet, COMPRESSION zstd)"
    )


def _abandoned(folder: Path, before: float) -> set[str]:
    """Parts without cells, and files that never became whole, whose writer has long gone."""
    whole = set(part_names(folder, "runs"))
    names = set()
    for table in (*OF_CELLS, "runs", *FORMER_TABLES.values(), "failures"):
        for path in (folder / table).glob("*.parquet"):
            is_part = table in OF_CELLS and path.stem not in whole
            if (is_part or path.name.startswith(".")) and _is_older(path, before):
                names.add(path.stem)
    seen = {name for table in TABLES for name in part_names(folder, table)}
    for path in (folder / FOLDER).glob("*.json"):
        if path.stem not in seen and _is_older(path, before):
            names.add(path.stem)
    return names


def _is_older(path: Path, before: float) -> bool:
    try:
        return path.stat().st_mtime < before
    except FileNotFoundError:  # a writer has just renamed it
        return False


def _delete(folder: Path, name: str) -> None:
    # Cells first: without them the other rows are seen by nobody.
    for table in ("runs", *(table for table in _MERGED if table != "runs")):
        stored_part(folder, table, name).unlink(missing_ok=True)
    # A part may also hold samples or label issues, which are not merged.
    if not any(stored_part(folder, table, name).exists() for table in TABLES):
        record_path(folder, name).unlink(missing_ok=True)
