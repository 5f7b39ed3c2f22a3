"""Whether heads refitted on fixed features order arms as networks trained again do."""

from itertools import combinations
from typing import Any

from trustq.results.schema import LOWER_IS_BETTER, PROBLEM

METRICS = ("accuracy", "macro_f1", "nll")

# One problem, whichever of the two learnt from its labels.
_PROBLEM = (*PROBLEM, "eval_dataset")
_MEANS = f"""
SELECT {", ".join(_PROBLEM)}, metric, refit, head, arm_title, score = 'none' AS is_none, budget,
    backbone_seed, draw_seed, avg(value) AS value
FROM metric_values
WHERE is_final AND class_name IS NULL AND slice_name IS NULL AND split = 'test'
    AND stage = 'calibrated' AND metric IN (SELECT unnest(?)) AND value IS NOT NULL
    AND (refit = 'head' OR refit = 'backbone' AND head = 'backbone')
GROUP BY ALL ORDER BY ALL
"""


def refit_order_warnings(connection: Any) -> list[str]:
    """A sentence for each metric, head and budget by which the two put arms in other orders.

    `connection` is of `trustq.results.connect`. Only arms that were both refitted by a head and
    trained again count, at least two of them, on the seeds that all of them have; what agrees is
    not told.
    """
    if connection.execute("SELECT count(DISTINCT refit) FROM runs").fetchone()[0] < 2:
        return []
    answer = connection.execute(_MEANS, [list(METRICS)])
    names = [column[0] for column in answer.description]
    rows = [dict(zip(names, row, strict=True)) for row in answer.fetchall()]
    warnings = []
    heads = sorted({row["head"] for row in rows if row["refit"] == "head"})
    problems = dict.fromkeys(tuple(row[name] for name in _PROBLEM) for row in rows)
    for problem in problems:
        own = [row for row in rows if tuple(row[name] for name in _PROBLEM) == problem]
        trained = [row for row in own if row["refit"] == "backbone"]
        for budget in sorted({row["budget"] for row in trained if not row["is_none"]}):
            for head in heads:
                fitted = [row for row in own if row["refit"] == "head" and row["head"] == head]
                for metric in METRICS:
                    losses, arms = _means(
                        [_losses(part, metric, budget) for part in (fitted, trained)]
                    )
                    if _contradict(losses[0], losses[1], arms):
                        by_head, by_network = (
                            " > ".join(sorted(arms, key=lambda arm: of_arm[arm]))
                            for of_arm in losses
                        )
                        warnings.append(
                            f"REFIT ORDER: by {metric}, {head} heads on fixed features put "
                            f"{by_head}; networks trained again on the same labels put "
                            f"{by_network} (budget {budget}). Head-only figures do not stand for "
                            "the whole loop."
                        )
    return warnings


def _losses(rows: list[dict[str, Any]], metric: str, budget: str) -> dict[str, dict[Any, float]]:
    """Figures by arm's title and seeds, less is better; who buys nothing is of any budget."""
    sign = 1 if metric in LOWER_IS_BETTER else -1
    found: dict[str, dict[Any, float]] = {}
    for row in rows:
        if row["metric"] == metric and (row["is_none"] or row["budget"] == budget):
            seeds = row["backbone_seed"], row["draw_seed"]
            found.setdefault(row["arm_title"], {})[seeds] = sign * row["value"]
    return found


def _means(parts: list[dict[str, dict[Any, float]]]) -> tuple[list[dict[str, float]], list[str]]:
    """Means over the seeds that all arms of both parts have, and these arms."""
    arms = [arm for arm in parts[0] if arm in parts[1]]
    seeds = set.intersection(*(set(part[arm]) for part in parts for arm in arms)) if arms else set()
    if not seeds:
        return [{}, {}], []
    of_arms = [
        {arm: sum(part[arm][seed] for seed in sorted(seeds)) / len(seeds) for arm in arms}
        for part in parts
    ]
    return of_arms, arms


def _contradict(one: dict[str, float], two: dict[str, float], arms: list[str]) -> bool:
    """Whether some arm is better than another by one and worse by the other; ties are neither."""
    pairs = combinations(arms, 2)
    return any((one[a] - one[b]) * (two[a] - two[b]) < 0 for a, b in pairs)
