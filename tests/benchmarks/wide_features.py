"""Thousands of different real columns of HAM10000 images: `bench_growth.py` takes as many as asked.

    python tests/benchmarks/wide_features.py IMAGES OUT.npz

IMAGES is a folder of `<sample id>.jpg`. Columns are 1,280 pooled features of EfficientNet-Lite0
with its ImageNet weights at 128 pixels and 1,280 at 160, the means of its seven stages at 160
(784), the 320 of the stored ConvNeXt-Atto, and the colours of 16 x 16 thumbnails (768): 4,432 in
all. Half an hour of one core or less; torch and timm are needed here and nowhere else.
"""

import argparse
import os
from pathlib import Path

import numpy as np

DATA = Path(os.environ.get("TRUSTQ_DATA", "../shared/data"))
WEIGHTS = DATA / "weights" / "efficientnet_lite0_imagenet.safetensors"
ATTO = DATA / "ham10000_features" / "convnext_atto_64px.npz"
BATCH = 64


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("images", type=Path)
    parser.add_argument("out", type=Path)
    asked = parser.parse_args()
    with np.load(ATTO, allow_pickle=False) as atto:
        stored = {name: atto[name] for name in ("features", "labels", "split", "sample_ids")}
    paths = [asked.images / f"{name}.jpg" for name in stored["sample_ids"]]
    small, _ = network_features(paths, 128)
    large, stages = network_features(paths, 160)
    columns = [small, large, stages, stored["features"], thumbnails(paths)]
    np.savez(
        asked.out,
        features=np.concatenate(columns, axis=1).astype(np.float16),
        sizes=[one.shape[1] for one in columns],
        labels=stored["labels"],
        split=stored["split"],
    )


def network_features(paths: list[Path], size: int) -> tuple[np.ndarray, np.ndarray]:
    """Pooled features, (n, 1280), and the means of every stage's channels, (n, 784)."""
    import timm
    import torch
    from PIL import Image
    from safetensors.torch import load_file

    network = timm.create_model("tf_efficientnet_lite0", pretrained=False).eval()
    network.load_state_dict(load_file(WEIGHTS))
    mean, sd = (np.array(network.default_cfg[name], np.float32) for name in ("mean", "std"))
    means: list[np.ndarray] = []
    for block in network.blocks:
        block.register_forward_hook(lambda *given: means.append(given[2].mean((2, 3)).numpy()))
    pooled, stages = [], []
    for first in range(0, len(paths), BATCH):
        images = [Image.open(path).convert("RGB") for path in paths[first : first + BATCH]]
        resized = [image.resize((size, size), Image.Resampling.BICUBIC) for image in images]
        pixels = np.stack([np.asarray(image, np.float32) / 255 for image in resized])
        inputs = torch.from_numpy(((pixels - mean) / sd).transpose(0, 3, 1, 2).copy())
        means.clear()
        with torch.inference_mode():
            maps = network.forward_features(inputs)
            pooled.append(network.forward_head(maps, pre_logits=True).numpy())
        stages.append(np.concatenate(means, axis=1))
    return np.concatenate(pooled), np.concatenate(stages)


def thumbnails(paths: list[Path]) -> np.ndarray:
    """Colours of 16 x 16 thumbnails, (n, 768), in [0, 1]."""
    from PIL import Image

    small = [
        Image.open(path).convert("RGB").resize((16, 16), Image.Resampling.BOX) for path in paths
    ]
    return np.stack([np.asarray(image, np.float32).ravel() / 255 for image in small])


if __name__ == "__main__":
    main()
