"""One minimisation by limited-memory BFGS, as a state machine that is told values and gradients.

Whoever holds many minimisations evaluates their `trial` points together and hands each its own
value and gradient; no state is shared, so that company changes no bits.
"""

import math
from typing import Any

import numpy as np
import scipy

MEMORY = 32  # pairs kept: a re-fit needs a fifth fewer evaluations than with 16, with 64 as many
ACCEPTED_RISE = 1e-6  # relative; a full step that rises by less has met rounding, not a wall
SHORTEST_STEP = 2.0**-20
# A step is foreseen to gain as the one before did; on HAM10000 it left up to 5 times as much.
UNFORESEEN = 10.0


class Minimiser:
    """Minimises a smooth convex function, with an approximate inverse of its Hessian where known.

    Variables are (m,) float64. The caller tells with each gradient what that inverse times it is;
    without it the Hessian should be nearly the identity. It stops (`done`) when
    the estimated distance to the minimum (`decrease`, half of gradient times quasi-Newton step) is
    at most `tolerance` times the value, after `max_evaluations`, or where no step descends any
    more; only the first sets `converged`. A last step whose result is foreseen is taken without an
    evaluation: `value` and `decrease` are then what is expected of it.

    >>> minimiser = Minimiser(np.array([3.0, 1.0]), tolerance=1e-12, max_evaluations=50)
    >>> while not minimiser.done:
    ...     x = minimiser.trial
    ...     _ = minimiser.tell(1 + x @ x, 2 * x)
    >>> minimiser.converged, minimiser.point.round(6).tolist()
    (True, [0.0, 0.0])
    """

    def __init__(
        self,
        start: np.ndarray,
        *,
        tolerance: float,
        max_evaluations: int,
        dtype: type[np.floating] = np.float64,
    ) -> None:
        self.trial = start.copy()
        self.point = start
        self.value = math.nan
        self.decrease = math.inf  # estimate of the value's distance to its minimum
        self.n_evaluations = 0
        self.done = self.converged = False
        self._tolerance = tolerance
        self._first_decrease = math.inf
        self._max_evaluations = max_evaluations
        self._gradient = self._conditioned = np.empty(0)
        self._direction = np.empty(0)
        self._slope = 0.0
        self._step = 1.0
        self._n_pairs = 0
        self._moves = np.zeros((MEMORY, len(start)), dtype)
        # What the gradient changed by over each move, times the approximate inverse.
        self._changes = np.zeros((MEMORY, len(start)), dtype)
        self._moves_changes = np.zeros((MEMORY, MEMORY))
        self._changes_changes = np.zeros((MEMORY, MEMORY))

    def begin(
        self, value: float, gradient: np.ndarray, conditioned: np.ndarray | None = None
    ) -> None:
        """Take value and gradient at the start, which were known without an evaluation."""
        self._take(value, gradient, gradient if conditioned is None else conditioned)

    def tell(
        self, value: float, gradient: np.ndarray, conditioned: np.ndarray | None = None
    ) -> bool:
        """Take value and gradient at `trial`, and set the next trial or `done`.

        `conditioned` is the gradient times the approximate inverse of the Hessian. Returns whether
        `trial` has become `point`, which it has not where the step was too long.
        """
        self.n_evaluations += 1
        if conditioned is None:
            conditioned = gradient
        if len(self._gradient):
            if not (math.isfinite(value) and value <= self.value + ACCEPTED_RISE * abs(self.value)):
                self._shorten(value)
                return False
            self._remember(
                self.trial - self.point,
                gradient - self._gradient,
                conditioned - self._conditioned,
            )
        self._take(value, gradient, conditioned)
        return True

    @property
    def evaluations_left(self) -> float:
        """How many more it will take, were the distance to shrink as it has so far."""
        enough = max(self._tolerance * abs(self.value), 1e-300)
        left = math.log(max(self.decrease, 1e-300) / enough)
        shrunk = math.log(self._first_decrease / max(self.decrease, 1e-300))
        return left / shrunk * (self.n_evaluations - 1) if shrunk > 0 else math.inf

    def _take(self, value: float, gradient: np.ndarray, conditioned: np.ndarray) -> None:
        before = self.decrease
        self.point, self.value = self.trial, value
        self._gradient, self._conditioned = gradient, conditioned
        self._direction = self._quasi_newton_direction()
        self._slope = float(self._direction @ gradient)
        # What a whole step would gain, were the function the parabola that the pairs describe.
        self.decrease = -0.5 * self._slope
        if before == math.inf:
            self._first_decrease = self.decrease
        self.trial = self.point + self._direction
        self._step = 1.0
        enough = self._tolerance * abs(value)
        self.converged = bool(self.decrease <= enough)
        foreseen = self.decrease * self.decrease / before if before < math.inf else math.inf
        if not self.converged and UNFORESEEN * foreseen <= enough:
            self.point, self.value = self.trial, value - self.decrease
            self.decrease, self.converged = foreseen, True
        self.done = self.converged or self.n_evaluations >= self._max_evaluations

    def _shorten(self, value: float) -> None:
        # The minimum of the parabola through both values and the slope, kept within bounds.
        rise = value - self.value - self._step * self._slope
        best = -self._slope * self._step**2 / (2 * rise) if math.isfinite(rise) else 0.0
        self._step = min(max(best, 0.1 * self._step), 0.5 * self._step)
        self.done = self._step < SHORTEST_STEP or self.n_evaluations >= self._max_evaluations
        self.trial = self.point + self._step * self._direction

    def _remember(self, move: np.ndarray, change: np.ndarray, conditioned: np.ndarray) -> None:
        product = float(move @ change)
        if product <= 1e-10 * math.sqrt(float(move @ move) * float(change @ change)):
            return  # rounding: a convex function has no such pair
        i = self._n_pairs % MEMORY  # the place of the oldest, where all are taken
        self._n_pairs += 1
        self._moves[i], self._changes[i] = move, conditioned
        n = min(self._n_pairs, MEMORY)
        latest = change.astype(self._moves.dtype)
        self._moves_changes[:n, i] = self._moves[:n] @ latest
        self._changes_changes[:n, i] = self._changes_changes[i, :n] = self._changes[:n] @ latest

    def _quasi_newton_direction(self) -> np.ndarray:
        """Minus the inverse Hessian times the gradient: compact form of Byrd et al. (1994)."""
        n = min(self._n_pairs, MEMORY)
        if n == 0:
            return -self._conditioned
        gradient = self._gradient.astype(self._moves.dtype)
        moves, changes = self._moves[:n], self._changes[:n]
        triangle, squares = self._moves_changes[:n, :n], self._changes_changes[:n, :n]
        along_gradient = moves @ gradient, changes @ gradient
        order: Any = slice(None)  # of the places by age
        if self._n_pairs > MEMORY:
            order = (np.arange(n) + self._n_pairs) % MEMORY
            by_age = order[:, None], order
            triangle, squares = triangle[by_age], squares[by_age]
        # Below its diagonal the triangle is stale.
        scale = triangle[-1, -1] / squares[-1, -1]
        solve = scipy.linalg.lapack.dtrtrs
        of_moves, of_changes = (own[order].astype(np.float64) for own in along_gradient)
        along, _ = solve(triangle, of_moves)
        middle = triangle.diagonal() * along + scale * (squares @ along)
        middle -= scale * of_changes
        middle, _ = solve(triangle, middle, trans=1)
        of_moves[order], of_changes[order] = middle, scale * along
        direction = scale * self._conditioned
        direction += of_moves.astype(moves.dtype) @ moves
        direction -= of_changes.astype(moves.dtype) @ changes
        return np.asarray(-direction)
