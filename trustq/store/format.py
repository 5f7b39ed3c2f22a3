"""The cache format: names, exposures and the in-memory form. `cache/README.md` is its page."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from trustq.core.digest import digest_json
from trustq.errors import InputError

FORMAT = "trustq.cache"
FORMAT_VERSION = 1

# The first 512 bytes of the file, HDF5's "user block", which HDF5 itself never reads: a line with
# the digest of all bytes after it. A damaged file is thus known before the HDF5 library parses it.
USER_BLOCK = 512
SEAL = b"trustq.cache sealed xxh3_128="

# What the backbone has seen of each row (`seen`), as bits.
SEEN_OBSERVED = 1  # it was trained on the row's observed label
SEEN_REFERENCE = 2  # it was trained on the row's reference label
SEEN_SELECTION = 4  # the row helped to choose the checkpoint

EXPOSURES = {
    "frozen": "no label of this data set was used",
    "finetuned-observed": "trained on the observed labels of the rows marked in `seen`",
    "finetuned-clean": "trained on the reference labels of the rows marked in `seen`",
    "crossfit": "also holds logits of each row by a model that did not see its group",
    "unknown": "not stated by whoever imported it",
}

# Row-aligned datasets that every cache has; features and logits follow.
ROW_DATASETS = ("sample_id", "split", "group_id", "label", "observed", "trusted", "seen")

# Optional datasets that stay in the file until asked for, and those whose rows are the second axis.
LARGE = ("views/", "passes/", "maps", "epochs/")
ROWS_SECOND = ("passes/", "epochs/")

# The manifest's further columns, packed: see `manifest_columns`. No number is made of them, nor of
# the time that an epoch took.
MANIFEST_COLUMNS = "manifest/columns"
INCIDENTAL_DATASETS = ("history/seconds", MANIFEST_COLUMNS)

# Attributes that change no number and so stay out of `content_digest`.
INCIDENTAL = ("created", "versions", "seconds")


@dataclass
class Cache:
    """What a cache file holds, in memory; arrays of n rows in the manifest's order.

    `label` and `observed` are int16 indices into `classes`, -1 where there is none; `seen` is made
    of the SEEN bits; `features` is (n, d); `logits` is (n, k), or None for a frozen backbone that
    has no classifier. `extra` holds optional datasets by their path (`history/...`, `fold`,
    `crossfit_logits`, `classifier/weight`, and, read from the file at each access, `views/...`,
    `passes/...`, `epochs/logits` and `maps`). `path` and the digests are set once it has been
    written or read.
    """

    dataset: str
    classes: tuple[str, ...]
    exposure: str
    sample_id: np.ndarray
    split: np.ndarray
    group_id: np.ndarray
    label: np.ndarray
    observed: np.ndarray
    trusted: np.ndarray
    seen: np.ndarray
    features: np.ndarray
    logits: np.ndarray | None = None
    backbone: str = "unknown"
    weights: str = "unknown"  # "timm:TAG", "file:NAME", "none", or as the importer stated
    weights_digest: str = ""  # of the checkpoint that made features and logits
    backbone_seed: int = 0
    precision: str = "float32"
    preprocessing: dict[str, Any] = field(default_factory=dict)
    recipe: dict[str, Any] = field(
        default_factory=dict
    )  # resolved; {"name": ..., "extract": {...}}
    manifest: dict[str, str] = field(default_factory=dict)  # its digests; empty when imported
    noise: dict[str, Any] = field(default_factory=dict)  # the stored draw: spec, seed, rate, digest
    versions: dict[str, str] = field(default_factory=dict)
    created: str = ""
    seconds: dict[str, float] = field(default_factory=dict)
    extra: Mapping[str, np.ndarray] = field(default_factory=dict)
    path: Path | None = None
    parts: tuple[Path, ...] = ()  # files whose features stand side by side; then `path` is None
    digest: str = ""
    content_digest: str = ""

    def __len__(self) -> int:
        return len(self.sample_id)

    @property
    def name(self) -> str:
        """Where this cache came from, for messages."""
        return " + ".join(map(str, self.files)) or f"cache of {self.dataset}"

    @property
    def files(self) -> tuple[Path, ...]:
        """The files that it was read from, none where it was made in memory."""
        return self.parts or ((self.path,) if self.path else ())

    @property
    def seen_labels(self) -> np.ndarray:
        """Rows whose label, observed or reference, the backbone was trained on, (n,) of bool."""
        return np.asarray((self.seen & (SEEN_OBSERVED | SEEN_REFERENCE)) != 0)

    @property
    def honest_for_any_noise(self) -> np.ndarray:
        """Rows of groups of which the backbone was trained on no label, (n,) of bool."""
        tainted = set(self.group_id[self.seen_labels].tolist())
        return np.array([group not in tainted for group in self.group_id.tolist()], dtype=bool)

    @property
    def views(self) -> tuple[str, ...]:
        """Names of the views that it holds."""
        paths = [name.split("/") for name in self.extra]
        return tuple(
            sorted(path[1] for path in paths if path[0] == "views" and path[-1] == "features")
        )

    def view(self, name: str) -> "Cache":
        """The same rows as a view shows them: its features and logits, loaded and verified.

        The data set is called `<dataset>@<view>` and the digests are the view's own, so that no
        figure of it is taken for a clean one; `preprocessing["view"]` has its parameters. Raises
        `TrustqError` for a view that is not there.
        """
        if name not in self.views:
            has = ", ".join(self.views) or "the clean one"
            raise InputError(
                f"{self.name} has no view {name!r}, only {has}.\n"
                f"Make one through the same network with `trustq extract`, `with=CACHE`, "
                f"`views={name}` and `name=NAME`."
            )
        parameters = json.loads(str(self.extra[f"views/{name}/parameters"][0]))
        # Averaged logits are no longer linear in averaged features.
        is_linear = "symmetries" not in parameters
        logits = f"views/{name}/logits"
        digest = digest_json([self.content_digest, "view", name])
        return replace(
            self,
            dataset=f"{self.dataset}@{name}",
            features=self.extra[f"views/{name}/features"],
            logits=self.extra.get(logits),
            preprocessing=self.preprocessing | {"view": {"name": name} | parameters},
            extra={
                key: self.extra[key]
                for key in self.extra
                if (is_linear and key.startswith("classifier/")) or key == MANIFEST_COLUMNS
            },
            digest=digest,
            content_digest=digest,
        )

    def passes(self, name: str = "dropout") -> np.ndarray:
        """Logits (t, n, k) of stochastic passes; raises `TrustqError` where there are none."""
        key = f"passes/{name}/logits"
        if key not in self.extra:
            raise InputError(
                f"{self.name} has no {name} passes. Use `trustq extract` with `passes=20` and "
                "`drop_rate=0.3` or, where the network has dropout, add them with `with=CACHE` and "
                "`passes=20`."
            )
        return self.extra[key]

    @property
    def epoch_logits(self) -> np.ndarray:
        """Logits (e, n, k) that training gave at each epoch; raises `TrustqError` without them.

        NaN where the epoch did not train on the row. They are in-sample: of the augmented image,
        by the network that was learning its observed label.
        """
        logits = self._every_epoch.copy()
        logits[:, self.observed < 0] = np.nan  # those of validation rows, which are not in-sample
        return logits

    @property
    def validation_epochs(self) -> tuple[np.ndarray, np.ndarray]:
        """Positions (m,) of the rows that judged each epoch, and their logits (e, m, k) at each.

        They are of the network of the epoch's end, as it is evaluated. Raises `TrustqError` where
        there are none.
        """
        logits = self._every_epoch
        judged = (self.observed < 0) & ~np.isnan(logits).any(axis=(0, 2))
        if not judged.any():
            raise InputError(
                f"{self.name} holds no logits of validation rows by epoch: it has none, or was "
                "made by a trustq that did not keep them. Train again with `trustq extract` and "
                "`name=NAME`."
            )
        return np.flatnonzero(judged), logits[:, judged]

    @property
    def _every_epoch(self) -> np.ndarray:
        if "epochs/logits" not in self.extra:
            raise InputError(
                f"{self.name} holds no logits of its epochs: its network was not trained here, "
                "mixed its images, or was trained by a trustq that did not keep them. Train again "
                "with `trustq extract`, `epoch_logits=true` and `name=NAME`."
            )
        return self.extra["epochs/logits"]


# The scalar fields of `Cache` that are stored as root attributes, in the order they are written.
ATTRIBUTES = (
    "dataset",
    "classes",
    "exposure",
    "backbone",
    "weights",
    "weights_digest",
    "backbone_seed",
    "precision",
    "preprocessing",
    "recipe",
    "manifest",
    "noise",
    "versions",
    "created",
    "seconds",
)
