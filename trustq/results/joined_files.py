"""A user's own files beside the result tables: read as tables, or joined to the samples."""

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import duckdb

from trustq.core.column_names import ID_COLUMNS, first_called
from trustq.core.csv_scan import is_csv, scan_csv
from trustq.core.sql_text import first_line, literal, quoted, scan_parquet
from trustq.errors import DamagedFile, InputError, NotFound
from trustq.results.schema import TABLES
from trustq.results.views import derived_views, former_views


class Joined(NamedTuple):
    """A table of metadata: its file, its name here, its columns and types without the ids."""

    path: Path
    name: str
    columns: dict[str, str]
    has_twins: bool  # ids that differ in the ending of an image alone


def join_files(
    connection: duckdb.DuckDBPyConnection, tables: Mapping[str, Path], metadata: Sequence[Path]
) -> list[Joined]:
    """Read files as tables, and those in `metadata` as ones to join."""
    taken = {*TABLES, *derived_views(), *former_views()}
    for name, path in tables.items():
        if not name.isidentifier() or name in taken:
            raise InputError(
                f"{name!r} cannot name a table for {path}: use letters, digits and _, and none of "
                f"{', '.join(sorted(taken))}.",
                path=path,
                found=name,
            )
        _read_file(connection, Path(path), name)
    joined = []
    for number, path in enumerate(metadata):
        name = f"trustq_metadata_{number}"
        _read_file(connection, Path(path), name)
        described = connection.execute(f"DESCRIBE {name}").fetchall()
        columns = {str(row[0]): str(row[1]) for row in described}
        by = first_called(columns, ID_COLUMNS)
        if by is None:
            raise NotFound(
                f"{path} has no column of ids; it has {', '.join(columns)}: call it one of "
                f"{', '.join(ID_COLUMNS)}.",
                path=path,
                expected=ID_COLUMNS,
            )
        text = _whole(by) if columns[by] in ("DOUBLE", "FLOAT") else quoted(by)
        connection.execute(f"ALTER TABLE {name} ALTER {quoted(by)} TYPE VARCHAR USING {text}")
        connection.execute(f"ALTER TABLE {name} RENAME {quoted(by)} TO trustq_id")
        if (alike := _alike(connection, name, "trustq_id")) is not None:
            from trustq.core.sample_ids import require_joinable

            require_joinable(alike, table=Path(path), name=by)
        others = {one: kind for one, kind in columns.items() if one != by}
        joined.append(Joined(Path(path), name, others, has_twins=alike is not None))
    return joined


def samples_with(
    connection: duckdb.DuckDBPyConnection,
    select: str,
    held: dict[str, str],
    joined: Sequence[Joined],
) -> str:
    """The select of `samples` with the columns of the tables that were joined.

    `held` are the columns that it has already, and their types. Raises `TrustqError` for a sample
    that may be several rows of a table, and for a table that has the id of none.
    """
    columns = {name: f"s.{quoted(name)}" for name in held}
    source = f"({select}) s"
    twins = _alike(connection, f"(SELECT DISTINCT sample_id FROM ({select}))", "sample_id")
    for number, table in enumerate(joined):
        theirs, on = table.columns, f"{_key('sample_id')} = {_key('trustq_id')}"
        _require_shared(connection, select, table)
        if twins is not None or table.has_twins:
            _find_rows(connection, select, table)
            source += f" LEFT JOIN {table.name}_rows r{number} ON s.sample_id = r{number}.sample_id"
            on = f"m{number}.rowid = r{number}.row"
        source += f" LEFT JOIN {table.name} m{number} ON {on}"
        lower = {name.lower(): name for name in columns}
        for name in theirs:
            mine, other = lower.get(name.lower()), f"m{number}.{quoted(name)}"
            if mine is None:
                columns[name] = other
            elif mine in held:
                columns[mine] = f"coalesce({columns[mine]}, TRY_CAST({other} AS {held[mine]}))"
    listed = ", ".join(f"{source} AS {quoted(name)}" for name, source in columns.items())
    return f"SELECT {listed} FROM {source}"


