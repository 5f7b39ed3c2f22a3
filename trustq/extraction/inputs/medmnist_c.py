"""MedMNIST-C's corruptions of dermatoscopic images, by its own amounts, without ImageMagick.

Di Salvo et al. (2024) define them on squares of 224 pixels, as MedMNIST+ has them; other images are
taken to that size, corrupted and taken back. Kernels and characters are OpenCV's, as there.
"""

import string
from collections.abc import Callable
from io import BytesIO
from typing import Any

import numpy as np
from PIL import Image, ImageEnhance

from trustq.errors import MissingExtra

SIDE = 224
PREFIX = "mc-"  # of a view's name: mc-pixelate-3

# Corruption to what severities 1 to 5 take, as in the package's registry for dermamnist.
AMOUNTS: dict[str, tuple[Any, ...]] = {
    "pixelate": (0.7, 0.5, 0.4, 0.3, 0.25),  # of each side
    "jpeg_compression": (30, 20, 15, 10, 7),  # quality
    "gaussian_noise": (0.04, 0.08, 0.12, 0.18, 0.26),  # standard deviation, of 1
    "speckle_noise": (0.05, 0.15, 0.2, 0.35, 0.45),  # of the value itself
    "impulse_noise": (0.01, 0.03, 0.06, 0.09, 0.17),  # share of values
    "shot_noise": (60, 25, 18, 10, 5),  # photons at white
    "defocus_blur": ((4, 0.1), (5, 0.2), (6, 0.3), (7, 0.4), (8, 0.5)),  # radius, sigma of its edge
    "motion_blur": ((10, 5), (15, 5), (15, 8), (15, 12), (20, 15)),  # radius, sigma
    "zoom_blur": ((1.11, 0.01), (1.16, 0.01), (1.21, 0.02), (1.26, 0.02), (1.31, 0.03)),  # to, step
    "brightness_up": (1.1, 1.2, 1.3, 1.4, 1.5),
    "brightness_down": (0.9, 0.8, 0.7, 0.6, 0.5),
    "contrast_up": (1.1, 1.2, 1.3, 1.4, 1.6),
    "contrast_down": (0.8, 0.7, 0.6, 0.5, 0.4),
    "black_corner": (1.10, 1.05, 1.00, 0.90, 0.95),  # radius over half the side, in its own order
    "characters": ((1, 6, 0.14), (2, 7, 0.15), (3, 8, 0.16), (4, 9, 0.17), (6, 10, 0.18)),
}


def corruption_names() -> dict[str, tuple[str, Any]]:
    """Every view's name with its corruption and amount.

    >>> corruption_names()["mc-pixelate-2"]
    ('pixelate', 0.5)
    """
    return {
        f"{PREFIX}{name.replace('_', '-')}-{level}": (name, amount)
        for name, amounts in AMOUNTS.items()
        for level, amount in enumerate(amounts, start=1)
    }


def corrupted(image: Image.Image, name: str, amount: Any, rng: Any) -> Image.Image:
    """An RGB image under one corruption, of the same size; draws come from `rng` alone.

    >>> corrupted(Image.new("RGB", (2, 2), (100, 100, 100)), "brightness_up", 1.5,
    ...           np.random.default_rng(0)).getpixel((0, 0))
    (150, 150, 150)
    """
    size = image.size
    if size != (SIDE, SIDE):
        image = image.resize((SIDE, SIDE), Image.Resampling.BICUBIC)
    found = Image.fromarray(np.asarray(_APPLY[name](image, amount, rng), dtype=np.uint8))
    return found if size == (SIDE, SIDE) else found.resize(size, Image.Resampling.BICUBIC)


def _pixelate(image: Image.Image, factor: float, _: Any) -> np.ndarray:
    width, height = image.size
    small = image.resize((int(width * factor), int(height * factor)), Image.Resampling.BOX)
    return np.asarray(small.resize((width, height), Image.Resampling.BOX))


def _jpeg(image: Image.Image, quality: int, _: Any) -> np.ndarray:
    file = BytesIO()
    image.save(file, "JPEG", quality=quality)
    return np.asarray(Image.open(file))


def _gaussian_noise(image: Image.Image, sigma: float, rng: Any) -> np.ndarray:
    values = _unit(image)
    return _bytes(values + rng.normal(size=values.shape, scale=sigma))


def _speckle_noise(image: Image.Image, sigma: float, rng: Any) -> np.ndarray:
    values = _unit(image)
    return _bytes(values + values * rng.normal(size=values.shape, scale=sigma))


def _impulse_noise(image: Image.Image, share: float, rng: Any) -> np.ndarray:
    values = _unit(image)
    flipped, salted = rng.random(values.shape) <= share, rng.random(values.shape) <= 0.5
    return _bytes(np.where(flipped, salted.astype(float), values))


def _shot_noise(image: Image.Image, photons: float, rng: Any) -> np.ndarray:
    return _bytes(rng.poisson(_unit(image) * photons) / photons)


