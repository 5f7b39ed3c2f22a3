"""`trustq audit`: suspects of real labels, answers, the cleaned list and what dropping changes."""

import csv
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import PredefinedSplit, cross_val_predict
from support import make_cache, reordered
from support_cli import invoke

import trustq as tq
from trustq.audit import audit_labels, neighbours, open_source, source
from trustq.audit.apply import apply_answers, read_answers
from trustq.audit.effect import drop_effect
from trustq.audit.folder import read_audit_folder
from trustq.audit.neighbours import NeighbourSearch, nearest, outlier_score, reference_rows
from trustq.audit.reopen import reopen
from trustq.audit.set_issues import columns_of_rows, find_set_issues
from trustq.core.prose import folded
from trustq.data.image_files import find_images
from trustq.data.splits import group_folds
from trustq.errors import InputError, TrustqError
from trustq.heads import fit_heads, standardise
from trustq.heads.out_of_fold import TrainingRows, accept_out_of_fold, fit_folds
from trustq.report.audit import audit_page, class_rows, confusion_rows, issue_rows, record_audit
from trustq.report.audit import write_audit as write
from trustq.report.image_sheets import chosen_candidates, draw_candidates
from trustq.results import run_query
from trustq.scoring import neighbours as scoring_neighbours
from trustq.store import write_cache


def noisy_cache(*, seed=0, n=400, rate=0.15, **fields):
    """Gaussian classes of which a known share of the training labels is wrong."""
    cache = make_cache(n=n, separation=4.0, seed=seed, **fields)
    rng = np.random.default_rng([0, 1])
    observed = np.where(cache.split == "train", cache.label, -1).astype(np.int16)
    wrong = np.flatnonzero(observed >= 0)[rng.random(int((observed >= 0).sum())) < rate]
    observed[wrong] = (observed[wrong] + 1 + rng.integers(2, size=len(wrong))) % 3
    return replace(cache, observed=observed)


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    path = tmp_path_factory.mktemp("cache") / "seed0.h5"
    write_cache(path, noisy_cache())
    return path


@pytest.fixture(scope="module")
def audit(path):
    return audit_labels([open_source(path)])


@pytest.fixture
def folder(audit, tmp_path):
    write(audit, tmp_path / "audit")
    return tmp_path / "audit"


