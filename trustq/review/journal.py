"""The journal of answers: one line an event, on the disk before it counts, never rewritten."""

import dataclasses
import json
import os
import threading
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from filelock import FileLock, Timeout

from trustq.core.counts import counted
from trustq.errors import InputError, TrustqError

JOURNAL = "answers.jsonl"
KINDS = ("label", "unsure", "off-topic", "skip", "undo")
# Bytes and length alone, which is all that reading needs: the slowest writes take half as long.
_SYNC = getattr(os, "fdatasync", os.fsync)  # macOS has none
LONGEST_TEXT = 2000  # characters of a note, a name or an id


@dataclass(frozen=True)
class Answer:
    """What one rater said of one row.

    `labels` are class names, several where several are right; `kind` is "label", "unsure" (cannot
    tell), "off-topic" (no image of this data set), "skip" (not now) or "undo" (the row is open
    again). `event` is made by the page, so that an answer that is sent twice counts once.
    """

    event: str
    rater: str
    sample_id: str
    kind: str
    labels: tuple[str, ...] = ()
    note: str = ""
    saw_guess: bool = False
    seconds: float | None = None  # from the picture to the answer
    time: str = ""


class Journal:
    """Answers of one audit, in a file that is only ever appended to.

    Opening takes a lock, so that one process writes; a half-written last line, as a kill leaves it,
    is cut off. Reading alone: `read_journal`.
    """

    def __init__(self, path: Path, *, classes: tuple[str, ...]) -> None:
        self.path = Path(path)
        self._classes = classes
        self._guard = threading.Lock()
        self._lock = FileLock(f"{self.path}.lock")
        try:
            self._lock.acquire(timeout=0)
        except Timeout:
            raise InputError(
                f"{self.path} is open in another process. Raters share one server: open its "
                "address in another browser, or stop it first."
            ) from None
        self.answers = read_journal(self.path) if self.path.exists() else []
        self._file = open(self.path, "ab")  # noqa: SIM115 - kept open, closed by `close`
        self._file.truncate(whole_lines(self.path))
        self._events = {answer.event for answer in self.answers}

    def add(self, answer: Answer) -> bool:
        """Append an answer and wait until it is on the disk; False where it was there already.

        Raises `TrustqError` for another kind, labels that are no classes, or texts too long.
        """
        checked(answer, self._classes)
        with self._guard:
            if answer.event in self._events:
                return False
            kept = dataclasses.replace(
                answer, time=answer.time or datetime.now(UTC).isoformat("T", "milliseconds")
            )
            place = self._file.tell()
            try:
                self._file.write(_line(kept))
                self._file.flush()
                _SYNC(self._file.fileno())
            except OSError as error:
                self._file.truncate(place)
                raise TrustqError(
                    f"{self.path} could not be written: {os.strerror(error.errno or 0).lower()}. "
                    "The answer was not counted; free the disk and answer again."
                ) from error
            self.answers.append(kept)
            self._events.add(kept.event)
        return True

    @property
    def closed(self) -> bool:
        """Whether the file was closed."""
        return self._file.closed

    def close(self) -> None:
        """Close the file and let others write it."""
        self._file.close()
        self._lock.release()


def checked(answer: Answer, classes: tuple[str, ...]) -> None:
    """Raise `TrustqError` for an answer that is none."""
    if answer.kind not in KINDS:
        raise InputError(
            f"unknown kind of answer {answer.kind!r}; expected {', '.join(KINDS)}.", expected=KINDS
        )
    unknown = [label for label in answer.labels if label not in classes]
    if unknown:
        raise InputError(
            f"unknown class {unknown[0]!r}; expected one of {', '.join(classes)}.", expected=classes
        )
    if (answer.kind == "label") != bool(answer.labels):
        raise InputError(
            f"An answer of kind {answer.kind!r} with {counted(len(answer.labels), 'label')}."
        )
    if len(set(answer.labels)) < len(answer.labels):
        raise InputError("An answer names one label twice.")
    for name in ("event", "rater", "sample_id", "note"):
        text = getattr(answer, name)
        if len(text) > LONGEST_TEXT or (name != "note" and not text.strip()):
            raise InputError(
                f"{name} has {counted(len(text), 'character')}; expected 1 to {LONGEST_TEXT}."
            )


def read_journal(path: Path) -> list[Answer]:
    """All events of a journal in their order; a half-written last line is left out.

    Raises `TrustqError` with the line for what is no answer.
    """
    try:
        content = Path(path).read_bytes()
    except OSError as error:
        raise InputError(f"{path} could not be read: {error.strerror}.", path=path) from error
    answers = []
    for number, line in enumerate(content[: whole_lines(path)].splitlines(), 1):
        try:
            fields = json.loads(line)
            answers.append(Answer(**{**fields, "labels": tuple(fields["labels"])}))
        except (ValueError, TypeError, KeyError, RecursionError):
            raise InputError(
                f"{path}, line {number}: not an answer of a review of trustq: {line[:80]!r}. Save "
                "answers of another tool as a table, e.g. CSV.",
                path=path,
            ) from None
    return answers


def whole_lines(path: Path) -> int:
    """Bytes of a file up to its last line end."""
    content = Path(path).read_bytes() if Path(path).exists() else b""
    return content.rfind(b"\n") + 1


def standing(answers: Iterable[Answer]) -> dict[tuple[str, str], Answer]:
    """The answer that stands of each rater and row: the last that was not undone or skipped."""
    found: dict[tuple[str, str], Answer] = {}
    for answer in answers:
        key = answer.rater, answer.sample_id
        if answer.kind in ("undo", "skip"):
            found.pop(key, None)
        else:
            found[key] = answer
    return found


def _line(answer: Answer) -> bytes:
    fields = dataclasses.asdict(answer)
    return (json.dumps(fields, ensure_ascii=False) + "\n").encode("utf-8")
