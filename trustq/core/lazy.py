"""Names of a package that are imported when they are first used (PEP 562)."""

from __future__ import annotations

import importlib
import sys
from importlib.util import find_spec

TYPE_CHECKING = False  # true for type checkers by its name: typing would double the import
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from typing import Any


def lazy_names(
    package: str, names: Mapping[str, str]
) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """`__getattr__` and `__dir__` of a package: each name with the module that it is in.

    A name that is the last part of its module is that module, and MODULE: names what it holds.

    >>> find, listed = lazy_names("trustq.core", {"digest_json": "trustq.core.digest"})
    >>> find("digest_json").__name__, "digest_json" in listed()
    ('digest_json', True)
    """

    def find(name: str) -> Any:
        if name not in names:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        path, has_name, _ = names[name].partition(":")
        module = importlib.import_module(path)
        if not has_name and path.endswith(f".{name}"):
            return module
        value = getattr(module, name)
        setattr(sys.modules[package], name, value)
        return value

    return find, lambda: sorted({*vars(sys.modules[package]), *names})


def lazy_modules(
    package: str, modules: Sequence[str]
) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """`__getattr__` and `__dir__` of a package that has all public names of its modules.

    They are looked for in the modules' order; what a module imported itself is not one of them.

    >>> find, listed = lazy_modules("trustq.core", ["digest", "generators"])
    >>> find("generator").__name__, "digest_json" in listed(), "np" in listed()
    ('generator', True, False)
    """

    def public(module: str) -> dict[str, Any]:
        loaded = importlib.import_module(f"{package}.{module}")
        return {
            name: value
            for name, value in vars(loaded).items()
            if not name.startswith("_") and getattr(value, "__module__", "") == loaded.__name__
        }

    def find(name: str) -> Any:
        if find_spec(f"{package}.{name}") is not None:  # `from package import module` asks here too
            return importlib.import_module(f"{package}.{name}")
        if not name.startswith("_"):
            for module in modules:
                found = public(module)
                if name in found:
                    setattr(sys.modules[package], name, found[name])
                    return found[name]
        raise AttributeError(f"module {package!r} has no attribute {name!r}")

    return find, lambda: sorted({*vars(sys.modules[package])}.union(*map(public, modules)))
