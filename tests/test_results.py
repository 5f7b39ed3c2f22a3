"""The results room: what is written is read, whole cells only, and nothing but reading."""

import itertools
import json
import multiprocessing
import os
import re
import shutil
import signal
import threading
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trustq.core.columns import Columns, write_parquet
from trustq.errors import DamagedFile, TrustqError
from trustq.results import (
    EXAMPLES,
    TABLES,
    Result,
    clean,
    committed_keys,
    compact,
    connect,
    describe_results,
    format_result,
    new_part,
    run_query,
    save_query,
    write_part,
)
from trustq.results.digests import open_sealed, sealed_json, write_record
from trustq.results.part_files import PartFiles
from trustq.results.parts import part_address
from trustq.results.sample_columns import sample_columns
from trustq.results.schema import COMPARED, COORDINATES, MATCHED, PURCHASE, SETTINGS
from trustq.results.views import EXACT_UP_TO, _flipped_sums, _sign_flip_p, derived_views
from trustq.results.write import mark
from trustq.statistics.paired import sign_flip_test


def columns(rows: list[dict[str, Any]]) -> Columns:
    names = dict.fromkeys(name for row in rows for name in row)
    return {name: np.array([row.get(name) for row in rows], dtype=object) for name in names}


def cell(arm: str, draw: int = 0, backbone: int = 1, **settings: Any) -> dict[str, Any]:
    row = {
        "recipe": "r",
        "dataset": "toy",
        "cache_digest": f"c{backbone}",
        "backbone_seed": backbone,
        "draw_seed": draw,
        "arm": arm,
        "score": arm,
        "head": "linear",
        "budget": "0" if arm == "none" else "64",
        "n_rounds": 0 if arm == "none" else 2,
        **settings,
    }
    return {"key": "/".join(map(str, row.values())), **row}


def metric(of: dict[str, Any], figure: float | None, **other: Any) -> dict[str, Any]:
    return {
        "run": of["key"],
        "round": 2,
        "is_final": True,
        "eval_dataset": "toy",
        "split": "test",
        "stage": "uncalibrated",
        "metric": "accuracy",
        "value": figure,
        **other,
    }


def write(folder: Path, cells: list[dict[str, Any]], part: str = "", **tables: Any) -> None:
    parts = {name: columns(rows) for name, rows in tables.items()}
    write_part(folder, {"runs": columns(cells), **parts}, part=part or new_part())


def rows(folder: Path, sql: str) -> list[tuple[Any, ...]]:
    return run_query(folder, sql).rows


