"""The errors that trustq raises on purpose.

A message says where, what was found, and what to do. Settings that it asks to change stand in
backticks, as in a recipe: `normalize`, or with a value `folds=5`. The command line shows those as
its own options.
"""

import re
from collections.abc import Iterable
from os import PathLike

_IN_BACKTICKS = re.compile(r"`([a-z]\w*)(?:=[^`]*)?`")


class TrustqError(Exception):
    """What trustq cannot do as asked; catch this one for all of them.

    The command line prints the message and exits 1. Anything else that escapes is a bug.

    `path` is the file or folder, `where` the place in it or the argument, `expected` the values
    that are accepted and `found` the one that was given; each is None where the error has none.

    >>> error = TrustqError("`folds` is 1, expected 2 or more: try `folds=5`.", found=1)
    >>> error.settings, error.found
    (('folds',), 1)
    """

    def __init__(
        self,
        message: str = "",
        *,
        path: str | PathLike[str] | None = None,
        where: str | None = None,
        expected: Iterable[object] | None = None,
        found: object = None,
    ) -> None:
        super().__init__(message)
        self.path = path
        self.where = where
        self.expected = None if expected is None else tuple(expected)
        self.found = found

    @property
    def settings(self) -> tuple[str, ...]:
        """Names of the settings that the message mentions, each once."""
        return tuple(dict.fromkeys(_IN_BACKTICKS.findall(str(self))))


class InputError(TrustqError, ValueError):
    """An argument, setting, file or table is not as it must be."""


class NotFound(TrustqError, LookupError):
    """A file, folder, column, recipe, run or other thing that was named does not exist."""


class DishonestError(TrustqError):
    """The experiment would report numbers that mislead, e.g. on rows that were trained on."""


class DamagedFile(TrustqError):
    """A file is cut short, altered, or not of the kind that its place says."""


class MissingExtra(TrustqError):
    """A package of an optional extra is missing; the message says what to install."""
