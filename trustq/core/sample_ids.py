"""Rows of two tables matched by id, with or without the ending of an image file."""

import re
import unicodedata
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from trustq.core.column_names import ID_COLUMNS, first_called
from trustq.core.columns import Columns, read_table
from trustq.core.counts import verb
from trustq.core.words import plain_texts
from trustq.errors import InputError, NotFound

IMAGE_ENDING = re.compile(
    r"\.(jpe?g|jpe|jfif|png|bmp|tiff?|webp|gif|jp2|ppm|pgm|dcm|heic)\Z", re.IGNORECASE
)
_FOLDERS = re.compile(r"\A.*[/\\]", re.DOTALL)
_FLOAT_FORM = re.compile(r"\A(\d+)\.0+\Z")
_LEADING_ZEROS = re.compile(r"(?<!\d)0+(?=\d)")


def id_key(text: str) -> str:
    """An id as it is compared everywhere: without outer blanks and the ending of an image file.

    >>> id_key(" ISIC_1.JPG"), id_key("v1.2")
    ('ISIC_1', 'v1.2')
    """
    text = text.strip()
    dot = text.rfind(".")
    return IMAGE_ENDING.sub("", text) if dot > 0 and len(text) - dot < 6 else text


def id_keys(ids: np.ndarray) -> list[str]:
    """Ids as texts that are compared, see `id_key`; whole floats are integers.

    >>> id_keys(np.array(["ISIC_1.JPG", "ISIC_2"]))
    ['ISIC_1', 'ISIC_2']
    >>> id_keys(np.array([1.0, 2.0]))
    ['1', '2']
    """
    texts = plain_texts(ids)
    return list(map(id_key, texts)) if any("." in text for text in texts) else texts


def joined_keys(*ids: np.ndarray) -> list[list[str]]:
    """Ids of several tables as they are joined: `id_keys`, and 7.0 is 7 where all are numbers.

    7.0 is what a table with a blank among its numbers makes of 7.

    >>> joined_keys(np.array(["7", "8"]), np.array(["8.0", "7.0"]))
    [['7', '8'], ['8', '7']]
    """
    return _numbers_alike([id_keys(own) for own in ids])


def loose_keys(ids: np.ndarray) -> list[str]:
    """`loose_key` of every id, in one pass over all of them.

    >>> loose_keys(np.array(["photos/IMG_007.jpg", "img_7"]))
    ['img_7', 'img_7']
    """
    keys = id_keys(ids)
    text = "\n".join(keys)
    if (
        text.count("\n") != len(keys) - 1
        or not text.isascii()
        or "." in text
        or "\\" in text
        or "/" in text
    ):
        return list(map(loose_key, keys))
    text = text.casefold()
    return (_LEADING_ZEROS.sub("", text) if "0" in text else text).split("\n")


def loose_key(text: str) -> str:
    """What spellings of one id have in common that are not joined: `a/IMG_007.jpg`, `img_7`.

    Case, leading zeros, folders before the name and `.0` after a number do not count.

    >>> loose_key("photos/IMG_007.jpg"), loose_key("img_7"), loose_key("12.0")
    ('img_7', 'img_7', '12')
    """
    if text.isdigit():
        return text.lstrip("0") or "0"
    name = _FOLDERS.sub("", id_key(text)).casefold()
    if not name.isascii():
        name = unicodedata.normalize("NFC", name)
    if "." in name:
        name = _FLOAT_FORM.sub(r"\1", name)
    return _LEADING_ZEROS.sub("", name) if "0" in name else name


def find_ids(wanted: Sequence[str], ids: np.ndarray, *, source: str) -> list[int | None]:
    """The row of `ids` that each text names: as it is spelt, else by `id_key`; None where none is.

    Several texts of one `id_key`, as `a.jpg` and `a.png`, are several images: each is found as it
    is spelt alone. Raises `TrustqError`, which names `source`, for a text that by `id_key` names
    several rows.

    >>> find_ids(["a.jpg", " b ", "c"], np.array(["a", "b.png"]), source="answers.csv")
    [0, 1, None]
    >>> find_ids(["a.jpg", "a.png"], np.array(["a.jpg"]), source="answers.csv")
    [0, None]
    >>> find_ids(["7", "8"], np.array(["8.0", "7.0"]), source="answers.csv")
    [1, 0]
    """
    texts = plain_texts(ids)
    spelt = {text: row for row, text in enumerate(texts)}
    if all(text in spelt for text in wanted):
        return [spelt[text] for text in wanted]
    rows_of: dict[str, list[int]] = {}
    keys, there = _numbers_alike([[id_key(text) for text in wanted], id_keys(ids)])
    for row, key in enumerate(there):
        rows_of.setdefault(key, []).append(row)
    twins = _twins(wanted, keys)
    found: list[int | None] = []
    for text, key in zip(wanted, keys, strict=True):
        rows = [spelt[text]] if text in spelt else [] if key in twins else rows_of.get(key, [])
        if len(rows) > 1:
            raise InputError(
                f"{source}: {text!r} may be {texts[rows[0]]!r} or {texts[rows[1]]!r}: spell it as "
                "the one that is meant."
            )
        found.append(rows[0] if rows else None)
    return found


