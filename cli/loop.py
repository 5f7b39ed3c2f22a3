"""`trustq loop`: train, score, buy, train again, for several arms and seeds."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from trustq.core.counts import counted

from .options import seed_numbers
from .output import print_table, print_text, resumable


@dataclass
class Training:
    """Which networks are trained, where."""

    recipe: Annotated[
        str, typer.Option(help="Packaged recipe (loop, loop-reference) or TOML file.")
    ] = "loop"
    seeds: Annotated[str, typer.Option(help="Comma-separated backbone seeds.")] = "42,52,62,72,82"
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", help="Any recipe key, e.g. --set rounds=2 --set budgets=128."),
    ] = None
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or mps.")] = "auto"
    root: Annotated[
        Path | None, typer.Option(help="Folder of images [default: as the manifest says].")
    ] = None


@dataclass
class Written:
    """What the table is of, and where to."""

    out: Annotated[Path, typer.Option(help="Folder for caches, labels, results and the table.")] = (
        Path("loop")
    )
    against: Annotated[str, typer.Option(help="Arm that the others are compared with.")] = "none"
    split: Annotated[str, typer.Option(help="Split of the figures.")] = "test"
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON for scripts.")] = False


def loop(
    manifest: Annotated[Path, typer.Argument(help="Manifest, .parquet or .csv.")],
    training: Training,
    written: Written,
) -> None:
    """Train networks, buy labels by their scores, train them again, and compare the arms.

    The recipe's [extract] trains, its [sweep] buys: one budget in equal rounds, for each arm. The
    first network of a seed is shared by all arms. A stopped loop goes on when the same command is
    given again. Figures are those of the networks themselves; `trustq sql --results OUT/results`
    has the rest.

    A small one, in a quarter of a minute:

    Example: trustq data sample demo/digits.parquet --images 200 --out small.parquet

    Example: trustq loop small.parquet --recipe loop-reference --seeds 0 --set
    backbone=test_convnext --set pretrained=false --set image_size=32 --set epochs=2 --set
    extract.noise=symmetric:0.2
    """
    from trustq.data.manifest import read_manifest
    from trustq.experiments.train_loop import train_loop
    from trustq.recipes import load_recipe

    chosen = load_recipe(training.recipe, settings=training.settings or [])
    wanted = seed_numbers(training.seeds)
    with resumable(
        "The same command goes on after the last finished epoch; finished networks and purchases "
        "are kept."
    ):
        run = train_loop(
            read_manifest(manifest, root=training.root),
            recipe=chosen,
            seeds=wanted,
            out=written.out,
            device=training.device,
        )
    run.save(written.out / "networks.parquet", split=written.split)
    means = run.means(split=written.split)
    paired = run.paired(split=written.split, against=written.against)
    if written.as_json:
        typer.echo(json.dumps({"means": means, "paired": paired}, indent=2))
        return
    print_text(
        f"{counted(len(wanted), 'network')} a row, {written.split} rows, their own softmax before "
        f"temperature. Every network: {written.out / 'networks.parquet'}"
    )
    print_table(means)
    if paired:
        print_text(_floor(paired))
        print_table([_rounded(row) for row in paired if row["stage"] == "uncalibrated"])


def _floor(paired: list[dict[str, Any]]) -> str:
    first = paired[0]
    text = f"\nLast networks of each arm less those of {first['against']}, paired by seed."
    if first["smallest_p"] > 0.05:
        text += (
            f" With {counted(first['n'], 'seed')} no p can be below {first['smallest_p']:g}: "
            "nothing here can "
            "be significant."
        )
    return text


def _rounded(row: dict[str, Any]) -> dict[str, Any]:
    return {
        name: round(value, 4) if isinstance(value, float) else value
        for name, value in row.items()
        if name not in ("stage", "against")
    }
