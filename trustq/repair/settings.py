"""Settings of a recipe: which of them concern which cells, so that no other changes a key."""

import dataclasses
from pathlib import Path
from typing import Any

from trustq.calibration.registry import require_library
from trustq.core.digest import digest_bytes
from trustq.core.plugins import Plugin, find_plugin
from trustq.data.noise import noise_plugin, parse_noise, rate_of_noise
from trustq.errors import InputError, NotFound
from trustq.heads import takes_weights, text_file
from trustq.recipes import SweepRecipe
from trustq.recipes.schema import LAST_SEED, Setting, plain, sweep_settings
from trustq.repair.arms import Arm, budget_size, parse_arm, round_sizes, with_references
from trustq.repair.metadata import check_metadata, parse_fit_on


def asked_arms(sweep: SweepRecipe) -> list[Arm]:
    """The arms that a recipe names, each once."""
    return list(dict.fromkeys(parse_arm(text) for text in sweep.arms))


def arms_of(sweep: SweepRecipe) -> list[Arm]:
    """The arms that were asked for and, unless they are left out, what bounds them."""
    return with_references(asked_arms(sweep)) if sweep.references else asked_arms(sweep)


def group_cells(sweep: SweepRecipe) -> list[tuple[Arm, str]]:
    """Arm and budget of every cell that one cache and draw have; an arm without budget is one."""
    return [
        (arm, budget)
        for arm in arms_of(sweep)
        for budget in (("0",) if arm.score == "none" else dict.fromkeys(sweep.budgets))
    ]


def shared_settings(sweep: SweepRecipe) -> dict[str, Any]:
    """What a recipe asks of every cell, whatever its arm; JSON."""
    own = _of_all_cells(sweep) | head_settings(sweep)
    return own | further_settings(sweep) | plugin_settings(sweep)


def file_digests(sweep: SweepRecipe) -> dict[str, str]:
    """Digests of the files that settings of every cell name (matrix:noise.toml).

    A file may change under its name.
    """
    return {
        name: digest_bytes(path.read_bytes())
        for name, value in (_of_all_cells(sweep) | further_settings(sweep)).items()
        if isinstance(value, str) and (path := Path(value.rpartition(":")[2])).is_file()
    }


def _of_all_cells(sweep: SweepRecipe) -> dict[str, Any]:
    return {s.name: value_of(sweep, s) for s in sweep_settings("shared") if s.always_keyed}


def value_of(sweep: SweepRecipe, setting: Setting) -> Any:
    """A recipe's value of a setting, as JSON has it."""
    return plain(getattr(sweep, setting.name))


def is_set(sweep: SweepRecipe, setting: Setting) -> bool:
    """Whether a recipe's value of a setting is not the default."""
    return bool(getattr(sweep, setting.name) != setting.default)


def require_sound(sweep: SweepRecipe) -> None:
    """Raise `TrustqError` for what no run of a recipe could do, before the first is begun.

    Values out of the range of their declaration, and settings that do not go together.
    """
    for setting in sweep_settings():
        setting.check(getattr(sweep, setting.name))
    if sweep.draw_seed > LAST_SEED - sweep.draws:
        raise InputError(
            f"draw_seed is {sweep.draw_seed} and draws is {sweep.draws}; seeds are whole numbers "
            f"from 0 to {LAST_SEED}.",
            where="draw_seed",
            found=sweep.draw_seed,
        )
    require_readable(sweep)
    round_sizes(0, sweep.rounds, sweep.schedule)
    require_library(sweep.calibrator)
    check_metadata(sweep)
    for arm in arms_of(sweep):
        later = uses_ensemble(arm) and sweep.rounds > 1
        if arm.action == "reweight" and (name := _unweighed(sweep, ensemble=later)):
            raise InputError(
                f"Arm {arm.text!r}: the {name} head takes no weights between 0 and 1. Use :drop, "
                f"or a head that does ({_WEIGHED})."
            )
        if sweep.row_weights != "none":
            if sweep.head == "backbone":
                raise InputError(
                    f"row_weights={sweep.row_weights} is of heads that are fitted; `head=backbone` "
                    "is the cached logits as they are. Leave row_weights out, or fit a head, e.g. "
                    "`head=linear`."
                )
            if name := _unweighed(sweep, ensemble=uses_ensemble(arm)):
                raise InputError(
                    f"row_weights={sweep.row_weights}: the {name} head takes no weights of rows. "
                    f"Leave row_weights out, or use a head that does ({_WEIGHED})."
                )


