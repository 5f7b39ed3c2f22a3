"""Caches from features and logits that were made elsewhere."""

import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np

from trustq import __version__
from trustq.digest import digest_bytes, digest_json
from trustq.errors import TrustqError
from trustq.manifest import SPLITS, require_whole_groups
from trustq.probabilities import logits_from_probs
from trustq.store.format import EXPOSURES, SEEN_OBSERVED, SEEN_REFERENCE, Cache

# What a user can state; a crossfit needs folds and logits that only `trustq extract` makes.
IMPORTABLE = tuple(name for name in EXPOSURES if name != "crossfit")

# The arrays of an npz file, by their names in the design; other names by option.
ARRAYS = (
    "features",
    "labels",
    "logits",
    "probs",
    "sample_ids",
    "groups",
    "split",
    "observed",
    "classes",
)


def import_npz(
    path: Path,
    *,
    exposure: str = "unknown",
    names: dict[str, str] | None = None,
    dataset: str = "",
) -> Cache:
    """A cache, in memory, of the arrays of an npz file; write it with `write_cache`.

    Needs `features`, (n, d), and `labels`, (n,) of indices or class names. Optional: `logits` or
    `probs` (n, k), `sample_ids` (default: row numbers), `groups` (default: every row its own),
    `split` (default: every row `train`), `observed`, `classes`. `names` maps these to other names
    in the file; `exposure` is what the user states of the backbone. Raises `TrustqError` for a
    missing array, unequal lengths, values that are no numbers, or pickled objects.
    """
    path = Path(path)
    names = names or {}
    if exposure not in IMPORTABLE:
        raise TrustqError(f"--exposure {exposure}: expected one of {', '.join(IMPORTABLE)}.")
    arrays = _load(path, names)
    features = _floats(path, arrays["features"], "features")
    n = len(features)
    if not n:
        raise TrustqError(f"{path}: features has no rows.")
    for name, array in arrays.items():
        wanted = 2 if name in ("features", "logits", "probs") else 1
        if array.ndim != wanted:
            raise TrustqError(f"{path}: {name} has shape {array.shape}, expected {wanted} axes.")
        if name != "classes" and len(array) != n:
            raise TrustqError(f"{path}: {name} has {len(array)} rows, features {n}.")
    logits = _logits(path, arrays)
    classes, label = _labels(path, arrays, logits)
    observed = np.full(n, -1, dtype=np.int16)
    if "observed" in arrays:
        by_value = (
            logits is None and "classes" not in arrays and arrays["labels"].dtype.kind in "iu"
        )
        read = _values if by_value and arrays["observed"].dtype.kind in "iu" else _indices
        observed = read(path, arrays["observed"], classes, "observed")
    split = np.array(_texts(path, arrays, "split") or ["train"] * n)
    ids = _texts(path, arrays, "sample_ids") or [str(i) for i in range(n)]
    groups = _texts(path, arrays, "groups") or ids
    strange = sorted(set(split.tolist()) - set(SPLITS))
    if strange:
        raise TrustqError(f"{path}: split {', '.join(strange)}; expected {', '.join(SPLITS)}.")
    if len(set(ids)) != n:
        raise TrustqError(f"{path}: sample_ids must be unique; {n - len(set(ids))} are repeated.")
    require_whole_groups(groups, split.tolist(), source=str(path))
    if exposure == "finetuned-observed" and (observed[split == "train"] < 0).any():
        raise TrustqError(
            f"{path}: --exposure finetuned-observed needs the labels that the backbone was trained "
            "on: an array `observed` (or --observed ARRAY), for every training row."
        )
    dataset = dataset or path.stem
    return Cache(
        dataset=dataset,
        classes=classes,
        exposure=exposure,
        sample_id=np.array(ids),
        split=split,
        group_id=np.array(groups),
        label=label,
        observed=observed,
        trusted=np.zeros(n, dtype=bool),
        seen=_seen(exposure, split),
        features=features,
        logits=logits,
        weights="as imported",
        recipe={"name": "import", "file": path.name, "exposure": "as stated by the user"},
        versions={"trustq": __version__},
        path=path,
        # In memory it has no file of its own to be verified against; its content stands for it.
        content_digest=digest_json([digest_bytes(path.read_bytes()), dataset, exposure, names]),
    )


def _load(path: Path, names: dict[str, str]) -> dict[str, np.ndarray]:
    if not path.is_file():
        raise TrustqError(f"{path}: no such file.")
    try:
        with open(path, "rb") as raw, np.load(raw, allow_pickle=False) as file:
            there = list(file.files)
            chosen = {name: names.get(name, name) for name in ARRAYS}
            arrays = {name: file[key] for name, key in chosen.items() if key in there}
    except (AttributeError, EOFError, OSError, TypeError, ValueError, zlib.error) as error:
        raise TrustqError(
            f"{path} is no whole npz file of plain arrays (pickled objects are not loaded)."
        ) from error
    except zipfile.BadZipFile as error:
        raise TrustqError(f"{path} is damaged: {error}. Copy it again.") from error
    for name in ARRAYS:
        required = name in ("features", "labels") or name in names
        if required and name not in arrays:
            raise TrustqError(
                f"{path} has no array {chosen[name]!r} for {name}; it holds {', '.join(there)}. "
                f"Name it with `trustq cache import {path} --{name.replace('_', '-')} ARRAY`."
            )
    return arrays


