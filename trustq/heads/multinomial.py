"""Multinomial logistic regression for many label sets, folds and penalties on one feature matrix.

The unit of work is not one fit but many that share their features. What depends on features alone
is done once: centring, Gram matrix, its inverse, which says how every problem is nearly bent.
Problems of a thread are then evaluated side by side, so that features are read once for all of
them, each in bits that no company changes (`evaluation`).
"""

import threading
import warnings
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np

from trustq.core.scratch import room_left
from trustq.errors import InputError
from trustq.heads.evaluation import Evaluator, Task
from trustq.heads.feature_cache import SharedFeatures, cores, one_blas_thread, products
from trustq.heads.preconditioner import Preconditioner, steps
from trustq.heads.quasi_newton import Minimiser
from trustq.metrics.probabilities import log_softmax

MAX_EVALUATIONS = 2000
MOST_TARGETS = 1 << 21  # rows of all problems that a thread solves at once, their targets in memory
KEPT_SIZE = 1 << 20  # a problem with more targets leaves no memory, nor keeps them: they take 8 MB
THREAD_BYTES = 1 << 25  # of a thread's stack and arrays; one that memory cannot hold never starts
# Evaluations after which a point is near enough for its Hessian to be of use: after 6 a cold fit
# takes one less, and those that start beside it on clean labels two more.
BLOCK_AFTER = 8
BLOCK_WORTH = 8  # evaluations left below which it costs more than it saves
BLOCK_LEFT = 25  # above, the point is too far from the minimum to know how it is bent there
# The gradient at a start is taken for 0 before labels changed; what was left of it must not matter.
LEFT_OF_CHANGE = 1e-2


class Memory(NamedTuple):
    """What quickens a fit that starts from this one, on labels or weights that differ little."""

    preconditioner: Preconditioner
    ridge: float
    targets: np.ndarray  # (k, n) weight of every class in every row
    value: float
    decrease: float

    def __reduce__(self) -> tuple[type, tuple[()]]:
        # A stored head is as good without: an inverse of 1,280 columns is 6.5 MB, and its labels
        # are no one else's business.
        return type(None), ()


@dataclass(frozen=True)
class MultinomialFits:
    """Solutions of p problems, with what a warm start needs.

    `coef` is (p, k, d) and `intercept` (p, k), float64, 0 and -inf where the problem lacked the
    class (`present`, (p, k)). `objective` is sum of weighted losses + |coef|^2 / (2 C);
    `decrease`, (p,), estimates how far above its minimum it is.
    """

    coef: np.ndarray
    intercept: np.ndarray
    present: np.ndarray
    objective: np.ndarray
    decrease: np.ndarray
    n_evaluations: np.ndarray
    converged: np.ndarray
    memory: tuple["Memory | None", ...]  # None: nothing was solved, or it is too large to keep

    def __len__(self) -> int:
        return len(self.coef)

    def logits(self, features: np.ndarray) -> np.ndarray:
        """Logits of (m, d) features by every problem, (p, m, k), -inf for a class it lacked."""
        p, k, _ = self.coef.shape
        found = np.empty((p, len(features), k))
        for own, coef, intercept in zip(found, self.coef, self.intercept, strict=True):
            own[:] = products(features, coef) + intercept  # a product of its own: see the module
        return found