def read_csv(path):
    with open(path, encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def answer(folder, labels):
    """Fill in the answers sheet: sample id -> label."""
    path = folder.parent / "answered.csv"
    rows = "".join(f"{sample_id},{label}\n" for sample_id, label in labels.items())
    path.write_text("sample_id,label\n" + rows)
    return path


def test_wrong_labels_are_found_and_their_class_suggested(audit):
    wrong = audit.reference != audit.given
    listed = audit.listed
    assert (wrong & listed).sum() >= 0.9 * wrong.sum()
    assert wrong[listed].mean() >= 0.9
    found = listed & wrong
    assert (audit.suggested[found] == audit.reference[found]).mean() > 0.95


def test_only_training_rows_with_an_observed_label_are_audited(audit, path):
    cache = audit.sources[0].cache
    assert len(audit.given) == (cache.split == "train").sum()
    assert not audit.sources[0].out_of_fold.in_sample
    fold = audit.sources[0].training.fold
    for group in np.unique(audit.groups):
        assert len(set(fold[audit.groups == group])) == 1


def test_review_takes_the_first_of_the_ranking(path):
    source = open_source(path)
    ten, twenty = (audit_labels([source], review=n) for n in (10, 20))
    assert ten.order.tolist() == twenty.order.tolist()[:10]
    assert (np.diff(ten.quality[ten.order]) >= 0).all()
    assert (ten.suggested[ten.order] != ten.given[ten.order]).all()


def test_precision_takes_as_many_as_keep_the_estimate(path):
    found = audit_labels([open_source(path)], precision=0.6)
    assert found.p_wrong[found.order].mean() >= 0.6
    order = np.flatnonzero(found.rank > 0)
    order = order[np.argsort(found.rank[order])]
    assert found.p_wrong[order[: len(found.order) + 1]].mean() < 0.6
    assert "An estimate from the labels alone" in " ".join(audit_page(found).split())
    # Each cut is an audit of its own, to the last digit.
    assert audit_labels(found.sources, precision=0.604).key != found.key
    assert found.cut == "as many as keep an estimated precision of 60%"


def test_trusted_rows_are_learned_from_and_never_listed(tmp_path):
    cache = noisy_cache()
    wrong = (cache.observed >= 0) & (cache.observed != cache.label)
    trusted = np.zeros(len(cache), dtype=bool)
    trusted[np.flatnonzero(wrong)[:10]] = True
    write_cache(tmp_path / "c.h5", replace(cache, trusted=trusted))
    found = audit_labels([open_source(tmp_path / "c.h5")], review=1000)
    assert found.trusted.sum() == 10 and not (found.listed & found.trusted).any()
    assert sum(row["labels"] for row in class_rows(found)) == (~found.trusted).sum()


def test_a_class_absent_from_other_folds_has_no_score(tmp_path):
    cache = noisy_cache(rate=0.0)
    observed = cache.observed.copy()
    lone = int(np.flatnonzero(cache.split == "train")[0])
    observed[lone] = 3
    four = replace(cache, classes=("a", "b", "c", "d"), observed=observed)
    write_cache(tmp_path / "c.h5", four)
    found = audit_labels([open_source(tmp_path / "c.h5")])
    row = int(np.flatnonzero(found.given == 3)[0])
    assert np.isnan(found.quality[row]) and found.rank[row] == 0
    assert "1 row without a score: the class is absent from other folds" in found.notes
    assert "class d has 1 group for 5 folds" in found.notes


def test_seeds_vote(path, tmp_path):
    first = noisy_cache()
    rng = np.random.default_rng(7)
    features = first.features + rng.standard_normal(first.features.shape).astype(np.float32)
    # The same rows in another order, as another backbone saw them.
    order = rng.permutation(len(first))
    rows = {
        name: getattr(first, name)[order]
        for name in ("sample_id", "split", "group_id", "label", "observed", "trusted", "seen")
    }
    second = replace(first, **rows, features=features[order], backbone_seed=1)
    write_cache(tmp_path / "seed1.h5", second)
    one, two = open_source(path), open_source(tmp_path / "seed1.h5")
    both = audit_labels([one, two])
    assert both.sample_ids.tolist() == one.sample_ids.tolist()
    alone = [audit_labels([source]) for source in (one, two)]
    place = [np.argsort(np.argsort(a.sample_ids)) for a in (both, alone[1])]
    other = np.argsort(alone[1].sample_ids)[place[0]]
    expected = (alone[0].quality + alone[1].quality[other]) / 2
    np.testing.assert_allclose(both.quality, expected, rtol=0, atol=1e-7)
    for name, votes in both.votes.items():
        if name != "neighbours":  # looked for only where some source suspects
            assert (votes == alone[0].votes[name] + alone[1].votes[name][other]).all()
    assert {2 * v for v in (0, 0.5, 1)} >= set(np.unique(both.votes["prune_by_class"]).tolist())
    assert "=2/2" in both.flags(int(both.order[0]))


def test_an_audit_says_how_far_it_is_and_finds_the_same(path, monkeypatch):
    monkeypatch.setattr(scoring_neighbours, "POINTS", 64)
    told = []
    report = tq.audit_labels(path, path, progress=lambda *step: told.append(step))
    assert issue_rows(report.audit) == issue_rows(tq.audit_labels(path, path).audit)
    stages = {}
    for stage, unit, done, total in told:
        stages.setdefault((stage, unit), []).append((done, total))
    assert [*stages] == [
        ("Fitting heads (1 of 2)", "fits"),
        ("Fitting heads (2 of 2)", "fits"),
        ("Finding neighbours (1 of 2)", "rows"),
        ("Finding neighbours (2 of 2)", "rows"),
    ]
    for steps in stages.values():
        done = [n for n, _ in steps]
        assert done == sorted(done) and done[0] == 0 and len({*done}) > 2
        assert all(n <= total for n, total in steps) and done[-1] == steps[-1][1]


def test_the_command_shows_how_far_an_audit_is_unless_it_is_told_not_to(path, tmp_path):
    asked = ["labels", path, "--out", tmp_path / "audit", "--results", tmp_path / "results"]
    shown = invoke("audit", asked).stderr
    assert "Fitting heads: 0 of 8 fits\n" in shown
    assert "Finding neighbours: " in shown
    for quiet in ("--quiet", "--no-progress"):
        assert " of 8 fits" not in invoke("audit", [*asked, quiet]).stderr


@pytest.mark.parametrize("source", ["head", "file"])
def test_sources_in_another_class_order_are_audited_as_in_this_one(path, tmp_path, source):
    cache = noisy_cache()
    probs = np.random.default_rng(3).dirichlet(np.ones(3), len(cache))
    for name, own in (("same", cache), ("other", reordered(cache))):
        write_cache(tmp_path / f"{name}.h5", own)
        rows = {"sample_ids": own.sample_id, "groups": own.group_id, "classes": own.classes}
        scores = probs if own is cache else probs[:, ::-1]
        labels = {"observed": own.observed, "labels": own.label}
        np.savez(tmp_path / f"{name}.npz", probs=scores, **rows, **labels)
    ending = "h5" if source == "head" else "npz"
    first = open_source(tmp_path / f"same.{ending}", source=source)
    audits = [
        audit_labels([first, open_source(path, source=source, beside=first)])
        for path in (tmp_path / f"{name}.{ending}" for name in ("same", "other"))
    ]
    same, other = audits
    assert other.classes == same.classes == ("a", "b", "c")
    assert (other.given == same.given).all() and (other.suggested == same.suggested).all()
    np.testing.assert_allclose(other.quality, same.quality, atol=1e-6)
    assert (other.sources[1].reference == same.sources[1].reference).all()
    files = [tmp_path / f"{name}.{ending}" for name in ("same", "other")]
    report = tq.audit_labels(*files, source=source)
    assert report.issues["sample_id"].tolist() == same.sample_ids[same.order].tolist()
    places = ["--out", tmp_path / "a", "--results", tmp_path / "r", "--source", source]
    found = invoke("audit", ["labels", *files, *places])
    assert found.exit_code == 0, found.output


def test_sources_whose_ids_are_numbers_are_joined_in_either_form(tmp_path):
    cache = noisy_cache()
    rows = {"features": cache.features, "labels": cache.label, "groups": cache.group_id}
    n = len(cache)
    np.savez(tmp_path / "a.npz", sample_ids=np.arange(n), **rows)
    np.savez(tmp_path / "b.npz", sample_ids=[f"{i}.0" for i in range(n)], **rows)
    opened = [open_source(tmp_path / f"{name}.npz") for name in "ab"]
    both, alone = audit_labels(opened), audit_labels(opened[:1])
    np.testing.assert_allclose(both.quality, alone.quality, atol=1e-7)


def test_sources_of_other_labels_or_rows_are_refused(path, tmp_path):
    cache = noisy_cache()
    changed = cache.observed.copy()
    changed[np.flatnonzero(changed >= 0)[:3]] = 2
    n = int((changed != cache.observed).sum())
    write_cache(tmp_path / "b.h5", replace(cache, observed=changed))
    total = int((cache.observed >= 0).sum())
    with pytest.raises(TrustqError) as caught:
        audit_labels([open_source(path), open_source(tmp_path / "b.h5")])
    assert str(caught.value) == (
        f"{tmp_path / 'b.h5'} has other labels than {path} in {n} of {total} rows, as where noise "
        "was drawn for each seed: audit them apart."
    )
    short = noisy_cache(n=200)
    write_cache(tmp_path / "c.h5", short)
    with pytest.raises(TrustqError, match="audits 120 rows and .* 240, 120 of them shared"):
        audit_labels([open_source(path), open_source(tmp_path / "c.h5")])
    write_cache(tmp_path / "d.h5", replace(cache, classes=("a", "b", "x")))
    with pytest.raises(TrustqError, match="has classes a, b, x, .* a, b, c: audit them apart"):
        audit_labels([open_source(path), open_source(tmp_path / "d.h5")])


def test_crossfit_logits_are_used_where_they_are_stored(tmp_path):
    cache = noisy_cache(exposure="crossfit")
    groups = np.unique(cache.group_id, return_inverse=True)[1]
    logits = 3 * np.eye(3)[cache.label]
    fold = np.where(cache.split == "train", groups % 5, -1).astype(np.int8)
    without = np.flatnonzero(cache.split == "train")[:2]  # a group that no fold left out
    fold[without] = -1
    extra = {"fold": fold, "crossfit_logits": logits.astype(np.float32)}
    write_cache(tmp_path / "c.h5", replace(cache, extra=extra))
    source = open_source(tmp_path / "c.h5")
    assert (source.head, source.out_of_fold.source) == ("cross-fitted backbone", "crossfit")
    found = audit_labels([source])
    wrong = found.reference != found.given
    assert (found.listed == wrong).all() and len(wrong) == (fold >= 0).sum()
    assert open_source(tmp_path / "c.h5", source="head").out_of_fold.source == "head"


def test_rows_that_the_backbone_saw_are_warned_of(tmp_path):
    cache = noisy_cache(exposure="finetuned-observed")
    seen = np.where(cache.split == "train", 1, 0).astype(np.uint8)
    write_cache(tmp_path / "c.h5", replace(cache, seen=seen))
    found = audit_labels([open_source(tmp_path / "c.h5")])
    assert found.notes[0].startswith(
        "the backbone was trained on the labels of 240 of these 240 rows: heads are out of fold"
    )
    assert issue_rows(found)[0]["backbone_saw_row"] is True


@pytest.mark.parametrize("kind", ["npz", "csv"])
def test_embeddings_and_labels_alone_are_enough(tmp_path, kind):
    cache = noisy_cache()
    train = cache.split == "train"
    features, labels = cache.features[train], cache.observed[train].astype(int)
    path = tmp_path / f"e.{kind}"
    if kind == "npz":
        np.savez(path, features=features, labels=labels)
    else:
        head = [*(f"feature_{j}" for j in range(features.shape[1])), "labels"]
        rows = [[*map(str, row), "abc"[c]] for row, c in zip(features, labels, strict=True)]
        path.write_text("\n".join(",".join(row) for row in [head, *rows]) + "\n")
    found = audit_labels([open_source(path)])
    wrong = (cache.observed != cache.label)[train]
    assert wrong[found.listed].mean() > 0.9
    assert "what the backbone saw was not stated" in found.notes[0]
    assert "every row is its own group" in " ".join(found.notes)


@pytest.mark.parametrize("kind", ["npz", "csv"])
def test_probabilities_alone_are_enough(tmp_path, kind):
    cache = noisy_cache()
    train = cache.split == "train"
    probs = 0.85 * np.eye(3)[cache.label[train]] + 0.05
    given, true = cache.observed[train].astype(int), cache.label[train].astype(int)
    path = tmp_path / f"p.{kind}"
    if kind == "npz":
        np.savez(path, probs=probs, observed=given, labels=true)
    else:
        lines = ["prob_a,prob_b,prob_c,observed,labels"]
        for row, o, t in zip(probs, given, true, strict=True):
            lines.append(",".join([*map(str, row), "abc"[o], "abc"[t]]))
        path.write_text("\n".join(lines) + "\n")
    source = open_source(path)
    assert np.array_equal(source.out_of_fold.probs, probs)
    assert source.out_of_fold.source == "stated" and not source.out_of_fold.in_sample
    found = audit_labels([source])
    assert (found.listed == (given != true)).all()
    assert f"By the reference labels {len(found.order)} of the {len(found.order)} are wrong" in (
        audit_page(found)
    )
    assert "taken for out of fold; in-sample ones" in " ".join(found.notes)


def test_settings_of_heads_are_refused_where_none_is_fitted(tmp_path):
    probs = np.tile([[0.8, 0.2], [0.1, 0.9]], (20, 1))
    labels = np.tile([0, 1], 20)
    labels[0] = 1
    np.savez(tmp_path / "p.npz", probs=probs, labels=labels)
    for name, value in (("head", "knn"), ("folds", 3), ("seed", 7)):
        message = (
            f"`{name}={value}` is of heads that are fitted here, and a file's scores are audited: "
            "leave it out, or choose `source=head` where there are features."
        )
        with pytest.raises(InputError) as told:
            tq.audit_labels(tmp_path / "p.npz", **{name: value})
        assert str(told.value) == message
        asked = ["labels", tmp_path / "p.npz", f"--{name}", value, "--out", tmp_path / "audit"]
        found = invoke("audit", asked)
        assert found.exit_code == 1 and f"--{name} {value} is of heads" in found.stderr
        assert not (tmp_path / "audit").exists()
    asked = ["labels", tmp_path / "p.npz", "--candidates", 5, "--out", tmp_path / "audit"]
    found = invoke("audit", asked)
    assert found.exit_code == 2 and "--candidates 5" in found.stderr
    assert not (tmp_path / "audit").exists()


def test_a_lone_labels_array_is_what_is_audited(tmp_path):
    probs = np.tile([[0.8, 0.2], [0.1, 0.9]], (20, 1))
    labels = np.tile([0, 1], 20)
    labels[0] = 1
    np.savez(tmp_path / "p.npz", probs=probs, labels=labels)
    found = audit_labels([open_source(tmp_path / "p.npz")], review=5)
    assert found.order.tolist() == [0] and (found.reference == -1).all()
    assert "reference" not in audit_page(found)


def test_probabilities_without_features_need_source_file(tmp_path):
    np.savez(tmp_path / "p.npz", probs=np.full((4, 2), 0.5), labels=[0, 1, 0, 1])
    with pytest.raises(TrustqError) as caught:
        open_source(tmp_path / "p.npz", source="head")
    assert str(caught.value) == (
        f"{tmp_path / 'p.npz'} holds no features to fit a head on; audit its probabilities with "
        "`source=file`."
    )


def test_labels_of_one_class_have_nothing_to_be_told_from(tmp_path):
    np.savez(tmp_path / "p.npz", probs=np.full((4, 2), 0.5), labels=[1, 1, 1, 1])
    with pytest.raises(TrustqError) as caught:
        open_source(tmp_path / "p.npz")
    assert str(caught.value) == (
        f"{tmp_path / 'p.npz'}: all 4 labels to audit are of class 1, so there is nothing to tell "
        "them from."
    )


def test_stated_probabilities_belong_to_their_rows():
    cache = noisy_cache()
    rows = np.flatnonzero(cache.observed >= 0)
    groups = np.unique(cache.group_id[rows], return_inverse=True)[1]
    observed = cache.observed[rows].astype(np.int64)
    training = TrainingRows(cache, rows, groups, np.full(len(rows), -1))
    made = accept_out_of_fold(training, np.full((len(rows), 3), 1 / 3), observed)
    made.require(training, observed)
    with pytest.raises(TrustqError, match="belong to other observed labels"):
        made.require(training, observed[::-1])
    other = TrainingRows(cache, rows[::-1].copy(), groups, np.full(len(rows), -1))
    with pytest.raises(TrustqError, match="belong to other sample ids"):
        made.require(other, observed)


@pytest.mark.parametrize(
    ("cuts", "message"),
    [
        ({"review": 5, "precision": 0.5}, "`review` and `precision` both cut the list: give one."),
        ({"review": 0}, "`review=0`: expected 1 or more labels."),
        ({"precision": 1.5}, "`precision=1.5`: expected a share above 0 and up to 1."),
    ],
)
def test_a_cut_that_means_nothing_is_refused(path, cuts, message):
    with pytest.raises(TrustqError) as caught:
        audit_labels([open_source(path)], **cuts)
    assert str(caught.value) == message


def test_an_audit_takes_scores_of_labels_alone(path):
    source = open_source(path)
    by_neighbours = audit_labels([source], score="knn_agreement", review=20)
    worst = by_neighbours.order
    assert (by_neighbours.reference != by_neighbours.given)[worst].mean() > 0.9
    scores = (
        "auto, self_confidence, noise_posterior, normalized_margin, mean_rank, "
        "confidence_weighted_entropy, "
        "self_confidence_adjusted, normalized_margin_adjusted, prune_by_class, "
        "prune_by_noise_rate, prune_by_both, "
        "confident_learning, predicted_neq_given, low_self_confidence, low_normalized_margin, "
        "cross_entropy_minus_entropy, knn_agreement, aum, mean_margin, mean_self_confidence, "
        "forgetting"
    )
    for score, why in (
        ("entropy", " It looks at no label, so it finds uncertain images."),
        ("nope", ""),
    ):
        with pytest.raises(TrustqError) as caught:
            audit_labels([source], score=score)
        assert str(caught.value) == f"`score={score}`: expected a score of labels: {scores}.{why}"
    with pytest.raises(TrustqError) as caught:
        audit_labels([replace(source, features=None)], score="knn_agreement")
    assert str(caught.value) == (
        f"`score=knn_agreement`: {path} holds no features. Audit a cache or embeddings, or choose "
        "another score."
    )


def test_neighbours_of_the_same_group_do_not_count():
    rng = np.random.default_rng(0)
    features = rng.standard_normal((60, 4)).astype(np.float32)
    groups = np.arange(60) // 3
    found = nearest(features, groups, rows=np.arange(60), k=5)
    assert (groups[found.rows] != groups[:, None]).all()
    distance = np.linalg.norm(features[:, None] - features, axis=2)
    distance[groups[:, None] == groups] = np.inf
    expected = np.sort(distance, axis=1)[:, :5]
    np.testing.assert_allclose(found.distances, expected, atol=1e-5)
    some = np.array([7, 3, 41])
    of_some = nearest(features, groups, rows=some, k=5)
    assert np.array_equal(of_some.rows, found.rows[some])
    # Equally far rows come by their position.
    corners = np.array([[1.0], [0.0], [2.0], [0.0]], dtype=np.float32)
    assert nearest(corners, np.arange(4), rows=np.array([0]), k=3).rows.tolist() == [[1, 2, 3]]


@pytest.fixture
def spread_on_few_axes() -> np.ndarray:
    """Rows of 60 columns whose spread lies mostly on 12 axes."""
    rng = np.random.default_rng(0)
    mix = rng.standard_normal((12, 60)) * np.linspace(2, 0.5, 12)[:, None]
    noise = 0.3 * rng.standard_normal((6000, 60))
    return (rng.standard_normal((6000, 12)) @ mix + noise).astype(np.float32)


def test_an_audit_finds_the_same_where_memory_has_no_room_for_its_rows(
    monkeypatch, tmp_path, spread_on_few_axes
):
    labels = (spread_on_few_axes[:, 0] > 0).astype(int)
    labels[::20] = 1 - labels[::20]
    np.savez(tmp_path / "x.npz", features=spread_on_few_axes, labels=labels)
    monkeypatch.setattr(neighbours, "EXACT_ROWS", 1000)
    held, found = [], []
    choose = NeighbourSearch._choose_axes
    monkeypatch.setattr(
        NeighbourSearch,
        "_choose_axes",
        lambda search: (held.append(isinstance(search._features, np.ndarray)), choose(search)),
    )
    for room in (1e9, 0.0):
        monkeypatch.setattr(standardise, "room_left", lambda room=room: room)
        one = audit_labels([open_source(tmp_path / "x.npz")])
        found.append((issue_rows(one), find_set_issues(one)))
    assert held == [True, False]
    assert found[0] == found[1]
    assert len(found[0][0]) > 100


@pytest.mark.parametrize("enough", [1200, 10**9])
def test_a_penalty_is_chosen_by_few_folds_and_fitted_on_all_rows(monkeypatch, tmp_path, enough):
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 3, 3000)
    features = (rng.normal(size=(3000, 40)) + 2 * np.eye(40)[labels]).astype("f4")
    np.savez(tmp_path / "x.npz", features=features, labels=labels)
    exact = open_source(tmp_path / "x.npz")
    fitted = []

    def watched(heads, *args, **more):
        fitted.append(len(heads))
        return fit_heads(heads, *args, **more)

    monkeypatch.setattr(source, "CHOSEN_BY", enough)
    monkeypatch.setattr(source, "fit_heads", watched)
    found = open_source(tmp_path / "x.npz")
    assert set(fitted) == {2 if enough == 1200 else 5}
    assert found.head_settings == exact.head_settings
    np.testing.assert_array_equal(found.out_of_fold.logits, exact.out_of_fold.logits)
    assert found.out_of_fold.scorable.all()


