"""Neighbours in feature space: what they are labelled, and how far a row lies from all others."""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import scipy

from trustq.core.generators import generator
from trustq.core.scratch import room_for
from trustq.heads.feature_cache import one_blas_thread
from trustq.scoring.neighbours import POINTS, TILE, Rows, largest_products

K = 10  # neighbours that vote and whose mean distance says how far out a row lies
REFERENCE_ROWS = 2000  # rows whose distances tell what is usual
EXACT_ROWS = 15_000  # up to which every pair of rows is compared in all columns
SHARES = (0.8, 0.9, 0.97)  # of the spread, on as few axes as hold it; the first that finds enough
ENOUGH = 0.95  # of the K nearest
MOST_AXES = 0.5  # of the columns: beyond, all columns cost little more
_SPECTRUM_ROWS = 10_000  # random rows that the axes are of
_TRIED_ROWS = 200  # random rows whose neighbours are searched both ways
_QUERIES = 16_384  # rows that are searched for at once
_EVERY = 4  # one row in so many tells how large a product must be
_RANK = 10  # and it must be larger than the tenth of these: forty rows are compared in all columns
_BUCKETS = 256
_PAIRS = 128  # of rows that are multiplied at once, near the processor


class Neighbours(NamedTuple):
    """The k nearest rows of other groups: positions and distances, (m, k), nearest first."""

    rows: np.ndarray
    distances: np.ndarray

    def take(self, places: np.ndarray) -> "Neighbours":
        """Those of some rows, (m,) of positions among the rows that were asked for."""
        return Neighbours(self.rows[places], self.distances[places])


def nearest(features: Rows, groups: np.ndarray, *, rows: np.ndarray, k: int = K) -> Neighbours:
    """Nearest neighbours of some rows among all rows of other groups, by Euclidean distance.

    `features` is (n, d), `groups` (n,), `rows` (m,) of positions. Where fewer than k rows are of
    other groups, all of them.

    >>> points = np.array([[0.0], [1.0], [3.0], [7.0]], dtype=np.float32)
    >>> nearest(points, np.array([0, 0, 1, 2]), rows=np.array([0]), k=2).rows.tolist()
    [[2, 3]]
    """
    return _by_products(features, groups, _squares(features), rows, k)


def _by_products(
    features: Rows,
    groups: np.ndarray,
    squares: np.ndarray,
    rows: np.ndarray,
    k: int,
    progress: Callable[[int, int], None] | None = None,
) -> Neighbours:
    k = min(k, len(features) - int(np.bincount(groups).max()))
    with one_blas_thread():
        found, products = largest_products(
            features, groups, k=k, rows=rows, less=squares / 2, progress=progress
        )
    return _ordered(found, squares[rows, None] - 2 * products)


def _ordered(found: np.ndarray, squared: np.ndarray) -> Neighbours:
    # Equal distances by position, whatever the search did.
    order = np.lexsort((found, squared), axis=1)
    ordered = np.take_along_axis(squared, order, axis=1).astype(np.float64)
    return Neighbours(np.take_along_axis(found, order, axis=1), np.sqrt(np.maximum(ordered, 0)))


def _squares(features: Rows) -> np.ndarray:
    """Squared length of each row, (n,)."""
    parts = (features[a : a + POINTS] for a in range(0, len(features), POINTS))
    return np.concatenate([np.einsum("nd,nd->n", part, part) for part in parts])


