"""A sheet of image pairs beside each other, for a person to say which are one."""

from collections.abc import Sequence
from pathlib import Path

from trustq.core.atomic_files import replacing
from trustq.data.pillow_rgb import read_rgb
from trustq.errors import NotFound

_SIDE = 180  # pixels of an image's longer side
_GAP = 8
_TEXT = 46  # height of the caption
_COLUMNS = 3  # pairs a row


def write_pair_sheet(
    pairs: Sequence[tuple[Path, Path]], captions: Sequence[str], path: Path
) -> Path:
    """Draw pairs with their captions (of up to three lines) into a PNG; returns its path."""
    from PIL import Image, ImageDraw, ImageFont

    if not pairs:
        raise NotFound("There is no pair to draw.")
    width, height = 2 * _SIDE + 2 * _GAP, _SIDE + _TEXT + _GAP
    rows = -(-len(pairs) // _COLUMNS)
    across = min(len(pairs), _COLUMNS)
    sheet = Image.new("RGB", (across * width + _GAP, rows * height + _GAP), "white")
    draw = ImageDraw.Draw(sheet)
    font = ImageFont.load_default(11)
    for number, (files, caption) in enumerate(zip(pairs, captions, strict=True)):
        left = _GAP + (number % _COLUMNS) * width
        top = _GAP + (number // _COLUMNS) * height
        for place, file in enumerate(files):
            small = read_rgb(file, enough=(2 * _SIDE, 2 * _SIDE))
            small.thumbnail((_SIDE, _SIDE))
            x = left + place * (_SIDE + 2)
            sheet.paste(small, (x, top + (_SIDE - small.height) // 2))
        draw.multiline_text((left, top + _SIDE + 2), caption, fill="black", font=font, spacing=2)
    with replacing(path) as part:
        sheet.save(part)
    return path
