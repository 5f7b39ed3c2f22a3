"""The public door of the GPU stage: check everything that is cheap to check, then train and dump.

Torch is imported only once there is a cache to make.
"""

import os
import platform
import time
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import h5py
import numpy as np

from trustq import __version__
from trustq.digest import digest_json
from trustq.errors import TrustqError
from trustq.extraction.augment import Augmentation
from trustq.extraction.exposure import (
    Rows,
    require_trainable,
    rows_elsewhere,
    rows_of_training,
)
from trustq.extraction.progress import Progress, StderrProgress
from trustq.extraction.views import require_dumpable
from trustq.extraction.weights import (
    Network,
    digest_weights,
    digest_weights_file,
    load_checkpoint,
    load_start,
    make_network,
    require_weights,
    save_checkpoint,
)
from trustq.manifest import Manifest
from trustq.recipes import ExtractRecipe, Recipe, resolved
from trustq.seeds import generator
from trustq.store import read_attributes

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Extracted:
    """A cache that is there: its path, shape, exposure and accuracy on validation rows."""

    path: Path
    n_rows: int
    n_features: int
    exposure: str
    val_accuracy: float | None  # None for a frozen backbone and without validation rows
    is_new: bool  # whether this run wrote it


def extract(
    manifest: Manifest,
    *,
    recipe: Recipe,
    seeds: Sequence[int],
    out: Path,
    device: str = "auto",
    progress: Progress | None = None,
) -> list[Extracted]:
    """Train one network per seed as the recipe says and cache its features of every image.

    Writes `<out>/<dataset>/<recipe name>/seed<S>.h5` and the network beside it. A cache that is
    there from the same recipe and manifest is left as it is; a training that was stopped goes on
    after its last finished epoch. Raises `TrustqError`, before time is spent where that can be, for
    a cache of another recipe, rows that cannot be trained on, images that cannot be read, weights
    that cannot be had, and a device that is not there.

    >>> extract(manifest, recipe=load_recipe("small-cpu"), seeds=[0], out=Path("cache"))
    ... # doctest: +SKIP
    """
    progress = progress or StderrProgress()
    if not seeds or min(seeds) < 0:
        raise TrustqError("Seeds are whole numbers from 0, at least one, e.g. --seeds 42,52.")
    require_trainable(manifest, recipe=recipe.extract)
    require_dumpable(recipe.extract)
    Augmentation.of_recipe(recipe.extract, seed=0)  # raises for what cannot be
    folder = Path(out) / _folder_name(manifest.dataset) / _folder_name(recipe.name)
    jobs = []
    for seed in dict.fromkeys(seeds):
        rows = rows_of_training(manifest, recipe=recipe.extract, seed=seed)
        target = folder / f"seed{seed}.h5"
        attributes = {
            "dataset": manifest.dataset,
            "classes": manifest.classes,
            "exposure": rows.exposure,
            "backbone": recipe.extract.backbone,
            "backbone_seed": seed,
            "recipe": _recipe_attribute(recipe),
            "manifest": manifest.digests,
            "noise": rows.noise,
        }
        is_there = _is_there(target, attributes, progress)
        jobs.append(_Job(seed, target, rows, attributes, is_there, recipe.extract))
    if not all(job.is_there for job in jobs):
        require_weights(recipe.extract)
        chosen = _ready(manifest, device)
        for job in jobs:
            if not job.is_there:
                _train_and_dump(job, manifest, recipe, chosen, progress)
    return [_extracted(job) for job in jobs]


