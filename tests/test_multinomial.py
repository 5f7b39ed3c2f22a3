"""The batched logistic regression: scikit-learn's answer, whatever the data and the company."""

import dataclasses
import pickle
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression

from trustq.errors import TrustqError
from trustq.heads import (
    LinearHead,
    SharedFeatures,
    fit_multinomial,
    fit_penalty_path,
    multinomial,
)
from trustq.heads.feature_cache import one_blas_thread
from trustq.heads.multinomial import MultinomialFits
from trustq.heads.preconditioner import Preconditioner


def problem(
    n: int = 200, d: int = 6, k: int = 4, *, seed: int = 0
) -> tuple[np.ndarray, np.ndarray, np.random.Generator]:
    rng = np.random.default_rng(seed)
    labels = rng.integers(k, size=n)
    return rng.standard_normal((n, d)) + 1.5 * np.eye(k, d)[labels], labels, rng


def objective(
    features: np.ndarray,
    targets: np.ndarray,
    coef: np.ndarray,
    intercept: np.ndarray,
    penalty: float,
) -> float:
    """Sum of losses + |coef|^2 / (2 C) in float64, written apart from the solver."""
    logits = features.astype(np.float64) @ coef.T + intercept
    top = logits.max(axis=1)
    log_sum = top + np.log(np.exp(logits - top[:, None]).sum(axis=1))
    finite = np.where(targets > 0, logits, 0)
    losses = targets.sum(axis=1) * log_sum - (targets * finite).sum(axis=1)
    return float(losses.sum() + (coef**2).sum() / (2 * penalty))


@contextmanager
def may_stop_early() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        yield


def assert_as_good_as_scikit_learn(
    fits: MultinomialFits,
    features: np.ndarray,
    label_sets: np.ndarray,
    weights: np.ndarray,
    penalties: np.ndarray,
) -> None:
    k = fits.coef.shape[1]
    for i, (labels, weight, penalty) in enumerate(zip(label_sets, weights, penalties, strict=True)):
        used = weight > 0
        if len(np.unique(labels[used])) < 3:
            continue  # scikit-learn's form for two classes has its own test
        peer = LogisticRegression(C=penalty, tol=1e-6, max_iter=10_000)
        with may_stop_early(), one_blas_thread():
            peer.fit(features[used].astype(np.float64), labels[used], sample_weight=weight[used])
        coef, intercept = np.zeros_like(fits.coef[i]), np.full(k, -1e30)
        coef[peer.classes_], intercept[peer.classes_] = peer.coef_, peer.intercept_
        targets = np.eye(k)[labels] * weight[:, None]
        theirs = objective(features, targets, coef, intercept, penalty)
        own = np.maximum(fits.intercept[i], -1e30)
        ours = objective(features, targets, fits.coef[i], own, penalty)
        assert ours <= theirs * (1 + 1e-5) + 1e-9, (i, penalty)


def test_folds_label_sets_and_penalties_match_scikit_learn() -> None:
    features, labels, rng = problem()
    label_sets = np.array([labels, rng.integers(4, size=200), labels, np.roll(labels, 3), labels])
    weights = (rng.integers(5, size=200) != np.arange(5)[:, None]).astype(float)
    weights[4] = rng.random(200)
    penalties = np.array([1e-3, 0.1, 1.0, 10.0, 100.0])
    fits = fit_multinomial(features, label_sets, n_classes=4, penalties=penalties, weights=weights)
    assert fits.converged.all()
    assert_as_good_as_scikit_learn(fits, features, label_sets, weights, penalties)


