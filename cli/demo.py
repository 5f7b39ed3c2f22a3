"""`trustq demo`: the whole flow in one command."""

import time
from pathlib import Path
from typing import Annotated

import typer

from trustq.core.prose import say

from .output import print_repair_table, print_result, progress, resumable


def demo(
    out: Annotated[Path, typer.Option(help="Folder for everything it makes.")] = Path("demo"),
) -> None:
    """Run the whole flow on handwritten digits, on a CPU.

    Images, two frozen and two noise-trained networks, repair with three arms, an audit, a packaged
    model, pictures and SQL; nothing is downloaded. A minute or two on two cores.

    Example: trustq demo
    """
    from trustq.api.demo import TABLE_SQL, run_demo

    started = time.monotonic()
    with resumable("Finished caches and runs are kept; the same command goes on from there."):
        made = run_demo(out, say=say, progress=progress)
    typer.echo("\nFrozen features: the honest place to try any noise\n")
    print_repair_table(made.frozen)
    typer.echo("\nFine-tuned on the noisy labels: the features saw the rows that are repaired\n")
    print_repair_table(made.trained)
    typer.echo(
        f'\nThe first table again, by SQL: trustq sql --results {made.results} "\n{TABLE_SQL}"\n'
    )
    print_result(made.sql)
    typer.echo("\nPictures:")
    for picture in made.pictures:
        typer.echo(f"  {picture}")
    typer.echo(
        f"Done in {time.monotonic() - started:.0f} s. Next: trustq sql --results {made.results}, "
        f"trustq review {out / 'audit'}"
        + ("" if made.model is None else f", trustq serve {made.model}")
    )
