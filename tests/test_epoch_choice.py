"""Noise on the labels that choose the epoch, and figures that are corrected for it."""

import os
from pathlib import Path

import numpy as np
import pytest

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

from support import refused
from support_extract import extract_one, tiny

from trustq.data.manifest import Manifest
from trustq.data.noise import parse_noise
from trustq.extraction.train.selection import (
    JudgingLabels,
    best_epoch,
    criterion_of,
    judging_labels,
)
from trustq.metrics.classification import summarise
from trustq.metrics.probabilities import log_softmax
from trustq.recipes import ExtractRecipe

CHECKPOINTS = ("best", "macro_f1", "macro_auroc", "auroc_f1", "ece")
NAMES = ("a", "b", "c")


def drawn(n: int = 3000, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    logits = 1.5 * rng.normal(size=(n, 3)) + [0.8, 0.0, -0.6]
    labels = (log_softmax(logits) + rng.gumbel(size=(n, 3))).argmax(axis=1)
    return labels, 1.6 * logits  # too sure, so that there is a calibration error


def plain(labels: np.ndarray, logits: np.ndarray, checkpoint: str) -> float:
    return JudgingLabels(labels).figure(criterion_of(checkpoint, labels), logits)


@pytest.mark.parametrize("checkpoint", CHECKPOINTS)
def test_without_noise_corrected_figures_are_the_plain_ones(checkpoint: str) -> None:
    labels, logits = drawn(400)
    criterion = criterion_of(checkpoint, labels)
    corrected = JudgingLabels(labels, np.eye(3)).figure(criterion, logits)
    assert corrected == pytest.approx(plain(labels, logits, checkpoint), abs=1e-10)
    figures = summarise(labels, logits=logits).figures
    own = {
        "best": figures["nll"],
        "macro_f1": figures["macro_f1"],
        "macro_auroc": figures["macro_auroc"],
        "auroc_f1": figures["macro_auroc"] + figures["macro_f1"],
        "ece": figures["ece"],
    }
    assert corrected == pytest.approx(own[checkpoint], abs=1e-10)


@pytest.mark.parametrize("checkpoint", ["macro_f1", "macro_auroc", "auroc_f1", "ece"])
def test_corrected_figures_are_right_on_average_where_plain_ones_are_not(checkpoint: str) -> None:
    labels, logits = drawn()
    # Not symmetric: a transposed matrix would not pass.
    matrix = np.array([[0.7, 0.3, 0.0], [0.05, 0.85, 0.1], [0.2, 0.0, 0.8]])
    criterion, truth = criterion_of(checkpoint, labels), plain(labels, logits, checkpoint)
    rng = np.random.default_rng(3)
    corrected, noisy = [], []
    for _ in range(60):
        observed = (rng.random((len(labels), 1)) > matrix[labels].cumsum(axis=1)).sum(axis=1)
        corrected.append(JudgingLabels(observed, matrix).figure(criterion, logits))
        noisy.append(plain(observed, logits, checkpoint))
    error = abs(np.mean(corrected) - truth)
    # The error of the mean, and what the ratios and absolute values in the figures add to it.
    assert error < 4 * np.std(corrected) / np.sqrt(60) + 0.002
    assert abs(np.mean(noisy) - truth) > 5 * error + 0.02


def test_the_corrected_loss_is_least_for_the_true_probabilities() -> None:
    labels, logits = drawn(20_000)
    matrix = parse_noise("pair:0.3", classes=NAMES).matrix
    rng = np.random.default_rng(4)
    observed = (rng.random((len(labels), 1)) > matrix[labels].cumsum(axis=1)).sum(axis=1)
    criterion = criterion_of("best", labels)
    scales = np.array([0.3, 0.45, 0.625, 0.9, 1.2])  # .625 undoes the sharpening
    corrected = [JudgingLabels(observed, matrix).figure(criterion, s * logits) for s in scales]
    noisy = [JudgingLabels(observed).figure(criterion, s * logits) for s in scales]
    assert scales[np.argmin(corrected)] == 0.625 and scales[np.argmin(noisy)] < 0.625


def test_noise_on_validation_labels_is_of_the_seed_and_refused_where_it_means_nothing() -> None:
    labels = np.arange(300) % 3
    recipe = ExtractRecipe(noise="symmetric:0.3", validation_noise="same")

    def of(seed: int, **fields: str) -> JudgingLabels:
        return judging_labels(
            labels,
            recipe=ExtractRecipe(**(vars(recipe) | fields)),  # type: ignore[arg-type]
            classes=NAMES,
            seed=seed,
        )

    assert 0.2 < (of(0).labels != labels).mean() < 0.4 and of(0).matrix is None
    np.testing.assert_array_equal(of(0).labels, of(0, validation_noise="same,corrected").labels)
    assert (of(0).labels != of(1).labels).any()
    np.testing.assert_array_equal(of(0, validation_noise="").labels, labels)
    with refused(
        "validation_noise=same: the training labels have no noise, so validation labels would have "
        "none. Name one, e.g. `validation_noise=symmetric:0.2`, or leave it out."
    ):
        of(0, noise="none")
    with refused("validation_noise is 'same,fixed': expected a noise, alone or with ',corrected'."):
        of(0, validation_noise="same,fixed")
    with refused(
        "validation_noise=pair:0.5 leaves no trace of some classes, so nothing corrects it. Leave "
        "out ',corrected', or name a weaker noise."
    ):
        judging_labels(
            labels % 2,
            recipe=ExtractRecipe(validation_noise="pair:0.5,corrected"),
            classes=NAMES[:2],
            seed=0,
        )


# --- trainings ------------------------------------------------------------------------------------

needs_torch = pytest.mark.filterwarnings("ignore:This process .* is multi-threaded")


@needs_torch
@pytest.mark.parametrize("how", ["", "symmetric:0.4", "symmetric:0.4,corrected"])
def test_the_kept_epoch_is_the_best_by_the_labels_that_were_asked_for(
    how: str, manifest: Manifest, tmp_path: Path
) -> None:
    pytest.importorskip("timm")
    recipe = tiny("epochs=4", "checkpoint=auroc_f1", f"extract.validation_noise={how}")
    cache = extract_one(manifest, recipe, tmp_path)
    rows, epochs = cache.validation_epochs
    np.testing.assert_array_equal(rows, np.flatnonzero(cache.split == "val"))
    assert epochs.shape == (4, len(rows), 3)
    judging = judging_labels(
        cache.label[rows].astype(np.int64),
        recipe=recipe.extract,
        classes=cache.classes,
        seed=cache.backbone_seed,
    )
    criterion = criterion_of("auroc_f1", judging.labels)
    figures = [judging.figure(criterion, logits) for logits in epochs]
    np.testing.assert_allclose(cache.extra["history/val_auroc_f1"], figures, atol=1e-12)
    kept = epochs[best_epoch(figures, highest=True) - 1]
    np.testing.assert_allclose(cache.logits[rows], kept, rtol=1e-4, atol=1e-4)
    loss = judging.figure(criterion_of("best", judging.labels), epochs[0])
    assert cache.extra["history/val_loss"][0] == pytest.approx(loss, abs=1e-5)
    assert np.isnan(cache.epoch_logits[:, rows]).all()  # which are of rows trained on


@needs_torch
def test_noise_that_chooses_nothing_is_refused(manifest: Manifest, tmp_path: Path) -> None:
    pytest.importorskip("timm")
    asked = tiny("checkpoint=last", "extract.validation_noise=same")
    with refused(
        "validation_noise=same changes nothing where the last epoch is kept. Leave it out, or let "
        "validation rows choose: `checkpoint=best`."
    ):
        extract_one(manifest, asked, tmp_path)