@pytest.mark.parametrize("n", [60, 300, 1100])
def test_few_rows_of_many_columns_match_scikit_learn(n: int) -> None:
    features, labels, rng = problem(n, d=1300)
    label_sets = np.array([labels, np.roll(labels, 3), labels])
    weights = np.ones((3, n))
    weights[2] = rng.integers(3, size=n)
    penalties = np.array([1e-3, 0.01, 1.0])
    fits = fit_multinomial(features, label_sets, n_classes=4, penalties=penalties, weights=weights)
    assert fits.converged.all()
    assert_as_good_as_scikit_learn(fits, features, label_sets, weights, penalties)
    again = fit_multinomial(
        features, label_sets, n_classes=4, penalties=penalties, weights=weights, start=fits
    )
    assert (again.n_evaluations == 0).all()
    # A start without a memory goes through the coordinates of the rows, and back.
    forgetful = dataclasses.replace(fits, memory=(None,) * 3)
    same = fit_multinomial(
        features, label_sets, n_classes=4, penalties=penalties, weights=weights, start=forgetful
    )
    assert (same.n_evaluations <= 2).all()
    np.testing.assert_allclose(same.logits(features), fits.logits(features), atol=2e-2)
    np.testing.assert_allclose(same.objective, fits.objective, rtol=1e-7)


@pytest.mark.parametrize("n", [60, 400, 600])
def test_rows_that_repeat_are_fitted_as_rows_of_twice_the_weight(n: int) -> None:
    features, labels, _ = problem(n, d=2 * n + 100)
    twice = np.vstack([features, features])
    fits = fit_multinomial(twice, np.tile(labels, 2)[None], n_classes=4, penalties=0.01)
    once = fit_multinomial(
        features, labels[None], n_classes=4, penalties=0.01, weights=np.full((1, n), 2.0)
    )
    np.testing.assert_allclose(fits.objective, once.objective, rtol=1e-7)
    np.testing.assert_allclose(fits.logits(features), once.logits(features), atol=2e-2)
    alike = np.full((2 * n, twice.shape[1]), 3.0)  # which say nothing
    shares = fit_multinomial(alike, np.tile(labels, 2)[None], n_classes=4)
    probs = np.exp(shares.logits(alike[:1])[0])
    np.testing.assert_allclose(probs / probs.sum(), [np.bincount(labels) / n], rtol=1e-6)


@pytest.mark.parametrize(("n", "d"), [(1500, 203), (1100, 1300), (300, 900)])
def test_columns_that_never_vary_get_no_coefficient_not_even_of_rounding(n: int, d: int) -> None:
    features, labels, _ = problem(n, d)
    features[:, 50:90] = 0  # such as units that never fire
    fits = fit_multinomial(features.astype(np.float32), labels[None], n_classes=4, penalties=[0.01])
    assert (fits.coef[:, :, 50:90] == 0).all()
    assert (fits.coef[:, :, :50] != 0).all()


@pytest.mark.parametrize("n", [60, 400])
def test_axes_of_few_rows_are_orthonormal_and_as_long_as_the_rows_are(n: int) -> None:
    features, _, _ = problem(n, d=600)
    features[:, 3] *= 100
    shared = SharedFeatures(features.astype(np.float32))
    centred = features - features.mean(axis=0)
    np.testing.assert_allclose(shared.axes.T @ shared.axes, np.eye(n - 1), atol=1e-6)
    lengths = np.linalg.svd(centred, compute_uv=False)[: n - 1]
    along = np.linalg.norm(centred @ shared.axes, axis=0)
    np.testing.assert_allclose(along[::-1], lengths, rtol=1e-5)


def test_float32_is_never_worse_than_scikit_learn() -> None:
    features, labels, rng = problem(n=2500, d=40)
    features = features.astype(np.float32)
    assert SharedFeatures(features).dtype == np.float32
    label_sets = np.array([labels, np.where(rng.random(2500) < 0.3, 0, labels)] * 2)
    penalties = np.array([1e-4, 1e-2, 1.0, 1e3])
    fits = fit_multinomial(features, label_sets, n_classes=4, penalties=penalties)
    weights = np.ones((4, 2500))
    assert fits.converged.all()
    assert_as_good_as_scikit_learn(fits, features, label_sets, weights, penalties)


def test_half_precision_features_are_fitted_and_predicted_as_float32() -> None:
    features, labels, _ = problem(n=2500, d=40)
    half = features.astype(np.float16)
    same = half.astype(np.float32)
    ours = fit_multinomial(half, labels[None], n_classes=4)
    peer = fit_multinomial(same, labels[None], n_classes=4)
    np.testing.assert_array_equal(ours.coef, peer.coef)
    np.testing.assert_allclose(ours.logits(half), peer.logits(same), atol=1e-5)
    head = LinearHead(n_classes=4).fit(half, labels)
    np.testing.assert_array_equal(head.predict_logits(half), ours.logits(half)[0])


