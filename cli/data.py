"""`trustq data`: from published files to a manifest, and what is in one."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .output import print_table, progress

if TYPE_CHECKING:
    from trustq.manifest import Manifest

app = typer.Typer(no_args_is_help=True, help="Make manifests of data sets and describe them.")


@app.command()
def prepare(
    name: Annotated[str | None, typer.Argument(help="A data set of --list.")] = None,
    out: Annotated[
        Path | None, typer.Option(help="Manifest to write, a .parquet file.", show_default=False)
    ] = None,
    root: Annotated[
        Path | None,
        typer.Option(
            help="Folder with the published files [digits: where to write the images].",
            show_default=False,
        ),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the splits.")] = 0,
    fractions: Annotated[str, typer.Option(help="Shares of train, val and test.")] = ".7,.15,.15",
    splits: Annotated[
        Path | None,
        typer.Option(
            help="CSV or Parquet with sample_id and split, instead of making splits.",
            show_default=False,
        ),
    ] = None,
    group_regex: Annotated[
        str | None, typer.Option(help="folder: finds the group in an image's path.")
    ] = None,
    table: Annotated[Path | None, typer.Option(help="csv: the CSV or Parquet file.")] = None,
    id_column: Annotated[str | None, typer.Option(help="csv: [default: sample_id].")] = None,
    path_column: Annotated[str | None, typer.Option(help="csv: [default: path].")] = None,
    label_column: Annotated[str | None, typer.Option(help="csv: [default: label].")] = None,
    group_column: Annotated[
        str | None, typer.Option(help="csv: [default: group_id, or every row its own].")
    ] = None,
    split_column: Annotated[
        str | None, typer.Option(help="csv: [default: split, or splits are made].")
    ] = None,
    show_list: Annotated[bool, typer.Option("--list", help="List the data sets.")] = False,
) -> None:
    """Make the manifest of a data set: one row an image, with its label, group and split.

    Example: trustq data prepare digits --out digits.parquet
    """
    from trustq import datasets

    if show_list:
        for key, adapter in datasets.ADAPTERS.items():
            typer.echo(f"{key:<10}{adapter.description}")
        return
    if name is None or out is None:
        raise typer.BadParameter("Name a data set (see --list) and the manifest: NAME --out FILE.")
    options: dict[str, Any] = {
        "group_regex": group_regex,
        "table": table,
        "id_column": id_column,
        "path_column": path_column,
        "label_column": label_column,
        "group_column": group_column,
        "split_column": split_column,
    }
    with progress("Reading", "images") as show:
        manifest = datasets.prepare(
            name,
            out=out,
            root=root,
            seed=seed,
            fractions=_numbers(fractions),
            splits_file=splits,
            progress=show,
            say=lambda sentence: typer.echo(sentence, err=True),
            **{key: value for key, value in options.items() if value is not None},
        )
    _print_description(manifest, out)


@app.command()
def describe(
    manifest: Annotated[Path, typer.Argument(help="A manifest, Parquet or CSV.")],
    root: Annotated[Path | None, typer.Option(help="Data root, if the images have moved.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON for scripts.")] = False,
) -> None:
    """Show what is in a manifest: rows by class and split, groups, blanks, and its images.

    Example: trustq data describe digits.parquet
    """
    import json

    from trustq.manifest import read_manifest

    found = read_manifest(manifest, root=root)
    if as_json:
        typer.echo(json.dumps(_as_json(found), indent=2, ensure_ascii=False))
    else:
        _print_description(found, manifest)


def _numbers(text: str) -> list[float]:
    try:
        return [float(number) for number in text.split(",")]
    except ValueError as error:
        raise typer.BadParameter(f"{text!r}: expected numbers such as .7,.15,.15.") from error


def _as_json(manifest: "Manifest") -> dict[str, Any]:
    from trustq.manifest import describe as count

    counts = count(manifest)
    return {
        "dataset": counts.dataset,
        "n_rows": counts.n_rows,
        "classes": list(manifest.classes),
        "counts": {
            name: dict(zip(counts.splits, row, strict=True)) for name, row in counts.counts.items()
        },
        "groups": dict(zip(counts.splits, counts.groups, strict=True)),
        "blanks": counts.blanks,
        "mixed_groups": list(counts.mixed_groups),
        "split_origin": manifest.split_origin,
        "root": str(manifest.root),
        "n_images": _n_images(manifest),
        "digests": manifest.digests,
    }


def _print_description(manifest: "Manifest", path: Path) -> None:
    from trustq.manifest import describe as count

    counts = count(manifest)
    typer.echo(f"{path}: {counts.n_rows:,} rows of {counts.dataset}\n")
    rows = {
        **counts.counts,
        "all": tuple(map(sum, zip(*counts.counts.values(), strict=True))),
        "groups": counts.groups,
    }
    print_table(
        [
            {"class": name, **dict(zip(counts.splits, row, strict=True)), "all": sum(row)}
            for name, row in rows.items()
        ]
    )
    mixed = counts.mixed_groups
    n_images = _n_images(manifest)
    there = "all" if n_images == counts.n_rows else f"{n_images:,} of {counts.n_rows:,}"
    lines = {
        "splits": _origin(manifest.split_origin),
        "blanks": ", ".join(f"{name} {n:,}" for name, n in counts.blanks.items()) or "none",
        "mixed groups": ", ".join([*mixed[:5], *["..."][: len(mixed) > 5]])
        + (f" ({len(mixed)} with more than one label)" if mixed else "none"),
        "data root": f"{manifest.root} ({there} images are there)",
    }
    typer.echo("")
    for name, text in lines.items():
        typer.echo(f"{name + ':':<14}{text}")


def _origin(origin: dict[str, Any]) -> str:
    if "seed" in origin:
        return f"seed {origin['seed']}, fractions {', '.join(map(str, origin['fractions']))}"
    column = f", column {origin['column']}" if "column" in origin else ""
    return f"read from {origin['file']}{column}" if "file" in origin else "not stated"


def _n_images(manifest: "Manifest") -> int:
    return sum(manifest.image_path(row).is_file() for row in range(len(manifest)))
