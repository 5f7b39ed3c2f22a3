"""Rows of two sets that may be the same images: by id, by near spellings, or by equal numbers."""

from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from trustq.core.counts import counted, verb
from trustq.core.sample_ids import joined_keys, loose_keys

_MIX = np.uint64(0x9E3779B97F4A7C15)  # odd, of the golden ratio: spreads bits over the word


class Overlap(NamedTuple):
    """What two sets of rows have in common.

    `shared` are ids (of the first) that are in both by the common normalization; `near` are pairs
    that differ in case, leading zeros, a folder or `.0` alone, which are not joined; `equal` are
    pairs of rows whose numbers are equal bit for bit.
    """

    shared: list[str]
    near: list[tuple[str, str]]
    equal: list[tuple[int, int]]


def overlap(
    ids_a: np.ndarray | None,
    ids_b: np.ndarray | None,
    numbers_a: np.ndarray | None = None,
    numbers_b: np.ndarray | None = None,
) -> Overlap:
    """What rows of two sets share; ids or numbers may be None where a set has none.

    >>> overlap(np.array(["a.jpg", "IMG_07"]), np.array(["a", "img_7"]))
    Overlap(shared=['a.jpg'], near=[('IMG_07', 'img_7')], equal=[])
    """
    shared: list[str] = []
    near: list[tuple[str, str]] = []
    if ids_a is not None and ids_b is not None:
        shared = shared_ids(ids_a, ids_b)
        near = near_ids(ids_a, ids_b)
    equal: list[tuple[int, int]] = []
    if numbers_a is not None and numbers_b is not None:
        equal = equal_rows(numbers_a, numbers_b)
    return Overlap(shared, near, equal)


def shared_ids(a: np.ndarray, b: np.ndarray) -> list[str]:
    """Ids of `a` that `b` has too, as `a` spells them; blanks and file endings do not count."""
    own, theirs = joined_keys(a, b)
    there = set(theirs)
    return [text for text, key in zip(a.tolist(), own, strict=True) if key in there]


def near_ids(a: np.ndarray, b: np.ndarray) -> list[tuple[str, str]]:
    """Pairs of ids that are not joined and have one `loose_key`, which may be one image.

    Where a set has a loose key twice it says nothing (`a/1.jpg` and `b/1.jpg`).
    """
    if _one_form(a, b):
        return []
    loose_a, loose_b = loose_keys(a), loose_keys(b)
    both = set(loose_a) & set(loose_b)
    if not both:
        return []
    once_b = {key for key, count in Counter(loose_b).items() if count == 1 and key in both}
    once = {key for key, count in Counter(loose_a).items() if count == 1 and key in once_b}
    keys_a, theirs = joined_keys(a, b)
    keys_b = set(theirs)
    known = {key: str(text) for key, text in zip(loose_b, b.tolist(), strict=True) if key in once}
    return [
        (str(text), known[loose])
        for text, key, loose in zip(a.tolist(), keys_a, loose_a, strict=True)
        if loose in once and key not in keys_b
    ]


def _one_form(a: np.ndarray, b: np.ndarray) -> bool:
    """Whether all ids are alike but for their digits, so that no two differ in spelling alone."""
    if not len(a) or not len(b):
        return True
    if a.dtype.kind != "U" or b.dtype.kind != "U":
        return False
    forms = []
    for own in (a, b):
        codes = np.ascontiguousarray(own).view(np.uint32).reshape(len(own), -1)
        codes = np.where((codes > ord("0")) & (codes <= ord("9")), ord("0"), codes)
        if not (codes == codes[0]).all():
            return False
        forms.append("".join(map(chr, codes[0])).rstrip("\0"))
    return forms[0] == forms[1] and forms[0].isascii() and not set(forms[0]) & set("/\\.")


def near_names(
    a: Sequence[str] | np.ndarray, b: Sequence[str] | np.ndarray
) -> list[tuple[str, str]]:
    """Pairs of different names, e.g. of groups, with one `loose_key`; each name once."""
    a, b = np.asarray(a, dtype=str), np.asarray(b, dtype=str)
    if _one_form(a, b):
        return []
    return near_ids(*(np.array(sorted(set(own.tolist())), dtype=str) for own in (a, b)))


def equal_rows(a: np.ndarray, b: np.ndarray) -> list[tuple[int, int]]:
    """Pairs of rows, (n, d) and (m, d), that are equal bit for bit and too rare to be chance.

    Numbers of few values (a forest's votes, saturated probabilities) repeat within a set too: a row
    counts where it is alone in its own set, and pairs count where they are more than such repeats
    explain.
    """
    if a.ndim != 2 or b.ndim != 2 or a.shape[1] != b.shape[1] or not len(a) or not len(b):
        return []
    # A few columns tell nearly all rows apart; the others are read where these do not.
    if a.shape[1] > 4 and not _meet(_row_keys(a[:, :3]), _row_keys(b[:, :3])):
        return []
    keys_a, keys_b = _row_keys(a), _row_keys(b)
    if not _meet(keys_a, keys_b):
        return []
    values_a, first_a, count_a = np.unique(keys_a, return_index=True, return_counts=True)
    values_b, first_b, count_b = np.unique(keys_b, return_index=True, return_counts=True)
    _, at_a, at_b = np.intersect1d(values_a, values_b, assume_unique=True, return_indices=True)
    alone = (count_a[at_a] == 1) & (count_b[at_b] == 1)
    pairs = np.column_stack([first_a[at_a[alone]], first_b[at_b[alone]]])
    # Pairs of rows of one set that are equal, scaled to as many pairs as there are across.
    within = (count_a * (count_a - 1) / 2).sum() + (count_b * (count_b - 1) / 2).sum()
    n_within = len(a) * (len(a) - 1) / 2 + len(b) * (len(b) - 1) / 2
    by_chance = within / max(n_within, 1) * len(a) * len(b)
    if len(pairs) <= 2 * by_chance:
        return []
    order = np.argsort(pairs[:, 0], kind="stable")
    return [(int(i), int(j)) for i, j in pairs[order].tolist()]


