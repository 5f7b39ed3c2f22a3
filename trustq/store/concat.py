"""Several caches side by side as one set of features: the same rows seen by several networks."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np

from trustq.core.counts import counted
from trustq.core.digest import digest_json, digest_strings
from trustq.core.sample_ids import find_ids, nearly
from trustq.errors import InputError
from trustq.store.class_order import in_order_of
from trustq.store.format import MANIFEST_COLUMNS, Cache
from trustq.store.listing import open_cache

HOW = ("none", "all", "seed")
_SAME = ("split", "group_id", "label")
_ONE_MANIFEST = (
    "extract them from one manifest, or import them with it (`trustq cache import`, `meta`)"
)


def concat_caches(caches: Sequence[Cache]) -> Cache:
    """One cache whose features are those of several, column beside column; logits are left out.

    Rows are those of the first, found in the others by sample id as everywhere (`a.jpg` is a, 7.0
    is 7). Views that all of them have are
    joined as well; what the backbones have seen of a row is what any of them has, and its observed
    label is that of those that were trained on one. Columns keep their scale, for heads
    standardise each. Errors: fewer than two caches, the same cache or features twice, other rows,
    classes, splits, groups, labels or observed labels.

    >>> import dataclasses
    >>> from trustq.store.format import Cache
    >>> rows = dict(sample_id=np.array(["a"]), split=np.array(["test"]), group_id=np.array(["g"]))
    >>> labels = dict(label=np.array([0]), observed=np.array([-1]), seen=np.array([0]))
    >>> one = Cache("d", ("x", "y"), "frozen", **rows, **labels, trusted=np.array([False]),
    ...             features=np.array([[1.0]]), content_digest="1")
    >>> two = dataclasses.replace(one, features=np.array([[2.0]]), content_digest="2")
    >>> concat_caches([one, two]).features.tolist()
    [[1.0, 2.0]]
    """
    if len(caches) < 2:
        raise InputError("One cache alone has nothing to stand beside: name two or more.")
    first = caches[0]
    caches = [in_order_of(cache, first.classes) for cache in caches]
    digests = [cache.content_digest for cache in caches]
    if len(set(digests)) < len(digests):
        raise InputError("One cache is named twice: its features would stand beside themselves.")
    places = [_places(first, cache) for cache in caches]
    _refuse_same_features(caches, places)
    digest = digest_json(["concat", digests])
    exposures = {cache.exposure for cache in caches}
    observed, trusted = _trained_on(caches, places)
    files = [path for cache in caches for path in cache.files]
    return replace(
        first,
        features=_beside([cache.features for cache in caches], places),
        logits=None,
        extra=_Views(caches, places),
        exposure=exposures.pop() if len(exposures) == 1 else _least_honest(caches),
        observed=observed,
        trusted=trusted,
        noise=next((cache.noise for cache in caches if cache.noise), {}),
        seen=np.bitwise_or.reduce(
            [cache.seen[place] for cache, place in zip(caches, places, strict=True)]
        ),
        backbone=" + ".join(cache.backbone for cache in caches),
        weights=" + ".join(cache.weights for cache in caches),
        weights_digest=_joined_weights([cache.weights_digest for cache in caches]),
        preprocessing={"side by side": [cache.preprocessing for cache in caches]},
        recipe={"name": _names(caches)},
        path=None,
        parts=tuple(files) if all(cache.files for cache in caches) else (),
        digest=digest,
        content_digest=digest,
    )


def stand_side_by_side(
    caches: Sequence[Cache], others: Sequence[Cache] = (), *, how: str
) -> tuple[list[Cache], list[Cache]]:
    """Caches side by side, with further caches of their networks likewise.

    `how` is none (they stay as they are), all (one set of features), or seed (one for each backbone
    seed). `others` hold other rows, or views of some rows, through the same networks; those of one
    set of rows stand side by side in the order of their networks. Raises `TrustqError` for a seed
    with one cache alone, rows that not every network of a set has seen, and as `concat_caches`.
    """
    if how == "none":
        return list(caches), list(others)
    sets: dict[int, list[Cache]] = {}
    for cache in caches:
        sets.setdefault(cache.backbone_seed if how == "seed" else 0, []).append(cache)
    lonely = [own[0] for own in sets.values() if len(own) == 1]
    if how == "seed" and lonely:
        raise InputError(
            f"{lonely[0].name} is the only cache of backbone seed {lonely[0].backbone_seed}, so it "
            "has nothing to stand beside. Name another network's cache of that seed, or take all "
            "caches as one set (`concat=all`)."
        )
    joined = [concat_caches(own) for own in sets.values()]
    return joined, [one for own in sets.values() for one in _others_of(own, others)]


def open_side_by_side(paths: Sequence[Path], *, at_least: int = 1) -> Cache:
    """One cache of one or several files, the features of several side by side."""
    opened = [open_cache(path) for path in paths]
    return opened[0] if len(opened) == 1 >= at_least else concat_caches(opened)


class _Views(Mapping[str, np.ndarray]):
    """The views that all caches have, their features put side by side at each access.

    What the first knows of its manifest stays.

    Twenty views of several networks may take more memory than all else.
    """

    def __init__(self, caches: Sequence[Cache], places: Sequence[np.ndarray]) -> None:
        self._caches, self._places = caches, places
        own = [set(cache.views) for cache in caches]
        names = sorted(set.intersection(*own))
        self._names = [f"views/{name}/{part}" for name in names for part in _PARTS]
        if MANIFEST_COLUMNS in caches[0].extra:  # whose rows all have
            self._names.append(MANIFEST_COLUMNS)

    def __getitem__(self, name: str) -> np.ndarray:
        if name not in self._names:
            raise KeyError(name)
        own = self._caches[:1] if name == MANIFEST_COLUMNS else self._caches
        found = [cache.extra[name] for cache in own]
        if name == MANIFEST_COLUMNS:
            return found[0]
        if name.endswith("/features"):
            return _beside(found, self._places)
        texts = list(dict.fromkeys(str(one[0]) for one in found))
        if len(texts) == 1:
            return found[0]
        # What averages over symmetries in one network does so in the set.
        each = [json.loads(text) for text in texts]
        told: dict[str, Any] = {"side by side": each}
        told |= {"symmetries": 0} if any("symmetries" in one for one in each) else {}
        return np.array([json.dumps(told, sort_keys=True)])

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


_PARTS = ("features", "parameters")


def _names(caches: Sequence[Cache]) -> str:
    """What tables call their recipe; with the seeds, where these differ."""
    names = [str(cache.recipe.get("name", "")) for cache in caches]
    if len({cache.backbone_seed for cache in caches}) > 1:
        names = [
            f"{name} seed {cache.backbone_seed}".strip()
            for name, cache in zip(names, caches, strict=True)
        ]
    return " + ".join(names)


def _joined_weights(digests: Sequence[str]) -> str:
    """Digest of several networks; blank where one of them is not known."""
    return digest_json(["concat", list(digests)]) if all(digests) else ""


def _others_of(own: Sequence[Cache], others: Sequence[Cache]) -> list[Cache]:
    """Further caches of a set's networks, side by side for each set of rows."""
    by_rows: dict[tuple[str, str], list[list[Cache]]] = {}
    for place, cache in enumerate(own):
        for other in others:
            if not cache.weights_digest or other.weights_digest != cache.weights_digest:
                continue
            # One network's weights may have been used twice, with images of two sizes.
            twins = [one for one in own if one.weights_digest == cache.weights_digest]
            if len(twins) > 1 and _pixels(other) != _pixels(cache):
                continue
            rows = (other.dataset, digest_strings(sorted(other.sample_id.tolist())))
            by_rows.setdefault(rows, [[] for _ in own])[place].append(other)
    joined = []
    for (dataset, _), found in by_rows.items():
        for cache, of_network in zip(own, found, strict=True):
            if len(of_network) != 1:
                some = next(one for one in found if one)[0]
                raise InputError(
                    f"{some.name} holds rows of {dataset!r} for networks side by side, and through "
                    f"that of {cache.name} there are {len(of_network)} caches of these rows; "
                    "expected one for each network. Extract them with "
                    f"`with={cache.name}`, all views in one cache, or leave these rows out."
                )
        joined.append(concat_caches([of_network[0] for of_network in found]))
    return joined


