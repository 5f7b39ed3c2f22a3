"""Arrays of npz, npy, safetensors, Parquet and CSV files, under the names that imports use."""

import zipfile
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from trustq.core.columns import read_metadata, read_table
from trustq.core.sample_ids import ID_COLUMNS, find_rows, id_keys
from trustq.errors import DamagedFile, InputError, NotFound
from trustq.store.export import STATEMENT
from trustq.store.restore import read_statement

TABLES = (".parquet", ".csv", ".csv.gz")
IMPORTS = (".npz", ".npy", ".safetensors", *TABLES)

# The arrays of a file by their names in the design, and what each may be called unasked.
ARRAYS = {
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
    "classes": ("classes",),
}
# Matrices of a table are columns that begin like this, or one column of lists.
PREFIXES = {
    "features": "feature_",
    "logits": "logit_",
    "probs": "prob_",
    "crossfit_logits": "crossfit_logit_",
}


@dataclass(frozen=True)
class Found:
    """Arrays of a file by their names in the design, or the whole of a file with a statement.

    A file that trustq exported has a statement; its arrays are then all that it holds, as named.
    """

    arrays: dict[str, np.ndarray]
    statement: Any = None


def read_arrays(
    path: Path,
    *,
    names: dict[str, str],
    ids: Path | None = None,
    meta: Sequence[Path] = (),
) -> Found:
    """Read what `import_cache` needs of a file, of its list of ids and of tables joined by id.

    Raises `TrustqError` for a file of another kind, a damaged one, pickled objects, ids that do
    not match, or a name that was asked for and is not there.
    """
    kind = _kind(path)
    if not path.is_file():
        raise NotFound(f"{path}: no such file.", path=path)
    if kind in TABLES:
        raw, statement = _table(path)
    elif kind == ".safetensors":
        raw, statement = _safetensors(path)
    else:
        raw, statement = _numpy(path, kind, names)
    if statement is not None:
        return Found(raw, statement)
    there = list(raw.pop(_LISTED).tolist()) if _LISTED in raw else list(raw)
    sources = [raw]
    if ids is not None:
        sources.append(_listed(path, ids, _find(sources, names, "sample_ids")))
    if meta:
        own = _find(sources, names, "sample_ids")
        if own is None:
            raise InputError(
                f"{path} has no ids to join {meta[0]} by: name them (--sample-ids).", path=path
            )
        sources += [_joined(Path(table), path, own, names) for table in meta]
    there += [name for source in sources[1:] for name in source]
    found: dict[str, np.ndarray] = {}
    titles: tuple[str, ...] = ()
    for name in ARRAYS:
        if name in PREFIXES and kind in TABLES:
            chosen = _matrix_columns(path, raw, name, names.get(name))
            if chosen:
                found[name] = _matrix(path, raw, chosen)
                if name in ("logits", "probs") and len(chosen) > 1:
                    titles = tuple(c.removeprefix(PREFIXES[name]) for c in chosen)
        elif name == "classes" and "," in names.get(name, ""):
            found[name] = np.array([part.strip() for part in names[name].split(",")])
        elif (array := _find(sources, names, name)) is not None:
            found[name] = _plain(array, name)
    _require(path, found, names, there, is_table=kind in TABLES)
    if titles and set(titles) >= set(found.get("classes", np.array(titles)).tolist()):
        found["classes"] = np.array(titles)  # they say the order of the columns
    if kind in TABLES and "classes" in found:
        for name in {"labels", "observed"} & set(found):
            found[name] = _names_first(found[name], found["classes"])
    return Found(found)


_LISTED = "\0there"  # names of all arrays of an npz, of which only some are loaded


def _kind(path: Path) -> str:
    for ending in IMPORTS:
        if path.name.lower().endswith(ending):
            return ending
    raise InputError(f"{path}: expected a file that ends in {', '.join(IMPORTS)}.", path=path)


def _table(path: Path) -> tuple[dict[str, np.ndarray], Any]:
    raw = dict(read_table(path))
    is_parquet = path.suffix.lower() == ".parquet"
    return raw, read_metadata(path).get(STATEMENT) if is_parquet else None


