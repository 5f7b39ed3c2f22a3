"""Features on the scale of some rows: block by block, so that no copy in float64 is made."""

from typing import NamedTuple

import numpy as np

from trustq.core.scratch import room_for
from trustq.errors import InputError
from trustq.heads.feature_cache import ROWS_PER_BLOCK


class Scale(NamedTuple):
    """Mean and spread of each column of features, (d,) of float64."""

    center: np.ndarray
    spread: np.ndarray

    def standardise(self, features: np.ndarray, rows: np.ndarray | None = None) -> np.ndarray:
        """Features, or some rows of them, less the mean and in units of the spread, as float32."""
        n = len(features) if rows is None else len(rows)
        found = room_for((n, features.shape[1]), np.float32)
        for block in _blocks(n):
            own = features[block] if rows is None else features[rows[block]]
            found[block] = (own - self.center) / self.spread
        return found


def scale_of(features: np.ndarray, rows: np.ndarray, *, where: str = "") -> Scale:
    """The scale of some rows, whose columns of no spread keep their own units.

    `features` is (n, d), `rows` (m,) of positions. Raises `TrustqError` where they hold NaN or
    infinite values; `where` names the file. As numpy's mean and std of the rows in float64, to the
    last bit.

    >>> scale = scale_of(np.array([[1.0], [3.0]]), np.arange(2))
    >>> scale.standardise(np.array([[5.0]])).tolist()
    [[3.0]]
    """
    require_finite(features, rows, where=where)
    m = len(rows)
    center = _sum(features, rows) / m
    spread = np.sqrt(_sum(features, rows, about=center) / m)
    spread[spread < 1e-12] = 1.0  # a constant column carries nothing
    return Scale(center, spread)


def require_finite(
    features: np.ndarray, rows: np.ndarray | None = None, *, where: str = ""
) -> None:
    """Raise `TrustqError` with the number of rows that hold NaN or infinite values, if any do."""
    n = len(features) if rows is None else len(rows)
    bad = 0
    for block in _blocks(n):
        own = features[block] if rows is None else features[rows[block]]
        bad += int((~np.isfinite(own)).any(axis=1).sum())
    if bad and where:
        raise InputError(f"{where}: features of {bad} rows hold NaN or infinite values.")
    if bad:
        raise InputError(f"Features of {bad} rows hold NaN or infinite values: leave them out.")


def _sum(features: np.ndarray, rows: np.ndarray, about: np.ndarray | None = None) -> np.ndarray:
    """Sum of rows, or of their squares about a point, row after row as numpy adds a whole array."""
    total = np.zeros(features.shape[1])
    for block in _blocks(len(rows)):
        own = np.empty((block.stop - block.start + 1, features.shape[1]))
        own[0] = total
        own[1:] = features[rows[block]]
        if about is not None:
            own[1:] -= about
            np.square(own[1:], out=own[1:])
        total = own.sum(axis=0)
    return total


def _blocks(n: int) -> list[slice]:
    return [slice(a, min(a + ROWS_PER_BLOCK, n)) for a in range(0, n, ROWS_PER_BLOCK)]
