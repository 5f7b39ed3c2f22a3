"""Stored views of the rows that an experiment evaluates: the same images, seen worse.

A view lies in the cache itself or in a companion: a cache of some of its rows through the same
network, extracted later with more views. Nothing is fitted anew on a view.
"""

import difflib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from trustq.errors import InputError, NotFound
from trustq.repair.setup import Experiment
from trustq.store import Cache

AUGMENTED = ("tta", "tta-flips")  # means over symmetries: a source of predictions, no condition
EVERY = "all"


@dataclass(frozen=True, eq=False)
class ViewRows:
    """What one view gives of some rows: features (m, d), logits (m, k) where there are any."""

    name: str
    digest: str
    features: np.ndarray
    logits: np.ndarray | None
    passes: np.ndarray | None = None  # (t, m, k)


def split_companions(
    cache: Cache, others: Sequence[Cache]
) -> tuple[tuple[Cache, ...], tuple[Cache, ...]]:
    """Caches that hold some of this cache's own rows through its network, and the rest.

    Raises `TrustqError` for a companion whose labels of shared rows are others.
    """
    companions, rest = [], []
    for other in others:
        same = other.weights_digest != "" and other.weights_digest == cache.weights_digest
        if not same or other.dataset != cache.dataset or not _all_in(other, cache):
            rest.append(other)
            continue
        place = _places(cache, other.sample_id)
        if other.classes != cache.classes or (other.label != cache.label[place]).any():
            raise InputError(
                f"{other.name} holds rows of {cache.name} under other labels or classes. Extract "
                "both from one manifest, or correct the labels of one with `trustq cache relabel`."
            )
        companions.append(other)
    return tuple(companions), tuple(rest)


def view_names(cache: Cache, companions: Sequence[Cache], wanted: Sequence[str]) -> list[str]:
    """Names of the views to judge on: `all`, or those named; raises `TrustqError` for others.

    Means over symmetries are no condition of the images, so `all` leaves them out.
    """
    there = sorted({name for one in (cache, *companions) for name in one.views})
    conditions = [name for name in there if name not in AUGMENTED]
    if list(wanted) == [EVERY]:
        if not conditions:
            raise InputError(
                f"{cache.name} holds no views to judge on. Make some through the same network with "
                f"`trustq extract`, `with={cache.name}` and `views=corruptions`."
            )
        return conditions
    for name in wanted:
        if name not in there:
            close = difflib.get_close_matches(name, there, n=1, cutoff=0.5)
            nearest = f" (did you mean {close[0]!r}?)" if close else ""
            raise NotFound(
                f"{cache.name} has no view {name!r}{nearest}; it has {', '.join(there) or 'none'}.",
                expected=there,
                found=name,
            )
    return list(dict.fromkeys(wanted))


def view_rows(cache: Cache, companions: Sequence[Cache], name: str, ids: np.ndarray) -> ViewRows:
    """One view of the rows of these ids, in this order, from the first cache that has all of them.

    Raises `TrustqError` where none has all, and where the view is the clean image on every row.
    """
    for one in (cache, *companions):
        if name not in one.views or not np.isin(ids, one.sample_id).all():
            continue
        place = _places(one, ids)
        view = one.view(name)
        features = np.asarray(view.features[place])
        clean = one.features[place]
        if np.array_equal(features, clean):
            raise InputError(
                f"The view {name} of {one.name} changes nothing: its features are those of the "
                "clean images. Its figures would be clean ones under another name: leave it out, "
                "or extract it again."
            )
        passes = one.extra.get(f"passes/dropout@{name}/logits")
        return ViewRows(
            name,
            view.content_digest,
            features,
            None if view.logits is None else np.asarray(view.logits[place]),
            None if passes is None else np.asarray(passes[:, place]),
        )
    raise InputError(
        f"No cache has the view {name} of all {len(ids)} rows that are judged. Extract it of these "
        f"rows with `trustq extract`, `with={cache.name}` and `views={name}`."
    )


def view_positions(experiment: Experiment) -> np.ndarray:
    """Positions in the cache of the rows that views are judged on: test rows, else external ones.

    Raises `TrustqError` where there are neither.
    """
    for split in ("test", "external"):
        if split in experiment.evaluation:
            return experiment.evaluation[split]
    raise InputError(
        f"{experiment.cache.name} has no test rows, and views are judged on these alone: give some "
        "rows the split test."
    )


def stored_views(
    experiment: Experiment, companions: Sequence[Cache], wanted: Sequence[str]
) -> tuple[ViewRows, ...]:
    """The wanted views of an experiment's test rows; none where none is wanted."""
    if not wanted:
        return ()
    cache = experiment.cache
    ids = cache.sample_id[view_positions(experiment)]
    return tuple(
        view_rows(cache, companions, name, ids) for name in view_names(cache, companions, wanted)
    )


def stored_passes(
    cache: Cache, companions: Sequence[Cache], ids: np.ndarray, name: str = "dropout"
) -> np.ndarray | None:
    """Logits (t, m, k) of the passes of these rows, from the first cache that has them all."""
    key = f"passes/{name}/logits"
    for one in (cache, *companions):
        if key in one.extra and np.isin(ids, one.sample_id).all():
            return np.asarray(one.extra[key][:, _places(one, ids)])
    return None


def _all_in(other: Cache, cache: Cache) -> bool:
    return len(other) > 0 and bool(np.isin(other.sample_id, cache.sample_id).all())


def _places(cache: Cache, ids: np.ndarray) -> np.ndarray:
    order = np.argsort(cache.sample_id)
    return np.asarray(order[np.searchsorted(cache.sample_id, ids, sorter=order)])
