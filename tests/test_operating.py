"""Operating points without validation rows, ECE conventions, groups, noisy validation labels."""

import importlib.util
import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from support import make_cache, refused
from trustq.cli import app
from typer.testing import CliRunner

from trustq.evaluation.evaluate import evaluate
from trustq.evaluation.predictions import Predictions
from trustq.experiments import repair
from trustq.extraction.inputs import medmnist_c
from trustq.extraction.inputs.corruptions import CORRUPTIONS, Corruption
from trustq.metrics.ece_conventions import ECE_CONVENTIONS, all_ece_conventions, ece_by
from trustq.metrics.operating_points import (
    crossfitted_points,
    group_table,
    threshold_sweep,
    top_k_accuracies,
)
from trustq.recipes import Recipe, SweepRecipe
from trustq.results import run_query

HAS_NETCAL = importlib.util.find_spec("netcal") is not None


def drawn(n: int = 400, k: int = 4, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    probs = rng.dirichlet(np.full(k, 0.4), n)
    labels = np.array([rng.choice(k, p=row) for row in probs])
    probs[:3] = np.eye(k)[:3]  # confidences of exactly 1
    return labels, probs


# --- ECE by convention ----------------------------------------------------------------------------


@pytest.mark.skipif(not HAS_NETCAL, reason="needs trustq[calibration]")
def test_netcal_convention_is_that_of_netcal() -> None:
    from netcal.metrics import ECE

    labels, probs = drawn()
    assert ece_by("netcal", labels, probs) == pytest.approx(
        ECE(10).measure(probs, labels), abs=1e-12
    )


def test_guo_convention_is_the_loop_of_guo_s_code() -> None:
    labels, probs = drawn()
    probs[3] = 0.25  # a confidence below all others
    confidence, error = probs.max(axis=1), 0.0
    for lower, upper in itertools.pairwise(np.linspace(0, 1, 16)):
        inside = (confidence > lower) & (confidence <= upper)
        if inside.mean() > 0:
            right = (probs.argmax(axis=1) == labels)[inside].mean()
            error += np.abs(confidence[inside].mean() - right) * inside.mean()
    assert ece_by("guo", labels, probs) == pytest.approx(error, abs=1e-12)


@pytest.mark.parametrize(
    ("convention", "n_bins"), [("torchmetrics", 15), ("torch-uncertainty", 10)]
)
def test_binned_conventions_are_those_of_torchmetrics(convention: str, n_bins: int) -> None:
    code = pytest.importorskip("torchmetrics.functional.classification.calibration_error")
    import torch

    labels, probs = drawn()
    right = (probs.argmax(axis=1) == labels).astype(float)
    edges = torch.linspace(0, 1, n_bins + 1, dtype=torch.float64)
    # Its own sum over bins; its doors round to float32 first.
    own = code._ce_compute(torch.from_numpy(probs.max(axis=1)), torch.from_numpy(right), edges)
    assert ece_by(convention, labels, probs) == pytest.approx(float(own), abs=1e-9)


def test_classwise_convention_is_that_of_torch_uncertainty() -> None:
    code = pytest.importorskip("torch_uncertainty.metrics.classification.calibration")
    import torch

    labels, probs = drawn()
    own = code.ClasswiseCalibrationError(num_classes=4, num_bins=15)
    own.update(torch.from_numpy(probs), torch.from_numpy(labels))
    assert ece_by("classwise", labels, probs) == pytest.approx(float(own.compute()), abs=1e-9)


def test_smooth_convention_is_that_of_relplot() -> None:
    code = pytest.importorskip("relplot.metrics")
    labels, probs = drawn()
    right = (probs.argmax(axis=1) == labels).astype(float)
    own = float(code.smECE(probs.max(axis=1), right))
    assert ece_by("smooth", labels, probs) == pytest.approx(own, abs=1e-9)


def test_chosen_conventions_stand_beside_ours_with_their_spread(tmp_path: Path) -> None:
    labels, probs = drawn(300)
    np.savez(tmp_path / "p.npz", labels=labels, probs=probs)

    def shown(*words: str) -> Any:
        words = ("evaluate", str(tmp_path / "p.npz"), "--calibrate", "cv:2", *words)
        return CliRunner().invoke(app, list(words))

    done = shown("--ece", "guo,smooth", "--out", str(tmp_path / "e"))
    assert done.exit_code == 0, done.output
    rows = [words for line in done.stdout.splitlines() if len(words := line.split()) > 1]
    lines = {words[0]: words[1] for words in rows}
    every = all_ece_conventions(labels, probs)
    for name in ("guo", "smooth"):
        assert lines[f"ece:{name}"] == f"{every[name]:.4f}"
    assert lines["ece:spread"] == f"{max(every.values()) - min(every.values()):.4f}"
    assert (
        "ece:netcal" not in lines and done.stdout.strip() in (tmp_path / "e/page.txt").read_text()
    )
    assert "ece:netcal" in shown("--ece", "all").stdout and "ece:guo" not in shown().stdout
    wrong = shown("--ece", "mine")
    assert wrong.exit_code == 1 and "'mine': expected one of guo, torchmetrics" in wrong.output


def test_conventions_differ_where_confidences_lie_on_edges() -> None:
    labels = np.array([0, 0, 1, 1])
    probs = np.array([[1.0, 0.0], [0.96, 0.04], [0.6, 0.4], [0.62, 0.38]])
    # .6 is the end of a bin of Guo's, with .58 to .6, and the start of one for the others.
    assert ece_by("guo", labels, probs) == pytest.approx((0.04 + 0.6 + 0.62) / 4)
    apart = ece_by("torchmetrics", labels, probs), ece_by("netcal", labels, probs)
    assert apart == pytest.approx(((0.04 + 0.6 + 0.62) / 4, (0.04 + 1.22) / 4))
    with refused(
        "convention is 'mine': expected one of guo, torchmetrics, netcal, torch-uncertainty, "
        "classwise, smooth."
    ):
        ece_by("mine", labels, probs)


def test_smooth_convention_is_small_for_calibrated_and_large_for_sure_and_wrong() -> None:
    rng = np.random.default_rng(1)
    top = rng.uniform(0.5, 1, 5000)
    labels = (rng.random(5000) > top).astype(int)
    probs = np.column_stack([top, 1 - top])
    assert ece_by("smooth", labels, probs) < 0.03
    wrong = np.column_stack([np.full(500, 0.95), np.full(500, 0.05)])
    assert ece_by("smooth", np.ones(500, int), wrong) > 0.5
    assert list(all_ece_conventions(labels, probs)) == list(ECE_CONVENTIONS)


# --- thresholds -----------------------------------------------------------------------------------


def test_a_threshold_of_a_row_does_not_depend_on_its_fold() -> None:
    rng = np.random.default_rng(2)
    truth = rng.random(300) < 0.4
    score = rng.random(300) + 0.5 * truth
    fold = np.arange(300) % 5
    found = crossfitted_points(truth, score, fold=fold)
    flipped = truth.copy()
    flipped[fold == 2] = ~flipped[fold == 2]
    other = crossfitted_points(flipped, score, fold=fold)
    # Row by row, by hand: what is called in fold 2 is as before.
    held = fold == 2
    negatives = np.sort(score[~held & ~truth])
    candidates = np.unique(score[~held])
    reached = np.array([(negatives < t).mean() for t in candidates])
    threshold = candidates[reached >= 0.95][0]
    called = held & (score >= threshold)
    hits = {True: 0, False: 0}
    for own in (True, False):
        labels = truth if own else flipped
        hits[own] = int((called & labels).sum())
    assert hits[True] + hits[False] == called.sum()
    assert found[0].n_positive == truth.sum() and other[0].n_positive == flipped.sum()
    assert 0.9 < found[0].specificity <= 1


def test_evaluation_cross_fits_points_and_guarantee_with_the_temperature() -> None:
    labels, probs = drawn(600)
    rows = Predictions(
        "p",
        ("a", "b", "c", "d"),
        labels,
        None,
        probs,
        np.arange(600).astype(str),
        True,
        groups=np.arange(600) // 2,
        columns={"sex": np.array(["f", "m", None] * 200, dtype=object)},
    )
    report = evaluate(rows, folds=5, positive=["b"], slices=["sex"], replicates=20).report
    point = report["positive"]["sens_at_95_spec"]
    assert 0.85 < point["specificity"] <= 1 and report["positive"]["folds"] == 5
    assert len(report["positive"]["operating_points"]) == 5
    assert [p["threshold"] for p in report["positive"]["thresholds"]] == [0.1, 0.2, 0.3, 0.4, 0.5]
    assert report["guarantee"]["folds"] == 5 and len(report["guarantee"]["thresholds"]) == 5
    assert {row["group"] for row in report["groups"]["sex"]} == {"f", "m", "unknown"}
    assert report["top_k"]["top_1"] < report["top_k"]["top_2"] < report["top_k"]["top_3"] < 1
    conventions = report["uncalibrated"]["ece_conventions"]
    own = [value for name, value in conventions.items() if name != "spread"]
    assert conventions["spread"] == max(own) - min(own)


def test_group_figures_equal_plain_code_and_lonely_groups_are_left_out() -> None:
    labels, probs = drawn(200, 3, seed=3)
    names = np.array(["a"] * 100 + ["b"] * 99 + ["c"])
    table = group_table(labels, probs, names, order=["a", "b", "c"], positive=[1, 2])
    assert [row["group"] for row in table] == ["a", "b"]
    own, said = names == "b", probs.argmax(axis=1)
    truth, called = np.isin(labels, [1, 2])[own], np.isin(said, [1, 2])[own]
    score = probs[:, 1:].sum(axis=1)[own]
    pairs = score[truth][:, None] - score[~truth][None]
    row = table[1]
    assert row["sensitivity"] == called[truth].mean()
    assert row["specificity"] == (~called)[~truth].mean()
    assert row["precision"] == truth[called].mean()
    assert row["auroc"] == pytest.approx(((pairs > 0) + 0.5 * (pairs == 0)).mean())
    recalls = [(said[own] == c)[labels[own] == c].mean() for c in np.unique(labels[own])]
    assert row["balanced_accuracy"] == pytest.approx(np.mean(recalls))
    sweep = threshold_sweep(np.isin(labels, [1, 2]), probs[:, 1:].sum(axis=1))
    assert [point.sensitivity for point in sweep] == sorted(
        (point.sensitivity for point in sweep), reverse=True
    )
    assert top_k_accuracies(labels, probs)["top_1"] == (said == labels).mean()


# --- MedMNIST-C -----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [name for name in CORRUPTIONS if name.startswith("mc-")])
def test_every_medmnist_c_corruption_changes_an_image_and_depends_on_its_id_alone(name) -> None:
    y, x = np.mgrid[0:224, 0:224]
    pixels = np.stack([120 + 60 * np.sin(x / 9), 90 + 50 * np.cos(y / 7), 80 + x / 4], axis=2)
    image = Image.fromarray(pixels.astype(np.uint8))
    found = Corruption(name)(image, "ISIC_1")
    assert found.size == image.size and found.tobytes() != image.tobytes()
    assert Corruption(name)(image, "ISIC_1").tobytes() == found.tobytes()


def test_medmnist_c_noise_is_cut_off_as_in_its_package() -> None:
    image = Image.new("RGB", (224, 224), (128, 128, 128))
    state = np.random.RandomState(0)
    found = np.asarray(medmnist_c.corrupted(image, "gaussian_noise", 0.08, state)).astype(int)
    noise = np.random.RandomState(0).normal(size=(224, 224, 3), scale=0.08)
    plain = (np.clip(128 / 255 + noise, 0, 1) * 255).astype(np.uint8)
    assert np.abs(found - plain).max() == 0


# --- noise on validation labels -------------------------------------------------------------------


def test_noise_on_validation_labels_spoils_the_temperature_and_the_correction_mends_it(
    tmp_path: Path,
) -> None:
    cache = make_cache(n=3000, separation=2.5)
    base = SweepRecipe(noise="symmetric:0.3", arms=("none",), regularisation="0.01", draws=2)
    temperatures = {}
    for asked in ("", "same", "same,corrected"):
        recipe = Recipe(sweep=SweepRecipe(**(vars(base) | {"validation_noise": asked})))
        repair([cache], recipe=recipe, results=tmp_path / "r")
        where = f"= '{asked}'" if asked else "IS NULL"
        temperatures[asked] = run_query(
            tmp_path / "r",
            f"""SELECT avg(temperature), min(calibration_labels), max(n_clean_validation)
            FROM rounds r JOIN runs c ON c.key = r.run WHERE validation_noise {where}""",
        ).rows[0]
    clean, plain, corrected = (temperatures[name][0] for name in ("", "same", "same,corrected"))
    assert plain > 1.3 * clean and abs(corrected - clean) < 0.3 * (plain - clean)
    assert temperatures["same"][1].startswith("noisy labels (same) of")
    assert temperatures["same"][2] == 0 < temperatures[""][2]
    with refused(
        "validation_noise=same: the training noise is 'none', which cannot be drawn for other "
        "rows. Name one that can, e.g. `validation_noise=symmetric:0.2`."
    ):
        sweep = SweepRecipe(noise="none", arms=("none",), validation_noise="same")
        repair([cache], recipe=Recipe(sweep=sweep), results=tmp_path / "r")
