"""Before a sweep runs: its size, what it could show at best, and what the labels would cost."""

import dataclasses
import math
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import scipy

from trustq.core.counts import counted
from trustq.errors import InputError
from trustq.experiments import repair
from trustq.recipes import Recipe, SweepRecipe
from trustq.repair.arms import BLIND, budget_size, parse_arm, with_references
from trustq.results import connect
from trustq.results.schema import LOWER_IS_BETTER, MATCHED
from trustq.statistics.power import detectable_effect, fewest_units, sign_flip_floor, units_needed
from trustq.store import Cache
from trustq.store.concat import stand_side_by_side

PILOT_BACKBONES = 2  # caches that a pilot runs on: two tell backbones apart, more cost time
PILOT_DRAWS = 5
UNITS = ("draw_seed", "backbone_seed")
UNIT_NAMES = {"draw_seed": "draws", "backbone_seed": "backbones"}
_USUAL = (8, 10, 20, 50)  # units that the table of designs shows besides those that are needed

_FIGURES = f"""
SELECT {", ".join(f"c.{name}" for name in MATCHED)}, c.arm, c.score, c.budget,
       coalesce(c.backbone_seed, 0) AS backbone_seed, c.draw_seed, m.is_final,
       coalesce(r.n_bought_total, 0) AS bought, m.round, m.value, m.split, c.n_train,
       c.n_wrong_start, c.n_trusted, c.n_clean_validation, c.seconds
FROM metrics m JOIN runs c ON c.key = m.run
LEFT JOIN rounds r ON r.run = m.run AND r.round = m.round
WHERE m.metric = ? AND m.stage = ? AND m.split IN ('test', 'out_of_fold')
  AND m.class_name IS NULL AND m.slice_name IS NULL AND m.eval_dataset = c.dataset
  AND m.value IS NOT NULL
  -- A backbone that was trained again is no round of a purchase, and its price is another.
  AND coalesce(c.origin_digest, c.cache_digest) IS NOT DISTINCT FROM c.cache_digest
ORDER BY ALL
"""

Row = dict[str, Any]


@dataclass(frozen=True)
class Question:
    """What a study is to answer: a gain of `metric` of an arm over the baseline, by which test.

    Holm is over `comparisons` (None: arms x budgets); `effect` stands in for the oracle's gain.
    """

    metric: str = "accuracy"
    stage: str = "uncalibrated"
    baseline: str = "random"
    alpha: float = 0.05
    power: float = 0.8
    effect: float | None = None
    comparisons: int | None = None

    def check(self) -> None:
        """Raise for numbers that ask nothing."""
        if self.comparisons is not None and self.comparisons < 1:
            raise InputError(
                f"`comparisons={self.comparisons}`: expected 1 or more.",
                where="comparisons",
                found=self.comparisons,
            )
        if self.effect is not None and not self.effect > 0:
            raise InputError(
                f"`effect={self.effect:g}`: expected a gain above 0.",
                where="effect",
                found=self.effect,
            )


@dataclass(frozen=True)
class _Detectable:
    """What `n` units can show of each of `family` comparisons, whose differences vary by `sd`."""

    n: int
    family: int
    sd: float
    question: Question

    @property
    def alpha(self) -> float:
        """What Holm asks of the first."""
        return self.question.alpha / self.family

    @property
    def effect(self) -> float:
        """The least standardised effect that is detected."""
        return detectable_effect(self.n, alpha=self.alpha, power=self.question.power)

    def units_for(self, gain: float) -> int | None:
        """Units that a gain needs; None where that is not known."""
        if not (self.sd > 0 and gain > 0):
            return None
        return units_needed(gain / self.sd, alpha=self.alpha, power=self.question.power)


class Variation(NamedTuple):
    """Variances of a paired difference: of draws, of backbones, and of their combination.

    The degrees of freedom are those of one comparison, 0 where the pilot had only one. With one
    backbone the variance of draws holds the residual too, and the reverse.
    """

    draw: float
    backbone: float
    residual: float
    df_draw: int
    df_backbone: int


class Pilot(NamedTuple):
    """What an earlier sweep, or a short one, tells of the next."""

    source: str
    variation: Variation
    oracle: tuple[tuple[float, float], ...]  # (labels bought, gain over no repair), ascending
    baseline: tuple[tuple[float, float], ...]
    n_train: int
    n_wrong: int
    n_trusted: int
    n_clean_validation: int
    seconds_per_cell: float
    notes: tuple[str, ...]


