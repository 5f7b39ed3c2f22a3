#!/usr/bin/env bash
# torch.onnx.export writes the weights into a second file beside the model, however small they are:
# model.onnx alone, copied to another machine, cannot be loaded.
# Seen with torch 2.14.1 and onnxscript 0.7.2, a layer of 4 x 2: model.onnx and model.onnx.data.
# Needs some GB.
set -euo pipefail
W=$(mktemp -d); trap 'rm -rf "$W"' EXIT; cd "$W"
python3 -m venv env
env/bin/pip install --quiet torch==2.14.1 onnxscript==0.7.2 onnxruntime==1.32.0
env/bin/python -W ignore - <<'PY' 2> /dev/null
import os, shutil, torch, onnxruntime
os.makedirs("out"), os.makedirs("moved")
torch.onnx.export(torch.nn.Linear(4, 2), (torch.zeros(1, 4),), "out/model.onnx", verbose=False)
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
