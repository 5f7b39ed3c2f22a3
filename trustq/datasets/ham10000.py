"""HAM10000: 10,015 dermatoscopic images of pigmented skin lesions, 7 classes.

Tschandl, Rosendahl and Kittler, Sci Data 5, 180161 (2018), doi 10.7910/DVN/DBW86T.
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
    image_paths,
    known_words,
    metadata_texts,
    named_rows,
    one_hot,
    own_groups,
    texts,
)
from trustq.errors import InputError

CLASSES = ("akiec", "bcc", "bkl", "df", "mel", "nv", "vasc")
HOW = (
    "The data are in the Harvard Dataverse, doi 10.7910/DVN/DBW86T, and in the ISIC Archive's "
    "collection HAM10000."
)

# As in the Harvard Dataverse (first without, since 2020 with a column `dataset`), and as the ISIC
# Archive calls the table of a collection.
_METADATA = ("HAM10000_metadata.csv", "metadata.csv")
# As in the ISIC 2018 challenge, Task 3.
_ONE_HOT = "ISIC2018_Task3_Training_GroundTruth.csv"
_GROUPINGS = "ISIC2018_Task3_Training_LesionGroupings.csv"

# The ISIC Archive's diagnosis_3, by what it contains; the first that is there counts.
_DIAGNOSES = (
    ("nevus", "nv"),
    ("melanoma", "mel"),
    ("basal cell carcinoma", "bcc"),
    ("squamous cell carcinoma", "akiec"),
    ("bowen", "akiec"),
    ("actinic keratosis", "akiec"),
    ("pigmented benign keratosis", "bkl"),
    ("seborrheic keratosis", "bkl"),
    ("solar lentigo", "bkl"),
    ("lichen planus like keratosis", "bkl"),
    ("lichenoid keratosis", "bkl"),
    ("dermatofibroma", "df"),
    ("angioma", "vasc"),
    ("angiokeratoma", "vasc"),
    ("pyogenic granuloma", "vasc"),
)
# The ISIC Archive's diagnosis_confirm_type in the words of the Dataverse's dx_type.
_CONFIRMED = {
    "histopathology": "histo",
    "serial imaging showing no change": "follow_up",
    "single image expert consensus": "consensus",
    "confocal microscopy with consensus dermoscopy": "confocal",
}


def read_rows(
    root: Path,
    *,
    skip_missing: bool = False,
    metadata_only: bool = False,
    rename: Mapping[str, str] | None = None,
) -> Rows:
    """Rows of HAM10000 from a folder with its tables and images.

    Reads `HAM10000_metadata` (with or without the column `dataset`, which becomes
    `acquisition_source`); the table of the ISIC Archive's collection, whose `diagnosis_3` tells
    the class (squamous cell carcinoma is akiec, and a `diagnosis_2` that contains "Vascular" vasc);
    or the one-hot labels and lesion groupings of ISIC 2018 Task 3, which hold neither age, sex nor
    site. Images lie anywhere below the folder; other images there are passed over. A blank stays a
    blank and `unknown`, which was published as a word, a word; a row without a lesion is its own
    group. Raises `TrustqError` that names rows: an unknown label, an image that is not there
    (unless `skip_missing` or `metadata_only`).
    """
    metadata = found_table(root, *_METADATA)
    marks = found_table(root, _ONE_HOT)
    if metadata is None or not _is_metadata(metadata):
        # The archive puts a date into the name of its table.
        tables = sorted(root.glob("*.csv")) if marks is None else []
        metadata = next((path for path in tables if _is_metadata(path)), None)
    if metadata is not None:
        source = metadata
        columns, notes = _rows_of_metadata(metadata, rename=rename)
    elif marks is not None:
        source = marks
        groupings = found_table(root, _GROUPINGS)
        if groupings is None:
            raise InputError(
                f"{root}: {_ONE_HOT} is there and {_GROUPINGS} is not. Without it images of one "
                "lesion would fall into several splits; get it from the ISIC 2018 challenge page.",
                path=root,
            )
        columns, notes = _rows_of_challenge(marks, groupings)
    else:
        raise InputError(f"{root} holds neither {_METADATA[0]} nor {_ONE_HOT}.", path=root)
    paths = image_paths(
        root,
        columns["sample_id"],
        source=str(source),
        how=HOW,
        skip_missing=skip_missing,
        metadata_only=metadata_only,
        refuse_others=False,
    )
    return DataSet("ham10000", "dermoscopic", HOW).rows(
        {"sample_id": columns["sample_id"], "path": paths, **columns},
        root=root,
        source=str(source),
        classes=CLASSES,
        notes=notes,
        skip_missing=skip_missing,
        metadata_only=metadata_only,
    )


def _is_metadata(path: Path) -> bool:
    # A table called metadata.csv may be anybody's.
    names = {name.strip().casefold() for name in read_table(path)}
    is_own = path.name.lower().startswith("ham10000")
    return is_own or {"isic_id", "diagnosis_3"} <= names or {"image_id", "dx"} <= names


def _rows_of_metadata(path: Path, *, rename: Mapping[str, str] | None) -> tuple[Columns, list[str]]:
    there = {name.strip().casefold() for name in read_table(path)}
    is_archive = "isic_id" in there and "dx" not in there
    table = PublishedTable(path, "isic_id" if is_archive else "image_id", rename)
    lesions, notes = own_groups(table.texts("lesion_id"), table.ids, "lesion")
    if is_archive:
        labels = _labels_of_archive(table)
        age, site = "age_approx", "anatom_site_general"
        confirmed = table.words("diagnosis_confirm_type").tolist()
        label_source = texts([word and _CONFIRMED.get(word.lower(), word) for word in confirmed])
    else:
        labels = table.known("dx", CLASSES)
        age, site = "age", "localization"
        label_source = table.words("dx_type")
    columns: Columns = {
        "sample_id": table.ids,
        "label": labels,
        "group_id": lesions,
        "age": table.numbers(age),
        "sex": table.words("sex"),
        "site": table.words(site),
        "label_source": label_source,
    }
    if "dataset" in there:
        columns["acquisition_source"] = table.words("dataset")
    return columns, notes


def _labels_of_archive(table: PublishedTable) -> np.ndarray:
    """Classes of the ISIC Archive's `diagnosis_2` and `diagnosis_3`."""
    aliases: dict[str, str] = {}
    told = []
    for broad, narrow in zip(
        table.texts("diagnosis_2").tolist(), table.texts("diagnosis_3").tolist(), strict=True
    ):
        # Vascular lesions have a diagnosis_2 alone.
        text = (broad if is_blank(narrow) else narrow) or ""
        told.append(text)
        found = next((name for part, name in _DIAGNOSES if part in text.lower()), None)
        if "vascular" in (broad or "").lower():
            found = "vasc"
        if found is not None:
            aliases[text] = found
    return known_words(
        texts(told),
        CLASSES,
        name="diagnosis_3",
        ids=table.ids,
        source=table.source,
        aliases=aliases,
        rename=table.rename,
    )


def _rows_of_challenge(marks: Path, groupings: Path) -> tuple[Columns, list[str]]:
    table = read_table(marks)
    ids = image_names(column(table, "image", source=str(marks)).tolist())
    names = [name.upper() for name in CLASSES]
    chosen = one_hot(table, names, ids=ids, source=str(marks))
    lesions = read_table(groupings)
    images = image_names(column(lesions, "image", source=str(groupings)).tolist()).tolist()
    row_of = {image: row for row, image in enumerate(images)}
    alone = [row for row, sample_id in enumerate(ids.tolist()) if sample_id not in row_of]
    if alone:
        raise InputError(
            f"{groupings} gives no lesion for {named_rows(alone, ids.tolist())} of {marks.name}."
        )
    order = [row_of[sample_id] for sample_id in ids.tolist()]
    given = texts(column(lesions, "lesion_id", source=str(groupings))[order].tolist())
    groups, notes = own_groups(given, ids, "lesion")
    columns = {
        "sample_id": ids,
        "label": np.array(CLASSES, dtype=object)[chosen],
        "group_id": groups,
    }
    confirmed = lesions.get("diagnosis_confirm_type")
    if confirmed is not None:
        columns["label_source"] = metadata_texts(confirmed[order].tolist())
    return columns, notes
