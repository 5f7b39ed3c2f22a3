"""The page of a repair: one row per arm, with what it bought, gained and left uncertain."""

import json
from dataclasses import dataclass
from operator import itemgetter
from pathlib import Path
from typing import Any

import numpy as np

from trustq.core.counts import counted
from trustq.core.safety import DISCLAIMER
from trustq.errors import InputError
from trustq.evaluation.shift_stages import STAGES
from trustq.recipes.schema import AS_GIVEN, plain, sweep_settings
from trustq.results import connect
from trustq.results.schema import EXPERIMENT, PURCHASE
from trustq.statistics.paired import holm
from trustq.statistics.power import sign_flip_floor
from trustq.statistics.runs import compare_runs

# One table an experiment; of arms that buy, one a way to buy: what buys nothing is in each of them.
_WAY = (*(name for name in PURCHASE if name != "budget"), "refit")
_SETTING = (*EXPERIMENT, *_WAY)
# A network that was trained again on what an arm bought is a run of that arm and bought nothing
# itself: what was found is in the results of the purchase.
_OWN_PURCHASE = "coalesce(c.origin_digest, c.cache_digest) = c.cache_digest"
_CELLS = f"""
SELECT {", ".join(f"c.{name}" for name in _SETTING)}, arm, arm_title, budget,
       backbone_seed, draw_seed, cache_digest,
       leaky, in_sample, backbone_saw_rows, n_train, n_wrong_start, noise_rate, n_trusted,
       n_clean_validation, selection_digest, calibration_digest,
       CASE WHEN {_OWN_PURCHASE} THEN r.n_bought_total ELSE c.n_bought END AS bought,
       CASE WHEN {_OWN_PURCHASE} THEN r.n_flagged_total ELSE c.n_bought END AS flagged,
       CASE WHEN {_OWN_PURCHASE} THEN r.errors_found_total END AS errors_found,
       c.n_votes AS votes, c.spent, c.errors_findable,
       c.action, c.score, key
FROM runs c JOIN rounds r ON r.run = c.key
    AND r.round = CASE WHEN {_OWN_PURCHASE} THEN c.n_rounds_done ELSE 0 END
WHERE key IN (SELECT unnest(?)) ORDER BY ALL
"""
# A run's figures at a place are one row: most runs have the same ones, whose names are one text.
_FIGURES = """
SELECT run, eval_dataset, split,
    string_agg(stage || '/' || metric, ' ' ORDER BY stage, metric, value) AS names,
    list(value ORDER BY stage, metric, value) AS figures
FROM metrics
WHERE is_final AND split <> 'val' AND class_name IS NULL AND slice_name IS NULL
  AND metric IN (SELECT unnest(?)) AND run IN (SELECT unnest(?))
GROUP BY run, eval_dataset, split ORDER BY run, eval_dataset, split
"""
_AT_ONCE = 1000  # rows fetched; all of a large folder as Python's objects take gigabytes
_SHOWN = ("accuracy", "macro_f1", "nll", "ece", "aurc", "augrc")

_BASELINES = ("random", "none", "oracle")

# What a reader must know before believing a row.
_MARKS = {"leaky": "leaky", "in_sample": "in-sample", "backbone_saw_rows": "backbone saw rows"}

Row = dict[str, Any]
Seeds = tuple[int, int]  # backbone, draw
Found = dict[tuple[str, str], float]  # a run's figure by stage and metric
Figures = dict[str, dict[tuple[str, str], Found]]  # by run, then data set and split


@dataclass(frozen=True)
class RepairTable:
    """One table of arms: `rows` as people read them, `records` as scripts do.

    `shift` has a row for each stage of the external sets, of the first arm, no repair where it ran.
    """

    caption: str
    rows: list[Row]
    footer: str
    records: list[Row]
    shift: list[Row]


def repair_table(results: Path, keys: list[str]) -> RepairTable:
    """Figures of cells by arm and budget, averaged over seeds, with paired intervals of accuracy.

    `errors_found` are out of `errors_findable`, what the budget could find at most. Figures are of
    held-out rows (out of fold where there are none). In `rows` they are after temperature where
    there is one (`ece_raw` is before it); `records` have both, uncalibrated first. Differences are
    to random purchases, to no repair and to the oracle, over runs as in
    `trustq.statistics.runs.compare_runs`; the caption names the units. `p_holm` is Holm's over all
    differences to random and to no repair of the table. Rows that are dropped or weighed down have
    random and oracle of the same action. Records of external sets also have the stages of
    `trustq.evaluation.shift_stages`.
    Raises `TrustqError` when two cells would fall on one place of the table.
    """
    with connect(results) as connection:
        return repair_table_of(connection, keys)