def extract_with(
    manifest: Manifest,
    caches: Sequence[Path],
    *,
    out: Path,
    name: str = "",
    views: Sequence[str] = (),
    passes: int = 0,
    maps: bool = False,
    device: str = "auto",
    progress: Progress | None = None,
) -> list[Extracted]:
    """Send other images, or more views, through the networks of caches, untrained.

    Writes `<out>/<dataset>/<name or the recipe's>/seed<S>.h5` for each cache, whose checkpoint must
    lie beside it. Labels index the cache's classes; rows that the network has seen keep their
    marks. `views`, `passes` and `maps` are those of the new cache, whatever the old one has. Raises
    `TrustqError` for a missing or foreign checkpoint and for classes that the cache lacks.
    """
    progress = progress or StderrProgress()
    jobs = []
    for source in caches:
        theirs = read_attributes(source)
        checkpoint = _checkpoint_of(source)
        if not checkpoint.is_file():
            raise TrustqError(
                f"{checkpoint}: no such file. It is the network of {source}, which other images "
                "must go through; copy it there, or extract again."
            )
        rows = rows_elsewhere(manifest, source=source, attributes=theirs)
        asked = {"views": list(views), "passes": passes, "maps": maps}
        settings = _settings_of(theirs["recipe"], asked)
        require_dumpable(settings)
        own_name = name or theirs["recipe"].get("name", source.parent.name)
        folder = Path(out) / _folder_name(manifest.dataset) / _folder_name(own_name)
        target = folder / f"seed{theirs['backbone_seed']}.h5"
        kept = ("classes", "backbone", "backbone_seed", "weights", "weights_digest")
        if target.resolve() == source.resolve():
            raise TrustqError(
                f"The new cache would replace {source} itself. Give it a name of its own with "
                "--name, or another --out."
            )
        recipe = theirs["recipe"] | {"with": theirs["content_digest"]}
        if "extract" in recipe:
            recipe["extract"] = recipe["extract"] | asked
        attributes = {key: theirs[key] for key in (*kept, "preprocessing")} | {
            "dataset": manifest.dataset,
            "exposure": rows.exposure,
            "recipe": recipe,
            "manifest": manifest.digests,
            "noise": rows.noise,
        }
        is_there = _is_there(target, attributes, progress)
        job = _Job(theirs["backbone_seed"], target, rows, attributes, is_there, settings, source)
        if n_shared := int((rows.seen > 0).sum()):
            progress.say(
                f"{n_shared:,} of {len(manifest):,} rows share an id or a group with rows that the "
                f"network of {source} has seen; they stay marked as seen."
            )
        jobs.append(job)
    targets = [job.target for job in jobs]
    if twice := next((path for path in targets if targets.count(path) > 1), None):
        raise TrustqError(f"Two of the caches would be written to {twice}; run them apart.")
    if not all(job.is_there for job in jobs):
        chosen = _ready(manifest, device)
        for job in jobs:
            if not job.is_there:
                _dump_with(job, manifest, chosen, progress)
    return [_extracted(job) for job in jobs]


@dataclass(frozen=True)
class _Job:
    seed: int
    target: Path
    rows: Rows
    attributes: dict[str, Any]  # known before the network is
    is_there: bool
    settings: ExtractRecipe
    source: Path | None = None


def _recipe_attribute(recipe: Recipe) -> dict[str, Any]:
    values = resolved(recipe, "extract")
    # How many processes load images changes no number.
    del values["extract"]["workers"]
    if recipe.extract.weights:
        values["weights_file"] = digest_weights_file(Path(recipe.extract.weights))
    return values


def _settings_of(recipe: dict[str, Any], asked: dict[str, Any]) -> ExtractRecipe:
    """A cache's stored settings with others in their place; what it does not state is default."""
    stored = recipe.get("extract", {}) | asked
    known = [field.name for field in fields(ExtractRecipe)]
    values: dict[str, Any] = {name: stored[name] for name in known if name in stored}
    listed = {name: tuple(value) for name, value in values.items() if isinstance(value, list)}
    return ExtractRecipe(**(values | listed))


def _completed(recipe: dict[str, Any]) -> dict[str, Any]:
    """A stored recipe with the keys that came later, at the defaults by which it was made."""
    if "extract" not in recipe:
        return recipe
    return recipe | {"extract": resolved(Recipe(), "extract")["extract"] | recipe["extract"]}