def test_few_rows_are_divided_several_times(monkeypatch, tmp_path):
    rng = np.random.default_rng(0)
    labels, groups = rng.integers(0, 3, 300), np.repeat(np.arange(100), 3)
    features = (rng.normal(size=(300, 8)) + np.eye(8)[labels]).astype("f4")
    path = tmp_path / "x.npz"

    def opened(labels, **asked):
        np.savez(path, features=features, labels=labels, groups=groups)
        return open_source(path, **asked)

    folds = []

    def watched(rows, *args, **more):
        folds.append(rows.fold)
        return fit_folds(rows, *args, **more)

    monkeypatch.setattr(source, "fit_folds", watched)
    many = opened(labels)
    found, divisions = many.out_of_fold, np.array(folds[-4:])
    assert ", 4 times 5 folds by group" in many.head and many.settings["repeats"] == 4
    assert len(np.unique(divisions, axis=0)) == 4
    np.testing.assert_array_equal(found.fold, divisions[0])
    # The mean of what scikit-learn finds in each of these divisions.
    scaled = (features - features.mean(axis=0)) / features.std(axis=0)
    model = LogisticRegression(C=many.head_settings["C"], tol=1e-8, max_iter=1000)
    expected = np.mean(
        [
            cross_val_predict(
                model, scaled, labels, cv=PredefinedSplit(own), method="predict_proba"
            )
            for own in divisions
        ],
        axis=0,
    )
    np.testing.assert_allclose(found.probs, expected, atol=2e-3)
    one = opened(labels, repeats=1)
    assert one.head.endswith(", 5 folds by group") and "repeats" not in one.settings
    monkeypatch.setattr(source, "REPEATED_ROWS", 700)
    assert opened(labels).settings["repeats"] == 2
    assert "repeats" not in opened(labels, head="ridge").settings
    for repeats in (0, 101):
        with pytest.raises(InputError, match=f"`repeats={repeats}`: expected 1 to 100 divisions"):
            opened(labels, repeats=repeats)
    np.savez(path, probs=np.full((300, 3), 1 / 3), labels=labels)
    with pytest.raises(InputError, match=r"`repeats=2` is how often heads are fitted, and here no"):
        open_source(path, source="file", repeats=2)


