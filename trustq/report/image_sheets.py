"""A sheet of the images whose labels look wrong, the worst of each confusion."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw, ImageFont, ImageOps

from trustq.audit.labels import LabelAudit
from trustq.core.atomic_files import replacing
from trustq.core.safety import DISCLAIMER
from trustq.data.pillow_rgb import read_rgb
from trustq.errors import InputError, TrustqError

CANDIDATES = 60
COLUMNS = 10
TILE = 170  # pixels, the longer side of an image
TEXT, HEAD, GAP = 13, 17, 8  # pixels
LINE = TEXT + 3


@dataclass(frozen=True)
class Montage:
    """A sheet that was drawn: how many images, and the ids of those that could not be read."""

    n: int
    missing: tuple[str, ...]


def draw_candidates(
    audit: LabelAudit, images: dict[str, Path], path: Path, *, candidates: int = CANDIDATES
) -> Montage:
    """Draw the most suspicious images, a row for each confusion, with id, quality and estimate.

    Rows are given -> suggested, most frequent first; each has its share of `candidates`, so that
    one confusion cannot fill the sheet. An image that cannot be read is a grey tile. Raises
    `TrustqError` where there is nothing to draw.
    """
    rows = chosen_candidates(audit, candidates)
    if not rows:
        raise InputError("The list of suspects is empty: there is nothing to draw.")
    blocks = [_block(audit, pair, own, images) for pair, own in rows.items()]
    columns = max(block.columns for block in blocks)
    width = 2 * GAP + columns * TILE + (columns - 1) * GAP
    font, bold = ImageFont.load_default(TEXT), ImageFont.load_default(HEAD)
    heads = 3 * GAP + HEAD
    n, foot = sum(map(len, rows.values())), TEXT + 3 * GAP
    height = heads + sum(heads + block.height for block in blocks) + foot
    sheet = Image.new("RGB", (width, height), "white")
    draw = ImageDraw.Draw(sheet)
    title = f"{n} of {len(audit.order)} suspects, given -> suggested"
    draw.text((GAP, GAP), title, fill="black", font=bold)
    y = heads
    for block in blocks:
        draw.line([(GAP, y), (width - GAP, y)], fill="#BBBBBB")
        text = _fitted(block.title, width - 2 * GAP, bold)
        draw.text((GAP, y + GAP), text, fill="#0072B2", font=bold)
        y += heads
        for strip in block.strips:
            tallest = max(tile.image.height for tile in strip)
            for place, tile in enumerate(strip):
                x = GAP + place * (TILE + GAP)
                sheet.paste(tile.image, (x + (TILE - tile.image.width) // 2, y))
                for line, caption in enumerate(tile.captions):
                    at = (x, y + tallest + 3 + line * LINE)
                    draw.text(at, _fitted(caption, TILE, font), fill="black", font=font)
            y += _strip_height(strip)
    draw.text((GAP, y + GAP), DISCLAIMER, fill="#777777", font=font)
    with replacing(Path(path)) as part:
        sheet.save(part)
    missing = [tile.sample_id for b in blocks for s in b.strips for tile in s if not tile.is_there]
    return Montage(n, tuple(missing))


def chosen_candidates(audit: LabelAudit, candidates: int) -> dict[tuple[int, int], list[int]]:
    """Rows to draw by confusion, (given, suggested) -> positions, worst first.

    Confusions take turns, the most frequent first, until `candidates` are drawn.
    """
    by_pair: dict[tuple[int, int], list[int]] = {}
    for row in audit.order.tolist():
        by_pair.setdefault((int(audit.given[row]), int(audit.suggested[row])), []).append(row)
    by_pair = {pair: _relatives_last(audit, own) for pair, own in by_pair.items()}
    ordered = sorted(by_pair, key=lambda pair: (-len(by_pair[pair]), pair))
    # As many confusions as leave each some images to compare, or all where they are few.
    ordered = ordered[: max(1, candidates // 6)]
    taken = dict.fromkeys(ordered, 0)
    left = candidates
    while left > 0 and any(taken[pair] < len(by_pair[pair]) for pair in ordered):
        for pair in ordered:
            if left and taken[pair] < len(by_pair[pair]):
                taken[pair] += 1
                left -= 1
    return {pair: by_pair[pair][: taken[pair]] for pair in ordered}


def _relatives_last(audit: LabelAudit, rows: list[int]) -> list[int]:
    # Two images of one lesion show the same doubt; another lesion is worth more to look at.
    seen: set[str] = set()
    first: list[int] = []
    for row in rows:
        if audit.groups[row] not in seen:
            first.append(row)
        seen.add(audit.groups[row])
    return first + [row for row in rows if row not in set(first)]


@dataclass(frozen=True)
class _Tile:
    sample_id: str
    image: Image.Image
    captions: tuple[str, ...]
    is_there: bool


@dataclass(frozen=True)
class _Block:
    """The images of one confusion, in strips of at most COLUMNS."""

    title: str
    strips: list[list[_Tile]]

    @property
    def columns(self) -> int:
        return max(map(len, self.strips))

    @property
    def height(self) -> int:
        return sum(map(_strip_height, self.strips))


def _strip_height(strip: list[_Tile]) -> int:
    return max(tile.image.height for tile in strip) + len(strip[0].captions) * LINE + 2 * GAP


def _block(
    audit: LabelAudit, pair: tuple[int, int], rows: list[int], images: dict[str, Path]
) -> _Block:
    given, suggested = (audit.classes[c] for c in pair)
    order = audit.order
    n = int(((audit.given[order] == pair[0]) & (audit.suggested[order] == pair[1])).sum())
    tiles = []
    for row in rows:
        sample_id = str(audit.sample_ids[row])
        image = _image(images.get(sample_id))
        captions = (
            sample_id,
            f"p({given}) {audit.p_given[row]:.3f}",
            f"p({suggested}) {audit.p_suggested[row]:.3f}",
        )
        tiles.append(_Tile(sample_id, image or _no_image(), captions, image is not None))
    strips = [tiles[start : start + COLUMNS] for start in range(0, len(tiles), COLUMNS)]
    return _Block(f"{given} -> {suggested}: {len(rows)} of {n}", strips)


def _image(path: Path | None) -> Image.Image | None:
    if path is None:
        return None
    try:
        upright = read_rgb(path, enough=(2 * TILE, 2 * TILE))
    except TrustqError:
        return None
    return ImageOps.contain(upright, (TILE, TILE))


def _no_image() -> Image.Image:
    tile = Image.new("RGB", (TILE, TILE), "#CCCCCC")
    ImageDraw.Draw(tile).text((GAP, GAP), "no image", fill="black")
    return tile


def _fitted(text: str, width: int, font: Any) -> str:
    """A text that is no wider than `width`; a long id keeps its end, which tells it apart."""
    shown = "".join(letter if letter.isprintable() else " " for letter in text)
    if font.getlength(shown) <= width:
        return shown
    while len(shown) > 1 and font.getlength("..." + shown) > width:
        shown = shown[1:]
    return "..." + shown
