"""One taxonomy over data sets: ten conditions, benign or malignant, and the HAM10000 classes.

The tables are data, one CSV per data set in `trustq/datasets/taxonomy`: a published label, its
condition, whether that is malignant (blank where the label does not tell), and the HAM10000 class.
What they simplify: HAM10000's `bkl` and ISIC's `BKL` hold solar lentigines and lichenoid keratoses
beside seborrheic keratoses; `akiec` holds Bowen's disease beside actinic keratoses; actinic
keratosis, a precursor, counts as malignant, as in Fitzpatrick17k's own partition.
"""

import csv
from collections import Counter
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import NamedTuple

import numpy as np

from trustq.errors import InputError, NotFound

CONDITIONS = (
    "melanoma",
    "basal_cell_carcinoma",
    "squamous_cell_carcinoma",
    "actinic_keratosis",
    "nevus",
    "seborrheic_keratosis",
    "dermatofibroma",
    "vascular",
    "non_neoplastic",
    "other",
)
MALIGNANCY = ("benign", "malignant")
HAM10000 = ("akiec", "bcc", "bkl", "df", "mel", "nv", "vasc")
TARGETS = {"condition": CONDITIONS, "malignant": MALIGNANCY, "ham10000": HAM10000}

_HEADER = ("native", *TARGETS)


class Meaning(NamedTuple):
    """What a published label means in each target; None where it has no place or does not tell."""

    condition: str | None
    malignant: str | None
    ham10000: str | None


@dataclass(frozen=True)
class Mapped:
    """The columns of `TARGETS`, (n,) with None for no value, and sentences on what did not fit."""

    columns: dict[str, np.ndarray]
    notes: tuple[str, ...]


def read_taxonomy(name: str | Path) -> dict[str, Meaning]:
    """The table of a data set by its name, or of a CSV file; keys as `label_key` makes them.

    Raises `TrustqError` for another header, a label that is there twice, and a value that is none
    of its target's.

    >>> read_taxonomy("ham10000")["akiec"]
    Meaning(condition='actinic_keratosis', malignant='malignant', ham10000='akiec')
    """
    if isinstance(name, Path):
        if not name.is_file():
            raise NotFound(f"{name}: no such file.")
        source, text = str(name), name.read_text(encoding="utf-8")
    else:
        place = files("trustq.datasets") / "taxonomy" / f"{name}.csv"
        source, text = f"taxonomy/{name}.csv", place.read_text(encoding="utf-8")
    header, *lines = list(csv.reader(text.splitlines())) or [[]]
    if tuple(header) != _HEADER:
        raise InputError(
            f"{source}: expected the columns {', '.join(_HEADER)}; found {', '.join(header)}.",
            path=source,
        )
    table: dict[str, Meaning] = {}
    for number, line in enumerate(lines, start=1):
        native, *values = line
        meaning = Meaning(*(value or None for value in values))
        for (target, known), value in zip(TARGETS.items(), meaning, strict=True):
            if value is not None and value not in known:
                raise InputError(
                    f"{source}: {target} {value!r} in row {number} ({native}) is not one of "
                    f"{', '.join(known)}.",
                    path=source,
                    expected=known,
                    found=value,
                )
        if label_key(native) in table:
            raise InputError(f"{source}: {native!r} in row {number} is there twice.", path=source)
        table[label_key(native)] = meaning
    return table


def label_key(label: str) -> str:
    """A published label without case, hyphens and spaces more than one, as mirrors differ in them.

    >>> label_key("Basal-cell  carcinoma")
    'basal cell carcinoma'
    """
    return " ".join(label.lower().replace("-", " ").replace("_", " ").split())


def map_labels(
    native: np.ndarray,
    table: dict[str, Meaning],
    *,
    malignant: np.ndarray | None = None,
) -> Mapped:
    """Columns `condition`, `malignant` and `ham10000` of published labels, and what did not fit.

    `native` is (n,) of labels, `malignant` (n,) the data set's own column of `benign` and
    `malignant`, which decides wherever it is not blank: rows where the table says otherwise are
    counted in a note. Labels that the table lacks get no value and are counted in another.

    >>> mapped = map_labels(np.array(["mel", "what"]), read_taxonomy("ham10000"))
    >>> mapped.columns["condition"].tolist(), mapped.notes
    (['melanoma', None], ('Labels that the taxonomy lacks, left without a condition: what (1).',))
    """
    nothing = Meaning(None, None, None)
    keys = {label: label_key(label) for label in set(native.tolist())}
    unmapped = Counter(label for label in native.tolist() if keys[label] not in table)
    meanings = [table.get(keys[label], nothing) for label in native.tolist()]
    columns: dict[str, np.ndarray] = {}
    for place, target in enumerate(TARGETS):
        columns[target] = np.array([meaning[place] for meaning in meanings] + [None], object)[:-1]
    notes = []
    if unmapped:
        notes.append(
            f"Labels that the taxonomy lacks, left without a condition: {_counted(unmapped)}."
        )
    if malignant is not None:
        pairs = zip(native.tolist(), columns["malignant"].tolist(), malignant.tolist(), strict=True)
        conflicts = Counter(
            f"{label}, {own} in the data set and {said} in the taxonomy"
            for label, said, own in pairs
            if None not in (said, own) and said != own
        )
        if conflicts:
            notes.append(
                f"Rows whose malignancy the taxonomy has otherwise: {conflicts.total():,}. The "
                f"data set's own column decides: {_counted(conflicts, between='; ')}."
            )
        blank = np.array([own is None for own in malignant.tolist()], dtype=bool)
        columns["malignant"] = np.where(blank, columns["malignant"], malignant)
    return Mapped(columns, tuple(notes))


def _counted(counts: "Counter[str]", *, between: str = ", ", most: int = 12) -> str:
    named = [f"{label} ({n:,})" for label, n in counts.most_common(most)]
    more = f"{between}and {len(counts) - most} more" if len(counts) > most else ""
    return between.join(named) + more
