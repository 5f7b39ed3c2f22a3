#!/usr/bin/env bash
# Pillow opens a PNG with 16 bits a channel in colour as RGB with 8: the lower bits are gone and nothing
# says so, so 12-bit microscopy scaled to 0..4095 of 65535 comes out nearly black.
# Seen with pillow 12.0.0, file written by opencv 4.12.0.88: mode RGB, 4095 becomes 15.
set -euo pipefail
W=$(mktemp -d); trap 'rm -rf "$W"' EXIT; cd "$W"
python3 -m venv env
env/bin/pip install --quiet pillow==12.0.0 opencv-python-headless==4.12.0.88 numpy==2.2.6
env/bin/python - <<'PY'
import cv2, numpy as np, PIL
from PIL import Image
cv2.imwrite("deep.png", np.full((4, 4, 3), 4095, np.uint16))
image = Image.open("deep.png")
print("pillow", PIL.__version__, image.mode, np.asarray(image).dtype, int(np.asarray(image).max()))
assert (image.mode, int(np.asarray(image).max())) == ("RGB", 15), "changed"
PY
