"""Selective figures: against slow loops, published vectors and what must hold for any input."""

from itertools import permutations
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score

from trustq.errors import TrustqError
from trustq.metrics.probabilities import logits_from_probs, softmax
from trustq.metrics.selective import (
    augrc,
    aurc,
    coverage_at,
    coverage_at_risk,
    e_aurc,
    log_odds_confidence,
    max_probability,
    risk_at,
    risk_at_coverage,
    risk_coverage_curve,
    thin_curve,
)

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"
needs_shared = pytest.mark.skipif(
    not (SHARED / "predictions_cifar").is_dir(), reason=f"no {SHARED}/predictions_cifar"
)
unhurried = settings(deadline=None)  # a busy machine is no failure

# A few distinct confidences, so that ties are common.
rows = st.lists(st.tuples(st.booleans(), st.sampled_from([0.1, 0.4, 0.5, 0.9])), min_size=1)


def arrays(drawn):
    wrong, confidence = zip(*drawn, strict=True)
    return np.array(wrong), np.array(confidence)


def simulated(n=500, decimals=2, seed=0):
    rng = np.random.default_rng(seed)
    confidence = rng.random(n).round(decimals)
    return rng.random(n) > 0.4 + 0.6 * confidence, confidence


def aurc_by_loop(wrong):
    """Mean risk of the first k rows, in the order given."""
    return np.mean([np.mean(wrong[:k]) for k in range(1, len(wrong) + 1)])


@pytest.mark.parametrize("seed", range(6))
def test_aurc_is_the_mean_over_every_order_of_ties(seed):
    rng = np.random.default_rng(seed)
    wrong, confidence = rng.random(7) < 0.5, rng.integers(0, 3, 7) / 4
    areas = [
        aurc_by_loop(wrong[list(order)])
        for order in permutations(range(7))
        if np.all(np.diff(confidence[list(order)]) <= 0)
    ]
    assert aurc(wrong, confidence) == pytest.approx(np.mean(areas), abs=1e-14)


def test_aurc_without_ties_equals_the_harmonic_formula():
    rng = np.random.default_rng(1)
    wrong, confidence = rng.random(300) < 0.3, rng.permutation(300)
    harmonic = np.concatenate([[0], np.cumsum(1 / np.arange(1, 301))])
    ranked = wrong[np.argsort(-confidence)]
    expected = np.sum(ranked * (harmonic[300] - harmonic[:300])) / 300
    assert aurc(wrong, confidence) == pytest.approx(expected, abs=1e-14)
    assert aurc(wrong, confidence) == pytest.approx(aurc_by_loop(ranked), abs=1e-14)


def test_aurc_with_ties_equals_the_block_formula():
    wrong, confidence = simulated()
    total, kept, errors = 0.0, 0, 0
    for value in np.unique(confidence)[::-1]:
        block = wrong[confidence == value]
        m, s = len(block), block.sum()
        total += sum((errors + s * j / m) / (kept + j) for j in range(1, m + 1))
        kept, errors = kept + m, errors + s
    assert aurc(wrong, confidence) == pytest.approx(total / kept, abs=1e-14)


@unhurried
@given(rows)
def test_augrc_equals_its_auroc_form(drawn):
    wrong, confidence = arrays(drawn)
    err = wrong.mean()
    auroc = roc_auc_score(~wrong, confidence) if 0 < err < 1 else 0.0
    expected = (1 - auroc) * err * (1 - err) + err**2 / 2
    assert augrc(wrong, confidence) == pytest.approx(expected, abs=1e-12)


@unhurried
@given(rows, st.randoms(use_true_random=False))
def test_row_order_changes_nothing(drawn, random):
    shuffled = random.sample(drawn, len(drawn))
    for figure in (aurc, e_aurc, augrc):
        assert figure(*arrays(shuffled)) == figure(*arrays(drawn))


@unhurried
@given(rows)
def test_monotone_maps_of_the_confidence_change_no_area(drawn):
    wrong, confidence = arrays(drawn)
    for mapped in (np.log(confidence), 7 * confidence - 3, confidence**3):
        assert aurc(wrong, mapped) == aurc(wrong, confidence)
        assert augrc(wrong, mapped) == augrc(wrong, confidence)


@unhurried
@given(rows)
def test_areas_keep_their_bounds(drawn):
    wrong, confidence = arrays(drawn)
    err = wrong.mean()
    assert err**2 / 2 - 1e-12 <= augrc(wrong, confidence) <= err - err**2 / 2 + 1e-12
    assert 0 <= aurc(wrong, confidence) <= 1
    assert -1e-12 <= e_aurc(wrong, confidence) <= aurc(wrong, confidence)


