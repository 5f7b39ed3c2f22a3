"""Sources of uncertainty: probabilities and a confidence that ranks rows, as pure functions.

An ensemble is (t, n, k) logits or probabilities of t members on the same rows: dropout passes,
symmetries of the image, networks of several seeds, heads fitted on several draws of noise.
"""

from typing import NamedTuple

import numpy as np

from trustq.errors import InputError
from trustq.metrics.probabilities import (
    checked_logits,
    checked_probs,
    log_odds_of_rows,
    log_softmax_of_rows,
)


class EnsembleUncertainty(NamedTuple):
    """What an ensemble says of each row, (n,) each but for `probs` and `log_probs`, (n, k).

    `entropy` is that of the mean, `expected_entropy` the mean of the members' own; the difference
    is `mutual_information`. `variation_ratio` is the share of members that do not predict the
    class which most predict, `disagreement` the share of pairs of members that predict different
    classes, `spread` the standard deviation over members of the probability of the class that the
    mean predicts. All are higher where the ensemble is less sure.
    """

    probs: np.ndarray
    log_probs: np.ndarray
    entropy: np.ndarray
    expected_entropy: np.ndarray
    mutual_information: np.ndarray
    variation_ratio: np.ndarray
    disagreement: np.ndarray
    spread: np.ndarray


def ensemble_uncertainty(members: np.ndarray, *, kind: str = "logits") -> EnsembleUncertainty:
    """Mean probabilities of an ensemble and every measure of how far its members are apart.

    `members` is (t, n, k) logits, or with `kind="probs"` probabilities. Entropies are in nats.
    Mutual information lies in [0, log min(t, k)] (Houlsby et al. 2011; Gal 2016). Errors: fewer
    than two members, and members that are all the same, for then nothing was varied.

    >>> members = np.log([[[0.9, 0.1], [0.8, 0.2]], [[0.9, 0.1], [0.2, 0.8]]])
    >>> found = ensemble_uncertainty(members)
    >>> found.mutual_information.round(4).tolist(), found.disagreement.tolist()
    ([0.0, 0.1927], [0.0, 1.0])
    """
    log_members = _log_members(members, kind)
    t, _, k = log_members.shape
    if all(np.array_equal(log_members[0], other) for other in log_members[1:]):
        raise InputError(
            f"All {t} members of the ensemble are the same on every row, so their mean is one "
            "member and their disagreement says nothing: pass outputs that were varied (active "
            "dropout, other seeds, other draws)."
        )
    # As a mean in log space, where no probability is too small.
    highest = log_members.max(axis=0)
    log_probs = highest + np.log(np.exp(log_members - highest).mean(axis=0))
    probs = np.exp(log_probs)
    entropy = entropy_of(log_probs)
    own = np.exp(log_members)
    expected = np.mean([entropy_of(one) for one in log_members], axis=0)
    predicted = log_members.argmax(axis=2)  # (t, n)
    votes = np.stack([(predicted == c).sum(axis=0) for c in range(k)])
    top = probs.argmax(axis=1)
    of_top = np.take_along_axis(own, top[None, :, None], axis=2)[..., 0]
    return EnsembleUncertainty(
        probs=probs,
        log_probs=log_probs,
        entropy=entropy,
        expected_entropy=expected,
        # Of equal members rounding leaves 1e-17 on either side of 0.
        mutual_information=np.maximum(entropy - expected, 0.0),
        variation_ratio=1 - votes.max(axis=0) / t,
        disagreement=1 - (votes * (votes - 1)).sum(axis=0) / (t * (t - 1)),
        spread=of_top.std(axis=0),
    )


def mean_of_logits(members: np.ndarray) -> np.ndarray:
    """Mean logits of an ensemble, (n, k): the normalized geometric mean of its probabilities.

    `members` is (t, n, k); each member's logits count as log-probabilities, so that a constant
    which one network adds to all its logits changes nothing. Errors: fewer than two members.

    >>> mean_of_logits(np.log([[[0.8, 0.2]], [[0.2, 0.8]]])).round(4).tolist()
    [[-0.9163, -0.9163]]
    """
    return np.asarray(_log_members(members, "logits").mean(axis=0))


