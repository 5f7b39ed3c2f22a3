"""One self-contained page of a results folder: works offline, on a phone and in print."""

import base64
import json
import tempfile
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib import resources
from pathlib import Path
from typing import Any

from trustq.analysis.main_table import MainTable, Row, main_table_of
from trustq.analysis.refit_order import refit_order_warnings
from trustq.analysis.repair_table import answers, repair_table_of
from trustq.core.atomic_files import replacing
from trustq.core.counts import counted
from trustq.core.safety import DISCLAIMER, SAFETY
from trustq.errors import InputError, TrustqError
from trustq.evaluation.fairness import FIGURES as ODDS
from trustq.evaluation.fairness import MIN_ROWS
from trustq.evaluation.shift_stages import STAGES
from trustq.evaluation.slices import FIGURES as SLICE_FIGURES
from trustq.metrics.per_class import UNKNOWN
from trustq.recipes.schema import AS_GIVEN
from trustq.report.plot_set import count_sets, draw_figures_of
from trustq.results import Result, connect
from trustq.results.schema import EXPERIMENT, MATCHED, OF_ARM, PURCHASE, SETTINGS
from trustq.results.views import paired_select

Cell = str | list[str]  # a text; in a list of one: the best of its block

_CAPTIONS = {
    "repair_curve": "What repair buys",
    "budget_gain": "What a larger budget gains",
    "score_comparison": "Arms, seed by seed",
    "risk_coverage": "Risk and coverage, before and after temperature",
    "reliability": "Reliability, before and after temperature",
}

MOST_SETS = 3  # of figures on a page; each takes a second or two
SHOWN_AT_ONCE = 100  # rows of a table; its search and its headings go through all it has
MOST_ROWS = 5000  # of a table on a page; a browser holds a few megabytes well
FIRST_ANSWERS = 4  # before the others are folded away

_TESTED = """metric IN ('accuracy', 'macro_f1') AND stage = 'uncalibrated'
    AND split IN ('test', 'out_of_fold') AND class_name IS NULL AND slice_name IS NULL"""
# Settings of which a network and draw were run more than once.
_TWICE = f"""
SELECT count(*) FROM (
    SELECT count(*) AS n_runs, count(DISTINCT {{'b': backbone_seed, 'd': draw_seed}}) AS n
    FROM runs GROUP BY {", ".join(SETTINGS)})
WHERE n_runs > n"""
_FACTS = """
SELECT count(*) AS runs, count(DISTINCT cache_digest) AS caches,
    count(DISTINCT {'b': backbone_seed}) AS backbones, count(DISTINCT {'d': draw_seed}) AS draws,
    round(sum(seconds), 1) AS core_seconds
FROM runs"""

# Every setting is a column of every table; `_telling` leaves out those that tell nothing there.
_SAID = [name for name in SETTINGS if name not in OF_ARM and name not in PURCHASE]
_SETTING = f"{', '.join(_SAID)}, arm_title AS arm, {', '.join(PURCHASE)}"
_KEPT = ("dataset", "noise", "head", "arm", "budget")  # even where they are the same in every row
_OF_RUN = ", ".join(name for name in EXPERIMENT if name in _SAID)


def _from_to(name: str) -> str:
    # A number that differs between the runs of a row is said from the least to the most.
    low, high = f"min({name})", f"max({name})"
    return f"CASE WHEN {low} = {high} THEN {low}::VARCHAR ELSE {low} || ' to ' || {high} END"