def test_no_division_knows_a_rows_own_label_and_one_that_knew_its_class_scores_it(
    monkeypatch, tmp_path
):
    rng = np.random.default_rng(0)
    labels, groups = rng.integers(0, 3, 300), np.repeat(np.arange(100), 3)
    features = (rng.normal(size=(300, 8)) + np.eye(8)[labels]).astype("f4")
    # Folds and penalty hang on the labels too: they are the same here whatever these say.
    monkeypatch.setattr(source, "PENALTIES", (0.1,))
    monkeypatch.setattr(
        source, "group_folds", lambda labels, *args, **more: group_folds(0 * labels, *args, **more)
    )
    folds = []

    def watched(rows, *args, **more):
        folds.append(rows.fold)
        return fit_folds(rows, *args, **more)

    monkeypatch.setattr(source, "fit_folds", watched)

    def opened(labels):
        np.savez(tmp_path / "x.npz", features=features, labels=labels, groups=groups)
        return open_source(tmp_path / "x.npz").out_of_fold

    opened(labels)
    together = np.array([own[::3, None] == own[None, ::3] for own in folds[-4:]])
    # Of a class of two groups that share a fold in the first division alone, no head knows both.
    one, other = np.argwhere(together[0] & ~together[1:].any(axis=0))[0]
    thin = np.where((groups == one) | (groups == other), 3, labels)
    found = opened(thin)
    assert found.scorable.all() and (found.probs[groups == one, 3] > 0).all()
    told = np.where(groups == one, labels, thin)
    np.testing.assert_array_equal(opened(told).probs[groups == one], found.probs[groups == one])
    assert (opened(told).probs != found.probs).any()
    np.testing.assert_allclose(found.probs.sum(axis=1), 1)


