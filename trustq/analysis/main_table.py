"""Rows x metrics: settings as rows, mean ± sd over seeds as cells, the best of each marked."""

import itertools
import json
import math
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from operator import itemgetter
from pathlib import Path
from typing import Any

import numpy as np

from trustq.analysis.pairs import Run, run_of
from trustq.analysis.refit_order import refit_order_warnings
from trustq.analysis.repair_table import arm_order
from trustq.analysis.significance import escaped_latex, escaped_markdown
from trustq.core.counts import counted
from trustq.core.safety import DISCLAIMER
from trustq.core.spreadsheets import csv_text
from trustq.errors import InputError, NotFound
from trustq.metrics.aurc_conventions import aurc_by
from trustq.metrics.ece_conventions import ece_by
from trustq.results import connect
from trustq.results.schema import LOWER_IS_BETTER, PROBLEM, PURCHASE, SETTINGS

FORMATS = ("markdown", "csv", "latex", "table")
METRICS = ("accuracy", "macro_f1", "ece", "nll", "aurc", "augrc")

# Column sets of published tables. `aurc:NAME` is AURC in a convention of `aurc_conventions`,
# `ece:NAME` ECE in one of `ece_conventions`.
PRESETS = {
    "trustquerynet": (
        "accuracy",
        "macro_f1",
        "ece",
        "macro_auroc",
        "aurc:trustquerynet",
        "aurc",
        "augrc",
        "coverage_at_0_5",
        "risk_at_0_5",
    )
}

# What a reader must know before believing a row.
_MARKS = {"leaky": "leaky", "in_sample": "in-sample", "backbone_saw_rows": "backbone saw rows"}

_LISTED = 12  # runs that a note names

# Settings that say nothing beside another one, or stand in the row already.
_UNSAID = ("arm", "arm_title", "score", "source", "action", *_MARKS)

_RUNS = f"""
SELECT {", ".join(SETTINGS)}, key, backbone_seed, draw_seed,
       coalesce(origin_digest, cache_digest) AS cache_digest
FROM runs ORDER BY ALL
"""
_FINAL = """
FROM metrics
WHERE is_final AND split = ? AND stage = ? AND class_name IS NULL AND slice_name IS NULL
  AND (? IS NULL OR run IN (SELECT unnest(?)))
"""
_EVALUATED = f"SELECT run, eval_dataset, count(value) {_FINAL} GROUP BY run, eval_dataset"
_KNOWN = f"SELECT DISTINCT metric {_FINAL}"
_FIGURES = f"""
SELECT run, eval_dataset, metric, value {_FINAL}
  AND value IS NOT NULL AND metric IN (SELECT unnest(?))
ORDER BY ALL
"""
_RANKED = """
SELECT run, eval_dataset, list(confidence) AS confidence, list(predicted <> label) AS wrong
FROM predictions
WHERE label IS NOT NULL AND split = ? AND stage = ? AND (? IS NULL OR run IN (SELECT unnest(?)))
GROUP BY ALL
"""


_STATED = """
SELECT run, eval_dataset, any_value(classes) AS classes, list(p.label) AS labels,
       list(probabilities) AS probs
FROM predictions p JOIN runs ON run = key
WHERE p.label IS NOT NULL AND probabilities IS NOT NULL AND split = ? AND stage = ?
  AND (? IS NULL OR run IN (SELECT unnest(?)))
GROUP BY run, eval_dataset
"""


@dataclass(frozen=True)
class Figure:
    """One cell of a table: mean and sd over n seeds, and whether it is the best of its block."""

    mean: float
    sd: float
    n: int
    best: bool


@dataclass(frozen=True)
class Row:
    """One setting: its texts by column, its figures by metric, the block that it competes in.

    `runs` are those that the figures are means of: rows of other runs don't compete.
    """

    texts: dict[str, str]
    figures: dict[str, Figure]
    block: tuple[Any, ...]
    runs: frozenset[Run] = frozenset()
    is_bound: bool = False  # the oracle, which nobody can have: never the best


@dataclass(frozen=True)
class MainTable:
    """Rows x metrics, and what a reader must know."""

    metrics: tuple[str, ...]
    rows: tuple[Row, ...]
    notes: tuple[str, ...]