_WEIGHED = (
    "linear, balanced, xgboost, lightgbm, ridge, mlp"  # the rest of them has nothing to weigh
)


def _unweighed(sweep: SweepRecipe, *, ensemble: bool) -> str:
    """The first head that takes no weights of rows; empty where all do."""
    heads = (sweep.head, *(sweep.ensemble if ensemble else ()))
    return next((name for name in heads if not takes_weights(name)), "")


def require_readable(sweep: SweepRecipe) -> None:
    """Raise `TrustqError` for a text that is of no form that its setting has, whatever the cache.

    What depends on the classes or the rows of a cache is found when that cache is run.
    """
    for text in sweep.budgets:
        budget_size(text, n_rows=1, n_wrong=1)
    if sweep.trusted not in ("auto", "stored"):
        trusted_share(sweep.trusted)
    if sweep.fit_on:
        parse_fit_on(sweep.fit_on)
    for name in ("metadata", "answers"):
        value = getattr(sweep, name)
        for path in map(Path, [value] if isinstance(value, str) and value else value):
            if not path.is_file():
                raise NotFound(f"{path}: no such file.", path=path, where=name)
    for name, heads in (("head", (sweep.head,)), ("ensemble", sweep.ensemble)):
        for path in filter(None, map(text_file, heads)):
            if not path.is_file():
                raise NotFound(f"{path}: no such file.", path=path, where=name)


def trusted_share(trusted: str) -> float:
    """The share that `trusted` asks for, 0 where that is the cache's; errors: no number."""
    if trusted in ("auto", "stored"):
        return 0.0
    try:
        return float(trusted)
    except ValueError:
        raise InputError(
            f"`trusted={trusted}`: expected a share such as 0.10, or stored.",
            where="trusted",
            found=trusted,
        ) from None


def require_noise(sweep: SweepRecipe, classes: tuple[str, ...]) -> None:
    """Raise `TrustqError` for a noise that rows of these classes cannot have."""
    kind, _, argument = sweep.noise.partition(":")
    if sweep.noise in ("auto", "stored") or noise_plugin(sweep.noise) is not None:
        return
    if kind == "file":
        if not Path(argument).is_file():
            raise NotFound(f"{argument}: no such file.", path=argument, where="noise")
    elif kind == "instance":
        rate_of_noise(sweep.noise, len(classes))
    else:
        parse_noise(sweep.noise, classes=classes)


def arm_settings(arm: Arm, sweep: SweepRecipe) -> dict[str, Any]:
    """The settings that change an arm's numbers, and no others: grids over them run it once."""
    # No purchase: one cell, whatever the budgets, rounds and policies.
    named: dict[str, Any] = {"rounds": 1 if arm.score == "none" else sweep.rounds}
    # Only what is set, so that cells from before a setting was there keep their key.
    if arm.score != "none" and (policy := policy_settings(sweep)):
        named["policy"] = policy
    if arm.action == "reweight":
        named["weight"] = sweep.flagged_weight
    if uses_ensemble(arm):
        named["ensemble"] = list(sweep.ensemble)
        if settings := _ensemble_settings(sweep):
            named["ensemble_settings"] = settings
        if files := {
            str(f): digest_bytes(_bytes_of(f)) for f in map(text_file, sweep.ensemble) if f
        }:
            named["ensemble_files"] = files
    # Another version of a plug-in may give other numbers.
    if plugins := plugins_of(arm, sweep):
        named["plugins"] = plugins
    return named


