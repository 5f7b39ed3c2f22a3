"""A vetting packet: some images of each class on paper, with a sheet that comes back as answers."""

from pathlib import Path
from typing import Any

import numpy as np

from trustq.core.atomic_files import replacing
from trustq.core.generators import generator
from trustq.errors import InputError
from trustq.review.exchange.sheet import write_excel
from trustq.review.images import ReviewImages
from trustq.review.session import ReviewSession

PER_CLASS = 5
_ROWS_A_PAGE, _SIDE = 4, 700


def write_packet(
    session: ReviewSession,
    images: ReviewImages,
    path: Path,
    *,
    per_class: int = PER_CLASS,
    seed: int = 0,
) -> list[Path]:
    """Write a PDF of images with short ids (V0001, ...) and an Excel sheet to fill in beside it.

    `per_class` rows of each given class are drawn at random from those that are not trusted, and
    their order is random, so that no class stands together. The sheet's `label` and `Notes` are
    blank; it comes back as answers through `read_answers_of`. Raises `TrustqError` where no image
    can be read, for an ending other than .pdf, and for fewer than one a class.
    """
    path = Path(path)
    if path.suffix.lower() != ".pdf":
        raise InputError(
            f"{path}: a packet ends in .pdf; its sheet is written beside it.", path=path
        )
    if per_class < 1:
        raise InputError(
            f"`per_class={per_class}`: expected 1 or more.", where="per_class", found=per_class
        )
    audit = session.audit
    rng = generator(seed, "vetting packet")
    chosen: list[int] = []
    for name in audit.classes:
        own = np.flatnonzero((audit.given == name) & ~audit.trusted & audit.asked)
        own = np.array([row for row in own.tolist() if images.has(row)], dtype=np.int64)
        chosen += rng.permutation(own)[:per_class].tolist()
    if not chosen:
        raise InputError(
            "No row has an image, so there is nothing to print. Say where the images are: pass "
            "`manifest` or `root`.",
        )
    rows = [int(row) for row in rng.permutation(chosen)]
    sheet: list[dict[str, Any]] = [
        {
            "id": f"V{number:04d}",
            "sample_id": str(audit.sample_ids[row]),
            "given": str(audit.given[row]),
            "label": "",
            "Notes": "",
        }
        for number, row in enumerate(rows, 1)
    ]
    beside = path.with_suffix(".xlsx")
    _draw(path, rows, sheet, images, audit.classes)
    write_excel(beside, sheet)
    return [path, beside]


def _draw(
    path: Path,
    rows: list[int],
    sheet: list[dict[str, Any]],
    images: ReviewImages,
    classes: tuple[str, ...],
) -> None:
    import io

    from matplotlib.backends.backend_pdf import PdfPages
    from matplotlib.figure import Figure
    from PIL import Image

    with replacing(path) as part, PdfPages(part, metadata={"CreationDate": None}) as pages:
        for start in range(0, len(rows), _ROWS_A_PAGE):
            page = Figure(figsize=(8.27, 11.69))  # A4
            page.text(
                0.07,
                0.965,
                "Are these labels right? Classes: " + _cut(", ".join(classes)),
                parse_math=False,
            )
            for slot, row in enumerate(rows[start : start + _ROWS_A_PAGE]):
                top = 0.94 - 0.23 * slot
                told = sheet[start + slot]
                picture = images.jpeg(row, side=_SIDE)
                place = page.add_axes((0.07, top - 0.21, 0.42, 0.2))
                place.axis("off")
                if picture is None:
                    place.text(0.5, 0.5, "The image cannot be read.", ha="center")
                else:
                    place.imshow(np.asarray(Image.open(io.BytesIO(picture))))
                lines = (f"{told['id']}", f"Given label: {_cut(told['given'], 40)}")
                page.text(0.55, top - 0.03, lines[0], fontsize=16, weight="bold", parse_math=False)
                page.text(0.55, top - 0.06, lines[1], fontsize=11, parse_math=False)
                blank = "Label: ____________________________"
                page.text(0.55, top - 0.1, blank, fontsize=11)
                page.text(0.55, top - 0.14, blank.replace("Label", "Notes"), fontsize=11)
            page.text(0.07, 0.02, f"Page {start // _ROWS_A_PAGE + 1}. Research only.", fontsize=8)
            pages.savefig(page)


def _cut(text: str, most: int = 90) -> str:
    return text if len(text) <= most else text[: most - 1] + "…"
