"""Tables of paired comparisons over seeds, with the floor of each test and Holm over the family."""

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from trustq.analysis.pairs import RUN_COLUMNS, Run, pair_runs, run_of
from trustq.core.column_names import called
from trustq.core.columns import read_table
from trustq.core.spreadsheets import csv_text
from trustq.errors import InputError, NotFound
from trustq.results import connect
from trustq.results.schema import MATCHED, PURCHASE, TABLES
from trustq.statistics.paired import effect_size, holm, paired_summary, probability_of_superiority
from trustq.statistics.runs import RunComparison, compare_runs, over_runs

FORMATS = ("markdown", "csv", "latex")
METRICS = ("macro_f1", "accuracy")

# {by} is a column of `runs`, checked before.
_FIGURES = f"""
SELECT {", ".join((*MATCHED, *PURCHASE, *RUN_COLUMNS))}, eval_dataset, score, arm, arm_title,
       metric, value, CAST({{by}} AS VARCHAR) AS compared
FROM metric_values
WHERE is_final AND class_name IS NULL AND slice_name IS NULL AND split = ? AND stage = ?
  AND metric IN (SELECT unnest(?)) AND compared IN (SELECT unnest(?))
ORDER BY ALL
"""


@dataclass(frozen=True)
class SeedTable:
    """Figures of one arm on one evaluation: metric -> seed -> figure.

    A seed is a number, of a file of seeds, or a `Run` of a results folder.
    """

    arm: str
    evaluation: str  # which rows were evaluated, e.g. internal or external; arms pair within it
    figures: Mapping[str, Mapping[Any, float]]
    across_caches: bool = False  # runs pair by seeds alone, for what is compared decides the cache
    notes: tuple[str, ...] = ()  # what was asked for and is not in the tables


@dataclass(frozen=True)
class Significance:
    """One comparison of two arms by one metric, a minus b, over the seeds that both have.

    `n` counts units: seeds of a file; networks of a results folder, each averaged over its draws;
    or the draws of its only network. `left_out` names runs without a partner.
    """

    evaluation: str
    metric: str
    a: str
    b: str
    n: int
    seeds: str
    mean_a: float
    mean_b: float
    difference: float
    sd: float
    lower: float
    upper: float
    p_value: float
    floor: float
    p_holm: float
    effect: float
    effect_lower: float
    effect_upper: float
    superiority: float
    unit: str = "seed"
    n_networks: int | None = None
    n_draws: int | None = None
    left_out: str = ""


def significance(
    tables: Sequence[SeedTable], *, metrics: Sequence[str], seed: int = 0
) -> list[Significance]:
    """Compare the first arm of every evaluation with each of its other arms, by each metric.

    Runs of a results folder are paired as in `trustq.analysis.pairs` and compared as in
    `trustq.statistics.runs.compare_runs`. Of a file of seeds, differences are paired by seed: mean,
    sd, 95 % percentile bootstrap over seeds alone (10,000 replicates, which with so few units is
    for reproducing tables) and exact sign-flip p with its floor. Both have Hedges' g and P(a > b).
    `p_holm` is over all rows of the answer: they are the family. Errors: an evaluation with one
    arm, a metric or seed that is not there, percents beside shares.

    >>> a = SeedTable("repair", "test", {"accuracy": {1: 0.8, 2: 0.7, 3: 0.9}})
    >>> b = SeedTable("none", "test", {"accuracy": {1: 0.7, 2: 0.5, 3: 0.6}})
    >>> (row,) = significance([a, b], metrics=["accuracy"])
    >>> round(row.difference, 6), row.p_value, row.floor
    (0.2, 0.25, 0.25)
    """
    if not tables or not metrics:
        raise InputError("There is nothing to compare: pass two seed tables and a metric.")
    rows = []
    for evaluation in dict.fromkeys(table.evaluation for table in tables):
        first, *others = [table for table in tables if table.evaluation == evaluation]
        if not others:
            where = f" on {evaluation!r}" if evaluation else ""
            raise InputError(
                f"{first.arm} has no other arm{where} to be compared with: pass at least two."
            )
        for metric in metrics:
            _require_one_scale(metric, [first, *others])
        rows += [_compared(first, other, metric, seed) for metric in metrics for other in others]
    adjusted = holm(np.array([row["p_value"] for row in rows]))
    return [Significance(**row, p_holm=float(p)) for row, p in zip(rows, adjusted, strict=True)]


