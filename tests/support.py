"""A small cache whose truth is known, for tests."""

import dataclasses
import logging
import re
from typing import Any, NamedTuple

import numpy as np
import pytest

from trustq.errors import TrustqError
from trustq.store import Cache


def refused(message: str) -> Any:
    """A context that expects a `TrustqError` with exactly this message."""
    return pytest.raises(TrustqError, match=f"^{re.escape(message)}$")


class ClosingHandler(logging.Handler):
    """A log handler that knows whether it was closed, as absl's closes the stream it writes to."""

    closed = False

    def close(self) -> None:
        self.closed = True
        super().close()


def make_cache(
    *,
    n: int = 240,
    d: int = 8,
    k: int = 3,
    separation: float = 2.0,
    exposure: str = "frozen",
    group_size: int = 2,
    seed: int = 0,
    **fields: object,
) -> Cache:
    """A cache of Gaussian classes, simulated so that the truth is known; groups share a class."""
    rng = np.random.default_rng(seed)
    label = np.repeat(rng.integers(k, size=n // group_size), group_size).astype(np.int16)
    features = rng.standard_normal((n, d)) + separation * np.eye(k, d)[label]
    group = np.array([f"g{i // group_size:04d}" for i in range(n)])
    part = np.array(["train", "train", "train", "val", "test"])[np.arange(n) // group_size % 5]
    values: dict[str, object] = {
        "dataset": "gauss",
        "classes": tuple("abcdefghij"[:k]),
        "exposure": exposure,
        "sample_id": np.array([f"s{i:04d}" for i in range(n)]),
        "split": part,
        "group_id": group,
        "label": label,
        "observed": np.full(n, -1, dtype=np.int16),
        "trusted": np.zeros(n, dtype=bool),
        "seen": np.zeros(n, dtype=np.uint8),
        "features": features.astype(np.float32),
        "content_digest": f"in memory {seed}",
    }
    return Cache(**(values | fields))  # type: ignore[arg-type]


def reordered(cache: Cache) -> Cache:
    """The same cache with its classes from last to first, in capitals."""
    k = len(cache.classes)

    def of(index: np.ndarray) -> np.ndarray:
        return np.where(index >= 0, k - 1 - index, -1).astype(np.int16)

    return dataclasses.replace(
        cache,
        classes=tuple(name.upper() for name in cache.classes[::-1]),
        label=of(cache.label),
        observed=of(cache.observed),
        logits=None if cache.logits is None else cache.logits[:, ::-1],
        extra={
            name: np.ascontiguousarray(value[..., ::-1]) if name.endswith("logits") else value
            for name, value in cache.extra.items()
        },
        content_digest=f"{cache.content_digest} reordered",
    )


class Study(NamedTuple):
    """Whether each 95 % interval of a simulated study holds the truth, and how wide it is."""

    holds: dict[str, bool]
    width: dict[str, float]


def simulated_study(
    seed: int,
    *,
    n_seeds: int = 10,
    n_lesions: int = 200,
    gain: float = 0.15,
    seed_sd: float = 0.15,
    lesion_sd: float = 0.5,
    replicates: int = 1000,
) -> Study:
    """Intervals at 95 % of the difference of accuracy in a simulated study whose truth is known.

    Two arms, `n_seeds` paired trainings, lesions of one to four images. Which images an arm gets
    right depends on the lesion (shared by arms), on how the arms differ on the lesion, and on the
    training. The truth is the mean over infinitely many lesions and trainings.
    Intervals: `crossed`; `percentile` draws trainings and lesions independently and takes
    percentiles; `nested` redraws the lesions for every training; `naive` takes every image of every
    training for an independent row; `seeds` resamples trainings alone.
    """
    from scipy.stats import norm

    from trustq.evaluation.bootstrap import crossed_figures

    rng = np.random.default_rng([seed, n_seeds, round(1000 * seed_sd), 6])
    sizes = rng.integers(1, 5, n_lesions)
    lesion = np.repeat(np.arange(n_lesions), sizes)
    n = len(lesion)
    easy = rng.normal(0, 1.0, n_lesions)[lesion]  # shared by the arms
    own = rng.normal(0, lesion_sd, (2, n_lesions))[:, lesion]  # arm by lesion
    trained = rng.normal(0, seed_sd, (2, n_seeds))  # arm by training
    offset = np.array([0.8 + gain, 0.8])
    latent = easy + own[:, None] + trained[:, :, None] + offset[:, None, None]
    right = latent + rng.normal(size=(2, n_seeds, n)) > 0
    spread = np.sqrt(2 + lesion_sd**2 + seed_sd**2)
    truth = float(np.diff(norm.cdf(offset[::-1] / spread))[0])

    labels = np.zeros(n, dtype=int)
    probs = np.where(right[..., None], [0.8, 0.2], [0.2, 0.8])
    found = crossed_figures(
        labels, *probs, groups=lesion, seed=seed, figures=("accuracy",), replicates=replicates
    )["accuracy"]
    intervals = {"crossed": (found.lower, found.upper)}

    of_lesion = np.stack([[np.bincount(lesion, weights=s) for s in arm] for arm in right])
    difference = of_lesion[0] - of_lesion[1]  # (trainings, lesions), in images
    chosen = rng.integers(0, n_seeds, (replicates, n_seeds))

    def redrawn() -> np.ndarray:
        """Differences of every training, (replicates, trainings), on lesions drawn anew."""
        drawn = rng.integers(0, n_lesions, (replicates, n_lesions))
        drawn += n_lesions * np.arange(replicates)[:, None]
        counts = np.bincount(drawn.ravel(), minlength=drawn.size).reshape(drawn.shape).astype(float)
        return np.asarray((counts @ difference.T) / (counts @ sizes)[:, None])

    nested = [np.take_along_axis(redrawn(), column[:, None], axis=1) for column in chosen.T]
    rows, times = np.unique(right[0].astype(int) - right[1], return_counts=True)
    replicated = {
        "percentile": np.take_along_axis(redrawn(), chosen, axis=1).mean(axis=1),
        "nested": np.mean(nested, axis=0),
        "naive": rng.multinomial(times.sum(), times / times.sum(), replicates) @ rows / times.sum(),
        "seeds": (difference.sum(axis=1) / n)[chosen].mean(axis=1),
    }
    for name, drawn in replicated.items():
        lower, upper = np.quantile(drawn, [0.025, 0.975])
        intervals[name] = (lower, upper)
    return Study(
        {name: bool(lower <= truth <= upper) for name, (lower, upper) in intervals.items()},
        {name: float(upper - lower) for name, (lower, upper) in intervals.items()},
    )


def guarantee_draw(
    seed: int, *, n_groups: int, largest: int, risk: float = 0.05, delta: float = 0.1
) -> dict[str, tuple[bool, float]]:
    """Whether the true risk of the chosen threshold exceeds `risk`, and its coverage, by method.

    Confidence c is uniform, a row is wrong with probability (1 - c)^1.5 / 2, so the rows from t up
    have risk (1 - t)^1.5 / 5. Rows of one group (1 to `largest` of them) have nearly one confidence
    and are right or wrong together in nine of ten cases.
    """
    from trustq.metrics.risk_guarantee import risk_guarantee
    from trustq.metrics.selective import coverage_at_risk

    rng = np.random.default_rng([seed, n_groups, largest])
    groups = np.repeat(np.arange(n_groups), rng.integers(1, largest + 1, n_groups))
    n = len(groups)
    confidence = (rng.random(n_groups)[groups] + 0.02 * rng.random(n)) % 1
    luck = np.where(rng.random(n) < 0.9, rng.random(n_groups)[groups], rng.random(n))
    wrong = luck < (1 - confidence) ** 1.5 / 2

    options = {"risk": risk, "delta": delta}
    found = {
        "sgr, groups": risk_guarantee(wrong, confidence, groups=groups, seed=seed, **options),
        "fixed-sequence, groups": risk_guarantee(
            wrong, confidence, groups=groups, seed=seed, method="fixed-sequence", **options
        ),
        "sgr, rows": risk_guarantee(wrong, confidence, **options),
        "fixed-sequence, rows": risk_guarantee(
            wrong, confidence, method="fixed-sequence", **options
        ),
        "empirical risk": coverage_at_risk(wrong, confidence, risk=risk),
    }
    answer = {}
    for name, chosen in found.items():
        true_risk = (1 - min(chosen.threshold, 1.0)) ** 1.5 / 5
        answer[name] = (bool(true_risk > risk), float(chosen.coverage))
    return answer
