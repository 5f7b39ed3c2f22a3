"""DDI, Diverse Dermatology Images: 656 clinical images of three skin-tone groups.

Daneshjou et al., Sci Adv 8, eabq6147 (2022). Research use only, not to be passed on.
"""

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from trustq.core.columns import read_table
from trustq.datasets.rows import (
    Rows,
    column,
    flag_words,
    found_table,
    image_names,
    image_paths,
    known_words,
    published_counts,
    renamed,
    texts,
    without_missing,
)
from trustq.datasets.skin_tone import DDI
from trustq.errors import InputError

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
    path = found_table(root, TABLE)
    if path is None:
        raise InputError(f"{root} holds no {TABLE}. {HOW}")
    table = read_table(path)

    def published(name: str) -> np.ndarray:
        return texts(column(table, name, source=str(path)).tolist())

    ids = image_names(published("DDI_file").tolist())

    def known(name: str, words: list[str], aliases: Mapping[str, str] | None = None) -> np.ndarray:
        return known_words(
            published(name),
            words,
            name=name,
            ids=ids,
            source=str(path),
            aliases=aliases,
            rename=rename,
        )

    tones, labels = known("skin_tone", list(DDI)), renamed(published("disease"), rename)
    flags = known("malignant", ["True", "False"], FLAGS)
    columns = {
        "sample_id": ids,
        "label": labels,
        "group_id": ids,
        "malignant": texts([MALIGNANT[flag] for flag in flags.tolist()]),
        "skin_tone": texts([DDI[tone] for tone in tones.tolist()]),
        "path": image_paths(
            root,
            ids,
            source=str(path),
            how=HOW,
            skip_missing=skip_missing,
            metadata_only=metadata_only,
        ),
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
