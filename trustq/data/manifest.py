"""The manifest: one row an image, with its label, group and split, made once and then read.

Every later step names rows by the manifest's order and checks the digests that its numbers depend
on.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from trustq.core import columns as tables
from trustq.core.columns import Columns
from trustq.core.counts import counted, verb
from trustq.core.digest import digest_strings
from trustq.core.leaks import near_names
from trustq.core.sample_ids import id_keys
from trustq.core.words import read_splits
from trustq.data.groups import own_where_blank
from trustq.errors import DamagedFile, DishonestError, InputError

SPLITS = ("train", "val", "test", "external")
REQUIRED = ("sample_id", "path", "label", "group_id", "split", "dataset", "domain")
IMAGE_DIGEST = "image_digest"  # xxh3 of each image file's bytes, where they were read

FORMAT = "trustq.data.manifest"
FORMAT_VERSION = 1
_FOOTER_TYPES: dict[str, type] = {
    "format_version": int,
    "classes": list,
    "root": str,
    "split_origin": dict,
    "digests": dict,
}


@dataclass(frozen=True)
class Manifest:
    """Rows of a data set in a fixed order.

    `columns` holds `REQUIRED` and any metadata as equally long arrays; `classes` is the class
    order; `root` is the folder that `path` is relative to; `split_origin` says how the splits were
    made; `written` is when the file that it was read from was, in seconds of `time.time`.
    """

    columns: Columns
    classes: tuple[str, ...]
    root: Path
    split_origin: dict[str, Any] = field(default_factory=dict)
    written: float | None = None

    def __len__(self) -> int:
        return len(self.columns["sample_id"])

    @property
    def dataset(self) -> str:
        """Name of the data set, or names joined by `+` where several were combined."""
        return "+".join(dict.fromkeys(self.columns["dataset"].tolist()))

    @property
    def label_indices(self) -> np.ndarray:
        """Labels as int16 indices into `classes`, (n,)."""
        position = {name: index for index, name in enumerate(self.classes)}
        return np.array([position[name] for name in self.columns["label"].tolist()], dtype=np.int16)

    @property
    def digests(self) -> dict[str, str]:
        """Separate digests of ids (their order and image bytes), groups, splits and labels."""
        ids = self.columns["sample_id"].tolist()
        images = self.columns.get(IMAGE_DIGEST)
        return {
            "ids": digest_strings(ids + ([] if images is None else images.tolist())),
            "groups": digest_strings(self.columns["group_id"].tolist()),
            "splits": digest_strings(self.columns["split"].tolist()),
            "labels": digest_strings([*self.classes, "", *self.columns["label"].tolist()]),
        }

    @property
    def image_digests(self) -> list[str | None]:
        """The digest of each image's bytes; None where the manifest has none."""
        return [*self.columns.get(IMAGE_DIGEST, np.full(len(self), None, dtype=object)).tolist()]

    def subset(self, rows: np.ndarray) -> "Manifest":
        """Some rows, by position or as booleans, in their order."""
        columns = {name: array[rows] for name, array in self.columns.items()}
        return replace(self, columns=columns)

    def image_path(self, row: int) -> Path:
        """Where the image of a row is."""
        return self.root / str(self.columns["path"][row])


def make_manifest(
    columns: Columns,
    *,
    classes: Sequence[str],
    root: Path,
    split_origin: dict[str, Any] | None = None,
    source: str,
) -> Manifest:
    """Check columns and make a manifest of them; `source` names their origin in errors.

    Raises `TrustqError` that names rows: a missing column, a blank or duplicate id, a label outside
    `classes`, an unknown split, a group in two splits, a path that leaves the data root.
    """
    missing = [name for name in REQUIRED if name not in columns]
    if missing:
        raise InputError(
            f"{source}: the manifest lacks {_listed(missing)}; it needs {', '.join(REQUIRED)}.",
            path=source,
        )
    columns = {
        name: array.astype(object) if name in REQUIRED else array for name, array in columns.items()
    }
    if not len(columns["sample_id"]):
        raise InputError(f"{source}: no rows.", path=source)
    for name in REQUIRED:
        blank = [row for row, value in enumerate(columns[name].tolist()) if value in (None, "")]
        if blank:
            raise InputError(f"{source}: {name} is blank in {_rows(blank)}.", path=source)
    _refuse_duplicates(columns["sample_id"], columns["path"].tolist(), source=source)
    if len(set(classes)) != len(classes):
        raise InputError(
            f"{source}: the class order {_listed(classes)} repeats a class.", path=source
        )
    _refuse_unknown(columns, "label", classes, source=source)
    _refuse_unknown(columns, "split", SPLITS, source=source)
    groups, splits = columns["group_id"].tolist(), columns["split"].tolist()
    require_whole_groups(groups, splits, source=source)
    for row, path in enumerate(columns["path"].tolist()):
        pure = PurePosixPath(path)
        if pure.is_absolute() or ".." in pure.parts:
            raise InputError(
                f"{source}: path {path!r} in {_rows([row])} leaves the data root; "
                "paths are relative to it and contain no '..'.",
                path=source,
            )
    return Manifest(columns, tuple(classes), Path(root), split_origin or {})


