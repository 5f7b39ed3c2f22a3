"""Gates: does a result meet what was agreed, and did it fall against an earlier one?

A gate fails where its figure misses the bound and the whole interval does; a figure that misses it
while the interval holds the bound is unclear. A fall is significant where the interval of the
paired difference, by group and over paired runs, lies on the worse side of 0.
"""

import json
import math
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import scipy

from trustq.analysis.pairs import Stored
from trustq.core.class_names import unknown_class
from trustq.errors import InputError
from trustq.evaluation.bootstrap import FIGURES, FURTHER, crossed_figures, figure_intervals
from trustq.evaluation.fairness import MIN_ROWS
from trustq.metrics.per_class import sensitivity_at_specificity
from trustq.results import connect
from trustq.results.schema import LOWER_IS_BETTER, OF_ARM, RUNS
from trustq.statistics.intervals import grouped_share_interval
from trustq.statistics.paired import Interval
from trustq.statistics.runs import compare_runs

# What a study of this kind was held to: accuracy, macro-F1, and the largest gap between groups.
PACKAGED = ("accuracy>=.85", "macro_f1>=.80", "gap<=.10")
LARGEST_FALL = {"macro_f1": 0.01}  # a larger fall is an alert, whether significant or not
OF_CLASS = ("recall", "specificity", "sensitivity_at_95_specificity")
_GATE = re.compile(
    r"\s*([a-z]\w*)(?:\[([^\]]+)\])?\s*(<=|>=|<|>)\s*([-+]?(?:\d+\.?\d*|\.\d+)(?:e-?\d+)?)\s*"
)
_LARGEST = {"nll": math.inf, "brier": 2.0}  # values of figures; of all others 1
# Of a setup, what cannot be mixed in one figure.
_SETUP = ("dataset", "arm_title", "budget", "head", "noise", "cache_recipe", "refit", "backbone")


@dataclass(frozen=True)
class Gate:
    """A bound of one figure, e.g. `ece<.05` or `recall[mel]>.6`."""

    text: str
    figure: str
    class_name: str  # empty: of all classes
    sign: str
    bound: float

    @property
    def name(self) -> str:
        """The figure with its class."""
        return f"{self.figure}[{self.class_name}]" if self.class_name else self.figure

    def holds(self, value: float) -> bool:
        """Whether a value meets the bound; NaN does not."""
        return {
            "<": value < self.bound,
            "<=": value <= self.bound,
            ">": value > self.bound,
            ">=": value >= self.bound,
        }[self.sign]


@dataclass(frozen=True)
class GateResult:
    """A gate, the mean of its figure over runs, and `passed`, `failed` or `unclear`."""

    gate: str
    figure: str
    value: float
    lower: float
    upper: float
    outcome: str


@dataclass(frozen=True)
class Change:
    """A figure then and now, and the paired difference, now minus then."""

    figure: str
    before: float
    now: float
    difference: float
    lower: float
    upper: float
    outcome: str  # 'fell', 'alert' (by more than is allowed, not significant), or 'held'


@dataclass(frozen=True)
class Check:
    """All gates and changes of one setup of a results folder."""

    setup: dict[str, Any]
    n_runs: int
    n_rows: int
    gates: tuple[GateResult, ...]
    changes: tuple[Change, ...]
    head_bytes: float | None
    milliseconds_per_row: float | None
    notes: tuple[str, ...] = ()

    @property
    def passed(self) -> bool:
        """Whether no gate failed and nothing fell significantly."""
        return not any(gate.outcome == "failed" for gate in self.gates) and not any(
            change.outcome == "fell" for change in self.changes
        )

    @property
    def record(self) -> dict[str, Any]:
        """All of it for JSON."""
        return asdict(self) | {"passed": self.passed}