_RUN = f"""
SELECT recipe, {_OF_RUN}, refit, round(avg(noise_rate), 4) AS realised,
    {_from_to("n_train")} AS training_labels, round(avg(n_wrong_start), 1) AS wrong,
    {_from_to("n_trusted")} AS trusted_labels,
    {_from_to("n_clean_validation")} AS clean_validation, count(*) AS runs
FROM runs GROUP BY recipe, {_OF_RUN}, refit ORDER BY ALL"""
_LEDGER = f"""
SELECT {", ".join(f"c.{name}" for name in _SAID)}, c.arm_title AS arm,
    {", ".join(f"c.{name}" for name in PURCHASE)},
    round(avg(r.n_bought_total), 1) AS bought, round(avg(r.errors_found_total), 1) AS errors_found,
    round(avg(r.errors_found_total / nullif(r.n_bought_total, 0)), 4) AS purchase_precision,
    round(avg(r.noise_left), 4) AS noise_left, count(*) AS runs
FROM runs c JOIN rounds r ON r.run = c.key AND r.round = c.n_rounds_done
WHERE c.score <> 'none' AND coalesce(c.origin_digest, c.cache_digest) = c.cache_digest
GROUP BY {", ".join(f"c.{name}" for name in SETTINGS)} ORDER BY ALL"""
_PAIRED = f"""
SELECT {", ".join(MATCHED)}, exposure, leaky, in_sample, arm_title AS arm,
    baseline_title AS against, {", ".join(PURCHASE)}, metric, unit, n,
    round(mean_difference, 4) AS difference, round(sd, 4) AS sd, round(sign_flip_p, 4) AS p,
    sign_flip_floor AS floor, array_to_string(differs, ', ') AS differs
FROM ({paired_select(_TESTED, pairs="b.arm IN ('none', 'random') AND a.arm <> 'none'")})
WHERE n > 1
ORDER BY ALL"""
# Settings and seeds as numbers: to group a million figures by forty texts takes gigabytes.
_NUMBERED = f"""
CREATE OR REPLACE TEMP TABLE numbered AS
SELECT key AS run, dense_rank() OVER (ORDER BY {", ".join(SETTINGS)}) AS setting,
    dense_rank() OVER (ORDER BY backbone_seed, draw_seed) AS seeds
FROM runs;
CREATE OR REPLACE TEMP TABLE settings AS
SELECT setting, {", ".join(f"any_value({name}) AS {name}" for name in SETTINGS)}
FROM runs JOIN numbered ON run = key GROUP BY setting"""
_MEANS = """
    SELECT setting, eval_dataset, split, stage, condition, severity, metric, class_name,
        avg(value) AS mean, count(DISTINCT seeds) FILTER (value IS NOT NULL) AS n
    FROM metrics JOIN numbered USING (run)
    WHERE is_final AND slice_name IS NULL AND"""
# A line is a class: one for each of its figures would be four times as long.
_BY_CLASS = ", ".join(
    f"round(any_value(mean) FILTER (metric = '{name}'), 4) AS {name}"
    for name in ("recall", "precision", "f1", "auroc")
)
_CLASSES = f"""WITH means AS ({_MEANS} class_name IS NOT NULL
        AND stage = 'uncalibrated' AND split IN ('test', 'out_of_fold')
    GROUP BY ALL
), classes AS (
    SELECT setting, class_name AS class, {_BY_CLASS}, max(n) AS n
    FROM means GROUP BY setting, class_name
)
SELECT {_SETTING}, classes.* EXCLUDE (setting) FROM classes JOIN settings USING (setting)
ORDER BY ALL"""
_SHIFTED = ", ".join(
    f"round(any_value(mean) FILTER (metric = '{name}'), 4) AS {name}"
    for name in ("accuracy", "macro_f1", "nll", "ece", "aurc", "augrc")
)
# The plain figures first, then what `trustq.evaluation.shift_stages` adds to them.
_STAGES = "['uncalibrated', 'calibrated', " + ", ".join(f"'{name}'" for name in STAGES) + "]"
_SHIFT = f"""WITH means AS ({_MEANS} class_name IS NULL AND split = 'external'
    GROUP BY ALL
), stages AS (
    SELECT setting, eval_dataset AS external, stage, {_SHIFTED}, max(n) AS n
    FROM means GROUP BY setting, eval_dataset, stage
)
SELECT {_SETTING}, stages.* EXCLUDE (setting) FROM stages JOIN settings USING (setting)
ORDER BY external, {", ".join(_SAID)}, arm, {", ".join(PURCHASE)}, setting,
    list_position({_STAGES}, stage)"""
