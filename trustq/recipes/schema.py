"""The recipe schema: every setting, its type, default and meaning, in one place.

A recipe is TOML that holds only what differs from these defaults. Keys of runs, rows, SQL columns,
groups, captions, options and help are derived from what is declared here: `sweep_settings`.
"""

import math
from dataclasses import MISSING, dataclass, field, fields
from functools import cache
from typing import Any, Literal, NamedTuple, get_type_hints

from trustq.core.plugins import find_plugin, plugin_names
from trustq.errors import InputError

# What a setting concerns, which decides whether a key holds it. `run`: one value in each run, or
# none of its numbers; `shared`: every run; `head`: those whose head is one of `heads`; `policy`:
# every purchase; `arm`: arms that use it; `metadata`: in the key by what its columns hold.
Scope = Literal["run", "shared", "head", "policy", "arm", "metadata"]

# What a column of it does in tables: told apart by it (`setting`), equal in both halves of a pair
# (`matched`) or of their purchase (`purchase`), one question on a leaderboard (`problem`), or what
# may differ between two arms (`compared`).
ROLES = ("setting", "matched", "problem", "purchase", "compared")
_EVERYWHERE = "setting matched problem"

AS_GIVEN = "as given"  # what tables say of the noise of labels that people's answers judge

LAST_SEED = 2**31 - 1  # seeds are stored as 32-bit integers


class Range(NamedTuple):
    """Numbers that a setting accepts; `above` and `below` are left out, `least` and `most` not."""

    least: float | None = None
    most: float | None = None
    above: float | None = None
    below: float | None = None

    def holds(self, value: float) -> bool:
        """Whether a number is one of them; NaN and infinity never are."""
        return (
            (isinstance(value, int) or math.isfinite(value))
            and (self.least is None or value >= self.least)
            and (self.most is None or value <= self.most)
            and (self.above is None or value > self.above)
            and (self.below is None or value < self.below)
        )

    def __str__(self) -> str:
        if self.least is not None and self.most is not None:
            return f"{self.least:g} to {self.most:g}"
        said = []
        if self.least is not None:
            said.append(f"{self.least:g} or more")
        if self.above is not None:
            said.append(f"above {self.above:g}")
        if self.below is not None:
            said.append(f"below {self.below:g}")
        if self.most is not None:
            said.append(f"{self.most:g} at most")
        return " and ".join(said)


class Setting(NamedTuple):
    """One setting, as declared."""

    name: str
    kind: Any  # bool, int, float, str or tuple[str, ...]
    default: Any
    meaning: str
    choices: tuple[str, ...]
    range: Range
    scope: Scope
    role: tuple[str, ...]  # of `ROLES`
    column: str | None  # its column of `runs`; None where another column says it
    sql: str  # type of that column
    always_keyed: bool  # in keys even as the default; a new setting leaves old keys as they are
    heads: tuple[str, ...]  # scope `head`: those that it concerns
    title: str  # what captions call it
    plugins: str  # kind of the plug-ins whose names are values too

    @property
    def accepts(self) -> str:
        """The values in words: its choices, its range, or its type."""
        return ", ".join(self.every_choice) or str(self.range) or kind_name(self.kind)

    @property
    def every_choice(self) -> tuple[str, ...]:
        """The choices with the names of plug-ins; empty where any value of the type will do."""
        return (*self.choices, *(plugin_names(self.plugins) if self.plugins else ()))

    def is_choice(self, value: Any) -> bool:
        """Whether a value is one of the choices, or there are none to choose from."""
        if not self.choices or value in self.choices:
            return True
        for choice in self.choices:  # NAME:FILE stands for the name with any file
            name, mark, _ = choice.partition(":")
            if mark and str(value).startswith(name + mark) and value != name + mark:
                return True
        return bool(self.plugins) and find_plugin(self.plugins, value) is not None

    def check(self, value: Any) -> None:
        """Raise `TrustqError` for a value that is none of the choices or out of the range."""
        if not self.is_choice(value):
            problem = f"expected one of {self.accepts}"
        elif isinstance(value, int | float) and not self.range.holds(value):
            problem = f"expected {self.accepts}"
        else:
            return
        shown = f"{value:g}" if isinstance(value, float) else repr(value)
        raise InputError(
            f"{self.name} is {shown}, {problem}.",
            where=self.name,
            found=value,
            expected=self.choices or None,
        )


