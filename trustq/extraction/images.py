"""Images from disk to batches: checked up front, decoded small, augmented by seed, epoch and row.

A sampler hands out (epoch, row) pairs, so what a row looks like depends on nothing that a loading
process remembers: the number of processes, or a resumed run, changes no pixel.
"""

import os
import warnings
from collections import Counter
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageEnhance
from torch.utils.data import DataLoader, Dataset

from trustq.errors import TrustqError
from trustq.extraction.progress import Progress
from trustq.manifest import Manifest
from trustq.recipes import ExtractRecipe
from trustq.seeds import generator

Key = tuple[int, int]  # (epoch, row); an epoch of EVALUATION leaves the image as it is
EVALUATION = -1

# More than any training has epochs: a row that is drawn again in an epoch looks as in another one.
_AGAIN = 1 << 32

_LISTED = 20  # unreadable images that an error names; the rest are counted
_HEADERS = 256  # headers that a thread reads at a time
_MOST_WORKERS = 8

_RESAMPLING = {
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}


@dataclass(frozen=True)
class Preprocessing:
    """The evaluation transform, resolved: the whole image squashed to a square, then normalised.

    Squashed rather than cropped, since lesions reach the border of their image.
    """

    size: int
    interpolation: str
    mean: tuple[float, ...]
    std: tuple[float, ...]

    @property
    def attribute(self) -> dict[str, Any]:
        """As it is stored in a cache."""
        return {
            "size": self.size,
            "resize": "squash",
            "interpolation": self.interpolation,
            "mean": list(self.mean),
            "std": list(self.std),
        }

    @classmethod
    def of_attribute(cls, stored: dict[str, Any]) -> "Preprocessing":
        """From a cache's attribute."""
        mean, std = (tuple(map(float, stored[name])) for name in ("mean", "std"))
        return cls(int(stored["size"]), str(stored["interpolation"]), mean, std)

    @classmethod
    def of_config(cls, config: dict[str, Any], size: int) -> "Preprocessing":
        """What timm records for a model, at `size` pixels."""
        interpolation = config.get("interpolation", "bicubic")
        if interpolation not in _RESAMPLING:
            interpolation = "bicubic"
        mean, std = (tuple(map(float, config[name])) for name in ("mean", "std"))
        return cls(size, interpolation, mean, std)


@dataclass(frozen=True)
class Augmentation:
    """What training images undergo; every draw depends on (seed, epoch, row) alone."""

    seed: int
    horizontal_flip: bool
    vertical_flip: bool
    transpose: bool
    rotation: float  # degrees at most
    colour_jitter: float  # share at most

    @classmethod
    def of_recipe(cls, recipe: ExtractRecipe, seed: int) -> "Augmentation":
        """The augmentation that a recipe asks for."""
        return cls(
            seed,
            recipe.horizontal_flip,
            recipe.vertical_flip,
            recipe.transpose,
            recipe.rotation,
            recipe.colour_jitter,
        )

    def __call__(self, image: Image.Image, epoch: int, row: int) -> Image.Image:
        """The image as it looks in one epoch."""
        # All numbers are drawn always, so that switching one part off leaves the others alone.
        draws = generator(self.seed, "augment", epoch, row).random(7).tolist()
        left_right, up_down, turn, *colours, diagonal = draws
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
        return image


def require_readable(manifest: Manifest) -> None:
    """Raise `TrustqError` that lists the images that are missing or whose header is no image.

    Only headers are read, 20,000 images a second; what is damaged further on is found when it is
    decoded, and stops the run then.
    """
    blocks = [
        range(start, min(start + _HEADERS, len(manifest)))
        for start in range(0, len(manifest), _HEADERS)
    ]
    # Threads, for network disks where each open waits.
    with ThreadPoolExecutor(_MOST_WORKERS) as pool:
        found = pool.map(lambda rows: [_header_problem(manifest, row) for row in rows], blocks)
        problems = [problem for block in found for problem in block if problem]
    if not problems:
        return
    n = len(manifest)
    if len(problems) == n and not any(manifest.image_path(row).is_file() for row in range(n)):
        raise TrustqError(
            f"None of the {n:,} images is under {manifest.root} (the first is "
            f"{manifest.columns['path'][0]}). Say where they are with --root FOLDER."
        )
    listed = "".join(f"\n  {problem}" for problem in problems[:_LISTED])
    more = f"\n  and {len(problems) - _LISTED:,} more" if len(problems) > _LISTED else ""
    raise TrustqError(
        f"{len(problems):,} of {n:,} images cannot be read:{listed}{more}\n"
        "Put them back, or leave their rows out of the manifest; nothing was extracted."
    )