def one_of_each(folder: Path) -> None:
    """A part with rows in every table."""
    first = cell("random", leaky=False, trusted=0.1)
    key = first["key"]
    write(
        folder,
        [first],
        "p1",
        rounds=[
            {"run": key, "round": 2, "n_bought": 2, "n_bought_total": 4, "errors_found_total": 1}
        ],
        transitions=[{"run": key, "round": 0, "given": "a", "true_class": "b", "share": 0.1}],
        queries=[{"run": key, "round": 1, "rank": 1, "sample_id": "a", "was_wrong": True}],
        labels=[{"run": key, "sample_id": "a", "label": "x", "bought_round": None}],
        metrics=[metric(first, 0.5, n=3)],
        predictions=[
            {
                "run": key,
                "round": 2,
                "split": "test",
                "stage": "uncalibrated",
                "sample_id": sample,
                "label": "x",
                "predicted": predicted,
                "confidence": confidence,
                "probabilities": [0.25, 0.75],
            }
            for sample, predicted, confidence in [("a", "x", 0.9), ("b", "y", 0.8)]
        ],
        label_issues=[{"audit": "a1", "sample_id": "a", "quality": 0.01}],
        samples=[{"dataset": "toy", "sample_id": "a", "metadata": '{"age": 40}'}],
    )


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for tests that only read."""
    folder = tmp_path_factory.mktemp("filled")
    one_of_each(folder)
    return folder


def test_written_is_read(filled: Path) -> None:
    assert rows(filled, "SELECT arm, leaky, trusted, draw_seed, noise FROM runs") == [
        ("random", False, 0.1, 0, None)
    ]
    assert rows(filled, "SELECT round, value, n, class_name, is_final FROM metrics") == [
        (2, 0.5, 3, None, True)
    ]
    assert rows(filled, "SELECT probabilities, logits FROM predictions LIMIT 1") == [
        ([0.25, 0.75], None)
    ]
    assert rows(filled, "SELECT metadata FROM samples") == [('{"age": 40}',)]
    assert rows(filled, "SELECT arm, value FROM metric_values") == [("random", 0.5)]
    counts = {name: n for name, n, _ in describe_results(filled).rows if n is not None}
    assert counts == {**dict.fromkeys(TABLES, 1), "predictions": 2} | dict.fromkeys(
        ("failures", "trust", "trust_tests", "stability", "trust_cells", "trust_cell_answers"), 0
    )


def test_arrays_of_numbers_and_lists_are_read_as_written(tmp_path: Path) -> None:
    first = cell("random")
    n = 2500
    figures = np.where(np.arange(n) % 5, np.arange(n) / 7, np.nan)
    names = np.full(n, None, dtype=object)
    names[-1] = "late"  # a column that is blank nearly everywhere is still text
    metrics = {
        "run": np.full(n, first["key"]),
        "round": np.arange(n),
        "class_name": names,
        "value": figures,
    }
    predictions = {
        "run": np.full(n, first["key"]),
        "probabilities": np.stack([figures, 1 - figures], axis=1),
    }
    tables = {"runs": columns([first]), "metrics": metrics, "predictions": predictions}
    write_part(tmp_path, tables, part="p")
    read = rows(tmp_path, "SELECT value, class_name FROM metrics ORDER BY round")
    assert [row[0] for row in read] == [None if np.isnan(x) else x for x in figures]
    assert [row[1] for row in read] == list(names)
    assert rows(tmp_path, "SELECT max(probabilities[1]) FROM predictions") == [
        (np.nanmax(figures),)
    ]


def test_every_view_of_an_empty_folder_is_typed(tmp_path: Path) -> None:
    mark(tmp_path)
    with connect(tmp_path) as connection:
        for table, types in TABLES.items():
            view = connection.table(table)
            assert dict(zip(view.columns, map(str, view.types), strict=True)) == types
            assert view.fetchall() == []
        for name in derived_views():
            assert connection.table(name).fetchall() == []
    assert committed_keys(tmp_path) == set()


def test_rows_without_their_cell_are_not_seen(tmp_path: Path) -> None:
    one_of_each(tmp_path)
    keys = committed_keys(tmp_path)
    (tmp_path / "runs" / "p1.parquet").unlink()  # as if the writer had been killed before it
    for name, n, _ in describe_results(tmp_path).rows:
        assert n is None or n == (1 if name in ("samples", "label_issues") else 0), name
    assert keys and committed_keys(tmp_path) == set()


def test_a_cell_written_twice_counts_once(tmp_path: Path) -> None:
    twice, once = cell("random"), cell("entropy")
    write(tmp_path, [twice], "a", metrics=[metric(twice, 0.1)])
    write(tmp_path, [twice, once], "b", metrics=[metric(twice, 0.2), metric(once, 0.3)])
    assert rows(tmp_path, "SELECT arm, value FROM metric_values ORDER BY arm") == [
        ("entropy", 0.3),
        ("random", 0.1),
    ]
    assert rows(tmp_path, "SELECT count(*) FROM runs") == [(2,)]


def test_a_sample_is_seen_once_as_the_newest_part_has_it(tmp_path: Path) -> None:
    for part, label in [("p1", "old"), ("p2", "new")]:
        samples = columns([{"dataset": "toy", "sample_id": "a", "label": label}])
        write_part(tmp_path, {"samples": samples}, part=part)
    assert rows(tmp_path, "SELECT sample_id, label FROM samples") == [("a", "new")]


def test_samples_have_the_manifests_columns_typed_and_from_the_newest_part_that_knows(
    tmp_path: Path,
) -> None:
    known = {
        "path": ["x.png", "y.png"],
        "age": [40, None],
        "Label": ["l", None],
        "a/b ~": ["é", ""],
    }
    for part, label, manifest in [("p1", "old", known), ("p2", "new", {})]:
        samples = columns(
            [{"dataset": "toy", "sample_id": one, "label": label} for one in ("a", "b")]
        )
        write_part(tmp_path, {"samples": samples | sample_columns(manifest)}, part=part)
    query = 'SELECT sample_id, label, path, age, manifest_Label, "a/b ~" FROM samples ORDER BY ALL'
    assert rows(tmp_path, query) == [
        ("a", "new", "x.png", 40, "l", "é"),
        ("b", "new", "y.png", None, None, ""),
    ]
    mine = tmp_path / "mine.csv"
    mine.write_text("sample_id,age,hospital\na.png,7,X\nb,9,Y\n")
    found = run_query(
        tmp_path, "SELECT age, hospital FROM samples ORDER BY sample_id", metadata=[mine]
    )
    assert found.rows == [(40, "X"), (9, "Y")]


def test_a_manifest_of_a_path_and_a_domain_alone_adds_these(tmp_path: Path) -> None:
    samples = columns([{"dataset": "toy", "sample_id": one} for one in ("a", "b")])
    told = sample_columns({"path": ["x.png", "y.png"], "domain": ["photo", "photo"]})
    write_part(tmp_path, {"samples": samples | told}, part="p")
    assert rows(tmp_path, "SELECT path, domain, metadata FROM samples ORDER BY ALL") == [
        ("x.png", "photo", None),
        ("y.png", "photo", None),
    ]


def test_parts_of_an_older_schema_are_read(tmp_path: Path) -> None:
    one_of_each(tmp_path)
    old = {"key": np.array(["old"], dtype=object), "draw_seed": np.array([7], dtype=np.int64)}
    path = tmp_path / "runs" / "p0.parquet"
    write_parquet(path, {**old, "dropped": np.array([1])})
    write_record(tmp_path, "p0", {"runs": path})
    assert rows(tmp_path, "SELECT key, draw_seed, arm FROM runs WHERE key = 'old'") == [
        ("old", 7, None)
    ]
    with connect(tmp_path) as connection:
        assert list(map(str, connection.table("runs").types)) == list(TABLES["runs"].values())


def test_a_folder_may_have_any_name(tmp_path: Path) -> None:
    folder = tmp_path / "it's run[1] *?"
    one_of_each(folder)
    assert rows(folder, "SELECT arm, value FROM metric_values") == [("random", 0.5)]


def message(error: pytest.ExceptionInfo[TrustqError]) -> str:
    return str(error.value)


def test_unknown_tables_and_columns_are_refused(tmp_path: Path) -> None:
    with pytest.raises(TrustqError) as error:
        write_part(tmp_path, {"run": {}}, part="p")
    assert message(error) == (
        "Results have no table 'run', only runs, rounds, transitions, queries, labels, metrics, "
        "predictions, label_issues, trust, trust_tests, stability, trust_cells, "
        "trust_cell_answers, failures, samples."
    )
    with pytest.raises(TrustqError) as error:
        write_part(tmp_path, {"samples": columns([{"sample_id": "a", "age": 40}])}, part="p")
    assert message(error) == (
        "Table samples has no column 'age', only dataset, sample_id, path, label, group_id, split, "
        "domain, metadata."
    )
    assert list(tmp_path.iterdir()) == []


def test_parts_that_would_not_be_seen_are_refused(tmp_path: Path) -> None:
    first = cell("random")
    with pytest.raises(TrustqError) as error:
        write_part(tmp_path, {"metrics": columns([metric(first, 0.5)])}, part="p")
    assert message(error) == (
        f"Table metrics has rows of run {first['key']!r}, which is not in table runs of the same "
        "part: write a run and its rows together."
    )
    with pytest.raises(TrustqError) as error:
        write_part(tmp_path, {"metrics": {"value": np.array([0.5])}}, part="p")
    assert message(error) == "Table metrics needs a column 'run', the key of each row's run."
    with pytest.raises(TrustqError) as error:
        write(tmp_path, [first, first])
    assert message(error) == "Every row of table runs needs a key of its own."
    with pytest.raises(TrustqError) as error:
        lengths = {"dataset": np.array(["a"]), "path": np.array(["a", "b"])}
        write_part(tmp_path, {"samples": lengths}, part="p")
    assert message(error) == (
        "Columns of table samples differ in length: {'dataset': 1, 'path': 2}."
    )
    with pytest.raises(TrustqError) as error:
        write(tmp_path, [first], "../p")
    assert message(error) == (
        "'../p' cannot name a part: use letters, digits, - and _, as new_part() does."
    )


def test_a_part_is_never_overwritten(tmp_path: Path) -> None:
    one_of_each(tmp_path)
    with pytest.raises(TrustqError) as error:
        one_of_each(tmp_path)
    assert message(error) == (
        f"{tmp_path}/runs/p1.parquet exists, and parts are never overwritten. "
        "Write under another name, from new_part()."
    )


def test_a_folder_without_results_says_how_to_make_some(tmp_path: Path) -> None:
    for folder, found in [
        (tmp_path / "no", "no such folder"),
        (tmp_path, "it has no results.json"),
    ]:
        with pytest.raises(TrustqError) as error:
            run_query(folder, "SELECT 1")
        assert message(error) == (
            f"{folder} holds no results: {found}. "
            f"Make some with `trustq repair` and `results={folder}`."
        )
        assert committed_keys(folder) == set()


def test_a_newer_format_is_refused(tmp_path: Path) -> None:
    mark(tmp_path)
    path = tmp_path / "results.json"
    assert json.loads(path.read_text()) == {"format": "trustq.results", "format_version": 2}
    path.write_text('{"format": "trustq.results", "format_version": 3}')
    for use in (connect, committed_keys, one_of_each):
        with pytest.raises(TrustqError) as error:
            use(tmp_path)
        assert message(error) == (
            f"{tmp_path} holds results of format 3; this trustq knows formats up to 2. "
            "Upgrade it: pip install -U trustq"
        )
    path.write_text("[]")
    with pytest.raises(TrustqError) as error:
        connect(tmp_path)
    assert message(error) == (
        f"{path} does not say that this folder holds trustq results. Choose another folder."
    )


# As parts of format 1 had them: written out, so that no change of a mapping goes unnoticed.
_FORMAT_1 = {
    "rounds": ("run AS cell", "errors_found AS hits", "errors_found_total AS hits_total"),
    "queries": ("run AS cell", "was_wrong AS hit"),
    "metrics": ("run AS cell", "value AS figure"),
    "cells": ("errors_findable AS hits_possible",),
    **dict.fromkeys(("transitions", "labels", "predictions"), ("run AS cell",)),
}


def as_format_1(folder: Path) -> None:
    """Turn a folder of results into one that a trustq of format 1 wrote."""
    (folder / "runs").rename(folder / "cells")
    for table, renamed in _FORMAT_1.items():
        new = [text.partition(" AS ")[0] for text in renamed]
        if table == "rounds":
            renamed, new = (
                (*renamed, "purchase_precision AS hit_rate"),
                [*new, "purchase_precision"],
            )
        for part in (folder / table).glob("*.parquet"):
            select = f"SELECT {', '.join(renamed)}, * EXCLUDE ({', '.join(new)}) FROM '{part}'"
            with duckdb.connect() as connection:
                connection.execute(f"CREATE TABLE t AS {select}")
                connection.execute(f"COPY t TO '{part}' (FORMAT parquet)")
    (folder / "results.json").write_text('{"format": "trustq.results", "format_version": 1}')
    shutil.rmtree(folder / "digests")


def test_a_folder_of_format_1_is_read_added_to_and_merged(tmp_path: Path) -> None:
    one_of_each(tmp_path)
    tables = [name for name, _, _ in describe_results(tmp_path).rows]
    before = {name: repr(rows(tmp_path, f"SELECT * FROM {name} ORDER BY ALL")) for name in tables}
    as_format_1(tmp_path)
    assert {
        name: repr(rows(tmp_path, f"SELECT * FROM {name} ORDER BY ALL")) for name in tables
    } == before
    assert json.loads((tmp_path / "results.json").read_text())["format_version"] == 1
    write(tmp_path, [cell("oracle")], metrics=[metric(cell("oracle"), 0.7)])
    assert json.loads((tmp_path / "results.json").read_text())["format_version"] == 2
    sql = "SELECT arm, value FROM metric_values ORDER BY ALL"
    assert rows(tmp_path, sql) == [("oracle", 0.7), ("random", 0.5)]
    assert compact(tmp_path, fewest=2) == 2
    assert clean(tmp_path, grace_seconds=-1) == 2
    assert not list((tmp_path / "cells").iterdir())
    assert rows(tmp_path, sql) == [("oracle", 0.7), ("random", 0.5)]
    found = rows(
        tmp_path, "SELECT errors_found_total, was_wrong FROM rounds JOIN queries USING (run)"
    )
    assert found == [(1, True)]


@pytest.mark.parametrize("table", ["runs", "metrics"])
def test_a_truncated_part_is_named(tmp_path: Path, table: str) -> None:
    one_of_each(tmp_path)
    path = tmp_path / table / "p1.parquet"
    size = path.stat().st_size
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(TrustqError) as error:
        run_query(tmp_path, "SELECT * FROM metric_values")
    assert message(error) == (
        f"{path} is damaged: it has {size - 20} bytes, and {size} were written. Delete that part "
        f"({tmp_path}/*/p1.*) and run the same command again; only the runs of that part are "
        "computed anew."
    )


@pytest.mark.parametrize("held", [0, 1 << 24])
@pytest.mark.parametrize("table", ["runs", "metrics"])
@pytest.mark.parametrize("sql", ["SELECT count(*) FROM {}", "WITH a AS (FROM {}) FROM a"])
def test_a_flipped_byte_anywhere_in_a_small_part_is_noticed(
    tmp_path: Path, table: str, sql: str, held: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("trustq.results.part_files.HELD", held)
    one_of_each(tmp_path)
    path = tmp_path / table / "p1.parquet"
    whole = path.read_bytes()
    for place in range(0, len(whole), len(whole) // 10):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        with pytest.raises(DamagedFile) as error:
            run_query(tmp_path, sql.format(table))
        assert f"{path} is damaged: its bytes are not those that were written." in message(error)
    path.write_bytes(whole)
    assert run_query(tmp_path, sql.format(table)).rows


def test_a_small_part_is_read_once(tmp_path: Path) -> None:
    one_of_each(tmp_path)
    files = PartFiles(tmp_path, unrecorded=False)
    first = files.open(part_address("runs", "p1"))
    path = tmp_path / "runs" / "p1.parquet"
    whole = path.read_bytes()
    path.unlink()
    again = files.open(part_address("runs", "p1"))
    again.seek(4)
    assert (first.read(len(whole)), again.read(8)) == (whole, whole[4:12])


def test_ctrl_c_while_parts_are_read_is_no_error_of_the_database(
    filled: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from trustq.results.part_files import _Placed

    before = signal.signal(signal.SIGINT, signal.default_int_handler)

    def seek(self: _Placed, place: int, whence: int = 0) -> int:
        os.kill(os.getpid(), signal.SIGINT)  # in Python code that DuckDB calls
        signal.pthread_sigmask(signal.SIG_BLOCK, [])  # a call by which the handler has run
        return place

    try:
        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr(_Placed, "seek", seek)
            with connect(filled, threads=1) as connection:
                connection.execute("SELECT * FROM metrics").fetchall()
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    finally:
        signal.signal(signal.SIGINT, before)


def test_a_query_of_runs_alone_gives_the_rows_that_the_table_gives(tmp_path: Path) -> None:
    one, other = cell("random"), cell("oracle")
    for part, cells in (("p1", [one]), ("p2", [one, other])):  # two writers of one cell
        write(tmp_path, cells, part=part, metrics=[metric(c, 0.5) for c in cells])
    for sql in (
        "SELECT * FROM runs ORDER BY ALL",
        "SELECT r FROM Runs r ORDER BY ALL",
        "SELECT count(*), count(DISTINCT key) FROM runs",
        "SELECT arm FROM runs ORDER BY ALL",
        "SUMMARIZE SELECT arm FROM runs",
        "SELECT count(*) FROM metrics",
    ):
        with connect(tmp_path) as connection:
            assert run_query(tmp_path, sql).rows == connection.execute(sql).fetchall()
    assert run_query(tmp_path, "SELECT count(*) FROM runs").rows == [(2,)]


def test_a_record_that_is_changed_in_any_byte_is_refused(tmp_path: Path) -> None:
    one_of_each(tmp_path)
    data = (tmp_path / "digests" / "p1.json").read_bytes()
    assert sealed_json(open_sealed(data)).encode() == data
    for place in range(len(data)):
        changed = data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :]
        for broken in (changed, data[:place], data[:place] + b" " + data[place:]):
            with pytest.raises(ValueError):
                open_sealed(broken)


def test_a_truncated_part_without_digests_is_named(tmp_path: Path) -> None:
    one_of_each(tmp_path)
    as_format_1(tmp_path)
    path = tmp_path / "metrics" / "p1.parquet"
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(TrustqError) as error:
        run_query(tmp_path, "SELECT * FROM metric_values")
    assert message(error) == (
        f"{path} is damaged: it is not a whole Parquet file. Delete that part "
        f"({tmp_path}/*/p1.*) and run the same command again; only the runs of that part are "
        "computed anew."
    )


ONLY_READ = (
    "Results are only read: a query is one of SELECT, DESCRIBE, SHOW, SUMMARIZE and EXPLAIN."
)


@pytest.mark.parametrize(
    "sql",
    [
        "COPY (SELECT 1) TO '{folder}/out.parquet'",
        "EXPLAIN ANALYZE COPY (SELECT 1) TO '{folder}/out.parquet'",
        "/* a */ -- b\nEXPLAIN ANALYZE COPY (SELECT 1) TO '{folder}/out.parquet'",
        "ATTACH '{folder}/out.db'",
        "INSTALL httpfs",
        "LOAD httpfs",
        "PRAGMA enable_profiling",
        "SET threads = 1",
        "CALL enable_logging(storage = 'file', storage_path = '{folder}')",
        "EXPORT DATABASE '{folder}/out'",
        "CREATE TABLE t (i INTEGER)",
        "INSERT INTO trustq.committed (key) VALUES ('x')",
        "DELETE FROM trustq.committed",
        "DROP VIEW runs",
        "PREPARE a AS SELECT 1",
    ],
)
def test_statements_that_do_more_than_read_are_refused(filled: Path, sql: str) -> None:
    before = sorted(filled.rglob("*"))
    with pytest.raises(TrustqError) as error:
        run_query(filled, sql.format(folder=filled))
    assert message(error) == ONLY_READ
    assert sorted(filled.rglob("*")) == before


@pytest.mark.parametrize("explain", ["", "EXPLAIN ", "EXPLAIN ANALYZE "])
@pytest.mark.parametrize("write", ["COPY (SELECT 1) TO '{folder}/o.csv'", "DELETE FROM committed"])
def test_a_select_that_holds_a_write_is_refused(filled: Path, explain: str, write: str) -> None:
    sql = f"{explain}WITH a AS ({write.format(folder=filled)}) FROM a"
    with pytest.raises(TrustqError):  # older DuckDBs say in their own words that they know no such
        run_query(filled, sql)
    assert not (filled / "o.csv").exists()


@pytest.mark.parametrize(
    "source",
    [
        "read_csv('/etc/passwd')",
        "read_text('/etc/passwd')",
        "glob('/etc/*')",
        "'/etc/passwd'",
        "read_csv('{folder}/../../../../../../../../etc/passwd')",
        "read_csv('https://example.com/a.csv')",
        "sniff_csv('/etc/passwd')",
    ],
)
def test_other_files_are_not_read(filled: Path, source: str) -> None:
    sql = f"FROM {source.format(folder=filled)}"
    with pytest.raises(
        TrustqError, match=r"Cannot access file .* disabled by configuration|does not exist"
    ):
        run_query(filled, sql)
    with connect(filled) as connection, pytest.raises(duckdb.Error):
        connection.execute(sql)
    with connect(filled) as connection, pytest.raises(duckdb.Error, match="locked"):
        connection.execute("SET enable_external_access = true")


def test_python_variables_are_not_read(tmp_path: Path) -> None:
    mark(tmp_path)
    secret = {"a": np.arange(3)}
    with pytest.raises(TrustqError, match="Table with name secret does not exist"):
        run_query(tmp_path, "FROM secret")
    assert len(secret["a"]) == 3


def test_errors_are_the_database_s_own_with_their_caret(tmp_path: Path) -> None:
    mark(tmp_path)
    for sql in ["SELECT armm FROM runs", "WITH a AS (FROM runs) SELECT armm FROM a"]:
        with pytest.raises(TrustqError) as error:
            run_query(tmp_path, sql)
        assert 'Referenced column "armm" not found' in message(error)
        line, caret = message(error).splitlines()[-2:]
        assert line == f"LINE 1: {sql}"
        assert caret.rstrip("^") == " " * line.index("armm")
    with pytest.raises(TrustqError) as error:
        run_query(tmp_path, "SELEC 1")
    assert message(error).startswith('Parser Error: syntax error at or near "SELEC"')
    with pytest.raises(TrustqError) as error:
        run_query(tmp_path, "SELECT error('at run time') FROM range(2)")
    assert message(error) == "Invalid Input Error: at run time"
    for sql, n in [("", 0), ("-- nothing", 0), ("SELECT 1; SELECT 2", 2)]:
        with pytest.raises(TrustqError) as error:
            run_query(tmp_path, sql)
        assert message(error) == f"Expected one SQL statement, found {n}."


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT 1;",
        " SELECT ';--x' AS \"é\" ; -- last ;",
        "-- first\nWITH a AS (SELECT 1) FROM a",
        "VALUES (1)",
        "(SELECT 1)",
        "FROM runs",
        "DESCRIBE runs",
        "SHOW TABLES",
        "SUMMARIZE runs",
        "EXPLAIN SELECT 1",
        "EXPLAIN ANALYZE (SELECT 1);",
        "/* why */ EXPLAIN (FORMAT json) SELECT 1",
        "FROM (PIVOT runs ON arm IN ('random') USING count(*))",
    ],
)
def test_statements_that_read_are_answered(filled: Path, sql: str) -> None:
    result = run_query(filled, sql)
    assert result.rows
    for format in ("table", "csv", "json", "markdown"):
        assert format_result(result, format)


def test_order_is_kept_and_names_are_distinct(tmp_path: Path) -> None:
    mark(tmp_path)
    result = run_query(tmp_path, "SELECT i, -i AS i FROM range(3) t(i) ORDER BY 1 DESC")
    assert result == Result(["i", "i_1"], [(2, -2), (1, -1), (0, 0)])


def test_save_writes_parquet(tmp_path: Path) -> None:
    one_of_each(tmp_path / "results")
    out = tmp_path / "out.parquet"
    save_query(tmp_path / "results", "SELECT arm, value FROM metric_values; -- all", out)
    assert duckdb.sql(f"FROM '{out}'").fetchall() == [("random", 0.5)]
    with pytest.raises(TrustqError) as error:
        save_query(tmp_path / "results", "EXPLAIN SELECT 1", out)
    assert message(error) == "A query plan is text, not a table: leave out the Parquet file."
    assert [path.name for path in tmp_path.iterdir() if path.is_file()] == ["out.parquet"]


def test_formats() -> None:
    result = Result(
        ["arm", "mean", "names"],
        [("a|b\n\x1b", 1 / 3, ["x", "y"]), (None, float("nan"), None), ("z" * 70, 12345678.0, [])],
    )
    assert format_result(result, "table") == "\n".join(
        [
            f"{'arm':70}         mean  names",
            f"{'-' * 70}  -----------  ------",
            f"{'a|b  ':70}     0.333333  [x, y]",
            f"{'':70}          nan",
            f"{'z' * 70}  1.23457e+07  []",
        ]
    )
    assert format_result(result, "markdown").splitlines()[:3] == [
        "| arm | mean | names |",
        "| --- | ---: | --- |",
        "| a\\|b   | 0.333333 | [x, y] |",
    ]
    assert json.loads(format_result(result, "json"))[:2] == [
        {"arm": "a|b\n\x1b", "mean": 1 / 3, "names": ["x", "y"]},
        {"arm": None, "mean": None, "names": None},
    ]
    text = format_result(Result(["a", "b"], [(0.1, ["x"]), (None, 'say "hi"')]), "csv")
    assert text == 'a,b\n0.1,"[""x""]"\n,"say ""hi"""'
    with pytest.raises(TrustqError) as error:
        format_result(result, "xml")
    assert (
        message(error) == "Unknown format 'xml'; expected one of table, lines, csv, json, markdown."
    )


