"""Few columns times many rows, there and back, and a softmax between: loops in machine code.

BLAS packs its matrices anew for every product, which for a dozen columns is most of the work, and
gives a column other last bits beside others. Here rows are read as they lie, by blocks that stay in
the second cache while all problems take them in turn, each by itself: so each has bits of its own.
"""

import ctypes
import threading
from collections.abc import Callable
from functools import cache
from typing import Any, NamedTuple

import numpy as np
from llvmlite import ir

from trustq.heads.machine_code import DOUBLE, INT, LANE, Code, Shape, shape_of

MOST_COLUMNS = 6  # of one pass over rows: each vector of them is used so many times
BLOCK_BYTES = 1 << 19  # of rows that stay in the second cache while all problems take them
MOST_ROWS, LEAST_ROWS = 512, 48  # of a block
BEYOND = 64  # numbers after a line of products, some of which are written

_compiling = threading.Lock()

# A task of a driver: addresses and sizes. `evaluate` reads all of them, `multiply` needs four.
TASK = np.dtype(
    [
        ("weights", np.int64),  # (passes * columns, d)
        ("offsets", np.int64),  # (columns,), added to products
        ("out", np.int64),  # products, (passes * columns, stride); of `evaluate`: targets
        ("stride", np.int64),
        ("mass", np.int64),  # (n,), what rows weigh
        ("slopes", np.int64),  # (passes * columns, d), added to
        ("sums", np.int64),  # (columns + 1, lanes) of doubles, added to: of residuals, and losses
        ("n_columns", np.int64),
        ("n_passes", np.int64),
    ]
)
_FIELDS = TASK.names or ()


