"""Calibration errors other than the default ECE, each with its bins and norm in its name.

`labels` is (n,), `probs` (n, k) with rows that sum to 1. "Top-label" compares the largest
probability with whether its class is right.
"""

import numpy as np

from trustq.metrics.classification import ECE_BINS
from trustq.metrics.probabilities import checked_labels, checked_probs

SMOOTH_CELLS = 4096  # of the grid on [0, 1]; its bandwidth is seldom below .005
CONVENTIONS = {
    "ece": "top-label, 15 bins of equal width (lo, hi], L1",
    "ece_equal_mass": "top-label, 15 bins of equal count, L1",
    "ece_classwise": "mean over classes one-vs-rest, 15 bins of equal width, L1",
    "ece_debiased_l2_squared": "top-label, 15 bins of equal count, squared L2 less its bias",
    "mce": "top-label, largest gap of 15 bins of equal width",
    "smooth_ece": "top-label, Gaussian kernel with reflected ends, bandwidth equal to the error",
}


def calibration_errors(labels: np.ndarray, probs: np.ndarray) -> dict[str, float]:
    """Every calibration error by its name in `CONVENTIONS`, which says what it is.

    All lie in [0, 1], lower is better, but `ece_debiased_l2_squared`, which is unbiased and so may
    fall below 0. Naeini et al. (2015), Nixon et al. (2019), Kull et al. (2019), Kumar et al.
    (2019), Blasiok and Nakkiran (2023).

    >>> probs = np.array([[0.9, 0.1], [0.9, 0.1], [0.2, 0.8], [0.4, 0.6]])
    >>> errors = calibration_errors(np.array([0, 1, 1, 1]), probs)
    >>> round(errors["ece"], 3), round(errors["mce"], 3), round(errors["ece_classwise"], 3)
    (0.35, 0.4, 0.35)
    """
    probs = checked_probs(probs)
    labels = checked_labels(labels, *probs.shape, beside="probs")
    right = (probs.argmax(axis=1) == labels).astype(float)
    confidence = probs.max(axis=1)
    width, mass = equal_width_bins(confidence), _equal_mass(confidence)
    classes = np.arange(probs.shape[1])
    return {
        "ece": _ece(right, confidence, width),
        "ece_equal_mass": _ece(right, confidence, mass),
        "ece_classwise": float(
            np.mean(
                [_ece(labels == c, probs[:, c], equal_width_bins(probs[:, c])) for c in classes]
            )
        ),
        "ece_debiased_l2_squared": _debiased(right, confidence, mass),
        "mce": _largest_gap(right, confidence, width),
        "smooth_ece": _smooth_ece(right, confidence),
    }


def equal_width_bins(values: np.ndarray) -> np.ndarray:
    """Bin of each value, of 15 bins (lo, hi]; 0 falls in the first."""
    return (np.arange(1, ECE_BINS) / ECE_BINS).searchsorted(values, "left")


def _equal_mass(values: np.ndarray) -> np.ndarray:
    """Bin of each value, of 15 bins of equal count; equal values share one."""
    ordered = np.sort(values)
    last = np.arange(1, ECE_BINS) * len(values) // ECE_BINS - 1
    return np.unique(ordered[last[last >= 0]]).searchsorted(values, "left")


def _ece(right: np.ndarray, values: np.ndarray, bins: np.ndarray) -> float:
    return float(np.abs(np.bincount(bins, weights=right - values)).sum() / len(values))


def _largest_gap(right: np.ndarray, values: np.ndarray, bins: np.ndarray) -> float:
    gaps, counts = np.bincount(bins, weights=right - values), np.bincount(bins)
    return float((np.abs(gaps[counts > 0]) / counts[counts > 0]).max())


def _debiased(right: np.ndarray, values: np.ndarray, bins: np.ndarray) -> float:
    counts = np.bincount(bins)
    used = counts > 0
    n = counts[used]
    share = np.bincount(bins, weights=right)[used] / n
    gap = np.bincount(bins, weights=right - values)[used] / n
    # The square of a gap of n rows is too large by the variance of its mean.
    bias = share * (1 - share) / np.maximum(n - 1, 1)
    return float((n * (gap**2 - bias)).sum() / len(values))


def _smooth_ece(right: np.ndarray, values: np.ndarray) -> float:
    """The bandwidth at which the mean absolute smoothed residual equals the bandwidth."""
    from scipy.fft import dct, idct

    cells = np.minimum((values * SMOOTH_CELLS).astype(int), SMOOTH_CELLS - 1)
    residuals = np.bincount(cells, weights=right - values, minlength=SMOOTH_CELLS) / len(values)
    # The cosine transform is what a Gaussian reflected at 0 and 1 is diagonal in.
    spectrum = dct(residuals, norm="ortho")
    frequencies = np.pi * np.arange(SMOOTH_CELLS)

    def smoothed(bandwidth: float) -> float:
        damped = spectrum * np.exp(-((frequencies * bandwidth) ** 2) / 2)
        return float(np.abs(idct(damped, norm="ortho")).sum())

    # The smoothed error falls with the bandwidth, so the two meet once.
    low, high = 0.0, 1.0
    for _ in range(40):
        middle = (low + high) / 2
        if smoothed(middle) > middle:
            low = middle
        else:
            high = middle
    return smoothed((low + high) / 2)
