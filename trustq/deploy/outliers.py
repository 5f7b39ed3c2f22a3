"""Whether an image is unlike the training data: Mahalanobis distance of its features.

Distances are to the nearest class mean, under the covariance within classes of which the largest
axes are kept and the others share one variance (probabilistic PCA; Tipping and Bishop 1999), so
that a few hundred images are enough for a thousand features. Lee et al. (2018).
"""

from dataclasses import dataclass

import numpy as np

from trustq.errors import InputError

MOST_AXES = 64  # kept axes; with 64 of 1,280 the tail of the graph takes 400 kB
SHARE_OF_ROWS = 0.25  # of the rows, at most, as axes: each axis has a variance to estimate


@dataclass(frozen=True)
class OutlierMeasure:
    """Squared Mahalanobis distance to the nearest class mean, divided by the number of features.

    `center` is (d,), `means` (c, d) relative to it, `axes` (d, r) scaled so that the distance of
    x is min over classes of (|x - m|^2 - |axes' (x - m)|^2) / (variance d).
    """

    center: np.ndarray
    means: np.ndarray
    axes: np.ndarray
    variance: float

    def distances(self, features: np.ndarray) -> np.ndarray:
        """Distances of (n, d) features, (n,); about 1 for rows like those that were fitted."""
        moved = np.asarray(features, dtype=np.float64) - self.center
        turned, of_means = moved @ self.axes, self.means @ self.axes
        lengths = (moved**2).sum(axis=1) - (turned**2).sum(axis=1)
        of_class = (self.means**2).sum(axis=1) - (of_means**2).sum(axis=1)
        products = moved @ self.means.T - turned @ of_means.T
        squared = lengths[:, None] - 2 * products + of_class
        return np.asarray(squared.min(axis=1) / (self.variance * features.shape[1]))


def fit_outliers(features: np.ndarray, labels: np.ndarray) -> OutlierMeasure:
    """The measure of training rows: (n, d) features and (n,) class indices, -1 left out.

    Raises `TrustqError` for fewer than ten rows.

    >>> rng = np.random.default_rng(0)
    >>> measure = fit_outliers(rng.standard_normal((400, 8)), np.arange(400) % 2)
    >>> near, far = measure.distances(np.vstack([np.zeros((1, 8)), np.full((1, 8), 9.0)]))
    >>> bool(near < 1 < 20 < far)
    True
    """
    rows = labels >= 0
    features, labels = np.asarray(features[rows], dtype=np.float64), labels[rows]
    n, d = features.shape
    if n < 10:
        raise InputError(
            f"{n} labelled training rows are too few to know what is unlike them; ten are needed.",
            found=n,
        )
    center = features.mean(axis=0)
    moved = features - center
    present = np.unique(labels)
    means = np.array([moved[labels == c].mean(axis=0) for c in present])
    within = moved - means[np.searchsorted(present, labels)]
    n_axes = min(MOST_AXES, int(SHARE_OF_ROWS * n), d - 1)
    _, lengths, turns = np.linalg.svd(within, full_matrices=False)
    variances = lengths**2 / max(n - len(present), 1)
    rest = float(variances[n_axes:].sum()) / max(d - n_axes, 1)
    # A floor, so that features without any rest (as many axes as rows) stay finite.
    rest = max(rest, 1e-6 * float(variances[:1].sum()), 1e-12)
    kept = np.maximum(variances[:n_axes], rest)
    axes = turns[:n_axes].T * np.sqrt(1 - rest / kept)
    return OutlierMeasure(center, means, axes, rest)
