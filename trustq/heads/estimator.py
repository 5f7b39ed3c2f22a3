"""What every head shares with scikit-learn's classifiers: any labels in, probabilities out."""

from typing import Any

import numpy as np

from trustq.core.estimator import Classifier, require_fitted
from trustq.errors import InputError
from trustq.heads.feature_cache import SharedFeatures
from trustq.metrics.probabilities import log_softmax, softmax

FLOATS = [np.float64, np.float32, np.float16]


class HeadEstimator(Classifier):
    """A head whose labels are class indices below `n_classes`, or without it anything.

    `classes_` has the label of every column; `seen_classes_` are the columns whose class the fit
    saw. A head of a given `n_classes` has a column for classes that its labels lack.
    """

    n_classes: int | None
    classes_: np.ndarray
    seen_classes_: np.ndarray

    def predict_logits(self, features: np.ndarray) -> np.ndarray:
        """Logits, (n, columns) of float64."""
        raise NotImplementedError

    def predict_proba(self, features: Any) -> np.ndarray:
        """Probabilities of (n, d) features, (n, columns), in the order of `classes_`."""
        return softmax(self.predict_logits(self._checked(features)))

    def predict_log_proba(self, features: Any) -> np.ndarray:
        """Logarithms of the probabilities, (n, columns)."""
        return log_softmax(self.predict_logits(self._checked(features)))

    def predict(self, features: Any) -> np.ndarray:
        """The most probable label of each row, (n,)."""
        logits = self.predict_logits(self._checked(features))
        return np.asarray(self.classes_[logits.argmax(axis=1)])

    @property
    def n_columns(self) -> int:
        """Classes that it tells apart."""
        return len(self.classes_) if self.n_classes is None else self.n_classes

    def _taught(self, features: Any, labels: Any) -> tuple[np.ndarray | SharedFeatures, np.ndarray]:
        """Features and labels of a fit, checked; labels as columns."""
        if isinstance(features, SharedFeatures):
            self.n_features_in_ = features.shape[1]
            labels = np.asarray(labels)
        else:
            from sklearn.utils.validation import validate_data

            features, labels = validate_data(self, features, labels, dtype=FLOATS)
        if self.n_classes is not None:
            self.classes_ = np.arange(self.n_classes)
            return features, labels
        from sklearn.utils.multiclass import check_classification_targets

        check_classification_targets(labels)
        self.classes_, columns = np.unique(labels, return_inverse=True)
        if len(self.classes_) < 2:
            raise InputError(
                f"labels hold one class, {self.classes_[0]!r}; a head tells two or more apart."
            )
        return features, columns

    def _given(
        self, features: Any, labels: Any, sample_weight: Any
    ) -> tuple[SharedFeatures, np.ndarray, np.ndarray]:
        """Shared features of a fit, its labels as columns, and what rows weigh, both (n,)."""
        features, labels = self._taught(features, labels)
        weights = self._weighed(sample_weight, len(labels))
        if weights is None:
            weights = np.ones(len(labels))
        self.seen_classes_ = np.unique(labels[weights > 0])
        shared = features if isinstance(features, SharedFeatures) else SharedFeatures(features)
        return shared, labels, weights

    def _weighed(self, sample_weight: Any, n: int) -> np.ndarray | None:
        """Weights of a fit's rows, (n,), or None where every row counts 1."""
        if sample_weight is None:
            return None
        weights = np.asarray(sample_weight)
        if weights.shape != (n,):
            raise InputError(f"sample_weight has shape {weights.shape}, labels ({n},).")
        if not weights.any():
            raise InputError("All of sample_weight is zero: there is no row to learn from.")
        return weights

    def _checked(self, features: Any) -> np.ndarray:
        from sklearn.utils.validation import validate_data

        require_fitted(self)
        return np.asarray(validate_data(self, features, dtype=FLOATS, reset=False))
