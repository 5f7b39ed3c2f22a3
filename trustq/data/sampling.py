"""A small part of a manifest that is like the whole: some groups of every split and class."""

import math

import numpy as np

from trustq.core.generators import generator
from trustq.data.manifest import Manifest
from trustq.errors import InputError


def sample_groups(manifest: Manifest, n: int, *, seed: int) -> Manifest:
    """About `n` rows of a manifest, in whole groups, with its shares of splits and classes.

    Every split and class that has rows keeps one group or more, so there may be more rows than
    asked for. Raises `TrustqError` for fewer than one row; all rows where `n` is not below them.
    """
    if n < 1:
        raise InputError(f"`images={n}`: expected 1 or more.", where="images", found=n)
    if n >= len(manifest):
        return manifest
    groups = manifest.columns["group_id"].astype(str)
    # A group's stratum is that of its first row: groups do not cross splits, few cross classes.
    names, first, codes = np.unique(groups, return_index=True, return_inverse=True)
    sizes = np.bincount(codes)
    strata = np.array(
        [f"{manifest.columns['split'][row]}\0{manifest.columns['label'][row]}" for row in first]
    )
    order = generator(seed, "sample").permutation(len(names))
    kept = np.zeros(len(names), dtype=bool)
    for stratum in np.unique(strata):
        own = order[strata[order] == stratum]
        wanted = math.floor(n * sizes[own].sum() / len(manifest) + 0.5)
        before = np.cumsum(sizes[own]) - sizes[own]
        kept[own[before < max(wanted, 1)]] = True
    return manifest.subset(np.flatnonzero(kept[codes]))
