"""`trustq evaluate` and `trustq compare`: the page, JSON, files and pictures, and bad input."""

import csv
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from support import make_cache, refused
from support_cli import invoke

import trustq as tq
from trustq.core.columns import write_parquet
from trustq.errors import TrustqError
from trustq.evaluation.compare_models import NO_SIGN_FLIP, compare_models, comparison_page
from trustq.evaluation.evaluate import evaluate
from trustq.evaluation.predictions import Predictions, read_predictions
from trustq.evaluation.shift_stages import STAGES, shift_figures
from trustq.metrics.classification import summarise
from trustq.metrics.probabilities import softmax
from trustq.report.evaluation import evaluation_page, write_evaluation
from trustq.report.plots import new_canvas, save_plot
from trustq.statistics.paired import mcnemar_test
from trustq.store import write_cache


def simulated(n=300, k=3, seed=0, scale=3.0, **fields):
    rng = np.random.default_rng(seed)
    logits = rng.normal(size=(n, k)) * 2
    labels = (logits + rng.gumbel(size=(n, k))).argmax(axis=1)
    part = np.where(np.arange(n) % 3 == 0, "val", "test")
    values = {
        "source": "p.npz",
        "classes": ("a", "b", "c")[:k],
        "labels": labels,
        "logits": scale * logits,
        "probs": None,
        "sample_ids": np.array([f"s{i}" for i in range(n)]),
        "has_ids": True,
        "groups": np.array([f"g{i // 6}" for i in range(n)]),
        "split": part,
    }
    return Predictions(**(values | fields))


def save(path, rows, **arrays):
    given = {"labels": rows.labels, "logits": rows.logits, "sample_ids": rows.sample_ids}
    np.savez(path, **given, groups=rows.groups, split=rows.split, classes=rows.classes, **arrays)
    return path


def test_a_class_that_is_never_predicted_has_a_dash_for_its_precision():
    rng = np.random.default_rng(0)
    labels = np.array([0] * 60 + [1] * 20 + [2] * 4)
    logits = np.column_stack([5 + rng.random(84), rng.standard_normal((84, 2))])
    page = evaluation_page(
        evaluate(
            Predictions(
                source="test",
                classes=("a", "b", "c"),
                labels=labels,
                logits=logits,
                probs=None,
                sample_ids=np.arange(84).astype(str),
                has_ids=False,
                groups=np.arange(84).astype(str),
            )
        )
    )
    lines = {line.split()[0]: line for line in page.splitlines() if line[:2] in ("a ", "b ", "c ")}
    assert "nan" not in page
    assert lines["b"].split()[2:6] == ["0.000", "[0.000,", "0.161]", "-"]
    # None of the two that have no interval is alike in all rows: their classes are small.
    assert "No interval: macro_auroc, macro_auprc, for a class has fewer than 10 rows." in page


def test_figures_are_of_test_rows_and_the_temperature_of_validation_rows():
    rows = simulated()
    found = evaluate(rows, replicates=50).report
    test = rows.split == "test"
    expected = summarise(rows.labels[test], logits=rows.logits[test]).figures
    uncalibrated = found["uncalibrated"]["figures"]
    assert {name: uncalibrated[name]["value"] for name in expected} == expected
    assert (found["n"], found["n_validation"]) == (200, 100)
    assert found["calibrator"]["temperature"] == pytest.approx(3, rel=0.4)
    assert found["calibrated"]["figures"]["ece"]["value"] < uncalibrated["ece"]["value"]
    assert list(found).index("uncalibrated") < list(found).index("calibrated")


def test_without_validation_rows_nothing_is_fitted():
    found = evaluate(simulated(split=None), replicates=20)
    assert found.report["calibrated"] is None and found.report["guarantee"] is None
    assert "never fitted on the rows it is judged on" in found.report["calibrated_reason"]
    assert "No calibrated figures: there are no validation rows" in evaluation_page(found)


def test_cross_fitting_keeps_groups_whole_and_crosses_thresholds_as_well():
    found = evaluate(simulated(split=None), folds=5, positive=["a"], replicates=20).report
    assert found["calibrator"]["fitted_on"] == "5 folds by group, cross-fitted"
    assert (
        found["calibrated"]["figures"]["nll"]["value"]
        < (found["uncalibrated"]["figures"]["nll"]["value"])
    )
    assert found["positive"]["reason"] is None and found["positive"]["folds"] == 5
    assert 0.85 < found["positive"]["sens_at_95_spec"]["specificity"] <= 1


def test_calibration_on_another_data_set_is_fitted_there():
    other = simulated(
        seed=5, scale=1.0, split=None, sample_ids=np.array([f"o{i}" for i in range(300)])
    )
    found = evaluate(simulated(split=None), calibrate_on=other, replicates=20).report
    # Fitted where the logits are calibrated, reported where they are three times too sharp.
    assert found["calibrator"]["temperature"] == pytest.approx(1, rel=0.3)
    assert found["notes"] == [
        "300 test rows share a group with calibration rows, which flatters calibration"
    ]


