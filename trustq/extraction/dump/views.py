"""Views: further passes over the images whose outputs are stored beside the clean ones.

Corruptions act on pixels in the loading processes; test-time augmentation and dropout act here, on
the network's input and inside it.
"""

import difflib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from trustq.core.generators import generator
from trustq.core.words import whole_number
from trustq.errors import InputError, NotFound, TrustqError
from trustq.extraction.inputs.corruptions import CORRUPTIONS, FIRST, Corruption
from trustq.recipes import ExtractRecipe

if TYPE_CHECKING:
    import torch

# Symmetries of a square that test-time augmentation averages over: (transpose, flip left to right,
# flip upside down).
SYMMETRIES = {
    "tta": [(t, h, v) for t in (False, True) for h in (False, True) for v in (False, True)],
    "tta-flips": [(False, h, v) for h in (False, True) for v in (False, True)],
    # One alone, whose map can be turned back and laid over the clean one.
    "flip-left-right": [(False, True, False)],
    "flip-upside-down": [(False, False, True)],
    "transpose": [(True, False, False)],
}

GROUPS = {
    "corruptions": FIRST,
    # What the field's robustness audits take: four corruptions and two shifts by three amounts.
    "audit": tuple(
        f"{family}-{level}"
        for family in ("noise", "blur", "jpeg", "light", "cast", "down-up")
        for level in (1, 2, 3)
    ),
    "medmnist-c": tuple(name for name in CORRUPTIONS if name.startswith("mc-")),
    "flips": ("flip-left-right", "flip-upside-down", "transpose"),
    **{
        stem: tuple(name for name in CORRUPTIONS if name.startswith(f"{stem}-"))
        for stem in ("noise", "blur", "jpeg", "light", "rotation", "cast", "down-up")
    },
}


# The 75 of MedMNIST-C go by their group and one example.
_SHOWN = (*(name for name in CORRUPTIONS if not name.startswith("mc-")), "mc-pixelate-1, ...")


@dataclass(frozen=True)
class View:
    """One view: its name in the cache and what it does, as it is stored with it."""

    name: str

    @property
    def corruption(self) -> Corruption | None:
        """What happens to the images, where that is what it does."""
        return Corruption(self.name) if self.name in CORRUPTIONS else None

    @property
    def symmetries(self) -> list[tuple[bool, bool, bool]]:
        """Symmetries to average over; for a corruption the one that changes nothing."""
        return SYMMETRIES.get(self.name, [(False, False, False)])

    @property
    def parameters(self) -> dict[str, Any]:
        """The effective amounts, for the cache."""
        if self.name in CORRUPTIONS:
            return {"seed": 0, "at": "full size"} | CORRUPTIONS[self.name]
        if len(self.symmetries) == 1:
            names = ("transpose", "left_right", "upside_down")
            return dict(zip(names, self.symmetries[0], strict=True))
        return {"symmetries": len(self.symmetries), "average": "probabilities"}


def resolve_views(names: Sequence[str]) -> tuple[View, ...]:
    """Views by name, groups resolved, each once, in the order named.

    Raises `TrustqError` for an unknown name.

    >>> [view.name for view in resolve_views(["tta", "jpeg"])]
    ['tta', 'jpeg-1', 'jpeg-2', 'jpeg-3']
    """
    found: dict[str, View] = {}
    every = [*SYMMETRIES, *GROUPS, *CORRUPTIONS]
    for name in names:
        if name not in every:
            close = difflib.get_close_matches(name, every, n=1, cutoff=0.5)
            nearest = f" (did you mean {close[0]!r}?)" if close else ""
            raise NotFound(
                f"There is no view {name!r}{nearest}. There are {', '.join(SYMMETRIES)}, the "
                f"groups {', '.join(GROUPS)}, and {', '.join(_SHOWN)}.",
                expected=SYMMETRIES,
                found=name,
            )
        for member in GROUPS.get(name, (name,)):
            found[member] = View(member)
    return tuple(found.values())


