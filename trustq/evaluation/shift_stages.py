"""Figures of outside rows under shift: what of a loss is in the class frequencies, what is not.

They stand beside the plain figures of these rows, in stages of their own (`STAGES`).
"""

import warnings
from typing import NamedTuple

import numpy as np

from trustq.calibration.temperature import DegenerateCalibrationWarning, TemperatureScaling
from trustq.errors import TrustqError
from trustq.metrics.classification import summarise
from trustq.metrics.label_shift import (
    bbse_frequencies,
    corrected_probs,
    em_frequencies,
    reweighted_figures,
)
from trustq.metrics.probabilities import checked_labels, checked_logits, checked_probs

# What each stage is, beside `uncalibrated` and `calibrated`, which is by the inside calibrator.
STAGES = {
    "oracle_temperature": "a temperature fitted on the very rows it is judged on: a bound, no "
    "figure that anyone can have",
    "em_corrected": "calibrated inside, corrected for class frequencies that EM estimates without "
    "outside labels",
    "bbse_corrected": "the same with frequencies by BBSE",
    "reweighted": "calibrated inside, rows weighted to the inside class frequencies (no ranking "
    "figures)",
}


class ShiftFigures(NamedTuple):
    """Figures by stage and metric, and what they rest on.

    `absent` are the classes without an outside row, by index; `frequencies`, each (k,), are those
    found `inside`, those found `outside`, and the estimates `em` and `bbse`; `notes` say what could
    not be had.
    """

    stages: dict[str, dict[str, float]]
    temperature: float
    frequencies: dict[str, np.ndarray]
    absent: tuple[int, ...]
    notes: tuple[str, ...]


def shift_figures(
    labels: np.ndarray,
    calibrated: np.ndarray,
    *,
    logits: np.ndarray,
    inside_labels: np.ndarray,
    inside_calibrated: np.ndarray,
) -> ShiftFigures:
    """Figures of outside rows by an oracle's temperature, corrected for label shift, reweighted.

    `labels`, (n,), `calibrated` probabilities and raw `logits`, (n, k), are of outside rows;
    `inside_labels`, (m,), and `inside_calibrated`, (m, k), of held-out inside rows through the same
    model and calibrator. Inside frequencies are those of `inside_labels`. Where BBSE cannot be
    solved, as where a class has no inside row, its stage is left out and a note says why.

    >>> rng = np.random.default_rng(0)
    >>> labels = rng.choice(2, 2000, p=[0.2, 0.8])
    >>> logits = np.array([[1.5, 0], [0, 1.5]])[labels] + rng.standard_normal((2000, 2))
    >>> probs = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    >>> inside = np.repeat([0, 1], 1000)
    >>> like = np.exp(np.array([[1.5, 0], [0, 1.5]])[inside] + rng.standard_normal((2000, 2)))
    >>> found = shift_figures(
    ...     labels, probs, logits=logits, inside_labels=inside,
    ...     inside_calibrated=like / like.sum(axis=1, keepdims=True),
    ... )
    >>> found.frequencies["bbse"].round(1).tolist()
    [0.2, 0.8]
    """
    logits, calibrated = checked_logits(logits), checked_probs(calibrated)
    inside_calibrated = checked_probs(inside_calibrated)
    labels = checked_labels(labels, *calibrated.shape, beside="probs")
    inside_labels = checked_labels(inside_labels, *inside_calibrated.shape, beside="probs")
    k = calibrated.shape[1]
    notes = []
    oracle = TemperatureScaling()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", DegenerateCalibrationWarning)
        oracle.fit(logits, labels)
    notes += [f"oracle_temperature: {warning.message}." for warning in caught]
    inside = np.bincount(inside_labels, minlength=k) / len(inside_labels)
    outside = np.bincount(labels, minlength=k) / len(labels)
    frequencies = {"inside": inside, "outside": outside, "em": em_frequencies(calibrated, inside)}
    try:
        frequencies["bbse"] = bbse_frequencies(inside_labels, inside_calibrated, calibrated)
    except TrustqError as error:
        notes.append(f"bbse_corrected is left out. {error}")
    stages = {"oracle_temperature": summarise(labels, logits=oracle.transform(logits)).figures}
    for name in ("em", "bbse"):
        if name in frequencies:
            corrected = corrected_probs(calibrated, inside, frequencies[name])
            stages[f"{name}_corrected"] = summarise(labels, probs=corrected).figures
    if inside[labels].any():
        weighted = reweighted_figures(labels, calibrated, inside)
        stages["reweighted"] = {
            name: getattr(weighted, name) for name in ("accuracy", "nll", "brier", "ece")
        }
    else:
        notes.append("reweighted is left out: no outside row is of a class that is inside.")
    return ShiftFigures(
        stages=stages,
        temperature=oracle.temperature_,
        frequencies=frequencies,
        absent=tuple(np.flatnonzero(outside == 0).tolist()),
        notes=tuple(notes),
    )
