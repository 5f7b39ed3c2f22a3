"""Words of foreign files: what is a blank, what a split is called, and lists in one text."""

import ast
import csv
import json
import re
from collections.abc import Iterable, Mapping, Sequence, Set
from typing import Any

import numpy as np

from trustq.errors import InputError

# Words for "no value". A class may be called like one: stated class names go first.
BLANK_WORDS = ("", "nan", "na", "n/a", "null", "none", "unknown", "<na>", "nat", "#n/a")
# Of these, the ones that programs write for a missing value and nobody calls a class.
MISSING_WORDS = ("", "nan", "<na>", "nat", "#n/a")

# Further ones that tables write for a row without a group, such as a patient or a lesion.
_NO_GROUP = ("-", "--", ".", "?", "n.a.", "missing", "-1", "-1.0")

SPLIT_WORDS = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "dev": "val",
    "test": "test",
    "testing": "test",
    "external": "external",
}
# Splits as CelebA, Waterbirds and WILDS count them; fewer numbers may mean anything.
_COUNTED_SPLITS = {0: "train", 1: "val", 2: "test"}


def is_blank(value: object) -> bool:
    """Whether a value stands for none: None, NaN, blanks, or one of `BLANK_WORDS`.

    >>> [is_blank(value) for value in (None, float("nan"), " ", "NA", 0, "nv")]
    [True, True, True, True, False, False]
    """
    return value is None or value != value or str(value).strip().lower() in BLANK_WORDS


def is_no_group(value: object) -> bool:
    """Whether a value stands for no group: a blank (`is_blank`), a dash, a dot, `?`, or -1.

    >>> [is_no_group(value) for value in (None, "NA", "-", -1, -1.0, 0, "IL_1")]
    [True, True, True, True, True, False, False]
    """
    return is_blank(value) or str(value).strip().lower() in _NO_GROUP


def plain_text(value: object) -> str:
    """A value as text without outer blanks: bytes are UTF-8, whole floats are integers.

    Raises `TrustqError` for bytes of another encoding.

    >>> [plain_text(value) for value in (" a ", b"a", 3.0, 3, None)]
    ['a', 'a', '3', '3', '']
    """
    if isinstance(value, str):
        return value.strip()
    if value is None or value != value:
        return ""
    if isinstance(value, bytes | bytearray):
        try:
            return bytes(value).decode("utf-8").strip()
        except UnicodeDecodeError as error:
            raise InputError(
                f"{bytes(value)!r} is not UTF-8: decode the texts as they were written, e.g. "
                "np.char.decode(labels, 'latin-1'), and save them again."
            ) from error
    if isinstance(value, float | np.floating) and float(value).is_integer():
        return str(int(value))
    return str(value)


def plain_texts(column: np.ndarray) -> list[str]:
    """A column as texts, see `plain_text`; "" for a blank."""
    if column.dtype.kind == "U":
        if is_plain(column):
            texts: list[str] = column.tolist()
            return texts
        return [text.strip() for text in column.tolist()]
    if column.dtype.kind == "f" and not isinstance(column, np.ma.MaskedArray):
        known = {value: plain_text(value) for value in np.unique(column).tolist()}
        return [known.get(value, "") for value in column.tolist()]
    return [plain_text(value) for value in column.tolist()]


def n_others(column: np.ndarray, other: np.ndarray) -> int:
    """In how many rows two columns of one thing hold other values, where neither is blank.

    0 where they share no value at all, as numbers and names, which are two forms of one thing.

    >>> n_others(np.array(["a", "b", ""]), np.array(["a", "a", "b"]))
    1
    """
    if column.ndim != 1 or column.shape != other.shape:
        return 0
    texts, theirs = plain_texts(column), plain_texts(other)
    if set(texts).isdisjoint(theirs):
        return 0
    return sum(a != b and "" not in (a, b) for a, b in zip(texts, theirs, strict=True))


def is_plain(column: np.ndarray) -> bool:
    """Whether a column is of numpy's texts without a blank in any, so that it stays as it is.

    >>> is_plain(np.array(["a", "b"])), is_plain(np.array(["a "])), is_plain(np.array([1]))
    (True, False, False)
    """
    if (
        column.dtype.kind != "U"
        or not column.dtype.isnative
        or isinstance(column, np.ma.MaskedArray)
    ):
        return False
    if not column.size or not column.dtype.itemsize:
        return True
    codes = np.ascontiguousarray(column).view(np.uint32)
    # Blanks are the codes up to 32, and some beyond those of ASCII; 0 ends a text.
    return not bool((codes - 1 < 32).any() or codes.max() >= 0x80)


