"""What packaging and serving need beyond the core, with one error that says what to install."""

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
