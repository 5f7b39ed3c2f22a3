"""Policy: what of a ranking is bought, under prices, caps, quotas and for diversity."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from trustq.core.class_names import ClassPosition
from trustq.core.label_sheets import read_numbers
from trustq.core.sample_ids import find_ids, nearly
from trustq.core.words import split_pairs
from trustq.errors import InputError
from trustq.recipes import SweepRecipe
from trustq.repair.setup import Experiment
from trustq.scoring.neighbours import k_centre

TOLERANCE = 1e-9  # of money


@dataclass(frozen=True)
class Policy:
    """How a budget is spent: units with prices, and the limits of scored arms.

    A unit is a row or, bought by group, a whole group, which one diagnosis covers.
    """

    unit: np.ndarray  # (n,) unit of each training row
    price: np.ndarray  # (n_units,)
    class_cap: np.ndarray  # (k,) units of each class at most; infinite without a cap
    quota: str  # none, equal or proportional
    diversity: float  # candidates per purchase from which a batch is spread; 1 = the first ones

    def total(self, rows: np.ndarray) -> int:
        """Price of all units that hold one of the rows, (n,) of bool, as a whole number."""
        is_bought = np.bincount(self.unit[rows], minlength=len(self.price)) > 0
        return int(np.ceil(self.price[is_bought].sum() - TOLERANCE))

    def most_hits(self, wrong: np.ndarray, budget: int) -> int:
        """Wrong rows, of (n,) of bool, that a budget can buy at most.

        Exact where all units cost the same or hold one row; else what taking the cheapest hits
        first gives.
        """
        hits = np.bincount(self.unit, weights=wrong, minlength=len(self.price))
        order = np.argsort(-hits / self.price, kind="stable")
        order = order[hits[order] > 0]
        affordable = self.price[order].cumsum() <= budget + TOLERANCE
        return int(hits[order][affordable].sum())

    def choose(
        self,
        ranked: np.ndarray,
        spend: float,
        *,
        is_scored: bool,
        current: np.ndarray,
        n_taken: np.ndarray,
        features: np.ndarray,
    ) -> np.ndarray:
        """Rows to take of a ranking, in order, for at most `spend`.

        `ranked` are candidates, most wanted first; `current` (n,) the labels now, by which caps and
        quotas go; `n_taken` (k,) the units of each class taken in earlier rounds. Caps, quotas and
        diversity are for scored arms: references stay what their names say. What a quota leaves
        unspent goes to the first of the ranking.
        """
        first = np.unique(self.unit[ranked], return_index=True)[1]
        leaders = ranked[np.sort(first)]  # one row a unit, in order
        if is_scored and self.diversity > 1 and len(leaders):
            pool = self._affordable(leaders, spend * self.diversity, current, n_taken)
            leaders = leaders[pool]
        if is_scored and self.diversity > 1 and len(leaders):
            covered = np.zeros(len(leaders), dtype=bool)
            covered[0] = True  # the most wanted one is taken in any case
            spread = k_centre(features[leaders], covered, n_wanted=len(leaders) - 1)
            leaders = leaders[np.concatenate([[0], np.argsort(spread[1:], kind="stable") + 1])]
        taken = np.zeros(len(leaders), dtype=bool)
        if not is_scored:
            n_taken = np.full(len(self.class_cap), -np.inf)  # no cap is reached
        elif self.quota != "none" and len(leaders):
            counts = np.bincount(current[leaders], minlength=len(n_taken))
            shares = counts / counts.sum() if self.quota == "proportional" else counts > 0
            allowed = _largest_remainders(spend * shares / shares.sum())
            for c in np.flatnonzero(allowed):
                own = np.flatnonzero(current[leaders] == c)
                taken[own[self._affordable(leaders[own], allowed[c], current, n_taken)]] = True
            n_taken = n_taken + np.bincount(current[leaders[taken]], minlength=len(n_taken))
        left = np.flatnonzero(~taken)
        spend -= self.price[self.unit[leaders[taken]]].sum()
        taken[left[self._affordable(leaders[left], spend, current, n_taken)]] = True
        units = self.unit[leaders[taken]]
        # All rows of the units, each unit together, in the order of the units.
        position = np.full(len(self.price), -1)
        position[units] = np.arange(len(units))
        rows = ranked[position[self.unit[ranked]] >= 0]
        return np.asarray(rows[np.argsort(position[self.unit[rows]], kind="stable")])

    def prices_of(self, rows: np.ndarray) -> np.ndarray:
        """What each of the rows cost, (m,): a unit's price on its first row, 0 on the others."""
        prices = np.zeros(len(rows))
        units, first = np.unique(self.unit[rows], return_index=True)
        prices[first] = self.price[units]
        return prices

    def _affordable(
        self, leaders: np.ndarray, spend: float, current: np.ndarray, n_taken: np.ndarray
    ) -> np.ndarray:
        """Positions of the leaders that are taken one after the other, within money and caps."""
        prices = self.price[self.unit[leaders]]
        cheapest = prices.min(initial=np.inf)
        n_taken, taken = n_taken.astype(float), []
        for position, (price, c) in enumerate(zip(prices, current[leaders], strict=True)):
            if spend + TOLERANCE < cheapest:
                break
            if price <= spend + TOLERANCE and n_taken[c] + 1 <= self.class_cap[c]:
                taken.append(position)
                n_taken[c] += 1
                spend -= price
        return np.array(taken, dtype=np.int64)


