"""The test set of ISIC 2018 Task 3: 1,512 dermatoscopic images, the HAM10000 classes.

All of them are in the ISIC 2019 test set too, and none in HAM10000. Tschandl et al., Lancet Oncol
20, 938 (2019), doi 10.7910/DVN/DBW86T.
"""

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from trustq.core.columns import Columns, read_table
from trustq.datasets.ham10000 import CLASSES
from trustq.datasets.rows import (
    Rows,
    column,
    found_table,
    image_names,
    image_paths,
    known_words,
    metadata_texts,
    numbers,
    one_hot,
    own_groups,
    published_counts,
    texts,
    without_missing,
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
        columns, alone = _with_lesions(table, source=str(path), rename=rename)
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
    ids = columns["sample_id"]
    notes += published_counts(columns["label"], PUBLISHED, source=TABLE)
    columns["path"] = image_paths(
        root,
        ids,
        source=str(path),
        how=HOW,
        skip_missing=skip_missing,
        metadata_only=metadata_only,
    )
    columns, left_out = without_missing(columns)
    n = len(columns["sample_id"])
    return Rows(
        {
            **columns,
            "dataset": np.full(n, "isic2018-task3", dtype=object),
            "domain": np.full(n, "dermoscopic", dtype=object),
            "published_split": np.full(n, "test", dtype=object),
        },
        classes=CLASSES,
        root=root,
        source=str(path),
        notes=(*notes, *left_out),
    )


def _with_lesions(
    table: Columns, *, source: str, rename: Mapping[str, str] | None
) -> tuple[Columns, list[str]]:
    def published(name: str) -> np.ndarray:
        return texts(column(table, name, source=source).tolist())

    def words(name: str) -> np.ndarray:
        return metadata_texts(published(name).tolist())

    ids = image_names(published("image_id").tolist())
    labels = known_words(published("dx"), CLASSES, name="dx", ids=ids, source=source, rename=rename)
    lesions, alone = own_groups(published("lesion_id"), ids, "lesion")
    columns = {
        "sample_id": ids,
        "label": labels,
        "group_id": lesions,
        "age": numbers(published("age"), "age", ids=ids.tolist(), source=source),
        "sex": words("sex"),
        "site": words("localization"),
        "label_source": words("dx_type"),
        "acquisition_source": words("dataset"),
    }
    return columns, alone
