"""Label-quality scores: in [0, 1], lower = more suspicious, as cleanlab has it."""

from collections.abc import Callable, Sequence
from functools import partial

import numpy as np

from trustq.core.plugins import Plugin, find_plugin, plugin_names
from trustq.errors import InputError
from trustq.heads.out_of_fold import PASSES, OutOfFold, TrainingRows
from trustq.scoring import acquisition, confident, neighbours

__all__ = [
    "FEATURE_SCORES",
    "LABEL_BLIND",
    "NO_PROBABILITIES",
    "PASS_SCORES",
    "SCORES",
    "SCORE_NAMES",
    "SCORE_TITLES",
    "ensemble_quality",
    "feature_quality",
    "is_score",
    "label_quality",
    "known_scores",
    "score_of",
    "score_title",
]


def label_quality(
    out_of_fold: OutOfFold,
    observed: np.ndarray,
    *,
    training: TrainingRows,
    score: str,
    features: np.ndarray | None = None,
    chosen: np.ndarray | None = None,
    n_wanted: int = 0,
    kept: np.ndarray | None = None,
) -> np.ndarray:
    """Quality of each observed label, (n,) in [0, 1], lower = more suspicious, NaN = no score.

    `observed` and `training` must be those that `out_of_fold` was made from, or `TrustqError` is
    raised. A row has no score when its class was absent from the training part of its fold.
    SCORES look at probabilities alone. `hybrid` also needs `features`, (n, d), of the same rows,
    those that are covered already (`chosen`, (n,) of bool) and the size of the batch (`n_wanted`).
    SCORES know only of the labels that are `kept`, (n,) of bool; the others have no score.
    PASS_SCORES look at the dropout passes that `out_of_fold` was read from. Scores that are
    LABEL_BLIND find uncertain images rather than wrong labels. Scores of plug-ins are of
    probabilities alone, as SCORES are.
    """
    if not is_score(score):
        raise InputError(
            f"Unknown score {score!r}; there are {', '.join(known_scores())}.",
            expected=known_scores(),
            found=score,
        )
    of_probabilities = score not in (*FEATURE_SCORES, *PASS_SCORES)
    out_of_fold.require(training, observed)
    quality = np.full(len(observed), np.nan)
    known = out_of_fold.scorable
    if not known.any():
        return quality
    if of_probabilities and kept is not None:
        known = known & kept
    labels, probs = np.asarray(observed)[known].astype(np.int64), out_of_fold.probs[known]
    if of_probabilities:
        quality[known] = score_of(score)(labels, probs)
        return quality
    if score in PASS_SCORES:
        if out_of_fold.source != "passes":
            raise InputError(
                f"{score} is of dropout passes, and these probabilities are from the source "
                f"{out_of_fold.source!r}; use read_passes."
            )
        own = training.cache.extra[PASSES][:, training.rows]
        quality[known] = PASS_SCORES[score](own[:, known])
        return quality
    if score in NO_PROBABILITIES:
        raise InputError(f"{score} is computed from features alone; call feature_quality.")
    own = _given(features, score, len(observed))
    covered = np.zeros(len(observed), dtype=bool) if chosen is None else chosen
    # In the order of their ids, so that of equal rows the same one is taken however they lie.
    by_id = np.argsort(training.cache.sample_id[training.rows][known], kind="stable")
    found = np.empty(len(by_id))
    found[by_id] = neighbours.hybrid(
        probs[by_id],
        own[np.flatnonzero(known)[by_id]],
        covered[known][by_id],
        n_wanted=n_wanted,
    )
    quality[known] = found
    return quality


