"""Significance tables: the published one reproduced, the forms they are printed in."""

import csv
import io
import json
from pathlib import Path

import numpy as np
import pytest
from support_cli import invoke

from trustq.analysis.main_table import main_table
from trustq.analysis.significance import (
    SeedTable,
    default_metrics,
    format_significance,
    read_seed_table,
    results_seed_tables,
    significance,
)
from trustq.errors import TrustqError

ROOT = Path(__file__).resolve().parents[1]
REFERENCE = ROOT.parent / "shared" / "reference" / "trustquerynet"
needs_reference = pytest.mark.skipif(not REFERENCE.is_dir(), reason="no ../shared/reference")

INTERNAL = {
    "Repair": "repair",
    "No repair": "no-repair",
    "Random repair": "random-repair",
    "GCE no repair": "gce-no-repair",
}
EXTERNAL = {
    "Repair": "repair-external-isic2019-test",
    "No repair": "no-repair-external-isic2019-test",
    "Random repair": "random-repair-external-isic2019-test",
}
METRICS = ["test_cal_macro_f1", "test_cal_accuracy"]


def published_arguments():
    return [
        f"{evaluation}:{name}={REFERENCE / file}.csv"
        for evaluation, files in (("internal", INTERNAL), ("external", EXTERNAL))
        for name, file in files.items()
    ]


@needs_reference
def test_the_command_reproduces_every_row_of_the_published_table():
    arguments = ["significance", *published_arguments(), "--metrics", ",".join(METRICS)]
    answer = invoke("export", [*arguments, "--format", "csv"])
    assert answer.exit_code == 0, answer.output
    found = {
        (row["evaluation"], f"{row['a']} vs {row['b']}".lower(), row["metric"]): row
        for row in csv.DictReader(io.StringIO(answer.stdout))
    }
    with open(REFERENCE / "paired_significance.csv", newline="") as file:
        published = list(csv.DictReader(file))
    assert len(published) == len(found) == 10
    for row in published:
        own = found[row["split"], row["comparison"].lower(), row["metric_key"]]
        assert int(own["n"]) == int(row["n_pairs"]) and own["seeds"] == row["shared_seeds"]
        for mine, theirs, close in (
            ("mean_a", "lhs_mean", 1e-12),
            ("mean_b", "rhs_mean", 1e-12),
            ("difference", "mean_difference", 1e-12),
            ("p_value", "p_value", 1e-12),
            ("lower", "ci_lower", 2e-3),
            ("upper", "ci_upper", 2e-3),
        ):
            assert float(own[mine]) == pytest.approx(float(row[theirs]), abs=close), (mine, row)
        assert float(own["floor"]) == 2 / 2 ** int(own["n"])
        # The smallest raw p is .1875, so ten tests leave nothing.
        assert float(own["p_holm"]) == 1.0


@needs_reference
def test_unasked_the_command_takes_the_columns_of_the_published_table():
    named, unasked = (
        invoke("export", ["significance", *published_arguments(), "--format", "csv", *more])
        for more in (["--metrics", ",".join(METRICS)], [])
    )
    assert unasked.exit_code == 0, unasked.output
    assert unasked.stdout == named.stdout


@pytest.mark.parametrize(
    ("columns", "chosen"),
    [
        (["accuracy", "test_accuracy", "ece"], ["accuracy"]),
        (["test_accuracy", "val_accuracy", "accuracy_gain"], ["test_accuracy"]),
        (["uncal_macro_f1", "cal_macro_f1", "accuracy"], ["cal_macro_f1", "accuracy"]),
        (["test_uncal_accuracy", "ece"], ["test_uncal_accuracy"]),
    ],
)
def test_metrics_are_found_by_the_names_of_the_columns(columns, chosen):
    table = SeedTable("a", "", {name: {1: 0.5} for name in columns})
    other = SeedTable("b", "", {name: {1: 0.5} for name in [*columns, "macro_f1"]})
    assert default_metrics([table, other]) == chosen


def test_tables_without_a_known_metric_are_refused():
    a, b = (SeedTable(name, "", {"ece": {1: 0.5}, name: {1: 0.5}}) for name in "ab")
    with pytest.raises(TrustqError) as error:
        default_metrics([a, b])
    assert str(error.value) == (
        "The tables share no column that ends in macro_f1 or accuracy; they share ece. "
        "Name some: `metrics=NAME,NAME`."
    )


def tables(n=3):
    rng = np.random.default_rng(0)
    figures = {arm: dict(enumerate(rng.random(n))) for arm in ("a", "b|x", "c_1")}
    return [SeedTable(arm, "", {"accuracy": own}) for arm, own in figures.items()]


