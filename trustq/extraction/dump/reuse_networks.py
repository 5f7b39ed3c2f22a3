"""Other images, or more views, through the networks of caches that are there; no training."""

from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from trustq.core.generators import generator
from trustq.core.words import whole_number
from trustq.data.manifest import Manifest
from trustq.errors import InputError, NotFound
from trustq.extraction.dump.views import require_dumpable
from trustq.extraction.exposure import rows_elsewhere
from trustq.extraction.jobs import (
    Extracted,
    Job,
    already_there,
    checkpoint_of,
    dump_job,
    extracted,
    folder_name,
    require_readable,
    torch_device,
    without_torch,
)
from trustq.extraction.train.progress import Progress, StderrProgress
from trustq.extraction.train.weights import load_checkpoint, make_network, place
from trustq.recipes import ExtractRecipe
from trustq.recipes.schema import plain
from trustq.store import read_attributes

if TYPE_CHECKING:
    import torch


# A recipe's settings that another dump of a network takes; `workers` changes no number.
DUMP_SETTINGS = (
    "views",
    "passes",
    "maps",
    "pass_drop",
    "map_precision",
    "explain",
    "explain_class",
    "explain_checks",
    "engine",
    "workers",
)


def some_rows(manifest: Manifest, only: str) -> Manifest:
    """Rows of some splits, or a random sample of so many of them: `test`, `val,test`, `test:200`.

    A sample is drawn with a fixed seed and keeps the manifest's order. Raises `TrustqError` where
    there are no such rows, or fewer than asked for.
    """
    names, _, number = only.partition(":")
    wanted = [name.strip() for name in names.split(",")]
    splits = manifest.columns["split"].astype(str)
    rows = np.flatnonzero(np.isin(splits, wanted))
    if not len(rows):
        has = ", ".join(sorted(set(splits.tolist())))
        raise NotFound(
            f"No row is in the split {names}; the manifest has {has}.", where="only", found=only
        )
    if number:
        n = whole_number(number)
        if n is None or not 1 <= n <= len(rows):
            raise InputError(
                f"only={only}: expected a number of rows from 1 to {len(rows):,}.",
                where="only",
                found=only,
            )
        rows = np.sort(generator(0, "some rows").permutation(rows)[:n])
    return manifest.subset(rows)


def extract_with(
    manifest: Manifest,
    caches: Sequence[Path],
    *,
    out: Path,
    name: str = "",
    settings: Mapping[str, Any] | None = None,
    device: str = "auto",
    progress: Progress | None = None,
) -> list[Extracted]:
    """Send other images, or more views, through the networks of caches, untrained.

    Writes `<out>/<dataset>/<name or the recipe's>/seed<S>.h5` for each cache, whose checkpoint must
    lie beside it. Labels index the cache's classes; rows that the network has seen keep their
    marks. `settings` holds those of `DUMP_SETTINGS` that the new caches have, whatever the old ones
    do; the others are a recipe's defaults. Raises `TrustqError` for a missing or foreign checkpoint
    and for classes that the cache lacks.
    """
    progress = progress or StderrProgress()
    given: dict[str, Any] = {name: getattr(ExtractRecipe, name, ()) for name in DUMP_SETTINGS}
    given |= settings or {}
    asked = {name: plain(value) for name, value in given.items() if name != "workers"}
    jobs = [_job_with(manifest, source, Path(out), name, asked, progress) for source in caches]
    targets = [job.target for job in jobs]
    if twice := next((path for path in targets if targets.count(path) > 1), None):
        raise InputError(f"Two of the caches would be written to {twice}; run them apart.")
    if not all(job.is_there for job in jobs):
        chosen = torch_device(device)
        require_readable(manifest, progress)
        for job in jobs:
            if not job.is_there:
                _dump_with(job, manifest, chosen, progress, workers=given["workers"])
    return [extracted(job) for job in jobs]


def _job_with(
    manifest: Manifest,
    source: Path,
    out: Path,
    name: str,
    asked: dict[str, Any],
    progress: Progress,
) -> Job:
    """The cache to be made of one network; raises where it cannot be."""
    theirs = read_attributes(source)
    checkpoint = checkpoint_of(source)
    if not checkpoint.is_file():
        raise NotFound(
            f"{checkpoint}: no such file. It is the network of {source}, which other images "
            "must go through; copy it there, or extract again.",
            path=checkpoint,
        )
    rows = rows_elsewhere(manifest, source=source, attributes=theirs)
    settings = _settings_of(theirs["recipe"], asked)
    require_dumpable(settings)
    own_name = name or theirs["recipe"].get("name", source.parent.name)
    folder = out / folder_name(manifest.dataset) / folder_name(own_name)
    target = folder / f"seed{theirs['backbone_seed']}.h5"
    if target.resolve() == source.resolve():
        raise InputError(
            f"The new cache would replace {source} itself. Give it a name of its own with "
            "`name` or `out`."
        )
    recipe = theirs["recipe"] | {
        "with": theirs["content_digest"],
        "extract": without_torch(theirs["recipe"].get("extract", {}) | asked),
    }
    kept = ("classes", "backbone", "backbone_seed", "weights", "weights_digest", "preprocessing")
    attributes = {key: theirs[key] for key in kept} | {
        "dataset": manifest.dataset,
        "exposure": rows.exposure,
        "recipe": recipe,
        "manifest": manifest.digests,
        "noise": rows.noise,
    }
    is_there = already_there(target, attributes, progress)
    if n_shared := int((rows.seen > 0).sum()):
        progress.say(
            f"{n_shared:,} of {len(manifest):,} rows share an id or a group with rows that the "
            f"network of {source} has seen; they stay marked as seen."
        )
    return Job(theirs["backbone_seed"], target, rows, attributes, is_there, settings, source)


def _settings_of(recipe: dict[str, Any], asked: dict[str, Any]) -> ExtractRecipe:
    """A cache's stored settings with others in their place; what it does not state is default."""
    stored = recipe.get("extract", {}) | asked
    known = [key.name for key in fields(ExtractRecipe)]
    values: dict[str, Any] = {name: stored[name] for name in known if name in stored}
    listed = {name: tuple(value) for name, value in values.items() if isinstance(value, list)}
    return ExtractRecipe(**(values | listed))


def _dump_with(
    job: Job, manifest: Manifest, device: "torch.device", progress: Progress, *, workers: int
) -> None:
    from trustq.data.preprocessing import Preprocessing
    from trustq.extraction.inputs.images import Feed

    assert job.source is not None
    network = make_network(
        job.attributes["backbone"],
        n_classes=0 if job.attributes["exposure"] == "frozen" else len(job.attributes["classes"]),
        image_size=job.attributes["preprocessing"]["size"],
        drop_rate=job.settings.drop_rate,
    )
    checkpoint = checkpoint_of(job.source)
    load_checkpoint(checkpoint, network.model, digest=job.attributes["weights_digest"])
    place(network, device)
    progress.say(f"{job.target}: the network of {checkpoint} on {device.type}")
    preprocessing = Preprocessing.of_attribute(job.attributes["preprocessing"])
    feed = Feed(preprocessing, device, workers, progress)
    dump_job(job, network, manifest, feed=feed, seconds={})