def _require_one_scale(metric: str, tables: Sequence[SeedTable]) -> None:
    """Raise `TrustqError` where a share such as accuracy is in percents in one table alone."""
    found = {t.arm: list(own.values()) for t in tables if (own := t.figures.get(metric))}
    shares = [arm for arm, values in found.items() if max(values) <= 1]
    percents = [arm for arm, values in found.items() if min(values) > 1]
    if metric.lower().endswith((*METRICS, "auroc", "auc")) and shares and percents:
        raise InputError(
            f"{metric} of {percents[0]} lies above 1, as percents do, and that of {shares[0]} does "
            "not: write both as shares."
        )


def read_seed_table(path: Path, *, arm: str, evaluation: str = "") -> SeedTable:
    """Figures of one arm from a CSV or Parquet file with a column `seed` and one per metric.

    Columns that hold no number are left out, and so are blanks. Errors: no `seed`, or one twice.
    """
    columns = read_table(path)
    by = called(columns, "seed")
    if by is None:
        raise NotFound(
            f"{path} has no column seed; it has {', '.join(columns)}: "
            "a seed table has one row per seed.",
            path=path,
            expected=columns,
        )
    seeds = [_number(value) for value in columns.pop(by).tolist()]
    if any(seed is None or seed != int(seed) for seed in seeds) or len(set(seeds)) < len(seeds):
        raise InputError(f"{path}: seed must hold whole numbers, each once.", path=path)
    figures = {}
    for name, column in columns.items():
        values = [_number(value) for value in column.tolist()]
        found = {
            int(seed): value
            for seed, value in zip(seeds, values, strict=True)
            if seed is not None and value is not None
        }
        if found:
            figures[name] = found
    return SeedTable(arm, evaluation, figures)


def default_metrics(tables: Sequence[SeedTable]) -> list[str]:
    """Columns that every table has for macro-F1 and for accuracy, whatever they call them.

    The metric's own name, else those that end in it: of these the ones of test rows where any name
    says so, and not an uncalibrated one that has a calibrated twin. Raises `TrustqError` for none.

    >>> names = ["val_accuracy", "test_uncal_accuracy", "test_cal_accuracy"]
    >>> default_metrics([SeedTable("a", "", {name: {1: 0.5} for name in names})])
    ['test_cal_accuracy']
    """
    shared = [name for name in tables[0].figures if all(name in t.figures for t in tables)]
    chosen: list[str] = []
    for metric in METRICS:
        if metric in shared:
            chosen.append(metric)
            continue
        ending = [name for name in shared if name.lower().endswith(f"_{metric}")]
        ending = [name for name in ending if "test" in name.lower()] or ending
        chosen += [
            n
            for n in ending
            if n.replace("uncal", "cal") == n or n.replace("uncal", "cal") not in ending
        ]
    if not chosen:
        raise InputError(
            f"The tables share no column that ends in {' or '.join(METRICS)}; they share "
            f"{', '.join(shared) or 'none'}. Name some: `metrics=NAME,NAME`."
        )
    return chosen


def results_seed_tables(
    results: Path,
    *,
    arms: Sequence[str],
    by: str = "arm",
    metrics: Sequence[str] = METRICS,
    split: str = "test",
    stage: str = "calibrated",
    where: str = "",
) -> list[SeedTable]:
    """Final figures of arms in a results folder, one table per arm and setting, first arm first.

    A setting is all that was asked but the arm and the seeds; an arm that buys nothing belongs to
    every purchase. Settings that lack the first arm or have no other are left out, and the notes of
    the tables name them. Figures are by run; `significance` pairs them. `where` is a condition on
    `runs`.

    With another column `by`, such as `head` or `cache_recipe`, `arms` are its values, and the arm
    is a part of the setting. Other columns that have one value for each of them, and not the same,
    are told in their titles: `small-clean (noise none)`. Errors: an arm without figures, no setting
    with two, a column that `runs` lacks.
    """
    if by not in TABLES["runs"]:
        near = difflib.get_close_matches(by, list(TABLES["runs"]), n=1, cutoff=0.0)
        raise InputError(f"runs have no column {by!r}; did you mean {near[0]}?")
    asked = [split, stage, list(metrics), list(arms)]
    rows = _final_figures(results, by, asked, where=where)
    alike = (*(() if by == "arm" else ("arm",)), *MATCHED, *PURCHASE, "eval_dataset")
    telling = [] if by == "arm" else _determined(rows, [name for name in alike if name != by])
    settings = [name for name in alike if name != by and name not in telling]
    by_setting = _by_setting(rows, settings, any_purchase=by == "arm")
    compared = {
        setting: own
        for setting, own in by_setting.items()
        if len(there := {row["compared"] for row in own}) > 1 and arms[0] in there
    }
    if not compared:
        raise InputError(
            f"No setting in {results} has both {by} {arms[0]!r} and another of them, so nothing is "
            "paired. `trustq export table` shows which setting has which."
        )
    notes = _lone_settings(by_setting, compared, settings)
    caches = [{row["cache_digest"] for row in rows if row["compared"] == arm} for arm in arms]
    across_caches = by != "arm" and all(caches[0].isdisjoint(other) for other in caches[1:])
    told = _told_apart(list(compared))
    tables = []
    for setting, own in compared.items():
        place = ", ".join(f"{settings[j]} {setting[j]}" for j in told)
        for arm in arms:
            if found := [row for row in own if row["compared"] == arm]:
                title = found[0]["arm_title"] if by == "arm" else _title(arm, found[0], telling)
                figures = _by_run(found, share_start=by == "arm")
                tables.append(SeedTable(title, place, figures, across_caches, notes))
    return tables


