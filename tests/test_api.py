"""The Python door: what goes in, what comes out, and that it is light and typed."""

import dataclasses
import inspect
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import numpy as np
import pandas
import polars
import pytest
from support import make_cache, refused

import trustq as tq
from trustq.api.frames import Table
from trustq.store import write_cache

LABELS = np.array([0, 1, 2, 1, 0, 2] * 20)
PROBS = np.random.default_rng(0).dirichlet(np.ones(3), 120) * 0.3 + 0.7 * np.eye(3)[LABELS]
WRONG = np.where(np.arange(120) % 20 == 7, (LABELS + 1) % 3, LABELS)


def test_the_door_is_light_and_lists_what_it_has() -> None:
    code = (
        "import sys, trustq as tq\n"
        "assert set(tq.__all__) <= set(dir(tq))\n"
        "heavy = {'numpy', 'duckdb', 'sklearn', 'torch', 'pandas', 'polars', 'narwhals'}\n"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)\n"
        "for name in tq.__all__:\n"
        "    assert getattr(tq, name).__doc__, name\n"
        "assert 'torch' not in sys.modules\n"
        "from trustq import *\n"
        "assert label_quality is tq.label_quality\n"
        "import trustq.repair.settings\n"
        "assert callable(tq.repair)\n"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_every_package_is_installed() -> None:
    root = Path(__file__).parent.parent
    project = tomllib.loads((root / "pyproject.toml").read_text("utf-8"))
    files = [f for f in root.glob("trustq/**/*") if f.is_file() and f.suffix != ".pyc"]
    found = {".".join(f.parent.relative_to(root).parts) for f in files}  # code or data
    assert found | {"trustq.cli"} == set(project["tool"]["setuptools"]["packages"])


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="^module 'trustq' has no attribute 'guess'$"):
        _ = tq.guess  # type: ignore[attr-defined]


def test_the_callable_package_has_the_signature_of_its_function() -> None:
    assert "recipe" in inspect.signature(tq.repair).parameters


@pytest.mark.parametrize("kind", ["lists", "pandas", "polars", "names"])
def test_label_quality_is_the_same_of_every_kind_of_input(kind: str) -> None:
    expected = tq.label_quality(WRONG, PROBS)
    names = np.array(["mel", "nv", "bcc"])
    inputs: dict[str, tuple[Any, Any]] = {
        "lists": (WRONG.tolist(), PROBS.tolist()),
        "pandas": (pandas.Series(WRONG), pandas.DataFrame(PROBS, columns=list("abc"))),
        "polars": (polars.Series(WRONG), polars.DataFrame(PROBS, schema=list("abc"))),
        "names": (pandas.Series(names[WRONG]), pandas.DataFrame(PROBS, columns=names)),
    }
    np.testing.assert_array_equal(tq.label_quality(*inputs[kind]), expected)
    suspects = set(np.argsort(expected)[:6].tolist())
    assert suspects == set(np.flatnonzero(WRONG != LABELS).tolist())


@pytest.mark.parametrize(
    "form",
    [
        lambda y, p: (y.astype(float), p),
        lambda y, p: (np.eye(3)[y], p),
        lambda y, p: (y[:, None], p),
        lambda y, p: (y, pandas.DataFrame(p, columns=range(3))[[2, 0, 1]]),
        lambda y, p: (y, pandas.DataFrame(p, columns=["p0", "p1", "p2"])[["p2", "p0", "p1"]]),
        lambda y, p: (y + 1, pandas.DataFrame(p, columns=["p1", "p2", "p3"])[["p3", "p1", "p2"]]),
        lambda y, p: (y, polars.DataFrame(p[:, [2, 0, 1]], schema=["2", "0", "1"])),
    ],
)
def test_labels_of_any_form_are_of_the_columns_that_are_called_so(form: Any) -> None:
    labels, probs = form(WRONG, PROBS)
    np.testing.assert_array_equal(tq.label_quality(labels, probs), tq.label_quality(WRONG, PROBS))
    read = tq.read_predictions({"labels": labels, "probs": probs})
    right = (PROBS.argmax(axis=1) == WRONG).mean()
    assert (read.of_rows().argmax(axis=1) == read.labels).mean() == right


def test_frames_give_their_index_and_blanks_and_no_two_columns_of_one_name() -> None:
    frame = pandas.DataFrame({"label": WRONG} | {f"prob_{j}": PROBS[:, j] for j in range(3)})
    index = pandas.Index([f"s{i}.jpg" for i in range(len(WRONG))], name="image_id")
    found = tq.read_predictions(frame.set_index(index))
    assert found.sample_ids is not None and found.sample_ids[0] == "s0.jpg"
    labels = pandas.array([None, *WRONG[1:].tolist()], dtype="Int64")
    assert len(tq.read_predictions(frame.assign(label=labels))) == len(WRONG) - 1
    with refused("The frame has two columns of one name: give each its own."):
        tq.read_predictions(pandas.concat([frame, frame[["prob_0"]]], axis=1))