def fit_multinomial(
    features: np.ndarray | SharedFeatures,
    labels: np.ndarray,
    *,
    n_classes: int,
    penalties: float | Sequence[float] | np.ndarray = 1.0,
    weights: np.ndarray | None = None,
    class_weights: np.ndarray | Literal["balanced"] | None = None,
    start: MultinomialFits | None = None,
    tolerance: float | None = None,
    max_evaluations: int = MAX_EVALUATIONS,
    threads: int | None = None,
) -> MultinomialFits:
    """Fit p multinomial logistic regressions with an L2 penalty on the same rows.

    `labels` is (p, n) of class indices, or (p, n, k) of soft labels; `weights`, (p, n), at least 0,
    makes folds with 0 and 1. `penalties`, (p,) or one, is scikit-learn's C: the objective is
    sum of losses + |coef|^2 / (2 C), intercepts free, and a problem of two classes counts its
    penalty as scikit-learn's binary form does. A class without weight is left out of a problem and
    keeps its column. `class_weights`, (k,), or `balanced`, multiply the weights by label. `start`,
    p earlier solutions, changes the time, and the answer within `tolerance`: the largest estimated
    distance to the minimum, relative to it (default 1e-8, and 1e-13 for small features, see
    `SharedFeatures`). `threads` share the problems (default: the cores there are, one in a child
    process); neither they nor the other problems change a bit of a solution. Warns with a
    `ConvergenceWarning` that names problems that did not converge; raises `TrustqError` for input
    that is no problem.

    >>> features = np.array([[0.0], [1.0], [2.0], [3.0]])
    >>> labels = np.array([[0, 0, 1, 1], [0, 1, 1, 1]])
    >>> fits = fit_multinomial(features, labels, n_classes=2, penalties=[1.0, 10.0])
    >>> fits.logits(features).argmax(axis=2).tolist()
    [[0, 0, 1, 1], [0, 1, 1, 1]]
    """
    shared = features if isinstance(features, SharedFeatures) else SharedFeatures(features)
    labels = np.asarray(labels)
    p = _check(shared, labels, n_classes, weights, start)
    penalties = np.broadcast_to(np.asarray(penalties, dtype=np.float64), (p,))
    if not (np.isfinite(penalties) & (penalties > 0)).all():
        raise InputError(f"penalties holds {penalties.min():g}, expected finite numbers above 0.")
    if tolerance is None:
        tolerance = 1e-13 if shared.dtype == np.float64 else 1e-8
    problems = [
        _Problem(
            shared,
            labels[i],
            n_classes=n_classes,
            penalty=1 / float(penalties[i]),
            weights=None if weights is None else weights[i],
            class_weights=class_weights,
            start=None if start is None else (start.coef[i], start.intercept[i]),
            memory=None if start is None else start.memory[i],
            tolerance=tolerance,
            max_evaluations=max_evaluations,
        )
        for i in range(p)
    ]
    _solve(shared, problems, threads or cores())
    unsolved = [i for i, problem in enumerate(problems) if not problem.converged]
    if unsolved:
        from sklearn.exceptions import ConvergenceWarning

        worst = max(problems[i].decrease / problems[i].value for i in unsolved)
        warnings.warn(
            f"{len(unsolved)} of {p} logistic regressions (problem {unsolved[0]} first, C = "
            f"{penalties[unsolved[0]]:g}) stopped above the tolerance {tolerance:g}: "
            f"{worst:.2g} of the objective is left.",
            ConvergenceWarning,
            stacklevel=2,
        )
    with one_blas_thread():
        return _collected(shared, problems)


def _check(
    shared: SharedFeatures,
    labels: np.ndarray,
    n_classes: int,
    weights: np.ndarray | None,
    start: MultinomialFits | None,
) -> int:
    n, d = shared.shape
    if (
        labels.ndim not in (2, 3)
        or labels.shape[1] != n
        or labels.shape[2:] not in ((), (n_classes,))
    ):
        raise InputError(
            f"labels has shape {labels.shape}, expected (p, {n}) of class indices or (p, {n}, "
            f"{n_classes}) of soft labels: one set of labels a problem, for the same {n} rows.",
            where="labels",
            found=labels.shape,
        )
    p = len(labels)
    if labels.ndim == 2 and not np.issubdtype(labels.dtype, np.integer):
        raise InputError(f"labels holds {labels.dtype}, expected integers: pass class indices.")
    low, high = (labels.min(), labels.max()) if p else (0, 0)
    if labels.ndim == 2 and (low < 0 or high >= n_classes):
        raise InputError(f"labels lies in {low} to {high}, expected 0 to {n_classes - 1}.")
    if labels.ndim == 3 and not (low >= 0 and np.isfinite(high)):
        raise InputError(f"soft labels lie in {low:g} to {high:g}, expected finite, at least 0.")
    if weights is not None:
        if weights.shape != (p, n):
            raise InputError(
                f"weights has shape {weights.shape}, expected {(p, n)}.",
                where="weights",
                found=weights.shape,
            )
        if not (weights.min(initial=0) >= 0 and np.isfinite(weights.max(initial=0))):
            raise InputError("weights holds negative, infinite or NaN values.")
    if start is not None and start.coef.shape != (p, n_classes, d):
        raise InputError(
            f"start holds solutions of shape {start.coef.shape}, expected {(p, n_classes, d)}."
        )
    return p


