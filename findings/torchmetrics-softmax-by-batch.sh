#!/usr/bin/env bash
# torchmetrics decides batch by batch whether it was given logits (a value outside 0 to 1) and then
# applies softmax: logits of a batch that all lie between 0 and 1 are taken for probabilities, and
# the calibration error of the same rows depends on how they were split into batches.
# Seen with torchmetrics 1.9.0 and torch 2.14.1: .3899 in one batch, .2122 in two. Needs some GB.
set -euo pipefail
W=$(mktemp -d); trap 'rm -rf "$W"' EXIT; cd "$W"
python3 -m venv env
env/bin/pip install --quiet torch==2.14.1 torchmetrics==1.9.0
env/bin/python -W ignore - <<'PY'
import torch, torchmetrics
from torchmetrics.classification import MulticlassCalibrationError
logits = torch.tensor([[0.9, 0.1, 0.2], [0.8, 0.3, 0.1], [4.0, -1.0, 0.0], [0.2, 0.9, 0.4]])
truth = torch.tensor([0, 0, 0, 1])
found = []
for batches in ([4], [2, 2]):
    metric = MulticlassCalibrationError(3)
    for part, labels in zip(logits.split(batches), truth.split(batches)):
        metric.update(part, labels)
    found.append(round(float(metric.compute()), 4))
print("torchmetrics", torchmetrics.__version__, found)
assert found == [0.3899, 0.2122], "changed"
PY
