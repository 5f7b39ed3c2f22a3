"""Heads that scikit-learn already has, with every class's column and logits."""

from collections.abc import Callable
from typing import Any, Self

import numpy as np

from trustq.core.plugins import find_plugin
from trustq.errors import InputError
from trustq.heads.estimator import HeadEstimator
from trustq.heads.feature_cache import SharedFeatures, one_blas_thread
from trustq.heads.linear import ABSENT_LOG_PROBABILITY
from trustq.heads.zero_shot import ZERO_SHOT
from trustq.metrics.probabilities import softmax

KINDS = ("knn", "centroid", "lda", "ridge", "mlp", "majority", "prior")
UNWEIGHED = ("knn", "centroid", "lda")  # leave rows out, but cannot weigh them
SMOOTHING = 1e-3  # share of the prior mixed into probabilities: k neighbours alone give zeros


class ClassicHead(HeadEstimator):
    """One of scikit-learn's classifiers as a head, by its `kind`.

    `knn` is 15 neighbours by votes, `centroid` the nearest class mean, `lda` linear discriminants
    of shrunk covariance, `ridge` least squares on one-hot labels, whose flat probabilities need a
    temperature, `mlp` one layer of 256 with balanced class weights and early stopping on a tenth of
    its rows, `majority` the shares of the classes, `prior` a class drawn by these shares, or the
    name of a plug-in. Features are float32 (n, d), best standardised; probabilities are mixed with
    .1 % of the prior.

    >>> features = np.repeat(np.eye(3), 20, axis=0)
    >>> head = ClassicHead(kind="knn", n_classes=4).fit(features, np.repeat([0, 1, 3], 20))
    >>> head.predict(np.eye(3)).tolist()
    [0, 1, 3]
    """

    def __init__(self, *, kind: str, n_classes: int | None = None, seed: int = 0) -> None:
        self.n_classes = n_classes
        self.kind = kind
        self.seed = seed

    def fit(
        self,
        X: Any,
        y: Any,
        sample_weight: np.ndarray | None = None,
        **_: Any,
    ) -> Self:
        """Fit on (n, d) features and (n,) labels; `sample_weight`, 0, leaves rows out.

        Raises `TrustqError` for weights other than 0 and 1 where the kind takes none: neighbours,
        class means, linear discriminants.
        """
        features, labels = self._taught(X, y)
        matrix = np.asarray(features.features if isinstance(features, SharedFeatures) else features)
        given = self._weighed(sample_weight, len(labels))
        weights = np.ones(len(labels)) if given is None else given
        used = weights != 0
        weights = weights[used].astype(np.float64)
        is_weighed = bool((weights != 1).any())
        if is_weighed and not takes_weights(self.kind):
            raise InputError(f"The {self.kind} head takes weights of 0 and 1 alone.")
        self.seen_classes_, of_class = np.unique(labels[used], return_inverse=True)
        counts = np.bincount(of_class, weights=weights)
        self.prior_ = counts / counts.sum()
        self.model_ = None
        if len(self.seen_classes_) > 1 and self.kind != "majority":
            own: dict[str, Any] = {"sample_weight": weights} if is_weighed else {}
            if self.kind == "mlp":
                mean = counts.sum() / (len(counts) * counts)  # as scikit-learn's `balanced`
                own["sample_weight"] = weights * mean[of_class]
            with one_blas_thread():
                model = _maker(self.kind)(self.seed)
                if self.kind == "knn":
                    model.n_neighbors = min(model.n_neighbors, int(used.sum()))
                self.model_ = model.fit(matrix[used], labels[used], **own)
        return self

    def predict_logits(self, features: np.ndarray) -> np.ndarray:
        """Logits, (n, n_classes) of float64: log-probabilities."""
        probs = np.broadcast_to(self.prior_, (len(features), len(self.prior_)))
        if self.model_ is not None:
            with one_blas_thread():
                own = self._probabilities(features)
            probs = (1 - SMOOTHING) * own + SMOOTHING * self.prior_
        logits = np.full((len(features), self.n_columns), ABSENT_LOG_PROBABILITY)
        logits[:, self.seen_classes_] = np.log(probs)
        return logits

    @property
    def n_bytes(self) -> int:
        """Bytes of the shares and of all arrays that the model keeps; neighbours keep every row."""
        kept = [] if self.model_ is None else list(vars(self.model_).values())
        arrays = [
            part for value in kept for part in (value if isinstance(value, list) else [value])
        ]
        return int(self.prior_.nbytes + sum(a.nbytes for a in arrays if isinstance(a, np.ndarray)))

    def _probabilities(self, features: np.ndarray) -> np.ndarray:
        assert self.model_ is not None
        if self.kind != "ridge":
            return np.asarray(self.model_.predict_proba(features), dtype=np.float64)
        targets = np.asarray(self.model_.decision_function(features), dtype=np.float64)
        if targets.ndim == 1:  # two classes share one column
            targets = np.column_stack([-targets, targets])
        return softmax(targets)


def _neighbours(_: int) -> Any:
    from sklearn.neighbors import KNeighborsClassifier

    return KNeighborsClassifier(n_neighbors=15, algorithm="brute")


def _centroids(_: int) -> Any:
    from sklearn.neighbors import NearestCentroid

    return NearestCentroid()


def _discriminants(_: int) -> Any:
    from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

    return LinearDiscriminantAnalysis(solver="lsqr", shrinkage="auto")


def _least_squares(_: int) -> Any:
    from sklearn.linear_model import RidgeClassifier

    return RidgeClassifier()


def _network(seed: int) -> Any:
    from sklearn.neural_network import MLPClassifier

    return MLPClassifier((256,), early_stopping=True, random_state=seed)


def _drawn(seed: int) -> Any:
    from sklearn.dummy import DummyClassifier

    return DummyClassifier(strategy="stratified", random_state=seed)


_MODELS: dict[str, Callable[[int], Any]] = {
    "knn": _neighbours,
    "centroid": _centroids,
    "lda": _discriminants,
    "ridge": _least_squares,
    "mlp": _network,
    "prior": _drawn,
}


def takes_weights(kind: str) -> bool:
    """Whether a head of this name can weigh its rows, rather than only leave them out."""
    if kind in _MODELS or find_plugin("heads", kind) is None:
        return kind not in UNWEIGHED and kind.partition(":")[0] != ZERO_SHOT
    from sklearn.utils.validation import has_fit_parameter

    return bool(has_fit_parameter(_maker(kind)(0), "sample_weight"))


def _maker(kind: str) -> Callable[[int], Any]:
    """What makes a classifier from a seed; a plug-in's is a function of the seed that returns one.

    Raises `TrustqError` for an unknown kind.
    """
    if kind in _MODELS:
        return _MODELS[kind]
    plugin = find_plugin("heads", kind)
    if plugin is None:
        raise InputError(f"Unknown kind {kind!r}; there are {', '.join(KINDS)}.", expected=KINDS)
    make = plugin.load()

    def made(seed: int) -> Any:
        model = make(seed)
        plugin.require(
            hasattr(model, "fit") and hasattr(model, "predict_proba"),
            "classifier with fit and predict_proba",
        )
        return model

    return made
