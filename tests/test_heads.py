"""Heads and out-of-fold probabilities: right, complete in classes, impossible to fake."""

import dataclasses
import sys
import time
from importlib.util import find_spec

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss
from sklearn.model_selection import cross_val_predict
from support import make_cache

from trustq.data.splits import group_folds
from trustq.errors import MissingExtra, TrustqError
from trustq.heads import BoostedHead, LinearHead, SharedFeatures, fit_heads, make_head
from trustq.heads.out_of_fold import (
    OutOfFold,
    TrainingRows,
    accept_in_sample,
    fit_folds,
    fit_out_of_fold,
    read_crossfit,
)
from trustq.metrics.probabilities import softmax
from trustq.scoring import SCORES, label_quality


def training_rows(cache, *, n_folds=4):  # type: ignore[no-untyped-def]
    rows = np.arange(len(cache))
    groups = np.unique(cache.group_id, return_inverse=True)[1]
    fold = group_folds(cache.label, groups, n_folds=n_folds, seed=0)
    return TrainingRows(cache, rows, groups, fold)


def exact_peer() -> LogisticRegression:
    # At its default tolerance newton-cg is 2e-5 off in probability.
    return LogisticRegression(solver="newton-cholesky", tol=1e-10)


LEARNERS = ["linear", "balanced", "xgboost", "knn", "centroid", "lda", "ridge", "mlp"]
LIGHT = pytest.param(
    "lightgbm",
    marks=pytest.mark.skipif(find_spec("lightgbm") is None, reason="LightGBM is not installed"),
)
HEADS = [*LEARNERS, LIGHT, "majority", "prior"]


@pytest.mark.parametrize("name", HEADS)
def test_class_missing_from_fit_keeps_its_column(name: str) -> None:
    cache = make_cache(k=4)
    known = cache.label != 2
    head = make_head(name, n_classes=4)
    head.fit(cache.features[known], cache.label[known])
    logits = head.predict_logits(cache.features)
    assert logits.shape == (len(cache), 4)
    assert np.isfinite(logits).all()
    assert softmax(logits)[:, 2].max() < 0.2
    if name in (*LEARNERS, "lightgbm"):
        right = head.predict(cache.features[known]) == cache.label[known]
        assert right.mean() > 0.8
    assert 2 not in head.seen_classes_


def test_two_classes_and_one_class_have_all_columns() -> None:
    cache = make_cache()
    two = cache.label < 2
    head = LinearHead(n_classes=3).fit(cache.features[two], cache.label[two])
    peer = exact_peer().fit(cache.features[two].astype(np.float64), cache.label[two])
    np.testing.assert_allclose(
        softmax(head.predict_logits(cache.features))[:, :2],
        peer.predict_proba(cache.features),
        atol=1e-6,
    )
    one = LinearHead(n_classes=3).fit(cache.features[:2], np.array([1, 1]))
    assert softmax(one.predict_logits(cache.features))[:, 1].min() > 1 - 1e-9


def test_linear_head_follows_the_estimator_contract() -> None:
    head = LinearHead(n_classes=3, C=0.5)
    assert clone(head).get_params() == {
        "n_classes": 3,
        "C": 0.5,
        "max_iter": 2000,
        "class_weight": None,
    }
    cache = make_cache()
    assert head.fit(cache.features, cache.label) is head


def test_a_fit_that_does_not_converge_is_an_error() -> None:
    cache = make_cache()
    with pytest.raises(TrustqError, match="did not converge in 1 iterations at C = 100; choose"):
        LinearHead(n_classes=3, C=100, max_iter=1).fit(cache.features, cache.label)


def test_out_of_fold_equals_a_plain_cross_validation() -> None:
    cache = make_cache()
    training = training_rows(cache)
    out_of_fold = fit_out_of_fold(
        training, cache.features, cache.label, make=lambda: make_head("linear", n_classes=3)
    )
    splits = [
        (np.flatnonzero(training.fold != f), np.flatnonzero(training.fold == f)) for f in range(4)
    ]
    peer = cross_val_predict(
        exact_peer(),
        cache.features.astype(np.float64),
        cache.label,
        cv=splits,
        method="predict_proba",
    )
    np.testing.assert_allclose(out_of_fold.probs, peer, atol=1e-6)


