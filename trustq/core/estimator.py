"""scikit-learn's contract for classifiers, without loading scikit-learn before it is needed.

A base class of scikit-learn's takes two of the three seconds in which `trustq repair` started. Its
contract is small: parameters by name, tags, a score, metadata requests. `check_estimator` holds it.
"""

import inspect
from typing import Any, Self

import numpy as np


class Classifier:
    """A classifier whose parameters are the keywords of its `__init__`, as scikit-learn wants it.

    What is learned ends in an underscore; `classes_` has the label of every column.

    >>> class Constant(Classifier):
    ...     def __init__(self, *, label: int = 0, seed: int = 0) -> None:
    ...         self.label, self.seed = label, seed
    >>> Constant(label=3), Constant().set_params(label=1).get_params()
    (Constant(label=3), {'label': 1, 'seed': 0})
    """

    @classmethod
    def _parameters_of_init(cls) -> dict[str, Any]:
        """Each parameter's default, by name in alphabetical order, as scikit-learn lists them."""
        found = inspect.signature(cls).parameters
        return {name: found[name].default for name in sorted(found)}

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        """Parameters by name; `deep` adds those of parameters that are estimators themselves."""
        own = {name: getattr(self, name) for name in self._parameters_of_init()}
        inner = {
            f"{name}__{key}": part
            for name, value in own.items()
            if deep and hasattr(value, "get_params") and not isinstance(value, type)
            for key, part in value.get_params().items()
        }
        return own | inner

    def set_params(self, **params: Any) -> Self:
        """Set parameters by name, or `name__inner` of one that is an estimator; returns itself."""
        known = self._parameters_of_init()
        for key, value in params.items():
            name, nested, inner = key.partition("__")
            if name not in known:
                raise ValueError(  # scikit-learn's, which its searches and pipelines expect
                    f"Invalid parameter {name!r} for estimator {self}. "
                    f"Valid parameters are: {list(known)!r}."
                )
            if nested:
                getattr(self, name).set_params(**{inner: value})
            else:
                setattr(self, name, value)
        return self

    def predict(self, X: Any) -> np.ndarray:
        """The most probable label of each row, (n,)."""
        raise NotImplementedError

    def score(self, X: Any, y: Any, sample_weight: Any = None) -> float:
        """Accuracy of the predictions for `X` beside labels `y`, in [0, 1]."""
        from sklearn.metrics import accuracy_score

        return float(accuracy_score(y, self.predict(X), sample_weight=sample_weight))

    def get_metadata_routing(self) -> Any:
        """Which of `sample_weight` and the like scikit-learn's pipelines shall pass on."""
        from sklearn.utils.metadata_routing import MetadataRequest

        if not hasattr(self, "_metadata_request"):
            request = MetadataRequest(owner=self)
            for method in ("fit", "score"):
                if "sample_weight" in inspect.signature(getattr(self, method)).parameters:
                    getattr(request, method).add_request(param="sample_weight", alias=None)
            self._metadata_request = request
        return self._metadata_request

    def set_fit_request(self, *, sample_weight: bool | str | None) -> Self:
        """Ask pipelines with metadata routing for `sample_weight` in `fit`; returns itself."""
        self.get_metadata_routing().fit.add_request(param="sample_weight", alias=sample_weight)
        return self

    def set_score_request(self, *, sample_weight: bool | str | None) -> Self:
        """Ask pipelines with metadata routing for `sample_weight` in `score`; returns itself."""
        self.get_metadata_routing().score.add_request(param="sample_weight", alias=sample_weight)
        return self

    def __sklearn_tags__(self) -> Any:
        from sklearn.utils import ClassifierTags, Tags, TargetTags

        return Tags(
            estimator_type="classifier",
            target_tags=TargetTags(required=True),
            classifier_tags=ClassifierTags(),
        )

    def __repr__(self) -> str:
        own = self.get_params(deep=False)
        changed = [
            f"{name}={own[name]!r}"
            for name, default in self._parameters_of_init().items()
            if default is inspect.Parameter.empty or not _same(own[name], default)
        ]
        return f"{type(self).__name__}({', '.join(changed)})"

    def _repr_html_(self) -> str:
        from sklearn.utils import estimator_html_repr

        return str(estimator_html_repr(self))


def require_fitted(estimator: Classifier) -> None:
    """Raise scikit-learn's NotFittedError where an estimator has learned no classes yet."""
    if not hasattr(estimator, "classes_"):
        from sklearn.exceptions import NotFittedError

        raise NotFittedError(
            f"This {type(estimator).__name__} instance is not fitted yet. Call 'fit' with "
            "appropriate arguments before using this estimator."
        )


def _same(value: Any, default: Any) -> bool:
    # By the text, as an array beside None has no truth of its own.
    return type(value) is type(default) and repr(value) == repr(default)
