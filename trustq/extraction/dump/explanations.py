"""Explanations of a trained network's decisions while images go through it: Grad-CAM, Score-CAM.

Grad-CAM is the map's channels weighed by the mean gradient of a class's logit, and where it speaks
for the class (Selvaraju et al. 2017); Score-CAM weighs them by what the network says of the image
seen through each channel alone (Wang et al. 2020), or through some of the channels alone, those of
the largest spread over the map, as Faster-Score-CAM takes them. Both are stored at the map's own
resolution, scaled to a largest value of 1, with the scale beside them.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.nn.functional import interpolate

from trustq.core.class_names import unknown_class
from trustq.core.counts import counted, verb
from trustq.errors import InputError
from trustq.extraction.train.weights import Network, grid_of

# Images seen through single channels that go through the network at once: 64 of 224 pixels and
# three colours are 37 MB, whatever the number of channels.
SCORE_BATCH = 64

Forward = Callable[[], torch.Tensor]  # gives the last map, as the network does


@dataclass
class Explained:
    """Maps of some images: `maps` (b, h, w) from 0 to 1, and the factor that gives raw values."""

    maps: torch.Tensor
    scale: torch.Tensor  # (b,); 0 where nothing speaks for the class, and the map is blank


def chosen_classes(
    which: str, logits: torch.Tensor, labels: np.ndarray, *, classes: tuple[str, ...]
) -> torch.Tensor:
    """The class to explain of each image, (b,): the predicted one, the label, or a named one.

    Raises `TrustqError` for a name that is no class, and for rows without a label.
    """
    if which == "predicted":
        return logits.argmax(dim=1)
    if which == "label":
        if n := int((labels < 0).sum()):
            raise InputError(
                f"explain_class=label: {counted(n, 'row')} {verb(n, 'has', 'have')} no label. "
                "Explain the predicted class (`explain_class=predicted`) or leave these rows out."
            )
        return torch.from_numpy(labels.astype(np.int64)).to(logits.device)
    if which not in classes:
        raise InputError(f"explain_class: {unknown_class(which, classes)}", found=which)
    return torch.full((len(logits),), classes.index(which), device=logits.device)


class Explainer:
    """Explains a network's logits by its last map; the network must be in evaluation mode.

    Where the classifier reads a class token alone, no gradient reaches the places of the last
    output, so the layer that is explained is the input of the last block's attention.
    """

    def __init__(
        self, network: Network, *, channels: int = 0, tell: Callable[[int], None] | None = None
    ) -> None:
        """Score-CAM takes so many `channels`, 0 for all; `tell` is told of each masked batch."""
        self.network, self._channels, self._tell = network, channels, tell
        self.model: Any = network.model
        self.is_inside = _reads_token(self.model)
        self.layer = "blocks[-1].norm1" if self.is_inside else "forward_features"

    def grad_cam(self, forward: Forward, classes: torch.Tensor) -> Explained:
        """Grad-CAM of each image's class, (b,), in a pass that `forward` makes."""
        with torch.inference_mode(False), torch.enable_grad(), self._without_gradients():
            activation, logits = self._pass(forward)
            score = logits.gather(1, classes.clone()[:, None]).sum()
            (gradient,) = torch.autograd.grad(score, activation)
            with torch.no_grad():
                grid = self._grid(activation)
                weights = self._grid(gradient).mean(dim=(1, 2))
                raw = torch.einsum("bhwc,bc->bhw", grid, weights)
        return _scaled(raw)

    def score_cam(self, images: torch.Tensor, forward: Forward, classes: torch.Tensor) -> Explained:
        """Score-CAM of each image's class; one forward pass for each channel of each image.

        Where some channels are taken alone, their scores alone share the weight.
        """
        with torch.inference_mode():
            with self._capturing() as captured:
                last = forward()
            grid = self._grid(captured[0] if self.is_inside else last)
            raw = []
            for image, of_image, target in zip(images, grid, classes, strict=True):
                channels = self._chosen(of_image.permute(2, 0, 1))
                parts = []
                for part in channels.split(SCORE_BATCH):
                    seen = image[None] * _masks(part, image.shape[-2:])
                    parts.append(self.model(seen)[:, target])
                    if self._tell is not None:
                        self._tell(len(part))
                scores = torch.cat(parts)
                raw.append(torch.einsum("chw,c->hw", channels, scores.softmax(dim=0)))
            return _scaled(torch.stack(raw))

    def _chosen(self, channels: torch.Tensor) -> torch.Tensor:
        """The channels (c, h, w) that images are seen through, in their order."""
        if not 0 < self._channels < len(channels):
            return channels
        spread = channels.float().flatten(1).var(dim=1, correction=0)
        most = spread.argsort(descending=True, stable=True)[: self._channels]
        return channels[most.sort().values]

    def _pass(self, forward: Forward) -> tuple[torch.Tensor, torch.Tensor]:
        if not self.is_inside:
            with torch.no_grad():
                last = forward().clone()
            last.requires_grad_(True)
            return last, self.model.forward_head(last)
        with self._capturing(leaf=True) as captured:
            logits = self.model.forward_head(forward())
        return captured[0], logits

    @contextmanager
    def _capturing(self, *, leaf: bool = False) -> Iterator[list[torch.Tensor]]:
        # The layer's output; as a leaf, gradients go no further down.
        captured: list[torch.Tensor] = []

        def keep(_module: Any, _inputs: Any, output: torch.Tensor) -> torch.Tensor:
            output = output.detach().requires_grad_(True) if leaf else output
            captured.append(output)
            return output

        if not self.is_inside:
            yield captured
            return
        handle = self.model.blocks[-1].norm1.register_forward_hook(keep)
        try:
            yield captured
        finally:
            handle.remove()

    @contextmanager
    def _without_gradients(self) -> Iterator[None]:
        # Of the weights, which else make a graph of the whole network.
        changed = [p for p in self.model.parameters() if p.requires_grad]
        for parameter in changed:
            parameter.requires_grad_(False)
        try:
            yield
        finally:
            for parameter in changed:
                parameter.requires_grad_(True)

    def _grid(self, activation: torch.Tensor) -> torch.Tensor:
        return grid_of(self.network, activation)


def _reads_token(model: Any) -> bool:
    return (
        getattr(model, "global_pool", None) == "token"
        and hasattr(model, "blocks")
        and hasattr(model.blocks[-1], "norm1")
    )


def _masks(channels: torch.Tensor, size: Any) -> torch.Tensor:
    """Channels (c, h, w) enlarged to the image's size, each from 0 to 1; (c, 1, size, size)."""
    large = interpolate(channels[:, None], size=tuple(size), mode="bilinear", align_corners=False)
    low = large.amin(dim=(2, 3), keepdim=True)
    return (large - low) / (large.amax(dim=(2, 3), keepdim=True) - low).clamp_min(1e-8)


def _scaled(raw: torch.Tensor) -> Explained:
    positive = raw.clamp_min(0).float()
    scale = positive.amax(dim=(1, 2))
    maps = positive / torch.where(scale > 0, scale, torch.ones_like(scale))[:, None, None]
    return Explained(maps, scale)
