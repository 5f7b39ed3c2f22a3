"""A user's own files beside the result tables: read as tables, or joined to the samples."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import duckdb

from trustq.core.sample_ids import ID_COLUMNS, IMAGE_ENDING
from trustq.core.sql_text import exact_path, literal, quoted, scan_parquet
from trustq.errors import DamagedFile, InputError, NotFound
from trustq.results.schema import TABLES
from trustq.results.views import derived_views, former_views

# Endings of the files that can be joined.
JOINABLE = (".parquet", ".csv", ".csv.gz", ".tsv")


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
        by = next((one for one in ID_COLUMNS if one in columns), None)
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
    if not path.is_file():
        raise NotFound(f"{path}: no such file.", path=path)
    if not path.name.endswith(JOINABLE):
        raise InputError(f"{path}: expected a {', '.join(JOINABLE)} file.", path=path)
    exact = exact_path(path.resolve())
    try:
        if path.suffix == ".parquet":
            connection.execute(f"CREATE TABLE {name} AS FROM {scan_parquet(path.resolve())}")
            return
        # Not BOOLEAN: a column of sex that holds f alone would be read as false. Ids keep zeros.
        kinds = "hive_partitioning = false, auto_type_candidates = "
        kinds += "['BIGINT', 'DOUBLE', 'DATE', 'TIMESTAMP', 'VARCHAR']"
        described = connection.execute(f"DESCRIBE FROM read_csv({exact}, {kinds})").fetchall()
        ids = ", ".join(f"'{row[0]}': 'VARCHAR'" for row in described if row[0] in ID_COLUMNS)
        types = f", types = {{{ids}}}" if ids else ""
        connection.execute(f"CREATE TABLE {name} AS FROM read_csv({exact}, {kinds}{types})")
    except duckdb.Error as error:
        raise DamagedFile(
            f"{path} could not be read: {str(error).splitlines()[0]}", path=path
        ) from error


def _key(column: str) -> str:
    # As `trustq.core.sample_ids.id_key`: with or without the ending of an image file.
    ending = IMAGE_ENDING.pattern.replace(r"\Z", "$")
    text = f"trim(CAST({quoted(column)} AS VARCHAR))"
    return f"regexp_replace({text}, {literal(ending)}, '', 'i')"
