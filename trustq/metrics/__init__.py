"""Figures of predictions: classification, per class, selective prediction, calibration error."""

from typing import TYPE_CHECKING

from trustq.core.lazy import lazy_modules

if TYPE_CHECKING:
    from trustq.metrics.aurc_conventions import *
    from trustq.metrics.calibration_error import *
    from trustq.metrics.classification import *
    from trustq.metrics.confidence import *
    from trustq.metrics.confident_joint import *
    from trustq.metrics.ece_conventions import *
    from trustq.metrics.label_shift import *
    from trustq.metrics.per_class import *
    from trustq.metrics.probabilities import *
    from trustq.metrics.selective import *

__getattr__, __dir__ = lazy_modules(
    __name__,
    [
        "classification",
        "per_class",
        "selective",
        "confidence",
        "confident_joint",
        "calibration_error",
        "ece_conventions",
        "label_shift",
        "probabilities",
        "aurc_conventions",
    ],
)
