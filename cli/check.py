"""`trustq check`: gates on a results folder, for CI."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from trustq.core.counts import counted
from trustq.core.prose import say

from .output import print_note, print_table, print_text


@dataclass
class Gates:
    """What the figures must reach."""

    gate: Annotated[
        list[str] | None,
        typer.Option(help="Bound, e.g. 'ece<.05' or 'recall[mel]>.6'; may be repeated."),
    ] = None
    packaged: Annotated[
        bool,
        typer.Option("--packaged", help="Also check accuracy>=.85, macro_f1>=.80 and gap<=.10."),
    ] = False
    against: Annotated[
        Path | None, typer.Option(help="Folder of earlier results with the same test rows.")
    ] = None
    parity: Annotated[
        bool,
        typer.Option("--parity", help="Fail where runs differ in more than their arm and seeds."),
    ] = False
    may_differ: Annotated[
        str, typer.Option(help="Columns of runs in which they may differ too, a,b,c.")
    ] = ""


@dataclass
class Chosen:
    """Which figures are checked."""

    where: Annotated[str, typer.Option(help="SQL condition on runs that picks the setup.")] = ""
    stage: Annotated[
        str, typer.Option(help="Predictions to check: calibrated or uncalibrated.")
    ] = "calibrated"
    split: Annotated[str, typer.Option(help="Split to check.")] = "test"
    dataset: Annotated[
        str | None, typer.Option(help="Evaluated data set [default: the runs' own].")
    ] = None


@dataclass
class Told:
    """How intervals are drawn and what is kept."""

    history: Annotated[
        Path | None,
        typer.Option(help="CSV that each check is added to; a fall against its last row is told."),
    ] = None
    seed: Annotated[int, typer.Option(help="Seed of simulated intervals.")] = 0
    json: Annotated[bool, typer.Option("--json", help="Print JSON for scripts.")] = False


def check(
    demands: Gates,
    chosen: Chosen,
    told: Told,
    results: Annotated[Path, typer.Argument(help="Folder of result tables.")] = Path("results"),
) -> None:
    """Check results against gates and against earlier ones; exit status 1 where one fails.

    A gate fails where the figure and its whole interval miss the bound; with --against, a figure
    fails that fell significantly, paired by group and seed.

    Example: trustq check demo/results --gate 'accuracy>.8' --gate 'recall[3]>.6' --where
    "exposure = 'frozen' AND arm = 'none'"
    """
    from trustq.analysis import gates
    from trustq.analysis.pairs import Stored
    from trustq.core.safety import SAFETY
    from trustq.errors import InputError
    from trustq.report.text import to_json

    texts = [*(demands.gate or []), *(gates.PACKAGED if demands.packaged else ())]
    if not texts and not demands.parity and demands.against is None:
        raise InputError(
            "Nothing to check: give a gate (`gate=ece<.05`), `packaged`, `parity`, or `against`."
        )
    if demands.may_differ and not demands.parity:
        raise InputError("`may_differ` is of `parity`, which is not checked: give it, too.")
    record: dict[str, Any] = {}
    passed = True
    if demands.parity:
        allowed = [name.strip() for name in demands.may_differ.split(",") if name.strip()]
        differing = gates.parity(results, allowed=allowed, where=chosen.where)
        record["parity"] = differing
        passed = not differing
        if not told.json:
            print_table([{"differs": k, "values": _few(v)} for k, v in differing.items()])
            typer.echo("Parity: " + ("failed" if differing else "only arms and seeds differ"))
    if texts or demands.against is not None:
        found = gates.check_results(
            results,
            [gates.parse_gate(text) for text in texts],
            against=demands.against,
            stored=Stored(chosen.split, chosen.stage, chosen.dataset, chosen.where),
            seed=told.seed,
        )
        record |= found.record
        passed = passed and found.passed
        if not told.json:
            _print(found)
        if told.history is not None:
            from trustq.analysis.check_history import add_check

            for text in add_check(told.history, found):
                say(text)
    record["passed"] = passed
    if told.json:
        typer.echo(to_json(record))
    else:
        typer.echo(f"{'passed' if passed else 'FAILED'}")
        say(SAFETY[0])
    if not passed:
        raise typer.Exit(1)


def _print(found: Any) -> None:
    said = ", ".join(f"{name} {value}" for name, value in found.setup.items() if value is not None)
    print_text(f"{counted(found.n_runs, 'run')}, {counted(found.n_rows, 'row')}: {said}")
    for name in ("gates", "changes"):
        rows = [vars(one) for one in getattr(found, name)]
        print_table([{key: _short(value) for key, value in row.items()} for row in rows])
    for note in found.notes:
        print_note(f"{note}.")


def _short(value: Any) -> Any:
    return float(f"{value:.4g}") if isinstance(value, float) else value


def _few(values: list[Any]) -> str:
    shown = ", ".join(str(value) for value in values[:5])
    return shown + (f" and {len(values) - 5} more" if len(values) > 5 else "")
