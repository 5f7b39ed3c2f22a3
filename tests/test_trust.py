"""The trust table against plain numpy, on views of known effect; errors where nothing varies."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
from support import make_cache, refused, reordered
from trustq.cli import app
from typer.testing import CliRunner

from trustq.errors import TrustqError
from trustq.evaluation.bootstrap_sums import AreaSums
from trustq.evaluation.conditions import condition_of, ordered_conditions
from trustq.evaluation.predictions import read_predictions
from trustq.evaluation.trust_figures import DrawnAreas, DrawnRows, source_figures
from trustq.evaluation.trust_sources import Member, Outputs, Source, ensemble_sources
from trustq.evaluation.trust_table import Cell, TrustRows, trust_table
from trustq.evaluation.uncertainty import ensemble_uncertainty, mean_of_logits
from trustq.experiments import repair
from trustq.experiments.trust import judge, judged_caches
from trustq.experiments.trust_inputs import open_judged
from trustq.experiments.trust_tables import record_trust
from trustq.recipes import Recipe, SweepRecipe
from trustq.report.trust import trust_text, write_trust
from trustq.results import run_query
from trustq.store import Cache, write_cache
from trustq.store.concat import concat_caches


def run_cli(*words: object):  # type: ignore[no-untyped-def]
    return CliRunner().invoke(app, [str(word) for word in words])


SHIFTS = Path("../shared/data/predictions_ham10000_shifts/densenet_predictions.npz")


def viewed_cache(*, n: int = 600, seed: int = 0, strength: float = 1.0) -> Cache:
    """Gaussian classes with a linear classifier, three blurs that add noise, and dropout passes."""
    rng = np.random.default_rng(seed)
    base = make_cache(n=n)
    weight = np.eye(8, 3) + 0.2 * rng.standard_normal((8, 3))
    features = base.features + 0.5 * rng.standard_normal(base.features.shape).astype(np.float32)
    extra: dict[str, np.ndarray] = {}
    for level in (1, 2, 3):
        noise = strength * level * rng.standard_normal(features.shape)
        own = (features + noise).astype(np.float32)
        extra[f"views/blur-{level}/features"] = own
        extra[f"views/blur-{level}/logits"] = (own @ weight).astype(np.float32)
        extra[f"views/blur-{level}/parameters"] = np.array(['{"blur_radius": 1}'])
    kept = rng.random((20, *features.shape)) > 0.3
    extra["passes/dropout/logits"] = (features * kept / 0.7 @ weight).astype(np.float32)
    return dataclasses.replace(
        base,
        features=features,
        logits=(features @ weight).astype(np.float32),
        weights_digest=f"weights {seed}",
        backbone_seed=seed,
        content_digest=f"viewed {seed}",
        extra=extra,
    )


# --- sources --------------------------------------------------------------------------------------


def test_ensemble_measures_equal_plain_code() -> None:
    rng = np.random.default_rng(1)
    logits = 3 * rng.standard_normal((20, 50, 7))
    found = ensemble_uncertainty(logits)
    probs = np.exp(logits) / np.exp(logits).sum(axis=2, keepdims=True)
    mean = probs.mean(axis=0)
    entropy = -(mean * np.log(mean)).sum(axis=1)
    expected = -(probs * np.log(probs)).sum(axis=2).mean(axis=0)
    votes = probs.argmax(axis=2)
    pairs = [(a, b) for a in range(20) for b in range(a)]
    apart = np.mean([votes[a] != votes[b] for a, b in pairs], axis=0)
    most = [np.bincount(votes[:, i]).max() for i in range(50)]
    for own, plain in (
        (found.probs, mean),
        (found.entropy, entropy),
        (found.mutual_information, entropy - expected),
        (found.disagreement, apart),
        (found.variation_ratio, 1 - np.array(most) / 20),
        (found.spread, probs[:, np.arange(50), mean.argmax(axis=1)].std(axis=0)),
    ):
        np.testing.assert_allclose(own, plain, atol=1e-12)
    by_probs = ensemble_uncertainty(probs, kind="probs")
    np.testing.assert_allclose(by_probs.mutual_information, found.mutual_information, atol=1e-12)
    geometric = np.exp(mean_of_logits(logits))
    geometric /= geometric.sum(axis=1, keepdims=True)
    plain = np.exp(np.log(probs).mean(axis=0))
    np.testing.assert_allclose(geometric, plain / plain.sum(axis=1, keepdims=True), atol=1e-12)


def test_ensemble_measures_do_not_depend_on_the_order_of_members_or_classes() -> None:
    rng = np.random.default_rng(2)
    logits = rng.standard_normal((5, 30, 4))
    found = ensemble_uncertainty(logits)
    turned = ensemble_uncertainty(logits[::-1][:, :, [2, 0, 3, 1]])
    for name in ("entropy", "mutual_information", "variation_ratio", "disagreement", "spread"):
        np.testing.assert_allclose(getattr(found, name), getattr(turned, name), atol=1e-12)


def test_members_that_are_all_the_same_are_refused() -> None:
    with pytest.raises(TrustqError, match="All 3 members of the ensemble are the same"):
        ensemble_uncertainty(np.zeros((3, 4, 2)))
    member = Member("a", logits={"clean": np.eye(3)})
    with pytest.raises(TrustqError, match=r"^a, b \(clean\): All 2 members"):
        ensemble_sources([member, dataclasses.replace(member, name="b")], "clean")


# --- figures --------------------------------------------------------------------------------------


def plain_figures(probs: np.ndarray, labels: np.ndarray, confidence: np.ndarray) -> dict:
    """The definitions, row by row, by nothing but numpy and loops."""
    n, k = probs.shape
    said = probs.argmax(axis=1)
    wrong = said != labels
    recalls, f1s, aurocs, precisions = [], [], [], []
    for c in range(k):
        own = labels == c
        if not own.any():
            continue
        recalls.append((said == c)[own].mean())
        hits = ((said == c) & own).sum()
        f1s.append(2 * hits / (own.sum() + (said == c).sum()))
        score = probs[:, c]
        pairs = score[own][:, None] - score[~own][None]
        aurocs.append(((pairs > 0) + 0.5 * (pairs == 0)).mean())
        at = [(score >= t, t) for t in np.unique(score)[::-1]]
        recall = [0.0, *(own[called].sum() / own.sum() for called, _ in at)]
        precision = [own[called].mean() for called, _ in at]
        precisions.append(float((np.diff(recall) * precision).sum()))
    order = np.argsort(-confidence, kind="stable")
    risks = np.cumsum(wrong[order]) / np.arange(1, n + 1)
    top = probs.max(axis=1)
    ece = 0.0
    for i in range(15):
        inside = (top > i / 15) & (top <= (i + 1) / 15)
        if inside.any():
            ece += inside.mean() * abs((~wrong)[inside].mean() - top[inside].mean())
    onehot = np.eye(k)[labels]
    pairs = confidence[~wrong][:, None] - confidence[wrong][None]
    return {
        "accuracy": (~wrong).mean(),
        "balanced_accuracy": np.mean(recalls),
        "macro_f1": np.mean(f1s),
        "macro_auroc": np.mean(aurocs),
        "macro_auprc": np.mean(precisions),
        "nll": -np.log(probs[np.arange(n), labels]).mean(),
        "brier": ((probs - onehot) ** 2).sum(axis=1).mean(),
        "ece": ece,
        "aurc": risks.mean(),
        "augrc": (np.cumsum(wrong[order]) / n).sum() / n - wrong.sum() / n / (2 * n),
        "failure_auroc": ((pairs > 0) + 0.5 * (pairs == 0)).mean(),
        "coverage_at_0.7": (top >= 0.7).mean(),
        "risk_at_0.7": wrong[top >= 0.7].mean(),
        "risk_at_coverage_0.5": wrong[order][: n // 2].mean(),
        "threshold_at_coverage_0.5": np.sort(confidence)[::-1][n // 2 - 1],
    }


def test_every_figure_of_the_table_equals_plain_code() -> None:
    cache = viewed_cache()
    run = judge(judged_caches([cache]), replicates=20)
    rows = np.flatnonzero(cache.split == "test")
    temperature = run.temperatures["seed 0"]
    for name in ("clean", "blur-2"):
        logits = (cache.logits if name == "clean" else cache.view(name).logits)[rows]
        logits = logits.astype(np.float64)
        for source, scale in (("softmax", 1.0), ("temperature", temperature)):
            z = logits / scale
            probs = np.exp(z - z.max(axis=1, keepdims=True))
            probs /= probs.sum(axis=1, keepdims=True)
            top = probs.max(axis=1)
            confidence = np.log(top / (1 - top))
            plain = plain_figures(probs, cache.label[rows].astype(int), confidence)
            # AUGRC by its trapezoids ends half an error before full coverage.
            for metric, value in plain.items():
                found = run.table.value(name, source, metric)["value"]
                np.testing.assert_allclose(found, value, rtol=0, atol=1e-9, err_msg=metric)


def test_differences_are_of_the_same_draws_of_groups() -> None:
    cache = viewed_cache()
    run = judge(judged_caches([cache]), sources=["softmax", "energy"], replicates=400)
    row = run.table.value("blur-1", "softmax", "accuracy")
    # Paired: narrower than two independent intervals, and around the difference.
    clean = run.table.value("clean", "softmax", "accuracy")
    apart = np.hypot(row["upper"] - row["lower"], clean["upper"] - clean["lower"])
    assert row["delta_upper"] - row["delta_lower"] < apart
    assert row["delta_lower"] <= row["delta"] <= row["delta_upper"]
    assert row["delta"] == row["value"] - clean["value"]
    again = judge(judged_caches([cache]), sources=["softmax"], replicates=400)
    assert again.table.value("blur-1", "softmax", "accuracy") == row


@pytest.mark.parametrize("decimals", [None, 1, 3])
def test_drawn_areas_equal_those_of_the_other_bootstrap_and_of_rows_drawn_by_hand(decimals) -> None:
    rng = np.random.default_rng(3)
    n, n_groups = 300, 120
    wrong, confidence = rng.random(n) < 0.3, rng.random(n)
    if decimals is not None:  # three leave most blocks of one row
        confidence = confidence.round(decimals)
    codes = rng.permutation(np.arange(n) % n_groups)
    counts = rng.multinomial(n_groups, np.full(n_groups, 1 / n_groups), size=40).T
    found = DrawnAreas(wrong, confidence, codes, n_groups).figures(counts)
    other = AreaSums(wrong, confidence, codes, n_groups)
    np.testing.assert_allclose(
        found[:2], other.figures(other.matrix @ counts.astype(float)), atol=1e-12
    )
    rows = np.repeat(np.arange(n), counts[codes, 7])
    source = Source(
        Outputs.of_probs(np.where(wrong[rows, None], [[0.4, 0.6]], [[0.6, 0.4]])), confidence[rows]
    )
    drawn = source_figures(source, np.zeros(len(rows), dtype=int))
    np.testing.assert_allclose(found[:, 7], [drawn["aurc"], drawn["augrc"], 1 - drawn["accuracy"]])
    narrow = DrawnAreas(wrong, confidence, codes, n_groups).figures(counts.astype(np.int32))
    np.testing.assert_array_equal(narrow, found)


def test_areas_of_many_rows_drawn_as_narrow_numbers_do_not_overflow() -> None:
    n = 60_000  # twice its square does not fit 32 bits
    wrong, confidence = np.arange(n) % 2 == 0, np.arange(n)[::-1] / n
    counts = np.ones((n, 1), dtype=np.int32)
    aurc, augrc, error = DrawnAreas(wrong, confidence, np.arange(n), n).figures(counts)[:, 0]
    source = Source(
        Outputs.of_probs(np.where(wrong[:, None], [[0.4, 0.6]], [[0.6, 0.4]])), confidence
    )
    plain = source_figures(source, np.zeros(n, dtype=int))
    np.testing.assert_allclose([aurc, augrc, error], [plain["aurc"], plain["augrc"], 0.5])


def test_a_budget_without_an_arm_that_buys_is_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "p.npz", labels=[0, 1], probs=np.eye(2))
    found = run_cli("trust", tmp_path / "p.npz", "--budget", "10%")
    assert found.exit_code == 1
    assert "--budget 10% is what an arm buys, and no arm is judged" in found.stderr


def test_trust_says_how_far_it_is(tmp_path: Path) -> None:
    labels = np.arange(60) % 2
    np.savez(tmp_path / "p.npz", labels=labels, probs=np.where(np.eye(2)[labels] == 1, 0.8, 0.2))
    words = ("trust", tmp_path / "p.npz", "--sources", "softmax", "--replicates", 20)
    assert "trust: 60 of 60 rows of cells" in run_cli(*words).stderr
    assert "rows of cells" not in run_cli(*words, "--quiet").stderr


def test_drawn_figures_are_those_of_the_rows_drawn() -> None:
    rng = np.random.default_rng(4)
    n, k, n_groups = 200, 3, 80
    labels, codes = rng.integers(k, size=n), rng.permutation(np.arange(n) % n_groups)
    outputs = Outputs.of_logits(rng.standard_normal((n, k)) + 1.5 * np.eye(k)[labels])
    counts = rng.multinomial(n_groups, np.full(n_groups, 1 / n_groups), size=10).T.astype(float)
    truth, called = labels == 1, rng.random(n) < 0.4
    drawn = DrawnRows(labels, codes, counts, truth, k)
    found = drawn.of_probabilities(drawn.linear(outputs, called).T @ counts, with_called=True)
    rows = np.repeat(np.arange(n), counts[codes, 3].astype(int))
    own = Outputs(*(getattr(outputs, f.name)[rows] for f in dataclasses.fields(Outputs)))
    plain = source_figures(Source(own, own.rank), labels[rows], called=called[rows], positive=(1,))
    for name, values in found.items():
        np.testing.assert_allclose(values[3], plain[name], atol=1e-12, err_msg=name)


def test_a_source_that_ranks_at_random_loses_and_the_family_is_named() -> None:
    rng = np.random.default_rng(5)
    labels = rng.integers(3, size=400)
    own = Outputs.of_logits(rng.standard_normal((400, 3)) + 2 * np.eye(3)[labels])
    cells = [
        Cell("clean", "softmax", "a", Source(own, own.rank)),
        Cell("clean", "energy", "a", Source(own, rng.random(400))),
    ]
    table = trust_table(
        TrustRows(labels, ("x", "y", "z")),
        cells,
        conditions=[condition_of("clean")],
        replicates=200,
    )
    test = next(row for row in table.wins if row["source"] == "energy")
    assert test["difference"] > 0 and test["holm_p"] < 1e-3
    assert table.best()[0]["source"] == "softmax"
    assert table.family.startswith("1 test: AUGRC of each other source against softmax")


# --- what changes nothing -------------------------------------------------------------------------


def test_a_view_that_is_the_clean_image_is_an_error() -> None:
    cache = viewed_cache()
    same = dict(cache.extra) | {"views/blur-2/features": cache.features}
    with pytest.raises(TrustqError, match="The view blur-2 of .* changes nothing"):
        judged_caches([dataclasses.replace(cache, extra=same)])
    logits = dict(cache.extra) | {"views/blur-2/logits": cache.logits}
    with pytest.raises(TrustqError, match="The condition blur-2 changes nothing: seed 0 gives"):
        judge(judged_caches([dataclasses.replace(cache, extra=logits)]), replicates=10)


def test_passes_without_active_dropout_are_an_error() -> None:
    cache = viewed_cache()
    passes = np.repeat(cache.logits[None], 20, axis=0)
    still = dataclasses.replace(cache, extra=dict(cache.extra) | {"passes/dropout/logits": passes})
    with pytest.raises(TrustqError, match="^dropout passes of seed 0 .clean.: All 20 members"):
        judge(judged_caches([still]), replicates=10)


def test_a_condition_equal_to_clean_in_a_file_is_an_error(tmp_path: Path) -> None:
    probs = np.random.default_rng(0).dirichlet(np.ones(3), 30)
    file = tmp_path / "p.npz"
    np.savez(file, labels=np.arange(30) % 3, probs=probs, fog_1=probs)
    with refused(
        "The condition fog_1 changes nothing: p.npz gives on every row what it gives on the clean "
        "images. Its figures would be clean ones under another name: leave it out, or look at the "
        "images."
    ):
        judge(open_judged([str(file)]), replicates=10)


# --- caches, heads, results -----------------------------------------------------------------------


def test_heads_of_three_draws_and_their_ensemble_are_judged_on_every_view() -> None:
    cache = dataclasses.replace(viewed_cache(), logits=None)
    views = {name: own for name, own in cache.extra.items() if name.endswith(("features", "ters"))}
    sweep = SweepRecipe(head="linear", noise="symmetric:0.2", draws=3, arms=("none",))
    run = judge(
        judged_caches([dataclasses.replace(cache, extra=views)], sweep=sweep), replicates=50
    )
    assert len(run.judged.members) == 3 and "ensemble_disagreement" in run.table.sources
    clean = run.table.value("clean", "ensemble", "accuracy")["value"]
    for level in (1, 2, 3):
        assert run.table.value(f"blur-{level}", "ensemble", "accuracy")["value"] < clean
    members = [row for row in run.table.members if row["metric"] == "accuracy"]
    own = [r["value"] for r in members if (r["condition"], r["source"]) == ("blur-1", "softmax")]
    assert run.table.value("blur-1", "softmax", "accuracy")["value"] == pytest.approx(np.mean(own))


def test_views_and_passes_may_lie_in_a_companion_of_fewer_rows() -> None:
    cache = viewed_cache()
    rows = np.flatnonzero(cache.split == "test")[::-1]
    fields = ("sample_id", "split", "group_id", "label", "observed", "trusted", "seen", "features")
    own = {name: getattr(cache, name)[rows] for name in fields}
    extra = {
        key: array if key.endswith("parameters") else array[..., rows, :]
        for key, array in cache.extra.items()
    }
    companion = dataclasses.replace(
        cache, **own, logits=cache.logits[rows], extra=extra, content_digest="companion"
    )
    bare = dataclasses.replace(cache, extra={})
    whole, split = (
        judge(judged_caches([one], companions=more), replicates=20)
        for one, more in ((cache, ()), (bare, (companion,)))
    )
    for row, other in zip(whole.table.rows, split.table.rows, strict=True):
        assert row["value"] == pytest.approx(other["value"], nan_ok=True)


@pytest.mark.parametrize("head", ["backbone", "linear"])
def test_networks_in_another_class_order_are_judged_as_in_the_first_ones(
    tmp_path: Path, head: str
) -> None:
    one, two = viewed_cache(), viewed_cache(seed=1)
    for name, cache in (("one", one), ("two", two), ("other", reordered(two))):
        write_cache(tmp_path / f"{name}.h5", cache)
    same, other = (
        judge(
            open_judged([str(tmp_path / "one.h5"), str(tmp_path / f"{name}.h5")], head=head),
            positive=["a"],
            replicates=20,
        )
        for name in ("two", "other")
    )
    assert len(same.table.rows) == len(other.table.rows) > 0
    for own, its in zip(same.table.rows, other.table.rows, strict=True):
        assert own.keys() == its.keys()
        for name, value in own.items():
            close = isinstance(value, float)
            assert its[name] == (pytest.approx(value, abs=1e-6, nan_ok=True) if close else value)


def test_repair_judges_every_round_of_every_arm_on_the_views(tmp_path: Path) -> None:
    cache = viewed_cache()
    recipe = SweepRecipe(
        conditions=("blur-1", "blur-3"),
        arms=("none", "self_confidence"),
        rounds=2,
        references=False,
        noise="symmetric:0.2",
        positive=("a",),
    )
    repair([cache], recipe=Recipe(sweep=recipe), results=tmp_path / "r")
    answer = run_query(
        tmp_path / "r",
        """SELECT arm, round, condition, severity, count(*) FROM metric_values
        WHERE metric IN ('accuracy', 'macro_auroc', 'macro_auprc', 'sens_at_95_spec')
          AND condition IS NOT NULL AND stage = 'calibrated' GROUP BY ALL ORDER BY ALL""",
    )
    rounds = [("none", 0), *(("self_confidence", i) for i in range(3))]
    assert answer.rows == [
        (arm, number, f"blur-{level}", level, 4) for arm, number in rounds for level in (1, 3)
    ]
    # Rows of views enter no table of test rows, and the key of what asks for none is as before.
    tested = run_query(tmp_path / "r", "SELECT DISTINCT eval_dataset FROM final_test").rows
    assert tested == [("gauss",)]
    with pytest.raises(TrustqError, match=r"has no view 'blur-9' \(did you mean 'blur-"):
        again = dataclasses.replace(recipe, conditions=("blur-9",))
        repair([cache], recipe=Recipe(sweep=again), results=tmp_path / "r")


def test_the_table_is_written_once_and_answers_in_sql(tmp_path: Path) -> None:
    run = judge(judged_caches([viewed_cache()]), positive=["a"], replicates=30)
    assert record_trust(run, tmp_path / "r") and not record_trust(run, tmp_path / "r")
    found = run_query(
        tmp_path / "r",
        """SELECT condition, severity, value FROM trust WHERE metric = 'ece'
        AND source = 'temperature' AND slice_name IS NULL ORDER BY severity NULLS FIRST""",
    ).rows
    assert [row[:2] for row in found] == [("clean", None), *((f"blur-{i}", i) for i in (1, 2, 3))]
    assert found[2][2] == run.table.value("blur-2", "temperature", "ece")["value"]
    tests = run_query(tmp_path / "r", "SELECT count(*), min(family) FROM trust_tests").rows
    assert tests[0][0] == sum(row["p"] is not None for row in run.table.wins)


def test_files_hold_what_the_table_holds(tmp_path: Path) -> None:
    judged = judged_caches([viewed_cache(), viewed_cache(seed=1)])
    run = judge(judged, positive=["a"], replicates=30)
    paths = {path.name: path for path in write_trust(run, tmp_path)}
    names = {"metrics_clean.json", "metrics_corruptions.json", "delta_corruptions.json"}
    names |= {"calibration.json", "risk_coverage_summary.json", "trust.html", "severity.png"}
    assert names <= set(paths)
    metrics = json.loads(paths["metrics_corruptions.json"].read_text())
    row = run.table.value("blur-3", "ensemble", "augrc")
    assert metrics["blur-3"]["ensemble"]["augrc"] == row["value"]
    delta = json.loads(paths["delta_corruptions.json"].read_text())
    assert delta["blur-3"]["ensemble"]["augrc"]["lower"] == row["delta_lower"]
    summary = json.loads(paths["risk_coverage_summary.json"].read_text())["blur-1"]
    after = run.table.value("blur-1", "temperature", "risk_at_coverage_0.7")["value"]
    assert summary["after"]["operating_points"]["0.7"]["risk"] == after
    page = paths["trust.html"].read_text("utf-8")
    # Panels side by side scroll on a phone, where they were a few pixels high.
    assert 'class="wide"' in page and "figure.wide { overflow-x: auto; }" in page
    assert "http" not in page.replace("http-equiv", "").replace("http://www.w3.org", "")
    assert "Which source wins where" in trust_text(run)


def test_thresholds_and_temperature_are_cross_fitted_where_there_are_no_validation_rows() -> None:
    cache = viewed_cache()
    bare = dataclasses.replace(cache, split=np.where(cache.split == "val", "", cache.split))
    inside = judge(judged_caches([bare]), positive=["a"], replicates=10)
    assert "temperature" not in inside.table.sources and "flatters" in " ".join(inside.notes)
    run = judge(judged_caches([bare]), positive=["a"], folds=4, replicates=10)
    assert run.thresholds_from == "4 folds by group, cross-fitted"
    thresholds = next(cell.threshold for cell in run.cells if cell.source == "softmax")
    assert 1 < len(np.unique(thresholds)) <= 4
    groups = run.judged.groups
    for group in np.unique(groups):
        assert len(np.unique(thresholds[groups == group])) == 1


def test_slices_of_one_group_are_left_out_and_named(tmp_path: Path) -> None:
    cache = viewed_cache()
    path = write_cache(tmp_path / "c.h5", dataclasses.replace(cache, content_digest=""))
    table = tmp_path / "meta.csv"
    test = cache.sample_id[cache.split == "test"]
    lonely = cache.group_id[cache.split == "test"] == cache.group_id[cache.split == "test"][0]
    sex = np.where(lonely, "x", np.where(np.arange(len(test)) % 2, "f", "m"))
    lines = [
        "sample_id,sex,age",
        *(f"{i},{s},{20 + j % 60}" for j, (i, s) in enumerate(zip(test, sex, strict=True))),
    ]
    table.write_text("\n".join(lines) + "\n")
    del path
    judged = open_judged([str(tmp_path / "c.h5")], columns=["sex", "age"], meta=[table])
    run = judge(judged, slices=["sex"], ages="age", sources=["softmax"], replicates=20)
    assert any("sex = x (2 rows)" in note for note in run.notes)
    slices = {(r["slice_name"], r["slice_value"]) for r in run.table.rows if r["slice_name"]}
    assert {("sex", "f"), ("sex", "m"), ("age", "<30"), ("age", "70+")} <= slices
    kept = judged.columns["sex"] == "f"
    probs = Outputs.of_logits(judged.members[0].logits["blur-1"][kept])
    row = next(
        r
        for r in run.table.rows
        if (r["slice_value"], r["condition"], r["metric"]) == ("f", "blur-1", "augrc")
    )
    plain = source_figures(Source(probs, probs.rank), judged.labels[kept])["augrc"]
    assert row["value"] == pytest.approx(plain, abs=1e-12) and row["n"] == kept.sum()


def test_a_note_says_where_two_tables_have_other_values_of_a_column(tmp_path: Path) -> None:
    cache = viewed_cache()
    path = write_cache(tmp_path / "c.h5", dataclasses.replace(cache, content_digest="")).path
    test = cache.sample_id[cache.split == "test"].tolist()
    own = np.where(np.arange(len(test)) % 2, "f", "m").tolist()
    other = [{"f": "m", "m": "f"}[sex] for sex in own[:3]] + ["", *own[4:]]
    for name, values in (("first", own), ("second", other)):
        lines = [f"{i},{sex}" for i, sex in zip(test, values, strict=True)]
        (tmp_path / f"{name}.csv").write_text("\n".join(["sample_id,sex", *lines]) + "\n")
    says = "sex is read from the first table that has it; that of another differs in 3 rows"
    meta = [tmp_path / "first.csv", tmp_path / "second.csv"]
    judged = open_judged([str(path)], columns=["sex"], meta=meta)
    assert says in judged.notes and judged.columns["sex"].tolist() == own
    np.savez(
        tmp_path / "p.npz", probs=np.full((len(test), 2), 0.5), labels=[0] * len(test), ids=test
    )
    asked = {"columns": ["sex"], "names": {"sample_ids": "ids"}}
    read = read_predictions(tmp_path / "p.npz", meta=meta, **asked)
    assert says in read.notes and read.columns["sex"].tolist() == own
    assert says not in read_predictions(tmp_path / "p.npz", meta=meta[:1], **asked).notes


def clean_and_blurred(labels, probs, blurred, groups=None, replicates=200):
    cells = []
    for name, own in (("clean", Outputs.of_probs(probs)), ("blur-1", Outputs.of_probs(blurred))):
        cells.append(Cell(name, "softmax", "a", Source(own, own.rank)))
    return trust_table(
        TrustRows(labels, tuple("abc"), groups=groups),
        cells,
        conditions=[condition_of("clean"), condition_of("blur-1")],
        replicates=replicates,
    )


def test_ranking_figures_cover_where_one_group_has_most_rows() -> None:
    rng = np.random.default_rng(0)
    groups = np.append(np.zeros(90, int), np.arange(1, 61))
    held: dict[str, list[bool]] = {}
    truth: dict[str, float] = {}
    for study in range(201):
        codes = groups if study else np.arange(20_000)  # the truth first
        n = len(codes)
        labels, own = rng.integers(3, size=n), rng.normal(size=(2, codes.max() + 1))
        both = []
        for strength, shift in ((2.0, own[0]), (1.2, own.sum(axis=0) / 2**0.5)):
            scores = rng.normal(size=(n, 3))
            scores[np.arange(n), labels] += strength + 0.8 * shift[codes]
            both.append(np.exp(scores) / np.exp(scores).sum(axis=1, keepdims=True))
        table = clean_and_blurred(labels, *both, codes, replicates=20 if study else 2)
        for name in ("macro_auroc", "macro_auprc", "shift_auroc"):
            row = table.value("blur-1", "softmax", name)
            if study:
                held.setdefault(name, []).append(row["lower"] <= truth[name] <= row["upper"])
            else:
                truth[name] = row["value"]
    for name, of_studies in held.items():
        assert np.mean(of_studies) > 0.9, name  # .75 to .8 where the largest counts as any other


def test_what_no_draw_changes_has_no_interval() -> None:
    labels = np.arange(60) % 3
    probs = np.where(np.eye(3, dtype=bool)[labels], 0.9, 0.05)
    blurred = probs.copy()
    blurred[:9] = probs[:9, [1, 2, 0]]
    table = clean_and_blurred(labels, probs, blurred)
    assert table.value("clean", "softmax", "risk_at_0.7")["value"] == 0
    for name in ("risk_at_0.7", "accuracy", "brier", "coverage_at_0.5"):
        row = table.value("clean", "softmax", name)
        assert np.isnan(row["lower"]) and np.isnan(row["upper"]), name
    row = table.value("blur-1", "softmax", "risk_at_0.7")
    assert row["lower"] < row["value"] == 0.15 < row["upper"]
    # Noise lifts the calibration error of draws, so that their percentiles lie beside the truth.
    ece = table.value("blur-1", "softmax", "ece")
    assert ece["delta"] != 0 and np.isnan([ece["lower"], ece["delta_lower"]]).all()


def test_the_page_says_where_few_groups_decide(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    labels = np.arange(150) % 3
    logits = 2 * np.eye(3)[labels] + rng.normal(size=(150, 3))
    pages = []
    for name, groups in (("even", np.arange(150) // 3), ("one", np.arange(150) * (labels > 0))):
        np.savez(tmp_path / f"{name}.npz", logits=logits, labels=labels, groups=groups)
        run = judge(open_judged([str(tmp_path / f"{name}.npz")]), replicates=50)
        pages.append(" ".join(trust_text(run).split()))
    assert "The largest group has" not in pages[0]
    assert "The largest group has 33% of the rows, and all are worth 8.7 groups" in pages[1]


def test_rows_of_one_group_are_judged_without_a_test(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    labels = np.arange(60) % 3
    np.savez(
        tmp_path / "p.npz",
        logits=2 * np.eye(3)[labels] + rng.normal(size=(60, 3)),
        labels=labels,
        groups=np.repeat("one", 60),
    )
    run = judge(open_judged([str(tmp_path / "p.npz")]), replicates=50)
    assert {row["holm_p"] for row in run.table.wins if row["p"] is not None} == {1.0}


def test_two_weak_networks_side_by_side_beat_each_alone() -> None:
    rng = np.random.default_rng(6)
    cache = make_cache(n=1200, d=8, separation=0.0)
    label = cache.label.astype(int)
    halves = []
    for place in range(2):
        features = rng.standard_normal((1200, 4)) + 1.2 * np.eye(3, 4)[label]
        halves.append(
            dataclasses.replace(
                cache,
                features=features.astype(np.float32),
                content_digest=f"half {place}",
                weights_digest=f"w{place}",
            )
        )
    both = concat_caches(halves)
    assert both.features.shape == (1200, 8)
    sweep = SweepRecipe(head="linear", noise="none", arms=("none",))
    accuracies = []
    for one in (*halves, both):
        run = judge(judged_caches([one], sweep=sweep), sources=["softmax"], replicates=10)
        accuracies.append(run.table.value("clean", "softmax", "accuracy")["value"])
    assert accuracies[2] > max(accuracies[:2])
    with refused("One cache is named twice: its features would stand beside themselves."):
        concat_caches([halves[0], halves[0]])


def test_conditions_are_in_the_order_of_their_severity() -> None:
    names = ["shift_color_cast", "jpeg_s2", "jpeg_s1", "clean", "rotation-45", "down-up-2"]
    found = ordered_conditions(names)
    assert [one.name for one in found][:3] == ["clean", "jpeg_s1", "jpeg_s2"]
    assert {one.name: one.severity for one in found}["rotation-45"] is None
    assert condition_of("down-up-2") == ("down-up-2", "down-up", 2, "shift")


def test_the_command_prints_the_page_and_refuses_what_does_not_go_together(tmp_path: Path) -> None:
    write_cache(tmp_path / "c.h5", dataclasses.replace(viewed_cache(), content_digest=""))
    shown = run_cli("trust", tmp_path / "c.h5", "--sources", "softmax", "--replicates", "20")
    assert shown.exit_code == 0, shown.output
    assert "Conditions, softmax" in shown.output and "blur-3" in shown.output
    bad = run_cli("trust", tmp_path / "c.h5", "--draws", "3")
    assert bad.exit_code == 1 and "--head linear" in bad.output
    unknown = run_cli("trust", tmp_path / "c.h5", "--sources", "magic")
    assert unknown.exit_code == 1 and "Unknown source 'magic'" in unknown.output


# --- real predictions -----------------------------------------------------------------------------


@pytest.mark.skipif(not SHIFTS.is_file(), reason="needs ../shared/data")
def test_sensitivity_of_melanoma_under_real_corruptions() -> None:
    judged = open_judged(
        [str(SHIFTS)],
        names={"labels": "y_true", "probs": "clean", "classes": "akiec,bcc,bkl,df,mel,nv,vasc"},
    )
    run = judge(judged, positive=["mel"], sources=["softmax"], replicates=20)

    def value(condition: str, metric: str) -> float:
        return run.table.value(condition, "softmax", metric)["value"]

    assert len(run.table.conditions) == 15
    own = {
        c: value(c, "sens_at_95_spec") for c in ("clean", "gaussian_noise_s3", "gaussian_blur_s3")
    }
    assert [round(x, 3) for x in own.values()] == [0.595, 0.226, 0.256]
    kept = ("sensitivity_clean_threshold", "specificity_clean_threshold")
    assert [value("gaussian_blur_s3", name) for name in kept] == [0.0, 1.0]
    sensitivity, specificity = (value("brightness_contrast_s3", name) for name in kept)
    # .7994 by the .95 quantile of negatives, .8001 by the smallest score: one row of 1,341.
    assert round(sensitivity, 3) == 0.833 and abs(specificity - 0.7994) < 1.5 / 1341
