"""What the labels of a foreign file mean: one answer for every command.

Stated class names go first: matched as they are, then as numbers, then by case where that is
unambiguous. Whole numbers are positions only where no class is called by a number. Blanks, NaN, -1
and the usual words for a blank are no label.
"""

import difflib
import re
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np

from trustq.core.counts import counted
from trustq.core.words import (
    BLANK_WORDS,
    MISSING_WORDS,
    flag,
    is_blank,
    plain_text,
    plain_texts,
    whole_number,
)
from trustq.errors import InputError

NO_LABEL = -1
# What a single column of scores is called that is not called by its class.
_SCORE_WORDS = ("p", "prob", "proba", "probability", "score", "scores", "logit", "prediction")


# Two classes in the order in which 1 is the first by usage, and the second by its place.
_YES_FIRST = (["yes", "no"], ["positive", "negative"], ["pos", "neg"], ["present", "absent"])


@dataclass(frozen=True)
class Labels:
    """Class indices of n rows, (n,) of int64 with -1 for none, and the classes they count.

    `notes` says what was not plain: rows without a label, numbers taken for positions.
    """

    indices: np.ndarray
    classes: tuple[str, ...]
    notes: tuple[str, ...] = ()


def read_labels(
    column: np.ndarray,
    *,
    source: str,
    classes: Sequence[str] | None = None,
    width: int | None = None,
    name: str = "labels",
) -> Labels:
    """Labels of any shape and type as class indices.

    `column` is (n,) or (n, 1) of numbers, texts or bytes, or (n, k) one-hot. `classes` are the
    stated names, in the order of the columns of scores where there are any; `width` is the number
    of these columns. Without stated names whole numbers are positions of columns, or, without
    scores, their values are the classes; texts are refused beside scores, for the order of the
    columns is not known, and sorted without. Raises `TrustqError` for values of no class, repeated
    names, several classes in a row, or an order that is not stated.

    >>> read_labels(np.array([2.0, np.nan]), source="a.npz", classes=["1", "2"]).indices
    array([ 1, -1])
    >>> read_labels(np.array(["NV", "mel"]), source="a.npz", classes=["mel", "nv"]).indices
    array([1, 0])
    """
    stated = None if classes is None else checked_classes(classes, source=source, width=width)
    column = _flat(column, source, name)
    if column.ndim == 2:
        return _one_hot(column, source, name, stated, width)
    places, distinct = _distinct(column, source, name)
    texts = [plain_text(value) for value in distinct]
    if stated is not None:
        found, notes = _by_name(texts, stated, source, name)
        known = stated
    elif width is not None:
        found, notes = _by_position(texts, width, source, name)
        known = tuple(map(str, range(width)))
        if width > 10 and any(isinstance(value, str | bytes) for value in distinct):
            notes = [*notes, sorted_as_texts(name)]
    else:
        known, found, notes = _by_value(texts, source, name)
    indices = np.array(found, dtype=np.int64)[places]
    missing = int((indices < 0).sum())
    if missing:
        notes = [*notes, f"{missing} of {len(indices)} rows have no {_one(name)}"]
    return Labels(indices, known, tuple(notes))


def sorted_as_texts(name: str) -> str:
    """A note for numbers written as texts, which encoders and folders sort as 0, 1, 10, 2."""
    return (
        f"{name} are numbers written as texts, and are taken for positions: if the columns are in "
        "the order in which encoders and folders sort such texts (0, 1, 10, 2), most labels are "
        "others: name the classes in column order (`classes`)"
    )


