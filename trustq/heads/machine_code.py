"""Vectors of numbers in machine code: what loops, sums, exponentials and logarithms are made of.

Written as LLVM's intermediate language by llvmlite, whose compiler makes of it what the processor
has; that takes .05 s for each number of columns, once in a process.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import llvmlite.binding as llvm
from llvmlite import ir

from trustq.heads.processor import Shape

INT = ir.IntType(64)
LANE = ir.IntType(32)  # what names a lane of a vector
DOUBLE = ir.DoubleType()
POWER_TERMS = {"float32": 7, "float64": 13}  # of exp, on half of log 2 to either side of 0
LOG_TERMS = {"float32": 5, "float64": 11}  # of atanh, up to .172
MANTISSA = {"float32": 23, "float64": 52}
BIAS = {"float32": 127, "float64": 1023}  # the exponent of 1.0
# e to less is taken for this: shares of the least normal numbers are none, and cost 100 times more.
LOWEST_POWER = {"float32": -80.0, "float64": -700.0}
# log 2 in two parts, of which the first has so few bits that its multiples are exact.
LOG_2 = {
    "float32": (0.693359375, -2.1219444005469058e-4),
    "float64": (0.6931471803691238, 1.9082149292705877e-10),
}

llvm.initialize_native_target()
llvm.initialize_native_asmprinter()


class Code:
    """One module of machine code on vectors of a type."""

    def __init__(self, dtype: str, shape: Shape) -> None:
        self.dtype, self.lanes = dtype, shape.lanes
        self.bytes = 4 if dtype == "float32" else 8  # of a number
        self.number = ir.FloatType() if dtype == "float32" else DOUBLE
        self.whole = ir.IntType(32 if dtype == "float32" else 64)  # of as many bits
        self.vector = ir.VectorType(self.number, self.lanes)
        self.wholes = ir.VectorType(self.whole, self.lanes)
        self.pointer = self.number.as_pointer()
        self._constants: dict[tuple[ir.Type, tuple[float, ...]], ir.Constant] = {}
        self._module = ir.Module()
        self._module.triple = llvm.get_process_triple()
        suffix = f"v{self.lanes}f{32 if dtype == 'float32' else 64}"
        self._prefetch = self._declare(
            "llvm.prefetch.p0", ir.VoidType(), [ir.IntType(8).as_pointer(), LANE, LANE, LANE]
        )
        self._fma = self._declare(f"llvm.fmuladd.{suffix}", self.vector, [self.vector] * 3)

    def _declare(self, name: str, result: ir.Type, arguments: Sequence[ir.Type]) -> ir.Function:
        return ir.Function(self._module, ir.FunctionType(result, arguments), name)

    def function(self, name: str, arguments: Sequence[ir.Type]) -> tuple[ir.IRBuilder, Any]:
        """A function that returns nothing, to be filled in."""
        found = self._declare(name, ir.VoidType(), arguments)
        return ir.IRBuilder(found.append_basic_block()), found

    def compiled(self) -> Any:
        """An engine that holds the functions' addresses; they live as long as it does."""
        target = llvm.Target.from_default_triple().create_target_machine(
            cpu=llvm.get_host_cpu_name(),
            features=llvm.get_host_cpu_features().flatten(),
            opt=3,
        )
        parsed = llvm.parse_assembly(str(self._module))
        parsed.verify()
        engine = llvm.create_mcjit_compiler(parsed, target)
        engine.finalize_object()
        return engine

    # Numbers and vectors of one value.

    def constant(self, value: float) -> ir.Constant:
        """A vector of one number."""
        return self._constant(self.number, [value] * self.lanes)

    def whole_constant(self, value: int) -> ir.Constant:
        """A vector of one whole number, of as many bits as the numbers."""
        return self._constant(self.whole, [value] * self.lanes)

    def _constant(self, number: ir.Type, values: Sequence[float]) -> ir.Constant:
        # Kept, for each that is made is written out anew, which takes longer than to compile it.
        key = number, tuple(values)
        if key not in self._constants:
            self._constants[key] = ir.Constant(ir.VectorType(number, self.lanes), values)
        return self._constants[key]

    def spread(self, b: ir.IRBuilder, value: Any) -> Any:
        """A number in every lane."""
        vector = ir.VectorType(value.type, self.lanes)
        nothing = ir.Constant(vector, ir.Undefined)
        first = b.insert_element(nothing, value, ir.Constant(LANE, 0))
        return b.shuffle_vector(first, nothing, self._constant(LANE, [0] * self.lanes))

    def last_lanes(self, b: ir.IRBuilder, n: Any) -> Any:
        """Which lanes are the last n."""
        lanes = self._constant(INT, [self.lanes - i for i in range(self.lanes)])
        return b.icmp_signed("<=", lanes, self.spread(b, n))

    def first_lanes(self, b: ir.IRBuilder, n: Any) -> Any:
        """Which lanes are the first n."""
        lanes = self._constant(INT, list(range(self.lanes)))
        return b.icmp_signed("<", lanes, self.spread(b, n))

    # Memory.

    def load(self, b: ir.IRBuilder, at: Any, type_: ir.Type | None = None) -> Any:
        """A vector from memory, wherever it begins."""
        type_ = type_ or self.vector
        return b.load(b.bitcast(at, type_.as_pointer()), align=4)

    def store(self, b: ir.IRBuilder, vector: Any, at: Any) -> None:
        """A vector to memory."""
        b.store(vector, b.bitcast(at, vector.type.as_pointer()), align=4)

    def ask_for(self, b: ir.IRBuilder, at: Any) -> None:
        """Have memory bring what will be read soon into the second cache."""
        kind = [ir.Constant(LANE, i) for i in (0, 2, 1)]  # to be read, some times, data
        b.call(self._prefetch, [b.bitcast(at, ir.IntType(8).as_pointer()), *kind])

    def add_to(self, b: ir.IRBuilder, vector: Any, at: Any) -> None:
        """Add a vector to what is in memory."""
        self.store(b, b.fadd(self.load(b, at, vector.type), vector), at)

    # Flow.

    def loop(
        self,
        b: ir.IRBuilder,
        start: Any,
        end: Any,
        step: int,
        body: Callable[[Any, list[Any]], Sequence[Any]],
        carried: Sequence[Any] = (),
    ) -> list[Any]:
        """`body` for each i from start to below end, which hands what is carried to the next."""
        before = b.block
        head, inner, done = (b.function.append_basic_block() for _ in range(3))
        b.branch(head)
        b.position_at_end(head)
        i = b.phi(INT)
        i.add_incoming(start, before)
        kept = []
        for value in carried:
            kept.append(b.phi(value.type))
            kept[-1].add_incoming(value, before)
        b.cbranch(b.icmp_signed("<", i, end), inner, done)
        b.position_at_end(inner)
        found = body(i, kept)
        following = b.add(i, ir.Constant(INT, step))
        for phi, value in zip([i, *kept], [following, *found], strict=True):
            phi.add_incoming(value, b.block)
        b.branch(head)
        b.position_at_end(done)
        return kept

    def where(
        self, b: ir.IRBuilder, condition: Any, body: Callable[[], list[Any]], otherwise: list[Any]
    ) -> list[Any]:
        """What `body` makes, computed only where the condition holds, else what was there."""
        before = b.block
        inner, done = (b.function.append_basic_block() for _ in range(2))
        b.cbranch(condition, inner, done)
        b.position_at_end(inner)
        made = body()
        after = b.block
        b.branch(done)
        b.position_at_end(done)
        found = []
        for old, new in zip(otherwise, made, strict=True):
            found.append(b.phi(old.type))
            found[-1].add_incoming(old, before)
            found[-1].add_incoming(new, after)
        return found

    # Arithmetic.

    def fma(self, b: ir.IRBuilder, a: Any, c: Any, add: Any) -> Any:
        """a times c plus a third, rounded once where the processor can."""
        return b.call(self._fma, [a, c, add])

    def larger(self, b: ir.IRBuilder, a: Any, c: Any) -> Any:
        """The larger of each lane; what is no number in `a` stays."""
        return b.select(b.fcmp_ordered("<", a, c), c, a)

    def sums(self, b: ir.IRBuilder, vectors: Sequence[Any]) -> Any:
        """A vector whose lane j is the sum of the lanes of vector j."""
        level = list(vectors)
        while len(level) & (len(level) - 1):
            level.append(self.constant(0.0))
        width = self.lanes  # of the runs of lanes that are to become one sum
        while width > 1:
            width //= 2
            if len(level) > 1:
                pairs = zip(level[::2], level[1::2], strict=True)
                level = [self._halved(b, *pair, width) for pair in pairs]
            else:
                level = [self._halved(b, level[0], level[0], width)]
        return level[0]

    def _halved(self, b: ir.IRBuilder, a: Any, c: Any, width: int) -> Any:
        """First halves of runs of 2 `width` lanes of both, plus second halves."""
        starts = [i for i in range(2 * self.lanes) if i % (2 * width) < width]
        first = b.shuffle_vector(a, c, self._constant(LANE, starts))
        second = b.shuffle_vector(a, c, self._constant(LANE, [i + width for i in starts]))
        return b.fadd(first, second)

    def power(self, b: ir.IRBuilder, x: Any) -> Any:
        """e to the x, for x of at most 0: the Taylor series about multiples of log 2."""
        dtype, bits = self.dtype, MANTISSA[self.dtype]
        x = self.larger(b, x, self.constant(LOWEST_POWER[dtype]))
        # Added to so large a number, x / log 2 is rounded to a whole one, in its last bits.
        shifter = 1.5 * 2.0**bits
        shifted = self.fma(b, x, self.constant(1 / math.log(2)), self.constant(shifter))
        n = b.fsub(shifted, self.constant(shifter))
        for part in LOG_2[dtype]:
            x = self.fma(b, n, self.constant(-part), x)
        found = self.constant(1 / math.factorial(POWER_TERMS[dtype]))
        for term in range(POWER_TERMS[dtype] - 1, -1, -1):
            found = self.fma(b, found, x, self.constant(1 / math.factorial(term)))
        exponent = b.shl(b.bitcast(shifted, self.wholes), self.whole_constant(bits))
        scale = b.add(exponent, self.whole_constant(BIAS[dtype] << bits))
        return b.fmul(found, b.bitcast(scale, self.vector))

    def log(self, b: ir.IRBuilder, x: Any) -> Any:
        """The natural logarithm of numbers of at least 1."""
        dtype, bits = self.dtype, MANTISSA[self.dtype]
        raw = b.bitcast(x, self.wholes)
        exponent = b.sub(b.lshr(raw, self.whole_constant(bits)), self.whole_constant(BIAS[dtype]))
        mantissa = b.and_(raw, self.whole_constant((1 << bits) - 1))
        m = b.bitcast(b.or_(mantissa, self.whole_constant(BIAS[dtype] << bits)), self.vector)
        is_large = b.fcmp_ordered(">", m, self.constant(math.sqrt(2)))
        m = b.select(is_large, b.fmul(m, self.constant(0.5)), m)
        exponent = b.add(exponent, b.zext(is_large, self.wholes))
        f = b.fdiv(b.fsub(m, self.constant(1)), b.fadd(m, self.constant(1)))
        square = b.fmul(f, f)
        found = self.constant(2 / (2 * LOG_TERMS[dtype] - 1))
        for term in range(LOG_TERMS[dtype] - 2, -1, -1):
            found = self.fma(b, found, square, self.constant(2 / (2 * term + 1)))
        n = b.sitofp(exponent, self.vector)
        return self.fma(b, n, self.constant(math.log(2)), b.fmul(f, found))

    def to_doubles(self, b: ir.IRBuilder, vector: Any) -> Any:
        """The same numbers in double precision."""
        wide = ir.VectorType(DOUBLE, self.lanes)
        return vector if vector.type == wide else b.fpext(vector, wide)