def _floats(path: Path, array: np.ndarray, name: str) -> np.ndarray:
    if array.ndim != 2 or array.dtype.kind not in "fiu":
        raise TrustqError(
            f"{path}: {name} has shape {array.shape} and type {array.dtype}, expected rows x "
            "columns of numbers."
        )
    values = array.astype(np.float32)
    if not np.isfinite(values).all():
        bad = int((~np.isfinite(values)).any(axis=1).sum())
        raise TrustqError(f"{path}: {name} holds NaN or infinite values in {bad} rows.")
    return values


def _texts(path: Path, arrays: dict[str, np.ndarray], name: str) -> list[str]:
    """An array of names as texts; empty when the array is not there."""
    if name not in arrays:
        return []
    array = arrays[name]
    if array.dtype.kind == "S":
        try:
            array = np.char.decode(array, "utf-8")
        except UnicodeDecodeError as error:
            raise TrustqError(f"{path}: {name} are not UTF-8 ({error}).") from error
    if array.dtype.kind not in "iuUb":
        raise TrustqError(f"{path}: {name} have type {array.dtype}; expected texts or integers.")
    texts = [str(value) for value in array.tolist()]
    if "" in texts:
        raise TrustqError(f"{path}: {name} is blank in row {texts.index('') + 1}.")
    return texts


def _labels(
    path: Path, arrays: dict[str, np.ndarray], logits: np.ndarray | None
) -> tuple[tuple[str, ...], np.ndarray]:
    """Class order and labels as indices, -1 for none."""
    labels, width = arrays["labels"], None if logits is None else logits.shape[1]
    if "classes" in arrays:
        classes = tuple(_texts(path, arrays, "classes"))
        if len(set(classes)) != len(classes):
            raise TrustqError(f"{path}: classes repeat a name: {', '.join(classes)}.")
    elif labels.dtype.kind in "US":
        if width is not None:
            raise TrustqError(
                f"{path}: labels are names, so the order of the {width} columns of logits or probs "
                "is not known. Add an array `classes` with the names in that order."
            )
        classes = tuple(sorted(set(_texts(path, arrays, "labels"))))
    elif labels.dtype.kind in "iu":
        # With columns of logits, indices count them; else the values that occur are the classes.
        if width is None:
            classes = tuple(str(v) for v in np.unique(labels).tolist() if v != -1)
            _require_few(path, classes)
            return classes, _values(path, labels, classes, "labels")
        classes = tuple(str(i) for i in range(width))
    else:
        raise TrustqError(f"{path}: labels have type {labels.dtype}; expected indices or names.")
    _require_few(path, classes)
    if width is not None and width != len(classes):
        raise TrustqError(f"{path}: {width} columns of logits or probs for {len(classes)} classes.")
    return classes, _indices(path, labels, classes, "labels")


def _values(path: Path, labels: np.ndarray, classes: tuple[str, ...], name: str) -> np.ndarray:
    """Integers whose values are the classes' names, as indices; -1 is none."""
    position = {text: index for index, text in enumerate(classes)} | {"-1": -1}
    strange = sorted({str(value) for value in labels.tolist()} - set(position))
    if strange or any(text.startswith("-") for text in classes):
        raise TrustqError(f"{path}: {name} {', '.join(strange[:5] or classes[:5])} are no classes.")
    return np.array([position[str(value)] for value in labels.tolist()], dtype=np.int16)


def _indices(path: Path, labels: np.ndarray, classes: tuple[str, ...], name: str) -> np.ndarray:
    if labels.dtype.kind in "iu":
        values = labels.astype(np.int64)
        if values.min() < -1 or values.max() >= len(classes):
            raise TrustqError(
                f"{path}: {name} run from {values.min()} to {values.max()}, but there are "
                f"{len(classes)} classes, counted from 0 (-1 = none)."
            )
        return values.astype(np.int16)
    if labels.dtype.kind not in "US":
        raise TrustqError(f"{path}: {name} have type {labels.dtype}; expected indices or names.")
    texts = _texts(path, {name: labels}, name)
    position = {text: index for index, text in enumerate(classes)}
    strange = sorted(set(texts) - set(classes))
    if strange:
        raise TrustqError(f"{path}: {name} {', '.join(strange[:5])} are not among its classes.")
    return np.array([position[text] for text in texts], dtype=np.int16)


def _require_few(path: Path, classes: tuple[str, ...]) -> None:
    if len(classes) >= 2**15:
        raise TrustqError(f"{path}: {len(classes)} classes; a cache holds fewer than 32,768.")


def _logits(path: Path, arrays: dict[str, np.ndarray]) -> np.ndarray | None:
    if "logits" in arrays:
        return _floats(path, arrays["logits"], "logits")
    if "probs" not in arrays:
        return None
    probs: Any = _floats(path, arrays["probs"], "probs")
    off = np.abs(probs.sum(axis=1) - 1)
    if off.max(initial=0) > 1e-3 or probs.min(initial=0) < 0:
        raise TrustqError(
            f"{path}: probs must be at least 0 and sum to 1 in every row; row {off.argmax() + 1} "
            f"sums to {probs[off.argmax()].sum():.6g}."
        )
    return logits_from_probs(probs).astype(np.float32)


def _seen(exposure: str, split: np.ndarray) -> np.ndarray:
    # As stated by the user; training rows are those of split `train`.
    bits = {"finetuned-observed": SEEN_OBSERVED, "finetuned-clean": SEEN_REFERENCE}
    return np.where(split == "train", bits.get(exposure, 0), 0).astype(np.uint8)
