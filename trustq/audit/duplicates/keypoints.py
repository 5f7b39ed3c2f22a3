"""Keypoints: small places of an image that are found again where it is turned, zoomed or moved."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

import numpy as np

if TYPE_CHECKING:
    from PIL.Image import Image

SIDE = 176  # pixels of the longest side: at 128 a fifth of the pairs of HAM10000 were lost
MOST = 150  # keypoints of an image, about; 200 take a fourth longer and found hardly more pairs
LENGTH = 128  # of a descriptor
# Below OpenCV's .04 and 10: skin is faint, and borders are told from places by what they look like.
_CONTRAST = 0.015
_EDGE = 15


@dataclass(frozen=True)
class Keypoints:
    """Keypoints of n images, m in all: those of image i are rows `start[i]` to `start[i + 1]`.

    `place` is (m, 2), across and down in units of the image's longest side; `size` (m,) is the
    binary logarithm of its width in the same units, `turn` (m,) its direction in radians;
    `descriptors` (m, 128) of uint8 are SIFT's (Lowe 2004). One place may have several directions.
    """

    start: np.ndarray
    place: np.ndarray
    size: np.ndarray
    turn: np.ndarray
    descriptors: np.ndarray

    def __len__(self) -> int:
        return len(self.start) - 1

    @classmethod
    def joined(cls, parts: Sequence[Self]) -> Self:
        """Those of several sets of images, one after the other."""
        if len(parts) == 1:
            return parts[0]
        counts = np.concatenate([np.diff(part.start) for part in parts])
        columns = (
            np.concatenate([getattr(part, name) for part in parts])
            for name in ("place", "size", "turn", "descriptors")
        )
        return cls(np.concatenate([[0], np.cumsum(counts)]), *columns)


def find_keypoints(image: "Image") -> Keypoints:
    """SIFT keypoints of one image, of its grey and at most 176 pixels a side, by OpenCV.

    >>> from PIL import Image
    >>> len(find_keypoints(Image.new("RGB", (80, 60))).size)  # nothing to be seen
    0
    """
    import cv2
    from PIL.Image import Resampling

    grey = image.convert("L")
    grey.thumbnail((SIDE, SIDE), Resampling.BOX)
    # OpenCV's stubs do not know it.
    sift: Any = cv2.SIFT_create(  # type: ignore[attr-defined]
        nfeatures=MOST, contrastThreshold=_CONTRAST, edgeThreshold=_EDGE
    )
    found, descriptors = sift.detectAndCompute(np.asarray(grey), None)
    if not found:
        descriptors = np.empty((0, LENGTH))
    rows = [(*point.pt, point.size, point.angle) for point in found]
    across, down, size, angle = np.array(rows, dtype=np.float32).reshape(-1, 4).T
    side = np.float32(max(grey.size))
    return Keypoints(
        start=np.array([0, len(rows)]),
        place=np.stack([across, down], axis=1) / side,
        size=np.log2(size / side),
        turn=np.deg2rad(angle),
        descriptors=descriptors.astype(np.uint8),
    )


@contextmanager
def one_thread_an_image() -> Iterator[None]:
    """Context in which OpenCV starts no threads of its own: images are what is shared out."""
    import cv2

    before = cv2.getNumThreads()
    cv2.setNumThreads(1)
    try:
        yield
    finally:
        cv2.setNumThreads(before)
