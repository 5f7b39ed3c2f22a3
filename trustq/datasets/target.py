"""Which labels a manifest is about: the published ones, or a column of the taxonomy."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from trustq.core.class_names import listed
from trustq.core.counts import counted
from trustq.core.words import rejoined
from trustq.data.manifest import Manifest
from trustq.data.taxonomy import TARGETS, map_labels, read_taxonomy
from trustq.datasets.rows import Rows
from trustq.errors import InputError, NotFound

NATIVE = "native"


def with_target(
    rows: Rows, target: str, *, taxonomy: str | Path | None, drop: Sequence[str] = ()
) -> Rows:
    """Rows with columns `native`, `condition`, `malignant` and `ham10000`, labelled by `target`.

    `taxonomy` names the table of the data set's labels, or a CSV; without one only `native` can be
    the target. Rows whose published label is in `drop` are left out. Raises `TrustqError` for a
    label to drop that is not there, and for rows without a value in the target.
    """
    rows = _without(rows, drop)
    if target != NATIVE and (taxonomy is None or target not in TARGETS):
        known = (NATIVE, *TARGETS) if taxonomy is not None else (NATIVE,)
        raise InputError(
            f"`target={target}`: these data have {', '.join(known)}.", where="target", found=target
        )
    if taxonomy is None:
        return rows
    native = rows.columns["label"]
    mapped = map_labels(native, read_taxonomy(taxonomy), malignant=rows.columns.get("malignant"))
    columns = {**rows.columns, NATIVE: native, **mapped.columns}
    rows = replace(rows, columns=columns, notes=(*rows.notes, *mapped.notes))
    if target == NATIVE:
        return rows
    blank = Counter(
        str(label)
        for label, value in zip(native.tolist(), columns[target].tolist(), strict=True)
        if value is None
    )
    if blank:
        named = ", ".join(f"{label} ({counted(n, 'row')})" for label, n in blank.most_common(10))
        raise InputError(
            f"{rows.source}: no {target} for {named}{' and others' if len(blank) > 10 else ''}. "
            f"Leave them out (`drop={','.join(label for label, _ in blank.most_common(3))}`), or "
            "give your own table (`taxonomy=FILE`)."
        )
    return replace(rows, columns={**columns, "label": columns[target]}, classes=TARGETS[target])


def retarget(manifest: Manifest, column: str) -> Manifest:
    """The manifest with another of its columns as labels; ids, groups and splits stay.

    Classes are those of `trustq.data.taxonomy` in their order, or the column's values sorted; rows
    without a value are left out. Raises `TrustqError` where there is no such column, or no value.

    >>> from trustq.data.manifest import make_manifest
    >>> columns = {name: np.array(["x", "y"], object) for name in ("sample_id", "path", "group_id")}
    >>> columns |= {name: np.array(["d", "d"], object) for name in ("dataset", "domain")}
    >>> columns |= {"label": np.array(["nv", "mel"], object), "split": np.array(["train"] * 2)}
    >>> columns["malignant"] = np.array(["benign", "malignant"], object)
    >>> made = make_manifest(columns, classes=("mel", "nv"), root=Path("."), source="m")
    >>> retarget(made, "malignant").columns["label"].tolist()
    ['benign', 'malignant']
    """
    if column not in manifest.columns:
        raise NotFound(
            f"The manifest has no column {column!r}; it has {', '.join(manifest.columns)}.",
            expected=manifest.columns,
            found=column,
        )
    names, classes = target_names(manifest.columns[column], column)
    there = np.array([name is not None for name in names], dtype=bool)
    if not there.any():
        raise InputError(f"Column {column!r} of the manifest has no value in any row.")
    columns = {name: array[there] for name, array in manifest.columns.items()}
    columns["label"] = np.array([*names, None], dtype=object)[:-1][there]
    return replace(manifest, columns=columns, classes=classes)


def target_names(values: np.ndarray, column: str) -> tuple[list[str | None], tuple[str, ...]]:
    """Values of a column as names of classes, None for a blank, and the classes in their order.

    The order is that of `trustq.data.taxonomy` where it knows the column, else that of the sorted
    names.

    >>> target_names(np.array(["malignant", None], dtype=object), "malignant")
    (['malignant', None], ('benign', 'malignant'))
    """
    masked = np.ma.getmaskarray(values)
    # A NaN, which differs from itself, is a blank too.
    blank = [bool(m) or v in (None, "") or v != v for v, m in zip(values, masked, strict=True)]
    names = [None if none else str(v) for v, none in zip(values, blank, strict=True)]
    present = {name for name in names if name is not None}
    known = TARGETS.get(column, ())
    return names, known if known and present <= set(known) else tuple(sorted(present))


def _without(rows: Rows, drop: Sequence[str]) -> Rows:
    if not drop:
        return rows
    labels = rows.columns["label"].tolist()
    if not set(drop) <= set(rows.classes):
        drop = rejoined(drop, rows.classes)  # labels that hold a comma
    absent = [name for name in drop if name not in rows.classes]
    if absent:
        raise InputError(
            f"`drop={','.join(absent)}`: {rows.source} has no such label; it has "
            f"{listed(rows.classes)}.",
            expected=rows.classes,
        )
    keep = np.array([label not in drop for label in labels], dtype=bool)
    return replace(
        rows,
        columns={name: array[keep] for name, array in rows.columns.items()},
        classes=tuple(name for name in rows.classes if name not in drop),
        notes=(*rows.notes, f"Rows left out by `drop`: {(~keep).sum():,} of {len(keep):,}."),
    )
