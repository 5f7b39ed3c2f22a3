"""Ask a results folder in SQL: an in-memory DuckDB with one typed view per table."""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import duckdb

from trustq.core.atomic_files import replacing
from trustq.core.database import open_database
from trustq.core.interrupts import heeded
from trustq.core.sql_text import literal
from trustq.errors import InputError, NotFound, TrustqError
from trustq.results.digests import damaged
from trustq.results.parts import (
    check_marker,
    has_unrecorded,
    part_address,
    part_files,
    part_names,
    part_path,
    superseded,
)
from trustq.results.sample_columns import lacks_columns, newest_known, with_manifest_columns
from trustq.results.schema import FORMER_COLUMNS, FORMER_TABLES, MARKER, OF_CELLS, TABLES
from trustq.results.views import derived_views, former_views

READABLE = "SELECT, DESCRIBE, SHOW, SUMMARIZE and EXPLAIN"

# EXPLAIN and its options, after any comments.
_EXPLAIN = re.compile(
    r"(?:\s|--[^\n]*\n|/\*.*?\*/)*explain\b(?:\s+analyze\b)?(?:\s*\(\s*format\s+\w+\s*\))?",
    re.IGNORECASE | re.DOTALL,
)

# A statement with one of these words may ask for tables that it does not name.
_OF_CATALOG = re.compile(
    r"\b(?:show|describe|query|query_table|trustq|information_schema|(?:duckdb|pragma|sqlite|pg)_\w+)\b"
)

# Of several errors of one request, the one that came last; merged parts hold more than one.
LAST_FAILURE = (
    "row_number() OVER (PARTITION BY r.request ORDER BY r.created DESC, r.filename DESC) = 1"
)

if TYPE_CHECKING:
    from trustq.results.joined_files import Joined
    from trustq.results.part_files import PartFiles

Parameters = Mapping[str, str | int | float]


class Result(NamedTuple):
    """The answer to a query: column names, each once, and rows of Python values."""

    columns: list[str]
    rows: list[tuple[Any, ...]]


class Opened:
    """A results folder that was opened: `with` gives its DuckDB connection and closes it after.

    An error that leaves the block names the damaged part where there is one. Until it is closed
    Ctrl-C is heeded, which DuckDB may take for an error of the Python code that it reads parts by.
    """

    def __init__(self, folder: Path, *, threads: int | None = None) -> None:
        from trustq.results.part_files import PartFiles  # who only writes needs no file system

        self.files = PartFiles(folder.resolve(), unrecorded=has_unrecorded(folder))
        self.connection = open_database(threads=threads)
        # Parts never change, and a page of many queries opens each part for every one of them.
        self.connection.execute("SET parquet_metadata_cache = true")
        self.files.register(self.connection)
        self._folder = folder
        self._closing = ExitStack()
        self._closing.callback(self.connection.close)
        self._closing.enter_context(heeded(self.connection.interrupt))

    def __enter__(self) -> duckdb.DuckDBPyConnection:
        return self.connection

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._closing.__exit__(kind, error, trace)
        if isinstance(error, duckdb.Error) and (found := self.damage()):
            raise found from error

    def damage(self) -> TrustqError | None:
        """The damaged part that a reading met, where there is one."""
        if self.files.failure is None and self.files.unrecorded:
            return damaged_part(self._folder)
        return self.files.failure


def connect(
    folder: Path,
    *,
    where: str = "",
    tables: Mapping[str, Path] | None = None,
    metadata: Sequence[Path] = (),
    of: str = "",
    threads: int | None = None,
) -> Opened:
    """Open a results folder: one typed view per table, and the derived views.

    `where` is a condition on `runs`, in SQL: all tables and views keep to the cells that meet it.
    `tables` maps names to CSV or Parquet files, which are read as tables of these names. Tables in
    `metadata` are joined by sample id: `samples` has their columns, too, and where both have a
    column, the results come first. With `of`, SQL text, there are only the tables and views whose
    names are among its words, and those that they are made of: a view of many parts takes a while.
    DuckDB has as many `threads` as cores unless told; with one, equal results give equal answers,
    for means are summed in one order.

    The views hold the parts that were there when it was opened, keep to committed cells, and take
    a cell that two writers both wrote from the part whose name sorts first. A column that a part
    lacks is NULL; a table without parts is an empty view. The connection reads the parts, checked
    against their digests, and no file else; it can write nowhere, and its settings are locked.
    Raises `TrustqError` for a folder without results, results of a newer format, a damaged part, a
    condition that is none, a file that cannot be read, and a name that is taken.
    """
    folder = Path(folder)
    check_folder(folder)
    opened = Opened(folder, threads=threads)
    try:
        joined: Sequence[Joined] = ()
        if tables or metadata:
            from trustq.results.joined_files import join_files

            joined = join_files(opened.connection, tables or {}, metadata)
        _create_views(opened, samples_with=joined, of=of, kept=bool(where))
        opened.files.lock(opened.connection)
        if where:
            _keep_to(opened.connection, where, folder)
    except BaseException as error:
        opened.__exit__(type(error), error, error.__traceback__)
        raise
    return opened