def is_long(column: np.ndarray, n: int) -> bool:
    """Whether every text of a plain column has `n` letters or more; False where that is not known.

    >>> is_long(np.array(["abc", "abcd"]), 3), is_long(np.array(["abc", "a"]), 3)
    (True, False)
    """
    if not is_plain(column) or not column.size or column.dtype.itemsize < 4 * n:
        return False
    codes = np.ascontiguousarray(column).view(np.uint32).reshape(column.size, -1)
    return bool((codes[:, n - 1] != 0).all())


def whole_number(text: str) -> int | None:
    """The whole number that a text is in any spelling, or None.

    >>> [whole_number(text) for text in ("3", "3.0", "03", "3e+00", "-1", "3.5", "x")]
    [3, 3, 3, 3, -1, None, None]
    """
    if not re.fullmatch(r"[+-]?\d+(\.\d*)?(e[+-]?\d+)?", text, re.IGNORECASE | re.ASCII):
        return None
    if text.lstrip("+-").isdecimal():
        return int(text) if len(text) < 20 else None
    number = float(text)
    return int(number) if number.is_integer() and abs(number) < 2**53 else None


def flag(text: str) -> int | None:
    """1 or 0 for a text that says true or false, in words or as the number; None for another.

    >>> [flag(text) for text in ("TRUE", "False", "1", "0.0", "yes")]
    [1, 0, 1, 0, None]
    """
    number = {"true": 1, "false": 0}.get(text.lower(), whole_number(text))
    return number if number in (0, 1) else None


_COMMA = re.compile(r"[+-]?\d*,\d+(e[+-]?\d+)?|[+-]?\d+(e[+-]?\d+)?", re.IGNORECASE | re.ASCII)
_THOUSANDS = re.compile(r"[+-]?[1-9]\d{0,2}(,\d{3})*", re.ASCII)


def decimal_points(values: Sequence[object]) -> list[str | None] | None:
    """Numbers with decimal commas as such with points; None where the texts are no such numbers.

    `1,234` alone may be a thousand and more, and is left as it is.

    >>> decimal_points(["0,5", "1", None]), decimal_points(["1,234", "5,678"])
    (['0.5', '1', None], None)
    """
    is_decimal = False
    for value in values:
        if value is None:
            continue
        if not isinstance(value, str) or not _COMMA.fullmatch(value):
            return None
        is_decimal = is_decimal or ("," in value and not _THOUSANDS.fullmatch(value))
    if not is_decimal:
        return None
    return [None if value is None else str(value).replace(",", ".") for value in values]


def plain_numbers(texts: Sequence[str | None]) -> list[str | None]:
    """Texts of which each is a whole number, some in the form of a float, as whole numbers.

    >>> plain_numbers(["1.0", "2", None]), plain_numbers(["1.0", "x"]), plain_numbers(["01"])
    (['1', '2', None], ['1.0', 'x'], ['01'])
    """
    numbers = {text: whole_number(text) for text in set(texts) if text is not None}
    if None in numbers.values() or all(text.lstrip("+-").isdecimal() for text in numbers):
        return list(texts)
    return [None if text is None else str(numbers[text]) for text in texts]


def read_splits(column: np.ndarray) -> tuple[np.ndarray, list[str]]:
    """Splits by their own words (`SPLIT_WORDS`), and the words that are none, as they are.

    Where they are the numbers 0, 1 and 2, all three, these are train, val and test.

    >>> read_splits(np.array(["Training", "dev", "fold1"]))
    (array(['train', 'val', 'fold1'], dtype='<U5'), ['fold1'])
    """
    texts = plain_texts(column)
    known = {text: SPLIT_WORDS.get(text.lower()) for text in set(texts)}
    if _count_splits(known):
        known = {text: _COUNTED_SPLITS.get(whole_number(text) or 0) for text in known if text}
        known[""] = None
    unknown = sorted(text for text, split in known.items() if split is None and text in texts)
    if is_plain(column) and all(split in (None, text) for text, split in known.items()):
        return column, unknown
    return np.array([known[text] or text for text in texts]), unknown


