"""The parts of one results folder as the only files that SQL reaches: checked, never written.

DuckDB asks this file system for `trustq://<table>/<part>.parquet`. While text of a user runs, no
folder of the machine is allowed to it, only such names; so whatever functions that text calls,
there is nothing that it could write to. Every block of bytes that is handed over was checked
against the digest that was recorded when the part was written.
"""

import os
import stat
import threading
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import duckdb
from fsspec import AbstractFileSystem

from trustq.core.sql_text import literal
from trustq.errors import TrustqError
from trustq.results.digests import BLOCK, FileDigests, damaged, digest_block, read_record
from trustq.results.parts import PROTOCOL, part_path, stored_part
from trustq.results.schema import FORMER_TABLES

HELD = 1 << 24  # bytes of small parts that are kept, since DuckDB opens each of them four times


class PartFiles(AbstractFileSystem):
    """The parts of a results folder for DuckDB: `PartFiles(folder).register(connection)`.

    `failure` is the first error that a read met, for DuckDB knows only its text. With
    `unrecorded`, parts without a record of digests are read unchecked: folders of format 1 had
    none. `answer` is the one file that may be written to, once, by `save_query`.
    """

    protocol = PROTOCOL
    cachable = False

    def __init__(self, folder: Path, *, unrecorded: bool) -> None:
        super().__init__(skip_instance_cache=True)
        self.folder = folder
        self.unrecorded = unrecorded
        self.failure: TrustqError | None = None
        self.answer: Path | None = None
        self._records: dict[str, dict[str, FileDigests] | None] = {}
        self._places: dict[str, _Place] = {}
        self._held: dict[str, bytes] = {}
        self._left = HELD
        self._has_former = any((folder / old).is_dir() for old in FORMER_TABLES.values())

    def register(self, connection: duckdb.DuckDBPyConnection) -> None:
        """Let a connection read the parts by their addresses."""
        connection.register_filesystem(self)

    def lock(self, connection: duckdb.DuckDBPyConnection) -> None:
        """Allow a connection these names and nothing else, for good.

        DuckDB allows its folder for overflowing data to SQL text as well, so there is none: a query
        that needs more memory than there is ends with DuckDB's own error.
        """
        connection.execute("SET temp_directory = ''")
        connection.execute(f"SET allowed_directories = [{literal(f'{PROTOCOL}://')}]")
        connection.execute("SET python_enable_replacements = false")
        connection.execute("SET enable_external_access = false")
        connection.execute("SET lock_configuration = true")

    def record(self, part: str) -> dict[str, FileDigests] | None:
        """The digests of a part, read once; None where there are none and need be none."""
        if part not in self._records:
            record = read_record(self.folder, part)
            if record is None and not self.unrecorded:
                path = self.folder / "digests" / f"{part}.json"
                raise damaged(self.folder, path, "the digests of a part are missing", part)
            self._records[part] = record
        return self._records[part]

    def open(self, path: str, mode: str = "rb", **_: Any) -> Any:
        """A handle that reads one part and checks what it reads."""
        if mode != "rb":
            answer, self.answer = self.answer, None
            if answer is None:
                raise PermissionError("results are only read")
            return _Writing(answer, self)
        try:
            held = self._held.get(path)
            if held is not None:
                return _Held(held)
            place = self._found(path)
            reading = _Reading(place, self)
            if place.digests is None or place.digests.size > min(BLOCK, self._left):
                return reading
            held = reading.read(place.digests.size)
            reading.close()
        except TrustqError as error:
            self.failure = self.failure or error
            raise
        self._held[path] = held
        self._left -= len(held)
        return _Held(held)

    def _found(self, path: str) -> "_Place":
        # DuckDB asks for a part's size and times before it opens it; parts are immutable.
        if path not in self._places:
            self._places[path] = self._find(path)
        return self._places[path]

    def _find(self, path: str) -> "_Place":
        table, _, name = path.removeprefix(f"{PROTOCOL}://").partition("/")
        part = name.removesuffix(".parquet")
        where = stored_part if self._has_former else part_path
        file = where(self.folder, table, part)
        try:
            found = os.stat(file)
        except (OSError, ValueError):
            found = None
        no_table = "/" in name or table in ("", ".", "..")
        if no_table or found is None or not stat.S_ISREG(found.st_mode):
            raise TrustqError(f"{file}: no such part of {self.folder}.")
        record = self.record(part)
        if record is not None and table not in record:
            raise damaged(self.folder, file, "the part's digests do not list it", part)
        digests = None if record is None else record[table]
        return _Place(file, part, digests, found.st_size, found.st_mtime)

    def glob(self, path: str, **_: Any) -> list[str]:
        """The very name that was asked for: there are no patterns."""
        return [path]

    def info(self, path: str, **_: Any) -> dict[str, Any]:
        """Name, size and kind of a part."""
        return {"name": path, "size": self._found(path).size, "type": "file"}

    def exists(self, path: str, **_: Any) -> bool:
        """Whether there is such a part."""
        try:
            return bool(self._found(path))
        except TrustqError:
            return False

    isfile = exists

    def isdir(self, path: str) -> bool:
        """Folders are not shown."""
        return False

    def modified(self, path: str) -> datetime:
        """When a part was written."""
        return datetime.fromtimestamp(self._found(path).modified, UTC)


