"""The figures of a results folder: one set per problem, as PNG and SVG."""

import re
from collections.abc import Sequence
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np

from trustq.errors import InputError
from trustq.metrics.classification import ECE_BINS
from trustq.metrics.selective import risk_coverage_curve, thin_curve
from trustq.report.plots import (
    arm_styles,
    arms_of_plot,
    draw_legend,
    gather_figures,
    new_canvas,
    repair_curve_of,
    save_plot,
)
from trustq.results import connect
from trustq.results.schema import PURCHASE, SETTINGS

Styles = dict[str, dict[str, Any]]  # of lines, by arm

SUFFIXES = (".png", ".svg")
MOST_SHAPES = 500  # dots of a figure that are drawn as shapes
MOST_ARMS = 4  # of figures with two lines an arm; the first in the order of tables

# Cells of one figure differ in arm, budget and seeds alone; so does the exposure of a backbone that
# was trained again, and that of other backbones goes with the name of their recipe.
_PURCHASED = (
    *("arm", "score", "source", "action", "arm_title", "in_sample"),
    "exposure",
)
_ONE_FIGURE = tuple(name for name in SETTINGS if name not in (*_PURCHASED, *PURCHASE))
_WAY = tuple(name for name in PURCHASE if name != "budget")  # how it is bought
_GROUPS = f"""
SELECT list(key ORDER BY key), score = 'none' AS is_none, {", ".join(_WAY)},
    {", ".join(_ONE_FIGURE)}
FROM runs WHERE (? IS NULL OR key IN (SELECT unnest(?)))
GROUP BY ALL ORDER BY min(key)
"""
# Texts as numbers: rows of a large set are millions.
_PREDICTIONS = """
SELECT list_position(?, c.arm) - 1 AS arm, p.stage = 'calibrated' AS calibrated,
    p.predicted <> p.label AS wrong, p.confidence
FROM predictions p JOIN runs c ON c.key = p.run
WHERE p.split = ? AND c.key IN (SELECT unnest(?)) AND p.eval_dataset = c.dataset
  AND p.stage IN ('uncalibrated', 'calibrated') AND p.label IS NOT NULL
  AND list_contains(?, c.arm)
"""
_OF_LARGEST = """
SELECT key, arm, arm_title FROM runs
WHERE key IN (SELECT unnest(?)) AND (score = 'none' OR budget = ?)
"""
# In an order of their own, so that equal figures give equal bytes.
_GAINS = """
SELECT arm, arm_title, score, budget, n_bought, backbone_seed, draw_seed, value
FROM drawn WHERE is_final AND split = ? AND value IS NOT NULL AND key IN (SELECT unnest(?))
ORDER BY ALL
"""


def draw_figures(
    results: Path,
    folder: Path,
    *,
    metric: str = "accuracy",
    keys: Sequence[str] | None = None,
    where: str = "",
    suffixes: Sequence[str] = SUFFIXES,
    most: int | None = None,
) -> list[Path]:
    """Draw repair curves, budget and gain, score comparison, risk-coverage and reliability.

    One set per data set, noise, head and so on: what differs in more than arm, budget and seeds is
    never in one figure. Files are named for what tells the sets apart, `linear__reliability.png`.
    `keys` keeps to some cells, and so does `where`, a condition on `runs`; `most` to the first
    sets. Returns the files, one for each of `suffixes`. A figure that needs what was not run (a
    purchase, two budgets, two arms, calibration) is left out. Raises `TrustqError` for a folder
    without cells.
    """
    with connect(results, where=where) as connection:
        return draw_figures_of(
            connection, results, folder, metric=metric, keys=keys, suffixes=suffixes, most=most
        )