class BudgetPlan(NamedTuple):
    """What one budget could show. NaN where there was no pilot to tell."""

    budget: str
    n_bought: float  # labels, NaN for a share of unknown rows
    minutes: float
    oracle_gain: float  # of the oracle over the baseline
    can_answer: bool | None  # None: not known
    reason: str
    units_for_oracle: int | None  # to detect the oracle's gain


@dataclass(frozen=True)
class Plan:
    """A design and what it can detect; effects are gains of `metric`, arm over baseline.

    `effect_alone` and `effect_holm` are standardised (in sd of the unit's differences); the others
    are in the metric's own unit, NaN without a pilot.
    """

    recipe: str
    metric: str
    baseline: str
    n_backbones: int
    n_draws: int
    unit: str
    n: int
    n_cells: int
    seconds: float
    alpha: float
    power: float
    floor: float
    family: int
    units_alone: int  # fewest whose floor allows one comparison
    units_holm: int  # and the first of the family
    effect_alone: float
    effect_holm: float
    sd: float
    sd_upper: float  # what the pilot does not rule out at 90 %
    budgets: tuple[BudgetPlan, ...]
    target: float  # the effect that designs are named for; NaN: none
    target_labels: float  # labels with which the oracle gains it; NaN: the effect was asked for
    designs: tuple[tuple[int, float], ...]  # (units, smallest standardised effect)
    needed: int | None  # units for the target
    pilot: Pilot | None
    notes: tuple[str, ...]

    @property
    def can_answer(self) -> bool | None:
        """Whether some budget can answer; None where that is not known."""
        answers = [budget.can_answer for budget in self.budgets]
        if any(answers):
            return True
        return None if None in answers else False


def plan_sweep(
    recipe: Recipe,
    caches: Sequence[Cache] = (),
    *,
    question: Question | None = None,
    results: Path | None = None,
    backbones: int | None = None,
    minutes_per_label: float = math.nan,
    pilot_draws: int = PILOT_DRAWS,
) -> Plan:
    """Say what a recipe's sweep over these caches, or so many `backbones`, could detect.

    The pilot is an earlier results folder, or `pilot_draws` draws on at most two of the caches, run
    now in a temporary folder. The test is the sign-flip test over draws or backbones, whichever are
    more. A budget cannot answer where the test's floor forbids it or where the oracle's gain is
    below what is detectable. Errors: no arm to compare, a pilot without the baseline.
    """
    question, sweep = question or Question(), recipe.sweep
    question.check()
    n_tested = _n_tested(recipe, question)
    budgets = list(dict.fromkeys(sweep.budgets))
    caches, _ = stand_side_by_side(caches, how=sweep.concat)
    n_backbones = len(caches) or backbones or 1
    unit = "backbone_seed" if n_backbones > sweep.draws else "draw_seed"
    pilot = _pilot(recipe, caches, results, question, pilot_draws)
    notes = [*(pilot.notes if pilot else ()), *_policy_notes(sweep)]
    sd, sd_upper = math.nan, math.nan
    if pilot:
        sd, sd_upper = _unit_sd(pilot.variation, unit, n_backbones, sweep.draws, notes)
    if unit == "draw_seed" and n_backbones < 3:
        notes.append(
            f"the unit is the draw: what is found holds for the {n_backbones} backbone"
            f"{'s' * (n_backbones > 1)} at hand, which are no sample of trainings"
        )
    family = question.comparisons or n_tested * len(budgets)
    detectable = _Detectable(max(n_backbones, sweep.draws), family, sd, question)
    price = minutes_per_label * sweep.raters
    rows = [_budget_plan(budget, pilot, detectable, price) for budget in budgets]
    target, target_labels = _best_gain(rows, pilot)
    if question.effect is not None:
        target, target_labels = question.effect, math.nan
    n_cells = _n_cells(sweep, n_backbones, len(budgets))
    return Plan(
        recipe=recipe.name,
        metric=question.metric,
        baseline=question.baseline,
        n_backbones=n_backbones,
        n_draws=sweep.draws,
        unit=unit,
        n_cells=n_cells,
        seconds=n_cells * pilot.seconds_per_cell if pilot else math.nan,
        sd=sd,
        sd_upper=sd_upper,
        budgets=tuple(rows),
        target=target,
        target_labels=target_labels,
        pilot=pilot,
        notes=tuple(notes),
        **_test_figures(detectable, detectable.units_for(target)),
    )


