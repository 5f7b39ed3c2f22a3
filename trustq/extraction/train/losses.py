"""Training losses: cross-entropy and those that bear wrong labels or rare classes better."""

import math
from collections.abc import Callable

import torch
from torch.nn.functional import cross_entropy, log_softmax

from trustq.recipes import ExtractRecipe

Loss = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]

_LOG_ZERO = math.log(1e-4)  # what the symmetric cross-entropy takes for log 0, as its authors' code


def make_loss(recipe: ExtractRecipe, counts: torch.Tensor) -> Loss:
    """The loss of a recipe: logits (b, k) and labels (b,) in, their mean out.

    Cross-entropy and the logit-adjusted one also take soft labels, (b, k). `counts`, (k,), are the
    observed training labels of each class, on the device of the logits.
    """
    smoothing = recipe.label_smoothing
    if recipe.loss == "gce":
        return lambda logits, labels: generalised_cross_entropy(logits, labels, q=recipe.gce_q)
    if recipe.loss == "sce":
        alpha, beta = recipe.sce_alpha, recipe.sce_beta
        return lambda logits, labels: symmetric_cross_entropy(
            logits, labels, alpha=alpha, beta=beta
        )
    if recipe.loss == "focal":
        return lambda logits, labels: focal_loss(logits, labels, gamma=recipe.focal_gamma)
    if recipe.loss == "logit_adjusted":
        shift = recipe.logit_tau * log_priors(counts)
        return lambda logits, labels: cross_entropy(
            logits + shift, labels, label_smoothing=smoothing
        )
    return lambda logits, labels: cross_entropy(logits, labels, label_smoothing=smoothing)


def generalised_cross_entropy(
    logits: torch.Tensor, labels: torch.Tensor, *, q: float
) -> torch.Tensor:
    """Mean of (1 - p^q) / q, where p is the probability of the label.

    Lies in [0, 1 / q]. At q = 1 it is the absolute error, which wrong labels move little; towards 0
    the cross-entropy. Zhang & Sabuncu (2018), q = 0.7.

    >>> logits = torch.tensor([[1.0, 1.0]])
    >>> round(float(generalised_cross_entropy(logits, torch.tensor([0]), q=1.0)), 6)
    0.5
    """
    # Through the logarithm, for the derivative of p^q itself is infinite where p underflows.
    return (-torch.expm1(q * _log_prob_of(labels, logits)) / q).mean()


def symmetric_cross_entropy(
    logits: torch.Tensor, labels: torch.Tensor, *, alpha: float, beta: float
) -> torch.Tensor:
    """`alpha` times the cross-entropy plus `beta` times the reverse one, -log(1e-4) (1 - p).

    p is the probability of the label. Wang et al. (2019), whose code takes log 0 for log 1e-4.

    >>> logits = torch.tensor([[1.0, 1.0]])
    >>> round(float(symmetric_cross_entropy(logits, torch.tensor([0]), alpha=0.1, beta=1.0)), 4)
    4.6745
    """
    log_prob = _log_prob_of(labels, logits)
    return (-alpha * log_prob + beta * _LOG_ZERO * torch.expm1(log_prob)).mean()


def focal_loss(logits: torch.Tensor, labels: torch.Tensor, *, gamma: float) -> torch.Tensor:
    """Mean of -(1 - p)^gamma log p, where p is the probability of the label.

    `gamma` is at least 0, where the loss is the cross-entropy. Lin et al. (2017), gamma = 2.

    >>> logits = torch.tensor([[1.0, 1.0]])
    >>> round(float(focal_loss(logits, torch.tensor([0]), gamma=2.0)), 6)
    0.173287
    """
    log_prob = _log_prob_of(labels, logits)
    # Above 0, where a power below 1 has no slope.
    missing = (-torch.expm1(log_prob)).clamp_min(torch.finfo(log_prob.dtype).tiny)
    return (-(missing**gamma) * log_prob).mean()


def log_priors(counts: torch.Tensor) -> torch.Tensor:
    """Logarithms of the classes' shares, (k,), from their counts, (k,).

    Training on logits plus these makes the plain logits those of balanced classes. Menon et al.
    (2021).

    >>> [round(value, 4) for value in log_priors(torch.tensor([3, 1])).exp().tolist()]
    [0.75, 0.25]
    """
    # A class without rows as with one: its shift stays finite, and no label asks for it.
    there = counts.clamp_min(1).to(torch.float32)
    return (there / there.sum()).log()


def _log_prob_of(labels: torch.Tensor, logits: torch.Tensor) -> torch.Tensor:
    # In float32, whatever a mixed-precision step computed the logits in.
    log_probs = log_softmax(logits.float(), dim=1)
    return log_probs.gather(1, labels[:, None])[:, 0]
