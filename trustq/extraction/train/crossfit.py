"""Cross-fitting: one network a fold, trained on the other folds, scores the rows of that fold."""

import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from trustq.core.atomic_files import replacing
from trustq.core.digest import digest_json
from trustq.core.generators import generator
from trustq.data.manifest import Manifest
from trustq.data.preprocessing import Preprocessing
from trustq.extraction.dump.cache_dump import predict
from trustq.extraction.exposure import Rows
from trustq.extraction.train.loop import train
from trustq.extraction.train.progress import Progress
from trustq.extraction.train.weights import Network
from trustq.recipes import ExtractRecipe


@dataclass(frozen=True)
class _Fold:
    """What one fold leaves: the logits of its rows, (m, k), its history, and the time it took."""

    logits: np.ndarray
    history: dict[str, np.ndarray]
    seconds: float


def crossfit(
    target: Path,
    manifest: Manifest,
    rows: Rows,
    *,
    make: Callable[[int], Network],
    recipe: ExtractRecipe,
    seed: int,
    preprocessing: Preprocessing,
    device: torch.device,
    identity: str,
    progress: Progress,
) -> tuple[dict[str, np.ndarray], float]:
    """Train a network for each fold of `rows` and return a cache's `fold` and `crossfit_logits`.

    `make` gives the starting network of a seed. `crossfit_logits` is (n, k), NaN where `fold` is
    -1: rows that were not trained on have the logits of the full network. A fold that is done is
    kept beside `target` until the cache is there, so a stopped run goes on within the fold it was
    in. Also returns the seconds of training.
    """
    logits = np.full((len(manifest), len(manifest.classes)), np.nan, dtype=np.float32)
    datasets = {"fold": rows.fold}
    seconds = 0.0
    n_folds = int(rows.fold.max()) + 1
    for fold in range(n_folds):
        held_out = np.flatnonzero(rows.fold == fold)
        mark = digest_json([identity, "fold", fold])
        done = _read(_kept(target, seed, fold), mark, progress)
        if done is None:
            progress.say(f"{target}: fold {fold + 1} of {n_folds}, {len(held_out):,} rows held out")
            # A seed of its own, for a network that starts and shuffles as the full one does would
            # be nearer to it than two trainings are.
            own_seed = int(generator(seed, "crossfit", fold).integers(2**31))
            resume = target.with_name(f".seed{seed}.fold{fold}.resume.pt")
            network = make(own_seed)
            trained = train(
                network,
                manifest,
                np.where(rows.fold == fold, -1, rows.observed),
                validation=rows.validation,
                recipe=recipe,
                seed=own_seed,
                preprocessing=preprocessing,
                device=device,
                resume=resume,
                identity=mark,
                progress=progress,
            )
            scored = predict(
                network,
                manifest,
                held_out,
                preprocessing=preprocessing,
                device=device,
                workers=recipe.workers,
                progress=progress,
                what=f"held-out rows of fold {fold + 1}",
            )
            done = _Fold(scored, trained.history.arrays, trained.seconds)
            _write(_kept(target, seed, fold), mark, done)
            resume.unlink(missing_ok=True)
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
