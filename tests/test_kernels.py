"""Loops in machine code: numpy's answer, for every vector that processors have, to the last bit."""

import ctypes
import re
import subprocess
import sys
import weakref
from collections.abc import Callable
from typing import Any

import llvmlite.binding as llvm
import numpy as np
import pytest

from trustq.core import scratch
from trustq.errors import InputError
from trustq.heads import LinearHead, SharedFeatures, fit_multinomial, kernels
from trustq.heads.evaluation import Evaluator
from trustq.heads.feature_cache import products
from trustq.heads.kernels import (
    BEYOND,
    MOST_COLUMNS,
    TASK,
    Rows,
    kernel_of,
    multiplied,
    padded,
)
from trustq.heads.machine_code import INT, Code
from trustq.heads.processor import Shape, shape_of
from trustq.metrics.probabilities import log_softmax

# Vectors of AVX-512, AVX, SSE, and a processor of 64 bits, by bytes, and sums in registers.
PROCESSORS = [(64, 24), (32, 12), (16, 24), (16, 12), (8, 12)]
TYPES = ["float32", "float64"]


@pytest.fixture(params=PROCESSORS, ids=lambda own: f"{own[0]} bytes, {own[1]} sums")
def processor(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> tuple[int, int]:
    """The loops as they are written for other processors."""
    n_bytes, sums = request.param
    monkeypatch.setattr(
        kernels, "shape_of", lambda dtype: Shape(n_bytes // np.dtype(dtype).itemsize, sums)
    )
    kernels._compiled.cache_clear()
    yield request.param
    kernels._compiled.cache_clear()


def elementwise(dtype: str, name: str) -> Callable[[np.ndarray], np.ndarray]:
    """`power` or `log` of the machine code, of arrays of whole vectors."""
    code = Code(dtype, shape_of(dtype))
    b, function = code.function("all_of", [code.pointer, code.pointer, INT])
    source, target, n = function.args

    def body(i: Any, _: list[Any]) -> list[Any]:
        code.store(b, getattr(code, name)(b, code.load(b, b.gep(source, [i]))), b.gep(target, [i]))
        return []

    code.loop(b, INT(0), n, code.lanes, body)
    b.ret_void()
    engine = code.compiled()
    call = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64)(
        engine.get_function_address("all_of")
    )

    def apply(values: np.ndarray) -> np.ndarray:
        values = np.ascontiguousarray(values, dtype)
        found = np.empty_like(values)
        call(values.ctypes.data, found.ctypes.data, len(values))
        assert engine is not None  # holds the code
        return found

    return apply


@pytest.mark.parametrize("dtype", TYPES)
def test_exponentials_and_logarithms_are_right_to_their_last_digits(dtype: str) -> None:
    rng = np.random.default_rng(0)
    least = {"float32": -80.0, "float64": -700.0}[dtype]
    below = np.concatenate([-rng.exponential(3, 8000), rng.uniform(least, 0, 8000)]).astype(dtype)
    eps = np.finfo(dtype).eps
    exact = np.exp(below.astype(np.longdouble))
    np.testing.assert_allclose(elementwise(dtype, "power")(below), exact, rtol=4 * eps)
    ends = np.array([0.0, -0.0, least, 10 * least, -np.inf, np.nan] + [0.0] * 10, dtype)
    found = elementwise(dtype, "power")(ends)
    assert found[:2].tolist() == [1.0, 1.0] and np.isnan(found[5])
    np.testing.assert_allclose(
        found[2:5], np.exp(dtype == "float32" and -80.0 or -700.0), rtol=1e-4
    )
    above = np.concatenate([1 + rng.exponential(1, 8000), rng.uniform(1, 1e4, 8000)]).astype(dtype)
    exact = np.log(above.astype(np.longdouble))
    np.testing.assert_allclose(elementwise(dtype, "log")(above), exact, rtol=4 * eps, atol=eps)
    assert (elementwise(dtype, "log")(np.ones(16)) == 0).all()


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize(
    ("n", "d", "c"), [(1, 1, 1), (5, 19, 3), (203, 37, 6), (131, 64, 9), (96, 700, 23)]
)
def test_products_are_those_of_numpy(
    processor: tuple[int, int], dtype: str, n: int, d: int, c: int
) -> None:
    rng = np.random.default_rng(n)
    rows, columns = (rng.standard_normal(size).astype(dtype) for size in ((n, d), (c, d)))
    found, again = multiplied(rows, [columns, columns[:1]])
    bound = 8 * np.finfo(dtype).eps * np.abs(columns) @ np.abs(rows).T
    assert (np.abs(found - columns.astype(float) @ rows.T.astype(float)) <= bound).all()
    # Beside another problem, and in loops for other numbers of columns, a column is the same.
    alone = multiplied(rows, [columns[:1]], kernel_of(dtype, MOST_COLUMNS))[0]
    np.testing.assert_array_equal(alone, again)
    np.testing.assert_array_equal(found[:1], again)
    np.testing.assert_array_equal(multiplied(rows, [columns])[0], found)


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize(("n", "d", "c"), [(1, 1, 1), (17, 18, 2), (130, 33, 6), (515, 100, 13)])
def test_nothing_is_written_beside_what_is_asked_for(
    processor: tuple[int, int], dtype: str, n: int, d: int, c: int
) -> None:
    rng = np.random.default_rng(n)
    kernel = kernel_of(dtype, c)
    lines = kernel.passes(c) * kernel.columns
    rows = padded(rng.standard_normal((n, d)).astype(dtype))
    sizes = {"n_rows": n, "n_axes": rows.shape[1], "itemsize": rows.itemsize, "lanes": kernel.lanes}
    everything, _ = Rows.of(np.arange(n), **sizes)
    some, _ = Rows.of(np.flatnonzero(rng.permutation(n) <= n // 2), **sizes)
    whole = int(some.starts[-1] - (-some.counts[-1] // kernel.lanes) * kernel.lanes)
    guarded = []

    def lent(shape: tuple[int, ...], kind: Any, fill: float) -> np.ndarray:
        around = np.full(np.prod(shape) + 512, 77.0, kind)
        guarded.append(around)
        around[256:-256] = fill
        return around[256:-256].reshape(shape)

    own = {
        "weights": lent((lines, rows.shape[1]), dtype, 0.5),
        "offsets": lent((c,), dtype, 0.1),
        "slopes": lent((lines, rows.shape[1]), dtype, 0.0),
        "sums": lent((c + 1, kernel.lanes), float, 0.0),
        "mass": lent((whole,), dtype, 1.0),
    }
    targets, out = lent((c + 1, whole), dtype, 0.2), lent((lines, n + BEYOND), dtype, 0.0)
    entry = np.zeros((), TASK)
    for name, array in own.items():
        entry[name] = array.ctypes.data
    entry["n_columns"], entry["n_passes"] = c, kernel.passes(c)
    for loops, array, taken in (("multiply", out, everything), ("evaluate", targets, some)):
        taken.tell(entry)
        entry["out"], entry["stride"] = array.ctypes.data, array.shape[1]
        kernels.run(loops, rows, [(kernel, entry)])
    assert out[:c, :n].all() and own["slopes"][:c, :d].all() and own["sums"].any()
    for around in guarded:
        assert (around[:256] == 77).all() and (around[-256:] == 77).all()
    assert (targets == np.array(0.2, dtype)).all() and (own["mass"] == 1).all()
    assert not own["slopes"][:, d:].any()


def test_features_have_the_same_products_however_they_lie_in_memory() -> None:
    rng = np.random.default_rng(0)
    rows, columns = rng.standard_normal((5000, 37)).astype(np.float32), rng.standard_normal((7, 37))
    found = products(rows, columns)
    unaligned = np.zeros(rows.nbytes + 1, np.uint8)[1:].view(np.float32).reshape(rows.shape)
    unaligned[:] = rows
    rows.flags.writeable = False
    for own in (rows, unaligned, np.asfortranarray(rows), np.repeat(rows, 2, axis=1)[:, ::2]):
        np.testing.assert_array_equal(products(own, columns), found)
    np.testing.assert_array_equal(products(rows[::-1], columns)[::-1], found)
    np.testing.assert_array_equal(products(rows[4321:4322], columns), found[4321:4322])
    assert products(rows[:0], columns).shape == (0, 7)


@pytest.mark.parametrize("dtype", [">f4", ">f8", "f2", "i2", "i8", "longdouble", "?"])
def test_features_of_any_type_are_multiplied_as_exactly_as_they_are_written(dtype: str) -> None:
    rng = np.random.default_rng(0)
    rows = (1000 * rng.standard_normal((50, 20))).astype(dtype)
    columns = rng.standard_normal((3, 20))
    exact = rows.astype(float) @ columns.T
    digits = 1e-5 if dtype in (">f4", "f2", "i2", "?") else 1e-13
    np.testing.assert_allclose(products(rows, columns), exact, atol=digits * np.abs(exact).max())


@pytest.mark.parametrize("shape", [(4, 6), (4, 4), (4, 40), (5,)])
def test_features_with_other_columns_than_the_fit_had_are_refused(shape: tuple[int, ...]) -> None:
    features = np.random.default_rng(0).standard_normal((30, 5))
    labels = np.arange(30) % 3
    head = LinearHead(n_classes=3).fit(features, labels)
    fits = fit_multinomial(features, labels[None], n_classes=3)
    message = f"features has shape {shape}, expected (n, 5): pass the columns that the fit had."
    for predict in (head.predict_logits, fits.logits):
        with pytest.raises(InputError, match=f"^{re.escape(message)}$"):
            predict(np.zeros(shape))


def test_narrow_rows_lie_in_a_file_too_where_memory_is_short(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(scratch, "fits_memory", lambda shape, dtype: False)
    rows = np.ones((10, 1), np.float32)
    assert scratch.lies_in_file(padded(rows)) and padded(rows).sum() == 10


@pytest.mark.parametrize("triple", ["arm64-apple-darwin23.0.0", "aarch64-unknown-linux-gnu"])
def test_processors_of_arm_have_32_registers_whatever_the_system_tells(
    monkeypatch: pytest.MonkeyPatch, triple: str
) -> None:
    monkeypatch.setattr(llvm, "get_host_cpu_features", dict)
    monkeypatch.setattr(llvm, "get_process_triple", lambda: triple)
    assert shape_of.__wrapped__("float32") == Shape(4, 24)


def test_the_compiler_is_loaded_by_who_fits_alone() -> None:
    code = "import sys, trustq.heads; assert 'llvmlite' not in sys.modules"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def losses(
    features: np.ndarray, targets: np.ndarray, weights: np.ndarray
) -> tuple[float, np.ndarray]:
    """Loss and gradient by (k, d + 1) weights, written apart, in float64."""
    with_ones = np.column_stack([features, np.ones(len(features))])
    logs = log_softmax(with_ones @ weights.T).T
    residuals = targets.sum(axis=0) * np.exp(logs) - targets
    return float(-np.vdot(targets, np.where(targets > 0, logs, 0))), residuals @ with_ones


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(("n", "d", "k"), [(40, 3, 2), (1800, 37, 7), (333, 70, 11)])
def test_losses_and_gradients_are_those_of_the_formula(
    processor: tuple[int, int], dtype: type, n: int, d: int, k: int
) -> None:
    rng = np.random.default_rng(n)
    shared = SharedFeatures(rng.standard_normal((n, d)))
    shared.dtype = dtype
    centred = np.vstack([block.astype(float) for block in shared.by_row])
    evaluator = Evaluator(shared, dtype)
    soft = rng.dirichlet(np.ones(k), n).T * rng.integers(0, 3, n)
    hard = np.where(rng.integers(k, size=n) == np.arange(k)[:, None], 1.0, 0.0)
    few = hard * (rng.random(n) < 0.3)
    sets = [soft, hard, few, hard * (np.sort(rng.integers(3, size=n)) != 1)]
    scales = [0.1, 1.0, 0.5, 40.0]
    points = [scale * rng.standard_normal((k, shared.n_axes + 1)) for scale in scales]
    tasks = [evaluator.task(own) for own in sets]
    found = evaluator.evaluate(tasks, points)
    for task, own, point, (loss, gradient) in zip(tasks, sets, points, found, strict=True):
        exact, slope = losses(centred, own, point)
        digits = 1e-5 if dtype == np.float32 else 1e-12
        assert loss == pytest.approx(exact, rel=digits)
        np.testing.assert_allclose(gradient, slope, atol=digits * np.abs(slope).max())
        # Company changes no bit, nor does what was evaluated before.
        ((alone, by_weights),) = evaluator.evaluate([task], [point])
        assert alone == loss
        np.testing.assert_array_equal(by_weights, gradient)


def test_rows_without_weight_are_not_read(processor: tuple[int, int]) -> None:
    rng = np.random.default_rng(0)
    shared = SharedFeatures(rng.standard_normal((5000, 50)))
    targets = (rng.integers(3, size=5000) == np.arange(3)[:, None]) * (rng.random(5000) < 0.7)
    shared.by_row[0][:1000], targets[:, :1000] = np.nan, 0  # whole blocks, and single rows
    shared.by_row[1][~targets[:, shared.blocks[1]].any(axis=0)] = np.nan
    evaluator = Evaluator(shared, shared.dtype)
    point = rng.standard_normal((3, 51))
    ((loss, gradient),) = evaluator.evaluate([evaluator.task(targets.astype(float))], [point])
    assert np.isfinite(loss) and np.isfinite(gradient).all()


def test_places_of_rows_stay_while_they_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    lanes = shape_of("float64").lanes
    places = weakref.ref(kernels._all_rows(100, 20, 8, lanes).places)

    def run_after_others(*args: Any) -> None:
        kernels._all_rows.cache_clear()  # as products of other shapes in another thread do
        assert places() is not None
        run(*args)

    run = kernels.run
    monkeypatch.setattr(kernels, "run", run_after_others)
    rows = np.random.default_rng(0).standard_normal((100, 20))
    np.testing.assert_allclose(multiplied(rows, [rows[:3]])[0], rows[:3] @ rows.T)
    assert places() is None


def test_a_point_beyond_all_numbers_gives_no_number_and_none_to_the_next() -> None:
    features = np.random.default_rng(0).standard_normal((100, 20))
    evaluator = Evaluator(SharedFeatures(features), np.float64)
    task = evaluator.task(np.repeat([[1.0], [0.0], [1.0]], 100, axis=1))
    point = np.zeros((3, 21))
    ((before, _),) = evaluator.evaluate([task], [point])
    ((far, _),) = evaluator.evaluate([task], [point + np.array([[np.inf], [0], [0]])])
    assert np.isnan(far)
    ((after, slope),) = evaluator.evaluate([task], [point])
    assert after == before == pytest.approx(200 * np.log(3)) and np.isfinite(slope).all()


@pytest.mark.bits
@pytest.mark.parametrize("k", [2, 7, 10])
def test_company_changes_no_bit_whatever_the_processor(processor: tuple[int, int], k: int) -> None:
    rng = np.random.default_rng(k)
    labels = rng.integers(k, size=2600)
    features = rng.standard_normal((2600, 150)) + 2 * np.eye(k, 150)[labels]
    sets = np.array([np.where(rng.random(2600) < 0.2, 0, labels) for _ in range(5)])
    shared = SharedFeatures(features.astype(np.float32))
    together = fit_multinomial(shared, sets, n_classes=k, threads=1, penalties=0.01)
    alone = fit_multinomial(shared, sets[[3]], n_classes=k, penalties=0.01)
    np.testing.assert_array_equal(together.coef[3], alone.coef[0])
    apart = fit_multinomial(shared, sets, n_classes=k, threads=3, penalties=0.01)
    np.testing.assert_array_equal(together.coef, apart.coef)


def test_whatever_the_processor_a_fit_is_the_same_within_its_tolerance(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rng = np.random.default_rng(1)
    labels = rng.integers(5, size=1500)
    features = (rng.standard_normal((1500, 140)) + 2 * np.eye(5, 140)[labels]).astype(np.float32)
    found = []
    for n_bytes, sums in PROCESSORS:
        shape = {name: Shape(n_bytes // np.dtype(name).itemsize, sums) for name in TYPES}
        monkeypatch.setattr(kernels, "shape_of", shape.__getitem__)
        kernels._compiled.cache_clear()
        found.append(fit_multinomial(features, labels[None], n_classes=5, penalties=0.1).objective)
    kernels._compiled.cache_clear()
    np.testing.assert_allclose(np.ravel(found), float(found[0][0]), rtol=1.6e-7)


def test_rows_narrower_than_a_vector_get_columns_of_zeros() -> None:
    rows = np.arange(6, dtype=np.float32).reshape(3, 2)
    wide = padded(rows)
    assert wide.shape == (3, shape_of("float32").lanes) and wide[:, :2].tolist() == rows.tolist()
    assert not wide[:, 2:].any() and 2 * shape_of("float32").lanes <= BEYOND
