"""Distances of perceptual hashes, of images as they are and mirrored or turned, many at a time.

A mirrored image has the frequencies of the image itself, those that are odd along the mirrored axis
with the other sign; a transposed one has them with the axes exchanged. So the hash of an image that
was mirrored or turned is the hash of the image with some bits flipped and moved, and none is made
anew. Sorted by whether a bit's two frequencies are odd, the four kinds fill a word each, and one
comparison of two hashes gives the distances of four orientations.
"""

from collections.abc import Callable
from functools import cache
from typing import Any, NamedTuple

import numpy as np

from trustq.audit.duplicates.fingerprints import HASH_SIDE, WORDS

# What the second image of a pair is beside the first; by twos of (vertical, horizontal) flipped.
ORIENTATIONS = (
    "",
    "mirrored left to right",
    "mirrored top to bottom",
    "turned by 180 degrees",
    "mirrored and turned by 90 degrees",
    "turned by 90 degrees",
    "turned by 90 degrees",
    "mirrored and turned by 90 degrees",
)
_FLIPPED = ((), (1, 3), (2, 3), (1, 2))  # words whose frequencies are odd along what is mirrored
_BITS = 64
_WORTH_COMPILING = 1 << 25  # pairs; compiling takes as long as numpy takes for some ten million


class Hashes(NamedTuple):
    """Hashes of n images with their bits in words by parity, as `compare` reads them.

    `frames` (2, words, n) are those of the whole image, as it is and transposed; `views`
    (views, words, n) of all that a crop may leave.
    """

    frames: np.ndarray
    views: np.ndarray

    @property
    def n(self) -> int:
        """Number of images."""
        return int(self.views.shape[2])

    @classmethod
    def of(cls, hashes: np.ndarray) -> "Hashes":
        """Of hashes (n, views, words) as `perceptual_hashes` makes them."""
        plain, across = _order(), _order().reshape(4, _BITS)
        rows, columns = np.divmod(across, HASH_SIDE)
        transposed = (columns * HASH_SIDE + rows).ravel()
        frames = np.stack([_sorted(hashes[:, 0], order) for order in (plain, transposed)])
        views = np.stack([_sorted(hashes[:, k], plain) for k in range(hashes.shape[1])])
        return cls(frames, views)


def _order() -> np.ndarray:
    """Places of the 256 bits, a word of each parity after another."""
    odd = np.arange(HASH_SIDE) % 2
    kind = (2 * odd[:, None] + odd[None, :]).ravel()
    return np.argsort(kind, kind="stable")


def _sorted(hashes: np.ndarray, order: np.ndarray) -> np.ndarray:
    """Hashes (n, words) with their bits in that order, as (words, n)."""
    step, out = 1 << 16, np.empty((WORDS, len(hashes)), dtype=np.uint64)
    for start in range(0, len(hashes), step):  # a bit takes a byte meanwhile
        part = np.ascontiguousarray(hashes[start : start + step])
        bits = np.unpackbits(part.view(np.uint8), axis=1)[:, order]
        packed = np.ascontiguousarray(np.packbits(bits, axis=1))
        out[:, start : start + step] = packed.view(np.uint64).T
    return out


def compare(
    left: Hashes, right: Hashes, rows: slice, columns: slice, *, compiled: bool
) -> tuple[np.ndarray, np.ndarray]:
    """Least distances of rows of either side, as they are and mirrored or turned, (rows, columns).

    The distance of two images is the least between one's frame and any view of the other's.
    Integers in bits, lower is closer; the same whether compiled or not.
    """
    fill = _compiled() if compiled else _fill
    shape = rows.stop - rows.start, columns.stop - columns.start
    own, turned = (np.full(shape, 4 * _BITS, dtype=np.int16) for _ in range(2))
    cut = np.ascontiguousarray
    fill(cut(left.frames[:, :, rows]), cut(right.views[:, :, columns]), 0, own, turned)
    fill(cut(left.views[:, :, rows]), cut(right.frames[:, :, columns]), 1, own, turned)
    return own, turned


