"""Which runs of two arms are pairs: same network, draw and cache, as in the view `paired`."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from trustq.errors import InputError

# Columns of a run that pairing looks at.
RUN_COLUMNS = ("backbone_seed", "draw_seed", "cache_digest", "origin_digest", "shared_key")


@dataclass(frozen=True)
class Stored:
    """Which stored predictions are read: rows, stage, data set and a condition on `runs`."""

    split: str = "test"
    stage: str = "calibrated"
    eval_dataset: str | None = None  # None: that of the run itself
    where: str = ""


class Run(NamedTuple):
    """One run as pairing sees it: its two seeds, and where its rows and labels come from."""

    network: int | None
    draw: int | None
    cache: str | None = None
    origin: str | None = None  # the cache whose labels were repaired, where a network was retrained
    shared_key: str | None = None  # what the arms of one cache and draw share before they buy

    @property
    def title(self) -> str:
        """NETWORK/DRAW, as tables list them."""
        return f"{self.network}/{self.draw}"


class Pairing(NamedTuple):
    """Pairs of positions in two lists of runs, and a sentence for each kind of run left out."""

    pairs: tuple[tuple[int, int], ...]
    left_out: tuple[str, ...]


def run_of(row: dict[str, Any]) -> Run:
    """The run of a row that has the columns `RUN_COLUMNS`."""
    return Run(*(_plain(row.get(name)) for name in RUN_COLUMNS))


def pair_runs(
    a: Sequence[Run], b: Sequence[Run], *, names: tuple[str, str], across_caches: bool = False
) -> Pairing:
    """Pairs of runs of two arms with the same network and draw, of the same cache.

    On one cache the arms share all before they buy; where a network was trained again, both go back
    to one cache. Runs of the same seeds on another cache (relabelled, another split) are not a
    pair, and neither is a run whose partner is missing: both are named in `left_out`. With
    `across_caches` the compared column decides the cache, so that seeds alone pair. Errors: pairs
    of one network and draw on several caches.

    >>> a, b = [Run(1, 1, "x"), Run(2, 1, "x")], [Run(1, 1, "x"), Run(9, 1, "x")]
    >>> found = pair_runs(a, b, names=("entropy", "random"))
    >>> found.pairs, found.left_out
    (((0, 0),), ('entropy 2/1 and random 9/1 have no partner (network/draw)',))
    """
    of_seeds: dict[tuple[int | None, int | None], list[int]] = {}
    for j, one in enumerate(b):
        of_seeds.setdefault((one.network, one.draw), []).append(j)
    # Every partner that a run could have: one that has two has none for certain.
    pairs = [
        (i, j)
        for i, one in enumerate(a)
        for j in of_seeds.get((one.network, one.draw), [])
        if _belong(one, b[j], across_caches)
    ]
    titles = [a[i].title for i, _ in pairs]
    if twice := next((title for title in titles if titles.count(title) > 1), None):
        raise InputError(
            f"{names[0]} and {names[1]} ran network/draw {twice} on several caches, which are not "
            "independent: choose one by a condition, e.g. cache_digest = '...'."
        )
    lone_a = [one for i, one in enumerate(a) if i not in {i for i, _ in pairs}]
    lone_b = [b[j] for j in range(len(b)) if j not in {j for _, j in pairs}]
    return Pairing(tuple(pairs), tuple(_left_out(lone_a, lone_b, names)))


def _belong(a: Run, b: Run, across_caches: bool) -> bool:
    if (a.network, a.draw) != (b.network, b.draw):
        return False
    if across_caches:
        return True
    if a.cache == b.cache:
        return a.shared_key == b.shared_key
    return (a.origin or a.cache) == (b.origin or b.cache)


def _left_out(a: list[Run], b: list[Run], names: tuple[str, str]) -> list[str]:
    of_b = {(run.network, run.draw) for run in b}
    of_a = {(run.network, run.draw) for run in a}
    clash = [run for run in a if (run.network, run.draw) in of_b]
    lone = [
        f"{name} {_listed(own)}"
        for name, own in zip(
            names,
            (
                [run for run in a if (run.network, run.draw) not in of_b],
                [run for run in b if (run.network, run.draw) not in of_a],
            ),
            strict=True,
        )
        if own
    ]
    said = []
    if lone:
        verb = "has" if len(lone) == 1 and len(a) + len(b) == 1 else "have"
        said.append(f"{' and '.join(lone)} {verb} no partner (network/draw)")
    if clash:
        said.append(
            f"{names[0]} and {names[1]} ran {_listed(clash)} on different caches, which differ in "
            "labels, splits or features, or with different settings before any purchase: these "
            "runs are no pair"
        )
    return said


def _listed(runs: Sequence[Run], shown: int = 6) -> str:
    titles = list(dict.fromkeys(run.title for run in runs))
    more = f" and {len(titles) - shown} more" if len(titles) > shown else ""
    return ", ".join(titles[:shown]) + more


def _plain(value: Any) -> Any:
    """A value of a numpy column as Python's own, masked ones as None."""
    if value is None or value is np.ma.masked:
        return None
    return value.item() if hasattr(value, "item") else value
