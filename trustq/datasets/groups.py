"""Groups of rows that turn out to show one lesion: joined, so that no split divides them."""

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from trustq.core.column_names import called
from trustq.core.columns import Columns, read_table
from trustq.core.words import is_blank, plain_numbers
from trustq.datasets.rows import (
    FALSE_WORDS,
    TRUE_WORDS,
    column,
    image_names,
    named_rows,
    texts,
)
from trustq.errors import InputError

PAIR = ("sample_a", "sample_b")
# What other lists of pairs call their two columns: ISIC 2020's, corrected data sets', ours without.
PAIRS = (PAIR, ("image_name_1", "image_name_2"), ("image_a", "image_b"), ("image_1", "image_2"))
CONFIRMED = {**dict.fromkeys(TRUE_WORDS, True), **dict.fromkeys(FALSE_WORDS, False)}


def merged_groups(columns: Columns, pairs_file: Path) -> tuple[Columns, str]:
    """Columns whose groups are one where a table of pairs joins them, and a sentence on it.

    The table has `sample_a` and `sample_b`, as `trustq audit duplicates` writes it, or the columns
    of another of `PAIRS`, as ISIC 2020's list of duplicates; ids count without the ending of an
    image file. With a column `confirmed` only the rows that say yes, true or 1 there count, and not
    no, false, 0 or a blank. Pairs with an id of other data are passed over and counted. Raises
    `TrustqError` for another word, and where no pair is of these data.
    """
    path = Path(pairs_file)
    table = read_table(path)
    there = {name.strip().casefold() for name in table}
    named = next((names for names in PAIRS if set(names) <= there), PAIR)
    ends = [image_names(column(table, name, source=str(path)).tolist()).tolist() for name in named]
    pairs = list(zip(*ends, strict=True))
    if (confirmed := called(table, "confirmed")) is not None:
        said = texts(table[confirmed].tolist()).tolist()
        words = ["no" if is_blank(word) else str(word).lower() for word in plain_numbers(said)]
        strange = [row for row, word in enumerate(words) if word not in CONFIRMED]
        if strange:
            raise InputError(
                f"{path}: confirmed is {said[strange[0]]!r} in {named_rows(strange, ends[0])}; "
                f"expected {', '.join(CONFIRMED)} or a blank.",
                path=path,
                expected=CONFIRMED,
            )
        pairs = [pair for pair, word in zip(pairs, words, strict=True) if CONFIRMED[word]]
    names = image_names(columns["sample_id"].tolist()).tolist()
    row_of = {name: row for row, name in enumerate(names)}
    inside = [(a, b) for a, b in pairs if a in row_of and b in row_of]
    if not inside:
        raise InputError(
            f"{path}: none of its {len(pairs):,} pairs joins two samples of these data. A column "
            "`confirmed`, where there is one, must say yes.",
            path=path,
        )
    groups = columns["group_id"].tolist()
    joined = join_groups(groups, [(groups[row_of[a]], groups[row_of[b]]) for a, b in inside])
    n_before, n_after = len(set(groups)), len(set(joined))
    note = (
        f"{path.name}: {len(inside):,} pairs of {len(pairs):,} are of these data; "
        f"{n_before:,} groups became {n_after:,}."
    )
    return {**columns, "group_id": texts(joined)}, note


def join_groups(groups: Sequence[str], pairs: Iterable[tuple[str, str]]) -> list[str]:
    """Each row's group after joining; joined groups take the name that is first in `groups`.

    >>> join_groups(["a", "b", "c", "d"], [("b", "c"), ("c", "a")])
    ['a', 'a', 'a', 'd']
    """
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    position = {name: index for index, name in enumerate(dict.fromkeys(groups))}
    ends = np.array([(position[a], position[b]) for a, b in pairs], dtype=np.intp).reshape(-1, 2)
    n = len(position)
    graph = coo_array((np.ones(len(ends)), (ends[:, 0], ends[:, 1])), shape=(n, n))
    component = connected_components(graph, directed=False)[1]
    name_of: dict[int, str] = {}
    for name, index in position.items():
        name_of.setdefault(int(component[index]), name)
    return [name_of[int(component[position[name]])] for name in groups]
