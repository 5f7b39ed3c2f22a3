"""What a source of uncertainty gives on some rows, and the sources that networks and heads have.

A source is probabilities with a confidence that ranks rows. Sources of one network that share its
probabilities share one `Outputs`, whose sums are then taken once.
"""

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from trustq.errors import InputError, NotFound
from trustq.evaluation.uncertainty import (
    EnsembleUncertainty,
    collision_confidence,
    ensemble_uncertainty,
    log_odds_of,
    mean_of_logits,
    softmax_with_distance,
)
from trustq.metrics.confidence import MeanDistance, confidence_scores, knn_confidence
from trustq.metrics.probabilities import (
    PROBABILITY_FLOOR,
    checked_logits,
    checked_probs,
    log_softmax_of_rows,
)

CLEAN = "clean"
NEIGHBOURS = 10  # the rank of the neighbour whose distance counts

# What each source is; the order is that of tables. Those of one network first.
SOURCES = {
    "softmax": "probabilities of the network, ranked by log-odds of the top class",
    "temperature": "the same after a temperature fitted on clean held-out rows",
    "margin": "softmax, ranked by first less second probability",
    "entropy": "softmax, ranked by negative entropy",
    "collision": "softmax, ranked by the sum of squared probabilities (DOCTOR)",
    "energy": "softmax, ranked by logsumexp of the logits",
    "max_logit": "softmax, ranked by the largest logit",
    "neighbours": "softmax, ranked by the distance to the 10th nearest training row",
    "mahalanobis": "softmax, ranked by the distance to the nearest class mean of training rows",
    "softmax_neighbours": "softmax, ranked by SIRC of maximum probability and neighbours",
    "softmax_mahalanobis": "softmax, ranked by SIRC of maximum probability and Mahalanobis",
    "passes": "mean of dropout passes, ranked by negative predictive entropy",
    "passes_information": "mean of dropout passes, ranked by negative mutual information",
    "passes_variation": "mean of dropout passes, ranked by negative variation ratio",
    "augmentation": "mean over symmetries of the image, ranked by log-odds",
    "augmentation_information": "mean over symmetries, ranked by negative mutual information",
    "augmentation_spread": "mean over symmetries, ranked by their negative spread",
    "ensemble": "mean probabilities of all networks or heads, ranked by log-odds",
    "ensemble_logits": "mean logits of all networks or heads, ranked by log-odds",
    "ensemble_information": "mean probabilities of all, ranked by negative mutual information",
    "ensemble_disagreement": "mean probabilities of all, ranked by negative pairwise disagreement",
}
OF_ALL = tuple(name for name in SOURCES if name.startswith("ensemble"))


@dataclass(frozen=True, eq=False)
class Outputs:
    """Predictions of n rows as every figure takes them; `of_logits` and `of_probs` make them.

    `scores`, (n, k), rank the rows of a class; `top` is the largest probability.
    """

    probs: np.ndarray
    log_probs: np.ndarray
    scores: np.ndarray
    predicted: np.ndarray
    top: np.ndarray
    rank: np.ndarray  # the confidence of the probabilities themselves

    @classmethod
    def of_logits(cls, logits: np.ndarray) -> "Outputs":
        """Of logits or log-probabilities, (n, k): ranked by log-odds, NLL not clipped.

        >>> Outputs.of_logits(np.array([[2.0, 0.0]])).predicted.tolist()
        [0]
        """
        logits = checked_logits(logits)
        log_probs, rank = log_softmax_of_rows(logits), log_odds_of(logits)
        top = 1 / (1 + np.exp(-rank))
        return cls(np.exp(log_probs), log_probs, log_probs, logits.argmax(axis=1), top, rank)

    @classmethod
    def of_probs(cls, probs: np.ndarray) -> "Outputs":
        """Of stored probabilities, (n, k): ranked by their maximum, NLL clipped at 1e-12.

        >>> Outputs.of_probs(np.array([[0.2, 0.8]])).rank.tolist()
        [0.8]
        """
        probs = checked_probs(probs)
        top = probs.max(axis=1)
        log_probs = np.log(np.maximum(probs, PROBABILITY_FLOOR))
        return cls(probs, log_probs, probs, probs.argmax(axis=1), top, top)


@dataclass(frozen=True, eq=False)
class Source:
    """Outputs with the confidence, (n,), that ranks their rows; higher is surer."""

    outputs: Outputs
    confidence: np.ndarray


