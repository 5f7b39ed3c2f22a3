"""Which labels a network is trained on, and what it has seen of each row afterwards."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from trustq.errors import TrustqError
from trustq.manifest import Manifest
from trustq.noise import draw_start, parse_noise
from trustq.recipes import ExtractRecipe
from trustq.store.format import SEEN_OBSERVED, SEEN_REFERENCE, SEEN_SELECTION

# Settings below these make no training; two images a batch, for batch norm.
_LEAST = {"epochs": 1, "batch_size": 2, "image_size": 8, "warmup_epochs": 0, "patience": 0}


@dataclass(frozen=True)
class Rows:
    """The row-aligned datasets of a cache that follow from what was trained on, each (n,)."""

    label: np.ndarray
    observed: np.ndarray
    trusted: np.ndarray
    seen: np.ndarray
    exposure: str
    noise: dict[str, Any]  # the draw, as a cache's attribute


def rows_of_training(manifest: Manifest, *, recipe: ExtractRecipe, seed: int) -> Rows:
    """Labels that a recipe and a backbone seed train on, and the exposure that follows.

    Bit 1 is on every training row, bit 2 on those whose label is the reference by design: trusted
    rows, and all without noise. Bit 4 is on validation rows that choose the epoch.
    """
    label = manifest.label_indices
    n = len(label)
    observed = np.full(n, -1, dtype=np.int16)
    trusted = np.zeros(n, dtype=bool)
    seen = np.zeros(n, dtype=np.uint8)
    if recipe.mode == "frozen":
        return Rows(label, observed, trusted, seen, "frozen", {})
    noise = parse_noise(recipe.noise, classes=manifest.classes)
    train = manifest.columns["split"] == "train"
    start = draw_start(label[train], noise=noise, trusted=recipe.trusted, seed=seed)
    observed[train] = start.observed
    trusted[train] = start.trusted
    is_clean = noise.spec == "none"
    seen[train] = SEEN_OBSERVED | (SEEN_REFERENCE if is_clean else 0)
    seen[trusted] |= SEEN_REFERENCE
    if chooses_epoch(recipe):
        seen[manifest.columns["split"] == "val"] |= SEEN_SELECTION
    return Rows(
        label,
        observed,
        trusted,
        seen,
        "finetuned-clean" if is_clean else "finetuned-observed",
        {
            "spec": noise.spec,
            "trusted": recipe.trusted,
            "draw_seed": seed,
            "rate": start.rate,
            "digest": start.digest,
        },
    )


def chooses_epoch(recipe: ExtractRecipe) -> bool:
    """Whether validation rows decide which weights are kept."""
    return recipe.checkpoint == "best" or recipe.patience > 0


def require_trainable(manifest: Manifest, *, recipe: ExtractRecipe) -> None:
    """Raise `TrustqError` where the rows cannot be trained on as the recipe asks.

    A class that the data set has only in `external`, or not at all, may lack training rows: its
    logit is then never trained, and no row of val or test asks for it.
    """
    for name, least in _LEAST.items():
        if getattr(recipe, name) < least:
            raise TrustqError(f"{name} is {getattr(recipe, name)}, expected at least {least}.")
    if recipe.mode == "frozen":
        if recipe.noise != "none" or recipe.trusted:
            raise TrustqError(
                f"noise={recipe.noise} and trusted={recipe.trusted:g} change nothing in a frozen "
                "backbone, which sees no label. Draw them where they are used, in `trustq repair`."
            )
        return
    parse_noise(recipe.noise, classes=manifest.classes)
    split, labels = manifest.columns["split"], manifest.columns["label"]
    counts = {name: int((split == name).sum()) for name in ("train", "val", "test", "external")}
    found = ", ".join(f"{n:,} {name}" for name, n in counts.items() if n)
    if not counts["train"]:
        raise TrustqError(
            f"There are no training rows (found {found}). Make the splits again, or extract "
            "without training: --mode frozen."
        )
    if not counts["val"] and chooses_epoch(recipe):
        asks = "checkpoint=best" if recipe.checkpoint == "best" else f"patience={recipe.patience}"
        raise TrustqError(
            f"There are no validation rows (found {found}), which {asks} needs. Make the splits "
            "again, or keep the last epoch: --set checkpoint=last --set patience=0."
        )
    inside = split != "external"
    untrained = [
        name
        for name in manifest.classes
        if (here := inside & (labels == name)).any() and not (here & (split == "train")).any()
    ]
    if untrained:
        raise TrustqError(
            f"No training row has the class {', '.join(untrained)}, though other splits have. Make "
            "the splits again with more of it in train, or leave the class out."
        )


def rows_elsewhere(manifest: Manifest, *, source: Path, attributes: dict[str, Any]) -> Rows:
    """What a cached network has seen of another manifest's rows: only what both share.

    A row with a sample id of the source takes over its bits and labels, so that nobody takes a
    training image for a new one; a row that shares only the group takes over the group's bits.
    `label` indexes the source's classes. Raises `TrustqError` for a class that it does not have.
    """
    classes = list(attributes["classes"])
    labels = manifest.columns["label"].tolist()
    strange = [name for name in dict.fromkeys(labels) if name not in classes]
    if strange:
        raise TrustqError(
            f"{source} has the classes {', '.join(classes)}, but these images are also of "
            f"{', '.join(strange)}. Map or leave out those rows."
        )
    position = {name: index for index, name in enumerate(classes)}
    n = len(manifest)
    observed = np.full(n, -1, dtype=np.int16)
    trusted = np.zeros(n, dtype=bool)
    seen = np.zeros(n, dtype=np.uint8)
    with h5py.File(source, "r") as file:
        theirs = {
            name: file[name][()]
            for name in ("sample_id", "group_id", "observed", "trusted", "seen")
        }
    marked = np.flatnonzero(theirs["seen"])
    row_of = {bytes(theirs["sample_id"][row]).decode(): row for row in marked.tolist()}
    bits_of_group: dict[str, int] = {}
    for row in marked.tolist():
        group = bytes(theirs["group_id"][row]).decode()
        bits_of_group[group] = bits_of_group.get(group, 0) | int(theirs["seen"][row])
    ids = manifest.columns["sample_id"].tolist()
    groups = manifest.columns["group_id"].tolist()
    for row, (sample_id, group) in enumerate(zip(ids, groups, strict=True)):
        other = row_of.get(sample_id)
        if other is not None:
            observed[row] = theirs["observed"][other]
            trusted[row] = theirs["trusted"][other]
            seen[row] = theirs["seen"][other]
        else:
            seen[row] = bits_of_group.get(group, 0)
    return Rows(
        np.array([position[name] for name in labels], dtype=np.int16),
        observed,
        trusted,
        seen,
        str(attributes["exposure"]),
        # The draw is of training rows; where none is here it says nothing of these rows.
        attributes["noise"] if (observed >= 0).any() else {},
    )
