"""Repair: arms, policies and the loop that buys labels; pure, nothing is written."""

from trustq.repair.arms import Arm, parse_arm
from trustq.repair.setup import Experiment, draw_experiment

__all__ = ["Arm", "Experiment", "draw_experiment", "parse_arm"]
