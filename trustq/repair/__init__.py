"""Repair: arms, policies and the loop that buys labels; pure, nothing is written.

The package can be called, for `trustq.repair(caches, recipe=...)` of the Python door has its name.
"""

import importlib
import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

from trustq.core.lazy import lazy_names

if TYPE_CHECKING:
    from trustq.repair.arms import Arm, parse_arm
    from trustq.repair.setup import Experiment, draw_experiment

__all__ = ["Arm", "Experiment", "draw_experiment", "parse_arm"]

# Pages of results need what repair calls its noise, and not the heads that it fits.
__getattr__, __dir__ = lazy_names(
    __name__,
    {
        "Arm": "trustq.repair.arms",
        "Experiment": "trustq.repair.setup",
        "draw_experiment": "trustq.repair.setup",
        "parse_arm": "trustq.repair.arms",
    },
)


class _Callable(ModuleType):
    def __call__(self, caches: Any, **options: Any) -> Any:
        """`trustq.api.experiments.repair`, which says what it takes and returns."""
        return importlib.import_module("trustq.api.experiments").repair(caches, **options)

    @property
    def __signature__(self) -> Any:
        import inspect

        return inspect.signature(importlib.import_module("trustq.api.experiments").repair)


sys.modules[__name__].__class__ = _Callable
