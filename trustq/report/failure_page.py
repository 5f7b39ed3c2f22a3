"""The failure audit for people: a page that works offline, a panel for each case, and JSON."""

import base64
import io
import json
from collections.abc import Mapping
from dataclasses import asdict
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from trustq.core.atomic_files import replacing
from trustq.core.counts import counted
from trustq.core.safety import SAFETY
from trustq.data.pillow_rgb import read_rgb
from trustq.errors import TrustqError
from trustq.explain.activation_maps import scaled
from trustq.explain.causes import BY_NAME, CAUSES
from trustq.explain.failure_audit import KINDS, Case, FailureAudit

if TYPE_CHECKING:
    from PIL.Image import Image

ALPHA = 0.45  # of the map over the image
SIDE = 288  # pixels, the longer side on the page
PAGE, CASES, PANELS = "failures.html", "cases.json", "panels"
_QUALITY = 80


def write_failures(
    audit: FailureAudit,
    folder: Path,
    *,
    images: Mapping[str, Path] | None = None,
    aspect: str = "squash",
    panels: bool = True,
) -> list[Path]:
    """Write the page, `cases.json` and a PNG panel for each case to a folder; returns the paths.

    `images` are files by sample id; `aspect` is how images were made square for the network, so
    that maps lie where they belong. An image that cannot be read is left out and said.
    """
    folder = Path(folder)
    shown = {case.sample_id: case for case in audit.cases}
    drawn = {sample_id: _Drawn(case, audit, images, aspect) for sample_id, case in shown.items()}
    with replacing(folder / PAGE) as part:
        part.write_text(failure_html(audit, drawn), encoding="utf-8")
    with replacing(folder / CASES) as part:
        text = json.dumps(cases_record(audit), indent=1, ensure_ascii=False, allow_nan=False)
        part.write_text(text + "\n", encoding="utf-8")
    written = [folder / PAGE, folder / CASES]
    if panels:
        for number, (sample_id, one) in enumerate(drawn.items(), start=1):
            path = folder / PANELS / f"{number:03d}-{_file_name(sample_id)}.png"
            with replacing(path) as part:
                _panel(one, shown[sample_id]).save(part, "PNG")
            written.append(path)
    return written


def cases_record(audit: FailureAudit) -> dict[str, Any]:
    """The audit as JSON has it: cases, causes with their rules, counts and tests."""
    record = {
        name: value
        for name, value in asdict(audit).items()
        if name not in ("maps", "rows", "cases", "rules")
    }
    return record | {
        "safety": list(SAFETY),
        "kinds": KINDS,
        "causes": [asdict(cause) for cause in CAUSES],
        "rules": [asdict(rule) for rule in audit.rules],
        "cases": [asdict(case) for case in audit.cases],
    }


def failure_html(audit: FailureAudit, drawn: "Mapping[str, _Drawn]") -> str:
    """The page as text."""
    from jinja2 import Environment

    template = resources.files("trustq.report").joinpath("failures.html").read_text("utf-8")
    page = Environment(autoescape=True, trim_blocks=True).from_string(template)
    sections = [
        {
            "name": kind.capitalize(),
            "meaning": meaning,
            "cases": [_shown(case, drawn[case.sample_id]) for case in own],
        }
        for kind, meaning in KINDS.items()
        if (own := [case for case in audit.cases if case.kind == kind])
    ]
    return page.render(
        title=f"Failures of {audit.dataset}, {audit.split}",
        facts=_facts(audit),
        safety=SAFETY,
        notes=audit.notes,
        verdict=rule_verdict(audit),
        causes=_cause_rows(audit),
        counts=[_count_table(name, rows) for name, rows in audit.counts.items() if rows],
        sections=sections,
        settings=(
            f"Maps by {audit.method}, scaled to a largest value of 1, enlarged bilinearly and laid "
            f"over the image with alpha {ALPHA}. Confidence after temperature "
            f"{audit.temperature:.3f}."
        ),
    )


