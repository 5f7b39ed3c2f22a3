"""Rows that lie far from all others, and pairs that nearly coincide, in feature space."""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from trustq.audit.neighbours import K, nearest
from trustq.core.generators import generator
from trustq.core.scratch import room_for
from trustq.scoring.neighbours import Rows

EXACT = 5000  # rows up to which every pair is compared
REFERENCE_ROWS = 2000  # of larger sets: random rows that distances are measured to
NEARLY = 0.13  # of the median distance to the nearest row: closer is the same (cleanlab's share)
MOST_PAIRS = 1000
_BLOCK = 1024  # rows whose distances are looked through at once
_TABLES, _BITS, _WINDOW = 12, 32, 8
_SHORT = 64
_AT_ONCE = 1 << 14  # pairs
_UNLIKE = 8  # signs of 32 in which near rows differ at most: at an angle of .1 one in a million do


class Distances(NamedTuple):
    """Mean distance of each row to its neighbours, (n,), and the median row's to its nearest."""

    mean: np.ndarray
    nearest: float


def nearest_distances(features: Rows, groups: np.ndarray) -> Distances:
    """How far rows lie from the rows of other groups.

    `features` is (n, d), `groups` (n,). Of more than 5,000 rows the distances are to the nearest of
    2,000 random ones, which takes time in proportion to n; the median is of random rows to all.

    >>> points = np.array([[0.0], [1.0], [2.0], [9.0]], dtype=np.float32)
    >>> nearest_distances(points, np.arange(4)).nearest
    1.0
    """
    n = len(features)
    if n <= EXACT:
        found = nearest(features, groups, rows=np.arange(n)).distances
        return Distances(found.mean(axis=1), float(np.median(found[:, 0])))
    order = generator(0, "reference rows").permutation(n)
    some = np.sort(order[:REFERENCE_ROWS])
    few = np.flatnonzero(np.isin(some, order[: REFERENCE_ROWS // 4]))
    mean, to_nearest = _mean_to(features, groups, some, few)
    return Distances(mean, float(np.median(to_nearest)))


def _mean_to(
    features: Rows, groups: np.ndarray, some: np.ndarray, few: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Mean distance of each row to the nearest of some, and of a few of these to the nearest row.

    `some` is positions of rows and `few` of them; the nearest are rows of other groups.
    """
    points = features[some]
    squares = np.einsum("nd,nd->n", points, points)
    points *= -2
    relatives = np.isin(groups, groups[some])
    mean = np.empty(len(features))
    least = np.full(len(few), np.inf, dtype=points.dtype)
    room = np.empty((_BLOCK, len(some)), dtype=points.dtype)
    for start in range(0, len(features), _BLOCK):
        block = slice(start, start + _BLOCK)
        own = features[block]
        squared = np.matmul(own, points.T, out=room[: len(own)])
        related = start + np.flatnonzero(relatives[block])
        squared[related - start] = np.where(
            groups[related, None] == groups[some], np.inf, squared[related - start]
        )
        lengths = np.einsum("nd,nd->n", own, own)[:, None]
        np.minimum(least, (squared[:, few] + lengths).min(axis=0), out=least)
        squared += squares
        squared.partition(K - 1, axis=1)
        near = squared[:, :K] + lengths
        mean[block] = np.sqrt(np.maximum(near, 0)).mean(axis=1)
    return mean, np.sqrt(np.maximum((squares[few] + least).astype(np.float64), 0))


def close_rows(features: Rows, groups: np.ndarray, *, usual: float) -> list[tuple[int, int, float]]:
    """Pairs of rows of different groups that nearly coincide, with their distance, closest first.

    Near is less than .13 of `usual`, the median distance of a row to its nearest. Of more than
    5,000 rows those pairs are compared that lie next to each other in twelve orders by the signs of
    random projections; of such near ones few are missed. At most 1,000 pairs.

    >>> points = np.array([[0.0], [0.01], [2.0], [9.0]], dtype=np.float32)
    >>> [(a, b) for a, b, _ in close_rows(points, np.arange(4), usual=1.0)]
    [(0, 1)]
    """
    n = len(features)
    parts = (
        _every_pair(np.asarray(features), groups, usual)
        if n <= EXACT
        else _neighbours_in_orders(features)
    )
    found: dict[tuple[int, int], float] = {}
    for first, second in parts:
        first, second = np.minimum(first, second), np.maximum(first, second)
        kept = groups[first] != groups[second]
        first, second = first[kept], second[kept]
        for start in range(0, len(first), 4096):
            block = slice(start, start + 4096)
            a, b = first[block], second[block]
            apart = (features[a] - features[b]).astype(np.float64)
            distance = np.sqrt(np.einsum("nd,nd->n", apart, apart))
            for i in np.flatnonzero(distance < NEARLY * usual):
                found[int(a[i]), int(b[i])] = float(distance[i])
    ranked = sorted(found.items(), key=lambda pair: (pair[1], pair[0]))[:MOST_PAIRS]
    return [(a, b, distance) for (a, b), distance in ranked]


def _every_pair(
    features: np.ndarray, groups: np.ndarray, usual: float
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Pairs that may be near, by products of blocks."""
    squares = np.einsum("nd,nd->n", features, features)
    # Products of float32 know squares of distances to about a millionth of the squares.
    limit = (NEARLY * usual) ** 2 + 1e-5 * float(squares.max(initial=0))
    for start in range(0, len(features), 1024):
        block = features[start : start + 1024]
        squared = squares[start : start + 1024, None] + squares - 2 * (block @ features.T)
        a, b = np.nonzero(squared < limit)
        a += start
        yield a[a < b], b[a < b]


def _neighbours_in_orders(features: Rows) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Rows that stand within a few places of each other in orders by signs of projections.

    Rows at an angle of .1 differ in a sign with probability .03: they share the first twenty signs,
    and with them a place, in half of the orders.
    """
    n, d = features.shape
    rng = generator(0, "projections")
    columns = rng.standard_normal((d, _SHORT)).astype(np.float32) / 8
    # Signs of the 64 projections' projections, which tell near rows as well as those of all columns
    # and take an eighth of the products.
    planes = rng.standard_normal((_SHORT, _TABLES * _BITS)).astype(np.float32)
    small = room_for((n, _SHORT), np.float32)
    codes = np.empty((_TABLES, n), dtype=np.uint32)
    for start in range(0, n, 4096):
        span = slice(start, start + 4096)
        np.matmul(features[span], columns, out=small[span])
        found = small[span] @ planes
        signs = np.packbits(found.reshape(len(found), _TABLES, _BITS) > 0, axis=2)
        codes[:, span] = signs.view(">u4")[:, :, 0].T
    size = np.einsum("nd,nd->n", small, small)
    for own, other in zip(codes, np.roll(codes, 1, axis=0), strict=True):
        order = np.argsort(own, kind="stable")
        for step in range(1, _WINDOW + 1):
            a, b = order[:-step], order[step:]
            alike = np.bitwise_count(own[a] ^ own[b]) <= _UNLIKE
            a, b = a[alike], b[alike]
            # Neighbours in an order share its first signs; those of another say more of them.
            alike = np.bitwise_count(other[a] ^ other[b]) <= _UNLIKE
            a, b = a[alike], b[alike]
            # By 64 projections first: pairs that are far by them are not near in all columns.
            for start in range(0, len(a), _AT_ONCE):
                first, second = a[start : start + _AT_ONCE], b[start : start + _AT_ONCE]
                product = np.einsum("nd,nd->n", small[first], small[second])
                apart = size[first] + size[second] - 2 * product
                near = apart < 0.1 * np.minimum(size[first], size[second])
                yield first[near], second[near]