def parse_gate(text: str) -> Gate:
    """A gate from its text; raises `TrustqError` for another form or an unknown figure.

    >>> parse_gate("sensitivity_at_95_specificity[mel]>.6").name
    'sensitivity_at_95_specificity[mel]'
    """
    found = _GATE.fullmatch(text)
    known = (*FIGURES, *FURTHER, "gap", *OF_CLASS)
    if not found:
        raise InputError(
            f"{text!r} is not a gate. Write FIGURE, an optional [CLASS], a sign and a number, e.g. "
            "ece<.05 or recall[mel]>.6.",
            where="gate",
            found=text,
        )
    figure, class_name, sign, bound = found.groups()
    if figure not in known:
        raise InputError(
            f"gate {text!r}: unknown figure {figure!r}; expected one of {', '.join(known)}.",
            where="gate",
            found=figure,
            expected=known,
        )
    if (figure in OF_CLASS) != bool(class_name):
        way = "needs a class in brackets" if figure in OF_CLASS else "is of all classes"
        raise InputError(f"gate {text!r}: {figure} {way}, e.g. {_example(figure)}.", where="gate")
    largest = _LARGEST.get(figure, 1.0)
    if not 0 <= float(bound) <= largest:  # ece<5 of who means percent would always pass
        raise InputError(
            f"gate {text!r}: {figure} lies from 0 to {largest:g}, so this gate says nothing; "
            f"expected a bound such as {_example(figure)}.",
            where="gate",
            found=bound,
        )
    return Gate(text.strip(), figure, class_name or "", sign, float(bound))


def check_results(
    results: Path,
    gates: Sequence[Gate],
    *,
    against: Path | None = None,
    stored: Stored | None = None,
    seed: int = 0,
) -> Check:
    """Check gates on the final predictions of one setup, and compare them with an earlier folder.

    Several runs of the setup (networks, draws) are averaged; the interval of a gate is then the
    mean of the runs' intervals, as if all erred on the same groups. Raises `TrustqError` where the
    folder holds no such predictions, or those of several setups, and where the earlier one has
    other rows.
    """
    stored = stored or Stored()
    now = _read(results, stored)
    before = None if against is None else _read(against, stored)
    changes: list[Change] = []
    notes = list(now.notes)
    if not now.gaps and any(gate.text in PACKAGED and gate.figure == "gap" for gate in gates):
        notes.append("The runs hold no slices, so the packaged gate of the gap was not checked")
        gates = [gate for gate in gates if gate.text not in PACKAGED or gate.figure != "gap"]
    checked = tuple(_checked(gate, now, seed) for gate in gates)
    if before is not None:
        pairs = _paired(now, before, results, against)
        n_pairs, counts = len(pairs.now), (len(now.runs), len(before.runs))
        if n_pairs < max(counts):
            notes.append(
                f"{n_pairs} runs of the {counts[0]} now and the {counts[1]} before have the same "
                "network and draw, and are compared"
            )
        names = dict.fromkeys(("accuracy", "macro_f1", "ece", "nll"))
        overall = [n for n in (*names, *(g.figure for g in gates)) if n in (*FIGURES, *FURTHER)]
        changes += _changes(pairs, list(dict.fromkeys(overall)), seed)
        classes = [gate for gate in gates if gate.figure in OF_CLASS]
        changes += [_class_change(gate, pairs) for gate in classes]
        if any(gate.figure == "gap" for gate in gates):
            change = _gap_change(pairs)
            changes += [] if change is None else [change]
            if change is None:
                notes.append("The earlier runs hold no slices, so the gap was not compared")
            elif len(pairs.now) < 2:
                notes.append("The change of the gap of one run has no interval")
    return Check(
        setup=now.setup,
        n_runs=len(now.runs),
        n_rows=len(now.runs[0].labels),
        gates=checked,
        changes=tuple(changes),
        head_bytes=now.head_bytes,
        milliseconds_per_row=now.milliseconds,
        notes=tuple(notes),
    )


def parity(results: Path, *, allowed: Sequence[str] = (), where: str = "") -> dict[str, list[Any]]:
    """Settings in which runs differ and were not to: their names and values.

    What an arm is (its score, source and action) may always differ, and seeds; `allowed` names
    further columns of `runs`. Empty where nothing else differs. Raises `TrustqError` for a name
    that is no column.
    """
    unknown = [name for name in allowed if name not in RUNS]
    if unknown:
        raise InputError(f"{unknown[0]!r} is no column of runs; there are {', '.join(RUNS)}.")
    columns = [
        name
        for name, column in RUNS.items()
        if column.role and name not in OF_ARM and name not in allowed
    ]
    with connect(results, where=where) as connection:
        differing = {}
        for name in columns:
            rows = connection.execute(f"SELECT DISTINCT {name} FROM runs ORDER BY 1").fetchall()
            if len(rows) > 1:
                differing[name] = [row[0] for row in rows]
    return differing


