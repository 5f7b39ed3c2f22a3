"""Five minutes on a GPU: does extraction run there as it should, how fast, and as exact as a CPU?

Draws images, then extracts ConvNeXt-Tiny at 224 pixels in every mode that needs a GPU (bf16,
channels-last, pinned memory, compiled, resumed after a kill, under torchrun), compares the cache
with one that the CPU made, and measures images a second beside a bare loop over random tensors that
are on the device already. One table. `--device cpu --images 24 --backbone test_convnext --size 32`
tries the script where there is no GPU; throughput is then of the CPU.

Run: python tests/benchmarks/gpu_check.py [--out gpu_check.md]
"""

import argparse
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from trustq.data.manifest import Manifest, read_manifest, write_manifest
from trustq.data.preprocessing import Preprocessing
from trustq.extraction import Execution, extract
from trustq.extraction.dump.cache_dump import _passes
from trustq.extraction.inputs.images import Feed
from trustq.extraction.train.weights import make_network, place
from trustq.recipes import Recipe, load_recipe
from trustq.store import read_cache, verify_cache

CLASSES = ("bars", "dots", "plain")
_START = "from trustq.cli import app\napp()"
TOLERANCE = 2e-3  # of logits, GPU against CPU in float32: other orders of sums, no TF32
BATCH = 64


class Quiet:
    """A progress that may be asked to stop the run, as a kill would."""

    def say(self, text: str) -> None:
        """Say nothing."""

    def images(self, what: str, total: int) -> Any:
        """Count nothing."""
        import contextlib

        return contextlib.nullcontext(lambda done, figure="": None)


