"""The test set of ISIC 2018 Task 3: 1,512 dermatoscopic images, the HAM10000 classes.

All of them are in the ISIC 2019 test set too, and none in HAM10000. Tschandl et al., Lancet Oncol
20, 938 (2019), doi 10.7910/DVN/DBW86T.
"""

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from trustq.core.columns import Columns, read_table
from trustq.datasets.ham10000 import CLASSES
from trustq.datasets.published import DataSet, PublishedTable
from trustq.datasets.rows import (
    Rows,
    column,
    found_table,
    image_names,
    one_hot,
    own_groups,
    published_counts,
)
from trustq.errors import InputError

TABLE = "ISIC2018_Task3_Test_GroundTruth.csv"
HOW = (
    "The table with lesions is in the Harvard Dataverse, doi 10.7910/DVN/DBW86T, the images at "
    "https://challenge.isic-archive.com/data/#2018."
)
PUBLISHED = dict(zip(CLASSES, (43, 93, 217, 44, 171, 909, 35), strict=True))


def read_rows(
    root: Path,
    *,
    skip_missing: bool = False,
    metadata_only: bool = False,
    rename: Mapping[str, str] | None = None,
) -> Rows:
    """Rows of `ISIC2018_Task3_Test_GroundTruth.csv` of either form, and the images.

    The Dataverse's form has a column `dx` beside lesion, age, sex, site and `dataset`, which
    becomes `acquisition_source`; the challenge's is one-hot and has no lesions, so every image is
    its own group. Raises `TrustqError` that names rows: an unknown label, none or two classes
    marked, an image without a row or a row without an image (unless `skip_missing`).
    """
    path = found_table(root, TABLE)
    if path is None:
        raise InputError(f"{root} holds no {TABLE}. {HOW}")
    table = read_table(path)
    notes = []
    if "dx" in table:
        columns, alone = _with_lesions(path, rename)
        notes += alone
    else:
        ids = image_names(column(table, "image", source=str(path)).tolist())
        names = [name.upper() for name in CLASSES]
        chosen = one_hot(table, names, ids=ids, source=str(path))
        columns = {
            "sample_id": ids,
            "label": np.array(CLASSES, dtype=object)[chosen],
            "group_id": ids,
        }
        notes.append(
            f"{TABLE} is the challenge's, without lesions: every image is its own group. The "
            "Dataverse's has them."
        )
    notes += published_counts(columns["label"], PUBLISHED, source=TABLE)
    columns["published_split"] = np.full(len(columns["label"]), "test", dtype=object)
    return DataSet("isic2018-task3", "dermoscopic", HOW).rows(
        columns,
        root=root,
        source=str(path),
        classes=CLASSES,
        notes=notes,
        skip_missing=skip_missing,
        metadata_only=metadata_only,
    )


def _with_lesions(path: Path, rename: Mapping[str, str] | None) -> tuple[Columns, list[str]]:
    table = PublishedTable(path, "image_id", rename)
    labels = table.known("dx", CLASSES)
    lesions, alone = own_groups(table.texts("lesion_id"), table.ids, "lesion")
    columns: Columns = {
        "sample_id": table.ids,
        "label": labels,
        "group_id": lesions,
        "age": table.numbers("age"),
        "sex": table.words("sex"),
        "site": table.words("localization"),
        "label_source": table.words("dx_type"),
        "acquisition_source": table.words("dataset"),
    }
    return columns, alone
