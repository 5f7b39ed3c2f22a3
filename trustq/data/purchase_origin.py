"""Labels that a backbone is trained on again: which cell of a results folder bought them."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trustq.core.columns import read_metadata
from trustq.core.digest import digest_json
from trustq.errors import InputError
from trustq.recipes import Recipe, resolved

# Columns of `runs` that say what was bought, on what: a network trained on the outcome is that
# arm with the backbone fitted again, so its cells take them over.
PURCHASE_COLUMNS: dict[str, type | tuple[type, ...]] = {
    "cache_recipe": str,
    "cache_digest": str,
    "backbone_seed": int,
    "draw_seed": int,
    "noise": str,
    "noise_process": (str, type(None)),
    "noise_unit": str,
    "noise_rate": (int, float),
    "trusted": (int, float),
    "trusted_strata": str,
    "n_wrong_start": int,
    "n_trusted": int,
    "arm": str,
    "score": str,
    "source": (str, type(None)),
    "action": str,
    "arm_title": str,
    "budget": str,
    "buy_unit": str,
    "policy": (str, type(None)),
    "n_rounds": int,
    "n_rounds_done": int,
    "n_bought": int,
    "n_flagged": int,
    "n_votes": int,
    "spent": (int, float),
    "errors_findable": (int, type(None)),
    "stopped": str,
    "leaky": bool,
    "in_sample": bool,
    "training": str,
}

# Of several purchases, one after the other: what the first began from, and what adds up.
_OF_START = (
    *("cache_recipe", "cache_digest", "noise", "noise_process", "noise_unit", "noise_rate"),
    *("trusted", "trusted_strata", "n_wrong_start", "n_trusted"),
)
_SUMMED = ("n_rounds", "n_rounds_done", "n_bought", "n_flagged", "n_votes", "spent")

# Columns that files of labels and caches written before had under another name.
_FORMERLY = {"errors_findable": "hits_possible"}

# Keys of an extraction that are of labels, or of what is dumped, and not of how a network learns.
_NOT_OF_TRAINING = (
    *("mode", "crossfit_folds", "noise", "trusted", "observed"),
    *("workers", "engine", "compile", "views", "passes", "pass_drop", "epoch_logits"),
    *("maps", "map_precision"),
    *("explain", "explain_class", "explain_checks"),
)


@dataclass(frozen=True)
class Origin:
    """The cell that bought a file's labels: `PURCHASE_COLUMNS` and their values.

    `training` is the `training_digest` of the network whose labels were repaired.
    """

    cell: Mapping[str, Any]

    @classmethod
    def of(cls, found: Any, *, where: str) -> "Origin":
        """From JSON of a stranger's file; raises `TrustqError` unless it is whole."""
        if not isinstance(found, dict):
            raise InputError(f"{where}: its origin is no table of a cell's columns.")
        found = found | {new: found[old] for new, old in _FORMERLY.items() if old in found}
        for name, kind in PURCHASE_COLUMNS.items():
            value = found.get(name)
            is_bool = isinstance(value, bool)
            if name not in found or not isinstance(value, kind) or is_bool != (kind is bool):
                raise InputError(
                    f"{where}: its origin has {name} = {value!r}, which no cell has. Write the "
                    "labels again with `trustq export labels`."
                )
        return cls({name: found[name] for name in PURCHASE_COLUMNS})

    def after(self, earlier: "Origin | None", *, draw_seed: int) -> "Origin":
        """All that was bought up to here, from the network that the `earlier` purchase began with.

        Budgets are numbers of labels. `draw_seed` is that of the whole: each purchase has its own.
        """
        cell = {**self.cell, "draw_seed": draw_seed}
        if earlier is None:
            return Origin(cell)
        before = earlier.cell
        cell |= {name: before[name] for name in _OF_START}
        cell |= {name: before[name] + self.cell[name] for name in _SUMMED}
        cell |= {name: before[name] or self.cell[name] for name in ("leaky", "in_sample")}
        cell["budget"] = str(int(before["budget"]) + int(self.cell["budget"]))
        found = (before["errors_findable"], self.cell["errors_findable"])
        if None not in found:
            cell["errors_findable"] = min(sum(found), before["n_wrong_start"])
        return Origin(cell)


def file_origin(path: Path) -> Origin | None:
    """The origin that `trustq export labels` noted in a file's footer; None without one."""
    if Path(path).suffix.lower() != ".parquet":
        return None
    found = read_metadata(path).get("origin")
    return None if found is None else Origin.of(found, where=str(path))


def training_digest(recipe: Mapping[str, Any]) -> str | None:
    """Digest of how a network was trained, apart from its labels, by a cache's recipe attribute.

    Settings that an older trustq did not have count as their defaults. None where no recipe says
    it (an imported cache), nothing was trained, or the network is another cache's.

    >>> one = training_digest({"extract": {"epochs": 3, "noise": "reference"}})
    >>> one == training_digest({"extract": {"epochs": 3, "mode": "crossfit"}})
    True
    >>> one == training_digest({"extract": {"epochs": 4}})
    False
    """
    settings = recipe.get("extract")
    if not settings or "with" in recipe or settings.get("mode") == "frozen":
        return None
    every = resolved(Recipe(), "extract")["extract"] | settings
    learning = {name: value for name, value in every.items() if name not in _NOT_OF_TRAINING}
    files = [recipe.get(name) for name in ("weights_file", "sampling_columns", "fitted")]
    return digest_json([learning, files])