def _folder_name(name: str) -> str:
    if not name or name.startswith(".") or "/" in name or "\\" in name:
        raise TrustqError(
            f"{name!r} cannot name a folder of caches; give the recipe or data set a plain name, "
            "e.g. --name mine."
        )
    return name


def _is_there(target: Path, attributes: dict[str, Any], progress: Progress) -> bool:
    if not target.exists():
        return False
    found = read_attributes(target)
    parts = {
        "recipe": _completed(found["recipe"]) == _completed(attributes["recipe"]),
        "manifest": found["manifest"] == attributes["manifest"],
        "noise": found["noise"].get("digest") == attributes["noise"].get("digest"),
    }
    differing = [name for name, same in parts.items() if not same]
    if not differing:
        progress.say(f"{target} is there already, from the same recipe and manifest.")
        return True
    ours, theirs = (digest_json(values[differing[0]]) for values in (attributes, found))
    settings = _differing_settings(_completed(found["recipe"]), attributes["recipe"])
    raise TrustqError(
        f"{target} was written from another {' and '.join(differing)} ({differing[0]} digest "
        f"{theirs[:8]}..., expected {ours[:8]}...{settings}).\n"
        "Give this run a name of its own with --name or --out, or delete that file."
    )


def _differing_settings(theirs: dict[str, Any], ours: dict[str, Any]) -> str:
    one, two = theirs.get("extract", {}), ours.get("extract", {})
    pairs = [f"{key} {one.get(key)!r}, not {two[key]!r}" for key in two if one.get(key) != two[key]]
    more = f" and {len(pairs) - 3} more" if len(pairs) > 3 else ""
    return f"; it has {', '.join(pairs[:3])}{more}" if pairs else ""


def _ready(manifest: Manifest, device: str) -> "torch.device":
    # Before torch loads its OpenMP: threads that wait by spinning made a training on two shared
    # cores 20 times slower (45 s an epoch instead of 2 s).
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    try:
        import timm  # noqa: F401
        import torch  # noqa: F401
        import torchvision  # noqa: F401
    except ImportError as error:
        raise TrustqError(
            f"trustq extract needs torch, torchvision and timm ({error}):\n"
            "  pip install 'trustq[gpu]'"
        ) from error
    except RuntimeError as error:
        if "torchvision::" not in str(error):
            raise
        raise TrustqError(
            f"torch and torchvision are builds that do not fit each other ({error}).\n"
            "Install both together from the same index, e.g. both for CUDA or both for the CPU."
        ) from error
    from trustq.extraction.device import choose_device
    from trustq.extraction.images import require_readable

    chosen = choose_device(device)
    require_readable(manifest)
    return chosen


def _train_and_dump(
    job: _Job, manifest: Manifest, recipe: Recipe, device: "torch.device", progress: Progress
) -> None:
    import torch

    from trustq.extraction.dump import Further
    from trustq.extraction.images import Preprocessing
    from trustq.extraction.train import train

    settings = recipe.extract
    frozen = settings.mode == "frozen"
    torch.manual_seed(int(generator(job.seed, "init").integers(2**63)))
    network = make_network(
        settings.backbone,
        n_classes=0 if frozen else len(manifest.classes),
        image_size=settings.image_size,
        pretrained=settings.pretrained and not settings.weights,
        drop_rate=settings.drop_rate,
    )
    if settings.weights:
        dropped = load_start(network, Path(settings.weights))
        if dropped and not frozen:
            progress.say(f"{settings.weights}: left out {', '.join(dropped)} (other classes).")
    _place(network, device)
    preprocessing = Preprocessing.of_config(
        network.config,
        settings.image_size,
        interpolation=settings.interpolation,
        aspect=settings.aspect,
    )
    Further.of_recipe(settings, network, size=preprocessing.size)  # told now, not after training
    progress.say(f"{job.target}: {settings.backbone} from {network.weights} on {device.type}")
    resume = job.target.with_name(f".seed{job.seed}.resume.pt")
    extra: dict[str, np.ndarray] = {}
    seconds: dict[str, float] = {}
    if not frozen:
        trained = train(
            network,
            manifest,
            job.rows.observed,
            recipe=settings,
            seed=job.seed,
            preprocessing=preprocessing,
            device=device,
            resume=resume,
            identity=digest_json(
                [job.attributes[name] for name in ("recipe", "manifest", "noise")]
            ),
            progress=progress,
        )
        seconds["training"] = round(trained.seconds, 3)
        extra = {f"history/{name}": array for name, array in trained.history.arrays.items()}
    attributes = job.attributes | {
        "weights": network.weights,
        "weights_digest": digest_weights(network.model),
        "preprocessing": preprocessing.attribute,
    }
    about = {key: attributes[key] for key in ("backbone", "classes", "preprocessing")}
    save_checkpoint(_checkpoint_of(job.target), network.model, about)
    _dump(
        replace(job, attributes=attributes),
        network,
        manifest,
        device=device,
        workers=settings.workers,
        seconds=seconds,
        extra=extra,
        progress=progress,
    )
    resume.unlink(missing_ok=True)