@pytest.mark.bits
@pytest.mark.parametrize(
    ("n", "d", "k"),
    [(60, 5, 3), (2500, 40, 4), (1000, 67, 9), (700, 96, 33), (5003, 97, 7), (1501, 203, 7)],
)
def test_company_threads_and_place_change_no_bit(n: int, d: int, k: int) -> None:
    features, labels, rng = problem(n, d, k)
    label_sets = np.array([labels] + [rng.integers(k, size=n) for _ in range(6)])
    penalties = 10.0 ** np.arange(-3, 4)
    shared = SharedFeatures(features.astype(np.float32))
    options = {"n_classes": k, "tolerance": 1e-6}
    together = fit_multinomial(shared, label_sets, penalties=penalties, threads=2, **options)
    back = slice(None, None, -1)
    turned = fit_multinomial(
        shared, label_sets[back], penalties=penalties[back], threads=1, **options
    )
    np.testing.assert_array_equal(together.coef, turned.coef[back])
    for i in range(7):
        alone = fit_multinomial(shared, label_sets[[i]], penalties=penalties[i], **options)
        np.testing.assert_array_equal(alone.coef[0], together.coef[i])
        np.testing.assert_array_equal(alone.intercept[0], together.intercept[i])


@pytest.mark.bits
@pytest.mark.parametrize(("left", "granted", "asked"), [(np.inf, 2, 3), (np.inf, 0, 1), (0, 2, 0)])
def test_threads_that_memory_or_the_system_do_not_hold_are_done_without(
    monkeypatch: pytest.MonkeyPatch, left: float, granted: int, asked: int
) -> None:
    tried = []

    class Thread(threading.Thread):
        def start(self) -> None:
            tried.append(self)
            if len(tried) > granted:
                raise RuntimeError("can't start new thread")
            super().start()

    features, labels, rng = problem(2500, 40)
    label_sets = np.array([labels] + [rng.integers(4, size=2500) for _ in range(6)])
    shared = SharedFeatures(features.astype(np.float32))
    alone = fit_multinomial(shared, label_sets, n_classes=4, threads=1)
    monkeypatch.setattr(multinomial, "room_left", lambda: left)
    monkeypatch.setattr(multinomial.threading, "Thread", Thread)
    shared_out = fit_multinomial(shared, label_sets, n_classes=4, threads=4)
    assert len(tried) == asked
    np.testing.assert_array_equal(shared_out.coef, alone.coef)
    np.testing.assert_array_equal(shared_out.intercept, alone.intercept)


def test_few_rows_with_weight_are_the_fit_of_those_rows_alone() -> None:
    features, labels, rng = problem(n=2500, d=40)
    weights = (rng.random((3, 2500)) < [[0.1], [0.9], [0.3]]).astype(float)
    shared = SharedFeatures(features)
    fits = fit_multinomial(shared, np.array([labels] * 3), n_classes=4, weights=weights)
    for i, used in enumerate(weights > 0):
        peer = fit_multinomial(features[used], labels[used][None], n_classes=4, tolerance=1e-10)
        assert abs(fits.objective[i] / peer.objective[0] - 1) < 5e-8
        np.testing.assert_allclose(fits.coef[i], peer.coef[0], atol=2e-3)


@pytest.mark.bits
def test_rows_without_weight_change_no_bit() -> None:
    features, labels, rng = problem(n=2500, d=40)
    weights = (rng.random((1, 2500)) < 0.8).astype(float)
    other = np.where(weights[0] > 0, labels, rng.integers(4, size=2500))
    a = fit_multinomial(features, labels[None], n_classes=4, weights=weights)
    b = fit_multinomial(features, other[None], n_classes=4, weights=weights)
    np.testing.assert_array_equal(a.coef, b.coef)


def test_two_classes_are_scikit_learns_binary_form() -> None:
    features, labels, _ = problem(k=2)
    fits = fit_multinomial(features, labels[None], n_classes=3, penalties=0.3)
    peer = LogisticRegression(C=0.3, solver="newton-cholesky", tol=1e-10).fit(features, labels)
    np.testing.assert_allclose(fits.coef[0, 1] - fits.coef[0, 0], peer.coef_[0], atol=1e-6)
    assert fits.present.tolist() == [[True, True, False]]
    assert np.isneginf(fits.intercept[0, 2]) and not fits.coef[0, 2].any()


