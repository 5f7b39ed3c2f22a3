"""An exported file as the cache it was exported from, every array checked against its digest."""

import json
from pathlib import Path
from typing import Any

import numpy as np

from trustq.errors import DamagedFile, InputError, TrustqError
from trustq.store.export import EXPORTED_NAMES, STATEMENT
from trustq.store.extra import dataset_digest
from trustq.store.format import ATTRIBUTES, FORMAT, FORMAT_VERSION, ROW_DATASETS, Cache
from trustq.store.read import require_sound_arrays
from trustq.store.texts import decoded_texts
from trustq.store.write import overall_digests, storable_array


def restore_cache(path: Path, raw: dict[str, np.ndarray], statement: Any) -> Cache:
    """The cache that a file's arrays and statement describe, with the digests it had.

    `raw` holds the file's arrays by their exported names. Raises `TrustqError` for a statement of
    another kind or a newer format, and where an array or an attribute is not what was exported.
    """
    try:
        return _restored(path, raw, statement)
    except TrustqError:
        raise
    except (AttributeError, LookupError, OverflowError, TypeError, ValueError) as error:
        raise _altered(path, f"its statement cannot be read ({error!r})") from error


def _restored(path: Path, raw: dict[str, np.ndarray], statement: Any) -> Cache:
    attributes = dict(statement["attributes"])
    if attributes["format"] != FORMAT:
        raise DamagedFile(
            f"{path} has format {attributes['format']!r}, expected {FORMAT!r}.", path=path
        )
    if attributes["format_version"] > FORMAT_VERSION:
        raise InputError(
            f"{path} has cache format {attributes['format_version']}; this trustq reads up to "
            f"{FORMAT_VERSION}. Upgrade trustq.",
            path=path,
        )
    arrays, digests = {}, {}
    for name, described in statement["arrays"].items():
        exported = EXPORTED_NAMES.get(name, name)
        array = _array(raw, name, exported, described, attributes["classes"])
        if array is None:
            raise _altered(path, f"it lacks {exported}")
        stored: Any = storable_array(name, array)
        digests[name] = dataset_digest(stored.dtype.str, stored.shape, stored)
        if digests[name] != described["digest"]:
            raise _altered(path, f"{exported} does not match its digest")
        arrays[name] = decoded_texts(stored)
    digest, content_digest = overall_digests(attributes, digests)
    if (digest, content_digest) != (statement["digest"], statement["content_digest"]):
        raise _altered(path, "its attributes do not match their digest")
    require_sound_arrays(arrays, {}, attributes, path)
    rows: dict[str, Any] = {name: arrays.pop(name) for name in ROW_DATASETS}
    rows["trusted"] = rows["trusted"].astype(bool)
    fields: dict[str, Any] = {name: attributes[name] for name in ATTRIBUTES}
    fields["classes"] = tuple(fields["classes"])
    return Cache(
        **fields,
        **rows,
        features=arrays.pop("features"),
        logits=arrays.pop("logits", None),
        extra=arrays,
        path=path,
        digest=digest,
        content_digest=content_digest,
    )


def read_statement(text: str, path: Path) -> Any:
    """A statement from its JSON text."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise _altered(path, f"its statement is no JSON ({error})") from error


def _array(
    raw: dict[str, np.ndarray],
    name: str,
    exported: str,
    described: dict[str, Any],
    classes: list[str],
) -> np.ndarray | None:
    """One dataset in the type and shape it had, from whichever form the file holds it in."""
    dtype, shape = np.dtype(described["dtype"]), tuple(described["shape"])
    if name == "logits" and exported not in raw:
        columns = [raw.get(f"logit_{title}") for title in classes]
        if any(column is None for column in columns):
            return None
        return np.stack([_with_nan(c) for c in columns], axis=1).astype(dtype).reshape(shape)
    array = raw.get(exported)
    if array is None:
        return None
    if name in ("label", "observed") and array.dtype == object:
        position = {title: index for index, title in enumerate(classes)} | {None: -1}
        array = np.array([position[title] for title in array.tolist()])
    if array.dtype == object and dtype.kind != "S":  # a list column
        lists = [_with_nan(row) for row in array.tolist()]
        array = np.stack(lists) if lists else np.zeros(shape)
    if array.dtype == np.uint8 and dtype.kind == "S":  # texts as bytes
        array = np.ascontiguousarray(array).reshape(-1).view(dtype)
    if dtype.kind == "S":
        return array.reshape(shape)
    return _with_nan(array).astype(dtype).reshape(shape)


def _with_nan(column: Any) -> np.ndarray:
    """A table's numbers, where DuckDB wrote NaN as NULL."""
    return np.ma.filled(column, np.nan) if np.ma.isMaskedArray(column) else np.asarray(column)


def _altered(path: Path, what: str) -> TrustqError:
    return DamagedFile(
        f"{path} is not what was exported: {what}.\n"
        f"Export it again; or, if it was altered on purpose, leave out {STATEMENT!r} and state the "
        "exposure yourself (`exposure`).",
        path=path,
    )