class Kernel(NamedTuple):
    """Machine code for problems whose columns are taken `columns` at a time."""

    columns: int
    lanes: int
    multiply: Any
    evaluate: Any
    engine: Any  # which holds their code

    def passes(self, n_columns: int) -> int:
        """How often so many columns pass over rows."""
        return -(-n_columns // self.columns)


def kernel_of(dtype: Any, n_columns: int) -> Kernel:
    """That for problems with so many columns, compiled when first asked for.

    It depends on nothing else, so that a problem has the same bits in any company.
    """
    n_passes = -(-n_columns // MOST_COLUMNS)
    with _compiling:
        return _compiled(np.dtype(dtype).name, -(-n_columns // n_passes))


@cache
def _compiled(dtype: str, columns: int) -> Kernel:
    shape = shape_of(dtype)
    engine = _Loops(dtype, shape, columns).compiled()
    n, at = ctypes.c_int64, ctypes.c_void_p
    loops = ctypes.CFUNCTYPE(None, at, n, n, n, at, n, at, n)  # others may run Python meanwhile
    multiply, evaluate = (
        loops(engine.get_function_address(name)) for name in ("multiply", "evaluate")
    )
    return Kernel(columns, shape.lanes, multiply, evaluate, engine)


def padded(rows: np.ndarray) -> np.ndarray:
    """Rows with at least as many columns as a vector has lanes, the new ones 0."""
    lanes = shape_of(rows.dtype.name).lanes
    if rows.shape[1] < lanes:
        rows = np.pad(rows, [(0, 0), (0, lanes - rows.shape[1])])
    return np.ascontiguousarray(rows)


def run(loops: str, rows: np.ndarray, entries: list[tuple[Kernel, Any]]) -> None:
    """Run `multiply` or `evaluate` of each kernel on padded rows, all its tasks block by block."""
    n, d = rows.shape
    size = block_rows(d, rows.itemsize)
    for kernel in {id(kernel): kernel for kernel, _ in entries}.values():
        tasks = np.array([entry for own, entry in entries if own is kernel], TASK)
        n_lines = kernel.columns * int(tasks["n_passes"].max())
        scratch = np.zeros((n_lines, size + BEYOND), rows.dtype)
        address = rows.ctypes.data, n, d, size, tasks.ctypes.data, len(tasks)
        getattr(kernel, loops)(*address, scratch.ctypes.data, scratch.shape[1])


def multiplied(
    rows: np.ndarray, columns: list[np.ndarray], kernel: Kernel | None = None
) -> list[np.ndarray]:
    """Columns, (c, d) each, times rows, (n, d): (c, n) each, in bits that no others change.

    `kernel` is one that is compiled already, where its number of columns need not be theirs.
    """
    rows = padded(rows)
    n, d = rows.shape
    entries, found, kept = [], [], []
    for own in columns:
        loops = kernel or kernel_of(rows.dtype, len(own))
        n_passes = loops.passes(len(own))
        weights = np.zeros((n_passes * loops.columns, d), rows.dtype)
        weights[: len(own), : own.shape[1]] = own
        out = np.empty((len(weights), n + BEYOND), rows.dtype)
        entry = np.zeros((), TASK)
        entry["weights"], entry["out"] = weights.ctypes.data, out.ctypes.data
        entry["stride"], entry["n_passes"] = out.shape[1], n_passes
        entries.append((loops, entry))
        found.append(out[: len(own), :n])
        kept.append(weights)
    run("multiply", rows, entries)
    return found


def block_rows(n_axes: int, itemsize: int) -> int:
    """Rows of a block, by what they take: a multiple of every vector's lanes.

    >>> block_rows(1280, 4), block_rows(64, 4), block_rows(100_000, 4)
    (96, 512, 48)
    """
    fit = BLOCK_BYTES // (n_axes * itemsize)
    return min(max(fit, LEAST_ROWS), MOST_ROWS) // 16 * 16


class _Loops(Code):
    """The loops for problems of so many columns at a time.

    `multiply` and `evaluate` take (rows, n, d, rows a block, tasks, n tasks, scratch, its stride).
    """

    def __init__(self, dtype: str, shape: Shape, columns: int) -> None:
        super().__init__(dtype, shape)
        self._columns = columns
        self._beside = max(1, shape.sums // columns)  # rows there, vectors of a row back
        self._there, self._back = self._make_there(), self._make_back()
        self._between = self._make_between()
        self._make_driver("multiply", self._multiply)
        self._make_driver("evaluate", self._evaluate)

    def _make_there(self) -> ir.Function:
        """Of (rows, n, d, weights, out, stride): out[c, row] = weights[c] . rows[row].

        Rows up to the next whole vector are filled, and some beyond, with the last row's.
        """
        number = self.pointer
        b, found = self.function("there", [number, INT, INT, number, number, INT])
        rows, n, d, weights, out, stride = found.args
        of_column = [_line(b, weights, c, d) for c in range(self._columns)]
        to_column = [_line(b, out, c, stride) for c in range(self._columns)]
        last = b.sub(n, _whole(1))
        whole = b.and_(d, _whole(-self.lanes))
        is_left = self.last_lanes(b, b.sub(d, whole))

        def some_rows(first: Any, _: list[Any]) -> list[Any]:
            own, next_rows = [], _line(b, rows, b.add(first, _whole(self._beside)), d)
            for i in range(self._beside):
                row = b.add(first, _whole(i))
                own.append(_line(b, rows, b.select(b.icmp_signed("<", row, n), row, last), d))

            def add(k: Any, totals: list[Any], lanes: Any = None) -> list[Any]:
                columns = [self.load(b, b.gep(at, [k])) for at in of_column]
                added: list[Any] = []
                for i, at in enumerate(own):
                    self.ask_for(b, b.gep(_line(b, next_rows, i, d), [k]))
                    x = self.load(b, b.gep(at, [k]))
                    x = x if lanes is None else b.select(lanes, x, self.constant(0.0))
                    added += [
                        self.fma(b, x, column, totals[len(added) + c])
                        for c, column in enumerate(columns)
                    ]
                return added

            nothing = [self.constant(0.0)] * (self._beside * self._columns)
            totals = self.loop(b, _whole(0), whole, self.lanes, add, nothing)
            rest = b.sub(d, _whole(self.lanes))
            totals = self.where(
                b, b.icmp_signed("<", whole, d), lambda: add(rest, totals, is_left), totals
            )
            for start in range(0, len(totals), self.lanes):
                part = totals[start : start + self.lanes]
                sums = self.sums(b, part)
                for j in range(len(part)):
                    row, c = divmod(start + j, self._columns)
                    at = b.gep(to_column[c], [b.add(first, _whole(row))])
                    b.store(b.extract_element(sums, ir.Constant(LANE, j)), at)
            return []

        end = b.and_(b.add(n, _whole(self.lanes - 1)), _whole(-self.lanes))
        self.loop(b, _whole(0), end, self._beside, some_rows)
        b.ret_void()
        return found

    def _make_back(self) -> ir.Function:
        """Of (rows, n, d, weights, stride, out): out[c] += sum of weights[c, row] * rows[row]."""
        number = self.pointer
        b, found = self.function("back", [number, INT, INT, number, INT, number])
        rows, n, d, weights, stride, out = found.args
        of_column = [_line(b, weights, c, stride) for c in range(self._columns)]
        to_column = [_line(b, out, c, d) for c in range(self._columns)]

        def some_axes(first: Any, beside: int, lanes: Any = None) -> None:
            places = [b.add(first, _whole(i * self.lanes)) for i in range(beside)]

            def add(row: Any, totals: list[Any]) -> list[Any]:
                own = _line(b, rows, row, d)
                vectors = [self.load(b, b.gep(own, [place])) for place in places]
                added: list[Any] = []
                for at in of_column:
                    weight = self.spread(b, b.load(b.gep(at, [row])))
                    added += [
                        self.fma(b, x, weight, totals[len(added) + i])
                        for i, x in enumerate(vectors)
                    ]
                return added

            nothing = [self.constant(0.0)] * (beside * self._columns)
            totals = self.loop(b, _whole(0), n, 1, add, nothing)
            for i, total in enumerate(totals):
                if lanes is not None:
                    total = b.select(lanes, total, self.constant(0.0))
                self.add_to(b, total, b.gep(to_column[i // beside], [places[i % beside]]))

        def stride_of(beside: int) -> Any:
            def body(first: Any, _: list[Any]) -> list[Any]:
                some_axes(first, beside)
                return []

            return body

        step = self._beside * self.lanes
        many = b.mul(b.udiv(d, _whole(step)), _whole(step))
        whole = b.and_(d, _whole(-self.lanes))
        self.loop(b, _whole(0), many, step, stride_of(self._beside))
        self.loop(b, many, whole, self.lanes, stride_of(1))
        is_left = self.last_lanes(b, b.sub(d, whole))
        rest = b.sub(d, _whole(self.lanes))

        def last_axes() -> list[Any]:
            some_axes(rest, 1, is_left)
            return []

        self.where(b, b.icmp_signed("<", whole, d), last_axes, [])
        b.ret_void()
        return found

    def _make_between(self) -> ir.Function:
        """Of (logits, stride, n, columns, offsets, targets, stride, mass, sums): residuals.

        Logits less that of the last class become the losses' derivatives by them; `sums` gets them
        and the losses. Targets and mass are 0 up to the next whole vector.
        """
        number = self.pointer
        types = [number, INT, INT, INT, number, number, INT, number, DOUBLE.as_pointer()]
        b, found = self.function("between", types)
        logits, stride, n, columns, offsets, targets, targets_stride, mass, sums = found.args

        def of_rows(row: Any, _: list[Any]) -> list[Any]:
            def at_column(c: Any) -> Any:
                return b.gep(_line(b, logits, c, stride), [row])

            def target(c: Any) -> Any:
                return self.load(b, b.gep(_line(b, targets, c, targets_stride), [row]))

            def shifted(c: Any, top: list[Any]) -> list[Any]:
                z = self.load(b, at_column(c))
                z = b.fadd(z, self.spread(b, b.load(b.gep(offsets, [c]))))
                self.store(b, z, at_column(c))
                return [self.larger(b, z, top[0])]

            (top,) = self.loop(b, _whole(0), columns, 1, shifted, [self.constant(0.0)])

            def exponential(c: Any, carried: list[Any]) -> list[Any]:
                total, of_label = carried
                z = b.fsub(self.load(b, at_column(c)), top)
                power = self.power(b, z)
                self.store(b, power, at_column(c))
                return [b.fadd(total, power), self.fma(b, z, target(c), of_label)]

            below = b.fsub(self.constant(0.0), top)
            start = [self.power(b, below), b.fmul(below, target(columns))]
            total, of_label = self.loop(b, _whole(0), columns, 1, exponential, start)
            weight = self.load(b, b.gep(mass, [row]))
            loss = b.fsub(b.fmul(self.log(b, total), weight), of_label)
            share = b.fdiv(weight, total)

            def add_to_sum(c: Any, vector: Any) -> None:
                line = _line(b, sums, c, _whole(self.lanes))
                self.add_to(b, self.to_doubles(b, vector), line)

            def residual(c: Any, _: list[Any]) -> list[Any]:
                own = b.fsub(b.fmul(self.load(b, at_column(c)), share), target(c))
                self.store(b, own, at_column(c))
                add_to_sum(c, own)
                return []

            self.loop(b, _whole(0), columns, 1, residual)
            add_to_sum(columns, loss)
            return []

        self.loop(b, _whole(0), n, self.lanes, of_rows)
        b.ret_void()
        return found

    def _make_driver(self, name: str, body: Callable[..., None]) -> None:
        """`body` for every block of rows, task after task."""
        number = self.pointer
        types = [number, INT, INT, INT, INT.as_pointer(), INT, number, INT]
        b, found = self.function(name, types)
        rows, n, d, size, tasks, n_tasks, scratch, stride = found.args

        def of_block(i: Any, _: list[Any]) -> list[Any]:
            first = b.mul(i, size)
            left = b.sub(n, first)
            m = b.select(b.icmp_signed("<", left, size), left, size)
            own = _line(b, rows, first, d)

            def of_task(t: Any, _: list[Any]) -> list[Any]:
                fields = {}
                for place, field in enumerate(_FIELDS):
                    at = b.add(b.mul(t, _whole(len(_FIELDS))), _whole(place))
                    fields[field] = b.load(b.gep(tasks, [at]))
                body(b, own, first, m, d, fields, scratch, stride)
                return []

            self.loop(b, _whole(0), n_tasks, 1, of_task)
            return []

        n_blocks = b.udiv(b.add(n, b.sub(size, _whole(1))), size)
        self.loop(b, _whole(0), n_blocks, 1, of_block)
        b.ret_void()

    def _each_pass(
        self, b: ir.IRBuilder, fields: dict[str, Any], call: Callable[[Any], None]
    ) -> None:
        """`call` with the first column of every pass."""

        def body(i: Any, _: list[Any]) -> list[Any]:
            call(b.mul(i, _whole(self._columns)))
            return []

        self.loop(b, _whole(0), fields["n_passes"], 1, body)

    def _multiply(
        self, b: Any, rows: Any, first: Any, m: Any, d: Any, fields: Any, scratch: Any, stride: Any
    ) -> None:
        weights, out = (b.inttoptr(fields[name], self.pointer) for name in ("weights", "out"))

        def there(column: Any) -> None:
            to = b.gep(_line(b, out, column, fields["stride"]), [first])
            own = _line(b, weights, column, d)
            b.call(self._there, [rows, m, d, own, to, fields["stride"]])

        self._each_pass(b, fields, there)

    def _evaluate(
        self, b: Any, rows: Any, first: Any, m: Any, d: Any, fields: Any, scratch: Any, stride: Any
    ) -> None:
        weights, offsets, targets, mass, slopes = (
            b.inttoptr(fields[name], self.pointer)
            for name in ("weights", "offsets", "out", "mass", "slopes")
        )
        sums = b.inttoptr(fields["sums"], DOUBLE.as_pointer())

        def there(column: Any) -> None:
            to = _line(b, scratch, column, stride)
            b.call(self._there, [rows, m, d, _line(b, weights, column, d), to, stride])

        def back(column: Any) -> None:
            by_row, to = _line(b, scratch, column, stride), _line(b, slopes, column, d)
            b.call(self._back, [rows, m, d, by_row, stride, to])

        self._each_pass(b, fields, there)
        own = [b.gep(targets, [first]), fields["stride"], b.gep(mass, [first]), sums]
        b.call(self._between, [scratch, stride, m, fields["n_columns"], offsets, *own])
        self._each_pass(b, fields, back)


def _whole(value: int) -> ir.Constant:
    return ir.Constant(INT, value)


def _line(b: ir.IRBuilder, matrix: Any, row: Any, stride: Any) -> Any:
    """Address of a row of a matrix."""
    row = _whole(row) if isinstance(row, int) else row
    return b.gep(matrix, [b.mul(row, stride)])
