"""Files of results: changed bytes are noticed, other folders change nothing, SQL writes nowhere."""

import os
import random
from pathlib import Path

import pytest
from support import make_cache

from trustq.errors import TrustqError
from trustq.experiments import repair
from trustq.recipes import load_recipe
from trustq.results import TABLES, compact, connect, run_query, save_query, verify_results


def write_results(folder: Path, draws: int = 3) -> Path:
    """Results of small repairs, two of their parts merged."""
    settings = ["sweep.noise=symmetric:0.2", "head=majority", "budgets=3", "folds=2"]
    settings += ["arms=none,random", "references=false", f"draws={draws}"]
    repair([make_cache(n=40, d=4)], recipe=load_recipe(settings=settings), results=folder)
    return folder


def everything(folder: Path) -> dict[str, list[tuple[object, ...]]]:
    """Every row of every table, in an order of its own."""
    with connect(folder) as connection:
        return {
            table: connection.execute(f"SELECT * FROM {table} ORDER BY ALL").fetchall()
            for table in TABLES
        }


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = write_results(tmp_path_factory.mktemp("whole") / "r")
    compact(folder, fewest=2)
    return folder


def test_a_changed_byte_is_noticed_or_changes_nothing(whole: Path) -> None:
    rng = random.Random(0)
    before = repr(everything(whole))
    files = sorted(path for path in whole.rglob("*") if path.is_file() and path.stat().st_size)
    noticed = 0
    for path in rng.sample(files, min(len(files), 30)):
        data = path.read_bytes()
        place = rng.randrange(len(data))
        path.write_bytes(
            data[:place] + bytes([data[place] ^ 1 << rng.randrange(8)]) + data[place + 1 :]
        )
        try:
            assert repr(everything(whole)) == before, path
        except TrustqError as error:
            assert str(whole) in str(error)
            noticed += 1
        finally:
            path.write_bytes(data)
    assert noticed > 5
    assert repr(everything(whole)) == before


def test_verify_names_each_damaged_file(tmp_path: Path) -> None:
    folder = write_results(tmp_path / "r")
    found = verify_results(folder)
    assert found.faults == () and found.n_parts >= 3 and found.n_unrecorded == 0
    path = sorted(folder.glob("metrics/*.parquet"))[0]
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    gone = sorted(folder.glob("rounds/*.parquet"))[1]
    gone.unlink()
    faults = verify_results(folder).faults
    assert faults == (
        f"{path} is damaged: 1 of its 1 blocks were changed.",
        f"{gone} is missing.",
    )
    with pytest.raises(TrustqError, match="is damaged"):
        run_query(folder, "SELECT 1")


@pytest.mark.parametrize("name", ["arm=mine", "dataset=x/head=y", "run[1]", "a*b"])
def test_the_name_of_a_folder_changes_nothing(tmp_path: Path, whole: Path, name: str) -> None:
    before = repr(everything(whole))
    folder = write_results(tmp_path / name / "r")
    arms = run_query(folder, "SELECT DISTINCT arm, dataset, head FROM runs ORDER BY ALL").rows
    assert (
        arms == run_query(whole, "SELECT DISTINCT arm, dataset, head FROM runs ORDER BY ALL").rows
    )
    kept = repr(everything(folder))
    assert compact(folder, fewest=2) >= 2
    assert repr(everything(folder)) == kept
    assert repr(everything(whole)) == before


def test_sql_of_a_user_has_no_folder(whole: Path, tmp_path: Path) -> None:
    with connect(whole) as connection:
        settings = connection.execute(
            "SELECT current_setting('temp_directory'), current_setting('allowed_directories'), "
            "current_setting('allowed_paths')"
        ).fetchone()
        assert settings == ("", ["trustq://"], [])
        for target in (whole / "runs" / "x.parquet", "trustq://runs/x.parquet", tmp_path / "x.csv"):
            with pytest.raises(Exception, match="disabled by configuration|only read"):
                connection.execute(f"COPY (SELECT 1) TO '{target}' (USE_TMP_FILE false)")
    assert not (whole / "runs" / "x.parquet").exists() and os.listdir(tmp_path) == []


def test_tables_of_a_user_are_read_before_the_lock(whole: Path, tmp_path: Path) -> None:
    (tmp_path / "a=b").mkdir()
    mine = tmp_path / "a=b" / "mine[1].csv"
    mine.write_text("arm,price\nrandom,2.5\nnone,0\n")
    sql = "SELECT DISTINCT arm, price FROM runs JOIN mine USING (arm) ORDER BY arm"
    assert run_query(whole, sql, tables={"mine": mine}).rows == [("none", 0.0), ("random", 2.5)]
    out = tmp_path / "answer.parquet"
    save_query(whole, sql, out, tables={"mine": mine})
    again = run_query(whole, "SELECT price FROM p ORDER BY 1", tables={"p": out}).rows
    assert again == [(0.0,), (2.5,)]
    with pytest.raises(TrustqError, match="cannot name a table"):
        run_query(whole, "SELECT 1", tables={"runs": mine})
