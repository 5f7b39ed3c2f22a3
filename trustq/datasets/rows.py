"""What an adapter hands over: the rows of a data set, not yet split, and how errors name them."""

import difflib
import os
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from trustq.core.columns import Columns
from trustq.errors import InputError, NotFound

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp")


@dataclass(frozen=True)
class Rows:
    """Rows of a data set in its published order, before they are split.

    `columns` holds what a manifest needs but `split`, which it holds only where the data set comes
    with splits (`split_origin` then says from where). `source` names the origin of the rows in
    errors, `notes` are sentences for the person who prepares.
    """

    columns: Columns
    classes: tuple[str, ...]
    root: Path
    source: str
    split_origin: dict[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


def column(columns: Columns, name: str, *, source: str) -> np.ndarray:
    """A column by its name; `TrustqError` names the nearest one where it is missing.

    >>> column({"dx": np.array(["nv"])}, "dx", source="a.csv").tolist()
    ['nv']
    """
    if name in columns:
        return columns[name]
    close = difflib.get_close_matches(name, list(columns), n=1, cutoff=0.5)
    nearest = f" Did you mean {close[0]!r}?" if close else ""
    raise NotFound(
        f"{source} has no column {name!r}; its columns are {', '.join(columns)}.{nearest}",
        path=source,
    )


def named_rows(rows: Sequence[int], ids: Sequence[Any], *, most: int = 5) -> str:
    """Rows with their ids as an error names them, counted from 1 below the header.

    >>> named_rows([0, 2], ["a", "b", "c"])
    'rows 1 (a) and 3 (c)'
    """
    named = [f"{row + 1} ({ids[row]})" for row in rows]
    if len(named) > most:
        return f"rows {', '.join(named[:most])} and {len(named) - most} more"
    *head, last = named
    return f"rows {', '.join(head)} and {last}" if head else f"row {last}"


def texts(values: Sequence[Any]) -> np.ndarray:
    """Values as an object array of strings, with None for a blank.

    >>> texts([1, None, "a"]).tolist()
    ['1', None, 'a']
    """
    array = np.empty(len(values), dtype=object)
    array[:] = [None if value is None or value == "" else str(value) for value in values]
    return array


def numbers(
    values: np.ndarray, name: str, *, ids: Sequence[Any], source: str
) -> "np.ma.MaskedArray[tuple[int], np.dtype[np.float64]]":
    """Texts as numbers, blanks masked; `TrustqError` names the row that holds no number.

    >>> numbers(texts(["3.5", None]), "age", ids=["a", "b"], source="a.csv").tolist()
    [3.5, None]
    """
    found = np.ma.masked_all(len(values), dtype=np.float64)
    for row, value in enumerate(values.tolist()):
        if value is None:
            continue
        try:
            found[row] = float(value)
        except ValueError as error:
            raise InputError(
                f"{source}: {name} {value!r} in {named_rows([row], ids)} is no number.", path=source
            ) from error
    return found


def one_hot(columns: Columns, names: Sequence[str], *, ids: np.ndarray, source: str) -> np.ndarray:
    """Which of the columns `names` holds the 1 of each row, (n,) of indices; blanks count as 0.

    Raises `TrustqError` that names the rows with no 1, with two, or with another number.

    >>> marks = {"A": texts(["1.0", "0"]), "B": texts(["0.0", "1"])}
    >>> one_hot(marks, ["A", "B"], ids=texts(["x", "y"]), source="a.csv").tolist()
    [0, 1]
    """
    marks = np.stack(
        [
            numbers(
                texts(column(columns, name, source=source).tolist()),
                name,
                ids=ids.tolist(),
                source=source,
            ).filled(0.0)
            for name in names
        ],
        axis=1,
    )
    unclear = np.flatnonzero(((marks != 0) & (marks != 1)).any(axis=1) | (marks.sum(axis=1) != 1))
    if len(unclear):
        raise InputError(
            f"{source}: expected one 1 among the classes and 0 elsewhere in "
            f"{named_rows(unclear.tolist(), ids.tolist())}.",
            path=source,
        )
    return np.asarray(marks.argmax(axis=1))


def require_known(
    values: np.ndarray, known: Sequence[str], *, name: str, ids: np.ndarray, source: str
) -> None:
    """Raise `TrustqError` that names the rows whose value is blank or not one of `known`."""
    allowed = set(known)
    strange = [row for row, value in enumerate(values.tolist()) if value not in allowed]
    if strange:
        raise InputError(
            f"{source}: {name} {values[strange[0]]!r} in {named_rows(strange, ids.tolist())} is "
            f"not one of {', '.join(known)}.",
            path=source,
            expected=known,
        )


def own_where_blank(groups: np.ndarray, ids: np.ndarray) -> np.ndarray:
    """Groups, a row without one being a group of its own, named by its id.

    >>> own_where_blank(texts(["g", None]), texts(["a", "b"])).tolist()
    ['g', 'b']
    """
    return texts(
        [i if g is None else g for g, i in zip(groups.tolist(), ids.tolist(), strict=True)]
    )


def image_paths(
    root: Path, ids: np.ndarray, *, source: str, how: str, skip_missing: bool = False
) -> np.ndarray:
    """Path of each row's image below `root`, by the image's name without its ending; else None.

    Folders of any depth are searched, for mirrors nest and name them differently; of an image that
    is there twice the first in order of paths counts. Raises `TrustqError` that names rows without
    an image, unless `skip_missing`, and images without a row. `how` says where to get the data.
    """
    path_of: dict[str, str] = {}
    for path in images_under(root):
        path_of.setdefault(os.path.splitext(path.rsplit("/", 1)[-1])[0], path)
    paths = texts([path_of.get(i, i) for i in ids.tolist()])
    there = path_of.values()
    require_images(
        paths, set(there), ids, source=source, how=how, root=root, skip_missing=skip_missing
    )
    refuse_images_alone(there, paths, root=root, source=source)
    return texts([path_of.get(i) for i in ids.tolist()])


def images_under(root: Path) -> list[str]:
    """Paths of all images below a folder, relative to it and sorted; hidden ones are ignored."""
    found = []
    for here, inner, names in os.walk(root):
        inner[:] = [name for name in inner if not name.startswith(".")]
        below = os.path.relpath(here, root).replace(os.sep, "/")
        head = "" if below == "." else below + "/"
        for name in names:
            if name.lower().endswith(IMAGE_SUFFIXES) and not name.startswith("."):
                found.append(head + name)
    # Sorted, for a folder's own order differs between machines.
    return sorted(found)


def require_images(
    paths: np.ndarray,
    there: Collection[str],
    ids: np.ndarray,
    *,
    source: str,
    how: str,
    root: Path,
    skip_missing: bool,
) -> None:
    """Raise `TrustqError` that names the rows whose path is not `there`.

    With `skip_missing` only where that are all rows.
    """
    known = ids.tolist()
    absent = [
        row
        for row, path in enumerate(paths.tolist())
        if path not in there and known[row] is not None
    ]
    if absent and not (skip_missing and len(absent) < len(known)):
        raise InputError(
            f"{source}: no image under {root} for {named_rows(absent, known)}, of {len(known):,}. "
            f"Add the images, or leave out rows without one (`skip_missing`). {how}",
            path=source,
        )


def refuse_images_alone(
    there: Iterable[str], paths: np.ndarray, *, root: Path, source: str
) -> None:
    """Raise `TrustqError` that names the images that are `there` and in no row."""
    known = set(paths.tolist())
    alone = sorted(path for path in there if path not in known)
    if alone:
        more = f" and {len(alone) - 5:,} more" if len(alone) > 5 else ""
        raise InputError(
            f"{root} holds images that {source} has no row for: {', '.join(alone[:5])}{more}. "
            "Move them elsewhere, or add the table that they belong to."
        )


def without_missing(columns: Columns) -> tuple[Columns, tuple[str, ...]]:
    """Columns of the rows that have a path, and a sentence that counts the others."""
    there = np.array([path is not None for path in columns["path"].tolist()])
    if there.all():
        return columns, ()
    kept = {name: array[there] for name, array in columns.items()}
    note = f"Rows left out for want of their image: {(~there).sum():,} of {len(there):,}."
    return kept, (note,)


def published_counts(labels: np.ndarray, counts: Mapping[str, int], *, source: str) -> list[str]:
    """A sentence where the rows of each label are not as many as were published.

    >>> published_counts(texts(["a", "a"]), {"a": 2}, source="t.csv")
    []
    >>> published_counts(texts(["a"]), {"a": 2}, source="t.csv")
    ['t.csv differs from what was published: a 1 instead of 2.']
    """
    found = Counter(labels.tolist())
    names = [*counts, *sorted(set(found) - set(counts) - {None})]
    differing = [
        f"{name} {found.get(name, 0):,} instead of {counts.get(name, 0):,}"
        for name in names
        if found.get(name, 0) != counts.get(name, 0)
    ]
    if not differing:
        return []
    more = f" and {len(differing) - 8} more" if len(differing) > 8 else ""
    return [f"{source} differs from what was published: {', '.join(differing[:8])}{more}."]


def found_table(root: Path, *names: str) -> Path | None:
    """The first of some tables that is in `root`, or in a folder of the file's own name."""
    places = [place for name in names for place in (root / name, root / Path(name).stem / name)]
    return next((place for place in places if place.is_file()), None)
