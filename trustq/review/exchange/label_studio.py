"""Label Studio: tasks with predictions out; JSON, JSON-MIN and CSV exports in.

Tried on files of label-studio-sdk's converter 2.1.2. A skipped task
(`was_cancelled`) is no answer; several annotators are several raters; several choices are several
right labels.
"""

import json
from collections.abc import Sequence
from typing import Any

from trustq.review.exchange.task import BESIDE, KnownIds, Task, answer_of, known_id, said_by, texts
from trustq.review.journal import Answer

LABEL, NOTE = "label", "note"  # names of the controls in the labeling configuration


def labeling_config(classes: Sequence[str]) -> str:
    """The labeling configuration of our tasks, XML.

    >>> print(labeling_config(["a < b"]).splitlines()[4])
        <Choice value="a &lt; b"/>
    """
    from xml.sax.saxutils import quoteattr

    choices = "\n".join(f"    <Choice value={quoteattr(name)}/>" for name in (*classes, *BESIDE))
    return (
        '<View>\n  <Image name="image" value="$image"/>\n  <Text name="given" value="$given"/>\n'
        f'  <Choices name="{LABEL}" toName="image" choice="multiple" showInline="true">\n{choices}'
        f'\n  </Choices>\n  <TextArea name="{NOTE}" toName="image"/>\n</View>\n'
    )


def write(tasks: Sequence[Task], classes: Sequence[str]) -> str:
    """Tasks as Label Studio imports them, with predictions and annotations where there are any."""
    found = []
    for number, task in enumerate(tasks, 1):
        one: dict[str, Any] = {
            "id": number,
            "data": {"image": task.image, "sample_id": task.sample_id, "given": task.given},
        }
        if task.suggested is not None:
            one["predictions"] = [
                {
                    "model_version": "trustq",
                    "score": task.probability,
                    "result": [_choices([task.suggested])],
                }
            ]
        if task.answers:
            one["annotations"] = [_annotation(answer) for answer in task.answers]
        found.append(one)
    return json.dumps(found, ensure_ascii=False, indent=1) + "\n"


def _choices(labels: list[str]) -> dict[str, Any]:
    value = {"choices": labels}
    return {"from_name": LABEL, "to_name": "image", "type": "choices", "value": value}


def _annotation(answer: Answer) -> dict[str, Any]:
    said = said_by(answer)
    result = [_choices(said)] if said else []
    if answer.note:
        value = {"text": [answer.note]}
        note = {"from_name": NOTE, "to_name": "image", "type": "textarea", "value": value}
        result.append(note)
    return {
        "completed_by": {"email": answer.rater},
        "was_cancelled": answer.kind == "skip",
        "lead_time": answer.seconds,
        "created_at": answer.time,
        "result": result,
    }


def read_json(found: list[Any], ids: KnownIds, *, rater: str, where: str) -> list[Answer]:
    """Answers of a JSON or JSON-MIN export."""
    answers = []
    for task in found:
        if "data" in task:
            answers += _full(task, ids, rater, where)
        else:
            answers += _minimal(task, ids, rater, where)
    return answers


def _full(task: Any, ids: KnownIds, rater: str, where: str) -> list[Answer]:
    data = task["data"]
    sample_id = known_id(data.get("sample_id"), data.get("image"), ids, where=where)
    answers = []
    for one in task.get("annotations") or task.get("completions") or []:
        if one.get("was_cancelled") or one.get("skipped"):
            continue
        labels: list[str] = []
        notes: list[str] = []
        for result in one.get("result") or []:
            value = result.get("value") or {}
            if result.get("type") == "choices":
                labels += texts(value.get("choices"))
            elif result.get("type") == "textarea":
                notes += texts(value.get("text"))
        said = answer_of(
            "label-studio",
            sample_id,
            labels,
            rater=_annotator(one.get("completed_by"), rater),
            note="; ".join(notes),
            seconds=one.get("lead_time"),
            time=one.get("created_at"),
        )
        answers.append(said)
    return answers


def _minimal(task: Any, ids: KnownIds, rater: str, where: str) -> list[Answer]:
    """A task of JSON-MIN, or a row of CSV: the controls by their names, an annotation each."""
    sample_id = known_id(task.get("sample_id"), task.get("image"), ids, where=where)
    value = task.get(LABEL, task.get("choice"))
    if isinstance(value, str) and value.startswith('{"choices"'):  # several, in CSV
        value = json.loads(value)
    labels = texts(value.get("choices") if isinstance(value, dict) else value)
    if not labels:
        return []
    note = task.get(NOTE)
    if isinstance(note, str) and note.startswith('{"text"'):
        note = json.loads(note)
    note = note.get("text") if isinstance(note, dict) else note
    return [
        answer_of(
            "label-studio",
            sample_id,
            labels,
            rater=_annotator(task.get("annotator"), rater),
            note="; ".join(texts(note)),
            seconds=task.get("lead_time"),
            time=task.get("created_at"),
        )
    ]


def read_rows(rows: list[dict[str, Any]], ids: KnownIds, *, rater: str, where: str) -> list[Answer]:
    """Answers of a CSV export."""
    return [answer for row in rows for answer in _minimal(row, ids, rater, where)]


def _annotator(who: Any, rater: str) -> str:
    if isinstance(who, dict):
        who = who.get("email") or who.get("username") or who.get("id")
    return rater if who in (None, "") else str(who)
