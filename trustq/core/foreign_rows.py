"""What labels, classes, ids, groups, splits and scores of a foreign file mean, for every command.

A file is opened once (`open_rows`); each question of its meaning is a method here and nowhere else.
"""

import difflib
import json
import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from trustq.core.class_names import (
    Labels,
    by_number,
    checked_classes,
    letters_of,
    listed,
    numbers_of,
    read_labels,
    same_classes,
    two_classes,
)
from trustq.core.column_names import ID_COLUMNS, alike_names, begins, called, first_called
from trustq.core.columns import read_metadata, read_table, table_notes
from trustq.core.counts import counted, verb
from trustq.core.foreign_files import (
    ForeignFile,
    is_array_file,
    kind_of,
    matrix,
    read_foreign,
    read_lines,
)
from trustq.core.sample_ids import find_rows, id_column, id_keys, joined_keys, nearly
from trustq.core.words import (
    SPLIT_WORDS,
    decimal_points,
    flag,
    is_long,
    is_no_group,
    is_plain,
    n_others,
    plain_numbers,
    plain_texts,
    read_splits,
    split_names,
    splits_note,
    whole_number,
)
from trustq.errors import InputError

Names = Mapping[str, str | Sequence[str]]

# The arrays of a file by their names in the design, and what each may be called unasked; where none
# is spelt so, in any case.
ROLES = {
    "features": ("features",),
    "labels": ("labels", "label"),
    "logits": ("logits",),
    "probs": ("probs",),
    "sample_ids": ID_COLUMNS,
    "groups": ("groups", "group_id", "lesion_id"),
    "split": ("split",),
    "observed": ("observed",),
    "folds": ("folds",),
    "crossfit_logits": ("crossfit_logits",),
    "classes": ("classes", "class_names", "classes_"),
}
# Matrices of a table are columns that begin like this, or one column of lists, or of a struct:
# `probs.mel`.
PREFIXES = {
    "features": "feature_",
    "logits": "logit_",
    "probs": "prob_",
    "crossfit_logits": "crossfit_logit_",
}
# Names that say who or what a row shows, without blanks: no group unasked, for it may be a number.
_LIKE_GROUPS = (
    *("group", "patient", "patientid", "subject", "subjectid", "caseid", "lesion", "lesionid"),
)
_FLAG_OF_SPLIT = re.compile(r"is[_ ]?(train|val|valid|validation|test)(ing)?", re.IGNORECASE)
_SCORES = {"logits": "logits", "probs": "probabilities"}  # the first goes before the second
_SEVERAL = re.compile(r"[\[({]|\d[\s;|]+[-\d]")  # a list, a dict, or numbers side by side
_LONGEST_ID = 1000  # letters; a longer text is the content of a file, such as an image in base64
# What metadata call class names, or the places of classes.
_NUMBERED = ("id2label", "class_to_idx")
_STATED = ("classes", "class_names", *_NUMBERED)
STATEMENT = "trustq_cache"  # beside the arrays of a file that trustq exported


@dataclass(frozen=True)
class Scores:
    """Scores of n rows: `kind` is logits or probs, `array` (n, k), `classes` what is stated."""

    kind: str
    array: np.ndarray
    classes: tuple[str, ...] | None