def test_the_label_of_a_row_and_its_relatives_never_reaches_its_own_prediction() -> None:
    cache = make_cache()
    training = training_rows(cache)

    def fitted(observed: np.ndarray) -> OutOfFold:
        make = lambda: make_head("linear", n_classes=3)  # noqa: E731
        return fit_out_of_fold(training, cache.features, observed, make=make)

    before = fitted(cache.label)
    changed = cache.label.copy()
    own = training.groups == training.groups[10]
    changed[own] = (changed[own] + 1) % 3
    after = fitted(changed)
    np.testing.assert_array_equal(before.probs[own], after.probs[own])
    others = training.fold != training.fold[10]
    assert np.abs(before.probs[others] - after.probs[others]).max() > 1e-4


def test_folds_that_split_a_group_are_refused() -> None:
    cache = make_cache()
    training = training_rows(cache)
    fold = training.fold.copy()
    fold[0] = (fold[0] + 1) % 4
    with pytest.raises(TrustqError, match="Group 'g0000' lies in folds . and .: a model would"):
        fit_out_of_fold(
            dataclasses.replace(training, fold=fold),
            cache.features,
            cache.label,
            make=lambda: make_head("linear", n_classes=3),
        )


def test_an_out_of_fold_object_cannot_be_made_copied_or_altered_by_hand() -> None:
    cache = make_cache()
    real = accept_in_sample(training_rows(cache), np.zeros((240, 3)), cache.label)
    fields = {f.name: getattr(real, f.name) for f in dataclasses.fields(real)}
    with pytest.raises(TrustqError, match="in-sample probabilities cannot pass as out-of-fold"):
        OutOfFold(**fields)
    with pytest.raises((TrustqError, ValueError), match="in-sample prob|InitVar"):
        dataclasses.replace(real, source="head")
    with pytest.raises(ValueError, match="read-only"):
        real.probs[0] = 1
    with pytest.raises(AttributeError):
        real.source = "head"  # type: ignore[misc]
    with pytest.raises(TypeError):
        label_quality(np.eye(3), cache.label, score="entropy")  # type: ignore[call-arg, arg-type]


def test_scores_refuse_labels_or_rows_that_are_not_those_of_the_folds() -> None:
    cache = make_cache()
    training = training_rows(cache)
    scored = accept_in_sample(training, np.zeros((240, 3)), cache.label)
    other = cache.label.copy()
    other[0] = (other[0] + 1) % 3
    turned = dataclasses.replace(training, rows=training.rows[::-1])
    regrouped = dataclasses.replace(training, groups=training.groups[::-1])
    with pytest.raises(TrustqError, match="belong to other observed labels"):
        label_quality(scored, other, training=training, score="entropy")
    with pytest.raises(TrustqError, match="belong to other sample ids"):
        label_quality(scored, cache.label, training=turned, score="entropy")
    with pytest.raises(TrustqError, match="belong to other groups"):
        label_quality(scored, cache.label, training=regrouped, score="entropy")
    with pytest.raises(TrustqError, match="Unknown score 'x'; there are self_confidence, "):
        label_quality(scored, cache.label, training=training, score="x")


def test_in_sample_is_marked() -> None:
    cache = make_cache()
    scored = accept_in_sample(training_rows(cache), np.zeros((240, 3)), cache.label)
    assert scored.in_sample and set(scored.fold.tolist()) == {-1}


def test_a_row_whose_class_its_fold_lacked_has_no_score() -> None:
    cache = make_cache()
    label = cache.label.copy()
    label[label == 2] = 0
    label[:2] = 2  # one group alone holds class 2
    training = training_rows(dataclasses.replace(cache, label=label))
    scored = fit_out_of_fold(
        training, cache.features, label, make=lambda: make_head("linear", n_classes=3)
    )
    for score in SCORES:
        quality = label_quality(scored, label, training=training, score=score)
        assert np.isnan(quality[:2]).all()
        assert ((quality[2:] >= 0) & (quality[2:] <= 1)).all()


