"""Features that many fits share, and what is made of them once: turned rows, bins."""

import multiprocessing
import os
import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import cache, cached_property
from typing import Any

import numpy as np
import scipy
from threadpoolctl import ThreadpoolController

from trustq.core.scratch import room_for
from trustq.errors import InputError
from trustq.heads.standardise import Standardised, column_sums

ROWS_PER_BLOCK = 4096  # float32 sums run over so many rows, float64 ones over the blocks
KEPT_BINS = 1 << 27  # entries of binned rows that are kept for later fits, a byte each
EXACT_SIZE = 1 << 16  # features with fewer entries are solved in float64, which costs nothing there


class SharedFeatures:
    """Features of n rows that any number of fits share, with what is made of them once.

    `features` is (n, d) of finite numbers, best standardised, for penalties are on their units: an
    array, or rows that are standardised when they are asked for (`Standardised`). It is kept, not
    copied; what fits need of it is made when first asked for: for linear heads the
    rows turned to the axes of their Gram matrix, float32 (float64 below 65,536 entries), for
    boosted ones their bins. Raises `TrustqError` for features that are no finite matrix.

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
            raise InputError(f"features of {bad} rows hold NaN or infinite values.")
        self._lending = threading.Lock()
        self._edges: dict[int, Any] = {}  # matrices of one row, by the number of bins
        self._idle_bins: list[tuple[tuple[int, bytes], Any]] = []  # the latest last
        n_blocks = -(-len(features) // ROWS_PER_BLOCK)
        edges = np.linspace(0, len(features), n_blocks + 1).astype(int).tolist()
        self.blocks = [slice(a, b) for a, b in zip(edges, edges[1:], strict=False)]

    def prepare(self) -> None:
        """Make the turned rows now, before threads could make them twice."""
        self.by_row  # noqa: B018

    @property
    def sizes(self) -> np.ndarray:
        """Squared lengths of the axes, ascending, (axes,)."""
        return self._spectrum[0]

    @property
    def axes(self) -> np.ndarray:
        """Directions in feature space, (d, axes)."""
        return self._spectrum[1]

    @cached_property
    def by_row(self) -> list[np.ndarray]:
        """Centred rows on the axes, a (rows, axes) array a block."""
        with one_blas_thread():
            turn = self.axes.astype(self.dtype)
            whole = room_for((self.shape[0], turn.shape[1]), self.dtype)
            found = [whole[rows] for rows in self.blocks]
            for rows, block in zip(self.blocks, found, strict=True):
                np.matmul(self._centred(rows), turn, out=block)
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

        key = (max_bin, np.packbits(used).tobytes())
        with self._lending:
            if max_bin not in self._edges:
                whole = xgboost.QuantileDMatrix(
                    np.asarray(self.features), max_bin=max_bin, nthread=1
                )
                # One row keeps the edges, so that no matrix is lent and read from at once.
                self._edges[max_bin] = xgboost.QuantileDMatrix(
                    self.features[:1], max_bin=max_bin, nthread=1, ref=whole
                )
                everything = np.packbits(np.ones(self.shape[0], dtype=bool)).tobytes()
                self._idle_bins.append(((max_bin, everything), whole))
            place = next((i for i, (own, _) in enumerate(self._idle_bins) if own == key), None)
            lent = None if place is None else self._idle_bins.pop(place)[1]
        if lent is None:
            lent = xgboost.QuantileDMatrix(
                self.features[used], max_bin=max_bin, nthread=1, ref=self._edges[max_bin]
            )
        yield lent
        with self._lending:
            self._idle_bins.append((key, lent))
            n_kept = max(1, KEPT_BINS // self.features.size)
            del self._idle_bins[:-n_kept]

    @cached_property
    def _spectrum(self) -> tuple[np.ndarray, np.ndarray]:
        n, d = self.shape
        gram = np.zeros((d, d))
        with one_blas_thread():
            for rows in self.blocks:
                centred = self._centred(rows)
                gram += centred.T @ centred
            # As exact as the products that are made with them; float64 takes twice the time. What
            # the axes lack in being orthogonal, 1e-6, is met squared at the minimum.
            found = scipy.linalg.eigh(gram.astype(self.dtype), driver="evd", check_finite=False)
        sizes, axes = (each.astype(np.float64) for each in found)
        # n rows span at most n directions; along the others nothing can be learned.
        rank = min(d, n)
        return np.maximum(sizes[-rank:], 0), axes[:, -rank:]

    def _centred(self, rows: slice) -> np.ndarray:
        return np.asarray((self.features[rows] - self.center).astype(self.dtype))


def products(features: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """Rows times columns, (m, d) and (c, d) to (m, c) of float64, at the features' precision.

    Half precision, for which BLAS has no product, is read as float32 in blocks.
    """
    with one_blas_thread():
        if features.dtype != np.float16:
            return np.asarray((features @ columns.T.astype(features.dtype)).astype(np.float64))
        turned = columns.T.astype(np.float32)
        found = np.empty((len(features), len(columns)))
        for first in range(0, len(features), ROWS_PER_BLOCK):
            rows = slice(first, first + ROWS_PER_BLOCK)
            found[rows] = features[rows].astype(np.float32) @ turned
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
