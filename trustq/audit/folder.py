"""The folder of an audit: what later commands need of it, beside what people read."""

import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from trustq.core.atomic_files import replacing
from trustq.core.columns import read_table, write_parquet
from trustq.core.counts import counted
from trustq.errors import InputError, NotFound

if TYPE_CHECKING:
    from trustq.audit.labels import LabelAudit

FORMAT = "trustq.audit"
SETTINGS, ROWS, ANSWERS = "audit.json", "rows.parquet", "answers.csv"


@dataclass(frozen=True)
class StoredAudit:
    """An audit as its folder has it; arrays of n rows, labels as class names.

    `rank` is 0 where a row has no place in the list; `listed` is where the list was cut.
    """

    folder: Path
    classes: tuple[str, ...]
    sources: tuple[dict[str, Any], ...]  # path, content digest and what `open_source` was asked
    sample_ids: np.ndarray
    given: np.ndarray
    suggested: np.ndarray
    rank: np.ndarray
    listed: np.ndarray
    trusted: np.ndarray
    asked: np.ndarray  # rows that people are asked for: all, or one of each group
    p_wrong: np.ndarray  # the model's estimate of being wrong; NaN where there is none
    group_ids: np.ndarray
    unit: str  # "row" or "group": whom an answer speaks for
    neighbours: np.ndarray  # texts of positions, nearest first, blank where not looked for
    images: dict[str, str]  # the manifest and the image folder that the audit was given

    def near(self, row: int) -> list[int]:
        """Positions of the nearest rows of other groups, as far as they were looked for."""
        return [int(text) for text in str(self.neighbours[row] or "").split()]

    @cached_property
    def order(self) -> np.ndarray:
        """Positions of the listed rows, most suspicious first."""
        rows = np.flatnonzero(self.listed)
        return rows[np.argsort(self.rank[rows])]


def write_audit_folder(
    audit: "LabelAudit", folder: Path, *, images: dict[str, str] | None = None
) -> list[Path]:
    """Write `audit.json` and `rows.parquet`, which `read_audit_folder` reads; returns the paths.

    `images` says where the images are, by "manifest" and "root", for whoever shows them later.
    """
    settings = {
        "format": FORMAT,
        "key": audit.key,
        "score": audit.score,
        "score_why": audit.why,
        "cut": audit.cut,
        "classes": list(audit.classes),
        "unit": audit.unit,
        "sources": [
            {
                "path": str(source.cache.path),
                "content_digest": source.cache.content_digest,
                "probabilities": source.out_of_fold.source,
                "asked": source.settings,
            }
            for source in audit.sources
        ],
        "notes": list(audit.notes),
        "images": images or {},
    }
    names = np.array(audit.classes, dtype=object)
    rows = {
        "sample_id": audit.sample_ids,
        "group_id": audit.groups,
        "given": names[audit.given],
        "suggested": names[audit.suggested],
        "quality": audit.quality,
        "rank": audit.rank,
        "p_wrong": audit.p_wrong,
        "listed": audit.listed,
        "asked": audit.asked,
        "trusted": audit.trusted,
        "neighbours": _neighbours(audit),
    }
    write_parquet(folder / ROWS, rows)
    with replacing(folder / SETTINGS) as part:
        part.write_text(json.dumps(settings, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    return [folder / SETTINGS, folder / ROWS]


def read_audit_folder(folder: Path) -> StoredAudit:
    """What `trustq audit labels` left in a folder; raises `TrustqError` where that is not whole."""
    folder = Path(folder)
    try:
        settings = json.loads((folder / SETTINGS).read_text(encoding="utf-8"))
        known = settings["format"] == FORMAT
    except (OSError, RecursionError, ValueError, KeyError, TypeError):
        known = False
    if not known:
        raise NotFound(
            f"{folder} holds no audit. Make one with `trustq audit labels` and `out={folder}`.",
            path=folder,
        )
    for source in settings["sources"]:  # folders of 0.1 had the other spelling
        if "normalise" in source["asked"]:
            source["asked"]["normalize"] = source["asked"].pop("normalise")
    rows = read_table(folder / ROWS)
    n = len(rows["given"])
    return StoredAudit(
        folder=folder,
        classes=tuple(settings["classes"]),
        sources=tuple(settings["sources"]),
        sample_ids=rows["sample_id"],
        given=rows["given"],
        suggested=rows["suggested"],
        rank=rows["rank"],
        listed=rows["listed"].astype(bool),
        trusted=rows["trusted"].astype(bool),
        # An older trustq asked for every row and kept no probability.
        asked=rows.get("asked", np.ones(n, dtype=bool)).astype(bool),
        p_wrong=rows.get("p_wrong", np.full(n, np.nan)).astype(np.float64),
        group_ids=rows["group_id"],
        unit=str(settings.get("unit", "row")),
        neighbours=rows.get("neighbours", np.full(n, "", dtype=object)),
        images=dict(settings.get("images", {})),
    )


def _neighbours(audit: "LabelAudit") -> np.ndarray:
    texts = np.full(len(audit.given), "", dtype=object)
    if audit.neighbours is not None:
        for row in np.flatnonzero((audit.neighbours >= 0).any(axis=1)).tolist():
            texts[row] = " ".join(str(near) for near in audit.neighbours[row] if near >= 0)
    return texts


def require_no_answers(folder: Path) -> None:
    """Raise where an answers sheet holds answers, which a new audit must not overwrite."""
    path = Path(folder) / ANSWERS
    if path.is_file():
        labels = read_table(path).get("label", np.array([], dtype=object))
        answered = sum(bool(label) for label in labels.tolist())
        if answered:
            raise InputError(
                f"{path} holds {counted(answered, 'answer')}, which a new audit would overwrite. "
                "Keep them: choose another folder with `out`, or move the file.",
                path=path,
            )
