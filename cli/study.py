"""`trustq study`: a whole study from one file, stage by stage."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from .app import print_remark
from .options import Progress
from .output import print_table, resumable


@dataclass
class Stages:
    """Which stages run."""

    first: Annotated[
        str | None,
        typer.Option("--from", metavar="STAGE", help="Run this stage and all after it again."),
    ] = None
    last: Annotated[
        str | None, typer.Option("--until", metavar="STAGE", help="Stop after this stage.")
    ] = None
    quick: Annotated[
        int | None, typer.Option(metavar="N", help="Work on N images, in a folder of their own.")
    ] = None
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what would run and why; run nothing.")
    ] = False


def study(
    stages_asked: Stages,
    quietly: Progress,
    file: Annotated[Path, typer.Argument(metavar="FILE.toml", help="The study.")] = Path(
        "study.toml"
    ),
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON for scripts.")] = False,
) -> None:
    """Run a study from images to report and packaged model, each stage once.

    The file names data, recipe and seeds:

    \b
    [study]
    data = "digits"
    recipe = "digits"
    seeds = [0, 1]
    [options]
    repair = ["--noise", "stored", "--draws", "2"]
    package = ["--positive", "3,8"]

    Stages are environment, prepare, extract, repair, audit, report, package, and those that the
    file adds as [[stages]]. A stage runs again only where its command, inputs or outputs changed;
    a stopped study goes on where it was. A failed stage stops what depends on it and nothing else.

    Example: trustq study demo/study.toml --quick 200
    """
    import json

    from trustq.experiments.stage_runner import run_stages

    from .study_file import read_study

    read = read_study(file, quick=stages_asked.quick)
    with resumable("Stages that ended are kept; the same command goes on from there."):
        ended = run_stages(
            read.stages,
            read.folder,
            first=stages_asked.first,
            last=stages_asked.last,
            dry=stages_asked.dry_run,
            tell=print_remark,
        )
    rows = [one.__dict__ for one in ended]
    if as_json:
        typer.echo(json.dumps({"folder": str(read.folder), "stages": rows}))
    else:
        shown = [
            {
                "stage": one.name,
                "state": one.state,
                "seconds": None if one.seconds is None else round(one.seconds, 1),
                "why": one.why.splitlines()[0].removesuffix(":") if one.why else "",
            }
            for one in ended
        ]
        print_table(shown)
    if any(one.state == "failed" for one in ended):
        raise typer.Exit(1)
