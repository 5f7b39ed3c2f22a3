"""Loops in machine code: columns times rows, a softmax, and back, for every task of every block."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from llvmlite import ir

from trustq.heads.machine_code import DOUBLE, INT, LANE, Code
from trustq.heads.processor import Shape

# Rows side by side: where they lie 4 or 8 KB apart they share a few lines of the first cache, and
# drove each other out. Five folds on 10,000 x 1,024 with two classes take .10 s so, .19 by 24.
MOST_BESIDE = 4
PART_BYTES = 3 << 10  # of a row there: with six columns and two rows 24 KB, which first caches hold


class _Block(NamedTuple):
    """What a task takes of a block of rows, as values of the machine code."""

    rows: Any
    places: Any  # of the n rows
    first: Any  # of them, among all that the task takes
    n: Any
    d: Any
    fields: dict[str, Any]
    scratch: Any
    stride: Any


class Loops(Code):
    """The loops for problems of so many columns at a time.

    `multiply` and `evaluate` take (rows, d, blocks, tasks, n tasks, scratch, its stride); `fields`
    of a task are addresses and whole numbers (`kernels.TASK`).
    """

    def __init__(self, dtype: str, shape: Shape, columns: int, fields: Sequence[str]) -> None:
        super().__init__(dtype, shape)
        self._columns, self._fields = columns, fields
        self._vectors = max(1, shape.sums // columns)  # of a row back
        self._rows = min(self._vectors, MOST_BESIDE)  # there
        self._there, self._back = self._make_there(), self._make_back()
        self._between = self._make_between()
        self._make_driver("multiply", self._multiply)
        self._make_driver("evaluate", self._evaluate)

    def _make_there(self) -> ir.Function:
        """Of (rows, places, n, d, weights, out, stride): out[c, i] = weights[c] . row at places[i].

        Some beyond n are filled, with rows whose places follow. Axes are taken in parts, of which
        all columns and the rows beside stay in the first cache.
        """
        number = self.pointer
        types = [number, INT.as_pointer(), INT, INT, number, number, INT]
        b, found = self.function("there", types)
        rows, places, n, d, weights, out, stride = found.args
        of_column = [_line(b, weights, c, d) for c in range(self._columns)]
        to_column = [_line(b, out, c, stride) for c in range(self._columns)]
        is_left = self.last_lanes(b, b.and_(d, _whole(self.lanes - 1)))
        n_sums, part = self._rows * self._columns, PART_BYTES // self.bytes

        def some_rows(first: Any, start: Any, stop: Any) -> list[Any]:
            own, following = (
                [_row(b, rows, places, b.add(first, _whole(i))) for i in range(j, j + self._rows)]
                for j in (0, self._rows)
            )

            def add(k: Any, totals: list[Any], lanes: Any = None) -> list[Any]:
                # All rows first and then one column at a time: were all columns loaded first, 16
                # registers would not hold them beside the sums, which would go through memory.
                vectors = []
                for at, next_at in zip(own, following, strict=True):
                    if lanes is None:
                        self.ask_for(b, b.gep(next_at, [k]))
                    x = self.load(b, b.gep(at, [k]))
                    vectors.append(x if lanes is None else b.select(lanes, x, self.constant(0.0)))
                added = list(totals)
                for c, at in enumerate(of_column):
                    column = self.load(b, b.gep(at, [k]))
                    for place, x in zip(range(c, n_sums, self._columns), vectors, strict=True):
                        added[place] = self.fma(b, x, column, totals[place])
                return added

            whole = b.and_(stop, _whole(-self.lanes))  # every part but the last is whole
            nothing = [self.constant(0.0)] * n_sums
            totals = self.loop(b, start, whole, self.lanes, add, nothing)
            rest = b.sub(d, _whole(self.lanes))
            totals = self.where(
                b, b.icmp_signed("<", whole, stop), lambda: add(rest, totals, is_left), totals
            )
            is_first = b.icmp_signed("==", start, _whole(0))
            for place in range(0, n_sums, self.lanes):
                some = totals[place : place + self.lanes]
                sums = self.sums(b, some)
                for j in range(len(some)):
                    row, c = divmod(place + j, self._columns)
                    at = b.gep(to_column[c], [b.add(first, _whole(row))])
                    before = b.select(is_first, ir.Constant(self.number, 0.0), b.load(at))
                    b.store(b.fadd(before, b.extract_element(sums, ir.Constant(LANE, j))), at)
            return []

        def some_axes(start: Any, _: list[Any]) -> list[Any]:
            left = b.sub(d, start)
            stop = b.add(
                start, b.select(b.icmp_signed("<", left, _whole(part)), left, _whole(part))
            )
            self.loop(b, _whole(0), n, self._rows, lambda i, _: some_rows(i, start, stop))
            return []

        self.loop(b, _whole(0), d, part, some_axes)
        b.ret_void()
        return found

    def _make_back(self) -> ir.Function:
        """Of (rows, places, n, d, weights, stride, out): out[c] += sum of weights[c, i] * row i."""
        number = self.pointer
        types = [number, INT.as_pointer(), INT, INT, number, INT, number]
        b, found = self.function("back", types)
        rows, places, n, d, weights, stride, out = found.args
        of_column = [_line(b, weights, c, stride) for c in range(self._columns)]
        to_column = [_line(b, out, c, d) for c in range(self._columns)]

        def some_axes(first: Any, beside: int, lanes: Any = None) -> list[Any]:
            axes = [b.add(first, _whole(i * self.lanes)) for i in range(beside)]

            def add(i: Any, totals: list[Any]) -> list[Any]:
                own = _row(b, rows, places, i)
                vectors = [self.load(b, b.gep(own, [axis])) for axis in axes]
                added: list[Any] = []
                for at in of_column:
                    weight = self.spread(b, b.load(b.gep(at, [i])))
                    added += [
                        self.fma(b, x, weight, totals[len(added) + j])
                        for j, x in enumerate(vectors)
                    ]
                return added

            nothing = [self.constant(0.0)] * (beside * self._columns)
            totals = self.loop(b, _whole(0), n, 1, add, nothing)
            for j, total in enumerate(totals):
                if lanes is not None:
                    total = b.select(lanes, total, self.constant(0.0))
                self.add_to(b, total, b.gep(to_column[j // beside], [axes[j % beside]]))
            return []

        def last_axes(first: Any, _: list[Any]) -> list[Any]:
            """One vector, of which the last begins where it ends with the row."""
            left, last = b.sub(d, first), b.sub(d, _whole(self.lanes))
            first = b.select(b.icmp_signed("<", first, last), first, last)
            return some_axes(first, 1, self.last_lanes(b, left))

        step = self._vectors * self.lanes
        many = b.mul(b.udiv(d, _whole(step)), _whole(step))
        self.loop(b, _whole(0), many, step, lambda first, _: some_axes(first, self._vectors))
        self.loop(b, many, d, self.lanes, last_axes)
        b.ret_void()
        return found

    def _make_between(self) -> ir.Function:
        """Of (logits, stride, n, columns, offsets, targets, stride, mass, sums): residuals.

        Logits less that of the last class become the losses' derivatives by them; `sums` gets them
        and the losses. Up to the next whole vector targets and mass are 0, logits anything.
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

            is_row = self.first_lanes(b, b.sub(n, row))

            def shifted(c: Any, top: list[Any]) -> list[Any]:
                z = b.select(is_row, self.load(b, at_column(c)), self.constant(0.0))
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

    def _make_driver(self, name: str, body: Callable[[ir.IRBuilder, _Block], None]) -> None:
        """`body` for every block of rows, task after task."""
        types = [self.pointer, INT, INT, INT.as_pointer(), INT, self.pointer, INT]
        b, found = self.function(name, types)
        rows, d, n_blocks, tasks, n_tasks, scratch, stride = found.args

        def of_block(block: Any, _: list[Any]) -> list[Any]:
            def of_task(t: Any, _: list[Any]) -> list[Any]:
                fields = {}
                for place, field in enumerate(self._fields):
                    at = b.add(b.mul(t, _whole(len(self._fields))), _whole(place))
                    fields[field] = b.load(b.gep(tasks, [at]))
                places, starts, counts = (
                    b.inttoptr(fields[field], INT.as_pointer())
                    for field in ("places", "starts", "counts")
                )
                first, n = (b.load(b.gep(each, [block])) for each in (starts, counts))
                own = b.gep(places, [first])
                body(b, _Block(rows, own, first, n, d, fields, scratch, stride))
                return []

            self.loop(b, _whole(0), n_tasks, 1, of_task)
            return []

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

    def _multiply(self, b: ir.IRBuilder, at: _Block) -> None:
        weights, out = (b.inttoptr(at.fields[name], self.pointer) for name in ("weights", "out"))
        stride = at.fields["stride"]

        def there(column: Any) -> None:
            to, own = _line(b, out, column, stride), _line(b, weights, column, at.d)
            to = b.gep(to, [at.first])
            b.call(self._there, [at.rows, at.places, at.n, at.d, own, to, stride])

        self._each_pass(b, at.fields, there)

    def _evaluate(self, b: ir.IRBuilder, at: _Block) -> None:
        weights, offsets, targets, mass, slopes = (
            b.inttoptr(at.fields[name], self.pointer)
            for name in ("weights", "offsets", "out", "mass", "slopes")
        )
        sums = b.inttoptr(at.fields["sums"], DOUBLE.as_pointer())
        rows = [at.rows, at.places, at.n, at.d]

        def there(column: Any) -> None:
            to, own = _line(b, at.scratch, column, at.stride), _line(b, weights, column, at.d)
            b.call(self._there, [*rows, own, to, at.stride])

        def back(column: Any) -> None:
            own, to = _line(b, at.scratch, column, at.stride), _line(b, slopes, column, at.d)
            b.call(self._back, [*rows, own, at.stride, to])

        self._each_pass(b, at.fields, there)
        told = [b.gep(targets, [at.first]), at.fields["stride"], b.gep(mass, [at.first]), sums]
        b.call(self._between, [at.scratch, at.stride, at.n, at.fields["n_columns"], offsets, *told])
        self._each_pass(b, at.fields, back)


def _whole(value: int) -> ir.Constant:
    return ir.Constant(INT, value)


def _line(b: ir.IRBuilder, matrix: Any, row: Any, stride: Any) -> Any:
    """Address of a row of a matrix."""
    row = _whole(row) if isinstance(row, int) else row
    return b.gep(matrix, [b.mul(row, stride)])


def _row(b: ir.IRBuilder, rows: Any, places: Any, i: Any) -> Any:
    """Address of the row whose place, counted in numbers, is the i-th."""
    return b.gep(rows, [b.load(b.gep(places, [i]))])
