"""One cache to be made: what it is called, whether it is there, and its last step, the dump."""

import os
import platform
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import h5py
import numpy as np

from trustq import __version__
from trustq.core.digest import digest_json
from trustq.data.manifest import Manifest
from trustq.errors import InputError, MissingExtra
from trustq.extraction.exposure import Rows
from trustq.extraction.train.progress import Progress
from trustq.extraction.train.weights import Network, digest_weights_file
from trustq.recipes import ExtractRecipe, Recipe, resolved
from trustq.store import read_attributes

if TYPE_CHECKING:
    import torch

    from trustq.extraction.inputs.images import Feed


@dataclass(frozen=True)
class Extracted:
    """A cache that is there: its path, shape, exposure and accuracy on validation rows."""

    path: Path
    n_rows: int
    n_features: int
    exposure: str
    val_accuracy: float | None  # None for a frozen backbone and without validation rows
    is_new: bool  # whether this run wrote it


@dataclass(frozen=True)
class Job:
    """A cache to be made, or found there, with what is known of it before its network is."""

    seed: int
    target: Path
    rows: Rows
    attributes: dict[str, Any]  # known before the network is
    is_there: bool
    settings: ExtractRecipe
    source: Path | None = None
    extra: dict[str, np.ndarray] = field(default_factory=dict)  # further datasets, known before


def recipe_attribute(recipe: Recipe) -> dict[str, Any]:
    """A recipe as a cache states it: without what changes no number, files by their content."""
    values = resolved(recipe, "extract")
    # How many processes load images changes no number.
    del values["extract"]["workers"]
    values["extract"] = without_torch(values["extract"])
    if recipe.extract.weights:
        values["weights_file"] = digest_weights_file(
            recipe.extract.weights, backbone=recipe.extract.backbone
        )
    if recipe.extract.observed:
        # The labels themselves are in the noise attribute's digest, whatever the file is called.
        values["extract"]["observed"] = Path(recipe.extract.observed).name
    return values


def without_torch(settings: dict[str, Any]) -> dict[str, Any]:
    """Settings as caches keep them: the engine only where it is not torch, as all were once.

    >>> without_torch({"engine": "torch", "epochs": 1})
    {'epochs': 1}
    """
    return {k: v for k, v in settings.items() if (k, v) != ("engine", "torch")}


def folder_name(name: str) -> str:
    """A name that is safe as a folder's; raises `TrustqError` for another."""
    if not name or name.startswith(".") or "/" in name or "\\" in name:
        raise InputError(
            f"{name!r} cannot name a folder of caches; give the recipe or data set a plain name, "
            "e.g. `name=mine`."
        )
    return name


@contextmanager
def only_one(target: Path, progress: Progress) -> Iterator[None]:
    """Let one process at a time make a cache; the others wait, and a killed one frees its place."""
    from filelock import FileLock, Timeout

    lock = FileLock(target.with_name(f".{target.stem}.lock"))
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        progress.say(f"{target} is being made by another process; waiting for it.")
        lock.acquire()
    try:
        yield
    finally:
        if target.exists():  # else those that wait would lock a file that is not there for others
            Path(lock.lock_file).unlink(missing_ok=True)
        lock.release()


def already_there(
    target: Path, attributes: dict[str, Any], progress: Progress, *, replaces: bool = False
) -> bool:
    """Whether it is there, from the same recipe, manifest and noise.

    Another one is an error, unless it is to be replaced: then nothing that counts is there.
    """
    if not target.exists():
        return False
    if not (told := written_from_another(target, attributes)):
        progress.say(f"{target} is there already, from the same recipe and manifest.")
        return True
    if replaces:
        return False
    raise InputError(
        f"{told}.\nGive this run a name of its own with `name` or `out`, or delete that file."
    )


def written_from_another(target: Path, attributes: dict[str, Any]) -> str:
    """What a cache that is there was made of otherwise, for people; blank where nothing."""
    found = read_attributes(target)
    # An older trustq had fewer settings; what it did is what the defaults of the new ones do.
    settings = resolved(Recipe(), "extract")["extract"] | found["recipe"].get("extract", {})
    own = {"engine": ExtractRecipe.engine} | attributes["recipe"]["extract"]
    theirs = found["recipe"] | {"extract": {name: settings.get(name) for name in own}}
    theirs.pop("fitted", None)  # what memory allowed, not what was asked
    theirs.pop("skipped_of", None)  # what is left is the manifest that is compared
    ours = attributes["recipe"] | {"extract": own}
    ours.pop("skipped_of", None)
    if "sampling_columns" not in theirs:
        ours.pop("sampling_columns", None)  # an older trustq did not note them
    parts = {
        "recipe": theirs == ours,
        "manifest": found["manifest"] == attributes["manifest"],
        "noise": found["noise"].get("digest") == attributes["noise"].get("digest"),
    }
    differing = [name for name, same in parts.items() if not same]
    if not differing:
        return ""
    expected, there = (digest_json(values[differing[0]]) for values in (attributes, found))
    return (
        f"{target} was written from another {' and '.join(differing)} ({differing[0]} digest "
        f"{there[:8]}..., expected {expected[:8]}...{_differing_settings(theirs, ours)})"
    )