def test_scores_by_hand() -> None:
    cache = make_cache(n=2, group_size=1, label=np.array([0, 1], np.int16))
    rows = TrainingRows(cache, np.arange(2), np.arange(2), np.arange(2))
    probs = np.array([[0.7, 0.2, 0.1], [0.5, 0.3, 0.2]])
    scored = accept_in_sample(rows, np.log(probs), cache.label)

    def quality(score: str) -> np.ndarray:
        return label_quality(scored, cache.label, training=rows, score=score)

    np.testing.assert_allclose(quality("self_confidence"), [0.7, 0.3])
    np.testing.assert_allclose(quality("normalized_margin"), [0.75, 0.4])
    entropy = -(probs * np.log(probs)).sum(axis=1) / np.log(3)
    np.testing.assert_allclose(quality("entropy"), 1 - entropy)


def test_cleanlab_vectors() -> None:
    # cleanlab tests/test_filter_count.py, as quoted in the definitions.
    label = np.array([0, 0, 1, 1, 1, 1, 2, 2, 2, 2], np.int16)
    probs = np.full((10, 3), 0.1)
    probs[np.arange(10), label] = 0.8
    probs[0], probs[1] = (0.9, 0.1, 0), (0.6, 0.2, 0.2)
    probs[2] = (0.1, 0.0, 0.9)
    cache = make_cache(n=10, group_size=1, label=label)
    rows = TrainingRows(cache, np.arange(10), np.arange(10), np.arange(10))
    scored = accept_in_sample(rows, np.log(np.clip(probs, 1e-300, None)), label)
    ours = label_quality(scored, label, training=rows, score="self_confidence")
    np.testing.assert_allclose(ours, [0.9, 0.6, 0, *[0.8] * 7], atol=1e-12)
    ours = label_quality(scored, label, training=rows, score="normalized_margin")
    np.testing.assert_allclose(ours, [0.9, 0.7, 0.05, *[0.85] * 7], atol=1e-12)


def test_crossfit_comes_only_from_a_verified_cache_with_its_own_labels() -> None:
    cache = make_cache()
    training = training_rows(cache)
    with pytest.raises(TrustqError, match="holds no crossfit logits"):
        read_crossfit(training, cache.label)
    extra = {"fold": training.fold, "crossfit_logits": np.zeros((240, 3), np.float32)}
    cache = dataclasses.replace(cache, extra=extra, observed=cache.label)
    training = dataclasses.replace(training, cache=cache)
    with pytest.raises(TrustqError, match="was not read from a verified file"):
        read_crossfit(training, cache.label)
    verified = dataclasses.replace(training, cache=dataclasses.replace(cache, digest="d"))
    assert read_crossfit(verified, cache.label).source == "crossfit"
    with pytest.raises(TrustqError, match="trained on its stored labels, not on these"):
        read_crossfit(verified, (cache.label + 1) % 3)


def test_folds_read_from_a_cache_must_keep_groups_whole() -> None:
    cache = make_cache()
    fold = training_rows(cache).fold.copy()
    fold[0] = (fold[0] + 1) % 4
    extra = {"fold": fold, "crossfit_logits": np.zeros((240, 3), np.float32)}
    cache = dataclasses.replace(cache, extra=extra, observed=cache.label, digest="d")
    with pytest.raises(TrustqError, match="lies in folds"):
        read_crossfit(training_rows(cache), cache.label)


@pytest.mark.parametrize("name", ["xgboost", LIGHT])
def test_boosted_folds_on_shared_bins_are_those_from_scratch(name: str) -> None:
    cache = make_cache()
    training = training_rows(cache)
    other = np.roll(cache.label, 7).astype(np.int64)
    make = lambda: make_head(name, n_classes=3, trees=8)  # noqa: E731
    fits = fit_folds(
        training, cache.features, np.array([cache.label, other]), make=[make, make], whole=True
    )
    for fit, labels in zip(fits, (cache.label, other), strict=True):
        assert fit.out_of_fold is not None and fit.head is not None
        for f in range(4):
            weight = (training.fold != f).astype(np.float32)
            scratch = make().fit(SharedFeatures(cache.features), labels, sample_weight=weight)
            np.testing.assert_allclose(
                softmax(scratch.predict_logits(cache.features[weight == 0])),
                fit.out_of_fold.probs[weight == 0],
                atol=1e-6,
            )