def _require_shared(connection: duckdb.DuckDBPyConnection, select: str, table: Joined) -> None:
    """Raise `TrustqError` where a table has the id of no sample."""
    ids, theirs = f"SELECT sample_id FROM ({select})", f"SELECT trustq_id FROM {table.name}"
    found = connection.execute(
        f"SELECT (SELECT any_value(sample_id) FROM ({ids})), "
        f"(SELECT any_value(trustq_id) FROM ({theirs})), EXISTS (FROM ({ids}) WHERE "
        f"{_key('sample_id')} IN (SELECT {_key('trustq_id')} FROM ({theirs})))"
    ).fetchone()
    if found is not None and None not in found and not found[2]:
        raise InputError(
            f"{table.path} shares no id with the samples, e.g. {found[1]!r} and {found[0]!r}: "
            "spell the ids alike.",
            path=table.path,
        )


def _alike(connection: duckdb.DuckDBPyConnection, table: str, by: str) -> Any:
    """The ids that are one without the endings of images, as an array; None for none."""
    found = connection.execute(
        f"SELECT {by} FROM {table} QUALIFY count(*) OVER (PARTITION BY {_key(by)}) > 1"
    ).fetchnumpy()[by]
    return found if len(found) else None


def _find_rows(connection: duckdb.DuckDBPyConnection, select: str, table: Joined) -> None:
    """Make a table of the row of each sample, found as every command finds it."""
    import numpy as np

    from trustq.core.sample_ids import find_ids

    ids = connection.execute(f"SELECT DISTINCT sample_id FROM ({select})").fetchnumpy()["sample_id"]
    theirs = connection.execute(f"SELECT trustq_id FROM {table.name} ORDER BY rowid").fetchnumpy()
    rows = find_ids(ids.tolist(), theirs["trustq_id"], source=str(table.path))
    found = [(one, row) for one, row in zip(ids.tolist(), rows, strict=True) if row is not None]
    connection.register(
        "trustq_read",
        {
            "sample_id": np.array([one for one, _ in found], dtype=object),
            "row": np.array([row for _, row in found], dtype=np.int64),
        },
    )
    connection.execute(f"CREATE TABLE {table.name}_rows AS FROM trustq_read")
    connection.unregister("trustq_read")


def _read_file(connection: duckdb.DuckDBPyConnection, path: Path, name: str) -> None:
    """Make a table of a file: Parquet by DuckDB, others as all commands read them, then typed."""
    if path.is_dir():
        raise InputError(f"{path} is a folder; name the file in it.", path=path)
    if not path.is_file():
        raise NotFound(f"{path}: no such file.", path=path)
    if path.name.lower().endswith(".parquet"):
        try:
            connection.execute(f"CREATE TABLE {name} AS FROM {scan_parquet(path.resolve())}")
        except duckdb.Error as error:
            raise DamagedFile(
                f"{path} could not be read: {first_line(error)}", path=path
            ) from error
        return
    titles = _scanned(connection, path)
    if titles is None:
        from trustq.core.columns import read_table

        columns = read_table(path)
        titles = list(columns)
        texts = {f"c{place}": own.astype(object) for place, own in enumerate(columns.values())}
        connection.register("trustq_read", texts)
        connection.execute(f"CREATE TABLE {_TEXTS} AS FROM trustq_read")
        connection.unregister("trustq_read")
    folded = Counter(title.lower() for title in titles)
    if twins := [title for title in titles if folded[title.lower()] > 1]:
        raise InputError(
            f"{path}: the columns {' and '.join(twins)} differ in case alone, which SQL does not "
            "tell apart: rename one.",
            path=path,
        )
    ids = {*ID_COLUMNS, first_called(titles, ID_COLUMNS)}
    select = [
        f"{_as_kind(f'c{n}', 'VARCHAR' if title in ids else kind)} AS {quoted(title)}"
        for n, (title, kind) in enumerate(zip(titles, _kinds(connection, len(titles)), strict=True))
    ]
    connection.execute(f"CREATE TABLE {name} AS SELECT {', '.join(select)} FROM {_TEXTS}")
    connection.execute(f"DROP TABLE {_TEXTS}")


