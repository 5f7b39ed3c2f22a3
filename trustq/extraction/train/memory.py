"""Batches that fit into a device's memory, and what to say of those that do not."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import torch
from torch.nn.functional import cross_entropy

from trustq.errors import TrustqError
from trustq.extraction.train.device import MixedPrecision
from trustq.extraction.train.weights import Network
from trustq.recipes import ExtractRecipe

_LEAST = 2  # batch norm needs two
_TOLD = ("out of memory", "not enough memory", "can't allocate memory")


def fitting(recipe: ExtractRecipe, network: Network, device: torch.device) -> ExtractRecipe:
    """The recipe with its batches halved until a step fits, and as many more of them a step.

    A step then sees as many images as before; only batch norm and the draws of mixing notice.
    Raises `TrustqError` where not even two images fit.
    """
    batch_size = recipe.batch_size
    while not fits(recipe, network, device, batch_size=batch_size):
        if batch_size // 2 < _LEAST:
            raise TrustqError(
                f"Not even {batch_size} images of {recipe.image_size} pixels fit through "
                f"{recipe.backbone} in the memory of {device.type}. Take smaller images "
                "(`image_size`), a smaller backbone, or train fewer layers "
                "(`trained_stages=1`)."
            )
        batch_size //= 2
    accumulate = round(recipe.accumulate * recipe.batch_size / batch_size)
    return replace(recipe, batch_size=batch_size, accumulate=accumulate)


@contextmanager
def explained(recipe: ExtractRecipe, network: Network, device: torch.device) -> Iterator[None]:
    """Tell of a device that ran out of memory with the batch that fits by halving."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
    else:
        return
    # Behind the handler, for its traceback holds the tensors that filled the memory.
    network.model.zero_grad(set_to_none=True)
    smaller = fitting(
        replace(recipe, batch_size=max(recipe.batch_size // 2, _LEAST)), network, device
    )
    more = round(recipe.accumulate * recipe.batch_size / smaller.batch_size)
    raise TrustqError(
        f"{device.type} ran out of memory with batches of {recipe.batch_size} images of "
        f"{recipe.image_size} pixels. {smaller.batch_size} fit; with "
        f"`batch_size={smaller.batch_size}` and `accumulate={more}` a step is as large as before, "
        "and `auto_batch` finds that out by itself. A training with other batches starts anew."
    )


@contextmanager
def explained_dump(backbone: str, size: int, device: torch.device) -> Iterator[None]:
    """Tell of a device that ran out of memory while features are taken, whose block is fixed."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        raise TrustqError(
            f"{device.type} ran out of memory taking features of images of {size} pixels with "
            f"{backbone}. Take smaller images (`image_size`) or a smaller backbone, or give the "
            "same command with `device=cpu`. What was trained is kept."
        ) from error


def fits(recipe: ExtractRecipe, network: Network, device: torch.device, *, batch_size: int) -> bool:
    """Whether one training step on blank images of that batch size fits into memory."""
    model = network.model
    buffers = {name: buffer.clone() for name, buffer in model.named_buffers()}
    precision = MixedPrecision.of_recipe(recipe.amp, device)
    try:
        # What AdamW keeps of each parameter, which a first step does not have yet.
        kept = [torch.empty_like(p) for p in model.parameters() for _ in range(2)]
        size = recipe.image_size
        images = torch.zeros(batch_size, 3, size, size, device=device)
        targets = torch.zeros(batch_size, dtype=torch.int64, device=device)
        model.train()
        with torch.autocast(device.type, dtype=precision.dtype, enabled=precision.is_on):
            loss = cross_entropy(model(images), targets)
        loss.backward()
        del kept
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        return False
    finally:
        model.zero_grad(set_to_none=True)
        for name, buffer in model.named_buffers():
            buffer.copy_(buffers[name])
        if device.type == "cuda":
            torch.cuda.empty_cache()
    return True


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error of torch says that memory was short, on whichever device."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and any(text in str(error).lower() for text in _TOLD)