def _n_tested(recipe: Recipe, question: Question) -> int:
    """Scored arms beside the baseline; raises where there is none and no other number is named."""
    arms = [parse_arm(text) for text in dict.fromkeys(recipe.sweep.arms)]
    tested = [arm for arm in arms if arm.score not in BLIND and arm.text != question.baseline]
    if not tested and question.comparisons is None:
        raise InputError(
            f"Recipe {recipe.name} has no arm to compare with {question.baseline}: its arms are "
            f"{', '.join(recipe.sweep.arms)}. Add one, e.g. `arms=none,random,self_confidence`."
        )
    return len(tested)


def _n_cells(sweep: SweepRecipe, n_backbones: int, n_budgets: int) -> int:
    arms = [parse_arm(text) for text in dict.fromkeys(sweep.arms)]
    # With the arms that bound them, which run without being asked for.
    run = with_references(arms) if sweep.references else arms
    each = sum(1 if arm.score == "none" else n_budgets for arm in run)
    return n_backbones * sweep.draws * each


def _test_figures(detectable: _Detectable, needed: int | None) -> dict[str, Any]:
    """What a plan says of its test: floor, family, units, effects and other designs."""
    n, question = detectable.n, detectable.question
    alpha, power = question.alpha, question.power
    least = fewest_units(detectable.alpha)
    shown = sorted({n, least, *(u for u in _USUAL if u >= least), *([needed] if needed else [])})
    return {
        "n": n,
        "alpha": alpha,
        "power": power,
        "floor": sign_flip_floor(n),
        "family": detectable.family,
        "units_alone": fewest_units(alpha),
        "units_holm": least,
        "effect_alone": detectable_effect(n, alpha=alpha, power=power),
        "effect_holm": detectable.effect,
        "designs": tuple(
            (u, detectable_effect(u, alpha=detectable.alpha, power=power)) for u in shown
        ),
        "needed": needed,
    }


def _policy_notes(sweep: SweepRecipe) -> list[str]:
    """What the price of a budget leaves out."""
    notes = []
    if sweep.raters > 1:
        notes.append(f"minutes are of {sweep.raters} raters for each label; ties ask one more")
    if sweep.buy_unit == "group":
        notes.append("budgets buy groups: labels and minutes count one image of each")
    if sweep.cost:
        notes.append("budgets pay prices: labels and minutes are those at a price of 1")
    return notes


def _budget_plan(
    budget: str, pilot: Pilot | None, detectable: _Detectable, minutes_per_bought: float
) -> BudgetPlan:
    n_bought = math.nan
    if pilot:
        n_bought = budget_size(budget, n_rows=pilot.n_train, n_wrong=pilot.n_wrong)
    elif budget.isdigit():
        n_bought = int(budget)
    gain = math.nan
    if pilot and pilot.oracle:
        gain = _at(pilot.oracle, n_bought) - _at(pilot.baseline, n_bought)
    effect = detectable.question.effect
    target = gain if effect is None else effect
    what = "the oracle's gain" if effect is None else "the effect asked for"
    can, reason = _answers(detectable, target, what)
    minutes = n_bought * minutes_per_bought
    return BudgetPlan(budget, n_bought, minutes, gain, can, reason, detectable.units_for(target))


def _answers(detectable: _Detectable, target: float, what: str) -> tuple[bool | None, str]:
    """Whether a gain of `target` could be detected, and why."""
    n, sd, floor = detectable.n, detectable.sd, sign_flip_floor(detectable.n)
    if floor > detectable.question.alpha:
        return False, f"no outcome of {counted(n, 'unit')} has p below {floor:.3g}"
    if floor > detectable.alpha:
        return False, (
            f"Holm over {detectable.family} asks p <= {detectable.alpha:.2g} of the first, and no "
            f"outcome of {counted(n, 'unit')} has p below {floor:.3g}"
        )
    if math.isnan(target) or math.isnan(sd):
        return None, "without a pilot the variation and the oracle's gain are not known"
    least = detectable.effect * sd
    if target <= least:
        return False, f"{what} is {target:+.4f}, the least detectable {least:.4f}"
    return True, f"{what} is {target:+.4f}, detectable from {least:.4f}"


def _best_gain(rows: list[BudgetPlan], pilot: Pilot | None) -> tuple[float, float]:
    """The oracle's largest gain over the baseline and its labels: as asked, else wherever known."""
    gains = [(row.oracle_gain, row.n_bought) for row in rows if row.oracle_gain > 0]
    if not gains and pilot:
        there = [(gain - _at(pilot.baseline, bought), bought) for bought, gain in pilot.oracle]
        gains = [found for found in there if found[0] > 0]
    return max(gains, default=(math.nan, math.nan))


