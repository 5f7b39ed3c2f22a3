"""Class activation maps from stored feature maps: exact, for every row and class, without torch.

Where a network's logits are linear in its pooled last map, the gradient of a logit with respect to
the map is the same at every place, so Grad-CAM is the map weighed by it. With a layer norm after
the pooling it is the chain rule through the norm.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from trustq.errors import InputError
from trustq.store import Cache

# Largest difference, in standard deviations of the features, between stored features and those that
# float16 maps give; a head that does something else differs by a whole one.
_CLOSE = 0.02
_CHECKED = 32  # rows on which it is checked that the head is linear
_BLOCK_BYTES = 64 << 20  # of maps in float32 at a time


@dataclass(frozen=True)
class LayerNorm:
    """A norm over the channels after the pooling: weight and bias (c,), and epsilon."""

    weight: np.ndarray
    bias: np.ndarray
    epsilon: float


@dataclass(frozen=True)
class LinearHead:
    """Logits as a linear function of a map's means: weight (k, c), bias (k,), perhaps a norm."""

    weight: np.ndarray
    bias: np.ndarray
    norm: LayerNorm | None = None

    @classmethod
    def of_cache(cls, cache: Cache) -> "LinearHead":
        """The head of a cache's network, checked: the stored maps must give the stored features.

        Raises `TrustqError` for a cache without maps or classifier, and for a network whose
        features are not its pooled map, normed or not.
        """
        extra = cache.extra
        if "maps" not in extra:
            raise InputError(
                f"{cache.name} has no maps. Store them through the same network with "
                "`trustq extract`, `with=CACHE`, `maps` and `name=NAME`."
            )
        if "classifier/weight" not in extra:
            raise _not_linear(cache, "its logits are not linear in its features")
        norm = None
        if "classifier/norm_weight" in extra:
            norm = LayerNorm(
                extra["classifier/norm_weight"],
                extra["classifier/norm_bias"],
                float(extra["classifier/norm_eps"][0]),
            )
        head = cls(extra["classifier/weight"], extra["classifier/bias"], norm)
        if head.weight.shape[0] != len(cache.classes):
            raise _not_linear(cache, f"its classifier has {head.weight.shape[0]} outputs")
        rows = _rows(cache, "maps", 0, min(_CHECKED, len(cache)))
        pooled = rows.astype(np.float32).mean(axis=(1, 2))
        found = head.features(pooled) if pooled.shape[1] == head.weight.shape[1] else None
        own = cache.features[: len(rows)]
        spread = float(own.std()) or 1.0
        if found is None or np.abs(found - own).max() > _CLOSE * max(spread, np.abs(own).max() / 8):
            raise _not_linear(cache, "its features are not the means of its last map")
        return head

    def features(self, pooled: np.ndarray) -> np.ndarray:
        """Features (n, c) that the classifier reads, of pooled maps (n, c)."""
        if self.norm is None:
            return pooled
        return np.asarray(_normed(pooled, self.norm)[0] * self.norm.weight + self.norm.bias)

    def gradients(self, pooled: np.ndarray, classes: np.ndarray) -> np.ndarray:
        """Gradient of each row's logit of class `classes`, (n,), by its pooled map: (n, c)."""
        gradient: np.ndarray = self.weight[classes]
        if self.norm is None:
            return gradient
        gradient = gradient * self.norm.weight
        normed, deviation = _normed(pooled, self.norm)
        along = (gradient * normed).mean(axis=1, keepdims=True)
        return np.asarray(
            (gradient - gradient.mean(axis=1, keepdims=True) - normed * along) / deviation
        )


def class_activation_maps(
    maps: np.ndarray, head: LinearHead, classes: np.ndarray, *, positive: bool = True
) -> np.ndarray:
    """Grad-CAM of one class a row from feature maps: (n, h, w) of float32, exact.

    `maps` is (n, h, w, c), `classes` (n,) of class indices. Values are in the logit's units: a
    place's share of it, to first order, without the bias. With `positive` only what speaks for the
    class is left, as in Grad-CAM. Selvaraju et al. (2017); Zhou et al. (2016).

    >>> head = LinearHead(np.array([[1.0, -1.0], [0.0, 1.0]]), np.zeros(2))
    >>> maps = np.array([[[[2.0, 0.0], [0.0, 4.0]]]])
    >>> class_activation_maps(maps, head, np.array([0])).tolist()
    [[[1.0, 0.0]]]
    """
    maps = maps.astype(np.float32)
    n_places = maps.shape[1] * maps.shape[2]
    flat = maps.reshape(len(maps), n_places, -1)
    gradients = head.gradients(flat.mean(axis=1), classes).astype(np.float32) / n_places
    found = np.matmul(flat, gradients[:, :, None])[:, :, 0].reshape(maps.shape[:3])
    return np.asarray(np.maximum(found, 0) if positive else found)


