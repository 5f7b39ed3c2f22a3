"""Images copied to a local disk first, for training reads each of them once an epoch."""

import os
import shutil
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

from trustq.core.counts import counted
from trustq.core.digest import digest_bytes
from trustq.data.manifest import Manifest
from trustq.errors import TrustqError
from trustq.extraction.train.progress import Progress

_THREADS = 8  # a network disk answers many requests at once


def stage(manifest: Manifest, folder: Path, *, progress: Progress) -> Manifest:
    """Copy a manifest's images into `folder`; the same manifest, which reads them there.

    A file that is there with the same size and time of change is left, so a copy that was stopped
    goes on. Images of another data root get a folder of their own. A missing image is left for the
    check of all images to tell. Raises `TrustqError` where the folder cannot be written to or the
    disk is full.
    """
    root = manifest.root.resolve()
    target = Path(folder) / digest_bytes(os.fsencode(root))[:12]
    paths = list(dict.fromkeys(manifest.columns["path"].tolist()))

    def copy(path: str) -> int:
        source, copied = root / path, target / path
        try:
            stated = source.stat()
        except OSError:
            return 0
        size = stated.st_size
        if copied.is_file() and _is_copy(copied.stat(), stated):
            return 0
        part = copied.with_name(f".{copied.name}.{os.getpid()}.part")
        try:
            copied.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, part)
            os.utime(part, ns=(stated.st_atime_ns, stated.st_mtime_ns))
            os.replace(part, copied)
        except OSError as error:
            part.unlink(missing_ok=True)
            reason = os.strerror(error.errno or 0).lower()
            raise TrustqError(
                f"{source} could not be copied to {copied}: {reason}. What was "
                "copied is kept; free the disk or stage elsewhere.",
                path=source,
            ) from error
        if (found := copied.stat().st_size) != size:
            raise TrustqError(
                f"{copied} has {found:,} bytes, but {source} had {size:,} when its copy began: "
                "somebody writes to it. Stage again once the data are whole."
            )
        return size

    n_bytes = n_copied = 0
    with (
        ThreadPoolExecutor(_THREADS) as pool,
        progress.images(f"copy to {target}", len(paths)) as show,
    ):
        for done, size in enumerate(pool.map(copy, paths), start=1):
            n_bytes += size
            n_copied += size > 0
            show(done, f"{n_bytes / 1e6:,.0f} MB")
    progress.say(
        f"{target}: {counted(n_copied, 'image')} copied, {len(paths) - n_copied:,} were there."
    )
    return replace(manifest, root=target)


def _is_copy(copied: os.stat_result, source: os.stat_result) -> bool:
    # An image that was made anew can have the size of the old one, as all uncompressed ones have.
    # Some disks keep times to two seconds only.
    return copied.st_size == source.st_size and abs(copied.st_mtime - source.st_mtime) <= 2
