"""All calibrators by name; those of other libraries in the form of ours.

netcal's and scikit-learn's work class by class and normalize, so predicted classes may change (2
to 4 % of rows when tried): report accuracy after them.
"""

import contextlib
import io
import warnings
from abc import abstractmethod
from collections.abc import Iterator
from importlib.util import find_spec
from typing import Any, Self

import numpy as np
from threadpoolctl import threadpool_limits

from trustq.calibration.temperature import Calibrator, TemperatureScaling, VectorScaling
from trustq.core.estimator import Classifier
from trustq.core.plugins import Plugin, find_plugin, plugin_names
from trustq.errors import InputError, MissingExtra, TrustqError
from trustq.metrics.probabilities import PROBABILITY_FLOOR, log_softmax_of_rows

NETCAL_METHODS = ("isotonic", "beta", "histogram", "bbq", "enir")
SKLEARN_METHODS = ("sigmoid", "isotonic", "temperature")
NAMES = (
    "temperature",
    "vector",
    *(f"netcal-{method}" for method in NETCAL_METHODS),
    *(f"sklearn-{method}" for method in SKLEARN_METHODS),
)


def make_calibrator(name: str, *, accept_noisy: bool = False) -> Calibrator:
    """A calibrator by its name on the command line: one of `NAMES`, or a plug-in's.

    >>> make_calibrator("netcal-beta")
    NetcalCalibration(method='beta')
    """
    plugin = None if name in NAMES else find_plugin("calibrators", name)
    if plugin is not None:
        return PluginCalibration(name, accept_noisy=accept_noisy)
    if name not in NAMES:
        known = (*NAMES, *plugin_names("calibrators", taken=NAMES))
        raise InputError(
            f"calibrator {name!r} is unknown: expected one of {', '.join(known)}.",
            expected=known,
            found=name,
        )
    library, _, method = name.partition("-")
    if library == "netcal":
        return NetcalCalibration(method, accept_noisy=accept_noisy)
    if library == "sklearn":
        return SklearnCalibration(method, accept_noisy=accept_noisy)
    kind = TemperatureScaling if name == "temperature" else VectorScaling
    return kind(accept_noisy=accept_noisy)


def require_library(name: str) -> None:
    """Raise `TrustqError` for a calibrator of a library that is not installed; imports nothing."""
    library, _, method = name.partition("-")
    if library == "netcal" and find_spec("netcal") is None:
        raise _no_netcal(method)


class _OfProbabilities(Calibrator):
    """A calibrator that maps probabilities to probabilities."""

    def transform(self, logits: np.ndarray) -> np.ndarray:
        """Logarithms of the calibrated probabilities, clipped at 1e-12, (n, k)."""
        return np.asarray(np.log(np.maximum(self.predict_proba(logits), PROBABILITY_FLOOR)))

    def predict_proba(self, logits: np.ndarray) -> np.ndarray:
        """Calibrated probabilities, (n, k); uniform where no class has any."""
        probs = np.maximum(self._map(self._checked_transform(logits)), 0.0)
        sums = probs.sum(axis=1, keepdims=True)
        uniform = 1 / probs.shape[1]
        return np.asarray(np.where(sums > 0, probs / np.where(sums > 0, sums, 1.0), uniform))

    @abstractmethod
    def _map(self, logits: np.ndarray) -> np.ndarray:
        """Probabilities, (n, k), before they are clipped and normed."""


HISTOGRAM_BINS = 15


class _OfLibrary(_OfProbabilities):
    """A calibrator of another library, by the name of its `method`."""

    _library: str
    _methods: tuple[str, ...]

    def __init__(self, method: str, *, accept_noisy: bool = False) -> None:
        self.method = method
        self.accept_noisy = accept_noisy

    def fit(self, logits: np.ndarray, labels: np.ndarray, *, labels_used: str = "clean") -> Self:
        """Fit on rows that trained nothing; returns the estimator."""
        if self.method not in self._methods:
            raise InputError(
                f"method is {self.method!r}: expected one of {', '.join(self._methods)}.",
                where="method",
                found=self.method,
                expected=self._methods,
            )
        logits, labels = self._checked_fit(logits, labels, labels_used)
        if (labels == labels[0]).all():
            raise InputError(
                f"Every fitting row has label {labels[0]}, but {self._library}'s calibrators "
                "compare a class with the others: pass rows of two classes, or use temperature "
                "scaling."
            )
        self._learn(logits, labels)
        return self

    @abstractmethod
    def _learn(self, logits: np.ndarray, labels: np.ndarray) -> None:
        """Fit the library's model."""


class NetcalCalibration(_OfLibrary):
    """A binning or scaling method of netcal, class by class: isotonic, beta, histogram, BBQ, ENIR.

    `method` is one of isotonic, beta, histogram (15 bins), bbq and enir. A class without fitting
    rows gets probability 0. Needs `pip install 'trustq[calibration]'`, which brings torch.
    Küppers et al. (2020).
    """

    model_: Any
    _library = "netcal"
    _methods = NETCAL_METHODS

    def _learn(self, logits: np.ndarray, labels: np.ndarray) -> None:
        model = _netcal_model(self.method)
        # netcal's beta calibration is thousands of tiny steps: .5 s on one thread, 15 s on two when
        # both cores were busy.
        try:
            with _quiet(), threadpool_limits(limits=1):
                model.fit(_probabilities(logits, self.method), labels)
        except (ValueError, IndexError, ArithmeticError, AttributeError) as error:
            raise InputError(
                f"netcal's {self.method} cannot be fitted on these {len(labels)} rows "
                f"({' '.join(str(error).split())}), as where scores part a class from the others "
                "without an error: use temperature, or pass more rows."
            ) from error
        self.model_ = model

    def _map(self, logits: np.ndarray) -> np.ndarray:
        with _quiet():
            probs = np.asarray(
                self.model_.transform(_probabilities(logits, self.method)), dtype=float
            )
        # Of two classes netcal returns the second alone.
        probs = np.nan_to_num(probs)
        return np.stack([1 - probs, probs], axis=1) if probs.ndim == 1 else probs


