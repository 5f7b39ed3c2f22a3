#!/usr/bin/env bash
# balanced_accuracy_score, described as the average of recall over classes, leaves out a class that
# is predicted and never true; recall_score(average="macro") counts it as 0.
# Seen with scikit-learn 1.9.1 on four rows of two classes, one of them taken for a third: .75 and .5.
set -euo pipefail
W=$(mktemp -d); trap 'rm -rf "$W"' EXIT; cd "$W"
python3 -m venv env
env/bin/pip install --quiet scikit-learn==1.9.1
env/bin/python -W ignore - <<'PY'
import sklearn
from sklearn.metrics import balanced_accuracy_score, recall_score
truth, predicted = ["bcc", "bcc", "mel", "mel"], ["bcc", "akiec", "mel", "mel"]
balanced = balanced_accuracy_score(truth, predicted)
macro = recall_score(truth, predicted, average="macro")
print("scikit-learn", sklearn.__version__, balanced, macro)
assert (balanced, macro) == (0.75, 0.5), "changed"
PY