def _at(curve: tuple[tuple[float, float], ...], n_bought: float) -> float:
    """Gain at a number of labels, between the rounds that were measured; 0 labels gain nothing."""
    if not curve:
        return 0.0
    bought, gains = zip((0.0, 0.0), *curve, strict=True)
    return float(np.interp(n_bought, bought, gains))


def _pilot(
    recipe: Recipe,
    caches: Sequence[Cache],
    results: Path | None,
    question: Question,
    pilot_draws: int,
) -> Pilot | None:
    asked_of = {name: getattr(question, name) for name in ("metric", "stage", "baseline")}
    if results is not None:
        return read_pilot(results, **asked_of)
    if not caches:
        return None
    if pilot_draws < 2:
        raise InputError(
            f"`pilot_draws={pilot_draws}`: expected 2 or more, to see variation.",
            where="pilot_draws",
            found=pilot_draws,
        )
    # The caches stand side by side already.
    sweep: SweepRecipe = dataclasses.replace(recipe.sweep, draws=pilot_draws, concat="none")
    references = ("none", question.baseline, "oracle")
    asked = dataclasses.replace(sweep, arms=tuple(dict.fromkeys((*sweep.arms, *references))))
    # What there is to gain at most: every wrong label, whatever the budget asked for.
    most = dataclasses.replace(sweep, arms=references, budgets=("all-wrong",), rounds=1)
    some = caches[:PILOT_BACKBONES]
    with tempfile.TemporaryDirectory(prefix="trustq-plan-") as folder:
        started = time.perf_counter()
        run = repair(some, recipe=dataclasses.replace(recipe, sweep=asked), results=Path(folder))
        seconds = time.perf_counter() - started
        repair(some, recipe=dataclasses.replace(recipe, sweep=most), results=Path(folder))
        found = read_pilot(Path(folder), **asked_of)
    return found._replace(
        source=f"a pilot of {pilot_draws} draws on {len(some)} of {len(caches)} caches",
        seconds_per_cell=seconds / len(run.keys),
        notes=(*found.notes, *(note.rstrip(".") for note in run.notes)),
    )


def read_pilot(
    results: Path, *, metric: str = "accuracy", stage: str = "uncalibrated", baseline: str
) -> Pilot:
    """Variation and reference gains from a results folder, pooled over its settings and budgets.

    Differences are of every scored arm to the baseline at the same budget, setting and seeds.
    Raises `TrustqError` where there is none.
    """
    with connect(results) as connection:
        answer = connection.execute(_FIGURES, [metric, stage])
        names = [column[0] for column in answer.description or []]
        rows = [dict(zip(names, row, strict=True)) for row in answer.fetchall()]
    if metric in LOWER_IS_BETTER:
        for row in rows:
            row["value"] = -row["value"]
    if any(row["split"] == "test" for row in rows):
        rows = [row for row in rows if row["split"] == "test"]
    matrices = _differences(rows, baseline)
    if not matrices:
        raise InputError(
            f"{results} has no {stage} {metric} of a scored arm beside {baseline!r}: plan needs "
            "both, at the same budget, to see how their difference varies.",
            path=results,
        )
    settings = {_setting(row) for row in rows}
    notes = []
    if len(settings) > 1:
        notes.append(f"the pilot pools {len(settings)} settings")
    if not any(row["arm"] == "oracle" for row in rows):
        notes.append("the pilot has no oracle arm, so what there is to gain is not known")

    def mean(name: str) -> int:
        return round(float(np.mean([row[name] for row in rows])))

    final = [row for row in rows if row["is_final"]]
    return Pilot(
        source=str(results),
        variation=variation(matrices),
        oracle=_gains(rows, "oracle"),
        baseline=_gains(rows, baseline),
        n_train=mean("n_train"),
        n_wrong=mean("n_wrong_start"),
        n_trusted=mean("n_trusted"),
        n_clean_validation=mean("n_clean_validation"),
        seconds_per_cell=float(np.mean([row["seconds"] for row in final])),
        notes=tuple(notes),
    )


def _differences(rows: list[Row], baseline: str) -> list[np.ndarray]:
    """Final differences, arm minus baseline, (backbones, draws), one array per arm and setting."""
    figures: dict[tuple[Any, ...], dict[tuple[int, int], float]] = {}
    tested = []
    for row in rows:
        if not row["is_final"]:
            continue
        # No repair pairs with any purchase.
        budget = None if row["score"] == "none" else row["budget"]
        place = (_setting(row), row["arm"], budget)
        figures.setdefault(place, {})[row["backbone_seed"], row["draw_seed"]] = row["value"]
        if row["score"] not in BLIND and row["arm"] != baseline and place not in tested:
            tested.append(place)
    matrices = []
    for place in tested:
        setting, _, budget = place
        own = figures[place]
        other = figures.get((setting, baseline, None if baseline == "none" else budget), {})
        shared = set(own) & set(other)
        backbones = sorted({b for b, _ in shared})
        draws = sorted({d for _, d in shared})
        crossed = [d for d in draws if all((b, d) in shared for b in backbones)]
        if crossed:
            differences = [[own[b, d] - other[b, d] for d in crossed] for b in backbones]
            matrices.append(np.array(differences))
    return matrices


