"""What computes a dump on a CPU: torch, or OpenVINO, which runs the same network in fewer steps.

OpenVINO folds normalization and batch norms into convolutions, so its features differ from torch's
in their last digits, by some 1e-6 of their scale; the first images are computed by both.
"""

import importlib.util
import warnings
from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
import torch

from trustq.data.preprocessing import Preprocessing
from trustq.errors import InputError, MissingExtra, TrustqError
from trustq.extraction.dump.views import turned
from trustq.extraction.train.weights import Network, forward
from trustq.recipes import ExtractRecipe

CLOSE = 5e-5  # of the largest output: how far an engine's may be from torch's
COMPARED = (
    16  # images of the first block that both compute: what is converted wrongly is so for all
)
# Images an inference, and up to which size of theirs: 5 % faster each in its place than the other.
_TOGETHER, _TOGETHER_ABOVE, _SMALL = 8, 4, 160
_AHEAD = 2  # blocks under way while the next one is decoded

Symmetry = tuple[bool, bool, bool]
Outputs = tuple[torch.Tensor, torch.Tensor | None]  # features (b, d) and logits (b, k)


def chosen_engine(recipe: ExtractRecipe, device: torch.device) -> tuple[str, str]:
    """The engine that a recipe's dump is computed by on a device, and why where it was left open.

    `auto` takes OpenVINO where it is installed, the device is a CPU and nothing but features,
    logits and views is asked for. Raises `TrustqError` where OpenVINO was asked for and is missing
    or cannot do it.

    >>> chosen_engine(ExtractRecipe(), torch.device("cpu"))
    ('torch', '')
    """
    if recipe.engine == "torch":
        return "torch", ""
    problem = f"on {device.type}, and OpenVINO computes on a CPU" if device.type != "cpu" else ""
    asked = {"passes": recipe.passes, "maps": recipe.maps, "explain": recipe.explain}
    if of_torch := [name for name, value in asked.items() if value]:
        problem = f"{', '.join(of_torch)} asked for, which torch alone computes"
    is_missing = importlib.util.find_spec("openvino") is None
    if recipe.engine == "auto":
        if problem or is_missing:
            return "torch", problem or "OpenVINO is not installed"
        return "openvino", "it is installed"
    if problem:
        raise InputError(
            f"engine=openvino: {problem}. Use `engine=torch`, or auto.",
            where="engine",
            found="openvino",
        )
    if is_missing:
        raise MissingExtra(
            "engine=openvino needs OpenVINO:\n  pip install 'trustq[openvino]'\n"
            "Or use `engine=torch`."
        )
    return "openvino", ""


class _Block(NamedTuple):
    """A block under way: its rows, its images, and each symmetry's outputs."""

    rows: np.ndarray
    images: torch.Tensor
    outputs: list[list[np.ndarray]]


