"""Which labels a network is trained on, and what it has seen of each row afterwards."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from trustq.core.counts import counted
from trustq.data.manifest import SPLITS, Manifest
from trustq.data.noise import draw_start, parse_noise
from trustq.data.splits import group_folds, split_by_group, thin_classes
from trustq.errors import DishonestError, InputError, NotFound
from trustq.extraction.inputs.observed import Observed, read_observed
from trustq.extraction.settings import require_agreeing
from trustq.extraction.train.selection import judging_labels
from trustq.extraction.train.weights import is_checkpoint
from trustq.recipes import ExtractRecipe
from trustq.store import read_attributes
from trustq.store.format import SEEN_OBSERVED, SEEN_REFERENCE, SEEN_SELECTION
from trustq.store.relabel import relabelled_noise

# Settings below these make no training; two images a batch, for batch norm.
_LEAST = {
    "epochs": 1,
    "batch_size": 2,
    "image_size": 8,
    "warmup_epochs": 0,
    "patience": 0,
    "crossfit_folds": 2,
}

TRAIN_ON_SEED = 0  # a share of a split is the same groups for every backbone seed


@dataclass(frozen=True)
class Rows:
    """The row-aligned datasets of a cache that follow from what was trained on, each (n,)."""

    label: np.ndarray
    observed: np.ndarray
    trusted: np.ndarray
    seen: np.ndarray
    exposure: str
    noise: dict[str, Any]  # the draw, as a cache's attribute
    fold: np.ndarray  # crossfit: the fold of each trained row; -1 elsewhere
    validation: np.ndarray  # positions of the rows that epochs are judged by
    notes: tuple[str, ...] = ()

    @property
    def is_crossfit(self) -> bool:
        """Whether each trained row is also scored by a network that did not see its group."""
        return bool((self.fold >= 0).any())


def rows_of_training(
    manifest: Manifest, *, recipe: ExtractRecipe, seed: int, left_out: Sequence[str] = ()
) -> Rows:
    """Labels that a recipe and a backbone seed train on, and the exposure that follows.

    Bit 1 is on every trained row, bit 2 on those whose label is the reference by design: trusted
    rows, all without noise, and those that an observed-labels file does not list. Bit 4 is on
    validation rows that choose the epoch. `left_out` are ids of images that could not be decoded,
    which that file may list. Raises `TrustqError` for an observed-labels file that does not fit the
    manifest and for fewer groups than folds.
    """
    label = manifest.label_indices
    n = len(label)
    if recipe.mode == "frozen":
        told = _Told(np.full(n, -1, np.int16), np.zeros(n, bool), np.zeros(n, np.uint8), {}, False)
        nowhere = np.empty(0, dtype=np.int64)
        unseen = (label, told.observed, told.trusted, told.seen)
        return Rows(*unseen, "frozen", {}, np.full(n, -1, dtype=np.int16), nowhere)
    train = _trained_on(manifest, recipe.train_on)
    if recipe.observed:
        given = read_observed(
            Path(recipe.observed), manifest, rows=train, seed=seed, left_out=left_out
        )
        told = _labels_given(given, label, train)
    else:
        told = _labels_drawn(manifest, train, recipe, seed)
    validation = np.flatnonzero((manifest.columns["split"] == "val") & ~train)
    if chooses_epoch(recipe):
        told.seen[validation] |= SEEN_SELECTION
    exposure = "finetuned-clean" if told.is_clean else "finetuned-observed"
    notes = told.notes
    fold = np.full(n, -1, dtype=np.int16)
    if recipe.mode == "crossfit":
        exposure = "crossfit"
        trained = np.flatnonzero(told.observed >= 0)
        fold[trained], thin = _folds(manifest, trained, told.observed[trained], recipe, seed)
        notes = (*notes, *thin)
    of_rows = (label, told.observed, told.trusted, told.seen)
    return Rows(*of_rows, exposure, told.noise, fold, validation, notes=notes)


@dataclass(frozen=True)
class _Told:
    """What a network is told of each row, (n,) each, and the noise that made it."""

    observed: np.ndarray
    trusted: np.ndarray
    seen: np.ndarray
    noise: dict[str, Any]
    is_clean: bool
    notes: tuple[str, ...] = ()


def _labels_given(given: Observed, label: np.ndarray, train: np.ndarray) -> _Told:
    """Labels of a file, beside the reference labels."""
    n = len(label)
    observed, trusted = np.full(n, -1, dtype=np.int16), np.zeros(n, dtype=bool)
    observed[train], trusted[train] = given.observed[train], given.trusted[train]
    seen = np.zeros(n, dtype=np.uint8)
    seen[observed >= 0] = SEEN_OBSERVED
    # A checked label may be another than the manifest's, which nobody was trained on then.
    is_reference = (observed >= 0) & (observed == label)
    seen[is_reference & (trusted | ~given.listed)] |= SEEN_REFERENCE
    return _Told(observed, trusted, seen, given.attribute, False, (given.summary,))


def _labels_drawn(manifest: Manifest, train: np.ndarray, recipe: ExtractRecipe, seed: int) -> _Told:
    """Reference labels with the recipe's noise."""
    label = manifest.label_indices
    n = len(label)
    observed, trusted = np.full(n, -1, dtype=np.int16), np.zeros(n, dtype=bool)
    drawn = parse_noise(recipe.noise, classes=manifest.classes)
    start = draw_start(label[train], noise=drawn, trusted=recipe.trusted, seed=seed)
    observed[train], trusted[train] = start.observed, start.trusted
    is_clean = drawn.spec == "none"
    seen = np.zeros(n, dtype=np.uint8)
    seen[train] = SEEN_OBSERVED | (SEEN_REFERENCE if is_clean else 0)
    seen[trusted] |= SEEN_REFERENCE
    noise = {
        "spec": drawn.spec,
        "trusted": recipe.trusted,
        "draw_seed": seed,
        "rate": start.rate,
        "digest": start.digest,
    }
    return _Told(observed, trusted, seen, noise, is_clean)


