"""The trust table: every figure of conditions x slices x sources, with differences to clean rows.

Differences are paired: both sides are of the same rows, and every replicate draws the same groups
for all sources, conditions and members. Figures of a source that several networks or heads have
are means over these; their intervals are over other groups, for these networks.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import scipy

from trustq.core.counts import counted
from trustq.errors import InputError
from trustq.evaluation.bootstrap import drawn_group_counts, group_codes
from trustq.evaluation.conditions import CLEAN, Condition
from trustq.evaluation.trust_figures import (
    LOWER,
    METRICS,
    RANKED,
    REPLICATED,
    DrawnRows,
    outputs_figures,
    ranked_influences,
    ranking_figures,
    shift_auroc,
)
from trustq.evaluation.trust_sources import Outputs, Source
from trustq.metrics.probabilities import checked_labels
from trustq.statistics.intervals import leaving_out, spread_of
from trustq.statistics.paired import check_level, check_replicates, holm

ALL = "all"  # the slice of all rows
BASELINE = "softmax"
JUDGED_BY = "augrc"  # what decides which source wins
FEW_GROUPS = 2  # a slice of fewer groups shows no spread and is left out
WORST = 10
ROUNDING = 1e-12  # a difference below it is one of rounding


@dataclass(frozen=True, eq=False)
class Cell:
    """One source of one member under one condition; `threshold` is of the positive score, (n,)."""

    condition: str
    source: str
    member: str
    value: Source
    threshold: np.ndarray | None = None


@dataclass(frozen=True, eq=False)
class TrustRows:
    """The rows that all cells are of: labels (n,), groups, classes, slices, the positive classes.

    `slices` maps a column to the (n,) names of its slices and their order.
    """

    labels: np.ndarray
    classes: tuple[str, ...]
    groups: np.ndarray | None = None
    positive: tuple[int, ...] = ()
    slices: Mapping[str, tuple[np.ndarray, Sequence[str]]] = field(default_factory=dict)


@dataclass(frozen=True)
class TrustTable:
    """`rows` are the long table; `members` figures of single networks; `wins` the tests of sources.

    A row has condition, severity, slice_name, slice_value, source, metric, value, lower, upper,
    delta, delta_lower, delta_upper, n, n_groups, n_members. `family` names the tests of `wins`.
    """

    rows: list[dict[str, Any]]
    members: list[dict[str, Any]]
    wins: list[dict[str, Any]]
    family: str
    conditions: tuple[Condition, ...]
    sources: tuple[str, ...]
    left_out: tuple[str, ...]  # slices of too few groups
    worth: float  # groups of one size that would be as many: 1 / sum of squared shares of rows
    largest: float  # share of rows of the largest group

    def value(self, condition: str, source: str, metric: str) -> dict[str, Any] | None:
        """The row of one figure of all rows; None where it is not there."""
        return self._index.get((condition, ALL, source, metric))

    @property
    def _index(self) -> dict[tuple[str, str, str, str], dict[str, Any]]:
        if "index" not in self.__dict__:
            self.__dict__["index"] = {
                (row["condition"], row["slice_value"] or ALL, row["source"], row["metric"]): row
                for row in self.rows
                if row["slice_name"] is None
            }
        found: dict[tuple[str, str, str, str], dict[str, Any]] = self.__dict__["index"]
        return found

    def worst(self, metric: str = JUDGED_BY, source: str = BASELINE) -> list[dict[str, Any]]:
        """The ten conditions under which a source's figure is worst, the worst first.

        AUGRC may fall where nearly all is wrong and ranked so; the table shows accuracy beside it.
        """
        rows = [
            row
            for row in self.rows
            if row["slice_name"] is None
            and row["metric"] == metric
            and row["source"] == source
            and row["condition"] != CLEAN
            and not math.isnan(row["value"])
        ]
        sign = 1 if metric in LOWER else -1
        return sorted(rows, key=lambda row: -sign * row["value"])[:WORST]

    def best(self) -> list[dict[str, Any]]:
        """Of every condition the source with the best figure, and its test against softmax."""
        found = []
        for condition in self.conditions:
            rows = [row for row in self.wins if row["condition"] == condition.name]
            if rows:
                found.append(min(rows, key=lambda row: row["value"]))
        return found


def trust_table(
    rows: TrustRows,
    cells: Sequence[Cell],
    *,
    conditions: Sequence[Condition],
    replicates: int = 2000,
    seed: int = 0,
    level: float = 0.95,
    progress: Callable[[int, int], None] | None = None,
) -> TrustTable:
    """Judge cells on rows and slices of rows, with intervals over groups.

    Replicates draw groups, the same for all cells; their percentiles bound figures and paired
    differences to the clean condition. ECE has none, for noise lifts it more in a draw, nor what is
    the same in all draws, such as a risk of 0, for no spread shows. Intervals of macro-AUROC,
    macro-AUPRC and shift_auroc are Student's, from the influence of each group. `progress` is told
    rows of cells judged and all of these.
    Errors: no clean cells, cells of other rows.

    >>> from trustq.evaluation.conditions import condition_of
    >>> labels, probs = np.array([0, 1, 0, 1]), np.array([[0.9, 0.1], [0.2, 0.8]] * 2)
    >>> own = Outputs.of_probs(probs)
    >>> shifted = Outputs.of_probs(probs[::-1] * 0.5 + 0.25)
    >>> cells = [
    ...     Cell("clean", "softmax", "a", Source(own, own.rank)),
    ...     Cell("blur-1", "softmax", "a", Source(shifted, shifted.rank)),
    ... ]
    >>> table = trust_table(
    ...     TrustRows(labels, ("x", "y")), cells,
    ...     conditions=[condition_of("clean"), condition_of("blur-1")], replicates=50,
    ... )
    >>> table.value("blur-1", "softmax", "accuracy")["delta"]
    -1.0
    """
    check_level(level)
    check_replicates(replicates)
    n = len(rows.labels)
    labels = checked_labels(rows.labels, n, len(rows.classes), beside="labels")
    if not any(cell.condition == CLEAN for cell in cells):
        raise InputError("There are no clean predictions, which all differences are to.")
    for cell in cells:
        if len(cell.value.confidence) != n:
            raise InputError(
                f"{cell.source} of {cell.member} under {cell.condition} has "
                f"{len(cell.value.confidence)} rows and labels {n}: pass the same rows."
            )
    codes, n_groups = group_codes(rows.groups, n)
    counts = np.concatenate(list(drawn_group_counts(n_groups, seed, replicates)), axis=1)
    places, left_out = _places(rows, codes)
    found: list[dict[str, Any]] = []
    members: list[dict[str, Any]] = []
    wins: list[dict[str, Any]] = []
    by_name = {one.name: one for one in conditions}
    done, total = 0, sum(len(place.rows) for place in places) * len(cells)

    def judged_one(n_rows: int) -> None:
        nonlocal done
        done += n_rows
        if progress is not None:
            progress(done, total)

    judged_one(0)
    # Two threads: what takes long are products and sorts of large arrays, which free the lock.
    with ThreadPoolExecutor(2) as pool:
        for place in places:
            judged = _Slice(place, rows, labels, codes, counts, level)
            judged.judge(cells, pool, judged_one)
            found += judged.rows(by_name)
            members += judged.member_rows(by_name)
            if place.name is None:
                wins = judged.wins()
    n_tests = sum(row["p"] is not None for row in wins)
    sources = tuple(dict.fromkeys(cell.source for cell in cells))
    sizes = np.bincount(codes) / n
    family = (
        f"{counted(n_tests, 'test')}: {JUDGED_BY.upper()} of each other source against {BASELINE}, "
        f"under each condition, on all rows; paired over {counted(n_groups, 'group')}, Student's t "
        "with the standard deviation of the replicates; Holm over all of them"
    )
    return TrustTable(
        found,
        members,
        wins,
        family,
        tuple(one for one in conditions if any(cell.condition == one.name for cell in cells)),
        sources,
        tuple(left_out),
        1 / float((sizes**2).sum()),
        float(sizes.max()),
    )


@dataclass(frozen=True)
class _Place:
    name: str | None
    value: str | None
    rows: np.ndarray


def _places(rows: TrustRows, codes: np.ndarray) -> tuple[list[_Place], list[str]]:
    places, left_out = [_Place(None, None, np.arange(len(codes)))], []
    for name, (of_row, order) in rows.slices.items():
        for value in order:
            own = np.flatnonzero(of_row == value)
            if len(np.unique(codes[own])) < FEW_GROUPS:
                left_out.append(f"{name} = {value} ({counted(len(own), 'row')})")
            else:
                places.append(_Place(name, value, own))
    return places, left_out


class _Slice:
    """All cells on the rows of one slice: values by member, replicates, influences."""

    def __init__(
        self,
        place: _Place,
        rows: TrustRows,
        labels: np.ndarray,
        codes: np.ndarray,
        counts: np.ndarray,
        level: float,
    ) -> None:
        self.place, self.trust, self.level = place, rows, level
        self.labels = labels[place.rows]
        names, own_codes = np.unique(codes[place.rows], return_inverse=True)
        self.codes, self.n_groups = own_codes.ravel(), len(names)
        truth = np.isin(self.labels, rows.positive)
        whole = place.name is None
        self.drawn = DrawnRows(
            self.labels, self.codes, counts if whole else counts[names], truth, len(rows.classes)
        )
        self.values: dict[tuple[str, str], list[tuple[str, dict[str, float]]]] = {}
        self.replicated: dict[tuple[str, str], dict[str, np.ndarray]] = {}
        self.influence: dict[tuple[str, str], dict[str, np.ndarray]] = {}
        self._of_outputs: dict[tuple[int, int], _OfOutputs] = {}

    def judge(
        self,
        cells: Sequence[Cell],
        pool: ThreadPoolExecutor,
        judged_one: Callable[[int], None],
    ) -> None:
        """Figures, replicates and influences of every cell, means over members taken at once."""
        taken = [self._taken(cell) for cell in cells]
        self._share_outputs(cells, taken, pool)
        clean = {
            (cell.source, cell.member): own.confidence
            for cell, own in zip(cells, taken, strict=True)
            if cell.condition == CLEAN
        }
        numbers: dict[tuple[str, str], int] = {}
        for cell in cells:
            key = (cell.condition, cell.source)
            numbers[key] = numbers.get(key, 0) + 1

        def one(job: tuple[Cell, Source]) -> tuple[dict[str, float], Any, Any]:
            cell, own = job
            shared = self._of_outputs[id(cell.value.outputs), id(cell.threshold)]
            wrong = own.outputs.predicted != self.labels
            values = shared.values | ranking_figures(wrong, own.confidence)
            replicated = shared.replicated | self.drawn.of_ranking(own)
            influence = dict(shared.influence)
            base = clean.get((cell.source, cell.member))
            if base is not None and cell.condition != CLEAN:
                values["shift_auroc"], rows = shift_auroc(base, own.confidence)
                influence["shift_auroc"] = self._summed(rows)
            return values, replicated, influence

        for cell, (values, replicated, influence) in zip(
            cells, pool.map(one, zip(cells, taken, strict=True)), strict=True
        ):
            key = (cell.condition, cell.source)
            self.values.setdefault(key, []).append((cell.member, values))
            for store, found in ((self.replicated, replicated), (self.influence, influence)):
                own = store.setdefault(key, {})
                for name, array in found.items():
                    part = array / numbers[key]
                    own[name] = own[name] + part if name in own else part
            judged_one(len(self.labels))

    def rows(self, conditions: Mapping[str, Condition]) -> list[dict[str, Any]]:
        """Rows of the long table: figures of all members together."""
        found = []
        for (condition, source), members in self.values.items():
            clean = self.values.get((CLEAN, source), [])
            names = [name for name in METRICS if name in members[0][1]]
            bounds = self._bounds((condition, source), names)
            for name in names:
                value = _mean([own[name] for _, own in members])
                base = [own[name] for _, own in clean if name in own]
                has_delta = condition != CLEAN and len(base) > 0
                delta = value - _mean(base) if has_delta else math.nan
                lower, upper, delta_lower, delta_upper = bounds[name]
                found.append(
                    self._key(conditions[condition], source, name)
                    | {
                        "value": value,
                        "lower": lower,
                        "upper": upper,
                        "delta": delta,
                        "delta_lower": delta_lower if has_delta else math.nan,
                        "delta_upper": delta_upper if has_delta else math.nan,
                        "n": len(self.labels),
                        "n_groups": self.n_groups,
                        "n_members": len(members),
                    }
                )
        return found

    def member_rows(self, conditions: Mapping[str, Condition]) -> list[dict[str, Any]]:
        """Figures of single members, where a source has several."""
        return [
            self._key(conditions[condition], source, name)
            | {"member": member, "value": own[name], "n": len(self.labels)}
            for (condition, source), members in self.values.items()
            if len(members) > 1
            for member, own in members
            for name in METRICS
            if name in own
        ]

    def wins(self) -> list[dict[str, Any]]:
        """Every source against the baseline under each condition, with Holm over all tests."""
        found = []
        for (condition, source), own in self.replicated.items():
            base = self.replicated.get((condition, BASELINE))
            value = _mean([m[JUDGED_BY] for _, m in self.values[condition, source]])
            row = {"condition": condition, "source": source, "value": value}
            row |= {"difference": 0.0, "lower": math.nan, "upper": math.nan, "p": None}
            if base is not None and source != BASELINE:
                drawn = own[JUDGED_BY] - base[JUDGED_BY]
                against = [m[JUDGED_BY] for _, m in self.values[condition, BASELINE]]
                difference = value - _mean(against)
                sd = float(drawn.std(ddof=1))
                tail = (1 - self.level) / 2
                p = 1.0
                if sd > 0 and self.n_groups > 1:  # one group alone is drawn again and again
                    p = float(2 * scipy.special.stdtr(self.n_groups - 1, -abs(difference) / sd))
                lower, upper = (float(x) for x in np.quantile(drawn, [tail, 1 - tail]))
                row |= {"difference": difference, "lower": lower, "upper": upper, "p": p}
            found.append(row)
        tested = [row for row in found if row["p"] is not None]
        if tested:
            adjusted = holm(np.array([row["p"] for row in tested]))
            for row, p in zip(tested, adjusted.tolist(), strict=True):
                row["holm_p"] = p
        return found

    def _key(self, condition: Condition, source: str, metric: str) -> dict[str, Any]:
        return {
            "condition": condition.name,
            "severity": condition.severity,
            "kind": condition.kind,
            "slice_name": self.place.name,
            "slice_value": self.place.value,
            "source": source,
            "metric": metric,
        }

    def _taken(self, cell: Cell) -> Source:
        if self.place.name is None:
            return cell.value
        return Source(cell.value.outputs, cell.value.confidence[self.place.rows])

    def _share_outputs(
        self, cells: Sequence[Cell], taken: list[Source], pool: ThreadPoolExecutor
    ) -> None:
        """Judge each outputs once, whatever number of sources rank by it; puts them in `taken`."""
        first: dict[tuple[int, int], Cell] = {}
        for cell in cells:
            first.setdefault((id(cell.value.outputs), id(cell.threshold)), cell)
        parts = {key: self._part(cell.value.outputs) for key, cell in first.items()}
        for place, cell in enumerate(cells):
            own = parts[id(cell.value.outputs), id(cell.threshold)]
            taken[place] = Source(own, taken[place].confidence)
        called = {key: self._called(cell, parts[key]) for key, cell in first.items()}
        sums = [self.drawn.linear(parts[key], called[key]) for key in first]
        width = sums[0].shape[1]
        # One product for all of them: a matrix of groups times draws.
        drawn = np.concatenate(sums, axis=1).T @ self.drawn.counts

        def one(job: tuple[int, tuple[int, int]]) -> _OfOutputs:
            place, key = job
            own, said = parts[key], called[key]
            influence = ranked_influences(own, self.labels)
            values = outputs_figures(own, self.labels, called=said, positive=self.trust.positive)
            values |= {name: value for name, (value, _) in influence.items()}
            replicated = self.drawn.of_probabilities(
                drawn[place * width : (place + 1) * width], with_called=said is not None
            )
            summed = {name: self._summed(rows) for name, (_, rows) in influence.items()}
            return _OfOutputs(values, replicated, summed)

        self._of_outputs = dict(zip(first, pool.map(one, enumerate(first)), strict=True))

    def _part(self, outputs: Outputs) -> Outputs:
        if self.place.name is None:
            return outputs
        rows = self.place.rows
        return Outputs(
            outputs.probs[rows],
            outputs.log_probs[rows],
            outputs.scores[rows],
            outputs.predicted[rows],
            outputs.top[rows],
            outputs.rank[rows],
        )

    def _called(self, cell: Cell, outputs: Outputs) -> np.ndarray | None:
        if cell.threshold is None or not self.trust.positive:
            return None
        score = outputs.probs[:, list(self.trust.positive)].sum(axis=1)
        return np.asarray(score >= cell.threshold[self.place.rows])

    def _summed(self, rows: np.ndarray) -> np.ndarray:
        sizes = np.bincount(self.codes, minlength=self.n_groups) / len(rows)
        sums = np.bincount(self.codes, weights=rows, minlength=self.n_groups) / len(rows)
        return leaving_out(sums, sizes)

    def _bounds(
        self, key: tuple[str, str], names: Sequence[str]
    ) -> dict[str, tuple[float, float, float, float]]:
        """Bounds of each figure and of its difference to the clean condition."""
        own, clean = self.replicated[key], self.replicated.get((CLEAN, key[1]), {})
        drawn = [name for name in REPLICATED if name in own and name in names]
        values = np.stack([own[name] for name in drawn])
        low, high = _percentiles(values, self.level)
        found = {name: (math.nan,) * 4 for name in names}
        deltas_low = deltas_high = np.full(len(drawn), math.nan)
        if clean and key[0] != CLEAN:
            base = np.stack([clean[name] for name in drawn])
            deltas_low, deltas_high = _percentiles(values - base, self.level)
        bounds = (each.tolist() for each in (low, high, deltas_low, deltas_high))
        found |= dict(zip(drawn, zip(*bounds, strict=True), strict=True))
        influence, base_of = self.influence[key], self.influence.get((CLEAN, key[1]), {})
        for name in (*RANKED, "shift_auroc"):
            if name not in names:
                continue
            value = _mean([m[name] for _, m in self.values[key]])
            half = self._half(influence[name])
            found[name] = (value - half, value + half, math.nan, math.nan)
            if name in base_of:
                base_value = _mean([m[name] for _, m in self.values[CLEAN, key[1]]])
                half = self._half(influence[name] - base_of[name])
                delta = value - base_value
                found[name] = (*found[name][:2], delta - half, delta + half)
        return found

    def _half(self, of_groups: np.ndarray) -> float:
        spread = spread_of(of_groups)
        quantile = scipy.special.stdtrit(spread.freedom, (1 + self.level) / 2)
        return float(quantile * math.sqrt(spread.variance))


@dataclass(frozen=True, eq=False)
class _OfOutputs:
    values: dict[str, float]
    replicated: dict[str, np.ndarray]
    influence: dict[str, np.ndarray]


def _mean(values: Sequence[float]) -> float:
    return float(sum(values) / len(values))  # of one to five numbers, tens of thousands of times


def _percentiles(drawn: np.ndarray, level: float) -> tuple[np.ndarray, np.ndarray]:
    """Lower and upper percentiles of each row of (figures, r), of the numbers that are there.

    NaN where both are the same: what no draw changes, as the risk of rows without an error, shows
    no spread, and is not known without error.
    """
    r = drawn.shape[1]
    low, high = _quantiles(drawn, level)
    for i in np.flatnonzero(np.isnan(drawn).any(axis=1)):
        known = drawn[i][~np.isnan(drawn[i])]
        few = len(known) < r / 2  # mostly nothing to be of: bounds would be of lucky draws alone
        low[i], high[i] = (
            (math.nan, math.nan) if few else map(float, np.ravel(_quantiles(known[None], level)))
        )
    alike = high - low <= ROUNDING
    low[alike] = high[alike] = math.nan
    return low, high


def _quantiles(drawn: np.ndarray, level: float) -> tuple[np.ndarray, np.ndarray]:
    # As numpy's default, linear between neighbours, in one partial sort for both tails.
    last = drawn.shape[1] - 1
    places = [(1 - level) / 2 * last, (1 + level) / 2 * last]
    floors = [min(int(place), max(last - 1, 0)) for place in places]
    wanted = sorted({at for floor in floors for at in (floor, min(floor + 1, last))})
    ordered = np.partition(drawn, wanted, axis=1)
    low, high = (
        ordered[:, floor] + (place - floor) * (ordered[:, min(floor + 1, last)] - ordered[:, floor])
        for place, floor in zip(places, floors, strict=True)
    )
    return low, high
