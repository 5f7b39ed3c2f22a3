"""Files and tables: whole or absent, and the same again when read."""

import gzip
import subprocess
import sys
import textwrap
from pathlib import Path

import duckdb
import numpy as np
import openpyxl
import pytest

from trustq.core import columns as tables
from trustq.core.atomic_files import replacing
from trustq.errors import TrustqError


def test_a_failed_write_keeps_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("old")
    with pytest.raises(ValueError, match="stop"), replacing(path) as part:
        part.write_text("new")
        raise ValueError("stop")
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["a.txt"]


def test_leftovers_of_dead_writers_are_cleared_and_of_living_ones_kept(tmp_path: Path) -> None:
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    gone, kept = tmp_path / f".a.{dead.pid}.part.txt", tmp_path / ".a.1.part.txt"
    log, log_kept = Path(f"{gone}.wal"), Path(f"{kept}.wal")  # of a database at work
    for path in (gone, kept, log, log_kept):
        path.touch()
    with replacing(tmp_path / "a.txt") as part:
        part.write_text("new")
    assert sorted(tmp_path.iterdir()) == sorted([tmp_path / "a.txt", kept, log_kept])


FULL_DISK = """
    import resource, signal, sys
    from pathlib import Path
    import numpy as np
    sys.path.insert(0, {tests!r})
    from support import make_cache
    from trustq.errors import TrustqError
    from trustq.store import write_cache
    from trustq.core.columns import write_parquet
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (5000, 5000))
    for name, write in (
        ("a.h5", lambda p: write_cache(p, make_cache())),
        ("a.parquet", lambda p: write_parquet(p, {{"x": np.random.rand(100_000)}})),
    ):
        path = Path({folder!r}) / name
        try:
            write(path)
        except TrustqError as error:
            print(error)
        assert not path.exists()
    print(sorted(p.name for p in Path({folder!r}).iterdir()))
"""


def test_a_disk_that_is_full_is_one_clear_error_and_leaves_nothing(tmp_path: Path) -> None:
    # A limit on the file size stands in for the full disk: the same write fails half-way.
    tests = str(Path(__file__).parent)
    code = textwrap.dedent(FULL_DISK).format(tests=tests, folder=str(tmp_path))
    shown = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False
    )
    assert shown.returncode == 0, shown.stderr
    lines = shown.stdout.splitlines()
    assert len(lines) == 3, shown.stdout
    assert "a.h5 could not be written" in lines[0]
    assert "a.parquet could not be written" in lines[1]
    assert lines[2] == "[]"


def test_columns_come_back_with_their_blanks(tmp_path: Path) -> None:
    path = tmp_path / "t.parquet"
    columns = {
        "name": np.array(["ä", None, "it's"], dtype=object),
        "count": np.ma.masked_array([1, 2, 3], mask=[False, True, False]),
        "share": np.array([0.5, np.nan, 1.0]),
        "pair": np.arange(6.0).reshape(3, 2),
    }
    tables.write_parquet(path, columns, types={"count": "INTEGER"}, metadata={"note": {"a": [1]}})
    read = tables.read_table(path)
    assert read["name"].tolist() == ["ä", None, "it's"]
    assert read["count"].tolist() == [1, None, 3]
    assert read["share"].tolist() == [0.5, None, 1.0]
    assert [list(pair) for pair in read["pair"]] == [[0, 1], [2, 3], [4, 5]]
    assert tables.read_metadata(path)["note"] == {"a": [1]}


def test_a_table_is_the_same_in_every_encoding_kind_and_folder(tmp_path: Path) -> None:
    header, rows = ["prob_A", "prob_a", "", "x=y"], [["1", "2.5", "é", ""], ["3", "", "b", "c"]]
    lines = [",".join(row) for row in (header, *rows)]
    folders = [tmp_path, tmp_path / "prob_A=9", tmp_path / "x=y=[1]"]
    expected = {
        "prob_A": ["1", "3"],
        "prob_a": ["2.5", None],
        "column2": ["é", "b"],
        "x=y": [None, "c"],
    }
    for folder in folders:
        folder.mkdir(exist_ok=True)
        (folder / "u8[1]*?.csv").write_text("\n".join(lines), encoding="utf-8-sig")
        (folder / "u81xx.csv").write_text("other\n1\n")
        (folder / "u16.csv").write_text("\n".join(lines), encoding="utf-16")
        (folder / "t.tsv").write_text("\n".join(lines).replace(",", "\t"))
        with gzip.open(folder / "g.csv.gz", "wt", encoding="utf-8") as file:
            file.write("\n".join(lines))
        book = openpyxl.Workbook()
        for row in (header, *rows):
            assert book.active is not None
            book.active.append([None if value == "" else value for value in row])
        book.save(folder / "e.xlsx")
        for name in ("u8[1]*?.csv", "u16.csv", "t.tsv", "g.csv.gz", "e.xlsx"):
            read = tables.read_table(folder / name)
            assert {key: values.tolist() for key, values in read.items()} == expected, name


def test_columns_of_parquet_that_are_neither_numbers_nor_texts_are_left_out(
    tmp_path: Path,
) -> None:
    path = tmp_path / "odd=[1].parquet"
    duckdb.sql(
        rf"""COPY (SELECT encode('ä') AS name, '\xff\x00'::BLOB AS picture,
        {{'bytes': '\xff'::BLOB, 'path': i || '.jpg'}} AS image, {{'a': 1}} AS box,
        MAP {{'k': 1}} AS pairs, [i, 2] AS list, 'b' AS List2, i AS odd
        FROM range(2) t(i)) TO {tables.literal(str(path))}"""
    )
    read = tables.read_table(path)
    # Fields of a struct are columns of their own.
    assert list(read) == ["name", "image", "box.a", "list", "List2", "odd"]
    assert read["box.a"].tolist() == [1, 1]
    assert read["name"].tolist() == ["ä", "ä"] and read["odd"].tolist() == [0, 1]
    assert read["image"].tolist() == ["0.jpg", "1.jpg"]


def test_csv_is_read_as_text_with_blanks(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text("id,age\n001,50\n002,\n")
    read = tables.read_table(path)
    assert read["id"].tolist() == ["001", "002"]
    assert read["age"].tolist() == ["50", None]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.parquet", b"PAR1 no", "a.parquet could not be read: "),
        ("a.mat", b"", "a.mat: expected a .parquet, .csv, .csv.gz, .tsv, .tab or .xlsx file."),
        ("a.xlsx", b"PK no", "a.xlsx could not be read as an Excel file: File is not a zip file."),
        ("a.csv", b"a,b\n1,K\xf6ln\n", r"line 2 \(in Windows-1252 it reads '1,Köln'\)"),
        ("c.csv", b"PK\x03\x04 xl", "c.csv is no CSV file but a zip archive, as Excel files "),
        ("d.csv", b"PAR1 no", "d.csv is no CSV file but a Parquet file: give it the ending of its"),
        ("b.csv", b"\xff\xfea\x00,", "b.csv begins as UTF-16 and is not"),
    ],
)
def test_a_file_that_is_no_table_says_so(
    tmp_path: Path, name: str, content: bytes, message: str
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(TrustqError, match=message):
        tables.read_table(tmp_path / name)
    with pytest.raises(TrustqError, match="nothing.csv: no such file."):
        tables.read_table(tmp_path / "nothing.csv")
