"""A trust table as rows of a results folder: `trust` and `trust_tests`."""

from pathlib import Path
from typing import Any

import numpy as np

from trustq.core.columns import Columns
from trustq.evaluation.trust_table import BASELINE, JUDGED_BY
from trustq.experiments.trust import TrustRun
from trustq.results import connect, new_part, write_part
from trustq.results.schema import MARKER, TABLES


def record_trust(run: TrustRun, results: Path) -> bool:
    """Write a table and its tests to a results folder, unless this very table is there.

    Returns whether rows were written. Raises `TrustqError` for results of a newer format.
    """
    results = Path(results)
    if (results / MARKER).is_file():
        with connect(results) as connection:
            there = connection.execute(
                "SELECT count(*) FROM trust WHERE trust_key = ?", [run.key]
            ).fetchone()
        if there and there[0]:
            return False
    common = {"trust_key": run.key, "dataset": run.judged.dataset}
    own = common | {
        "made_of": ",".join(run.judged.made_of),
        "thresholds_from": run.thresholds_from,
        "member": None,
    }
    rows = [own | row for row in run.table.rows]
    nothing = dict.fromkeys(("lower", "upper", "delta", "delta_lower", "delta_upper"), np.nan)
    rows += [own | nothing | row | {"n_groups": None, "n_members": 1} for row in run.table.members]
    tables = {"trust": _columns("trust", rows)}
    tests = [
        common
        | {"baseline": BASELINE, "metric": JUDGED_BY, "family": run.table.family, "holm_p": None}
        | row
        for row in run.table.wins
        if row["p"] is not None
    ]
    if tests:
        tables["trust_tests"] = _columns("trust_tests", tests)
    write_part(results, tables, part=new_part("trust"))
    return True


def _columns(table: str, rows: list[dict[str, Any]]) -> Columns:
    found: Columns = {}
    for name, kind in TABLES[table].items():
        values = [row.get(name) for row in rows]
        if kind == "VARCHAR":
            found[name] = np.array(values, dtype=object)
            continue
        blank = np.array([value is None or value != value for value in values])
        filled = [0 if missing else value for value, missing in zip(values, blank, strict=True)]
        dtype = np.int64 if kind == "INTEGER" else np.float64
        found[name] = np.ma.masked_array(np.array(filled, dtype=dtype), mask=blank)
    return found