def _dump_with(job: _Job, manifest: Manifest, device: "torch.device", progress: Progress) -> None:
    assert job.source is not None
    network = make_network(
        job.attributes["backbone"],
        n_classes=0 if job.attributes["exposure"] == "frozen" else len(job.attributes["classes"]),
        image_size=job.attributes["preprocessing"]["size"],
        drop_rate=job.settings.drop_rate,
    )
    checkpoint = _checkpoint_of(job.source)
    load_checkpoint(checkpoint, network.model, digest=job.attributes["weights_digest"])
    _place(network, device)
    progress.say(f"{job.target}: the network of {checkpoint} on {device.type}")
    _dump(
        job, network, manifest, device=device, workers=-1, seconds={}, extra={}, progress=progress
    )


def _dump(
    job: _Job,
    network: Network,
    manifest: Manifest,
    *,
    device: "torch.device",
    workers: int,
    seconds: dict[str, float],
    extra: dict[str, np.ndarray],
    progress: Progress,
) -> None:
    import timm
    import torch

    from trustq.extraction.dump import PRECISION, Further, dump
    from trustq.extraction.images import Preprocessing

    started = time.monotonic()
    attributes = job.attributes | {
        "precision": PRECISION,
        "created": "",
        "seconds": seconds,
        "versions": {
            "trustq": __version__,
            "torch": str(torch.__version__),
            "timm": timm.__version__,
            "python": platform.python_version(),
        },
    }

    def finished() -> dict[str, Any]:
        return attributes | {"seconds": seconds | {"dump": round(time.monotonic() - started, 3)}}

    preprocessing = Preprocessing.of_attribute(attributes["preprocessing"])
    dump(
        job.target,
        network,
        manifest,
        job.rows,
        preprocessing=preprocessing,
        device=device,
        workers=workers,
        attributes=finished,
        extra=extra,
        progress=progress,
        what=f"features of seed {job.seed}",
        further=Further.of_recipe(job.settings, network, size=preprocessing.size),
    )


def _place(network: Network, device: "torch.device") -> None:
    import torch

    network.model.to(device)
    if device.type == "cuda":
        network.model.to(memory_format=torch.channels_last)


def _checkpoint_of(cache: Path) -> Path:
    return cache.with_suffix(".safetensors")


def _extracted(job: _Job) -> Extracted:
    with h5py.File(job.target, "r") as file:
        n_rows, n_features = file["features"].shape
        accuracy = None
        is_val = file["split"][()] == b"val"
        if "logits" in file and is_val.any():
            predicted = file["logits"][()].argmax(axis=1)
            accuracy = float((predicted == file["label"][()])[is_val].mean())
    return Extracted(job.target, n_rows, n_features, job.rows.exposure, accuracy, not job.is_there)
