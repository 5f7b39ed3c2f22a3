"""The trust table for people: a page of text, an HTML page, and the files that notebooks read."""

import base64
import math
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import Any

from trustq.core.atomic_files import replacing
from trustq.core.counts import counted
from trustq.core.prose import folded
from trustq.core.safety import DISCLAIMER
from trustq.core.spreadsheets import csv_text
from trustq.evaluation.conditions import CLEAN, KINDS
from trustq.evaluation.trust_figures import LEVELS, LOWER, METRICS
from trustq.evaluation.trust_sources import SOURCES
from trustq.evaluation.trust_table import BASELINE, JUDGED_BY
from trustq.experiments.trust import TrustRun
from trustq.report.text import aligned, to_json
from trustq.report.trust_plots import CAPTIONS, draw_trust

FEW_GROUPS = 20  # of one size: percentiles of fewer hold the truth in less than 90 % of studies
SHOWN = ("accuracy", "balanced_accuracy", "macro_auroc", "ece", "augrc", "failure_auroc")
_POSITIVE = ("sens_at_95_spec", "sensitivity_clean_threshold", "specificity_clean_threshold")
_SEPARATORS = {"clean": "Clean", "corruption": "Corruptions", "shift": "Shifts"}


def trust_text(run: TrustRun) -> str:
    """The page as text: conditions by figures, sources by conditions, the worst, the best."""
    lines = [_head(run), *_how(run), ""]
    for title, head, rows in _tables(run):
        lines += [title, *aligned([head, *rows], keys=1 if head[0] else 2), ""]
    lines += [f"Note: {note}." for note in run.notes]
    return "\n".join([*lines, DISCLAIMER])


def trust_html(run: TrustRun, pictures: Sequence[Path]) -> str:
    """The page as one HTML file without any network: tables that sort, pictures, notes.

    `pictures` are the files that `draw_trust` wrote; the page holds their bytes.
    """
    from jinja2 import Environment, StrictUndefined

    figures = [
        {
            "caption": CAPTIONS[path.stem],
            "wide": path.stem in ("severity", "shifts", "slices", "uncertainty"),
            "data": base64.b64encode(path.read_bytes()).decode(),
        }
        for path in pictures
    ]
    template = resources.files("trustq.report").joinpath("trust.html").read_text("utf-8")
    environment = Environment(autoescape=True, undefined=StrictUndefined)
    tables = [
        {"name": title, "head": head, "rows": [[_cell(text) for text in row] for row in rows]}
        for title, head, rows in _tables(run)
    ]
    return environment.from_string(template).render(
        title=f"Can the confidence be trusted: {run.judged.dataset}",
        head=_head(run),
        how=_how(run),
        tables=tables,
        figures=figures,
        notes=run.notes,
        meanings={name: SOURCES[name] for name in run.table.sources},
        metrics={name: METRICS[name] for name in METRICS},
        slices=_slice_tables(run),
        disclaimer=DISCLAIMER,
    )


def write_trust(run: TrustRun, folder: Path, *, of_class: str | None = None) -> list[Path]:
    """Write page, table, JSON in the layout of notebooks, and pictures; returns their paths.

    `metrics_{clean,corruptions,shifts,slices}.json`, `delta_{corruptions,shifts,slices}.json`,
    `calibration.json`, `risk_coverage_summary.json`, `tests.json`, `trust.csv`, `page.txt`,
    `trust.html` and the pictures of `CAPTIONS`.
    """
    pictures = draw_trust(run, folder, of_class=of_class)
    texts = {
        "page.txt": folded(trust_text(run)),
        "trust.html": trust_html(run, pictures),
        "trust.csv": _csv(run),
        **{name: to_json(value) for name, value in notebook_files(run).items()},
    }
    paths = []
    for name, text in texts.items():
        paths.append(folder / name)
        with replacing(paths[-1]) as part:
            part.write_text(text.rstrip("\n") + "\n", encoding="utf-8")
    return paths + pictures


