"""Fine-tune a network on observed labels, and go on from the last finished epoch after a stop.

Every draw (shuffling, augmentation, dropout) comes from (seed, purpose, epoch, row), so a resumed
run needs no generator state and equals one that was never stopped.
"""

import contextlib
import math
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from timm.utils.model_ema import ModelEmaV3

from trustq.core.atomic_files import replacing
from trustq.core.generators import generator
from trustq.data.manifest import Manifest
from trustq.errors import TrustqError
from trustq.extraction.dump.cache_dump import evaluate
from trustq.extraction.inputs.augment import Augmentation
from trustq.extraction.inputs.images import Feed, TrainingBatches, evaluation_batches
from trustq.extraction.inputs.mixing import Mixing
from trustq.extraction.inputs.sampling import sampling_weights
from trustq.extraction.train.device import MixedPrecision, is_compiler_error
from trustq.extraction.train.epoch_logits import EpochLogits
from trustq.extraction.train.losses import make_loss
from trustq.extraction.train.optimizer import (
    freeze_stages,
    learning_rate_factor,
    make_optimizer,
    to_training_mode,
)
from trustq.extraction.train.progress import Progress
from trustq.extraction.train.selection import (
    BY_LOSS,
    best_epoch,
    criterion_of,
    judging_labels,
)
from trustq.extraction.train.stored_draws import FrozenStages, StoredDraws
from trustq.extraction.train.teacher import Teacher
from trustq.extraction.train.weights import Network
from trustq.recipes import ExtractRecipe

EVALUATION_BATCH = 64


@dataclass
class History:
    """Figures of each finished epoch; validation figures are NaN without validation rows.

    The last four are there only where the kept epoch is chosen by them.
    """

    epoch: list[int] = field(default_factory=list)  # from 1
    train_loss: list[float] = field(default_factory=list)
    val_loss: list[float] = field(default_factory=list)  # without label smoothing
    val_accuracy: list[float] = field(default_factory=list)
    learning_rate: list[float] = field(default_factory=list)  # of the backbone, at the end
    val_macro_f1: list[float] = field(default_factory=list)
    val_macro_auroc: list[float] = field(default_factory=list)
    val_ece: list[float] = field(default_factory=list)
    val_auroc_f1: list[float] = field(default_factory=list)  # the sum of both

    @property
    def arrays(self) -> dict[str, np.ndarray]:
        """The figures that were taken, by name."""
        return {name: np.array(values) for name, values in asdict(self).items() if values}


@dataclass
class Trained:
    """What training leaves besides the network's weights."""

    history: History
    seconds: float


@dataclass(frozen=True)
class TrainingSet:
    """What a network learns from: the rows whose `observed` label, (n,), is not -1.

    `validation` holds positions of rows that judge each epoch, by their reference labels unless the
    recipe puts noise on these; a `teacher` has its part in the loss.
    """

    manifest: Manifest
    observed: np.ndarray
    validation: np.ndarray
    teacher: Teacher | None = None


@dataclass(frozen=True)
class State:
    """Where a training's state is kept after each epoch, and the digest of what it is of."""

    path: Path
    identity: str


def train(
    network: Network,
    training_set: TrainingSet,
    *,
    recipe: ExtractRecipe,
    seed: int,
    feed: Feed,
    state: State,
    epoch_logits: EpochLogits | None = None,
) -> Trained:
    """Train a network as a recipe says; the chosen weights stay in place.

    After each epoch the state is kept; one of the same identity that is there is gone on from.
    `epoch_logits` keeps what each step gave for its rows. Raises `TrustqError` for a loss that is
    not finite and for images that cannot be decoded.
    """
    progress = feed.progress
    stored = state.path.with_suffix(".stored")
    run = _Run(
        network,
        training_set,
        recipe=recipe,
        seed=seed,
        feed=feed,
        epoch_logits=epoch_logits,
        stored=stored,
    )
    _restore(run, state, progress)
    try:
        while not run.is_done:
            started = time.monotonic()
            run.one_epoch(state.path)
            run.seconds += time.monotonic() - started
            with replacing(state.path) as part:
                torch.save({"identity": state.identity, **run.state()}, part)
            progress.say(run.last_line())
    finally:
        run.close()
    title = run.criterion.title
    if run.epoch < recipe.epochs:
        better = "higher" if run.criterion.highest else "lower"
        progress.say(f"Stopped early: {recipe.patience} epochs without a {better} {title}.")
    if recipe.checkpoint != "last":
        network.model.load_state_dict(run.best_state)
        best = "highest" if run.criterion.highest else "lowest"
        progress.say(f"Kept epoch {run.best_epoch}, which has the {best} {title}.")
    elif run.judged is not network:
        network.model.load_state_dict(run.judged.model.state_dict())
    return Trained(run.history, run.seconds)


