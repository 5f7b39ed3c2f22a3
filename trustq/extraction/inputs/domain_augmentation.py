"""Domain-bridging augmentations: what one clinic's images have and another's lack, put in or out.

Vignettes, rulers, gel bubbles, hair, focus, light, casts, noise, compression and skin tone. They
act on the network's input, so lengths are shares of its side.
"""

import difflib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw

from trustq.core.generators import generator
from trustq.errors import InputError
from trustq.extraction.inputs import pixels

_PROBABILITY = 0.3  # of an effect in one image of one epoch, where the recipe states none
_SMOOTH = 4  # curves are drawn this many times larger, then shrunk


@dataclass(frozen=True)
class Effect:
    """One effect: `apply(image, strength, rng)`; without strengths it is called with 0."""

    apply: Callable[[Image.Image, int, np.random.Generator], Image.Image]
    meaning: str
    strengths: int = 0
    probability: float = _PROBABILITY
    removes: bool = False  # acts on the image as it was taken, before it is turned


@dataclass(frozen=True)
class Bridging:
    """Effects as a recipe lists them; every draw depends on (seed, effect, epoch, row) alone."""

    seed: int
    items: tuple[tuple[str, int, float], ...]  # name, strength (0 = drawn), probability

    @classmethod
    def of_names(cls, names: Sequence[str], seed: int) -> "Bridging":
        """From `NAME[-STRENGTH][:PROBABILITY]`, applied in that order, removals first.

        Raises `TrustqError` for an unknown name, a strength that it does not have and a probability
        outside 0 to 1.

        >>> Bridging.of_names(["hair", "jpeg-2:0.5"], seed=0).items
        (('hair', 0, 0.3), ('jpeg', 2, 0.5))
        """
        return cls(seed, tuple(_parse(name) for name in names))

    def remove(self, image: Image.Image, epoch: int, row: int) -> Image.Image:
        """The image without what falls to it to lose in one epoch; before flips and rotation."""
        return self._applied(image, epoch, row, removes=True)

    def add(self, image: Image.Image, epoch: int, row: int) -> Image.Image:
        """The image with the other effects that fall to it; after flips and rotation."""
        return self._applied(image, epoch, row, removes=False)

    def _applied(self, image: Image.Image, epoch: int, row: int, *, removes: bool) -> Image.Image:
        for name, strength, probability in self.items:
            effect = EFFECTS[name]
            if effect.removes != removes:
                continue
            rng = generator(self.seed, f"bridge {name}", epoch, row)
            if rng.random() < probability:
                if effect.strengths and not strength:
                    strength = int(rng.integers(1, effect.strengths + 1))
                image = effect.apply(image, strength, rng)
        return image


def _parse(item: str) -> tuple[str, int, float]:
    text, _, share = item.partition(":")
    name, dash, level = text.rpartition("-")
    name, strength = (name, level) if dash else (text, "0")
    if name not in EFFECTS:
        close = difflib.get_close_matches(name, EFFECTS, n=1, cutoff=0.5)
        nearest = f" (did you mean {close[0]!r}?)" if close else ""
        raise InputError(
            f"bridging={item}: there is no effect {name!r}{nearest}. There are: "
            f"{', '.join(EFFECTS)}.",
            expected=EFFECTS,
            found=name,
        )
    most = EFFECTS[name].strengths
    if dash and strength not in map(str, range(1, most + 1)):
        has = f"has the strengths {name}-1 to {name}-{most}" if most else "has no strengths"
        raise InputError(f"bridging={item}: {name} {has}.")
    try:
        probability = float(share) if share else EFFECTS[name].probability
    except ValueError:
        probability = math.nan
    if not 0 < probability <= 1:
        raise InputError(
            f"bridging={item}: expected a probability above 0 and up to 1, e.g. {text}:0.5."
        )
    return name, int(strength), probability


def _vignette(image: Image.Image, _: int, rng: np.random.Generator) -> Image.Image:
    # Full light within `inner` (1 = the middle of an edge, 1.41 a corner), `floor` beyond `outer`.
    inner = rng.uniform(0.7, 0.95)
    outer = inner + rng.uniform(0.1, 0.45)
    floor = rng.uniform(0.0, 0.35)
    depth = np.clip((_radii(image.size) - inner) / (outer - inner), 0, 1)
    light = 1 - (1 - floor) * depth * depth * (3 - 2 * depth)
    return Image.fromarray(np.rint(np.asarray(image) * light[..., None]).astype(np.uint8))


