#!/usr/bin/env bash
# A model that ONNX Runtime quantised dynamically has one scale of activations for the whole batch:
# an image's answer depends on which other images are asked about at the same time, and one bright
# one among them turns the others' answers. Without quantisation a batch is its rows.
# Seen with onnxruntime 1.32.0: of 63 rows 27 change class beside a row a hundred times as large.
set -euo pipefail
W=$(mktemp -d); trap 'rm -rf "$W"' EXIT; cd "$W"
python3 -m venv env
env/bin/pip install --quiet onnxruntime==1.32.0 onnx==1.23.2 numpy==2.4.6
env/bin/python - 2>/dev/null <<'PY'
import numpy as np, onnx, onnxruntime as ort
from onnx import TensorProto, helper, numpy_helper
from onnxruntime.quantization import quantize_dynamic
rng = np.random.default_rng(0)
weights = numpy_helper.from_array(rng.normal(size=(512, 7)).astype(np.float32), "w")
value = helper.make_tensor_value_info
graph = helper.make_graph([helper.make_node("MatMul", ["x", "w"], ["y"])], "head",
    [value("x", TensorProto.FLOAT, ["n", 512])], [value("y", TensorProto.FLOAT, ["n", 7])], [weights])
onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), "m.onnx")
quantize_dynamic("m.onnx", "int8.onnx")
rows = rng.normal(size=(64, 512)).astype(np.float32)
beside = rows.copy()
beside[-1] *= 100
found = {}
for name in ("m.onnx", "int8.onnx"):
    run = ort.InferenceSession(name, providers=["CPUExecutionProvider"]).run
    alone = np.concatenate([run(None, {"x": row[None]})[0] for row in rows])[:-1]
    found[name] = [int((run(None, {"x": x})[0][:-1].argmax(1) != alone.argmax(1)).sum())
                   for x in (rows, beside)]
print("onnxruntime", ort.__version__, "classes of 63 rows that differ from those alone", found)
assert found["m.onnx"] == [0, 0] and found["int8.onnx"][1] > 15, "changed"
PY
