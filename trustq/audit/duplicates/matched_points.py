"""Pairs of images that one turn, zoom and shift carries onto each other, found by keypoints.

All pairs cannot be compared point by point. Descriptors are sorted into words, the nearest of other
images are sought within a word only, and two such matches that tell of the same motion make a
candidate; candidates alone are compared in full.
"""

import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import NamedTuple

import numpy as np
from sklearn.cluster import KMeans
from sklearn.exceptions import ConvergenceWarning
from threadpoolctl import threadpool_limits

from trustq.audit.duplicates.keypoints import Keypoints
from trustq.scoring.neighbours import largest_products

LEAST = 5  # matched points that say anything at all: two fix the motion
# As many are no chance: of 86 million pairs of a HAM10000 image and a mirrored one of another
# lesion none had seven, two had six; of 43 million not mirrored 97 have, by eye nearly all rightly.
SURE = 7
_AXES = 64  # of the 128 of a descriptor: half the work, and no fewer pairs
_WORD = 1024  # descriptors in a word, about
_SAMPLE = 50_000  # descriptors that axes and words are learned from
_NEAREST = 6  # matches of a descriptor within its word
_ALIKE = 0.82  # cosine of descriptors that may be a match
_RIVAL = 0.72  # squared distance of the best match, at most, in parts of the next best's
_TURN, _SIZE, _SHIFT = np.deg2rad(20), 0.5, 0.1  # that two matches of one motion may differ by
_PARTNERS = 12  # matches of one pair that a match is held against
_CANDIDATES = 4  # pairs compared in full: the best of either image, so that none takes all
_OFF = 0.02  # of the longest side, from where the motion carries a point
_ZOOM = 2.5
_SAME = 0.005  # of the longest side: points of one such square are one
_APART = 0.05  # of the longest side, between two points that fix a motion
_FIXING = 60  # surest matches, any two of which may fix it
_TOGETHER = 16  # images compared with one at a time
_BLOCK = 1 << 16


class MatchedPairs(NamedTuple):
    """Pairs of images, (p,) rows of either, and how many points one motion carries over, (p,)."""

    first: np.ndarray
    second: np.ndarray
    n_points: np.ndarray


def matched_pairs(
    points: Keypoints,
    groups: np.ndarray,
    *,
    others: np.ndarray | None = None,
    threads: int = 2,
    seed: int = 0,
    progress: Callable[[str, str, int, int], None] | None = None,
) -> MatchedPairs:
    """Pairs of images of different `groups`, (n,), with at least five matched points, most first.

    A matched point is the nearest in both images, clearly nearer than the next in the second, and
    lies where one turn, zoom up to 2.5 times and shift carries it, within 2 % of the longest side.
    Mirrored images do not match, and a mark that most images bear hides what else they share.
    Candidates are found by the points, and `others`, (c, 2) rows of either image, of different
    groups, are compared besides. Words are learned with `seed`; threads change nothing but the
    time. `progress` is told stage, unit, done and total. Memory: some 70 KB an image.
    """
    rng = np.random.default_rng(seed)
    image = np.repeat(np.arange(len(points), dtype=np.int32), np.diff(points.start))
    of_row = groups[image]
    with threadpool_limits(1), ThreadPoolExecutor(threads) as pool:
        vectors = _vectors(points.descriptors, rng)
        words = list(_words(vectors, rng))
        matches = []
        for own in pool.map(lambda rows: _matches(vectors, rows, of_row), words):
            matches.append(own)
            if progress is not None:
                progress("Keypoints", "words", len(matches), len(words))
        pairs = _candidates(points, image, np.concatenate(matches, axis=1))
        del matches
        if others is not None:
            pairs = np.concatenate([pairs, others])
        pairs = np.unique(pairs, axis=0)  # in order, so that those of one image stand together
        counts: list[int] = []
        for found in pool.map(lambda some: _compare(points, vectors, some), _by_first(pairs)):
            counts += found
            if progress is not None:
                progress("Candidates", "pairs", len(counts), len(pairs))
    n_points = np.array(counts, dtype=np.int64)
    order = np.lexsort((pairs[:, 1], pairs[:, 0], -n_points))
    order = order[n_points[order] >= LEAST]
    return MatchedPairs(pairs[order, 0], pairs[order, 1], n_points[order])