def feature_quality(
    score: str,
    *,
    labels: np.ndarray,
    features: np.ndarray,
    training: TrainingRows,
    chosen: np.ndarray | None = None,
    n_wanted: int = 0,
    kept: np.ndarray | None = None,
) -> np.ndarray:
    """Quality by a score that uses features alone, (n,) in [0, 1], lower = more suspicious.

    `score` is one of NO_PROBABILITIES; `labels` (n,) are observed and `features` (n, d), both of
    the `training` rows, whose groups keep relatives from voting. `chosen` and `n_wanted` are as in
    `label_quality`; neighbours vote whose labels are `kept`, and where none of them is there is no
    score (NaN). Raises `TrustqError` for another score or other shapes.
    """
    if score not in NO_PROBABILITIES:
        raise InputError(
            f"{score} is no score of features alone; there are {', '.join(NO_PROBABILITIES)}.",
            expected=NO_PROBABILITIES,
        )
    features = _given(features, score, len(training.rows))
    if score == "knn_agreement":
        return neighbours.knn_agreement(labels, features, training.groups, voters=kept)
    covered = np.zeros(len(labels), dtype=bool) if chosen is None else chosen
    by_id = np.argsort(training.cache.sample_id[training.rows], kind="stable")
    quality = np.empty(len(by_id))
    quality[by_id] = neighbours.k_centre(features[by_id], covered[by_id], n_wanted=n_wanted)
    return quality


def ensemble_quality(
    members: Sequence[OutOfFold],
    observed: np.ndarray,
    *,
    training: Sequence[TrainingRows],
    score: str,
    kept: np.ndarray | None = None,
) -> np.ndarray:
    """Mean quality of the same rows by several models, (n,), as cleanlab's ensemble has it.

    Members are of other heads or of other backbone seeds, each with its own `training` rows, of the
    same samples in the same order. They count by their accuracy on the observed labels. A row has a
    score where every member gives it one. `score` is one of SCORES, `kept` as in `label_quality`.
    Raises `TrustqError` for another score, for fewer than two members, or where the rows differ.
    """
    score_of(score)  # refuses what is no score of probabilities
    if len(members) < 2:
        raise InputError(f"An ensemble has two members or more; there are {len(members)}.")
    if len({own.rows_digest for own in training}) > 1:
        raise InputError("The members of an ensemble are of different rows or orders of rows.")
    qualities, accuracies = [], []
    counted = slice(None) if kept is None else kept
    for member, own in zip(members, training, strict=True):
        qualities.append(label_quality(member, observed, training=own, score=score, kept=kept))
        accuracies.append((member.probs.argmax(axis=1) == observed)[counted].mean())
    weights = np.array(accuracies) / max(sum(accuracies), 1e-300)
    return np.asarray((np.stack(qualities, axis=1) * weights).sum(axis=1))


def _given(features: np.ndarray | None, score: str, n: int) -> np.ndarray:
    if features is None:
        raise InputError(f"{score} is computed from features, (n, d); pass features=.")
    if features.ndim != 2 or len(features) != n:
        raise InputError(
            f"features has shape {features.shape}, expected (n, d) with n = {n}: one row for each "
            "of the training rows.",
            where="features",
            found=features.shape,
        )
    return features


Score = Callable[[np.ndarray, np.ndarray], np.ndarray]


def _adjusted(labels: np.ndarray, probs: np.ndarray, *, by: Score) -> np.ndarray:
    return by(labels, confident.adjusted_probs(labels, probs))


def _filtered(labels: np.ndarray, probs: np.ndarray, *, method: str) -> np.ndarray:
    # What the filter flags comes first; both halves in the order of their self-confidence.
    issues = confident.find_label_issues(labels, probs, method=method)
    return np.where(issues, 0.0, 0.5) + confident.self_confidence(labels, probs) / 2


def _cross_entropy_minus_entropy(labels: np.ndarray, probs: np.ndarray) -> np.ndarray:
    """Bernhardt et al. 2022: a suspicious label of a clear image, not an ambiguous image.

    p exp(H) / (1 + p exp(H)), p of the given label: it falls as cross-entropy less entropy rises.
    """
    logs = np.log(np.clip(probs, 1e-300, None))
    odds = confident.self_confidence(labels, probs) * np.exp(-(probs * logs).sum(axis=1))
    return np.asarray(odds / (1 + odds))


def _blind(_: np.ndarray, probs: np.ndarray, *, by: Callable[..., np.ndarray]) -> np.ndarray:
    return by(probs)