def plugin_settings(sweep: SweepRecipe) -> dict[str, dict[str, str]]:
    """Packages and versions of the plug-ins that every cell uses, where there are any."""
    used = _head_plugin(sweep.head) | _identity(find_plugin("calibrators", sweep.calibrator))
    used |= _identity(noise_plugin(sweep.noise))
    return {"plugins": used} if used else {}


def plugins_of(arm: Arm, sweep: SweepRecipe) -> dict[str, str]:
    """Packages and versions of the plug-ins that an arm uses besides: its score, its ensemble."""
    used = _identity(find_plugin("scores", arm.score)) if arm.is_scored else {}
    if arm.like:
        used |= plugins_of(parse_arm(arm.like), sweep)
    if uses_ensemble(arm):
        for name in sweep.ensemble:
            used |= _head_plugin(name)
    return used


def _head_plugin(name: str) -> dict[str, str]:
    return _identity(find_plugin("heads", name))


def _identity(plugin: Plugin | None) -> dict[str, str]:
    return {} if plugin is None else {f"{plugin.kind}.{plugin.name}": plugin.identity}


def policy_settings(sweep: SweepRecipe) -> dict[str, Any]:
    """How a budget is spent and by whom it is answered, where that is not the default."""
    policy = {s.name: value_of(sweep, s) for s in sweep_settings("policy") if is_set(sweep, s)}
    for name in ("answers", "cost"):
        if Path(str(policy.get(name, ""))).suffix in (".csv", ".gz", ".parquet"):
            # A file may change under its name.
            policy[f"{name}_digest"] = digest_bytes(_bytes_of(Path(policy[name])))
    return policy


def _bytes_of(path: Path) -> bytes:
    if not path.is_file():
        raise NotFound(f"{path}: no such file.", path=path)
    return path.read_bytes()


def title_of(arm: Arm, sweep: SweepRecipe) -> str:
    """An arm for people, with what it was set to: tables tell settings apart by it."""
    default = SweepRecipe()
    told = []
    if arm.action == "reweight" and sweep.flagged_weight != default.flagged_weight:
        told.append(f"to {sweep.flagged_weight:g}")
    if uses_ensemble(arm):
        settings = _ensemble_settings(sweep)
        if settings or sweep.ensemble != default.ensemble:
            values = [f"{name} {value}" for name, value in settings.items()]
            told.append(", ".join(["with", *sweep.ensemble, *values]).replace(",", "", 1))
    return f"{arm.title} ({'; '.join(told)})" if told else arm.title


def uses_ensemble(arm: Arm) -> bool:
    """Whether an arm scores by several heads."""
    return arm.source == "heads" or (arm.like != "" and parse_arm(arm.like).source == "heads")


def _ensemble_settings(sweep: SweepRecipe) -> dict[str, Any]:
    """What was asked of the heads beside the head, where that is not the default."""
    default = SweepRecipe()
    settings: dict[str, Any] = {}
    for name in sweep.ensemble:
        asked = head_settings(dataclasses.replace(sweep, head=name))
        if asked != head_settings(dataclasses.replace(default, head=name)):
            settings |= asked
    return settings


def further_settings(sweep: SweepRecipe) -> dict[str, Any]:
    """Settings of every run that keys hold where they are not the default."""
    # So that runs from before a setting was there keep their key.
    further = [s for s in sweep_settings("shared") if not s.always_keyed]
    return {s.name: value_of(sweep, s) for s in further if is_set(sweep, s)}


def head_settings(sweep: SweepRecipe) -> dict[str, Any]:
    """What was asked of the head; other settings do not concern it."""
    texts = text_file(sweep.head)
    # A file may change under its name.
    own = {} if texts is None else {"texts": digest_bytes(_bytes_of(texts))}
    return own | {
        s.name: value_of(sweep, s)
        for s in sweep_settings("head")
        if sweep.head in s.heads and (s.always_keyed or is_set(sweep, s))
    }


def setting_columns(sweep: SweepRecipe) -> dict[str, Any]:
    """The columns of a run that its settings have, as asked; text where nothing is NULL."""
    return {
        s.column: value or None if isinstance(value := value_of(sweep, s), str | list) else value
        for s in sweep_settings()
        if s.column
    }
