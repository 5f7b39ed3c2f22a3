"""Which epoch's weights are kept: the one that validation rows judge best."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from trustq.errors import InputError
from trustq.metrics.classification import summarise


@dataclass(frozen=True)
class Criterion:
    """A figure of validation rows, and whether more of it is better."""

    figure: str  # as the history names it
    title: str
    highest: bool


_BY_LOSS = Criterion("val_loss", "validation loss", highest=False)
_CRITERIA = {
    "best": _BY_LOSS,
    "last": _BY_LOSS,  # nothing is chosen; patience still counts epochs by the loss
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


def further_figure(criterion: Criterion, labels: np.ndarray, logits: np.ndarray) -> float:
    """The criterion's figure of rows with labels (n,) and logits (n, k)."""
    figures = summarise(labels, logits=logits).figures
    if criterion.figure == "val_auroc_f1":
        return figures["macro_auroc"] + figures["macro_f1"]
    return figures[criterion.figure.removeprefix("val_")]


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