class _Place(NamedTuple):
    """A file of a part, as it was found."""

    path: Path
    part: str
    digests: FileDigests | None
    size: int
    modified: float  # seconds


class _Placed:
    """What is read where each thread left off, for DuckDB seeks and then reads."""

    def __init__(self) -> None:
        self._place = threading.local()

    def seek(self, place: int, whence: int = 0) -> int:
        self._place.at = place
        return place

    def tell(self) -> int:
        return getattr(self._place, "at", 0)

    def seekable(self) -> bool:
        return True

    def flush(self) -> None:
        """Nothing is written."""


class _Held(_Placed):
    """The bytes of a small part, which were read and checked once."""

    def __init__(self, data: bytes) -> None:
        super().__init__()
        self._data = data

    def read(self, n: int) -> bytes:
        start = self.tell()
        self._place.at = start + n
        return self._data[start : start + n]

    def close(self) -> None:
        """The bytes are kept for the next time."""


class _Reading(_Placed):
    """A file of a part, of which every block that is read is checked."""

    def __init__(self, place: _Place, of: PartFiles) -> None:
        super().__init__()
        self._path, self._part, self._digests = place.path, place.part, place.digests
        self._of = of
        self._file = os.open(self._path, os.O_RDONLY)
        size = os.fstat(self._file).st_size
        if self._digests is not None and size != self._digests.size:
            self.close()
            raise self._damaged(f"it has {size} bytes, and {self._digests.size} were written")

    def read(self, n: int) -> bytes:
        start = self.tell()
        self._place.at = start + n
        first = start // BLOCK if self._digests else 0
        begin = first * BLOCK if self._digests else start
        end = start + n
        if self._digests:
            end = max(begin, min(-(-end // BLOCK) * BLOCK, self._digests.size))
        data = self._whole(begin, end - begin)
        if self._digests:
            view = memoryview(data)
            for number in range(first, -(-(begin + len(data)) // BLOCK)):
                at = number * BLOCK - begin
                if digest_block(view[at : at + BLOCK]) != self._digests.block(number):
                    raise self._damaged("its bytes are not those that were written")
        return data[start - begin : start - begin + n]

    def _whole(self, begin: int, n: int) -> bytes:
        try:
            data = os.pread(self._file, n, begin)
            while len(data) < n and (
                more := os.pread(self._file, n - len(data), begin + len(data))
            ):
                data += more
        except OSError as error:
            raise self._damaged(f"it cannot be read ({os.strerror(error.errno or 0)})") from error
        return data

    def _damaged(self, how: str) -> TrustqError:
        error = damaged(self._of.folder, self._path, how, self._part)
        self._of.failure = self._of.failure or error
        return error

    def close(self) -> None:
        # Its number may be another file's at once, so it is forgotten before it is closed.
        file, self._file = self._file, -1
        if file >= 0:
            os.close(file)

    __del__ = close


class _Writing:
    """The answer to a query, as DuckDB writes it from its first byte to its last."""

    def __init__(self, path: Path, of: PartFiles) -> None:
        self._path, self._of = path, of
        self._file = open(path, "wb")  # noqa: SIM115  (DuckDB closes it)

    def write(self, data: bytes) -> int:
        try:
            return self._file.write(data)
        except OSError as error:
            self._fail(error)
            raise

    def seekable(self) -> bool:
        return True

    def seek(self, place: int, whence: int = 0) -> int:
        return self._file.seek(place, whence)

    def tell(self) -> int:
        return self._file.tell()

    def flush(self) -> None:
        try:
            self._file.flush()
        except OSError as error:
            self._fail(error)
            raise

    def close(self) -> None:
        try:
            self._file.close()
        except OSError as error:
            self._fail(error)
            raise

    def _fail(self, error: OSError) -> None:
        self._of.failure = self._of.failure or TrustqError(
            f"The answer could not be written: {os.strerror(error.errno or 0).lower()}. "
            "Nothing was left half-written; free the disk or choose another place."
        )