def can_compile(n_pairs: int) -> bool:
    """Whether numba is there, and so many pairs are worth its compiling."""
    from importlib.util import find_spec

    return n_pairs >= _WORTH_COMPILING and find_spec("numba") is not None


def orientations(left: np.ndarray, right: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """For pairs of hashes, (p, views, words) each, the closest of `ORIENTATIONS` but the first.

    Returns their numbers and the distances in bits, (p,).
    """
    sides = Hashes.of(left), Hashes.of(right)
    distances = np.full((len(ORIENTATIONS), len(left)), 4 * _BITS, dtype=np.int64)
    for one, other in (sides, sides[::-1]):
        for view in other.views:
            for turn, frame in enumerate(one.frames):
                differing = np.bitwise_count(frame ^ view).astype(np.int64)
                for k, flipped in enumerate(_FLIPPED):
                    count = sum(_BITS - d if w in flipped else d for w, d in enumerate(differing))
                    place = 4 * turn + k
                    distances[place] = np.minimum(distances[place], count)
    number = np.argmin(distances[1:], axis=0) + 1
    return number, distances[number, np.arange(len(left))]


def _fill(
    left: np.ndarray, right: np.ndarray, framed: int, own: np.ndarray, turned: np.ndarray
) -> None:
    """Lower `own` and `turned`, (rows, columns), to the distances of all of left and right.

    Of the side `framed` they are frames, of the other views; (of them, words, rows or columns).
    """
    words = [np.empty(own.shape, dtype=np.uint8) for _ in range(4)]
    differing = np.empty(own.shape, dtype=np.uint64)
    for at in np.ndindex(len(left), len(right)):
        for count, row, column in zip(words, left[at[0]], right[at[1]], strict=True):
            np.bitwise_xor(row[:, None], column, out=differing)
            np.bitwise_count(differing, out=count)
        even, across, down, both = words
        # Of one word flipped d differing bits become 64 - d: twice the differing ones less.
        most = np.maximum(np.maximum(across + both, down + both), across + down)
        total = even + np.add(across, down + both, dtype=np.int16)
        if at[framed]:  # transposed, so that nothing flipped is an orientation too
            most = np.maximum(most, _BITS)
        else:
            np.minimum(own, total, out=own)
        total += 2 * _BITS - 2 * most.astype(np.int16)
        np.minimum(turned, total, out=turned)


@cache
def _compiled() -> Callable[..., None]:
    """`_fill` as machine code, with the processor's own instructions for counting bits."""
    import numba
    from numba import types
    from numba.extending import intrinsic

    def popcount(_: Any, word: Any) -> Any:
        def build(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            del context, signature
            count = builder.module.declare_intrinsic("llvm.ctpop", (arguments[0].type,))
            return builder.call(count, arguments)

        return types.int64(word), build

    count_bits: Any = intrinsic(popcount)

    def fill(left: Any, right: Any, framed: Any, own: Any, turned: Any) -> None:
        for i in range(left.shape[2]):
            for k in range(left.shape[0]):
                even, across = left[k, 0, i], left[k, 1, i]
                down, both = left[k, 2, i], left[k, 3, i]
                for m in range(right.shape[0]):
                    transposed = m if framed else k
                    least = 64 * transposed
                    for j in range(right.shape[2]):
                        d0 = count_bits(even ^ right[m, 0, j])
                        d1 = count_bits(across ^ right[m, 1, j])
                        d2 = count_bits(down ^ right[m, 2, j])
                        d3 = count_bits(both ^ right[m, 3, j])
                        total = d0 + d1 + d2 + d3
                        most = max(max(d1 + d3, d2 + d3), max(d1 + d2, least))
                        if not transposed:
                            own[i, j] = min(own[i, j], total)
                        turned[i, j] = min(turned[i, j], total + 128 - 2 * most)

    return numba.njit(nogil=True)(fill)
