"""`trustq cache`: list, describe, verify and import caches."""

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from .output import print_table

app = typer.Typer(no_args_is_help=True, help="List, describe, verify and import caches.")

_JSON = typer.Option("--json", help="Print JSON for scripts.")


@app.command("list")
def list_caches(
    where: Annotated[
        list[str] | None, typer.Argument(help="Folders, files or patterns [default: cache/].")
    ] = None,
    as_json: Annotated[bool, _JSON] = False,
) -> None:
    """Show caches: data set, backbone, seed, exposure and size.

    Example: trustq cache list cache/
    """
    from trustq.errors import TrustqError
    from trustq.store import find_caches, read_attributes

    rows: list[dict[str, Any]] = []
    for path in find_caches(where or ["cache"]):
        try:
            attributes = read_attributes(path)
        except TrustqError as error:
            rows.append({"path": str(path), "dataset": f"unreadable: {str(error).splitlines()[0]}"})
            continue
        shape = attributes["datasets"]["features"]
        rows.append(
            {
                "path": str(path),
                "dataset": attributes["dataset"],
                "recipe": attributes["recipe"].get("name", ""),
                "backbone": attributes["backbone"],
                "seed": attributes["backbone_seed"],
                "exposure": attributes["exposure"],
                "noise": attributes["noise"].get("spec", ""),
                "features": shape[shape.index("(") + 1 : -1].replace(", ", " x "),
                "MB": round(path.stat().st_size / 1e6, 1),
            }
        )
    if as_json:
        typer.echo(json.dumps(rows, indent=2))
    else:
        print_table(rows)


@app.command()
def info(
    cache: Annotated[Path, typer.Argument(help="A cache file.")],
    as_json: Annotated[bool, _JSON] = False,
) -> None:
    """Show all that a cache says of itself.

    Recipe, preprocessing, exposure, noise, digests and datasets.

    Example: trustq cache info cache/digits/digits/seed0.h5
    """
    from trustq.store import EXPOSURES, read_attributes

    attributes = read_attributes(cache)
    if as_json:
        typer.echo(json.dumps(attributes, indent=2))
        return
    attributes["exposure"] += f" ({EXPOSURES[attributes['exposure']]})"
    for name, value in attributes.items():
        text = value if isinstance(value, str | int) else json.dumps(value, ensure_ascii=False)
        typer.echo(f"{name + ':':<18} {text}")


@app.command()
def verify(
    caches: Annotated[list[str], typer.Argument(help="Cache files, folders or patterns.")],
) -> None:
    """Check every byte of caches; exits 1 if any is damaged.

    Example: trustq cache verify cache/
    """
    from trustq.errors import TrustqError
    from trustq.store import find_caches, verify_cache

    damaged = 0
    for path in find_caches(caches):
        try:
            verified = verify_cache(path)
            typer.echo(f"{path}: whole ({len(verified.datasets)} datasets, {verified.digest[:8]})")
        except TrustqError as error:
            damaged += 1
            typer.echo(f"Error: {error}", err=True)
    if damaged:
        raise typer.Exit(1)


@app.command("import")
def import_file(
    file: Annotated[Path, typer.Argument(help="An npz file with features and labels.")],
    out: Annotated[Path, typer.Option(help="The cache to write, ending in .h5.")],
    exposure: Annotated[
        str,
        typer.Option(
            help="What the backbone saw of these labels: frozen, finetuned-observed (on "
            "`observed`), finetuned-clean or unknown."
        ),
    ] = "unknown",
    dataset: Annotated[str, typer.Option(help="Name of the data set [default: the file's].")] = "",
    features: Annotated[str, typer.Option(help="Array (n, d).")] = "features",
    labels: Annotated[str, typer.Option(help="Array (n,) of indices or names.")] = "labels",
    logits: Annotated[str, typer.Option(help="Array (n, k), if any.")] = "logits",
    probs: Annotated[str, typer.Option(help="Array (n, k), if any.")] = "probs",
    sample_ids: Annotated[str, typer.Option(help="Array (n,), if any.")] = "sample_ids",
    groups: Annotated[str, typer.Option(help="Array (n,), if any.")] = "groups",
    split: Annotated[str, typer.Option(help="Array (n,), if any.")] = "split",
    observed: Annotated[str, typer.Option(help="Array (n,), if any.")] = "observed",
    classes: Annotated[str, typer.Option(help="Array (k,) of names, if any.")] = "classes",
) -> None:
    """Take features and labels made elsewhere as a cache.

    Options name the arrays of the file.

    Without ids rows are numbered, without groups each row is its own, without a split all rows are
    audited out of fold.

    Example: trustq cache import embeddings.npz --out cache/mine/clip/seed0.h5 --exposure frozen
    """
    from trustq.errors import TrustqError
    from trustq.store import import_npz, write_cache

    if out.suffix != ".h5":
        raise TrustqError(f"--out {out}: a cache ends in .h5.")
    if out.exists():
        raise TrustqError(f"{out} is there already; delete it or choose another name.")
    stated = {
        "features": features,
        "labels": labels,
        "logits": logits,
        "probs": probs,
        "sample_ids": sample_ids,
        "groups": groups,
        "split": split,
        "observed": observed,
        "classes": classes,
    }
    names = {name: array for name, array in stated.items() if array != name}
    cache = import_npz(file, exposure=exposure, names=names, dataset=dataset)
    cache = write_cache(out, cache)
    if exposure == "unknown":
        typer.echo(
            "Warning: exposure unknown; every table made from this cache will say so.", err=True
        )
    n_groups = len(set(cache.group_id.tolist()))
    typer.echo(
        f"{out}: {len(cache)} rows in {n_groups} groups, {cache.features.shape[1]} features, "
        f"{len(cache.classes)} classes, exposure {cache.exposure}"
    )
