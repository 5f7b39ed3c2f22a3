"""Heads: classifiers on cached features, as scikit-learn estimators with every class's column."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, Protocol

import numpy as np

from trustq.core.plugins import find_plugin, plugin_names
from trustq.errors import InputError
from trustq.heads.boosted import PRESETS, BoostedHead
from trustq.heads.classic import KINDS, ClassicHead, takes_weights
from trustq.heads.feature_cache import SharedFeatures, cores
from trustq.heads.light_boosted import LIGHT, LightBoostedHead, require_lightgbm
from trustq.heads.linear import LinearHead, PenaltyPath, fit_penalty_path, fit_together
from trustq.heads.multinomial import MultinomialFits, fit_multinomial
from trustq.heads.penalty import choose_penalty
from trustq.heads.zero_shot import (
    ZERO_SHOT,
    ZeroShotHead,
    read_text_features,
    text_file,
    text_settings,
)

__all__ = [
    "BOOSTED",
    "BoostedHead",
    "ClassicHead",
    "Head",
    "LightBoostedHead",
    "LinearHead",
    "MultinomialFits",
    "PenaltyPath",
    "SharedFeatures",
    "ZeroShotHead",
    "choose_penalty",
    "fit_heads",
    "fit_multinomial",
    "fit_penalty_path",
    "make_head",
    "read_text_features",
    "takes_weights",
    "text_file",
    "text_settings",
]


BOOSTED = (*PRESETS, LIGHT)  # names of heads that validation rows stop


class Head(Protocol):
    """What a head can do.

    `fit` may be given `validation=(features, labels)` for early stopping and `sample_weight`, which
    is 0 for rows that the head must not learn from.
    """

    seen_classes_: np.ndarray  # columns whose class the fit saw

    def fit(self, X: Any, y: Any, **options: Any) -> Any:
        """Fit on (n, d) features and (n,) class indices."""

    def predict_logits(self, features: np.ndarray) -> np.ndarray:
        """Logits, (n, n_classes) of float64."""

    @property
    def n_bytes(self) -> int:
        """Bytes of what a prediction needs."""


def _zero_shot(*, n_classes: int, **settings: Any) -> ZeroShotHead:
    if "text_features" not in settings:
        text_file(ZERO_SHOT)
    return ZeroShotHead(**settings)


def _light(*, n_classes: int, **settings: Any) -> LightBoostedHead:
    require_lightgbm()
    return LightBoostedHead(n_classes=n_classes, **settings)


_HEADS: dict[str, Any] = {
    "linear": LinearHead,
    "balanced": partial(LinearHead, class_weight="balanced"),
    **{name: partial(BoostedHead, **preset) for name, preset in PRESETS.items()},
    LIGHT: _light,
    **{kind: partial(ClassicHead, kind=kind) for kind in KINDS},
    ZERO_SHOT: _zero_shot,
}


def make_head(name: str, *, n_classes: int, **settings: Any) -> Head:
    """A fresh head by its name, a plug-in's too; raises `TrustqError` for an unknown one.

    The zero-shot head's name may have its file, whose content `text_settings` reads.

    >>> make_head("linear", n_classes=3, C=0.1)
    LinearHead(C=0.1, n_classes=3)
    """
    make = _HEADS.get(ZERO_SHOT if name.startswith(f"{ZERO_SHOT}:") else name)
    if make is None and find_plugin("heads", name) is not None:
        make = partial(ClassicHead, kind=name)
    if make is None:
        known = (*_HEADS, *plugin_names("heads", taken=_HEADS))
        raise InputError(
            f"Unknown head {name!r}; there are {', '.join(known)}.", expected=known, found=name
        )
    head: Head = make(n_classes=n_classes, **settings)
    return head


def fit_heads(
    heads: Sequence[Head],
    features: SharedFeatures,
    labels: np.ndarray,
    *,
    used: np.ndarray,
    start: Sequence[Head] | None = None,
    tolerance: float | None = None,
    validation: tuple[np.ndarray, np.ndarray] | None = None,
) -> None:
    """Fit p heads of one kind, each on its own labels and rows of the same features.

    `labels` is (p, n) of class indices and `used`, (p, n), True where a head may learn from the
    row, or what the row weighs, 0 where it may not. Linear heads are solved together, from `start`,
    p heads fitted earlier, where given, to `tolerance` (`fit_multinomial`'s); boosted ones share
    their bins and are fitted side by side, one a core.
    `validation`, features and labels of other rows, is for heads that stop early. Raises
    `TrustqError` for a fit that fails.

    >>> features = SharedFeatures(np.array([[0.0], [1.0], [2.0], [3.0]]))
    >>> heads = [make_head("linear", n_classes=2) for _ in range(2)]
    >>> used = np.array([[True, True, True, True], [True, False, True, True]])
    >>> fit_heads(heads, features, np.array([[0, 0, 1, 1], [0, 0, 1, 1]]), used=used)
    >>> [head.predict(features.features).tolist() for head in heads]
    [[0, 0, 1, 1], [0, 1, 1, 1]]
    """
    linear = [head for head in heads if isinstance(head, LinearHead)]
    if len(linear) == len(heads):
        begun = None if start is None else [head for head in start if isinstance(head, LinearHead)]
        fit_together(linear, features, labels, used=used, start=begun, tolerance=tolerance)
        return

    def fit(i: int) -> None:
        heads[i].fit(features, labels[i], sample_weight=used[i], validation=validation)

    if not all(isinstance(head, BoostedHead | LightBoostedHead) for head in heads):
        for i in range(len(heads)):
            fit(i)
        return
    with ThreadPoolExecutor(cores()) as threads:
        list(threads.map(fit, range(len(heads))))