def rule_verdict(audit: FailureAudit) -> str:
    """A tested statement of how often the rules agree with the shuffled control."""
    if not audit.rules:
        return "There are no errors, so no rule was tested."
    every = audit.rules[-1]
    more = [rule.name for rule in audit.rules[:-1] if rule.p_value < 0.05 / len(audit.rules[:-1])]
    share, chance = every.n_fired / every.n_errors, every.expected / every.n_errors
    head = (
        f"A rule fires on {every.n_fired} of {every.n_errors} errors ({share:.1%}); where marks of "
        f"errors are dealt out at random it fires on {chance:.1%} (p = {every.p_value:.3g}). "
    )
    if not more:
        return head + (
            "No rule fires on errors significantly more often than on rows at random (Bonferroni "
            "over the rules), so these causes are descriptions, not explanations."
        )
    return head + (
        f"More often than by chance (Bonferroni over the rules): {', '.join(more)}. The others "
        "describe errors without telling them from other rows."
    )


class _Drawn:
    """A case's image and the image with its map, as Pillow images; no image where it is not there.

    Kept small, since a page holds tens of them.
    """

    def __init__(
        self,
        case: Case,
        audit: FailureAudit,
        images: Mapping[str, Path] | None,
        aspect: str,
    ) -> None:
        self.image, self.problem = _opened(case, images)
        place = int(np.flatnonzero(audit.rows == case.row)[0])
        self.overlay = _overlaid(self.image, scaled(audit.maps[place]), aspect)


def _opened(case: Case, images: Mapping[str, Path] | None) -> "tuple[Image | None, str]":
    if images is None or case.sample_id not in images:
        return None, "no image file"
    try:
        image = read_rgb(images[case.sample_id])
    except TrustqError as error:
        return None, str(error)
    # Small images are enlarged too, so that all cases are of one size.
    scale = SIDE / max(image.size)
    size = tuple(max(1, round(side * scale)) for side in image.size)
    return image.resize((size[0], size[1])), ""


def _overlaid(image: "Image | None", heat: np.ndarray, aspect: str) -> "Image":
    from PIL import Image

    size = image.size if image is not None else (SIDE, SIDE)
    base = image if image is not None else Image.new("RGB", size, (128, 128, 128))
    left, top, width, height = _covered(size, aspect if image is not None else "squash")
    coloured = Image.fromarray(heat.astype(np.float32), mode="F").resize(
        (width, height), Image.Resampling.BILINEAR
    )
    colours = Image.fromarray(_coloured(np.asarray(coloured)))
    layer = base.copy()
    layer.paste(colours, (left, top))
    return Image.blend(base, layer, ALPHA)


def _covered(size: tuple[int, int], aspect: str) -> tuple[int, int, int, int]:
    """Where a map lies over an image: left, top, width and height."""
    width, height = size
    if aspect == "squash":
        return 0, 0, width, height
    side = min(size) if aspect == "crop" else max(size)
    return (width - side) // 2, (height - side) // 2, side, side


def _coloured(heat: np.ndarray) -> np.ndarray:
    from matplotlib import colormaps

    return np.asarray((colormaps["inferno"](np.clip(heat, 0, 1))[..., :3] * 255).astype(np.uint8))


def _panel(drawn: _Drawn, case: Case) -> "Image":
    from PIL import Image, ImageDraw, ImageFont

    font, small = ImageFont.load_default(15), ImageFont.load_default(12)
    lines = [f"{name}: {value}" for name, value in _facts_of(case)]
    height = drawn.overlay.height + 70 + 17 * len(lines) + 30
    panel = Image.new("RGB", (2 * SIDE + 36, height), "white")
    draw = ImageDraw.Draw(panel)
    title = f"{case.sample_id}: label {case.label}, predicted {case.predicted}"
    draw.text((12, 10), _cut(title, 2 * SIDE, font), fill="black", font=font)
    if drawn.image is not None:
        panel.paste(drawn.image, (12, 38))
    else:
        draw.text((12, 60), "no image", fill="#777777", font=small)
    panel.paste(drawn.overlay, (24 + SIDE, 38))
    top = 38 + drawn.overlay.height + 10
    for line in lines:
        draw.text((12, top), _cut(line, 2 * SIDE + 12, small), fill="black", font=small)
        top += 17
    draw.text((12, height - 22), _cut(SAFETY[0], 2 * SIDE, small), fill="#777777", font=small)
    return panel


