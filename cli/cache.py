"""`trustq cache`: list, describe, verify, join, import, export and relabel caches."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from trustq.core.counts import counted
from trustq.core.prose import say

from .app import App, print_error
from .output import print_note, print_table

app = App(
    no_args_is_help=True, help="List, describe, verify, join, import, export and relabel caches."
)

_JSON = typer.Option("--json", help="Print JSON for scripts.")


@app.command("list")
def list_caches(
    where: Annotated[
        list[str] | None, typer.Argument(help="Folders, files or patterns [default: cache/].")
    ] = None,
    as_json: Annotated[bool, _JSON] = False,
) -> None:
    """Show caches: data set, backbone, seed, exposure and size.

    Example: trustq cache list demo/cache
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

    Example: trustq cache info demo/cache/digits/digits/seed0.h5
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

    Example: trustq cache verify demo/cache
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
            print_error(error)
    if damaged:
        raise typer.Exit(1)


@app.command()
def concat(
    caches: Annotated[list[str], typer.Argument(help="Cache files, folders or patterns.")],
    out: Annotated[Path, typer.Option(help="The cache to write, ending in .h5.")],
) -> None:
    """Write one cache whose features are those of several, column beside column.

    The rows are joined by sample id and must be the same, with their labels, splits and groups.
    Logits are left out, for there are no common ones.

    Example: trustq cache concat demo/cache/digits/frozen/seed0.h5 demo/cache/digits/digits/seed0.h5
    --out both.h5
    """
    from trustq.store import find_caches, write_cache
    from trustq.store.concat import open_side_by_side

    _require_new(out)
    opened = open_side_by_side(find_caches(caches), at_least=2)
    written = write_cache(out, opened)
    say(
        f"{out}: {counted(len(written), 'row')}, "
        f"{counted(written.features.shape[1], 'feature')} of {opened.backbone}, "
        f"{written.exposure}"
    )


@dataclass
class Arrays:
    """What the arrays of a file are called."""

    features: Annotated[
        str, typer.Option(help="Array (n, d); of a table a column of lists, or a prefix.")
    ] = "features"
    labels: Annotated[str, typer.Option(help="Array (n,) of indices or names.")] = "labels"
    logits: Annotated[
        str, typer.Option(help="Array (n, k), if any; of a table columns a,b,c or a prefix.")
    ] = "logits"
    probs: Annotated[str, typer.Option(help="Array (n, k), if any; likewise.")] = "probs"
    sample_ids: Annotated[str, typer.Option(help="Array (n,), if any.")] = "sample_ids"
    groups: Annotated[str, typer.Option(help="Array (n,), if any.")] = "groups"
    split: Annotated[str, typer.Option(help="Array (n,), if any.")] = "split"
    observed: Annotated[str, typer.Option(help="Array (n,), if any.")] = "observed"
    folds: Annotated[str, typer.Option(help="Array (n,), if any.")] = "folds"
    crossfit_logits: Annotated[
        str, typer.Option(help="Array (n, k), if any: each row by the model of its fold.")
    ] = "crossfit_logits"
    classes: Annotated[
        str, typer.Option(help="Array (k,) of names, if any, or the names: a,b,c.")
    ] = "classes"

    @property
    def names(self) -> dict[str, str]:
        """The names that are not the usual ones."""
        return {usual: own for usual, own in vars(self).items() if own != usual}


@dataclass
class Joined:
    """What is stated of the rows beside the file."""

    exposure: Annotated[
        str | None,
        typer.Option(
            help="What the backbone saw of these labels: frozen, finetuned-observed (on "
            "`observed`), finetuned-clean, crossfit or unknown [default: unknown; a file that "
            "trustq exported keeps its own]."
        ),
    ] = None
    dataset: Annotated[str, typer.Option(help="Name of the data set [default: the file's].")] = ""
    ids: Annotated[
        Path | None,
        typer.Option(help="Ids of the rows in their order: a .txt, one per line, or a table."),
    ] = None
    meta: Annotated[
        list[Path] | None,
        typer.Option(help="Table (a manifest, say) to join by id; may be given again."),
    ] = None
    normalize: Annotated[
        str | None, typer.Option(help="Normalize rows to sum to 1: l1 or softmax.")
    ] = None


@app.command("import")
def import_file(
    file: Annotated[
        Path,
        typer.Argument(
            help="npz, npy, HDF5, safetensors, pt, tar, Parquet, CSV or Excel file of features."
        ),
    ],
    out: Annotated[Path, typer.Option(help="The cache to write, ending in .h5.")],
    joined: Joined,
    arrays: Arrays,
) -> None:
    """Take features and labels made elsewhere as a cache.

    Options name the arrays of the file. The columns of a table are feature_*, logit_CLASS and
    prob_CLASS.

    Without ids rows are numbered, without groups each row is its own, without a split all rows are
    audited out of fold. What `trustq cache export` wrote comes back as the cache it was.

    Example: trustq cache export demo/cache/digits/frozen/seed1.h5 --out features.npz

    Example: trustq cache import features.npz --out cache/mine/clip/seed0.h5 --exposure frozen
    """
    from trustq.store import crossfit_signs, import_cache, write_cache

    _require_new(out)
    stated = vars(joined) | {"meta": joined.meta or []}
    cache = import_cache(file, names=arrays.names, **stated)
    cache = write_cache(out, cache)
    for note in (cache.recipe.get("notes", ""), *crossfit_signs(cache)):
        if note:
            print_note(str(note))
    if cache.exposure == "unknown":
        say("Warning: exposure unknown; every table made from this cache will say so.")
    _describe(out, cache)


