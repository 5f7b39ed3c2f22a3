"""The manifest's columns that a cache carries for SQL; no number is made of them.

They lie in one dataset, which stays out of `content_digest`: a column more invalidates no result.
"""

import json
import zlib
from datetime import date, datetime
from typing import Any

import numpy as np

from trustq.core.columns import Columns
from trustq.errors import DamagedFile
from trustq.store.format import MANIFEST_COLUMNS, ROW_DATASETS, Cache

MOST_BYTES = 1 << 30  # unpacked; a file of a stranger may pack far more


def packed_columns(columns: Columns) -> np.ndarray:
    """A manifest's columns but those that a cache has anyway, as compressed JSON, (bytes,) uint8.

    Blanks, masked entries and NaN become null; times become text.

    >>> packed = packed_columns({"sample_id": np.array(["a"]), "sex": np.array(["f"])})
    >>> packed.dtype, json.loads(zlib.decompress(packed.tobytes()))
    (dtype('uint8'), {'sex': ['f']})
    """
    own = {name: array for name, array in columns.items() if name not in (*ROW_DATASETS, "dataset")}
    values = {name: [_plain(value) for value in array.tolist()] for name, array in own.items()}
    text = json.dumps(values, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return np.frombuffer(zlib.compress(text.encode(), 6), dtype=np.uint8)


def manifest_columns(cache: Cache) -> dict[str, list[Any]]:
    """The columns of the manifest by name, a value a row, None for a blank; empty where none are.

    Caches that were imported, or written by an older trustq, hold none. Raises `TrustqError` where
    what is stored is of other rows.
    """
    if MANIFEST_COLUMNS not in cache.extra:
        return {}
    packed = np.ascontiguousarray(cache.extra[MANIFEST_COLUMNS], dtype=np.uint8).tobytes()
    try:
        unpacking = zlib.decompressobj()
        found = json.loads(unpacking.decompress(packed, MOST_BYTES))
        sound = all(isinstance(v, list) and len(v) == len(cache) for v in found.values())
    except (AttributeError, ValueError, zlib.error):
        sound = False
    if not sound:
        raise DamagedFile(
            f"{cache.name}: its columns of the manifest are not of its rows. Extract it again.",
            path=cache.path,
        )
    return dict(found)


def _plain(value: Any) -> Any:
    if value is None or value != value:
        return None
    if isinstance(value, date | datetime):
        return value.isoformat()
    return value if isinstance(value, bool | int | float | str) else str(value)