@dataclass
class ForeignRows:
    """A foreign file with the tables joined to it; `notes` grows with what is not plain."""

    file: ForeignFile
    names: dict[str, str | Sequence[str]]
    sources: list[dict[str, np.ndarray]]
    stated_classes: list[str] | None = None  # of a joined manifest
    notes: list[str] = field(default_factory=list)

    @property
    def path(self) -> Path:
        """Where the rows are from."""
        return self.file.path

    @property
    def source(self) -> str:
        """The file as messages call it."""
        return str(self.path)

    def note(self, text: str) -> None:
        """Add a note once."""
        if text not in self.notes:
            self.notes.append(text)

    def column(self, name: str, what: str = "") -> np.ndarray:
        """An array or column by its own name; raises `TrustqError` where it is not there."""
        there = [source[name] for source in self.sources if name in source]
        if there:
            for other in there[1:]:
                if n := n_others(there[0], other):
                    self.note(
                        f"{name} is read from the first table that has it; that of another differs "
                        f"in {counted(n, 'row')}"
                    )
            return self._per_row(name, there[0])
        if name in self.file.unread:
            return self.file.require(name, what)
        wanted = f"{name} for {what}" if what else name
        marked = self._marked(what)
        raise InputError(f"{self.path} has no {wanted}; it has {self.there()}.{marked}")

    def has(self, name: str) -> bool:
        """Whether there is an array or column of that name."""
        return any(name in source for source in self.sources)

    def find(self, role: str) -> np.ndarray | None:
        """The array of a role, by the name asked for or one of its usual names."""
        asked = self.names.get(role)
        if isinstance(asked, str):
            return _rows_of_lists(self.column(asked, role), self.source, asked)
        found = self._usual(role)
        if found is not None:
            self._tell_others(role, *found)
            return _rows_of_lists(self._per_row(*found), self.source, found[0])
        unread = first_called(self.file.unread, ROLES[role])
        return None if unread is None else self.file.require(unread, role)

    def name_of(self, role: str) -> str | None:
        """What the array of a role is called here: as was asked, or by one of its usual names."""
        asked = self.names.get(role)
        if isinstance(asked, str):
            return asked
        found = self._usual(role)
        return None if found is None else found[0]

    def _usual(self, role: str) -> tuple[str, np.ndarray] | None:
        named = ((name, array) for name, array in self._named(role) if _may_be(role, name, array))
        return next(named, None)

    def _named(self, role: str) -> Iterator[tuple[str, np.ndarray]]:
        """Arrays of a role's usual names: first what is spelt so in any table, then in any case."""
        for spelt in (True, False):
            for source in self.sources:
                for name in ROLES[role]:
                    there = name if spelt else self._in_any_case(source, name, role)
                    if there is not None and there in source:
                        yield there, source[there]

    def _tell_others(self, role: str, name: str, array: np.ndarray) -> None:
        """Note an array of the same role that holds other values, as a joined table may."""
        if role not in ("labels", "split") or array.ndim != 1:
            return
        for other, values in self._named(role):
            if values is not array and (n := n_others(array, values)):
                where = f"the {other} of a joined table" if other == name else other
                self.note(f"{role} are read from {name}; {where} differs in {counted(n, 'row')}")

    def _in_any_case(self, source: Mapping[str, np.ndarray], name: str, role: str) -> str | None:
        """A usual name of a role in any case, that was not asked for as something else."""
        others = [own for other, own in self.names.items() if other != role]
        found = [there for there in alike_names(source, name) if there not in others]
        if len(found) > 1 and name not in found:
            raise InputError(
                f"{self.path} has {' and '.join(found)}, which differ in case alone: name the one "
                f"of the {role} (`{role}`)."
            )
        return found[0] if len(found) == 1 else None

    def _per_row(self, name: str, array: np.ndarray) -> np.ndarray:
        if not array.ndim:
            unit = "class" if name in ROLES["classes"] else "row"
            raise InputError(
                f"{self.path}: {name} is one value, {array}; expected one per {unit}: leave it "
                "out, or repeat it."
            )
        return array

    def matrix(self, role: str) -> np.ndarray | None:
        """Features, logits or probabilities as (n, d); of a table from its columns."""
        if not self.file.is_table:
            array = self.find(role)
            return None if array is None else matrix(array, source=self.source, name=role)
        if chosen := self.matrix_columns(role):
            return self._of_columns(chosen, role)
        unread = first_called(self.file.unread, (role,))
        return None if unread is None else self.file.require(unread, role)

    def matrix_columns(self, role: str) -> list[str]:
        """Columns of a table that make up a matrix: one of lists, several by name, or a prefix."""
        asked, columns = self.names.get(role), self.sources[0]
        if asked is None:
            prefix = PREFIXES[role]
            if self._is_spelt(role):
                if role in columns:
                    return [role]
                usual = [name for name in columns if name.startswith(prefix)]
                if role == "features":
                    usual = self._numbered(usual, prefix, role)
                return usual or _fields(columns, role)
            if (there := self._in_any_case(columns, role, role)) is not None:
                return [there]
            found = [name for name in columns if begins(name, prefix)]
            if len(spelt := sorted({name[: len(prefix)] for name in found})) > 1:
                raise InputError(
                    f"{self.path} has columns {', '.join(f'{own}...' for own in spelt)}, which "
                    f"differ in case alone: name those of the {role} (`{role}`)."
                )
            return found
        if isinstance(asked, str) and any(asked in source for source in self.sources):
            return [asked]
        chosen = split_names(asked, known=list(columns))
        if len(chosen) == 1 and chosen[0] not in columns:
            chosen = _fields(columns, chosen[0]) or self._beginning(chosen[0], role)
        if not chosen:
            self.column(str(asked), role)
        for name in chosen:
            if name not in columns:
                raise InputError(
                    f"{self.path} has no column {name!r} for {role}; it has {self.there()}."
                )
        return chosen

    def _beginning(self, prefix: str, role: str) -> list[str]:
        """Columns that begin with a prefix and are of no other role: of p, p0 and not patient."""
        others = {self.name_of(other) for other in ROLES if other not in PREFIXES}
        found = [n for n in self.sources[0] if n.startswith(prefix) and n not in others]
        kept = self._numbered(found, prefix, role)
        if kept == found or role == "features":
            return kept
        odd = [name for name in found if name not in kept]
        raise InputError(
            f"{self.path}: some columns that begin with {prefix} end in a number and some do not "
            f"({listed(odd, 5)}): list those of the {role}, `{role}=a,b,c`."
        )

    def _numbered(self, found: list[str], prefix: str, role: str) -> list[str]:
        """Of columns of one prefix the numbered ones, where two are: of f, f0 and f1, not flag."""
        numbered = [name for name in found if name[len(prefix) :].lstrip(" _.-").isdecimal()]
        odd = [name for name in found if name not in numbered]
        if len(numbered) < 2 or not odd:
            return found
        if role == "features":
            self.note(f"no features, for they do not end in a number: {listed(odd, 5)}")
        return numbered

    def scores(self) -> Scores:
        """Logits or probabilities with the classes of their columns.

        The kind that was asked for, else logits, which is said where both are there. One column of
        scores is of the second class. Raises `TrustqError` where there are none.
        """
        kinds: list[str] = [kind for kind in _SCORES if kind in self.names]
        # What is spelt as usual goes before what is so in another case.
        for kind in kinds or sorted(_SCORES, key=self._is_spelt, reverse=True):
            array = self.matrix(kind)
            if array is None:
                continue
            other = "probs" if kind == "logits" else "logits"
            if len(kinds) != 1 and self._has_matrix(other):
                self.note(f"the file has logits and probabilities: the {_SCORES[kind]} are used")
            return self._scores(kind, array)
        is_table = self.file.is_table
        if shown := images_among(self):
            raise InputError(f"{self.path} {shown}")
        wanted = "columns prob_<class> or logit_<class>" if is_table else "array probs or logits"
        raise InputError(
            f"{self.path} has no {wanted}; it has {self.there()}. Name them (`probs`, `logits`)."
        )

    def has_scores(self) -> bool:
        """Whether the file has logits or probabilities, or the caller named some."""
        for kind in ("logits", "probs"):
            there = first_called(self.file.unread, ROLES[kind])
            if there is not None and kind not in self.names:
                self.note(f"{there} is left out, for it {self._why_unread(there)}")
        return any(kind in self.names or self._has_matrix(kind) for kind in ("logits", "probs"))

    def classes(self) -> list[str] | None:
        """The class names that the caller or the file states, in their order.

        Raises `TrustqError` where both name the same ones in two orders, for numbers of labels and
        columns of scores would change their class.
        """
        asked = self.names.get("classes")
        if asked is None or (isinstance(asked, str) and self.has(asked)):
            return self._own_classes(self.find("classes"))
        names = split_names(asked)
        if isinstance(asked, str) and len(names) < 2:
            self.column(asked, "classes")
        usual = self._usual("classes")
        own = self._own_classes(None if usual is None else usual[1])
        is_other = own is not None and own != names and sorted(own) == sorted(names)
        if is_other and not self.file.is_table:  # tables name their columns
            raise InputError(
                f"{self.path} names its classes in the order {listed(own or [])}, and they are "
                f"given as {listed(names)}: leave them out (`classes`), or give them in its order."
            )
        return names

    def _own_classes(self, array: np.ndarray | None) -> list[str] | None:
        """The class names that the file states, in an array or beside its arrays."""
        if array is not None and not self.file.is_table:
            return plain_texts(np.asarray(array).reshape(-1))
        known = self.file.metadata
        stated = (_stated(known.get(called(known, name) or name)) for name in _STATED)
        if found := next(filter(None, stated), None):
            return found
        return self.stated_classes

    def labels(
        self,
        role: str = "labels",
        *,
        classes: Sequence[str] | None = None,
        width: int | None = None,
    ) -> Labels:
        """Labels as class indices, -1 for none; see `read_labels`."""
        column = self.find(role)
        if column is None:
            kind = "column" if self.file.is_table else "array"
            raise InputError(
                f"{self.path} has no {kind} {role}; it has {self.there()}. Name it (`{role}`)."
                f"{self._marked(role)}"
            )
        column, own = self._by_feature(role, column, classes)
        if classes is None and own is not None and width in (None, len(own)):
            classes = own
        found = read_labels(column, source=self.source, classes=classes, width=width, name=role)
        for note in found.notes:
            self.note(note)
        return found

    def _marked(self, role: str) -> str:
        is_label = role in ("labels", "observed") and self.file.is_table
        return next(filter(None, map(marked_columns, self.sources)), "") if is_label else ""

    def sample_ids(self, n: int) -> list[str] | None:
        """Unique ids of the rows, or None where the file has none."""
        named = self._id_column()
        if named is None:
            return None
        name, texts = named[0], plain_texts(named[1])
        if len(texts) != n:
            raise InputError(
                f"{self.path}: {name} has {counted(len(texts), 'row')}, the file {n:,}."
            )
        if "" in texts:
            raise InputError(f"{self.path}: {name} is blank in row {texts.index('') + 1}.")
        if len(set(texts)) != n:
            seen: set[str] = set()
            repeated = next(text for text in texts if text in seen or seen.add(text))  # type: ignore[func-returns-value]
            raise InputError(
                f"{self.path}: {name} must be unique; {n - len(set(texts))} are repeated, "
                f"e.g. {repeated!r}: name the column of ids (`sample_ids`), or leave it out, and "
                "rows are numbered."
            )
        return texts

    def id_column(self) -> np.ndarray | None:
        """The column of ids: the one asked for, or the first of a usual name that holds ids."""
        named = self._id_column()
        return None if named is None else named[1]

    def _id_column(self) -> tuple[str, np.ndarray] | None:
        asked = self.names.get("sample_ids")
        if isinstance(asked, str):
            array = _flat(self.column(asked, "sample_ids"))
            if not _holds_ids(array):
                raise InputError(f"{self.path}: {asked} holds no ids, one text or number a row.")
            return asked, array
        for name, array in self._named("sample_ids"):
            if _holds_ids(own := _flat(array)):
                return name, own
            if own.ndim == 1 and own.dtype.kind == "f":
                self.note(f"{name} holds no whole numbers, and is left out")
        if (lost := first_called(self.file.unread, ROLES["sample_ids"])) is not None:
            self.note(f"{lost} is left out, for it {self._why_unread(lost)}")
        return None

    def _why_unread(self, name: str) -> str:
        return self.file.unread[name].partition(":")[0]

    def groups(self, n: int, ids: Sequence[str] | None) -> np.ndarray | None:
        """Names of groups, (n,); a row without one is a group of its own."""
        array = self.find("groups")
        if array is None:
            if (like := self._like_groups()) is not None:
                self.note(f"{like} is not used: if its rows belong together, name it as groups")
            return None
        column = self._one_a_row(array, "groups")
        texts = plain_texts(column)
        if len(texts) != n:
            raise InputError(
                f"{self.path}: groups has {counted(len(texts), 'row')}, the file {n:,}."
            )
        blank = set[str]()
        if not is_long(column, 8):  # longer than any word for a blank
            blank = {text for text in set(texts) if len(text) < 8 and is_no_group(text)}
        if two := alike_but_in_case(texts):
            self.note(
                f"groups {two[0]!r} and {two[1]!r} differ in case alone and are taken for two: "
                "spell them alike if they are one"
            )
        numbers = _as_numbers(texts, blank)
        if not blank and numbers is texts:
            return column if is_plain(column) else np.array(texts)
        own = ids if ids is not None else [str(row) for row in range(n)]
        named = zip(texts, numbers, own, strict=True)
        return np.array([f"row {i}" if text in blank else group for text, group, i in named])

    def split(self, n: int) -> tuple[np.ndarray | None, list[str]]:
        """Splits in the words of trustq, (n,), and the words that are no split."""
        array = self.find("split")
        if array is None:
            for like in self._like_splits():
                said = "write a column split of train, val and test"
                if not _FLAG_OF_SPLIT.fullmatch(like):
                    said = "name it as split"
                self.note(f"{like} is not used: if it says the splits of rows, {said}")
            return None, []
        column = self._one_a_row(array, "split")
        found, unknown = read_splits(column)
        for note in splits_note(column):
            self.note(note)
        if len(found) != n:
            raise InputError(
                f"{self.path}: split has {counted(len(found), 'row')}, the file {n:,}."
            )
        return found, unknown

    def _like_groups(self) -> str | None:
        """A column whose name says that rows of one value are of one person or lesion."""
        asked = list(self.names.values())
        names = [name for source in self.sources for name in source if name not in asked]
        return like_groups(names)

    def _like_splits(self) -> list[str]:
        """Columns whose values are words for splits, two or more, or that flag a split's rows."""
        asked = list(self.names.values())
        columns = ((n, own) for source in self.sources for n, own in source.items())
        return [n for n, own in columns if n not in asked and (holds_splits(own) or _flags(n, own))]

    def _one_a_row(self, array: np.ndarray, role: str) -> np.ndarray:
        column = _flat(array)
        if column.ndim != 1:
            raise InputError(
                f"{self.path}: {role} has shape {array.shape}; expected one per row, (n,)."
            )
        return column

    def _has_matrix(self, role: str) -> bool:
        if self.file.is_table:
            return bool(self.matrix_columns(role))
        name = self.name_of(role)
        return name is not None and self.has(name)

    def _is_spelt(self, role: str) -> bool:
        """Whether a matrix is there by its usual name as it is spelt."""
        if not self.file.is_table:
            return self.has(role)
        usual = (PREFIXES[role], f"{role}.")
        return any(name == role or name.startswith(usual) for name in self.sources[0])

    def _scores(self, kind: str, array: np.ndarray) -> Scores:
        if kind == "logits" and _are_shares(array):
            self.note(
                "the logits are at least 0 and sum to 1 in every row: if they are probabilities, "
                "name them as probs, for otherwise confidence is far too low"
            )
        if kind == "logits" and _are_shares(array, whole=100):
            self.note(
                "the logits are at least 0 and sum to 100 in every row: if they are percents, "
                "divide them by 100 and name them as probs, for otherwise confidence is far too "
                "high"
            )
        titles = self._titles(kind)
        stated = self.classes()
        if array.ndim == 1 or (array.ndim == 2 and array.shape[1] == 1):
            return self._binary(kind, array.reshape(-1), titles, stated)
        if array.ndim != 2:
            raise InputError(
                f"{self.path}: {kind} has shape {array.shape}; expected one row per sample and one "
                "column per class: of several models or passes, save one's, or the mean of their "
                "probabilities; parts (batches) are joined by np.concatenate."
            )
        if not array.shape[1]:
            raise InputError(f"{self.path}: {kind} has no columns, expected one per class.")
        width = array.shape[1]
        if note := sorted_note(array, source=self.source, name=kind):
            self.note(note)
        if titles is None:
            if stated is None:
                return Scores(kind, array, None)
            return Scores(kind, array, checked_classes(stated, source=self.source, width=width))
        if stated is None:
            titles = by_number(titles, *self._label_columns())
        if stated is None or set(stated) == set(titles):
            return Scores(kind, array, checked_classes(titles, source=self.source, width=width))
        are_alike = list(map(letters_of, stated)) == list(map(letters_of, titles))
        if set(stated) & set(titles) and not are_alike:
            raise InputError(
                f"{self.path}: the columns are of {listed(titles)}, and the classes are called "
                f"{listed(stated)}: name every column, or none."
            )
        classes = checked_classes(stated, source=self.source, width=width)
        numbers = numbers_of(titles)
        is_listed = len(split_names(self.names.get(kind, ""))) == width  # in the order meant
        if numbers is not None and not is_listed and max(numbers) - min(numbers) == width - 1:
            array = array[:, np.argsort(numbers)]  # prob_1, prob_0: columns that say their place
        return Scores(kind, array, classes)

    def _binary(
        self, kind: str, scores: np.ndarray, titles: list[str] | None, stated: list[str] | None
    ) -> Scores:
        scores = _numbers(scores, self.source, kind)
        if not np.isfinite(scores).all():
            row = int((~np.isfinite(scores)).argmax()) + 1
            raise InputError(
                f"{self.path}: {kind} is {scores[row - 1]} in row {row}: leave out rows without a "
                "score."
            )
        if kind == "probs" and not ((scores >= 0) & (scores <= 1)).all():
            raise InputError(
                f"{self.path}: {kind} is one column and lies in [{scores.min():g}, "
                f"{scores.max():g}]; expected the probability of the second class, in [0, 1]: "
                "divide percents by 100; other scores are logits."
            )
        other = np.zeros_like(scores) if kind == "logits" else 1 - scores
        classes = None if stated is None else checked_classes(stated, source=self.source, width=2)
        positive = "1" if classes is None else classes[1]
        title = titles[0] if titles and self.file.is_table else None
        if title is not None and title.casefold() not in ROLES and classes is None:
            classes, positive = two_classes(title, self.find("labels"), source=self.source)
        elif title is not None and classes is not None and title in classes:
            positive = title
            classes = (classes[1 - classes.index(title)], title)
        self.note(f"{kind} is one column: it is taken for the class {positive}, the second of two")
        if kind == "probs" and len(scores) >= 20 and (scores >= 0.5).all():
            self.note(
                f"{kind} is .5 or more in every row: if it is the confidence of whichever class "
                f"was predicted, and not the probability of {positive}, every figure is wrong: "
                "save 1 - p where the other class was predicted"
            )
        return Scores(kind, np.stack([other, scores], axis=1), classes)

    def _titles(self, role: str) -> list[str] | None:
        if not self.file.is_table:
            return None
        chosen = self.matrix_columns(role)
        if len(chosen) == 1 and self._is_list(chosen[0]):
            return None
        asked = self.names.get(role)
        prefixes = [PREFIXES[role], f"{role}."]
        if isinstance(asked, str) and asked not in chosen:
            prefixes += [f"{asked}.", asked]
        for prefix in prefixes:
            if all(begins(name, prefix) and len(name) > len(prefix) for name in chosen):
                return [name[len(prefix) :] for name in chosen]
        return chosen

    def _label_columns(self) -> list[np.ndarray]:
        """The columns of labels that are there, given and observed."""
        found = []
        for role in ("labels", "observed"):
            asked = self.names.get(role)
            column = None if isinstance(asked, str) and not self.has(asked) else self.find(role)
            if column is not None:
                found.append(_flat(column))
        return found

    def _is_list(self, name: str) -> bool:
        column = of_text_lists(self.column(name))
        return column.dtype == object and isinstance(
            next((v for v in column.tolist() if v is not None), None), np.ndarray
        )

    def _of_columns(self, chosen: list[str], role: str) -> np.ndarray:
        if len(chosen) == 1 and self._is_list(chosen[0]):
            column = of_text_lists(self.column(chosen[0]))
            return matrix(column, source=self.source, name=chosen[0])
        parts = [_numbers(self.column(name), self.source, name) for name in chosen]
        return np.stack(parts, axis=1)

    def _counted(self, classes: Sequence[str] | None) -> list[str] | None:
        """The names that the file's metadata give to numbers, where they are these classes."""
        known = self.file.metadata
        stated = (known.get(called(known, name) or name) for name in _NUMBERED)
        names = next(filter(None, map(_stated, stated)), None)
        if names is None or classes is None:
            return names
        return names if same_classes(names, classes) is not None else None

    def _by_feature(
        self, role: str, column: np.ndarray, classes: Sequence[str] | None
    ) -> tuple[np.ndarray, Sequence[str] | None]:
        """Indices as the names that the file states for them: exports, Hugging Face's classes."""
        name = self.name_of(role) or ""
        names: Sequence[str] | None = self.file.class_names.get(name) or self._counted(classes)
        if STATEMENT in self.file.arrays and column.dtype.kind in "iu" and self.has("classes"):
            names = plain_texts(self.column("classes"))
        if names is None or column.dtype.kind not in "iuf":
            return column, None
        values = np.ma.filled(np.ma.asarray(column), -1)
        values = np.where(np.isfinite(values), values, -1).astype(np.int64)
        if values.max(initial=-1) >= len(names) or values.min(initial=0) < -1:
            raise InputError(
                f"{self.path}: {name} holds {values.max()}, and the file names {len(names)} "
                "classes."
            )
        return np.array([*names, None], dtype=object)[values], names

    def there(self) -> str:
        """The names of all arrays or columns, for a message."""
        joined = (name for source in self.sources[1:] for name in source)
        names = list(dict.fromkeys([*self.file.there, *self.file.unread, *joined]))
        if not names:
            return "no columns" if self.file.is_table else "no arrays"
        more = f" and {len(names) - 20} more" if len(names) > 20 else ""
        return ", ".join(names[:20]) + more


