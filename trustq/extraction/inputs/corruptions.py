"""Corruptions: images as a worse camera would have taken them, at full size, by fixed amounts.

The table is the only place of an amount: what is stored in a cache is what was applied.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from PIL import Image

from trustq.core.generators import generator
from trustq.extraction.inputs import medmnist_c, pixels

# Name to parameters, which apply in their order. Noise and colour are in 8-bit levels, the radius
# in pixels of the image as it is on disk, before it is resized for the network.
CORRUPTIONS: dict[str, dict[str, Any]] = {
    "noise-1": {"noise_sigma": 5.0},
    "noise-2": {"noise_sigma": 12.0},
    "noise-3": {"noise_sigma": 25.0},
    "blur-1": {"blur_radius": 1.5},
    "blur-2": {"blur_radius": 2.5},
    "blur-3": {"blur_radius": 3.5},
    "jpeg-1": {"jpeg_quality": 60},
    "jpeg-2": {"jpeg_quality": 35},
    "jpeg-3": {"jpeg_quality": 20},
    "light-1": {"brightness": 1.15, "contrast": 1.0},
    "light-2": {"brightness": 1.30, "contrast": 1.1},
    "light-3": {"brightness": 1.45, "contrast": 1.2},
    "darker": {"brightness": 0.7},
    "brighter": {"brightness": 1.3},
    "cast": {"colour_shift": [25, 5, 0]},
    "down-up": {"resolution": 0.45},
    "rotation-15": {"degrees": 15.0},
    "rotation-45": {"degrees": 45.0},
    # A telephone held to the skin: a little out of focus, warm and too light, noisy, compressed.
    "realistic": {
        "blur_radius": 1.0,
        "brightness": 1.15,
        "colour_shift": [12, 3, 0],
        "noise_sigma": 5.0,
        "jpeg_quality": 60,
    },
}
FIRST = tuple(CORRUPTIONS)  # what the group `corruptions` holds, since caches were made with it

# The field's audits order casts and lost resolution as well.
CORRUPTIONS |= {
    "cast-1": {"colour_shift": [15, 0, 0]},
    "cast-2": {"colour_shift": [25, 5, 0]},
    "cast-3": {"colour_shift": [35, 10, 0]},
    "down-up-1": {"resolution": 0.6},
    "down-up-2": {"resolution": 0.45},
    "down-up-3": {"resolution": 0.33},
}
CORRUPTIONS |= {
    name: {"medmnist_c": [kind, amount]}
    for name, (kind, amount) in medmnist_c.corruption_names().items()
}


class Corruption:
    """One of `CORRUPTIONS`; the pixels of an image depend on the name and its sample id alone.

    >>> Corruption("darker")(Image.new("RGB", (1, 1), (100, 50, 0)), "ISIC_1").getpixel((0, 0))
    (70, 35, 0)
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.parameters = CORRUPTIONS[name]

    def __call__(self, image: Image.Image, sample_id: str) -> Image.Image:
        """The corrupted image, of the same size."""
        rng = generator(0, f"view {self.name} {sample_id}")
        for parameter, amount in self.parameters.items():
            image = _STEPS[parameter](image, amount, rng)
        return image


_STEPS: dict[str, Callable[[Image.Image, Any, np.random.Generator], Image.Image]] = {
    "noise_sigma": pixels.add_noise,
    "blur_radius": lambda image, radius, _: pixels.blur(image, radius),
    "jpeg_quality": lambda image, quality, _: pixels.compress(image, quality),
    "brightness": lambda image, factor, _: pixels.scale_brightness(image, factor),
    "contrast": lambda image, factor, _: pixels.scale_contrast(image, factor),
    "colour_shift": lambda image, levels, _: pixels.shift_colour(image, levels),
    "resolution": lambda image, scale, _: pixels.lose_resolution(image, scale),
    "degrees": lambda image, degrees, _: pixels.rotate(image, degrees),
    "medmnist_c": lambda image, how, rng: medmnist_c.corrupted(image, how[0], how[1], rng),
}