def test_an_audit_is_opened_again_as_often_divided_as_it_was(path, tmp_path):
    for repeats, times in ((None, 4), (1, None), (2, 2)):
        audit = audit_labels([open_source(path, repeats=repeats)])
        write(audit, tmp_path / f"{repeats}")
        again = reopen(read_audit_folder(tmp_path / f"{repeats}"))
        assert again.settings.get("repeats") == times
        np.testing.assert_array_equal(again.out_of_fold.probs, audit.sources[0].out_of_fold.probs)


def test_folds_whose_rows_no_other_knows_choose_no_penalty(monkeypatch):
    monkeypatch.setattr(source, "CHOSEN_BY", 2)
    fold, observed = np.array([0, 0, 1, 1, 2, 2, 3, 3]), np.array([2, 2, 0, 1, 0, 1, 0, 1])
    assert len(source._left_out_to_choose(fold, observed)) == 2


def test_a_search_on_few_axes_finds_the_nearest_and_says_how_many(monkeypatch, spread_on_few_axes):
    features, groups = spread_on_few_axes, np.arange(6000) // 2
    exact = nearest(features, groups, rows=np.arange(6000))
    monkeypatch.setattr(neighbours, "EXACT_ROWS", 1000)
    search = NeighbourSearch(features, groups)
    assert search.n_axes == 16
    found = search.nearest(np.arange(6000))
    assert (groups[found.rows] != groups[:, None]).all()
    same = [len(np.intersect1d(a, b)) for a, b in zip(found.rows, exact.rows, strict=True)]
    assert np.mean(same) / 10 > 0.98
    assert search.recall == pytest.approx(np.mean(same) / 10, abs=0.02)
    # Distances are of all columns: of rows that both found they are equal.
    both = (found.rows == exact.rows).all(axis=1)
    assert both.mean() > 0.8
    np.testing.assert_allclose(found.distances[both], exact.distances[both], rtol=1e-4)
    assert (found.distances >= exact.distances - 1e-4).all()