def images_among(rows: ForeignRows) -> str:
    """What a message says of a file that holds images and none of what a model made of them."""
    names = [n for n in rows.file.there if n.rpartition("_")[2].rpartition("/")[2] in IMAGE_ARRAYS]
    # A column of texts or numbers names images, and holds none.
    arrays = rows.file.arrays
    names = [n for n in names if n not in arrays or arrays[n].ndim > 1 or not _holds_ids(arrays[n])]
    return _IMAGES.format(name=names[0]) if names else ""


IMAGE_ARRAYS = ("images", "image", "imgs")
_IMAGES = (
    "holds images ({name}) and no features or scores of a model. Save them as image files with a "
    "table of their labels and splits and run `trustq data prepare csv` and `trustq extract`; or "
    "add what your own model makes of them to the file, as features, logits or probs."
)


def open_rows(
    path: Path,
    *,
    names: Names | None = None,
    ids: Path | None = None,
    meta: Sequence[Path] = (),
    columns: Sequence[str] = (),
    everything: bool = False,
    whole: bool = False,
) -> ForeignRows:
    """Open a foreign file with its list of ids and the tables joined to it.

    `names` gives other names of arrays, `columns` further ones to load; `everything` loads all that
    an npz holds. `ids` lists the rows' ids in their order; tables in `meta` are joined by id, and
    with `whole` must have every row. Raises `TrustqError` as `read_foreign` does, and for ids that
    do not match.
    """
    path, names = Path(path), dict(names or {})
    asked = {name for name in names.values() if isinstance(name, str)}
    beside = sorted(name for name in asked if is_array_file(name))
    known = {*asked, *columns, STATEMENT}
    usual = {own for names in ROLES.values() for own in names}

    def wanted(name: str) -> bool:
        parts = (name, name.partition("_")[2])  # train_labels are labels
        return everything or any(n in known or n.strip().casefold() in usual for n in parts)

    file = read_foreign(path, wanted=wanted, beside=beside)
    return rows_of(file, names=names, ids=ids, meta=meta, whole=whole)


