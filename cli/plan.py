"""`trustq plan`: what a sweep could show, and what it costs, before it runs."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from trustq.core.prose import say

from .output import print_text


@dataclass
class Design:
    """What is compared, and how sure one wants to be."""

    baseline: Annotated[str, typer.Option(help="Arm that the others are compared with.")] = "random"
    metric: Annotated[str, typer.Option(help="Metric of the effect.")] = "accuracy"
    stage: Annotated[str, typer.Option(help="uncalibrated or calibrated.")] = "uncalibrated"
    effect: Annotated[
        float | None, typer.Option(help="Gain to detect [default: the oracle's, from the pilot].")
    ] = None
    comparisons: Annotated[
        int | None, typer.Option(help="Size of Holm's family [default: arms x budgets].")
    ] = None
    alpha: Annotated[float, typer.Option(help="Largest p that counts as found.")] = 0.05
    power: Annotated[float, typer.Option(help="Share of sweeps that should find it.")] = 0.8


@dataclass
class Pilot:
    """What was measured before, and what labels cost."""

    results: Annotated[
        Path | None, typer.Option("--from", help="Folder of earlier results, instead of a pilot.")
    ] = None
    backbones: Annotated[
        int | None, typer.Option(help="Backbone seeds, where there are no caches yet [default: 1].")
    ] = None
    minutes_per_label: Annotated[
        float | None, typer.Option(help="An expert's minutes for one label.")
    ] = None
    pilot_draws: Annotated[int, typer.Option(help="Draws of the pilot.")] = 5


def plan(
    recipe: Annotated[str, typer.Argument(help="Packaged recipe, TOML file, or default.")],
    design: Design,
    pilot: Pilot,
    caches: Annotated[
        list[str] | None, typer.Argument(help="Caches to run on; a short pilot is run on them.")
    ] = None,
    settings: Annotated[
        list[str] | None, typer.Option("--set", help="Any recipe key, e.g. --set draws=20.")
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print JSON instead of the page.")] = False,
) -> None:
    """Say what a sweep can detect before it runs, what there is to gain, and what labels cost.

    Example: trustq plan reference-study --backbones 5 --minutes-per-label 2
    """
    import math

    from trustq.analysis.study_design import Question, plan_sweep
    from trustq.recipes import load_recipe
    from trustq.report.plan import plan_page, plan_summary
    from trustq.report.text import to_json
    from trustq.store import find_caches, open_cache

    chosen = load_recipe(
        "" if recipe == "default" else recipe, settings=settings or [], part="sweep"
    )
    opened = [open_cache(path) for path in find_caches(caches)] if caches else []
    if opened and pilot.results is None:
        say(f"running a pilot of {pilot.pilot_draws} draws ...")
    found = plan_sweep(
        chosen,
        opened,
        question=Question(**vars(design)),
        results=pilot.results,
        backbones=pilot.backbones,
        minutes_per_label=math.nan if pilot.minutes_per_label is None else pilot.minutes_per_label,
        pilot_draws=pilot.pilot_draws,
    )
    if json:
        typer.echo(to_json(plan_summary(found)))
    else:
        print_text(plan_page(found))
