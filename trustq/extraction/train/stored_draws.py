"""Frozen leading stages run once: what they give is stored, and epochs train on what is stored.

A stage whose parameters and statistics never change gives the same output for the same pixels. With
`stored_draws` = K an image has K augmented forms, epoch e shows form e mod K, and the frozen stages
see each form once. On a CPU the early stages, at high resolution, are most of a step.
"""

import contextlib
import math
from collections.abc import Iterator
from itertools import takewhile
from pathlib import Path
from typing import Any

import numpy as np
import torch

from trustq.core.scratch import claim
from trustq.data.manifest import Manifest
from trustq.errors import InputError, TrustqError
from trustq.extraction.inputs.augment import Augmentation
from trustq.extraction.inputs.images import Feed

_BLOCK = 64
_LISTS = (torch.nn.Sequential, torch.nn.ModuleList)


class FrozenStages:
    """The leading modules of a network that are frozen whole, and how to run without them.

    Raises `TrustqError` where nothing leads that is frozen, and where the network is no chain of
    modules there (a transformer adds positions between), found by trying both ways on one image.
    """

    def __init__(self, model: torch.nn.Module, *, size: int) -> None:
        parameter = next(model.parameters())
        blank = torch.linspace(-1, 1, 3 * size * size, device=parameter.device)
        blank = blank.view(1, 3, size, size)
        was_training = model.training
        model.eval()
        called = _called(model, blank)
        self._chain = list(takewhile(lambda place: not _is_trained(_at(place)), called))
        if not self._chain:
            raise InputError(
                "stored_draws keeps what frozen leading stages give, and nothing that is frozen "
                "leads here. Freeze stages with `trained_stages`, or leave stored_draws out.",
                where="stored_draws",
            )
        with torch.inference_mode():
            whole = model(blank)
            try:
                stored = self(blank)
                with self.left_out():
                    apart = model(stored)
                same = torch.equal(whole, apart)
            except (RuntimeError, TypeError, ValueError):
                same = False
        if not same:
            raise InputError(
                "stored_draws: the frozen stages of this backbone cannot be run apart from the "
                "rest (more than a chain of modules leads there). Leave stored_draws out.",
                where="stored_draws",
            )
        self.shape = tuple(stored.shape[1:])  # (c, h, w)
        model.train(was_training)

    def __call__(self, inputs: torch.Tensor) -> torch.Tensor:
        """What the frozen stages give, (b, c, h, w), for inputs (b, 3, size, size)."""
        for place in self._chain:
            inputs = _at(place)(inputs)
        return inputs

    @contextlib.contextmanager
    def left_out(self) -> Iterator[None]:
        """Inside, the model takes what the frozen stages give in place of images."""
        kept = [_at(place) for place in self._chain]
        for parent, name in self._chain:
            parent._modules[name] = torch.nn.Identity()
        try:
            yield
        finally:
            for (parent, name), module in zip(self._chain, kept, strict=True):
                parent._modules[name] = module


class StoredDraws:
    """What the frozen stages give for `n_draws` augmented forms of each row, float16 on disk.

    A form is computed when an epoch first asks for it, in blocks that depend on the rows alone, so
    that a run that goes on after a stop sees the same bits. The file is a working, deleted by
    `close`.
    """

    def __init__(
        self,
        stages: FrozenStages,
        manifest: Manifest,
        rows: np.ndarray,
        *,
        n_draws: int,
        augmentation: Augmentation,
        feed: Feed,
        path: Path,
    ) -> None:
        self._stages = stages
        self._rows = rows
        self._place = np.full(len(manifest), -1)
        self._place[rows] = np.arange(len(rows))
        self._feed = feed
        self._path = path
        self._filled: set[int] = set()
        self._n_draws = n_draws
        channels, height, width = stages.shape
        shape = (n_draws, len(rows), height, width, channels)
        size = 2 * math.prod(shape)
        path.unlink(missing_ok=True)
        try:
            with open(path, "wb") as file:
                claim(file, size)
            self._values = np.memmap(path, dtype=np.float16, mode="r+", shape=shape)
        except OSError as error:
            path.unlink(missing_ok=True)
            raise TrustqError(
                f"{path}: {size / 1e9:,.1f} GB for stored_draws={n_draws} cannot be had there "
                f"({error.strerror}). Ask for fewer draws, or make room."
            ) from error
        self._batches = _Draw(rows)
        self._images = feed.images(manifest, self._batches, augmentation=augmentation)

    @property
    def n_bytes(self) -> int:
        """Size of the file when all forms are there."""
        return int(self._values.nbytes)

    def prepare(self, epoch: int) -> None:
        """Compute the form of an epoch unless it is there.

        Raises `TrustqError` for an output that float16 cannot hold and an image that cannot be
        decoded.
        """
        draw = epoch % self._n_draws
        if draw in self._filled:
            return
        self._batches.draw = draw
        label = f"frozen stages, form {draw + 1}/{self._n_draws}"
        done = 0
        with self._feed.progress.images(label, len(self._rows)) as show, torch.inference_mode():
            for rows, images in self._images:
                values = self._stages(self._feed.to_input(images)).half()
                if not bool(torch.isfinite(values).all()):
                    raise TrustqError(
                        "The frozen stages give values that float16 cannot hold. Train without "
                        "stored_draws."
                    )
                self._values[draw, self._place[rows]] = values.permute(0, 2, 3, 1).cpu().numpy()
                done += len(rows)
                show(done, "")
        self._filled.add(draw)

    def __call__(self, rows: np.ndarray, epoch: int) -> torch.Tensor:
        """The rows' stored values of that epoch's form, (b, c, h, w) of float32."""
        found = torch.from_numpy(self._values[epoch % self._n_draws, self._place[rows]])
        return found.to(self._feed.device).float().permute(0, 3, 1, 2)

    def close(self) -> None:
        """Delete the file."""
        self._path.unlink(missing_ok=True)


class _Draw:
    """Sampler of all rows in their order, in one form."""

    def __init__(self, rows: np.ndarray) -> None:
        self.draw = 0
        self._rows = rows.tolist()

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        for start in range(0, len(self._rows), _BLOCK):
            yield [(self.draw, row) for row in self._rows[start : start + _BLOCK]]

    def __len__(self) -> int:
        return -(-len(self._rows) // _BLOCK)


_Place = tuple[torch.nn.Module, str]  # a module's parent and its name there


def _at(place: _Place) -> Any:
    parent, name = place
    return parent._modules[name]


def _is_trained(module: torch.nn.Module) -> bool:
    return any(parameter.requires_grad for parameter in module.parameters())


def _called(model: torch.nn.Module, inputs: torch.Tensor) -> list[_Place]:
    """Places of the stages and of the modules around them in the order in which they are called."""
    places: list[_Place] = []
    for name, child in model.named_children():
        if isinstance(child, _LISTS) and len(child):
            places += [(child, inner) for inner, _ in child.named_children()]
        else:
            places.append((model, name))
    order: list[_Place] = []
    handles = [
        _at(place).register_forward_hook(lambda *_, place=place: order.append(place))
        for place in places
    ]
    try:
        with torch.inference_mode():
            model(inputs)
    finally:
        for handle in handles:
            handle.remove()
    return order
