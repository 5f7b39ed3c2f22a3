"""Any table, CSV or Parquet, with a path and a label in each row."""

import filecmp
import os
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from trustq.core.column_names import ID_COLUMNS, called, first_called
from trustq.core.columns import Columns, read_table
from trustq.core.foreign_rows import holds_splits, like_groups, marked_columns
from trustq.core.sample_ids import id_key
from trustq.core.words import (
    BLANK_WORDS,
    MISSING_WORDS,
    is_no_group,
    plain_numbers,
    read_splits,
    splits_note,
)
from trustq.data.groups import own_where_blank
from trustq.data.manifest import IMAGE_DIGEST, REQUIRED, SPLITS
from trustq.datasets.rows import (
    IMAGE_SUFFIXES,
    ImagesByName,
    Rows,
    column,
    images_by_name,
    metadata_texts,
    named_rows,
    renamed,
    texts,
    without_missing,
)
from trustq.errors import InputError, NotFound

_NAMED_BY = {"sample_id": "id_column", "label": "label_column"}
# What a column of images may be called where none is named, the first that is there.
IMAGE_COLUMNS = (*ID_COLUMNS, "image_name", "img_id", "filename", "file_name", "file")


def read_rows(
    root: Path,
    *,
    table: str | Path | None = None,
    id_column: str | None = None,
    path_column: str | None = None,
    label_column: str | None = None,
    group_column: str | None = None,
    split_column: str | None = None,
    skip_missing: bool = False,
    skip_unlabeled: bool = False,
    metadata_only: bool = False,
    rename: Mapping[str, str] | None = None,
) -> Rows:
    """Rows of a table, whose columns are named as in a manifest or by the options.

    The id is in `sample_id` or else the first of `IMAGE_COLUMNS` that is there or the path, the
    path in `path` or else the id's column. Paths are relative to `root`, or name images below it;
    an image that is not there is looked for by its name in folders of any depth. Without `group_id`
    every row is its own group, and so is a row whose group is blank or a word for a blank; without
    `split` rows are split later; `domain` is taken where it is there. Every other column is kept as
    metadata, under `table_<name>` where the manifest has a column of that name. The data set is
    called as the file. Classes are in sorted order. `skip_unlabeled` leaves out rows without a
    label, `skip_missing` those without an image, and `metadata_only` keeps the latter. `rename`
    gives labels other names. Raises `TrustqError` for a missing column, naming the nearest, and
    that names rows.
    """
    if table is None:
        raise InputError("csv needs `table`: the CSV or Parquet file with paths and labels.")
    path = Path(table)
    source = str(path)
    columns = read_table(path)
    asked = {
        "sample_id": id_column,
        "path": path_column,
        "label": label_column,
        "group_id": group_column,
        "split": split_column,
    }
    names = _column_names(columns, asked)
    rows = {}
    for role, of in names.items():
        hint = ""
        if role in _NAMED_BY and called(columns, of) is None:
            hint = "" if asked[role] else f" Name it (`{_NAMED_BY[role]}`)."
            hint += marked_columns(columns) if role == "label" else ""
        rows[role] = texts(column(columns, of, source=source, hint=hint).tolist())
    ids = rows["sample_id"].tolist()
    rows["label"], notes = _labels(
        rows["label"],
        names["label"],
        ids,
        source=source,
        rename=rename,
        skip_unlabeled=skip_unlabeled,
    )
    n_alone = sum(map(is_no_group, rows["group_id"].tolist()))
    if n_alone and names["group_id"] != names["sample_id"]:
        notes.append(
            f"Rows without a {names['group_id']}, each its own group: {n_alone:,} of {len(ids):,}."
        )
    rows["group_id"] = own_where_blank(_plain_groups(rows["group_id"]), rows["sample_id"])
    if "split" in rows:
        notes += splits_note(rows["split"])
        known, unknown = read_splits(rows["split"])
        if unknown:
            strange = [row for row, split in enumerate(known.tolist()) if split in unknown]
            said = ", ".join(repr(word) if word else "blank" for word in unknown[:5])
            raise InputError(
                f"{source}: {names['split']} {said} in {named_rows(strange, ids)} is not one of "
                f"{', '.join(SPLITS)}: write one of these, or give the column another name, and "
                "splits are made.",
                path=source,
                expected=SPLITS,
            )
        rows["split"] = known.astype(object)
    rows["path"] = _paths(
        root,
        rows["path"],
        ids,
        source=source,
        skip_missing=skip_missing,
        metadata_only=metadata_only,
    )
    _refuse_shared(rows, names["path"], source=source)
    n = len(rows["path"])
    rows["dataset"] = np.full(n, path.name.split(".")[0], dtype=object)
    rows.setdefault("domain", np.full(n, "unknown", dtype=object))
    others = {name: values for name, values in columns.items() if name not in names.values()}
    notes += _add_metadata(rows, others)
    if group_column is None and called(columns, "group_id") is None:
        like = like_groups(others)
        unused = "" if like is None else f", and {like} is not used"
        notes.append(
            f"Every row is its own group{unused}. If several show one subject, say which: "
            "`group_column`."
        )
    if "split" not in names:
        notes += [
            f"{name} is not used. If it says the splits of rows, name it: `split_column`."
            for name, values in others.items()
            if holds_splits(values)
        ]
    rows, left_out = _kept(rows, skip_missing=skip_missing, skip_unlabeled=skip_unlabeled)
    origin = {"file": path.name, "column": names["split"]} if "split" in names else {}
    return Rows(
        rows,
        classes=tuple(sorted({label for label in rows["label"].tolist() if label is not None})),
        root=root,
        source=source,
        split_origin=origin,
        notes=(*notes, *left_out),
    )


