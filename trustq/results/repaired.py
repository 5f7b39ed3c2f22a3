"""Labels as an arm left them, as files that a backbone can be trained on again."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from trustq.core.columns import write_parquet
from trustq.core.counts import counted
from trustq.data.purchase_origin import PURCHASE_COLUMNS, Origin
from trustq.errors import InputError, NotFound
from trustq.results.query import connect
from trustq.results.schema import SETTINGS

# What tells two cells of one arm and one backbone apart.
_TOLD_APART = (*SETTINGS, "draw_seed", "cache_digest")

# A backbone trained again is no purchase: its labels were bought by another cell.
_CELLS = """
SELECT * FROM runs
WHERE arm = ? AND coalesce(origin_digest, cache_digest) = cache_digest
ORDER BY backbone_seed, key
"""


class RepairedLabels(NamedTuple):
    """A file of labels to train on, and what is in it."""

    path: Path
    backbone_seed: int
    n_rows: int
    n_bought: int
    n_wrong: int


def save_repaired_labels(
    results: Path,
    folder: Path,
    *,
    arm: str,
    where: str = "",
    origin: Callable[[Origin], Origin] | None = None,
) -> list[RepairedLabels]:
    """Write `<folder>/seed<S>.parquet` for each backbone seed: the labels that an arm left.

    Columns `sample_id`, `label` (NULL: the row was dropped), `trusted` and `bought_round`; the
    footer says which cell bought them, so that a network trained on them (`observed` of
    an extraction) is known as that arm with the backbone fitted again. `where` is a condition on
    `runs`, and `origin` makes what the footer says from the cell's own, where that was not the
    first purchase. Errors: no such arm, several cells of one seed, purchases from a part of the
    training rows or of another target, rows that were weighed down, a network of which no recipe
    says how it was trained.
    """
    with connect(results, where=where) as connection:
        answer = connection.execute(_CELLS, [arm])
        names = [column[0] for column in answer.description or []]
        cells = [dict(zip(names, row, strict=True)) for row in answer.fetchall()]
        if not cells:
            found = connection.execute("SELECT DISTINCT arm FROM runs ORDER BY arm").fetchall()
            there = ", ".join(name for (name,) in found) or "none"
            asked = f" where {where}" if where else ""
            raise NotFound(
                f"{results} has no run of arm {arm!r}{asked}; it has arms {there}.", path=results
            )
        _require_single(cells, arm)
        saved = []
        for cell in cells:
            rows = connection.execute(
                "SELECT sample_id, current_label, trusted, weight, bought_round, label "
                "FROM labels WHERE run = ? ORDER BY sample_id",
                [cell["key"]],
            ).fetchnumpy()
            saved.append(_save(Path(folder), cell, rows, origin))
    return saved


def _require_single(cells: list[dict[str, Any]], arm: str) -> None:
    """Refuse several cells of one backbone seed, naming what tells them apart."""
    by_seed: dict[int, list[dict[str, Any]]] = {}
    for cell in cells:
        by_seed.setdefault(cell["backbone_seed"], []).append(cell)
    for seed, own in by_seed.items():
        if len(own) > 1:
            told = [
                f"{name} ({', '.join(sorted(values))})"
                for name in _TOLD_APART
                if len(values := {str(cell[name]) for cell in own}) > 1
            ]
            raise InputError(
                f"Arm {arm!r} has {counted(len(own), 'run')} of backbone seed {seed}, which differ "
                f"in {'; '.join(told) or 'nothing that was asked'}. Choose with, for "
                "example, `where=budget = '64' AND head = 'linear' AND draw_seed = 0`."
            )


def _save(
    folder: Path,
    cell: dict[str, Any],
    rows: dict[str, Any],
    told: Callable[[Origin], Origin] | None,
) -> RepairedLabels:
    if cell["training"] is None:
        raise InputError(
            f"{cell['cache'] or 'A cache of the results'} does not say how its network was trained "
            "(it was imported or frozen, or its runs are older than this trustq), so no training "
            "on its repaired labels could be known to be like it. Run `trustq repair` on a cache "
            "that `trustq extract` trained."
        )
    if cell["rows_used"] != "split" or cell["target"] or cell["fit_on"]:
        raise InputError(
            f"Arm {cell['arm']!r} bought labels of some training rows or of another target "
            f"(rows {cell['rows_used']}, target {cell['target']}, fit_on {cell['fit_on']}); a "
            "network is trained again on all rows of the train split and their own labels. Choose "
            "other runs with `where`."
        )
    weight = rows["weight"]
    if np.any((weight > 0) & (weight < 1)):
        raise InputError(
            f"Arm {cell['arm']!r} weighs rows down, which a file of labels cannot say. Use its "
            ":relabel or :drop."
        )
    label = np.where(weight > 0, rows["current_label"], None)
    trusted = np.asarray(rows["trusted"], dtype=bool)
    origin = Origin.of({name: cell[name] for name in PURCHASE_COLUMNS}, where=cell["key"])
    origin = origin if told is None else told(origin)
    path = folder / f"seed{cell['backbone_seed']}.parquet"
    columns = {
        "sample_id": rows["sample_id"],
        "label": label,
        "trusted": trusted,
        "bought_round": rows["bought_round"],
    }
    write_parquet(path, columns, metadata={"origin": dict(origin.cell)})
    n_wrong = int(((label != rows["label"]) & (weight > 0)).sum())
    return RepairedLabels(path, cell["backbone_seed"], len(label), cell["n_bought"], n_wrong)