def test_no_column_is_an_sql_keyword(tmp_path: Path) -> None:
    mark(tmp_path)
    keywords = {
        name
        for (name,) in duckdb.sql(
            "SELECT keyword_name FROM duckdb_keywords() WHERE keyword_category <> 'unreserved'"
        ).fetchall()
    }
    for name, _, listed in describe_results(tmp_path).rows:
        assert not keywords & {name, *listed.split(", ")}, name


def test_setting_names_are_columns() -> None:
    assert {*SETTINGS, *MATCHED, *PURCHASE, *COMPARED} <= set(TABLES["runs"])
    assert set(COORDINATES) <= set(TABLES["metrics"])
    # Every setting is matched, or its difference is shown.
    assert set(SETTINGS) <= {*MATCHED, *PURCHASE, *COMPARED, "arm", "arm_title"}


def test_queries_with_the_names_before_format_2_still_run(filled: Path) -> None:
    for former, today in (
        ("SELECT DISTINCT arm FROM cells", "SELECT DISTINCT arm FROM runs"),
        ("SELECT key, hits_possible FROM cells", "SELECT key, errors_findable FROM runs"),
        ("SELECT key, metric, figure FROM figures", "SELECT key, metric, value FROM metric_values"),
    ):
        old, new = run_query(filled, former), run_query(filled, today)
        assert sorted(map(str, old.rows)) == sorted(map(str, new.rows)) and new.rows
    assert "cells" not in describe_results(filled)


