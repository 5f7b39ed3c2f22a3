"""Calibration errors: against slow definitions, and what they must be where the truth is known."""

import numpy as np
import pytest

from trustq.metrics.calibration_error import CONVENTIONS, calibration_errors
from trustq.metrics.classification import expected_calibration_error
from trustq.metrics.probabilities import log_softmax, softmax


def simulated(n=2000, k=4, seed=0, temperature=1.0):
    """Labels drawn from softmax(logits); the stated probabilities are sharper by `temperature`."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(size=(n, k)) * 2
    labels = (log_softmax(logits) + rng.gumbel(size=(n, k))).argmax(axis=1)
    return labels, softmax(logits / temperature)


def binned(right, values, edges):
    total, worst, debiased = 0.0, 0.0, 0.0
    for low, high in zip(edges, edges[1:], strict=False):
        inside = (values > low) & (values <= high)
        m = inside.sum()
        if m:
            y, gap = right[inside].mean(), right[inside].mean() - values[inside].mean()
            total += m * abs(gap)
            worst = max(worst, abs(gap))
            debiased += m * (gap**2 - y * (1 - y) / max(m - 1, 1))
    return total / len(values), worst, debiased / len(values)


def test_a_class_that_nobody_has_or_predicts_changes_no_top_label_error():
    # netcal judges another probability of two classes: findings/netcal-ece-of-two-classes.sh.
    labels, probs = simulated(k=2, temperature=0.5)
    found = calibration_errors(labels, probs)
    more = calibration_errors(labels, np.column_stack([probs, np.zeros(len(probs))]))
    changed = {name for name in found if more[name] != pytest.approx(found[name], abs=1e-12)}
    assert changed == {"ece_classwise"}


@pytest.mark.parametrize("decimals", [1, 12])
def test_binned_errors_equal_loops_over_their_bins(decimals):
    labels, probs = simulated(temperature=0.5)
    probs = probs.round(decimals) + 1e-4
    probs /= probs.sum(axis=1, keepdims=True)
    right, top = (probs.argmax(axis=1) == labels).astype(float), probs.max(axis=1)
    found = calibration_errors(labels, probs)
    assert list(found) == list(CONVENTIONS)
    width = np.append(-1, np.arange(1, 16) / 15)
    ece, mce, _ = binned(right, top, width)
    assert found["ece"] == pytest.approx(ece, abs=1e-12)
    assert found["ece"] == pytest.approx(expected_calibration_error(labels, probs), abs=1e-12)
    assert found["mce"] == pytest.approx(mce, abs=1e-12)
    ordered = np.sort(top)
    mass = np.unique(np.concatenate([[-1], [ordered[2000 * j // 15 - 1] for j in range(1, 16)]]))
    equal_mass, _, debiased = binned(right, top, mass)
    assert found["ece_equal_mass"] == pytest.approx(equal_mass, abs=1e-12)
    assert found["ece_debiased_l2_squared"] == pytest.approx(debiased, abs=1e-12)
    classwise = [binned((labels == c).astype(float), probs[:, c], width)[0] for c in range(4)]
    assert found["ece_classwise"] == pytest.approx(np.mean(classwise), abs=1e-12)


def test_smooth_ece_equals_a_sum_of_reflected_kernels():
    labels, probs = simulated(n=300, temperature=0.4)
    right, top = (probs.argmax(axis=1) == labels).astype(float), probs.max(axis=1)
    grid = (np.arange(2000) + 0.5) / 2000

    def smoothed(s):
        images = [2 * m + sign * top for m in range(-3, 4) for sign in (1, -1)]
        kernel = sum(np.exp(-((grid[:, None] - at) ** 2) / (2 * s * s)) for at in images)
        return np.abs((kernel / (s * np.sqrt(2 * np.pi))) @ (right - top) / 300).mean()

    found = calibration_errors(labels, probs)["smooth_ece"]
    assert found == pytest.approx(smoothed(found), abs=1e-3)


def test_the_debiased_error_of_calibrated_probabilities_is_zero_on_average():
    found = [calibration_errors(*simulated(n=300, seed=seed)) for seed in range(60)]
    debiased = np.array([errors["ece_debiased_l2_squared"] for errors in found])
    assert abs(debiased.mean()) < 3 * debiased.std() / np.sqrt(60)
    # The plain one never averages 0.
    assert np.mean([errors["ece"] for errors in found]) > 0.03


def test_overconfidence_raises_every_error():
    calm, sharp = (calibration_errors(*simulated(temperature=t)) for t in (1.0, 0.3))
    for name in CONVENTIONS:
        assert sharp[name] > calm[name]


def test_row_order_changes_nothing_and_one_row_has_every_error():
    labels, probs = simulated(n=200)
    rows = np.random.default_rng(0).permutation(200)
    shuffled = calibration_errors(labels[rows], probs[rows])
    assert shuffled == pytest.approx(calibration_errors(labels, probs), abs=1e-9)
    one = calibration_errors(np.array([0]), np.array([[0.75, 0.25]]))
    for name in ("ece", "ece_equal_mass", "mce", "ece_classwise"):
        assert one[name] == pytest.approx(0.25)
    assert one["smooth_ece"] == pytest.approx(0.25, abs=0.01)
    assert calibration_errors(np.array([0]), np.array([[1.0, 0.0]]))["smooth_ece"] == 0.0