def every_class(maps: np.ndarray, head: LinearHead, *, positive: bool = True) -> np.ndarray:
    """Grad-CAM of every class: (n, k, h, w), as `class_activation_maps` of each.

    >>> head = LinearHead(np.array([[1.0, -1.0], [0.0, 1.0]]), np.zeros(2))
    >>> every_class(np.array([[[[2.0, 0.0], [0.0, 4.0]]]]), head).tolist()
    [[[[1.0, 0.0]], [[0.0, 2.0]]]]
    """
    n, h, w, c = maps.shape
    flat = maps.astype(np.float32).reshape(n, h * w, c)
    k = len(head.weight)
    if head.norm is None:
        found = flat @ (head.weight.T.astype(np.float32) / (h * w))
    else:
        pooled = np.repeat(flat.mean(axis=1), k, axis=0)
        each = head.gradients(pooled, np.tile(np.arange(k), n)).astype(np.float32)
        found = flat @ (each.reshape(n, k, c).transpose(0, 2, 1) / (h * w))
    found = found.transpose(0, 2, 1).reshape(n, k, h, w)
    return np.asarray(np.maximum(found, 0) if positive else found)


def scaled(maps: np.ndarray) -> np.ndarray:
    """Maps (..., h, w) with a largest value of 1; a map without a positive value is blank.

    >>> scaled(np.array([[[0.0, 2.0]], [[-1.0, 0.0]]])).tolist()
    [[[0.0, 1.0]], [[0.0, 0.0]]]
    """
    positive = np.maximum(maps, 0)
    largest = positive.max(axis=(-2, -1), keepdims=True)
    return np.asarray(positive / np.where(largest > 0, largest, 1))


def cache_maps(
    cache: Cache,
    head: LinearHead,
    classes: np.ndarray,
    *,
    path: str = "maps",
    index: int | None = None,
) -> np.ndarray:
    """Grad-CAM of one class a row from a cache's maps, block by block: (n, h, w) of float32.

    `path` is `maps`, `views/NAME/maps` or `passes/NAME/maps`, of which `index` is the pass.
    """
    first = np.asarray(_shape_of(cache, path))
    per_row = 4 * int(np.prod(first[-3:]))
    rows = max(1, _BLOCK_BYTES // max(per_row, 1))
    parts = []
    for start in range(0, len(cache), rows):
        stop = min(start + rows, len(cache))
        block = _rows(cache, path, start, stop, index)
        parts.append(class_activation_maps(block, head, classes[start:stop]))
    return np.concatenate(parts) if parts else np.zeros((0, *first[-3:-1]), np.float32)


def cache_maps_of_every_class(
    cache: Cache, head: LinearHead, *, path: str = "maps"
) -> Iterator[tuple[int, np.ndarray]]:
    """Grad-CAM of every class in blocks: the first row of each, and (b, k, h, w) of float32."""
    per_row = 4 * int(np.prod(_shape_of(cache, path)[1:]))
    rows = max(1, _BLOCK_BYTES // max(per_row, 1))
    for start in range(0, len(cache), rows):
        block = _rows(cache, path, start, min(start + rows, len(cache)))
        yield start, every_class(block, head)


def _shape_of(cache: Cache, path: str) -> tuple[int, ...]:
    shape = getattr(cache.extra, "shape", None)
    if shape is not None:
        return tuple(shape(path))
    return tuple(cache.extra[path].shape)


def _rows(cache: Cache, path: str, start: int, stop: int, index: int | None = None) -> np.ndarray:
    reader = getattr(cache.extra, "rows", None)
    if index is not None:
        # Passes have their rows second: the block of one pass lies in a row.
        part = reader(path, index, index + 1, within=(start, stop)) if reader else None
        return np.asarray(part[0] if part is not None else cache.extra[path][index, start:stop])
    return np.asarray(reader(path, start, stop) if reader else cache.extra[path][start:stop])


def _normed(pooled: np.ndarray, norm: LayerNorm) -> tuple[np.ndarray, np.ndarray]:
    centred = pooled - pooled.mean(axis=1, keepdims=True)
    deviation = np.sqrt((centred**2).mean(axis=1, keepdims=True) + norm.epsilon)
    return centred / deviation, deviation


def _not_linear(cache: Cache, why: str) -> InputError:
    return InputError(
        f"The head of {cache.backbone} in {cache.name} is not linear on its pooled map ({why}), so "
        "its maps cannot be weighed here. Let the network explain itself: `trustq extract`, "
        "`with=CACHE`, `explain=gradcam` and `name=NAME`."
    )
