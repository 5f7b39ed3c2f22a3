"""Peak host memory of an extraction against the number of images.

Trains for one epoch and dumps, in a fresh process for each size, from small JPEG files; the names
differ, the pixels are those of 1,000 drawn images. Counts the process and its loading process.

Run: python tests/benchmarks/memory_study.py [--sizes 1000,100000]
"""

import argparse
import os
import resource
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

CLASSES = ("a", "b", "c")
DRAWN = 1000


def draw(folder: Path) -> None:
    rng = np.random.default_rng(0)
    for i in range(DRAWN):
        pixels = rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{i:04d}.jpg", quality=60)


def run(folder: Path, n: int) -> None:
    """Extract `n` images and print the peak memory in MB: this process, its largest child."""
    from support_extract import Heard, tiny

    from trustq.data.manifest import make_manifest
    from trustq.extraction import extract

    images = folder / f"of{n}"
    for start in range(0, n, DRAWN):
        (images / str(start)).mkdir(parents=True)
        for i in range(min(DRAWN, n - start)):
            os.link(folder / "drawn" / f"{i:04d}.jpg", images / str(start) / f"{i:04d}.jpg")
    index = np.arange(n)

    def text(values: list[str]) -> np.ndarray:
        return np.array(values, dtype=object)

    manifest = make_manifest(
        {
            "sample_id": text([f"image-{i:08d}" for i in index]),
            "path": text([f"{i // DRAWN * DRAWN}/{i % DRAWN:04d}.jpg" for i in index]),
            "label": text([CLASSES[i % 3] for i in index]),
            "group_id": text([f"group-{i // 2:08d}" for i in index]),
            "split": text([("train", "train", "val", "test")[i // 2 % 4] for i in index]),
            "dataset": text(["drawn"] * n),
            "domain": text(["drawn"] * n),
        },
        classes=CLASSES,
        root=images,
        source="memory study",
    )
    recipe = tiny("epochs=1", "workers=1", "batch_size=64")
    extract(manifest, recipe=recipe, seeds=[0], out=folder / f"cache{n}", progress=Heard())
    own, child = (
        resource.getrusage(who).ru_maxrss / 1024
        for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    )
    print(f"{own:.0f} {child:.0f}")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--sizes", default="1000,100000")
    parser.add_argument("--one", nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        run(Path(arguments.one[0]), int(arguments.one[1]))
        return
    print("| images | peak of the process, MB | of its largest loading process, MB |")
    print("|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "drawn").mkdir()
        draw(Path(folder) / "drawn")
        for size in arguments.sizes.split(","):
            command = [sys.executable, "-W", "ignore", __file__, "--one", folder, size]
            done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
            own, child = done.stdout.split()
            print(f"| {int(size):,} | {own} | {child} |", flush=True)


if __name__ == "__main__":
    main()