def test_only_shared_seeds_are_paired():
    a = SeedTable("a", "", {"accuracy": {1: 0.5, 2: 0.6, 9: 0.9}})
    b = SeedTable("b", "", {"accuracy": {2: 0.5, 1: 0.3, 3: 0.0}})
    (row,) = significance([a, b], metrics=["accuracy"])
    assert (row.n, row.seeds) == (2, "1,2")
    assert row.left_out == "seeds without a partner: a 9 and b 3"
    assert row.difference == pytest.approx(0.15)
    assert np.isnan(row.effect)


def test_arms_are_paired_within_their_evaluation_and_holm_is_over_all():
    there = [SeedTable(t.arm, "there", t.figures) for t in tables(6)]
    rows = significance([*tables(6), *there], metrics=["accuracy"])
    assert [(row.evaluation, row.a, row.b) for row in rows] == [
        ("", "a", "b|x"),
        ("", "a", "c_1"),
        ("there", "a", "b|x"),
        ("there", "a", "c_1"),
    ]
    smallest = min(rows, key=lambda row: row.p_value)
    assert smallest.p_holm == pytest.approx(min(1, 4 * smallest.p_value))


def test_markdown_and_latex_escape_names_and_state_the_floor():
    rows = significance(tables(), metrics=["accuracy"])
    markdown, latex = (format_significance(rows, form) for form in ("markdown", "latex"))
    assert "| a - b\\|x | accuracy | 3 |" in markdown
    assert "no comparison can have a p below 0.25" in markdown
    assert "Holm over the 2 rows of this table" in markdown
    assert r"a - c\_1 & accuracy & 3" in latex and r"95 \% interval" in latex
    columns = latex.splitlines()[0].count("l") + latex.splitlines()[0].count("r")
    assert latex.splitlines()[2].count("&") == latex.splitlines()[4].count("&") == 9
    assert latex.startswith(r"\begin{tabular}{llrrrrrrrr}") and columns


def test_csv_gives_every_number_back():
    rows = significance(tables(), metrics=["accuracy"])
    read = list(csv.DictReader(io.StringIO(format_significance(rows, "csv"))))
    assert [float(row["difference"]) for row in read] == [row.difference for row in rows]


def test_json_has_null_for_what_is_not_defined(tmp_path):
    for name, value in (("a", 0.5), ("b", 0.25)):
        (tmp_path / f"{name}.csv").write_text(f"seed,accuracy,note\n7,{value},x\n")
    arguments = [f"{name}={tmp_path / name}.csv" for name in ("a", "b")]
    answer = invoke("export", ["significance", *arguments, "--metrics", "accuracy", "--json"])
    (row,) = json.loads(answer.stdout)
    assert (row["difference"], row["lower"], row["p_value"], row["floor"]) == (0.25, None, 1, 1)


def test_arms_of_a_results_folder_are_compared_over_networks(tmp_path):
    write_results(tmp_path)
    found = results_seed_tables(tmp_path, arms=["entropy", "none"], metrics=["accuracy"])
    assert [table.arm for table in found] == ["Entropy", "None"]
    (row,) = significance(found, metrics=["accuracy"])
    assert (row.n, row.unit, row.n_draws) == (2, "network", 3)
    assert row.seeds == "5/1,5/2,5/3,6/1,6/2,6/3"
    assert row.difference == pytest.approx(0.1) and row.floor == 0.5
    with pytest.raises(TrustqError) as error:
        results_seed_tables(tmp_path, arms=["random"])
    assert str(error.value) == (
        f"{tmp_path} has no final calibrated figures of arm 'random' on test rows."
    )


def test_purchases_are_compared_each_for_itself(tmp_path):
    write_results(tmp_path)
    write_results(tmp_path, arms=(("entropy", 0.3),), n_rounds=4)
    found = results_seed_tables(tmp_path, arms=["entropy", "none"], metrics=["accuracy"])
    rows = significance(found, metrics=["accuracy"])
    assert {row.evaluation: round(row.difference, 9) for row in rows} == {
        "n_rounds 1": 0.1,
        "n_rounds 4": 0.3,
    }


def test_values_of_any_column_are_compared_and_say_what_else_they_differ_in(tmp_path):
    write_results(tmp_path, noise="stored", trusted=0.1, cache_recipe="noisy")
    write_results(tmp_path, noise="none", trusted=0.0, cache_recipe="clean", shift=0.05)
    asked = {"arms": ["clean", "noisy"], "by": "cache_recipe", "metrics": ["accuracy"]}
    found = results_seed_tables(tmp_path, **asked)
    rows = significance(found, metrics=["accuracy"])
    assert {row.evaluation for row in rows} == {"arm entropy", "arm none"}
    for row in rows:
        assert row.a == "clean (noise none, trusted 0.0)"
        assert row.b == "noisy (noise stored, trusted 0.1)"
        assert row.difference == pytest.approx(0.05)
    one = results_seed_tables(tmp_path, **asked, where="arm = 'none'")
    assert [table.evaluation for table in one] == ["", ""]
    with pytest.raises(TrustqError) as error:
        results_seed_tables(tmp_path, arms=["a", "b"], by="hed")
    assert str(error.value) == "runs have no column 'hed'; did you mean head?"


