"""Selective prediction: what abstaining on the least confident rows buys.

`wrong` is (n,), true where the prediction is wrong; `confidence` is (n,), higher is surer. A
threshold cannot split rows of equal confidence, so areas are expectations over their order.
"""

from typing import NamedTuple

import numpy as np

from trustq.errors import InputError
from trustq.metrics.probabilities import checked_logits, checked_probs, log_odds_of_rows
from trustq.metrics.ranking import block_ends, falling_order


def log_odds_confidence(logits: np.ndarray) -> np.ndarray:
    """Log-odds of the top class, log p_max - log(1 - p_max), in float64.

    `logits` is (n, k); log-probabilities give the same. Orders rows as the maximum probability
    does, without its saturation at 1. Lies in [-log(k - 1), inf); 0 is a probability of one half.

    >>> log_odds_confidence(np.array([[0.0, 0.0], [800.0, 0.0]]))
    array([  0., 800.])
    """
    return log_odds_of_rows(checked_logits(logits))


def max_probability(probs: np.ndarray) -> np.ndarray:
    """Stored maximum probability of each row, with the ties that its rounding made.

    `probs` is (n, k) with rows that sum to 1. Lies in [1/k, 1].

    >>> max_probability(np.array([[0.5, 0.5], [0.25, 0.75]]))
    array([0.5 , 0.75])
    """
    return np.asarray(checked_probs(probs).max(axis=1))


def aurc(wrong: np.ndarray, confidence: np.ndarray) -> float:
    """Area under the risk-coverage curve: mean over k of the error rate of the k surest rows.

    (1/n) sum_k (1/k) sum_{i<=k} wrong_(i), most confident first, in expectation over the order of
    ties (convention `exact`). Lies in [0, 1], lower is better. Geifman and El-Yaniv (2017).

    >>> round(aurc(np.array([1, 1, 0, 0]), np.array([0.1, 0.2, 0.8, 0.9])), 7)
    0.2083333
    """
    wrong, confidence = checked_ranking(wrong, confidence)
    return aurc_of_steps(risk_steps(wrong, confidence))


def e_aurc(wrong: np.ndarray, confidence: np.ndarray) -> float:
    """Excess AURC: `aurc` less that of the finite oracle, which rejects all wrong rows first.

    The oracle is (n_e - n_c (H_n - H_{n_c})) / n for n_e wrong and n_c right rows. Lies in [0, 1],
    lower is better. Geifman, Uziel and El-Yaniv (2019), with their asymptotic oracle made exact.

    >>> e_aurc(np.array([1, 1, 0, 0]), np.array([0.1, 0.2, 0.8, 0.9]))
    0.0
    """
    wrong, confidence = checked_ranking(wrong, confidence)
    steps = risk_steps(wrong, confidence)
    return aurc_of_steps(steps) - oracle_aurc_of_steps(steps)


def augrc(wrong: np.ndarray, confidence: np.ndarray) -> float:
    """Area under the generalised risk, P(wrong and accepted), over coverage.

    Equals (1 - AUROC_f) err (1 - err) + err^2 / 2, where AUROC_f, ties at one half, is that of
    telling right from wrong rows. Lies in [0, 1/2], lower is better. Traub et al. (2024).

    >>> augrc(np.array([1, 1, 0, 0]), np.array([0.1, 0.2, 0.8, 0.9]))
    0.125
    """
    wrong, confidence = checked_ranking(wrong, confidence)
    return augrc_of_steps(risk_steps(wrong, confidence))


def coverage_at(confidence: np.ndarray, *, threshold: float) -> float:
    """Share of rows whose confidence is at least `threshold` (not "at 50 % coverage").

    Lies in [0, 1].

    >>> coverage_at(np.array([0.4, 0.5, 0.9, 1.0]), threshold=0.5)
    0.75
    """
    return float((_checked_confidence(confidence) >= threshold).mean())


def risk_at(wrong: np.ndarray, confidence: np.ndarray, *, threshold: float) -> float:
    """Error rate of the rows whose confidence is at least `threshold`.

    Lies in [0, 1], lower is better; NaN where no row is kept.

    >>> risk_at(np.array([1, 1, 0, 0]), np.array([0.4, 0.5, 0.9, 1.0]), threshold=0.9)
    0.0
    """
    wrong, confidence = checked_ranking(wrong, confidence)
    return risk_of(wrong, confidence >= threshold)


