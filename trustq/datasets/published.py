"""A published table read column by column, and the rows that it makes with the images beside it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from trustq.core.columns import Columns, read_table
from trustq.datasets.rows import (
    Rows,
    column,
    found_table,
    image_names,
    image_paths,
    known_words,
    metadata_texts,
    numbers,
    texts,
    without_missing,
)
from trustq.errors import InputError


class PublishedTable:
    """The columns of a table as texts, words, numbers or known words; a fault names its rows.

    `ids` are the names of the images in `id_column`; `rename` gives words other meanings.
    """

    def __init__(self, path: Path, id_column: str, rename: Mapping[str, str] | None = None) -> None:
        self.path, self.source = path, str(path)
        self.columns: Columns = read_table(path)
        self.rename = rename
        self.ids = image_names(self.texts(id_column).tolist())

    def texts(self, name: str) -> np.ndarray:
        """A column as it was published, blanks as None."""
        return texts(column(self.columns, name, source=self.source).tolist())

    def words(self, name: str) -> np.ndarray:
        """As `texts`; words for a blank are blanks too."""
        return metadata_texts(self.texts(name).tolist())

    def lower(self, name: str) -> np.ndarray:
        """As `words`, in lower case."""
        return texts([word and word.lower() for word in self.words(name).tolist()])

    def numbers(self, name: str) -> "np.ma.MaskedArray[tuple[int], np.dtype[np.float64]]":
        """A column of numbers, blanks masked."""
        return numbers(self.texts(name), name, ids=self.ids.tolist(), source=self.source)

    def known(
        self, name: str, words: Sequence[str], aliases: Mapping[str, str] | None = None
    ) -> np.ndarray:
        """A column whose values are known words."""
        return known_words(
            self.texts(name),
            words,
            name=name,
            ids=self.ids,
            source=self.source,
            aliases=aliases,
            rename=self.rename,
        )


def published_table(
    root: Path, *names: str, id_column: str, how: str, rename: Mapping[str, str] | None = None
) -> PublishedTable:
    """The first of some tables that is below `root`; `how` tells where to get the first one."""
    path = found_table(root, *names)
    if path is None:
        raise InputError(f"{root} holds no {names[0]}. {how}")
    return PublishedTable(path, id_column, rename)


@dataclass(frozen=True)
class DataSet:
    """What all rows of a data set share: its name, the domain of its images, where to get it."""

    name: str
    domain: str | None  # None: each row has its own
    how: str

    def rows(
        self,
        columns: Columns,
        *,
        root: Path,
        source: str,
        classes: Sequence[str],
        notes: Sequence[str],
        skip_missing: bool,
        metadata_only: bool,
    ) -> Rows:
        """Rows of a table with the paths of their images, unless `columns` has these already."""
        if "path" not in columns:
            paths = image_paths(
                root,
                columns["sample_id"],
                source=source,
                how=self.how,
                skip_missing=skip_missing,
                metadata_only=metadata_only,
            )
            columns = {**columns, "path": paths}
        columns, left_out = without_missing(columns)
        shared = {"dataset": self.name, **({"domain": self.domain} if self.domain else {})}
        n = len(columns["sample_id"])
        columns |= {name: np.full(n, value, dtype=object) for name, value in shared.items()}
        return Rows(
            columns,
            classes=tuple(classes),
            root=root,
            source=source,
            notes=(*notes, *left_out),
        )
