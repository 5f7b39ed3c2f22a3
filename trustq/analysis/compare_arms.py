"""Two arms of a results folder, compared in one call from their stored predictions."""

import json
import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from trustq.analysis.pairs import RUN_COLUMNS, Pairing, Stored, pair_runs, run_of
from trustq.analysis.significance import Significance, format_significance, run_columns
from trustq.core.counts import counted
from trustq.errors import InputError, NotFound
from trustq.evaluation.bootstrap import (
    FIGURES,
    Comparison,
    crossed_figures,
    figure_values,
)
from trustq.results import connect
from trustq.results.schema import MATCHED, PURCHASE
from trustq.statistics.paired import holm
from trustq.statistics.runs import RunComparison, compare_runs, over_runs

_PREDICTIONS = f"""
SELECT c.arm, {", ".join(f"c.{name}" for name in RUN_COLUMNS)}, c.key, c.budget, p.sample_id,
       p.group_id, p.label, p.probabilities, c.classes, c.score,
       {", ".join(f"c.{name}" for name in (*MATCHED, *PURCHASE) if name != "budget")}
FROM predictions p JOIN runs c ON c.key = p.run
WHERE c.arm IN (?, ?) AND p.split = ? AND p.stage = ? AND p.eval_dataset = coalesce(?, c.dataset)
  AND (? IS NULL OR c.budget = ? OR c.score = 'none')
ORDER BY c.arm, c.backbone_seed, c.draw_seed, p.sample_id
"""


class ArmFigure(NamedTuple):
    """One figure of two arms: means, difference a - b with its crossed interval, and tests."""

    crossed: Comparison
    runs: RunComparison
    p_holm: float


class ArmComparison(NamedTuple):
    """Two arms over the runs that both have, (network, draw), on the same rows."""

    a: str
    b: str
    n: int
    n_groups: int
    seeds: tuple[tuple[int | None, int | None], ...]  # (backbone, draw)
    figures: dict[str, ArmFigure]
    notes: tuple[str, ...]


def compare_arms(
    results: Path,
    a: str,
    b: str,
    *,
    stored: Stored | None = None,
    budget: str | None = None,
    figures: Sequence[str] = FIGURES,
    seed: int = 0,
) -> ArmComparison:
    """Compare two arms, a - b, from stored predictions: examples and seeds at once.

    Per figure: a 95 % interval for networks, draws and groups crossed, the test over runs of
    `trustq.statistics.runs.compare_runs` with its floor, and Holm over the figures. Runs are paired
    as in `trustq.analysis.pairs`; the notes name those without a partner. Where several budgets
    were run, name one; an arm that buys nothing pairs with any. Errors: no predictions of an arm,
    no shared run, several settings or budgets, rows that differ between cells.
    """
    answer = _stored_predictions(results, (a, b), stored or Stored(), budget)
    cells = [_cells(answer, arm) for arm in (a, b)]
    pairing = _paired(cells, (a, b))
    paired = [(cells[0][i], cells[1][j]) for i, j in pairing.pairs]
    first = paired[0][0]
    _require_same_rows([cell for pair in paired for cell in pair], first)
    probs = np.stack([_probs([pair[arm] for pair in paired]) for arm in (0, 1)])
    labels = _labels(first["label"], [cell for pair in paired for cell in pair])
    groups = first["group_id"]
    runs = [cell["run"] for cell, _ in paired]
    networks, draws = [run.network for run in runs], [run.draw for run in runs]
    crossed = crossed_figures(
        labels,
        *probs,
        groups=groups,
        networks=networks,
        draws=draws,
        seed=seed,
        figures=figures,
    )
    by_run = np.array([[_figures_of(labels, one, figures) for one in arm] for arm in probs])
    tests = [
        compare_runs(one, other, networks=networks, draws=draws, seed=seed)
        for one, other in np.moveaxis(by_run, 2, 0)
    ]
    adjusted = holm(np.array([test.p_value for test in tests]))
    return ArmComparison(
        a,
        b,
        len(labels),
        len(np.unique(groups)),
        tuple((run.network, run.draw) for run in runs),
        {
            name: ArmFigure(crossed[name], tests[j], float(adjusted[j]))
            for j, name in enumerate(figures)
        },
        (*_notes(tests[0]), *pairing.left_out),
    )


def _stored_predictions(
    results: Path, arms: tuple[str, str], stored: Stored, budget: str | None
) -> dict[str, Any]:
    """Columns of the stored predictions of both arms, which are there and of one setting."""
    with connect(results, where=stored.where) as connection:
        asked = [*arms, stored.split, stored.stage, stored.eval_dataset, budget, budget]
        answer: dict[str, Any] = connection.execute(_PREDICTIONS, asked).fetchnumpy()
    for arm in arms:
        if not (answer["arm"] == arm).any():
            raise NotFound(
                f"{results} has no stored {stored.stage} predictions of arm {arm!r} on "
                f"{stored.split} rows.",
                path=results,
            )
    for name in MATCHED:
        found = sorted({str(value) for value in answer[name].tolist()})
        if len(found) > 1:
            raise InputError(
                f"The runs of {arms[0]} and {arms[1]} have several values of {name}: "
                f"{', '.join(found)}. Choose one, e.g. `where={name} = '{found[0]}'`."
            )
    return answer


def _require_same_rows(cells: list[dict[str, Any]], first: dict[str, Any]) -> None:
    for own in cells:
        if not np.array_equal(own["sample_id"], first["sample_id"]):
            raise InputError(f"Cell {own['key']} was evaluated on other rows than {first['key']}.")
        for name in ("label", "group_id"):
            n_other = int((own[name] != first[name]).sum())
            if n_other:
                raise InputError(
                    f"Cell {own['key']} has another {name} than {first['key']} in "
                    f"{n_other} of {len(first[name])} rows: their caches were made of other "
                    "reference labels or groups. Run both on one."
                )


