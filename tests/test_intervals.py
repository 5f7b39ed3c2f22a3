"""Influence of rows on figures, calibration errors without their bias, and runs as units.

The whole study of coverage is `tests/benchmarks/coverage_study.py`.
"""

import numpy as np
import pytest
from sklearn.metrics import average_precision_score, roc_auc_score

from trustq.errors import TrustqError
from trustq.evaluation.bootstrap import (
    FIGURES,
    FURTHER,
    compare_figures,
    debiased_ece,
    figure_intervals,
)
from trustq.evaluation.influence import influences
from trustq.metrics.classification import summarise
from trustq.metrics.per_class import class_figures, macro_auprc
from trustq.metrics.probabilities import softmax
from trustq.statistics.intervals import grouped_share_interval, leaving_out
from trustq.statistics.paired import share_interval, sign_flip_test
from trustq.statistics.runs import compare_runs

NAMES = tuple(name for name in (*FIGURES, *FURTHER) if name != "ece")


def rows_of(n=80, k=3, seed=0, decimals=1):
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, k, n)
    logits = rng.normal(size=(n, k))
    logits[np.arange(n), labels] += 1.0
    probs = softmax(logits.round(decimals))
    return labels, probs, rng


def found_for(labels, probs, names=NAMES):
    return influences(
        labels,
        predicted=probs.argmax(axis=1),
        probs=probs,
        log_prob=np.log(probs[np.arange(len(labels)), labels]),
        class_scores=probs,
        rank_by=probs.max(axis=1),
        names=names,
        of_truth=False,
    )


@pytest.mark.parametrize("decimals", [1, 12])
def test_influences_are_what_one_row_more_changes(decimals):
    labels, probs, _ = rows_of(decimals=decimals)
    n, copies = len(labels), 60
    found = found_for(labels, probs)
    many = np.repeat(np.arange(n), copies)
    before = found_for(labels[many], probs[many])
    for row in range(0, n, 9):
        more = np.append(many, row)
        after = found_for(labels[more], probs[more])
        for name in NAMES:
            changed = (after[name].value - before[name].value) * copies * n
            # Copies are ties, which move AURC's harmonic sums a little.
            close = 0.15 if name == "aurc" else 0.01
            assert found[name].rows[row] == pytest.approx(changed, abs=close), name


def test_values_are_those_of_the_metrics_and_influences_sum_to_nothing():
    labels, probs, _ = rows_of()
    whole = summarise(labels, probs=probs).figures
    whole |= {"macro_auprc": macro_auprc(labels, probs).value}
    for name, one in found_for(labels, probs).items():
        assert one.value == pytest.approx(whole[name], abs=1e-12), name
        assert one.rows.sum() == pytest.approx(0, abs=1e-9), name
    two = probs[:, :2] / probs[:, :2].sum(axis=1, keepdims=True)
    truth = (labels == 1).astype(int)
    binary = found_for(truth, two, ("macro_auroc", "macro_auprc"))
    areas = [roc_auc_score(truth == c, two[:, c]) for c in (0, 1)]
    assert binary["macro_auroc"].value == pytest.approx(np.mean(areas))
    areas = [average_precision_score(truth == c, two[:, c]) for c in (0, 1)]
    assert binary["macro_auprc"].value == pytest.approx(np.mean(areas))


def confident(gap, n, seed):
    rng = np.random.default_rng(seed)
    confidence = rng.uniform(0.55, 1, n)
    right = rng.random(n) < confidence - gap
    return np.where(right, 0, 1), np.stack([confidence, 1 - confidence], axis=1)


@pytest.mark.parametrize(("gap", "n"), [(0.02, 1000), (0.05, 1000), (0.02, 300), (0.0, 300)])
def test_intervals_of_ece_cover_the_truth_and_hold_their_estimate(gap, n):
    covered, above = 0, 0
    for seed in range(60):
        labels, probs = confident(gap, n, seed)
        value, lower, upper = figure_intervals(labels, probs=probs, seed=seed, figures=("ece",))[
            "ece"
        ]
        assert lower <= value <= upper
        covered += lower <= gap <= upper
        above += lower > gap
    assert covered >= 54 and above <= 5