def test_examples_run(tmp_path: Path) -> None:
    one_of_each(tmp_path)
    with connect(tmp_path) as connection:
        for _, sql in EXAMPLES:
            connection.execute(sql)
    risk = next(sql for title, sql in EXAMPLES if title.startswith("Risk"))
    assert rows(tmp_path, risk) == [("random", "64", 0.5, 0.0), ("random", "64", 1.0, 0.5)]
    ledger = next(sql for title, sql in EXAMPLES if title.startswith("Ledger"))
    write(
        tmp_path,
        [first := cell("x", n_bought=4)],
        rounds=[{"run": first["key"], "round": 1, "n_bought_total": 4, "errors_found_total": 1}],
    )
    assert rows(tmp_path, ledger) == [("x", "64", 0.25, None, 1)]


def test_seeds_average_within_settings(tmp_path: Path) -> None:
    cells = [cell("random", draw, backbone) for draw in (0, 1, 2) for backbone in (1, 2)]
    figures = [0.1, 0.2, 0.3, 0.4, 0.5, None]
    other = cell("random", head="xgboost")
    metrics = [metric(c, figure) for c, figure in zip(cells, figures, strict=True)]
    metrics[0]["round"] = 1  # this seed had nothing left to buy
    write(tmp_path, [*cells, other], metrics=[*metrics, metric(other, 0.9)])
    read = rows(
        tmp_path,
        "SELECT head, mean, sd, n, n_backbone_seeds, n_draw_seeds, n_runs, minimum, maximum "
        "FROM seeds ORDER BY head",
    )
    assert read[0] == ("linear", pytest.approx(0.3), pytest.approx(np.std(figures[:5], ddof=1)),
                       5, 2, 3, 5, 0.1, 0.5)  # fmt: skip
    assert read[1] == ("xgboost", 0.9, None, 1, 1, 1, 1, 0.9, 0.9)


