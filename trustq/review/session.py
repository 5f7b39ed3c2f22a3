"""A review: rows in their order, answers as they come, and what they say of the rest."""

import json
import secrets
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from trustq.audit.folder import ANSWERS, StoredAudit, read_audit_folder
from trustq.core.atomic_files import replacing
from trustq.core.columns import read_table
from trustq.core.generators import generator
from trustq.core.label_sheets import write_sheet
from trustq.errors import InputError
from trustq.review.agreement import Consensus, cohen_kappa, consensus, krippendorff_alpha
from trustq.review.journal import JOURNAL, Answer, Journal, standing
from trustq.statistics.confidence_sequence import ShareBound, share_bound

PLAN = "review.json"
FORMAT = "trustq.review"


@dataclass(frozen=True)
class Plan:
    """What a review shows: listed rows and, among them, a random sample of all the others."""

    random_share: float
    seed: int
    token: str  # part of the address, so that only who was given it can answer
    port: int

    def queue(self, audit: StoredAudit) -> tuple[np.ndarray, np.ndarray]:
        """Positions of rows in the order in which they are shown, and those drawn at random."""
        listed, pool = audit.order, unlisted_rows(audit)
        share = self.random_share
        wanted = int(np.ceil(len(listed) * share / (1 - share))) if share < 1 else len(pool)
        if share and not len(listed):
            wanted = len(pool)
        sampled = generator(self.seed, "review-sample").permutation(pool)[: min(wanted, len(pool))]
        if share == 1:
            return sampled, sampled
        n = len(listed) + len(sampled)
        # Where the random rows stand is random too: the person cannot tell which is which.
        places = np.sort(generator(self.seed, "review-places").permutation(n)[: len(sampled)])
        queue = np.empty(n, dtype=np.int64)
        is_sampled = np.zeros(n, dtype=bool)
        is_sampled[places] = True
        queue[is_sampled], queue[~is_sampled] = sampled, listed
        return queue, sampled


def unlisted_rows(audit: StoredAudit) -> np.ndarray:
    """Positions of rows that are neither listed nor trusted: those a random sample speaks of."""
    return np.flatnonzero(~audit.listed & ~audit.trusted)


class ReviewSession:
    """One audit under review: `queue` holds positions of rows, `journal` what people answered."""

    def __init__(self, audit: StoredAudit, plan: Plan, journal: Journal) -> None:
        self.audit, self.plan, self.journal = audit, plan, journal
        self.queue, self.sampled = plan.queue(audit)
        self._row_of = {str(s): row for row, s in enumerate(audit.sample_ids.tolist())}
        self._place_of = {int(row): place for place, row in enumerate(self.queue)}

    def row_of(self, sample_id: str) -> int:
        """Position of a row by its id; raises `TrustqError` where the audit has none."""
        row = self._row_of.get(sample_id)
        if row is None:
            raise InputError(f"{self.audit.folder} has no row {sample_id!r}.")
        return row

    def answer(self, answer: Answer) -> bool:
        """Keep an answer; False where it was kept before. Raises `TrustqError` for a bad one."""
        self.row_of(answer.sample_id)
        return self.journal.add(answer)

    def standing(self) -> dict[tuple[str, str], Answer]:
        """The answers that stand, by rater and sample id."""
        return standing(self.journal.answers)

    def consensus(self) -> dict[str, Consensus]:
        """What raters say together, by sample id."""
        return consensus(self.standing())

    def is_wrong(self, sample_id: str, said: Consensus) -> bool | None:
        """Whether the given label was found wrong; None where raters could not tell or disagree.

        Of several right labels the given one may be any.
        """
        if not said.labels:
            return None
        return str(self.audit.given[self.row_of(sample_id)]) not in said.labels

    def bound(self, alpha: float = 0.05) -> ShareBound | None:
        """What the random rows answered so far say of all unlisted rows; None before the first.

        Only the answered beginning of the random order counts, since what is left open within it
        may be what was hard; rows of which nobody could tell count as wrong.
        """
        said = self.consensus()
        wrong = []
        for row in self.sampled.tolist():
            found = said.get(str(self.audit.sample_ids[row]))
            if found is None:
                break
            wrong.append(self.is_wrong(str(self.audit.sample_ids[row]), found) is not False)
        if not wrong:
            return None
        n = len(unlisted_rows(self.audit))
        return share_bound(np.array(wrong), n_rows=n, alpha=alpha)

    def state(self, rater: str) -> dict[str, Any]:
        """Progress and what is known so far, JSON."""
        kept, said = self.standing(), self.consensus()
        own = {sample_id for (name, sample_id) in kept if name == rater}
        skipped = {a.sample_id for a in self.journal.answers if a.rater == rater} - own
        verdicts = {s: self.is_wrong(s, found) for s, found in said.items()}
        listed = [s for s in verdicts if self.audit.listed[self._row_of[s]]]
        judged = [s for s in listed if verdicts[s] is not None]
        return {
            "n_queue": len(self.queue),
            "n_answered": len(own),
            "n_skipped": len(skipped),
            "n_listed": len(self.audit.order),
            "n_listed_answered": len(listed),
            "n_listed_wrong": sum(bool(verdicts[s]) for s in judged),
            "raters": sorted({name for name, _ in kept}),
            "statement": self.statement(),
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
        own = {sample_id for (name, sample_id) in self.standing() if name == rater}
        ids = self.audit.sample_ids
        for done in (met, own):
            for place, row in enumerate(self.queue.tolist()):
                if str(ids[row]) not in done:
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
        ids += [sample_id for sample_id in before if sample_id not in set(ids)]
        rows = []
        for sample_id in ids:
            row, found_said = self.row_of(sample_id), said.get(sample_id)
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
            f"random_share is {random_share:g}; expected a share from 0 to below 1.",
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
        except (OSError, ValueError, KeyError, TypeError):
            raise InputError(f"{path} is not a review's plan; move it away.", path=path) from None
    share = random_share if random_share is not None else old.random_share if old else 0.1
    if old and journal.answers and share != old.random_share:
        raise InputError(
            f"{folder} has {len(journal.answers)} answers to a review with a random share of "
            f"{old.random_share:g}; another share ({share:g}) would change what is shown. Go on "
            "with the same, or audit into another folder.",
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
