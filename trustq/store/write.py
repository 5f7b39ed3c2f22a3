"""Write a cache: whole or absent, contiguous, every dataset digested, the file sealed."""

import dataclasses
import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import xxhash

from trustq.core.atomic_files import replacing
from trustq.core.counts import counted
from trustq.core.digest import canonical_json, digest_json
from trustq.errors import InputError
from trustq.store.extra import dataset_digest
from trustq.store.format import (
    ATTRIBUTES,
    EXPOSURES,
    FORMAT,
    FORMAT_VERSION,
    INCIDENTAL,
    INCIDENTAL_DATASETS,
    ROW_DATASETS,
    SEAL,
    USER_BLOCK,
    Cache,
)

_ALIGNED = {"alignment_threshold": 1024, "alignment_interval": 64}  # so that views are aligned
_BLOCK = 1 << 22  # bytes hashed at a time when sealing


def write_cache(path: Path, cache: Cache) -> Cache:
    """Write a cache that is in memory and return it with `path` and digests set."""
    rows = {name: getattr(cache, name) for name in ROW_DATASETS}
    with writing_cache(path, len(cache), {}) as writer:
        for name, array in rows.items():
            writer.put(name, array)
        writer.put("features", cache.features)
        if cache.logits is not None:
            writer.put("logits", cache.logits)
        for name, array in cache.extra.items():
            writer.put(name, array)
        writer.finish({name: getattr(cache, name) for name in ATTRIBUTES})
    return dataclasses.replace(
        cache, path=Path(path), digest=writer.digest, content_digest=writer.content_digest
    )


Stream = tuple[int | tuple[int | None, ...], str]  # columns or shape, and dtype


@contextmanager
def writing_cache(
    path: Path, n_rows: int, streamed: dict[str, "Stream"]
) -> Iterator["CacheWriter"]:
    """Open a writer for `path`; the file is there only if the block ends after `finish`.

    `streamed` names datasets that come in row blocks, as (columns, dtype) or (shape, dtype), where
    None in the shape stands for the rows: memory then holds one block, not the data set.

    >>> with writing_cache(path, 2, {"features": (3, "float32")}) as writer:  # doctest: +SKIP
    ...     writer.append("features", block)
    ...     writer.finish(attributes)
    """
    with replacing(Path(path)) as part:
        with (
            _Sink(part) as sink,
            h5py.File(sink, "w", libver="v110", userblock_size=USER_BLOCK, **_ALIGNED) as file,
        ):
            writer = CacheWriter(file, n_rows, streamed, sink)
            yield writer
            if not writer.digest:
                raise RuntimeError("a cache writer was closed without finish()")
        sink.require_written()
        _seal(part)


class _Sink:
    """The file that HDF5 writes to; keeps a failed write to itself until `require_written`.

    HDF5 cannot close a file whose disk is full: it prints pages of errors and crashes at exit. So
    it is told that all went well, and whoever writes asks here.
    """

    def __init__(self, path: Path) -> None:
        self._file = open(path, "wb+", buffering=0)  # noqa: SIM115
        self._error: OSError | None = None

    def __enter__(self) -> "_Sink":
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def require_written(self) -> None:
        """Raise the first error that a write met."""
        if self._error is not None:
            raise self._error

    def write(self, data: Any) -> int:
        view = memoryview(data).cast("B")
        done = 0
        try:
            while self._error is None and done < len(view):
                done += self._file.write(view[done:]) or 0
        except OSError as error:
            self._error = error
        if done < len(view):
            self._file.seek(len(view) - done, os.SEEK_CUR)
        return len(view)

    def truncate(self, size: int | None = None) -> int:
        try:
            return self._file.truncate(size)
        except OSError as error:
            self._error = self._error or error
            return size or 0

    def readinto(self, buffer: Any) -> int:
        return self._file.readinto(buffer) or 0

    def read(self, size: int = -1) -> bytes:
        return self._file.read(size) or b""

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        return self._file.tell()

    def flush(self) -> None:
        self._file.flush()