@unhurried
@given(st.lists(st.booleans(), min_size=1))
def test_an_oracle_confidence_reaches_the_oracle(drawn):
    wrong = np.array(drawn)
    confidence = np.where(wrong, 0.0, 1.0) + np.arange(len(wrong)) / (2 * len(wrong))
    n, n_wrong = len(wrong), wrong.sum()
    tail = np.sum(1 / np.arange(n - n_wrong + 1, n + 1))
    oracle = (n_wrong - (n - n_wrong) * tail) / n
    assert e_aurc(wrong, confidence) == 0.0
    assert aurc(wrong, confidence) == pytest.approx(oracle, abs=1e-12)
    assert augrc(wrong, confidence) == pytest.approx((n_wrong / n) ** 2 / 2, abs=1e-12)


@unhurried
@given(st.lists(st.booleans(), min_size=1))
def test_a_constant_confidence_gives_err_and_half_of_it(drawn):
    wrong = np.array(drawn)
    constant = np.full(len(wrong), 0.7)
    assert aurc(wrong, constant) == pytest.approx(wrong.mean(), abs=1e-12)
    assert augrc(wrong, constant) == pytest.approx(wrong.mean() / 2, abs=1e-12)


def test_all_right_and_all_wrong_have_their_areas():
    confidence = np.array([0.2, 0.4, 0.9])
    assert aurc(np.zeros(3, bool), confidence) == augrc(np.zeros(3, bool), confidence) == 0.0
    assert aurc(np.ones(3, bool), confidence) == 1.0
    assert augrc(np.ones(3, bool), confidence) == 0.5
    assert e_aurc(np.ones(3, bool), confidence) == 0.0


def test_vectors_of_fd_shifts():
    alternating = np.arange(100) % 2 == 0
    assert aurc(alternating, np.full(100, 0.5)) == pytest.approx(0.5, abs=1e-12)
    assert augrc(alternating, np.full(100, 0.5)) == pytest.approx(0.25, abs=1e-12)
    assert augrc(alternating, np.arange(100) / 100) == pytest.approx(0.2475, abs=1e-12)


def test_vector_of_mapie():
    area = aurc(np.array([1, 1, 0, 0]), -np.array([0.9, 0.8, 0.2, 0.1]))
    assert 1 - area == pytest.approx(0.7916667, abs=1e-7)


@needs_shared
@pytest.mark.parametrize(
    ("network", "expected_augrc", "expected_aurc"),
    [("wideresnet-16-4", 0.010885, 0.012710), ("lenet-5", 0.174318, None)],
)
def test_reference_areas_on_public_predictions(network, expected_augrc, expected_aurc):
    with np.load(SHARED / "predictions_cifar" / f"{network}-cifar-10.npz") as stored:
        labels, probs = stored["ground_truth"], stored["predictions"]
    wrong, confidence = probs.argmax(axis=1) != labels, max_probability(probs)
    assert augrc(wrong, confidence) == pytest.approx(expected_augrc, abs=5e-7)
    if expected_aurc is not None:
        assert aurc(wrong, confidence) == pytest.approx(expected_aurc, abs=5e-7)
        assert np.count_nonzero(confidence == 1) == 2469


@unhurried
@given(rows, st.sampled_from([0.0, 0.1, 0.3, 0.5, 0.9]))
def test_the_curve_passes_through_every_threshold(drawn, threshold):
    wrong, confidence = arrays(drawn)
    curve = risk_coverage_curve(wrong, confidence)
    assert np.all(np.diff(curve.threshold) < 0) and np.all(np.diff(curve.coverage) > 0)
    assert curve.coverage[-1] == 1 and curve.risk[-1] == pytest.approx(wrong.mean())
    for coverage, risk, at in zip(*curve, strict=True):
        assert coverage_at(confidence, threshold=at) == pytest.approx(coverage)
        assert risk_at(wrong, confidence, threshold=at) == pytest.approx(risk)
    kept = confidence >= threshold
    assert coverage_at(confidence, threshold=threshold) == kept.mean()


def test_an_empty_selection_has_no_risk_and_no_coverage():
    assert coverage_at(np.array([0.2, 0.3]), threshold=0.5) == 0.0
    assert np.isnan(risk_at(np.array([True, False]), np.array([0.2, 0.3]), threshold=0.5))


def test_log_odds_order_rows_as_probabilities_do():
    logits = np.random.default_rng(2).normal(size=(200, 7)) * 4
    confidence, top = log_odds_confidence(logits), softmax(logits).max(axis=1)
    assert np.array_equal(np.argsort(confidence), np.argsort(top))
    assert confidence == pytest.approx(np.log(top / (1 - top)), rel=1e-6)


