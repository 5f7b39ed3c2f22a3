"""Close pairs of rows: hashes within a distance, exactly; vectors that stand out as neighbours."""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import numpy as np

from trustq.audit.duplicates.hash_distances import Hashes, can_compile, compare

_BLOCK_BYTES = 1 << 25  # of similarities at a time
_AT_ONCE = 1 << 16  # hashes whose distances are made at a time
_TILE = 64, 1024  # rows and columns compared at a time: their hashes stay in a core's cache
_NEAREST = 20  # neighbours of a row that pairs are made of
_LOCAL = 5  # neighbours that say how crowded a row's surroundings are


class HashPairs(NamedTuple):
    """Pairs within the distance, and of all pairs of a larger one their number by distance.

    `first`, `second` and `distance` are (m,); `n_pairs` and `n_same` (reach + 1,) count pairs and
    pairs of equal labels by distance. `others` (c, 2) are the closest pairs beside the first.
    `turned` (3, t) has rows of either side and the distance once one is mirrored or turned.
    """

    first: np.ndarray
    second: np.ndarray
    distance: np.ndarray
    turned: np.ndarray
    others: np.ndarray
    n_pairs: np.ndarray
    n_same: np.ndarray


def hash_pairs(
    hashes: np.ndarray,
    others: np.ndarray | None,
    *,
    max_distance: int,
    max_turned: int,
    reach: int,
    groups: tuple[np.ndarray, np.ndarray],
    labels: tuple[np.ndarray, np.ndarray],
    most_others: int = 0,
    threads: int = 2,
    progress: Callable[[int, int], None] | None = None,
) -> HashPairs:
    """All pairs of rows whose hashes differ in at most `max_distance` bits.

    `hashes` is (n, views, words) of uint64, `others` (m, views, words), or None for pairs within
    `hashes`. The distance of two rows is the least between one's first view and any view of the
    other's. Every pair is compared, none is passed over, as it is and mirrored or turned, where
    `max_turned` bits may differ. `groups` and `labels` are integers of either side; pairs of one
    group are left out, a group of -1 is alone. Of pairs within `reach` the `most_others` closest
    are kept besides. Memory is bounded; with numba many pairs are compared fifteen times
    faster, to the same result.
    """
    from concurrent.futures import ThreadPoolExecutor

    right = hashes if others is None else others
    n_bits = 64 * hashes.shape[2] + 1
    n_pairs, n_same = (np.zeros(min(reach, n_bits) + 1, dtype=np.int64) for _ in range(2))
    # Rows of either side and their distance, (3, pairs).
    close, beside, turned = ([np.empty((3, 0), dtype=np.int64)] for _ in range(3))
    sides = Hashes.of(hashes), None if others is None else Hashes.of(others)
    near = partial(
        _near,
        sides,
        groups=groups,
        most=(min(reach, n_bits), max_turned),
        compiled=can_compile(len(hashes) * len(right) // (1 + (sides[1] is None))),
    )
    blocks = [
        slice(start, min(start + _TILE[0], len(hashes)))
        for start in range(0, len(hashes), _TILE[0])
    ]
    with ThreadPoolExecutor(threads) as pool:
        for block, (found, other_way) in zip(blocks, pool.map(near, blocks), strict=True):
            rows, columns, distance = found
            same = labels[0][rows] == labels[1][columns]
            n_pairs += np.bincount(distance, minlength=len(n_pairs))
            n_same += np.bincount(distance[same], minlength=len(n_same))
            copies = distance <= max_distance
            close.append(found[:, copies])
            beside.append(found[:, ~copies])
            turned.append(other_way)
            if sum(part.shape[1] for part in beside) > 2 * most_others:
                beside = [_closest(beside, most_others)]
            if progress is not None:
                progress(block.stop, len(hashes))
    first, second, distance = np.concatenate(close, axis=1)
    others_closest = _closest(beside, most_others)[:2].T
    all_turned = np.concatenate(turned, axis=1)
    return HashPairs(first, second, distance, all_turned, others_closest, n_pairs, n_same)


def _near(
    sides: tuple[Hashes, Hashes | None],
    block: slice,
    *,
    groups: tuple[np.ndarray, np.ndarray],
    most: tuple[int, int],
    compiled: bool,
) -> list[np.ndarray]:
    """Pairs of a block of rows within `most` bits: as they are, and mirrored or turned, (3, pairs).

    Ordered by rows. Of two sides that are one, each pair once.
    """
    left, right = sides[0], sides[1] or sides[0]
    found: tuple[list[np.ndarray], ...] = ([], [])
    # Within one side the columns before the block are of an earlier block.
    for start in range(0 if sides[1] else block.start, right.n, _TILE[1]):
        tile = slice(start, min(start + _TILE[1], right.n))
        distances = compare(left, right, block, tile, compiled=compiled)
        for parts, distance, farthest in zip(found, distances, most, strict=True):
            rows, columns = np.nonzero(distance <= farthest)
            bits = distance[rows, columns]
            rows, columns = rows + block.start, columns + start
            keep = np.full(len(rows), fill_value=True) if sides[1] else rows < columns
            own, other = groups[0][rows], groups[1][columns]
            keep &= (own != other) | (own < 0)
            parts.append(np.array([rows, columns, bits], dtype=np.int64)[:, keep])
    joined = [np.concatenate(parts, axis=1) for parts in found]
    return [part[:, np.lexsort((part[1], part[0]))] for part in joined]


def _closest(parts: list[np.ndarray], most: int) -> np.ndarray:
    """Of pairs, (3, pairs) with distances last, the closest; of equals the first."""
    pairs = np.concatenate(parts, axis=1)
    return pairs[:, np.argsort(pairs[2], kind="stable")[:most]]


def hash_distances(hashes: np.ndarray, others: np.ndarray, pairs: np.ndarray) -> np.ndarray:
    """Distances as `hash_pairs` measures them, (p,), of `pairs`, (p, 2) rows of either side.

    >>> hashes = np.array([[[0], [7]], [[7], [1]]], dtype=np.uint64)
    >>> hash_distances(hashes, hashes, np.array([[0, 1], [0, 0]])).tolist()
    [0, 0]
    """
    found = np.empty(len(pairs), dtype=np.int64)
    for start in range(0, len(pairs), _AT_ONCE):
        block = slice(start, start + _AT_ONCE)
        left, right = hashes[pairs[block, 0]], others[pairs[block, 1]]
        found[block] = np.minimum(
            *(
                np.bitwise_count(one[:, :1] ^ other).sum(axis=2, dtype=np.int64).min(axis=1)
                for one, other in ((left, right), (right, left))
            )
        )
    return found


def standing_out(
    vectors: np.ndarray,
    others: np.ndarray | None,
    *,
    groups: tuple[np.ndarray, np.ndarray],
    most: int,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The `most` pairs that are closer than their surroundings: rows of either side and closeness.

    `vectors` is (n, d), `others` (m, d) or None for pairs within. Closeness is cosine similarity
    less the mean of either row's five highest (CSLS, Conneau et al. 2018), so that rows in a crowd
    of similar ones do not fill the list; in [-2, 2], higher is closer. Pairs of one group are
    left out. A pair counts where one is among the other's twenty nearest.
    """
    within = others is None
    left = _unit(vectors)
    right = left if others is None else _unit(others)
    near_right = _nearest(left, right, groups, within)
    near_left = near_right if within else _nearest(right, left, groups[::-1], within)
    local = [similarity[:, :_LOCAL].mean(axis=1) for _, similarity in (near_right, near_left)]
    found: dict[tuple[int, int], float] = {}
    for side, (indices, similarity) in enumerate((near_right, near_left)):
        for row in range(len(indices)):
            for column, value in zip(indices[row].tolist(), similarity[row].tolist(), strict=True):
                if value <= -1.5:  # too few rows of other groups
                    continue
                a, b = (row, column) if side == 0 else (column, row)
                if within and a > b:
                    a, b = b, a
                found[a, b] = value - float(local[0][a] + local[1][b]) / 2
        if within:
            break
    # Ties by the rows, so that the list is the same each time.
    ranked = sorted(found.items(), key=lambda item: (-item[1], item[0]))[:most]
    pairs = np.array([pair for pair, _ in ranked], dtype=np.intp).reshape(-1, 2)
    return pairs[:, 0], pairs[:, 1], np.array([value for _, value in ranked])


def _nearest(
    left: np.ndarray, right: np.ndarray, groups: tuple[np.ndarray, np.ndarray], within: bool
) -> tuple[np.ndarray, np.ndarray]:
    """Indices and similarities of each row's nearest rows of other groups, best first."""
    k = min(_NEAREST, len(right))
    indices = np.empty((len(left), k), dtype=np.intp)
    values = np.empty((len(left), k), dtype=np.float32)
    step = max(1, _BLOCK_BYTES // (8 * len(right)))
    for start in range(0, len(left), step):
        block = slice(start, start + step)
        similarity = left[block] @ right.T
        own = groups[0][block][:, None]
        similarity[(own == groups[1]) & (own >= 0)] = -2
        if within:
            rows = np.arange(start, start + len(similarity))
            similarity[rows - start, rows] = -2
        best = np.argpartition(-similarity, k - 1, axis=1)[:, :k]
        found = np.take_along_axis(similarity, best, axis=1)
        order = np.argsort(-found, axis=1, kind="stable")
        indices[block] = np.take_along_axis(best, order, axis=1)
        values[block] = np.take_along_axis(found, order, axis=1)
    return indices, values


def _unit(vectors: np.ndarray) -> np.ndarray:
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.asarray(vectors / np.maximum(lengths, 1e-12), dtype=np.float32)
