#!/usr/bin/env bash
# safetensors.numpy (since 0.8) saves an array's memory under its shape: where it runs by column, as
# it does once class columns are put into another order by index, the values come back shuffled
# without a word. safetensors.torch refuses such a tensor, and numpy.savez keeps it right.
# Seen with safetensors 0.8.0 and numpy 2.4.6: rows of probabilities that sum to 1 sum to .6 to 1.2.
set -euo pipefail
W=$(mktemp -d); trap 'rm -rf "$W"' EXIT; cd "$W"
python3 -m venv env
env/bin/pip install --quiet safetensors==0.8.0 numpy==2.4.6
env/bin/python - <<'PY'
import numpy as np, safetensors
from safetensors.numpy import load_file, save_file
probs = np.array([[0.7, 0.2, 0.1], [0.1, 0.8, 0.1], [0.3, 0.3, 0.4], [0.6, 0.1, 0.3]])
ordered = probs[:, [2, 0, 1]]
save_file({"as_they_are": probs, "ordered": ordered}, "p.safetensors")
found = load_file("p.safetensors")
kept = {name: bool(np.array_equal(found[name], array))
        for name, array in (("as_they_are", probs), ("ordered", ordered))}
sums = found["ordered"].sum(axis=1).round(3).tolist()
print("safetensors", safetensors.__version__, kept, "sums of rows", sums)
assert ordered.sum(axis=1).round(3).tolist() == [1.0] * 4
assert kept == {"as_they_are": True, "ordered": False}, "changed"
PY
