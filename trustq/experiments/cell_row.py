"""The row of a cell: what was asked, on what, and what it took."""

import json
import os
import platform
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache as remember
from importlib.metadata import version
from typing import Any

import numpy as np

from trustq.core.digest import digest_strings
from trustq.experiments.retrained import training_columns
from trustq.heads import text_file
from trustq.recipes import Recipe, SweepRecipe
from trustq.repair.arms import IN_SAMPLE, Arm, parse_arm
from trustq.repair.loop import Loop
from trustq.repair.metadata import weights_text
from trustq.repair.rounds import Round
from trustq.repair.settings import (
    head_settings,
    plugin_settings,
    plugins_of,
    policy_settings,
    setting_columns,
    title_of,
)
from trustq.store.format import SEEN_SELECTION


@dataclass(frozen=True)
class Cell:
    """One experiment: an arm with a budget, of one cache, draw and setting."""

    arm: Arm
    budget: str
    key: str
    request: str


def group_row(loop: Loop, recipe: Recipe, shared_key: str) -> dict[str, Any]:
    """What the rows of all cells of a cache and draw have in common, once round 0 is there."""
    row = setting_columns(recipe.sweep) | {
        "shared_key": shared_key,
        "recipe": recipe.name,
        "threads": os.cpu_count(),
    }
    return row | _of_cache(loop) | _of_labels(loop, recipe.sweep)


def cell_row(
    loop: Loop, recipe: Recipe, rounds: list[Round], cell: Cell, *, allowed: int
) -> dict[str, Any]:
    """What the row of a cell in `runs` has besides `group_row`; its budget allowed so much."""
    row = {
        "key": cell.key,
        "request": cell.request,
        "budget": cell.budget,
        "created": datetime.now(UTC).isoformat("T", "seconds"),
        "versions": json.dumps(
            _versions(recipe.sweep.head) | _plugin_versions(cell.arm, recipe.sweep)
        ),
    }
    row |= _of_arm(cell.arm, recipe.sweep, loop)
    return row | _of_rounds(loop, rounds, cell.arm, allowed)


def _of_cache(loop: Loop) -> dict[str, Any]:
    """Where the rows come from, and the noise drawn on them."""
    experiment, cache = loop.experiment, loop.experiment.cache
    return {
        "dataset": cache.dataset,
        "classes": json.dumps(cache.classes, ensure_ascii=False),
        "cache": " + ".join(map(str, cache.files)),
        "cache_recipe": str(cache.recipe.get("name", "")),
        "cache_digest": cache.content_digest,
        **training_columns(cache),
        "backbone": cache.backbone,
        "backbone_seed": cache.backbone_seed,
        "exposure": cache.exposure,
        "draw_seed": experiment.draw_seed,
        "noise": experiment.noise,
        "noise_process": experiment.noise_process,
        "noise_rate": experiment.start.rate,
        "trusted": experiment.trusted,
        "leaky": experiment.leaky,
        "n_train": len(experiment.rows),
        "n_wrong_start": experiment.n_wrong,
        "n_trusted": int(experiment.start.trusted.sum()),
    }


def _of_arm(arm: Arm, sweep: SweepRecipe, loop: Loop) -> dict[str, Any]:
    """What the arm is, and what its probabilities had seen."""
    experiment = loop.experiment
    saw_rows = bool(experiment.cache.seen_labels[experiment.rows].any())
    policy = policy_settings(sweep) if arm.score != "none" else {}
    return {
        "policy": json.dumps(policy, sort_keys=True) if policy else None,
        "arm": arm.text,
        "score": arm.score,
        "source": arm.source if arm.uses_probabilities else None,
        "action": arm.action,
        "arm_title": title_of(arm, sweep),
        "row_weights": weights_text(sweep),
        "head_settings": json.dumps(head_settings(sweep), sort_keys=True),
        "refit": _refit(arm, sweep),
        "in_sample": _in_sample(arm, saw_rows),
        "backbone_saw_rows": saw_rows,
        "n_rounds": sweep.rounds if arm.score != "none" else 0,
    }


