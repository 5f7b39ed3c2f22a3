"""Heads and calibrators as scikit-learn's estimators."""

import warnings
from typing import Any

import numpy as np
import pandas
import pytest
from sklearn import config_context
from sklearn.base import clone
from sklearn.calibration import CalibratedClassifierCV
from sklearn.model_selection import PredefinedSplit, cross_val_predict, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import check_estimator
from support import make_cache, refused

from trustq import calibration
from trustq.data.splits import group_folds
from trustq.heads import BoostedHead, ClassicHead, LinearHead
from trustq.heads.out_of_fold import TrainingRows, fit_out_of_fold

WEIGHTS = "neighbours and discriminants leave rows out but cannot weigh them"
NOT_SENSIBLE: dict[str, dict[str, str]] = {
    "knn": {
        "check_sample_weights_list": WEIGHTS,
        "check_sample_weights_not_overwritten": WEIGHTS,
        "check_sample_weight_equivalence_on_dense_data": WEIGHTS,
    },
    "boosted": {
        "check_sample_weight_equivalence_on_dense_data": "bins are of all rows, weighed or not"
    },
    "linear": {
        "check_sample_weight_equivalence_on_dense_data": "equal to the solver's tolerance, 1e-6"
    },
}
NOT_SENSIBLE["lda"] = NOT_SENSIBLE["knn"]
HEADS: dict[str, Any] = {
    "linear": LinearHead(),
    "boosted": BoostedHead(trees=4),
    **{kind: ClassicHead(kind=kind) for kind in ("lda", "knn", "ridge")},
}


@pytest.mark.parametrize("name", list(HEADS))
def test_heads_pass_scikit_learns_checks(name: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the checks' own degenerate data
        found = check_estimator(
            HEADS[name], expected_failed_checks=NOT_SENSIBLE.get(name), on_skip=None
        )
    assert sum(check["status"] == "passed" for check in found) > 40


@pytest.mark.parametrize("name", list(HEADS))
def test_heads_take_names_frames_and_are_cloned(name: str) -> None:
    cache = make_cache(separation=4)
    names = np.array(["mel", "nv", "bcc"])[cache.label]
    frame = pandas.DataFrame(cache.features, columns=[f"f{i}" for i in range(8)])
    head = clone(HEADS[name]).fit(frame, names)
    assert head.classes_.tolist() == ["bcc", "mel", "nv"]
    assert (head.predict(frame) == names).mean() > 0.95
    probs = head.predict_proba(frame)
    np.testing.assert_allclose(probs.sum(axis=1), 1)
    assert (head.classes_[probs.argmax(axis=1)] == head.predict(frame)).all()
    scores = cross_val_score(make_pipeline(StandardScaler(), clone(head)), frame, names, cv=3)
    assert scores.min() > 0.9


def test_cross_val_predict_equals_the_products_out_of_fold_probabilities() -> None:
    cache = make_cache(n=600, separation=1.5)
    groups = np.unique(cache.group_id, return_inverse=True)[1]
    labels = cache.label.astype(np.int64)
    fold = group_folds(labels, groups, n_folds=5, seed=3)
    features = StandardScaler().fit_transform(cache.features)
    training = TrainingRows(cache, np.arange(600), groups, fold)
    own = fit_out_of_fold(
        training, features, labels, make=lambda: LinearHead(n_classes=3, C=0.1)
    ).probs
    names = np.array(["a", "b", "c"])[labels]
    for y in (labels, names):
        found = cross_val_predict(
            LinearHead(C=0.1), features, y, cv=PredefinedSplit(fold), method="predict_proba"
        )
        np.testing.assert_allclose(found, own, atol=1e-6)


def test_a_head_is_calibrated_by_scikit_learn() -> None:
    cache = make_cache(n=600, separation=1.0)
    names = np.array(["mel", "nv", "bcc"])[cache.label]
    model = CalibratedClassifierCV(LinearHead(C=1.0), method="sigmoid", cv=3)
    probs = model.fit(cache.features, names).predict_proba(cache.features)
    assert model.classes_.tolist() == ["bcc", "mel", "nv"]
    np.testing.assert_allclose(probs.sum(axis=1), 1)
    assert (model.predict(cache.features) == names).mean() > 0.5


def test_weights_are_routed_through_a_pipeline_that_asks_for_them() -> None:
    cache = make_cache()
    names = np.array(["mel", "nv", "bcc"])[cache.label]
    weights = np.where(cache.label == 0, 3.0, 1.0)
    features = StandardScaler().fit_transform(cache.features)
    direct = LinearHead(C=0.1).fit(features, names, sample_weight=weights)
    with config_context(enable_metadata_routing=True):
        asked = clone(LinearHead(C=0.1).set_fit_request(sample_weight=True))
        pipeline = make_pipeline(StandardScaler().set_fit_request(sample_weight=False), asked)
        pipeline.fit(cache.features, names, sample_weight=weights)
    np.testing.assert_allclose(pipeline[-1].coef_, direct.coef_, atol=1e-6)
    assert not np.allclose(direct.coef_, LinearHead(C=0.1).fit(features, names).coef_, atol=1e-3)


def test_class_weights_by_label_are_those_by_column() -> None:
    cache = make_cache()
    names = np.array(["mel", "nv", "bcc"])[cache.label]
    by_label = LinearHead(class_weight={"mel": 3.0, "nv": 1.0}).fit(cache.features, names)
    column = np.array(["bcc", "mel", "nv"])
    by_column = LinearHead(n_classes=3, class_weight=np.array([1.0, 3.0, 1.0])).fit(
        cache.features, np.array([np.flatnonzero(column == name)[0] for name in names])
    )
    np.testing.assert_array_equal(by_label.coef_, by_column.coef_)


@pytest.mark.parametrize("name", ["TemperatureScaling", "VectorScaling"])
def test_calibrators_are_estimators_on_logits_with_names(name: str) -> None:
    rng = np.random.default_rng(0)
    labels = rng.integers(3, size=400)
    logits = 6 * (np.eye(3)[labels] + rng.normal(0, 0.7, (400, 3)))
    names = np.array(["bcc", "mel", "nv"])[labels]
    by_name = clone(getattr(calibration, name)()).fit(logits, names)
    by_column = getattr(calibration, name)().fit(logits, labels)
    np.testing.assert_array_equal(by_name.predict_proba(logits), by_column.predict_proba(logits))
    assert by_name.classes_.tolist() == ["bcc", "mel", "nv"]
    assert (by_name.predict(logits) == by_name.classes_[by_column.predict(logits)]).all()
    found = cross_val_predict(by_name, logits, names, cv=4, method="predict_proba")
    assert found.shape == (400, 3)
    with refused("labels name 2 classes, and logits has 3 columns: pass the column of each label."):
        by_name.fit(logits, np.where(names == "nv", "mel", names))
