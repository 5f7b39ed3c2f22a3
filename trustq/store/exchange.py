"""Caches from features and logits that were made elsewhere, or exported by trustq."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from trustq import __version__
from trustq.core.class_names import checked_classes
from trustq.core.counts import counted, verb
from trustq.core.digest import digest_file, digest_json
from trustq.core.foreign_files import read_foreign
from trustq.core.foreign_rows import ForeignRows, Names, images_among, open_rows
from trustq.core.leaks import (
    Overlap,
    equal_rows,
    in_sample_signs,
    near_ids,
    near_names,
    told,
)
from trustq.core.words import is_plain, plain_texts, whole_number
from trustq.data.manifest import SPLITS, require_whole_groups
from trustq.errors import InputError
from trustq.metrics.probabilities import NORMALIZATIONS, logits_from_probs, normalized
from trustq.store.arrays import statement_in
from trustq.store.format import EXPOSURES, SEEN_OBSERVED, SEEN_REFERENCE, Cache
from trustq.store.mapped import give_back
from trustq.store.restore import restore_cache

_BESIDE = ("observed", "folds")  # arrays of one value a row, beside labels and ids


def import_cache(
    path: Path,
    *,
    exposure: str | None = None,
    names: Names | None = None,
    dataset: str = "",
    ids: Path | None = None,
    meta: Sequence[Path] = (),
    normalize: str | None = None,
) -> Cache:
    """A cache, in memory, of an npz, npy, safetensors, Parquet or CSV file; see `write_cache`.

    Needs `features`, (n, d), and `labels`, (n,) of indices or class names. Optional: `logits` or
    `probs` (n, k), `sample_ids` (default: row numbers), `groups` (default: every row its own),
    `split` (default: every row `train`), `observed`, `classes`, `folds` with `crossfit_logits`. In
    tables features are columns `feature_*` or one of lists, logits `logit_<class>`, probabilities
    `prob_<class>`. `names` maps these to other names in the file. `ids` lists the rows' ids in
    their order (text, one per line, or a table whose other columns come too), tables in `meta` are
    joined by id; both may bring all but matrices. `normalize` makes rows of probs sum to 1, by l1
    or softmax. `exposure` is what the user states of the backbone (default: unknown).

    A file that `export_cache` wrote comes back as the cache it was, with its own exposure. Raises
    `TrustqError` for what is missing, unequal lengths, ids that do not match or repeat, values that
    are no numbers, pickled objects, an exposure that is unknown or that the arrays cannot back.
    """
    path = Path(path)
    names = names or {}
    if exposure is not None and exposure not in EXPOSURES:
        raise InputError(
            f"`exposure={exposure}`: expected one of {', '.join(EXPOSURES)}.",
            where="exposure",
            found=exposure,
            expected=EXPOSURES,
        )
    if normalize is not None and normalize not in NORMALIZATIONS:
        raise InputError(
            f"`normalize={normalize}`: expected {' or '.join(NORMALIZATIONS)}.",
            where="normalize",
            found=normalize,
            expected=NORMALIZATIONS,
        )
    rows = open_rows(path, names=names, ids=ids, meta=meta, whole=True)
    statement = statement_in(rows.file)
    if statement is not None:
        options = {"`ids`": ids, "`meta`": meta, "`normalize`": normalize}
        given = [flag for flag, value in options.items() if value]
        given += [f"`{name}`" for name in names]
        return _exported(path, read_foreign(path).arrays, statement, exposure, dataset, given)
    return _imported(path, rows, exposure or "unknown", names, dataset, ids, meta, normalize)


def _exported(
    path: Path,
    arrays: dict[str, np.ndarray],
    statement: Any,
    exposure: str | None,
    dataset: str,
    given: Sequence[str],
) -> Cache:
    cache = restore_cache(path, arrays, statement)
    if given:
        raise InputError(
            f"{path} was exported by trustq and comes back as it was: "
            f"leave out {', '.join(given)}.",
            path=path,
        )
    if exposure not in (None, cache.exposure):
        raise InputError(
            f"`exposure={exposure}`: {path} was exported from a cache of exposure "
            f"{cache.exposure}, which is kept. Leave out `exposure`.",
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
    rows: ForeignRows,
    exposure: str,
    names: Names,
    dataset: str,
    ids: Path | None,
    meta: Sequence[Path],
    normalize: str | None,
) -> Cache:
    features = _floats(path, _required(rows, "features"), "features")
    n = len(features)
    if not n:
        raise InputError(f"{path}: features has no rows.", path=path)
    arrays = {name: array for name in _BESIDE if (array := rows.find(name)) is not None}
    crossfit = rows.matrix("crossfit_logits")
    if crossfit is not None:
        arrays["crossfit_logits"] = crossfit
    logits, stated = _logits(rows, normalize)
    if logits is not None:
        arrays["logits"] = logits
    arrays["labels"] = _required(rows, "labels")
    for name, array in arrays.items():
        if len(array) != n:
            raise InputError(
                f"{path}: {name} has {counted(len(array), 'row')}, features {n}.", path=path
            )
    labels = rows.labels(classes=stated, width=None if logits is None else logits.shape[1])
    classes, label = labels.classes, labels.indices.astype(np.int16)
    if len(classes) >= 2**15:
        raise InputError(
            f"{path}: {len(classes)} classes; a cache holds fewer than 32,768.", path=path
        )
    observed = np.full(n, -1, dtype=np.int16)
    if "observed" in arrays:
        observed = rows.labels("observed", classes=classes).indices.astype(np.int16)
    given, strange = rows.split(n)
    split = np.array(["train"] * n) if given is None else given
    if strange:
        words = ", ".join(word or "blank" for word in strange)
        raise InputError(
            f"{path}: split {words}; expected {', '.join(SPLITS)}: call the rows one of these, or "
            "leave the column out.",
            path=path,
            expected=SPLITS,
        )
    sample_ids = rows.sample_ids(n) or [str(i) for i in range(n)]
    named = rows.groups(n, sample_ids)
    column = rows.id_column()
    ids_of_rows = column if column is not None and is_plain(column) else np.array(sample_ids)
    named = ids_of_rows if named is None else named
    groups = sample_ids if named is ids_of_rows else named.tolist()
    require_whole_groups(groups, split.tolist(), source=str(path))
    extra = _crossfit(path, arrays, len(classes))
    _require_backed(path, exposure, extra, observed, split)
    if exposure == "crossfit" and "observed" not in arrays:
        observed = np.where(split == "train", label, np.int16(-1))
    dataset = dataset or Path(path.name.removesuffix(".gz")).stem
    recipe = {"name": "import", "file": path.name, "exposure": "as stated by the user"}
    content = [digest_file(path), dataset, exposure, names]
    _suspect(rows, ids_of_rows, named, split, features)
    if rows.notes:
        recipe["notes"] = "; ".join(rows.notes)
    beside = [*([] if ids is None else [ids]), *meta, *rows.file.beside]
    if beside:
        recipe["beside"] = ", ".join(file.name for file in beside)
        content.append([digest_file(file) for file in beside])
    if normalize is not None:
        recipe["normalize"] = normalize
        content.append(normalize)
    return Cache(
        dataset=dataset,
        classes=classes,
        exposure=exposure,
        sample_id=np.array(ids_of_rows),
        split=np.array(split),
        group_id=named.copy(),
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


def _way_out(array: np.ndarray, name: str) -> str:
    """The line of numpy that makes a matrix of an array, after a colon; nothing for no numbers."""
    if array.dtype.kind not in "fiu" or not array.ndim:
        return ""
    if array.ndim == 1:
        return f": for one number a row save {name}[:, None]"
    if array.ndim == 4 and array.shape[0] > 1:
        return (
            f": average a map over its places, e.g. {name}.mean(axis=(2, 3)) of (n, c, h, w), or "
            f"save {name}.reshape(len({name}), -1)"
        )
    return f": save {name}.reshape(n, -1) with n rows"


def _floats(path: Path, array: np.ndarray, name: str) -> np.ndarray:
    if array.ndim != 2 or array.dtype.kind not in "fiu":
        raise InputError(
            f"{path}: {name} has shape {array.shape} and type {array.dtype}, expected rows x "
            f"columns of numbers{_way_out(array, name)}.",
            path=path,
        )
    # What is mapped stays where it is; other types are few or small.
    with np.errstate(over="ignore"):  # what float32 cannot hold is told below
        values = np.asarray(array, dtype=np.float32)
    bad = 0
    for start in range(0, len(values), 4096):
        known = np.isfinite(values[start : start + 4096])
        bad += 0 if known.all() else int((~known).any(axis=1).sum())
    give_back(values)
    if bad:
        raise InputError(
            f"{path}: {name} holds NaN or infinite values in {counted(bad, 'row')}.", path=path
        )
    return values


def _suspect(
    rows: ForeignRows,
    ids: np.ndarray,
    groups: np.ndarray,
    split: np.ndarray,
    features: np.ndarray,
) -> None:
    """Note test rows that may be training or validation rows under another spelling or name."""
    held = np.isin(split, ("test", "external"))
    if not held.any() or held.all():
        return
    near = near_ids(ids[held], ids[~held])
    found = Overlap([], near, equal_rows(features[held], features[~held]))
    names = ("the test rows", "the other rows")
    notes = told(found, *names, ids[held], ids[~held])
    near = []
    if groups is not ids:
        near = near_names(groups[held], groups[~held])
    if near:
        notes.append(
            f"suspicion of a leak: {counted(len(near), 'group')} of {names[0]} and {names[1]} "
            f"{verb(len(near), 'differs', 'differ')} in spelling alone, e.g. {near[0][0]!r} and "
            f"{near[0][1]!r}"
        )
    for note in notes:
        rows.note(note)


def crossfit_signs(cache: Cache) -> list[str]:
    """Signs that a cache's crossfit logits are of networks that saw the very labels they score."""
    fold, logits = cache.extra.get("fold"), cache.extra.get("crossfit_logits")
    if fold is None or logits is None:
        return []
    given = np.where(cache.observed >= 0, cache.observed, cache.label)
    rows = np.flatnonzero((fold >= 0) & (given >= 0))
    if not len(rows):
        return []
    return in_sample_signs(
        np.asarray(logits)[rows],
        given[rows].astype(np.int64),
        groups=np.unique(cache.group_id[rows], return_inverse=True)[1],
        reference=cache.label[rows],
        features=cache.features[rows] if cache.features.shape[1] else None,
        called="crossfit logits",
    )