def _final_figures(results: Path, by: str, asked: list[Any], *, where: str) -> list[dict[str, Any]]:
    """Figures of split, stage, metrics and arms, as `asked`; raises for an arm without any."""
    split, stage, _, arms = asked
    with connect(results, where=where) as connection:
        answer = connection.execute(_FIGURES.format(by=by), asked)
        names = [column[0] for column in answer.description or []]
        rows = [dict(zip(names, row, strict=True)) for row in answer.fetchall()]
    for arm in arms:
        if not any(row["compared"] == arm for row in rows):
            raise NotFound(
                f"{results} has no final {stage} figures of {by} {arm!r} on {split} rows.",
                path=results,
            )
    return rows


def _lone_settings(
    by_setting: Mapping[tuple[Any, ...], list[dict[str, Any]]],
    compared: Mapping[tuple[Any, ...], object],
    settings: Sequence[str],
) -> tuple[str, ...]:
    """A sentence for each setting that has nothing to be compared with."""
    told = _told_apart(list(by_setting))
    said = []
    for setting, own in by_setting.items():
        # Arms that buy nothing are in every setting, so they miss nothing here.
        lone = dict.fromkeys(row["compared"] for row in own if row["score"] != "none")
        if setting not in compared and lone:
            place = ", ".join(f"{settings[j]} {setting[j]}" for j in told)
            said.append(f"left out, for the other arm is not there: {', '.join(lone)} at {place}")
    return tuple(dict.fromkeys(said))


def _by_setting(
    rows: list[dict[str, Any]], settings: Sequence[str], *, any_purchase: bool
) -> dict[tuple[Any, ...], list[dict[str, Any]]]:
    """Rows of each setting; with `any_purchase`, rows that buy nothing are in all of their kind."""
    grouped: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
    buys_nothing = [any_purchase and row["score"] == "none" for row in rows]
    free = [row for row, nothing in zip(rows, buys_nothing, strict=True) if nothing]
    for row in (row for row, nothing in zip(rows, buys_nothing, strict=True) if not nothing):
        grouped.setdefault(tuple(row[name] for name in settings), []).append(row)
    for row in free:
        asked = [j for j, name in enumerate(settings) if name not in PURCHASE]
        for setting, own in grouped.items():
            if all(row[settings[j]] == setting[j] for j in asked):
                own.append(row)
    return grouped


def _determined(rows: list[dict[str, Any]], names: Sequence[str]) -> list[str]:
    """Columns with one value for each compared value, and not the same for all of them."""
    found = []
    for name in names:
        pairs = {(row["compared"], row[name]) for row in rows}
        values = {value for _, value in pairs}
        if len(values) > 1 and len(pairs) == len({compared for compared, _ in pairs}):
            found.append(name)
    return found


def _title(value: str, row: dict[str, Any], telling: Sequence[str]) -> str:
    # A digest says nothing to a reader; the noise itself is told.
    told = ", ".join(f"{name} {row[name]}" for name in telling if name != "noise_process")
    return f"{value} ({told})" if told else value


def _told_apart(settings: Sequence[tuple[Any, ...]]) -> list[int]:
    """The first places by which settings differ; those that tell nothing more are left out."""
    told: list[int] = []
    for j in range(len(settings[0])):
        known = {tuple(setting[i] for i in told) for setting in settings}
        if len({tuple(setting[i] for i in (*told, j)) for setting in settings}) > len(known):
            told.append(j)
    return told


