"""A trust table as rows of a results folder: `trust` and `trust_tests`."""

from pathlib import Path

import numpy as np

from trustq.evaluation.trust_table import BASELINE, JUDGED_BY
from trustq.experiments.trust import TrustRun
from trustq.results import new_part, table_columns, write_part
from trustq.results.query import has_key


def record_trust(run: TrustRun, results: Path) -> bool:
    """Write a table and its tests to a results folder, unless this very table is there.

    Returns whether rows were written. Raises `TrustqError` for results of a newer format.
    """
    results = Path(results)
    if has_key(results, "trust", run.key):
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
    tables = {"trust": table_columns("trust", rows)}
    tests = [
        common
        | {"baseline": BASELINE, "metric": JUDGED_BY, "family": run.table.family, "holm_p": None}
        | row
        for row in run.table.wins
        if row["p"] is not None
    ]
    if tests:
        tables["trust_tests"] = table_columns("trust_tests", tests)
    write_part(results, tables, part=new_part("trust"))
    return True
