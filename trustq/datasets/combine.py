"""Several manifests as one: one class order, one split by group, stratified by label x domain."""

import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from trustq.core.class_names import ClassPosition
from trustq.data.manifest import IMAGE_DIGEST, SPLITS, Manifest, make_manifest
from trustq.data.splits import split_by_group
from trustq.datasets import FRACTIONS
from trustq.datasets.groups import merged_groups
from trustq.errors import InputError


def combine(
    manifests: Sequence[Manifest],
    *,
    external: Sequence[str] = (),
    keep_splits: bool = False,
    fractions: Sequence[float] = FRACTIONS,
    seed: int = 0,
    merge_duplicates: Path | None = None,
    say: Callable[[str], None] | None = None,
) -> Manifest:
    """Rows of several manifests as one, in their order.

    Rows are split by group, stratified by label and domain together; rows of the data sets named in
    `external`, and those that are external in their own manifest, stay so. With `keep_splits` every
    row keeps its split. The classes are those of the first; others may lack some. A group name in
    two manifests is taken for one group. Classes that differ from those of the first manifest in
    case alone are called as there. The data root is the folder that all images are under; a
    metadata column that some lack is blank there. `merge_duplicates` is a table of pairs, of one
    data set or of two, whose groups become one. Raises `TrustqError` for other classes, an id or an
    image that is in two manifests, a group that is external and not, and an unknown data set.
    """
    say = say or (lambda sentence: None)
    if len(manifests) < 2:
        raise InputError("Give two manifests or more to combine.")
    first = manifests[0]
    names = [name for m in manifests for name in dict.fromkeys(m.columns["dataset"].tolist())]
    manifests = [first, *(_named_as(first, other, say) for other in manifests[1:])]
    _require_combinable(manifests, names, external)
    root = Path(os.path.commonpath([manifest.root.resolve() for manifest in manifests]))
    columns = _stacked(manifests, root)
    outside = np.isin(columns["dataset"].astype(str), external) | (columns["split"] == "external")
    columns["split"] = np.where(outside, "external", columns["split"])
    if merge_duplicates is not None:
        columns, note = merged_groups(columns, merge_duplicates)
        say(note)
    shared = _shared_groups(manifests)
    if shared:
        say(
            f"Groups that two manifests name, each kept whole: {len(shared)} "
            f"({', '.join(shared[:5])}{', ...' if len(shared) > 5 else ''})."
        )
    origin: dict[str, Any] = {"mode": "kept", "manifests": [m.split_origin for m in manifests]}
    if not keep_splits:
        origin = {"seed": seed, "fractions": list(fractions), "stratified": "label x domain"}
        inside = np.flatnonzero(~outside)
        if not len(inside):
            raise InputError("All rows are external; leave one data set inside, or keep splits.")
        pairs = zip(columns["label"][inside], columns["domain"][inside], strict=True)
        strata = np.array([f"{label} | {domain}" for label, domain in pairs])
        part = split_by_group(
            strata, columns["group_id"][inside].astype(str), fractions=fractions, seed=seed
        )
        columns["split"][inside] = np.array(SPLITS, dtype=object)[part]
    source = " and ".join(names)
    return make_manifest(
        columns, classes=first.classes, root=root, split_origin=origin, source=source
    )


def _named_as(first: Manifest, other: Manifest, say: Callable[[str], None]) -> Manifest:
    """A manifest whose classes are those of the first, where each of its own is one of them."""
    find = ClassPosition(first.classes)
    named = {
        name: first.classes[place] for name in other.classes if (place := find(name)) is not None
    }
    if len(set(named.values())) < len(other.classes):
        return other
    if pairs := [f"{own} as {new}" for own, new in named.items() if own != new]:
        say(f"Classes of {other.dataset} are called as in {first.dataset}: {', '.join(pairs)}.")
    if lacks := [name for name in first.classes if name not in named.values()]:
        say(f"{other.dataset} has no rows of {', '.join(lacks)}.")
    labels = np.array([named[label] for label in other.columns["label"].tolist()], dtype=object)
    return replace(other, columns={**other.columns, "label": labels}, classes=first.classes)


