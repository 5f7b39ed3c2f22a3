"""`trustq plan`: what it calls detectable is detected; what cannot be found is said to be so."""

import json
import math
from dataclasses import replace

import numpy as np
import pytest
from support import make_cache
from support_cli import invoke
from support_power import detected

from trustq.analysis.study_design import Question, plan_sweep, read_pilot, variation
from trustq.errors import TrustqError
from trustq.recipes import Recipe, SweepRecipe, load_recipe
from trustq.report.plan import plan_page
from trustq.results import new_part, write_part
from trustq.statistics.paired import sign_flip_test
from trustq.statistics.power import (
    detectable_effect,
    fewest_units,
    sign_flip_floor,
    sign_flip_power,
    units_needed,
)

ARMS = ("none", "random", "self_confidence", "oracle")


def recipe(**settings):
    return Recipe(name="mine", sweep=SweepRecipe(**({"arms": ARMS} | settings)))


def simulated_results(
    folder, *, backbones=1, draws=10, draw_sd=0.01, backbone_sd=0.0, residual_sd=0.0, gain=0.02
):
    """A results folder whose self-confidence beats random by `gain`, with known variances.

    The oracle gains 1.5 times as much with 40 labels, twice as much with 80.
    """
    rng = np.random.default_rng(0)
    of_draw = rng.normal(0, draw_sd, draws)
    of_backbone = rng.normal(0, backbone_sd, backbones)
    cells, rounds, metrics = [], [], []
    for b in range(backbones):
        for d in range(draws):
            noise = of_draw[d] + of_backbone[b] + rng.normal(0, residual_sd)
            for arm, budget, figure in (
                ("none", "0", 0.7),
                ("random", "40", 0.7),
                ("self_confidence", "40", 0.7 + gain + noise),
                ("oracle", "40", 0.7 + 1.5 * gain),
                ("oracle", "80", 0.7 + 2 * gain),
            ):
                key = f"{arm}-{budget}-{b}-{d}"
                bought = int(budget)
                cells.append(
                    {
                        "key": key,
                        "dataset": "simulated",
                        "arm": arm,
                        "score": arm,
                        "budget": budget,
                        "backbone_seed": b,
                        "draw_seed": d,
                        "n_train": 1000,
                        "n_wrong_start": 80,
                        "n_trusted": 100,
                        "n_clean_validation": 200,
                        "seconds": 0.5,
                    }
                )
                for number, value in ((0, 0.7), (1, figure)) if bought else ((0, figure),):
                    rounds.append({"run": key, "round": number, "n_bought_total": bought * number})
                    metrics.append(
                        {
                            "run": key,
                            "round": number,
                            "eval_dataset": "simulated",
                            "split": "test",
                            "stage": "uncalibrated",
                            "is_final": number == (1 if bought else 0),
                            "metric": "accuracy",
                            "value": value,
                        }
                    )
    tables = {"runs": cells, "rounds": rounds, "metrics": metrics}
    columns = {
        table: {name: np.array([row[name] for row in rows]) for name in rows[0]}
        for table, rows in tables.items()
    }
    write_part(folder, columns, part=new_part())
    return folder


@pytest.mark.parametrize("n", [6, 8, 10, 12, 15])
def test_what_is_called_detectable_is_detected_in_four_of_five_sweeps(n):
    effect = detectable_effect(n)
    assert 0.77 <= detected(n, effect) <= 0.83


@pytest.mark.parametrize(("n", "family"), [(8, 3), (10, 5)])
def test_the_first_of_a_family_is_detected_by_holm(n, family):
    effect = detectable_effect(n, alpha=0.05 / family)
    assert 0.77 <= detected(n, effect, family=family, sweeps=1000) <= 0.83


@pytest.mark.parametrize(("n", "family"), [(5, 1), (3, 1), (6, 2), (7, 4)])
def test_nothing_is_detected_where_the_floor_forbids_it(n, family):
    alpha = 0.05 / family
    assert sign_flip_floor(n) > alpha and detectable_effect(n, alpha=alpha) == math.inf
    assert sign_flip_power(50.0, n, alpha=alpha) == 0
    assert detected(n, 50.0, family=family, sweeps=200) == 0


def test_the_floor_is_that_of_the_test():
    for n in (1, 2, 5, 9, 20):
        assert sign_flip_test(np.arange(1, n + 1) / n).floor == sign_flip_floor(n)
    assert sign_flip_test(np.ones(21), seed=0).floor == sign_flip_floor(21)


def test_units_needed_are_the_fewest_that_have_the_power():
    for effect in (1.5, 0.9, 0.4):
        n = units_needed(effect, alpha=0.025)
        assert sign_flip_power(effect, n, alpha=0.025) >= 0.8
        assert sign_flip_power(effect, n - 1, alpha=0.025) < 0.8
    assert units_needed(1e-4) is None


