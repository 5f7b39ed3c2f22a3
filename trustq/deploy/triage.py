"""From probabilities to a tier and what to do: the rules, their cuts and how cuts are chosen.

`decide` is all there is to an answer, and `page/triage.js` is the same in the browser.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from trustq.data.taxonomy import CONDITIONS, label_key, read_taxonomy
from trustq.errors import InputError
from trustq.statistics.intervals import grouped_share_interval

RISK_TIERS = ("low", "moderate", "high")
URGENCY_TIERS = ("monitor", "routine", "priority", "urgent")  # ascending

MALIGNANT = ("melanoma", "basal_cell_carcinoma", "squamous_cell_carcinoma", "actinic_keratosis")
INFLAMMATORY = ("dermatofibroma", "vascular", "non_neoplastic")
URGENT = ("melanoma", "squamous_cell_carcinoma")
PRIORITY = ("basal_cell_carcinoma", "actinic_keratosis")
ROUTINE = ("non_neoplastic",)

# Cuts of the field's app, for who wants its answers; ours are chosen on validation rows.
FIELD_RISK_CUTS = (0.3, 0.6)
FIELD_URGENCY_CUTS = (0.157, 0.295, 0.5)
SENSITIVITIES = (0.95, 0.90, 0.80)  # asked of routine, priority and urgent
CONFIDENCE_CUTS = (0.1, 0.2)  # distances to the nearest cut: moderate above, high above
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


@dataclass(frozen=True)
class Rules:
    """What turns a row of probabilities into an answer.

    `conditions` has the condition of each class, `positive` the classes whose probabilities sum to
    the risk score; `risk_cuts` are two thresholds, `urgency_cuts` three, both ascending.
    `least_confidence` is the largest probability below which the model abstains, `outlier_cut` the
    distance above which an image counts as unlike the training data.
    """

    classes: tuple[str, ...]
    conditions: tuple[str, ...]
    positive: tuple[int, ...]
    risk_cuts: tuple[float, float]
    urgency_cuts: tuple[float, float, float]
    least_confidence: float
    outlier_cut: float

    @property
    def attribute(self) -> dict[str, Any]:
        """As it is stored in a packaged model."""
        return asdict(self)

    @classmethod
    def of_attribute(cls, stored: dict[str, Any]) -> "Rules":
        """From a packaged model."""
        lists = {name: tuple(v) if isinstance(v, list) else v for name, v in stored.items()}
        return cls(**lists)


@dataclass(frozen=True)
class Decision:
    """The answer for one image, without its texts; tiers are of `RISK_TIERS`, `URGENCY_TIERS`."""

    risk_score: float
    risk_tier: str
    urgency_tier: str
    confidence: str  # high, moderate or low
    distance_to_cut: float
    abstained: bool
    unlike: bool
    inflammatory: bool  # an inflammatory class is the likeliest
    top: tuple[int, ...]  # the three likeliest classes


def decide(probs: np.ndarray, distance: float, rules: Rules) -> Decision:
    """The tiers of one row of calibrated probabilities, (k,), and its distance from the known.

    The risk score is the sum over the positive classes. The risk tier goes by its cuts; low becomes
    moderate where an inflammatory class is the likeliest. The urgency tier is the more urgent of
    what the cuts say and what the likeliest class calls for. Where the model abstains, or the image
    is unlike the training data, no tier reassures: low becomes moderate and monitor routine.

    >>> rules = Rules(("mel", "nv"), ("melanoma", "nevus"), (0,), (0.3, 0.6), (0.2, 0.3, 0.5),
    ...               0.6, 9.0)
    >>> decide(np.array([0.05, 0.95]), 1.0, rules).urgency_tier
    'monitor'
    >>> decide(np.array([0.05, 0.95]), 10.0, rules).urgency_tier  # unlike the training data
    'routine'
    """
    score = float(sum(probs[c] for c in rules.positive))
    top = tuple(int(c) for c in np.argsort(-probs, kind="stable")[:3])
    condition = rules.conditions[top[0]]
    inflammatory = condition in INFLAMMATORY
    abstained = float(probs[top[0]]) < rules.least_confidence
    unlike = not distance <= rules.outlier_cut  # a distance that is no number is unlike, too
    risk = sum(score >= cut for cut in rules.risk_cuts)
    urgency = sum(score >= cut for cut in rules.urgency_cuts)
    urgency = max(urgency, _urgency_of(condition))
    if abstained or unlike or inflammatory:
        risk = max(risk, 1)
    if abstained or unlike:
        urgency = max(urgency, 1)
    nearest = min(abs(score - cut) for cut in (*rules.risk_cuts, *rules.urgency_cuts))
    level = sum(nearest > cut for cut in CONFIDENCE_CUTS)
    return Decision(
        risk_score=score,
        risk_tier=RISK_TIERS[risk],
        urgency_tier=URGENCY_TIERS[urgency],
        confidence="low" if abstained or unlike else ("low", "moderate", "high")[level],
        distance_to_cut=nearest,
        abstained=abstained,
        unlike=unlike,
        inflammatory=inflammatory,
        top=top,
    )


def _urgency_of(condition: str) -> int:
    if condition in URGENT:
        return 3
    if condition in PRIORITY:
        return 2
    return 1 if condition in ROUTINE else 0


def triage_categories(probs: np.ndarray, conditions: Sequence[str]) -> dict[str, float]:
    """Probability of malignant, inflammatory and benign conditions; they sum to 1.

    >>> triage_categories(np.array([0.25, 0.75]), ["melanoma", "nevus"])
    {'malignant': 0.25, 'inflammatory': 0.0, 'benign': 0.75}
    """
    sums = {"malignant": 0.0, "inflammatory": 0.0, "benign": 0.0}
    for condition, share in zip(conditions, probs.tolist(), strict=True):
        sums[category_of(condition)] += share
    return sums


def category_of(condition: str) -> str:
    """malignant, inflammatory or benign, of a condition of the taxonomy."""
    if condition in MALIGNANT:
        return "malignant"
    return "inflammatory" if condition in INFLAMMATORY else "benign"


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
    if not 0 < asked <= 1:
        raise InputError(
            f"A sensitivity of {asked} was asked for, expected above 0 and up to 1: "
            "`sensitivities=0.95,0.9,0.8`.",
            found=asked,
        )
    positive = np.asarray(positive, dtype=bool)
    if not positive.any() or positive.all():
        raise InputError(
            f"Of {len(positive)} validation rows {int(positive.sum())} are of the classes that "
            "must not be missed; cuts need rows of both kinds. Use a larger validation split, or "
            "the field's own cuts: `cuts=field`."
        )
    ranked = np.sort(scores[positive])[::-1]
    needed = int(np.ceil(asked * len(ranked) - 1e-9))
    return measured_cut(float(ranked[needed - 1]), scores, positive, asked=asked, groups=groups)


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
