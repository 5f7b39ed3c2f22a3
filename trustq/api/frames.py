"""Data frames in and out: pandas, polars and every other frame that narwhals knows."""

import html
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import numpy as np

from trustq.core.class_names import by_number
from trustq.core.columns import write_parquet
from trustq.errors import InputError, MissingExtra, TrustqError

if TYPE_CHECKING:
    import pandas
    import polars

Source = Any  # a path, a mapping of arrays, or a data frame

SHOWN_ROWS = 20


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


def is_frame(data: Any) -> bool:
    """Whether narwhals knows it as an eager data frame."""
    import narwhals as nw

    return isinstance(_opened(data, pass_through=True), nw.DataFrame)


def _opened(data: Any, **options: Any) -> Any:
    """What narwhals makes of a frame; raises `TrustqError` for two columns of one name."""
    import narwhals as nw

    try:
        opened = nw.from_native(data, eager_only=True, **options)
        getattr(opened, "schema", None)
    except nw.exceptions.DuplicateError as error:
        raise InputError("The frame has two columns of one name: give each its own.") from error
    return opened


def columns_of(frame: Any) -> dict[str, np.ndarray]:
    """The columns of a data frame as arrays; texts and blanks as objects with None.

    >>> import pandas
    >>> columns_of(pandas.DataFrame({"label": ["mel", None], "age": [60, 70]}))["label"].tolist()
    ['mel', None]
    """
    data = _opened(frame)
    columns = {str(name): _series(data[name]) for name in data.columns}
    # A named index is a column of the file that pandas makes of the frame.
    index: Any = getattr(frame, "index", None)
    name = getattr(index, "name", None)
    if isinstance(name, str) and name not in columns:
        columns = {name: _column(index.tolist())} | columns
    return columns


def array_of(values: Any, name: str) -> np.ndarray:
    """An array of an array, a list, or a pandas or polars series or frame of numbers.

    Raises `TrustqError` for rows of unequal lengths.
    """
    import narwhals as nw

    data = nw.from_native(values, eager_only=True, allow_series=True, pass_through=True)
    if isinstance(data, nw.Series):
        return _series(data)
    if isinstance(data, nw.DataFrame):
        return np.asarray(data.to_numpy())
    try:
        return np.asarray(values)
    except ValueError as error:
        raise InputError(f"{name} is not an array: {error}.") from error


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
def as_file(data: Source) -> Iterator[Path]:
    """A path to read the data from: itself where it is one, else a file that holds them.

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
            path = Path(folder) / "arrays.npz"
            arrays = {name: _plain(values) for name, values in arrays_of(data).items()}
            _name_columns(arrays, data)
            np.savez(path, **arrays)  # type: ignore[arg-type]
        else:
            path = Path(folder) / "frame.parquet"
            write_parquet(path, columns_of(data))
        try:
            yield path
        except TrustqError as error:
            text = str(error).replace(str(path), f"the {path.stem}")
            error.args, error.path = (text[:1].upper() + text[1:],), None
            raise


def _name_columns(arrays: dict[str, np.ndarray], data: Mapping[str, Any]) -> None:
    """Take the columns of a frame of scores for the classes, where these are not stated."""
    scores = next((name for name in ("logits", "probs") if hasattr(data.get(name), "columns")), "")
    if scores and "classes" not in arrays and arrays[scores].shape[1] > 1:
        columns = [str(name) for name in data[scores].columns]
        labels = [arrays[name] for name in ("labels", "observed") if name in arrays]
        arrays["classes"] = np.array(by_number(columns, *labels))


def _series(series: Any) -> np.ndarray:
    import narwhals as nw

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
    return np.array([None if v is None or v != v else v for v in values] or [], dtype=object)


def _plain(array: np.ndarray) -> np.ndarray:
    """Texts as numpy's own strings, which need no pickle."""
    if array.dtype != object:
        return array
    return np.array(["" if value is None else str(value) for value in array.ravel().tolist()])


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
        return f"{value:.4g}"
    return str(value)


def _imported(name: str) -> Any:
    import importlib

    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise MissingExtra(f"{name} is not installed: pip install {name}.") from error
