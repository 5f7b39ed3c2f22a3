"""Which epoch's weights are kept: the one that validation rows judge best."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from trustq.core.generators import generator
from trustq.data.noise import draw_noise, parse_noise
from trustq.errors import InputError
from trustq.metrics.classification import ECE_BINS, summarise
from trustq.metrics.probabilities import log_softmax, softmax
from trustq.recipes import ExtractRecipe

_LEAST_DETERMINANT = 1e-6  # below it a noise hides its classes, and nothing corrects it


@dataclass(frozen=True)
class Criterion:
    """A figure of validation rows, and whether more of it is better."""

    figure: str  # as the history names it
    title: str
    highest: bool


BY_LOSS = Criterion("val_loss", "validation loss", highest=False)
_CRITERIA = {
    "best": BY_LOSS,
    "last": BY_LOSS,  # nothing is chosen; patience still counts epochs by the loss
    "macro_f1": Criterion("val_macro_f1", "validation macro-F1", highest=True),
    "macro_auroc": Criterion("val_macro_auroc", "validation macro-AUROC", highest=True),
    "auroc_f1": Criterion("val_auroc_f1", "validation macro-AUROC + macro-F1", highest=True),
    "ece": Criterion("val_ece", "validation ECE", highest=False),
}


def criterion_of(checkpoint: str, labels: np.ndarray) -> Criterion:
    """The criterion of a checkpoint policy, judged on rows with these labels, (n,).

    Raises `TrustqError` where the labels leave the criterion undefined.
    """
    if checkpoint in ("macro_auroc", "auroc_f1") and len(np.unique(labels)) < 2:
        raise InputError(
            f"checkpoint={checkpoint} needs validation rows of two classes or more; all of them "
            "are of one. Make the splits again, or choose by another figure, e.g. "
            "`checkpoint=best`."
        )
    return _CRITERIA[checkpoint]


@dataclass(frozen=True)
class JudgingLabels:
    """Labels of the validation rows that judge epochs, and the noise that figures correct for."""

    labels: np.ndarray  # (m,)
    matrix: np.ndarray | None = None  # (k, k), true to observed; None: taken as they are

    def figure(self, criterion: Criterion, logits: np.ndarray) -> float:
        """The criterion's figure of the rows with logits (m, k)."""
        if self.matrix is not None:
            return float(_CORRECTED[criterion.figure](self.labels, logits, self.matrix))
        if criterion.figure == "val_loss":
            rows = np.arange(len(self.labels))
            return float(-log_softmax(logits)[rows, self.labels].mean())
        figures = summarise(self.labels, logits=logits).figures
        if criterion.figure == "val_auroc_f1":
            return figures["macro_auroc"] + figures["macro_f1"]
        return figures[criterion.figure.removeprefix("val_")]


def judging_labels(
    labels: np.ndarray, *, recipe: ExtractRecipe, classes: tuple[str, ...], seed: int
) -> JudgingLabels:
    """The labels by which a recipe judges epochs, from the reference labels (m,).

    `validation_noise` puts noise on them, of a draw of its own for each seed; with `,corrected`
    figures are estimates of those by true labels. Raises `TrustqError` for a noise without a
    matrix, and for a correction of one that hides its classes.
    """
    asked, _, how = recipe.validation_noise.partition(",")
    if not asked:
        return JudgingLabels(labels)
    if how not in ("", "corrected"):
        raise InputError(
            f"validation_noise is {recipe.validation_noise!r}: expected a noise, alone or with "
            "',corrected'.",
            where="validation_noise",
            found=recipe.validation_noise,
        )
    noise = parse_noise(recipe.noise if asked == "same" else asked, classes=classes)
    if noise.spec == "none":
        raise InputError(
            f"validation_noise={asked}: the training labels have no noise, so validation labels "
            "would have none. Name one, e.g. `validation_noise=symmetric:0.2`, or leave it out.",
            where="validation_noise",
            found=recipe.validation_noise,
        )
    if how and abs(np.linalg.det(noise.matrix)) < _LEAST_DETERMINANT:
        raise InputError(
            f"validation_noise={asked} leaves no trace of some classes, so nothing corrects it. "
            "Leave out ',corrected', or name a weaker noise.",
            where="validation_noise",
            found=recipe.validation_noise,
        )
    own = int(generator(seed, "validation noise").integers(2**31))
    return JudgingLabels(draw_noise(labels, noise=noise, seed=own), noise.matrix if how else None)


