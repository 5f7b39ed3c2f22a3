"""Scores of rows among their neighbours in feature space: label agreement, k-centre, hybrid."""

from collections.abc import Callable
from functools import lru_cache
from typing import Any, Protocol

import numpy as np

from trustq.core.digest import digest_array
from trustq.core.scratch import room_for
from trustq.errors import InputError
from trustq.scoring.acquisition import one_minus_entropy

K = 10  # neighbours that vote
POINTS = 4096  # compared at once, with so many rows:
TILE = 256  # the products of both stay near the processor while they are looked through
QUERIES = 1 << 24  # entries of the rows that are compared in one pass over the points, 64 MiB


class Rows(Protocol):
    """Rows of numbers, (n, d): an array, or what makes some of them when asked for."""

    @property
    def shape(self) -> tuple[int, ...]:
        """(n, d)."""

    @property
    def dtype(self) -> np.dtype[Any]:
        """Of the rows that are given."""

    def __len__(self) -> int: ...

    def __getitem__(self, rows: Any, /) -> Any: ...


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
    return _Neighbourhood(np.asarray(features), groups, k).found()


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
    points: Rows,
    groups: np.ndarray,
    *,
    k: int,
    rows: np.ndarray | None = None,
    less: np.ndarray | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Of each row the k rows of other groups with the largest product, and the products, (m, k).

    `points` is (n, d), or gives rows as float32 when they are asked for; `rows` (m,) of positions,
    by default all; `less`, (n,), is taken off the products with each point: half its square makes
    the largest product the least distance. Of equal products the first rows are taken. There must
    be k rows of other groups. `progress` is told how many rows are done, of how many; of a block
    that has met some of the points, so much.

    >>> points = np.array([[1.0, 0.0], [3.0, 0.0], [2.0, 1.0]])
    >>> largest_products(points, np.arange(3), k=1, rows=np.array([0]))[0].tolist()
    [[1]]
    """
    wanted = np.arange(len(points)) if rows is None else rows
    found = np.empty((len(wanted), k), dtype=np.int64)
    products = np.empty((len(wanted), k), dtype=points.dtype)
    width = max(1, QUERIES // points.shape[1])
    for start in range(0, len(wanted), width):
        block = slice(start, start + width)
        own = wanted[block]
        best = _Largest(points[own], groups[own], k)
        for first in range(0, len(points), POINTS):
            span = slice(first, first + POINTS)
            best.meet(points[span], groups[span], first, None if less is None else less[span])
            if progress is not None:
                met = min(first + POINTS, len(points))
                progress(start + len(own) * met // len(points), len(wanted))
        found[block], products[block] = best.rows, best.products
    return found, products


class _Largest:
    """The k largest products of some rows with all points that they have met so far."""

    def __init__(self, queries: np.ndarray, groups: np.ndarray, k: int) -> None:
        self._queries, self._groups, self._k = queries, groups, k
        self.rows = np.full((len(queries), k), -1, dtype=np.int64)
        self.products = np.full((len(queries), k), -np.inf, dtype=queries.dtype)
        self._room = np.empty((TILE, POINTS), dtype=queries.dtype)

    def meet(
        self, points: np.ndarray, groups: np.ndarray, first: int, less: np.ndarray | None
    ) -> None:
        """Compare with points whose positions begin at `first`, later ones than all before."""
        for start in range(0, len(self._queries), TILE):
            tile = slice(start, start + TILE)
            own = self._queries[tile]
            product = self._room[: len(own), : len(points)]
            np.matmul(own, points.T, out=product)
            if less is not None:
                product -= less
            least = self.products[tile, -1]
            short = np.isneginf(least)
            if short.any():
                # Not k yet: the kth of these points, by a search that takes thirty comparisons'
                # time. It is the next points that meet the short way.
                product[self._groups[tile, None] == groups] = -np.inf
                if len(points) > self._k:
                    kth = np.partition(product, -self._k, axis=1)[:, -self._k]
                    least = np.where(short, np.nextafter(kth, -np.inf), least)
            near = np.flatnonzero(product > least[:, None])
            row, column = np.divmod(near, len(points))
            other = self._groups[tile][row] != groups[column]
            row, column = row[other], column[other]
            self._take(start + row, first + column, product[row, column])

    def _take(self, row: np.ndarray, position: np.ndarray, product: np.ndarray) -> None:
        if not len(row):
            return
        changed = np.unique(row)
        everything = (
            np.concatenate([np.repeat(changed, self._k), row]),
            np.concatenate([self.rows[changed].ravel(), position]),
            np.concatenate([self.products[changed].ravel(), product]),
        )
        order = np.lexsort((everything[1], -everything[2], everything[0]))
        rows, positions, products = (each[order] for each in everything)
        begins = np.searchsorted(rows, changed)
        kept = begins[:, None] + np.arange(self._k)
        self.rows[changed], self.products[changed] = positions[kept], products[kept]


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
    found = room_for(rows.shape, np.float32)
    for first in range(0, len(rows), POINTS):
        own = rows[first : first + POINTS]
        lengths = np.linalg.norm(own, axis=1, keepdims=True)
        found[first : first + POINTS] = own / np.where(lengths > 0, lengths, 1.0)
    return found