def draw_figures_of(
    connection: Any,
    results: Path,
    folder: Path,
    *,
    metric: str = "accuracy",
    keys: Sequence[str] | None = None,
    suffixes: Sequence[str] = SUFFIXES,
    most: int | None = None,
) -> list[Path]:
    """`draw_figures` over an open connection to `results`, for pages with tables beside them."""
    sets = _sets(connection, keys)
    if not sets:
        raise InputError(f"{results} holds no runs to draw.", path=results)
    drawn = []
    chosen = list(zip(_prefixes(list(sets)), sets.values(), strict=True))[:most]
    every = sorted({key for _, own in chosen for key in own})
    gather_figures(connection, every, metric=metric, splits=("test", "out_of_fold"))
    for prefix, own in chosen:
        drawn += _draw_set(connection, own, Path(folder), prefix, metric, suffixes)
    return drawn


def count_sets(connection: Any) -> int:
    """How many sets of figures `draw_figures` draws."""
    return len(_sets(connection, None))


def _sets(connection: Any, keys: Sequence[str] | None) -> dict[tuple[Any, ...], list[str]]:
    """Keys of the cells of each set of figures, by what they have in common."""
    chosen = None if keys is None else list(keys)
    groups = connection.execute(_GROUPS, [chosen, chosen]).fetchall()
    sets: dict[tuple[Any, ...], list[str]] = {}
    n = len(_WAY)
    for own, is_none, *setting in groups:
        if not is_none:
            sets.setdefault(tuple(setting), []).extend(own)
    by_experiment: dict[tuple[Any, ...], list[tuple[Any, ...]]] = {}
    for way in sets:
        by_experiment.setdefault(way[n:], []).append(way)
    # What buys nothing is in the figures of every way to buy of the same experiment.
    for own, is_none, *setting in groups:
        if is_none:
            for other in by_experiment.get(tuple(setting[n:]), [tuple(setting)]):
                sets.setdefault(other, []).extend(own)
    return sets


def _prefixes(settings: list[tuple[Any, ...]]) -> list[str]:
    """What tells the sets apart, as the beginning of a file's name: `linear__`, `knn-2__`."""
    unsaid = ("head_settings", "noise_process", "calibration_labels", "results_version")
    telling = [
        j
        for j, name in enumerate((*_WAY, *_ONE_FIGURE))
        if name not in unsaid and len({setting[j] for setting in settings}) > 1
    ]
    prefixes: list[str] = []
    for setting in settings if len(settings) > 1 else []:
        text = "-".join(_word((*_WAY, *_ONE_FIGURE)[j], setting[j]) for j in telling)
        slug = re.sub(r"[^A-Za-z0-9.]+", "-", text).strip("-")[:60] or "set"
        names = [slug, *(f"{slug}-{n}" for n in range(2, len(settings) + 1))]
        prefixes.append(next(f"{name}__" for name in names if f"{name}__" not in prefixes))
    return prefixes or [""]


def _word(name: str, value: Any) -> str:
    """A setting's value in a caption: `no-target` and `not-leaky` rather than None and False."""
    if isinstance(value, bool):
        return name if value else f"not-{name}"
    return f"no-{name}" if value is None else str(value)


class _Judged:
    """Stored predictions of some runs by arm and stage: whether wrong, and how confident.

    Of the first arms alone: more lines than these, each twice, cannot be told apart.
    """

    def __init__(
        self, connection: Any, keys: list[str], arms: list[tuple[str, str]], split: str
    ) -> None:
        chosen = [arm for arm, _ in arms[:MOST_ARMS]]
        asked = [chosen, split, keys, chosen]
        answer = connection.execute(_PREDICTIONS, asked).fetchnumpy()
        self._of: dict[tuple[str, str], tuple[np.ndarray, np.ndarray]] = {}
        for (number, arm), stage in product(enumerate(chosen), ("uncalibrated", "calibrated")):
            own = (answer["arm"] == number) & (answer["calibrated"] == (stage == "calibrated"))
            wrong, confidence = np.asarray(answer["wrong"][own]), answer["confidence"][own]
            # Rows come in any order, and sums of equal figures shall have equal bits.
            order = np.lexsort((wrong, confidence))
            self._of[arm, stage] = wrong[order].astype(bool), np.asarray(confidence[order])
        self.arms = [
            (arm, title)
            for arm, title in arms[:MOST_ARMS]
            if any(len(self.of(arm, stage)[0]) for stage in ("uncalibrated", "calibrated"))
        ]

    def of(self, arm: str, stage: str) -> tuple[np.ndarray, np.ndarray]:
        """Whether rows of an arm at a stage are wrong, (m,), and their confidences, (m,)."""
        return self._of[arm, stage]


