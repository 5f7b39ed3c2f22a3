#!/usr/bin/env bash
# After a product on several threads OpenBLAS's threads spin for a tenth of a second, and count as processor
# time of whatever comes next: of a sleep here, of the second of two programs that are timed in turn elsewhere.
# Seen with numpy 2.3.4 and its OpenBLAS on x86_64, two threads: .10 s during a sleep of .5 s, none with one.
set -euo pipefail
[ "$(nproc)" -ge 2 ] || { echo "needs two cores: with one there is no second thread"; exit 1; }
W=$(mktemp -d); trap 'rm -rf "$W"' EXIT; cd "$W"
python3 -m venv env
env/bin/pip install --quiet numpy==2.3.4
cat > wait.py <<'PY'
import time
import numpy as np
a = np.random.default_rng(0).normal(size=(1500, 1500))
found = []
for _ in range(5):
    a @ a
    before = time.process_time()
    time.sleep(0.5)
    found.append(time.process_time() - before)
print(f"{sorted(found)[2]:.2f}")
PY
two=$(OPENBLAS_NUM_THREADS=2 env/bin/python wait.py)
one=$(OPENBLAS_NUM_THREADS=1 env/bin/python wait.py)
echo "numpy 2.3.4, processor seconds during a sleep after a product: two threads $two, one thread $one"
python3 -c "raise SystemExit(not ($two > 0.02 and $one <= 0.01))"
