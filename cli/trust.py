"""`trustq trust`: can the confidence be trusted, under which condition, by which source?"""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from trustq.core.prose import say

from .options import AsJson, OfClass, Progress, Slicing, SplitArrays, listed
from .output import print_note, print_text, progress


@dataclass
class Conditions:
    """Under which conditions the confidence is judged, and by which sources of uncertainty."""

    conditions: Annotated[
        str,
        typer.Option(help="Views of the caches, or more arrays of the file: a,b, all or none."),
    ] = "all"
    views: Annotated[
        list[str] | None,
        typer.Option(help="Caches of the same rows and networks that hold more views or passes."),
    ] = None
    sources: Annotated[
        str | None,
        typer.Option(help="Sources of uncertainty: softmax,energy [default: all that are there]."),
    ] = None


@dataclass
class FittedHead:
    """The head that is fitted on features, and the labels it is fitted on."""

    head: Annotated[
        str | None,
        typer.Option(
            help="Head to fit on the features, e.g. linear; backbone: the network's own logits "
            "[default: backbone where there are logits, else linear]."
        ),
    ] = None
    noise: Annotated[
        str, typer.Option(help="Label noise that the head is fitted on, as in trustq repair.")
    ] = "none"
    draws: Annotated[int, typer.Option(help="Draws of that noise, each a head of its own.")] = 1
    arm: Annotated[str, typer.Option(help="Arm of trustq repair whose last round is judged.")] = (
        "none"
    )
    budget: Annotated[str, typer.Option(help="Labels that the arm buys.")] = "5%"
    concat: Annotated[
        str,
        typer.Option(
            help="Caches side by side as one set of features: none, all of them, or those of each "
            "backbone seed."
        ),
    ] = "none"


@dataclass
class Calibration:
    """On which rows temperature and thresholds are fitted."""

    calibrate_on: Annotated[
        Path | None, typer.Option(help="Predictions whose rows fit temperature and thresholds.")
    ] = None
    calibrate: Annotated[
        str | None,
        typer.Option(help="cv:5 = cross-fit temperature and thresholds by group on judged rows."),
    ] = None


@dataclass
class Output(Progress):
    """What is drawn and written, and from how many replicates."""

    of_class: OfClass = None
    allow_leak: Annotated[
        bool, typer.Option("--allow-leak", help="Judge rows that the network was trained on.")
    ] = False
    out: Annotated[Path | None, typer.Option(help="Folder for page, JSON, table and pictures.")] = (
        None
    )
    results: Annotated[
        Path | None, typer.Option(help="Folder of result tables to add the table to.")
    ] = None
    replicates: Annotated[int, typer.Option(help="Paired replicates over groups.")] = 2000
    seed: Annotated[int, typer.Option(help="Seed of replicates and folds.")] = 0
    json: AsJson = False


def trust(
    files: Annotated[
        list[str],
        typer.Argument(
            metavar="FILE...",
            help="Caches (one a network), folders of caches, or one file of predictions.",
        ),
    ],
    conditions: Conditions,
    head: FittedHead,
    calibration: Calibration,
    slicing: Slicing,
    arrays: SplitArrays,
    output: Output,
) -> None:
    """Judge the confidence: conditions x slices x sources of uncertainty, in one table.

    Networks are judged by their logits, frozen caches by heads that are fitted first. Every figure
    stands beside its paired difference to clean images.

    Example: trustq trust demo/cache/digits/digits --positive 3,8 --out trust/
    """
    from trustq.experiments.trust import judge
    from trustq.experiments.trust_inputs import open_judged, parse_folds
    from trustq.experiments.trust_tables import record_trust
    from trustq.metrics.per_class import class_positions
    from trustq.report.text import to_json
    from trustq.report.trust import notebook_files, trust_text, write_trust

    judged = open_judged(
        files,
        names=arrays.names,
        columns=slicing.columns,
        meta=slicing.meta or [],
        conditions=[] if conditions.conditions == "none" else listed(conditions.conditions),
        views=conditions.views or [],
        calibrate_on=calibration.calibrate_on,
        normalize=arrays.normalize,
        allow_leak=output.allow_leak,
        **vars(head),
    )
    if output.of_class is not None:
        class_positions(judged.classes, [output.of_class])  # whether it is one
    sources = listed(conditions.sources)
    more: dict[str, Any] = {"sources": sources} if sources else {}
    with progress("trust", "rows of cells") as report:
        run = judge(
            judged,
            positive=listed(slicing.positive, judged.classes),
            slices=listed(slicing.slices),
            ages=slicing.ages,
            folds=None if calibration.calibrate is None else parse_folds(calibration.calibrate),
            replicates=output.replicates,
            seed=output.seed,
            progress=report,
            **more,
        )
    if output.out is not None:
        for path in write_trust(run, output.out, of_class=output.of_class):
            say(f"wrote {path}")
    if output.results is not None:
        added = record_trust(run, output.results)
        print_note(f"table {run.key[:8]} {'added to' if added else 'is in'} {output.results}")
    if output.json:
        typer.echo(to_json(notebook_files(run)))
    else:
        print_text(trust_text(run))
