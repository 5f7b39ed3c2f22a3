"""Rows with more columns than there are rows: a basis of the space that they span.

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


def row_basis(rows: np.ndarray) -> np.ndarray:
    """An orthonormal basis, (d, rank) of float64, of what (n, d) rows of n < d span.

    Rows in an order of their own, each less what those before it span: Cholesky's factor of their
    products, with pivots. Rows of zeros alone have one column of zeros.

    >>> row_basis(np.array([[3.0, 0.0, 4.0], [0.0, 0.0, 0.0]])).round(12).tolist()
    [[0.6], [0.0], [0.8]]
    """
    products = row_products(rows)
    longest = float(products.diagonal().max())
    if longest == 0:
        return np.zeros((rows.shape[1], 1))
    left = LEAST_LEFT[rows.dtype.name] * longest
    factor, places, rank, _ = scipy.linalg.lapack.dpstrf(products, tol=left, lower=1, overwrite_a=1)
    spanning = rows[places[:rank] - 1].astype(np.float64)
    found = scipy.linalg.solve_triangular(
        factor[:rank, :rank], spanning, lower=True, overwrite_b=True, check_finite=False
    )
    return np.asarray(found.T)


def row_products(rows: np.ndarray) -> np.ndarray:
    """Products of pairs of (n, d) rows, (n, n) of float64 by columns, 0 above the diagonal.

    >>> row_products(np.array([[1.0, 2.0], [0.0, 3.0]])).tolist()
    [[5.0, 0.0], [6.0, 9.0]]
    """
    found = np.zeros((len(rows), len(rows)), order="F")
    for first in range(0, rows.shape[1], COLUMNS_AT_ONCE):
        some = rows[:, first : first + COLUMNS_AT_ONCE].astype(np.float64, order="C")
        found = scipy.linalg.blas.dsyrk(1, some.T, beta=1, c=found, trans=1, lower=1, overwrite_c=1)
    return np.asarray(found)