def test_log_odds_tell_rows_apart_where_softmax_is_one():
    logits = np.array([[60.0, 0.0, 0.0], [50.0, 0.0, 0.0], [900.0, 0.0, 0.0]])
    assert np.all(softmax(logits).max(axis=1) == 1)
    assert log_odds_confidence(logits) == pytest.approx(
        np.array([60, 50, 900]) - np.log(2), rel=1e-15
    )


def test_log_odds_ignore_class_order_and_shifts():
    rng = np.random.default_rng(3)
    logits = rng.normal(size=(100, 7))
    confidence = log_odds_confidence(logits)
    assert np.array_equal(log_odds_confidence(logits[:, rng.permutation(7)]), confidence)
    assert log_odds_confidence(logits + 100) == pytest.approx(confidence, abs=1e-12)
    log_probs = logits_from_probs(softmax(logits))
    assert log_odds_confidence(log_probs) == pytest.approx(confidence, abs=1e-12)


@pytest.mark.parametrize(
    ("wrong", "confidence", "message"),
    [
        ([], [], "confidence is empty: pass at least one row."),
        (
            [1, 0],
            [0.5, np.nan],
            "confidence is NaN in 1 of 2 rows: leave these rows out.",
        ),
        (
            [1, 0],
            [0.5],
            "wrong has shape (2,) and confidence (1,): pass the same rows in the same order.",
        ),
        (
            [0, 2],
            [0.5, 0.6],
            "wrong holds values other than 0 and 1: pass predicted != labels, not a loss.",
        ),
        (
            [[1], [0]],
            [[0.5], [0.6]],
            "confidence has shape (2, 1), expected (n,): pass one number per row.",
        ),
    ],
)
def test_bad_rows_are_refused(wrong, confidence, message):
    for figure in (aurc, e_aurc, augrc, risk_coverage_curve):
        with pytest.raises(TrustqError) as error:
            figure(np.array(wrong), np.array(confidence))
        assert str(error.value) == message


@unhurried
@given(rows, st.sampled_from([0.0, 0.2, 0.5, 1.0]))
def test_coverage_at_risk_is_the_largest_selection_that_keeps_it(drawn, risk):
    wrong, confidence = arrays(drawn)
    found = coverage_at_risk(wrong, confidence, risk=risk)
    selections = [(np.mean(confidence >= t), wrong[confidence >= t].mean()) for t in confidence]
    passing = [c for c, r in selections if r <= risk + 1e-12]
    assert found.coverage == pytest.approx(max(passing, default=0.0))
    if passing:
        assert found.risk == risk_at(wrong, confidence, threshold=found.threshold) <= risk + 1e-12
    else:
        assert found.threshold == np.inf and np.isnan(found.risk)


@unhurried
@given(rows, st.sampled_from([0.0, 0.2, 0.5, 0.7, 1.0]))
def test_risk_at_coverage_is_that_of_the_smallest_selection_that_covers_it(drawn, coverage):
    wrong, confidence = arrays(drawn)
    found = risk_at_coverage(wrong, confidence, coverage=coverage)
    selections = [np.mean(confidence >= t) for t in confidence]
    assert found.coverage == min(c for c in selections if c >= coverage - 1e-9)
    assert found.risk == risk_at(wrong, confidence, threshold=found.threshold)


def test_a_thinned_curve_is_part_of_the_curve_and_keeps_its_ends():
    wrong, confidence = simulated(decimals=9)
    curve = risk_coverage_curve(wrong, confidence)
    thin = thin_curve(curve, points=50)
    assert 40 <= len(thin.coverage) <= 50
    points = set(zip(*curve, strict=True))
    assert set(zip(*thin, strict=True)) <= points
    assert thin.coverage[0] == curve.coverage[0] and thin.coverage[-1] == 1
    assert thin_curve(curve, points=10_000) is curve


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda w, c: coverage_at_risk(w, c, risk=5),
            "risk is 5, expected a share between 0 and 1: pass 0.05.",
        ),
        (
            lambda w, c: risk_at_coverage(w, c, coverage=-0.1),
            "coverage is -0.1, expected a share between 0 and 1: pass 0.05.",
        ),
        (
            lambda w, c: thin_curve(risk_coverage_curve(w, c), points=1),
            "points is 1, expected at least 2: a curve has two ends.",
        ),
    ],
)
def test_bad_shares_are_refused(call, message):
    with pytest.raises(TrustqError) as error:
        call(np.array([0, 1]), np.array([0.5, 0.6]))
    assert str(error.value) == message
