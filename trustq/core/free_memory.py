"""How much memory this process may still take."""

import os
from pathlib import Path


def free_memory() -> float:
    """Bytes that this process may still take: by the machine, its control group and its limits."""
    return min(_available(), left_of_limits())


def left_of_limits() -> float:
    """Bytes that this process may still take by its limits and its control group; inf: any."""
    return max(0.0, min(_left("DATA", "VmData"), _left("AS", "VmSize"), *_left_in_groups()))


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


def _left(kind: str, used: str) -> float:
    """Bytes to a limit of the process (`ulimit -d`, `-v`), whose use the system tells by a name."""
    try:
        import resource

        limit = resource.getrlimit(getattr(resource, f"RLIMIT_{kind}"))[0]
        if limit == resource.RLIM_INFINITY:
            return float("inf")
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith(f"{used}:"):
                return limit - float(line.split()[1]) * 1024
    except (ImportError, OSError):
        pass  # a system without limits, or one that does not tell what is used
    return float("inf")


def _left_in_groups(
    groups: Path = Path("/proc/self/cgroup"), root: Path = Path("/sys/fs/cgroup")
) -> list[float]:
    """Bytes to the limits of the control groups that hold this process, of either version.

    In a container the group itself is what lies at the root.
    """
    try:
        lines = groups.read_text().splitlines()
    except OSError:
        return []
    found = []
    for line in lines:
        kinds, own = line.split(":", 2)[1:]
        top, names = root, _VERSION_2
        if kinds:
            top, names = root / "memory", _VERSION_1
        if kinds and "memory" not in kinds.split(","):
            continue
        folder = top / own.strip("/")
        places = [folder, *folder.parents]
        found += [_left_in(place, *names) for place in places[: places.index(top) + 1]]
    return found


# Files of a group with its limit and its use, and what its statistics call pages of files.
_VERSION_1 = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_cache")
_VERSION_2 = ("memory.max", "memory.current", "file")
_NO_LIMIT = 1 << 60  # the first version has a number for it


def _left_in(folder: Path, limit: str, used: str, of_files: str) -> float:
    try:
        most = (folder / limit).read_text().strip()
        if most == "max" or int(most) >= _NO_LIMIT:
            return float("inf")
        kept = dict(map(str.split, (folder / "memory.stat").read_text().splitlines()))
        # Pages of files go when others need the room.
        return float(int(most) - int((folder / used).read_text()) + int(kept.get(of_files, 0)))
    except (OSError, ValueError):
        return float("inf")
