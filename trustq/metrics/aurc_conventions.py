"""The area under the risk-coverage curve as others compute it, by the name of the convention."""

import numpy as np

from trustq.errors import InputError
from trustq.metrics.ranking import falling_order
from trustq.metrics.selective import aurc_of_steps, checked_ranking, risk_steps

AURC_CONVENTIONS = ("exact", "geifman-code", "fd-shifts", "torch-uncertainty", "trustquerynet")


def aurc_by(convention: str, wrong: np.ndarray, confidence: np.ndarray) -> float:
    """AURC in a named convention, for comparison with a published figure.

    `exact` is `selective.aurc`. `geifman-code` (Geifman and El-Yaniv's repository) divides the
    errors of the first k rows by k + 1; `fd-shifts` is a trapezoid between distinct thresholds,
    flat to coverage 0; `torch-uncertainty` a trapezoid from coverage 1/n, divided by 1 - 1/n;
    `trustquerynet` one over the thresholds 0, .01, ..., 1, so confidences must lie in [0, 1].
    geifman-code and torch-uncertainty do not handle ties and depend on the order of rows: the
    first takes the last of equal rows first, the second the first. Lies in [0, 1], lower is better.

    >>> wrong, confidence = np.array([0, 0, 1, 1, 0]), np.array([0.9, 0.8, 0.7, 0.6, 0.8])
    >>> {name: round(aurc_by(name, wrong, confidence), 4) for name in AURC_CONVENTIONS[1:4]}
    {'geifman-code': 0.12, 'fd-shifts': 0.09, 'torch-uncertainty': 0.1125}
    """
    if convention not in AURC_CONVENTIONS:
        raise InputError(
            f"convention is {convention!r}: expected one of {', '.join(AURC_CONVENTIONS)}.",
            where="convention",
            found=convention,
            expected=AURC_CONVENTIONS,
        )
    wrong, confidence = checked_ranking(wrong, confidence)
    if convention == "exact":
        return aurc_of_steps(risk_steps(wrong, confidence))
    if convention == "trustquerynet" and (confidence.min() < 0 or confidence.max() > 1):
        raise InputError(
            f"confidence lies in [{confidence.min():g}, {confidence.max():g}], but convention "
            "trustquerynet has thresholds from 0 to 1: pass the maximum probability."
        )
    areas = {
        "geifman-code": _geifman_code,
        "fd-shifts": _fd_shifts,
        "torch-uncertainty": _torch_uncertainty,
        "trustquerynet": _trustquerynet,
    }
    return areas[convention](wrong, confidence)


def all_conventions(wrong: np.ndarray, confidence: np.ndarray) -> dict[str, float]:
    """AURC in every convention that fits the confidence, `exact` first.

    `trustquerynet` is left out where confidences lie outside [0, 1]. The spread, largest less
    smallest, is how far two papers may differ on the same predictions.

    >>> list(all_conventions(np.array([0, 1]), np.array([3.0, 2.0])))
    ['exact', 'geifman-code', 'fd-shifts', 'torch-uncertainty']
    """
    wrong, confidence = checked_ranking(wrong, confidence)
    fits = confidence.min() >= 0 and confidence.max() <= 1
    return {
        name: aurc_by(name, wrong, confidence)
        for name in AURC_CONVENTIONS
        if fits or name != "trustquerynet"
    }


def _geifman_code(wrong: np.ndarray, confidence: np.ndarray) -> float:
    # The last of equal rows first: the falling order of the rows from behind.
    errors = np.cumsum(wrong[::-1][falling_order(confidence[::-1])])
    n = len(wrong)
    divisors = np.minimum(np.arange(2, n + 2), n)
    return float((errors / divisors).sum() / n)


def _fd_shifts(wrong: np.ndarray, confidence: np.ndarray) -> float:
    steps = risk_steps(wrong, confidence)
    risk = steps.errors / steps.kept
    return float(np.trapezoid(np.append(risk[0], risk), np.append(0, steps.kept)) / len(wrong))


def _torch_uncertainty(wrong: np.ndarray, confidence: np.ndarray) -> float:
    n = len(wrong)
    risk = np.cumsum(wrong[falling_order(confidence)]) / np.arange(1, n + 1)
    # A single row has no interval to integrate over; its risk is the only point.
    return float(np.trapezoid(risk) / (n - 1)) if n > 1 else float(risk[0])


def _trustquerynet(wrong: np.ndarray, confidence: np.ndarray) -> float:
    # Ascending coverage is descending thresholds; many thresholds may share a coverage.
    kept = confidence >= np.linspace(0, 1, 101)[::-1, None]
    n_kept = kept.sum(axis=1)
    risk = (kept & wrong).sum(axis=1) / np.maximum(n_kept, 1)
    return float(np.trapezoid(risk, n_kept / len(wrong)))
