"""The row of a cell: what was asked, on what, and what it took."""

import json
import os
import platform
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


def cell_row(
    loop: Loop,
    recipe: Recipe,
    rounds: list[Round],
    *,
    arm: Arm,
    budget: str,
    allowed: int,
    key: str,
    request: str,
    shared_key: str,
    numerics: int,
    seconds: float,
) -> dict[str, Any]:
    """The row of an arm in `runs`, from all its rounds; its `budget` allowed so much."""
    experiment, sweep = loop.experiment, recipe.sweep
    cache = experiment.cache
    head, validation = rounds[-1].head, experiment.validation
    digest = digest_strings(cache.sample_id[validation].tolist()) if len(validation) else None
    uses_validation = bool(len(validation))
    # Clean labels that chose the backbone's checkpoint were paid for as well.
    noisy_choice = cache.recipe.get("extract", {}).get("validation_noise", "")
    chose_checkpoint = np.flatnonzero(cache.seen & SEEN_SELECTION & (0 if noisy_choice else 255))
    trained_on = experiment.training.rows_digest
    saw_rows = bool(cache.seen_labels[experiment.rows].any())
    purchases = [state.purchase for state in rounds if state.purchase]
    policy = policy_settings(sweep) if arm.score != "none" else {}
    # What was asked; below, what became of it in this run.
    return setting_columns(sweep) | {
        "key": key,
        "request": request,
        "results_version": numerics,
        "recipe": recipe.name,
        "dataset": cache.dataset,
        "classes": json.dumps(cache.classes, ensure_ascii=False),
        "cache": " + ".join(map(str, cache.files)),
        "cache_recipe": str(cache.recipe.get("name", "")),
        "cache_digest": cache.content_digest,
        **training_columns(cache),
        "backbone": cache.backbone,
        "backbone_seed": cache.backbone_seed,
        "draw_seed": experiment.draw_seed,
        "row_weights": weights_text(sweep),
        "noise": experiment.noise,
        "noise_process": experiment.noise_process,
        "noise_rate": experiment.start.rate,
        "policy": json.dumps(policy, sort_keys=True) if policy else None,
        "arm": arm.text,
        "score": arm.score,
        "source": arm.source if arm.uses_probabilities else None,
        "action": arm.action,
        "arm_title": title_of(arm, sweep),
        "head_settings": json.dumps(head_settings(sweep), sort_keys=True),
        "refit": _refit(arm, sweep),
        "calibrator": sweep.calibrator if uses_validation else None,
        "calibration_labels": (
            f"{_said(sweep)} of {len(validation)} validation rows"
            if uses_validation
            else "none: there are no validation rows"
        ),
        "budget": budget,
        "n_rounds": sweep.rounds if arm.score != "none" else 0,
        "n_rounds_done": len(rounds) - 1,
        "trusted": experiment.trusted,
        "exposure": cache.exposure,
        "leaky": experiment.leaky,
        "in_sample": _in_sample(arm, saw_rows),
        "backbone_saw_rows": saw_rows,
        "n_train": len(experiment.rows),
        "n_wrong_start": experiment.n_wrong,
        "n_bought": sum(purchase.n_bought for purchase in purchases),
        "n_flagged": sum(len(purchase.rows) for purchase in purchases),
        "n_votes": sum(purchase.n_votes for purchase in purchases),
        "spent": rounds[-1].spent if arm.buys else 0.0,
        "errors_findable": loop.most_hits(arm, allowed),
        "stopped": _why_stopped(arm, rounds[-1], allowed),
        "n_trusted": int(experiment.start.trusted.sum()),
        "n_clean_validation": len(
            (set() if sweep.validation_noise else set(validation.tolist()))
            | set(chose_checkpoint.tolist())
        ),
        "n_unscored": max(state.n_unscored for state in rounds),
        "selection_digest": {"val": digest, "train": trained_on}.get(loop.chosen_on),
        "calibration_digest": digest,
        "shared_key": shared_key,
        "threads": os.cpu_count(),
        "seconds": seconds,
        "head_bytes": head.n_bytes if head else None,
        "microseconds_per_row": loop.microseconds_per_row,
        "created": datetime.now(UTC).isoformat("T", "seconds"),
        "versions": json.dumps(_versions() | _plugin_versions(arm, sweep)),
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
def _versions() -> dict[str, str]:
    names = ("trustq", "numpy", "scikit-learn", "xgboost")
    return {"python": platform.python_version()} | {name: version(name) for name in names}


def _plugin_versions(arm: Arm, sweep: SweepRecipe) -> dict[str, str]:
    used = plugin_settings(sweep).get("plugins", {}) | plugins_of(arm, sweep)
    return dict(identity.rsplit(" ", 1) for identity in used.values())