def _pixels(cache: Cache) -> dict[str, Any]:
    return {name: value for name, value in cache.preprocessing.items() if name != "view"}


def _refuse_same_features(caches: Sequence[Cache], places: Sequence[np.ndarray]) -> None:
    """Raise `TrustqError` where two caches, of whatever name, have the same features."""
    for (one, its), (other, own) in combinations(zip(caches, places, strict=True), 2):
        # A sweep that plans has none of them yet.
        if one.features.shape != other.features.shape or not one.features.size:
            continue
        # Of others a few rows say so.
        if all(
            np.array_equal(one.features[its[:n]], other.features[own[:n]]) for n in (100, len(its))
        ):
            raise InputError(
                f"{one.name} and {other.name} have the same features, which would stand beside "
                "themselves: name caches of several networks."
            )


def _places(first: Cache, cache: Cache) -> np.ndarray:
    """Where the rows of the first cache are in another, which has the same."""
    found = find_ids(first.sample_id.tolist(), cache.sample_id, source=cache.name)
    taken: set[int] = set()
    missing = [
        own
        for own, row in zip(first.sample_id.tolist(), found, strict=True)
        if row is None or row in taken or taken.add(row)  # type: ignore[func-returns-value]
    ]
    if missing:
        raise InputError(
            f"{cache.name} lacks {counted(len(missing), 'row')} of {first.name}, e.g. "
            f"{missing[0]}{nearly(missing, cache.sample_id)}: caches side by side need the same "
            f"rows, so {_ONE_MANIFEST}."
        )
    place = np.array(found, dtype=np.intp)
    if len(taken) < len(cache):
        further = np.delete(cache.sample_id, place)
        raise InputError(
            f"{cache.name} holds {counted(len(further), 'row')} that {first.name} lacks, e.g. "
            f"{further[0]}: caches side by side need the same rows, so {_ONE_MANIFEST}."
        )
    if cache.classes != first.classes:
        raise InputError(
            f"{cache.name} has the classes {', '.join(cache.classes)} and {first.name} "
            f"{', '.join(first.classes)}: caches side by side need the same classes."
        )
    for name in _SAME:
        differ = getattr(cache, name)[place] != getattr(first, name)
        if differ.any():
            raise InputError(
                f"{cache.name} and {first.name} differ in {name} of "
                f"{counted(int(differ.sum()), 'row')}, e.g. {first.sample_id[np.argmax(differ)]}: "
                f"{_ONE_MANIFEST}."
            )
    return place


