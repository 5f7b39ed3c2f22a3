"""A cache with its classes in the order of another's, for judging both together."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

import numpy as np

from trustq.core.class_names import same_classes
from trustq.core.digest import digest_json
from trustq.store.format import Cache


def in_order_of(cache: Cache, classes: Sequence[str]) -> Cache:
    """The same cache with its classes in another order; as it is for other classes.

    Names may differ in case, which is then that of `classes`. The digests stay: they are of the
    file.

    >>> rows = dict(sample_id=np.array(["a"]), split=np.array(["test"]), group_id=np.array(["g"]))
    >>> labels = dict(label=np.array([0]), observed=np.array([-1]), seen=np.array([0]))
    >>> one = Cache("d", ("NV", "mel"), "frozen", **rows, **labels, trusted=np.array([False]),
    ...             features=np.array([[1.0]]), logits=np.array([[2.0, 0.0]]))
    >>> moved = in_order_of(one, ("mel", "nv"))
    >>> moved.classes, moved.label.tolist(), moved.observed.tolist(), moved.logits.tolist()
    (('mel', 'nv'), [1], [-1], [[0.0, 2.0]])
    """
    places = None if cache.classes == tuple(classes) else same_classes(cache.classes, classes)
    if places is None:
        return cache
    place = np.array([*places, -1])
    order = np.argsort(places)
    return replace(
        cache,
        classes=tuple(classes),
        label=place[cache.label].astype(cache.label.dtype),
        observed=place[cache.observed].astype(cache.observed.dtype),
        logits=None if cache.logits is None else cache.logits[:, order],
        extra=_Ordered(cache.extra, order, place),
    )


def in_first_order(caches: Sequence[Cache]) -> list[Cache]:
    """Caches of one data set with the classes of its first, for experiments on all of them.

    What is drawn depends on the order, so a cache that is moved has a content digest of its own.
    """
    first: dict[str, Cache] = {}
    return [moved_to(one, first.setdefault(one.dataset, one).classes) for one in caches]


def moved_to(cache: Cache, classes: Sequence[str]) -> Cache:
    """`in_order_of`, with a content digest that tells the order where it is another one."""
    moved = in_order_of(cache, classes)
    if moved is cache:
        return cache
    return replace(moved, content_digest=digest_json([cache.content_digest, list(classes)]))


class _Ordered(Mapping[str, np.ndarray]):
    """Optional datasets with what is of classes in another order, at each access."""

    def __init__(
        self, extra: Mapping[str, np.ndarray], order: np.ndarray, place: np.ndarray
    ) -> None:
        self._extra, self._order, self._place = extra, order, place

    def __getitem__(self, name: str) -> np.ndarray:
        found = self._extra[name]
        if name.startswith("classifier/"):
            return np.asarray(found[self._order])
        if name.endswith("logits"):
            return np.asarray(found[..., self._order])
        if name == "explanations/class":
            return np.asarray(self._place[found], dtype=found.dtype)
        return found

    def __contains__(self, name: object) -> bool:
        return name in self._extra

    def __iter__(self) -> Iterator[str]:
        return iter(self._extra)

    def __len__(self) -> int:
        return len(self._extra)
