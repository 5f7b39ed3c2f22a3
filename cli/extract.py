"""`trustq extract`: the GPU stage."""

import dataclasses
import json
from pathlib import Path
from typing import Annotated

import typer


def extract(
    manifest: Annotated[Path, typer.Argument(help="Manifest, .parquet or .csv.")],
    recipe: Annotated[str, typer.Option(help="Packaged recipe or TOML file.")] = "",
    seeds: Annotated[str, typer.Option(help="Comma-separated backbone seeds.")] = "0",
    out: Annotated[Path, typer.Option(help="Folder for caches.")] = Path("cache"),
    name: Annotated[
        str | None, typer.Option(help="Name for the caches' folder [default: the recipe's].")
    ] = None,
    noise: Annotated[
        str | None,
        typer.Option(help="Label noise of training labels: none, symmetric:R, reference, ..."),
    ] = None,
    trusted: Annotated[
        float | None, typer.Option(help="Share of training labels clean from the start.")
    ] = None,
    observed: Annotated[
        Path | None,
        typer.Option(
            help="Train on the labels of this table: sample_id,label; blank = dropped. "
            "{seed} in its name is filled in."
        ),
    ] = None,
    mode: Annotated[
        str | None,
        typer.Option(help="finetune or frozen; crossfit also trains one network per group fold."),
    ] = None,
    train_on: Annotated[
        str | None,
        typer.Option(help="Split to train on, or a share of its groups: train:0.5."),
    ] = None,
    backbone: Annotated[str | None, typer.Option(help="Any timm model name.")] = None,
    epochs: Annotated[int | None, typer.Option(help="Epochs at most.")] = None,
    image_size: Annotated[int | None, typer.Option(help="Side of the network input.")] = None,
    weights: Annotated[
        str | None,
        typer.Option(help="Start from this .safetensors or .pth file, or package:NAME."),
    ] = None,
    no_pretrained: Annotated[
        bool, typer.Option("--no-pretrained", help="Start from random weights.")
    ] = False,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or mps.")] = "auto",
    root: Annotated[
        Path | None, typer.Option(help="Where the images are [default: as the manifest says].")
    ] = None,
    stage: Annotated[
        Path | None, typer.Option(help="Copy the images to this local folder first.")
    ] = None,
    skip_unreadable: Annotated[
        bool,
        typer.Option(
            "--skip-unreadable", help="Leave out images that cannot be decoded, and record them."
        ),
    ] = False,
    auto_batch: Annotated[
        bool,
        typer.Option(
            "--auto-batch", help="On out-of-memory halve the batch size and accumulate gradients."
        ),
    ] = False,
    with_: Annotated[
        list[str] | None,
        typer.Option(
            "--with", help="Caches (quoted patterns) whose networks are used, without training."
        ),
    ] = None,
    views: Annotated[
        str | None,
        typer.Option(help="Further passes to store: tta, corruptions, blur-2, ... (commas)."),
    ] = None,
    passes: Annotated[
        int | None, typer.Option(help="Dropout passes to store, 20 is usual.")
    ] = None,
    settings: Annotated[
        list[str] | None, typer.Option("--set", help="Any recipe key, e.g. --set batch_size=16.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON for scripts.")] = False,
) -> None:
    """Train a backbone once per seed and cache its features and logits.

    A stopped run goes on after its last finished epoch when the same command is given again. Seeds
    are shared out among processes that torchrun started, one GPU each.

    Later views of the same images come from the same networks: --with CACHE --views corruptions
    --name NAME.

    Recipe keys are tested on a CPU. Not tested is what needs a GPU: amp=auto there, channels-last
    and pinned memory, and the code that compile=true makes.

    Example: trustq extract digits.parquet --recipe digits --seeds 0,1
    """
    sugar = {
        "noise": noise,
        "trusted": trusted,
        "observed": observed,
        "mode": mode,
        "train_on": train_on,
        "backbone": backbone,
        "epochs": epochs,
        "image_size": image_size,
        "weights": weights,
        "pretrained": "false" if no_pretrained else None,
    }
    given = [f"extract.{key}={value}" for key, value in sugar.items() if value is not None]
    given += settings or []
    # How many processes load images changes no number, so it goes with --with too.
    workers = [text for text in given if text.removeprefix("extract.").startswith("workers=")]
    if with_:
        given = [text for text in given if text not in workers]
    if with_ and (recipe or given or seeds != "0" or stage or skip_unreadable or auto_batch):
        raise typer.BadParameter(
            "--with takes everything else from the caches; only --out, --name, --device, --root, "
            "--views, --passes and --set workers=N go with it."
        )
    dumped = {"views": views, "passes": passes}
    given += [f"extract.{key}={value}" for key, value in dumped.items() if value is not None]

    from trustq.data.manifest import read_manifest
    from trustq.errors import InputError
    from trustq.extraction import extract as train_and_extract
    from trustq.extraction import extract_with
    from trustq.recipes import load_recipe
    from trustq.store import find_caches

    try:
        if with_:
            caches = find_caches(with_)
            rows = read_manifest(manifest, root=root)
            made = extract_with(
                rows,
                caches,
                out=out,
                name=name or "",
                views=[view.strip() for view in views.split(",")] if views else [],
                passes=passes or 0,
                workers=load_recipe(settings=workers, part="extract").extract.workers,
                device=device,
            )
        else:
            chosen = load_recipe(recipe, settings=given, part="extract")
            chosen = dataclasses.replace(chosen, name=name or chosen.name)
            try:
                wanted = [int(seed) for seed in seeds.split(",")]
            except ValueError as error:
                raise InputError(
                    f"--seeds {seeds}: expected whole numbers, e.g. --seeds 42,52.",
                    where="seeds",
                    found=seeds,
                ) from error
            rows = read_manifest(manifest, root=root)
            made = train_and_extract(
                rows,
                recipe=chosen,
                seeds=wanted,
                out=out,
                device=device,
                stage_to=stage,
                skip_unreadable=skip_unreadable,
                auto_batch=auto_batch,
            )
    except KeyboardInterrupt as stop:
        typer.echo(
            "\nStopped. The same command goes on after the last finished epoch; finished caches "
            "are kept.",
            err=True,
        )
        raise typer.Exit(130) from stop
    if as_json:
        listed = [dataclasses.asdict(cache) | {"path": str(cache.path)} for cache in made]
        typer.echo(json.dumps(listed, indent=2))
        return
    for cache in made:
        accuracy = ""
        if cache.val_accuracy is not None:
            accuracy = f", validation accuracy {cache.val_accuracy:.4f}"
        typer.echo(
            f"{cache.path}: {cache.n_rows:,} rows, {cache.n_features} features, "
            f"exposure {cache.exposure}{accuracy}"
        )
