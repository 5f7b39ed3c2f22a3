"""Find caches by path, folder or pattern, and open whatever can serve as one."""

import glob
from collections.abc import Sequence
from pathlib import Path

from trustq.core.foreign_files import kind_of
from trustq.core.foreign_rows import Names
from trustq.errors import InputError, NotFound
from trustq.store.arrays import has_statement
from trustq.store.exchange import import_cache
from trustq.store.format import SEAL, Cache
from trustq.store.read import read_cache

_HDF5 = b"\x89HDF\r\n\x1a\n"


def find_caches(patterns: Sequence[str | Path]) -> list[Path]:
    """Cache files under folders, matching patterns (`cache/*/ce/seed*.h5`) or named outright.

    Raises `TrustqError` for a pattern that matches nothing.
    """
    found: list[Path] = []
    for pattern in map(str, patterns):
        path = Path(pattern)
        if path.is_dir():
            matches = sorted(path.rglob("*.h5"))
        elif path.is_file():
            matches = [path]
        else:
            matches = sorted(map(Path, glob.glob(pattern, recursive=True)))
        # Hidden files are those of a writer at work.
        matches = [match for match in matches if not match.name.startswith(".")]
        if not matches:
            raise NotFound(
                f"No cache matches {pattern}. `trustq extract` makes caches, `trustq cache import` "
                "takes features from elsewhere."
            )
        found += [match for match in matches if match not in found]
    return found


def open_cache(path: Path, *, names: Names | None = None, normalize: str | None = None) -> Cache:
    """A cache file, verified; or a file of embeddings, as `import_cache` takes it.

    What trustq exported has the exposure it had, anything else an unknown one. `names` and
    `normalize` are of a file of embeddings. Raises `TrustqError` where they are given for a cache.
    """
    if is_foreign(Path(path)):
        return import_cache(path, names=names, normalize=normalize)
    if given := [*(names or {}), *(["normalize"] if normalize else [])]:
        raise InputError(
            f"{path} is a cache, whose arrays have names of their own: leave out "
            f"{', '.join(f'`{name}`' for name in given)}.",
            path=path,
        )
    return read_cache(path)


def is_cache(path: Path) -> bool:
    """Whether a file is a cache (.h5), or one that trustq exported as safetensors."""
    path = Path(path)
    if path.suffix.lower() == ".safetensors" and path.is_file():
        return has_statement(path)
    return not is_foreign(path)


def is_foreign(path: Path) -> bool:
    """Whether a file is read as one of another program, of features or predictions."""
    is_hdf5 = path.suffix.lower() in (".h5", ".hdf5")
    if not is_hdf5 and kind_of(path) is not None:
        return True
    if not path.is_file():
        return False
    with open(path, "rb") as file:
        start = file.read(len(SEAL))
    # A cache has its seal before the start of HDF5; a file of no known ending is one by it alone.
    return start.startswith(_HDF5) if is_hdf5 else start != SEAL
