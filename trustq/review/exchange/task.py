"""What all forms share: a task, an answer from elsewhere as one of ours, which row it is of."""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import numpy as np

from trustq.core.digest import digest_json
from trustq.core.sample_ids import id_key, nearly, whole_numbers
from trustq.core.words import plain_text
from trustq.errors import InputError
from trustq.review.journal import Answer

# The choices that our tasks offer beside the classes.
UNSURE, OFF_TOPIC = "(cannot tell)", "(off topic)"
BESIDE = {UNSURE: "unsure", OFF_TOPIC: "off-topic"}


def said_by(answer: Answer) -> list[str]:
    """An answer as choices; none where it was skipped."""
    of_kind = {kind: choice for choice, kind in BESIDE.items()}
    return [of_kind[answer.kind]] if answer.kind in of_kind else list(answer.labels)


@dataclass(frozen=True)
class Task:
    """One label to check: `image` is what the tool is given to show, `answers` what was said.

    `suggested` is the model's guess, with its probability, or None where it is not to be shown.
    """

    sample_id: str
    image: str
    given: str
    suggested: str | None = None
    probability: float | None = None
    answers: tuple[Answer, ...] = ()


def answer_of(
    form: str,
    sample_id: str,
    labels: list[str],
    *,
    rater: str,
    note: str = "",
    seconds: Any = None,
    time: Any = None,
) -> Answer:
    """An answer from another tool; the same answer read twice is one event."""
    kind = "label" if labels else "skip"
    for choice, meant in BESIDE.items():
        if choice in labels:
            labels, kind = [], meant
    labels = list(dict.fromkeys(labels))
    time = "" if time is None else str(time)
    event = digest_json([form, rater, sample_id, kind, labels, note, time])
    number = None
    try:
        number = None if seconds in (None, "") else float(seconds)
    except (TypeError, ValueError):
        number = None
    return Answer(event, rater, sample_id, kind, tuple(labels), note, False, number, time)


_UPLOADED = re.compile(r"^[0-9a-f]{6,8}-")  # Label Studio puts this before uploaded files' names


class KnownIds:
    """The rows of an audit, found by id as it is spelt or with another ending of an image file.

    >>> known = KnownIds(["IMD1.jpg", "IMD2.jpg", "IMD2.png"])
    >>> [known.find(text) for text in ("IMD1", "IMD1.PNG", "IMD2.png", "IMD2", "x")]
    ['IMD1.jpg', 'IMD1.jpg', 'IMD2.png', None, None]
    >>> KnownIds(["7", "8"]).find("7.0")
    '7'
    """

    def __init__(self, ids: Iterable[str]) -> None:
        self._exact = set(map(str, ids))
        keys = list(map(id_key, self._exact))
        numbers = whole_numbers(keys)
        self._are_numbers = numbers is not None
        by_key: dict[str, list[str]] = {}
        for own, key in zip(self._exact, numbers or keys, strict=True):
            by_key.setdefault(key, []).append(own)
        self._by_key = {key: same[0] for key, same in by_key.items() if len(same) == 1}

    def find(self, text: str) -> str | None:
        """The id of a row, or None."""
        if text in self._exact:
            return text
        key = id_key(text)
        numbers = whole_numbers([key]) if self._are_numbers else None
        return self._by_key.get(numbers[0] if numbers else key)

    def nearly(self, text: str) -> str:
        """What a message adds of a text that is nearly spelt as a row's id."""
        return nearly([text], np.array(sorted(self._exact)))


def known_id(named: Any, image: Any, ids: KnownIds, *, where: str) -> str:
    """The row that a task is of: by the id it carries, or else by its image's name.

    Raises `TrustqError` where that is no row of the audit.
    """
    if named is not None and (found := ids.find(plain_text(named))) is not None:
        return found
    if image:
        parts = urlsplit(str(image))
        local = parse_qs(parts.query).get("d", [""])[0]  # /data/local-files/?d=PATH
        name = PurePath(unquote(local or parts.path)).name
        for text in (name, _UPLOADED.sub("", name)):
            for candidate in (text, PurePath(text).stem):
                if (found := ids.find(candidate)) is not None:
                    return found
    near = ids.nearly(plain_text(named if named is not None else image))
    raise InputError(
        f"{where}: {named if named is not None else image!r} is no row of this audit{near}. Is the "
        "file of another one? Tasks that trustq wrote carry a sample_id."
    )


def texts(value: Any) -> list[str]:
    """One choice or several, as a list."""
    if value is None or value == "":
        return []
    return [str(one) for one in value] if isinstance(value, list | tuple) else [str(value)]