def entropy_of(log_probs: np.ndarray) -> np.ndarray:
    """Entropy in nats of each row of log-probabilities, (n,); a probability of 0 adds 0.

    >>> entropy_of(np.log([[0.5, 0.5]])).round(4).tolist()
    [0.6931]
    """
    finite = np.where(np.isfinite(log_probs), log_probs, 0.0)
    return np.asarray(np.maximum(-(np.exp(log_probs) * finite).sum(axis=1), 0.0))


def collision_confidence(probs: np.ndarray) -> np.ndarray:
    """Sum of squared probabilities, (n,): the chance that two draws from a row's classes agree.

    `probs` is (n, k). Lies in [1/k, 1], higher is surer; orders rows as DOCTOR's alpha does
    (Granese et al. 2021), of which it is the monotone core.

    >>> collision_confidence(np.array([[0.5, 0.5], [1.0, 0.0]])).tolist()
    [0.5, 1.0]
    """
    return np.asarray((checked_probs(probs) ** 2).sum(axis=1))


def softmax_with_distance(
    probs: np.ndarray, distance_confidence: np.ndarray, *, reference: np.ndarray
) -> np.ndarray:
    """Maximum probability joined with a confidence from feature space, (n,), higher is surer.

    -(1 - s) (1 + exp(-b (c - a))) with s the largest of `probs`, (n, k), and c the
    `distance_confidence`, (n,), e.g. of nearest neighbours; a is the mean of the `reference`
    confidences, (m,), less three standard deviations, b one over their standard deviation. Near the
    reference rows it is s, far from them it falls. SIRC, Xia and Bouganis (2022). Errors: a
    reference without spread.

    >>> probs = np.array([[0.9, 0.1], [0.9, 0.1]])
    >>> near, far = softmax_with_distance(
    ...     probs, np.array([-1.0, -9.0]), reference=np.array([-1.0, -1.2, -0.8])
    ... )
    >>> bool(near > far), round(float(near), 3)
    (True, -0.105)
    """
    top = checked_probs(probs).max(axis=1)
    confidence = np.asarray(distance_confidence, dtype=np.float64)
    reference = np.asarray(reference, dtype=np.float64)
    if confidence.shape != top.shape or reference.ndim != 1 or len(reference) < 2:
        raise InputError(
            f"distance_confidence has shape {confidence.shape} and reference {reference.shape}: "
            f"pass ({len(top)},) and one number per reference row, two or more."
        )
    spread = float(reference.std())
    if spread == 0:
        raise InputError("The reference confidences are all the same: pass those of other rows.")
    # Far from all reference rows the exponential would overflow; the order is what counts.
    exponent = np.minimum(-(confidence - (reference.mean() - 3 * spread)) / spread, 600.0)
    return np.asarray(-(1 - top) * (1 + np.exp(exponent)))


def log_odds_of(log_probs: np.ndarray) -> np.ndarray:
    """Log-odds of the top class, (n,), of log-probabilities or logits (n, k); ranks any of them.

    >>> log_odds_of(np.log([[0.5, 0.5]])).tolist()
    [0.0]
    """
    return log_odds_of_rows(log_probs)


def _log_members(members: np.ndarray, kind: str) -> np.ndarray:
    members = np.asarray(members)
    if members.ndim != 3 or len(members) < 2:
        raise InputError(
            f"The ensemble has shape {members.shape}, expected (t, n, k) with two members or more.",
            where="members",
            found=members.shape,
        )
    if kind == "logits":
        return np.stack([log_softmax_of_rows(checked_logits(one)) for one in members])
    if kind != "probs":
        raise InputError(f"kind is {kind!r}: expected logits or probs.", where="kind", found=kind)
    with np.errstate(divide="ignore"):
        return np.asarray(np.log(np.stack([checked_probs(one) for one in members])))
