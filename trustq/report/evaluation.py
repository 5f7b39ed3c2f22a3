"""The page and the pictures of one evaluation."""

import math
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from trustq.core.atomic_files import replacing
from trustq.core.counts import counted
from trustq.core.prose import WIDTH, folded
from trustq.core.safety import DISCLAIMER
from trustq.core.spreadsheets import csv_text
from trustq.evaluation.evaluate import Evaluation, curve_rows, error_rows
from trustq.evaluation.influence import RANKED
from trustq.evaluation.shift_stages import STAGES
from trustq.metrics.calibration_error import CONVENTIONS
from trustq.metrics.classification import ECE_BINS
from trustq.metrics.ece_conventions import ECE_CONVENTIONS, chosen_conventions
from trustq.metrics.per_class import class_positions, positive_score
from trustq.metrics.selective import risk_coverage_curve, thin_curve
from trustq.report.plots import COLOURS, draw_legend, frame_precision_recall, new_canvas, save_plot
from trustq.report.text import aligned, to_json
from trustq.statistics.paired import share_interval

_SHOWN = {
    "accuracy": "share right",
    "balanced_accuracy": "mean recall of the classes in the truth",
    "macro_f1": "classes in truth or prediction",
    "macro_auroc": "one-vs-rest, ties at one half",
    "macro_auprc": "average precision, one-vs-rest",
    "nll": "nats",
    "brier": "0 to 2",
    "ece": "top-label, 15 bins of equal width, L1",
    "augrc": "headline selective figure; 0 to .5",
    "aurc": "exact, with ties",
    "e_aurc": "less the finite oracle",
    "coverage_at_0_5": "confidence >= .5",
    "risk_at_0_5": "confidence >= .5",
}


def evaluation_page(found: Evaluation, *, ece: Sequence[str] = ()) -> str:
    """One page of text: what was evaluated, every figure beside its convention, what to know.

    `ece` names conventions of the calibration error that stand beside ours, with their spread.
    """
    report = found.report
    known = report["n_groups"] != report["n"]
    n_groups = f" of {counted(report['n_groups'], 'group')}" if known else ""
    lines = [
        f"{report['source']}: {counted(report['n'], 'row')}{n_groups}, "
        f"{counted(len(report['classes']), 'class')}, "
        f"ranked by {report['ranking']}",
        _calibrator_line(report),
        "",
        f"{'':24}{'uncalibrated':>26}  {'calibrated':>26}",
    ]
    meanings = []
    for name, meaning in _SHOWN.items():
        cells = [_cell(report[s], name) for s in ("uncalibrated", "calibrated")]
        lines.append(f"{name:24}{cells[0]:>26}  {cells[1]:>26}")
        meanings.append(f"{name}: {meaning}")
        if name == "ece":
            chosen, explained = _ece_lines(report, chosen_conventions(ece))
            lines += chosen
            meanings += explained
    lines += ["", *textwrap.wrap("; ".join(meanings) + ".", WIDTH, break_on_hyphens=False)]
    for stage in ("uncalibrated", "calibrated"):
        if report[stage] is None:
            continue
        own = report[stage]
        areas = ", ".join(f"{k} {v:.6f}" for k, v in own["aurc_conventions"].items())
        lines += ["", f"AURC by convention, ranked by probability, {stage}: {areas}"]
        errors = ", ".join(f"{k} {v:.6f}" for k, v in own["ece_conventions"].items())
        lines.append(f"ECE by convention, {stage}: {errors}")
        debiased = own["figures"]["ece"].get("debiased")
        said = "" if debiased is None else f"ece without what noise adds {debiased:.4f}; "
        lines.append(f"Other calibration errors: {said}" + _errors(own["calibration_errors"]))
        lines += [_selection(name, pick) for name, pick in own["selections"].items()]
    shares = ", ".join(f"{name[4:]} {value:.4f}" for name, value in report["top_k"].items())
    lines += ["", f"Share of rows whose label is among the top k, k = {shares}"]
    lines += ["", *_class_lines(report)]
    for part in (
        _guarantee_lines,
        _positive_lines,
        _slice_lines,
        _group_lines,
        _condition_lines,
        _external_lines,
    ):
        if own_lines := part(report):
            lines += ["", *own_lines]
    if report["uncalibrated"]["left_out"]:
        left_out = ", ".join(report["uncalibrated"]["left_out"])
        lines += ["", f"macro_auroc leaves out {left_out}: no rows of both outcomes."]
    lines += [
        "",
        "Intervals: 95 %, over other groups. ECE: of the error that more rows would show, whatever "
        "noise adds to it; of shares, Wilson's.",
    ]
    if reasons := _without_interval(report):
        lines.append(f"No interval: {reasons}.")
    lines += [f"Note: {note}." for note in report["notes"]]
    return "\n".join([*lines, DISCLAIMER])


