#!/usr/bin/env bash
# Embeddings in bfloat16 (ml_dtypes, the arrays of JAX) are saved by numpy.savez without a word and
# come back as bytes without a meaning, void of two: numpy knows the type while it is in memory and
# has no name for it in a file.
# Seen with numpy 2.4.6 and ml_dtypes 0.6.0: bfloat16 is saved, |V2 is loaded.
set -euo pipefail
W=$(mktemp -d); trap 'rm -rf "$W"' EXIT; cd "$W"
python3 -m venv env
env/bin/pip install --quiet numpy==2.4.6 ml_dtypes==0.6.0
env/bin/python -W error - <<'PY'
import ml_dtypes, numpy as np
features = np.ones((2, 3), dtype=ml_dtypes.bfloat16)
np.savez("f.npz", features=features)
found = np.load("f.npz")["features"]
print("numpy", np.__version__, features.dtype, float(features.sum()), "->", found.dtype)
assert str(features.dtype) == "bfloat16" and found.dtype.str == "|V2", "changed"
PY