def kind_name(kind: Any) -> str:
    """What a value of a type is called in messages.

    >>> kind_name(int)
    'a whole number'
    """
    names = {bool: "true or false", int: "a whole number", float: "a number", str: "text"}
    return names.get(kind, "a list of texts, not empty")


def setting(
    default: Any,
    meaning: str,
    *choices: str,
    least: float | None = None,
    most: float | None = None,
    above: float | None = None,
    below: float | None = None,
    scope: Scope = "shared",
    role: str | None = None,
    column: str | None = None,
    sql: str = "",
    always_keyed: bool = False,
    heads: tuple[str, ...] = (),
    title: str = "",
    plugins: str = "",
) -> Any:
    """A field with its meaning, the values it accepts, and what tables and keys make of it.

    A setting of scope `shared` has a column of its own name and every role of a setting unless
    `column` and `role` say otherwise; of another scope it has none unless they do. `plugins` is the
    kind of plug-ins whose names are values too.
    """
    metadata = {
        "meaning": meaning,
        "choices": choices,
        "range": Range(least, most, above, below),
        "scope": scope,
        "role": tuple((_EVERYWHERE if role is None and scope == "shared" else role or "").split()),
        "column": column,
        "sql": sql,
        "always_keyed": always_keyed,
        "heads": heads,
        "title": title,
        "plugins": plugins,
    }
    make = {"default_factory": default} if callable(default) else {"default": default}
    return field(**make, metadata=metadata)


@cache  # a run asks for them ten times, and reading annotations takes a millisecond
def declared(part: type) -> tuple[Setting, ...]:
    """The settings of a part of a recipe, in their order.

    >>> [s.accepts for s in declared(SweepRecipe) if s.name == "rounds"]
    ['1 to 100000']
    """
    kinds = get_type_hints(part)
    found = []
    for one in fields(part):
        told: dict[str, Any] = dict(one.metadata)
        if told["column"] is None and told["scope"] == "shared":
            told["column"] = one.name
        factory = one.default_factory
        default = one.default if factory is MISSING else factory()
        told["sql"] = told["sql"] or _SQL.get(kinds[one.name], "VARCHAR")
        told["title"] = told["title"] or one.name.replace("_", " ")
        found.append(Setting(one.name, kinds[one.name], default, **told))
    return tuple(found)


_SQL = {bool: "BOOLEAN", int: "INTEGER", float: "DOUBLE"}


def sweep_settings(*scopes: str) -> tuple[Setting, ...]:
    """The settings of `[sweep]`, all or those of some scopes.

    >>> [s.name for s in sweep_settings("head")]
    ['regularisation', 'trees', 'components']
    """
    return _of_scopes(SweepRecipe, scopes)


@cache
def _of_scopes(part: type, scopes: tuple[str, ...]) -> tuple[Setting, ...]:
    return tuple(s for s in declared(part) if not scopes or s.scope in scopes)


