"""`trustq export`: tables of results for papers and other programs."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from trustq.core.counts import counted
from trustq.core.prose import say

from .app import App
from .options import refuse_beside
from .output import form_of, terminal_width, write_or_print

if TYPE_CHECKING:
    from trustq.analysis.significance import SeedTable

app = App(help="Tables of results for papers and other programs.", no_args_is_help=True)

_Results = Annotated[Path, typer.Option(help="Folder of result tables.")]
_Where = Annotated[
    str, typer.Option(help="Cells to take, in SQL, e.g. \"head = 'linear' AND draw_seed < 5\".")
]


@app.callback()
def export() -> None:
    """Tables of results for papers and other programs."""


@dataclass
class Compared:
    """Which figures of which arms are compared."""

    metrics: Annotated[
        str | None,
        typer.Option(
            help="Columns to compare, separated by commas [default: those of macro_f1 and accuracy "
            "by whatever name, e.g. test_cal_accuracy]."
        ),
    ] = None
    arms: Annotated[
        str | None, typer.Option(help="Arms of --results, the compared one first: a,b,c.")
    ] = None
    by: Annotated[
        str, typer.Option(help="Compare values of this column of runs instead: head, ...")
    ] = "arm"
    split: Annotated[str, typer.Option(help="Evaluated rows of --results.")] = "test"
    stage: Annotated[str, typer.Option(help="calibrated or uncalibrated.")] = "calibrated"
    where: _Where = ""


@dataclass
class Written:
    """How the table is written."""

    format: Annotated[
        str | None,
        typer.Option(
            help="markdown, csv or latex [default: by the ending of --out, else markdown]."
        ),
    ] = None
    json: Annotated[bool, typer.Option("--json", help="Print JSON instead.")] = False
    out: Annotated[Path | None, typer.Option(help="File to write instead of printing.")] = None


@app.command()
def significance(
    compared: Compared,
    written: Written,
    tables: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[EVALUATION:]NAME=FILE...",
            help="Seed tables (CSV or Parquet, one row per seed). The first of each evaluation is "
            "compared with its others. None: the arms of --results.",
        ),
    ] = None,
    results: Annotated[Path, typer.Option(help="Folder of result tables.")] = Path("results"),
    seed: Annotated[int, typer.Option(help="Seed of the bootstrap.")] = 0,
) -> None:
    """Compare arms over seeds: difference, interval, sign-flip p with its floor, Holm, effect.

    Intervals are over seeds alone; trustq compare --arms crosses them with groups. Tables of your
    own are named NAME=FILE; --by head --arms xgboost,linear compares heads.

    Example: trustq export significance --results demo/results --arms self_confidence,random --where
    "exposure = 'frozen'"
    """
    from dataclasses import asdict

    from trustq.analysis.significance import (
        METRICS,
        default_metrics,
        format_significance,
        results_seed_tables,
        significance,
    )
    from trustq.errors import InputError
    from trustq.report.text import to_json

    if written.json:
        refuse_beside(["format"] if written.format else [], "--json")
    wanted = [name.strip() for name in (compared.metrics or "").split(",") if name.strip()]
    if tables:
        usual = vars(type(compared)()) | {"metrics": compared.metrics}
        given = [name for name, value in vars(compared).items() if value != usual[name]]
        refuse_beside(given, "files of seeds")
        read = _seed_tables(tables)
        wanted = wanted or default_metrics(read)
    elif compared.arms:
        names, wanted = [name.strip() for name in compared.arms.split(",")], wanted or list(METRICS)
        read = results_seed_tables(
            results,
            arms=names,
            by=compared.by,
            metrics=wanted,
            split=compared.split,
            stage=compared.stage,
            where=compared.where,
        )
    else:
        raise InputError(
            "There is nothing to compare: name two seed tables (Repair=repair.csv "
            "None=no-repair.csv), or arms of a results folder (--arms self_confidence,none)."
        )
    rows = significance(read, metrics=wanted, seed=seed)
    form = "json" if written.json else form_of(written.format, written.out, "markdown")
    as_json = to_json([asdict(row) for row in rows]) if form == "json" else ""
    _write_or_show(as_json or format_significance(rows, form), written.out, form)


def _seed_tables(given: list[str]) -> "list[SeedTable]":
    """The seed tables of [EVALUATION:]NAME=FILE."""
    from trustq.analysis.significance import read_seed_table
    from trustq.errors import InputError

    read = []
    for text in given:
        name, equals, file = text.partition("=")
        if not equals or not name or not file:
            raise InputError(f"{text!r} is not of the form NAME=FILE, e.g. Repair=repair.csv.")
        evaluation, _, arm = name.rpartition(":")
        read.append(read_seed_table(Path(file), arm=arm, evaluation=evaluation))
    return read


@dataclass
class Figures:
    """Which figures a table has."""

    metrics: Annotated[
        str,
        typer.Option(
            help="Columns, separated by commas; aurc:CONVENTION and ece:CONVENTION are AURC and "
            "ECE as others compute them."
        ),
    ] = "accuracy,macro_f1,ece,nll,aurc,augrc"
    preset: Annotated[
        str | None, typer.Option(help="Columns of a published table: trustquerynet.")
    ] = None
    split: Annotated[str, typer.Option(help="test, val, external or out_of_fold.")] = "test"
    stage: Annotated[str, typer.Option(help="calibrated or uncalibrated.")] = "calibrated"
    where: _Where = ""


@dataclass
class TableForm:
    """How the table is written."""

    format: Annotated[
        str | None,
        typer.Option(
            help="markdown, csv, latex or table [default: by the ending of --out, else table on a "
            "terminal, else markdown]."
        ),
    ] = None
    json: Annotated[bool, typer.Option("--json", help="Print JSON instead.")] = False
    out: Annotated[Path | None, typer.Option(help="File to write instead of printing.")] = None


@app.command()
def table(
    figures: Figures,
    form: TableForm,
    results: _Results = Path("results"),
) -> None:
    """Settings x metrics: mean and sd over seeds, the best of each problem marked.

    Example: trustq export table --results demo/results --preset trustquerynet --format latex
    """
    from trustq.analysis.main_table import PRESETS, format_main_table, main_table, table_records
    from trustq.errors import NotFound
    from trustq.report.text import to_json

    if figures.preset is not None and figures.preset not in PRESETS:
        raise NotFound(
            f"There is no preset {figures.preset!r}, only {', '.join(PRESETS)}.",
            expected=PRESETS,
            found=figures.preset,
        )
    if form.json:
        refuse_beside(["format"] if form.format else [], "--json")
    named = [name.strip() for name in figures.metrics.split(",") if name.strip()]
    found = main_table(
        results,
        metrics=PRESETS[figures.preset] if figures.preset else named,
        split=figures.split,
        stage=figures.stage,
        where=figures.where,
    )
    width = None if form.out else terminal_width()
    usual = "markdown" if width is None else "table"
    shape = "json" if form.json else form_of(form.format, form.out, usual)
    shown = "" if shape == "json" else format_main_table(found, shape, width=width)
    _write_or_show(shown or to_json(table_records(found)), form.out, shape)


def _write_or_show(text: str, out: Path | None, form: str) -> None:
    """Write or print a table; its notes are folded but in the formats that programs read."""
    from trustq.core.prose import folded

    write_or_print(folded(text) if form in ("markdown", "table") else text, out, form)


@app.command()
def labels(
    arm: Annotated[str, typer.Argument(help="Arm that repaired them.")],
    budget: Annotated[str | None, typer.Option(help="Its budget, where several were run.")] = None,
    results: _Results = Path("results"),
    where: _Where = "",
    out: Annotated[Path, typer.Option(help="Folder for a file a backbone seed.")] = Path("labels"),
    json: Annotated[bool, typer.Option("--json", help="Print JSON instead.")] = False,
) -> None:
    """Write the labels that an arm left, to train the backbone on them again.

    A network trained on them with the same recipe is then that arm with refit backbone, beside the
    head-only one: trustq extract M.parquet --recipe R --name again-ARM --observed
    'labels/seed{seed}.parquet' --seeds 42,52, then trustq repair --head backbone --arms none.

    Example: trustq export labels self_confidence --results demo/results --where
    "cache_recipe = 'digits' AND draw_seed = 0" --out labels
    """
    from trustq.core.sql_text import literal
    from trustq.report.text import to_json
    from trustq.results import save_repaired_labels

    conditions = [f"({where})"] if where else []
    conditions += [f"budget = {literal(budget)}"] if budget is not None else []
    saved = save_repaired_labels(results, out, arm=arm, where=" AND ".join(conditions))
    if json:
        typer.echo(to_json([row._asdict() | {"path": str(row.path)} for row in saved]))
        return
    for row in saved:
        typer.echo(
            f"{row.path}: {counted(row.n_rows, 'label')}, {row.n_bought:,} of them bought, "
            f"{row.n_wrong:,} still wrong"
        )


@app.command()
def plots(
    results: _Results = Path("results"),
    out: Annotated[Path, typer.Option(help="Folder for the pictures.")] = Path("plots"),
    metric: Annotated[str, typer.Option(help="Metric of curves and comparisons.")] = "accuracy",
    where: _Where = "",
) -> None:
    """Draw repair curves, budget and gain, arms, risk-coverage and reliability: PNG and SVG.

    Example: trustq export plots --results demo/results --out plots
    """
    from trustq.report.plot_set import draw_figures

    for path in draw_figures(results, out, metric=metric, where=where):
        typer.echo(path)


@app.command()
def db(
    out: Annotated[Path, typer.Argument(help="DuckDB file to write.")],
    results: _Results = Path("results"),
) -> None:
    """Write all tables and views as one DuckDB file, for other tools.

    Example: trustq export db demo.duckdb --results demo/results
    """
    from trustq.results import save_database

    save_database(results, out)
    say(f"{out} written")


@app.command()
def bundle(
    out: Annotated[Path, typer.Argument(help="Zip file to write.")],
    results: _Results = Path("results"),
) -> None:
    """Zip tables, plots and recipes with the queries, versions and digests to check them.

    Example: trustq export bundle study.zip --results demo/results
    """
    from trustq.report.bundle import write_bundle

    for name in write_bundle(results, out):
        typer.echo(name)