def _differing_settings(theirs: dict[str, Any], ours: dict[str, Any]) -> str:
    one, two = theirs.get("extract", {}), ours.get("extract", {})
    pairs = [f"{key} {one.get(key)!r}, not {two[key]!r}" for key in two if one.get(key) != two[key]]
    more = f" and {len(pairs) - 3} more" if len(pairs) > 3 else ""
    return f"; it has {', '.join(pairs[:3])}{more}" if pairs else ""


def torch_device(name: str, gpu: int | None = None) -> "torch.device":
    """The device of that name; from here on torch is imported, or its absence explained."""
    # Before torch loads its OpenMP: threads that wait by spinning made a training on two shared
    # cores 20 times slower (45 s an epoch instead of 2 s).
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    try:
        import timm  # noqa: F401
        import torch  # noqa: F401
        import torchvision  # noqa: F401
    except ImportError as error:
        raise MissingExtra(
            f"trustq extract needs torch, torchvision and timm ({error}):\n"
            "  pip install 'trustq[gpu]'"
        ) from error
    except RuntimeError as error:
        if "torchvision::" not in str(error):
            raise
        raise MissingExtra(
            f"torch and torchvision are builds that do not fit each other ({error}).\n"
            "Install both together from the same index, e.g. both for CUDA or both for the CPU."
        ) from error
    from trustq.extraction.train.device import choose_device

    return choose_device(name, index=gpu)


def device_name(device: "torch.device") -> str:
    """A device in words: the GPU's own name, or cpu with the machine's kind.

    >>> import torch
    >>> device_name(torch.device("cpu")).startswith("cpu")
    True
    """
    import torch

    if device.type == "cuda":
        return str(torch.cuda.get_device_name(device))
    return f"{device.type} ({platform.machine()})"


def require_readable(manifest: Manifest, progress: Progress | None = None) -> None:
    """`images.require_readable`, which needs torch; says what it returns."""
    from trustq.extraction.inputs.images import require_readable

    for note in require_readable(manifest):
        if progress is not None:
            progress.say(note)


def dump_job(
    job: Job,
    network: Network,
    manifest: Manifest,
    *,
    feed: "Feed",
    seconds: dict[str, float],
) -> None:
    """Write a job's cache from its network; `seconds` of what was done before are noted in it."""
    import timm
    import torch

    from trustq.extraction.dump.cache_dump import PRECISION, Further, dump
    from trustq.extraction.dump.engines import OpenVinoNetwork, chosen_engine
    from trustq.extraction.train.memory import explained_dump

    started = time.monotonic()
    name, why = chosen_engine(job.settings, feed.device)
    if why:
        feed.progress.say(f"engine=auto: {name}, since {why}")
    engine = OpenVinoNetwork(network, feed.preprocessing) if name == "openvino" else None
    attributes = job.attributes | {
        "precision": PRECISION,
        "created": "",
        "seconds": seconds,
        "versions": {
            "trustq": __version__,
            "torch": str(torch.__version__),
            "timm": timm.__version__,
            "python": platform.python_version(),
            "device": device_name(feed.device),
            "engine": name,
            **({"openvino": engine.version} if engine else {}),
        },
    }

    def finished() -> dict[str, Any]:
        return attributes | {"seconds": seconds | {"dump": round(time.monotonic() - started, 3)}}

    size = feed.preprocessing.size
    with explained_dump(attributes["backbone"], size, feed.device):
        dump(
            job,
            network,
            manifest,
            feed=feed,
            attributes=finished,
            further=Further.of_recipe(job.settings, network, size=size),
            engine=engine,
        )


def checkpoint_of(cache: Path) -> Path:
    """Where the network of a cache lies."""
    return cache.with_suffix(".safetensors")


def extracted(job: Job) -> Extracted:
    """What is told of a finished cache."""
    with h5py.File(job.target, "r") as file:
        n_rows, n_features = file["features"].shape
        accuracy = None
        is_val = file["split"][()] == b"val"
        if "logits" in file and is_val.any():
            predicted = file["logits"][()].argmax(axis=1)
            accuracy = float((predicted == file["label"][()])[is_val].mean())
    return Extracted(job.target, n_rows, n_features, job.rows.exposure, accuracy, not job.is_there)
