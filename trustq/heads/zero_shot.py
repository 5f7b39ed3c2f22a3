"""The zero-shot head of a vision-language backbone: cosine with the text of each class."""

from pathlib import Path
from typing import Any, Self

import numpy as np

from trustq.errors import InputError, NotFound
from trustq.heads.estimator import HeadEstimator
from trustq.heads.standardise import Scale

ZERO_SHOT = "zero_shot"  # the head's name before its file, as in zero_shot:names.npz


class ZeroShotHead(HeadEstimator):
    """Logits `logit_scale` cos(feature, text) + `logit_bias`, which learn nothing from labels.

    `text_features` is (k, d), one row a class, in the space of the backbone's own image features.
    Features that were standardised since are put back there by `feature_scale`, the one they were
    standardised by. CLIP's scale is about 100 and its bias 0; SigLIP's are its own.

    >>> head = ZeroShotHead(text_features=np.array([[1.0, 0.0], [0.0, 2.0]]), logit_scale=10.0)
    >>> head.fit().predict_logits(np.array([[3.0, 0.0], [1.0, 1.0]])).round(2)
    array([[10.  ,  0.  ],
           [ 7.07,  7.07]])
    """

    def __init__(
        self,
        *,
        text_features: Any = None,
        logit_scale: float = 100.0,
        logit_bias: float = 0.0,
        feature_scale: Scale | None = None,
    ) -> None:
        self.text_features = text_features
        self.logit_scale = logit_scale
        self.logit_bias = logit_bias
        self.feature_scale = feature_scale

    def fit(self, X: Any = None, y: Any = None, **_: Any) -> Self:
        """Check the text features; images and labels are not looked at."""
        texts = np.asarray(self.text_features, dtype=np.float64)
        if texts.ndim != 2 or len(texts) < 2 or not np.isfinite(texts).all():
            raise InputError(
                f"text_features has shape {texts.shape}; expected finite numbers (k, d), one row "
                "for each of two classes or more.",
                where="text_features",
                found=texts.shape,
            )
        if not np.linalg.norm(texts, axis=1).all():
            raise InputError("A row of text_features is zero, so it has no direction.")
        if not 0 < self.logit_scale < np.inf or not np.isfinite(self.logit_bias):
            raise InputError(
                f"logit_scale is {self.logit_scale:g} and logit_bias {self.logit_bias:g}; expected "
                "a scale above 0 (not its logarithm) and a finite bias."
            )
        self.n_classes = len(texts)
        self.classes_ = self.seen_classes_ = np.arange(len(texts))
        self.n_features_in_ = texts.shape[1]
        self.texts_ = texts / np.linalg.norm(texts, axis=1, keepdims=True)
        return self

    def predict_logits(self, features: np.ndarray) -> np.ndarray:
        """Logits, (n, k) of float64, of (n, d) features, standardised where `feature_scale` is."""
        images = np.asarray(features, dtype=np.float64)
        if images.ndim != 2 or images.shape[1] != self.texts_.shape[1]:
            raise InputError(
                f"features has shape {images.shape}, but the text features have "
                f"{self.texts_.shape[1]} columns: both must be of one backbone."
            )
        if self.feature_scale is not None:
            images = images * self.feature_scale.spread + self.feature_scale.center
        lengths = np.linalg.norm(images, axis=1, keepdims=True)
        cosines = images @ self.texts_.T / np.maximum(lengths, 1e-12)
        return np.asarray(self.logit_scale * cosines + self.logit_bias)

    @property
    def n_bytes(self) -> int:
        """Bytes of the text features."""
        return int(self.texts_.nbytes)


def read_text_features(
    path: Path, *, classes: tuple[str, ...], scale: float | None = None, bias: float | None = None
) -> ZeroShotHead:
    """The head of an npz file: `text_features` (k, d), `classes` (k,), `logit_scale`, `logit_bias`.

    Rows are put in the order of `classes`. `scale` and `bias` replace the file's, or stand in for
    them. Raises `TrustqError` for a missing array or class, and where no scale is known.
    """
    path = Path(path)
    if not path.is_file():
        raise NotFound(f"{path}: no such file.", path=path)
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: np.asarray(file[name]) for name in file.files}
    except (OSError, ValueError) as error:
        raise InputError(
            f"{path} is not an npz file of plain arrays ({error}).", path=path
        ) from error
    for name in ("text_features", "classes"):
        if name not in arrays:
            raise InputError(
                f"{path} holds {', '.join(arrays)}; expected text_features (k, d), classes (k,) "
                "and logit_scale.",
                path=path,
            )
    named = [str(name) for name in arrays["classes"].ravel().tolist()]
    missing = [name for name in classes if name not in named]
    if missing or len(named) != len(arrays["text_features"]) or len(set(named)) != len(named):
        raise InputError(
            f"{path} has text features of {', '.join(named)}; expected one row for each of "
            f"{', '.join(classes)}.",
            path=path,
            expected=classes,
            found=named,
        )
    if scale is None and "logit_scale" not in arrays:
        raise InputError(
            f"{path} does not state its logit_scale. Store it there beside text_features and "
            "classes (CLIP's is about 100).",
            path=path,
        )
    order = [named.index(name) for name in classes]
    return ZeroShotHead(
        text_features=arrays["text_features"][order],
        logit_scale=float(arrays["logit_scale"]) if scale is None else scale,
        logit_bias=float(arrays.get("logit_bias", 0.0)) if bias is None else bias,
    ).fit()


def text_file(head: str) -> Path | None:
    """The file of text features that a head's name states, None where it is another head's name.

    Raises `TrustqError` for the zero-shot head without a file.

    >>> text_file("zero_shot:names.npz").name, text_file("linear")
    ('names.npz', None)
    """
    kind, _, file = head.partition(":")
    if kind != ZERO_SHOT:
        return None
    if not file:
        raise InputError(
            "The zero_shot head learns nothing from labels: it needs the text features of the "
            f"classes, an npz file of text_features, classes and logit_scale: `head={ZERO_SHOT}:"
            "FILE.npz`. The backbone's own text tower, whose weights a model hub has, does not run "
            "here: write the file where it does, e.g. by open_clip's encode_text.",
            where="head",
            found=head,
        )
    return Path(file)


def text_settings(head: str, *, classes: tuple[str, ...], feature_scale: Scale) -> dict[str, Any]:
    """What `make_head` needs besides for the zero-shot head, of the file in its name; else nothing.

    `feature_scale` is that of the features that the head will be given. Raises `TrustqError` for a
    file that is missing or lacks a class, and for texts of another length than the features.
    """
    path = text_file(head)
    if path is None:
        return {}
    own = read_text_features(path, classes=classes)
    n_found, n_expected = own.n_features_in_, len(feature_scale.center)
    if n_found != n_expected:
        raise InputError(
            f"{path} has text features of {n_found} columns, and the images' features have "
            f"{n_expected}: both must be of one backbone.",
            path=path,
            found=n_found,
        )
    return own.get_params() | {"feature_scale": feature_scale}