class RiskCoverage(NamedTuple):
    """Points of a risk-coverage curve, one per distinct confidence, (m,) each, surest first."""

    coverage: np.ndarray
    risk: np.ndarray
    threshold: np.ndarray


def risk_coverage_curve(wrong: np.ndarray, confidence: np.ndarray) -> RiskCoverage:
    """Coverage and error rate at every threshold that keeps a different set of rows.

    Thresholds fall, so coverage rises, up to 1, where the risk is the error rate.

    >>> curve = risk_coverage_curve(np.array([1, 0, 0, 0]), np.array([0.5, 0.5, 0.9, 0.8]))
    >>> curve.coverage
    array([0.25, 0.5 , 1.  ])
    >>> curve.risk
    array([0.  , 0.  , 0.25])
    """
    wrong, confidence = checked_ranking(wrong, confidence)
    steps = risk_steps(wrong, confidence)
    return RiskCoverage(steps.kept / len(wrong), steps.errors / steps.kept, steps.threshold)


def thin_curve(curve: RiskCoverage, *, points: int = 200) -> RiskCoverage:
    """At most `points` points of a curve, evenly spread over coverage, both ends among them.

    For drawing; figures are computed from the full curve.

    >>> curve = risk_coverage_curve(np.arange(1000) % 3 == 0, np.arange(1000))
    >>> thin_curve(curve, points=5).coverage.tolist()
    [0.001, 0.251, 0.501, 0.751, 1.0]
    """
    if points < 2:
        raise InputError(
            f"points is {points}, expected at least 2: a curve has two ends.",
            where="points",
            found=points,
        )
    if len(curve.coverage) <= points:
        return curve
    wanted = np.linspace(curve.coverage[0], 1, points)
    # Rounded, so that 0.2502 and the float 0.251 just below it find the same point.
    at = np.unique(curve.coverage.round(12).searchsorted(wanted.round(12)))
    return RiskCoverage(*(values[np.minimum(at, len(values) - 1)] for values in curve))


class Selection(NamedTuple):
    """What a threshold keeps: rows with confidence >= threshold, their share and error rate."""

    threshold: float
    coverage: float
    risk: float


def coverage_at_risk(wrong: np.ndarray, confidence: np.ndarray, *, risk: float) -> Selection:
    """The largest selection whose error rate on these rows is at most `risk`.

    Coverage 0, an infinite threshold and risk NaN where no threshold does. This is what these rows
    show, and in half of all samples the true risk is higher: for a promise see `risk_guarantee`.

    >>> coverage_at_risk(np.array([0, 0, 1, 0, 1]), np.array([0.9, 0.8, 0.7, 0.6, 0.5]), risk=0.25)
    Selection(threshold=0.6, coverage=0.8, risk=0.25)
    """
    wrong, confidence = checked_ranking(wrong, confidence)
    _check_share(risk, "risk")
    return _coverage_at_risk(risk_steps(wrong, confidence), risk)


def risk_at_coverage(wrong: np.ndarray, confidence: np.ndarray, *, coverage: float) -> Selection:
    """The smallest selection that a threshold can make and that covers at least `coverage`.

    Rows of equal confidence stay together, so the coverage may be larger than asked.

    >>> risk_at_coverage(np.array([0, 0, 1, 0]), np.array([0.9, 0.7, 0.7, 0.6]), coverage=0.5)
    Selection(threshold=0.7, coverage=0.75, risk=0.3333333333333333)
    """
    wrong, confidence = checked_ranking(wrong, confidence)
    _check_share(coverage, "coverage")
    steps = risk_steps(wrong, confidence)
    # A little slack, so that .7 of 10 rows is 7 of them and not 8.
    at = int(np.searchsorted(steps.kept, max(coverage * len(wrong) - 1e-9 * len(wrong), 1)))
    return _selection(steps, min(at, len(steps.kept) - 1))


class _Steps(NamedTuple):
    """Counts after each block of equal confidences, surest first."""

    kept: np.ndarray
    errors: np.ndarray
    threshold: np.ndarray


