"""Networks: whether their weights can be had, making them, loading and saving checkpoints."""

import difflib
import json
import os
import re
import socket
import threading
import urllib.parse
import urllib.request
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trustq.core.atomic_files import replacing
from trustq.core.digest import digest_bytes
from trustq.core.generators import generator
from trustq.errors import DamagedFile, InputError, NotFound, TrustqError
from trustq.extraction.train.packaged_weights import packaged_weights
from trustq.recipes import ExtractRecipe

if TYPE_CHECKING:
    import torch

PROBE_SECONDS = 1.0  # a name server that does not answer must not hold up the error

_CHECKPOINT_KEY = "trustq"  # in a checkpoint's metadata
# Where training checkpoints keep weights, averages first, as timm takes them too.
_STATE_KEYS = (
    *("state_dict_ema", "model_ema", "ema_state_dict", "ema_model", "ema"),
    *("state_dict", "model_state_dict", "model"),
)
_PREFIXES = re.compile(r"^(module\.|_orig_mod\.)+")


def require_weights(recipe: ExtractRecipe) -> None:
    """Raise `TrustqError` where a recipe's starting weights cannot be had; needs no torch.

    Pretrained weights must be in the hub's cache or the hub in reach. Takes a second at most, so
    that being offline is known before torch is imported.
    """
    if packaged := packaged_weights(recipe.weights, backbone=recipe.backbone):
        packaged.path()
    if recipe.weights or not recipe.pretrained:
        return
    try:
        from huggingface_hub import constants
    except ImportError:
        return  # comes with timm; a missing extra is told by whoever imports that
    cache = Path(constants.HF_HUB_CACHE)
    if any(_has_snapshot(folder) for folder in _hub_folders(cache, recipe.backbone)):
        return
    if not constants.HF_HUB_OFFLINE and _hub_answers(constants.ENDPOINT):
        return
    raise TrustqError(
        f"The pretrained weights of {recipe.backbone} are not in {cache}, and the hub that has "
        "them cannot be reached from here.\n"
        "Give a file with `weights=FILE`, train from scratch with `pretrained=false`, "
        "or run where there is a network."
    )


def digest_weights_file(weights: str, *, backbone: str) -> str:
    """Digest of the bytes of a file, or of a package, that the setting `weights` names.

    Raises `TrustqError` where there is none.
    """
    if packaged := packaged_weights(weights, backbone=backbone):
        return digest_bytes(packaged.path().read_bytes())
    path = Path(weights)
    if not path.is_file():
        raise NotFound(f"`weights={path}`: no such file.", where="weights", found=path)
    return digest_bytes(path.read_bytes())


@dataclass
class Network:
    """A backbone that is ready to run.

    `n_features` is the width of what enters the classifier; `n_logits` is 0 without one; `config`
    is what timm records of its input; `weights` says what it started from.
    """

    model: "torch.nn.Module"
    n_features: int
    n_logits: int
    config: dict[str, Any]
    weights: str

    def classifier_parameters(self) -> list["torch.nn.Parameter"]:
        """Parameters of the classifier; none without one."""
        if not self.n_logits:
            return []
        classifier = self.model.get_classifier()  # type: ignore[operator]
        # Distilled transformers have a pair of classifiers.
        parts = classifier if isinstance(classifier, tuple) else (classifier,)
        return [parameter for part in parts for parameter in part.parameters()]


