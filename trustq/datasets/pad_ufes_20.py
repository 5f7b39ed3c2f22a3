"""PAD-UFES-20: 2,298 smartphone images of skin lesions with patient data, six classes.

Pacheco et al., Data Brief 32, 106221 (2020), doi 10.17632/zr7vgbcyr2.1.
"""

from collections.abc import Mapping
from pathlib import Path

from trustq.datasets.published import DataSet, published_table
from trustq.datasets.rows import (
    Rows,
    own_groups,
    published_counts,
    texts,
)
from trustq.datasets.skin_tone import group_of_type

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
    table = published_table(root, TABLE, id_column="img_id", how=HOW, rename=rename)
    ids, source = table.ids, table.source
    labels = table.known("diagnostic", CLASSES)
    patients, alone = own_groups(table.texts("patient_id"), ids, "patient")
    fitzpatrick = table.numbers("fitspatrick")
    columns = {
        "sample_id": ids,
        "label": labels,
        "group_id": patients,
        "age": table.numbers("age"),
        "sex": table.lower("gender"),
        "site": table.lower("region"),
        "fitzpatrick": fitzpatrick,
        "skin_tone": group_of_type(fitzpatrick, ids=ids, source=source),
        "lesion_id": table.words("lesion_id"),
        "biopsed": texts([FLAGS.get(b, b) for b in table.words("biopsed").tolist()]),
        "diameter_1": table.numbers("diameter_1"),
        "diameter_2": table.numbers("diameter_2"),
    }
    notes = published_counts(labels, PUBLISHED, source=TABLE)
    return DataSet("pad-ufes-20", "smartphone", HOW).rows(
        columns,
        root=root,
        source=source,
        classes=CLASSES,
        notes=(*notes, *alone),
        skip_missing=skip_missing,
        metadata_only=metadata_only,
    )