def test_curves_average_at_each_round(tmp_path: Path) -> None:
    cells = [cell("random", draw) for draw in (0, 1)]
    rounds = [
        {"run": c["key"], "round": r, "n_bought_total": 32 * r} for c in cells for r in (1, 2)
    ]
    metrics = [
        metric(c, 0.5 + r / 10 + draw / 100, round=r, is_final=r == 2)
        for draw, c in enumerate(cells)
        for r in (0, 1, 2)
    ]
    write(tmp_path, cells, rounds=rounds, metrics=metrics)
    read = rows(
        tmp_path, "SELECT round, is_final, n_bought_total, mean, n FROM curves ORDER BY round"
    )
    assert read == [
        (0, False, 0.0, pytest.approx(0.505), 2),
        (1, False, 32.0, pytest.approx(0.605), 2),
        (2, True, 64.0, pytest.approx(0.705), 2),
    ]


def test_paired_averages_within_its_unit(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    arms, draws, backbones = ["none", "random", "entropy"], 5, 3
    figures = rng.normal(size=(len(arms), draws, backbones))
    cells, metrics = [], []
    for (a, arm), d, b in itertools.product(enumerate(arms), range(draws), range(backbones)):
        cells.append(cell(arm, d, b))
        metrics.append(metric(cells[-1], figures[a, d, b]))
        metrics.append(metric(cells[-1], 99.0 * a, round=0, is_final=False))
    write(tmp_path, cells, metrics=metrics)
    read = rows(
        tmp_path,
        "SELECT arm, baseline, unit, budget, n, mean_difference, sd, sign_flip_floor, sign_flip_p, "
        "differs FROM paired",
    )
    assert len(read) == 3 * 2 * 2
    for arm, baseline, unit, budget, n, mean, sd, floor, p, differs in read:
        difference = figures[arms.index(arm)] - figures[arms.index(baseline)]
        units = difference.mean(axis=1 if unit == "draw_seed" else 0)
        test = sign_flip_test(units)
        assert (n, budget, differs) == (len(units), "64", ["score"])
        assert (mean, sd) == pytest.approx((units.mean(), units.std(ddof=1)))
        if unit == "draw_seed":  # beside several networks draws are no unit of a test
            assert (p, floor) == (None, None)
        else:
            assert (p, floor) == pytest.approx((test.p_value, test.floor))


def test_places_are_by_the_seeds_that_all_settings_have(tmp_path: Path) -> None:
    cells, metrics = [], []
    for arm, backbone in itertools.product(("none", "entropy"), (1, 2)):
        cells.append(cell(arm, 0, backbone))
        metrics.append(metric(cells[-1], 0.7 + 0.1 * backbone + 0.01 * (arm == "entropy")))
    cells.append(cell("entropy", 0, 3))  # a bad network that no other arm has
    metrics.append(metric(cells[-1], 0.1))
    write(tmp_path, cells, metrics=metrics)
    query = "SELECT place, arm, mean, n, n_common, n_left_out FROM leaderboard ORDER BY place"
    assert rows(tmp_path, query) == [
        (1, "entropy", pytest.approx(0.86), 2, 2, 1),
        (2, "none", pytest.approx(0.85), 2, 2, 0),
    ]


def test_places_without_common_seeds_are_by_own_ones_and_say_so(tmp_path: Path) -> None:
    cells = [cell("none", 0, 1), cell("entropy", 0, 2)]
    write(tmp_path, cells, metrics=[metric(c, 0.5 + 0.1 * i) for i, c in enumerate(cells)])
    query = "SELECT arm, mean, n, n_common, n_left_out FROM leaderboard ORDER BY place"
    assert rows(tmp_path, query) == [
        ("entropy", pytest.approx(0.6), 1, 0, 0),
        ("none", pytest.approx(0.5), 1, 0, 0),
    ]


def test_draws_that_are_copies_have_no_p_value(tmp_path: Path) -> None:
    cells, metrics = [], []
    for arm, draw, backbone in itertools.product(("none", "entropy"), range(10), (1, 2)):
        cells.append(cell(arm, draw, backbone))
        metrics.append(metric(cells[-1], 0.7 + 0.01 * backbone * (arm == "entropy")))
    write(tmp_path, cells, metrics=metrics)
    read = rows(tmp_path, "SELECT unit, n, sign_flip_p FROM paired WHERE arm = 'entropy'")
    assert sorted(read) == [("backbone_seed", 2, 0.5), ("draw_seed", 10, None)]


def test_paired_pairs_only_what_is_otherwise_equal(tmp_path: Path) -> None:
    none, small = cell("none"), cell("random", budget="64")
    large = cell("entropy", budget="128", leaky=True, n_trusted=3)
    other_head = cell("oracle", head="xgboost")
    other_draw = cell("oracle", draw=1)
    other_cache = cell("oracle", cache_digest="another")
    cells = [none, small, large, other_head, other_draw, other_cache]
    metrics = [metric(c, i) for i, c in enumerate(cells)]
    metrics.append(metric(small, 5, class_name="a"))  # has no partner
    metrics.append(metric(none, None, class_name="a"))
    write(tmp_path, cells, metrics=metrics)
    assert rows(
        tmp_path,
        "SELECT arm, baseline, budget, mean_difference, differs, leaky FROM paired "
        "WHERE unit = 'draw_seed' ORDER BY arm, baseline",
    ) == [
        ("entropy", "none", "128", 2.0, ["score", "leaky", "n_trusted"], True),
        ("none", "entropy", "128", -2.0, ["score", "leaky", "n_trusted"], True),
        ("none", "random", "64", -1.0, ["score"], None),
        ("random", "none", "64", 1.0, ["score"], None),
    ]


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.integers(-3, 3).map(float), min_size=1, max_size=EXACT_UP_TO + 2),
    st.sampled_from([1.0, 0.1, 1e-9]),
)
def test_sign_flip_p_equals_brute_force(differences: list[float], scale: float) -> None:
    d = np.array(differences) * scale
    with duckdb.connect() as connection:
        found = connection.execute(
            f"SELECT CASE WHEN n <= {EXACT_UP_TO} THEN {_sign_flip_p()} END "
            f"FROM (SELECT *, {_flipped_sums()} AS flipped "
            "FROM (SELECT ?::DOUBLE[] AS d, len(?::DOUBLE[]) AS n))",
            [d.tolist(), d.tolist()],
        ).fetchone()
    assert found is not None
    if len(d) > EXACT_UP_TO:
        assert found[0] is None
        return
    signs = np.array(list(itertools.product([1, -1], repeat=len(d))))
    sums = np.abs(signs @ d)
    assert found[0] == np.mean(sums >= abs(d.sum()) - 1e-9 * np.abs(d).sum())


