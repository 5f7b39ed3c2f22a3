"""Fine-tune a network on observed labels, and go on from the last finished epoch after a stop.

Every draw (shuffling, augmentation, dropout) comes from (seed, purpose, epoch, row), so a resumed
run needs no generator state and equals one that was never stopped.
"""

import contextlib
import math
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn.functional import cross_entropy

from trustq.errors import TrustqError
from trustq.extraction.device import MixedPrecision
from trustq.extraction.dump import evaluate, to_input
from trustq.extraction.images import (
    Augmentation,
    ImageLoader,
    Preprocessing,
    TrainingBatches,
    evaluation_batches,
    n_workers,
)
from trustq.extraction.progress import Progress
from trustq.extraction.weights import Network
from trustq.files import replacing
from trustq.manifest import Manifest
from trustq.recipes import ExtractRecipe
from trustq.seeds import generator

EVALUATION_BATCH = 64


@dataclass
class History:
    """Figures of each finished epoch; validation figures are NaN without validation rows."""

    epoch: list[int] = field(default_factory=list)  # from 1
    train_loss: list[float] = field(default_factory=list)
    val_loss: list[float] = field(default_factory=list)  # without label smoothing
    val_accuracy: list[float] = field(default_factory=list)
    learning_rate: list[float] = field(default_factory=list)  # of the backbone, at the epoch's end

    @property
    def arrays(self) -> dict[str, np.ndarray]:
        """The figures by name."""
        return {name: np.array(values) for name, values in asdict(self).items()}


@dataclass
class Trained:
    """What training leaves besides the network's weights."""

    history: History
    seconds: float


def train(
    network: Network,
    manifest: Manifest,
    observed: np.ndarray,
    *,
    validation: np.ndarray,
    recipe: ExtractRecipe,
    seed: int,
    preprocessing: Preprocessing,
    device: torch.device,
    resume: Path,
    identity: str,
    progress: Progress,
) -> Trained:
    """Train on the rows whose `observed` label, (n,), is not -1; the chosen weights stay in place.

    `validation` holds positions of rows that judge each epoch by their reference labels. After each
    epoch the state
    goes to `resume`; a state of the same `identity` that is there is gone on from. Raises
    `TrustqError` for a loss that is not finite and for images that cannot be decoded.
    """
    run = _Run(
        network,
        manifest,
        observed,
        validation,
        recipe=recipe,
        seed=seed,
        preprocessing=preprocessing,
        device=device,
    )
    _restore(run, resume, identity, progress)
    while not run.is_done:
        started = time.monotonic()
        run.one_epoch(progress, resume)
        run.seconds += time.monotonic() - started
        with replacing(resume) as part:
            torch.save({"identity": identity, **run.state()}, part)
        progress.say(run.last_line())
    if run.epoch < recipe.epochs:
        progress.say(f"Stopped early: {recipe.patience} epochs without a lower validation loss.")
    if recipe.checkpoint == "best":
        network.model.load_state_dict(run.best_state)
        progress.say(f"Kept epoch {run.best_epoch}, which has the lowest validation loss.")
    return Trained(run.history, run.seconds)


def learning_rate_factor(step: int, *, n_steps: int, n_warmup: int) -> float:
    """Share of the peak learning rate at a step: a linear rise, then a cosine that stays above 0.

    >>> [round(learning_rate_factor(s, n_steps=6, n_warmup=2), 2) for s in range(6)]
    [0.5, 1.0, 1.0, 0.85, 0.5, 0.15]
    """
    if step < n_warmup:
        return (step + 1) / n_warmup
    return 0.5 * (1 + math.cos(math.pi * (step - n_warmup) / (n_steps - n_warmup)))