def test_an_extra_network_of_one_arm_is_named_and_changes_nothing(tmp_path):
    write_results(tmp_path, arms=(("entropy", 0.1),))
    write_results(tmp_path, arms=(("random", 0.0),), seeds=(5, 6, 9))
    (row,) = significance(
        results_seed_tables(tmp_path, arms=["entropy", "random"], metrics=["accuracy"]),
        metrics=["accuracy"],
    )
    assert row.difference == pytest.approx(0.1) and row.n == 2
    assert row.left_out == "Random 9/1, 9/2, 9/3 have no partner (network/draw)"
    assert "Random 9/1, 9/2, 9/3 have no partner" in format_significance([row], "markdown")


def test_runs_on_another_cache_are_no_pair(tmp_path):
    write_results(tmp_path, cache_digest="x")
    write_results(tmp_path / "b", arms=(("entropy", 0.1),), cache_digest="x")
    write_results(tmp_path / "b", arms=(("none", 0.0),), cache_digest="relabelled")
    options = {"arms": ["entropy", "none"], "metrics": ["accuracy"]}
    assert significance(results_seed_tables(tmp_path, **options), metrics=["accuracy"])
    with pytest.raises(TrustqError) as error:
        significance(results_seed_tables(tmp_path / "b", **options), metrics=["accuracy"])
    assert str(error.value) == (
        "Entropy and None share no run of accuracy, so nothing is paired: Entropy and None ran "
        "5/1, 5/2, 5/3, 6/1, 6/2, 6/3 on different caches, which differ in labels, splits or "
        "features, or with different settings before any purchase: these runs are no pair. Compare "
        "arms that ran on the same networks and draws."
    )


@pytest.mark.parametrize("by", ["head", "noise", "calibrator"])
def test_settings_of_one_cache_are_pairs_though_they_share_no_start(tmp_path, by):
    for value, gain in (("p", 0.1), ("q", 0.03)):
        columns = {by: value, "cache_digest": "x", "shared_key": f"start of {value}"}
        write_results(tmp_path, arms=(("none", gain),), **columns)
    tables = results_seed_tables(tmp_path, arms=["p", "q"], by=by, metrics=["accuracy"])
    (row,) = significance(tables, metrics=["accuracy"])
    assert (row.n, row.left_out) == (2, "") and row.difference == pytest.approx(0.07)


def test_a_table_marks_no_mean_of_other_runs(tmp_path):
    write_results(tmp_path / "same")
    alike = main_table(tmp_path / "same", metrics=("accuracy",))
    assert [row.figures["accuracy"].best for row in alike.rows] == [False, True]
    write_results(tmp_path / "other", arms=(("entropy", 0.1),))
    write_results(tmp_path / "other", arms=(("none", 0.0),), seeds=(5, 9))
    other = main_table(tmp_path / "other", metrics=("accuracy",))
    assert not any(row.figures["accuracy"].best for row in other.rows)
    assert other.notes[0] == (
        "Rows are means of other runs, so none is marked as best; runs (network/draw) that not all "
        "rows have: None 9/1, 9/2, 9/3; Entropy 6/1, 6/2, 6/3. Export significance compares the "
        "runs that two arms share."
    )
    write_results(tmp_path / "mixed", cache_digest="x")
    write_results(tmp_path / "mixed", cache_digest="relabelled")
    assert main_table(tmp_path / "mixed", metrics=("accuracy",)).notes[0] == (
        "Means of None, Entropy are over several caches of one network: relabelled or split "
        "otherwise."
    )


def test_another_budget_is_named(tmp_path):
    write_results(tmp_path, arms=(("entropy", 0.1), ("random", 0.0)))
    write_results(tmp_path, arms=(("random", 0.2),), n_rounds=4)
    rows = significance(
        results_seed_tables(tmp_path, arms=["entropy", "random"], metrics=["accuracy"]),
        metrics=["accuracy"],
    )
    assert [row.left_out for row in rows] == [
        "left out, for the other arm is not there: random at n_rounds 4"
    ]


