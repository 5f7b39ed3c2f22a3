"""Groups of rows that turn out to show one lesion: joined, so that no split divides them."""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from trustq.datasets.rows import Rows, column, texts
from trustq.errors import TrustqError
from trustq.tables import read_table

PAIR = ("sample_a", "sample_b")


def merged_groups(rows: Rows, pairs_file: Path) -> Rows:
    """Rows whose groups are one where a table of pairs joins them.

    The table has `sample_a` and `sample_b`, as `trustq audit duplicates` writes it; with a column
    `confirmed` only the rows that say yes, true or 1 there count. Pairs with an id of other data
    are passed over and counted. Raises `TrustqError` where no pair is of these data.
    """
    path = Path(pairs_file)
    table = read_table(path)
    ends = [texts(column(table, name, source=str(path)).tolist()).tolist() for name in PAIR]
    pairs = list(zip(*ends, strict=True))
    if "confirmed" in table:
        said = [str(value).strip().lower() for value in table["confirmed"].tolist()]
        pairs = [p for p, word in zip(pairs, said, strict=True) if word in ("yes", "true", "1")]
    row_of = {i: row for row, i in enumerate(rows.columns["sample_id"].tolist())}
    inside = [(a, b) for a, b in pairs if a in row_of and b in row_of]
    if not inside:
        raise TrustqError(
            f"{path}: none of its {len(pairs):,} pairs joins two samples of these data. A column "
            "`confirmed`, where there is one, must say yes."
        )
    groups = rows.columns["group_id"].tolist()
    joined = join_groups(groups, [(groups[row_of[a]], groups[row_of[b]]) for a, b in inside])
    n_before, n_after = len(set(groups)), len(set(joined))
    note = (
        f"{path.name}: {len(inside):,} pairs of {len(pairs):,} are of these data; "
        f"{n_before:,} groups became {n_after:,}."
    )
    columns = {**rows.columns, "group_id": texts(joined)}
    return replace(rows, columns=columns, notes=(*rows.notes, note))


def join_groups(groups: Sequence[str], pairs: Iterable[tuple[str, str]]) -> list[str]:
    """Each row's group after joining; joined groups take the name that is first in `groups`.

    >>> join_groups(["a", "b", "c", "d"], [("b", "c"), ("c", "a")])
    ['a', 'a', 'a', 'd']
    """
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    position = {name: index for index, name in enumerate(dict.fromkeys(groups))}
    ends = np.array([(position[a], position[b]) for a, b in pairs], dtype=np.intp).reshape(-1, 2)
    n = len(position)
    graph = coo_array((np.ones(len(ends)), (ends[:, 0], ends[:, 1])), shape=(n, n))
    component = connected_components(graph, directed=False)[1]
    name_of: dict[int, str] = {}
    for name, index in position.items():
        name_of.setdefault(int(component[index]), name)
    return [name_of[int(component[position[name]])] for name in groups]
