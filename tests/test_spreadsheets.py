"""Lists that people open in a spreadsheet hold no formulas, and are read as they were."""

import csv
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trustq.core.columns import read_table
from trustq.core.label_sheets import read_sheet, write_sheet
from trustq.core.spreadsheets import FORMULA_STARTS, as_written, csv_text, harmless
from trustq.results import Result, format_result


@given(st.text())
def test_what_was_marked_is_read_as_it_was(text: str) -> None:
    assert as_written(harmless(text)) == text


@pytest.mark.parametrize("start", FORMULA_STARTS)
def test_no_text_begins_as_a_formula_and_numbers_stay_numbers(start: str) -> None:
    bad = f"{start}cmd|' /C calc'!A0"
    text = csv_text(["sample_id", bad], [[bad, -1.5], ["-2", 3]])
    rows = list(csv.reader(text.splitlines()))
    assert not any(
        cell.startswith(start) for row in rows for cell in row if cell not in ("-1.5", "-2")
    )
    assert rows[1][1] == "-1.5" and rows[2] == ["-2", "3"]


def test_a_sheet_with_such_ids_and_labels_comes_back_the_same(tmp_path: Path) -> None:
    ids, classes = ["=a", "'=a", "+1 b", "@x", "plain"], ("-none", "=SUM(A1)")
    rows = [{"sample_id": i, "label": classes[n % 2]} for n, i in enumerate(ids)]
    write_sheet(tmp_path / "answers.csv", rows)
    assert read_sheet(tmp_path / "answers.csv", classes=classes) == {
        i: [n % 2] for n, i in enumerate(ids)
    }
    assert read_table(tmp_path / "answers.csv")["sample_id"].tolist() == ids


def test_answers_of_queries_are_no_formulas() -> None:
    result = Result(["arm", "x"], [("=1+1", -0.5)])
    assert format_result(result, "csv") == "arm,x\n'=1+1,-0.5"


def test_columns_without_marks_are_left_as_they_are(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("a,b\n'x,1\nit's,2\n")
    table = read_table(tmp_path / "t.csv")
    assert table["a"].tolist() == ["'x", "it's"]
    assert isinstance(table["b"], np.ndarray)
