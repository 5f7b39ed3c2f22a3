"""DDI, Diverse Dermatology Images: 656 clinical images of three skin-tone groups.

Daneshjou et al., Sci Adv 8, eabq6147 (2022). Research use only, not to be passed on.
"""

from pathlib import Path

import numpy as np

from trustq.core.columns import read_table
from trustq.datasets.rows import (
    Rows,
    column,
    found_table,
    image_paths,
    published_counts,
    require_known,
    texts,
    without_missing,
)
from trustq.datasets.skin_tone import DDI
from trustq.errors import InputError

TABLE = "ddi_metadata.csv"
HOW = "The data are at https://ddi-dataset.github.io (research use, by agreement)."
PUBLISHED = {"12": 208, "34": 241, "56": 207}
# As pandas writes a flag; some copies say 1 and 0.
FLAGS = {"True": "malignant", "False": "benign", "1": "malignant", "0": "benign"}


def read_rows(root: Path, *, skip_missing: bool = False) -> Rows:
    """Rows of `ddi_metadata.csv` (DDI_file, skin_tone, malignant, disease) and the images.

    A column of row numbers without a name, which the published table begins with, is ignored. The
    own column `malignant` decides. `skin_tone` becomes I-II, III-IV or V-VI. Every image is its own
    group, for patients are not given. Raises `TrustqError` that names rows: another skin tone or
    flag, an image without a row or a row without an image (unless `skip_missing`).
    """
    path = found_table(root, TABLE)
    if path is None:
        raise InputError(f"{root} holds no {TABLE}. {HOW}")
    table = read_table(path)

    def published(name: str) -> np.ndarray:
        return texts(column(table, name, source=str(path)).tolist())

    ids = texts([name and name.removesuffix(".png") for name in published("DDI_file").tolist()])
    tones, flags, labels = published("skin_tone"), published("malignant"), published("disease")
    require_known(tones, list(DDI), name="skin_tone", ids=ids, source=str(path))
    require_known(flags, list(FLAGS), name="malignant", ids=ids, source=str(path))
    columns = {
        "sample_id": ids,
        "label": labels,
        "group_id": ids,
        "malignant": texts([FLAGS[flag] for flag in flags.tolist()]),
        "skin_tone": texts([DDI[tone] for tone in tones.tolist()]),
        "path": image_paths(root, ids, source=str(path), how=HOW, skip_missing=skip_missing),
    }
    notes = published_counts(tones, PUBLISHED, source=TABLE)
    notes.append("Every image is its own group, for patients are not given.")
    columns, left_out = without_missing(columns)
    n = len(columns["sample_id"])
    return Rows(
        {
            **columns,
            "dataset": np.full(n, "ddi", dtype=object),
            "domain": np.full(n, "clinical", dtype=object),
        },
        classes=tuple(sorted({label for label in labels.tolist() if label is not None})),
        root=root,
        source=str(path),
        notes=(*notes, *left_out),
    )
