"""Images in one folder per class."""

import os
import re
from collections.abc import Collection, Mapping
from pathlib import Path

import numpy as np

from trustq.core.counts import counted, verb
from trustq.core.words import SPLIT_WORDS
from trustq.datasets.rows import IMAGE_SUFFIXES, Rows, renamed, texts
from trustq.errors import InputError

_ALONE = "Every image is its own group. If several show one subject, say which: `group_regex`."


def read_rows(
    root: Path, *, group_regex: str | None = None, rename: Mapping[str, str] | None = None
) -> Rows:
    """Rows of the images below `root`, whose folders are the classes, in sorted order.

    Where two or more folders have the names of splits (train, validation, test, ...) and no other
    is there, the splits are theirs and the folders inside them are the classes. `rename` gives
    classes other names.
    Folders inside a class folder are part of the class. Hidden files are ignored; files of other
    kinds, and images outside any class folder, are ignored and counted. `sample_id` is the path
    without its ending, or with it where two images would else share one. Every image is its own
    group, unless `group_regex` finds the group in its path (its first bracket, or all of what it
    matches). Raises `TrustqError` for a class without images and a path without a group.
    """
    folders = sorted(
        entry.name
        for entry in os.scandir(root)
        if entry.is_dir() and not entry.name.startswith(".")
    )
    if not folders:
        raise InputError(f"{root} holds no folders; expected one folder of images per class.")
    splits = {name: split for name in folders if (split := SPLIT_WORDS.get(name.lower()))}
    if len(splits) < 2 or len(splits) < len(folders):
        splits = {}
    if len(folders) > 1:
        _refuse_boxes(root, folders)
    paths, labels, n_ignored = _images_of_classes(root, folders, are_splits=bool(splits))
    if not paths:
        raise InputError(
            f"{root}: the folders {', '.join(folders)} are splits, and hold no folders of classes.",
            path=root,
        )
    _refuse_empty(root, paths)
    ids = [os.path.splitext(path)[0] for path in paths]
    if len(set(ids)) < len(ids):
        ids = paths
    groups = ids if group_regex is None else _groups(paths, group_regex, root=root)
    n = len(paths)
    classes = renamed(texts(labels), rename)
    name = root.resolve().name or "folder"
    notes = [f"The folders {', '.join(sorted(splits))} are the splits."] if splits else []
    if group_regex is None:
        notes.insert(0, _ALONE)
    if not splits:
        notes += _layout(root, folders, paths)
    _refuse_boxes(root, set(labels))
    if n_ignored:
        notes.append(f"Files ignored, being no image of a class folder: {n_ignored}.")
    return Rows(
        {
            "sample_id": texts(ids),
            "path": texts(paths),
            "label": classes,
            "group_id": texts(groups),
            "dataset": np.full(n, name, dtype=object),
            "domain": np.full(n, "unknown", dtype=object),
            **({"split": texts([splits[path.split("/")[0]] for path in paths])} if splits else {}),
        },
        classes=tuple(sorted(set(classes.tolist()))),
        root=root,
        source=str(root),
        split_origin={"folders": sorted(splits)} if splits else {},
        notes=tuple(notes),
    )


def _refuse_boxes(root: Path, classes: Collection[str]) -> None:
    """Raise `TrustqError` where images lie as in sets of boxes, such as YOLO's: in images/."""
    names = {name.lower() for name in classes}
    if "images" in names and names <= {"images", "labels", "annotations", "masks"}:
        raise InputError(
            f"{root} has its images in folders called images, as sets of boxes (YOLO, COCO) have, "
            "so no folder is the class of an image: put them into one folder per class, or list "
            "paths and classes in a table and prepare that.",
            path=root,
        )


def _refuse_empty(root: Path, paths: list[str]) -> None:
    empty = [path for path in paths if not os.path.getsize(root / path)]
    if empty:
        raise InputError(
            f"{root}: {counted(len(empty), 'image')} of 0 bytes, {', '.join(empty[:3])}"
            f"{', ...' if len(empty) > 3 else ''}: copy again or remove what is empty.",
            path=root,
        )


def _layout(root: Path, folders: list[str], paths: list[str]) -> list[str]:
    """Notes on folders of classes that look like splits.

    Raises `TrustqError` for one folder alone that holds folders of images: its own are the classes.
    """
    inner = {path.split("/")[1] if path.count("/") > 1 else "" for path in paths}
    if len(folders) == 1 and len(inner) > 1 and "" not in inner:
        raise InputError(
            f"{root} holds one folder, {folders[0]}, and that holds {', '.join(sorted(inner)[:5])}:"
            f" pass {root / folders[0]} as the root, if these are the classes.",
            path=root,
        )
    notes = []
    if named := [name for name in folders if name.lower() in SPLIT_WORDS]:
        notes.append(
            f"Taken for {verb(len(named), 'a class', 'classes')} and not for "
            f"{verb(len(named), 'a split', 'splits')}, for folders of other names stand beside: "
            f"{', '.join(named)}."
        )
    if len(inner) > 1 and all(name.lower() in SPLIT_WORDS for name in inner):
        notes.append(
            f"The folders {', '.join(sorted(inner))} inside the classes are not taken for splits: "
            "list the splits in a table (`splits=FILE`), or put the folders of classes into them."
        )
    return notes


def _images_of_classes(
    root: Path, folders: list[str], *, are_splits: bool
) -> tuple[list[str], list[str], int]:
    """Path and class of each image, and how many files are none of a class."""
    paths: list[str] = []
    labels: list[str] = []
    n_ignored = sum(
        not entry.is_dir() and not entry.name.startswith(".") for entry in os.scandir(root)
    )
    for folder in folders:
        images, n_others = _images_below(root, folder)
        if not images:
            raise InputError(
                f"{root}: the class folder {folder!r} holds no images "
                f"({', '.join(suffix[1:] for suffix in IMAGE_SUFFIXES)}). Fill it or remove it."
            )
        n_ignored += n_others
        if are_splits:
            inside = [path for path in images if path.count("/") > 1]
            n_ignored += len(images) - len(inside)
            images = inside
            labels += [path.split("/")[1] for path in images]
        else:
            labels += [folder] * len(images)
        paths += images
    return paths, labels, n_ignored


def _images_below(root: Path, folder: str) -> tuple[list[str], int]:
    images = []
    n_others = 0
    for here, inner, names in os.walk(root / folder):
        inner[:] = [name for name in inner if not name.startswith(".")]
        for name in names:
            if name.startswith("."):
                continue
            if name.lower().endswith(IMAGE_SUFFIXES):
                images.append((Path(here) / name).relative_to(root).as_posix())
            else:
                n_others += 1
    # Sorted, for a folder's own order differs between machines.
    return sorted(images), n_others


def _groups(paths: list[str], pattern: str, *, root: Path) -> list[str]:
    try:
        regex = re.compile(pattern)
    except re.error as error:
        raise InputError(
            f"`group_regex={pattern}` is an invalid regular expression: {error}.",
            where="group_regex",
            found=pattern,
        ) from error
    groups = []
    for path in paths:
        match = regex.search(path)
        group = match and (match.group(1) if regex.groups else match.group(0))
        if not group:
            raise InputError(f"{root}: `group_regex={pattern}` finds no group in {path!r}.")
        groups.append(group)
    return groups