def require_dumpable(recipe: ExtractRecipe) -> None:
    """Raise `TrustqError` where a recipe's views, passes or dropout cannot be; needs no torch."""
    resolve_views(recipe.views)
    if not 0 <= recipe.drop_rate < 1:
        raise InputError(
            f"drop_rate is {recipe.drop_rate:g}, expected 0 to less than 1.",
            where="drop_rate",
            found=recipe.drop_rate,
        )
    kind, _ = parse_pass_drop(recipe.pass_drop)
    _require_explainable(recipe)
    if recipe.passes == 0:
        if kind != "dropout":
            raise InputError(
                f"pass_drop={recipe.pass_drop} says what passes drop, but passes is 0. Ask for "
                "some, e.g. `passes=20`, or leave pass_drop out."
            )
        return
    if recipe.passes < 2:
        raise InputError(
            f"passes is {recipe.passes}, expected 0 (none) or at least 2.",
            where="passes",
            found=recipe.passes,
        )
    if recipe.mode == "frozen":
        raise InputError(
            f"passes={recipe.passes} needs a classifier, which a frozen backbone has not. Train "
            "one, or leave passes out."
        )
    if kind == "dropout" and not recipe.drop_rate:
        raise InputError(
            f"passes={recipe.passes} needs dropout in the network, but drop_rate is 0, so every "
            "pass would be the same. Train with dropout, e.g. `drop_rate=0.3`."
        )


def parse_pass_drop(text: str) -> tuple[str, float]:
    """What passes drop, and at which rate (0 for the network's own dropout, at its own rate).

    Raises `TrustqError` for another kind and for a rate outside (0, 1).

    >>> parse_pass_drop("path:0.1"), parse_pass_drop("dropout")
    (('path', 0.1), ('dropout', 0.0))
    """
    kind, _, rate = text.partition(":")
    if text == "dropout":
        return kind, 0.0
    try:
        value = float(rate)
    except ValueError:
        value = float("nan")
    if kind not in ("path", "spatial") or not 0 < value < 1:
        raise InputError(
            f"pass_drop is {text!r}, expected dropout, path:RATE or spatial:RATE with a rate "
            "between 0 and 1, e.g. `pass_drop=path:0.1`.",
            where="pass_drop",
            found=text,
        )
    return kind, value


METHODS = ("gradcam", "scorecam")


def parse_explain(text: str) -> tuple[str, int]:
    """An explanation and how many channels it takes, 0 for all; raises `TrustqError` for others.

    >>> parse_explain("gradcam"), parse_explain("scorecam:64")
    (('gradcam', 0), ('scorecam', 64))
    """
    method, colon, number = text.partition(":")
    if method not in METHODS:
        raise NotFound(
            f"There is no explanation {method!r}; there are {', '.join(METHODS)}.",
            expected=METHODS,
            found=method,
        )
    n = whole_number(number) if colon else 0
    if n is None or n < 0 or (colon and (n < 1 or method != "scorecam")):
        raise InputError(
            f"explain has {text!r}, expected gradcam, scorecam, or scorecam:N for the N channels "
            "of the largest spread, e.g. scorecam:64.",
            where="explain",
            found=text,
        )
    return method, n


def _require_explainable(recipe: ExtractRecipe) -> None:
    methods = [parse_explain(text)[0] for text in recipe.explain]
    if len(set(methods)) < len(methods):
        raise InputError(
            f"explain={','.join(recipe.explain)} names an explanation twice: store the second "
            "one under another `name`.",
            where="explain",
            found=recipe.explain,
        )
    if recipe.explain and recipe.mode == "frozen":
        raise InputError(
            f"explain={','.join(recipe.explain)} explains a class, and a frozen backbone has no "
            "classifier. Train one, or store its maps (`maps=true`) and explain a head's classes."
        )
    if recipe.explain_checks < 0 or (recipe.explain_checks and not recipe.explain):
        raise InputError(
            f"explain_checks={recipe.explain_checks} needs an explanation to test and a number of "
            "rows, e.g. `explain=gradcam` and `explain_checks=64`."
        )


def turned_back(grid: "torch.Tensor", symmetry: tuple[bool, bool, bool]) -> "torch.Tensor":
    """A map (b, h, w, c) of images under a symmetry, laid over the images as they were."""
    transpose, left_right, upside_down = symmetry
    grid = grid.flip([axis for axis, flip in ((2, left_right), (1, upside_down)) if flip])
    return grid.transpose(1, 2) if transpose else grid