# Estimates of figures by true labels from labels with noise. The loss is that of the observed label
# (forward correction, Patrini et al. 2017); the others count each row as its expected true label,
# the solution y of M'y = observed (backward; Natarajan et al. 2013): right on average over draws,
# with entries below 0 and above 1.


def _corrected_loss(labels: np.ndarray, logits: np.ndarray, matrix: np.ndarray) -> float:
    observed = (softmax(logits) @ matrix)[np.arange(len(labels)), labels]
    return float(-np.log(np.maximum(observed, np.finfo(float).tiny)).mean())


def _corrected_f1(labels: np.ndarray, logits: np.ndarray, matrix: np.ndarray) -> float:
    truth = _expected_truth(labels, matrix)
    called = np.eye(len(matrix))[logits.argmax(axis=1)]
    hits = np.clip((truth * called).sum(axis=0), 0, None)
    sizes = np.clip(truth.sum(axis=0), 0, None) + called.sum(axis=0)
    return float(np.clip(2 * hits[sizes > 0] / sizes[sizes > 0], 0, 1).mean())


def _corrected_auroc(labels: np.ndarray, logits: np.ndarray, matrix: np.ndarray) -> float:
    truth, probs = _expected_truth(labels, matrix), softmax(logits)
    found = []
    for c in range(len(matrix)):
        positive, negative = truth[:, c], 1 - truth[:, c]
        if min(positive.sum(), negative.sum()) < 1:
            continue  # no row of one of both outcomes, as far as the labels can say
        _, place = np.unique(probs[:, c], return_inverse=True)
        above, below = (np.bincount(place, weights=own) for own in (positive, negative))
        ahead = np.cumsum(below) - below / 2  # ties count one half
        # A row is no pair with itself, where its two shares would meet.
        itself = (positive * negative).sum() / 2
        pairs = positive.sum() * negative.sum() - (positive * negative).sum()
        found.append(((above * ahead).sum() - itself) / pairs)
    return float(np.mean(found)) if found else math.nan


def _corrected_ece(labels: np.ndarray, logits: np.ndarray, matrix: np.ndarray) -> float:
    truth, probs = _expected_truth(labels, matrix), softmax(logits)
    right = truth[np.arange(len(labels)), probs.argmax(axis=1)]
    top = probs.max(axis=1)
    place = np.clip(np.ceil(top * ECE_BINS).astype(int) - 1, 0, ECE_BINS - 1)
    gaps = np.bincount(place, weights=right - top, minlength=ECE_BINS)
    return float(np.abs(gaps).sum() / len(labels))


def _corrected_sum(labels: np.ndarray, logits: np.ndarray, matrix: np.ndarray) -> float:
    return _corrected_auroc(labels, logits, matrix) + _corrected_f1(labels, logits, matrix)


def _expected_truth(labels: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    """Estimated one-hot true labels, (m, k), whose mean over draws of the noise is the truth."""
    return np.asarray(np.linalg.inv(matrix)[labels])


_CORRECTED = {
    "val_loss": _corrected_loss,
    "val_macro_f1": _corrected_f1,
    "val_macro_auroc": _corrected_auroc,
    "val_auroc_f1": _corrected_sum,
    "val_ece": _corrected_ece,
}


def best_epoch(figures: Sequence[float], *, highest: bool) -> int:
    """The first epoch, from 1, with the best figure; 0 where none is a number.

    >>> best_epoch([0.9, 0.5, 0.7, 0.5], highest=False)
    2
    """
    known = [(figure, -epoch) for epoch, figure in enumerate(figures, 1) if not math.isnan(figure)]
    if not known:
        return 0
    best = max(known) if highest else max((-figure, order) for figure, order in known)
    return -best[1]
