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


# Of the first rows seven in eight are random: after a hundred answers the number wrong is then
# known to a quarter or so, where a tenth of random rows says next to nothing. Later, until they
# are through, three in four are. It moves the order of the list's answers alone.
_EARLY = 100  # rows
_EARLY_BLOCK, _BLOCK = 8, ("unlisted", "unlisted", "ahead", "top")
# How far labels differ, within the list and outside it, as sd of being wrong at shares of .5 and
# .04: random rows are split as Neyman (1934) would, by size times sd.
_SD_LISTED, _SD_UNLISTED = 0.5, 0.2
_STRATA = 8  # by rank, from which random listed rows are drawn in turn


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
        block = _early_block(len(listed), len(pool))
        early = min(block.count("ahead") * _EARLY // _EARLY_BLOCK, len(listed) // 4)
        n_ahead = min(max((len(sampled) + 1) // 2, early if share else 0), len(listed))
        ahead = _spread(listed, generator(self.seed, "review-ahead"))[:n_ahead]
        kinds = {"unlisted": sampled, "ahead": ahead, "top": listed[~np.isin(listed, ahead)]}
        order = _kinds_in_order({kind: len(rows) for kind, rows in kinds.items()}, block, self.seed)
        rows = np.empty(len(order), dtype=np.int64)
        for kind, own in kinds.items():
            rows[order == kind] = own
        return Queue(rows, sampled, ahead)


def _early_block(n_listed: int, n_unlisted: int) -> tuple[str, ...]:
    """Kinds of rows of which the beginning is made, in any order."""
    listed, unlisted = n_listed * _SD_LISTED, n_unlisted * _SD_UNLISTED
    n_random = _EARLY_BLOCK - 1
    ahead = round(n_random * listed / max(listed + unlisted, 1))
    ahead = min(max(ahead, 1), n_random - 1)  # neither is left to what the model says
    return ("ahead",) * ahead + ("unlisted",) * (n_random - ahead) + ("top",)


def _spread(listed: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Rows in a random order whose every beginning is spread evenly over the list.

    Each round takes a random row of every stratum of ranks, so that a sample is as likely to hold
    one row as another, and varies less than one that is drawn without strata.
    """
    strata = [rng.permutation(part) for part in np.array_split(listed, _STRATA)]
    rounds = []
    for turn in range(len(strata[0])):
        order = rng.permutation(_STRATA)
        rounds += [strata[at][turn] for at in order if turn < len(strata[at])]
    return np.array(rounds, dtype=np.int64)


def _kinds_in_order(left: dict[str, int], early: tuple[str, ...], seed: int) -> np.ndarray:
    """Which kind of row stands at each place, while there are any of it."""
    rng = generator(seed, "review-places")
    order: list[str] = []
    while left["unlisted"] or left["ahead"]:
        for kind in rng.permutation(early if len(order) < _EARLY else _BLOCK).tolist():
            if left[kind]:
                left[kind] -= 1
                order.append(kind)
    return np.array([*order, *["top"] * left["top"]], dtype="U8")


def unlisted_rows(audit: StoredAudit) -> np.ndarray:
    """Positions that a random sample speaks of: to be asked, neither listed nor trusted."""
    return np.flatnonzero(audit.asked & ~audit.listed & ~audit.trusted)
