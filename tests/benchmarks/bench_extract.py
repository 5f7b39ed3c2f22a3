"""Features on a CPU against bare loops of torch and OpenVINO, and training against a bare loop.

    python tests/benchmarks/bench_extract.py MANIFEST [--threads 1] [--repeats 3] [--only TEXT]

Every run is a process of its own, sides in turn. A run's seconds are of all after the imports:
making the network, converting it, decoding, features; trustq's also write the cache, check digests
of images, and compute the first images by both engines. The bare loops decode by Pillow in the same
process (no loading processes on any side) and run batches of 64 in torch, and of 8 in OpenVINO
(faster there than 64), in float32. ConvNeXt-Atto is at random weights. Trainings take batches of
32 and no augmentation, and an epoch's seconds are of its steps alone, from the second one on.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

LITE0, ATTO = "tf_efficientnet_lite0", "convnext_atto"
EXTRACTIONS = [(LITE0, 128, 640), (LITE0, 224, 320), (ATTO, 128, 640), (ATTO, 224, 320)]
SIDES = ("loop-torch", "loop-openvino-8", "trustq-torch", "trustq-openvino")
TRAININGS = [(LITE0, 128, 160), (ATTO, 128, 160)]
TRAINING_SIDES = ("train-loop", "train-trustq", "last-images", "last-stored")


def main() -> None:
    """Print a table of each comparison."""
    parser = argparse.ArgumentParser()
    parser.add_argument("manifest", type=Path)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--only", default="", help="comparisons whose name holds this")
    parser.add_argument("--side", default="", help="run one side and print its figures")
    options = parser.parse_args()
    if options.side:
        side, backbone, size, n = options.side.split(",")
        print(json.dumps(run_side(options, side, backbone, int(size), int(n))))
        return
    for kind, cases, sides in (
        ("extract", EXTRACTIONS, SIDES),
        ("train", TRAININGS, TRAINING_SIDES),
    ):
        for backbone, size, n in cases:
            if options.only in f"{kind} {backbone} {size}":
                compare(options, backbone, size, n, sides)


def compare(
    options: argparse.Namespace, backbone: str, size: int, n: int, sides: tuple[str, ...]
) -> None:
    """Run the sides of one comparison in turn and print their medians."""
    found: dict[str, list[dict[str, float]]] = {side: [] for side in sides}
    for _ in range(options.repeats):
        for side in sides:
            command = [sys.executable, __file__, str(options.manifest)]
            command += [f"--threads={options.threads}", f"--side={side},{backbone},{size},{n}"]
            done = subprocess.run(command, check=True, capture_output=True, text=True)
            found[side].append(json.loads(done.stdout.splitlines()[-1]))
    print(f"\n{backbone}, {size} pixels, {n:,} images, {options.threads} thread(s)\n")
    print("| side | images a processor second | (range) | images a second | largest difference |")
    print("|---|---|---|---|---|")
    for side, runs in found.items():
        rates = sorted(n / run["processor"] for run in runs)
        clock = statistics.median(n / run["clock"] for run in runs)
        apart = f"{runs[0]['apart']:.1e}" if "apart" in runs[0] else ""
        print(
            f"| {side} | {statistics.median(rates):,.0f} | {rates[0]:,.0f} to {rates[-1]:,.0f} | "
            f"{clock:,.0f} | {apart} |",
            flush=True,
        )


def run_side(
    options: argparse.Namespace, side: str, backbone: str, size: int, n: int
) -> dict[str, float]:
    """One side's processor seconds and seconds by the clock, and how far it is from torch."""
    os.environ["OMP_NUM_THREADS"] = str(options.threads)
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    import timm  # noqa: F401  # imported before the clock starts
    import torch

    from trustq.data.manifest import read_manifest

    torch.set_num_threads(options.threads)
    manifest = read_manifest(options.manifest, root=options.manifest.parent)
    is_training = side.startswith(("train", "last"))
    rows = np.flatnonzero(manifest.columns["split"] == "train") if is_training else None
    manifest = manifest.subset(np.arange(n) if rows is None else rows[:n])
    if is_training:
        return of_training(side, manifest, backbone, size)
    if "openvino" in side:
        import openvino  # noqa: F401
    started = time.process_time(), time.monotonic()
    if side == "loop-torch":
        features = loop_torch(manifest, backbone, size)
    elif side.startswith("loop"):
        features = loop_openvino(manifest, backbone, size, int(side.rsplit("-", 1)[1]))
    else:
        features = by_trustq(manifest, backbone, size, side.rsplit("-", 1)[1])
    seconds = {
        "processor": time.process_time() - started[0],
        "clock": time.monotonic() - started[1],
    }
    some = manifest.subset(np.arange(64))
    expected = loop_torch(some, backbone, size)
    apart = np.abs(features[:64] - expected).max() / np.abs(expected).max()
    return seconds | {"apart": float(apart)}