def main_table(
    results: Path,
    *,
    metrics: Sequence[str] = METRICS,
    split: str = "test",
    stage: str = "calibrated",
    keys: Sequence[str] | None = None,
    where: str = "",
) -> MainTable:
    """Final figures of every setting, averaged over seeds, best means marked within one problem.

    A mean is that of networks, each averaged over its draws.

    A column tells settings apart where they differ. Means of other runs (a network or draw more, a
    relabelled cache) are not marked, and the notes name them. `metrics` may hold
    `aurc:CONVENTION` and `ece:CONVENTION`, computed from the stored predictions. `keys` keeps to
    some cells, and so does `where`, a condition on `runs`. Where there are none on `test`, the
    figures are of out-of-fold predictions, and where nothing was calibrated, uncalibrated; the
    notes say which. Raises `TrustqError` where there are no such figures.
    """
    with connect(results, where=where) as connection:
        return main_table_of(
            connection, results, metrics=metrics, split=split, stage=stage, keys=keys
        )


def main_table_of(
    connection: Any,
    results: Path,
    *,
    metrics: Sequence[str] = METRICS,
    split: str = "test",
    stage: str = "calibrated",
    keys: Sequence[str] | None = None,
) -> MainTable:
    """`main_table` over an open connection to `results`, for pages of several tables."""
    chosen = None if keys is None else list(keys)
    # Without validation rows nothing was calibrated, without test rows all is out of fold.
    splits = (split, "out_of_fold") if split == "test" else (split,)
    stages = dict.fromkeys((stage, "uncalibrated"))
    for split, stage in itertools.product(splits, stages):
        asked = [split, stage, chosen, chosen]
        if evaluated := connection.execute(_EVALUATED, asked).fetchall():
            break
    else:
        raise NotFound(f"{results} has no final {stage} figures of {split} rows.", path=results)
    figures = _in_conventions(connection, metrics, asked)
    figures += connection.execute(_FIGURES, [*asked, list(metrics)]).fetchall()
    known = {name for _, _, name, _ in figures}
    if not known.issuperset(metrics):  # those without a value are known, too
        known |= {metric for (metric,) in connection.execute(_KNOWN, asked).fetchall()}
    if unknown := [name for name in metrics if name not in known]:
        raise NotFound(
            f"{results} has no {unknown[0]} of {split} rows, only {', '.join(sorted(known))}.",
            path=results,
            expected=sorted(known),
        )
    runs = _dicts(connection.execute(_RUNS))
    shown = _rows(runs, evaluated, figures, tuple(metrics))
    counted_in = {run for run, _, _ in evaluated}
    notes = _notes([run for run in runs if run["key"] in counted_in], split, stage)
    warnings = refit_order_warnings(connection)
    return MainTable(tuple(metrics), shown, (*warnings, *_other_runs(shown), *notes))


def format_main_table(
    table: MainTable, format: str = "markdown", *, width: int | None = None
) -> str:
    """The table as Markdown, LaTeX (booktabs), an aligned table, or CSV with every digit.

    The best of each block is bold, or starred where there is no bold. A table wider than `width`
    is split between its figures. Raises `TrustqError` for another format.
    """
    if format not in FORMATS:
        raise InputError(
            f"format is {format!r}: expected one of {', '.join(FORMATS)}.",
            where="format",
            found=format,
            expected=FORMATS,
        )
    texts = list(table.rows[0].texts)
    if format == "csv":
        figures = [f"{name}_{part}" for name in table.metrics for part in ("mean", "sd", "n")]
        written = []
        for row in table.rows:
            cells = [row.figures[name] for name in table.metrics]
            numbers = [x for cell in cells for x in (_blank(cell.mean), _blank(cell.sd), cell.n)]
            written.append([*row.texts.values(), *numbers])
        return csv_text([*texts, *figures], written).rstrip("\n")
    arrows = [f"{name} {'↓' if _is_lower(name) else '↑'}" for name in table.metrics]
    if format == "latex":
        ways = {True: r"$\downarrow$", False: r"$\uparrow$"}
        head = [f"{escaped_latex(name)} {ways[_is_lower(name)]}" for name in table.metrics]
        head = [*map(escaped_latex, texts), *head]
        lines = [rf"\begin{{tabular}}{{{'l' * len(texts)}{'r' * len(table.metrics)}}}", r"\toprule"]
        lines += [" & ".join(head) + r" \\", r"\midrule"]
        for row in table.rows:
            shown = [*map(escaped_latex, row.texts.values()), *_cells(row, table, format)]
            lines.append(" & ".join(shown) + r" \\")
        lines += [r"\bottomrule", r"\end{tabular}", *(f"% {note}" for note in table.notes)]
        return "\n".join(lines)
    body = [[*row.texts.values(), *_cells(row, table, format)] for row in table.rows]
    grid = [[*texts, *arrows], *body]
    if format == "table":
        return _aligned(grid, len(texts), table.notes, width)
    rule = ["---"] * len(texts) + ["---:"] * len(table.metrics)
    marked = [[*map(escaped_markdown, line[: len(texts)]), *line[len(texts) :]] for line in grid]
    lines = ["| " + " | ".join(line) + " |" for line in (marked[0], rule, *marked[1:])]
    return "\n".join([*lines, "", *table.notes])


