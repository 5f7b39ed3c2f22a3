"""Data frames in and out: pandas, polars and every other frame that narwhals knows."""

import html
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from numbers import Real
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import duckdb
import numpy as np

from trustq.core.class_names import ClassPosition, by_number, letters_of, listed, two_classes
from trustq.core.column_names import begins, called
from trustq.core.columns import write_parquet
from trustq.core.foreign_rows import PREFIXES, Names
from trustq.core.sql_text import first_line
from trustq.core.words import flag, is_blank, plain_text, plain_texts, split_names
from trustq.errors import InputError, MissingExtra, TrustqError

if TYPE_CHECKING:
    import pandas
    import polars

Source = Any  # a path, a mapping of arrays, or a data frame

SHOWN_ROWS = 20
_LABELS = ("labels", "observed")


class Table:
    """Rows as columns: `table["name"]` is an array; `to_pandas()` and `to_polars()` give frames.

    Columns have equal lengths; a blank is None, in numbers NaN. Notebooks show the first rows.

    >>> table = Table({"arm": ["random", "oracle"], "accuracy": [0.91, 0.94]})
    >>> len(table), table.columns, float(table["accuracy"].max())
    (2, ('arm', 'accuracy'), 0.94)
    >>> print(table)
    arm     accuracy
    random      0.91
    oracle      0.94
    """

    def __init__(self, columns: Mapping[str, Any]) -> None:
        self._columns = {name: _column(values) for name, values in columns.items()}

    @classmethod
    def of_rows(cls, rows: Sequence[Mapping[str, Any]], columns: Sequence[str] = ()) -> "Table":
        """A table of rows, each a dict; what a row lacks is blank. `columns` are there anyhow.

        >>> Table.of_rows([{"a": 1}, {"a": 2, "b": "x"}])["b"].tolist()
        [None, 'x']
        """
        names = dict.fromkeys([*columns, *(name for row in rows for name in row)])
        return cls({name: [row.get(name) for row in rows] for name in names})

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of the columns."""
        return tuple(self._columns)

    def __len__(self) -> int:
        return len(next(iter(self._columns.values()), ()))

    def __getitem__(self, name: str) -> np.ndarray:
        if name not in self._columns:
            raise KeyError(f"{name!r} is not a column; the columns are {', '.join(self.columns)}")
        return self._columns[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._columns)

    def to_dict(self) -> dict[str, np.ndarray]:
        """The columns as a dict of arrays."""
        return dict(self._columns)

    def to_rows(self) -> list[dict[str, Any]]:
        """The rows as dicts of Python values."""
        lists = [values.tolist() for values in self._columns.values()]
        return [dict(zip(self._columns, row, strict=True)) for row in zip(*lists, strict=True)]

    def to_pandas(self) -> "pandas.DataFrame":
        """A pandas data frame of the same columns."""
        frame: pandas.DataFrame = _imported("pandas").DataFrame(self._columns)
        return frame

    def to_polars(self) -> "polars.DataFrame":
        """A polars data frame of the same columns."""
        # Object arrays hold Python values, of which polars finds the type in lists.
        frame: polars.DataFrame = _imported("polars").DataFrame(
            {
                name: values.tolist() if values.dtype == object else values
                for name, values in self._columns.items()
            }
        )
        return frame

    def __repr__(self) -> str:
        texts = [[name, *map(_shown, values[:SHOWN_ROWS])] for name, values in self._shown()]
        widths = [max(map(len, column)) for column in texts]
        right = [values.dtype.kind in "fiu" for _, values in self._shown()]
        lines = [
            "  ".join(
                text.rjust(width) if is_right else text.ljust(width)
                for text, width, is_right in zip(row, widths, right, strict=True)
            ).rstrip()
            for row in zip(*texts, strict=True)
        ]
        more = len(self) - SHOWN_ROWS
        return "\n".join([*lines, f"... {more} more rows"] if more > 0 else lines)

    def _repr_html_(self) -> str:
        head = "".join(f"<th>{html.escape(name)}</th>" for name in self._columns)
        body = "".join(
            "<tr>"
            + "".join(f"<td>{html.escape(_shown(v[i]))}</td>" for _, v in self._shown())
            + "</tr>"
            for i in range(min(len(self), SHOWN_ROWS))
        )
        more = len(self) - SHOWN_ROWS
        note = f"<p>... {more} more rows</p>" if more > 0 else ""
        return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>{note}"

    def _shown(self) -> list[tuple[str, np.ndarray]]:
        return list(self._columns.items())


def several(given: Any) -> list[Any]:
    """What may be given alone or as several, as a list: a name is no sequence of letters.

    >>> several("age"), several(("age", "sex"))
    (['age'], ['age', 'sex'])
    """
    alone = isinstance(given, str | Path | Mapping) or not hasattr(given, "__iter__")
    return [given] if alone or is_frame(given) else list(given)


def is_frame(data: Any) -> bool:
    """Whether narwhals knows it as an eager data frame."""
    import narwhals as nw

    return isinstance(_opened(data, pass_through=True), nw.DataFrame)


def _opened(data: Any, **options: Any) -> Any:
    """What narwhals makes of a frame; raises `TrustqError` for two columns of one name."""
    import narwhals as nw

    try:
        opened = nw.from_native(data, eager_only=True, **options)
        if isinstance(opened, nw.DataFrame):  # others may have to work it out, and polars warns
            _ = opened.schema
    except nw.exceptions.DuplicateError as error:
        raise InputError(_TWO_OF_ONE_NAME) from error
    return opened


_TWO_OF_ONE_NAME = "The frame has two columns of one name: give each its own."


def _title(name: Any) -> str:
    """What a column is called in a file; of several levels, as `("prob", "nv")`, `prob_nv`."""
    if isinstance(name, tuple):
        return "_".join(filter(None, map(str, name)))
    return str(name)


def columns_of(frame: Any) -> dict[str, np.ndarray]:
    """The columns of a data frame as arrays; texts and blanks as objects with None.

    >>> import pandas
    >>> columns_of(pandas.DataFrame({"label": ["mel", None], "age": [60, 70]}))["label"].tolist()
    ['mel', None]
    """
    data = _opened(frame)
    titles = list(map(_title, data.columns))
    if len(set(titles)) < len(titles):  # 1 and "1", say
        raise InputError(_TWO_OF_ONE_NAME)
    columns: dict[str, np.ndarray] = {}
    for title, own in zip(titles, map(_series, data.iter_columns()), strict=True):
        if own.dtype == object and (keys := _keys_of(own.tolist())):  # as fields of a struct
            rows = [{} if row is None else row for row in own.tolist()]
            columns |= {f"{title}.{key}": _column([row.get(key) for row in rows]) for key in keys}
        else:
            columns[title] = own
    # A named index is a column of the file that pandas makes of the frame.
    index: Any = getattr(frame, "index", None)
    name = getattr(index, "name", None)
    if isinstance(name, str) and name not in columns:
        columns = {name: _column(index.tolist())} | columns
    return columns


class NamedColumns:
    """A matrix of numbers, (n, k), that is given as one dict per row, with its columns' names."""

    def __init__(self, rows: Sequence[Mapping[Any, Any] | None], index: Any) -> None:
        self.columns = _keys_of(rows)
        self.index = index
        self._values = [[(row or {}).get(key) for key in self.columns] for row in rows]

    def __array__(self, dtype: Any = None, copy: Any = None) -> np.ndarray:
        return np.array(self._values, dtype=np.float64)  # a blank is NaN


