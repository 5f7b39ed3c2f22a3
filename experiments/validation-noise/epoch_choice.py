"""Which epoch noisy validation labels choose, and what that costs by clean labels of other rows.

    python epoch_choice.py CACHE...

The validation rows of each cache are cut in two by group, 60 times: noisy labels of the one half
choose the epoch from the stored logits, plainly or corrected, and the clean labels of the other
half judge it, beside the epoch that the clean labels of the first half choose.
"""

import sys
from pathlib import Path

import numpy as np

from trustq.data.noise import draw_noise, parse_noise
from trustq.data.splits import split_by_group
from trustq.extraction.train.selection import JudgingLabels, best_epoch, criterion_of
from trustq.store import Cache, read_cache

NOISES = ("symmetric:0.2", "symmetric:0.4", "pair:0.3")
CHECKPOINTS = ("best", "macro_f1", "auroc_f1")
DRAWS = 60


def choices(cache: Cache, noise: str, checkpoint: str) -> dict[str, np.ndarray]:
    """Of every draw and way: the chosen epoch, and the clean figure of the judging half."""
    rows, epochs = cache.validation_epochs
    labels, groups = cache.label[rows].astype(np.int64), cache.group_id[rows].astype(str)
    process = parse_noise(noise, classes=cache.classes)
    criterion = criterion_of(checkpoint, labels)
    found: dict[str, list[tuple[int, float]]] = {"clean": [], "noisy": [], "corrected": []}
    for draw in range(DRAWS):
        half = split_by_group(labels, groups, fractions=(0.5, 0.5), seed=draw)
        one, two = np.flatnonzero(half == 0), np.flatnonzero(half == 1)
        observed = draw_noise(labels[one], noise=process, seed=draw)
        judges = {
            "clean": JudgingLabels(labels[one]),
            "noisy": JudgingLabels(observed),
            "corrected": JudgingLabels(observed, process.matrix),
        }
        judged = JudgingLabels(labels[two])
        for name, own in judges.items():
            figures = [own.figure(criterion, logits[one]) for logits in epochs]
            epoch = best_epoch(figures, highest=criterion.highest)
            found[name].append((epoch, judged.figure(criterion, epochs[epoch - 1][two])))
    return {name: np.array(values) for name, values in found.items()}


def main() -> None:
    """Print a row for each cache, noise, figure and way."""
    print("| cache | noise | figure | way | other epoch | epoch, mean | cost [95 %] |")
    print("|---|---|---|---|---|---|---|")
    for path in map(Path, sys.argv[1:]):
        cache = read_cache(path)
        for noise in NOISES:
            for checkpoint in CHECKPOINTS:
                found = choices(cache, noise, checkpoint)
                clean = found["clean"]
                sign = -1 if checkpoint != "best" else 1
                for name in ("noisy", "corrected"):
                    own = found[name]
                    cost = sign * (own[:, 1] - clean[:, 1])
                    half = 1.96 * cost.std(ddof=1) / np.sqrt(len(cost))
                    other = (own[:, 0] != clean[:, 0]).mean()
                    print(
                        f"| {cache.dataset} | {noise} | {checkpoint} | {name} | {other:.2f} | "
                        f"{own[:, 0].mean():.1f} (clean {clean[:, 0].mean():.1f}) | "
                        f"{cost.mean():+.4f} [{cost.mean() - half:+.4f}, {cost.mean() + half:+.4f}]"
                        " |"
                    )


if __name__ == "__main__":
    main()
