"""Settings are declared once: what follows from it, and that no table merges two of them."""

import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from trustq.analysis.main_table import main_table
from trustq.analysis.repair_table import repair_table
from trustq.analysis.significance import results_seed_tables
from trustq.recipes.schema import LAST_SEED, sweep_settings
from trustq.report import page, plot_set
from trustq.report.bundle import QUERIES
from trustq.results import TABLES, connect, run_query, write_part
from trustq.results.schema import (
    EXPERIMENT,
    MATCHED,
    OF_ARM,
    PROBLEM,
    PURCHASE,
    RUNS,
    SETTINGS,
)

_VALUES: dict[str, Any] = {"VARCHAR": ("one", "two"), "INTEGER": (1, 2), "DOUBLE": (0.1, 0.2)}
_VALUES["BOOLEAN"] = (False, True)
_TOLD = [name for name in SETTINGS if name not in (*OF_ARM, "noise_process")]


def write_two(
    folder: Path, changed: str, *, arms: tuple[str, ...] = ("entropy",), value_of_b: float = 0.5
) -> list[str]:
    """Two runs of each arm that differ in one column, with a metric of each kind."""
    runs, rounds, metrics = [], [], []
    for key, arm in [(key, arm) for key in ("a", "b") for arm in arms]:
        run = {name: _VALUES[RUNS[name].sql][0] for name in SETTINGS}
        run |= {"score": arm, "arm": arm, "arm_title": arm, "source": "head"}
        run |= {"head_settings": "{}", "policy": None, "dataset": "one", "budget": "5%"}
        name = key if len(arms) == 1 else f"{key}-{arm}"
        # With one shared key, what tells two settings apart in a pair is the settings alone.
        shared = key if len(arms) == 1 else "s"
        facts = {"key": name, "recipe": "r", "shared_key": shared, "cache_digest": "c"}
        facts |= {"origin_digest": "c", "backbone_seed": 0, "draw_seed": 0, "n_rounds_done": 1}
        facts |= dict.fromkeys(("n_train", "n_wrong_start", "n_trusted", "n_bought"), 4)
        facts |= dict.fromkeys(("n_clean_validation", "n_votes", "errors_findable"), 3)
        facts |= {"noise_rate": 0.2, "spent": 4.0, "seconds": 0.1}
        if key == "b":
            json_texts = {"policy": '{"raters": 3}', "head_settings": '{"trees": 5}'}
            run[changed] = json_texts.get(changed, _VALUES[RUNS[changed].sql][1])
        runs.append(run | facts)
        value = 0.5 if key == "a" else value_of_b
        value += 0.1 * arms.index(arm)
        rounds.append({"run": name, "round": 1, "n_bought_total": 4, "errors_found_total": 1})
        rounds[-1] |= {"n_flagged_total": 4, "noise_left": 0.1}
        for split in ("test", "external"):
            place = {"run": name, "round": 1, "is_final": True, "stage": "uncalibrated", "n": 5}
            place |= {"eval_dataset": "one" if split == "test" else "far", "split": split}
            for metric in ("accuracy", "macro_f1", "ece", "nll", "aurc", "augrc", "brier"):
                metrics.append(place | {"metric": metric, "value": value})
            metrics.append(place | {"metric": "recall", "value": 0.5, "class_name": "mel"})
            metrics.append(
                place | {"metric": "accuracy", "value": 0.5, "slice_name": "s", "slice_value": "x"}
            )
            metrics.append(place | {"metric": "fpr_gap", "value": 0.5, "slice_name": "s"})
    tables = {"runs": runs, "rounds": rounds, "metrics": metrics}
    write_part(folder, {name: _columns(rows) for name, rows in tables.items()}, part="p")
    return ["a", "b"]


def _columns(rows: list[dict[str, Any]]) -> dict[str, np.ndarray]:
    names = dict.fromkeys(name for row in rows for name in row)
    return {name: np.array([row.get(name) for row in rows], dtype=object) for name in names}