def _remove_vignette(image: Image.Image, _: int, rng: np.random.Generator) -> Image.Image:
    # The light of each ring, from the brightest ring of the outer two thirds outwards. Where less
    # than a third of it is left there is nothing to brighten: skin from further in is put there.
    values = np.asarray(image)
    radii = _radii(image.size)
    ring = np.minimum((radii * _RINGS / math.sqrt(2)).astype(int), _RINGS - 1)
    grey = values.mean(axis=2)
    light = np.array(
        [np.median(grey[ring == i]) if (ring == i).any() else 0 for i in range(_RINGS)]
    )
    brightest = _RINGS // 3 + int(light[_RINGS // 3 :].argmax())
    share = np.ones(_RINGS)
    share[brightest:] = np.minimum.accumulate(light[brightest:] / max(light[brightest], 1))
    lost = share < 1 / 3
    source = radii
    if lost.any():
        source = _mirrored(radii, limit=(int(lost.argmax()) - 1) * math.sqrt(2) / _RINGS)
    height, width = radii.shape
    y, x = np.mgrid[:height, :width]
    scale = source / np.maximum(radii, 1e-6)
    rows = np.rint((height - 1) / 2 + (y - (height - 1) / 2) * scale).astype(int)
    columns = np.rint((width - 1) / 2 + (x - (width - 1) / 2) * scale).astype(int)
    at = source * _RINGS / math.sqrt(2) - 0.5
    gain = 1 / np.interp(at, np.arange(_RINGS), np.maximum(share, 1 / 3))
    lit = values[rows, columns] * gain[..., None]
    return Image.fromarray(np.clip(np.rint(lit), 0, 255).astype(np.uint8))


_RINGS = 32
_BAND = 0.25  # width from which lost skin is mirrored; wider would mirror the lesion


def _mirrored(radii: np.ndarray, *, limit: float) -> np.ndarray:
    """Where each radius beyond `limit` is taken from: to and fro in the band just within it."""
    beyond = radii - limit
    band = _BAND - np.abs(beyond % (2 * _BAND) - _BAND)
    return np.where(beyond > 0, limit - band, radii)


def _ruler(image: Image.Image, _: int, rng: np.random.Generator) -> Image.Image:
    # Ticks along one edge, every fifth of them twice as long, on the skin itself as scales of
    # dermatoscopes are.
    side = min(image.size)
    spacing = rng.uniform(0.02, 0.06) * side
    length = rng.uniform(0.03, 0.06) * side
    offset = rng.uniform(0.0, 0.04) * side
    width = max(1, round(side * rng.uniform(0.004, 0.009)))
    shade = int(rng.integers(0, 60))
    turns = int(rng.integers(4))
    across = image.size[turns % 2]

    def draw(canvas: ImageDraw.ImageDraw, times: int) -> None:
        for i in range(int(across / spacing) + 1):
            x, reach = i * spacing, length * (2 if i % 5 == 0 else 1)
            ends = [_turned(x, y, image.size, turns) for y in (offset, offset + reach)]
            points = [(times * a, times * b) for a, b in ends]
            canvas.line(points, fill=255, width=times * width)

    return _painted(image, draw, (shade, shade, shade), opacity=rng.uniform(0.7, 0.95))


def _turned(x: float, y: float, size: tuple[int, int], turns: int) -> tuple[float, float]:
    # (x, y) as seen from the top, left, bottom or right edge.
    width, height = size
    return [(x, y), (y, x), (x, height - 1 - y), (width - 1 - y, x)][turns]


def _bubbles(image: Image.Image, _: int, rng: np.random.Generator) -> Image.Image:
    # Lens-like: a lighter inside, a darker rim with a bright inner edge, and a spot of the lamp.
    n = int(rng.integers(4, 16))
    side = min(image.size)
    x, y = rng.uniform(0, 1, (2, n)) * np.array(image.size)[:, None]
    radius = side * rng.uniform(0.012, 0.06, n)
    rim = np.maximum(0.15 * radius, 0.6)
    layers = (
        (255, 0.12, x, y, radius, np.zeros(n)),
        (40, 0.35, x, y, radius, rim),
        (255, 0.3, x, y, radius - rim, rim / 2),
        (255, 0.75, x - 0.4 * radius, y - 0.4 * radius, 0.22 * radius, np.zeros(n)),
    )
    for shade, opacity, *circles in layers:
        image = _painted(image, _circles(np.stack(circles, axis=1)), (shade,) * 3, opacity=opacity)
    return image


