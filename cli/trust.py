"""`trustq trust`: can the confidence be trusted, under which condition, by which source?"""

from pathlib import Path
from typing import Annotated, Any

import typer

from .options import (
    Classes,
    Groups,
    Labels,
    Logits,
    NoProgress,
    Normalize,
    Probs,
    Quiet,
    SampleIds,
    Split,
    named,
)
from .output import print_note


def trust(
    files: Annotated[
        list[str],
        typer.Argument(
            metavar="FILE...",
            help="Caches (one a network), folders of caches, or one file of predictions.",
        ),
    ],
    conditions: Annotated[
        str,
        typer.Option(help="Views of the caches, or more arrays of the file: a,b, all or none."),
    ] = "all",
    views: Annotated[
        list[str] | None,
        typer.Option(help="Caches of the same rows and networks that hold more views or passes."),
    ] = None,
    sources: Annotated[
        str | None,
        typer.Option(help="Sources of uncertainty: softmax,energy [default: all that are there]."),
    ] = None,
    head: Annotated[
        str | None,
        typer.Option(
            help="Head to fit on the features, e.g. linear; backbone: the network's own logits "
            "[default: backbone where there are logits, else linear]."
        ),
    ] = None,
    noise: Annotated[
        str, typer.Option(help="Label noise that the head is fitted on, as in trustq repair.")
    ] = "none",
    draws: Annotated[int, typer.Option(help="Draws of that noise, each a head of its own.")] = 1,
    arm: Annotated[
        str, typer.Option(help="Arm of trustq repair whose last round is judged.")
    ] = "none",
    budget: Annotated[str, typer.Option(help="Labels that the arm buys.")] = "5%",
    concat: Annotated[
        bool,
        typer.Option("--concat", help="Take all caches side by side as one set of features."),
    ] = False,
    calibrate_on: Annotated[
        Path | None, typer.Option(help="Predictions whose rows fit temperature and thresholds.")
    ] = None,
    calibrate: Annotated[
        str | None,
        typer.Option(help="cv:5 = cross-fit temperature and thresholds by group on judged rows."),
    ] = None,
    positive: Annotated[
        str | None, typer.Option(help="Classes pooled into the positive class: mel,bcc,akiec.")
    ] = None,
    slices: Annotated[
        str | None, typer.Option(help="Columns to slice by, separated by commas.")
    ] = None,
    ages: Annotated[str | None, typer.Option(help="Column of ages, in bands of years.")] = None,
    meta: Annotated[
        list[Path] | None, typer.Option(help="Table to join by id; may be given again.")
    ] = None,
    labels: Labels = None,
    probs: Probs = None,
    logits: Logits = None,
    sample_ids: SampleIds = None,
    groups: Groups = None,
    split: Split = None,
    classes: Classes = None,
    normalize: Normalize = None,
    of_class: Annotated[
        str | None, typer.Option(help="Class of the precision-recall picture.")
    ] = None,
    allow_leak: Annotated[
        bool, typer.Option("--allow-leak", help="Judge rows that the network was trained on.")
    ] = False,
    out: Annotated[
        Path | None, typer.Option(help="Folder for page, JSON, table and pictures.")
    ] = None,
    results: Annotated[
        Path | None, typer.Option(help="Folder of result tables to add the table to.")
    ] = None,
    replicates: Annotated[int, typer.Option(help="Paired replicates over groups.")] = 2000,
    seed: Annotated[int, typer.Option(help="Seed of replicates and folds.")] = 0,
    json: Annotated[bool, typer.Option("--json", help="Print JSON instead of the page.")] = False,
    quiet: Quiet = False,
    no_progress: NoProgress = False,
) -> None:
    """Judge the confidence: conditions x slices x sources of uncertainty, in one table.

    Networks are judged by their logits, frozen caches by heads that are fitted first. Every figure
    stands beside its paired difference to clean images.

    Example: trustq trust cache/ham10000/small-cpu --positive mel --out trust/
    """
    from trustq.experiments.trust import judge
    from trustq.experiments.trust_inputs import open_judged, parse_folds
    from trustq.experiments.trust_tables import record_trust
    from trustq.report.text import to_json
    from trustq.report.trust import notebook_files, trust_text, write_trust

    names = named(
        labels=labels,
        probs=probs,
        logits=logits,
        sample_ids=sample_ids,
        groups=groups,
        split=split,
        classes=classes,
    )
    wanted = _listed(slices)
    judged = open_judged(
        files,
        names=names,
        columns=list(dict.fromkeys([*wanted, *([ages] if ages else [])])),
        meta=meta or [],
        conditions=[] if conditions == "none" else _listed(conditions),
        views=views or [],
        head=head,
        noise=noise,
        draws=draws,
        arm=arm,
        budget=budget,
        concat=concat,
        calibrate_on=calibrate_on,
        normalize=normalize,
        allow_leak=allow_leak,
    )
    more: dict[str, Any] = {"sources": _listed(sources)} if sources else {}
    run = judge(
        judged,
        positive=_listed(positive, judged.classes),
        slices=wanted,
        ages=ages,
        folds=None if calibrate is None else parse_folds(calibrate),
        replicates=replicates,
        seed=seed,
        **more,
    )
    if out is not None:
        for path in write_trust(run, out, of_class=of_class):
            print_note(f"wrote {path}")
    if results is not None:
        added = record_trust(run, results)
        print_note(f"table {run.key[:8]} {'added to' if added else 'is in'} {results}")
    typer.echo(to_json(notebook_files(run)) if json else trust_text(run))


def _listed(text: str | None, known: Any = ()) -> list[str]:
    from trustq.core.words import split_names

    return split_names(text, known=known) if text else []
