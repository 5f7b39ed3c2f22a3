"""Rules of causes and their test against shuffled marks."""

import numpy as np
import pytest

from trustq.explain.causes import CAUSES, NAMES, Signs, causes_of, centred_share, fired, rule_tests


def signs(n: int, **given: np.ndarray) -> Signs:
    values = {
        "edge_strength": np.full(n, 9.0),
        "brightness": np.full(n, 0.5),
        "contrast": np.full(n, 0.2),
        "centred": np.full(n, 1.5),
        "is_listed": np.zeros(n, dtype=bool),
    }
    return Signs(**(values | given))


def test_each_rule_fires_at_its_threshold_and_the_first_is_the_cause() -> None:
    own = signs(
        6,
        edge_strength=np.array([2.49, 2.5, 9, 9, 9, 2.0]),
        brightness=np.array([0.5, 0.5, 0.71, 0.5, 0.5, 0.9]),
        contrast=np.array([0.2, 0.2, 0.2, 0.079, 0.2, 0.2]),
        centred=np.array([1.5, 1.5, 1.5, 1.5, 0.84, 1.5]),
        is_listed=np.array([False] * 5 + [True]),
    )
    assert causes_of(own).tolist() == [
        "blur",
        "boundary",
        "photometric",
        "photometric",
        "mislocated",
        "suspected label error",
    ]


def test_what_is_unknown_fires_no_rule() -> None:
    nan = np.full(3, np.nan)
    own = Signs(nan, nan, nan, nan, None)
    assert not np.any(list(fired(own).values()))
    assert set(causes_of(own)) == {"boundary"}


def test_every_cause_has_a_rule_a_mitigation_and_a_residual_risk() -> None:
    assert NAMES[-1] == "boundary" and len(set(NAMES)) == 5
    for cause in CAUSES:
        assert cause.rule and cause.mitigation.endswith(".") and cause.residual_risk.endswith(".")


def test_a_flat_map_is_1_and_a_blank_one_unknown() -> None:
    found = centred_share(np.stack([np.ones((7, 7)), np.zeros((7, 7)), -np.ones((7, 7))]))
    assert found[0] == pytest.approx(1) and np.isnan(found[1:]).all()
    edge = np.zeros((1, 7, 7))
    edge[0, 0, 0] = 1
    assert centred_share(edge)[0] == 0


def test_a_rule_that_fires_on_errors_is_told_from_one_that_fires_on_any_row() -> None:
    rng = np.random.default_rng(0)
    n = 600
    errors = rng.random(n) < 0.2
    blurred = np.where(errors, rng.random(n) < 0.6, rng.random(n) < 0.1)
    bright = rng.random(n) < 0.3
    own = signs(
        n,
        edge_strength=np.where(blurred, 1.0, 9.0),
        brightness=np.where(bright, 0.9, 0.5),
    )
    tests = {t.name: t for t in rule_tests(own, errors, np.arange(n) // 2, shuffles=500)}
    assert tests["blur"].p_value < 0.01 and tests["blur"].n_fired > 2 * tests["blur"].expected
    assert tests["photometric"].p_value > 0.05
    assert tests["photometric"].expected == pytest.approx(0.3 * errors.sum(), rel=0.15)
    assert tests["mislocated"].n_fired == 0 and tests["mislocated"].p_value == 1
    assert list(tests)[-1] == "any rule"


def test_shuffles_keep_the_rows_of_a_group_together() -> None:
    # Both rows of a group wrong together: shuffled marks come in pairs too, so p is not tiny.
    groups = np.repeat(np.arange(6), 2)
    errors = np.repeat([True, False, False, False, False, False], 2)
    own = signs(12, edge_strength=np.where(errors, 1.0, 9.0))
    blur = rule_tests(own, errors, groups, shuffles=4000)[1]
    assert blur.p_value == pytest.approx(1 / 6, abs=0.02)
