#!/usr/bin/env bash
# Hugging Face datasets reads several Parquet files that it wrote itself with the class names of the
# first: where a test file lists them in another order, its labels change their meaning without a
# word. concatenate_datasets refuses the same two.
# Seen with datasets 5.2.0: the test row "nv" (index 0 of nv, mel) is read as "mel".
set -euo pipefail
W=$(mktemp -d); trap 'rm -rf "$W"' EXIT; cd "$W"
python3 -m venv env
env/bin/pip install --quiet datasets==5.2.0
export HF_HOME=$W/hf HF_HUB_OFFLINE=1 HF_HUB_DISABLE_TELEMETRY=1 HF_DATASETS_DISABLE_PROGRESS_BARS=1
env/bin/python -W ignore - <<'PY'
import datasets
from datasets import ClassLabel, Dataset, Features, concatenate_datasets, load_dataset
parts = {}
for name, classes in (("train", ["mel", "nv"]), ("test", ["nv", "mel"])):
    features = Features({"id": datasets.Value("string"), "label": ClassLabel(names=classes)})
    parts[name] = Dataset.from_dict({"id": ["a", "b"], "label": ["nv", "mel"]}, features=features)
    parts[name].to_parquet(f"{name}.parquet")
def words(part):
    return [part.features["label"].int2str(label) for label in part["label"]]
written = words(parts["test"])
read = words(load_dataset("parquet", data_files={n: f"{n}.parquet" for n in parts})["test"])
alone = words(load_dataset("parquet", data_files="test.parquet", split="train"))
try:
    concatenate_datasets(list(parts.values()))
    refused = False
except ValueError:
    refused = True
print("datasets", datasets.__version__, "written", written, "read", read, "alone", alone, refused)
assert (written, read, alone) == (["nv", "mel"], ["mel", "nv"], ["nv", "mel"]), "changed"
assert refused, "changed"
PY
