"""The texts of answers: one file in the package, a copy in every packaged model."""

import tomllib
from importlib import resources
from typing import Any


def read_texts() -> dict[str, Any]:
    """Every text that a reader of an answer is told, as `texts.toml` has them.

    >>> read_texts()["urgency"]["urgent"]["within"]
    '2 weeks'
    """
    text = resources.files("trustq.deploy").joinpath("texts.toml").read_text(encoding="utf-8")
    return tomllib.loads(text)
