"""Scores: cleanlab's numbers, and what the others are named for."""

import dataclasses
import tracemalloc
import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support import make_cache

from trustq.data.splits import group_folds
from trustq.errors import TrustqError
from trustq.heads import make_head
from trustq.heads.out_of_fold import (
    PASSES,
    OutOfFold,
    TrainingRows,
    accept_in_sample,
    fit_out_of_fold,
    read_passes,
)
from trustq.metrics.confident_joint import confident_joint
from trustq.metrics.probabilities import softmax
from trustq.repair.arms import parse_arm
from trustq.scoring import (
    LABEL_BLIND,
    NO_PROBABILITIES,
    SCORE_NAMES,
    SCORE_TITLES,
    SCORES,
    confident,
    ensemble_quality,
    feature_quality,
    label_quality,
)
from trustq.scoring.acquisition import bald
from trustq.scoring.confident import (
    FILTERS,
    estimated_joint,
    estimated_noise_rate,
    find_label_issues,
)
from trustq.scoring.neighbours import hybrid, k_centre, knn_agreement, nearest_rows
from trustq.store import Cache


def noisy(seed: int, *, n: int = 120, k: int = 4) -> tuple[np.ndarray, np.ndarray]:
    """Labels and probabilities that mostly agree; every class is given to some row."""
    rng = np.random.default_rng(seed)
    probs = rng.dirichlet(np.full(k, 0.6), size=n)
    labels = np.array([rng.choice(k, p=row) for row in probs])
    labels[:k] = np.arange(k)
    return labels, probs


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10_000), st.integers(2, 7))
def test_scores_and_filters_are_cleanlabs_to_the_last_bit(seed: int, k: int) -> None:
    from cleanlab.count import compute_confident_joint, estimate_joint
    from cleanlab.filter import find_label_issues as peer_issues
    from cleanlab.rank import get_label_quality_scores

    labels, probs = noisy(seed, k=k)
    for method in ("self_confidence", "normalized_margin", "confidence_weighted_entropy"):
        ours = SCORES[method](labels, probs)
        np.testing.assert_array_equal(ours, get_label_quality_scores(labels, probs, method=method))
        if method != "confidence_weighted_entropy":
            ours = SCORES[f"{method}_adjusted"](labels, probs)
            theirs = get_label_quality_scores(labels, probs, method=method, adjust_pred_probs=True)
            np.testing.assert_array_equal(ours, theirs)
    np.testing.assert_array_equal(
        confident_joint(labels, probs), compute_confident_joint(labels, probs)
    )
    np.testing.assert_array_equal(estimated_joint(labels, probs), estimate_joint(labels, probs))
    for method in FILTERS:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # cleanlab's, on classes of one row
            theirs = peer_issues(
                labels, probs, filter_by=method.replace("prune_by_both", "both"), n_jobs=1
            )
        np.testing.assert_array_equal(find_label_issues(labels, probs, method=method), theirs)


def test_a_class_that_no_row_is_given_has_no_confident_rows() -> None:
    from cleanlab.count import compute_confident_joint

    labels, probs = noisy(1)
    labels[labels == 3] = 0
    joint = confident_joint(labels, probs)
    np.testing.assert_array_equal(joint, compute_confident_joint(labels, probs))
    assert joint[3].sum() == 0 and joint.sum() == len(labels)


def test_the_estimated_rate_is_near_the_true_one_for_a_sure_model() -> None:
    rng = np.random.default_rng(0)
    truth = rng.integers(3, size=6000)
    labels = np.where(rng.random(6000) < 0.2, (truth + rng.integers(1, 3, 6000)) % 3, truth)
    probs = softmax(6 * np.eye(3)[truth] + rng.standard_normal((6000, 3)))
    assert estimated_noise_rate(labels, probs) == pytest.approx(0.2, abs=0.02)
    with pytest.raises(TrustqError, match="^Unknown filter 'low'; there are prune_by_class, "):
        find_label_issues(labels, probs, method="low")


@pytest.mark.parametrize("score", list(SCORES))
def test_every_score_lies_in_0_to_1_and_follows_its_rows(score: str) -> None:
    labels, probs = noisy(3)
    quality = SCORES[score](labels, probs)
    assert quality.shape == (120,) and (quality >= 0).all() and (quality <= 1).all()
    order = np.random.default_rng(0).permutation(120)
    np.testing.assert_allclose(SCORES[score](labels[order], probs[order]), quality[order])
    relabelled = np.array([2, 0, 3, 1])
    turned = SCORES[score](relabelled[labels], probs[:, np.argsort(relabelled)])
    np.testing.assert_allclose(turned, quality, atol=1e-12)