@pytest.mark.bits
def test_many_label_sets_at_once_are_the_bits_of_each_alone() -> None:
    cache = make_cache(n=480)
    training = training_rows(cache)
    other = np.roll(cache.label, 7).astype(np.int64)
    makes = [lambda c=c: make_head("linear", n_classes=3, C=c) for c in (0.1, 10.0)]
    together = fit_folds(
        training, cache.features, np.array([cache.label, other]), make=makes, whole=True
    )
    for fit, labels, make in zip(together, (cache.label, other), makes, strict=True):
        alone = fit_out_of_fold(training, cache.features, labels, make=make)
        assert fit.out_of_fold is not None
        np.testing.assert_array_equal(fit.out_of_fold.logits, alone.logits)
        whole = make().fit(cache.features, labels)
        assert fit.head is not None
        np.testing.assert_array_equal(fit.head.coef_, whole.coef_)


@pytest.mark.parametrize("name", HEADS)
def test_a_label_without_weight_reaches_no_prediction(name: str) -> None:
    cache = make_cache()
    used = np.arange(240) % 3 > 0
    other = np.where(used, cache.label, (cache.label + 1) % 3)
    logits = []
    for labels in (cache.label, other):
        head = make_head(name, n_classes=3)
        head.fit(SharedFeatures(cache.features), labels, sample_weight=used)
        logits.append(head.predict_logits(cache.features))
    np.testing.assert_array_equal(*logits)


def test_heads_that_take_no_weights_say_so() -> None:
    cache = make_cache()
    with pytest.raises(TrustqError, match="The knn head takes weights of 0 and 1 alone."):
        make_head("knn", n_classes=3).fit(
            cache.features, cache.label, sample_weight=np.full(240, 0.5)
        )


def test_components_are_those_of_the_rows_that_the_fold_may_know() -> None:
    cache = make_cache()
    used = np.arange(240) % 3 > 0
    head = BoostedHead(n_classes=3, trees=5, components=2)
    head.fit(cache.features, cache.label, sample_weight=used)
    peer = PCA(2).fit(cache.features[used].astype(np.float64))
    assert head.axes_ is not None
    np.testing.assert_allclose(np.abs((head.axes_ * peer.components_.T).sum(axis=0)), 1, atol=1e-6)
    with pytest.raises(
        TrustqError, match="components is 99, and 160 rows of 8 features have fewer"
    ):
        BoostedHead(n_classes=3, components=99).fit(cache.features, cache.label, sample_weight=used)


def test_the_study_preset_is_the_studys() -> None:
    head = make_head("xgboost_study", n_classes=7)
    own = head.get_params()  # type: ignore[attr-defined]
    assert (own["trees"], own["max_depth"], own["learning_rate"]) == (500, 6, 0.05)
    assert (own["subsample"], own["colsample_bytree"], own["max_bin"]) == (0.8, 0.8, 256)
    assert (own["min_child_weight"], own["gamma"]) == (3, 0.1)
    assert (own["reg_alpha"], own["reg_lambda"]) == (0.1, 1)


@pytest.mark.parametrize("name", ["xgboost", LIGHT])
def test_boosted_heads_fitted_side_by_side_are_those_fitted_alone(name: str) -> None:
    cache = make_cache()
    shared = SharedFeatures(cache.features)
    labels = np.array([np.roll(cache.label, i) for i in range(6)])
    heads = [make_head(name, n_classes=3, trees=4) for _ in labels]
    fit_heads(heads, shared, labels, used=np.ones(labels.shape, dtype=bool))
    for head, own in zip(heads, labels, strict=True):
        alone = make_head(name, n_classes=3, trees=4).fit(cache.features, own)
        np.testing.assert_array_equal(
            head.predict_logits(cache.features), alone.predict_logits(cache.features)
        )


@pytest.mark.parametrize("k", [3, 7])
def test_lightgbm_steps_farther_than_xgboost_at_one_learning_rate(k: int) -> None:
    # By 2 (k - 1) / k: findings/lightgbm-steps-farther-than-xgboost.sh; so defaults differ.
    pytest.importorskip("lightgbm")
    labels = np.random.default_rng(0).integers(k, size=1000)
    features = (labels == 0)[:, None].astype(np.float32)
    same = {"trees": 1, "max_depth": 1, "reg_lambda": 0.0, "min_child_weight": 0.0}
    same |= {"subsample": 1.0, "colsample_bytree": 1.0, "n_classes": k}
    rates = {"xgboost": 0.1, "lightgbm": 0.1 * k / (2 * (k - 1))}
    steps = []
    for name, rate in rates.items():
        head = make_head(name, learning_rate=rate, **same).fit(features, labels)  # type: ignore[arg-type]
        logits = head.predict_logits(np.array([[0.0], [1.0]], dtype=np.float32))
        steps.append(np.ptp(logits[1] - logits[0]))
    assert steps[1] == pytest.approx(steps[0], rel=1e-3)