def notebook_files(run: TrustRun) -> dict[str, Any]:
    """What a notebook's own files hold, by their names, for JSON.

    Metrics map condition (or slice, then its value), source and metric to the figure; deltas the
    same to `delta`, `lower` and `upper`. Of slices both are of clean rows; their delta is to all
    rows, without an interval, for the two are not paired.
    """
    metrics: dict[str, Any] = {kind: {} for kind in KINDS}
    deltas: dict[str, Any] = {"corruption": {}, "shift": {}}
    slices: dict[str, Any] = {}
    slice_deltas: dict[str, Any] = {}
    for row in run.table.rows:
        source, metric = row["source"], row["metric"]
        if row["slice_name"] is None:
            place = metrics[row["kind"]]
            if row["kind"] != "clean":
                place = place.setdefault(row["condition"], {})
                deltas[row["kind"]].setdefault(row["condition"], {}).setdefault(source, {})[
                    metric
                ] = {end: row[name] for end, name in _DELTA.items()}
            place.setdefault(source, {})[metric] = row["value"]
        elif row["condition"] == CLEAN:
            own = slices.setdefault(row["slice_name"], {}).setdefault(row["slice_value"], {})
            own.setdefault("n", row["n"])
            own.setdefault(source, {})[metric] = row["value"]
            whole = run.table.value(CLEAN, source, metric)
            if whole is not None:
                slice_deltas.setdefault(row["slice_name"], {}).setdefault(
                    row["slice_value"], {}
                ).setdefault(source, {})[metric] = {"delta": row["value"] - whole["value"]}
    return {
        "metrics_clean.json": metrics["clean"],
        "metrics_corruptions.json": metrics["corruption"],
        "metrics_shifts.json": metrics["shift"],
        "metrics_slices.json": slices,
        "delta_corruptions.json": deltas["corruption"],
        "delta_shifts.json": deltas["shift"],
        "delta_slices.json": slice_deltas,
        "calibration.json": _calibration(run),
        "risk_coverage_summary.json": _risk_coverage(run),
        "tests.json": {"family": run.table.family, "tests": run.table.wins},
    }


_DELTA = {"delta": "delta", "lower": "delta_lower", "upper": "delta_upper"}


def _calibration(run: TrustRun) -> dict[str, Any]:
    """Temperatures, and calibration before and after them under every condition."""
    names = ("nll", "brier", "ece")
    return {
        "temperature": run.temperatures,
        "fitted_on": run.thresholds_from if run.temperatures else None,
        "bins": "15 of equal width, top label, L1",
        "conditions": {
            one.name: {
                stage: {name: _value(run, one.name, source, name) for name in names}
                for stage, source in _STAGES.items()
            }
            for one in run.table.conditions
        },
    }


_STAGES = {"before": "softmax", "after": "temperature"}


def _risk_coverage(run: TrustRun) -> dict[str, Any]:
    """AURC and operating points of every condition, before and after temperature."""
    found: dict[str, Any] = {}
    for one in run.table.conditions:
        found[one.name] = {}
        for stage, source in _STAGES.items():
            points = {
                f"{q:g}": {
                    "risk": _value(run, one.name, source, f"risk_at_coverage_{q:g}"),
                    "threshold": _value(run, one.name, source, f"threshold_at_coverage_{q:g}"),
                }
                for q in LEVELS
            }
            at = {
                f"{t:g}": {
                    "coverage": _value(run, one.name, source, f"coverage_at_{t:g}"),
                    "risk": _value(run, one.name, source, f"risk_at_{t:g}"),
                }
                for t in LEVELS
            }
            found[one.name][stage] = {
                name: _value(run, one.name, source, name) for name in ("aurc", "e_aurc", "augrc")
            } | {"operating_points": points, "probability_thresholds": at}
    return found


def _value(run: TrustRun, condition: str, source: str, metric: str) -> float | None:
    row = run.table.value(condition, source, metric)
    return None if row is None else row["value"]


# --- tables ---------------------------------------------------------------------------------------

_Table = tuple[str, list[str], list[list[str]]]


def _tables(run: TrustRun) -> list[_Table]:
    found = [_conditions_table(run), _sources_table(run, JUDGED_BY)]
    if len(run.table.conditions) > 1:
        found += [_sources_table(run, "shift_auroc"), _worst_table(run)]
    if len(run.table.sources) > 1:
        found.append(_best_table(run))
    return found


def _conditions_table(run: TrustRun) -> _Table:
    metrics = [*SHOWN[:3], *(_POSITIVE if run.positive else ()), *SHOWN[3:]]
    rows = []
    for one in run.table.conditions:
        cells = [one.name]
        for metric in metrics:
            row = run.table.value(one.name, BASELINE, metric)
            cells.append("" if row is None else _with_delta(row))
        rows.append(cells)
    title = f"Conditions, {BASELINE}; in brackets the 95 % interval of the difference to clean"
    return title, ["condition", *metrics], rows


def _sources_table(run: TrustRun, metric: str) -> _Table:
    conditions = [one.name for one in run.table.conditions]
    if metric == "shift_auroc":
        conditions = conditions[1:]
    rows = []
    best = {
        name: _best_of([_value(run, name, source, metric) for source in run.table.sources], metric)
        for name in conditions
    }
    for source in run.table.sources:
        cells = [source.replace("_", " ")]
        for name in conditions:
            value = _value(run, name, source, metric)
            text = "" if value is None or math.isnan(value) else f"{value:.4f}"
            cells.append(f"{text}*" if text and value == best[name] else text)
        rows.append(cells)
    return (
        f"{_said(metric)} by source and condition; * or bold: the best",
        ["source", *conditions],
        rows,
    )


def _best_of(values: Sequence[float | None], metric: str) -> float | None:
    known = [value for value in values if value is not None and not math.isnan(value)]
    if not known:
        return None
    return min(known) if metric in LOWER else max(known)


