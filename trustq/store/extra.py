"""The optional datasets of a cache file, of which the large ones stay there until asked for.

Views, passes and maps can be many times as large as all else; the seal over them was checked when
the file was read, and their own digest is checked whenever one is loaded.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from trustq.core.digest import digest_bytes
from trustq.errors import DamagedFile


@dataclass(frozen=True)
class Stored:
    """A contiguous dataset of numbers in a file."""

    path: Path
    name: str
    dtype: str
    shape: tuple[int, ...]
    offset: int
    digest: str

    def read(self) -> np.ndarray:
        """The whole dataset; raises `TrustqError` where its bytes are no longer those digested."""
        array = self._part(0, self.shape[0])
        if dataset_digest(self.dtype, self.shape, array) != self.digest:
            raise DamagedFile(
                f"{self.path} has changed since it was read: dataset {self.name} does not match "
                "its digest. Read the cache again."
            )
        return array

    def rows(self, start: int, stop: int) -> np.ndarray:
        """Some rows along the first axis, without the digest, which is of all."""
        start, stop, _ = slice(start, stop).indices(self.shape[0])
        return self._part(start, max(start, stop))

    def within(self, row: int, start: int, stop: int) -> np.ndarray:
        """Places `start` to `stop` of the second axis of one row, (1, stop - start, ...)."""
        inner = replace(
            self,
            shape=self.shape[1:],
            offset=self.offset
            + row * int(np.prod(self.shape[1:], dtype=np.int64)) * np.dtype(self.dtype).itemsize,
        )
        return inner.rows(start, stop)[None]

    def _part(self, start: int, stop: int) -> np.ndarray:
        row = int(np.prod(self.shape[1:], dtype=np.int64))
        dtype = np.dtype(self.dtype)
        flat = np.fromfile(
            self.path,
            dtype,
            (stop - start) * row,
            offset=self.offset + start * row * dtype.itemsize,
        )
        if len(flat) != (stop - start) * row:
            raise DamagedFile(f"{self.path} has become shorter since it was read.")
        return flat.reshape(stop - start, *self.shape[1:])


class Extra(Mapping[str, np.ndarray]):
    """Optional datasets by their path: small ones in memory, `Stored` ones read at each access."""

    def __init__(self, held: dict[str, np.ndarray], stored: dict[str, Stored]) -> None:
        self._held = held
        self._stored = stored

    def __getitem__(self, name: str) -> np.ndarray:
        return self._stored[name].read() if name in self._stored else self._held[name]

    def __contains__(self, name: object) -> bool:
        return name in self._held or name in self._stored

    def __iter__(self) -> Iterator[str]:
        yield from (*self._held, *self._stored)

    def __len__(self) -> int:
        return len(self._held) + len(self._stored)

    def __repr__(self) -> str:
        return f"Extra({', '.join(self)})"

    def rows(
        self, name: str, start: int, stop: int, *, within: tuple[int, int] | None = None
    ) -> np.ndarray:
        """Rows of one dataset; of a stored one no more than these are read.

        With `within`, places from one to another of the second axis, and of one row alone.
        """
        if name in self._stored:
            where = self._stored[name]
            return where.rows(start, stop) if within is None else where.within(start, *within)
        held = self._held[name][start:stop]
        return held if within is None else held[:1, within[0] : within[1]]

    def shape(self, name: str) -> tuple[int, ...]:
        """Shape of one dataset, which is not read."""
        return self._stored[name].shape if name in self._stored else self._held[name].shape


def dataset_digest(dtype: str, shape: tuple[int, ...], array: np.ndarray) -> str:
    """Digest of a dataset's dtype, shape and bytes."""
    head = f"{dtype}{shape}".encode()
    return digest_bytes(head, np.ascontiguousarray(array).view(np.uint8).data)