def table_records(table: MainTable) -> list[dict[str, Any]]:
    """Rows as dicts, for JSON."""
    return [
        row.texts
        | {
            name: {"mean": figure.mean, "sd": figure.sd, "n": figure.n, "best": figure.best}
            for name, figure in row.figures.items()
        }
        for row in table.rows
    ]


def _in_conventions(
    connection: Any, metrics: Sequence[str], asked: Sequence[Any]
) -> list[tuple[str, str, str, float]]:
    """Run, data set, metric and value of every figure in a named convention."""
    found = []
    for kind, query, figure in (("aurc:", _RANKED, _area), ("ece:", _STATED, _error)):
        names = [name for name in metrics if name.startswith(kind)]
        answers = _dicts(connection.execute(query, asked)) if names else []
        found += [
            (answer["run"], answer["eval_dataset"], name, figure(name.removeprefix(kind), answer))
            for name in names
            for answer in answers
        ]
    return found


def _area(name: str, answer: dict[str, Any]) -> float:
    wrong, confidence = np.array(answer["wrong"], dtype=bool), np.array(answer["confidence"])
    return aurc_by(name, wrong, confidence)


def _error(name: str, answer: dict[str, Any]) -> float:
    place = {label: i for i, label in enumerate(json.loads(answer["classes"]))}
    labels = np.array([place[label] for label in answer["labels"]])
    return ece_by(name, labels, np.array(answer["probs"]))


def _rows(
    runs: list[dict[str, Any]],
    evaluated: Sequence[tuple[str, str, int]],
    figures: Sequence[tuple[str, str, str, float]],
    metrics: tuple[str, ...],
) -> tuple[Row, ...]:
    """A row for each setting and data set of the runs that were evaluated there.

    `evaluated` counts the figures of a run on a data set; `figures` has those that are shown.
    """
    names = (*SETTINGS, "eval_dataset")
    numbers: dict[tuple[Any, ...], int] = {}  # settings in the order of the runs
    setting_of_run = itemgetter(*SETTINGS)
    place_of = {row["key"]: numbers.setdefault(setting_of_run(row), len(numbers)) for row in runs}
    seeds_of = {row["key"]: run_of(row) for row in runs}
    runs_at: dict[tuple[int, str], set[Run]] = {}
    for key, eval_dataset, n in evaluated:
        own = runs_at.setdefault((place_of[key], eval_dataset), set())
        if n:
            own.add(seeds_of[key])
    found_at: dict[tuple[int, str], dict[str, dict[Run, list[float]]]] = {}
    for key, eval_dataset, metric, value in figures:
        place = place_of[key], eval_dataset
        by_run = found_at.setdefault(place, {}).setdefault(metric, {})
        by_run.setdefault(seeds_of[key], []).append(value)
    by_number = list(numbers)
    values = {(*by_number[place[0]], place[1]): place for place in sorted(runs_at)}
    settings = [dict(zip(names, setting, strict=True)) for setting in values]
    telling = _telling(settings)
    pairs = list(zip(settings, values.values(), strict=True))
    pairs.sort(key=lambda pair: _order(pair[0], telling))
    shown = []
    for setting_of, place in pairs:
        found = found_at.get(place, {})
        texts = {name: _text(setting_of[name]) for name in telling}
        means = {name: _figure(found.get(name, {})) for name in metrics}
        marks = [mark for name, mark in _MARKS.items() if setting_of[name]]
        marks += ["exposure unknown"] if setting_of["exposure"] == "unknown" else []
        texts |= {"arm": setting_of["arm_title"]}
        texts |= {"n": str(max(figure.n for figure in means.values()))}
        texts |= {"marks": ", ".join(marks)}
        bound = setting_of["score"] == "oracle"
        shown.append(Row(texts, means, _block(setting_of), frozenset(runs_at[place]), bound))
    if not any(row.texts["marks"] for row in shown):
        for row_shown in shown:
            del row_shown.texts["marks"]
    return _with_best(shown, metrics)