def _circles(circles: np.ndarray) -> Callable[[ImageDraw.ImageDraw, int], None]:
    """Draws rows of (x, y, radius, width of the line, 0 = filled)."""

    def draw(canvas: ImageDraw.ImageDraw, times: int) -> None:
        for x, y, radius, line in (times * circles).tolist():
            box = (x - radius, y - radius, x + radius, y + radius)
            if line:
                canvas.ellipse(box, outline=255, width=max(1, round(line)))
            else:
                canvas.ellipse(box, fill=255)

    return draw


def _hair(image: Image.Image, _: int, rng: np.random.Generator) -> Image.Image:
    width, height = image.size
    side = min(image.size)
    growth = rng.uniform(0, math.pi)  # hair of one image lies roughly one way
    for _i in range(int(rng.integers(5, 19))):
        angle = growth + rng.normal(0, 0.35)
        reach = side * rng.uniform(0.2, 0.6)
        x, y = rng.uniform(0, width), rng.uniform(0, height)
        along = np.array([math.cos(angle), math.sin(angle)])
        bend = np.array([-along[1], along[0]]) * reach * rng.normal(0, 0.25)
        start, end = np.array([x, y]) - along * reach, np.array([x, y]) + along * reach
        t = np.linspace(0, 1, 24)[:, None]
        curve = (1 - t) ** 2 * start + 2 * t * (1 - t) * (np.array([x, y]) + bend) + t**2 * end
        thickness = side * rng.uniform(0.004, 0.009)
        colour = (np.array([60, 40, 30]) * rng.uniform(0.2, 1.2)).astype(int)
        image = _painted(
            image, _curve(curve, thickness), tuple(colour.tolist()), opacity=rng.uniform(0.6, 0.95)
        )
    return image


def _curve(points: np.ndarray, thickness: float) -> Callable[[ImageDraw.ImageDraw, int], None]:
    def draw(canvas: ImageDraw.ImageDraw, times: int) -> None:
        listed = [(times * x, times * y) for x, y in points.tolist()]
        canvas.line(listed, fill=255, width=max(1, round(times * thickness)), joint="curve")

    return draw


def _painted(
    image: Image.Image,
    draw: Callable[[ImageDraw.ImageDraw, int], None],
    colour: tuple[int, ...],
    *,
    opacity: float,
) -> Image.Image:
    width, height = image.size
    mask = Image.new("L", (_SMOOTH * width, _SMOOTH * height))
    draw(ImageDraw.Draw(mask), _SMOOTH)
    mask = mask.reduce(_SMOOTH).point([round(value * opacity) for value in range(256)])
    painted = image.copy()
    painted.paste(colour, mask=mask)
    return painted


