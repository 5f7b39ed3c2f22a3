"""Conditions that rows were predicted under: their family, severity and kind, by their names."""

import re
from collections.abc import Iterable
from typing import NamedTuple

CLEAN = "clean"
KINDS = ("clean", "corruption", "shift")

# Families that change what is in the picture or how it was taken, without an order of damage.
_SHIFTS = (
    *("shift", "cast", "color_cast", "colour_cast", "down-up", "down_up", "rotation"),
    *("realistic", "darker", "brighter", "hair", "ruler", "vignette", "skin_tone"),
)
# `blur-3`, `gaussian_blur_s3`, `noise_severity_2`, `fog.5`; but `rotation-45` is 45 degrees.
_SEVERITY = re.compile(r"^(?P<family>.*?)[-_. ]?(?:severity|sev|level|s)?[-_. ]?(?P<level>\d)$")


class Condition(NamedTuple):
    """A condition: `severity` orders those of one family, None where there is no order."""

    name: str
    family: str
    severity: int | None
    kind: str


def condition_of(name: str) -> Condition:
    """What a condition is by its name; `clean` is that without any change.

    >>> condition_of("gaussian_blur_s3")
    Condition(name='gaussian_blur_s3', family='gaussian_blur', severity=3, kind='corruption')
    >>> condition_of("rotation-45")[1:], condition_of("shift_color_cast")[1:]
    (('rotation-45', None, 'shift'), ('shift_color_cast', None, 'shift'))
    """
    if name == CLEAN:
        return Condition(name, name, None, "clean")
    found = _SEVERITY.match(name)
    family, severity = name, None
    if found and found["family"] and not found["family"][-1].isdigit():
        family, severity = found["family"], int(found["level"])
    kind = "shift" if family.lower().startswith(_SHIFTS) else "corruption"
    if kind == "corruption" and severity is None:
        kind = "shift"  # one amount alone has no order of damage
    return Condition(name, family, severity, kind)


def ordered_conditions(names: Iterable[str]) -> list[Condition]:
    """Conditions with the clean one first, then by kind, family and severity.

    >>> [one.name for one in ordered_conditions(["cast", "blur-2", "blur-1", "clean"])]
    ['clean', 'blur-1', 'blur-2', 'cast']
    """
    found = [condition_of(name) for name in names]
    return sorted(found, key=lambda one: (KINDS.index(one.kind), one.family, one.severity or 0))
