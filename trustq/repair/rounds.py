"""Rounds of a repair: what was taken, what it cost, and what is known after it."""

from dataclasses import dataclass, fields

import numpy as np

from trustq.heads import Head
from trustq.heads.out_of_fold import FoldFit, OutOfFold


@dataclass(frozen=True)
class Evaluated:
    """One set of rows that was predicted: logits before and after calibration, and the figures."""

    dataset: str
    split: str
    sample_id: np.ndarray
    group_id: np.ndarray
    labels: np.ndarray
    logits: dict[str, np.ndarray]  # stage -> (n, k)
    figures: dict[str, dict[str, float]]  # stage -> metric -> figure
    condition: str | None = None  # the view that the rows were seen in; None: the clean images


@dataclass(frozen=True)
class Purchase:
    """The rows taken in one round, in the order of their rank: bought, or dropped unseen."""

    rows: np.ndarray  # positions among the training rows
    quality: np.ndarray  # NaN where the arm has no score
    fold: np.ndarray
    before: np.ndarray  # labels
    after: np.ndarray  # -1 where the row was dropped
    votes: np.ndarray  # answers that were paid for; 0 where nobody was asked
    price: np.ndarray  # of a label; a group's is on its first row

    def take(self, positions: np.ndarray) -> "Purchase":
        """Those at some positions, in that order."""
        return Purchase(*(getattr(self, f.name)[positions] for f in fields(Purchase)))

    @property
    def n_bought(self) -> int:
        """Labels that experts were paid for."""
        return int((self.votes > 0).sum())

    @property
    def n_votes(self) -> int:
        """Answers that were paid for; one diagnosis covers a group that is bought as one."""
        return int(self.votes[self.price > 0].sum())

    @property
    def precision(self) -> float:
        """Share of bought labels that the answers changed, as a user sees it; NaN: none bought."""
        bought = self.votes > 0
        changed = self.before[bought] != self.after[bought]
        return float(changed.mean()) if len(changed) else float("nan")


@dataclass(frozen=True)
class Round:
    """What is known after a round: labels, purchase, fitted head, figures."""

    number: int
    current: np.ndarray  # (n,) labels of the training rows now
    trusted: np.ndarray  # (n,) rows whose label an expert gave
    purchase: Purchase | None
    fit: FoldFit  # no head in it: the backbone's own logits
    evaluated: tuple[Evaluated, ...]
    temperature: float
    fit_seconds: float
    n_unscored: int = 0
    notes: tuple[str, ...] = ()
    weight: np.ndarray | None = None  # (n,) what rows count in fits; None: all of them fully
    n_taken: np.ndarray | None = None  # (k,) units taken so far, by their label before
    spent: float = 0.0
    stopped: bool = False  # the precision fell below the cut

    @property
    def weights(self) -> np.ndarray:
        """What each training row counts in fits, (n,): 0 where it was dropped."""
        return np.ones(len(self.current)) if self.weight is None else self.weight

    @property
    def head(self) -> Head | None:
        """The head fitted on all training rows; None: the backbone's own logits."""
        return self.fit.head

    @property
    def out_of_fold(self) -> OutOfFold | None:
        """Predictions of the training rows by heads that did not see them."""
        return self.fit.out_of_fold


def candidates(
    state: Round,
    rows: np.ndarray,
    quality: np.ndarray | None = None,
    fold: np.ndarray | None = None,
) -> Purchase:
    """Rows that could be taken, in buying order, with their quality and folds, nothing paid yet.

    `rows` are positions among the training rows; `quality` and `fold` are of all of these.
    """
    before, nothing = state.current[rows], np.zeros(len(rows))
    return Purchase(
        rows,
        np.full(len(rows), np.nan) if quality is None else quality[rows],
        np.full(len(rows), -1) if fold is None else fold[rows],
        before,
        before,
        nothing.astype(np.int64),
        nothing,
    )