@dataclass(frozen=True, eq=False)
class Reference:
    """Training rows that distances are measured from: features (m, d), labels, groups (m,)."""

    features: np.ndarray
    labels: np.ndarray
    groups: np.ndarray

    @functools.cached_property
    def means(self) -> MeanDistance:
        """Distances to its class means, fitted once for all conditions."""
        return MeanDistance(self.features, self.labels)

    @functools.cached_property
    def own_confidence(self) -> dict[str, np.ndarray]:
        """Confidence of its own rows by kind of distance, each filled once by who asks."""
        return {}


@dataclass(frozen=True, eq=False)
class Member:
    """One network, or one head on it: what it gives on the judged rows under every condition.

    `logits` maps conditions, `clean` among them, to (n, k); a member of stored probabilities has
    `probs` instead. `validation` are logits of held-out clean rows with `validation_labels`.
    `passes` and `symmetries` map conditions to (t, n, k) logits; `augmented` to the (n, k) mean
    alone, where the symmetries themselves are not stored. `features` map conditions to (n, d), on
    the scale of the `reference`.
    """

    name: str
    logits: Mapping[str, np.ndarray] = field(default_factory=dict)
    probs: Mapping[str, np.ndarray] = field(default_factory=dict)
    validation: np.ndarray | None = None
    validation_labels: np.ndarray | None = None
    passes: Mapping[str, np.ndarray] = field(default_factory=dict)
    symmetries: Mapping[str, np.ndarray] = field(default_factory=dict)
    augmented: Mapping[str, np.ndarray] = field(default_factory=dict)
    features: Mapping[str, np.ndarray] = field(default_factory=dict)
    reference: Reference | None = None

    @property
    def conditions(self) -> tuple[str, ...]:
        """Names of the conditions that it was run under."""
        return tuple(self.logits or self.probs)

    def outputs(self, condition: str) -> Outputs:
        """Its plain predictions under one condition."""
        if self.logits:
            return Outputs.of_logits(self.logits[condition])
        return Outputs.of_probs(self.probs[condition])


# A map of logits that was fitted on clean rows, such as a temperature; None where there were none.
Calibrate = Callable[[np.ndarray], np.ndarray]


def member_sources(
    member: Member,
    condition: str,
    *,
    calibrate: Calibrate | None,
    groups: np.ndarray,
    wanted: Sequence[str] = tuple(SOURCES),
) -> dict[str, Source]:
    """Every wanted source that one member has under one condition.

    `calibrate` maps logits (n, k) to calibrated ones; `groups`, (n,), keep neighbours of the same
    group from counting. A source that the member lacks under the condition is not there. Raises
    `TrustqError` for passes or symmetries that are all the same.
    """
    plain = member.outputs(condition)
    found = {"softmax": Source(plain, plain.rank)}
    found |= _of_scores(member, condition, plain, wanted)
    if calibrate is not None and "temperature" in wanted:
        logits = member.logits[condition] if member.logits else plain.log_probs
        own = Outputs.of_logits(calibrate(logits))
        if not member.logits:  # what softmax rounded stays rounded
            own = Outputs.of_probs(own.probs)
        found["temperature"] = Source(own, own.rank)
    found |= _of_distances(member, condition, plain, groups, wanted)
    if condition in member.passes and any(name.startswith("passes") for name in wanted):
        own, measures = _of_ensemble(
            f"dropout passes of {member.name} ({condition})", member.passes[condition]
        )
        found["passes"] = Source(own, -measures.entropy)
        found["passes_information"] = Source(own, -measures.mutual_information)
        found["passes_variation"] = Source(own, -measures.variation_ratio)
    if any(name.startswith("augmentation") for name in wanted):
        found |= _of_symmetries(member, condition)
    return {name: found[name] for name in SOURCES if name in found and name in wanted}


def ensemble_sources(
    members: Sequence[Member], condition: str, *, wanted: Sequence[str] = OF_ALL
) -> dict[str, Source]:
    """Sources over all members under one condition; none where there are fewer than two.

    Raises `TrustqError` where all members give the same on every row.
    """
    if len(members) < 2 or not set(wanted) & set(OF_ALL):
        return {}
    log_probs = np.stack([member.outputs(condition).log_probs for member in members])
    mean, measures = _of_ensemble(
        f"{', '.join(member.name for member in members)} ({condition})", log_probs
    )
    of_logits = Outputs.of_logits(mean_of_logits(log_probs))
    found = {
        "ensemble": Source(mean, mean.rank),
        "ensemble_logits": Source(of_logits, of_logits.rank),
        "ensemble_information": Source(mean, -measures.mutual_information),
        "ensemble_disagreement": Source(mean, -measures.disagreement),
    }
    return {name: own for name, own in found.items() if name in wanted}