def run_query(
    folder: Path,
    sql: str,
    parameters: Parameters | None = None,
    *,
    tables: Mapping[str, Path] | None = None,
    metadata: Sequence[Path] = (),
) -> Result:
    """Answer one SELECT-like statement over a results folder.

    `parameters` are the values of $NAME in the statement; `tables` and `metadata` are files to
    join, as in `connect`. Raises `TrustqError` for a statement that could write, and with DuckDB's
    own message for one that fails.
    """
    asked = _Asked(folder, sql, dict(parameters or {}), tables, metadata)
    return _opening_what_it_names(lambda of: _answer(asked, of), sql)


_T = TypeVar("_T")


def _opening_what_it_names(work: Callable[[str], _T], sql: str) -> _T:
    """Do a work beside what a statement names; where that is not there, beside all there is."""
    try:
        return work(sql)
    except InputError as error:
        if not isinstance(error.__cause__, duckdb.CatalogException):
            raise
    return work("")  # beside all there is, DuckDB names what is meant


@dataclass(frozen=True)
class _Asked:
    """One statement over a results folder, its parameters and the files that are joined."""

    folder: Path
    sql: str
    parameters: dict[str, Any]
    tables: Mapping[str, Path] | None
    metadata: Sequence[Path]

    @contextmanager
    def opened(self, of: str) -> Iterator[tuple[Opened, str]]:
        """The folder opened for the statement; what DuckDB says of it is a `TrustqError`."""
        opened = connect(self.folder, tables=self.tables, metadata=self.metadata, of=of)
        with opened as connection:
            statement = _readable(connection, self.sql, self.parameters)
            try:
                yield opened, statement
            except duckdb.Error as error:
                said = str(error)
                if isinstance(error, duckdb.BinderException) and not self.metadata:
                    said += lacks_columns(connection)
                raise opened.damage() or InputError(said) from error


def _answer(asked: _Asked, of: str) -> Result:
    with asked.opened(of) as (opened, statement):
        connection = opened.connection
        connection.execute(statement, asked.parameters)
        rows = connection.fetchall()
        names = [column[0] for column in connection.description or []]
    return Result(_distinct(names), rows)


def save_query(
    folder: Path,
    sql: str,
    path: Path,
    parameters: Parameters | None = None,
    *,
    tables: Mapping[str, Path] | None = None,
    metadata: Sequence[Path] = (),
) -> None:
    """Write the answer to one SELECT statement as a Parquet file, whole or not at all.

    Raises `TrustqError` as `run_query` does, and where the file cannot be written.
    """
    asked = _Asked(folder, sql, dict(parameters or {}), tables, metadata)
    with replacing(Path(path)) as part:
        _opening_what_it_names(lambda of: _save(asked, of, part), sql)


def _save(asked: _Asked, of: str, part: Path) -> None:
    with asked.opened(of) as (opened, statement):
        if _EXPLAIN.match(statement):
            raise InputError("A query plan is text, not a table: leave out the Parquet file.")
        # The file is opened for writing once, by this statement, under a name of no folder.
        opened.files.answer = part
        opened.connection.execute(
            f"COPY (FROM (\n{statement}\n)) TO {literal(part_address('answer', 'a'))} "
            "(FORMAT parquet, COMPRESSION zstd, USE_TMP_FILE false)",
            asked.parameters,
        )


def describe_results(
    folder: Path,
    *,
    tables: Mapping[str, Path] | None = None,
    metadata: Sequence[Path] = (),
) -> Result:
    """Every table and view with its columns; `n_rows` is NULL for a view that takes work to count.

    Raises `TrustqError` as `connect` does.
    """
    with connect(folder, tables=tables, metadata=metadata) as connection:
        rows: list[tuple[Any, ...]] = []
        for name in (*TABLES, *(tables or {}), *derived_views()):
            columns = [column[0] for column in connection.table(name).description]
            count = None
            if name not in derived_views():
                found = connection.execute(f"SELECT count(*) FROM {name}").fetchone()
                count = found[0] if found else 0
            rows.append((name, count, ", ".join(columns)))
    return Result(["table_name", "n_rows", "columns"], rows)


