"""Figures of slices after the last round, in the rules and names of `trustq evaluate`."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from trustq.errors import InputError, TrustqError
from trustq.evaluation.fairness import FIGURES as ODDS
from trustq.evaluation.fairness import MIN_ROWS
from trustq.evaluation.slices import FIGURES, age_bands, slice_names
from trustq.metrics.classification import summarise
from trustq.metrics.per_class import class_positions, equalised_odds_gaps
from trustq.recipes import SweepRecipe
from trustq.repair.metadata import column_of, sliced_columns
from trustq.repair.rounds import Evaluated
from trustq.repair.setup import Experiment
from trustq.store import Cache


@dataclass(frozen=True)
class Slices:
    """The slice of each evaluated row by column, and the classes that count as one.

    `of` maps data set and split to columns, and these to the (n,) names of slices and their order.
    """

    of: dict[tuple[str, str], dict[str, tuple[np.ndarray, list[str]]]]
    positive: tuple[int, ...]


def find_slices(experiment: Experiment, externals: Sequence[Cache], sweep: SweepRecipe) -> Slices:
    """Slices of every set of rows that the experiment evaluates, but for validation rows.

    Raises `TrustqError` for a column that is not there or does not divide the rows, and for
    positive classes that are none.
    """
    columns = sliced_columns(sweep)
    cache = experiment.cache
    positive = class_positions(cache.classes, sweep.positive)
    if not columns:
        return Slices({}, positive)
    sets = [
        (cache, split, rows) for split, rows in experiment.evaluation.items() if split != "val"
    ] or [(cache, "out_of_fold", experiment.rows)]
    sets += [(other, "external", np.flatnonzero(other.label >= 0)) for other in externals]
    of: dict[tuple[str, str], dict[str, tuple[np.ndarray, list[str]]]] = {}
    for source, split, rows in sets:
        own = of.setdefault((source.dataset, split), {})
        for name in columns:
            values = column_of(source, name, key="slices", sweep=sweep)[rows]
            try:
                own[name] = (age_bands if name == sweep.ages else slice_names)(values)
            except TrustqError as error:
                raise InputError(
                    f"slices={name}, {split} rows of {source.dataset}: {error}"
                ) from error
    return Slices(of, positive)


def slice_rows(evaluated: Evaluated, slices: Slices) -> Iterator[dict[str, Any]]:
    """Figures of every slice, for the table of metrics; `n` is the rows that a figure is of.

    With positive classes also sensitivity, specificity and F1 for them, and the gaps between
    slices (`sensitivity_gap`, of no slice): largest less smallest over the slices with enough rows
    of both outcomes, without the unknown one. Where two slices cannot be compared there is no gap.
    """
    columns = slices.of.get((evaluated.dataset, evaluated.split), {})
    if evaluated.condition is not None:  # the same rows as the clean ones, seen worse
        dataset = evaluated.dataset.removesuffix(f"@{evaluated.condition}")
        tested = ((dataset, split) for split in ("test", "external"))
        columns = next((slices.of[key] for key in tested if key in slices.of), {})
    truth = np.isin(evaluated.labels, slices.positive)
    for name, (of_row, order) in columns.items():
        for stage, logits in evaluated.logits.items():
            base = {"stage": stage, "slice_name": name}
            for value in order:
                rows = of_row == value
                figures = summarise(evaluated.labels[rows], logits=logits[rows]).figures
                for metric in FIGURES:
                    yield base | {
                        "slice_value": value,
                        "metric": metric,
                        "value": float(figures[metric]),
                        "n": int(rows.sum()),
                    }
            if slices.positive:
                called = np.isin(logits.argmax(axis=1), slices.positive)
                yield from (base | row for row in _odds(truth, called, of_row))


def _odds(truth: np.ndarray, called: np.ndarray, of_row: np.ndarray) -> Iterator[dict[str, Any]]:
    gaps = equalised_odds_gaps(truth, called, of_row, min_rows=MIN_ROWS)
    compared = 0
    for value, (n_positive, n_negative, *figures) in gaps.by_group.items():
        counts = (n_positive, n_negative, n_positive + n_negative)
        compared += 0 if value in gaps.left_out else n_positive + n_negative
        for metric, figure, n in zip(ODDS, figures, counts, strict=True):
            yield {"slice_value": value, "metric": metric, "value": figure, "n": n}
    if len(gaps.by_group) - len(gaps.left_out) > 1:
        for metric in ODDS:
            yield {
                "slice_value": None,
                "metric": f"{metric}_gap",
                "value": float(getattr(gaps, metric)),
                "n": compared,
            }
