"""What several raters of unequal skill say together, with a model's word: CROWDLAB, by cleanlab."""

import warnings
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from trustq.core.class_names import ClassPosition
from trustq.core.column_names import ID_COLUMNS, called, first_called
from trustq.core.columns import read_table
from trustq.core.sample_ids import find_ids, nearly
from trustq.core.words import is_blank, plain_numbers, plain_texts
from trustq.errors import InputError, NotFound
from trustq.review.journal import read_journal, standing

COLUMNS = ("sample_id", "rater", "label")

Ratings = dict[tuple[str, str], str]  # label by rater and sample id


class Rater(NamedTuple):
    """One rater: answers, their quality in [0, 1], and the share that agrees with the consensus."""

    name: str
    n_answers: int
    quality: float
    agreement: float


class RaterConsensus(NamedTuple):
    """Of the rated rows, in the order of the model's: labels, and how sure each of them is.

    `quality` is the probability that the consensus is right, `agreement` the share of its raters
    who say it, both (n,) in [0, 1]; `majority` has the label that more raters gave than any other,
    blank in a tie. `left_out` counts answers on rows that the model has no probabilities of.
    """

    sample_ids: np.ndarray
    labels: np.ndarray
    quality: np.ndarray
    agreement: np.ndarray
    n_raters: np.ndarray
    majority: np.ndarray
    raters: tuple[Rater, ...]
    left_out: int


def read_ratings(path: Path) -> Ratings:
    """Labels by rater and sample id: of a review's answers.jsonl, or a table with a row an answer.

    The table has the columns sample_id, rater and label; blank labels are no answers. Answers that
    name no label, or several, are left out. Raises `TrustqError` for another file, for a label of
    no rater or no id, for raters that differ in case alone, and for one who gives a row two labels.
    """
    path = Path(path)
    if path.suffix == ".jsonl":
        kept = standing(read_journal(path)).items()
        return {key: answer.labels[0] for key, answer in kept if len(answer.labels) == 1}
    table = read_table(path)
    names = [first_called(table, ID_COLUMNS), *(called(table, name) for name in COLUMNS[1:])]
    if None in names:
        raise NotFound(
            f"{path} has no column {COLUMNS[names.index(None)]}; it has {', '.join(table)}. A "
            f"table of answers has one row an answer, with {', '.join(COLUMNS)}: rename its "
            "columns, and where each rater has a column write them below each other.",
            path=path,
            expected=COLUMNS,
        )
    ids, raters, labels = (plain_texts(table[str(name)]) for name in names)
    raters = _named_raters(raters, source=str(path))
    ratings: Ratings = {}
    for row, (sample_id, rater, label) in enumerate(zip(ids, raters, labels, strict=True), 2):
        if not label:
            continue
        if not sample_id or not rater:
            lacks = str(names[1] if sample_id else names[0])
            raise InputError(
                f"{path}, row {row}: {lacks} is blank and {names[2]} is {label}: fill it in, also "
                "where one cell stands for several rows.",
                path=path,
            )
        key = rater, sample_id
        if ratings.setdefault(key, label) != label:
            raise InputError(
                f"{path}: {rater} gives {sample_id} two labels, {ratings[key]} and {label}: keep "
                "one.",
                path=path,
            )
    return ratings


def _named_raters(names: Sequence[str], *, source: str) -> list[str]:
    """Raters as they are told apart: 1.0 is 1 where all are numbers.

    Raises `TrustqError` for two that differ in case alone, of which one may be the other.
    """
    found = [name or "" for name in plain_numbers([name or None for name in names])]
    seen: dict[str, str] = {}
    for name in found:
        if (other := seen.setdefault(name.casefold(), name)) != name:
            raise InputError(
                f"{source}: raters {other!r} and {name!r} differ in case alone: spell them alike "
                "if they are one, and apart if they are two.",
                path=source,
            )
    return found