def repair_table_of(connection: Any, keys: list[str]) -> RepairTable:
    """`repair_table` over an open connection, for pages of several tables."""
    cells = _rows(connection.execute(_CELLS, [keys]))
    figures = _figures(connection, keys)
    captions, records = [], []
    n_networks = len({cell["backbone"] for cell in cells})
    for setting, own in _by_way(cells).items():
        captions.append(_caption(own, setting, several=n_networks > 1))
        evaluations = [place for cell in own for place in figures.get(cell["key"], ())]
        for evaluation in dict.fromkeys(evaluations):
            of = dict(zip(_SETTING, setting, strict=True))
            of |= dict(zip(("evaluated_on", "split"), evaluation, strict=True))
            records += [of | record for record in _arm_records(own, figures, evaluation)]
    n_tests = _adjust(records)
    caption, footer = "\n\n".join(captions) + "\n", _footer(cells, n_tests)
    return RepairTable(caption, _shown(records), footer, records, _shift_rows(records))


def _figures(connection: Any, keys: list[str]) -> Figures:
    figures: Figures = {}
    # Each once, however many runs share it.
    places: dict[tuple[str, str], tuple[str, str]] = {}
    pairs: dict[str, list[tuple[str, str]]] = {}
    answer = connection.execute(_FIGURES, [list(_SHOWN), keys])
    while rows := answer.fetchmany(_AT_ONCE):
        for run, eval_dataset, split, names, values in rows:
            at = places.setdefault((eval_dataset, split), (eval_dataset, split))
            if names not in pairs:
                parted = (name.partition("/") for name in names.split(" "))
                pairs[names] = [(stage, metric) for stage, _, metric in parted]
            found = (np.nan if value is None else value for value in values)
            figures.setdefault(run, {})[at] = dict(zip(pairs[names], found, strict=True))
    return figures


def _adjust(records: list[Row]) -> int:
    """Add Holm's p over the differences that a table tests; returns how many there are."""
    gains = [
        gain
        for record in records
        for baseline in _BASELINES
        if baseline != "oracle"
        and (gain := record[f"accuracy_gain_over_{baseline}"]) is not None
        and gain["p"] is not None
    ]
    if gains:
        for gain, p in zip(gains, holm(np.array([gain["p"] for gain in gains])), strict=True):
            gain["p_holm"] = float(p)
    return len(gains)


def _arm_records(cells: list[Row], figures: Figures, evaluation: tuple[str, str]) -> list[Row]:
    # arm, budget -> seeds -> (stage, metric) -> figure
    values: dict[Any, dict[Seeds, Found]] = {}
    of_arm: dict[Any, list[Row]] = {}
    for cell in cells:
        of_arm.setdefault((cell["arm"], cell["budget"]), []).append(cell)
        found = figures.get(cell["key"], {}).get(evaluation)
        if found is None:
            continue
        by_seeds = values.setdefault((cell["arm"], cell["budget"]), {})
        if by_seeds.setdefault(_seeds(cell), found) is not found:
            raise InputError(
                f"Two runs of arm {cell['arm']} have the same data set, recipe and seeds, though "
                "they are of different caches; ask for one of them, or other `results`."
            )
    records = []
    taken = {(cell["arm"], cell["budget"]): cell["flagged"] for cell in cells}
    for arm, budget in sorted(values, key=lambda pair: (arm_order(pair[0]), taken[pair])):
        by_seed = values[arm, budget]
        own = of_arm[arm, budget]
        record: Row = {
            "arm": arm,
            "arm_title": own[0]["arm_title"],
            "budget": budget,
            "n": len(by_seed),
            "bought": float(np.mean([cell["bought"] for cell in own])),
            "flagged": float(np.mean([cell["flagged"] for cell in own])),
            "errors_found": None
            if any(cell["errors_found"] is None for cell in own)
            else float(np.mean([cell["errors_found"] for cell in own])),
            "errors_findable": float(np.mean([cell["errors_findable"] for cell in own])),
            "votes": float(np.mean([cell["votes"] for cell in own])),
            "spent": float(np.mean([cell["spent"] for cell in own])),
        }
        for stage in ("uncalibrated", "calibrated"):
            there = all((stage, "ece") in found for found in by_seed.values())
            record[stage] = (
                {metric: _mean(by_seed, stage, metric) for metric in _SHOWN} if there else None
            )
        for stage in STAGES:
            if all((stage, "ece") in found for found in by_seed.values()):
                record[stage] = {
                    metric: _mean(by_seed, stage, metric)
                    for metric in _SHOWN
                    if all((stage, metric) in found for found in by_seed.values())
                }
        action = "" if own[0]["action"] == "relabel" else f":{own[0]['action']}"
        for baseline in _BASELINES:
            name = baseline if baseline == "none" else baseline + action
            other = values.get((name, budget)) or values.get((name, "0"))
            compared = other is not None and arm not in (name, "none")
            gain = _difference(by_seed, other) if compared and other else None
            record[f"accuracy_gain_over_{baseline}"] = gain
        record["marks"] = [m for name, m in _MARKS.items() if any(cell[name] for cell in own)]
        if own[0]["exposure"] == "unknown":
            record["marks"].append("exposure unknown")
        records.append(record)
    return records


