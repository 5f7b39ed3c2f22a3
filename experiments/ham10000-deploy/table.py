"""The table of a packaged model's variants, and of a student of the same network.

    python table.py MODEL IMAGES [TEACHER_CACHE STUDENT_CACHE [STUDENT_MODEL]]

Figures of variants and their paired differences are those of `model.json`; a student's are of the
test rows of both caches, each by its own temperature of validation rows, paired by lesion; its
milliseconds are those of its package, where that is given. Milliseconds are
processor time of normalising and running one image on one thread, the median of alternating runs.
"""

import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from trustq.calibration.temperature import TemperatureScaling
from trustq.deploy.model import Model, load_model
from trustq.evaluation.bootstrap import compare_figures, figure_intervals
from trustq.metrics.probabilities import softmax
from trustq.store import Cache, read_cache

SHOWN = ("accuracy", "macro_f1", "ece", "augrc")
RUNS, IMAGES = 15, 20


def milliseconds(models: dict[str, Model], paths: list[Path]) -> dict[str, float]:
    """Processor time of an image through each model."""
    pixels = {name: [model.pixels(path)[None] for path in paths] for name, model in models.items()}
    spent: dict[str, list[float]] = {name: [] for name in models}
    for _ in range(RUNS):
        for name, model in models.items():
            started = time.process_time()
            for image in pixels[name]:
                model.run(image)
            spent[name].append(1000 * (time.process_time() - started) / len(paths))
    return {name: float(np.median(own)) for name, own in spent.items()}


def calibrated(cache: Cache) -> tuple[np.ndarray, float]:
    """Probabilities of the test rows by the temperature of the validation rows, and that."""
    assert cache.logits is not None
    val, test = (np.flatnonzero((cache.split == s) & (cache.label >= 0)) for s in ("val", "test"))
    scaling = TemperatureScaling().fit(
        cache.logits[val].astype(np.float64), cache.label[val].astype(np.int64)
    )
    logits = scaling.transform(cache.logits[test].astype(np.float64))
    return softmax(logits), float(scaling.temperature_)


def student_row(teacher: Cache, student: Cache) -> dict[str, Any]:
    """What the table says of a student, as `model.json` says it of a variant."""
    assert teacher.sample_id.tolist() == student.sample_id.tolist() and student.path is not None
    test = np.flatnonzero((teacher.split == "test") & (teacher.label >= 0))
    labels, groups = teacher.label[test].astype(np.int64), teacher.group_id[test]
    (exact, _), (own, temperature) = calibrated(teacher), calibrated(student)
    asked: dict[str, Any] = {"seed": 0, "groups": groups, "figures": SHOWN}
    figures = figure_intervals(labels, probs=own, **asked)
    beside = compare_figures(labels, own, exact, **asked)
    return {
        "bytes": student.path.with_suffix(".safetensors").stat().st_size,
        "temperature": temperature,
        "figures": {name: one._asdict() for name, one in figures.items()},
        "beside_float32": {name: one._asdict() for name, one in beside.items()},
        "agreement": float((own.argmax(axis=1) == exact.argmax(axis=1)).mean()),
    }


def main() -> None:
    folder = Path(sys.argv[1])
    about = json.loads((folder / "model.json").read_text())
    models = {name: load_model(folder, variant=name, threads=1) for name in about["variants"]}
    variants = dict(about["variants"])
    if len(sys.argv) > 3:
        variants["student"] = student_row(*(read_cache(Path(path)) for path in sys.argv[3:5]))
    if len(sys.argv) > 5:
        models["student"] = load_model(sys.argv[5], threads=1)
    spent = milliseconds(models, sorted(Path(sys.argv[2]).glob("*.jpg"))[:IMAGES])
    head = ["variant", "MB", "ms", "T", *SHOWN, "decides as float32"]
    print("| " + " | ".join(head) + " |\n|" + "---|" * len(head))
    for name, variant in variants.items():
        row = [name, f"{variant['bytes'] / 1e6:.1f}", f"{spent[name]:.1f}" if name in spent else ""]
        row.append(f"{variant['temperature']:.2f}")
        for figure in SHOWN:
            one = variant["figures"][figure]
            row.append(f"{one['value']:.4f} [{one['lower']:.4f}, {one['upper']:.4f}]")
        row.append(f"{variant['agreement']:.3f}" if "agreement" in variant else "")
        print("| " + " | ".join(row) + " |")
    print("\n| variant | " + " | ".join(SHOWN) + " |\n|" + "---|" * (1 + len(SHOWN)))
    for name, variant in variants.items():
        gaps = variant.get("beside_float32")
        if gaps:
            texts = [
                f"{gaps[f]['difference']:+.4f} [{gaps[f]['lower']:+.4f}, {gaps[f]['upper']:+.4f}]"
                for f in SHOWN
            ]
            print("| " + " | ".join([name, *texts]) + " |")


if __name__ == "__main__":
    main()
