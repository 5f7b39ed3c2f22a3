"""Repair: which labels are bought, and what it changes."""

from trustq.repair.arms import Arm, parse_arm
from trustq.repair.engine import RepairRun, repair
from trustq.repair.experiment import Experiment, draw_experiment

__all__ = ["Arm", "Experiment", "RepairRun", "draw_experiment", "parse_arm", "repair"]
