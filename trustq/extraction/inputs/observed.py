"""Labels to train on from a file: repaired by people, or dropped."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from trustq.core import columns as tables
from trustq.core.class_names import ClassPosition
from trustq.core.counts import counted, verb
from trustq.core.digest import digest_array
from trustq.core.sample_ids import find_ids
from trustq.core.words import plain_texts
from trustq.data.manifest import Manifest
from trustq.data.purchase_origin import Origin, file_origin
from trustq.errors import InputError, NotFound

_LISTED = 5  # ids that an error names
_TRUE, _FALSE = ("1", "1.0", "true", "yes"), ("", "nan", "0", "0.0", "false", "no")


@dataclass(frozen=True)
class Observed:
    """Labels of a file in the manifest's order, each (n,).

    `observed` is -1 where the row is dropped; `trusted` is what the file calls so; a row that is
    not `listed` keeps the manifest's label; `origin` is the cell that bought them, where noted.
    """

    path: Path
    observed: np.ndarray
    trusted: np.ndarray
    listed: np.ndarray
    rate: float  # share of trained rows whose label is not the manifest's
    origin: Origin | None = None

    @property
    def attribute(self) -> dict[str, Any]:
        """As a cache's noise attribute."""
        origin = {} if self.origin is None else {"origin": dict(self.origin.cell)}
        return origin | {
            "spec": f"file:{self.path.name}",
            "trusted": float(self.trusted.mean()),
            "rate": self.rate,
            "digest": digest_array(np.stack([self.observed, self.trusted.astype(np.int16)])),
        }

    @property
    def summary(self) -> str:
        """What it does, in a line."""
        n_dropped = int((self.listed & (self.observed < 0)).sum())
        n_kept = int((~self.listed & (self.observed >= 0)).sum())
        return (
            f"{self.path}: labels of {counted(int(self.listed.sum()), 'row')}, {n_dropped:,} of "
            f"them dropped; {counted(n_kept, 'training row')} not in it "
            f"{verb(n_kept, 'keeps', 'keep')} the manifest's label."
        )


def read_observed(
    path: Path,
    manifest: Manifest,
    *,
    rows: np.ndarray,
    seed: int,
    left_out: Sequence[str] = (),
) -> Observed:
    """Read the labels of `rows`, (n,) of bool, from a CSV or Parquet table.

    `{seed}` in the file's name stands for `seed`, that of the training.

    Columns `sample_id` and `label` (blank: the row is dropped), or `given`, `suggested` and
    `action` (keep, relabel or drop) as `trustq audit apply` writes them; `trusted` may mark labels
    that someone checked. Lines of the ids in `left_out` are passed over. Raises `TrustqError` that
    names ids: unknown, twice, not of `rows`, or with a label outside the classes.
    """
    path = Path(str(path).replace("{seed}", str(seed)))
    columns = tables.read_table(path)
    origin = file_origin(path)
    _require_own_seed(path, origin, seed)
    if "sample_id" not in columns:
        raise NotFound(
            f"{path}: it has no column sample_id, only {', '.join(columns)}.",
            path=path,
            expected=columns,
        )
    row_of = {name: row for row, name in enumerate(manifest.columns["sample_id"].tolist())}
    ids = _as_in_manifest(plain_texts(columns["sample_id"]), manifest, path)
    lines = [own not in set(left_out) for own in ids]
    columns = {name: column[lines] for name, column in columns.items()}
    ids = [own for own, is_kept in zip(ids, lines, strict=True) if is_kept]
    names = _names(path, columns)
    _refuse(
        path, "is", "are", "in it twice", [i for i, n_lines in Counter(ids).items() if n_lines > 1]
    )
    _refuse(path, "is", "are", "not in the manifest", [i for i in ids if i not in row_of])
    outside = [i for i in ids if not rows[row_of[i]]]
    _refuse(path, "is", "are", "outside the rows to train on", outside)
    find = ClassPosition(manifest.classes)
    found = {name: find(name) for name in set(names) if name}
    position = {name: place for name, place in found.items() if place is not None}
    strange = [
        f"{i} ({name})" for i, name in zip(ids, names, strict=True) if name and name not in position
    ]
    _refuse(path, "has", "have", f"a label outside {', '.join(manifest.classes)}", strange)
    reference = manifest.label_indices
    observed = np.where(rows, reference, -1).astype(np.int16)
    trusted = np.zeros(len(rows), dtype=bool)
    listed = np.zeros(len(rows), dtype=bool)
    there = np.array([row_of[i] for i in ids], dtype=np.int64)
    observed[there] = [position[name] if name else -1 for name in names]
    listed[there] = True
    if origin is not None:
        absent = manifest.columns["sample_id"][rows & ~listed].tolist()
        _refuse(
            path,
            "to train on is",
            "to train on are",
            "not in it, though a purchase is of all",
            absent,
        )
    if "trusted" in columns:
        trusted[there] = _booleans(path, columns["trusted"])
        trusted &= observed >= 0
    trained = observed >= 0
    if not trained.any():
        raise InputError(f"{path}: it drops every row, so nothing is left to train on.", path=path)
    rate = float((observed != reference)[trained].mean())
    return Observed(path, observed, trusted, listed, rate, origin)