def test_one_column_of_probabilities_is_of_the_second_class() -> None:
    two = np.array([0, 1, 1, 0])
    second = np.array([0.1, 0.7, 0.2, 0.6])
    np.testing.assert_allclose(tq.label_quality(two, second), [0.9, 0.7, 0.2, 0.4])
    named = tq.label_quality(["b", "a", "a", "b"], second, classes=["b", "a"])
    np.testing.assert_allclose(named, [0.9, 0.7, 0.2, 0.4])


def test_label_quality_of_a_group_is_its_lowest() -> None:
    groups = [f"lesion{i // 3}" for i in range(120)]
    alone = tq.label_quality(WRONG, PROBS)
    grouped = tq.label_quality(WRONG, PROBS, groups=groups)
    np.testing.assert_array_equal(grouped, np.repeat(alone.reshape(-1, 3).min(axis=1), 3))


@pytest.mark.parametrize("blank", [None, np.nan, "NA", "-", -1])
def test_rows_without_a_group_are_no_group(blank: Any) -> None:
    groups = [blank if row % 4 == 0 else row // 3 for row in range(120)]
    quality, alone = tq.label_quality(WRONG, PROBS, groups=groups), tq.label_quality(WRONG, PROBS)
    assert np.array_equal(quality[::4], alone[::4])
    assert (quality < alone).any()


def test_label_issues_are_those_that_are_wrong_and_whole_groups_stand_together() -> None:
    names = np.array(["mel", "nv", "bcc"])
    by_hand = {"method": "predicted_neq_given"}
    found = tq.find_label_issues(WRONG, pandas.DataFrame(PROBS, columns=names), **by_hand)
    wrong = np.flatnonzero(WRONG != LABELS)
    assert set(found["row"].tolist()) == set(wrong.tolist())
    assert (np.diff(found["quality"]) >= 0).all()
    assert found["suggested"].tolist() == names[LABELS[found["row"]]].tolist()
    groups = np.arange(120) // 2
    grouped = tq.find_label_issues(WRONG, PROBS, groups=groups, **by_hand)
    assert len(grouped) == 2 * len(wrong)
    assert (grouped["group"].reshape(-1, 2) == grouped["group"].reshape(-1, 2)[:, :1]).all()


def test_label_quality_refuses_what_does_not_fit() -> None:
    with refused(
        "The input: labels are names (a, b), so the order of the 3 columns of logits or probs is "
        "not known: name the classes in that order (`classes`)."
    ):
        tq.label_quality(["a", "b"], [[0.2, 0.3, 0.5]] * 2)
    with refused("labels has no class in 1 of 2 rows: leave out rows without a label."):
        tq.label_quality([0, np.nan], [[0.5, 0.5]] * 2)
    with refused("The input: labels: unknown class 'z'; expected one of a, b, c."):
        tq.label_quality(["a", "z"], [[0.2, 0.3, 0.5]] * 2, classes=["a", "b", "c"])
    with refused(
        "The input names 2 classes (a, b) for 3 columns of scores: give every column its class, "
        "in column order."
    ):
        tq.label_quality([0, 1], [[0.2, 0.3, 0.5]] * 2, classes=["a", "b"])
    with refused(
        "groups has shape (1,) and labels (2,): pass one group per label, in the same order."
    ):
        tq.label_quality([0, 1], [[0.5, 0.5]] * 2, groups=[1])


def test_predictions_of_a_frame_are_those_of_the_file(tmp_path: Path) -> None:
    columns: dict[str, Any] = {"sample_id": [f"s{i}" for i in range(120)], "labels": WRONG}
    columns |= {f"prob_{name}": PROBS[:, i] for i, name in enumerate("abc")}
    columns["sex"] = ["male", None, "female"] * 40
    frame = pandas.DataFrame(columns)
    frame.to_csv(tmp_path / "p.csv", index=False)
    expected = tq.read_predictions(tmp_path / "p.csv", columns=["sex"])
    for given in (frame, polars.DataFrame(columns), str(tmp_path / "p.csv")):
        read = tq.read_predictions(given, columns=["sex"])
        np.testing.assert_array_equal(read.labels, expected.labels)
        np.testing.assert_allclose(read.of_rows(), expected.of_rows(), atol=1e-15)
        assert read.sample_ids.tolist() == expected.sample_ids.tolist()
        assert read.columns["sex"].tolist() == expected.columns["sex"].tolist()
    report = tq.evaluate(frame, slices=["sex"], folds=5, replicates=50)
    accuracy = report.metrics.to_pandas().query("metric == 'accuracy'")["value"].tolist()
    assert accuracy == [1 - 6 / 120] * 2
    assert "<table>" in report._repr_html_() and "accuracy" in repr(report)
    assert len(report.errors) == 6
    assert {path.name for path in report.save(tmp_path / "out")} >= {"report.json", "page.txt"}


def test_a_fault_of_a_frame_names_the_frame() -> None:
    frame = pandas.DataFrame({"labels": [0, 1], "x": [0.1, 0.2]})
    with pytest.raises(tq.TrustqError, match=r"^The frame has no columns prob_<class>"):
        tq.read_predictions(frame)
    with pytest.raises(tq.TrustqError, match=r"it has labels, x\. Name the features that heads"):
        tq.audit_labels(frame)
    with refused(
        "Cannot read from int: pass a path, a mapping of arrays (features=, labels=, ...) or a "
        "data frame."
    ):
        tq.read_predictions(3)


def test_compare_gives_the_differences_as_a_frame() -> None:
    good, poor = {"labels": LABELS, "probs": PROBS}, {"labels": WRONG * 0 + LABELS, "probs": PROBS}
    poor["probs"] = PROBS[:, [1, 0, 2]]
    found = tq.compare({"good": good, "poor": poor}, same_rows=True, replicates=50)
    frame = found.to_polars()
    row = frame.filter(polars.col("metric") == "accuracy").row(0, named=True)
    assert row["difference"] == pytest.approx(2 / 3) and row["model"] == "good"
    assert "<table>" in found._repr_html_()


@pytest.fixture(scope="module")
def cache_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("caches") / "seed0.h5"
    write_cache(path, make_cache())
    return path


SETTINGS: dict[str, Any] = {
    "arms": ["none", "random", "self_confidence"],
    "noise": "symmetric:0.2",
    "draws": 2,
    "budgets": ["10%"],
    "regularisation": "0.1",
}


def test_repair_takes_paths_and_caches_and_answers_in_tables(
    cache_path: Path, tmp_path: Path
) -> None:
    run = tq.repair(str(cache_path), results=tmp_path / "a", **SETTINGS)
    assert run.n_new == 2 * 4  # with the oracle beside them
    again = tq.repair([tq.open_cache(cache_path)], results=str(tmp_path / "a"), **SETTINGS)
    assert again.n_new == 0 and again.keys == run.keys
    frame = run.to_pandas()
    assert set(frame["arm"]) == {"none", "random", "self_confidence", "oracle"}
    assert "<table>" in run._repr_html_() and "oracle" in repr(run)
    results = tq.Results(tmp_path / "a")
    counted = results.sql("SELECT count(*) AS n FROM rounds WHERE round > $least", least=0)
    assert counted["n"].tolist() == [2 * 3]
    assert len(results.values) > 100 and len(results.paired.to_polars())
    assert "rounds" in results.tables["table_name"].tolist()


def test_a_sweep_from_python_runs_the_same_keys(cache_path: Path, tmp_path: Path) -> None:
    run = tq.sweep(results=tmp_path / "r", jobs=1, caches=str(cache_path), **SETTINGS)
    alone = tq.repair(cache_path, results=tmp_path / "s", **SETTINGS)
    assert set(run.keys) == set(alone.keys) and not run.failures
    frame = run.to_pandas()
    assert len(frame) == 4 and frame["accuracy"].between(0.5, 1).all() and "accuracy_sd" in frame


def test_embeddings_in_a_frame_are_repaired(tmp_path: Path) -> None:
    cache = make_cache()
    frame = pandas.DataFrame(cache.features, columns=[f"feature_{i}" for i in range(8)])
    frame["labels"] = np.array(cache.classes)[cache.label]
    frame["groups"] = cache.group_id
    run = tq.repair(frame, results=tmp_path / "r", **SETTINGS)
    assert run.n_new == 8
    taken = tq.import_cache(frame, exposure="frozen", dataset="mine")
    assert (taken.dataset, taken.exposure, taken.path) == ("mine", "frozen", None)
    np.testing.assert_array_equal(taken.features, cache.features)


def test_plan_says_what_a_design_can_show() -> None:
    report = tq.plan("reference-study", backbones=5)
    assert report.plan.floor == 0.0625
    assert report.budgets["budget"].tolist() == ["64"]
    assert "CANNOT" in report.page


def test_audit_of_arrays_and_of_a_cache(cache_path: Path, tmp_path: Path) -> None:
    cache = make_cache()
    observed = cache.label.copy()
    observed[5] = (observed[5] + 1) % 3
    arrays = {"features": cache.features, "labels": observed, "groups": cache.group_id}
    report = tq.audit_labels(arrays, review=20)
    assert "5" in report.issues["sample_id"].tolist()
    assert report.to_pandas().shape[0] == len(report.issues)
    assert "<table>" in report._repr_html_()
    assert "score mean_rank" in report._repr_html_() and report.why in report._repr_html_()
    # Every label in the order of the input, the listed ones as the list has them.
    every = report.labels
    assert every["sample_id"].tolist() == [str(i) for i in range(len(observed))]
    listed = every["sample_id"][every["listed"]][np.argsort(every["rank"][every["listed"]])]
    assert listed.tolist() == report.issues["sample_id"].tolist()
    asked = tq.audit_labels(arrays, review=20, score="self_confidence")
    assert (report.score, asked.score, asked.why) == ("mean_rank", "self_confidence", "")
    assert (tmp_path / "audit" / "label_issues.csv") in report.save(tmp_path / "audit")
    assert len(tq.audit_labels(cache_path, review=3).issues) == 3


def test_tables_keep_types_blanks_and_escape_html() -> None:
    table = Table({"name": ["<b>", None], "n": [1, None], "x": [0.5, None], "ok": [True, False]})
    assert table.to_polars()["name"].to_list() == ["<b>", None]
    assert table.to_pandas()["ok"].dtype == bool
    assert np.isnan(table["x"][1])
    assert "&lt;b&gt;" in table._repr_html_() and "<b>" not in table._repr_html_()
    assert table.to_rows()[0] == {"name": "<b>", "n": 1, "x": 0.5, "ok": True}
    with pytest.raises(KeyError, match="'y' is not a column"):
        table["y"]


def test_a_recipe_object_keeps_what_is_not_set_anew(cache_path: Path, tmp_path: Path) -> None:
    from trustq.recipes import load_recipe

    base = load_recipe("", settings=["sweep.folds=3"], part="sweep")
    run = tq.repair(cache_path, recipe=base, results=tmp_path / "r", **SETTINGS)
    folds = run.results.sql("SELECT DISTINCT n_folds FROM runs")["n_folds"].tolist()
    assert folds == [3]
    assert dataclasses.replace(base) == base


def _shuffled(frame: "pandas.DataFrame | pandas.Series[int]") -> "pandas.DataFrame":
    return frame.sample(frac=1, random_state=1)  # type: ignore[return-value]


@pytest.mark.parametrize("ids", ["counted", "texts", "pairs"])
def test_series_and_frames_are_matched_by_their_index(ids: str) -> None:
    n = len(WRONG)
    index = {
        "counted": pandas.RangeIndex(n),
        "texts": pandas.Index([f"s{i:02d}.jpg" for i in range(n)]),
        "pairs": pandas.MultiIndex.from_arrays([np.arange(n) // 2, np.arange(n) % 2]),
    }[ids]
    labels = pandas.Series(WRONG, index=index)
    probs = pandas.DataFrame(PROBS, index=index)
    groups = pandas.Series(np.arange(n) // 3, index=index)
    whole = tq.label_quality(WRONG, PROBS, groups=np.arange(n) // 3)
    assert (tq.label_quality(labels, _shuffled(probs), groups=groups[::-1]) == whole).all()
    found = tq.find_label_issues(labels, _shuffled(probs), groups=groups)
    expected = tq.find_label_issues(WRONG, PROBS, groups=np.arange(n) // 3)
    for name in ("row", "quality", "group"):
        assert (found[name] == expected[name]).all()
    given = {"labels": labels, "probs": _shuffled(probs), "groups": groups.iloc[::-1]}
    read = tq.read_predictions(given)
    by_hand = tq.read_predictions({"labels": WRONG, "probs": PROBS, "groups": np.arange(n) // 3})
    assert (read.of_rows() == by_hand.of_rows()).all()
    assert (read.labels == by_hand.labels).all()
    assert read.groups is not None and by_hand.groups is not None
    assert (read.groups == by_hand.groups).all()
    features = pandas.DataFrame(PROBS, index=index)
    cache = tq.import_cache({"labels": labels, "features": _shuffled(features)}, exposure="frozen")
    assert np.allclose(cache.features, PROBS, atol=1e-6)


def test_rows_that_no_index_tells_apart_are_refused() -> None:
    n = len(WRONG)
    labels, probs = pandas.Series(WRONG), pandas.DataFrame(PROBS)
    told = (
        "give both the same index, or none where their rows are in the same order "
        "(reset_index(drop=True))"
    )
    with refused(f"labels and probs have indexes of other rows, 0, ... and 1, ...: {told}."):
        tq.label_quality(labels, probs.set_index(np.arange(n) + 1))
    texts = probs.set_index(np.arange(n)[::-1].astype(str))  # the same numbers, as texts
    with refused(
        f"labels and probs have indexes of other rows, 0, ... and '{n - 1}', ...: {told}."
    ):
        tq.label_quality(labels, texts)
    twice = probs.set_index(np.arange(n) // 2)
    with refused(f"labels and probs have indexes of other rows, 0, ... and 0, ...: {told}."):
        tq.read_predictions({"labels": labels, "probs": twice})
    told = "labels has no index that says which is its own: give it one, or pass all in one order"
    with refused(f"probs and groups have the same rows in two orders, and {told}."):
        tq.label_quality(WRONG, probs, groups=labels[::-1])
    # By position, as before: an index that only counts beside names, the same twice, and none.
    whole = tq.label_quality(WRONG, PROBS)
    named = probs.set_index(pandas.Index([f"s{i}" for i in range(n)]))
    assert (tq.label_quality(labels, named) == whole).all()
    assert (tq.label_quality(labels.set_axis(np.arange(n) // 2), twice) == whole).all()
    assert (tq.label_quality(polars.Series(WRONG), probs[::-1].iloc[::-1]) == whole).all()


class _Labelled:
    """An array as xarray has it: named dimensions, an index of the first."""

    def __init__(self, values: np.ndarray, index: pandas.Index) -> None:  # type: ignore[type-arg]
        self.values, self.dims, self.indexes = values, ("row", "class"), {"row": index}
        self.index = None

    def __array__(self, dtype: object = None, copy: bool | None = None) -> np.ndarray:
        return self.values


def test_arrays_with_named_dimensions_are_matched_by_their_first_index() -> None:
    order = np.random.default_rng(0).permutation(len(WRONG))
    labels = pandas.Series(WRONG)
    probs = _Labelled(PROBS[order], pandas.Index(order))
    assert (tq.label_quality(labels, probs) == tq.label_quality(WRONG, PROBS)).all()


NAMES = np.array(["nv", "mel", "bkl"])


def accuracy_of(data: Any = None, **arrays: Any) -> float:
    found = tq.evaluate(arrays if data is None else data, replicates=20).metrics
    return float(found["value"][found["metric"].tolist().index("accuracy")])


RIGHT = float((PROBS.argmax(axis=1) == WRONG).mean())
BINARY = LABELS % 2
SECOND = np.where(BINARY == 1, 0.8, 0.3)


@pytest.mark.parametrize(
    "data",
    [
        {"probs": pandas.DataFrame(PROBS, columns=["prob_" + name for name in NAMES])},
        {"probs": pandas.DataFrame(PROBS[:, ::-1], columns=NAMES[::-1]), "classes": list(NAMES)},
        {"probs": pandas.DataFrame(PROBS), "classes": list(NAMES)},
        {"probs": polars.DataFrame(PROBS), "classes": tuple(NAMES)},
        {"probs": pandas.Series(list(PROBS)), "classes": list(NAMES)},
        {"probs": polars.Series(PROBS.tolist()), "classes": list(NAMES)},
        {"probs": PROBS.astype(object), "classes": pandas.Index(NAMES)},
    ],
)
def test_columns_of_scores_are_of_the_classes_they_are_called_by(data: dict[str, Any]) -> None:
    assert accuracy_of(labels=NAMES[WRONG], **data) == RIGHT
    one_hot = pandas.get_dummies(pandas.Series(NAMES[WRONG]))  # its columns are sorted
    assert accuracy_of(labels=one_hot, **data) == RIGHT


@pytest.mark.parametrize(
    ("labels", "probs", "classes"),
    [
        (BINARY, pandas.DataFrame({"0": 1 - SECOND}), None),
        (BINARY, pandas.DataFrame({0: 1 - SECOND, 1: SECOND})[1], None),
        (BINARY, polars.Series(SECOND), None),
        (NAMES[BINARY], pandas.Series(1 - SECOND, name="nv"), None),
        (NAMES[BINARY], pandas.Series(SECOND, name="prob_MEL"), None),
        (NAMES[BINARY], pandas.Series(1 - SECOND, name="nv"), ["nv", "mel"]),
        (NAMES[BINARY], pandas.Series(SECOND, name="score"), ["nv", "mel"]),
    ],
)
def test_one_series_is_of_the_class_it_is_called_by(labels: Any, probs: Any, classes: Any) -> None:
    stated = {} if classes is None else {"classes": classes}
    assert accuracy_of(labels=labels, probs=probs, **stated) == 1
    quality = tq.label_quality(labels, probs, **stated)
    assert np.allclose(quality, np.where(BINARY == 1, SECOND, 1 - SECOND))


def test_a_series_called_0_may_be_of_either_class_and_is_refused() -> None:
    for probs in (pandas.DataFrame(SECOND), pandas.DataFrame(PROBS[:, :2])[0]):
        with pytest.raises(tq.TrustqError, match="one column called 0, which may be class 0 or no"):
            tq.label_quality(BINARY, probs)


def test_masked_rows_have_no_label() -> None:
    kept = LABELS != 1
    right = float((PROBS.argmax(axis=1) == WRONG)[kept].mean())
    assert accuracy_of(labels=np.ma.array(WRONG, mask=~kept), probs=PROBS) == right != RIGHT
    texts = np.ma.array(NAMES[WRONG], mask=~kept)
    assert accuracy_of(labels=texts, probs=PROBS, classes=NAMES) == right
    with pytest.raises(tq.TrustqError, match="NaN"):
        accuracy_of(labels=LABELS, probs=np.ma.array(PROBS, mask=PROBS < 0.05))


@pytest.mark.parametrize("frame", [pandas.DataFrame, polars.DataFrame])
def test_a_column_of_lists_is_a_matrix_and_other_odd_columns_are_left_out(frame: Any) -> None:
    images = [{"bytes": b"x", "path": f"{row}.jpg"} for row in range(120)]
    ragged = [list(range(row % 3)) for row in range(120)]
    data = frame({"label": WRONG, "probs": list(PROBS), "photo": images, "boxes": ragged})
    assert accuracy_of(data) == RIGHT


@pytest.mark.parametrize("labels", [3, None, {0: 1}, "abc"])
def test_one_value_is_no_array(labels: Any) -> None:
    with pytest.raises(tq.TrustqError, match="labels is one value"):
        tq.evaluate({"labels": labels, "probs": PROBS})


def test_a_frame_of_labels_is_one_hot_or_refused() -> None:
    with pytest.raises(tq.TrustqError, match="one-hot columns with one 1 in a row"):
        tq.label_quality(pandas.DataFrame(PROBS, columns=NAMES), PROBS, classes=list(NAMES))


@pytest.mark.parametrize(
    "answers",
    [
        {"s0": "2"},
        pandas.Series({"s0": 2}),
        pandas.DataFrame({"sample_id": ["s0", "s1"], "label": [2, None]}),
        polars.DataFrame({"image_id": ["s0.png"], "label": ["2"]}),
    ],
)
def test_answers_come_as_a_mapping_a_series_or_a_frame(answers: Any) -> None:
    ids = [f"s{row}" for row in range(120)]
    data = {"features": PROBS, "labels": WRONG, "sample_ids": ids}
    found = tq.audit_labels(data, answers=answers).audit
    trusted = found.trusted if len(found.trusted) == 120 else None
    assert trusted is None or trusted.tolist() == [True] + [False] * 119
    assert any(note.startswith("1 label is trusted by answers") for note in found.notes)


def test_what_is_no_name_no_mapping_and_no_feature_is_refused() -> None:
    data = {"labels": LABELS, "probs": PROBS}
    with pytest.raises(tq.TrustqError, match="Unknown name 'label' of an array; did you mean 'lab"):
        tq.read_predictions(data, names={"label": "y"})
    with pytest.raises(tq.TrustqError, match="Pass the models by name"):
        tq.compare([data, data])  # type: ignore[arg-type]
    with pytest.raises(tq.TrustqError, match="has no column of features, so no head can be fitted"):
        tq.audit_labels({"features": PROBS[:, :0], "labels": LABELS})


def test_integers_of_128_bits_are_read_where_64_hold_them():
    columns = {"prob_0": [0.9, 0.2] * 5, "prob_1": [0.1, 0.8] * 5}
    narrow = polars.DataFrame({"label": [0, 1] * 4 + [1, 0], **columns})
    wide = narrow.with_columns(polars.col("label").cast(polars.Int128))
    assert tq.evaluate(wide).metrics["value"].tolist()[0] == 0.8
    np.testing.assert_array_equal(
        tq.evaluate(wide).metrics["value"], tq.evaluate(narrow).metrics["value"]
    )
    beyond = narrow.with_columns(label=polars.Series([0, 2**70] * 5, dtype=polars.Int128))
    message = "Column 'label' has integers beyond 64 bits: give them as texts."
    with refused(message):
        tq.evaluate(beyond)


@pytest.mark.parametrize(
    "classes", [{"b", "a"}, {"a": 0, "b": 1}, "a,b"], ids=["set", "dict", "text"]
)
def test_classes_without_an_order_are_refused(classes: Any) -> None:
    probs = np.array([[0.9, 0.1], [0.2, 0.8]])
    kind = type(classes).__name__
    with pytest.raises(tq.TrustqError, match=f"classes is a {kind}, expected a list of names"):
        tq.label_quality(["a", "b"], probs, classes=classes)
    if kind != "str":
        with pytest.raises(tq.TrustqError, match="has no order that is meant"):
            data = {"labels": ["a", "b"], "probs": probs}
            tq.read_predictions(data, names={"classes": classes})


def test_tensors_of_networks_are_arrays() -> None:
    torch = pytest.importorskip("torch")
    probs = torch.tensor([[0.75, 0.25], [0.5, 0.5]], requires_grad=True)
    for own in (probs, probs.bfloat16(), probs.half()):
        assert tq.label_quality(torch.tensor([0, 1]), own).tolist() == [0.75, 0.5]
        assert tq.read_predictions({"labels": [0, 1], "probs": own}).probs.tolist() == [  # type: ignore[union-attr]
            [0.75, 0.25],
            [0.5, 0.5],
        ]


def test_groups_may_be_one_column() -> None:
    probs = np.array([[0.9, 0.1], [0.2, 0.8], [0.7, 0.3]])
    for groups in (np.array([[1], [1], [2]]), pandas.DataFrame({"patient": [1, 1, 2]})):
        assert tq.label_quality([0, 0, 1], probs, groups=groups).tolist() == [0.2, 0.2, 0.3]


@pytest.mark.parametrize(
    "probs",
    [
        pandas.DataFrame({"a": [0.9, 0.2], "b": [0.1, 0.8], "label": ["a", "b"]}),
        [{"a": "high", "b": "low"}, {"a": "low", "b": "high"}],
    ],
    ids=["frame", "dicts"],
)
def test_probabilities_that_are_no_numbers_are_refused(probs: Any) -> None:
    with pytest.raises(tq.TrustqError, match="probs holds what is no number"):
        tq.label_quality(["a", "b"], probs)


def test_columns_are_named_as_a_list_or_as_a_text() -> None:
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 3, 60)
    probs = rng.dirichlet(np.ones(3), 60) / 2 + np.eye(3)[labels] / 2
    frame = pandas.DataFrame(probs, columns=["x", "y", "z"]).assign(truth=labels)
    named: list[Any] = [["x", "y", "z"], "x,y,z"]
    found = [
        tq.read_predictions(frame, names={"probs": own, "labels": "truth", "classes": own})
        for own in named
    ]
    for one in found:
        assert one.classes == ("x", "y", "z") and one.labels.tolist() == labels.tolist()
        np.testing.assert_array_equal(one.of_rows(), probs)
    reports = [
        tq.audit_labels(
            frame, source="file", review=9, names={"probs": own, "labels": "truth", "classes": own}
        )
        for own in named
    ]
    assert reports[0].page == reports[1].page


def test_columns_of_a_frame_may_be_numbers_or_have_levels() -> None:
    labels = np.arange(60) % 3
    probs = np.full((60, 3), 0.1) + 0.7 * np.eye(3)[labels]
    counted = pandas.DataFrame(probs).assign(label=labels)
    found = tq.read_predictions(counted, names={"probs": "0,1,2"})
    np.testing.assert_array_equal(found.of_rows(), probs)
    levels = pandas.DataFrame(
        probs, columns=pandas.MultiIndex.from_product([["prob"], list("abc")])
    )
    names = np.array(["a", "b", "c"])[labels]
    with_labels = levels.copy()
    with_labels["label", ""] = names
    found = tq.read_predictions(with_labels)
    assert found.classes == ("a", "b", "c") and found.labels.tolist() == labels.tolist()
    expected = np.full(60, 0.8)
    np.testing.assert_allclose(tq.label_quality(names, levels), expected)
    twice = pandas.DataFrame({1: labels, "1": labels})
    with refused("The frame has two columns of one name: give each its own."):
        tq.read_predictions(twice)


def test_texts_of_no_encoding_are_refused() -> None:
    frame = pandas.DataFrame({"label": ["a\udc80"], "prob_x": [0.5], "prob_y": [0.5]}, dtype=object)
    with pytest.raises(tq.TrustqError, match="The frame cannot be read: .*surrogate"):
        tq.read_predictions(frame)


def test_what_the_door_calls_a_function_can_be_called() -> None:
    own = tq.__doc__ or ""
    named = {name for name in tq.__all__ if name.islower() and f"`tq.{name}`" in own}
    modules = {"metrics", "calibration", "heads"}
    assert "trust" in named and {name for name in named if not callable(getattr(tq, name))} == (
        modules & named
    )


def test_trust_takes_what_predictions_are_read_from(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 2, 80)
    clean = np.clip(0.7 * labels + 0.15 + rng.normal(0, 0.3, 80), 0.05, 0.95)
    probs = np.stack([1 - clean, clean], axis=1)
    data = {"labels": labels, "probs": probs, "fog": 0.5 * probs + 0.25}
    np.savez(tmp_path / "p.npz", **data)  # type: ignore[arg-type]
    ask: dict[str, Any] = {"sources": ["softmax"], "replicates": 50}
    found = [tq.trust(own, **ask).metrics for own in (tmp_path / "p.npz", data)]
    for name in found[0]:
        np.testing.assert_array_equal(found[0][name], found[1][name])
    assert (
        found[0]["value"][found[0]["metric"] == "accuracy"][0] == ((clean > 0.5) == labels).mean()
    )


def test_one_name_stands_for_a_list_of_it(tmp_path: Path) -> None:
    labels = np.arange(60) % 2
    probs = np.where(np.eye(2)[labels] == 1, 0.8, 0.2)
    probs[:5] = probs[:5, ::-1]
    ids = [f"s{i}" for i in range(60)]
    meta = tmp_path / "meta.csv"
    meta.write_text("sample_id,sex\n" + "".join(f"s{i},{'mf'[i // 30]}\n" for i in range(60)))
    data = {"labels": labels, "probs": probs, "sample_ids": ids}
    read = tq.read_predictions(data, meta=str(meta), columns="sex")
    more = {"slices": "sex", "positive": "1", "replicates": 20}
    found = tq.evaluate(read, **more).report
    assert [row["value"] for row in found["slices"]["sex"]] == ["f", "m"]
    several = tq.evaluate(read, slices=["sex"], positive=["1"], replicates=20).report
    assert repr(found) == repr(several)
    other = data | {"sample_ids": [f"o{i}" for i in range(60)], "probs": probs[::-1, ::-1]}
    assert len(tq.evaluate(read, external=other, replicates=20).report["external"]) == 1
    assert len(tq.trust(read, slices="sex", sources="softmax", replicates=20).metrics) > 0


def test_columns_of_pyarrow_name_classes() -> None:
    rng = np.random.default_rng(0)
    names = ["nv", "mel", "bkl"]
    labels = rng.integers(3, size=60)
    probs = rng.dirichlet(np.ones(3), size=60)
    probs[np.arange(60), labels] += 1
    probs /= probs.sum(axis=1, keepdims=True)
    right = tq.label_quality(labels, probs)
    pyarrow = pytest.importorskip("pyarrow")
    table = pyarrow.table({name: probs[:, j] for j, name in enumerate(names)})
    texts = np.array(names)[labels]
    assert np.array_equal(tq.label_quality(texts, table), right)


def test_bytes_of_hdf5_are_texts_and_parts_are_told_to_be_joined() -> None:
    labels, names = np.arange(30) % 3, np.array(["nv", "mel", "bkl"])
    probs = np.eye(3)[labels] * 0.8 + 0.2 / 3
    stored = np.array([name.encode() for name in names[labels]], dtype=object)
    data = {"labels": stored, "probs": probs, "classes": names}
    assert tq.evaluate(data, replicates=20).metrics["value"][0] == 1.0
    parts = [labels[:20], labels[20:]]
    with refused(
        "labels is a list of parts of several lengths: join them by np.concatenate or torch.cat."
    ):
        tq.evaluate({"labels": parts, "probs": probs}, replicates=20)


def test_pages_call_data_in_memory_by_what_they_are() -> None:
    labels = np.arange(40) % 2
    probs = np.where(np.eye(2)[labels] == 1, 0.8, 0.2)
    arrays = {"labels": labels, "probs": probs}
    frame = pandas.DataFrame({"label": labels, "prob_0": probs[:, 0], "prob_1": probs[:, 1]})
    for data, name in ((arrays, "mapping of arrays"), (frame, "data frame")):
        found = tq.evaluate(data, replicates=20)
        assert found.page.startswith(f"{name}: 40 rows") and found.report["source"] == name
        judged = tq.trust(data, sources=["softmax"], replicates=20)
        assert judged.page.startswith(f"{name}: 40 rows")


def test_a_table_in_a_notebook_has_a_dash_for_no_number() -> None:
    assert "<td>-</td>" in Table({"lower": np.array([np.nan])})._repr_html_()