def rows_of(
    file: ForeignFile,
    *,
    names: Names,
    ids: Path | None = None,
    meta: Sequence[Path] = (),
    whole: bool = False,
) -> ForeignRows:
    """The rows of an opened file, see `open_rows`."""
    for name in names:
        if name not in ROLES:
            near = difflib.get_close_matches(name, list(ROLES), n=1, cutoff=0.0)[0]
            raise InputError(
                f"Unknown name {name!r} of an array; did you mean {near!r}? Names are given as "
                f"{{{near!r}: its name in the file}}, of {', '.join(ROLES)}."
            )
    rows = ForeignRows(file, dict(names), [file.arrays], notes=list(file.notes))
    asked = names.get("features")
    if kind_of(file.path) == ".npy" and isinstance(asked, str) and asked not in file.arrays:
        file.arrays[asked] = file.arrays.get("features", next(iter(file.arrays.values())))
    if ids is not None:
        rows.sources.append(_listed(rows, ids))
    if meta:
        own = rows.id_column()
        if own is None:
            raise InputError(
                f"{file.path} has no ids to join {meta[0]} by: name them (`sample_ids`)."
            )
        for table in map(Path, meta):
            rows.sources.append(_joined(rows, table, own, whole))
    return rows


def _listed(rows: ForeignRows, ids: Path) -> dict[str, np.ndarray]:
    """Ids in row order: a text file of one per line, or a table, whose other columns come too."""
    asked = rows.names.get("sample_ids")
    by = asked if isinstance(asked, str) else None
    own = None if by is not None and not rows.has(by) else rows.id_column()
    if not ids.is_file():
        raise InputError(f"{ids}: no such file.")
    if ids.suffix.lower() == ".txt":
        lines = read_lines(ids)
        listed_columns = {"sample_ids": lines}
    else:
        listed_columns = dict(read_table(ids))
        rows.notes += table_notes(ids)
        column = id_column(listed_columns, by)
        if column is None:
            raise InputError(
                f"{ids} has no column of ids; it has {', '.join(listed_columns)}: name it "
                f"(`sample_ids`), or call it one of {', '.join(ID_COLUMNS)}."
            )
        lines = listed_columns[column]
    if own is not None:
        mine, theirs = joined_keys(own, lines)
        if mine != theirs:
            row = next(
                (r for r, pair in enumerate(zip(mine, theirs, strict=False)) if pair[0] != pair[1]),
                min(len(mine), len(theirs)),
            )
            at = [repr(keys[row]) if row < len(keys) else "nothing" for keys in (mine, theirs)]
            raise InputError(
                f"The ids of {rows.path} and {ids} do not match: row {row + 1} is {at[0]} and "
                f"{at[1]}. `ids` lists the ids of the rows in their order; to join a table by id: "
                "`meta`."
            )
    return listed_columns