def test_the_interval_of_ece_covers_where_gaps_have_both_signs():
    covered = 0
    for seed in range(120):
        rng = np.random.default_rng(seed)
        confidence = rng.uniform(0.55, 1, 1000)
        gap = np.where(confidence <= 0.8, -0.05, 0.05)
        right = rng.random(1000) < np.clip(confidence - gap, 0, 1)
        probs = np.stack([confidence, 1 - confidence], axis=1)
        labels = np.where(right, 0, 1)
        row = figure_intervals(labels, probs=probs, seed=seed, figures=("ece",))["ece"]
        assert row.lower <= row.value <= row.upper
        covered += row.lower <= 0.05 <= row.upper
    assert covered >= 110  # of one pattern that is the mean of all, 105


def test_a_calibrated_model_has_a_debiased_error_near_nothing():
    found = [
        debiased_ece(labels, probs=probs, seed=0)
        for labels, probs in (confident(0.0, 200, seed) for seed in range(1000, 1060))
    ]
    plain = [
        summarise(labels, probs=probs).figures["ece"]
        for labels, probs in (confident(0.0, 200, seed) for seed in range(1000, 1060))
    ]
    # Half of the estimates are 0, and the others what their noise could be of.
    assert 0.3 < np.mean(np.array(found) == 0) < 0.75
    assert np.mean(found) < np.mean(plain) / 2


def test_all_right_is_no_certainty():
    labels = np.repeat([0, 1], 20)
    probs = np.where(np.eye(2)[labels] > 0, 0.9, 0.1)
    found = figure_intervals(labels, probs=probs, seed=0, figures=(*FIGURES, *FURTHER))
    assert found["accuracy"] == pytest.approx((1, 0.907, 1), abs=1e-3)
    for name in ("macro_f1", "balanced_accuracy"):
        assert found[name].value == 1 == found[name].upper and 0.8 < found[name].lower < 0.91
    for name in ("aurc", "augrc"):
        assert found[name][:2] == (0, 0) and 0.05 < found[name].upper < 0.35
    # Nothing in these rows says how a perfect ranking might fail.
    for name in ("macro_auroc", "macro_auprc"):
        assert found[name].value == 1 and np.isnan(found[name][1:]).all()


