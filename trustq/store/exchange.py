"""Caches from features and logits that were made elsewhere, or exported by trustq."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from trustq import __version__
from trustq.core.digest import digest_bytes, digest_json
from trustq.data.manifest import SPLITS, require_whole_groups
from trustq.errors import InputError
from trustq.metrics.probabilities import NORMALISATIONS, logits_from_probs, normalised
from trustq.store.arrays import Found, read_arrays
from trustq.store.format import EXPOSURES, SEEN_OBSERVED, SEEN_REFERENCE, Cache
from trustq.store.restore import restore_cache

_MATRICES = ("features", "logits", "probs", "crossfit_logits")


def import_cache(
    path: Path,
    *,
    exposure: str | None = None,
    names: dict[str, str] | None = None,
    dataset: str = "",
    ids: Path | None = None,
    meta: Sequence[Path] = (),
    normalise: str | None = None,
) -> Cache:
    """A cache, in memory, of an npz, npy, safetensors, Parquet or CSV file; see `write_cache`.

    Needs `features`, (n, d), and `labels`, (n,) of indices or class names. Optional: `logits` or
    `probs` (n, k), `sample_ids` (default: row numbers), `groups` (default: every row its own),
    `split` (default: every row `train`), `observed`, `classes`, `folds` with `crossfit_logits`. In
    tables features are columns `feature_*` or one of lists, logits `logit_<class>`, probabilities
    `prob_<class>`. `names` maps these to other names in the file. `ids` lists the rows' ids in
    their order (text, one per line, or a table whose other columns come too), tables in `meta` are
    joined by id; both may bring all but matrices. `normalise` makes rows of probs sum to 1, by l1
    or softmax. `exposure` is what the user states of the backbone (default: unknown).

    A file that `export_cache` wrote comes back as the cache it was, with its own exposure. Raises
    `TrustqError` for what is missing, unequal lengths, ids that do not match or repeat, values that
    are no numbers, pickled objects, an exposure that is unknown or that the arrays cannot back.
    """
    path = Path(path)
    names = names or {}
    if exposure is not None and exposure not in EXPOSURES:
        raise InputError(
            f"--exposure {exposure}: expected one of {', '.join(EXPOSURES)}.",
            where="exposure",
            found=exposure,
            expected=EXPOSURES,
        )
    if normalise is not None and normalise not in NORMALISATIONS:
        raise InputError(
            f"--normalize {normalise}: expected {' or '.join(NORMALISATIONS)}.",
            where="normalize",
            found=normalise,
            expected=NORMALISATIONS,
        )
    found = read_arrays(path, names=names, ids=ids, meta=meta)
    if found.statement is not None:
        options = {"--ids": ids, "--meta": meta, "--normalize": normalise}
        given = [flag for flag, value in options.items() if value]
        given += [f"--{name.replace('_', '-')}" for name in names]
        return _exported(path, found, exposure, dataset, given)
    return _imported(path, found, exposure or "unknown", names, dataset, ids, meta, normalise)


def _exported(
    path: Path, found: Found, exposure: str | None, dataset: str, given: Sequence[str]
) -> Cache:
    cache = restore_cache(path, found.arrays, found.statement)
    if given:
        raise InputError(
            f"{path} was exported by trustq and comes back as it was: "
            f"leave out {', '.join(given)}.",
            path=path,
        )
    if exposure not in (None, cache.exposure):
        raise InputError(
            f"--exposure {exposure}: {path} was exported from a cache of exposure "
            f"{cache.exposure}, which is kept. Leave out --exposure.",
            where="exposure",
            found=exposure,
        )
    if not dataset or dataset == cache.dataset:
        return cache
    # Another name, another content: the digests are of the cache as it was.
    content = digest_json([cache.content_digest, dataset])
    return dataclasses.replace(cache, dataset=dataset, digest="", content_digest=content)


def _imported(
    path: Path,
    found: Found,
    exposure: str,
    names: dict[str, str],
    dataset: str,
    ids: Path | None,
    meta: Sequence[Path],
    normalise: str | None,
) -> Cache:
    arrays = found.arrays
    features = _floats(path, arrays["features"], "features")
    n = len(features)
    if not n:
        raise InputError(f"{path}: features has no rows.", path=path)
    for name, array in arrays.items():
        wanted = 2 if name in _MATRICES else 1
        if array.ndim != wanted:
            raise InputError(
                f"{path}: {name} has shape {array.shape}, expected {wanted} axes.", path=path
            )
        if name != "classes" and len(array) != n:
            raise InputError(f"{path}: {name} has {len(array)} rows, features {n}.", path=path)
    logits = _logits(path, arrays, normalise)
    classes, label = _labels(path, arrays, logits)
    observed = np.full(n, -1, dtype=np.int16)
    if "observed" in arrays:
        by_value = (
            logits is None and "classes" not in arrays and arrays["labels"].dtype.kind in "iu"
        )
        read = _values if by_value and arrays["observed"].dtype.kind in "iu" else _indices
        observed = read(path, arrays["observed"], classes, "observed")
    split = np.array(_texts(path, arrays, "split") or ["train"] * n)
    sample_ids = _texts(path, arrays, "sample_ids") or [str(i) for i in range(n)]
    groups = _texts(path, arrays, "groups") or sample_ids
    strange = sorted(set(split.tolist()) - set(SPLITS))
    if strange:
        raise InputError(
            f"{path}: split {', '.join(strange)}; expected {', '.join(SPLITS)}.",
            path=path,
            expected=SPLITS,
        )
    if len(set(sample_ids)) != n:
        raise InputError(
            f"{path}: sample_ids must be unique; {n - len(set(sample_ids))} are repeated.",
            path=path,
        )
    require_whole_groups(groups, split.tolist(), source=str(path))
    extra = _crossfit(path, arrays, len(classes))
    _require_backed(path, exposure, extra, observed, split)
    if exposure == "crossfit" and "observed" not in arrays:
        observed = np.where(split == "train", label, np.int16(-1))
    dataset = dataset or Path(path.name.removesuffix(".gz")).stem
    recipe = {"name": "import", "file": path.name, "exposure": "as stated by the user"}
    content = [digest_bytes(path.read_bytes()), dataset, exposure, names]
    beside = [*([] if ids is None else [ids]), *meta]
    if beside:
        recipe["beside"] = ", ".join(file.name for file in beside)
        content.append([digest_bytes(file.read_bytes()) for file in beside])
    if normalise is not None:
        recipe["normalize"] = normalise
        content.append(normalise)
    return Cache(
        dataset=dataset,
        classes=classes,
        exposure=exposure,
        sample_id=np.array(sample_ids),
        split=split,
        group_id=np.array(groups),
        label=label,
        observed=observed,
        trusted=np.zeros(n, dtype=bool),
        seen=_seen(exposure, split, "observed" in arrays),
        features=features,
        logits=logits,
        weights="as imported",
        recipe=recipe,
        versions={"trustq": __version__},
        extra=extra,
        path=path,
        # In memory it has no file of its own to be verified against; its content stands for it.
        content_digest=digest_json(content),
    )


def _floats(path: Path, array: np.ndarray, name: str) -> np.ndarray:
    if array.ndim != 2 or array.dtype.kind not in "fiu":
        raise InputError(
            f"{path}: {name} has shape {array.shape} and type {array.dtype}, expected rows x "
            "columns of numbers.",
            path=path,
        )
    values = array.astype(np.float32)
    if not np.isfinite(values).all():
        bad = int((~np.isfinite(values)).any(axis=1).sum())
        raise InputError(f"{path}: {name} holds NaN or infinite values in {bad} rows.", path=path)
    return values


def _texts(
    path: Path, arrays: dict[str, np.ndarray], name: str, *, blank: bool = False
) -> list[str]:
    """An array of names as texts; empty when the array is not there; `blank` allows "" for none."""
    if name not in arrays:
        return []
    array = arrays[name]
    if array.dtype.kind == "S":
        try:
            array = np.char.decode(array, "utf-8")
        except UnicodeDecodeError as error:
            raise InputError(f"{path}: {name} are not UTF-8 ({error}).", path=path) from error
    if array.dtype.kind not in "iuUb":
        raise InputError(
            f"{path}: {name} have type {array.dtype}; expected texts or integers.", path=path
        )
    texts = [str(value) for value in array.tolist()]
    if "" in texts and not blank:
        raise InputError(f"{path}: {name} is blank in row {texts.index('') + 1}.", path=path)
    return texts


def _labels(
    path: Path, arrays: dict[str, np.ndarray], logits: np.ndarray | None
) -> tuple[tuple[str, ...], np.ndarray]:
    """Class order and labels as indices, -1 for none."""
    labels, width = arrays["labels"], None if logits is None else logits.shape[1]
    if "classes" in arrays:
        classes = tuple(_texts(path, arrays, "classes"))
        if len(set(classes)) != len(classes):
            raise InputError(f"{path}: classes repeat a name: {', '.join(classes)}.", path=path)
    elif labels.dtype.kind in "US":
        if width is not None:
            raise InputError(
                f"{path}: labels are names, so the order of the {width} columns of logits or probs "
                "is not known. Add an array `classes` with the names in that order.",
                path=path,
            )
        classes = tuple(sorted(set(_texts(path, arrays, "labels", blank=True)) - {""}))
    elif labels.dtype.kind in "iu":
        # With columns of logits, indices count them; else the values that occur are the classes.
        if width is None:
            classes = tuple(str(v) for v in np.unique(labels).tolist() if v != -1)
            _require_few(path, classes)
            return classes, _values(path, labels, classes, "labels")
        classes = tuple(str(i) for i in range(width))
    else:
        raise InputError(
            f"{path}: labels have type {labels.dtype}; expected indices or names.", path=path
        )
    _require_few(path, classes)
    if width is not None and width != len(classes):
        raise InputError(
            f"{path}: {width} columns of logits or probs for {len(classes)} classes.", path=path
        )
    return classes, _indices(path, labels, classes, "labels")


def _values(path: Path, labels: np.ndarray, classes: tuple[str, ...], name: str) -> np.ndarray:
    """Integers whose values are the classes' names, as indices; -1 is none."""
    position = {text: index for index, text in enumerate(classes)} | {"-1": -1}
    strange = sorted({str(value) for value in labels.tolist()} - set(position))
    if strange or any(text.startswith("-") for text in classes):
        raise InputError(
            f"{path}: {name} {', '.join(strange[:5] or classes[:5])} are no classes.", path=path
        )
    return np.array([position[str(value)] for value in labels.tolist()], dtype=np.int16)


