"""Merging parts: the rows stay, readers and writers do not notice, kills lose nothing."""

import json
import os
import re
import shutil
import time
from pathlib import Path

import numpy as np
import pytest
from support_sweep import (
    points_of,
    read_and_write,
    rows_digest,
    trivial_recipe,
    write_caches,
)
from trustq.cli import app
from typer.testing import CliRunner

from trustq.errors import TrustqError
from trustq.experiments import plan_sweep, run_sweep
from trustq.results import (
    clean,
    committed_keys,
    compact,
    compaction,
    connect,
    run_query,
    write_part,
)


@pytest.fixture(scope="module")
def caches(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_caches(tmp_path_factory.mktemp("caches"), 1)


@pytest.fixture(scope="module")
def four_parts(caches: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("four")
    for draws in range(1, 5):
        more(folder, caches, draws)
    return folder / "r"


@pytest.fixture
def results(four_parts: Path, tmp_path: Path) -> Path:
    """A folder of four parts with five cells each."""
    return Path(shutil.copytree(four_parts, tmp_path / "r"))


def more(folder: Path, caches: Path, draws: int) -> None:
    recipe = trivial_recipe(folder, caches, draws=str(draws))
    plan = plan_sweep(points_of(recipe), results=folder / "r")
    run_sweep(plan, results=folder / "r", jobs=1)


def n_parts(results: Path, table: str = "runs") -> int:
    return len(list((results / table).glob("*.parquet")))


def test_rows_stay_as_they_are(results: Path, caches: Path, tmp_path: Path) -> None:
    before = rows_digest(results)
    assert (compact(results, fewest=5), n_parts(results)) == (0, 4)
    assert compact(results, fewest=2) == 4
    assert rows_digest(results) == before
    assert n_parts(results) == 5  # the old ones are still there
    assert clean(results, grace_seconds=0) == 4
    assert rows_digest(results) == before
    assert [n_parts(results, table) for table in ("runs", "metrics", "labels")] == [1, 1, 1]
    assert compact(results, fewest=2) == 0
    # Merged parts are merged again with what came later, and nothing is run anew.
    keys = committed_keys(results)
    more(tmp_path, caches, 5)
    assert len(committed_keys(results) - keys) == 5
    assert compact(results, fewest=2) == 2
    assert clean(results, grace_seconds=0) == 2
    assert run_query(results, "SELECT count(*) FROM runs").rows == [(25,)]


def test_a_reader_that_began_before_goes_on(results: Path) -> None:
    with connect(results) as reader:
        compact(results, fewest=2)
        assert clean(results) == 0  # what was merged just now is kept for it
        assert reader.execute("SELECT count(*) FROM metrics").fetchall()[0][0] > 0


@pytest.mark.parametrize("table", ["queries", "metrics", "runs", "compactions"])
def test_killed_at_any_time_it_leaves_the_rows(
    results: Path, table: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = rows_digest(results)
    replacing = compaction.replacing

    def killed(path: Path):  # type: ignore[no-untyped-def]
        if path.parent.name == table:
            raise KeyboardInterrupt  # as good as a kill: nothing after it is done
        return replacing(path)

    monkeypatch.setattr(compaction, "replacing", killed)
    with pytest.raises(KeyboardInterrupt):
        compact(results, fewest=2)
    assert rows_digest(results) == before
    monkeypatch.undo()
    compact(results, fewest=2)
    assert rows_digest(results) == before
    monkeypatch.setattr(compaction, "GRACE_SECONDS", 0.0)
    clean(results, grace_seconds=0)
    assert rows_digest(results) == before
    parts = {path.stem for path in results.glob("*/*.parquet")}
    assert parts == {path.stem for path in results.glob("runs/*.parquet")} | {
        path.stem for path in results.glob("samples/*.parquet")
    }


def test_a_cell_of_two_writers_keeps_the_rows_that_are_shown(results: Path) -> None:
    # The same part under a later name, as when two sweeps raced.
    first = sorted(results.glob("runs/*.parquet"))[0].stem
    for path in list(results.glob(f"*/{first}.*")):
        (path.parent / f"sweep-29990101-twin{path.suffix}").write_bytes(path.read_bytes())
    before = rows_digest(results)
    assert compact(results, fewest=2) == 5
    clean(results, grace_seconds=0)
    assert rows_digest(results) == before
    assert run_query(results, "SELECT count(*) FROM runs").rows == [(20,)]


def test_failures_are_merged_too(caches: Path, tmp_path: Path) -> None:
    arms = '["none", "self_confidence@crossfit"]'
    for draws in ("1", "2"):
        recipe = trivial_recipe(tmp_path, caches, arms=arms, draws=draws)
        run_sweep(
            plan_sweep(points_of(recipe), results=tmp_path / "r"), results=tmp_path / "r", jobs=1
        )
    query = "SELECT draw_seed, budget, error FROM failures ORDER BY ALL"
    before = run_query(tmp_path / "r", query).rows
    assert len(before) == 4
    compact(tmp_path / "r", fewest=2)
    clean(tmp_path / "r", grace_seconds=0)
    assert run_query(tmp_path / "r", query).rows == before


def test_the_last_error_is_shown_whatever_was_merged(tmp_path: Path) -> None:
    for number, part in enumerate(("sweep-1", "sweep-2", "sweep-3", "compact-0")):
        row = {"request": "r", "error": f"error {number}", "created": f"2026-01-0{number + 1}"}
        columns = {name: np.array([value], dtype=object) for name, value in row.items()}
        write_part(tmp_path, {"failures": columns}, part=part)
    query = "SELECT request, error FROM failures"
    assert run_query(tmp_path, query).rows == [("r", "error 3")]
    assert compact(tmp_path, fewest=2) == 4
    clean(tmp_path, grace_seconds=0)
    assert run_query(tmp_path, query).rows == [("r", "error 3")]


def test_one_at_a_time(results: Path) -> None:
    with compaction._locked(results) as is_ours:
        assert is_ours
        with pytest.raises(TrustqError) as caught:
            compact(results, fewest=2)
        assert str(caught.value) == (f"{results} is being compacted by another process. Try later.")
        assert compact(results, fewest=2, wait=False) == 0
        with pytest.raises(TrustqError, match="is being compacted"):
            clean(results)
    assert compact(results, fewest=2) == 4


def test_what_killed_writers_left_is_cleaned_when_it_is_old(results: Path) -> None:
    part = sorted(results.glob("metrics/*.parquet"))[0]
    names = ("metrics/sweep-killed", "runs/.sweep-killed.7.part", "samples/.samples-x.8.part")
    left = [results / f"{name}.parquet" for name in names]
    for path in left:
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(part.read_bytes())
    before = rows_digest(results)
    # Rows without cells may be of a writer at work, so they stay whatever the grace.
    assert clean(results, grace_seconds=0) == 0
    for path in left:
        os.utime(path, (time.time() - 3600,) * 2)
    assert clean(results) == 3
    assert not any(path.exists() for path in left)
    assert rows_digest(results) == before


def test_a_record_that_was_half_written_is_none(results: Path) -> None:
    compact(results, fewest=2)
    half = results / "compactions" / ".compact-killed.7.part.json"
    half.write_text("")
    assert clean(results, grace_seconds=0) == 4
    assert not half.exists()
    gone = results / "compactions" / "compact-cleaned.json"
    gone.symlink_to(results / "no-such-file")  # listed, and deleted before it is read
    assert run_query(results, "SELECT count(*) FROM runs").rows == [(20,)]


def test_large_parts_are_left_and_batches_bounded(
    results: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes = list(compaction._small_parts(results).values())
    monkeypatch.setattr(compaction, "LARGEST", sizes[0] + sizes[1])
    assert [len(batch) for batch in compaction._batches(compaction._small_parts(results))] == [2, 2]
    monkeypatch.setattr(compaction, "LARGE", min(sizes))
    assert compact(results, fewest=2) == 0


def test_a_damaged_record_or_part_is_named(results: Path) -> None:
    before = rows_digest(results)
    compact(results, fewest=2)
    record = next((results / "compactions").glob("*.json"))
    record.write_text("{")
    with pytest.raises(TrustqError, match="is no record of a compaction"):
        clean(results, grace_seconds=0)
    with pytest.raises(TrustqError) as caught:
        run_query(results, "SELECT 1")
    assert str(caught.value) == (
        f"{record} is damaged: it is no record of a compaction. Delete it; the parts that it named "
        "are read again, and no row is shown twice."
    )
    record.unlink()
    assert rows_digest(results) == before
    part = sorted(results.glob("metrics/sweep-*.parquet"))[0]
    part.write_bytes(part.read_bytes()[:-9])
    with pytest.raises(TrustqError, match=f"^{re.escape(str(part))} is damaged: it has "):
        compact(results, fewest=2)
    assert not list((results / "compactions").glob("*.json"))


def test_the_commands_say_what_they_did(results: Path) -> None:
    done = CliRunner().invoke(app, ["results", "compact", "--results", str(results)])
    assert (done.exit_code, done.stderr) == (0, f"4 parts were merged in {results}\n")
    record = json.loads(next((results / "compactions").glob("*.json")).read_text())
    assert len(record["supersedes"]) == 4
    words = ["results", "clean", "--results", str(results), "--grace", "0"]
    done = CliRunner().invoke(app, words)
    assert (done.exit_code, done.stderr) == (0, f"4 parts were deleted from {results}\n")


def test_writers_and_readers_work_at_the_same_time(caches: Path, tmp_path: Path) -> None:
    recipes = []
    for head in ("majority", "lda"):
        (tmp_path / head).mkdir()
        recipes.append(trivial_recipe(tmp_path / head, caches, head=f'"{head}"', draws="2"))
    n_queries, n_cells = read_and_write(recipes, tmp_path / "r", readers=2, seconds=3)
    assert n_queries > 0 and n_cells >= 10
