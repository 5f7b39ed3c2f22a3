#!/usr/bin/env bash
# imagehash turns an image into 8 bits by Pillow's convert("L"), which cuts 16-bit greys off at 255:
# 12-bit radiographs of which all pixels lie above are white, and all hashes of the two are equal.
# Copies are searched for by these distances; of the same pictures in 8 bits they are 32 to 38.
# Seen with imagehash 4.3.2 and pillow 13.0.0: distances 0, 0, 0, 0 of 64 bits.
set -euo pipefail
W=$(mktemp -d); trap 'rm -rf "$W"' EXIT; cd "$W"
python3 -m venv env
env/bin/pip install --quiet imagehash==4.3.2 pillow==13.0.0 numpy==2.4.6 scipy==1.17.1
env/bin/python - <<'PY'
import imagehash, numpy as np
from PIL import Image
from scipy.ndimage import gaussian_filter
rng, found = np.random.default_rng(0), {}
pictures = [gaussian_filter(rng.normal(size=(128, 128)), 8) for _ in range(2)]
for name, top, kind in (("16 bits", 3700, np.uint16), ("8 bits", 232, np.uint8)):
    for number, one in enumerate(pictures):
        grey = (one - one.min()) / np.ptp(one) * top + (300 if top > 255 else 19)
        Image.fromarray(grey.astype(kind)).save(f"{number}.png")
    found[name] = [int(method(Image.open("0.png")) - method(Image.open("1.png")))
                   for method in (imagehash.phash, imagehash.dhash, imagehash.average_hash,
                                  imagehash.whash)]
print("imagehash", imagehash.__version__, found)
assert found["16 bits"] == [0] * 4 and min(found["8 bits"]) > 20, "changed"
PY
