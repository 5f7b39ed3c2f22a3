"""Two arms of a results folder, compared in one call from their stored predictions."""

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from trustq.analysis.significance import Significance, format_significance
from trustq.errors import TrustqError
from trustq.evaluation.bootstrap import (
    FIGURES,
    REPLICATES,
    Comparison,
    crossed_figures,
    figure_intervals,
)
from trustq.results import connect
from trustq.results.schema import MATCHED
from trustq.statistics.paired import (
    Effect,
    SignFlip,
    effect_size,
    holm,
    probability_of_superiority,
    sign_flip_test,
)

_PREDICTIONS = f"""
SELECT c.arm, c.backbone_seed, c.draw_seed, c.key, c.budget, p.sample_id, p.group_id, p.label,
       p.probabilities, c.classes, {", ".join(f"c.{name}" for name in MATCHED)}
FROM predictions p JOIN cells c ON c.key = p.cell
WHERE c.arm IN (?, ?) AND p.split = ? AND p.stage = ? AND p.eval_dataset = coalesce(?, c.dataset)
  AND (? IS NULL OR c.budget = ? OR c.score = 'none')
ORDER BY c.arm, c.backbone_seed, c.draw_seed, p.sample_id
"""


class ArmFigure(NamedTuple):
    """One figure of two arms: means, difference a - b with its crossed interval, and tests."""

    crossed: Comparison
    sd: float  # of the difference over seeds; NaN for one
    sign_flip: SignFlip
    p_holm: float
    effect: Effect
    superiority: Effect


class ArmComparison(NamedTuple):
    """Two arms over the pairs of seeds that both have, on the same rows."""

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
    split: str = "test",
    stage: str = "calibrated",
    budget: str | None = None,
    eval_dataset: str | None = None,
    where: str = "",
    figures: Sequence[str] = FIGURES,
    seed: int = 0,
    replicates: int = REPLICATES,
) -> ArmComparison:
    """Compare two arms, a - b, from stored predictions: examples and seeds at once.

    Per figure: a 95 % interval for seeds and groups crossed, the sign-flip test over seeds with its
    floor, Holm over the figures, Hedges' g and P(a > b). Where several budgets were run, name one;
    an arm that buys nothing pairs with any. `where` is a condition on `cells`. Errors: no
    predictions of an arm, no shared pair of seeds, several settings or budgets, rows that differ
    between cells.
    """
    with connect(results, where=where) as connection:
        answer = connection.execute(
            _PREDICTIONS, [a, b, split, stage, eval_dataset, budget, budget]
        ).fetchnumpy()
    for arm in (a, b):
        if not (answer["arm"] == arm).any():
            raise TrustqError(
                f"{results} has no stored {stage} predictions of arm {arm!r} on {split} rows."
            )
    for name in MATCHED:
        found = sorted({str(value) for value in answer[name].tolist()})
        if len(found) > 1:
            raise TrustqError(
                f"The cells of {a} and {b} have several values of {name}: {', '.join(found)}. "
                f"Choose one, e.g. --where \"{name} = '{found[0]}'\"."
            )
    cells = [_cells(answer, arm) for arm in (a, b)]
    shared = [pair for pair in cells[0] if pair in cells[1]]
    if not shared:
        raise TrustqError(f"{a} and {b} share no pair of seeds: nothing is paired.")
    first = cells[0][shared[0]]
    for own in cells:
        for pair in shared:
            if not np.array_equal(own[pair]["sample_id"], first["sample_id"]):
                raise TrustqError(
                    f"Cell {own[pair]['key']} was evaluated on other rows than {first['key']}."
                )
            for name in ("label", "group_id"):
                n_other = int((own[pair][name] != first[name]).sum())
                if n_other:
                    raise TrustqError(
                        f"Cell {own[pair]['key']} has another {name} than {first['key']} in "
                        f"{n_other} of {len(first[name])} rows: their caches were made of other "
                        "reference labels or groups. Run both on one."
                    )
    probs = np.stack([_probs([own[pair] for pair in shared]) for own in cells])
    labels = _labels(first["label"], [own[pair] for own in cells for pair in shared])
    groups = first["group_id"]
    crossed = crossed_figures(
        labels, *probs, groups=groups, seed=seed, figures=figures, replicates=replicates
    )
    by_seed = np.array([[_figures_of(labels, one, figures) for one in arm] for arm in probs])
    differences = by_seed[0] - by_seed[1]
    tests = [sign_flip_test(column, seed=seed) for column in differences.T]
    adjusted = holm(np.array([test.p_value for test in tests]))
    found_figures = {
        name: ArmFigure(
            crossed[name],
            float(differences[:, j].std(ddof=1)) if len(differences) > 1 else math.nan,
            tests[j],
            float(adjusted[j]),
            effect_size(differences[:, j]),
            probability_of_superiority(by_seed[0, :, j], by_seed[1, :, j]),
        )
        for j, name in enumerate(figures)
    }
    n_groups = len(np.unique(groups))
    return ArmComparison(a, b, len(labels), n_groups, tuple(shared), found_figures, _notes(shared))


