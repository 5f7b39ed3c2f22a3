"""Calibration of probabilities on held-out rows: temperature and vector scaling.

Every calibrator has `fit(logits, labels)`, `transform` (logits out) and `predict_proba`, and says
in `labels_used_` which labels it was fitted on. Those of other libraries are in
`trustq.calibration.registry`.
"""

import math
import warnings
from abc import ABC, abstractmethod

import numpy as np

from trustq.core.counts import counted
from trustq.core.estimator import Classifier, require_fitted
from trustq.errors import DishonestError, InputError
from trustq.metrics.confident_joint import confident_joint
from trustq.metrics.probabilities import (
    PROBABILITY_FLOOR,
    checked_labels,
    checked_logits,
    checked_probs,
    log_softmax_of_rows,
)

TEMPERATURE_BOUNDS = (1e-3, 1e3)  # where the NLL has no finite minimum the answer is one of these
STEP_TOLERANCE = 1e-9  # in log T; the last Newton step squares it
VECTOR_TOLERANCE = 1e-6  # of a slope, in nats; line searches end near 1e-9
NOISE_TOLERANCE = 1e-6
GRID = 31  # temperatures, a factor of 1.58 apart, at which a corrected likelihood is looked at
MANY_ROWS = 20_000  # from here on the search starts from the root of FEW_ROWS of them
FEW_ROWS = 5_000
QUICK_STEPS = 6
QUICK_TOLERANCE = 1e-5  # of a Newton step in log T, after which the error is its square
MAX_STEPS = 200  # halving the bracket alone reaches the tolerance in 34


LABELS_USED = ("clean", "noisy")


class DegenerateCalibrationWarning(UserWarning):
    """The fitting rows do not determine a temperature, or only a questionable one."""


class Calibrator(Classifier, ABC):
    """What all calibrators share: the check of labels and columns, and probabilities from logits.

    `accept_noisy` lets labels be used that are known to be noisy. Labels are columns of the logits,
    or names of which there are as many as columns, in their sorted order; `classes_` has them.
    """

    classes_: np.ndarray
    labels_used_: str
    n_features_in_: int

    def __init__(self, *, accept_noisy: bool = False) -> None:
        self.accept_noisy = accept_noisy

    @abstractmethod
    def fit(
        self, logits: np.ndarray, labels: np.ndarray, *, labels_used: str = "clean"
    ) -> "Calibrator":
        """Fit on rows that trained nothing; returns the estimator."""

    def predict_proba(self, logits: np.ndarray) -> np.ndarray:
        """Calibrated probabilities, (n, k).

        >>> scaler = TemperatureScaling().fit(np.array([[1.0, 0.0]] * 4), np.array([0, 0, 0, 1]))
        >>> scaler.predict_proba(np.array([[1.0, 0.0]])).round(6)
        array([[0.75, 0.25]])
        """
        return np.asarray(np.exp(log_softmax_of_rows(self.transform(logits))))

    def predict(self, logits: np.ndarray) -> np.ndarray:
        """The most probable label of each row, (n,).

        >>> logits = np.array([[2.0, 0.0], [0.0, 2.0], [0.0, 1.0]])
        >>> TemperatureScaling().fit(logits, ["mel", "nv", "mel"]).predict(logits).tolist()
        ['mel', 'nv', 'nv']
        """
        return np.asarray(self.classes_[self.predict_proba(logits).argmax(axis=1)])

    @abstractmethod
    def transform(self, logits: np.ndarray) -> np.ndarray:
        """Calibrated logits, (n, k)."""

    def _checked_fit(
        self, logits: np.ndarray, labels: np.ndarray, labels_used: str
    ) -> tuple[np.ndarray, np.ndarray]:
        if labels_used not in LABELS_USED:
            raise InputError(
                f"labels_used is {labels_used!r}: expected {' or '.join(LABELS_USED)}.",
                where="labels_used",
                found=labels_used,
                expected=LABELS_USED,
            )
        if labels_used == "noisy" and not self.accept_noisy:
            raise DishonestError(
                f"{type(self).__name__} was given labels known to be noisy, on which it takes "
                "wrong labels for overconfidence (20 % noise turned a temperature of 2.1 into "
                "5.0): fit on clean labels, correct with NoiseAwareTemperature and a noise "
                "matrix, or pass accept_noisy=True."
            )
        logits = checked_logits(logits)
        labels, k = np.asarray(labels), logits.shape[1]
        self.classes_ = np.arange(k)
        if labels.dtype.kind in "OUS":
            self.classes_, labels = np.unique(labels, return_inverse=True)
            if len(self.classes_) != k:
                raise InputError(
                    f"labels name {counted(len(self.classes_), 'class')}, and logits has {k} "
                    "columns: pass the column of each label."
                )
        labels = checked_labels(labels, *logits.shape, beside="logits")
        self.n_features_in_ = logits.shape[1]
        self.labels_used_ = labels_used
        return logits, labels

    def _checked_transform(self, logits: np.ndarray) -> np.ndarray:
        require_fitted(self)
        logits = checked_logits(logits)
        if logits.shape[1] != self.n_features_in_:
            raise InputError(
                f"logits has {logits.shape[1]} columns, but the {self._noun} was fitted on "
                f"{self.n_features_in_}: pass logits of the same classes."
            )
        return logits

    _noun = "calibrator"


