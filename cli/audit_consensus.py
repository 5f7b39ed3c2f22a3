"""`trustq audit consensus`: one label of a row that several people answered for."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from trustq.core.counts import counted, verb

from .output import print_note, print_table

if TYPE_CHECKING:
    from trustq.audit import AuditSource


def consensus(
    answers: Annotated[
        Path,
        typer.Argument(
            help="Folder of an audit that was reviewed, a review's answers.jsonl, or a table of "
            "sample_id, rater, label."
        ),
    ],
    source: Annotated[
        Path | None,
        typer.Argument(
            help="Folder of an audit of the rows, or their cache, embeddings or out-of-fold "
            "probabilities, as for audit labels [default: what the folder's audit is of]."
        ),
    ] = None,
    out: Annotated[Path, typer.Option(help="Sheet of the consensus to write.")] = Path(
        "consensus.csv"
    ),
    seed: Annotated[int, typer.Option(help="Seed of the folds.")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")] = False,
) -> None:
    """Combine the answers of several people, of unequal skill, with a model's word.

    Raters and the model are weighed by how well each agrees with the others (CROWDLAB). OUT has
    the label of each answered row with the probability that it is right; trustq audit apply and
    trustq repair read it as --answers.

    Example: trustq audit consensus demo/raters.csv demo/cache/digits/digits/seed0.h5
    """
    from trustq.core.label_sheets import require_csv, write_sheet
    from trustq.report.text import to_json
    from trustq.review.raters import rater_consensus, read_ratings

    require_csv(out)
    answers, opened = _opened(answers, source, seed)
    known = opened.out_of_fold.scorable
    found = rater_consensus(
        read_ratings(answers),
        sample_ids=opened.sample_ids[known],
        probs=opened.out_of_fold.probs[known],
        classes=opened.cache.classes,
    )
    rows = [
        {
            "sample_id": sample_id,
            "label": label,
            "quality": round(float(quality), 4),
            "agreement": round(float(agreement), 4),
            "raters": int(n),
            "majority": majority,
        }
        for sample_id, label, quality, agreement, n, majority in zip(
            *found[: len(found) - 2], strict=True
        )
    ]
    write_sheet(out, rows)
    if found.left_out:
        n = found.left_out
        print_note(
            f"{counted(n, 'answer')} {verb(n, 'is', 'are')} on rows of which {opened.cache.name} "
            "gives no probabilities."
        )
    raters = [rater._asdict() for rater in found.raters]
    if as_json:
        changed = sum(row["label"] != row["majority"] for row in rows)
        typer.echo(to_json({"rows": len(rows), "not_the_majority": changed, "raters": raters}))
        return
    shares = ("quality", "agreement")
    print_table([rater | {name: f"{rater[name]:.3f}" for name in shares} for rater in raters])
    typer.echo(
        f"{counted(len(rows), 'row')} with a label, of {counted(len(raters), 'rater')}, in {out}"
    )


def _opened(answers: Path, source: Path | None, seed: int) -> "tuple[Path, AuditSource]":
    """The file of answers, and the model's word on the rows."""
    from trustq.audit import open_source
    from trustq.audit.folder import read_audit_folder
    from trustq.audit.reopen import reopen
    from trustq.errors import InputError
    from trustq.review.journal import JOURNAL

    folder = answers if source is None else source
    if not folder.is_dir() and source is None:
        raise InputError(
            f"{answers} does not say what its rows are of. Name the audit's folder too, or the "
            "cache, embeddings or probabilities."
        )
    is_audit = folder.is_dir()
    opened = reopen(read_audit_folder(folder)) if is_audit else open_source(folder, seed=seed)
    return answers / JOURNAL if answers.is_dir() else answers, opened