def _block(setting: dict[str, Any]) -> tuple[Any, ...]:
    return tuple(setting[name] for name in (*PROBLEM, "eval_dataset"))


def _order(setting: dict[str, Any], telling: list[str]) -> tuple[Any, ...]:
    """By problem, then by what tells settings apart, then from no repair to the oracle."""
    alike = [_text(setting[name]) for name in telling if name != "budget"]
    place = (arm_order(setting["arm"]), _size(setting["budget"]))
    return [_text(value) for value in _block(setting)], alike, *place


def _telling(settings: list[dict[str, Any]]) -> list[str]:
    """Columns in which settings differ; the budget always, if anything is bought."""
    differing = []
    for name in settings[0]:
        bought = [s for s in settings if s["score"] != "none"] if _is_purchase(name) else settings
        if name not in _UNSAID and len({str(setting[name]) for setting in bought}) > 1:
            differing.append(name)
    by_head = {(setting["head"], setting["head_settings"]) for setting in settings}
    if "head_settings" in differing and len(by_head) == len({head for head, _ in by_head}):
        differing.remove("head_settings")  # the head's name says it
    if "budget" not in differing and any(setting["score"] != "none" for setting in settings):
        differing.append("budget")
    # A digest is read by nobody: it stays where nothing else tells two settings apart.
    rest = [name for name in differing if name != "noise_process"]
    if len({_values(s, rest) for s in settings}) == len({_values(s, differing) for s in settings}):
        return rest
    return differing


def _values(setting: dict[str, Any], names: Sequence[str]) -> tuple[str, ...]:
    return tuple(_text(setting[name]) for name in names)


def _size(budget: str) -> tuple[float, str]:
    try:
        return float(budget.rstrip("%")), budget
    except ValueError:
        return math.inf, budget  # all-wrong


def _is_purchase(name: str) -> bool:
    # An arm that buys nothing has a budget of 0 and no rounds, which tells nothing.
    return name in PURCHASE


def _figure(by_run: dict[Run, list[float]]) -> Figure:
    means = {run: one[0] if len(one) == 1 else float(np.mean(one)) for run, one in by_run.items()}
    if not means:
        return Figure(math.nan, math.nan, 0, False)
    every = np.array(list(means.values()))
    sd = float(every.std(ddof=1)) if len(every) > 1 else math.nan
    by_network: dict[int | None, list[float]] = {}
    for run, mean in means.items():
        by_network.setdefault(run.network, []).append(mean)
    networks = list(by_network.values())
    if len({len(of_draws) for of_draws in networks}) == 1:
        return Figure(float(every.mean()), sd, len(means), False)
    # A network counts once, however many draws it has, as in every comparison of two arms.
    return Figure(float(np.mean([np.mean(own) for own in networks])), sd, len(means), False)


def _with_best(rows: list[Row], metrics: tuple[str, ...]) -> tuple[Row, ...]:
    best: dict[Any, float] = {}
    for row in rows:
        for name in metrics:
            mean = row.figures[name].mean
            if not math.isnan(mean) and not row.is_bound:
                better = min if _is_lower(name) else max
                place = (row.block, name)
                best[place] = better(best.get(place, mean), mean)
    runs_of: dict[Any, list[frozenset[Run]]] = {}
    for row in rows:
        runs_of.setdefault(row.block, []).append(row.runs)
    unmarked = {block for block, own in runs_of.items() if len(own) == 1 or len(set(own)) > 1}
    marked = []
    for row in rows:
        figures = {
            name: Figure(f.mean, f.sd, f.n, row.block not in unmarked and f.mean == best.get(place))
            if not row.is_bound
            else f
            for name, f in row.figures.items()
            if (place := (row.block, name))
        }
        marked.append(Row(row.texts, figures, row.block, row.runs, row.is_bound))
    return tuple(marked)


