"""Forms by name, how a file tells its own, and the two doors: write tasks, read answers."""

import json
from collections.abc import Collection, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from trustq.core.atomic_files import replacing
from trustq.core.class_names import ClassPosition, unknown_class
from trustq.core.columns import TABLES, read_table
from trustq.core.words import is_blank
from trustq.errors import DamagedFile, InputError, TrustqError
from trustq.review.exchange import argilla, cvat, fiftyone, label_studio, lines, sheet
from trustq.review.exchange.task import KnownIds, Task
from trustq.review.journal import LONGEST_TEXT, Answer, read_journal

FORMS = ("label-studio", "cvat", "prodigy", "doccano", "fiftyone", "argilla", "sheet", "journal")
_WRITERS = {
    "label-studio": (label_studio.write, (".json",)),
    "cvat": (cvat.write, (".xml",)),
    "prodigy": (lines.write_prodigy, (".jsonl",)),
    "doccano": (lines.write_doccano, (".jsonl",)),
    "fiftyone": (fiftyone.write, (".json",)),
    "argilla": (argilla.write, (".json",)),
}
_BIGGEST = 1 << 30  # bytes of a file of answers


def write_exchange(
    tasks: Sequence[Task], path: Path, *, form: str, classes: Sequence[str]
) -> list[Path]:
    """Write tasks, with the answers they have, in a tool's form; returns the paths.

    For Label Studio the labeling configuration is written beside them. Raises `TrustqError` for an
    unknown form, an ending that is not the form's, and what the form cannot hold.
    """
    path = Path(path)
    if form == "sheet":
        return [sheet.write(tasks, path)]
    if form not in _WRITERS:
        known = (*_WRITERS, "sheet")
        raise InputError(
            f"unknown form {form!r}; expected one of {', '.join(known)}.",
            found=form,
            expected=known,
        )
    writer, endings = _WRITERS[form]
    if path.suffix.lower() not in endings:
        raise InputError(f"{path}: a {form} file ends in {' or '.join(endings)}.", path=path)
    text = writer(tasks, classes)
    with replacing(path) as part:
        part.write_text(text, encoding="utf-8")
    if form != "label-studio":
        return [path]
    config = path.with_suffix(".config.xml")
    with replacing(config) as part:
        part.write_text(label_studio.labeling_config(classes), encoding="utf-8")
    return [path, config]


def read_answers_of(
    path: Path, ids: Collection[str], *, rater: str = "", classes: Sequence[str] = ()
) -> list[Answer]:
    """Answers of a file in any of the forms, which its content tells.

    `rater` is who answered where the file does not say (default: the file's name). Ids and the
    names of `classes` are found as everywhere: with or without the ending of an image file, in any
    case. Tasks that were skipped or not answered are left out. Raises `TrustqError` for another
    kind of file, and for rows that are not among `ids`.
    """
    path = Path(path)
    form, content = form_of(path)
    who, where = rater or path.stem, str(path)
    if form == "journal":
        return read_journal(path)
    readers: dict[str, Any] = {
        "label-studio": label_studio.read_json,
        "label-studio-csv": label_studio.read_rows,
        "cvat": cvat.read,
        "prodigy": lines.read_prodigy,
        "doccano": lines.read_doccano,
        "fiftyone": fiftyone.read,
        "fiftyone-dataset": fiftyone.read_dataset,
        "argilla": argilla.read,
        "sheet": sheet.read,
    }
    try:
        answers: list[Answer] = readers[form](content, KnownIds(ids), rater=who, where=where)
    except TrustqError:
        raise
    except (AttributeError, KeyError, TypeError, ValueError, IndexError) as error:
        raise DamagedFile(f"{path}: not a whole {form} file ({error}).", path=path) from error
    find = ClassPosition(classes)
    answers = [_in_classes(answer, find, classes, where=where) for answer in answers]
    found = [answer for answer in answers if answer.kind != "skip"]
    if not found:
        raise InputError(f"{path} ({form}) holds no answers: nothing in it is labelled.", path=path)
    if any(len(answer.note) > LONGEST_TEXT for answer in found):
        raise InputError(f"{path}: a note has more than {LONGEST_TEXT} characters.", path=path)
    return found


def _in_classes(
    answer: Answer, find: ClassPosition, classes: Sequence[str], *, where: str
) -> Answer:
    """An answer with its labels as the classes are spelt; without those that are words for none."""
    if not answer.labels or not classes:
        return answer
    labels = []
    for label in answer.labels:
        place = find(label)
        if place is None and not is_blank(label):
            raise InputError(
                f"{where}, {answer.sample_id}: {unknown_class(label, classes)}.",
                expected=classes,
                found=label,
            )
        if place is not None:
            labels.append(classes[place])
    return replace(answer, labels=tuple(dict.fromkeys(labels)), kind="label" if labels else "skip")


def form_of(path: Path) -> tuple[str, Any]:
    """Which form a file has, and its content as the form's reader takes it."""
    ending = path.suffix.lower()
    if not path.is_file():
        raise InputError(f"{path}: no such file.", path=path)
    if path.stat().st_size > _BIGGEST:
        raise InputError(f"{path} is larger than {_BIGGEST >> 20} MB.", path=path)
    if path.name.lower().endswith(TABLES):
        table = read_table(path)
        names = list(table)
        columns = [column.tolist() for column in table.values()]
        rows = [dict(zip(names, row, strict=True)) for row in zip(*columns, strict=True)]
        if not rows:
            raise InputError(f"{path} has column names and no row below them.", path=path)
        if {"annotation_id", "lead_time"} <= set(names):
            return "label-studio-csv", rows
        return "sheet", rows
    try:
        text = path.read_text(encoding="utf-8-sig")
        if ending == ".xml":
            return "cvat", text
        if ending == ".jsonl":
            first = json.loads(text.partition("\n")[0] or "null")
            form = _form_of_line(first)
            if form == "journal":
                return form, None
            # Not by `splitlines`, for a note may hold other characters that end lines.
            return form, [json.loads(line) for line in text.split("\n") if line.strip()]
        if ending == ".json":
            found = json.loads(text)
            if isinstance(found, dict) and isinstance(found.get("labels"), dict):
                return "fiftyone", found
            if isinstance(found, dict) and isinstance(found.get("samples"), list):
                return "fiftyone-dataset", found
            if isinstance(found, list) and found and all(map(argilla.is_record, found)):
                return "argilla", found
            if isinstance(found, list) and all(isinstance(one, dict) for one in found):
                return "label-studio", found
    except (ValueError, RecursionError) as error:
        raise DamagedFile(f"{path} could not be read ({error}).", path=path) from error
    raise InputError(
        f"{path}: neither a sheet nor a file of {', '.join(FORMS[:6])}, by its content. Save it as "
        "a table (CSV) of sample_id and label.",
        path=path,
    )


def _form_of_line(first: Any) -> str:
    if not isinstance(first, dict):
        raise ValueError("its first line is no JSON object")
    if "event" in first:
        return "journal"
    if "filename" in first or ("label" in first and "answer" not in first):
        return "doccano"
    return "prodigy"
