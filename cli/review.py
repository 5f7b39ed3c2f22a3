"""`trustq review`: a page on this machine where people answer for the listed labels."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from trustq.core.counts import counted
from trustq.core.prose import say

from .output import print_note, print_text

if TYPE_CHECKING:
    from trustq.review.images import ReviewImages
    from trustq.review.session import ReviewSession


@dataclass
class Images:
    """Where the images are."""

    manifest: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Manifest of the images [default: the audit's]."),
    ] = None
    root: Annotated[
        Path | None,
        typer.Option(help="Folder of images; alone, they are found by their id."),
    ] = None


@dataclass
class Session:
    """What is shown beside the list, and where."""

    random_share: Annotated[
        float | None,
        typer.Option(
            metavar="SHARE",
            help="Share of shown rows that are drawn at random from the unlisted ones, unmarked; "
            "they bound how many wrong labels remain [default: 0.1].",
        ),
    ] = None
    seed: Annotated[int, typer.Option(metavar="N", help="Seed of the random rows.")] = 0
    port: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            min=0,
            max=65535,
            help="Port [default: that of last time, else any free one].",
        ),
    ] = None
    browser: Annotated[
        bool, typer.Option("--browser/--no-browser", help="Open the page in a browser.")
    ] = True


@dataclass
class Exchange:
    """Answers of others that are taken in, and the queue for another tool."""

    merge: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="FILE",
            help="Take in answers of a one-file page, a sheet (CSV, xlsx, Parquet), Label Studio "
            "(JSON, JSON-MIN, CSV), CVAT, Prodigy, doccano, FiftyOne or Argilla; serve nothing.",
        ),
    ] = None
    export: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Write the queue, with the answers so far, for another tool; serve nothing.",
        ),
    ] = None
    form: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="Form of --export: label-studio (.json), cvat (.xml), prodigy or doccano "
            "(.jsonl), fiftyone or argilla (.json), sheet (.csv, .xlsx, .parquet) [default: by the "
            "ending].",
        ),
    ] = None
    image_prefix: Annotated[
        str,
        typer.Option(metavar="URL", help="Put before image names in --export, e.g. a web folder."),
    ] = ""
    with_guess: Annotated[
        bool,
        typer.Option("--with-guess", help="Give the model's guess along as a prediction."),
    ] = False
    rater: Annotated[
        str,
        typer.Option(
            metavar="NAME",
            help="Who answered, where a merged file does not say; with --export, whose answers.",
        ),
    ] = ""


@dataclass
class Written:
    """What is written instead of served."""

    out: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE.html",
            help="Write the page as one file for a colleague without Python, and serve nothing.",
        ),
    ] = None
    packet: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE.pdf",
            help="Write a vetting packet: images with short ids, and an xlsx to fill in and "
            "--merge; serve nothing.",
        ),
    ] = None
    per_class: Annotated[
        int, typer.Option(metavar="N", help="Images of each class in the packet.")
    ] = 5
    summary: Annotated[
        bool,
        typer.Option("--summary", help="Print agreement and what is known so far; serve nothing."),
    ] = False
    json: Annotated[bool, typer.Option("--json", help="Print the summary as JSON.")] = False


def review(
    pictures: Images,
    shown: Session,
    exchange: Exchange,
    written: Written,
    folder: Annotated[
        Path, typer.Argument(metavar="AUDIT", help="Folder that trustq audit labels wrote.")
    ] = Path("audit"),
) -> None:
    """Answer for the listed labels in the browser, one image at a time, by keys.

    The page is served to this machine alone. Every answer is on the disk (AUDIT/answers.jsonl)
    before the next image shows; a stopped review goes on where it was. On leaving, answers.csv is
    written, which trustq audit apply and trustq repair read.

    Example: trustq review demo/audit
    """
    from trustq.report.text import to_json
    from trustq.review import open_review
    from trustq.review.images import ReviewImages
    from trustq.review.summary import review_page, review_summary

    session = open_review(folder, random_share=shown.random_share, seed=shown.seed, port=shown.port)
    try:
        images = ReviewImages(session.audit, manifest=pictures.manifest, root=pictures.root)
        merged = _merge(session, exchange)
        if not merged and images:
            _note_missing(session, images)
        wrote = _write(session, images, exchange, written, seed=shown.seed)
        told = written.summary or written.json
        if not (merged or wrote or told):
            _serve(session, images, shown)
    finally:
        session.close()
    if not wrote or told:
        if written.json:
            typer.echo(to_json(review_summary(session)))
        else:
            print_text(review_page(session))


def _note_missing(session: "ReviewSession", images: "ReviewImages") -> None:
    """Say how many rows of the queue have no image to be judged by."""
    rows = session.queue.tolist()
    missing = [row for row in rows if not images.has(row)]
    if missing:
        print_note(
            f"no image was found of {len(missing):,} of {len(rows):,} rows to review, e.g. "
            f"{session.audit.sample_ids[missing[0]]}"
        )


def _merge(session: "ReviewSession", exchange: Exchange) -> bool:
    """Take in the answers of merged files; whether there are any."""
    from trustq.review.one_file import merge_answers

    for path in exchange.merge or []:
        n = merge_answers(session, path, rater=exchange.rater)
        say(f"{path}: {counted(n, 'new answer')}")
    return bool(exchange.merge)


def _write(
    session: "ReviewSession",
    images: "ReviewImages",
    exchange: Exchange,
    written: Written,
    *,
    seed: int,
) -> bool:
    """Write the page of one file, the queue for a tool and the packet; whether one is asked for."""
    from trustq.review.one_file import write_one_file
    from trustq.review.packet import write_packet

    if written.out is not None:
        write_one_file(session, images, written.out)
        say(f"wrote {written.out}")
    if exchange.export is not None:
        _export(session, images, exchange.export, exchange)
    if written.packet is not None:
        made = write_packet(session, images, written.packet, per_class=written.per_class, seed=seed)
        for path in made:
            say(f"wrote {path}")
    return any(path is not None for path in (written.out, exchange.export, written.packet))


def _export(
    session: "ReviewSession", images: "ReviewImages", path: Path, exchange: Exchange
) -> None:
    from trustq.errors import InputError
    from trustq.review.exchange import write_exchange

    endings = {".json": "label-studio", ".xml": "cvat", ".csv": "sheet", ".xlsx": "sheet"}
    form = exchange.form or (endings | {".parquet": "sheet"}).get(path.suffix.lower())
    if form is None:
        raise InputError(
            f"{path}: the ending does not tell the form; state it with `form`.", path=path
        )

    def image_of(row: int) -> str:
        return exchange.image_prefix + (images.name(row) or str(session.audit.sample_ids[row]))

    tasks = session.tasks(image_of, guess=exchange.with_guess, rater=exchange.rater)
    for written in write_exchange(tasks, path, form=form, classes=session.audit.classes):
        say(f"wrote {written}")


def _serve(session: "ReviewSession", images: "ReviewImages", shown: Session) -> None:
    import webbrowser

    from trustq.review.server import ReviewServer

    server = ReviewServer(session, images)
    server.start()
    n = len(session.queue)
    say(f"{counted(n, 'label')} to review at\n{server.address}\nStop with Ctrl-C.")
    if shown.port not in (None, 0, server.port):
        print_note(f"port {shown.port} is taken, so the page is on port {server.port}")
    if shown.browser:
        webbrowser.open(server.address)
    server.wait()