def _as_in_manifest(texts: list[str], manifest: Manifest, path: Path) -> list[str]:
    """Ids as the manifest spells them, those that it lacks as they are."""
    known = manifest.columns["sample_id"]
    places = find_ids(texts, known, source=str(path))
    return [own if row is None else str(known[row]) for own, row in zip(texts, places, strict=True)]


def _require_own_seed(path: Path, origin: Origin | None, seed: int) -> None:
    if origin is not None and origin.cell["backbone_seed"] != seed:
        bought = origin.cell["backbone_seed"]
        raise InputError(
            f"{path}: its labels were bought for the network of seed {bought}, and seed {seed} is "
            f"to be trained, so the two would be no pair. Train `seeds={bought}`, or name a file "
            "for each seed: `observed=FOLDER/seed{seed}.parquet`.",
            path=path,
        )


def _names(path: Path, columns: tables.Columns) -> list[str]:
    """The label of each line; blank where it is dropped."""

    def texts(name: str) -> list[str]:
        return ["" if value is None else str(value) for value in columns[name].tolist()]

    if "label" in columns:
        return texts("label")
    missing = [name for name in ("given", "suggested", "action") if name not in columns]
    if missing:
        raise NotFound(
            f"{path}: it has no column label, nor {', '.join(missing)} to take one from. Expected "
            "sample_id,label or the table of `trustq audit apply`.",
            path=path,
        )
    chosen = {"keep": texts("given"), "relabel": texts("suggested")}
    names = []
    for line, action in enumerate(texts("action")):
        if action not in ("keep", "relabel", "drop"):
            raise InputError(
                f"{path}, row {line + 1}: action {action!r}, expected keep, relabel or drop.",
                path=path,
            )
        if action != "drop" and not chosen[action][line]:
            raise InputError(
                f"{path}, row {line + 1}: action {action!r} without a label to train on. Name one, "
                "or say drop.",
                path=path,
            )
        names.append("" if action == "drop" else chosen[action][line])
    return names


def _booleans(path: Path, column: np.ndarray) -> list[bool]:
    """The column `trusted`, whose every row is a clean label that counts in the budget, or not."""
    texts = ["" if value is None else str(value).lower() for value in column.tolist()]
    for line, text in enumerate(texts):
        if text not in _TRUE + _FALSE:
            raise InputError(
                f"{path}, row {line + 1}: trusted is {text!r}, expected 1 or 0.", path=path
            )
    return [text in _TRUE for text in texts]


def _refuse(path: Path, of_one: str, of_more: str, problem: str, ids: list[str]) -> None:
    if ids:
        more = f" and {len(ids) - _LISTED:,} more" if len(ids) > _LISTED else ""
        raise InputError(
            f"{path}: {counted(len(ids), 'id')} {verb(len(ids), of_one, of_more)} {problem}: "
            f"{', '.join(ids[:_LISTED])}{more}.",
            path=path,
        )
