"""What is checked of an upload before a pixel is decoded: size, kind by content, sides.

The kind is read from the bytes, whatever the sender says; the sides from the header, so that a
small file that claims a billion pixels costs nothing.
"""

import io
import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING

from trustq.data.pillow_rgb import reason_of

if TYPE_CHECKING:
    from PIL.Image import Image

MOST_BYTES = 10_000_000  # of one image
MOST_SIDE = 4000  # pixels
MOST_IMAGES = 16  # of one batch
_MOST_HEADER = 16_384  # bytes of the headers of one part


@dataclass(frozen=True)
class Refused(Exception):
    """Why a request is refused: an HTTP status and a sentence."""

    status: int
    text: str


def kind_of(data: bytes) -> str | None:
    """JPEG, PNG or WEBP by the first bytes; None for anything else.

    >>> kind_of(b"\\xff\\xd8\\xff\\xe0"), kind_of(b"GIF89a")
    ('JPEG', None)
    """
    if data[:3] == b"\xff\xd8\xff":
        return "JPEG"
    if data[:8] == b"\x89PNG\r\n\x1a\n":
        return "PNG"
    return "WEBP" if data[:4] == b"RIFF" and data[8:12] == b"WEBP" else None


def opened_image(data: bytes) -> "Image":
    """The image that these bytes begin, opened by its header and not decoded.

    Raises `Refused` unless it is of a known kind within the limits: 413 for too many bytes or
    pixels, 415 for another kind, 400 for a header that cannot be read.
    """
    from PIL import Image, WebPImagePlugin  # noqa: F401  (registers WEBP)

    if not data:
        raise Refused(400, "The request holds no image.")
    if len(data) > MOST_BYTES:
        raise Refused(413, too_large())
    kind = kind_of(data)
    if kind is None:
        raise Refused(415, "That is not a JPEG, PNG or WebP image.")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            image = Image.open(io.BytesIO(data), formats=(kind,))
    except Image.DecompressionBombError:
        raise Refused(413, _too_wide()) from None
    except Exception as error:  # Pillow's parsers raise nearly anything on damaged files
        raise Refused(400, f"The image cannot be read: {reason_of(error)}.") from error
    if max(image.size) > MOST_SIDE:
        raise Refused(413, _too_wide())
    if min(image.size) < 1:
        raise Refused(400, "The image has no pixels.")
    return image


def too_large() -> str:
    """What is said of a file above the limit."""
    return f"An image may have at most {MOST_BYTES // 1_000_000} MB; send a smaller one."


def _too_wide() -> str:
    return f"An image may have at most {MOST_SIDE:,} pixels on a side; send a smaller one."


def parts_of(body: bytes, content_type: str) -> list[tuple[str, bytes]]:
    """Files of a request's body, (name, bytes): the body itself, or parts of multipart/form-data.

    A part is a file where it has a filename. Kept in memory only: the usual parsers write parts to
    the disk. Raises `Refused` for a multipart body that is cut short or has no file.

    >>> head = b'--x\\r\\nContent-Disposition: form-data; name="file"; filename="a"\\r\\n\\r\\n'
    >>> parts_of(head + b"hi\\r\\n--x--", "multipart/form-data; boundary=x")
    [('a', b'hi')]
    """
    kind, _, parameters = content_type.partition(";")
    if kind.strip().lower() != "multipart/form-data":
        return [("image", body)]
    fields = dict(_parameter(part) for part in parameters.split(";") if "=" in part)
    boundary = fields.get("boundary", "")
    if not 0 < len(boundary) <= 70:
        raise Refused(400, "The request is multipart without a boundary.")
    mark = b"--" + boundary.encode("latin-1")
    first = body.find(mark)
    found: list[tuple[str, bytes]] = []
    while first >= 0:
        start = first + len(mark)
        if body[start : start + 2] == b"--":
            if not found:
                raise Refused(400, "The request holds no file.")
            return found
        if body[start : start + 2] != b"\r\n":
            break
        # A part begins after a line's end, and ends before one.
        end = body.find(b"\r\n" + mark, start)
        if end < 0:
            break
        head, blank, content = body[start + 2 : end].partition(b"\r\n\r\n")
        if not blank or len(head) > _MOST_HEADER:
            break
        name = _filename(head.decode("utf-8", "replace"))
        if name is not None:
            found.append((name, content))
            if len(found) > MOST_IMAGES:
                raise Refused(413, f"A request may hold at most {MOST_IMAGES} images.")
        first = end + 2
    raise Refused(400, "The multipart request is cut short or damaged; send it again.")


def _parameter(text: str) -> tuple[str, str]:
    name, _, value = text.partition("=")
    return name.strip().lower(), value.strip().strip('"')


def _filename(head: str) -> str | None:
    for line in head.split("\r\n"):
        name, _, value = line.partition(":")
        if name.strip().lower() == "content-disposition":
            fields = dict(_parameter(part) for part in value.split(";")[1:] if "=" in part)
            return fields.get("filename")
    return None
