"""From probabilities to a tier and what to do: the rules, without how their cuts are chosen.

`decide` is all there is to an answer, and `page/triage.js` is the same in the browser.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

RISK_TIERS = ("low", "moderate", "high")
URGENCY_TIERS = ("monitor", "routine", "priority", "urgent")  # ascending

MALIGNANT = ("melanoma", "basal_cell_carcinoma", "squamous_cell_carcinoma", "actinic_keratosis")
INFLAMMATORY = ("dermatofibroma", "vascular", "non_neoplastic")
URGENT = ("melanoma", "squamous_cell_carcinoma")
PRIORITY = ("basal_cell_carcinoma", "actinic_keratosis")
ROUTINE = ("non_neoplastic",)

CONFIDENCE_CUTS = (0.1, 0.2)  # distances to the nearest cut: moderate above, high above


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
        lists: dict[str, Any] = {
            name: tuple(v) if isinstance(v, list) else v for name, v in stored.items()
        }
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
    shares = probs.tolist()  # as numbers of Python: a few of them cost numpy more
    score = float(sum(shares[c] for c in rules.positive))
    top = tuple(sorted(range(len(shares)), key=lambda c: -shares[c])[:3])
    condition = rules.conditions[top[0]]
    inflammatory = condition in INFLAMMATORY
    abstained = shares[top[0]] < rules.least_confidence
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
