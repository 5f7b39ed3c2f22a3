"""Label shift: known class frequencies are recovered, and figures corrected for them."""

import re
from dataclasses import replace

import numpy as np
import pytest
from support import make_cache

from trustq.errors import TrustqError
from trustq.evaluation.shift_stages import STAGES, shift_figures
from trustq.experiments import repair
from trustq.metrics.classification import expected_calibration_error, summarise
from trustq.metrics.label_shift import (
    bbse_frequencies,
    corrected_probs,
    em_frequencies,
    reweighted_figures,
)
from trustq.metrics.probabilities import softmax
from trustq.recipes import load_recipe
from trustq.report import repair_table
from trustq.report.page import write_report
from trustq.results import run_query

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


@pytest.mark.parametrize("k", [2, 5, 11])
def test_newton_ends_where_expectation_maximisation_does(k):
    rng = np.random.default_rng(k)
    inside = rng.dirichlet(np.ones(k))
    inside[0] = 0.0
    inside /= inside.sum()
    for scale in (0.3, 3.0, 30.0):  # the last has probabilities of 0 and 1
        logits = scale * rng.standard_normal((150, k))
        probs = np.exp(logits - logits.max(axis=1, keepdims=True))
        probs /= probs.sum(axis=1, keepdims=True)
        ratio = probs[:, 1:] / inside[1:]
        ratio = ratio[ratio.sum(axis=1) > 0]
        slow = inside[1:].copy()
        for _ in range(4_000):
            slow *= (ratio / (ratio @ slow)[:, None]).mean(axis=0)
        found = em_frequencies(probs, inside)
        assert found[0] == 0 and found.sum() == pytest.approx(1)
        likelihood = [float(np.log(ratio @ f).mean()) for f in (found[1:], slow)]
        assert likelihood[0] >= likelihood[1] - 1e-12
        if scale < 30:  # there the maximum is one point
            assert found[1:] == pytest.approx(slow, abs=1e-4)


def test_shift_figures_part_changed_frequencies_from_changed_images():
    labels, probs = simulated(INSIDE, 8_000, 6)
    outside, outside_probs = simulated(OUTSIDE, 8_000, 7)
    inside = {"inside_labels": labels, "inside_calibrated": probs}
    found = shift_figures(outside, outside_probs, logits=np.log(outside_probs), **inside)
    assert list(found.stages) == list(STAGES)
    plain = summarise(outside, probs=outside_probs).figures
    for stage in ("em_corrected", "bbse_corrected"):
        assert found.stages[stage]["accuracy"] > plain["accuracy"] + 0.1
        assert found.stages[stage]["ece"] < plain["ece"] / 3
    right = (probs.argmax(axis=1) == labels).mean()
    # Only the frequencies changed: at those of inside nothing is lost.
    assert found.stages["reweighted"]["accuracy"] == pytest.approx(right, abs=0.02)
    assert found.frequencies["em"] == pytest.approx(OUTSIDE, abs=0.03)
    # Blurred logits stand for other images: what is lost stays lost.
    rng = np.random.default_rng(8)
    blurred = np.log(outside_probs) + 2 * rng.standard_normal(outside_probs.shape)
    shifted = shift_figures(outside, softmax(blurred), logits=blurred, **inside)
    assert shifted.stages["reweighted"]["accuracy"] < right - 0.05
    assert shifted.temperature > 1.5
    bound = shifted.stages["oracle_temperature"]["nll"]
    assert bound < summarise(outside, logits=blurred).figures["nll"]


def test_what_shift_figures_cannot_have_is_left_out_and_said():
    labels, probs = simulated(INSIDE, 500, 6)
    outside, outside_probs = simulated(OUTSIDE, 500, 7)
    some, few = labels != 2, outside == 2
    found = shift_figures(
        outside[few],
        outside_probs[few],
        logits=np.log(outside_probs[few]),
        inside_labels=labels[some],
        inside_calibrated=probs[some],
    )
    assert found.absent == (0, 1)
    assert list(found.stages) == ["oracle_temperature", "em_corrected"]
    assert found.notes == (
        "oracle_temperature: every fitting row has label 2 (T = 6.43489, 308 rows).",
        "bbse_corrected is left out. The inside rows must have every class of the 3 and the "
        "outside probabilities 3 columns; found no row of class 2 and 3 columns.",
        "reweighted is left out: no outside row is of a class that is inside.",
    )


