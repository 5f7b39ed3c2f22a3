"""Tables and figures of results."""

from trustq.analysis.main_table import MainTable, format_main_table, main_table
from trustq.analysis.repair_table import DISCLAIMER, RepairTable, repair_table
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