def _shown(records: list[Row]) -> list[Row]:
    """Records as the rows of a table; what is equal in all of them is left to the caption."""
    names = [*_SETTING, "evaluated_on", "split"]
    telling = [name for name in names if len({record[name] for record in records}) > 1]
    rows = []
    for record in records:
        row = {name: record[name] for name in telling} | {
            "arm": record["arm_title"],
            "budget": record["budget"],
            "n": record["n"],
            "bought": round(record["bought"], 1),
            "taken": round(record["flagged"], 1),
            "errors_found": record["errors_found"] and round(record["errors_found"], 1),
            "errors_findable": round(record["errors_findable"], 1),
            "votes": round(record["votes"], 1),
            "spent": round(record["spent"], 2),
        }
        figures = record["calibrated"] or record["uncalibrated"]
        row |= {name: round(figure, 4) for name, figure in figures.items()}
        row["ece_raw"] = round(record["uncalibrated"]["ece"], 4)
        for baseline in _BASELINES:
            gain = record[f"accuracy_gain_over_{baseline}"]
            row[f"gain_over_{baseline}"] = row[f"holm_p_{baseline}"] = None
            if baseline == "oracle" and gain:
                # How much is left to win: its size matters, not whether it is there.
                row["gain_over_oracle"] = f"{gain['mean']:+.4f}"
                continue
            if gain:
                row[f"gain_over_{baseline}"] = f"{gain['mean']:+.4f}" + (
                    "" if gain["p"] is None else f" [{gain['lower']:+.4f}, {gain['upper']:+.4f}]"
                )
                row[f"holm_p_{baseline}"] = gain["p_holm"] and float(f"{gain['p_holm']:.2g}")
        row["marks"] = ", ".join(record["marks"])
        rows.append(row)
    # Columns that say nothing here are left out.
    idle = {"holm_p_oracle"} | {
        name for name in ("taken", "votes", "spent") if all(r[name] == r["bought"] for r in rows)
    }
    for name in ("marks", "gain_over_oracle"):
        if not any(row[name] for row in rows):
            idle.add(name)
    return [{name: value for name, value in row.items() if name not in idle} for row in rows]


def _shift_rows(records: list[Row]) -> list[Row]:
    telling = [name for name in _SETTING if len({record[name] for record in records}) > 1]
    rows, done = [], set()
    for record in records:
        place = tuple(record[name] for name in (*_SETTING, "evaluated_on", "split"))
        if "oracle_temperature" not in record or place in done:
            continue
        done.add(place)
        for stage in ("uncalibrated", "calibrated", *STAGES):
            if stage in record:
                rows.append(
                    {name: record[name] for name in (*telling, "evaluated_on")}
                    | {"arm": record["arm_title"], "budget": record["budget"], "stage": stage}
                    | {name: _or_none(record[stage].get(name)) for name in _SHOWN}
                )
    return rows