def arm_table(comparisons: Sequence[ArmComparison]) -> list[Significance]:
    """Rows of a significance table, one per figure and comparison, Holm over all of them.

    The interval is the crossed one; `seeds` lists BACKBONE/DRAW. See `format_arm_table`.
    """
    rows: list[dict[str, Any]] = []
    names = dict.fromkeys(name for comparison in comparisons for name in comparison.figures)
    for name in names:
        for comparison in comparisons:
            figure = comparison.figures[name]
            titles = ",".join(f"{network}/{draw}" for network, draw in comparison.seeds)
            row = {"evaluation": "", "metric": name, "a": comparison.a, "b": comparison.b}
            rows.append(
                row
                | run_columns(figure.runs, titles, ())
                | {
                    "difference": figure.crossed.difference,
                    "lower": figure.crossed.lower,
                    "upper": figure.crossed.upper,
                }
            )
    adjusted = holm(np.array([row["p_value"] for row in rows]))
    return [Significance(**row, p_holm=float(p)) for row, p in zip(rows, adjusted, strict=True)]


def format_arm_table(comparisons: Sequence[ArmComparison], format: str) -> str:
    """The comparisons as Markdown, CSV or LaTeX, as `format_significance` prints them."""
    first = comparisons[0]
    interval = (
        f"95 %, networks and draws crossed with groups ({counted(len(first.seeds), 'run')}, "
        f"{counted(first.n_groups, 'group')}, {counted(first.n, 'row')})"
    )
    notes = dict.fromkeys(note for comparison in comparisons for note in comparison.notes)
    sentences = [note[0].upper() + note[1:] + "." for note in notes]
    return format_significance(arm_table(comparisons), format, interval=interval, notes=sentences)


def _figures_of(labels: np.ndarray, probs: np.ndarray, figures: Sequence[str]) -> list[float]:
    return list(figure_values(labels, probs=probs, figures=figures).values())


def _cells(answer: dict[str, Any], arm: str) -> list[dict[str, Any]]:
    """The columns of every cell of an arm, with its run."""
    chosen = answer["arm"] == arm
    own = {name: column[chosen] for name, column in answer.items()}
    cells: dict[Any, dict[str, Any]] = {}
    for key in dict.fromkeys(own["key"].tolist()):
        rows = {name: column[own["key"] == key] for name, column in own.items()}
        run = run_of({name: rows[name][0] for name in RUN_COLUMNS})
        # Of networks that were trained again each budget has a cache of its own.
        others = [cell for one, cell in cells.items() if one.title == run.title]
        budgets = sorted({str(cell["budget"][0]) for cell in (*others, rows)}, key=_size)
        if run in cells or len(budgets) > 1:
            what = (
                f"of budgets {' and '.join(budgets)}: name a budget"
                if len(budgets) > 1
                else f"{cells[run]['key']} and {key}: choose by a condition on runs"
            )
            raise InputError(
                f"Arm {arm!r} has several runs of backbone seed {run.network} and draw "
                f"{run.draw}, {what}."
            )
        cells[run] = {name: np.ma.getdata(column) for name, column in rows.items()}
        cells[run] |= {"key": key, "run": run}
    return list(cells.values())


def _size(budget: str) -> tuple[float, str]:
    found = re.match(r"\d+", budget)
    return (float(found[0]) if found else math.inf, budget)


def _paired(cells: list[list[dict[str, Any]]], names: tuple[str, str]) -> Pairing:
    """Pairs of cells, all of one purchase: a budget is never compared with another."""
    pairing = pair_runs(*([cell["run"] for cell in own] for own in cells), names=names)
    if not pairing.pairs:
        raise InputError(
            f"{names[0]} and {names[1]} share no run, so nothing is paired: "
            f"{'; '.join(pairing.left_out)}. Compare arms that ran on the same networks and "
            "draws."
        )
    for i, j in pairing.pairs:
        pair = (cells[0][i], cells[1][j])
        if "none" in [str(cell["score"][0]) for cell in pair]:
            continue
        for name in PURCHASE:
            values = [str(cell[name][0]) for cell in pair]
            if values[0] != values[1]:
                raise InputError(
                    f"{names[0]} has the {name} {values[0]} and {names[1]} {values[1]} in run "
                    f"{pair[0]['run'].title}: compare one purchase with the same."
                )
    return pairing


def _probs(cells: list[dict[str, Any]]) -> np.ndarray:
    return np.stack([np.stack(cell["probabilities"].tolist()) for cell in cells])


def _labels(names: np.ndarray, cells: list[dict[str, Any]]) -> np.ndarray:
    """Labels as columns of the probabilities, whose order the cells name."""
    orders = {str(cell["classes"][0]) for cell in cells}
    if len(orders) > 1:
        raise InputError(f"The runs have different classes: {' and '.join(sorted(orders))}.")
    position = {name: index for index, name in enumerate(json.loads(orders.pop()))}
    return np.array([position[name] for name in names.tolist()])


def _notes(found: RunComparison) -> tuple[str, ...]:
    about = over_runs(found.unit, found.n_networks, found.n_draws)
    if found.unit == "draw":
        return (f"tested over {about}, and so is the interval",)
    if found.n == 1:
        return ("with one run the interval is for other groups and not for other trainings",)
    return (f"tested over {about}",)
