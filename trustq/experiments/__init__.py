"""Sweeps: recipes with grids over caches, on processes or a cluster; nothing run twice."""

from trustq.sweep.plan import Group, SweepPlan, plan_sweep
from trustq.sweep.price import estimate_seconds
from trustq.sweep.run import SweepRun, run_sweep

__all__ = ["Group", "SweepPlan", "SweepRun", "estimate_seconds", "plan_sweep", "run_sweep"]