def spread(values: Any) -> Any:
    """A list or series of dicts, such as scores by class, as named columns; others as they are.

    >>> np.asarray(spread([{"a": 0.25, "b": 0.75}, {"b": 1.0, "a": 0.0}])).tolist()
    [[0.25, 0.75], [0.0, 1.0]]
    """
    import narwhals as nw

    data = nw.from_native(values, eager_only=True, allow_series=True, pass_through=True)
    if isinstance(data, nw.Series):
        rows = data.to_list() if data.dtype in (nw.Object, nw.Struct) else []
    else:
        rows = list(values) if isinstance(values, list | tuple) else []
    numbers = (n for row in rows if isinstance(row, Mapping) for n in row.values())
    if not _keys_of(rows) or not all(n is None or isinstance(n, Real) for n in numbers):
        return values
    return NamedColumns(rows, index_of(values))


def _keys_of(rows: Sequence[Any]) -> list[Any]:
    """The keys of rows that are all dicts, or blank, as they first come; none for other rows."""
    keys: dict[Any, None] = {}
    for row in rows:
        if isinstance(row, Mapping):
            keys |= dict.fromkeys(row)
        elif row is not None:
            return []
    return list(keys)


def array_of(values: Any, name: str) -> np.ndarray:
    """An array of an array, a list, or a pandas or polars series or frame of numbers.

    Raises `TrustqError` for rows of unequal lengths.
    """
    import narwhals as nw

    data = nw.from_native(values, eager_only=True, allow_series=True, pass_through=True)
    if isinstance(data, nw.Series):
        return _series(data)
    if isinstance(data, nw.DataFrame):
        whole = np.asarray(data.to_numpy())
        return _names_of_marks(data, whole, name) if name.lower() in _LABELS else whole
    if isinstance(values, np.ma.MaskedArray):
        return _without_mask(values)
    try:
        array = np.asarray(_of_torch(values) if hasattr(values, "detach") else values)
    except (RuntimeError, TypeError, ValueError) as error:  # torch: gradients, other devices
        if isinstance(values, list | tuple) and len({np.shape(own) for own in values}) > 1:
            raise InputError(
                f"{name} is a list of parts of several lengths: join them by np.concatenate or "
                "torch.cat."
            ) from error
        raise InputError(f"{name} is not an array: {str(error).rstrip('.')}.") from error
    if not array.ndim:
        raise InputError(
            f"{name} is one value ({type(values).__name__}), expected an array or a series of one "
            "value per row."
        )
    return array