# Of labels, (n,), and probabilities, (n, k), alone.
SCORES: dict[str, Score] = {
    "self_confidence": confident.self_confidence,
    "noise_posterior": confident.noise_posterior,
    "normalized_margin": confident.normalized_margin,
    "mean_rank": confident.mean_rank,
    "confidence_weighted_entropy": confident.confidence_weighted_entropy,
    "self_confidence_adjusted": partial(_adjusted, by=confident.self_confidence),
    "normalized_margin_adjusted": partial(_adjusted, by=confident.normalized_margin),
    **{method: partial(_filtered, method=method) for method in confident.FILTERS},
    "cross_entropy_minus_entropy": _cross_entropy_minus_entropy,
    "entropy": partial(_blind, by=acquisition.one_minus_entropy),
    "least_confidence": partial(_blind, by=acquisition.least_confidence),
    "margin": partial(_blind, by=acquisition.margin),
}
FEATURE_SCORES = ("knn_agreement", "k_centre", "hybrid")
PASS_SCORES = {"bald": acquisition.bald}
SCORE_NAMES = (*SCORES, *FEATURE_SCORES, *PASS_SCORES)

LABEL_BLIND = ("entropy", "least_confidence", "margin", "k_centre", "hybrid", "bald")
NO_PROBABILITIES = ("knn_agreement", "k_centre")

# Stored in results, where another spelling would part the rows of old runs and new ones.
SCORE_TITLES = {
    "self_confidence": "self-confidence",
    "noise_posterior": "posterior of the given label",
    "normalized_margin": "normalised margin",
    "mean_rank": "mean rank of three scores",
    "confidence_weighted_entropy": "confidence-weighted entropy",
    "self_confidence_adjusted": "self-confidence, class-adjusted",
    "normalized_margin_adjusted": "normalised margin, class-adjusted",
    "prune_by_class": "confident joint, by class",
    "prune_by_noise_rate": "confident joint, by noise rate",
    "prune_by_both": "confident joint, by class and rate",
    "confident_learning": "confident joint, off-diagonal",
    "predicted_neq_given": "predicted is not given",
    "low_self_confidence": "confident joint, lowest self-confidence",
    "low_normalized_margin": "confident joint, lowest margin",
    "cross_entropy_minus_entropy": "cross-entropy minus entropy",
    "entropy": "entropy",
    "least_confidence": "least confidence",
    "margin": "margin of the top two",
    "knn_agreement": "agreement of neighbours",
    "k_centre": "k-centre",
    "hybrid": "entropy and k-centre",
    "bald": "BALD",
}


def is_score(name: str) -> bool:
    """Whether there is a score of this name, built in or of a plug-in.

    >>> is_score("self_confidence"), is_score("guess")
    (True, False)
    """
    return name in SCORE_NAMES or find_plugin("scores", name) is not None


def known_scores() -> tuple[str, ...]:
    """Names of all scores, those of plug-ins last."""
    return (*SCORE_NAMES, *plugin_names("scores", taken=SCORE_NAMES))


def score_title(name: str) -> str:
    """The name of a score for people."""
    plugin = None if name in SCORE_TITLES else find_plugin("scores", name)
    return SCORE_TITLES[name] if plugin is None else plugin.title


def score_of(name: str) -> Score:
    """The function of a score: labels (n,) and probabilities (n, k) to quality (n,).

    Raises `TrustqError` for one that needs more than probabilities, and for an unknown one.

    >>> score_of("self_confidence")(np.array([0]), np.array([[0.9, 0.1]])).tolist()
    [0.9]
    """
    if name in SCORES:
        return SCORES[name]
    plugin = None if name in SCORE_NAMES else find_plugin("scores", name)
    if plugin is None:
        known = (*SCORES, *plugin_names("scores", taken=SCORE_NAMES))
        why = "is no score of probabilities alone" if name in SCORE_NAMES else "is unknown"
        raise InputError(
            f"Score {name!r} {why}; there are {', '.join(known)}.", expected=known, found=name
        )
    return partial(_checked, plugin=plugin, score=plugin.load())


def _checked(labels: np.ndarray, probs: np.ndarray, *, plugin: Plugin, score: Score) -> np.ndarray:
    quality = np.asarray(score(labels.copy(), probs.copy()), dtype=np.float64)
    plugin.require(
        quality.shape == labels.shape and not ((quality < 0) | (quality > 1)).any(),
        f"quality of each label, ({len(labels)},) in [0, 1] with NaN for none",
    )
    return quality
