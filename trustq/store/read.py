"""Read a cache, verified; refuse one that is damaged, foreign or from another manifest."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from trustq.data.manifest import Manifest
from trustq.errors import DamagedFile, InputError, NotFound, TrustqError
from trustq.store.extra import Extra, Stored, dataset_digest
from trustq.store.format import (
    ATTRIBUTES,
    EXPOSURES,
    FORMAT,
    FORMAT_VERSION,
    LARGE,
    ROW_DATASETS,
    ROWS_SECOND,
    Cache,
)
from trustq.store.mapped import array_within, damaged, sealed_bytes
from trustq.store.texts import any_repeat, decoded_texts
from trustq.store.write import overall_digests


def read_cache(path: Path, *, manifest: Manifest | None = None) -> Cache:
    """Read a cache after checking the digest of its bytes.

    Features and logits lie in the mapped file and are read-only: `.copy()` gives arrays to change.
    Views, passes and maps stay in the file until `Cache.view` or `extra[...]` asks for them. With
    `manifest`, ids, groups, splits and labels must be those it was written from. Raises
    `TrustqError` for a missing, truncated, damaged or foreign file, a newer format, a missing
    dataset, or another manifest.
    """
    path = Path(path)
    whole = _sealed(path)
    with _as_damaged(path), _opened(path) as file:
        written = _written(file)
        attributes = _attributes(written, path)
        arrays, stored = _datasets_of(file, whole, written, path)
        # The seal holds: the bytes are those that were written, and need no second hash.
        _verify(file, arrays, stored, attributes, written, path, hashed=False)
        cache = _load(arrays, stored, attributes, written, path)
    if manifest is not None:
        require_same_manifest(cache, manifest)
    return cache


@dataclass(frozen=True)
class Verification:
    """What `verify_cache` found: the overall digest and the datasets that were read."""

    path: Path
    digest: str
    datasets: tuple[str, ...]


def verify_cache(path: Path) -> Verification:
    """Check the seal, every dataset's own digest and the two overall digests.

    Raises `TrustqError` that names the first thing that does not hold.
    """
    path = Path(path)
    whole = _sealed(path)
    with _as_damaged(path), _opened(path) as file:
        written = _written(file)
        attributes = _attributes(written, path)
        arrays, stored = _datasets_of(file, whole, written, path)
        _verify(file, arrays, stored, attributes, written, path, hashed=True)
        cache = _load(arrays, stored, attributes, written, path)
        for dataset in stored.values():
            dataset.read()
    return Verification(path, cache.digest, (*arrays, *stored))


def read_attributes(path: Path) -> dict[str, Any]:
    """Attributes, shapes and digests of a cache without its arrays; its seal is checked."""
    path = Path(path)
    _sealed(path)
    with _as_damaged(path), _opened(path) as file:
        written = _written(file)
        attributes = _attributes(written, path)
        attributes["digest"] = written["digest"]
        attributes["content_digest"] = written["content_digest"]
        attributes["datasets"] = {
            name: f"{dtype}{shape}" for name, dtype, shape, _ in _datasets(file)
        }
        if "features" not in attributes["datasets"]:
            raise damaged(path, "it lacks the dataset features")
        return attributes


def require_same_manifest(cache: Cache, manifest: Manifest) -> None:
    """Raise unless the cache's rows, groups, splits and labels are the manifest's."""
    expected = manifest.digests
    for part in ("ids", "groups", "splits", "labels"):
        found = cache.manifest.get(part, "")
        if found != expected[part]:
            raise InputError(
                f"{cache.name} was written from another manifest: its {part} have digest "
                f"{found[:8] or 'none'}..., expected {expected[part][:8]}....\n"
                "Extract again, or pass the manifest it was written from."
            )


@contextmanager
def _as_damaged(path: Path) -> Iterator[None]:
    """Whatever reading stumbles over in a file whose seal holds, as damage of that file."""
    try:
        yield
    except TrustqError:
        raise
    except (
        ArithmeticError,
        AttributeError,
        LookupError,
        MemoryError,
        OSError,
        RuntimeError,
        TypeError,
        ValueError,
    ) as error:
        said = " ".join(str(error).split()) or type(error).__name__
        raise damaged(path, f"it cannot be read as a cache ({said[:200]})") from error


def _sealed(path: Path) -> np.ndarray:
    """The file's bytes, whose seal is checked before HDF5 parses anything."""
    if not path.is_file():
        raise NotFound(
            f"{path}: no such file. `trustq cache list` shows the caches there are.", path=path
        )
    try:
        return sealed_bytes(path)
    except (OSError, ValueError) as error:  # an empty file cannot be mapped
        raise damaged(path, f"it could not be read ({error})") from error


def _opened(path: Path) -> h5py.File:
    try:
        return h5py.File(path, "r")
    except OSError as error:
        raise damaged(path, f"HDF5 cannot open it ({error})") from error


def _attributes(stored: dict[str, Any], path: Path) -> dict[str, Any]:
    if stored.get("format") != FORMAT:
        raise DamagedFile(
            f"{path} has format {stored.get('format')!r}, expected {FORMAT!r}.", path=path
        )
    version = int(stored["format_version"])
    if version > FORMAT_VERSION:
        raise InputError(
            f"{path} has cache format {version}; this trustq reads up to {FORMAT_VERSION}. "
            "Upgrade trustq.",
            path=path,
        )
    values: dict[str, Any] = {"format": FORMAT, "format_version": version}
    for name in ATTRIBUTES:
        if name not in stored:
            raise DamagedFile(
                f"{path} lacks the attribute {name}. Extract or import it again.", path=path
            )
        value = stored[name]
        if name == "backbone_seed":
            values[name] = int(value)
        elif name in _TEXT:
            values[name] = str(value)
        else:
            values[name] = json.loads(value)
    return values


