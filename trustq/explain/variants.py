"""The maps of a cache's rows, clean and as passes, views and other seeds show them."""

import json
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from trustq.core.class_names import unknown_class
from trustq.core.counts import counted, verb
from trustq.errors import InputError
from trustq.explain.activation_maps import LinearHead, cache_maps
from trustq.store import Cache

EXACT = "exact"  # Grad-CAM from stored feature maps
METHODS = (EXACT, "gradcam", "scorecam")
KINDS = ("passes", "views", "seeds")


@dataclass(frozen=True)
class Variants:
    """Maps of the same rows: the clean ones, (n, h, w), and others, (t, n, h, w), by their names.

    `classes` is what is explained, (n,), the same in every map of a row.
    """

    kind: str  # one of `KINDS`
    name: str  # for people, e.g. "20 passes, path"
    method: str
    names: tuple[str, ...]
    classes: np.ndarray
    reference: np.ndarray
    others: np.ndarray


@dataclass(frozen=True)
class RowMaps:
    """The clean maps of a cache's rows, how they were made, and what they explain."""

    method: str
    classes: np.ndarray
    maps: np.ndarray
    head: LinearHead | None


def row_maps(cache: Cache, *, method: str = "auto", explain: str = "predicted") -> RowMaps:
    """The clean map of every row: exact from stored maps, or as the network explained itself.

    `method` is `exact`, `gradcam` or `scorecam`; `auto` takes the first that there is. `explain`
    is `predicted`, `label` or a class's name. Raises `TrustqError` where there is no such map.
    """
    if method not in ("auto", *METHODS):
        raise InputError(
            f"`method={method}`: expected auto, {', '.join(METHODS)}.",
            where="method",
            found=method,
        )
    stored = stored_methods(cache)
    if method in ("auto", EXACT):
        try:
            head = LinearHead.of_cache(cache)
        except InputError:
            if method == EXACT or not stored:
                raise
        else:
            classes = explained_classes(cache, explain)
            return RowMaps(EXACT, classes, cache_maps(cache, head, classes), head)
    chosen = stored[0] if method == "auto" else method
    if chosen not in stored:
        has = ", ".join(stored) or "none"
        raise InputError(
            f"{cache.name} has no maps of {chosen} (it has {has}). Store them through the same "
            f"network with `trustq extract`, `with=CACHE`, `explain={chosen}` and `name=NAME`."
        )
    parameters = json.loads(str(cache.extra[f"explanations/{chosen}/parameters"][0]))
    if parameters["class"] != explain:
        raise InputError(
            f"{cache.name} explains the class {parameters['class']!r} with {chosen}, not "
            f"{explain!r}. Ask for that one, or extract with `explain_class={explain}`."
        )
    classes = cache.extra["explanations/class"].astype(np.int64)
    return RowMaps(chosen, classes, _stored(cache, "", chosen), None)


def stored_methods(cache: Cache) -> list[str]:
    """Methods by which a cache's network explained its rows, in the order of `METHODS`."""
    return [name for name in METHODS if f"explanations/{name}/maps" in cache.extra]


def explained_classes(cache: Cache, explain: str) -> np.ndarray:
    """The class to explain of each row, (n,): predicted, its label, or one class for all.

    Raises `TrustqError` for a frozen network without a classifier, rows without a label and an
    unknown class.
    """
    if explain == "predicted":
        if cache.logits is None:
            raise InputError(
                f"{cache.name} has no logits, so nothing is predicted that could be explained. "
                "Explain a class by its name, or a network with a classifier."
            )
        return np.asarray(cache.logits.argmax(axis=1))
    if explain == "label":
        if n := int((cache.label < 0).sum()):
            raise InputError(
                f"{counted(n, 'row')} of {cache.name} {verb(n, 'has', 'have')} no label to "
                "explain. Explain what is predicted, or leave these rows out."
            )
        return cache.label.astype(np.int64)
    if explain not in cache.classes:
        raise InputError(f"{unknown_class(explain, cache.classes)}.", found=explain)
    return np.full(len(cache), cache.classes.index(explain))


