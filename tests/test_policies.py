"""Policies: what a budget buys under prices, caps, quotas and groups, who answers, what is done."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
from support import make_cache

from trustq.core.digest import digest_array, digest_json
from trustq.errors import TrustqError
from trustq.experiments import repair
from trustq.experiments.run import run_group
from trustq.heads.out_of_fold import _BUILDER, PASSES
from trustq.recipes import load_recipe
from trustq.repair import draw_experiment, parse_arm
from trustq.repair.arms import round_sizes, with_references
from trustq.repair.experts import make_expert
from trustq.repair.loop import Loop
from trustq.repair.policy import make_policy
from trustq.repair.rounds import Round
from trustq.results import run_query
from trustq.store import Cache


def recipe(*settings: str):  # type: ignore[no-untyped-def]
    base = ["sweep.noise=symmetric:0.3", "arms=self_confidence", "budgets=20", "folds=3"]
    return load_recipe(settings=[*base, "regularisation=0.1", "references=false", *settings])


def query(folder: Path, sql: str):  # type: ignore[no-untyped-def]
    return run_query(folder, sql).rows


def rounds_of(arm: str, *settings: str, cache: Cache | None = None) -> tuple[Loop, list[Round]]:
    """The rounds of one arm, and the loop that ran them."""
    sweep = recipe(*settings).sweep
    experiment = draw_experiment(cache or make_cache(), sweep=sweep, draw_seed=0)
    loop = Loop(experiment, sweep)
    parsed = parse_arm(arm)
    zero = loop.round_zero([parsed])
    budget = loop.budget(parsed, sweep.budgets[0])
    return loop, [zero, *loop.rounds(parsed, zero, budget=budget)]


def taken(rounds: list[Round]) -> np.ndarray:
    """Rows taken, in order."""
    purchases = [state.purchase for state in rounds if state.purchase]
    return np.concatenate([purchase.rows for purchase in purchases])


def test_bought_by_group_a_purchase_covers_the_group_and_budgets_count_groups() -> None:
    loop, rounds = rounds_of("self_confidence", "buy_unit=group", "budgets=10", "rounds=2")
    rows, groups = taken(rounds), loop.experiment.training.groups
    assert len(np.unique(groups[rows])) == 10 and len(rows) == 20  # groups are of two rows
    assert rounds[-1].spent == 10
    assert sum(state.purchase.n_votes for state in rounds if state.purchase) == 10
    assert sum(state.purchase.n_bought for state in rounds if state.purchase) == 20
    # The most suspicious row leads its group.
    first = rounds[1].purchase
    assert first is not None and first.quality[0] == np.nanmin(first.quality)
    assert loop.budget(parse_arm("random"), "50%") == len(np.unique(groups)) / 2
    wrong = loop.experiment.start.observed != loop.experiment.labels
    assert loop.budget(parse_arm("oracle"), "all-wrong") == len(np.unique(groups[wrong]))


def test_the_oracle_by_group_buys_only_groups_with_a_wrong_label() -> None:
    loop, rounds = rounds_of("oracle", "buy_unit=group", "budgets=100%")
    wrong = loop.experiment.start.observed != loop.experiment.labels
    groups = loop.experiment.training.groups
    assert set(groups[taken(rounds)]) == set(groups[wrong])
    assert not (rounds[-1].current != loop.experiment.labels).any()


def test_prices_by_class_are_paid_by_the_budget() -> None:
    loop, rounds = rounds_of("random", "cost=a=3,b=0.5", "budgets=20")
    observed = loop.experiment.start.observed
    price = np.array([3.0, 0.5, 1.0])[observed]
    rows = taken(rounds)
    assert rounds[-1].spent == pytest.approx(price[rows].sum())
    assert 20 - price.min() < rounds[-1].spent <= 20
    ranked, _ = loop._ranked(parse_arm("random"), rounds[0], 1, rounds[0], 0)
    # Whatever stood before the last one taken was taken, or was dearer than what was left.
    bought = np.isin(ranked.rows, rows)
    paid = np.where(bought, price[ranked.rows], 0.0).cumsum()
    last = np.flatnonzero(bought)[-1]
    assert (bought | (paid + price[ranked.rows] > 20))[:last].all() and not bought[:last].all()
    assert loop.budget(parse_arm("random"), "100%") == int(np.ceil(price.sum()))


def test_prices_by_row_come_from_a_file(tmp_path: Path) -> None:
    cache = make_cache()
    sheet = tmp_path / "costs.csv"
    lines = [f"{sample},{1 + i % 2}" for i, sample in enumerate(cache.sample_id)]
    sheet.write_text("sample_id,cost\n" + "\n".join(lines))
    loop, rounds = rounds_of("random", f"cost={sheet}", "budgets=30")
    ids = loop.experiment.sample_ids[taken(rounds)]
    assert rounds[-1].spent == sum(1 + int(sample[1:]) % 2 for sample in ids)
    sheet.write_text("sample_id,cost\n" + lines[0])
    with pytest.raises(TrustqError) as caught:
        rounds_of("random", f"cost={sheet}")
    assert str(caught.value) == f"{sheet} has no cost of 143 of the 144 training rows, first s0001."
    sheet.write_text("sample_id,cost\ns0000,2\ns0000,3\n")
    with pytest.raises(TrustqError) as caught:
        rounds_of("random", f"cost={sheet}")
    assert str(caught.value) == f"{sheet}, row 3: s0000 has two numbers of cost."
    sheet.write_text("sample_id,cost\ns0000,free\n")
    with pytest.raises(TrustqError) as caught:
        rounds_of("random", f"cost={sheet}")
    assert str(caught.value) == f"{sheet}, row 2: cost is 'free', expected a number above 0."


def test_most_hits_is_what_the_oracle_finds() -> None:
    for settings in ([], ["buy_unit=group"], ["cost=a=3,b=0.5"]):
        loop, rounds = rounds_of("oracle", "budgets=12", *settings)
        wrong = loop.experiment.start.observed != loop.experiment.labels
        hits = wrong[taken(rounds)].sum()
        most = loop.most_hits(parse_arm("oracle"), 12)
        assert hits <= most <= wrong.sum()
        if not settings:
            assert hits == most == 12


def test_a_class_cap_holds_over_all_rounds() -> None:
    loop, rounds = rounds_of("self_confidence", "class_cap=10%", "budgets=60", "rounds=3")
    counts = np.bincount(loop.experiment.start.observed, minlength=3)
    bought = np.bincount(loop.experiment.start.observed[taken(rounds)], minlength=3)
    np.testing.assert_array_equal(bought, np.floor(0.1 * counts))
    _, rounds = rounds_of("self_confidence", "class_cap=4", "budgets=60")
    assert len(taken(rounds)) == 12
    # A reference stays what its name says.
    _, rounds = rounds_of("random", "class_cap=4", "budgets=60")
    assert len(taken(rounds)) == 60


@pytest.mark.parametrize("quota", ["equal", "proportional"])
def test_a_quota_shares_a_round_among_observed_classes(quota: str) -> None:
    loop, rounds = rounds_of("entropy", f"quota={quota}", "budgets=30")
    observed = loop.experiment.start.observed
    bought = np.bincount(observed[taken(rounds)], minlength=3)
    counts = np.bincount(observed, minlength=3)
    expected = np.full(3, 10) if quota == "equal" else 30 * counts / counts.sum()
    assert bought.sum() == 30 and np.abs(bought - expected).max() < 1


def test_a_quota_that_a_class_cannot_fill_goes_to_the_others() -> None:
    loop, rounds = rounds_of("entropy", "quota=equal", "budgets=140")
    assert len(taken(rounds)) == 140
    assert len(set(taken(rounds).tolist())) == 140


def test_a_diverse_batch_is_spread_over_the_candidates_and_starts_with_the_first() -> None:
    loop, plain = rounds_of("self_confidence", "budgets=20")
    _, pool = rounds_of("self_confidence", "budgets=60")
    _, spread = rounds_of("self_confidence", "budgets=20", "diversity=3")
    assert len(taken(spread)) == 20
    assert set(taken(spread)) <= set(taken(pool))
    assert set(taken(spread)) != set(taken(plain))
    assert taken(spread)[0] == taken(plain)[0]
    features = loop.experiment.features[loop.experiment.rows]

    def closest(rows: np.ndarray) -> float:
        distance = np.linalg.norm(features[rows][:, None] - features[rows][None], axis=2)
        return float((distance + 99 * np.eye(len(rows))).min())

    assert closest(taken(spread)) > closest(taken(plain))


def test_a_diverse_batch_takes_nothing_where_every_class_is_full() -> None:
    _, rounds = rounds_of("self_confidence", "budgets=60", "rounds=2", "diversity=2", "class_cap=3")
    assert len(taken(rounds)) == 9


def test_a_schedule_shares_a_budget_without_losing_a_label() -> None:
    for schedule in ("equal", "doubling", "1,2,5", "7,1,1"):
        for budget in range(40):
            assert sum(round_sizes(budget, 3, schedule)) == budget
    assert round_sizes(70, 3, "doubling") == [10, 20, 40]
    _, rounds = rounds_of("random", "budgets=14", "rounds=3", "schedule=doubling")
    assert [len(state.purchase.rows) for state in rounds if state.purchase] == [2, 4, 8]
    with pytest.raises(TrustqError) as caught:
        round_sizes(10, 3, "1,2")
    assert str(caught.value) == (
        "schedule is '1,2', expected equal, doubling, or 3 numbers above 0, one for each round, "
        "e.g. 1,2,5."
    )


def test_dropped_rows_are_not_learned_from_and_nothing_is_paid() -> None:
    loop, rounds = rounds_of("oracle:drop", "budgets=all-wrong")
    experiment, last = loop.experiment, rounds[-1]
    wrong = experiment.start.observed != experiment.labels
    np.testing.assert_array_equal(last.weights == 0, wrong)
    np.testing.assert_array_equal(last.current, experiment.start.observed)
    assert last.purchase is not None
    assert (last.purchase.after == -1).all() and last.purchase.n_bought == 0
    # The same head as one that was only given the right rows.
    kept = np.flatnonzero(~wrong)
    from trustq.heads import SharedFeatures, make_head

    features = experiment.features[experiment.rows]
    alone = make_head("linear", n_classes=3, C=0.1).fit(
        SharedFeatures(features[kept]), experiment.labels[kept]
    )
    assert last.head is not None
    np.testing.assert_allclose(
        last.head.predict_logits(features), alone.predict_logits(features), atol=2e-3
    )


@pytest.mark.parametrize("score", ["knn_agreement", "self_confidence_adjusted", "prune_by_class"])
def test_dropped_labels_have_no_part_in_later_scores(score: str) -> None:
    loop, rounds = rounds_of(f"{score}:drop", "budgets=60", "rounds=2")
    first, second = (state.purchase for state in rounds[1:])
    assert first is not None and second is not None

    def scores_of(current: np.ndarray) -> np.ndarray:
        state = dataclasses.replace(rounds[1], current=current)
        if score != "knn_agreement":
            of = state.out_of_fold
            assert of is not None
            scored = dataclasses.replace(
                of, observed_digest=digest_array(current), builder=_BUILDER
            )
            state = dataclasses.replace(
                state, fit=dataclasses.replace(state.fit, out_of_fold=scored)
            )
        return loop._quality(parse_arm(f"{score}:drop"), state, rounds[0], 30)[0]

    changed = rounds[1].current.copy()
    changed[first.rows] = (changed[first.rows] + 1) % 3
    left = np.setdiff1d(np.arange(len(changed)), first.rows)
    as_is = scores_of(rounds[1].current)
    np.testing.assert_array_equal(as_is[left], scores_of(changed)[left])
    np.testing.assert_array_equal(as_is[second.rows], second.quality)


def test_rows_weighed_down_count_less() -> None:
    loop, rounds = rounds_of("oracle:reweight", "budgets=all-wrong", "flagged_weight=0.25")
    wrong = loop.experiment.start.observed != loop.experiment.labels
    np.testing.assert_array_equal(rounds[-1].weights, np.where(wrong, 0.25, 1.0))

    def nll(state: Round) -> float:
        figures = {e.split: e.figures["uncalibrated"]["nll"] for e in state.evaluated}
        return figures["test"]

    _, dropped = rounds_of("oracle:drop", "budgets=all-wrong")
    assert nll(rounds[0]) > nll(rounds[-1]) > nll(dropped[-1])


def test_a_matched_random_drop_takes_as_many_of_each_class() -> None:
    for settings in (["budgets=40"], ["budgets=40", "rounds=3"], ["budgets=40", "class_cap=9"]):
        loop, base = rounds_of("self_confidence:drop", *settings)
        _, matched = rounds_of("random~self_confidence:drop", *settings)
        observed = loop.experiment.start.observed
        np.testing.assert_array_equal(
            np.bincount(observed[taken(matched)]), np.bincount(observed[taken(base)])
        )
        assert set(taken(matched)) != set(taken(base))


def test_a_drop_that_fails_is_not_matched() -> None:
    arms = "arms=self_confidence@crossfit:drop,random~self_confidence@crossfit:drop"
    found = run_group(make_cache(), recipe=recipe(arms), draw_seed=0, keep_going=True)
    assert not found.new
    assert {str(error) for _, error in found.failures} == {
        "cache of gauss holds no crossfit logits; use the source head, or extract it in a "
        "crossfit mode."
    }
    assert len(found.failures) == 2


def test_raters_are_asked_until_one_answer_leads() -> None:
    cache = make_cache(n=1200)
    sweep = recipe("raters=2", "rater_error=0.3").sweep
    experiment = draw_experiment(cache, sweep=sweep, draw_seed=0)
    unit = np.arange(len(experiment.labels))
    expert = make_expert(experiment, sweep, unit=unit)
    answers = expert.answer(unit)
    votes, counts = np.unique(answers.votes, return_counts=True)
    assert votes[0] == 2 and counts[0] < counts.sum() and votes[-1] > 2
    # Two raters agree with p = .49 + .045 (both on the same wrong class); else one more is asked.
    assert counts[0] / counts.sum() == pytest.approx(0.535, abs=0.05)
    right = (answers.labels == experiment.labels).mean()
    assert 0.75 < right < 0.9
    # An answer depends on the row alone, not on who else is asked.
    some = expert.answer(unit[100:7:-3])
    np.testing.assert_array_equal(some.labels, answers.labels[100:7:-3])
    np.testing.assert_array_equal(some.votes, answers.votes[100:7:-3])
    one = make_expert(experiment, recipe("rater_error=0.3").sweep, unit=unit).answer(unit)
    assert (one.labels == experiment.labels).mean() == pytest.approx(0.7, abs=0.05)
    # A majority of many is right.
    many = make_expert(experiment, recipe("raters=15", "rater_error=0.3").sweep, unit=unit)
    assert (many.answer(unit).labels == experiment.labels).mean() > 0.97


def test_an_expert_who_errs_is_told_in_the_ledger_and_hits_go_by_the_truth(tmp_path: Path) -> None:
    settings = ("raters=3", "rater_error=0.3", "budgets=60", "arms=random,self_confidence")
    repair([make_cache()], recipe=recipe(*settings), results=tmp_path / "r")
    assert query(
        tmp_path / "r",
        """SELECT bool_and(was_wrong = (label_before <> truth)), bool_or(label_after <> truth),
             min(votes), bool_and(price = 1) FROM queries""",
    ) == [(True, True, 3, True)]
    assert query(
        tmp_path / "r",
        """SELECT bool_and(n_bought = 60 AND spent = 60 AND n_votes = v) FROM runs
           JOIN (SELECT run, sum(votes) AS v FROM queries GROUP BY run) ON run = key""",
    ) == [(True,)]
    assert query(tmp_path / "r", "SELECT DISTINCT policy FROM runs") == [
        (json.dumps({"rater_error": 0.3, "raters": 3}),)
    ]


def test_only_answered_rows_are_repaired(tmp_path: Path) -> None:
    cache = make_cache()
    experiment = draw_experiment(cache, sweep=recipe().sweep, draw_seed=0)
    wrong = np.flatnonzero(experiment.start.observed != experiment.labels)
    ids, names = experiment.sample_ids, np.array(cache.classes)
    lines = [f"{ids[i]},{names[experiment.labels[i]]} " for i in wrong[:9]]  # as typed
    # Two people of different minds: no majority, no repair. And a row that nobody filled in.
    lines += [f"{ids[wrong[9]]},a", f"{ids[wrong[9]]},b", f"{ids[wrong[10]]},"]
    # Two of one mind against one.
    lines += [f"{ids[wrong[11]]},{name}" for name in "aab"]
    sheet = tmp_path / "answers.csv"
    sheet.write_text("sample_id,label\n" + "\n".join([*lines, "elsewhere,c"]))
    _, rounds = rounds_of("self_confidence", f"answers={sheet}", "budgets=100%", cache=cache)
    np.testing.assert_array_equal(np.sort(taken(rounds)), [*wrong[:9], wrong[11]])
    loop, bought = rounds_of("oracle", f"answers={sheet}", "budgets=100%", cache=cache)
    # What could be found at most is what could be answered.
    np.testing.assert_array_equal(np.sort(taken(bought)), [*wrong[:9], wrong[11]])
    assert loop.most_hits(parse_arm("oracle"), len(ids)) == 10
    assert loop.most_hits(parse_arm("oracle:drop"), len(ids)) == len(wrong)
    last = rounds[-1]
    assert last.purchase is not None and last.purchase.n_votes == 12
    assert last.current[wrong[11]] == 0
    np.testing.assert_array_equal(last.current[wrong[:9]], experiment.labels[wrong[:9]])
    untouched = np.setdiff1d(np.arange(len(ids)), taken(rounds))
    np.testing.assert_array_equal(last.current[untouched], experiment.start.observed[untouched])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "row,label\n1,a\n",
            "{} has the columns row, label; expected sample_id and label. Rename a column to "
            "sample_id.",
        ),
        (
            "sample_id,label\n1,\n",
            "{} holds no row with a label in its column label: fill it in, or leave it out.",
        ),
        (
            "sample_id,label\ns0000,aa\n",
            "{}, row 2: unknown class 'aa' (did you mean 'a'?); expected one of a, b, c.",
        ),
        (
            "sample_id,label\nx,a\n",
            "{} answers for none of the 240 rows of cache of gauss; its sample_id must be "
            "those of the cache.",
        ),
    ],
)
def test_answers_that_do_not_fit_are_refused(text: str, message: str, tmp_path: Path) -> None:
    sheet = tmp_path / "answers.csv"
    sheet.write_text(text)
    with pytest.raises(TrustqError) as caught:
        repair([make_cache()], recipe=recipe(f"answers={sheet}"), results=tmp_path / "r")
    assert str(caught.value) == message.format(sheet)
    assert not (tmp_path / "r").exists()


def test_a_cell_is_another_when_the_answers_in_the_file_are(tmp_path: Path) -> None:
    sheet, cache = tmp_path / "answers.csv", make_cache()
    keys = []
    for label in "ab":
        sheet.write_text(f"sample_id,label\ns0000,{label}\ns0001,{label}\n")
        run = repair([cache], recipe=recipe(f"answers={sheet}"), results=tmp_path / "r")
        keys += run.keys
    assert len(set(keys)) == 2


def test_buying_stops_when_a_round_finds_too_little(tmp_path: Path) -> None:
    settings = ("budgets=100%", "rounds=12", "stop_precision=0.5", "arms=random,self_confidence")
    repair([make_cache(n=400)], recipe=recipe(*settings), results=tmp_path / "r")
    cells = query(
        tmp_path / "r", "SELECT arm, stopped, n_rounds_done, n_bought FROM runs ORDER BY arm"
    )
    assert cells[0][:3] == ("random", "precision below the cut", 1)
    arm, stopped, done, bought = cells[1]
    assert (arm, stopped) == ("self_confidence", "precision below the cut") and 1 < done < 12
    rates = query(
        tmp_path / "r",
        """SELECT purchase_precision FROM rounds JOIN runs ON key = run
           WHERE arm = 'self_confidence' AND round > 0 ORDER BY round""",
    )
    assert all(rate >= 0.5 for (rate,) in rates[:-1]) and rates[-1][0] < 0.5
    assert bought == done * 20


def test_why_no_more_was_taken_is_told(tmp_path: Path) -> None:
    settings = ("arms=none,random,oracle", "budgets=100%", "rounds=2")
    repair([make_cache()], recipe=recipe(*settings), results=tmp_path / "r")
    assert dict(query(tmp_path / "r", "SELECT arm, stopped FROM runs")) == {
        "none": "nothing to buy",
        "random": "budget spent",
        "oracle": "nothing left to take",
    }
    assert query(
        tmp_path / "r",
        "SELECT bool_and(errors_findable = n_wrong_start) FROM runs WHERE arm <> 'none'",
    ) == [(True,)]


def test_random_and_oracle_run_beside_every_scored_arm(tmp_path: Path) -> None:
    settings = recipe("references=true", "arms=self_confidence,margin:drop")
    run = repair([make_cache()], recipe=settings, results=tmp_path / "r")
    arms = {arm for (arm,) in query(tmp_path / "r", "SELECT arm FROM runs")}
    assert arms == {
        *("self_confidence", "random", "oracle"),
        *("margin:drop", "random:drop", "oracle:drop", "random~margin:drop"),
    }
    assert run.notes[0] == (
        "Also running reference arms: random, oracle, random:drop, oracle:drop, "
        "random~margin:drop (`references=false` leaves them out)."
    )
    for text in ("none", "random"):  # no policy, nothing to bound
        assert with_references([parse_arm(text)]) == [parse_arm(text)]


@pytest.mark.bits
def test_an_arm_added_beside_others_changes_none_of_their_bits(tmp_path: Path) -> None:
    alone, beside = tmp_path / "a", tmp_path / "b"
    one = "random~self_confidence:drop"
    repair([make_cache()], recipe=recipe(f"arms={one}", "rounds=2"), results=alone)
    others = f"arms=knn_agreement,hybrid,self_confidence:drop,{one},entropy@heads"
    repair([make_cache()], recipe=recipe(others, "rounds=2"), results=beside)
    sql = f"""SELECT key, round, split, stage, metric, value FROM metric_values
              WHERE arm = '{one}' ORDER BY ALL"""
    assert repr(query(alone, sql)) == repr(query(beside, sql)) != "[]"


def test_every_score_and_source_runs_and_says_what_it_is(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    base = make_cache()
    truth = 3 * np.eye(3)[base.label]
    passes = (truth + rng.standard_normal((5, 240, 3))).astype(np.float32)
    cache = dataclasses.replace(base, digest="verified", extra={PASSES: passes})
    arms = "bald,self_confidence@passes,knn_agreement,k_centre,hybrid,self_confidence@heads"
    arms += ",confident_learning,normalized_margin_adjusted,entropy@in_sample"
    repair([cache], recipe=recipe(f"arms={arms}", "rounds=2"), results=tmp_path / "r")
    found = query(
        tmp_path / "r", "SELECT arm, source, in_sample, n_bought, arm_title FROM runs ORDER BY arm"
    )
    assert found == [
        ("bald", "passes", False, 20, "BALD"),
        ("confident_learning", "head", False, 20, "confident joint, off-diagonal"),
        ("entropy@in_sample", "in_sample", True, 20, "entropy, in-sample"),
        ("hybrid", "head", False, 20, "entropy and k-centre"),
        ("k_centre", None, False, 20, "k-centre"),
        ("knn_agreement", None, False, 20, "agreement of neighbours"),
        ("normalized_margin_adjusted", "head", False, 20, "normalised margin, class-adjusted"),
        ("self_confidence@heads", "heads", False, 20, "self-confidence, several heads"),
        ("self_confidence@passes", "passes", False, 20, "self-confidence, dropout passes"),
    ]
    hits = dict(
        query(
            tmp_path / "r",
            "SELECT arm, sum(was_wrong::INTEGER) FROM runs JOIN queries ON key = run GROUP BY arm",
        )
    )
    assert min(hits["knn_agreement"], hits["self_confidence@heads"]) > 14
    assert hits["k_centre"] < 12


def test_the_estimated_transitions_of_each_round_are_stored(tmp_path: Path) -> None:
    cache = make_cache(n=900, separation=4.0)
    settings = recipe("arms=none,self_confidence", "budgets=90", "rounds=2")
    repair([cache], recipe=settings, results=tmp_path / "r")
    assert query(
        tmp_path / "r",
        """SELECT round, count(*), round(sum(share), 9) FROM transitions
           GROUP BY ALL ORDER BY ALL""",
    ) == [(0, 9, 1.0), (1, 9, 1.0)]
    found = query(
        tmp_path / "r",
        """SELECT round, noise_left, noise_estimated FROM rounds JOIN runs ON key = run
           WHERE arm = 'self_confidence' ORDER BY round""",
    )
    assert found[0][2] == pytest.approx(found[0][1], abs=0.05)
    assert found[1][2] == pytest.approx(found[1][1], abs=0.05)
    assert found[2][2] is None
    joint = query(
        tmp_path / "r",
        """SELECT round, sum(share) FROM transitions WHERE given <> true_class GROUP BY ALL
           ORDER BY ALL""",
    )
    assert [share for _, share in joint] == pytest.approx([row[2] for row in found[:2]])


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        (
            "class_cap=lots",
            "class_cap is 'lots', expected a number (10) or a share of each class (20%).",
        ),
        (
            "cost=z=2",
            "cost is 'z=2', expected CLASS=PRICE,... with prices above 0 and classes of a, b, c, "
            "or a file of sample_id and cost.",
        ),
        ("diversity=0.5", "setting 'diversity=0.5': diversity is 0.5, expected 1 or more."),
        (
            "flagged_weight=1.0",
            "setting 'flagged_weight=1.0': flagged_weight is 1, expected above 0 and below 1.",
        ),
        (
            "stop_precision=2.0",
            "setting 'stop_precision=2.0': stop_precision is 2, expected 0 to 1.",
        ),
        (
            "rater_error=1.0",
            "setting 'rater_error=1.0': rater_error is 1, expected 0 or more and below 1.",
        ),
        (
            "schedule=slow",
            "schedule is 'slow', expected equal, doubling, or 1 numbers above 0, one for each "
            "round, e.g. 1,2,5.",
        ),
    ],
)
def test_a_policy_out_of_range_is_refused(setting: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(TrustqError) as caught:
        repair([make_cache()], recipe=recipe(setting), results=tmp_path / "r")
    assert str(caught.value) == message
    assert not (tmp_path / "r").exists()


@pytest.mark.parametrize(
    ("arm", "message"),
    [
        ("random~none", "Arm 'random~none': random~ARM matches a scored arm."),
        ("none:drop", "Arm 'none:drop': none leaves every label as it is; it takes no action."),
        ("bald@head", "Arm 'bald@head': bald is of dropout passes (@passes) alone."),
        (
            "knn_agreement@crossfit",
            "Arm 'knn_agreement@crossfit': knn_agreement uses no probabilities, so it takes no "
            "@SOURCE.",
        ),
        (
            "hybrid@heads",
            "Arm 'hybrid@heads': hybrid builds a batch; it is no mean over heads.",
        ),
    ],
)
def test_an_arm_that_means_nothing_is_refused(arm: str, message: str) -> None:
    with pytest.raises(TrustqError) as caught:
        parse_arm(arm)
    assert str(caught.value) == message


def test_the_text_of_an_arm_is_read_back_as_it_was() -> None:
    for text in (
        *(
            "none",
            "random:drop",
            "bald",
            "entropy@in_sample:reweight",
            "random~margin@crossfit:drop",
        ),
        *("self_confidence@heads", "knn_agreement:drop", "random~bald"),
    ):
        assert parse_arm(text).text == text


@pytest.mark.parametrize(
    ("settings", "name"),
    [
        (["arms=margin:reweight", "head=knn"], "margin:reweight': the knn"),
        (["arms=margin@heads:reweight", "rounds=2"], "margin@heads:reweight': the lda"),
    ],
)
def test_weights_that_a_head_does_not_take_are_refused_before_work(
    settings: list[str], name: str, tmp_path: Path
) -> None:
    with pytest.raises(TrustqError) as caught:
        repair([make_cache()], recipe=recipe(*settings), results=tmp_path / "r")
    assert str(caught.value) == (
        f"Arm '{name} head takes no weights between 0 and 1. Use :drop, or a head that does "
        "(linear, balanced, xgboost, lightgbm, ridge, mlp)."
    )
    assert not (tmp_path / "r").exists()


def test_an_ensemble_of_the_head_alone_is_refused() -> None:
    with pytest.raises(TrustqError) as caught:
        rounds_of("self_confidence@heads", "ensemble=linear")
    assert str(caught.value) == (
        "ensemble is linear, which is the head itself: name others, e.g. `ensemble=lda,knn`."
    )


def test_units_of_rows_are_the_rows() -> None:
    sweep = recipe().sweep
    experiment = draw_experiment(make_cache(), sweep=sweep, draw_seed=0)
    policy = make_policy(experiment, sweep)
    rows = np.array([5, 3, 80, 1])
    chosen = policy.choose(
        rows,
        3,
        is_scored=True,
        current=experiment.start.observed,
        n_taken=np.zeros(3),
        features=experiment.features[experiment.rows],
    )
    assert chosen.tolist() == [5, 3, 80]


def test_settings_at_their_default_leave_the_keys_of_cells_as_they_were(tmp_path: Path) -> None:
    cache, results = make_cache(), tmp_path / "r"
    first = repair([cache], recipe=recipe(), results=results)
    # As cells were keyed before there were policies.
    shared, rounds, budget = query(results, "SELECT shared_key, n_rounds, budget FROM runs")[0]
    named = {"shared": shared, "arm": "self_confidence", "budget": budget, "rounds": rounds}
    assert first.keys == [digest_json(named)]
    defaults = ("buy_unit=image", "schedule=equal", "raters=1", "diversity=1.0", "quota=none")
    again = repair([cache], recipe=recipe(*defaults, "flagged_weight=0.5"), results=results)
    assert (again.keys, again.n_new) == (first.keys, 0)
    for setting in ("buy_unit=group", "quota=equal", "raters=3", "class_cap=5", "cost=a=2"):
        assert repair([cache], recipe=recipe(setting), results=results).n_new == 1, setting


def test_what_only_some_arms_use_makes_other_cells_of_them_and_of_no_others(
    tmp_path: Path,
) -> None:
    cache, results = make_cache(), tmp_path / "r"
    lda = ("arms=none,margin@heads", "head=lda", "ensemble=linear")
    weighed = ("arms=none,margin:reweight", "head=linear")
    n_new = [
        repair([cache], recipe=recipe(*settings), results=results).n_new
        for settings in (
            lda,
            (*lda, "regularisation=0.01"),
            (*lda, "ensemble=knn"),
            (*lda, "ensemble=knn", "regularisation=0.01"),  # of no head there is
            (*lda, "flagged_weight=0.5"),
            weighed,
            (*weighed, "flagged_weight=0.5"),
            (*weighed, "ensemble=knn"),
        )
    ]
    assert n_new == [2, 1, 1, 0, 0, 2, 1, 0]
    # Nor does a table take them for repeats of each other.
    assert query(
        results,
        """SELECT arm_title, max(n_runs) FROM seeds
           WHERE metric = 'nll' AND arm <> 'none' GROUP BY arm_title ORDER BY arm_title""",
    ) == [
        ("margin of the top two, several heads (with knn)", 1),
        ("margin of the top two, several heads (with linear, regularisation 0.01)", 1),
        ("margin of the top two, several heads (with linear, regularisation 0.1)", 1),
        ("margin of the top two, weighed down", 1),
        ("margin of the top two, weighed down (to 0.5)", 1),
    ]


def test_noise_of_every_kind_is_recorded_with_its_unit(tmp_path: Path) -> None:
    cache, results = make_cache(), tmp_path / "r"
    sheet = tmp_path / "observed.csv"
    lines = [f"{sample},{'abc'[i % 3]}" for i, sample in enumerate(cache.sample_id)]
    sheet.write_text("sample_id,observed\n" + "\n".join(lines))
    for settings in (
        ["sweep.noise=instance:0.3"],
        ["sweep.noise=instance:0.3", "noise_unit=group"],
        ["noise_unit=group"],
        [f"sweep.noise=file:{sheet}"],
    ):
        repair([cache], recipe=recipe(*settings, "arms=none"), results=results)
    found = query(
        results,
        "SELECT noise, noise_unit, noise_process IS NULL FROM runs ORDER BY noise, noise_unit",
    )
    assert found == [
        (f"file:{sheet}", "image", False),
        ("instance:0.3", "group", False),
        ("instance:0.3", "image", False),
        ("symmetric:0.3", "group", False),
    ]
    # Groups of a class are mislabelled together or not at all.
    assert query(
        results,
        """SELECT count(*) FROM (SELECT run, group_id FROM labels
             JOIN samples USING (sample_id) JOIN runs ON key = run
             WHERE noise_unit = 'group' GROUP BY ALL HAVING count(DISTINCT observed) > 1)""",
    ) == [(0,)]
    observed = np.array([line.split(",")[1] for line in lines])
    stored = dataclasses.replace(
        cache, observed=np.array(["abc".index(name) for name in observed], dtype=np.int16)
    )
    with pytest.raises(TrustqError) as caught:
        repair([stored], recipe=recipe("sweep.noise=stored", "noise_unit=group"), results=results)
    assert str(caught.value) == (
        "`noise_unit=group` is of noise that is drawn; stored labels are as they are."
    )


def test_noise_of_a_file_is_refused_where_the_backbone_knew_other_labels(tmp_path: Path) -> None:
    sheet = tmp_path / "observed.csv"
    cache = make_cache(exposure="finetuned-clean", seen=np.full(240, 2, dtype=np.uint8))
    sheet.write_text("sample_id,label\n" + "\n".join(f"{s},a" for s in cache.sample_id))
    with pytest.raises(TrustqError, match="would already be known to the features"):
        repair([cache], recipe=recipe(f"sweep.noise=file:{sheet}"), results=tmp_path / "r")
