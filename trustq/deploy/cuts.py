"""How the cuts of a triage are chosen: on validation rows, for asked sensitivities.

Of cuts that reach a sensitivity on validation rows about half have less of it on new ones, for no
better reason than chance: `assured_cut` leaves room for that.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from trustq.core.counts import counted
from trustq.data.taxonomy import CONDITIONS, label_key, read_taxonomy
from trustq.deploy.triage import MALIGNANT
from trustq.errors import InputError
from trustq.metrics.risk_guarantee import one_row_per_group
from trustq.statistics.intervals import grouped_share_interval

# Cuts of the field's app, for who wants its answers; ours are chosen on validation rows.
FIELD_RISK_CUTS = (0.3, 0.6)
FIELD_URGENCY_CUTS = (0.157, 0.295, 0.5)
SENSITIVITIES = (0.95, 0.90, 0.80)  # asked of routine, priority and urgent
ASSURED = 0.95  # how often new rows reach the sensitivity of an assured cut
COVERAGE = 0.9  # share of validation rows that the model answers for
OUTLIER_SHARE = 0.01  # share of validation rows that count as unlike

_TAXONOMIES = ("ham10000", "isic2019", "pad-ufes-20", "bcn20000", "fitzpatrick17k", "ddi")


@dataclass(frozen=True)
class Cut:
    """A threshold on the risk score (at or above: flagged) and what it did on validation rows."""

    threshold: float
    asked: float | None  # sensitivity that was asked for; None where the cut was given
    sensitivity: float
    sensitivity_lower: float
    sensitivity_upper: float
    specificity: float
    n_positive: int
    n_negative: int


def conditions_of(classes: Sequence[str]) -> tuple[str, ...] | None:
    """The condition of each class, from the first taxonomy that knows all; None without one.

    >>> conditions_of(["mel", "nv"])
    ('melanoma', 'nevus')
    """
    if all(label_key(name) in map(label_key, CONDITIONS) for name in classes):
        by_key = {label_key(name): name for name in CONDITIONS}
        return tuple(by_key[label_key(name)] for name in classes)
    for taxonomy in _TAXONOMIES:
        table = read_taxonomy(taxonomy)
        if all(label_key(name) in table for name in classes):
            found = [table[label_key(name)].condition for name in classes]
            return tuple(name or "other" for name in found)
    return None


def positive_classes(
    classes: Sequence[str], conditions: Sequence[str] | None, named: Sequence[str]
) -> tuple[int, ...]:
    """Positions of the classes that must not be missed: those named, or the malignant ones.

    Raises `TrustqError` for an unknown name, for all classes, and where no class is malignant.
    """
    unknown = [name for name in named if name not in classes]
    if unknown:
        raise InputError(
            f"Unknown classes {', '.join(unknown)}; expected some of {', '.join(classes)}.",
            expected=classes,
            found=unknown,
        )
    if named:
        found = tuple(c for c, name in enumerate(classes) if name in named)
    else:
        found = tuple(c for c, name in enumerate(conditions or ()) if name in MALIGNANT)
    if not found or len(found) == len(classes):
        raise InputError(
            f"Which of the classes {', '.join(classes)} must not be missed is not known from the "
            "taxonomy. Name them, not all of them: `positive=A,B`."
        )
    return found


def cut_at_sensitivity(
    scores: np.ndarray, positive: np.ndarray, *, asked: float, groups: np.ndarray | None = None
) -> Cut:
    """The highest cut at which validation rows reach the asked sensitivity.

    `scores` is (n,), `positive` (n,) of flags, `groups` (n,) widens the interval. Raises
    `TrustqError` without positive or without negative rows, and for a sensitivity outside (0, 1].

    >>> cut = cut_at_sensitivity(np.array([0.1, 0.4, 0.6, 0.9]), np.array([0, 0, 1, 1]), asked=0.5)
    >>> cut.threshold, cut.sensitivity, cut.specificity
    (0.9, 0.5, 1.0)
    """
    positive = _asked_of(positive, asked)
    ranked = np.sort(scores[positive])[::-1]
    needed = int(np.ceil(asked * len(ranked) - 1e-9))
    return measured_cut(float(ranked[needed - 1]), scores, positive, asked=asked, groups=groups)


def assured_cut(
    scores: np.ndarray,
    positive: np.ndarray,
    *,
    asked: float,
    groups: np.ndarray | None = None,
    seed: int = 0,
) -> Cut:
    """The highest cut that new rows will reach the asked sensitivity at, with 95 % confidence.

    `scores` is (n,), `positive` (n,) of flags. Below it lie so few of the positive rows that as few
    would be seen in at most 5 % of samples, were the sensitivity less: an exact binomial tail, for
    independent rows like these. With `groups`, (n,), one positive row of each is drawn from `seed`,
    and the promise is about a random row of a random group. Raises `TrustqError` as
    `cut_at_sensitivity`, and where there are too few for that sensitivity. Wilks (1941).

    >>> scores, positive = np.linspace(0, 1, 201), np.arange(201) > 100
    >>> assured_cut(scores, positive, asked=0.9).sensitivity
    0.96
    """
    from scipy.stats import binom

    positive = _asked_of(positive, asked)
    rows = np.flatnonzero(positive)
    if groups is not None:
        rows = rows[one_row_per_group(groups[rows], len(rows), seed)]
    ranked = np.sort(scores[rows])
    # How many of so many rows may lie up to the cut, itself the last of them.
    tail = binom.cdf(np.arange(len(rows)), len(rows), 1 - asked)
    place = int(np.searchsorted(tail, 1 - ASSURED))
    if place == 0 or asked == 1:
        few = "" if asked == 1 else f"; it takes {_least_rows(asked):,}"
        unit = "row" if groups is None else "group"
        raise InputError(
            f"{counted(len(rows), unit)} of the classes that must not be missed cannot assure a "
            f"sensitivity of {asked:g} with 95 % confidence{few}. Ask for less "
            "(`sensitivities=0.9,0.8,0.7`), or choose cuts that hold on these rows alone "
            "(`cuts=validation`).",
            found=len(rows),
        )
    return measured_cut(float(ranked[place - 1]), scores, positive, asked=asked, groups=groups)


def _least_rows(asked: float) -> int:
    """Positive rows that assure a sensitivity where none of them is missed."""
    return math.ceil(math.log(1 - ASSURED) / math.log(asked))


def _asked_of(positive: np.ndarray, asked: float) -> np.ndarray:
    """The flags, where there are rows of both kinds and the sensitivity is one."""
    if not 0 < asked <= 1:
        raise InputError(
            f"A sensitivity of {asked} was asked for, expected above 0 and up to 1: "
            "`sensitivities=0.95,0.9,0.8`.",
            found=asked,
        )
    positive = np.asarray(positive, dtype=bool)
    if not positive.any() or positive.all():
        raise InputError(
            f"Of {counted(len(positive), 'validation row')} {int(positive.sum())} are of the "
            "classes that must not be missed; cuts need rows of both kinds. Use a larger "
            "validation split, or the field's own cuts: `cuts=field`."
        )
    return positive


def measured_cut(
    threshold: float,
    scores: np.ndarray,
    positive: np.ndarray,
    *,
    asked: float | None = None,
    groups: np.ndarray | None = None,
) -> Cut:
    """A given cut with what it does on rows: sensitivity with interval, and specificity."""
    positive = np.asarray(positive, dtype=bool)
    hits = scores[positive] >= threshold
    misses = scores[~positive] < threshold
    own = None if groups is None else groups[positive]
    bounds = grouped_share_interval(hits, own)
    return Cut(
        threshold=threshold,
        asked=asked,
        sensitivity=float(hits.mean()) if len(hits) else float("nan"),
        sensitivity_lower=bounds.lower,
        sensitivity_upper=bounds.upper,
        specificity=float(misses.mean()) if len(misses) else float("nan"),
        n_positive=int(positive.sum()),
        n_negative=int((~positive).sum()),
    )


def confidence_at_coverage(top: np.ndarray, coverage: float) -> float:
    """The largest-probability cut at which the asked share of rows is answered.

    >>> confidence_at_coverage(np.array([0.5, 0.6, 0.8, 0.9]), 0.75)
    0.6
    """
    if not 0 < coverage <= 1:
        raise InputError(
            f"`coverage={coverage}`: expected a share above 0 and up to 1.", found=coverage
        )
    ranked = np.sort(top)[::-1]
    return float(ranked[max(int(np.ceil(coverage * len(ranked) - 1e-9)), 1) - 1])


def cut_of_distances(distances: np.ndarray, share: float) -> float:
    """The distance above which at most this share of validation rows lies.

    >>> cut_of_distances(np.arange(100.0), 0.01)
    98.0
    """
    if not 0 <= share < 1:
        raise InputError(f"`outlier_share={share}`: expected from 0 to below 1.", found=share)
    ranked = np.sort(distances)
    return float(ranked[len(ranked) - 1 - int(np.floor(share * len(ranked) + 1e-9))])