def _ece_lines(report: dict[str, Any], names: Sequence[str]) -> tuple[list[str], list[str]]:
    """A line and a meaning for each convention; as published figures they have no interval."""
    lines, meanings = [], []
    for name in (*names, *(["spread"] if names else [])):
        cells = [
            "" if report[stage] is None else f"{report[stage]['ece_conventions'][name]:.4f}"
            for stage in ("uncalibrated", "calibrated")
        ]
        meaning = ECE_CONVENTIONS.get(name, "largest less smallest of all six conventions")
        lines.append(f"{f'ece:{name}':24}{cells[0]:>26}  {cells[1]:>26}")
        meanings.append(f"ece:{name}: {meaning}")
    return lines, meanings


def write_evaluation(
    found: Evaluation, folder: Path, *, of_class: str | None = None, ece: Sequence[str] = ()
) -> list[Path]:
    """Write page.txt, report.json, curves.csv, errors.csv and the pictures; returns their paths."""
    texts = {
        "page.txt": folded(evaluation_page(found, ece=ece)),
        "report.json": to_json(found.report),
        "curves.csv": _csv(curve_rows(found)),
        "errors.csv": _csv(error_rows(found)),
    }
    paths = []
    for name, text in texts.items():
        paths.append(folder / name)
        with replacing(paths[-1]) as part:
            part.write_text(text + "\n", encoding="utf-8")
    return paths + draw_evaluation(found, folder, of_class=of_class)


def draw_evaluation(found: Evaluation, folder: Path, *, of_class: str | None = None) -> list[Path]:
    """Reliability, risk-coverage, confusion and precision-recall pictures; returns their paths.

    Precision-recall is of `of_class`, else of the positive set, else of the rarest class that has
    rows.
    """
    paths = [folder / f"{name}.png" for name in ("reliability", "risk_coverage", "confusion")]
    _draw_reliability(found, paths[0])
    _draw_risk_coverage(found, paths[1])
    _draw_confusion(found, paths[2])
    chosen, title = _chosen(found, of_class)
    if chosen:
        paths.append(folder / "precision_recall.png")
        _draw_precision_recall(found, chosen, title, paths[3])
    return paths


def _csv(columns: dict[str, np.ndarray]) -> str:
    rows = zip(*(column.tolist() for column in columns.values()), strict=True)
    return csv_text(list(columns), rows).rstrip("\n")


def _calibrator_line(report: dict[str, Any]) -> str:
    fitted = report["calibrator"]
    if fitted is None:
        return f"No calibrated figures: {report['calibrated_reason']}."
    temperature = f", T = {fitted['temperature']:.4f}" if "temperature" in fitted else ""
    where = report["validation"] if report["n_validation"] else fitted["fitted_on"]
    return (
        f"Calibrated by {fitted['name']} on {counted(fitted['n'], 'row')} ({where}), labels "
        f"{fitted['labels_used']}{temperature}; this changes the order of "
        "confidences, so AURC may move either way"
    )


def _cell(stage: dict[str, Any] | None, name: str) -> str:
    if stage is None:
        return "-"
    row = stage["figures"][name]
    if "lower" in row and not math.isnan(row["lower"]):
        return f"{row['value']:.4f} [{row['lower']:.4f}, {row['upper']:.4f}]"
    return f"{row['value']:.4f}"