def _scanned(connection: duckdb.DuckDBPyConnection, path: Path) -> list[str] | None:
    """Make the table of texts of a plain CSV file by DuckDB alone; its titles, None for others."""
    scan = scan_csv(path) if is_csv(path) else None
    if scan is None:
        return None
    try:
        connection.execute(f"CREATE TABLE {_TEXTS} AS FROM {scan[0]}")
    except duckdb.Error:  # whoever reads it by rows mends it or says what is wrong
        return None
    return scan[1]


_TEXTS = "trustq_texts"
_FIRST = 1000  # rows that rule out most kinds of a column before all rows are read
# Numbers without leading zeros, which are of names; no BOOLEAN, for sex may hold f alone.
_KINDS = {
    "BIGINT": r"[+-]?(0|[1-9]\d{0,17})",
    "DOUBLE": r"[+-]?((0|[1-9]\d*)(\.\d*)?|\.\d+)([eE][+-]?\d+)?|[+-]?(?i:inf|infinity|nan)",
    "DATE": r"\d{4}-\d{2}-\d{2}",
    "DAY": r"\d{2}\.\d{2}\.\d{4}",
    "TIMESTAMP": r"\d{4}-\d{2}-\d{2}[ T]\d{2}:\d{2}.*",
}


def _kinds(connection: duckdb.DuckDBPyConnection, n: int) -> list[str]:
    """The first kind of `_KINDS` that every text of a column is, for each of the `n` columns."""

    def fits(asked: list[tuple[int, str]], rows: str) -> list[bool | None]:
        each = [f"bool_and({_as_kind(f'c{n}', kind, check=True)})" for n, kind in asked]
        return list(connection.execute(f"SELECT {', '.join(each)} FROM {rows}").fetchone() or ())

    every = [(place, kind) for place in range(n) for kind in _KINDS]
    first = fits(every, f"(FROM {_TEXTS} LIMIT {_FIRST})")
    left = [kind for kind, is_one in zip(every, first, strict=True) if is_one is not False]
    kinds = ["VARCHAR"] * n
    while asked := list({place: (place, kind) for place, kind in reversed(left)}.values()):
        found = dict(zip(asked, fits(asked, _TEXTS), strict=True))
        for (place, kind), is_one in found.items():
            kinds[place] = kind if is_one else kinds[place]
        done = {place for (place, _), is_one in found.items() if is_one is not False}
        left = [one for one in left if one not in found and one[0] not in done]
    return kinds


def _as_kind(column: str, kind: str, *, check: bool = False) -> str:
    """SQL for a column of texts as of a kind; to `check`: whether a text is of it, NULL of none."""
    text = f"CAST({column} AS VARCHAR)"
    value = f"TRY_CAST({text} AS {kind})"
    if kind == "DAY":  # as DD.MM.YYYY, which no other order is written with
        value = f"CAST(try_strptime({text}, '%d.%m.%Y') AS DATE)"
    if not check:
        return text if kind == "VARCHAR" else value
    is_one = f"regexp_full_match({text}, {literal(_KINDS[kind])}) AND {value} IS NOT NULL"
    return f"CASE WHEN {text} IS NULL THEN NULL ELSE {is_one} END"


def _whole(column: str) -> str:
    """SQL for numbers as texts, whole ones without a point."""
    value = quoted(column)
    whole = f"CASE WHEN {value} = floor({value}) THEN TRY_CAST({value} AS HUGEINT) END"
    return f"coalesce(CAST({whole} AS VARCHAR), CAST({value} AS VARCHAR))"


def _key(column: str) -> str:
    from trustq.core.sample_ids import IMAGE_ENDING

    # As `trustq.core.sample_ids.id_key`: with or without the ending of an image file.
    ending = IMAGE_ENDING.pattern.replace(r"\Z", "$")
    text = f"trim(CAST({quoted(column)} AS VARCHAR))"
    return f"regexp_replace({text}, {literal(ending)}, '', 'i')"