@app.command("export")
def export_file(
    cache: Annotated[Path, typer.Argument(help="A cache file.")],
    out: Annotated[Path, typer.Option(help="Ends in .npz, .parquet or .safetensors.")],
) -> None:
    """Write a cache as a file that other programs read.

    Arrays have the names that `trustq cache import` and `trustq evaluate` take. Exposure, recipe
    and a digest of each array come along, so that import gives the same cache back.

    Example: trustq cache export demo/cache/digits/digits/seed0.h5 --out seed0.npz
    """
    from trustq.errors import InputError
    from trustq.store import export_cache, read_cache

    if out.exists():
        raise InputError(f"{out} is there already; delete it or choose another name.", path=out)
    read = read_cache(cache)
    left_out = export_cache(out, read)
    if left_out:
        say(f"Left out, for they have not one row a sample: {', '.join(left_out)}.")
    _describe(out, read)


@app.command()
def relabel(
    cache: Annotated[Path, typer.Argument(help="A cache file.")],
    labels: Annotated[
        Path, typer.Option(help="Table of sample_id and label; rows not named keep theirs.")
    ],
    out: Annotated[Path, typer.Option(help="The cache to write, ending in .h5.")],
) -> None:
    """Write a cache with corrected reference labels; features stay as they are.

    What the backbone was trained on stays on record: where a label changes, the old one is the
    observed label.

    Example: trustq cache relabel demo/cache/digits/digits/seed0.h5 --labels demo/answers.csv --out
    fixed.h5
    """
    from trustq.store import read_cache, relabel_cache, write_cache

    _require_new(out)
    found = relabel_cache(read_cache(cache), labels)
    written = write_cache(out, found.cache)
    _describe(out, written)
    typer.echo(
        f"{counted(found.n_changed, 'label')} changed; the backbone was trained on the old "
        "label of "
        f"{found.n_trained} of them, {found.n_trusted} had been trusted as clean."
    )


def _require_new(out: Path) -> None:
    from trustq.errors import InputError

    if out.suffix != ".h5":
        raise InputError(f"--out {out}: a cache ends in .h5.", where="out", found=out)
    if out.exists():
        raise InputError(f"{out} is there already; delete it or choose another name.", path=out)


def _describe(out: Path, cache: Any) -> None:
    n_groups = len(set(cache.group_id.tolist()))
    typer.echo(
        f"{out}: {counted(len(cache), 'row')} in {counted(n_groups, 'group')}, "
        f"{counted(cache.features.shape[1], 'feature')}, "
        f"{counted(len(cache.classes), 'class')}, exposure {cache.exposure}"
    )


@app.command("zero-shot")
def zero_shot(
    cache: Annotated[Path, typer.Argument(help="A cache of a vision-language backbone.")],
    texts: Annotated[
        Path,
        typer.Option(metavar="FILE.npz", help="text_features (k, d), classes and logit_scale."),
    ],
    out: Annotated[Path, typer.Option(help="The cache to write, ending in .h5.")],
    scale: Annotated[
        float | None, typer.Option(help="Logit scale [default: the file's]; CLIP's is about 100.")
    ] = None,
    bias: Annotated[
        float | None, typer.Option(help="Logit bias [default: the file's, or 0].")
    ] = None,
) -> None:
    """Write a cache whose logits are those of the class texts: scale * cosine + bias.

    No label is used, so the head is honest on every row. Then --head backbone takes these logits
    in repair and sweep, and trustq evaluate judges them.

    The demo's class means stand in for features of class names:

    Example: trustq cache zero-shot demo/cache/digits/frozen/seed0.h5 --texts demo/class_means.npz
    --out zero-shot/seed0.h5
    """
    import dataclasses

    from trustq.heads.zero_shot import read_text_features
    from trustq.store import read_cache, write_cache

    source = read_cache(cache)
    head = read_text_features(texts, classes=source.classes, scale=scale, bias=bias)
    about = {"of": source.content_digest, "scale": head.logit_scale, "bias": head.logit_bias}
    kept = [n for n in source.extra if not n.startswith(("classifier/", "views/"))]
    extra = {name: source.extra[name] for name in kept}
    fresh = dataclasses.replace(
        source,
        logits=head.predict_logits(source.features).astype("float32"),
        recipe=source.recipe | {"zero_shot": about | {"texts": head.texts_.tolist()}},
        extra=extra,
        path=None,
    )
    written = write_cache(out, fresh)
    typer.echo(
        f"{out}: {counted(len(written), 'row')}, zero-shot logits of {len(written.classes)} classes"
    )