OVER_SEEDS = (
    "95 % percentile bootstrap over seeds alone, too narrow for few (of 5 it holds the true mean "
    "in 84 % of studies, of 10 in 90)"
)
OVER_RUNS = "95 %, Student's, of the variance of networks and of draws that they share"


def format_significance(
    rows: Sequence[Significance],
    format: str,
    *,
    interval: str | None = None,
    notes: Sequence[str] = (),
) -> str:
    """The table as Markdown, CSV (every column, full precision) or LaTeX (booktabs).

    Markdown and LaTeX end with what the reader must know: the units, the floor, the family, what
    `interval` there is, runs without a partner, and further `notes`.
    """
    if format not in FORMATS:
        raise InputError(
            f"format is {format!r}: expected one of {', '.join(FORMATS)}.",
            where="format",
            found=format,
            expected=FORMATS,
        )
    if not rows:
        raise InputError("There are no comparisons to print.")
    if format == "csv":
        written = (asdict(row).values() for row in rows)
        return csv_text(list(asdict(rows[0])), written).rstrip("\n")
    head = ["evaluation", "comparison", "metric", "n", "difference", "95 % interval"]
    head += ["p", "floor", "Holm p", "g", "P(a > b)"]
    cells = [_cells(row) for row in rows]
    if not any(row.evaluation for row in rows):
        head, cells = head[1:], [row[1:] for row in cells]
    if interval is None:
        interval = OVER_SEEDS if all(row.unit == "seed" for row in rows) else OVER_RUNS
    left_out = dict.fromkeys(part for row in rows for part in row.left_out.split("; ") if part)
    lines = [_note(rows, interval), *notes]
    lines += [note[0].upper() + note[1:] + "." for note in left_out]
    if format == "markdown":
        table = [head, ["---"] * len(head), *cells]
        body = ["| " + " | ".join(escaped_markdown(text) for text in row) + " |" for row in table]
        return "\n".join([*body, "", "\n\n".join(lines)])
    body = [" & ".join(map(escaped_latex, row)) + r" \\" for row in (head, *cells)]
    return "\n".join(
        [
            rf"\begin{{tabular}}{{{'l' * (len(head) - 8)}{'r' * 8}}}",
            r"\toprule",
            body[0],
            r"\midrule",
            *body[1:],
            r"\bottomrule",
            r"\end{tabular}",
            *(f"% {line}" for line in lines),
        ]
    )


def _compared(a: SeedTable, b: SeedTable, metric: str, seed: int) -> dict[str, Any]:
    for table in (a, b):
        if metric not in table.figures:
            raise InputError(
                f"{table.arm} has no figures of {metric}; it has {', '.join(table.figures)}.",
                expected=table.figures,
            )
    of_a, of_b = a.figures[metric], b.figures[metric]
    head = {"evaluation": a.evaluation, "metric": metric, "a": a.arm, "b": b.arm}
    notes = dict.fromkeys((*a.notes, *b.notes))
    if all(isinstance(key, Run) for key in (*of_a, *of_b)):
        across = a.across_caches or b.across_caches
        runs_a, runs_b = list(of_a), list(of_b)
        pairing = pair_runs(runs_a, runs_b, names=(a.arm, b.arm), across_caches=across)
        if not pairing.pairs:
            raise InputError(
                f"{a.arm} and {b.arm} share no run of {metric}, so nothing is paired: "
                f"{'; '.join(pairing.left_out)}. Compare arms that ran on the same networks and "
                "draws."
            )
        paired = [(runs_a[i], runs_b[j]) for i, j in pairing.pairs]
        found = compare_runs(
            np.array([of_a[run] for run, _ in paired]),
            np.array([of_b[run] for _, run in paired]),
            networks=[run.network for run, _ in paired],
            draws=[run.draw for run, _ in paired],
            seed=seed,
        )
        titles = ",".join(run.title for run, _ in paired)
        return head | run_columns(found, titles, (*pairing.left_out, *notes))
    shared = sorted(set(of_a) & set(of_b))
    if not shared:
        raise InputError(f"{a.arm} and {b.arm} share no seed of {metric}: nothing is paired.")
    values = tuple(np.array([own[key] for key in shared]) for own in (of_a, of_b))
    paired_seeds = paired_summary(*values, seed=seed)
    lone = [
        f"{table.arm} {', '.join(map(str, own))}"
        for table in (a, b)
        if (own := sorted(set(table.figures[metric]) - set(shared)))
    ]
    left_out = [f"seeds without a partner: {' and '.join(lone)}"] if lone else []
    return head | {
        "n": paired_seeds.n,
        "seeds": ",".join(map(str, shared)),
        "mean_a": float(values[0].mean()),
        "mean_b": float(values[1].mean()),
        "difference": paired_seeds.mean,
        "sd": paired_seeds.sd,
        "lower": paired_seeds.lower,
        "upper": paired_seeds.upper,
        "p_value": paired_seeds.p_value,
        "floor": paired_seeds.floor,
        "left_out": "; ".join([*left_out, *notes]),
        **_effects(values[0], values[1]),
    }


