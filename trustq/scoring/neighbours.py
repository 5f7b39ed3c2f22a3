"""Scores of rows among their neighbours in feature space: label agreement, k-centre, hybrid."""

from functools import lru_cache

import numpy as np

from trustq.core.digest import digest_array
from trustq.errors import InputError
from trustq.scoring.acquisition import one_minus_entropy

K = 10  # neighbours that vote
BLOCK = 1 << 22  # similarities held at once: 16 MiB of float32


def knn_agreement(
    labels: np.ndarray,
    features: np.ndarray,
    groups: np.ndarray,
    *,
    k: int = K,
    voters: np.ndarray | None = None,
) -> np.ndarray:
    """Share of the nearest rows' votes that are for a row's own label, (n,) in [0, 1].

    `features` is (n, d); nearness is the cosine, and a vote counts by it. Rows of the same group
    have no vote: they often share their label's mistake. Nor has a row outside `voters`, (n,) of
    bool; a row is NaN whose nearest rows all have none. Raises `TrustqError` for fewer than `k`
    rows of other groups.

    >>> features = np.array([[1.0, 0.0], [1.0, 0.0], [1.0, 0.1], [0.0, 1.0]])
    >>> knn_agreement(np.array([0, 1, 0, 1]), features, np.arange(4), k=2)[:3].round(2).tolist()
    [0.5, 0.0, 0.5]
    """
    rows, similarity = nearest_rows(features, groups, k=k)
    votes = np.clip(similarity, 0, None).astype(np.float64) + 1e-12
    own = labels[rows] == labels[:, None]
    if voters is not None:
        votes *= voters[rows]
    total = votes.sum(axis=1)
    return np.where(total > 0, (votes * own).sum(axis=1) / np.where(total > 0, total, 1), np.nan)


def nearest_rows(
    features: np.ndarray, groups: np.ndarray, *, k: int = K
) -> tuple[np.ndarray, np.ndarray]:
    """The k nearest rows of other groups, nearest first, and their cosines, (n, k) each.

    >>> rows, cosines = nearest_rows(np.eye(3) + 0.5, np.array([0, 0, 1]), k=1)
    >>> rows.ravel().tolist()
    [2, 2, 0]
    """
    return _Neighbourhood(features, groups, k).found()


class _Neighbourhood:
    """Equal where features and groups are, so that all rounds and draws search once."""

    def __init__(self, features: np.ndarray, groups: np.ndarray, k: int) -> None:
        self.features, self.groups, self.k = features, groups, k
        self._key = (digest_array(features), digest_array(groups), k)

    def __hash__(self) -> int:
        return hash(self._key)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Neighbourhood) and self._key == other._key

    def found(self) -> tuple[np.ndarray, np.ndarray]:
        return _search(self)


@lru_cache(maxsize=2)
def _search(of: _Neighbourhood) -> tuple[np.ndarray, np.ndarray]:
    n, k = len(of.features), of.k
    sizes = np.unique(of.groups, return_counts=True)[1]
    if n - sizes.max(initial=0) < k:
        raise InputError(
            f"There are {n - sizes.max(initial=0)} rows beside the largest group, and {k} "
            "neighbours of other groups are to vote."
        )
    rows, cosines = largest_products(_unit_length(of.features), of.groups, k=k)
    for array in (rows, cosines):
        array.setflags(write=False)
    # The features themselves need not be kept for the next call: the digest tells them.
    of.features = of.groups = np.empty(0)
    return rows, cosines


def largest_products(
    points: np.ndarray,
    groups: np.ndarray,
    *,
    k: int,
    rows: np.ndarray | None = None,
    less: np.ndarray | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Of each row the k rows of other groups with the largest product, and the products, (m, k).

    `points` is (n, d), `rows` (m,) of positions, by default all; `less`, (n,), is taken off the
    products with each point: half its square makes the largest product the least distance. There
    must be k rows of other groups.

    >>> points = np.array([[1.0, 0.0], [3.0, 0.0], [2.0, 1.0]])
    >>> largest_products(points, np.arange(3), k=1, rows=np.array([0]))[0].tolist()
    [[1]]
    """
    wanted = np.arange(len(points)) if rows is None else rows
    found = np.empty((len(wanted), k), dtype=np.int64)
    products = np.empty((len(wanted), k), dtype=points.dtype)
    width = max(1, BLOCK // len(points))
    for start in range(0, len(wanted), width):
        block = slice(start, start + width)
        own = wanted[block]
        product = points[own] @ points.T
        if less is not None:
            product -= less
        product[groups[own, None] == groups[None]] = -np.inf
        largest = np.argpartition(-product, k - 1, axis=1)[:, :k]
        values = np.take_along_axis(product, largest, axis=1)
        order = np.argsort(-values, axis=1, kind="stable")
        found[block] = np.take_along_axis(largest, order, axis=1)
        products[block] = np.take_along_axis(values, order, axis=1)
    return found, products


def k_centre(features: np.ndarray, chosen: np.ndarray, *, n_wanted: int) -> np.ndarray:
    """Order in which rows cover feature space, (n,) in [0, 1], lower = earlier; Sener et al. 2018.

    Each of the first `n_wanted` rows is the farthest from all rows before it and from the `chosen`,
    (n,) of bool; without any it begins at their mean. The others follow by their distance. Needs
    memory for one distance a row.

    >>> k_centre(np.array([[0.0], [1.0], [9.0]]), np.array([True, False, False]), n_wanted=1)
    array([1. , 0.5, 0. ])
    """
    return _greedy(features, chosen, np.ones(len(features)), n_wanted)


def hybrid(
    probs: np.ndarray, features: np.ndarray, chosen: np.ndarray, *, n_wanted: int
) -> np.ndarray:
    """As `k_centre`, by distance times entropy: rows that are uncertain and unlike each other.

    >>> probs = np.array([[0.5, 0.5], [0.5, 0.5], [1.0, 0.0]])
    >>> hybrid(probs, np.array([[0.0], [1.0], [9.0]]), np.array([True, False, False]), n_wanted=1)
    array([1., 0., 1.])
    """
    return _greedy(features, chosen, 1 - one_minus_entropy(probs), n_wanted)


def _greedy(
    features: np.ndarray, chosen: np.ndarray, weight: np.ndarray, n_wanted: int
) -> np.ndarray:
    n = len(features)
    squares = np.einsum("ij,ij->i", features, features, dtype=np.float64)

    def distance_to(centre: np.ndarray) -> np.ndarray:
        products = (features @ centre.astype(features.dtype)).astype(np.float64)
        return np.asarray(np.maximum(squares - 2 * products + float(centre @ centre), 0))

    nearest = np.full(n, np.inf)
    for covered in np.flatnonzero(chosen):
        nearest = np.minimum(nearest, distance_to(features[covered]))
    if not chosen.any():
        nearest = distance_to(features.mean(axis=0))
    quality = np.ones(n)
    free = ~chosen
    n_picks = min(n_wanted, int(free.sum()))
    for number in range(n_picks):
        row = int(np.argmax(np.where(free, nearest * weight**2, -1.0)))
        quality[row] = number / (2 * n_picks)
        free[row] = False
        nearest = np.minimum(nearest, distance_to(features[row]))
    left = np.sqrt(nearest[free]) * weight[free]
    quality[free] = 1 - left / (2 * max(left.max(initial=0.0), 1e-300))
    return quality


def _unit_length(rows: np.ndarray) -> np.ndarray:
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    return np.asarray(rows / np.where(lengths > 0, lengths, 1.0), dtype=np.float32)
