"""What happens to pixels, each by a stated amount: the parts of views and bridging augmentations.

Every function takes and returns an RGB image of the same size. Nothing here imports torch.
"""

import io

import numpy as np
from PIL import Image, ImageEnhance, ImageFilter

_STRIP = 1 << 20  # values of noise at a time: a photograph of 24 megapixels would take 300 MB

# sRGB to XYZ (IEC 61966-2-1) and the white point of D65.
_XYZ_OF_RGB = np.array(
    [[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]], np.float32
)
_WHITE = _XYZ_OF_RGB.sum(axis=1)
_KNEE = 6 / 29


def add_noise(image: Image.Image, sigma: float, rng: np.random.Generator) -> Image.Image:
    """Gaussian noise of standard deviation `sigma`, in 8-bit levels, in every channel alone."""
    pixels = np.asarray(image)
    noisy = np.empty_like(pixels)
    n_rows = max(1, _STRIP // (pixels.shape[1] * 3))
    for top in range(0, len(pixels), n_rows):
        strip = pixels[top : top + n_rows]
        noise = rng.standard_normal(strip.shape, dtype=np.float32) * np.float32(sigma)
        noisy[top : top + n_rows] = np.clip(np.rint(strip + noise), 0, 255)
    return Image.fromarray(noisy)


def blur(image: Image.Image, radius: float) -> Image.Image:
    """Gaussian blur of standard deviation `radius`, in pixels."""
    return image.filter(ImageFilter.GaussianBlur(radius))


def compress(image: Image.Image, quality: int) -> Image.Image:
    """The image after a JPEG of that quality (1 to 95, with Pillow's colour subsampling)."""
    file = io.BytesIO()
    image.save(file, "JPEG", quality=quality)
    file.seek(0)
    with Image.open(file) as compressed:
        return compressed.convert("RGB")


def scale_brightness(image: Image.Image, factor: float) -> Image.Image:
    """Every value times `factor`, up to white."""
    return ImageEnhance.Brightness(image).enhance(factor)


def scale_contrast(image: Image.Image, factor: float) -> Image.Image:
    """Distances from the image's mean grey times `factor`."""
    return ImageEnhance.Contrast(image).enhance(factor)


def shift_colour(image: Image.Image, levels: tuple[float, float, float]) -> Image.Image:
    """`levels` added to red, green and blue, within 0 to 255."""
    table = [round(min(max(value + level, 0), 255)) for level in levels for value in range(256)]
    return image.point(table)


def lose_resolution(image: Image.Image, scale: float) -> Image.Image:
    """Shrunk to `scale` of each side and enlarged again, both bilinear."""
    width, height = image.size
    small = (max(1, round(width * scale)), max(1, round(height * scale)))
    return image.resize(small, Image.Resampling.BILINEAR).resize(
        image.size, Image.Resampling.BILINEAR
    )


def rotate(image: Image.Image, degrees: float) -> Image.Image:
    """Turned counter-clockwise about the centre; corners that come into view are black."""
    return image.rotate(degrees, Image.Resampling.BICUBIC)


def shift_lab(image: Image.Image, shift: tuple[float, float, float]) -> Image.Image:
    """`shift` added to CIELAB's L* (0 to 100), a* and b*; what leaves sRGB is clipped.

    Pillow's own LAB has 8 bits a channel, in which a shift and back moves grey by a level or two.
    """
    levels = np.arange(256, dtype=np.float32) / 255
    linear = np.where(levels <= 0.04045, levels / 12.92, ((levels + 0.055) / 1.055) ** 2.4)
    xyz = linear.astype(np.float32)[np.asarray(image)] @ (_XYZ_OF_RGB / _WHITE[:, None]).T
    f = np.where(xyz > _KNEE**3, np.cbrt(xyz), xyz / (3 * _KNEE**2) + 4 / 29)
    # L* = 116 f(Y) - 16, a* = 500 (f(X) - f(Y)), b* = 200 (f(Y) - f(Z))
    lightness, a, b = shift
    f = f + np.array(
        [lightness / 116 + a / 500, lightness / 116, lightness / 116 - b / 200], np.float32
    )
    xyz = np.where(f > _KNEE, f**3, 3 * _KNEE**2 * (f - 4 / 29)) * _WHITE
    linear = np.clip(xyz @ np.linalg.inv(_XYZ_OF_RGB).T.astype(np.float32), 0, 1)
    encoded = np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)
    return Image.fromarray(np.rint(encoded * 255).astype(np.uint8))
