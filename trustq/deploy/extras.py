"""What packaging and serving need beyond the core, with one error that says what to install."""

import contextlib
import logging
from collections.abc import Iterator
from importlib import import_module
from typing import Any

from trustq.errors import MissingExtra

_EXTRA_OF = {
    "onnxruntime": "serve",
    "starlette": "serve",
    "uvicorn": "serve",
    "httptools": "serve",
    "onnx": "export",
    "onnxscript": "export",
}


def load_extra(module: str, what: str) -> Any:
    """A package of an optional extra; raises `TrustqError` that says what `what` needs.

    >>> load_extra("json", "Reading JSON").dumps([])
    '[]'
    """
    try:
        return import_module(module)
    except ImportError as error:
        extra = _EXTRA_OF.get(module.partition(".")[0], "gpu")
        raise MissingExtra(
            f"{what} needs {module} ({error}):\n  pip install 'trustq[{extra}]'"
        ) from error


def require_export() -> None:
    """Raise `TrustqError` where anything is missing that packaging needs."""
    for module in ("torch", "timm", "onnx", "onnxscript", "onnxruntime"):
        load_extra(module, "Packaging a model")


@contextlib.contextmanager
def errors_alone(logger: str | None = None) -> Iterator[None]:
    """Inside, a logger (None: the root, which some libraries warn through) lets errors pass alone.

    The root gets no handler by it: `logging.warning` gives it one where it has none.
    """
    loud, silent = logging.getLogger(logger), logging.NullHandler()
    level = loud.level
    loud.addHandler(silent)
    loud.setLevel(logging.ERROR)
    try:
        yield
    finally:
        loud.setLevel(level)
        loud.removeHandler(silent)
