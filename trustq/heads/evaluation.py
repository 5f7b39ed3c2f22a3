"""Loss and gradient of several multinomial regressions at once, each in bits of its own.

Features are read and packed once for all problems of a thread, which is most of the work of a
narrow product. Of k classes k - 1 have a column, their logits less that of the last: what the last
adds is known of the others.
"""

from dataclasses import dataclass

import numpy as np

from trustq.core.scratch import room_for
from trustq.heads.feature_cache import SharedFeatures
from trustq.heads.narrow import product, slopes
from trustq.heads.tiles import Need, Product, as_alone, side_by_side, tiling_of

PIECE_SIZE = 1 << 20  # entries of the features in one product: 4 MB stay near until the way back
# Share of rows with weight below which a problem is solved alone on a copy of them: five folds at
# once take half the time on all rows, one on four fifths of the rows saves a tenth.
LEAST_SHARE = 0.6


@dataclass
class Task:
    """One problem as it is evaluated: its targets and what rows weigh, a pair a piece of rows."""

    pieces: list[np.ndarray]  # rows on the axes
    targets: list[np.ndarray]  # (k, m) of each piece
    mass: list[np.ndarray]  # (m,)
    alone: bool  # on rows of its own

    def __post_init__(self) -> None:
        self.weighs = [bool(own.any()) for own in self.mass]  # whether any row of a piece does
        # What is a problem's own says which half of a tile it takes. Folds that leave out one piece
        # after another fall on both; of others the number of rows decides.
        n_rows = sum(int(np.count_nonzero(own)) for own in self.mass)
        out = self.weighs.index(False) if False in self.weighs else n_rows
        self.need = Need(len(self.targets[0]) - 1, out % 2)


class Evaluator:
    """Evaluates tasks on the same features, in arrays that are used over and over.

    Fresh arrays of this size are fresh pages, which cost more than the arithmetic. One is one
    thread's.
    """

    def __init__(self, shared: SharedFeatures, dtype: type[np.floating]) -> None:
        self._dtype = dtype
        self._n_rows, self._n_axes = shared.shape[0], shared.n_axes
        self._pieces: list[np.ndarray] = []
        for block in shared.by_row:
            block = block.astype(dtype, copy=False)
            n_pieces = max(1, round(block.size / PIECE_SIZE))
            self._pieces += np.array_split(block, n_pieces)
        self._tiling = tiling_of(self._n_axes)
        self._parts: dict[int, np.ndarray] = {}  # of slopes, by the number of columns
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
        whole = room_for((sum(map(len, kept)), self._n_axes), self._dtype)
        ends = np.cumsum(list(map(len, kept)))
        found = [
            (whole[end - len(rows) : end], targets[:, span][:, rows], mass[span][rows])
            for span, rows, end in zip(spans, kept, ends, strict=True)
            if len(rows)
        ]
        for piece, rows, end in zip(self._pieces, kept, ends, strict=True):
            whole[end - len(rows) : end] = piece[rows]
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
        losses = [0.0] * len(tasks)
        totals = [np.zeros((task.need.n_columns, self._n_axes + 1)) for task in tasks]
        columns = [(own[:-1] - own[-1:]).astype(self._dtype) for own in weights]
        needs = [task.need for task in tasks]
        for together in self._groups(tasks):
            for i, piece in enumerate(tasks[together[0]].pieces):
                # Rows without weight add nothing, and to add nothing changes no bit.
                there = [j for j in together if tasks[j].weighs[i]]
                beside = side_by_side(needs, there, self._tiling)
                for own in as_alone(beside, needs, piece, self._tiling):
                    found = self._of_piece(tasks, i, columns, own)
                    for j, (loss, slope) in zip(own.which, found, strict=True):
                        losses[j] += loss
                        totals[j] += slope
        return [
            (loss, np.vstack([slope, -slope.sum(axis=0)]))
            for loss, slope in zip(losses, totals, strict=True)
        ]

    def _groups(self, tasks: list[Task]) -> list[list[int]]:
        """Positions of tasks that have their rows in common."""
        groups = [[i] for i, task in enumerate(tasks) if task.alone]
        common = [i for i, task in enumerate(tasks) if not task.alone]
        return [*groups, common] if common else groups

    def _of_piece(
        self, tasks: list[Task], i: int, columns: list[np.ndarray], own: Product
    ) -> list[tuple[float, np.ndarray]]:
        """Losses of one piece of rows, and gradients by (columns, axes + 1) of each task."""
        piece = tasks[own.which[0]].pieces[i]
        places = own.places([task.need for task in tasks])
        beside = np.zeros((own.n_columns, self._n_axes), self._dtype)
        chunk = self._tiling.chunks(own.n_columns)
        logits = self._taken(len(beside), len(piece))
        for j, place in zip(own.which, places, strict=True):
            beside[place] = columns[j][:, :-1]
        product(beside, piece, chunk, out=logits)
        losses = []
        for j, place in zip(own.which, places, strict=True):
            of_task = logits[place]
            of_task += columns[j][:, -1:]
            losses.append(self._to_residuals(of_task, tasks[j].targets[i], tasks[j].mass[i]))
        found = np.empty((len(beside), self._n_axes + 1), self._dtype)
        found[:, :-1] = slopes(logits, piece, chunk, self._parts_of(len(beside), len(piece), chunk))
        found[:, -1] = logits.sum(axis=1)
        return [(loss, found[place]) for loss, place in zip(losses, places, strict=True)]

    def _parts_of(self, n_columns: int, n_rows: int, chunk: int) -> np.ndarray | None:
        if not chunk:
            return None
        room = self._parts.get(n_columns)
        if room is None or len(room) <= n_rows // chunk:
            room = np.empty((n_rows // chunk + 1, n_columns, self._n_axes), self._dtype)
            self._parts[n_columns] = room
        return room

    def _to_residuals(self, logits: np.ndarray, targets: np.ndarray, mass: np.ndarray) -> float:
        """The loss of (k - 1, m) logits, which become its derivatives by them."""
        top = np.maximum(logits.max(axis=0), 0)
        logits -= top
        spare = self._spare[: logits.size].reshape(logits.shape)
        of_label = np.multiply(logits, targets[:-1], out=spare).sum(axis=0)
        of_label -= top * targets[-1]
        sums = np.exp(logits, out=logits).sum(axis=0)
        sums += np.exp(-top)
        of_row = np.log(sums)
        of_row *= mass
        of_row -= of_label
        logits *= mass / sums
        logits -= targets[:-1]
        return float(of_row.sum(dtype=np.float64))

    def _taken(self, n_columns: int, n_rows: int) -> np.ndarray:
        size = n_columns * n_rows
        if len(self._room) < size:
            self._room, self._spare = (np.empty(size, self._dtype) for _ in range(2))
        return self._room[:size].reshape(n_columns, n_rows)