class _Problem:
    """One label set, weights and penalty; its arrays exist only while it is being solved."""

    def __init__(
        self,
        shared: SharedFeatures,
        labels: np.ndarray,
        *,
        n_classes: int,
        penalty: float,
        weights: np.ndarray | None,
        class_weights: np.ndarray | Literal["balanced"] | None,
        start: tuple[np.ndarray, np.ndarray] | None,
        memory: Memory | None,
        tolerance: float,
        max_evaluations: int,
    ) -> None:
        self._shared = shared
        self.memory = memory  # of the start, and then its own
        self._labels, self._weights, self._class_weights = labels, weights, class_weights
        self._start = start
        self._n_classes, self._penalty = n_classes, penalty
        self._tolerance, self._max_evaluations = tolerance, max_evaluations
        self._targets = np.empty((0, 0))
        self._mass = np.empty(0)  # what rows weigh, where targets are too large to be kept
        self.present = np.zeros(n_classes, dtype=bool)
        self.solution: np.ndarray | None = None  # (present classes, axes + intercept)
        self.value = 0.0
        self.decrease = 0.0
        self.n_evaluations = 0
        self.converged = False

    def begin(self, dtype: type[np.floating]) -> np.ndarray | None:
        """Set coordinates and start; targets of the present classes, or None where it is solved."""
        self.is_done = False
        self._targets = targets = self._make_targets()
        of_class = targets.sum(axis=1)
        total = float(of_class.sum())
        self.present = of_class > 0
        k = int(self.present.sum())
        if k == 0:
            raise InputError("All weights of a problem are 0: it has no rows to fit.")
        if k == 1:
            self.solution = np.zeros((1, self._shared.n_axes + 1))
            self.converged, self.memory = True, None
            return None
        # scikit-learn fits one column for two classes, which halves |coef|^2 at equal logits.
        self._ridge = self._penalty * (2 if k == 2 else 1)
        share = of_class[self.present] / total
        self._base = self._first_point(np.log(share)) if self.solution is None else self.solution
        self._dtype = dtype
        self._is_refined = False
        if not self._remembers():
            self.memory = None
            self.preconditioner = Preconditioner.of_shares(
                self._shared, share, total=total, ridge=self._ridge
            )
            self._restart()
            return self._handed_over(targets)
        assert self.memory is not None
        self.preconditioner = self.memory.preconditioner
        self._is_refined = self.preconditioner.block is not None
        self._restart()
        return None if self._foresee(self.memory) else self._handed_over(targets)

    def _handed_over(self, targets: np.ndarray) -> np.ndarray:
        """Targets of the present classes; of large ones only the rows' weights are kept here."""
        if targets.size > KEPT_SIZE:
            self._mass = targets.sum(axis=0)
            self._targets = np.empty((0, 0))
        return targets if self.present.all() else targets[self.present]

    @property
    def trial(self) -> np.ndarray:
        """Coefficients and intercepts, (present classes, axes + 1), to be evaluated next."""
        return np.asarray(self._minimiser.trial.reshape(self._base.shape))

    def penalise(self, loss: float, gradient: np.ndarray) -> tuple[float, np.ndarray]:
        """Value and gradient of the objective at `trial`, from those of the losses."""
        weights = self.trial
        gradient[:, :-1] += self._ridge * weights[:, :-1]
        return loss + self._penalised(weights), gradient

    def tell(self, value: float, gradient: np.ndarray, step: np.ndarray) -> None:
        """Take what was found at `trial`, and the step that `preconditioner` makes of it."""
        weights, minimiser = self.trial, self._minimiser
        is_new = minimiser.tell(value, gradient.ravel(), step.ravel())
        if minimiser.done:
            self._finish()
        elif is_new and not self._is_refined and self._block_is_due:
            self._refine(weights, value, gradient)

    @property
    def _block_is_due(self) -> bool:
        """Whether the point is near enough for its Hessian to be of use, and that pays."""
        if self.memory is not None:
            # A re-fit begins beside its minimum, and those that follow have the block for nothing.
            return True
        left = self._minimiser.evaluations_left
        return self._minimiser.n_evaluations >= BLOCK_AFTER and BLOCK_WORTH < left <= BLOCK_LEFT

    @property
    def stalled(self) -> bool:
        """Whether rounding stopped it before its tolerance."""
        return not self.converged and self.n_evaluations < self._max_evaluations

    def _make_targets(self) -> np.ndarray:
        """Weight of every class in every row, (k, n) float64."""
        k, n = self._n_classes, self._shared.shape[0]
        targets = np.zeros((k, n))
        if self._labels.ndim == 2:
            targets[:] = self._labels.T
        else:
            targets[self._labels, np.arange(n)] = 1
        if self._weights is not None:
            targets *= self._weights
        if isinstance(self._class_weights, str):
            of_class = targets.sum(axis=1)
            present = of_class > 0
            # As scikit-learn's: mean weight one over the classes that are there.
            factors = np.where(present, of_class.sum() / (present.sum() * of_class.clip(1e-300)), 0)
            targets *= factors[:, None]
        elif self._class_weights is not None:
            targets *= np.asarray(self._class_weights, dtype=np.float64)[:, None]
        return targets

    def _first_point(self, log_share: np.ndarray) -> np.ndarray:
        log_share = log_share - log_share.mean()
        point = np.zeros((len(log_share), self._shared.n_axes + 1))
        point[:, -1] = log_share
        if self._start is not None:
            coef, intercept = (each[self.present] for each in self._start)
            known = np.isfinite(intercept)
            if known.any():
                coef, intercept = coef[known], intercept[known]
                point[known, :-1] = self._shared.to_axes(coef)
                point[known, -1] = intercept + coef @ self._shared.center
                # A class that is new stands to the others as its share does.
                point[~known, -1] += (point[known, -1] - log_share[known]).mean()
                point -= point.mean(axis=0)
        return point

    def _remembers(self) -> bool:
        """Whether what the start knew of the objective is still of use."""
        if self.memory is None or self.memory.ridge != self._ridge:
            return False
        before = self.memory.targets
        if before.shape != self._targets.shape:
            return False
        return bool(((before.sum(axis=1) > 0) == self.present).all())

    def _foresee(self, memory: Memory) -> bool:
        """Value and gradient at the start from those before few rows changed; True if they do.

        The start was a minimum, so that the gradient there is that of the rows that changed alone.
        """
        change = self._targets - memory.targets
        rows = np.flatnonzero(change.any(axis=0))
        change = change[self.present][:, rows]
        if not len(rows) and memory.decrease <= self._tolerance * abs(memory.value):
            self.solution, self.converged = self._base, True
            self.value, self.decrease = memory.value, memory.decrease
            return True
        if not 0 < len(rows) <= self._shared.shape[0] // 8:
            return False  # nearly an evaluation's work
        features = self._shared.rows(rows).astype(np.float64)
        logits = self._base[:, :-1] @ features.T + self._base[:, -1:]
        probs = log_softmax(logits.T).T
        mass = change.sum(axis=0)
        value = memory.value - float(np.vdot(change, probs))
        residuals = mass * np.exp(probs) - change
        gradient = np.column_stack([residuals @ features, residuals.sum(axis=1)])
        gradient -= gradient.mean(axis=0)  # what rounding left of a sum of zero
        step = self.preconditioner.step(gradient)
        if memory.decrease <= LEFT_OF_CHANGE * 0.5 * float(np.vdot(gradient, step)):
            self._minimiser.begin(value, gradient.ravel(), step.ravel())
            if self._minimiser.done:
                self._finish()
                return True
        return False

    def _penalised(self, weights: np.ndarray) -> float:
        return 0.5 * self._ridge * float(np.vdot(weights[:, :-1], weights[:, :-1]))

    def _restart(self) -> None:
        self._minimiser = Minimiser(
            self._base.ravel(),
            tolerance=self._tolerance,
            max_evaluations=self._max_evaluations - self.n_evaluations,
            dtype=self._dtype,
        )

    def _refine(self, weights: np.ndarray, value: float, gradient: np.ndarray) -> None:
        """Go on from here with the Hessian that is here."""
        self._is_refined = True
        self._base = weights
        self.n_evaluations += self._minimiser.n_evaluations
        mass = self._mass if len(self._mass) else self._targets.sum(axis=0)
        self.preconditioner = self.preconditioner.with_block(
            self._shared, weights, mass=mass, ridge=self._ridge, is_refit=self.memory is not None
        )
        self._restart()
        step = self.preconditioner.step(gradient)
        self._minimiser.begin(value, gradient.ravel(), step.ravel())

    def _finish(self) -> None:
        minimiser = self._minimiser
        self.is_done = True
        self.solution = minimiser.point.reshape(self._base.shape)
        self.value, self.decrease = minimiser.value, minimiser.decrease
        self.n_evaluations += minimiser.n_evaluations
        self.converged = minimiser.converged
        self.memory = None
        if self.converged and self._targets.size:
            self.memory = Memory(
                self.preconditioner, self._ridge, self._targets, self.value, self.decrease
            )
        self._targets, self._mass = np.empty((0, 0)), np.empty(0)


