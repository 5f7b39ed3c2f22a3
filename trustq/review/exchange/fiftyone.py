"""FiftyOne's FiftyOneImageClassificationDataset: `labels.json`, by its documented form.

It holds one label a sample and no raters, so several right labels do not fit and are refused.
"""

import json
from collections.abc import Collection, Sequence
from typing import Any

from trustq.errors import InputError
from trustq.review.exchange.task import BESIDE, Task, answer_of, known_id, said_by
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


def read(found: Any, ids: Collection[str], *, rater: str, where: str) -> list[Answer]:
    """Labels by sample, as indices of the classes or as names; null was not labelled."""
    classes, answers = found["classes"], []
    for key, target in found["labels"].items():
        if isinstance(target, dict):  # with attributes
            target = target.get("label")
        if target is None:
            continue
        label = classes[target] if isinstance(target, int) else str(target)
        sample_id = known_id(key, key, ids, where=where)
        answers.append(answer_of("fiftyone", sample_id, [label], rater=rater))
    return answers
