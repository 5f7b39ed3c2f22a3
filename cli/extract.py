"""`trustq extract`: the GPU stage."""

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from trustq.core.counts import counted

from .options import named, seed_numbers
from .output import print_note, resumable

if TYPE_CHECKING:
    from trustq.data.manifest import Manifest
    from trustq.extraction import Execution
    from trustq.extraction.jobs import Extracted
    from trustq.recipes import ExtractRecipe


@dataclass
class Recipe:
    """What the network is trained on, and how."""

    recipe: Annotated[str, typer.Option(help="Packaged recipe or TOML file.")] = ""
    seeds: Annotated[str, typer.Option(help="Comma-separated backbone seeds.")] = "0"
    noise: Annotated[
        str | None,
        typer.Option(help="Label noise of training labels: none, symmetric:R, reference, ..."),
    ] = None
    trusted: Annotated[
        float | None, typer.Option(help="Share of training labels clean from the start.")
    ] = None
    observed: Annotated[
        Path | None,
        typer.Option(
            help="Train on the labels of this table: sample_id,label; blank = dropped. "
            "{seed} in its name is filled in."
        ),
    ] = None
    mode: Annotated[
        str | None,
        typer.Option(help="finetune or frozen; crossfit also trains one network per group fold."),
    ] = None
    train_on: Annotated[
        str | None,
        typer.Option(help="Split to train on, or a share of its groups: train:0.5."),
    ] = None
    backbone: Annotated[str | None, typer.Option(help="Any timm model name.")] = None
    epochs: Annotated[int | None, typer.Option(help="Epochs at most.")] = None
    image_size: Annotated[int | None, typer.Option(help="Side of the network input.")] = None
    weights: Annotated[
        str | None,
        typer.Option(help="Start from this .safetensors or .pth file, or package:NAME."),
    ] = None
    no_pretrained: Annotated[
        bool, typer.Option("--no-pretrained", help="Start from random weights.")
    ] = False

    @property
    def given(self) -> dict[str, Any]:
        """The recipe's keys that were given as options."""
        values = named(self, besides=("recipe", "seeds", "no_pretrained"))
        return values | ({"pretrained": False} if self.no_pretrained else {})

    @property
    def numbers(self) -> list[int]:
        """The seeds."""
        return seed_numbers(self.seeds)


@dataclass
class Reading:
    """How images are read, and what is done where that fails or another cache is there."""

    root: Annotated[
        Path | None, typer.Option(help="Folder of images [default: as the manifest says].")
    ] = None
    stage: Annotated[Path | None, typer.Option(help="Folder to copy the images to first.")] = None
    skip_unreadable: Annotated[
        bool,
        typer.Option(
            "--skip-unreadable", help="Leave out images that cannot be decoded, and record them."
        ),
    ] = False
    auto_batch: Annotated[
        bool,
        typer.Option(
            "--auto-batch", help="On out-of-memory halve the batch size and accumulate gradients."
        ),
    ] = False
    replace: Annotated[
        bool,
        typer.Option(
            "--replace",
            help="Replace caches of another recipe or manifest that are in the place of new ones.",
        ),
    ] = False

    def execution(self, device: str) -> "Execution":
        """As the library takes it."""
        from trustq.extraction import Execution

        return Execution(device, self.stage, self.skip_unreadable, self.auto_batch, self.replace)


@dataclass
class Dumped:
    """What is stored beside features and logits."""

    views: Annotated[
        str | None,
        typer.Option(help="Further passes to store: tta, corruptions, blur-2, ... (commas)."),
    ] = None
    passes: Annotated[int | None, typer.Option(help="Dropout passes to store, 20 is usual.")] = None
    pass_drop: Annotated[
        str | None,
        typer.Option(help="What passes drop: dropout, or (moving maps) path:0.1, spatial:0.1."),
    ] = None
    maps: Annotated[
        bool, typer.Option("--maps", help="Store the last feature map, for trustq explain.")
    ] = False
    explain: Annotated[
        str | None,
        typer.Option(
            help="Explanations to store: gradcam, scorecam (a forward pass for each channel), or "
            "scorecam:64, by the 64 channels of the largest spread."
        ),
    ] = None
    explain_class: Annotated[
        str | None, typer.Option(help="Class to explain: predicted, label, or a class name.")
    ] = None
    explain_checks: Annotated[
        int | None, typer.Option(help="Number of rows on which explanations are tested.")
    ] = None

    @property
    def given(self) -> dict[str, Any]:
        """What was asked for, by the recipe's keys."""
        return named(self, besides=() if self.maps else ("maps",))