def _without_interval(report: dict[str, Any]) -> str:
    """Figures whose bounds are unknown, with the reason."""
    if report["n_groups"] == 1:
        return "all rows are of one group"
    bare = [
        name
        for name in _SHOWN
        if "lower" in (row := report["uncalibrated"]["figures"][name])
        and math.isnan(row["lower"])
        and not math.isnan(row["value"])
    ]
    # Averages over classes have none where a class has few rows, whatever the rows show.
    figures = report["uncalibrated"]["figures"]
    few = [name for name in bare if name in RANKED and figures[name]["value"] < 1]
    alike = [name for name in bare if name not in few]
    reasons = [
        f"{', '.join(names)}, for {why}"
        for names, why in (
            (alike, "all rows show the same"),
            (few, "a class has fewer than 10 rows"),
        )
        if names
    ]
    return "; ".join(reasons)


def _errors(errors: dict[str, float]) -> str:
    return "; ".join(
        f"{name} {value:.4f} ({CONVENTIONS[name]})"
        for name, value in errors.items()
        if name != "ece"
    )


def _selection(name: str, pick: dict[str, float]) -> str:
    if math.isnan(pick["risk"]):
        return f"{name}: coverage 0, for no threshold reaches it (what these rows show, no promise)"
    return (
        f"{name}: coverage {pick['coverage']:.3f}, risk {pick['risk']:.4f}, "
        f"threshold {pick['threshold']:.4g} (what these rows show, no promise)"
    )


def _class_lines(report: dict[str, Any]) -> list[str]:
    lines = [f"{'class':14}{'n':>6} {'recall':20} {'precision':20} {'f1':5} {'auroc':5} auprc"]
    for row in report["per_class"]:
        recall, precision = (
            _bounded(row[name], row[f"{name}_interval"].lower, row[f"{name}_interval"].upper)
            for name in ("recall", "precision")
        )
        lines.append(
            f"{row['class'][:14]:14}{row['n']:6} {recall:20} {precision:20} {_share(row['f1']):5} "
            f"{_share(row['auroc']):5} {_share(row['auprc'])}"
        )
    return lines


def _share(value: float) -> str:
    """A share, a dash where there is none, as of rows of a class that is never predicted."""
    return "-" if math.isnan(value) else f"{value:.3f}"


def _bounded(value: float, lower: float, upper: float) -> str:
    """A share with its interval, alone where that is not known."""
    if math.isnan(lower) or math.isnan(upper):
        return _share(value)
    return f"{value:.3f} [{lower:.3f}, {upper:.3f}]"


def _guarantee_lines(report: dict[str, Any]) -> list[str]:
    found = report["guarantee"]
    if found is None:
        return []
    promise = f"Guarantee ({found['method']}): P(risk of {found['unit']} > {found['risk']:g}) <= "
    if found["coverage"] == 0:
        return [
            f"{promise}{found['delta']:g} holds for no threshold on "
            f"{counted(found['n'], 'row')}: abstain."
        ]
    return [
        f"{promise}{found['delta']:g} with uncalibrated confidence >= {found['threshold']:.6g}, "
        f"from {found['n']:,} {_guaranteed_by(found)}; on test "
        f"rows coverage {found['test_coverage']:.3f}, risk {found['test_risk']:.4f}"
    ]


def _guaranteed_by(found: dict[str, Any]) -> str:
    if "folds" in found:
        return f"rows or more of the other of {found['folds']} folds (thresholds differ by fold)"
    return "validation rows that must not have chosen the model"


