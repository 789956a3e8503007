"""Printed C++, compiled by the host's compiler, against numpy."""

from __future__ import annotations

import ctypes
import math
import shutil

import ml_dtypes
import numpy as np
import pytest

import graphopt.codegen.lower  # noqa: F401  (fills the lowering tables)
from graphopt.codegen.c import host as host_cc
from graphopt.codegen.c.emit import Dialect, print_kernel
from graphopt.codegen.kernel.expr import INDEX, Buffer, Expr, Var, binary, bitcast, call, cast, const, reduce, select, unary
from graphopt.codegen.kernel.loops import Alloc, For, If, Kernel, Let, Seq, loop, nest, seq, store
from graphopt.codegen.kernel.spaces import Scope, Space
from graphopt.codegen.lower.kernels import lower
from graphopt.codegen.lower.schedule import Style
from graphopt.errors import CodegenError
from graphopt.ir.evaluate import evaluate
from graphopt.ir.parse import parse_graph
from graphopt.ir.types import BF16, BOOL, F16, F32, F64, I32, I64, dtype

pytestmark = pytest.mark.skipif(shutil.which("g++") is None, reason="no g++")
RNG = np.random.default_rng(3)


def library(*kernels: Kernel) -> ctypes.CDLL:
    public = Dialect(function='extern "C" void')
    text = public.prelude() + "".join(print_kernel(k, public) for k in kernels)
    return host_cc.load({"k.cpp": text}, "k.cpp")


def run(lib: ctypes.CDLL, kernel: Kernel, *arrays: np.ndarray) -> list[np.ndarray]:
    """The kernel's outputs on input arrays."""
    outs = [np.zeros(b.shape, b.dtype.numpy) for b in kernel.params[kernel.inputs:]]
    pointers = [ctypes.c_void_p(a.ctypes.data) for a in (*map(np.ascontiguousarray, arrays), *outs)]
    getattr(lib, kernel.name)(*pointers)
    return outs[:kernel.outputs]


def elementwise(name: str, types: list[str], f, n: int) -> Kernel:
    """out[i] = f(in0[i], in1[i], ...)."""
    ins = [Buffer(f"in{k}", t, (n,)) for k, t in enumerate(types)]
    i = Var("i", INDEX, 0, n - 1)
    value = f(*(b[i] for b in ins))
    out = Buffer("out", value.dtype, (n,))
    return Kernel(name, (*ins, out), For(i, const(n, INDEX), store(out, i, value)), len(ins), 1)


