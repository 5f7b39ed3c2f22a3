"""`trustq audit`: which labels look wrong, what people answered, what cleaning changes."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from trustq.core.prose import say

from . import audit_board, audit_consensus, audit_duplicates
from .app import App
from .options import FeatureArrays, Progress
from .output import print_note, print_text, stages, terminal_width

if TYPE_CHECKING:
    from trustq.audit.labels import LabelAudit
    from trustq.audit.set_issues import SetIssue

app = App(
    no_args_is_help=True,
    help="Find suspicious labels and duplicate images, take answers, write a cleaned list.",
)


CANDIDATES = 60  # images on the sheet


@dataclass
class Listing:
    """How many labels are listed, by which score, and where to."""

    out: Annotated[Path, typer.Option(help="Folder for the lists.")] = Path("audit")
    review: Annotated[
        int | None, typer.Option(help="Number of most suspicious labels to list.")
    ] = None
    precision: Annotated[
        float | None,
        typer.Option(help="Cut the list where its estimated precision falls below this."),
    ] = None
    score: Annotated[
        str,
        typer.Option(
            help="Label-quality score; auto: mean_rank where models are fitted on these labels, "
            "self_confidence for probabilities of a file."
        ),
    ] = "auto"
    unit: Annotated[
        str,
        typer.Option(
            help="row, or group: list the most suspicious row of each group and label, and let an "
            "answer speak for the group (lesion, patient)."
        ),
    ] = "row"
    results: Annotated[Path, typer.Option(help="Folder for the result tables.")] = Path("results")
    json: Annotated[bool, typer.Option("--json", help="Print JSON instead of the page.")] = False


@dataclass
class Models:
    """The models that judge labels which they did not see."""

    source: Annotated[
        str,
        typer.Option(
            help="Probabilities of: head (fitted out of fold), crossfit (stored in the cache), "
            "file (out of fold, as you state), or auto."
        ),
    ] = "auto"
    head: Annotated[str, typer.Option(help="Head to fit on features.")] = "linear"
    folds: Annotated[int, typer.Option(help="Folds, by group.")] = 5
    repeats: Annotated[
        int | None,
        typer.Option(
            help="Divisions into folds, over which probabilities are averaged. [default: up to 4 "
            "of linear heads on few rows, else 1]",
            show_default=False,
        ),
    ] = None
    seed: Annotated[int, typer.Option(help="Seed of the folds.")] = 0
    exposure: Annotated[
        str | None,
        typer.Option(help="What the backbone of a file has seen, as in trustq cache import."),
    ] = None


@dataclass
class Images:
    """The images of the sheet of candidates."""

    manifest: Annotated[
        Path | None, typer.Option(help="Manifest of the images, for the sheet of candidates.")
    ] = None
    root: Annotated[
        Path | None, typer.Option(help="Folder of images; alone, they are found by their id.")
    ] = None
    candidates: Annotated[int, typer.Option(min=1, help="Images on the sheet.")] = CANDIDATES


@dataclass
class Known:
    """Labels that are known to be right."""

    answers: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Answers of an earlier review (sample_id,label): those labels stand in the place "
            "of the given ones, are learned from, and are not listed again.",
        ),
    ] = None
    trust: Annotated[
        str | None,
        typer.Option(
            metavar="COLUMN=VALUE,...",
            help="Rows whose labels are trusted, e.g. dx_type=histo,consensus, by --metadata or "
            "the manifest: learned from and not listed.",
        ),
    ] = None
    metadata: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Table of sample_id and the column of --trust; its columns, or those of the "
            "manifest, are asked whether they predict the label.",
        ),
    ] = None


@dataclass
class Arrays(FeatureArrays):
    """What is where in a file, the labels that are audited among it."""

    labels: Annotated[
        str | None,
        typer.Option(help="Labels column; together with --observed, the reference labels."),
    ] = None
    observed: Annotated[
        str | None, typer.Option(help="Name of the labels to audit [default: observed, or labels].")
    ] = None


@app.command()
def labels(
    sources: Annotated[
        list[str],
        typer.Argument(
            metavar="CACHE|FILE...",
            help="Caches of the same rows (seeds), embeddings (npz, CSV, ...), or out-of-fold "
            "probabilities (npz, CSV, Parquet).",
        ),
    ],
    listing: Listing,
    models: Models,
    pictures: Images,
    known: Known,
    arrays: Arrays,
    shown: Progress,
) -> None:
    """List the labels that look wrong, by models that did not see them.

    Writes label_issues.csv, issues_per_class.csv, issue_confusions.csv, set_issues.csv (outliers,
    near-duplicates, overlapping classes, weak clusters, odd images, columns that predict the
    label), answers.csv (to be filled in), page.txt and, where the images are reachable,
    mislabel_candidates.png to OUT, and the table label_issues to RESULTS. Labels are changed by
    trustq audit apply alone.

    Example: trustq audit labels demo/cache/digits/digits/seed0.h5 --review 50 --out audit
    """
    from trustq.audit import (
        AuditSource,
        audit_labels,
        known_labels,
        of_source,
        open_source,
        refuse_unused,
    )
    from trustq.audit.set_issues import columns_of_rows, find_set_issues
    from trustq.report.audit import audit_page, audit_summary, record_audit
    from trustq.report.text import to_json
    from trustq.store import find_caches

    if pictures.candidates != CANDIDATES and pictures.manifest is None and pictures.root is None:
        raise typer.BadParameter(
            f"--candidates {pictures.candidates}: the sheet is drawn from images, so name "
            "--manifest or --root as well."
        )
    known_rows = known_labels(
        answers=known.answers, trust=known.trust, metadata=known.metadata or pictures.manifest
    )
    opened: list[AuditSource] = []
    paths = find_caches(sources)
    with stages() as show:
        for index, path in enumerate(paths):
            one = open_source(
                path,
                names=arrays.names,
                normalize=arrays.normalize,
                known=known_rows,
                beside=opened[0] if opened else None,
                progress=of_source(show, index, len(paths)),
                **vars(models),
            )
            refuse_unused(one, head=models.head, folds=models.folds, seed=models.seed)
            opened.append(one)
        audit = audit_labels(
            opened,
            score=listing.score,
            review=listing.review,
            precision=listing.precision,
            unit=listing.unit,
            progress=show,
        )
    table = known.metadata or pictures.manifest
    issues = find_set_issues(audit, columns=columns_of_rows(table, audit.sample_ids))
    written = _write(audit, listing.out, pictures, issues)
    record_audit(audit, listing.results)
    for path in written:
        say(f"wrote {path}")
    if listing.json:
        typer.echo(to_json(audit_summary(audit, issues)))
    else:
        print_text(audit_page(audit, issues))


def _write(
    audit: "LabelAudit", out: Path, pictures: Images, issues: "list[SetIssue]"
) -> list[Path]:
    """Write the lists and, where the images are reachable, the sheet of candidates."""
    from trustq.data.image_files import find_images
    from trustq.report.audit import MONTAGE, write_audit
    from trustq.report.image_sheets import draw_candidates

    images = None
    where = {"manifest": pictures.manifest, "root": pictures.root}
    kept = {name: str(path.resolve()) for name, path in where.items() if path is not None}
    if kept:
        images = find_images(audit.sample_ids.tolist(), **where)
    written = list(write_audit(audit, out, images=kept, set_issues=issues))
    if images is not None and len(audit.order):
        written.append(out / MONTAGE)
        sheet = draw_candidates(audit, images, written[-1], candidates=pictures.candidates)
        if sheet.missing:
            print_note(
                f"{len(sheet.missing)} of {sheet.n} images could not be read, e.g. "
                f"{sheet.missing[0]}."
            )
    return written


@app.command()
def apply(
    folder: Annotated[Path, typer.Argument(help="What trustq audit labels wrote.")],
    answers: Annotated[
        Path | None, typer.Option(help="CSV or Parquet of sample_id,label; blanks are no answers.")
    ] = None,
    action: Annotated[
        str,
        typer.Option(
            help="relabel or drop what is wrong, or prune: leave out what people called off topic."
        ),
    ] = "relabel",
    max_per_class: Annotated[
        str,
        typer.Option(
            help="Share of a class's labels at most that is dropped, or relabelled unchecked."
        ),
    ] = "20%",
    accept_suggestions: Annotated[
        bool, typer.Option("--accept-suggestions", help="Act on the list where nobody answered.")
    ] = False,
    out: Annotated[Path, typer.Option(help="Cleaned list to write.")] = Path("cleaned.csv"),
    json: Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")] = False,
) -> None:
    """Write a cleaned list: sample_id, label, given, suggested, action, reason, trusted (checked).

    Train on it with trustq extract --observed. The answers are also an oracle for trustq repair.

    Example: trustq audit apply demo/audit --answers demo/answers.csv --out cleaned.csv
    """
    from trustq.audit.apply import apply_answers, read_answers, read_off_topic
    from trustq.audit.folder import read_audit_folder
    from trustq.report.audit import cleaned_page, cleaned_summary, write_cleaned
    from trustq.report.text import to_json

    audit = read_audit_folder(folder)
    found, off_topic = None, set()
    if answers is not None and action == "prune":
        off_topic = read_off_topic(answers)
    elif answers is not None:
        found = read_answers(answers, classes=audit.classes)
    cleaned = apply_answers(
        audit,
        action=action,
        answers=found,
        accept_suggestions=accept_suggestions,
        max_per_class=_share(max_per_class),
        off_topic=off_topic,
    )
    write_cleaned(cleaned, out)
    say(f"wrote {out}")
    if json:
        typer.echo(to_json(cleaned_summary(cleaned)))
    else:
        print_text(cleaned_page(cleaned))


@app.command()
def effect(
    folder: Annotated[Path, typer.Argument(help="What trustq audit labels wrote.")],
    max_per_class: Annotated[
        str, typer.Option(help="Share of a class's training labels dropped at most.")
    ] = "20%",
    draws: Annotated[int, typer.Option(help="Random drops to compare with.")] = 20,
    seed: Annotated[int, typer.Option(help="Seed of the random drops.")] = 0,
    json: Annotated[bool, typer.Option("--json", help="Print JSON instead of the table.")] = False,
) -> None:
    """Drop the listed labels, fit the heads again, and compare recall and F1 of every class.

    Beside it stands the mean of random drops of as many labels of each class.

    Example: trustq audit effect demo/audit --max-per-class 20%
    """
    from trustq.audit.effect import drop_effect
    from trustq.audit.folder import read_audit_folder
    from trustq.report.audit import effect_page, effect_summary
    from trustq.report.text import to_json

    found = drop_effect(
        read_audit_folder(folder), max_per_class=_share(max_per_class), draws=draws, seed=seed
    )
    if json:
        typer.echo(to_json(effect_summary(found)))
    else:
        print_text(effect_page(found, width=terminal_width()))


def _share(text: str) -> float:
    from trustq.errors import InputError

    try:
        return float(text.removesuffix("%")) / (100 if text.endswith("%") else 1)
    except ValueError:
        raise InputError(
            f"--max-per-class {text}: expected a share such as 20%.",
            where="max_per_class",
            found=text,
        ) from None


app.command()(audit_consensus.consensus)
app.command()(audit_duplicates.duplicates)
app.command()(audit_board.board)
