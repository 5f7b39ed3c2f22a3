"""`trustq explain`: maps of a network's decisions, their stability, trust cells and failures."""

from dataclasses import dataclass
from math import isnan
from pathlib import Path
from typing import Annotated, Any

import typer

from trustq.core.counts import counted
from trustq.core.prose import say

from .app import App
from .options import listed
from .output import print_note, print_table, print_text

app = App(
    no_args_is_help=True,
    help="Explanations as data: stability of maps, trust cells, failure audits, sanity checks.",
)

_Caches = Annotated[
    list[str],
    typer.Argument(metavar="CACHE...", help="Caches of the same rows with maps, one per seed."),
]
_Method = Annotated[
    str, typer.Option(help="exact (stored maps), gradcam, scorecam (stored), or auto.")
]
_Class = Annotated[str, typer.Option("--class", help="predicted, label, or a class name.")]
_Split = Annotated[str, typer.Option(help="Split whose rows are reported.")]
_Over = Annotated[
    str,
    typer.Option(help="What maps are compared over: passes, views, seeds, or auto (the first)."),
]
_Results = Annotated[
    Path | None, typer.Option(help="Folder of result tables to add the rows to, for trustq sql.")
]
_Json = Annotated[bool, typer.Option("--json", help="Print JSON for scripts.")]


@app.command()
def stability(
    caches: _Caches,
    method: _Method = "auto",
    explained: _Class = "predicted",
    split: _Split = "test",
    out: Annotated[Path | None, typer.Option(help="CSV of each row's figures to write.")] = None,
    results: _Results = None,
    json: _Json = False,
) -> None:
    """Measure how much the maps of the same rows move over passes, views and seeds.

    Overlap of the top 20 % and rank correlation (higher is more stable), shift of the center of
    mass and max-sensitivity (lower is more stable), means over rows of the first cache; the table
    stability of RESULTS has every row of every cache.

    Example: trustq extract demo/digits.parquet --with 'demo/cache/digits/digits/seed*.h5' --name
    maps --only val,test --maps --passes 5 --pass-drop path:0.1 --explain gradcam --explain-checks
    16

    Example: trustq explain stability 'cache/digits/maps/seed*.h5' --results results
    """
    import numpy as np

    from trustq.explain.summaries import stability_rows, stability_table
    from trustq.explain.tables import record_stability
    from trustq.report.text import to_json

    opened = _opened(caches)
    found = stability_table(opened, method=method, explain=explained, split=split)
    for note in found.notes:
        print_note(f"{note}.")
    if out is not None:
        from trustq.report.audit import write_rows

        write_rows(out, stability_rows(found))
        say(f"wrote {out}")
    if results is not None:
        record_stability(opened, results, method=method, explain=explained, split=split)
    if json:
        typer.echo(to_json({"method": found.method, "n": len(found.rows), "over": found.means}))
        return
    print_table([{name: _shown(value) for name, value in row.items()} for row in found.means])
    blank = int(np.isnan(found.per_row[0]["overlap"]).sum()) if found.per_row else 0
    print_text(
        f"{counted(len(found.rows), 'row')} of {split}, maps by {found.method}"
        + (f"; {blank:,} have a blank map, and no overlap" if blank else "")
    )
    _safety()


@dataclass
class Cells:
    """Where high confidence and stability begin, and what cells are split by."""

    by: Annotated[str | None, typer.Option(help="Column of --metadata to tabulate cells by.")] = (
        None
    )
    metadata: Annotated[
        Path | None, typer.Option(help="Manifest or table with columns by sample_id.")
    ] = None
    confidence_cut: Annotated[
        float | None, typer.Option(help="Probability from which a row is confident.")
    ] = None
    stability_cut: Annotated[
        float | None, typer.Option(help="Overlap from which a row is stable.")
    ] = None


@dataclass
class Maps:
    """The maps that are looked at, and on which rows."""

    over: _Over = "auto"
    method: _Method = "auto"
    split: _Split = "test"
    seed: Annotated[int, typer.Option(help="Seed of the bootstrap.")] = 0


@app.command()
def trust(
    caches: _Caches,
    cells: Cells,
    maps: Maps,
    results: _Results = None,
    json: _Json = False,
) -> None:
    """Count rows by correct, confident and stable, and ask whether stability adds to confidence.

    Cuts are chosen on validation rows, which the caches must hold with their maps. Confident and
    stable rows are compared with as many rows by calibrated confidence alone.

    Example: trustq extract demo/digits.parquet --with 'demo/cache/digits/digits/seed*.h5' --name
    maps --only val,test --maps --passes 5 --pass-drop path:0.1 --explain gradcam --explain-checks
    16

    Example: trustq explain trust 'cache/digits/maps/seed*.h5' --over passes
    """
    from trustq.explain.summaries import trust_report
    from trustq.explain.tables import record_cells
    from trustq.report.text import to_json

    opened = _opened(caches)
    found = trust_report(
        opened,
        over=maps.over,
        method=maps.method,
        split=maps.split,
        columns=_columns(cells.metadata, cells.by),
        confidence_cut=cells.confidence_cut,
        stability_cut=cells.stability_cut,
        seed=maps.seed,
    )
    for note in found.notes:
        print_note(f"{note}.")
    if results is not None:
        record_cells(opened, found, results)
    if json:
        typer.echo(to_json(found.record))
        return
    for title, rows in found.tables.items():
        typer.echo(f"\n{title}")
        print_table([{name: _shown(value) for name, value in row.items()} for row in rows])
    print_text(f"\nDoes stability add anything to confidence? {found.verdict}")
    _safety()


