"""Features that many fits share, and what is made of them once: turned rows, bins."""

import multiprocessing
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import cache, cached_property
from itertools import pairwise
from typing import Any

import numpy as np
import scipy
from threadpoolctl import ThreadpoolController

from trustq.core.counts import counted
from trustq.core.scratch import aligned, lies_in_file, room_for, room_left
from trustq.errors import InputError
from trustq.heads.kernels import kernel_of, multiplied
from trustq.heads.row_space import row_basis, row_products
from trustq.heads.standardise import Standardised, column_sums

ROWS_PER_BLOCK = 4096  # float32 sums run over so many rows, float64 ones over the blocks
KEPT_BINS = 1 << 27  # entries of binned rows that are kept for later fits, a byte each
EXACT_SIZE = 1 << 16  # features with fewer entries are solved in float64, which costs nothing there
LONGEST = 64  # axes of the Gram matrix that are known one by one
TURNED = 2 * LONGEST  # up to so many columns rows are turned to the axes, which costs little there
FEW_ROWS = 8 * TURNED  # up to so many rows of more columns likewise, by products of the rows
SHORTEST = 1e-12  # squared length of an axis, of the longest one's, that is more than rounding
OVERSAMPLED = 16  # directions beside the longest, and
ROUNDS = 4  # products with the Gram matrix that find them: what they lack costs steps, not truth
ROWS_AT_ONCE = 256  # of a matrix that is worked on in place
KEPT_INVERSES = 1 << 28  # bytes of inverses of the Gram matrix that are kept
# Float32 factors matrices of up to this condition: more leaves less than two digits of the inverse.
SINGLE_CONDITION = 1e4