def _positive_lines(report: dict[str, Any]) -> list[str]:
    found = report["positive"]
    if found is None:
        return []
    title = f"Positive = {', '.join(found['classes'])} (sum of probabilities)"
    if found["reason"]:
        lines = [f"{title}: {found['reason']}."]
    else:
        where = "validation rows"
        if "folds" in found:
            where = f"the other folds of {found['folds']} by group; the mean one is shown"
        lines = [title + f", thresholds from {where}"]
        at = [("Sens@95Spec", found["sens_at_95_spec"])]
        at += [(f"sensitivity {p['target']:g}", p) for p in found["operating_points"]]
        table = [["", "threshold", "sensitivity", "specificity"]]
        for name, point in at:
            low, high = point["sensitivity_interval"]
            reached = _bounded(point["sensitivity"], low, high)
            specificity = _share(point["specificity"])
            table.append([name, f"{point['threshold']:.4f}", reached, specificity])
        lines += aligned(table, right=True)
    sweep = ", ".join(
        f"{p['threshold']:g}: {p['sensitivity']:.3f} / {p['specificity']:.3f}"
        for p in found["thresholds"]
    )
    lines.append(f"  sensitivity / specificity at fixed thresholds: {sweep}")
    own = found["predicted"]
    shares = [
        f"{name} {_bounded(own[name], *own[f'{name}_interval'])}"
        for name in ("sensitivity", "specificity")
    ]
    lines.append(
        f"  by the predicted class: {', '.join(shares)} ({own['n_positive']:,} positive, "
        f"{own['n_negative']:,} negative)"
    )
    for name, gaps in report["gaps"].items():
        out = f", without {', '.join(gaps['left_out'])}" if gaps["left_out"] else ""
        lines.append(
            f"  Equalised odds by {name}{out}: gaps of sensitivity {gaps['sensitivity']:.3f}, "
            f"specificity {gaps['specificity']:.3f}, F1 {gaps['f1']:.3f}; largest "
            f"{gaps['largest']:.3f}; by chance: what random groups of these sizes stay below in "
            "95 %"
        )
        table = [["", "gap", "by chance"]]
        for figure, gap in gaps["intervals"].items():
            own_gap = _bounded(gap["value"], gap["lower"], gap["upper"])
            table.append([figure, own_gap, f"{gap['by_chance']:.3f}"])
        lines += aligned(table, right=True)
    return lines


def _slice_lines(report: dict[str, Any]) -> list[str]:
    lines = []
    for name, rows in report["slices"].items():
        lines.append(f"Slices of {name} (uncalibrated)")
        shown = ("accuracy", "ece", "augrc")
        cells = [[row["value"][:22], str(row["n"]), *_with_bounds(row, shown)] for row in rows]
        lines += aligned([["", "n", *shown], *cells], right=True)
    return lines


def _with_bounds(row: dict[str, Any], shown: Sequence[str]) -> list[str]:
    every = [row["figures"][figure] for figure in shown]
    return [_bounded(own.value, own.lower, own.upper) for own in every]


def _group_lines(report: dict[str, Any]) -> list[str]:
    """One table a column: what every group of people gets."""
    lines = []
    for name, rows in report["groups"].items():
        if not rows:
            continue
        figures = [figure for figure in rows[0] if figure not in ("group", "n")]
        lines.append(f"Groups of {name} (uncalibrated; groups of one row are left out)")
        table = [["", "n", *(figure.replace("_", " ") for figure in figures)]]
        for row in rows:
            cells = [
                str(row[figure]) if figure == "n_positive" else f"{row[figure]:.3f}"
                for figure in figures
            ]
            table.append([row["group"][:22], str(row["n"]), *cells])
        lines += aligned(table, right=True)
    return lines


def _condition_lines(report: dict[str, Any]) -> list[str]:
    if not report["conditions"]:
        return []
    shown = ("accuracy", "ece", "augrc")
    table = [["", *shown]]
    for name, figures in report["conditions"].items():
        cells = []
        for figure in shown:
            own = figures[figure]
            cells.append(
                f"{own['value']:.3f} ({own['difference']:+.3f} "
                f"[{own['lower']:+.3f}, {own['upper']:+.3f}])"
            )
        if "ece_calibrated" in figures:
            cells.append(f"{figures['ece_calibrated']['value']:.3f}")
        table.append([name[:24], *cells])
    if len(table[-1]) > len(table[0]):
        table[0].append("ece after the calibrator")
    title = "Conditions on the same rows; difference to the evaluated predictions, paired"
    return [title, *aligned(table)]


