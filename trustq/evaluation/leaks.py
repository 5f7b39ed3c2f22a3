"""Rows of one set of predictions that may be rows of another: refused, or said as a suspicion."""

from trustq.core.counts import counted, verb
from trustq.core.leaks import Overlap, near_names, overlap, told
from trustq.errors import DishonestError
from trustq.evaluation.predictions import Predictions


def require_other_rows(rows: Predictions, other: Predictions, *, way_out: str) -> None:
    """Raise `DishonestError` where `rows` are rows of `other`: ids shared, or most numbers equal.

    Ids are compared without outer blanks and file endings. `way_out` ends the message.
    """
    found = _overlap(rows, other)
    if found.shared:
        raise DishonestError(
            f"{len(found.shared):,} of {len(rows):,} rows of {rows.source} are rows of "
            f"{other.source} too, e.g. {found.shared[0]}{way_out}"
        )
    if 2 * len(found.equal) > len(rows):
        i, j = found.equal[0]
        raise DishonestError(
            f"{len(found.equal):,} of {len(rows):,} rows of {rows.source} equal rows of "
            f"{other.source} bit for bit, e.g. {rows.sample_ids[i]} and {other.sample_ids[j]}"
            f"{way_out}"
        )


def suspicions(rows: Predictions, other: Predictions, a: str, b: str) -> list[str]:
    """Notes of what may be a leak: ids and groups of near spellings, rows equal bit for bit."""
    notes = told(_overlap(rows, other), a, b, rows.sample_ids, other.sample_ids)
    if rows.groups is not None and other.groups is not None:
        near = near_names(rows.groups.tolist(), other.groups.tolist())
        if near:
            notes.append(
                f"suspicion of a leak: {counted(len(near), 'group')} of {a} and {b} "
                f"{verb(len(near), 'differs', 'differ')} in spelling alone, e.g. {near[0][0]!r} "
                f"and {near[0][1]!r}; they are taken for different groups"
            )
    return notes


def _overlap(rows: Predictions, other: Predictions) -> Overlap:
    by_logits = rows.logits is not None and other.logits is not None
    return overlap(
        rows.sample_ids if rows.has_ids and other.has_ids else None,
        other.sample_ids if rows.has_ids and other.has_ids else None,
        rows.logits if by_logits else rows.of_rows(),
        other.logits if by_logits else other.of_rows(),
    )
