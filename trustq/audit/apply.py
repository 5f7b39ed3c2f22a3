"""From a list of suspects and people's answers to a cleaned list of labels."""

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from trustq.audit.folder import StoredAudit
from trustq.core.column_names import ID_COLUMNS, called, first_called
from trustq.core.columns import Columns, read_table
from trustq.core.counts import counted
from trustq.core.label_sheets import read_sheet
from trustq.core.sample_ids import find_ids, nearly
from trustq.core.words import plain_texts
from trustq.errors import InputError
from trustq.statistics.paired import Interval, share_interval

ACTIONS = ("relabel", "drop", "prune")


@dataclass(frozen=True)
class Cleaned:
    """Labels after an audit: `columns` are those of the file, one row an audited label.

    A label that a person gave is `trusted`: it was paid for, and the next audit does not list it.

    `precision` is the share of answered suspects that people found wrong, with Wilson's interval;
    NaN where none was answered.
    """

    columns: Columns
    n_relabelled: int
    n_dropped: int
    n_unchecked: int  # changes that no answer asked for
    n_held_back: int  # by the cap
    n_answered: int
    n_wrong: int
    precision: Interval
    by_class: dict[str, tuple[int, int]]  # given class -> labels, changed


def read_answers(path: Path, *, classes: tuple[str, ...]) -> dict[str, str]:
    """Answers by sample id from a sheet with `sample_id` and `label`; a blank label is no answer.

    Raises `TrustqError` for a missing column, a sheet without any answer, an id that is answered
    twice, or a label that is no class.
    """
    answers = {}
    for sample_id, given in read_sheet(Path(path), classes=classes).items():
        if len(given) > 1:
            raise InputError(
                f"{path}: sample_id {sample_id!r} is answered {len(given)} times; give one answer "
                "each.",
                path=path,
            )
        answers[sample_id] = classes[given[0]]
    return answers


def apply_answers(
    audit: StoredAudit,
    *,
    action: str = "relabel",
    answers: dict[str, str] | None = None,
    accept_suggestions: bool = False,
    max_per_class: float = 0.2,
    off_topic: Collection[str] = (),
) -> Cleaned:
    """Relabel or drop what people found wrong and, where that is accepted, what only the list says.

    An answer equal to the given label keeps it. Listed labels without an answer are left as they
    are unless `accept_suggestions`. Of each given class at most the share `max_per_class` is
    dropped, or relabelled without an answer, most suspicious first; labels that a person gave are
    never held back. `prune` leaves every label as it is and leaves out the rows that people called
    `off_topic`, by sample id. Raises `TrustqError` for another action, a share outside [0, 1],
    answers of rows that were not audited, and where there is nothing to act on.
    """
    if action not in ACTIONS:
        raise InputError(
            f"`action={action}`: expected {', '.join(ACTIONS)}.", where="action", found=action
        )
    if not 0 <= max_per_class <= 1:
        raise InputError(
            f"`max_per_class={max_per_class:g}`: expected a share from 0 to 1.",
            where="max_per_class",
            found=max_per_class,
        )
    answers = answers or {}
    if action == "prune":
        return _pruned(audit, off_topic)
    if not answers and not accept_suggestions:
        raise InputError(
            f"No label of {audit.folder} was answered, so nothing is known to be wrong. Fill in "
            "answers.csv and pass it with `answers`, or `accept_suggestions` acts on the list "
            "unchecked."
        )
    answers = _as_audited(audit, answers)
    position = {sample_id: row for row, sample_id in enumerate(audit.sample_ids.tolist())}
    n = len(audit.given)
    label, acts = audit.given.copy(), np.full(n, "keep", dtype=object)
    reason = np.full(n, "not suspected", dtype=object)
    reason[audit.listed] = "suspected, not answered"
    reason[audit.trusted] = "trusted from the start"
    room = {c: int(max_per_class * int((audit.given == c).sum())) for c in audit.classes}
    held_back = unchecked = 0
    for row in _by_suspicion(audit, answers, position):
        sample_id, given = str(audit.sample_ids[row]), str(audit.given[row])
        answer = answers.get(sample_id)
        if answer == given:
            reason[row] = "answered: as given"
            continue
        if answer is None and not accept_suggestions:
            continue
        new = str(audit.suggested[row]) if answer is None else answer
        why = "suggested, not checked" if answer is None else f"answered: {answer}"
        if action == "drop" or answer is None:
            if not room[given]:
                held_back += 1
                reason[row] = f"{why}; held back: {max_per_class:.0%} of class {given} at most"
                continue
            room[given] -= 1
        acts[row], reason[row] = action, why
        unchecked += answer is None
        label[row] = None if action == "drop" else new
    changed = acts != "keep"
    answered = [position[sample_id] for sample_id in answers]
    # Not where a person said otherwise and the cap kept the row, nor where it is gone.
    trusted = [
        is_trusted if answer is None else answer == now
        for is_trusted, answer, now in zip(
            audit.trusted & (acts != "drop"),
            map(answers.get, audit.sample_ids.tolist()),
            label.tolist(),
            strict=True,
        )
    ]
    suspects = [row for row in answered if audit.listed[row]]
    wrong = sum(answers[str(audit.sample_ids[row])] != audit.given[row] for row in suspects)
    return Cleaned(
        columns={
            "sample_id": audit.sample_ids,
            "label": label,
            "given": audit.given,
            "suggested": audit.suggested,
            "action": acts,
            "reason": reason,
            "trusted": np.array(trusted, dtype=bool),
        },
        n_relabelled=int((acts == "relabel").sum()),
        n_dropped=int((acts == "drop").sum()),
        n_unchecked=unchecked,
        n_held_back=held_back,
        n_answered=len(suspects),
        n_wrong=wrong,
        precision=share_interval(wrong, len(suspects)),
        by_class={
            c: (int((audit.given == c).sum()), int((changed & (audit.given == c)).sum()))
            for c in audit.classes
        },
    )


