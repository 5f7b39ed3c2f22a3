"""A review: rows in their order, answers as they come, and what they say of the rest."""

import json
import secrets
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np

from trustq.audit.folder import ANSWERS, StoredAudit, read_audit_folder
from trustq.core.atomic_files import replacing
from trustq.core.columns import read_table
from trustq.core.counts import counted
from trustq.core.label_sheets import write_sheet
from trustq.errors import InputError
from trustq.review.agreement import Consensus, cohen_kappa, krippendorff_alpha, said_of
from trustq.review.estimate import Outlook, outlook
from trustq.review.exchange.task import Task
from trustq.review.journal import JOURNAL, Answer, Journal
from trustq.review.queue import Plan, unlisted_rows
from trustq.statistics.confidence_sequence import ShareBound, share_bound

PLAN = "review.json"
FORMAT = "trustq.review"


class ReviewSession:
    """One audit under review: `queue` holds positions of rows, `journal` what people answered.

    What stands is kept as answers come, so that an answer costs the same after ten as after 50,000.
    """

    def __init__(self, audit: StoredAudit, plan: Plan, journal: Journal) -> None:
        self.audit, self.plan, self.journal = audit, plan, journal
        self._drawn = plan.queue(audit)
        self.queue, self.sampled = self._drawn.rows, self._drawn.sampled
        self._row_of = dict(zip(map(str, audit.sample_ids.tolist()), count(), strict=False))
        self._guard = threading.RLock()
        self._kept: dict[str, dict[str, Answer]] = {}  # by sample id and rater
        self._said: dict[str, Consensus] = {}
        self._verdicts: dict[int, bool | None] = {}  # by row
        self._listed_said: Counter[bool | None] = Counter()  # listed rows that stand, by verdict
        self._own: Counter[str] = Counter()  # rows that stand, by rater
        self._outlook: tuple[int, Outlook] | None = None
        self._outlook_until = 0.0  # of the monotonic clock
        self._bound: tuple[list[bool], float, ShareBound] | None = None
        self._members: dict[Any, list[int]] | None = None  # rows of a group with one given label
        self._n_unlisted = len(unlisted_rows(audit))
        for answer in journal.answers:
            self._take(answer, decide=False)
        for sample_id in self._kept:
            self._decide(sample_id)

    def row_of(self, sample_id: str) -> int:
        """Position of a row by its id; raises `TrustqError` where the audit has none."""
        row = self._row_of.get(sample_id)
        if row is None:
            raise InputError(f"{self.audit.folder} has no row {sample_id!r}.")
        return row

    def answer(self, answer: Answer) -> bool:
        """Keep an answer; False where it was kept before. Raises `TrustqError` for a bad one."""
        self.row_of(answer.sample_id)
        with self._guard:
            is_new = self.journal.add(answer)
            if is_new:
                self._take(self.journal.answers[-1])
        return is_new

    def _take(self, answer: Answer, *, decide: bool = True) -> None:
        """Let an answer stand, or the earlier one fall."""
        own = self._kept.setdefault(answer.sample_id, {})
        before = answer.rater in own
        if answer.kind in ("undo", "skip"):
            own.pop(answer.rater, None)
        else:
            own[answer.rater] = answer
        self._own[answer.rater] += (answer.rater in own) - before
        if decide:
            self._decide(answer.sample_id)

    def _decide(self, sample_id: str) -> None:
        row, own = self._row_of.get(sample_id), self._kept[sample_id]
        if row is not None and row in self._verdicts:
            before = self._verdicts.pop(row)
            self._listed_said[before] -= bool(self.audit.listed[row])
        if not own:
            self._said.pop(sample_id, None)
            return
        self._said[sample_id] = said_of(own.values())
        if row is not None:
            found = self.is_wrong(sample_id, self._said[sample_id])
            self._verdicts[row] = found
            self._listed_said[found] += bool(self.audit.listed[row])

    def standing(self) -> dict[tuple[str, str], Answer]:
        """The answers that stand, by rater and sample id."""
        with self._guard:
            return {
                (rater, sample_id): answer
                for sample_id, own in self._kept.items()
                for rater, answer in own.items()
            }

    def answers_of(self, rater: str) -> dict[str, Answer]:
        """The answers of a rater that stand, by sample id."""
        with self._guard:
            return {s: own[rater] for s, own in self._kept.items() if rater in own}

    def consensus(self) -> dict[str, Consensus]:
        """What raters say together, by sample id."""
        with self._guard:
            return dict(self._said)

    def outlook(self, *, fresh: bool = True) -> Outlook:
        """How many labels are wrong by what was answered, and what the next answers bring.

        Unless `fresh`, one of the last two seconds will do once there are 20 answers, or one of up
        to a fiftieth fewer, which it then says: answers given fast do not wait for it.
        """
        with self._guard:
            n = len(self.journal.answers)
            slack = 0
            if not fresh and n >= 20:
                slack = max(n // 50, 20 if time.monotonic() < self._outlook_until else 0)
            if self._outlook is None or not self._outlook[0] <= n <= self._outlook[0] + slack:
                seconds = [
                    answer.seconds
                    for answer in self.journal.answers[-500:]
                    if answer.kind == "label" and answer.seconds
                ]
                found = outlook(self.audit, self._drawn, self._verdicts, seconds)
                self._outlook = n, found
                self._outlook_until = time.monotonic() + 2
            return self._outlook[1]

    def strata(self) -> dict[str, Any]:
        """What a page without a server needs to estimate the number wrong, JSON.

        Places in the queue of the random rows, in the order of their draw, and how many rows are
        listed (up to rank `last`) and not.
        """
        place = {int(row): at for at, row in enumerate(self.queue)}
        listed = self.audit.order
        return {
            "n_listed": len(listed),
            "n_unlisted": self._n_unlisted,
            "last": int(self.audit.rank[listed].max(initial=0)),
            "sampled": [place[int(row)] for row in self.sampled],
            "ahead": [place[int(row)] for row in self._drawn.ahead],
        }

    def is_wrong(self, sample_id: str, said: Consensus) -> bool | None:
        """Whether the given label was found wrong; None where raters could not tell or disagree.

        Of several right labels the given one may be any. Off topic no label is right.
        """
        if said.off_topic:
            return True
        if not said.labels:
            return None
        return str(self.audit.given[self.row_of(sample_id)]) not in said.labels

    def bound(self, alpha: float = 0.05) -> ShareBound | None:
        """What the random rows answered so far say of all unlisted rows; None before the first.

        Only the answered beginning of the random order counts, since what is left open within it
        may be what was hard; rows of which nobody could tell count as wrong.
        """
        wrong = []
        with self._guard:
            for row in self.sampled.tolist():
                if row not in self._verdicts:
                    break
                wrong.append(self._verdicts[row] is not False)
            if not wrong:
                return None
            if self._bound is None or self._bound[:2] != (wrong, alpha):
                found = share_bound(np.array(wrong), n_rows=self._n_unlisted, alpha=alpha)
                self._bound = wrong, alpha, found
            return self._bound[2]

    def state(self, rater: str) -> dict[str, Any]:
        """Progress and what is known so far, JSON."""
        with self._guard:
            return {
                "n_queue": len(self.queue),
                "n_answered": self._own[rater],
                "n_listed": len(self.audit.order),
                "n_listed_answered": self._listed_said.total(),
                "n_listed_wrong": self._listed_said[True],
                "raters": sorted(name for name, n in self._own.items() if n),
                "statement": self.statement(),
                "estimate": self.outlook(fresh=False).text,
            }

    def statement(self) -> str:
        """What may be said if one stops now."""
        bound = self.bound()
        if bound is None:
            if not len(self.sampled):
                return (
                    "Nothing is known of the rows that are not listed: no random rows are mixed in."
                )
            return "Nothing is known yet of the rows that are not listed."
        rest = bound.n_rows - bound.n_sampled
        return (
            f"With 95 % confidence at most {100 * bound.high_share_of_rest:.1f} % of the remaining "
            f"{rest:,} unlisted labels are wrong ({bound.n_wrong} of {bound.n_sampled} random ones "
            "were)."
        )

    def agreement(self) -> dict[str, Any]:
        """Kappa of each two raters and Krippendorff's alpha of all, over rows that were answered.

        An answer with several labels agrees with the same several labels alone.
        """
        by_rater: dict[str, dict[str, str]] = {}
        by_row: dict[str, list[str]] = {}
        for (rater, sample_id), found in self.standing().items():
            if found.kind == "label":
                text = " + ".join(sorted(found.labels))
                by_rater.setdefault(rater, {})[sample_id] = text
                by_row.setdefault(sample_id, []).append(text)
        names = sorted(by_rater)
        pairs = []
        for i, first in enumerate(names):
            for second in names[i + 1 :]:
                kappa, n = cohen_kappa(by_rater[first], by_rater[second])
                pairs.append({"raters": [first, second], "kappa": kappa, "n": n})
        return {"alpha": krippendorff_alpha(by_row.values()), "pairs": pairs}

    def first_open(self, rater: str) -> int:
        """Place in the queue of the first row that a rater has not met; the queue's end where none.

        Skipped rows come again once all others are answered.
        """
        met = {a.sample_id for a in self.journal.answers if a.rater == rater and a.kind != "undo"}
        own = self.answers_of(rater).keys()
        ids = self.audit.sample_ids[self.queue].tolist()
        for done in (met, own):
            for place, sample_id in enumerate(ids):
                if str(sample_id) not in done:
                    return place
        return len(self.queue)

    def item(self, place: int) -> dict[str, Any]:
        """What the page shows at a place of the queue, JSON."""
        row = int(self.queue[place])
        audit = self.audit
        return {
            "place": place,
            "row": row,
            "sample_id": str(audit.sample_ids[row]),
            "given": str(audit.given[row]),
            "guess": str(audit.suggested[row]),
            "neighbours": [
                {"row": int(near), "label": str(audit.given[near])} for near in audit.near(row)
            ],
        }

    def tasks(
        self,
        image_of: Callable[[int], str],
        *,
        guess: bool = False,
        rater: str = "",
    ) -> list[Task]:
        """The queue as tasks for another tool, with the answers that stand (of `rater` alone).

        `image_of` gives what the tool shows of a row. The model's guess goes along only with
        `guess`, for people follow one that they are shown.
        """
        kept, tasks = self.standing(), []
        by_row: dict[str, list[Answer]] = {}
        for (name, sample_id), answer in sorted(kept.items()):
            if not rater or name == rater:
                by_row.setdefault(sample_id, []).append(answer)
        shown = [str(self.audit.sample_ids[row]) for row in self.queue]
        met = set(shown)
        for sample_id in [*shown, *(s for s in by_row if s not in met)]:
            row = self.row_of(sample_id)
            tasks.append(
                Task(
                    sample_id,
                    image_of(row),
                    str(self.audit.given[row]),
                    str(self.audit.suggested[row]) if guess else None,
                    float(self.audit.p_wrong[row]) if guess else None,
                    tuple(by_row.get(sample_id, [])),
                )
            )
        return tasks

    def relatives(self, row: int) -> list[str]:
        """Ids of the other rows that an answer for a row speaks for; none unless by group."""
        audit = self.audit
        if audit.unit != "group":
            return []
        if self._members is None:
            self._members = {}
            for own, key in enumerate(zip(audit.group_ids, audit.given, strict=True)):
                self._members.setdefault(key, []).append(own)
        same = self._members[audit.group_ids[row], audit.given[row]]
        return [
            str(audit.sample_ids[other])
            for other in same
            if other != row and not audit.trusted[other]
        ]

    def write_answers(self) -> Path:
        """Write the sheet `answers.csv` from the journal: consensus labels, raters, notes.

        Labels that stand in the sheet already stay where nobody answered on the page.
        """
        path = self.audit.folder / ANSWERS
        said, kept = self.consensus(), self.standing()
        before = _labels_of(path)
        notes: dict[str, list[str]] = {}
        for (rater, sample_id), found in sorted(kept.items()):
            if found.note:
                notes.setdefault(sample_id, []).append(f"{rater}: {found.note}")
        ids = list(dict.fromkeys([*(str(self.audit.sample_ids[r]) for r in self.queue), *said]))
        # An answer for a group speaks for all its rows of that label.
        spoken = {str(s): told for told in said for s in self.relatives(self.row_of(told))}
        met = {*ids, *spoken}
        ids += [s for s in spoken if s not in set(ids)]
        ids += [sample_id for sample_id in before if sample_id not in met]
        rows = []
        for sample_id in ids:
            row = self.row_of(sample_id)
            found_said = said.get(sample_id) or said.get(spoken.get(sample_id, ""))
            label = before.get(sample_id, "")
            if found_said is not None:
                given = str(self.audit.given[row])
                several = found_said.labels
                # One column holds one label: where several are right, the given one if it is.
                label = (given if given in several else several[0]) if several else ""
            rows.append(
                {
                    "sample_id": sample_id,
                    "label": label,
                    "given": str(self.audit.given[row]),
                    "suggested": str(self.audit.suggested[row]),
                    "labels": json.dumps(found_said.labels, ensure_ascii=False)
                    if found_said and len(found_said.labels) > 1
                    else "",
                    "raters": found_said.n_raters if found_said else 0,
                    "unsure": found_said.unsure if found_said else 0,
                    "off_topic": "yes" if found_said and found_said.off_topic else "",
                    "note": "; ".join(notes.get(sample_id, [])),
                }
            )
        write_sheet(path, rows)
        return path

    def close(self) -> None:
        """Write the sheet and let other processes open the journal; a second call does nothing."""
        if self.journal.closed:
            return
        if self.journal.answers:
            self.write_answers()
        self.journal.close()


def open_review(
    folder: Path, *, random_share: float | None = None, seed: int = 0, port: int | None = None
) -> ReviewSession:
    """Open the review of an audit's folder, or go on with it where it was.

    `random_share`, in [0, 1), of the rows shown are drawn at random from those that are not listed
    (default 0.1); what they show bounds the share wrong among the rest. It is fixed once the first
    answer is there. Raises `TrustqError` for another share then, or a share out of range.
    """
    folder = Path(folder)
    audit = read_audit_folder(folder)
    if random_share is not None and not 0 <= random_share < 1:
        raise InputError(
            f"`random_share={random_share:g}`: expected a share from 0 to below 1.",
            where="random_share",
            found=random_share,
        )
    journal = Journal(folder / JOURNAL, classes=audit.classes)
    try:
        plan = _plan(folder, journal, random_share, seed, port)
    except BaseException:
        journal.close()
        raise
    return ReviewSession(audit, plan, journal)


def _plan(
    folder: Path, journal: Journal, random_share: float | None, seed: int, port: int | None
) -> Plan:
    path = folder / PLAN
    old = None
    if path.exists():
        try:
            fields = json.loads(path.read_text(encoding="utf-8"))
            if fields.pop("format") != FORMAT:
                raise KeyError
            old = Plan(**fields)
        except (OSError, RecursionError, ValueError, KeyError, TypeError):
            raise InputError(f"{path} is not a review's plan; move it away.", path=path) from None
    share = random_share if random_share is not None else old.random_share if old else 0.1
    if old and journal.answers and share != old.random_share:
        raise InputError(
            f"{folder} has {counted(len(journal.answers), 'answer')} to a review with a random "
            f"share of {old.random_share:g}; another share ({share:g}) would change what is shown. "
            "Go on with the same, or audit into another folder.",
            path=folder,
        )
    plan = Plan(
        random_share=share,
        seed=old.seed if old and journal.answers else seed,
        token=old.token if old else secrets.token_urlsafe(16),
        port=port if port is not None else old.port if old else 0,
    )
    save_plan(folder, plan)
    return plan


def save_plan(folder: Path, plan: Plan) -> None:
    """Write the plan, readable by its owner alone because of the token."""
    with replacing(folder / PLAN) as part:
        part.touch(mode=0o600)
        part.write_text(json.dumps({"format": FORMAT} | asdict(plan)) + "\n", encoding="utf-8")


def _labels_of(path: Path) -> dict[str, str]:
    if not path.is_file():
        return {}
    table = read_table(path)
    pairs = zip(table["sample_id"].tolist(), table["label"].tolist(), strict=True)
    return {str(sample_id): str(label) for sample_id, label in pairs if label}