class TemperatureScaling(Calibrator):
    """Probabilities softmax(logits / T), with the one T that minimises the NLL of held-out labels.

    `logits` is (n, k), log-probabilities included (`logits_from_probs` for stored probabilities);
    `labels` is (n,). T > 1 softens. Predicted classes stay; the order of confidences does not, so
    AURC may move either way. `temperature_` is exact to 1e-8, within [0.001, 1000]. Degenerate
    rows raise a DegenerateCalibrationWarning: all right gives the lower bound, no finite minimum
    the bound on its side, constant logits 1, all wrong or one class the minimum as it is.
    Labels known to be noisy (`labels_used="noisy"`) are refused unless `accept_noisy`.
    Guo et al. (2017).

    >>> logits = np.array([[4.0, 0.0], [4.0, 0.0], [0.0, 4.0], [0.0, 4.0]])
    >>> scaler = TemperatureScaling().fit(logits, np.array([0, 0, 1, 0]))
    >>> round(scaler.temperature_, 6)  # three of four right: the probability is 3/4
    3.640957
    >>> scaler.predict_proba(logits[:1]).round(6)
    array([[0.75, 0.25]])
    """

    temperature_: float
    _noun = "temperature"

    def fit(
        self, logits: np.ndarray, labels: np.ndarray, *, labels_used: str = "clean"
    ) -> "TemperatureScaling":
        """Solve for the temperature on rows that trained nothing; returns the estimator.

        >>> TemperatureScaling().fit(np.array([[1.0, 0.0]] * 4), np.array([0, 0, 0, 1]))
        TemperatureScaling()
        """
        logits, labels = self._checked_fit(logits, labels, labels_used)
        self.temperature_, complaint = _solve(logits, labels)
        if complaint:
            message = f"{complaint} (T = {self.temperature_:g}, {counted(len(labels), 'row')})"
            warnings.warn(message, DegenerateCalibrationWarning, stacklevel=2)
        return self

    def transform(self, logits: np.ndarray) -> np.ndarray:
        """Logits divided by the temperature, (n, k).

        >>> scaler = TemperatureScaling().fit(np.array([[1.0, 0.0]] * 4), np.array([0, 0, 0, 1]))
        >>> scaler.transform(np.array([[2.0, 0.0]])).round(6)
        array([[2.197225, 0.      ]])
        """
        return self._checked_transform(logits) / self.temperature_


