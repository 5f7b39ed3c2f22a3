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
import polars
import pytest
import typer
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner, Result

from trustq.errors import TrustqError
from trustq.results import EXAMPLES, TABLES, write_part

app = typer.Typer()
app.command()(import_module("trustq.cli.app").with_options(import_module("trustq.cli.sql").sql))


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("results")
    samples = {"sample_id": np.array(["a", "b"]), "label": np.array(["nv", "mel"])}
    write_part(folder, {"samples": samples}, part="p")
    return folder


def run(results: Path, *words: str) -> Result:
    return CliRunner().invoke(app, [*words, "--results", str(results)])


QUERY = "SELECT sample_id, label, 0.5::DOUBLE AS x FROM samples ORDER BY sample_id"


def test_a_query_opens_what_it_names_and_all_that_this_is_made_of() -> None:
    from trustq.results.query import _named_in
    from trustq.results.views import derived_views, former_views

    views = derived_views() | former_views()
    assert _named_in("SELECT * FROM Runs", views) == {"runs"}
    assert _named_in('WITH a AS (FROM "metrics") FROM a', views) == {"metrics"}
    needed = _named_in("from final_test_seeds", views)
    assert {"final_test_seeds", "seeds", "metric_values", "metrics", "runs"} <= needed
    assert "predictions" not in needed
    for sql in ("SHOW TABLES", "FROM query('FROM ru' || 'ns')", "FROM duckdb_views()"):
        assert _named_in(sql, views) == {*TABLES, *views}


def test_a_misspelt_table_is_told_beside_all_there_are(results: Path) -> None:
    for sql in ("SELECT * FROM metric_value", "WITH a AS (SELECT 1) SELECT * FROM metric_value"):
        done = run(results, sql)
        assert 'Did you mean "metric_values"?' in str(done.exception)


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
        (
            (QUERY, "--format", "xml"),
            "'xml' is none of table, lines, csv, json, markdown, parquet.",
        ),
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


def test_a_parameter_may_stand_within_with(results: Path, tmp_path: Path) -> None:
    query = """WITH own AS (SELECT * FROM samples WHERE label = $label)
               SELECT sample_id FROM own"""
    words = [query, "-p", "label=mel"]
    assert run(results, *words, "--format", "csv").stdout == "sample_id\nb\n"
    out = tmp_path / "a.parquet"
    assert run(results, *words, "--out", str(out)).exit_code == 0
    assert duckdb.sql(f"FROM '{out}'").fetchall() == [("b",)]


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