def _solve(shared: SharedFeatures, problems: list[_Problem], threads: int) -> None:
    shared.prepare()
    _run(shared, problems, threads, shared.dtype)
    stalled = [problem for problem in problems if problem.stalled]
    if stalled and shared.dtype == np.float32:
        # Rounding of float32 hides what is left to descend: go on in float64, at twice the price.
        _run(shared, stalled, threads, np.float64)


def _run(
    shared: SharedFeatures, problems: list[_Problem], threads: int, dtype: type[np.floating]
) -> None:
    waiting = deque(problems)
    threads = _threads(shared, problems, threads)
    share = _at_once(shared, problems, threads)
    failures: list[BaseException] = []

    def work() -> None:
        evaluator = Evaluator(shared, dtype)
        active: list[tuple[_Problem, Task]] = []
        try:
            while not failures:
                while len(active) < share and (problem := _next(waiting)) is not None:
                    targets = problem.begin(dtype)
                    if targets is not None:
                        active.append((problem, evaluator.task(targets)))
                    del targets  # as large as all that is kept of them
                if not active:
                    return
                found = evaluator.evaluate(
                    [task for _, task in active], [problem.trial for problem, _ in active]
                )
                told = [
                    problem.penalise(*own) for (problem, _), own in zip(active, found, strict=True)
                ]
                found_steps = steps(
                    [problem.preconditioner for problem, _ in active],
                    [gradient for _, gradient in told],
                )
                for (problem, _), own, step in zip(active, told, found_steps, strict=True):
                    problem.tell(*own, step)
                active = [each for each in active if not each[0].is_done]
        except BaseException as failure:  # raised in the caller's thread
            failures.append(failure)

    with one_blas_thread():
        others = _started(work, threads - 1)
        work()
        for thread in others:
            thread.join()
    if failures:
        raise failures[0]


