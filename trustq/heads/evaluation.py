"""Loss and gradient of several multinomial regressions at once, each in bits of its own.

Features are read once for all problems of a thread. Of k classes k - 1 have a column, their logits
less that of the last: what the last adds is known of the others.
"""

from typing import Any

import numpy as np

from trustq.core.scratch import aligned
from trustq.heads.feature_cache import SharedFeatures
from trustq.heads.kernels import TASK, Kernel, Rows, kernel_of, padded, run


class Task:
    """One problem as it is evaluated: what rows weigh, and arrays that are used over and over.

    `targets` are (k, n), the weight of every class in every row of `pieces`. Rows without weight
    are not touched.
    """

    def __init__(self, pieces: list[np.ndarray], targets: np.ndarray, *, dtype: Any) -> None:
        self.n_columns = len(targets) - 1
        self.kernel: Kernel = kernel_of(dtype, self.n_columns)
        n_passes, columns = self.kernel.passes(self.n_columns), self.kernel.columns
        n_axes = pieces[0].shape[1]
        self._weights = aligned((n_passes * columns, n_axes), dtype, fill=0)
        self._offsets = np.zeros(self.n_columns, dtype)
        self._slopes = aligned(self._weights.shape, dtype, fill=0)
        self._sums = np.zeros((self.n_columns + 1, self.kernel.lanes))
        self._total = np.zeros((self.n_columns, n_axes))
        self._kept: list[Any] = []  # the arrays whose addresses are told
        self.entries: dict[int, np.ndarray] = {}  # of the pieces on which a row weighs something
        mass = targets.sum(axis=0)
        first = 0
        for i, piece in enumerate(pieces):
            own = slice(first, first + len(piece))
            taken = np.flatnonzero(mass[own])
            first = own.stop
            if not len(taken):
                continue
            rows, order = Rows.of(
                taken,
                n_rows=len(piece),
                n_axes=n_axes,
                itemsize=piece.itemsize,
                lanes=self.kernel.lanes,
            )
            of_piece = aligned((self.n_columns + 2, len(rows.places)), dtype, fill=0)
            of_piece[:-1, order] = targets[:, own][:, taken]
            of_piece[-1, order] = mass[own][taken]
            self._kept += [rows, of_piece]
            entry = np.zeros((), TASK)
            rows.tell(entry)
            entry["out"], entry["stride"] = of_piece.ctypes.data, of_piece.shape[1]
            entry["mass"] = of_piece[-1].ctypes.data
            entry["weights"], entry["slopes"] = self._weights.ctypes.data, self._slopes.ctypes.data
            entry["offsets"], entry["sums"] = self._offsets.ctypes.data, self._sums.ctypes.data
            entry["n_columns"], entry["n_passes"] = self.n_columns, n_passes
            self.entries[i] = entry

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
        self._n_axes = shared.n_axes
        self._pieces = [padded(block.astype(dtype, copy=False)) for block in shared.by_row]

    def task(self, targets: np.ndarray) -> Task:
        """What is evaluated for (k, n) targets, the weight of every class in every row."""
        return Task(self._pieces, targets, dtype=self._dtype)

    def evaluate(
        self, tasks: list[Task], weights: list[np.ndarray]
    ) -> list[tuple[float, np.ndarray]]:
        """The losses at (k, axes + 1) weights of each task, and gradients by them, in float64."""
        for task, own in zip(tasks, weights, strict=True):
            task.begin(own)
        for i, piece in enumerate(self._pieces):
            there = [task for task in tasks if i in task.entries]
            run("evaluate", piece, [(task.kernel, task.entries[i]) for task in there])
            for task in there:
                task.add_up()
        return [task.found(self._n_axes) for task in tasks]
