"""The former place of `trustq.evaluation.bootstrap`, for scripts that import it from here."""

from trustq.evaluation.bootstrap import (
    FIGURES,
    Comparison,
    Estimate,
    compare_figures,
    crossed_figures,
    figure_intervals,
    selective_replicates,
)

__all__ = [
    "FIGURES",
    "Comparison",
    "Estimate",
    "compare_figures",
    "crossed_figures",
    "figure_intervals",
    "selective_replicates",
]