# A line is a slice, as a class is above; a slice that enters no gap says why.
_SLICED = f"""{_SETTING}, nullif(eval_dataset, dataset) AS evaluated_on, slice_name AS slice"""
_OF_SLICES = """
    FROM metrics JOIN numbered USING (run)
    WHERE is_final AND slice_name IS NOT NULL AND class_name IS NULL
        AND stage = 'uncalibrated' AND split IN ('test', 'out_of_fold', 'external')"""
_BY_SLICE = ", ".join(
    f"round(avg(value) FILTER (metric = '{name}'), 4) AS {name}" for name in (*SLICE_FIGURES, *ODDS)
)
_SLICES = f"""WITH slices AS (
    SELECT setting, eval_dataset, slice_name, slice_value AS "of",
        round(avg(n) FILTER (metric = 'accuracy')) AS n_rows,
        {_BY_SLICE}, CASE WHEN max(slice_value) = '{UNKNOWN}' THEN 'unknown: in no gap'
            WHEN min(n) FILTER (metric IN ('sensitivity', 'specificity')) < {MIN_ROWS}
            THEN 'under {MIN_ROWS} of an outcome: in no gap' END AS note
    {_OF_SLICES} AND slice_value IS NOT NULL
    GROUP BY setting, eval_dataset, slice_name, slice_value
)
SELECT {_SLICED}, slices.* EXCLUDE (setting, eval_dataset, slice_name)
FROM slices JOIN settings USING (setting)
ORDER BY ALL"""
_BY_GAP = ", ".join(
    f"round(avg(value) FILTER (metric = '{name}_gap'), 4) AS {name}_gap" for name in ODDS
)
_GAPS = f"""WITH gaps AS (
    SELECT setting, eval_dataset, slice_name, round(avg(n)) AS n_rows, {_BY_GAP}
    {_OF_SLICES} AND slice_value IS NULL
    GROUP BY setting, eval_dataset, slice_name
)
SELECT {_SLICED}, gaps.* EXCLUDE (setting, eval_dataset, slice_name)
FROM gaps JOIN settings USING (setting)
ORDER BY ALL"""
_FAILURES = """
SELECT recipe, dataset, cache, backbone_seed, draw_seed, noise, head, arm, budget, n_rounds, error
FROM failures
ORDER BY ALL"""

# Warning, in words for a reader, of the share of cells for which the condition holds.
_WARNINGS = (
    (
        f"noise = '{AS_GIVEN}'",
        "KNOWN OF ANSWERED ROWS ALONE: labels are as they were given, and people's answers are the "
        "truth of the rows that they cover. Errors found, precision and what was wrong at the "
        "start are of answered rows; every other figure takes the labels of the others for right.",
    ),
    (
        "leaky",
        "LEAKY: the backbone was trained on other labels of rows that are repaired or evaluated "
        "here (`allow_leak`).",
    ),
    (
        "in_sample",
        "IN-SAMPLE: labels were scored by a model that was trained on them, which hides errors "
        "that it memorised.",
    ),
    (
        "backbone_saw_rows",
        "The backbone was trained on rows of these experiments: their features are in-sample, "
        "whatever the head.",
    ),
    (
        "exposure = 'unknown'",
        "What the backbone has seen was not stated: every figure may be optimistic.",
    ),
    (
        "calibration_labels IS NOT NULL AND calibrator IS NOT NULL "
        "AND calibration_labels NOT LIKE 'reference labels%'",
        "NOISY CALIBRATION LABELS: the calibrator was not fitted on reference labels.",
    ),
    (
        "calibrator IS NULL",
        "Not calibrated: there were no validation rows to fit a calibrator on.",
    ),
    (
        "selection_digest = calibration_digest",
        "The head's settings and the calibrator use the same validation labels.",
    ),
)