def _draw_set(
    connection: Any,
    keys: list[str],
    folder: Path,
    prefix: str,
    metric: str,
    suffixes: Sequence[str],
) -> list[Path]:
    gains = connection.execute(_GAINS, ["test", keys]).fetchall()
    split = "test" if gains else "out_of_fold"
    gains = gains or connection.execute(_GAINS, [split, keys]).fetchall()
    if not gains:
        return []
    budgets = sorted({(row[4], row[3]) for row in gains if row[2] != "none"}, reverse=True)
    largest = budgets[0][1] if budgets else "0"
    styles = arm_styles(connection)
    cells = connection.execute(_OF_LARGEST, [keys, largest]).fetchall()
    of_largest = [key for key, _, _ in cells]
    judged = _Judged(connection, of_largest, arms_of_plot(cell[1:] for cell in cells), split)
    figures: list[tuple[str, Any]] = []
    drawn: list[Path] = []
    for suffix in suffixes if budgets else ():
        path = folder / f"{prefix}repair_curve{suffix}"
        repair_curve_of(connection, of_largest, path, metric=metric, split=split)
        drawn.append(path)
    if len({budget for _, budget in budgets}) > 1:
        figures.append(("budget_gain", _budget_gain(gains, metric, split, styles)))
    if len({row[0] for row in gains}) > 2:
        figures.append(
            ("score_comparison", _score_comparison(gains, largest, metric, split, styles))
        )
    if judged.arms:
        figures.append(("risk_coverage", _risk_coverage(judged, split, styles)))
        figures.append(("reliability", _reliability(judged, split, styles)))
    for name, figure in figures:
        for suffix in suffixes:
            drawn.append(folder / f"{prefix}{name}{suffix}")
            save_plot(figure, drawn[-1])
    return drawn


def _budget_gain(gains: list[Any], metric: str, split: str, styles: Styles) -> Any:
    """Difference from no repair against labels bought, paired by seeds: mean and sd."""
    base = {row[5:7]: row[7] for row in gains if row[2] == "none"}
    figure, axes = new_canvas()
    arms = arms_of_plot((row[0], row[1]) for row in gains if row[2] != "none")
    for arm, title in arms:
        points: dict[str, list[tuple[float, float]]] = {}
        for row in gains:
            if row[0] == arm:
                start = base.get(row[5:7], np.nan) if base else 0.0
                points.setdefault(row[3], []).append((row[4], row[7] - start))
        stacked = sorted(
            (*np.nanmean(np.array(pairs), axis=0), _sd(pairs)) for pairs in points.values()
        )
        bought, mean, sd = map(np.array, zip(*stacked, strict=True))
        axes.errorbar(bought, mean, yerr=sd, label=title, linewidth=1.5, capsize=3, **styles[arm])
    axes.axhline(0, color="#777777", linewidth=0.8)
    axes.set_xlabel("labels bought")
    name = metric.replace("_", " ")
    axes.set_ylabel(f"{name} gained over no repair" if base else name)
    axes.set_title(f"What a larger budget gains: mean ± sd over seeds, {split} rows")
    draw_legend(axes)
    return figure


def _sd(pairs: list[tuple[float, float]]) -> float:
    return float(np.nanstd(np.array(pairs)[:, 1], ddof=1)) if len(pairs) > 1 else 0.0


