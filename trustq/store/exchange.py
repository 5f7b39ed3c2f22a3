"""Caches from features and logits that were made elsewhere."""

from pathlib import Path
from typing import Any

import numpy as np

from trustq import __version__
from trustq.digest import digest_bytes
from trustq.errors import TrustqError
from trustq.manifest import SPLITS
from trustq.probabilities import logits_from_probs
from trustq.store.format import EXPOSURES, SEEN_OBSERVED, SEEN_REFERENCE, Cache

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
    arrays = _load(path, names)
    if exposure not in EXPOSURES:
        raise TrustqError(f"--exposure {exposure}: expected one of {', '.join(EXPOSURES)}.")
    features = _floats(path, arrays["features"], "features")
    n = len(features)
    for name, array in arrays.items():
        if name != "classes" and len(array) != n:
            raise TrustqError(f"{path}: {name} has {len(array)} rows, features {n}.")
    given = _texts(arrays["classes"]) if "classes" in arrays else None
    width = next((arrays[a].shape[1] for a in ("logits", "probs") if a in arrays), None)
    classes, label = _classes(path, arrays["labels"], given, width)
    observed = np.full(n, -1, dtype=np.int16)
    if "observed" in arrays:
        observed = _classes(path, arrays["observed"], list(classes), None)[1]
    split = np.array(_texts(arrays["split"]) if "split" in arrays else ["train"] * n)
    strange = sorted(set(split.tolist()) - set(SPLITS))
    if strange:
        raise TrustqError(f"{path}: split {', '.join(strange)}; expected {', '.join(SPLITS)}.")
    ids = _texts(arrays["sample_ids"]) if "sample_ids" in arrays else [str(i) for i in range(n)]
    if len(set(ids)) != n:
        raise TrustqError(f"{path}: sample_ids must be unique; {n - len(set(ids))} are repeated.")
    return Cache(
        dataset=dataset or path.stem,
        classes=classes,
        exposure=exposure,
        sample_id=np.array(ids),
        split=split,
        group_id=np.array(_texts(arrays["groups"]) if "groups" in arrays else ids),
        label=label,
        observed=observed,
        trusted=np.zeros(n, dtype=bool),
        seen=_seen(exposure, split),
        features=features,
        logits=_logits(path, arrays),
        weights="as imported",
        recipe={"name": "import", "file": path.name, "exposure": "as stated by the user"},
        versions={"trustq": __version__},
        # In memory it has no file of its own to be verified against; its content stands for it.
        content_digest=digest_bytes(path.read_bytes(), exposure.encode(), repr(names).encode()),
    )


def _load(path: Path, names: dict[str, str]) -> dict[str, np.ndarray]:
    if not path.is_file():
        raise TrustqError(f"{path}: no such file.")
    try:
        with np.load(path, allow_pickle=False) as file:
            there = list(file.files)
            chosen = {name: names.get(name, name) for name in ARRAYS}
            arrays = {name: file[key] for name, key in chosen.items() if key in there}
    except (ValueError, OSError, AttributeError) as error:
        raise TrustqError(
            f"{path} could not be read as npz arrays ({error}). Pickled objects are not loaded."
        ) from error
    for name in ARRAYS:
        required = name in ("features", "labels") or name in names
        if required and name not in arrays:
            raise TrustqError(
                f"{path} has no array {chosen[name]!r} for {name}; it holds {', '.join(there)}. "
                f"Name it with --{name.replace('_', '-')} ARRAY."
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


def _texts(array: np.ndarray) -> list[str]:
    if array.dtype.kind == "S":
        array = np.char.decode(array, "utf-8")
    return [str(value) for value in array.tolist()]


def _classes(
    path: Path, labels: np.ndarray, given: list[str] | None, width: int | None
) -> tuple[tuple[str, ...], np.ndarray]:
    """Class order and labels as indices, -1 for none."""
    if labels.dtype.kind in "iu":
        top = int(labels.max(initial=-1))
        classes = given or [str(i) for i in range(max(top + 1, width or 0))]
        if top >= len(classes) or int(labels.min(initial=0)) < -1:
            raise TrustqError(
                f"{path}: labels run from {labels.min()} to {top}, but there are {len(classes)} "
                "classes, counted from 0 (-1 = none)."
            )
        return tuple(classes), labels.astype(np.int16)
    if labels.dtype.kind not in "US":
        raise TrustqError(f"{path}: labels have type {labels.dtype}; expected indices or names.")
    texts = _texts(labels)
    classes = given or sorted(set(texts))
    position = {name: index for index, name in enumerate(classes)}
    strange = sorted(set(texts) - set(classes))
    if strange:
        raise TrustqError(f"{path}: labels {', '.join(strange[:5])} are not among its classes.")
    return tuple(classes), np.array([position[text] for text in texts], dtype=np.int16)


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