# Attributes stored as plain text; the others, but for backbone_seed, are JSON.
_TEXT = {"dataset", "exposure", "backbone", "weights", "weights_digest", "precision", "created"}


def _datasets_of(
    file: h5py.File, whole: np.ndarray, written: dict[str, Any], path: Path
) -> tuple[dict[str, np.ndarray], dict[str, Stored]]:
    """Datasets as they are stored, read; and where those lie that are left until asked for."""
    arrays: dict[str, np.ndarray] = {}
    stored: dict[str, Stored] = {}
    digests = json.loads(written["dataset_digests"])
    for name, dtype, shape, offset in _datasets(file):
        if offset is None or not shape:  # no bytes, one value, or another writer's chunks
            arrays[name] = np.asarray(file[name][()])
            continue
        place = dtype, shape, offset
        where = Stored(path, name, *place, digests.get(name, ""))
        if np.dtype(dtype).kind == "f" and name.startswith(LARGE):
            stored[name] = where
        else:
            array = array_within(whole, *place, path)
            arrays[name] = array.copy() if name in ROW_DATASETS else array
    return arrays, stored


def _verify(
    file: h5py.File,
    arrays: dict[str, np.ndarray],
    stored: dict[str, Stored],
    attributes: dict[str, Any],
    written: dict[str, Any],
    path: Path,
    *,
    hashed: bool,
) -> None:
    """Check that datasets are there, their digests (of bytes where `hashed`) and those over all."""
    expected = json.loads(written["dataset_digests"])
    for name in (*ROW_DATASETS, "features"):
        if name not in arrays:
            raise DamagedFile(
                f"{path} lacks the dataset {name}; a cache has {', '.join(ROW_DATASETS)} and "
                "features. Extract or import it again.",
                path=path,
            )
    found = {name: where.digest for name, where in stored.items()}
    for name, array in arrays.items():
        stated = expected.get(name, "")
        found[name] = dataset_digest(file[name].dtype.str, array.shape, array) if hashed else stated
    for name in expected | found:
        if not found.get(name) or expected.get(name) != found[name]:
            raise damaged(path, f"dataset {name} does not match its digest")
    digests = overall_digests(attributes, found)
    if digests != (written["digest"], written["content_digest"]):
        raise damaged(path, "the attributes do not match the overall digest")


def _load(
    arrays: dict[str, np.ndarray],
    stored: dict[str, Stored],
    attributes: dict[str, Any],
    written: dict[str, Any],
    path: Path,
) -> Cache:
    arrays = {name: decoded_texts(array) for name, array in arrays.items()}
    require_sound_arrays(arrays, stored, attributes, path)
    fields: dict[str, Any] = {name: attributes[name] for name in ATTRIBUTES}
    fields["classes"] = tuple(attributes["classes"])
    rows: dict[str, Any] = {name: arrays.pop(name) for name in ROW_DATASETS}
    rows["trusted"] = rows["trusted"].astype(bool)
    return Cache(
        **fields,
        **rows,
        features=arrays.pop("features"),
        logits=arrays.pop("logits", None),
        extra=Extra(arrays, stored),
        path=path,
        digest=str(written["digest"]),
        content_digest=str(written["content_digest"]),
    )


def require_sound_arrays(
    arrays: dict[str, np.ndarray], stored: dict[str, Stored], attributes: dict[str, Any], path: Path
) -> None:
    """Raise when a file that is whole does not mean what a cache means."""
    n, k = len(arrays["sample_id"]), len(attributes["classes"])
    sized = [name for name in (*ROW_DATASETS, "features", "logits") if name in arrays]
    lengths = [where.shape[m.startswith(ROWS_SECOND) :][:1] for m, where in stored.items()]
    faults = {
        "its exposure is not a known one": attributes["exposure"] not in EXPOSURES,
        "its datasets have different numbers of rows": any(len(arrays[m]) != n for m in sized)
        or any(length != (n,) for length in lengths),
        "its sample ids repeat": any_repeat(arrays["sample_id"]),
        "its labels are not indices of its classes": any(
            arrays[m].size and not -1 <= arrays[m].min() <= arrays[m].max() < k
            for m in ("label", "observed")
        ),
        "its logits have not one column a class": "logits" in arrays
        and arrays["logits"].shape != (n, k),
    }
    for fault, is_there in faults.items():
        if is_there:
            raise DamagedFile(
                f"{path}: {fault}, so it was not written by trustq. Extract it again.", path=path
            )


def _written(file: h5py.File) -> dict[str, Any]:
    """The attributes of a file by name, in two thirds of the time of `dict(file.attrs)`."""
    found: dict[str, Any] = {}

    def read(name: bytes) -> None:
        attribute = h5py.h5a.open(file.id, name)
        value = np.empty(attribute.shape, attribute.dtype)
        attribute.read(value)
        one = value[()]
        found[name.decode()] = one.decode() if isinstance(one, bytes) else one

    h5py.h5a.iterate(file.id, read)
    return found


def _datasets(file: h5py.File) -> list[tuple[str, str, tuple[int, ...], int | None]]:
    """Name, type, shape and place of each dataset, in two thirds of the time of `visititems`."""
    found: list[tuple[str, str, tuple[int, ...], int | None]] = []

    def visit(name: bytes) -> None:
        item = h5py.h5o.open(file.id, name)
        if isinstance(item, h5py.h5d.DatasetID):
            found.append((name.decode(), item.dtype.str, item.shape, item.get_offset()))

    h5py.h5o.visit(file.id, visit)
    return found
