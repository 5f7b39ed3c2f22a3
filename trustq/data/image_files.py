"""Image files of rows: by the manifest that names them, or by their id in a folder."""

from collections.abc import Sequence
from pathlib import Path

from trustq.data.manifest import read_manifest
from trustq.errors import InputError

ENDINGS = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp")


def find_images(
    sample_ids: Sequence[str], *, manifest: Path | None = None, root: Path | None = None
) -> dict[str, Path]:
    """Image files by sample id, from a manifest (`root` replaces its data root) or a folder.

    In a folder an image is found by its name without the ending. Raises `TrustqError` where no id
    is found at all.
    """
    if manifest is not None:
        rows = read_manifest(manifest, root=root)
        ids = [str(value) for value in rows.columns["sample_id"].tolist()]
        there = {sample_id: rows.image_path(row) for row, sample_id in enumerate(ids)}
        where = str(manifest)
    else:
        assert root is not None
        files = sorted(Path(root).rglob("*"))
        there = {path.stem: path for path in files if path.suffix.lower() in ENDINGS}
        where = str(root)
    found = {str(i): there[str(i)] for i in sample_ids if str(i) in there}
    if not found:
        raise InputError(
            f"{where} has none of the audited images, e.g. {sample_ids[0]!r}. Is it of another "
            "data set?"
        )
    return found