def write_manifest(manifest: Manifest, path: Path) -> None:
    """Write a manifest as Parquet; class order, root, split origin and digests in its footer.

    Raises `TrustqError` for a file of another ending, such as the CSV that a manifest was read of.
    """
    path = Path(path)
    require_parquet(path)
    root = os.path.relpath(manifest.root.resolve(), path.parent.resolve())
    tables.write_parquet(
        path,
        manifest.columns,
        metadata={
            "format": FORMAT,
            "format_version": FORMAT_VERSION,
            "classes": list(manifest.classes),
            "root": root,
            "split_origin": manifest.split_origin,
            "digests": manifest.digests,
        },
    )


def require_parquet(path: Path) -> None:
    """Raise `TrustqError` unless a manifest can be written to this file."""
    if path.suffix != ".parquet":
        raise InputError(
            f"{path}: a manifest is written as Parquet; call it {path.stem}.parquet.", path=path
        )


def read_manifest(path: Path, *, root: Path | None = None) -> Manifest:
    """Read a manifest from Parquet, or from CSV with the same columns (classes in sorted order).

    `root` replaces the recorded data root, for images that have moved. Raises `TrustqError` where
    the file is no manifest, was written by a newer version, or does not match its own digests.
    """
    path = Path(path)
    columns = tables.read_table(path)
    if not path.name.endswith(".parquet"):
        columns = _of_csv(columns)
        if "label" not in columns:
            raise InputError(
                f"{path}: the manifest lacks label; it needs {', '.join(REQUIRED)}.", path=path
            )
        classes = sorted({label for label in columns["label"].tolist() if label})
        return make_manifest(
            columns,
            classes=classes,
            root=root or path.parent,
            split_origin={"file": path.name},
            source=str(path),
        )
    metadata = _read_footer(path)
    manifest = make_manifest(
        columns,
        classes=metadata["classes"],
        root=root or path.parent / metadata["root"],
        split_origin=metadata["split_origin"],
        source=str(path),
    )
    changed = [
        name for name, value in manifest.digests.items() if metadata["digests"][name] != value
    ]
    if changed:
        raise DamagedFile(
            f"{path}: {_listed(changed)} do not match the digests in its footer, so it was altered "
            "after it was written. Make it again with `trustq data prepare`.",
            path=path,
        )
    return replace(manifest, written=path.stat().st_mtime)


def _read_footer(path: Path) -> dict[str, Any]:
    """What the footer of a manifest says; raises where it is none, or of a newer version."""
    metadata: dict[str, Any] = tables.read_metadata(path)
    if metadata.get("format") != FORMAT:
        raise DamagedFile(
            f"{path} is no manifest of trustq; make one with `trustq data prepare`.", path=path
        )
    absent = [name for name in _FOOTER_TYPES if name not in metadata]
    if absent:
        raise DamagedFile(
            f"{path}: its footer lacks {_listed(absent)}; "
            "make it again with `trustq data prepare`.",
            path=path,
        )
    strange = [name for name, kind in _FOOTER_TYPES.items() if not isinstance(metadata[name], kind)]
    if strange or not {"ids", "groups", "splits", "labels"} <= set(metadata["digests"]):
        raise DamagedFile(
            f"{path}: {_listed(strange or ['digests'])} in its footer cannot be read; "
            "make it again with `trustq data prepare`.",
            path=path,
        )
    if metadata["format_version"] > FORMAT_VERSION:
        raise InputError(
            f"{path} has manifest format {metadata['format_version']}; this trustq reads up to "
            f"{FORMAT_VERSION}. Upgrade trustq.",
            path=path,
        )
    return metadata


def _of_csv(columns: Columns) -> Columns:
    """Columns of a table that people wrote: splits in their words, blank groups as own groups."""
    columns = dict(columns)
    if "split" in columns:
        blank = [row for row, split in enumerate(columns["split"].tolist()) if split is None]
        columns["split"] = read_splits(columns["split"])[0].astype(object)
        columns["split"][blank] = None
    if "group_id" in columns and "sample_id" in columns:
        columns["group_id"] = own_where_blank(columns["group_id"], columns["sample_id"])
    return columns


@dataclass(frozen=True)
class Description:
    """Counts of a manifest: rows by class and split, groups, blanks, groups of mixed label."""

    dataset: str
    n_rows: int
    splits: tuple[str, ...]
    counts: dict[str, tuple[int, ...]]  # class -> rows in each of `splits`
    groups: tuple[int, ...]  # groups in each of `splits`
    blanks: dict[str, int]  # metadata column -> rows without a value
    mixed_groups: tuple[str, ...]  # groups that carry more than one label


