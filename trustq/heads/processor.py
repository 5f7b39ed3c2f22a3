"""What vectors the processor at hand has."""

from functools import cache
from typing import NamedTuple

import numpy as np


class Shape(NamedTuple):
    """How wide a vector is on a processor, and how many sums of vectors its registers hold."""

    lanes: int
    sums: int


@cache
def shape_of(dtype: str) -> Shape:
    """That of the processor at hand."""
    import llvmlite.binding as llvm  # which takes 30 ms to load

    has = llvm.get_host_cpu_features()
    n_bytes, sums = 16, 12  # of 16 registers
    if has.get("avx512f"):
        n_bytes, sums = 64, 24  # of 32
    elif has.get("avx"):
        n_bytes = 32
    elif llvm.get_process_triple().startswith(("aarch64", "arm64")):
        sums = 24  # of 32; not all systems tell what such a processor has
    return Shape(n_bytes // np.dtype(dtype).itemsize, sums)