def _of_torch(tensor: Any) -> Any:
    """A tensor's values alone, off its device, in a type that numpy has."""
    tensor = tensor.detach().cpu()
    is_short = tensor.is_floating_point() and tensor.element_size() < 4
    return tensor.float() if is_short else tensor


def _names_of_marks(frame: Any, marks: np.ndarray, name: str) -> np.ndarray:
    """Labels of a one-hot frame as the names of its columns; as they are where these only count."""
    titles = list(map(_title, frame.columns))
    counted = (list(map(str, range(len(titles)))), [f"column_{j}" for j in range(len(titles))])
    if len(titles) < 2 or titles in counted:
        return marks
    if not np.isin(marks, (0, 1)).all() or (marks.sum(axis=1) > 1).any():
        raise InputError(
            f"{name} is a frame of the columns {listed(titles)}: expected one column, or one-hot "
            "columns with one 1 in a row."
        )
    marked = marks.astype(bool)
    named: np.ndarray = np.array(titles, dtype=object)[marked.argmax(axis=1)]
    named[~marked.any(axis=1)] = None
    return named


def _without_mask(values: Any) -> np.ndarray:
    """A masked array with a blank for what is masked."""
    if not np.ma.getmaskarray(values).any():
        return np.asarray(values)
    if values.dtype.kind in "iuf":
        return np.ma.filled(values.astype(np.float64), np.nan)
    texts = np.asarray(values).astype(object)
    texts[np.ma.getmaskarray(values)] = None
    return texts