def test_calibration_on_noisy_labels_is_refused_or_corrected(tmp_path):
    rows = simulated(n=3000)
    held = rows.split == "val"
    flipped = held & (np.random.default_rng(0).random(3000) < 0.3)
    noisy = replace(rows, labels=np.where(flipped, (rows.labels + 1) % 3, rows.labels))
    cyclic = 0.7 * np.eye(3) + 0.3 * np.roll(np.eye(3), 1, axis=1)
    with pytest.raises(TrustqError, match="^TemperatureScaling was given labels known to be noisy"):
        evaluate(noisy, labels_used="noisy", replicates=10)
    with pytest.raises(TrustqError) as error:
        evaluate(noisy, noise_matrix=cyclic, calibrator="vector", replicates=10)
    assert str(error.value) == "A noise matrix corrects temperature scaling, not vector."
    fitted = [
        evaluate(*arguments, replicates=10, **options).report["calibrator"]
        for arguments, options in (
            ([rows], {}),
            ([noisy], {"labels_used": "noisy", "noise_matrix": cyclic}),
            ([noisy], {}),
        )
    ]
    clean, corrected, plain = (own["temperature"] for own in fitted)
    assert corrected == pytest.approx(clean, rel=0.15) and plain > 1.5 * clean
    assert [own["labels_used"] for own in fitted] == ["clean", "noisy, corrected", "clean"]
    path = save(tmp_path / "p.npz", noisy)
    answer = invoke("evaluate", [path, "--noise", "symmetric:0.3", "--replicates", 10, "--json"])
    assert json.loads(answer.stdout)["calibrator"]["labels_used"] == "noisy, corrected"


@pytest.mark.parametrize(
    ("command", "options", "message"),
    [
        ("evaluate", ["--noise", "symmetric:0.1"], "nothing is calibrated: leave out"),
        ("evaluate", ["--of-class", "zzz"], "unknown class 'zzz'"),
        ("trust", ["--noise", "symmetric:0.1"], "on which no head can be fitted: leave out"),
        ("trust", ["--of-class", "zzz"], "unknown class 'zzz'"),
        ("compare", ["--split", "val"], "`split`: not used beside files of predictions"),
        ("compare", ["--budget", "5%", "--where", "x"], "`budget`, `where`: not used beside files"),
        ("compare", ["--arms", "a,b", "--same-rows"], "`same_rows`: not used beside --arms"),
        ("compare", ["--arms", "a,b", "--labels", "y"], "`labels`: not used beside --arms"),
        ("compare", ["--arms", "a,b", "--replicates", 9], "`replicates`: not used beside --arms"),
        ("compare", ["--arms", "a,b", "--json", "--format", "csv"], "`format`: not used beside"),
    ],
)
def test_options_that_would_be_ignored_are_refused(tmp_path, command, options, message):
    path, rows = tmp_path / "p.npz", simulated(split=None)
    np.savez(path, logits=rows.logits, labels=rows.labels)
    files = [path] if command != "compare" else [f"A={path}", f"B={path}"]
    answer = invoke(command, [*([] if "--arms" in options else files), *options])
    assert isinstance(answer.exception, TrustqError) and message in str(answer.exception)


def test_slices_gaps_and_conditions_are_reported():
    rows = simulated(
        columns={
            "sex": np.array(["f", "m", None] * 100, dtype=object),
            "age": np.linspace(0, 90, 300),
        },
        conditions={"blurred": softmax(simulated(seed=3).logits)},
    )
    found = evaluate(rows, slices=["sex"], ages="age", positive=["b", "c"], replicates=30)
    report = found.report
    assert [row["value"] for row in report["slices"]["sex"]] == ["m", "unknown"]
    assert [row["value"] for row in report["slices"]["age"]] == ["<30", "30-50", "50-70", "70+"]
    assert sum(row["n"] for row in report["slices"]["age"]) == report["n"]
    assert set(report["gaps"]) == {"sex", "age"}
    assert report["positive"]["sens_at_95_spec"]["n_positive"] > 0
    assert len(report["positive"]["operating_points"]) == 5
    assert report["conditions"]["blurred"]["accuracy"]["difference"] < -0.2
    page = evaluation_page(found)
    for part in ("Sens@95Spec", "Equalised odds by sex, without unknown", "Slices of age"):
        assert part in page


