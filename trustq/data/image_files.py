"""Image files of rows: by the manifest that names them, or by their id in a folder."""

from collections.abc import Sequence
from pathlib import Path

from trustq.core.sample_ids import find_ids, id_key
from trustq.data.manifest import read_manifest
from trustq.errors import InputError

ENDINGS = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp")


def find_images(
    sample_ids: Sequence[str], *, manifest: Path | None = None, root: Path | None = None
) -> dict[str, Path]:
    """Image files by sample id, from a manifest (`root` replaces its data root) or a folder.

    Ids are matched as everywhere, with or without the ending of an image file; in a folder they are
    paths within it, or names alone. Raises `TrustqError` where no id is found at all, or where an
    id is the name of several images.
    """
    wanted = [str(value) for value in sample_ids]
    if manifest is not None:
        rows = read_manifest(manifest, root=root)
        ids, where = rows.columns["sample_id"], str(manifest)
        places = find_ids(wanted, ids, source=where)
        found = {
            own: rows.image_path(row)
            for own, row in zip(wanted, places, strict=True)
            if row is not None
        }
    else:
        assert root is not None
        found, where = _in_folder(wanted, Path(root)), str(root)
    if not found:
        raise InputError(
            f"{where} has none of the audited images, e.g. {wanted[0]!r}. Is it of another data "
            "set?"
        )
    return found


def _in_folder(wanted: Sequence[str], root: Path) -> dict[str, Path]:
    files = [path for path in sorted(root.rglob("*")) if path.suffix.lower() in ENDINGS]
    by_path = {id_key(path.relative_to(root).as_posix()): path for path in files}
    by_name: dict[str, list[Path]] = {}
    for path in files:
        by_name.setdefault(id_key(path.name), []).append(path)
    found = {}
    for own in wanted:
        key = id_key(own)
        same = [by_path[key]] if key in by_path else by_name.get(key, [])
        if len(same) > 1:
            both = " or ".join(path.relative_to(root).as_posix() for path in same[:2])
            raise InputError(
                f"{root}: {own!r} may be {both}: name the images by a manifest, `manifest`."
            )
        if same:
            found[own] = same[0]
    return found