def test_power_without_an_effect_is_the_level_of_the_test():
    # 15 units can reach p = .05 but for 1/2^14; six only p = .03125.
    assert sign_flip_power(0.0, 15) == pytest.approx(0.05, abs=0.01)
    assert sign_flip_power(0.0, 6) == pytest.approx(0.03125, abs=0.005)
    assert sign_flip_power(0.0, 100) == pytest.approx(0.05, abs=1e-9)


def test_power_is_the_same_for_either_direction():
    assert sign_flip_power(-0.9, 12) == sign_flip_power(0.9, 12)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: sign_flip_floor(0), "n is 0: a test needs at least one unit."),
        (lambda: fewest_units(1.0), "alpha is 1, expected a share between 0 and 1."),
        (
            lambda: fewest_units(1e-7),
            "No number of units reaches a p of 1e-07: the floor of the test is 0.0001 however many "
            "there are. Compare fewer arms.",
        ),
        (lambda: detectable_effect(8, power=0), "power is 0, expected a share between 0 and 1."),
    ],
)
def test_powers_that_mean_nothing_are_refused(call, message):
    with pytest.raises(TrustqError) as caught:
        call()
    assert str(caught.value) == message


def test_components_of_variance_are_recovered():
    rng = np.random.default_rng(0)
    backbones, draws = 40, 200
    true = {"backbone": 0.3, "draw": 0.2, "residual": 0.1}
    d = rng.normal(0, true["backbone"], (backbones, 1)) + rng.normal(0, true["draw"], draws)
    d = d + rng.normal(0, true["residual"], (backbones, draws)) + 5
    found = variation([d, d])
    for name, sd in true.items():
        assert math.sqrt(getattr(found, name)) == pytest.approx(sd, rel=0.25)
    assert (found.df_draw, found.df_backbone) == (draws - 1, backbones - 1)


def test_the_reference_design_cannot_answer_and_a_design_that_can_is_named():
    plan = plan_sweep(load_recipe("reference-study"), backbones=5, minutes_per_label=2.0)
    assert (plan.unit, plan.n, plan.floor) == ("backbone_seed", 5, 0.0625)
    assert plan.can_answer is False and plan.budgets[0].minutes == 128
    page = plan_page(plan)
    assert "Budget 64: CANNOT answer: no outcome of 5 units has p below 0.0625." in page
    assert "A design that can: 10 backbones find an effect of 1.00 standard deviations" in page
    assert "(at least 6 are needed for any)" in page
    (named,) = [effect for units, effect in plan.designs if units == 10]
    assert 0.77 <= detected(10, named) <= 0.83


def test_a_policy_that_changes_the_price_is_in_it_or_named():
    policy = {"budgets": ("64",), "raters": 3, "buy_unit": "group", "cost": "mel=3"}
    plan = plan_sweep(recipe(**policy), minutes_per_label=2.0)
    assert plan.budgets[0].minutes == 3 * 128
    assert plan.notes[:3] == (
        "minutes are of 3 raters for each label; ties ask one more",
        "budgets buy groups: labels and minutes count one image of each",
        "budgets pay prices: labels and minutes are those at a price of 1",
    )


def test_cells_are_counted_as_repair_counts_them():
    plan = plan_sweep(recipe(budgets=("64", "5%"), draws=10), backbones=3)
    # None once, three arms with two budgets each.
    assert plan.n_cells == 3 * 10 * (1 + 3 * 2)
    assert (plan.unit, plan.n, plan.family, plan.units_holm) == ("draw_seed", 10, 2, 7)


def test_variation_and_gains_come_from_an_earlier_sweep(tmp_path):
    folder = simulated_results(tmp_path, draws=60)
    plan = plan_sweep(recipe(budgets=("40", "20", "80"), draws=10), results=folder)
    assert plan.sd == pytest.approx(0.01, rel=0.15) and plan.sd < plan.sd_upper
    gains = {row.budget: row.oracle_gain for row in plan.budgets}
    assert gains == pytest.approx({"40": 0.03, "20": 0.015, "80": 0.04})
    assert plan.seconds == plan.n_cells * 0.5
    assert plan.can_answer and "CAN answer: the oracle's gain is +0.0300" in plan_page(plan)


