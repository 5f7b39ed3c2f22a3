"""`trustq results`: keep a results folder in order."""

from pathlib import Path
from typing import Annotated

import typer

from trustq.core.counts import counted, verb
from trustq.core.prose import say

from .app import App

app = App(help="Keep a results folder in order.", no_args_is_help=True)

_Folder = Annotated[Path, typer.Option(help="Folder of result tables.")]


@app.command()
def compact(results: _Folder = Path("results")) -> None:
    """Merge small parts into large ones; nothing is deleted, no query or sweep is disturbed.

    A sweep does it by itself when it ends.

    Example: trustq results compact --results demo/results
    """
    from trustq.results import compact as merge

    merged = merge(results, fewest=2)
    say(f"{merged} parts were merged in {results}")


@app.command()
def clean(
    results: _Folder = Path("results"),
    grace: Annotated[
        float, typer.Option(help="Seconds for which what was merged is kept for open queries.")
    ] = 600.0,
) -> None:
    """Delete parts that were merged, and what killed writers left behind ten minutes ago or more.

    Example: trustq results clean --results demo/results
    """
    from trustq.results import clean as delete

    deleted = delete(results, grace_seconds=grace)
    say(f"{deleted} parts were deleted from {results}")


@app.command()
def verify(
    results: _Folder = Path("results"),
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Check every byte of every part against the digests that were recorded when it was written.

    Queries check what they read by themselves; this checks all of it.

    Example: trustq results verify --results demo/results
    """
    import dataclasses
    import json

    from trustq.errors import TrustqError
    from trustq.results import verify_results

    found = verify_results(results)
    if as_json:
        typer.echo(json.dumps(dataclasses.asdict(found), indent=2))
    if found.faults:
        shown = "\n".join(found.faults[:20])
        more = len(found.faults) - 20
        rest = f"\n... and {more} more" if more > 0 else ""
        raise TrustqError(f"{results} is damaged in {len(found.faults)} places.\n{shown}{rest}")
    if as_json:
        return
    typer.echo(
        f"{results}: {counted(found.n_parts, 'part')}, {counted(found.n_files, 'file')}, "
        f"{found.n_bytes:,} bytes are as they were written"
    )
    if found.n_unrecorded:
        typer.echo(
            f"{counted(found.n_unrecorded, 'part')} {verb(found.n_unrecorded, 'is', 'are')} of a "
            "trustq before digests, so nothing is known of them; `trustq results compact` writes "
            "what it merges with digests"
        )
