"""A head on data it was not made for: what the shift costs, what of it is in the frequencies."""

from typing import Any, NamedTuple

import numpy as np

from trustq.calibration import TemperatureScaling
from trustq.class_metrics import class_figures
from trustq.label_shift import (
    bbse_frequencies,
    corrected_probs,
    em_frequencies,
    reweighted_figures,
)
from trustq.metrics import summarise
from trustq.probabilities import checked_labels, checked_logits, softmax

FIGURES = (
    "accuracy",
    "macro_f1",
    "nll",
    "ece",
    "aurc",
    "augrc",
    "coverage_at_0_5",
    "risk_at_0_5",
)


class ExternalReport(NamedTuple):
    """Figures by stage, recall by class (None where it is absent), frequencies and temperatures.

    Stages: `uncalibrated`; `internal_temperature`, fitted on inside validation rows;
    `external_temperature`, fitted on the very rows that are judged, an upper bound that nobody has;
    `em` and `bbse`, corrected for estimated class frequencies without using outside labels;
    `reweighted`, rows weighted to the inside frequencies (no ranking figures).
    """

    n: int
    stages: dict[str, dict[str, float]]
    recall: dict[str, float | None]
    absent: tuple[str, ...]
    temperatures: dict[str, float]
    frequencies: dict[str, list[float]]


def external_report(
    labels: np.ndarray,
    logits: np.ndarray,
    *,
    validation_labels: np.ndarray,
    validation_logits: np.ndarray,
    frequencies: np.ndarray,
    classes: tuple[str, ...],
) -> ExternalReport:
    """Figures of external rows, with temperature and label-shift correction from inside alone.

    `labels`, (n,), and `logits`, (n, k), are of the external rows; `frequencies`, (k,), the class
    shares that the head was fitted on. EM starts from the internally calibrated probabilities.
    Raises `TrustqError` where BBSE cannot be solved, as when validation lacks a class.

    >>> rng = np.random.default_rng(0)
    >>> labels = rng.integers(0, 2, 200)
    >>> logits = 2 * np.eye(2)[labels] + rng.standard_normal((200, 2))
    >>> found = external_report(
    ...     labels[:100], logits[:100], validation_labels=labels[100:],
    ...     validation_logits=logits[100:], frequencies=np.array([0.5, 0.5]), classes=("a", "b"),
    ... )
    >>> found.stages["em"]["accuracy"] > 0.8, found.absent
    (True, ())
    """
    logits, inside = checked_logits(logits), checked_logits(validation_logits)
    labels = checked_labels(labels, *logits.shape, beside="logits")
    scaler = TemperatureScaling().fit(inside, validation_labels)
    bound = TemperatureScaling().fit(logits, labels)
    calibrated = scaler.predict_proba(logits)
    by_em = em_frequencies(calibrated, frequencies)
    by_bbse = bbse_frequencies(validation_labels, scaler.predict_proba(inside), calibrated)
    stages: dict[str, dict[str, Any]] = {
        "uncalibrated": {"logits": logits},
        "internal_temperature": {"logits": scaler.transform(logits)},
        "external_temperature": {"logits": bound.transform(logits)},
        "em": {"probs": corrected_probs(calibrated, frequencies, by_em)},
        "bbse": {"probs": corrected_probs(calibrated, frequencies, by_bbse)},
    }
    found = {name: _figures(labels, given) for name, given in stages.items()}
    weighted = reweighted_figures(labels, calibrated, frequencies)
    found["reweighted"] = {"accuracy": weighted.accuracy, "nll": weighted.nll, "ece": weighted.ece}
    per_class = class_figures(labels, softmax(logits))
    shares = np.bincount(labels, minlength=len(classes)) / len(labels)
    return ExternalReport(
        n=len(labels),
        stages=found,
        recall={classes[row.label]: row.recall if row.n else None for row in per_class},
        absent=tuple(classes[row.label] for row in per_class if not row.n),
        temperatures={"internal": scaler.temperature_, "external": bound.temperature_},
        frequencies={
            name: [round(float(share), 4) for share in values]
            for name, values in {
                "inside": frequencies,
                "outside": shares,
                "em": by_em,
                "bbse": by_bbse,
            }.items()
        },
    )


def _figures(labels: np.ndarray, given: dict[str, Any]) -> dict[str, float]:
    figures = summarise(labels, **given).figures
    return {name: float(figures[name]) for name in FIGURES}
