"""JSON that any reader takes, and tables of text that fit a terminal."""

import json
import math
from collections.abc import Sequence
from typing import Any

from trustq.core.prose import WIDTH
from trustq.core.text_tables import column_blocks


def to_json(value: Any) -> str:
    """Indented JSON; NaN and infinities become null, which is what JSON has for them.

    >>> print(to_json({"risk_at_0_5": float("nan")}))
    {
      "risk_at_0_5": null
    }
    """
    return json.dumps(_finite(value), indent=2, ensure_ascii=False, allow_nan=False)


def aligned(
    rows: Sequence[Sequence[str]], *, keys: int = 1, right: bool = False, width: int = WIDTH
) -> list[str]:
    """Rows of cells as lines of aligned columns, the first row being the head.

    Columns that do not fit follow below, beside the first ones (`keys`) again. Other cells are set
    to the left, or to the `right` as numbers are.

    >>> print("\\n".join(aligned([["a", "one", "two"], ["b", "1", "2"]], width=10)))
      a  one
      b  1
    <BLANKLINE>
      a  two
      b  2
    """
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    blocks = column_blocks(widths, keys, width - 2) or [list(range(len(widths)))]

    def cell(row: Sequence[str], c: int) -> str:
        return row[c].rjust(widths[c]) if right and c >= keys else row[c].ljust(widths[c])

    lines: list[str] = []
    for block in blocks:
        lines += [""] if lines else []
        lines += [("  " + "  ".join(cell(row, c) for c in block)).rstrip() for row in rows]
    return lines


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key): _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    if hasattr(value, "item"):  # numpy's scalars
        value = value.item()
    return None if isinstance(value, float) and not math.isfinite(value) else value
