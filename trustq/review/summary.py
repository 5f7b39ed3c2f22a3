"""What a review has found so far, as text and as JSON."""

from typing import Any

import numpy as np

from trustq.core.counts import counted, verb
from trustq.review.session import ReviewSession
from trustq.statistics.paired import share_interval


def review_summary(session: ReviewSession) -> dict[str, Any]:
    """Counts, precision of the list, the bound of the rest and agreement, JSON."""
    said = session.consensus()
    verdicts = {s: session.is_wrong(s, found) for s, found in said.items()}
    listed = [s for s in verdicts if session.audit.listed[session.row_of(s)]]
    judged = [s for s in listed if verdicts[s] is not None]
    wrong = sum(bool(verdicts[s]) for s in judged)
    precision = share_interval(wrong, len(judged))
    bound, ahead = session.bound(), session.outlook()
    count = ahead.count
    return {
        "n_listed": len(session.audit.order),
        "n_random": len(session.sampled),
        "n_answered": len(said),
        "n_listed_answered": len(listed),
        "n_listed_judged": len(judged),
        "n_listed_wrong": wrong,
        "n_no_consensus": sum(not found.labels for found in said.values()),
        "list_precision": {
            "value": wrong / len(judged) if judged else float("nan"),
            "lower": precision.lower,
            "upper": precision.upper,
        },
        "unlisted": None
        if bound is None
        else {
            "n_rows": bound.n_rows,
            "n_sampled": bound.n_sampled,
            "n_wrong": bound.n_wrong,
            "low": bound.low,
            "high": bound.high,
        },
        "number_wrong": {
            "value": count.value,
            "low": count.low,
            "high": count.high,
            "n_rows": count.n_rows,
            "n_answered": count.n_answered,
            "model_guess": ahead.guess,
        },
        "next": {
            "n": ahead.n_next,
            "p_wrong": ahead.p_next,
            "wrong_per_minute": ahead.wrong_per_minute,
        },
        "estimate": ahead.text,
        "statement": session.statement(),
        "raters": sorted({rater for rater, _ in session.standing()}),
        "agreement": session.agreement(),
    }


def review_page(session: ReviewSession) -> str:
    """The summary for people."""
    found = review_summary(session)
    precision = found["list_precision"]
    lines = [
        f"{counted(found['n_answered'], 'row')} answered by "
        f"{', '.join(found['raters']) or 'nobody yet'}; "
        f"{found['n_listed_answered']} of {found['n_listed']} listed ones",
    ]
    if found["n_listed_judged"]:
        lines.append(
            f"{found['n_listed_wrong']} of {found['n_listed_judged']} listed labels were wrong: "
            f"{precision['value']:.2f} [{precision['lower']:.2f}, {precision['upper']:.2f}]"
        )
    if found["n_no_consensus"]:
        n = found["n_no_consensus"]
        lines.append(f"{counted(n, 'row')} {verb(n, 'has', 'have')} no consensus yet")
    lines += [found["estimate"], found["statement"]]
    for pair in found["agreement"]["pairs"]:
        kappa = f"Cohen's kappa {pair['kappa']:.2f}"
        if np.isnan(pair["kappa"]):  # of no row, or of one label throughout
            kappa = "no Cohen's kappa"
        lines.append(f"{' and '.join(pair['raters'])}: {kappa} over {pair['n']}")
    if found["agreement"]["pairs"] and not np.isnan(found["agreement"]["alpha"]):
        lines.append(f"Krippendorff's alpha of all raters: {found['agreement']['alpha']:.2f}")
    if any(pair["n"] for pair in found["agreement"]["pairs"]):
        lines.append(
            "One label a row, raters weighed by skill and with the model's word (CROWDLAB): "
            f"trustq audit consensus {session.audit.folder}"
        )
    return "\n".join(lines)
