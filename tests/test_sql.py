"""`trustq sql`: what it prints, what it writes, how it fails."""

import csv
import io
import json
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import duckdb
import numpy as np
import pytest
import typer
from typer.testing import CliRunner, Result

from trustq.errors import TrustqError
from trustq.results import EXAMPLES, TABLES, write_part

app = typer.Typer()
app.command()(import_module("trustq.cli.sql").sql)


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("results")
    samples = {"sample_id": np.array(["a", "b"]), "label": np.array(["nv", "mel"])}
    write_part(folder, {"samples": samples}, part="p")
    return folder


def run(results: Path, *words: str) -> Result:
    return CliRunner().invoke(app, [*words, "--results", str(results)])


QUERY = "SELECT sample_id, label, 0.5::DOUBLE AS x FROM samples ORDER BY sample_id"


def test_an_answer_is_printed_in_each_format(results: Path) -> None:
    assert run(results, QUERY).stdout.splitlines() == [
        "sample_id  label    x",
        "---------  -----  ---",
        "a          nv     0.5",
        "b          mel    0.5",
    ]
    text = run(results, QUERY, "--format", "csv").stdout
    assert list(csv.DictReader(io.StringIO(text)))[1] == {
        "sample_id": "b",
        "label": "mel",
        "x": "0.5",
    }
    assert json.loads(run(results, QUERY, "--format", "json").stdout)[0] == {
        "sample_id": "a",
        "label": "nv",
        "x": 0.5,
    }
    assert "| a | nv | 0.5 |" in run(results, QUERY, "--format", "markdown").stdout


def test_an_answer_is_written_in_the_format_of_the_file_s_ending(
    results: Path, tmp_path: Path
) -> None:
    for name in ("a.csv", "a.json", "a.md", "a.txt", "a.parquet"):
        done = run(results, QUERY, "--out", str(tmp_path / name))
        assert (done.exit_code, done.stdout) == (0, "")
    assert (tmp_path / "a.csv").read_text() == "sample_id,label,x\na,nv,0.5\nb,mel,0.5\n"
    assert json.loads((tmp_path / "a.json").read_text())[1]["label"] == "mel"
    assert (tmp_path / "a.md").read_text().startswith("| sample_id | label | x |\n")
    assert (tmp_path / "a.txt").read_text() == run(results, QUERY).stdout
    assert duckdb.sql(f"SELECT label FROM '{tmp_path}/a.parquet'").fetchall() == [("nv",), ("mel",)]
    assert len(list(tmp_path.iterdir())) == 5


def test_alone_it_lists_tables_and_queries_to_start_from(results: Path) -> None:
    text = run(results).stdout
    assert "samples (2 rows)\n    dataset, sample_id, path, label," in text
    assert "paired (a view)" in text
    for title, query in EXAMPLES:
        assert f"-- {title}\n{query}\n" in text
    listed = json.loads(run(results, "--format", "json").stdout)
    assert [row["table_name"] for row in listed][: len(TABLES)] == list(TABLES)


def test_bad_input_is_a_trustq_error(results: Path, tmp_path: Path) -> None:
    refused = run(results, f"COPY samples TO '{tmp_path}/a.csv'").exception
    assert isinstance(refused, TrustqError)
    missing = run(tmp_path / "none", QUERY).exception
    assert isinstance(missing, TrustqError)
    assert str(missing) == (
        f"{tmp_path}/none holds no results: no such folder. "
        f"Make some with `trustq repair` and `results={tmp_path}/none`."
    )
    assert list(tmp_path.iterdir()) == []


def test_bad_usage_exits_2(results: Path) -> None:
    for words, said in [
        ((QUERY, "--format", "xml"), "'xml' is none of table, csv, json, markdown, parquet."),
        ((QUERY, "--format", "parquet"), "Parquet is for files: add --out FILE.parquet."),
        (("--out", "a.csv"), "--out needs a query."),
    ]:
        done = run(results, *words)
        assert done.exit_code == 2
        assert said in " ".join(done.stderr.replace("│", " ").split())


def test_help_loads_neither_duckdb_nor_numpy() -> None:
    code = "import sys, trustq.cli.sql; print({'duckdb', 'numpy'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout == "set()\n", done.stderr


def test_a_query_comes_from_a_file_with_parameters(results: Path, tmp_path: Path) -> None:
    file = tmp_path / "q.sql"
    file.write_text(
        "-- One label.\nSELECT sample_id FROM samples WHERE label = $label AND 1 < $n;\n"
    )
    words = ["-f", str(file), "-p", "label=mel", "--param", "n=1.5", "--format", "csv"]
    assert run(results, *words).stdout == "sample_id\nb\n"
    out = tmp_path / "a.parquet"
    done = run(results, "--file", str(file), "-p", "label=nv", "-p", "n=2", "--out", str(out))
    assert (done.exit_code, duckdb.sql(f"FROM '{out}'").fetchall()) == (0, [("a",)])
    # A value is a value, whatever is in it.
    assert run(results, *words[:2], "-p", "label=' OR 1=1 --", "-p", "n=2").stdout.count("\n") == 2


def test_a_query_without_its_file_or_parameter_says_so(results: Path, tmp_path: Path) -> None:
    missing = run(results, "-f", str(tmp_path / "none.sql")).exception
    assert isinstance(missing, TrustqError)
    assert str(missing).startswith(f"{tmp_path}/none.sql: the query could not be read (")
    unbound = run(results, "SELECT $x").exception
    assert isinstance(unbound, TrustqError) and "x" in str(unbound)
    for words, said in [
        (("SELECT 1", "-f", "q.sql"), "give a query or --file, not both."),
        (("SELECT 1", "-p", "x"), "'x' is not of the form NAME=VALUE."),
    ]:
        done = run(results, *words)
        assert done.exit_code == 2
        assert said in " ".join(done.stderr.replace("│", " ").split())


def test_the_prompt_answers_completes_and_remembers(
    results: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from prompt_toolkit.completion import CompleteEvent
    from prompt_toolkit.document import Document
    from prompt_toolkit.input import create_pipe_input
    from prompt_toolkit.output import DummyOutput

    from trustq.results.prompt import completer, prompt

    history = tmp_path / "home" / "history"
    with create_pipe_input() as keys:
        # Two lines, an error, the list of tables; then the end.
        keys.send_text("SELECT label FROM samples\nORDER BY label;\n")
        keys.send_text("SELECT nothing;\n\\t\n\\q\n")
        prompt(results, history=history, terminal={"input": keys, "output": DummyOutput()})
    shown = capsys.readouterr().out
    assert "label\n-----\nmel\nnv" in shown
    assert "Error: Binder Error" in shown and "nothing" in shown
    assert "table_name" in shown and "leaderboard" in shown
    assert "+SELECT label FROM samples" in history.read_text()
    typed = Document("SELECT sample_id FROM leaderb")
    (found,) = completer(results).get_completions(typed, CompleteEvent())
    assert found.text == "leaderboard"


def test_a_query_loads_duckdb_and_numpy_and_no_other_heavy_library(results: Path) -> None:
    # Half of the time before the first answer was once scikit-learn's import.
    code = (
        "import sys, pathlib; from trustq.results import run_query\n"
        f"run_query(pathlib.Path({str(results)!r}), 'SELECT 1')\n"
        "heavy = {'duckdb', 'numpy', 'scipy', 'sklearn', 'cleanlab', 'xgboost', 'matplotlib'}\n"
        "print(*sorted((heavy | {'torch', 'h5py'}) & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout == "duckdb numpy\n", done.stderr