def arrays_of(values: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Arrays of the same rows, as `array_of` each: frames and series are matched by their index.

    The order is that of the first value with an index (of pandas, or of xarray's first dimension);
    others of the same rows in another order follow it. An index that only counts rows says nothing
    beside one of other names. Raises `TrustqError` where indexes name other rows, where a name
    stands twice, and where a value without an index leaves open whose order it has.

    >>> import pandas
    >>> labels = pandas.Series([0, 1], index=["a", "b"])
    >>> arrays_of({"labels": labels, "score": labels.iloc[::-1]})["score"].tolist()
    [0, 1]
    """
    arrays = {name: array_of(own, name) for name, own in values.items()}
    indexes = {name: index_of(own) for name, own in values.items() if name != "classes"}
    first = next((name for name, index in indexes.items() if index is not None), None)
    for name, index in indexes.items():
        if first is None or index is None or len(index) != len(indexes[first]):
            continue  # of other lengths: whoever takes the arrays says so
        place = _places(indexes[first], index, first, name)
        if place is None:
            continue
        for other, none in indexes.items():
            if none is None and arrays[other].shape[:1] == (len(index),):
                raise InputError(
                    f"{first} and {name} have the same rows in two orders, and {other} has no "
                    "index that says which is its own: give it one, or pass all in one order."
                )
        arrays[name] = arrays[name][place]
    return arrays


def index_of(values: Any) -> Any:
    """The pandas index of a frame, a series or an xarray array; None where there is none."""
    dims, indexes = getattr(values, "dims", None), getattr(values, "indexes", None)
    if dims and indexes is not None:
        return indexes.get(dims[0])
    index = getattr(values, "index", None)
    return index if hasattr(index, "get_indexer") else None


def _places(first: Any, index: Any, name: str, other: str) -> np.ndarray | None:
    """Where the rows of an index stand in another; None where they are in the same order."""
    if first.equals(index):
        return None
    if first.is_unique and index.is_unique:
        place = np.asarray(index.get_indexer(first))
        if (place >= 0).all():
            return place
    plain = _imported("pandas").RangeIndex(len(first))
    counts = first.equals(plain) or index.equals(plain)
    shared = not set(map(str, first)).isdisjoint(map(str, index))
    if counts and not shared:
        return None
    raise InputError(
        f"{name} and {other} have indexes of other rows, {first.tolist()[0]!r}, ... and "
        f"{index.tolist()[0]!r}, ...: "
        "give both the same index, or none where their rows are in the same order "
        "(reset_index(drop=True))."
    )


@contextmanager
def as_file(data: Source, names: Names | None = None) -> Iterator[Path]:
    """A path to read the data from: itself where it is one, else a file that holds them.

    `names` gives other names of arrays, of which a frame of scores names its classes.
    What a frame or a mapping of arrays means is thus what the same file would mean. A message of a
    `TrustqError` names the data, not the file.
    """
    if isinstance(data, str | Path):
        yield Path(data)
        return
    if not isinstance(data, Mapping) and not is_frame(data):
        raise InputError(
            f"Cannot read from {type(data).__name__}: pass a path, a mapping of arrays "
            "(features=, labels=, ...) or a data frame."
        )
    with TemporaryDirectory(prefix="trustq-") as folder:
        if isinstance(data, Mapping):
            path = Path(folder) / "mapping.npz"
            data = {str(name): spread(values) for name, values in data.items()}
            arrays = {name: _plain(values) for name, values in arrays_of(data).items()}
            _name_classes(arrays, data, names or {})
            np.savez(path, **arrays)  # type: ignore[arg-type]
        else:
            path = Path(folder) / "frame.parquet"
            columns = columns_of(data)
            try:
                write_parquet(path, columns)
            except duckdb.InvalidInputException as error:  # texts of no encoding
                raise InputError(f"The frame cannot be read: {first_line(error)}.") from error
        try:
            yield path
        except TrustqError as error:
            text = str(error).replace(str(path), f"the {path.stem}")
            text = text.replace(path.name, f"the {path.stem}")
            error.args, error.path = (text[:1].upper() + text[1:],), None
            raise


def source_name(data: Source, read: str) -> str:
    """What pages call the data: as it was read where it is a file, else by what it is.

    >>> source_name("rows.csv", "rows.csv"), source_name({"labels": [0]}, "mapping.npz")
    ('rows.csv', 'mapping of arrays')
    """
    if isinstance(data, str | Path):
        return read
    return "mapping of arrays" if isinstance(data, Mapping) else "data frame"


def _name_classes(arrays: dict[str, np.ndarray], data: Mapping[str, Any], names: Names) -> None:
    """Take the columns of a frame of scores for their classes."""

    def there(role: str) -> str | None:
        asked = names.get(role, role)
        return called(arrays, asked) if isinstance(asked, str) else None

    kinds = [kind for kind in ("logits", "probs") if kind in names] or ["logits", "probs"]
    kind, name = next(((k, own) for k in kinds if (own := there(k)) is not None), ("", ""))
    if not kind:
        return
    labels = [arrays[own] for role in _LABELS if (own := there(role)) is not None]
    own, asked = there("classes"), names.get("classes")
    if own is not None:
        stated: list[str] | None = plain_texts(arrays[own].reshape(-1))
    else:
        stated = None if asked is None else split_names(asked)
    classes = classes_of(data[name], kind, labels, stated=stated)
    if own is None and stated is not None and classes not in (None, stated):
        raise InputError(
            f"The columns of {name} are of {listed(classes or [])}, and the classes are called "
            f"{listed(stated)}: leave out `classes`, or give them in the order of the columns."
        )
    if classes is not None:
        arrays[own or "classes"] = np.array(classes)


def classes_of(
    scores: Any, kind: str, labels: Sequence[np.ndarray], *, stated: Sequence[str] | None = None
) -> list[str] | None:
    """Classes in the order of the columns of a frame of scores, or of a series of the second.

    `kind` is probs or logits, whose prefix in tables (`prob_`, `logit_`) is no part of a name.
    What the columns are called counts, as in a file, before the order of the `stated` classes,
    which are returned where the columns name none. Raises `TrustqError` where they name some.

    >>> import pandas
    >>> classes_of(pandas.DataFrame({"prob_nv": [0.2], "prob_mel": [0.8]}), "probs", [])
    ['nv', 'mel']
    """
    titles = _titles(scores)
    given = None if stated is None else _stated(stated)
    if titles is None or (given is not None and titles == list(map(str, range(len(given))))):
        return given  # columns that count themselves have no names
    prefix = PREFIXES[kind]
    if all(begins(title, prefix) and len(title) > len(prefix) for title in titles):
        titles = [title[len(prefix) :] for title in titles]
    if len(titles) == 1:
        return _second_of_two(titles[0], labels, given)
    if given is None:
        return by_number(titles, *labels)
    if set(given) & set(titles):
        if list(map(letters_of, given)) == list(map(letters_of, titles)):
            return given
        if set(given) != set(titles):
            raise InputError(
                f"The columns of {kind} are of {listed(titles)}, and the classes are called "
                f"{listed(given)}: name every column, or none."
            )
        return titles
    return given


def _stated(classes: Any) -> list[str]:
    names = np.asarray(classes)
    if not names.ndim:
        raise InputError(
            f"classes is a {type(classes).__name__}, expected a list of names in the order of the "
            "columns of scores."
        )
    return plain_texts(names.reshape(-1))


def _titles(scores: Any) -> list[str] | None:
    """The names of a frame's columns, or of a series.

    Raises `TrustqError` for one column called 0: pandas calls so what has no name.
    """
    name = getattr(scores, "name", None)
    names = [name]
    if is_frame(scores):  # whose own columns may be the values, as pyarrow's are
        names = list(_opened(scores).columns)
    elif hasattr(scores, "columns"):
        names = list(scores.columns)
    if len(names) == 1 and isinstance(names[0], int) and names[0] == 0:
        raise InputError(
            "The scores are one column called 0, which may be class 0 or no name: call it by its "
            'class as a text ("0"), or pass an array of the scores of the second class.'
        )
    return (
        None if names == [None] or callable(names[0]) or names == [""] else list(map(_title, names))
    )


def _second_of_two(
    title: str, labels: Sequence[np.ndarray], stated: list[str] | None
) -> list[str] | None:
    """Two classes, second the one that a column is called by; what is stated for other titles."""
    if stated is not None:
        place = ClassPosition(stated)(title) if len(stated) == 2 else None
        return stated if place is None else [stated[1 - place], stated[place]]
    if not labels:
        return None
    known = {text for text in plain_texts(labels[0]) if not is_blank(text)}
    if flag(title) is None and ClassPosition(sorted(known))(title) is None:
        return None
    classes = two_classes(title, labels[0], source="The input")[0]
    return None if classes is None else list(classes)


def _series(series: Any) -> np.ndarray:
    import narwhals as nw

    if series.dtype in (nw.Int128, nw.UInt128):  # which numpy does not know
        values = series.to_list()
        if any(v is not None and abs(v) >= 2**63 for v in values):
            raise InputError(
                f"Column {series.name!r} has integers beyond 64 bits: give them as texts."
            )
        series = series.cast(nw.Int64)
    if series.dtype.is_numeric() and not series.is_null().any():
        return np.asarray(series.to_numpy())
    if series.dtype == nw.Boolean and not series.is_null().any():
        return np.asarray(series.to_numpy()).astype(bool)
    values = [
        None if is_null else value
        for value, is_null in zip(series.to_list(), series.is_null().to_list(), strict=True)
    ]
    if series.dtype.is_numeric():
        return np.array([np.nan if v is None else float(v) for v in values])
    return _objects(values)


def _objects(values: list[Any]) -> np.ndarray:
    """Texts and other values, None for a blank; (n, d) of numbers where each row is such a list."""
    first = next((value for value in values if value is not None), None)
    if isinstance(first, np.ndarray | list | tuple):
        return _of_lists(values, len(first))
    column = np.empty(len(values), dtype=object)
    # A dict or an image may have no single truth of being equal to itself.
    column[:] = [None if isinstance(v, float) and v != v else v for v in values]
    return column


def _of_lists(values: list[Any], d: int) -> np.ndarray:
    blank = np.full(d, np.nan)  # of a row without a list
    try:
        rows = [blank if value is None else np.asarray(value, np.float64) for value in values]
    except (TypeError, ValueError):
        rows = []
    if rows and {row.shape for row in rows} == {(d,)}:
        return np.stack(rows)
    column = np.empty(len(values), dtype=object)
    column[:] = [value.tolist() if isinstance(value, np.ndarray) else value for value in values]
    return column


def _plain(array: np.ndarray) -> np.ndarray:
    """Texts, and numbers among objects, as numpy's own, which need no pickle."""
    if array.dtype != object:
        return array
    if array.ndim > 1:
        try:
            return array.astype(np.float64)
        except (TypeError, ValueError):
            return array.astype(str)
    return np.array(list(map(plain_text, array.ravel().tolist())))


def _column(values: Any) -> np.ndarray:
    if isinstance(values, np.ndarray):
        return values
    values = list(values)
    kinds = {type(value) for value in values if value is not None}
    if kinds and kinds <= {int, float} and (None not in values or float in kinds):
        return np.array([np.nan if value is None else value for value in values])
    if kinds == {bool} and None not in values:
        return np.array(values)
    column = np.empty(len(values), dtype=object)
    column[:] = values
    return column


def _shown(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, float | np.floating):
        return "-" if math.isnan(value) else f"{value:.4g}"
    return str(value)


def _imported(name: str) -> Any:
    import importlib

    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise MissingExtra(f"{name} is not installed: pip install {name}.") from error