def _or_none(figure: float | None) -> float | None:
    return None if figure is None else round(figure, 4)


def arm_order(arm: str) -> tuple[int, str]:
    """Sorting key of arms, from nothing to everything: no repair first, the oracle last."""
    score = arm.partition(":")[0].partition("~")[0]
    return {"none": 0, "random": 1, "oracle": 3}.get(score, 2), arm


def _mean(by_seed: dict[Seeds, Any], stage: str, metric: str) -> float:
    return float(np.mean([figures[stage, metric] for figures in by_seed.values()]))


def _difference(by_seed: dict[Seeds, Any], other: dict[Seeds, Any]) -> Row | None:
    shared = sorted(set(by_seed) & set(other))
    if not shared:
        return None
    ours, theirs = (
        np.array([values[seeds]["uncalibrated", "accuracy"] for seeds in shared])
        for values in (by_seed, other)
    )
    found = compare_runs(
        ours,
        theirs,
        networks=[network for network, _ in shared],
        draws=[draw for _, draw in shared],
    )
    # With one unit, or draws that are copies of one another, there is nothing to test.
    tested = found.n > 1 and not found.copies
    return {
        "unit": found.unit,
        "n": found.n,
        "mean": found.mean,
        "lower": found.lower if tested else None,
        "upper": found.upper if tested else None,
        "p": found.p_value if tested else None,
        "p_floor": found.floor if tested else None,
        "p_holm": None,
    }


def _caption(cells: list[Row], setting: tuple[Any, ...], *, several: bool) -> str:
    first, pairs = cells[0], [_seeds(cell) for cell in cells]
    n_backbones, n_draws = (len({pair[i] for pair in pairs}) for i in (0, 1))
    rate, wrong = (
        np.mean([cell[name] for cell in cells]) for name in ("noise_rate", "n_wrong_start")
    )
    unit = "draws of one network" if n_backbones == 1 and n_draws > 1 else "networks"
    network = f" of {first['backbone']}" if several else ""
    noise, known = f"noise {first['noise']} ({rate:.1%} realised)", f"{wrong:,.0f} wrong"
    if first["noise"] == AS_GIVEN:
        noise = "labels as given"
        known = f"{wrong:.0f} of those that people answered for wrong"
    return (
        f"{first['dataset']}, recipe {first['cache_recipe']}{network}: exposure "
        f"{first['exposure']}, {noise}, head "
        f"{first['head']}{_further(dict(zip(_SETTING, setting, strict=True)))}\n"
        f"{_from_to(cells, 'n_train')} training labels, {known} at the start; clean "
        f"labels besides those bought: {_from_to(cells, 'n_trusted')} trusted, "
        f"{_from_to(cells, 'n_clean_validation')} validation\n"
        f"{counted(n_draws, 'draw')} x {counted(n_backbones, 'backbone')}; differences of "
        "accuracy with 95 % intervals "
        f"and sign-flip p over {unit}"
    )


def _from_to(cells: list[Row], name: str) -> str:
    values = sorted({cell[name] for cell in cells})
    return " to ".join(f"{value:,}" for value in dict.fromkeys((values[0], values[-1])))


def _further(setting: Row) -> str:
    """Settings of a table that are not the default, beside those that its caption always says."""
    said = ("dataset", "noise", "head")
    told = []
    for s in sweep_settings():
        if s.column in setting and s.column not in said and s.column != "trusted":
            value = setting[s.column]
            default = s.default or None if isinstance(s.default, str | tuple) else s.default
            if value is not None and value not in (default, s.default):
                told.append(f"{s.title} {value}")
    told += [f"trusted {setting['trusted']:g}"] if setting["trusted"] else []
    for name in ("head_settings", "policy"):
        values = json.loads(setting[name] or "{}")
        defaults = {s.name: plain(s.default) for s in sweep_settings()}
        told += [
            f"{key.replace('_', ' ')} {value}"
            for key, value in values.items()
            if value != defaults.get(key) and key != "buy_unit"
        ]
    return "".join(f", {text}" for text in told)


