"""`trustq review`: a page on this machine where people answer for the listed labels."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from trustq.review.images import ReviewImages
    from trustq.review.session import ReviewSession


def review(
    folder: Annotated[
        Path, typer.Argument(metavar="AUDIT", help="Folder that trustq audit labels wrote.")
    ] = Path("audit"),
    manifest: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Manifest of the images [default: the audit's]."),
    ] = None,
    root: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Image folder; alone, images are found by their id."),
    ] = None,
    random_share: Annotated[
        float | None,
        typer.Option(
            metavar="SHARE",
            help="Share of shown rows that are drawn at random from the unlisted ones, unmarked; "
            "they bound how many wrong labels remain [default: 0.1].",
        ),
    ] = None,
    seed: Annotated[int, typer.Option(metavar="N", help="Seed of the random rows.")] = 0,
    port: Annotated[
        int | None,
        typer.Option(metavar="N", help="Port [default: that of last time, else any free one]."),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE.html",
            help="Write the page as one file for a colleague without Python, and serve nothing.",
        ),
    ] = None,
    merge: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="FILE.jsonl",
            help="Take in answers that a one-file page saved, and serve nothing.",
        ),
    ] = None,
    summary: Annotated[
        bool,
        typer.Option("--summary", help="Print agreement and what is known so far; serve nothing."),
    ] = False,
    browser: Annotated[
        bool, typer.Option("--browser/--no-browser", help="Open the page in a browser.")
    ] = True,
    json: Annotated[bool, typer.Option("--json", help="Print the summary as JSON.")] = False,
) -> None:
    """Answer for the listed labels in the browser, one image at a time, by keys.

    The page is served to this machine alone. Every answer is on the disk (AUDIT/answers.jsonl)
    before the next image shows; a stopped review goes on where it was. On leaving, answers.csv is
    written, which trustq audit apply and trustq repair read.

    Example: trustq review audit
    """
    from trustq.report.text import to_json
    from trustq.review import open_review
    from trustq.review.images import ReviewImages
    from trustq.review.one_file import merge_answers, write_one_file
    from trustq.review.summary import review_page, review_summary

    session = open_review(folder, random_share=random_share, seed=seed, port=port)
    try:
        images = ReviewImages(session.audit, manifest=manifest, root=root)
        if merge:
            for path in merge:
                n = merge_answers(session, path)
                typer.echo(f"{path}: {n} new answers", err=True)
        if out is not None:
            write_one_file(session, images, out)
            typer.echo(f"wrote {out}", err=True)
        if not (merge or out is not None or summary or json):
            _serve(session, images, browser=browser)
    finally:
        session.close()
    if out is None or summary or json:
        typer.echo(to_json(review_summary(session)) if json else review_page(session))


def _serve(session: "ReviewSession", images: "ReviewImages", *, browser: bool) -> None:
    import webbrowser

    from trustq.review.server import ReviewServer

    server = ReviewServer(session, images)
    server.start()
    n = len(session.queue)
    typer.echo(f"{n} labels to review at\n{server.address}\nStop with Ctrl-C.", err=True)
    if browser:
        webbrowser.open(server.address)
    server.wait()
