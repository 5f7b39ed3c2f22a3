"""The page of a repair: one row per arm, with what it bought, gained and left uncertain."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from trustq.results import connect
from trustq.stats import paired_summary

DISCLAIMER = "Research only, not a medical device."

_SETTING = ("dataset", "recipe", "exposure", "noise", "head", "rows_used")
_CELLS = f"""
SELECT {", ".join(_SETTING)}, arm, arm_title, budget, backbone_seed, draw_seed, cache_digest,
       leaky, in_sample, backbone_saw_rows, n_train, n_wrong_start, noise_rate, n_trusted,
       n_clean_validation, r.n_bought_total AS bought, r.hits_total AS hits
FROM cells c JOIN rounds r ON r.cell = c.key AND r.round = c.n_rounds
WHERE key IN (SELECT unnest(?)) ORDER BY ALL
"""
_FIGURES = f"""
SELECT {", ".join(_SETTING)}, arm, budget, backbone_seed, draw_seed, eval_dataset, split, stage,
       metric, figure
FROM figures
WHERE is_final AND split <> 'val' AND class_name IS NULL AND slice_name IS NULL
  AND key IN (SELECT unnest(?)) ORDER BY ALL
"""
_SHOWN = ("accuracy", "macro_f1", "nll", "ece", "aurc", "augrc")

# What a reader must know before believing a row.
_MARKS = {"leaky": "leaky", "in_sample": "in-sample", "backbone_saw_rows": "backbone saw rows"}

Row = dict[str, Any]
Seeds = tuple[int, int]  # backbone, draw


@dataclass(frozen=True)
class RepairTable:
    """One table of arms for people and scripts."""

    caption: str
    rows: list[Row]
    footer: str


def repair_table(results: Path, keys: list[str]) -> RepairTable:
    """Figures of cells by arm and budget, averaged over seeds, with paired intervals of accuracy.

    Figures are of held-out rows (out of fold where there are none), after temperature where there
    is one (`ece_raw` is before it). Differences are to random purchases and to no repair, paired by
    draw (averaged over backbones) or by backbone (averaged over draws), whichever are more; the
    caption says which.
    """
    with connect(results) as connection:
        cells = _rows(connection.execute(_CELLS, [keys]))
        figures = _rows(connection.execute(_FIGURES, [keys]))
    settings = _distinct(cells, _SETTING)
    captions, rows = [], []
    for setting in settings:
        own = _of(cells, _SETTING, setting)
        found = _of(figures, _SETTING, setting)
        captions.append(_caption(own))
        evaluations = _distinct(found, ("eval_dataset", "split"))
        for evaluation in evaluations:
            lead: Row = {}
            if len(settings) > 1:
                lead |= {"recipe": own[0]["recipe"], "exposure": own[0]["exposure"]}
            if len(evaluations) > 1:
                lead["evaluated_on"] = " ".join(evaluation)
            arms = _arm_rows(own, _of(found, ("eval_dataset", "split"), evaluation))
            rows += [lead | row for row in arms]
    if not any(row["marks"] for row in rows):
        rows = [{name: value for name, value in row.items() if name != "marks"} for row in rows]
    return RepairTable("\n\n".join(captions) + "\n", rows, _footer(cells))


def _arm_rows(cells: list[Row], figures: list[Row]) -> list[Row]:
    # arm, budget -> seeds -> (stage, metric) -> figure
    values: dict[Any, dict[Seeds, dict[tuple[str, str], float]]] = {}
    for row in figures:
        by_seed = values.setdefault((row["arm"], row["budget"]), {})
        figure = np.nan if row["figure"] is None else row["figure"]
        by_seed.setdefault(_seeds(row), {})[row["stage"], row["metric"]] = figure
    rows = []
    bought = {(cell["arm"], cell["budget"]): cell["bought"] for cell in cells}
    order = sorted(values, key=lambda pair: (arm_order(pair[0]), bought[pair]))
    for arm, budget in order:
        by_seed = values[arm, budget]
        own = _of(cells, ("arm", "budget"), (arm, budget))
        calibrated = ("calibrated", "ece") in next(iter(by_seed.values()))
        stage = "calibrated" if calibrated else "uncalibrated"
        row = {
            "arm": own[0]["arm_title"],
            "budget": budget,
            "n": len(by_seed),
            "bought": round(float(np.mean([cell["bought"] for cell in own])), 1),
            "hits": round(float(np.mean([cell["hits"] for cell in own])), 1),
        }
        row |= {metric: _mean(by_seed, stage, metric) for metric in _SHOWN}
        row["ece_raw"] = _mean(by_seed, "uncalibrated", "ece") if calibrated else None
        for baseline in ("random", "none"):
            other = values.get((baseline, budget)) or values.get((baseline, "0"))
            if other is not None and arm not in (baseline, "none"):
                row |= _difference(by_seed, other, baseline)
            else:
                row |= {f"gain_over_{baseline}": None, f"p_{baseline}": None}
        flags = {
            "leaky": "leaky",
            "in_sample": "in-sample",
            "backbone_saw_rows": "backbone saw rows",
        }
        row["marks"] = ", ".join(t for f, t in flags.items() if any(cell[f] for cell in own))
        rows.append(row)
    return rows


def arm_order(arm: str) -> tuple[int, str]:
    """Sorting key of arms, from nothing to everything: no repair first, the oracle last."""
    return {"none": 0, "random": 1, "oracle": 3}.get(arm, 2), arm


def _mean(by_seed: dict[Seeds, Any], stage: str, metric: str) -> float:
    return round(float(np.mean([figures[stage, metric] for figures in by_seed.values()])), 4)


def _difference(by_seed: dict[Seeds, Any], other: dict[Seeds, Any], baseline: str) -> Row:
    shared = sorted(set(by_seed) & set(other))
    if not shared:
        return {f"gain_over_{baseline}": None, f"p_{baseline}": None}
    position = _unit_position(shared)
    units = sorted({seeds[position] for seeds in shared})

    def averaged(values: dict[Seeds, Any]) -> np.ndarray:
        figures = {seeds: values[seeds]["uncalibrated", "accuracy"] for seeds in shared}
        return np.array(
            [np.mean([f for seeds, f in figures.items() if seeds[position] == u]) for u in units]
        )

    ours, theirs = averaged(by_seed), averaged(other)
    if len(units) < 2:
        return {
            f"gain_over_{baseline}": f"{(ours - theirs).mean():+.4f}",
            f"p_{baseline}": None,
        }
    summary = paired_summary(ours, theirs, seed=0)
    interval = f"{summary.mean:+.4f} [{summary.lower:+.4f}, {summary.upper:+.4f}]"
    return {f"gain_over_{baseline}": interval, f"p_{baseline}": float(f"{summary.p_value:.2g}")}


def _caption(cells: list[Row]) -> str:
    first, pairs = cells[0], [_seeds(cell) for cell in cells]
    n_backbones, n_draws = (len({pair[i] for pair in pairs}) for i in (0, 1))
    rate, wrong = (
        np.mean([cell[name] for cell in cells]) for name in ("noise_rate", "n_wrong_start")
    )
    unit = "backbones" if _unit_position(pairs) == 0 else "draws"
    return (
        f"{first['dataset']}, recipe {first['recipe']}: exposure {first['exposure']}, noise "
        f"{first['noise']} ({rate:.1%} realised), head {first['head']}\n"
        f"{first['n_train']} training labels, {wrong:.0f} wrong at the start; clean labels besides "
        f"those bought: {first['n_trusted']} trusted, {first['n_clean_validation']} validation\n"
        f"{n_draws} draws x {n_backbones} backbones; differences of accuracy with 95 % bootstrap "
        f"intervals and sign-flip p over {unit}"
    )


def _footer(cells: list[Row]) -> str:
    pairs = [_seeds(cell) for cell in cells]
    position = _unit_position(pairs)
    n = len({pair[position] for pair in pairs})
    lines = []
    if n > 1:
        lines.append(f"With n = {n} the smallest sign-flip p there can be is {2 / 2**n:.2g}.")
    if n > 1 and position == 1:
        lines.append("Draws share their backbones: they are not independent trainings.")
    lines.append(DISCLAIMER)
    return "\n".join(lines)


def _unit_position(seeds: Sequence[Seeds]) -> int:
    """0 where backbones are the unit, 1 where draws are: whichever are more."""
    n_backbones, n_draws = (len({pair[i] for pair in seeds}) for i in (0, 1))
    return 0 if n_backbones > n_draws else 1


def _seeds(row: Row) -> Seeds:
    return row["backbone_seed"], row["draw_seed"]


def _rows(answer: Any) -> list[Row]:
    names = [column[0] for column in answer.description]
    return [dict(zip(names, row, strict=True)) for row in answer.fetchall()]


def _distinct(rows: list[Row], names: Sequence[str]) -> list[tuple[Any, ...]]:
    return list(dict.fromkeys(tuple(row[name] for name in names) for row in rows))


def _of(rows: list[Row], names: Sequence[str], values: tuple[Any, ...]) -> list[Row]:
    return [row for row in rows if tuple(row[name] for name in names) == values]
