"""Close pairs of rows: hashes within a distance, exactly; vectors that stand out as neighbours."""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

_BLOCK_BYTES = 1 << 25  # of distances at a time
_NEAREST = 20  # neighbours of a row that pairs are made of
_LOCAL = 5  # neighbours that say how crowded a row's surroundings are


class HashPairs(NamedTuple):
    """Pairs within the distance, and of all pairs of a larger one their number by distance.

    `first`, `second` and `distance` are (m,); `n_pairs` and `n_same` (reach + 1,) count pairs and
    pairs of equal labels by distance.
    """

    first: np.ndarray
    second: np.ndarray
    distance: np.ndarray
    n_pairs: np.ndarray
    n_same: np.ndarray


def hash_pairs(
    hashes: np.ndarray,
    others: np.ndarray | None,
    *,
    max_distance: int,
    reach: int,
    groups: tuple[np.ndarray, np.ndarray],
    labels: tuple[np.ndarray, np.ndarray],
    threads: int = 2,
) -> HashPairs:
    """All pairs of rows whose hashes differ in at most `max_distance` bits.

    `hashes` is (n, views, words) of uint64, `others` (m, views, words), or None for pairs within
    `hashes`. The distance of two rows is the least between one's first view and any view of the
    other's. Every pair is compared, none is passed over. `groups` and `labels` are integers of
    either side; pairs of one group are left out, a group of -1 is alone. Memory is bounded.
    """
    from concurrent.futures import ThreadPoolExecutor

    within = others is None
    right = hashes if others is None else others
    n_bits = 64 * hashes.shape[2] + 1
    n_pairs, n_same = (np.zeros(min(reach, n_bits) + 1, dtype=np.int64) for _ in range(2))
    parts: list[tuple[np.ndarray, ...]] = []

    def near(block: slice) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        skipped = block.start if within else 0  # those pairs are of an earlier block
        distance = _distances(hashes[block], right[skipped:])
        rows, columns = np.nonzero(distance <= reach)
        bits = distance[rows, columns].astype(np.int64)
        return rows + block.start, columns + skipped, bits

    with ThreadPoolExecutor(threads) as pool:
        for rows, columns, distance in pool.map(near, _blocks(len(hashes), right)):
            keep = rows < columns if within else np.ones(len(rows), dtype=bool)
            own, other = groups[0][rows], groups[1][columns]
            keep &= (own != other) | (own < 0)
            rows, columns, distance = rows[keep], columns[keep], distance[keep]
            same = labels[0][rows] == labels[1][columns]
            n_pairs += np.bincount(distance, minlength=len(n_pairs))
            n_same += np.bincount(distance[same], minlength=len(n_same))
            close = distance <= max_distance
            parts.append((rows[close], columns[close], distance[close]))
    first, second, distance = (np.concatenate(part) for part in zip(*parts, strict=True))
    return HashPairs(first, second, distance, n_pairs, n_same)


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


def _blocks(n: int, right: np.ndarray) -> Iterator[slice]:
    # Two bytes a distance, and the bits beside it.
    step = max(1, _BLOCK_BYTES // (12 * right.shape[0] * right.shape[1]))
    return (slice(start, min(start + step, n)) for start in range(0, n, step))


def _distances(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Least number of differing bits between a frame and any view of the other, (rows, others)."""
    forward = _least(left[:, 0], right)
    back = _least(right[:, 0], left).T
    return np.minimum(forward, back)


def _least(frames: np.ndarray, views: np.ndarray) -> np.ndarray:
    least = np.full((len(frames), len(views)), 64 * views.shape[2] + 1, dtype=np.uint16)
    for view in range(views.shape[1]):
        distance = np.zeros(least.shape, dtype=np.uint16)
        for word in range(views.shape[2]):
            distance += np.bitwise_count(frames[:, word, None] ^ views[None, :, view, word])
        np.minimum(least, distance, out=least)
    return least