def _probabilities(logits: np.ndarray, method: str) -> np.ndarray:
    """Probabilities as netcal takes them.

    Its histogram counts a value on the edge of two bins to the upper one as it is fitted and to the
    lower one as it is applied; such values are moved below the edge, so that both are the lower.
    """
    probs: np.ndarray = np.exp(log_softmax_of_rows(logits))
    if method == "histogram":
        steps = probs * HISTOGRAM_BINS
        edge = np.round(steps)
        on_edge = (np.abs(steps - edge) < 1e-9) & (edge > 0) & (edge < HISTOGRAM_BINS)
        probs = np.where(on_edge, (edge - 1e-6) / HISTOGRAM_BINS, probs)
    return probs


class SklearnCalibration(_OfLibrary):
    """scikit-learn's CalibratedClassifierCV on given logits: sigmoid, isotonic or temperature.

    sigmoid (Platt) and isotonic are one-vs-rest and normalized; temperature needs scikit-learn 1.8.
    A class without fitting rows gets probability 0. Platt (1999); Zadrozny and Elkan (2002).
    """

    model_: Any
    _library = "scikit-learn"
    _methods = SKLEARN_METHODS

    def _learn(self, logits: np.ndarray, labels: np.ndarray) -> None:
        from sklearn.calibration import CalibratedClassifierCV
        from sklearn.frozen import FrozenEstimator

        # One split whose test part is everything, because the logits are already out of sample.
        rows = np.arange(len(labels))
        frozen = FrozenEstimator(_Logits().fit(logits, labels))
        self.model_ = CalibratedClassifierCV(frozen, method=self.method, cv=[(rows, rows)])
        self.model_.fit(logits, labels)
        self.seen_classes_ = np.unique(labels)

    def _map(self, logits: np.ndarray) -> np.ndarray:
        probs = np.zeros(logits.shape)
        probs[:, self.seen_classes_] = self.model_.predict_proba(logits)
        return probs


class PluginCalibration(_OfProbabilities):
    """A calibrator of another package, by its name under the entry points trustq.calibrators.

    The entry point is called and gives an object with `fit(logits, labels)`, labels as columns, and
    `predict_proba(logits)`, (n, k).
    """

    model_: Any

    def __init__(self, name: str, *, accept_noisy: bool = False) -> None:
        self.name = name
        self.accept_noisy = accept_noisy

    def fit(
        self, logits: np.ndarray, labels: np.ndarray, *, labels_used: str = "clean"
    ) -> "PluginCalibration":
        """Fit on rows that trained nothing; returns the estimator."""
        plugin = self._plugin()
        logits, labels = self._checked_fit(logits, labels, labels_used)
        model = plugin.load()()
        plugin.require(
            hasattr(model, "fit") and hasattr(model, "predict_proba"),
            "calibrator with fit and predict_proba",
        )
        model.fit(logits.copy(), labels.copy())
        self.model_ = model
        return self

    def _map(self, logits: np.ndarray) -> np.ndarray:
        probs = np.asarray(self.model_.predict_proba(logits.copy()), dtype=np.float64)
        self._plugin().require(
            probs.shape == logits.shape and bool(np.isfinite(probs).all()),
            f"finite probabilities of shape {logits.shape}",
        )
        return probs

    def _plugin(self) -> Plugin:
        plugin = find_plugin("calibrators", self.name)
        if plugin is None:
            raise InputError(f"There is no plug-in calibrator {self.name!r}.", found=self.name)
        return plugin


class _Logits(Classifier):
    """A classifier whose decision function is its input."""

    def fit(self, logits: np.ndarray, labels: np.ndarray) -> "_Logits":
        self.classes_ = np.unique(labels)
        return self

    def decision_function(self, logits: np.ndarray) -> np.ndarray:
        chosen = log_softmax_of_rows(logits)[:, self.classes_]
        return chosen[:, 1] - chosen[:, 0] if chosen.shape[1] == 2 else chosen

    def predict(self, logits: np.ndarray) -> np.ndarray:
        return np.asarray(self.classes_[logits[:, self.classes_].argmax(axis=1)])


def _netcal_model(method: str) -> Any:
    try:
        from netcal import binning, scaling
    except ImportError as error:
        raise _no_netcal(method) from error
    makers = {
        "isotonic": binning.IsotonicRegression,
        "beta": scaling.BetaCalibration,
        "histogram": lambda: binning.HistogramBinning(bins=HISTOGRAM_BINS),
        "bbq": binning.BBQ,
        "enir": binning.ENIR,
    }
    return makers[method]()


def _no_netcal(method: str) -> TrustqError:
    return MissingExtra(
        f"The {method} calibrator is netcal's, which is not installed: "
        "pip install 'trustq[calibration]'."
    )


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    # netcal prints its progress, and its libraries warn of their own deprecations.
    with (
        contextlib.redirect_stdout(io.StringIO()),
        contextlib.redirect_stderr(io.StringIO()),
        warnings.catch_warnings(),
    ):
        warnings.simplefilter("ignore")
        yield