def checked_classes(
    names: Sequence[str] | np.ndarray, *, source: str, width: int | None = None
) -> tuple[str, ...]:
    """Stated class names as texts; raises `TrustqError` for blanks, repeats, another number.

    >>> checked_classes(np.array([1.0, 2.0]), source="a.npz")
    ('1', '2')
    """
    classes = tuple(plain_texts(np.asarray(names).reshape(-1)))
    if len(set(classes)) != len(classes):
        twice = sorted({one for one in classes if classes.count(one) > 1})
        raise InputError(f"{source}: classes repeat a name: {listed(twice)}.")
    if "" in classes:
        raise InputError(f"{source}: class {classes.index('')} has a blank name.")
    if width is not None and len(classes) != width:
        raise InputError(
            f"{source} names {counted(len(classes), 'class')} ({listed(classes)}) for {width} "
            "columns of scores: give every column its class, in column order."
        )
    return classes


class ClassPosition:
    """Positions of class names: as they are, as numbers, then by case where one class fits.

    >>> find = ClassPosition(["A", "a", "Mel", "7"])
    >>> [find(text) for text in ("a", "MEL", "7.0", "x")]
    [1, 2, 3, None]
    """

    def __init__(self, classes: Sequence[str]) -> None:
        self.exact = {name: place for place, name in enumerate(classes)}
        self.numbers = _unambiguous([whole_number(name) for name in classes])
        self.folded = _unambiguous([_folded(name) for name in classes])
        self.lettered = _unambiguous([letters_of(name) for name in classes])
        if {"true", "false"} == set(self.folded):
            self.numbers = {1: self.folded["true"], 0: self.folded["false"]}

    def __call__(self, text: str) -> int | None:
        """The position of the class that a text names, or None."""
        if text in self.exact:
            return self.exact[text]
        number = whole_number(text)
        if number is not None and number in self.numbers:
            return self.numbers[number]
        found = self.folded.get(_folded(text))
        if found is None and set(self.numbers) == {0, 1} and len(self.exact) == 2:
            return self.numbers.get(flag(text))  # True and False beside classes 1 and 0
        return found


def same_classes(names: Sequence[str], classes: Sequence[str]) -> list[int] | None:
    """The place among `classes` of every name, where each class has one name; None for others.

    Names are matched as labels are: `NV` is nv where no other class is spelt so.

    >>> same_classes(["NV", "mel"], ["mel", "nv"]), same_classes(["a", "A"], ["a", "b"])
    ([1, 0], None)
    """
    find = ClassPosition(classes)
    places = [place for name in names if (place := find(name)) is not None]
    alike = len(names) == len(classes) and sorted(places) == list(range(len(classes)))
    return places if alike else None


def numbers_of(names: Sequence[str]) -> list[int] | None:
    """The numbers that several names of one stem end in, all different; None for other names.

    >>> numbers_of(["p3", "p1"]), numbers_of(["-1", "1"]), numbers_of(["p1", "q2"])
    ([3, 1], [-1, 1], None)
    """
    found = [re.fullmatch(r"()(-?\d{1,9})|(.*\D)(\d{1,9})", name, re.DOTALL) for name in names]
    parts = [(m[1] or m[3] or "", int(m[2] or m[4])) for m in found if m]
    numbers = [number for _, number in parts]
    is_one_stem = len({stem for stem, _ in parts}) == 1
    if len(parts) < max(len(names), 2) or not is_one_stem or len(set(numbers)) < len(numbers):
        return None
    return numbers


def by_number(titles: Sequence[str], *labels: np.ndarray) -> list[str]:
    """Titles of columns `p3, p1, p0` as their numbers, where the labels are such numbers.

    Counted titles `p1, p2, p3` beside labels 0 to 2 stay, for there labels are positions.

    Zeros before a number stay where the labels have them, or the title is nothing else.

    >>> by_number(["p3", "p1"], np.array([1, 3])), by_number(["p3", "p1"], np.array(["p3"]))
    (['3', '1'], ['p3', 'p1'])
    >>> by_number(["p03", "p01"], np.array(["03"])), by_number(["03", "01"], np.array([3]))
    (['03', '1'], ['03', '01'])
    """
    numbers = numbers_of(titles)
    if numbers is None or all(re.fullmatch(r"-?\d+", title) for title in titles):
        return list(titles)
    texts = {text for own in labels if own.ndim == 1 for text in set(plain_texts(own))}
    values = {whole_number(text) for text in texts if not is_blank(text)} - {NO_LABEL}
    counted = all(b == a + 1 for a, b in pairwise(numbers))
    if not values or None in values or (counted and not values <= set(numbers)):
        return list(titles)
    padded = [re.sub(r".*\D", "", title, flags=re.DOTALL) for title in titles]
    return [own if own in texts else str(n) for own, n in zip(padded, numbers, strict=True)]


