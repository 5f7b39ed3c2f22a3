"""A cache's network as an ONNX graph that gives features and, with a classifier, logits."""

import warnings
from pathlib import Path
from typing import Any

import numpy as np

from trustq.deploy.extras import errors_alone, load_extra, require_export
from trustq.deploy.graph import FEATURES, INPUT, NETWORK_LOGITS
from trustq.errors import TrustqError
from trustq.extraction.jobs import checkpoint_of
from trustq.extraction.train.weights import load_checkpoint, make_network
from trustq.store import Cache

_TRIED = 3  # images of the trial after exporting
_TOLERANCE = 1e-3  # of the trial's noise images, relative; real images are compared later


def network_of(cache: Cache) -> Any:
    """The network of a cache from the checkpoint beside it, on the CPU, ready to run.

    Raises `TrustqError` where there is none, or another one.
    """
    if cache.path is None:
        raise TrustqError(
            f"{cache.name} is no file, so its network cannot be found. Write the cache first."
        )
    require_export()
    network = make_network(
        cache.backbone,
        n_classes=0 if cache.exposure == "frozen" else len(cache.classes),
        image_size=int(cache.preprocessing["size"]),
    )
    path = checkpoint_of(Path(cache.path))
    load_checkpoint(path, network.model, digest=cache.weights_digest)
    network.model.eval()
    return network


def export_network(model: Any, *, size: int, with_logits: bool) -> Any:
    """The ONNX graph of a timm model, batches of any size; one trial says that it runs alike.

    Uses torch's default exporter (`dynamo=True`). Input `image`, (n, 3, size, size) of float32;
    outputs `features`, (n, d), and with `with_logits` `network_logits`, (n, k). Raises
    `TrustqError` where torch cannot export the network, or the graph gives other numbers.
    """
    torch = load_extra("torch", "Packaging a model")
    example = torch.zeros(2, 3, size, size)
    names = [FEATURES, NETWORK_LOGITS] if with_logits else [FEATURES]
    wrapped = _wrapped(torch, model, with_logits).eval()
    try:
        with warnings.catch_warnings(), errors_alone("torch.onnx"):
            warnings.simplefilter("ignore")  # deprecations inside torch's own exporter
            program = torch.onnx.export(
                wrapped,
                (example,),
                dynamo=True,
                input_names=[INPUT],
                output_names=names,
                dynamic_shapes={"image": {0: torch.export.Dim("n", min=1)}},
                external_data=False,
                verbose=False,
            )
    except Exception as error:  # torch's exporter raises many kinds
        raise TrustqError(
            f"torch cannot export this network to ONNX: {str(error).strip().splitlines()[0]}. "
            "Choose another backbone."
        ) from error
    graph = program.model_proto
    _require_alike(torch, graph, wrapped, size, names)
    return graph


def _wrapped(torch: Any, model: Any, with_logits: bool) -> Any:
    class Wrapped(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, image: Any) -> Any:
            maps = self.model.forward_features(image)
            features = self.model.forward_head(maps, pre_logits=True)
            return (features, self.model.forward_head(maps)) if with_logits else features

    return Wrapped()


def _require_alike(torch: Any, graph: Any, wrapped: Any, size: int, names: list[str]) -> None:
    runtime = load_extra("onnxruntime", "Packaging a model")
    session = runtime.InferenceSession(
        graph.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    rng = np.random.default_rng(0)
    images = rng.standard_normal((_TRIED, 3, size, size)).astype(np.float32)
    with torch.inference_mode():
        theirs = wrapped(torch.from_numpy(images))
    theirs = theirs if isinstance(theirs, tuple) else (theirs,)
    for name, ours, reference in zip(
        names, session.run(names, {INPUT: images}), theirs, strict=True
    ):
        expected = reference.numpy()
        difference = float(np.abs(ours - expected).max())
        if not difference <= _TOLERANCE * max(1.0, float(np.abs(expected).max())):
            raise TrustqError(
                f"The exported graph gives other {name} than torch (largest difference "
                f"{difference:.2g}), so nothing was written. Choose another backbone."
            )
