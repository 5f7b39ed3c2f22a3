"""Heads: classifiers on cached features, as scikit-learn estimators with every class's column."""

from typing import Any, Protocol

import numpy as np

from trustq.errors import TrustqError
from trustq.heads.boosted import BoostedHead
from trustq.heads.linear import LinearHead

__all__ = ["BoostedHead", "Head", "LinearHead", "make_head"]


class Head(Protocol):
    """What a head can do; `fit` may be given `validation=(features, labels)` for early stopping."""

    classes_: np.ndarray  # classes that the fit saw

    def fit(self, features: np.ndarray, labels: np.ndarray, **options: Any) -> Any:
        """Fit on (n, d) features and (n,) class indices."""

    def predict_logits(self, features: np.ndarray) -> np.ndarray:
        """Logits, (n, n_classes) of float64."""


_HEADS: dict[str, Any] = {"linear": LinearHead, "xgboost": BoostedHead}


def make_head(name: str, *, n_classes: int, **settings: Any) -> Head:
    """A fresh head by its name; raises `TrustqError` for an unknown one.

    >>> make_head("linear", n_classes=3, C=0.1)
    LinearHead(C=0.1, n_classes=3)
    """
    if name not in _HEADS:
        raise TrustqError(f"Unknown head {name!r}; there are {', '.join(_HEADS)}.")
    head: Head = _HEADS[name](n_classes=n_classes, **settings)
    return head
