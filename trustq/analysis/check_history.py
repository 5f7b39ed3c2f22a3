"""The history of checks: one row a check, with figures, sizes and milliseconds a sample."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from trustq.analysis.gates import LARGEST_FALL, Check
from trustq.core.atomic_files import replacing
from trustq.core.columns import read_table
from trustq.core.spreadsheets import csv_text
from trustq.errors import InputError
from trustq.results.schema import LOWER_IS_BETTER

_FIXED = ("checked", "setup", "n_runs", "n_rows", "passed", "head_bytes", "milliseconds_per_row")


def add_check(path: Path, found: Check) -> list[str]:
    """Add a check to a CSV, and say which figures fell against the last check of the setup.

    A fall of macro-F1 by more than .01 is told, of any other gated figure any fall. Raises
    `TrustqError` for a file that is no history.
    """
    path = Path(path)
    rows = _read(path) if path.exists() else []
    setup = ", ".join(f"{name} {value}" for name, value in found.setup.items() if value is not None)
    own: dict[str, Any] = {
        "checked": datetime.now(UTC).isoformat("T", "seconds"),
        "setup": setup,
        "n_runs": found.n_runs,
        "n_rows": found.n_rows,
        "passed": found.passed,
        "head_bytes": found.head_bytes,
        "milliseconds_per_row": found.milliseconds_per_row,
    } | {gate.figure: gate.value for gate in found.gates}
    last = next((row for row in reversed(rows) if row["setup"] == setup), None)
    told = [] if last is None else _falls(last, own, [gate.figure for gate in found.gates])
    rows.append(own)
    names = list(dict.fromkeys([*_FIXED, *(name for row in rows for name in row)]))
    with replacing(path) as part:
        text = csv_text(names, ([row.get(name) for name in names] for row in rows))
        part.write_text(text, encoding="utf-8")
    return told


def _read(path: Path) -> list[dict[str, Any]]:
    columns = read_table(path)
    if not set(_FIXED) <= set(columns):
        raise InputError(f"{path} is no history of checks. Name another file.", path=path)
    return [
        {name: column[row] for name, column in columns.items()}
        for row in range(len(columns["checked"]))
    ]


def _falls(last: dict[str, Any], own: dict[str, Any], figures: list[str]) -> list[str]:
    told = []
    for name in figures:
        try:
            before = float(last.get(name))  # type: ignore[arg-type]
        except (TypeError, ValueError):
            continue
        down = own[name] - before if name in LOWER_IS_BETTER else before - own[name]
        if down > LARGEST_FALL.get(name, 0.0):
            told.append(f"Alert: {name} went from {before:.4f} to {own[name]:.4f} since last time.")
    return told
