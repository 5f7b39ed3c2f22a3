"""Class figures, operating points, gaps and slices: against scikit-learn and slow searches."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import (
    average_precision_score,
    precision_recall_fscore_support,
    recall_score,
    roc_auc_score,
)

from trustq.errors import TrustqError
from trustq.evaluation.bootstrap import figure_intervals
from trustq.evaluation.slices import age_bands, slice_figures, slice_names
from trustq.metrics.classification import macro_auroc
from trustq.metrics.per_class import (
    class_figures,
    equalised_odds_gaps,
    macro_auprc,
    operating_points,
    positive_score,
    sensitivity_at_specificity,
)
from trustq.metrics.probabilities import softmax

unhurried = settings(deadline=None)  # a busy machine is no failure


def simulated(n=400, k=5, seed=0, decimals=12):
    rng = np.random.default_rng(seed)
    labels = rng.choice(k, n, p=np.arange(1, k + 1) / np.arange(1, k + 1).sum())
    logits = rng.normal(size=(n, k))
    logits[np.arange(n), labels] += 1.5
    return labels, softmax(logits.round(decimals))


@pytest.mark.parametrize("decimals", [0, 12])
def test_class_figures_equal_those_of_scikit_learn(decimals):
    labels, probs = simulated(decimals=decimals)
    predicted = probs.argmax(axis=1)
    precision, recall, f1, support = precision_recall_fscore_support(labels, predicted)
    for c, own in enumerate(class_figures(labels, probs)):
        assert (own.label, own.n) == (c, support[c])
        assert (own.precision, own.recall, own.f1) == pytest.approx(
            (precision[c], recall[c], f1[c])
        )
        assert own.specificity == pytest.approx(recall_score(labels != c, predicted != c))
        assert own.auroc == pytest.approx(roc_auc_score(labels == c, probs[:, c]))
        assert own.auprc == pytest.approx(average_precision_score(labels == c, probs[:, c]))
        assert own.recall_interval.lower <= own.recall <= own.recall_interval.upper
    mean = np.mean([own.auroc for own in class_figures(labels, probs)])
    assert mean == pytest.approx(macro_auroc(labels, probs).value)


def test_macro_auprc_names_the_classes_it_leaves_out():
    labels, probs = simulated()
    kept = labels != 2
    found = macro_auprc(labels[kept], probs[kept])
    expected = [average_precision_score(labels[kept] == c, probs[kept, c]) for c in (0, 1, 3, 4)]
    assert found.value == pytest.approx(np.mean(expected))
    assert (found.n_classes, found.left_out) == (4, (2,))
    assert np.isnan(macro_auprc(np.array([0]), np.array([[0.5, 0.5]])).value)


def test_a_class_that_is_nowhere_has_no_figures():
    absent = class_figures(np.array([0, 0]), np.array([[0.9, 0.1], [0.8, 0.2]]))[1]
    assert np.isnan([absent.recall, absent.precision, absent.f1, absent.auroc]).all()
    assert absent.specificity == 1.0 and np.isnan(absent.recall_interval).all()


binary = st.lists(st.tuples(st.booleans(), st.integers(0, 8)), min_size=2, max_size=60).filter(
    lambda rows: 0 < sum(row[0] for row in rows) < len(rows)
)


@unhurried
@given(binary, binary, st.sampled_from([0.5, 0.8, 0.95, 1.0]))
def test_thresholds_are_the_best_that_validation_allows(test, validation, target):
    (truth, score), (on, by) = (np.array(rows).T for rows in (test, validation))
    truth, on = truth.astype(bool), on.astype(bool)
    options = {"validation_positive": on, "validation_score": by}
    point = sensitivity_at_specificity(truth, score, **options, specificity=target)
    passing = [t for t in by if np.mean(by[~on] < t) >= target]
    assert point.threshold == min(passing, default=np.inf)
    called = score >= point.threshold
    assert point.sensitivity == called[truth].mean()
    assert point.specificity == (~called)[~truth].mean()
    (point,) = operating_points(truth, score, **options, sensitivities=(target,))
    assert point.threshold == max(t for t in by if np.mean(by[on] >= t) >= target - 1e-9)
    assert point.sensitivity == (score >= point.threshold)[truth].mean()


def test_the_threshold_comes_from_validation_and_specificity_is_realised_on_test():
    rng = np.random.default_rng(0)
    validation, test = rng.normal(size=2000), rng.normal(0.5, 1, 2000)
    outcome = np.arange(2000) % 2 == 0
    point = sensitivity_at_specificity(
        outcome, test, validation_positive=outcome, validation_score=validation
    )
    # The test rows score higher, so more than 5 % of their negatives are called.
    assert point.threshold == pytest.approx(1.64, abs=0.15)
    assert point.specificity == pytest.approx(0.87, abs=0.03)
    five = operating_points(outcome, test, validation_positive=outcome, validation_score=validation)
    assert [p.target for p in five] == [0.99, 0.95, 0.90, 0.85, 0.80]
    assert np.all(np.diff([p.threshold for p in five]) > 0)


def test_the_score_of_a_set_is_the_sum_of_its_probabilities():
    probs = simulated()[1]
    assert positive_score(probs, [4, 0, 0]) == pytest.approx(probs[:, 0] + probs[:, 4])


def test_gaps_are_over_known_groups_with_both_outcomes():
    rng = np.random.default_rng(1)
    truth, called = rng.random(300) < 0.4, rng.random(300) < 0.5
    groups = rng.choice(np.array(["a", "b", "c", None, "only"], dtype=object), 300)
    truth[groups == "only"] = True
    gaps = equalised_odds_gaps(truth, called, groups)
    assert gaps.left_out == ("only", "unknown")
    rates = {
        g: (
            recall_score(truth[groups == g], called[groups == g]),
            recall_score(~truth[groups == g], ~called[groups == g]),
        )
        for g in "abc"
    }
    for j, name in enumerate(("sensitivity", "specificity")):
        values = [rate[j] for rate in rates.values()]
        assert getattr(gaps, name) == pytest.approx(max(values) - min(values))
    assert gaps.largest == max(gaps.sensitivity, gaps.specificity, gaps.f1)
    assert set(gaps.by_group) == {"a", "b", "c", "only", "unknown"}
    alone = equalised_odds_gaps(truth, called, np.full(300, "a"))
    assert np.isnan(alone[:4]).all()


def test_slices_are_values_bins_or_unknown():
    names, order = slice_names(np.array(["b", "a", "", None, "a"], dtype=object))
    assert (names.tolist(), order) == (["b", "a", "unknown", "unknown", "a"], ["a", "b", "unknown"])
    numbers = np.append(np.arange(100.0), np.nan)
    names, order = slice_names(numbers)
    assert order[-1] == "unknown" and len(order) == 5
    assert np.bincount([order.index(n) for n in names]).tolist() == [25, 25, 25, 25, 1]
    # Text columns of a CSV hold numbers too; a grade of few values stays as it is.
    assert slice_names(np.array([str(x) for x in range(100)]))[1] == order[:4]
    assert slice_names(np.array([1, 2, 3, 3]))[1] == ["1", "2", "3"]


def test_age_bands_start_at_their_lower_edge():
    names, order = age_bands(np.array(["29", "30", "49.9", "50", "70", "", None], dtype=object))
    assert names.tolist() == ["<30", "30-50", "30-50", "50-70", "70+", "unknown", "unknown"]
    assert order == ["<30", "30-50", "50-70", "70+", "unknown"]


def test_figures_of_a_slice_are_those_of_its_rows():
    labels, probs = simulated()
    values = np.where(np.arange(400) % 3 == 0, "x", "y")
    groups = np.arange(400) // 2
    found = slice_figures(labels, values, probs=probs, groups=groups, seed=0, replicates=50)
    assert [row.value for row in found] == ["x", "y"]
    for row in found:
        chosen = values == row.value
        alone = figure_intervals(
            labels[chosen], probs=probs[chosen], groups=groups[chosen], seed=0, replicates=50
        )
        assert (row.n, row.n_groups) == (chosen.sum(), len(set(groups[chosen])))
        assert row.figures["augrc"] == alone["augrc"]


def test_bad_input_is_refused():
    probs = simulated()[1]
    one, both, score = np.ones(3), np.array([1, 0, 1]), np.arange(3.0)
    options = {"validation_positive": both, "validation_score": score}
    bad = [
        (
            lambda: positive_score(probs, [0, 5]),
            "positive is 0, 5 of 5 classes: pass some of the classes, and not all.",
        ),
        (
            lambda: positive_score(probs, range(5)),
            "positive is 0, 1, 2, 3, 4 of 5 classes: pass some of the classes, and not all.",
        ),
        (
            lambda: operating_points(one, score, **options),
            "positive is always true in 3 rows: sensitivity and specificity need both outcomes.",
        ),
        (
            lambda: sensitivity_at_specificity(
                both, score, validation_positive=0 * one, validation_score=score
            ),
            "validation_positive is never true in 3 rows: "
            "sensitivity and specificity need both outcomes.",
        ),
        (
            lambda: operating_points(both, score[:2], **options),
            "positive has shape (3,) and its score (2,): pass the same rows in the same order.",
        ),
        (
            lambda: operating_points(both, score * np.nan, **options),
            "The score of positive is NaN in 3 rows.",
        ),
        (
            lambda: operating_points(both, score, **options, sensitivities=(95,)),
            "The target is 95, expected a share above 0 and at most 1.",
        ),
        (
            lambda: equalised_odds_gaps(both, both[:2], both),
            "positive has shape (3,), predicted_positive (2,) and groups (3,): "
            "pass the same rows in the same order.",
        ),
        (
            lambda: age_bands(np.array([30, 200])),
            "Age '200' is not a number of years from 0 to 130: write years as a number and nothing "
            "for a blank, or take the column's own values (`slices`).",
        ),
        (
            lambda: slice_figures(both, np.array(["a"]), probs=probs[:3], seed=0),
            "values has 1 row and labels has 3: pass the same rows in the same order.",
        ),
    ]
    for call, message in bad:
        with pytest.raises(TrustqError) as error:
            call()
        assert str(error.value) == message
