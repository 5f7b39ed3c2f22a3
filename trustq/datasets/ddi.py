"""DDI, Diverse Dermatology Images: 656 clinical images of three skin-tone groups.

Daneshjou et al., Sci Adv 8, eabq6147 (2022). Research use only, not to be passed on.
"""

from collections.abc import Mapping
from pathlib import Path

from trustq.datasets.published import DataSet, published_table
from trustq.datasets.rows import (
    Rows,
    flag_words,
    published_counts,
    renamed,
    texts,
)
from trustq.datasets.skin_tone import DDI

TABLE = "ddi_metadata.csv"
HOW = "The data are at https://ddi-dataset.github.io (research use, by agreement)."
PUBLISHED = {"12": 208, "34": 241, "56": 207}
MALIGNANT = {"True": "malignant", "False": "benign"}
FLAGS = {**flag_words("True", "False"), "malignant": "True", "benign": "False"}


def read_rows(
    root: Path,
    *,
    skip_missing: bool = False,
    metadata_only: bool = False,
    rename: Mapping[str, str] | None = None,
) -> Rows:
    """Rows of `ddi_metadata.csv` (DDI_file, skin_tone, malignant, disease) and the images.

    A column of row numbers without a name, which the published table begins with, is ignored. The
    own column `malignant` decides. `skin_tone` becomes I-II, III-IV or V-VI. Every image is its own
    group, for patients are not given. Raises `TrustqError` that names rows: another skin tone or
    flag (1, yes and TRUE are flags too), an image without a row or a row without an image (unless
    `skip_missing`).
    """
    table = published_table(root, TABLE, id_column="DDI_file", how=HOW, rename=rename)
    tones, labels = table.known("skin_tone", list(DDI)), renamed(table.texts("disease"), rename)
    flags = table.known("malignant", ["True", "False"], FLAGS)
    columns = {
        "sample_id": table.ids,
        "label": labels,
        "group_id": table.ids,
        "malignant": texts([MALIGNANT[flag] for flag in flags.tolist()]),
        "skin_tone": texts([DDI[tone] for tone in tones.tolist()]),
    }
    notes = published_counts(tones, PUBLISHED, source=TABLE)
    notes.append("Every image is its own group, for patients are not given.")
    return DataSet("ddi", "clinical", HOW).rows(
        columns,
        root=root,
        source=table.source,
        classes=sorted({label for label in labels.tolist() if label is not None}),
        notes=notes,
        skip_missing=skip_missing,
        metadata_only=metadata_only,
    )
