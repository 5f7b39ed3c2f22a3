"""Arms, `SCORE[@SOURCE][:ACTION]`, and budgets."""

import difflib
from collections.abc import Sequence
from dataclasses import dataclass, replace

from trustq.errors import InputError
from trustq.scoring import (
    FEATURE_SCORES,
    NO_PROBABILITIES,
    PASS_SCORES,
    is_score,
    known_scores,
    score_title,
)

# Policies that need no score: buy nothing; at random; only wrong labels, which no one could know.
BLIND = ("none", "random", "oracle")
SOURCES = ("head", "heads", "crossfit", "in_sample", "passes", "epochs", "path")
# Models that were fitted on the rows they score.
IN_SAMPLE = ("in_sample", "epochs", "path")
ACTIONS = ("relabel", "drop", "reweight")

MATCHED = "random~"  # as many rows of each class as another arm, at random

_TITLES = {
    "none": "no repair",
    "random": "random",
    "oracle": "oracle (wrong labels only)",
}
_SOURCE_TITLES = {
    "head": "",
    "heads": ", several heads",
    "crossfit": ", cross-fitted backbone",
    "in_sample": ", in-sample",
    "passes": ", dropout passes",
    "epochs": ", mean over epochs",
    "path": ", mean over penalties",
}
_ACTION_TITLES = {"relabel": "", "drop": ", dropped", "reweight": ", weighed down"}


@dataclass(frozen=True)
class Arm:
    """What chooses the labels to buy, where its probabilities come from, and what is then done."""

    score: str
    source: str = "head"
    action: str = "relabel"
    like: str = ""  # the scored arm whose numbers per class a matched random arm repeats

    @property
    def text(self) -> str:
        """Canonical form: defaults left out."""
        action = "" if self.action == "relabel" else f":{self.action}"
        if self.like:
            return MATCHED + self.like + action
        source = "" if self.source == _default_source(self.score) else f"@{self.source}"
        return self.score + source + action

    @property
    def title(self) -> str:
        """For people."""
        if self.like:
            base = replace(parse_arm(self.like), action=self.action)
            return f"random, classes as {base.title}"
        source = "" if self.score in PASS_SCORES else _SOURCE_TITLES[self.source]
        score = _TITLES.get(self.score) or score_title(self.score)
        return score + source + _ACTION_TITLES[self.action]

    @property
    def is_scored(self) -> bool:
        """Whether it needs label-quality scores."""
        return self.score not in BLIND

    @property
    def uses_probabilities(self) -> bool:
        """Whether its scores are computed from probabilities, and so have a source."""
        return self.is_scored and self.score not in NO_PROBABILITIES

    @property
    def uses_folds(self) -> bool:
        """Whether a head must be fitted on folds, in every round, before it can choose."""
        if self.like:
            return parse_arm(self.like).uses_folds
        return self.uses_probabilities and self.source in ("head", "heads")

    @property
    def buys(self) -> bool:
        """Whether it pays for answers; rows that are dropped or weighed down are not asked for."""
        return self.action == "relabel" and self.score != "none"