def two_classes(
    title: str, labels: np.ndarray | None, *, source: str
) -> tuple[tuple[str, str] | None, str]:
    """The two classes of a single column of scores, second the one it is of, and that one.

    By its title and the labels, (n,) or (n, 1); the classes are None where there are no labels.
    Raises `TrustqError` where the labels are names and the title is none of them.

    >>> two_classes("Malignant", np.array(["benign", "malignant"]), source="a.csv")
    (('benign', 'malignant'), 'malignant')
    >>> two_classes("score", np.array([0, 1]), source="a.csv")
    (('0', '1'), '1')
    """
    if labels is None:
        return None, title
    known = {text for text in plain_texts(np.asarray(labels).reshape(-1)) if not is_blank(text)}
    is_score = title.lower() in _SCORE_WORDS
    flags = [flag(text) for text in known]
    if known and None not in flags and len(set(flags)) == len(known):
        one, other = ("True", "False") if not {"0", "1"} & known else ("1", "0")
        if is_score or flag(title) == 1:
            return (other, one), one
        return ((one, other), other) if flag(title) == 0 else ((f"not {title}", title), title)
    names = sorted(known)
    place = ClassPosition(names)(title)
    own = title if place is None else names[place]
    rest = [name for name in names if name != own]
    if len(rest) != 1 or is_score:
        raise InputError(
            f"{source} has one column of scores, {title}, and the labels are {listed(names)}: name "
            "the two classes (`classes`), second the one that the scores are of."
        )
    return (rest[0], own), own


def unknown_class(text: str, classes: Sequence[str]) -> str:
    """What a message says of a text that is no class, with the nearest one.

    >>> unknown_class("mell", ["mel", "nv"])
    "unknown class 'mell' (did you mean 'mel'?); expected one of mel, nv"
    """
    folded = {name.casefold(): name for name in classes}
    found = difflib.get_close_matches(text.casefold(), list(folded), n=1)
    close = [folded[name] for name in found]
    hint = f" (did you mean {close[0]!r}?)" if close else ""
    return f"unknown class {text!r}{hint}; expected one of {listed(classes)}"


def listed(names: Sequence[str], most: int = 20) -> str:
    """Names for a message; quoted where one holds a comma, cut where there are many.

    >>> listed(["a", "b, c"])
    "'a', 'b, c'"
    """
    shown = [repr(name) if any("," in one for one in names) else name for name in names[:most]]
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(shown) + more


def _folded(text: str) -> str:
    """A name without its case, and with letters composed as keyboards, not as file systems, do."""
    return (text if text.isascii() else unicodedata.normalize("NFC", text)).casefold()


def letters_of(name: str) -> str:
    """Letters and digits of a name alone, which R and other tools keep in names of columns.

    >>> letters_of("Melanoma (in situ)"), letters_of("Melanoma..in.situ.")
    ('melanomainsitu', 'melanomainsitu')
    """
    return re.sub(r"[\W_]+", "", _folded(name))


def _unambiguous(keys: Sequence[object]) -> dict[object, int]:
    places: dict[object, list[int]] = {}
    for place, key in enumerate(keys):
        places.setdefault(key, []).append(place)
    return {key: own[0] for key, own in places.items() if key is not None and len(own) == 1}


def _one(name: str) -> str:
    return "label" if name == "labels" else f"{name} label" if name == "observed" else name


