"""Few columns times many rows, there and back, and a softmax between: in machine code.

BLAS packs its matrices anew for every product, which for a dozen columns is most of the work, and
gives a column other last bits beside others. Here rows are read as they lie, by blocks that stay in
the second cache while all problems take them in turn, each by itself: so each has bits of its own.
"""

import ctypes
import threading
from functools import cache, lru_cache
from typing import Any, NamedTuple, Self

import numpy as np

from trustq.core.scratch import aligned, room_for
from trustq.heads.processor import shape_of

MOST_COLUMNS = 6  # of one pass over rows: each vector of them is used so many times
BLOCK_BYTES = 1 << 19  # of rows that stay in the second cache while all problems take them
MOST_ROWS, LEAST_ROWS = 512, 48  # of a block
BEYOND = 64  # numbers after a line of products, some of which are written

_compiling = threading.Lock()

# A task of a driver: addresses and sizes. `evaluate` reads all of them, `multiply` needs seven.
TASK = np.dtype(
    [
        ("places", np.int64),  # of `Rows`, and
        ("starts", np.int64),
        ("counts", np.int64),
        ("weights", np.int64),  # (passes * columns, d)
        ("offsets", np.int64),  # (columns,), added to products
        ("out", np.int64),  # products, (passes * columns, stride); of `evaluate`: targets
        ("stride", np.int64),
        ("mass", np.int64),  # what rows weigh, at their places among `Rows`, as targets are
        ("slopes", np.int64),  # (passes * columns, d), added to
        ("sums", np.int64),  # (columns + 1, lanes) of doubles, added to: of residuals, and losses
        ("n_columns", np.int64),
        ("n_passes", np.int64),
    ]
)


class Kernel(NamedTuple):
    """Machine code for problems whose columns are taken `columns` at a time."""

    columns: int
    lanes: int
    multiply: Any
    evaluate: Any
    engine: Any  # which holds their code

    def passes(self, n_columns: int) -> int:
        """How often so many columns pass over rows."""
        return -(-n_columns // self.columns)


def kernel_of(dtype: Any, n_columns: int) -> Kernel:
    """That for problems with so many columns, compiled when first asked for.

    It depends on nothing else, so that a problem has the same bits in any company.
    """
    n_passes = -(-n_columns // MOST_COLUMNS)
    with _compiling:
        return _compiled(np.dtype(dtype).name, -(-n_columns // n_passes))


class Rows(NamedTuple):
    """Rows that a task takes of a matrix, as the loops read them, block by block.

    What belongs to the rows of a block begins where a vector does, so that what is read beyond them
    belongs to none.
    """

    places: np.ndarray  # of each row's first number in the matrix
    starts: np.ndarray  # (blocks,) where those of a block begin
    counts: np.ndarray  # (blocks,)

    @classmethod
    def of(
        cls, taken: np.ndarray, *, n_rows: int, n_axes: int, itemsize: int, lanes: int
    ) -> tuple[Self, np.ndarray]:
        """Rows at ascending positions, at least one of `n_rows`, and where each is among them."""
        size = block_rows(n_axes, itemsize)
        block = taken // size
        counts = np.bincount(block, minlength=-(-n_rows // size))
        ends = np.cumsum(-(-counts // lanes) * lanes)
        starts = ends - -(-counts // lanes) * lanes
        order = starts[block] + np.arange(len(taken)) - (np.cumsum(counts) - counts)[block]
        places = np.full(ends[-1] + BEYOND, taken[0] * n_axes)
        places[order] = taken * n_axes
        return cls(places, starts, counts), order

    def tell(self, entry: np.ndarray) -> None:
        """Write the addresses into an entry of a task."""
        for field in ("places", "starts", "counts"):
            entry[field] = getattr(self, field).ctypes.data


@cache
def _compiled(dtype: str, columns: int) -> Kernel:
    from trustq.heads.loops import Loops  # with llvmlite, which takes 30 ms to load

    shape = shape_of(dtype)
    engine = Loops(dtype, shape, columns, TASK.names or ()).compiled()
    n, at = ctypes.c_int64, ctypes.c_void_p
    loops = ctypes.CFUNCTYPE(None, at, n, n, at, n, at, n)  # others may run Python meanwhile
    multiply, evaluate = (
        loops(engine.get_function_address(name)) for name in ("multiply", "evaluate")
    )
    return Kernel(columns, shape.lanes, multiply, evaluate, engine)


def padded(rows: np.ndarray) -> np.ndarray:
    """Rows with at least as many columns as a vector has lanes, the new ones 0."""
    (n, d), lanes = rows.shape, shape_of(rows.dtype.name).lanes
    if d >= lanes:
        return np.ascontiguousarray(rows)
    wide = room_for((n, lanes), rows.dtype)
    wide[:, :d], wide[:, d:] = rows, 0
    return wide


def run(loops: str, rows: np.ndarray, entries: list[tuple[Kernel, Any]]) -> None:
    """Run `multiply` or `evaluate` of each kernel on padded rows, all its tasks block by block."""
    n, d = rows.shape
    size = block_rows(d, rows.itemsize)
    for kernel in {id(kernel): kernel for kernel, _ in entries}.values():
        tasks = np.array([entry for own, entry in entries if own is kernel], TASK)
        n_lines = kernel.columns * int(tasks["n_passes"].max())
        scratch = aligned((n_lines, size + BEYOND), rows.dtype, fill=0)
        address = rows.ctypes.data, d, -(-n // size), tasks.ctypes.data, len(tasks)
        getattr(kernel, loops)(*address, scratch.ctypes.data, scratch.shape[1])


def multiplied(
    rows: np.ndarray, columns: list[np.ndarray], kernel: Kernel | None = None
) -> list[np.ndarray]:
    """Columns, (c, d) each, times rows, (n, d): (c, n) each, in bits that no others change.

    `kernel` is one that is compiled already, where its number of columns need not be theirs.
    """
    rows = padded(rows)
    n, d = rows.shape
    entries, found = [], []
    kept: list[Any] = []  # whose addresses are told
    for own in columns:
        loops = kernel or kernel_of(rows.dtype, len(own))
        n_passes = loops.passes(len(own))
        weights = aligned((n_passes * loops.columns, d), rows.dtype, fill=0)
        weights[: len(own), : own.shape[1]] = own
        out = np.empty((len(weights), n + BEYOND), rows.dtype)
        entry = np.zeros((), TASK)
        if n:
            # Kept while they are read: the cache may forget them meanwhile, for another thread.
            kept.append(_all_rows(n, d, rows.itemsize, loops.lanes))
            kept[-1].tell(entry)
        entry["weights"], entry["out"] = weights.ctypes.data, out.ctypes.data
        entry["stride"], entry["n_passes"] = out.shape[1], n_passes
        entries.append((loops, entry))
        found.append(out[: len(own), :n])
        kept.append(weights)
    run("multiply", rows, entries)
    return found


@lru_cache(maxsize=16)
def _all_rows(n_rows: int, n_axes: int, itemsize: int, lanes: int) -> Rows:
    everything = np.arange(n_rows)
    return Rows.of(everything, n_rows=n_rows, n_axes=n_axes, itemsize=itemsize, lanes=lanes)[0]


def block_rows(n_axes: int, itemsize: int) -> int:
    """Rows of a block, by what they take: a multiple of every vector's lanes.

    >>> block_rows(1280, 4), block_rows(64, 4), block_rows(100_000, 4)
    (96, 512, 48)
    """
    fit = BLOCK_BYTES // (n_axes * itemsize)
    return min(max(fit, LEAST_ROWS), MOST_ROWS) // 16 * 16