def decoding_problems(manifest: Manifest, *, progress: Progress) -> dict[int, str]:
    """Rows whose image cannot be decoded to its last byte, and why.

    Every image is decoded once, by threads, for Pillow lets go of the interpreter meanwhile.
    """
    n = len(manifest)
    problems: dict[int, str] = {}
    with ThreadPoolExecutor(_MOST_WORKERS) as pool, progress.images("decode", n) as show:
        # In blocks, so that results do not pile up before they are looked at.
        for start in range(0, n, _HEADERS):
            rows = range(start, min(start + _HEADERS, n))
            found = pool.map(lambda row: _decoding_problem(manifest, row), rows)
            problems |= {row: text for row, text in zip(rows, found, strict=True) if text}
            show(rows.stop, f"{len(problems):,} unreadable")
    return problems


def n_workers(recipe_workers: int) -> int:
    """Loading processes: as the recipe says, or one less than cores, eight at most."""
    if recipe_workers >= 0:
        return recipe_workers
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return min((cores or 1) - 1, _MOST_WORKERS)


class TrainingBatches:
    """Sampler of one epoch's batches, shuffled by (seed, epoch); set `epoch` before each pass.

    With `weights`, (m,) that sum to 1, as many rows are drawn with replacement instead. A last
    batch of a single row joins the one before it, for batch norm needs two.
    """

    def __init__(
        self,
        rows: np.ndarray,
        *,
        batch_size: int,
        seed: int,
        weights: np.ndarray | None = None,
    ) -> None:
        self.epoch = 0
        self._rows = rows
        self._seed = seed
        self._weights = weights
        n = len(rows)
        starts = list(range(0, n, batch_size))
        if len(starts) > 1 and n - starts[-1] == 1:
            starts.pop()
        self._bounds = list(zip(starts, [*starts[1:], n], strict=True))

    def __len__(self) -> int:
        return len(self._bounds)

    @property
    def sizes(self) -> list[int]:
        """Rows in each batch of an epoch."""
        return [stop - start for start, stop in self._bounds]

    def __iter__(self) -> Iterator[list[Key]]:
        keys = self._keys()
        for start, stop in self._bounds:
            yield keys[start:stop]

    def _keys(self) -> list[Key]:
        if self._weights is None:
            order = generator(self._seed, "shuffle", self.epoch).permutation(self._rows)
            return [(self.epoch, row) for row in order.tolist()]
        drawn = generator(self._seed, "sample", self.epoch).choice(
            self._rows, len(self._rows), p=self._weights
        )
        times: Counter[int] = Counter()
        keys = []
        for row in drawn.tolist():
            keys.append((self.epoch + times[row] * _AGAIN, row))
            times[row] += 1
        return keys


def evaluation_batches(rows: np.ndarray, *, batch_size: int) -> list[list[Key]]:
    """Batches of `rows` in their order, for the evaluation transform."""
    listed = rows.tolist()
    return [
        [(EVALUATION, row) for row in listed[start : start + batch_size]]
        for start in range(0, len(listed), batch_size)
    ]


