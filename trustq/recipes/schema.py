"""The recipe schema: every setting, its type, default and meaning, in one place.

A recipe is TOML that holds only what differs from these defaults.
"""

from dataclasses import dataclass, field
from typing import Any


def setting(default: Any, meaning: str, *choices: str, plugins: str = "") -> Any:
    """A field with its meaning and, where the values are few, the values.

    `plugins` is the kind of plug-ins whose names are values too.
    """
    make = {"default_factory": default} if callable(default) else {"default": default}
    return field(**make, metadata={"meaning": meaning, "choices": choices, "plugins": plugins})


@dataclass(frozen=True)
class ExtractRecipe:
    """The `[extract]` part: how a backbone is trained and dumped."""

    mode: str = setting(
        "finetune",
        "train the backbone, leave it, or also train one for each fold of groups",
        *("finetune", "frozen", "crossfit"),
    )
    crossfit_folds: int = setting(5, "crossfit: networks, each blind to one fold of groups")
    train_on: str = setting(
        "train", "split to train on, or a share of its groups: train:0.5; the rest stays unseen"
    )
    observed: str = setting(
        "",
        "train on a file's labels (sample_id,label; blank = dropped); {seed} in its name is filled",
    )
    backbone: str = setting("convnext_tiny", "any timm model name")
    pretrained: bool = setting(True, "start from timm's pretrained weights")
    weights: str = setting(
        "", "start from this file (.safetensors, .pth) or package:efficientnet-lite0 instead"
    )
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
    weight_decay: float = setting(1e-4, "weight decay of all but biases and norms")
    label_smoothing: float = setting(0.05, "label smoothing of the cross-entropies, 0 to 1")
    patience: int = setting(0, "stop after this many epochs without a better checkpoint; 0 = never")
    checkpoint: str = setting(
        "best",
        "epoch kept: lowest validation loss, the last, or best validation macro_f1, macro_auroc, "
        "ece",
        *("best", "last", "macro_f1", "macro_auroc", "ece"),
    )
    loss: str = setting(
        "ce",
        "cross-entropy, generalised, symmetric, focal, or adjusted by observed label counts",
        *("ce", "gce", "sce", "focal", "logit_adjusted"),
    )
    gce_q: float = setting(0.7, "gce: 1 = mean absolute error, near 0 = cross-entropy")
    sce_alpha: float = setting(0.1, "sce: weight of the cross-entropy")
    sce_beta: float = setting(1.0, "sce: weight of the reverse cross-entropy")
    focal_gamma: float = setting(2.0, "focal: power of the probability that is missing")
    logit_tau: float = setting(1.0, "logit_adjusted: share of the log priors that is added")
    mixup: float = setting(0.0, "alpha of MixUp, by batch; 0 = none; with cutmix, half each")
    cutmix: float = setting(0.0, "alpha of CutMix, by batch; 0 = none")
    sampling: str = setting(
        "none",
        "rows of an epoch: each once, or drawn: classes equal, or domains equal and cells in them",
        *("none", "class_balanced", "domain_balanced"),
    )
    sampling_domain: str = setting("domain", "domain_balanced: column of the domains")
    sampling_group: str = setting(
        "", "domain_balanced: column that, with the label, makes the cells, e.g. skin_tone"
    )
    optimizer: str = setting("adamw", "AdamW, or gradient descent with momentum", "adamw", "sgd")
    momentum: float = setting(0.9, "sgd: momentum")
    layer_decay: float = setting(1.0, "rate of a layer as a share of the next one's; 1 = the same")
    clip_norm: float = setting(0.0, "gradients are scaled down to this norm; 0 = never")
    accumulate: int = setting(1, "batches whose gradients make one step")
    ema: float = setting(
        0.0, "decay of the moving average of weights that is kept, once warm; 0 = none"
    )
    trained_stages: int = setting(
        -1, "train the last stages only, this many; 0 = the head only, -1 = everything"
    )
    compile: bool = setting(
        False, "train through torch.compile (tests trace only); the dump stays uncompiled"
    )
    horizontal_flip: bool = setting(True, "flip half of the training images left to right")
    vertical_flip: bool = setting(True, "flip half of the training images upside down")
    transpose: bool = setting(
        False, "swap rows and columns of half of them: with both flips, all 8"
    )
    rotation: float = setting(15.0, "training images are rotated by up to this many degrees")
    colour_jitter: float = setting(0.1, "brightness, contrast and saturation vary by this share")
    amp: str = setting(
        "auto",
        "mixed precision of training steps: on CUDA (bf16, else fp16; not tested there), never, or "
        "this",
        *("auto", "off", "bf16", "fp16"),
    )
    workers: int = setting(-1, "image loading processes; -1 = one less than cores, 8 at most")

    # Pixels: what training images undergo besides, how images are fitted, what is dumped besides.
    random_crop: float = setting(
        1.0, "least share of the area that a random crop shows, 1 = none; aspect 3/4 to 4/3"
    )
    hue_jitter: float = setting(0.0, "hue varies by this share of the colour circle, 0.5 at most")
    bridging: tuple[str, ...] = setting(
        (), "effects of other clinics, NAME[-STRENGTH][:PROBABILITY], e.g. hair, vignette:0.2"
    )
    aspect: str = setting(
        "squash", "to a square: squash, the central crop, or pad", "squash", "crop", "pad"
    )
    interpolation: str = setting(
        "auto",
        "of the resize; auto = the model's",
        *("auto", "nearest", "bilinear", "bicubic", "lanczos"),
    )
    drop_rate: float = setting(
        0.0, "dropout before the classifier, in training and in passes; 0.3 is usual"
    )
    views: tuple[str, ...] = setting(
        (), "further passes to store: tta, tta-flips, corruptions, or one of these, e.g. blur-2"
    )
    passes: int = setting(0, "dropout passes to store beside the logits, 20 is usual; 0 = none")
    maps: bool = setting(False, "store the last feature map, float16, for explanations")


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
        *("linear", "balanced", "xgboost", "xgboost_study", "knn", "centroid", "lda", "ridge"),
        *("mlp", "majority", "prior", "backbone"),
        plugins="heads",
    )
    regularisation: str = setting("auto", "linear: scikit-learn's C; auto = chosen on validation")
    trees: int = setting(200, "xgboost: trees at most; validation stops them earlier")
    components: int = setting(
        0, "xgboost: principal components, learned inside each fold; 0 = the features as they are"
    )
    budgets: tuple[str, ...] = setting(("5%",), "labels bought: a number, a share, or all-wrong")
    rounds: int = setting(1, "equal parts in which a budget is bought")
    draws: int = setting(1, "draws of noise, folds and purchases per cache")
    draw_seed: int = setting(0, "first draw seed; stored noise stays, folds and purchases change")
    folds: int = setting(5, "folds for out-of-fold scores")
    references: bool = setting(True, "run random and oracle beside every scored arm")
    noise_unit: str = setting("image", "rows that a drawn mistake covers", "image", "group")
    buy_unit: str = setting(
        "image", "rows that one purchase covers; group: budgets count groups", "image", "group"
    )
    schedule: str = setting("equal", "parts of a budget by round: equal, doubling, or 1,2,5")
    cost: str = setting("", "price of a label: mel=3,bkl=2 (as observed), or FILE.csv; budgets pay")
    class_cap: str = setting("", "rows of one class that a scored arm takes at most: 10, or 20%")
    quota: str = setting(
        "none",
        "a round's budget over observed classes, for scored arms",
        *("none", "equal", "proportional"),
    )
    diversity: float = setting(1.0, "spread a batch over this many times as many candidates")
    flagged_weight: float = setting(0.2, "what rows count that :reweight weighs down, 0 to 1")
    stop_precision: float = setting(
        0.0, "stop after a round with a smaller share of changed labels"
    )
    raters: int = setting(1, "simulated experts asked about each label; ties ask one more")
    rater_error: float = setting(0.0, "share of answers in which a simulated expert errs")
    answers: str = setting("", "people's answers instead: a file of sample_id and label")
    ensemble: tuple[str, ...] = setting(("lda", "knn"), "heads beside the head, for SCORE@heads")
    calibrator: str = setting(
        "temperature",
        "what is fitted on validation logits; netcal-* need trustq[calibration]",
        *("temperature", "vector"),
        *("netcal-isotonic", "netcal-beta", "netcal-histogram", "netcal-bbq", "netcal-enir"),
        *("sklearn-sigmoid", "sklearn-isotonic"),  # its temperature is ours, and needs 1.8
        plugins="calibrators",
    )
    # Columns of metadata, which caches lack: labels, rows to fit on, weights, slices.
    metadata: tuple[str, ...] = setting(
        (), "manifests, or tables with sample_id, that hold the columns named below"
    )
    target: str = setting("", "column of the labels, e.g. malignant; empty: those of the cache")
    fit_on: str = setting(
        "", "COLUMN=VALUE,... or COLUMN!=VALUE,...: train and val rows of heads; test stays whole"
    )
    row_weights: str = setting(
        "none",
        "of rows in the fit of heads; domain_balanced as sampling is in [extract]",
        *("none", "domain_balanced"),
    )
    sampling_domain: str = setting("domain", "domain_balanced: column of the domains")
    sampling_group: str = setting(
        "", "domain_balanced: column that, with the label, makes the cells, e.g. skin_tone"
    )
    slices: tuple[str, ...] = setting(
        (), "columns by whose values the last round is also measured; numbers in quartiles"
    )
    ages: str = setting("", "column of ages to slice by, in bands of years")
    positive: tuple[str, ...] = setting(
        (), "classes that count as one in slices: sensitivity, specificity and their gaps"
    )
    # What `trustq sweep` runs on; `trustq repair` is given its caches.
    caches: tuple[str, ...] = setting((), "caches of a sweep: files, folders or patterns")
    external: tuple[str, ...] = setting((), "caches of other images by the same networks")


@dataclass(frozen=True)
class Recipe:
    """A resolved recipe: its name and both parts with every default filled in."""

    name: str = "default"
    extract: ExtractRecipe = field(default_factory=ExtractRecipe)
    sweep: SweepRecipe = field(default_factory=SweepRecipe)
