"""The page of the sanity check: layers drawn anew, and maps beside random ones."""

from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import Any

from trustq.core.atomic_files import replacing
from trustq.core.safety import SAFETY
from trustq.explain.sanity import SanityCheck

_CAPTIONS = (
    "Maps of the network with its layers drawn anew, from the classifier down, against those of "
    "the network as trained: mean over rows with a 95 % bootstrap interval. The overlap is of the "
    "top 20 %, beside that of maps of different rows.",
    "Area under the curve of the class's probability while what the map marks is taken away "
    "(deletion, flipping: lower is better) or shown (insertion: higher is better), beside a "
    "random map; difference with a 95 % bootstrap interval over rows.",
)


def write_sanity(checks: Sequence[SanityCheck], path: Path) -> None:
    """Write the page, whole or not at all."""
    from jinja2 import Environment

    template = resources.files("trustq.report").joinpath("sanity.html").read_text("utf-8")
    page = Environment(autoescape=True, trim_blocks=True).from_string(template)
    shown = [
        {
            "cache": check.cache,
            "method": check.method,
            "n": check.n,
            "verdict": check.verdict,
            "good": check.depends_on_weights and any(curve.is_better for curve in check.curves),
            "tables": [
                _table(caption, rows)
                for caption, rows in zip(
                    _CAPTIONS, (check.stage_rows, check.curve_rows), strict=True
                )
            ],
        }
        for check in checks
    ]
    with replacing(Path(path)) as part:
        part.write_text(page.render(checks=shown, safety=SAFETY), encoding="utf-8")


def _table(caption: str, rows: list[dict[str, Any]]) -> dict[str, Any]:
    head = list(rows[0]) if rows else []
    return {
        "caption": caption,
        "head": [name.replace("_", " ") for name in head],
        "rows": [[_text(value) for value in row.values()] for row in rows],
    }


def _text(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:.3f}" if isinstance(value, float) else str(value)
