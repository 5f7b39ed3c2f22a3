"""Fingerprints of images: bytes, perceptual hashes of crops, a spectrum that shifts leave be."""

import hashlib
import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from trustq.colour import as_rgb
from trustq.errors import TrustqError

if TYPE_CHECKING:
    from PIL.Image import Image

HASH_SIDE = 16  # 256 bits: of 64, a crop by 5 % changes as many as another image does
WORDS = HASH_SIDE * HASH_SIDE // 64
_HASHED = 4 * HASH_SIDE  # pixels a side that imagehash takes the cosine transform of
_CROP = 0.05
# The frame, then what a crop by 5 % may leave: nine places of 95 %, 5 % off every side, off one.
VIEWS = (
    (0.0, 0.0, 1.0, 1.0),
    *((x, y, x + 0.95, y + 0.95) for x in (0.0, 0.025, 0.05) for y in (0.0, 0.025, 0.05)),
    (_CROP, _CROP, 1 - _CROP, 1 - _CROP),
    (_CROP, 0.0, 1.0, 1.0),
    (0.0, 0.0, 1 - _CROP, 1.0),
    (0.0, _CROP, 1.0, 1.0),
    (0.0, 0.0, 1.0, 1 - _CROP),
)
_THUMB = 128  # longest side that views are cut from: hashes of the full image are no better
_GRID = (48, 64)  # rows and columns of the spectrum's thumbnail
_BLUR = 6.0  # of its high pass, in its pixels
_KEPT = (12, 14)  # lowest frequencies kept: rows on either side, columns
_FLOOR = 0.05  # added before the logarithm, so that empty frequencies do not count


@dataclass(frozen=True)
class Fingerprints:
    """Of n images: `sha256` of files, `hashes` (n, views, words) of uint64, `spectra` (n, d)."""

    sha256: np.ndarray
    hashes: np.ndarray
    spectra: np.ndarray

    def __len__(self) -> int:
        return len(self.sha256)


def fingerprint_images(
    paths: Sequence[Path], *, threads: int = 2, progress: Callable[[int, int], None] | None = None
) -> Fingerprints:
    """Fingerprints of image files, in their order.

    `hashes` are imagehash's perceptual hashes of every one of `VIEWS`, so that a copy that was
    re-encoded, resized or cropped by 5 % has a view near the other's frame. `spectra` are the
    logarithms of the lowest Fourier magnitudes of the image without its slow parts, which stay
    when the same lesion is photographed again a little aside. Raises `TrustqError` for a file that
    is missing or no image.
    """
    from concurrent.futures import ThreadPoolExecutor

    n = len(paths)
    sha256 = np.empty(n, dtype=object)
    hashes = np.empty((n, len(VIEWS), WORDS), dtype=np.uint64)
    spectra = np.empty((n, 3 * 2 * _KEPT[0] * _KEPT[1]), dtype=np.float32)
    with ThreadPoolExecutor(threads) as pool:
        for row, found in enumerate(pool.map(_fingerprint, paths)):
            sha256[row], hashes[row], spectra[row] = found
            if progress is not None:
                progress(row + 1, n)
    return Fingerprints(sha256, hashes, spectra)


def _fingerprint(path: Path) -> tuple[str, np.ndarray, np.ndarray]:
    from PIL import Image as images

    try:
        data = Path(path).read_bytes()
        with images.open(io.BytesIO(data)) as image:
            image.draft("RGB", (2 * _THUMB, 2 * _THUMB))  # a large JPEG is decoded smaller
            colour = as_rgb(image)
    except OSError as error:
        raise TrustqError(f"{path} could not be read as an image ({error}).") from error
    return hashlib.sha256(data).hexdigest(), _hashes(colour), _spectrum(colour)


def _hashes(colour: "Image") -> np.ndarray:
    from PIL.Image import Resampling

    grey = colour.convert("L")
    grey.thumbnail((_THUMB, _THUMB), Resampling.BOX)
    width, height = grey.size
    views = np.empty((len(VIEWS), _HASHED, _HASHED))
    narrow: dict[tuple[float, float], Image] = {}
    for row, (left, top, right, bottom) in enumerate(VIEWS):
        low, high = top * height, bottom * height
        if width < height:  # Pillow may then resize down before across
            box = (left * width, low, right * width, high)
            view = grey.resize((_HASHED, _HASHED), Resampling.LANCZOS, box=box)
        else:
            # It resizes across, then down: views of equal sides share the first, to the pixel.
            if (left, right) not in narrow:
                box = (left * width, 0.0, right * width, float(height))
                wide = grey.resize((_HASHED, height), Resampling.LANCZOS, box=box)
                narrow[left, right] = wide
            box = (0.0, low, float(_HASHED), high)
            view = narrow[left, right].resize((_HASHED, _HASHED), Resampling.LANCZOS, box=box)
        views[row] = np.asarray(view)
    return perceptual_hashes(views)


def perceptual_hashes(views: np.ndarray) -> np.ndarray:
    """Hashes of grey images, (n, 64, 64), as (n, words) of uint64, bit for bit imagehash's phash.

    A bit for each of the lowest frequencies of the cosine transform: is it above their median? All
    images are transformed at once and nothing but what is kept, a quarter of imagehash's time.

    >>> steps = np.arange(64.0) * np.ones((2, 64, 1))
    >>> perceptual_hashes(steps).shape
    (2, 4)
    """
    from scipy.fft import dct

    lowest = dct(dct(views, axis=1)[:, :HASH_SIDE], axis=2)[:, :, :HASH_SIDE]
    lowest = lowest.reshape(len(views), -1)
    # Of an even number the median is the mean of the middle two.
    middle = lowest.shape[1] // 2
    ordered = np.partition(lowest, (middle - 1, middle), axis=1)
    median = ordered[:, middle - 1 : middle + 1].mean(axis=1, keepdims=True)
    return np.packbits(lowest > median, axis=1).view(np.uint64)


def _spectrum(colour: "Image") -> np.ndarray:
    from PIL.Image import Resampling
    from scipy.fft import rfft2
    from scipy.ndimage import gaussian_filter

    small = colour.resize((_GRID[1], _GRID[0]), Resampling.BOX)
    pixels = np.moveaxis(np.asarray(small, dtype=np.float32), 2, 0)
    fine = (pixels - gaussian_filter(pixels, (0, _BLUR, _BLUR))) * _window()
    fine -= fine.mean(axis=(1, 2), keepdims=True)
    fine /= np.sqrt((fine**2).sum(axis=(1, 2), keepdims=True)) + 1e-6
    magnitude = np.log(np.abs(rfft2(fine)) + _FLOOR)
    rows, columns = _KEPT
    lowest = np.concatenate([magnitude[:, :rows, :columns], magnitude[:, -rows:, :columns]], axis=1)
    return lowest.ravel().astype(np.float32)


def _window() -> np.ndarray:
    # The root of Hann's: edges would else put a cross into every spectrum.
    down, across = (np.hanning(side + 2)[1:-1] for side in _GRID)
    return np.sqrt(np.outer(down, across)).astype(np.float32)
