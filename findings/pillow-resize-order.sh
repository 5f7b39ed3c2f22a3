#!/usr/bin/env bash
# Pillow 13 resizes across and down in an order that depends on the shape; Pillow 12 always across first.
# Each step rounds to 8 bits, so the same call gives other pixels (by a level) after an upgrade.
set -euo pipefail
W=$(mktemp -d); trap 'rm -rf "$W"' EXIT; cd "$W"
python3 -m venv env
cat > order.py <<'PY'
import random
from PIL import Image
random.seed(0)
image = Image.frombytes("RGB", (7, 9), bytes(random.randrange(256) for _ in range(7 * 9 * 3)))
how = Image.Resampling.BILINEAR
once = image.resize((11, 4), how).tobytes()
across = image.resize((11, 9), how).resize((11, 4), how).tobytes()
down = image.resize((7, 4), how).resize((11, 4), how).tobytes()
print("across first" if once == across else "down first" if once == down else "neither")
PY
for version in 12.0.0 13.0.0; do
  env/bin/pip install --quiet "pillow==$version"
  order=$(env/bin/python order.py)
  echo "pillow $version, 7x9 to 11x4: $order"
  case $version in
    12.*) [ "$order" = "across first" ] ;;
    *) [ "$order" = "down first" ] ;;
  esac
done