def _trained_on(
    caches: Sequence[Cache], places: Sequence[np.ndarray]
) -> tuple[np.ndarray, np.ndarray]:
    """Observed labels of the rows that some network was trained on, and which were trusted."""
    first = caches[0]
    observed, trusted = first.observed.copy(), first.trusted.copy()
    for cache, place in zip(caches[1:], places[1:], strict=True):
        own, own_trusted = cache.observed[place], cache.trusted[place]
        both = (observed >= 0) & (own >= 0)
        differ = both & ((observed != own) | (trusted != own_trusted))
        if differ.any():
            raise InputError(
                f"{cache.name} and {first.name} were trained on other observed labels of "
                f"{counted(int(differ.sum()), 'row')}, e.g. {first.sample_id[np.argmax(differ)]}, "
                "so no one noise is theirs. Put networks side by side that were trained on one "
                "draw of it."
            )
        is_new = (observed < 0) & (own >= 0)
        observed[is_new], trusted[is_new] = own[is_new], own_trusted[is_new]
    return observed, trusted


def _beside(parts: Sequence[np.ndarray], places: Sequence[np.ndarray]) -> np.ndarray:
    return np.concatenate([part[at] for part, at in zip(parts, places, strict=True)], axis=1)


def _least_honest(caches: Sequence[Cache]) -> str:
    """Of several exposures the one that allows least; a frozen network adds nothing to another."""
    order = ("unknown", "finetuned-clean", "finetuned-observed", "crossfit", "frozen")
    return min((cache.exposure for cache in caches), key=order.index)
