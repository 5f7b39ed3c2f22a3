"""What a multinomial regression is bent like, so that few steps solve it."""

import math
from dataclasses import dataclass, replace
from typing import Self

import numpy as np
import scipy.linalg

from trustq.heads.feature_cache import SharedFeatures
from trustq.heads.kernels import kernel_of, multiplied

# What the Hessian of the longest axes may cost, in products of one evaluation: 38 axes of
# 1,280 with seven classes. A third of it costs as many evaluations as it saves; more saves none.
BLOCK_COST = 2
REFIT_BLOCK_COST = 1  # of a fit that begins beside its minimum: as few evaluations, in less time
LEAST_BLOCK = 128  # axes times classes, which cost nothing: all axes of few columns
HESSIAN_ROWS = 2048  # at a time, for which products of all pairs of axes are made
HESSIAN_PAIRS = 384  # of classes at a time
LEAST_PROBABILITY = 1e-15  # products of smaller ones are no normal numbers, which are slow
LEAST_CURVATURE = 1e-3  # of what the shares say; where classes are apart the true one may be 0
# Axes beyond the block are taken to bend as intercepts do, unless by less than so much of what the
# shares say: then few rows are not sure yet, and the mean over all says little. Evaluations without
# that bound, with it: CLIP features at C = 1 90, 57, Lite0 features at .01 30 both, 35 with shares.
LEAST_BEND = 0.5
# What is added to a Gram matrix of float32 products at least, of its longest axis.
LEAST_ADDED = {"float32": 1e-6, "float64": 1e-12}


