"""`trustq export`: tables, figures, a database and bundles that say how they were made."""

import csv
import io
import itertools
import json
import re
import shutil
import zipfile
from pathlib import Path

import duckdb
import numpy as np
import pytest
from support_sweep import points_of, trivial_recipe, write_caches
from trustq.cli import app
from typer.testing import CliRunner

from trustq.analysis.main_table import PRESETS, format_main_table, main_table
from trustq.core.digest import digest_bytes
from trustq.errors import TrustqError
from trustq.experiments import plan_sweep, run_sweep
from trustq.metrics.aurc_conventions import aurc_by
from trustq.metrics.ece_conventions import ece_by
from trustq.metrics.selective import augrc, aurc
from trustq.report.bundle import QUERIES, verify_bundle
from trustq.report.plot_set import draw_figures
from trustq.results import run_query, write_part
from trustq.results.digests import write_record


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two backbones, two draws, two heads, three arms, two budgets."""
    folder = tmp_path_factory.mktemp("study")
    caches = write_caches(folder, rows=200, separation=1.2)
    recipe = trivial_recipe(folder, caches, head='["lda", "majority"]', draws="2", rounds="2")
    run_sweep(plan_sweep(points_of(recipe), results=folder / "r"), results=folder / "r", jobs=1)
    return folder / "r"


@pytest.fixture(scope="module")
def bundle(results: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("bundle") / "good.zip"
    done = run("export", "bundle", path, "--results", results)
    with zipfile.ZipFile(path) as file:
        assert done.stdout.split() == file.namelist()
    return path


def run(*words: str | Path):  # type: ignore[no-untyped-def]
    return CliRunner().invoke(app, [str(word) for word in words])


def test_a_table_holds_the_means_of_the_views_and_marks_the_best(results: Path) -> None:
    table = main_table(results, metrics=("accuracy", "aurc"))
    assert list(table.rows[0].texts) == ["head", "budget", "arm", "n"]
    assert len(table.rows) == 2 * 5
    query = """SELECT mean, sd, n FROM seeds WHERE is_final AND split = 'test' AND arm = 'random'
        AND stage = 'calibrated' AND metric = 'accuracy' AND head = 'lda' AND budget = '6'"""
    ((mean, sd, n),) = run_query(results, query).rows
    (row,) = [
        row.figures["accuracy"]
        for row in table.rows
        if (row.texts["head"], row.texts["budget"], row.texts["arm"]) == ("lda", "6", "random")
    ]
    assert (row.mean, row.sd, row.n) == (pytest.approx(mean), pytest.approx(sd), n) and n == 4
    # The oracle is nobody's arm, so another one is marked where it is ahead.
    for metric, best_of in (("accuracy", max), ("aurc", min)):
        means = {
            i: row.figures[metric].mean for i, row in enumerate(table.rows) if not row.is_bound
        }
        best = {i for i, mean in means.items() if mean == best_of(means.values())}
        assert {i for i, row in enumerate(table.rows) if row.figures[metric].best} == best
    assert table.notes[0].startswith("Calibrated figures of test rows; mean ± sd over seeds (2 ba")


def test_the_study_s_columns_stand_in_its_own_convention_beside_ours(results: Path) -> None:
    table = main_table(results, metrics=PRESETS["trustquerynet"])
    wanted = "arm = 'none' AND head = 'lda' AND p.split = 'test' AND p.stage = 'calibrated'"
    query = f"""SELECT run, confidence, predicted <> label AS wrong FROM predictions p
        JOIN runs c ON key = run WHERE {wanted} ORDER BY run"""
    rows = run_query(results, query).rows
    areas = []
    for cell in dict.fromkeys(row[0] for row in rows):
        confidence, wrong = zip(*(row[1:] for row in rows if row[0] == cell), strict=True)
        areas.append(aurc_by("trustquerynet", np.array(wrong), np.array(confidence)))
    (first,) = [
        row for row in table.rows if (row.texts["head"], row.texts["arm"]) == ("lda", "no repair")
    ]
    assert first.figures["aurc:trustquerynet"].mean == pytest.approx(np.mean(areas))
    assert first.figures["aurc:trustquerynet"].mean != first.figures["aurc"].mean


def test_calibration_errors_in_other_conventions_are_of_the_stored_predictions(
    results: Path,
) -> None:
    table = main_table(results, metrics=("ece", "ece:guo", "ece:classwise"))
    query = """SELECT run, label, probabilities, classes FROM predictions p JOIN runs c ON key = run
        WHERE arm = 'none' AND head = 'lda' AND p.split = 'test' AND p.stage = 'calibrated'
        ORDER BY run"""
    rows = run_query(results, query).rows
    (first,) = [
        row for row in table.rows if (row.texts["head"], row.texts["arm"]) == ("lda", "no repair")
    ]
    for name in ("guo", "classwise"):
        errors = []
        for cell in dict.fromkeys(row[0] for row in rows):
            own = [row for row in rows if row[0] == cell]
            labels = np.array([json.loads(row[3]).index(row[1]) for row in own])
            errors.append(ece_by(name, labels, np.array([row[2] for row in own])))
        assert first.figures[f"ece:{name}"].mean == pytest.approx(np.mean(errors), abs=1e-12)
    # Equal-width bins that are closed above: ours and Guo's are one figure but for the first bin.
    assert first.figures["ece:guo"].mean == pytest.approx(first.figures["ece"].mean, abs=1e-9)
    done = run("export", "table", "--metrics", "accuracy,ece:netcal", "--results", results)
    assert done.exit_code == 0 and "ece:netcal ↓" in done.stdout
    done = run("export", "table", "--metrics", "ece:mine", "--results", results)
    assert done.exit_code == 1 and "convention is 'mine'" in done.stderr


def test_formats_carry_the_same_numbers(results: Path) -> None:
    table = main_table(results, metrics=("accuracy", "nll"))
    first = table.rows[0].figures["accuracy"]
    shown = f"{first.mean:.4f} ± {first.sd:.4f}"
    text = format_main_table(table, "csv")
    assert float(list(csv.DictReader(io.StringIO(text)))[0]["accuracy_mean"]) == first.mean
    markdown = format_main_table(table, "markdown").splitlines()
    assert markdown[0] == "| head | budget | arm | n | accuracy ↑ | nll ↓ |"
    assert shown in markdown[2] and "**" in "".join(markdown)
    whole = format_main_table(table, "table")
    narrow = format_main_table(table, "table", width=80)
    assert max(map(len, narrow.splitlines())) <= 80 < max(map(len, whole.splitlines()))
    upper, lower = (block.splitlines() for block in narrow.split("\n\n")[:2])
    assert upper[0].endswith("accuracy ↑") and lower[0].endswith("nll ↓")
    # Each block says of each row what it is.
    start = upper[0].index("accuracy")
    assert [line[:start] for line in upper] == [line[:start] for line in lower]
    # Where that leaves no room for a figure, a row's number stands for it.
    blocks = [b.splitlines() for b in format_main_table(table, "table", width=50).split("\n\n")]
    assert max(map(len, itertools.chain(*blocks))) <= 50
    numbers = ["row", *map(str, range(1, len(table.rows) + 1))]
    assert len(blocks) == 3
    for block in blocks[:-1]:
        assert [line.split()[0] for line in block] == numbers
    cells = {cell for block in blocks[:-1] for line in block for cell in line.split()}
    assert {*shown.split()} <= cells
    latex = format_main_table(table, "latex")
    assert latex.startswith("\\begin{tabular}{llllrr}\n\\toprule\nhead & budget & arm & n & acc")
    assert shown.replace("±", r"$\pm$") in latex and r"\textbf{" in latex
    assert "% Calibrated figures" in latex
    with pytest.raises(
        TrustqError, match=r"^format is 'xml': expected one of markdown, csv, latex"
    ):
        format_main_table(table, "xml")


def test_a_table_that_cannot_be_made_says_what_there_is(results: Path, tmp_path: Path) -> None:
    done = run("export", "table", "--metrics", "accuracy,f7", "--results", results)
    assert (done.exit_code, done.stdout) == (1, "")
    assert done.stderr.startswith(f"Error: {results} has no f7 of test rows, only accuracy, augrc")
    done = run("export", "table", "--preset", "mine", "--results", results)
    assert done.stderr == "Error: There is no preset 'mine', only trustquerynet.\n"
    done = run("export", "table", "--split", "external", "--results", results)
    assert done.stderr.endswith("has no final uncalibrated figures of external rows.\n")
    write_part(tmp_path, {"runs": {"key": np.array(["a"])}}, part="p")
    with pytest.raises(TrustqError, match="has no final uncalibrated figures of out_of_fold rows"):
        main_table(tmp_path)


def test_the_command_prints_or_writes(results: Path, tmp_path: Path) -> None:
    printed = run("export", "table", "--results", results).stdout
    out = tmp_path / "table.md"
    assert run("export", "table", "--results", results, "--out", out).stdout == ""
    assert out.read_text() == printed
    rows = json.loads(run("export", "table", "--json", "--results", results).stdout)
    assert rows[0]["accuracy"]["n"] == 4


def test_places_on_the_leaderboard_follow_the_direction_of_the_metric(results: Path) -> None:
    query = """SELECT metric, mean FROM leaderboard WHERE split = 'test' AND stage = 'calibrated'
        AND metric IN ('accuracy', 'aurc') ORDER BY metric, place"""
    rows = run_query(results, query).rows
    accuracy = [mean for metric, mean in rows if metric == "accuracy"]
    area = [mean for metric, mean in rows if metric == "aurc"]
    assert len(accuracy) == len(area) == 10
    assert accuracy == sorted(accuracy, reverse=True) and area == sorted(area)


def test_selective_figures_in_sql_are_those_of_python(tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    n, expected = 500, {}
    keys = np.array([f"c{i}" for i in range(8)], dtype=object)
    confidence = rng.random((8, n)) ** 0.3
    confidence[1] = confidence[1].round(1)  # many ties
    confidence[2] = 0.5  # one block
    confidence[3] = confidence[3].astype(np.float32)
    wrong = rng.random((8, n)) > confidence
    wrong[4], wrong[5] = False, True
    for key, c, w in zip(keys, confidence, wrong, strict=True):
        expected[key] = (aurc(w, c), augrc(w, c), n, w.mean())
    predictions = {
        "run": np.repeat(keys, n),
        "round": np.zeros(8 * n, int),
        "split": np.full(8 * n, "test", object),
        "label": np.full(8 * n, "nv", object),
        "predicted": np.array(["nv", "mel"], object)[wrong.ravel().astype(int)],
        "confidence": confidence.ravel(),
    }
    write_part(tmp_path, {"runs": {"key": keys}, "predictions": predictions}, part="p")
    query = "SELECT run, aurc, augrc, n, error_rate FROM selective"
    found = {row[0]: row[1:] for row in run_query(tmp_path, query).rows}
    for key in keys:
        assert found[key] == pytest.approx(expected[key], abs=1e-12), key


def test_selective_figures_are_those_that_cells_store_where_confidence_is_exact(
    results: Path,
) -> None:
    query = """SELECT max(abs(s.augrc - m.value)) FROM selective s JOIN metrics m
        USING (run, round, eval_dataset, split, stage) JOIN runs c ON c.key = run
        WHERE m.metric = 'augrc' AND c.head = 'lda'"""
    assert run_query(results, query).rows[0][0] < 1e-9


def test_a_database_is_an_ordinary_duckdb_file(results: Path, tmp_path: Path) -> None:
    out = tmp_path / "r.duckdb"
    assert run("export", "db", out, "--results", results).exit_code == 0
    query = "SELECT * FROM metrics JOIN runs ON key = run ORDER BY ALL"
    means = "SELECT arm, head, metric, round(mean, 9) FROM seeds WHERE is_final ORDER BY ALL"
    with duckdb.connect(str(out), read_only=True) as connection:
        for asked in (query, means):
            assert connection.execute(asked).fetchall() == run_query(results, asked).rows
        names = {row[0] for row in connection.execute("SHOW TABLES").fetchall()}
    assert {"runs", "metrics", "paired", "leaderboard", "selective", "failures"} <= names
    assert [path.name for path in tmp_path.iterdir()] == ["r.duckdb"]


def test_figures_are_drawn_once_per_problem_as_png_and_svg(results: Path, tmp_path: Path) -> None:
    drawn = draw_figures(results, tmp_path)
    names = {path.name for path in drawn}
    assert len(names) == 2 * 5 * 2  # two heads, five figures, two formats
    for name in ("repair_curve", "budget_gain", "score_comparison", "risk_coverage", "reliability"):
        assert {f"lda__{name}.png", f"majority__{name}.svg"} <= names
    for path in drawn:
        head = path.read_bytes()[:8]
        assert head.startswith(b"\x89PNG" if path.suffix == ".png" else b"<?xml"), path
    svg = (tmp_path / "lda__budget_gain.svg").read_text()
    assert svg.count("Research only, not a medical device.") == 1


def test_a_bundle_is_verified_against_the_parts(results: Path, bundle: Path) -> None:
    with zipfile.ZipFile(bundle) as file:
        names = file.namelist()
    assert {"bundle.json", "tables/main.md", "queries/paired.sql"} <= set(names)
    assert len([name for name in names if re.match(r"recipes/trivial-\w{8}\.json", name)]) == 1
    done = run("bundle", "verify", bundle, "--results", results)
    assert done.exit_code == 0, done.output
    n_tables = len(QUERIES)
    assert done.stdout == (
        f"{bundle}: {len(names)} files as written; {n_tables} tables of 40 runs "
        f"come out the same from {results}\n"
    )


def changed(source: Path, target: Path, **members: bytes | None) -> Path:
    """A copy of a bundle with some members replaced, or left out."""
    by_name = {name.replace("__", "/").replace("_dot_", "."): d for name, d in members.items()}
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w") as new:
        for name in dict.fromkeys([*old.namelist(), *by_name]):
            data = by_name[name] if name in by_name else old.read(name)
            if data is not None:
                new.writestr(name, data)
    return target


def forged(source: Path, target: Path, **members: bytes | None) -> Path:
    """A changed bundle whose index says that it was always so."""
    changed(source, target, **members)
    with zipfile.ZipFile(target) as file:
        index = json.loads(file.read("bundle.json"))
        names = [name for name in file.namelist() if name != "bundle.json"]
        index["digests"] = {name: digest_bytes(file.read(name)) for name in names}
    return changed(source, target, **members, bundle_dot_json=json.dumps(index).encode())


def test_a_bundle_whose_digests_were_made_to_fit_is_caught_by_the_parts(
    results: Path, bundle: Path, tmp_path: Path
) -> None:
    good, other = bundle, tmp_path / "other.zip"
    with pytest.raises(TrustqError) as caught:
        verify_bundle(forged(good, other, tables__main_dot_md=b"better\n"), results)
    assert str(caught.value) == (
        f"{other}: tables/main.md is not the table that {results} gives now, though the figures "
        "behind it are the same."
    )
    for lost in ("tables__seeds_dot_csv", "queries__seeds_dot_sql"):
        with pytest.raises(TrustqError) as caught:
            verify_bundle(forged(good, other, **{lost: None}), results)
        assert str(caught.value) == (
            f"{other} holds only one of tables/seeds.csv and the query that made it, so the parts "
            "cannot be compared with it. Write it again."
        )
    empty = {"format": "trustq.bundle", "format_version": 2, "digests": {}}
    with zipfile.ZipFile(other, "w") as file:
        file.writestr("bundle.json", json.dumps(empty))
    with pytest.raises(TrustqError, match=r"other\.zip holds only one of tables/runs\.csv and the"):
        verify_bundle(other, results)


@pytest.mark.parametrize(
    ("table", "change"),
    [
        ("predictions", "confidence = confidence / 2"),
        ("queries", "label_after = label_before"),
        ("metrics", "value = value + 0.01"),
        ("rounds", "errors_found_total = errors_found_total + 1"),
    ],
)
def test_a_part_that_was_changed_is_noticed(
    results: Path, bundle: Path, tmp_path: Path, table: str, change: str
) -> None:
    folder = Path(shutil.copytree(results, tmp_path / "r"))
    part = sorted((folder / table).glob("*.parquet"))[0]
    with duckdb.connect() as connection:
        connection.execute(f"CREATE TABLE t AS FROM '{part}'")
        connection.execute(f"UPDATE t SET {change}")
        connection.execute(f"COPY t TO '{part}' (FORMAT parquet)")
    with pytest.raises(TrustqError, match="is damaged: "):
        verify_bundle(bundle, folder)
    # Whoever changes a part may change its digests as well.
    files = {path.parent.name: path for path in folder.glob(f"*/{part.name}")}
    write_record(folder, part.stem, files)
    said = rf"good\.zip: tables/\w+\.csv, row \d+: .+ is .+, and {folder} now gives"
    with pytest.raises(TrustqError, match=said):
        verify_bundle(bundle, folder)


def test_a_bundle_runs_no_query_of_its_own_and_hides_nothing(
    results: Path, bundle: Path, tmp_path: Path
) -> None:
    good, other = bundle, tmp_path / "other.zip"
    with pytest.raises(TrustqError, match=r"queries/seeds\.sql is not the query of this trustq"):
        verify_bundle(forged(good, other, queries__seeds_dot_sql=b"SELECT 1\n"), results)
    with pytest.raises(TrustqError, match=r"holds notes\.txt, which no bundle has"):
        verify_bundle(forged(good, other, notes_dot_txt=b"x"), results)
    shutil.copy(good, other)
    with pytest.warns(UserWarning, match="Duplicate"), zipfile.ZipFile(other, "a") as file:
        file.writestr("tables/main.md", b"better")
    with pytest.raises(TrustqError, match=r"it holds tables/main\.md twice"):
        verify_bundle(other, results)


def test_a_bundle_that_was_touched_or_is_of_other_results_is_refused(
    results: Path, bundle: Path, tmp_path: Path
) -> None:
    good, other = bundle, tmp_path / "other.zip"
    with pytest.raises(TrustqError, match=r"other\.zip: tables/main\.md was changed after the bun"):
        verify_bundle(changed(good, other, tables__main_dot_md=b"better"), results)
    with pytest.raises(
        TrustqError, match=r"other\.zip lacks tables/main\.md, which its bundle\.js"
    ):
        verify_bundle(changed(good, other, tables__main_dot_md=None), results)
    with pytest.raises(
        TrustqError, match=r"other\.zip holds extra\.txt, which its bundle\.json do"
    ):
        verify_bundle(changed(good, other, extra_dot_txt=b"x"), results)
    newer = json.dumps({"format": "trustq.bundle", "format_version": 9, "digests": {}}).encode()
    with pytest.raises(TrustqError, match=r"other\.zip is a bundle of format 9; this trustq knows"):
        verify_bundle(changed(good, other, bundle_dot_json=newer), results)
    other.write_bytes(good.read_bytes()[:-200])
    with pytest.raises(TrustqError, match=r"other\.zip is no whole trustq bundle"):
        verify_bundle(other, results)
    with pytest.raises(TrustqError, match=r"none\.zip: no such file\. `trustq export bundle` writ"):
        verify_bundle(tmp_path / "none.zip", results)
    write_part(tmp_path / "r", {"runs": {"key": np.array(["a"])}}, part="p")
    with pytest.raises(TrustqError) as caught:
        verify_bundle(good, tmp_path / "r")
    assert str(caught.value) == (
        f"{good}: tables/runs.csv has 40 rows, {tmp_path / 'r'} now gives 1: runs were run or "
        "lost since the bundle was written."
    )