def plain(value: Any) -> Any:
    """A setting's value as JSON has it: lists for tuples."""
    return list(value) if isinstance(value, tuple) else value


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
    classifier_start: str = setting(
        "random",
        "a new classifier's weights: as timm draws them, or zero, so that a pretrained network is "
        "not first pulled about by random logits",
        *("random", "zero"),
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
        "their sum, ece",
        *("best", "last", "macro_f1", "macro_auroc", "auroc_f1", "ece"),
    )
    validation_noise: str = setting(
        "",
        "label noise of the validation rows that choose the epoch: same, or as noise; with "
        ",corrected figures are estimated by what the noise makes of true labels; empty: clean",
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
    stored_draws: int = setting(
        0,
        "augmented forms of an image that epochs show in turn; frozen leading stages run once on "
        "each; 0 = a new form each epoch",
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
    engine: str = setting(
        "torch",
        "what computes the dump on a CPU; openvino is faster and differs by some 1e-6; auto = "
        "openvino where it is installed and can",
        *("torch", "openvino", "auto"),
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
    pass_drop: str = setting(
        "dropout",
        "what passes drop: the network's own dropout, or, which moves its maps, path:0.1 (residual "
        "branches) or spatial:0.1 (channels of the last map)",
    )
    maps: bool = setting(False, "store the last feature map, for explanations")
    map_precision: str = setting(
        "float16",
        "of stored maps; float32 takes twice the room and gives Grad-CAM as autograd does within "
        "1e-4, float16 within about 1e-3",
        "float16",
        "float32",
    )
    epoch_logits: bool = setting(
        True, "store the training rows' logits of each epoch, for scores of training dynamics"
    )
    explain: tuple[str, ...] = setting(
        (),
        "explanations to store: gradcam; scorecam, a forward pass for each channel, or scorecam:N, "
        "for each of the N channels of the largest spread",
    )
    explain_class: str = setting(
        "predicted", "class that is explained: predicted, label, or the name of one"
    )
    explain_checks: int = setting(
        0, "rows, drawn at random, on which explanations are tested; 64 is usual, 0 = none"
    )


@dataclass(frozen=True)
class SweepRecipe:
    """The `[sweep]` part: label noise, repair arms and heads to run on caches."""

    rows: str = setting(
        "split",
        "use the manifest's splits, or re-split unseen rows",
        "split",
        "unseen",
        column="rows_used",
        always_keyed=True,
    )
    noise: str = setting(
        "auto",
        "label noise: symmetric:RATE, pair:RATE, instance:RATE, reference, matrix:FILE, "
        "file:OBSERVED.csv, stored or none; auto = the cache's own, else symmetric:0.2",
        always_keyed=True,
    )
    validation_noise: str = setting(
        "",
        "label noise of validation rows, which choose penalty, trees and temperature: same, or as "
        "noise; with ,corrected they are used by what the noise makes of true labels; empty: clean",
        column="validation_noise",
        role="setting matched",
    )
    trusted: str = setting(
        "auto",
        "share of labels trusted from the start, or stored; auto = that of the cache's own noise",
        always_keyed=True,
        sql="DOUBLE",
    )
    trusted_strata: str = setting(
        "observed", "labels that stratify the trusted start", "observed", "clean", always_keyed=True
    )
    arms: tuple[str, ...] = setting(
        ("none", "random", "self_confidence", "oracle"),
        "SCORE[@SOURCE][:ACTION]: scores none, random, oracle, self_confidence, noise_posterior, "
        "normalized_margin, mean_rank, confident_learning, knn_agreement, entropy, ...; sources "
        "head, heads, crossfit, passes, in_sample, epochs, path; actions relabel, drop, reweight",
        scope="run",
    )
    head: str = setting(
        "linear",
        "classifier on features; balanced: linear, class weights; backbone: cached logits; "
        "zero_shot: cosine with the file's text_features, which no label changes",
        *("linear", "balanced", "xgboost", "xgboost_study", "lightgbm", "knn", "centroid", "lda"),
        *("ridge", "mlp", "majority", "prior", "backbone", "zero_shot:FILE"),
        plugins="heads",
        role="setting matched",
        always_keyed=True,
    )
    regularisation: str = setting(
        "auto",
        "linear: scikit-learn's C; auto = chosen on validation",
        scope="head",
        heads=("linear", "balanced"),
        always_keyed=True,
    )
    trees: int = setting(
        200,
        "xgboost, lightgbm: trees at most; validation stops them earlier",
        scope="head",
        heads=("xgboost", "lightgbm"),
        least=1,
        always_keyed=True,
    )
    components: int = setting(
        0,
        "xgboost: principal components, learned inside each fold; 0 = the features as they are",
        scope="head",
        heads=("xgboost", "xgboost_study"),
        least=0,
    )
    budgets: tuple[str, ...] = setting(
        ("5%",),
        "labels bought: a number, a share, or all-wrong",
        scope="run",
        column="budget",
        role="setting purchase",
        title="budget",
    )
    rounds: int = setting(
        1,
        "equal parts in which a budget is bought",
        scope="run",
        least=1,
        most=100_000,
        column="n_rounds",
        role="setting purchase",
    )
    draws: int = setting(1, "draws of noise, folds and purchases per cache", scope="run", least=1)
    draw_seed: int = setting(
        0,
        "first draw seed; stored noise stays, folds and purchases change",
        scope="run",
        least=0,
        most=LAST_SEED,
    )
    folds: int = setting(
        5,
        "folds for out-of-fold scores",
        least=2,
        column="n_folds",
        role="setting matched",
        always_keyed=True,
    )
    references: bool = setting(True, "run random and oracle beside every scored arm", scope="run")
    noise_unit: str = setting(
        "image", "rows that a drawn mistake covers", "image", "group", always_keyed=True
    )
    buy_unit: str = setting(
        "image",
        "rows that one purchase covers; group: budgets count groups",
        "image",
        "group",
        scope="policy",
        column="buy_unit",
        role="setting purchase",
    )
    schedule: str = setting(
        "equal", "parts of a budget by round: equal, doubling, or 1,2,5", scope="policy"
    )
    cost: str = setting(
        "",
        "cost per label by observed class (mel=3,bkl=2), or a CSV; budgets are then in cost units",
        scope="policy",
    )
    class_cap: str = setting(
        "", "maximum rows per class that a scoring arm may select: 10, 20%", scope="policy"
    )
    quota: str = setting(
        "none",
        "a round's budget over observed classes, for scored arms",
        *("none", "equal", "proportional"),
        scope="policy",
    )
    diversity: float = setting(
        1.0, "spread a batch over this many times as many candidates", scope="policy", least=1
    )
    flagged_weight: float = setting(
        0.2, "what rows count that :reweight weighs down, 0 to 1", scope="arm", above=0, below=1
    )
    stop_precision: float = setting(
        0.0,
        "stop after a round with a smaller share of changed labels",
        scope="policy",
        least=0,
        most=1,
    )
    raters: int = setting(
        1,
        "simulated experts asked about each label; ties ask one more",
        scope="policy",
        least=1,
        most=1000,
    )
    rater_error: float = setting(
        0.0, "share of answers in which a simulated expert errs", scope="policy", least=0, below=1
    )
    answers: str = setting(
        "",
        "people's answers, a file of sample_id and label; only these rows are repaired",
        scope="policy",
    )
    ensemble: tuple[str, ...] = setting(
        ("lda", "knn"), "heads beside the head, for SCORE@heads", scope="arm"
    )
    calibrator: str = setting(
        "temperature",
        "what is fitted on validation logits; netcal-* need trustq[calibration]",
        *("temperature", "vector"),
        *("netcal-isotonic", "netcal-beta", "netcal-histogram", "netcal-bbq", "netcal-enir"),
        *("sklearn-sigmoid", "sklearn-isotonic"),  # its temperature is ours, and needs 1.8
        plugins="calibrators",
        role="setting matched",
    )
    # Columns of metadata, which caches lack: labels, rows to fit on, weights, slices.
    metadata: tuple[str, ...] = setting(
        (), "manifests, or tables with sample_id, that hold the columns named below", scope="run"
    )
    target: str = setting(
        "",
        "column of the labels, e.g. malignant; empty: those of the cache",
        scope="metadata",
        column="target",
        role="setting matched problem",
    )
    fit_on: str = setting(
        "",
        "fit heads only on train and val rows where COLUMN=VALUE,... or COLUMN!=VALUE,...",
        scope="metadata",
        column="fit_on",
        role="setting matched",
        title="fitted on",
    )
    row_weights: str = setting(
        "none",
        "sample weights for fitting heads: none or domain_balanced",
        *("none", "domain_balanced"),
        scope="metadata",
        column="row_weights",
        role="setting matched",
        title="weights",
    )
    sampling_domain: str = setting(
        "domain", "domain_balanced: column of the domains", scope="metadata"
    )
    sampling_group: str = setting(
        "",
        "domain_balanced: column that, with the label, makes the cells, e.g. skin_tone",
        scope="metadata",
    )
    slices: tuple[str, ...] = setting(
        (),
        "columns by whose values the last round is also measured; numbers in quartiles",
        scope="metadata",
    )
    ages: str = setting("", "column of ages to slice by, in bands of years", scope="metadata")
    positive: tuple[str, ...] = setting(
        (),
        "classes pooled into the positive class in slices, for sensitivity, specificity and gaps",
        scope="metadata",
    )
    conditions: tuple[str, ...] = setting(
        (),
        "stored views that every head is also judged on, at every round: all, or noise-3,blur-2",
    )
    # What `trustq sweep` runs on; `trustq repair` is given its caches.
    caches: tuple[str, ...] = setting(
        (), "caches of a sweep: files, folders or patterns", scope="run"
    )
    external: tuple[str, ...] = setting(
        (), "caches of other images by the same networks", scope="run"
    )
    # In keys by the digest of the joined features, in tables by the names of their networks.
    concat: str = setting(
        "none",
        "caches side by side as one set of features: none, all of them, or those of each backbone "
        "seed",
        *("none", "all", "seed"),
        scope="run",
    )


@dataclass(frozen=True)
class Recipe:
    """A resolved recipe: its name and both parts with every default filled in."""

    name: str = "default"
    extract: ExtractRecipe = field(default_factory=ExtractRecipe)
    sweep: SweepRecipe = field(default_factory=SweepRecipe)
