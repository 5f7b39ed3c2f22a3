"""What an adapter hands over: the rows of a data set, not yet split, and how errors name them."""

import difflib
import os
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from trustq.core.column_names import called
from trustq.core.columns import TABLES, Columns
from trustq.core.sample_ids import id_key
from trustq.core.words import is_blank, plain_text, whole_number
from trustq.data.groups import own_where_blank
from trustq.data.taxonomy import label_key
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


def column(columns: Columns, name: str, *, source: str, hint: str = "") -> np.ndarray:
    """A column by its name, else by its name without case and outer blanks where one has it.

    `TrustqError` names the nearest one where it is missing, and ends in `hint`.

    >>> column({" DX": np.array(["nv"])}, "dx", source="a.csv").tolist()
    ['nv']
    """
    if (there := called(columns, name)) is not None:
        return columns[there]
    close = difflib.get_close_matches(name, list(columns), n=1, cutoff=0.5)
    nearest = f" Did you mean {close[0]!r}?" if close else ""
    raise NotFound(
        f"{source} has no column {name!r}; its columns are {', '.join(columns)}.{nearest}{hint}",
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
    """Values as an object array of strings without outer blanks, with None for a blank.

    A NaN is a blank, whole floats are integers and bytes are UTF-8.

    >>> texts([1, None, "a ", float("nan"), 2.0]).tolist()
    ['1', None, 'a', None, '2']
    """
    array = np.empty(len(values), dtype=object)
    array[:] = [plain_text(value) or None for value in values]
    return array


def metadata_texts(values: Sequence[Any]) -> np.ndarray:
    """As `texts`, of metadata: NA, null and the like are blanks too.

    `unknown` stays, for HAM10000 and others publish it as a word beside blanks.

    >>> metadata_texts(["NA", "male", "unknown", "<NA>"]).tolist()
    [None, 'male', 'unknown', None]
    """
    return texts(
        [None if is_blank(v) and plain_text(v).casefold() != "unknown" else v for v in values]
    )


def image_names(values: Sequence[Any]) -> np.ndarray:
    """Names of images without their ending and, where they still differ then, without folders.

    >>> image_names(["part_1/ISIC_1.jpg", "ISIC_2.PNG", "ISIC_3", None]).tolist()
    ['ISIC_1', 'ISIC_2', 'ISIC_3', None]
    >>> image_names(["p1/1.png", "p2/1.png"]).tolist()
    ['p1/1', 'p2/1']
    """
    whole = [name and id_key(name.replace("\\", "/")) for name in texts(values).tolist()]
    short = [name and name.rsplit("/", 1)[-1] for name in whole]
    return texts(short if len(set(short)) == len(set(whole)) else whole)


def numbers(
    values: np.ndarray, name: str, *, ids: Sequence[Any], source: str
) -> "np.ma.MaskedArray[tuple[int], np.dtype[np.float64]]":
    """Texts as numbers, blanks and words for one masked; `TrustqError` names a row without either.

    >>> numbers(texts(["3.5", None, "NA"]), "age", ids=["a", "b", "c"], source="a.csv").tolist()
    [3.5, None, None]
    """
    found: np.ma.MaskedArray = np.ma.masked_all(len(values), dtype=np.float64)
    for row, value in enumerate(values.tolist()):
        if is_blank(value):
            continue
        try:
            found[row] = float(value)
        except ValueError as error:
            raise InputError(
                f"{source}: {name} {value!r} in {named_rows([row], ids)} is not a number. Leave "
                "it blank, or write the number."
            ) from error
    return found


def one_hot(columns: Columns, names: Sequence[str], *, ids: np.ndarray, source: str) -> np.ndarray:
    """Which of the columns `names` holds the 1 of each row, (n,) of indices; blanks count as 0.

    A flag may be a number or a word such as TRUE. Raises `TrustqError` that names the rows with no
    1, with two, or with another number.

    >>> marks = {"A": texts(["1.0", "FALSE"]), "B": texts(["0.0", "true"])}
    >>> one_hot(marks, ["A", "B"], ids=texts(["x", "y"]), source="a.csv").tolist()
    [0, 1]
    """
    marks = np.stack(
        [
            numbers(
                _flags_as_numbers(column(columns, name, source=source)),
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
            f"{named_rows(unclear.tolist(), ids.tolist())}."
        )
    return np.asarray(marks.argmax(axis=1))


TRUE_WORDS = ("true", "t", "yes", "y", "1")
FALSE_WORDS = ("false", "f", "no", "n", "0")


def _flags_as_numbers(values: np.ndarray) -> np.ndarray:
    words = {**dict.fromkeys(TRUE_WORDS, "1"), **dict.fromkeys(FALSE_WORDS, "0")}
    return texts([text and words.get(text.casefold(), text) for text in texts(values.tolist())])


def flag_words(true: str, false: str) -> dict[str, str]:
    """The usual words of a flag, and what each means.

    >>> flag_words("malignant", "benign")["y"]
    'malignant'
    """
    return {**dict.fromkeys(TRUE_WORDS, true), **dict.fromkeys(FALSE_WORDS, false)}


def known_words(
    values: np.ndarray,
    known: Sequence[str],
    *,
    name: str,
    ids: np.ndarray,
    source: str,
    aliases: Mapping[str, str] | None = None,
    rename: Mapping[str, str] | None = None,
    blank: bool = False,
) -> np.ndarray:
    """Values as the one of `known` that each is, (n,): in any case, with `_`, `-` or a blank.

    Whole numbers count in any spelling. `aliases` are further words and what they mean, `rename`
    those of the person who prepares, which go first. Raises `TrustqError` that names the rows of
    another value, and of a blank or a word for one unless `blank` allows them, as None.

    >>> values, ids = texts(["No_finding", "EDEMA"]), texts(["a", "b"])
    >>> known_words(values, ["No Finding", "Edema"], name="x", ids=ids, source="t").tolist()
    ['No Finding', 'Edema']
    """
    words = {_word_key(word): meaning for word, meaning in (aliases or {}).items()}
    words |= {_word_key(word): word for word in known}
    own = {_word_key(word): _word_key(meaning) for word, meaning in (rename or {}).items()}
    keys = {value: _word_key(value or "") for value in set(values.tolist())}
    found = {value: words.get(own.get(key, key)) for value, key in keys.items()}
    listed = ", ".join(known)
    blanks = [row for row, v in enumerate(values.tolist()) if found[v] is None and is_blank(v)]
    if blanks and not blank:
        said = values[blanks[0]]
        raise InputError(
            f"{source}: {name} is {'blank' if said is None else repr(said)} in "
            f"{named_rows(blanks, ids.tolist())}; expected one of {listed}. Take those rows out, "
            f"or say what the word means with `rename`.",
            expected=known,
            found=said,
        )
    bad = [row for row, v in enumerate(values.tolist()) if found[v] is None and not is_blank(v)]
    if bad:
        raise InputError(
            f"{source}: {name} {values[bad[0]]!r} in {named_rows(bad, ids.tolist())} is not one "
            f"of {listed}. Say what it means with `rename={values[bad[0]]}={known[0]}`, or with "
            "another of these.",
            expected=known,
            found=values[bad[0]],
        )
    return texts([found[value] for value in values.tolist()])


def _word_key(word: str) -> str:
    number = whole_number(word.strip())  # first, for a minus is a hyphen to `label_key`
    return label_key(word) if number is None else str(number)


def renamed(values: np.ndarray, rename: Mapping[str, str] | None) -> np.ndarray:
    """Labels of a data set without fixed names, those that `rename` has by their new one.

    >>> renamed(texts(["Nevus, NOS", "mel"]), {"nevus, nos": "nv"}).tolist()
    ['nv', 'mel']
    """
    own = {_word_key(word): meaning for word, meaning in (rename or {}).items()}
    return texts([value and own.get(_word_key(value), value) for value in values.tolist()])


def own_groups(groups: np.ndarray, ids: np.ndarray, what: str) -> tuple[np.ndarray, list[str]]:
    """Groups, a row whose `what` (lesion, patient) is blank being its own; a note that counts it.

    >>> own_groups(texts(["g", "NA"]), texts(["a", "b"]), "lesion")[1]
    ['Rows without a lesion, each its own group: 1 of 2.']
    """
    n_alone = sum(map(is_blank, groups.tolist()))
    note = f"Rows without a {what}, each its own group: {n_alone:,} of {len(groups):,}."
    return own_where_blank(groups, ids), [note] * (n_alone > 0)


def image_paths(
    root: Path,
    ids: np.ndarray,
    *,
    source: str,
    how: str,
    skip_missing: bool = False,
    metadata_only: bool = False,
    refuse_others: bool = True,
) -> np.ndarray:
    """Path of each row's image below `root`, by the image's name without its ending; else None.

    Folders of any depth are searched, for mirrors nest and name them differently; of an image that
    is there twice the first in order of paths counts. A name that is there in another case is
    taken where no other has it. Raises `TrustqError` that names rows without an image, unless
    `skip_missing`, and with `refuse_others` images without a row. With `metadata_only` a row
    without an image has the path `<id>.jpg`. `how` says where to get the data.
    """
    blank = [str(row + 1) for row, i in enumerate(ids.tolist()) if i is None]
    if blank:
        more = f" and {len(blank) - 5:,} more" if len(blank) > 5 else ""
        raise InputError(
            f"{source}: sample_id is blank in row{'s' * (len(blank) > 1)} "
            f"{', '.join(blank[:5])}{more}.",
            path=source,
        )
    path_of = images_by_name(root)
    paths = [path_of.get(i) for i in ids.tolist()]
    if metadata_only:
        return texts([path or (i and f"{i}.jpg") for path, i in zip(paths, ids, strict=True)])
    there = {path for path in paths if path is not None}
    require_images(
        texts(paths), there, ids, source=source, how=how, root=root, skip_missing=skip_missing
    )
    if refuse_others:
        refuse_images_alone(
            {path for path in path_of.values()}, texts(paths), root=root, source=source
        )
    return texts(paths)


class ImagesByName:
    """Paths of images by the name without folders and ending, in any case where that is clear."""

    def __init__(self, paths: Iterable[str]) -> None:
        self._exact: dict[str, str] = {}
        self._every: dict[str, list[str]] = defaultdict(list)
        alike: dict[str, set[str]] = defaultdict(set)
        for path in paths:
            whole = os.path.splitext(path)[0]
            name = whole.rsplit("/", 1)[-1]
            self._every[name].append(path)
            self._exact.setdefault(name, path)
            self._exact.setdefault(whole, path)
            alike[name.casefold()].add(name)
        self._alike = {key: names.pop() for key, names in alike.items() if len(names) == 1}
        self._first = {os.path.splitext(p)[0].rsplit("/", 1)[-1] for p in self._exact.values()}

    def get(self, name: str | None) -> str | None:
        """The path of an image's name, or of its path without the ending, if it is there."""
        if name is None:
            return None
        if name in self._exact:
            return self._exact[name]
        return self._exact.get(self._alike.get(name.casefold(), ""))

    def every(self, name: str) -> list[str]:
        """The paths of all images of a name, in any folder and of any ending; see `get`."""
        return self._every.get(name) or self._every.get(self._alike.get(name.casefold(), ""), [])

    def values(self) -> Collection[str]:
        """The path that each name stands for."""
        return {self._exact[name] for name in self._first}


def images_by_name(root: Path) -> ImagesByName:
    """The images below a folder, by name."""
    return ImagesByName(images_under(root))


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
    if absent and skip_missing and len(absent) == len(known):
        raise NotFound(
            f"{source}: no image under {root} for any of the {len(known):,} rows, e.g. "
            f"{named_rows(absent[:1], known)}. Name the folder that holds the images, or make a "
            f"manifest of the table alone: `metadata_only`. {how}".strip(),
            path=root,
        )
    if absent and not skip_missing:
        raise NotFound(
            f"{source}: no image under {root} for {named_rows(absent, known)}, of {len(known):,}. "
            "Add the images, leave out rows without one (`skip_missing`), or make a manifest of "
            f"the table alone (`metadata_only`). {how}".strip(),
            path=root,
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
    """The first of some tables that is in `root`, or in folders inside it (three levels).

    A name counts in any case and with any ending of a table (.csv, .csv.gz, .tab, .xlsx, ...), or
    none; of several the least deep counts, then the first in order of paths.
    """
    wanted: dict[str, int] = {}
    for place, name in enumerate(names):
        wanted.setdefault(_table_stem(name), place)
    found = []
    for here, inner, files in os.walk(root):
        depth = len(Path(here).relative_to(root).parts)
        inner[:] = sorted(name for name in inner if not name.startswith(".") and depth < 3)
        for name in files:
            stem = _table_stem(name)
            if stem in wanted and not name.startswith("."):
                other = name not in names
                found.append((wanted[stem], depth, other, str(Path(here) / name)))
    return Path(min(found)[-1]) if found else None


def _table_stem(name: str) -> str:
    name = name.lower()
    ending = next((e for e in (".csv.gz", *TABLES) if name.endswith(e)), "")
    return name[: len(name) - len(ending)]
