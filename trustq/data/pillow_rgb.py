"""Images of any depth as eight-bit colour."""

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from PIL.Image import Image

_DEEP = ("I", "I;16", "I;16B", "I;16L", "I;16N")  # Pillow's modes of sixteen-bit grey


def as_rgb(image: "Image") -> "Image":
    """The image as eight-bit RGB; sixteen-bit grey, as of X-rays, is scaled down to it.

    Pillow's own conversion clips sixteen bits at 255, so that nearly every pixel becomes white.

    >>> from PIL import Image
    >>> deep = Image.fromarray(np.array([[0, 257, 65535]], dtype=np.uint16))
    >>> np.asarray(as_rgb(deep))[0, :, 0].tolist()
    [0, 1, 255]
    """
    if image.mode not in _DEEP:
        return image.convert("RGB")
    from PIL import Image as images

    values = np.asarray(image).astype(np.float64) / 257
    return images.fromarray(np.clip(np.rint(values), 0, 255).astype(np.uint8)).convert("RGB")