def variation(differences: Sequence[np.ndarray]) -> Variation:
    """Variance components of paired differences, pooled over comparisons by degrees of freedom.

    Each array is (backbones, draws), crossed and without repeats: the components are those of the
    two-way layout with random effects, not below 0. Searle, Casella and McCulloch (1992), ch. 4.

    >>> v = variation([np.array([[0.1, 0.3, 0.2]])])
    >>> round(v.draw, 4), v.backbone, v.df_draw, v.df_backbone
    (0.01, 0.0, 2, 0)
    """
    sums = {"draw": 0.0, "backbone": 0.0, "residual": 0.0}
    weights = dict.fromkeys(sums, 0)
    for d in differences:
        b, r = d.shape
        draws, backbones = d.mean(axis=0), d.mean(axis=1)
        left = d - draws - backbones[:, None] + d.mean()
        df = {"draw": r - 1, "backbone": b - 1, "residual": (r - 1) * (b - 1)}
        error = float((left**2).sum()) / df["residual"] if df["residual"] else 0.0
        found = {
            "draw": float(draws.var(ddof=1)) - error / b if r > 1 else 0.0,
            "backbone": float(backbones.var(ddof=1)) - error / r if b > 1 else 0.0,
            "residual": error,
        }
        for name, value in found.items():
            sums[name] += df[name] * value
            weights[name] += df[name]
    of = {name: max(0.0, sums[name] / weights[name]) if weights[name] else 0.0 for name in sums}
    return Variation(
        of["draw"],
        of["backbone"],
        of["residual"],
        # Comparisons share their seeds, so more of them bring no more degrees of freedom.
        df_draw=max((d.shape[1] - 1 for d in differences), default=0),
        df_backbone=max((d.shape[0] - 1 for d in differences), default=0),
    )


def _unit_sd(
    v: Variation, unit: str, n_backbones: int, n_draws: int, notes: list[str]
) -> tuple[float, float]:
    """Standard deviation of the design's unit, and the most that the pilot does not rule out."""
    of_draws = math.sqrt(v.draw + v.residual / n_backbones)
    of_backbones = math.sqrt(v.backbone + v.residual / n_draws)
    sd, df = (of_draws, v.df_draw) if unit == "draw_seed" else (of_backbones, v.df_backbone)
    if not df:
        other = UNITS[1 - UNITS.index(unit)]
        sd, df = (of_draws, v.df_draw) if other == "draw_seed" else (of_backbones, v.df_backbone)
        notes.append(
            f"the pilot has one of {UNIT_NAMES[unit]}, so the variation of {UNIT_NAMES[other]} "
            f"stands in; that of {UNIT_NAMES[unit]} may be larger"
        )
    if not df:
        notes.append("the pilot has one draw and one backbone: nothing is known of the variation")
        return math.nan, math.nan
    if sd == 0:
        notes.append("the differences of the pilot do not vary, so any effect looks detectable")
    return sd, sd * math.sqrt(df / float(2 * scipy.special.gammaincinv(df / 2, 0.1)))


def _gains(rows: list[Row], arm: str) -> tuple[tuple[float, float], ...]:
    """Mean labels bought and gain over round 0 of one arm, by setting, budget and round."""
    start = {_cell(row): row["value"] for row in rows if row["round"] == 0 and row["arm"] == arm}
    found: dict[Any, list[tuple[float, float]]] = {}
    for row in rows:
        if row["arm"] == arm and row["round"] > 0 and _cell(row) in start:
            place = row["budget"], row["round"]
            gain = row["value"] - start[_cell(row)]
            found.setdefault(place, []).append((row["bought"], gain))
    means = [tuple(np.mean(points, axis=0).tolist()) for points in found.values()]
    return tuple(sorted((float(bought), float(gain)) for bought, gain in means))


def _setting(row: Row) -> tuple[Any, ...]:
    return tuple(row[name] for name in MATCHED)


def _cell(row: Row) -> tuple[Any, ...]:
    return (*_setting(row), row["arm"], row["budget"], row["backbone_seed"], row["draw_seed"])
