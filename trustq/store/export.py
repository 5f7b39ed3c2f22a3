"""Caches as npz, Parquet or safetensors for other programs, and what such a file says of itself.

The arrays have the names that `cache import` and `evaluate` read. A statement beside them holds
every attribute of the cache and a digest per array, so that the file comes back as the same cache,
with the exposure it had, or not at all.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np

from trustq.core.atomic_files import replacing
from trustq.core.columns import write_parquet
from trustq.errors import InputError
from trustq.store.extra import dataset_digest
from trustq.store.format import ATTRIBUTES, FORMAT, FORMAT_VERSION, ROW_DATASETS, Cache
from trustq.store.write import overall_digests, storable_array

STATEMENT = "trustq_cache"  # an array of the npz, a key of the other formats' metadata
EXPORTS = (".npz", ".parquet", ".safetensors")

# Datasets of a cache that are called otherwise elsewhere; the others keep their path.
EXPORTED_NAMES = {"sample_id": "sample_ids", "group_id": "groups", "label": "labels"} | {
    "fold": "folds"
}
# SQL types of the numbers that a table's columns can hold.
_SQL = {"f2": "FLOAT", "f4": "FLOAT", "f8": "DOUBLE", "b1": "BOOLEAN"} | {
    f"{kind}{size}": f"{prefix}{name}"
    for size, name in ((1, "TINYINT"), (2, "SMALLINT"), (4, "INTEGER"), (8, "BIGINT"))
    for kind, prefix in (("i", ""), ("u", "U"))
}


def export_cache(path: Path, cache: Cache) -> tuple[str, ...]:
    """Write a cache to a file that ends in .npz, .parquet or .safetensors, whole or not at all.

    npz and safetensors take every dataset (safetensors holds texts as bytes, (n, width), of
    UTF-8). A Parquet table takes those with one row per sample: `labels` and `observed` are class
    names, logits are columns `logit_<class>`, other matrices are list columns. Returns the datasets
    that were left out. `trustq cache import` gives the cache back. Errors: another ending, a folder
    that cannot be written to, a full disk.
    """
    path = Path(path)
    if path.suffix not in EXPORTS:
        raise InputError(f"{path}: expected a name that ends in {', '.join(EXPORTS)}.", path=path)
    arrays = cache_arrays(cache)
    left_out: tuple[str, ...] = ()
    if path.suffix == ".parquet":
        left_out = tuple(name for name, a in arrays.items() if not _fits_table(name, a, len(cache)))
        arrays = {name: _one_nan(a) for name, a in arrays.items() if name not in left_out}
    statement = statement_of(cache, arrays)
    if path.suffix == ".parquet":
        _write_table(path, arrays, cache.classes, statement)
    elif path.suffix == ".npz":
        _write_npz(path, arrays, cache.classes, statement)
    else:
        _write_safetensors(path, arrays, statement)
    return left_out


def cache_arrays(cache: Cache) -> dict[str, np.ndarray]:
    """Every dataset of a cache by its path, as it is in memory."""
    arrays: dict[str, np.ndarray] = {name: getattr(cache, name) for name in ROW_DATASETS}
    arrays["features"] = cache.features
    if cache.logits is not None:
        arrays["logits"] = cache.logits
    return arrays | dict(cache.extra)


def statement_of(cache: Cache, arrays: dict[str, np.ndarray]) -> dict[str, Any]:
    """What a file with these arrays of a cache states: attributes, types, shapes and digests."""
    attributes = {name: getattr(cache, name) for name in ATTRIBUTES}
    attributes |= {"format": FORMAT, "format_version": FORMAT_VERSION}
    described, digests = {}, {}
    for name, array in arrays.items():
        stored: Any = storable_array(name, np.asarray(array))
        digests[name] = dataset_digest(stored.dtype.str, stored.shape, stored)
        described[name] = {
            "dtype": stored.dtype.str,
            "shape": list(stored.shape),
            "digest": digests[name],
        }
    digest, content_digest = overall_digests(attributes, digests)
    return {
        "attributes": attributes,
        "arrays": described,
        "digest": digest,
        "content_digest": content_digest,
    }


def _write_npz(
    path: Path, arrays: dict[str, np.ndarray], classes: tuple[str, ...], statement: dict[str, Any]
) -> None:
    named: dict[str, Any] = {EXPORTED_NAMES.get(n, n): _plain(a) for n, a in arrays.items()}
    named |= {"classes": np.array(classes, dtype=str), STATEMENT: np.array(json.dumps(statement))}
    with replacing(path) as part:
        np.savez(part, **named)


def _write_safetensors(
    path: Path, arrays: dict[str, np.ndarray], statement: dict[str, Any]
) -> None:
    from safetensors.numpy import save

    tensors = {}
    for name, array in arrays.items():
        stored = storable_array(name, np.asarray(array))
        if stored.dtype.kind == "S":
            width = stored.dtype.itemsize
            stored = stored.view(np.uint8).reshape(*stored.shape, width)
        tensors[EXPORTED_NAMES.get(name, name)] = np.ascontiguousarray(stored)
    # One key, for the order of several differs from run to run.
    metadata = {STATEMENT: json.dumps(statement)}
    with replacing(path) as part:
        # As bytes, for the library's own writer makes files that nobody else may read.
        part.write_bytes(save(tensors, metadata=metadata))


def _write_table(
    path: Path, arrays: dict[str, np.ndarray], classes: tuple[str, ...], statement: dict[str, Any]
) -> None:
    columns: dict[str, np.ndarray] = {}
    types: dict[str, str] = {}
    names = np.array([*classes, None], dtype=object)  # -1 is none, and so the last
    for name, array in arrays.items():
        exported = EXPORTED_NAMES.get(name, name)
        if name in ("label", "observed"):
            columns[exported], types[exported] = names[array], "VARCHAR"
        elif name == "logits":
            for j, title in enumerate(classes):
                columns[f"logit_{title}"] = array[:, j]
                types[f"logit_{title}"] = _SQL[array.dtype.str[1:]]
        else:
            array = _plain(array)
            columns[exported] = array
            one = "VARCHAR" if array.dtype.kind == "U" else _SQL[array.dtype.str[1:]]
            types[exported] = one + "[]" * (array.ndim - 1)
    twice = [name for name in columns if sum(name.lower() == o.lower() for o in columns) > 1]
    if twice:
        raise InputError(
            f"{path}: the columns {', '.join(twice)} differ only in case, which tables cannot tell "
            "apart. Export to .npz or .safetensors.",
            path=path,
        )
    write_parquet(path, columns, types=types, metadata={STATEMENT: statement, "classes": classes})


def _fits_table(name: str, array: np.ndarray, n: int) -> bool:
    if name.startswith(("history/", "classifier/")):
        return False
    return array.ndim in (1, 2) and len(array) == n


def _one_nan(array: np.ndarray) -> np.ndarray:
    """Numbers with the usual NaN for each of the many that there are; SQL knows one."""
    if array.dtype.kind != "f":
        return array
    return np.where(np.isnan(array), array.dtype.type(np.nan), array)


def _plain(array: np.ndarray) -> np.ndarray:
    """Texts as fixed-length unicode: object arrays would have to be pickled."""
    return array.astype(str) if array.dtype.kind == "O" else array
