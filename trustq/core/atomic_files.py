"""Files that are whole or absent."""

import contextlib
import errno
import os
import re
from collections.abc import Iterator
from pathlib import Path

from trustq.errors import TrustqError


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Write a file beside `path`, then put it in its place in one step.

    Yields the temporary path. When the block ends well, that file is flushed to the disk and
    renamed over `path`; when it raises, the file is removed and `path` is as it was. A killed
    process leaves at most a hidden `.NAME.PID.part`, which the next writer of the same path
    removes. Raises `TrustqError` where the folder cannot be written to or the disk is full.
    """
    path = Path(path)
    require_file_place(path)
    with explained(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        _remove_leftovers(path)
    # The suffix stays, because writers choose the format by it.
    part = path.with_name(f".{path.stem}.{os.getpid()}.part{path.suffix}")
    try:
        with explained(path):
            yield part
            with open(part, "rb+") as file:
                os.fsync(file.fileno())
            os.replace(part, path)
            _flush_folder(path.parent)
    finally:
        part.unlink(missing_ok=True)


def require_file_place(path: Path) -> None:
    """Raise `TrustqError` where a folder stands in the place of a file, before work for it."""
    if Path(path).is_dir():
        raise TrustqError(f"{path} is a folder; name a file in it, or another place.", path=path)


def require_folder_place(path: Path) -> None:
    """Raise `TrustqError` where a file stands in the place of a folder or above it."""
    there = next((place for place in (Path(path), *Path(path).parents) if place.exists()), None)
    if there is not None and not there.is_dir():
        raise TrustqError(f"{there} is a file; name a folder, or another place.", path=there)


@contextlib.contextmanager
def explained(path: Path) -> Iterator[None]:
    """Raise what the system says of a file that is written as a `TrustqError`."""
    try:
        yield
    except (OSError, RuntimeError) as error:
        number = _errno_of(error)
        if number is None:
            raise
        raise TrustqError(
            f"{path} could not be written: {os.strerror(number).lower()}. "
            "Nothing was left half-written; free the disk or choose another place.",
            path=path,
        ) from error


def _errno_of(error: BaseException) -> int | None:
    """The system's number of what went wrong, also where a library's own error hides it.

    >>> _errno_of(RuntimeError("Unable to flush (file write failed: errno = 28, error ...)"))
    28
    """
    if isinstance(error, OSError) and error.errno is not None:
        return error.errno
    # HDF5 writes the number into its text; torch says only that a write stopped short.
    if found := re.search(r"errno = (\d+)", str(error)):
        return int(found[1])
    if re.search(r"PytorchStreamWriter failed|inline_container.*unexpected pos", str(error)):
        return errno.ENOSPC
    return None


def _remove_leftovers(path: Path) -> None:
    # A database that is being written has a log of the same name beside it.
    name = rf"\.{re.escape(path.stem)}\.(\d+)\.part{re.escape(path.suffix)}(\.wal)?"
    pattern = re.compile(name)
    for other in path.parent.iterdir():
        if (found := pattern.fullmatch(other.name)) and not _is_alive(int(found[1])):
            other.unlink(missing_ok=True)


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _flush_folder(folder: Path) -> None:
    # So that the rename itself survives a power cut.
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