def test_a_query_loads_duckdb_and_no_other_heavy_library(results: Path) -> None:
    # Half of the time before the first answer was once scikit-learn's import.
    code = (
        "import sys, pathlib; from trustq.results import run_query\n"
        f"run_query(pathlib.Path({str(results)!r}), 'SELECT 1')\n"
        "heavy = {'duckdb', 'numpy', 'scipy', 'sklearn', 'cleanlab', 'xgboost', 'matplotlib'}\n"
        "print(*sorted((heavy | {'torch', 'h5py'}) & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout == "duckdb\n", done.stderr


def test_a_table_fits_the_width_and_no_text_is_cut() -> None:
    from trustq.results import Result, format_result

    long = "a sentence of words that goes on and on, longer than sixty characters, to its end"
    wide = Result(["arm", "head", *"abcdefgh"], [("none", "knn", *[1 / 3] * 8)])
    assert long in format_result(Result(["text", "n"], [(long, 1)]))
    assert format_result(wide).count("\n") == 2
    shown = format_result(wide, width=40)
    blocks = [block.splitlines() for block in shown.split("\n\n")]
    assert max(map(len, shown.splitlines())) <= 40
    assert [block[0].split() for block in blocks] == [
        ["arm", "head", "a", "b", "c"],
        ["arm", "head", "d", "e", "f"],
        ["arm", "head", "g", "h"],
    ]
    assert all(block[2].startswith("none  knn") for block in blocks)
    # A text that fits no column makes lines; it goes on between words.
    lines = format_result(Result(["arm", "text"], [("none", long)]), width=40).splitlines()
    assert lines[:3] == ["-- 1 of 1", "arm   none", "text  a sentence of words that goes on"]
    assert " ".join(line[6:] for line in lines[2:]) == long
    assert format_result(Result(["n"], []), "lines") == "(no rows)"


@settings(deadline=None, max_examples=60)
@given(
    texts=st.lists(
        st.lists(st.text("ab 1", max_size=12), min_size=5, max_size=5), min_size=1, max_size=4
    ),
    width=st.integers(20, 60),
)
def test_every_value_of_a_split_table_is_shown(texts: list[list[str]], width: int) -> None:
    from trustq.results import Result, format_result

    shown = format_result(Result(list("vwxyz"), [tuple(row) for row in texts]), width=width)
    assert max(map(len, shown.splitlines())) <= width
    assert all(text.strip() in shown for row in texts for text in row)


def test_files_of_one_s_own_are_joined_by_name_and_by_sample(results: Path, tmp_path: Path) -> None:
    (tmp_path / "scores.csv").write_text("sample_id,score\na,1\nb,2.5\n")
    mine = ["--table", f"mine={tmp_path / 'scores.csv'}", "--format", "csv"]
    query = "SELECT label, score FROM samples JOIN mine USING (sample_id) ORDER BY ALL"
    assert run(results, query, *mine).stdout == "label,score\nmel,2.5\nnv,1.0\n"
    # A manifest's columns stand in samples; ids may have the ending of an image.
    (tmp_path / "m.csv").write_text(
        "image_id,sex,path,label\n007.jpg,f,x/7.jpg,other\nb.jpg,f,x/b.jpg,other\n"
    )
    joined = ["--metadata", str(tmp_path / "m.csv"), "--format", "csv"]
    query = "SELECT sample_id, label, path, sex FROM samples ORDER BY sample_id"
    answer = run(results, query, *joined).stdout
    assert answer == "sample_id,label,path,sex\na,nv,,\nb,mel,x/b.jpg,f\n"
    assert "sex" in run(results, *joined[:2]).stdout  # the list of tables
    out = tmp_path / "a.parquet"
    assert run(results, query, *joined[:2], "--out", str(out)).exit_code == 0
    assert duckdb.sql(f"SELECT sex FROM '{out}' WHERE sample_id = 'b'").fetchall() == [("f",)]


def test_a_file_that_cannot_be_joined_says_why(results: Path, tmp_path: Path) -> None:
    good = tmp_path / "a.csv"
    good.write_text("sample_id,x\na,1\na.png,2\n")
    (tmp_path / "b.csv").write_text("x,y\n1,2\n")
    (tmp_path / "c.parquet").write_text("no Parquet")
    (tmp_path / "d.ods").write_text("")
    for words, said in [
        (("--table", f"runs={good}"), "'runs' cannot name a table"),
        (("--table", f"a b={good}"), "'a b' cannot name a table"),
        (("--table", "x=none.csv"), "none.csv: no such file."),
        (("--table", f"x={tmp_path}/c.parquet"), "c.parquet could not be read: "),
        (
            ("--table", f"x={tmp_path}/d.ods"),
            "expected a .parquet, .csv, .csv.gz, .tsv, .tab or .xlsx file.",
        ),
        (("--metadata", str(good)), "sample_id must be unique to be joined by; "),
        (("--metadata", f"{tmp_path}/b.csv"), "b.csv has no column of ids; it has x, y"),
    ]:
        refused = run(results, "SELECT 1", *words).exception
        assert isinstance(refused, TrustqError) and said in str(refused), (words, refused)
    assert run(results, "SELECT 1", "--table", "x").exit_code == 2
    (tmp_path / "e.csv").write_text("sample_id,x\nA 1,1\n")
    stranger = run(results, "SELECT x FROM samples", "--metadata", f"{tmp_path}/e.csv").exception
    assert str(stranger) == (
        f"{tmp_path}/e.csv shares no id with the samples, e.g. 'A 1' and 'a': spell the ids alike."
    )
    folder = run(results, "SELECT 1", "--table", f"x={tmp_path}").exception
    assert str(folder) == f"{tmp_path} is a folder; name the file in it."
    for option, values in (("--table", ("x=a.csv", "x=b.csv")), ("--param", ("x=1", "x=2"))):
        words = [word for value in values for word in (option, value)]
        twice = run(results, "SELECT 1", *words)
        assert twice.exit_code == 2
        assert f"{option} x is given twice: leave one out." in twice.output


@pytest.mark.parametrize("ending", [".xlsx", ".csv"])
def test_a_text_goes_into_no_file_that_says_it_is_another(
    results: Path, tmp_path: Path, ending: str
) -> None:
    out = tmp_path / f"a{ending}"
    refused = run(results, "SELECT 1", "--format", "lines", "--out", str(out)).exception
    assert str(refused) == f"{out}: the answer is written as lines; call it a.txt."
    assert not out.exists()


def test_a_misspelt_table_is_told_beside_all_there_are_where_the_answer_is_a_file(
    results: Path, tmp_path: Path
) -> None:
    done = run(results, "SELECT * FROM metric_value", "--out", str(tmp_path / "a.parquet"))
    assert 'Did you mean "metric_values"?' in str(done.exception)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("form", ["R", "pandas", "title", "UTF-16", "mixed ends", "xlsx", "tab"])
def test_files_of_one_s_own_are_read_as_every_command_reads_them(
    results: Path, tmp_path: Path, form: str
) -> None:
    rows = [("a", "f", "007", "NA", 1), ("b", "m", "010", "2.5", 2)]
    plain = "sample_id,sex,zip,age,n\n" + "".join(",".join(map(str, row)) + "\n" for row in rows)
    path, encoding = tmp_path / "t.csv", "utf-8"
    if form in ("R", "pandas"):  # a column of row numbers that has no name
        header, *lines = plain.splitlines()
        blank = '""' if form == "R" else ""
        numbered = [f"{number},{line}" for number, line in enumerate(lines)]
        plain = "\n".join([f"{blank},{header}", *numbered]) + "\n"
    elif form == "title":
        plain = f"Patients of 2026\n\n{plain}"
    elif form == "UTF-16":
        encoding = "utf-16"
    elif form == "mixed ends":
        plain = plain.replace("\n", "\r\n", 1)
    elif form == "tab":
        path, plain = tmp_path / "t.tab", plain.replace(",", "\t")
    if form == "xlsx":
        openpyxl = pytest.importorskip("openpyxl")
        path = tmp_path / "t.xlsx"
        book = openpyxl.Workbook()
        for line in plain.splitlines():
            book.active.append(line.split(","))
        book.save(path)
    else:
        path.write_bytes(plain.encode(encoding))
    query = "SELECT sample_id, sex, zip, age, n + 1 AS n FROM t ORDER BY 1"
    mine = ["--table", f"t={path}", "--format", "csv"]
    assert run(results, query, *mine).stdout == (
        "sample_id,sex,zip,age,n\na,f,007,NA,2\nb,m,010,2.5,3\n"
    )
    query = "SELECT sample_id, sex FROM samples ORDER BY 1"
    joined = ["--metadata", str(path), "--format", "csv"]
    assert run(results, query, *joined).stdout == "sample_id,sex\na,f\nb,m\n"


def test_nan_of_a_table_is_found_whoever_wrote_its_statistics(
    results: Path, tmp_path: Path
) -> None:
    # DuckDB passes over it in a file of others: findings/duckdb-nan-in-parquet.sh.
    polars.DataFrame({"auroc": [float("nan"), 0.5, 0.9]}).write_parquet(tmp_path / "p.parquet")
    (tmp_path / "p.csv").write_text("auroc\nnan\n.5\n.9\n")
    query = (
        "SELECT count(*) FILTER (isnan(auroc)) AS a, (SELECT count(*) FROM t WHERE isnan(auroc)) "
        "AS b, (SELECT count(*) FROM t WHERE auroc > .95) AS c FROM t"
    )
    for name in ("p.parquet", "p.csv"):
        answer = run(results, query, "--table", f"t={tmp_path / name}", "--format", "csv")
        assert answer.stdout == "a,b,c\n1,1,1\n", name


def test_a_column_is_a_number_or_a_day_where_every_cell_is(results: Path, tmp_path: Path) -> None:
    lines = [
        f"{i},{i}.5,2026-01-{i % 28 + 1:02d},{i % 28 + 1:02d}.01.2026,{i}" for i in range(25_000)
    ]
    (tmp_path / "t.csv").write_text("\n".join(["a,b,c,d,e", *lines, "1,,,,85+"]) + "\n")
    query = (
        "SELECT DISTINCT " + ", ".join(f"typeof({name}) AS {name}" for name in "abcde") + " FROM t"
    )
    answer = run(results, query, "--table", f"t={tmp_path / 't.csv'}", "--format", "csv").stdout
    assert answer == "a,b,c,d,e\nBIGINT,DOUBLE,DATE,DATE,VARCHAR\n"
    (tmp_path / "t.csv").write_text("sex,Sex\nf,m\n")
    refused = run(results, "SELECT 1", "--table", f"t={tmp_path / 't.csv'}").exception
    assert "t.csv: the columns sex and Sex differ in case alone" in str(refused)


def test_images_that_differ_in_their_ending_alone_are_joined_as_they_are_spelt(
    results: Path, tmp_path: Path
) -> None:
    ids = np.array(["a.jpg", "a.png", "b.jpg", "7"])
    folder = tmp_path / "results"
    write_part(folder, {"samples": {"sample_id": ids, "label": np.array(list("nmnm"))}}, part="p")
    query = "SELECT sample_id, sex FROM samples WHERE sex IS NOT NULL ORDER BY 1"

    def asked(rows: str, *, of: Path = folder) -> Result:
        (tmp_path / "m.csv").write_text(f"Image_ID,sex\n{rows}")
        return run(of, query, "--metadata", str(tmp_path / "m.csv"), "--format", "csv")

    assert asked("a.jpg,f\na.png,m\nb,f\n").stdout == "sample_id,sex\na.jpg,f\na.png,m\nb.jpg,f\n"
    assert asked("a.jpg,f\nb.png,m\n").stdout == "sample_id,sex\na.jpg,f\nb.jpg,m\n"
    # One of two rows for a sample that is neither, and one of two samples for a row.
    refused = asked("a.jpg,f\na.png,m\n", of=results).exception
    assert str(refused) == (
        f"{tmp_path}/m.csv: 'a' may be 'a.jpg' or 'a.png': spell it as the one that is meant."
    )
    assert asked("a,f\n").stdout == "sample_id,sex\n"
    for rows, again in (("a,f\na.png,m\n", "a"), ("b.jpg,f\nb.JPG,m\n", "b")):
        refused = asked(rows).exception
        assert str(refused) == (
            f"{tmp_path}/m.csv: Image_ID must be unique to be joined by; {again!r} is repeated."
        )
    numbers = tmp_path / "m.parquet"
    duckdb.sql(f"COPY (SELECT 7.0::DOUBLE AS id, 'x' AS sex) TO '{numbers}'")
    answer = run(folder, query, "--metadata", str(numbers), "--format", "csv")
    assert answer.stdout == "sample_id,sex\n7,x\n"
