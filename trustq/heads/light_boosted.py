"""The lighter boosted head: gradient-boosted trees by LightGBM, an extra."""

from importlib.util import find_spec
from typing import Any, Self

import numpy as np

from trustq.errors import MissingExtra
from trustq.heads.estimator import HeadEstimator

LIGHT = "lightgbm"  # its name


class LightBoostedHead(HeadEstimator):
    """LightGBM on features; validation rows, where given, stop it early.

    Settings have the names of XGBoost's. Trees look at `colsample_bytree` of the features and bins
    are made of all rows, once for all fits on the same `SharedFeatures`, of which a fit may learn
    from some: 25 fits took a quarter to a third of the processor time of XGBoost's at no higher log
    loss (`tests/benchmarks/results_heads.md`). A class that the fit lacked keeps its column. Raises
    `MissingExtra` where LightGBM is not installed.
    """

    def __init__(
        self,
        *,
        n_classes: int | None = None,
        trees: int = 200,
        # XGBoost counts curvatures twice: its .1 steps as .058 does here.
        learning_rate: float = 0.07,
        max_depth: int = 4,
        min_child_weight: float = 1.0,
        reg_lambda: float = 1.0,
        subsample: float = 0.8,
        # Fewer cost log loss on CLIP features, more cost time: histograms are made of these alone.
        colsample_bytree: float = 0.3,
        max_bin: int = 31,
        patience: int = 15,
        seed: int = 0,
    ) -> None:
        self.n_classes = n_classes
        self.trees = trees
        self.learning_rate = learning_rate
        self.max_depth = max_depth
        self.min_child_weight = min_child_weight
        self.reg_lambda = reg_lambda
        self.subsample = subsample
        self.colsample_bytree = colsample_bytree
        self.max_bin = max_bin
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
        `sample_weight`, (n,), is 0 for rows that the fit must not learn from.
        """
        require_lightgbm()
        import lightgbm

        shared, labels, weights = self._given(X, y, sample_weight)
        used = weights > 0
        with shared.light_bins(self.max_bin, used) as bins:
            bins.set_label(labels[used]).set_weight(weights[used])
            stop: dict[str, Any] = {}
            if validation is not None:
                held_out = bins.create_valid(
                    _readable(validation[0]), validation[1], params=bins.get_params()
                )
                stop = {
                    "valid_sets": [held_out],
                    "callbacks": [lightgbm.early_stopping(self.patience, verbose=False)],
                }
            self.booster_ = lightgbm.train(
                self._parameters(), bins, num_boost_round=self.trees, **stop
            )
        self.n_trees_ = self.booster_.best_iteration if stop else self.trees
        self.booster_.free_dataset()
        return self

    def predict_logits(self, features: np.ndarray) -> np.ndarray:
        """Logits, (n, n_classes) of float64."""
        margins = self.booster_.predict(
            _readable(features), raw_score=True, num_iteration=self.n_trees_, num_threads=1
        )
        return np.asarray(margins, dtype=np.float64).reshape(len(features), self.n_columns)

    @property
    def n_bytes(self) -> int:
        """Bytes of the trees, as LightGBM stores them."""
        return len(self.booster_.model_to_string(num_iteration=self.n_trees_).encode())

    def _parameters(self) -> dict[str, Any]:
        own: dict[str, Any] = self.get_params()
        for name in ("n_classes", "trees", "patience"):
            del own[name]
        return own | {
            "objective": "multiclass",
            "num_class": self.n_columns,
            "num_leaves": 2**self.max_depth,
            "min_child_samples": 1,  # the weight in a leaf bounds it, as with XGBoost
            "subsample_freq": 1,
            "force_col_wise": True,
            "deterministic": True,
            "num_threads": 1,  # sums, and so trees, depend on the number of threads
            "verbosity": -1,
        }


def require_lightgbm() -> None:
    """Raise `MissingExtra` where LightGBM is not installed."""
    if find_spec("lightgbm") is None:
        raise MissingExtra(
            "The lightgbm head needs LightGBM: pip install 'trustq[lightgbm]', or take xgboost."
        )


def _readable(features: np.ndarray) -> np.ndarray:
    """Features as LightGBM reads them: it knows no half precision."""
    return features.astype(np.float32) if features.dtype == np.float16 else features
