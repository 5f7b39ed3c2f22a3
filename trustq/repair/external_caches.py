"""External caches: other images by the same network, never the rows that an experiment is on."""

import dataclasses
from collections.abc import Sequence

import numpy as np

from trustq.core.class_names import ClassPosition
from trustq.core.counts import counted, verb
from trustq.core.leaks import equal_rows, near_ids, near_names, shared_ids
from trustq.errors import DishonestError, InputError
from trustq.store import Cache, in_order_of


def matching_externals(cache: Cache, externals: Sequence[Cache]) -> tuple[Cache, ...]:
    """The external caches that came through the same network, with labels in this class order.

    Raises `TrustqError` where there are some and none of them did, for two of one data set, and for
    rows that the cache holds or classes that it lacks.
    """
    return tuple(_relabelled(other, cache) for other in of_network(cache, externals))


def near_spellings(cache: Cache, externals: Sequence[Cache]) -> list[str]:
    """Notes of ids and groups of external caches that differ from the cache's in spelling alone."""
    notes = []
    for other in externals:
        for what, near in (
            ("id", near_ids(other.sample_id, cache.sample_id)),
            ("group", near_names(other.group_id.tolist(), cache.group_id.tolist())),
        ):
            if near:
                notes.append(
                    f"Suspicion of a leak: {counted(len(near), what)} of {other.name} and "
                    f"{cache.name} {verb(len(near), 'differs', 'differ')} in spelling alone, e.g. "
                    f"{near[0][0]!r} and {near[0][1]!r}; they are taken for different ones."
                )
    return notes


def of_network(cache: Cache, externals: Sequence[Cache]) -> list[Cache]:
    """The external caches that came through the cache's network, as they are."""
    own = [
        other
        for other in externals
        if other.weights_digest and other.weights_digest == cache.weights_digest
    ]
    if externals and not own:
        raise InputError(
            f"None of the external caches is known to be of the network of {cache.name}. Make them "
            f"with `trustq extract` and `with={cache.name}`."
        )
    own.sort(key=lambda other: other.content_digest)
    names = [other.dataset for other in own]
    if len(set(names)) < len(names):
        raise InputError(f"Two external caches are of data set {sorted(names)[0]!r}; give one.")
    return own


def _relabelled(other: Cache, cache: Cache) -> Cache:
    shared = {*shared_ids(other.group_id, cache.group_id)}
    shared |= {*shared_ids(other.sample_id, cache.sample_id)}
    # A view is called DATASET@VIEW, and shows the same images.
    is_same = other.dataset.partition("@")[0] == cache.dataset.partition("@")[0]
    if other.seen_labels.any() or (is_same and shared):
        n_seen = int(other.seen_labels.sum())
        raise DishonestError(
            f"{other.name} holds rows of {cache.name} ({len(shared)} ids or groups; "
            f"{counted(n_seen, 'row')} that the backbone was trained on), so it is no external "
            "test. Leave them out of its manifest."
        )
    equal = equal_rows(other.features, cache.features)
    if equal:
        i, j = equal[0]
        raise DishonestError(
            f"{len(equal)} of {len(other)} rows of {other.name} have the features of rows of "
            f"{cache.name} bit for bit, e.g. {other.sample_id[i]} and {cache.sample_id[j]}: the "
            "same images under another name are no external test. Leave them out of its manifest."
        )
    if not (other.label >= 0).any():
        raise InputError(f"{other.name} has no labelled row to evaluate.")
    find = ClassPosition(cache.classes)
    places = [find(name) for name in other.classes]
    strange = {
        name
        for name, place in zip(other.classes, places, strict=True)
        if place is None or places.count(place) > 1
    }
    if strange:
        raise InputError(
            f"{other.name} has classes that {cache.name} lacks: {', '.join(sorted(strange))}. "
            "Prepare its manifest with the same classes, or without these images."
        )
    moved = in_order_of(other, cache.classes)
    if moved.classes == cache.classes:
        return moved
    # Of some classes alone: what a head of the cache says of its rows is judged, and no logits that
    # have other columns.
    position = np.array([*places, -1])
    return dataclasses.replace(
        other, classes=cache.classes, label=position[other.label], logits=None
    )