def _plain_groups(groups: np.ndarray) -> np.ndarray:
    """Groups, (n,), of which each is a whole number or a blank, as such: 1.0 as 1."""
    named = [None if is_no_group(group) else group for group in groups.tolist()]
    return np.array([*plain_numbers(named), None], dtype=object)[:-1]


def _column_names(columns: Columns, asked: Mapping[str, str | None]) -> dict[str, str]:
    """Which column of the table each of the manifest's is."""

    def there(name: str) -> str | None:
        return called(columns, name)

    own_id = first_called(columns, ("sample_id", *IMAGE_COLUMNS))
    id_name = asked["sample_id"] or own_id or asked["path"] or there("path") or "sample_id"
    names = {
        "sample_id": id_name,
        "path": asked["path"] or there("path") or id_name,
        "label": asked["label"] or "label",
        "group_id": asked["group_id"] or there("group_id") or id_name,
    }
    if split := asked["split"] or there("split"):
        names["split"] = split
    if domain := there("domain"):
        names["domain"] = domain
    # As the table spells them, for what is used is not kept under its own name too.
    return {role: there(name) or name for role, name in names.items()}


def _add_metadata(rows: Columns, others: Columns) -> list[str]:
    """Add the table's other columns to its rows, and tell which have another name there."""
    notes = []
    for name, values in others.items():
        kept = name
        # Of whatever case, for SQL does not tell cases apart.
        while kept.lower() in {taken.lower() for taken in (*rows, *REQUIRED, IMAGE_DIGEST)}:
            kept = f"table_{kept}"
        if kept != name:
            notes.append(f"Column {name!r} of the table is kept as {kept!r}.")
        rows[kept] = metadata_texts(values.tolist()) if values.dtype == object else values
    return notes


def _labels(
    given: np.ndarray,
    name: str,
    ids: list[str],
    *,
    source: str,
    rename: Mapping[str, str] | None,
    skip_unlabeled: bool,
) -> tuple[np.ndarray, list[str]]:
    """Labels by their new names, None where there is none, and a note on those like a blank."""
    labels = renamed(given, rename)
    labels = texts(
        [None if (label or "").lower() in MISSING_WORDS else label for label in labels.tolist()]
    )
    blank = [row for row, label in enumerate(labels.tolist()) if label is None]
    if blank and not skip_unlabeled:
        raise InputError(
            f"{source}: {name} is blank in {named_rows(blank, ids)}. Fill it in, or leave rows "
            "without a label out: `skip_unlabeled`.",
            path=source,
        )
    labels = texts(plain_numbers(labels.tolist()))
    known = sorted({label for label in labels.tolist() if label is not None})
    notes = []
    if odd := [label for label in known if label.lower() in BLANK_WORDS]:
        notes.append(
            f"The label {', '.join(odd)} is a word for a blank and is kept as a class; leave its "
            f"rows out with `drop={','.join(odd)}`."
        )
    folded = Counter(label.casefold() for label in known)
    if twins := [label for label in known if folded[label.casefold()] > 1]:
        other = next(own for own in twins[1:] if own.casefold() == twins[0].casefold())
        notes.append(
            f"The labels {', '.join(twins)} differ in case alone and are kept as several classes; "
            f"make them one with `rename={twins[0]}={other}`."
        )
    return labels, notes


