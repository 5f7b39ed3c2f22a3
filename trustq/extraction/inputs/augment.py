"""What training images undergo: crop, flips, rotation, colour jitter, bridging between domains.

Torchvision and Pillow do the work; the numbers are drawn here, for torchvision takes its own from a
generator that loading processes and resumed runs would not share.
"""

import math
from dataclasses import dataclass

from PIL import Image, ImageEnhance

from trustq.core.generators import generator
from trustq.data.preprocessing import WHOLE, Box
from trustq.errors import InputError
from trustq.extraction.inputs.domain_augmentation import Bridging
from trustq.recipes import ExtractRecipe

_ASPECTS = (3 / 4, 4 / 3)  # of a random crop, as everywhere since Szegedy et al. (2015)


@dataclass(frozen=True)
class Augmentation:
    """A recipe's augmentation; every draw depends on (seed, epoch, row) alone."""

    seed: int
    horizontal_flip: bool
    vertical_flip: bool
    transpose: bool
    rotation: float  # degrees at most
    colour_jitter: float  # share at most
    hue_jitter: float = 0.0  # share of the colour circle at most, 0 to 0.5
    random_crop: float = 1.0  # least share of the area, 1 = none
    bridging: Bridging | None = None

    @classmethod
    def of_recipe(cls, recipe: ExtractRecipe, seed: int) -> "Augmentation":
        """The augmentation that a recipe asks for.

        Raises `TrustqError` for an amount that cannot be and an effect that is unknown.
        """
        for name, (least, most) in _RANGES.items():
            if not least <= getattr(recipe, name) <= most:
                raise InputError(
                    f"{name} is {getattr(recipe, name):g}, expected {least:g} to {most:g}."
                )
        return cls(
            seed,
            recipe.horizontal_flip,
            recipe.vertical_flip,
            recipe.transpose,
            recipe.rotation,
            recipe.colour_jitter,
            recipe.hue_jitter,
            recipe.random_crop,
            Bridging.of_names(recipe.bridging, seed) if recipe.bridging else None,
        )

    def crop(self, epoch: int, row: int) -> Box:
        """The part of the image that is seen in one epoch, before it is resized."""
        if self.random_crop == 1:
            return WHOLE
        area, aspect, across, down = self._draws(epoch, row)[8:]
        share = self.random_crop + area * (1 - self.random_crop)
        least, most = map(math.log, _ASPECTS)
        ratio = math.exp(least + aspect * (most - least))
        # Too wide or too high a crop is cut at the border.
        width = min(1.0, math.sqrt(share * ratio))
        height = min(1.0, math.sqrt(share / ratio))
        left, top = across * (1 - width), down * (1 - height)
        return (left, top, left + width, top + height)

    def __call__(self, image: Image.Image, epoch: int, row: int) -> Image.Image:
        """The cropped and resized image as it looks in one epoch."""
        left_right, up_down, turn, *colours, diagonal, hue = self._draws(epoch, row)[:8]
        if self.bridging is not None:
            image = self.bridging.remove(image, epoch, row)
        if self.horizontal_flip and left_right < 0.5:
            image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        if self.vertical_flip and up_down < 0.5:
            image = image.transpose(Image.Transpose.FLIP_TOP_BOTTOM)
        if self.transpose and diagonal < 0.5:
            image = image.transpose(Image.Transpose.TRANSPOSE)
        if self.rotation:
            degrees = (2 * turn - 1) * self.rotation
            image = image.rotate(degrees, Image.Resampling.BILINEAR)
        if self.colour_jitter:
            enhancers = (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color)
            for enhancer, draw in zip(enhancers, colours, strict=True):
                image = enhancer(image).enhance(1 + (2 * draw - 1) * self.colour_jitter)
        if self.hue_jitter:
            from torchvision.transforms.v2.functional import adjust_hue

            image = adjust_hue(image, (2 * hue - 1) * self.hue_jitter)
        if self.bridging is not None:
            image = self.bridging.add(image, epoch, row)
        return image

    def _draws(self, epoch: int, row: int) -> list[float]:
        # All numbers are drawn always, so that switching one part off leaves the others alone. A
        # new part's numbers come last, so that recipes without it see the pixels they always saw.
        draws: list[float] = generator(self.seed, "augment", epoch, row).random(12).tolist()
        return draws


_RANGES = {
    "rotation": (0, 180),
    "colour_jitter": (0, 1),
    "hue_jitter": (0, 0.5),
    "random_crop": (0.01, 1),
}