def test_a_label_blind_score_does_not_change_with_the_labels() -> None:
    labels, probs = noisy(4)
    for score in SCORES:
        same = np.array_equal(SCORES[score](labels, probs), SCORES[score]((labels + 1) % 4, probs))
        assert same == (score in LABEL_BLIND), score
    assert set(SCORE_TITLES) == set(SCORE_NAMES)


def test_what_a_filter_flags_comes_before_what_it_does_not() -> None:
    labels, probs = noisy(5)
    for method in FILTERS:
        issues = find_label_issues(labels, probs, method=method)
        quality = SCORES[method](labels, probs)
        assert 0 < issues.sum() < 120
        assert quality[issues].max() <= quality[~issues].min() + 1e-12
        flagged = np.flatnonzero(issues)
        by_confidence = SCORES["self_confidence"](labels, probs)[flagged]
        np.testing.assert_array_equal(
            np.argsort(quality[flagged], kind="stable"), np.argsort(by_confidence, kind="stable")
        )


def test_cross_entropy_minus_entropy_suspects_labels_of_clear_images_first() -> None:
    clear, ambiguous, right = [0.01, 0.98, 0.01], [0.01, 0.49, 0.50], [0.98, 0.01, 0.01]
    probs = np.array([clear, ambiguous, right])
    quality = SCORES["cross_entropy_minus_entropy"](np.zeros(3, int), probs)
    assert quality[0] < quality[1] < quality[2]
    entropy = -(probs * np.log(probs)).sum(axis=1)
    expected = -np.log(probs[:, 0]) - entropy
    np.testing.assert_allclose(quality, 1 / (1 + np.exp(expected)))


def test_relatives_have_no_vote_among_neighbours() -> None:
    rng = np.random.default_rng(0)
    centres = np.array([[5.0, 0.0], [0.0, 5.0]])
    truth = np.arange(60) % 2
    features = centres[truth] + rng.standard_normal((60, 2))
    labels, groups = truth.copy(), np.arange(60) // 2 * 2 + truth  # pairs 0 and 2, 1 and 3, ...
    groups = np.arange(60)
    labels[[0, 2]], groups[[0, 2]] = 1, 100  # two relatives share a mistake, and lie together
    features[2] = features[0]
    quality = knn_agreement(labels, features, groups, k=5)
    assert quality[0] == quality[2] == 0.0
    assert knn_agreement(labels, features, np.arange(60), k=5)[0] > 0
    assert np.median(quality[labels == truth]) == 1.0
    rows, _ = nearest_rows(features, groups, k=5)
    assert not (groups[rows] == groups[:, None]).any()
    with pytest.raises(TrustqError) as caught:
        knn_agreement(labels[:6], features[:6], np.zeros(6, int), k=5)
    assert str(caught.value) == (
        "There are 0 rows beside the largest group, and 5 neighbours of other groups are to vote."
    )


def test_neighbours_are_those_of_a_whole_distance_matrix() -> None:
    rng = np.random.default_rng(2)
    features, groups = rng.standard_normal((300, 12)), rng.integers(150, size=300)
    unit = features / np.linalg.norm(features, axis=1, keepdims=True)
    cosines = unit @ unit.T
    cosines[groups[:, None] == groups] = -2
    expected = np.argsort(-cosines, axis=1)[:, :7]
    rows, found = nearest_rows(features, groups, k=7)
    np.testing.assert_array_equal(rows, expected)
    np.testing.assert_allclose(found, np.take_along_axis(cosines, expected, axis=1), atol=1e-6)


def test_k_centre_takes_the_farthest_row_each_time_in_memory_for_one_distance_a_row() -> None:
    rng = np.random.default_rng(1)
    features = rng.standard_normal((4000, 8)).astype(np.float32)
    chosen = np.zeros(4000, dtype=bool)
    chosen[:3] = True
    tracemalloc.start()
    quality = k_centre(features, chosen, n_wanted=20)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 4 * features.nbytes  # a matrix of distances would be 1,000 times them
    picked = np.argsort(quality, kind="stable")[:20]
    covered = [0, 1, 2]
    for row in picked:
        distance = np.linalg.norm(features[:, None] - features[covered][None], axis=2).min(axis=1)
        assert distance[row] == pytest.approx(distance.max(), rel=1e-4)
        covered.append(int(row))
    assert (quality[:3] == 1).all() and quality.min() == 0


def test_hybrid_takes_no_certain_row_and_k_centre_asks_for_none_of_the_labels() -> None:
    rng = np.random.default_rng(1)
    features = rng.standard_normal((200, 5))
    probs = np.where(np.arange(200)[:, None] < 100, [0.5, 0.5], [1.0, 0.0])
    quality = hybrid(probs, features, np.zeros(200, dtype=bool), n_wanted=10)
    assert (np.argsort(quality, kind="stable")[:10] < 100).all()