def risk_steps(wrong: np.ndarray, confidence: np.ndarray) -> _Steps:
    """Rows and errors kept at each distinct confidence, the highest first; inputs are checked."""
    order = falling_order(confidence)
    confidence = confidence[order]
    kept = block_ends(confidence)
    return _Steps(kept, np.cumsum(wrong[order])[kept - 1], confidence[kept - 1])


def aurc_of_steps(steps: _Steps) -> float:
    """Exact AURC with ties, in [0, 1], lower is better."""
    n = steps.kept[-1]
    kept = np.arange(1, n + 1)
    errors = steps.errors
    if len(errors) < n:
        # In expectation errors grow linearly inside a block: (S + s j / m) / (K + j) at its j-th
        # row. The closed form in harmonic numbers is the same sum, but loses digits to K H_K.
        errors = np.interp(kept, np.append(0, steps.kept), np.append(0, errors))
    return float((errors / kept).mean())


def oracle_aurc_of_steps(steps: _Steps) -> float:
    """AURC of the best order of the same errors: all of them last."""
    kept = np.arange(1, steps.kept[-1] + 1)
    # The order in which `aurc_of_steps` adds, so that an oracle's excess is 0 and not 1e-17.
    return float((np.maximum(kept - (steps.kept[-1] - steps.errors[-1]), 0) / kept).mean())


def augrc_of_steps(steps: _Steps) -> float:
    """AUGRC, in [0, 1/2], lower is better."""
    # Errors kept against rows kept is a straight line inside a block, so trapezoids are exact.
    kept, errors = steps.kept, steps.errors
    twice_area = kept[0] * errors[0] + (kept[1:] - kept[:-1]) @ (errors[1:] + errors[:-1])
    return float(twice_area / (2 * float(steps.kept[-1]) ** 2))


def _coverage_at_risk(steps: _Steps, risk: float) -> Selection:
    passing = np.flatnonzero(steps.errors <= risk * steps.kept * (1 + 1e-12))
    if not len(passing):
        return Selection(float("inf"), 0.0, float("nan"))
    return _selection(steps, int(passing[-1]))


def _selection(steps: _Steps, at: int) -> Selection:
    kept = steps.kept[at]
    return Selection(
        float(steps.threshold[at]), float(kept / steps.kept[-1]), float(steps.errors[at] / kept)
    )


def _check_share(share: float, name: str) -> None:
    if not 0 <= share <= 1:
        raise InputError(
            f"{name} is {share}, expected a share between 0 and 1: pass 0.05.",
            where=name,
            found=share,
        )


def risk_of(wrong: np.ndarray, kept: np.ndarray) -> float:
    """Share of the kept rows that are wrong, in [0, 1]; NaN where none is kept."""
    n_kept = np.count_nonzero(kept)
    return float(np.count_nonzero(wrong & kept) / n_kept) if n_kept else float("nan")


def checked_ranking(wrong: np.ndarray, confidence: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """`wrong` and `confidence`, both (n,), as booleans and float64; raises `TrustqError`."""
    confidence = _checked_confidence(confidence)
    wrong = np.asarray(wrong)
    if wrong.shape != confidence.shape:
        raise InputError(
            f"wrong has shape {wrong.shape} and confidence {confidence.shape}: "
            "pass the same rows in the same order.",
            where="wrong",
            found=wrong.shape,
        )
    if wrong.dtype != bool and not np.isin(wrong, (0, 1)).all():
        raise InputError(
            "wrong holds values other than 0 and 1: pass predicted != labels, not a loss."
        )
    return wrong.astype(bool, copy=False), confidence


def _checked_confidence(confidence: np.ndarray) -> np.ndarray:
    confidence = np.asarray(confidence, dtype=np.float64)
    if confidence.ndim != 1:
        raise InputError(
            f"confidence has shape {confidence.shape}, expected (n,): pass one number per row.",
            where="confidence",
            found=confidence.shape,
        )
    if len(confidence) == 0:
        raise InputError("confidence is empty: pass at least one row.")
    if np.isnan(confidence).any():
        raise InputError(
            f"confidence is NaN in {np.isnan(confidence).sum()} of {len(confidence)} rows: "
            "leave these rows out."
        )
    return confidence
