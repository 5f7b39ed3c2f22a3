"""`trustq data`: from published files to a manifest, and what is in one."""

import textwrap
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from trustq.core.counts import counted
from trustq.core.prose import WIDTH, say

from .app import App, print_remark
from .options import Progress
from .output import print_note, print_table, progress, terminal_width

if TYPE_CHECKING:
    from trustq.data.manifest import Manifest

app = App(no_args_is_help=True, help="Make manifests of data sets and describe them.")


@dataclass
class Splitting:
    """How rows are put into splits."""

    seed: Annotated[int, typer.Option(min=0, help="Seed of the splits.")] = 0
    fractions: Annotated[str, typer.Option(help="Shares of train, val and test.")] = ".7,.15,.15"
    splits: Annotated[
        Path | None,
        typer.Option(
            help="CSV or Parquet with sample_id and split, instead of making splits.",
            show_default=False,
        ),
    ] = None
    split: Annotated[
        str, typer.Option(help="made, published (the data set's own parts) or external (all rows).")
    ] = "made"
    merge_duplicates: Annotated[
        Path | None,
        typer.Option(help="Table of pairs (sample_a, sample_b) whose groups become one."),
    ] = None


@dataclass
class Labelling:
    """Which labels rows get, and which are left out."""

    target: Annotated[
        str, typer.Option(help="Labels: native, condition, malignant or ham10000.")
    ] = "native"
    taxonomy: Annotated[
        Path | None,
        typer.Option(help="CSV native,condition,malignant,ham10000 instead of the packaged one."),
    ] = None
    drop: Annotated[
        str | None, typer.Option(help="Published labels to leave out, separated by commas: UNK.")
    ] = None


@dataclass
class Adapting:
    """What adapters of single data sets take."""

    skip_missing: Annotated[
        bool, typer.Option("--skip-missing", help="Leave out rows without an image.")
    ] = False
    skip_unlabeled: Annotated[
        bool, typer.Option("--skip-unlabeled", help="csv: leave out rows without a label.")
    ] = False
    metadata_only: Annotated[
        bool,
        typer.Option(
            "--metadata-only", help="Keep rows without an image: a manifest of the tables alone."
        ),
    ] = False
    rename: Annotated[
        list[str] | None,
        typer.Option(
            help="What a word of the tables means: WORD=LABEL; may be given several times.",
            show_default=False,
        ),
    ] = None
    finding: Annotated[
        str | None, typer.Option(help="Chest X-rays: the finding that is there or not.")
    ] = None
    uncertain: Annotated[
        str | None, typer.Option(help="chexpert: -1 is present, absent or drop [default: drop].")
    ] = None
    unmentioned: Annotated[
        str | None, typer.Option(help="chexpert: blank is absent or drop [default: drop].")
    ] = None
    group_regex: Annotated[
        str | None, typer.Option(help="folder: finds the group in an image's path.")
    ] = None
    table: Annotated[Path | None, typer.Option(help="csv: the CSV or Parquet file.")] = None
    id_column: Annotated[str | None, typer.Option(help="csv: [default: sample_id].")] = None
    path_column: Annotated[str | None, typer.Option(help="csv: [default: path].")] = None
    label_column: Annotated[str | None, typer.Option(help="csv: [default: label].")] = None
    group_column: Annotated[
        str | None, typer.Option(help="csv: [default: group_id, or every row its own].")
    ] = None
    split_column: Annotated[
        str | None, typer.Option(help="csv: [default: split, or splits are made].")
    ] = None

    @property
    def given(self) -> dict[str, Any]:
        """What was given, as the library takes it."""
        values = vars(self) | {"rename": _renames(self.rename)}
        return {name: value for name, value in values.items() if value not in (None, False)}


@dataclass
class Place:
    """Where the published files are, and where the manifest goes."""

    out: Annotated[
        Path | None, typer.Option(help="Manifest to write, a .parquet file.", show_default=False)
    ] = None
    root: Annotated[
        Path | None,
        typer.Option(
            help="Folder with the published files [digits: where to write the images].",
            show_default=False,
        ),
    ] = None