def pass_variants(cache: Cache, clean: RowMaps) -> list[Variants]:
    """Maps of each kind of stochastic passes.

    Raises `TrustqError` where all passes dropped behind the map, which they cannot move.
    """
    names = sorted({key.split("/")[1] for key in cache.extra if key.startswith("passes/")})
    found = []
    for name in names:
        prefix = f"passes/{name}/"
        others = _others(cache, prefix, clean)
        if others is None:
            continue
        numbered = tuple(f"{name} {i + 1}" for i in range(len(others)))
        title = f"{counted(len(others), 'pass')}, {name}"
        found.append(
            Variants("passes", title, clean.method, numbered, clean.classes, clean.maps, others)
        )
    if names and not found:
        raise InputError(
            f"The passes of {cache.name} ({', '.join(names)}) have no maps of {clean.method}: "
            "dropout behind the pooling moves logits and no map. Make passes that move it with "
            "`trustq extract`, `with=CACHE`, `passes=20`, `pass_drop=path:0.1`, `maps` and "
            "`name=NAME`."
        )
    return found


def view_variants(cache: Cache, clean: RowMaps) -> tuple[list[Variants], list[str]]:
    """Maps of the views, each by itself; and the views that are left out, with the reason."""
    found, left_out = [], []
    for name in cache.views:
        parameters = json.loads(str(cache.extra[f"views/{name}/parameters"][0]))
        if "degrees" in parameters:
            left_out.append(f"{name}: turned by an angle, and not turned back")
            continue
        others = _others(cache, f"views/{name}/", clean)
        if others is None:
            why = "averages symmetries" if "symmetries" in parameters else "has no maps"
            left_out.append(f"{name}: {why}")
            continue
        found.append(
            Variants("views", name, clean.method, (name,), clean.classes, clean.maps, others)
        )
    return found, left_out


def seed_variants(caches: Sequence[Cache], clean: RowMaps) -> Variants:
    """Maps of the same rows and classes by other networks, beside those of the first.

    Raises `TrustqError` for other rows, classes or map sizes.
    """
    first, *others = caches
    maps = []
    for cache in others:
        require_same_rows(first, cache)
        own = _of_classes(cache, clean)
        if own.shape != clean.maps.shape:
            raise InputError(
                f"Maps of {cache.name} are {own.shape[1]} x {own.shape[2]}, those of {first.name} "
                f"{clean.maps.shape[1]} x {clean.maps.shape[2]}: another layer or image size. "
                "Compare networks of one backbone and input size."
            )
        maps.append(own)
    names = tuple(f"seed {cache.backbone_seed}" for cache in others)
    title = f"{len(caches)} networks"
    return Variants("seeds", title, clean.method, names, clean.classes, clean.maps, np.stack(maps))


def require_same_rows(first: Cache, cache: Cache) -> None:
    """Raise unless two caches hold the same rows in the same order, and the same classes."""
    if first.classes != cache.classes or not np.array_equal(first.sample_id, cache.sample_id):
        raise InputError(
            f"{cache.name} and {first.name} hold other rows or classes. Give caches of one "
            "manifest, one a seed."
        )


def _of_classes(cache: Cache, clean: RowMaps) -> np.ndarray:
    if clean.method == EXACT:
        return cache_maps(cache, LinearHead.of_cache(cache), clean.classes)
    own = row_maps(cache, method=clean.method, explain=_explained_of(cache, clean.method))
    maps = own.maps.copy()
    maps[own.classes != clean.classes] = 0  # of another class: cannot be compared
    return maps


def _explained_of(cache: Cache, method: str) -> str:
    if method not in stored_methods(cache):
        return "predicted"
    return str(json.loads(str(cache.extra[f"explanations/{method}/parameters"][0]))["class"])


def _others(cache: Cache, prefix: str, clean: RowMaps) -> np.ndarray | None:
    """Maps (t, n, h, w) under a prefix, or None where there are none."""
    if clean.method != EXACT:
        if f"{prefix}explanations/{clean.method}/maps" not in cache.extra:
            return None
        found = _stored(cache, prefix, clean.method)
        return found if prefix.startswith("passes/") else found[None]
    path = f"{prefix}maps"
    if path not in cache.extra:
        return None
    assert clean.head is not None
    if not prefix.startswith("passes/"):
        return cache_maps(cache, clean.head, clean.classes, path=path)[None]
    n_passes = len(cache.passes(prefix.split("/")[1]))
    passes = [
        cache_maps(cache, clean.head, clean.classes, path=path, index=i) for i in range(n_passes)
    ]
    return np.stack(passes)


def _stored(cache: Cache, prefix: str, method: str) -> np.ndarray:
    path = f"{prefix}explanations/{method}"
    maps = cache.extra[f"{path}/maps"].astype(np.float32)
    return np.asarray(maps * cache.extra[f"{path}/scale"][..., None, None])
