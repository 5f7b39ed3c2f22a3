"""The linear head: multinomial logistic regression with an L2 penalty."""

import warnings
from collections.abc import Sequence
from typing import Any, NamedTuple, Self

import numpy as np

from trustq.errors import InputError, TrustqError
from trustq.heads.estimator import HeadEstimator
from trustq.heads.feature_cache import SharedFeatures, products
from trustq.heads.multinomial import Memory, MultinomialFits, fit_multinomial
from trustq.metrics.probabilities import log_softmax

# log p of a class that the fit did not see, beside a normalizer near 0: its column is there, its
# probability negligible, and the log loss of a row of that class finite.
ABSENT_LOG_PROBABILITY = np.log(1e-12)


class LinearHead(HeadEstimator):
    """Logistic regression on features, with a column for every class even if the fit lacked it.

    `C` is scikit-learn's inverse penalty; `max_iter` bounds the evaluations of the objective;
    `class_weight` is `balanced`, a dict by label, or an array by column.
    Features are float32 (n, d), best standardised. Labels are of any kind; with `n_classes` they
    are class indices, and classes that the fit lacks have a column too.

    >>> features = np.array([[0.0], [1.0], [2.0], [3.0]], dtype=np.float32)
    >>> head = LinearHead(n_classes=3, C=1.0).fit(features, np.array([0, 0, 2, 2]))
    >>> head.predict_logits(features).argmax(axis=1).tolist()
    [0, 0, 2, 2]
    >>> LinearHead().fit(features, ["nv", "nv", "mel", "mel"]).predict([[0.5]]).tolist()
    ['nv']
    """

    def __init__(
        self,
        *,
        n_classes: int | None = None,
        C: float = 1.0,
        max_iter: int = 2000,
        class_weight: Any = None,
    ) -> None:
        self.n_classes = n_classes
        self.C = C
        self.max_iter = max_iter
        self.class_weight = class_weight

    def fit(
        self,
        X: Any,
        y: Any,
        sample_weight: np.ndarray | None = None,
        **_: Any,
    ) -> Self:
        """Fit on (n, d) features and (n,) labels; raises `TrustqError` if not converged."""
        features, columns = self._taught(X, y)
        weights = self._weighed(sample_weight, len(columns))
        shared = features if isinstance(features, SharedFeatures) else SharedFeatures(features)
        fit_together([self], shared, columns[None], used=None if weights is None else weights[None])
        return self

    def predict_logits(self, features: np.ndarray) -> np.ndarray:
        """Logits, (n, n_classes) of float64."""
        logits = products(features, self.coef_) + self.intercept_
        absent = np.isneginf(self.intercept_)
        if absent.any():
            highest = logits.max(axis=1, keepdims=True)
            logits[:, absent] = highest + ABSENT_LOG_PROBABILITY
        return np.asarray(logits)

    @property
    def n_bytes(self) -> int:
        """Bytes of coefficients and intercepts."""
        return int(self.coef_.nbytes + self.intercept_.nbytes)

    @property
    def n_iter_(self) -> int:
        """Evaluations of the objective, as scikit-learn calls them."""
        return self.n_evaluations_

    def forget(self) -> None:
        """Drop what would quicken a fit that starts from this one: a weight a class and row."""
        self._memory: Memory | None = None

    @property
    def class_weights(self) -> Any:
        """`class_weight` as the solver takes it: by column, or balanced, or None."""
        if not isinstance(self.class_weight, dict):
            return self.class_weight
        return np.array([self.class_weight.get(label, 1.0) for label in self.classes_.tolist()])

    def _take(self, fits: MultinomialFits, i: int) -> Self:
        self.coef_, self.intercept_ = fits.coef[i], fits.intercept[i]
        self.seen_classes_ = np.flatnonzero(fits.present[i])
        self.n_features_in_ = self.coef_.shape[1]
        if self.n_classes is not None:
            self.classes_ = np.arange(self.n_classes)
        self._memory = fits.memory[i]  # quickens a fit that starts from this one
        self.n_evaluations_ = int(fits.n_evaluations[i])
        return self


