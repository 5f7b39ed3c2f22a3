"""Fingerprints of images: bytes, perceptual hashes of crops, keypoints."""

import hashlib
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from trustq.audit.duplicates.keypoints import Keypoints, find_keypoints, one_thread_an_image
from trustq.data.pillow_rgb import read_image

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
_LARGE = 30 << 20  # bytes; the limit grows up to 32 MiB
_THUMB = 128  # longest side that views are cut from: hashes of the full image are no better


@dataclass(frozen=True)
class Fingerprints:
    """Of n images: `sha256` of files, `hashes` (n, views, words) of uint64, `keypoints` if any."""

    sha256: np.ndarray
    hashes: np.ndarray
    keypoints: Keypoints | None

    def __len__(self) -> int:
        return len(self.sha256)


def fingerprint_images(
    paths: Sequence[Path],
    *,
    digests: Sequence[str | None] | None = None,
    keypoints: bool = True,
    threads: int = 2,
    progress: Callable[[int, int], None] | None = None,
) -> Fingerprints:
    """Fingerprints of image files, in their order.

    `hashes` are imagehash's perceptual hashes of every one of `VIEWS`, so that a copy that was
    re-encoded, resized or cropped by 5 % has a view near the other's frame. `keypoints` are found
    again where the same lesion is photographed once more. Raises `TrustqError` for a file that is
    missing, no image, or not the one of its digest in a manifest's `digests`.
    """
    from concurrent.futures import ThreadPoolExecutor

    def fingerprint(path: Path, expected: str | None) -> tuple[str, np.ndarray, Keypoints | None]:
        digest, colour = _read(path, expected)
        return digest, _hashes(colour), find_keypoints(colour) if keypoints else None

    # The C library gives freed arrays back to the system, and its pages are cleared anew for each
    # image, a sixth of the time, until it has seen a larger one come and go (glibc, mallopt(3)).
    np.empty(_LARGE, dtype=np.uint8)
    n = len(paths)
    expected = [None] * n if digests is None else digests
    sha256 = np.empty(n, dtype=object)
    hashes = np.empty((n, len(VIEWS), WORDS), dtype=np.uint64)
    points: list[Keypoints] = []
    context = one_thread_an_image() if keypoints else nullcontext()
    with context, ThreadPoolExecutor(threads) as pool:
        for row, (digest, own, found) in enumerate(pool.map(fingerprint, paths, expected)):
            sha256[row], hashes[row] = digest, own
            if found is not None:
                points.append(found)
            if progress is not None:
                progress(row + 1, n)
    return Fingerprints(sha256, hashes, Keypoints.joined(points) if keypoints else None)


def _read(path: Path, expected: str | None) -> tuple[str, "Image"]:
    """Digest of the file, and the image, which a large JPEG gives smaller."""
    data, colour = read_image(path, enough=(2 * _THUMB, 2 * _THUMB), digest=expected)
    return hashlib.sha256(data).hexdigest(), colour


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
