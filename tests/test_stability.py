"""Stability of explanations: the definitions by hand, and second implementations."""

import numpy as np
import pytest
from scipy import stats

from trustq.errors import TrustqError
from trustq.explain.stability import (
    centre_shift,
    max_sensitivity,
    rank_correlation,
    stability,
    top_overlap,
)


def drawn(seed: int, t: int = 4, n: int = 9, h: int = 7, w: int = 6) -> tuple[np.ndarray, ...]:
    rng = np.random.default_rng(seed)
    reference = np.maximum(rng.normal(0.3, 1, (n, h, w)), 0).round(1)  # ties, many of them 0
    others = np.maximum(reference + rng.normal(0, 0.4, (t, n, h, w)), 0).round(1)
    return reference, others


def test_overlap_by_hand() -> None:
    # 10 places, top 2: a has {0, 1}; b has {1, 2}: one of three.
    a = np.array([[9.0, 8, 1, 1, 1, 1, 1, 1, 1, 1]])
    b = np.array([[1.0, 8, 9, 1, 1, 1, 1, 1, 1, 1]])
    assert top_overlap(a, b).item() == pytest.approx(1 / 3)
    # A tie at the edge is in whole: {0, 1, 2} against {0, 1}.
    tied = np.array([[9.0, 8, 8, 1, 1, 1, 1, 1, 1, 1]])
    assert top_overlap(a, tied).item() == pytest.approx(2 / 3)
    # Places that say nothing are never in: {0} against {0, 1}.
    sparse = np.array([[9.0, 0, 0, 0, 0, 0, 0, 0, 0, 0]])
    assert top_overlap(a, sparse).item() == pytest.approx(1 / 2)
    assert np.isnan(top_overlap(a, np.zeros((1, 10))))


def test_shift_and_sensitivity_by_hand() -> None:
    a, b = np.zeros((4, 5)), np.zeros((4, 5))
    a[0, 0], b[3, 4] = 2.0, 7.0
    assert centre_shift(a, b).item() == pytest.approx(1.0)  # corner to corner
    b[:], b[0, 4] = 0, 1
    assert centre_shift(a, b).item() == pytest.approx(4 / 5)  # diagonal 5
    assert max_sensitivity(a[None], np.stack([a[None], 3 * a[None]])).item() == pytest.approx(2.0)
    assert np.isnan(centre_shift(a, np.zeros((4, 5))))


@pytest.mark.parametrize("seed", range(3))
def test_figures_are_those_of_loops_over_scipy(seed: int) -> None:
    reference, others = drawn(seed)
    found = stability(reference, others)
    for i in range(len(others)):
        for row in range(len(reference)):
            a, b = reference[row].ravel(), others[i, row].ravel()
            top = [set(np.flatnonzero((v >= np.sort(v)[::-1][8]) & (v > 0))) for v in (a, b)]
            jaccard = len(top[0] & top[1]) / len(top[0] | top[1])
            assert found.overlap[i, row] == pytest.approx(jaccard, abs=1e-12)
            rho = stats.spearmanr(a, b).statistic
            assert found.rank_correlation[i, row] == pytest.approx(rho, abs=1e-12)
    change = np.linalg.norm((others - reference).reshape(4, 9, -1), axis=2).max(axis=0)
    own = np.linalg.norm(reference.reshape(9, -1), axis=1)
    np.testing.assert_allclose(found.max_sensitivity, change / own, atol=1e-12)


def test_one_block_or_many_is_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    reference, others = drawn(0)
    whole = stability(reference, others)
    monkeypatch.setattr("trustq.explain.stability._BLOCK", 1)
    parts = stability(reference, others)
    for name in ("overlap", "rank_correlation", "shift", "max_sensitivity"):
        np.testing.assert_allclose(getattr(whole, name), getattr(parts, name), atol=1e-13)


def test_scale_and_symmetry_leave_the_figures_alone() -> None:
    reference, others = drawn(1)
    once, again = stability(reference, others), stability(4 * reference, 4 * others)
    turned = stability(reference[:, ::-1], others[:, :, ::-1])
    for name in ("overlap", "rank_correlation", "shift", "max_sensitivity"):
        np.testing.assert_allclose(getattr(once, name), getattr(again, name), atol=1e-12)
        np.testing.assert_allclose(getattr(once, name), getattr(turned, name), atol=1e-12)


def test_equal_maps_are_stable_and_blank_ones_have_no_figure() -> None:
    reference, _ = drawn(2)
    reference[3] = 0
    rows = stability(reference, np.stack([reference, reference])).of_rows
    kept = np.arange(9) != 3
    assert (rows["overlap"][kept] == 1).all() and (rows["shift"][kept] == 0).all()
    np.testing.assert_allclose(rows["rank_correlation"][kept], 1)
    assert all(np.isnan(values[3]) for values in rows.values())


def test_noise_of_more_strength_is_less_stable() -> None:
    rng = np.random.default_rng(0)
    reference = rng.gamma(2, 1, (50, 7, 7))
    means = []
    for strength in (0.05, 0.3, 2.0):
        others = np.maximum(reference + rng.normal(0, strength, (5, 50, 7, 7)), 0)
        rows = stability(reference, others).of_rows
        means.append([float(np.nanmean(values)) for values in rows.values()])
    overlap, rho, shift, sensitivity = np.array(means).T
    assert (np.diff(overlap) < 0).all() and (np.diff(rho) < 0).all()
    assert (np.diff(shift) > 0).all() and (np.diff(sensitivity) > 0).all()


def test_maps_of_another_layer_are_refused() -> None:
    with pytest.raises(TrustqError) as error:
        stability(np.zeros((3, 7, 7)), np.zeros((2, 3, 14, 14)))
    assert str(error.value) == (
        "Maps to compare have shape (2, 3, 14, 14), expected (t, n, h, w) beside a reference of "
        "shape (3, 7, 7): pass one map of each row and pass, all of one layer."
    )


def test_figures_are_those_of_quantus() -> None:
    functions = pytest.importorskip("quantus.functions.similarity_func")
    reference, others = drawn(5)
    found = stability(reference, others)
    flat = reference.reshape(9, -1)
    for i in range(len(others)):
        own = functions.correlation_spearman(flat, others[i].reshape(9, -1), batched=True)
        np.testing.assert_allclose(found.rank_correlation[i], own, atol=1e-10)
    own = [max(np.linalg.norm(o[r] - reference[r]) for o in others) for r in range(9)]
    norm = np.linalg.norm(flat, axis=1)
    np.testing.assert_allclose(found.max_sensitivity, np.array(own) / norm, atol=1e-10)


def test_rank_correlation_of_a_constant_map_is_unknown() -> None:
    assert np.isnan(rank_correlation(np.ones((2, 2)), np.arange(4.0).reshape(2, 2)))