def _started(work: Callable[[], None], n_threads: int) -> list[threading.Thread]:
    """So many threads, or as many of them as the system grants: the others do their share."""
    started = []
    for _ in range(n_threads):
        thread = threading.Thread(target=work)
        try:
            thread.start()
        except RuntimeError:  # of the number of threads a user may have
            break
        started.append(thread)
    return started


def _threads(shared: SharedFeatures, problems: list[_Problem], threads: int) -> int:
    """Threads that problems are worth and memory holds beside each other, the caller's included.

    Python waits for ever for a thread that runs out of memory as it begins.
    """
    wanted = max(1, min(threads, len(problems)))
    if wanted == 1:
        return 1
    most = room_left() / (THREAD_BYTES + _bytes_of_targets(shared, problems[0]))
    return max(1, int(min(wanted, most)))


def _at_once(shared: SharedFeatures, problems: list[_Problem], threads: int) -> int:
    """Problems that a thread solves side by side, by the memory that their targets take.

    Where rows lie on disk more of them are worth it: every problem less at once is another reading.
    """
    most = MOST_TARGETS // shared.shape[0]
    if shared.is_on_disk:
        n_bytes = _bytes_of_targets(shared, problems[0])
        most = max(most, int(room_left() / (threads * n_bytes)))
    return max(1, min(-(-len(problems) // threads), most))


def _bytes_of_targets(shared: SharedFeatures, problem: _Problem) -> int:
    # With the place of each row.
    return int(shared.shape[0] * (problem._n_classes + 2) * np.dtype(np.float64).itemsize)


def _next(waiting: deque[_Problem]) -> _Problem | None:
    try:
        return waiting.popleft()
    except IndexError:
        return None  # another thread was faster


def _collected(shared: SharedFeatures, problems: list[_Problem]) -> MultinomialFits:
    p, k = len(problems), problems[0]._n_classes if problems else 0
    coef = np.zeros((p, k, shared.shape[1]))
    intercept = np.full((p, k), -np.inf)
    for i, problem in enumerate(problems):
        assert problem.solution is not None
        own = shared.from_axes(problem.solution[:, :-1])
        coef[i, problem.present] = own
        intercept[i, problem.present] = problem.solution[:, -1] - own @ shared.center
    return MultinomialFits(
        coef=coef,
        intercept=intercept,
        present=np.array([problem.present for problem in problems]).reshape(p, k),
        objective=np.array([problem.value for problem in problems]),
        decrease=np.array([problem.decrease for problem in problems]),
        n_evaluations=np.array([problem.n_evaluations for problem in problems]),
        converged=np.array([problem.converged for problem in problems]),
        memory=tuple(problem.memory for problem in problems),
    )
