"""Features on the scale of some rows: block by block, so that no copy in float64 is made."""

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from trustq.core.counts import counted
from trustq.core.scratch import fits_memory, room_for, room_left
from trustq.errors import InputError
from trustq.store.mapped import give_back

BLOCK_SIZE = 1 << 16  # entries in float64 at a time: 512 KiB stay near the processor
GIVEN_BACK = 1 << 20  # entries after which the pages of a mapped file are given back


class Scale(NamedTuple):
    """Mean and spread of each column of features, (d,) of float64."""

    center: np.ndarray
    spread: np.ndarray

    def standardise(self, features: np.ndarray, rows: np.ndarray | None = None) -> np.ndarray:
        """Features, or some rows of them, less the mean and in units of the spread, as float32."""
        n = len(features) if rows is None else len(rows)
        found = room_for((n, features.shape[1]), np.float32)
        own = np.empty((_height(features), features.shape[1]))
        for block, part in _parts(features, rows, own):
            part -= self.center
            part /= self.spread
            found[block] = part
        return found


class Standardised:
    """Features on a scale that are made when rows are asked for, and not kept.

    Takes slices, positions and masks, and gives float32 arrays, (rows, d); `np.asarray` makes all.

    >>> rows = Standardised(np.array([[1.0], [3.0]]), np.arange(2), Scale(np.ones(1), np.ones(1)))
    >>> rows.shape, rows[1:].tolist()
    ((2, 1), [[2.0]])
    """

    dtype = np.dtype(np.float32)
    ndim = 2

    def __init__(self, features: np.ndarray, rows: np.ndarray, scale: Scale) -> None:
        self._features, self._rows, self._scale = features, rows, scale
        self._all = _are_all(features, rows)
        self.shape: tuple[int, int] = (len(rows), features.shape[1])
        self.size = len(rows) * features.shape[1]
        self._read = 0

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, key: Any) -> np.ndarray:
        if self._all and isinstance(key, slice):
            found = self._scale.standardise(self._features[key])
        else:
            found = self._scale.standardise(self._features, self._rows[key])
        self._read += found.size
        if self._read >= GIVEN_BACK:
            give_back(self._features)
            self._read = 0
        return found

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return np.asarray(self[:], dtype=dtype)

    def is_same(self, other: "Standardised") -> bool:
        """Whether another gives the same rows of the same array on the same scale."""
        return self._features is other._features and all(
            np.array_equal(own, its)
            for own, its in zip(
                (self._rows, *self._scale), (other._rows, *other._scale), strict=True
            )
        )

    def take(self, rows: np.ndarray) -> "Standardised":
        """The same of some rows, (m,) of positions, in their order."""
        return Standardised(self._features, self._rows[rows], self._scale)


def on_scale(
    features: np.ndarray, scale: Scale, rows: np.ndarray | None = None
) -> np.ndarray | Standardised:
    """All rows or some on a scale, (m, d): made when asked for where memory is short.

    >>> on_scale(np.array([[5.0]]), Scale(np.ones(1), np.ones(1))).tolist()
    [[4.0]]
    """
    n = len(features) if rows is None else len(rows)
    if fits_memory((n, features.shape[1]), np.float32):
        return scale.standardise(features, rows)
    return Standardised(features, np.arange(n) if rows is None else rows, scale)


def at_hand(features: np.ndarray | Standardised) -> np.ndarray | Standardised:
    """Rows that are to be read many times: all in memory where there is room, else as they are.

    >>> scale = Scale(np.ones(1), np.ones(1))
    >>> at_hand(Standardised(np.array([[5.0]]), np.arange(1), scale)).tolist()
    [[4.0]]
    """
    if isinstance(features, np.ndarray) or features.size * features.dtype.itemsize > room_left():
        return features
    return features[:]


def taken(features: np.ndarray | Standardised, rows: np.ndarray) -> np.ndarray | Standardised:
    """Some rows, (m,) of positions, made when asked for where the others are."""
    return features.take(rows) if isinstance(features, Standardised) else features[rows]


def equal_features(a: np.ndarray | Standardised, b: np.ndarray | Standardised) -> bool:
    """Whether two are the same rows; of those that are made when asked for, the same source's."""
    if isinstance(a, Standardised) and isinstance(b, Standardised):
        return a.is_same(b)
    if isinstance(a, Standardised) or isinstance(b, Standardised):
        return False
    return np.array_equal(a, b)


def scale_of(features: np.ndarray, rows: np.ndarray, *, where: str = "") -> Scale:
    """The scale of some rows, whose columns of no spread keep their own units.

    `features` is (n, d), `rows` (m,) of positions. Raises `TrustqError` where they hold NaN or
    infinite values; `where` names the file. As numpy's mean and std of the rows in float64, to the
    last bit.

    >>> scale = scale_of(np.array([[1.0], [3.0]]), np.arange(2))
    >>> scale.standardise(np.array([[5.0]])).tolist()
    [[3.0]]
    """
    m = len(rows)
    some = None if _are_all(features, rows) else rows
    require_finite(features, some, where=where)
    center = column_sums(features, some) / m
    spread = np.sqrt(column_sums(features, some, about=center) / m)
    spread[spread < 1e-12] = 1.0  # a constant column carries nothing
    return Scale(center, spread)


def require_finite(
    features: np.ndarray, rows: np.ndarray | None = None, *, where: str = ""
) -> None:
    """Raise `TrustqError` with the number of rows that hold NaN or infinite values, if any do."""
    bad = 0
    for _, own in _parts(features, rows):
        if not np.isfinite(own).all():
            bad += int((~np.isfinite(own)).any(axis=1).sum())
    if bad and where:
        raise InputError(f"{where}: features of {counted(bad, 'row')} hold NaN or infinite values.")
    if bad:
        raise InputError(
            f"Features of {counted(bad, 'row')} hold NaN or infinite values: leave them out."
        )


def column_sums(
    features: Any, rows: np.ndarray | None = None, about: np.ndarray | None = None
) -> np.ndarray:
    """Sum of rows, or of their squares about a point, (d,) of float64.

    Row after row, as numpy adds a whole array: to the same last bit, whatever the blocks.

    >>> column_sums(np.array([[1.0], [3.0]]), about=np.array([2.0])).tolist()
    [2.0]
    """
    total = np.zeros(features.shape[1])
    room = np.empty((_height(features) + 1, features.shape[1]))
    for _, own in _parts(features, rows, room[1:]):
        if about is not None:
            own -= about
            np.square(own, out=own)
        room[0] = total
        total = room[: len(own) + 1].sum(axis=0)
    return total


def _are_all(features: Any, rows: np.ndarray) -> bool:
    """Whether rows are all there are, in their order: then blocks of them are no copies."""
    return bool(len(rows) == len(features) and (rows == np.arange(len(rows))).all())


def _height(features: Any) -> int:
    """Rows of a block."""
    return max(1, BLOCK_SIZE // max(1, int(features.shape[1])))


def _parts(
    features: Any, rows: np.ndarray | None = None, room: np.ndarray | None = None
) -> Iterator[tuple[slice, np.ndarray]]:
    """Blocks of some rows with their places, copied to `room` if there is any.

    What was read of a mapped file is given back on the way.
    """
    n = len(features) if rows is None else len(rows)
    height = _height(features)
    read = 0
    for start in range(0, n, height):
        block = slice(start, min(start + height, n))
        own = features[block] if rows is None else features[rows[block]]
        if room is not None:
            room[: len(own)] = own
            own = room[: len(own)]
        yield block, own
        read += own.size
        if read >= GIVEN_BACK:
            give_back(features)
            read = 0
