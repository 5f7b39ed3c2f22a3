#!/usr/bin/env bash
# With the same learning rate, trees and no penalty LightGBM steps 2 (k - 1) / k times as far as
# XGBoost on k classes: 1.7 times of seven, as far of two. XGBoost takes twice p (1 - p) as the
# curvature of the softmax, LightGBM k / (k - 1) times. Settings of one are not those of the other.
# Seen with lightgbm 4.7.0 and xgboost 3.2.0: 1.333 of three classes, 1.714 of seven.
set -euo pipefail
W=$(mktemp -d); trap 'rm -rf "$W"' EXIT; cd "$W"
python3 -m venv env
env/bin/pip install --quiet lightgbm==4.7.0 xgboost==3.2.0 scikit-learn==1.9.1
env/bin/python -W ignore - <<'PY'
import lightgbm, numpy as np, xgboost
rng, found = np.random.default_rng(0), {}
for k in (3, 7):
    labels = rng.integers(k, size=1000)
    features = (labels == 0)[:, None].astype(float)
    same = {"n_estimators": 1, "learning_rate": 0.1, "reg_lambda": 0, "min_child_weight": 0}
    light = lightgbm.LGBMClassifier(
        **same, num_leaves=2, boost_from_average=False, verbose=-1).fit(features, labels)
    extreme = xgboost.XGBClassifier(**same, max_depth=1, base_score=0.5).fit(features, labels)
    spread = [float(np.ptp(z)) for z in (light.predict(features[labels == 0][:1], raw_score=True),
              extreme.predict(features[labels == 0][:1], output_margin=True))]
    found[k] = round(spread[0] / spread[1], 3)
print("lightgbm", lightgbm.__version__, "xgboost", xgboost.__version__, found)
assert found == {3: 1.333, 7: 1.714}, "changed"
PY
