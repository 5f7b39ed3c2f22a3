"""The page of a plan: size, what can be detected, what is there to gain, what it costs."""

import math
from dataclasses import asdict
from typing import Any

from trustq.analysis.study_design import UNIT_NAMES, Plan
from trustq.core.counts import counted, duration
from trustq.results import Result, format_result

Row = dict[str, Any]


def plan_page(plan: Plan) -> str:
    """One page of text; the verdict comes first."""
    unit = UNIT_NAMES[plan.unit]
    lines = [
        f"{plan.recipe}: {counted(plan.n_draws, 'draw')} x "
        f"{counted(plan.n_backbones, 'backbone')}, n = {plan.n} {unit}; "
        f"{counted(plan.n_cells, 'run')}" + _time(plan.seconds),
        "",
        *_verdict(plan),
        "",
        f"Test: two-sided sign-flip over {unit}, p <= {plan.alpha:g}; floor with n = {plan.n}: "
        f"{plan.floor:.3g}",
        f"Holm over {plan.family} comparison{'s' * (plan.family > 1)} with {plan.baseline}: the "
        f"first must reach p <= {plan.alpha / plan.family:.3g}, which takes {plan.units_holm} "
        f"{unit} or more ({plan.units_alone} for one comparison alone)",
        f"Smallest effect at {plan.power:.0%} power: {_effect(plan, plan.effect_alone)} alone, "
        f"{_effect(plan, plan.effect_holm)} as the first of the family",
    ]
    if plan.pilot:
        upper = f" (up to {plan.sd_upper:.4f} at 90 %)" if not math.isnan(plan.sd_upper) else ""
        lines.append(
            f"Variation, from {plan.pilot.source}: sd of a gain of {plan.metric} between "
            f"{unit} {plan.sd:.4f}{upper}"
        )
    else:
        lines.append(
            "No pilot: effects are in standard deviations of the difference. Pass a cache, or an "
            "earlier results folder with `from`, to have them in the metric."
        )
    lines += ["", _table([_budget(plan, row) for row in plan.budgets])]
    lines += ["", "Designs with this family:", _table([_design(plan, *d) for d in plan.designs])]
    if plan.pilot:
        lines += ["", _accounts(plan)]
    if plan.notes:
        lines += ["", *(f"Note: {note}." for note in plan.notes)]
    return "\n".join(lines)


def plan_summary(plan: Plan) -> Row:
    """The same, for JSON."""
    found = asdict(plan)
    found["budgets"] = [row._asdict() for row in plan.budgets]
    found["designs"] = [
        {"units": units, "standardised_effect": effect, "effect": effect * plan.sd}
        for units, effect in plan.designs
    ]
    if plan.pilot:
        found["pilot"] = plan.pilot._asdict() | {"variation": plan.pilot.variation._asdict()}
    return found | {"can_answer": plan.can_answer}


def _verdict(plan: Plan) -> list[str]:
    lines = []
    for row in plan.budgets:
        answer = {True: "CAN answer", False: "CANNOT answer", None: "open"}[row.can_answer]
        lines.append(f"Budget {row.budget}: {answer}: {row.reason}.")
    if plan.can_answer is not True:
        lines.append(_way_out(plan))
    return lines


def _way_out(plan: Plan) -> str:
    unit = UNIT_NAMES[plan.unit]
    if plan.needed:
        gain = f"an effect of {plan.target:.4f}"
        if not math.isnan(plan.target_labels):
            gain = f"the oracle's {plan.target:+.4f} with {plan.target_labels:.0f} labels"
        return (
            f"A design that can: {plan.needed} {unit}, which find {gain} at {plan.power:.0%} "
            "power. A score that finds fewer wrong labels gains less and needs more."
        )
    if plan.pilot and plan.sd > 0:
        return (
            "No number of seeds helps: the oracle, which buys wrong labels only, gains nothing "
            f"over {plan.baseline} in the pilot, even with all of them bought. Another metric, "
            "noise or backbone might show something."
        )
    units, effect = next(d for d in plan.designs if d[0] >= max(plan.units_holm, 10))
    return (
        f"A design that can: {units} {unit} find an effect of {effect:.2f} standard deviations "
        f"(at least {plan.units_holm} are needed for any). More budget makes the effect larger, "
        f"more {unit} make smaller ones visible."
    )


def _effect(plan: Plan, standardised: float) -> str:
    if math.isinf(standardised):
        return "none"
    if math.isnan(plan.sd):
        return f"{standardised:.2f} sd"
    return f"{standardised * plan.sd:.4f} ({standardised:.2f} sd)"


def _budget(plan: Plan, row: Any) -> Row:
    shown: Row = {"budget": row.budget, "labels": _number(row.n_bought, 0)}
    if not math.isnan(row.minutes):
        shown["expert_hours"] = _number(row.minutes / 60, 1)
    if plan.pilot:
        shown |= {
            f"oracle_over_{plan.baseline}": _number(row.oracle_gain, 4),
            "detectable": _number(plan.effect_holm * plan.sd, 4),
            "units_for_oracle": row.units_for_oracle,
        }
    return shown


def _design(plan: Plan, units: int, effect: float) -> Row:
    row: Row = {
        UNIT_NAMES[plan.unit]: units,
        "floor": float(f"{2.0 ** (1 - units) if units <= 20 else 1e-4:.3g}"),
        "effect_in_sd": None if math.isinf(effect) else round(effect, 2),
    }
    if plan.pilot:
        row[plan.metric] = None if math.isinf(effect) else _number(effect * plan.sd, 4)
        row["seconds"] = _number(plan.seconds * units / plan.n, 1)
    return row


def _accounts(plan: Plan) -> str:
    pilot = plan.pilot
    assert pilot is not None
    return (
        f"Clean labels besides those bought: {pilot.n_trusted} trusted, "
        f"{pilot.n_clean_validation} validation; {pilot.n_wrong} of {pilot.n_train} training "
        "labels are wrong."
    )


def _time(seconds: float) -> str:
    if math.isnan(seconds):
        return ""
    return f", about {duration(seconds)}"


def _number(value: float, digits: int) -> float | int | None:
    if math.isnan(value) or math.isinf(value):
        return None
    return round(value, digits) if digits else round(value)


def _table(rows: list[Row]) -> str:
    columns = list(rows[0])
    return format_result(Result(columns, [tuple(row[name] for name in columns) for row in rows]))
