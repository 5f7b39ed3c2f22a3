#!/usr/bin/env bash
# Where a class has no row in the truth, torchmetrics' macro AUROC counts it as 0 (a perfect ranking
# of the two others is .667), its macro average precision leaves it out (1.0 on the same rows).
# Seen with torchmetrics 1.9.0 and torch 2.14.1. Needs some GB.
set -euo pipefail
W=$(mktemp -d); trap 'rm -rf "$W"' EXIT; cd "$W"
python3 -m venv env
env/bin/pip install --quiet torch==2.14.1 torchmetrics==1.9.0
env/bin/python -W ignore - <<'PY'
import torch, torchmetrics
from torchmetrics.classification import MulticlassAUROC, MulticlassAveragePrecision
probs = torch.tensor([[0.8, 0.1, 0.1], [0.6, 0.3, 0.1], [0.2, 0.7, 0.1], [0.3, 0.6, 0.1]])
truth = torch.tensor([0, 0, 1, 1])
auroc = round(float(MulticlassAUROC(3)(probs, truth)), 4)
precision = round(float(MulticlassAveragePrecision(3)(probs, truth)), 4)
print("torchmetrics", torchmetrics.__version__, auroc, precision)
assert (auroc, precision) == (0.6667, 1.0), "changed"
PY