@pytest.mark.parametrize("changed", _TOLD)
def test_two_runs_that_differ_in_a_setting_share_no_row(changed: str, tmp_path: Path) -> None:
    keys = write_two(tmp_path, changed)
    where = "is_final AND metric = 'accuracy' AND split = 'test' AND slice_name IS NULL"
    for view in ("seeds", "curves", "leaderboard"):
        condition = where.replace("is_final AND ", "") if view == "leaderboard" else where
        found = run_query(tmp_path, f"SELECT * FROM {view} WHERE {condition}").rows
        assert len(found) == 2, view
    with connect(tmp_path) as connection:
        queries = {"ledger": page._LEDGER, "classes": page._CLASSES, "shift": page._SHIFT}
        queries |= {"slices": page._SLICES, "gaps": page._GAPS}
        if changed in EXPERIMENT or changed == "refit":
            queries["run"] = page._RUN
        connection.execute(page._NUMBERED)
        for name, query in queries.items():
            rows = connection.execute(query).fetchall()
            assert len(rows) in (2, 4), name  # of one or of two evaluations
            shown = page._texts(page._telling(page._answer(connection, query)))["rows"]
            assert len({tuple(row) for row in shown}) == len(rows), name
    rows = main_table(tmp_path, stage="uncalibrated").rows
    assert len({tuple(row.texts.items()) for row in rows}) == len(rows) == 2
    with connect(tmp_path) as connection:
        n_sets = plot_set.count_sets(connection)
    assert n_sets == (1 if changed in ("budget", "exposure") else 2)
    if changed not in ("calibration_labels", "refit"):
        table = repair_table(tmp_path, keys)
        own = [record for record in table.records if record["split"] == "test"]
        assert len(own) == 2
        assert len({tuple(map(str, row.values())) for row in table.rows}) == len(table.rows)
        if changed != "budget":
            assert table.caption.count("training labels") == 2


@pytest.mark.parametrize("changed", [name for name in OF_ARM if name not in ("arm", "score")])
def test_what_is_known_of_an_arm_parts_rows_too(changed: str, tmp_path: Path) -> None:
    write_two(tmp_path, changed)
    where = "metric = 'accuracy' AND split = 'test' AND slice_name IS NULL AND is_final"
    for view in ("seeds", "curves"):
        assert len(run_query(tmp_path, f"SELECT * FROM {view} WHERE {where}").rows) == 2, view
    with connect(tmp_path) as connection:
        connection.execute(page._NUMBERED)
        for query in (page._LEDGER, page._CLASSES, page._SHIFT, page._SLICES, page._GAPS):
            assert len(connection.execute(query).fetchall()) in (2, 4)
    assert len(main_table(tmp_path, stage="uncalibrated").rows) == 2


_PAIRED = [name for name in dict.fromkeys((*MATCHED, *PURCHASE, "exposure")) if name in _TOLD]


@pytest.mark.parametrize("changed", _PAIRED)
def test_pairs_and_places_of_two_settings_are_their_own(changed: str, tmp_path: Path) -> None:
    write_two(tmp_path, changed, arms=("entropy", "random"), value_of_b=0.7)
    overall = "metric = 'accuracy' AND split = 'test' AND slice_name IS NULL"
    for unit in ("draw_seed", "backbone_seed"):
        pairs = run_query(
            tmp_path,
            f"SELECT {changed}, n, mean_difference FROM paired WHERE {overall} AND "
            f"arm = 'random' AND baseline = 'entropy' AND unit = '{unit}'",
        ).rows
        assert len(pairs) == len({row[0] for row in pairs}) == 2
        assert {row[1] for row in pairs} == {1}
        if changed != "exposure":  # which is of the arm alone: its baseline may have another
            np.testing.assert_allclose([row[2] for row in pairs], 0.1)
    places = run_query(tmp_path, f"SELECT place, arm FROM leaderboard WHERE {overall}").rows
    one_question = changed not in PROBLEM
    assert sorted(row[0] for row in places) == ([1, 2, 3, 4] if one_question else [1, 1, 2, 2])
    with connect(tmp_path) as connection:
        for name in ("ledger", "paired"):
            found = connection.execute(QUERIES[name]).fetchall()
            assert len(found) == len(set(map(str, found))) >= 4, name
    if changed not in ("exposure", "calibration_labels"):
        tables = results_seed_tables(tmp_path, arms=["random", "entropy"], stage="uncalibrated")
        assert len(tables) == 4
        assert len({table.evaluation for table in tables}) >= 2