def has_key(folder: Path, table: str, key: str) -> bool:
    """Whether a table of trust figures or maps holds the rows of a key, its first column."""
    if not (Path(folder) / MARKER).is_file():
        return False
    column = next(iter(TABLES[table]))
    with connect(folder, of=table) as connection:
        found = connection.execute(
            f"SELECT count(*) FROM {table} WHERE {column} = ?", [key]
        ).fetchone()
    return bool(found and found[0])


def committed_keys(folder: Path) -> set[str]:
    """Keys of the cells that are complete; none where the folder is not there yet.

    Raises `TrustqError` for results of a newer format and a damaged part.
    """
    return set(committed_cells(folder))


def committed_cells(folder: Path) -> dict[str, str | None]:
    """Key and request of the cells that are complete.

    Raises `TrustqError` as `committed_keys` does.
    """
    folder = Path(folder)
    merged = superseded(folder)
    parts = [part for part in part_names(folder, "runs") if part not in merged]
    if not parts:
        return {}
    former = has_former_names(folder)
    with Opened(folder) as connection:
        rows = connection.execute(
            f"SELECT key, request FROM ({typed_select('runs', parts, former=former)})"
        ).fetchall()
    return dict(rows)


def save_database(folder: Path, path: Path) -> None:
    """Write every table and view of a results folder as one DuckDB file, for other tools.

    Tables hold the rows of committed cells; the derived views stay views over them. Whole or not at
    all. Raises `TrustqError` as `connect` does, and where the file cannot be written.
    """
    folder = Path(folder)
    check_folder(folder)
    opened = Opened(folder)
    with replacing(Path(path)) as part, opened as connection:
        try:
            _create_views(opened)
            connection.execute(f"ATTACH {literal(str(part))} AS target")
            for table in TABLES:
                connection.execute(f"CREATE TABLE target.{table} AS SELECT * FROM {table}")
            connection.execute("USE target")
            for name, select in derived_views().items():
                connection.execute(f"CREATE VIEW {name} AS {select}")
            connection.execute("USE memory")
            connection.execute("DETACH target")
        except duckdb.Error as error:
            raise opened.damage() or TrustqError(
                f"{path} could not be written: {str(error).splitlines()[0]}. "
                "Nothing was left half-written; free the disk or choose another place."
            ) from error
        finally:
            Path(f"{part}.wal").unlink(missing_ok=True)


def check_folder(folder: Path) -> None:
    """Raise `TrustqError` unless a folder holds results of a format that is known."""
    if not (folder / MARKER).is_file():
        found = "no such folder" if not folder.is_dir() else f"it has no {MARKER}"
        raise NotFound(
            f"{folder} holds no results: {found}. "
            f"Make some with `trustq repair` and `results={folder}`.",
            path=folder,
        )
    check_marker(folder / MARKER)


def _keep_to(connection: duckdb.DuckDBPyConnection, where: str, folder: Path) -> None:
    sql = f"DELETE FROM trustq.committed WHERE NOT coalesce((\n{where}\n), false)"
    try:
        (statement,) = connection.extract_statements(sql)
        connection.execute(statement)
    except (ValueError, duckdb.Error) as error:
        said = (
            str(error).splitlines()[0] if isinstance(error, duckdb.Error) else "not one condition"
        )
        raise InputError(
            f"{where!r} is no condition on runs ({said}). Write one as in SQL, e.g. "
            "`where=head = 'linear' AND budget = '5%'`; `trustq sql` alone lists the columns."
        ) from error
    left = connection.execute("SELECT count(*) FROM runs").fetchone()
    if left == (0,):
        raise NotFound(
            f"No run of {folder} meets {where!r}. What it has: `trustq sql` "
            "with `SELECT DISTINCT arm, budget, head, refit, cache_recipe FROM runs`."
        )