class OpenVinoNetwork:
    """A network in evaluation mode as OpenVINO computes it in float32, from uint8 pixels.

    It takes as many threads as torch is set to, each of which computes images of its own, so the
    number of threads changes no bit.

    >>> OpenVinoNetwork(network, preprocessing).version  # doctest: +SKIP
    '2026.4.1'
    """

    def __init__(self, network: Network, preprocessing: Preprocessing) -> None:
        import openvino

        self.version = str(openvino.__version__).partition("-")[0]
        self._network, self._preprocessing = network, preprocessing
        self._together = _TOGETHER if preprocessing.size <= _SMALL else _TOGETHER_ABOVE
        self._widths = [network.n_features, *([network.n_logits] if network.n_logits else [])]
        model = _converted(network, preprocessing, n_images=self._together)
        n_threads = torch.get_num_threads()
        settings = {
            "INFERENCE_PRECISION_HINT": "f32",  # else bfloat16 where the processor has it
            "NUM_STREAMS": n_threads,
            "INFERENCE_NUM_THREADS": n_threads,
        }
        compiled = openvino.Core().compile_model(model, "CPU", settings)
        self._free = [compiled.create_infer_request() for _ in range(n_threads + 1)]
        self._running: deque[tuple[Any, list[np.ndarray], int, int]] = deque()
        self._is_checked = False

    def blocks(
        self, images: Iterable[tuple[np.ndarray, torch.Tensor]], symmetries: list[Symmetry]
    ) -> Iterator[tuple[np.ndarray, list[Outputs]]]:
        """Rows of each batch and its outputs under each symmetry; batches are read meanwhile.

        Raises `TrustqError` where the first outputs are not those that torch computes.
        """
        under_way: deque[_Block] = deque()
        for rows, batch in images:
            started = [self._start(turned_pixels(batch, symmetry)) for symmetry in symmetries]
            under_way.append(_Block(rows, batch, started))
            if len(under_way) > _AHEAD:
                yield self._finished(under_way.popleft(), symmetries[0])
        while under_way:
            yield self._finished(under_way.popleft(), symmetries[0])

    def _start(self, pixels: np.ndarray) -> list[np.ndarray]:
        """Begin on pixels (b, s, s, 3); the arrays are filled once all before them are done."""
        n, together = len(pixels), self._together
        outputs = [np.empty((n, width), np.float32) for width in self._widths]
        for start in range(0, n, together):
            part = pixels[start : start + together]
            if len(part) < together:
                part = np.concatenate([part, np.repeat(part[:1], together - len(part), axis=0)])
            if not self._free:
                self._collect()
            request = self._free.pop()
            request.get_input_tensor().data[:] = part
            request.start_async()
            self._running.append((request, outputs, start, min(n - start, together)))
        return outputs

    def _collect(self) -> None:
        """Wait for the oldest inference and put its rows where they belong."""
        request, outputs, start, n = self._running.popleft()
        request.wait()
        for i, output in enumerate(outputs):
            output[start : start + n] = request.get_output_tensor(i).data[:n]
        self._free.append(request)

    def _finished(self, block: _Block, symmetry: Symmetry) -> tuple[np.ndarray, list[Outputs]]:
        while any(running is started for _, running, *_ in self._running for started in block[2]):
            self._collect()
        outputs: list[Outputs] = []
        for arrays in block.outputs:
            features, *logits = (torch.from_numpy(array) for array in arrays)
            outputs.append((features, logits[0] if logits else None))
        if not self._is_checked:
            self._require_close(block.images, symmetry, outputs[0])
            self._is_checked = True
        return block.rows, outputs

    def _require_close(self, images: torch.Tensor, symmetry: Symmetry, found: Outputs) -> None:
        pixels = torch.from_numpy(turned_pixels(images[:COMPARED], symmetry))
        network = _FromPixels(self._network, self._preprocessing)
        with torch.inference_mode():
            expected = network(pixels)
        for name, one, two in zip(("features", "logits"), found, expected, strict=False):
            if one is None or not torch.isfinite(two).all():
                continue  # what is not finite is told with its image
            scale = float(two.abs().max()) or 1.0
            error = float((one[: len(two)] - two).abs().max()) / scale
            if not error <= CLOSE:
                raise TrustqError(
                    f"OpenVINO {self.version} computes other {name} than torch {torch.__version__} "
                    f"for the first {len(two)} images: they differ by {error:.1e} of the largest, "
                    f"more than {CLOSE:.0e}. Nothing was written. Use `engine=torch`.",
                    where="engine",
                    found="openvino",
                )


def turned_pixels(images: torch.Tensor, symmetry: Symmetry) -> np.ndarray:
    """Pixels (b, s, s, 3) of uint8 under a symmetry, rows in their places."""
    if not any(symmetry):
        return images.numpy()
    return turned(images.permute(0, 3, 1, 2), symmetry).permute(0, 2, 3, 1).contiguous().numpy()


class _FromPixels(torch.nn.Module):
    """A network together with the normalization of its input."""

    mean: torch.Tensor
    std: torch.Tensor

    def __init__(self, network: Network, preprocessing: Preprocessing) -> None:
        super().__init__()
        self.model = network.model.eval()
        self._with_logits = network.n_logits > 0
        mean, std = (
            torch.tensor(v).view(1, 3, 1, 1) for v in (preprocessing.mean, preprocessing.std)
        )
        self.register_buffer("mean", mean)
        self.register_buffer("std", std)

    def forward(self, pixels: torch.Tensor) -> tuple[torch.Tensor, ...]:
        inputs = (pixels.permute(0, 3, 1, 2).float() / 255 - self.mean) / self.std
        features, logits = forward(self.model, inputs, with_logits=self._with_logits)
        return (features,) if logits is None else (features, logits)


def _converted(network: Network, preprocessing: Preprocessing, *, n_images: int) -> Any:
    """The network as OpenVINO's model of so many images.

    By its front end for torch, since `openvino.convert_model` sends a report of use to its makers
    unless that was declined before.
    """
    from openvino.frontend import FrontEndManager
    from openvino.frontend.pytorch.ts_decoder import TorchScriptPythonDecoder

    size = preprocessing.size
    example = torch.zeros(1, size, size, 3, dtype=torch.uint8)
    whole = _FromPixels(network, preprocessing)
    with warnings.catch_warnings(), torch.no_grad(), _of_constants(whole):
        warnings.simplefilter("ignore")  # of tracing: what depends on the size is meant to be fixed
        # As a function: of a module torch compiles every part first, three quarters of the time.
        traced = torch.jit.trace(lambda pixels: whole(pixels), example, check_trace=False)
        decoder = TorchScriptPythonDecoder(traced, example_input=example)
        front_end = FrontEndManager().load_by_framework("pytorch")
        model = front_end.convert(front_end.load(decoder))
    model.reshape([n_images, size, size, 3])
    return model


@contextmanager
def _of_constants(module: torch.nn.Module) -> Iterator[None]:
    """Parameters that a trace may hold as constants, which need no gradient meanwhile."""
    learned = [parameter for parameter in module.parameters() if parameter.requires_grad]
    for parameter in learned:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in learned:
            parameter.requires_grad_(True)
