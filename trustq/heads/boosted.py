"""The boosted head: gradient-boosted trees by XGBoost."""

from typing import Any, Self

import numpy as np

from trustq.errors import InputError
from trustq.heads.estimator import HeadEstimator
from trustq.heads.feature_cache import SharedFeatures, one_blas_thread

# Presets by name of head, over the defaults below. `xgboost_study` is what the HAM10000 study used.
PRESETS: dict[str, dict[str, Any]] = {
    "xgboost": {},
    "xgboost_study": {
        "trees": 500,
        "learning_rate": 0.05,
        "max_depth": 6,
        "min_child_weight": 3.0,
        "gamma": 0.1,
        "reg_alpha": 0.1,
        "max_bin": 256,
    },
}


class BoostedHead(HeadEstimator):
    """XGBoost on features; validation rows, where given, stop it early.

    Settings are XGBoost's. Bin edges come from all rows of the features, of which a fit may learn
    from some. With `components` above 0 trees see that many principal components of the rows that
    the fit learns from, and their bins are the fit's own. A class that the fit lacked keeps its
    column, as the objective is told the number of classes.

    >>> features = np.repeat(np.eye(3), 8, axis=0)
    >>> head = BoostedHead(n_classes=3, trees=5).fit(features, np.repeat([0, 1, 2], 8))
    >>> head.predict(np.eye(3)).tolist()
    [0, 1, 2]
    """

    def __init__(
        self,
        *,
        n_classes: int | None = None,
        trees: int = 200,
        learning_rate: float = 0.1,
        max_depth: int = 4,
        min_child_weight: float = 1.0,
        gamma: float = 0.0,
        reg_alpha: float = 0.0,
        reg_lambda: float = 1.0,
        subsample: float = 0.8,
        colsample_bytree: float = 0.8,
        max_bin: int = 64,  # XGBoost's 256 took 2.7 times as long and was no better on HAM10000
        components: int = 0,
        patience: int = 15,
        seed: int = 0,
    ) -> None:
        self.n_classes = n_classes
        self.trees = trees
        self.learning_rate = learning_rate
        self.max_depth = max_depth
        self.min_child_weight = min_child_weight
        self.gamma = gamma
        self.reg_alpha = reg_alpha
        self.reg_lambda = reg_lambda
        self.subsample = subsample
        self.colsample_bytree = colsample_bytree
        self.max_bin = max_bin
        self.components = components
        self.patience = patience
        self.seed = seed

    def fit(
        self,
        X: Any,
        y: Any,
        sample_weight: np.ndarray | None = None,
        validation: tuple[np.ndarray, np.ndarray] | None = None,
        **_: Any,
    ) -> Self:
        """Fit on (n, d) features and (n,) labels; `validation` holds both of other rows.

        Labels of validation rows are columns, as class indices are.
        `sample_weight`, (n,), is 0 for rows that the fit must not learn from. Shared features are
        binned once, whatever is fitted on them. Raises `TrustqError` where there are fewer features
        or rows than `components`.
        """
        import xgboost

        shared, labels, weights = self._given(X, y, sample_weight)
        self.axes_: np.ndarray | None = None
        if self.components:
            self._find_axes(shared.features[weights > 0])
            shared = SharedFeatures(self._seen(np.asarray(shared.features)))
        # A matrix carries labels, so while one fit holds it another has to use its own.
        used = weights > 0
        with shared.bins(self.max_bin, used) as bins:
            bins.set_info(label=labels[used], weight=weights[used])
            stop: dict[str, Any] = {}
            if validation is not None:
                held_out = xgboost.DMatrix(self._seen(validation[0]), validation[1])
                stop = {
                    "evals": [(held_out, "validation")],
                    "early_stopping_rounds": self.patience,
                    "verbose_eval": False,
                }
            self.booster_ = xgboost.train(
                self._parameters(), bins, num_boost_round=self.trees, **stop
            )
        best = self.booster_.best_iteration if stop else self.trees - 1
        self.n_trees_ = best + 1
        return self

    def predict_logits(self, features: np.ndarray) -> np.ndarray:
        """Logits, (n, n_classes) of float64."""
        margins = self.booster_.inplace_predict(
            self._seen(features), predict_type="margin", iteration_range=(0, self.n_trees_)
        )
        return np.asarray(margins, dtype=np.float64).reshape(len(features), self.n_columns)

    @property
    def n_bytes(self) -> int:
        """Bytes of the trees, as XGBoost stores them, and of the axes."""
        axes = 0 if self.axes_ is None else self.axes_.nbytes + self.center_.nbytes
        return len(self.booster_.save_raw("ubj")) + axes

    def _parameters(self) -> dict[str, Any]:
        own: dict[str, Any] = self.get_params()
        for name in ("n_classes", "trees", "components", "patience"):
            del own[name]
        return own | {
            "objective": "multi:softprob",
            "num_class": self.n_columns,
            "tree_method": "hist",
            "nthread": 1,  # sums, and so trees, depend on the number of threads
            "verbosity": 0,
        }

    def _find_axes(self, rows: np.ndarray) -> None:
        if self.components > min(rows.shape):
            raise InputError(
                f"components is {self.components}, and {rows.shape[0]} rows of {rows.shape[1]} "
                "features have fewer; choose fewer components.",
                where="components",
                found=self.components,
            )
        # The axes of the Gram matrix, ascending, as the linear heads have them.
        shared = SharedFeatures(rows)
        self.center_ = shared.center
        self.axes_ = shared.axes[:, : -self.components - 1 : -1]

    def _seen(self, features: np.ndarray) -> np.ndarray:
        """What the trees see of (n, d) features."""
        if self.axes_ is None:
            return features
        with one_blas_thread():
            centred = features - self.center_.astype(features.dtype)
            return np.asarray(centred @ self.axes_.astype(features.dtype))
