"""Calibrators: temperature, also under label noise, and the registry of all of them."""

from typing import TYPE_CHECKING

from trustq.core.lazy import lazy_modules

if TYPE_CHECKING:
    from trustq.calibration.registry import *
    from trustq.calibration.temperature import *

__getattr__, __dir__ = lazy_modules(__name__, ["temperature", "registry"])