def run_columns(found: RunComparison, titles: str, left_out: Sequence[str]) -> dict[str, Any]:
    """A comparison over runs as the columns of `Significance`, but for its head and Holm's p."""
    return {
        "n": found.n,
        "seeds": titles,
        "mean_a": float(found.of_a.mean()),
        "mean_b": float(found.of_b.mean()),
        "difference": found.mean,
        "sd": found.sd,
        "lower": found.lower,
        "upper": found.upper,
        "p_value": found.p_value,
        "floor": found.floor,
        "unit": found.unit,
        "n_networks": found.n_networks,
        "n_draws": found.n_draws,
        "left_out": "; ".join(left_out),
        **_effects(found.of_a, found.of_b),
    }


def _effects(of_a: np.ndarray, of_b: np.ndarray) -> dict[str, float]:
    effect = effect_size(of_a - of_b)
    return {
        "effect": effect.value,
        "effect_lower": effect.lower,
        "effect_upper": effect.upper,
        "superiority": probability_of_superiority(of_a, of_b).value,
    }


def _by_run(rows: Sequence[dict[str, Any]], *, share_start: bool) -> dict[str, dict[Run, float]]:
    """Figures by run; what arms share before they buy is part of a run where arms are compared.

    Heads, noise and other settings that are compared differ from the start on.
    """
    values: dict[str, dict[Run, float]] = {}
    for row in rows:
        if row["value"] is None:
            continue
        run, by_run = run_of(row), values.setdefault(row["metric"], {})
        run = run if share_start else run._replace(shared_key=None)
        if run in by_run:
            raise InputError(
                f"{row['compared']!r} has several runs of backbone seed {run.network} and draw "
                f"{run.draw}, or several figures of one: choose by a condition on runs."
            )
        by_run[run] = float(row["value"])
    return values


def _number(value: Any) -> float | None:
    try:
        number = float(value)
    except (TypeError, ValueError):
        return None
    return number if np.isfinite(number) else None


def _cells(row: Significance) -> list[str]:
    return [
        row.evaluation,
        f"{row.a} - {row.b}",
        row.metric,
        str(row.n),
        f"{row.difference:+.4f}",
        f"[{row.lower:+.4f}, {row.upper:+.4f}]",
        f"{row.p_value:.3g}",
        f"{row.floor:.3g}",
        f"{row.p_holm:.3g}",
        "" if np.isnan(row.effect) else f"{row.effect:+.2f}",
        f"{row.superiority:.2f}",
    ]


def _note(rows: Sequence[Significance], interval: str) -> str:
    floor = min(row.floor for row in rows)
    reach = (
        f"no comparison can have a p below {floor:.3g}"
        if floor > 0.05
        else f"the smallest p there can be is {floor:.3g}"
    )
    units = dict.fromkeys(
        over_runs(row.unit, row.n_networks, row.n_draws)
        for row in rows
        if row.unit in ("network", "draw")
        and row.n_networks is not None
        and row.n_draws is not None
    )
    over = "paired seeds" if not units else f"paired units ({'; or '.join(units)})"
    return (
        f"p: exact two-sided sign-flip over {over}; floor: the smallest p that n "
        f"{'units' if units else 'seeds'} can give ({reach}); Holm over the {len(rows)} rows of "
        f"this table; interval: {interval}; g: Hedges' standardised mean difference."
    )


def escaped_markdown(text: str) -> str:
    """A text as it stands in a cell of a Markdown table."""
    return text.replace("|", r"\|")


def escaped_latex(text: str) -> str:
    """A text as LaTeX prints it, its special characters escaped."""
    special = {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}
    special |= {character: "\\" + character for character in "&%$#_{}"}
    special |= {"<": r"\textless{}", ">": r"\textgreater{}"}
    return "".join(special.get(character, character) for character in text)
