"""FiftyOne's image classification labels (`labels.json`) and its own datasets (`samples.json`).

Tried with fiftyone 1.22.1, the first both ways. `labels.json` holds one label a sample and no
raters, so several right labels do not fit and are refused. A dataset holds tags too: `unsure` and
`off-topic` are answers, and where any sample is tagged `checked` the others were not answered.
"""

import json
from collections.abc import Sequence
from typing import Any

from trustq.core.counts import counted
from trustq.core.words import plain_text, whole_number
from trustq.errors import InputError
from trustq.review.exchange.task import (
    BESIDE,
    OFF_TOPIC,
    UNSURE,
    KnownIds,
    Task,
    answer_of,
    known_id,
    said_by,
)
from trustq.review.journal import Answer


def write(tasks: Sequence[Task], classes: Sequence[str]) -> str:
    """Labels by sample: the answer, or the given label where nobody answered.

    Raises `TrustqError` where a row has several answers or several right labels.
    """
    names = [*classes, *BESIDE]
    labels = {}
    for task in tasks:
        said = [said_by(a) for a in task.answers]
        if len(said) > 1 or any(len(one) > 1 for one in said):
            raise InputError(
                f"{task.sample_id} has several answers or labels, which FiftyOne's classification "
                "labels cannot hold. Write another form, or one a rater."
            )
        labels[task.sample_id] = names.index(said[0][0] if said and said[0] else task.given)
    return json.dumps({"classes": names, "labels": labels}, ensure_ascii=False, indent=1) + "\n"


def read(found: Any, ids: KnownIds, *, rater: str, where: str) -> list[Answer]:
    """Labels by sample, as indices of the classes, or as names; null was not labelled.

    Where the file names no classes, each label is a name.
    """
    classes, answers = found.get("classes") or [], []
    for key, target in found["labels"].items():
        if isinstance(target, dict):  # with attributes
            target = target.get("label")
        if target is None:
            continue
        label = _named(target, classes, where)
        sample_id = known_id(key, key, ids, where=where)
        answers.append(answer_of("fiftyone", sample_id, [label], rater=rater))
    return answers


def _named(target: Any, classes: Sequence[str], where: str) -> str:
    """A class by its name or its place; no place below 0, which Python counts from the end."""
    place = whole_number(plain_text(target)) if classes and target not in classes else None
    if place is None:
        return plain_text(target)
    if not 0 <= place < len(classes):
        raise InputError(
            f"{where}: a label is {place}, and the {counted(len(classes), 'class')} of the file "
            f"are counted from 0 to {len(classes) - 1}."
        )
    return str(classes[place])


def read_dataset(found: Any, ids: KnownIds, *, rater: str, where: str) -> list[Answer]:
    """Classification labels and tags of a dataset's samples.

    The labels are of the field ground_truth, or of the only one that has any. Raises `TrustqError`
    where several have, so that it is not known which one people filled in.
    """
    samples = found["samples"]
    field = _label_field(samples, where)
    is_marked = any("checked" in sample["tags"] for sample in samples)
    answers = []
    for sample in samples:
        tags = set(sample["tags"])
        if is_marked and "checked" not in tags and not tags & _TAGS.keys():
            continue
        labels = [_TAGS[tag] for tag in _TAGS if tag in tags] or _labels_of(sample.get(field))
        if labels:
            sample_id = known_id(sample.get("sample_id"), sample["filepath"], ids, where=where)
            answers.append(answer_of("fiftyone", sample_id, labels, rater=rater))
    return answers


_TAGS = {"unsure": UNSURE, "off-topic": OFF_TOPIC}


def _label_field(samples: Sequence[Any], where: str) -> str:
    fields = sorted(
        {name for sample in samples for name, value in sample.items() if _labels_of(value)}
    )
    if "ground_truth" in fields or not fields:
        return "ground_truth"
    if len(fields) > 1:
        raise InputError(
            f"{where} has labels in the fields {', '.join(fields)}. Call the one that people "
            "filled in ground_truth.",
            expected=("ground_truth",),
            found=fields,
        )
    return str(fields[0])


def _labels_of(value: Any) -> list[str]:
    """Labels of a sample's field that is a classification or several."""
    if not isinstance(value, dict):
        return []
    several = value.get("classifications") if value.get("_cls") == "Classifications" else [value]
    return [
        str(one["label"])
        for one in several or []
        if one.get("_cls") == "Classification" and one.get("label") is not None
    ]
