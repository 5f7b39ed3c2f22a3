"""The device that a run computes on, and the number type it trains in."""

from dataclasses import dataclass

import torch

from trustq.core.freed_memory import keep_freed_memory
from trustq.errors import InputError, TrustqError

DEVICES = ("auto", "cpu", "cuda", "mps")


def choose_device(name: str, *, index: int | None = None) -> torch.device:
    """The device of that name, or with `auto` the fastest there is.

    `index` is the GPU of this process, where a launcher started several. Raises `TrustqError` where
    the device is unknown or not there.
    """
    there = {
        "cuda": torch.cuda.is_available(),
        "mps": torch.backends.mps.is_available(),
        "cpu": True,
    }
    if name == "auto":
        name = next(device for device, is_there in there.items() if is_there)
    if name not in there:
        raise InputError(
            f"`device={name}`: expected one of {', '.join(DEVICES)}.",
            where="device",
            found=name,
            expected=DEVICES,
        )
    if not there[name]:
        found = ", ".join(device for device, is_there in there.items() if is_there)
        raise TrustqError(
            f"`device={name}`: torch {torch.__version__} finds none here, only {found}.\n"
            "Leave `device` out to take the fastest there is, or install a torch build for it.",
            where="device",
            found=name,
        )
    # Float32 convolutions on CUDA are TF32 by default, with 10 bits: cached features would differ
    # from one machine to the next.
    torch.backends.cudnn.allow_tf32 = False
    if name == "cuda" and index is not None:
        if index >= (n_gpus := torch.cuda.device_count()):
            raise TrustqError(
                f"Process {index} of this machine has no GPU of its own: there are {n_gpus}. Start "
                f"as many processes as GPUs, e.g. torchrun --nproc-per-node {n_gpus}."
            )
        return torch.device(name, index)
    if name == "cpu":
        keep_freed_memory()
    return torch.device(name)


@dataclass(frozen=True)
class MixedPrecision:
    """How a training step computes: in `dtype` where it is not float32, scaled where that is half.

    Validation and the dump are float32 always, so that a cached logit is what validation saw.
    """

    dtype: torch.dtype

    @classmethod
    def of_recipe(cls, amp: str, device: torch.device) -> "MixedPrecision":
        """As the recipe says; auto is mixed on CUDA, as elsewhere it gains little or is not whole.

        Raises `TrustqError` for bf16 on a GPU that lacks it.
        """
        if amp == "off" or (amp == "auto" and device.type != "cuda"):
            return cls(torch.float32)
        if amp == "fp16":
            return cls(torch.float16)
        lacks_bf16 = device.type == "cuda" and not torch.cuda.is_bf16_supported()
        if amp == "bf16" and lacks_bf16:
            raise TrustqError("amp=bf16: this GPU has no bfloat16. Use `amp=fp16`, or auto.")
        return cls(torch.float16 if lacks_bf16 else torch.bfloat16)

    @property
    def is_on(self) -> bool:
        """Whether steps compute in less than float32."""
        return self.dtype != torch.float32

    @property
    def needs_scaler(self) -> bool:
        """Whether gradients would underflow without a scaler."""
        return self.dtype == torch.float16


def is_compiler_error(error: Exception) -> bool:
    """Whether torch.compile failed, rather than what it compiled."""
    from torch._dynamo.exc import TorchDynamoException

    return isinstance(error, TorchDynamoException)
