"""AURC conventions: against slow copies of their definitions, and peers' vectors."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trustq.errors import TrustqError
from trustq.metrics.aurc_conventions import AURC_CONVENTIONS, all_conventions, aurc_by
from trustq.metrics.selective import aurc

unhurried = settings(deadline=None)  # a busy machine is no failure


def geifman_code(wrong, confidence):
    """Geifman and El-Yaniv's loop: risk is divided by one more than the rows kept."""
    order = sorted(range(len(wrong)), key=lambda i: confidence[i])[::-1]
    n, errors, total = len(wrong), 0, 0.0
    for k in range(1, n):
        errors += wrong[order[k - 1]]
        total += errors / (k + 1)
    errors += wrong[order[-1]]
    return (total + errors / n) / n


def fd_shifts(wrong, confidence):
    """Points at every distinct threshold, the first one drawn out to coverage 0."""
    points = [
        (np.mean(confidence >= t), np.mean(wrong[confidence >= t]))
        for t in sorted(set(confidence.tolist()), reverse=True)
    ]
    points.insert(0, (0.0, points[0][1]))
    return sum(
        (c2 - c1) * (r1 + r2) / 2 for (c1, r1), (c2, r2) in zip(points, points[1:], strict=False)
    )


def torch_uncertainty(wrong, confidence):
    order = sorted(range(len(wrong)), key=lambda i: -confidence[i])
    n = len(order)
    risk = [np.mean(wrong[order[:k]]) for k in range(1, n + 1)]
    area = sum((r1 + r2) / (2 * n) for r1, r2 in zip(risk, risk[1:], strict=False))
    return area / (1 - 1 / n) if n > 1 else risk[0]


def trustquerynet(wrong, confidence):
    points = []
    for t in np.linspace(0, 1, 101):
        kept = confidence >= t
        points.append((kept.mean(), wrong[kept].mean() if kept.any() else 0.0))
    points = points[::-1]  # thresholds rise, so coverage falls: this is ascending
    return sum(
        (c2 - c1) * (r1 + r2) / 2 for (c1, r1), (c2, r2) in zip(points, points[1:], strict=False)
    )


def exact(wrong, confidence):
    total, kept, errors = 0.0, 0, 0
    for value in sorted(set(confidence.tolist()), reverse=True):
        block = wrong[confidence == value]
        m, s = len(block), block.sum()
        total += sum((errors + s * j / m) / (kept + j) for j in range(1, m + 1))
        kept, errors = kept + m, errors + s
    return total / kept


SLOW = {
    "exact": exact,
    "geifman-code": geifman_code,
    "fd-shifts": fd_shifts,
    "torch-uncertainty": torch_uncertainty,
    "trustquerynet": trustquerynet,
}


@pytest.mark.parametrize("convention", AURC_CONVENTIONS)
@pytest.mark.parametrize("decimals", [16, 2, 0])
@pytest.mark.parametrize("n", [1, 2, 17, 400])
def test_each_convention_equals_its_slow_definition(convention, decimals, n):
    rng = np.random.default_rng([n, decimals])
    for _ in range(5):
        confidence = rng.random(n).round(decimals)
        wrong = rng.random(n) > confidence
        expected = SLOW[convention](wrong, confidence)
        assert aurc_by(convention, wrong, confidence) == pytest.approx(expected, abs=1e-9)


@unhurried
@given(st.lists(st.tuples(st.booleans(), st.integers(0, 9)), min_size=1, max_size=30))
def test_exact_and_fd_shifts_ignore_the_order_of_rows(drawn):
    wrong, confidence = np.array(drawn).T
    wrong, rows = wrong.astype(bool), np.random.default_rng(0).permutation(len(drawn))
    for convention in ("exact", "fd-shifts"):
        once, shuffled = (aurc_by(convention, wrong[r], confidence[r] / 9) for r in (..., rows))
        assert shuffled == pytest.approx(once, abs=1e-12)


def test_conventions_without_ties_agree_to_the_order_of_one_row():
    rng = np.random.default_rng(2)
    confidence = rng.random(20_000)
    areas = all_conventions(rng.random(20_000) > confidence, confidence)
    assert list(areas) == list(AURC_CONVENTIONS)
    assert max(areas.values()) - min(areas.values()) < 1e-2
    del areas["trustquerynet"]  # its thresholds lump confidences together
    assert max(areas.values()) - min(areas.values()) < 1e-3


def test_vectors_of_fd_shifts():
    alternating = np.arange(100) % 2 == 0
    constant = aurc_by("fd-shifts", alternating, np.full(100, 0.5))
    assert constant == pytest.approx(0.5, abs=1e-10)
    # Their oracle is that of infinitely many rows.
    err = 0.5
    oracle = err + (1 - err) * math.log(1 - err)
    assert constant - oracle == pytest.approx(0.3465735903, abs=1e-10)
    ascending = aurc_by("fd-shifts", alternating, np.arange(100) / 100)
    assert ascending == pytest.approx(0.4828111258, abs=1e-10)


def test_vector_of_torch_uncertainty():
    p = np.array([0.1, 0.2, 0.3, 0.4, 0.2])
    wrong = (p > 0.5) != np.array([0, 0, 1, 1, 0])
    area = aurc_by("torch-uncertainty", wrong, np.maximum(p, 1 - p))
    assert area == pytest.approx(0.1125, abs=1e-12)


def test_vector_of_mapie():
    area = aurc_by("exact", np.array([1, 1, 0, 0]), -np.array([0.9, 0.8, 0.2, 0.1]))
    assert 1 - area == pytest.approx(0.7916667, abs=1e-7)


def test_reference_values_on_public_predictions(shared_data):
    with np.load(shared_data / "predictions_cifar" / "wideresnet-16-4-cifar-10.npz") as stored:
        labels, probs = stored["ground_truth"], stored["predictions"]
    wrong, confidence = probs.argmax(axis=1) != labels, probs.max(axis=1).astype(float)
    expected = {
        "exact": 0.012710,
        "geifman-code": 0.012638,
        "fd-shifts": 0.012705,
        "torch-uncertainty": 0.012745,
        "trustquerynet": 0.015341,
    }
    assert all_conventions(wrong, confidence) == pytest.approx(expected, abs=5e-7)
    untied = np.empty(len(wrong))
    untied[np.argsort(-confidence, kind="stable")] = -np.arange(len(wrong))
    assert aurc(wrong, untied) == pytest.approx(0.012748, abs=5e-7)


def test_bad_input_is_refused():
    with pytest.raises(TrustqError) as error:
        aurc_by("mean", np.array([0, 1]), np.array([0.5, 0.6]))
    assert str(error.value) == (
        "convention is 'mean': expected one of exact, geifman-code, fd-shifts, "
        "torch-uncertainty, trustquerynet."
    )
    with pytest.raises(TrustqError) as error:
        aurc_by("trustquerynet", np.array([0, 1]), np.array([0.5, 6.0]))
    assert str(error.value) == (
        "confidence lies in [0.5, 6], but convention trustquerynet has thresholds from 0 to 1: "
        "pass the maximum probability."
    )
