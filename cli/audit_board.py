"""`trustq audit board`: which score finds wrong labels where."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from trustq.core.prose import say

from .output import print_text


@dataclass
class Noise:
    """Noise that is planted, and its draws."""

    noise: Annotated[
        str,
        typer.Option(
            metavar="KIND,...",
            help="Label noise where a set has none: symmetric:RATE, pair:RATE, instance:RATE, "
            "reference.",
        ),
    ] = "symmetric:0.2,pair:0.2,instance:0.2"
    seeds: Annotated[int, typer.Option(metavar="N", help="Draws of each kind of noise.")] = 3


@dataclass
class Columns:
    """What is where in a file."""

    observed: Annotated[
        str | None, typer.Option(metavar="COLUMN", help="Name of the observed labels.")
    ] = None
    labels: Annotated[
        str | None, typer.Option(metavar="COLUMN", help="Name of the reference labels.")
    ] = None
    probs: Annotated[
        str | None, typer.Option(metavar="COLUMN", help="Name of out-of-fold probabilities.")
    ] = None
    normalize: Annotated[
        str | None,
        typer.Option(metavar="HOW", help="Normalize rows to sum to 1: l1 or softmax."),
    ] = None


def board(
    sources: Annotated[
        list[Path],
        typer.Argument(
            metavar="CACHE|FILE...",
            help="Sets whose truth is known: observed beside reference labels, or features with "
            "labels that noise is put on.",
        ),
    ],
    planted: Noise,
    columns: Columns,
    out: Annotated[
        Path | None, typer.Option(metavar="FILE.csv", help="Also write the whole table.")
    ] = None,
    scores: Annotated[
        str | None,
        typer.Option(
            metavar="SCORE,...",
            help="Scores to compare, e.g. default,mean_rank; default is the one that an audit "
            "takes [default: all]; without those of the path, heads are fitted for one penalty "
            "only, which is much faster.",
        ),
    ] = None,
    every_row: Annotated[
        bool,
        typer.Option(
            "--every-row",
            help="Put noise also on rows whose label the backbone saw; such figures flatter.",
        ),
    ] = False,
    json: Annotated[bool, typer.Option("--json", help="Print JSON instead of the table.")] = False,
) -> None:
    """Compare all scores on sets whose wrong labels are known.

    For each set and score: false negatives at a budget of the noise rate, average precision,
    precision at 5 and 10 %, and average precision and the precision of an audit's default list
    over self-confidence's, each with a paired interval.

    Example: trustq audit board demo/cache/digits/frozen/seed0.h5 --noise symmetric:0.2 --seeds 1
    """
    from dataclasses import asdict

    from trustq.audit.board import board as compare
    from trustq.report.audit import board_page, write_rows
    from trustq.report.text import to_json

    given = {"observed": columns.observed, "labels": columns.labels, "probs": columns.probs}
    rows = compare(
        sources,
        noise=[kind.strip() for kind in planted.noise.split(",") if kind.strip()],
        seeds=planted.seeds,
        names={name: value for name, value in given.items() if value is not None},
        normalize=columns.normalize,
        rows="all" if every_row else "unseen",
        scores=[name.strip() for name in (scores or "").split(",") if name.strip()],
    )
    if out is not None:
        write_rows(out, [asdict(row) for row in rows])
        say(f"wrote {out}")
    if json:
        typer.echo(to_json([asdict(row) for row in rows]))
    else:
        print_text(board_page(rows))
