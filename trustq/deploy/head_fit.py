"""The head that is packaged: the network's own classifier, or a linear one fitted on features."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from trustq.core.counts import counted, verb
from trustq.core.label_sheets import read_sheet
from trustq.core.sample_ids import find_ids, nearly
from trustq.deploy.graph import folded_head
from trustq.errors import DishonestError, InputError
from trustq.heads import LinearHead, choose_penalty, fit_heads, make_head
from trustq.heads.feature_cache import SharedFeatures
from trustq.metrics.probabilities import log_softmax
from trustq.repair.loop import REGULARISATION_GRID
from trustq.store import Cache

HEADS = ("backbone", "linear", "balanced")
_LEAST_INTERCEPT = -60.0  # of a class that the fit did not see, so that float32 stays finite


@dataclass(frozen=True)
class PackagedHead:
    """Weight and bias on raw features, or None where the network's own logits are taken.

    `logits` is (n, k) of all rows of the cache; `about` what is said of the head.
    """

    weight: np.ndarray | None
    bias: np.ndarray | None
    logits: np.ndarray
    about: dict[str, Any]


def fit_packaged_head(
    cache: Cache, name: str, *, labels: Path | None = None, regularisation: float | None = None
) -> PackagedHead:
    """The head `name` of a cache, fitted where it is not the network's own.

    A linear or balanced head is fitted on the training rows' observed labels (their reference
    labels where none are stored), or on those of the table `labels`, with the penalty that is best
    on validation rows, or `regularisation`. Raises `TrustqError` for a head that cannot be folded
    into a network, and where there is nothing to fit on.
    """
    if regularisation is not None and not 0 < regularisation < math.inf:
        raise InputError(f"`regularisation={regularisation:g}`: expected a number above 0.")
    if name == "backbone":
        if regularisation is not None:
            raise InputError(
                "`regularisation` is of a head that is fitted, and the network's own classifier is "
                "not: leave it out, or fit one, e.g. `head=linear`."
            )
        return _own_classifier(cache, labels)
    if name not in HEADS:
        raise InputError(
            f"The head {name!r} cannot be part of a network's graph; expected one of "
            f"{', '.join(HEADS)}.",
            expected=HEADS,
            found=name,
        )
    rows, columns, source = _training_labels(cache, labels)
    center = cache.features[rows].mean(axis=0, dtype=np.float64)
    scale = cache.features[rows].std(axis=0, dtype=np.float64)
    scale[scale < 1e-12] = 1.0  # a constant column carries nothing
    features = ((cache.features - center) / scale).astype(np.float32)
    validation = np.flatnonzero((cache.split == "val") & (cache.label >= 0))
    shared = SharedFeatures(features[rows])

    def fit(penalty: float, start: LinearHead | None, tolerance: float | None) -> LinearHead:
        head = make_head(name, n_classes=len(cache.classes), C=penalty)
        begun = None if start is None else [start]
        used = np.ones((1, len(rows)), dtype=bool)
        fit_heads([head], shared, columns[None], used=used, start=begun, tolerance=tolerance)
        assert isinstance(head, LinearHead)
        return head

    def loss(head: LinearHead) -> float:
        logits = log_softmax(head.predict_logits(features[validation]))
        return float(-logits[np.arange(len(validation)), cache.label[validation]].mean())

    if regularisation is not None:
        penalty, head = regularisation, fit(regularisation, None, None)
    elif len(validation):
        penalty, head = choose_penalty(REGULARISATION_GRID, fit=fit, loss=loss)
    else:
        raise InputError(
            f"{cache.name} has no validation rows to choose the penalty by; state it: "
            "`regularisation=0.01`."
        )
    weight, bias = folded_head(head.coef_, _finite(head.intercept_), center, scale)
    about = {"name": name, "regularisation": penalty, "labels": source, "n_rows": len(rows)}
    logits = cache.features.astype(np.float64) @ weight.T + bias
    return PackagedHead(weight, bias, logits, about)


def _own_classifier(cache: Cache, labels: Path | None) -> PackagedHead:
    if cache.logits is None:
        raise InputError(
            f"{cache.name} is frozen and has no classifier of its own. Choose `head=linear`."
        )
    if labels is not None:
        raise InputError(
            "`labels` are for a head that is fitted; the network's own classifier was trained on "
            "its own. Choose `head=linear`, or train the network again with `observed`."
        )
    about = {"name": "backbone", "labels": _trained_on(cache)}
    logits = cache.logits.astype(np.float64)
    extra: Mapping[str, np.ndarray] = cache.extra
    if "classifier/weight" not in extra:  # a norm or a hidden layer lies between
        return PackagedHead(None, None, logits, about)
    weight = extra["classifier/weight"].astype(np.float64)
    return PackagedHead(weight, extra["classifier/bias"].astype(np.float64), logits, about)


def _training_labels(cache: Cache, labels: Path | None) -> tuple[np.ndarray, np.ndarray, str]:
    """Positions of the rows to fit on, their labels, and where these are from."""
    train = cache.split == "train"
    if labels is None:
        stored = cache.observed >= 0
        known = np.where(stored, cache.observed, cache.label)
        source = "observed" if (stored & train).any() else "reference"
    else:
        sheet = read_sheet(labels, classes=cache.classes)
        known = np.full(len(cache), -1, dtype=np.int64)
        places = find_ids(list(sheet), cache.sample_id, source=str(labels))
        unknown = [name for name, row in zip(sheet, places, strict=True) if row is None]
        if unknown:
            raise InputError(
                f"{labels}: {counted(len(unknown), 'id')} {verb(len(unknown), 'is', 'are')} not in "
                f"{cache.name}, e.g. {unknown[0]}{nearly(unknown, cache.sample_id)}.",
                path=labels,
            )
        for (name, found), row in zip(sheet.items(), places, strict=True):
            assert row is not None
            if len({*found, *([int(known[row])] if known[row] >= 0 else [])}) > 1:
                raise InputError(
                    f"{labels}: {name} has two labels; a head is fitted on one each.", path=labels
                )
            known[row] = found[0]
        outside = (known >= 0) & ~train
        if outside.any():
            raise DishonestError(
                f"{labels} has labels of {counted(int(outside.sum()), 'row')} not of training; a "
                "head that learns from them cannot be judged on them. Leave them out.",
                path=labels,
            )
        source = f"file:{labels.name}"
    rows = np.flatnonzero(train & (known >= 0))
    if len(np.unique(known[rows])) < 2:
        raise InputError(
            f"{cache.name} has {counted(len(rows), 'labelled training row')} of fewer than two "
            "classes, so no head can be fitted. Give labels, or choose `head=backbone`."
        )
    return rows, known[rows].astype(np.int64), source


def _trained_on(cache: Cache) -> str:
    spec = cache.noise.get("spec", "none")
    return "reference" if spec in ("none", "") else f"observed ({spec})"


def _finite(intercept: np.ndarray) -> np.ndarray:
    present = np.isfinite(intercept)
    return np.where(present, intercept, float(intercept[present].min()) + _LEAST_INTERCEPT)
