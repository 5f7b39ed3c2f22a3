"""The command line: each command parses its words, calls the library and prints.

A command's module is imported when the command is asked for, and imports heavy libraries inside the
command, so that `trustq sql` waits for DuckDB alone and `trustq --help` for nothing.
"""

from typing import Annotated

import typer

import trustq

from .app import App, lazy_commands

app = App(
    cls=lazy_commands(
        __name__,
        {
            "demo": ("demo.demo", "Run the whole flow on handwritten digits, on a CPU."),
            "data": ("data.app", "Make manifests of data sets and describe them."),
            "extract": (
                "extract.extract",
                "Train a backbone once per seed; cache features and logits.",
            ),
            "cache": (
                "cache.app",
                "List, describe, verify, join, import, export and relabel caches.",
            ),
            "recipes": ("recipes.app", "List recipes, show one resolved, explain settings."),
            "plan": ("plan.plan", "Say what a sweep can detect and how long it takes."),
            "repair": ("repair.repair", "Buy the labels each arm suspects, fit again, compare."),
            "sweep": ("sweep.sweep", "Run what a recipe asks for and is not there yet."),
            "audit": ("audit.app", "Find wrong labels and duplicates; write a cleaned list."),
            "review": ("review.review", "Answer for the listed labels in the browser."),
            "evaluate": (
                "evaluate.evaluate",
                "Evaluate predictions: calibration, selection, slices.",
            ),
            "compare": ("compare.compare", "Compare models on the same rows, in pairs."),
            "trust": ("trust.trust", "Judge the confidence under conditions, in one table."),
            "export": ("export.app", "Write tables, plots, labels and data for other programs."),
            "sql": ("sql.sql", "Ask the result tables in SQL."),
            "results": ("results.app", "Keep a results folder in order."),
            "bundle": ("bundle.app", "Check what trustq export bundle wrote."),
            "report": ("report.report", "Write one HTML page: warnings, tables, curves."),
            "loop": ("loop.loop", "Train networks again on what their scores bought."),
            "explain": ("explain.app", "Explanations as data: stability, trust cells, audits."),
            "check": ("check.check", "Check results against gates and earlier ones."),
            "study": ("study.study", "Run a study from images to report and packaged model."),
            "distil": ("distil.distil", "Train a small student on a teacher's logits."),
            "package": (
                "package.package",
                "Write a folder with the network as ONNX and its triage.",
            ),
            "serve": ("serve.serve", "Serve a page for phones and an API for programs."),
            "classify": (
                "classify.classify",
                "Write tier, score and probabilities of a folder's images.",
            ),
        },
    ),
    name="trustq",
    no_args_is_help=True,
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