def _create_views(
    opened: Opened,
    *,
    samples_with: Sequence["Joined"] = (),
    of: str = "",
    kept: bool = False,
) -> None:
    """Make the tables and views that `of` names; with `kept`, of cells that a condition keeps."""
    # Cells are listed first. A writer puts them last, so whatever cell is listed has all its other
    # rows in the listings that follow. Later parts are not seen: a query is of one moment.
    # Compactions are listed before that: a part is whole before a record says what it supersedes.
    folder, connection = opened.files.folder, opened.connection
    merged = superseded(folder)
    parts: dict[str, list[str]] = {}
    for table in ("runs", *(table for table in TABLES if table != "runs")):
        listed = [part for part in part_names(folder, table) if part not in merged]
        if table in OF_CELLS:  # a part without cells is of a writer at work, or one that was killed
            listed = sorted(set(listed) & set(parts["runs"]))
        parts[table] = listed
    _require_all_files(opened.files, parts)
    former = has_former_names(folder)
    views = derived_views() | former_views()
    wanted = _named_in(of, views) if of else {*TABLES, *views}
    columns = ", ".join(TABLES["runs"])
    # Two racing writers may both have written a cell; its rows are then those of one part.
    runs = f"""FROM ({typed_select("runs", parts["runs"], former=former)})
        QUALIFY row_number() OVER (PARTITION BY key ORDER BY filename) = 1"""
    if wanted == {"runs"} and not kept and _is_read_once("runs", of):
        # Of many small parts two thirds of the time are columns, of which a query names few.
        connection.execute("SET parquet_metadata_cache = true")  # the view's, and the query's
        connection.execute(f"CREATE VIEW runs AS SELECT {columns} {runs}")
        return
    # Cells are few and every view joins them, so they are read once.
    named = "runs" in wanted or kept
    connection.execute("CREATE SCHEMA trustq")
    connection.execute(f"""
        CREATE TABLE trustq.committed AS
        SELECT {columns if named else "key, request"}, filename,
            parse_filename(filename, true) AS part {runs}""")
    if named:
        connection.execute(f"CREATE VIEW runs AS SELECT {columns} FROM trustq.committed")
    for table in TABLES:
        if table == "runs" or table not in wanted:
            continue
        columns = ", ".join(TABLES[table])
        if table == "samples":
            columns = newest_known(len(parts[table]))
        select = f"SELECT {columns} FROM ({typed_select(table, parts[table], former=former)}) r"
        if table in OF_CELLS:
            before = literal(part_address(table, "").removesuffix(".parquet"))
            select += f""" SEMI JOIN
                (SELECT key, {before} || part || '.parquet' AS filename FROM trustq.committed) c
                ON r.run = c.key AND r.filename = c.filename"""
        if table == "samples":  # a sample once, as the newest part has it
            select += """ QUALIFY row_number() OVER
                (PARTITION BY dataset, sample_id ORDER BY filename DESC) = 1"""
            alone = [typed_select(table, [part], former=former) for part in parts[table]]
            select, held = with_manifest_columns(connection, select, alone)
            if samples_with:
                from trustq.results.joined_files import samples_with as joined

                select = joined(connection, select, held, samples_with)
        if table == "failures":  # the last error of what has not succeeded since
            select += (
                """ ANTI JOIN trustq.committed c ON r.request = c.request
                QUALIFY """
                + LAST_FAILURE
            )
        connection.execute(f"CREATE VIEW {table} AS {select}")
    for name, select in views.items():
        if name in wanted:
            connection.execute(f"CREATE VIEW {name} AS {select}")


def _is_read_once(table: str, text: str) -> bool:
    """Whether a statement has a table at one place, and in no part that it may use again."""
    words = re.findall(r"\w+", text.lower())
    return words.count(table) == 1 and "with" not in words


def _named_in(text: str, views: Mapping[str, str]) -> set[str]:
    """Tables and views among the words of SQL text, and those that these are made of."""
    known = {*TABLES, *views}
    words = set(re.findall(r"\w+", text.lower()))
    if _OF_CATALOG.search(text.lower()):
        return known
    found: set[str] = set()
    while new := words & known - found:
        found |= new
        words = {word for name in new for word in re.findall(r"\w+", views.get(name, ""))}
    return found


def _require_all_files(files: "PartFiles", parts: Mapping[str, Sequence[str]]) -> None:
    listed = {table: set(names) for table, names in parts.items()}
    for part in parts["runs"]:
        for table in files.record(part) or {}:
            if part not in listed.get(table, ()):
                path = part_path(files.folder, table, part)
                raise damaged(files.folder, path, "it is missing", part)