def _indices(path: Path, labels: np.ndarray, classes: tuple[str, ...], name: str) -> np.ndarray:
    if labels.dtype.kind in "iu":
        values = labels.astype(np.int64)
        if values.min() < -1 or values.max() >= len(classes):
            raise InputError(
                f"{path}: {name} run from {values.min()} to {values.max()}, but there are "
                f"{len(classes)} classes, counted from 0 (-1 = none).",
                path=path,
            )
        return values.astype(np.int16)
    if labels.dtype.kind not in "US":
        raise InputError(
            f"{path}: {name} have type {labels.dtype}; expected indices or names.", path=path
        )
    texts = _texts(path, {name: labels}, name, blank=True)
    position = {text: index for index, text in enumerate(classes)} | {"": -1}
    strange = sorted(set(texts) - set(position))
    if strange:
        raise InputError(
            f"{path}: {name} {', '.join(strange[:5])} are not among its classes.", path=path
        )
    return np.array([position[text] for text in texts], dtype=np.int16)


def _require_few(path: Path, classes: tuple[str, ...]) -> None:
    if len(classes) >= 2**15:
        raise InputError(
            f"{path}: {len(classes)} classes; a cache holds fewer than 32,768.", path=path
        )


def _logits(path: Path, arrays: dict[str, np.ndarray], normalise: str | None) -> np.ndarray | None:
    if normalise is not None and ("probs" not in arrays or "logits" in arrays):
        there = "logits" if "logits" in arrays else "no probs"
        raise InputError(
            f"--normalize {normalise}: {path} has {there}; "
            "only rows of probs are made to sum to 1.",
            where="normalize",
            found=normalise,
        )
    if "logits" in arrays:
        return _floats(path, arrays["logits"], "logits")
    if "probs" not in arrays:
        return None
    probs: Any = _floats(path, arrays["probs"], "probs")
    if normalise is not None:
        return logits_from_probs(normalised(probs, normalise)).astype(np.float32)
    off = np.abs(probs.sum(axis=1) - 1)
    if off.max(initial=0) > 1e-3 or probs.min(initial=0) < 0:
        raise InputError(
            f"{path}: probs must be at least 0 and sum to 1 in every row; row {off.argmax() + 1} "
            f"sums to {probs[off.argmax()].sum():.6g}. "
            "For other scores: --normalize l1 or softmax.",
            path=path,
        )
    return logits_from_probs(probs).astype(np.float32)


