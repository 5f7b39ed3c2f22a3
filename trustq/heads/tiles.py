"""Columns side by side in one product, each in the bits that it would have in any company.

BLAS kernels give a column other last bits where it stands elsewhere in a product. But on the
kernels that we know a column keeps its bits wherever its place in a tile of `TILE` columns is the
same, so that places are given by what a problem is itself. Whether that holds on this processor, at
these sizes, is tried before it is relied on.
"""

from functools import cache
from typing import NamedTuple

import numpy as np

TILE = 12  # columns that one kernel of OpenBLAS (Haswell, Zen) takes at a time; others take less
HALF = TILE // 2
MOST_TILES = 8  # of one product; wider ones were no faster
TRIED_SIZE = 1 << 18  # entries of the features on which tiles are tried


class Need(NamedTuple):
    """What a problem needs of a product: columns, and the half of a tile where one is enough."""

    n_columns: int
    half: int  # 0 or 1

    @property
    def n_tiles(self) -> int:
        """Tiles that it takes alone."""
        return -(-self.n_columns // TILE)

    @property
    def is_small(self) -> bool:
        """Whether half a tile holds it."""
        return self.n_columns <= HALF


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


def side_by_side(needs: list[Need], which: list[int]) -> list[Product]:
    """Products that hold the columns of the problems named, as few as `MOST_TILES` allows.

    >>> side_by_side([Need(6, 0), Need(6, 1), Need(9, 0)], [0, 1, 2])
    [Product(which=[2, 0, 1], first=[0, 12, 18], n_columns=24)]
    """
    # Tiles: of one problem, or of two that take a half each.
    halves = [[i for i in which if needs[i].is_small and needs[i].half == h] for h in (0, 1)]
    n_pairs = max(map(len, halves))
    tiles = [[i] for i in which if not needs[i].is_small]
    tiles += [[i for own in halves for i in own[at : at + 1]] for at in range(n_pairs)]
    found: list[Product] = []
    for tile in tiles:
        size = needs[tile[0]].n_tiles
        if not found or found[-1].n_columns + size * TILE > MOST_TILES * TILE:
            found.append(Product([], [], 0))
        last = found[-1]
        last.which.extend(tile)
        last.first.extend(last.n_columns + _first(needs[i]) for i in tile)
        found[-1] = last._replace(n_columns=last.n_columns + size * TILE)
    return found


def as_alone(products: list[Product], needs: list[Need], features: np.ndarray) -> list[Product]:
    """Products with features, (n, axes), in which each problem has the bits that it has alone.

    Where they do not hold, each has one of its own.
    """
    found = []
    for product in products:
        widths = {product.n_columns, *(needs[i].n_tiles * TILE for i in product.which)} - {TILE}
        if len(product.which) == 1 or all(_hold(features, width) for width in sorted(widths)):
            found.append(product)
        else:
            found += [
                Product([i], [_first(needs[i])], needs[i].n_tiles * TILE) for i in product.which
            ]
    return found


def _first(need: Need) -> int:
    """The first column of a problem in its tiles."""
    return HALF * need.half if need.is_small else 0


def _hold(features: np.ndarray, n_columns: int) -> bool:
    n_rows, n_axes = features.shape
    # Rows at the end of a product are handled by kernels of their own: 96 is a multiple of all.
    enough = n_rows % 96 + 96 * -(-TRIED_SIZE // (96 * n_axes))
    return tiles_hold(features.dtype.name, min(n_rows, enough), n_axes, n_columns)


@cache
def tiles_hold(dtype: str, n_rows: int, n_axes: int, n_columns: int) -> bool:
    """Whether columns have the same bits in every tile of a product of `n_columns` as in one alone.

    The products are of columns, one a row, with features of (n_rows, n_axes) and their transpose.
    """
    rng = np.random.default_rng(0)
    features = rng.standard_normal((n_rows, n_axes), dtype=np.float32).astype(dtype)
    for own, other in ((n_axes, features.T), (n_rows, features)):
        tile = rng.standard_normal((TILE, own)).astype(dtype)
        wide = np.tile(tile, (n_columns // TILE, 1)) @ other
        if not (wide.reshape(-1, TILE, other.shape[1]) == tile @ other).all():
            return False
    return True