def _defocus_blur(image: Image.Image, amount: tuple[float, float], _: Any) -> np.ndarray:
    cv2 = _opencv()
    radius, edge = amount
    places = np.arange(-max(8, radius), max(8, radius) + 1)
    x, y = np.meshgrid(places, places)
    disk = np.array((x**2 + y**2) <= radius**2, dtype=np.float32)
    disk /= disk.sum()
    disk = cv2.GaussianBlur(disk, ksize=(3, 3) if radius <= 8 else (5, 5), sigmaX=edge)
    values = _unit(image)
    return _bytes(np.dstack([cv2.filter2D(values[:, :, c], -1, disk) for c in range(3)]))


def _motion_blur(image: Image.Image, amount: tuple[float, float], rng: Any) -> np.ndarray:
    """Along a line of random direction, weighted as ImageMagick's MotionBlurImage weighs it."""
    radius, sigma = amount
    angle = np.deg2rad(rng.uniform(-45, 45))
    steps = np.arange(2 * int(np.ceil(radius)) + 1)
    weights = np.exp(-(steps**2) / (2 * sigma**2))
    weights /= weights.sum()
    across = np.ceil(steps * np.cos(angle) - 0.5).astype(int)
    down = np.ceil(steps * np.sin(angle) - 0.5).astype(int)
    values = np.asarray(image, dtype=np.float64)
    height, width = values.shape[:2]
    rows, columns = np.arange(height), np.arange(width)
    found = np.zeros_like(values)
    for weight, dx, dy in zip(weights, across, down, strict=True):
        at = np.clip(rows + dy, 0, height - 1), np.clip(columns + dx, 0, width - 1)
        found += weight * values[np.ix_(*at)]
    return np.rint(found)


def _zoom_blur(image: Image.Image, amount: tuple[float, float], _: Any) -> np.ndarray:
    try:
        from scipy.ndimage import zoom
    except ImportError as error:
        raise MissingExtra("mc-zoom-blur needs SciPy: pip install scipy.") from error
    values = _unit(image).astype(np.float32)
    side, total = len(values), np.zeros_like(values)
    factors = np.arange(1, *amount)
    for factor in factors:
        crop = int(np.ceil(side / factor))
        top = (side - crop) // 2
        part = values[top : top + crop, top : top + crop]
        larger = zoom(part, (factor, factor, 1), order=1)
        trim = (len(larger) - side) // 2
        total += larger[trim : trim + side, trim : trim + side]
    return np.clip((values + total) / (len(factors) + 1), 0, 1) * 255


def _black_corner(image: Image.Image, times: float, _: Any) -> np.ndarray:
    cv2 = _opencv()
    width, height = image.size
    centre = (width // 2, height // 2)
    radius = min(*centre, width - centre[0], height - centre[1])
    circle = np.zeros((height, width), np.uint8)
    cv2.circle(circle, centre, int(radius * times), 255, thickness=-1)
    return np.where(circle[..., None] == 255, np.asarray(image), 0)


def _characters(image: Image.Image, amount: tuple[int, int, float], rng: Any) -> np.ndarray:
    cv2 = _opencv()
    most_words, most_letters, largest = amount
    values = np.array(image)  # OpenCV writes into it
    for _ in range(int(rng.integers(1, most_words + 1))):
        n_letters = int(rng.integers(3, most_letters + 1))
        scale = int(rng.integers(14, int(largest * 100) + 1)) / 100
        letters = (string.ascii_lowercase[int(rng.integers(0, 26))] for _ in range(n_letters))
        text = "".join(letters)
        x = int(rng.integers(10, values.shape[1] - 8 * n_letters + 1))
        y = int(rng.integers(10, values.shape[0] - 10 + 1))
        colour = tuple(int(rng.integers(0, 256)) for _ in range(3))
        font = cv2.FONT_HERSHEY_DUPLEX
        values = cv2.putText(values, text, (x, y), font, scale, colour, 1, cv2.LINE_AA)
    return values


def _unit(image: Image.Image) -> np.ndarray:
    return np.asarray(image) / 255.0


def _bytes(values: np.ndarray) -> np.ndarray:
    # Cut off, not rounded, as there.
    return np.asarray((np.clip(values, 0, 1) * 255).astype(np.uint8))


def _opencv() -> Any:
    try:
        import cv2
    except ImportError as error:
        raise MissingExtra(
            "These corruptions need OpenCV: pip install opencv-python-headless."
        ) from error
    return cv2


_Apply = Callable[[Image.Image, Any, Any], Any]
_APPLY: dict[str, _Apply] = {
    "pixelate": _pixelate,
    "jpeg_compression": _jpeg,
    "gaussian_noise": _gaussian_noise,
    "speckle_noise": _speckle_noise,
    "impulse_noise": _impulse_noise,
    "shot_noise": _shot_noise,
    "defocus_blur": _defocus_blur,
    "motion_blur": _motion_blur,
    "zoom_blur": _zoom_blur,
    **dict.fromkeys(
        ("brightness_up", "brightness_down"),
        lambda image, factor, _: ImageEnhance.Brightness(image).enhance(factor),
    ),
    **dict.fromkeys(
        ("contrast_up", "contrast_down"),
        lambda image, factor, _: ImageEnhance.Contrast(image).enhance(factor),
    ),
    "black_corner": _black_corner,
    "characters": _characters,
}