def _joined(rows: ForeignRows, table: Path, ids: np.ndarray, whole: bool) -> dict[str, np.ndarray]:
    """Columns of a table in the order of `ids`; None where it lacks the id."""
    by = rows.names.get("sample_ids")
    columns, found = find_rows(table, ids, by=by if isinstance(by, str) else None)
    keys = id_keys(ids)
    missing = [key for key, row in zip(keys, found, strict=True) if row is None]
    rows.notes += table_notes(table)
    joined_by = id_column(columns, by if isinstance(by, str) else None)
    assert joined_by is not None  # else there are no rows to find
    own = columns[joined_by]
    if whole and missing:
        raise InputError(
            f"The ids of {rows.path} and {table} do not match: {len(missing)} of {len(keys)} rows "
            f"are not in the table, e.g. {missing[0]!r}{nearly(missing, own)}."
        )
    if len(missing) == len(keys):
        near = nearly(keys, own)
        raise InputError(
            f"{table} shares no id with the predictions, e.g. {keys[0]!r}{near}: spell the ids "
            "alike."
        )
    if missing:
        n, near = counted(len(missing), "row"), nearly(missing, own)
        rows.note(f"{n} {verb(len(missing), 'is', 'are')} not in {table.name}{near}")
    # A manifest knows the order of its classes.
    if table.suffix.lower() == ".parquet" and "classes" in (known := read_metadata(table)):
        rows.stated_classes = [str(name) for name in known["classes"]]
    others = {n: column for n, column in columns.items() if n not in (*ID_COLUMNS, joined_by)}
    if not missing:
        order = np.array(found, dtype=np.intp)
        return {name: column[order] for name, column in others.items()}
    joined = {}
    for name, column in others.items():
        values = np.ma.asarray(column).tolist()  # None where masked
        joined[name] = np.array([None, *(None if r is None else values[r] for r in found)], object)[
            1:
        ]
    return joined