def _cut(text: str, width: int, font: Any) -> str:
    if font.getlength(text) <= width:
        return text
    while text and font.getlength(text + "...") > width:
        text = text[:-1]
    return text + "..."


def _shown(case: Case, drawn: _Drawn) -> dict[str, Any]:
    return {
        "sample_id": case.sample_id,
        "label": case.label,
        "predicted": case.predicted,
        "is_wrong": case.label != case.predicted,
        "image": _as_data(drawn.image) if drawn.image is not None else "",
        "overlay": _as_data(drawn.overlay),
        "facts": _facts_of(case),
    }


def _facts_of(case: Case) -> list[tuple[str, str]]:
    top = ", ".join(f"{name} {value:.3f}" for name, value in case.top)
    facts = [
        ("Top 3", top),
        ("Confidence", f"{case.confidence_before:.3f}, calibrated {case.confidence_after:.3f}"),
    ]
    if len(case.by_seed) > 1:
        facts.append(("Networks", ", ".join(case.by_seed)))
    if case.stability is not None:
        facts.append(("Stability", f"{case.stability:.3f}"))
    signs = [f"{name} {value:.3g}" for name, value in case.signs.items() if value is not None]
    facts.append(("Measures", ", ".join(signs) or "none"))
    if case.cause:
        cause = BY_NAME[case.cause]
        facts += [
            ("Cause", f"{cause.name} ({cause.rule})"),
            ("Mitigation", cause.mitigation),
            ("Residual risk", cause.residual_risk),
        ]
    near = ", ".join(f"{one.label} ({one.sample_id})" for one in case.neighbours)
    facts.append(("Nearest in training", near or "not given"))
    facts.append(("Group", case.group))
    said = [f"{name} {value}" for name, value in case.metadata.items() if value not in (None, "")]
    if said:
        facts.append(("Metadata", ", ".join(said)))
    return facts


def _facts(audit: FailureAudit) -> str:
    share = audit.n_errors / audit.n_rows
    said = f"{counted(audit.n_rows, 'row')}, {audit.n_errors:,} wrong ({share:.1%}). "
    if audit.n_validation:
        said += f"Temperature fitted on {counted(audit.n_validation, 'validation row')}. "
    if audit.stability_of:
        said += f"Stability is the overlap of the top 20 % of maps over {audit.stability_of}. "
    return said + "Each section lists at most as many cases as were asked for."


def _cause_rows(audit: FailureAudit) -> list[dict[str, Any]]:
    tests = {rule.name: rule for rule in audit.rules}
    totals = audit.counts.get("label (false negatives)", [])
    rows = []
    for cause in CAUSES:
        test = tests.get(cause.name)
        rows.append(
            {
                "name": cause.name,
                "rule": cause.rule,
                "errors": sum(row[cause.name] for row in totals),
                "fired": test.n_fired if test else "",
                "expected": f"{test.expected:.1f}" if test else "",
                "p": f"{test.p_value:.3g}" if test else "",
                "mitigation": cause.mitigation,
                "risk": cause.residual_risk,
            }
        )
    return rows


def _count_table(name: str, rows: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        "name": name,
        "head": list(rows[0]),
        "rows": [list(row.values()) for row in rows],
    }


def _as_data(image: "Image") -> str:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=_QUALITY)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()


def _file_name(sample_id: str) -> str:
    kept = "".join(c if c.isalnum() or c in "-_" else "_" for c in sample_id)
    return kept[:80] or "row"
