"""PAD-UFES-20: 2,298 smartphone images of skin lesions with patient data, six classes.

Pacheco et al., Data Brief 32, 106221 (2020), doi 10.17632/zr7vgbcyr2.1.
"""

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from trustq.core.columns import read_table
from trustq.datasets.rows import (
    Rows,
    column,
    found_table,
    image_names,
    image_paths,
    known_words,
    metadata_texts,
    numbers,
    own_groups,
    published_counts,
    texts,
    without_missing,
)
from trustq.datasets.skin_tone import group_of_type
from trustq.errors import InputError

CLASSES = ("ACK", "BCC", "MEL", "NEV", "SCC", "SEK")
HOW = "The data are at https://data.mendeley.com/datasets/zr7vgbcyr2/1."
PUBLISHED = dict(zip(CLASSES, (730, 845, 52, 244, 192, 235), strict=True))
TABLE = "metadata.csv"
FLAGS = {"TRUE": "True", "true": "True", "FALSE": "False", "false": "False"}


def read_rows(
    root: Path,
    *,
    skip_missing: bool = False,
    metadata_only: bool = False,
    rename: Mapping[str, str] | None = None,
) -> Rows:
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

    ids = image_names(published("img_id").tolist())
    labels = known_words(
        published("diagnostic"),
        CLASSES,
        name="diagnostic",
        ids=ids,
        source=str(path),
        rename=rename,
    )
    patients, alone = own_groups(published("patient_id"), ids, "patient")

    def words(name: str) -> np.ndarray:
        return metadata_texts(published(name).tolist())

    def number(name: str) -> np.ndarray:
        return numbers(published(name), name, ids=ids.tolist(), source=str(path))

    fitzpatrick = number("fitspatrick")
    columns = {
        "sample_id": ids,
        "label": labels,
        "group_id": patients,
        "age": number("age"),
        "sex": texts([sex and sex.lower() for sex in words("gender").tolist()]),
        "site": texts([region and region.lower() for region in words("region").tolist()]),
        "fitzpatrick": fitzpatrick,
        "skin_tone": group_of_type(fitzpatrick, ids=ids, source=str(path)),
        "lesion_id": words("lesion_id"),
        "biopsed": texts([FLAGS.get(b, b) for b in words("biopsed").tolist()]),
        "diameter_1": number("diameter_1"),
        "diameter_2": number("diameter_2"),
        "path": image_paths(
            root,
            ids,
            source=str(path),
            how=HOW,
            skip_missing=skip_missing,
            metadata_only=metadata_only,
        ),
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
        notes=(*notes, *alone, *left_out),
    )
