"""Loops in machine code: columns times rows, a softmax, and back, for every task of every block."""

from collections.abc import Callable, Sequence
from typing import Any

from llvmlite import ir

from trustq.heads.machine_code import DOUBLE, INT, LANE, Code
from trustq.heads.processor import Shape

# Rows side by side: where they lie 4 or 8 KB apart they share a few lines of the first cache, and
# drove each other out. Five folds on 10,000 x 1,024 with two classes take .10 s so, .19 by 24.
MOST_BESIDE = 4


class Loops(Code):
    """The loops for problems of so many columns at a time.

    `multiply` and `evaluate` take (rows, n, d, rows a block, tasks, n tasks, scratch, its stride);
    `fields` of a task are addresses and whole numbers (`kernels.TASK`).
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
            own, next_rows = [], _line(b, rows, b.add(first, _whole(self._rows)), d)
            for i in range(self._rows):
                row = b.add(first, _whole(i))
                own.append(_line(b, rows, b.select(b.icmp_signed("<", row, n), row, last), d))

            def add(k: Any, totals: list[Any], lanes: Any = None) -> list[Any]:
                columns = [self.load(b, b.gep(at, [k])) for at in of_column]
                added: list[Any] = []
                for i, at in enumerate(own):
                    if lanes is None:
                        self.ask_for(b, b.gep(_line(b, next_rows, i, d), [k]))
                    x = self.load(b, b.gep(at, [k]))
                    x = x if lanes is None else b.select(lanes, x, self.constant(0.0))
                    added += [
                        self.fma(b, x, column, totals[len(added) + c])
                        for c, column in enumerate(columns)
                    ]
                return added

            nothing = [self.constant(0.0)] * (self._rows * self._columns)
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
        self.loop(b, _whole(0), end, self._rows, some_rows)
        b.ret_void()
        return found

    def _make_back(self) -> ir.Function:
        """Of (rows, n, d, weights, stride, out): out[c] += sum of weights[c, row] * rows[row]."""
        number = self.pointer
        b, found = self.function("back", [number, INT, INT, number, INT, number])
        rows, n, d, weights, stride, out = found.args
        of_column = [_line(b, weights, c, stride) for c in range(self._columns)]
        to_column = [_line(b, out, c, d) for c in range(self._columns)]

        def some_axes(first: Any, beside: int, lanes: Any = None) -> list[Any]:
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
                for place, field in enumerate(self._fields):
                    at = b.add(b.mul(t, _whole(len(self._fields))), _whole(place))
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
