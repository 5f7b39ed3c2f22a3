#!/usr/bin/env bash
# netcal's ECE of two columns is not that of three: of two it judges the probability of the second
# class, of three and more that of the predicted one. A third class that no row has and nobody
# predicts changes the figure of the same predictions by a half.
# Seen with netcal 1.4.0: .0785 of two columns, .0554 with a third of zeros. Needs some GB.
set -euo pipefail
W=$(mktemp -d); trap 'rm -rf "$W"' EXIT; cd "$W"
python3 -m venv env
env/bin/pip install --quiet netcal==1.4.0 numpy==2.4.6
env/bin/python -W ignore - <<'PY'
from importlib.metadata import version
import numpy as np
from netcal.metrics import ECE
rng = np.random.default_rng(0)
positive = rng.beta(0.5, 2, size=2000)
labels = (rng.random(2000) < positive**1.5).astype(int)
labels[0] = 0
two = np.stack([1 - positive, positive], axis=1)
three = np.column_stack([two, np.zeros(2000)])
# Labels of 0 and 1 alone beside three columns are refused: one row of the third class.
more, classes = np.vstack([three, [[0, 0, 1.0]]]), np.append(labels, 2)
found = [round(float(ECE(15).measure(probs, own)), 4)
         for probs, own in ((positive, labels), (two, labels), (more, classes))]
right = labels == two.argmax(axis=1)
bins = np.ceil(two.max(axis=1) * 15)
top = sum(abs(two.max(axis=1)[bins == b].mean() - right[bins == b].mean()) * (bins == b).mean()
          for b in np.unique(bins))
print("netcal", version("netcal"), found, "of the predicted class", round(float(top), 4))
assert found[0] == found[1] > 1.3 * found[2] and abs(found[2] - top) < 1e-3, "changed"
PY
