"""A small cache whose truth is known, for tests."""

import numpy as np

from trustq.store import Cache


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
