"""How many labels are wrong, as the answers of a review say, and what the next answers bring."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from trustq.audit.folder import StoredAudit
from trustq.core.counts import counted
from trustq.review.queue import Queue, unlisted_rows
from trustq.statistics.wrong_count import Stratum, WrongCount, calibrated_wrong, wrong_count

NEXT = 50  # rows of which the yield is foretold


@dataclass(frozen=True)
class Outlook:
    """The number wrong, the model's own guess of it, and the yield of the next listed rows.

    `guess` is the sum of the model's probabilities, checked by nobody; NaN where the audit kept
    none. `p_next` is the mean calibrated probability of being wrong of the next `n_next` open
    listed rows; NaN where none is left or nothing was answered.
    """

    count: WrongCount
    guess: float
    p_next: float
    n_next: int
    seconds: float  # median a label, NaN before the first

    @property
    def wrong_per_minute(self) -> float:
        """Wrong labels found a minute over the next rows at the pace so far."""
        return 60 * self.p_next / self.seconds if self.seconds > 0 else float("nan")

    @property
    def text(self) -> str:
        """In sentences for people."""
        count, n = self.count, f"{self.count.n_rows:,}"
        guess = (
            ""
            if np.isnan(self.guess)
            else f" The model alone guesses {self.guess:,.0f}, unchecked."
        )
        if not count.n_answered:
            return f"How many of the {n} labels are wrong is not known before answers.{guess}"
        about = "" if count.value is None else f"about {count.value:,.0f}, "
        text = (
            f"Wrong of all {n} labels: {about}with 95 % confidence {count.low:,} to "
            f"{count.high:,}, by {counted(count.n_answered, 'answer')}.{guess}"
        )
        if self.n_next and not np.isnan(self.p_next):
            text += (
                f" Of the next {self.n_next} listed about {self.n_next * self.p_next:.0f} are wrong"
            )
            pace = self.wrong_per_minute
            text += "." if np.isnan(pace) else f": {pace:.1f} a minute at the pace so far."
        return text


def outlook(
    audit: StoredAudit,
    queue: Queue,
    verdicts: Mapping[int, bool | None],
    seconds: list[float],
) -> Outlook:
    """What `verdicts` say: by position of row whether its label is wrong, None: nobody could tell.

    Rows of the list are answered in its order and, some of them, ahead of it at random; those ahead
    stand for the part of the list that is not reached yet, and random unlisted rows for the rest.
    """
    listed = audit.order
    answered = np.zeros(len(audit.listed), dtype=bool)
    answered[list(verdicts)] = True
    is_ahead = np.zeros(len(answered), dtype=bool)
    is_ahead[queue.ahead] = True
    reached = audit.rank[listed[answered[listed] & ~is_ahead[listed]]].max(initial=0)
    beyond = listed[audit.rank[listed] > reached]
    ahead = _beginning(queue.ahead, verdicts)
    below = [row for row in ahead if audit.rank[row] > reached]
    open_listed = listed[~answered[listed]]
    open_unlisted = unlisted_rows(audit)
    open_unlisted = open_unlisted[~answered[open_unlisted]]
    # What was passed over before the point that is reached counts as the rest of the list does.
    told = {row: wrong for row, wrong in verdicts.items() if wrong is not None}
    p_listed = _calibrated(audit, told, open_listed)
    # Near its end the list may have no random row left; what its answers say of the score will do.
    end = float(np.mean(p_listed)) if len(p_listed) else None
    strata = [
        _stratum(len(open_listed), below if len(beyond) else [], verdicts, end),
        _stratum(len(open_unlisted), _beginning(queue.sampled, verdicts), verdicts),
    ]
    count = wrong_count(
        strata,
        n_answered=len(verdicts),
        n_wrong=sum(told.values()),
        n_unknown=len(verdicts) - len(told),
    )
    to_judge = audit.asked & ~audit.trusted & ~np.isnan(audit.p_wrong)
    guess = float(audit.p_wrong[to_judge].sum()) if to_judge.any() else float("nan")
    p_next = float(np.mean(p_listed[:NEXT])) if len(p_listed) else float("nan")
    pace = float(np.median(seconds)) if seconds else float("nan")
    return Outlook(count, guess, p_next, min(NEXT, len(open_listed)), pace)


def _calibrated(audit: StoredAudit, told: Mapping[int, bool], rows: np.ndarray) -> np.ndarray:
    """Calibrated probabilities of being wrong of some rows; none without answers."""
    answered = np.fromiter(told, dtype=np.int64, count=len(told))
    wrong = np.fromiter(told.values(), dtype=bool, count=len(told))
    has_p = ~np.isnan(audit.p_wrong[answered])
    rows = rows[~np.isnan(audit.p_wrong[rows])]
    if not has_p.any() or not len(rows):
        return np.array([])
    both = audit.p_wrong[np.concatenate([answered[has_p], rows])]
    n = int(has_p.sum())
    return calibrated_wrong(both, np.arange(n), wrong[has_p])[n:]


def _beginning(drawn: np.ndarray, verdicts: Mapping[int, bool | None]) -> list[int]:
    """The answered beginning of a random order: what is open within it may be what was hard."""
    found = []
    for row in drawn[: len(verdicts)].tolist():
        if row not in verdicts:
            break
        found.append(row)
    return found


def _stratum(
    n_open: int,
    sample: list[int],
    verdicts: Mapping[int, bool | None],
    assumed: float | None = None,
) -> Stratum:
    said = [verdicts[row] for row in sample]
    return Stratum(n_open, len(said), said.count(True), said.count(None), assumed)