def told(found: Overlap, a: str, b: str, ids_a: np.ndarray, ids_b: np.ndarray) -> list[str]:
    """Suspicions as notes: near spellings and equal rows of sets that are called `a` and `b`."""
    notes = []
    if found.near:
        notes.append(
            f"suspicion of a leak: {counted(len(found.near), 'id')} of {a} and {b} "
            f"{verb(len(found.near), 'differs', 'differ')} in spelling alone, e.g. "
            f"{found.near[0][0]!r} and {found.near[0][1]!r}; they are taken for different rows"
        )
    if found.equal:
        i, j = found.equal[0]
        notes.append(
            f"suspicion of a leak: {counted(len(found.equal), 'row')} of {a} "
            f"{verb(len(found.equal), 'equals one', 'equal rows')} of {b} bit for bit, e.g. "
            f"{str(ids_a[i])!r} and {str(ids_b[j])!r}"
        )
    return notes


def _meet(a: np.ndarray, b: np.ndarray) -> bool:
    """Whether two sets of keys have one in common."""
    ordered, wanted = np.sort(b), np.sort(a)
    at = np.minimum(np.searchsorted(ordered, wanted), len(ordered) - 1)
    return bool((ordered[at] == wanted).any())


SUSPICIOUS_AGREEMENT = 0.99  # of out-of-fold probabilities with the labels they did not see
_NEIGHBOURS, _SAMPLE = 10, 2000


def in_sample_signs(
    scores: np.ndarray,
    labels: np.ndarray,
    *,
    groups: np.ndarray,
    reference: np.ndarray | None = None,
    features: np.ndarray | None = None,
    called: str,
) -> list[str]:
    """What shows that scores called out of fold, (n, k), are of a model that saw its labels, (n,).

    It knows labels that by `reference`, (n,) with -1 for none, are known to be wrong, or more
    labels than neighbours of other groups do, by `features`, (n, d), where there are some. `called`
    is what a note calls the scores.
    """
    agrees = scores.argmax(axis=1) == labels
    wrong = np.zeros(len(labels), dtype=bool)
    if reference is not None:
        wrong = (reference >= 0) & (reference != labels)
    if wrong.sum() >= 10 and agrees[wrong].mean() > 0.8:
        return [
            f"suspicion of in-sample {called}: they agree with {int(agrees[wrong].sum())} of "
            f"{int(wrong.sum())} labels that are known to be wrong, which a model learns only from "
            "these labels"
        ]
    if len(agrees) < 50 or agrees.mean() < SUSPICIOUS_AGREEMENT:
        return []
    share = f"{100 * agrees.mean():.1f} % of the labels"
    if features is None:
        predicted = ", or the labels are its own predictions" if agrees.all() else ""
        return [
            f"suspicion of in-sample {called}: they agree with {share}, as those of a model that "
            f"was trained on these labels do{predicted}; with features in the file neighbours "
            "could tell"
        ]
    voted = _neighbour_agreement(features, labels, groups)
    if agrees.mean() - voted < 0.05:
        return []
    return [
        f"suspicion of in-sample {called}: they agree with {share}, and the neighbours of other "
        f"groups with {100 * voted:.1f} %"
    ]


def _neighbour_agreement(features: np.ndarray, labels: np.ndarray, groups: np.ndarray) -> float:
    """Share of rows whose label most of their nearest rows of other groups have."""
    rng = np.random.default_rng(0)
    rows = np.arange(len(labels))
    if len(rows) > _SAMPLE:
        rows = np.sort(rng.choice(len(labels), _SAMPLE, replace=False))
    values = np.asarray(features, dtype=np.float64)
    scale = values.std(axis=0)
    values = ((values - values.mean(axis=0)) / np.where(scale < 1e-12, 1, scale)).astype(np.float32)
    right = 0
    for row in rows.tolist():
        distance = ((values - values[row]) ** 2).sum(axis=1)
        distance[groups == groups[row]] = np.inf
        near = labels[np.argpartition(distance, _NEIGHBOURS)[:_NEIGHBOURS]]
        right += int(np.bincount(near).argmax() == labels[row])
    return right / len(rows)


def _row_keys(array: np.ndarray) -> np.ndarray:
    """One key per row; 0 and -0 are one."""
    plain = np.ascontiguousarray(array, dtype=np.float64) + 0.0
    # A hash of a row's bits, column by column: numpy sorts numbers, not rows.
    bits = plain.view(np.uint64)
    keys = np.zeros(len(bits), dtype=np.uint64)
    for place in range(bits.shape[1]):
        keys = np.multiply(keys ^ bits[:, place], _MIX)
        keys = keys ^ (keys >> np.uint64(29))
    return keys
