"""`requantize` gives the same bits in the evaluator, the interpreter, machine code, C++ and HLS: those of exact arithmetic."""

from __future__ import annotations

import math
import shutil
from fractions import Fraction

import numpy as np
import pytest

import graphopt
import graphopt.codegen.lower
from graphopt.codegen.kernel.machine import run_kernel
from graphopt.codegen.lower.kernels import lower
from graphopt.codegen.lower.schedule import Style
from graphopt.errors import IRError
from graphopt.ir import evaluate, parse_graph
from graphopt.ir.graph import Graph
from graphopt.ir.ops.quant import fixed_point
from graphopt.ir.verify import verify
from graphopt.runtime.host.machine import missing
from tests.exact.machines import in_c

RNG = np.random.default_rng(11)
LIMITS = {"i8": (-128, 127), "u8": (0, 255), "i16": (-2**15, 2**15 - 1), "u16": (0, 2**16 - 1), "i32": (-2**31, 2**31 - 1),
          "u32": (0, 2**32 - 1)}
CHANNELS, PIXELS = 5, 23


def nearest_f32(x: Fraction) -> Fraction | float:
    """The nearest f32 of a number in the normal range or 0, even of two (IEEE 754)."""
    if x == 0:
        return x
    bits = abs(x.numerator).bit_length() - x.denominator.bit_length()
    for exponent in (bits - 24, bits - 23, bits - 25):
        steps = abs(x) / Fraction(2)**exponent
        if 2**23 <= steps < 2**24:
            found = round(steps) * Fraction(2)**exponent  # Python's round is to even
            return math.copysign(1, x) * math.inf if found >= 2**128 else (found if x > 0 else -found)
    raise AssertionError(x)


def exactly(x: int, scale: float | int, shift: int | None, point: int, to: str) -> int:
    low, high = LIMITS[to]
    if shift is None:
        if not math.isfinite(scale):
            return point if math.isnan(scale) or x == 0 else high if (x > 0) == (scale > 0) else low
        product = nearest_f32(Fraction(nearest_f32(Fraction(x))) * Fraction(scale))
        if isinstance(product, float):
            return high if product > 0 else low
        steps = round(product)
    else:
        steps = math.floor(Fraction(x * int(scale), 2**min(max(shift, 0), 62)) + (Fraction(1, 2) if shift > 0 else 0))
    return min(max(steps + point, low), high)


def sums() -> np.ndarray:
    """[CHANNELS, PIXELS] in i32."""
    edges = [0, 1, -1, 3, -3, 5, 127, -128, 2**24 + 1, -2**24 - 3, 2**31 - 1, -2**31, 2**30, 1000, -1000]
    rows = [edges + [int(v) for v in RNG.integers(-2**s, 2**s, PIXELS - len(edges))] for s in (8, 14, 20, 27, 31)]
    return np.array(rows, np.int32)


def case(to: str, fixed: bool, per_channel: bool, point: bool) -> tuple[Graph, list[np.ndarray], np.ndarray]:
    x, count = sums(), CHANNELS if per_channel else 1
    low, high = LIMITS[to]
    if fixed:
        scale, shift = fixed_point([0.5, 1.0, 2.0**-20 * 3, 0.0123, 2.0**-33][:count])
        scale = scale * np.array([1, 1, -1, 1, 1], np.int32)[:count]
        shift = shift + np.array([0, 0, 0, 40, 0], np.int32)[:count]  # beyond 62 in one
    else:
        scale, shift = np.array([0.5, 2.5, -0.0123, 1e30, 3e-9], np.float32)[:count], None
    if not per_channel:
        scale, shift = scale.reshape(()), None if shift is None else shift.reshape(())
    points = RNG.integers(low, high, count, endpoint=True).astype({"u": np.uint64}.get(to[0], np.int64)) if point else None
    numpy_of = np.dtype(to.replace("i", "int").replace("uint", "uint") if to[0] == "i" else to.replace("u", "uint"))
    arrays = [x, scale, *([shift] if fixed else [])]
    shape = f"[{CHANNELS}]" if per_channel else "[]"
    kinds = [f"%x: i32[{CHANNELS}, {PIXELS}]", f"%s: {'i32' if fixed else 'f32'}{shape}", *([f"%k: i32{shape}"] if fixed else [])]
    if points is not None:
        points = points.astype(numpy_of).reshape(scale.shape)
        arrays.append(points)
        kinds.append(f"%z: {to}{shape}")
    args = ", ".join(["%x", "%s", *(["%k"] if fixed else ["_"] if point else []), *(["%z"] if point else [])])
    result = f"{to}[{CHANNELS}, {PIXELS}]"
    graph = parse_graph(f"""graph @g({', '.join(kinds)}) -> {result} {{
      %0 = requantize({args}) {{axis=0, to={to}{', fixed=true' if fixed else ''}}} : {result}
      return %0
    }}""")
    of = lambda v, c: None if v is None else v.reshape(-1)[c if per_channel else 0].item()
    want = [[exactly(int(v), of(scale, c), of(shift, c), of(points, c) or 0, to) for v in row] for c, row in enumerate(x)]
    return graph, arrays, np.array(want, np.int64).astype(numpy_of)