def parse_arm(text: str) -> Arm:
    """An arm from `SCORE[@SOURCE][:ACTION]`; raises `TrustqError` with what is known.

    `random~ARM` takes as many rows of each class as the scored ARM does, at random.

    >>> parse_arm("entropy@in_sample")
    Arm(score='entropy', source='in_sample', action='relabel', like='')
    >>> parse_arm("self_confidence@head:relabel").text
    'self_confidence'
    >>> parse_arm("random~margin:drop").title
    'random, classes as margin of the top two, dropped'
    """
    text = text.strip()
    if text.startswith(MATCHED):
        base = parse_arm(text.removeprefix(MATCHED))
        if not base.is_scored or base.like:
            raise InputError(f"Arm {text!r}: {MATCHED}ARM matches a scored arm.")
        return Arm("random", action=base.action, like=replace(base, action="relabel").text)
    rest, _, action = text.partition(":")
    score, at, source = rest.partition("@")
    arm = Arm(score, source if at else _default_source(score), action or "relabel")
    is_known = arm.score in BLIND or is_score(arm.score)
    for kind, value, known in (
        ("score", arm.score, (arm.score,) if is_known else (*BLIND, *known_scores())),
        ("source", arm.source, SOURCES),
        ("action", arm.action, ACTIONS),
    ):
        if value not in known:
            close = difflib.get_close_matches(value, known, n=1)
            hint = f" (did you mean {close[0]!r}?)" if close else ""
            raise InputError(
                f"Arm {text!r}: unknown {kind} {value!r}{hint}; known: {', '.join(known)}. "
                "An arm is SCORE[@SOURCE][:ACTION], e.g. self_confidence or entropy@in_sample.",
                expected=known,
                found=text,
            )
    if at and not arm.uses_probabilities:
        raise InputError(f"Arm {text!r}: {score} uses no probabilities, so it takes no @SOURCE.")
    if score in PASS_SCORES and arm.source != "passes":
        raise InputError(f"Arm {text!r}: {score} is of dropout passes (@passes) alone.")
    if arm.source == "heads" and score in FEATURE_SCORES:
        raise InputError(f"Arm {text!r}: {score} builds a batch; it is no mean over heads.")
    if score == "none" and arm.action != "relabel":
        raise InputError(f"Arm {text!r}: none leaves every label as it is; it takes no action.")
    return arm


def with_references(arms: Sequence[Arm]) -> list[Arm]:
    """Arms with what bounds them: random and oracle, for each action of a scored arm.

    Rows that are dropped or weighed down are also matched, class by class, by a random arm.

    >>> [arm.text for arm in with_references([parse_arm("none"), parse_arm("margin:drop")])]
    ['none', 'margin:drop', 'random:drop', 'oracle:drop', 'random~margin:drop']
    """
    wanted = list(arms)
    for action in ACTIONS:
        scored = [arm for arm in arms if arm.is_scored and arm.action == action]
        if scored:
            wanted += [Arm("random", action=action), Arm("oracle", action=action)]
        if action != "relabel":
            wanted += [
                Arm("random", action=action, like=replace(arm, action="relabel").text)
                for arm in scored
            ]
    return list(dict.fromkeys(wanted))


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
    raise InputError(
        f"Budget {text!r}: expected a number of labels (64), a share of the training rows (5%) or "
        "all-wrong."
    )


def round_sizes(budget: int, rounds: int, schedule: str = "equal") -> list[int]:
    """A budget in parts: `equal`, `doubling`, or by weights such as `1,2,5`.

    The first of equal parts take what does not divide. Raises `TrustqError` for other schedules.

    >>> round_sizes(10, 3), round_sizes(10, 3, "doubling"), round_sizes(10, 2, "1,4")
    ([4, 3, 3], [1, 3, 6], [2, 8])
    """
    if rounds < 1:
        raise InputError(f"rounds is {rounds}, expected 1 or more.", where="rounds", found=rounds)
    if schedule == "equal":
        return [budget // rounds + (r < budget % rounds) for r in range(rounds)]
    if schedule == "doubling":
        weights = [2.0**r for r in range(rounds)]
    else:
        weights = _weights(schedule, rounds)
    edges, total = [0], 0.0
    for weight in weights:
        total += weight
        edges.append(round(budget * total / sum(weights)))
    return [b - a for a, b in zip(edges, edges[1:], strict=False)]


def _weights(schedule: str, rounds: int) -> list[float]:
    try:
        weights = [float(part) for part in schedule.split(",")]
    except ValueError:
        weights = []
    if len(weights) != rounds or not all(0 < weight < 1e9 for weight in weights):
        raise InputError(
            f"schedule is {schedule!r}, expected equal, doubling, or {rounds} numbers above 0, one "
            "for each round, e.g. 1,2,5.",
            where="schedule",
            found=schedule,
        )
    return weights


def _default_source(score: str) -> str:
    return "passes" if score in PASS_SCORES else "head"
