"""A filled checklist as a page, Markdown or JSON."""

import json
from importlib import resources
from pathlib import Path
from typing import Any

from trustq.analysis.checklists import MISSING, Checklist
from trustq.core.atomic_files import replacing
from trustq.core.safety import SAFETY
from trustq.errors import InputError

ENDINGS = (".html", ".md", ".json")


def write_checklist(found: Checklist, path: Path) -> None:
    """Write a checklist in the form that the file's ending names: .html, .md or .json."""
    path = Path(path)
    makers = {".html": _html, ".md": checklist_markdown, ".json": _json}
    if path.suffix not in makers:
        raise InputError(f"{path}: expected a name that ends in {', '.join(ENDINGS)}.", path=path)
    with replacing(path) as part:
        part.write_text(makers[path.suffix](found), encoding="utf-8")


def count_said(found: Checklist) -> str:
    """How many items are reported, in a sentence."""
    n_missing = sum(item.status == MISSING for item in found.items)
    return (
        f"{found.n_reported} of {found.n_items} items have at least one part that a record or "
        f"statement proves; {n_missing} of {len(found.items)} parts are missing."
    )


def checklist_markdown(found: Checklist) -> str:
    """The checklist as a Markdown table, with the reproduction record below."""
    lines = [f"# {found.title}", "", count_said(found), "", *(f"> {text}" for text in SAFETY), ""]
    lines += ["| item | topic | status | record | where |", "|---|---|---|---|---|"]
    for item in found.items:
        cells = (_cell(text) for text in item)
        lines.append(f"| {' | '.join(cells)} |")
    lines += ["", "## Reproduction record", "", "```json", _record(found), "```", ""]
    return "\n".join(lines)


def checklist_record(found: Checklist) -> dict[str, Any]:
    """The checklist for JSON."""
    return {
        "checklist": found.name,
        "title": found.title,
        "n_reported": found.n_reported,
        "n_items": found.n_items,
        "items": [item._asdict() for item in found.items],
        "reproduction": found.record,
        "safety": list(SAFETY),
    }


def _html(found: Checklist) -> str:
    from jinja2 import Environment

    template = resources.files("trustq.report").joinpath("checklist.html").read_text("utf-8")
    page = Environment(autoescape=True, trim_blocks=True).from_string(template)
    return page.render(
        list=found,
        rows=[item._asdict() for item in found.items],
        count=count_said(found),
        safety=SAFETY,
        record=_record(found),
    )


def _json(found: Checklist) -> str:
    return json.dumps(checklist_record(found), indent=2, ensure_ascii=False, default=str) + "\n"


def _record(found: Checklist) -> str:
    return json.dumps(found.record, indent=2, ensure_ascii=False, default=str)


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")
