"""The boosted head: gradient-boosted trees by XGBoost."""

from typing import Any, Self

import numpy as np
from sklearn.base import BaseEstimator, ClassifierMixin

from trustq.heads.shared import SharedFeatures


class BoostedHead(ClassifierMixin, BaseEstimator):
    """XGBoost on features; validation rows, where given, stop it early.

    Bin edges come from all rows of the features, of which a fit may learn from some. A class that
    the fit lacked keeps its column, as the objective is told the number of classes.

    >>> features = np.repeat(np.eye(3), 8, axis=0)
    >>> head = BoostedHead(n_classes=3, trees=5).fit(features, np.repeat([0, 1, 2], 8))
    >>> head.predict(np.eye(3)).tolist()
    [0, 1, 2]
    """

    def __init__(
        self,
        *,
        n_classes: int,
        trees: int = 200,
        learning_rate: float = 0.1,
        max_depth: int = 4,
        patience: int = 15,
        seed: int = 0,
    ) -> None:
        self.n_classes = n_classes
        self.trees = trees
        self.learning_rate = learning_rate
        self.max_depth = max_depth
        self.patience = patience
        self.seed = seed

    def fit(
        self,
        features: np.ndarray | SharedFeatures,
        labels: np.ndarray,
        *,
        sample_weight: np.ndarray | None = None,
        validation: tuple[np.ndarray, np.ndarray] | None = None,
        **_: Any,
    ) -> Self:
        """Fit on (n, d) features and (n,) class indices; `validation` holds both of other rows.

        `sample_weight`, (n,), is 0 for rows that the fit must not learn from. Shared features are
        binned once, whatever is fitted on them.
        """
        import xgboost

        shared = features if isinstance(features, SharedFeatures) else SharedFeatures(features)
        weights = np.ones(len(labels)) if sample_weight is None else np.asarray(sample_weight)
        weights = weights.astype(np.float32)
        self.classes_ = np.unique(labels[weights > 0])
        shared.bins.set_info(label=labels, weight=weights)
        parameters = {
            "objective": "multi:softprob",
            "num_class": self.n_classes,
            "learning_rate": self.learning_rate,
            "max_depth": self.max_depth,
            "tree_method": "hist",
            "subsample": 0.8,
            "colsample_bytree": 0.8,
            "seed": self.seed,
            "nthread": 1,  # sums, and so trees, depend on the number of threads
            "verbosity": 0,
        }
        stop: dict[str, Any] = {}
        if validation is not None:
            stop = {
                "evals": [(xgboost.DMatrix(validation[0], validation[1]), "validation")],
                "early_stopping_rounds": self.patience,
                "verbose_eval": False,
            }
        self.booster_ = xgboost.train(parameters, shared.bins, num_boost_round=self.trees, **stop)
        best = self.booster_.best_iteration if stop else self.trees - 1
        self.n_trees_ = best + 1
        return self

    def predict_logits(self, features: np.ndarray) -> np.ndarray:
        """Logits, (n, n_classes) of float64."""
        import xgboost

        margins = self.booster_.predict(
            xgboost.DMatrix(features), output_margin=True, iteration_range=(0, self.n_trees_)
        )
        return np.asarray(margins, dtype=np.float64).reshape(len(features), self.n_classes)

    def predict(self, features: np.ndarray) -> np.ndarray:
        """Class indices, (n,)."""
        return self.predict_logits(features).argmax(axis=1)
