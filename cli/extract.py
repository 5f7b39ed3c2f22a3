"""`trustq extract`: the GPU stage."""

import dataclasses
import json
from pathlib import Path
from typing import Annotated, Any

import typer

from .output import print_note


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
    pass_drop: Annotated[
        str | None,
        typer.Option(help="What passes drop: dropout, or (moving maps) path:0.1, spatial:0.1."),
    ] = None,
    maps: Annotated[
        bool, typer.Option("--maps", help="Store the last feature map, for trustq explain.")
    ] = False,
    explain: Annotated[
        str | None, typer.Option(help="Explanations to store: gradcam,scorecam.")
    ] = None,
    explain_class: Annotated[
        str | None, typer.Option(help="Class to explain: predicted, label, or a class name.")
    ] = None,
    explain_checks: Annotated[
        int | None, typer.Option(help="Number of rows on which explanations are tested.")
    ] = None,
    only: Annotated[
        str | None,
        typer.Option(help="With --with, rows of these splits, or so many: test, test:200."),
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
    values: dict[str, Any] = {
        "noise": noise,
        "trusted": trusted,
        "observed": observed,
        "mode": mode,
        "train_on": train_on,
        "backbone": backbone,
        "epochs": epochs,
        "image_size": image_size,
        "weights": weights,
        "pretrained": False if no_pretrained else None,
    }
    values = {key: value for key, value in values.items() if value is not None}
    # How many processes load images changes no number, so it goes with --with too.
    workers = [
        text for text in settings or [] if text.removeprefix("extract.").startswith("workers=")
    ]
    other = [text for text in settings or [] if text not in workers]
    training = recipe or values or other or seeds != "0" or stage or skip_unreadable or auto_batch
    if with_ and training:
        raise typer.BadParameter(
            "--with takes everything else from the caches; only --out, --name, --device, --root, "
            "--only, --views, --passes, --pass-drop, --maps, --explain, --explain-class, "
            "--explain-checks and --set workers=N go with it."
        )
    if only and not with_:
        raise typer.BadParameter("--only goes with --with alone: a training needs every split.")
    dumped: dict[str, Any] = {
        "views": views,
        "passes": passes,
        "pass_drop": pass_drop,
        "maps": maps or None,
        "explain": explain,
        "explain_class": explain_class,
        "explain_checks": explain_checks,
    }
    dumped = {key: value for key, value in dumped.items() if value is not None}
    values |= dumped

    from trustq.data.manifest import read_manifest, split_suspicions
    from trustq.errors import InputError
    from trustq.extraction import extract as train_and_extract
    from trustq.extraction import extract_with
    from trustq.extraction.dump.reuse_networks import EXPLAIN_SETTINGS, some_rows
    from trustq.recipes import load_recipe
    from trustq.store import find_caches

    try:
        if with_:
            caches = find_caches(with_)
            rows = read_manifest(manifest, root=root)
            for note in split_suspicions(rows):
                print_note(note)
            # What is dumped is read as a recipe's settings are, with their types and refusals.
            asked = load_recipe(values=dumped, settings=workers, part="extract").extract
            made = extract_with(
                some_rows(rows, only) if only else rows,
                caches,
                out=out,
                name=name or "",
                views=asked.views,
                passes=asked.passes,
                maps=asked.maps,
                explain={name: getattr(asked, name) for name in EXPLAIN_SETTINGS},
                workers=asked.workers,
                device=device,
            )
        else:
            chosen = load_recipe(recipe, values=values, settings=settings or [], part="extract")
            chosen = dataclasses.replace(chosen, name=name or chosen.name)
            try:
                numbers = [int(seed) for seed in seeds.split(",")]
            except ValueError as error:
                raise InputError(
                    f"--seeds {seeds}: expected whole numbers, e.g. --seeds 42,52.",
                    where="seeds",
                    found=seeds,
                ) from error
            rows = read_manifest(manifest, root=root)
            for note in split_suspicions(rows):
                print_note(note)
            made = train_and_extract(
                rows,
                recipe=chosen,
                seeds=numbers,
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
