"""Class and calibration figures: against scikit-learn and what must hold for any predictions."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import (
    accuracy_score,
    balanced_accuracy_score,
    f1_score,
    log_loss,
    roc_auc_score,
)

from trustq.errors import TrustqError
from trustq.evaluation import influence
from trustq.evaluation.bootstrap import figure_intervals
from trustq.metrics import classification as metrics
from trustq.metrics.calibration_error import calibration_errors
from trustq.metrics.classification import selective, summarise
from trustq.metrics.operating_points import top_k_accuracies
from trustq.metrics.probabilities import log_softmax, logits_from_probs, softmax
from trustq.metrics.ranking import falling_order

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"
needs_shared = pytest.mark.skipif(
    not (SHARED / "predictions_cifar").is_dir(), reason=f"no {SHARED}/predictions_cifar"
)
unhurried = settings(deadline=None)  # a busy machine is no failure

# Labels, predictions of a few classes, some of which are absent from one side or both.
pairs = st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), min_size=1, max_size=40)


def simulated(n=300, k=7, seed=0, scale=2.0):
    rng = np.random.default_rng(seed)
    labels = rng.choice(k, n, p=np.arange(1, k + 1) / np.arange(1, k + 1).sum())
    logits = rng.normal(size=(n, k))
    logits[np.arange(n), labels] += 1.5
    return labels, scale * logits


@unhurried
@given(pairs)
def test_class_figures_equal_those_of_scikit_learn(drawn):
    labels, predicted = np.array(drawn).T
    assert metrics.accuracy(labels, predicted) == pytest.approx(accuracy_score(labels, predicted))
    f1 = f1_score(labels, predicted, average="macro", zero_division=0)
    assert metrics.macro_f1(labels, predicted) == pytest.approx(f1)
    # scikit-learn warns of predicted classes without labels, so ask for recalls instead.
    present = np.unique(labels)
    recalls = [np.mean(predicted[labels == c] == c) for c in present]
    assert metrics.balanced_accuracy(labels, predicted) == pytest.approx(np.mean(recalls))
    if set(predicted) <= set(labels) and len(present) > 1:
        expected = balanced_accuracy_score(labels, predicted)
        assert metrics.balanced_accuracy(labels, predicted) == pytest.approx(expected)


def test_huge_class_indices_need_no_square_of_memory():
    labels = np.array([0, 10**9, 10**9])
    assert metrics.macro_f1(labels, labels) == 1.0


@pytest.mark.parametrize("decimals", [1, 15])
def test_macro_auroc_equals_that_of_scikit_learn(decimals):
    labels, logits = simulated()
    probs = softmax(logits)
    probs[:, 1:] = probs[:, 1:].round(decimals) / (1 + 1e-9)  # one decimal: many ties
    probs /= probs.sum(axis=1, keepdims=True)
    found = metrics.macro_auroc(labels, probs)
    expected = roc_auc_score(labels, probs, multi_class="ovr", average="macro")
    assert found.value == pytest.approx(expected, abs=1e-12)
    assert (found.n_classes, found.left_out) == (7, ())


def test_macro_auroc_names_the_classes_it_leaves_out():
    labels, logits = simulated(k=4)
    kept = labels != 2
    found = metrics.macro_auroc(labels[kept], softmax(logits[kept]))
    expected = [roc_auc_score(labels[kept] == c, softmax(logits)[kept, c]) for c in (0, 1, 3)]
    assert found.value == pytest.approx(np.mean(expected), abs=1e-12)
    assert (found.n_classes, found.left_out) == (3, (2,))


def test_macro_auroc_of_one_class_is_undefined():
    found = metrics.macro_auroc(np.array([1, 1]), np.array([[0.5, 0.5], [0.2, 0.8]]))
    assert np.isnan(found.value)
    assert (found.n_classes, found.left_out) == (0, (0, 1))


def test_nll_equals_that_of_scikit_learn():
    labels, logits = simulated()
    probs = softmax(logits)
    expected = log_loss(labels, probs, labels=np.arange(7))
    assert metrics.nll(labels, probs) == pytest.approx(expected, abs=1e-12)
    assert summarise(labels, logits=logits).figures["nll"] == pytest.approx(expected, abs=1e-12)


def test_nll_stays_finite_when_the_label_was_impossible():
    probs = np.array([[1.0, 0.0]])
    assert metrics.nll(np.array([1]), probs) == pytest.approx(-np.log(1e-12))
    assert metrics.nll(np.array([0]), probs) == 0.0


def test_brier_is_twice_the_binary_score():
    rng = np.random.default_rng(0)
    labels, p = rng.integers(0, 2, 100), rng.random(100)
    probs = np.stack([1 - p, p], axis=1)
    assert metrics.brier_score(labels, probs) == pytest.approx(2 * np.mean((p - labels) ** 2))
    assert metrics.brier_score(np.array([1]), np.array([[1.0, 0.0]])) == 2.0


def ece_by_loop(labels, probs):
    confidence, right = probs.max(axis=1), probs.argmax(axis=1) == labels
    total = 0.0
    for b in range(15):
        inside = (confidence > b / 15) & (confidence <= (b + 1) / 15)
        if inside.any():
            total += inside.mean() * abs(confidence[inside].mean() - right[inside].mean())
    return total


def test_ece_equals_a_loop_over_bins():
    labels, logits = simulated(n=1000)
    probs = softmax(logits)
    found = metrics.expected_calibration_error(labels, probs)
    assert found == pytest.approx(ece_by_loop(labels, probs), abs=1e-12)


def test_ece_puts_an_edge_in_the_bin_below_and_one_in_the_last():
    # 9/15 belongs to (8/15, 9/15], so it shares no bin with .62; errors there do not cancel.
    probs = np.array([[9 / 15, 6 / 15], [0.62, 0.38]])
    ece = metrics.expected_calibration_error(np.array([0, 1]), probs)
    assert ece == pytest.approx((0.4 + 0.62) / 2)
    assert metrics.expected_calibration_error(np.array([0]), np.array([[1.0, 0.0]])) == 0.0


@needs_shared
@pytest.mark.parametrize(("network", "ece"), [("wideresnet-16-4", 0.0537), ("lenet-5", 0.1079)])
def test_reference_ece_on_public_predictions(network, ece):
    with np.load(SHARED / "predictions_cifar" / f"{network}-cifar-10.npz") as stored:
        labels, probs = stored["ground_truth"], stored["predictions"]
    found = metrics.expected_calibration_error(labels, probs)
    assert found == pytest.approx(ece, abs=5e-5)
    summary = summarise(labels, probs=probs)
    assert summary.figures["ece"] == found
    assert summary.ranking == "probability"


@pytest.mark.parametrize("scale", [0.1, 2.0, 30.0])
def test_summarise_equals_the_single_figures(scale):
    labels, logits = simulated(scale=scale)
    probs = softmax(logits)
    predicted, wrong = probs.argmax(axis=1), probs.argmax(axis=1) != labels
    top, log_odds = probs.max(axis=1), selective.log_odds_confidence(logits)
    expected = {
        "accuracy": metrics.accuracy(labels, predicted),
        "balanced_accuracy": metrics.balanced_accuracy(labels, predicted),
        "macro_f1": metrics.macro_f1(labels, predicted),
        "macro_auroc": metrics.macro_auroc(labels, probs).value,
        "nll": metrics.nll(labels, probs),
        "brier": metrics.brier_score(labels, probs),
        "ece": metrics.expected_calibration_error(labels, probs),
        "aurc": selective.aurc(wrong, top),
        "e_aurc": selective.e_aurc(wrong, top),
        "augrc": selective.augrc(wrong, top),
        "coverage_at_0_5": selective.coverage_at(top, threshold=0.5),
        "risk_at_0_5": selective.risk_at(wrong, top, threshold=0.5),
    }
    of_probs = summarise(labels, probs=probs)
    assert of_probs.ranking == "probability"
    assert of_probs.figures == pytest.approx(expected, abs=1e-14, nan_ok=True)
    # Where softmax saturates, log-odds rank finer and the NLL is not clipped.
    expected["nll"] = -np.mean(log_softmax(logits)[np.arange(300), labels])
    for name in ("aurc", "e_aurc", "augrc"):
        expected[name] = getattr(selective, name)(wrong, log_odds)
    of_logits = summarise(labels, logits=logits)
    assert of_logits.ranking == "log_odds"
    auroc = of_logits.figures.pop("macro_auroc")
    assert auroc == pytest.approx(expected.pop("macro_auroc"), abs=1e-12 if scale < 30 else 1e-3)
    assert of_logits.figures == pytest.approx(expected, abs=1e-12, nan_ok=True)


def test_summarise_of_log_probabilities_equals_that_of_logits():
    labels, logits = simulated()
    of_logits = summarise(labels, logits=logits)
    of_log_probs = summarise(labels, logits=log_softmax(logits))
    assert of_log_probs.figures == pytest.approx(of_logits.figures, abs=1e-12)


@unhurried
@given(st.integers(0, 10_000))
def test_row_order_and_class_names_change_no_figure(seed):
    labels, logits = simulated(n=40, k=4, seed=seed)
    rng = np.random.default_rng(seed)
    expected = summarise(labels, logits=logits).figures
    rows = rng.permutation(40)
    assert summarise(labels[rows], logits=logits[rows]).figures == pytest.approx(
        expected, abs=1e-12, nan_ok=True
    )
    # Column j of the new logits is class classes[j] of the old.
    classes = rng.permutation(4)
    renamed = np.argsort(classes)[labels]
    assert summarise(renamed, logits=logits[:, classes]).figures == pytest.approx(
        expected, abs=1e-12, nan_ok=True
    )


def test_a_perfect_and_a_hopeless_prediction_reach_the_bounds():
    logits = np.array([[800.0, 0.0], [0.0, 800.0]])
    best = summarise(np.array([0, 1]), logits=logits).figures
    worst = summarise(np.array([1, 0]), logits=logits).figures
    for name in ("accuracy", "balanced_accuracy", "macro_f1", "macro_auroc", "coverage_at_0_5"):
        assert best[name] == 1.0
    for name in ("nll", "brier", "ece", "aurc", "e_aurc", "augrc", "risk_at_0_5"):
        assert best[name] == 0.0
    assert (worst["nll"], worst["brier"], worst["ece"]) == (800.0, 2.0, 1.0)
    assert (worst["aurc"], worst["augrc"], worst["macro_auroc"]) == (1.0, 0.5, 0.0)


def test_one_sample_of_one_class_has_every_figure_but_auroc_and_risk():
    summary = summarise(np.array([0]), logits=np.array([[0.1, 0.0, 0.0]]))
    undefined = [name for name, value in summary.figures.items() if np.isnan(value)]
    assert undefined == ["macro_auroc", "risk_at_0_5"]
    assert summary.left_out == (0, 1, 2)
    assert summary.figures["coverage_at_0_5"] == 0.0


def test_a_tie_of_two_classes_is_kept_at_one_half():
    figures = summarise(np.array([0]), logits=np.array([[3.0, 3.0]])).figures
    assert figures["coverage_at_0_5"] == 1.0


def test_log_loss_is_that_of_the_values_whatever_their_float_type():
    # scikit-learn clips by the type's own resolution: findings/sklearn-log-loss-by-float-type.sh.
    probs = np.array([[1.0, 0.0], [0.25, 0.75]])
    labels = np.array([1, 1])
    found = {
        t: summarise(labels, probs=probs.astype(t)).figures["nll"]
        for t in (np.float64, np.float32, np.float16)
    }
    assert len(set(found.values())) == 1 and found[np.float16] > 13


@pytest.mark.parametrize("precision", [np.float32, np.float64])
def test_large_logits_are_ranked_as_they_are(precision):
    # torchmetrics ranks their float32 sigmoid: findings/torchmetrics-auroc-of-large-logits.sh.
    logits = np.array([[0.0, 18.0], [0.0, 20.0], [0.0, 25.0], [0.0, 30.0]], dtype=precision)
    assert summarise(np.array([0, 0, 1, 1]), logits=logits).figures["macro_auroc"] == 1.0


def test_a_class_without_rows_is_left_out_of_macro_auroc_and_named():
    # torchmetrics counts it as 0: findings/torchmetrics-auroc-of-an-absent-class.sh.
    probs = np.array([[0.8, 0.1, 0.1], [0.6, 0.3, 0.1], [0.2, 0.7, 0.1], [0.3, 0.6, 0.1]])
    found = summarise(np.array([0, 0, 1, 1]), probs=probs)
    assert found.figures["macro_auroc"] == 1.0 and found.left_out == (2,)


def test_float32_logits_give_the_figures_of_their_float64():
    labels, logits = simulated()
    single = logits.astype(np.float32)
    assert summarise(labels, logits=single) == summarise(labels, logits=single.astype(float))


@pytest.mark.parametrize(
    ("labels", "logits", "message"),
    [
        (
            np.array([0, 1]),
            np.array([[0.0, np.nan], [0.0, 1.0]]),
            "logits has NaN or infinite values in 1 of 2 rows, first in row 0: "
            "leave these rows out, or clip log-probabilities of zero.",
        ),
        (
            np.array([0, 2]),
            np.zeros((2, 2)),
            "labels holds class 2, but logits has columns for 0 to 1: "
            "give every class its column, in class order.",
        ),
        (
            np.array([0, -1]),
            np.zeros((2, 2)),
            "labels holds -1, expected class indices from 0: leave out the rows without a label.",
        ),
        (
            np.array([0, 1, 1]),
            np.zeros((2, 2)),
            "labels has 3 rows and logits has 2: pass the same rows in the same order.",
        ),
        (
            np.array([[0], [1]]),
            np.zeros((2, 2)),
            "labels has shape (2, 1), expected (n,): pass one class index per row.",
        ),
        (
            np.array([0.0, 1.0]),
            np.zeros((2, 2)),
            "labels holds float64, expected integers: pass class indices, not names.",
        ),
        (np.array([], int), np.zeros((0, 2)), "logits is empty: pass at least one row."),
        (
            np.array([0, 1]),
            np.zeros(2),
            "logits has shape (2,), expected (n, k) with k >= 2: "
            "pass one row per sample and one column per class.",
        ),
    ],
)
def test_bad_logits_and_labels_are_refused(labels, logits, message):
    with pytest.raises(TrustqError) as error:
        summarise(labels, logits=logits)
    assert str(error.value) == message


@pytest.mark.parametrize(
    ("probs", "message"),
    [
        (
            [[0.5, 0.5], [0.5, 0.4]],
            "probs row 1 sums to 0.9, expected 1: normalize the rows, or pass logits.",
        ),
        (
            [[0.5, 0.5], [2.0, -1.0]],
            "probs lies in [-1, 2], expected [0, 1]: "
            "pass probabilities, or pass these numbers as logits.",
        ),
    ],
)
def test_rows_that_are_no_probabilities_are_refused(probs, message):
    labels, probs = np.array([0, 1]), np.array(probs)
    figures = (
        metrics.nll,
        metrics.brier_score,
        metrics.expected_calibration_error,
        metrics.macro_auroc,
    )
    for figure in figures:
        with pytest.raises(TrustqError) as error:
            figure(labels, probs)
        assert str(error.value) == message
    with pytest.raises(TrustqError) as error:
        logits_from_probs(probs)
    assert str(error.value) == message


def test_summarise_wants_logits_or_probs_and_not_both():
    with pytest.raises(TrustqError) as error:
        summarise(np.array([0]))
    assert str(error.value) == (
        "summarise was given neither of logits and probs: "
        "pass logits, or probs where no logits were stored."
    )
    with pytest.raises(TrustqError) as error:
        summarise(np.array([0]), logits=np.zeros((1, 2)), probs=np.full((1, 2), 0.5))
    assert str(error.value) == (
        "summarise was given both of logits and probs: "
        "pass logits, or probs where no logits were stored."
    )


def test_predictions_of_other_rows_are_refused():
    for figure in (metrics.accuracy, metrics.balanced_accuracy, metrics.macro_f1):
        with pytest.raises(TrustqError) as error:
            figure(np.array([0, 1]), np.array([0]))
        assert str(error.value) == (
            "labels has 2 rows and predicted has 1: pass the same rows in the same order."
        )


@unhurried
@given(st.integers(0, 10_000))
def test_a_class_of_zero_probability_changes_only_what_counts_classes(seed):
    labels, logits = simulated(n=40, k=4, seed=seed)
    probs = softmax(logits)
    wider = np.hstack([probs, np.zeros((40, 1))])
    once, again = summarise(labels, probs=probs), summarise(labels, probs=wider)
    # Not even macro_auroc: the class has no rows, so it is named and left out.
    assert again.figures == pytest.approx(once.figures, abs=1e-12, nan_ok=True)
    assert again.left_out == (*once.left_out, 4)
    errors, wider_errors = (calibration_errors(labels, p) for p in (probs, wider))
    # The classwise error is a mean over classes, of which the new one is perfect.
    errors["ece_classwise"] *= 4 / 5
    assert wider_errors == pytest.approx(errors, abs=1e-9)


@pytest.mark.parametrize("n", [3, 1024, 1025, 5000])
@pytest.mark.parametrize("kind", ["float64", "float32", "ties", "float32 ties", "ends", "zeros"])
def test_the_falling_order_is_the_stable_sort(n: int, kind: str) -> None:
    rng = np.random.default_rng(0)
    scores = rng.normal(size=n)
    if "float32" in kind:
        scores = scores.astype(np.float32).astype(np.float64)
    if "ties" in kind:
        scores = scores.round(1) if kind == "ties" else (scores * 4).round() / 4
    if kind == "ends":
        scores[rng.integers(0, n, 3)] = np.inf, -np.inf, 1e300
    if kind == "zeros":
        scores = np.where(scores > 0, 0.0, -0.0)
    assert (falling_order(scores) == np.argsort(-scores, kind="stable")).all()


def test_top_k_takes_equal_probabilities_in_the_order_of_classes() -> None:
    rng = np.random.default_rng(0)
    probs = rng.integers(0, 4, size=(500, 6)) + 1e-3
    probs /= probs.sum(axis=1, keepdims=True)
    labels = rng.integers(0, 6, 500)
    first = np.argsort(-probs, axis=1, kind="stable")
    found = top_k_accuracies(labels, probs)
    for k in (1, 2, 3, 5):
        assert found[f"top_{k}"] == (first[:, :k] == labels[:, None]).any(axis=1).mean()


@pytest.mark.parametrize("kind", ["probs", "logits"])
def test_averages_over_classes_are_those_of_blocks_of_any_size(
    monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    rng = np.random.default_rng(0)
    labels, logits = rng.integers(0, 5, 3000), rng.normal(size=(3000, 5)).round(1)
    given = {kind: logits if kind == "logits" else softmax(logits)}
    names = ("macro_auroc", "macro_auprc")
    whole = figure_intervals(labels, **given, seed=0, figures=names)
    monkeypatch.setattr(influence, "BLOCK", 6000)
    assert figure_intervals(labels, **given, seed=0, figures=names) == whole