def _vectors(descriptors: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Roots of descriptors (Arandjelovic, Zisserman 2012) on their longest axes, (m, axes)."""
    some = np.sort(rng.permutation(len(descriptors))[:_SAMPLE])
    sample = _root(descriptors[some])
    axes = np.linalg.eigh(sample.T @ sample)[1][:, : -_AXES - 1 : -1]
    # Half precision: they take as much memory as the descriptors that they stand for.
    vectors = np.empty((len(descriptors), _AXES), dtype=np.float16)
    for start in range(0, len(descriptors), _BLOCK):
        block = slice(start, start + _BLOCK)
        turned = _root(descriptors[block]) @ axes
        vectors[block] = turned / np.maximum(np.linalg.norm(turned, axis=1, keepdims=True), 1e-9)
    return vectors


def _root(descriptors: np.ndarray) -> np.ndarray:
    total = np.maximum(descriptors.sum(axis=1, dtype=np.float32, keepdims=True), 1)
    return np.asarray(np.sqrt(descriptors / total, dtype=np.float32))


def _words(vectors: np.ndarray, rng: np.random.Generator) -> Iterator[np.ndarray]:
    """Rows of each word: k-means, and k-means within each of its clusters."""
    n_words = len(vectors) / _WORD
    every = np.arange(len(vectors), dtype=np.int32)
    for rows in _clusters(vectors, every, round(np.sqrt(n_words)), rng):
        yield from _clusters(vectors, rows, round(len(rows) / _WORD), rng)


def _clusters(
    vectors: np.ndarray, rows: np.ndarray, n_clusters: int, rng: np.random.Generator
) -> list[np.ndarray]:
    if n_clusters < 2:
        return [rows]
    some = np.sort(rng.permutation(rows)[: max(_SAMPLE // 32, 32 * n_clusters)])
    means = KMeans(
        n_clusters, init="random", n_init=1, max_iter=10, random_state=int(rng.integers(2**31))
    )
    with warnings.catch_warnings():
        # Of copies there may be fewer different descriptors than clusters.
        warnings.simplefilter("ignore", ConvergenceWarning)
        means.fit(vectors[some].astype(np.float32))
    cluster = np.concatenate(
        [
            means.predict(vectors[rows[start : start + _BLOCK]].astype(np.float32))
            for start in range(0, len(rows), _BLOCK)
        ]
    )
    ends = np.cumsum(np.bincount(cluster, minlength=n_clusters))[:-1]
    return np.split(rows[np.argsort(cluster, kind="stable")], ends)


def _matches(vectors: np.ndarray, rows: np.ndarray, groups: np.ndarray) -> np.ndarray:
    """Rows of either side of the matches within one word, each once, (2, matches)."""
    own = groups[rows]
    largest = int(np.unique(own, return_counts=True)[1].max()) if len(rows) else 0
    k = min(_NEAREST, len(rows) - largest)
    if k < 1:
        return np.empty((2, 0), dtype=np.int32)
    found, cosines = largest_products(vectors[rows].astype(np.float32), own, k=k)
    one, place = np.nonzero(cosines >= _ALIKE)
    other = found[one, place]
    pairs = np.unique(np.minimum(one, other) * len(rows) + np.maximum(one, other))
    return np.stack([rows[pairs // len(rows)], rows[pairs % len(rows)]])


def _candidates(points: Keypoints, image: np.ndarray, matches: np.ndarray) -> np.ndarray:
    """Pairs of images, (c, 2), of which two matches or more tell of one motion."""
    if not matches.size:
        return np.empty((0, 2), dtype=np.int64)
    a, b = matches
    a, b = np.where(image[a] < image[b], a, b), np.where(image[a] < image[b], b, a)
    pair = image[a].astype(np.int64) * len(points) + image[b]
    order = np.argsort(pair, kind="stable")
    pair = pair[order]
    again = pair[1:] == pair[:-1]
    several = np.append(again, False) | np.append(False, again)  # a lone match says nothing
    order, pair = order[several], pair[several]
    a, b = a[order], b[order]
    turn = points.turn[b] - points.turn[a]
    size = points.size[b] - points.size[a]
    motion = np.exp2(size) * np.exp(1j * turn)
    middle = 0.5 + 0.375j  # where the motion carries it says how far two shifts differ
    shift = _complex(points.place[b]) + motion * (middle - _complex(points.place[a]))
    agreeing = np.ones(len(pair), dtype=np.int64)
    for apart in range(1, _PARTNERS):
        one = np.flatnonzero(pair[apart:] == pair[:-apart])
        other = one + apart
        turned = np.abs(np.angle(np.exp(1j * (turn[one] - turn[other]))))
        same = (turned < _TURN) & (np.abs(size[one] - size[other]) < _SIZE)
        allowed = _SHIFT * np.maximum(1, np.exp2(size[one]))
        same &= np.abs(shift[one] - shift[other]) < allowed
        for end in (one, other):
            agreeing += np.bincount(end[same], minlength=len(pair))
    if not len(pair):
        return np.empty((0, 2), dtype=np.int64)
    first = np.flatnonzero(np.append(True, pair[1:] != pair[:-1]))
    votes = np.maximum.reduceat(agreeing, first)
    n_matches = np.diff(np.append(first, len(pair)))
    best = np.lexsort((first, -n_matches, -votes))
    best = best[votes[best] >= 2]
    chosen = np.stack(np.divmod(pair[first[best]], len(points)), axis=1)
    return chosen[(_place_among_its_own(chosen) < _CANDIDATES).any(axis=1)]


def _place_among_its_own(pairs: np.ndarray) -> np.ndarray:
    """How many pairs of either image stand before each pair, (c, 2)."""
    places = np.empty_like(pairs)
    for side in (0, 1):
        order = np.argsort(pairs[:, side], kind="stable")
        sizes = np.unique(pairs[:, side], return_counts=True)[1]
        places[order, side] = np.arange(len(pairs)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    return places


def _by_first(pairs: np.ndarray) -> Iterator[np.ndarray]:
    """Pairs of one first image each, (p, 2), and of few enough that they fit a core's cache."""
    starts = np.flatnonzero(np.diff(pairs[:, 0])) + 1
    for own in np.split(pairs, starts):
        yield from (own[start : start + _TOGETHER] for start in range(0, len(own), _TOGETHER))


def _compare(points: Keypoints, vectors: np.ndarray, pairs: np.ndarray) -> list[int]:
    """Matched points of one image with each of some others: pairs (p, 2) with the same first."""
    first, seconds = pairs[0, 0], pairs[:, 1]
    left = vectors[points.start[first] : points.start[first + 1]].astype(np.float32)
    place = _complex(points.place[points.start[first] : points.start[first + 1]])
    starts, ends = points.start[seconds], points.start[seconds + 1]
    right = np.zeros((len(seconds), int((ends - starts).max()), _AXES), dtype=np.float32)
    for own, start, end in zip(right, starts, ends, strict=True):
        own[: end - start] = vectors[start:end]
    if min(len(left), right.shape[1]) < LEAST:
        return [0] * len(seconds)
    cosines = left @ right.transpose(0, 2, 1)
    nearest = cosines.argmax(axis=2)
    best = np.take_along_axis(cosines, nearest[:, :, None], axis=2)[:, :, 0]
    mutual = best == np.take_along_axis(cosines.max(axis=1), nearest, axis=1)
    # Of equal ones none is nearer, which half precision could hide: lengths may be above one.
    distance = np.maximum(1 - best, 0)
    np.put_along_axis(cosines, nearest[:, :, None], -1, axis=2)
    mutual &= distance < _RIVAL * np.maximum(1 - cosines.max(axis=2), 0)
    mutual &= nearest < (ends - starts)[:, None]  # rows beyond are empty
    counts = []
    for other, start in enumerate(starts):
        sure = np.flatnonzero(mutual[other])
        sure = sure[np.argsort(distance[other, sure], kind="stable")]
        matched = np.stack([place[sure], _complex(points.place[start + nearest[other, sure]])])
        for side in (0, 1):  # a place of several directions counts once, on either side
            matched = matched[:, _first_of_each(matched[side])]
        counts.append(n_carried(*matched))
    return counts


def _first_of_each(places: np.ndarray) -> np.ndarray:
    """Rows of the first point of each square, in order."""
    squares = np.rint(places.real / _SAME) + 1j * np.rint(places.imag / _SAME)
    return np.sort(np.unique(squares, return_index=True)[1])


def n_carried(before: np.ndarray, after: np.ndarray) -> int:
    """How many points, (m,) of complex numbers, one turn, zoom and shift carries to `after`.

    Every two of the first 60 points that lie apart fix a motion; the best one counts. The distance
    allowed grows with the root of the zoom, so that both directions count alike.

    >>> before = np.array([0, 0.3, 0.3j, 0.2 + 0.1j, 0.5])
    >>> n_carried(before, 1j * before + [0.1, 0.1, 0.1, 0.1, 0.4])
    4
    """
    if len(before) < LEAST:
        return 0
    i, j = _twos(min(len(before), _FIXING))
    here, there = before[j] - before[i], after[j] - after[i]
    near = np.minimum(np.abs(here), np.abs(there))
    i, here, there = (values[near >= _APART] for values in (i, here, there))
    motion = there / here
    zoom = np.abs(motion)
    i, motion, zoom = (
        values[(zoom <= _ZOOM) & (zoom >= 1 / _ZOOM)] for values in (i, motion, zoom)
    )
    if not len(i):
        return 0
    carried = motion[:, None] * (before - before[i, None]) + after[i, None]
    close = np.abs(carried - after) <= _OFF * np.sqrt(zoom)[:, None]
    return int(close.sum(axis=1).max())


@cache
def _twos(m: int) -> tuple[np.ndarray, np.ndarray]:
    return np.triu_indices(m, 1)


def _complex(places: np.ndarray) -> np.ndarray:
    return np.asarray(places, dtype=np.float32).view(np.complex64)[:, 0]