class _Run:
    """One training under way: everything that changes from epoch to epoch."""

    def __init__(
        self,
        network: Network,
        manifest: Manifest,
        observed: np.ndarray,
        validation: np.ndarray,
        *,
        recipe: ExtractRecipe,
        seed: int,
        preprocessing: Preprocessing,
        device: torch.device,
    ) -> None:
        self._network = network
        self._recipe = recipe
        self._seed = seed
        self._device = device
        self._preprocessing = preprocessing
        self._observed = torch.from_numpy(observed.astype(np.int64))
        self._train_rows = np.flatnonzero(observed >= 0)
        self._val_rows = validation
        self._labels = manifest.label_indices.astype(np.int64)
        workers = n_workers(recipe.workers)
        self._batches = TrainingBatches(self._train_rows, batch_size=recipe.batch_size, seed=seed)
        self._train_images = ImageLoader(
            manifest,
            self._batches,
            preprocessing=preprocessing,
            augmentation=Augmentation.of_recipe(recipe, seed),
            workers=workers,
            device=device,
        )
        self._val_images = ImageLoader(
            manifest,
            evaluation_batches(self._val_rows, batch_size=EVALUATION_BATCH),
            preprocessing=preprocessing,
            workers=workers,
            device=device,
        )
        self._optimizer = _optimizer(network, recipe)
        self._peaks = [group["lr"] for group in self._optimizer.param_groups]
        self._precision = MixedPrecision.of_recipe(recipe.amp, device)
        self._scaler = torch.amp.GradScaler(device.type, enabled=self._precision.needs_scaler)
        self._n_steps = recipe.epochs * len(self._batches)
        # A run of one epoch warms up for half of it rather than never to arrive.
        self._n_warmup = min(recipe.warmup_epochs * len(self._batches), self._n_steps // 2)
        self.epoch = 0  # finished epochs
        self.history = History()
        self.best_epoch = 0
        self.best_state: dict[str, torch.Tensor] = {}
        self.seconds = 0.0

    @property
    def is_done(self) -> bool:
        """Whether the last epoch was reached, or none was better for too long."""
        patience = self._recipe.patience
        waited = self.epoch - self.best_epoch
        return self.epoch >= self._recipe.epochs or (patience > 0 and waited >= patience)

    def one_epoch(self, progress: Progress, resume: Path) -> None:
        """Train for one epoch, validate, and remember the weights if they are the best."""
        self._batches.epoch = self.epoch
        # Dropout and stochastic depth draw from torch's own generator.
        torch.manual_seed(int(generator(self._seed, "torch", self.epoch).integers(2**63)))
        what = f"epoch {self.epoch + 1}/{self._recipe.epochs}"
        train_loss = self._train_images_once(progress, what, resume)
        val_loss = val_accuracy = math.nan
        if len(self._val_rows):
            val_loss, val_accuracy = evaluate(
                self._network,
                self._val_images,
                self._labels,
                preprocessing=self._preprocessing,
                device=self._device,
            )
            if not math.isfinite(val_loss):
                raise _not_finite("validation loss", f"after {what}", self._recipe, resume)
        self.epoch += 1
        is_best = val_loss < min(self.history.val_loss, default=math.inf)
        self.history.epoch.append(self.epoch)
        self.history.train_loss.append(train_loss)
        self.history.val_loss.append(val_loss)
        self.history.val_accuracy.append(val_accuracy)
        self.history.learning_rate.append(float(self._optimizer.param_groups[0]["lr"]))
        if is_best:
            self.best_epoch = self.epoch
            if self._recipe.checkpoint == "best":
                self.best_state = {
                    name: tensor.detach().cpu().clone()
                    for name, tensor in self._network.model.state_dict().items()
                }

    def last_line(self) -> str:
        """The last epoch in a line."""
        figures = {name: values[-1] for name, values in self.history.arrays.items()}
        line = f"epoch {self.epoch}/{self._recipe.epochs}: train loss {figures['train_loss']:.4f}"
        if len(self._val_rows):
            line += f", val loss {figures['val_loss']:.4f}, accuracy {figures['val_accuracy']:.4f}"
            line += " (best so far)" if self.best_epoch == self.epoch else ""
        left = self.seconds / self.epoch * (self._recipe.epochs - self.epoch)
        return f"{line}, {self.seconds:.0f} s" + (f", {left:.0f} s left" if left else "")

    def state(self) -> dict[str, Any]:
        """Everything that the next epoch depends on, as tensors and plain values."""
        return {
            "epoch": self.epoch,
            "model": self._network.model.state_dict(),
            "optimizer": self._optimizer.state_dict(),
            "scaler": self._scaler.state_dict(),
            "best_epoch": self.best_epoch,
            "best_state": self.best_state,
            "history": asdict(self.history),
            "seconds": self.seconds,
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Go back to where `state` was taken."""
        self._network.model.load_state_dict(state["model"])
        self._optimizer.load_state_dict(state["optimizer"])
        self._scaler.load_state_dict(state["scaler"])
        self.epoch = state["epoch"]
        self.best_epoch = state["best_epoch"]
        self.best_state = state["best_state"]
        self.history = History(**state["history"])
        self.seconds = state["seconds"]

    def _train_images_once(self, progress: Progress, what: str, resume: Path) -> float:
        model = self._network.model.train()
        total, done = 0.0, 0
        step = self.epoch * len(self._batches)
        with progress.images(what, len(self._train_rows)) as show:
            for rows, images in self._train_images:
                factor = learning_rate_factor(step, n_steps=self._n_steps, n_warmup=self._n_warmup)
                for group, peak in zip(self._optimizer.param_groups, self._peaks, strict=True):
                    group["lr"] = peak * factor
                targets = self._observed[rows].to(self._device)
                inputs = to_input(images, self._preprocessing, self._device)
                with self._autocast():
                    smoothing = self._recipe.label_smoothing
                    loss = cross_entropy(model(inputs), targets, label_smoothing=smoothing)
                value = float(loss.detach())
                if not math.isfinite(value):
                    where = f"in {what}, step {step + 1} of {self._n_steps}"
                    raise _not_finite("training loss", where, self._recipe, resume)
                self._optimizer.zero_grad(set_to_none=True)
                self._scaler.scale(loss).backward()
                self._scaler.step(self._optimizer)
                self._scaler.update()
                step += 1
                total += value * len(rows)
                done += len(rows)
                show(done, f"loss {total / done:.3f}")
        return total / done

    def _autocast(self) -> contextlib.AbstractContextManager[Any]:
        if not self._precision.is_on:
            return contextlib.nullcontext()
        return torch.autocast(self._device.type, dtype=self._precision.dtype)


def _optimizer(network: Network, recipe: ExtractRecipe) -> torch.optim.AdamW:
    head = {id(parameter) for parameter in network.classifier_parameters()}
    head_rate = recipe.head_learning_rate or recipe.learning_rate
    groups: dict[tuple[float, float], list[torch.nn.Parameter]] = {}
    for parameter in network.model.parameters():
        if parameter.requires_grad:
            rate = head_rate if id(parameter) in head else recipe.learning_rate
            # Biases and norms are vectors, and shrinking them only hurts (as in timm).
            decay = 0.0 if parameter.ndim <= 1 else recipe.weight_decay
            groups.setdefault((rate, decay), []).append(parameter)
    # The backbone first, whose rate the history tells; a dict keeps the order of first sight.
    return torch.optim.AdamW(
        [
            {"params": parameters, "lr": rate, "weight_decay": decay}
            for (rate, decay), parameters in groups.items()
        ]
    )


def _restore(run: _Run, resume: Path, identity: str, progress: Progress) -> None:
    if not resume.is_file():
        return
    try:
        state = torch.load(resume, map_location="cpu", weights_only=True)
        if state["identity"] != identity:
            progress.say(
                f"{resume} is of another recipe or manifest; training starts anew and replaces it."
            )
            return
    except Exception as error:
        progress.say(f"{resume} cannot be read ({error}); training starts anew.")
        return
    run.restore(state)
    progress.say(f"Going on after epoch {run.epoch} of {run._recipe.epochs}, from {resume}.")


def _not_finite(what: str, where: str, recipe: ExtractRecipe, resume: Path) -> TrustqError:
    kept = (
        f"\nThe state after the last whole epoch is kept in {resume}." if resume.is_file() else ""
    )
    amp = ", or --set amp=off" if recipe.amp != "off" else ""
    return TrustqError(
        f"The {what} is not finite {where}: the training has diverged.\n"
        f"Try a lower rate, e.g. --set learning_rate={recipe.learning_rate / 10:g}, a longer "
        f"warm-up{amp}.{kept}"
    )