def test_a_repair_records_what_shift_does_to_its_external_sets(tmp_path):
    network = {"weights_digest": "w"}
    cache = replace(make_cache(n=400), **network)
    split = np.array(["external"] * 300)
    same = replace(make_cache(n=300, seed=9, dataset="same", split=split), **network)
    kept = np.flatnonzero(same.label != 1)
    rows = ("sample_id", "group_id", "label", "split", "features", "seen", "observed", "trusted")
    few = {name: getattr(same, name)[kept] for name in rows}
    few["sample_id"] = np.char.add("few", few["sample_id"])
    lacking = replace(same, dataset="lacking", content_digest="other", logits=None, **few)
    settings = ["arms=none,random", "budgets=20", "rounds=2", "references=false"]
    recipe = load_recipe(settings=["sweep.noise=symmetric:0.2", "regularisation=0.1", *settings])
    run = repair([cache], recipe=recipe, results=tmp_path, externals=[same, lacking])
    assert [note for note in run.notes if note.startswith("lacking")] == [
        "lacking: no row is b; figures over classes are of the others (macro-F1 also of those "
        "that are predicted)."
    ]
    sql = """SELECT arm, eval_dataset, stage, count(*), bool_and(is_final)
        FROM metric_values
        WHERE split = 'external' AND class_name IS NULL AND stage NOT LIKE '%calib%'
        GROUP BY ALL ORDER BY ALL"""
    expected = [
        (arm, data, stage, 4 if stage == "reweighted" else 12, True)
        for arm in ("none", "random")
        for data in ("lacking", "same")
        for stage in sorted(STAGES)
    ]
    assert run_query(tmp_path, sql).rows == expected
    # Elsewhere, and in the rounds before the last, nothing but the plain figures.
    sql = """SELECT DISTINCT stage FROM metrics WHERE split <> 'external' OR NOT is_final
        ORDER BY stage"""
    assert run_query(tmp_path, sql).rows == [("calibrated",), ("uncalibrated",)]
    # What is recorded is what the function says of the stored predictions.
    sql = """SELECT split, stage, label, probabilities, logits FROM predictions JOIN runs
        ON key = run WHERE arm = 'random' AND eval_dataset IN ('same', dataset)
        ORDER BY sample_id"""
    stored = run_query(tmp_path, sql).rows

    def of(split, stage, column):
        own = [row[column] for row in stored if row[:2] == (split, stage)]
        return np.array(["abc".index(x) for x in own] if column == 2 else own)

    found = shift_figures(
        of("external", "calibrated", 2),
        of("external", "calibrated", 3),
        logits=of("external", "uncalibrated", 4),
        inside_labels=of("val", "calibrated", 2),
        inside_calibrated=of("val", "calibrated", 3),
    )
    sql = """SELECT stage, metric, value FROM metric_values WHERE arm = 'random'
        AND eval_dataset = 'same' AND class_name IS NULL AND stage NOT LIKE '%calib%'"""
    recorded = {row[:2]: row[2] for row in run_query(tmp_path, sql).rows}
    assert recorded == pytest.approx(
        {(stage, name): v for stage, own in found.stages.items() for name, v in own.items()}
    )
    # The table that a repair prints shows them of the first arm.
    table = repair_table(tmp_path, run.keys)
    assert [row["stage"] for row in table.shift[:6]] == ["uncalibrated", "calibrated", *STAGES]
    assert {row["arm"] for row in table.shift} == {"no repair"}
    write_report(tmp_path, tmp_path / "page.html")
    page = (tmp_path / "page.html").read_text()
    assert "External sets under shift" in page and "<td>oracle_temperature</td>" in page


def test_weighted_rows_fall_into_the_same_bins_as_copied_ones():
    # The second confidence is the next number above an edge, where rounding moved a row.
    top = np.array([0.7, np.nextafter(11 / 15, 1), 0.72, 0.9])
    probs, labels = np.column_stack([top, 1 - top]), np.array([1, 0, 1, 0])
    copies = np.array([1, 3, 1, 3, 1, 3, 0, 2])
    expected = expected_calibration_error(labels[copies], probs[copies])
    found = reweighted_figures(labels, probs, np.array([0.75, 0.25])).ece
    assert found == pytest.approx(expected)
