"""Gates and checks: what passes, fails or is unclear, what fell, and the history."""

import csv
import io
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from support import make_cache
from trustq.cli import app
from typer.testing import CliRunner

from trustq.analysis.checklists import MISSING, REPORTED, checklist
from trustq.analysis.gates import check_results, parity, parse_gate
from trustq.analysis.pairs import Stored
from trustq.errors import TrustqError
from trustq.experiments import repair
from trustq.recipes import load_recipe
from trustq.report.checklist_page import checklist_markdown, write_checklist
from trustq.store import write_cache


def results_of(folder: Path, *, harm: float = 0.0, arms: str = "none", seeds: int = 2) -> Path:
    """Results of small networks; `harm` is the share of features that are replaced by noise."""
    caches = []
    for seed in range(seeds):
        cache = make_cache(n=800, backbone_seed=seed)
        rng = np.random.default_rng(seed)
        noise = rng.normal(size=cache.features.shape).astype(np.float32)
        kept = rng.random(len(cache)) >= harm
        features = np.where(kept[:, None], cache.features + noise / 4, noise)
        cache = replace(cache, features=features.astype(np.float32))
        caches.append(write_cache(folder / "caches" / f"seed{seed}.h5", cache))
    settings = [f"arms={arms}", "noise=none", "budgets=20", "draws=1"]
    recipe = load_recipe(settings=settings, part="sweep")
    repair(caches, recipe=recipe, results=folder / "results")
    return folder / "results"


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return results_of(tmp_path_factory.mktemp("good"))


