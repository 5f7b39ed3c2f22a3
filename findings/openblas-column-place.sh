#!/usr/bin/env bash
# OpenBLAS's AVX2 kernels give a column other last bits when it stands elsewhere in a product of the same
# shape: solving a problem beside others changes its numbers. The AVX kernels (Sandybridge) do not.
# Seen with numpy 2.3.4 and its OpenBLAS on x86_64: some entries differ on Haswell, none on Sandybridge.
set -euo pipefail
W=$(mktemp -d); trap 'rm -rf "$W"' EXIT; cd "$W"
python3 -m venv env
env/bin/pip install --quiet numpy==2.3.4
cat > place.py <<'PY'
import numpy as np
rng = np.random.default_rng(0)
a = rng.normal(size=(2000, 320)).astype("f4")
b = rng.normal(size=(320, 24)).astype("f4")
moved = np.roll(b, 5, axis=1)
print(f"{(np.roll(a @ b, 5, axis=1) != a @ moved).mean():.3f}")
PY
export OPENBLAS_NUM_THREADS=1
haswell=$(OPENBLAS_CORETYPE=Haswell env/bin/python place.py)
sandybridge=$(OPENBLAS_CORETYPE=Sandybridge env/bin/python place.py)
echo "numpy 2.3.4, share of entries that differ: Haswell $haswell, Sandybridge $sandybridge"
[ "$haswell" != 0.000 ] && [ "$sandybridge" = 0.000 ]
