"""What a step changes and by how much: trained stages, rates by layer, warm-up and cosine."""

import math

import torch

from trustq.errors import InputError
from trustq.extraction.train.weights import Network
from trustq.recipes import ExtractRecipe


def learning_rate_factor(step: int, *, n_steps: int, n_warmup: int) -> float:
    """Share of the peak learning rate at a step: a linear rise, then a cosine that stays above 0.

    >>> [round(learning_rate_factor(s, n_steps=6, n_warmup=2), 2) for s in range(6)]
    [0.5, 1.0, 1.0, 0.85, 0.5, 0.15]
    """
    if step < n_warmup:
        return (step + 1) / n_warmup
    return 0.5 * (1 + math.cos(math.pi * (step - n_warmup) / (n_steps - n_warmup)))


def freeze_stages(network: Network, trained_stages: int) -> None:
    """Leave gradients on for the last stages only, with the head; -1 leaves all of them on.

    Stages are timm's: of a ConvNet those between its down-samplings, of a transformer its blocks.
    Raises `TrustqError` for more stages than there are.
    """
    if trained_stages < 0:
        return
    stages = _stages(network.model)
    head = max(stages.values())
    if trained_stages >= head:
        raise InputError(
            f"trained_stages={trained_stages}: this backbone has {head - 1} stages between stem "
            "and head. Ask for fewer, or for everything: `trained_stages=-1`."
        )
    trained = {id(parameter) for parameter in network.classifier_parameters()}
    for name, parameter in network.model.named_parameters():
        is_trained = stages.get(name, head) >= head - trained_stages
        parameter.requires_grad_(is_trained or id(parameter) in trained)


def to_training_mode(model: torch.nn.Module) -> None:
    """Switch a model to training, but for parts that are frozen whole.

    Those stay as they are when they are used: no dropout, and batch norm keeps its statistics.
    """
    model.train()
    for module in model.modules():
        parameters = list(module.parameters())
        if parameters and not any(parameter.requires_grad for parameter in parameters):
            module.eval()


def make_optimizer(network: Network, recipe: ExtractRecipe) -> torch.optim.Optimizer:
    """AdamW or SGD over a network's trained parameters, grouped by their peak rate and decay.

    Raises `TrustqError` where `layer_decay` makes no difference between the trained parameters.
    """
    head = {id(parameter) for parameter in network.classifier_parameters()}
    head_rate = recipe.head_learning_rate or recipe.learning_rate
    scales = _layer_scales(network.model, recipe)
    groups: dict[tuple[float, float], list[torch.nn.Parameter]] = {}
    for parameter in network.model.parameters():
        if parameter.requires_grad:
            rate = (
                head_rate if id(parameter) in head else recipe.learning_rate * scales[id(parameter)]
            )
            # Biases and norms are vectors, and shrinking them only hurts (as in timm).
            decay = 0.0 if parameter.ndim <= 1 else recipe.weight_decay
            groups.setdefault((rate, decay), []).append(parameter)
    listed = [
        {"params": parameters, "lr": rate, "weight_decay": decay}
        for (rate, decay), parameters in groups.items()
    ]
    if recipe.optimizer == "sgd":
        return torch.optim.SGD(listed, momentum=recipe.momentum)
    return torch.optim.AdamW(listed)


def _layer_scales(model: torch.nn.Module, recipe: ExtractRecipe) -> dict[int, float]:
    """Share of the peak rate of each trained parameter, by its id."""
    from timm.optim import param_groups_layer_decay  # type: ignore[attr-defined]

    groups = param_groups_layer_decay(model, layer_decay=recipe.layer_decay)
    scales = {id(parameter): group["lr_scale"] for group in groups for parameter in group["params"]}
    if recipe.layer_decay != 1 and len(set(scales.values())) == 1:
        raise InputError(
            f"layer_decay={recipe.layer_decay:g} changes nothing where all that is trained is one "
            "layer. Leave it out, or train more: `trained_stages=-1`."
        )
    return scales


def _stages(model: torch.nn.Module) -> dict[str, int]:
    """timm's stage of each parameter by name: 0 the stem, the last the head and its norm."""
    from timm.models import group_parameters

    try:
        matcher = model.group_matcher(coarse=True)  # type: ignore[operator]
    except (AttributeError, AssertionError) as error:
        raise InputError(
            "trained_stages: timm does not tell the stages of this backbone. Train all of it, "
            "`trained_stages=-1`, or take another backbone."
        ) from error
    stages: dict[str, int] = group_parameters(model, matcher, reverse=True)
    return stages
