"""CheXpert: 223,414 chest X-rays of 64,540 patients, with findings read from reports by a program.

Irvin et al., AAAI 2019. A finding is 1.0 (present), 0.0 (absent), -1.0 (uncertain) or blank (the
report does not mention it).
"""

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from trustq.core.columns import Columns, read_table
from trustq.core.words import is_blank
from trustq.data.taxonomy import label_key
from trustq.datasets.published import DataSet
from trustq.datasets.rows import (
    Rows,
    column,
    flag_words,
    found_table,
    images_under,
    known_words,
    metadata_texts,
    named_rows,
    numbers,
    refuse_images_alone,
    require_images,
    texts,
    without_missing,
)
from trustq.errors import InputError

CLASSES = ("absent", "present")
FINDINGS = (
    "No Finding",
    "Enlarged Cardiomediastinum",
    "Cardiomegaly",
    "Lung Opacity",
    "Lung Lesion",
    "Edema",
    "Consolidation",
    "Pneumonia",
    "Atelectasis",
    "Pneumothorax",
    "Pleural Effusion",
    "Pleural Other",
    "Fracture",
    "Support Devices",
)
HOW = "The data are at https://stanfordmlgroup.github.io/competitions/chexpert/."
TABLES = {"train.csv": "train", "valid.csv": "val"}
_MARKS = {"1": "present", "0": "absent"}
_UNCERTAIN = "-1"
_WORDS = {
    **flag_words("1", "0"),
    "present": "1",
    "positive": "1",
    "absent": "0",
    "negative": "0",
    "uncertain": "-1",
}
_PATIENT = re.compile(r"patient\d+")


def read_rows(
    root: Path,
    *,
    finding: str | None = None,
    uncertain: str = "drop",
    unmentioned: str = "drop",
    skip_missing: bool = False,
    metadata_only: bool = False,
    rename: Mapping[str, str] | None = None,
) -> Rows:
    """Rows of `train.csv` and `valid.csv` whose label is whether one finding is there.

    `root` is the folder with the tables (`CheXpert-v1.0` or `CheXpert-v1.0-small`). `uncertain` is
    present, absent or drop, `unmentioned` absent or drop. Groups are patients, from the path;
    `published_split` says which table. Raises `TrustqError` that names rows: another mark than
    those above, a path without a patient, an image without a row or a row without an image (unless
    `skip_missing`).
    """
    finding = require_finding("chexpert", finding, FINDINGS)
    require_choice("uncertain", uncertain, ("drop", "absent", "present"))
    require_choice("unmentioned", unmentioned, ("drop", "absent"))
    split_of = {path: split for name, split in TABLES.items() if (path := found_table(root, name))}
    tables = list(split_of)
    if not tables:
        raise InputError(f"{root} holds neither train.csv nor valid.csv. {HOW}")
    root = tables[0].parent  # the paths of the tables begin where these lie
    images = set(images_under(root))
    marks = _Marks(finding, uncertain=uncertain, unmentioned=unmentioned, rename=rename)
    parts = [_rows_of(path, marks, split=split_of[path]) for path in tables]
    for path, part in zip(tables, parts, strict=True):
        if not metadata_only:
            require_images(
                part["path"],
                images,
                part["sample_id"],
                source=str(path),
                how=HOW,
                root=root,
                skip_missing=skip_missing,
            )
    columns = _stacked(parts)
    refuse_images_alone(images, columns["path"], root=root, source=" and ".join(TABLES))
    if not metadata_only:
        columns["path"] = texts([p if p in images else None for p in columns["path"].tolist()])
    columns, left_out = without_missing(columns)
    columns, dropped = _decided(columns, finding)
    notes = [*left_out, *dropped]
    return DataSet("chexpert", "x-ray", HOW).rows(
        columns,
        root=root,
        source=str(tables[0]),
        classes=CLASSES,
        notes=notes,
        skip_missing=skip_missing,
        metadata_only=metadata_only,
    )


