"""People's answers as the truth of the rows that they cover; of other rows nobody knows it."""

import dataclasses
from pathlib import Path
from typing import NamedTuple

import numpy as np

from trustq.core.counts import counted, verb
from trustq.core.label_sheets import read_sheet
from trustq.core.sample_ids import find_ids, nearly
from trustq.errors import InputError
from trustq.recipes import SweepRecipe
from trustq.store import Cache
from trustq.store.relabel import with_labels

_NO_NOISE = ("auto", "none", "stored")  # `noise` that puts none on the labels


class Votes(NamedTuple):
    """What people said of n rows: the label that most gave, -1 for none or a tie; and how many."""

    labels: np.ndarray  # (n,)
    counts: np.ndarray  # (n,) answers
    strangers: tuple[str, ...] = ()  # ids of the file that are no row's


def read_votes(path: Path, cache: Cache) -> Votes:
    """Answers of a file of `sample_id` and `label` for the rows of a cache.

    Raises `TrustqError` as `read_sheet` does, and where no row of the cache is answered.
    """
    sheet = read_sheet(path, classes=cache.classes)
    counts = np.zeros((len(cache), len(cache.classes)), dtype=np.int64)
    rows = find_ids(list(sheet), cache.sample_id, source=str(path))
    for row, labels in zip(rows, sheet.values(), strict=True):
        if row is not None:
            np.add.at(counts[row], labels, 1)
    if not counts.any():
        raise InputError(
            f"{path} answers for none of the {len(cache)} rows of {cache.name}; its sample_id must "
            f"be those of the cache{nearly(list(sheet), cache.sample_id)}.",
            path=path,
        )
    tied = (counts == counts.max(axis=1)[:, None]).sum(axis=1) > 1
    strangers = tuple(text for text, row in zip(sheet, rows, strict=True) if row is None)
    return Votes(np.where(tied, -1, counts.argmax(axis=1)), counts.sum(axis=1), strangers)


def answers_are_truth(sweep: SweepRecipe) -> bool:
    """Whether a recipe takes people's answers as the truth of labels that stay as they are."""
    return bool(sweep.answers) and sweep.noise in _NO_NOISE


def as_answered(cache: Cache, *, sweep: SweepRecipe) -> tuple[Cache, list[str]]:
    """A cache whose reference labels are people's answers where there are any, and what to know.

    What rows were called before is what is observed: a correction is an error to be found. Raises
    `TrustqError` for a trusted start, for which labels that nobody checked would be the truth.
    """
    if sweep.trusted not in ("auto", "stored"):
        raise InputError(
            f"`trusted={sweep.trusted}` takes labels for right that nobody checked; with `answers` "
            "what is known is what was answered. Leave `trusted` out."
        )
    votes = read_votes(Path(sweep.answers), cache)
    given = np.where(cache.observed >= 0, cache.observed, cache.label)
    answered = votes.labels >= 0
    truth = np.where(answered, votes.labels, cache.label).astype(cache.label.dtype)
    relabelled = with_labels(cache, truth)
    own = dataclasses.replace(relabelled, observed=given, noise=cache.noise)
    training = cache.split == "train"
    n, known = int(training.sum()), int((training & answered).sum())
    wrong = int((training & answered & (given != truth)).sum())
    notes = [
        f"Answers are the truth of {known} of {n} training rows; they change {wrong} labels, which "
        "are the errors there are to find. No noise is simulated. Purchases, their precision and "
        "what was wrong at the start are known of answered rows alone; accuracy and every other "
        f"figure takes the labels of the {n - known} others as they were given."
    ]
    elsewhere = int((answered & ~training).sum())
    if elsewhere:
        said = f"{counted(elsewhere, 'answer')} {verb(elsewhere, 'is', 'are')}"
        notes.append(f"{said} the truth of validation, test or external rows.")
    if votes.strangers:
        notes.append(
            f"{counted(len(votes.strangers), 'answered id')}, first {votes.strangers[0]}, "
            f"{verb(len(votes.strangers), 'is', 'are')} none of "
            f"{cache.name}{nearly(votes.strangers, cache.sample_id)}: their answers are not used."
        )
    tied = int(((votes.counts > 0) & ~answered).sum())
    if tied:
        said = f"{counted(tied, 'row')} {verb(tied, 'has', 'have')}"
        notes.append(f"{said} tied answers, which count as none.")
    return own, notes
