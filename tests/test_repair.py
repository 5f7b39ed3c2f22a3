"""Repair: purchases, ledgers and exposure rules, on caches whose truth is known."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
from support import make_cache

from trustq.calibration.registry import NAMES, make_calibrator
from trustq.data.noise import draw_start, parse_noise
from trustq.errors import TrustqError
from trustq.experiments import repair
from trustq.metrics.classification import summarise
from trustq.metrics.per_class import class_figures
from trustq.recipes import SweepRecipe, load_recipe
from trustq.repair import draw_experiment, parse_arm
from trustq.repair.arms import budget_size, round_sizes
from trustq.report import repair_curve_figure, repair_table, risk_coverage_figure
from trustq.results import run_query
from trustq.scoring import SCORE_NAMES
from trustq.store import Cache, read_cache, write_cache
from trustq.store.format import SEEN_OBSERVED, SEEN_REFERENCE

ARMS = "none,random,self_confidence,entropy,oracle"


def recipe(*settings: str):  # type: ignore[no-untyped-def]
    base = ["sweep.noise=symmetric:0.3", f"arms={ARMS}", "budgets=20", "regularisation=0.1"]
    base.append("references=false")  # tests name the arms they want
    return load_recipe(settings=[*base, *settings])


def query(folder: Path, sql: str):  # type: ignore[no-untyped-def]
    return run_query(folder, sql).rows


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    results = tmp_path_factory.mktemp("results")
    repair([make_cache(n=400)], recipe=recipe("rounds=2", "draws=3"), results=results)
    return results


def test_self_confidence_finds_more_wrong_labels_than_random(finished: Path) -> None:
    hits = dict(
        query(
            finished,
            "SELECT arm, sum(errors_found) FROM rounds JOIN runs ON key = run GROUP BY arm",
        )
    )
    assert hits["self_confidence"] > 2 * hits["random"]
    assert hits["oracle"] == 60
    assert hits["none"] == 0


def test_the_ledger_tells_every_purchase_truly(finished: Path) -> None:
    assert query(
        finished,
        """SELECT count(*), bool_and(label_after = truth),
                  bool_and(was_wrong = (label_before <> truth))
           FROM queries""",
    ) == [(4 * 3 * 20, True, True)]
    # Nothing is bought twice, and the labels table agrees with the ledger.
    assert query(finished, "SELECT count(DISTINCT run || sample_id) FROM queries") == [(240,)]
    assert query(
        finished,
        """SELECT bool_and(l.bought_round = q.round AND l.current_label = q.truth
                           AND l.observed = q.label_before)
           FROM queries q JOIN labels l USING (run, sample_id)""",
    ) == [(True,)]
    assert query(
        finished,
        """SELECT bool_and(current_label = observed) FROM labels WHERE bought_round IS NULL""",
    ) == [(True,)]


def test_figures_of_classes_are_those_of_the_stored_predictions(finished: Path) -> None:
    # Of what was evaluated after the last round, before and after temperature.
    sql = """SELECT run, round, split, stage, list(label ORDER BY sample_id),
               list(probabilities ORDER BY sample_id) FROM predictions
             WHERE split <> 'val' GROUP BY ALL ORDER BY ALL"""
    expected = {}
    for *place, labels, probs in query(finished, sql):
        codes = np.array(["abc".index(label) for label in labels])
        for found in class_figures(codes, np.array(probs)):
            for metric in ("recall", "precision", "f1", "auroc"):
                expected[*place, "abc"[found.label], metric] = (getattr(found, metric), found.n)
    stored = query(
        finished,
        """SELECT run, round, split, stage, class_name, metric, value, n FROM metrics
           WHERE class_name IS NOT NULL AND is_final""",
    )
    assert {row[:6]: row[6:] for row in stored} == {
        place: (pytest.approx(figure, abs=1e-12), n) for place, (figure, n) in expected.items()
    }
    assert len(stored) == 5 * 3 * 2 * 3 * 4  # arms, draws, stages, classes, figures


def test_figures_of_classes_are_of_the_last_round_and_share_no_name(finished: Path) -> None:
    of_classes = query(finished, "SELECT DISTINCT metric FROM metrics WHERE class_name IS NOT NULL")
    of_all = query(finished, "SELECT DISTINCT metric FROM metrics WHERE class_name IS NULL")
    assert len(of_classes) == 4 and not set(of_classes) & set(of_all)
    assert query(
        finished,
        """SELECT bool_and(is_final), list(DISTINCT split) FROM metrics
           WHERE class_name IS NOT NULL""",
    ) == [(True, ["test"])]
    # The mean over classes is the figure of all.
    assert query(
        finished,
        """SELECT max(abs(of_all.value - by_class.mean)) < 1e-12 FROM metrics of_all JOIN (
             SELECT run, stage, avg(value) AS mean FROM metrics
             WHERE metric = 'auroc' GROUP BY ALL) by_class USING (run, stage)
           WHERE of_all.metric = 'macro_auroc' AND is_final AND split = 'test'""",
    ) == [(True,)]


def test_a_class_that_is_nowhere_has_rows_without_a_figure(tmp_path: Path) -> None:
    cache = make_cache()
    cache = dataclasses.replace(cache, classes=(*cache.classes, "rare"))
    repair([cache], recipe=recipe("arms=none"), results=tmp_path / "r")
    assert query(
        tmp_path / "r",
        """SELECT metric, value, n FROM metrics
           WHERE class_name = 'rare' AND stage = 'uncalibrated' ORDER BY ALL""",
    ) == [(name, None, 0) for name in ("auroc", "f1", "precision", "recall")]


CALIBRATORS = next(f for f in dataclasses.fields(SweepRecipe) if f.name == "calibrator")


def test_a_recipe_may_name_every_calibrator_but_the_second_temperature() -> None:
    assert {*CALIBRATORS.metadata["choices"], "sklearn-temperature"} == set(NAMES)


@pytest.mark.parametrize("name", CALIBRATORS.metadata["choices"])
def test_calibrated_figures_are_of_the_calibrator_fitted_on_the_validation_logits(
    name: str, tmp_path: Path
) -> None:
    if name.startswith("netcal"):
        pytest.importorskip("netcal")
    results = tmp_path / "r"
    settings = recipe("arms=random", f"calibrator={name}")
    repair([make_cache(separation=1.0)], recipe=settings, results=results)
    of = {}
    for split, logits, labels in query(
        results,
        """SELECT split, list(logits ORDER BY sample_id), list(label ORDER BY sample_id)
           FROM predictions WHERE stage = 'uncalibrated' GROUP BY split""",
    ):
        of[split] = (np.array(logits), np.array(["abc".index(label) for label in labels]))
    by_hand = make_calibrator(name).fit(*of["val"]).transform(of["test"][0])
    stored = query(
        results,
        """SELECT metric, value FROM metrics WHERE is_final AND split = 'test'
           AND stage = 'calibrated' AND class_name IS NULL""",
    )
    expected = summarise(of["test"][1], logits=by_hand).figures
    assert dict(stored) == pytest.approx(expected, abs=1e-9, nan_ok=True)
    kept = query(
        results, "SELECT calibrator, temperature IS NULL FROM runs JOIN rounds ON key = run"
    )
    assert set(kept) == {(name, name != "temperature")}


def test_a_calibrator_is_part_of_the_key_where_it_is_not_the_default(tmp_path: Path) -> None:
    cache, results = make_cache(), tmp_path / "r"
    plain = repair([cache], recipe=recipe("arms=none"), results=results)
    named = recipe("arms=none", "calibrator=temperature")
    same = repair([cache], recipe=named, results=results)
    other = repair([cache], recipe=recipe("arms=none", "calibrator=vector"), results=results)
    assert (same.keys, same.n_new, other.n_new) == (plain.keys, 0, 1)
    # What comes before calibration is the same.
    assert query(
        results,
        """SELECT stage, max(n) FROM (SELECT stage, split, metric, count(DISTINCT value) AS n
             FROM metrics WHERE metric IN ('nll', 'ece') GROUP BY ALL) GROUP BY stage ORDER BY 1""",
    ) == [("calibrated", 2), ("uncalibrated", 1)]


def test_a_calibrator_without_validation_rows_is_refused(tmp_path: Path) -> None:
    cache = make_cache()
    split = np.where(cache.split == "val", "train", cache.split)
    cache = dataclasses.replace(cache, split=split)
    with pytest.raises(TrustqError) as caught:
        repair([cache], recipe=recipe("calibrator=vector"), results=tmp_path / "r")
    assert str(caught.value) == (
        f"calibrator is 'vector', but {cache.name} has no validation rows to fit it on. Leave "
        "calibrator out, or give rows to a val split."
    )


def test_a_calibrator_that_is_not_installed_is_refused_before_anything_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("trustq.calibration.registry.find_spec", lambda name: None)
    with pytest.raises(TrustqError) as caught:
        repair([make_cache()], recipe=recipe("calibrator=netcal-beta"), results=tmp_path / "r")
    assert str(caught.value) == (
        "The beta calibrator is netcal's, which is not installed: "
        "pip install 'trustq[calibration]'."
    )
    assert not (tmp_path / "r").exists()


def test_scores_are_bought_from_the_lowest_up(finished: Path) -> None:
    assert query(
        finished,
        """SELECT bool_and(quality >= before) FROM (
             SELECT quality, lag(quality) OVER (PARTITION BY run, round ORDER BY rank) AS before
             FROM queries WHERE quality IS NOT NULL)""",
    ) == [(True,)]


def test_round_zero_is_shared_by_all_arms(finished: Path) -> None:
    assert query(
        finished,
        """SELECT count(DISTINCT shared_key), count(DISTINCT value) FROM metric_values
           WHERE round = 0 AND metric = 'nll' AND split = 'test' AND stage = 'uncalibrated'
             AND draw_seed = 1""",
    ) == [(1, 1)]


@pytest.mark.bits
def test_an_arm_draws_the_same_whichever_other_arms_run(finished: Path, tmp_path: Path) -> None:
    alone = tmp_path / "alone"
    settings = recipe("rounds=2", "draws=3", "arms=random")
    repair([make_cache(n=400)], recipe=settings, results=alone)
    ledger = """SELECT run, round, rank, sample_id FROM queries JOIN runs ON key = run
                WHERE arm = 'random' ORDER BY ALL"""
    assert query(alone, ledger) == query(finished, ledger)


@pytest.mark.bits
def test_an_arms_figures_are_the_same_bits_whichever_other_arms_run(
    finished: Path, tmp_path: Path
) -> None:
    settings = recipe("rounds=2", "draws=3", "arms=self_confidence")
    repair([make_cache(n=400)], recipe=settings, results=tmp_path / "alone")
    figures = """SELECT key, round, split, stage, metric, value FROM metric_values
                 WHERE arm = 'self_confidence' ORDER BY ALL"""
    assert repr(query(tmp_path / "alone", figures)) == repr(query(finished, figures))


def test_a_second_run_adds_nothing_and_a_new_arm_only_itself(tmp_path: Path) -> None:
    cache, results = make_cache(), tmp_path / "r"
    first = repair([cache], recipe=recipe("arms=none,random"), results=results)
    again = repair([cache], recipe=recipe("arms=none,random"), results=results)
    more = repair([cache], recipe=recipe(), results=results)
    assert (first.n_new, again.n_new, more.n_new) == (2, 0, 3)
    assert again.keys == first.keys
    assert query(results, "SELECT count(*) FROM runs") == [(5,)]


@pytest.mark.bits
def test_the_same_recipe_gives_the_same_numbers(finished: Path, tmp_path: Path) -> None:
    again = tmp_path / "again"
    repair([make_cache(n=400)], recipe=recipe("rounds=2", "draws=3"), results=again)
    for table in ("metrics", "queries", "labels", "predictions"):
        sql = f"SELECT * FROM {table} ORDER BY ALL"
        assert repr(query(again, sql)) == repr(query(finished, sql)), table


def test_validation_and_test_labels_are_never_altered(finished: Path) -> None:
    cache = make_cache(n=400)
    truth = {s: cache.classes[c] for s, c in zip(cache.sample_id, cache.label, strict=True)}
    rows = query(finished, "SELECT DISTINCT sample_id, label, split FROM predictions")
    assert {split for _, _, split in rows} == {"val", "test"}
    assert all(truth[sample] == label for sample, label, _ in rows)
    assert query(finished, "SELECT count(*), count(DISTINCT group_id) FROM samples") == [(400, 200)]
    assert {s for (s,) in query(finished, "SELECT DISTINCT sample_id FROM labels")} == set(
        cache.sample_id[cache.split == "train"].tolist()
    )


def test_temperature_changes_no_prediction(finished: Path) -> None:
    assert (
        query(
            finished,
            """SELECT count(DISTINCT value) FROM metric_values
           WHERE metric = 'accuracy' AND is_final GROUP BY key, split, round""",
        )
        == [(1,)] * query(finished, "SELECT count(*) FROM runs")[0][0] * 2
    )


def test_clean_labels_are_all_counted(finished: Path) -> None:
    cache = make_cache(n=400)
    counted = query(finished, "SELECT DISTINCT n_clean_validation, calibration_labels FROM runs")
    n = int((cache.split == "val").sum())
    assert counted == [(n, f"reference labels of {n} validation rows")]


def test_trusted_rows_start_right_and_are_not_bought(tmp_path: Path) -> None:
    results = tmp_path / "r"
    repair([make_cache()], recipe=recipe("sweep.trusted=0.25"), results=results)
    n_train = int((make_cache().split == "train").sum())
    assert query(
        results,
        """SELECT bool_and(observed = label AND bought_round IS NULL), count(DISTINCT sample_id)
           FROM labels l JOIN runs ON key = run
           WHERE l.trusted AND sample_id NOT IN
             (SELECT sample_id FROM queries q WHERE q.run = key)""",
    ) == [(True, round(0.25 * n_train))]


def test_without_a_split_figures_are_out_of_fold_and_never_calibrated_on_test(
    tmp_path: Path,
) -> None:
    cache = make_cache(exposure="unknown", split=np.array(["train"] * 240))
    run = repair([cache], recipe=recipe(), results=tmp_path / "r")
    assert query(tmp_path / "r", "SELECT DISTINCT split, stage FROM metrics") == [
        ("out_of_fold", "uncalibrated")
    ]
    assert query(tmp_path / "r", "SELECT DISTINCT calibrator, calibration_labels FROM runs") == [
        (None, "none: there are no validation rows")
    ]
    assert any("exposure of this cache is unknown" in note for note in run.notes)
    assert any("There are no test rows" in note for note in run.notes)


def test_xgboost_head_and_open_penalty_run(tmp_path: Path) -> None:
    repair([make_cache()], recipe=recipe("head=xgboost", "trees=5"), results=tmp_path / "r")
    few = recipe("head=xgboost", "trees=5", "components=2")
    repair([make_cache()], recipe=few, results=tmp_path / "r")
    repair([make_cache()], recipe=recipe("regularisation=auto"), results=tmp_path / "r")
    heads = query(tmp_path / "r", "SELECT DISTINCT head, selection_digest IS NULL FROM runs")
    assert sorted(heads) == [("linear", False), ("xgboost", False)]
    settings = query(tmp_path / "r", "SELECT DISTINCT head_settings FROM runs ORDER BY 1")
    assert [text for (text,) in settings] == [
        '{"components": 2, "trees": 5}',
        '{"regularisation": "auto"}',
        '{"trees": 5}',
    ]


OTHER_HEADS = ["balanced", "knn", "centroid", "lda", "ridge", "mlp", "majority", "prior"]


def test_lightgbm_head_repairs_and_says_its_version(tmp_path: Path) -> None:
    lightgbm = pytest.importorskip("lightgbm")
    settings = recipe("head=lightgbm", "trees=7", "arms=none,self_confidence")
    repair([make_cache()], recipe=settings, results=tmp_path / "r")
    ((head, versions),) = query(tmp_path / "r", "SELECT DISTINCT head, versions FROM runs")
    assert head == "lightgbm"
    assert json.loads(versions)["lightgbm"] == lightgbm.__version__


@pytest.mark.parametrize("head", OTHER_HEADS)
def test_every_other_head_repairs_too(head: str, tmp_path: Path) -> None:
    settings = recipe(f"head={head}", "arms=none,self_confidence")
    repair([make_cache()], recipe=settings, results=tmp_path / "r")
    rows = query(
        tmp_path / "r",
        "SELECT min(value) FROM metrics WHERE metric = 'accuracy' AND split = 'test'",
    )
    assert rows[0][0] > (0.15 if head in ("majority", "prior") else 0.5)
    costs = "SELECT min(head_bytes), min(microseconds_per_row) FROM runs"
    assert all(cost > 0 for cost in query(tmp_path / "r", costs)[0])


def test_backbone_head_is_the_cached_logits_as_they_are(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    cache = make_cache(logits=rng.standard_normal((240, 3)).astype(np.float32))
    with pytest.raises(TrustqError, match="`head=backbone` has no folds to score from"):
        repair([cache], recipe=recipe("head=backbone"), results=tmp_path / "r")
    arms = "arms=none,random,self_confidence@in_sample"
    repair([cache], recipe=recipe("head=backbone", arms), results=tmp_path / "r")
    test = cache.split == "test"
    right = float((cache.logits[test].argmax(axis=1) == cache.label[test]).mean())
    rows = query(
        tmp_path / "r",
        """SELECT DISTINCT value, refit, arm = 'none' FROM metric_values
           WHERE metric = 'accuracy' AND split = 'test' ORDER BY ALL""",
    )
    # What was bought reached nothing; what was stored is what the backbone was trained on.
    assert rows == [(pytest.approx(right), "backbone", True), (pytest.approx(right), "none", False)]
    assert query(tmp_path / "r", "SELECT arm FROM runs WHERE in_sample") == [
        ("self_confidence@in_sample",)
    ]


def test_averaged_training_doubts_what_the_last_model_has_learned_by_heart(tmp_path: Path) -> None:
    from test_audit import noisy_cache

    cache = noisy_cache()
    rng = np.random.default_rng(0)
    epochs = np.full((5, len(cache), 3), np.nan, dtype=np.float32)
    trained = cache.observed >= 0
    for e in range(5):
        towards = np.eye(3)[cache.label] * (4 - e) + np.eye(3)[cache.observed] * 2 * e
        epochs[e, trained] = (towards + 0.3 * rng.normal(size=towards.shape))[trained]
    write_cache(tmp_path / "seed0.h5", dataclasses.replace(cache, extra={"epochs/logits": epochs}))
    stored = read_cache(tmp_path / "seed0.h5")
    arms = "arms=self_confidence@epochs,self_confidence@path,random"
    repair(
        [stored],
        recipe=recipe(arms, "sweep.noise=stored", "budgets=10%", "sweep.trusted=0"),
        results=tmp_path / "r",
    )
    bought = """SELECT arm, errors_found_total / n_bought_total
                FROM rounds JOIN runs ON key = run WHERE round = 1"""
    found = dict(query(tmp_path / "r", bought))
    assert found["self_confidence@epochs"] > 0.9 > 0.5 > found["random"]
    assert query(tmp_path / "r", "SELECT arm FROM runs WHERE in_sample ORDER BY arm") == [
        ("self_confidence@epochs",),
        ("self_confidence@path",),
    ]


def test_a_backbone_that_was_trained_on_repaired_labels_is_a_refit_of_its_own(
    tmp_path: Path,
) -> None:
    logits = np.random.default_rng(0).standard_normal((240, 3)).astype(np.float32)
    cache = make_cache(logits=logits, noise={"spec": "file:labels.csv"})
    repair([cache], recipe=recipe("head=backbone", "arms=none"), results=tmp_path / "r")
    assert query(tmp_path / "r", "SELECT refit FROM runs") == [("backbone",)]


def finetuned(kind: str, **fields: object) -> Cache:
    base = make_cache(n=400)
    train = base.split == "train"
    bit = SEEN_OBSERVED if kind == "finetuned-observed" else SEEN_REFERENCE
    values: dict[str, object] = {"exposure": kind, "seen": np.where(train, bit, 0).astype(np.uint8)}
    if kind == "finetuned-observed":
        noise = parse_noise("symmetric:0.2", classes=base.classes)
        start = draw_start(base.label[train].astype(int), noise=noise, trusted=0.1, seed=42)
        observed, trusted = base.observed.copy(), base.trusted.copy()
        observed[train], trusted[train] = start.observed, start.trusted
        values |= {"observed": observed, "trusted": trusted}
        values["noise"] = {
            "spec": "symmetric:0.2",
            "trusted": 0.1,
            "draw_seed": 42,
            "rate": start.rate,
            "digest": start.digest,
        }
    return dataclasses.replace(base, **(values | fields))  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", ["finetuned-clean", "finetuned-observed"])
def test_noise_the_backbone_was_not_trained_on_is_refused(kind: str, tmp_path: Path) -> None:
    cache = finetuned(kind)
    n = int((cache.split == "train").sum())
    with pytest.raises(TrustqError) as caught:
        repair([cache], recipe=recipe(), results=tmp_path / "r")
    assert str(caught.value) == (
        f"cache of gauss is {kind}: its backbone was trained on other labels of {n} of the {n} "
        "training rows (or of their groups), so noise 'symmetric:0.3' put on them now would "
        "already be known to the features.\nUse its own noise (`noise=stored`), rows it never saw "
        "(`rows=unseen`), a frozen cache, or extract with this noise; `allow_leak` runs it all the "
        "same and marks every row."
    )
    assert not (tmp_path / "r").exists()
    run = repair([cache], recipe=recipe(), results=tmp_path / "r", allow_leak=True)
    assert query(tmp_path / "r", "SELECT DISTINCT leaky FROM runs") == [(True,)]
    assert any(note.startswith("LEAKY") for note in run.notes)


def test_one_seen_relative_is_enough_to_refuse(tmp_path: Path) -> None:
    cache = make_cache(exposure="finetuned-clean")
    seen = np.zeros(240, np.uint8)
    seen[np.flatnonzero(cache.split == "train")[0]] = SEEN_REFERENCE
    with pytest.raises(TrustqError, match="trained on other labels of 2 of the"):
        repair([dataclasses.replace(cache, seen=seen)], recipe=recipe(), results=tmp_path / "r")


def test_clean_upper_bound_of_a_clean_backbone_is_allowed(tmp_path: Path) -> None:
    run = repair(
        [finetuned("finetuned-clean")],
        recipe=recipe("sweep.noise=none", "arms=none"),
        results=tmp_path / "r",
    )
    assert run.n_new == 1
    assert query(tmp_path / "r", "SELECT leaky, backbone_saw_rows FROM runs") == [(False, True)]


def test_unseen_rows_of_a_finetuned_cache_take_any_noise(tmp_path: Path) -> None:
    cache = finetuned("finetuned-clean")
    repair([cache], recipe=recipe("rows=unseen", "budgets=5"), results=tmp_path / "r")
    used = {s for (s,) in query(tmp_path / "r", "SELECT DISTINCT sample_id FROM labels")}
    assert used <= set(cache.sample_id[cache.seen == 0].tolist())
    assert query(
        tmp_path / "r", "SELECT DISTINCT leaky, backbone_saw_rows, rows_used FROM runs"
    ) == [(False, False, "unseen")]


def test_stored_noise_starts_from_the_very_same_labels(tmp_path: Path) -> None:
    cache = write_cache(tmp_path / "a.h5", finetuned("finetuned-observed"))
    cache = read_cache(tmp_path / "a.h5")
    settings = recipe("sweep.noise=stored", "sweep.trusted=stored", "arms=none,random")
    experiment = draw_experiment(cache, sweep=settings.sweep, draw_seed=7)
    assert experiment.start.digest == cache.noise["digest"]
    np.testing.assert_array_equal(experiment.start.observed, cache.observed[experiment.rows])
    np.testing.assert_array_equal(experiment.start.trusted, cache.trusted[experiment.rows])
    assert experiment.noise == "stored (symmetric:0.2)" and experiment.trusted == 0.1
    repair([cache], recipe=settings, results=tmp_path / "r")
    assert query(tmp_path / "r", "SELECT DISTINCT backbone_saw_rows FROM runs") == [(True,)]
    with pytest.raises(TrustqError, match="with `noise=stored` the trusted start is its own"):
        repair(
            [cache],
            recipe=recipe("sweep.noise=stored", "sweep.trusted=0.2"),
            results=tmp_path / "r",
        )


def test_stored_noise_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(TrustqError, match="stores no observed labels for 144 of its 144 training"):
        repair([make_cache()], recipe=recipe("sweep.noise=stored"), results=tmp_path / "r")


def test_external_rows_are_predicted_by_the_internal_head(tmp_path: Path) -> None:
    cache = dataclasses.replace(make_cache(), weights_digest="w")
    other = make_cache(
        n=40, seed=9, dataset="other", weights_digest="w", split=np.array(["external"] * 40)
    )
    # Another class order and case outside: labels are matched by name.
    other = dataclasses.replace(other, classes=("C", "b", "A"), label=2 - other.label)
    repair([cache], recipe=recipe(), results=tmp_path / "r", externals=[other])
    rows = query(
        tmp_path / "r",
        """SELECT eval_dataset, split, n, min(value) FROM metrics
           WHERE metric = 'accuracy' AND split = 'external' AND stage LIKE '%calibrated'
           GROUP BY ALL""",
    )
    assert rows == [("other", "external", 40, pytest.approx(0.8, abs=0.15))]
    stranger = dataclasses.replace(other, weights_digest="x")
    with pytest.raises(
        TrustqError, match="None of the external caches is known to be of the network"
    ):
        repair([cache], recipe=recipe(), results=tmp_path / "r", externals=[stranger])


def test_the_rows_of_training_are_no_external_test(tmp_path: Path) -> None:
    cache = dataclasses.replace(make_cache(), weights_digest="w")
    with pytest.raises(TrustqError, match="so it is no external test"):
        repair([cache], recipe=recipe(), results=tmp_path / "r", externals=[cache])


def test_test_rows_that_the_backbone_was_trained_on_are_refused(tmp_path: Path) -> None:
    cache = make_cache(exposure="finetuned-clean")
    seen = np.where(cache.split == "test", SEEN_REFERENCE, 0).astype(np.uint8)
    cache = dataclasses.replace(cache, seen=seen)
    with pytest.raises(TrustqError, match="so their figures would be in-sample"):
        repair([cache], recipe=recipe(), results=tmp_path / "r")


def test_stored_noise_on_a_backbone_that_saw_the_truth_is_refused(tmp_path: Path) -> None:
    base = make_cache(n=400)
    train = base.split == "train"
    observed = np.where(train, (base.label + 1) % 3, -1).astype(np.int16)
    cache = finetuned("finetuned-clean", observed=observed)
    with pytest.raises(TrustqError, match="trained on other labels of"):
        repair([cache], recipe=recipe("sweep.noise=stored"), results=tmp_path / "r")


def test_a_trusted_start_of_stored_labels_knows_only_observed_ones() -> None:
    base = make_cache(n=400)
    train = np.flatnonzero(base.split == "train")
    observed = np.full(400, -1, dtype=np.int16)
    # Half of class 0 is observed as class 1.
    wrong = base.label[train] == 0
    wrong &= np.arange(len(train)) % 2 == 0
    observed[train] = np.where(wrong, 1, base.label[train])
    cache = dataclasses.replace(base, observed=observed)
    sweep = recipe("sweep.noise=stored", "sweep.trusted=0.5").sweep
    experiment = draw_experiment(cache, sweep=sweep, draw_seed=3)
    for c in range(3):
        rows = observed[train] == c
        share = experiment.start.trusted[rows].sum() / rows.sum()
        assert abs(share - 0.5) < 1 / rows.sum() + 1e-9
    assert experiment.start.rate == pytest.approx(wrong.mean())


def test_partly_observed_labels_are_an_error(tmp_path: Path) -> None:
    cache = make_cache()
    observed = np.where(np.arange(240) % 7 == 0, -1, cache.label).astype(np.int16)
    cache = dataclasses.replace(cache, observed=observed)
    with pytest.raises(TrustqError, match="stores observed labels for 123 of its 144 training"):
        repair([cache], recipe=recipe("sweep.noise=auto"), results=tmp_path / "r")


def test_unseen_rows_of_unknown_exposure_are_refused(tmp_path: Path) -> None:
    with pytest.raises(TrustqError, match="its exposure is unknown, so which rows"):
        repair(
            [make_cache(exposure="unknown")], recipe=recipe("rows=unseen"), results=tmp_path / "r"
        )


def test_caches_that_a_table_could_not_tell_apart_are_refused(tmp_path: Path) -> None:
    with pytest.raises(TrustqError, match="their rows could not be told apart"):
        repair([make_cache(), make_cache(seed=1)], recipe=recipe(), results=tmp_path / "r")


def test_seeds_and_pairs_stay_together_whatever_penalty_each_draw_chose(tmp_path: Path) -> None:
    settings = recipe("regularisation=auto", "draws=6", "rounds=4", "budgets=100%,100%")
    repair([make_cache()], recipe=settings, results=tmp_path / "r")
    rows = query(
        tmp_path / "r",
        """SELECT arm, n, n_runs FROM seeds WHERE metric = 'accuracy' AND split = 'test'
             AND stage = 'calibrated' AND is_final ORDER BY arm""",
    )
    assert rows == [(arm, 6, 6) for arm in sorted(ARMS.split(","))]
    pairs = query(
        tmp_path / "r",
        """SELECT DISTINCT n FROM paired WHERE unit = 'draw_seed' AND metric = 'accuracy'""",
    )
    assert pairs == [(6,)]


@pytest.mark.parametrize(
    "setting", ["draw_seed=-1", "draw_seed=5000000000", "regularisation=nan", "trees=0"]
)
def test_a_setting_out_of_range_is_refused_before_work(setting: str, tmp_path: Path) -> None:
    with pytest.raises(TrustqError, match=setting.split("=")[0]):
        repair([make_cache()], recipe=recipe(setting), results=tmp_path / "r")
    assert not (tmp_path / "r").exists()


def test_standardisation_knows_only_training_rows() -> None:
    cache = make_cache()
    shifted = cache.features.copy()
    shifted[cache.split == "test"] += 100
    sweep = recipe().sweep
    a = draw_experiment(cache, sweep=sweep, draw_seed=0)
    b = draw_experiment(dataclasses.replace(cache, features=shifted), sweep=sweep, draw_seed=0)
    np.testing.assert_array_equal(a.features[a.rows], b.features[b.rows])


def test_tables_and_pictures_of_a_run(finished: Path, tmp_path: Path) -> None:
    keys = [key for (key,) in query(finished, "SELECT key FROM runs")]
    table = repair_table(finished, keys)
    assert [row["arm"] for row in table.rows] == [
        "no repair",
        "random",
        "entropy",
        "self-confidence",
        "oracle (wrong labels only)",
    ]
    assert {row["n"] for row in table.rows} == {3}
    assert "3 draws x 1 backbone;" in table.caption
    assert table.footer.endswith("Research only, not a medical device.")
    assert (
        "With n = 3 the smallest sign-flip p there can be is 0.25: no difference can"
        in table.footer
    )
    assert "holm_p: adjusted by Holm over the 7 comparisons of this table." in table.footer
    repair_curve_figure(finished, keys, tmp_path / "curve.png")
    risk_coverage_figure(finished, keys, tmp_path / "risk.png")
    for name in ("curve.png", "risk.png"):
        assert (tmp_path / name).read_bytes().startswith(b"\x89PNG")
    with pytest.raises(TrustqError, match="There are no accuracy figures on moon rows to draw"):
        repair_curve_figure(finished, keys, tmp_path / "curve.png", split="moon")


def test_draws_that_are_copies_are_no_evidence() -> None:
    from trustq.analysis.repair_table import _difference

    def figures(*values: float) -> dict[tuple[int, int], dict[tuple[str, str], float]]:
        pairs = [(backbone, draw) for backbone in (42, 52) for draw in range(10)]
        return {
            pair: {("uncalibrated", "accuracy"): values[pair[0] == 52] + pair[1] * values[2]}
            for pair in pairs
        }

    base, better = figures(0.7, 0.8, 0.0), figures(0.71, 0.82, 0.0)
    copies = _difference(better, base)
    assert copies is not None and (copies["unit"], copies["n"]) == ("network", 2)
    assert copies["p"] == pytest.approx(0.5)
    varied = _difference(figures(0.71, 0.82, 0.001), base)
    assert varied is not None and (varied["unit"], varied["n"]) == ("network", 2)
    one = [{pair: own[pair] for pair in own if pair[0] == 42} for own in (better, base)]
    alone = _difference(*one)
    assert alone is not None and (alone["unit"], alone["p"]) == ("draw", None)


def test_arm_grammar() -> None:
    arm = parse_arm("entropy@in_sample:relabel")
    assert (arm.score, arm.source, arm.action, arm.text) == (
        "entropy",
        "in_sample",
        "relabel",
        "entropy@in_sample",
    )
    with pytest.raises(TrustqError) as caught:
        parse_arm("self_confidense")
    assert str(caught.value) == (
        "Arm 'self_confidense': unknown score 'self_confidense' (did you mean 'self_confidence'?); "
        f"known: none, random, oracle, {', '.join(SCORE_NAMES)}. "
        "An arm is SCORE[@SOURCE][:ACTION], e.g. self_confidence or entropy@in_sample."
    )
    with pytest.raises(TrustqError, match="random uses no probabilities, so it takes no @SOURCE"):
        parse_arm("random@head")


@pytest.mark.parametrize("text", ["-1", "5.5", "120%", "half", ""])
def test_a_budget_is_a_count_a_share_or_all_wrong(text: str) -> None:
    with pytest.raises(TrustqError, match="expected a number of labels .64., a share of the train"):
        budget_size(text, n_rows=100, n_wrong=10)


def test_rounds_share_a_budget_without_losing_a_label() -> None:
    for budget in range(30):
        for rounds in range(1, 7):
            sizes = round_sizes(budget, rounds)
            assert sum(sizes) == budget and max(sizes) - min(sizes) <= 1


def test_oracle_stops_when_nothing_is_wrong(tmp_path: Path) -> None:
    repair([make_cache()], recipe=recipe("budgets=100%", "arms=oracle"), results=tmp_path / "r")
    assert query(
        tmp_path / "r",
        "SELECT n_wrong_left, runs.n_bought = n_wrong_start FROM rounds JOIN runs ON key = run "
        "WHERE round = 1",
    ) == [(0, True)]


def test_a_table_says_what_the_budget_could_find_and_what_the_oracle_would_win(
    tmp_path: Path,
) -> None:
    settings = recipe("references=true", "arms=none,self_confidence,self_confidence:drop")
    run = repair([make_cache()], recipe=settings, results=tmp_path / "r")
    table = repair_table(tmp_path / "r", run.keys)
    by_arm = {row["arm"]: row for row in table.records}
    n_wrong = query(tmp_path / "r", "SELECT max(n_wrong_start) FROM runs")[0][0]
    for arm, record in by_arm.items():
        assert record["errors_findable"] == (0 if arm == "none" else min(20, n_wrong))
        assert record["errors_found"] <= record["errors_findable"]
    assert (by_arm["self_confidence"]["bought"], by_arm["self_confidence"]["spent"]) == (20, 20)
    dropped = by_arm["self_confidence:drop"]
    assert (dropped["bought"], dropped["spent"], dropped["flagged"]) == (0, 0, 20)
    accuracy = {arm: record["uncalibrated"]["accuracy"] for arm, record in by_arm.items()}
    for arm, oracle in (("self_confidence", "oracle"), ("self_confidence:drop", "oracle:drop")):
        gain = by_arm[arm]["accuracy_gain_over_oracle"]
        assert gain["mean"] == pytest.approx(accuracy[arm] - accuracy[oracle])
    assert by_arm["oracle"]["accuracy_gain_over_oracle"] is None
    assert {"errors_findable", "taken", "gain_over_oracle"} <= set(table.rows[0])
    assert "votes" not in table.rows[0] or any(r["votes"] != r["bought"] for r in table.rows)


def test_a_curve_of_one_run_shows_no_interval_and_says_so(tmp_path: Path) -> None:
    repair([make_cache()], recipe=recipe("sweep.draws=1"), results=tmp_path / "r")
    keys = [key for (key,) in query(tmp_path / "r", "SELECT key FROM runs")]
    repair_curve_figure(tmp_path / "r", keys, tmp_path / "curve.svg")
    drawn = (tmp_path / "curve.svg").read_text()
    assert "What repair buys: one run, so no interval" in drawn and "(1 draw)" in drawn