def _stated(value: object) -> list[str] | None:
    """Class names of a file's metadata in their order: a list, its text, or places by or of names.

    >>> _stated('["a", "b"]'), _stated('{"1": "b", "0": "a"}'), _stated({"b": 1, "a": 0})
    (['a', 'b'], ['a', 'b'], ['a', 'b'])
    """
    if isinstance(value, str):  # metadata of safetensors are texts
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            value = split_names(str(value))
    if isinstance(value, dict):
        by_place = {whole_number(str(key)): name for key, name in value.items()}
        if None in by_place:
            by_place = {whole_number(str(place)): name for name, place in value.items()}
        if sorted(by_place, key=str) != sorted(range(len(value)), key=str):
            return None  # it says something else
        value = [by_place[place] for place in range(len(value))]
    return [str(name) for name in value] if isinstance(value, list) and value else None


def _rows_of_lists(column: np.ndarray, source: str, name: str) -> np.ndarray:
    """A column of lists as (n, d), such as one-hot labels of a table; others as they are."""
    if column.dtype != object or column.ndim != 1:
        return column
    first = next((value for value in column.tolist() if value is not None), None)
    return matrix(column, source=source, name=name) if isinstance(first, np.ndarray) else column


def of_text_lists(column: np.ndarray) -> np.ndarray:
    """A column of lists of numbers as texts, as CSV has them, as one of arrays; others as they are.

    >>> of_text_lists(np.array(["[0.5, 0.5]", None], dtype=object)).tolist()
    [array([0.5, 0.5]), None]
    """
    texts = column.tolist() if column.dtype == object and column.ndim == 1 else []
    first = next((text for text in texts if text is not None), None)
    if not isinstance(first, str) or not first.lstrip().startswith("["):
        return column
    found = np.empty(len(texts), dtype=object)
    for row, text in enumerate(texts):
        if text is not None:
            try:
                found[row] = np.asarray(json.loads(text), dtype=np.float64).reshape(-1)
            except (RecursionError, TypeError, ValueError):
                return column
    return found


