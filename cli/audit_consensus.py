"""`trustq audit consensus`: one label of a row that several people answered for."""

from pathlib import Path
from typing import Annotated

import typer

from .output import print_note, print_table


def consensus(
    answers: Annotated[
        Path,
        typer.Argument(help="A review's answers.jsonl, or a table of sample_id, rater, label."),
    ],
    source: Annotated[
        Path,
        typer.Argument(
            help="Cache, embeddings or out-of-fold probabilities of the rows, as for audit labels."
        ),
    ],
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

    Example: trustq audit consensus audit/answers.jsonl embeddings.npz
    """
    from trustq.audit import open_source
    from trustq.core.label_sheets import write_sheet
    from trustq.report.text import to_json
    from trustq.review.raters import rater_consensus, read_ratings

    opened = open_source(source, seed=seed)
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
        print_note(
            f"{found.left_out} answers are on rows of which {source} gives no probabilities."
        )
    raters = [rater._asdict() for rater in found.raters]
    if as_json:
        changed = sum(row["label"] != row["majority"] for row in rows)
        typer.echo(to_json({"rows": len(rows), "not_the_majority": changed, "raters": raters}))
        return
    shares = ("quality", "agreement")
    print_table([rater | {name: f"{rater[name]:.3f}" for name in shares} for rater in raters])
    typer.echo(f"{len(rows)} rows with a label, of {len(raters)} raters, in {out}")