@pytest.mark.parametrize("skill", [0.1, 1.5])
def test_legends_lie_on_no_curve(tmp_path, monkeypatch, skill):
    rng = np.random.default_rng(0)
    labels = (rng.random(300) < 0.1).astype(int)
    margins = skill * (2 * labels - 1) + rng.normal(size=300)
    logits = np.stack([-margins, margins], axis=1)
    drawn = {}
    monkeypatch.setattr(
        "trustq.report.evaluation.save_plot", lambda figure, path: drawn.update({path.name: figure})
    )
    found = evaluate(simulated(k=2, labels=labels, logits=logits), replicates=5)
    write_evaluation(found, tmp_path / "out", of_class="b")
    for name in ("reliability.png", "precision_recall.png", "risk_coverage.png"):
        figure = drawn[name]
        figure.draw_without_rendering()
        axes = figure.axes[0]
        box = axes.get_legend().get_window_extent()
        for line in axes.get_lines():
            path = line.get_path().interpolated(9)
            points = line.get_transform().transform(path.vertices)
            if len(points) > 20:  # neither chance nor the diagonal
                assert not any(box.contains(*point) for point in points), name


@pytest.mark.parametrize("of_class", [None, "b"])
def test_everything_is_written_and_errors_are_sorted(tmp_path, of_class):
    found = evaluate(simulated(), replicates=20)
    paths = write_evaluation(found, tmp_path / "out", of_class=of_class)
    assert [path.name for path in paths] == [
        "page.txt",
        "report.json",
        "curves.csv",
        "errors.csv",
        "reliability.png",
        "risk_coverage.png",
        "confusion.png",
        "precision_recall.png",
    ]
    assert all(path.stat().st_size > 200 for path in paths)
    with open(tmp_path / "out" / "errors.csv", newline="") as file:
        errors = list(csv.DictReader(file))
    assert len(errors) == found.stages[-1].wrong.sum()
    confidence = [float(row["confidence"]) for row in errors]
    assert confidence == sorted(confidence, reverse=True)
    assert all(row["truth"] != row["top_1"] for row in errors)
    assert confidence == [float(row["probability_1"]) for row in errors]
    with open(tmp_path / "out" / "curves.csv", newline="") as file:
        curves = list(csv.DictReader(file))
    assert {row["stage"] for row in curves} == {"uncalibrated", "calibrated"}
    assert len(curves) == 400  # every threshold of two stages


def test_the_command_prints_a_page_or_json(tmp_path):
    path = save(tmp_path / "p.npz", simulated())
    page = invoke("evaluate", [path, "--replicates", 20, "--out", tmp_path / "out"])
    assert page.exit_code == 0, page.exception
    assert "top-label, 15 bins of equal width, L1" in page.stdout
    assert "AURC by convention" in page.stdout and "Research only" in page.stdout
    assert (tmp_path / "out" / "page.txt").read_text() == page.stdout
    answer = invoke("evaluate", [path, "--replicates", 20, "--json"])
    report = json.loads(answer.stdout)
    assert report["uncalibrated"]["figures"]["accuracy"]["value"] > 0.5
    assert report["ranking"] == "log_odds"


@pytest.mark.parametrize(
    "rows",
    [
        simulated(n=1, split=None, groups=None),
        simulated(labels=np.zeros(300, int), split=None),
        simulated(labels=simulated().logits.argmax(axis=1), split=None),
        simulated(labels=simulated().logits.argmin(axis=1), split=None),
    ],
    ids=["one row", "one class", "all right", "all wrong"],
)
def test_degenerate_rows_have_a_page_and_pictures(tmp_path, rows):
    found = evaluate(rows, positive=["a"], replicates=20)
    assert len(evaluation_page(found)) > 500
    write_evaluation(found, tmp_path)
    json.loads((tmp_path / "report.json").read_text())


def test_bad_evaluations_are_refused(tmp_path):
    rows = simulated()
    bad = [
        (
            {"slices": ["sex"]},
            "There is no column sex to slice by: read the predictions with it (`columns=sex`).",
        ),
        ({"positive": ["d"]}, "unknown class 'd'; expected one of a, b, c."),
        (
            {"calibrator": "platt"},
            "calibrator 'platt' is unknown: expected one of temperature, vector, "
            "netcal-isotonic, netcal-beta, netcal-histogram, netcal-bbq, netcal-enir, "
            "sklearn-sigmoid, sklearn-isotonic, sklearn-temperature.",
        ),
        (
            {"calibrate_on": simulated(split=None)},
            "200 of 300 rows of p.npz are rows of p.npz too, e.g. s1: calibrate on other rows.",
        ),
        (
            {"calibrate_on": rows, "folds": 5},
            "Calibrate on a file or by cross-fitting, not both.",
        ),
        (
            {"calibrate_on": replace(rows, classes=("x", "y", "z"))},
            "p.npz has the classes x, y, z and p.npz a, b, c: calibrate on the same classes, or "
            "name them alike (`classes`) if they are the same in this order.",
        ),
    ]
    for options, message in bad:
        with pytest.raises(TrustqError) as error:
            evaluate(rows, **options)
        assert str(error.value) == message
    with pytest.raises(TrustqError) as error:
        evaluate(simulated(split=np.full(300, "train")))
    assert str(error.value) == (
        "p.npz has no rows of split test, only train: call the rows to judge test, or leave the "
        "column of splits out."
    )
    path = save(tmp_path / "p.npz", rows)
    answer = invoke("evaluate", [path, "--calibrate", "5"])
    assert str(answer.exception) == "--calibrate 5: expected cv:K with K folds, e.g. cv:5."


