"""Tables and figures of results."""

from trustq.report.figures import repair_curve_figure, risk_coverage_figure
from trustq.report.tables import DISCLAIMER, RepairTable, repair_table

__all__ = [
    "DISCLAIMER",
    "RepairTable",
    "repair_curve_figure",
    "repair_table",
    "risk_coverage_figure",
]
