"""The risk guarantee: it holds as often as it says, and the naive variants do not.

The full study of 2,000 draws is `tests/benchmarks/guarantee_study.py`; a smaller one runs here.
"""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binomtest
from support import guarantee_draw

from trustq.errors import TrustqError
from trustq.metrics.risk_guarantee import one_row_per_group, risk_guarantee

unhurried = settings(deadline=None)  # a busy machine is no failure

rows = st.lists(
    st.tuples(st.sampled_from([False] * 9 + [True]), st.integers(0, 30)), min_size=1, max_size=200
)


@pytest.mark.parametrize(("n_groups", "largest"), [(2000, 1), (2000, 8)])
def test_the_bound_is_violated_no_more_often_than_it_says(n_groups, largest):
    draws = [guarantee_draw(seed, n_groups=n_groups, largest=largest) for seed in range(300)]
    violated = {name: sum(draw[name][0] for draw in draws) for name in draws[0]}
    for name in ("sgr, groups", "fixed-sequence, groups"):
        assert binomtest(violated[name], 300, 0.1, alternative="greater").pvalue > 0.001
        assert np.mean([draw[name][1] for draw in draws]) > 0.1  # and it accepts something
    assert violated["empirical risk"] > 100  # the threshold that just fits fails half the time
    if largest > 1:
        assert binomtest(violated["fixed-sequence, rows"], 300, 0.1).pvalue < 0.001


@unhurried
@given(rows, st.sampled_from(["sgr", "fixed-sequence"]))
def test_the_chosen_threshold_passes_the_exact_test_of_scipy(drawn, method):
    wrong, confidence = np.array([w for w, _ in drawn]), np.array([c for _, c in drawn])
    found = risk_guarantee(wrong, confidence, risk=0.2, delta=0.1, method=method)
    if found.coverage == 0:
        assert found.threshold == math.inf and math.isnan(found.bound)
        return
    accepted = confidence >= found.threshold
    tests = max(1, math.ceil(math.log2(len(drawn)))) if method == "sgr" else 1
    test = binomtest(int(wrong[accepted].sum()), int(accepted.sum()), 0.2, alternative="less")
    assert test.pvalue <= 0.1 / tests + 1e-12
    interval = test.proportion_ci(1 - 0.1 / tests)
    assert found.bound == pytest.approx(interval.high) and found.bound <= 0.2 + 1e-12
    assert found.coverage == accepted.mean()
    assert found.n_tested <= (tests if method == "sgr" else 50)


def test_no_threshold_passes_where_there_are_too_few_rows():
    # 28 right rows prove a risk below .1 at delta .05, 29 are needed.
    for n, coverage in ((28, 0.0), (29, 1.0)):
        found = risk_guarantee(
            np.zeros(n, bool), np.arange(n), risk=0.1, delta=0.05, method="fixed-sequence"
        )
        assert found.coverage == coverage
    nothing = risk_guarantee(np.ones(50, bool), np.arange(50), risk=0.1, delta=0.05)
    assert (nothing.threshold, nothing.coverage) == (math.inf, 0.0)


def test_all_right_rows_are_all_accepted():
    for method in ("sgr", "fixed-sequence"):
        found = risk_guarantee(
            np.zeros(500, bool), np.arange(500), risk=0.05, delta=0.1, method=method
        )
        assert found.coverage == 1.0 and found.threshold == 0


def test_one_row_of_each_group_is_drawn():
    groups = np.array(["a", "b", "a", "c", "b", "a"])
    draws = np.array([one_row_per_group(groups, 6, seed) for seed in range(600)])
    assert np.array_equal(groups[draws], np.tile(["a", "b", "c"], (600, 1)))
    assert np.bincount(draws[:, 0], minlength=6)[[0, 2, 5]] / 600 == pytest.approx(1 / 3, abs=0.08)
    found = risk_guarantee(
        np.zeros(6, bool), np.arange(6), risk=0.5, delta=0.5, groups=groups, seed=0
    )
    assert (found.n, found.unit) == (3, "a random row of a random group")


def test_bad_requests_are_refused():
    wrong, confidence, ids = np.zeros(4, bool), np.arange(4), np.array(["a", "b", "c", "d"])
    bad = [
        (
            {"risk": 5},
            "risk is 5 and delta 0.1, expected shares between 0 and 1: pass risk=0.05, delta=0.1.",
        ),
        ({"method": "ltt"}, "method is 'ltt': expected sgr or fixed-sequence."),
        (
            {"groups": ids},
            "groups were given and no seed: one row per group is drawn from it.",
        ),
        (
            {"groups": ids[:2], "seed": 0},
            "groups has shape (2,), expected (4,): pass the group of every row.",
        ),
        (
            {"sample_ids": ids, "chosen_on": np.array(["x", "d", "b"])},
            "2 of 4 rows also chose or calibrated the score, so that no guarantee holds: "
            "keep these rows apart.",
        ),
    ]
    for options, message in bad:
        with pytest.raises(TrustqError) as error:
            risk_guarantee(wrong, confidence, **({"risk": 0.1, "delta": 0.1} | options))
        assert str(error.value) == message
