"""Splits and folds that keep every group whole and every class spread."""

from collections.abc import Sequence

import numpy as np

from trustq.core.generators import generator
from trustq.errors import InputError


def split_by_group(
    labels: np.ndarray,
    groups: np.ndarray,
    *,
    fractions: Sequence[float] = (0.70, 0.15, 0.15),
    seed: int,
) -> np.ndarray:
    """Part of each row, (n,) of indices into `fractions`, stratified by label and whole by group.

    A group of several labels counts as its most frequent one. A class with at least as many groups
    as there are parts has rows in every part.

    >>> part = split_by_group(np.zeros(20, int), np.arange(20), seed=0)
    >>> np.bincount(part).tolist()
    [14, 3, 3]
    """
    if len(fractions) == 0 or min(fractions) <= 0 or abs(sum(fractions) - 1) > 1e-6:
        raise InputError(
            f"The split fractions {', '.join(map(str, fractions))} must be positive and sum to 1."
        )
    return _allot(labels, groups, np.asarray(fractions, float), generator(seed, "splits"))


def group_folds(labels: np.ndarray, groups: np.ndarray, *, n_folds: int, seed: int) -> np.ndarray:
    """Fold of each row, (n,) of 0 to n_folds - 1, stratified by `labels` and whole by group.

    >>> folds = group_folds(np.array([0, 0, 1, 1]), np.array([5, 6, 7, 8]), n_folds=2, seed=0)
    >>> sorted(folds[:2].tolist()), sorted(folds[2:].tolist())
    ([0, 1], [0, 1])
    """
    n_groups = len(np.unique(groups))
    if n_groups < 2:
        raise InputError(
            "All rows are of one group, so no fold leaves it out, and no row can "
            "be judged by a model that did not see its group: give groups that are several, or "
            "none, and every row is its own (`groups`).",
            where="groups",
        )
    if n_folds < 2 or n_groups < n_folds:
        most = max(n_groups, 2) if n_folds > n_groups else 2
        raise InputError(
            f"{n_groups} groups cannot make {n_folds} folds: folds are whole groups, at least 2 "
            f"folds, and no more than groups; use {most} folds (`folds={most}`).",
            where="folds",
            found=n_folds,
        )
    rng = generator(seed, "folds")
    return _allot(labels, groups, np.full(n_folds, 1 / n_folds), rng)


def thin_classes(labels: np.ndarray, groups: np.ndarray, *, n_folds: int) -> dict[int, int]:
    """Classes that have fewer groups than folds, with their number of groups.

    >>> thin_classes(np.array([0, 0, 1]), np.array([1, 2, 3]), n_folds=2)
    {1: 1}
    """
    pairs = np.unique(np.stack([labels, np.unique(groups, return_inverse=True)[1]]), axis=1)
    classes, counts = np.unique(pairs[0], return_counts=True)
    return {int(c): int(n) for c, n in zip(classes, counts, strict=True) if n < n_folds}


def _allot(
    labels: np.ndarray, groups: np.ndarray, fractions: np.ndarray, rng: np.random.Generator
) -> np.ndarray:
    group_of_row = np.unique(groups, return_inverse=True)[1]
    class_of_row = np.unique(labels, return_inverse=True)[1]
    n_groups, n_classes, n_parts = group_of_row.max() + 1, class_of_row.max() + 1, len(fractions)
    sizes = np.bincount(group_of_row)
    counts = np.bincount(
        group_of_row * n_classes + class_of_row, minlength=n_groups * n_classes
    ).reshape(n_groups, n_classes)
    stratum = counts.argmax(axis=1)

    part_of_group = np.empty(n_groups, dtype=np.int64)
    share, parts = fractions.tolist(), list(range(n_parts))
    overall = [0.0] * n_parts  # rows so far, over all classes
    order = rng.permutation(n_groups)
    # Plain numbers, for thousands of groups choose among a handful of parts.
    for c in np.unique(stratum):
        members = order[stratum[order] == c]
        # Large groups first, while there is room to balance them; random among equals.
        members = members[np.argsort(-sizes[members], kind="stable")]
        if len({*share}) == 1 and sizes[members[0]] == sizes[members[-1]]:
            # Equal groups for equal parts go round in turn, as they do below one by one.
            turn = np.argsort(overall, kind="stable")
            part_of_group[members] = np.resize(turn, len(members))
            given = np.bincount(part_of_group[members], minlength=n_parts) * sizes[members[0]]
            overall = (overall + given).tolist()
            continue
        want = (fractions * sizes[members].sum()).tolist()
        have = [0.0] * n_parts
        chosen = []
        # The last (smallest) groups are kept for parts that would else get none of this class.
        for position, size in enumerate(sizes[members].tolist()):
            left = len(members) - position
            candidates = parts
            if len(members) >= n_parts and left <= have.count(0.0):
                candidates = [part for part in parts if have[part] == 0]
            # The part that is least filled for its share (Sainte-Lague). Filling the one that lacks
            # most rows gave train every HAM10000 lesion of three and more images, and with them 61
            # % histology against 36 % in val and test.
            filled = [(have[part] + size / 2) / want[part] for part in candidates]
            limit = min(filled) + 1e-9
            best = [part for part, full in zip(candidates, filled, strict=True) if full <= limit]
            part = min(best, key=lambda part: overall[part] / share[part])
            chosen.append(part)
            have[part] += size
            overall[part] += size
        part_of_group[members] = chosen
    return part_of_group[group_of_row]