def _folds(
    manifest: Manifest,
    trained: np.ndarray,
    labels: np.ndarray,
    recipe: ExtractRecipe,
    seed: int,
) -> tuple[np.ndarray, list[str]]:
    """The fold of each trained row, of whole groups, and a note on each class of few groups."""
    groups = manifest.columns["group_id"][trained].astype(str)
    n_folds = recipe.crossfit_folds
    if (n_groups := len(np.unique(groups))) < n_folds:
        raise InputError(
            f"{counted(n_groups, 'group')} to train on cannot make crossfit_folds={n_folds}: folds "
            "are whole groups. Ask for fewer, e.g. `crossfit_folds=2`."
        )
    # By observed labels, for true ones are not known before the training; drawn once.
    fold = group_folds(labels, groups, n_folds=n_folds, seed=seed)
    return fold, [
        f"Class {manifest.classes[c]} has {counted(n_groups, 'group')} for "
        f"{counted(n_folds, 'fold')}: rows of it may be scored by a network that never saw it."
        for c, n_groups in thin_classes(labels, groups, n_folds=n_folds).items()
    ]


def _trained_on(manifest: Manifest, text: str) -> np.ndarray:
    """Rows to train on, (n,) of bool, from `SPLIT` or `SPLIT:SHARE` of its groups."""
    split, colon, share = text.partition(":")
    try:
        part = float(share) if colon else 1.0
    except ValueError:
        part = 0.0
    if split not in SPLITS or not 0 < part <= 1:
        raise InputError(
            f"train_on={text}: expected a split ({', '.join(SPLITS)}), or a share of the groups of "
            "one, e.g. train:0.5."
        )
    chosen = np.asarray(manifest.columns["split"] == split)
    if part < 1 and chosen.any():
        rows = np.flatnonzero(chosen)
        parts = split_by_group(
            manifest.label_indices[rows],
            manifest.columns["group_id"][rows].astype(str),
            fractions=(part, 1 - part),
            seed=TRAIN_ON_SEED,
        )
        chosen[rows[parts == 1]] = False
    return chosen


