"""Neighbours in feature space: what they are labelled, and how far a row lies from all others."""

from typing import NamedTuple

import numpy as np

from trustq.heads.feature_cache import one_blas_thread
from trustq.scoring.neighbours import largest_products

K = 10  # neighbours that vote and whose mean distance says how far out a row lies
REFERENCE_ROWS = 2000  # rows whose distances tell what is usual


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
    k = min(k, len(features) - int(np.bincount(groups).max()))
    squares = np.einsum("nd,nd->n", features, features)
    with one_blas_thread():
        found, products = largest_products(features, groups, k=k, rows=rows, less=squares / 2)
    squared = squares[rows, None] - 2 * products
    # Equal distances by position, whatever the search did.
    order = np.lexsort((found, squared), axis=1)
    ordered = np.take_along_axis(squared, order, axis=1).astype(np.float64)
    return Neighbours(np.take_along_axis(found, order, axis=1), np.sqrt(np.maximum(ordered, 0)))


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
    return np.asarray(np.searchsorted(usual, mine, side="left") / len(usual))
