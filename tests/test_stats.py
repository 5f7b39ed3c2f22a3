"""Paired tests and intervals: against loops, scipy and the published reference comparison."""

from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binomtest, permutation_test

from trustq.errors import TrustqError
from trustq.statistics import paired
from trustq.statistics.paired import (
    bootstrap_interval,
    bootstrap_intervals,
    effect_size,
    holm,
    mcnemar_test,
    paired_summary,
    probability_of_superiority,
    share_interval,
    sign_flip_test,
)

unhurried = settings(deadline=None)  # a busy machine is no failure

# Calibrated macro-F1 of seeds 42, 52, 62, 72, 82 in the published tables of TrustQueryNet.
REPAIR = [0.748475595281957, 0.691629127296458, 0.7022578942908017]
REPAIR += [0.7129560438213632, 0.7205086342061608]
NONE = [0.7136914136326793, 0.7356673461592474, 0.7110096325669962]
NONE += [0.6999050423884652, 0.7121148096181056]
REPAIR_EXTERNAL = [0.43119622990027595, 0.4304084720639451, 0.45695535801495435]
REPAIR_EXTERNAL += [0.4444034573788495, 0.45048261147280805]
NONE_EXTERNAL = [0.42437684358153077, 0.45037928786062, 0.42606398104009063]
NONE_EXTERNAL += [0.4198773296752793, 0.42327497990489]

# Multiples of .1, whose sums tie in decimals and not in floats.
tenths = st.lists(st.integers(-9, 9), min_size=1, max_size=8)


@unhurried
@given(tenths)
def test_exact_p_counts_patterns_as_whole_numbers_do(drawn):
    test = sign_flip_test(np.array(drawn) * 0.1)
    observed = abs(sum(drawn))
    sums = [abs(np.dot(signs, drawn)) for signs in product([1, -1], repeat=len(drawn))]
    assert test.p_value == np.mean(np.array(sums) >= observed)
    assert test.exact and test.n == len(drawn)


def test_exact_p_equals_that_of_scipy():
    differences = np.random.default_rng(0).normal(0.4, 1, 9)
    expected = permutation_test(
        (differences,), np.mean, permutation_type="samples", n_resamples=1e6
    )
    assert sign_flip_test(differences).p_value == pytest.approx(expected.pvalue, abs=1e-12)


@pytest.mark.parametrize(("n", "floor"), [(1, 1.0), (3, 0.25), (5, 0.0625), (6, 0.03125)])
def test_differences_of_one_sign_reach_the_floor(n, floor):
    test = sign_flip_test(-np.arange(1, n + 1) / 7)
    assert (test.p_value, test.floor) == (floor, floor)


def test_no_difference_has_p_one():
    assert sign_flip_test(np.zeros(5)).p_value == 1.0
    assert sign_flip_test(np.zeros(25), seed=0).p_value == 1.0


def test_drawn_patterns_agree_with_counted_ones():
    differences = np.random.default_rng(3).normal(0.3, 1, 20)
    exact = sign_flip_test(differences)
    # A 21st difference of next to nothing makes the test draw its patterns.
    drawn = sign_flip_test(np.append(differences, 1e-12), seed=0, replicates=40_000)
    assert exact.exact and not drawn.exact
    assert drawn.p_value == pytest.approx(exact.p_value, abs=0.01)
    assert drawn.floor == 1 / 40_001


def test_drawn_patterns_count_the_observed_one():
    test = sign_flip_test(np.ones(30), seed=1, replicates=99)
    assert test.p_value == test.floor == 0.01


def test_the_same_seed_gives_the_same_numbers():
    a, b = np.random.default_rng(4).normal(size=(2, 30))
    assert paired_summary(a, b, seed=1) == paired_summary(a, b, seed=1)
    assert bootstrap_interval(a, seed=1) != bootstrap_interval(a, seed=2)


def test_bootstrap_covers_the_mean_as_often_as_it_says():
    rng = np.random.default_rng(5)
    intervals = [
        bootstrap_interval(rng.normal(size=60), seed=seed, level=0.9, replicates=500)
        for seed in range(400)
    ]
    covered = np.mean([interval.lower <= 0 <= interval.upper for interval in intervals])
    assert covered == pytest.approx(0.9, abs=0.05)


def test_bootstrap_interval_of_a_large_sample_is_the_normal_one():
    differences = np.random.default_rng(6).normal(1, 2, 2000)
    lower, upper = bootstrap_interval(differences, seed=0, replicates=4000)
    half_width = 1.96 * differences.std() / np.sqrt(2000)
    assert lower == pytest.approx(differences.mean() - half_width, abs=0.01)
    assert upper == pytest.approx(differences.mean() + half_width, abs=0.01)


