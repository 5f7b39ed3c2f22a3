"""Arrays that may be larger than memory: on disk where they would not fit beside all else."""

import errno
import math
import os
import tempfile
from pathlib import Path
from typing import IO, Any

import numpy as np

from trustq.core.free_memory import free_memory
from trustq.errors import TrustqError

SHARE = 0.25  # of the memory that is free, what one array may take of it
LINE = 64  # bytes of a line of the cache
SMALL = 1 << 23  # bytes that are always in memory
ON_DISK = "/var/tmp"  # for large files, by the standard of where files lie
RESERVED = 3 << 26  # bytes that are left for tables to be written


def room_for(shape: tuple[int, ...], dtype: Any) -> np.ndarray:
    """An array to fill: in memory, or in a file that is gone with it where memory is short.

    The file lies in `scratch_folder`, and the system writes its pages back and drops them as it
    needs memory; nothing else differs. Raises `TrustqError` where the disk has no room for it.

    >>> room_for((2, 3), np.float32).shape
    (2, 3)
    """
    if fits_memory(shape, dtype):
        return aligned(shape, dtype)
    n_bytes = math.prod(shape) * np.dtype(dtype).itemsize
    folder = scratch_folder()
    try:
        with tempfile.TemporaryFile(prefix="trustq-", dir=folder) as file:
            claim(file, n_bytes)
            return np.memmap(file, dtype, "w+", shape=shape).view(np.ndarray)
    except OSError as error:
        raise TrustqError(
            f"{folder}: {n_bytes / 1e9:,.1f} GB that do not fit in memory cannot be "
            f"had there ({error.strerror}). Make room, or name a folder with more in TMPDIR."
        ) from error


def aligned(shape: tuple[int, ...], dtype: Any, *, fill: float | None = None) -> np.ndarray:
    """An array to fill, or of one number, that begins where a line of the processor's cache does.

    NumPy's begin at any 16 bytes, and half of the vectors read from such are of two lines each.

    >>> aligned((2, 3), np.float32).ctypes.data % LINE
    0
    """
    n_bytes = math.prod(shape) * np.dtype(dtype).itemsize
    whole = np.empty(n_bytes + LINE, np.uint8)
    first = -whole.ctypes.data % LINE
    found: np.ndarray = whole[first : first + n_bytes].view(dtype).reshape(shape)
    if fill is not None:
        found[:] = fill
    return found


def scratch_folder() -> str:
    """The folder for temporary files (`TMPDIR`), or /var/tmp where that lies in memory.

    Many systems keep /tmp in memory, where a file takes what it is meant to spare; a folder that
    is named in the environment is taken as it is.
    """
    folder = tempfile.gettempdir()
    if any(os.environ.get(name) for name in ("TMPDIR", "TEMP", "TMP")) or not in_memory(folder):
        return folder
    usable = os.access(ON_DISK, os.W_OK) and not in_memory(ON_DISK)
    return ON_DISK if usable else folder


def in_memory(folder: str, mounts: str = "/proc/mounts") -> bool:
    """Whether a folder lies on a file system that is kept in memory, by the system's own list."""
    try:
        lines = [line.split() for line in Path(mounts).read_text().splitlines()]
    except OSError:  # a system that has no such list
        return False
    above = [os.path.realpath(folder), *map(str, Path(os.path.realpath(folder)).parents)]
    kinds = {place: kind for _, place, kind, *_ in lines}  # of one place the last holds
    kind = next((kinds[place] for place in above if place in kinds), "")
    return kind in ("tmpfs", "ramfs")


def claim(file: IO[bytes], n_bytes: int) -> None:
    """Have the disk set aside all bytes of a file that is to be mapped, or raise `OSError`.

    A file without them is sparse, and a process that writes to its mapping once the disk is full
    is ended by the system, with no word and nothing tidied.
    """
    if not hasattr(os, "posix_fallocate"):
        return
    try:
        os.posix_fallocate(file.fileno(), 0, n_bytes)
    except OSError as error:
        if error.errno != errno.EOPNOTSUPP:  # a file system that cannot set room aside
            raise


def lies_in_file(array: np.ndarray) -> bool:
    """Whether an array, or what it is a part of, is one of `room_for` that lies in a file."""
    base: Any = array
    while isinstance(base, np.ndarray) and not isinstance(base, np.memmap):
        base = base.base
    return isinstance(base, np.memmap)


def fits_memory(shape: tuple[int, ...], dtype: Any) -> bool:
    """Whether an array would take at most a quarter of what memory is free and not reserved.

    >>> fits_memory((2, 3), np.float32), fits_memory((1 << 30, 1 << 30), np.float32)
    (True, False)
    """
    n_bytes = math.prod(shape) * np.dtype(dtype).itemsize
    return bool(n_bytes <= SMALL or n_bytes <= room_left())  # to ask the system takes its time


def room_left() -> float:
    """Bytes of memory that one thing may take: a quarter of what is free and not reserved."""
    return SHARE * max(0.0, free_memory() - RESERVED)
