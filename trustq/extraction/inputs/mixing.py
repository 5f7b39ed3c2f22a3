"""MixUp and CutMix: batches that are blends, drawn by seed, epoch and batch alone."""

import torch
from torchvision.transforms import v2

from trustq.core.generators import generator
from trustq.recipes import ExtractRecipe


class Mixing:
    """Blends each image of a batch with another one, and their labels alike.

    MixUp (Zhang et al. 2018) blends all pixels by a share from Beta(alpha, alpha); CutMix (Yun et
    al. 2019) pastes a box of the other image. Where both are asked for, each batch takes one by
    the toss of a coin.
    """

    def __init__(self, *, mixup: float, cutmix: float, n_classes: int, seed: int) -> None:
        self._seed = seed
        self._ways: list[v2.Transform] = []
        if mixup:
            self._ways.append(v2.MixUp(alpha=mixup, num_classes=n_classes))
        if cutmix:
            self._ways.append(v2.CutMix(alpha=cutmix, num_classes=n_classes))

    @classmethod
    def of_recipe(cls, recipe: ExtractRecipe, *, n_classes: int, seed: int) -> "Mixing | None":
        """The blending that a recipe asks for, if any."""
        if not recipe.mixup and not recipe.cutmix:
            return None
        return cls(mixup=recipe.mixup, cutmix=recipe.cutmix, n_classes=n_classes, seed=seed)

    def __call__(
        self, inputs: torch.Tensor, labels: torch.Tensor, *, epoch: int, batch: int
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Blended inputs, (b, 3, h, w), and soft labels, (b, k), from labels (b,)."""
        draws = generator(self._seed, "mix", epoch, batch)
        way = self._ways[int(draws.integers(len(self._ways)))]
        # torchvision draws from torch's own generator, which belongs to dropout here: it is lent,
        # that of the CPU only, and goes back as it was.
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(int(draws.integers(2**63)))
            mixed, soft = way(inputs, labels)
        return mixed, soft
