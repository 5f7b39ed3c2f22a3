"""Cross-fitting: one network a fold, trained on the other folds, scores the rows of that fold."""

import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from trustq.core.atomic_files import replacing
from trustq.core.counts import counted
from trustq.core.digest import digest_json
from trustq.core.generators import generator
from trustq.data.manifest import Manifest
from trustq.extraction.dump.cache_dump import predict
from trustq.extraction.inputs.images import Feed
from trustq.extraction.jobs import Job
from trustq.extraction.train.loop import State, TrainingSet, train
from trustq.extraction.train.progress import Progress
from trustq.extraction.train.weights import Network


@dataclass(frozen=True)
class _Fold:
    """What one fold leaves: the logits of its rows, (m, k), its history, and the time it took."""

    logits: np.ndarray
    history: dict[str, np.ndarray]
    seconds: float


def crossfit(
    job: Job, manifest: Manifest, *, make: Callable[[int], Network], feed: Feed, identity: str
) -> tuple[dict[str, np.ndarray], float]:
    """Train a network for each fold of a job's rows; return `fold` and `crossfit_logits`.

    `make` gives the starting network of a seed. `crossfit_logits` is (n, k), NaN where `fold` is
    -1: rows that were not trained on have the logits of the full network. A fold that is done is
    kept beside the job's target until the cache is there, so a stopped run goes on within the fold
    it was in. Also returns the seconds of training.
    """
    rows, seed = job.rows, job.seed
    logits = np.full((len(manifest), len(manifest.classes)), np.nan, dtype=np.float32)
    datasets = {"fold": rows.fold}
    seconds = 0.0
    n_folds = int(rows.fold.max()) + 1
    for fold in range(n_folds):
        held_out = np.flatnonzero(rows.fold == fold)
        kept, mark = _kept(job.target, seed, fold), digest_json([identity, "fold", fold])
        done = _read(kept, mark, feed.progress)
        if done is None:
            feed.progress.say(
                f"{job.target}: fold {fold + 1} of {n_folds}, {counted(len(held_out), 'row')} held "
                "out"
            )
            # A seed of its own, for a network that starts and shuffles as the full one does would
            # be nearer to it than two trainings are.
            own_seed = int(generator(seed, "crossfit", fold).integers(2**31))
            state = State(job.target.with_name(f".seed{seed}.fold{fold}.resume.pt"), mark)
            network = make(own_seed)
            observed = np.where(rows.fold == fold, -1, rows.observed)
            trained = train(
                network,
                TrainingSet(manifest, observed, rows.validation),
                recipe=job.settings,
                seed=own_seed,
                feed=feed,
                state=state,
            )
            what = f"held-out rows of fold {fold + 1}"
            scored = predict(network, manifest, held_out, feed=feed, what=what)
            done = _Fold(scored, trained.history.arrays, trained.seconds)
            _write(kept, mark, done)
            state.path.unlink(missing_ok=True)
        logits[held_out] = done.logits
        seconds += done.seconds
        datasets |= {f"history/fold{fold}/{name}": array for name, array in done.history.items()}
    return datasets | {"crossfit_logits": logits}, seconds


def _kept(target: Path, seed: int, fold: int) -> Path:
    """Where a finished fold waits for its cache."""
    return target.with_name(f".seed{seed}.fold{fold}.npz")


def _write(path: Path, mark: str, fold: _Fold) -> None:
    arrays: dict[str, Any] = {f"history/{name}": array for name, array in fold.history.items()}
    arrays |= {"mark": mark, "logits": fold.logits, "seconds": fold.seconds}
    with replacing(path) as part:
        np.savez(part, **arrays)


def _read(path: Path, mark: str, progress: Progress) -> _Fold | None:
    if not path.is_file():
        return None
    try:
        with np.load(path, allow_pickle=False) as stored:
            arrays = dict(stored)  # a zip file checks every array's CRC
        if str(arrays["mark"]) != mark:
            progress.say(f"{path} is of another recipe or manifest; the fold is trained anew.")
            return None
        history = {
            name.removeprefix("history/"): array
            for name, array in arrays.items()
            if name.startswith("history/")
        }
        return _Fold(arrays["logits"], history, float(arrays["seconds"]))
    except (KeyError, OSError, ValueError, zipfile.BadZipFile) as error:
        progress.say(f"{path} cannot be read ({error}); the fold is trained anew.")
        return None
