"""Features larger than what a process may hold: audit, repair and evaluation to the same answer."""

import dataclasses
import subprocess
import sys
from pathlib import Path

import duckdb
import numpy as np
import pytest
from support import make_cache

import trustq as tq
from trustq.core import columns, database, free_memory
from trustq.experiments import run
from trustq.results import join_tables
from trustq.store import Cache, write_cache

# Runs the commands on a small cache, so that all is loaded, and then on a large one, where the
# process may hold so many bytes more. One core: every thread of DuckDB and BLAS has a stack and
# buffers, on some machines more than all features.
COMMANDS = """
import os, re, resource, sys
from pathlib import Path
os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
from trustq.cli import app

def run(file, out):
    results = ["--folds", "2", "--results", f"{out}/results"]
    for words in (
        ["audit", "labels", file, "--out", f"{out}/audit", *results],
        ["repair", file, "--arms", "none,self_confidence", "--no-references", "--budget", "2%",
         "--rounds", "2", "--draws", "1", "--regularisation", "0.01", *results],
        ["evaluate", file, "--calibrate", "cv:2", "--out", f"{out}/evaluation"],
    ):
        sys.argv = ["trustq", *words]
        try:
            app()
        except SystemExit as ended:
            if ended.code:
                raise

small, large, out, more = sys.argv[1:]
run(small, f"{out}/small")
if int(more):
    status = Path("/proc/self/status").read_text()
    most = 1024 * int(re.search(r"VmData:\\s+(\\d+)", status)[1]) + int(more)
    resource.setrlimit(resource.RLIMIT_DATA, (most, most))
run(large, f"{out}/large")
"""
FIGURES = (
    "SELECT arm, round, split, stage, metric, class_name, value FROM metric_values ORDER BY ALL"
)
BOUGHT = "SELECT run, round, rank, sample_id, quality, label_after FROM queries ORDER BY ALL"


def made(n: int, d: int) -> Cache:
    """A cache of three classes that lie apart, in half precision, with some wrong labels."""
    cache = make_cache(n=n, d=d, k=3, separation=8.0)
    observed = np.where(np.arange(n) % 97 == 0, (cache.label + 1) % 3, cache.label)
    return dataclasses.replace(
        cache,
        features=cache.features.astype(np.float16),
        logits=cache.features[:, :3],
        observed=observed.astype(np.int16),
    )


def answers(folder: Path) -> dict[str, object]:
    """What the commands wrote, without times."""
    found: dict[str, object] = {
        str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*.csv"))
    }
    results = tq.Results(folder / "results")
    for query in (FIGURES, BOUGHT):
        found[query] = results.sql(query).to_pandas().to_csv()
    return found


@pytest.mark.skipif(sys.platform != "linux", reason="limits of data are Linux's")
def test_commands_give_the_same_answer_within_less_memory_than_the_features_take(tmp_path):
    write_cache(tmp_path / "small.h5", made(600, 1024))
    write_cache(tmp_path / "large.h5", made(22_000, 1024))
    more = 86_000_000
    assert more < 22_000 * 1024 * 4
    for name, limit in (("free", 0), ("limited", more)):
        files = [tmp_path / "small.h5", tmp_path / "large.h5", tmp_path / name]
        done = subprocess.run(
            [sys.executable, "-c", COMMANDS, *files, str(limit)],
            capture_output=True,
            text=True,
            env={"OMP_NUM_THREADS": "1", "PATH": "", "TMPDIR": str(tmp_path)},
        )
        assert done.returncode == 0, done.stderr
    free, limited = (answers(tmp_path / name / "large") for name in ("free", "limited"))
    assert free["audit/label_issues.csv"].count(b"\n") > 100
    assert list(free) == list(limited)
    assert free == limited


@pytest.mark.parametrize(
    ("line", "folder", "names"),
    [
        ("0::/a/b", "a", ("memory.max", "memory.current", "file")),
        ("0::/", "", ("memory.max", "memory.current", "file")),  # within a container
        (
            "4:cpu,memory:/a/b",
            "memory/a",
            ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_cache"),
        ),
    ],
)
def test_limits_of_control_groups_count(tmp_path, line, folder, names):
    groups, root = tmp_path / "cgroup", tmp_path / "fs"
    groups.write_text(f"1:name=systemd:/x\n{line}\n")
    within = root / folder
    within.mkdir(parents=True)
    limit, used, of_files = names
    (within / limit).write_text("1000\n")
    (within / used).write_text("700\n")
    (within / "memory.stat").write_text(f"anon 500\n{of_files} 200\n")
    assert min(free_memory._left_in_groups(groups, root)) == 1000 - 700 + 200
    (within / limit).write_text("max\n" if limit == "memory.max" else f"{2**63 - 4096}\n")
    assert min(free_memory._left_in_groups(groups, root)) == np.inf


def setting(connection: duckdb.DuckDBPyConnection, name: str) -> object:
    """What a connection's setting is."""
    return connection.sql(f"SELECT current_setting('{name}')").fetchall()[0][0]


def test_a_database_keeps_to_the_limits_of_its_process(monkeypatch):
    monkeypatch.setattr(database, "left_of_limits", lambda: 2.0**30)
    with database.open_database() as connection:
        assert setting(connection, "memory_limit") == "512.0 MiB"
        assert setting(connection, "threads") == 1


def test_a_database_draws_no_bar_of_progress_into_what_a_command_prints(tmp_path):
    with database.open_database() as connection:
        assert setting(connection, "enable_progress_bar") is False
        with columns._own(connection) as own:
            assert setting(own, "enable_progress_bar") is False


def test_what_fits_made_is_forgotten_before_tables_are_written_only_where_memory_is_short(
    monkeypatch,
):
    features = np.arange(12.0).reshape(4, 3)
    once = run.SharedOnce()
    monkeypatch.setattr(run, "room_left", lambda: 1.0)
    made = once.of(features)
    once.make_room()
    assert once.of(features) is made
    monkeypatch.setattr(run, "room_left", lambda: 0.0)
    once.make_room()
    assert once.of(features) is not made


def test_columns_of_a_single_part_are_not_copied_as_it_is_joined():
    values = np.arange(3.0)
    assert join_tables([{"metrics": {"value": values}}])["metrics"]["value"] is values


def test_tables_written_where_memory_is_short_hold_the_same(monkeypatch, tmp_path):
    table = {"name": np.array([f"row {i}" for i in range(20_000)]), "value": np.arange(20_000) / 7}
    monkeypatch.setattr(columns, "is_short", lambda: True)
    columns.write_parquet(tmp_path / "a.parquet", table)
    groups = duckdb.sql(
        f"SELECT count(DISTINCT row_group_id) FROM parquet_metadata('{tmp_path}/a.parquet')"
    ).fetchall()
    assert groups == [(3,)]
    found = columns.read_table(tmp_path / "a.parquet")
    assert found["name"].tolist() == table["name"].tolist()
    np.testing.assert_array_equal(found["value"], table["value"])