def make_network(
    backbone: str,
    *,
    n_classes: int,
    image_size: int,
    pretrained: bool = False,
    drop_rate: float = 0.0,
) -> Network:
    """A timm model with `n_classes` outputs (0: no classifier), tried on one blank image.

    `drop_rate` is that of the dropout before the classifier. Random parts come from torch's
    current seed. Raises `TrustqError` for an unknown name, without pretrained weights, or for a
    size that the model does not take.
    """
    import timm
    import torch

    _require_known(backbone)
    config = _pretrained_config(backbone, pretrained)
    options: dict[str, Any] = {"num_classes": n_classes}
    if config.get("fixed_input_size"):
        options["img_size"] = image_size
    if drop_rate:
        options["drop_rate"] = drop_rate
    try:
        model = timm.create_model(backbone, pretrained=pretrained, **options)
        model.eval()
        with torch.inference_mode():
            blank = torch.zeros(1, 3, image_size, image_size)
            features, logits = forward(model, blank, with_logits=n_classes > 0)
        if features.ndim != 2:
            raise ValueError(f"its features have shape {tuple(features.shape[1:])}, not one vector")
    except (ArithmeticError, AssertionError, RuntimeError, TypeError, ValueError) as error:
        raise InputError(
            f"{backbone} cannot be run on images of {image_size} pixels: {_first_line(error)}.\n"
            "Try another `image_size`, or another backbone."
        ) from error
    except Exception as error:
        if not pretrained:
            raise
        raise TrustqError(
            f"The pretrained weights of {backbone} could not be fetched: {_first_line(error)}.\n"
            "Give a file with `weights=FILE`, train from scratch with `pretrained=false`, or try "
            "again."
        ) from error
    found = dict(getattr(model, "pretrained_cfg", None) or config)
    tag = ".".join(part for part in (found.get("architecture", ""), found.get("tag", "")) if part)
    return Network(
        model,
        n_features=int(features.shape[1]),
        n_logits=0 if logits is None else int(logits.shape[1]),
        config=found,
        weights=f"timm:{tag or backbone}" if pretrained else "none",
    )


def start_network(recipe: ExtractRecipe, *, n_classes: int, seed: int) -> tuple[Network, list[str]]:
    """The network that a recipe starts from, its random parts drawn by `seed`.

    With `classifier_start=zero` its first logits are all zero. Also returns the classifier's keys
    that a weights file holds for other classes. Raises `TrustqError` as `make_network` and
    `load_start` do.
    """
    import torch

    torch.manual_seed(int(generator(seed, "init").integers(2**63)))
    network = make_network(
        recipe.backbone,
        n_classes=n_classes,
        image_size=recipe.image_size,
        pretrained=recipe.pretrained and not recipe.weights,
        drop_rate=recipe.drop_rate,
    )
    left_out = load_start(network, recipe) if recipe.weights else []
    if recipe.classifier_start == "zero":
        with torch.no_grad():
            for parameter in network.classifier_parameters():
                parameter.zero_()
    return network, left_out


def place(network: Network, device: "torch.device") -> None:
    """Move a network to a device, in the memory layout that is fast there."""
    import torch

    network.model.to(device)
    if device.type == "cuda":
        network.model.to(memory_format=torch.channels_last)


def forward(
    model: Any, images: "torch.Tensor", *, with_logits: bool
) -> tuple["torch.Tensor", "torch.Tensor | None"]:
    """Features before the classifier, (b, d), and its logits, (b, k), of one pass."""
    return forward_head(model, model.forward_features(images), with_logits=with_logits)


def forward_head(
    model: Any, maps: "torch.Tensor", *, with_logits: bool
) -> tuple["torch.Tensor", "torch.Tensor | None"]:
    """Features and logits from the last feature map, as `model.forward_features` gives it."""
    features = model.forward_head(maps, pre_logits=True)
    return features, model.forward_head(maps) if with_logits else None


def grid_of(network: Network, maps: "torch.Tensor") -> "torch.Tensor":
    """A feature map as (b, h, w, c), whether it came as channels first, last or as tokens.

    Raises `TrustqError` where the network's map is no grid.
    """
    model: Any = network.model
    if maps.ndim == 4:
        is_last = getattr(model, "output_fmt", "") == "NHWC" or maps.shape[1] != model.num_features
        return maps if is_last else maps.permute(0, 2, 3, 1)
    grid = getattr(getattr(model, "patch_embed", None), "grid_size", None)
    if maps.ndim == 3 and grid:
        tokens = maps[:, getattr(model, "num_prefix_tokens", 0) :]
        if tokens.shape[1] == grid[0] * grid[1]:
            return tokens.reshape(len(tokens), *grid, tokens.shape[2])
    raise InputError(
        f"maps: the last feature map of this {type(model).__name__} has shape "
        f"{tuple(maps.shape[1:])}, which is no grid of places. Leave maps out."
    )


