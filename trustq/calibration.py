"""Calibration of probabilities on held-out rows: temperature scaling."""

import math
import warnings

import numpy as np
from sklearn.base import BaseEstimator
from sklearn.utils.validation import check_is_fitted

from trustq.errors import TrustqError
from trustq.probabilities import _log_softmax, checked_labels, checked_logits

TEMPERATURE_BOUNDS = (1e-3, 1e3)  # where the NLL has no finite minimum the answer is one of these
STEP_TOLERANCE = 1e-9  # in log T; the last Newton step squares it
MAX_STEPS = 200  # halving the bracket alone reaches the tolerance in 34


class DegenerateCalibrationWarning(UserWarning):
    """The fitting rows do not determine a temperature, or only a questionable one."""


class TemperatureScaling(BaseEstimator):
    """Probabilities softmax(logits / T), with the one T that minimises the NLL of held-out labels.

    `logits` is (n, k), log-probabilities included (`logits_from_probs` for stored probabilities);
    `labels` is (n,). T > 1 softens. Predicted classes stay; the order of confidences does not, so
    AURC may move either way. `temperature_` is exact to 1e-8, within [0.001, 1000]. Degenerate
    rows raise a DegenerateCalibrationWarning: all right gives the lower bound, no finite minimum
    the bound on its side, constant logits 1, all wrong or one class the minimum as it is.
    Guo et al. (2017).

    >>> logits = np.array([[4.0, 0.0], [4.0, 0.0], [0.0, 4.0], [0.0, 4.0]])
    >>> scaler = TemperatureScaling().fit(logits, np.array([0, 0, 1, 0]))
    >>> round(scaler.temperature_, 6)  # three of four right: the probability is 3/4
    3.640957
    >>> scaler.predict_proba(logits[:1]).round(6)
    array([[0.75, 0.25]])
    """

    temperature_: float
    n_features_in_: int

    def fit(self, logits: np.ndarray, labels: np.ndarray) -> "TemperatureScaling":
        """Solve for the temperature on rows that trained nothing; returns the estimator.

        >>> TemperatureScaling().fit(np.array([[1.0, 0.0]] * 4), np.array([0, 0, 0, 1]))
        TemperatureScaling()
        """
        logits = checked_logits(logits)
        labels = checked_labels(labels, *logits.shape, beside="logits")
        self.temperature_, complaint = _solve(logits, labels)
        self.n_features_in_ = logits.shape[1]
        if complaint:
            message = f"{complaint} (T = {self.temperature_:g}, {len(labels)} rows)"
            warnings.warn(message, DegenerateCalibrationWarning, stacklevel=2)
        return self

    def transform(self, logits: np.ndarray) -> np.ndarray:
        """Logits divided by the temperature, (n, k).

        >>> scaler = TemperatureScaling().fit(np.array([[1.0, 0.0]] * 4), np.array([0, 0, 0, 1]))
        >>> scaler.transform(np.array([[2.0, 0.0]])).round(6)
        array([[2.197225, 0.      ]])
        """
        check_is_fitted(self)
        logits = checked_logits(logits)
        if logits.shape[1] != self.n_features_in_:
            raise TrustqError(
                f"logits has {logits.shape[1]} columns, but the temperature was fitted on "
                f"{self.n_features_in_}: pass logits of the same classes."
            )
        return logits / self.temperature_

    def predict_proba(self, logits: np.ndarray) -> np.ndarray:
        """Calibrated probabilities, (n, k).

        >>> scaler = TemperatureScaling().fit(np.array([[1.0, 0.0]] * 4), np.array([0, 0, 0, 1]))
        >>> scaler.predict_proba(np.array([[1.0, 0.0]])).round(6)
        array([[0.75, 0.25]])
        """
        return np.exp(_log_softmax(self.transform(logits)))


def _solve(logits: np.ndarray, labels: np.ndarray) -> tuple[float, str]:
    """The temperature and, for degenerate rows, what is wrong with it."""
    coldest, hottest = TEMPERATURE_BOUNDS
    gaps = logits - logits.max(axis=1, keepdims=True)
    gap_of_label = gaps[np.arange(len(labels)), labels]
    if not gaps.any():
        return 1.0, "every row of logits is constant, so that no temperature changes a probability"
    if not gap_of_label.any():
        # Named before any slope is looked at: at small T it underflows to 0, like at a minimum.
        return coldest, "every fitting row is right, so that the NLL falls as T goes to 0"
    if _slope(gaps, gap_of_label, 1 / coldest)[0] <= 0:
        return coldest, "the NLL still falls at the smallest temperature"
    if _slope(gaps, gap_of_label, 1 / hottest)[0] >= 0:
        return hottest, "the NLL still falls at the largest temperature, as with chance predictions"
    temperature = 1 / _root(gaps, gap_of_label, 1 / hottest, 1 / coldest)
    if gap_of_label.all():
        return temperature, "every fitting row is wrong"
    if (labels == labels[0]).all():
        return temperature, f"every fitting row has label {labels[0]}"
    return temperature, ""


def _root(gaps: np.ndarray, gap_of_label: np.ndarray, low: float, high: float) -> float:
    """The inverse temperature in (low, high) where the slope is 0: Newton in its log, bracketed."""
    lower, upper = math.log(low), math.log(high)
    at, last_step = 0.0, upper - lower
    for _ in range(MAX_STEPS):
        slope, curvature = _slope(gaps, gap_of_label, math.exp(at))
        if slope > 0:
            upper = at
        else:
            lower = at
        scale = math.exp(at) * curvature
        target = at - slope / scale if scale > 0 else math.inf
        # Newton leaves the bracket, or crawls, where probabilities are all but one-hot.
        if not lower <= target <= upper or abs(target - at) > last_step / 2:
            target = (lower + upper) / 2
        last_step, at = abs(target - at), target
        if last_step < STEP_TOLERANCE:
            break
    return math.exp(at)


def _slope(gaps: np.ndarray, gap_of_label: np.ndarray, inverse: float) -> tuple[float, float]:
    """First and second derivative of the NLL, convex, in the inverse temperature."""
    weights = np.exp(inverse * gaps)
    weights /= weights.sum(axis=1, keepdims=True)
    weighted = weights * gaps
    means = weighted.sum(axis=1)
    variance = np.vdot(weighted, gaps) - np.vdot(means, means)
    return float((means - gap_of_label).mean()), float(variance) / len(gaps)