class VectorScaling(Calibrator):
    """Probabilities softmax(scale * logits + offset), one scale and offset per class.

    The maximum likelihood solution, a convex problem of 2k numbers; offsets sum to 0. May change
    predicted classes. A class without fitting rows keeps the scale of the best temperature and
    offset 0, named in a DegenerateCalibrationWarning; so is a solution that runs off to infinity
    (separable rows), which stops where it is. Guo et al. (2017).

    >>> logits = np.array([[4.0, 0.0], [4.0, 0.0], [0.0, 4.0], [0.0, 4.0]] * 2)
    >>> scaler = VectorScaling().fit(logits, np.array([0, 0, 1, 0, 0, 1, 1, 1]))
    >>> scaler.predict_proba(logits[:1]).round(4)
    array([[0.75, 0.25]])
    """

    scale_: np.ndarray
    offset_: np.ndarray

    def fit(
        self, logits: np.ndarray, labels: np.ndarray, *, labels_used: str = "clean"
    ) -> "VectorScaling":
        """Solve for scales and offsets on rows that trained nothing; returns the estimator."""
        logits, labels = self._checked_fit(logits, labels, labels_used)
        self.scale_, self.offset_, complaint = _solve_vector(logits, labels)
        if complaint:
            message = f"{complaint} ({counted(len(labels), 'row')})"
            warnings.warn(message, DegenerateCalibrationWarning, stacklevel=2)
        return self

    def transform(self, logits: np.ndarray) -> np.ndarray:
        """Logits scaled and shifted by class, (n, k)."""
        return np.asarray(_centred(self._checked_transform(logits)) * self.scale_ + self.offset_)


class NoiseAwareTemperature(Calibrator):
    """Temperature scaling on noisy labels, corrected by the noise: maximises log (p(T) M)_observed.

    `noise_matrix`, (k, k), is row-stochastic, true class to observed class: row i says what labels
    class i gets. cleanlab's `noise_matrix` is the transpose. Exact as `TemperatureScaling`; the
    likelihood may have several maxima, of which the best on a fine grid is solved for. Forward
    correction of Patrini et al. (2017), applied to one parameter.

    >>> logits = np.array([[9.0, 0.0]] * 10)
    >>> observed = np.array([0] * 8 + [1] * 2)  # 10 % of labels flipped, so 7/8 are right
    >>> noise = np.array([[0.9, 0.1], [0.1, 0.9]])
    >>> scaler = NoiseAwareTemperature(noise).fit(logits, observed, labels_used="noisy")
    >>> scaler.predict_proba(logits[:1]).round(6)
    array([[0.875, 0.125]])
    """

    temperature_: float
    accept_noisy = True  # they are what it is for
    _noun = "temperature"

    def __init__(self, noise_matrix: np.ndarray) -> None:
        self.noise_matrix = noise_matrix

    def fit(
        self, logits: np.ndarray, labels: np.ndarray, *, labels_used: str = "noisy"
    ) -> "NoiseAwareTemperature":
        """Solve for the temperature on noisy labels of rows that trained nothing."""
        logits, labels = self._checked_fit(logits, labels, labels_used)
        matrix = checked_noise_matrix(self.noise_matrix, logits.shape[1])
        self.labels_used_ = f"{labels_used}, corrected"
        self.temperature_, complaint = _solve_corrected(logits, labels, matrix)
        if complaint:
            message = f"{complaint} (T = {self.temperature_:g}, {counted(len(labels), 'row')})"
            warnings.warn(message, DegenerateCalibrationWarning, stacklevel=2)
        return self

    def transform(self, logits: np.ndarray) -> np.ndarray:
        """Logits divided by the temperature, (n, k): of the true class, not the observed one."""
        return self._checked_transform(logits) / self.temperature_


def estimate_noise_matrix(observed: np.ndarray, probs: np.ndarray) -> np.ndarray:
    """Row-stochastic matrix, true to observed class, estimated from out-of-sample probabilities.

    `observed` is (n,), `probs` (n, k), of models that did not see the rows. Divides the rows of the
    confident joint, which is cleanlab's. A class that no row is confidently of keeps its labels.
    Northcutt, Jiang and Chuang (2021).

    >>> rng = np.random.default_rng(0)
    >>> true = rng.integers(0, 2, 2000)
    >>> observed = np.where(rng.random(2000) < np.where(true == 0, 0.3, 0.1), 1 - true, true)
    >>> estimate_noise_matrix(observed, np.eye(2)[true] * 0.8 + 0.1).round(1)
    array([[0.7, 0.3],
           [0.1, 0.9]])
    """
    probs = checked_probs(probs)
    observed = checked_labels(observed, *probs.shape, beside="probs")
    k = probs.shape[1]
    present = np.bincount(observed, minlength=k) > 0
    if not present.all():
        absent = ", ".join(map(str, np.flatnonzero(~present)))
        raise InputError(
            f"No row is labelled {absent}, so its noise cannot be estimated: "
            "pass more rows, or a given matrix."
        )
    # The joint counts (observed, true), calibrated to the observed counts.
    joint = confident_joint(observed, probs).T.astype(np.float64)
    totals = joint.sum(axis=1, keepdims=True)
    return np.where(totals > 0, joint / np.where(totals > 0, totals, 1), np.eye(k))


