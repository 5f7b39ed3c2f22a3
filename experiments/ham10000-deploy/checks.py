"""What the photo score is worth on degraded views: python checks.py MODEL MANIFEST

For 200 test images and each view: how the score and its bands fall, how well the score tells the
view from the clean image (AUROC, one half is chance), and how often the model is right.
"""

import sys
from functools import partial
from pathlib import Path

import numpy as np
from scipy.stats import mannwhitneyu

from trustq.core.generators import generator
from trustq.data.manifest import read_manifest
from trustq.data.pillow_rgb import read_rgb
from trustq.deploy.image_checks import check_look, look_at
from trustq.deploy.model import load_model
from trustq.extraction.inputs import pixels

VIEWS = {
    "clean": lambda image: image,
    "blur 1": partial(pixels.blur, radius=1),
    "blur 2": partial(pixels.blur, radius=2),
    "blur 4": partial(pixels.blur, radius=4),
    "brightness .5": partial(pixels.scale_brightness, factor=0.5),
    "brightness .3": partial(pixels.scale_brightness, factor=0.3),
    "brightness 1.6": partial(pixels.scale_brightness, factor=1.6),
    "contrast .4": partial(pixels.scale_contrast, factor=0.4),
}


def main() -> None:
    model = load_model(sys.argv[1], threads=1)
    manifest = read_manifest(Path(sys.argv[2]))
    test = np.flatnonzero(manifest.columns["split"] == "test")
    rows = generator(0, "checks").permutation(test)[:200]
    images = [read_rgb(manifest.image_path(row)) for row in rows]
    labels = manifest.label_indices[rows]
    left_out = model.about["image_checks"]["left_out"]
    fires = model.about["image_checks"]["fires_on"]
    print("Rules fire on validation images: " + ", ".join(f"{r} {s:.3f}" for r, s in fires.items()))
    print(f"Left out: {', '.join(left_out) or 'none'}\n")
    print(
        "| view | mean score | good | fair | poor | AUROC | right | right, poor | right, not poor |"
    )
    print("|---|---|---|---|---|---|---|---|---|")
    clean: list[int] = []
    for name, change in VIEWS.items():
        seen = [change(image) for image in images]
        checks = [check_look(look_at(image), left_out=left_out) for image in seen]
        scores = [check.score for check in checks]
        clean = clean or scores
        apart = mannwhitneyu(clean, scores).statistic / len(scores) ** 2
        squares = np.stack([np.asarray(model.preprocessing.fitted_in_steps(i)) for i in seen])
        right = model.run(squares).probabilities.argmax(axis=1) == labels
        bands = np.array([check.band for check in checks])
        shares = [f"{(bands == band).mean():.3f}" for band in ("good", "fair", "poor")]
        by_band = [
            f"{right[mask].mean():.3f} ({mask.sum()})" if mask.any() else ""
            for mask in (bands == "poor", bands != "poor")
        ]
        line = [name, f"{np.mean(scores):.1f}", *shares, f"{apart:.3f}", f"{right.mean():.3f}"]
        print("| " + " | ".join([*line, *by_band]) + " |", flush=True)


if __name__ == "__main__":
    main()