def turned(images: "torch.Tensor", symmetry: tuple[bool, bool, bool]) -> "torch.Tensor":
    """Images (b, c, s, s) under a symmetry: transposed, then flipped."""
    transpose, left_right, upside_down = symmetry
    if transpose:
        images = images.transpose(2, 3)
    return images.flip([axis for axis, flip in ((3, left_right), (2, upside_down)) if flip])


def averaged(
    outputs: "list[tuple[torch.Tensor, torch.Tensor | None]]",
) -> "tuple[torch.Tensor, torch.Tensor | None]":
    """Mean features, and as logits the logarithm of mean probabilities, of several passes."""
    import torch

    if len(outputs) == 1:
        return outputs[0]
    features = torch.stack([features for features, _ in outputs]).mean(dim=0)
    logits = [logits for _, logits in outputs if logits is not None]
    if not logits:
        return features, None
    log_probs = torch.stack(logits).log_softmax(dim=2)
    # As a mean in log space, where no probability is too small.
    return features, log_probs.logsumexp(dim=0) - torch.tensor(float(len(logits))).log()


class DropoutPasses:
    """Stochastic passes with dropout as in training and everything else as in evaluation.

    They are `dropout` in a cache. Their maps are not stored: dropout before the classifier lies
    behind them.

    Raises `TrustqError` for a network without active dropout and, from `logits`, for one whose
    passes do not differ.
    """

    name = "dropout"

    def __init__(self, model: Any, n_passes: int, *, drop_rate: float) -> None:
        import torch

        self.n_passes = n_passes
        self._model = model
        # Layers of dropout, and modules that call it as a function when they are in training, as
        # timm's ResNet does by its `drop_rate`; only their own flag is set, not their children's.
        layers = (torch.nn.Dropout, torch.nn.Dropout1d, torch.nn.Dropout2d, torch.nn.Dropout3d)
        self._active = [
            module
            for module in model.modules()
            if (isinstance(module, layers) and module.p > 0)
            or float(getattr(module, "drop_rate", None) or 0) > 0
        ]
        self._drop_rate = drop_rate
        self._shares_maps: bool | None = None
        if not self._active:
            raise self._unchanging("has no active dropout")

    def logits(self, images: "torch.Tensor", maps: "torch.Tensor", block: int) -> "torch.Tensor":
        """Logits (t, b, k) of a block; `maps` are those of its pass without dropout."""
        import torch

        devices = [images.device] if images.device.type == "cuda" else []
        passes = []
        with torch.random.fork_rng(devices), self._dropping():
            if self._shares_maps is None:
                # Most have dropout behind their maps alone, which then need no second pass.
                self._seed(block, -1)
                self._shares_maps = torch.equal(self._model.forward_features(images), maps)
            for i in range(self.n_passes):
                self._seed(block, i)
                own = maps if self._shares_maps else self._model.forward_features(images)
                passes.append(self._model.forward_head(own))
        logits = torch.stack(passes)
        if torch.equal(logits[0], logits[1]):
            raise self._unchanging("gives the same logits in every pass")
        return logits

    @contextmanager
    def _dropping(self) -> Iterator[None]:
        for module in self._active:
            module.training = True
        try:
            yield
        finally:
            for module in self._active:
                module.training = False

    def _seed(self, block: int, index: int) -> None:
        import torch

        torch.manual_seed(int(generator(0, "dropout pass", block, index + 1).integers(2**63)))

    @property
    def parameters(self) -> dict[str, Any]:
        """The effective amounts, for the cache."""
        return {"dropped": "dropout before the classifier", "rate": self._drop_rate}

    def _unchanging(self, what: str) -> TrustqError:
        name = type(self._model).__name__
        return InputError(
            f"passes={self.n_passes}: this {name} {what} (drop_rate={self._drop_rate:g}), so its "
            "passes would say nothing. Use another backbone, or leave passes out."
        )