def test_soft_labels_are_the_weighted_hard_ones() -> None:
    features, labels, rng = problem()
    soft = 0.8 * np.eye(4)[labels] + 0.2 * rng.dirichlet(np.ones(4), size=200)
    fits = fit_multinomial(features, soft[None], n_classes=4)
    repeated, hard = np.repeat(features, 4, axis=0), np.tile(np.arange(4), 200)
    peer = fit_multinomial(repeated, hard[None], n_classes=4, weights=soft.reshape(1, -1))
    np.testing.assert_allclose(fits.coef, peer.coef, atol=1e-6)
    hard_fits = fit_multinomial(features, np.eye(4)[labels][None], n_classes=4)
    np.testing.assert_array_equal(
        hard_fits.coef, fit_multinomial(features, labels[None], n_classes=4).coef
    )


def test_class_weights_are_scikit_learns() -> None:
    features, labels, _ = problem()
    labels[labels == 3] = 0
    peer = LogisticRegression(class_weight="balanced", solver="newton-cholesky", tol=1e-10)
    peer.fit(features, labels)
    fits = fit_multinomial(features, labels[None], n_classes=4, class_weights="balanced")
    np.testing.assert_allclose(fits.coef[0, :3], peer.coef_, atol=1e-6)
    factors = 200 / (3 * np.bincount(labels, minlength=4)[:3])
    same = fit_multinomial(
        features, labels[None], n_classes=4, class_weights=np.append(factors, 5.0)
    )
    np.testing.assert_allclose(same.coef, fits.coef, atol=1e-9)


def test_a_start_near_the_answer_saves_time_and_changes_little() -> None:
    features, labels, rng = problem(n=2500, d=40)
    shared = SharedFeatures(features)
    first = fit_multinomial(shared, labels[None], n_classes=4)
    changed = labels.copy()
    changed[rng.choice(2500, size=25, replace=False)] = 1
    cold = fit_multinomial(shared, changed[None], n_classes=4)
    warm = fit_multinomial(shared, changed[None], n_classes=4, start=first)
    assert warm.n_evaluations[0] < cold.n_evaluations[0]
    assert abs(warm.objective[0] / cold.objective[0] - 1) < 1e-6
    again = fit_multinomial(shared, labels[None], n_classes=4, start=first)
    assert again.n_evaluations[0] == 0
    np.testing.assert_allclose(again.coef, first.coef, atol=1e-6)
    np.testing.assert_array_equal(again.objective, first.objective)