def write_cells(folder: Path, arm: str) -> None:
    for draw in range(8):
        one = cell(arm, draw)
        write(folder, [one], metrics=[metric(one, 0.5, metric=f"m{j}") for j in range(3)])


def test_two_writers_and_a_reader_do_not_trip_each_other(tmp_path: Path) -> None:
    mark(tmp_path)
    spawn = multiprocessing.get_context("spawn")
    writers: list[Any] = [
        spawn.Process(target=_write_cells_by_path, args=(str(Path(__file__)), str(tmp_path))),
        threading.Thread(target=write_cells, args=(tmp_path, "random")),
        threading.Thread(target=write_cells, args=(tmp_path, "random")),  # the same cells again
    ]
    for writer in writers:
        writer.start()
    seen = 0
    while any(writer.is_alive() for writer in writers):
        counts = rows(
            tmp_path, "SELECT count(m.run) FROM runs c LEFT JOIN metrics m ON m.run = c.key "
            "GROUP BY c.key"
        )  # fmt: skip
        assert all(n == (3,) for n in counts)
        assert len(counts) >= seen
        seen = len(counts)
    for writer in writers:
        writer.join()
    assert writers[0].exitcode == 0
    assert rows(tmp_path, "SELECT count(*) FROM metric_values") == [(2 * 8 * 3,)]
    assert len(committed_keys(tmp_path)) == 16


