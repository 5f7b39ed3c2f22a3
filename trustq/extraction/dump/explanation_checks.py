"""Tests of explanations on some rows: do they point at what the network uses, and at what it knows?

Faithfulness: the class's probability while what a map marks is taken away (deletion, Petsiuk et al.
2018; pixel flipping, Bach et al. 2015) or shown (insertion), beside the same with a random map.
Sanity: maps of the network with its layers drawn anew from the classifier down (cascading
randomisation, Adebayo et al. 2018). A map that does not change then shows the image, not what the
network learned.
"""

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch.nn.functional import conv2d, interpolate, pad

from trustq.core.generators import generator
from trustq.errors import InputError
from trustq.extraction.dump.explanations import Explained
from trustq.extraction.train.weights import Network

STEPS = 16  # of deletion and insertion
MOST_FLIPS = 49  # steps of pixel flipping: the cells of a 7 x 7 map one by one
MOST_STAGES = 8  # snapshots while layers are drawn anew
_BATCH = 64

Explain = Callable[[Network, torch.Tensor, torch.Tensor], Explained]


def faithfulness(
    network: Network, images: torch.Tensor, maps: torch.Tensor, classes: torch.Tensor, *, seed: int
) -> dict[str, np.ndarray]:
    """Curves of the class's probability, (m, steps + 1), for the maps and for random ones.

    `images` is (m, 3, s, s) of network input, `maps` (m, h, w). Removed places take the mean
    colour, shown ones begin on a blurred image. `deletion` and `flipping` fall fast where a map
    marks what the network uses, `insertion` rises fast.
    """
    drawn = generator(seed, "random maps").random(tuple(maps.shape))
    random = torch.from_numpy(drawn).float()
    n_cells = maps.shape[1] * maps.shape[2]
    found = {}
    for name, of in (("", maps), ("_random", random)):
        large = interpolate(of[:, None], size=tuple(images.shape[-2:]), mode="bilinear")[:, 0]
        cells = interpolate(_broken_ties(of)[:, None], size=tuple(images.shape[-2:]))[:, 0]
        mean = torch.zeros_like(images)
        found[f"deletion{name}"] = _curves(network, images, mean, large, classes, STEPS)
        found[f"insertion{name}"] = _curves(
            network, _blurred(images), images, large, classes, STEPS
        )
        flips = min(n_cells, MOST_FLIPS)
        found[f"flipping{name}"] = _curves(network, images, mean, cells, classes, flips)
    return found


def randomised_maps(
    network: Network,
    images: torch.Tensor,
    classes: torch.Tensor,
    *,
    explain: Explain,
    seed: int,
) -> tuple[list[str], np.ndarray]:
    """Maps (l, m, h, w) with more and more layers drawn anew, and what each stage reaches down to.

    The first stage is the network as it is, the last one has no learned layer left. The network
    itself is not changed. Raises `TrustqError` for a network none of whose layers can be drawn.
    """
    own = copy.copy(network)
    object.__setattr__(own, "model", copy.deepcopy(network.model))
    model: Any = own.model
    layers = [
        (name, module)
        for name, module in model.named_modules()
        if hasattr(module, "reset_parameters") and any(True for _ in module.parameters(False))
    ][::-1]
    if not layers:
        raise InputError(
            "explain_checks: no layer of this network can be drawn anew, so its explanations "
            "cannot be tested by randomisation. Leave `explain_checks` out."
        )
    ends = np.unique(np.linspace(1, len(layers), MOST_STAGES).round().astype(int)).tolist()
    names, maps, done = ["as trained"], [explain(own, images, classes).maps], 0
    devices = [images.device] if images.device.type == "cuda" else []
    with torch.random.fork_rng(devices):
        torch.manual_seed(int(generator(seed, "randomised layers").integers(2**63)))
        for end in ends:
            for _, layer in layers[done:end]:
                layer.reset_parameters()
            done = end
            names.append(f"down to {layers[end - 1][0]}")
            maps.append(explain(own, images, classes).maps)
    return names, torch.stack(maps).half().cpu().numpy()


def _curves(
    network: Network,
    start: torch.Tensor,
    end: torch.Tensor,
    importance: torch.Tensor,
    classes: torch.Tensor,
    steps: int,
) -> np.ndarray:
    # Places go from one image to the other, the most important first; (m, steps + 1).
    model: Any = network.model
    n_pixels = importance[0].numel()
    counts = np.linspace(0, n_pixels, steps + 1).round().astype(int)
    curves = []
    with torch.inference_mode():
        for one, other, weight, target in zip(start, end, importance, classes, strict=True):
            order = weight.flatten().argsort(descending=True, stable=True)
            rank = torch.empty_like(order)
            rank[order] = torch.arange(n_pixels, device=order.device)
            rank = rank.view(weight.shape).to(one.device)
            probs = []
            for part in np.array_split(counts, -(-len(counts) // _BATCH)):
                moved = torch.stack([rank < int(count) for count in part])[:, None]
                logits = model(torch.where(moved, other[None], one[None]))
                probs.append(logits.float().softmax(dim=1)[:, target].cpu())
            curves.append(torch.cat(probs))
    return torch.stack(curves).numpy()


def _broken_ties(maps: torch.Tensor) -> torch.Tensor:
    # Cells of one value, often 0, go one after another, not as one.
    order = maps.flatten(1).argsort(dim=1, stable=True)
    ranks = torch.empty_like(order)
    ranks.scatter_(1, order, torch.arange(order.shape[1]).expand_as(order).contiguous())
    return ranks.view(maps.shape).float()


def _blurred(images: torch.Tensor) -> torch.Tensor:
    sigma = images.shape[-1] / 20
    reach = max(1, min(int(2 * sigma), images.shape[-1] - 1))
    offsets = torch.arange(-reach, reach + 1, dtype=images.dtype, device=images.device)
    kernel = torch.exp(-(offsets**2) / (2 * sigma**2))
    kernel = kernel / kernel.sum()
    spread = pad(images.flatten(0, 1)[:, None], (reach,) * 4, mode="reflect")
    spread = conv2d(conv2d(spread, kernel.view(1, 1, 1, -1)), kernel.view(1, 1, -1, 1))
    return spread[:, 0].view(images.shape)