_DUMMY = """
import dataclasses
from pathlib import Path
import sys
from trustq import recipes
from trustq.recipes import schema

@dataclasses.dataclass(frozen=True)
class WithDummy(schema.SweepRecipe):
    dummy: int = schema.setting(3, "what a dummy does", least=1, most=9)

WithDummy.__name__ = "SweepRecipe"
schema.SweepRecipe = recipes.SweepRecipe = recipes._PARTS["sweep"] = WithDummy
schema.Recipe.__dataclass_fields__["sweep"].default_factory = WithDummy
"""


def test_a_setting_that_is_only_declared_is_everywhere(tmp_path: Path) -> None:
    script = tmp_path / "dummy.py"
    tests = Path(__file__).parent
    script.write_text(
        f"import sys; sys.path.insert(0, {str(tests)!r})\n"
        + _DUMMY
        + textwrap.dedent(
            """
            from support import make_cache
            from typer.testing import CliRunner
            from trustq.analysis.main_table import format_main_table, main_table
            from trustq.cli import app
            from trustq.experiments import repair
            from trustq.recipes import load_recipe, load_sweep
            from trustq.report import repair_table
            from trustq.report.page import write_report
            from trustq.results import run_query

            out, cache = Path(sys.argv[1]), make_cache()
            keys = []
            for text in ("dummy=3", "dummy=7"):
                recipe = load_recipe(
                    part="sweep",
                    settings=[text, "arms=none,random", "noise=symmetric:0.2", "folds=2",
                              "head=centroid"],
                )
                keys += repair([cache], recipe=recipe, results=out).keys
            assert len(set(keys)) == len(keys), "keys"
            found = run_query(out, "SELECT dummy, count(*) FROM runs GROUP BY 1 ORDER BY 1").rows
            assert [row[0] for row in found] == [3, 7], found
            for view in ("seeds", "curves", "paired", "leaderboard", "metric_values"):
                assert "dummy" in run_query(out, f"SELECT * FROM {view} LIMIT 0").columns, view
            table = repair_table(out, keys)
            assert "dummy 7" in table.caption and {row["dummy"] for row in table.rows} == {3, 7}
            assert "dummy" in format_main_table(main_table(out)).splitlines()[0]
            write_report(out, out / "page.html")
            text = (out / "page.html").read_text()
            assert "dummy 7" in text and ">dummy<" in text
            run = CliRunner().invoke
            assert "--dummy" in run(app, ["repair", "--help"]).stdout
            assert "sweep.dummy" in run(app, ["recipes", "keys", "sweep"]).stdout
            shown = run(app, ["recipes", "show", "--changed", "--set", "dummy=7"]).stdout
            assert "sweep.dummy" in shown and "7" in shown
            try:
                load_sweep("", settings=["dummy=10"])
            except Exception as error:
                assert "dummy is 10, expected 1 to 9." in str(error)
            else:
                raise AssertionError("out of range")
            """
        )
    )
    done = subprocess.run(
        [sys.executable, str(script), str(tmp_path / "r")], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-2000:]


def test_every_declaration_is_of_a_kind_that_is_known() -> None:
    for setting in sweep_settings():
        assert setting.column is None or setting.column in TABLES["runs"]
        assert not setting.role or setting.column is not None
        setting.check(setting.default)
    assert set(PURCHASE) <= set(SETTINGS) and max(LAST_SEED, 0) == 2**31 - 1
