"""Figures of parts of the rows: the values of a metadata column, bins of numbers, bands of age."""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from trustq.core.counts import counted
from trustq.errors import InputError, TrustqError
from trustq.evaluation.bootstrap import Estimate, figure_intervals
from trustq.metrics.per_class import UNKNOWN, slice_name

AGE_EDGES = (30, 50, 70)  # years; bands <30, 30-50, 50-70, 70+, each from its lower edge on
BINS = 4  # quantile bins of a column of numbers
FEW_VALUES = 10  # a numeric column of fewer distinct values keeps them as they are
FIGURES = ("accuracy", "macro_f1", "nll", "ece", "augrc")


class SliceFigures(NamedTuple):
    """Figures of one slice with their intervals, `n` rows of `n_groups` groups."""

    value: str
    n: int
    n_groups: int
    figures: dict[str, Estimate]


def slice_figures(
    labels: np.ndarray,
    values: np.ndarray,
    *,
    logits: np.ndarray | None = None,
    probs: np.ndarray | None = None,
    groups: np.ndarray | None = None,
    ages: bool = False,
    seed: int,
    replicates: int = 1000,
) -> list[SliceFigures]:
    """Figures of every slice of the rows, with 95 % intervals over groups.

    `labels` is (n,), `values` (n,) any column, blanks included: see `slice_names`, or,
    with `ages`, `age_bands`. macro_f1 averages the classes present in the slice, so slices of other
    classes do not compare by it.

    >>> probs = np.array([[0.9, 0.1], [0.2, 0.8], [0.6, 0.4]])
    >>> rows = slice_figures(np.array([0, 1, 1]), np.array(["f", "f", None]), probs=probs, seed=0)
    >>> [(row.value, row.n, row.figures["accuracy"].value) for row in rows]
    [('f', 2, 1.0), ('unknown', 1, 0.0)]
    """
    labels = np.asarray(labels)
    names, order = (age_bands if ages else slice_names)(values)
    if len(names) != len(labels):
        raise InputError(
            f"values has {counted(len(names), 'row')} and labels has {len(labels)}: "
            "pass the same rows in the same order."
        )

    def part(array: np.ndarray | None, rows: np.ndarray) -> np.ndarray | None:
        return None if array is None else np.asarray(array)[rows]

    found = []
    for name in order:
        rows = np.flatnonzero(names == name)
        own = part(groups, rows)
        figures = figure_intervals(
            labels[rows],
            logits=part(logits, rows),
            probs=part(probs, rows),
            groups=own,
            seed=seed,
            figures=FIGURES,
            replicates=replicates,
        )
        n_groups = len(rows) if own is None else len(np.unique(own))
        found.append(SliceFigures(name, len(rows), n_groups, figures))
    return found


def slice_names(values: np.ndarray) -> tuple[np.ndarray, list[str]]:
    """The slice of each row, and the slices in order, "unknown" last.

    Numbers of ten and more distinct values fall into four quantile bins [low, high), the last one
    closed; anything else is its own slice. Blanks are "unknown". Errors: numbers that are one and
    the same in all rows, or in so many that no quantile divides them.

    >>> slice_names(np.array(["m", None, "f"], dtype=object))[1]
    ['f', 'm', 'unknown']
    >>> slice_names(np.arange(12))[1]
    ['0 to 2.75', '2.75 to 5.5', '5.5 to 8.25', '8.25 to 11']
    """
    known = [slice_name(value) for value in np.ma.asarray(values).tolist()]  # None where masked
    numbers = [_number(text) for text in known]
    given = [number for number in numbers if number is not None]
    if len(given) == sum(name != UNKNOWN for name in known) and len(set(given)) >= FEW_VALUES:
        edges = np.unique(np.quantile(given, np.linspace(0, 1, BINS + 1)))
        if len(edges) < 3:
            raise _constant(float(np.median(given)), "more than three quarters of")
        return _binned(numbers, _titles(edges), lambda x: _bin(x, edges[1:-1]))
    if len(numbers) > 1 and len(given) == len(numbers) and len(set(given)) == 1:
        raise _constant(given[0], "all")
    names = np.array(known)
    return names, sorted(set(known) - {UNKNOWN}) + [UNKNOWN] * (UNKNOWN in known)


def age_bands(ages: np.ndarray) -> tuple[np.ndarray, list[str]]:
    """The age band of each row, and the bands in order: <30, 30-50, 50-70, 70+, unknown.

    `ages` is (n,) in years; a band starts at its lower edge. Blanks are "unknown". Errors: an age
    below 0 or above 130, or text.

    >>> age_bands(np.array([29.9, 30, 70, np.nan]))[0].tolist()
    ['<30', '30-50', '70+', 'unknown']
    """
    known = [slice_name(age) for age in np.ma.asarray(ages).tolist()]
    numbers = [_number(text) for text in known]
    for name, number in zip(known, numbers, strict=True):
        if name != UNKNOWN and (number is None or not 0 <= number <= 130):
            raise InputError(
                f"Age {name!r} is not a number of years from 0 to 130: write years as a number and "
                "nothing for a blank, or take the column's own values (`slices`)."
            )
    return _binned(numbers, ["<30", "30-50", "50-70", "70+"], lambda x: _bin(x, AGE_EDGES))


def _binned(
    numbers: list[float | None], titles: list[str], bin_of: Callable[[float], int]
) -> tuple[np.ndarray, list[str]]:
    names = np.array([UNKNOWN if x is None else titles[bin_of(x)] for x in numbers])
    present = set(names.tolist())
    return names, [title for title in (*titles, UNKNOWN) if title in present]


def _titles(edges: np.ndarray) -> list[str]:
    """Bins by their edges, in four digits or as many as tell the edges apart."""
    for digits in range(4, 18):
        shown = [f"{edge:.{digits}g}" for edge in edges]
        if len(set(shown)) == len(shown):
            break
    return [f"{low} to {high}" for low, high in zip(shown, shown[1:], strict=False)]


def _constant(value: float, rows: str) -> TrustqError:
    return InputError(
        f"A column to slice by is {value:g} in {rows} its rows, so it does not divide them; "
        "leave it out."
    )


def _bin(number: float, inner_edges: Any) -> int:
    return int(np.searchsorted(inner_edges, number, "right"))


def _number(text: str) -> float | None:
    try:
        number = float(text)
    except ValueError:
        return None
    return number if np.isfinite(number) else None