def _numbers_alike(keys: list[list[str]]) -> list[list[str]]:
    whole = [own for one in keys if (own := whole_numbers(one)) is not None]
    return whole if len(whole) == len(keys) else keys


def whole_numbers(keys: Sequence[str]) -> list[str] | None:
    """Ids that are all whole numbers as such, 7.0 as 7; None for others."""
    found = []
    for key in keys:
        digits, dot, zeros = key.partition(".")
        if not digits.isdecimal() or (dot and zeros.strip("0")):
            return None
        found.append(digits)
    return found


def _twins(texts: Sequence[str], keys: Sequence[str]) -> set[str]:
    """Keys by which texts with endings of image files differ in the ending alone."""
    if len(set(keys)) == len(keys):
        return set()
    spellings: dict[str, set[str]] = {}
    for text, key in zip(texts, keys, strict=True):
        if ending := text.strip()[len(key) :]:
            spellings.setdefault(key, set()).add(ending.lower())
    return {key for key, own in spellings.items() if len(own) > 1}


def nearly(strangers: Sequence[str], ids: np.ndarray) -> str:
    """What a message adds of ids that were not found and are nearly spelt as some that are there.

    >>> nearly(["IMG_07"], np.array(["img_7"]))
    " (1 differs in spelling alone from ids that are there, e.g. 'IMG_07' and 'img_7')"
    """
    known = dict(zip(loose_keys(ids), plain_texts(ids), strict=True))
    near = [(text, known[key]) for text in strangers if (key := loose_key(text)) in known]
    if not near:
        return ""
    return (
        f" ({len(near)} {verb(len(near), 'differs', 'differ')} in spelling alone from ids that are "
        f"there, e.g. {near[0][0]!r} and {near[0][1]!r})"
    )


def id_column(columns: Collection[str], by: str | None = None) -> str | None:
    """The column that a table is joined by: `by` where it is there, else one of `ID_COLUMNS`."""
    return by if by is not None and by in columns else first_called(columns, ID_COLUMNS)


@dataclass(frozen=True)
class Joinable:
    """A table whose rows are found by id."""

    path: Path
    columns: Columns
    ids: np.ndarray

    def rows(self, ids: np.ndarray) -> list[int | None]:
        """The row of each of `ids`, see `find_ids`; None where the table lacks it."""
        return find_ids(plain_texts(ids), self.ids, source=str(self.path))


def read_joinable(table: Path, *, by: str | None = None) -> Joinable:
    """A table and the places of its ids.

    `by` names the column of ids [default: the first of `ID_COLUMNS` that is there]. Raises
    `TrustqError` for no such column, or ids twice.
    """
    columns = read_table(table)
    name = id_column(columns, by)
    if name is None:
        raise NotFound(
            f"{table} has no column of ids; it has {', '.join(columns)}: "
            f"call it one of {', '.join(ID_COLUMNS)}.",
            path=table,
            expected=columns,
        )
    require_joinable(columns[name], table=table, name=name)
    return Joinable(table, columns, columns[name])


def require_joinable(ids: np.ndarray, *, table: Path, name: str) -> None:
    """Raise `TrustqError` where ids are not unique; a.jpg and a.png alone are two images."""
    texts, keys = plain_texts(ids), id_keys(ids)
    if len(set(keys)) == len(keys):
        return
    twins = _twins(texts, keys)
    # a, or the same spelling again, is one row too many.
    kept = [text if key in twins else key for text, key in zip(texts, keys, strict=True)]
    seen: set[str] = set()
    again = next((text for text in kept if text in seen or seen.add(text)), None)  # type: ignore[func-returns-value]
    again = again or next(iter(sorted(twins & set(texts))), None)
    if again is not None:
        raise InputError(
            f"{table}: {name} must be unique to be joined by; {again!r} is repeated.",
            path=table,
            found=again,
        )


def find_rows(
    table: Path, ids: np.ndarray, *, by: str | None = None
) -> tuple[Columns, list[int | None]]:
    """Columns of a table, and the row of each of `ids` (None where the table lacks it).

    Raises `TrustqError` as `read_joinable` and `find_ids` do.
    """
    found = read_joinable(table, by=by)
    return found.columns, found.rows(ids)
