"""Students by their labels and their teacher, paired by lesion: python table.py CACHES SEED

Figures are of the test rows, each network by its own temperature of the validation rows.
"""

import sys
from pathlib import Path

import numpy as np

from trustq.calibration.temperature import TemperatureScaling
from trustq.evaluation.bootstrap import compare_figures, figure_intervals
from trustq.metrics.probabilities import softmax
from trustq.store import Cache, read_cache

FIGURES = ("accuracy", "macro_f1", "ece", "aurc", "augrc")
NETWORKS = {
    "teacher on noisy labels": "noisy",
    "teacher on repaired labels": "repaired",
    "student: both noisy": "both_noisy",
    "student: repaired teacher, noisy labels": "teacher_repaired",
    "student: noisy teacher, repaired labels": "labels_repaired",
    "student: both repaired": "both_repaired",
}
PAIRS = (
    ("repaired", "noisy"),
    ("teacher_repaired", "both_noisy"),
    ("both_repaired", "labels_repaired"),
    ("labels_repaired", "both_noisy"),
    ("both_repaired", "both_noisy"),
)


def calibrated(cache: Cache) -> np.ndarray:
    """Probabilities of the test rows, (n, k), by the temperature of the validation rows."""
    assert cache.logits is not None
    logits, labels = cache.logits.astype(np.float64), cache.label.astype(np.int64)
    val, test = (np.flatnonzero(cache.split == split) for split in ("val", "test"))
    scaling = TemperatureScaling().fit(logits[val], labels[val])
    return softmax(scaling.transform(logits[test]))


def main() -> None:
    folder, seed = Path(sys.argv[1]), sys.argv[2]
    caches = {
        name: read_cache(folder / name / f"seed{seed}.h5")
        for name in NETWORKS.values()
        if (folder / name / f"seed{seed}.h5").is_file()
    }
    first = next(iter(caches.values()))
    test = np.flatnonzero(first.split == "test")
    labels = first.label[test].astype(np.int64)
    probs = {}
    for name, cache in caches.items():
        assert cache.sample_id.tolist() == first.sample_id.tolist()
        probs[name] = calibrated(cache)
    print("| network | " + " | ".join(FIGURES) + " |\n|" + "---|" * (1 + len(FIGURES)))
    for title, name in NETWORKS.items():
        if name in probs:
            found = figure_intervals(
                labels, probs=probs[name], seed=0, groups=first.group_id[test], figures=FIGURES
            )
            texts = [
                f"{one.value:.4f} [{one.lower:.4f}, {one.upper:.4f}]" for one in found.values()
            ]
            print("| " + " | ".join([title, *texts]) + " |")
    print("\n| difference | " + " | ".join(FIGURES) + " |\n|" + "---|" * (1 + len(FIGURES)))
    for one, other in PAIRS:
        if one in probs and other in probs:
            gaps = compare_figures(
                labels, probs[one], probs[other], seed=0, groups=first.group_id[test],
                figures=FIGURES,
            )  # fmt: skip
            texts = [f"{g.difference:+.4f} [{g.lower:+.4f}, {g.upper:+.4f}]" for g in gaps.values()]
            print("| " + " | ".join([f"{one} - {other}", *texts]) + " |")


if __name__ == "__main__":
    main()