def _remove_hair(image: Image.Image, _: int, rng: np.random.Generator) -> Image.Image:
    # As DullRazor (Lee et al. 1997): a closing fills what is thin and dark; of that what is long
    # and nowhere wide is hair, not the dots and net of a lesion. Skin about it is filled in.
    side = min(image.size)
    width, length = max(2 * round(side * 0.014) + 1, 5), 2 * round(side * 0.05) + 1
    grey = np.asarray(image.convert("L"))
    closed = 255 - _dilated(255 - _dilated(grey, width), width)
    dark = (closed - grey > 18).astype(np.uint8)
    wide = _dilated(1 - _dilated(1 - dark, width - 2), width + 2)
    hair = _dilated(_long(_dilated(dark * (1 - wide), 3), length), 3)[..., None]
    values = np.asarray(image).astype(np.float32)
    known, left = 1 - hair.astype(np.float32), hair > 0
    for reach in (width, 4 * width, side // 2):  # further where the skin near by is hair as well
        weight = _mean_about(known, reach)
        found = left & (weight > 0.02)
        values = np.where(found, _mean_about(values * known, reach) / (weight + 1e-9), values)
        left = left & ~found
        if not left.any():
            break
    return Image.fromarray(np.clip(np.rint(values), 0, 255).astype(np.uint8))


def _dilated(values: np.ndarray, side: int) -> np.ndarray:
    """Greatest value of a square of odd `side` about each pixel, (h, w)."""
    for axis in (0, 1):
        ends = [(side // 2, side // 2) if i == axis else (0, 0) for i in range(2)]
        padded = np.pad(values, ends)
        values = np.lib.stride_tricks.sliding_window_view(padded, side, axis=axis).max(axis=-1)
    return values


def _long(mask: np.ndarray, length: int) -> np.ndarray:
    """The parts of a mask of 0 and 1, (h, w), in which a straight line of `length` fits."""
    found = np.zeros_like(mask)
    half = length // 2
    padded = np.pad(mask, 2 * half)
    for angle in np.arange(16) * math.pi / 16:
        steps = np.arange(-half, half + 1)
        shifts = np.rint(np.outer(steps, [math.sin(angle), math.cos(angle)])).astype(int)
        inner = np.ones([n + 2 * half for n in mask.shape], mask.dtype)
        for down, right in shifts.tolist():
            inner &= _shifted(padded, half, down, right)
        for down, right in shifts.tolist():
            found |= _shifted(inner, half, down, right)
    return found


def _shifted(values: np.ndarray, margin: int, down: int, right: int) -> np.ndarray:
    height, width = values.shape
    return values[margin + down : height - margin + down, margin + right : width - margin + right]


def _mean_about(values: np.ndarray, reach: int) -> np.ndarray:
    """Mean of the square of about twice `reach` around each pixel, (h, w, c)."""
    for axis in (0, 1):
        ends = [(reach, reach) if i == axis else (0, 0) for i in range(3)]
        sums = np.cumsum(np.pad(values, ends, "edge"), axis=axis, dtype=np.float64)
        at = np.arange(values.shape[axis])
        values = np.take(sums, at + 2 * reach, axis=axis) - np.take(sums, at, axis=axis)
    return values / (2 * reach) ** 2


def _field_blur(image: Image.Image, strength: int, rng: np.random.Generator) -> Image.Image:
    # Half a pixel at least: Pillow takes less for none.
    return pixels.blur(image, max(0.5, (0.003, 0.006, 0.01)[strength - 1] * min(image.size)))


def _light(image: Image.Image, strength: int, rng: np.random.Generator) -> Image.Image:
    return pixels.scale_brightness(image, 1 + _either(rng) * (0.1, 0.2, 0.3)[strength - 1])


def _cast(image: Image.Image, strength: int, rng: np.random.Generator) -> Image.Image:
    most = (8, 16, 25)[strength - 1]
    direction = rng.normal(size=3)
    red, green, blue = (most * direction / np.abs(direction).max()).tolist()
    return pixels.shift_colour(image, (red, green, blue))


def _noise(image: Image.Image, strength: int, rng: np.random.Generator) -> Image.Image:
    return pixels.add_noise(image, (5.0, 12.0, 25.0)[strength - 1], rng)


def _jpeg(image: Image.Image, strength: int, rng: np.random.Generator) -> Image.Image:
    return pixels.compress(image, (60, 35, 20)[strength - 1])


def _skin_tone(image: Image.Image, _: int, rng: np.random.Generator) -> Image.Image:
    return pixels.shift_lab(image, draw_skin_tone(rng))


def draw_skin_tone(rng: np.random.Generator) -> tuple[float, float, float]:
    """A shift of L*, a* and b*: uniform in -25 to 15, -5 to 5 and -8 to 8."""
    lightness, a, b = rng.uniform([-25, -5, -8], [15, 5, 8]).tolist()
    return lightness, a, b


def _either(rng: np.random.Generator) -> int:
    return 1 if rng.random() < 0.5 else -1


def _radii(size: tuple[int, int]) -> np.ndarray:
    """Distance of each pixel from the centre, (h, w); 1 at the middle of each edge."""
    width, height = size
    y, x = np.ogrid[:height, :width]
    # Half a pixel inwards, so that pixel centres lie as those of an image twice as large.
    down, right = ((2 * y + 1) / height - 1), ((2 * x + 1) / width - 1)
    return np.sqrt(down**2 + right**2).astype(np.float32)


EFFECTS: dict[str, Effect] = {
    "vignette": Effect(_vignette, "dark round border"),
    "remove_vignette": Effect(
        _remove_vignette, "brightens a dark border, mirrors a black one", removes=True
    ),
    "ruler": Effect(_ruler, "ticks along an edge"),
    "bubbles": Effect(_bubbles, "bubbles of gel"),
    "hair": Effect(_hair, "dark curved hairs"),
    "remove_hair": Effect(
        _remove_hair, "fills thin dark lines from the skin about them", removes=True
    ),
    "blur": Effect(_field_blur, "the whole field out of focus", 3),
    "light": Effect(_light, "brightness up or down by 10, 20 or 30 %", 3),
    "cast": Effect(_cast, "a colour cast of 8, 16 or 25 levels", 3),
    "noise": Effect(_noise, "Gaussian noise of 5, 12 or 25 levels", 3),
    "jpeg": Effect(_jpeg, "JPEG of quality 60, 35 or 20", 3),
    "skin_tone": Effect(_skin_tone, "CIELAB shift: L -25..15, a +-5, b +-8", probability=0.7),
}
