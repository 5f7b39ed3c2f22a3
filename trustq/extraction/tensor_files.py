"""Tensors of torch files (.pt, .pth) as arrays, by torch's own safe loader."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from trustq.errors import InputError, MissingExtra


def read_tensors(path: Path) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """Arrays of a file that `torch.save` wrote of one tensor (`features`) or a dict of tensors.

    Lists of numbers, texts and None are arrays too, and so are lists of rows, one vector or one
    tensor each; dicts within the dict are `outer/inner`. Second are the names of lists that are no
    array, each with the reason. Raises `TrustqError` where torch is absent, and for files that hold
    anything but tensors and plain values, which could run code.
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
        return {"features": _array(loaded)}, {}
    if not isinstance(loaded, dict):
        raise InputError(
            f"{path} holds a {type(loaded).__name__}, so what is what is not known: save a dict, "
            f"torch.save({{'features': features, 'labels': labels}}, {path.name!r})."
        )
    found: dict[str, np.ndarray] = {}
    unread: dict[str, str] = {}
    for name, value in _named(loaded, ""):
        if isinstance(value, list | tuple):
            array, reason = _of_list(value)
            if array is None:
                unread[name] = reason
            else:
                found[name] = array
        elif hasattr(value, "detach"):
            found[name] = _array(value)
    return found, unread


def _named(loaded: dict[Any, Any], before: str) -> Iterator[tuple[str, Any]]:
    for key, value in loaded.items():
        name = f"{before}{key}"
        if isinstance(value, dict):
            yield from _named(value, f"{name}/")
        else:
            yield name, value


def _of_list(values: Sequence[Any]) -> tuple[np.ndarray | None, str]:
    """The array that a list is, or None and the reason."""
    if all(isinstance(own, str | int | float | None) for own in values):
        return np.array(values, dtype=object if None in values else None), ""
    rows = [_array(own) if hasattr(own, "detach") else own for own in values]
    try:
        array = np.array(rows)
    except ValueError:  # rows of several shapes
        array = np.zeros(0, dtype=object)
    if array.dtype.kind not in "biufU":
        return None, (
            "is a list of values that are not all alike: save one tensor, or a list of one number "
            "or text per row (parts are joined by torch.cat)"
        )
    if array.ndim > 2 and max(array.shape[1:-1]) > 1:
        return None, "is a list of matrices, such as batches: join them, e.g. by torch.cat"
    return array, ""


def _array(tensor: Any) -> np.ndarray:
    tensor = tensor.detach()
    if tensor.is_sparse or tensor.is_quantized:
        tensor = tensor.to_dense() if tensor.is_sparse else tensor.dequantize()
    if tensor.is_floating_point() and tensor.element_size() < 4:
        tensor = tensor.float()  # numpy has no bfloat16
    return np.asarray(tensor.cpu().resolve_conj().resolve_neg().numpy())
