"""NIH ChestX-ray14: 112,120 frontal chest X-rays of 30,805 patients, fourteen findings.

Wang et al., CVPR 2017. Labels were read from reports by a program; several can be set.
"""

import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from trustq.core.columns import Columns
from trustq.core.counts import counted
from trustq.core.words import is_blank
from trustq.data.taxonomy import label_key
from trustq.datasets.chexpert import CLASSES, require_finding
from trustq.datasets.published import DataSet, PublishedTable
from trustq.datasets.rows import (
    Rows,
    found_table,
    image_names,
    named_rows,
    own_groups,
    texts,
)
from trustq.errors import InputError

FINDINGS = (
    "Atelectasis",
    "Cardiomegaly",
    "Consolidation",
    "Edema",
    "Effusion",
    "Emphysema",
    "Fibrosis",
    "Hernia",
    "Infiltration",
    "Mass",
    "Nodule",
    "Pleural_Thickening",
    "Pneumonia",
    "Pneumothorax",
)
NOTHING = "No Finding"
ANY = "any"
HOW = "The data are at https://nihcc.app.box.com/v/ChestXray-NIHCC."
# The last is the sample of 5,606 images that a mirror gives.
TABLES = ("Data_Entry_2017_v2020.csv", "Data_Entry_2017.csv", "sample_labels.csv")
LISTS = {"train_val_list.txt": "train", "test_list.txt": "test"}
N_PUBLISHED = 112_120
OLDEST = 120  # the table holds ages up to 414
_AGE = re.compile(r"0*(\d+)([YMD]?)")
_PER_YEAR = {"": 1.0, "Y": 1.0, "M": 12.0, "D": 365.25}


_SEX = ("Patient Gender", "Patient Sex")  # in the two versions of the table


def read_rows(
    root: Path,
    *,
    finding: str | None = None,
    skip_missing: bool = False,
    metadata_only: bool = False,
) -> Rows:
    """Rows of `Data_Entry_2017_v2020.csv`, or of 2017, whose label is whether one finding is there.

    `finding` is one of the fourteen, or `any`. Groups are patients. Ages are years, of 2017 with
    their unit (`058Y`, `011M`); impossible ones become blanks, and a note counts them. The header
    divides the image's size and pixel spacing at a comma inside brackets, and a comma may end it.
    `published_split` comes from `train_val_list.txt` and `test_list.txt` where both are there.
    Raises `TrustqError` that names rows: an unknown finding, `No Finding` beside another, an image
    without a row or a row without an image (unless `skip_missing`).
    """
    finding = require_finding("nih-chestxray14", finding, (ANY, *FINDINGS))
    path = found_table(root, *TABLES)
    if path is None:
        raise InputError(f"{root} holds neither {' nor '.join(TABLES)}. {HOW}")
    table = PublishedTable(path, "Image Index")
    ids, source = table.ids, table.source
    found = _findings(table)
    there = [NOTHING not in names if finding == ANY else finding in names for names in found]
    ages, impossible = _years(table.texts("Patient Age"), ids=ids.tolist(), source=source)
    patients, notes = own_groups(table.texts("Patient ID"), ids, "patient")
    sex = next((name for name in _SEX if name in table.columns), _SEX[0])
    columns: Columns = {
        "sample_id": ids,
        "label": np.array(CLASSES, dtype=object)[np.array(there, dtype=int)],
        "group_id": patients,
        "age": ages,
        "sex": texts([{"M": "male", "F": "female"}.get(s, s) for s in table.texts(sex).tolist()]),
        "projection": table.texts("View Position"),
        "native": table.texts("Finding Labels"),
    }
    lists = {name: found_table(root, name) for name in LISTS}
    if all(lists.values()):
        columns["published_split"] = _published_split(ids, lists)
    if len(ids) != N_PUBLISHED:
        notes.append(
            f"{path.name} differs from what was published: {counted(len(ids), 'row')} instead of "
            f"{N_PUBLISHED:,}."
        )
    if impossible:
        notes.append(
            f"Ages above {OLDEST} years, now blank: {named_rows(impossible, ids.tolist())}."
        )
    return DataSet("nih-chestxray14", "x-ray", HOW).rows(
        columns,
        root=root,
        source=source,
        classes=CLASSES,
        notes=notes,
        skip_missing=skip_missing,
        metadata_only=metadata_only,
    )


def _findings(table: PublishedTable) -> list[set[str]]:
    """The findings of each row, by their own names."""
    raw, ids = table.texts("Finding Labels"), table.ids.tolist()
    known = {label_key(name): name for name in (*FINDINGS, NOTHING)}
    found = [
        {known.get(label_key(name), "") for name in (text or "").split("|")}
        for text in raw.tolist()
    ]
    strange = [row for row, names in enumerate(found) if "" in names]
    if strange:
        raise InputError(
            f"{table.source}: Finding Labels {raw[strange[0]]!r} in {named_rows(strange, ids)} "
            f"holds something that is not one of {', '.join((*FINDINGS, NOTHING))}.",
            path=table.source,
        )
    both = [row for row, names in enumerate(found) if NOTHING in names and len(names) > 1]
    if both:
        raise InputError(
            f"{table.source}: {NOTHING} beside another in {named_rows(both, ids)}.",
            path=table.source,
        )
    return found


def _years(ages: np.ndarray, *, ids: Sequence[str], source: str) -> tuple[np.ndarray, list[int]]:
    """Ages in years, and the rows whose age nobody has reached."""
    years = np.ma.masked_all(len(ages), dtype=np.float64)
    impossible = []
    for row, text in enumerate(ages.tolist()):
        if is_blank(text):
            continue
        match = _AGE.fullmatch(text.upper())
        if match is None:
            raise InputError(
                f"{source}: Patient Age {text!r} in {named_rows([row], ids)} is no age such as "
                "58, 058Y or 011M.",
                path=source,
            )
        age = int(match[1]) / _PER_YEAR[match[2]]
        if age > OLDEST:
            impossible.append(row)
        else:
            years[row] = age
    return years, impossible


def _published_split(ids: np.ndarray, lists: dict[str, Path | None]) -> np.ndarray:
    split_of: dict[str | None, str] = {}
    for name, path in lists.items():
        assert path is not None
        listed = image_names(path.read_text(encoding="utf-8").split()).tolist()
        split_of |= dict.fromkeys(listed, LISTS[name])
    alone = [row for row, i in enumerate(ids.tolist()) if i not in split_of]
    if alone:
        raise InputError(
            f"Neither {' nor '.join(LISTS)} names {named_rows(alone, ids.tolist())}. {HOW}"
        )
    return texts([split_of[i] for i in ids.tolist()])
