"""Run images through a network in evaluation mode: figures of some rows, or a cache of all."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn.functional import cross_entropy

from trustq.errors import TrustqError
from trustq.extraction.exposure import Rows
from trustq.extraction.images import ImageLoader, Preprocessing, evaluation_batches, n_workers
from trustq.extraction.progress import Progress
from trustq.extraction.weights import Network, forward
from trustq.manifest import Manifest
from trustq.store import writing_cache

PRECISION = "float32"
_BLOCK = 64  # images a forward pass; fixed, for sums differ in their last bits with the batch


def to_input(
    images: torch.Tensor, preprocessing: Preprocessing, device: torch.device
) -> torch.Tensor:
    """Normalised network input, (b, 3, size, size) of float32, from uint8 (b, size, size, 3)."""
    moved = images.to(device, non_blocking=True).permute(0, 3, 1, 2).float().div_(255)
    mean = torch.tensor(preprocessing.mean, device=device).view(1, 3, 1, 1)
    std = torch.tensor(preprocessing.std, device=device).view(1, 3, 1, 1)
    return (moved - mean) / std


def evaluate(
    network: Network,
    images: ImageLoader,
    labels: np.ndarray,
    *,
    preprocessing: Preprocessing,
    device: torch.device,
) -> tuple[float, float, np.ndarray]:
    """Mean log loss and accuracy on a loader's m rows, from their entries in `labels`, (n,).

    Also returns the rows' logits, (m, k), in the loader's order.
    """
    loss, hits, n = 0.0, 0, 0
    blocks = []
    for rows, _, logits in _passes(network, images, preprocessing=preprocessing, device=device):
        assert logits is not None
        targets = torch.from_numpy(labels[rows])
        loss += float(cross_entropy(logits, targets, reduction="sum"))
        hits += int((logits.argmax(dim=1) == targets).sum())
        n += len(rows)
        blocks.append(logits.numpy())
    return loss / n, hits / n, np.concatenate(blocks)


def dump(
    path: Path,
    network: Network,
    manifest: Manifest,
    rows: Rows,
    *,
    preprocessing: Preprocessing,
    device: torch.device,
    workers: int,
    attributes: Callable[[], dict[str, Any]],
    extra: dict[str, np.ndarray],
    progress: Progress,
    what: str,
) -> None:
    """Write a cache of every image in manifest order, block by block.

    `attributes` is asked last for those of the format; `extra` holds further datasets. Raises
    `TrustqError` for an image that cannot be decoded and for a value that is not finite; no file is
    left then.
    """
    n = len(manifest)
    images = ImageLoader(
        manifest,
        evaluation_batches(np.arange(n), batch_size=_BLOCK),
        preprocessing=preprocessing,
        workers=n_workers(workers),
        device=device,
    )
    streamed = {"features": (network.n_features, "float32")}
    if network.n_logits:
        streamed["logits"] = (network.n_logits, "float32")
    with writing_cache(path, n, streamed) as writer, progress.images(what, n) as show:
        for name in ("sample_id", "split", "group_id"):
            writer.put(name, manifest.columns[name])
        for name in ("label", "observed", "trusted", "seen"):
            writer.put(name, getattr(rows, name))
        for name, array in extra.items():
            writer.put(name, array)
        done = 0
        passes = _passes(network, images, preprocessing=preprocessing, device=device)
        for block, features, logits in passes:
            _require_finite(manifest, block, features, logits)
            writer.append("features", features.numpy())
            if logits is not None:
                writer.append("logits", logits.numpy())
                if not done:
                    for name, array in _linear_classifier(network, features, logits).items():
                        writer.put(name, array)
            done += len(block)
            show(done, "")
        writer.finish(attributes())


def predict(
    network: Network,
    manifest: Manifest,
    rows: np.ndarray,
    *,
    preprocessing: Preprocessing,
    device: torch.device,
    workers: int,
    progress: Progress,
    what: str,
) -> np.ndarray:
    """Logits of some rows, (m, k) of float32, as `dump` would write them."""
    images = ImageLoader(
        manifest,
        evaluation_batches(rows, batch_size=_BLOCK),
        preprocessing=preprocessing,
        workers=n_workers(workers),
        device=device,
    )
    blocks = []
    with progress.images(what, len(rows)) as show:
        done = 0
        passes = _passes(network, images, preprocessing=preprocessing, device=device)
        for block, features, logits in passes:
            assert logits is not None
            _require_finite(manifest, block, features, logits)
            blocks.append(logits.numpy())
            done += len(block)
            show(done, "")
    return np.concatenate(blocks)


def _passes(
    network: Network, images: ImageLoader, *, preprocessing: Preprocessing, device: torch.device
) -> Iterator[tuple[np.ndarray, torch.Tensor, torch.Tensor | None]]:
    network.model.eval()
    for rows, batch in images:
        with torch.inference_mode():
            features, logits = forward(
                network.model,
                to_input(batch, preprocessing, device),
                with_logits=network.n_logits > 0,
            )
        yield rows, features.float().cpu(), None if logits is None else logits.float().cpu()


def _require_finite(
    manifest: Manifest, block: np.ndarray, features: torch.Tensor, logits: torch.Tensor | None
) -> None:
    finite = torch.isfinite(features).all(dim=1)
    if logits is not None:
        finite &= torch.isfinite(logits).all(dim=1)
    if not finite.all():
        row = int(block[int((~finite).nonzero()[0])])
        raise TrustqError(
            f"The network's output for {manifest.image_path(row)} is not finite, so nothing was "
            "written. Look at the image, and at the weights that the network started from."
        )


def _linear_classifier(
    network: Network, features: torch.Tensor, logits: torch.Tensor
) -> dict[str, np.ndarray]:
    # Stored only where it explains the logits: some heads put a norm or a hidden layer between.
    layer = network.model.get_classifier()  # type: ignore[operator]
    if not isinstance(layer, torch.nn.Linear) or layer.in_features != features.shape[1]:
        return {}
    weight = layer.weight.detach().float().cpu()
    bias = torch.zeros(len(weight)) if layer.bias is None else layer.bias.detach().float().cpu()
    if not torch.allclose(features @ weight.T + bias, logits, rtol=1e-3, atol=1e-3):
        return {}
    return {"classifier/weight": weight.numpy(), "classifier/bias": bias.numpy()}
