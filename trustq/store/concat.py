"""Several caches side by side as one set of features: the same rows seen by several networks."""

from collections.abc import Sequence
from dataclasses import replace
from functools import reduce

import numpy as np

from trustq.core.digest import digest_json
from trustq.errors import InputError
from trustq.store.format import Cache

_SAME = ("split", "group_id", "label", "observed")


def concat_caches(caches: Sequence[Cache]) -> Cache:
    """One cache whose features are those of several, column beside column; logits are left out.

    Rows are those of the first, found in the others by sample id. Views that all of them have are
    joined as well; what the backbones have seen of a row is what any of them has. Columns keep
    their scale, for heads standardise each. Errors: fewer than two caches, the same cache twice,
    other rows, classes, splits, groups or labels.

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
    digests = [cache.content_digest for cache in caches]
    if len(set(digests)) < len(digests):
        raise InputError("One cache is named twice: its features would stand beside themselves.")
    places = [_places(first, cache) for cache in caches]
    names = reduce(lambda kept, cache: kept & set(cache.views), caches, set(first.views))
    extra: dict[str, np.ndarray] = {}
    for name in sorted(names):
        views = [cache.view(name) for cache in caches]
        extra[f"views/{name}/features"] = _beside([view.features for view in views], places)
        extra[f"views/{name}/parameters"] = first.extra[f"views/{name}/parameters"]
    digest = digest_json(["concat", digests])
    exposures = {cache.exposure for cache in caches}
    return replace(
        first,
        features=_beside([cache.features for cache in caches], places),
        logits=None,
        extra=extra,
        exposure=exposures.pop() if len(exposures) == 1 else _least_honest(caches),
        seen=np.bitwise_or.reduce(
            [cache.seen[place] for cache, place in zip(caches, places, strict=True)]
        ),
        backbone=" + ".join(cache.backbone for cache in caches),
        weights=" + ".join(cache.weights for cache in caches),
        weights_digest=digest_json(["concat", [cache.weights_digest for cache in caches]]),
        preprocessing={"side by side": [cache.preprocessing for cache in caches]},
        recipe={"name": " + ".join(str(cache.recipe.get("name", "")) for cache in caches)},
        path=None,
        digest=digest,
        content_digest=digest,
    )


def _places(first: Cache, cache: Cache) -> np.ndarray:
    """Where the rows of the first cache are in another."""
    order = np.argsort(cache.sample_id)
    at = np.searchsorted(cache.sample_id, first.sample_id, sorter=order)
    place = order[np.minimum(at, len(order) - 1)]
    if not np.array_equal(cache.sample_id[place], first.sample_id):
        missing = first.sample_id[cache.sample_id[place] != first.sample_id]
        raise InputError(
            f"{cache.name} lacks {len(missing)} rows of {first.name}, e.g. {missing[0]}: caches "
            "side by side need the same rows, so extract them from one manifest."
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
                f"{cache.name} and {first.name} differ in {name} of {int(differ.sum())} rows, e.g. "
                f"{first.sample_id[np.argmax(differ)]}: extract them from one manifest."
            )
    return np.asarray(place)


def _beside(parts: Sequence[np.ndarray], places: Sequence[np.ndarray]) -> np.ndarray:
    return np.concatenate([part[at] for part, at in zip(parts, places, strict=True)], axis=1)


def _least_honest(caches: Sequence[Cache]) -> str:
    """Of several exposures the one that allows least; a frozen network adds nothing to another."""
    order = ("unknown", "finetuned-clean", "finetuned-observed", "crossfit", "frozen")
    return min((cache.exposure for cache in caches), key=order.index)
