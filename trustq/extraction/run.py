"""The public door of the GPU stage: check everything that is cheap to check, then train and dump.

Torch is imported only once there is a cache to make.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import h5py
import numpy as np

from trustq.core.counts import counted
from trustq.core.digest import digest_json
from trustq.data.manifest import Manifest
from trustq.errors import InputError
from trustq.extraction.dump.views import require_dumpable
from trustq.extraction.exposure import (
    require_trainable,
    require_unrelated_start,
    rows_of_training,
)
from trustq.extraction.inputs.augment import Augmentation
from trustq.extraction.inputs.sampling import columns_digest
from trustq.extraction.inputs.staging import stage
from trustq.extraction.jobs import (
    Extracted,
    Job,
    already_there,
    checkpoint_of,
    dump_job,
    extracted,
    folder_name,
    only_one,
    recipe_attribute,
    require_readable,
    torch_device,
    written_from_another,
)
from trustq.extraction.launch import own_share
from trustq.extraction.train.progress import Progress, StderrProgress
from trustq.extraction.train.weights import (
    Network,
    digest_weights,
    place,
    require_weights,
    save_checkpoint,
    start_network,
)
from trustq.recipes import Recipe
from trustq.store import read_attributes

if TYPE_CHECKING:
    import torch

    from trustq.extraction.inputs.images import Feed
    from trustq.extraction.train.epoch_logits import EpochLogits


_LISTED = 20  # images that are told by name


# A teacher's logits of every row, (n, k), and what a cache says of it: `alpha`, `temperature`, ...
TaughtBy = tuple[np.ndarray, dict[str, Any]]


@dataclass(frozen=True)
class Execution:
    """How an extraction is carried out where it runs.

    `stage_to` is a local folder that images are copied to first. With `skip_unreadable` every image
    is decoded first; rows whose image cannot be are left out and recorded in the cache as
    `skipped`. With `auto_batch` a batch that does not fit into memory is halved, with more batches
    a step, which the cache records. With `replace` caches of another recipe or manifest that lie in
    the place of new ones are replaced, each when the new one is whole.
    """

    device: str = "auto"
    stage_to: Path | None = None
    skip_unreadable: bool = False
    auto_batch: bool = False
    replace: bool = False


def extract(
    manifest: Manifest,
    *,
    recipe: Recipe,
    seeds: Sequence[int],
    out: Path,
    execution: Execution | None = None,
    progress: Progress | None = None,
    taught_by: TaughtBy | None = None,
) -> list[Extracted]:
    """Train one network per seed as the recipe says and cache its features of every image.

    Writes `<out>/<dataset>/<recipe name>/seed<S>.h5` and the network beside it. A cache that is
    there from the same recipe and manifest is left as it is; a training that was stopped goes on
    after its last finished epoch. `taught_by` is for `distil`. Of several processes that are asked
    for one seed one makes it, and the others wait for it. Where `torchrun` started several
    processes, each takes its share of the seeds, and only those are returned. Raises `TrustqError`,
    before time is spent where that can be, for a cache of another recipe, rows that cannot be
    trained on, images that cannot be read, weights that cannot be had, and a device that is not
    there.

    >>> extract(manifest, recipe=load_recipe("small-cpu"), seeds=[0], out=Path("cache"))
    ... # doctest: +SKIP
    """
    execution, progress = execution or Execution(), progress or StderrProgress()
    if not seeds or min(seeds) < 0:
        raise InputError("Seeds are whole numbers from 0, at least one, e.g. `seeds=42,52`.")
    require_trainable(manifest, recipe=recipe.extract)
    require_unrelated_start(manifest, recipe=recipe.extract)
    require_dumpable(recipe.extract)
    Augmentation.of_recipe(recipe.extract, seed=0)  # raises for what cannot be
    own_seeds, gpu = own_share(seeds, os.environ)
    folder = Path(out) / folder_name(manifest.dataset) / folder_name(recipe.name)
    of_recipe = partial(
        _training_jobs,
        recipe=recipe,
        folder=folder,
        progress=progress,
        taught_by=taught_by,
        replaces=execution.replace,
    )
    jobs = of_recipe(manifest, seeds=own_seeds, skipped=None)
    if not all(job.is_there for job in jobs):
        require_weights(recipe.extract)
        device = torch_device(execution.device, gpu)
        _require_engine(recipe, device)
        manifest, skipped = _readable(manifest, execution, progress)
        if skipped is not None:
            require_trainable(manifest, recipe=recipe.extract)
            there = [job for job in jobs if job.is_there]
            seeds = [job.seed for job in jobs if not job.is_there]
            jobs = there + of_recipe(manifest, seeds=seeds, skipped=skipped)
        make = _Maker(manifest, device, progress, taught_by, execution)
        jobs = [job if job.is_there else make.alone(job) for job in jobs]
    for job in jobs:
        _clear_workings(job)
    return [extracted(job) for job in jobs]


def _require_engine(recipe: Recipe, device: "torch.device") -> None:
    from trustq.extraction.dump.engines import chosen_engine

    chosen_engine(recipe.extract, device)


def _readable(
    manifest: Manifest, execution: Execution, progress: Progress
) -> "tuple[Manifest, _Skipped | None]":
    """The manifest with its images at hand, and what was left out where that was asked for."""
    if execution.stage_to is not None:
        if not execution.skip_unreadable:
            require_readable(manifest)  # named where they should be, before any is copied
        manifest = stage(manifest, execution.stage_to, progress=progress)
    if execution.skip_unreadable:
        return _without_unreadable(manifest, progress)
    require_readable(manifest, progress)
    return manifest, None


def _training_jobs(
    manifest: Manifest,
    recipe: Recipe,
    seeds: Sequence[int],
    folder: Path,
    progress: Progress,
    skipped: "_Skipped | None",
    taught_by: TaughtBy | None,
    replaces: bool,
) -> list["Job"]:
    jobs: list[Job] = []
    every = manifest
    for seed in seeds:
        target = folder / f"seed{seed}.h5"
        left_out = _left_out_of(target, every) if skipped is None else skipped.sample_id.tolist()
        if skipped is None and left_out:
            manifest = every.subset(~np.isin(every.columns["sample_id"].astype(str), left_out))
            progress.say(
                f"{target} is without {counted(len(left_out), 'row')}, whose images could not be "
                "decoded when it was made. Delete it to try them again."
            )
        else:
            manifest = every
        rows = rows_of_training(manifest, recipe=recipe.extract, seed=seed, left_out=left_out)
        attributes: dict[str, Any] = {
            "dataset": manifest.dataset,
            "classes": manifest.classes,
            "exposure": rows.exposure,
            "backbone": recipe.extract.backbone,
            "backbone_seed": seed,
            "recipe": recipe_attribute(recipe),
            "manifest": manifest.digests,
            "noise": rows.noise,
        }
        if taught_by is not None:
            attributes["recipe"]["teacher"] = taught_by[1]
        trained = np.flatnonzero(rows.observed >= 0)
        if columns := columns_digest(manifest, trained, recipe=recipe.extract):
            # The manifest's digests are of no column of metadata.
            attributes["recipe"]["sampling_columns"] = columns
        extra: dict[str, np.ndarray] = {}
        if skipped is not None and len(skipped.sample_id):
            # What is left is another manifest; whose part it is, a second run must know.
            attributes["recipe"]["skipped_of"] = skipped.manifest
            extra = {"skipped/sample_id": skipped.sample_id, "skipped/reason": skipped.reason}
        is_there = already_there(target, attributes, progress, replaces=replaces)
        if replaces and not is_there and target.exists():
            progress.say(f"{written_from_another(target, attributes)}; it is replaced.")
        for note in () if is_there or jobs else rows.notes:
            progress.say(note)
        jobs.append(Job(seed, target, rows, attributes, is_there, recipe.extract, extra=extra))
    return jobs


def _left_out_of(target: Path, manifest: Manifest) -> list[str]:
    """Ids of rows of this manifest that a cache, if it is there, was made without."""
    if target.exists() and read_attributes(target)["recipe"].get("skipped_of") == manifest.digests:
        with h5py.File(target, "r") as file:
            return [bytes(sample_id).decode() for sample_id in file["skipped/sample_id"][()]]
    return []


@dataclass(frozen=True)
class _Skipped:
    sample_id: np.ndarray
    reason: np.ndarray
    manifest: dict[str, str]  # digests of the whole one


def _without_unreadable(manifest: Manifest, progress: Progress) -> tuple[Manifest, _Skipped]:
    from trustq.extraction.inputs.images import decoding_problems

    problems = decoding_problems(manifest, progress=progress)
    if len(problems) == len(manifest):
        require_readable(manifest, progress)
        raise InputError(f"None of the {len(manifest):,} images can be decoded.")
    rows = np.array(sorted(problems), dtype=np.int64)
    for row in rows[:_LISTED]:
        progress.say(f"left out: {manifest.image_path(row)}: {problems[row]}")
    if len(rows) > _LISTED:
        progress.say(f"left out: {len(rows) - _LISTED:,} more, listed in the cache as skipped.")
    left = manifest.subset(np.setdiff1d(np.arange(len(manifest)), rows))
    reasons = np.array([problems[row] for row in rows.tolist()], dtype=object)
    return left, _Skipped(manifest.columns["sample_id"][rows], reasons, manifest.digests)


@dataclass(frozen=True)
class _Maker:
    """Makes the caches of jobs, one network after the other."""

    manifest: Manifest
    device: "torch.device"
    progress: Progress
    taught_by: TaughtBy | None
    execution: Execution

    def alone(self, job: Job) -> Job:
        """Make a job's cache, unless another process does meanwhile; the job as it is then."""
        with only_one(job.target, self.progress):
            # Another process may have made it while this one waited or looked at images.
            is_there = already_there(
                job.target, job.attributes, self.progress, replaces=self.execution.replace
            )
            if is_there:
                return replace(job, is_there=True)
            self._train_and_dump(job)
        return job

    def _train_and_dump(self, job: Job) -> None:
        from trustq.data.preprocessing import Preprocessing
        from trustq.extraction.dump.cache_dump import Further
        from trustq.extraction.inputs.images import Feed
        from trustq.extraction.train.memory import explained

        network = self._start(job, job.seed)
        job = self._fitted(job, network)
        settings = job.settings
        preprocessing = Preprocessing.of_config(
            network.config,
            settings.image_size,
            interpolation=settings.interpolation,
            aspect=settings.aspect,
        )
        feed = Feed(preprocessing, self.device, settings.workers, self.progress)
        # Told now, not after training.
        Further.of_recipe(settings, network, size=preprocessing.size)
        self.progress.say(
            f"{job.target}: {settings.backbone} from {network.weights} on {self.device.type}"
        )
        with explained(settings, network, self.device):
            extra, seconds = self._train(job, network, feed)
        attributes = job.attributes | {
            "weights": network.weights,
            "weights_digest": digest_weights(network.model),
            "preprocessing": preprocessing.attribute,
        }
        about = {key: attributes[key] for key in ("backbone", "classes", "preprocessing")}
        save_checkpoint(checkpoint_of(job.target), network.model, about)
        job = replace(job, attributes=attributes, extra=job.extra | extra)
        dump_job(job, network, self.manifest, feed=feed, seconds=seconds)

    def _start(self, job: Job, seed: int) -> Network:
        """The network that training with a seed starts from."""
        settings, frozen = job.settings, job.settings.mode == "frozen"
        n_classes = 0 if frozen else len(self.manifest.classes)
        network, left_out = start_network(settings, n_classes=n_classes, seed=seed)
        if left_out and not frozen:
            self.progress.say(
                f"{settings.weights}: left out {', '.join(left_out)} (other classes)."
            )
        place(network, self.device)
        return network

    def _fitted(self, job: Job, network: Network) -> Job:
        """The job with batches that memory holds, where that was asked for."""
        from trustq.extraction.train.memory import fitting

        settings = job.settings
        if not self.execution.auto_batch or settings.mode == "frozen":
            return job
        fitted = fitting(settings, network, self.device)
        if fitted == settings:
            return job
        used = {"batch_size": fitted.batch_size, "accumulate": fitted.accumulate}
        recipe_used = job.attributes["recipe"] | {"fitted": used}
        self.progress.say(
            f"Batches of {settings.batch_size} do not fit: {fitted.batch_size}, "
            f"{fitted.accumulate} of them a step."
        )
        return replace(job, settings=fitted, attributes=job.attributes | {"recipe": recipe_used})

    def _train(
        self, job: Job, network: Network, feed: "Feed"
    ) -> tuple[dict[str, np.ndarray], dict[str, float]]:
        """Train a job's networks, unless it is frozen: further datasets, and seconds spent."""
        from trustq.extraction.train.crossfit import crossfit
        from trustq.extraction.train.loop import State, TrainingSet, train
        from trustq.extraction.train.teacher import Teacher

        identity = digest_json([job.attributes[name] for name in ("recipe", "manifest", "noise")])
        extra: dict[str, np.ndarray] = {}
        seconds: dict[str, float] = {}
        if job.rows.is_crossfit:
            make = partial(self._start, job)
            extra, spent = crossfit(job, self.manifest, make=make, feed=feed, identity=identity)
            seconds["crossfit"] = round(spent, 3)
        if job.settings.mode == "frozen":
            return extra, seconds
        kept = self._epoch_logits(job)
        taught_by = self.taught_by
        teacher = None if taught_by is None else Teacher(taught_by[0], **_weights(taught_by))
        trained = train(
            network,
            TrainingSet(self.manifest, job.rows.observed, job.rows.validation, teacher),
            recipe=job.settings,
            seed=job.seed,
            feed=feed,
            state=State(job.target.with_name(f".seed{job.seed}.resume.pt"), identity),
            epoch_logits=kept,
        )
        if kept is not None:
            extra["epochs/logits"] = kept.finished(len(trained.history.epoch))
        seconds["training"] = round(trained.seconds, 3)
        extra |= {f"history/{name}": array for name, array in trained.history.arrays.items()}
        return extra, seconds

    def _epoch_logits(self, job: Job) -> "EpochLogits | None":
        """Where the logits of epochs are kept, if they are."""
        from trustq.extraction.train.epoch_logits import EpochLogits

        kept = EpochLogits.of_recipe(
            job.settings,
            job.target.with_name(f".seed{job.seed}.epochs.npy"),
            n_rows=len(self.manifest),
            n_classes=len(self.manifest.classes),
        )
        if kept is None and job.settings.epoch_logits:
            self.progress.say(
                "The logits of epochs are not stored: steps see mixed images, which have no row of "
                "their own."
            )
        return kept


def _weights(taught_by: TaughtBy) -> dict[str, float]:
    return {name: float(taught_by[1][name]) for name in ("alpha", "temperature")}


def _clear_workings(job: Job) -> None:
    """Remove what a training keeps to go on from, also after a kill just behind the last step."""
    for pattern in ("resume.pt", "epochs.npy", "fold*.npz", "fold*.resume.pt", "*stored"):
        for path in job.target.parent.glob(f".seed{job.seed}.{pattern}"):
            path.unlink(missing_ok=True)
