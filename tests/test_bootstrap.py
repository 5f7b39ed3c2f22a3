"""Bootstrap over groups: against slow loops over the single figures, and coverage of a known truth.

The full coverage study is `tests/benchmarks/coverage_study.py`; a smaller one runs here.
"""

import numpy as np
import pytest
from scipy import stats
from scipy.stats import bootstrap as scipy_bootstrap
from support import simulated_study

from trustq.errors import TrustqError
from trustq.evaluation.bootstrap import (
    FIGURES,
    compare_figures,
    crossed_figures,
    drawn_group_counts,
    figure_intervals,
    group_codes,
    selective_replicates,
)
from trustq.metrics import classification as metrics
from trustq.metrics.classification import selective, summarise
from trustq.metrics.probabilities import softmax


def simulated(n=300, k=4, seed=0, decimals=12):
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, k, n)
    logits = rng.normal(size=(n, k)).round(decimals)
    logits[np.arange(n), labels] += 1.0
    return labels, logits, rng.integers(0, n // 3, n)


def resampled_rows(groups, n, seed, replicates):
    """Row numbers of every replicate, from the same draws of groups."""
    codes, n_groups = group_codes(groups, n)
    counts = np.concatenate(list(drawn_group_counts(n_groups, seed, replicates)), axis=1).astype(
        int
    )
    return [np.repeat(np.arange(n), counts[codes, r]) for r in range(replicates)]


@pytest.mark.parametrize("decimals", [12, 1])
@pytest.mark.parametrize("by_group", [False, True])
def test_fast_areas_equal_those_of_the_resampled_rows(decimals, by_group):
    rng = np.random.default_rng(1)
    confidence = rng.random(200).round(decimals)
    wrong = rng.random(200) > confidence
    groups = rng.integers(0, 60, 200) if by_group else None
    fast = selective_replicates(wrong, confidence, seed=2, groups=groups, replicates=40)
    for r, rows in enumerate(resampled_rows(groups, 200, 2, 40)):
        slow = [
            figure(wrong[rows], confidence[rows]) for figure in (selective.aurc, selective.augrc)
        ]
        assert [area[r] for area in fast] == pytest.approx(slow, abs=1e-12)


def test_arms_resampled_together_share_their_draws():
    rng = np.random.default_rng(3)
    confidence, wrong = rng.random((2, 100)), rng.random((2, 100)) < 0.3
    both = selective_replicates(wrong, confidence, seed=4, replicates=30)
    for a in range(2):
        alone = selective_replicates(wrong[a], confidence[a], seed=4, replicates=30)
        assert np.array_equal(np.stack([area[a] for area in both]), np.stack(alone))


@pytest.mark.parametrize("flags", [np.zeros(20, bool), np.ones(20, bool)])
def test_all_right_and_all_wrong_have_areas_without_spread(flags):
    aurc, augrc = selective_replicates(flags, np.arange(20), seed=0, replicates=50)
    assert aurc == pytest.approx(float(flags[0]), abs=1e-12)
    assert augrc == pytest.approx(flags[0] / 2, abs=1e-12)


def test_a_group_far_larger_than_the_rest_is_resampled_whole():
    wrong, confidence = np.arange(100) % 3 == 0, np.arange(100) / 100
    groups = np.where(np.arange(100) < 90, -1, np.arange(100))
    fast = selective_replicates(wrong, confidence, seed=5, groups=groups, replicates=60)[0]
    sizes = [len(rows) for rows in resampled_rows(groups, 100, 5, 60)]
    assert min(sizes) < 50 and max(sizes) > 200
    for area, rows in zip(fast, resampled_rows(groups, 100, 5, 60), strict=True):
        assert area == pytest.approx(selective.aurc(wrong[rows], confidence[rows]), abs=1e-12)


@pytest.mark.parametrize("kind", ["logits", "probs"])
def test_every_figure_of_a_replicate_is_that_of_its_rows(kind, monkeypatch):
    labels, logits, groups = simulated(n=90)
    given = {kind: logits if kind == "logits" else softmax(logits)}
    found = figure_intervals(
        labels, **given, groups=groups, seed=6, replicates=1, method="percentile"
    )
    # One replicate: both bounds are its figure.
    (rows,) = resampled_rows(groups, 90, 6, 1)
    slow = summarise(labels[rows], **{kind: given[kind][rows]}).figures
    whole = summarise(labels, **given).figures
    for name in FIGURES:
        assert found[name].value == pytest.approx(whole[name], abs=1e-12)
        assert found[name].lower == found[name].upper == pytest.approx(slow[name], abs=1e-12)


def test_macro_f1_keeps_the_classes_of_the_full_truth():
    # Class 2 is predicted but never true: it does not enter, in no replicate.
    probs = np.array([[0.9, 0.1, 0.0], [0.1, 0.9, 0.0], [0.1, 0.2, 0.7]])
    labels = np.array([0, 1, 1])
    found = figure_intervals(
        labels, probs=probs, seed=0, figures=("macro_f1",), replicates=10, method="percentile"
    )
    assert found["macro_f1"].value == pytest.approx((1 + 2 / 3) / 2)
    compared = compare_figures(labels, probs, probs, seed=0, figures=("macro_f1",))["macro_f1"]
    assert compared.a == compared.b == pytest.approx((1 + 2 / 3) / 2)
    # The figure that is printed averages class 2 too, and so does its interval.
    printed = figure_intervals(labels, probs=probs, seed=0, figures=("macro_f1",))["macro_f1"]
    assert printed.value == pytest.approx(5 / 9) and printed.lower < 5 / 9 < printed.upper
    assert metrics.macro_f1(np.array([0, 1, 1]), np.array([0, 1, 2])) == pytest.approx(5 / 9)


@pytest.mark.parametrize("method", ["percentile", "bca"])
def test_intervals_agree_with_those_of_scipy(method):
    rng = np.random.default_rng(7)
    probs = softmax(rng.normal(size=(80, 2)) * 3)
    labels = rng.integers(0, 2, 80)
    loss = -np.log(probs[np.arange(80), labels])
    expected = scipy_bootstrap(
        (loss,), np.mean, n_resamples=20_000, method=method, rng=np.random.default_rng(0)
    ).confidence_interval
    found = figure_intervals(
        labels, probs=probs, seed=8, figures=("nll",), replicates=20_000, method=method
    )["nll"]
    assert (found.lower, found.upper) == pytest.approx(tuple(expected), abs=0.015)


def test_an_arm_does_not_differ_from_itself():
    labels, logits, groups = simulated()
    found = compare_figures(
        labels, logits, logits, kind="logits", groups=groups, seed=0, replicates=100
    )
    for row in found.values():
        assert (row.difference, row.lower, row.upper) == (0, 0, 0)


def test_swapping_the_arms_turns_the_interval_round():
    labels, logits, groups = simulated()
    other = simulated(seed=1)[1]
    there = compare_figures(
        labels, logits, other, kind="logits", groups=groups, seed=0, replicates=200
    )
    back = compare_figures(
        labels, other, logits, kind="logits", groups=groups, seed=0, replicates=200
    )
    for name in FIGURES:
        assert there[name].lower == pytest.approx(-back[name].upper, abs=1e-6)
        assert there[name].difference == -back[name].difference


def test_pairing_narrows_the_interval_of_a_difference():
    labels, logits, _ = simulated(n=1000)
    other = logits + 0.1 * np.random.default_rng(9).normal(size=logits.shape)
    paired = compare_figures(labels, logits, other, kind="logits", seed=0, replicates=500)
    alone = figure_intervals(labels, logits=logits, seed=0, replicates=500)
    for name in ("accuracy", "nll", "augrc"):
        width = paired[name].upper - paired[name].lower
        assert width < (alone[name].upper - alone[name].lower) / 2


def test_copies_of_rows_in_one_group_add_no_evidence():
    labels, logits, _ = simulated(n=150)
    other = simulated(n=150, seed=1)[1]
    once = compare_figures(labels, logits, other, kind="logits", seed=3, replicates=500)
    copied = compare_figures(
        np.repeat(labels, 4),
        np.repeat(logits, 4, axis=0),
        np.repeat(other, 4, axis=0),
        kind="logits",
        groups=np.repeat(np.arange(150), 4),
        seed=3,
        replicates=500,
    )
    for name in ("accuracy", "macro_f1", "nll", "ece"):
        assert copied[name] == pytest.approx(once[name], abs=1e-9)


def test_one_seed_crossed_is_the_paired_bootstrap():
    labels, logits, groups = simulated()
    other = simulated(seed=1)[1]
    options = {"kind": "logits", "groups": groups, "seed": 2, "replicates": 200}
    crossed = crossed_figures(labels, logits[None], other[None], **options)
    assert crossed == compare_figures(labels, logits, other, **options)


def test_equal_seeds_add_no_spread():
    labels, logits, groups = simulated()
    other = simulated(seed=1)[1]
    options = {"kind": "logits", "groups": groups, "seed": 2}
    three = crossed_figures(labels, np.stack([logits] * 3), np.stack([other] * 3), **options)
    for name, row in compare_figures(labels, logits, other, **options).items():
        assert three[name][:3] == pytest.approx(row[:3], abs=1e-12)
        if name != "ece":  # whose bias widens the interval of one run
            assert three[name].upper - three[name].lower == pytest.approx(
                row.upper - row.lower, rel=0.1
            )


def test_the_crossed_interval_is_that_of_its_formula():
    # Differences of accuracy by hand: 4 trainings on 6 groups of one row.
    rng = np.random.default_rng(0)
    right = rng.random((2, 4, 6)) < 0.6
    probs = np.where(right[..., None], [0.8, 0.2], [0.2, 0.8])
    labels = np.zeros(6, dtype=int)
    (found,) = crossed_figures(labels, *probs, seed=1, figures=("accuracy",)).values()
    own = right[0].astype(float) - right[1]  # (trainings, rows)
    of_seeds = own.mean(axis=1).var(ddof=1) / 4
    covariance = np.cov(own) / 6
    of_groups = max((covariance.sum() - np.trace(covariance)) / 12, 0)
    mean = own.mean(axis=0) - own.mean()
    kurtosis = 6 * (mean**4).sum() / (mean**2).sum() ** 2
    of_spread = min(2 * 6 / (kurtosis - 1), 5)
    t_seeds, t_groups = stats.t.ppf(0.975, 3), stats.t.ppf(0.975, of_spread)
    total = of_seeds + of_groups
    weighted = (t_seeds * of_seeds + t_groups * of_groups) / np.sqrt(total)
    freedom = total**2 / (of_seeds**2 / 3 + of_groups**2 / of_spread)
    half = 0.25 * weighted + 0.75 * stats.t.ppf(0.975, freedom) * np.sqrt(total)
    assert of_groups > 0
    assert found.upper - found.difference == pytest.approx(half, rel=1e-9)
    assert found.difference - found.lower == pytest.approx(half, rel=1e-9)


def test_arms_that_never_differ_have_an_interval_of_no_width():
    labels, logits, groups = simulated()
    two = np.stack([logits] * 2)
    found = crossed_figures(labels, two, two, kind="logits", groups=groups, seed=0)
    assert all(row[2:] == (0, 0, 0) for row in found.values())


@pytest.mark.parametrize(("n_seeds", "seed_sd"), [(5, 0.15), (3, 0.6)])
def test_crossed_intervals_cover_the_truth_of_simulated_studies(n_seeds, seed_sd):
    studies = [
        simulated_study(seed, n_seeds=n_seeds, seed_sd=seed_sd, replicates=200)
        for seed in range(100)
    ]
    covered = {name: np.mean([study.holds[name] for study in studies]) for name in NAMES}
    # tests/benchmarks/results_coverage.md has 500 studies of each and of seven more: 94 to 97 %.
    assert covered["crossed"] >= 0.90
    for name in ("nested", "naive", "seeds"):
        assert covered[name] < covered["crossed"]


NAMES = ("crossed", "percentile", "nested", "naive", "seeds")


def test_the_same_seed_gives_the_same_interval_and_another_another():
    labels, logits, groups = simulated()
    once, again, other = (
        figure_intervals(
            labels, logits=logits, groups=groups, seed=seed, replicates=100, method="percentile"
        )
        for seed in (1, 1, 2)
    )
    assert once == again != other


def test_one_group_has_figures_and_no_interval():
    labels, logits, _ = simulated(n=10)
    found = figure_intervals(labels, logits=logits, groups=np.zeros(10), seed=0)
    assert found["accuracy"].value == summarise(labels, logits=logits).figures["accuracy"]
    assert np.isnan(found["accuracy"][1:]).all()


def test_bad_input_is_refused():
    labels, logits, groups = simulated(n=9)
    bad = [
        (
            {"figures": ("f1",)},
            "figures is f1: choose among accuracy, macro_f1, nll, brier, ece, aurc, augrc, "
            "balanced_accuracy, macro_auroc, macro_auprc.",
        ),
        (
            {"figures": ()},
            "figures is empty: choose among accuracy, macro_f1, nll, brier, ece, aurc, augrc, "
            "balanced_accuracy, macro_auroc, macro_auprc.",
        ),
        ({"method": "basic"}, "method is 'basic': expected one of student, percentile, bca."),
        ({"replicates": 0}, "replicates is 0, expected at least 1: pass some thousands."),
        ({"level": 95}, "level is 95, expected a share between 0 and 1: pass 0.95."),
        (
            {"groups": groups[:4]},
            "groups has shape (4,), expected (9,): pass the group of every row.",
        ),
        (
            {"groups": np.array(["a", None] + ["b"] * 7, dtype=object)},
            "groups is blank in 1 of 9 rows, first in row 1: "
            "give these rows a group of their own, or leave them out.",
        ),
        ({"logits": None}, "Pass either logits or probs, and not both."),
    ]
    for options, message in bad:
        with pytest.raises(TrustqError) as error:
            figure_intervals(labels, **({"logits": logits, "seed": 0} | options))
        assert str(error.value) == message
    with pytest.raises(TrustqError) as error:
        compare_figures(labels, logits, logits[:, :3], kind="logits", seed=0)
    assert str(error.value) == (
        "a has shape (1, 9, 4) and b (1, 9, 3): "
        "pass the same seeds, rows and classes in the same order."
    )
    with pytest.raises(TrustqError) as error:
        compare_figures(labels, logits, logits, kind="scores", seed=0)
    assert str(error.value) == "kind is 'scores': expected probs or logits."
    with pytest.raises(TrustqError) as error:
        selective_replicates(np.zeros(3), np.zeros(4), seed=0)
    assert str(error.value) == (
        "wrong has shape (3,) and confidence (4,): pass the same rows in the same order."
    )