def test_rows_of_a_large_group_are_searched_for_in_all_columns(monkeypatch, spread_on_few_axes):
    # A group of its own that lies apart: what is near on the axes may not vote.
    features, groups = spread_on_few_axes.copy(), np.arange(6000)
    features[:300] += 20
    groups[:300] = 0
    rows = np.arange(0, 400, 7)
    monkeypatch.setattr(neighbours, "EXACT_ROWS", 1000)
    search = NeighbourSearch(features, groups)
    assert search.n_axes
    found, exact = search.nearest(rows), nearest(features, groups, rows=rows)
    near = rows < 300
    np.testing.assert_array_equal(found.rows[near], exact.rows[near])


def test_rows_that_are_spread_in_all_directions_are_compared_in_all_columns(monkeypatch):
    features = np.random.default_rng(0).standard_normal((3000, 40)).astype(np.float32)
    monkeypatch.setattr(neighbours, "EXACT_ROWS", 1000)
    search = NeighbourSearch(features, np.arange(3000))
    assert (search.n_axes, search.recall) == (0, 1.0)
    found, exact = (
        search.nearest(np.arange(9)),
        nearest(features, np.arange(3000), rows=np.arange(9)),
    )
    np.testing.assert_array_equal(found.rows, exact.rows)


def test_an_audit_says_when_neighbours_were_searched_on_few_axes(
    monkeypatch, tmp_path, spread_on_few_axes
):
    labels = (spread_on_few_axes[:, 0] > 0).astype(int)
    np.savez(tmp_path / "x.npz", features=spread_on_few_axes, labels=labels)
    assert not any("axes" in note for note in audit_labels([open_source(tmp_path / "x.npz")]).notes)
    monkeypatch.setattr(neighbours, "EXACT_ROWS", 1000)
    notes = audit_labels([open_source(tmp_path / "x.npz")]).notes
    assert any(
        note.startswith("neighbours among 6,000 rows were searched first on the 16 axes of most")
        for note in notes
    )


PEAK = """
import resource, sys
from trustq.cli import app
file, out, results = sys.argv[1:]
sys.argv = ["trustq", "audit", "labels", file, "--out", out, "--results", results]
try:
    app()
finally:
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, file=sys.stderr)
"""


def peak(path: Path, out: Path) -> int:
    """Bytes that an audit of a file took at most, by a process that was not forked from this."""
    command = [sys.executable, "-c", PEAK, path, out / "audit", out / "results"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return 1024 * int(done.stderr.split()[-1])


@pytest.mark.skipif(sys.platform != "linux", reason="ru_maxrss counts other units elsewhere")
@pytest.mark.parametrize("ending", ["npz", "npy"])
def test_an_audit_takes_two_and_a_half_times_its_features_of_memory(tmp_path, ending):
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 3, 26_000)
    features = rng.standard_normal((26_000, 640), dtype=np.float32)
    features[:, :3] += 4 * np.eye(3, dtype=np.float32)[labels]
    labels[:500] = rng.integers(0, 3, 500)
    taken = {}
    for name, n in (("small", 500), ("large", 26_000)):
        folder = tmp_path / name
        folder.mkdir()
        if ending == "npz":
            np.savez(folder / "features.npz", features=features[:n], labels=labels[:n])
        else:
            np.save(folder / "features.npy", features[:n])
            np.save(folder / "labels.npy", labels[:n])
        taken[name] = peak(folder / f"features.{ending}", folder)
    assert taken["large"] - taken["small"] < 2.5 * features.nbytes


def test_what_is_like_nothing_else_is_an_outlier():
    rng = np.random.default_rng(0)
    features = rng.standard_normal((200, 4)).astype(np.float32)
    features[0] = 50
    groups = np.arange(200)
    found = nearest(features, groups, rows=np.array([0, 1]))
    others = nearest(features, groups, rows=reference_rows(200, rng=rng))
    far, usual = outlier_score(found, others)
    assert far > 0.99 and usual < 0.99


def test_every_file_is_written_and_says_the_same(audit, folder):
    issues = read_csv(folder / "label_issues.csv")
    assert [row["sample_id"] for row in issues] == audit.sample_ids[audit.order].tolist()
    assert all(row["given"] != row["suggested"] for row in issues)
    neighbours = issues[0]["neighbours"].split()
    assert len(neighbours) == 5 and all(":" in text for text in neighbours)
    per_class = read_csv(folder / "issues_per_class.csv")
    assert sum(int(row["listed"]) for row in per_class) == len(issues)
    assert [row["class"] for row in per_class] == ["a", "b", "c"]
    confusions = read_csv(folder / "issue_confusions.csv")
    assert sum(int(row["listed"]) for row in confusions) == len(issues)
    counts = [int(row["listed"]) for row in confusions]
    assert counts == sorted(counts, reverse=True) == [r["listed"] for r in confusion_rows(audit)]
    sheet = read_csv(folder / "answers.csv")
    assert [row["sample_id"] for row in sheet] == [row["sample_id"] for row in issues]
    assert {row["label"] for row in sheet} == {""}
    assert (folder / "page.txt").read_text() == folded(audit_page(audit)) + "\n"


def test_result_rows_are_written_once(audit, tmp_path):
    assert record_audit(audit, tmp_path) and not record_audit(audit, tmp_path)
    found = run_query(
        tmp_path,
        "SELECT count(*), count(*) FILTER (listed), count(*) FILTER (given <> reference), "
        "min(rank), count(DISTINCT audit) FROM label_issues",
    ).rows
    wrong = int((audit.reference != audit.given).sum())
    assert found == [(len(audit.given), len(audit.order), wrong, 1, 1)]


def test_filled_in_answers_are_never_overwritten(audit, folder):
    sheet = folder / "answers.csv"
    text = sheet.read_text().replace(",,", ",a,", 1)
    sheet.write_text(text)
    with pytest.raises(TrustqError) as caught:
        write(audit, folder)
    assert str(caught.value) == (
        f"{sheet} holds 1 answer, which a new audit would overwrite. Keep them: choose another "
        "folder with `out`, or move the file."
    )
    assert sheet.read_text() == text