def arm_table(comparisons: Sequence[ArmComparison]) -> list[Significance]:
    """Rows of a significance table, one per figure and comparison, Holm over all of them.

    The interval is the crossed one; `seeds` lists BACKBONE/DRAW. See `format_arm_table`.
    """
    rows: list[dict[str, Any]] = []
    names = dict.fromkeys(name for comparison in comparisons for name in comparison.figures)
    for name in names:
        for comparison in comparisons:
            figure = comparison.figures[name]
            rows.append(
                {
                    "evaluation": "",
                    "metric": name,
                    "a": comparison.a,
                    "b": comparison.b,
                    "n": len(comparison.seeds),
                    "seeds": ",".join(f"{backbone}/{draw}" for backbone, draw in comparison.seeds),
                    "mean_a": figure.crossed.a,
                    "mean_b": figure.crossed.b,
                    "difference": figure.crossed.difference,
                    "sd": figure.sd,
                    "lower": figure.crossed.lower,
                    "upper": figure.crossed.upper,
                    "p_value": figure.sign_flip.p_value,
                    "floor": figure.sign_flip.floor,
                    "effect": figure.effect.value,
                    "effect_lower": figure.effect.lower,
                    "effect_upper": figure.effect.upper,
                    "superiority": figure.superiority.value,
                }
            )
    adjusted = holm(np.array([row["p_value"] for row in rows]))
    return [Significance(**row, p_holm=float(p)) for row, p in zip(rows, adjusted, strict=True)]


def format_arm_table(comparisons: Sequence[ArmComparison], format: str) -> str:
    """The comparisons as Markdown, CSV or LaTeX, as `format_significance` prints them."""
    first = comparisons[0]
    interval = (
        f"95 %, seeds crossed with groups ({len(first.seeds)} seeds, {first.n_groups} groups, "
        f"{first.n} rows)"
    )
    notes = dict.fromkeys(note for comparison in comparisons for note in comparison.notes)
    sentences = [note[0].upper() + note[1:] + "." for note in notes]
    return format_significance(arm_table(comparisons), format, interval=interval, notes=sentences)


def _figures_of(labels: np.ndarray, probs: np.ndarray, figures: Sequence[str]) -> list[float]:
    found = figure_intervals(labels, probs=probs, seed=0, figures=figures, replicates=1)
    return [found[name].value for name in figures]


def _cells(answer: dict[str, Any], arm: str) -> dict[tuple[Any, Any], dict[str, Any]]:
    """Rows of every cell of an arm, by its pair of seeds."""
    chosen = answer["arm"] == arm
    own = {name: np.ma.getdata(column)[chosen] for name, column in answer.items()}
    cells: dict[tuple[Any, Any], dict[str, Any]] = {}
    for key in dict.fromkeys(own["key"].tolist()):
        rows = {name: column[own["key"] == key] for name, column in own.items()}
        pair = (int(rows["backbone_seed"][0]), int(rows["draw_seed"][0]))
        if pair in cells:
            raise TrustqError(
                f"Arm {arm!r} has several cells of backbone seed {pair[0]} and draw {pair[1]}, of "
                f"budgets {cells[pair]['budget'][0]} and {rows['budget'][0]}: name a budget."
            )
        cells[pair] = rows | {"key": key}
    return cells


def _probs(cells: list[dict[str, Any]]) -> np.ndarray:
    return np.stack([np.stack(cell["probabilities"].tolist()) for cell in cells])


def _labels(names: np.ndarray, cells: list[dict[str, Any]]) -> np.ndarray:
    """Labels as columns of the probabilities, whose order the cells name."""
    orders = {str(cell["classes"][0]) for cell in cells}
    if len(orders) > 1:
        raise TrustqError(f"The cells have different classes: {' and '.join(sorted(orders))}.")
    position = {name: index for index, name in enumerate(json.loads(orders.pop()))}
    return np.array([position[name] for name in names.tolist()])


def _notes(shared: list[tuple[Any, Any]]) -> tuple[str, ...]:
    n_backbones = len({pair[0] for pair in shared})
    notes = []
    if n_backbones < len(shared):
        notes.append(
            f"{len(shared)} draws share {n_backbones} trained backbones: they are not independent "
            "trainings, and the interval does not cover other trainings"
        )
    if len(shared) == 1:
        notes.append("with one seed the interval is for other groups and not for other trainings")
    return tuple(notes)