def weights_of(backbone: str) -> str:
    """Where the weights come from."""
    return "package:efficientnet-lite0" if backbone == LITE0 else ""


def network_of(backbone: str, size: int, n_classes: int = 0) -> Any:
    """The network that every side runs."""
    from trustq.extraction.train.weights import start_network
    from trustq.recipes import ExtractRecipe

    recipe = ExtractRecipe(
        backbone=backbone, image_size=size, weights=weights_of(backbone), pretrained=False
    )
    return start_network(recipe, n_classes=n_classes, seed=0)[0]


def decoded(
    manifest: Any, config: dict[str, Any], size: int, batch: int
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Rows and normalized input as a script would make them."""
    from PIL import Image

    how = {"bicubic": Image.Resampling.BICUBIC, "bilinear": Image.Resampling.BILINEAR}
    mean, std = (np.array(config[name], np.float32) for name in ("mean", "std"))
    for start in range(0, len(manifest), batch):
        rows = np.arange(start, min(start + batch, len(manifest)))
        images = []
        for row in rows:
            with Image.open(manifest.image_path(row)) as image:
                resized = image.convert("RGB").resize((size, size), how[config["interpolation"]])
                images.append(np.asarray(resized))
        pixels = (np.stack(images).astype(np.float32) / 255 - mean) / std
        yield rows, np.ascontiguousarray(pixels.transpose(0, 3, 1, 2))


def loop_torch(manifest: Any, backbone: str, size: int) -> np.ndarray:
    """A plain loop over batches of 64 in torch."""
    import torch

    network = network_of(backbone, size)
    model = network.model.eval()
    found = []
    with torch.inference_mode():
        for _, inputs in decoded(manifest, network.config, size, 64):
            found.append(model(torch.from_numpy(inputs)).numpy())
    return np.concatenate(found)


def loop_openvino(manifest: Any, backbone: str, size: int, batch: int) -> np.ndarray:
    """A plain loop over batches in OpenVINO, converted by its front end."""
    import openvino
    import torch
    from openvino.frontend import FrontEndManager
    from openvino.frontend.pytorch.ts_decoder import TorchScriptPythonDecoder

    network = network_of(backbone, size)
    example = torch.zeros(2, 3, size, size)
    with torch.no_grad():
        traced = torch.jit.trace(network.model.eval(), example, check_trace=False)
    front_end = FrontEndManager().load_by_framework("pytorch")
    decoder = TorchScriptPythonDecoder(traced, example_input=example)  # held while it is read
    model = front_end.convert(front_end.load(decoder))
    model.reshape([batch, 3, size, size])
    settings = {
        "INFERENCE_PRECISION_HINT": "f32",
        "INFERENCE_NUM_THREADS": torch.get_num_threads(),
        "PERFORMANCE_HINT": "THROUGHPUT",
    }
    compiled = openvino.Core().compile_model(model, "CPU", settings)
    found = []
    for rows, inputs in decoded(manifest, network.config, size, batch):
        short = batch - len(inputs)
        padded = np.concatenate([inputs, np.repeat(inputs[:1], short, axis=0)])
        found.append(np.array(compiled(padded)[0])[: len(rows)])
    return np.concatenate(found)


class Timed:
    """A progress that notes the processor seconds and the clock of each epoch's steps."""

    def __init__(self) -> None:
        self.epochs: list[tuple[float, float]] = []

    def say(self, text: str) -> None:
        """Nothing."""

    @contextmanager
    def images(self, what: str, total: int) -> Iterator[Callable[[int, str], None]]:
        """Time what is an epoch, or what frozen stages give before the first."""
        started = time.process_time(), time.monotonic()
        yield lambda done, figure="": None
        if what.startswith(("epoch", "frozen")):
            self.epochs.append((time.process_time() - started[0], time.monotonic() - started[1]))


def extracted(manifest: Any, settings: list[str], progress: Any) -> np.ndarray:
    """Features of a cache made as a recipe says."""
    from trustq.extraction import Execution, extract
    from trustq.recipes import load_recipe
    from trustq.store import read_cache

    with tempfile.TemporaryDirectory() as folder:
        recipe = load_recipe(settings=["workers=0", "pretrained=false", *settings])
        options = {"execution": Execution(device="cpu"), "progress": progress}
        made = extract(manifest, recipe=recipe, seeds=[0], out=Path(folder), **options)
        return np.array(read_cache(made[0].path).features)


def by_trustq(manifest: Any, backbone: str, size: int, engine: str) -> np.ndarray:
    """A frozen extraction."""
    settings = ["mode=frozen", f"backbone={backbone}", f"image_size={size}", f"engine={engine}"]
    settings += [f"weights={weights_of(backbone)}"] if weights_of(backbone) else []
    return extracted(manifest, settings, Timed())


def of_training(side: str, manifest: Any, backbone: str, size: int) -> dict[str, float]:
    """Seconds of an epoch, the median of those after the first."""
    if side == "train-loop":
        epochs = training_loop(manifest, backbone, size)
    else:
        timed = Timed()
        settings = [f"backbone={backbone}", f"image_size={size}", "epochs=4", "warmup_epochs=1"]
        settings += [f"weights={weights_of(backbone)}"] if weights_of(backbone) else []
        plain = ["horizontal_flip", "vertical_flip", "epoch_logits"]
        settings += [f"{name}=false" for name in plain]
        settings += ["rotation=0.0", "colour_jitter=0.0", "checkpoint=last", "extract.noise=none"]
        settings += ["label_smoothing=0.0"]
        if side.startswith("last"):
            settings += ["trained_stages=1"]
        if side == "last-stored":
            settings += ["stored_draws=1"]
        extracted(manifest, settings, timed)
        epochs = timed.epochs
    later = epochs[1:]
    return {
        "processor": statistics.median(one for one, _ in later),
        "clock": statistics.median(two for _, two in later),
        "first": epochs[0][0],
    }


def training_loop(manifest: Any, backbone: str, size: int) -> list[tuple[float, float]]:
    """A plain loop of AdamW steps on batches of 32, four epochs; the seconds of each."""
    import torch

    network = network_of(backbone, size, len(manifest.classes))
    model = network.model.train()
    labels = torch.from_numpy(manifest.label_indices.astype(np.int64))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, weight_decay=1e-4)
    epochs = []
    for _ in range(4):
        started = time.process_time(), time.monotonic()
        for rows, inputs in decoded(manifest, network.config, size, 32):
            optimizer.zero_grad(set_to_none=True)
            logits = model(torch.from_numpy(inputs))
            torch.nn.functional.cross_entropy(logits, labels[rows]).backward()
            optimizer.step()
        epochs.append((time.process_time() - started[0], time.monotonic() - started[1]))
    return epochs


if __name__ == "__main__":
    main()
