#!/usr/bin/env bash
# scikit-learn clips probabilities by the resolution of their own float type before it takes the
# logarithm: one confident mistake costs 36.0 nats in float64, 15.9 in float32 and 6.9 in float16,
# so the same predictions have another log loss once they are stored in fewer bits.
# Seen with scikit-learn 1.9.1: 36.04, 15.94, 6.93.
set -euo pipefail
W=$(mktemp -d); trap 'rm -rf "$W"' EXIT; cd "$W"
python3 -m venv env
env/bin/pip install --quiet scikit-learn==1.9.1
env/bin/python - <<'PY'
import numpy as np, sklearn
from sklearn.metrics import log_loss
probs = np.array([[1.0, 0.0]])
found = [round(float(log_loss([1], probs.astype(t), labels=[0, 1])), 2)
         for t in (np.float64, np.float32, np.float16)]
print("scikit-learn", sklearn.__version__, found)
assert found == [36.04, 15.94, 6.93], "changed"
PY
