#!/usr/bin/env bash
# scikit-learn's temperature scaling tells probabilities from logits by whether every row sums to 1
# within 1e-5: probabilities that were written with five decimals, or as float16, are taken for
# logits, and a network three times too sure is made surer (T below 1), without a word.
# Seen with scikit-learn 1.9.1: T 2.95 of what is stored in full or to seven digits, .39 to five.
set -euo pipefail
W=$(mktemp -d); trap 'rm -rf "$W"' EXIT; cd "$W"
python3 -m venv env
env/bin/pip install --quiet scikit-learn==1.9.1 numpy==2.4.6
env/bin/python -W error - <<'PY'
import numpy as np, sklearn
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.calibration import CalibratedClassifierCV
from sklearn.frozen import FrozenEstimator
class Stored(ClassifierMixin, BaseEstimator):
    """Predictions that were computed before."""
    def fit(self, probs, labels):
        self.classes_ = np.arange(probs.shape[1])
        return self
    def predict_proba(self, probs):
        return probs
    def predict(self, probs):
        return self.classes_[probs.argmax(axis=1)]
rng = np.random.default_rng(0)
logits = 2 * rng.normal(size=(3000, 5))
true = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
labels = (rng.random((3000, 1)) > true.cumsum(axis=1)).sum(axis=1)
sure = np.exp(3 * logits) / np.exp(3 * logits).sum(axis=1, keepdims=True)
def temperature(probs):
    fitted = CalibratedClassifierCV(FrozenEstimator(Stored().fit(probs, labels)), method="temperature")
    return 1 / fitted.fit(probs, labels).calibrated_classifiers_[0].calibrators[0].beta_
stored = {"full": sure, "7 digits": sure.round(7), "5 digits": sure.round(5),
          "float16": sure.astype(np.float16)}
found = {name: round(float(temperature(probs)), 2) for name, probs in stored.items()}
print("scikit-learn", sklearn.__version__, found)
assert all(2.8 < found[name] < 3.2 for name in ("full", "7 digits")), "changed"
assert all(found[name] < 0.5 for name in ("5 digits", "float16")), "changed"
PY