def _worst_table(run: TrustRun) -> _Table:
    rows = []
    for place, row in enumerate(run.table.worst(), start=1):
        accuracy = run.table.value(row["condition"], BASELINE, "accuracy")
        ece = run.table.value(row["condition"], BASELINE, "ece")
        rows.append(
            [
                str(place),
                row["condition"],
                _with_delta(row),
                "" if accuracy is None else _with_delta(accuracy),
                "" if ece is None else _with_delta(ece),
            ]
        )
    title = f"Worst conditions by {JUDGED_BY.upper()}, {BASELINE}"
    return title, ["", "condition", JUDGED_BY, "accuracy", "ece"], rows


def _best_table(run: TrustRun) -> _Table:
    rows = []
    for row in run.table.best():
        tested = row["p"] is not None
        rows.append(
            [
                row["condition"],
                row["source"].replace("_", " "),
                f"{row['value']:.4f}",
                f"{row['difference']:+.4f}" if tested else "",
                f"[{row['lower']:+.4f}, {row['upper']:+.4f}]" if tested else "",
                f"{row['p']:.3g}" if tested else "",
                f"{row['holm_p']:.3g}" if tested else "",
            ]
        )
    title = f"Which source wins where, by {JUDGED_BY.upper()}; family: {run.table.family}"
    head = ["condition", "best source", JUDGED_BY, f"less {BASELINE}", "95 %", "p", "Holm p"]
    return title, head, rows


def _slice_tables(run: TrustRun) -> list[dict[str, Any]]:
    """One table a column of slices: conditions by slices, of the baseline."""
    found = []
    for name in run.slices:
        rows = [r for r in run.table.rows if r["slice_name"] == name and r["source"] == BASELINE]
        values = list(dict.fromkeys(row["slice_value"] for row in rows))
        by = {(r["condition"], r["slice_value"], r["metric"]): r for r in rows}
        cells = []
        for one in run.table.conditions:
            for metric in ("accuracy", "augrc"):
                own = [by.get((one.name, value, metric)) for value in values]
                shown = ["" if row is None else _with_delta(row) for row in own]
                cells.append([_cell(one.name), _cell(metric), *map(_cell, shown)])
        n = {row["slice_value"]: row["n"] for row in rows}
        head = ["condition", "metric", *(f"{value} ({n[value]})" for value in values)]
        found.append({"name": f"Slices of {name}, {BASELINE}", "head": head, "rows": cells})
    return found


def _cell(text: str) -> tuple[str, bool]:
    return text.removesuffix("*"), text.endswith("*")


def _with_delta(row: dict[str, Any]) -> str:
    text = f"{row['value']:.3f}" if not math.isnan(row["value"]) else "-"
    if not math.isnan(row["delta_lower"]):
        text += f" [{row['delta_lower']:+.3f}, {row['delta_upper']:+.3f}]"
    return text


def _head(run: TrustRun) -> str:
    judged = run.judged
    n_groups = len(judged.labels) if judged.groups is None else len(set(judged.groups.tolist()))
    members = len(judged.members)
    return (
        f"{judged.dataset}: {counted(len(judged.labels), 'row')} of {counted(n_groups, 'group')}, "
        f"{counted(len(run.table.conditions) - 1, 'condition')} beside clean, "
        f"{len(run.table.sources)} "
        f"sources, {members} network{'s or heads' if members > 1 else ' or head'}"
    )


def _how(run: TrustRun) -> list[str]:
    lines = []
    if run.temperatures:
        mean = sum(run.temperatures.values()) / len(run.temperatures)
        lines.append(
            f"Temperature {mean:.3f}{' on average' if len(run.temperatures) > 1 else ''}, fitted "
            f"on {run.thresholds_from}; it is the same under every condition."
        )
    if run.positive:
        lines.append(
            f"Positive = {', '.join(run.positive)} (sum of probabilities); clean threshold from "
            f"{run.thresholds_from}."
        )
    lines.append(
        f"Intervals: 95 %, {run.replicates:,} paired replicates over groups (seed {run.seed}); of "
        "macro-AUROC, macro-AUPRC and shift detection from the influence of groups; ECE has none."
    )
    if run.table.worth < FEW_GROUPS:
        lines.append(
            f"The largest group has {run.table.largest:.0%} of the rows, and all are worth "
            f"{run.table.worth:.1f} groups of one size: intervals of replicates, and p, come out "
            "too small with so few."
        )
    return lines


def _said(metric: str) -> str:
    named = {"augrc": "AUGRC", "shift_auroc": "Detection of the shift (AUROC)"}
    return named.get(metric, metric.replace("_", " "))


def _csv(run: TrustRun) -> str:
    names = list(run.table.rows[0])
    return csv_text(names, ([row[name] for name in names] for row in run.table.rows))
