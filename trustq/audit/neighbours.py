"""Neighbours in feature space: what they are labelled, and how far a row lies from all others."""

from typing import NamedTuple

import numpy as np

from trustq.heads.shared import one_blas_thread

K = 10  # neighbours that vote and whose mean distance says how far out a row lies
REFERENCE_ROWS = 2000  # rows whose distances tell what is usual
BLOCK = 1 << 24  # distances held at once


class Neighbours(NamedTuple):
    """The k nearest rows of other groups: positions and distances, (m, k), nearest first."""

    rows: np.ndarray
    distances: np.ndarray


def nearest(
    features: np.ndarray, groups: np.ndarray, *, rows: np.ndarray, k: int = K
) -> Neighbours:
    """Nearest neighbours of some rows among all rows of other groups, by Euclidean distance.

    `features` is (n, d), `groups` (n,), `rows` (m,) of positions. Where fewer than k rows are of
    other groups, all of them.

    >>> points = np.array([[0.0], [1.0], [3.0], [7.0]], dtype=np.float32)
    >>> nearest(points, np.array([0, 0, 1, 2]), rows=np.array([0]), k=2).rows.tolist()
    [[2, 3]]
    """
    n = len(features)
    k = min(k, n - int(np.bincount(groups).max()))
    squares = np.einsum("nd,nd->n", features, features)
    found, far = np.empty((len(rows), k), dtype=np.int64), np.empty((len(rows), k))
    size = max(1, BLOCK // n)
    with one_blas_thread():
        for start in range(0, len(rows), size):
            own = rows[start : start + size]
            squared = squares[own, None] + squares - 2 * (features[own] @ features.T)
            squared[groups[own, None] == groups] = np.inf
            near = np.argpartition(squared, k - 1, axis=1)[:, :k]
            distance = np.take_along_axis(squared, near, axis=1)
            # Sorted by distance, equal ones by position, whatever the partition did.
            order = np.lexsort((near, distance), axis=1)
            found[start : start + size] = np.take_along_axis(near, order, axis=1)
            ordered = np.take_along_axis(distance, order, axis=1)
            far[start : start + size] = np.sqrt(np.maximum(ordered, 0))
    return Neighbours(found, far)


def outlier_score(
    features: np.ndarray, groups: np.ndarray, neighbours: Neighbours, *, rng: np.random.Generator
) -> np.ndarray:
    """Share of rows that lie closer to their neighbours, (m,) in [0, 1]; near 1 is like no other.

    A mislabelled image looks like the images of another class; rubbish looks like none. Mean
    distance to the neighbours, ranked among those of at most 2,000 random rows.
    """
    some = rng.permutation(len(features))[:REFERENCE_ROWS]
    usual = np.sort(nearest(features, groups, rows=some).distances.mean(axis=1))
    mine = neighbours.distances.mean(axis=1)
    return np.searchsorted(usual, mine, side="left") / len(usual)
