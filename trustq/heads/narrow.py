"""Products of few columns with many rows, by chunks of rows where BLAS has kernels for them.

OpenBLAS packs the features anew for every product, which takes longer than to multiply them by a
dozen columns. For small matrices it has kernels of AVX-512 that pack nothing: with rows by chunks
that they take, six columns of 6,542 x 1,280 take 4 ms there and back in place of 12. numpy's
`matmul` goes over a stack of chunks by itself.
"""

from functools import cache

import numpy as np
from threadpoolctl import threadpool_info

CHUNK = 32  # rows
LONG_CHUNK = 128
MOST_SMALL = 1_000_000  # multiplications of a product that OpenBLAS takes for small
MOST_RESULTS = 1200  # and what it may have of results, where rows are turned
SMALL_KERNELS = {"SkylakeX", "Cooperlake", "SapphireRapids"}  # whose kernels these are


@cache
def has_small_kernels() -> bool:
    """Whether every OpenBLAS here multiplies small matrices as they are."""
    found = [own for own in threadpool_info() if own["user_api"] == "blas"]
    return bool(found) and all(own.get("architecture") in SMALL_KERNELS for own in found)


def product(
    columns: np.ndarray, rows: np.ndarray, chunk: int = 0, out: np.ndarray | None = None
) -> np.ndarray:
    """Columns, (c, d), times rows, (n, d): (c, n), by `chunk` rows at a time (0: all of them)."""
    (c, d), n = columns.shape, len(rows)
    if not chunk or n < chunk:
        return np.matmul(columns, rows.T, out=out)
    found = np.empty((c, n), rows.dtype) if out is None else out
    whole = n - n % chunk
    stack = found[:, :whole].reshape(c, -1, chunk).transpose(1, 0, 2)
    np.matmul(columns, rows[:whole].reshape(-1, chunk, d).transpose(0, 2, 1), out=stack)
    if whole < n:  # the last rows as the end of a chunk, for others have kernels of their own
        found[:, whole:] = (columns @ rows[n - chunk :].T)[:, whole - n :]
    return found


def slopes(
    by_row: np.ndarray, rows: np.ndarray, chunk: int = 0, room: np.ndarray | None = None
) -> np.ndarray:
    """What rows, (n, d), add up to by weights of them, (c, n): (c, d).

    `room`, (n // chunk + 1, c, d) at least, is overwritten.
    """
    (c, n), d = by_row.shape, rows.shape[1]
    if not chunk or n < chunk:
        return np.asarray(by_row @ rows)
    if room is None:
        room = np.empty((n // chunk + 1, c, d), rows.dtype)
    # Longer chunks of fewer columns of the features: fewer sums are written and added.
    n_parts, done = 0, 0
    for own, width in ((LONG_CHUNK, _part_of(d)), (chunk, d)):
        last = n - (n - done) % own
        if not width or last == done:
            continue
        parts = room[n_parts : n_parts + (last - done) // own]
        stack = by_row[:, done:last].reshape(c, -1, own).transpose(1, 0, 2)
        np.matmul(
            stack,
            rows[done:last].reshape(-1, own, d // width, width).transpose(2, 0, 1, 3),
            out=parts.reshape(-1, c, d // width, width).transpose(2, 0, 1, 3),
        )
        n_parts, done = n_parts + len(parts), last
    if done < n:
        end = np.zeros((c, chunk), rows.dtype)
        end[:, done - n :] = by_row[:, done:]
        np.matmul(end, rows[n - chunk :], out=room[n_parts])
        n_parts += 1
    return np.asarray(room[:n_parts].sum(axis=0))


@cache
def _part_of(d: int) -> int:
    """Columns of the features, whole parts of d, that a long chunk takes; 0: there are no such."""
    most = MOST_SMALL // LONG_CHUNK // (MOST_RESULTS // CHUNK)
    return max((w for w in range(16, min(most, d) + 1, 16) if d % w == 0), default=0)
