"""Loss and gradient of several multinomial regressions at once, each in bits of its own.

Features are read once for all problems of a thread. Of k classes k - 1 have a column, their logits
less that of the last: what the last adds is known of the others.
"""

from itertools import pairwise
from typing import Any

import numpy as np

from trustq.core.scratch import room_for
from trustq.heads.feature_cache import SharedFeatures
from trustq.heads.kernels import TASK, Kernel, kernel_of, padded, run

# Share of rows with weight below which a problem is solved alone on a copy of them: five folds at
# once take half the time on all rows, one on four fifths of the rows saves a tenth.
LEAST_SHARE = 0.6


class Task:
    """One problem as it is evaluated: what rows weigh, and arrays that are used over and over.

    `targets` are (k, m), the weight of every class in every row of each piece of rows.
    """

    def __init__(
        self, pieces: list[np.ndarray], targets: list[np.ndarray], *, dtype: Any, alone: bool
    ) -> None:
        self.pieces = pieces  # rows on the axes
        self.alone = alone  # on rows of its own
        self.weighs = [bool(own.any()) for own in targets]  # whether any row of a piece does
        self.n_columns = len(targets[0]) - 1
        self.kernel: Kernel = kernel_of(dtype, self.n_columns)
        n_passes, columns = self.kernel.passes(self.n_columns), self.kernel.columns
        n_axes = pieces[0].shape[1]
        self._weights = np.zeros((n_passes * columns, n_axes), dtype)
        self._offsets = np.zeros(self.n_columns, dtype)
        self._slopes = np.zeros_like(self._weights)
        self._sums = np.zeros((self.n_columns + 1, self.kernel.lanes))
        self._total = np.zeros((self.n_columns, n_axes))
        self._kept = []  # the arrays whose addresses are told
        self.entries = np.zeros(len(pieces), TASK)
        for entry, own in zip(self.entries, targets, strict=True):
            whole = -(-own.shape[1] // self.kernel.lanes) * self.kernel.lanes
            of_piece = np.zeros((len(own) + 1, whole), dtype)
            of_piece[:-1, : own.shape[1]] = own
            of_piece[-1, : own.shape[1]] = own.sum(axis=0)
            self._kept.append(of_piece)
            entry["out"], entry["stride"] = of_piece.ctypes.data, whole
            entry["mass"] = of_piece[-1].ctypes.data
            entry["weights"], entry["slopes"] = self._weights.ctypes.data, self._slopes.ctypes.data
            entry["offsets"], entry["sums"] = self._offsets.ctypes.data, self._sums.ctypes.data
            entry["n_columns"], entry["n_passes"] = self.n_columns, n_passes

    def begin(self, weights: np.ndarray) -> None:
        """Take (k, axes + 1) weights to be evaluated at."""
        n_axes = weights.shape[1] - 1
        self._weights[: self.n_columns, :n_axes] = weights[:-1, :-1] - weights[-1, :-1]
        self._offsets[:] = weights[:-1, -1] - weights[-1, -1]
        self._slopes[:] = 0
        self._sums[:] = 0
        self._total[:] = 0

    def add_up(self) -> None:
        """Add what a piece of rows has given, in float64."""
        self._total += self._slopes[: self.n_columns]
        self._slopes[:] = 0

    def found(self, n_axes: int) -> tuple[float, np.ndarray]:
        """Loss and gradient by the weights."""
        *residuals, loss = self._sums.sum(axis=1)
        gradient = np.empty((self.n_columns + 1, n_axes + 1))
        gradient[:-1, :-1] = self._total[:, :n_axes]
        gradient[:-1, -1] = residuals
        gradient[-1] = -gradient[:-1].sum(axis=0)
        return float(loss), gradient


class Evaluator:
    """Evaluates tasks on the same features. One is one thread's."""

    def __init__(self, shared: SharedFeatures, dtype: type[np.floating]) -> None:
        self._dtype = dtype
        self._n_rows, self._n_axes = shared.shape[0], shared.n_axes
        self._pieces = [padded(block.astype(dtype, copy=False)) for block in shared.by_row]

    def task(self, targets: np.ndarray) -> Task:
        """What is evaluated for (k, n) targets, the weight of every class in every row."""
        edges = np.cumsum([0, *map(len, self._pieces)])
        parts = [targets[:, first:last] for first, last in pairwise(edges)]
        weighs = [part.any(axis=0) for part in parts]
        if sum(map(np.count_nonzero, weighs)) >= LEAST_SHARE * self._n_rows:
            return Task(self._pieces, parts, dtype=self._dtype, alone=False)
        kept = [np.flatnonzero(own) for own in weighs]
        ends = np.cumsum(list(map(len, kept)))
        whole = room_for((ends[-1], self._pieces[0].shape[1]), self._dtype)
        for piece, rows, end in zip(self._pieces, kept, ends, strict=True):
            whole[end - len(rows) : end] = piece[rows]
        there = [i for i, rows in enumerate(kept) if len(rows)]
        return Task(
            [whole[ends[i] - len(kept[i]) : ends[i]] for i in there],
            [parts[i][:, kept[i]] for i in there],
            dtype=self._dtype,
            alone=True,
        )

    def evaluate(
        self, tasks: list[Task], weights: list[np.ndarray]
    ) -> list[tuple[float, np.ndarray]]:
        """The losses at (k, axes + 1) weights of each task, and gradients by them, in float64."""
        for task, own in zip(tasks, weights, strict=True):
            task.begin(own)
        common = [task for task in tasks if not task.alone]
        for together in [*([task] for task in tasks if task.alone), common]:
            for i, piece in enumerate(together[0].pieces if together else []):
                # Rows without weight add nothing, and to add nothing changes no bit.
                there = [task for task in together if task.weighs[i]]
                run("evaluate", piece, [(task.kernel, task.entries[i]) for task in there])
                for task in there:
                    task.add_up()
        return [task.found(self._n_axes) for task in tasks]