def test_models_are_joined_by_id_whatever_their_order():
    a, b = simulated(split=None), simulated(split=None)
    b = replace(b, logits=b.logits + np.random.default_rng(1).normal(size=b.logits.shape) * 4)
    found = compare_models({"A": a, "B": b}, replicates=100)
    shuffled = b.take(np.random.default_rng(2).permutation(300))
    assert compare_models({"A": a, "B": shuffled}, replicates=100) == found
    (pair,) = found.pairs
    assert pair.figures["accuracy"].difference == pytest.approx(
        np.mean(a.logits.argmax(axis=1) == a.labels) - np.mean(b.logits.argmax(axis=1) == a.labels)
    )
    wrong = [one.logits.argmax(axis=1) != one.labels for one in (a, b)]
    assert pair.mcnemar == mcnemar_test(*wrong)
    assert (found.n, found.n_groups) == (300, 50)
    fewer = compare_models({"A": a, "B": b.take(np.arange(200))}, replicates=20)
    assert fewer.n == 200
    assert fewer.notes[0] == ("rows that not all models have were left out: 100 of A, 0 of B")


def test_rows_that_have_ids_are_the_same_rows_by_these_and_near_ids_are_told():
    a = replace(simulated(split=None), groups=None)
    order = np.lexsort((np.random.default_rng(0).random(300), a.labels))  # labels agree
    b = a.take(order)
    a = b.take(np.lexsort((b.sample_ids, b.labels)))
    row = int((a.sample_ids != b.sample_ids).argmax())
    moved, other = b.sample_ids[row], int((a.sample_ids == b.sample_ids[row]).argmax())
    with refused(
        f"`same_rows`: {moved} is row {row + 1} of B and row {other + 1} of A. Leave `same_rows` "
        "out, and rows are joined by id; or leave the ids out of one file, where they name other "
        "things."
    ):
        compare_models({"A": a, "B": b}, same_rows=True, replicates=20)
    renamed = replace(b, sample_ids=np.char.add("other", b.sample_ids))
    assert compare_models({"A": a, "B": renamed}, same_rows=True, replicates=20).n == 300
    numbers = replace(b, sample_ids=np.arange(300).astype(str))
    padded = replace(b, sample_ids=np.array([f"{row:03d}" for row in range(300)]))
    found = compare_models({"A": numbers, "B": padded}, replicates=20)
    assert found.notes[0] == (
        "rows that not all models have were left out: 100 of A, 100 of B (100 differ in spelling "
        "alone from ids that are there, e.g. '0' and '000')"
    )


def test_two_models_of_one_table_are_compared(tmp_path):
    rows = simulated(split=None)
    table = {"sample_id": rows.sample_ids, "label": rows.labels.astype(str)}
    for name, scores in (("a", rows.of_rows()), ("b", rows.of_rows()[:, ::-1])):
        table |= {f"{name}_{j}": scores[:, j] for j in range(3)}
    write_parquet(tmp_path / "both.parquet", table)
    answer = invoke(
        "compare",
        [*(f"{n}={tmp_path}/both.parquet:{n}_" for n in "ab"), "--json", "--replicates", "20"],
    )
    figures = json.loads(answer.stdout)["pairs"][0]["figures"]["accuracy"]
    right = (rows.logits.argmax(axis=1) == rows.labels).mean()
    turned = (rows.logits[:, ::-1].argmax(axis=1) == rows.labels).mean()
    assert (figures["a"], figures["b"]) == (pytest.approx(right), pytest.approx(turned))


def test_compare_judges_the_test_rows_that_evaluate_judges():
    a = simulated(split=np.tile(["train", "val", "test"], 100))
    worse = a.logits.copy()
    worse[a.split == "train"] = 0.0  # what happens on training rows changes nothing
    b = replace(a, logits=worse)
    found = compare_models({"A": a, "B": b}, replicates=20)
    assert found.n == (a.split == "test").sum() == evaluate(a, replicates=20).report["n"]
    assert found.pairs[0].figures["accuracy"].difference == 0
    note = "test rows are compared, and no others: 100 of 300 of A, 100 of 300 of B"
    assert note in found.notes
    by_place = compare_models({"A": a, "B": b}, same_rows=True, replicates=20)
    assert by_place.pairs == found.pairs
    unsplit = compare_models({"A": a, "B": replace(b, split=None)}, replicates=20)
    assert unsplit.pairs == found.pairs
    assert "B has no split: which rows it was trained on is unknown" in unsplit.notes
    # Of the second model other rows are test rows: it was trained on those of the first.
    turned = {"train": "test", "test": "train", "val": "val"}
    other = replace(a, split=np.array([turned[name] for name in a.split]))
    for same_rows, message in (
        (
            False,
            "The models share ids and no test row: their splits differ, so that what is test for "
            "one was training or validation for another. Give both the same split.",
        ),
        (True, "The models share no test row: their splits differ."),
    ):
        with pytest.raises(TrustqError) as error:
            compare_models({"A": a, "B": other}, same_rows=same_rows)
        assert str(error.value) == message


