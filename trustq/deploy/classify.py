"""A table of answers for a folder of images."""

import json
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from trustq.core.atomic_files import explained
from trustq.core.counts import counted
from trustq.core.digest import digest_bytes
from trustq.core.label_sheets import write_sheet
from trustq.data.image_files import ENDINGS
from trustq.data.pillow_rgb import reason_of
from trustq.deploy.answer import answer_for
from trustq.deploy.model import Model
from trustq.errors import NotFound

FEW = 5  # other endings that are named
ENOUGH = 10  # images of which one answer is worth a word


def classify_folder(
    model: Model,
    folder: Path,
    *,
    kept: Path | None = None,
    progress: Callable[[int, int], None] = lambda *_: None,
    note: Callable[[str], None] = lambda _: None,
) -> list[dict[str, Any]]:
    """One row for each image file under a folder, by path: tiers, score, conditions, probabilities.

    Images are decoded at full size, so that answers are those of server and page. A file that
    cannot be read has its reason in `error` and blanks elsewhere; files with other endings are left
    out, which `note` is told, and hidden ones ignored. Rows are added to the file `kept` as they
    come; those that a stopped run left there, of this model and of images that did not change, are
    not computed again. Raises `TrustqError` where the folder holds no image file.
    """
    folder = Path(folder)
    if not folder.is_dir():
        problem = " is not a folder" if folder.exists() else ": no such folder"
        raise NotFound(f"{folder}{problem}. Name the folder that holds the images.", path=folder)
    files, others = [], Counter[str]()
    for path in sorted(folder.rglob("*")):
        if path.name.startswith("."):  # such as what macOS writes beside a file
            continue
        if path.suffix.lower() in ENDINGS:
            files.append(path)
        elif path.is_file():
            others[path.suffix.lower() or "none"] += 1
    left_out = ", ".join(f"{ending} ({n:,})" for ending, n in others.most_common(FEW))
    if not files:
        has = f"has {counted(sum(others.values()), 'file')}: {left_out}" if others else "is empty"
        raise NotFound(
            f"{folder} holds no image files ({', '.join(ENDINGS)}); it {has}. Name the folder that "
            "does, or save the images in one of these formats.",
            path=folder,
        )
    if others:
        note(
            f"{counted(sum(others.values()), 'file')} of other endings than "
            f"{', '.join(ENDINGS)} left out: {left_out}"
        )
    rows = []
    with _kept_rows(kept, model) as (known, keep):
        marks = [_mark(path, folder) for path in files]
        if again := sum(mark in known for mark in marks):
            note(f"taken from {kept}: {counted(again, 'answer')} of a run that was stopped")
        for done, (path, mark) in enumerate(zip(files, marks, strict=True), start=1):
            row = known.get(mark) or _row(model, path, path.relative_to(folder))
            if mark not in known and not row["error"]:
                keep(mark, row)
            rows.append(row)
            progress(done, len(files))
    return rows


def tier_counts(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Of each tier its images, and how many of these the model leaves to people, the most first."""
    tiers: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        tiers.setdefault(row["urgency_tier"] or "could not be read", []).append(row)
    return [
        {
            "tier": tier,
            "images": len(own),
            "abstained": sum(row["abstained"] is True for row in own),
            "unlike training": sum(row["unlike_training"] is True for row in own),
        }
        for tier, own in sorted(tiers.items(), key=lambda item: -len(item[1]))
    ]


def one_answer(rows: list[dict[str, Any]]) -> str:
    """That all images of a folder are called one class, for people; blank where they are not."""
    called = {row["likeliest"] for row in rows if row["likeliest"]}
    n = sum(row["likeliest"] != "" for row in rows)
    if n < ENOUGH or len(called) > 1:
        return ""
    return (
        f"All {counted(n, 'image')} are called {called.pop()}. If the folder has others, the model "
        "does not tell them apart"
    )


def write_answers(path: Path, rows: list[dict[str, Any]]) -> None:
    """Write rows as CSV, whole or not at all, without formulas for spreadsheets."""
    write_sheet(path, rows)


_Mark = tuple[str, int, int]  # an image's path, bytes and time of change


def _mark(path: Path, folder: Path) -> _Mark:
    found = path.stat()
    return path.relative_to(folder).as_posix(), found.st_size, found.st_mtime_ns


@contextmanager
def _kept_rows(
    path: Path | None, model: Model
) -> Iterator[tuple[dict[_Mark, dict[str, Any]], Callable[[_Mark, dict[str, Any]], None]]]:
    """Rows that a file holds of a model, and what adds one: a line each, which a kill cuts off."""
    known: dict[_Mark, dict[str, Any]] = {}
    if path is None:
        yield known, lambda mark, row: None
        return
    own = digest_bytes(json.dumps([model.variant, model.about], sort_keys=True).encode())
    for line in path.read_bytes().splitlines() if path.exists() else ():
        try:
            of, mark, row = json.loads(line)
        except (ValueError, TypeError):  # cut off
            continue
        if of == own:
            known[tuple(mark)] = row
    with explained(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        file = open(path, "ab", buffering=0)  # noqa: SIM115 - closed below

    def keep(mark: _Mark, row: dict[str, Any]) -> None:
        with explained(path):
            # A line end before the line: what a kill cut off stays a line of its own.
            file.write(b"\n" + json.dumps([own, mark, row]).encode())

    with file:
        yield known, keep


def _row(model: Model, path: Path, name: Path) -> dict[str, Any]:
    blank: dict[str, Any] = {
        "image": name.as_posix(),
        "urgency_tier": "",
        "risk_tier": "",
        "risk_score": "",
        "likeliest": "",
        "confidence": "",
        "abstained": "",
        "unlike_training": "",
        "image_score": "",
        "error": "",
    } | {f"prob_{name}": "" for name in model.classes}
    try:
        found = answer_for(path.read_bytes(), model)
    except Exception as error:  # Pillow's decoders raise nearly anything on damaged files
        if type(error).__module__.startswith("onnxruntime"):
            raise
        return blank | {"error": reason_of(error)}
    return blank | {
        "urgency_tier": found["urgency_tier"],
        "risk_tier": found["risk_tier"],
        "risk_score": round(found["risk_score"], 6),
        "likeliest": found["conditions"][0]["class"],
        "confidence": found["confidence"]["level"],
        "abstained": found["confidence"]["abstained"],
        "unlike_training": found["unlike_training"]["unlike"],
        "image_score": found["image"]["score"],
        **{f"prob_{name}": round(p, 6) for name, p in found["probabilities"].items()},
    }
