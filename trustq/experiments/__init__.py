"""Sweeps: recipes with grids over caches, on processes or a cluster; nothing run twice."""

from trustq.experiments.parallel import SweepRun, run_sweep
from trustq.experiments.run import RepairRun, repair
from trustq.experiments.run_time import estimate_seconds
from trustq.experiments.work_list import Group, SweepPlan, plan_sweep

__all__ = [
    "Group",
    "RepairRun",
    "SweepPlan",
    "SweepRun",
    "estimate_seconds",
    "plan_sweep",
    "repair",
    "run_sweep",
]
