#!/usr/bin/env bash
# A folder of images by class of which one class is called "train" (a vehicle, in CIFAR-100, COCO
# and VOC) is read by Hugging Face's imagefolder as a training split that is all there is: images of
# the other classes are gone, and so are the labels, without a word.
# Seen with datasets 5.2.0: 2 of 6 images, columns: image.
set -euo pipefail
W=$(mktemp -d); trap 'rm -rf "$W"' EXIT; cd "$W"
python3 -m venv env
env/bin/pip install --quiet datasets==5.2.0 pillow==13.0.0
export HF_HOME=$W/hf HF_HUB_OFFLINE=1 HF_HUB_DISABLE_TELEMETRY=1 HF_DATASETS_DISABLE_PROGRESS_BARS=1
env/bin/python -W ignore - <<'PY'
from pathlib import Path
import datasets
from PIL import Image
found = {}
for root, name in (("vehicles", "train"), ("renamed", "railway")):
    for label in ("bus", "car", name):
        Path(root, label).mkdir(parents=True)
        for number in range(2):
            Image.new("RGB", (4, 4)).save(f"{root}/{label}/{number}.png")
    read = datasets.load_dataset("imagefolder", data_dir=root)
    found[name] = {split: (len(part), list(part.features)) for split, part in read.items()}
print("datasets", datasets.__version__, found)
assert found["train"] == {"train": (2, ["image"])}, "changed"
assert found["railway"] == {"train": (6, ["image", "label"])}, "changed"
PY
