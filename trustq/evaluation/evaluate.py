"""Everything about one set of predictions: calibration, selection, classes, slices, conditions."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from trustq.calibration.registry import make_calibrator
from trustq.calibration.temperature import NoiseAwareTemperature
from trustq.core.counts import counted
from trustq.data.splits import group_folds
from trustq.errors import InputError, NotFound
from trustq.evaluation.bootstrap import (
    FIGURES,
    FURTHER,
    compare_figures,
    figure_intervals,
    group_codes,
    groups_of_classes,
    intervals_with_debiased_ece,
)
from trustq.evaluation.external_sets import external_reports
from trustq.evaluation.fairness import MIN_ROWS, gap_intervals
from trustq.evaluation.influence import FEW
from trustq.evaluation.leaks import require_other_rows, suspicions
from trustq.evaluation.predictions import Predictions
from trustq.evaluation.slices import age_bands, slice_figures, slice_names
from trustq.metrics.aurc_conventions import all_conventions
from trustq.metrics.calibration_error import calibration_errors
from trustq.metrics.classification import expected_calibration_error, summarise
from trustq.metrics.ece_conventions import all_ece_conventions
from trustq.metrics.operating_points import (
    crossfitted_points,
    group_table,
    threshold_sweep,
    top_k_accuracies,
)
from trustq.metrics.per_class import (
    ClassFigures,
    class_figures,
    class_positions,
    equalised_odds_gaps,
    macro_auprc,
    macro_auprc_of,
    operating_points,
    positive_score,
    sensitivity_at_specificity,
)
from trustq.metrics.probabilities import logits_from_probs, softmax
from trustq.metrics.risk_guarantee import risk_guarantee
from trustq.metrics.selective import (
    Selection,
    coverage_at_risk,
    log_odds_confidence,
    risk_at_coverage,
    risk_coverage_curve,
)
from trustq.statistics.intervals import grouped_share_interval

NO_CALIBRATION = (
    "there are no validation rows, and a calibrator is never fitted on the rows it is judged on: "
    "add a split column, `calibrate_on=FILE` or `folds=5`"
)
# Wrong rows, or groups of these: with fewer, intervals of macro-AUROC and macro-AUPRC of nearly
# perfect models held the truth in 30 to 90 % of simulated studies, with more in 94 to 97 %.
FEW_WRONG = 15
RISK, DELTA = 0.05, 0.1  # of the selections and the guarantee that are shown
COVERAGES = (0.9, 0.8, 0.7)


@dataclass(frozen=True)
class Stage:
    """Predictions before or after calibration, as the figures take them."""

    name: str
    given: dict[str, Any]  # logits or probs, as keyword
    probs: np.ndarray
    confidence: np.ndarray  # what ranks the rows
    top: np.ndarray  # the largest probability
    wrong: np.ndarray


@dataclass(frozen=True)
class Evaluation:
    """What `evaluate` found: `report` for JSON and the page, the rest for curves and pictures."""

    report: dict[str, Any]
    rows: Predictions
    stages: tuple[Stage, ...]
    positive: tuple[int, ...]


def evaluate(
    predictions: Predictions,
    *,
    calibrate_on: Predictions | None = None,
    folds: int | None = None,
    calibrator: str = "temperature",
    labels_used: str = "clean",
    noise_matrix: np.ndarray | None = None,
    positive: Sequence[str] = (),
    slices: Sequence[str] = (),
    ages: str | None = None,
    externals: Sequence[Predictions] = (),
    seed: int = 0,
    replicates: int = 2000,
    intervals: str = "student",
) -> Evaluation:
    """Figures of the test rows, before and after calibration on other rows.

    Test rows are those of split `test` (or `external`) where there is a split, else all. The
    calibrator is fitted on `calibrate_on`, on split `val`, or, with `folds`, by group-wise
    cross-fitting; else calibrated figures are None, with the reason. Thresholds (Sens@95Spec,
    operating points, guarantee) come from validation rows or, with `folds`, from the other folds:
    every row is judged by a threshold that its group had no part in. Calibration labels
    known to be noisy (`labels_used="noisy"`) are refused without a `noise_matrix`, (k, k) of true
    to observed class, with which temperature scaling is corrected. `positive` names the classes
    that count as one; `slices` and `ages` columns of the predictions. `externals` are predictions
    of other data by the same model, judged as in `external_reports`. `intervals` is a method of
    `trustq.evaluation.bootstrap`; bootstraps draw so many `replicates`. Errors: no test
    rows, an unknown class or column, calibration rows among the test rows.
    """
    test, validation, where = _rows(predictions, calibrate_on, folds)
    if labels_used == "noisy" and validation is None and folds is None:
        raise InputError(
            "Noise is that of calibration labels, and nothing is calibrated: leave out `noise`, or "
            "calibrate (`calibrate_on=FILE`, `folds=5`)."
        )
    chosen = class_positions(test.classes, positive)
    missing = [name for name in (*slices, *([ages] if ages else [])) if name not in test.columns]
    if missing:
        raise NotFound(
            f"There is no column {', '.join(missing)} to slice by: read the predictions with it "
            f"(`columns={','.join(missing)}`)."
        )
    before = _stage("uncalibrated", test.labels, test.given)
    make_calibrator(calibrator)  # a name that is none is told even where nothing is calibrated
    fold = None if folds is None else _folds(test, folds, seed)
    if noise_matrix is not None and calibrator != "temperature":
        raise InputError(f"A noise matrix corrects temperature scaling, not {calibrator}.")

    def fit(logits: np.ndarray, labels: np.ndarray) -> Any:
        own: Any = make_calibrator(calibrator)
        if noise_matrix is not None:
            own = NoiseAwareTemperature(noise_matrix)
        return own.fit(logits, labels, labels_used=labels_used)

    fitted, apply, reason = _calibrator(test, validation, fold, fit)
    if fitted is not None:
        fitted = {"name": calibrator} | fitted
    after = None
    if apply is not None:
        after = _stage("calibrated", test.labels, _as_stored(apply(_logits(test)), test))
    stages = (before,) if after is None else (before, after)
    outside, whole = None, None
    if externals and after is not None:
        # Of cross-fitted rows the calibrator of all of them is the one that goes outside.
        held_out = test if validation is None else validation
        whole = fit(_logits(held_out), held_out.labels)
        calibrated = (
            after.probs if validation is None else softmax(whole.transform(_logits(held_out)))
        )
        outside = (held_out.labels, calibrated)
    notes = [*test.notes, *test.floor_notes(), *_shared_groups(test, validation), *_few_rows(test)]
    notes += _few_wrong(test, before.wrong)
    if validation is not None:
        notes += suspicions(validation, test, "the calibration rows", "the test rows")
    of_classes = class_figures(test.labels, before.probs, groups=test.groups)
    report: dict[str, Any] = {
        "source": test.source,
        "n": len(test),
        "n_groups": group_codes(test.groups, len(test))[1],
        "classes": list(test.classes),
        "n_validation": 0 if validation is None else len(validation),
        "validation": where,
        "ranking": "probability" if test.logits is None else "log_odds",
        "calibrator": fitted,
        "calibrated_reason": reason,
        "uncalibrated": _figures(test, before, seed, replicates, intervals, of_classes),
        "calibrated": None if after is None else _figures(test, after, seed, replicates, intervals),
        "guarantee": _guarantee(test, before, validation, seed, fold),
        "top_k": top_k_accuracies(test.labels, before.probs),
        "per_class": [row._asdict() | {"class": test.classes[row.label]} for row in of_classes],
        "positive": _positive_report(test, before, validation, chosen, fold),
        "groups": _group_tables(test, before, chosen, slices, ages),
        "slices": {
            name: [
                row._asdict()
                for row in slice_figures(
                    test.labels,
                    test.columns[name],
                    **before.given,
                    ages=name == ages,
                    groups=test.groups,
                    seed=seed,
                    replicates=min(replicates, 1000),
                )
            ]
            for name in dict.fromkeys((*slices, *([ages] if ages else [])))
        },
        "gaps": _gaps(test, before, chosen, slices, ages, seed, replicates),
        "conditions": _conditions(test, before, apply, seed, replicates),
        "external": external_reports(
            externals,
            beside=[test] if validation is None else [test, validation],
            inside=outside,
            fitted=whole,
        ),
        "notes": notes,
    }
    return Evaluation(report, test, stages, chosen)


def error_rows(found: Evaluation) -> dict[str, np.ndarray]:
    """Wrong rows as columns, the most confident first: id, truth, top three, confidence.

    Of the calibrated predictions where there are any.
    """
    stage, test = found.stages[-1], found.rows
    wrong = np.flatnonzero(stage.wrong)
    # Ties in file order, so that the file is the same each time.
    wrong = wrong[np.argsort(-stage.confidence[wrong], kind="stable")]
    ranked = np.argsort(-stage.probs[wrong], axis=1, kind="stable")[:, :3]
    classes = np.array(test.classes)
    columns = {"sample_id": test.sample_ids[wrong], "truth": classes[test.labels[wrong]]}
    for place in range(ranked.shape[1]):
        columns[f"top_{place + 1}"] = classes[ranked[:, place]]
        columns[f"probability_{place + 1}"] = stage.probs[wrong, ranked[:, place]]
    return columns | {"confidence": stage.top[wrong]}


def curve_rows(found: Evaluation) -> dict[str, np.ndarray]:
    """Risk-coverage curves of every stage at full resolution, as columns."""
    parts = []
    for stage in found.stages:
        curve = risk_coverage_curve(stage.wrong, stage.confidence)
        parts.append((np.full(len(curve.risk), stage.name), *curve))
    stages, coverage, risk, threshold = (np.concatenate(part) for part in zip(*parts, strict=True))
    return {"stage": stages, "coverage": coverage, "risk": risk, "threshold": threshold}


def _rows(
    predictions: Predictions, calibrate_on: Predictions | None, folds: int | None
) -> tuple[Predictions, Predictions | None, str]:
    """Test rows, validation rows, and where the latter are from."""
    if calibrate_on is not None and folds is not None:
        raise InputError("Calibrate on a file or by cross-fitting, not both.")
    test, validation, where = predictions, None, "none"
    if predictions.split is not None:
        test = predictions.take(np.flatnonzero(predictions.judged()))
        held = np.flatnonzero(predictions.split == "val")
        if len(held) and folds is None and calibrate_on is None:
            validation, where = predictions.take(held), f"split val of {predictions.source}"
    if calibrate_on is not None:
        calibrate_on = calibrate_on.with_classes_of(test, "calibrate on the same classes")
        validation, where = calibrate_on, calibrate_on.source
        if calibrate_on.split is not None and (calibrate_on.split == "val").any():
            validation = calibrate_on.take(np.flatnonzero(calibrate_on.split == "val"))
            where = f"split val of {calibrate_on.source}"
        require_other_rows(validation, test, way_out=": calibrate on other rows.")
    return test, validation, where


def _shared_groups(test: Predictions, validation: Predictions | None) -> list[str]:
    if validation is None or test.groups is None or validation.groups is None:
        return []
    shared = int(np.isin(test.groups, validation.groups).sum())
    if not shared:
        return []
    return [f"{shared} test rows share a group with calibration rows, which flatters calibration"]


def _few_rows(test: Predictions) -> list[str]:
    """Notes of classes too rare to be judged, by rows and, where rows are related, by groups."""
    k, notes = len(test.classes), []
    counts = {"rows": np.bincount(test.labels, minlength=k)}
    if test.groups is not None:
        codes, n_groups = group_codes(test.groups, len(test))
        counts["groups"] = groups_of_classes(codes, test.labels, n_groups, k)
    for what, own in counts.items():
        few = [
            f"{name} {n}" for name, n in zip(test.classes, own.tolist(), strict=True) if 0 < n < FEW
        ]
        if few:
            notes.append(
                f"classes of fewer than {FEW} {what}: {', '.join(few)}. Averages over classes rest "
                "on them: n is too small for an interval of macro-AUROC and macro-AUPRC, and "
                "others cover the truth less often than 95 %"
            )
            break
    return notes


def _few_wrong(test: Predictions, wrong: np.ndarray) -> list[str]:
    """A note where a nearly perfect ranking rests on too few wrong rows for its interval."""
    what = "row" if test.groups is None else "group"
    n = len(np.unique(np.flatnonzero(wrong) if test.groups is None else test.groups[wrong]))
    if not 0 < n < FEW_WRONG:
        return []
    return [
        f"there are errors in {counted(n, what)} only: intervals of macro-AUROC and macro-AUPRC, "
        "if any, lie too high, and hold the truth less often than 95 %"
    ]


def _stage(name: str, labels: np.ndarray, given: dict[str, Any]) -> Stage:
    if "logits" in given:
        probs = softmax(given["logits"])
        confidence = log_odds_confidence(given["logits"])
        wrong = given["logits"].argmax(axis=1) != labels
    else:
        probs = given["probs"]
        confidence, wrong = probs.max(axis=1), probs.argmax(axis=1) != labels
    return Stage(name, given, probs, confidence, probs.max(axis=1), wrong)


def _folds(test: Predictions, folds: int, seed: int) -> np.ndarray:
    groups = np.arange(len(test)) if test.groups is None else test.groups
    return group_folds(test.labels, groups, n_folds=folds, seed=seed)


def _logits(rows: Predictions) -> np.ndarray:
    return rows.logits if rows.logits is not None else logits_from_probs(rows.of_rows())


def _calibrator(
    test: Predictions,
    validation: Predictions | None,
    fold: np.ndarray | None,
    fit: Callable[[np.ndarray, np.ndarray], Any],
) -> tuple[dict[str, Any] | None, Callable[[np.ndarray], np.ndarray] | None, str | None]:
    """What was fitted, its map of logits of the test rows, and why there is none."""
    described: dict[str, Any]
    if fold is not None:
        folds, logits = int(fold.max()) + 1, _logits(test)
        fitted = [fit(logits[fold != held], test.labels[fold != held]) for held in range(folds)]
        described = {"fitted_on": f"{folds} folds by group, cross-fitted", "n": len(test)}
    elif validation is not None:
        fold = np.zeros(len(test), dtype=int)
        fitted = [fit(_logits(validation), validation.labels)]
        described = {"fitted_on": "validation rows", "n": len(validation)}
    else:
        return None, None, NO_CALIBRATION
    described["labels_used"] = fitted[0].labels_used_
    if hasattr(fitted[0], "temperature_"):
        described["temperature"] = float(np.mean([own.temperature_ for own in fitted]))

    def apply(logits: np.ndarray) -> np.ndarray:
        calibrated = np.empty(logits.shape)
        for held, own in enumerate(fitted):
            calibrated[fold == held] = own.transform(logits[fold == held])
        return calibrated

    return described, apply, None


def _as_stored(logits: np.ndarray, test: Predictions) -> dict[str, Any]:
    # What softmax rounded in a stored probability stays rounded: rank by probability as before.
    return {"logits": logits} if test.logits is not None else {"probs": softmax(logits)}


def _figures(
    test: Predictions,
    stage: Stage,
    seed: int,
    replicates: int,
    method: str,
    of_classes: Sequence[ClassFigures] | None = None,
) -> dict[str, Any]:
    summary = summarise(test.labels, **stage.given)
    auprc = (
        macro_auprc_of(of_classes) if of_classes else macro_auprc(test.labels, stage.probs)
    ).value
    values = summary.figures | {"macro_auprc": auprc}
    of: dict[str, Any] = {**stage.given, "groups": test.groups, "seed": seed}
    if method == "student":
        names = (*FIGURES, *FURTHER)
        intervals, debiased = intervals_with_debiased_ece(test.labels, **of, figures=names)
    else:
        intervals = figure_intervals(test.labels, **of, replicates=replicates, method=method)
    figures: dict[str, Any] = {
        name: {"value": value}
        | (
            {"lower": intervals[name].lower, "upper": intervals[name].upper}
            if name in intervals
            else {}
        )
        for name, value in values.items()
    }
    if method == "student":
        figures["ece"]["debiased"] = debiased
    areas = all_conventions(stage.wrong, stage.top)
    # The reference of published figures: ranked by probability, whatever the default ranking.
    picks: dict[str, Selection] = {
        f"coverage_at_risk_{RISK:g}": coverage_at_risk(stage.wrong, stage.confidence, risk=RISK)
    }
    for coverage in COVERAGES:
        picks[f"risk_at_coverage_{coverage:g}"] = risk_at_coverage(
            stage.wrong, stage.confidence, coverage=coverage
        )
    return {
        "figures": figures,
        "left_out": [test.classes[c] for c in summary.left_out],
        "calibration_errors": calibration_errors(test.labels, stage.probs),
        "ece_conventions": _with_spread(all_ece_conventions(test.labels, stage.probs)),
        "aurc_conventions": _with_spread(areas),
        "selections": {name: pick._asdict() for name, pick in picks.items()},
    }


def _with_spread(figures: dict[str, float]) -> dict[str, float]:
    return figures | {"spread": max(figures.values()) - min(figures.values())}


def _guarantee(
    test: Predictions,
    stage: Stage,
    validation: Predictions | None,
    seed: int,
    fold: np.ndarray | None,
) -> dict[str, Any] | None:
    if fold is not None:
        return _crossfitted_guarantee(test, stage, seed, fold)
    if validation is None:
        return None
    on = _stage("", validation.labels, validation.given)
    # Uncalibrated: these rows fitted the calibrator, so its confidences would break the promise.
    confidence, own = (on.confidence, stage.confidence)
    if validation.logits is None or test.logits is None:
        confidence, own = on.top, stage.top
    found = risk_guarantee(
        on.wrong, confidence, risk=RISK, delta=DELTA, groups=validation.groups, seed=seed
    )
    kept = own >= found.threshold
    return found._asdict() | {
        "test_coverage": float(kept.mean()),
        "test_risk": float(stage.wrong[kept].mean()) if kept.any() else float("nan"),
    }


def _crossfitted_guarantee(
    test: Predictions, stage: Stage, seed: int, fold: np.ndarray
) -> dict[str, Any]:
    """A guarantee per fold from the other folds; each holds for the rows of its own fold.

    What is shown is the mean threshold and coverage of the folds, with the risk on the rows that
    they keep together; the promise is that of every single fold.
    """
    found, kept = [], np.zeros(len(test), dtype=bool)
    for held in range(int(fold.max()) + 1):
        others = fold != held
        own = risk_guarantee(
            stage.wrong[others],
            stage.confidence[others],
            risk=RISK,
            delta=DELTA,
            groups=None if test.groups is None else test.groups[others],
            seed=seed,
        )
        found.append(own)
        kept[~others] = stage.confidence[~others] >= own.threshold
    finite = [own.threshold for own in found if np.isfinite(own.threshold)]
    return found[0]._asdict() | {
        "threshold": float(np.mean(finite)) if finite else float("inf"),
        "thresholds": [own.threshold for own in found],
        "bound": float(np.nanmax([own.bound for own in found])) if finite else float("nan"),
        "coverage": float(np.mean([own.coverage for own in found])),
        "n": min(own.n for own in found),
        "folds": len(found),
        "test_coverage": float(kept.mean()),
        "test_risk": float(stage.wrong[kept].mean()) if kept.any() else float("nan"),
    }


def _group_tables(
    test: Predictions,
    stage: Stage,
    chosen: tuple[int, ...],
    slices: Sequence[str],
    ages: str | None,
) -> dict[str, list[dict[str, Any]]]:
    """Accuracy, balanced accuracy and, for the positive classes, the odds of every group."""
    found = {}
    for name in dict.fromkeys((*slices, *([ages] if ages else []))):
        names, order = (age_bands if name == ages else slice_names)(test.columns[name])
        found[name] = group_table(test.labels, stage.probs, names, order=order, positive=chosen)
    return found


def _positive_report(
    test: Predictions,
    stage: Stage,
    validation: Predictions | None,
    chosen: tuple[int, ...],
    fold: np.ndarray | None = None,
) -> dict[str, Any] | None:
    if not chosen:
        return None
    report: dict[str, Any] = {
        "classes": [test.classes[c] for c in chosen],
        "predicted": _by_predicted_class(test, stage, chosen),
        "sens_at_95_spec": None,
        "operating_points": None,
        "reason": None,
        "thresholds": [
            point._asdict()
            for point in threshold_sweep(
                np.isin(test.labels, chosen), positive_score(stage.probs, chosen), test.groups
            )
        ],
    }
    if fold is not None:
        points = crossfitted_points(
            np.isin(test.labels, chosen),
            positive_score(stage.probs, chosen),
            fold=fold,
            groups=test.groups,
        )
        return report | {
            "sens_at_95_spec": points[0]._asdict(),
            "operating_points": [point._asdict() for point in points[1:]],
            "folds": int(fold.max()) + 1,
        }
    if validation is None:
        return report | {"reason": "thresholds come from validation rows, and there are none"}
    truth, score = np.isin(test.labels, chosen), positive_score(stage.probs, chosen)
    on: dict[str, Any] = {
        "validation_positive": np.isin(validation.labels, chosen),
        "validation_score": positive_score(validation.of_rows(), chosen),
        "groups": test.groups,
    }
    point = sensitivity_at_specificity(truth, score, **on)
    points = operating_points(truth, score, **on)
    return report | {
        "sens_at_95_spec": point._asdict(),
        "operating_points": [point._asdict() for point in points],
    }


def _by_predicted_class(test: Predictions, stage: Stage, chosen: tuple[int, ...]) -> dict[str, Any]:
    """Sensitivity and specificity where the most probable class decides, without a threshold."""
    truth = np.isin(test.labels, chosen)
    right = np.isin(stage.probs.argmax(axis=1), chosen) == truth
    found: dict[str, Any] = {"n_positive": int(truth.sum()), "n_negative": int((~truth).sum())}
    for name, own in (("sensitivity", truth), ("specificity", ~truth)):
        groups = None if test.groups is None else test.groups[own]
        found[name] = float(right[own].mean()) if own.any() else float("nan")
        found[f"{name}_interval"] = list(grouped_share_interval(right[own], groups))
    return found


def _gaps(
    test: Predictions,
    stage: Stage,
    chosen: tuple[int, ...],
    slices: Sequence[str],
    ages: str | None,
    seed: int,
    replicates: int,
) -> dict[str, Any]:
    if not chosen:
        return {}
    truth = np.isin(test.labels, chosen)
    called = np.isin(stage.probs.argmax(axis=1), chosen)
    gaps = {}
    for name in dict.fromkeys((*slices, *([ages] if ages else []))):
        bands = age_bands if name == ages else slice_names
        names = bands(test.columns[name])[0]
        found = equalised_odds_gaps(truth, called, names, min_rows=MIN_ROWS)
        intervals = gap_intervals(
            truth, called, names, units=test.groups, seed=seed, replicates=min(replicates, 1000)
        )
        gaps[name] = found._asdict() | {
            "min_rows": MIN_ROWS,
            "intervals": {figure: gap._asdict() for figure, gap in intervals.items()},
        }
    return gaps


def _conditions(
    test: Predictions,
    stage: Stage,
    apply: Callable[[np.ndarray], np.ndarray] | None,
    seed: int,
    replicates: int,
) -> dict[str, Any]:
    """Figures of other probabilities of the same rows, and their paired differences.

    `ece_calibrated` is after the calibrator of the evaluated predictions: calibration under shift.
    """
    found: dict[str, Any] = {}
    for name, probs in test.conditions.items():
        rows = compare_figures(
            test.labels, probs, stage.probs, groups=test.groups, seed=seed, replicates=replicates
        )
        found[name] = {
            figure: {"value": row.a, "difference": row.difference}
            | {"lower": row.lower, "upper": row.upper}
            for figure, row in rows.items()
        }
        if apply is not None:
            calibrated = softmax(apply(logits_from_probs(probs)))
            found[name]["ece_calibrated"] = {
                "value": expected_calibration_error(test.labels, calibrated)
            }
    return found