def test_answers_are_relabelled_and_nothing_else(audit, folder):
    stored = read_audit_folder(folder)
    ids = audit.sample_ids[audit.order]
    true = dict(zip(audit.sample_ids, np.array(audit.classes)[audit.reference], strict=True))
    path = answer(folder, {i: true[i] for i in ids[:6]} | {ids[6]: ""})
    answers = read_answers(path, classes=stored.classes)
    assert len(answers) == 6
    cleaned = apply_answers(stored, answers=answers)
    acts, labels = cleaned.columns["action"], cleaned.columns["label"]
    changed = {i for i in ids[:6] if true[i] != stored.given[stored.sample_ids == i][0]}
    assert set(stored.sample_ids[acts == "relabel"]) == changed
    assert cleaned.n_unchecked == 0 and cleaned.n_relabelled == len(changed)
    for row, sample_id in enumerate(stored.sample_ids.tolist()):
        expected = true[sample_id] if sample_id in changed else stored.given[row]
        assert labels[row] == expected
    # What a person said, changed or not, is trusted from then on.
    assert set(stored.sample_ids[cleaned.columns["trusted"]]) == set(ids[:6])
    dropped = apply_answers(stored, answers=answers, action="drop", max_per_class=0.0)
    assert dropped.n_held_back == len(changed)
    assert set(stored.sample_ids[dropped.columns["trusted"]]) == set(ids[:6]) - changed
    assert (cleaned.n_answered, cleaned.n_wrong) == (6, len(changed))
    assert cleaned.precision.lower < len(changed) / 6 <= cleaned.precision.upper


def test_an_answer_off_the_list_counts_too(audit, folder):
    stored = read_audit_folder(folder)
    row = int(np.flatnonzero(~stored.listed)[0])
    new = next(c for c in stored.classes if c != stored.given[row])
    cleaned = apply_answers(stored, answers={str(stored.sample_ids[row]): new})
    assert cleaned.columns["label"][row] == new and cleaned.n_answered == 0


def test_the_cap_keeps_classes_whole(folder):
    stored = read_audit_folder(folder)
    everything = apply_answers(stored, action="drop", accept_suggestions=True, max_per_class=1.0)
    capped = apply_answers(stored, action="drop", accept_suggestions=True, max_per_class=0.05)
    assert everything.n_dropped == len(stored.order) and everything.n_held_back == 0
    assert capped.n_dropped + capped.n_held_back == everything.n_dropped
    for c in stored.classes:
        n, changed = capped.by_class[c]
        assert changed == min(int(0.05 * n), everything.by_class[c][1])
        # The most suspicious of the class are those that went.
        order = [row for row in stored.order if stored.given[row] == c]
        acts = capped.columns["action"][order]
        assert (acts == "drop").tolist() == [i < changed for i in range(len(order))]
    dropped = capped.columns["action"] == "drop"
    assert all(label is None for label in capped.columns["label"][dropped])


def test_checked_labels_are_not_held_back(folder):
    stored = read_audit_folder(folder)
    answers = {str(stored.sample_ids[r]): str(stored.suggested[r]) for r in stored.order}
    cleaned = apply_answers(stored, answers=answers, max_per_class=0.0)
    assert cleaned.n_relabelled == len(answers) and cleaned.n_held_back == 0


def test_without_answers_nothing_is_changed(folder):
    stored = read_audit_folder(folder)
    with pytest.raises(TrustqError) as caught:
        apply_answers(stored)
    assert str(caught.value) == (
        f"No label of {folder} was answered, so nothing is known to be wrong. Fill in answers.csv "
        "and pass it with `answers`, or `accept_suggestions` acts on the list unchecked."
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "sample_id,answer\ns1,a\n",
            "{path} has the columns sample_id, answer; expected sample_id and label. Rename a "
            "column to label.",
        ),
        (
            "sample_id,label\ns1,melanoma\ns1,naevus\n",
            "{path}: sample_id 's1' is answered 2 times; give one answer each.",
        ),
        (
            "sample_id,label\ns1,melanom\n",
            "{path}, row 2: unknown class 'melanom' (did you mean 'melanoma'?); expected one of "
            "melanoma, naevus.",
        ),
        (
            "sample_id,label\ns1,\n",
            "{path} holds no row with a label in its column label: fill it in, or leave it out.",
        ),
    ],
)
def test_bad_answers_are_refused(tmp_path, text, message):
    path = tmp_path / "answers.csv"
    path.write_text(text)
    with pytest.raises(TrustqError) as caught:
        read_answers(path, classes=("melanoma", "naevus"))
    assert str(caught.value) == message.format(path=path)


def test_answers_of_another_audit_are_refused(folder):
    stored = read_audit_folder(folder)
    with pytest.raises(TrustqError) as caught:
        apply_answers(stored, answers={"x1": "a", "x2": "a"})
    assert str(caught.value) == (
        f"The answers name 'x1', which {folder} did not audit (2 such ids). Are they of another "
        "audit?"
    )


def test_a_folder_without_an_audit_says_how_to_make_one(tmp_path):
    with pytest.raises(TrustqError) as caught:
        read_audit_folder(tmp_path)
    assert str(caught.value) == (
        f"{tmp_path} holds no audit. Make one with `trustq audit labels` and `out={tmp_path}`."
    )


def test_dropping_wrong_labels_beats_dropping_as_many_at_random(folder):
    found = drop_effect(read_audit_folder(folder), max_per_class=1.0, draws=5)
    assert found.evaluated_on == "80 test rows"
    assert found.n_dropped.sum() == len(read_audit_folder(folder).order)
    random = np.mean([of.overall["accuracy"] for of in found.random])
    assert found.after.overall["accuracy"] >= max(found.before.overall["accuracy"], random)
    capped = drop_effect(read_audit_folder(folder), max_per_class=0.1, draws=1)
    assert (capped.n_dropped <= 0.1 * capped.n_train).all()


def test_without_test_rows_dropping_is_judged_out_of_fold(tmp_path):
    cache = noisy_cache()
    train = np.flatnonzero(cache.split == "train")
    np.savez(
        tmp_path / "e.npz",
        features=cache.features[train],
        labels=cache.observed[train].astype(int),
        groups=cache.group_id[train],
    )
    write(audit_labels([open_source(tmp_path / "e.npz")]), tmp_path / "audit")
    found = drop_effect(read_audit_folder(tmp_path / "audit"), draws=2)
    assert "out of fold, by their given labels" in found.evaluated_on
    assert found.n_evaluated.sum() == len(train)
    (tmp_path / "e.npz").unlink()
    np.savez(tmp_path / "e.npz", features=cache.features[train] + 1, labels=cache.observed[train])
    with pytest.raises(TrustqError, match=r"e\.npz has changed since it was audited"):
        drop_effect(read_audit_folder(tmp_path / "audit"))