@pytest.fixture(scope="module")
def bad(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return results_of(tmp_path_factory.mktemp("bad"), harm=0.8)


def test_a_gate_fails_only_beyond_its_interval(good: Path) -> None:
    value = check_results(good, [parse_gate("accuracy>0")]).gates[0]
    assert value.outcome == "passed" and value.lower < value.value < value.upper
    between, beyond = (value.value + value.upper) / 2, value.upper + 0.01
    found = check_results(
        good, [parse_gate(f"accuracy>{between:.6f}"), parse_gate(f"accuracy>{beyond:.6f}")]
    )
    assert [gate.outcome for gate in found.gates] == ["unclear", "failed"] and not found.passed
    below = parse_gate(f"ece<{1e-9}")
    assert check_results(good, [below]).gates[0].outcome in ("failed", "unclear")


def test_a_fall_is_found_in_pairs_and_no_fall_is_not(good: Path, bad: Path) -> None:
    gates = [parse_gate("accuracy>0.01")]
    same = check_results(good, gates, against=good)
    assert {change.outcome for change in same.changes} == {"held"} and same.passed
    assert all(change.difference == 0 for change in same.changes)
    fell = check_results(bad, gates, against=good)
    outcomes = {change.figure: change.outcome for change in fell.changes}
    assert outcomes["accuracy"] == "fell" and not fell.passed
    rose = check_results(good, gates, against=bad)
    assert {change.outcome for change in rose.changes} == {"held"} and rose.passed


def test_runs_that_are_compared_with_none_are_said(good: Path, tmp_path: Path) -> None:
    fewer = results_of(tmp_path, seeds=1)
    assert check_results(good, [], against=good).notes == ()
    for now, before, counts in ((good, fewer, (2, 1)), (fewer, good, (1, 2))):
        (note,) = check_results(now, [], against=before).notes
        assert note.startswith(f"1 runs of the {counts[0]} now and the {counts[1]} before have")


def test_a_gap_that_grew_in_every_run_fell_and_one_run_alone_says_nothing(good: Path) -> None:
    """Slices of results are made by hand: the gap is that of the table, its change of the runs."""
    from trustq.analysis.gates import _gap_change, _Pairs, _read

    runs = _read(good, Stored()).runs
    assert {run.gap for run in runs} == {None}

    def pairs(now: list[float], before: list[float], draws: int = 1) -> _Pairs:
        sides = [
            [
                replace(runs[0], gap=gap, backbone_seed=i // draws, draw_seed=i % draws)
                for i, gap in enumerate(gaps)
            ]
            for gaps in (now, before)
        ]
        return _Pairs(("a", "b"), *sides)

    grew = _gap_change(pairs([0.30, 0.32, 0.31], [0.10, 0.11, 0.10]))
    assert grew is not None and grew.outcome == "fell"
    assert grew.difference == pytest.approx(0.62 / 3) and grew.lower > 0.17
    shrank = _gap_change(pairs([0.10, 0.11, 0.10], [0.30, 0.32, 0.31]))
    assert shrank is not None and shrank.outcome == "held"
    # Nine runs of two networks, whose gaps fell by .2 and by .1: two units, and not nine.
    two = _gap_change(pairs([0.30, 0.31, 0.29] * 2 + [0.2, 0.21, 0.19], [0.1] * 9, draws=6))
    assert two is not None and two.outcome == "held" and two.lower < 0
    alone = _gap_change(pairs([0.5], [0.1]))
    assert alone is not None and alone.outcome == "held" and np.isnan(alone.lower)
    assert _gap_change(_Pairs(("a", "b"), runs, runs)) is None


def test_the_command_exits_with_the_outcome_and_keeps_a_history(
    good: Path, bad: Path, tmp_path: Path
) -> None:
    runner, history = CliRunner(), tmp_path / "history.csv"
    asked = ["--gate", "accuracy>.01", "--history", str(history)]
    first = runner.invoke(app, ["check", str(good), *asked], catch_exceptions=False)
    assert first.exit_code == 0 and first.stdout.rstrip().endswith("passed")
    second = runner.invoke(
        app, ["check", str(bad), *asked, "--against", str(good), "--json"], catch_exceptions=False
    )
    assert second.exit_code == 1
    assert json.loads(second.stdout)["passed"] is False
    rows = list(csv.DictReader(io.StringIO(history.read_text("utf-8"))))
    assert [row["passed"] for row in rows] == ["True", "False"]
    assert float(rows[0]["milliseconds_per_row"]) > 0 and float(rows[0]["head_bytes"]) > 0
    assert float(rows[1]["accuracy"]) < float(rows[0]["accuracy"])


def test_class_gates_know_their_class_and_their_change(good: Path, bad: Path) -> None:
    names = json.loads(
        CliRunner()
        .invoke(
            app,
            ["sql", "SELECT classes FROM runs LIMIT 1", "--results", str(good), "--format", "json"],
        )
        .stdout
    )[0]["classes"]
    name = json.loads(names)[0]
    gates = [
        parse_gate(f"{figure}[{name}]>0")
        for figure in ("recall", "specificity", "sensitivity_at_95_specificity")
    ]
    found = check_results(bad, gates, against=good)
    assert [gate.outcome for gate in found.gates] == ["passed"] * 3
    changed = {change.figure: change for change in found.changes}
    assert changed[f"recall[{name}]"].difference < 0
    with pytest.raises(TrustqError, match="unknown class 'melanoma'"):
        check_results(good, [parse_gate("recall[melanoma]>.5")])


@pytest.mark.parametrize(
    "text, message",
    [
        (
            "ece=.05",
            "'ece=.05' is not a gate. Write FIGURE, an optional [CLASS], a sign and a number, e.g. "
            "ece<.05 or recall[mel]>.6.",
        ),
        ("recall>.5", "gate 'recall>.5': recall needs a class in brackets, e.g. recall[mel]>.6."),
        (
            "ece<5",
            "gate 'ece<5': ece lies from 0 to 1, so this gate says nothing; expected a bound such "
            "as ece<.05.",
        ),
        (
            "recall[mel]>=70",
            "gate 'recall[mel]>=70': recall lies from 0 to 1, so this gate says nothing; expected "
            "a bound such as recall[mel]>.6.",
        ),
        (
            "accuracy>0.9.1",
            "'accuracy>0.9.1' is not a gate. Write FIGURE, an optional [CLASS], a sign and a "
            "number, e.g. ece<.05 or recall[mel]>.6.",
        ),
        ("ece[mel]<.5", "gate 'ece[mel]<.5': ece is of all classes, e.g. ece<.05."),
    ],
)
def test_what_is_no_gate_is_told(text: str, message: str) -> None:
    with pytest.raises(TrustqError) as error:
        parse_gate(text)
    assert str(error.value) == message


def test_several_setups_are_not_mixed_and_parity_names_what_differs(tmp_path: Path) -> None:
    folder = results_of(tmp_path, arms="none,random")
    with pytest.raises(TrustqError, match="setups, which differ in arm_title"):
        check_results(folder, [parse_gate("accuracy>0")])
    one = check_results(folder, [parse_gate("accuracy>0")], stored=Stored(where="arm = 'none'"))
    assert one.n_runs == 2
    assert parity(folder, allowed=["budget", "n_rounds"]) == {}
    repaired = load_recipe(
        settings=["arms=random", "noise=none", "budgets=20", "draws=1", "folds=4"], part="sweep"
    )
    from trustq.store import read_cache

    repair([read_cache(tmp_path / "caches" / "seed0.h5")], recipe=repaired, results=folder)
    assert "n_folds" in parity(folder, allowed=["budget", "n_rounds"])
    result = CliRunner().invoke(
        app, ["check", str(folder), "--parity", "--may-differ", "budget,n_rounds"]
    )
    assert result.exit_code == 1 and "Parity: failed" in result.stdout
    words = ["check", str(folder), "--gate", "accuracy>.1", "--may-differ", "budget"]
    found = CliRunner().invoke(app, words)
    assert found.exit_code == 1
    assert "--may-differ is of --parity, which is not checked" in found.stderr


# --- checklists ----------------------------------------------------------------------------------


def test_at_least_15_tripod_items_are_filled_from_records_alone(good: Path, tmp_path: Path) -> None:
    found = checklist("tripod-ai", good)
    assert found.n_items == 27 and found.n_reported >= 15
    for item in found.items:
        assert (item.status == REPORTED) == bool(item.value and item.evidence)
    assert {item.number: item.status for item in found.items}["17"] == MISSING
    for name in ("a.html", "a.md", "a.json"):
        write_checklist(found, tmp_path / name)
    assert json.loads((tmp_path / "a.json").read_text())["n_reported"] == found.n_reported
    assert "not a medical device" in checklist_markdown(found)


def test_nothing_is_claimed_that_no_record_shows(good: Path, tmp_path: Path) -> None:
    found = {item.number: item for item in checklist("deployment", good).items}
    for number in ("1", "2", "5", "10", "11", "12", "13"):
        assert found[number].status == MISSING, number
    statements = tmp_path / "statements.toml"
    statements.write_text('[deployment]\n1 = "research"\n13 = "not applicable: never deployed"\n')
    (tmp_path / "check.json").write_text(
        json.dumps(check_results(good, [parse_gate("accuracy>0")]).record)
    )
    found = {
        item.number: item
        for item in checklist(
            "deployment", good, statements=statements, files=[tmp_path / "check.json"]
        ).items
    }
    assert found["1"].evidence == f"stated in {statements}"
    assert found["13"].status == "not applicable"
    assert found["12"].value == "1 gates, passed"
    with pytest.raises(TrustqError, match="'99' is no item of deployment"):
        statements.write_text('[deployment]\n99 = "x"\n')
        checklist("deployment", good, statements=statements)


def test_the_claim_names_the_floor_and_the_labels_counted(good: Path) -> None:
    found = {item.number: item for item in checklist("claim", good).items}
    assert found["5"].value.startswith("2 networks, 1 draw")
    assert "clean validation labels" in found["6"].value
    assert found["10"].status == MISSING