def checked_noise_matrix(matrix: np.ndarray, k: int) -> np.ndarray:
    """A row-stochastic (k, k) matrix, true to observed class, or a TrustqError."""
    matrix = np.asarray(matrix, dtype=np.float64)
    if matrix.shape != (k, k):
        raise InputError(
            f"noise_matrix has shape {matrix.shape}, expected ({k}, {k}): "
            "one row per true class, one column per observed class.",
            where="noise_matrix",
            found=matrix.shape,
        )
    if not np.isfinite(matrix).all() or matrix.min() < 0:
        raise InputError("noise_matrix holds NaN or negative numbers: pass probabilities.")
    off = np.abs(matrix.sum(axis=1) - 1)
    if off.max() > NOISE_TOLERANCE:
        transposed = np.abs(matrix.sum(axis=0) - 1).max() <= NOISE_TOLERANCE
        raise InputError(
            f"noise_matrix row {off.argmax()} sums to {matrix[off.argmax()].sum():g}, expected 1"
            + (
                ", and its columns do: it is transposed. Rows are true classes, columns observed "
                "ones; cleanlab's noise_matrix needs a .T."
                if transposed
                else ": rows are true classes, columns observed ones."
            )
        )
    return matrix


def _solve(logits: np.ndarray, labels: np.ndarray) -> tuple[float, str]:
    """The temperature and, for degenerate rows, what is wrong with it."""
    coldest, hottest = TEMPERATURE_BOUNDS
    # (k, n), because sums over few classes are slow along rows of memory.
    gaps = np.ascontiguousarray(logits.T)
    gaps -= gaps.max(axis=0)
    gap_of_label = gaps[labels, np.arange(len(labels))]
    if not gaps.any():
        return 1.0, "every row of logits is constant, so that no temperature changes a probability"
    if not gap_of_label.any():
        # Named before any slope is looked at: at small T it underflows to 0, like at a minimum.
        return coldest, "every fitting row is right, so that the NLL falls as T goes to 0"
    ordinary = not gap_of_label.all() and (labels != labels[0]).any()
    if ordinary and len(labels) >= MANY_ROWS:
        quick = _quick_root(gaps, gap_of_label)
        if quick is not None:
            return 1 / quick, ""
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