def _numpy(path: Path, kind: str, names: dict[str, str]) -> tuple[dict[str, np.ndarray], Any]:
    what = "npz file of plain arrays" if kind == ".npz" else "npy file of one plain array"
    try:
        with open(path, "rb") as raw:
            loaded = np.load(raw, allow_pickle=False)
            if isinstance(loaded, np.ndarray):
                if kind != ".npy":
                    raise ValueError("it is one array")
                return {names.get("features", "features"): loaded}, None
            if kind != ".npz":
                raise ValueError("it holds several arrays")
            with loaded as file:
                there = list(file.files)
                if STATEMENT in there:
                    text = str(file[STATEMENT])
                    return {name: file[name] for name in there}, read_statement(text, path)
                wanted = {*names.values()} | {n for usual in ARRAYS.values() for n in usual}
                arrays = {name: file[name] for name in there if name in wanted}
    except (AttributeError, EOFError, OSError, TypeError, ValueError, zlib.error) as error:
        raise DamagedFile(
            f"{path} is no whole {what} (pickled objects are not loaded).", path=path
        ) from error
    except zipfile.BadZipFile as error:
        raise DamagedFile(f"{path} is damaged: {error}. Copy it again.", path=path) from error
    return arrays | {_LISTED: np.array(there)}, None


def _safetensors(path: Path) -> tuple[dict[str, np.ndarray], Any]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="numpy") as file:
            metadata = file.metadata() or {}
            raw = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError, TypeError, ValueError) as error:
        raise DamagedFile(
            f"{path} could not be read as safetensors: {error}.", path=path
        ) from error
    text = metadata.get(STATEMENT)
    return raw, None if text is None else read_statement(text, path)


def _listed(path: Path, ids: Path, own: np.ndarray | None) -> dict[str, np.ndarray]:
    """Ids in row order: a text file of one per line, or a table, whose other columns come too."""
    if not ids.is_file():
        raise NotFound(f"{ids}: no such file.", path=ids)
    if ids.suffix.lower() == ".txt":
        lines = np.array(ids.read_text("utf-8").splitlines(), dtype=object)
        listed = {"sample_ids": lines}
    else:
        listed = dict(read_table(ids))
        column = next((name for name in ID_COLUMNS if name in listed), None)
        if column is None:
            raise NotFound(
                f"{ids} has no column of ids; it has {', '.join(listed)}: "
                f"call it one of {', '.join(ID_COLUMNS)}.",
                path=ids,
                expected=listed,
            )
        lines = listed[column]
    if own is not None:
        mine, theirs = id_keys(own), id_keys(lines)
        if mine != theirs:
            row = next(
                (r for r, pair in enumerate(zip(mine, theirs, strict=False)) if pair[0] != pair[1]),
                min(len(mine), len(theirs)),
            )
            at = [repr(keys[row]) if row < len(keys) else "nothing" for keys in (mine, theirs)]
            raise InputError(
                f"The ids of {path} and {ids} do not match: row {row + 1} is {at[0]} and {at[1]}. "
                "--ids lists the ids of the rows in their order; to join a table by id: --meta."
            )
    return listed


def _joined(
    table: Path, path: Path, own: np.ndarray, names: dict[str, str]
) -> dict[str, np.ndarray]:
    keys = id_keys(own)
    columns, rows = find_rows(table, keys, by=names.get("sample_ids"))
    missing = [key for key, row in zip(keys, rows, strict=True) if row is None]
    if missing:
        raise NotFound(
            f"The ids of {path} and {table} do not match: {len(missing)} of {len(keys)} rows are "
            f"not in the table, e.g. {missing[0]!r}."
        )
    order = np.array(rows, dtype=np.intp)
    joined = {name: column[order] for name, column in columns.items() if name not in ID_COLUMNS}
    # A manifest knows the order of its classes.
    if table.suffix.lower() == ".parquet" and "classes" in (known := read_metadata(table)):
        joined["classes"] = np.array(known["classes"], dtype=str)
    return joined


def _find(
    sources: Sequence[dict[str, np.ndarray]], names: dict[str, str], name: str
) -> np.ndarray | None:
    """An array by the name asked for, or by one of its usual names; of the first that has it.

    Only its own name may have the wrong shape: an npz's `image` may well be images and not ids.
    """
    wanted = (names[name],) if name in names else ARRAYS[name]
    for source in sources:
        for own in wanted:
            if own in source and (own == wanted[0] or source[own].ndim == 1):
                return source[own]
    return None


