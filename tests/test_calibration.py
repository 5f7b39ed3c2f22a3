"""Temperature scaling: against scikit-learn and scipy, and where no temperature is determined."""

import warnings
from pathlib import Path

import numpy as np
import pytest
import sklearn
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize_scalar
from sklearn.base import BaseEstimator, ClassifierMixin, clone
from sklearn.calibration import CalibratedClassifierCV
from sklearn.exceptions import NotFittedError

from trustq.calibration.temperature import (
    MANY_ROWS,
    DegenerateCalibrationWarning,
    TemperatureScaling,
)
from trustq.errors import TrustqError
from trustq.evaluation.predictions import read_predictions
from trustq.metrics.classification import summarise
from trustq.metrics.probabilities import log_softmax, logits_from_probs, softmax

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"
needs_shared = pytest.mark.skipif(
    not (SHARED / "predictions_cifar").is_dir(), reason=f"no {SHARED}/predictions_cifar"
)
unhurried = settings(deadline=None)  # a busy machine is no failure


def simulated(n=500, k=7, seed=0, scale=1.0):
    """Labels drawn from softmax(logits / scale), so that `scale` is the true temperature."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(size=(n, k)) * 2
    labels = (log_softmax(logits) + rng.gumbel(size=(n, k))).argmax(axis=1)
    return scale * logits, labels


def nll(logits, labels, temperature=1.0):
    return -np.mean(log_softmax(logits / temperature)[np.arange(len(labels)), labels])


@pytest.mark.parametrize("scale", [0.02, 0.5, 1.0, 3.0, 200.0])
def test_temperature_equals_a_scipy_search(scale):
    logits, labels = simulated(scale=scale)
    best = minimize_scalar(
        lambda u: nll(logits, labels, np.exp(u)), bounds=(-6.9, 6.9), options={"xatol": 1e-12}
    )
    found = TemperatureScaling().fit(logits, labels).temperature_
    assert np.log(found) == pytest.approx(best.x, abs=1e-6)  # a search on values ends at sqrt(eps)


@pytest.mark.parametrize("stored", [np.float64, np.float32, np.float16, 7, 5, 4])
def test_temperature_of_probabilities_is_that_of_the_network_however_they_are_stored(
    stored, tmp_path
):
    # scikit-learn takes some for logits: findings/sklearn-temperature-of-rounded-probabilities.sh.
    logits, labels = simulated(n=3000, k=5, scale=3.0)
    probs = softmax(logits)
    probs = probs.round(stored) if isinstance(stored, int) else probs.astype(stored)
    np.savez(tmp_path / "p.npz", probs=probs, labels=labels)
    found = read_predictions(tmp_path / "p.npz")
    scaler = TemperatureScaling().fit(logits_from_probs(found.probs), found.labels)
    assert 2.7 < scaler.temperature_ < 4  # 4 digits: zeros count as 1e-12


@pytest.mark.parametrize("scale", [0.02, 0.5, 1.0, 3.0, 200.0])
def test_temperature_is_exact_to_1e_8(scale):
    logits, labels = simulated(scale=scale)
    found = TemperatureScaling().fit(logits, labels).temperature_

    def slope(log_inverse):
        weights = softmax(np.exp(log_inverse) * logits)
        return np.mean((weights * logits).sum(axis=1) - logits[np.arange(len(labels)), labels])

    # The slope is increasing in log(1/T): its sign changes within 1e-8 of the answer.
    assert slope(-np.log(found) - 1e-8) < 0 < slope(-np.log(found) + 1e-8)


class Scores(ClassifierMixin, BaseEstimator):
    """A fitted classifier whose decision function is its input."""

    def fit(self, logits, labels):
        self.classes_ = np.unique(labels)
        return self

    def decision_function(self, logits):
        return logits

    def predict(self, logits):
        return self.classes_[logits.argmax(axis=1)]


@pytest.mark.skipif(
    tuple(int(part) for part in sklearn.__version__.split(".")[:2]) < (1, 8),
    reason='scikit-learn before 1.8 has no method="temperature"',
)
def test_temperature_equals_that_of_scikit_learn():
    from sklearn.frozen import FrozenEstimator

    logits, labels = simulated(scale=2.5)
    frozen = FrozenEstimator(Scores().fit(logits, labels))
    theirs = CalibratedClassifierCV(frozen, method="temperature").fit(logits, labels)
    ours = TemperatureScaling().fit(logits, labels)
    assert ours.predict_proba(logits) == pytest.approx(theirs.predict_proba(logits), abs=1e-6)


@needs_shared
@pytest.mark.parametrize(
    ("network", "temperature", "nll_after"),
    [("wideresnet-16-4", 2.0517, 0.2743), ("lenet-5", 1.3968, 1.3115)],
)
def test_reference_temperature_on_public_predictions(network, temperature, nll_after):
    with np.load(SHARED / "predictions_cifar" / f"{network}-cifar-10.npz") as stored:
        labels, probs = stored["ground_truth"], stored["predictions"]
    logits = logits_from_probs(probs)
    scaler = TemperatureScaling().fit(logits, labels)
    assert scaler.temperature_ == pytest.approx(temperature, abs=5e-5)
    after = summarise(labels, logits=scaler.transform(logits)).figures["nll"]
    assert after == pytest.approx(nll_after, abs=5e-5)


@pytest.mark.parametrize("scale", [0.3, 1.0, 4.0])
def test_temperature_recovers_a_known_scale(scale):
    logits, labels = simulated(n=20_000, scale=scale)
    found = TemperatureScaling().fit(logits, labels).temperature_
    assert found == pytest.approx(scale, rel=0.03)


@pytest.mark.parametrize("scale", [0.05, 1.0, 40.0])
def test_many_rows_are_solved_as_exactly_as_few(scale):
    logits, labels = simulated(n=MANY_ROWS, scale=scale)
    found = TemperatureScaling().fit(logits, labels).temperature_
    low, high = -np.log(found) - 1, -np.log(found) + 1
    while high - low > 1e-10:  # bisection on the slope
        middle = (low + high) / 2
        weights = softmax(np.exp(middle) * logits)
        gap = (weights * logits).sum(axis=1) - logits[np.arange(len(labels)), labels]
        low, high = (low, middle) if gap.mean() > 0 else (middle, high)
    assert np.log(found) == pytest.approx(-low, abs=1e-8)


def test_many_rows_without_a_minimum_have_their_answer():
    logits = np.tile([[1.0, 0.0], [0.0, 3.0]], (MANY_ROWS // 2, 1))
    labels = np.tile([1, 0], MANY_ROWS // 2)
    labels[0] = 0
    with pytest.warns(DegenerateCalibrationWarning) as caught:
        scaler = TemperatureScaling().fit(logits, labels)
    assert scaler.temperature_ == 1000
    assert str(caught[0].message) == (
        "the NLL still falls at the largest temperature, as with chance predictions "
        "(T = 1000, 20,000 rows)"
    )


def test_scaling_the_logits_scales_the_temperature():
    logits, labels = simulated()
    once = TemperatureScaling().fit(logits, labels).temperature_
    shifted = 5 * logits + np.random.default_rng(0).normal(size=(len(logits), 1))
    assert TemperatureScaling().fit(shifted, labels).temperature_ == pytest.approx(5 * once)


small = st.lists(st.tuples(st.integers(0, 2), *[st.integers(-40, 40)] * 3), min_size=1, max_size=12)


@unhurried
@given(small)
def test_temperature_leaves_argmax_alone_and_never_raises_the_nll(drawn):
    drawn = np.array(drawn)
    logits, labels = drawn[:, 1:] / 4, drawn[:, 0]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DegenerateCalibrationWarning)
        scaler = TemperatureScaling().fit(logits, labels)
    assert 1e-3 <= scaler.temperature_ <= 1e3
    scaled = scaler.transform(logits)
    assert np.array_equal(scaled.argmax(axis=1), logits.argmax(axis=1))
    assert nll(scaled, labels) <= nll(logits, labels) + 1e-9
    for other in (0.01, 0.3, 3.0, 100.0):
        assert nll(scaled, labels) <= nll(logits, labels, other) + 1e-9


def test_row_order_does_not_change_the_temperature():
    logits, labels = simulated()
    rows = np.random.default_rng(1).permutation(len(labels))
    once = TemperatureScaling().fit(logits, labels).temperature_
    again = TemperatureScaling().fit(logits[rows], labels[rows]).temperature_
    assert again == pytest.approx(once, rel=1e-12)


def test_a_class_missing_from_fit_keeps_its_column():
    logits, labels = simulated()
    seen = labels != 3
    scaler = TemperatureScaling().fit(logits[seen], labels[seen])
    probs = scaler.predict_proba(logits)
    assert probs.shape == logits.shape
    assert probs.sum(axis=1) == pytest.approx(1)


@pytest.mark.parametrize(
    ("logits", "labels", "temperature", "message"),
    [
        (
            [[1.0, 0.0], [0.0, 3.0]],
            [0, 1],
            1e-3,
            "every fitting row is right, so that the NLL falls as T goes to 0 (T = 0.001, 2 rows)",
        ),
        (
            [[1.0, 0.0], [0.0, 3.0]],
            [1, 0],
            1e3,
            "the NLL still falls at the largest temperature, as with chance predictions "
            "(T = 1000, 2 rows)",
        ),
        (
            [[1.0, 0.5, -9.0], [0.5, 1.0, -9.0]],
            [1, 0],
            None,
            "every fitting row is wrong (T = 3.39623, 2 rows)",
        ),
        (
            [[2.0, 2.0], [7.0, 7.0]],
            [1, 0],
            1.0,
            "every row of logits is constant, so that no temperature changes a probability "
            "(T = 1, 2 rows)",
        ),
        (
            [[1.0, 0.0]] * 4 + [[0.0, 1.0]],
            [0] * 5,
            1 / np.log(4),
            "every fitting row has label 0 (T = 0.721348, 5 rows)",
        ),
        (
            [[1e-6, 0.0], [1e-3, 0.0], [1e-3, 0.0]],
            [1, 0, 0],
            1e-3,
            "the NLL still falls at the smallest temperature (T = 0.001, 3 rows)",
        ),
    ],
)
def test_degenerate_rows_have_an_answer_and_a_warning(logits, labels, temperature, message):
    logits, labels = np.array(logits), np.array(labels)
    with pytest.warns(DegenerateCalibrationWarning) as caught:
        scaler = TemperatureScaling().fit(logits, labels)
    assert [str(warning.message) for warning in caught] == [message]
    assert np.isfinite(scaler.predict_proba(logits)).all()
    if temperature is not None:
        assert scaler.temperature_ == pytest.approx(temperature, rel=1e-8)


def test_the_estimator_keeps_the_contract_of_scikit_learn():
    logits, labels = simulated()
    scaler = TemperatureScaling()
    assert scaler.fit(logits, labels) is scaler
    assert scaler.predict_proba(logits) == pytest.approx(softmax(scaler.transform(logits)))
    with pytest.raises(NotFittedError):
        clone(scaler).transform(logits)


def test_bad_rows_are_refused():
    logits, labels = simulated(n=4, k=3)
    scaler = TemperatureScaling().fit(*simulated(k=3))
    bad = [
        (
            lambda: scaler.transform(np.zeros((1, 4))),
            "logits has 4 columns, but the temperature was fitted on 3: "
            "pass logits of the same classes.",
        ),
        (
            lambda: TemperatureScaling().fit(np.zeros((0, 3)), np.array([], int)),
            "logits is empty: pass at least one row.",
        ),
        (
            lambda: TemperatureScaling().fit(logits, labels[:3]),
            "labels has 3 rows and logits has 4: pass the same rows in the same order.",
        ),
        (
            lambda: TemperatureScaling().fit(logits, np.array([0, 1, 2, 3])),
            "labels holds class 3, but logits has columns for 0 to 2: "
            "give every class its column, in class order.",
        ),
        (
            lambda: TemperatureScaling().fit(np.full((4, 3), np.nan), labels),
            "logits has NaN or infinite values in 4 of 4 rows, first in row 0: "
            "leave these rows out, or clip log-probabilities of zero.",
        ),
    ]
    for call, message in bad:
        with pytest.raises(TrustqError) as error:
            call()
        assert str(error.value) == message


def test_log_softmax_is_exact_near_one_and_far_from_it():
    logits = np.array([[80.0, 0.0], [0.0, -2000.0]])
    assert log_softmax(logits)[0, 0] == pytest.approx(-np.exp(-80), rel=1e-12)
    assert log_softmax(logits)[1].tolist() == [0.0, -2000.0]


def test_logits_of_stored_probabilities_give_them_back():
    probs = softmax(np.random.default_rng(0).normal(size=(50, 7)) * 3)
    assert softmax(logits_from_probs(probs)) == pytest.approx(probs, abs=1e-15)
    floored = logits_from_probs(np.array([[1.0, 0.0]]))
    assert floored.tolist() == [[0.0, np.log(1e-12)]]