def _external_lines(report: dict[str, Any]) -> list[str]:
    shown = ("accuracy", "macro_f1", "nll", "ece", "aurc", "augrc")
    lines = []
    for name, own in report["external"].items():
        lines.append(f"External {name}: {counted(own['n'], 'row')}")
        lines.append(f"  {'':18}" + "".join(f"{figure:>10}" for figure in shown))
        for stage, figures in own["stages"].items():
            cells = [f"{figures[f]:.4f}" if f in figures else "" for f in shown]
            lines.append(f"  {stage:18}" + "".join(f"{cell:>10}" for cell in cells))
        recall = ", ".join(f"{c} {v:.3f}" for c, v in own["recall"].items() if v is not None)
        lines.append(f"  recall: {recall}")
        for kind, shares in (own["frequencies"] or {}).items():
            lines.append(
                f"  {kind:8} frequencies: " + ", ".join(f"{c} {v:.3f}" for c, v in shares.items())
            )
        if own["absent"]:
            lines.append(f"  no row is {', '.join(own['absent'])}")
        lines += [f"  {note}" for note in own["notes"]]
    if any("reweighted" in own["stages"] for own in report["external"].values()):
        lines += [f"{stage}: {meaning}." for stage, meaning in STAGES.items()]
    return lines


def _draw_reliability(found: Evaluation, path: Path) -> None:
    figure, axes = new_canvas()
    edges = np.arange(ECE_BINS + 1) / ECE_BINS
    counts = axes.twinx()
    for index, stage in enumerate(found.stages):
        bins = edges[1:-1].searchsorted(stage.top, "left")
        n = np.bincount(bins, minlength=ECE_BINS)
        used = np.flatnonzero(n)
        confidence = np.bincount(bins, weights=stage.top, minlength=ECE_BINS)[used] / n[used]
        right = np.bincount(bins, weights=~stage.wrong, minlength=ECE_BINS)[used]
        share = right / n[used]
        bounds = np.array(
            [share_interval(int(k), int(m)) for k, m in zip(right, n[used], strict=True)]
        )
        shift = (0.004, -0.004)[index]
        ece = found.report[stage.name]["figures"]["ece"]["value"]
        axes.errorbar(
            confidence + shift,
            share,
            # A share of 1 may exceed its upper bound by rounding.
            yerr=np.maximum(np.abs(bounds.T - share), 0),
            color=COLOURS[index],
            marker="os"[index],
            markersize=4,
            linewidth=1.2,
            elinewidth=0.8,
            label=f"{stage.name}, ECE {ece:.3f}",
        )
        width = 1 / ECE_BINS / (2 * len(found.stages))
        middle = (edges[:-1] + edges[1:]) / 2 + (index - (len(found.stages) - 1) / 2) * width
        counts.bar(middle, n, width=width, color=COLOURS[index], alpha=0.25)
    axes.plot([0, 1], [0, 1], color="#777777", linestyle=":", linewidth=1, label="perfect")
    # Counts stay below the points: a fifth of the height.
    highest = max(1, round(counts.dataLim.y1))
    counts.set_ylim(0, 5 * highest)
    counts.set_yticks([0, highest])
    counts.set_ylabel("rows in bin (bars)", color="#777777")
    counts.spines[["top"]].set_visible(False)
    counts.tick_params(colors="#777777")
    axes.set_xlim(0, 1.01)
    axes.set_ylim(0, 1.02)
    axes.set_xlabel("confidence: mean largest probability of the bin")
    axes.set_ylabel("share right, with 95 % interval")
    axes.set_title(f"Reliability, {ECE_BINS} bins of equal width: {found.report['source']}")
    draw_legend(axes)
    save_plot(figure, path)


