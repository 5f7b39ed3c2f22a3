"""The page as one file: pictures and questions inside, answers come back as a file."""

import base64
import secrets
from dataclasses import replace
from pathlib import Path

from trustq.core.atomic_files import replacing
from trustq.core.digest import digest_strings
from trustq.errors import InputError
from trustq.review.exchange import read_answers_of
from trustq.review.images import ReviewImages
from trustq.review.journal import checked
from trustq.review.server import page_html
from trustq.review.session import ReviewSession

PICTURE_SIDE = 640  # pixels; a few hundred of them are a file that can be sent
MOST_BYTES = 500 * 1024**2


def write_one_file(session: ReviewSession, images: ReviewImages, path: Path) -> None:
    """Write the review's whole queue as an HTML file that needs neither server nor network.

    Raises `TrustqError` where it would be larger than browsers open (500 MB).
    """
    pictures: dict[int, str] = {}
    thumbnails: dict[int, str] = {}
    items, size = [], 0

    def inside(row: int, side: int, kept: dict[int, str]) -> None:
        nonlocal size
        if row in kept:
            return
        content = images.jpeg(row, side=side)
        if content is not None:
            kept[row] = "data:image/jpeg;base64," + base64.b64encode(content).decode("ascii")
            size += len(kept[row])
        if size > MOST_BYTES:
            raise InputError(
                f"{path} would be larger than {MOST_BYTES // 1024**2} MB, which browsers do not "
                "open. Audit again with a shorter list, or serve the review.",
                path=path,
            )

    for place in range(len(session.queue)):
        item = session.item(place)
        inside(item["row"], PICTURE_SIDE, pictures)
        for near in item["neighbours"]:
            inside(near["row"], 120, thumbnails)
        item["has_image"] = item["row"] in pictures
        item["facts"] = images.facts(item["row"])
        row = item["row"]
        item["rank"] = int(session.audit.rank[row]) if session.audit.listed[row] else 0
        items.append(item)
    facts = {
        "mode": "file",
        "key": digest_strings([session.plan.token, *session.audit.sample_ids[session.queue]]),
        "classes": list(session.audit.classes),
        "n_queue": len(items),
        "title": session.audit.folder.resolve().name,
        "has_images": bool(images),
        "items": items,
        "pictures": pictures,
        "thumbnails": thumbnails,
        "strata": session.strata(),
    }
    with replacing(Path(path)) as part:
        part.write_text(page_html(facts, nonce=secrets.token_urlsafe(8)), encoding="utf-8")


def merge_answers(session: ReviewSession, path: Path, *, rater: str = "") -> int:
    """Take in the answers of a one-file page, a sheet or another tool; returns how many are new.

    `rater` is who answered where the file does not say (default: its name).
    All are checked before the first is kept: an answer that is none leaves the journal as it was.
    """
    ids = {str(sample_id) for sample_id in session.audit.sample_ids.tolist()}
    answers = read_answers_of(Path(path), ids, rater=rater, classes=session.audit.classes)
    for answer in answers:
        checked(answer, session.audit.classes)
        session.row_of(answer.sample_id)
    return sum(session.answer(replace(answer)) for answer in answers)