@dataclass(frozen=True)
class _Run:
    backbone_seed: int
    draw_seed: int
    ids: np.ndarray
    groups: np.ndarray
    labels: np.ndarray  # (n,) of class positions
    probs: np.ndarray  # (n, k)
    validation: "tuple[np.ndarray, np.ndarray] | None"  # labels and probabilities
    gap: float | None  # largest difference of accuracy between slices of one column

    @property
    def predicted(self) -> np.ndarray:
        return np.asarray(self.probs.argmax(axis=1))


@dataclass(frozen=True)
class _Setup:
    setup: dict[str, Any]
    classes: tuple[str, ...]
    runs: list[_Run]
    head_bytes: float | None
    milliseconds: float | None
    notes: list[str]

    @property
    def gaps(self) -> list[float]:
        """The gap of each run that holds slices."""
        return [run.gap for run in self.runs if run.gap is not None]


def _read(results: Path, stored: Stored) -> _Setup:
    with connect(results, where=stored.where) as connection:
        found = connection.execute(
            f"SELECT key, backbone_seed, draw_seed, classes, head_bytes, microseconds_per_row, "
            f"{', '.join(_SETUP)} FROM runs ORDER BY backbone_seed, draw_seed, key"
        )
        names = [column[0] for column in found.description]
        rows = [dict(zip(names, row, strict=True)) for row in found.fetchall()]
        if not rows:
            raise InputError(f"{results} holds no runs to check. Run some, or loosen `where`.")
        setups = {tuple(row[name] for name in _SETUP) for row in rows}
        if len(setups) > 1:
            raise InputError(_several(results, rows))
        classes = tuple(json.loads(rows[0]["classes"]))
        runs = []
        for row in rows:
            dataset = stored.eval_dataset or row["dataset"]
            read = _predictions(connection, row, dataset, stored.split, stored.stage, classes)
            if read is None:
                raise InputError(
                    f"{results} holds no final {stored.stage} predictions of {dataset}, "
                    f"{stored.split}, for run {row['key'][:12]}. Choose another `stage` or `split`."
                )
            runs.append(read)
    sizes = [row["head_bytes"] for row in rows if row["head_bytes"] is not None]
    times = [row["microseconds_per_row"] for row in rows if row["microseconds_per_row"] is not None]
    return _Setup(
        {name: rows[0][name] for name in _SETUP} | {"split": stored.split, "stage": stored.stage},
        classes,
        runs,
        float(np.mean(sizes)) if sizes else None,
        float(np.mean(times)) / 1000 if times else None,
        [],
    )


def _several(results: Path, rows: list[dict[str, Any]]) -> str:
    differing = [name for name in _SETUP if len({str(row[name]) for row in rows}) > 1]
    first = differing[0]
    values = sorted({str(row[first]) for row in rows})
    return (
        f"{results} holds {len({tuple(str(r[n]) for n in _SETUP) for r in rows})} setups, which "
        f"differ in {', '.join(differing)}; gates are of one. Choose it by a condition on runs, "
        f"e.g. `where={first} = '{values[0]}'`."
    )


def _predictions(
    connection: Any,
    row: dict[str, Any],
    dataset: str,
    split: str,
    stage: str,
    classes: tuple[str, ...],
) -> _Run | None:
    parts = {}
    for own in (split, "val"):
        found = connection.execute(
            """SELECT p.sample_id, p.group_id, p.label, p.probabilities FROM predictions p
            WHERE p.run = $run AND p.eval_dataset = $dataset AND p.split = $split
              AND p.stage = $stage AND p.label IS NOT NULL AND p.probabilities IS NOT NULL
              AND p.round = (SELECT max(q.round) FROM predictions q WHERE q.run = $run)
            ORDER BY p.sample_id""",
            {"run": row["key"], "dataset": dataset, "split": own, "stage": stage},
        ).fetchall()
        if found:
            ids, groups, labels, probs = zip(*found, strict=True)
            positions = {name: place for place, name in enumerate(classes)}
            parts[own] = (
                np.array(ids),
                np.array([g if g is not None else i for g, i in zip(groups, ids, strict=True)]),
                np.array([positions[label] for label in labels]),
                np.array(probs, dtype=np.float64),
            )
    if split not in parts:
        return None
    validation = parts["val"][2:] if "val" in parts and split != "val" else None
    gap = _gap(connection, row["key"], dataset, split, stage)
    return _Run(row["backbone_seed"], row["draw_seed"], *parts[split], validation, gap)