def test_three_models_are_a_family():
    models = {name: simulated(seed=0, split=None) for name in "ABC"}
    for seed, name in enumerate("BC", start=1):
        noise = np.random.default_rng(seed).normal(size=(300, 3)) * 5
        models[name] = replace(models[name], logits=models[name].logits + noise)
    found = compare_models(models, replicates=20)
    assert [(pair.a, pair.b) for pair in found.pairs] == [("A", "B"), ("A", "C")]
    smallest = min(pair.mcnemar.p_value for pair in found.pairs)
    assert min(pair.p_holm for pair in found.pairs) == pytest.approx(2 * smallest)


def test_the_compare_command_says_why_there_is_no_sign_flip_test(tmp_path):
    a = save(tmp_path / "a.npz", simulated())
    b = save(tmp_path / "b.npz", simulated(), blurred=softmax(simulated(seed=1).logits))
    page = invoke("compare", [f"A={a}", f"B={b}", "--replicates", 50])
    assert page.exit_code == 0, page.exception
    assert NO_SIGN_FLIP in page.stdout.replace("\n", " ")
    assert max(map(len, page.stdout.splitlines())) <= 80
    assert "0 rows only A has right, 0 only B; exact p = 1" in page.stdout
    answer = invoke(
        "compare", [f"A={a}", f"B={b}", f"C={a}", "--replicates", 50, "--json", "--same-rows"]
    )
    found = json.loads(answer.stdout)
    assert found["sign_flip"] is None and len(found["pairs"]) == 2


def test_bad_comparisons_are_refused(tmp_path):
    a = simulated(split=None)
    other = replace(a, labels=(a.labels + 1) % 3)
    bad = [
        ({"A": a}, {}, "One model cannot be compared: pass two, as A=a.npz B=b.npz."),
        (
            {"A": a, "B": replace(a, has_ids=False)},
            {},
            "B (p.npz) has no ids to be joined by: name them (`sample_ids`), or say that all files "
            "have the same rows in the same order (`same_rows`).",
        ),
        (
            {"A": a, "B": other},
            {},
            f"A and B have other labels in 300 of 300 rows, first s0: {'abc'[a.labels[0]]} and "
            f"{'abc'[other.labels[0]]}. These are not the same rows, or one file is older.",
        ),
        (
            {"A": a, "B": replace(a, groups=np.roll(a.groups, 3))},
            {},
            f"A and B have other groups in {(np.roll(a.groups, 3) != a.groups).sum()} of 300 rows, "
            f"first s0: {a.groups[0]} and {a.groups[-3]}. Intervals resample groups, so give both "
            "the same.",
        ),
        (
            {"A": a, "B": replace(a, classes=("a", "b", "x"))},
            {},
            "A has the classes a, b, c and B a, b, x: give both the same classes, or name them "
            "alike (`classes`) if they are the same in this order.",
        ),
        (
            {"A": a, "B": a.take(np.arange(9))},
            {"same_rows": True},
            "`same_rows` needs as many rows in every file: A 300, B 9.",
        ),
        (
            {"A": a, "B": replace(a, sample_ids=np.array([f"t{i}" for i in range(300)]))},
            {},
            "The models share no id, e.g. s0 in A and t0 in B: spell the ids alike.",
        ),
    ]
    for models, options, message in bad:
        with pytest.raises(TrustqError) as error:
            compare_models(models, **options)
        assert str(error.value) == message
    path = save(tmp_path / "a.npz", a.take(np.arange(9)) if a.split is not None else simulated())
    for arguments, message in (
        ([path], f"'{path}' is not of the form NAME=FILE, e.g. A=a.npz."),
        ([f"A={path}", f"A={path}"], "Two models are called A: give each a name of its own."),
    ):
        answer = invoke("compare", arguments)
        assert str(answer.exception) == message


NAMES = {"labels": "dx", "probs": "MEL,NV,BCC,AKIEC,BKL,DF,VASC", "groups": "lesion_id"}