_TABLES = (
    ("What was run", _RUN),
    ("Paired differences", _PAIRED),
    ("Ledger: what was bought", _LEDGER),
    ("Classes", _CLASSES),
    ("External sets under shift", _SHIFT),
    ("Slices", _SLICES),
    ("Gaps between slices", _GAPS),
    ("Failures", _FAILURES),
)


def write_report(results: Path, path: Path) -> None:
    """Write the page: warnings first, then what was run, tables, figures, slices, ledger.

    Everything is in the one file; texts from results are escaped. Raises `TrustqError` for a folder
    without cells.
    """
    from jinja2 import Environment, StrictUndefined

    results = Path(results)
    # Beside Python, which reads the parts for it, a second thread gains little and takes memory.
    with connect(results, threads=1) as connection:
        (facts,) = _dicts(_answer(connection, _FACTS))
        if not facts["runs"]:
            raise InputError(f"{results} holds no runs to report. Run a sweep first.", path=results)
        keys = [key for (key,) in connection.execute("SELECT key FROM runs").fetchall()]
        connection.execute(_NUMBERED)
        content = {
            "facts": facts,
            "warnings": _warnings(connection),
            "answers": answers(repair_table_of(connection, keys)),
            "main": _main_tables(connection, results),
            "tables": [_shown(name, _answer(connection, query)) for name, query in _TABLES],
            "figures": _figures(connection, results),
            "undrawn": max(0, count_sets(connection) - MOST_SETS),
        }
    template = resources.files("trustq.report").joinpath("page.html").read_text("utf-8")
    environment = Environment(autoescape=True, undefined=StrictUndefined)
    page = environment.from_string(template).render(
        title=results.resolve().name,
        created=datetime.now(UTC).isoformat(" ", "minutes"),
        first_answers=FIRST_ANSWERS,
        shown_at_once=SHOWN_AT_ONCE,
        counted=counted,
        **content,
        disclaimer=DISCLAIMER,
        safety=" ".join(SAFETY),
    )
    with replacing(Path(path)) as part:
        part.write_text(page, encoding="utf-8")


def _warnings(connection: Any) -> list[str]:
    n_all = connection.execute("SELECT count(*) FROM runs").fetchone()[0]
    found = refit_order_warnings(connection)
    for condition, said in _WARNINGS:
        n = connection.execute(f"SELECT count(*) FROM runs WHERE {condition}").fetchone()[0]
        if n:
            found.append(f"{said} ({n} of {n_all} runs)")
    # The floor of a pair is that of its mirror image.
    either = paired_select(_TESTED, pairs="a.arm < b.arm")
    floors = connection.execute(
        f"SELECT unit, n, max(sign_flip_floor) FROM ({either}) "
        "WHERE sign_flip_floor > 0.05 GROUP BY unit, n ORDER BY unit, n"
    ).fetchall()
    units = {"draw_seed": "draws", "backbone_seed": "backbones"}
    found += [
        f"UNDERPOWERED over {units[unit]}: with n = {n} no difference can have a sign-flip p below "
        f"{floor:.3g}, however large it is."
        for unit, n, floor in floors
    ]
    n_draws, n_backbones = connection.execute(
        "SELECT count(DISTINCT draw_seed), count(DISTINCT backbone_seed) FROM runs"
    ).fetchone()
    if n_draws > 1 and n_backbones < n_draws:
        found.append("Draws share their backbones: they are not independent trainings.")
    checks = (
        ("SELECT count(*) FROM failures", "runs failed; they are listed below."),
        (_TWICE, "settings hold the same seeds more than once, as after a cache was made anew."),
    )
    for query, said in checks:
        if n := connection.execute(query).fetchone()[0]:
            found.append(f"{n} {said}")
    versions = connection.execute("SELECT count(DISTINCT results_version) FROM runs").fetchone()
    if versions[0] > 1:
        found.append("Cells of several versions of the numerics: rows of each stand apart.")
    return found