def _gap(connection: Any, run: str, dataset: str, split: str, stage: str) -> float | None:
    """The largest difference of accuracy between slices of one column; None without slices."""
    found = connection.execute(
        """SELECT slice_name, max(value) - min(value) FROM metrics
        WHERE run = $run AND eval_dataset = $dataset AND split = $split AND stage = $stage
          AND is_final AND metric = 'accuracy' AND slice_value IS NOT NULL AND class_name IS NULL
          AND n >= $least
        GROUP BY slice_name HAVING count(*) > 1""",
        {"run": run, "dataset": dataset, "split": split, "stage": stage, "least": MIN_ROWS},
    ).fetchall()
    return max((gap for _, gap in found), default=None)


def _checked(gate: Gate, now: _Setup, seed: int) -> GateResult:
    if gate.figure == "gap":
        if not now.gaps:
            raise InputError(
                f"gate {gate.text!r}: the runs hold no slices, so there is no gap. Run them with "
                "`slices=COLUMN` and `metadata=FILE`."
            )
        value = float(np.mean(now.gaps))
        lower = upper = math.nan
    elif gate.figure in OF_CLASS:
        found = [_class_figure(gate, run, now.classes) for run in now.runs]
        value, lower, upper = (float(np.mean(column)) for column in zip(*found, strict=True))
    else:
        own = [
            figure_intervals(
                run.labels,
                probs=run.probs,
                groups=run.groups,
                figures=(gate.figure,),
                seed=seed,
            )[gate.figure]
            for run in now.runs
        ]
        value, lower, upper = (float(np.mean(column)) for column in zip(*own, strict=True))
    return GateResult(
        gate.text, gate.name, value, lower, upper, _outcome(gate, value, lower, upper)
    )


def _outcome(gate: Gate, value: float, lower: float, upper: float) -> str:
    if gate.holds(value):
        return "passed"
    if math.isnan(value):
        return "unclear"
    best = upper if gate.sign in (">", ">=") else lower
    # Without an interval the figure itself decides.
    return "failed" if math.isnan(best) or not gate.holds(best) else "unclear"


