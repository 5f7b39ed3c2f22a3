"""Confidence scores: against scikit-learn and scipy, and what must hold for any logits."""

import numpy as np
import pytest
from scipy.special import logsumexp
from scipy.stats import entropy
from sklearn.neighbors import NearestNeighbors

from trustq.errors import TrustqError
from trustq.metrics.confidence import confidence_scores, knn_confidence, mahalanobis_confidence
from trustq.metrics.probabilities import softmax


def simulated(n=60, k=5, seed=0):
    return np.random.default_rng(seed).normal(size=(n, k)) * 3


def test_scores_of_logits_equal_their_definitions():
    logits = simulated()
    scores, probs = confidence_scores(logits=logits), softmax(logits)
    ordered = np.sort(probs, axis=1)
    assert scores["max_probability"] == pytest.approx(ordered[:, -1])
    assert scores["margin"] == pytest.approx(ordered[:, -1] - ordered[:, -2])
    assert scores["negative_entropy"] == pytest.approx(-entropy(probs, axis=1))
    assert scores["energy"] == pytest.approx(logsumexp(logits, axis=1))
    assert scores["max_logit"] == pytest.approx(logits.max(axis=1))
    assert scores["log_odds"] == pytest.approx(np.log(ordered[:, -1] / (1 - ordered[:, -1])))


def test_scores_of_probabilities_are_those_that_need_no_logits():
    logits = simulated()
    of_logits, of_probs = confidence_scores(logits=logits), confidence_scores(probs=softmax(logits))
    assert list(of_probs) == ["max_probability", "margin", "negative_entropy"]
    for name, score in of_probs.items():
        assert score == pytest.approx(of_logits[name])


def test_an_impossible_class_has_no_entropy():
    assert confidence_scores(probs=np.array([[1.0, 0.0]]))["negative_entropy"].tolist() == [0.0]


def test_a_shift_of_the_logits_moves_only_energy_and_max_logit():
    logits = simulated()
    once, shifted = confidence_scores(logits=logits), confidence_scores(logits=logits + 5)
    for name, score in shifted.items():
        moved = 5 if name in ("energy", "max_logit") else 0
        assert score == pytest.approx(once[name] + moved, abs=1e-12)


@pytest.mark.parametrize("k", [1, 4])
def test_knn_equals_that_of_scikit_learn(k, monkeypatch):
    monkeypatch.setattr("trustq.metrics.confidence.BLOCK", 100)  # several blocks
    reference, features = simulated(40), simulated(30, seed=1)
    unit = [rows / np.linalg.norm(rows, axis=1, keepdims=True) for rows in (reference, features)]
    expected = NearestNeighbors(n_neighbors=k).fit(unit[0]).kneighbors(unit[1])[0][:, -1]
    assert knn_confidence(features, reference, k=k) == pytest.approx(-expected, abs=1e-7)


def test_neighbours_of_the_same_group_do_not_count():
    reference, groups = simulated(20), np.arange(20) // 2
    itself = knn_confidence(reference, reference, k=1)
    assert itself == pytest.approx(0, abs=1e-7)
    others = knn_confidence(reference, reference, k=1, groups=groups, reference_groups=groups)
    for i in range(20):
        rest = groups != groups[i]
        assert others[i] == pytest.approx(knn_confidence(reference[[i]], reference[rest], k=1)[0])


def test_mahalanobis_ignores_the_scale_of_the_features_where_rows_abound():
    rng = np.random.default_rng(3)
    labels = rng.integers(0, 3, 3000)
    reference = rng.normal(size=(3000, 4)) + 3 * np.eye(3, 4)[labels]
    mixing = rng.normal(size=(4, 4))
    features = rng.normal(size=(50, 4))
    centred = reference - np.stack([reference[labels == c].mean(axis=0) for c in range(3)])[labels]
    precision = np.linalg.inv(np.cov(centred.T, bias=True))
    expected = np.min(
        [
            np.einsum("ij,jk,ik->i", features - m, precision, features - m)
            for m in (reference[labels == c].mean(axis=0) for c in range(3))
        ],
        axis=0,
    )
    assert mahalanobis_confidence(features, reference, labels) == pytest.approx(-expected, rel=0.1)
    mixed = mahalanobis_confidence(features @ mixing, reference @ mixing, labels)
    assert np.corrcoef(mixed, -expected)[0, 1] > 0.99


def test_mahalanobis_works_with_fewer_rows_than_features():
    reference, labels = simulated(8, 30), np.arange(8) % 2
    scores = mahalanobis_confidence(simulated(5, 30, 1), reference, labels)
    assert np.isfinite(scores).all() and (scores <= 0).all()


def test_bad_features_are_refused():
    rows = simulated(6, 3)
    bad = [
        (
            lambda: knn_confidence(rows, rows[:, :2]),
            "features has 3 columns and reference 2: pass features of the same network.",
        ),
        (
            lambda: knn_confidence(rows, rows, k=7),
            "k is 7 and there are 6 reference rows: pass k from 1 to 6.",
        ),
        (
            lambda: knn_confidence(rows, rows, k=1, groups=np.zeros(6)),
            "groups and reference_groups go together: pass both or neither.",
        ),
        (
            lambda: knn_confidence(
                rows, rows, k=1, groups=np.zeros(6), reference_groups=np.zeros(6)
            ),
            "6 of 6 rows have fewer than 1 neighbours of other groups, first row 0: "
            "pass a smaller k or more reference rows.",
        ),
        (
            lambda: knn_confidence(rows[0], rows),
            "features has shape (3,), expected (n, d): pass one row per sample.",
        ),
        (
            lambda: knn_confidence(rows, rows * np.nan),
            "reference has NaN or infinite values: leave these rows out.",
        ),
        (
            lambda: mahalanobis_confidence(rows, rows, np.zeros(5, int)),
            "reference_labels has 5 rows and reference has 6: "
            "pass the same rows in the same order.",
        ),
        (
            lambda: mahalanobis_confidence(rows, rows, np.arange(6)),
            "Every reference row equals its class mean, so there is no covariance: "
            "pass more rows per class.",
        ),
        (lambda: confidence_scores(), "Pass either logits or probs, and not both."),
    ]
    for call, message in bad:
        with pytest.raises(TrustqError) as error:
            call()
        assert str(error.value) == message