class MovingPasses:
    """Stochastic passes that move the last map: residual branches or channels of it dropped.

    `path` drops whole residual branches, with a rate that grows with depth to the stated one as in
    training with stochastic depth; `spatial` drops channels of the last map, kept ones scaled up.
    Raises `TrustqError` for a network without residual branches.
    """

    def __init__(self, model: Any, n_passes: int, *, kind: str, rate: float) -> None:
        self.n_passes = n_passes
        self.name = kind
        self._model = model
        self._rate = rate
        self._branches = _branches(model) if kind == "path" else []
        if kind == "path" and not self._branches:
            raise InputError(
                f"pass_drop=path:{rate:g}: this {type(model).__name__} has no residual branches "
                f"that can be dropped. Drop channels instead (`pass_drop=spatial:{rate:g}`)."
            )

    @property
    def parameters(self) -> dict[str, Any]:
        """The effective amounts, for the cache."""
        if self.name == "path":
            return {
                "dropped": "residual branches",
                "rate_of_last": self._rate,
                "branches": len(self._branches),
            }
        return {"dropped": "channels of the last map", "rate": self._rate}

    def last_maps(
        self, images: "torch.Tensor", maps: "torch.Tensor", block: int
    ) -> "Iterator[tuple[torch.Tensor, Callable[[], torch.Tensor]]]":
        """The last map of each pass over a block, and what makes that very pass once more.

        Maps are as the network gives them; `maps` is the clean one. Raises `TrustqError` where no
        pass over the first block moves the map.
        """
        import torch

        has_moved = False
        for i in range(self.n_passes):
            moved = self._once(images, maps, block, i)
            has_moved = has_moved or not torch.equal(moved, maps)
            yield moved, partial(self._once, images, None, block, i)
        if block == 0 and not has_moved:
            raise InputError(
                f"pass_drop={self.name}:{self._rate:g} leaves the maps of this "
                f"{type(self._model).__name__} as they are in every pass, so their stability "
                "would be that of nothing. Take a larger rate."
            )

    def _once(
        self, images: "torch.Tensor", maps: "torch.Tensor | None", block: int, index: int
    ) -> "torch.Tensor":
        import torch

        devices = [images.device] if images.device.type == "cuda" else []
        with torch.random.fork_rng(devices):
            if self.name == "path":
                self._seed(block, index)
                with self._dropping():
                    moved: torch.Tensor = self._model.forward_features(images)
                return moved
            clean = self._model.forward_features(images) if maps is None else maps
            self._seed(block, index)
            return self._without_channels(clean)

    def _without_channels(self, maps: "torch.Tensor") -> "torch.Tensor":
        import torch

        is_last = maps.ndim == 3 or getattr(self._model, "output_fmt", "") == "NHWC"
        n_channels = maps.shape[-1] if is_last else maps.shape[1]
        shape = (len(maps), *(1,) * (maps.ndim - 2), n_channels)
        kept = (torch.rand(len(maps), n_channels) >= self._rate).to(maps) / (1 - self._rate)
        if is_last:
            return maps * kept.view(shape)
        return maps * kept.view(len(maps), n_channels, *(1,) * (maps.ndim - 2))

    @contextmanager
    def _dropping(self) -> Iterator[None]:
        from timm.layers.drop import DropPath

        before = [getattr(module, name) for module, name in self._branches]
        n = len(self._branches)
        try:
            for i, (module, name) in enumerate(self._branches):
                setattr(module, name, DropPath(self._rate * (i + 1) / n).train())
            yield
        finally:
            for (module, name), layer in zip(self._branches, before, strict=True):
                setattr(module, name, layer)

    def _seed(self, block: int, index: int) -> None:
        import torch

        seed = generator(0, f"{self.name} pass", block, index + 1).integers(2**63)
        torch.manual_seed(int(seed))


def _branches(model: Any) -> list[tuple[Any, str]]:
    """Places of a timm network that hold, or could hold, a dropped residual branch, in order."""
    found = []
    for module in model.modules():
        own = [*module._modules, *(name for name, value in vars(module).items() if value is None)]
        found += [(module, name) for name in dict.fromkeys(own) if name.startswith("drop_path")]
    return found
