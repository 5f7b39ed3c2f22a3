"""The manifest's columns in `samples`: kept as JSON, a row each, and unfolded where SQL asks."""

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import duckdb

from trustq.core.sql_text import literal, quoted
from trustq.results.schema import TABLES

if TYPE_CHECKING:  # `trustq sql` starts without numpy
    from trustq.core.columns import Columns

# Columns of `samples` that caches know only where they carry the manifest's.
_OF_MANIFEST = ("path", "domain", "metadata")
_LOOKED_AT = 1000  # rows of a part
_KINDS = {"UBIGINT": "BIGINT", "BIGINT": "BIGINT", "DOUBLE": "DOUBLE", "BOOLEAN": "BOOLEAN"}


def sample_columns(manifest: Mapping[str, Sequence[Any]]) -> "Columns":
    """Columns of the table `samples` from those of a manifest, a value a row; none where none are.

    >>> found = sample_columns({"path": ["a.png"], "domain": ["photo"], "sex": ["f"]})
    >>> found["path"].tolist(), found["metadata"].tolist()
    (['a.png'], ['{"sex": "f"}'])
    """
    import numpy as np

    if not manifest:
        return {}
    own = {name: list(manifest[name]) for name in ("path", "domain") if name in manifest}
    others = [name for name in manifest if name not in own]
    if others:  # a manifest may have no more than a path and a domain
        rows = zip(*(manifest[name] for name in others), strict=True)
        own["metadata"] = [
            json.dumps(dict(zip(others, row, strict=True)), ensure_ascii=False) for row in rows
        ]
    return {name: np.array([*values, None], dtype=object)[:-1] for name, values in own.items()}


def newest_known(n_parts: int) -> str:
    """Columns of `samples` for a SELECT from its parts, of which the newest row is kept.

    What only some parts know of a sample is taken from the newest that does.
    """
    if n_parts < 2:
        return ", ".join(TABLES["samples"])
    over = (
        "(PARTITION BY dataset, sample_id ORDER BY filename DESC "
        "ROWS BETWEEN UNBOUNDED PRECEDING AND UNBOUNDED FOLLOWING)"
    )
    return ", ".join(
        f"first_value({name} IGNORE NULLS) OVER {over} AS {name}" if name in _OF_MANIFEST else name
        for name in TABLES["samples"]
    )


def with_manifest_columns(
    connection: duckdb.DuckDBPyConnection, select: str, parts: Sequence[str]
) -> tuple[str, dict[str, str]]:
    """The select of `samples` with a column for each of the manifest's, and all columns' types.

    `parts` are selects of each part alone.
    """
    held = dict(TABLES["samples"])
    known = [f"(SELECT metadata FROM ({part}) WHERE metadata IS NOT NULL)" for part in parts]
    # A part is of one manifest, whose columns have one type each: some rows show it, unless they
    # are all blank there. To parse them all takes 2 s a million rows.
    kinds = _kinds(connection, [f"(FROM {part} LIMIT {_LOOKED_AT})" for part in known])
    if "NULL" in kinds.values():
        kinds = _kinds(connection, known)
    taken = {name.lower() for name in held}
    columns = []
    for name, kind in kinds.items():
        own = name
        while own.lower() in taken:  # SQL does not tell cases apart
            own = f"manifest_{own}"
        taken.add(own.lower())
        held[own] = _KINDS.get(kind, "VARCHAR") if isinstance(kind, str) else "VARCHAR"
        pointer = literal("/" + name.replace("~", "~0").replace("/", "~1"))
        value = f"json_extract_string(metadata, {pointer})"
        columns.append(f"CAST({value} AS {held[own]}) AS {quoted(own)}")
    if not columns:
        return select, held
    return f"SELECT *, {', '.join(columns)} FROM ({select})", held


def _kinds(connection: duckdb.DuckDBPyConnection, selects: Sequence[str]) -> dict[str, Any]:
    """The kind of each key of the JSON in `metadata`, over all selects."""
    if not selects:
        return {}
    found = connection.execute(
        f"SELECT json_group_structure(CAST(metadata AS JSON)) FROM ({' UNION ALL '.join(selects)})"
    ).fetchone()
    kinds = json.loads(found[0]) if found and found[0] else {}
    return kinds if isinstance(kinds, dict) else {}


def lacks_columns(connection: duckdb.DuckDBPyConnection) -> str:
    """What to say of a column that is not there, where results know no column of a manifest."""
    try:
        found = connection.execute("SELECT count(metadata), count(*) FROM samples").fetchone()
    except duckdb.Error:  # the query names no samples, so their view was not made
        return ""
    if not found or found[0] or not found[1]:
        return ""
    return (
        "\nThese results know no column of the manifest: their caches were imported, or are of an "
        "older trustq. Name the manifest, or another table with sample_id: `metadata=FILE`."
    )
