"""Argilla's records, as its `records.to_json` and `Dataset.to_disk` write them: a JSON list."""

import json
import uuid
from collections.abc import Sequence
from typing import Any

from trustq.errors import InputError
from trustq.review.exchange.task import KnownIds, Task, answer_of, known_id, said_by, texts
from trustq.review.journal import Answer

LABEL, NOTE, RATERS = "label", "note", "raters"  # two questions, and metadata that names the users


def is_record(found: Any) -> bool:
    """Whether an object has the parts of a record."""
    return isinstance(found, dict) and {"fields", "responses", "suggestions"} <= set(found)


def write(tasks: Sequence[Task], classes: Sequence[str]) -> str:
    """Records with the questions `label` (several choices) and `note`, a response a rater.

    Users are UUIDs in Argilla, so the metadata `raters` names them. Images are an image field's
    addresses, the model's guess a suggestion.
    """
    return json.dumps([_record(task) for task in tasks], ensure_ascii=False, indent=1) + "\n"


def _record(task: Task) -> dict[str, Any]:
    users = {a.rater: str(uuid.uuid5(uuid.NAMESPACE_OID, a.rater)) for a in task.answers}
    responses: dict[str, list[dict[str, Any]]] = {}
    for answer in task.answers:
        if said := said_by(answer):
            one = {"value": said, "user_id": users[answer.rater]}
            responses.setdefault(LABEL, []).append(one)
        if answer.note:
            note = {"value": answer.note, "user_id": users[answer.rater]}
            responses.setdefault(NOTE, []).append(note)
    guess = {} if task.suggested is None else {LABEL: _suggestion(task)}
    names = json.dumps({user: name for name, user in users.items()}, ensure_ascii=False)
    return {
        "id": task.sample_id,
        "fields": {"image": task.image},
        "metadata": {"sample_id": task.sample_id, "given": task.given}
        | ({RATERS: names} if users else {}),
        "suggestions": guess,
        "responses": responses,
        "vectors": {},
        "status": "completed" if responses else "pending",
        "_server_id": None,
    }


def _suggestion(task: Task) -> dict[str, Any]:
    return {"value": [task.suggested], "score": None, "type": "model", "agent": "trustq"}


def read(records: list[Any], ids: KnownIds, *, rater: str, where: str) -> list[Answer]:
    """Responses to the question `label`, or to the only one but notes; suggestions are no answers.

    A record nobody responded to, and a response without a value (discarded), were not answered.
    Raises `TrustqError` where several other questions are there and none is `label`.
    """
    answers = []
    question = _question(records, where)
    for record in records:
        metadata = record.get("metadata") or {}
        responses = record["responses"] or {}
        names = json.loads(metadata.get(RATERS) or "{}")
        notes = {one["user_id"]: str(one["value"] or "") for one in responses.get(NOTE) or []}
        image = next((v for v in (record.get("fields") or {}).values() if isinstance(v, str)), None)
        for one in responses.get(question) or []:
            user = str(one.get("user_id") or "")
            labels = texts(one.get("value"))
            if not labels:
                continue
            sample_id = known_id(
                metadata.get("sample_id", record.get("id")), image, ids, where=where
            )
            answers.append(
                answer_of(
                    "argilla", sample_id, labels, rater=names.get(user) or user or rater,
                    note=notes.get(one.get("user_id"), ""),
                )
            )  # fmt: skip
    return answers


def _question(records: list[Any], where: str) -> str:
    asked = {name for record in records for name in record["responses"] or {}} - {NOTE}
    if LABEL in asked or not asked:
        return LABEL
    if len(asked) > 1:
        raise InputError(
            f"{where}: responses to {', '.join(sorted(asked))}. Name the question on the class "
            "label, so that it is known which it is."
        )
    return str(asked.pop())
