"""The expected calibration error as others compute it, by the name of the convention.

Codes differ in which end of a bin is open, in where a confidence of exactly 1 falls and in how many
bins they take where nobody says; on small or saturated sets that is a difference in the second
decimal. `labels` is (n,), `probs` (n, k) with rows that sum to 1.
"""

from collections.abc import Callable, Sequence

import numpy as np

from trustq.errors import InputError
from trustq.metrics.probabilities import checked_labels, checked_probs

ECE_CONVENTIONS = {
    "guo": "15 bins (lo, hi], a confidence of 0 in none (Guo et al.'s code)",
    "torchmetrics": "15 bins [lo, hi), a confidence of 1 in a bin of its own",
    "netcal": "10 bins [lo, hi), confidences within machine precision of 0 and 1 moved inside",
    "torch-uncertainty": "10 bins [lo, hi), a confidence of 1 in a bin of its own",
    "classwise": "mean over classes one-vs-rest, 15 bins [lo, hi) (torch-uncertainty's)",
    "smooth": "Gaussian kernel with reflected ends, bandwidth by ten halvings (relplot's smECE)",
}
_MESH = 200  # points at which relplot evaluates a smoothed residual, at least
_DENSITY_FLOOR = 1e-4  # relplot adds it to a density before dividing by it
_SMALLEST_WIDTH = 1e-3


def ece_by(convention: str, labels: np.ndarray, probs: np.ndarray) -> float:
    """ECE in a named convention, for comparison with a published figure.

    Lies in [0, 1], lower is better; `ECE_CONVENTIONS` says what each does. All compare the largest
    probability with whether its class is right, but `classwise`. Guo et al. (2017), Kull et al.
    (2019), Blasiok and Nakkiran (2023).

    >>> labels, probs = np.array([0, 1]), np.array([[1.0, 0.0], [0.9, 0.1]])
    >>> {name: round(ece_by(name, labels, probs), 3) for name in ("guo", "torchmetrics")}
    {'guo': 0.45, 'torchmetrics': 0.45}
    >>> round(ece_by("guo", np.array([0, 1]), np.array([[1.0, 0.0], [0.95, 0.05]])), 3)
    0.475
    """
    _require_known(convention)
    return _by_convention([convention], labels, probs)[convention]


def chosen_conventions(names: Sequence[str]) -> tuple[str, ...]:
    """The conventions of a list, each once; `all` is every one. Raises `TrustqError` for others.

    >>> chosen_conventions(["netcal", "guo", "netcal"])
    ('netcal', 'guo')
    """
    listed = dict.fromkeys(
        one for name in names for one in (ECE_CONVENTIONS if name == "all" else (name,))
    )
    for name in listed:
        _require_known(name)
    return tuple(listed)


def all_ece_conventions(labels: np.ndarray, probs: np.ndarray) -> dict[str, float]:
    """ECE in every convention; largest less smallest is how far two papers may differ.

    >>> found = all_ece_conventions(np.array([0, 1]), np.array([[0.9, 0.1], [0.9, 0.1]]))
    >>> list(found), round(found["guo"], 3)
    (['guo', 'torchmetrics', 'netcal', 'torch-uncertainty', 'classwise', 'smooth'], 0.4)
    """
    return _by_convention(list(ECE_CONVENTIONS), labels, probs)


def _by_convention(names: Sequence[str], labels: np.ndarray, probs: np.ndarray) -> dict[str, float]:
    probs = checked_probs(probs)
    labels = checked_labels(labels, *probs.shape, beside="probs")
    right = (probs.argmax(axis=1) == labels).astype(np.float64)
    confidence = probs.max(axis=1)
    epsilon = np.finfo(np.float64).eps
    errors: dict[str, Callable[[], float]] = {
        "guo": lambda: _guo(right, confidence),
        "torchmetrics": lambda: _left_closed(right, confidence, 15),
        "netcal": lambda: _left_closed(right, np.clip(confidence, epsilon, 1 - epsilon), 10),
        "torch-uncertainty": lambda: _left_closed(right, confidence, 10),
        "classwise": lambda: float(
            np.mean(
                [_left_closed((labels == c) * 1.0, column, 15) for c, column in enumerate(probs.T)]
            )
        ),
        "smooth": lambda: _smooth(right, confidence),
    }
    return {name: errors[name]() for name in names}