@dataclass
class Panels:
    """The cases that are shown."""

    columns: Annotated[
        str | None, typer.Option(help="Metadata columns to show and tabulate by, a,b,c.")
    ] = None
    positive: Annotated[
        str | None, typer.Option(help="Classes pooled into the positive class, mel,bcc.")
    ] = None
    most: Annotated[int, typer.Option(min=1, help="Number of cases of each kind.")] = 12
    no_panels: Annotated[
        bool, typer.Option("--no-panels", help="Write no PNG panel for each case.")
    ] = False


@dataclass
class Images:
    """Where images and what is known of them are."""

    manifest: Annotated[
        Path | None, typer.Option(help="Manifest of the images, with their metadata.")
    ] = None
    root: Annotated[
        Path | None, typer.Option(help="Folder of images [default: as the manifest says].")
    ] = None
    training: Annotated[
        Path | None,
        typer.Option(help="Cache of the same network with training rows, for neighbors."),
    ] = None
    audit: Annotated[
        Path | None, typer.Option(help="Folder of trustq audit labels on these rows.")
    ] = None


@dataclass
class FailureMaps:
    """The maps that are looked at, and on which rows."""

    over: _Over = "auto"
    method: _Method = "auto"
    split: _Split = "test"
    seed: Annotated[int, typer.Option(help="Seed of the random sample and the shuffles.")] = 0


@app.command()
def failures(
    caches: _Caches,
    panels: Panels,
    pictures: Images,
    maps: FailureMaps,
    out: Annotated[Path, typer.Option(help="Folder for the page, panels and cases.json.")] = Path(
        "failures"
    ),
) -> None:
    """Write a failure audit: confident errors, uncertain hits, unstable maps, seeds that disagree.

    Each case has its image, top 3, map, confidence, neighbors, measures, cause, mitigation and
    residual risk. Rules of causes are tested against shuffled marks of errors.

    Example: trustq extract demo/digits.parquet --with 'demo/cache/digits/digits/seed*.h5' --name
    maps --only val,test --maps --passes 5 --pass-drop path:0.1 --explain gradcam --explain-checks
    16

    Example: trustq explain failures cache/digits/maps/seed0.h5 --manifest demo/digits.parquet
    """
    from trustq.explain.failure_audit import audit_failures
    from trustq.explain.summaries import failure_input
    from trustq.report.failure_page import rule_verdict, write_failures

    opened = _opened(caches)
    given, images = failure_input(
        opened,
        manifest=pictures.manifest,
        root=pictures.root,
        training=pictures.training,
        audit=pictures.audit,
        columns=listed(panels.columns),
        positive=listed(panels.positive),
        over=maps.over,
        method=maps.method,
    )
    found = audit_failures(
        opened, given=given, split=maps.split, k=panels.most, method=maps.method, seed=maps.seed
    )
    aspect = str(opened[0].preprocessing.get("resize", "squash"))
    written = write_failures(found, out, images=images, aspect=aspect, panels=not panels.no_panels)
    for note in found.notes:
        print_note(f"{note}.")
    print_text(
        f"{found.n_errors:,} of {found.n_rows:,} rows of {maps.split} are wrong; "
        f"{len(found.cases)} "
        f"cases\n{rule_verdict(found)}\nwrote {written[0]}, {written[1]}"
        + (f" and {len(written) - 2} panels" if len(written) > 2 else "")
    )
    _safety()


@app.command()
def sanity(
    caches: _Caches,
    out: Annotated[Path | None, typer.Option(help="HTML page to write.")] = None,
    json: _Json = False,
) -> None:
    """Say whether maps change when layers are drawn anew, and whether they mark what is used.

    The caches hold the tests: trustq extract --explain gradcam --explain-checks 64. A map that
    does not change with the network's weights is worthless, whatever it looks like.

    Example: trustq extract demo/digits.parquet --with 'demo/cache/digits/digits/seed*.h5' --name
    maps --only val,test --maps --passes 5 --pass-drop path:0.1 --explain gradcam --explain-checks
    16

    Example: trustq explain sanity cache/digits/maps/seed0.h5 --out sanity.html
    """
    from trustq.explain.sanity import sanity_checks
    from trustq.report.text import to_json

    found = [check for cache in _opened(caches) for check in sanity_checks(cache)]
    if out is not None:
        from trustq.report.sanity_page import write_sanity

        write_sanity(found, out)
        say(f"wrote {out}")
    if json:
        typer.echo(to_json([check.record for check in found]))
        return
    for check in found:
        typer.echo(f"\n{check.cache}, {check.method}, {counted(check.n, 'row')}")
        print_table([{k: _shown(v) for k, v in row.items()} for row in check.stage_rows])
        print_table([{k: _shown(v) for k, v in row.items()} for row in check.curve_rows])
        print_text(check.verdict)
    _safety()


def _opened(patterns: list[str]) -> list[Any]:
    from trustq.store import find_caches, read_cache

    return [read_cache(path) for path in find_caches(patterns)]


def _columns(metadata: Path | None, by: str | None) -> dict[str, Any] | None:
    from trustq.errors import InputError

    if by is None:
        return None
    if metadata is None:
        raise InputError(f"`by={by}` is a column of a table: name it with `metadata=FILE`.")
    return {"path": metadata, "names": listed(by)}


def _shown(value: Any) -> Any:
    if isinstance(value, float):
        return None if isnan(value) else float(f"{value:.4g}")
    return value


def _safety() -> None:
    from trustq.core.safety import SAFETY

    say(" ".join(SAFETY[:2]))
