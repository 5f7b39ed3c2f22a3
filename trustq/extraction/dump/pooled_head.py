"""What lies between a network's last map and its logits, where pooling and a norm are all of it."""

from typing import Any

import numpy as np
import torch

from trustq.extraction.train.weights import Network

_CLOSE = 1e-3


def linear_classifier(
    network: Network, features: torch.Tensor, logits: torch.Tensor
) -> dict[str, np.ndarray]:
    """The classifier's weight and bias as datasets of a cache; none where it is not linear.

    Stored only where it explains the logits: some heads put a norm or a hidden layer between.
    """
    layer = network.model.get_classifier()  # type: ignore[operator]
    if not isinstance(layer, torch.nn.Linear) or layer.in_features != features.shape[1]:
        return {}
    weight = layer.weight.detach().float().cpu()
    bias = torch.zeros(len(weight)) if layer.bias is None else layer.bias.detach().float().cpu()
    if not torch.allclose(features @ weight.T + bias, logits, rtol=_CLOSE, atol=_CLOSE):
        return {}
    return {"classifier/weight": weight.numpy(), "classifier/bias": bias.numpy()}


def norm_after_pooling(
    network: Network, grid: torch.Tensor, features: torch.Tensor
) -> dict[str, np.ndarray]:
    """The layer norm that makes features (b, d) of a map's (b, h, w, d) means, as datasets.

    None where the means are the features, and where something else lies between, which shows when
    maps are explained: their means are then not the features.
    """
    pooled = grid.float().mean(dim=(1, 2))
    if pooled.shape != features.shape or torch.allclose(pooled, features, rtol=_CLOSE, atol=_CLOSE):
        return {}
    model: Any = network.model
    for norm in (
        getattr(getattr(model, "head", None), "norm", None),
        getattr(model, "fc_norm", None),
    ):
        if not isinstance(norm, torch.nn.LayerNorm) or norm.normalized_shape != pooled.shape[1:]:
            continue
        weight = torch.ones(pooled.shape[1]) if norm.weight is None else norm.weight.detach().cpu()
        bias = torch.zeros(pooled.shape[1]) if norm.bias is None else norm.bias.detach().cpu()
        normed = torch.nn.functional.layer_norm(
            pooled, norm.normalized_shape, weight.float(), bias.float(), norm.eps
        )
        if torch.allclose(normed, features, rtol=_CLOSE, atol=_CLOSE):
            return {
                "classifier/norm_weight": weight.float().numpy(),
                "classifier/norm_bias": bias.float().numpy(),
                "classifier/norm_eps": np.array([norm.eps]),
            }
    return {}
