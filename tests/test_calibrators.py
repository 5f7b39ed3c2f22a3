"""Vector scaling, noise-aware temperature and other libraries' calibrators."""

import sys
import warnings

import numpy as np
import pytest
from scipy.optimize import minimize
from sklearn.base import clone

from trustq.calibration.registry import (
    NAMES,
    NetcalCalibration,
    SklearnCalibration,
    make_calibrator,
)
from trustq.calibration.temperature import (
    DegenerateCalibrationWarning,
    NoiseAwareTemperature,
    TemperatureScaling,
    VectorScaling,
    estimate_noise_matrix,
)
from trustq.errors import TrustqError
from trustq.metrics.classification import brier_score, nll
from trustq.metrics.classification import expected_calibration_error as ece
from trustq.metrics.probabilities import log_softmax, logits_from_probs, softmax

REFUSED = (
    "TemperatureScaling was given labels known to be noisy, on which it takes wrong labels for "
    "overconfidence (20 % noise turned a temperature of 2.1 into 5.0): fit on clean labels, "
    "correct with NoiseAwareTemperature and a noise matrix, or pass accept_noisy=True."
)
ASYMMETRIC = np.array([[0.6, 0.4, 0.0], [0.05, 0.9, 0.05], [0.0, 0.0, 1.0]])