def test_test_rows_that_were_audited_too_are_named(tmp_path):
    cache = noisy_cache()
    kept = np.isin(cache.split, ("train", "test"))
    labels = np.where(cache.observed >= 0, cache.observed, cache.label)[kept].astype(int)
    own = {"groups": cache.group_id[kept], "split": cache.split[kept].astype("<U8")}
    np.savez(tmp_path / "e.npz", features=cache.features[kept], labels=labels, **own)
    write(audit_labels([open_source(tmp_path / "e.npz")]), tmp_path / "audit")
    found = drop_effect(read_audit_folder(tmp_path / "audit"), draws=1)
    assert found.evaluated_on == (
        "80 test rows, whose labels helped to choose what is dropped: they were audited too"
    )


def test_probabilities_alone_cannot_be_fitted_again(tmp_path):
    np.savez(
        tmp_path / "p.npz",
        probs=np.tile([[0.8, 0.2], [0.1, 0.9]], (9, 1)),
        labels=[1, 1] + [0, 1] * 8,
    )
    write(audit_labels([open_source(tmp_path / "p.npz")], review=3), tmp_path / "audit")
    with pytest.raises(TrustqError, match="there are no features to fit a head on again"):
        drop_effect(read_audit_folder(tmp_path / "audit"))


def test_the_sheet_shows_each_confusion_and_marks_what_is_missing(audit, tmp_path):
    chosen = chosen_candidates(audit, 12)
    assert sum(map(len, chosen.values())) == min(12, len(audit.order))
    for (given, suggested), rows in chosen.items():
        assert {(audit.given[r], audit.suggested[r]) for r in rows} == {(given, suggested)}
    root = tmp_path / "images" / "part_1"
    root.mkdir(parents=True)
    for sample_id in audit.sample_ids[audit.order]:
        Image.new("RGB", (64, 40), "red").save(root / f"{sample_id}.png")
    broken = str(audit.sample_ids[next(iter(chosen.values()))[0]])
    (root / f"{broken}.png").write_bytes(b"no image")
    images = find_images(audit.sample_ids.tolist(), root=tmp_path / "images")
    sheet = draw_candidates(audit, images, tmp_path / "sheet.png", candidates=12)
    assert (sheet.n, sheet.missing) == (12, (broken,))
    with Image.open(tmp_path / "sheet.png") as drawn:
        red = np.asarray(drawn.convert("RGB")) == [255, 0, 0]
    # Eleven images of 170 x 106 pixels.
    assert red.all(axis=2).sum() == pytest.approx(11 * 170 * 106, rel=0.02)


def test_images_of_another_data_set_are_refused(audit, tmp_path):
    Image.new("RGB", (4, 4)).save(tmp_path / "other.png")
    with pytest.raises(TrustqError) as caught:
        find_images(audit.sample_ids.tolist(), root=tmp_path)
    assert str(caught.value) == (
        f"{tmp_path} has none of the audited images, e.g. {str(audit.sample_ids[0])!r}. Is it of "
        "another data set?"
    )


def test_the_commands_go_from_labels_to_a_cleaned_list(path, tmp_path):
    out, results = tmp_path / "audit", tmp_path / "results"
    run = invoke("audit", ["labels", path, "--out", out, "--results", results, "--review", 20])
    assert run.exit_code == 0, run.output
    assert "the list has 20 (the 20 most suspicious)" in run.stdout
    run = invoke(
        "audit", ["labels", path, "--out", out, "--results", results, "--review", 20, "--json"]
    )
    assert json.loads(run.stdout)["n_listed"] == 20
    cleaned = tmp_path / "cleaned.csv"
    run = invoke("audit", ["apply", out, "--accept-suggestions", "--out", cleaned])
    assert run.exit_code == 0, run.output
    assert "were not checked by any person" in run.stdout
    rows = read_csv(cleaned)
    assert ",".join(rows[0]) == "sample_id,label,given,suggested,action,reason,trusted"
    assert {row["trusted"] for row in rows} == {"False"}
    assert sum(row["action"] == "relabel" for row in rows) == 20
    run = invoke("audit", ["effect", out, "--draws", 2, "--json"])
    assert run.exit_code == 0, run.output
    assert json.loads(run.stdout)["n_dropped"] == 20


def test_images_are_found_by_path_or_name_with_or_without_their_ending(tmp_path):
    for path in ("a/IMD1.jpg", "b/IMD2.png", "b/IMD3.jpg", "a/IMD3.jpg"):
        (tmp_path / path).parent.mkdir(exist_ok=True)
        Image.new("RGB", (4, 4)).save(tmp_path / path)
    found = find_images(["IMD1.JPG", "IMD2", "b/IMD3", "a/IMD3.jpg", "IMD4"], root=tmp_path)
    assert {own: path.relative_to(tmp_path).as_posix() for own, path in found.items()} == {
        "IMD1.JPG": "a/IMD1.jpg",
        "IMD2": "b/IMD2.png",
        "b/IMD3": "b/IMD3.jpg",
        "a/IMD3.jpg": "a/IMD3.jpg",
    }
    with pytest.raises(TrustqError, match="'IMD3' may be a/IMD3.jpg or b/IMD3.jpg: name the"):
        find_images(["IMD3"], root=tmp_path)


def test_columns_that_may_predict_labels_join_whatever_the_ending_of_ids(tmp_path):
    (tmp_path / "t.csv").write_text("image,site\nIMD1.jpg,arm\nIMD2.jpg,leg\n")
    found = columns_of_rows(tmp_path / "t.csv", np.array(["IMD2", "IMD9", "IMD1.png"]))
    assert {name: column.tolist() for name, column in found.items()} == {
        "site": ["leg", None, "arm"]
    }
    (tmp_path / "u.csv").write_text("site\narm\n")
    assert columns_of_rows(tmp_path / "u.csv", np.array(["IMD2"])) == {}