def test_bald_asks_where_passes_disagree_not_where_all_are_unsure() -> None:
    sure, unsure = np.array([9.0, 0.0]), np.array([0.0, 0.0])
    passes = np.array([[sure, unsure, sure], [sure, unsure, -sure + 9]])
    quality = bald(passes)
    assert quality[2] < 0.1 and quality[0] == quality[1] == 1.0
    with pytest.raises(TrustqError) as caught:
        bald(passes[:1])
    assert str(caught.value) == (
        "The passes have shape (1, 3, 2), expected (t, n, k) with two passes or more."
    )


@pytest.fixture
def folds() -> tuple[TrainingRows, OutOfFold, Cache]:
    cache = make_cache()
    training = rows_of(cache)
    scored = fit_out_of_fold(
        training, cache.features, cache.label, make=lambda: make_head("linear", n_classes=3)
    )
    return training, scored, cache


def rows_of(cache: Cache) -> TrainingRows:
    groups = np.unique(cache.group_id, return_inverse=True)[1]
    fold = group_folds(cache.label, groups, n_folds=5, seed=0)
    return TrainingRows(cache, np.arange(len(cache)), groups, fold)


def test_an_ensemble_is_cleanlabs(folds: tuple[TrainingRows, OutOfFold, Cache]) -> None:
    from cleanlab.rank import get_label_quality_ensemble_scores

    training, first, cache = folds
    label = cache.label.astype(int)
    second = fit_out_of_fold(
        training, cache.features[:, :2], label, make=lambda: make_head("lda", n_classes=3)
    )
    ours = ensemble_quality(
        [first, second], label, training=[training, training], score="normalized_margin"
    )
    theirs = get_label_quality_ensemble_scores(
        label, [first.probs, second.probs], method="normalized_margin", verbose=False
    )
    np.testing.assert_allclose(ours, theirs, atol=1e-12)


def test_an_ensemble_over_seeds_refuses_other_rows(
    folds: tuple[TrainingRows, OutOfFold, Cache],
) -> None:
    training, scored, cache = folds
    other = dataclasses.replace(
        make_cache(seed=1),
        label=cache.label,
        group_id=cache.group_id,
        sample_id=np.char.add(cache.sample_id, "x"),
    )
    own = rows_of(other)
    second = accept_in_sample(own, np.zeros((240, 3)), cache.label)
    with pytest.raises(TrustqError) as caught:
        ensemble_quality(
            [scored, second], cache.label, training=[training, own], score="self_confidence"
        )
    assert str(caught.value) == (
        "The members of an ensemble are of different rows or orders of rows."
    )
    with pytest.raises(TrustqError, match="^An ensemble has two members or more; there are 1.$"):
        ensemble_quality([scored], cache.label, training=[training], score="self_confidence")
    with pytest.raises(
        TrustqError, match="^Score .k_centre. is no score of probabilities alone; there are"
    ):
        ensemble_quality([scored], cache.label, training=[training], score="k_centre")


def test_a_score_says_what_it_lacks(folds: tuple[TrainingRows, OutOfFold, Cache]) -> None:
    training, scored, cache = folds

    def message(score: str, **given: object) -> str:
        with pytest.raises(TrustqError) as caught:
            label_quality(
                scored,
                cache.label,
                training=training,
                score=score,
                **given,  # type: ignore[arg-type]
            )
        return str(caught.value)

    assert message("bald") == (
        "bald is of dropout passes, and these probabilities are from the source 'head'; use "
        "read_passes."
    )
    assert message("hybrid") == "hybrid is computed from features, (n, d); pass features=."
    assert message("hybrid", features=np.zeros((3, 2))) == (
        "features has shape (3, 2), expected (n, d) with n = 240: one row for each of the "
        "training rows."
    )
    assert message("k_centre") == "k_centre is computed from features alone; call feature_quality."
    with pytest.raises(TrustqError) as caught:
        feature_quality("margin", labels=cache.label, features=cache.features, training=training)
    assert str(caught.value) == (
        "margin is no score of features alone; there are knn_agreement, k_centre."
    )
    assert set(NO_PROBABILITIES) < set(SCORE_NAMES)


def test_of_equal_rows_the_same_is_taken_however_they_lie() -> None:
    cache = make_cache(n=40, group_size=1)
    features = np.repeat(cache.features[:20], 2, axis=0)  # every row twice
    training = rows_of(cache)
    order = np.random.default_rng(0).permutation(40)
    turned = dataclasses.replace(
        training, rows=order, groups=training.groups[order], fold=training.fold[order]
    )
    for wanted in (3, 7):
        quality = feature_quality(
            "k_centre", labels=cache.label, features=features, training=training, n_wanted=wanted
        )
        again = feature_quality(
            "k_centre",
            labels=cache.label[order],
            features=features[order],
            training=turned,
            n_wanted=wanted,
        )
        np.testing.assert_allclose(again, quality[order])