def _quick_root(gaps: np.ndarray, gap_of_label: np.ndarray) -> float | None:
    """The root by Newton from that of a few rows, or None where it is not reached at once."""
    few = slice(None, None, len(gap_of_label) // FEW_ROWS)
    coldest, hottest = TEMPERATURE_BOUNDS
    some, of_some = np.ascontiguousarray(gaps[:, few]), gap_of_label[few]
    at = math.log(_root(some, of_some, 1 / hottest, 1 / coldest))
    for _ in range(QUICK_STEPS):
        slope, curvature = _slope(gaps, gap_of_label, math.exp(at))
        scale = math.exp(at) * curvature
        step = slope / scale if scale > 0 else math.inf
        if abs(step) > 1:
            return None
        at -= step
        # Newton squares the error, up to a factor that is of order 1 here.
        if abs(step) < QUICK_TOLERANCE:
            return math.exp(at) if 1 / hottest < math.exp(at) < 1 / coldest else None
    return None


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
    weights = inverse * gaps
    np.exp(weights, out=weights)
    total = weights.sum(axis=0)
    weights *= gaps
    means = weights.sum(axis=0) / total
    # Unnormalized until here, which saves a pass over all classes.
    variance = np.vdot(np.einsum("kn,kn->n", weights, gaps), 1 / total) - np.vdot(means, means)
    return float((means - gap_of_label).mean()), float(variance) / len(means)


def _solve_vector(logits: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray, str]:
    """Scales, offsets and, for degenerate rows, what is wrong with them."""
    from scipy import optimize

    n, k = logits.shape
    inverse = 1 / _solve(logits, labels)[0]
    # One common unit keeps the steps of the search comparable.
    centred = _centred(logits)
    unit = float(np.abs(centred).max()) or 1.0
    centred = centred / unit
    start = np.concatenate([np.full(k, min(inverse * unit, 100.0)), np.zeros(k)])
    present = np.bincount(labels, minlength=k) > 0
    free = np.concatenate([present, present])
    rows = np.arange(n)

    def loss(chosen: np.ndarray) -> tuple[float, np.ndarray]:
        values = start.copy()
        values[free] = chosen
        log_probs = log_softmax_of_rows(centred * values[:k] + values[k:])
        residuals = np.exp(log_probs)
        residuals[rows, labels] -= 1
        slope = np.concatenate([(residuals * centred).sum(axis=0), residuals.sum(axis=0)]) / n
        return float(-log_probs[rows, labels].mean()), slope[free]

    found = optimize.minimize(
        loss, start[free], jac=True, method="L-BFGS-B", options={"gtol": 1e-9, "ftol": 0}
    )
    values = start.copy()
    values[free] = found.x
    scale, offset = values[:k] / unit, values[k:]
    if present.all():
        offset = offset - offset.mean()
    complaints = []
    if not present.all():
        absent = ", ".join(map(str, np.flatnonzero(~present)))
        complaints.append(f"no fitting row has class {absent}, which keeps the best temperature")
    if np.abs(found.jac).max() > VECTOR_TOLERANCE or found.fun < VECTOR_TOLERANCE:
        complaints.append("the scales do not settle, as with separable rows")
    return scale, offset, " and ".join(complaints)


def _centred(logits: np.ndarray) -> np.ndarray:
    # So that a row's shift, which its softmax does not show, does not enter through the scales.
    return np.asarray(logits - logits.mean(axis=1, keepdims=True))


def _solve_corrected(
    logits: np.ndarray, labels: np.ndarray, matrix: np.ndarray
) -> tuple[float, str]:
    """The temperature under noise and, for degenerate rows, what is wrong with it."""
    from scipy import optimize

    gaps = logits - logits.max(axis=1, keepdims=True)
    if not gaps.any():
        return 1.0, "every row of logits is constant, so that no temperature changes a probability"
    chance = matrix.T[labels]  # (n, k): of this observed label, by true class

    def value_and_slope(log_inverse: float) -> tuple[float, float]:
        weights = np.exp(math.exp(log_inverse) * gaps)
        weights /= weights.sum(axis=1, keepdims=True)
        joint = weights * chance
        # A label that the noise makes impossible counts as all but impossible.
        likelihood = np.maximum(joint.sum(axis=1), PROBABILITY_FLOOR)
        slopes = (joint * gaps).sum(axis=1) / likelihood - (weights * gaps).sum(axis=1)
        return float(-np.log(likelihood).mean()), float(-slopes.mean())

    low, high = (-math.log(bound) for bound in reversed(TEMPERATURE_BOUNDS))
    grid = np.linspace(low, high, GRID)
    best = int(np.argmin([value_and_slope(at)[0] for at in grid]))
    left, right = grid[max(best - 1, 0)], grid[min(best + 1, GRID - 1)]
    if value_and_slope(left)[1] >= 0 or value_and_slope(right)[1] <= 0:
        temperature = math.exp(-grid[best])
        return temperature, "the likelihood of the noisy labels has no maximum inside the bounds"
    root = optimize.brentq(lambda at: value_and_slope(at)[1], left, right, xtol=STEP_TOLERANCE)
    return math.exp(-root), ""
