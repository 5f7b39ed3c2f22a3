"""A cache with corrected reference labels, which says what its backbone was trained on before."""

import dataclasses
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from trustq.core.class_names import ClassPosition
from trustq.core.column_names import ID_COLUMNS, first_called
from trustq.core.columns import read_table
from trustq.core.counts import counted
from trustq.core.digest import digest_bytes, digest_json, digest_strings
from trustq.core.sample_ids import find_ids, nearly
from trustq.core.words import plain_texts
from trustq.errors import InputError
from trustq.store.format import SEEN_OBSERVED, SEEN_REFERENCE, Cache

LABEL_COLUMNS = ("label", "labels")


class Relabelled(NamedTuple):
    """A cache in memory with other reference labels, and how many rows the change touched."""

    cache: Cache
    n_changed: int
    n_trained: int  # of these, the backbone was trained on the label that is now wrong
    n_trusted: int  # of these, the label that is now wrong had been bought as clean


def relabel_cache(cache: Cache, labels: Path) -> Relabelled:
    """A cache whose reference labels are those of a table with columns `sample_id` and `label`.

    The table (CSV or Parquet; a manifest is one) may name some rows only; the others keep their
    label. Where a label changes, the backbone is no longer one that was trained on the reference:
    bit 2 of `seen` goes, the old label stays as `observed` with bit 1, and the row is no longer
    `trusted`. A `finetuned-clean` cache of which that befell a row becomes `finetuned-observed`.
    Features, logits and folds are as they were. Errors: ids that the cache lacks or that repeat, a
    blank label or one of no class, nothing changed.
    """
    new = _new_labels(cache, labels)
    changed = new != cache.label
    if not changed.any():
        raise InputError(f"{labels} changes no label of {cache.name}.")
    relabelled = {
        "file": labels.name,
        "digest": digest_bytes(labels.read_bytes()),
        "of": cache.content_digest,
        "changed": int(changed.sum()),
    }
    classes, manifest = cache.classes, dict(cache.manifest)
    if "labels" in manifest:
        texts = [None if index < 0 else classes[index] for index in new.tolist()]
        manifest["labels"] = digest_strings([*classes, "", *texts])
    recipe = cache.recipe | {"relabelled": relabelled}
    trained = changed & cache.seen_labels
    fresh = dataclasses.replace(
        with_labels(cache, new),
        manifest=manifest,
        recipe=recipe,
        path=None,
        digest="",
        content_digest=digest_json([cache.content_digest, relabelled]),
    )
    n_trusted = int((cache.trusted & changed).sum())
    return Relabelled(fresh, int(changed.sum()), int(trained.sum()), n_trusted)


def with_labels(cache: Cache, new: np.ndarray) -> Cache:
    """A cache with reference labels `new`, (n,) of class indices, and marks that tell the change.

    See `relabel_cache`; digests, manifest and recipe stay those of the cache. Raises `TrustqError`
    for a row that was trained on the reference beside another observed label.
    """
    changed = new != cache.label
    if not changed.any():
        return cache
    saw_reference = (cache.seen & SEEN_REFERENCE) != 0
    torn = changed & saw_reference & (cache.observed >= 0) & (cache.observed != cache.label)
    if torn.any():
        first = str(cache.sample_id[torn.argmax()])
        raise InputError(
            f"{cache.name}: the backbone was trained on the reference label of row {first!r}, "
            "whose observed label is another. A cache holds one label that a row was trained on, "
            f"so {counted(int(torn.sum()), 'row')} cannot be relabelled."
        )
    exposure = cache.exposure
    trained = changed & cache.seen_labels
    observed, seen = cache.observed.copy(), cache.seen.copy()
    # Every row that was trained on its reference says so by its observed label too, once the
    # exposure no longer does.
    named = saw_reference & (changed | trained.any())
    observed[named] = cache.label[named]
    seen[named] |= SEEN_OBSERVED
    seen[changed] &= np.uint8(255 - SEEN_REFERENCE)
    if exposure == "finetuned-clean" and trained.any():
        exposure = "finetuned-observed"
    return dataclasses.replace(
        cache,
        exposure=exposure,
        label=new,
        observed=observed,
        seen=seen,
        trusted=cache.trusted & ~changed,
        noise=relabelled_noise(cache.noise),
    )


def _new_labels(cache: Cache, labels: Path) -> np.ndarray:
    columns = read_table(labels)
    by, column = first_called(columns, ID_COLUMNS), first_called(columns, LABEL_COLUMNS)
    if by is None or column is None:
        raise InputError(
            f"{labels} needs the columns sample_id and label; it has {', '.join(columns)}.",
            expected=columns,
        )
    ids = plain_texts(columns[by])
    names = [text or None for text in plain_texts(columns[column])]
    repeated = len(ids) - len(set(ids))
    if repeated:
        raise InputError(f"{labels}: {by} must be unique; {repeated} are repeated.")
    found = find_ids(ids, cache.sample_id, source=str(labels))
    strange = [name for name, row in zip(ids, found, strict=True) if row is None]
    if strange:
        raise InputError(
            f"{labels}: {len(strange)} of {len(ids)} ids are not in {cache.name}, e.g. "
            f"{strange[0]!r}{nearly(strange, cache.sample_id)}."
        )
    rows = [row for row in found if row is not None]
    if len(set(rows)) < len(rows):
        raise InputError(f"{labels}: {by} must be unique; two spellings of one id are there.")
    blank = [name for name, label in zip(ids, names, strict=True) if label is None]
    if blank:
        raise InputError(
            f"{labels}: {column} is blank in {counted(len(blank), 'row')}, e.g. {blank[0]!r}. "
            "Leave such rows out: they keep their label."
        )
    find = ClassPosition(cache.classes)
    position = {str(label): find(str(label)) for label in set(names)}
    unknown = sorted(label for label, place in position.items() if place is None)
    if unknown:
        raise InputError(
            f"{labels}: {', '.join(unknown[:5])} among the labels; the classes of {cache.name} are "
            f"{', '.join(cache.classes)}."
        )
    new = cache.label.copy()
    new[rows] = [position[str(label)] for label in names]
    return new


def relabelled_noise(noise: dict[str, Any]) -> dict[str, Any]:
    """The stored draw without the rate and digest that it had against the old labels."""
    if not noise:
        return {}
    kept = {name: value for name, value in noise.items() if name not in ("rate", "digest")}
    return kept | {"spec": f"{noise.get('spec', 'unknown')}, relabelled"}