def write_results(
    folder, *, arms=(("entropy", 0.1), ("none", 0.0)), shift=0.0, seeds=(5, 6), **columns
):
    from trustq.results import new_part, write_part

    cells, metrics = [], []
    for arm, gain in arms:
        for backbone in seeds:
            for draw in (1, 2, 3):
                key = f"{arm}-{backbone}-{draw}-{columns}"
                cells.append(
                    {
                        "n_rounds": 1,
                        **columns,
                        "key": key,
                        "arm": arm,
                        "arm_title": arm.title(),
                        "score": arm,
                        "budget": "0" if arm == "none" else "64",
                        "dataset": "d",
                        "backbone_seed": backbone,
                        "draw_seed": draw,
                    }
                )
                metrics.append(
                    {
                        "run": key,
                        "round": 0,
                        "is_final": True,
                        "eval_dataset": "d",
                        "split": "test",
                        "stage": "calibrated",
                        "metric": "accuracy",
                        "value": 0.5 + gain + shift + draw / 100 + backbone / 100,
                        "n": 10,
                    }
                )
    written = {
        name: {key: np.array([row[key] for row in rows]) for key in rows[0]}
        for name, rows in (("metrics", metrics), ("runs", cells))
    }
    write_part(folder, written, part=new_part())


def test_options_that_say_nothing_beside_others_are_refused(tmp_path):
    for name in "ab":
        (tmp_path / f"{name}.csv").write_text("seed,accuracy\n1,0.8\n2,0.7\n")
    files = [f"A={tmp_path}/a.csv", f"B={tmp_path}/b.csv", "--metrics", "accuracy"]
    for options, message in (
        (["--arms", "x,y"], "--arms: not used beside files of seeds, so leave it out."),
        (["--split", "val", "--where", "x"], "--split, --where: not used beside files of seeds"),
        (["--json", "--format", "csv"], "--format: not used beside --json, so leave it out."),
    ):
        answer = invoke("export", ["significance", *files, *options])
        assert answer.exit_code == 1 and message in answer.stderr
    assert invoke("export", ["significance", *files, "--json"]).exit_code == 0


def test_bad_tables_are_refused(tmp_path):
    (tmp_path / "a.csv").write_text("run,accuracy\n1,0.5\n")
    (tmp_path / "b.csv").write_text("seed,accuracy\n1,0.5\n1,0.6\n")
    one = tables()[:1]
    other = SeedTable("z", "", {"accuracy": {99: 0.1}})
    bad = [
        (
            lambda: read_seed_table(tmp_path / "a.csv", arm="a"),
            f"{tmp_path}/a.csv has no column seed; it has run, accuracy: "
            "a seed table has one row per seed.",
        ),
        (
            lambda: read_seed_table(tmp_path / "b.csv", arm="b"),
            f"{tmp_path}/b.csv: seed must hold whole numbers, each once.",
        ),
        (
            lambda: significance(one, metrics=["accuracy"]),
            "a has no other arm to be compared with: pass at least two.",
        ),
        (
            lambda: significance(tables(), metrics=["f1"]),
            "a has no figures of f1; it has accuracy.",
        ),
        (
            lambda: significance([*one, other], metrics=["accuracy"]),
            "a and z share no seed of accuracy: nothing is paired.",
        ),
        (
            lambda: significance([], metrics=["accuracy"]),
            "There is nothing to compare: pass two seed tables and a metric.",
        ),
        (
            lambda: format_significance(significance(tables(), metrics=["accuracy"]), "html"),
            "format is 'html': expected one of markdown, csv, latex.",
        ),
    ]
    for call, message in bad:
        with pytest.raises(TrustqError) as error:
            call()
        assert str(error.value) == message
    for arguments, message in (
        (
            [],
            "There is nothing to compare: name two seed tables (Repair=repair.csv "
            "None=no-repair.csv), or arms of a results folder (--arms self_confidence,none).",
        ),
        (["repair.csv"], "'repair.csv' is not of the form NAME=FILE, e.g. Repair=repair.csv."),
    ):
        answer = invoke("export", ["significance", *arguments])
        assert (answer.exit_code, answer.stderr) == (1, f"Error: {message}\n")


def test_shares_and_percents_are_not_compared_and_seeds_are_found_in_any_case(
    tmp_path: Path,
) -> None:
    for name, scale, head in (("a", 1, "seed"), ("b", 100, "Seed")):
        rows = "".join(f"{seed},{scale * (0.8 + seed / 100)}\n" for seed in range(4))
        (tmp_path / f"{name}.csv").write_text(f"{head},test_accuracy\n{rows}")
    tables = [read_seed_table(tmp_path / f"{name}.csv", arm=name) for name in "ab"]
    with pytest.raises(TrustqError) as error:
        significance(tables, metrics=["test_accuracy"])
    assert str(error.value) == (
        "test_accuracy of b lies above 1, as percents do, and that of a does not: write both as "
        "shares."
    )
    assert tables[1].figures["test_accuracy"][0] == 80
