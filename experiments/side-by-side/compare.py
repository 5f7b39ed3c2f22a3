"""Two networks side by side against each alone: heads on clean labels, judged on the same rows.

    python compare.py DATA FOLDER [HAM10000.h5]

DATA holds the data sets as their sources name them; the cache is of a network trained on HAM10000.
"""

import dataclasses
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.datasets import load_digits

import trustq as tq
from trustq.data.splits import split_by_group
from trustq.store import read_cache, write_cache

REPLICATES = 2000


def digits() -> dict[str, dict[str, Any]]:
    """The left and the right half of each image, as two cameras would see it."""
    pixels, labels = load_digits(return_X_y=True)
    images = pixels.reshape(-1, 8, 8)
    halves = {"left": images[:, :, :4], "right": images[:, :, 4:]}
    return {
        name: {"features": half.reshape(len(half), -1), "labels": labels}
        for name, half in halves.items()
    }


def cifar(data: Path) -> dict[str, dict[str, Any]]:
    """Log probabilities of two networks that were trained on other folds' human labels."""
    found = {}
    for name in ("resnet18", "swin"):
        with np.load(data / "cifar10n_worst" / f"cifar10n_worst_{name}.npz") as stored:
            probs = stored["pred_probs"][:10_000].astype(np.float64)
            labels = stored["true_labels"][:10_000]
        found[name] = {"features": np.log(np.clip(probs, 1e-6, 1)), "labels": labels}
    return found


def ham10000(data: Path, other: Path) -> dict[str, dict[str, Any]]:
    """Two networks that were trained on other lesions of the set, on rows that neither saw."""
    with np.load(data / "ham10000_features" / "convnext_atto_64px.npz") as stored:
        unseen = np.flatnonzero(stored["split"] > 0)
        ids, groups = (stored[name][unseen].astype(str) for name in ("sample_ids", "groups"))
        features, labels = stored["features"][unseen].astype(np.float32), stored["labels"][unseen]
    cache = read_cache(other)
    place = {name: row for row, name in enumerate(cache.sample_id.tolist())}
    rows = np.array([place[name] for name in ids.tolist()])
    kept = cache.honest_for_any_noise[rows]
    shared = {"labels": labels[kept], "groups": groups[kept], "sample_ids": ids[kept]}
    return {
        "atto": shared | {"features": features[kept]},
        "lite0": shared | {"features": np.asarray(cache.features[rows[kept]])},
    }


def write(name: str, parts: dict[str, dict[str, Any]], folder: Path) -> None:
    """A cache for each network, of the same rows and splits."""
    for part, arrays in parts.items():
        own = dict(arrays)
        if "split" not in own:
            n = len(own["labels"])
            split = split_by_group(
                np.asarray(own["labels"], dtype=np.int64),
                np.asarray(own.get("groups", np.arange(n))).astype(str),
                fractions=(0.6, 0.2, 0.2),
                seed=0,
            )
            own["split"] = np.array(["train", "val", "test"])[split]
        cache = tq.import_cache(own, exposure="frozen", dataset=name)
        cache = dataclasses.replace(cache, recipe={"name": part}, backbone=part)
        write_cache(folder / name / f"{part}.h5", cache)


def compare(folder: Path, name: str) -> list[dict[str, Any]]:
    """Accuracy and macro-F1 of each network and of both, with paired intervals over groups."""
    results = folder / f"results-{name}"
    tq.sweep(
        caches=[str(folder / name)],
        concat=["none", "all"],
        noise="none",
        arms=["none"],
        references=False,
        head="linear",
        results=results,
        jobs=1,
        allow_leak=False,
    )
    rows = tq.Results(results).sql(
        "SELECT cache_recipe, sample_id, p.group_id, p.label, predicted FROM predictions p "
        "JOIN runs ON run = key WHERE split = 'test' AND stage = 'calibrated' ORDER BY ALL"
    )
    table = rows.to_pandas()
    right, groups, shown = {}, None, []
    for recipe, own in table.groupby("cache_recipe"):
        own = own.sort_values("sample_id")
        right[recipe] = (own.label == own.predicted).to_numpy(dtype=float)
        groups = own.group_id.to_numpy()
    (both,) = [recipe for recipe in right if " + " in recipe]
    codes = np.unique(groups, return_inverse=True)[1]
    rng = np.random.default_rng(0)
    n = codes.max() + 1
    weights = np.stack([np.bincount(rng.integers(0, n, n), minlength=n) for _ in range(REPLICATES)])
    for recipe, own in right.items():
        drawn = weights[:, codes]
        difference = (drawn * (right[both] - own)).sum(axis=1) / drawn.sum(axis=1)
        lower, upper = np.quantile(difference, [0.025, 0.975])
        shown.append(
            {
                "dataset": name,
                "features": recipe,
                "accuracy": own.mean(),
                "both less this": right[both].mean() - own.mean(),
                "lower": lower,
                "upper": upper,
                "n": len(own),
            }
        )
    return shown


def main() -> None:
    data, folder = Path(sys.argv[1]), Path(sys.argv[2])
    sets = {"digits": digits(), "cifar10n": cifar(data)}
    if len(sys.argv) > 3:
        sets["ham10000"] = ham10000(data, Path(sys.argv[3]))
    for name, parts in sets.items():
        write(name, parts, folder)
        for row in compare(folder, name):
            print(json.dumps(row))


if __name__ == "__main__":
    main()
