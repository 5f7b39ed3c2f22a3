"""Tables and figures of results."""

from trustq.report.figures import repair_curve_figure, risk_coverage_figure
from trustq.report.main_table import MainTable, format_main_table, main_table
from trustq.report.tables import DISCLAIMER, RepairTable, repair_table

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