@dataclass(frozen=True)
class Preconditioner:
    """An approximate inverse of the Hessian by the weights, definite whatever it lacks.

    Weights and gradients are (k, axes + 1): present classes by columns of the rows, the intercept
    last. Were all probabilities the shares of the classes, the Hessian would be
    (diag(share) - share share^T) x Gram, which is diagonal along the axes of both. Along the
    longest axes of the Gram matrix that is what stands for it, or with `block` what it really is
    between all classes; along all others the largest of the shares' bends stands for each, so that
    one inverse of the Gram matrix serves all classes, and problems that weigh nearly as much.
    """

    turn: np.ndarray  # (k, k); its first column is equal steps of all classes, which change nothing
    scale: np.ndarray  # (k, m + 1), inverse curvatures along the longest axes and intercepts
    directions: np.ndarray | None  # (axes, m), those axes; None where they are all
    rest: np.ndarray | None  # (m + axes, axes), they and the inverse along the others, but for
    rest_bend: float
    block: np.ndarray | None = None  # (b, b), the inverse of the block's triangular root

    @classmethod
    def of_shares(
        cls, features: SharedFeatures, share: np.ndarray, *, total: float, ridge: float
    ) -> Self:
        """That which needs no evaluation: from the classes' shares of the `total` weight."""
        bends, turn = np.linalg.eigh(np.diag(share) - np.outer(share, share))
        bends = np.maximum(bends, 1e-6 * bends[-1])[:, None] * total
        sizes, directions = features.longest
        of_rows = bends / features.shape[0]
        scale = 1 / np.hstack([of_rows * sizes + ridge, bends])
        scale[0] = 0  # equal steps of all classes change no probability
        bend = float(of_rows[-1, 0])
        rest = _rest(features, bend, ridge)
        return cls(turn, scale, directions, rest, bend)

    def with_block(
        self,
        features: SharedFeatures,
        weights: np.ndarray,
        *,
        mass: np.ndarray,
        ridge: float,
        is_refit: bool = False,
    ) -> Self:
        """The same with the true Hessian at `weights` on the longest axes, where it is definite.

        `mass`, (n,), is what rows weigh. On clean HAM10000 labels a fit takes 27
        evaluations in place of 51 with it, and one that starts beside it 6 in place of 27.
        """
        k, n = len(weights), features.shape[0]
        cost = REFIT_BLOCK_COST if is_refit else BLOCK_COST
        wanted = max(math.isqrt(cost * 4 * features.n_axes // k), LEAST_BLOCK // k)
        width = min(self.scale.shape[1] - 1, wanted) + 1
        hessian = _hessian(features, weights, mass, width)
        of_intercepts = hessian[:, -1, :, -1]
        turn, curvature = self.turn[:, 1:], 1 / self.scale[1:, -width:]
        turned = np.einsum("ap,aibj,bq->piqj", turn, hessian, turn, optimize=True)
        diagonal = np.einsum("aiai->ai", turned)
        diagonal[:, :-1] += ridge
        diagonal += LEAST_CURVATURE * curvature
        flat = np.sqrt(1 / curvature).ravel()
        try:
            root = np.linalg.cholesky(turned.reshape(len(flat), -1) * np.outer(flat, flat))
        except np.linalg.LinAlgError:
            return self
        inverse, _ = scipy.linalg.lapack.dtrtri(root, lower=1)
        bend = float(np.linalg.eigvalsh(of_intercepts)[-1]) / n
        if bend < LEAST_BEND * self.rest_bend:
            return replace(self, block=inverse * flat)
        rest = _rest(features, bend, ridge)
        return replace(self, block=inverse * flat, rest=rest, rest_bend=bend)

    def step(self, gradient: np.ndarray) -> np.ndarray:
        """The approximate inverse times a gradient, both (k, axes + 1)."""
        return steps([self], [gradient])[0]

    def _along(self, along: np.ndarray, of_intercepts: np.ndarray) -> np.ndarray:
        """The step along the longest axes and of intercepts, (k, m + 1).

        `along` is (k - 1, m), the gradient along these axes without the last class.
        """
        whole = np.empty(self.scale.shape)
        whole[:-1, :-1], whole[-1, :-1], whole[:, -1] = along, -along.sum(axis=0), of_intercepts
        turned = self.turn.T @ whole
        found = turned * self.scale
        if self.block is not None:
            width = len(self.block) // (len(turned) - 1)
            inner = (self.block @ turned[1:, -width:].ravel()) @ self.block
            found[1:, -width:] = inner.reshape(-1, width)
        return np.asarray(self.turn @ found)


def steps(preconditioners: list[Preconditioner], gradients: list[np.ndarray]) -> list[np.ndarray]:
    """The step of each problem on the same features, in bits of its own.

    What they share, directions and inverses, is read once. A gradient sums to zero over the
    classes, and so does a step: of the last class nothing need be multiplied.
    """
    slopes = [gradient[:-1, :-1] for gradient in gradients]
    directions = preconditioners[0].directions
    along, rests = slopes, [np.zeros(0)] * len(slopes)
    if directions is not None:
        products = _by_inverses(preconditioners, slopes)
        m = directions.shape[1]
        along, rests = [own[:, :m] for own in products], [own[:, m:] for own in products]
    found = [
        own._along(longest, gradient[:, -1])
        for own, longest, gradient in zip(preconditioners, along, gradients, strict=True)
    ]
    if directions is None:
        return found
    back = multiplied(directions, [own[:-1, :-1] for own in found])
    results = [np.empty_like(gradient) for gradient in gradients]
    of_problems = zip(results, preconditioners, found, back, rests, strict=True)
    for result, own, longest, turned, rest in of_problems:
        slope = result[:-1, :-1]
        np.divide(rest, own.rest_bend, out=slope)
        slope += turned
        result[-1, :-1] = -slope.sum(axis=0)
        result[:, -1] = longest[:, -1]
    return results


def _by_inverses(
    preconditioners: list[Preconditioner], slopes: list[np.ndarray]
) -> list[np.ndarray]:
    """The `rest` of each problem times its slopes, (k - 1, m + axes)."""
    found = [np.zeros(0)] * len(slopes)
    for key, rest in {id(own.rest): own.rest for own in preconditioners}.items():
        which = [i for i, own in enumerate(preconditioners) if id(own.rest) == key]
        assert rest is not None
        # The inverse is symmetric, so that its rows are its columns.
        for i, own in zip(which, multiplied(rest, [slopes[i] for i in which]), strict=True):
            found[i] = own
    return found


def _rest(features: SharedFeatures, bend: float, ridge: float) -> np.ndarray | None:
    least = LEAST_ADDED[np.dtype(features.dtype).name] * float(features.longest[0][-1])
    # By powers of two, so that problems that weigh nearly as much share an inverse: a rest that is
    # off by a half takes no more evaluations.
    added = max(ridge / bend, least, 1e-300)
    return features.inverse(2.0 ** round(math.log2(added)))


def _hessian(
    features: SharedFeatures, weights: np.ndarray, mass: np.ndarray, width: int
) -> np.ndarray:
    """The Hessian of the losses on the longest `width` - 1 axes and intercepts, (k, w, k, w).

    Between two classes it is minus the sum over rows of both probabilities times the products of
    all pairs of axes; and since probabilities sum to one, a class with itself makes the sum over
    all classes vanish.
    """
    k = len(weights)
    kernel = kernel_of(features.dtype, k - 1)
    columns, intercepts = weights[:, :-1] - weights[-1, :-1], weights[:, -1:] - weights[-1, -1]
    root_mass = np.sqrt(mass)
    one, other = np.triu_indices(k, 1)
    first, second = np.tril_indices(width)
    totals = np.zeros((len(one), len(first)))
    longest = max(rows.stop - rows.start for rows in features.blocks)
    room = np.empty(len(first) * min(HESSIAN_ROWS, longest), features.dtype)
    for rows, block, long in zip(features.blocks, features.by_row, features.long_rows, strict=True):
        if not mass[rows].any():
            continue
        (logits,) = multiplied(block, [columns[:-1]], kernel)
        probs = np.vstack([logits + intercepts[:-1], np.zeros(len(block))])
        probs -= probs.max(axis=0)
        probs = np.exp(probs)
        probs *= root_mass[rows] / probs.sum(axis=0)
        probs = np.maximum(probs, LEAST_PROBABILITY).astype(features.dtype)
        for start in range(0, len(block), HESSIAN_ROWS):
            own = slice(start, start + HESSIAN_ROWS)
            axes = np.ones((width, len(long[own])), long.dtype)
            axes[:-1] = long[own, long.shape[1] - width + 1 :].T
            products = room[: len(first) * axes.shape[1]].reshape(len(first), -1)
            for axis in range(width):  # with all before it and itself
                at = axis * (axis + 1) // 2
                np.multiply(axes[: axis + 1], axes[axis], out=products[at : at + axis + 1])
            for pairs in np.array_split(np.arange(len(one)), -(-len(one) // HESSIAN_PAIRS)):
                both = probs[one[pairs], own] * probs[other[pairs], own]
                totals[pairs] -= multiplied(products, [both], kernel)[0]
    between = np.zeros((k, k, width, width))
    for i, j, i_axis, j_axis in ((one, other, first, second), (one, other, second, first)):
        between[i[:, None], j[:, None], i_axis, j_axis] = totals
        between[j[:, None], i[:, None], i_axis, j_axis] = totals
    between[np.arange(k), np.arange(k)] = -between.sum(axis=1)
    return between.transpose(0, 2, 1, 3)