def simulated(n=600, k=3, seed=0, scale=2.0):
    """Labels drawn from softmax(logits / scale)."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(size=(n, k)) * 2
    labels = (log_softmax(logits) + rng.gumbel(size=(n, k))).argmax(axis=1)
    return scale * logits, labels


def noisy(labels, matrix, seed=0):
    uniform = np.random.default_rng(seed).random(len(labels))
    return (uniform[:, None] >= matrix.cumsum(axis=1)[labels] - 1e-12).sum(axis=1)


def available(name):
    if name.startswith("netcal"):
        pytest.importorskip("netcal")
    if name == "sklearn-temperature":
        import sklearn

        if tuple(map(int, sklearn.__version__.split(".")[:2])) < (1, 8):
            pytest.skip("needs scikit-learn 1.8")
    return make_calibrator(name)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("k", [2, 4])
def test_every_calibrator_has_one_form_and_improves_sharp_probabilities(name, k):
    logits, labels = simulated(n=1500, k=k, scale=3.0)
    fit, rest = slice(0, 1000), slice(1000, None)
    calibrator = available(name)
    assert calibrator.fit(logits[fit], labels[fit]) is calibrator
    probs = calibrator.predict_proba(logits[rest])
    assert probs.shape == (500, k) and probs.sum(axis=1) == pytest.approx(1)
    assert softmax(calibrator.transform(logits[rest])) == pytest.approx(probs, abs=1e-9)
    assert brier_score(labels[rest], probs) < brier_score(labels[rest], softmax(logits[rest]))
    assert ece(labels[rest], probs) < ece(labels[rest], softmax(logits[rest]))
    assert calibrator.labels_used_ == "clean"
    again = clone(calibrator).fit(logits[fit], labels[fit])
    assert again.predict_proba(logits[rest]) == pytest.approx(probs, abs=1e-6)


@pytest.mark.parametrize("name", NAMES)
def test_a_class_without_fitting_rows_keeps_its_column(name):
    logits, labels = simulated(k=4)
    seen = labels != 1
    calibrator = available(name)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DegenerateCalibrationWarning)
        calibrator.fit(logits[seen], labels[seen])
    probs = calibrator.predict_proba(logits)
    assert probs.shape == (600, 4) and np.isfinite(probs).all()
    assert np.isfinite(calibrator.transform(logits)).all()


def test_vector_scaling_equals_a_slow_search():
    logits, labels = simulated(n=300)
    logits = logits * np.array([1.0, 2.0, 0.5]) + np.array([0.5, 0.0, -0.3])
    scaler = VectorScaling().fit(logits, labels)
    centred = logits - logits.mean(axis=1, keepdims=True)

    def loss(values):
        return -np.mean(log_softmax(centred * values[:3] + values[3:])[np.arange(300), labels])

    best = minimize(loss, [1.0] * 3 + [0.0] * 3, method="BFGS", options={"gtol": 1e-7})
    assert nll(labels, scaler.predict_proba(logits)) == pytest.approx(best.fun, abs=1e-9)
    assert scaler.scale_ == pytest.approx(best.x[:3], abs=1e-4)
    assert scaler.offset_ == pytest.approx(best.x[3:] - best.x[3:].mean(), abs=1e-4)
    assert best.fun <= nll(labels, TemperatureScaling().fit(logits, labels).predict_proba(logits))


def test_vector_scaling_ignores_shifts_of_rows():
    logits, labels = simulated()
    shifted = logits + np.random.default_rng(1).normal(size=(len(logits), 1)) * 5
    once, again = (VectorScaling().fit(z, labels).predict_proba(z) for z in (logits, shifted))
    assert again == pytest.approx(once, abs=1e-6)


def test_degenerate_vectors_have_an_answer_and_a_warning():
    logits, labels = simulated(n=60)
    seen = labels != 2
    with pytest.warns(DegenerateCalibrationWarning) as caught:
        scaler = VectorScaling().fit(logits[seen], labels[seen])
    assert [str(warning.message) for warning in caught] == [
        f"no fitting row has class 2, which keeps the best temperature ({seen.sum()} rows)"
    ]
    assert scaler.offset_[2] == 0
    right = np.eye(3)[[0, 1, 2, 0]] * 4.0
    with pytest.warns(DegenerateCalibrationWarning) as caught:
        scaler = VectorScaling().fit(right, np.array([0, 1, 2, 0]))
    assert [str(warning.message) for warning in caught] == [
        "the scales do not settle, as with separable rows (4 rows)"
    ]
    assert np.isfinite(scaler.predict_proba(right)).all()


@pytest.mark.parametrize("seed", range(3))
def test_a_noise_aware_temperature_recovers_that_of_clean_labels(seed):
    logits, labels = simulated(n=20_000, seed=seed)
    observed = noisy(labels, ASYMMETRIC, seed)
    clean = TemperatureScaling().fit(logits, labels).temperature_
    corrected = NoiseAwareTemperature(ASYMMETRIC).fit(logits, observed)
    plain = TemperatureScaling(accept_noisy=True).fit(logits, observed, labels_used="noisy")
    assert corrected.temperature_ == pytest.approx(clean, rel=0.1)
    assert plain.temperature_ > 1.3 * clean
    assert (corrected.labels_used_, plain.labels_used_) == ("noisy, corrected", "noisy")


def test_without_noise_the_corrected_temperature_is_the_plain_one():
    logits, labels = simulated()
    plain = TemperatureScaling().fit(logits, labels).temperature_
    corrected = NoiseAwareTemperature(np.eye(3)).fit(logits, labels, labels_used="clean")
    assert corrected.temperature_ == pytest.approx(plain, rel=1e-7)


def test_the_corrected_temperature_maximises_the_likelihood():
    logits, labels = simulated()
    observed = noisy(labels, ASYMMETRIC)
    found = NoiseAwareTemperature(ASYMMETRIC).fit(logits, observed).temperature_

    def likelihood(t):
        return np.log((softmax(logits / t) @ ASYMMETRIC)[np.arange(600), observed]).sum()

    for t in np.append(np.geomspace(0.2, 1e2, 200), [found * 0.9999, found * 1.0001]):
        assert likelihood(found) >= likelihood(t) - 1e-9


def test_a_transposed_or_mismatched_matrix_is_caught():
    logits, labels = simulated(n=30)
    bad = [
        (
            ASYMMETRIC.T,
            "noise_matrix row 0 sums to 0.65, expected 1, and its columns do: it is transposed. "
            "Rows are true classes, columns observed ones; cleanlab's noise_matrix needs a .T.",
        ),
        (
            np.eye(4),
            "noise_matrix has shape (4, 4), expected (3, 3): "
            "one row per true class, one column per observed class.",
        ),
        (
            0.5 * np.eye(3),
            "noise_matrix row 0 sums to 0.5, expected 1: "
            "rows are true classes, columns observed ones.",
        ),
        (-np.eye(3), "noise_matrix holds NaN or negative numbers: pass probabilities."),
    ]
    for matrix, message in bad:
        with pytest.raises(TrustqError) as error:
            NoiseAwareTemperature(matrix).fit(logits, labels)
        assert str(error.value) == message


def test_the_estimated_matrix_is_row_stochastic_and_near_the_true_one():
    logits, labels = simulated(n=30_000, scale=1.0)
    logits[np.arange(30_000), labels] += 6
    observed = noisy(labels, ASYMMETRIC)
    found = estimate_noise_matrix(observed, softmax(logits))
    assert found.sum(axis=1) == pytest.approx(1)
    assert found == pytest.approx(ASYMMETRIC, abs=0.06)
    with pytest.raises(TrustqError) as error:
        estimate_noise_matrix(np.array([0, 1]), np.full((2, 3), 1 / 3))
    assert str(error.value) == (
        "No row is labelled 2, so its noise cannot be estimated: pass more rows, or a given matrix."
    )


def test_the_estimated_matrix_is_that_of_cleanlabs_joint():
    from cleanlab.count import compute_confident_joint

    rng = np.random.default_rng(0)
    for k in (2, 5, 9):
        probs = rng.dirichlet(np.ones(k), 300)
        observed = np.array([*range(k), *(rng.choice(k, p=row) for row in probs[k:])])
        joint = np.asarray(compute_confident_joint(observed, probs), dtype=float).T
        expected = joint / joint.sum(axis=1, keepdims=True)
        assert np.array_equal(estimate_noise_matrix(observed, probs), expected)


def test_the_table_of_the_definitions_is_reproduced_on_public_predictions(shared_data):
    with np.load(shared_data / "predictions_cifar" / "wideresnet-16-4-cifar-10.npz") as stored:
        labels, logits = stored["ground_truth"], logits_from_probs(stored["predictions"])
    assert TemperatureScaling().fit(logits, labels).temperature_ == pytest.approx(2.052, abs=1e-3)
    for eta, temperature, error in ((0.1, 3.9, 0.133), (0.2, 5.0, 0.230), (0.3, 6.1, 0.316)):
        matrix = (1 - eta) * np.eye(10) + eta / 10
        rows = []
        for seed in range(20):
            rng = np.random.default_rng(seed)
            replaced = rng.random(len(labels)) < eta
            observed = np.where(replaced, rng.integers(0, 10, len(labels)), labels)
            plain = TemperatureScaling(accept_noisy=True)
            plain.fit(logits, observed, labels_used="noisy")
            corrected = NoiseAwareTemperature(matrix).fit(logits, observed)
            rows.append(
                [
                    plain.temperature_,
                    ece(labels, plain.predict_proba(logits)),
                    corrected.temperature_,
                    ece(labels, corrected.predict_proba(logits)),
                ]
            )
        plain_t, plain_ece, corrected_t, corrected_ece = np.mean(rows, axis=0)
        assert plain_t == pytest.approx(temperature, abs=0.15)
        assert plain_ece == pytest.approx(error, abs=0.01)
        assert 2.04 - 0.15 <= corrected_t <= 2.16 + 0.15
        assert corrected_ece < 0.01


@pytest.mark.parametrize("network", ["resnet18", "swin"])
def test_the_correction_with_an_estimated_matrix_helps_under_human_noise(shared_data, network):
    with np.load(shared_data / "cifar10n_worst" / f"cifar10n_worst_{network}.npz") as stored:
        rows = np.random.default_rng(0).permutation(50_000)[:20_000]
        probs = stored["pred_probs"][rows]
        labels, observed = (stored[n][rows].astype(int) for n in ("true_labels", "noisy_labels"))
    fit, rest = slice(0, 10_000), slice(10_000, None)
    logits = logits_from_probs(probs)
    matrix = estimate_noise_matrix(observed[fit], probs[fit])
    plain = TemperatureScaling(accept_noisy=True)
    plain.fit(logits[fit], observed[fit], labels_used="noisy")
    corrected = NoiseAwareTemperature(matrix).fit(logits[fit], observed[fit])
    clean = TemperatureScaling().fit(logits[fit], labels[fit])
    found = [ece(labels[rest], c.predict_proba(logits[rest])) for c in (plain, corrected, clean)]
    # A network trained on noisy labels is underconfident of the truth; plain fitting keeps it so.
    assert found[0] > 0.29 and found[1] < found[0] / 3 and found[2] < 0.02


def test_labels_known_to_be_noisy_are_refused_unless_asked_for():
    logits, labels = simulated(n=30)
    with pytest.raises(TrustqError) as error:
        TemperatureScaling().fit(logits, labels, labels_used="noisy")
    assert str(error.value) == REFUSED
    for name in ("vector", "sklearn-sigmoid"):
        with pytest.raises(TrustqError, match="^.* was given labels known to be noisy, "):
            make_calibrator(name).fit(logits, labels, labels_used="noisy")
        accepted = make_calibrator(name, accept_noisy=True).fit(logits, labels, labels_used="noisy")
        assert accepted.labels_used_ == "noisy"


def test_bad_requests_are_refused(monkeypatch):
    logits, labels = simulated(n=30)
    bad = [
        (
            lambda: make_calibrator("platt"),
            "calibrator 'platt' is unknown: expected one of temperature, vector, "
            "netcal-isotonic, netcal-beta, netcal-histogram, netcal-bbq, netcal-enir, "
            "sklearn-sigmoid, sklearn-isotonic, sklearn-temperature.",
        ),
        (
            lambda: TemperatureScaling().fit(logits, labels, labels_used="guessed"),
            "labels_used is 'guessed': expected clean or noisy.",
        ),
        (
            lambda: SklearnCalibration("platt").fit(logits, labels),
            "method is 'platt': expected one of sigmoid, isotonic, temperature.",
        ),
        (
            lambda: NetcalCalibration("platt").fit(logits, labels),
            "method is 'platt': expected one of isotonic, beta, histogram, bbq, enir.",
        ),
        (
            lambda: SklearnCalibration("sigmoid").fit(logits, 0 * labels),
            "Every fitting row has label 0, but scikit-learn's calibrators compare a class with "
            "the others: pass rows of two classes, or use temperature scaling.",
        ),
        (
            lambda: VectorScaling().fit(logits, labels).transform(logits[:, :2]),
            "logits has 2 columns, but the calibrator was fitted on 3: "
            "pass logits of the same classes.",
        ),
    ]
    for call, message in bad:
        with pytest.raises(TrustqError) as error:
            call()
        assert str(error.value) == message
    monkeypatch.setitem(sys.modules, "netcal", None)
    with pytest.raises(TrustqError) as error:
        NetcalCalibration("beta").fit(logits, labels)
    assert str(error.value) == (
        "The beta calibrator is netcal's, which is not installed: "
        "pip install 'trustq[calibration]'."
    )


@pytest.mark.parametrize("scale", [0.5, 2.0])
def test_temperature_equals_that_of_netcal(scale):
    scaling = pytest.importorskip("netcal.scaling")
    logits, labels = simulated(n=2000, k=4, scale=scale)
    peer = scaling.TemperatureScaling()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        peer.fit(softmax(logits), labels)
    # netcal fits the factor of the logits.
    inverse = float(np.ravel(peer.temperature)[0])
    ours = TemperatureScaling().fit(logits, labels).temperature_
    assert 1 / ours == pytest.approx(inverse, abs=5e-3)


def test_netcals_enir_without_a_fit_is_one_sentence():
    pytest.importorskip("netcal")
    labels = np.arange(120) % 3
    with pytest.raises(TrustqError, match=r"^netcal's enir cannot be fitted on these 120 rows \("):
        make_calibrator("netcal-enir").fit(60.0 * np.eye(3)[labels], labels)


def test_a_value_on_a_bins_edge_is_read_from_the_bin_it_was_fitted_in():
    pytest.importorskip("netcal")
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 3, 90)
    probs = np.full((90, 3), 0.2)
    probs[np.arange(90), np.where(rng.random(90) < 0.7, labels, (labels + 1) % 3)] = 0.6
    fitted = make_calibrator("netcal-histogram").fit(np.log(probs), labels)
    sure = probs == 0.6
    shares = [(labels == c)[sure[:, c]].mean() for c in range(3)]
    found = fitted.predict_proba(np.log(probs))
    for c, share in enumerate(shares):
        assert found[sure[:, c], c] == pytest.approx(share, abs=0.2)  # before they are normalized
        assert (found[sure[:, c], c] > found[~sure[:, c], c].max()).all()