def test_public_predictions_have_their_published_accuracy(shared_data):
    derma = shared_data / "predictions_dermamnist" / "dermamnist_test_predictions.npz"
    for array, accuracy in (("ConvNeXtBase", 0.8948), ("ViTBase", 0.9057)):
        rows = read_predictions(derma, names={"labels": "y_true", "probs": array})
        found = evaluate(rows, replicates=10).report["uncalibrated"]["figures"]
        assert found["accuracy"]["value"] == pytest.approx(accuracy, abs=5e-5)
    shifts = shared_data / "predictions_ham10000_shifts" / "densenet_predictions.npz"
    rows = read_predictions(
        shifts, names={"labels": "y_true", "probs": "clean"}, conditions=["all"]
    )
    report = evaluate(rows, folds=5, replicates=50).report
    assert report["uncalibrated"]["figures"]["accuracy"]["value"] == pytest.approx(0.8277, abs=5e-5)
    accuracies = [own["accuracy"]["value"] for own in report["conditions"].values()]
    assert len(accuracies) == 14 and min(accuracies) == pytest.approx(0.667, abs=5e-4)
    assert max(accuracies) == pytest.approx(0.822, abs=5e-4)


def test_public_predictions_are_joined_to_lesions_and_skin_tone(shared_data):
    folder = shared_data / "predictions_ham10000_mobilenet"
    meta = [folder / "metadata.csv", shared_data / "ham10000" / "HAM10000_metadata.csv"]
    rows = read_predictions(
        folder / "predictions_01DataShift00Compare41.csv",
        names=NAMES,
        meta=meta,
        columns=["estimated_ita", "age"],
    )
    found = evaluate(rows, slices=["estimated_ita"], ages="age", replicates=20).report
    assert (found["n"], found["n_groups"]) == (2927, 2684)
    accuracy = found["uncalibrated"]["figures"]["accuracy"]["value"]
    assert accuracy == pytest.approx(0.725, abs=5e-4)
    assert len(found["slices"]["estimated_ita"]) == 4
    models = {
        name: read_predictions(
            folder / f"predictions_03DataShift{name}RP.csv", names=NAMES, meta=meta
        )
        for name in ("01", "03")
    }
    (pair,) = compare_models(models, replicates=50).pairs
    assert pair.figures["accuracy"].a == pytest.approx(0.590, abs=5e-4)
    assert pair.figures["accuracy"].b == pytest.approx(0.668, abs=1e-3)


def outside(seed=7, **fields):
    ids = np.array([f"o{i}" for i in range(300)])
    return simulated(seed=seed, source="o.npz", sample_ids=ids, split=None, **fields)


def test_external_rows_are_judged_with_what_was_fitted_inside():
    rows, other = simulated(), outside()
    # Another order of classes, in another case: they are matched by name.
    turned = replace(
        other, classes=("C", "b", "A"), labels=2 - other.labels, logits=other.logits[:, ::-1]
    )
    found = evaluate(rows, externals=[turned], replicates=20)
    report = found.report["external"]["o.npz"]
    assert list(report["stages"]) == ["uncalibrated", "calibrated", *STAGES]
    scaled = other.logits / found.report["calibrator"]["temperature"]
    expected = {
        "uncalibrated": summarise(other.labels, logits=other.logits).figures,
        "calibrated": summarise(other.labels, logits=scaled).figures,
    }
    val = rows.split == "val"
    expected |= shift_figures(
        other.labels,
        softmax(scaled),
        logits=other.logits,
        inside_labels=rows.labels[val],
        inside_calibrated=softmax(rows.logits[val] / found.report["calibrator"]["temperature"]),
    ).stages
    for stage, figures in expected.items():
        assert report["stages"][stage] == pytest.approx(figures), stage
    assert report["oracle_temperature"] == pytest.approx(3, rel=0.4)
    page = evaluation_page(found)
    assert "External o.npz: 300 rows" in page and "oracle_temperature: a temperature fitted" in page


def test_cross_fitted_rows_and_stored_probabilities_judge_external_rows_too():
    rows, other = simulated(split=None), outside()
    kept = other.labels != 1
    few = replace(other.take(np.flatnonzero(kept)), logits=None, probs=softmax(other.logits)[kept])
    report = evaluate(rows, folds=5, externals=[few], replicates=20).report["external"]["o.npz"]
    assert list(report["stages"]) == ["uncalibrated", "calibrated", *STAGES]
    assert report["absent"] == ["b"] and report["recall"]["b"] is None
    assert sum(report["frequencies"]["bbse"].values()) == pytest.approx(1)
    # Without a calibrator there is nothing to take outside.
    plain = evaluate(rows, externals=[few], replicates=20).report["external"]["o.npz"]
    assert list(plain["stages"]) == ["uncalibrated"] and plain["absent"] == ["b"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"classes": ("a", "b", "d")},
            "o.npz has the classes a, b, d and p.npz a, b, c: external rows go through the same "
            "model, or name them alike (`classes`) if they are the same in this order.",
        ),
        (
            {"sample_ids": np.array([f"s{i}" if i == 4 else f"o{i}" for i in range(300)])},
            "1 of 300 rows of o.npz are rows of p.npz too, e.g. s4, so they are no external test. "
            "Leave them out.",
        ),
    ],
)
def test_external_rows_that_are_none_are_refused(change, message):
    with pytest.raises(TrustqError) as error:
        evaluate(simulated(), externals=[replace(outside(), **change)], replicates=10)
    assert str(error.value) == message
    with pytest.raises(TrustqError) as error:
        evaluate(simulated(), externals=[outside(), outside(seed=8)], replicates=10)
    assert str(error.value) == "Two external files are called o.npz; rename one."