class SharedFeatures:
    """Features of n rows that any number of fits share, with what is made of them once.

    `features` is (n, d) of finite numbers, best standardised, for penalties are on their units: an
    array, or rows that are standardised when they are asked for (`Standardised`). It is kept, not
    copied; what fits need of it is made when first asked for: for linear heads the centred rows,
    float32 (float64 below 65,536 entries), and their Gram matrix, for boosted ones their bins.
    Raises `TrustqError` for features that are no finite matrix.

    >>> SharedFeatures(np.arange(6.0).reshape(3, 2)).shape
    (3, 2)
    """

    def __init__(self, features: np.ndarray | Standardised) -> None:
        if not isinstance(features, Standardised):
            features = np.asarray(features)
        if features.ndim != 2 or 0 in features.shape:
            raise InputError(
                f"features has shape {features.shape}, expected (n, d), neither of them 0.",
                where="features",
                found=features.shape,
            )
        self.features: Any = features
        self.shape: tuple[int, int] = (features.shape[0], features.shape[1])
        self.dtype = np.float64 if features.size <= EXACT_SIZE else np.float32
        self.center = (
            column_sums(features) / len(features)
            if isinstance(features, Standardised)
            else features.mean(axis=0, dtype=np.float64)
        )
        if not np.isfinite(self.center).all():
            bad = int((~np.isfinite(np.asarray(features))).any(axis=1).sum())
            raise InputError(f"features of {counted(bad, 'row')} hold NaN or infinite values.")
        self._lending = threading.Lock()
        self._edges: dict[int, Any] = {}  # matrices of one row, by the number of bins
        self._light: dict[int, Any] = {}  # all rows in LightGBM's bins, by their number
        self._idle_bins: list[tuple[tuple[int, bytes], Any]] = []  # the latest last
        self._inverses: dict[float, np.ndarray] = {}  # of the Gram matrix, by what is added to it
        self._inverting = threading.Lock()
        self.blocks = _blocks_of(len(features))

    def prepare(self) -> None:
        """Make the rows and the axes now, before threads could make them twice."""
        self.by_row, self.longest  # noqa: B018

    @property
    def n_axes(self) -> int:
        """Columns of `by_row`."""
        return self.shape[1] if self._basis is None else self._basis.shape[1]

    @property
    def is_turned(self) -> bool:
        """Whether rows lie on the axes of their Gram matrix, which is then diagonal."""
        n, d = self.shape
        return d <= TURNED or n < d and n <= FEW_ROWS

    @property
    def axes(self) -> np.ndarray:
        """Directions of the axes of the Gram matrix by length, ascending, (d, axes)."""
        return self._spectrum[1]

    def to_axes(self, coef: np.ndarray) -> np.ndarray:
        """Coefficients of the rows' columns from those of the features, (..., d)."""
        return coef if self._basis is None else coef @ self._basis

    def from_axes(self, coef: np.ndarray) -> np.ndarray:
        """Coefficients of the features from those of the rows' columns, (..., axes)."""
        return coef if self._basis is None else coef @ self._basis.T

    @cached_property
    def _basis(self) -> np.ndarray | None:
        """Directions of the columns of `by_row`, (d, axes); None where they are the features'."""
        n, d = self.shape
        if self.is_turned:
            return self.axes
        if n >= d:
            return None
        with one_blas_thread():
            return row_basis(self._centred(slice(0, n)))

    @cached_property
    def by_row(self) -> list[np.ndarray]:
        """Centred rows, a (rows, axes) array a block.

        Turned to their axes where `is_turned`, in the space that they span where they are fewer
        than columns.
        """
        turn = None if self._basis is None else self._basis.astype(self.dtype)
        with one_blas_thread():
            whole = room_for((self.shape[0], self.n_axes), self.dtype)
            found = [whole[rows] for rows in self.blocks]
            for rows, block in zip(self.blocks, found, strict=True):
                if turn is None:
                    self._centred(rows, out=block)
                else:
                    np.matmul(self._centred(rows), turn, out=block)
            return found

    @property
    def is_on_disk(self) -> bool:
        """Whether `by_row` lies in a file, for it would not fit in memory."""
        return lies_in_file(self.by_row[0])

    @cached_property
    def longest(self) -> tuple[np.ndarray, np.ndarray | None]:
        """Squared lengths of the longest axes, ascending, (m,), and their directions, (axes, m).

        Where rows are turned these are all axes, and directions are None.
        """
        if self.is_turned:
            return self._spectrum[0], None
        gram: Any = self._gram
        with one_blas_thread():
            rng = np.random.default_rng(0)
            basis = rng.standard_normal((len(gram), LONGEST + OVERSAMPLED), dtype=self.dtype)
            for _ in range(ROUNDS):
                basis = np.linalg.qr(gram @ basis)[0]
            inner = (basis.T @ (gram @ basis)).astype(np.float64)
            sizes, turn = np.linalg.eigh(inner)
            directions = basis @ turn[:, -LONGEST:].astype(self.dtype)
            # Columns that never vary (units that never fire) have no part in them: what rounding
            # leaves would make steps too small for normal numbers, which take ten times as long.
            directions[gram.diagonal() == 0] = 0
        return np.maximum(sizes[-LONGEST:], 0), directions

    @cached_property
    def long_rows(self) -> list[np.ndarray]:
        """Centred rows on the longest axes, a (rows, m) array a block."""
        directions = self.longest[1]
        if directions is None:
            return self.by_row
        with one_blas_thread():
            whole = room_for((self.shape[0], directions.shape[1]), self.dtype)
            found = [whole[rows] for rows in self.blocks]
            for block, long in zip(self.by_row, found, strict=True):
                np.matmul(block, directions, out=long)
            return found

    def inverse(self, added: float) -> np.ndarray | None:
        """Directions of `longest` and, under them, an inverse along all others, (m + axes, axes).

        That of the Gram matrix with `added` on its diagonal, less what it is on these directions:
        what is left is semidefinite whatever they lack. None where they are all.
        """
        if self.is_turned:
            return None
        with self._inverting:
            if added not in self._inverses:
                with one_blas_thread():
                    self._inverses[added] = self._invert(added)
                most = min(KEPT_INVERSES, room_left())
                n_kept = max(1, int(most // self._inverses[added].nbytes))
                for old in list(self._inverses)[:-n_kept]:
                    del self._inverses[old]
            return self._inverses[added]

    def _invert(self, added: float) -> np.ndarray:
        sizes, directions = self.longest
        assert directions is not None
        exact = self.dtype == np.float64 or sizes[-1] > SINGLE_CONDITION * added
        matrix: Any = self._gram.astype(np.float64 if exact else np.float32)
        matrix.ravel()[:: len(matrix) + 1] += added
        lapack = scipy.linalg.lapack
        factor, invert = (lapack.dpotrf, lapack.dpotri) if exact else (lapack.spotrf, lapack.spotri)
        root, failed = factor(matrix.T, lower=1, overwrite_a=1)
        assert not failed, "what is added to a Gram matrix makes it definite"
        half, _ = invert(root, lower=1, overwrite_c=1)
        inverse: Any = half.T  # row by row, complete above the diagonal
        _complete(inverse)
        along = directions / (sizes + added).astype(matrix.dtype)
        found = aligned((len(sizes) + len(inverse), len(inverse)), self.dtype)
        found[: len(sizes)] = directions.T
        for first in range(0, len(inverse), ROWS_AT_ONCE):
            band = slice(first, first + ROWS_AT_ONCE)
            np.subtract(
                inverse[band],
                along[band] @ directions.T,
                out=found[len(sizes) :][band],
                casting="same_kind",
            )
        return found

    def rows(self, positions: np.ndarray) -> np.ndarray:
        """Some rows on the axes, (positions, axes), positions ascending."""
        found = []
        for rows, block in zip(self.blocks, self.by_row, strict=True):
            first, last = np.searchsorted(positions, [rows.start, rows.stop])
            found.append(block[positions[first:last] - rows.start])
        return np.concatenate(found)

    @contextmanager
    def bins(self, max_bin: int, used: np.ndarray) -> Iterator[Any]:
        """The rows that are `used`, (n,) of bool, in XGBoost's bins, whose edges are of all rows.

        A `QuantileDMatrix` is lent, whose labels may be replaced; who asks for rows while they are
        lent gets new ones. Rows without weight would cost trees as much as others: to leave out a
        fifth of them saves a seventh of the time.
        """
        import xgboost

        with self._lending:
            if max_bin not in self._edges:
                whole = xgboost.QuantileDMatrix(
                    np.asarray(self.features), max_bin=max_bin, nthread=1
                )
                # One row keeps the edges, so that no matrix is lent and read from at once.
                self._edges[max_bin] = xgboost.QuantileDMatrix(
                    self.features[:1], max_bin=max_bin, nthread=1, ref=whole
                )
                everything = np.ones(self.shape[0], dtype=bool)
                self._idle_bins.append((_key_of(max_bin, everything), whole))

        def make() -> Any:
            return xgboost.QuantileDMatrix(
                self.features[used], max_bin=max_bin, nthread=1, ref=self._edges[max_bin]
            )

        with self._lent(_key_of(max_bin, used), make) as lent:
            yield lent

    @contextmanager
    def light_bins(self, max_bin: int, used: np.ndarray) -> Iterator[Any]:
        """The same in LightGBM's bins: a `Dataset`, whose labels and weights may be replaced."""
        import lightgbm

        settings = {
            "max_bin": max_bin,
            "min_data_in_bin": 1,
            "enable_bundle": False,  # features that are hardly ever 0 have nothing to bundle
            "feature_pre_filter": False,
            "num_threads": 1,
            "verbosity": -1,
        }
        with self._lending:
            if max_bin not in self._light:
                rows: Any = np.asarray(self.features)
                if rows.dtype == np.float16:  # which LightGBM does not read
                    rows = rows.astype(np.float32)
                whole = lightgbm.Dataset(rows, label=np.zeros(len(rows)), params=settings)
                self._light[max_bin] = whole.construct()

        def make() -> Any:
            return self._light[max_bin].subset(np.flatnonzero(used)).construct()

        with self._lent(_key_of(-max_bin, used), make) as lent:
            yield lent

    @contextmanager
    def _lent(self, key: tuple[int, bytes], make: Callable[[], Any]) -> Iterator[Any]:
        """Binned rows that nobody has now, made where there are none, and kept afterwards."""
        with self._lending:
            place = next((i for i, (own, _) in enumerate(self._idle_bins) if own == key), None)
            lent = None if place is None else self._idle_bins.pop(place)[1]
        if lent is None:
            lent = make()
        yield lent
        with self._lending:
            self._idle_bins.append((key, lent))
            n_kept = max(1, KEPT_BINS // self.features.size)
            del self._idle_bins[:-n_kept]

    @cached_property
    def _gram(self) -> np.ndarray:
        with one_blas_thread():
            # Rows that are not turned are at hand, and would be made twice.
            blocks = map(self._centred, self.blocks) if self.is_turned else iter(self.by_row)
            first = next(blocks)
            gram: np.ndarray = first.T @ first
            for block in blocks:
                gram = gram.astype(np.float64, copy=False)
                gram += block.T @ block
        # Kept as exact as the products are: of as many columns as rows it is as large as they are.
        return gram.astype(self.dtype, copy=False)

    @cached_property
    def _spectrum(self) -> tuple[np.ndarray, np.ndarray]:
        n, d = self.shape
        with one_blas_thread():
            if d > n:  # n rows span at most n directions: along the others nothing can be learned
                return _spectrum_of_few(self._centred(slice(0, n)))
            # As exact as the products that are made with them; float64 takes twice the time. What
            # the axes lack in being orthogonal, 1e-6, is met squared at the minimum.
            found = scipy.linalg.eigh(self._gram, driver="evd", check_finite=False)
        sizes, axes = (each.astype(np.float64) for each in found)
        return np.maximum(sizes, 0), axes

    def _centred(self, rows: slice, out: np.ndarray | None = None) -> np.ndarray:
        own = self.features[rows]
        if out is None:
            out = np.empty(own.shape, self.dtype)
        # Subtracted in float64 and rounded in pieces, not in a copy of that type.
        np.subtract(own, self.center, out=out, casting="same_kind")
        return out


def _spectrum_of_few(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Squared lengths of the axes of (n, d) rows, d > n, ascending, and the axes, (d, axes)."""
    # In float64: where axes are short, the square root of rounding is seen in them.
    sizes, turn = scipy.linalg.eigh(
        row_products(rows), driver="evd", lower=True, overwrite_a=True, check_finite=False
    )
    known = sizes > SHORTEST * sizes[-1]
    known[-1] = True  # rows that are all alike have no axis that is one: any
    sizes, turn = sizes[known], turn[:, known]
    axes = rows.T.astype(np.float64) @ turn
    axes /= np.sqrt(np.maximum(sizes, np.finfo(np.float64).tiny))
    return np.maximum(sizes, 0), axes


def _complete(symmetric: np.ndarray) -> None:
    """Fill in what lies below the diagonal, (d, d), where a copy would be as large again."""
    for first in range(0, len(symmetric), ROWS_AT_ONCE):
        band = slice(first, first + ROWS_AT_ONCE)
        symmetric[band, :first] = symmetric[:first, band].T
        corner = symmetric[band, band]
        corner[:] = np.triu(corner) + np.triu(corner, 1).T


def _key_of(max_bin: int, used: np.ndarray) -> tuple[int, bytes]:
    """What says which rows are binned, and how: below 0 by LightGBM."""
    return max_bin, np.packbits(used).tobytes()


def _blocks_of(n: int) -> list[slice]:
    """Slices of at most `ROWS_PER_BLOCK` rows, nearly equal."""
    ends = np.linspace(0, n, -(-n // ROWS_PER_BLOCK) + 1).astype(int).tolist()
    return [slice(a, b) for a, b in pairwise(ends)]


def row_blocks(n: int) -> list[slice]:
    """Slices of `ROWS_PER_BLOCK` rows, the last of them of up to twice as many.

    BLAS takes other kernels for a short rest of rows, with other last bits.

    >>> [(rows.start, rows.stop) for rows in row_blocks(12_000)]
    [(0, 4096), (4096, 12000)]
    """
    starts = [ROWS_PER_BLOCK * i for i in range(max(1, n // ROWS_PER_BLOCK))]
    return [slice(a, b) for a, b in zip(starts, [*starts[1:], n], strict=True)]


def products(features: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """Rows times columns, (m, d) and (c, d) to (m, c) of float64, at the features' precision.

    Rows have the bits here that they have where only some are there at a time. What float32 holds
    exactly is read so, half precision too, and all else as float64. Raises `TrustqError` for other
    features than the columns are of.
    """
    if features.ndim != 2 or features.shape[1] != columns.shape[1]:
        raise InputError(
            f"features has shape {features.shape}, expected (n, {columns.shape[1]}): pass the "
            "columns that the fit had.",
            where="features",
            found=features.shape,
        )
    dtype = np.float32 if np.can_cast(features.dtype, np.float32) else np.float64
    kernel = kernel_of(dtype, max(1, len(columns) - 1))  # which the fit of these columns has
    found = np.empty((len(features), len(columns)))
    for rows in row_blocks(len(features)):
        (own,) = multiplied(features[rows].astype(dtype, copy=False), [columns], kernel)
        found[rows] = own.T
    return found


def cores() -> int:
    """Threads that fits may share: the cores there are, one in a child process."""
    if multiprocessing.parent_process() is not None:
        return 1  # one of several processes, which have the other cores
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def one_blas_thread() -> AbstractContextManager[Any]:
    """Context in which BLAS uses one thread, so that threads and processes never multiply.

    Two threads that share two cores with others were seen to wait 12 ms for each other in products
    of .5 ms; and sums over one thread have the same bits whatever the number of cores.
    """
    limited: AbstractContextManager[Any] = _controller().limit(limits=1, user_api="blas")
    return limited


@cache
def _controller() -> ThreadpoolController:
    return ThreadpoolController()