def _flat(column: np.ndarray, source: str, name: str) -> np.ndarray:
    """(n,) of values, or (n, k) of numbers where each row is a vector."""
    first = next((v for v in column if v is not None), None) if column.dtype == object else None
    if isinstance(first, list | tuple | np.ndarray):  # list columns of tables
        try:
            column = np.stack([np.asarray(row) for row in column])
        except ValueError as error:
            raise InputError(f"{source}: {name} holds lists of several lengths.") from error
    while column.ndim > 1 and column.shape[-1] == 1:
        column = column[..., 0]
    if column.ndim == 2 and column.shape[0] == 1:
        raise InputError(
            f"{source}: {name} has shape {column.shape}, one row of all: save {name}.reshape(-1), "
            "and matrices with rows of samples (MATLAB's are transposed)."
        )
    if column.ndim > 2 or (column.ndim == 2 and column.dtype.kind not in "biuf"):
        raise InputError(
            f"{source}: {name} has shape {column.shape}; expected one label per row, (n,)."
        )
    return column


def _one_hot(
    column: np.ndarray,
    source: str,
    name: str,
    classes: tuple[str, ...] | None,
    width: int | None,
) -> Labels:
    k = len(classes) if classes is not None else width
    if k is not None and column.shape[1] != k:
        raise InputError(
            f"{source}: {name} has {column.shape[1]} columns, one-hot, for {k} classes."
        )
    if not np.isin(column, (0, 1)).all():
        raise InputError(
            f"{source}: {name} has shape {column.shape} and is not one-hot: pass one class per "
            "row, e.g. labels.argmax(axis=1)."
        )
    per_row = column.sum(axis=1)
    if (per_row > 1).any():
        raise InputError(
            f"{source}: {name} marks several classes in "
            f"{counted(int((per_row > 1).sum()), 'row')}, first in row "
            f"{int((per_row > 1).argmax()) + 1}: each row has one class here."
        )
    indices = np.where(per_row > 0, column.argmax(axis=1), NO_LABEL).astype(np.int64)
    missing = int((indices < 0).sum())
    notes = [f"{missing} of {len(indices)} rows have no {_one(name)}"] if missing else []
    return Labels(indices, classes or tuple(map(str, range(column.shape[1]))), tuple(notes))


def _distinct(column: np.ndarray, source: str, name: str) -> tuple[np.ndarray, list[Any]]:
    """For each row the place of its value among the distinct ones, and these."""
    if column.dtype.kind in "biuf" and not isinstance(column, np.ma.MaskedArray):
        if column.dtype.kind in "iu" and len(column):
            low, high = int(column.min()), int(column.max())
            if high - low < 1_000_000 and high < 2**63:  # counting is faster than sorting
                counts = np.zeros(high - low + 1, dtype=bool)
                shifted = (column.astype(np.int64) - low).astype(np.intp)
                counts[shifted] = True
                values = np.flatnonzero(counts)
                return (np.cumsum(counts) - 1)[shifted], (values + low).tolist()
        values, places = np.unique(column, return_inverse=True)
        if column.dtype.kind == "b":
            values = values.astype(int)
        return places, values.tolist()
    values_of_rows = column.tolist()
    try:
        place = {value: i for i, value in enumerate(dict.fromkeys(values_of_rows))}
    except TypeError as error:
        raise InputError(f"{source}: {name} holds values that are no labels.") from error
    return np.array([place[value] for value in values_of_rows], dtype=np.intp), list(place)