def require_effect(member: Member) -> None:
    """Raise `TrustqError` for a condition under which a member gives exactly what it gives clean.

    Figures of it would be clean figures under another name.
    """
    given = member.logits or member.probs
    if CLEAN not in given:
        raise InputError(f"{member.name} has no clean predictions to compare conditions with.")
    clean = np.asarray(given[CLEAN])
    for name, own in given.items():
        if name == CLEAN:
            continue
        if np.shape(own) != clean.shape:
            raise InputError(
                f"{member.name}: {name} has shape {np.shape(own)} and clean {clean.shape}: "
                "give the same rows in the same order."
            )
        if np.array_equal(np.asarray(own), clean):
            raise InputError(
                f"The condition {name} changes nothing: {member.name} gives on every row what it "
                "gives on the clean images. Its figures would be clean ones under another name: "
                "leave it out, or look at the images."
            )


def checked_sources(names: Sequence[str]) -> tuple[str, ...]:
    """Names of sources in the order of `SOURCES`; raises `TrustqError` for one that is unknown.

    >>> checked_sources(["energy", "softmax"])
    ('softmax', 'energy')
    """
    unknown = [name for name in names if name not in SOURCES]
    if unknown:
        raise NotFound(
            f"Unknown source {unknown[0]!r}; expected one of {', '.join(SOURCES)}.",
            expected=SOURCES,
            found=unknown[0],
        )
    return tuple(name for name in SOURCES if name in names)


def _of_scores(
    member: Member, condition: str, plain: Outputs, wanted: Sequence[str]
) -> dict[str, Source]:
    if not {"margin", "entropy", "collision", "energy", "max_logit"} & set(wanted):
        return {}
    given = {"logits": member.logits[condition]} if member.logits else {"probs": plain.probs}
    scores = confidence_scores(**given)
    found = {
        "margin": Source(plain, scores["margin"]),
        "entropy": Source(plain, scores["negative_entropy"]),
        "collision": Source(plain, collision_confidence(plain.probs)),
    }
    for name in ("energy", "max_logit"):
        if name in scores:  # probabilities have no such thing
            found[name] = Source(plain, scores[name])
    return found


def _of_distances(
    member: Member, condition: str, plain: Outputs, groups: np.ndarray, wanted: Sequence[str]
) -> dict[str, Source]:
    reference = member.reference
    if reference is None or condition not in member.features:
        return {}
    features = member.features[condition]
    found: dict[str, Source] = {}
    if {"neighbours", "softmax_neighbours"} & set(wanted):
        k = min(NEIGHBOURS, len(reference.features) - 1)

        def nearest(rows: np.ndarray, own: np.ndarray) -> np.ndarray:
            return knn_confidence(
                rows, reference.features, k=k, groups=own, reference_groups=reference.groups
            )

        found |= _with_softmax("neighbours", nearest, plain, features, groups, reference, wanted)
    if {"mahalanobis", "softmax_mahalanobis"} & set(wanted):

        def to_mean(rows: np.ndarray, _: np.ndarray) -> np.ndarray:
            return reference.means.confidence(rows)

        found |= _with_softmax("mahalanobis", to_mean, plain, features, groups, reference, wanted)
    return found


def _with_softmax(
    name: str,
    confidence: Callable[[np.ndarray, np.ndarray], np.ndarray],
    plain: Outputs,
    features: np.ndarray,
    groups: np.ndarray,
    reference: Reference,
    wanted: Sequence[str],
) -> dict[str, Source]:
    own = confidence(features, groups)
    found = {name: Source(plain, own)}
    if f"softmax_{name}" in wanted:
        if name not in reference.own_confidence:
            kept = confidence(reference.features, reference.groups)
            reference.own_confidence[name] = kept
        of_reference = reference.own_confidence[name]
        joined = softmax_with_distance(plain.probs, own, reference=of_reference)
        found[f"softmax_{name}"] = Source(plain, joined)
    return found


def _of_symmetries(member: Member, condition: str) -> dict[str, Source]:
    if condition in member.symmetries:
        own, measures = _of_ensemble(
            f"symmetries of {member.name} ({condition})", member.symmetries[condition]
        )
        return {
            "augmentation": Source(own, own.rank),
            "augmentation_information": Source(own, -measures.mutual_information),
            "augmentation_spread": Source(own, -measures.spread),
        }
    if condition in member.augmented:
        own = Outputs.of_logits(member.augmented[condition])
        return {"augmentation": Source(own, own.rank)}
    return {}


def _of_ensemble(what: str, members: np.ndarray) -> tuple[Outputs, EnsembleUncertainty]:
    try:
        measures = ensemble_uncertainty(members)
    except InputError as error:
        raise InputError(f"{what}: {error}") from error
    return Outputs.of_logits(measures.log_probs), measures
