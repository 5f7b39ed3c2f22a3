"""Columns side by side in one product, each in the bits that it would have in any company.

BLAS kernels give a column other last bits where it stands elsewhere in a product. But on the
kernels that we know a column keeps its bits wherever its place in a tile of `TILE` columns is the
same, so that places are given by what a problem is itself. Whether that holds on this processor, at
these sizes, is tried before it is relied on.
"""

from functools import cache
from typing import NamedTuple

import numpy as np

from trustq.heads.narrow import (
    CHUNK,
    MOST_RESULTS,
    MOST_SMALL,
    has_small_kernels,
    product,
    slopes,
)

HALVED = 12  # columns that one kernel of OpenBLAS (Haswell, Zen) takes at a time; others take less
NARROW = 3  # columns of a tile where nothing is packed: seven classes need six, ten nine
MOST_COLUMNS = 8 * HALVED  # of one product; wider ones were no faster
TRIED_SIZE = 1 << 18  # entries of the features on which tiles are tried


class Tiling(NamedTuple):
    """Columns of a tile, of its half where one problem may have it (0: none), and of a product."""

    tile: int
    half: int
    most: int
    chunked: bool  # whether rows are taken by `CHUNK`, which kernels for small matrices like

    def chunks(self, n_columns: int) -> int:
        """Rows of a product of so many columns at a time; 0 for all of them."""
        return CHUNK if self.chunked and n_columns <= self.most else 0


def tiling_of(n_axes: int) -> Tiling:
    """How columns with so many entries stand side by side on this processor."""
    most = min(MOST_SMALL // n_axes, MOST_RESULTS) // CHUNK // NARROW * NARROW
    if most >= 2 * NARROW and has_small_kernels():
        return Tiling(NARROW, 0, most, True)
    return Tiling(HALVED, HALVED // 2, MOST_COLUMNS, False)


class Need(NamedTuple):
    """What a problem needs of a product: columns, and the half of a tile where one is enough."""

    n_columns: int
    half: int  # 0 or 1

    def width(self, tiling: Tiling) -> int:
        """Columns of the tiles that it takes alone."""
        return -(-self.n_columns // tiling.tile) * tiling.tile

    def first(self, tiling: Tiling) -> int:
        """Its first column in its tiles."""
        return tiling.half * self.half if self.is_small(tiling) else 0

    def is_small(self, tiling: Tiling) -> bool:
        """Whether half a tile holds it."""
        return self.n_columns <= tiling.half


class Product(NamedTuple):
    """Problems whose columns stand side by side: positions, first columns, and all columns."""

    which: list[int]
    first: list[int]
    n_columns: int

    def places(self, needs: list[Need]) -> list[slice]:
        """Columns of each problem."""
        return [
            slice(first, first + needs[i].n_columns)
            for i, first in zip(self.which, self.first, strict=True)
        ]


def side_by_side(needs: list[Need], which: list[int], tiling: Tiling) -> list[Product]:
    """Products that hold the columns of the problems named, as few as the tiling allows.

    >>> side_by_side([Need(6, 0), Need(6, 1), Need(9, 0)], [0, 1, 2], Tiling(12, 6, 96, False))
    [Product(which=[2, 0, 1], first=[0, 12, 18], n_columns=24)]
    """
    # Tiles: of one problem, or of two that take a half each.
    small = [i for i in which if needs[i].is_small(tiling)]
    halves = [[i for i in small if needs[i].half == h] for h in (0, 1)]
    n_pairs = max(map(len, halves))
    tiles = [[i] for i in which if not needs[i].is_small(tiling)]
    tiles += [[i for own in halves for i in own[at : at + 1]] for at in range(n_pairs)]
    found: list[Product] = []
    for tile in tiles:
        width = needs[tile[0]].width(tiling)
        if not found or found[-1].n_columns + width > tiling.most:
            found.append(Product([], [], 0))
        last = found[-1]
        last.which.extend(tile)
        last.first.extend(last.n_columns + needs[i].first(tiling) for i in tile)
        found[-1] = last._replace(n_columns=last.n_columns + width)
    return found


def as_alone(
    products: list[Product], needs: list[Need], features: np.ndarray, tiling: Tiling
) -> list[Product]:
    """Products with features, (n, axes), in which each problem has the bits that it has alone.

    Where they do not hold, each has one of its own.
    """
    found = []
    for own in products:
        widths = {own.n_columns, *(needs[i].width(tiling) for i in own.which)}
        widths.discard(tiling.tile)
        if len(own.which) == 1 or all(_hold(features, width, tiling) for width in sorted(widths)):
            found.append(own)
        else:
            found += [
                Product([i], [needs[i].first(tiling)], needs[i].width(tiling)) for i in own.which
            ]
    return found


def _hold(features: np.ndarray, n_columns: int, tiling: Tiling) -> bool:
    n_rows, n_axes = features.shape
    # Rows at the end of a product are handled by kernels of their own: 96 is a multiple of all.
    enough = n_rows % 96 + 96 * -(-TRIED_SIZE // (96 * n_axes))
    return tiles_hold(features.dtype.name, min(n_rows, enough), n_axes, n_columns, tiling)


@cache
def tiles_hold(dtype: str, n_rows: int, n_axes: int, n_columns: int, tiling: Tiling) -> bool:
    """Whether columns have the same bits in every tile of a product of `n_columns` as in one alone.

    The products are of columns, one a row, with features of (n_rows, n_axes) and their transpose.
    """
    rng = np.random.default_rng(0)
    features = rng.standard_normal((n_rows, n_axes), dtype=np.float32).astype(dtype)
    chunk, n_tiles = tiling.chunks(n_columns), n_columns // tiling.tile
    for own, multiply in ((n_axes, product), (n_rows, slopes)):
        tile = rng.standard_normal((tiling.tile, own)).astype(dtype)
        alone = multiply(tile, features, chunk)
        wide = multiply(np.tile(tile, (n_tiles, 1)), features, chunk)
        if not (wide.reshape(n_tiles, *alone.shape) == alone).all():
            return False
    return True
