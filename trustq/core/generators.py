"""Random generators that depend on a seed and a purpose, and on nothing else."""

import numpy as np
import xxhash

from trustq.errors import InputError


def generator(seed: int, purpose: str, *index: int) -> np.random.Generator:
    """Generator for one purpose of one seed, e.g. `generator(7, "random", round)`.

    Streams of different purposes are independent, so adding an arm or a round changes no other
    draw. Raises `TrustqError` for a seed below 0.

    >>> a, b = generator(7, "noise"), generator(7, "noise")
    >>> a.integers(100, size=3).tolist() == b.integers(100, size=3).tolist()
    True
    """
    if seed < 0:
        raise InputError(f"`seed={seed}`: a seed is a whole number of 0 or more.", found=seed)
    words = [seed, xxhash.xxh3_64_intdigest(purpose.encode())]
    # The index is a spawn key, for a trailing 0 among the words would change nothing.
    return np.random.default_rng(np.random.SeedSequence(words, spawn_key=index))