@app.command()
def prepare(
    splitting: Splitting,
    labelling: Labelling,
    adapting: Adapting,
    shown: Progress,
    place: Place,
    name: Annotated[str | None, typer.Argument(help="A data set of --list.")] = None,
    show_list: Annotated[bool, typer.Option("--list", help="List the data sets.")] = False,
) -> None:
    """Make the manifest of a data set: one row an image, with its label, group and split.

    Example: trustq data prepare digits --out digits.parquet
    """
    from trustq import datasets

    if show_list:
        for key, adapter in datasets.find_adapters().items():
            state = "unverified" if adapter.unverified else ""
            text = f"{key:<17}{state:<12}{adapter.description}"
            if width := terminal_width():  # a line each for other programs
                head, about = text[:29], textwrap.wrap(adapter.description, max(width - 29, 20))
                text = head + f"\n{' ' * 29}".join(about)
            typer.echo(text)
        say("unverified: as described; no published file has been read with it.")
        return
    if name is None or place.out is None:
        raise typer.BadParameter("Name a data set (see --list) and the manifest: NAME --out FILE.")
    with progress("Reading", "images") as show:
        manifest = datasets.prepare(
            name,
            out=place.out,
            root=place.root,
            seed=splitting.seed,
            fractions=_numbers(splitting.fractions),
            split=splitting.split,
            splits_file=splitting.splits,
            target=labelling.target,
            taxonomy=labelling.taxonomy,
            drop=_words(labelling.drop),
            merge_duplicates=splitting.merge_duplicates,
            progress=show,
            say=print_remark,
            **adapting.given,
        )
    _print_description(manifest, place.out)


@app.command()
def describe(
    manifest: Annotated[Path, typer.Argument(help="A manifest, Parquet or CSV.")],
    root: Annotated[Path | None, typer.Option(help="Folder of images, if they have moved.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON for scripts.")] = False,
) -> None:
    """Show what is in a manifest: rows by class and split, groups, blanks, and its images.

    Example: trustq data describe demo/digits.parquet
    """
    import json

    from trustq.data.manifest import read_manifest

    found = read_manifest(manifest, root=root)
    if as_json:
        typer.echo(json.dumps(_as_json(found), indent=2, ensure_ascii=False))
    else:
        _print_description(found, manifest)


@app.command()
def sample(
    manifest: Annotated[Path, typer.Argument(help="A manifest, Parquet or CSV.")],
    images: Annotated[int, typer.Option(metavar="N", help="Number of images, about.")],
    out: Annotated[Path, typer.Option(help="Manifest to write, a .parquet file.")],
    seed: Annotated[int, typer.Option(help="Seed of the draw.", min=0)] = 0,
) -> None:
    """Draw a small manifest with the whole's splits and classes, in whole groups.

    Example: trustq data sample demo/digits.parquet --images 500 --out small.parquet
    """
    from trustq.data.manifest import read_manifest, write_manifest
    from trustq.data.sampling import sample_groups

    whole = read_manifest(manifest)
    found = sample_groups(whole, images, seed=seed)
    if images > len(whole):
        print_note(f"{manifest} has {counted(len(whole), 'image')}, which are all in the sample")
    write_manifest(found, out)
    typer.echo(f"{out}: {counted(len(found), 'image')}")


@app.command()
def combine(
    manifests: Annotated[list[Path], typer.Argument(help="Manifests with the same classes.")],
    out: Annotated[Path, typer.Option(help="Manifest to write, a .parquet file.")],
    external: Annotated[
        str | None, typer.Option(help="Data sets whose rows are all external, comma-separated.")
    ] = None,
    keep_splits: Annotated[
        bool, typer.Option("--keep-splits", help="Keep each row's split instead of making them.")
    ] = False,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the splits.")] = 0,
    fractions: Annotated[str, typer.Option(help="Shares of train, val and test.")] = ".7,.15,.15",
    merge_duplicates: Annotated[
        Path | None,
        typer.Option(help="Table of pairs (sample_a, sample_b) whose groups become one."),
    ] = None,
) -> None:
    """Join manifests into one, split by group and stratified by label and domain together.

    Example: trustq data prepare csv --root demo/tilted --table demo/tilted.csv --out tilted.parquet

    Example: trustq data combine demo/digits.parquet tilted.parquet --external tilted --out
    both.parquet
    """
    from trustq.data.manifest import read_manifest, require_parquet, write_manifest
    from trustq.datasets.combine import combine as join

    require_parquet(out)
    joined = join(
        [read_manifest(path) for path in manifests],
        external=_words(external),
        keep_splits=keep_splits,
        seed=seed,
        fractions=_numbers(fractions),
        merge_duplicates=merge_duplicates,
        say=print_remark,
    )
    write_manifest(joined, out)
    _print_description(joined, out)


