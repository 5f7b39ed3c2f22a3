"""`trustq distil`: a small student from a trained network's logits."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from trustq.core.counts import counted

from .options import Progress, seed_numbers
from .output import print_text, resumable


@dataclass
class Teaching:
    """What the student learns from, and how."""

    view: Annotated[
        str, typer.Option(help="Stored view whose logits teach [default: the images as they are].")
    ] = ""
    alpha: Annotated[float, typer.Option(help="The teacher's share of the loss.")] = 0.7
    temperature: Annotated[
        float, typer.Option(help="What teacher and student are softened by.")
    ] = 4.0
    observed: Annotated[
        str, typer.Option(metavar="FILE", help="Train on the labels of this table, e.g. repaired.")
    ] = ""
    settings: Annotated[
        list[str] | None, typer.Option("--set", help="Any recipe key, e.g. --set epochs=10.")
    ] = None


@dataclass
class Place:
    """Where images are read, where the student runs and is written."""

    root: Annotated[
        Path | None, typer.Option(help="Folder of images [default: the manifest's].")
    ] = None
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or mps.")] = "auto"
    name: Annotated[str, typer.Option(help="Name for the students' folder.")] = ""
    out: Annotated[Path, typer.Option(help="Folder for caches.")] = Path("cache")


def distil(
    teacher: Annotated[
        Path, typer.Argument(metavar="CACHE", help="Cache of the teacher, with its logits.")
    ],
    manifest: Annotated[Path, typer.Option(metavar="FILE", help="Manifest of the cache's images.")],
    teaching: Teaching,
    place: Place,
    shown: Progress,
    student: Annotated[
        str, typer.Option(help="mobilenetv3, efficientnet_lite0 or any timm name below 25 MB.")
    ] = "mobilenetv3",
    seeds: Annotated[str, typer.Option(metavar="N,...", help="Seeds of the students.")] = "0",
) -> None:
    """Train a student of less than 25 MB on a teacher's logits and write its cache.

    The loss is alpha T^2 KL(teacher || student) + (1 - alpha) cross-entropy; AdamW, 30 epochs at
    224 pixels unless set otherwise. The cache is like any other: compare it with the teacher's by
    trustq compare, make a folder of it by trustq package.

    Without a network no pretrained weights can be had; this student learns from scratch:

    Example: trustq distil demo/cache/digits/digits/seed0.h5 --manifest demo/digits.parquet
    --student test_convnext2 --set pretrained=false --set image_size=32 --set epochs=2
    """
    from trustq.data.manifest import read_manifest
    from trustq.extraction.distil import Distillation, distil, student_recipe

    numbers = seed_numbers(seeds)
    asked = list(teaching.settings or ())
    if teaching.observed:
        asked.append(f"observed={teaching.observed}")
    with resumable(
        "The same command goes on after the last finished epoch; finished caches are kept."
    ):
        made = distil(
            read_manifest(manifest, root=place.root),
            Distillation(teacher, teaching.view, teaching.alpha, teaching.temperature),
            recipe=student_recipe(student, name=place.name, settings=asked),
            seeds=numbers,
            out=place.out,
            device=place.device,
        )
    for one in made:
        accuracy = (
            "" if one.val_accuracy is None else f", validation accuracy {one.val_accuracy:.4f}"
        )
        print_text(f"{one.path}: {counted(one.n_rows, 'row')}{accuracy}")
