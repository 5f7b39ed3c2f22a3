"""Images from disk to batches: checked up front, decoded small, augmented by seed, epoch and row.

A view's images are decoded at full size and corrupted there, before they are resized.

A sampler hands out (epoch, row) pairs, so what a row looks like depends on nothing that a loading
process remembers: the number of processes, or a resumed run, changes no pixel.
"""

import math
import os
import warnings
from collections import Counter
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image, ImageChops
from torch.utils.data import DataLoader, Dataset

from trustq.core.generators import generator
from trustq.data.manifest import IMAGE_DIGEST, Manifest
from trustq.data.pillow_rgb import decode_rgb, reason_of, require_digest
from trustq.data.preprocessing import WHOLE, Preprocessing
from trustq.errors import DamagedFile, InputError, NotFound, TrustqError
from trustq.extraction.inputs.augment import Augmentation
from trustq.extraction.inputs.corruptions import Corruption
from trustq.extraction.train.progress import Progress

Key = tuple[int, int]  # (epoch, row); an epoch of EVALUATION leaves the image as it is
EVALUATION = -1

# More than any training has epochs: a row that is drawn again in an epoch looks as in another one.
_AGAIN = 1 << 32

_LISTED = 20  # unreadable images that an error names; the rest are counted
_HEADERS = 256  # headers that a thread reads at a time
_MOST_WORKERS = 8


def require_readable(manifest: Manifest) -> list[str]:
    """Raise `TrustqError` that lists the images that are missing, no image, or another's.

    Only headers are read, 20,000 images a second, and all bytes of those images that were changed
    after the manifest was written, for its digests; what is damaged further on is found when it is
    decoded, and stops the run then. Returns sentences on what is done to some images, or is not
    known of them.
    """
    blocks = [
        range(start, min(start + _HEADERS, len(manifest)))
        for start in range(0, len(manifest), _HEADERS)
    ]
    digests = manifest.image_digests

    def headers_of(rows: range) -> list[_Header]:
        return [_header(manifest.image_path(r), digests[r], manifest.written) for r in rows]

    # Threads, for network disks where each open waits.
    with ThreadPoolExecutor(_MOST_WORKERS) as pool:
        found = pool.map(headers_of, blocks)
        headers = [header for block in found for header in block]
    problems = [header.problem for header in headers if header.problem]
    if not problems:
        notes = []
        if transparent := [row for row, header in enumerate(headers) if header.transparent]:
            notes.append(
                f"Images with transparency, which are drawn on white: {len(transparent):,} (the "
                f"first is {manifest.columns['path'][transparent[0]]})."
            )
        if IMAGE_DIGEST not in manifest.columns:
            notes.append(
                f"The manifest has no {IMAGE_DIGEST}: whether these are the images that it was "
                "made from is not checked."
            )
        return notes
    n = len(manifest)
    if len(problems) == n and not any(manifest.image_path(row).is_file() for row in range(n)):
        raise NotFound(
            f"None of the {n:,} images is under {manifest.root} (the first is "
            f"{manifest.columns['path'][0]}). Say where they are with `root=FOLDER`."
        )
    listed = "".join(f"\n  {problem}" for problem in problems[:_LISTED])
    more = f"\n  and {len(problems) - _LISTED:,} more" if len(problems) > _LISTED else ""
    raise DamagedFile(
        f"{len(problems):,} of {n:,} images cannot be read:{listed}{more}\n"
        "Put them back, or leave their rows out of the manifest; nothing was extracted."
    )


def decoding_problems(manifest: Manifest, *, progress: Progress) -> dict[int, str]:
    """Rows whose image cannot be decoded to its last byte, and why.

    Every image is decoded once, by threads, for Pillow lets go of the interpreter meanwhile.
    """
    n = len(manifest)
    problems: dict[int, str] = {}
    digests = manifest.image_digests
    with ThreadPoolExecutor(_MOST_WORKERS) as pool, progress.images("decode", n) as show:
        # In blocks, so that results do not pile up before they are looked at.
        for start in range(0, n, _HEADERS):
            rows = range(start, min(start + _HEADERS, n))
            found = pool.map(
                lambda row: _decoding_problem(manifest.image_path(row), digests[row]), rows
            )
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


@dataclass(frozen=True)
class Feed:
    """How images reach a network: how they are prepared, by how many processes, and where it runs.

    `workers` is a recipe's: -1 for one less than cores.
    """

    preprocessing: Preprocessing
    device: torch.device
    workers: int
    progress: Progress

    def images(
        self,
        manifest: Manifest,
        batches: Iterable[list[Key]],
        *,
        augmentation: Augmentation | None = None,
        corruption: Corruption | None = None,
    ) -> "ImageLoader":
        """A loader of batches of a manifest's images."""
        return ImageLoader(
            manifest,
            batches,
            preprocessing=self.preprocessing,
            augmentation=augmentation,
            corruption=corruption,
            workers=n_workers(self.workers),
            device=self.device,
        )

    def to_input(self, images: torch.Tensor) -> torch.Tensor:
        """Normalized network input, (b, 3, size, size) float32, from uint8 (b, size, size, 3)."""
        moved = images.to(self.device, non_blocking=True).permute(0, 3, 1, 2).float().div_(255)
        mean = torch.tensor(self.preprocessing.mean, device=self.device).view(1, 3, 1, 1)
        std = torch.tensor(self.preprocessing.std, device=self.device).view(1, 3, 1, 1)
        return (moved - mean) / std


