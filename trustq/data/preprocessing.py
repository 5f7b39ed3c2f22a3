"""From an image to the square of pixels that a network sees, and to its input; needs no torch."""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from trustq.data.pillow_rgb import decode_rgb

Box = tuple[float, float, float, float]  # left, top, right, bottom as shares of the frame

WHOLE: Box = (0.0, 0.0, 1.0, 1.0)

_RESAMPLING = {
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}


@dataclass(frozen=True)
class Preprocessing:
    """The evaluation transform, resolved: an image to a square of `size`, then normalized.

    `aspect` is `squash` (the whole image, the default, since lesions reach the border of their
    image), `crop` (the largest central square) or `pad` (the whole image on a square of the mean
    colour, which the network sees as zero).
    """

    size: int
    interpolation: str
    mean: tuple[float, ...]
    std: tuple[float, ...]
    aspect: str = "squash"

    @property
    def attribute(self) -> dict[str, Any]:
        """As it is stored in a cache."""
        return {
            "size": self.size,
            "resize": self.aspect,
            "interpolation": self.interpolation,
            "mean": list(self.mean),
            "std": list(self.std),
        }

    @classmethod
    def of_attribute(cls, stored: dict[str, Any]) -> "Preprocessing":
        """From a cache's attribute."""
        mean, std = (tuple(map(float, stored[name])) for name in ("mean", "std"))
        interpolation, aspect = str(stored["interpolation"]), str(stored["resize"])
        return cls(int(stored["size"]), interpolation, mean, std, aspect)

    @classmethod
    def of_config(
        cls,
        config: dict[str, Any],
        size: int,
        *,
        interpolation: str = "auto",
        aspect: str = "squash",
    ) -> "Preprocessing":
        """What timm records for a model, at `size` pixels."""
        if interpolation == "auto":
            interpolation = config.get("interpolation", "bicubic")
        if interpolation not in _RESAMPLING:
            interpolation = "bicubic"
        mean, std = (tuple(map(float, config[name])) for name in ("mean", "std"))
        return cls(size, interpolation, mean, std, aspect)

    def fitted(self, image: Image.Image, part: Box = WHOLE) -> Image.Image:
        """The image, or a part of what would be seen of it, as (size, size) pixels."""
        if self.aspect == "pad":
            image = self._padded(image)
        width, height = image.size
        across, down = (min(width, height),) * 2 if self.aspect == "crop" else (width, height)
        left, top = (width - across) / 2, (height - down) / 2
        box = (
            left + part[0] * across,
            top + part[1] * down,
            left + part[2] * across,
            top + part[3] * down,
        )
        return image.resize((self.size, self.size), _RESAMPLING[self.interpolation], box=box)

    def fitted_in_steps(self, image: Image.Image) -> Image.Image:
        """As `fitted`, across first and then down, whatever the shape; what a browser does too.

        Pillow 13 takes the two steps in an order that depends on the shape, which moves some values
        by a level.
        """
        if self.aspect == "pad":
            image = self._padded(image)
        width, height = image.size
        across, down = (min(width, height),) * 2 if self.aspect == "crop" else (width, height)
        left, top = (width - across) / 2, (height - down) / 2
        how = _RESAMPLING[self.interpolation]
        image = image.resize((self.size, height), how, box=(left, 0, left + across, height))
        return image.resize((self.size, self.size), how, box=(0, top, self.size, top + down))

    def _padded(self, image: Image.Image) -> Image.Image:
        side = max(image.size)
        colour = tuple(round(255 * value) for value in self.mean)
        square = Image.new("RGB", (side, side), colour)
        square.paste(image, ((side - image.width) // 2, (side - image.height) // 2))
        return square

    def pixels(self, data: bytes, *, reduced: bool = True) -> np.ndarray:
        """What the network sees of an image file's bytes, (size, size, 3) of uint8.

        With `reduced`, as in extraction, a JPEG of more than twice the size is decoded at a half, a
        quarter or an eighth; without, all is as in a browser: decoded at full size, resized in
        steps. Raises what Pillow raises.

        >>> import io
        >>> file = io.BytesIO()
        >>> Image.new("RGB", (9, 5), "red").save(file, "PNG")
        >>> half = Preprocessing(4, "bilinear", (0.5,) * 3, (0.5,) * 3)
        >>> half.pixels(file.getvalue())[0, 0].tolist()
        [255, 0, 0]
        """
        enough = (math.ceil(2 * self.size),) * 2 if reduced else None
        image = decode_rgb(data, enough=enough)
        return np.asarray(self.fitted(image) if reduced else self.fitted_in_steps(image))

    def network_input(self, pixels: np.ndarray) -> np.ndarray:
        """Normalized input, (b, 3, size, size) of float32, from (b, size, size, 3) of uint8.

        >>> half = Preprocessing(1, "bilinear", (0.5,) * 3, (0.5,) * 3)
        >>> half.network_input(np.full((1, 1, 1, 3), 255, np.uint8)).ravel().tolist()
        [1.0, 1.0, 1.0]
        """
        # In planes first, then in place: a quarter of the time of new arrays, with equal numbers.
        planes = pixels.transpose(0, 3, 1, 2).astype(np.float32, order="C")
        mean, std = (np.array(v, np.float32).reshape(1, 3, 1, 1) for v in (self.mean, self.std))
        planes /= np.float32(255)
        planes -= mean
        planes /= std
        return planes
