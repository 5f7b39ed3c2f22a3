"""The parts of one results folder as the only files that SQL reaches: checked, never written.

DuckDB asks this file system for `trustq://<table>/<part>.parquet`. While text of a user runs, no
folder of the machine is allowed to it, only such names; so whatever functions that text calls,
there is nothing that it could write to. Every block of bytes that is handed over was checked
against the digest that was recorded when the part was written.
"""

import os
import threading
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import duckdb
from fsspec import AbstractFileSystem

from trustq.core.sql_text import literal
from trustq.errors import TrustqError
from trustq.results.digests import BLOCK, FileDigests, damaged, digest_block, read_record
from trustq.results.parts import PROTOCOL, stored_part


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
        self._places: dict[str, tuple[Path, str, FileDigests | None]] = {}

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
            return _Reading(*self._found(path), self)
        except TrustqError as error:
            self.failure = self.failure or error
            raise

    def _found(self, path: str) -> tuple[Path, str, FileDigests | None]:
        # DuckDB asks for a part's size and times before it opens it; parts are immutable.
        if path not in self._places:
            self._places[path] = self._find(path)
        return self._places[path]

    def _find(self, path: str) -> tuple[Path, str, FileDigests | None]:
        table, _, name = path.removeprefix(f"{PROTOCOL}://").partition("/")
        part = name.removesuffix(".parquet")
        file = stored_part(self.folder, table, part)
        if "/" in name or table in ("", ".", "..") or not file.is_file():
            raise TrustqError(f"{file}: no such part of {self.folder}.")
        record = self.record(part)
        if record is None:
            return file, part, None
        if table not in record:
            raise damaged(self.folder, file, "the part's digests do not list it", part)
        return file, part, record[table]

    def glob(self, path: str, **_: Any) -> list[str]:
        """The very name that was asked for: there are no patterns."""
        return [path]

    def info(self, path: str, **_: Any) -> dict[str, Any]:
        """Name, size and kind of a part."""
        file, _part, _digests = self._found(path)
        return {"name": path, "size": file.stat().st_size, "type": "file"}

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
        return datetime.fromtimestamp(self._found(path)[0].stat().st_mtime, UTC)


class _Reading:
    """A file of a part; each thread has its own place in it, for DuckDB seeks and then reads."""

    def __init__(self, path: Path, part: str, digests: FileDigests | None, of: PartFiles) -> None:
        self._path, self._part, self._digests, self._of = path, part, digests, of
        self._place = threading.local()
        self._file = os.open(path, os.O_RDONLY)
        size = os.fstat(self._file).st_size
        if digests is not None and size != digests.size:
            self.close()
            raise self._damaged(f"it has {size} bytes, and {digests.size} were written")

    def seek(self, place: int, whence: int = 0) -> int:
        self._place.at = place
        return place

    def tell(self) -> int:
        return getattr(self._place, "at", 0)

    def seekable(self) -> bool:
        return True

    def flush(self) -> None:
        """Nothing is written."""

    def read(self, n: int) -> bytes:
        start = self.tell()
        self._place.at = start + n
        first = start // BLOCK if self._digests else 0
        begin = first * BLOCK if self._digests else start
        end = -(-(start + n) // BLOCK) * BLOCK if self._digests else start + n
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