def _stacked(parts: list[Columns]) -> Columns:
    return {
        name: np.asanyarray(np.ma.concatenate([part[name] for part in parts]))
        if name == "age"
        else np.concatenate([part[name] for part in parts])
        for name in parts[0]
    }


def require_finding(name: str, finding: str | None, known: tuple[str, ...]) -> str:
    """The finding of the data set that is named, in any case; raises `TrustqError` for another."""
    own = {label_key(word): word for word in known}.get(label_key(finding or ""))
    if own is None:
        said = "needs `finding`" if finding is None else f"has no finding {finding!r}"
        raise InputError(f"{name} {said}; its findings are {', '.join(known)}.")
    return own


def require_choice(option: str, value: str, known: tuple[str, ...]) -> None:
    """Raise `TrustqError` unless `value` is one that the option takes."""
    if value not in known:
        raise InputError(f"{option} {value}: expected one of {', '.join(known)}.", expected=known)


@dataclass(frozen=True)
class _Marks:
    """The finding that decides, and what its uncertain and missing marks mean."""

    finding: str
    uncertain: str
    unmentioned: str
    rename: Mapping[str, str] | None


def _rows_of(path: Path, asked: _Marks, *, split: str) -> Columns:
    table = read_table(path)

    def published(name: str) -> np.ndarray:
        return texts(column(table, name, source=str(path)).tolist())

    def words(name: str) -> np.ndarray:
        return metadata_texts(published(name).tolist())

    # The paths begin with the name of the published folder, whatever the folder is called here.
    paths = texts(
        [p and re.sub(r"^CheXpert-v1\.0[^/]*/", "", p) for p in published("Path").tolist()]
    )
    ids = texts([p and os.path.splitext(p)[0] for p in paths.tolist()])
    patients = [_PATIENT.search(p or "") for p in paths.tolist()]
    without = [row for row, patient in enumerate(patients) if patient is None]
    if without:
        raise InputError(
            f"{path}: no patient in the path of {named_rows(without, ids.tolist())}.", path=path
        )
    raw = published(asked.finding)
    marks = known_words(
        raw,
        (*_MARKS, _UNCERTAIN),
        name=asked.finding,
        ids=ids,
        source=str(path),
        aliases=_WORDS,
        rename=asked.rename,
        blank=True,
    )
    meaning = dict(_MARKS)
    if asked.uncertain != "drop":
        meaning[_UNCERTAIN] = asked.uncertain
    blank = None if asked.unmentioned == "drop" else asked.unmentioned
    labels = [blank if mark is None else meaning.get(mark) for mark in marks.tolist()]
    return {
        "sample_id": ids,
        "path": paths,
        "label": np.array([*labels, None], dtype=object)[:-1],
        "group_id": texts([patient and patient[0] for patient in patients]),
        "age": numbers(published("Age"), "Age", ids=ids.tolist(), source=str(path)),
        "sex": texts([sex and sex.lower() for sex in words("Sex").tolist()]),
        "view": words("Frontal/Lateral"),
        "projection": words("AP/PA"),
        "published_mark": raw,
        "published_split": np.full(len(ids), split, dtype=object),
    }


def _decided(columns: Columns, finding: str) -> tuple[Columns, list[str]]:
    decided = np.array([label is not None for label in columns["label"].tolist()])
    if not decided.any():
        raise InputError(f"No row says whether {finding} is there; see `uncertain`.")
    if decided.all():
        return columns, []
    marks = columns["published_mark"][~decided].tolist()
    n_blank = sum(map(is_blank, marks))
    note = (
        f"Rows left out of {len(decided):,} for {finding}: {len(marks) - n_blank:,} uncertain "
        f"(`uncertain=present` or `uncertain=absent` keeps them) and {n_blank:,} "
        "that do not mention it (`unmentioned=absent` keeps them)."
    )
    return {name: array[decided] for name, array in columns.items()}, [note]