def _score_comparison(
    gains: list[Any], budget: str, metric: str, split: str, styles: Styles
) -> Any:
    """Final figure of every arm at one budget: each seed a dot, the mean a bar."""
    own = [row for row in gains if row[2] == "none" or row[3] == budget]
    arms = arms_of_plot((row[0], row[1]) for row in own)
    figure, axes = new_canvas()
    for position, (arm, _) in enumerate(reversed(arms)):
        values = np.array([row[7] for row in own if row[0] == arm])
        spread = position + np.linspace(-0.15, 0.15, len(values))
        # Thousands of dots are a picture in the picture: as shapes they take a megabyte.
        dots = {"color": styles[arm]["color"], "alpha": 0.6, "linewidths": 0}
        axes.scatter(values, spread, s=14, rasterized=len(own) > MOST_SHAPES, **dots)
        axes.plot([values.mean()] * 2, [position - 0.3, position + 0.3], color="#000000")
    axes.set_yticks(range(len(arms)), [title for _, title in reversed(arms)])
    axes.set_xlabel(f"{metric.replace('_', ' ')}, {split.replace('_', ' ')} rows")
    # Over the whole figure, for long names of arms leave the axes little width.
    figure.suptitle(f"Budget {budget}: every seed a dot, the mean a line", fontsize=9.5)
    return figure


def _risk_coverage(judged: _Judged, split: str, styles: Styles) -> Any:
    """Selective risk against coverage, pooled over cells: dashed before temperature."""
    figure, axes = new_canvas()
    highest = 0.0
    for arm, title in judged.arms:
        axes.plot([], [], label=title, linewidth=1.3, **(styles[arm] | {"linestyle": "-"}))
        for stage, dashes in (("uncalibrated", "--"), ("calibrated", "-")):
            wrong, confidence = judged.of(arm, stage)
            if not len(wrong):
                continue
            curve = risk_coverage_curve(wrong, confidence)
            # The first few rows make a risk of anything; the axis is scaled by what follows.
            highest = max(highest, curve.risk[curve.coverage >= 0.05].max(initial=0))
            thin = thin_curve(curve, points=400)
            style = styles[arm] | {"linestyle": dashes}
            axes.plot(thin.coverage, thin.risk, linewidth=1.3, markevery=0.15, **style)
    axes.set_xlim(0, 1.005)
    axes.set_ylim(0, 1.25 * highest or 1)
    axes.set_xlabel("coverage: share of rows answered, most confident first")
    axes.set_ylabel("selective risk: share of answers that are wrong")
    axes.set_title(f"Risk and coverage, {split.replace('_', ' ')} rows, all seeds")
    _explain_dashes(axes, judged)
    draw_legend(axes)
    return figure


def _reliability(judged: _Judged, split: str, styles: Styles) -> Any:
    """Accuracy against confidence in bins, pooled over cells, before and after temperature."""
    figure, axes = new_canvas()
    axes.plot([0, 1], [0, 1], color="#777777", linewidth=0.8)
    for arm, title in judged.arms:
        axes.plot([], [], label=title, linewidth=1.3, **(styles[arm] | {"linestyle": "-"}))
        for stage, dashes in (("uncalibrated", "--"), ("calibrated", "-")):
            wrong, confidence = judged.of(arm, stage)
            if not len(wrong):
                continue
            bins = np.clip(np.ceil(confidence * ECE_BINS).astype(int) - 1, 0, ECE_BINS - 1)
            n = np.bincount(bins, minlength=ECE_BINS)
            # Ten rows at least, for fewer say nothing.
            shown = n >= 10
            mean = np.bincount(bins, confidence, ECE_BINS)[shown] / n[shown]
            right = np.bincount(bins, 1 - wrong, ECE_BINS)[shown] / n[shown]
            style = styles[arm] | {"linestyle": dashes}
            axes.plot(mean, right, linewidth=1.2, **style)
    axes.set_xlabel("confidence")
    axes.set_ylabel("share of answers that are right")
    name = split.replace("_", " ")
    axes.set_title(f"Reliability, {name} rows, all seeds, {ECE_BINS} bins")
    _explain_dashes(axes, judged)
    draw_legend(axes)
    return figure


def _explain_dashes(axes: Any, judged: _Judged) -> None:
    for stage, dashes in (("uncalibrated", "--"), ("calibrated", "-")):
        if any(len(judged.of(arm, stage)[0]) for arm, _ in judged.arms):
            when = "before" if stage == "uncalibrated" else "after"
            axes.plot([], [], dashes, color="#777777", label=f"{when} temperature")