def _fields(columns: Collection[str], name: str) -> list[str]:
    """The columns that the fields of a struct are: of probs, probs.mel and probs.nv."""
    return [column for column in columns if column.startswith(f"{name}.")]


def _are_shares(scores: np.ndarray, whole: int = 1) -> bool:
    """Whether rows of two or more scores are at least 0 and sum to 1, or to another whole."""
    if scores.ndim != 2 or scores.shape[1] < 2 or len(scores) < 2 or scores.dtype.kind not in "fiu":
        return False
    for part in (scores[:100], scores):  # of others a few rows say so
        if not ((part >= 0).all() and (np.abs(part.sum(axis=1) / whole - 1) < 1e-3).all()):
            return False
    return True


def sorted_note(scores: np.ndarray, *, source: str, name: str) -> str:
    """A note on scores, (n, k), that fall from the first column to the last in every row, or "".

    Raises `TrustqError` from four columns on, where that is no chance of 20 rows that differ; rows
    that are all alike may do so by the frequencies of classes.
    """
    if len(scores) < 20 or scores.dtype.kind not in "fiu":
        return ""
    for part in (scores[:20], scores):  # of others a few rows say so
        if not (part[:, 1:] <= part[:, :-1]).all():
            return ""
    if not (scores != scores[0]).any():
        return ""
    said = f"{name} fall from column to column in every row"
    if scores.shape[1] > 3:
        raise InputError(
            f"{source}: {said}, as sorted ones (top-k) do, so no column is of one class: save them "
            "unsorted, one column a class."
        )
    return (
        f"{said}: if they are sorted (top-k), no column is of one class, and every figure is wrong"
    )


