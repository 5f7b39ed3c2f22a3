"""Handwritten digits: real images that come with scikit-learn, for demos and tests.

scikit-learn's copy (the test part of the UCI "optical recognition of handwritten digits" set) does
not name the writers, so every digit is its own group.
"""

import io
from pathlib import Path

import numpy as np

from trustq.datasets.rows import Rows, texts
from trustq.errors import TrustqError

_DEEPEST = 16  # darkest value of a pixel in scikit-learn's copy


def read_rows(root: Path) -> Rows:
    """Write the 1,797 digits as 8 x 8 grey PNG images under `root`; rows `digit_0000` and so on.

    Labels are `0` to `9`. Files that are there with the same bytes stay. Raises `TrustqError`
    where the folder cannot be written to.
    """
    from PIL import Image
    from sklearn.datasets import load_digits

    images, labels = load_digits(return_X_y=True)
    pixels = np.round(images.reshape(-1, 8, 8) * (255 / _DEEPEST)).astype(np.uint8)
    ids = [f"digit_{row:04d}" for row in range(len(labels))]
    try:
        root.mkdir(parents=True, exist_ok=True)
        for sample_id, image in zip(ids, pixels, strict=True):
            encoded = io.BytesIO()
            Image.fromarray(image).save(encoded, format="PNG")
            _write(root / f"{sample_id}.png", encoded.getvalue())
    except OSError as error:
        raise TrustqError(f"The digits could not be written under {root}: {error}.") from error
    n = len(ids)
    return Rows(
        {
            "sample_id": texts(ids),
            "path": texts([f"{sample_id}.png" for sample_id in ids]),
            "label": texts(labels.tolist()),
            "group_id": texts(ids),
            "dataset": np.full(n, "digits", dtype=object),
            "domain": np.full(n, "handwritten", dtype=object),
        },
        classes=tuple("0123456789"),
        root=root,
        source="digits",
    )


def _write(path: Path, data: bytes) -> None:
    # A file cut short by a killed run is written again.
    if not path.is_file() or path.read_bytes() != data:
        path.write_bytes(data)