def _require_known(convention: str) -> None:
    if convention not in ECE_CONVENTIONS:
        raise InputError(
            f"convention is {convention!r}: expected one of {', '.join(ECE_CONVENTIONS)}.",
            where="convention",
            found=convention,
            expected=ECE_CONVENTIONS,
        )


def _guo(right: np.ndarray, confidence: np.ndarray) -> float:
    edges = np.linspace(0, 1, 16)
    error = 0.0
    for lower, upper in zip(edges[:-1], edges[1:], strict=True):
        inside = (confidence > lower) & (confidence <= upper)
        if inside.any():
            error += abs(confidence[inside].mean() - right[inside].mean()) * inside.mean()
    return float(error)


def _left_closed(right: np.ndarray, confidence: np.ndarray, n_bins: int) -> float:
    """Bins [lo, hi), and one more for confidences of exactly 1."""
    bins = np.linspace(0, 1, n_bins + 1).searchsorted(confidence, "right") - 1
    gaps = np.bincount(bins, weights=right - confidence, minlength=n_bins + 1)
    return float(np.abs(gaps).sum() / len(confidence))


def _smooth(right: np.ndarray, confidence: np.ndarray) -> float:
    def error(width: float) -> float:
        return _smoothed_error(right, confidence, width)

    def reached(width: float) -> bool:
        return width < _SMALLEST_WIDTH or width < error(width)

    width = 1.0
    if not reached(width):
        upper, lower = 1.0, 0.0
        for _ in range(10):
            middle = (upper + lower) / 2
            if reached(middle):
                lower = middle
            else:
                upper = middle
        width = upper
    return error(width)


def _smoothed_error(right: np.ndarray, confidence: np.ndarray, width: float) -> float:
    """Mean absolute smoothed residual, weighted with the smoothed density of confidences."""
    at = np.linspace(0, 1, max(round(10 / width), _MESH))
    grid = max(2000, round(20 / width)) // 2 + 1
    residual = _reflected(confidence, confidence - right, width, grid, at)
    density = _reflected(confidence, np.ones(len(right)), width, grid, at) + _DENSITY_FLOOR
    return float(np.sum(np.abs(residual / density) * density) / np.sum(density))


def _reflected(
    places: np.ndarray, values: np.ndarray, width: float, grid: int, at: np.ndarray
) -> np.ndarray:
    """Values at places of [0, 1], smoothed by a Gaussian reflected at both ends, at other places.

    Each value is shared between its two neighbours of an even grid; between grid points the
    smoothed values are interpolated.
    """
    cell = np.clip((places * (grid - 1)).astype(int), 0, grid - 2)
    share = places * (grid - 1) - cell
    spread = np.bincount(cell, weights=(1 - share) * values, minlength=grid)
    spread += np.bincount(cell + 1, weights=share * values, minlength=grid)
    t = np.linspace(0, 1, grid) - 0.5
    kernel = np.exp(-(t**2) / (2 * width**2)) / (np.sqrt(2 * np.pi) * width)
    mirrored = np.concatenate([spread[::-1][:-1], spread, spread[::-1][1:]])
    smoothed = np.convolve(mirrored, kernel, "valid")[grid // 2 : grid // 2 + grid]
    left = np.clip((at * (grid - 1)).astype(int), 0, grid - 2)
    step = 1 / (grid - 1)
    beyond = (at - left * step) / step
    return np.asarray(smoothed[left] * (1 - beyond) + smoothed[left + 1] * beyond)