def _class_flags(gate: Gate, run: _Run, classes: tuple[str, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Rows that a class figure is of, and whether each is a hit."""
    if gate.class_name not in classes:
        raise InputError(
            f"gate {gate.text!r}: {unknown_class(gate.class_name, classes)}.", where="gate"
        )
    own = classes.index(gate.class_name)
    is_own = run.labels == own
    if not is_own.any() or is_own.all():
        raise InputError(
            f"gate {gate.text!r}: the rows hold {'only' if is_own.all() else 'no'} "
            f"{gate.class_name}, so the figure is of nothing."
        )
    if gate.figure == "recall":
        return np.flatnonzero(is_own), (run.predicted == own)[is_own]
    if gate.figure == "specificity":
        return np.flatnonzero(~is_own), (run.predicted != own)[~is_own]
    if run.validation is None:
        raise InputError(
            f"gate {gate.text!r}: the threshold is of validation rows, and the results hold none."
        )
    labels, probs = run.validation
    point = sensitivity_at_specificity(
        is_own,
        run.probs[:, own],
        validation_positive=labels == own,
        validation_score=probs[:, own],
    )
    return np.flatnonzero(is_own), (run.probs[:, own] >= point.threshold)[is_own]


def _class_figure(gate: Gate, run: _Run, classes: tuple[str, ...]) -> tuple[float, float, float]:
    rows, hits = _class_flags(gate, run, classes)
    interval = grouped_share_interval(hits, run.groups[rows])
    return float(hits.mean()), interval.lower, interval.upper


@dataclass(frozen=True)
class _Pairs:
    classes: tuple[str, ...]
    now: list[_Run]
    before: list[_Run]


def _paired(now: _Setup, before: _Setup, results: Path, against: Path | None) -> _Pairs:
    if now.classes != before.classes:
        raise InputError(
            f"{against} has other classes than {results}: figures are of other things."
        )
    earlier = {(run.backbone_seed, run.draw_seed): run for run in before.runs}
    pairs = [
        (run, earlier[run.backbone_seed, run.draw_seed])
        for run in now.runs
        if (run.backbone_seed, run.draw_seed) in earlier
    ]
    if not pairs:
        raise InputError(
            f"{results} and {against} share no pair of backbone and draw seeds, so nothing can be "
            "compared run by run. Run the same seeds."
        )
    for run, own in pairs:
        first = pairs[0][0]
        same = all(
            np.array_equal(one.ids, first.ids) and np.array_equal(one.labels, first.labels)
            for one in (run, own)
        )
        if not same:
            raise InputError(
                f"{results} and {against} were evaluated on other rows or labels, so a fall would "
                "be one of the rows. Evaluate both on the same test rows."
            )
    return _Pairs(now.classes, [run for run, _ in pairs], [run for _, run in pairs])


def _changes(pairs: _Pairs, figures: list[str], seed: int) -> list[Change]:
    first = pairs.now[0]
    found = crossed_figures(
        first.labels,
        np.stack([run.probs for run in pairs.now]),
        np.stack([run.probs for run in pairs.before]),
        groups=first.groups,
        networks=[run.backbone_seed for run in pairs.now],
        draws=[run.draw_seed for run in pairs.now],
        figures=figures,
        seed=seed,
    )
    return [
        _change(name, one.b, one.a, one.difference, Interval(one.lower, one.upper))
        for name, one in found.items()
    ]


def _class_change(gate: Gate, pairs: _Pairs) -> Change:
    """A share of rows then and now, from each run's flags; groups are the units."""
    now, before, rows = [], [], np.zeros(0, dtype=np.int64)
    for run, own in zip(pairs.now, pairs.before, strict=True):
        rows, hits = _class_flags(gate, run, pairs.classes)
        now.append(hits.astype(float))
        before.append(_class_flags(gate, own, pairs.classes)[1].astype(float))
    changes = np.mean(now, axis=0) - np.mean(before, axis=0)
    codes = np.unique(pairs.now[0].groups[rows], return_inverse=True)[1].ravel()
    difference, n_groups = float(changes.mean()), int(codes.max()) + 1
    interval = Interval(math.nan, math.nan)
    if n_groups > 1:
        of_groups = np.bincount(codes, weights=changes - difference) / len(changes)
        spread = math.sqrt(float((of_groups**2).sum()) * n_groups / (n_groups - 1))
        half = float(scipy.special.stdtrit(n_groups - 1, 0.975)) * spread
        interval = Interval(difference - half, difference + half)
    return _change(gate.name, float(np.mean(before)), float(np.mean(now)), difference, interval)


def _gap_change(pairs: _Pairs) -> Change | None:
    """The gap then and now, with the interval of `compare_runs`; None without slices."""
    both = [
        (run, run.gap, own.gap)
        for run, own in zip(pairs.now, pairs.before, strict=True)
        if run.gap is not None and own.gap is not None
    ]
    if not both:
        return None
    runs, now, before = zip(*both, strict=True)
    found = compare_runs(
        np.array(now),
        np.array(before),
        networks=[run.backbone_seed for run in runs],
        draws=[run.draw_seed for run in runs],
    )
    means = float(found.of_b.mean()), float(found.of_a.mean())
    return _change("gap", *means, found.mean, Interval(found.lower, found.upper))


def _change(name: str, before: float, now: float, difference: float, interval: Interval) -> Change:
    is_lower_better = name in LOWER_IS_BETTER or name == "gap"
    worse = difference if is_lower_better else -difference
    end = interval.lower if is_lower_better else -interval.upper
    outcome = "held"
    if end > 0:
        outcome = "fell"
    elif worse > LARGEST_FALL.get(name, math.inf):
        outcome = "alert"
    return Change(name, before, now, difference, interval.lower, interval.upper, outcome)


def _example(figure: str) -> str:
    if figure in OF_CLASS:
        return f"{figure}[mel]>.6"
    return f"{figure}<.05" if figure in LOWER_IS_BETTER or figure == "gap" else f"{figure}>.8"