def _draw_risk_coverage(found: Evaluation, path: Path) -> None:
    figure, axes = new_canvas()
    highest = 0.0
    for index, stage in enumerate(found.stages):
        own = found.report[stage.name]
        curve = thin_curve(risk_coverage_curve(stage.wrong, stage.confidence), points=400)
        steady = curve.risk[curve.coverage >= 0.05]
        highest = max(highest, float(steady.max()) if len(steady) else float(curve.risk.max()))
        axes.plot(
            curve.coverage,
            curve.risk,
            color=COLOURS[index],
            linestyle=("-", "--")[index],
            linewidth=1.5,
            label=f"{stage.name}, AUGRC {own['figures']['augrc']['value']:.4f}",
        )
        picks = own["selections"].values()
        axes.scatter(
            [pick["coverage"] for pick in picks],
            [pick["risk"] for pick in picks],
            color=COLOURS[index],
            marker="os"[index],
            s=22,
            zorder=3,
            label=None if index else "risk .05; coverage .9, .8, .7",
        )
    axes.set_xlim(0, 1.005)
    axes.set_ylim(0, 1.25 * highest or 1)
    axes.set_xlabel("coverage: share of rows answered, most confident first")
    axes.set_ylabel("selective risk: share of answers that are wrong")
    axes.set_title(f"What confidence is worth: {found.report['source']}")
    draw_legend(axes)
    save_plot(figure, path)


def _draw_confusion(found: Evaluation, path: Path) -> None:
    figure, axes = new_canvas()
    stage, classes = found.stages[-1], found.rows.classes
    k = len(classes)
    predicted = stage.probs.argmax(axis=1)
    counts = np.bincount(found.rows.labels * k + predicted, minlength=k * k).reshape(k, k)
    totals = counts.sum(axis=1, keepdims=True)
    shares = counts / np.maximum(totals, 1)
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1, aspect="auto")
    axes.grid(False)
    if k <= 20:
        for row in range(k):
            for column in range(k):
                if counts[row, column]:
                    colour = "white" if shares[row, column] > 0.55 else "black"
                    text = f"{shares[row, column]:.0%}\n{counts[row, column]}"
                    axes.text(column, row, text, ha="center", va="center", fontsize=6, color=colour)
    axes.set_xticks(range(k), classes, rotation=45, ha="right", fontsize=7)
    rows = [f"{name} ({n})" for name, n in zip(classes, totals[:, 0], strict=True)]
    axes.set_yticks(range(k), rows, fontsize=7)
    axes.set_xlabel("predicted")
    axes.set_ylabel("true (rows)")
    axes.set_title(f"Confusion, {stage.name}: {found.report['source']}")
    save_plot(figure, path)


def _chosen(found: Evaluation, of_class: str | None) -> tuple[list[int], str]:
    classes = found.rows.classes
    if of_class is not None:
        return list(class_positions(classes, [of_class])), of_class
    if found.positive:
        return list(found.positive), "+".join(classes[c] for c in found.positive)
    counts = np.bincount(found.rows.labels, minlength=len(classes))
    usable = np.flatnonzero((counts > 0) & (counts < len(found.rows)))
    if not len(usable):
        return [], ""
    rarest = int(usable[np.argmin(counts[usable])])
    return [rarest], classes[rarest]


def _draw_precision_recall(found: Evaluation, chosen: list[int], title: str, path: Path) -> None:
    figure, axes = new_canvas()
    truth = np.isin(found.rows.labels, chosen)
    for index, stage in enumerate(found.stages):
        score = positive_score(stage.probs, chosen)
        order = np.argsort(-score, kind="stable")
        last = np.append(np.diff(score[order]) != 0, True)
        hits, called = np.cumsum(truth[order])[last], np.flatnonzero(last) + 1
        recall, precision = hits / max(truth.sum(), 1), hits / called
        area = float((np.diff(recall, prepend=0) * precision).sum())
        axes.step(
            recall,
            precision,
            where="pre",
            color=COLOURS[index],
            linestyle=("-", "--")[index],
            linewidth=1.5,
            label=f"{stage.name}, average precision {area:.3f}",
        )
    frame_precision_recall(axes, truth, title)
    save_plot(figure, path)