@pytest.mark.parametrize(
    ("a", "b", "mean", "p_value", "lower", "upper"),
    [
        (REPAIR, NONE, 0.000688, 1.0, -0.0231, 0.0217),
        (REPAIR_EXTERNAL, NONE_EXTERNAL, 0.013895, 0.1875, -0.0044, 0.0281),
    ],
)
def test_the_published_comparison_is_reproduced(a, b, mean, p_value, lower, upper):
    summary = paired_summary(np.array(a), np.array(b), seed=0)
    assert summary.mean == pytest.approx(mean, abs=5e-7)
    assert (summary.n, summary.p_value, summary.floor) == (5, p_value, 0.0625)
    assert (summary.lower, summary.upper) == pytest.approx((lower, upper), abs=1e-3)
    assert summary.sd == pytest.approx(np.std(np.subtract(a, b), ddof=1))


def test_swapping_the_arms_changes_the_sign_and_not_p():
    a, b = np.array(REPAIR), np.array(NONE)
    there, back = paired_summary(a, b, seed=0), paired_summary(b, a, seed=0)
    assert there.p_value == back.p_value
    assert there[1:5] == pytest.approx((-back.mean, back.sd, -back.upper, -back.lower))


def test_one_unit_has_a_mean_and_no_spread():
    summary = paired_summary(np.array([0.5]), np.array([0.25]), seed=0)
    assert (summary.n, summary.mean, summary.p_value, summary.floor) == (1, 0.25, 1.0, 1.0)
    assert np.isnan([summary.sd, summary.lower, summary.upper]).all()


def test_bad_differences_are_refused():
    bad = [
        (lambda: sign_flip_test(np.array([])), "differences is empty: pass at least one unit."),
        (
            lambda: sign_flip_test(np.array([0.1, np.nan])),
            "differences is NaN or infinite in 1 of 2 units, first in 1: "
            "leave these units out of both arms.",
        ),
        (
            lambda: sign_flip_test(np.zeros((2, 2))),
            "differences has shape (2, 2), expected (n,): pass one number per unit.",
        ),
        (
            lambda: sign_flip_test(np.ones(21)),
            "sign_flip_test was given 21 differences and no seed: beyond 20 patterns are drawn "
            "at random, so pass seed=.",
        ),
        (
            lambda: sign_flip_test(np.ones(21), seed=0, replicates=0),
            "replicates is 0, expected at least 1: pass some thousands.",
        ),
        (
            lambda: bootstrap_interval(np.ones(3), seed=0, level=95),
            "level is 95, expected a share between 0 and 1: pass 0.95.",
        ),
        (
            lambda: paired_summary(np.ones(3), np.ones(2), seed=0),
            "a has 3 units and b has 2: pass the same units in the same order.",
        ),
    ]
    for call, message in bad:
        with pytest.raises(TrustqError) as error:
            call()
        assert str(error.value) == message


@unhurried
@given(st.lists(st.sampled_from([0.001, 0.01, 0.02, 0.03, 0.04, 0.2, 0.9]), min_size=1, max_size=9))
def test_holm_equals_its_definition(drawn):
    p = np.array(drawn)
    adjusted, order = holm(p), np.argsort(p, kind="stable")
    for position, at in enumerate(order):
        steps = [min(1, (len(p) - j) * p[order[j]]) for j in range(position + 1)]
        assert adjusted[at] == pytest.approx(max(steps))
    assert np.all(adjusted >= p)
    shuffled = np.random.default_rng(0).permutation(len(p))
    assert holm(p[shuffled]) == pytest.approx(adjusted[shuffled])


@unhurried
@given(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=60))
def test_mcnemar_equals_the_binomial_test_of_scipy(drawn):
    a, b = np.array(drawn).T
    found = mcnemar_test(a, b)
    assert found.only_a_right == np.sum(~a & b) and found.only_b_right == np.sum(a & ~b)
    n = found.only_a_right + found.only_b_right
    expected = binomtest(found.only_a_right, n).pvalue if n else 1.0
    assert found.p_value == pytest.approx(expected, rel=1e-9)
    assert mcnemar_test(b, a).p_value == found.p_value


def test_effect_size_interval_covers_the_true_effect():
    rng = np.random.default_rng(8)
    found = [effect_size(rng.normal(0.8, 1, 6)) for _ in range(400)]
    assert np.mean([e.value for e in found]) == pytest.approx(0.8, abs=0.07)  # unbiased by J
    # The bounds carry J too, so they are those of the effect to within that factor.
    covered = np.mean([e.lower / 0.8408 <= 0.8 <= e.upper / 0.8408 for e in found])
    assert covered == pytest.approx(0.95, abs=0.03)