class NeighbourSearch:
    """Neighbours in a set of any size: compared in all columns, or first on few axes.

    Beyond 15,000 rows those are compared in all columns whose products on the axes of most spread
    are among the largest, about forty of each row. `recall` says which share of the nearest that
    finds, measured on 200 random rows; `n_axes` is 0 where every pair is compared in all columns:
    in smaller sets, and in those whose spread lies on no few axes.

    >>> points = np.array([[0.0], [1.0], [3.0], [7.0]], dtype=np.float32)
    >>> search = NeighbourSearch(points, np.arange(4))
    >>> search.nearest(np.array([3]), k=1).rows.tolist(), search.n_axes
    ([[2]], 0)
    """

    def __init__(self, features: Rows, groups: np.ndarray) -> None:
        self._features, self._groups = features, groups
        self._squares = _squares(features)
        self.n_axes, self.recall = 0, 1.0
        if len(features) > EXACT_ROWS:
            with one_blas_thread():
                self._choose_axes()

    def __len__(self) -> int:
        return len(self._features)

    def nearest(
        self,
        rows: np.ndarray,
        *,
        k: int = K,
        progress: Callable[[int, int], None] | None = None,
    ) -> Neighbours:
        """Neighbours of some rows, (m,) of positions, as `nearest` has them.

        `progress` is told how many rows are done, of how many.
        """
        if not self.n_axes:
            return _by_products(self._features, self._groups, self._squares, rows, k, progress)
        found = []
        with one_blas_thread():
            for start in range(0, len(rows), _QUERIES):
                found.append(self._on_axes(rows[start : start + _QUERIES], k))
                if progress is not None:
                    progress(min(start + _QUERIES, len(rows)), len(rows))
        return Neighbours(*(np.concatenate(each) for each in zip(*found, strict=True)))

    def _choose_axes(self) -> None:
        n, d = self._features.shape
        order = generator(0, "neighbours").permutation(n)
        gram, total = np.zeros((d, d)), np.zeros(d)
        drawn = np.sort(order[:_SPECTRUM_ROWS])
        for start in range(0, len(drawn), 2048):
            some = self._features[drawn[start : start + 2048]]
            gram += some.T @ some
            total += some.sum(axis=0)
        spread = (gram - np.outer(total, total) / len(drawn)).astype(np.float32)
        sizes, axes = scipy.linalg.eigh(spread, driver="evd", check_finite=False)
        held = np.cumsum(sizes[::-1].astype(np.float64))
        tried = np.sort(order[-_TRIED_ROWS:])
        exact = None
        for share in SHARES:
            enough = int(np.searchsorted(held, share * held[-1])) + 1
            n_axes = -(-enough // 16) * 16
            if n_axes > MOST_AXES * d:
                break
            self._turn(axes[:, -n_axes:])
            if exact is None:
                exact = _by_products(self._features, self._groups, self._squares, tried, K).rows
            found = self._on_axes(tried, K).rows
            hits = [len(np.intersect1d(a, b)) for a, b in zip(found, exact, strict=True)]
            self.recall = float(np.mean(hits)) / exact.shape[1]
            if self.recall >= ENOUGH:
                self.n_axes = n_axes
                return
        self.recall = 1.0

    def _turn(self, axes: np.ndarray) -> None:
        n = len(self._features)
        self._short = np.empty((0, 0), dtype=np.float32)  # that of fewer axes goes first
        self._short = room_for((n, axes.shape[1] + 2), np.float32)
        self._less = self._squares / 2
        for start in range(0, n, POINTS):
            span = slice(start, start + POINTS)
            self._short[span, :-2] = self._features[span] @ axes
        # What is taken off a product, and what it must exceed, are two columns of it: to subtract
        # and to compare took half as long as the products.
        self._short[:, -2] = -self._less
        self._short[:, -1] = -1

    def _on_axes(self, rows: np.ndarray, k: int) -> Neighbours:
        k = min(k, len(self._features) - int(np.bincount(self._groups).max()))
        short = self._short[rows]
        short[:, -2:] = 1, 0
        # Of all rows at hand the pairs are taken, of others a block at a time.
        at_hand = isinstance(self._features, np.ndarray)
        own: Any = self._features if at_hand else self._features[rows]
        short[:, -1] = self._least(short)
        parts = []
        room = np.empty(TILE * POINTS, dtype=np.float32)
        for first in range(0, len(self._short), POINTS):
            span = slice(first, first + POINTS)
            points, less = self._short[span], self._less[span]
            near = [
                start * len(points) + _above_0(short[start : start + TILE], points, room)
                for start in range(0, len(rows), TILE)
            ]
            row, column = np.divmod(np.concatenate(near), len(points))
            other = self._groups[rows[row]] != self._groups[first + column]
            row, column = row[other], column[other]
            of_own = rows[row] if at_hand else row
            product = _row_products(own, self._features[span], of_own, column) - less[column]
            parts.append((row, first + column, product))
        row, position, product = (np.concatenate(each) for each in zip(*parts, strict=True))
        order = np.lexsort((position, -product, row))
        row, position, product = row[order], position[order], product[order]
        begins = np.searchsorted(row, np.arange(len(rows) + 1))
        full = np.flatnonzero(np.diff(begins) >= k)
        kept = begins[full, None] + np.arange(k)
        found = np.empty((len(rows), k), dtype=np.int64)
        distances = np.empty((len(rows), k))
        squared = self._squares[rows[full], None] - 2 * product[kept]
        found[full], distances[full] = _ordered(position[kept], squared)
        few = np.flatnonzero(np.diff(begins) < k)  # one in three thousand, and large groups
        if len(few):
            exact = _by_products(self._features, self._groups, self._squares, rows[few], k)
            found[few], distances[few] = exact
        return Neighbours(found, distances)

    def _least(self, short: np.ndarray) -> np.ndarray:
        """The product that a row's must exceed to be looked at in all columns, (m,).

        The tenth largest of the largest of 256 buckets of a quarter of the rows.
        """
        points = self._short[::_EVERY]
        largest = np.full((len(short), _BUCKETS), -np.inf, dtype=np.float32)
        for first in range(0, len(points), POINTS):
            some = np.ascontiguousarray(points[first : first + POINTS])
            for start in range(0, len(short), TILE):
                tile = slice(start, start + TILE)
                product = short[tile] @ some.T
                width = len(some) // _BUCKETS * _BUCKETS
                of_bucket = product[:, :width].reshape(len(product), -1, _BUCKETS)
                if width:
                    np.maximum(largest[tile], of_bucket.max(axis=1), out=largest[tile])
        return np.asarray(np.partition(largest, -_RANK, axis=1)[:, -_RANK])


def _above_0(own: np.ndarray, points: np.ndarray, room: np.ndarray) -> np.ndarray:
    """Where products of rows are above 0, flat."""
    product = room[: len(own) * len(points)].reshape(len(own), -1)
    return np.flatnonzero(np.matmul(own, points.T, out=product) > 0)


def _row_products(a: np.ndarray, b: np.ndarray, of_a: np.ndarray, of_b: np.ndarray) -> np.ndarray:
    """Products of pairs of rows, (pairs,)."""
    found = np.empty(len(of_a), dtype=np.float32)
    for start in range(0, len(of_a), _PAIRS):
        span = slice(start, start + _PAIRS)
        found[span] = np.einsum("nd,nd->n", a[of_a[span]], b[of_b[span]])
    return found


def reference_rows(n: int, *, rng: np.random.Generator) -> np.ndarray:
    """At most 2,000 random ones of n rows, whose neighbours tell what is usual.

    >>> sorted(reference_rows(3, rng=np.random.default_rng(0)).tolist())
    [0, 1, 2]
    """
    return rng.permutation(n)[:REFERENCE_ROWS]


def outlier_score(neighbours: Neighbours, usual: Neighbours) -> np.ndarray:
    """Share of rows that lie closer to their neighbours, (m,) in [0, 1]; near 1 is like no other.

    A mislabelled image looks like the images of another class; rubbish looks like none. Mean
    distance to the neighbours, ranked among those of other rows (`reference_rows`).
    """
    sizes = np.sort(usual.distances.mean(axis=1))
    mine = neighbours.distances.mean(axis=1)
    return np.asarray(np.searchsorted(sizes, mine, side="left") / len(sizes))
