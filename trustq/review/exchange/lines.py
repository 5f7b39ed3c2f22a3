"""Prodigy and doccano: JSON, a line a task, by the forms that their manuals document."""

import json
from collections.abc import Sequence
from typing import Any

from trustq.review.exchange.task import (
    BESIDE,
    UNSURE,
    KnownIds,
    Task,
    answer_of,
    known_id,
    said_by,
    texts,
)
from trustq.review.journal import Answer


def write_prodigy(tasks: Sequence[Task], classes: Sequence[str]) -> str:
    """Tasks of the `choice` interface; answers as annotated examples, a line a rater."""
    options = [{"id": name, "text": name} for name in (*classes, *BESIDE)]
    lines = []
    for task in tasks:
        one: dict[str, Any] = {
            "image": task.image,
            "options": options,
            "config": {"choice_style": "multiple"},
            "meta": {"sample_id": task.sample_id, "given": task.given},
        }
        if task.suggested is not None:
            one["accept"] = [task.suggested]
        lines += [one | _example(answer) for answer in task.answers] or [one]
    return _lines(lines)


def _example(answer: Answer) -> dict[str, Any]:
    said = said_by(answer)
    return {
        "accept": said,
        "answer": "ignore" if answer.kind == "skip" else "accept",
        "_annotator_id": answer.rater,
        "note": answer.note,
        "seconds": answer.seconds,
        "time": answer.time,
    }


def read_prodigy(lines: list[Any], ids: KnownIds, *, rater: str, where: str) -> list[Answer]:
    """Accepted choices, or an accepted `label`; ignored tasks are no answers.

    A rejected `label` says that it is wrong and not what is right: cannot tell, with a note.
    """
    answers = []
    for line in lines:
        if line.get("answer") not in ("accept", "reject"):
            continue
        meta = line.get("meta") or {}
        sample_id = known_id(meta.get("sample_id"), line.get("image"), ids, where=where)
        labels = texts(line.get("accept", line.get("label")))
        note = str(line.get("note") or "")
        if line["answer"] == "reject":
            note, labels = f"not {' or '.join(labels)}" if labels else note, [UNSURE]
        who = line.get("_annotator_id") or line.get("_session_id") or rater
        answers.append(
            answer_of(
                "prodigy", sample_id, labels, rater=str(who), note=note,
                seconds=line.get("seconds"), time=line.get("time", line.get("_timestamp")),
            )
        )  # fmt: skip
    return answers


def write_doccano(tasks: Sequence[Task], classes: Sequence[str]) -> str:
    """Image files with their labels; `user` is a field of ours, for doccano has a file a user."""
    lines = []
    for number, task in enumerate(tasks, 1):
        one: dict[str, Any] = {
            "id": number,
            "filename": task.image or task.sample_id,
            "sample_id": task.sample_id,
        }
        for answer in task.answers:
            said = said_by(answer)
            comments = [answer.note] if answer.note else []
            more = {"user": answer.rater, "time": answer.time, "seconds": answer.seconds}
            lines.append(one | {"label": said, "Comments": comments} | more)
        if not task.answers:
            lines.append(one | {"label": [] if task.suggested is None else [task.suggested]})
    return _lines(lines)


def read_doccano(lines: list[Any], ids: KnownIds, *, rater: str, where: str) -> list[Answer]:
    """Labelled images; one without a label was not answered."""
    answers = []
    for line in lines:
        labels = texts(line.get("label"))
        if not labels:
            continue
        sample_id = known_id(line.get("sample_id"), line.get("filename"), ids, where=where)
        notes = texts(line.get("Comments") or line.get("comments"))
        answers.append(
            answer_of(
                "doccano", sample_id, labels, rater=str(line.get("user") or rater),
                note="; ".join(notes), seconds=line.get("seconds"), time=line.get("time"),
            )
        )  # fmt: skip
    return answers


def _lines(found: list[dict[str, Any]]) -> str:
    return "".join(json.dumps(one, ensure_ascii=False) + "\n" for one in found)