def _crossfit(path: Path, arrays: dict[str, np.ndarray], k: int) -> dict[str, np.ndarray]:
    """Folds, -1 for rows of none, and the logits of each row by the model of its fold.

    Folds without logits are of some other cross-validation, and not taken.
    """
    if "crossfit_logits" not in arrays:
        return {}
    if "folds" not in arrays:
        raise InputError(
            f"{path} has crossfit_logits and no folds, which say what each row saw.", path=path
        )
    folds, logits = arrays["folds"], arrays["crossfit_logits"]
    if folds.dtype.kind not in "iu":
        raise InputError(
            f"{path}: folds have type {folds.dtype}; expected whole numbers.", path=path
        )
    if logits.shape[1] != k:
        raise InputError(
            f"{path}: {logits.shape[1]} columns of crossfit_logits for {k} classes.", path=path
        )
    folds = folds.astype(np.int64)
    _floats(path, logits[folds >= 0], "crossfit_logits")
    return {"fold": folds, "crossfit_logits": logits.astype(np.float32)}


def _require_backed(
    path: Path,
    exposure: str,
    extra: dict[str, np.ndarray],
    observed: np.ndarray,
    split: np.ndarray,
) -> None:
    """Raise where the arrays lack what the stated exposure says there is."""
    if exposure == "crossfit" and not extra:
        raise InputError(
            f"{path}: --exposure crossfit needs the arrays folds and crossfit_logits: each row by "
            "a model that did not see its group.",
            path=path,
        )
    if exposure == "finetuned-observed" and (observed[split == "train"] < 0).any():
        raise InputError(
            f"{path}: --exposure finetuned-observed needs the labels that the backbone was trained "
            "on: an array `observed` (or --observed ARRAY), for every training row.",
            path=path,
        )


def _seen(exposure: str, split: np.ndarray, has_observed: bool) -> np.ndarray:
    # As stated by the user; training rows are those of split `train`.
    bits = {"finetuned-observed": SEEN_OBSERVED, "finetuned-clean": SEEN_REFERENCE}
    # Crossfit is with either: on the observed labels, or where there are none on the reference.
    bits["crossfit"] = SEEN_OBSERVED | (0 if has_observed else SEEN_REFERENCE)
    return np.where(split == "train", bits.get(exposure, 0), 0).astype(np.uint8)
