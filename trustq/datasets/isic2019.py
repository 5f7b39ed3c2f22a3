"""ISIC 2019: 25,331 dermatoscopic training images of eight classes, and the official test set.

Its training images are HAM10000 (10,015), BCN20000 (12,413 with their lesions) and MSK; its test
set of 8,238 holds 2,047 images of none of the eight classes, `UNK`, and comes without lesions.
Combalia et al., arXiv 1908.02288; Tschandl et al., Sci Data 5, 180161; Codella et al., ISBI 2018.
"""

from pathlib import Path

import numpy as np

from trustq.core.columns import Columns, read_table
from trustq.core.words import is_blank
from trustq.data.groups import own_where_blank
from trustq.datasets.published import DataSet
from trustq.datasets.rows import (
    Rows,
    column,
    found_table,
    image_names,
    image_paths,
    metadata_texts,
    named_rows,
    numbers,
    one_hot,
    published_counts,
    texts,
)
from trustq.errors import InputError

CLASSES = ("MEL", "NV", "BCC", "AK", "BKL", "DF", "VASC", "SCC")
UNKNOWN = "UNK"
HOW = "The data are at https://challenge.isic-archive.com/data/#2019."
PUBLISHED = {
    "Training": dict(zip(CLASSES, (4522, 12875, 3323, 867, 2624, 239, 253, 628), strict=True)),
    "Test": dict(
        zip((*CLASSES, UNKNOWN), (1327, 2495, 975, 374, 660, 91, 104, 165, 2047), strict=True)
    ),
}
# How the lesion ids of the parts begin.
SOURCES = {"HAM": "ham10000", "BCN": "bcn20000", "MSK": "msk"}
_SPLITS = {"Training": "train", "Test": "test"}


def read_rows(root: Path, *, skip_missing: bool = False, metadata_only: bool = False) -> Rows:
    """Rows of the training set, of the test set, or of both: of the tables that are in `root`.

    Reads `ISIC_2019_Training_GroundTruth.csv` and `ISIC_2019_Training_Metadata.csv`, and the same
    of `Test`, gzipped or not. `published_split` says which; `acquisition_source` comes from the
    lesion ids. A row without a lesion is its own group. `UNK` is a class where the test set is
    read. Ids keep the ending `_downsampled` that 2,074 images have. Raises `TrustqError` that names
    rows: none or two classes marked, a row without metadata, an image without a row or a row
    without an image (unless `skip_missing`).
    """
    parts = {
        part: table
        for part in PUBLISHED
        if (table := _found(root, f"ISIC_2019_{part}_GroundTruth.csv")) is not None
    }
    if not parts:
        raise InputError(
            f"{root} holds neither ISIC_2019_Training_GroundTruth.csv nor "
            f"ISIC_2019_Test_GroundTruth.csv. {HOW}"
        )
    read = [read_part(root, part, table) for part, table in parts.items()]
    columns = {name: _joined([part[name] for part, _ in read]) for name in read[0][0]}
    notes = [note for _, notes in read for note in notes]
    columns["path"] = image_paths(
        root,
        columns["sample_id"],
        source=" and ".join(table.name for table in parts.values()),
        how=HOW,
        skip_missing=skip_missing,
        metadata_only=metadata_only,
    )
    return DataSet("isic2019", "dermoscopic", HOW).rows(
        columns,
        root=root,
        source=str(next(iter(parts.values()))),
        classes=(*CLASSES, UNKNOWN) if "Test" in parts else CLASSES,
        notes=notes,
        skip_missing=skip_missing,
        metadata_only=metadata_only,
    )


def read_part(root: Path, part: str, truth: Path) -> tuple[Columns, list[str]]:
    """Columns of `Training` or `Test` but the paths, and notes."""
    table = read_table(truth)
    source = str(truth)
    ids = image_names(column(table, "image", source=source).tolist())
    there = {name.strip().casefold() for name in table}
    names = [*CLASSES, UNKNOWN] if UNKNOWN.casefold() in there else list(CLASSES)
    labels = np.array(names, dtype=object)[one_hot(table, names, ids=ids, source=source)]
    about = _found(root, f"ISIC_2019_{part}_Metadata.csv")
    if about is None:
        raise InputError(
            f"{root}: {truth.name} is there and ISIC_2019_{part}_Metadata.csv, which holds age, "
            f"sex, site and (in training) lesions, is not. {HOW}"
        )
    metadata = read_table(about)
    images = image_names(column(metadata, "image", source=str(about)).tolist())
    row_of = {image: row for row, image in enumerate(images.tolist())}
    alone = [row for row, i in enumerate(ids.tolist()) if i not in row_of]
    if alone:
        raise InputError(f"{about} lacks {named_rows(alone, ids.tolist())} of {truth.name}.")
    order = [row_of[i] for i in ids.tolist()]

    def published(name: str) -> np.ndarray:
        return metadata_texts(column(metadata, name, source=str(about))[order].tolist())

    n = len(ids)
    lesions = np.full(n, None, dtype=object)
    if part == "Training":
        given = published("lesion_id").tolist()
        lesions = texts([None if is_blank(lesion) else lesion for lesion in given])
    columns = {
        "sample_id": ids,
        "label": labels,
        "group_id": own_where_blank(lesions, ids),
        "age": numbers(published("age_approx"), "age_approx", ids=ids.tolist(), source=str(about)),
        "sex": published("sex"),
        "site": published("anatom_site_general"),
        "acquisition_source": texts(
            [None if lesion is None else SOURCES.get(lesion[:3]) for lesion in lesions.tolist()]
        ),
        "published_split": np.full(n, _SPLITS[part], dtype=object),
    }
    notes = published_counts(labels, PUBLISHED[part], source=truth.name)
    n_alone = sum(lesion is None for lesion in lesions.tolist())
    if n_alone:
        notes.append(
            f"{truth.name}: rows without a lesion id, each its own group: {n_alone:,} of {n:,}."
        )
    return columns, notes


def _found(root: Path, name: str) -> Path | None:
    return found_table(root, name, f"{name}.gz")


def _joined(arrays: list[np.ndarray]) -> np.ndarray:
    if any(isinstance(array, np.ma.MaskedArray) for array in arrays):
        return np.asanyarray(np.ma.concatenate(arrays))
    return np.concatenate(arrays)
