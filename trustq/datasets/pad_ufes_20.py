"""PAD-UFES-20: 2,298 smartphone images of skin lesions with patient data, six classes.

Pacheco et al., Data Brief 32, 106221 (2020), doi 10.17632/zr7vgbcyr2.1.
"""

from pathlib import Path

import numpy as np

from trustq.core.columns import read_table
from trustq.datasets.rows import (
    Rows,
    column,
    found_table,
    image_paths,
    numbers,
    published_counts,
    require_known,
    texts,
    without_missing,
)
from trustq.datasets.skin_tone import group_of_type
from trustq.errors import InputError

CLASSES = ("ACK", "BCC", "MEL", "NEV", "SCC", "SEK")
HOW = "The data are at https://data.mendeley.com/datasets/zr7vgbcyr2/1."
PUBLISHED = dict(zip(CLASSES, (730, 845, 52, 244, 192, 235), strict=True))
TABLE = "metadata.csv"


def read_rows(root: Path, *, skip_missing: bool = False) -> Rows:
    """Rows of `metadata.csv` and the images, in whatever folders they were unpacked into.

    Groups are patients, not lesions: 250 lesion ids of the table occur under two patients each.
    804 rows have blanks in the patient's columns, which stay blanks; UNK, FEMALE and the like are
    kept as words, sex in lower case as elsewhere. `fitspatrick` becomes `fitzpatrick` (1 to 6) and
    `skin_tone` (I-II, III-IV, V-VI). Raises `TrustqError` that names rows: an unknown label or skin
    type, an image without a row or a row without an image (unless `skip_missing`).
    """
    path = found_table(root, TABLE)
    if path is None:
        raise InputError(f"{root} holds no {TABLE}. {HOW}")
    table = read_table(path)

    def published(name: str) -> np.ndarray:
        return texts(column(table, name, source=str(path)).tolist())

    ids = texts([name and name.removesuffix(".png") for name in published("img_id").tolist()])
    labels = published("diagnostic")
    require_known(labels, CLASSES, name="diagnostic", ids=ids, source=str(path))

    def number(name: str) -> np.ndarray:
        return numbers(published(name), name, ids=ids.tolist(), source=str(path))

    fitzpatrick = number("fitspatrick")
    columns = {
        "sample_id": ids,
        "label": labels,
        "group_id": published("patient_id"),
        "age": number("age"),
        "sex": texts([sex and sex.lower() for sex in published("gender").tolist()]),
        "site": texts([region and region.lower() for region in published("region").tolist()]),
        "fitzpatrick": fitzpatrick,
        "skin_tone": group_of_type(fitzpatrick, ids=ids, source=str(path)),
        "lesion_id": published("lesion_id"),
        "biopsed": published("biopsed"),
        "diameter_1": number("diameter_1"),
        "diameter_2": number("diameter_2"),
        "path": image_paths(root, ids, source=str(path), how=HOW, skip_missing=skip_missing),
    }
    notes = published_counts(labels, PUBLISHED, source=TABLE)
    columns, left_out = without_missing(columns)
    n = len(columns["sample_id"])
    return Rows(
        {
            **columns,
            "dataset": np.full(n, "pad-ufes-20", dtype=object),
            "domain": np.full(n, "smartphone", dtype=object),
        },
        classes=CLASSES,
        root=root,
        source=str(path),
        notes=(*notes, *left_out),
    )
