"""How far raters agree, and what they say together."""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from trustq.review.journal import Answer


@dataclass(frozen=True)
class Consensus:
    """What raters say of one row: `labels` of most of them; empty where none has most votes."""

    labels: tuple[str, ...]
    n_raters: int
    n_agree: int
    unsure: int
    off_topic: bool = False  # most say that the image does not belong here; then no labels


def consensus(standing: Mapping[tuple[str, str], Answer]) -> dict[str, Consensus]:
    """The labels that more raters gave than any others, by sample id.

    Raters who could not tell are counted apart and do not vote. A tie has no consensus: ask one
    more.
    """
    by_row: dict[str, list[Answer]] = {}
    for (_, sample_id), answer in standing.items():
        by_row.setdefault(sample_id, []).append(answer)
    return {sample_id: said_of(answers) for sample_id, answers in by_row.items()}


def said_of(answers: Iterable[Answer]) -> Consensus:
    """What the raters of one row, each with one answer that stands, say together."""
    answers = list(answers)
    votes = Counter(tuple(sorted(a.labels)) for a in answers if a.kind in ("label", "off-topic"))
    ranked = votes.most_common(2)
    tied = len(ranked) == 2 and ranked[0][1] == ranked[1][1]
    labels = () if not ranked or tied else ranked[0][0]
    unsure = sum(a.kind == "unsure" for a in answers)
    off_topic = bool(ranked) and not tied and not labels
    n_agree = votes[labels] if labels or off_topic else 0
    return Consensus(labels, len(answers), n_agree, unsure, off_topic)


def krippendorff_alpha(ratings: Iterable[Iterable[str]]) -> float:
    """Agreement of any number of raters on nominal labels, beyond chance; 1 is perfect, 0 chance.

    `ratings` holds the labels of each row, as many as raters answered it; rows with fewer than two
    say nothing. NaN where no row has two, or all labels are the same. Krippendorff (2011).

    >>> krippendorff_alpha([["a", "a"], ["b", "b"], ["a", "b"]])
    0.4444444444444444
    """
    coincidences: Counter[tuple[str, str]] = Counter()
    for row in map(list, ratings):
        if len(row) < 2:
            continue
        for i, first in enumerate(row):
            for j, second in enumerate(row):
                if i != j:
                    coincidences[first, second] += 1 / (len(row) - 1)  # type: ignore[assignment]
    totals: Counter[str] = Counter()
    for (first, _), weight in coincidences.items():
        totals[first] += weight
    n = sum(totals.values())
    observed = sum(weight for (a, b), weight in coincidences.items() if a != b)
    expected = sum(totals[a] * totals[b] for a in totals for b in totals if a != b) / (n - 1 or 1)
    return 1 - observed / expected if expected else float("nan")


def cohen_kappa(first: Mapping[str, str], second: Mapping[str, str]) -> tuple[float, int]:
    """Cohen's kappa of two raters over the rows that both answered, and how many those are.

    NaN where there is none, or where both gave one and the same label throughout. Cohen (1960).

    >>> cohen_kappa({"1": "a", "2": "b", "3": "a"}, {"1": "a", "2": "b", "3": "b"})
    (0.4, 3)
    """
    shared = sorted(first.keys() & second.keys())
    n = len(shared)
    if not n:
        return float("nan"), 0
    agree = sum(first[s] == second[s] for s in shared) / n
    ours, theirs = Counter(first[s] for s in shared), Counter(second[s] for s in shared)
    chance = sum(ours[label] * theirs[label] for label in ours) / n**2
    return (round((agree - chance) / (1 - chance), 12) if chance < 1 else float("nan")), n
