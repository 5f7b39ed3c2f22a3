#!/usr/bin/env bash
# A metadata.csv of ages beside folders of images takes the labels away: Hugging Face's imagefolder
# then has no column of classes, and drop_labels=False, which is there to keep them, does nothing.
# Seen with datasets 5.2.0: image, label without the file; image, age with it, in either case.
set -euo pipefail
W=$(mktemp -d); trap 'rm -rf "$W"' EXIT; cd "$W"
python3 -m venv env
env/bin/pip install --quiet datasets==5.2.0 pillow==13.0.0
export HF_HOME=$W/hf HF_HUB_OFFLINE=1 HF_HUB_DISABLE_TELEMETRY=1 HF_DATASETS_DISABLE_PROGRESS_BARS=1
env/bin/python -W ignore - <<'PY'
from pathlib import Path
import datasets
from PIL import Image
def columns(**options):
    return list(datasets.load_dataset("imagefolder", data_dir="skin", **options)["train"].features)
rows = ["file_name,age"]
for label in ("mel", "nv"):
    Path("skin", label).mkdir(parents=True)
    for number in range(2):
        Image.new("RGB", (4, 4)).save(f"skin/{label}/{number}.png")
        rows.append(f"{label}/{number}.png,{40 + number}")
before = columns()
Path("skin/metadata.csv").write_text("\n".join(rows))
found = (before, columns(), columns(drop_labels=False))
print("datasets", datasets.__version__, found)
assert found == (["image", "label"], ["image", "age"], ["image", "age"]), "changed"
PY
