"""Experts: who answers when a label is bought, simulated or in a file of answers."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Protocol

import numpy as np

from trustq.core.generators import generator
from trustq.errors import InputError
from trustq.recipes import SweepRecipe
from trustq.repair.human_answers import read_votes
from trustq.repair.setup import Experiment


@dataclass(frozen=True)
class Answers:
    """What the raters said of some rows, and how many votes it took."""

    labels: np.ndarray  # (m,) class indices
    votes: np.ndarray  # (m,)


class Expert(Protocol):
    """Who is asked. The same row gets the same answer whichever arm asks, in whichever round."""

    @property
    def can_answer(self) -> np.ndarray:
        """Rows that it can be asked about, (n,) of bool, over the training rows."""

    def answer(self, rows: np.ndarray) -> Answers:
        """Answers for rows, positions among the training rows."""


def make_expert(experiment: Experiment, sweep: SweepRecipe, *, unit: np.ndarray) -> Expert:
    """The recipe's expert; raises `TrustqError` for settings that do not go together.

    `unit`, (n,), is the unit of each row that is diagnosed at once, by which a rater errs.
    """
    if sweep.raters < 1 or not 0 <= sweep.rater_error < 1:
        raise InputError(
            f"raters is {sweep.raters} and rater_error {sweep.rater_error:g}: expected 1 rater or "
            "more, and an error rate of at least 0 and below 1.",
            where="raters",
            found=sweep.raters,
        )
    if sweep.answers:
        if sweep.raters != 1 or sweep.rater_error:
            raise InputError(
                "answers= names a file of human answers; raters and rater_error are of simulated "
                "ones. Leave them out."
            )
        return FileExpert(experiment, Path(sweep.answers))
    return SimulatedExpert(experiment, unit, n_raters=sweep.raters, error=sweep.rater_error)


@dataclass(frozen=True)
class SimulatedExpert:
    """Raters who each err on a unit with probability `error`, to a uniform other class.

    The majority is taken; a tie asks one more rater at a time until there is one.
    """

    experiment: Experiment
    unit: np.ndarray
    n_raters: int = 1
    error: float = 0.0

    @cached_property
    def can_answer(self) -> np.ndarray:
        """Every row."""
        return np.ones(len(self.experiment.labels), dtype=bool)

    def answer(self, rows: np.ndarray) -> Answers:
        """Answers for rows, and the votes they took."""
        truth = self.experiment.labels[rows]
        votes = np.full(len(rows), self.n_raters)
        if not self.error:
            return Answers(truth, votes)
        counts = np.zeros((len(rows), len(self.experiment.cache.classes)), dtype=np.int64)
        for rater in range(self.n_raters):
            counts[np.arange(len(rows)), self._said(rater)[rows]] += 1
        rater = self.n_raters
        while len(tied := np.flatnonzero((counts == counts.max(axis=1)[:, None]).sum(axis=1) > 1)):
            counts[tied, self._said(rater)[rows[tied]]] += 1
            votes[tied] += 1
            rater += 1
        return Answers(counts.argmax(axis=1), votes)

    def _said(self, rater: int) -> np.ndarray:
        """What a rater says of every row, so that no answer depends on which others are asked."""
        truth, k = self.experiment.labels, len(self.experiment.cache.classes)
        rng = generator(self.experiment.draw_seed, "rater", rater)
        n_units = int(self.unit.max()) + 1
        errs = (rng.random(n_units) < self.error)[self.unit]
        return np.where(errs, (truth + rng.integers(1, k, n_units)[self.unit]) % k, truth)


class FileExpert:
    """People's answers, `sample_id,label`: rows without one, or with a tied vote, stay as is."""

    def __init__(self, experiment: Experiment, path: Path) -> None:
        votes = read_votes(path, experiment.cache)
        self._labels = votes.labels[experiment.rows]
        self._votes = votes.counts[experiment.rows]
        self.can_answer = self._labels >= 0
        if not self.can_answer.any():
            raise InputError(
                f"{path} answers for none of the {len(experiment.labels)} training rows of "
                f"{experiment.cache.name}; its sample_id must be those of the cache.",
                path=path,
            )

    def answer(self, rows: np.ndarray) -> Answers:
        """Answers for rows that can be answered."""
        return Answers(self._labels[rows], self._votes[rows])