def _by_name(
    texts: Sequence[str], classes: tuple[str, ...], source: str, name: str
) -> tuple[list[int], list[str]]:
    find = ClassPosition(classes)
    found = [find(text) for text in texts]
    named = {text for text, place in zip(texts, found, strict=True) if place is not None}
    left = [text for text in texts if text not in named and not _is_none(text)]
    if not left:
        return [NO_LABEL if place is None else place for place in found], []
    numbers = _position_numbers(left, len(classes))
    if find.numbers or named or any(number is None for number in numbers):
        strange = [text for text, number in zip(left, numbers, strict=True) if number is None]
        if find.numbers and not strange:
            raise InputError(
                f"{source}: {name} hold {listed(left, 5)}, and the classes are called "
                f"{listed(classes)}: where classes are numbers, labels are their values and not "
                "positions."
            )
        shown = unknown_class((strange or left)[0], classes)
        numbered = len(classes) > 1 and all(re.fullmatch(r"\D{0,6}\d+", own) for own in classes)
        hint = ""
        if (near := find.lettered.get(letters_of((strange or left)[0]))) is not None:
            hint = (
                f". If {classes[near]} is that class, name the classes in their order (`classes`)"
            )
        if not named and numbered:  # columns called p0, p1, which say no class
            hint = ". If these are columns of classes, name the classes in their order (`classes`)"
        raise InputError(f"{source}: {name}: {shown}{hint}.")
    positions = [number for number in numbers if number is not None]
    _spelt(left, source, name)
    _require_positions(positions, len(classes), source, name)
    if [own.casefold() for own in classes] in _YES_FIRST:
        raise InputError(
            f"{source}: {name} hold {listed(left, 5)}, where 1 is {classes[0]} by usage and "
            f"{classes[1]} counted from 0: write {name} as names of classes."
        )
    named_by = numbers_of(classes) or []
    if set(positions) <= set(named_by) and named_by != sorted(named_by):
        text = next((t for t in positions if named_by.index(t) != t), positions[0])
        raise InputError(
            f"{source}: {name} hold {text}, which may be {classes[named_by.index(text)]} or, "
            f"counted from 0, {classes[text]}: write {name} as names of classes."
        )
    notes = _counted_from_one(positions, classes, name) or _not_sorted(positions, classes, name)
    place = dict(zip(left, positions, strict=True))
    return [place.get(text, NO_LABEL) for text in texts], notes


def _position_numbers(texts: Sequence[str], k: int) -> list[int | None]:
    """Whole numbers that may be positions of k classes; of two classes flags are 0 and 1 too."""
    numbers = [whole_number(text) for text in texts]
    if k != 2:
        return numbers
    return [flag(t) if n is None else n for t, n in zip(texts, numbers, strict=True)]


def _by_position(
    texts: Sequence[str], width: int, source: str, name: str
) -> tuple[list[int], list[str]]:
    numbers = _position_numbers(texts, width)
    strange = [
        text
        for text, number in zip(texts, numbers, strict=True)
        if number is None and text.lower() not in BLANK_WORDS
    ]
    if strange and all(_is_number(text) for text in strange):
        raise InputError(
            f"{source}: {name} hold {listed(strange, 5)}; expected whole numbers or names."
        )
    if strange:
        raise InputError(
            f"{source}: {name} are names ({listed(strange, 5)}), so the order of the {width} "
            "columns of logits or probs is not known: name the classes in that order (`classes`)."
        )
    positions = sorted({n for n in numbers if n is not None} - {NO_LABEL})
    if width == 2:
        _require_two_classes(positions, numbers, f"{source}: {name}")
    _spelt(texts, source, name)
    _require_positions(positions, width, source, name)
    notes = _counted_from_one(positions, tuple(map(str, range(width))), name)
    return [NO_LABEL if n is None else n for n in numbers], notes


def _counted_from_one(positions: Sequence[int], classes: Sequence[str], name: str) -> list[str]:
    """A note for positions of which none is 0: they may be counted from 1."""
    if 0 in positions or not positions:
        return []
    return [
        f"whole numbers of {name} are positions counted from 0, and no row has 0, {classes[0]}: "
        "if they were counted from 1, every label is off by one"
    ]


