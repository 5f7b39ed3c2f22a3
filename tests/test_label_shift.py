"""Label shift: known class frequencies are recovered, and figures corrected for them."""

import re

import numpy as np
import pytest

from trustq.errors import TrustqError
from trustq.external import external_report
from trustq.label_shift import (
    bbse_frequencies,
    corrected_probs,
    em_frequencies,
    reweighted_figures,
)
from trustq.metrics import expected_calibration_error

INSIDE = np.array([0.6, 0.3, 0.1])
OUTSIDE = np.array([0.2, 0.2, 0.6])
MEANS = 1.3 * np.eye(3)


def simulated(frequencies, n, seed):
    """Gaussian classes, and the exact posterior of a model that knows INSIDE."""
    rng = np.random.default_rng(seed)
    labels = rng.choice(3, size=n, p=frequencies)
    points = rng.standard_normal((n, 3)) + MEANS[labels]
    logits = points @ MEANS.T - (MEANS**2).sum(axis=1) / 2 + np.log(INSIDE)
    scores = np.exp(logits - logits.max(axis=1, keepdims=True))
    return labels, scores / scores.sum(axis=1, keepdims=True)


def refused(message):
    return pytest.raises(TrustqError, match=f"^{re.escape(message)}$")


@pytest.mark.parametrize("frequencies", [OUTSIDE, INSIDE, np.array([0.0, 0.5, 0.5])])
def test_both_ways_recover_known_frequencies(frequencies):
    labels, probs = simulated(INSIDE, 20_000, 0)
    _, outside = simulated(frequencies, 20_000, 1)
    assert em_frequencies(outside, INSIDE) == pytest.approx(frequencies, abs=0.02)
    assert bbse_frequencies(labels, probs, outside) == pytest.approx(frequencies, abs=0.02)


def test_bbse_needs_no_calibrated_probabilities_and_em_does():
    labels, probs = simulated(INSIDE, 20_000, 0)
    _, outside = simulated(OUTSIDE, 20_000, 1)

    def overconfident(p):
        return p**3 / (p**3).sum(axis=1, keepdims=True)

    by_bbse = bbse_frequencies(labels, overconfident(probs), overconfident(outside))
    by_em = em_frequencies(overconfident(outside), INSIDE)
    assert by_bbse == pytest.approx(OUTSIDE, abs=0.03)
    assert np.abs(by_em - OUTSIDE).max() > np.abs(by_bbse - OUTSIDE).max()


def test_corrected_probabilities_are_the_posterior_under_the_new_frequencies():
    labels, probs = simulated(OUTSIDE, 40_000, 2)
    corrected = corrected_probs(probs, INSIDE, OUTSIDE)
    assert corrected.sum(axis=1) == pytest.approx(np.ones(len(labels)))
    assert expected_calibration_error(labels, probs) > 0.1
    assert expected_calibration_error(labels, corrected) < 0.015
    right = [(p.argmax(axis=1) == labels).mean() for p in (probs, corrected)]
    assert right[1] > right[0] + 0.1
    assert corrected_probs(probs, INSIDE, INSIDE) == pytest.approx(probs)


def test_reweighted_figures_are_those_of_the_inside_frequencies():
    outside = simulated(OUTSIDE, 60_000, 3)
    labels, probs = simulated(INSIDE, 60_000, 4)
    found = reweighted_figures(*outside, INSIDE)
    assert found.accuracy == pytest.approx((probs.argmax(axis=1) == labels).mean(), abs=0.01)
    own = probs[np.arange(len(labels)), labels]
    assert found.nll == pytest.approx(-np.log(own).mean(), abs=0.02)
    assert found.ece == pytest.approx(expected_calibration_error(labels, probs), abs=0.015)
    assert found.absent == ()