def test_the_printed_macro_f1_lies_in_its_interval_with_a_class_never_true():
    labels, probs, _ = rows_of(n=60)
    probs = np.column_stack([probs * 0.4, np.full(60, 0.6)])
    probs[: len(probs) // 2, 3] = 0
    probs /= probs.sum(axis=1, keepdims=True)
    row = figure_intervals(labels, probs=probs, seed=0, figures=("macro_f1",))["macro_f1"]
    assert row.value == summarise(labels, probs=probs).figures["macro_f1"]
    assert row.lower < row.value < row.upper


def related_hits(rng, sizes, share, alike):
    """Rows that are hits, by groups of these sizes, of which each has a share of its own."""
    own = rng.beta(share * (1 - alike) / alike, (1 - share) * (1 - alike) / alike, len(sizes))
    groups = np.repeat(np.arange(len(sizes)), sizes)
    return rng.random(len(groups)) < own[groups], groups


def test_shares_cover_where_one_group_has_most_rows():
    rng = np.random.default_rng(0)
    held = []
    for _ in range(400):
        bounds = grouped_share_interval(
            *related_hits(rng, np.append(60, np.ones(24, int)), 0.9, 0.2)
        )
        held.append(bounds.lower <= 0.9 <= bounds.upper)
    assert np.mean(held) > 0.92  # .68 where the largest group counts as any other


def test_figures_cover_where_one_group_has_most_rows():
    rng = np.random.default_rng(1)
    held = []
    for _ in range(200):
        hits, groups = related_hits(rng, np.append(60, np.ones(24, int)), 0.9, 0.2)
        labels = rng.integers(2, size=len(hits))
        probs = np.where(np.eye(2, dtype=bool)[np.where(hits, labels, 1 - labels)], 0.8, 0.2)
        row = figure_intervals(labels, probs=probs, groups=groups, seed=0, figures=("accuracy",))
        held.append(row["accuracy"].lower <= 0.9 <= row["accuracy"].upper)
    assert np.mean(held) > 0.92  # .65 without


def test_shares_near_1_cover_where_groups_are_very_unequal():
    rng = np.random.default_rng(2)
    held = []
    for _ in range(400):
        sizes = np.minimum(60, np.ceil(1 / (1 - rng.random(60)))).astype(int)
        hits, groups = related_hits(rng, sizes, 0.95, 0.5)
        bounds = grouped_share_interval(hits, groups)
        labels = rng.integers(2, size=len(hits))
        probs = np.where(np.eye(2, dtype=bool)[np.where(hits, labels, 1 - labels)], 0.8, 0.2)
        row = figure_intervals(labels, probs=probs, groups=groups, seed=0, figures=("accuracy",))
        held.append([one.lower <= 0.95 <= one.upper for one in (bounds, row["accuracy"])])
    assert (np.mean(held, axis=0) > 0.93).all()  # .88 with the residuals of these groups alone


def test_rows_with_a_miss_are_worth_no_more_than_there_are():
    rng = np.random.default_rng(3)
    groups, held = np.repeat(np.arange(6), 5), []
    hits = np.arange(30) > 0
    assert grouped_share_interval(hits, groups).lower < share_interval(29, 30).lower  # .87 > .83
    for _ in range(400):
        bounds = grouped_share_interval(*related_hits(rng, np.full(6, 5), 0.95, 0.1))
        held.append(bounds.lower <= 0.95 <= bounds.upper)
    assert np.mean(held) > 0.93


def test_influence_of_groups_of_one_size_is_as_it_is():
    influence = np.random.default_rng(0).normal(size=8)
    assert leaving_out(influence, np.full(8, 1 / 8)) == pytest.approx(influence, rel=1e-15)
    hits = np.array([3.0, 5.0, 0.0, 7.0])
    rows = np.array([4.0, 9.0, 2.0, 7.0])
    share = hits.sum() / rows.sum()
    own = (hits - share * rows) / rows.sum()
    without = (hits.sum() - hits) / (rows.sum() - rows)
    assert leaving_out(own, rows / rows.sum()) == pytest.approx(0.75 * (share - without))


def test_rows_of_one_group_are_worth_what_their_spread_says():
    rng = np.random.default_rng(0)
    hits = rng.random(50) < 0.8
    alone = grouped_share_interval(hits, np.arange(50))
    assert alone == share_interval(int(hits.sum()), 50) == grouped_share_interval(hits)
    copied = grouped_share_interval(np.repeat(hits, 4), np.repeat(np.arange(50), 4))
    assert copied == pytest.approx(alone, abs=0.01)
    sure = grouped_share_interval(np.ones(40, bool), np.repeat(np.arange(10), 4))
    assert sure.lower == pytest.approx(share_interval(10, 10).lower, abs=0.08)
    assert np.isnan(grouped_share_interval(np.ones(4, bool), np.zeros(4))).all()
    assert np.isnan(grouped_share_interval(np.zeros(0, bool))).all()
    labels = np.repeat(np.arange(2), 40)
    probs = np.where(np.eye(2)[labels] > 0, 0.7, 0.3)
    probs[::7] = 0.5 + np.array([0.01, -0.01])
    few = class_figures(labels, probs, groups=np.repeat(np.arange(20), 4))
    many = class_figures(labels, probs)
    assert few[1].recall == many[1].recall
    assert np.ptp(few[1].recall_interval) >= np.ptp(many[1].recall_interval)


def test_a_difference_of_calibration_errors_covers_its_truth():
    covered = 0
    for seed in range(40):
        rng = np.random.default_rng(seed)
        labels, a = confident(0.06, 1000, seed)
        hit = labels == 0
        # The other model is as right, and as sure as it may be.
        sure = np.clip(a[:, 0] - 0.06 + 0.02 * rng.normal(size=1000), 0.5, 1)
        b = np.stack([sure, 1 - sure], axis=1)
        row = compare_figures(labels, a, b, seed=seed, figures=("ece",))["ece"]
        assert row.lower <= row.difference <= row.upper
        truth = 0.06 - np.abs(np.mean(sure - (a[:, 0] - 0.06)))
        covered += row.lower <= truth <= row.upper
        assert hit.mean() == (b.argmax(axis=1) == labels).mean() or sure.min() == 0.5
    assert covered >= 35


def nulls(n_networks, n_draws, of_network, of_draw, *, shared, studies=300):
    rng = np.random.default_rng([n_networks, n_draws, shared])
    for _ in range(studies):
        table = np.sqrt(of_network) * rng.normal(size=(n_networks, 1))
        shape = (1 if shared else n_networks, n_draws)
        table = table + np.sqrt(of_draw) * rng.normal(size=shape)
        yield compare_runs(
            table.ravel(),
            np.zeros(table.size),
            networks=np.repeat(np.arange(n_networks), n_draws).tolist(),
            draws=np.tile(np.arange(n_draws), n_networks).tolist(),
        )


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize(("of_network", "of_draw"), [(0, 1), (1, 0), (1, 1), (2, 0.5)])
def test_runs_are_no_independent_units(of_network, of_draw, shared):
    few = list(nulls(5, 4, of_network, of_draw, shared=shared, studies=60))
    assert all(one.floor == 0.0625 <= one.p_value for one in few)
    eight = list(nulls(8, 4, of_network, of_draw, shared=shared))
    assert np.mean([one.p_value <= 0.05 for one in eight]) <= 0.09
    four = list(nulls(4, 4, of_network, of_draw, shared=shared))
    covered = np.mean([one.lower <= 0 <= one.upper for one in four])
    assert 0.92 <= covered <= 0.99


def test_one_network_is_about_its_draws_and_one_run_about_nothing():
    a, b = np.array([0.8, 0.7, 0.9, 0.6]), np.array([0.7, 0.6, 0.7, 0.6])
    found = compare_runs(a, b, networks=[3] * 4, draws=[1, 2, 3, 4])
    assert (found.unit, found.n, found.copies) == ("draw", 4, False)
    assert found.p_value == sign_flip_test(a - b).p_value
    copies = compare_runs(np.full(4, 0.8), np.full(4, 0.7), networks=[3] * 4, draws=[1, 2, 3, 4])
    assert copies.copies and copies.p_value == 1 and np.isnan(copies.lower)
    alone = compare_runs(a[:1], b[:1], networks=[None], draws=[None])
    assert (alone.n, alone.p_value) == (1, 1.0) and np.isnan(alone.sd)


def test_runs_may_lack_draws_and_are_refused_twice():
    found = compare_runs(
        np.array([0.3, 0.1, 0.5, 0.2, 0.4]),
        np.zeros(5),
        networks=["a", "a", "b", "b", "c"],
        draws=[1, 2, 1, 2, 1],
    )
    assert found.differences.tolist() == pytest.approx([0.2, 0.35, 0.4])
    assert found.n == 3 and found.lower < found.mean < found.upper
    for networks, draws, message in (
        ([1, 1], [1, 1], "A run is given twice: average runs of one network and draw before."),
        (
            [1],
            [1, 2],
            "There are 2 runs, 1 networks and 2 draws: name the network and the draw of every run.",
        ),
    ):
        with pytest.raises(TrustqError) as error:
            compare_runs(np.zeros(2), np.ones(2), networks=networks, draws=draws)
        assert str(error.value) == message


def test_many_networks_are_flipped_at_random():
    (found,) = nulls(25, 2, 1, 1, shared=True, studies=1)
    assert not found.exact and found.floor == 1e-4 and 0 < found.p_value <= 1