def describe(manifest: Manifest) -> Description:
    """Count what is in a manifest."""
    columns = manifest.columns
    split = columns["split"]
    splits = tuple(name for name in SPLITS if (split == name).any())
    counts = {
        name: tuple(int(((columns["label"] == name) & (split == s)).sum()) for s in splits)
        for name in manifest.classes
    }
    groups = tuple(len(set(columns["group_id"][split == s].tolist())) for s in splits)
    blanks = {
        name: n_blank
        for name, array in columns.items()
        if name not in REQUIRED and (n_blank := _count_blanks(array))
    }
    return Description(
        manifest.dataset,
        len(manifest),
        splits,
        counts,
        groups,
        blanks,
        mixed_groups(columns["label"], columns["group_id"]),
    )


def mixed_groups(labels: np.ndarray, groups: np.ndarray) -> tuple[str, ...]:
    """Groups that carry more than one label, in order of appearance.

    >>> mixed_groups(np.array(["a", "b", "a"]), np.array(["g", "g", "h"]))
    ('g',)
    """
    seen: dict[str, set[str]] = {}
    for label, group in zip(labels.tolist(), groups.tolist(), strict=True):
        seen.setdefault(group, set()).add(label)
    return tuple(group for group, labels_of in seen.items() if len(labels_of) > 1)


def split_suspicions(manifest: Manifest) -> list[str]:
    """Notes of ids and groups of held-out rows that other rows have in another spelling.

    They are taken for different ones, so an image or a lesion may lie in two splits unseen.
    """
    split, ids, groups = (manifest.columns[name] for name in ("split", "sample_id", "group_id"))
    held = np.isin(split, ("test", "external"))
    notes = []
    for what, names in (("id", ids), ("group", groups)):
        near = near_names(names[held].tolist(), names[~held].tolist())
        if near:
            notes.append(
                f"suspicion of a leak: {counted(len(near), what)} of test and other rows "
                f"{verb(len(near), 'differs', 'differ')} in spelling alone, e.g. {near[0][0]!r} "
                f"and {near[0][1]!r}; they are taken for different ones"
            )
    return notes


def require_whole_groups(groups: Sequence[str], splits: Sequence[str], *, source: str) -> None:
    """Raise `TrustqError` when a group lies in two splits."""
    # One look-up of all rows at once; the rows are walked through where one does not fit.
    last = dict(zip(groups, splits, strict=True))
    if list(map(last.__getitem__, groups)) == list(splits):
        return
    split_of: dict[str, str] = {}
    for group, split in zip(groups, splits, strict=True):
        if split_of.setdefault(group, split) != split:
            raise DishonestError(
                f"{source}: group {group!r} is in both {split_of[group]} and {split}. "
                "A group (lesion, patient) must lie in one split, or test images leak.",
                path=source,
            )


def _count_blanks(array: np.ndarray) -> int:
    if isinstance(array, np.ma.MaskedArray):
        return int(np.ma.getmaskarray(array).sum())
    if array.dtype.kind == "f":
        return int(np.isnan(array).sum())
    return sum(value is None for value in array.tolist())


def _refuse_duplicates(ids: np.ndarray, paths: list[str], *, source: str) -> None:
    first: dict[str, int] = {}
    twice = []
    for row, sample_id in enumerate(ids.tolist()):
        if first.setdefault(sample_id, row) != row:
            twice.append(f"{sample_id!r} (rows {first[sample_id] + 1} and {row + 1})")
    if not twice:
        # a and a.jpg are one id where they are of one image; a.jpg and a.png may be two.
        spelt: dict[tuple[str, str], int] = {}
        for row, key in enumerate(zip(id_keys(ids), paths, strict=True)):
            if spelt.setdefault(key, row) != row:
                one = spelt[key]
                twice.append(f"{ids[one]!r} and {ids[row]!r} (rows {one + 1} and {row + 1})")
    if twice:
        raise InputError(
            f"{source}: sample_id must be unique; repeated: {_listed(twice)}.", path=source
        )


def _refuse_unknown(columns: Columns, name: str, known: Sequence[str], *, source: str) -> None:
    allowed = set(known)
    strange = [row for row, value in enumerate(columns[name].tolist()) if value not in allowed]
    if strange:
        values = list(dict.fromkeys(repr(columns[name][row]) for row in strange))
        raise InputError(
            f"{source}: {name} {_listed(values)} in {_rows(strange)} is not one of "
            f"{', '.join(known)}.",
            path=source,
            expected=known,
        )


def _rows(rows: Sequence[int]) -> str:
    # Counted from 1, as a person counts the rows of a table below its header.
    numbers = [str(row + 1) for row in rows]
    return ("row " if len(rows) == 1 else "rows ") + _listed(numbers)


def _listed(items: Sequence[str], most: int = 5) -> str:
    items = list(map(str, items))
    more = f" and {len(items) - most} more" if len(items) > most else ""
    return ", ".join(items[:most]) + more
