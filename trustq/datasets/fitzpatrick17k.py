"""Fitzpatrick17k: 16,577 clinical images of 114 skin conditions with Fitzpatrick skin types.

Groh et al., CVPR Workshops 2021. The table is published, the images are fetched from its URLs.
"""

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from trustq.datasets.published import DataSet, published_table
from trustq.datasets.rows import (
    Rows,
    published_counts,
    renamed,
    texts,
)
from trustq.datasets.skin_tone import group_of_type

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
    table = published_table(root, TABLE, f"{TABLE}.gz", id_column="md5hash", how=HOW, rename=rename)
    labels = renamed(table.texts("label"), rename)
    partition = table.known("three_partition_label", list(PARTITION))
    types = np.ma.masked_equal(table.numbers("fitzpatrick_scale"), UNKNOWN_TYPE)
    columns = {
        "sample_id": table.ids,
        "label": labels,
        "group_id": table.ids,
        "malignant": texts([PARTITION[name] for name in partition.tolist()]),
        "fitzpatrick": types,
        "skin_tone": group_of_type(types, ids=table.ids, source=table.source),
        "nine_partition_label": table.words("nine_partition_label"),
        "three_partition_label": partition,
        "qc": table.words("qc"),
    }
    notes = published_counts(partition, PUBLISHED, source=table.path.name)
    notes.append(
        "Every image is its own group, for patients are not given; copies within the data set are "
        "known, so run `trustq audit duplicates` before a split is trusted."
    )
    return DataSet("fitzpatrick17k", "clinical", HOW).rows(
        columns,
        root=root,
        source=table.source,
        classes=sorted({label for label in labels.tolist() if label is not None}),
        notes=notes,
        skip_missing=skip_missing,
        metadata_only=metadata_only,
    )