def _not_sorted(positions: Sequence[int], classes: Sequence[str], name: str) -> list[str]:
    """A note for positions of classes that do not stand in the order in which encoders count."""
    if not positions or list(classes) in (sorted(classes), sorted(classes, key=str.casefold)):
        return []
    counted_so = [f"{place} is {own}" for place, own in enumerate(classes)]
    return [
        f"whole numbers of {name} are positions of the classes as they stand ({listed(counted_so)}"
        "): if they count names in sorted order, most labels are others"
    ]


def _require_positions(positions: Sequence[int], k: int, source: str, name: str) -> None:
    if positions and (min(positions) < 0 or max(positions) >= k):
        outside = max(positions) if max(positions) >= k else min(positions)
        values = sorted(set(positions))
        hint = f" (`classes`: {', '.join(map(str, values))}, if so)" if len(values) == k else ""
        raise InputError(
            f"{source}: {name} hold {outside}, but the {k} classes are counted from 0 to {k - 1}. "
            f"If the numbers are names of classes, state these in the order of the columns{hint}."
        )


def _by_value(
    texts: Sequence[str], source: str, name: str
) -> tuple[tuple[str, ...], list[int], list[str]]:
    given = [text for text in texts if text.lower() not in MISSING_WORDS]
    numbers = {text: whole_number(text) for text in given}
    words = [text for text in given if text.lower() in BLANK_WORDS]
    if words and len(words) < len(given):
        raise InputError(
            f"{source}: {name} hold {words[0]!r}, which may be a class or no label: name the "
            "classes (`classes`), with it or without it."
        )
    if all(number is not None for number in numbers.values()):
        values = sorted({n for n in numbers.values() if n is not None} - {NO_LABEL})
        if values and values[0] < 0:
            raise InputError(f"{source}: {name} hold {values[0]}, below 0; -1 is no label.")
        _require_two_classes(values, numbers.values(), f"{source}: {name}")
        spelt = _spelt(given, source, name)
        classes = tuple(spelt.get(value, str(value)) for value in values)
        place = {value: i for i, value in enumerate(values)}
        found = []
        for text in texts:
            value = numbers.get(text)
            found.append(NO_LABEL if value is None else place.get(value, NO_LABEL))
        return classes, found, []
    broken = [text for text in given if numbers[text] is None and _is_number(text)]
    if len(broken) > 0 and all(_is_number(text) for text in given):
        raise InputError(
            f"{source}: {name} hold {listed(broken, 5)}; expected whole numbers or names."
        )
    classes = tuple(sorted({*given} - {str(NO_LABEL)}))
    position = {text: place for place, text in enumerate(classes)}
    folded: dict[str, list[str]] = {}
    for text in classes:
        folded.setdefault(text.casefold(), []).append(text)
    notes = [
        f"{' and '.join(same)} differ in case alone and are kept as several classes"
        for same in folded.values()
        if len(same) > 1
    ]
    return classes, [position.get(text, NO_LABEL) for text in texts], notes


def _spelt(texts: Iterable[str], source: str, name: str) -> dict[int, str]:
    """Whole numbers as labels write them: codes such as 007 keep their zeros.

    Raises `TrustqError` where 7 is there too, which may be another class.
    """
    spelt: dict[int, str] = {}
    for text in sorted(own for own in texts if own.isascii() and own.isdecimal()):
        if spelt.setdefault(int(text), text) != text:
            raise InputError(
                f"{source}: {name} hold {listed([spelt[int(text)], text])}, which may be one class "
                "or two: write one class in one way, or name the classes (`classes`)."
            )
    return spelt


def _require_two_classes(values: Sequence[int], numbers: Iterable[int | None], what: str) -> None:
    """Raise `TrustqError` for -1 and 1 alone, of which -1 may be a class or no label."""
    if list(values) == [1] and NO_LABEL in numbers:
        raise InputError(
            f"{what} are -1 and 1, which are two classes, or one and rows without a label: name "
            'the classes in column order (`classes`: "-1", "1").'
        )


def _is_none(text: str) -> bool:
    return text.lower() in BLANK_WORDS or whole_number(text) == NO_LABEL


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
