#!/usr/bin/env bash
# torchmetrics puts logits through a sigmoid in their own float type before it ranks them: float32
# logits above 17 become 1 alike, and a perfect ranking has an AUROC of one half.
# Seen with torchmetrics 1.9.0 and torch 2.14.1: 0.5 in float32, 1.0 in float64. Needs some GB.
set -euo pipefail
W=$(mktemp -d); trap 'rm -rf "$W"' EXIT; cd "$W"
python3 -m venv env
env/bin/pip install --quiet torch==2.14.1 torchmetrics==1.9.0
env/bin/python -W ignore - <<'PY'
import torch, torchmetrics
from torchmetrics.classification import BinaryAUROC
logits, truth = torch.tensor([18.0, 20.0, 25.0, 30.0]), torch.tensor([0, 0, 1, 1])
found = [float(BinaryAUROC()(values, truth)) for values in (logits, logits.double(), logits - 24)]
print("torchmetrics", torchmetrics.__version__, found)
assert found == [0.5, 1.0, 1.0], "changed"
PY
