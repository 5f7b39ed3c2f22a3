"""Rows with more columns than there are rows, as coordinates in the space that they span.

What is fitted to n rows with a penalty on its length lies in their span, so that n columns say all
that more would; and products of rows with each other, which find them, cost less than those of
columns.
"""

from collections.abc import Iterator

import numpy as np
import scipy

COLUMNS_AT_ONCE = 1024  # of rows in float64 beside their products
# Squared length of what is left of every row, of the longest row's, below which the others span
# it: 1e-5 of a row, which a fit could only use at a penalty that is a hundred thousand times weaker
# than rows are long. Less is left of float64 rows, a thousand times their rounding.
LEAST_LEFT = {"float32": 1e-10, "float64": 1e-13}


class RowSpace:
    """An orthonormal basis of what n rows of d > n columns span, and the rows in it.

    `rows` are (n, d), centred, of float32 or float64. The basis is that of the rows in an order of
    their own, each less what those before it span (Cholesky's factor of their products, with
    pivots).

    >>> space = RowSpace(np.array([[3.0, 0.0, 4.0], [0.0, 0.0, 0.0]]))
    >>> space.rank, space.coordinates(np.empty((2, 1))).tolist()
    (1, [[5.0], [0.0]])
    >>> space.out_of(np.array([[5.0]])).tolist()
    [[3.0, 0.0, 4.0]]
    """

    def __init__(self, rows: np.ndarray) -> None:
        products = row_products(rows)
        longest = float(products.diagonal().max())
        left = LEAST_LEFT[rows.dtype.name] * longest
        factor, places, rank, _ = scipy.linalg.lapack.dpstrf(
            products, tol=left, lower=1, overwrite_a=1
        )
        self._order = places - 1
        if longest == 0:  # rows that are all alike span nothing: one column of zeros
            self.rank, self._factor, self._root = 1, np.zeros((len(rows), 1)), np.ones((1, 1))
        else:
            self.rank, self._factor = int(rank), factor[:, :rank]
            _lower(self._factor)
            self._root = self._factor[:rank]
        self._spanning = rows[self._order[: self.rank]]

    def coordinates(self, out: np.ndarray) -> np.ndarray:
        """The rows in the basis, (n, rank), written to `out`, in its precision."""
        out[self._order] = self._factor
        return out

    def into(self, coef: np.ndarray) -> np.ndarray:
        """Coefficients of the coordinates from those of columns, (..., d) to (..., rank)."""
        along = np.zeros((*coef.shape[:-1], self.rank))
        for columns, own in _in_parts(self._spanning):
            along += coef[..., columns] @ own.T
        solved = scipy.linalg.solve_triangular(self._root, along.T, lower=True, check_finite=False)
        return np.asarray(solved.T)

    def out_of(self, coef: np.ndarray) -> np.ndarray:
        """Coefficients of columns from those of the coordinates, (..., rank) to (..., d)."""
        of_rows = scipy.linalg.solve_triangular(
            self._root, coef.T, lower=True, trans=1, check_finite=False
        )
        found = np.empty((*coef.shape[:-1], self._spanning.shape[1]))
        for columns, own in _in_parts(self._spanning):
            found[..., columns] = of_rows.T @ own
        return found


def _in_parts(rows: np.ndarray) -> Iterator[tuple[slice, np.ndarray]]:
    """Some columns of rows after others, in float64."""
    for first in range(0, rows.shape[1], COLUMNS_AT_ONCE):
        columns = slice(first, first + COLUMNS_AT_ONCE)
        yield columns, rows[:, columns].astype(np.float64, order="C")


def _lower(matrix: np.ndarray) -> None:
    """Make (n, m) a lower triangle where it lies, for a copy would be as large again."""
    for first in range(0, matrix.shape[1], COLUMNS_AT_ONCE):
        band = slice(first, first + COLUMNS_AT_ONCE)
        matrix[:first, band] = 0
        matrix[band, band] = np.tril(matrix[band, band])


def row_products(rows: np.ndarray) -> np.ndarray:
    """Products of pairs of (n, d) rows, (n, n) of float64 by columns, 0 above the diagonal.

    >>> row_products(np.array([[1.0, 2.0], [0.0, 3.0]])).tolist()
    [[5.0, 0.0], [6.0, 9.0]]
    """
    found = np.zeros((len(rows), len(rows)), order="F")
    for _, some in _in_parts(rows):
        found = scipy.linalg.blas.dsyrk(1, some.T, beta=1, c=found, trans=1, lower=1, overwrite_c=1)
    return np.asarray(found)
