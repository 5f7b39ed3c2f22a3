"""Views: further passes over the images whose outputs are stored beside the clean ones.

Corruptions act on pixels in the loading processes; test-time augmentation and dropout act here, on
the network's input and inside it.
"""

import difflib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from trustq.core.generators import generator
from trustq.errors import InputError, NotFound, TrustqError
from trustq.extraction.inputs.corruptions import CORRUPTIONS, Corruption
from trustq.recipes import ExtractRecipe

if TYPE_CHECKING:
    import torch

# Symmetries of a square that test-time augmentation averages over: (transpose, flip left to right,
# flip upside down).
SYMMETRIES = {
    "tta": [(t, h, v) for t in (False, True) for h in (False, True) for v in (False, True)],
    "tta-flips": [(False, h, v) for h in (False, True) for v in (False, True)],
}

GROUPS = {
    "corruptions": tuple(CORRUPTIONS),
    **{
        stem: tuple(name for name in CORRUPTIONS if name.startswith(f"{stem}-"))
        for stem in ("noise", "blur", "jpeg", "light", "rotation")
    },
}


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
                f"groups {', '.join(GROUPS)}, and {', '.join(CORRUPTIONS)}.",
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
    if recipe.passes == 0:
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
    if not recipe.drop_rate:
        raise InputError(
            f"passes={recipe.passes} needs dropout in the network, but drop_rate is 0, so every "
            "pass would be the same. Train with dropout, e.g. `drop_rate=0.3`."
        )


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

    Raises `TrustqError` for a network without active dropout and, from `logits`, for one whose
    passes do not differ.
    """

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

    def _unchanging(self, what: str) -> TrustqError:
        name = type(self._model).__name__
        return InputError(
            f"passes={self.n_passes}: this {name} {what} (drop_rate={self._drop_rate:g}), so its "
            "passes would say nothing. Use another backbone, or leave passes out."
        )