def _write_cells_by_path(file: str, folder: str) -> None:
    write_cells(Path(folder), "entropy")


def test_part_names_are_new_and_sort_by_time() -> None:
    names = [new_part("sweep") for _ in range(50)]
    assert len(set(names)) == 50
    assert [name[:28] for name in names] == sorted(name[:28] for name in names)
    assert re.fullmatch(r"sweep-\d{8}T\d{12}-[0-9a-f]{8}", names[0])


def test_paired_of_some_figures_is_what_paired_says_of_them(tmp_path: Path) -> None:
    from support_sweep import finish_sweep, trivial_recipe, write_caches

    from trustq.results.views import paired_select

    recipe = trivial_recipe(tmp_path, write_caches(tmp_path), draws="2", head='"lda"')
    finish_sweep(recipe, tmp_path / "r", jobs=1)
    where = "metric = 'accuracy' AND split = 'test'"
    with connect(tmp_path / "r") as connection:
        told = connection.execute(f"FROM paired WHERE {where} ORDER BY ALL").fetchall()
        few = connection.execute(f"FROM ({paired_select(where)}) ORDER BY ALL").fetchall()
        of_arms = paired_select(where, pairs="b.arm = 'random' AND a.arm <> 'none'")
        some = connection.execute(f"FROM ({of_arms}) ORDER BY ALL").fetchall()
        arms = "baseline = 'random' AND arm <> 'none'"
        wanted = connection.execute(f"FROM paired WHERE {where} AND {arms} ORDER BY ALL").fetchall()
    # Three pairs of arms, two ways round, two budgets, two units, two stages.
    assert len(told) == 3 * 2 * 2 * 2 * 2 and few == told
    assert len(some) == 2 * 2 * 2 and some == wanted