def load_start(network: Network, recipe: ExtractRecipe) -> list[str]:
    """Load a recipe's weights into a network and return the classifier's keys that were left out.

    A classifier for other classes is left out; of a training checkpoint with moving averages of
    the weights these are taken. Raises `TrustqError` where the file cannot be read without running
    code in it, or its other keys are not the network's.
    """
    path = Path(recipe.weights)
    own = network.model.state_dict()
    stems = network.config.get("classifier") or ()
    stems = (stems,) if isinstance(stems, str) else tuple(stems)

    def of_classifier(key: str) -> bool:
        return any(key.startswith(f"{stem}.") for stem in stems)

    if packaged := packaged_weights(recipe.weights, backbone=recipe.backbone):
        heads = [f"{stem}.{part}" for stem in stems for part in ("weight", "bias")]
        state = packaged.read([*(key for key in own if not of_classifier(key)), *heads])
        told = f"package:{packaged.requirement}"
    else:
        state, part = _read_tensors(path)
        told = f"file:{path.name}{part}"

    def fits(key: str) -> bool:
        return key in state and key in own and state[key].shape == own[key].shape

    dropped = [key for key in state if of_classifier(key) and not fits(key)]
    missing = [key for key in own if key not in state and not of_classifier(key)]
    strange = [key for key in state if key not in own and key not in dropped]
    differing = [
        f"{key} ({_shape(state[key])} instead of {_shape(own[key])})"
        for key in state
        if key in own and not fits(key) and key not in dropped
    ]
    named = {"missing": missing, "unknown": strange, "of another shape": differing}
    problems = [f"{what}: {_listed(keys)}" for what, keys in named.items() if keys]
    if problems:
        raise InputError(
            f"`weights={path}` does not fit the backbone; {'; '.join(problems)}.\n"
            "Name the backbone that the file was made with, or use another file.",
            where="weights",
            found=path,
        )
    network.model.load_state_dict(
        {key: value for key, value in state.items() if key not in dropped}, strict=False
    )
    network.weights = told
    return dropped


def digest_weights(model: "torch.nn.Module") -> str:
    """Digest of a model's tensors: names, types, shapes and bytes."""
    parts: list[bytes | memoryview] = []
    for name, tensor in sorted(_plain_tensors(model).items()):
        parts.append(f"{name}:{tensor.dtype}{list(tensor.shape)}".encode())
        parts.append(_bytes_of(tensor))
    return digest_bytes(*parts)


def save_checkpoint(path: Path, model: "torch.nn.Module", about: dict[str, Any]) -> None:
    """Write a model's tensors as safetensors, with what is needed to use them in its metadata."""
    from safetensors.torch import save

    # As bytes: safetensors' own file writer makes files that only their owner may read.
    content = save(_plain_tensors(model), metadata={_CHECKPOINT_KEY: json.dumps(about)})
    with replacing(path) as part:
        part.write_bytes(content)


def is_checkpoint(path: Path) -> bool:
    """Whether a file is the network of a cache, as `save_checkpoint` writes it; needs no torch."""
    if path.suffix != ".safetensors" or not path.is_file():
        return False
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "numpy") as file:
            return _CHECKPOINT_KEY in (file.metadata() or {})
    except SafetensorError:
        return False  # told by whoever loads it


def load_checkpoint(path: Path, model: "torch.nn.Module", *, digest: str) -> None:
    """Load the checkpoint of a cache into a model, which then has exactly that digest."""
    if not path.is_file():
        raise NotFound(
            f"{path}: no such file. It holds the network of the cache beside it; copy it there, or "
            "extract again.",
            path=path,
        )
    state, _ = _read_tensors(path)
    try:
        model.load_state_dict(state)
    except RuntimeError as error:
        raise DamagedFile(
            f"{path} holds another network than the cache beside it. Copy the right one there, or "
            "extract again.",
            path=path,
        ) from error
    found = digest_weights(model)
    if found != digest:
        raise DamagedFile(
            f"{path} has digest {found[:8]}..., but the cache beside it was made by "
            f"{digest[:8]}.... Copy the right checkpoint there, or extract again.",
            path=path,
        )


def _hub_folders(cache: Path, backbone: str) -> list[Path]:
    # models--<owner>--<backbone>.<tag>, as the hub's client names them.
    if not cache.is_dir() or not backbone.replace("_", "").replace(".", "").isalnum():
        return []
    pattern = f"models--*--{backbone}" + ("" if "." in backbone else ".*")
    return list(cache.glob(pattern))


def _has_snapshot(folder: Path) -> bool:
    return any(folder.glob("snapshots/*/*.*"))


