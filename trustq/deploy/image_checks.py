"""Is a photo good enough? A score with advice, from five rules; `page/pixels.js` is the same.

Rules and their weights are those of the field's app. They are advice and never change a tier. What
they are worth is measured when a model is packaged: a rule that fires on much of the validation
images says nothing about a photo and is left out for that model.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

SIDE = 256  # pixels of the longer side at which images are looked at
_HALVED_FROM = 600  # pixels of the longer side: common for dermatoscopic images
GOOD, FAIR = 80, 60  # bands of the score
LARGE_BYTES, LARGE_SIDE = 5_000_000, 4000  # above which a smaller photo is advised
MOST_OFTEN = 0.25  # a rule that fires on a larger share of validation images is left out

FAR_SHARE = 0.02  # a spot that fills less is too far
SKIN = ((0.4, 50), (0.2, 20))  # above: points off, of a close-up
BLUR = ((5.0, 40), (12.0, 15))  # variance of the Laplacian below: points off
DARK = ((60.0, 35), (90.0, 10))  # mean grey below
BRIGHT = ((220.0, 35), (180.0, 10))  # mean grey above
FLAT = (30.0, 20)  # standard deviation of grey below
TOO_FAR = 40
RULES = ("too_far", "skin", "blur", "dark", "bright", "flat")
_LEVELS = np.arange(256)


class Look(NamedTuple):
    """What is measured of an image at `SIDE` pixels."""

    brightness: float  # mean grey, 0 to 255
    contrast: float  # standard deviation of grey
    sharpness: float  # variance of the Laplacian
    skin: float  # share of pixels of the colour of skin
    spot: float  # share of pixels on the dark side of Otsu's threshold


class ImageCheck(NamedTuple):
    """Score from 0 to 100, its band (good, fair, poor), the rules that fired, and measures."""

    score: int
    band: str
    fired: tuple[str, ...]
    look: Look


def look_at(image: Image.Image) -> Look:
    """Measures of an upright RGB image, at `SIDE` pixels of its longer side or its own if smaller.

    >>> look = look_at(Image.new("RGB", (40, 30), (200, 200, 200)))
    >>> look.brightness, look.contrast, look.sharpness
    (200.0, 0.0, 0.0)
    """
    longer = max(image.size)
    width, height = (max(1, int(side * SIDE / longer + 0.5)) for side in image.size)
    image = image if image.mode == "RGB" else image.convert("RGB")
    # Means of whole blocks, and grey, which has a quarter of the bytes, cost a fraction of a filter
    # on colours, in which a server did most of its own work. A filter that halves comes last: where
    # blocks of four pixels and more left less to it, sharpness changed with the size.
    if (factor := max(longer // (2 * SIDE), 2 * (longer >= _HALVED_FROM))) > 1:
        image = image.reduce(factor)
    grey = image.convert("L")
    if longer > SIDE:
        # In two steps, whose order Pillow 13 would choose by the shape; down first is faster.
        grey = grey.resize((grey.width, height), Image.Resampling.BILINEAR)
        grey = grey.resize((width, height), Image.Resampling.BILINEAR)
    counts = np.array(grey.histogram())
    n = grey.width * grey.height
    # Products of integers are not BLAS's, which wakes a thread for each core: for so short a sum
    # they cost a server 3 ms.
    mean = int(counts @ _LEVELS) / n
    squares = int(counts @ _LEVELS**2) / n
    dark = int(counts[: _otsu(counts) + 1].sum())
    contrast = max(squares - mean**2, 0.0) ** 0.5
    return Look(mean, contrast, _sharpness(grey), _skin(image), dark / n)


def _sharpness(grey: Image.Image) -> float:
    """Variance of the Laplacian over the pixels that have four neighbours, from exact sums."""
    width, height = grey.size
    if min(width, height) < 3:
        return 0.0
    # Rows lie end to end, so that each step is one pass; where a row meets the next one the last
    # two of each row are no Laplacian, and are cut off.
    row = np.asarray(grey).astype(np.int16).ravel()
    found = np.empty((height - 2) * width, np.int16)
    inner = found[:-2]
    np.add(row[1 : -2 * width - 1], row[2 * width + 1 : -1], out=inner)
    inner += row[width : -width - 2]
    inner += row[width + 2 : -width]
    inner -= row[width + 1 : -width - 1] << 2
    laplacian = found.reshape(height - 2, width)[:, :-2].astype(np.int32)
    n = laplacian.size
    mean = int(laplacian.sum(dtype=np.int32)) / n
    laplacian *= laplacian
    # A row's squares fit 32 bits, at 256 pixels at most.
    squares = int(laplacian.sum(axis=1, dtype=np.int32).sum(dtype=np.int64))
    return float(squares / n - mean**2)


def _skin(image: Image.Image) -> float:
    """Share of pixels of the colour of skin: at half of `SIDE`, or each second one if smaller."""
    longer = max(image.size)
    if longer > SIDE:
        image = image.reduce(longer // (SIDE // 2))
    # Pillow keeps four bytes a pixel; as one number each they are copied, not packed.
    pixels = np.frombuffer(image.tobytes("raw", "RGBX"), "<i4")
    if longer <= SIDE:
        pixels = pixels.reshape(image.height, image.width)[::2, ::2].ravel()
    red, green, blue = pixels & 255, (pixels >> 8) & 255, (pixels >> 16) & 255
    # Cb from 77 to 127 and Cr from 133 to 173 (Chai and Ngan 1999), without 128 and in 31,250ths:
    # -.168736 red - .331264 green + .5 blue, and .5 red - .418688 green - .081312 blue.
    over_red, over_green = blue - red, blue - green
    cb = 5273 * over_red + 10_352 * over_green
    cr = 13_084 * over_green - 15_625 * over_red
    is_skin = _within(cb, -1_593_750, -31_250) & _within(cr, 156_250, 1_406_250)
    return float(np.count_nonzero(is_skin) / is_skin.size)


def _within(values: np.ndarray, low: int, high: int) -> np.ndarray:
    """Whether values of int32 lie from `low` to `high`; `values` is used up."""
    values -= low
    return values.view(np.uint32) <= high - low  # what was below has wrapped round


def check_look(look: Look, *, left_out: Sequence[str] = ()) -> ImageCheck:
    """The score of what was measured, without the rules that are `left_out`.

    >>> check_look(Look(120.0, 50.0, 80.0, 0.1, 0.2))
    ImageCheck(score=100, band='good', fired=(), look=Look(brightness=120.0, contrast=50.0, \
sharpness=80.0, skin=0.1, spot=0.2))
    >>> check_look(Look(50.0, 20.0, 3.0, 0.1, 0.2)).fired
    ('blur', 'dark', 'flat')
    """
    off = points_off(look)
    fired = tuple(rule for rule in RULES if off[rule] and rule not in left_out)
    score = max(0, 100 - sum(off[rule] for rule in fired))
    band = "good" if score >= GOOD else "fair" if score >= FAIR else "poor"
    return ImageCheck(score, band, fired, look)


def points_off(look: Look) -> dict[str, int]:
    """Points that each rule takes off, 0 where it does not fire."""
    is_far = look.spot < FAR_SHARE
    return {
        "too_far": TOO_FAR if is_far else 0,
        "skin": 0 if is_far else _above(look.skin, SKIN),
        "blur": _below(look.sharpness, BLUR),
        "dark": _below(look.brightness, DARK),
        "bright": _above(look.brightness, BRIGHT),
        "flat": FLAT[1] if look.contrast < FLAT[0] else 0,
    }


def measured_rules(looks: Sequence[Look]) -> dict[str, Any]:
    """How often each rule fires on these images, and which are left out because of that."""
    counts = {rule: 0 for rule in RULES}
    for look in looks:
        for rule, points in points_off(look).items():
            counts[rule] += points > 0
    shares = {rule: count / max(len(looks), 1) for rule, count in counts.items()}
    return {
        "n_images": len(looks),
        "fires_on": shares,
        "left_out": [rule for rule, share in shares.items() if share > MOST_OFTEN],
    }


def _above(value: float, steps: Sequence[tuple[float, int]]) -> int:
    return next((points for limit, points in steps if value > limit), 0)


def _below(value: float, steps: Sequence[tuple[float, int]]) -> int:
    return next((points for limit, points in steps if value < limit), 0)


def _otsu(counts: np.ndarray) -> int:
    """The grey value whose two sides differ most (Otsu 1979); the first of equal ones."""
    below, mass = counts.cumsum(), (counts * _LEVELS).cumsum()
    total, whole = below[-1], mass[-1]
    # Only from the first grey value that occurs to the one before the last have both sides pixels.
    first, last = (int(at) for at in np.searchsorted(below, (1, total)))
    if first == last:
        return -1
    below, mass = below[first:last], mass[first:last]
    above = total - below
    gap = mass / below - (whole - mass) / above
    return first + int((below.astype(float) * above * gap**2).argmax())