def drifting(
    n: int = 2500, d: int = 40, k: int = 4, *, rounds: int = 6
) -> tuple[SharedFeatures, list[np.ndarray], list[np.ndarray]]:
    """Features, and labels and weights that change a little from round to round."""
    features, labels, rng = problem(n, d, k)
    sets, weights = [np.where(rng.random(n) < 0.2, rng.integers(k, size=n), labels)], [np.ones(n)]
    for _ in range(rounds):
        sets.append(sets[-1].copy())
        weights.append(weights[-1].copy())
        rows = rng.choice(n, size=n // 100, replace=False)
        sets[-1][rows] = labels[rows]
        weights[-1][rng.choice(n, size=3)] = rng.choice([0.0, 0.3])
    return SharedFeatures(features), sets, weights


@pytest.mark.parametrize("penalty", [1e-3, 1e-2, 1.0, 100.0])
def test_refits_stay_as_near_the_minimum_as_they_say(penalty: float) -> None:
    shared, sets, weights = drifting()
    options = {"n_classes": 4, "penalties": penalty}
    fits, evaluations = None, []
    for labels, weight in zip(sets, weights, strict=True):
        fits = fit_multinomial(shared, labels[None], weights=weight[None], start=fits, **options)
        best = fit_multinomial(
            shared, labels[None], weights=weight[None], tolerance=1e-12, **options
        )
        targets = np.eye(4)[labels] * weight[:, None]
        ours, least = (
            objective(shared.features, targets, own.coef[0], own.intercept[0], penalty)
            for own in (fits, best)
        )
        assert fits.decrease[0] <= 1e-8 * ours
        assert ours - least <= 5e-8 * least
        assert abs(fits.objective[0] - ours) <= 1e-7 * ours
        evaluations.append(int(fits.n_evaluations[0]))
    assert max(evaluations[1:]) <= evaluations[0] / 2


def test_refits_of_a_short_fit_take_the_hessian_once_and_need_half_the_evaluations() -> None:
    shared, sets, _ = drifting(d=203)
    options = {"n_classes": 4, "penalties": 1e-3}
    fits = fit_multinomial(shared, sets[0][None], **options)
    refits = []
    for labels in sets[1:]:
        fits = fit_multinomial(shared, labels[None], start=fits, **options)
        assert fits.memory[0] is not None
        refits.append((fits.memory[0].preconditioner.block, int(fits.n_evaluations[0])))
    cold = int(fit_multinomial(shared, sets[-1][None], **options).n_evaluations[0])
    assert refits[0][0] is not None
    assert all(block is refits[0][0] for block, _ in refits)
    assert max(taken for _, taken in refits) <= cold / 2


@pytest.mark.bits
def test_a_refit_is_its_own_whatever_is_fitted_beside_it() -> None:
    shared, sets, weights = drifting(rounds=1)
    penalties = np.array([1e-2, 1.0, 100.0])

    def fit(i: int, which: list[int], start: MultinomialFits | None, threads: int):  # type: ignore[no-untyped-def]
        return fit_multinomial(
            shared,
            np.repeat(sets[i][None], len(which), axis=0),
            n_classes=4,
            weights=np.repeat(weights[i][None], len(which), axis=0),
            penalties=penalties[which],
            start=start,
            threads=threads,
        )

    together = fit(1, [0, 1, 2], fit(0, [0, 1, 2], None, 2), 2)
    for c in range(3):
        alone = fit(1, [c], fit(0, [c], None, 1), 1)
        np.testing.assert_array_equal(alone.coef[0], together.coef[c])


def test_a_start_at_another_penalty_or_of_soft_labels_is_as_good() -> None:
    features, labels, rng = problem(n=2500, d=40)
    shared = SharedFeatures(features)
    first = fit_multinomial(shared, labels[None], n_classes=4, penalties=0.1)
    soft = 0.9 * np.eye(4)[labels] + 0.1 * rng.dirichlet(np.ones(4), size=2500)
    for own, penalty in ((labels, 0.2), (soft, 0.1)):
        warm = fit_multinomial(shared, own[None], n_classes=4, penalties=penalty, start=first)
        cold = fit_multinomial(shared, own[None], n_classes=4, penalties=penalty)
        assert abs(warm.objective[0] / cold.objective[0] - 1) < 5e-8


def test_a_tighter_fit_does_not_take_a_loose_one_for_its_answer() -> None:
    features, labels, _ = problem(n=2500, d=40)
    loose = fit_multinomial(features, labels[None], n_classes=4, tolerance=1e-4)
    tight = fit_multinomial(features, labels[None], n_classes=4, tolerance=1e-10, start=loose)
    assert tight.decrease[0] <= 1e-10 * tight.objective[0] < loose.decrease[0]
    assert tight.n_evaluations[0] > 0


def hessian_of(rows: np.ndarray, weights: np.ndarray, mass: np.ndarray, ridge: float) -> np.ndarray:
    """The Hessian by (k, d + 1) weights, as (k, d + 1, k, d + 1)."""
    k, d = len(weights), rows.shape[1]
    rows = np.hstack([rows, np.ones((len(rows), 1))])
    logits = rows @ weights.T
    probs = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    spread = np.einsum("na,ab->nab", probs, np.eye(k)) - np.einsum("na,nb->nab", probs, probs)
    hessian = np.einsum("n,nab,ni,nj->aibj", mass, spread, rows, rows, optimize=True)
    hessian += np.einsum("ab,ij->aibj", np.eye(k), np.diag([ridge] * d + [0]))
    return np.asarray(hessian)


@pytest.mark.parametrize("d", [40, 203])
def test_the_block_is_the_hessian_of_the_longest_axes(d: int) -> None:
    features, labels, rng = problem(n=3000, d=d)
    features[:, :64] *= 10  # where axes differ little in length, the longest are not one by one
    shared = SharedFeatures(features.astype(np.float32))
    share, mass = np.bincount(labels) / 3000, rng.integers(3, size=3000).astype(float)
    weights = rng.standard_normal((4, d + 1)) / 100
    weights -= weights.mean(axis=0)
    plain = Preconditioner.of_shares(shared, share, total=mass.sum(), ridge=2.0)
    refined = plain.with_block(shared, weights, mass=mass, ridge=2.0)
    assert refined.block is not None
    hessian = hessian_of(np.vstack(shared.by_row).astype(float), weights, mass, 2.0)
    width = len(refined.block) // 3 - 1
    longest = np.eye(d)[:, -width:] if shared.longest[1] is None else shared.longest[1][:, -width:]
    for _ in range(5):
        inner = rng.standard_normal((4, width + 1))
        inner -= inner.mean(axis=0)
        point = np.column_stack([inner[:, :-1] @ longest.T, inner[:, -1]])
        gradient = np.einsum("aibj,bj->ai", hessian, point)
        # Of the gradient, what lies along the block alone.
        along = np.column_stack([gradient[:, :-1] @ longest @ longest.T, gradient[:, -1]])
        np.testing.assert_allclose(refined.step(along), point, atol=0.02 * np.abs(point).max())


def test_a_step_is_the_inverse_of_what_shares_say_on_long_axes_and_definite() -> None:
    features, labels, rng = problem(n=1500, d=203)
    features[:, :3] *= 30
    shared = SharedFeatures(features.astype(np.float32))
    share = np.bincount(labels) / 1500
    own = Preconditioner.of_shares(shared, share, total=1200, ridge=2.0)
    assert shared.longest[1] is not None
    centred = features - features.mean(axis=0)
    spread = np.diag(share) - np.outer(share, share)
    direction = shared.longest[1][:, -1].astype(float)  # one of the three long ones
    by_class = rng.standard_normal(4)
    by_class -= by_class.mean()
    point = np.column_stack([np.outer(by_class, direction), np.zeros(4)])
    gradient = 0.8 * np.outer(spread @ by_class, centred.T @ (centred @ direction))
    gradient = np.column_stack([gradient + 2.0 * point[:, :-1], np.zeros(4)])
    np.testing.assert_allclose(own.step(gradient), point, atol=2e-3 * np.abs(point).max())
    for _ in range(20):
        gradient = rng.standard_normal((4, 204))
        gradient -= gradient.mean(axis=0)
        assert np.vdot(gradient, own.step(gradient)) > 0
        np.testing.assert_allclose(own.step(gradient).sum(axis=0), 0, atol=1e-6)


@pytest.mark.bits
@pytest.mark.parametrize(
    ("n", "d", "penalty"), [(2500, 40, 1.0), (2500, 203, 1.0), (1100, 1300, 0.01)]
)
def test_folds_do_not_touch_what_they_leave_out_and_no_company_changes_their_bits(
    n: int, d: int, penalty: float
) -> None:
    features, labels, rng = problem(n=n, d=d, k=7)
    folds = rng.integers(5, size=n)
    used = (folds != np.arange(5)[:, None]).astype(float)
    used = np.vstack([used, np.ones(n)])
    label_sets = np.array([labels] * 6)
    shared = SharedFeatures(features.astype(np.float32))
    options: Any = {"n_classes": 7, "penalties": penalty}
    together = fit_multinomial(shared, label_sets, **options, weights=used, threads=1)
    for own, objective in zip(used > 0, together.objective, strict=True):
        apart = fit_multinomial(features[own].astype(np.float32), labels[None, own], **options)
        # What is left of a fit is estimated: up to sixteen times the tolerance, 1e-8, was seen.
        assert objective == pytest.approx(apart.objective[0], rel=1.6e-7)
    for i in range(6):
        alone = fit_multinomial(shared, labels[None], **options, weights=used[[i]])
        np.testing.assert_array_equal(alone.coef[0], together.coef[i])
        other = np.where(used[i] > 0, labels, rng.integers(7, size=n))
        told = fit_multinomial(shared, other[None], **options, weights=used[[i]])
        np.testing.assert_array_equal(told.coef[0], together.coef[i])
    changed = np.where(rng.random(n) < 0.01, 0, labels)
    again = np.array([changed] * 6)
    warm = fit_multinomial(shared, again, **options, weights=used, start=together)
    cold = fit_multinomial(shared, again, **options, weights=used)
    np.testing.assert_allclose(warm.objective, cold.objective, rtol=1.6e-7)


def test_a_large_problem_keeps_no_memory_and_still_starts_another(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    features, labels, _ = problem(n=2500, d=40)
    monkeypatch.setattr(multinomial, "KEPT_SIZE", 4 * 2500 - 1)
    first = fit_multinomial(features, labels[None], n_classes=4)
    assert first.memory == (None,)
    again = fit_multinomial(features, labels[None], n_classes=4, start=first)
    assert again.n_evaluations[0] == 1


def test_a_stored_head_holds_neither_labels_nor_inverse_and_says_the_same() -> None:
    features, labels, _ = problem(n=1500, d=203)
    features = features.astype(np.float32)
    head = LinearHead(n_classes=4).fit(features, labels)
    stored = pickle.dumps(head)
    assert len(stored) < 2 * head.n_bytes
    again = pickle.loads(stored)
    np.testing.assert_array_equal(again.predict_proba(features), head.predict_proba(features))


def test_a_class_that_comes_or_goes_may_start_from_a_fit_without_it() -> None:
    features, labels, _ = problem()
    without = np.where(labels == 3, 0, labels)
    first = fit_multinomial(features, without[None], n_classes=4)
    grown = fit_multinomial(features, labels[None], n_classes=4, start=first)
    cold = fit_multinomial(features, labels[None], n_classes=4)
    np.testing.assert_allclose(grown.coef, cold.coef, atol=1e-4)
    shrunk = fit_multinomial(features, without[None], n_classes=4, start=cold)
    np.testing.assert_allclose(shrunk.coef, first.coef, atol=1e-4)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("penalty", [1e-6, 1.0, 1e6])
def test_stress_is_finite_and_converged_or_warned_of(penalty: float, dtype: type) -> None:
    features, labels, rng = problem(n=300, d=8)
    apart = features + 40 * np.eye(4, 8)[labels]
    twins = np.hstack([features, features, np.full((300, 3), 7.0), np.zeros((300, 1))])
    wide = rng.standard_normal((300, 700))
    weights = np.ones((1, 300))
    weights[0, labels == 2] = 0
    one_row = np.where(labels == 3, 0, labels)
    one_row[0] = 3
    for case, own, weight in (
        (apart, labels, None),
        (twins, labels, None),
        (wide, labels, None),
        (features, labels, weights),
        (features, one_row, None),
        (features * 1e-4, labels, None),
        (features * 1e4, labels, None),
    ):
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            fits = fit_multinomial(
                case.astype(dtype), own[None], n_classes=4, penalties=penalty, weights=weight
            )
        assert np.isfinite(fits.coef).all() and np.isfinite(fits.objective).all()
        assert fits.converged.all() or [w.category for w in caught] == [ConvergenceWarning]
        assert len(caught) == (not fits.converged.all())


def test_a_hundred_classes() -> None:
    features, labels, _ = problem(n=3000, d=120, k=100)
    fits = fit_multinomial(features.astype(np.float32), labels[None], n_classes=100, penalties=0.1)
    assert fits.converged.all()
    weights = np.ones((1, 3000))
    assert_as_good_as_scikit_learn(fits, features, labels[None], weights, np.array([0.1]))


def test_a_fit_that_stops_early_says_which_and_by_how_much() -> None:
    features, labels, _ = problem()
    with pytest.warns(ConvergenceWarning) as caught:
        fits = fit_multinomial(
            features, np.array([labels] * 2), n_classes=4, penalties=[1, 5], max_evaluations=3
        )
    assert not fits.converged.any()
    text = str(caught[0].message)
    assert text.startswith("2 of 2 logistic regressions (problem 0 first, C = 1) stopped above the")


def test_a_path_chooses_by_log_loss_on_validation() -> None:
    features, labels, _ = problem(n=400, d=40)
    path = fit_penalty_path(
        features[:60],
        labels[:60],
        n_classes=4,
        penalties=[1e-6, 0.1, 1e6],
        validation=(features[60:], labels[60:]),
    )
    assert path.best.C == 0.1 and path.best is path.heads[1]
    assert path.log_losses.argmin() == 1


@settings(max_examples=40)
@given(
    n=st.integers(8, 60),
    d=st.integers(1, 12),
    k=st.integers(3, 6),
    exponent=st.floats(-4, 3),
    seed=st.integers(0, 10_000),
)
def test_any_small_problem_is_as_good_as_scikit_learn(
    n: int, d: int, k: int, exponent: float, seed: int
) -> None:
    features, labels, rng = problem(n, d, k, seed=seed)
    labels[:3] = [0, 1, 2]
    weights = np.ones((2, n))
    weights[1, 3:] = rng.integers(3, size=n - 3)
    label_sets, penalties = np.array([labels] * 2), np.full(2, 10.0**exponent)
    fits = fit_multinomial(features, label_sets, n_classes=k, penalties=penalties, weights=weights)
    assert_as_good_as_scikit_learn(fits, features, label_sets, weights, penalties)


def test_input_that_is_no_problem_is_refused() -> None:
    features, labels, _ = problem(n=10)
    for options, message in (
        ({"labels": labels[None, :9]}, r"labels has shape \(1, 9\), expected \(p, 10\) of class"),
        ({"labels": labels[None] + 1.5}, "labels holds float64, expected integers"),
        ({"labels": labels[None] + 4}, "labels lies in 4 to 7, expected 0 to 3."),
        ({"penalties": 0}, "penalties holds 0, expected finite numbers above 0."),
        ({"weights": np.ones((1, 3))}, r"weights has shape \(1, 3\), expected \(1, 10\)."),
        ({"weights": -np.ones((1, 10))}, "weights holds negative, infinite or NaN values."),
        ({"weights": np.zeros((1, 10))}, "All weights of a problem are 0"),
    ):
        with pytest.raises(TrustqError, match=message):
            fit_multinomial(features, **({"labels": labels[None], "n_classes": 4} | options))
    features[3, 2] = np.nan
    with pytest.raises(TrustqError, match="features of 1 row hold NaN or infinite values."):
        fit_multinomial(features, labels[None], n_classes=4)


def test_folds_of_real_features_are_as_good_as_scikit_learns(shared_data: Path) -> None:
    file = np.load(shared_data / "ham10000_features" / "convnext_atto_64px.npz", allow_pickle=False)
    rows = np.flatnonzero(file["split"] == 0)[::8]
    features = file["features"][rows].astype(np.float32)
    features = (features - features.mean(axis=0)) / features.std(axis=0)
    labels = file["labels"][rows].astype(np.int64)
    fits = fit_multinomial(features, labels[None], n_classes=7, penalties=0.01)
    weights = np.ones((1, len(rows)))
    assert_as_good_as_scikit_learn(fits, features, labels[None], weights, np.array([0.01]))


@pytest.mark.parametrize("added", [1e-2, 1e4], ids=["factored in float64", "in float32"])
@pytest.mark.parametrize("d", [256, 300])
def test_the_inverse_of_a_gram_matrix_is_that_of_numpy_less_the_longest_axes(d, added):
    rng = np.random.default_rng(0)
    features = SharedFeatures(rng.standard_normal((700, d)).astype(np.float32))
    across, found = np.split(features.inverse(added), [len(features.longest[0])])
    centred = features.features.astype(np.float64) - features.center
    sizes, directions = (each.astype(np.float64) for each in features.longest)
    expected = np.linalg.inv(centred.T @ centred + added * np.eye(d))
    expected -= (directions / (sizes + added)) @ directions.T
    assert found.flags.c_contiguous and found.dtype == np.float32
    np.testing.assert_array_equal(across, features.longest[1].T)
    np.testing.assert_allclose(found, expected, rtol=0, atol=2e-4 * np.abs(expected).max())