def test_equal_weights_change_nothing_and_absent_classes_are_named():
    labels, probs = simulated(INSIDE, 500, 5)
    own = np.bincount(labels, minlength=3) / len(labels)
    found = reweighted_figures(labels, probs, own)
    assert found.accuracy == pytest.approx((probs.argmax(axis=1) == labels).mean())
    assert found.ece == pytest.approx(expected_calibration_error(labels, probs))
    some = labels != 2
    assert reweighted_figures(labels[some], probs[some], INSIDE).absent == (2,)
    with refused("No row is of a class that is wanted, so none has a weight."):
        reweighted_figures(labels[labels == 0], probs[labels == 0], np.array([0.0, 0.5, 0.5]))


def test_a_class_never_seen_inside_stays_at_zero():
    probs = np.array([[0.7, 0.3, 0.0], [0.2, 0.8, 0.0]])
    inside = np.array([0.5, 0.5, 0.0])
    assert em_frequencies(probs, inside)[2] == 0
    assert corrected_probs(probs, inside, np.array([0.3, 0.3, 0.4]))[:, 2].tolist() == [0, 0]


def test_what_cannot_be_estimated_is_refused():
    probs = np.full((4, 2), 0.5)
    with refused(
        "The inside rows must have every class of the 2 and the outside probabilities 2 columns; "
        "found no row of class 1 and 2 columns."
    ):
        bbse_frequencies(np.zeros(4, int), probs, probs)
    with refused("The confusion matrix has no inverse: two classes are predicted alike. Use EM."):
        bbse_frequencies(np.array([0, 1, 0, 1]), probs, probs)
    with refused(
        "Class frequencies must be 2 numbers >= 0 that sum to 1; found (2,) that sum to 1.1."
    ):
        em_frequencies(probs, np.array([0.5, 0.6]))


def test_an_external_report_parts_changed_frequencies_from_changed_images():
    labels, probs = simulated(INSIDE, 8_000, 6)
    outside, outside_probs = simulated(OUTSIDE, 8_000, 7)
    classes = ("a", "b", "c")
    given = {
        "validation_labels": labels,
        "validation_logits": np.log(probs),
        "frequencies": INSIDE,
        "classes": classes,
    }
    found = external_report(outside, np.log(outside_probs), **given)
    plain, em = found.stages["internal_temperature"], found.stages["em"]
    assert em["accuracy"] > plain["accuracy"] + 0.1 and em["ece"] < plain["ece"] / 3
    inside = (probs.argmax(axis=1) == labels).mean()
    # Only the frequencies changed: at those of inside nothing is lost.
    assert found.stages["reweighted"]["accuracy"] == pytest.approx(inside, abs=0.02)
    assert found.frequencies["em"] == pytest.approx(OUTSIDE, abs=0.03)
    assert found.temperatures["internal"] == pytest.approx(1.0, abs=0.05)
    # Blurred logits stand for other images: what is lost stays lost.
    rng = np.random.default_rng(8)
    blurred = np.log(outside_probs) + 2 * rng.standard_normal(outside_probs.shape)
    shifted = external_report(outside, blurred, **given)
    assert shifted.stages["reweighted"]["accuracy"] < inside - 0.05
    assert shifted.temperatures["external"] > 1.5
    some = outside != 1
    few = external_report(outside[some], np.log(outside_probs[some]), **given)
    assert few.absent == ("b",) and few.recall["b"] is None


def test_weighted_rows_fall_into_the_same_bins_as_copied_ones():
    # The second confidence is the next number above an edge, where rounding moved a row.
    top = np.array([0.7, np.nextafter(11 / 15, 1), 0.72, 0.9])
    probs, labels = np.column_stack([top, 1 - top]), np.array([1, 0, 1, 0])
    copies = np.array([1, 3, 1, 3, 1, 3, 0, 2])
    expected = expected_calibration_error(labels[copies], probs[copies])
    found = reweighted_figures(labels, probs, np.array([0.75, 0.25])).ece
    assert found == pytest.approx(expected)
