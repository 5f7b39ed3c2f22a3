#!/usr/bin/env bash
# HDF5 clips what an integer type cannot hold: labels of which -1 means none, written into a dataset
# of unsigned bytes, are rows of class 0, and reading a stored -1 by astype does the same. numpy
# would give 255, or refuse.
# Seen with h5py 3.16.0: [-1, 0, 3] comes back as [0, 0, 3].
set -euo pipefail
W=$(mktemp -d); trap 'rm -rf "$W"' EXIT; cd "$W"
python3 -m venv env
env/bin/pip install --quiet h5py==3.16.0 numpy==2.4.6
env/bin/python -W error - <<'PY'
import h5py, numpy as np
labels = np.array([-1, 0, 3])
with h5py.File("labels.h5", "w") as file:
    file.create_dataset("written", shape=3, dtype="uint8")[:] = labels
    file["stored"] = labels
    found = [file["written"][:].tolist(), file["stored"].astype("uint8")[:].tolist()]
print("h5py", h5py.__version__, found, "numpy", labels.astype("uint8").tolist())
assert found == [[0, 0, 3], [0, 0, 3]], "changed"
PY
