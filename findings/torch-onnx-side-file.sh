#!/usr/bin/env bash
# torch.onnx.export writes the weights into a second file beside the model, even 17 KB of them:
# model.onnx alone, copied to another machine, cannot be loaded.
# Seen with torch 2.14.1 and onnxscript 0.7.2, a layer of 64 x 64 (17 KB): model.onnx and model.onnx.data.
# Needs some GB.
set -euo pipefail
W=$(mktemp -d); trap 'rm -rf "$W"' EXIT; cd "$W"
python3 -m venv env
env/bin/pip install --quiet torch==2.14.1 onnxscript==0.7.2 onnxruntime==1.32.0
env/bin/python -W ignore - <<'PY' 2> /dev/null
import os, shutil, torch, onnxruntime
os.makedirs("out"), os.makedirs("moved")
torch.onnx.export(torch.nn.Linear(64, 64), (torch.zeros(1, 64),), "out/model.onnx", verbose=False)
files = sorted(os.listdir("out"))
shutil.copy("out/model.onnx", "moved/model.onnx")
try:
    onnxruntime.InferenceSession("moved/model.onnx")
    alone = "loads"
except Exception as error:
    alone = type(error).__name__
print("torch", torch.__version__, files, alone)
assert files == ["model.onnx", "model.onnx.data"] and alone != "loads", "changed"
PY
