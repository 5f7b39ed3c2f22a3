"""The table of a packaged model's variants: python table.py MODEL IMAGES

Figures and paired differences are those of `model.json`; milliseconds are processor time of one
image on one thread, the median of alternating runs.
"""

import json
import sys
import time
from pathlib import Path

import numpy as np

from trustq.deploy.model import load_model

SHOWN = ("accuracy", "macro_f1", "ece", "augrc")
RUNS, IMAGES = 15, 20


def main() -> None:
    folder = Path(sys.argv[1])
    about = json.loads((folder / "model.json").read_text())
    models = {name: load_model(folder, variant=name, threads=1) for name in about["variants"]}
    paths = sorted(Path(sys.argv[2]).glob("*.jpg"))[:IMAGES]
    pixels = [models["float32"].pixels(path)[None] for path in paths]
    spent: dict[str, list[float]] = {name: [] for name in models}
    for _ in range(RUNS):
        for name, model in models.items():
            started = time.process_time()
            for image in pixels:
                model.run(image)
            spent[name].append(1000 * (time.process_time() - started) / len(pixels))
    head = ["variant", "MB", "ms", "temperature", *SHOWN]
    print("| " + " | ".join(head) + " |\n|" + "---|" * len(head))
    for name, variant in about["variants"].items():
        row = [name, f"{variant['bytes'] / 1e6:.1f}", f"{np.median(spent[name]):.1f}"]
        row.append(f"{variant['temperature']:.2f}")
        for figure in SHOWN:
            own = variant["figures"][figure]
            text = f"{own['value']:.4f} [{own['lower']:.4f}, {own['upper']:.4f}]"
            if "beside_float32" in variant:
                gap = variant["beside_float32"][figure]
                text += f"; {gap['difference']:+.4f} [{gap['lower']:+.4f}, {gap['upper']:+.4f}]"
            row.append(text)
        print("| " + " | ".join(row) + " |")
        if "agreement" in variant:
            print(f"\n{name} decides as float32 on {variant['agreement']:.4f} of the test rows.\n")


if __name__ == "__main__":
    main()
