"""Fitzpatrick17k: 16,577 clinical images of 114 skin conditions with Fitzpatrick skin types.

Groh et al., CVPR Workshops 2021. The table is published, the images are fetched from its URLs.
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
    published_counts,
    renamed,
    texts,
    without_missing,
)
from trustq.datasets.skin_tone import group_of_type
from trustq.errors import InputError

TABLE = "fitzpatrick17k.csv"
HOW = "The table, with the images' URLs, is at https://github.com/mattgroh/fitzpatrick17k."
PARTITION = {"malignant": "malignant", "benign": "benign", "non-neoplastic": "benign"}
PUBLISHED = {"non-neoplastic": 12080, "malignant": 2263, "benign": 2234}
UNKNOWN_TYPE = -1.0


def read_rows(
    root: Path,
    *,
    skip_missing: bool = False,
    metadata_only: bool = False,
    rename: Mapping[str, str] | None = None,
) -> Rows:
    """Rows of `fitzpatrick17k.csv` (gzipped or not) and the images, named by their md5.

    The own column `three_partition_label` decides what is malignant. A skin type of -1, 565 rows,
    is a blank. Every image is its own group, for patients are not given. Raises `TrustqError` that
    names rows: a blank label, an unknown partition or skin type, an image without a row or a row
    without an image (unless `skip_missing`: 41 rows have no URL, and of the others some are gone).
    """
    path = found_table(root, TABLE, f"{TABLE}.gz")
    if path is None:
        raise InputError(f"{root} holds no {TABLE}. {HOW}")
    table = read_table(path)
    source = str(path)

    def published(name: str) -> np.ndarray:
        return texts(column(table, name, source=source).tolist())

    ids = image_names(published("md5hash").tolist())
    labels = renamed(published("label"), rename)
    partition = known_words(
        published("three_partition_label"),
        list(PARTITION),
        name="three_partition_label",
        ids=ids,
        source=source,
        rename=rename,
    )
    types = numbers(
        published("fitzpatrick_scale"), "fitzpatrick_scale", ids=ids.tolist(), source=source
    )
    types = np.ma.masked_equal(types, UNKNOWN_TYPE)
    columns = {
        "sample_id": ids,
        "label": labels,
        "group_id": ids,
        "malignant": texts([PARTITION[name] for name in partition.tolist()]),
        "fitzpatrick": types,
        "skin_tone": group_of_type(types, ids=ids, source=source),
        "nine_partition_label": metadata_texts(published("nine_partition_label").tolist()),
        "three_partition_label": partition,
        "qc": metadata_texts(published("qc").tolist()),
        "path": image_paths(
            root,
            ids,
            source=source,
            how=HOW,
            skip_missing=skip_missing,
            metadata_only=metadata_only,
        ),
    }
    notes = published_counts(partition, PUBLISHED, source=path.name)
    notes.append(
        "Every image is its own group, for patients are not given; copies within the data set are "
        "known, so run `trustq audit duplicates` before a split is trusted."
    )
    columns, left_out = without_missing(columns)
    n = len(columns["sample_id"])
    return Rows(
        {
            **columns,
            "dataset": np.full(n, "fitzpatrick17k", dtype=object),
            "domain": np.full(n, "clinical", dtype=object),
        },
        classes=tuple(sorted({label for label in labels.tolist() if label is not None})),
        root=root,
        source=source,
        notes=(*notes, *left_out),
    )
