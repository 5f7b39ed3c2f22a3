"""What training settings may be, each alone and together; known before any time is spent."""

from collections.abc import Callable
from dataclasses import fields

from trustq.data.manifest import Manifest
from trustq.errors import InputError
from trustq.extraction.inputs.sampling import require_columns
from trustq.recipes import ExtractRecipe

SOFT_LABEL_LOSSES = ("ce", "logit_adjusted")  # those that label smoothing and mixing go with

_Range = tuple[str, Callable[[float], bool]]
_AT_LEAST_0: _Range = ("at least 0", lambda value: value >= 0)
_SHARE: _Range = ("at least 0 and below 1", lambda value: 0 <= value < 1)
_RANGES: dict[str, _Range] = {
    "learning_rate": _AT_LEAST_0,
    "head_learning_rate": _AT_LEAST_0,
    "weight_decay": _AT_LEAST_0,
    "label_smoothing": _SHARE,
    "gce_q": ("above 0 and at most 1", lambda value: 0 < value <= 1),
    "sce_alpha": _AT_LEAST_0,
    "sce_beta": _AT_LEAST_0,
    "focal_gamma": _AT_LEAST_0,
    "logit_tau": _AT_LEAST_0,
    "mixup": _AT_LEAST_0,
    "cutmix": _AT_LEAST_0,
    "momentum": _SHARE,
    "layer_decay": ("above 0 and at most 1", lambda value: 0 < value <= 1),
    "clip_norm": _AT_LEAST_0,
    "accumulate": ("at least 1", lambda value: value >= 1),
    "ema": _SHARE,
    "trained_stages": ("at least -1", lambda value: value >= -1),
    "stored_draws": _AT_LEAST_0,
}

# Settings that mean something only beside another one.
_ONLY_WITH = {
    "gce_q": ("loss", "gce"),
    "sce_alpha": ("loss", "sce"),
    "sce_beta": ("loss", "sce"),
    "focal_gamma": ("loss", "focal"),
    "logit_tau": ("loss", "logit_adjusted"),
    "sampling_domain": ("sampling", "domain_balanced"),
    "sampling_group": ("sampling", "domain_balanced"),
    "momentum": ("optimizer", "sgd"),
}


def require_agreeing(manifest: Manifest, *, recipe: ExtractRecipe) -> None:
    """Raise `TrustqError` for a setting out of its range, or that another one rules out.

    A setting that is given and changes nothing is an error too, for its user thinks it does.
    """
    for key, (expected, is_inside) in _RANGES.items():
        if not is_inside(value := getattr(recipe, key)):
            raise InputError(f"{key} is {value:g}, expected {expected}.")
    defaults = {field.name: field.default for field in fields(recipe)}
    for key, (other, needed) in _ONLY_WITH.items():
        value = getattr(recipe, key)
        if value != defaults[key] and (found := getattr(recipe, other)) != needed:
            raise InputError(
                f"{key}={value} is of {other}={needed} and changes nothing with {other}={found}. "
                f"Leave it out, or use `{other}={needed}`."
            )
    if recipe.stored_draws:
        _require_storable(recipe)
    if recipe.loss not in SOFT_LABEL_LOSSES:
        for key in ("mixup", "cutmix", "label_smoothing"):
            if value := getattr(recipe, key):
                raise InputError(
                    f"{key}={value:g} makes soft labels, which loss={recipe.loss} does not take. "
                    f"Leave them out with `{key}=0`, or take one of the losses "
                    f"{', '.join(SOFT_LABEL_LOSSES)}."
                )
    if recipe.loss == "logit_adjusted" and recipe.sampling != "none":
        raise InputError(
            f"sampling={recipe.sampling} evens out the classes already; loss=logit_adjusted would "
            "do so a second time, by counts that the draws no longer have. Choose one of them."
        )
    if recipe.sampling == "domain_balanced":
        require_columns(manifest, recipe=recipe)


def _require_storable(recipe: ExtractRecipe) -> None:
    """Raise `TrustqError` where stages are not frozen, or a step needs the pixels themselves."""
    if recipe.trained_stages < 0:
        raise InputError(
            f"stored_draws={recipe.stored_draws} stores what frozen stages give, and "
            "trained_stages=-1 freezes none. Freeze the early ones, e.g. `trained_stages=3`, or "
            "leave stored_draws out."
        )
    for key in ("mixup", "cutmix", "compile"):
        if value := getattr(recipe, key):
            raise InputError(
                f"{key}={value} works on pixels or on the whole network, and stored_draws="
                f"{recipe.stored_draws} trains on what frozen stages gave. Choose one of them."
            )
