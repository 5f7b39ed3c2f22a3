"""All maps of the test rows from stored feature maps, against pytorch-grad-cam over 100 of them.

    python tests/benchmarks/bench_maps.py MAPS.h5 NETWORK.h5 MANIFEST

MAPS holds the feature maps of test rows, NETWORK is the cache whose checkpoint made them. Both
sides run in one process, alternating, one thread; processor seconds and the clock, medians of
three. The differences are of maps scaled to a largest value of 1, to autograd's own.
"""

import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from trustq.data.manifest import read_manifest
from trustq.data.preprocessing import Preprocessing
from trustq.deploy.network_export import network_of
from trustq.explain.activation_maps import LinearHead, cache_maps
from trustq.extraction.inputs.images import Feed, evaluation_batches
from trustq.store import read_cache

N_IMAGES, REPEATS = 100, 3


class Quiet:
    """No progress."""

    def __getattr__(self, name: str) -> Callable[..., None]:
        return lambda *args, **kwargs: None


def main() -> None:
    """Print both times, their ratio, and the largest difference to autograd."""
    maps, source = read_cache(Path(sys.argv[1])), read_cache(Path(sys.argv[2]))
    torch.set_num_threads(1)
    model = network_of(source).model
    classes = maps.logits.argmax(axis=1)
    test = np.flatnonzero(maps.split == "test")
    some = np.random.default_rng(0).choice(test, N_IMAGES, replace=False)
    images = _images(maps.sample_id[some], Path(sys.argv[3]), source)

    def ours() -> np.ndarray:
        return cache_maps(maps, LinearHead.of_cache(maps), classes)

    def theirs() -> np.ndarray:
        return _library(model, images, classes[some])

    clock, seconds = _times({"ours": ours, "theirs": theirs})
    print(f"{len(maps):,} maps ({len(test):,} of test) by trustq: {_said(seconds, clock, 'ours')}")
    print(f"{N_IMAGES} maps by pytorch-grad-cam: {_said(seconds, clock, 'theirs')}")
    print(f"ratio {seconds['theirs'] / seconds['ours']:.1f} in processor seconds")
    exact = _scaled(_autograd(model, images, classes[some]))
    difference = np.abs(_scaled(ours()[some]) - exact)
    blank = exact.max(axis=(1, 2)) <= 0
    print(
        f"largest difference to autograd {difference.max():.1e}, median of rows "
        f"{np.median(difference.max(axis=(1, 2))):.1e}, {int(blank.sum())} blank; maps stored as "
        f"{maps.extra['maps'].dtype}"
    )


def _times(runs: dict[str, Callable[[], Any]]) -> tuple[dict[str, float], dict[str, float]]:
    clock: dict[str, list[float]] = {name: [] for name in runs}
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(REPEATS):
        for name, run in runs.items():
            started, used = time.perf_counter(), time.process_time()
            run()
            seconds[name].append(time.process_time() - used)
            clock[name].append(time.perf_counter() - started)
    found = [{name: float(np.median(own)) for name, own in of.items()} for of in (clock, seconds)]
    return found[0], found[1]


def _said(seconds: dict[str, float], clock: dict[str, float], name: str) -> str:
    return f"{seconds[name]:.2f} processor s, {clock[name]:.2f} s by the clock"


def _images(ids: np.ndarray, path: Path, source: Any) -> torch.Tensor:
    """Network inputs of some rows, as the cache's network saw them."""
    manifest = read_manifest(path)
    place = {name: row for row, name in enumerate(manifest.columns["sample_id"].tolist())}
    rows = np.array([place[name] for name in ids.tolist()])
    names = Preprocessing.__dataclass_fields__
    stated = {k: v for k, v in source.preprocessing.items() if k in names}
    stated |= {k: tuple(v) for k, v in stated.items() if isinstance(v, list)}
    feed = Feed(Preprocessing(**stated), torch.device("cpu"), workers=0, progress=Quiet())
    (batch,) = list(feed.images(manifest, evaluation_batches(rows, batch_size=N_IMAGES)))
    return feed.to_input(batch[1])


def _library(model: Any, images: torch.Tensor, classes: np.ndarray) -> np.ndarray:
    from pytorch_grad_cam import GradCAM
    from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

    targets = [ClassifierOutputTarget(int(c)) for c in classes]
    with GradCAM(model=model, target_layers=[model.bn2]) as cam:
        return np.asarray(cam(input_tensor=images, targets=targets))


def _autograd(model: Any, images: torch.Tensor, classes: np.ndarray) -> np.ndarray:
    """Grad-CAM as the paper has it, by torch alone."""
    with torch.no_grad():
        last = model.forward_features(images)
    last = last.requires_grad_(True)
    score = model.forward_head(last)[torch.arange(len(images)), torch.from_numpy(classes)].sum()
    (gradient,) = torch.autograd.grad(score, last)
    raw = (last.detach() * gradient.mean(dim=(2, 3), keepdim=True)).sum(dim=1)
    return raw.numpy()


def _scaled(maps: np.ndarray) -> np.ndarray:
    above = np.maximum(maps, 0)
    top = above.max(axis=(1, 2), keepdims=True)
    return above / np.where(top > 0, top, 1)


if __name__ == "__main__":
    main()
