"""Tables and figures of results."""

from typing import TYPE_CHECKING

from trustq.core.lazy import lazy_names

if TYPE_CHECKING:
    from trustq.analysis.main_table import MainTable, format_main_table, main_table
    from trustq.analysis.repair_table import RepairTable, repair_table
    from trustq.core.safety import DISCLAIMER
    from trustq.report.plots import repair_curve_figure, risk_coverage_figure

__all__ = [
    "DISCLAIMER",
    "MainTable",
    "RepairTable",
    "format_main_table",
    "main_table",
    "repair_curve_figure",
    "repair_table",
    "risk_coverage_figure",
]

# Pages of one file's figures need no results: experiments are loaded where a table is made.
__getattr__, __dir__ = lazy_names(
    __name__,
    {
        "DISCLAIMER": "trustq.core.safety",
        "MainTable": "trustq.analysis.main_table",
        "RepairTable": "trustq.analysis.repair_table",
        "format_main_table": "trustq.analysis.main_table",
        "main_table": "trustq.analysis.main_table:",
        "repair_curve_figure": "trustq.report.plots",
        "repair_table": "trustq.analysis.repair_table:",
        "risk_coverage_figure": "trustq.report.plots",
    },
)
