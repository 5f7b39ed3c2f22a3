"""Metadata in repair and sweep: targets, rows to fit on, weights and slices, found by sample id."""

import csv
import dataclasses
from pathlib import Path

import numpy as np
import pytest
from support import make_cache
from support_sweep import rows_digest, write_caches
from trustq.cli import app
from typer.testing import CliRunner

from trustq.core.digest import digest_strings
from trustq.data.row_weights import domain_balanced, make_balance
from trustq.errors import TrustqError
from trustq.experiments import plan_sweep, repair, run_sweep
from trustq.heads import SharedFeatures, make_head
from trustq.heads.out_of_fold import TrainingRows, fit_folds
from trustq.recipes import load_recipe, load_sweep
from trustq.repair import draw_experiment
from trustq.report import repair_table
from trustq.report.page import write_report
from trustq.results import committed_cells, run_query
from trustq.store import Cache, read_cache, write_cache
from trustq.store.format import MANIFEST_COLUMNS, SEEN_OBSERVED, SEEN_REFERENCE
from trustq.store.manifest_columns import manifest_columns, packed_columns

TONES = ("I-II", "III-IV", "V-VI", "")


def rows_of(cache: Cache) -> list[dict[str, object]]:
    """Metadata whose values follow from the row: sites by group, blanks in sex and tone."""
    return [
        {
            "sample_id": str(sample),
            "growth": "benign" if label == 0 else "malignant",
            "site": f"site {row // 2 % 3}",
            "sex": ("f", "m", "")[row // 2 % 7 % 3],
            "tone": TONES[row // 2 % 4],
            "age": row % 90,
            "scanner": 7,
        }
        for row, (sample, label) in enumerate(
            zip(cache.sample_id.tolist(), cache.label.tolist(), strict=True)
        )
    ]


def write_rows(path: Path, rows: list[dict[str, object]]) -> Path:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return path


@pytest.fixture(scope="module")
def cache() -> Cache:
    return make_cache(n=240, separation=1.0, weights_digest="w")


@pytest.fixture(scope="module")
def table(cache: Cache, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_rows(tmp_path_factory.mktemp("metadata") / "meta.csv", rows_of(cache))


def recipe(table: Path | None, *settings: str):  # type: ignore[no-untyped-def]
    base = ["sweep.noise=none", "arms=none", "regularisation=0.1", "folds=2", "budgets=10"]
    named = [] if table is None else [f'metadata=["{table}"]']
    return load_recipe(settings=[*base, *named, *settings], part="sweep")


def run(cache: Cache, results: Path, table: Path | None, *settings: str, **options: object):  # type: ignore[no-untyped-def]
    return repair([cache], recipe=recipe(table, *settings), results=results, **options)  # type: ignore[arg-type]


def refused(cache: Cache, table: Path | None, *settings: str, **options: object) -> str:
    with pytest.raises(TrustqError) as caught:
        run(cache, Path("/nowhere/never/written"), table, *settings, **options)
    return str(caught.value)


def query(folder: Path, sql: str):  # type: ignore[no-untyped-def]
    return run_query(folder, sql).rows


# Slices


def test_slices_are_the_figures_of_their_rows(cache: Cache, table: Path, tmp_path: Path) -> None:
    run(cache, tmp_path, table, "slices=site,sex", "positive=b,c")
    predictions = query(
        tmp_path,
        """SELECT sample_id, label, predicted FROM predictions
           WHERE split = 'test' AND stage = 'uncalibrated'""",
    )
    of_row = {row["sample_id"]: row for row in rows_of(cache)}
    stored = {
        row[:3]: row[3:]
        for row in query(
            tmp_path,
            """SELECT slice_name, slice_value, metric, value, n FROM metric_values
               WHERE slice_name IS NOT NULL AND split = 'test' AND stage = 'uncalibrated'""",
        )
    }
    for name in ("site", "sex"):
        seen = set()
        for value in {of_row[sample][name] for sample, *_ in predictions}:
            own = [row[1:] for row in predictions if of_row[row[0]][name] == value]
            said = value or "unknown"
            right = np.mean([label == predicted for label, predicted in own])
            assert stored[name, said, "accuracy"] == (pytest.approx(right), len(own))
            positives = [predicted != "a" for label, predicted in own if label != "a"]
            negatives = [predicted == "a" for label, predicted in own if label == "a"]
            seen.add(said)
            for metric, hits in (("sensitivity", positives), ("specificity", negatives)):
                share = pytest.approx(np.mean(hits)) if hits else None
                assert stored[name, said, metric] == (share, len(hits))
        # Of either outcome all slices have under ten rows, so that there is no gap.
        assert {key[1] for key in stored if key[0] == name} == seen


def test_a_gap_is_between_known_groups_with_enough_rows(tmp_path: Path) -> None:
    cache = make_cache(n=800, separation=1.0)
    rows = rows_of(cache)
    held_out = np.flatnonzero(cache.split == "test").tolist()
    for place, row in enumerate(held_out):
        rows[row]["sex"] = "x" if place < 12 else ("f", "m", "")[place % 3]
    table = write_rows(tmp_path / "meta.csv", rows)
    run(cache, tmp_path / "r", table, "slices=sex", "positive=b")
    sql = """SELECT coalesce(slice_value, 'gap'), metric, value, n FROM metric_values
             WHERE slice_name = 'sex' AND stage = 'uncalibrated' AND metric LIKE 'sens%'"""
    found = {
        (value, metric): (figure, n) for value, metric, figure, n in query(tmp_path / "r", sql)
    }
    assert {value for value, _ in found} == {"f", "m", "x", "unknown", "gap"}
    assert found["x", "sensitivity"][1] < 10  # rows of the class
    f, m = (found[value, "sensitivity"][0] for value in "fm")
    gap, n = found["gap", "sensitivity_gap"]
    assert gap == pytest.approx(abs(f - m))
    assert n == sum(rows[row]["sex"] in ("f", "m") for row in held_out)


def test_numbers_are_sliced_in_quartiles_and_ages_in_bands(
    cache: Cache, table: Path, tmp_path: Path
) -> None:
    run(cache, tmp_path / "quartiles", table, "slices=age")
    run(cache, tmp_path / "bands", table, "ages=age")
    sql = "SELECT DISTINCT slice_value FROM metrics WHERE slice_name = 'age' ORDER BY ALL"
    quartiles = [value for (value,) in query(tmp_path / "quartiles", sql)]
    assert len(quartiles) == 4 and all(" to " in value for value in quartiles)
    assert [value for (value,) in query(tmp_path / "bands", sql)] == [
        *("30-50", "50-70", "70+", "<30"),
    ]


def test_slices_leave_every_other_row_as_it_is(cache: Cache, table: Path, tmp_path: Path) -> None:
    run(cache, tmp_path / "with", table, "slices=site", "head=majority")
    run(cache, tmp_path / "without", None, "head=majority")
    sql = """SELECT * EXCLUDE (run) FROM metrics WHERE slice_name IS NULL ORDER BY ALL"""
    assert repr(query(tmp_path / "with", sql)) == repr(query(tmp_path / "without", sql))


def test_columns_that_cannot_be_sliced_are_refused(cache: Cache, table: Path) -> None:
    assert refused(cache, table, "slices=scanner") == (
        "slices=scanner, test rows of gauss: A column to slice by is 7 in all its rows, so it does "
        "not divide them; leave it out."
    )
    assert refused(cache, table, "slices=colour") == (
        f"slices=colour names the column 'colour', which {table} lacks; there are sample_id, "
        "growth, site, sex, tone, age, scanner."
    )
    assert refused(cache, table, "slices=site", "positive=d") == (
        "unknown class 'd'; expected one of a, b, c."
    )
    assert refused(cache, table, "positive=b") == (
        "positive=b counts these classes as one in slices, and there are none. Leave it out, or "
        "name columns: `slices=sex,site`."
    )


def test_metadata_must_be_there_and_of_these_rows(cache: Cache, tmp_path: Path) -> None:
    assert refused(cache, None, "slices=site") == (
        "slices=site names a column of metadata, and there is none: caches hold none. Name the "
        "manifest, or another table with sample_id: `metadata=FILE`."
    )
    missing = tmp_path / "absent.parquet"
    assert refused(cache, missing, "target=growth") == f"{missing}: no such file."
    other = write_rows(tmp_path / "other.csv", [{"sample_id": "elsewhere", "site": "x"}])
    assert refused(cache, other, "slices=site") == (
        f"{other} shares no sample id with cache of gauss, e.g. 's0000': slices=site needs the "
        "manifest that it was extracted from, or a table like it."
    )


def test_the_first_of_two_tables_that_holds_a_row_counts(cache: Cache, tmp_path: Path) -> None:
    rows = rows_of(cache)
    first = write_rows(tmp_path / "a.csv", [row | {"site": "first"} for row in rows[:100]])
    second = write_rows(tmp_path / "b.csv", rows)
    repair(
        [cache],
        recipe=recipe(None, f'metadata=["{first}","{second}"]', "slices=site", "head=majority"),
        results=tmp_path / "r",
    )
    found = query(tmp_path / "r", "SELECT DISTINCT slice_value FROM metrics ORDER BY ALL")
    assert found == [("first",), ("site 0",), ("site 1",), ("site 2",), (None,)]


# Target


def test_a_target_gives_labels_classes_and_figures_of_its_own(cache: Cache, tmp_path: Path) -> None:
    rows = rows_of(cache)
    train = np.flatnonzero(cache.split == "train")[:3].tolist()
    test = np.flatnonzero(cache.split == "test")[:2].tolist()
    for row in (*train, *test):
        rows[row]["growth"] = ""
    table = write_rows(tmp_path / "meta.csv", rows)
    done = run(cache, tmp_path / "r", table, "target=growth")
    assert "5 of 240 rows have no growth and are left out." in done.notes
    assert query(tmp_path / "r", "SELECT target, classes, n_train FROM runs") == [
        ("growth", '["benign", "malignant"]', int((cache.split == "train").sum()) - 3)
    ]
    of_row = {row["sample_id"]: row["growth"] for row in rows}
    labels = query(tmp_path / "r", "SELECT sample_id, label FROM labels")
    predicted = query(tmp_path / "r", "SELECT sample_id, label FROM predictions")
    assert all(of_row[sample] == label for sample, label in (*labels, *predicted))
    # What is known of the rows themselves stays as the cache says.
    assert query(tmp_path / "r", "SELECT DISTINCT label FROM samples ORDER BY ALL") == [
        *(("a",), ("b",), ("c",)),
    ]


def test_errors_by_sex_and_site_are_asked_of_a_cache_that_carries_its_manifest(
    cache: Cache, tmp_path: Path
) -> None:
    rows = rows_of(cache)
    manifest = {
        "sample_id": cache.sample_id,
        "path": np.array([f"{i}.png" for i in range(len(rows))], dtype=object),
        **{name: np.array([row[name] or None for row in rows], dtype=object) for name in ("sex",)},
        "age": np.ma.masked_equal([row["age"] for row in rows], 0),
        "site": np.array([row["site"] for row in rows], dtype=object),
    }
    plain = write_cache(tmp_path / "plain.h5", cache)
    told = dataclasses.replace(
        cache, extra=dict(cache.extra) | {MANIFEST_COLUMNS: packed_columns(manifest)}
    )
    carrying = read_cache(write_cache(tmp_path / "carrying.h5", told).path)
    # One column more invalidates no run, and the file still knows of a flipped byte in it.
    assert carrying.content_digest == plain.content_digest and carrying.digest != plain.digest
    assert manifest_columns(carrying)["age"][:2] == [None, 1]
    keys = [run(one, tmp_path / name, None).keys for name, one in (("p", plain), ("c", carrying))]
    assert keys[0] == keys[1]
    sql = """SELECT sex, site, count(*), avg(wrong::INT) FROM final_predictions
             WHERE arm = 'none' AND stage = 'uncalibrated' GROUP BY ALL ORDER BY ALL"""
    wrong = dict(
        query(
            tmp_path / "p",
            """SELECT sample_id, wrong::INT FROM final_predictions
               WHERE arm = 'none' AND stage = 'uncalibrated'""",
        )
    )
    expected: dict[tuple[object, object], list[int]] = {}
    for row in rows:
        if row["sample_id"] in wrong:
            place = (row["sex"] or None, row["site"])
            expected.setdefault(place, []).append(wrong[row["sample_id"]])
    found = query(tmp_path / "c", sql)
    assert len(found) == len(expected) > 5
    for sex, site, n, share in found:
        assert n == len(expected[sex, site])
        assert share == pytest.approx(np.mean(expected[sex, site]))
    with pytest.raises(TrustqError) as error:
        query(tmp_path / "p", sql)
    assert str(error.value).endswith(
        "These results know no column of the manifest: their caches were imported, or are of an "
        "older trustq. Name the manifest, or another table with sample_id: `metadata=FILE`."
    )


def test_columns_of_other_rows_are_refused(cache: Cache) -> None:
    few = packed_columns({"sex": np.array(["f"], dtype=object)})
    for packed in (few, np.zeros(3, np.uint8)):
        torn = dataclasses.replace(cache, extra={MANIFEST_COLUMNS: packed})
        with pytest.raises(TrustqError, match="its columns of the manifest are not of its rows"):
            manifest_columns(torn)


def test_a_head_of_a_target_is_the_head_of_those_labels(
    cache: Cache, table: Path, tmp_path: Path
) -> None:
    settings = ("sweep.noise=symmetric:0.2", "arms=none,self_confidence,oracle", "references=false")
    run(cache, tmp_path / "target", table, "target=growth", *settings)
    merged = dataclasses.replace(
        cache, classes=("benign", "malignant"), label=np.minimum(cache.label, 1).astype(np.int16)
    )
    run(merged, tmp_path / "merged", None, *settings)
    for name in ("metrics", "labels", "queries", "predictions"):
        sql = f"SELECT * EXCLUDE (run) FROM {name} ORDER BY ALL"
        assert repr(query(tmp_path / "target", sql)) == repr(query(tmp_path / "merged", sql))


def test_an_experiment_is_drawn_on_the_target(cache: Cache, table: Path) -> None:
    experiment = draw_experiment(cache, sweep=recipe(table, "target=growth").sweep, draw_seed=0)
    assert experiment.cache.classes == ("benign", "malignant")
    assert experiment.labels.tolist() == np.minimum(cache.label[experiment.rows], 1).tolist()


def test_what_is_of_other_classes_is_refused(cache: Cache, table: Path, tmp_path: Path) -> None:
    logits = np.zeros((len(cache), 3), np.float32)
    own = dataclasses.replace(cache, logits=logits)
    assert refused(own, table, "target=growth", "head=backbone") == (
        "cache of gauss: its logits are of the classes a, b, c, and target=growth has benign, "
        "malignant. Fit a head on its features, e.g. `head=linear`, or leave target out."
    )
    assert refused(own, table, "target=growth", "arms=entropy@crossfit") == (
        "Arm 'entropy@crossfit': the crossfit logits of cache of gauss are of the classes a, b, c, "
        "and target=growth has benign, malignant. Score by a head (entropy), or leave target out."
    )
    observed = np.where(cache.split == "train", (cache.label + 1) % 3, -1).astype(np.int16)
    noisy = dataclasses.replace(cache, observed=observed, seen=(observed >= 0).astype(np.uint8))
    for noise in ("stored", "auto"):
        assert refused(noisy, table, "target=growth", f"sweep.noise={noise}") == (
            "cache of gauss: its stored labels are of the classes a, b, c, and target=growth has "
            "benign, malignant. Put noise on those, e.g. `noise=none` or `noise=symmetric:0.2`, or "
            "leave target out."
        )
    assert refused(cache, table, "target=scanner") == (
        "target=scanner has one value in the rows of cache of gauss; labels need two classes or "
        "more."
    )
    assert refused(cache, table, "target=growth", "sweep.noise=reference") == (
        "packaged noise reference is for the classes akiec, bcc, bkl, df, mel, nv, vasc; these "
        "data have benign, malignant."
    )


def test_a_target_of_the_same_classes_keeps_logits_and_stored_labels(
    cache: Cache, tmp_path: Path
) -> None:
    logits = np.eye(3, dtype=np.float32)[cache.label]
    own = dataclasses.replace(cache, logits=logits)
    rows = [row | {"dx": "abc"[c]} for row, c in zip(rows_of(cache), cache.label, strict=True)]
    table = write_rows(tmp_path / "meta.csv", rows)
    run(own, tmp_path / "target", table, "target=dx", "head=backbone")
    run(own, tmp_path / "plain", None, "head=backbone")
    sql = "SELECT * EXCLUDE (run) FROM metrics ORDER BY ALL"
    assert repr(query(tmp_path / "target", sql)) == repr(query(tmp_path / "plain", sql))
    # A row that is called otherwise now was trained on its old label, which is no truth any more.
    rows[int(np.flatnonzero(cache.split == "train")[0])]["dx"] = "c" if cache.label[0] == 0 else "a"
    changed = write_rows(tmp_path / "changed.csv", rows)
    seen = np.where(cache.split == "train", SEEN_REFERENCE, 0).astype(np.uint8)
    clean = dataclasses.replace(own, seen=seen, exposure="finetuned-clean")
    run(clean, tmp_path / "clean", table, "target=dx")
    assert refused(clean, changed, "target=dx").startswith(
        "cache of gauss is finetuned-observed: its backbone was trained on other labels of 1 of"
    )


def test_a_row_that_was_seen_is_seen_whatever_it_is_called(
    cache: Cache, table: Path, tmp_path: Path
) -> None:
    train = cache.split == "train"
    seen = np.where(train, SEEN_REFERENCE, 0).astype(np.uint8)
    clean = dataclasses.replace(cache, seen=seen, exposure="finetuned-clean")
    n_train = int(train.sum())
    assert refused(clean, table, "target=growth", "sweep.noise=symmetric:0.2").startswith(
        f"cache of gauss is finetuned-clean: its backbone was trained on other labels of {n_train} "
        f"of the {n_train} training rows"
    )
    run(clean, tmp_path / "r", table, "target=growth")
    assert query(tmp_path / "r", "SELECT backbone_saw_rows, leaky FROM runs") == [(True, False)]
    # Trained on a wrong label of the old classes, it knows something else of the row.
    observed = np.where(train, cache.label, -1).astype(np.int16)
    wrong = int(np.flatnonzero(train)[0])
    observed[wrong] = (observed[wrong] + 1) % 3
    seen = np.where(train, SEEN_OBSERVED, 0).astype(np.uint8)
    noisy = dataclasses.replace(cache, seen=seen, observed=observed, exposure="finetuned-observed")
    assert refused(noisy, table, "target=growth").startswith(
        "cache of gauss is finetuned-observed: its backbone was trained on other labels of 1 of "
        f"the {n_train} training rows"
    )


def outside(cache: Cache, n: int = 40) -> Cache:
    made = make_cache(n=n, seed=5, separation=1.0, dataset="clinic", weights_digest="w")
    return dataclasses.replace(
        made,
        sample_id=np.array([f"x{i:03d}" for i in range(n)]),
        group_id=np.array([f"h{i:03d}" for i in range(n)]),
        split=np.full(n, "external"),
    )


def test_externals_have_the_same_target_and_slices(cache: Cache, tmp_path: Path) -> None:
    other = outside(cache)
    theirs = rows_of(other)
    theirs[0]["growth"] = ""
    table = write_rows(tmp_path / "meta.csv", [*rows_of(cache), *theirs])
    settings = ("target=growth", "slices=site", "positive=malignant")
    done = run(cache, tmp_path / "r", table, *settings, externals=[other])
    assert "1 of 40 rows of clinic have no growth and are left out." in done.notes
    found = query(
        tmp_path / "r",
        """SELECT slice_value, n FROM metric_values
           WHERE eval_dataset = 'clinic' AND metric = 'accuracy'
           AND slice_name = 'site' AND stage = 'uncalibrated' ORDER BY ALL""",
    )
    assert found == [("site 0", 13), ("site 1", 14), ("site 2", 12)]
    theirs[1]["growth"] = "unclear"
    table = write_rows(tmp_path / "strange.csv", [*rows_of(cache), *theirs])
    assert refused(cache, table, *settings, externals=[other]) == (
        "cache of clinic has unclear in growth, which cache of gauss lacks."
    )


# Rows to fit on


def test_rows_left_out_of_the_fit_reach_nothing(cache: Cache, table: Path, tmp_path: Path) -> None:
    settings = (
        "fit_on=site!=site 1",
        *("sweep.noise=symmetric:0.2", "trusted=0.1", "arms=none,self_confidence,random"),
        *("references=false", "rounds=2", "regularisation=auto"),
    )
    sites = np.array([str(row["site"]) for row in rows_of(cache)])
    left_out = np.isin(cache.split, ("train", "val")) & (sites == "site 1")
    assert left_out.sum() > 40
    label, features = cache.label.copy(), cache.features.copy()
    label[left_out] = (label[left_out] + 1) % 3
    features[left_out] += 100.0
    changed = dataclasses.replace(cache, label=label, features=features)
    done = run(cache, tmp_path / "a", table, *settings)
    run(changed, tmp_path / "b", table, *settings)
    for name in ("metrics", "labels", "queries", "predictions"):
        sql = f"SELECT * EXCLUDE (run) FROM {name} ORDER BY ALL"
        assert repr(query(tmp_path / "a", sql)) == repr(query(tmp_path / "b", sql))
    inside = np.isin(cache.split, ("train", "val"))
    assert (
        f"Fitted on site!=site 1: {(inside & ~left_out).sum()} of {inside.sum()} training and "
        "validation rows; test rows stay whole." in done.notes
    )
    # Purchases and folds live on the rows that are fitted on; test rows are all there.
    left = set(cache.sample_id[left_out].tolist())
    for name in ("labels", "queries", "predictions"):
        assert not left & {s for (s,) in query(tmp_path / "a", f"SELECT sample_id FROM {name}")}
    n_test = query(
        tmp_path / "a", "SELECT DISTINCT n FROM metrics WHERE split = 'test' AND class_name IS NULL"
    )
    assert n_test == [(int((cache.split == "test").sum()),)]


def test_rows_of_unknown_value_are_never_fitted_on(cache: Cache, table: Path) -> None:
    rows = rows_of(cache)
    train = cache.split == "train"
    for text, wanted in (("sex!=f", ["m"]), ("sex=f", ["f"]), ("sex=f,m", ["f", "m"])):
        sweep = recipe(table, f"fit_on={text}").sweep
        found = draw_experiment(cache, sweep=sweep, draw_seed=0).rows
        expected = [row["sex"] in wanted for row in rows]
        assert found.tolist() == np.flatnonzero(train & expected).tolist()


def test_a_wrong_fit_on_says_what_there_is(cache: Cache, table: Path) -> None:
    assert refused(cache, table, "fit_on=site=site 9") == (
        "fit_on is 'site=site 9', but no row of cache of gauss has site 'site 9'; there are "
        "site 0, site 1, site 2."
    )
    assert refused(cache, table, "fit_on=site") == (
        "fit_on is 'site', expected COLUMN=VALUE or COLUMN!=VALUE, or several values with commas "
        "between."
    )


# Weights


def test_weights_have_mean_one_and_know_only_the_rows_used() -> None:
    rng = np.random.default_rng(0)
    labels, domains = rng.integers(3, size=200), rng.choice(["a", "b"], size=200)
    tones = rng.choice(TONES, size=200)
    used = rng.random(200) < 0.7
    balance = make_balance(domains, tones)
    weights = balance.weights(labels, used)
    expected = domain_balanced(labels[used], domains[used], tones[used])
    np.testing.assert_allclose(weights[used], expected * used.sum(), rtol=1e-12)
    assert weights[~used].tolist() == [0] * int((~used).sum())
    other = np.where(used, labels, (labels + 1) % 3)
    assert np.array_equal(balance.weights(other, used), weights)


def test_folds_and_head_are_fitted_with_the_weights_of_their_own_rows(
    cache: Cache, table: Path
) -> None:
    settings = ("row_weights=domain_balanced", "sampling_domain=site", "sampling_group=tone")
    experiment = draw_experiment(cache, sweep=recipe(table, *settings).sweep, draw_seed=0)
    rows = [rows_of(cache)[row] for row in experiment.rows]
    domains, tones = (np.array([str(row[name]) for row in rows]) for name in ("site", "tone"))
    labels = experiment.labels
    features = SharedFeatures(experiment.features[experiment.rows])

    def make():  # type: ignore[no-untyped-def]
        return make_head("linear", n_classes=3, C=0.1)

    assert isinstance(experiment.training, TrainingRows)
    (fit,) = fit_folds(
        *(experiment.training, features, labels[None]),
        make=[make],
        whole=True,
        balance=experiment.balance,
    )
    by_hand = domain_balanced(labels, domains, tones) * len(labels)
    whole = make().fit(features, labels, sample_weight=by_hand)
    np.testing.assert_allclose(fit.head.coef_, whole.coef_, atol=1e-9)  # type: ignore[union-attr]
    fold = experiment.training.fold
    held_out = fold == fold.max()
    weights = np.zeros(len(labels))
    inside = ~held_out
    weights[inside] = domain_balanced(labels[inside], domains[inside], tones[inside]) * inside.sum()
    of_fold = make().fit(features, labels, sample_weight=weights)
    np.testing.assert_allclose(
        fit.out_of_fold.logits[held_out],  # type: ignore[union-attr]
        of_fold.predict_logits(features.features[held_out]),
        atol=1e-9,
    )


@pytest.mark.parametrize("head", ["linear", "balanced", "ridge", "majority", "xgboost"])
def test_a_row_of_weight_two_is_two_rows(cache: Cache, head: str) -> None:
    features, labels = cache.features, cache.label.astype(np.int64)
    weights = 1.0 + (np.arange(len(labels)) % 3 == 0)
    twice = np.repeat(np.arange(len(labels)), weights.astype(int))
    settings = {"subsample": 1.0, "max_bin": 4096} if head == "xgboost" else {}

    def fitted(rows: np.ndarray, weight: np.ndarray | None):  # type: ignore[no-untyped-def]
        made = make_head(head, n_classes=3, **settings)
        return made.fit(features[rows], labels[rows], sample_weight=weight)

    weighed = fitted(np.arange(len(labels)), weights).predict_logits(features)
    doubled = fitted(twice, None).predict_logits(features)
    np.testing.assert_allclose(weighed, doubled, atol=5e-3 if head == "xgboost" else 1e-5)


def test_the_network_weighs_classes_by_the_weight_of_their_rows(cache: Cache) -> None:
    features, labels = cache.features, np.minimum(cache.label, 1).astype(np.int64)
    # Classes are balanced in any case, so weights that are the same within a class change nothing.
    plain = make_head("mlp", n_classes=2).fit(features, labels)
    same = make_head("mlp", n_classes=2)
    same.fit(features, labels, sample_weight=np.where(labels == 0, 5.0, 0.5))
    np.testing.assert_allclose(
        same.predict_logits(features), plain.predict_logits(features), atol=1e-2
    )
    other = make_head("mlp", n_classes=2)
    other.fit(features, labels, sample_weight=np.where(features[:, 2] > 0, 5.0, 0.1))
    difference = np.abs(other.predict_logits(features) - plain.predict_logits(features))
    assert difference.max() > 0.1


def test_weights_are_refused_where_nothing_takes_them(cache: Cache, table: Path) -> None:
    weights = ("row_weights=domain_balanced", "sampling_domain=site")
    for head in ("knn", "centroid", "lda"):
        assert refused(cache, table, *weights, f"head={head}") == (
            f"row_weights=domain_balanced: the {head} head takes no weights of rows. Leave "
            "row_weights out, or use a head that does (linear, balanced, xgboost, lightgbm, "
            "ridge, mlp)."
        )
    assert refused(cache, table, *weights, "arms=entropy@heads") == (
        "row_weights=domain_balanced: the lda head takes no weights of rows. Leave "
        "row_weights out, or use a head that does (linear, balanced, xgboost, lightgbm, "
        "ridge, mlp)."
    )
    assert refused(cache, table, *weights, "head=backbone") == (
        "row_weights=domain_balanced is of heads that are fitted; `head=backbone` is the cached "
        "logits as they are. Leave row_weights out, or fit a head, e.g. `head=linear`."
    )


# Keys, sweeps, pages

# Digests of the keys and requests of cells from before there was metadata.
KEYS = {
    (): ("7fe36892ca2d511f4cd34ac720918296", "622a381d36b6c97befd3f6b251b4adcd"),
    ("rounds=2", "arms=none,random,self_confidence,entropy@heads", "buy_unit=group"): (
        "bdbc71fbe5a6dc5191dbf22f86403df1",
        "04ce4440299d39e93eed19d63d3393e2",
    ),
    ("head=xgboost", "trees=3", "components=2", "calibrator=vector"): (
        "bbcc9e49bfd48ca6ea7035394933a793",
        "29f15c8f0783dc53825238551cd72218",
    ),
    ("arms=self_confidence:drop,random:reweight", "flagged_weight=0.3"): (
        "66aa9c841e9ab00a633d4144db169d59",
        "d705626875d9ec6175874160050af512",
    ),
}


@pytest.mark.parametrize("settings", KEYS)
def test_cells_without_metadata_have_the_keys_they_always_had(
    settings: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("trustq.experiments.run.NUMERICS", 4)  # that of the digests
    own = make_cache(n=60, weights_digest="w")
    made = make_cache(n=20, seed=1, dataset="other", weights_digest="w")
    other = dataclasses.replace(
        made,
        sample_id=np.array([f"o{i}" for i in range(20)]),
        group_id=np.array([f"h{i // 2}" for i in range(20)]),
    )
    base = ["sweep.noise=symmetric:0.2", "budgets=4", "folds=2", "regularisation=0.1"]
    repair(
        [own],
        recipe=load_recipe(settings=[*base, *settings]),
        results=tmp_path,
        externals=[] if settings else [other],
    )
    cells = committed_cells(tmp_path)
    requests = [request for request in cells.values() if request]
    assert (digest_strings(sorted(cells)), digest_strings(sorted(requests))) == KEYS[settings]


def test_only_the_columns_used_are_part_of_a_key(cache: Cache, tmp_path: Path) -> None:
    settings = ("target=growth", "fit_on=site!=site 1", "slices=sex", "head=majority")
    rows = rows_of(cache)
    table = write_rows(tmp_path / "meta.csv", rows)
    assert run(cache, tmp_path / "r", table, *settings).n_new == 1
    more = write_rows(tmp_path / "more.csv", [row | {"new": 1, "age": 0} for row in rows])
    assert run(cache, tmp_path / "r", more, *settings).n_new == 0
    for column, value in (("growth", "benign"), ("site", "site 0"), ("sex", "m")):
        first = next(row for row in rows if row[column] != value)
        changed = [row | {column: value} if row is first else row for row in rows]
        path = write_rows(tmp_path / f"{column}.csv", changed)
        assert run(cache, tmp_path / "r", path, *settings).n_new == 1


def test_a_grid_over_domains_is_swept_once_on_any_number_of_processes(tmp_path: Path) -> None:
    pattern = write_caches(tmp_path / "caches", n=1, rows=120)
    rows = rows_of(make_cache(n=120, d=4))
    table = write_rows(tmp_path / "meta.csv", rows)
    settings = [
        f"caches={pattern}",
        f'metadata=["{table}"]',
        *("target=growth", "slices=site", "positive=malignant", "sweep.noise=symmetric:0.2"),
        *("arms=none,self_confidence", "references=false", "budgets=5", "regularisation=0.1"),
        'fit_on=["", "site=site 0", "site!=site 0"]',
        'row_weights=["none", "domain_balanced"]',
        "sampling_domain=site",
    ]
    points = load_sweep("", settings=settings)
    plan = plan_sweep(points, results=tmp_path / "one")
    assert plan.n_cells == 3 * 2 * 2
    done = run_sweep(plan, results=tmp_path / "one", jobs=1)
    assert not done.failures and done.n_new == 12
    run_sweep(plan_sweep(points, results=tmp_path / "two"), results=tmp_path / "two", jobs=2)
    assert rows_digest(tmp_path / "one") == rows_digest(tmp_path / "two")
    assert plan_sweep(points, results=tmp_path / "one").n_cells == 0
    # Seeds and pairs keep the fits apart.
    found = query(
        tmp_path / "one",
        """SELECT fit_on, row_weights, count(*) FROM paired WHERE arm = 'none' AND split = 'test'
           AND stage = 'uncalibrated' AND metric = 'accuracy' AND slice_name IS NULL
           AND unit = 'draw_seed' GROUP BY ALL ORDER BY ALL""",
    )
    assert found == [
        (fit_on, weights, 1)
        for fit_on in ("site!=site 0", "site=site 0", None)
        for weights in ("domain_balanced(site)", None)
    ]


def test_pages_say_what_was_fitted_and_show_the_slices(
    cache: Cache, table: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("trustq.report.page._figures", lambda *given: [])  # they take seconds
    settings = ("target=growth", "fit_on=site!=site 1", "row_weights=domain_balanced")
    more = ("sampling_domain=site", "slices=site,sex", "positive=malignant")
    done = run(cache, tmp_path / "r", table, *settings, *more)
    assert (
        ", target growth, fitted on site!=site 1, weights domain_balanced(site), "
        "regularisation 0.1\n" in repair_table(tmp_path / "r", done.keys).caption
    )
    write_report(tmp_path / "r", tmp_path / "page.html")
    page = (tmp_path / "page.html").read_text("utf-8")
    assert "Slices" in page and "unknown: in no gap" in page and "sensitivity" in page


def test_the_command_line_takes_metadata(tmp_path: Path) -> None:
    pattern = write_caches(tmp_path / "caches", n=1, rows=120)
    table = write_rows(tmp_path / "meta.csv", rows_of(make_cache(n=120, d=4)))
    words = ["repair", str(pattern), "--metadata", str(table), "--target", "growth"]
    words += ["--noise", "none", "--arms", "none", "--head", "majority", "--slices", "site"]
    words += ["--positive", "malignant", "--fit-on", "site!=site 1", "--ages", "age"]
    done = CliRunner().invoke(app, [*words, "--results", str(tmp_path / "r")])
    assert done.exit_code == 0, done.output
    assert "target growth, fitted on site!=site 1" in done.stdout
    words = ["sweep", "--metadata", str(table), "--target", "growth", "--set", f"caches={pattern}"]
    words += ["--set", "sweep.noise=none", "--set", "arms=none", "--set", "head=majority"]
    done = CliRunner().invoke(app, [*words, "--results", str(tmp_path / "s"), "--jobs", "1"])
    assert done.exit_code == 0, done.output
    assert query(tmp_path / "s", "SELECT target, head FROM runs") == [("growth", "majority")]
