"""Loss and gradient of several multinomial regressions at once, each in bits of its own.

Features are read and packed once for all problems of a thread, which is most of the work of a
narrow product. BLAS kernels give a column other last bits where it stands elsewhere in a product;
but whole tiles of `TILE` columns keep theirs on the kernels that we know, and whether they do on
this processor, at these sizes, is tried before it is relied on.
"""

from dataclasses import dataclass
from functools import cache

import numpy as np

from trustq.heads.feature_cache import SharedFeatures

TILE = 12  # columns that one kernel of OpenBLAS (Haswell, Zen) takes at a time; others take less
MOST_COLUMNS = 96  # of one product; wider ones were no faster
PIECE_SIZE = 1 << 20  # entries of the features in one product: 4 MB stay near until the way back
# Share of rows with weight below which a problem is solved alone on a copy of them: five folds at
# once take half the time on all rows, one on four fifths of the rows saves a tenth.
LEAST_SHARE = 0.6
TRIED_SIZE = 1 << 18  # entries of the features on which tiles are tried


@dataclass
class Task:
    """One problem as it is evaluated: its targets and what rows weigh, a pair a piece of rows."""

    pieces: list[np.ndarray]  # rows on the axes
    targets: list[np.ndarray]  # (k, m) of each piece
    mass: list[np.ndarray]  # (m,)
    alone: bool  # on rows of its own

    @property
    def n_classes(self) -> int:
        return len(self.targets[0])

    @property
    def n_columns(self) -> int:
        """Columns of a product that it takes: whole tiles."""
        return -(-self.n_classes // TILE) * TILE


class Evaluator:
    """Evaluates tasks on the same features, in arrays that are used over and over.

    Fresh arrays of this size are fresh pages, which cost more than the arithmetic. One is one
    thread's.
    """

    def __init__(self, shared: SharedFeatures, dtype: type[np.floating]) -> None:
        self._dtype = dtype
        self._n_rows, self._n_axes = shared.shape[0], len(shared.sizes)
        self._pieces: list[np.ndarray] = []
        for block in shared.by_row:
            block = block.astype(dtype, copy=False)
            n_pieces = max(1, round(block.size / PIECE_SIZE))
            self._pieces += np.array_split(block, n_pieces)
        self._room = np.empty(0, dtype)
        self._spare = np.empty(0, dtype)

    def task(self, targets: np.ndarray) -> Task:
        """What is evaluated for (k, n) targets, the weight of every class in every row."""
        mass = targets.sum(axis=0)
        edges = np.cumsum([0, *(len(piece) for piece in self._pieces)])
        spans = [slice(a, b) for a, b in zip(edges, edges[1:], strict=False)]
        alone = bool(np.count_nonzero(mass) < LEAST_SHARE * self._n_rows)
        if not alone:
            return Task(
                self._pieces,
                [targets[:, span].astype(self._dtype) for span in spans],
                [mass[span].astype(self._dtype) for span in spans],
                alone,
            )
        kept = [np.flatnonzero(mass[span]) for span in spans]
        found = [
            (piece[rows], targets[:, span][:, rows], mass[span][rows])
            for piece, span, rows in zip(self._pieces, spans, kept, strict=True)
            if len(rows)
        ]
        return Task(
            [rows for rows, _, _ in found],
            [own.astype(self._dtype) for _, own, _ in found],
            [own.astype(self._dtype) for _, _, own in found],
            alone,
        )

    def evaluate(
        self, tasks: list[Task], weights: list[np.ndarray]
    ) -> list[tuple[float, np.ndarray]]:
        """The losses at (k, axes + 1) weights of each task, and gradients by them, in float64."""
        results: list[tuple[float, np.ndarray]] = [(0.0, np.empty(0))] * len(tasks)
        for together in self._groups(tasks):
            found = self._evaluate([tasks[i] for i in together], [weights[i] for i in together])
            for i, own in zip(together, found, strict=True):
                results[i] = own
        return results

    def _groups(self, tasks: list[Task]) -> list[list[int]]:
        """Positions of tasks that share a product."""
        groups = [[i] for i, task in enumerate(tasks) if task.alone]
        open_group: list[int] = []
        n_columns = 0
        for i, task in enumerate(tasks):
            if task.alone:
                continue
            if open_group and n_columns + task.n_columns > MOST_COLUMNS:
                groups.append(open_group)
                open_group, n_columns = [], 0
            open_group.append(i)
            n_columns += task.n_columns
        if len(open_group) > 1 and not self._tiles_hold(n_columns):
            return groups + [[i] for i in open_group]
        return [*groups, open_group] if open_group else groups

    def _tiles_hold(self, n_columns: int) -> bool:
        # Rows at the end of a product are handled by kernels of their own: 96 is a multiple of all.
        return all(
            _tiles_hold(np.dtype(self._dtype).name, rows, self._n_axes, n_columns)
            for rows in {
                min(rows, rows % 96 + 96 * -(-TRIED_SIZE // (96 * self._n_axes)))
                for rows in {len(piece) for piece in self._pieces}
            }
        )

    def _evaluate(
        self, tasks: list[Task], weights: list[np.ndarray]
    ) -> list[tuple[float, np.ndarray]]:
        ends = np.cumsum([task.n_columns for task in tasks]).tolist()
        places = [
            slice(end - task.n_columns, end - task.n_columns + task.n_classes)
            for end, task in zip(ends, tasks, strict=True)
        ]
        columns = np.zeros((ends[-1], self._n_axes), self._dtype)
        for place, own in zip(places, weights, strict=True):
            columns[place] = own[:, :-1]
        intercepts = [own[:, -1:].astype(self._dtype) for own in weights]
        losses, slopes = [0.0] * len(tasks), np.zeros((ends[-1], self._n_axes))
        of_intercepts = [np.zeros(task.n_classes) for task in tasks]
        slope = np.empty_like(columns)
        for i, piece in enumerate(tasks[0].pieces):
            logits = self._taken(ends[-1], len(piece))
            np.matmul(columns, piece.T, out=logits)
            for j, (task, place) in enumerate(zip(tasks, places, strict=True)):
                own = logits[place]
                own += intercepts[j]
                losses[j] += self._to_residuals(own, task.targets[i], task.mass[i])
                of_intercepts[j] += own.sum(axis=1)
            np.matmul(logits, piece, out=slope)
            slopes += slope
        return [
            (loss, np.column_stack([slopes[place], own]))
            for loss, place, own in zip(losses, places, of_intercepts, strict=True)
        ]

    def _to_residuals(self, logits: np.ndarray, targets: np.ndarray, mass: np.ndarray) -> float:
        """The loss of (k, m) logits, which become its derivatives by them."""
        logits -= logits.max(axis=0)
        spare = self._spare[: logits.size].reshape(logits.shape)
        of_label = np.multiply(logits, targets, out=spare).sum(axis=0)
        sums = np.exp(logits, out=logits).sum(axis=0)
        of_row = np.log(sums)
        of_row *= mass
        of_row -= of_label
        logits *= mass / sums
        logits -= targets
        return float(of_row.sum(dtype=np.float64))

    def _taken(self, n_columns: int, n_rows: int) -> np.ndarray:
        size = n_columns * n_rows
        if len(self._room) < size:
            self._room, self._spare = (np.empty(size, self._dtype) for _ in range(2))
        return self._room[:size].reshape(n_columns, n_rows)


@cache
def _tiles_hold(dtype: str, n_rows: int, n_axes: int, n_columns: int) -> bool:
    """Whether a tile of columns has the same bits alone and in every place of a wide product."""
    rng = np.random.default_rng(0)
    features = rng.standard_normal((n_rows, n_axes)).astype(dtype)
    n_tiles = n_columns // TILE
    for own, other in ((n_axes, features.T), (n_rows, features)):
        tile = rng.standard_normal((TILE, own)).astype(dtype)
        wide = np.tile(tile, (n_tiles, 1)) @ other
        if not (wide.reshape(n_tiles, TILE, -1) == tile @ other).all():
            return False
    return True
