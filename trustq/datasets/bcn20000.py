"""BCN20000: dermatoscopic images of the Hospital Clinic de Barcelona, in their own table or ISIC's.

Hernandez-Perez et al., Sci Data 11, 641 (2024), doi 10.6084/m9.figshare.24140028; 12,413 of them
are in the ISIC 2019 training set.
"""

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from trustq.core.columns import Columns
from trustq.datasets import isic2019
from trustq.datasets.published import DataSet, PublishedTable
from trustq.datasets.rows import (
    Rows,
    found_table,
    image_paths,
    own_groups,
    renamed,
)
from trustq.errors import InputError

HOW = "The data are at https://doi.org/10.6084/m9.figshare.24140028."
_OWN = "bcn_20k_train.csv"
_ISIC = "ISIC_2019_Training_GroundTruth.csv"
N_IN_ISIC = 12_413


def read_rows(
    root: Path,
    *,
    skip_missing: bool = False,
    metadata_only: bool = False,
    rename: Mapping[str, str] | None = None,
) -> Rows:
    """Rows of `bcn_20k_train.csv`, or the BCN rows of the ISIC 2019 training tables.

    The own table has bcn_filename, age_approx, anatom_site_general, diagnosis, lesion_id,
    capture_date, sex and split; the published test table names no diagnosis and is not read. A row
    without a lesion is its own group. Raises `TrustqError` that names rows without an image, unless
    `skip_missing`.
    """
    own = found_table(root, _OWN)
    isic = found_table(root, _ISIC, f"{_ISIC}.gz")
    if own is not None:
        columns, notes = _own_table(own, rename=rename)
        source = own
    elif isic is not None:
        columns, notes = _isic_rows(
            root, isic, skip_missing=skip_missing, metadata_only=metadata_only
        )
        source = isic
    else:
        raise InputError(f"{root} holds neither {_OWN} nor {_ISIC}. {HOW} {isic2019.HOW}")
    present = set(columns["label"].tolist())
    first = [name for name in isic2019.CLASSES if name in present]
    return DataSet("bcn20000", "dermoscopic", HOW).rows(
        columns,
        root=root,
        source=str(source),
        classes=(*first, *sorted(present - set(first) - {None})),
        notes=notes,
        skip_missing=skip_missing,
        metadata_only=metadata_only,
    )


def _own_table(path: Path, *, rename: Mapping[str, str] | None) -> tuple[Columns, list[str]]:
    table = PublishedTable(path, "bcn_filename", rename)
    lesions, alone = own_groups(table.texts("lesion_id"), table.ids, "lesion id")
    columns: Columns = {
        "sample_id": table.ids,
        "label": renamed(table.texts("diagnosis"), rename),
        "group_id": lesions,
        "age": table.numbers("age_approx"),
        "sex": table.words("sex"),
        "site": table.words("anatom_site_general"),
        "capture_date": table.words("capture_date"),
    }
    return columns, alone


def _isic_rows(
    root: Path, path: Path, *, skip_missing: bool, metadata_only: bool
) -> tuple[Columns, list[str]]:
    columns, _ = isic2019.read_part(root, "Training", path)
    mine = np.array([s == "bcn20000" for s in columns["acquisition_source"].tolist()])
    if not mine.any():
        raise InputError(f"{path}: no row has a lesion id that begins with BCN_.", path=path)
    ids = columns["sample_id"]
    # All rows are looked up, for the folder holds the images of the other parts too.
    paths = image_paths(
        root,
        ids,
        source=str(path),
        how=isic2019.HOW,
        skip_missing=True,
        metadata_only=metadata_only,
    )
    columns = {name: array[mine] for name, array in (columns | {"path": paths}).items()}
    absent = sum(path is None for path in columns["path"].tolist())
    if absent and (not skip_missing or absent == mine.sum()):
        raise InputError(
            f"{path}: no image under {root} for {absent:,} of the {mine.sum():,} rows of BCN20000. "
            f"`skip_missing` leaves those out, `metadata_only` keeps them. {isic2019.HOW}",
            path=path,
        )
    for name in ("acquisition_source", "published_split"):
        del columns[name]
    notes = [f"The rows of BCN20000 in {path.name}: {mine.sum():,} of {len(mine):,}."]
    if mine.sum() != N_IN_ISIC:
        notes.append(f"{path.name} differs from what was published: {N_IN_ISIC:,} such rows.")
    return columns, notes
