"""What a review shows and in which order: the list, with random rows among it."""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from trustq.audit.folder import StoredAudit
from trustq.core.generators import generator


class Queue(NamedTuple):
    """Positions of rows in the order in which they are shown, and which of them chance chose.

    `sampled` are drawn uniformly from the unlisted rows and `ahead` uniformly from the listed ones,
    each in the order of its draw.
    """

    rows: np.ndarray
    sampled: np.ndarray
    ahead: np.ndarray


# Of four rows at the beginning two are random unlisted ones and one is a random listed one: of the
# whole list's answers that moves only the order, and after a hundred the number wrong is known to a
# quarter or so, where a tenth of random rows says next to nothing.
_BLOCK = ("unlisted", "unlisted", "ahead", "top")


@dataclass(frozen=True)
class Plan:
    """What a review shows: listed rows and, among them, a random sample of all the others."""

    random_share: float
    seed: int
    token: str  # part of the address, so that only who was given it can answer
    port: int

    def queue(self, audit: StoredAudit) -> Queue:
        """All rows to be shown; random ones come early and in random places, so unmarked."""
        listed, pool = audit.order, unlisted_rows(audit)
        share = self.random_share
        wanted = int(np.ceil(len(listed) * share / (1 - share)))
        if share and not len(listed):
            wanted = len(pool)
        sampled = generator(self.seed, "review-sample").permutation(pool)[: min(wanted, len(pool))]
        n_ahead = min((len(sampled) + 1) // 2, len(listed))
        ahead = generator(self.seed, "review-ahead").permutation(listed)[:n_ahead]
        kinds = {"unlisted": sampled, "ahead": ahead, "top": listed[~np.isin(listed, ahead)]}
        order = _kinds_in_order({kind: len(rows) for kind, rows in kinds.items()}, self.seed)
        rows = np.empty(len(order), dtype=np.int64)
        for kind, own in kinds.items():
            rows[order == kind] = own
        return Queue(rows, sampled, ahead)


def _kinds_in_order(left: dict[str, int], seed: int) -> np.ndarray:
    """Which kind of row stands at each place, while there are any of it."""
    rng = generator(seed, "review-places")
    order: list[str] = []
    while left["unlisted"] or left["ahead"]:
        for kind in rng.permutation(_BLOCK).tolist():
            if left[kind]:
                left[kind] -= 1
                order.append(kind)
    return np.array([*order, *["top"] * left["top"]], dtype="U8")


def unlisted_rows(audit: StoredAudit) -> np.ndarray:
    """Positions that a random sample speaks of: to be asked, neither listed nor trusted."""
    return np.flatnonzero(audit.asked & ~audit.listed & ~audit.trusted)