@pytest.mark.parametrize("to", list(LIMITS))
@pytest.mark.parametrize("fixed", [False, True], ids=["float", "fixed"])
def test_everyone_computes_what_exact_arithmetic_says(to: str, fixed: bool) -> None:
    for per_channel, point in ((False, True), (True, False), (True, True)):
        graph, arrays, want = case(to, fixed, per_channel, point)
        np.testing.assert_array_equal(evaluate(graph, arrays)[0], want)
        for lanes in (1, 16):
            low = lower(next(iter(graph.ops)), "k", Style(lanes=lanes))
            given = [arrays[graph.inputs.index(v)] for v in low.operands]
            flat = [np.ascontiguousarray(a).reshape(b.shape) for a, b in zip(given, low.kernel.params)]
            np.testing.assert_array_equal(run_kernel(low.kernel, flat)[0].reshape(want.shape), want)
            if shutil.which("g++") and lanes == 1 and per_channel and point:
                np.testing.assert_array_equal(in_c(low.kernel, flat)[0].reshape(want.shape), want)


@pytest.mark.parametrize("target", ["x86", "x86:haswell", "x86:nehalem", pytest.param("fpga:xc7z020", marks=pytest.mark.skipif(
    shutil.which("g++") is None, reason="no g++"))])
def test_programs_compute_the_same(target: str) -> None:
    if target == "x86:haswell" and missing(["avx2", "fma"]):
        pytest.skip("its code is for AVX2")
    for to in ("i8", "u16", "i32") if target == "x86" else ("i8",):
        for fixed in (False, True):
            graph, arrays, want = case(to, fixed, True, True)
            model = graphopt.compile(graph, target=target)
            got = (model.emulated() if target.startswith("fpga") else model)(*arrays)
            np.testing.assert_array_equal(got, want)


def test_halves() -> None:
    """A scale's go to even, a multiplier's up."""
    x = np.array([1, 3, 5, -1, -3, -5], np.int32)
    graph = lambda args, attrs: parse_graph(f"graph @g({args}) -> i8[6] {{\n %0 = requantize{attrs} : i8[6]\n return %0\n}}")
    plain = graph("%x: i32[6], %s: f32[]", "(%x, %s) {axis=0, to=i8}")
    np.testing.assert_array_equal(evaluate(plain, [x, np.float32(0.5)])[0], [0, 2, 2, 0, -2, -2])
    fixed = graph("%x: i32[6], %s: i32[], %k: i32[]", "(%x, %s, %k) {axis=0, to=i8, fixed=true}")
    np.testing.assert_array_equal(evaluate(fixed, [x, np.int32(1), np.int32(1)])[0], [1, 2, 3, 0, -1, -2])


def test_multipliers_are_the_nearest() -> None:
    scales = [1.0, 0.5, 1 / 3, 0.999999999999, 2**30 + 0.25, 2.0**-31, 1e-12, 3e-18]
    for scale, multiplier, shift in zip(scales, *fixed_point(scales)):
        assert abs(Fraction(int(multiplier), 2**int(shift)) - Fraction(scale)) <= Fraction(1, 2**(int(shift) + 1))
        assert multiplier >= 2**30 or shift == 62
    with pytest.raises(ValueError, match="no positive scale"):
        fixed_point([0.0])


@pytest.mark.parametrize("inputs,attrs,said", [
    ("%x: i32[2], %s: f32[]", "(%x, %s) {axis=0, to=i8, fixed=true}", "goes with fixed=true"),
    ("%x: i32[2], %s: i32[]", "(%x, %s) {axis=0, to=i8, fixed=true}", "needs a shift"),
    ("%x: i32[2], %s: f32[3]", "(%x, %s) {axis=0, to=i8}", "must be a scalar or"),
    ("%x: i32[2], %s: f32[]", "(%x, %s) {axis=0, to=i64}", "at most 32 bits")])
def test_what_does_not_fit_is_refused(inputs: str, attrs: str, said: str) -> None:
    graph = parse_graph(f"graph @g({inputs}) -> i8[2] {{\n %0 = requantize{attrs} : i8[2]\n return %0\n}}")
    with pytest.raises(IRError, match=said):
        verify(graph)