def rater_consensus(
    ratings: Mapping[tuple[str, str], str],
    *,
    sample_ids: Sequence[str] | np.ndarray,
    probs: np.ndarray,
    classes: Sequence[str],
) -> RaterConsensus:
    """The label of each rated row by its raters and a model that was not fitted on it.

    `ratings` has a label by rater and sample id; `probs`, (n, k), are out-of-fold probabilities of
    the rows `sample_ids` over `classes`. Raters and the model are weighed by how well each agrees
    with the others. Raises `TrustqError` where no row has answers of two raters, where no id is one
    of the model's, and for a label that is not one of the classes. Goh, Tkachenko and Mueller
    (2022).

    >>> ratings = {("ann", "a"): "nv", ("bob", "a"): "mel", ("ann", "b"): "nv", ("bob", "b"): "nv"}
    >>> probs = np.array([[0.9, 0.1], [0.2, 0.8]])
    >>> found = rater_consensus(ratings, sample_ids=["a", "b"], probs=probs, classes=["mel", "nv"])
    >>> found.labels.tolist(), found.majority.tolist()
    (['mel', 'nv'], ['', 'nv'])
    """
    from cleanlab.multiannotator import get_label_quality_multiannotator  # loads pandas

    columns = _columns_of(ratings, classes)
    spelt = list(dict.fromkeys(sample_id for _, sample_id in columns))
    places = find_ids(spelt, np.asarray(sample_ids), source="The answers")
    row_of = dict(zip(spelt, places, strict=True))
    rows = sorted({row for row in places if row is not None})
    if spelt and not rows:
        own = np.asarray(sample_ids)
        raise InputError(
            f"The answers share no id with the model's rows, e.g. {spelt[0]!r} and "
            f"{own.tolist()[0]!r}{nearly(spelt, own)}: spell the ids alike."
        )
    place = {row: at for at, row in enumerate(rows)}
    names = sorted({rater for rater, _ in columns})
    given = np.full((len(rows), len(names)), np.nan)
    left_out = 0
    for (rater, sample_id), column in columns.items():
        if (row := row_of[sample_id]) is None:
            left_out += 1
            continue
        at = place[row], names.index(rater)
        if not np.isnan(given[at]) and given[at] != column:
            raise InputError(
                f"{rater} gives {sample_ids[row]} two labels, {classes[int(given[at])]} and "
                f"{classes[column]}, under two spellings of its id: keep one."
            )
        given[at] = column
    answered = (~np.isnan(given)).sum(axis=1)
    if not (answered > 1).any():
        raise InputError(
            "No row has answers of two raters, so nothing can be said of how good they are: let "
            "raters answer some of the same rows."
        )
    asked = ~np.isnan(given).all(axis=0)  # a rater of left-out rows alone
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of raters who share no row with another
        found = get_label_quality_multiannotator(given[:, asked], probs[rows], verbose=False)
    quality, stats = found["label_quality"], found["annotator_stats"].sort_index()
    labels = np.array(classes, dtype=object)
    return RaterConsensus(
        sample_ids=np.array([sample_ids[row] for row in rows], dtype=object),
        labels=labels[quality["consensus_label"].to_numpy(dtype=np.int64)],
        quality=quality["consensus_quality_score"].to_numpy(dtype=np.float64),
        agreement=quality["annotator_agreement"].to_numpy(dtype=np.float64),
        n_raters=answered,
        majority=np.array([_majority(row, labels) for row in given], dtype=object),
        raters=tuple(
            Rater(names[at], int(n), float(of_all), float(agreement))
            for at, n, of_all, agreement in zip(
                np.flatnonzero(asked),
                stats["num_examples_labeled"],
                stats["annotator_quality"],
                stats["agreement_with_consensus"],
                strict=True,
            )
        ),
        left_out=left_out,
    )


def _columns_of(
    ratings: Mapping[tuple[str, str], str], classes: Sequence[str]
) -> dict[tuple[str, str], int]:
    """The class that each rating names; those that are words for none are left out."""
    find = ClassPosition(classes)
    found: dict[tuple[str, str], int] = {}
    for (rater, sample_id), label in ratings.items():
        column = find(label)
        if column is not None:
            found[rater, sample_id] = column
        elif not is_blank(label):
            raise InputError(
                f"{rater} calls {sample_id} {label!r}; expected one of {', '.join(classes)}.",
                expected=tuple(classes),
                found=label,
            )
    return found


def _majority(given: np.ndarray, labels: np.ndarray) -> str:
    votes = Counter(given[~np.isnan(given)].astype(int).tolist()).most_common(2)
    tied = len(votes) == 2 and votes[0][1] == votes[1][1]
    return "" if tied else str(labels[votes[0][0]])