def _paths(
    root: Path,
    given: np.ndarray,
    ids: list[str],
    *,
    source: str,
    skip_missing: bool,
    metadata_only: bool,
) -> np.ndarray:
    """Each row's path below `root`: as it is given, with an ending, or found by its name."""
    by_name: ImagesByName | None = None
    paths: list[str | None] = []
    # Where p1/1.png and p2/1.png are two rows, the name alone says neither.
    spelt = {id_key(path.replace("\\", "/")) for path in given.tolist() if path is not None}
    counts = Counter(map(_name, spelt))
    for path in given.tolist():
        found = [] if path is None else _there(root, path)
        if not found and path is not None and not metadata_only and not _leaves(root, path):
            by_name = by_name or images_by_name(root)
            found = by_name.every(_name(path)) if counts[_name(path)] == 1 else []
        paths.append(_the_one(root, path, found, source) if path and found else None)
    absent = [row for row, path in enumerate(paths) if path is None and given[row] is not None]
    if skip_missing and len(absent) < len(paths):
        return texts(paths)
    # A path that leaves the root, or a blank, is told by the check of the manifest.
    refused = [row for row in absent if not _leaves(root, given[row])]
    if refused and not metadata_only:
        more = "" if skip_missing else "leave rows without one out (`skip_missing`), or "
        raise NotFound(
            f"{source}: no image at the path of {named_rows(refused, given.tolist())} under "
            f"{root}. Add the images, {more}make a manifest of the table alone "
            "(`metadata_only`).",
            path=root,
        )
    return texts([path or own for path, own in zip(paths, given.tolist(), strict=True)])


def _refuse_shared(rows: Columns, name: str, *, source: str) -> None:
    """Refuse one image in two groups, for it may be trained on and tested on."""
    ids, paths = rows["sample_id"].tolist(), rows["path"].tolist()
    first: dict[str, int] = {}
    for row, (path, group) in enumerate(zip(paths, rows["group_id"].tolist(), strict=True)):
        if path is None or rows["group_id"][one := first.setdefault(path, row)] == group:
            continue
        if id_key(str(ids[one])) == id_key(str(ids[row])):
            continue  # one id twice, which the check of the manifest tells
        raise InputError(
            f"{source}: {path} is the image of {named_rows([one, row], ids)}, which are of two "
            "groups, so it may be trained on and tested on. Give all rows of an image one group, "
            f"e.g. `group_column={name}`, or keep one of them.",
            path=source,
        )


def _name(path: str) -> str:
    """The name of an image without its folders and ending."""
    name = path.replace("\\", "/").rsplit("/", 1)[-1]
    return name.rsplit(".", 1)[0] if name.lower().endswith(IMAGE_SUFFIXES) else name


def _leaves(root: Path, path: str) -> bool:
    """Whether a path names a file outside a folder."""
    return os.path.relpath(root / path, root).startswith("..")


def _there(root: Path, path: str) -> list[str]:
    """The images at a path, relative to `root`: as it is given, or with an ending."""
    if "\\" in path and not (root / path).exists():  # as Windows writes folders
        path = path.replace("\\", "/")
    if (path.startswith("/") or ".." in path) and not _leaves(root, path):
        path = os.path.relpath(root / path, root).replace(os.sep, "/")
    # Published tables often hold the image's name without its ending.
    endings = ("",) if path.lower().endswith(IMAGE_SUFFIXES) else IMAGE_SUFFIXES
    return [path + ending for ending in endings if (root / (path + ending)).is_file()]


def _the_one(root: Path, path: str, found: list[str], source: str) -> str:
    """Of images that a path may name the one of its ending, or one of several copies.

    Raises `TrustqError` for several that differ, such as a photo and its mask.
    """
    name = path.replace("\\", "/").rsplit("/", 1)[-1].casefold()
    one, *others = [own for own in found if own.rsplit("/", 1)[-1].casefold() == name] or found
    for other in others:
        if not filecmp.cmp(root / one, root / other, shallow=False):
            raise InputError(
                f"{source}: {path} may be {one} or {other} under {root}: write its folder and "
                "ending in the table, or name the one folder as `root`.",
                path=source,
            )
    return one


def _kept(rows: Columns, *, skip_missing: bool, skip_unlabeled: bool) -> tuple[Columns, list[str]]:
    notes: list[str] = []
    if skip_missing:
        rows, left_out = without_missing(rows)
        notes += left_out
    if skip_unlabeled:
        has_label = np.array([label is not None for label in rows["label"].tolist()])
        if not has_label.all():
            n_blank = int((~has_label).sum())
            notes.append(f"Rows left out for want of a label: {n_blank:,} of {len(has_label):,}.")
            rows = {name: array[has_label] for name, array in rows.items()}
    return rows, notes
