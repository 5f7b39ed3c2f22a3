"""Images of any depth, orientation and transparency as upright eight-bit colour, decoded one way.

The network, the hashes, the measures and every sheet take their pixels from here, so that one
picture is the same picture everywhere.
"""

import io
import os
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from trustq.core.digest import digest_bytes
from trustq.errors import DamagedFile, TrustqError

if TYPE_CHECKING:
    from PIL.Image import Image

_DEEP = ("I", "I;16", "I;16B", "I;16L", "I;16N", "F")  # Pillow's modes of grey beyond eight bits
_DEPTHS = (8, 10, 12, 14, 16, 24, 32)  # bits that cameras and scanners give
_ORIENTATION = 0x0112  # EXIF
_TURNED = (5, 6, 7, 8)  # orientations that swap width and height
_MOST_SAMPLE = (341, 281)  # TIFF: SMaxSampleValue, MaxSampleValue
_PHOTOMETRIC = 262  # TIFF: 0 where the least value is white, as in X-rays


class Traits(NamedTuple):
    """What an image needs besides decoding: is it transparent, turned, and how deep is its grey?

    `depth` is None for eight bits, else what the values were scaled by, e.g. `12 of 16 bits`.
    """

    transparent: bool
    turned: bool
    depth: str | None


def read_rgb(
    path: Path, *, enough: tuple[int, int] | None = None, digest: str | None = None
) -> "Image":
    """The image of a file as upright eight-bit RGB; see `read_image`."""
    return read_image(path, enough=enough, digest=digest)[1]


def read_image(
    path: Path, *, enough: tuple[int, int] | None = None, digest: str | None = None
) -> tuple[bytes, "Image"]:
    """A file's bytes, and its image as upright eight-bit RGB.

    A JPEG much larger than `enough` (width, height) is decoded at a half, a quarter or an eighth.
    With `digest`, that of a manifest, the file's bytes must have it. Raises `TrustqError` for a
    file that is missing, no image, damaged, or another than the digest's.
    """
    try:
        data = Path(path).read_bytes()
        require_digest(path, data, digest)
        return data, decode_rgb(data, enough=enough)
    except TrustqError:
        raise
    except Exception as error:  # Pillow's decoders raise nearly anything on damaged files
        raise DamagedFile(
            f"{path} could not be read as an image ({reason_of(error)}). Replace the file, or "
            "prepare the manifest again without it.",
            path=path,
        ) from error


def require_digest(path: Path, data: bytes, digest: str | None) -> None:
    """Raise `TrustqError` unless the bytes of an image file are those of a manifest's digest."""
    if digest is not None and (found := digest_bytes(data)) != digest:
        raise DamagedFile(
            f"{path} is not the image that the manifest was made from (digest {found[:8]}..., "
            f"expected {digest[:8]}...). Put that image back, or prepare the manifest again.",
            path=path,
        )


def decode_rgb(data: bytes, *, enough: tuple[int, int] | None = None) -> "Image":
    """An image file's bytes as upright eight-bit RGB; raises whatever Pillow raises.

    >>> from PIL import Image
    >>> file = io.BytesIO()
    >>> Image.new("LA", (1, 1), (0, 0)).save(file, "PNG")
    >>> decode_rgb(file.getvalue()).getpixel((0, 0))
    (255, 255, 255)
    """
    from PIL import Image

    with warnings.catch_warnings():
        # Large slides are meant; Pillow still refuses what no memory could hold.
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        with Image.open(io.BytesIO(data)) as image:
            if enough is not None and image.format in ("JPEG", "MPO"):
                turned = image.getexif().get(_ORIENTATION) in _TURNED
                image.draft("RGB", enough[::-1] if turned else enough)
            return as_rgb(image)


def traits_of(data: bytes) -> Traits:
    """What an image file's header says, and for deep grey its values; raises as Pillow does."""
    from PIL import Image

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        with Image.open(io.BytesIO(data)) as image:
            depth = _scale(image, np.asarray(image))[1] if image.mode in _DEEP else None
            # TIFF is turned by Pillow itself, once its pixels are read.
            turned = image.getexif().get(_ORIENTATION, 1) not in (0, 1)
            return Traits(image.has_transparency_data, turned, depth)


