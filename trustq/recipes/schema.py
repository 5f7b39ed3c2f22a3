"""The recipe schema: every setting, its type, default and meaning, in one place.

A recipe is TOML that holds only what differs from these defaults.
"""

from dataclasses import dataclass, field
from typing import Any


def setting(default: Any, meaning: str, *choices: str) -> Any:
    """A field with its meaning and, where the values are few, the values."""
    make = {"default_factory": default} if callable(default) else {"default": default}
    return field(**make, metadata={"meaning": meaning, "choices": choices})


@dataclass(frozen=True)
class ExtractRecipe:
    """The `[extract]` part: how a backbone is trained and dumped."""

    mode: str = setting("finetune", "train the backbone, or leave it", "finetune", "frozen")
    backbone: str = setting("convnext_tiny", "any timm model name")
    pretrained: bool = setting(True, "start from timm's pretrained weights")
    weights: str = setting("", "start from this file (.safetensors, .pth) instead")
    image_size: int = setting(224, "side of the square network input, pixels")
    noise: str = setting(
        "none", "label noise of the training labels: symmetric:R, matrix:FILE, ..."
    )
    trusted: float = setting(0.0, "share of training labels that are clean from the start")
    epochs: int = setting(12, "epochs at most")
    warmup_epochs: int = setting(2, "epochs of linear warm-up before the cosine")
    batch_size: int = setting(32, "images per step")
    learning_rate: float = setting(1e-4, "peak learning rate of the backbone")
    head_learning_rate: float = setting(0.0, "peak learning rate of the classifier; 0 = the same")
    weight_decay: float = setting(1e-4, "AdamW weight decay")
    label_smoothing: float = setting(0.05, "label smoothing of the cross-entropy, 0 to 1")
    patience: int = setting(0, "stop after this many epochs without a better checkpoint; 0 = never")
    checkpoint: str = setting(
        "best", "epoch kept: lowest validation loss, or the last", "best", "last"
    )
    horizontal_flip: bool = setting(True, "flip half of the training images left to right")
    vertical_flip: bool = setting(True, "flip half of the training images upside down")
    transpose: bool = setting(
        False, "swap rows and columns of half of them: with both flips, all 8"
    )
    rotation: float = setting(15.0, "training images are rotated by up to this many degrees")
    colour_jitter: float = setting(0.1, "brightness, contrast and saturation vary by this share")
    amp: str = setting("auto", "mixed precision where the device has it, or never", "auto", "off")
    workers: int = setting(-1, "image loading processes; -1 = one less than cores, 8 at most")


@dataclass(frozen=True)
class SweepRecipe:
    """The `[sweep]` part: label noise, repair arms and heads to run on caches."""

    rows: str = setting(
        "split", "use the manifest's splits, or re-split unseen rows", "split", "unseen"
    )
    noise: str = setting("auto", "label noise; auto = the cache's own, else symmetric:0.2")
    trusted: str = setting(
        "auto", "share trusted from the start; auto = with the cache's own noise, its"
    )
    trusted_strata: str = setting(
        "observed", "labels that stratify the trusted start", "observed", "clean"
    )
    arms: tuple[str, ...] = setting(
        ("none", "random", "self_confidence", "oracle"), "SCORE[@SOURCE][:ACTION]"
    )
    head: str = setting(
        "linear",
        "classifier on features; balanced: linear, class weights; backbone: cached logits",
        *("linear", "balanced", "xgboost", "knn", "lda", "mlp", "majority", "backbone"),
    )
    regularisation: str = setting("auto", "linear: scikit-learn's C; auto = chosen on validation")
    trees: int = setting(200, "xgboost: trees at most; validation stops them earlier")
    budgets: tuple[str, ...] = setting(("5%",), "labels bought: a number, a share, or all-wrong")
    rounds: int = setting(1, "equal parts in which a budget is bought")
    draws: int = setting(1, "draws of noise, folds and purchases per cache")
    draw_seed: int = setting(0, "first draw seed; stored noise stays, folds and purchases change")
    folds: int = setting(5, "folds for out-of-fold scores")
    # What `trustq sweep` runs on; `trustq repair` is given its caches.
    caches: tuple[str, ...] = setting((), "caches of a sweep: files, folders or patterns")
    external: tuple[str, ...] = setting((), "caches of other images by the same networks")


@dataclass(frozen=True)
class Recipe:
    """A resolved recipe: its name and both parts with every default filled in."""

    name: str = "default"
    extract: ExtractRecipe = field(default_factory=ExtractRecipe)
    sweep: SweepRecipe = field(default_factory=SweepRecipe)
