"""Which labels an experiment is about: the cache's own, or a column of the metadata."""

import dataclasses
from collections.abc import Sequence

import numpy as np

from trustq.datasets.target import target_names
from trustq.errors import InputError
from trustq.recipes import SweepRecipe
from trustq.repair.external_caches import matching_externals, near_spellings
from trustq.repair.metadata import column_of
from trustq.repair.settings import arms_of
from trustq.store import Cache
from trustq.store.relabel import with_labels


@dataclasses.dataclass(frozen=True)
class Posed:
    """A cache and the externals of its network, labelled as a recipe asks, and what to know."""

    cache: Cache
    externals: tuple[Cache, ...]
    notes: tuple[str, ...]


def pose(cache: Cache, externals: Sequence[Cache], *, sweep: SweepRecipe) -> Posed:
    """Give a cache and its externals the labels of the recipe's `target`, or leave them theirs.

    Rows without a value in the column have no label and no split. What the backbone has seen of a
    row it has seen, whatever the row is called now. Where the column's values are classes of the
    cache, logits and stored labels stay usable; where they are not, features alone are. Raises
    `TrustqError` for an experiment that needs logits or labels of other classes, for a column
    without values, and for externals that do not fit.
    """
    if not sweep.target:
        own_externals = matching_externals(cache, externals)
        return Posed(cache, own_externals, tuple(near_spellings(cache, own_externals)))
    names, classes = _names(cache, sweep)
    if {name for name in names if name is not None} <= set(cache.classes):
        classes = cache.classes
    else:
        _require_features_only(cache, classes, sweep)
    labels = _indices(names, classes)
    known = labels >= 0
    if classes == cache.classes:
        own = with_labels(cache, np.where(known, labels, cache.label))
        own = dataclasses.replace(own, label=labels)
    else:
        # Trained on a row's right label of the old classes: on one that stands for its new label.
        was_right = (cache.observed >= 0) & (cache.observed == cache.label)
        own = dataclasses.replace(
            cache,
            classes=classes,
            label=labels,
            observed=np.where(was_right, labels, -1).astype(np.int16),
            trusted=np.zeros(len(cache), dtype=bool),
            logits=None,
            noise={},
            extra={},
        )
    own = dataclasses.replace(own, split=np.where(known, cache.split, ""))
    notes = near_spellings(cache, externals)
    if not known.all():
        notes.append(
            f"{int((~known).sum())} of {len(cache)} rows have no {sweep.target} and are left out."
        )
    others = matching_externals(own, [_with_classes(other, own, sweep) for other in externals])
    for other in others:
        if n_blank := int((other.label < 0).sum()):
            notes.append(
                f"{n_blank} of {len(other)} rows of {other.dataset} have no {sweep.target} and are "
                "left out."
            )
    return Posed(own, others, tuple(notes))


def _names(cache: Cache, sweep: SweepRecipe) -> tuple[list[str | None], tuple[str, ...]]:
    values = column_of(cache, sweep.target, key="target", sweep=sweep)
    names, classes = target_names(values, sweep.target)
    if not classes or len({name for name in names if name is not None}) < 2:
        raise InputError(
            f"target={sweep.target} has {'one value' if classes else 'no value'} in the rows of "
            f"{cache.name}; labels need two classes or more."
        )
    return names, classes


def _with_classes(other: Cache, cache: Cache, sweep: SweepRecipe) -> Cache:
    """External rows with labels of the same column, in the cache's class order."""
    values = column_of(other, sweep.target, key="target", sweep=sweep)
    names, _ = target_names(values, sweep.target)
    strange = sorted({name for name in names if name is not None} - set(cache.classes))
    if strange:
        raise InputError(
            f"{other.name} has {', '.join(strange)} in {sweep.target}, which {cache.name} lacks."
        )
    labels = _indices(names, cache.classes)
    return dataclasses.replace(other, classes=cache.classes, label=labels)


def _indices(names: list[str | None], classes: tuple[str, ...]) -> np.ndarray:
    position: dict[str | None, int] = {name: index for index, name in enumerate(classes)}
    return np.array([position.get(name, -1) for name in names], dtype=np.int16)


def _require_features_only(cache: Cache, classes: tuple[str, ...], sweep: SweepRecipe) -> None:
    """Raise where logits or stored labels are asked for, which are of the cache's own classes."""
    differ = (
        f"of the classes {', '.join(cache.classes)}, and target={sweep.target} has "
        f"{', '.join(classes)}"
    )
    if sweep.head == "backbone":
        raise InputError(
            f"{cache.name}: its logits are {differ}. Fit a head on its features, e.g. "
            "`head=linear`, or leave target out."
        )
    sources = ("crossfit", "passes", "epochs")
    for arm in arms_of(sweep):
        if arm.uses_probabilities and arm.source in sources:
            raise InputError(
                f"Arm {arm.text!r}: the {arm.source} logits of {cache.name} are {differ}. Score "
                f"by a head ({arm.score}), or leave target out."
            )
    is_stored = (cache.observed >= 0) & (cache.observed != cache.label) & (cache.split == "train")
    if sweep.noise == "stored" or (sweep.noise == "auto" and is_stored.any()):
        raise InputError(
            f"{cache.name}: its stored labels are {differ}. Put noise on those, e.g. `noise=none` "
            "or `noise=symmetric:0.2`, or leave target out."
        )
