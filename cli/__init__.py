"""The command line: each command parses its words, calls the library and prints.

Modules here import heavy libraries inside the commands, so that `trustq --help` starts at once.
"""

from typing import Annotated

import typer

import trustq

from . import (
    audit,
    bundle,
    cache,
    check,
    classify,
    compare,
    data,
    demo,
    distil,
    evaluate,
    explain,
    export,
    extract,
    loop,
    package,
    plan,
    recipes,
    repair,
    report,
    results,
    review,
    serve,
    sql,
    study,
    sweep,
    trust,
)
from .app import App

app = App(
    name="trustq",
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"trustq {trustq.__version__}")
        raise typer.Exit


@app.callback()
def main(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_version, is_eager=True, help="Print the version."),
    ] = False,
) -> None:
    """Which labels should be checked, does it pay, and can the model be trusted afterwards?

    One GPU extraction, then fast label-repair and calibration experiments on a CPU, and SQL over
    their results. Research only, not a medical device.

    Start with: trustq demo
    """


app.command()(demo.demo)
app.add_typer(data.app, name="data")
app.command()(extract.extract)
app.add_typer(cache.app, name="cache")
app.add_typer(recipes.app, name="recipes")
app.command()(plan.plan)
app.command("repair")(repair.repair)
app.command()(sweep.sweep)
app.command()(loop.loop)
app.add_typer(audit.app, name="audit")
app.command()(review.review)
app.command()(evaluate.evaluate)
app.command()(compare.compare)
app.add_typer(explain.app, name="explain")
app.command()(trust.trust)
app.add_typer(export.app, name="export")
app.command()(sql.sql)
app.add_typer(results.app, name="results")
app.add_typer(bundle.app, name="bundle")
app.command()(report.report)
app.command()(study.study)
app.command()(distil.distil)
app.command()(package.package)
app.command()(serve.serve)
app.command()(classify.classify)
app.command()(check.check)