def draw(root: Path, n: int, size: int) -> Manifest:
    """`n` drawn images of three kinds with a manifest, split 70/15/15."""
    rng = np.random.default_rng(0)
    lines = ["sample_id,path,label,group_id,split,dataset,domain"]
    for i in range(n):
        pixels = rng.integers(0, 90, (size, size, 3))
        if i % 3 == 0:
            pixels[:, ::8] += 120
        elif i % 3 == 1:
            pixels[::8, ::8] += 150
        Image.fromarray(pixels.astype(np.uint8)).save(root / f"{i}.jpg", quality=90)
        split = ("train", "train", "train", "train", "val", "test")[i // 3 % 6]
        lines.append(f"{i},{i}.jpg,{CLASSES[i % 3]},{i},{split},drawn,drawn")
    (root / "m.csv").write_text("\n".join(lines) + "\n")
    manifest = read_manifest(root / "m.csv", root=root)
    write_manifest(manifest, root / "m.parquet")
    return manifest


def recipe_of(options: argparse.Namespace, *settings: str) -> Recipe:
    """One short epoch of the backbone from scratch."""
    every = (
        f"backbone={options.backbone}",
        "pretrained=false",
        f"image_size={options.size}",
        "epochs=1",
        "warmup_epochs=0",
        f"batch_size={min(BATCH, options.images // 3)}",
        "amp=off",
        *settings,
    )
    return load_recipe(settings=every, part="extract")


def timed(what: Callable[[], Any], device: torch.device) -> tuple[float, Any]:
    """Seconds of a call whose work on the device is done, and its result."""
    started = time.perf_counter()
    result = what()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - started, result


def throughput(options: argparse.Namespace, device: torch.device) -> list[tuple[str, str, str]]:
    """Images a second of the dump's own pass over images held on the device, and of a bare loop."""
    network = make_network(options.backbone, n_classes=3, image_size=options.size)
    place(network, device)
    feed = Feed(Preprocessing.of_config(network.config, options.size), device, 0, Quiet())
    shape = (min(BATCH, options.images), options.size, options.size, 3)
    held = torch.randint(0, 255, shape, dtype=torch.uint8, device=device)
    n_batches = max(1, options.images // len(held))
    inputs = torch.randn(len(held), 3, options.size, options.size, device=device)
    if device.type == "cuda":
        inputs = inputs.to(memory_format=torch.channels_last)

    def batches() -> Iterator[tuple[np.ndarray, torch.Tensor]]:
        for _ in range(n_batches):
            yield np.arange(len(held)), held

    def ours() -> None:
        images: Any = batches()
        for _ in _passes(network, images, feed):
            pass

    def bare() -> None:
        model: Any = network.model.eval()
        with torch.inference_mode():
            for _ in range(n_batches):
                model(inputs)

    seconds: dict[str, list[float]] = {"ours": [], "bare": []}
    for _ in range(options.repeats + 1):  # the first of each warms up
        for name, what in (("ours", ours), ("bare", bare)):
            seconds[name].append(timed(what, device)[0])
    best = {name: min(values[1:]) for name, values in seconds.items()}
    n = n_batches * len(held)
    share = best["bare"] / best["ours"]
    told = f"{n / best['ours']:,.0f}/s of {n / best['bare']:,.0f}/s bare ({share:.0%})"
    return [("dump, images on the device", told, "ok" if share >= 0.9 else "below 90 %")]


def runs(
    options: argparse.Namespace, manifest: Manifest, folder: Path
) -> Iterator[tuple[str, str, str]]:
    """Each mode extracted once, its cache verified."""
    modes: dict[str, tuple[str, ...]] = {
        "float32": (),
        "bf16": ("amp=bf16",),
        "compiled": ("compile=true",),
        "frozen": ("mode=frozen",),
    }
    if options.device == "cpu":
        del modes["compiled"]  # minutes of a C++ compiler that say nothing about a GPU
    for name, settings in modes.items():
        recipe = recipe_of(options, *settings)
        device = torch.device(options.device)

        def run(recipe: Recipe = recipe, name: str = name) -> Path:
            (made,) = extract(
                manifest,
                recipe=recipe,
                seeds=[1],
                out=folder / name,
                execution=Execution(device=options.device),
                progress=Quiet(),
            )
            return made.path

        try:
            seconds, path = timed(run, device)
            verify_cache(path)
        except Exception as error:  # one mode that fails must not hide the others
            yield name, f"{type(error).__name__}: {str(error).splitlines()[0][:80]}", "FAILED"
        else:
            yield name, f"{seconds:.1f} s, images decoded with it", "ok"


def against_cpu(
    options: argparse.Namespace, manifest: Manifest, folder: Path
) -> tuple[str, str, str]:
    """Features of the frozen network on this device and on the CPU, on a few images."""
    few = manifest.subset(np.arange(len(manifest)) < min(64, len(manifest)))
    found = []
    for device in (options.device, "cpu"):
        (made,) = extract(
            few,
            recipe=recipe_of(options, "mode=frozen"),
            seeds=[1],
            out=folder / f"on-{device}-{len(found)}",
            execution=Execution(device=device),
            progress=Quiet(),
        )
        found.append(read_cache(made.path).features)
    apart = float(np.abs(found[0] - found[1]).max() / np.abs(found[1]).max())
    return "cache equals the CPU's", f"{apart:.1e} of the largest feature", _ok(apart <= TOLERANCE)


def resumed(options: argparse.Namespace, folder: Path) -> tuple[str, str, str]:
    """Killed in its second epoch, then run again by the same command."""
    words = command(options, folder, "killed", "--set", "epochs=2")
    process = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    waiting = folder / "killed"
    while process.poll() is None and not list(waiting.rglob("*.resume.pt")):
        time.sleep(0.02)
    killed = process.poll() is None
    if killed:
        process.send_signal(signal.SIGKILL)
    process.wait()
    again = subprocess.run(words, capture_output=True, text=True)
    went_on = "Going on after epoch 1" in again.stderr
    return "resumed after kill -9", "went on after epoch 1" if went_on else "", _ok(went_on)


def command(options: argparse.Namespace, folder: Path, out: str, *more: str) -> list[str]:
    """The command line of an extraction."""
    words = [sys.executable, "-c", _START, "extract", str(folder / "m.parquet")]
    settings = vars(recipe_of(options).extract)
    for name in ("backbone", "pretrained", "image_size", "epochs", "warmup_epochs", "batch_size"):
        words += ["--set", f"{name}={str(settings[name]).lower()}"]
    return [*words, "--seeds", "1", "--device", options.device, "--out", str(folder / out), *more]


def under_torchrun(options: argparse.Namespace, folder: Path) -> tuple[str, str, str]:
    """One process that torchrun starts."""
    words = command(options, folder, "torchrun")[1:]
    launcher = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--nproc-per-node",
        "1",
        "--no-python",
    ]
    done = subprocess.run([*launcher, sys.executable, *words], capture_output=True, text=True)
    last = done.stderr.strip().splitlines()[-1:] if done.returncode else ["one process"]
    return "torchrun", "".join(last), _ok(done.returncode == 0)


def _ok(holds: bool) -> str:
    return "ok" if holds else "FAILED"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--images", type=int, default=2000)
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--backbone", default="convnext_tiny")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    if options.device == "cuda" and not torch.cuda.is_available():
        raise SystemExit("torch finds no CUDA device here; --device cpu tries the script.")
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    device = torch.device(options.device)
    rows: list[tuple[str, str, str]] = []
    name = torch.cuda.get_device_name() if device.type == "cuda" else "CPU"
    started = time.perf_counter()
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        os.environ["TORCHINDUCTOR_CACHE_DIR"] = str(folder / "compiled")  # no one else's
        manifest = draw(folder, options.images, options.size)
        rows += throughput(options, device)
        rows.append(against_cpu(options, manifest, folder))
        rows += runs(options, manifest, folder)
        rows.append(resumed(options, folder))
        rows.append(under_torchrun(options, folder))
    rows.append(("in all", f"{time.perf_counter() - started:.0f} s", ""))
    lines = [
        f"{name}, torch {torch.__version__}, {options.backbone} at {options.size}, "
        f"{options.images:,} images",
        "",
        "| what | found | |",
        "|---|---|---|",
        *(f"| {' | '.join(row)} |" for row in rows),
    ]
    text = "\n".join(lines)
    print(text)
    if options.out:
        options.out.write_text(text + "\n")
    if any(row[2] == "FAILED" for row in rows):
        raise SystemExit(1)


if __name__ == "__main__":
    main()
