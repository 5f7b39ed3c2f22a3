"""Arms, `SCORE[@SOURCE][:ACTION]`, and budgets."""

import difflib
from dataclasses import dataclass

from trustq.errors import TrustqError
from trustq.scoring import SCORES

# Policies that need no score: buy nothing; at random; only wrong labels, which no one could know.
BLIND = ("none", "random", "oracle")
SOURCES = ("head", "crossfit", "in_sample")
ACTIONS = ("relabel",)

_TITLES = {
    "none": "no repair",
    "random": "random",
    "oracle": "oracle (wrong labels only)",
    "self_confidence": "self-confidence",
    "normalized_margin": "normalised margin",
    "entropy": "entropy",
}
_SOURCE_TITLES = {"head": "", "crossfit": ", cross-fitted backbone", "in_sample": ", in-sample"}


@dataclass(frozen=True)
class Arm:
    """What chooses the labels to buy, where its probabilities come from, and what is then done."""

    score: str
    source: str = "head"
    action: str = "relabel"

    @property
    def text(self) -> str:
        """Canonical form: defaults left out."""
        source = "" if self.source == "head" else f"@{self.source}"
        action = "" if self.action == "relabel" else f":{self.action}"
        return self.score + source + action

    @property
    def title(self) -> str:
        """For people."""
        return _TITLES[self.score] + _SOURCE_TITLES[self.source]

    @property
    def is_scored(self) -> bool:
        """Whether it needs label-quality scores."""
        return self.score not in BLIND


def parse_arm(text: str) -> Arm:
    """An arm from `SCORE[@SOURCE][:ACTION]`; raises `TrustqError` with what is known.

    >>> parse_arm("entropy@in_sample")
    Arm(score='entropy', source='in_sample', action='relabel')
    >>> parse_arm("self_confidence@head:relabel").text
    'self_confidence'
    """
    rest, _, action = text.strip().partition(":")
    score, at, source = rest.partition("@")
    arm = Arm(score, source if at else "head", action or "relabel")
    for kind, value, known in (
        ("score", arm.score, (*BLIND, *SCORES)),
        ("source", arm.source, SOURCES),
        ("action", arm.action, ACTIONS),
    ):
        if value not in known:
            close = difflib.get_close_matches(value, known, n=1)
            hint = f" (did you mean {close[0]!r}?)" if close else ""
            raise TrustqError(
                f"Arm {text!r}: unknown {kind} {value!r}{hint}; known: {', '.join(known)}. "
                "An arm is SCORE[@SOURCE][:ACTION], e.g. self_confidence or entropy@in_sample."
            )
    if at and not arm.is_scored:
        raise TrustqError(f"Arm {text!r}: {score} uses no probabilities, so it takes no @SOURCE.")
    return arm


def budget_size(text: str, *, n_rows: int, n_wrong: int) -> int:
    """Labels that a budget buys: a number, a share of the training rows, or `all-wrong`.

    Raises `TrustqError` for another form.

    >>> budget_size("15%", n_rows=200, n_wrong=31), budget_size("all-wrong", n_rows=200, n_wrong=31)
    (30, 31)
    """
    if text == "all-wrong":
        return n_wrong
    try:
        if text.endswith("%"):
            share = float(text[:-1]) / 100
            if 0 <= share <= 1:
                return round(share * n_rows)
        elif int(text) >= 0:
            return int(text)
    except ValueError:
        pass
    raise TrustqError(
        f"Budget {text!r}: expected a number of labels (64), a share of the training rows (5%) or "
        "all-wrong."
    )


def round_sizes(budget: int, rounds: int) -> list[int]:
    """A budget in equal parts; the first parts take what does not divide.

    >>> round_sizes(10, 3)
    [4, 3, 3]
    """
    if rounds < 1:
        raise TrustqError(f"rounds is {rounds}, expected 1 or more.")
    return [budget // rounds + (r < budget % rounds) for r in range(rounds)]