@dataclass
class Place:
    """Where the network runs, and where its caches go."""

    out: Annotated[Path, typer.Option(help="Folder for caches.")] = Path("cache")
    name: Annotated[
        str | None, typer.Option(help="Name for the caches' folder [default: the recipe's].")
    ] = None
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or mps.")] = "auto"
    engine: Annotated[
        str | None,
        typer.Option(
            help="What computes features on a CPU: torch [default], openvino (faster, other last "
            "digits), or auto for openvino where it is installed."
        ),
    ] = None

    @property
    def given(self) -> dict[str, Any]:
        """The recipe's keys that were given as options."""
        return {"engine": self.engine} if self.engine else {}


@dataclass
class Again:
    """Networks that were trained before, whose dumps are made again."""

    with_: Annotated[
        list[str] | None,
        typer.Option(
            "--with", help="Caches (quoted patterns) whose networks are used, without training."
        ),
    ] = None
    only: Annotated[
        str | None,
        typer.Option(help="With --with, rows of these splits, or so many: test, test:200."),
    ] = None


def extract(
    manifest: Annotated[Path, typer.Argument(help="Manifest, .parquet or .csv.")],
    training: Recipe,
    reading: Reading,
    dumped: Dumped,
    place: Place,
    again: Again,
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

    Example: trustq extract demo/digits.parquet --recipe digits --seeds 0,1
    """
    settings = settings or []
    if again.with_:
        _require_alone(training, reading, settings)
    elif again.only:
        raise typer.BadParameter("--only goes with --with alone: a training needs every split.")
    from trustq.extraction import extract as train_and_extract
    from trustq.recipes import load_recipe

    values = dumped.given | place.given
    if not again.with_:
        values = training.given | values
    with resumable(
        "The same command goes on after the last finished epoch; finished caches are kept."
    ):
        # What is dumped again is read as a recipe's settings are, with their types and refusals.
        asked = load_recipe(training.recipe, values=values, settings=settings, part="extract")
        if again.with_:
            rows = _rows(manifest, reading)
            made = _dump_again(rows, again, asked.extract, place)
        else:
            made = train_and_extract(
                recipe=dataclasses.replace(asked, name=place.name or asked.name),
                seeds=training.numbers,
                manifest=_rows(manifest, reading),
                execution=reading.execution(place.device),
                out=place.out,
            )
    _print(made, as_json=as_json)


def _goes_with_networks(setting: str) -> bool:
    # What is of the dump alone, or changes no number, as how many processes load images.
    return setting.removeprefix("extract.").startswith(("workers=", "map_precision=", "engine="))


def _require_alone(training: Recipe, reading: Reading, settings: list[str]) -> None:
    """Refuse what only a training takes."""
    other = [text for text in settings if not _goes_with_networks(text)]
    copied = reading.stage or reading.skip_unreadable or reading.auto_batch or reading.replace
    if training.recipe or training.given or other or training.seeds != "0" or copied:
        raise typer.BadParameter(
            "--with takes everything else from the caches; only --out, --name, --device, --engine, "
            "--root, --only, --views, --passes, --pass-drop, --maps, --explain, --explain-class, "
            "--explain-checks, --set map_precision=float32 and --set workers=N go with it."
        )


def _rows(manifest: Path, reading: Reading) -> "Manifest":
    """The manifest; what is suspicious in its splits is said."""
    from trustq.data.manifest import read_manifest, split_suspicions

    rows = read_manifest(manifest, root=reading.root)
    for note in split_suspicions(rows):
        print_note(note)
    return rows


def _dump_again(
    rows: "Manifest", again: Again, asked: "ExtractRecipe", place: Place
) -> "list[Extracted]":
    """Further dumps of the networks of caches."""
    from trustq.extraction import extract_with
    from trustq.extraction.dump.reuse_networks import DUMP_SETTINGS, some_rows
    from trustq.store import find_caches

    return extract_with(
        some_rows(rows, again.only) if again.only else rows,
        find_caches(again.with_ or []),
        out=place.out,
        name=place.name or "",
        device=place.device,
        settings={name: getattr(asked, name) for name in DUMP_SETTINGS},
    )


def _print(made: "list[Extracted]", *, as_json: bool) -> None:
    if as_json:
        listed = [dataclasses.asdict(cache) | {"path": str(cache.path)} for cache in made]
        typer.echo(json.dumps(listed, indent=2))
        return
    for cache in made:
        accuracy = ""
        if cache.val_accuracy is not None:
            accuracy = f", validation accuracy {cache.val_accuracy:.4f}"
        typer.echo(
            f"{cache.path}: {counted(cache.n_rows, 'row')}, "
            f"{counted(cache.n_features, 'feature')}, "
            f"exposure {cache.exposure}{accuracy}"
        )
