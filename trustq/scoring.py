"""Label-quality scores: in [0, 1], lower = more suspicious, as cleanlab has it."""

from collections.abc import Callable

import numpy as np

from trustq.errors import TrustqError
from trustq.heads.out_of_fold import OutOfFold, TrainingRows


def label_quality(
    out_of_fold: OutOfFold, observed: np.ndarray, *, training: TrainingRows, score: str
) -> np.ndarray:
    """Quality of each observed label, (n,) in [0, 1], lower = more suspicious, NaN = no score.

    `observed` and `training` must be those that `out_of_fold` was made from, or `TrustqError` is
    raised. A row has no score when its class was absent from the training part of its fold.
    `self_confidence` and `normalized_margin` are cleanlab's (Northcutt et al. 2021); `entropy`
    looks at no label and finds uncertain images rather than wrong labels.
    """
    if score not in SCORES:
        raise TrustqError(f"Unknown score {score!r}; there are {', '.join(SCORES)}.")
    out_of_fold.require(training, observed)
    quality = np.full(len(observed), np.nan)
    known = out_of_fold.scorable
    if known.any():
        quality[known] = SCORES[score](observed[known], out_of_fold.probs[known])
    return quality


def _cleanlab(method: str) -> Callable[[np.ndarray, np.ndarray], np.ndarray]:
    def quality(labels: np.ndarray, probs: np.ndarray) -> np.ndarray:
        # cleanlab imports pandas, so that only a command that scores waits for it.
        from cleanlab.rank import get_label_quality_scores

        scores = get_label_quality_scores(labels.astype(np.int64), probs, method=method)
        return np.asarray(scores, dtype=np.float64)

    return quality


def _one_minus_entropy(_: np.ndarray, probs: np.ndarray) -> np.ndarray:
    # In units of log k, so that a uniform row has quality 0 and a certain one 1.
    logs = np.log(np.clip(probs, 1e-300, None))
    entropy = -(probs * logs).sum(axis=1) / np.log(max(probs.shape[1], 2))
    return np.asarray(np.clip(1 - entropy, 0, 1))


SCORES: dict[str, Callable[[np.ndarray, np.ndarray], np.ndarray]] = {
    "self_confidence": _cleanlab("self_confidence"),
    "normalized_margin": _cleanlab("normalized_margin"),
    "entropy": _one_minus_entropy,
}
