"""JSON that any reader takes."""

import json
import math
from typing import Any


def to_json(value: Any) -> str:
    """Indented JSON; NaN and infinities become null, which is what JSON has for them.

    >>> print(to_json({"risk_at_0_5": float("nan")}))
    {
      "risk_at_0_5": null
    }
    """
    return json.dumps(_finite(value), indent=2, ensure_ascii=False, allow_nan=False)


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key): _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    if hasattr(value, "item"):  # numpy's scalars
        value = value.item()
    return None if isinstance(value, float) and not math.isfinite(value) else value