def _required(rows: ForeignRows, role: str) -> np.ndarray:
    array = rows.matrix(role) if role == "features" else rows.find(role)
    if array is None:
        if role == "features" and (shown := images_among(rows)):
            raise InputError(f"{rows.path} {shown}", path=rows.path)
        what, upper = ("column", "COLUMN") if rows.file.is_table else ("array", "ARRAY")
        raise InputError(
            f"{rows.path} has no {what} {role!r} for {role}; it holds {rows.there()}. Name it with "
            f"`{role}={upper}`.",
            path=rows.path,
        )
    return array


def _logits(
    rows: ForeignRows, normalize: str | None
) -> tuple[np.ndarray | None, tuple[str, ...] | None]:
    """Logits, (n, k), or None where there are no scores; and the class names that are stated."""
    scores = rows.scores() if rows.has_scores() else None
    if normalize is not None and (scores is None or scores.kind != "probs"):
        there = "logits" if scores is not None else "no probs"
        raise InputError(
            f"`normalize={normalize}`: {rows.path} has {there}; "
            "only rows of probs are made to sum to 1.",
            where="normalize",
            found=normalize,
        )
    if scores is None:
        stated = rows.classes()
        return None, None if stated is None else checked_classes(stated, source=rows.source)
    if scores.kind == "logits":
        return _floats(rows.path, scores.array, "logits"), scores.classes
    probs: Any = _floats(rows.path, scores.array, "probs")
    if normalize is not None:
        return logits_from_probs(normalized(probs, normalize)).astype(np.float32), scores.classes
    off = np.abs(probs.sum(axis=1) - 1)
    if off.max(initial=0) > 1e-3 or probs.min(initial=0) < 0:
        raise InputError(
            f"{rows.path}: probs must be at least 0 and sum to 1 in every row; row "
            f"{off.argmax() + 1} sums to {probs[off.argmax()].sum():.6g}. "
            "For other scores: `normalize=l1` or softmax.",
            path=rows.path,
        )
    return logits_from_probs(probs).astype(np.float32), scores.classes


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
    folds, logits = _whole(arrays["folds"]), arrays["crossfit_logits"]
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


def _whole(folds: np.ndarray) -> np.ndarray:
    """Folds as whole numbers where they are: of a CSV as texts, of a table with blanks as -1."""
    numbers = [whole_number(text) if text else -1 for text in plain_texts(folds)]
    return folds if None in numbers else np.array(numbers, dtype=np.int64)


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
            f"{path}: `exposure=crossfit` needs the arrays folds and crossfit_logits: each row by "
            "a model that did not see its group.",
            path=path,
        )
    if exposure == "finetuned-observed" and (observed[split == "train"] < 0).any():
        raise InputError(
            f"{path}: `exposure=finetuned-observed` needs the labels that the backbone was trained "
            "on: an array called observed, for every training row.",
            path=path,
        )


def _seen(exposure: str, split: np.ndarray, has_observed: bool) -> np.ndarray:
    # As stated by the user; training rows are those of split `train`.
    bits = {"finetuned-observed": SEEN_OBSERVED, "finetuned-clean": SEEN_REFERENCE}
    # Crossfit is with either: on the observed labels, or where there are none on the reference.
    bits["crossfit"] = SEEN_OBSERVED | (0 if has_observed else SEEN_REFERENCE)
    return np.where(split == "train", bits.get(exposure, 0), 0).astype(np.uint8)
