"""What each tier holds: share, risk, and what flagging from it on catches, with intervals."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from trustq.deploy.triage import RISK_TIERS, URGENCY_TIERS, Decision, Rules, decide
from trustq.evaluation.slices import slice_names
from trustq.statistics.intervals import grouped_share_interval

FEW = 10  # rows of a slice below which it has no line


def decide_all(probs: np.ndarray, distances: np.ndarray, rules: Rules) -> list[Decision]:
    """Decisions for (n, k) probabilities and (n,) distances."""
    return [
        decide(row, float(distance), rules) for row, distance in zip(probs, distances, strict=True)
    ]


def tier_table(
    decisions: Sequence[Decision],
    positive: np.ndarray,
    groups: np.ndarray,
    *,
    slices: dict[str, np.ndarray] | None = None,
) -> list[dict[str, Any]]:
    """One line for each tier of each scale, over all rows and over each value of a slice.

    `positive` is (n,) of flags: the row is of a class that must not be missed. `share` is that of
    rows in the tier, `risk` that of positive rows among them; `sensitivity` and `specificity` are
    of flagging this tier and all more urgent ones. Each has `_lower` and `_upper`, 95 %, rows of
    one group counting as related. Slices of fewer than ten rows are left out.
    """
    lines = _lines(decisions, positive, groups, "all", "")
    for column, values in (slices or {}).items():
        names, order = slice_names(values)
        for name in order:
            rows = np.flatnonzero(names == name)
            if len(rows) >= FEW:
                own = [decisions[row] for row in rows.tolist()]
                lines += _lines(own, positive[rows], groups[rows], column, name)
    return lines


def _lines(
    decisions: Sequence[Decision], positive: np.ndarray, groups: np.ndarray, column: str, value: str
) -> list[dict[str, Any]]:
    found = []
    scales = (("risk", RISK_TIERS, "risk_tier"), ("urgency", URGENCY_TIERS, "urgency_tier"))
    for scale, tiers, field in scales:
        levels = np.array([tiers.index(getattr(own, field)) for own in decisions])
        for level, tier in enumerate(tiers):
            inside, flagged = levels == level, levels >= level
            line: dict[str, Any] = {
                "scale": scale,
                "tier": tier,
                "slice": column,
                "slice_value": value,
                "n": int(inside.sum()),
                "n_positive": int(positive[inside].sum()),
            }
            _put(line, "share", inside, groups)
            _put(line, "risk", positive[inside], groups[inside])
            _put(line, "sensitivity", flagged[positive], groups[positive])
            _put(line, "specificity", ~flagged[~positive], groups[~positive])
            found.append(line)
    return found


def _put(line: dict[str, Any], name: str, hits: np.ndarray, groups: np.ndarray) -> None:
    bounds = grouped_share_interval(hits, groups)
    values = (float(hits.mean()) if len(hits) else np.nan, bounds.lower, bounds.upper)
    for suffix, number in zip(("", "_lower", "_upper"), values, strict=True):
        line[name + suffix] = None if np.isnan(number) else round(float(number), 6)
