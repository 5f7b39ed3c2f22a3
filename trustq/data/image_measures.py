"""Measures of images that slices are made of: size, light, sharpness, skin tone."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np

from trustq.data.manifest import Manifest
from trustq.data.pillow_rgb import read_rgb
from trustq.errors import InputError

MEASURES = (
    "image_width",  # pixels
    "image_height",
    "mean_grey",  # 0 to 255, ITU-R 601 luma
    "contrast",  # standard deviation of grey
    "laplacian_variance",  # of grey; low is blurred
    "edge_strength",  # mean length of grey's Sobel gradient
    "ita",  # individual typology angle in degrees; low is dark; NaN without colour
)
CENTRE = 0.5  # side of the centre region relative to the image's, for `ita`
# Chardon et al. (1991).
ITA_GROUPS = (
    (55.0, "very light"),
    (41.0, "light"),
    (28.0, "intermediate"),
    (10.0, "tan"),
    (-30.0, "brown"),
)
_D65 = np.array([0.95047, 1.0, 1.08883])
_TO_XYZ = np.array(
    [
        [0.4124564, 0.3575761, 0.1804375],
        [0.2126729, 0.7151522, 0.0721750],
        [0.0193339, 0.1191920, 0.9503041],
    ]
)


def measured(manifest: Manifest, *, progress: Callable[[int, int], None] | None = None) -> Manifest:
    """The manifest with a float column for each of `MEASURES`, and `ita_group`.

    `progress` is called with images done and images in all. Raises `TrustqError` for an image that
    is not there, cannot be decoded or is another than the manifest's. Labels, groups and splits
    stay, so caches stay valid.
    """
    from concurrent.futures import ThreadPoolExecutor

    n = len(manifest)
    values = np.empty((n, len(MEASURES)))
    # Threads, for Pillow decodes without the interpreter's lock.
    with ThreadPoolExecutor(4) as pool:
        paths = [manifest.image_path(row) for row in range(n)]
        digests = manifest.image_digests
        for row, found in enumerate(pool.map(_measures_of_file, paths, digests)):
            values[row] = found
            if progress is not None:
                progress(row + 1, n)
    columns = {name: values[:, j].copy() for j, name in enumerate(MEASURES)}
    groups = np.array([*map(ita_group, columns["ita"].tolist()), None], dtype=object)[:-1]
    return replace(manifest, columns={**manifest.columns, **columns, "ita_group": groups})


def image_measures(pixels: np.ndarray) -> dict[str, float]:
    """The measures of one image, (h, w, 3) of uint8 in sRGB, at its own resolution.

    ITA = atan2(L* - 50, b*) in degrees of the mean L* and b* (CIELAB, D65) of the centre region,
    where a lesion hides the skin: it ranks the tone of images, and is no measure of a person's. A
    region without any colour, as of an X-ray, has none: NaN.

    >>> grey = np.full((8, 8, 3), 128, dtype=np.uint8)
    >>> found = image_measures(grey)
    >>> found["mean_grey"], found["contrast"], found["edge_strength"]
    (128.0, 0.0, 0.0)
    """
    from scipy.ndimage import laplace, sobel

    pixels = np.asarray(pixels)
    if pixels.ndim != 3 or pixels.shape[2] != 3 or pixels.dtype != np.uint8:
        raise InputError(f"Expected (h, w, 3) of uint8, found {pixels.shape} of {pixels.dtype}.")
    height, width = pixels.shape[:2]
    grey = pixels.astype(np.float32) @ np.array([0.299, 0.587, 0.114], dtype=np.float32)
    # Sobel sums eight weighted neighbours: an eighth is grey levels per pixel.
    edges = np.hypot(sobel(grey, axis=0), sobel(grey, axis=1)) / 8
    down, across = (max(1, round(CENTRE * side)) for side in (height, width))
    top, left = (height - down) // 2, (width - across) // 2
    centre = pixels[top : top + down, left : left + across].reshape(-1, 3)
    lightness, yellow = _lab(centre)
    coloured = bool((centre != centre[:, :1]).any())
    values = (
        float(width),
        float(height),
        float(grey.mean(dtype=np.float64)),
        float(grey.std(dtype=np.float64)),
        float(laplace(grey).var(dtype=np.float64)),
        float(edges.mean(dtype=np.float64)),
        float(np.degrees(np.arctan2(lightness - 50, yellow))) if coloured else np.nan,
    )
    return dict(zip(MEASURES, values, strict=True))


def ita_group(ita: float) -> str | None:
    """The group of an ITA in degrees; a NaN has none.

    >>> [ita_group(ita) for ita in (60, 41.5, -40, float("nan"))]
    ['very light', 'light', 'dark', None]
    """
    if np.isnan(ita):
        return None
    return next((name for above, name in ITA_GROUPS if ita > above), "dark")


def _measures_of_file(path: Path, digest: str | None) -> list[float]:
    return list(image_measures(np.asarray(read_rgb(path, digest=digest))).values())


def _lab(rgb: np.ndarray) -> tuple[float, float]:
    """Mean L* and b* of sRGB pixels, (n, 3)."""
    channels = rgb / 255.0
    linear = np.where(channels <= 0.04045, channels / 12.92, ((channels + 0.055) / 1.055) ** 2.4)
    relative = linear @ _TO_XYZ.T / _D65
    cube = np.where(relative > 216 / 24389, np.cbrt(relative), (24389 / 27 * relative + 16) / 116)
    return float((116 * cube[:, 1] - 16).mean()), float((200 * (cube[:, 1] - cube[:, 2])).mean())