def typed_select(table: str, parts: Sequence[str], *, former: bool) -> str:
    """SELECT of every column of a table, typed, from its parts; NULL where a part lacks it.

    With `former`, columns may have the names of format 1.
    """
    # The empty first half gives every column of the schema, whatever the parts hold.
    types = {**TABLES[table], "filename": "VARCHAR"}
    older = {name: FORMER_COLUMNS[name] for name in types if former and name in FORMER_COLUMNS}
    there = types | {old: types[name] for name, old in older.items()}
    nulls = ", ".join(f"CAST(NULL AS {kind}) AS {name}" for name, kind in there.items())
    source = f"SELECT {nulls} WHERE false"
    if parts:
        files = ", ".join(literal(part_address(table, part)) for part in parts)
        options = "union_by_name = true, filename = true, hive_partitioning = false"
        source += f" UNION ALL BY NAME SELECT * FROM read_parquet([{files}], {options})"
    read = {name: f"coalesce({name}, {older[name]})" if name in older else name for name in types}
    casts = ", ".join(f"CAST({read[name]} AS {kind}) AS {name}" for name, kind in types.items())
    return f"SELECT {casts} FROM ({source})"


def has_former_names(folder: Path) -> bool:
    """Whether parts of a folder may have the names of format 1."""
    # Of a part, the rows of runs alone lie in a folder whose name was another one.
    return any((folder / old).is_dir() for old in FORMER_TABLES.values())


def _readable(
    connection: duckdb.DuckDBPyConnection, sql: str, parameters: Parameters | None = None
) -> str:
    """The one statement in `sql`, which cannot write, without its semicolon."""
    # By this connection: DuckDB's own function opens a second database for it.
    try:
        statements = connection.extract_statements(sql)
    except duckdb.Error as error:
        raise InputError(str(error)) from error
    if len(statements) != 1:
        raise InputError(f"Expected one SQL statement, found {len(statements)}.")
    kind = statements[0].type
    statement = _without_end(sql)
    inner = statement
    if kind == duckdb.StatementType.EXPLAIN and (explain := _EXPLAIN.match(statement)):
        # EXPLAIN ANALYZE runs its statement, even a COPY.
        inner = statement[explain.end() :]
        try:
            kind = connection.extract_statements(inner)[0].type
        except duckdb.Error as error:
            raise InputError(str(error)) from error
    if kind != duckdb.StatementType.SELECT:
        raise InputError(f"Results are only read: a query is one of {READABLE}.")
    if re.search(r"\bwith\b", inner, re.IGNORECASE):
        _refuse_writes_in_with(connection, inner, dict(parameters or {}))
    return statement


def _refuse_writes_in_with(
    connection: duckdb.DuckDBPyConnection, select: str, parameters: dict[str, Any]
) -> None:
    # DuckDB 2 lets a SELECT write, as WITH a AS (COPY ...), but not inside another query.
    try:
        connection.execute(f"EXPLAIN FROM (\n{select}\n)", parameters)
        return
    except duckdb.Error as error:
        refused = error
    try:
        connection.execute(f"EXPLAIN {select}", parameters)
    except duckdb.Error as error:
        # Simply wrong. The caret belongs under the query as it was typed.
        as_typed = re.sub(r"(?m)^LINE 1: EXPLAIN (.*\n) {8}", r"LINE 1: \1", str(error))
        raise InputError(as_typed) from error
    raise InputError(f"Results are only read: a query is one of {READABLE}.") from refused


def _without_end(sql: str) -> str:
    # Without the last semicolon, which may have comments after it. Tokens are counted in bytes.
    if ";" not in sql:
        return sql.strip()
    data = sql.encode()
    for offset, kind in reversed(duckdb.tokenize(sql)):
        if kind == duckdb.token_type.comment:
            continue
        if data[offset : offset + 1] != b";":
            break
        data = data[:offset]
    return data.decode().strip()


def damaged_part(folder: Path) -> TrustqError | None:
    """The error that names the first part that is no whole Parquet file, where there is one."""
    for table in TABLES:
        for path in part_files(folder, table):
            if not _is_whole(path):
                return damaged(folder, path, "it is not a whole Parquet file", path.stem)
    return None


def _is_whole(path: Path) -> bool:
    with open(path, "rb") as file:
        size = file.seek(0, 2)
        if size < 12:
            return False
        file.seek(size - 8)
        footer, end = int.from_bytes(file.read(4), "little"), file.read(4)
        file.seek(0)
        return file.read(4) == b"PAR1" == end and footer + 12 <= size


def _distinct(names: list[str]) -> list[str]:
    distinct: list[str] = []
    for name in names:
        again, number = name, 0
        while again in distinct:
            number += 1
            again = f"{name}_{number}"
        distinct.append(again)
    return distinct
