"""Label-blind scores: which images a model is unsure of, whatever their labels say.

They come from active learning, where the labels are not yet there. Uncertain images need not have
wrong labels. All are in [0, 1], lower = asked for first.
"""

import numpy as np

from trustq.errors import InputError
from trustq.metrics.probabilities import softmax

_SMALLEST = 1e-300  # so that logarithms are finite


def one_minus_entropy(probs: np.ndarray) -> np.ndarray:
    """1 - entropy / log k, (n,): a uniform row has 0 and a certain one 1.

    >>> one_minus_entropy(np.array([[0.5, 0.5], [1.0, 0.0]])).tolist()
    [0.0, 1.0]
    """
    logs = np.log(np.clip(probs, _SMALLEST, None))
    entropy = -(probs * logs).sum(axis=1) / np.log(max(probs.shape[1], 2))
    return np.asarray(np.clip(1 - entropy, 0, 1))


def least_confidence(probs: np.ndarray) -> np.ndarray:
    """The highest probability, (n,).

    >>> least_confidence(np.array([[0.7, 0.2, 0.1]])).tolist()
    [0.7]
    """
    return np.asarray(probs.max(axis=1))


def margin(probs: np.ndarray) -> np.ndarray:
    """The highest probability less the second, (n,).

    >>> margin(np.array([[0.7, 0.2, 0.1]])).round(3).tolist()
    [0.5]
    """
    ordered = np.partition(probs, -2, axis=1)
    return np.asarray(ordered[:, -1] - ordered[:, -2])


def bald(passes: np.ndarray) -> np.ndarray:
    """1 - mutual information of label and weights / log k, (n,); Houlsby et al. 2011.

    `passes` is (t, n, k) of logits of t stochastic passes. Raises `TrustqError` for fewer than two.

    >>> bald(np.array([[[30.0, 0.0], [30.0, 0.0]], [[30.0, 0.0], [0.0, 30.0]]])).round(6).tolist()
    [1.0, 0.0]
    """
    if passes.ndim != 3 or len(passes) < 2:
        raise InputError(
            f"The passes have shape {passes.shape}, expected (t, n, k) with two passes or more."
        )
    # One pass at a time: 20 passes in float64 would be many times the features.
    mean, certainty = np.zeros(passes.shape[1:]), np.zeros(passes.shape[1])
    for logits in passes:
        probs = softmax(np.asarray(logits, dtype=np.float64))
        mean += probs / len(passes)
        certainty += one_minus_entropy(probs) / len(passes)
    return np.asarray(np.clip(1 - (certainty - one_minus_entropy(mean)), 0, 1))
