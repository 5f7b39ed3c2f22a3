"""The ONNX graph of a packaged model: a network's features, then one tail for all variants.

The tail is written by hand in float32: classifier (with the standardisation of a fitted head folded
in), temperature, softmax, and the distance from the training data. So a quantised network keeps an
exact tail, and a temperature fitted again changes one number.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from trustq.core.atomic_files import replacing
from trustq.deploy.extras import load_extra
from trustq.deploy.outliers import OutlierMeasure

INPUT = "image"
OUTPUTS = ("probabilities", "logits", "distance")
FEATURES, NETWORK_LOGITS = "features", "network_logits"
_OPSET, _IR = 18, 10  # which ONNX Runtime of 2024 and the one in browsers read


@dataclass(frozen=True)
class Tail:
    """What follows the features.

    `weight` is (k, d) and `bias` (k,), or both None where the network's own logits are taken;
    probabilities are softmax(logits / `temperature`).
    """

    weight: np.ndarray | None
    bias: np.ndarray | None
    temperature: float
    outliers: OutlierMeasure

    def logits(self, features: np.ndarray) -> np.ndarray:
        """Logits of (n, d) features in float64, (n, k); of a folded head only."""
        assert self.weight is not None and self.bias is not None
        return np.asarray(features.astype(np.float64) @ self.weight.T + self.bias)


def folded_head(
    coef: np.ndarray, intercept: np.ndarray, center: np.ndarray, scale: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Weight and bias on raw features of a head on standardised ones, in float64.

    `coef` is (k, d), `intercept` (k,), `center` and `scale` (d,): standardised = (x - center) /
    scale.

    >>> weight, bias = folded_head(np.array([[2.0]]), np.array([1.0]), np.array([3.0]),
    ...                            np.array([4.0]))
    >>> (weight @ np.array([[7.0]]) + bias).ravel().tolist()  # 2 (7 - 3) / 4 + 1
    [3.0]
    """
    weight = coef / scale
    return weight, intercept - weight @ center


def with_tail(
    network: Any, tail: Tail, *, name: str, metadata: dict[str, Any], uint8: Any = None
) -> Any:
    """The whole model of a network's ONNX graph that gives `features` (and `network_logits`).

    `metadata` is stored as JSON by key. With `uint8`, the `Preprocessing`, the input is (n, size,
    size, 3) of uint8 and its normalization the graph's first step.
    """
    onnx = load_extra("onnx", "Packaging a model")
    helper = onnx.helper
    model = onnx.ModelProto()
    model.CopyFrom(network)
    graph = model.graph
    nodes, constants = _tail_nodes(onnx, tail)
    graph.node.extend(nodes)
    graph.initializer.extend(constants)
    del graph.output[:]
    k = len(metadata["classes"])
    for output, shape in zip(OUTPUTS, (["n", k], ["n", k], ["n"]), strict=True):
        graph.output.append(helper.make_tensor_value_info(output, onnx.TensorProto.FLOAT, shape))
    if uint8 is not None:
        _prepend_normalization(onnx, graph, uint8)
    graph.name = name
    del graph.value_info[:]
    helper.set_model_props(model, {key: json.dumps(value) for key, value in metadata.items()})
    model.ir_version = min(model.ir_version, _IR)
    model.producer_name = "trustq"
    onnx.checker.check_model(model)
    return model


def save_graph(path: Path, model: Any) -> None:
    """Write a model as one file, whole or not at all, its weights inside."""
    with replacing(path) as part:
        part.write_bytes(model.SerializeToString())


def _tail_nodes(onnx: Any, tail: Tail) -> tuple[list[Any], list[Any]]:
    nodes: list[Any] = []
    constants: list[Any] = []

    def constant(name: str, value: np.ndarray) -> str:
        full = f"tail/{name}"
        kind = np.int64 if value.dtype.kind == "i" else np.float32
        constants.append(onnx.numpy_helper.from_array(np.ascontiguousarray(value, kind), full))
        return full

    def node(op: str, inputs: list[str], output: str, **attributes: Any) -> str:
        # Outputs keep their names; what lies between is the tail's.
        full = output if output in OUTPUTS else f"tail/{output}"
        nodes.append(
            onnx.helper.make_node(op, inputs, [full], name=f"tail/{op}/{output}", **attributes)
        )
        return full

    if tail.weight is None or tail.bias is None:
        logits = node("Identity", [NETWORK_LOGITS], "logits")
    else:
        weights = [constant("weight", tail.weight.T), constant("bias", tail.bias)]
        logits = node("Gemm", [FEATURES, *weights], "logits")
    heat = constant("inverse_temperature", np.array(1 / tail.temperature))
    node("Softmax", [node("Mul", [logits, heat], "scaled")], "probabilities", axis=1)

    own = tail.outliers
    turned_means = own.means @ own.axes
    of_class = (own.means**2).sum(axis=1) - (turned_means**2).sum(axis=1)
    last = constant("last_axis", np.array([1]))
    moved = node("Sub", [FEATURES, constant("center", own.center)], "moved")
    turned = node("MatMul", [moved, constant("axes", own.axes)], "turned")
    lengths = node(
        "Sub",
        [
            node("ReduceSumSquare", [moved, last], "length", keepdims=1),
            node("ReduceSumSquare", [turned, last], "explained", keepdims=1),
        ],
        "rest",
    )
    products = node(
        "Sub",
        [
            node("MatMul", [moved, constant("means", own.means.T)], "product"),
            node("MatMul", [turned, constant("turned_means", turned_means.T)], "turned_product"),
        ],
        "products",
    )
    doubled = node("Mul", [products, constant("two", np.array(2.0))], "doubled")
    squared = node(
        "Add", [node("Sub", [lengths, doubled], "less"), constant("of_class", of_class)], "squared"
    )
    least = node("ReduceMin", [squared, last], "least", keepdims=0)
    unit = constant("unit", np.array(own.variance * len(own.center)))
    node("Div", [least, unit], "distance")
    return nodes, constants


def _prepend_normalization(onnx: Any, graph: Any, preprocessing: Any) -> None:
    helper = onnx.helper
    for existing in graph.node:
        for i, name in enumerate(existing.input):
            if name == INPUT:
                existing.input[i] = "head/normalized"
    scale = np.array(preprocessing.std, np.float64).reshape(1, 3, 1, 1) * 255
    shift = np.array(preprocessing.mean, np.float64).reshape(1, 3, 1, 1) * 255
    nodes = [
        helper.make_node("Cast", [INPUT], ["head/float"], to=onnx.TensorProto.FLOAT),
        helper.make_node("Transpose", ["head/float"], ["head/planes"], perm=[0, 3, 1, 2]),
        helper.make_node("Sub", ["head/planes", "head/shift"], ["head/moved"]),
        helper.make_node("Div", ["head/moved", "head/scale"], ["head/normalized"]),
    ]
    for name, value in (("head/shift", shift), ("head/scale", scale)):
        graph.initializer.append(onnx.numpy_helper.from_array(value.astype(np.float32), name))
    rest = list(graph.node)
    del graph.node[:]
    graph.node.extend([*nodes, *rest])
    del graph.input[:]
    side = preprocessing.size
    graph.input.append(
        helper.make_tensor_value_info(INPUT, onnx.TensorProto.UINT8, ["n", side, side, 3])
    )