class _Run:
    """One training under way: everything that changes from epoch to epoch."""

    def __init__(
        self,
        network: Network,
        training_set: TrainingSet,
        *,
        recipe: ExtractRecipe,
        seed: int,
        feed: Feed,
        epoch_logits: EpochLogits | None,
        stored: Path,
    ) -> None:
        self._network = network
        self.epoch_logits = epoch_logits
        self._teacher = training_set.teacher
        self._model: Any = network.model
        self._recipe = recipe
        self._seed = seed
        self._feed = feed
        self._read_rows(training_set)
        freeze_stages(network, recipe.trained_stages)
        self._stages: FrozenStages | None = None
        self._stored: StoredDraws | None = None
        if recipe.stored_draws:
            self._stages = FrozenStages(network.model, size=feed.preprocessing.size)
            self._stored = StoredDraws(
                self._stages,
                training_set.manifest,
                self._train_rows,
                n_draws=recipe.stored_draws,
                augmentation=Augmentation.of_recipe(recipe, seed),
                feed=feed,
                path=stored,
            )
        self._make_optimizer()
        if recipe.compile:
            self._model = torch.compile(network.model)
        self.epoch = 0  # finished epochs
        self.history = History()
        self.best_epoch = 0
        self.best_state: dict[str, torch.Tensor] = {}
        self.seconds = 0.0

    def _read_rows(self, training_set: TrainingSet) -> None:
        """The rows and labels of training and validation, their images, and the loss."""
        recipe, manifest = self._recipe, training_set.manifest
        observed = training_set.observed
        self._observed = torch.from_numpy(observed.astype(np.int64))
        self._train_rows = np.flatnonzero(observed >= 0)
        self._val_rows = training_set.validation
        self._labels = manifest.label_indices.astype(np.int64)
        labels = observed[self._train_rows]
        self._batches = TrainingBatches(
            self._train_rows,
            batch_size=recipe.batch_size,
            seed=self._seed,
            weights=sampling_weights(manifest, self._train_rows, labels, recipe=recipe),
        )
        augmentation = Augmentation.of_recipe(recipe, self._seed)
        self._train_images = self._feed.images(manifest, self._batches, augmentation=augmentation)
        judged = evaluation_batches(self._val_rows, batch_size=EVALUATION_BATCH)
        self._val_images = self._feed.images(manifest, judged)
        n_classes = len(manifest.classes)
        counts = torch.from_numpy(np.bincount(labels, minlength=n_classes))
        self._loss = make_loss(recipe, counts.to(self._feed.device))
        self._mixing = Mixing.of_recipe(recipe, n_classes=n_classes, seed=self._seed)
        self._judging = judging_labels(
            self._labels[self._val_rows],
            recipe=recipe,
            classes=manifest.classes,
            seed=self._seed,
        )
        self._labels[self._val_rows] = self._judging.labels
        self.criterion = criterion_of(recipe.checkpoint, self._judging.labels)

    def _make_optimizer(self) -> None:
        """The optimizer with its steps, rates, precision and average of weights."""
        recipe, network, device = self._recipe, self._network, self._feed.device
        self._optimizer = make_optimizer(network, recipe)
        self._trained = [p for group in self._optimizer.param_groups for p in group["params"]]
        self._peaks = [group["lr"] for group in self._optimizer.param_groups]
        self._rate = 0.0  # of the backbone's last layer, at the last step
        self._precision = MixedPrecision.of_recipe(recipe.amp, device)
        self._scaler = torch.amp.GradScaler(device.type, enabled=self._precision.needs_scaler)
        # Warmed up, for an average that starts from an untrained head would carry it for long.
        self._average = (
            ModelEmaV3(network.model, decay=recipe.ema, use_warmup=True) if recipe.ema else None
        )
        self.judged = (
            replace(network, model=self._average.module) if self._average is not None else network
        )
        self._steps_per_epoch = math.ceil(len(self._batches) / recipe.accumulate)
        self._n_steps = recipe.epochs * self._steps_per_epoch
        # A run of one epoch warms up for half of it rather than never to arrive.
        self._n_warmup = min(recipe.warmup_epochs * self._steps_per_epoch, self._n_steps // 2)

    @property
    def is_done(self) -> bool:
        """Whether the last epoch was reached, or none was better for too long."""
        patience = self._recipe.patience
        waited = self.epoch - self.best_epoch
        return self.epoch >= self._recipe.epochs or (patience > 0 and waited >= patience)

    def one_epoch(self, resume: Path) -> None:
        """Train for one epoch, validate, and remember the weights if they are the best."""
        self._batches.epoch = self.epoch
        # Dropout and stochastic depth draw from torch's own generator.
        torch.manual_seed(int(generator(self._seed, "torch", self.epoch).integers(2**63)))
        what = f"epoch {self.epoch + 1}/{self._recipe.epochs}"
        train_loss = self._train_images_once(what, resume)
        val_loss = val_accuracy = math.nan
        if len(self._val_rows):
            val_loss, val_accuracy, logits = evaluate(
                self.judged,
                self._val_images,
                self._labels,
                feed=self._feed,
            )
            if self._judging.matrix is not None:
                val_loss = self._judging.figure(BY_LOSS, logits)
            if self.epoch_logits is not None:
                self.epoch_logits.add(self.epoch, self._val_rows, torch.from_numpy(logits))
                self.epoch_logits.end()
            if not math.isfinite(val_loss):
                raise _not_finite("validation loss", f"after {what}", self._recipe, resume)
        self.epoch += 1
        self.history.epoch.append(self.epoch)
        self.history.train_loss.append(train_loss)
        self.history.val_loss.append(val_loss)
        self.history.val_accuracy.append(val_accuracy)
        self.history.learning_rate.append(self._rate)
        figures: list[float] = getattr(self.history, self.criterion.figure)
        if self.criterion.figure != "val_loss":
            figures.append(self._judging.figure(self.criterion, logits))
        self.best_epoch = best_epoch(figures, highest=self.criterion.highest)
        if self.best_epoch == self.epoch and self._recipe.checkpoint != "last":
            self.best_state = {
                name: tensor.detach().cpu().clone()
                for name, tensor in self.judged.model.state_dict().items()
            }

    def close(self) -> None:
        """Delete what was stored for the epochs."""
        if self._stored is not None:
            self._stored.close()

    def last_line(self) -> str:
        """The last epoch in a line."""
        figures = {name: values[-1] for name, values in self.history.arrays.items()}
        line = f"epoch {self.epoch}/{self._recipe.epochs}: train loss {figures['train_loss']:.4f}"
        if len(self._val_rows):
            line += f", val loss {figures['val_loss']:.4f}, accuracy {figures['val_accuracy']:.4f}"
            if self.criterion.figure in figures and self.criterion.figure != "val_loss":
                line += f", {self.criterion.title.removeprefix('validation ')} "
                line += f"{figures[self.criterion.figure]:.4f}"
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
            "average": self._average.module.state_dict() if self._average is not None else {},
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
        if self._average is not None:
            self._average.module.load_state_dict(state["average"])
        self.epoch = state["epoch"]
        self.best_epoch = state["best_epoch"]
        self.best_state = state["best_state"]
        self.history = History(**state["history"])
        self.seconds = state["seconds"]

    def _train_images_once(self, what: str, resume: Path) -> float:
        to_training_mode(self._network.model)
        if self.epoch_logits is not None:
            self.epoch_logits.begin(self.epoch)
        total, done = 0.0, 0
        step = self.epoch * self._steps_per_epoch
        shares = _shares_of_steps(self._batches.sizes, self._recipe.accumulate)
        if self._stored is not None:
            self._stored.prepare(self.epoch)
        with self._feed.progress.images(what, len(self._train_rows)) as show:
            for batch, (rows, inputs) in enumerate(self._inputs()):
                if batch % self._recipe.accumulate == 0:
                    self._start_step(step)
                targets = self._observed[rows].to(self._feed.device)
                if self._mixing is not None:
                    inputs, targets = self._mixing(inputs, targets, epoch=self.epoch, batch=batch)
                with self._autocast():
                    logits = self._forward(inputs)
                    loss = self._loss(logits, targets)
                    if self._teacher is not None:
                        loss = self._teacher.loss(loss, logits, rows)
                if self.epoch_logits is not None:
                    self.epoch_logits.add(self.epoch, rows, logits)
                value = float(loss.detach())
                if not math.isfinite(value):
                    where = f"in {what}, step {step + 1} of {self._n_steps}"
                    raise _not_finite("training loss", where, self._recipe, resume)
                self._scaler.scale(loss * shares[batch]).backward()
                if (batch + 1) % self._recipe.accumulate == 0 or batch + 1 == len(shares):
                    step += 1
                    self._finish_step(step)
                total += value * len(rows)
                done += len(rows)
                show(done, f"loss {total / done:.3f}, rate {self._rate:.2g}")
        if self.epoch_logits is not None:
            self.epoch_logits.end()
        return total / done

    def _inputs(self) -> Iterator[tuple[np.ndarray, torch.Tensor]]:
        """Rows of each batch, and images or what the frozen stages gave for them."""
        if self._stored is None:
            for rows, images in self._train_images:
                yield rows, self._feed.to_input(images)
            return
        for keys in self._batches:
            rows = np.array([row for _, row in keys])
            yield rows, self._stored(rows, self.epoch)

    def _forward(self, inputs: torch.Tensor) -> torch.Tensor:
        if self._stages is not None:
            with self._stages.left_out():
                logits: torch.Tensor = self._model(inputs)
            return logits
        try:
            logits = self._model(inputs)
        except RuntimeError as error:
            if not self._recipe.compile or not is_compiler_error(error):
                raise
            raise TrustqError(
                f"torch.compile cannot compile {self._recipe.backbone} here: "
                f"{str(error).strip().splitlines()[0]}\nTrain without it: `compile=false`."
            ) from error
        return logits

    def _start_step(self, step: int) -> None:
        factor = learning_rate_factor(step, n_steps=self._n_steps, n_warmup=self._n_warmup)
        for group, peak in zip(self._optimizer.param_groups, self._peaks, strict=True):
            group["lr"] = peak * factor
        self._rate = self._recipe.learning_rate * factor
        self._optimizer.zero_grad(set_to_none=True)

    def _finish_step(self, n_done: int) -> None:
        if self._recipe.clip_norm:
            self._scaler.unscale_(self._optimizer)
            torch.nn.utils.clip_grad_norm_(self._trained, self._recipe.clip_norm)
        self._scaler.step(self._optimizer)
        self._scaler.update()
        if self._average is not None:
            self._average.update(self._network.model, step=n_done)

    def _autocast(self) -> contextlib.AbstractContextManager[Any]:
        if not self._precision.is_on:
            return contextlib.nullcontext()
        return torch.autocast(self._feed.device.type, dtype=self._precision.dtype)


def _shares_of_steps(sizes: list[int], accumulate: int) -> list[float]:
    """Share of each batch in its step, so that the step's loss is the mean over all its rows."""
    shares = []
    for start in range(0, len(sizes), accumulate):
        together = sizes[start : start + accumulate]
        shares += [size / sum(together) for size in together]
    return shares


def _restore(run: _Run, kept: State, progress: Progress) -> None:
    resume = kept.path
    if not resume.is_file():
        return
    try:
        state = torch.load(resume, map_location="cpu", weights_only=True)
        if state["identity"] != kept.identity:
            progress.say(
                f"{resume} is of another recipe or manifest; training starts anew and replaces it."
            )
            return
    except Exception as error:
        progress.say(f"{resume} cannot be read ({error}); training starts anew.")
        return
    if run.epoch_logits is not None and not run.epoch_logits.has(state["epoch"]):
        progress.say(
            f"{run.epoch_logits.path}, the logits of earlier epochs, is not there as {resume} left "
            "it; training starts anew."
        )
        return
    run.restore(state)
    progress.say(f"Going on after epoch {run.epoch} of {run._recipe.epochs}, from {resume}.")


def _not_finite(what: str, where: str, recipe: ExtractRecipe, resume: Path) -> TrustqError:
    kept = (
        f"\nThe state after the last whole epoch is kept in {resume}." if resume.is_file() else ""
    )
    amp = ", or `amp=off`" if recipe.amp != "off" else ""
    return TrustqError(
        f"The {what} is not finite {where}: the training has diverged.\n"
        f"Try a lower rate, e.g. `learning_rate={recipe.learning_rate / 10:g}`, a longer "
        f"warm-up{amp}.{kept}"
    )