def _hub_answers(endpoint: str) -> bool:
    address = urllib.parse.urlsplit(endpoint)
    proxy = urllib.request.getproxies().get(address.scheme)
    if proxy and not urllib.request.proxy_bypass(address.hostname or ""):
        address = urllib.parse.urlsplit(proxy if "//" in proxy else f"//{proxy}")
    port = address.port or (80 if address.scheme == "http" else 443)
    answered = threading.Event()

    def connect() -> None:
        try:
            socket.create_connection((address.hostname or "", port), PROBE_SECONDS).close()
            answered.set()
        except (OSError, UnicodeError):
            pass

    # In a thread that is left behind, for looking a name up has no time limit of its own.
    thread = threading.Thread(target=connect, daemon=True)
    thread.start()
    thread.join(PROBE_SECONDS)
    return answered.is_set()


def _require_known(backbone: str) -> None:
    import timm

    # Names with a scheme or a path would make timm fetch or read something else.
    if "/" not in backbone and ":" not in backbone and timm.is_model(backbone):
        return
    every = timm.list_models()
    close = difflib.get_close_matches(backbone.split(".")[0], every, n=3, cutoff=0.5)
    nearest = f"; the nearest are {', '.join(close)}" if close else ""
    raise NotFound(f"timm has no model {backbone!r}{nearest}.")


def _pretrained_config(backbone: str, pretrained: bool) -> dict[str, Any]:
    import timm

    try:
        config = timm.get_pretrained_cfg(backbone)
    except RuntimeError as error:
        tags = timm.list_pretrained(f"{backbone.split('.')[0]}.*")
        raise NotFound(
            f"timm has no weights {backbone!r}; of this model it has {', '.join(tags) or 'none'}."
        ) from error
    values = config.to_dict() if config is not None else {}
    if pretrained and not any(values.get(key) for key in ("hf_hub_id", "url", "file")):
        raise NotFound(
            f"timm has no pretrained weights for {backbone}. Give a file with `weights=FILE`, or "
            "train from scratch with `pretrained=false`."
        )
    return values


def _read_tensors(path: Path) -> tuple[dict[str, "torch.Tensor"], str]:
    """Tensors of a file, and which part of a training checkpoint they are (blank: all of it)."""
    import torch

    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(path), ""
        # weights_only: a stranger's file must not run code.
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise DamagedFile(
            f"{path} could not be read as tensors: {_first_line(error)}.\n"
            "Expected .safetensors, or .pth that holds tensors and nothing else.",
            path=path,
        ) from error
    part = ""
    for key in _STATE_KEYS:
        if isinstance(state, dict) and isinstance(state.get(key), dict) and state[key]:
            state, part = state[key], f" ({key})"
            state = state["module"] if isinstance(state.get("module"), dict) else state
            break
    if not isinstance(state, dict) or not all(torch.is_tensor(t) for t in state.values()):
        keys = ", ".join(map(str, state)) if isinstance(state, dict) else type(state).__name__
        raise InputError(
            f"{path}: expected a dictionary of tensors, or a training checkpoint with one of them "
            f"called {', '.join(_STATE_KEYS)}; found {keys[:200]}.",
            path=path,
        )
    # What torch's wrappers put before names, and the count that its averages hold.
    tensors = {_PREFIXES.sub("", str(key)): tensor for key, tensor in state.items()}
    tensors.pop("n_averaged", None)
    return tensors, part


def _plain_tensors(model: "torch.nn.Module") -> dict[str, "torch.Tensor"]:
    import torch

    # Copies in plain row order: safetensors refuses shared memory, and channels-last is a matter
    # of speed that must not change a digest.
    return {
        name: tensor.detach().cpu().clone(memory_format=torch.contiguous_format)
        for name, tensor in model.state_dict().items()
    }


def _bytes_of(tensor: "torch.Tensor") -> memoryview:
    import torch

    view: memoryview = tensor.reshape(-1).view(torch.uint8).numpy().data
    return view


def _shape(tensor: "torch.Tensor") -> str:
    return "x".join(map(str, tensor.shape)) or "one number"


def _listed(items: Sequence[str], most: int = 5) -> str:
    more = f" and {len(items) - most} more" if len(items) > most else ""
    return ", ".join(items[:most]) + more


def _first_line(error: Exception) -> str:
    if isinstance(error, OSError) and error.errno:
        return os.strerror(error.errno).lower()
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
