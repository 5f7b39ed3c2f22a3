"""Images of a review, by row: found once, read small, never by a path that a browser names."""

import io
from pathlib import Path

from trustq.audit.folder import StoredAudit
from trustq.core.sample_ids import find_ids
from trustq.data.image_files import find_images
from trustq.data.manifest import read_manifest
from trustq.data.pillow_rgb import read_rgb
from trustq.errors import TrustqError

# Columns that are shown elsewhere on the page, or that give the answer away.
NOT_SHOWN = ("sample_id", "path", "label", "split", "dataset")

LONG_SIDE = 1200  # pixels of what is shown
_MOST_BYTES = 300_000  # of a file that is sent as it is


class ReviewImages:
    """Pictures of audited rows as JPEG; rows without a readable image have none."""

    def __init__(
        self, audit: StoredAudit, *, manifest: Path | None = None, root: Path | None = None
    ) -> None:
        known = audit.images
        if manifest is None and root is None:
            manifest = Path(known["manifest"]) if known.get("manifest") else None
            root = Path(known["root"]) if known.get("root") else None
        self._files: dict[str, Path] = {}
        self._facts: dict[str, dict[str, str]] = {}
        ids = [str(sample_id) for sample_id in audit.sample_ids.tolist()]
        if manifest is not None or root is not None:
            self._files = find_images(ids, manifest=manifest, root=root)
        if manifest is not None:
            self._facts = _facts_of(manifest, root, ids)
        self._ids = audit.sample_ids

    def __bool__(self) -> bool:
        return bool(self._files)

    def has(self, row: int) -> bool:
        """Whether a row has an image file."""
        return str(self._ids[row]) in self._files

    def name(self, row: int) -> str:
        """The file's name, without its folder; blank where there is none."""
        path = self._files.get(str(self._ids[row]))
        return "" if path is None else path.name

    def facts(self, row: int) -> dict[str, str]:
        """Metadata of a row, by column, as texts; empty without a manifest."""
        return self._facts.get(str(self._ids[row]), {})

    def jpeg(self, row: int, *, side: int = LONG_SIDE) -> bytes | None:
        """A row's image, upright and no larger than `side`; None where it cannot be read."""
        path = self._files.get(str(self._ids[row]))
        if path is None:
            return None
        try:
            if as_it_is := _small_jpeg(path, side):
                return as_it_is
            upright = read_rgb(path, enough=(side, side))
        except TrustqError:
            return None
        upright.thumbnail((side, side))
        out = io.BytesIO()
        upright.save(out, "JPEG", quality=88)
        return out.getvalue()


def _small_jpeg(path: Path, side: int) -> bytes | None:
    """A file's own bytes where a browser shows them as they would be made: a small whole JPEG.

    It has three colours or grey, and neither EXIF, which turns, nor a colour profile.
    """
    from PIL import Image

    try:
        if path.stat().st_size > _MOST_BYTES:
            return None
        data = path.read_bytes()
        with Image.open(io.BytesIO(data), formats=("JPEG",)) as image:
            plain = image.mode in ("RGB", "L") and not {"exif", "icc_profile"} & image.info.keys()
            is_small = max(image.size) <= side
    except Exception:  # Pillow's parsers raise nearly anything on damaged files
        return None
    return data if plain and is_small and data.rstrip(b"\0").endswith(b"\xff\xd9") else None


def _facts_of(manifest: Path, root: Path | None, ids: list[str]) -> dict[str, dict[str, str]]:
    columns = read_manifest(manifest, root=root).columns
    shown = {name: values for name, values in columns.items() if name not in NOT_SHOWN}
    found = {}
    for own, row in zip(
        ids, find_ids(ids, columns["sample_id"], source=str(manifest)), strict=True
    ):
        if row is not None:
            texts = {name: values[row] for name, values in shown.items()}
            found[own] = {n: str(v) for n, v in texts.items() if v not in (None, "")}
    return found