def holds_splits(column: np.ndarray) -> bool:
    """Whether a column of texts, (n,), has words for splits alone, two or more."""
    if column.ndim != 1 or column.dtype.kind not in "OUS" or not len(column):
        return False
    texts: set[str] = set()
    for values in (column[:1], column[:100], column):
        if not all(value is None or isinstance(value, str | bytes) for value in values.tolist()):
            return False
        texts = {text.lower() for text in plain_texts(values)} - {""}
        if not texts <= SPLIT_WORDS.keys():
            return False
    return len(texts) > 1


def like_groups(names: Iterable[str]) -> str | None:
    """The first name that says that rows of one value are of one person or lesion.

    >>> like_groups(["age", "Patient ID"])
    'Patient ID'
    """
    return next((n for n in names if re.sub(r"[\s_-]", "", n).lower() in _LIKE_GROUPS), None)


def marked_columns(table: Mapping[str, np.ndarray]) -> str:
    """What a message on missing labels adds where each class has a column of 0 and 1.

    >>> marked_columns({"a": np.array([0, 1]), "b": np.array([1, 0]), "c": np.array([3, 4])})
    " If the columns a, b mark the class of a row by 1, write one column of the classes' names: \
in pandas, table[names].idxmax(axis=1)."
    """
    found = [name for name, column in table.items() if _holds_marks(column)]
    if len(found) < 2:
        return ""
    return (
        f" If the columns {listed(found, 5)} mark the class of a row by 1, write one column of the "
        "classes' names: in pandas, table[names].idxmax(axis=1)."
    )


def _holds_marks(column: np.ndarray) -> bool:
    """Whether a column is of 0 and 1 alone, and has both, as one of one-hot labels has."""
    if column.ndim != 1:
        return False
    for part in (column[:100], column):  # of others a few rows say so
        marks = {flag(text) for text in set(plain_texts(part))}
        if None in marks:
            return False
    return len(marks) == 2


def _flags(name: str, column: np.ndarray) -> bool:
    """Whether a column such as `is_test` says of each row whether it is of a split."""
    if not _FLAG_OF_SPLIT.fullmatch(name) or column.ndim != 1:
        return False
    return {flag(text) for text in set(plain_texts(column))} == {0, 1}


def alike_but_in_case(texts: Sequence[str]) -> tuple[str, str] | None:
    """Two of the names that differ in case alone, where there are such.

    >>> alike_but_in_case(["male", "f", "Male"])
    ('Male', 'male')
    """
    seen: dict[str, str] = {}
    for name in sorted(set(texts)):
        if seen.setdefault(name.casefold(), name) != name:
            return seen[name.casefold()], name
    return None


def _as_numbers(texts: list[str], blank: set[str]) -> list[str]:
    """Groups of which each is a whole number as such, 1.0 as 1; the same list for others."""
    first = next((text for text in texts if text not in blank), "")
    if whole_number(first) is None or not any("." in text for text in texts):
        return texts
    return [text or "" for text in plain_numbers([None if t in blank else t for t in texts])]


def _may_be(role: str, name: str, array: np.ndarray) -> bool:
    """Whether an array of a usual name may be of a role: a matrix only by the role's own name."""
    return array.ndim == 1 or name.strip().casefold() == role


def _flat(array: np.ndarray) -> np.ndarray:
    return array[:, 0] if array.ndim == 2 and array.shape[1] == 1 else array


def _holds_ids(array: np.ndarray) -> bool:
    """Whether a column holds one text or whole number a row, and no images written as text."""
    if array.ndim != 1:
        return False
    if array.dtype.kind in "US" and array.size:
        return int(np.char.str_len(array).max()) < _LONGEST_ID if _is_wide(array) else True
    if array.dtype.kind in "iuUSb":
        return True
    if array.dtype.kind == "f":
        return bool(np.isfinite(array).all() and (array == np.round(array)).all())
    values = array.tolist()
    return any(value is not None for value in values) and all(
        value is None
        or (isinstance(value, str) and len(value) < _LONGEST_ID)
        or isinstance(value, int | float | np.integer)
        for value in values
    )


def _is_wide(array: np.ndarray) -> bool:
    letter = 4 if array.dtype.kind == "U" else 1
    return array.dtype.itemsize // letter >= _LONGEST_ID


def _is_odd_list(value: object) -> bool:
    """Whether a cell holds several numbers otherwise than as a JSON list."""
    cell = np.array([value, None], dtype=object)
    return _SEVERAL.search(str(value)) is not None and of_text_lists(cell) is cell


def _numbers(column: np.ndarray, source: str, name: str) -> np.ndarray:
    if isinstance(column, np.ma.MaskedArray):
        return np.ma.filled(column.astype(np.float64), np.nan)
    if column.dtype.kind in "fiub":
        return column
    try:
        return np.array([np.nan if value is None else value for value in column.tolist()], float)
    except (TypeError, ValueError) as error:
        pointed = decimal_points(column.tolist())
        if pointed is not None:
            return _numbers(np.array(pointed, dtype=object), source, name)
        several = next(filter(_is_odd_list, column.tolist()), None)
        if several is not None:
            raise InputError(
                f"{source}: {name} holds several values in one cell, {str(several)[:40]!r}...: "
                "write a number a column, scores as prob_<class> or logit_<class>, or all as a "
                "JSON list, [0.25, 0.75]."
            ) from error
        raise InputError(
            f"{source}: {name} holds something that is no number ({error}): write numbers as "
            "0.25, and nothing for a blank."
        ) from error