def chooses_epoch(recipe: ExtractRecipe) -> bool:
    """Whether validation rows decide which weights are kept."""
    return recipe.checkpoint != "last" or recipe.patience > 0


def require_trainable(manifest: Manifest, *, recipe: ExtractRecipe) -> None:
    """Raise `TrustqError` where the rows cannot be trained on as the recipe asks.

    A class that the data set has only in `external`, or not at all, may lack training rows: its
    logit is then never trained, and no row of val or test asks for it.
    """
    for name, least in _LEAST.items():
        if getattr(recipe, name) < least:
            raise InputError(f"{name} is {getattr(recipe, name)}, expected at least {least}.")
    if recipe.mode == "frozen":
        if recipe.noise != "none" or recipe.trusted:
            raise InputError(
                f"noise={recipe.noise} and trusted={recipe.trusted:g} change nothing in a frozen "
                "backbone, which sees no label. Draw them where they are used, in `trustq repair`."
            )
        for key, default in (("observed", ""), ("train_on", "train"), ("validation_noise", "")):
            if (value := getattr(recipe, key)) != default:
                raise InputError(
                    f"{key}={value} changes nothing in a frozen backbone, which is trained on no "
                    "row. Leave it out, or train one: `mode=finetune`."
                )
        return
    if recipe.observed and (recipe.noise != "none" or recipe.trusted):
        raise InputError(
            f"observed={recipe.observed} gives the labels to train on, so noise={recipe.noise} and "
            f"trusted={recipe.trusted:g} have nothing to draw. Leave one of them out."
        )
    parse_noise(recipe.noise, classes=manifest.classes)
    require_agreeing(manifest, recipe=recipe)
    split, labels = manifest.columns["split"], manifest.columns["label"]
    train = _trained_on(manifest, recipe.train_on)
    found = ", ".join(f"{n:,} {name}" for name in SPLITS if (n := int((split == name).sum())))
    if not train.any():
        raise InputError(
            f"There are no training rows in {recipe.train_on} (found {found}). Make the splits "
            "again, or extract without training: `mode=frozen`."
        )
    if not ((split == "val") & ~train).any() and chooses_epoch(recipe):
        asks = f"checkpoint={recipe.checkpoint}"
        asks = asks if recipe.checkpoint != "last" else f"patience={recipe.patience}"
        raise InputError(
            f"There are no validation rows beside those that are trained on (found {found}), which "
            f"{asks} needs. Make the splits again, or keep the last epoch: `checkpoint=last` "
            "`patience=0`."
        )
    inside = split != "external"
    _require_noisy_judges(manifest, recipe)
    untrained = [
        name
        for name in manifest.classes
        if (here := inside & (labels == name)).any() and not (here & train).any()
    ]
    if untrained:
        raise InputError(
            f"No training row has the class {', '.join(untrained)}, though other splits have. Make "
            "the splits again with more of it in train, or leave the class out."
        )


def _require_noisy_judges(manifest: Manifest, recipe: ExtractRecipe) -> None:
    """Raise `TrustqError` for validation noise that cannot be drawn or changes nothing."""
    if not recipe.validation_noise:
        return
    if not chooses_epoch(recipe):
        raise InputError(
            f"validation_noise={recipe.validation_noise} changes nothing where the last epoch is "
            "kept. Leave it out, or let validation rows choose: `checkpoint=best`."
        )
    none = np.empty(0, dtype=np.int64)
    judging_labels(none, recipe=recipe, classes=manifest.classes, seed=0)