def _matrix_columns(
    path: Path, raw: dict[str, np.ndarray], name: str, asked: str | None
) -> list[str]:
    """Columns that make up a matrix: one of lists, several by name, or all of one prefix."""
    if asked is None:
        by_prefix = [column for column in raw if column.startswith(PREFIXES[name])]
        return [name] if name in raw else by_prefix
    if asked in raw:
        return [asked]
    if "," not in asked:
        return [column for column in raw if column.startswith(asked)]
    chosen = [part.strip() for part in asked.split(",")]
    absent = [column for column in chosen if column not in raw]
    if absent:
        raise NotFound(
            f"{path} has no column {absent[0]!r} for {name}; it has {_some(raw)}.", path=path
        )
    return chosen


def _matrix(path: Path, raw: dict[str, np.ndarray], chosen: list[str]) -> np.ndarray:
    values = raw[chosen[0]].tolist() if len(chosen) == 1 else []
    lists = [np.ma.filled(value, np.nan) for value in values if isinstance(value, np.ndarray)]
    if not lists:
        return np.stack([_numbers(path, raw[name], name) for name in chosen], axis=1)
    if len(lists) < len(values) or len({len(row) for row in lists}) > 1:
        raise InputError(
            f"{path}: column {chosen[0]!r} must hold a list of numbers in every row, all of one "
            "length.",
            path=path,
        )
    return np.stack(lists)


def _numbers(path: Path, column: np.ndarray, name: str) -> np.ndarray:
    if isinstance(column, np.ma.MaskedArray):
        return np.ma.filled(column.astype(np.float64), np.nan)
    if column.dtype != object:
        return column
    try:
        return np.array([np.nan if value is None else value for value in column.tolist()], float)
    except (TypeError, ValueError) as error:
        raise InputError(
            f"{path}: {name} holds something that is no number ({error}).", path=path
        ) from error


def _plain(array: np.ndarray, name: str) -> np.ndarray:
    """A table's column as a plain array: texts with "" for a blank, whole numbers of a CSV as such.

    Labels without a value become -1.
    """
    if isinstance(array, np.ma.MaskedArray):
        if array.dtype.kind in "iu" and name in ("labels", "observed"):
            return np.ma.filled(array.astype(np.int64), -1)
        return np.array(["" if value is None else str(value) for value in array.tolist()])
    if array.dtype != object:
        return array
    texts = ["" if value is None else str(value) for value in array.tolist()]
    if name in ("labels", "observed", "folds") and all(_is_whole(t) for t in texts if t):
        return np.array([int(text) if text else -1 for text in texts], dtype=np.int64)
    return np.array(texts, dtype=str)


def _names_first(labels: np.ndarray, classes: np.ndarray) -> np.ndarray:
    """Whole numbers that are all names of classes, such as the column `logit_3`, as these names."""
    texts = np.array(["" if value == -1 else str(value) for value in labels.tolist()])
    return texts if {*texts.tolist(), ""} <= {*classes.tolist(), ""} else labels


def _is_whole(text: str) -> bool:
    return text.removeprefix("-").isdecimal()


def _require(
    path: Path,
    found: dict[str, np.ndarray],
    names: dict[str, str],
    there: Sequence[str],
    *,
    is_table: bool,
) -> None:
    what, upper = ("column", "COLUMN") if is_table else ("array", "ARRAY")
    for name in ARRAYS:
        required = name in ("features", "labels") or name in names
        if required and name not in found:
            raise InputError(
                f"{path} has no {what} {names.get(name, name)!r} for {name}; it holds "
                f"{_some(there)}. "
                f"Name it with `trustq cache import {path} --{name.replace('_', '-')} {upper}`.",
                path=path,
            )


def _some(names: Sequence[str] | dict[str, Any]) -> str:
    """Names for a message, of which a table may have thousands."""
    listed = list(names)
    more = f" and {len(listed) - 20} more" if len(listed) > 20 else ""
    return ", ".join(listed[:20]) + more