def _by_way(cells: list[Row]) -> dict[tuple[Any, ...], list[Row]]:
    """Cells of each table by its setting, in their order.

    Those that buy nothing are in every table of their experiment, and have one of their own only
    where nothing else is bought.
    """
    n = len(EXPERIMENT)
    setting_of = itemgetter(*_SETTING)
    settings = {cell["key"]: setting_of(cell) for cell in cells}
    buying = [settings[cell["key"]] for cell in cells if cell["score"] != "none"]
    alone = [settings[cell["key"]] for cell in cells if cell["score"] == "none"]
    bought = {setting[:n] for setting in buying}
    ways = [*buying, *(setting for setting in alone if setting[:n] not in bought)]
    tables: dict[tuple[Any, ...], list[Row]] = {way: [] for way in ways}
    of_experiment: dict[tuple[Any, ...], list[tuple[Any, ...]]] = {}
    for way in tables:
        of_experiment.setdefault(way[:n], []).append(way)
    for cell in cells:
        own = settings[cell["key"]]
        for way in of_experiment[own[:n]] if cell["score"] == "none" else [own]:
            tables[way].append(cell)
    return tables


def answers(table: RepairTable) -> list[str]:
    """For each experiment of a table a sentence that answers whether checking labels pays.

    It is of the arm that gained most over random purchases, of those that people can have.
    """
    said = []
    of_place: dict[tuple[Any, ...], list[Row]] = {}
    for record in table.records:
        place = tuple(record[name] for name in (*_SETTING, "evaluated_on", "split"))
        of_place.setdefault(place, []).append(record)
    for own in of_place.values():
        first = own[0]
        if first["evaluated_on"] != first["dataset"]:
            continue
        what = (
            f"{first['dataset']}, {first['cache_recipe']} of {first['backbone']}, noise "
            f"{first['noise']}, head {first['head']}"
            f"{_further({name: first[name] for name in _SETTING})}, {first['split']} rows"
        )
        tested = [
            (row, gain)
            for row in own
            if arm_order(row["arm"])[0] == 2 and (gain := row["accuracy_gain_over_random"])
        ]
        if not tested:
            said.append(f"{what}: no arm was run beside random purchases, so nothing answers it.")
            continue
        row, gain = max(tested, key=lambda pair: pair[1]["mean"])
        found = (
            f"buying {row['budget']} by {row['arm_title']} changes accuracy by {gain['mean']:+.4f} "
            "over random purchases"
        )
        if gain["p"] is None:
            said.append(f"{what}: {found}; with one unit nothing tells it from chance.")
            continue
        p = gain["p"] if gain["p_holm"] is None else gain["p_holm"]
        pays = "Yes" if p <= _LEVEL and gain["mean"] > 0 else "Not shown"
        if p <= _LEVEL and gain["mean"] < 0:
            pays = "No"
        said.append(
            f"{pays}: on {what}, {found} [{gain['lower']:+.4f}, {gain['upper']:+.4f}], p = {p:.2g} "
            f"(Holm, n = {gain['n']}; the best of {len(tested)} compared)."
        )
    return said


_LEVEL = 0.05


def _footer(cells: list[Row], n_tests: int) -> str:
    pairs = [_seeds(cell) for cell in cells]
    n_networks, n_draws = (len({pair[i] for pair in pairs}) for i in (0, 1))
    n = n_draws if n_networks == 1 else n_networks
    lines = []
    if n_tests:
        lines.append(
            f"holm_p: adjusted by Holm over the {counted(n_tests, 'comparison')} of this table."
        )
    if n > 1:
        floor = sign_flip_floor(n)
        reach = ": no difference can reach .05." if floor > 0.05 else ", before any adjustment."
        lines.append(f"With n = {n} the smallest sign-flip p there can be is {floor:.2g}{reach}")
    if n_draws > 1:
        lines.append("Draws share their backbones: they are not independent trainings.")
    if any(
        c["selection_digest"] and c["selection_digest"] == c["calibration_digest"] for c in cells
    ):
        lines.append("The head's settings and the calibrator use the same validation labels.")
    lines.append(DISCLAIMER)
    return "\n".join(lines)


def _seeds(row: Row) -> Seeds:
    return row["backbone_seed"], row["draw_seed"]


def _rows(answer: Any) -> list[Row]:
    names = [column[0] for column in answer.description]
    return [dict(zip(names, row, strict=True)) for row in answer.fetchall()]
