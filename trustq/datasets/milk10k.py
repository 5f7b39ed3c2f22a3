"""MILK10k: 5,240 lesions, each with a clinical close-up and a dermoscopic image, eleven classes.

ISIC Archive, 2025. Labels are one-hot by lesion, images lie
in a folder for each lesion.
"""

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from trustq.core.columns import Columns, read_table
from trustq.core.words import is_blank
from trustq.datasets.published import DataSet, PublishedTable
from trustq.datasets.rows import (
    Rows,
    column,
    found_table,
    image_names,
    metadata_texts,
    named_rows,
    one_hot,
    texts,
)
from trustq.errors import InputError

CLASSES = (
    "AKIEC",
    "BCC",
    "BEN_OTH",
    "BKL",
    "DF",
    "INF",
    "MAL_OTH",
    "MEL",
    "NV",
    "SCCKA",
    "VASC",
)
TRUTH = "MILK10k_Training_GroundTruth.csv"
METADATA = "MILK10k_Training_Metadata.csv"
SUPPLEMENT = "MILK10k_Training_Supplement.csv"
HOW = "The data are at https://challenge.isic-archive.com/data/#milk10k."
# Further columns of the tables, and what they are called here.
_OTHERS = {"sex": "sex", "site": "site", "anatom_site_general": "site", "skin_tone_class": ""}
_SUPPLEMENT = {"diagnosis_full": "native_diagnosis", "diagnosis_confirm_type": "label_source"}


def read_rows(
    root: Path,
    *,
    skip_missing: bool = False,
    metadata_only: bool = False,
) -> Rows:
    """Rows of `MILK10k_Training_Metadata`, an image each, with the label of their lesion.

    `MILK10k_Training_GroundTruth` is one-hot by `lesion_id`, and the supplement, where it is there,
    gives the full diagnosis. Groups are lesions; `domain` is `clinical` or `dermoscopic`. Images
    are found in folders of any depth. Raises `TrustqError` that names rows: none or two classes
    marked, an image whose lesion has no label, a lesion that is there twice, an image without a
    row, or a row without an image (unless `skip_missing` or `metadata_only`).
    """
    truth_path, about_path = found_table(root, TRUTH), found_table(root, METADATA)
    if truth_path is None or about_path is None:
        absent = TRUTH if truth_path is None else METADATA
        raise InputError(f"{root} does not hold {absent}. {HOW}", path=root)
    label_of = _labels_by_lesion(truth_path)
    table = PublishedTable(about_path, "isic_id")
    ids = table.ids
    lesions = table.texts("lesion_id")
    alone = [row for row, lesion in enumerate(lesions.tolist()) if lesion not in label_of]
    if alone:
        raise InputError(
            f"{truth_path} has no label for the lesion of {named_rows(alone, ids.tolist())} of "
            f"{about_path.name}.",
            path=truth_path,
        )
    there = {name.strip().casefold() for name in table.columns}
    columns: Columns = {
        "sample_id": ids,
        "label": texts([label_of[lesion] for lesion in lesions.tolist()]),
        "group_id": lesions,
        "domain": texts([_domain(kind) for kind in table.words("image_type").tolist()]),
        "age": table.numbers("age_approx"),
    }
    for name, own in _OTHERS.items():
        if name in there:
            columns[own or name] = table.words(name)
    return DataSet("milk10k", None, HOW).rows(
        columns | _supplement(root, ids),
        root=root,
        source=table.source,
        classes=CLASSES,
        notes=(),
        skip_missing=skip_missing,
        metadata_only=metadata_only,
    )


def _labels_by_lesion(path: Path) -> Mapping[str | None, str]:
    table = read_table(path)
    lesions = texts(column(table, "lesion_id", source=str(path)).tolist())
    first: dict[str, int] = {}
    for row, name in enumerate(lesions.tolist()):
        first.setdefault(name, row)
    twice = [row for row, name in enumerate(lesions.tolist()) if first[name] != row]
    if twice:
        named = named_rows(twice, lesions.tolist())
        raise InputError(f"{path}: a lesion is there twice: {named}.", path=path)
    chosen = one_hot(table, CLASSES, ids=lesions, source=str(path))
    return {lesion: CLASSES[c] for lesion, c in zip(lesions.tolist(), chosen, strict=True)}


def _domain(kind: str | None) -> str:
    # Published as "clinical: close-up" and "dermoscopic".
    return "unknown" if is_blank(kind) else str(kind).split(":")[0].strip().lower()


def _supplement(root: Path, ids: np.ndarray) -> dict[str, np.ndarray]:
    """Columns of the supplement by image, blank where it has no row."""
    path = found_table(root, SUPPLEMENT)
    if path is None:
        return {}
    table = read_table(path)
    images = image_names(column(table, "isic_id", source=str(path)).tolist()).tolist()
    row_of = {image: row for row, image in enumerate(images)}
    rows = [row_of.get(i) for i in ids.tolist()]
    found = {}
    for name, own in _SUPPLEMENT.items():
        if name in table:
            values = metadata_texts(table[name].tolist()).tolist()
            found[own] = texts([None if row is None else values[row] for row in rows])
    return found