def test_an_effect_below_what_is_detectable_cannot_be_answered(tmp_path):
    folder = simulated_results(tmp_path, draws=30, draw_sd=0.05)
    plan = plan_sweep(recipe(budgets=("20",), draws=10), results=folder)
    assert plan.can_answer is False
    assert plan.budgets[0].units_for_oracle == plan.needed
    least = plan.effect_holm * plan.sd
    assert f"the oracle's gain is +0.0150, the least detectable {least:.4f}" in plan_page(plan)
    assert f"A design that can: {plan.needed} draws, which find" in plan_page(plan)
    effect = plan.target / plan.sd
    assert sign_flip_power(effect, plan.needed) >= 0.8 > sign_flip_power(effect, plan.needed - 1)
    larger = plan_sweep(recipe(budgets=("20",), draws=plan.needed), results=folder)
    assert larger.can_answer


def test_an_oracle_that_gains_nothing_is_said_to(tmp_path):
    folder = simulated_results(tmp_path, gain=0.0)
    plan = plan_sweep(recipe(budgets=("40",), draws=10), results=folder)
    assert plan.can_answer is False and plan.needed is None
    assert "No number of seeds helps: the oracle" in plan_page(plan)


def test_more_backbones_average_the_residual_away(tmp_path):
    folder = simulated_results(
        tmp_path, backbones=8, draws=40, draw_sd=0.01, backbone_sd=0.02, residual_sd=0.04
    )
    pilot = read_pilot(folder, baseline="random")
    v = pilot.variation
    for n_backbones, n_draws in ((1, 20), (4, 20)):
        plan = plan_sweep(recipe(draws=n_draws), results=folder, backbones=n_backbones)
        assert plan.sd == pytest.approx(math.sqrt(v.draw + v.residual / n_backbones))
    plan = plan_sweep(recipe(draws=2), results=folder, backbones=10)
    assert plan.unit == "backbone_seed"
    assert plan.sd == pytest.approx(math.sqrt(v.backbone + v.residual / 2))


def test_a_pilot_of_one_backbone_says_that_it_stands_in(tmp_path):
    plan = plan_sweep(recipe(), results=simulated_results(tmp_path), backbones=6)
    assert plan.notes[0] == (
        "the pilot has one of backbones, so the variation of draws stands in; that of backbones "
        "may be larger"
    )


def test_a_pilot_runs_on_the_caches_at_hand():
    cache = make_cache(n=300, separation=1.5)
    chosen = recipe(noise="symmetric:0.3", draws=12, budgets=("20%",))
    plan = plan_sweep(chosen, [cache], pilot_draws=3, question=Question(metric="nll"))
    assert plan.sd > 0 and plan.seconds > 0 and plan.n_cells == 12 * 4
    assert plan.pilot.source == "a pilot of 3 draws on 1 of 1 caches"
    # A fall of the log loss is a gain, and buying every wrong label gains most.
    assert plan.pilot.oracle[-1][0] == pytest.approx(plan.pilot.n_wrong, abs=3)
    assert plan.budgets[0].oracle_gain > 0
    assert plan.budgets[0].n_bought == 36


@pytest.mark.parametrize(
    ("change", "options", "message"),
    [
        (
            {"arms": ("none", "random")},
            {},
            "Recipe mine has no arm to compare with random: its arms are none, random. Add one, "
            "e.g. `arms=none,random,self_confidence`.",
        ),
        ({}, {"comparisons": 0}, "`comparisons=0`: expected 1 or more."),
        ({}, {"effect": -0.1}, "`effect=-0.1`: expected a gain above 0."),
    ],
)
def test_plans_of_nothing_are_refused(change, options, message):
    chosen = recipe()
    with pytest.raises(TrustqError) as caught:
        plan_sweep(
            replace(chosen, sweep=replace(chosen.sweep, **change)), question=Question(**options)
        )
    assert str(caught.value) == message


def test_a_pilot_without_the_baseline_is_refused(tmp_path):
    folder = simulated_results(tmp_path)
    with pytest.raises(TrustqError) as caught:
        plan_sweep(recipe(), results=folder, question=Question(metric="macro_f1"))
    assert str(caught.value) == (
        f"{folder} has no uncalibrated macro_f1 of a scored arm beside 'random': plan needs both, "
        "at the same budget, to see how their difference varies."
    )


def test_the_command_prints_a_page_and_json(tmp_path):
    folder = simulated_results(tmp_path)
    arguments = ["default", "--from", folder, "--set", "draws=8", "--minutes-per-label", "1.5"]
    run = invoke("plan", arguments)
    assert run.exit_code == 0, run.output
    assert "n = 8 draws; 32 runs, about 16 s" in run.stdout and "expert_hours" in run.stdout
    run = invoke("plan", [*arguments, "--json"])
    found = json.loads(run.stdout)
    assert found["n"] == 8 and found["budgets"][0]["minutes"] == 75
    assert found["pilot"]["n_trusted"] == 100