def as_rgb(image: "Image") -> "Image":
    """The image upright, on white, as eight-bit RGB; grey of other depths is scaled to it.

    It takes the image over: one that is RGB already is turned in place and returned, since a copy
    of a phone's photo takes a third of the time of decoding it.

    The scale is the one that the file states or, since most state none, that of the fewest bits
    its largest value needs; float grey is from 0 to 1 where no value is above. Raises `ValueError`
    for values that fit no such scale: negative ones, NaN, or colour that fills 12 of 16 bits, of
    which Pillow gives the upper eight alone.

    >>> from PIL import Image
    >>> deep = Image.fromarray(np.array([[0, 257, 65535]], dtype=np.uint16))
    >>> np.asarray(as_rgb(deep))[0, :, 0].tolist()
    [0, 1, 255]
    >>> as_rgb(Image.new("RGBA", (1, 1), (0, 0, 0, 0))).getpixel((0, 0))
    (255, 255, 255)
    """
    from PIL import Image, ImageOps

    is_deep_colour = _is_deep_colour(image)
    ImageOps.exif_transpose(image, in_place=True)
    if image.mode in _DEEP:
        values = np.asarray(image)
        levels = np.rint(values.astype(np.float64) * (255 / _scale(image, values)[0]))
        levels = np.clip(levels, 0, 255).astype(np.uint8)
        if getattr(image, "tag_v2", {}).get(_PHOTOMETRIC) == 0:  # Pillow turns 8 bits alone
            levels = 255 - levels
        if isinstance(key := image.info.get("transparency"), int):
            levels[values == key] = 255
        return Image.fromarray(levels).convert("RGB")
    image.load()
    colour = image if image.mode == "RGB" else image.convert("RGB")
    if is_deep_colour and 0 < np.asarray(colour).max() < 16:
        raise ValueError("colour of 16 bits whose values fill 12 or fewer; save it as 8 bits")
    if image.has_transparency_data:
        drawn = image.convert("RGBA")
        white = Image.new("RGBA", drawn.size, "white")
        return Image.alpha_composite(white, drawn).convert("RGB")
    return colour


def reason_of(error: Exception) -> str:
    """Why an image could not be read, in a few words."""
    from PIL import Image, UnidentifiedImageError

    if isinstance(error, FileNotFoundError):
        return "no such file"
    if isinstance(error, UnidentifiedImageError):
        return "it is not an image, or of a kind that Pillow does not know"
    if isinstance(error, Image.DecompressionBombError):
        return f"more than {2 * (Image.MAX_IMAGE_PIXELS or 0):,} pixels"
    text = os.strerror(error.errno) if isinstance(error, OSError) and error.errno else str(error)
    return (text.strip().splitlines() or [type(error).__name__])[0].rstrip(".").lower()


def _scale(image: "Image", values: np.ndarray) -> tuple[float, str]:
    """The value that is white, and the depth in words."""
    if not values.size:
        raise ValueError("it has no pixels")
    least, most = float(values.min()), float(values.max())
    if not (least >= 0 and np.isfinite(most)):
        raise ValueError(f"grey values from {least:g} to {most:g}; save it as grey from 0 to 255")
    container = "float" if image.mode == "F" else f"{values.dtype.itemsize * 8} bits"
    if image.mode == "F" and most <= 1:
        return 1.0, "float from 0 to 1"
    tags = getattr(image, "tag_v2", {})
    stated = next((tags[tag] for tag in _MOST_SAMPLE if tags.get(tag)), None)
    if stated is not None:
        white = float(max(stated) if isinstance(stated, tuple) else stated)
        if most <= white:
            return white, f"white {white:g}, as the file states, of {container}"
    bits = next((bits for bits in _DEPTHS if most < 2**bits), None)
    if bits is None:
        raise ValueError(f"grey values up to {most:g}; save it as grey from 0 to 255")
    return float(2**bits - 1), f"{bits} of {container}"


def _is_deep_colour(image: "Image") -> bool:
    # Known before the pixels are read only: Pillow's raw mode is then `RGB;16B` or the like.
    tiles = getattr(image, "tile", None) or []
    return any(";16" in str(tile[-1]) for tile in tiles) and image.mode in (
        "RGB",
        "RGBA",
        "RGBX",
        "LA",
    )