def fit_together(
    heads: Sequence[LinearHead],
    features: SharedFeatures,
    labels: np.ndarray,
    *,
    used: np.ndarray | None = None,
    start: Sequence[LinearHead] | None = None,
    tolerance: float | None = None,
) -> None:
    """Fit p heads at once, each with its own `C` on its own labels of the same features.

    `labels` is (p, n) of class indices; `used`, (p, n), says which rows a head learns from, or
    weighs them. `start` holds p heads fitted earlier on the same features; `tolerance` is
    `fit_multinomial`'s. All else that the heads are set to must be the same; raises `TrustqError`
    if not, or if one does not converge.
    """
    settings = [head.get_params() | {"C": None} for head in heads]
    if any(own != settings[0] for own in settings):
        raise InputError("Heads that are fitted together may differ in C alone.")
    penalties = [head.C for head in heads]
    with warnings.catch_warnings():
        # Told below, by its own C. By its text, as its class would load scikit-learn.
        warnings.filterwarnings("ignore", message=r"\d+ of \d+ logistic regressions")
        fits = fit_multinomial(
            features,
            labels,
            n_classes=heads[0].n_columns,
            penalties=penalties,
            weights=used,
            class_weights=heads[0].class_weights,
            start=None if start is None else _solutions(start),
            tolerance=tolerance,
            max_evaluations=heads[0].max_iter,
        )
    if not fits.converged.all():
        raise TrustqError(
            f"The linear head did not converge in {heads[0].max_iter} iterations at C = "
            f"{penalties[int(fits.converged.argmin())]:g}; choose a smaller C "
            "(`regularisation=0.01`)."
        )
    for i, head in enumerate(heads):
        head._take(fits, i)


class PenaltyPath(NamedTuple):
    """Heads over penalties, their log loss on validation, and the best of them."""

    heads: list[LinearHead]
    log_losses: np.ndarray  # (p,)
    best: LinearHead


def fit_penalty_path(
    features: np.ndarray | SharedFeatures,
    labels: np.ndarray,
    *,
    n_classes: int,
    penalties: Sequence[float],
    validation: tuple[np.ndarray, np.ndarray],
) -> PenaltyPath:
    """Fit a linear head per penalty (scikit-learn's C) at once; best by log loss on validation.

    `features` is (n, d) and `labels` (n,); `validation` holds both of other rows. Of equal losses
    the earlier penalty is taken. Raises `TrustqError` if a fit does not converge.

    >>> features = np.array([[0.0], [1.0], [2.0], [3.0]])
    >>> labels = np.array([0, 1, 0, 1])
    >>> path = fit_penalty_path(
    ...     features, labels, n_classes=2, penalties=[0.01, 1.0], validation=(features, labels)
    ... )
    >>> path.best.C
    1.0
    """
    shared = features if isinstance(features, SharedFeatures) else SharedFeatures(features)
    heads = [LinearHead(n_classes=n_classes, C=c) for c in penalties]
    fit_together(heads, shared, np.broadcast_to(labels, (len(heads), len(labels))))
    rows, truth = np.arange(len(validation[1])), validation[1].astype(np.int64)
    log_losses = np.array(
        [-log_softmax(head.predict_logits(validation[0]))[rows, truth].mean() for head in heads]
    )
    return PenaltyPath(heads, log_losses, heads[int(log_losses.argmin())])


def _solutions(heads: Sequence[LinearHead]) -> MultinomialFits:
    nothing = np.zeros(len(heads))
    return MultinomialFits(
        coef=np.array([head.coef_ for head in heads]),
        intercept=np.array([head.intercept_ for head in heads]),
        present=np.array([np.isfinite(head.intercept_) for head in heads]),
        objective=nothing,
        decrease=nothing,
        n_evaluations=nothing,
        converged=nothing,
        memory=tuple(head._memory for head in heads),
    )