def _main_tables(connection: Any, results: Path) -> list[dict[str, Any]]:
    shown = []
    for split, name in (("test", "Main table"), ("external", "On external images")):
        try:
            table = main_table_of(connection, results, split=split)
        except TrustqError:
            continue  # nothing was evaluated there
        head = [*table.rows[0].texts, *table.metrics]
        rows = [_main_row(table, row) for row in table.rows]
        shown.append(_on_page(name, head, rows) | {"notes": table.notes})
    return shown


def _main_row(table: MainTable, row: Row) -> list[Cell]:
    cells: list[Cell] = list(row.texts.values())
    for name in table.metrics:
        figure = row.figures[name]
        text = f"{figure.mean:.4f}" if figure.n else ""
        text += f" ± {figure.sd:.4f}" if figure.n > 1 else ""
        cells.append([text] if figure.best else text)
    return cells


def _on_page(name: str, head: Sequence[str], rows: Sequence[list[Cell]]) -> dict[str, Any]:
    """A table of which the first rows are written as such, and others as data for its script.

    Without scripts, and in print, the first ones are there; beyond `MOST_ROWS` SQL has the rest.
    """
    further = json.dumps(rows[SHOWN_AT_ONCE:MOST_ROWS], ensure_ascii=False)
    return {
        "name": name,
        "head": head,
        "rows": rows[:SHOWN_AT_ONCE],
        # Nothing in a text may end the element that holds it.
        "further": further.replace("<", "\\u003c") if len(rows) > SHOWN_AT_ONCE else "",
        "n": len(rows),
        "most": min(len(rows), MOST_ROWS),
    }


def _figures(connection: Any, results: Path) -> list[dict[str, str]]:
    with tempfile.TemporaryDirectory() as folder:
        shown = []
        for path in draw_figures_of(
            connection, results, Path(folder), suffixes=(".svg",), most=MOST_SETS
        ):
            problem, _, name = path.stem.rpartition("__")
            caption = _CAPTIONS[name] + (f": {problem}" if problem else "")
            data = base64.b64encode(path.read_bytes()).decode()
            shown.append({"caption": caption, "data": data})
        return shown


def _shown(name: str, result: Result) -> dict[str, Any]:
    found = _texts(_telling(result))
    return _on_page(name, found["head"], found["rows"])


def _answer(connection: Any, query: str) -> Result:
    answer = connection.execute(query)
    return Result([column[0] for column in answer.description], answer.fetchall())


def _telling(result: Result) -> Result:
    """Without the settings that are the same in every row.

    What a purchase is counts among rows that buy: no repair has no rounds, which tells nothing.
    """
    ours = {*SETTINGS, "evaluated_on"} - set(_KEPT)
    place = result.columns.index("budget") if "budget" in result.columns else -1
    buying = Result(result.columns, [r for r in result.rows if place < 0 or r[place] != "0"])
    return _without(
        result,
        [
            name
            for name in result.columns
            if name in ours and len(_values(buying if name in PURCHASE else result, name)) < 2
        ],
    )


def _values(result: Result, name: str) -> set[Any]:
    place = result.columns.index(name) if name in result.columns else -1
    return {row[place] for row in result.rows} if place >= 0 else set()


def _without(result: Result, names: Sequence[str]) -> Result:
    keep = [place for place, name in enumerate(result.columns) if name not in names]
    rows = [tuple(row[place] for place in keep) for row in result.rows]
    return Result([result.columns[place] for place in keep], rows)


def _dicts(result: Result) -> list[dict[str, Any]]:
    return [dict(zip(result.columns, row, strict=True)) for row in result.rows]


def _texts(result: Result) -> dict[str, Any]:
    rows = [["" if value is None else _rounded(value) for value in row] for row in result.rows]
    return {"head": result.columns, "rows": rows}


def _rounded(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
