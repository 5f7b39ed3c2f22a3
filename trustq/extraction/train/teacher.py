"""A teacher's logits as part of a student's loss (knowledge distillation)."""

from dataclasses import dataclass

import numpy as np
import torch
from torch.nn.functional import kl_div, log_softmax


@dataclass(frozen=True)
class Teacher:
    """Logits of every row of a manifest, (n, k), and how much they count.

    The loss is alpha T^2 KL(teacher || student), both at temperature T, plus (1 - alpha) times the
    recipe's own loss. Hinton, Vinyals and Dean (2015).
    """

    logits: np.ndarray
    alpha: float
    temperature: float

    def loss(self, own: torch.Tensor, logits: torch.Tensor, rows: np.ndarray) -> torch.Tensor:
        """The whole loss of a batch: `own` is the recipe's, `logits` (b, k), `rows` positions.

        >>> teacher = Teacher(np.array([[2.0, 0.0]]), alpha=1.0, temperature=4.0)
        >>> same = torch.tensor([[5.0, 3.0]])  # softmax does not see a shift
        >>> abs(float(teacher.loss(torch.tensor(9.0), same, np.array([0])))) < 1e-6
        True
        """
        theirs = torch.from_numpy(self.logits[rows]).to(logits.device, torch.float32)
        heat = self.temperature
        divergence = kl_div(
            log_softmax(logits.float() / heat, dim=1),
            log_softmax(theirs / heat, dim=1),
            reduction="batchmean",
            log_target=True,
        )
        return self.alpha * heat**2 * divergence + (1 - self.alpha) * own