def test_a_target_is_a_column_whose_values_are_the_classes(tmp_path):
    rows, other = simulated(), outside()
    path, second = save(tmp_path / "p.npz", rows), tmp_path / "o.npz"
    np.savez(second, labels=other.labels, logits=other.logits, sample_ids=other.sample_ids)
    meta = tmp_path / "m.csv"
    with open(meta, "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["sample_id", "checked", "malignant"])
        for i, (name, label) in enumerate(zip(rows.sample_ids, rows.labels, strict=True)):
            writer.writerow([name, "" if i == 1 else "abc"[(label + (i == 2)) % 3], "benign"])
    given = [path, "--meta", meta, "--replicates", 10]
    plain = json.loads(invoke("evaluate", [*given, "--json"]).stdout)
    found = json.loads(invoke("evaluate", [*given, "--target", "checked", "--json"]).stdout)
    assert (plain["n"], found["n"]) == (200, 199)
    assert "1 row without checked was left out" in found["notes"]
    # One label is another one now, of a row that counts.
    right = [report["uncalibrated"]["figures"]["accuracy"]["value"] for report in (plain, found)]
    assert 200 * right[0] != 199 * right[1]
    refused = {
        "malignant": f"{path}: malignant is benign, and the probabilities are of a, b, c. A target "
        "needs a model of its classes: label a manifest by it (`trustq data target` "
        "with `column=malignant`), extract that and evaluate its cache.",
        "colour": f"{path} has no colour for the target; it has labels, logits, sample_ids, "
        "groups, split, classes, checked, malignant.",
    }
    for target, message in refused.items():
        assert str(invoke("evaluate", [*given, "--target", target]).exception) == message
    lacking = ["--meta", meta, "--target", "checked"]
    np.savez(second, labels=rows.labels, logits=rows.logits, sample_ids=rows.sample_ids)
    assert str(invoke("evaluate", [second, *lacking]).exception) == (
        f"{second} does not name the classes of its probabilities, so which of them a, b, c of "
        "checked are is not known: name them in their order (`classes=a,b,c`)."
    )
    named = [second, *lacking, "--classes", "a,b,c", "--replicates", 10]
    assert invoke("evaluate", named).exit_code == 0


def test_the_command_takes_any_number_of_external_files(tmp_path):
    path = save(tmp_path / "p.npz", simulated())
    others = []
    for seed in (7, 8):
        (tmp_path / str(seed)).mkdir()
        rows = outside(seed=seed)
        given = {"labels": rows.labels, "logits": rows.logits, "sample_ids": rows.sample_ids}
        others.append(tmp_path / str(seed) / "o.npz")
        np.savez(others[-1], classes=rows.classes, **given)
    options = [part for other in others for part in ("--external", other)]
    answer = invoke("evaluate", [path, *options, "--replicates", 10, "--json"])
    assert list(json.loads(answer.stdout)["external"]) == [str(other) for other in others]


def test_a_positive_set_is_judged_by_the_predicted_class_too(tmp_path: Path) -> None:
    names = np.array(["Nevus, Reed", "Carcinoma, invasive", "Nevus", "Other"])
    rng = np.random.default_rng(5)
    labels = rng.integers(0, 4, 300)
    logits = rng.normal(size=(300, 4)) + 2 * np.eye(4)[labels]
    probs = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    groups = np.repeat(np.arange(100), 3)
    path = tmp_path / "p.npz"
    np.savez(path, probs=probs, labels=names[labels], classes=names, groups=groups)
    found = evaluate(read_predictions(path), positive=("Carcinoma, invasive", "Other"))
    own = found.report["positive"]["predicted"]
    truth, called = np.isin(labels, (1, 3)), np.isin(probs.argmax(axis=1), (1, 3))
    assert own["sensitivity"] == pytest.approx(called[truth].mean(), abs=1e-12)
    assert own["specificity"] == pytest.approx((~called)[~truth].mean(), abs=1e-12)
    for name in ("sensitivity", "specificity"):
        low, high = own[f"{name}_interval"]
        assert 0 <= low < own[name] < high <= 1
    assert own["n_positive"] + own["n_negative"] == 300


def test_a_head_on_a_frozen_cache_is_judged_on_its_test_rows_and_views(tmp_path):
    """A head that answers with the shares of training labels, and one that learns the classes."""
    own = make_cache(n=600, separation=3.0)
    rng = np.random.default_rng(1)
    noise = rng.normal(size=own.features.shape).astype(np.float32)
    extra = {
        "views/noise-3/features": noise,
        "views/noise-3/parameters": np.array(['{"noise_sigma": 25.0}']),
    }
    cache = write_cache(tmp_path / "frozen.h5", replace(own, logits=None, extra=extra)).path

    def judged(head, *calibrate):
        asked = ["--head", head, *calibrate, "--conditions", "noise-3", "--json"]
        result = invoke("evaluate", [cache, *asked, "--replicates", 50])
        assert result.exit_code == 0, result.output
        return json.loads(result.stdout)

    train, test = own.split == "train", own.split == "test"
    most = np.bincount(own.label[train]).argmax()
    found = judged("majority", "--calibrate", "cv:2")
    shares = found["uncalibrated"]["figures"]["accuracy"]["value"]
    assert shares == pytest.approx((own.label[test] == most).mean())
    assert found["n"] == test.sum()
    assert found["conditions"]["noise-3"]["accuracy"]["difference"] == 0
    learned = judged("linear", "--calibrate", "cv:2")
    own_accuracy = learned["uncalibrated"]["figures"]["accuracy"]["value"]
    shifted = learned["conditions"]["noise-3"]["accuracy"]
    assert own_accuracy > 0.9 and shifted["value"] < 0.6
    assert shifted["difference"] == pytest.approx(shifted["value"] - own_accuracy)
    # Validation rows of the cache calibrate, as they do in a file of predictions.
    plain = judged("linear")
    assert plain["n"] == test.sum() and plain["uncalibrated"] == learned["uncalibrated"]
    assert plain["calibrator"]["fitted_on"] == "validation rows"
    assert plain["calibrator"]["n"] == (own.split == "val").sum()


def test_tables_of_a_page_fit_a_terminal() -> None:
    rows = simulated()
    groups = np.array(["from a clinic far away" if i % 2 else "near" for i in range(300)])
    rows = replace(rows, columns={"site": groups})
    conditions = {name: rows.of_rows() for name in ("gaussian_noise_s1", "motion_blur_s2")}
    found = evaluate(
        replace(rows, conditions=conditions),
        slices=["site"],
        positive=["a"],
        externals=[outside()],
        replicates=20,
    )
    page = evaluation_page(found, ece=["all"])
    tables = [line for line in page.splitlines() if line.count("  ") > 2]
    assert len(tables) > 40 and max(map(len, tables)) <= 80
    text = "\n".join(tables)
    assert all(word in text for word in ("auroc", "augrc", "ece:netcal", "motion_blur_s2"))


def test_labels_of_no_probability_are_said_to_be_floored_in_nll() -> None:
    rows = simulated(split=None)
    probs = rows.of_rows().copy()
    probs[:2] = np.eye(3)[(rows.labels[:2] + 1) % 3]
    stored = replace(rows, logits=None, probs=probs)
    note = (
        "the label has a probability below 1e-12 in 2 rows of p.npz, which count as 1e-12 in NLL: "
        "logits would give a larger one"
    )
    assert note in evaluate(stored, replicates=20).report["notes"]
    assert note in compare_models({"A": rows, "B": stored}, replicates=20).notes
    assert not rows.floor_notes()


def test_a_p_that_no_float_holds_is_not_0() -> None:
    rows = simulated(split=None)
    right = np.eye(3)[rows.labels] * 9
    many = {
        name: replace(rows, logits=logits).take(np.repeat(np.arange(300), 5))
        for name, logits in {"A": right, "B": -right}.items()
    }
    many = {n: replace(m, sample_ids=np.arange(1500).astype(str)) for n, m in many.items()}
    page = comparison_page(compare_models(many, replicates=20))
    assert "1,500 rows only A has right, 0 only B; exact p < 1e-300, Holm < 1e-300" in page


def test_a_title_with_a_long_name_is_within_its_picture(tmp_path: Path) -> None:
    figure, axes = new_canvas()
    axes.set_title("Reliability, 15 bins of equal width: " + "a_rather_long_name_of_a_file" * 2)
    save_plot(figure, tmp_path / "a.png")
    box = axes.title.get_window_extent()
    assert box.x0 >= 0 and box.x1 <= figure.bbox.x1 and axes.title.get_fontsize() > 4


def test_a_note_says_where_few_errors_decide_how_good_a_ranking_is() -> None:
    labels = np.arange(300) % 3
    probs = np.where(np.eye(3, dtype=bool)[labels], 0.8, 0.1)

    def notes(n_wrong, groups=None):
        own = probs.copy()
        own[:n_wrong] = probs[:n_wrong, [1, 2, 0]]
        rows = {"labels": labels, "probs": own} | ({} if groups is None else {"groups": groups})
        return " ".join(tq.evaluate(rows, replicates=20).report["notes"])

    assert "there are errors in 14 rows only: intervals of macro-AUROC" in notes(14)
    assert "there are errors in 5 groups only" in notes(50, np.arange(300) // 10)
    assert "errors in" not in notes(15) and "errors in" not in notes(0)
