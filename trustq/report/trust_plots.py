"""Pictures of a trust table: severity, shifts, slices, reliability, risk and more."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from trustq.evaluation.conditions import CLEAN
from trustq.evaluation.trust_figures import LEVELS, LOWER
from trustq.evaluation.trust_sources import Source
from trustq.evaluation.trust_table import BASELINE
from trustq.experiments.trust import TrustRun
from trustq.metrics.classification import ECE_BINS
from trustq.metrics.per_class import class_positions
from trustq.metrics.selective import risk_coverage_curve, thin_curve
from trustq.report.plots import (
    arm_style,
    draw_legend,
    frame_precision_recall,
    new_canvas,
    save_plot,
)
from trustq.statistics.paired import share_interval

SHOWN = ("accuracy", "ece", "augrc")  # the figures of severity lines, bars of shifts and of slices
_STEADY = 0.05  # the first few rows make a risk of anything


def draw_trust(
    run: TrustRun, folder: Path, *, of_class: str | None = None, suffix: str = ".png"
) -> list[Path]:
    """Draw every picture that the table has something for; returns their paths, in order.

    Reliability and precision-recall are of the first network or head; `of_class` is the class of
    the latter, else the positive ones, else the rarest.
    """
    paths = []
    for name, draw in _PICTURES.items():
        path = folder / f"{name}{suffix}"
        if draw(run, path, of_class):
            paths.append(path)
    return paths


CAPTIONS = {
    "reliability": "Reliability on clean rows, before and after temperature",
    "risk_coverage": "Risk over coverage of every source, clean rows; marks at .5, .7, .9",
    "severity": "What each corruption costs as it grows, softmax",
    "shifts": "Shifts: difference to clean with 95 % interval, softmax",
    "slices": "Slices of clean rows with 95 % interval, softmax",
    "confusion": "Confusion on clean rows, each true class 100 %",
    "precision_recall": "Precision and recall of one class, clean and where it is worst",
    "uncertainty": "Uncertainty of right and wrong rows",
}


def _reliability(run: TrustRun, path: Path, _: str | None) -> bool:
    figure, axes = new_canvas()
    edges = np.arange(1, ECE_BINS) / ECE_BINS
    member = run.judged.members[0].name
    labels = run.judged.labels
    for index, name in enumerate(("softmax", "temperature")):
        source = _source(run, CLEAN, name, member)
        if source is None:
            continue
        outputs = source.outputs
        bins = edges.searchsorted(outputs.top, "left")
        n = np.bincount(bins, minlength=ECE_BINS)
        used = np.flatnonzero(n)
        confidence = np.bincount(bins, weights=outputs.top, minlength=ECE_BINS)[used] / n[used]
        right = np.bincount(bins, weights=outputs.predicted == labels, minlength=ECE_BINS)[used]
        share = right / n[used]
        bounds = np.array(
            [share_interval(int(k), int(m)) for k, m in zip(right, n[used], strict=True)]
        )
        ece = np.abs(
            np.bincount(bins, weights=(outputs.predicted == labels) - outputs.top)
        ).sum() / len(labels)
        style = arm_style(index)
        axes.errorbar(
            confidence + (0.004, -0.004)[index],
            share,
            yerr=np.maximum(np.abs(bounds.T - share), 0),
            linewidth=1.2,
            elinewidth=0.8,
            label=f"{('before', 'after temperature')[index]}, ECE {ece:.3f}",
            **style,
        )
    axes.plot([0, 1], [0, 1], color="#777777", linestyle=":", linewidth=1, label="perfect")
    axes.set_xlim(0, 1.01)
    axes.set_ylim(0, 1.02)
    axes.set_xlabel("confidence: mean largest probability of the bin")
    axes.set_ylabel("share right, with 95 % interval")
    axes.set_title(f"Reliability of {member}, {ECE_BINS} bins of equal width")
    draw_legend(axes)
    save_plot(figure, path)
    return True


def _risk_coverage(run: TrustRun, path: Path, _: str | None) -> bool:
    figure, axes = new_canvas()
    labels, highest = run.judged.labels, 0.0
    for index, name in enumerate(run.table.sources):
        source = _source(run, CLEAN, name)
        if source is None:
            continue
        wrong = source.outputs.predicted != labels
        whole = risk_coverage_curve(wrong, source.confidence)
        curve = thin_curve(whole, points=300)
        steady = curve.risk[curve.coverage >= _STEADY]
        highest = max(highest, float(steady.max()) if len(steady) else 0.0)
        row = run.table.value(CLEAN, name, "augrc")
        style = arm_style(index)
        at = np.searchsorted(whole.coverage, [q - 1e-9 for q in LEVELS])
        at = np.minimum(at, len(whole.coverage) - 1)
        axes.plot(
            curve.coverage,
            curve.risk,
            color=style["color"],
            linestyle=style["linestyle"],
            linewidth=1.2,
        )
        axes.plot(
            whole.coverage[at],
            whole.risk[at],
            linewidth=0,
            color=style["color"],
            marker=style["marker"],
            markersize=4,
            label=f"{name.replace('_', ' ')}, AUGRC {row['value'] if row else np.nan:.4f}",
        )
    axes.set_xlim(0, 1.005)
    axes.set_ylim(0, 1.15 * highest or 1)
    axes.set_xlabel("coverage: share of rows answered, surest first")
    axes.set_ylabel("share of answers that are wrong")
    axes.set_title("What each source's confidence is worth, clean rows")
    draw_legend(axes)
    save_plot(figure, path)
    return True


def _severity(run: TrustRun, path: Path, _: str | None) -> bool:
    families: dict[str, list[Any]] = {}
    for one in run.table.conditions:
        if one.severity is not None:
            families.setdefault(one.family, []).append(one)
    families = {name: own for name, own in families.items() if len(own) > 1}
    if not families:
        return False
    figure, panels = _panels(len(SHOWN))
    for axes, metric in zip(panels, SHOWN, strict=True):
        clean = run.table.value(CLEAN, BASELINE, metric)
        for index, (name, own) in enumerate(families.items()):
            rows = [run.table.value(one.name, BASELINE, metric) for one in own]
            there = [(one.severity, row) for one, row in zip(own, rows, strict=True) if row]
            x = [0, *(severity for severity, _ in there)]
            values = [clean["value"] if clean else np.nan, *(row["value"] for _, row in there)]
            style = arm_style(index)
            axes.plot(x, values, linewidth=1.3, label=name.replace("_", " "), **style)
            base = values[0]
            lower = [base, *(base + row["delta_lower"] for _, row in there)]
            upper = [base, *(base + row["delta_upper"] for _, row in there)]
            axes.fill_between(x, lower, upper, color=style["color"], alpha=0.1, linewidth=0)
        axes.set_xticks(range(1 + max(one.severity for own in families.values() for one in own)))
        axes.set_xlabel("severity (0: clean)")
        axes.set_title(_title(metric))
    _legend_below(figure, panels[0])
    save_plot(figure, path)
    return True


def _shifts(run: TrustRun, path: Path, _: str | None) -> bool:
    names = [one.name for one in run.table.conditions if one.kind == "shift"]
    if not names:
        return False
    figure, panels = _panels(len(SHOWN), height=1.2 + 0.3 * len(names), share_y=True)
    for axes, metric in zip(panels, SHOWN, strict=True):
        rows = [run.table.value(name, BASELINE, metric) for name in names]
        values = [row["delta"] if row else np.nan for row in rows]
        _bars(axes, values, [_reach(row, "delta") for row in rows], names)
        axes.axvline(0, color="#777777", linewidth=0.8)
        axes.set_title(f"{_title(metric)}, less clean")
    save_plot(figure, path)
    return True


def _slices(run: TrustRun, path: Path, _: str | None) -> bool:
    wanted = [
        row
        for row in run.table.rows
        if row["slice_name"] and row["condition"] == CLEAN and row["source"] == BASELINE
    ]
    names = list(dict.fromkeys((row["slice_name"], row["slice_value"]) for row in wanted))
    if not names:
        return False
    figure, panels = _panels(len(SHOWN), height=1.2 + 0.26 * len(names), share_y=True)
    for axes, metric in zip(panels, SHOWN, strict=True):
        own = {
            (row["slice_name"], row["slice_value"]): row
            for row in wanted
            if row["metric"] == metric
        }
        shown = [f"{a} = {b} ({own[a, b]['n']})" for a, b in names]
        _bars(axes, [own[n]["value"] for n in names], [_reach(own[n], "") for n in names], shown)
        whole = run.table.value(CLEAN, BASELINE, metric)
        if whole:
            axes.axvline(whole["value"], color="#777777", linestyle=":", linewidth=1)
        axes.set_title(_title(metric))
    save_plot(figure, path)
    return True


def _confusion(run: TrustRun, path: Path, _: str | None) -> bool:
    source = _source(run, CLEAN, BASELINE)
    if source is None:
        return False
    figure, axes = new_canvas()
    classes, labels = run.judged.classes, run.judged.labels
    k = len(classes)
    counts = np.bincount(labels * k + source.outputs.predicted, minlength=k * k).reshape(k, k)
    totals = counts.sum(axis=1, keepdims=True)
    shares = counts / np.maximum(totals, 1)
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1, aspect="auto")
    axes.grid(False)
    for row, column in zip(*np.nonzero(counts if k <= 20 else 0 * counts), strict=True):
        colour = "white" if shares[row, column] > 0.55 else "black"
        text = f"{shares[row, column]:.0%}\n{counts[row, column]}"
        axes.text(column, row, text, ha="center", va="center", fontsize=6, color=colour)
    axes.set_xticks(range(k), classes, rotation=45, ha="right", fontsize=7)
    rows = [f"{name} ({n})" for name, n in zip(classes, totals[:, 0], strict=True)]
    axes.set_yticks(range(k), rows, fontsize=7)
    axes.set_xlabel("predicted")
    axes.set_ylabel("true (rows)")
    axes.set_title(f"Confusion of {run.judged.members[0].name}, clean rows")
    save_plot(figure, path)
    return True


def _precision_recall(run: TrustRun, path: Path, of_class: str | None) -> bool:
    labels, classes = run.judged.labels, run.judged.classes
    chosen = list(class_positions(classes, [of_class] if of_class else run.positive))
    if not chosen:
        counts = np.bincount(labels, minlength=len(classes))
        usable = np.flatnonzero((counts > 0) & (counts < len(labels)))
        if not len(usable):
            return False
        chosen = [int(usable[np.argmin(counts[usable])])]
    title = "+".join(classes[c] for c in chosen)
    truth = np.isin(labels, chosen)
    figure, axes = new_canvas()
    areas = []
    for one in run.table.conditions:
        source = _source(run, one.name, BASELINE)
        if source is not None:
            areas.append((one.name, *_precision_recall_of(truth, source, chosen)))
    worst = sorted(areas[1:], key=lambda area: area[3])[:3]
    for index, (name, recall, precision, area) in enumerate([areas[0], *worst]):
        style = arm_style(index)
        axes.step(
            recall,
            precision,
            where="pre",
            color=style["color"],
            linestyle=("-", "--", "-.", ":")[index],
            linewidth=1.4,
            label=f"{name}, average precision {area:.3f}",
        )
    frame_precision_recall(axes, truth, title)
    save_plot(figure, path)
    return True


def _precision_recall_of(
    truth: np.ndarray, source: Source, chosen: Sequence[int]
) -> tuple[np.ndarray, np.ndarray, float]:
    score = source.outputs.probs[:, list(chosen)].sum(axis=1)
    order = np.argsort(-score, kind="stable")
    last = np.append(np.diff(score[order]) != 0, True)
    hits, called = np.cumsum(truth[order])[last], np.flatnonzero(last) + 1
    recall, precision = hits / max(int(truth.sum()), 1), hits / called
    return recall, precision, float((np.diff(recall, prepend=0) * precision).sum())


# Confidences whose values say something by themselves, with what their negative is called.
_MEASURES = {
    "softmax": "1 - top probability",
    "entropy": "predictive entropy",
    "passes_information": "mutual information of passes",
    "augmentation_spread": "spread over symmetries",
    "ensemble_information": "mutual information of all members",
}


def _uncertainty(run: TrustRun, path: Path, _: str | None) -> bool:
    found = [(name, _source(run, CLEAN, name)) for name in _MEASURES]
    shown = [(name, source) for name, source in found if source is not None]
    figure, panels = _panels(len(shown), height=2.8)
    for axes, (name, source) in zip(panels, shown, strict=True):
        right = source.outputs.predicted == run.judged.labels
        values = 1 - source.outputs.top if name == "softmax" else -source.confidence
        edges = np.linspace(0, max(float(values.max()), 1e-9), 25)
        for index, (kept, said) in enumerate(((right, "right"), (~right, "wrong"))):
            if kept.any():
                axes.hist(
                    values[kept],
                    bins=edges,
                    weights=np.full(int(kept.sum()), 1 / kept.sum()),
                    histtype="stepfilled" if index == 0 else "step",
                    color=arm_style(index)["color"],
                    alpha=0.35 if index == 0 else 1.0,
                    linewidth=1.4,
                    label=f"{said} ({int(kept.sum())})",
                )
        row = run.table.value(CLEAN, name, "failure_auroc")
        axes.set_title(f"{_MEASURES[name]}\nfailure AUROC {row['value'] if row else np.nan:.3f}")
        axes.title.set_fontsize(8)
        axes.set_ylabel("share of right, of wrong rows")
        axes.legend(frameon=False, fontsize=7)
    save_plot(figure, path)
    return True


_PICTURES: dict[str, Any] = {
    "reliability": _reliability,
    "risk_coverage": _risk_coverage,
    "severity": _severity,
    "shifts": _shifts,
    "slices": _slices,
    "confusion": _confusion,
    "precision_recall": _precision_recall,
    "uncertainty": _uncertainty,
}


def _source(run: TrustRun, condition: str, name: str, member: str | None = None) -> Source | None:
    """A source of the first member that has it, or of one member."""
    for cell in run.cells:
        if cell.condition == condition and cell.source == name and member in (None, cell.member):
            return cell.value
    return None


def _panels(n: int, *, height: float = 3.2, share_y: bool = False) -> tuple[Any, list[Any]]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(3.2 * n, height), dpi=150, layout="constrained")
    panels = np.atleast_1d(figure.subplots(1, n, sharey=share_y)).tolist()
    for axes in panels:
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(color="#DDDDDD", linewidth=0.5)
        axes.set_axisbelow(True)
        axes.title.set_fontsize(9)
        axes.tick_params(labelsize=7)
    return figure, panels


def _bars(axes: Any, values: Sequence[float], reach: Sequence[Any], names: Sequence[str]) -> None:
    places = np.arange(len(names))[::-1]
    axes.barh(places, values, color=arm_style(0)["color"], alpha=0.6, height=0.7)
    for place, bounds in zip(places, reach, strict=True):
        if bounds is not None:
            axes.plot(bounds, [place, place], color="#333333", linewidth=1)
    axes.set_yticks(places, names, fontsize=7)
    axes.grid(axis="y", visible=False)


def _reach(row: dict[str, Any] | None, prefix: str) -> tuple[float, float] | None:
    if row is None:
        return None
    lower, upper = (row[f"{prefix}_{end}" if prefix else end] for end in ("lower", "upper"))
    return None if np.isnan(lower) else (lower, upper)


def _legend_below(figure: Any, axes: Any) -> None:
    handles, names = axes.get_legend_handles_labels()
    figure.legend(
        handles,
        names,
        loc="outside upper center",
        frameon=False,
        fontsize=7,
        ncols=min(6, len(names)),
    )


def _title(metric: str) -> str:
    said = {"ece": "ECE", "augrc": "AUGRC"}.get(metric, metric.replace("_", " "))
    return f"{said} ({'less' if metric in LOWER else 'more'} is better)"
