"""Plug-ins: what other installed packages add under the entry points `trustq.KIND`."""

from collections.abc import Collection
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

from trustq.errors import InputError

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

KINDS = ("scores", "heads", "calibrators", "noise", "datasets")


@dataclass(frozen=True)
class Plugin:
    """A name that a package adds; `identity`, package and version, goes into keys of runs."""

    kind: str
    name: str
    package: str
    version: str
    entry: "EntryPoint"

    @property
    def identity(self) -> str:
        """The package and its version, as `name version`."""
        return f"{self.package} {self.version}"

    @property
    def title(self) -> str:
        """The name, for people."""
        return self.name.replace("_", " ")

    def load(self) -> Any:
        """What the entry point names; raises `TrustqError` where it cannot be imported."""
        try:
            return self.entry.load()
        except (ImportError, AttributeError) as error:
            raise InputError(
                f"The plug-in {self.name!r} of {self.identity} could not be loaded from "
                f"{self.entry.value}: {error}."
            ) from error

    def require(self, is_right: bool, wanted: str) -> None:
        """Raise `TrustqError` where what the plug-in gave back is not what was wanted."""
        if not is_right:
            raise InputError(f"The plug-in {self.name!r} of {self.identity} returned no {wanted}.")


def find_plugin(kind: str, name: str) -> Plugin | None:
    """The plug-in of a kind by its name; None where no package adds it.

    >>> find_plugin("scores", "nobody_has_this") is None
    True
    """
    return _plugins(kind).get(name)


def plugin_names(kind: str, *, taken: Collection[str] = ()) -> tuple[str, ...]:
    """Names that packages add to a kind, sorted.

    Raises `TrustqError` where a package adds a name that trustq has itself (`taken`).
    """
    found = _plugins(kind)
    for name in sorted(set(found) & set(taken)):
        raise InputError(
            f"{found[name].identity} adds {name!r} to trustq.{kind}, which trustq has itself: the "
            "package must use another name."
        )
    return tuple(found)


@cache  # looking through all installed packages takes milliseconds
def _plugins(kind: str) -> dict[str, Plugin]:
    from importlib.metadata import entry_points

    found: dict[str, Plugin] = {}
    for entry in sorted(entry_points(group=f"trustq.{kind}"), key=lambda entry: entry.name):
        package, version = (entry.dist.name, entry.dist.version) if entry.dist else ("?", "?")
        plugin = Plugin(kind, entry.name, package, version, entry)
        other = found.setdefault(entry.name, plugin)
        if other.identity != plugin.identity:
            raise InputError(
                f"{other.identity} and {plugin.identity} both add {entry.name!r} to "
                f"trustq.{kind}: uninstall one of them."
            )
    return found
