"""Tensors of torch files (.pt, .pth) as arrays, by torch's own safe loader."""

from pathlib import Path
from typing import Any

import numpy as np

from trustq.errors import InputError, MissingExtra


def read_tensors(path: Path) -> dict[str, np.ndarray]:
    """Arrays of a file that `torch.save` wrote of one tensor (`features`) or a dict of tensors.

    Lists of numbers and texts are arrays too; dicts within the dict are `outer/inner`. Raises
    `TrustqError` where torch is absent, and for files that hold anything but tensors and plain
    values, which could run code.
    """
    try:
        import torch
    except ModuleNotFoundError as error:
        raise MissingExtra(
            f"{path} can be read where torch is installed only. Save the arrays elsewhere as npz: "
            "np.savez('e.npz', features=features.numpy(), labels=labels.numpy())"
        ) from error
    try:
        loaded = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises what its unpickler stumbles over
        raise InputError(
            f"{path} is no whole torch file of tensors and plain values (pickled objects are not "
            "loaded). Save a dict of tensors: torch.save({'features': features, 'labels': labels}, "
            f"{path.name!r})."
        ) from error
    if isinstance(loaded, torch.Tensor):
        return {"features": _array(loaded)}
    if not isinstance(loaded, dict):
        raise InputError(
            f"{path} holds a {type(loaded).__name__}, so what is what is not known: save a dict, "
            f"torch.save({{'features': features, 'labels': labels}}, {path.name!r})."
        )
    return _flat(loaded, "")


def _flat(loaded: dict[Any, Any], before: str) -> dict[str, np.ndarray]:
    found: dict[str, np.ndarray] = {}
    for key, value in loaded.items():
        name = f"{before}{key}"
        if isinstance(value, dict):
            found |= _flat(value, f"{name}/")
        elif hasattr(value, "detach"):
            found[name] = _array(value)
        elif isinstance(value, list | tuple) and all(
            isinstance(own, str | int | float) for own in value
        ):
            found[name] = np.array(value)
    return found


def _array(tensor: Any) -> np.ndarray:
    tensor = tensor.detach()
    if tensor.is_sparse or tensor.is_quantized:
        tensor = tensor.to_dense() if tensor.is_sparse else tensor.dequantize()
    if tensor.is_floating_point() and tensor.element_size() < 4:
        tensor = tensor.float()  # numpy has no bfloat16
    return np.asarray(tensor.cpu().resolve_conj().resolve_neg().numpy())