class ImageLoader:
    """Reads batches of a manifest's images in loading processes.

    `device` decides on pinned memory only; batches are uint8 tensors (b, size, size, 3) on the CPU.
    With a `corruption` images pass through it at full size; `n_changed` counts those, so far, of
    which it changed a pixel.
    """

    def __init__(
        self,
        manifest: Manifest,
        batches: Iterable[list[Key]],
        *,
        preprocessing: Preprocessing,
        augmentation: Augmentation | None = None,
        corruption: Corruption | None = None,
        workers: int,
        device: torch.device,
    ) -> None:
        self.n_changed = 0
        images = _Images(manifest, preprocessing, augmentation, corruption)
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
            for rows, images, problems, n_changed in self._loader:
                if problems:
                    raise InputError(
                        f"{'; '.join(problems)}.\n"
                        "Put the image back, or leave its row out of the manifest."
                    )
                self.n_changed += n_changed
                yield rows, images
        except RuntimeError as error:
            if "DataLoader worker" not in str(error):
                raise
            raise TrustqError(
                "An image loading process was killed, often for want of memory: "
                f"{str(error).splitlines()[0]}\nTry fewer of them, e.g. `workers=0`."
            ) from error


class _Images(Dataset[Any]):
    def __init__(
        self,
        manifest: Manifest,
        preprocessing: Preprocessing,
        augmentation: Augmentation | None,
        corruption: Corruption | None,
    ) -> None:
        # Bytes in one array: strings would be copied into every loading process bit by bit, as
        # Python counts references to them.
        self._paths = np.array([os.fsencode(path) for path in manifest.columns["path"].tolist()])
        self._digests = None
        if IMAGE_DIGEST in manifest.columns:
            digests = [(digest or "").encode() for digest in manifest.image_digests]
            self._digests = np.array(digests)
        self._root = manifest.root
        self._preprocessing = preprocessing
        self._augmentation = augmentation
        self._corruption = corruption
        if corruption is not None:
            ids = manifest.columns["sample_id"].tolist()
            self._ids = np.array([sample_id.encode() for sample_id in ids])

    def __len__(self) -> int:
        return len(self._paths)

    def __getitem__(self, key: Key) -> tuple[int, np.ndarray | str, bool]:
        epoch, row = key
        path = self._root / os.fsdecode(bytes(self._paths[row]))
        augmentation = self._augmentation if epoch != EVALUATION else None
        part = augmentation.crop(epoch, row) if augmentation else WHOLE
        size = self._preprocessing.size
        # Twice the size leaves the resize its say; a corruption needs every pixel there is.
        enough = [math.ceil(2 * size / (part[i + 2] - part[i])) for i in (0, 1)]
        try:
            data = path.read_bytes()
            if self._digests is not None:
                require_digest(path, data, bytes(self._digests[row]).decode() or None)
            whole = self._corruption is not None
            image = decode_rgb(data, enough=None if whole else (enough[0], enough[1]))
        except TrustqError as error:
            return row, str(error).partition(". Put that image back")[0], False
        except Exception as error:  # Pillow's decoders raise nearly anything on damaged files
            # Told, not raised: torch would wrap it in the process's own traceback.
            return row, f"{path} cannot be decoded: {reason_of(error)}", False
        has_changed = False
        if self._corruption is not None:
            corrupted = self._corruption(image, bytes(self._ids[row]).decode())
            has_changed = ImageChops.difference(image, corrupted).getbbox() is not None
            image = corrupted
        image = self._preprocessing.fitted(image, part)
        if augmentation:
            image = augmentation(image, epoch, row)
        return row, np.asarray(image), has_changed


def _collate(
    items: list[tuple[int, np.ndarray | str, bool]],
) -> tuple[np.ndarray, torch.Tensor, list[str], int]:
    problems = [content for _, content, _ in items if isinstance(content, str)]
    arrays = [content for _, content, _ in items if not isinstance(content, str)]
    rows = np.array([row for row, _, _ in items])
    images = torch.from_numpy(np.stack(arrays)) if not problems else torch.empty(0)
    return rows, images, problems, sum(has_changed for _, _, has_changed in items)


class _Header(NamedTuple):
    """What is wrong with an image, if anything, and whether it has transparency."""

    problem: str | None
    transparent: bool = False


def _header(path: Path, digest: str | None, written: float | None) -> _Header:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            with Image.open(path) as image:
                width, height = image.size
                transparent = image.has_transparency_data
        if digest and written is not None and path.stat().st_mtime > written:
            require_digest(path, path.read_bytes(), digest)
    except TrustqError:
        return _Header(f"{path}: its bytes are not those of the manifest's {IMAGE_DIGEST}")
    except Exception as error:
        return _Header(f"{path}: {reason_of(error)}")
    return _Header(None if width and height else f"{path}: it has no pixels", transparent)


def _decoding_problem(path: Path, digest: str | None) -> str | None:
    try:
        data = path.read_bytes()
        require_digest(path, data, digest)
        decode_rgb(data)
    except TrustqError:
        return f"its bytes are not those of the manifest's {IMAGE_DIGEST}"
    except Exception as error:
        return reason_of(error)
    return None