def test_passes_are_in_sample_where_the_network_saw_the_rows() -> None:
    rng = np.random.default_rng(0)
    passes = rng.standard_normal((4, 240, 3)).astype(np.float32)
    fresh = make_cache(extra={PASSES: passes})
    with pytest.raises(TrustqError, match="was not read from a verified file.$"):
        read_passes(rows_of(fresh), fresh.label)
    with pytest.raises(TrustqError) as caught:
        read_passes(rows_of(make_cache()), fresh.label)
    assert str(caught.value) == (
        "cache of gauss holds no dropout passes; extract them (`passes=20`), or use another source."
    )
    for seen in (0, 1):
        cache = make_cache(seen=np.full(240, seen, dtype=np.uint8), exposure="finetuned-observed")
        cache = dataclasses.replace(cache, digest="verified", extra={PASSES: passes})
        scored = read_passes(rows_of(cache), cache.label)
        assert scored.in_sample == bool(seen) and scored.source == "passes"
        np.testing.assert_allclose(
            scored.probs, np.mean([softmax(one) for one in passes], axis=0), atol=1e-9
        )
        quality = label_quality(scored, cache.label, training=rows_of(cache), score="bald")
        np.testing.assert_array_equal(quality, bald(passes))


def test_folds_that_were_mixed_up_are_refused(
    folds: tuple[TrainingRows, OutOfFold, Cache],
) -> None:
    training, scored, cache = folds
    groups = training.groups
    other = dataclasses.replace(training, fold=group_folds(cache.label, groups, n_folds=5, seed=1))
    assert (other.fold != training.fold).any()
    with pytest.raises(TrustqError, match="^These out-of-fold probabilities belong to other folds"):
        label_quality(scored, cache.label, training=other, score="margin")
    with pytest.raises(TrustqError, match="belong to other folds .* Fit the folds again on these"):
        ensemble_quality([scored, scored], cache.label, training=[training, other], score="margin")


def test_the_noise_posterior_is_bayes_rule_over_the_confident_joint() -> None:
    rng = np.random.default_rng(3)
    probs = rng.dirichlet(np.ones(4), size=200)
    labels = rng.integers(0, 4, 200)
    joint = confident.confident_joint(labels, probs)
    expected = []
    for row, label in enumerate(labels):
        each = [probs[row, y] * joint[label, y] / joint[:, y].sum() for y in range(4)]
        expected.append(each[label] / sum(each))
    found = confident.noise_posterior(labels, probs)
    np.testing.assert_allclose(found, expected, rtol=1e-12)


def test_the_mean_rank_is_that_of_scipy_and_goes_by_places_alone() -> None:
    from scipy.stats import rankdata

    rng = np.random.default_rng(6)
    probs = rng.dirichlet(np.ones(5), size=300)
    probs[20:60] = probs[20]  # ties
    labels = rng.integers(0, 5, 300)
    names = ("self_confidence", "noise_posterior", "normalized_margin")
    each = [rankdata(SCORES[name](labels, probs).astype(np.float32)) for name in names]
    found = SCORES["mean_rank"](labels, probs)
    np.testing.assert_allclose(found, np.mean(each, axis=0) / 300, rtol=1e-12)
    shuffled = rng.permutation(300)
    np.testing.assert_allclose(
        SCORES["mean_rank"](labels[shuffled], probs[shuffled]), found[shuffled], rtol=1e-12
    )
    assert parse_arm("mean_rank@crossfit:drop").title == (
        "mean rank of three scores, cross-fitted backbone, dropped"
    )


def test_the_noise_posterior_finds_systematic_mistakes_before_self_confidence_does() -> None:
    # A fifth of the labels are of the next class; the model's own errors go anywhere.
    rng = np.random.default_rng(4)
    truth = rng.integers(0, 10, 4000)
    labels = np.where(rng.random(4000) < 0.2, (truth + 1) % 10, truth)
    # As after training on such labels: the next class is likelier too.
    pull = 2.5 * np.eye(10)[truth] + 1.2 * np.eye(10)[(truth + 1) % 10]
    probs = softmax(1.3 * rng.normal(size=(4000, 10)) + 1.3 * pull)
    wrong, n = labels != truth, int((labels != truth).sum())

    def precision(quality: np.ndarray) -> float:
        return float(wrong[np.argsort(quality)[:n]].mean())

    plain = precision(confident.self_confidence(labels, probs))
    assert precision(confident.noise_posterior(labels, probs)) > plain + 0.05
