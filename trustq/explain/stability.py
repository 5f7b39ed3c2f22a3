"""How much an explanation moves when it should not: four figures of every row, in batches.

`reference` is (n, h, w), one map a row; `others` is (t, n, h, w), the same rows' maps in t passes,
views or networks. Maps hold what speaks for a class, so values at or below 0 say nothing.
"""

from dataclasses import dataclass

import numpy as np

from trustq.errors import InputError

TOP_SHARE = 0.2
_BLOCK = 1 << 22  # values at a time


@dataclass(frozen=True)
class Stability:
    """Figures (t, n) of each other map against the reference, and one of all of them, (n,)."""

    overlap: np.ndarray  # of the top 20 %, in [0, 1], higher is more stable
    rank_correlation: np.ndarray  # over places, in [-1, 1], higher is more stable
    shift: np.ndarray  # of the centre of mass, over the diagonal, in [0, 1], lower is more stable
    max_sensitivity: np.ndarray  # at least 0, lower is more stable

    @property
    def of_rows(self) -> dict[str, np.ndarray]:
        """One figure a row, (n,): means over the others, and the max-sensitivity.

        NaN for a row none of whose maps can be compared.
        """
        return {
            "overlap": _mean(self.overlap),
            "rank_correlation": _mean(self.rank_correlation),
            "shift": _mean(self.shift),
            "max_sensitivity": self.max_sensitivity,
        }