def read_off_topic(path: Path) -> set[str]:
    """Ids of rows that a review's sheet calls off topic; none where it has no such column."""
    table = read_table(Path(path))
    key, name = first_called(table, ID_COLUMNS), called(table, "off_topic")
    if key is None or name is None:
        return set()
    pairs = zip(plain_texts(table[key]), plain_texts(table[name]), strict=True)
    return {sample_id for sample_id, said in pairs if said.lower() in _YES}


_YES = ("yes", "true", "1", "x")


def _pruned(audit: StoredAudit, off_topic: Collection[str]) -> Cleaned:
    """Every label as given, without the rows that people called off topic."""
    if not off_topic:
        raise InputError(
            f"No row of {audit.folder} was called off topic, so there is nothing to prune. Answer "
            "so in a review (key O), or fill in the column off_topic, and pass `answers`."
        )
    ids = [str(sample_id) for sample_id in audit.sample_ids.tolist()]
    called = sorted(set(off_topic))
    rows = find_ids(called, audit.sample_ids, source="The answers")
    strangers = [text for text, row in zip(called, rows, strict=True) if row is None]
    if strangers:
        raise InputError(
            f"The answers name {strangers[0]!r}, which {audit.folder} did not audit "
            f"({counted(len(strangers), 'such id')}){nearly(strangers, audit.sample_ids)}. Are "
            "they of another audit?"
        )
    gone = np.isin(np.arange(len(ids)), [row for row in rows if row is not None])
    label, acts = audit.given.copy(), np.full(len(ids), "keep", dtype=object)
    reason = np.full(len(ids), "not called off topic", dtype=object)
    label[gone], acts[gone], reason[gone] = None, "prune", "answered: off topic"
    return Cleaned(
        columns={
            "sample_id": audit.sample_ids,
            "label": label,
            "given": audit.given,
            "suggested": audit.suggested,
            "action": acts,
            "reason": reason,
            "trusted": audit.trusted & ~gone,
        },
        n_relabelled=0,
        n_dropped=int(gone.sum()),
        n_unchecked=0,
        n_held_back=0,
        n_answered=0,
        n_wrong=0,
        precision=share_interval(0, 0),
        by_class={
            c: (int((audit.given == c).sum()), int((gone & (audit.given == c)).sum()))
            for c in audit.classes
        },
    )


def _as_audited(audit: StoredAudit, answers: dict[str, str]) -> dict[str, str]:
    """Answers by the ids as the audit spells them."""
    rows = find_ids(list(answers), audit.sample_ids, source="The answers")
    strangers = [text for text, row in zip(answers, rows, strict=True) if row is None]
    if strangers:
        raise InputError(
            f"The answers name {strangers[0]!r}, which {audit.folder} did not audit "
            f"({counted(len(strangers), 'such id')}){nearly(strangers, audit.sample_ids)}. Are "
            "they of another audit?"
        )
    own: dict[str, str] = {}
    for answer, row in zip(answers.values(), rows, strict=True):
        sample_id = str(audit.sample_ids[row])
        if own.setdefault(sample_id, answer) != answer:
            raise InputError(
                f"The answers name {sample_id!r} twice, with two labels; give one answer each."
            )
    return own


def _by_suspicion(
    audit: StoredAudit, answers: dict[str, str], position: dict[str, int]
) -> list[int]:
    """Rows to act on: the list in its order, then answered rows that are not on it."""
    listed: list[int] = audit.order.tolist()
    others = [position[i] for i in answers if not audit.listed[position[i]]]
    return listed + sorted(others, key=lambda row: (audit.rank[row] == 0, audit.rank[row], row))