def _other_runs(rows: Sequence[Row]) -> list[str]:
    """A sentence for each problem whose rows are means of other runs, and for caches mixed."""
    said = []
    blocks: dict[tuple[Any, ...], list[Row]] = {}
    for row in rows:
        blocks.setdefault(row.block, []).append(row)
    for own in blocks.values():
        shared = frozenset.intersection(*(row.runs for row in own))
        further = [
            f"{row.texts['arm']} {_listed(sorted({run.title for run in row.runs - shared}))}"
            for row in own
            if row.runs - shared
        ]
        if further:
            said.append(
                "Rows are means of other runs, so none is marked as best; runs (network/draw) that "
                f"not all rows have: {'; '.join(dict.fromkeys(further))}. Export significance "
                "compares the runs that two arms share."
            )
    mixed = [row.texts["arm"] for row in rows if len({r[:2] for r in row.runs}) < len(row.runs)]
    if mixed:
        said.append(
            f"Means of {', '.join(dict.fromkeys(mixed))} are over several caches of one network: "
            "relabelled or split otherwise."
        )
    return said


def _listed(titles: Sequence[str]) -> str:
    more = len(titles) - _LISTED
    return ", ".join([*titles[:_LISTED], *([f"{more} more"] if more > 0 else [])])


def _cells(row: Row, table: MainTable, format: str) -> list[str]:
    texts = []
    for name in table.metrics:
        figure = row.figures[name]
        sign = r" $\pm$ " if format == "latex" else " ± "
        text = "" if math.isnan(figure.mean) else f"{figure.mean:.4f}"
        text += "" if math.isnan(figure.sd) else f"{sign}{figure.sd:.4f}"
        if figure.best:
            bold = {"markdown": f"**{text}**", "latex": rf"\textbf{{{text}}}"}
            text = bold.get(format, f"{text} *")
        texts.append(text)
    return texts


def _aligned(grid: list[list[str]], n_texts: int, notes: Sequence[str], width: int | None) -> str:
    """Rows of texts and figures in columns, below each other where they are wider than `width`."""

    def widths() -> list[int]:
        return [max(len(line[j]) for line in grid) for j in range(len(grid[0]))]

    # Every block repeats all texts: without one of them, nobody knows which row a figure is of.
    found, n_keys = widths(), n_texts
    if width is not None and sum(w + 2 for w in found[:n_texts]) + max(found[n_texts:]) > width:
        # They leave no room for a figure: a row's number is repeated in their place.
        grid = [[str(number or "row"), *line] for number, line in enumerate(grid)]
        found, n_keys = widths(), 1
    keys, others = list(range(n_keys)), list(range(n_keys, len(found)))
    room = math.inf if width is None else width - sum(found[j] + 2 for j in keys)
    blocks: list[list[int]] = []
    left = -math.inf
    for j in others:
        if not blocks or found[j] > left:
            blocks.append([*keys])
            left = room
        blocks[-1].append(j)
        left -= found[j] + 2
    parts = [
        "\n".join("  ".join(line[j].ljust(found[j]) for j in shown).rstrip() for line in grid)
        for shown in blocks
    ]
    told = [note if width is None else textwrap.fill(note, width) for note in notes]
    return "\n\n".join([*parts, "\n".join(told)])


def _notes(rows: list[dict[str, Any]], split: str, stage: str) -> tuple[str, ...]:
    n_backbones, n_draws = (
        len({row[name] for row in rows}) for name in ("backbone_seed", "draw_seed")
    )
    notes = [
        f"{stage.capitalize()} figures of {split.replace('_', ' ')} rows; mean ± sd over seeds "
        f"({counted(n_backbones, 'backbone')}, {counted(n_draws, 'draw')}); the best mean of "
        "each problem is marked, which is no test: see export significance.",
    ]
    if n_draws > 1 and n_backbones < n_draws:
        notes.append("Draws share their backbones: they are not independent trainings.")
    if len({row["refit"] for row in rows}) > 1:
        notes.append(
            "Rows with refit head fit a classifier on features of a fixed backbone; those with "
            "refit backbone are of networks that were trained on the arm's labels."
        )
    return (*notes, DISCLAIMER)


def _text(value: Any) -> str:
    return "" if value is None else str(value)


def _is_lower(metric: str) -> bool:
    return metric.partition(":")[0] in LOWER_IS_BETTER


def _blank(value: float) -> float | str:
    return "" if math.isnan(value) else value


def _dicts(answer: Any) -> list[dict[str, Any]]:
    names = [column[0] for column in answer.description]
    return [dict(zip(names, row, strict=True)) for row in answer.fetchall()]