class CacheWriter:
    """Puts datasets into an open cache file and keeps their digests; see `writing_cache`."""

    def __init__(
        self, file: h5py.File, n_rows: int, streamed: dict[str, Stream], sink: _Sink
    ) -> None:
        self.digest = ""
        self.content_digest = ""
        self._file = file
        self._sink = sink
        self._n_rows = n_rows
        self._digests: dict[str, str] = {}
        self._streams: dict[str, tuple[h5py.Dataset, Any, int]] = {}
        self._written = dict.fromkeys(streamed, 0)
        for name, (columns, dtype) in streamed.items():
            shape = (None, columns) if isinstance(columns, int) else columns
            dataset = file.create_dataset(
                name,
                shape=[n_rows if length is None else length for length in shape],
                dtype=np.dtype(dtype).newbyteorder("<"),
            )
            axis = shape.index(None)
            self._streams[name] = (dataset, xxhash.xxh3_128(_head(dataset)), axis)

    def append(self, name: str, block: np.ndarray) -> None:
        """Add the next rows, (m, columns) or of the stated shape, of a streamed dataset."""
        dataset, state, axis = self._streams[name]
        block = np.ascontiguousarray(block, dtype=dataset.dtype)
        start = self._written[name]
        stop = start + block.shape[axis]
        dataset[(slice(None),) * axis + (slice(start, stop),)] = block
        self._sink.require_written()
        if axis == 0:
            state.update(block.view(np.uint8).data)
        self._written[name] = stop

    def streamed_digest(self, name: str) -> str:
        """Digest of a streamed dataset all of whose rows were added."""
        if name not in self._digests:
            if self._written[name] != self._n_rows:
                raise RuntimeError(f"{name}: {self._written[name]} of {self._n_rows} rows written")
            dataset, state, axis = self._streams[name]
            if axis:  # its rows do not lie in a row, so its bytes are read again, part by part
                for index in np.ndindex(dataset.shape[:axis]):
                    state.update(np.ascontiguousarray(dataset[index]).view(np.uint8).data)
            self._digests[name] = state.hexdigest()
        return self._digests[name]

    def put(self, name: str, array: np.ndarray) -> None:
        """Add a whole dataset; strings become fixed-length UTF-8, booleans bytes."""
        if name in ROW_DATASETS + ("features", "logits") and len(array) != self._n_rows:
            raise InputError(f"{name} has {counted(len(array), 'row')}, the cache {self._n_rows}.")
        stored = storable_array(name, np.asarray(array))
        dataset = self._file.create_dataset(name, data=stored)
        self._sink.require_written()
        self._digests[name] = dataset_digest(dataset.dtype.str, dataset.shape, stored)

    def finish(self, attributes: dict[str, Any]) -> None:
        """Write the attributes of `format.ATTRIBUTES` and the digests; nothing may follow."""
        for name in self._streams:
            self.streamed_digest(name)
        if attributes["exposure"] not in EXPOSURES:
            raise InputError(
                f"exposure {attributes['exposure']!r} is not one of {', '.join(EXPOSURES)}.",
                expected=EXPOSURES,
            )
        attributes = {name: attributes[name] for name in ATTRIBUTES}
        attributes["created"] = attributes["created"] or datetime.now(UTC).isoformat("T", "seconds")
        attributes |= {"format": FORMAT, "format_version": FORMAT_VERSION}
        self.digest, self.content_digest = overall_digests(attributes, self._digests)
        for name, value in attributes.items():
            self._file.attrs[name] = stored_attribute(value)
        self._file.attrs["dataset_digests"] = canonical_json(self._digests)
        self._file.attrs["content_digest"] = self.content_digest
        self._file.attrs["digest"] = self.digest


def stored_attribute(value: Any) -> str | int:
    """An attribute as it is stored: text and integers as they are, all else as canonical JSON."""
    if isinstance(value, str | int):
        return value
    return canonical_json(value)


def overall_digests(attributes: dict[str, Any], datasets: dict[str, str]) -> tuple[str, str]:
    """The digest over everything, and the one over what changes a number."""
    stored = {name: stored_attribute(value) for name, value in attributes.items()}
    content = {name: value for name, value in stored.items() if name not in INCIDENTAL}
    numbers = {n: d for n, d in datasets.items() if not n.startswith(INCIDENTAL_DATASETS)}
    return digest_json([stored, datasets]), digest_json([content, numbers])


def _head(dataset: h5py.Dataset) -> bytes:
    return f"{dataset.dtype.str}{dataset.shape}".encode()


def storable_array(name: str, array: np.ndarray) -> np.ndarray:
    """An array as a cache stores it: texts as fixed-length UTF-8, truth values as bytes."""
    if array.dtype.kind in "OU":
        encoded = [str(text).encode() for text in array.ravel().tolist()]
        if any(b"\0" in text for text in encoded):
            raise InputError(f"{name} holds a NUL character, which a cache cannot store.")
        width = max(map(len, encoded), default=1) or 1
        return np.array(encoded, dtype=h5py.string_dtype("utf-8", width)).reshape(array.shape)
    if array.dtype.kind == "b":
        return array.astype(np.uint8)
    return np.asarray(array, dtype=array.dtype.newbyteorder("<"), order="C")


def _seal(part: Path) -> None:
    with open(part, "rb+") as file:
        line = SEAL + _file_digest(file).encode() + b"\n"
        file.seek(0)
        file.write(line.ljust(USER_BLOCK, b"\0"))
        file.flush()
        os.fsync(file.fileno())


def _file_digest(file: Any) -> str:
    state = xxhash.xxh3_128()
    file.seek(USER_BLOCK)
    buffer = memoryview(bytearray(_BLOCK))
    while size := file.readinto(buffer):
        state.update(buffer[:size])
    return state.hexdigest()