def _of_labels(loop: Loop, sweep: SweepRecipe) -> dict[str, Any]:
    """Which labels chose and calibrated, and how many of them were clean."""
    experiment = loop.experiment
    cache, validation = experiment.cache, experiment.validation
    digest = digest_strings(cache.sample_id[validation].tolist()) if len(validation) else None
    uses_validation = bool(len(validation))
    # Clean labels that chose the backbone's checkpoint were paid for as well.
    noisy_choice = cache.recipe.get("extract", {}).get("validation_noise", "")
    chose_checkpoint = np.flatnonzero(cache.seen & SEEN_SELECTION & (0 if noisy_choice else 255))
    trained_on = experiment.training.rows_digest
    return {
        "calibrator": sweep.calibrator if uses_validation else None,
        "calibration_labels": (
            f"{_said(sweep)} of {len(validation)} validation rows"
            if uses_validation
            else "none: there are no validation rows"
        ),
        "n_clean_validation": len(
            (set() if sweep.validation_noise else set(validation.tolist()))
            | set(chose_checkpoint.tolist())
        ),
        "selection_digest": {"val": digest, "train": trained_on}.get(loop.chosen_on),
        "calibration_digest": digest,
    }


def _of_rounds(loop: Loop, rounds: list[Round], arm: Arm, allowed: int) -> dict[str, Any]:
    """What became of the purchase, and the head that it left."""
    last, head = rounds[-1], rounds[-1].head
    purchases = [state.purchase for state in rounds if state.purchase]
    return {
        "n_rounds_done": len(rounds) - 1,
        "n_bought": sum(purchase.n_bought for purchase in purchases),
        "n_flagged": sum(len(purchase.rows) for purchase in purchases),
        "n_votes": sum(purchase.n_votes for purchase in purchases),
        "spent": last.spent if arm.buys else 0.0,
        "errors_findable": loop.most_hits(arm, allowed),
        "stopped": _why_stopped(arm, last, allowed),
        "n_unscored": max(state.n_unscored for state in rounds),
        "head_bytes": head.n_bytes if head else None,
        "microseconds_per_row": loop.microseconds_per_row,
    }


def _said(sweep: SweepRecipe) -> str:
    """Which labels of validation rows were used."""
    asked, _, how = sweep.validation_noise.partition(",")
    if not asked:
        return "reference labels"
    return f"noisy labels ({asked}{', corrected' if how else ''})"


def _in_sample(arm: Arm, saw_rows: bool) -> bool:
    if arm.like:
        return _in_sample(parse_arm(arm.like), saw_rows)
    known = arm.source in IN_SAMPLE or (arm.source == "passes" and saw_rows)
    return arm.uses_probabilities and known


def _why_stopped(arm: Arm, last: Round, budget: int) -> str:
    if arm.score == "none":
        return "nothing to buy"
    if last.stopped:
        return "precision below the cut"
    return "budget spent" if last.spent >= budget - 1e-9 else "nothing left to take"


def _refit(arm: Arm, sweep: SweepRecipe) -> str:
    """What learnt from the arm's labels; cached logits learnt only from those that were stored."""
    if text_file(sweep.head) is not None:
        return "none"
    if sweep.head != "backbone":
        return "head"
    return "backbone" if arm.score == "none" else "none"


@remember  # reading the metadata of packages takes 20 ms
def _versions(head: str) -> dict[str, str]:
    names = ["trustq", "numpy", "llvmlite", "scikit-learn", "xgboost"]
    names += ["lightgbm"] if head == "lightgbm" else []
    return {"python": platform.python_version()} | {name: version(name) for name in names}


def _plugin_versions(arm: Arm, sweep: SweepRecipe) -> dict[str, str]:
    used = plugin_settings(sweep).get("plugins", {}) | plugins_of(arm, sweep)
    return dict(identity.rsplit(" ", 1) for identity in used.values())
