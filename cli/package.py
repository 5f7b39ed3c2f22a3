"""`trustq package`: a cache and its network as a folder that predicts and serves."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from trustq.core.counts import counted

from .options import Progress, listed
from .output import print_note, print_table, print_text, stages


@dataclass
class Head:
    """The classifier of the model."""

    head: Annotated[
        str,
        typer.Option(
            metavar="backbone|linear|balanced",
            help="The network's own classifier, or a head fitted on its features.",
        ),
    ] = "backbone"
    labels: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Table of sample_id,label to fit the head on."),
    ] = None
    regularisation: Annotated[
        float | None,
        typer.Option(help="Penalty C of a fitted head [default: best on validation rows]."),
    ] = None


@dataclass
class Triage:
    """What is not to be missed, and where tiers and abstention begin."""

    positive: Annotated[
        str,
        typer.Option(metavar="NAMES", help="Classes not to miss [default: the malignant ones]."),
    ] = ""
    sensitivities: Annotated[
        str,
        typer.Option(metavar="A,B,C", help="Sensitivities asked of routine, priority and urgent."),
    ] = "0.95,0.9,0.8"
    cuts: Annotated[
        str,
        typer.Option(
            metavar="validation|assured|field",
            help="Cuts that reach these on validation rows, that new rows will reach with 95 % "
            "confidence, or those of published apps.",
        ),
    ] = "validation"
    coverage: Annotated[
        float, typer.Option(help="Share of validation rows that the model answers for.")
    ] = 0.9
    outlier_share: Annotated[
        float, typer.Option(help="Share of validation rows that count as unlike the training data.")
    ] = 0.01
    slices: Annotated[
        str, typer.Option(metavar="COLUMNS", help="Manifest columns to split the tiers' table by.")
    ] = ""


@dataclass
class Files:
    """What is written, and what the model is called."""

    variants: Annotated[
        str, typer.Option(metavar="NAMES", help="Networks to write: float32, int8, float16.")
    ] = "float32,int8,float16"
    uint8: Annotated[
        bool,
        typer.Option("--uint8", help="Also write a graph that takes pixels and normalizes them."),
    ] = False
    web_runtime: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR|FILE.tgz",
            help="npm's onnxruntime-web, for a page that works offline [default: node_modules].",
        ),
    ] = None
    name: Annotated[str, typer.Option(help="Name of the model.")] = ""
    licence: Annotated[
        str, typer.Option(help="Licence line of the data [default: the data set's].")
    ] = ""
    seed: Annotated[int, typer.Option(metavar="N", help="Seed of the int8 images.")] = 0
    out: Annotated[Path, typer.Option(help="Folder of the model.")] = Path("model")


def package(
    cache: Annotated[
        str, typer.Argument(metavar="CACHE", help="A cache, its network (safetensors) beside it.")
    ],
    manifest: Annotated[Path, typer.Option(metavar="FILE", help="Manifest of the cache's images.")],
    head: Head,
    triage: Triage,
    files: Files,
    shown: Progress,
    root: Annotated[
        Path | None, typer.Option(help="Folder of images [default: the manifest's].")
    ] = None,
) -> None:
    """Write a folder with the network as ONNX, its triage and what it is worth on test rows.

    Temperature, cuts, abstention and the cut for unlike images are chosen on validation rows; the
    figures and the tiers' table are of test rows, with intervals. Logits on 100 real images must
    equal the cache's within 1e-4, or 1e-5 of the largest. Needs the gpu, export and serve extras;
    serving needs no torch.

    Example: trustq package demo/cache/digits/digits/seed0.h5 --manifest demo/digits.parquet
    --positive 3,8 --out packaged/
    """
    from trustq.data.manifest import read_manifest
    from trustq.deploy.packaging import PackageSettings, package_model
    from trustq.deploy.web_runtime import add_web_runtime, web_runtime_files

    named = {
        "positive": tuple(listed(triage.positive)),
        "sensitivities": _numbers(triage.sensitivities),
        "slices": tuple(listed(triage.slices)),
        "variants": tuple(listed(files.variants)),
    }
    given = vars(head) | vars(triage) | vars(files) | named
    settings = PackageSettings(
        **{name: value for name, value in given.items() if name not in ("web_runtime", "out")}
    )
    web_runtime_files(files.web_runtime)  # refused before the work where it is none
    with stages() as tell:
        about = package_model(
            _only_cache(cache),
            read_manifest(manifest, root=root),
            out=files.out,
            settings=settings,
            tell=tell,
        )
    print_note(add_web_runtime(files.out, files.web_runtime))
    for note in about["notes"]:
        print_note(note)
    _print(about, files.out)


def _only_cache(pattern: str) -> Path:
    """The one cache that a path or pattern names."""
    from trustq.errors import InputError
    from trustq.store import find_caches

    found = find_caches([pattern])
    if len(found) != 1:
        raise InputError(
            f"{pattern} names {counted(len(found), 'cache')}, and a model is packaged from one; "
            "name it."
        )
    return Path(found[0])


def _print(about: dict[str, Any], out: Path) -> None:
    print_text(f"{out}: {about['name']}, {counted(len(about['classes']), 'class')}")
    print_table([_row(name, variant) for name, variant in about["variants"].items()])
    print_text("")
    lines = about["variants"]["float32"]["tiers"]
    columns = ("share", "risk", "sensitivity", "specificity")
    print_table(
        [
            {"scale": line["scale"], "tier": line["tier"], "n": line["n"]}
            | {column: _interval(line, column) for column in columns}
            for line in lines
            if line["slice"] == "all"
        ]
    )
    print_text(
        f"Of {about['data']['n_test']} test rows; positive is {', '.join(about['positive'])}; "
        "sensitivity and specificity are of this tier and all above it; 95 % intervals. "
        "Research only, not a medical device."
    )


def _row(name: str, variant: dict[str, Any]) -> dict[str, Any]:
    figures = variant["figures"]
    shown = ("accuracy", "macro_f1", "ece", "augrc")
    return {"variant": name, "megabytes": round(variant["bytes"] / 1e6, 1)} | {
        figure: round(figures[figure]["value"], 4) for figure in shown if figure in figures
    }


def _interval(line: dict[str, Any], column: str) -> str:
    if line[column] is None:
        return ""
    bounds = [line[f"{column}_lower"], line[f"{column}_upper"]]
    inside = ", ".join("?" if bound is None else f"{bound:.3f}" for bound in bounds)
    return f"{line[column]:.3f} [{inside}]"


def _numbers(text: str) -> Any:
    from trustq.errors import InputError

    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError as error:
        raise InputError(
            f"`sensitivities={text}`: expected three numbers, e.g. `sensitivities=0.95,0.9,0.8`."
        ) from error
