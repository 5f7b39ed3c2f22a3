"""A user's own files beside the result tables: read as tables, or joined to the samples."""

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

import duckdb

from trustq.core.columns import read_table
from trustq.core.sample_ids import ID_COLUMNS, IMAGE_ENDING
from trustq.core.sql_text import first_line, literal, quoted, scan_parquet
from trustq.core.words import first_called
from trustq.errors import DamagedFile, InputError, NotFound
from trustq.results.schema import TABLES
from trustq.results.views import derived_views, former_views


def join_files(
    connection: duckdb.DuckDBPyConnection, tables: Mapping[str, Path], metadata: Sequence[Path]
) -> list[dict[str, str]]:
    """Read files as tables; of each in `metadata` its columns and types, without the ids."""
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
        found = connection.execute(
            f"SELECT any_value({quoted(by)}) FROM {name} GROUP BY {_key(by)} HAVING count(*) > 1"
        ).fetchone()
        if found is not None:
            raise InputError(
                f"{path}: {by} must be unique to be joined by; {found[0]!r} is repeated.",
                path=path,
                found=found[0],
            )
        connection.execute(f"ALTER TABLE {name} RENAME {quoted(by)} TO trustq_id")
        joined.append({one: kind for one, kind in columns.items() if one != by})
    return joined


def samples_with(select: str, held: dict[str, str], joined: list[dict[str, str]]) -> str:
    """The select of `samples` with the columns of the tables that were joined.

    `held` are the columns that it has already, and their types.
    """
    columns = {name: f"s.{quoted(name)}" for name in held}
    source = f"({select}) s"
    for number, theirs in enumerate(joined):
        source += (
            f" LEFT JOIN trustq_metadata_{number} m{number}"
            f" ON {_key('sample_id')} = {_key('trustq_id')}"
        )
        lower = {name.lower(): name for name in columns}
        for name in theirs:
            mine, other = lower.get(name.lower()), f"m{number}.{quoted(name)}"
            if mine is None:
                columns[name] = other
            elif mine in held:
                columns[mine] = f"coalesce({columns[mine]}, TRY_CAST({other} AS {held[mine]}))"
    listed = ", ".join(f"{source} AS {quoted(name)}" for name, source in columns.items())
    return f"SELECT {listed} FROM {source}"


def _read_file(connection: duckdb.DuckDBPyConnection, path: Path, name: str) -> None:
    """Make a table of a file: Parquet by DuckDB, others as all commands read them, then typed."""
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
    columns = read_table(path)
    folded = Counter(title.lower() for title in columns)
    if twins := [title for title in columns if folded[title.lower()] > 1]:
        raise InputError(
            f"{path}: the columns {' and '.join(twins)} differ in case alone, which SQL does not "
            "tell apart: rename one.",
            path=path,
        )
    texts = {f"c{place}": own.astype(object) for place, own in enumerate(columns.values())}
    connection.register(_TEXTS, texts)
    kinds = _kinds(connection, len(columns))
    select = [
        f"{_as_kind(f'c{place}', 'VARCHAR' if title in ID_COLUMNS else kind)} AS {quoted(title)}"
        for place, (title, kind) in enumerate(zip(columns, kinds, strict=True))
    ]
    connection.execute(f"CREATE TABLE {name} AS SELECT {', '.join(select)} FROM {_TEXTS}")
    connection.unregister(_TEXTS)


_TEXTS = "trustq_texts"
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
    asked = [
        f"bool_and({_as_kind(f'c{place}', kind, check=True)})"
        for place in range(n)
        for kind in _KINDS
    ]
    found = connection.execute(f"SELECT {', '.join(asked)} FROM {_TEXTS}").fetchone() or ()
    kinds = []
    for place in range(n):
        own = found[place * len(_KINDS) : (place + 1) * len(_KINDS)]
        kinds.append(next((k for k, is_one in zip(_KINDS, own, strict=True) if is_one), "VARCHAR"))
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


def _key(column: str) -> str:
    # As `trustq.core.sample_ids.id_key`: with or without the ending of an image file.
    ending = IMAGE_ENDING.pattern.replace(r"\Z", "$")
    text = f"trim(CAST({quoted(column)} AS VARCHAR))"
    return f"regexp_replace({text}, {literal(ending)}, '', 'i')"
