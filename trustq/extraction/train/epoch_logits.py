"""Logits of training and validation rows at each epoch, kept in a file while training runs."""

from pathlib import Path

import numpy as np
import torch

from trustq.core.scratch import claim
from trustq.errors import TrustqError
from trustq.recipes import ExtractRecipe


class EpochLogits:
    """What the training steps of each epoch gave for their rows, (epochs, n, k) of float32.

    They are those of the step itself, so they cost no pass of their own: of the augmented image,
    with dropout, before the step. Those of validation rows are of the network that judges the
    epoch. A row that an epoch did not draw is NaN there; of a row drawn twice the later one stays.
    The values lie in `path`, so that memory does not grow with the rows and a training that was
    stopped finds its earlier epochs again.
    """

    def __init__(self, path: Path, *, n_epochs: int, n_rows: int, n_classes: int) -> None:
        self.path = path
        self._shape = (n_epochs, n_rows, n_classes)
        self._values: np.memmap | None = None

    @classmethod
    def of_recipe(
        cls, recipe: ExtractRecipe, path: Path, *, n_rows: int, n_classes: int
    ) -> "EpochLogits | None":
        """What a recipe asks for; None where it asks for none or where steps mix their images."""
        if not recipe.epoch_logits or recipe.mixup or recipe.cutmix:
            return None
        return cls(path, n_epochs=recipe.epochs, n_rows=n_rows, n_classes=n_classes)

    def has(self, n_epochs: int) -> bool:
        """Whether the file is there with its shape, so that `n_epochs` can be gone on from."""
        if not n_epochs:
            return True
        try:
            values = np.lib.format.open_memmap(self.path, mode="r+")
        except (OSError, ValueError):
            return False
        if values.shape != self._shape or values.dtype != np.float32:
            return False
        self._values = values
        return True

    def begin(self, epoch: int) -> None:
        """Empty an epoch, counted from 0, also one that a stopped run had begun."""
        if self._values is None:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._values = np.lib.format.open_memmap(
                self.path, mode="w+", dtype=np.float32, shape=self._shape
            )
            try:
                with open(self.path, "r+b") as file:
                    claim(file, self.path.stat().st_size)
            except OSError as error:
                size = self._values.nbytes / 1e9
                self._values = None
                self.path.unlink()
                raise TrustqError(
                    f"{self.path}: {size:,.1f} GB for logits of all epochs cannot be had there "
                    f"({error.strerror}). Make room, or set `epoch_logits` to false.",
                    path=self.path,
                ) from error
        self._values[epoch] = np.nan

    def add(self, epoch: int, rows: np.ndarray, logits: torch.Tensor) -> None:
        """Keep a step's logits, (m, k), of rows, (m,)."""
        assert self._values is not None
        self._values[epoch, rows] = logits.detach().float().cpu().numpy()

    def end(self) -> None:
        """See that an epoch is on the disk."""
        assert self._values is not None
        self._values.flush()

    def finished(self, n_epochs: int) -> np.ndarray:
        """The epochs that were trained, (n_epochs, n, k)."""
        assert self._values is not None
        return self._values[:n_epochs]