def integers(d: str, n: int) -> np.ndarray:
    info = np.iinfo(dtype(d).numpy)
    edge = np.array([info.min, info.max, 0, 1, info.max // 2], dtype(d).numpy)
    return np.concatenate([edge, RNG.integers(info.min, info.max, n - 5, dtype(d).numpy, endpoint=True)])


def check(cases: dict[str, tuple]) -> None:
    """{name: (kernel, arrays, expected)}: one compilation for all."""
    lib = library(*(k for k, _, _ in cases.values()))
    for name, (kernel, arrays, want) in cases.items():
        got, = run(lib, kernel, *arrays)
        assert got.dtype == want.dtype, name
        np.testing.assert_array_equal(got.view(np.uint8) if got.dtype.name == "bfloat16" else got,
                                      want.view(np.uint8) if want.dtype.name == "bfloat16" else want, err_msg=name)


@pytest.mark.parametrize("d", ["i8", "u8", "i16", "i32", "u32", "i64", "u64"])
def test_integer_arithmetic_wraps_and_divides_like_numpy(d):
    a, b = integers(d, 200), RNG.permutation(integers(d, 200))
    nonzero = np.where(b == 0, 3, np.where(b == -1, 5, b) if d[0] == "i" else b).astype(b.dtype)
    count = (b % dtype(d).bits).astype(b.dtype)
    two = {"add": np.add, "sub": np.subtract, "mul": np.multiply, "min": np.minimum, "max": np.maximum, "and": np.bitwise_and,
           "or": np.bitwise_or, "xor": np.bitwise_xor}
    divided = {"floordiv": np.floor_divide, "floormod": np.mod, "fmod": np.fmod, "div": lambda x, y: (x - np.fmod(x, y)) // y}
    cases = {}
    with np.errstate(all="ignore"):
        for kind, f in two.items():
            cases[kind] = (elementwise(f"k_{kind}", [d, d], lambda x, y, kind=kind: binary(kind, x, y), 200), (a, b), f(a, b))
        for kind, f in divided.items():
            k = elementwise(f"k_{kind}", [d, d], lambda x, y, kind=kind: binary(kind, x, y), 200)
            cases[kind] = (k, (a, nonzero), f(a, nonzero).astype(a.dtype))
        for kind, f in {"shl": np.left_shift, "shr": np.right_shift}.items():
            k = elementwise(f"k_{kind}", [d, d], lambda x, y, kind=kind: binary(kind, x, y), 200)
            cases[kind] = (k, (a, count), f(a, count))
        for kind, f in {"neg": np.negative, "abs": np.abs, "not": np.invert}.items():
            cases[kind] = (elementwise(f"k_{kind}", [d], lambda x, kind=kind: unary(kind, x), 200), (a,), f(a))
    check(cases)


@pytest.mark.parametrize("d", ["f32", "f64"])
def test_float_arithmetic_and_comparisons_like_numpy(d):
    special = np.array([0.0, -0.0, np.inf, -np.inf, np.nan, 1, -1, 2.5, -2.5, 0.5, 3.5], dtype(d).numpy)
    a, b = (m.ravel() for m in np.meshgrid(special, special))
    n = a.size
    two = {"add": np.add, "sub": np.subtract, "mul": np.multiply, "div": np.divide, "fmod": np.fmod, "lt": np.less,
           "le": np.less_equal, "eq": np.equal, "ne": np.not_equal, "min": np.minimum, "max": np.maximum}
    one = {"neg": np.negative, "abs": np.abs, "sqrt": np.sqrt, "floor": np.floor, "ceil": np.ceil, "round": np.rint,
           "trunc": np.trunc, "isnan": np.isnan}
    cases = {}
    with np.errstate(all="ignore"):
        for kind, f in two.items():
            cases[kind] = (elementwise(f"k_{kind}", [d, d], lambda x, y, kind=kind: binary(kind, x, y), n), (a, b), f(a, b))
        for kind, f in one.items():
            cases[kind] = (elementwise(f"k_{kind}", [d], lambda x, kind=kind: unary(kind, x), n), (a,), f(a))
    select_case = elementwise("k_select", [d, d], lambda x, y: select(x < y, x * 2.0, y - const(math.inf, y.dtype)), n)
    with np.errstate(all="ignore"):
        cases["select"] = (select_case, (a, b), np.where(a < b, a * 2, b - np.inf).astype(a.dtype))
    check(cases)


def test_transcendentals_call_the_c_library():
    functions = {"exp": np.exp, "log": np.log, "tanh": np.tanh, "sin": np.sin, "atan": np.arctan, "log1p": np.log1p}
    x = RNG.uniform(0.1, 3, 50)
    for d in ("f32", "f64"):
        kernels = {k: elementwise(f"k_{k}", [d], lambda v, k=k: call(k, v), 50) for k in functions}
        lib = library(*kernels.values())
        for name, k in kernels.items():
            given = x.astype(dtype(d).numpy)
            got, = run(lib, k, given)
            np.testing.assert_allclose(got, functions[name](given.astype(np.float64)), rtol=2e-6 if d == "f32" else 1e-14)


def test_half_and_bfloat_round_to_nearest_even():
    bits = np.arange(65536, dtype=np.uint16)
    wide = np.concatenate([RNG.integers(0, 2**32, 60_000, dtype=np.uint32).view(np.float32),
                           np.float32([0, -0.0, np.inf, np.nan]), RNG.uniform(-7e4, 7e4, 20_000).astype(np.float32),
                           RNG.normal(0, 1e-5, 20_000).astype(np.float32)])
    halves = bits.view(np.float16).astype(np.float64)
    with np.errstate(all="ignore"):
        middles = np.nextafter((halves[:-1] + halves[1:]) / 2, RNG.choice([-np.inf, 0, np.inf], 65535))
        double = middles[np.isfinite(middles)]
        cases = {
            "from_f16": (elementwise("a", ["f16"], lambda x: cast(x, F32), 65536), (bits.view(np.float16),),
                         bits.view(np.float16).astype(np.float32)),
            "from_bf16": (elementwise("b", ["bf16"], lambda x: cast(x, F32), 65536), (bits.view(ml_dtypes.bfloat16),),
                          bits.view(ml_dtypes.bfloat16).astype(np.float32)),
            "to_f16": (elementwise("c", ["f32"], lambda x: cast(x, F16), wide.size), (wide,), wide.astype(np.float16)),
            "double to f16": (elementwise("d", ["f64"], lambda x: cast(x, F16), double.size), (double,),
                               double.astype(np.float16)),
        }
        check(cases)
        finite = wide[~np.isnan(wide)]
        check({"to_bf16": (elementwise("e", ["f32"], lambda x: cast(x, BF16), finite.size), (finite,),
                           finite.astype(ml_dtypes.bfloat16))})


def test_other_casts_bitcasts_and_bools():
    x = np.array([0, -1.5, 2.75, 100.9, -0.0], np.float32)
    k = np.array([-5, 0, 300, 2**31 - 1, -2**31], np.int32)
    flags = np.array([True, False, True, False, True])
    check({
        "to int": (elementwise("a", ["f32"], lambda v: cast(v, I32), 5), (x,), x.astype(np.int32)),
        "to bool": (elementwise("b", ["f32"], lambda v: cast(v, BOOL), 5), (x,), x != 0),
        "narrowing wraps": (elementwise("c", ["i32"], lambda v: cast(v, "u8"), 5), (k,), k.astype(np.uint8)),
        "bits": (elementwise("d", ["f32"], lambda v: bitcast(v, I32), 5), (x,), x.view(np.int32)),
        "bool algebra": (elementwise("e", ["bool", "bool"], lambda p, q: binary("xor", p & ~q, p | q), 5),
                         (flags, flags[::-1].copy()),
                         (flags & ~flags[::-1]) ^ (flags | flags[::-1])),
        "bool to float": (elementwise("f", ["bool"], lambda v: cast(v, F32) * 2.0, 5), (flags,), flags.astype(np.float32) * 2),
    })


@pytest.mark.parametrize("value", [0.1, -0.0, 1e-45, 3.4028235e38, math.inf, -math.inf, math.nan, 16777216.0, -1.0])
def test_literals_keep_every_bit(value):
    k32 = elementwise("a", ["f32"], lambda v: select(v < 0.0, v, const(value, F32)), 1)
    k64 = elementwise("b", ["f64"], lambda v: select(v < 0.0, v, const(value, F64)), 1)
    check({"f32": (k32, (np.zeros(1, np.float32),), np.array([value], np.float32)),
           "f64": (k64, (np.zeros(1),), np.array([value]))})


def test_integer_limits_are_literals():
    cases = {}
    for d in ("i8", "u8", "i16", "i32", "u32", "i64", "u64"):
        info = np.iinfo(dtype(d).numpy)
        for k, v in enumerate((info.min, info.max)):
            kernel = elementwise(f"k_{d}_{k}", [d], lambda x, v=v, d=d: select(x.eq(0), const(v, d), x), 1)
            cases[f"{d} {v}"] = (kernel, (np.zeros(1, info.dtype),), np.array([v], info.dtype))
    check(cases)


def test_index_arithmetic_floors():
    i = Var("i", INDEX, 0, 9)
    out = Buffer("out", "i64", (10,))
    e = cast((i - 5) // 3 * 100 + (i - 5) % 3, I64)
    k = Kernel("k", (out,), For(i, const(10, INDEX), store(out, i, e)), 0, 1)
    check({"floor": (k, (), np.array([(j - 5) // 3 * 100 + (j - 5) % 3 for j in range(10)]))})


def test_a_shared_expression_is_printed_once():
    def doubled(x: Expr) -> Expr:
        for _ in range(80):
            x = x * 0.5 + x * 0.5
        return x

    k = elementwise("k", ["f32"], doubled, 7)
    assert len(print_kernel(k)) < 10_000
    x = RNG.normal(size=7).astype(np.float32)
    check({"doubled": (k, (x,), x)})


def test_a_long_chain_is_cut_into_statements():
    def chain(x: Expr) -> Expr:
        for _ in range(3000):
            x = x + 1.0
        return x

    k = elementwise("k", ["f32"], chain, 3)
    assert max(len(line) for line in print_kernel(k).splitlines()) < 1000
    check({"chain": (k, (np.zeros(3, np.float32),), np.full(3, 3000, np.float32))})


def test_statements_blocks_and_clashing_names():
    x, y = Buffer("float", "f32", (4, 3)), Buffer("x y", "f32", (4, 3))
    acc = Buffer("i", "f32", (1,), Space.LOCAL)
    i, j = Var("i", INDEX, 0, 3), Var("i", INDEX, 0, 2)
    s = Var("i", F32)
    inner = For(j, const(3, INDEX), Let(s, x[i, j] + acc[0], Seq((
        If(s < 0.0, store(y, (i, j), -s), store(y, (i, j), s * 2.0)), store(acc, 0, acc[0] + 1.0)))), Scope.UNROLL)
    k = Kernel("k", (x, y), For(i, const(4, INDEX), Alloc(acc, seq(store(acc, 0, const(10, F32)), inner))), 1, 1)
    data = RNG.normal(0, 20, (4, 3)).astype(np.float32)
    v = data + np.array([10, 11, 12], np.float32)
    check({"k": (k, (data,), np.where(v < 0, -v, v * 2).astype(np.float32))})


def test_what_cannot_be_printed_is_said():
    b = Buffer("b", "f32", (4,))
    out = Buffer("out", "f32", (1,))
    with pytest.raises(CodegenError, match="not scheduled"):
        print_kernel(Kernel("k", (b, out), store(out, 0, reduce("sum", [4], lambda r: b[r])), 1, 1))
    with pytest.raises(CodegenError, match="not a parameter"):
        print_kernel(Kernel("k", (out,), store(out, 0, b[0]), 0, 1))
    with pytest.raises(CodegenError, match="not bound"):
        print_kernel(Kernel("k", (b, out), store(out, 0, b[Var("i", INDEX, 0, 3)]), 1, 1))


def test_empty_and_scalar_buffers():
    scalar, out = Buffer("s", "f32", ()), Buffer("out", "f32", ())
    k = Kernel("k", (scalar, out), store(out, (), scalar[()] * 3.0), 1, 1)
    nothing = Kernel("n", (Buffer("z", "f32", (0, 3)),), nest([0, 3], lambda i, j: Seq(())), 0, 1)
    lib = library(k, nothing)
    assert run(lib, k, np.float32(2))[0] == 6
    assert run(lib, nothing)[0].shape == (0, 3)
    assert isinstance(loop(0, lambda i: Seq(())), Seq)


@pytest.mark.parametrize("text", [
    "%0 = softmax(%x) {axis=1} : f32[5, 7]\n return %0",
    "%0 = reduce_sum(%x) {axes=[0], keepdims=false} : f32[7]\n return %0",
    "%0 = transpose(%x) {perm=[1, 0]} : f32[7, 5]\n %1 = sigmoid(%0) : f32[7, 5]\n return %1",
    "%0 = cumsum(%x) {axis=1, exclusive=false, reverse=true} : f32[5, 7]\n return %0",
    "%0 = argmax(%x) {axis=1, keepdims=true, select_last=false} : i64[5, 1]\n return %0",
])
@pytest.mark.parametrize("style", [Style(), Style(lanes=8, threads=2, parallel_work=1)], ids=["plain", "vectors"])
def test_lowered_ops_agree_with_the_evaluator(text, style):
    result = text.rsplit(":", 1)[1].split("\n")[0]
    graph = parse_graph(f"graph @g(%x: f32[5, 7]) -> {result} {{\n {text}\n}}")
    x = RNG.normal(size=(5, 7)).astype(np.float32)
    kernels = [lower(op, f"k{n}", style).kernel for n, op in enumerate(graph.ops)]
    lib = library(*kernels)
    value = x
    for k in kernels:
        value, = run(lib, k, value)
    want, = evaluate(graph, [x])
    np.testing.assert_allclose(value.reshape(want.shape), want, rtol=1e-5, atol=1e-6)
