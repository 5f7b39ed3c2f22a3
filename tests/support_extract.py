"""Sixty drawn images, a recipe that trains on them in a second, and a progress that listens."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from trustq.data.manifest import Manifest, make_manifest
from trustq.extraction import Execution, extract
from trustq.recipes import Recipe, load_recipe
from trustq.store import read_cache

CLASSES = ("bars", "discs", "noise")
TINY = (
    "backbone=test_convnext",
    "pretrained=false",
    "image_size=32",
    "batch_size=16",
    "epochs=2",
    "warmup_epochs=1",
    "learning_rate=2e-3",
    "extract.noise=symmetric:0.2",
    "workers=0",
)


def tiny(*settings: str) -> Recipe:
    return replace(load_recipe(settings=[*TINY, *settings]), name="tiny")


@dataclass
class Heard:
    """A progress that keeps what it was told; `at(what)` may interrupt a run."""

    lines: list[str] = field(default_factory=list)
    at: Callable[[str, int], None] = lambda what, done: None

    def say(self, text: str) -> None:
        self.lines.append(text)

    @contextmanager
    def images(self, what: str, total: int) -> Iterator[Callable[[int, str], None]]:
        yield lambda done, figure="": self.at(what, done)


def draw_images(root: Path) -> None:
    """Sixty images of three kinds, of several sizes, modes and formats."""
    rng = np.random.default_rng(0)
    for i in range(60):
        width, height = 40 + i % 7, 30 + i % 5
        pixels = rng.integers(0, 90, (height, width, 3))
        y, x = np.mgrid[:height, :width]
        if i % 3 == 0:
            pixels[(x // 5) % 2 == 0] += 120
        elif i % 3 == 1:
            pixels[(x - width // 2) ** 2 + (y - height // 2) ** 2 < 100] += 150
        image = Image.fromarray(pixels.astype(np.uint8))
        image = image.convert("L") if i % 10 == 9 else image
        image.save(root / f"{i:02d}.{'png' if i % 2 else 'jpg'}")


def make_rows(root: Path, *, n: int = 60, dataset: str = "shapes", **columns: Any) -> Manifest:
    values = {
        "sample_id": [f"s{i:02d}" for i in range(n)],
        "path": [f"{i:02d}.{'png' if i % 2 else 'jpg'}" for i in range(n)],
        "label": [CLASSES[i % 3] for i in range(n)],
        "group_id": [f"g{i // 3:02d}" for i in range(n)],
        "split": [("train", "train", "train", "val", "test")[i // 3 % 5] for i in range(n)],
        "dataset": [dataset] * n,
        "domain": ["drawn"] * n,
    }
    return make_manifest(
        {name: np.array(column, dtype=object) for name, column in (values | columns).items()},
        classes=CLASSES,
        root=root,
        source="test",
    )


def extract_one(manifest: Manifest, recipe: Recipe, out: Path, **options: Any) -> Any:
    heard = options.pop("progress", None) or Heard()
    execution = Execution(**options)
    made = extract(manifest, recipe=recipe, seeds=[5], out=out, execution=execution, progress=heard)
    return read_cache(made[0].path, manifest=manifest)
