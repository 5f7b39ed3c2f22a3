"""Metadata of cached rows: columns of manifests and other tables, found by sample id.

They come from files, and what a cache carries of its manifest is for SQL alone, so that a new
column invalidates no cache; a cell's key holds the values of the columns that its recipe names, so
that a new column invalidates no cell either.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from trustq.core.digest import digest_array, digest_strings
from trustq.core.sample_ids import Joinable, read_joinable
from trustq.core.words import rejoined, split_names
from trustq.data.row_weights import DomainBalance, make_balance
from trustq.errors import InputError, NotFound
from trustq.metrics.per_class import UNKNOWN, slice_name
from trustq.recipes import SweepRecipe
from trustq.recipes.schema import sweep_settings
from trustq.store import Cache


@dataclass(frozen=True)
class Metadata:
    """Tables that hold columns of rows by id; of two that hold a row, the first counts.

    `files` are paths with the time of their last change and their size.
    """

    files: tuple[tuple[Path, int, int], ...]

    @property
    def tables(self) -> list[Joinable]:
        """The tables, read once for as long as they do not change."""
        return [_read(*file) for file in self.files]

    def column(self, name: str, cache: Cache, *, key: str) -> np.ndarray:
        """A column for the rows of a cache, (n,) of objects, None where no table has it.

        `key` is the setting that names it. Raises `TrustqError` where no table has the column, or
        none that has it has one of the rows.
        """
        files = " and ".join(str(path) for path, *_ in self.files)
        if not any(name in table.columns for table in self.tables):
            known = list(dict.fromkeys(c for table in self.tables for c in table.columns))
            raise InputError(
                f"{key} names the column {name!r}, which {files} lacks; there are "
                f"{', '.join(known)}.",
                expected=known,
                found=name,
            )
        values = _joined(self, name, _Ids(digest_array(cache.sample_id), cache.sample_id))
        if values is None:
            raise InputError(
                f"{files} shares no sample id with {cache.name}, e.g. {str(cache.sample_id[0])!r}: "
                f"{key} needs the manifest that it was extracted from, or a table like it."
            )
        return values


def metadata_of(sweep: SweepRecipe, *, key: str) -> Metadata:
    """The tables of a recipe; raises `TrustqError` where `key` needs one and there is none."""
    if not sweep.metadata:
        raise InputError(
            f"{key} names a column of metadata, and there is none: caches hold none. Name the "
            "manifest, or another table with sample_id: `metadata=FILE`."
        )
    files = []
    for path in map(Path, sweep.metadata):
        if not path.is_file():
            raise NotFound(f"{path}: no such file.", path=path)
        state = path.stat()
        files.append((path, state.st_mtime_ns, state.st_size))
    return Metadata(tuple(files))


# A sweep asks for the same columns of the same tables at every point and draw.


@lru_cache(maxsize=8)
def _read(path: Path, changed: int, size: int) -> Joinable:
    return read_joinable(path)


@dataclass(frozen=True)
class _Ids:
    digest: str
    ids: np.ndarray = field(compare=False)


@lru_cache(maxsize=32)
def _joined(metadata: Metadata, name: str, rows: _Ids) -> np.ndarray | None:
    """A column of rows; None where no table that has it has any of them."""
    values = np.full(len(rows.ids), None, dtype=object)
    found: set[int] = set()
    for table in metadata.tables:
        if name not in table.columns:
            continue
        column = np.ma.asarray(table.columns[name]).tolist()  # None where masked
        for place, row in enumerate(table.rows(rows.ids)):
            if row is not None and place not in found:
                values[place] = column[row]
                found.add(place)
    values.setflags(write=False)
    return values if found else None


def column_of(cache: Cache, name: str, *, key: str, sweep: SweepRecipe) -> np.ndarray:
    """A metadata column for the rows of a cache, (n,) of objects, None for what is not there."""
    return metadata_of(sweep, key=f"{key}={name}").column(name, cache, key=f"{key}={name}")


def metadata_setting(
    cache: Cache, externals: Sequence[Cache], *, sweep: SweepRecipe
) -> dict[str, Any]:
    """What a recipe asks of metadata, and a digest of the columns that this is of; for a key.

    Empty where it asks nothing, so that cells from before there was metadata keep their key.
    """
    named = {
        name: value if isinstance(value, str) else list(value)
        for name in (s.name for s in sweep_settings("metadata"))
        if (value := getattr(sweep, name)) and value != "none"
    }
    if sweep.row_weights == "none":
        # As the settings of a head beside another head, they change nothing.
        named.pop("sampling_domain", None)
        named.pop("sampling_group", None)
    if not named:
        return {}
    digests = []
    for other in (cache, *externals):
        for key, name in _columns(sweep, external=other is not cache):
            values = column_of(other, name, key=key, sweep=sweep).tolist()
            texts = ["" if value is None else str(value) for value in values]
            digests += [name, other.content_digest, digest_strings(texts)]
    return {"metadata": named | {"columns": digest_strings(digests)}}


def sliced_columns(sweep: SweepRecipe) -> list[str]:
    """Columns to slice by, in order, each once; that of ages is the last."""
    return list(dict.fromkeys((*sweep.slices, *([sweep.ages] if sweep.ages else []))))


def _columns(sweep: SweepRecipe, *, external: bool) -> list[tuple[str, str]]:
    """Settings with the columns that they name, where these concern external rows, or not."""
    named = [("target", sweep.target)] if sweep.target else []
    named += [("slices", name) for name in sliced_columns(sweep)]
    if external:
        return named
    if sweep.fit_on:
        named.append(("fit_on", parse_fit_on(sweep.fit_on).column))
    if sweep.row_weights != "none":
        named.append(("sampling_domain", sweep.sampling_domain))
        named += [("sampling_group", sweep.sampling_group)] if sweep.sampling_group else []
    return named


def check_metadata(sweep: SweepRecipe) -> None:
    """Raise `TrustqError` for settings of metadata that name no table or change nothing."""
    if sweep.positive and not sliced_columns(sweep) and not sweep.conditions:
        raise InputError(
            f"positive={','.join(sweep.positive)} counts these classes as one in slices, and "
            "there are none. Leave it out, or name columns: `slices=sex,site`."
        )
    for key, name in _columns(sweep, external=False):
        metadata_of(sweep, key=f"{key}={name}")


@dataclass(frozen=True)
class FitOn:
    """Rows that heads are fitted on: those whose column has one of the values, or none of them."""

    column: str
    values: tuple[str, ...]
    is_excluded: bool


def parse_fit_on(text: str) -> FitOn:
    """Rows to fit on from `COLUMN=VALUE,...` or `COLUMN!=VALUE,...`; errors: another form.

    >>> parse_fit_on("site!=back,head or neck")
    FitOn(column='site', values=('back', 'head or neck'), is_excluded=True)
    """
    found = re.fullmatch(r"\s*([^=!]+?)\s*(!?=)(.+)", text)
    values = tuple(split_names(found[3])) if found else ()
    if found is None or not values:
        raise InputError(
            f"fit_on is {text!r}, expected COLUMN=VALUE or COLUMN!=VALUE, or several values with "
            "commas between.",
            where="fit_on",
            found=text,
        )
    return FitOn(found[1], values, found[2] == "!=")


def fitted_rows(cache: Cache, *, sweep: SweepRecipe) -> np.ndarray:
    """Rows that the recipe fits heads on, whatever their split, (n,) of bool.

    A row whose value is unknown is never one of them, for nobody knows that it is not left out.
    Raises `TrustqError` for a value that no row has.
    """
    if not sweep.fit_on:
        return np.ones(len(cache), dtype=bool)
    wanted = parse_fit_on(sweep.fit_on)
    values = column_of(cache, wanted.column, key="fit_on", sweep=sweep)
    names = np.array([slice_name(value) for value in values.tolist()])
    known = sorted(set(names.tolist()) - {UNKNOWN})
    chosen = wanted.values
    if any(value not in known for value in chosen):
        chosen = tuple(rejoined(chosen, known))  # values that hold a comma
    if strange := [value for value in chosen if value not in known]:
        raise InputError(
            f"fit_on is {sweep.fit_on!r}, but no row of {cache.name} has {wanted.column} "
            f"{strange[0]!r}; there are {', '.join(known[:20])}.",
            where="fit_on",
            found=sweep.fit_on,
        )
    return np.asarray((np.isin(names, chosen) != wanted.is_excluded) & (names != UNKNOWN))


def balance_of(cache: Cache, rows: np.ndarray, *, sweep: SweepRecipe) -> DomainBalance | None:
    """What weighs training `rows`, (m,) positions in the cache; None where all weigh the same."""
    if sweep.row_weights == "none":
        return None

    def texts(key: str) -> np.ndarray:
        values = column_of(cache, getattr(sweep, key), key=key, sweep=sweep)[rows]
        names = np.array([slice_name(value) for value in values.tolist()])
        return np.where(names == UNKNOWN, "", names)

    groups = texts("sampling_group") if sweep.sampling_group else None
    return make_balance(texts("sampling_domain"), groups)


def weights_text(sweep: SweepRecipe) -> str | None:
    """How rows are weighed, as the table of cells says it; NULL where they all weigh the same."""
    if sweep.row_weights == "none":
        return None
    columns = [sweep.sampling_domain, *([sweep.sampling_group] if sweep.sampling_group else [])]
    return f"{sweep.row_weights}({', '.join(columns)})"