def make_policy(experiment: Experiment, sweep: SweepRecipe) -> Policy:
    """The recipe's policy on an experiment; raises `TrustqError` for settings out of range."""
    n = len(experiment.labels)
    unit = experiment.training.groups if sweep.buy_unit == "group" else np.arange(n)
    price = np.zeros(int(unit.max(initial=-1)) + 1)
    np.maximum.at(price, unit, _row_prices(experiment, sweep.cost))
    if not sweep.diversity >= 1:
        raise InputError(
            f"diversity is {sweep.diversity:g}, expected 1 or more.",
            where="diversity",
            found=sweep.diversity,
        )
    return Policy(unit, price, _caps(experiment, unit, sweep), sweep.quota, sweep.diversity)


def _row_prices(experiment: Experiment, cost: str) -> np.ndarray:
    """Price of each row: 1, by its observed label (`mel=3,bkl=2`), or from a file by sample id."""
    n, classes = len(experiment.labels), experiment.cache.classes
    if not cost:
        return np.ones(n)
    if cost.endswith((".csv", ".csv.gz", ".parquet")):
        found = read_numbers(Path(cost), column="cost")
        own = find_ids(list(found), experiment.sample_ids, source=cost)
        prices = np.full(n, np.nan)
        for row, number in zip(own, found.values(), strict=True):
            if row is not None:
                prices[row] = number
        missing = experiment.sample_ids[np.isnan(prices)].tolist()
        if missing:
            strangers = [text for text, row in zip(found, own, strict=True) if row is None]
            raise InputError(
                f"{cost} has no cost of {len(missing)} of the {n} training rows, first "
                f"{missing[0]}{nearly(strangers, experiment.sample_ids)}."
            )
        return prices
    by_class = np.ones(len(classes))
    find = ClassPosition(classes)
    for name, text in split_pairs(cost):
        place = find(name)
        try:
            price = float(text) if place is not None else -1.0
        except ValueError:
            price = -1.0
        if place is not None:
            by_class[place] = price
        if not 0 < price < np.inf:
            raise InputError(
                f"cost is {cost!r}, expected CLASS=PRICE,... with prices above 0 and classes of "
                f"{', '.join(classes)}, or a file of sample_id and cost.",
                where="cost",
                found=cost,
            )
    return np.asarray(by_class[experiment.start.observed])


def _caps(experiment: Experiment, unit: np.ndarray, sweep: SweepRecipe) -> np.ndarray:
    """Units of each class that may be taken: a number, or a share of those at the start."""
    k = len(experiment.cache.classes)
    text = sweep.class_cap
    if not text:
        return np.full(k, np.inf)
    first = np.unique(unit, return_index=True)[1]
    counts = np.bincount(experiment.start.observed[first], minlength=k)
    try:
        if text.endswith("%") and 0 <= float(text[:-1]) <= 100:
            return np.asarray(np.floor(float(text[:-1]) / 100 * counts + TOLERANCE))
        if int(text) >= 0:
            return np.full(k, float(int(text)))
    except ValueError:
        pass
    raise InputError(
        f"class_cap is {text!r}, expected a number (10) or a share of each class (20%).",
        where="class_cap",
        found=text,
    )


def _largest_remainders(shares: np.ndarray) -> np.ndarray:
    whole = np.floor(shares + TOLERANCE)
    left = int(round(shares.sum() - whole.sum()))
    whole[np.argsort(-(shares - whole), kind="stable")[:left]] += 1
    return whole