@pytest.mark.parametrize("n", [15, 20, 30, 50])
def test_effect_sizes_of_many_seeds_have_an_interval(n):
    rng = np.random.default_rng(0)
    for mean in (0.3, 1.0, 3.0) * 50:
        found = effect_size(rng.normal(mean, 1, n))
        assert found.lower < found.value < found.upper


def test_effect_size_does_not_depend_on_units_and_turns_with_the_sign():
    differences = np.array([0.3, -0.1, 0.4, 0.2, 0.25])
    once, scaled, turned = (effect_size(f * differences) for f in (1, 1000, -1))
    assert scaled == pytest.approx(once)
    assert turned == pytest.approx((-once.value, -once.upper, -once.lower, 5), abs=1e-8)


@pytest.mark.parametrize("spread", [1e-3, 1e-5, 1e-8])
def test_effect_size_of_nearly_equal_differences_is_large_and_finite(spread):
    found = effect_size(1 + spread * np.array([1, -1, 0.5, -0.5, 0.25]))
    assert 0 < found.lower < found.value < found.upper < np.inf


@pytest.mark.parametrize("differences", [[0.5], [0.5, 0.1], [0.1 + 0.2, 0.3, 0.3], [0.0] * 4])
def test_effect_size_without_spread_is_undefined(differences):
    found = effect_size(np.array(differences))
    assert np.isnan(found[:3]).all() and found.n == len(differences)


def test_superiority_counts_wins_and_half_of_the_ties():
    found = probability_of_superiority(np.array([1, 0.1 + 0.2, 0, 5]), np.array([0, 0.3, 1, 4]))
    assert found.value == 2.5 / 4
    always = probability_of_superiority(np.ones(5), np.zeros(5))
    assert always[:3] == pytest.approx((1.0, *share_interval(5, 5)))
    assert always.lower < 0.6


@pytest.mark.parametrize(("k", "n"), [(0, 10), (3, 10), (10, 10), (1, 1), (40, 200)])
def test_share_interval_equals_that_of_scipy(k, n):
    expected = binomtest(k, n).proportion_ci(method="wilson")
    assert share_interval(k, n) == pytest.approx((expected.low, expected.high), abs=1e-12)


def test_bad_families_and_flags_are_refused():
    bad = [
        (
            lambda: holm(np.array([0.1, 1.2])),
            "p_values lies in [0.1, 1.2], expected [0, 1]: pass p-values, not statistics.",
        ),
        (
            lambda: holm(np.array([0.1, np.nan])),
            "p_values is NaN or infinite in 1 of 2 units, first in 1: "
            "leave these units out of both arms.",
        ),
        (
            lambda: mcnemar_test(np.array([0, 1]), np.array([1])),
            "wrong_a has 2 rows and wrong_b has 1: pass the same rows in the same order.",
        ),
        (
            lambda: mcnemar_test(np.array([0, 3]), np.array([1, 0])),
            "wrong_a holds values other than 0 and 1: pass predicted != labels, not a loss.",
        ),
        (
            lambda: mcnemar_test(np.array([]), np.array([])),
            "wrong_a has shape (0,), expected (n,) with n >= 1: pass one flag per row.",
        ),
        (
            lambda: share_interval(3, 2),
            "share_interval was given 3 of 2: pass a count and its total.",
        ),
    ]
    for call, message in bad:
        with pytest.raises(TrustqError) as error:
            call()
        assert str(error.value) == message
    assert np.isnan(share_interval(0, 0)).all()


def test_draws_that_are_kept_are_those_that_are_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    columns = np.random.default_rng(3).normal(0.2, 1.0, (30, 4))

    def found(seed: int) -> tuple[list[list[float]], float]:
        bounds = bootstrap_intervals(columns, seed=seed, replicates=500)
        return bounds.tolist(), sign_flip_test(columns[:, 0], seed=seed, replicates=500).p_value

    kept = [found(seed) for seed in (0, 1, 1, 0)]
    assert kept[0] == kept[3] != kept[1] == kept[2]
    monkeypatch.setattr(paired, "KEPT_COUNTS", 0)
    monkeypatch.setattr(paired, "KEPT_SIGNS", 0)
    assert [found(0), found(1)] == kept[:2]
    monkeypatch.setattr(paired, "BLOCK", 1000)  # and in blocks, but for the order of sums
    assert np.allclose(found(0)[0], kept[0][0], rtol=1e-12)