class ImageLoader:
    """Reads batches of a manifest's images in loading processes.

    `device` decides on pinned memory only; batches are uint8 tensors (b, size, size, 3) on the CPU.
    """

    def __init__(
        self,
        manifest: Manifest,
        batches: Iterable[list[Key]],
        *,
        preprocessing: Preprocessing,
        augmentation: Augmentation | None = None,
        workers: int,
        device: torch.device,
    ) -> None:
        images = _Images(manifest, preprocessing, augmentation)
        self._loader: DataLoader[Any] = DataLoader(
            images,
            batch_sampler=batches,
            num_workers=workers,
            collate_fn=_collate,
            pin_memory=device.type == "cuda",
            persistent_workers=workers > 0,
            # Its own, for the loader draws a number from it that it must not take from training.
            generator=torch.Generator(),
        )

    def __iter__(self) -> Iterator[tuple[np.ndarray, torch.Tensor]]:
        """Yield (rows, images); an image that cannot be decoded raises `TrustqError`."""
        try:
            for rows, images, problems in self._loader:
                if problems:
                    raise TrustqError(
                        f"{'; '.join(problems)}.\n"
                        "Put the image back, or leave its row out of the manifest."
                    )
                yield rows, images
        except RuntimeError as error:
            if "DataLoader worker" not in str(error):
                raise
            raise TrustqError(
                "An image loading process was killed, often for want of memory: "
                f"{str(error).splitlines()[0]}\nTry fewer of them, e.g. --set workers=0."
            ) from error


class _Images(Dataset[Any]):
    def __init__(
        self,
        manifest: Manifest,
        preprocessing: Preprocessing,
        augmentation: Augmentation | None,
    ) -> None:
        # Bytes in one array: strings would be copied into every loading process bit by bit, as
        # Python counts references to them.
        self._paths = np.array([os.fsencode(path) for path in manifest.columns["path"].tolist()])
        self._root = manifest.root
        self._preprocessing = preprocessing
        self._augmentation = augmentation

    def __len__(self) -> int:
        return len(self._paths)

    def __getitem__(self, key: Key) -> tuple[int, np.ndarray | str]:
        epoch, row = key
        path = self._root / os.fsdecode(bytes(self._paths[row]))
        try:
            image = _decode(path, self._preprocessing)
        except Exception as error:  # Pillow's decoders raise nearly anything on damaged files
            # Told, not raised: torch would wrap it in the process's own traceback.
            return row, f"{path} cannot be decoded: {_reason(error)}"
        if self._augmentation is not None and epoch != EVALUATION:
            image = self._augmentation(image, epoch, row)
        return row, np.asarray(image)


def _collate(
    items: list[tuple[int, np.ndarray | str]],
) -> tuple[np.ndarray, torch.Tensor, list[str]]:
    problems = [content for _, content in items if isinstance(content, str)]
    arrays = [content for _, content in items if not isinstance(content, str)]
    rows = np.array([row for row, _ in items])
    images = torch.from_numpy(np.stack(arrays)) if not problems else torch.empty(0)
    return rows, images, problems


def _decode(path: Path, preprocessing: Preprocessing) -> Image.Image:
    size = preprocessing.size
    with Image.open(path) as image:
        # JPEG decodes at 1/2, 1/4 or 1/8 for much less; twice the size leaves the resize its say.
        image.draft("RGB", (2 * size, 2 * size))
        rgb = image.convert("RGB")
    return rgb.resize((size, size), _RESAMPLING[preprocessing.interpolation])


def _header_problem(manifest: Manifest, row: int) -> str | None:
    path = manifest.image_path(row)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            with Image.open(path) as image:
                width, height = image.size
    except Exception as error:
        return f"{path}: {_reason(error)}"
    return None if width and height else f"{path}: it has no pixels"


def _decoding_problem(manifest: Manifest, row: int) -> str | None:
    try:
        with Image.open(manifest.image_path(row)) as image:
            image.load()
    except Exception as error:
        return _reason(error)
    return None


def _reason(error: Exception) -> str:
    if isinstance(error, FileNotFoundError):
        return "no such file"
    if isinstance(error, Image.UnidentifiedImageError):
        return "it is no image, or of a kind that Pillow does not know"
    text = os.strerror(error.errno) if isinstance(error, OSError) and error.errno else str(error)
    return (text.splitlines() or [type(error).__name__])[0].rstrip(".").lower()
