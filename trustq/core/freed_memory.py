"""What the C library does with memory that a process frees."""

import ctypes
import os

_TRIM_THRESHOLD, _TOP_PAD, _MMAP_THRESHOLD, _MMAP_MAX = -1, -2, -3, -4  # parameters of mallopt(3)
_LARGEST_THRESHOLD = 1 << 25  # bytes: glibc takes no more


def keep_freed_memory(*, most_bytes: int | None = None) -> bool:
    """Keep what this process frees for what it needs next; whether its C library can.

    glibc gives blocks of some MB back at once, and what comes next gets new pages that the kernel
    fills with zeros first: a third of the processor time of a small network on a CPU, and of
    decoding and resizing a photo. With `most_bytes` only about as many are kept of each thread, and
    blocks above 32 MiB are given back. Whoever set `MALLOC_` variables has decided otherwise.
    Linux with glibc, mallopt(3).
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if os.name == "posix" else None
    if mallopt is None or any(name.startswith("MALLOC_") for name in os.environ):
        return False
    asked: tuple[tuple[int, int], ...]
    if most_bytes is None:
        # Without maps of their own, large blocks come from the heap, whose end is kept as well.
        asked = ((_MMAP_MAX, 0), (_TRIM_THRESHOLD, 2**31 - 1), (_TOP_PAD, 1 << 26))
    else:
        largest = min(most_bytes, _LARGEST_THRESHOLD)
        asked = ((_MMAP_THRESHOLD, largest), (_TRIM_THRESHOLD, most_bytes))
    return all(mallopt(parameter, value) == 1 for parameter, value in asked)
