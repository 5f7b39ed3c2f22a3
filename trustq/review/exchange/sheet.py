"""A table of answers: CSV, Excel or Parquet, a row an answer."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from trustq.core.atomic_files import replacing
from trustq.core.columns import write_parquet
from trustq.core.label_sheets import sheet_columns, write_sheet
from trustq.core.words import plain_text, split_names
from trustq.errors import InputError
from trustq.review.exchange.task import UNSURE, KnownIds, Task, answer_of, known_id, said_by
from trustq.review.journal import Answer

COLUMNS = ("sample_id", "given", "label", "labels", "rater", "note", "seconds", "time")
_NOTES = ("note", "notes")


def write(tasks: Sequence[Task], path: Path) -> Path:
    """Write a row an answer, and one with a blank `label` for what nobody answered.

    Several right labels stand in `labels`, as JSON; the first of them in `label`. Raises
    `TrustqError` for an ending other than .csv, .xlsx and .parquet, and where there is no row.
    """
    rows = [row for task in tasks for row in _rows(task)]
    if not rows:
        raise InputError(f"{path}: there is no row to write.", path=path)
    ending = path.suffix.lower()
    if ending == ".csv":
        write_sheet(path, rows)
    elif ending == ".xlsx":
        write_excel(path, rows)
    elif ending == ".parquet":
        columns = {n: np.array([row[n] for row in rows], dtype=object) for n in COLUMNS}
        write_parquet(path, columns, types=dict.fromkeys(COLUMNS, "VARCHAR"))
    else:
        raise InputError(f"{path}: a sheet ends in .csv, .xlsx or .parquet.", path=path)
    return path


def write_excel(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    """Rows, at least one, as the first sheet of an Excel file; texts are never formulas."""
    import openpyxl

    book = openpyxl.Workbook()
    page = book.active
    page.title = "labels"
    names = list(rows[0])
    for column, name in enumerate(names, 1):
        page.cell(1, column, name).font = openpyxl.styles.Font(bold=True)
    for number, row in enumerate(rows, 2):
        for column, name in enumerate(names, 1):
            cell = page.cell(number, column, row[name])
            if isinstance(row[name], str):
                cell.data_type = "s"
    page.freeze_panes = "A2"
    with replacing(path) as part:
        book.save(part)


def _rows(task: Task) -> list[dict[str, Any]]:
    blank: dict[str, Any] = dict.fromkeys(COLUMNS, "")
    blank |= {"sample_id": task.sample_id, "given": task.given}
    rows = []
    for answer in task.answers:
        said = said_by(answer)
        rows.append(
            blank
            | {
                "label": said[0] if said else "",
                "labels": json.dumps(said, ensure_ascii=False) if len(said) > 1 else "",
                "rater": answer.rater,
                "note": answer.note,
                "seconds": "" if answer.seconds is None else str(answer.seconds),
                "time": answer.time,
            }
        )
    return rows or [blank]


def read(rows: list[dict[str, Any]], ids: KnownIds, *, rater: str, where: str) -> list[Answer]:
    """Answers of the rows whose `label` is filled in; a lone "?" there is: cannot tell."""
    by, of_label = sheet_columns(list(rows[0]), ("label",), where=where)
    answers: list[Answer] = []
    said: dict[tuple[str, str], list[str]] = {}
    for row in rows:
        row = {name.lower(): value for name, value in row.items()} | row
        label = "" if row[of_label] is None else str(row[of_label]).strip()
        if not label:
            continue
        labels = _several(row.get("labels"), label, where)
        sample_id = known_id(row[by], None, ids, where=where)
        note = next((str(row[name]) for name in _NOTES if row.get(name)), "")
        who, time = plain_text(row.get("rater")) or rater, plain_text(row.get("time"))
        if said.setdefault((sample_id, who), labels) != labels and not time:
            raise InputError(f"{where}: {sample_id!r} is answered in two ways by {who}.")
        answers.append(
            answer_of(
                "sheet", sample_id, labels, rater=who, note=note, seconds=row.get("seconds"),
                time=time,
            )
        )  # fmt: skip
    return answers


def _several(value: Any, label: str, where: str) -> list[str]:
    """All labels of a row: of its cell `labels`, a list or one as text, or else its `label`."""
    if isinstance(value, np.ndarray | list | tuple):
        return [plain_text(one) for one in value]
    text = plain_text(value)
    if text.startswith("["):
        return split_names(text)
    if text not in ("", label):
        raise InputError(
            f"{where}: labels is {text!r} beside the label {label!r}; expected several as a JSON "
            'array, e.g. ["a", "b"], or nothing.'
        )
    return [UNSURE if label == "?" else label]
