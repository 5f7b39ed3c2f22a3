"""Arrays that may be larger than memory: on disk where they would not fit beside all else."""

import os
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

SHARE = 0.25  # of the memory that is free, what one array may take of it


def room_for(shape: tuple[int, ...], dtype: Any) -> np.ndarray:
    """An array to fill: in memory, or in a file that is gone with it where memory is short.

    The file lies in the folder for temporary files (`TMPDIR`), and the system writes its pages back
    and drops them as it needs memory; nothing else differs.

    >>> room_for((2, 3), np.float32).shape
    (2, 3)
    """
    n_bytes = int(np.prod(shape, dtype=np.int64)) * np.dtype(dtype).itemsize
    if n_bytes <= SHARE * free_memory():
        return np.empty(shape, dtype)
    with tempfile.TemporaryFile(prefix="trustq-") as file:
        return np.memmap(file, dtype, "w+", shape=shape).view(np.ndarray)


def free_memory() -> float:
    """Bytes that this process may still take: by the machine, its control group and its limits."""
    return max(0.0, min([_available(), _left_of_limit(), *_left_in_groups()]))


def _available() -> float:
    try:
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return float(line.split()[1]) * 1024
    except OSError:
        pass
    try:
        return float(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    except (AttributeError, ValueError, OSError):
        return float("inf")  # a system that does not say


def _left_of_limit() -> float:
    """Bytes of data to the limit of the process (`ulimit -d`)."""
    try:
        import resource

        limit = resource.getrlimit(resource.RLIMIT_DATA)[0]
        if limit == resource.RLIM_INFINITY:
            return float("inf")
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmData:"):
                return limit - float(line.split()[1]) * 1024
    except (ImportError, OSError):
        pass  # a system without limits, or one that does not tell what is used
    return float("inf")


def _left_in_groups() -> list[float]:
    """Bytes to the limits of the control groups that hold this process, the second version's."""
    try:
        places = Path("/proc/self/cgroup").read_text().splitlines()
    except OSError:
        return []
    own = next((line[3:] for line in places if line.startswith("0::")), None)
    found = []
    root = Path("/sys/fs/cgroup")
    folder = root / own.strip("/") if own else root
    while own and folder != root:
        try:
            limit = (folder / "memory.max").read_text().strip()
            if limit != "max":
                kept = dict(map(str.split, (folder / "memory.stat").read_text().splitlines()))
                used = int((folder / "memory.current").read_text())
                # Pages of files go when others need the room.
                found.append(float(int(limit) - used + int(kept.get("file", 0))))
        except (OSError, ValueError):
            pass
        folder = folder.parent
    return found
