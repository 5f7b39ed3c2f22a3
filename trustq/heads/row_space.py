"""Rows with more columns than there are rows, as coordinates in the space that they span.

What is fitted to n rows with a penalty on its length lies in their span, so that n columns say all
that more would; and products of rows with each other, which find them, cost less than those of
columns.
"""

import numpy as np
import scipy

COLUMNS_AT_ONCE = 1024  # of rows in float64 beside their products
# Squared length of what is left of every row, of the longest row's, below which the others span
# it: 1e-5 of a row, which a fit could only use at a penalty that is a hundred thousand times weaker
# than rows are long. Less is left of float64 rows, a thousand times their rounding.
LEAST_LEFT = {"float32": 1e-10, "float64": 1e-13}


class RowSpace:
    """An orthonormal basis of what n rows of d > n columns span, and the rows in it.

    `rows` are (n, d), centred, of float32 or float64; `coordinates` is (n, rank) of float64. The
    basis is that of the rows in an order of their own, each less what those before it span
    (Cholesky's factor of their products, with pivots).

    >>> space = RowSpace(np.array([[3.0, 0.0, 4.0], [0.0, 0.0, 0.0]]))
    >>> space.coordinates.tolist(), space.out_of(np.array([[5.0]])).tolist()
    ([[5.0], [0.0]], [[3.0, 0.0, 4.0]])
    """

    def __init__(self, rows: np.ndarray) -> None:
        products = row_products(rows)
        longest = float(products.diagonal().max())
        left = LEAST_LEFT[rows.dtype.name] * longest
        factor, places, rank, _ = scipy.linalg.lapack.dpstrf(
            products, tol=left, lower=1, overwrite_a=1
        )
        if longest == 0:  # rows that are all alike span nothing: one column of zeros
            factor, rank = np.zeros_like(factor), 1
        factor, order = np.tril(factor[:, :rank]), places - 1
        self.coordinates = np.empty_like(factor)
        self.coordinates[order] = factor
        self._root = factor[:rank] if longest > 0 else np.ones((1, 1))
        self._spanning = rows[order[:rank]].astype(np.float64)

    def into(self, coef: np.ndarray) -> np.ndarray:
        """Coefficients of the coordinates from those of columns, (..., d) to (..., rank)."""
        along = coef @ self._spanning.T
        solved = scipy.linalg.solve_triangular(self._root, along.T, lower=True, check_finite=False)
        return np.asarray(solved.T)

    def out_of(self, coef: np.ndarray) -> np.ndarray:
        """Coefficients of columns from those of the coordinates, (..., rank) to (..., d)."""
        of_rows = scipy.linalg.solve_triangular(
            self._root, coef.T, lower=True, trans=1, check_finite=False
        )
        return np.asarray(of_rows.T @ self._spanning)


def row_products(rows: np.ndarray) -> np.ndarray:
    """Products of all pairs of (n, d) rows, (n, n) of float64.

    >>> row_products(np.array([[1.0, 2.0], [0.0, 3.0]])).tolist()
    [[5.0, 6.0], [6.0, 9.0]]
    """
    found = np.zeros((len(rows), len(rows)))
    for first in range(0, rows.shape[1], COLUMNS_AT_ONCE):
        some = rows[:, first : first + COLUMNS_AT_ONCE].astype(np.float64)
        found += some @ some.T
    return found
