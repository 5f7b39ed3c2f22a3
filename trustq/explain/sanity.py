"""Whether stored explanations depend on what the network learned, and mark what it uses."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from trustq.core.generators import generator
from trustq.errors import InputError
from trustq.explain.stability import rank_correlation, top_overlap
from trustq.explain.variants import stored_methods
from trustq.statistics.paired import Interval, bootstrap_interval
from trustq.store import Cache

# A map that is still this like the trained network's, once no layer is left, shows the image.
MOST_ALIKE = 0.5
CURVES = ("deletion", "flipping", "insertion")


@dataclass(frozen=True)
class StageCheck:
    """Likeness of maps with layers drawn anew down to a stage, means over rows with intervals."""

    stage: str
    rank_correlation: float
    overlap: float
    chance_overlap: float  # with the map of another row, drawn at random
    interval: Interval  # of the rank correlation
    n_compared: int


@dataclass(frozen=True)
class CurveCheck:
    """Area under a curve for the maps and for random ones; `difference` is maps minus random."""

    curve: str
    area: float
    area_random: float
    difference: float
    interval: Interval

    @property
    def is_better(self) -> bool:
        """Whether the maps beat random ones: lower for deletion and flipping, else higher."""
        if self.curve == "insertion":
            return bool(self.interval.lower > 0)
        return bool(self.interval.upper < 0)


@dataclass(frozen=True)
class SanityCheck:
    """Both checks of one method of one cache."""

    cache: str
    method: str
    n: int
    stages: tuple[StageCheck, ...]
    curves: tuple[CurveCheck, ...]

    @property
    def depends_on_weights(self) -> bool:
        """Whether maps of the network without learned layers are unlike those of the trained."""
        return bool(self.stages[-1].rank_correlation < MOST_ALIKE)

    @property
    def verdict(self) -> str:
        """What to make of it, in a paragraph."""
        last = self.stages[-1]
        if self.depends_on_weights:
            said = (
                f"Maps change with the weights: with every layer drawn anew the rank correlation "
                f"with the trained network's maps is {last.rank_correlation:.2f} (below "
                f"{MOST_ALIKE})."
            )
        else:
            said = (
                f"These maps are worthless as explanations: with every layer drawn anew they are "
                f"still like the trained network's (rank correlation {last.rank_correlation:.2f}, "
                f"{MOST_ALIKE} or more), so they show the image and not what was learned."
            )
        better = [curve.curve for curve in self.curves if curve.is_better]
        worse = [curve.curve for curve in self.curves if not curve.is_better]
        if better:
            said += f" They mark what the network uses better than random maps by {_and(better)}"
            said += f", and not by {_and(worse)}." if worse else "."
        else:
            said += f" They mark what the network uses no better than random maps ({_and(worse)})."
        return said

    @property
    def stage_rows(self) -> list[dict[str, Any]]:
        """Stages as a table."""
        return [
            {
                "layers_drawn_anew": stage.stage,
                "rank_correlation": stage.rank_correlation,
                "lower": stage.interval.lower,
                "upper": stage.interval.upper,
                "overlap": stage.overlap,
                "overlap_of_other_rows": stage.chance_overlap,
                "rows": stage.n_compared,
            }
            for stage in self.stages
        ]

    @property
    def curve_rows(self) -> list[dict[str, Any]]:
        """Curves as a table."""
        return [
            {
                "curve": curve.curve,
                "area": curve.area,
                "area_random": curve.area_random,
                "difference": curve.difference,
                "lower": curve.interval.lower,
                "upper": curve.interval.upper,
                "better_than_random": curve.is_better,
            }
            for curve in self.curves
        ]

    @property
    def record(self) -> dict[str, Any]:
        """All of it for JSON."""
        return {
            "cache": self.cache,
            "method": self.method,
            "n": self.n,
            "depends_on_weights": self.depends_on_weights,
            "verdict": self.verdict,
            "stages": self.stage_rows,
            "curves": self.curve_rows,
        }


def sanity_checks(cache: Cache, *, seed: int = 0) -> list[SanityCheck]:
    """The checks of every method that a cache holds.

    Raises `TrustqError` where it holds none.
    """
    methods = [
        name
        for name in stored_methods(cache)
        if f"explanations/{name}/checks/randomised" in cache.extra
    ]
    if not methods:
        raise InputError(
            f"{cache.name} holds no tests of explanations. Make them through the same network with "
            "`trustq extract`, `with=CACHE`, `explain=gradcam`, `explain_checks=64` and "
            "`name=NAME`."
        )
    return [_check(cache, method, seed) for method in methods]


def _check(cache: Cache, method: str, seed: int) -> SanityCheck:
    path = f"explanations/{method}/checks"
    maps = cache.extra[f"{path}/randomised"].astype(np.float32)
    stages = [str(text) for text in cache.extra[f"{path}/stages"].tolist()]
    other = _other_rows(maps.shape[1], seed)
    chance = top_overlap(maps[0], maps[0][other])
    found = []
    for stage, own in zip(stages[1:], maps[1:], strict=True):
        alike = rank_correlation(maps[0], own)
        overlap = top_overlap(maps[0], own)
        known = alike[~np.isnan(alike)]
        interval = (
            bootstrap_interval(known, seed=seed) if len(known) > 1 else Interval(np.nan, np.nan)
        )
        found.append(
            StageCheck(
                stage,
                float(known.mean()) if len(known) else 0.0,
                _mean(overlap),
                _mean(chance),
                interval,
                len(known),
            )
        )
    curves = []
    for name in CURVES:
        own = _areas(cache.extra[f"{path}/{name}"])
        drawn = _areas(cache.extra[f"{path}/{name}_random"])
        interval = (
            bootstrap_interval(own - drawn, seed=seed) if len(own) > 1 else Interval(np.nan, np.nan)
        )
        curves.append(
            CurveCheck(
                name,
                float(own.mean()),
                float(drawn.mean()),
                float((own - drawn).mean()),
                interval,
            )
        )
    return SanityCheck(cache.name, method, maps.shape[1], tuple(found), tuple(curves))


def _other_rows(n: int, seed: int) -> np.ndarray:
    """For each row another one, at random: a shift of a random order by one."""
    order = generator(seed, "other rows").permutation(n)
    other = np.empty(n, dtype=np.int64)
    other[order] = np.roll(order, 1)
    return other


def _areas(curves: np.ndarray) -> np.ndarray:
    return np.asarray((curves[:, 1:] + curves[:, :-1]).astype(np.float64).mean(axis=1) / 2)


def _mean(values: np.ndarray) -> float:
    known = values[~np.isnan(values)]
    return float(known.mean()) if len(known) else float("nan")


def _and(names: list[str]) -> str:
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)
