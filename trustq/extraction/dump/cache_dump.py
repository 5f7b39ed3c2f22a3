"""Run images through a network in evaluation mode: figures of some rows, or a cache of all.

A cache's further passes (views, dropout) are streamed in turn, so that memory holds one block.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn.functional import cross_entropy

from trustq.core.digest import canonical_json
from trustq.data.manifest import Manifest
from trustq.errors import InputError, TrustqError
from trustq.extraction.dump.views import DropoutPasses, View, averaged, resolve_views, turned
from trustq.extraction.exposure import Rows
from trustq.extraction.inputs.images import (
    ImageLoader,
    Preprocessing,
    evaluation_batches,
    n_workers,
)
from trustq.extraction.train.progress import Progress
from trustq.extraction.train.weights import Network, forward_head, grid_of
from trustq.recipes import ExtractRecipe
from trustq.store import CacheWriter, writing_cache
from trustq.store.write import Stream

PRECISION = "float32"
_BLOCK = 64  # images a forward pass; fixed, for sums differ in their last bits with the batch


@dataclass
class _Block:
    """What a pass over some rows gave, on the CPU."""

    rows: np.ndarray
    features: torch.Tensor  # (b, d)
    logits: torch.Tensor | None  # (b, k)
    dropout: torch.Tensor | None = None  # (t, b, k)
    maps: torch.Tensor | None = None  # (b, h, w, c) of float16


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
    for block in _passes(network, images, preprocessing=preprocessing, device=device):
        assert block.logits is not None
        targets = torch.from_numpy(labels[block.rows])
        loss += float(cross_entropy(block.logits, targets, reduction="sum"))
        hits += int((block.logits.argmax(dim=1) == targets).sum())
        n += len(block.rows)
        blocks.append(block.logits.numpy())
    return loss / n, hits / n, np.concatenate(blocks)


@dataclass(frozen=True)
class Further:
    """What a cache holds besides the clean pass: views, dropout passes, the last feature map."""

    views: tuple[View, ...] = ()
    dropout: DropoutPasses | None = None
    grid: tuple[int, ...] | None = None  # (h, w, c) of a map that is stored

    @classmethod
    def of_recipe(cls, recipe: ExtractRecipe, network: Network, *, size: int) -> "Further":
        """What a recipe asks for of images of `size` pixels.

        Raises `TrustqError`, before any training, where the network cannot give it.
        """
        dropout = grid = None
        if recipe.passes:
            dropout = DropoutPasses(network.model, recipe.passes, drop_rate=recipe.drop_rate)
        if recipe.maps:
            model: Any = network.model.eval()
            with torch.inference_mode():
                blank = torch.zeros(1, 3, size, size, device=next(model.parameters()).device)
                grid = tuple(grid_of(network, model.forward_features(blank)).shape[1:])
        return cls(resolve_views(recipe.views), dropout, grid)


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
    further: Further | None = None,
) -> None:
    """Write a cache of every image in manifest order, block by block.

    `attributes` is asked last for those of the format; `extra` holds further datasets. Views are
    passes of their own over the images; dropout and maps go along with the clean one. Raises
    `TrustqError` for an image that cannot be decoded, for a value that is not finite, and for a
    view or dropout that changes nothing; no file is left then.
    """
    n = len(manifest)
    further = further or Further()

    def passes(view: View | None) -> Iterator[_Block]:
        images = ImageLoader(
            manifest,
            evaluation_batches(np.arange(n), batch_size=_BLOCK),
            preprocessing=preprocessing,
            corruption=view.corruption if view else None,
            workers=n_workers(workers),
            device=device,
        )
        label = f"{what}, {view.name}" if view else what
        with progress.images(label, n) as show:
            done = 0
            for block in _passes(
                network,
                images,
                preprocessing=preprocessing,
                device=device,
                view=view,
                further=None if view else further,
            ):
                _require_finite(manifest, block)
                yield block
                done += len(block.rows)
                show(done, "")
        if view and view.corruption and n and not images.n_changed:
            raise _unchanging(view, "it changed no pixel of any image")

    with writing_cache(path, n, _streams(network, further)) as writer:
        for name in ("sample_id", "split", "group_id"):
            writer.put(name, manifest.columns[name])
        for name in ("label", "observed", "trusted", "seen"):
            writer.put(name, getattr(rows, name))
        for name, array in extra.items():
            writer.put(name, array)
        for i, block in enumerate(passes(None)):
            _append(writer, "", block)
            if not i and block.logits is not None:
                classifier = _linear_classifier(network, block.features, block.logits)
                for name, array in classifier.items():
                    writer.put(name, array)
        for view in further.views:
            for block in passes(view):
                _append(writer, f"views/{view.name}/", block)
            _require_changed(writer, view, n)
            parameters = canonical_json(view.parameters)
            writer.put(f"views/{view.name}/parameters", np.array([parameters]))
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
        for block in passes:
            assert block.logits is not None
            _require_finite(manifest, block)
            blocks.append(block.logits.numpy())
            done += len(block.rows)
            show(done, "")
    return np.concatenate(blocks)


def _passes(
    network: Network,
    images: ImageLoader,
    *,
    preprocessing: Preprocessing,
    device: torch.device,
    view: View | None = None,
    further: Further | None = None,
) -> Iterator[_Block]:
    model: Any = network.model
    model.eval()
    symmetries = view.symmetries if view else [(False, False, False)]
    for i, (rows, batch) in enumerate(images):
        with torch.inference_mode():
            inputs = to_input(batch, preprocessing, device)
            outputs = []
            for symmetry in symmetries:
                last = model.forward_features(turned(inputs, symmetry))
                outputs.append(forward_head(model, last, with_logits=network.n_logits > 0))
            features, logits = averaged(outputs)
            block = _Block(
                rows, features.float().cpu(), None if logits is None else logits.float().cpu()
            )
            if further and further.dropout:
                block.dropout = further.dropout.logits(inputs, last, i).float().cpu()
            if further and further.grid:
                block.maps = grid_of(network, last).half().cpu()
        yield block


def _streams(network: Network, further: Further) -> dict[str, Stream]:
    streams: dict[str, Stream] = {}
    for prefix in ("", *(f"views/{view.name}/" for view in further.views)):
        streams[f"{prefix}features"] = (network.n_features, "float32")
        if network.n_logits:
            streams[f"{prefix}logits"] = (network.n_logits, "float32")
    if further.dropout:
        shape = (further.dropout.n_passes, None, network.n_logits)
        streams["passes/dropout/logits"] = (shape, "float32")
    if further.grid:
        streams["maps"] = ((None, *further.grid), "float16")
    return streams


def _append(writer: CacheWriter, prefix: str, block: _Block) -> None:
    writer.append(f"{prefix}features", block.features.numpy())
    if block.logits is not None:
        writer.append(f"{prefix}logits", block.logits.numpy())
    if block.dropout is not None:
        writer.append("passes/dropout/logits", block.dropout.numpy())
    if block.maps is not None:
        writer.append("maps", block.maps.numpy())


def _require_changed(writer: CacheWriter, view: View, n: int) -> None:
    # Digests are of type, shape and bytes, so those of equal outputs are equal.
    same = writer.streamed_digest(f"views/{view.name}/features") == writer.streamed_digest(
        "features"
    )
    if n and same:
        raise _unchanging(view, "the network's features are those of the clean images")


def _unchanging(view: View, found: str) -> TrustqError:
    return InputError(
        f"The view {view.name} changes nothing: {found}. Figures from it would be clean figures "
        "under another name, so nothing was written. Leave it out, or look at the images."
    )


def _require_finite(manifest: Manifest, block: _Block) -> None:
    outputs = [block.features, block.logits, block.maps]
    if block.dropout is not None:
        outputs.append(block.dropout.transpose(0, 1))
    for output in outputs:
        if output is None:
            continue
        finite = torch.isfinite(output).flatten(1).all(dim=1)
        if not finite.all():
            row = int(block.rows[int((~finite).nonzero()[0])])
            raise TrustqError(
                f"The network's output for {manifest.image_path(row)} is not finite, so nothing "
                "was written. Look at the image, and at the weights that the network started from."
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
