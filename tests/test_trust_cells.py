"""Trust cells and the paired answer: by hand, on data whose truth is known, and their refusals."""

import numpy as np
import pytest

from trustq.errors import TrustqError
from trustq.explain.trust_cells import (
    Cuts,
    TrustRows,
    added_value,
    choose_cuts,
    trust_cells,
    verdict,
)


def simulated(seed: int, *, helps: bool, n: int = 3000) -> TrustRows:
    """Rows whose errors depend on confidence and, with `helps`, as much on stability."""
    rng = np.random.default_rng(seed)
    confidence, stability = rng.normal(1.5, 1.2, n), rng.uniform(0, 1, n)
    z = confidence + (4 * (stability - 0.5) if helps else 0)
    correct = rng.random(n) < 1 / (1 + np.exp(-z))
    return TrustRows(correct, confidence, stability, np.arange(n) // 3)


def test_the_eight_cells_hold_each_row_once() -> None:
    rows = simulated(0, helps=True)
    cells = trust_cells(rows, choose_cuts(simulated(1, helps=True)))
    assert sum(cell.n for cell in cells) == len(rows.correct)
    assert sum(cell.share for cell in cells) == pytest.approx(1)
    assert len({(c.correct, c.confident, c.stable) for c in cells}) == 8
    assert all(c.interval.lower <= c.share <= c.interval.upper for c in cells)


def test_cuts_are_those_of_a_search_over_all_values() -> None:
    rows = simulated(2, helps=True, n=200)
    cuts = choose_cuts(rows)
    for values, cut in ((rows.confidence, cuts.confidence), (rows.stability, cuts.stability)):
        gained = [
            (values[rows.correct] >= c).mean() - (values[~rows.correct] >= c).mean()
            for c in np.unique(values)
        ]
        assert cut == np.unique(values)[int(np.argmax(gained))]


def test_risks_at_equal_coverage_by_hand() -> None:
    rows = TrustRows(
        correct=np.array([1, 0, 1, 0, 1, 1]),
        confidence=np.array([6.0, 5, 4, 3, 2, 1]),
        stability=np.array([0.9, 0.1, 0.9, 0.9, 0.1, 0.9]),
        groups=np.arange(6),
    )
    found = added_value([rows], [Cuts(3.0, 0.5, 9)], replicates=200)
    # Confident: the first four, two wrong. Stable of these: 0, 2, 3, one wrong of three. The three
    # most confident: 0, 1, 2, one wrong of three.
    assert found.coverage == pytest.approx(3 / 6) and found.risk_confident == pytest.approx(2 / 4)
    assert found.risk_stable == pytest.approx(1 / 3)
    assert found.risk_matched == pytest.approx(1 / 3)
    assert found.difference == pytest.approx(0) and not found.adds


def test_equal_confidences_are_accepted_in_part() -> None:
    rows = TrustRows(
        correct=np.array([0, 1, 1, 1]),
        confidence=np.ones(4),
        stability=np.array([0.0, 0, 1, 1]),
        groups=np.arange(4),
    )
    found = added_value([rows], [Cuts(1.0, 0.5, 9)], replicates=200)
    assert found.risk_matched == pytest.approx(1 / 4) and found.risk_stable == 0


def test_stability_that_helps_is_a_yes_and_noise_is_a_no() -> None:
    helpful = [simulated(seed, helps=True) for seed in range(3)]
    found = added_value(helpful, [choose_cuts(simulated(9, helps=True))] * 3, replicates=2000)
    assert found.adds and verdict(found).startswith("Yes: stability lowers the risk")
    assert found.sign_flip.floor == 0.25 and "at least 0.25 with 3" in verdict(found)
    useless = [simulated(seed, helps=False) for seed in range(3)]
    cuts = Cuts(0.5, 0.5, 100)
    none = added_value(useless, [cuts] * 3, replicates=2000)
    assert not none.adds and verdict(none).startswith("No: ")


def test_useless_stability_is_rarely_called_useful() -> None:
    called = 0
    for seed in range(100):
        rows = simulated(seed, helps=False, n=600)
        called += added_value([rows], [Cuts(0.5, 0.5, 9)], replicates=300, seed=seed).adds
    assert called <= 8  # 2.5 % expected; 8 has a probability below .01


def test_a_blank_map_is_not_stable() -> None:
    rows = TrustRows(np.array([1, 0]), np.ones(2), np.array([np.nan, 0.9]), np.arange(2))
    stable = [cell for cell in trust_cells(rows, Cuts(0.5, 0.5, 9)) if cell.stable and cell.n]
    assert [(c.correct, c.n) for c in stable] == [(False, 1)]


def test_all_rows_right_is_told() -> None:
    rows = TrustRows(np.ones(5), np.arange(5.0), np.arange(5.0), np.arange(5))
    with pytest.raises(TrustqError) as error:
        choose_cuts(rows)
    assert str(error.value) == (
        "All 5 validation rows are right, so no cut tells right from wrong ones. Give more "
        "validation rows, or state both cuts (`confidence_cut`, `stability_cut`)."
    )


def test_a_cut_that_nothing_meets_is_told() -> None:
    rows = simulated(0, helps=True, n=50)
    with pytest.raises(TrustqError, match="^No test row is confident and stable in one of the "):
        added_value([rows], [Cuts(99.0, 0.5, 9)])