def stability(reference: np.ndarray, others: np.ndarray) -> Stability:
    """All four figures of maps against a reference.

    A blank map, without a value above 0, has no figure: NaN. Raises `TrustqError` for shapes that
    do not fit.

    >>> one = np.array([[[4.0, 0.0], [0.0, 0.0]]])
    >>> found = stability(one, np.array([one, [[[0.0, 0.0], [0.0, 4.0]]]]))
    >>> found.overlap.tolist(), found.shift.tolist()
    ([[1.0], [0.0]], [[0.0], [1.0]])
    """
    others = np.asarray(others)
    if others.ndim != 4 or np.shape(reference) != others.shape[1:]:
        raise InputError(
            f"Maps to compare have shape {others.shape}, expected (t, n, h, w) beside a reference "
            f"of shape {np.shape(reference)}: pass one map of each row and pass, all of one layer."
        )
    t, n = others.shape[:2]
    step = max(1, _BLOCK // max(int(np.prod(others.shape[2:])) * max(t, 1), 1))
    parts = [
        _of_block(reference[start : start + step], others[:, start : start + step])
        for start in range(0, n, step)
    ] or [_of_block(reference, others)]
    return Stability(*(np.concatenate(found, axis=-1) for found in zip(*parts, strict=True)))


def top_overlap(a: np.ndarray, b: np.ndarray, *, share: float = TOP_SHARE) -> np.ndarray:
    """Intersection over union of the places with the largest values; a, b (..., h, w) to (...).

    Of h w places the top are those at least as large as the ceil(share h w)-th largest value and
    above 0: equal values are in or out together, and places that say nothing are never in. NaN
    where either map is blank. In [0, 1], higher is more stable.

    >>> a = np.array([[5.0, 4.0], [0.0, 0.0]])
    >>> top_overlap(a, np.array([[5.0, 0.0], [4.0, 0.0]]), share=0.5).item()
    0.3333333333333333
    """
    in_a, in_b = _top(_flat(a), share), _top(_flat(b), share)
    either = (in_a | in_b).sum(axis=-1)
    blank = ~(in_a.any(axis=-1) & in_b.any(axis=-1))
    return np.where(blank, np.nan, (in_a & in_b).sum(axis=-1) / np.maximum(either, 1))


def rank_correlation(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Spearman's correlation over places, equal values taking their mean rank; (...).

    NaN where either map is constant. In [-1, 1], higher is more stable. Spearman (1904).

    >>> rank_correlation(np.array([[1.0, 2.0], [3.0, 4.0]]), np.array([[1.0, 3.0], [2.0, 4.0]]))
    array(0.8)
    """
    return _correlated(_ranks(_flat(a)), _ranks(_flat(b)))


def centre_shift(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Distance of the centres of mass of what is above 0, over the map's diagonal; (...).

    The diagonal is that between the centres of opposite corner places, so 1 is the farthest. NaN
    where either map is blank. In [0, 1], lower is more stable.

    >>> centre_shift(np.array([[1.0, 0.0, 0.0]]), np.array([[1.0, 1.0, 0.0]])).item()
    0.25
    """
    height, width = a.shape[-2:]
    diagonal = float(np.hypot(height - 1, width - 1)) or 1.0
    ya, xa = _centre(a)
    yb, xb = _centre(b)
    return np.asarray(np.hypot(ya - yb, xa - xb) / diagonal)


def max_sensitivity(reference: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Largest change of a row's map over its others, as a share of the map's own norm; (n,).

    Frobenius norms; at least 0, lower is more stable; NaN where the reference is blank. Yeh et al.
    (2019), as Quantus has it with its defaults.

    >>> max_sensitivity(np.array([[[3.0, 4.0]]]), np.array([[[[3.0, 4.0]]], [[[0.0, 4.0]]]]))
    array([0.6])
    """
    flat = _flat(reference)
    norm = np.sqrt((flat**2).sum(axis=-1))
    changes = np.sqrt(((_flat(others) - flat) ** 2).sum(axis=-1)).max(axis=0)
    return np.where(norm > 0, changes / np.where(norm > 0, norm, 1), np.nan)


def _of_block(reference: np.ndarray, others: np.ndarray) -> tuple[np.ndarray, ...]:
    # float32 holds maps exactly, which come from float16 or are compared to 1e-6.
    one, all_others = np.maximum(reference, 0), np.maximum(others, 0)
    flat, others_flat = _flat(one), _flat(all_others)
    in_one, in_others = _top(flat, TOP_SHARE), _top(others_flat, TOP_SHARE)
    both, n_one = (in_others & in_one).sum(axis=-1), in_one.sum(axis=-1)
    n_others = in_others.sum(axis=-1)
    defined = (n_one > 0) & (n_others > 0)
    overlap = np.where(defined, both / np.maximum(n_one + n_others - both, 1), np.nan)
    return (
        overlap,
        _correlated(_ranks(others_flat), _ranks(flat)),
        centre_shift(all_others, one),
        max_sensitivity(one, all_others),
    )


def _flat(maps: np.ndarray) -> np.ndarray:
    maps = np.asarray(maps)
    kind = np.float64 if maps.dtype.itemsize > 4 or maps.dtype.kind != "f" else np.float32
    return maps.reshape(*maps.shape[:-2], -1).astype(kind, copy=False)


def _top(flat: np.ndarray, share: float) -> np.ndarray:
    n_top = max(1, int(np.ceil(share * flat.shape[-1] - 1e-9)))
    at = flat.shape[-1] - n_top
    least = np.partition(flat, at, axis=-1)[..., at, None]
    return (flat >= least) & (flat > 0)


def _ranks(flat: np.ndarray) -> np.ndarray:
    """Mean ranks from 0 along the last axis."""
    n = flat.shape[-1]
    rows = flat.reshape(-1, n)
    offsets = np.arange(0, rows.size, n)[:, None]
    # All rows in one vector: numpy is slow along short axes.
    order = (np.argsort(rows, axis=-1) + offsets).ravel()
    ordered = rows.ravel()[order]
    is_new = np.empty(rows.size, dtype=bool)
    np.not_equal(ordered[1:], ordered[:-1], out=is_new[1:])
    is_new[offsets.ravel()] = True
    starts = np.flatnonzero(is_new)
    lengths = np.diff(starts, append=rows.size)
    ranks = np.empty(rows.size)
    ranks[order] = np.repeat(starts % n + (lengths - 1) / 2, lengths)
    return ranks.reshape(flat.shape)


def _correlated(ranks_a: np.ndarray, ranks_b: np.ndarray) -> np.ndarray:
    middle = (ranks_a.shape[-1] - 1) / 2
    a, b = ranks_a - middle, ranks_b - middle
    spread = np.sqrt((a**2).sum(axis=-1) * (b**2).sum(axis=-1))
    return np.where(spread > 0, (a * b).sum(axis=-1) / np.where(spread > 0, spread, 1), np.nan)


def _centre(maps: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    height, width = maps.shape[-2:]
    places = np.indices((height, width), dtype=np.float64).reshape(2, -1)
    flat = np.maximum(np.asarray(maps, dtype=np.float64), 0).reshape(*maps.shape[:-2], -1)
    sums = flat @ np.stack([np.ones(height * width), *places], axis=1)
    mass = np.where(sums[..., 0] > 0, sums[..., 0], np.nan)
    return sums[..., 1] / mass, sums[..., 2] / mass


def _mean(figures: np.ndarray) -> np.ndarray:
    known = ~np.isnan(figures)
    n = known.sum(axis=0)
    total = np.where(known, figures, 0).sum(axis=0)
    return np.where(n > 0, total / np.maximum(n, 1), np.nan)
