"""HAM10000: 10,015 dermatoscopic images of pigmented skin lesions, 7 classes.

Tschandl, Rosendahl and Kittler, Sci Data 5, 180161 (2018), doi 10.7910/DVN/DBW86T.
"""

import os
from pathlib import Path

import numpy as np

from trustq.core.columns import Columns, read_table
from trustq.datasets.rows import (
    Rows,
    column,
    found_table,
    named_rows,
    numbers,
    one_hot,
    require_known,
    texts,
)
from trustq.errors import InputError

CLASSES = ("akiec", "bcc", "bkl", "df", "mel", "nv", "vasc")

# As in the Harvard Dataverse (first without, since 2020 with a column `dataset`).
_METADATA = ("HAM10000_metadata.csv", "HAM10000_metadata")
# As in the ISIC 2018 challenge, Task 3.
_ONE_HOT = "ISIC2018_Task3_Training_GroundTruth.csv"
_GROUPINGS = "ISIC2018_Task3_Training_LesionGroupings.csv"
# In lower case and without underscores, for mirrors spell them differently.
_IMAGE_FOLDERS = (
    "images",
    "ham10000imagespart1",
    "ham10000imagespart2",
    "isic2018task3traininginput",
)


def read_rows(root: Path) -> Rows:
    """Rows of HAM10000 from a folder with its tables and images.

    Reads `HAM10000_metadata.csv` (with or without the column `dataset`, which becomes
    `acquisition_source`), or else the one-hot labels and lesion groupings of ISIC 2018 Task 3,
    which hold neither age, sex nor site. The JPEG images lie in `images`, in the two published
    parts, or in the folder itself. A blank stays a blank and `unknown`, which was published as a
    word, a word. Raises `TrustqError` that names rows: an unknown label, an image that is not
    there, a lesion that is not given.
    """
    metadata = found_table(root, *_METADATA)
    marks = found_table(root, _ONE_HOT)
    if metadata is not None:
        source = metadata
        columns = _rows_of_metadata(metadata)
    elif marks is not None:
        source = marks
        groupings = found_table(root, _GROUPINGS)
        if groupings is None:
            raise InputError(
                f"{root}: {_ONE_HOT} is there and {_GROUPINGS} is not. Without it images of one "
                "lesion would fall into several splits; get it from the ISIC 2018 challenge page."
            )
        columns = _rows_of_challenge(marks, groupings)
    else:
        raise InputError(f"{root} holds neither {_METADATA[0]} nor {_ONE_HOT}.")
    n = len(columns["sample_id"])
    return Rows(
        {
            "sample_id": columns["sample_id"],
            "path": _paths(root, columns["sample_id"].tolist(), source=str(source)),
            **columns,
            "dataset": np.full(n, "ham10000", dtype=object),
            "domain": np.full(n, "dermoscopic", dtype=object),
        },
        classes=CLASSES,
        root=root,
        source=str(source),
    )


def _rows_of_metadata(path: Path) -> Columns:
    table = read_table(path)

    def published(name: str) -> np.ndarray:
        return texts(column(table, name, source=str(path)).tolist())

    ids = published("image_id")
    columns = {
        "sample_id": ids,
        "label": published("dx"),
        "group_id": published("lesion_id"),
        "age": numbers(published("age"), "age", ids=ids.tolist(), source=str(path)),
        "sex": published("sex"),
        "site": published("localization"),
        "label_source": published("dx_type"),
    }
    if "dataset" in table:
        columns["acquisition_source"] = published("dataset")
    require_known(columns["label"], CLASSES, name="dx", ids=ids, source=str(path))
    return columns


def _rows_of_challenge(marks: Path, groupings: Path) -> Columns:
    table = read_table(marks)
    ids = texts(column(table, "image", source=str(marks)).tolist())
    names = [name.upper() for name in CLASSES]
    chosen = one_hot(table, names, ids=ids, source=str(marks))
    lesions = read_table(groupings)
    images = column(lesions, "image", source=str(groupings)).tolist()
    row_of = {image: row for row, image in enumerate(images)}
    alone = [row for row, sample_id in enumerate(ids.tolist()) if sample_id not in row_of]
    if alone:
        raise InputError(
            f"{groupings} gives no lesion for {named_rows(alone, ids.tolist())} of {marks.name}."
        )
    order = [row_of[sample_id] for sample_id in ids.tolist()]
    columns = {
        "sample_id": ids,
        "label": np.array(CLASSES, dtype=object)[chosen],
        "group_id": texts(column(lesions, "lesion_id", source=str(groupings))[order].tolist()),
    }
    confirmed = lesions.get("diagnosis_confirm_type")
    if confirmed is not None:
        columns["label_source"] = texts(confirmed[order].tolist())
    return columns


def _paths(root: Path, ids: list[str], *, source: str) -> np.ndarray:
    folders = sorted(
        entry.name
        for entry in os.scandir(root)
        if entry.is_dir() and entry.name.lower().replace("_", "") in _IMAGE_FOLDERS
    )
    path_of: dict[str, str] = {}
    for folder in [*folders, ""]:
        for entry in os.scandir(root / folder):
            stem, suffix = os.path.splitext(entry.name)
            if suffix.lower() == ".jpg":
                # Mirrors hold the two parts twice, under two spellings: the first one counts.
                path_of.setdefault(stem, f"{folder}/{entry.name}" if folder else entry.name)
    absent = [row for row, i in enumerate(ids) if i is not None and i not in path_of]
    if absent:
        looked = " and ".join([*folders, "the folder itself"])
        raise InputError(
            f"{source}: no image {ids[absent[0]]}.jpg under {root} (looked in {looked}), and so "
            f"for {named_rows(absent, ids)}. Add the images, or take their rows out of the table.",
            path=source,
        )
    return texts([path_of.get(sample_id) for sample_id in ids])