def splits_note(column: np.ndarray) -> list[str]:
    """A note where splits are read that are numbers, see `read_splits`."""
    if not _count_splits(set(plain_texts(column))):
        return []
    said = ", ".join(f"{n} is {split}" for n, split in _COUNTED_SPLITS.items())
    return [f"splits are numbers, which are read as usual: {said}"]


def _count_splits(texts: Iterable[str]) -> bool:
    return {whole_number(text) for text in texts if text} == _COUNTED_SPLITS.keys()


def split_names(
    text: str | Iterable[str], *, known: Sequence[str] = (), separator: str = ","
) -> list[str]:
    """The names in a list that is one text: separated by commas, quoted, or a JSON array.

    A name that holds a comma is quoted as in CSV (`"Nevus, Reed",Nevus`), or is found among the
    `known` ones. A list is returned as it is, and one as Python prints it (`['a', 'b']`) is read
    too. Raises `TrustqError` where two readings of the text are known, or a JSON array holds no
    texts.

    >>> split_names('mel, "Nevus, Reed"')
    ['mel', 'Nevus, Reed']
    >>> split_names("Nevus, Reed,mel", known=["Nevus, Reed", "mel"])
    ['Nevus, Reed', 'mel']
    >>> split_names('["a,b", "c"]')
    ['a,b', 'c']
    """
    if isinstance(text, Set | Mapping):
        raise InputError(f"{text} has no order that is meant: pass a list of names.")
    if not isinstance(text, str):
        return [str(name) for name in text]
    if text in known:
        return [text]
    if text.lstrip().startswith("["):
        names = _listed_in(text)
        if isinstance(names, list):
            if not all(isinstance(name, str | int | float) for name in names):
                raise InputError(f"{text}: expected a JSON array of names.")
            return [plain_text(name) for name in names]
    parts = next(csv.reader([text], delimiter=separator, skipinitialspace=True), [])
    parts = [part.strip() for part in parts if part.strip()]
    if '"' in text or not any(separator in name for name in known):
        return parts
    return rejoined(parts, known, separator=separator)


def _listed_in(text: str) -> Any:
    """The list that a text in square brackets is, by JSON or as Python prints it; None for none."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        pass
    try:
        names = ast.literal_eval(text.strip())
    except (ValueError, SyntaxError, RecursionError, MemoryError):
        return None
    # numpy prints no commas, and texts side by side are one to Python.
    return names if isinstance(names, list) and text.count(",") >= len(names) - 1 > 0 else None


def split_pairs(text: str) -> list[tuple[str, str]]:
    """`NAME=VALUE,...` as pairs; a name may hold commas and `=`, or be quoted with its value.

    >>> split_pairs("mel=3, Nevus, Reed=2,a=b=1")
    [('mel', '3'), ('Nevus, Reed', '2'), ('a=b', '1')]
    """
    pairs, open_parts = [], []
    for part in split_names(text):
        open_parts.append(part)
        name, equals, value = ", ".join(open_parts).rpartition("=")
        if equals:
            pairs.append((name.strip(), value.strip()))
            open_parts = []
    return pairs + [(", ".join(open_parts), "")] * bool(open_parts)


def rejoined(parts: Sequence[str], known: Sequence[str], *, separator: str = ",") -> list[str]:
    """Parts put together to known names that hold the separator, where one reading does so.

    >>> rejoined(["Nevus", "Reed", "mel"], ["Nevus, Reed", "mel"])
    ['Nevus, Reed', 'mel']
    """
    by_key = {_key(name, separator): name for name in known}
    readings: list[list[list[str]]] = [[] for _ in range(len(parts) + 1)]
    readings[0].append([])
    for end in range(1, len(parts) + 1):
        for start in range(end):
            name = by_key.get(_key(separator.join(parts[start:end]), separator))
            if name is not None and len(readings[end]) < 2:
                readings[end] += [[*before, name] for before in readings[start]]
    if len(readings[-1]) > 1:
        raise InputError(
            f"{', '.join(parts)} can be read as {readings[-1][0]} and as {readings[-1][1]}: quote "
            "the names that hold a comma."
        )
    return readings[-1][0] if readings[-1] else list(parts)


def _key(name: str, separator: str) -> str:
    return separator.join(part.strip() for part in name.split(separator))