def rows_elsewhere(manifest: Manifest, *, source: Path, attributes: dict[str, Any]) -> Rows:
    """What a cached network has seen of another manifest's rows: only what both share.

    A row with a sample id of the source takes over its bits and labels, so that nobody takes a
    training image for a new one; a row that shares only the group takes over the group's bits. A
    row whose label was corrected since is marked as `relabel_cache` marks it.
    `label` indexes the source's classes. Raises `TrustqError` for a class that it does not have.
    """
    classes = list(attributes["classes"])
    labels = manifest.columns["label"].tolist()
    strange = [name for name in dict.fromkeys(labels) if name not in classes]
    if strange:
        raise InputError(
            f"{source} has the classes {', '.join(classes)}, but these images are also of "
            f"{', '.join(strange)}. Map or leave out those rows.",
            path=source,
        )
    position = {name: index for index, name in enumerate(classes)}
    label = np.array([position[name] for name in labels], dtype=np.int16)
    with h5py.File(source, "r") as file:
        theirs = {name: file[name][()] for name in ("label", "observed", "trusted")}
    seen, there = _seen_by(source, manifest)
    is_there = there >= 0
    observed = np.where(is_there, theirs["observed"][there], -1).astype(np.int16)
    exposure = _without_folds(str(attributes["exposure"]), attributes["noise"])
    # The draw is of training rows; where none is here it says nothing of these rows.
    noise = attributes["noise"] if (observed >= 0).any() else {}
    corrected = is_there & (label != theirs["label"][there])
    trained = corrected & ((seen & (SEEN_OBSERVED | SEEN_REFERENCE)) != 0)
    if trained.any():
        # What the network was trained on is no reference any more, as after `cache relabel`.
        seen[trained] = (seen[trained] & ~np.uint8(SEEN_REFERENCE)) | np.uint8(SEEN_OBSERVED)
        exposure = "finetuned-observed" if exposure == "finetuned-clean" else exposure
        noise = relabelled_noise(noise)
    return Rows(
        label,
        observed,
        is_there & theirs["trusted"][there].astype(bool) & ~corrected,
        seen,
        exposure,
        noise,
        # Other images go through the network of all training rows only.
        np.full(len(label), -1, dtype=np.int16),
        np.empty(0, dtype=np.int64),
    )


def require_unrelated_start(manifest: Manifest, *, recipe: ExtractRecipe) -> None:
    """Raise `TrustqError` for starting weights of a cache that has seen some of these rows.

    What they have learned of a row or its group would be nowhere on record: a frozen backbone would
    not be one, and no fold of a crossfit would be held out.
    """
    path = Path(recipe.weights)
    if not recipe.weights or not is_checkpoint(path):
        return
    source = path.with_suffix(".h5")
    if not source.is_file():
        raise NotFound(
            f"`weights={path}` is the network of a cache, and {source} is not there to tell which "
            "rows it has seen. Copy the cache there.",
            where="weights",
            found=path,
        )
    read_attributes(source)  # raises for a damaged one
    if n_seen := int((_seen_by(source, manifest)[0] > 0).sum()):
        raise DishonestError(
            f"`weights={path}`: the network of {source} has seen {n_seen:,} of these "
            f"{len(manifest):,} rows, or others of their groups, which a cache that starts from it "
            f"could not tell. Use that network as it is with `with={source}`, or start from other "
            "weights.",
            where="weights",
            found=path,
        )


def _seen_by(source: Path, manifest: Manifest) -> tuple[np.ndarray, np.ndarray]:
    """The bits of each row that a cached network has seen, or its group; its position there, or -1.

    A row that is there unseen has its group's bits and no position.
    """
    with h5py.File(source, "r") as file:
        theirs = {name: file[name][()] for name in ("sample_id", "group_id", "seen")}
    marked = np.flatnonzero(theirs["seen"])
    row_of = {bytes(theirs["sample_id"][row]).decode(): row for row in marked.tolist()}
    bits_of_group: dict[str, int] = {}
    for row in marked.tolist():
        group = bytes(theirs["group_id"][row]).decode()
        bits_of_group[group] = bits_of_group.get(group, 0) | int(theirs["seen"][row])
    ids = manifest.columns["sample_id"].tolist()
    other = np.array([row_of.get(sample_id, -1) for sample_id in ids], dtype=np.int64)
    groups = manifest.columns["group_id"].tolist()
    seen = np.array([bits_of_group.get(group, 0) for group in groups], dtype=np.uint8)
    seen[other >= 0] = theirs["seen"][other[other >= 0]]
    return seen, other


def _without_folds(exposure: str, noise: dict[str, Any]) -> str:
    if exposure != "crossfit":
        return exposure
    return "finetuned-clean" if noise.get("spec") == "none" else "finetuned-observed"
