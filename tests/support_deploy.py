"""A packaged model of sixty drawn images, made once a session, and the browser's runtime."""

import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from support_extract import Heard, draw_images, make_rows, tiny

from trustq.data.manifest import Manifest


@dataclass(frozen=True)
class Packaged:
    """A model folder, the cache and images it was made from, and its `model.json`."""

    folder: Path
    cache: Path
    manifest: Manifest
    about: dict[str, Any]


def package_shapes(root: Path) -> Packaged:
    """Train the tiny network on drawn shapes and package it with every variant."""
    from trustq.deploy.packaging import PackageSettings, package_model
    from trustq.extraction import extract

    images = root / "images"
    images.mkdir()
    draw_images(images)
    manifest = make_rows(images)
    (made,) = extract(manifest, recipe=tiny(), seeds=[5], out=root / "cache", progress=Heard())
    settings = PackageSettings(positive=("bars",), uint8=True, slices=("domain",))
    about = package_model(made.path, manifest, out=root / "model", settings=settings)
    return Packaged(root / "model", made.path, manifest, about)


def find_web_runtime(folder: Path) -> Path | None:
    """npm's onnxruntime-web, fetched once into a folder; None without npm or a registry."""
    npm = shutil.which("npm")
    if npm is None:
        return None
    asked = [npm, "pack", "onnxruntime-web@^1.20", "--silent"]
    try:
        subprocess.run(
            asked,
            cwd=folder,
            timeout=120,
            check=True,
            capture_output=True,
            stdin=subprocess.DEVNULL,
        )
    except (subprocess.SubprocessError, OSError):
        return None
    return next(folder.glob("onnxruntime-web-*.tgz"), None)
