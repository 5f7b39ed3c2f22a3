"""Predictions of other data by the same model, beside the evaluated ones: what shift does."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from trustq.errors import InputError
from trustq.evaluation.leaks import require_other_rows, suspicions
from trustq.evaluation.predictions import Predictions
from trustq.evaluation.shift_stages import shift_figures
from trustq.metrics.classification import summarise
from trustq.metrics.per_class import class_figures
from trustq.metrics.probabilities import logits_from_probs, softmax


def external_reports(
    externals: Sequence[Predictions],
    *,
    beside: Sequence[Predictions],
    inside: tuple[np.ndarray, np.ndarray] | None,
    fitted: Any,
) -> dict[str, dict[str, Any]]:
    """Figures of every external set by stage, before any calibration first; by name of the file.

    All rows of a set count, whatever their split. `inside` are the labels and calibrated
    probabilities of held-out inside rows, `fitted` is the calibrator that was fitted inside; both
    are None where nothing was calibrated, and the stages that need them are left out. Raises
    `TrustqError` for other classes than those evaluated, a name twice, and ids that are among the
    rows `beside`, evaluated or calibrated on.
    """
    reports: dict[str, dict[str, Any]] = {}
    for given in externals:
        if given.source in reports:
            raise InputError(f"Two external files are called {given.source}; rename one.")
        rows = given.with_classes_of(beside[0], "external rows go through the same model")
        notes = []
        for other in beside:
            way_out = ", so they are no external test. Leave them out."
            require_other_rows(rows, other, way_out=way_out)
            notes += suspicions(rows, other, rows.source, f"the rows of {other.source}")
        reports[given.source] = _report(rows, inside, fitted)
        reports[given.source]["notes"] += dict.fromkeys(notes)
    return reports


def _report(
    rows: Predictions, inside: tuple[np.ndarray, np.ndarray] | None, fitted: Any
) -> dict[str, Any]:
    figures = class_figures(rows.labels, rows.of_rows())
    absent = [rows.classes[row.label] for row in figures if not row.n]
    report: dict[str, Any] = {
        "n": len(rows),
        "absent": absent,
        "stages": {"uncalibrated": summarise(rows.labels, **rows.given).figures},
        "recall": {rows.classes[row.label]: row.recall if row.n else None for row in figures},
        "oracle_temperature": None,
        "frequencies": None,
        "notes": [],
    }
    if inside is None:
        return report
    logits = rows.logits if rows.logits is not None else logits_from_probs(rows.of_rows())
    own = fitted.transform(logits)
    calibrated = softmax(own)
    # As for the evaluated rows: stored probabilities are ranked by probability.
    after = {"logits": own} if rows.logits is not None else {"probs": calibrated}
    found = shift_figures(
        rows.labels,
        calibrated,
        logits=logits,
        inside_labels=inside[0],
        inside_calibrated=inside[1],
    )
    report["stages"]["calibrated"] = summarise(rows.labels, **after).figures
    report["stages"] |= found.stages
    return report | {
        "oracle_temperature": found.temperature,
        "frequencies": {
            name: dict(zip(rows.classes, values.tolist(), strict=True))
            for name, values in found.frequencies.items()
        },
        "notes": list(found.notes),
    }
