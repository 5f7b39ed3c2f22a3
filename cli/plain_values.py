"""Values of options that are plain texts, paths and numbers, read without Typer's machinery.

Typer 0.29 imports pydantic and makes an adapter of it for each option of a command that runs, given
or not: 80 ms of processor time at every start, as much as a query takes. What is read here is what
Typer makes of it; all else is left to Typer, and its errors with it.
"""

import functools
import os
import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, get_args, get_origin, get_type_hints

from typer.models import OptionInfo

# Settings of an option that say how its words are read, beside its type.
_READ_BY = (
    *("parser", "click_type", "min", "max", "clamp", "exists", "file_okay", "dir_okay"),
    *("writable", "readable", "resolve_path", "allow_dash", "path_type"),
)
_NUMBERS: dict[Any, re.Pattern[str]] = {
    int: re.compile("-?[0-9]{1,15}"),
    float: re.compile(r"-?[0-9]{1,15}(\.[0-9]{1,15})?"),
}


class PlainValues:
    """A command or group of Typer, before whose class it stands, that reads plain values itself."""

    params: list[Any]
    callback: Any

    def get_params(self, ctx: Any) -> list[Any]:
        """The options and arguments, --help among them."""
        found: list[Any] = super().get_params(ctx)  # type: ignore[misc]
        if new := [param for param in found if "process_value" not in vars(param)]:
            read_plainly(new, _plain_kinds(self.callback) if self.callback else {})
        return found


def read_plainly(params: Iterable[Any], kinds: Mapping[str, Any]) -> None:
    """Let options and arguments of Typer read plain values of their types by name."""
    for param in params:
        param.process_value = functools.partial(
            _value, param, kinds.get(param.name), param.process_value
        )


def _plain_kinds(function: Any) -> dict[str, Any]:
    """Types of the options of a command whose words are read by their type alone."""
    usual = OptionInfo()
    kinds = {}
    for name, hint in get_type_hints(function, include_extras=True).items():
        kind, *notes = get_args(hint) if get_origin(hint) is Annotated else (hint,)
        inner = [one for one in get_args(kind) if one is not type(None)]
        if isinstance(kind, UnionType) and len(inner) == 1:
            kind = inner[0]
        if all(getattr(n, a, None) == getattr(usual, a, None) for n in notes for a in _READ_BY):
            kinds[name] = kind
    return kinds


def _value(param: Any, kind: Any, read: Callable[[Any, Any], Any], ctx: Any, given: Any) -> Any:
    many = param.multiple or param.nargs == -1
    if given is None and not param.required:
        value: Any = () if many else None
        return value if param.callback is None else param.callback(ctx, param, value)
    value = None
    if param.callback is None and given:
        if not many:
            value = _plain(kind, given)
        elif get_origin(kind) is list and isinstance(given, (list, tuple)):
            values = [_plain(get_args(kind)[0], one) for one in given]
            value = None if None in values else values
    return read(ctx, given) if value is None else value


def _plain(kind: Any, given: Any) -> Any:
    """A text or default as its type; None where that takes more than its type."""
    if kind in _NUMBERS and isinstance(given, str):
        return kind(given) if _NUMBERS[kind].fullmatch(given) else None
    if kind in _NUMBERS:
        return given if type(given) is kind else None
    if kind is str and isinstance(given, str) and _is_text(given):
        return given
    if kind is Path and isinstance(given, (str, Path)) and _is_text(str(given)):
        path = Path(given)
        return path if os.access(path, os.R_OK) or not os.path.exists(path) else None
    return None


def _is_text(given: str) -> bool:
    try:
        given.encode()
    except UnicodeEncodeError:  # bytes of the shell that are no UTF-8
        return False
    return "\0" not in given