def test_validation_rows_stop_the_lightgbm_head() -> None:
    pytest.importorskip("lightgbm")
    cache = make_cache(n=480, separation=1)
    rows, held_out = np.arange(480) < 320, np.arange(480) >= 320
    validation = (cache.features[held_out], cache.label[held_out])
    head = make_head("lightgbm", n_classes=3, trees=300)
    head.fit(cache.features[rows], cache.label[rows], validation=validation)
    losses = []
    for n in (1, head.n_trees_, 300):  # type: ignore[attr-defined]
        long = make_head("lightgbm", n_classes=3, trees=n).fit(
            cache.features[rows], cache.label[rows]
        )
        losses.append(log_loss(validation[1], softmax(long.predict_logits(validation[0]))))
    assert head.n_trees_ < 300  # type: ignore[attr-defined]
    assert losses[1] < min(losses[0], losses[2])
    stopped = softmax(head.predict_logits(validation[0]))
    assert log_loss(validation[1], stopped) == pytest.approx(losses[1], abs=1e-9)


def test_the_lightgbm_head_says_what_it_needs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "lightgbm", None)
    needs = r"The lightgbm head needs LightGBM: pip install 'trustq\[lightgbm\]', or take xgboost\."
    with pytest.raises(MissingExtra, match=f"^{needs}$"):
        make_head("lightgbm", n_classes=3)


def test_who_asks_for_lightgbms_bins_while_they_are_lent_gets_others() -> None:
    pytest.importorskip("lightgbm")
    cache = make_cache()
    shared = SharedFeatures(cache.features)
    used = np.arange(240) % 3 > 0
    with shared.light_bins(16, used) as some, shared.light_bins(16, used) as again:
        assert some is not again and some.num_data() == again.num_data() == 160
    with shared.light_bins(16, used) as lent_before, shared.bins(16, used) as of_xgboost:
        assert lent_before in (some, again) and of_xgboost not in (some, again)


@pytest.mark.parametrize("name", HEADS)
def test_every_head_tells_its_size(name: str) -> None:
    cache = make_cache()
    head = make_head(name, n_classes=3).fit(cache.features, cache.label)
    least = {"knn": cache.features.nbytes, "mlp": 256 * 8 * 4, "majority": 24, "prior": 24}
    assert head.n_bytes >= least.get(name, 3 * 8 * 4)


def test_bins_are_those_of_all_rows_whatever_rows_are_used() -> None:
    cache = make_cache()
    shared = SharedFeatures(cache.features)
    used = np.arange(240) % 3 > 0
    with shared.bins(16, used) as some, shared.bins(16, used) as again:
        assert some is not again and some.num_row() == again.num_row() == 160
        np.testing.assert_array_equal(some.get_quantile_cut()[1], again.get_quantile_cut()[1])
        with shared.bins(16, ~used) as others, shared.bins(16, used | True) as everything:
            np.testing.assert_array_equal(
                others.get_quantile_cut()[1], everything.get_quantile_cut()[1]
            )
    with shared.bins(16, used) as lent_before:
        assert lent_before in (some, again)


def test_few_bins_are_kept_of_many_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    cache = make_cache()
    shared = SharedFeatures(cache.features)
    monkeypatch.setattr("trustq.heads.feature_cache.KEPT_BINS", 2 * shared.features.size)
    for rest in range(5):
        with shared.bins(16, np.arange(240) % 5 != rest):
            pass
    assert len(shared._idle_bins) == 2


def test_heads_leave_no_threads_of_blas_that_spin() -> None:
    rng = np.random.default_rng(0)
    features = rng.standard_normal((6000, 256), dtype=np.float32)
    head = LinearHead(n_classes=3, C=0.01)
    waiting = []
    for work in (lambda: head.fit(features, np.arange(6000) % 3), lambda: head.predict(features)):
        time.sleep(0.3)  # until the threads of an earlier test's products are at rest
        work()
        before = time.process_time()
        time.sleep(0.2)
        waiting.append(time.process_time() - before)
    assert max(waiting) < 0.05  # of .1 s by each thread that spins