@app.command()
def target(
    manifest: Annotated[Path, typer.Argument(help="A manifest.")],
    column: Annotated[str, typer.Option(help="Column to take as labels: condition, malignant.")],
    out: Annotated[Path, typer.Option(help="Manifest to write, a .parquet file.")],
) -> None:
    """Write a manifest with another of its columns as labels; splits and groups stay.

    Example: trustq data prepare csv --root demo/images --table demo/audit/label_issues.csv
    --path-column sample_id --label-column given --out listed.parquet

    Example: trustq data target listed.parquet --column suggested --out suggested.parquet
    """
    from trustq.data.manifest import read_manifest, write_manifest
    from trustq.datasets.target import retarget

    found = read_manifest(manifest)
    chosen = retarget(found, column)
    write_manifest(chosen, out)
    if len(chosen) < len(found):
        n_left_out = len(found) - len(chosen)
        say(f"Rows left out for want of {column}: {n_left_out:,}.")
    _print_description(chosen, out)


@app.command()
def measure(
    manifest: Annotated[Path, typer.Argument(help="A manifest.")],
    out: Annotated[
        Path | None, typer.Option(help="Manifest to write [default: the same file].")
    ] = None,
    root: Annotated[Path | None, typer.Option(help="Folder of images, if they have moved.")] = None,
    *,
    shown: Progress,
) -> None:
    """Add image measures as columns: size, grey, contrast, sharpness, edges and skin tone (ITA).

    Example: trustq data measure demo/digits.parquet --out measured.parquet
    """
    from trustq.data.image_measures import measured
    from trustq.data.manifest import read_manifest, require_parquet, write_manifest

    require_parquet(out or manifest)
    with progress("Measuring", "images") as show:
        found = measured(read_manifest(manifest, root=root), progress=show)
    write_manifest(found, out or manifest)
    _print_measures(found, out or manifest)


def _words(text: str | None) -> list[str]:
    from trustq.core.words import split_names

    return split_names(text or "")


def _renames(pairs: list[str] | None) -> dict[str, str] | None:
    if not pairs:
        return None
    renames = {}
    for pair in pairs:
        word, equals, label = pair.rpartition("=")
        if not (equals and word and label):
            raise typer.BadParameter(f"--rename {pair}: expected WORD=LABEL, e.g. NEV=nv.")
        renames[word] = label
    return renames


def _print_measures(manifest: "Manifest", path: Path) -> None:
    import numpy as np

    from trustq.data.image_measures import MEASURES

    typer.echo(f"{path}: measures of {len(manifest):,} images\n")
    rows = []
    for name in MEASURES:
        values = np.ma.compressed(np.ma.masked_invalid(manifest.columns[name]))
        row: dict[str, Any] = {"measure": name, "n": len(values)}
        for title, share in (("least", 0), ("quarter", 0.25), ("median", 0.5), ("most", 1)):
            row[title] = round(float(np.quantile(values, share)), 2) if len(values) else None
        rows.append(row)
    print_table(rows)


def _numbers(text: str) -> list[float]:
    try:
        return [float(number) for number in text.split(",")]
    except ValueError as error:
        raise typer.BadParameter(f"{text!r}: expected numbers such as .7,.15,.15.") from error


def _as_json(manifest: "Manifest") -> dict[str, Any]:
    from trustq.data.manifest import describe as count
    from trustq.data.manifest import split_suspicions

    counts = count(manifest)
    for note in split_suspicions(manifest):
        print_note(note)
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
    from trustq.data.manifest import describe as count

    counts = count(manifest)
    typer.echo(f"{path}: {counted(counts.n_rows, 'row')} of {counts.dataset}\n")
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
    blanks = ", ".join(f"{name} {n:,}" for name, n in counts.blanks.items()) or "none"
    facts = {
        "splits": _origin(manifest.split_origin),
        "blanks": f"\n{' ' * 14}".join(textwrap.wrap(blanks, WIDTH - 14)),
        "mixed groups": ", ".join([*mixed[:5], *["..."][: len(mixed) > 5]])
        + (f" ({len(mixed)} with more than one label)" if mixed else "none"),
        "data root": f"{manifest.root} ({there} images are there)",
    }
    typer.echo("")
    for name, text in facts.items():
        typer.echo(f"{name + ':':<14}{text}")


def _origin(origin: dict[str, Any]) -> str:
    if origin.get("mode") == "published":
        return f"as published ({', '.join(origin['kept'])}), the rest by seed {origin['seed']}"
    if "folders" in origin:
        return f"by folders ({', '.join(origin['folders'])})"
    if "mode" in origin:
        return {"external": "all external", "kept": "as in the combined manifests"}[origin["mode"]]
    if "seed" in origin:
        return f"seed {origin['seed']}, fractions {', '.join(map(str, origin['fractions']))}"
    column = f", column {origin['column']}" if "column" in origin else ""
    return f"read from {origin['file']}{column}" if "file" in origin else "not stated"


def _n_images(manifest: "Manifest") -> int:
    return sum(manifest.image_path(row).is_file() for row in range(len(manifest)))