def _require_combinable(
    manifests: Sequence[Manifest], names: Sequence[str], external: Sequence[str]
) -> None:
    first = manifests[0]
    for other in manifests[1:]:
        if set(other.classes) == set(first.classes):
            continue
        further = ", ".join(name for name in other.classes if name not in first.classes)
        way_out = (
            f"Name {other.dataset} first, which has all of them"
            if set(first.classes) < set(other.classes)
            else "Prepare both with one `target`, e.g. condition"
        )
        raise InputError(
            f"{other.dataset} has the classes {', '.join(other.classes)} and {first.dataset} "
            f"{', '.join(first.classes)}. {way_out}, or leave out or rename {further} "
            "(`trustq data prepare`, `drop`, `rename`)."
        )
    strange = [name for name in external if name not in names]
    if strange:
        raise InputError(
            f"`external={','.join(strange)}`: no such data set; there are {', '.join(names)}.",
            expected=names,
        )
    if twice := [name for name in external if names.count(name) > 1]:
        raise InputError(
            f"`external={','.join(twice)}`: {names.count(twice[0])} manifests are of a data set "
            f"called {twice[0]}, as the table or folder that they were prepared from: rename that "
            "of one, and prepare it again.",
        )
    _refuse_same_ids(manifests)
    _refuse_shared(manifests, "sample_id", "sample")
    _refuse_shared(manifests, IMAGE_DIGEST, "image")


def _refuse_same_ids(manifests: Sequence[Manifest]) -> None:
    """Raise `TrustqError` where two manifests give one id to two images."""
    seen: dict[str, tuple[str | None, str]] = {}
    for manifest in manifests:
        ids, digests = manifest.columns["sample_id"].tolist(), manifest.image_digests
        for sample_id, digest in zip(ids, digests, strict=True):
            known, other = seen.setdefault(sample_id, (digest, manifest.dataset))
            if None not in (known, digest) and known != digest:
                raise InputError(
                    f"{manifest.dataset} and {other} call two images {sample_id}. Give the images "
                    "of one other names, or its rows ids of their own in a table (`trustq data "
                    "prepare csv`)."
                )


def _stacked(manifests: Sequence[Manifest], root: Path) -> dict[str, np.ndarray]:
    names = list(dict.fromkeys(name for m in manifests for name in m.columns))
    columns = {name: [m.columns.get(name) for m in manifests] for name in names}
    stacked: dict[str, np.ndarray] = {}
    for name, arrays in columns.items():
        known = [array for array in arrays if array is not None]
        numeric = all(array.dtype.kind in "fiub" for array in known)
        filled = [
            _blank(len(manifest), numeric) if array is None else array
            for manifest, array in zip(manifests, arrays, strict=True)
        ]
        if numeric:
            stacked[name] = np.asanyarray(
                np.ma.concatenate([np.ma.asarray(array, dtype=np.float64) for array in filled])
            )
        else:
            texts = [_texts(array) for array in filled]
            stacked[name] = np.concatenate(texts)
    paths = []
    for manifest in manifests:
        head = PurePosixPath(os.path.relpath(manifest.root.resolve(), root))
        paths += [str(head / path) for path in manifest.columns["path"].tolist()]
    stacked["path"] = np.array([*paths, None], dtype=object)[:-1]
    return stacked


def _blank(n: int, numeric: bool) -> np.ndarray:
    return np.ma.masked_all(n, dtype=np.float64) if numeric else np.full(n, None, dtype=object)


def _texts(array: np.ndarray) -> np.ndarray:
    # A NaN, which differs from itself, is a blank and no text.
    values = [None if value is None or value != value else str(value) for value in array.tolist()]
    return np.array([*values, None], dtype=object)[:-1]


def _refuse_shared(manifests: Sequence[Manifest], column: str, what: str) -> None:
    seen: dict[str, str] = {}
    for manifest in manifests:
        values = manifest.columns.get(column)
        own = dict.fromkeys([] if values is None else values.tolist(), manifest.dataset)
        both = sorted(str(value) for value in own.keys() & seen.keys() - {None})
        if both:
            other = seen[both[0]]
            raise InputError(
                f"{manifest.dataset} and {other} share {len(both):,} {what}s, e.g. {both[0]}: "
                "combined, they would count twice. Leave them out of one of the two."
            )
        seen |= own


def _shared_groups(manifests: Sequence[Manifest]) -> list[str]:
    seen: set[str] = set()
    shared: dict[str, None] = {}
    for manifest in manifests:
        own = set(manifest.columns["group_id"].tolist())
        shared |= dict.fromkeys(sorted(own & seen))
        seen |= own
    return list(shared)
