"""The bytes of a sealed file, mapped and hashed once: arrays of a cache lie in them, not in copies.

A mapping counts as memory only while there is room: the system drops its pages and reads them
again, so that features may be larger than memory. The file that was verified stays the one that is
read even when another takes its name, as every writer of trustq does; one that is overwritten in
place, by another program, changes under its reader.
"""

import mmap
from pathlib import Path

import numpy as np
import xxhash

from trustq.errors import DamagedFile
from trustq.store.format import SEAL, USER_BLOCK

_BLOCK = 1 << 26  # bytes hashed at a time; of a larger file their pages are given back after it


def sealed_bytes(path: Path) -> np.ndarray:
    """Every byte of a cache file, read-only, after its seal was checked over all of them.

    Raises `DamagedFile` for a file that is no cache, or whose bytes are not those sealed.
    """
    with open(path, "rb") as file:
        head = file.read(USER_BLOCK)
        if not head.startswith(SEAL):
            raise DamagedFile(
                f"{path} is not a trustq cache (it does not begin with {SEAL.decode()!r}).\n"
                "Features and logits from elsewhere come in with `trustq cache import`.",
                path=path,
            )
        mapping = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    if hasattr(mapping, "madvise"):
        mapping.madvise(mmap.MADV_WILLNEED)
    whole = np.frombuffer(mapping, np.uint8)
    expected, _, padding = head[len(SEAL) :].partition(b"\n")
    found = _digest(mapping, whole).encode()
    if found != expected or padding.strip(b"\0"):
        short = [text[:8].decode("ascii", "replace") + "..." for text in (found, expected)]
        raise damaged(path, f"its bytes have digest {short[0]}, expected {short[1]}")
    return whole


def _digest(mapping: mmap.mmap, whole: np.ndarray) -> str:
    state = xxhash.xxh3_128()
    gives_back = len(whole) > 4 * _BLOCK and hasattr(mapping, "madvise")
    for start in range(0, len(whole), _BLOCK):
        state.update(whole[max(start, USER_BLOCK) : start + _BLOCK].data)
        if gives_back:
            mapping.madvise(mmap.MADV_DONTNEED, start, min(_BLOCK, len(whole) - start))
    return state.hexdigest()


def array_within(
    whole: np.ndarray, dtype: str, shape: tuple[int, ...], offset: int, path: Path
) -> np.ndarray:
    """The array of that type and shape that lies at an offset of the bytes; no copy of it."""
    n_bytes = int(np.prod(shape, dtype=np.int64)) * np.dtype(dtype).itemsize
    part = whole[offset : offset + n_bytes]
    if len(part) != n_bytes:
        raise damaged(path, "a dataset goes beyond its end")
    array = part.view(dtype).reshape(shape)
    return array if array.flags.aligned else array.copy()


def give_back(array: np.ndarray) -> None:
    """Let the system drop the pages of an array of a mapped file; it reads them when next used."""
    base: object = array
    while isinstance(base, np.ndarray):
        base = base.base
    mapping = getattr(base, "obj", base)  # numpy holds a view of the mapping
    if isinstance(mapping, mmap.mmap) and hasattr(mapping, "madvise"):
        mapping.madvise(mmap.MADV_DONTNEED)


def damaged(path: Path, what: str) -> DamagedFile:
    """The error for a file that is not what was written."""
    return DamagedFile(
        f"{path} is damaged: {what}.\n"
        "Copy it again from where it was made, or delete it and extract again.",
        path=path,
    )
