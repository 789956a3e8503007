"""`fma` rounds once and a product that is added rounds twice, to the same bits on everything that runs kernels."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest

import graphopt
from graphopt.codegen.cuda import build as cuda
from graphopt.codegen.kernel.expr import INDEX, Buffer, Expr, Var, combine, const, fma, select
from graphopt.codegen.kernel.fuse import fused
from graphopt.codegen.kernel.loops import Alloc, For, Kernel, Stmt, let, loop, seq, store
from graphopt.codegen.kernel.spaces import Scope, Space
from graphopt.codegen.x86.listing import kernel_texts
from graphopt.errors import CodegenError
from graphopt.ir import evaluate, parse_graph
from graphopt.ir.ops.numeric import fma as reference
from graphopt.ir.types import F32, I32
from graphopt.runtime.host.machine import missing
from graphopt.targets import parse_target
from tests.exact.machines import runs

LANES = 16
RNG = np.random.default_rng(5)
needs_fma = pytest.mark.skipif(bool(missing(["avx2", "fma"])), reason="its code is for AVX2")


def rounded(x: Fraction, d: str) -> float:
    """The nearest number of f32 or f64, ties to even, from the definition in IEEE 754 section 4.3.1."""
    bits, least = (24, -149) if d == "f32" else (53, -1074)
    if x == 0:
        return 0.0
    size = abs(x)
    exponent = max(size.numerator.bit_length() - size.denominator.bit_length(), least + bits) - bits
    for unit in (exponent - 1, exponent, exponent + 1):  # the estimate may be one off
        steps = size / Fraction(2) ** unit if unit >= 0 else size * Fraction(2) ** -unit
        if unit >= least and steps < 2**bits:
            break
    down = steps.numerator // steps.denominator
    over = steps - down
    down += over > Fraction(1, 2) or (over == Fraction(1, 2) and down % 2)
    try:
        found = math.ldexp(down, unit)
    except OverflowError:
        found = math.inf
    if d == "f32" and found > float(np.finfo(np.float32).max):
        found = math.inf
    return -found if x < 0 else found


def once(a: float, b: float, c: float, d: str) -> float:
    """a * b + c exactly, then rounded. Without infinities and NaN; zeros that cancel are +0."""
    exact = Fraction(a) * Fraction(b) + Fraction(c)
    if exact == 0 and a * b == 0 and c == 0:
        return math.copysign(1, a) * math.copysign(1, b) * 0.0 + c
    return rounded(exact, d)


def twice(a: float, b: float, c: float, d: str) -> float:
    product = rounded(Fraction(a) * Fraction(b), d)
    if product == 0:
        product = math.copysign(0.0, math.copysign(1, a) * math.copysign(1, b))
    return product + c if not math.isfinite(product) or product == c == 0 else rounded(Fraction(product) + Fraction(c), d)


def hard(d: str) -> list[np.ndarray]:
    """Operands at which one rounding and two differ, and others at the borders of what is representable."""
    t = np.float32 if d == "f32" else np.float64
    bits = 24 if d == "f32" else 53
    info = np.finfo(t)
    ulp, tiny, small, large = 2.0 ** (1 - bits), float(info.tiny), float(info.smallest_subnormal), float(info.max)
    special = [
        (1 + ulp, 1 - ulp, -1.0), (1 + ulp, 1 + ulp, -(1 + 2 * ulp)), (1 + ulp, 1 + ulp, 2.0**-2 * ulp),
        (0.1, 10.0, -1.0), (3.0, 1 / 3, -1.0), (1 / 3, 1 / 3, -1 / 9),
        (1 + ulp, 1 + ulp, ulp * ulp), (1 + ulp, 1 + ulp, -ulp * ulp), (1 + ulp, 1 + ulp / 2, small),
        (1 + ulp, 2.0 ** (1 - bits // 2), 2.0**bits), (1 + ulp, 0.5, 2.0 ** (bits - 1)), (1 - ulp, 0.5, 2.0 ** (bits - 1) + 1),
        (small, 0.5, small), (small, 0.5, -small), (small, 1.5, small), (tiny, 0.75, small), (tiny, 1 - ulp, -tiny),
        (tiny, tiny, small), (tiny, -tiny, small), (tiny, -tiny, tiny), (large, 2.0, -large), (large, 1 + ulp, -large),
        (large, 1.0, large * ulp / 4), (-large, 2.0, large), (0.0, 1.0, -0.0), (-0.0, 1.0, -0.0), (-0.0, 1.0, 0.0),
        (1.0, 1.0, -1.0), (-1.0, 1.0, 1.0), (small, -small, 0.0), (small, small, -0.0), (1 + ulp, 0.0, -small)]
    rows = [tuple(float(t(x)) for x in row) for row in special]
    for scale in (0, 0, 0, -bits, bits):  # c cancels most of the product, or stands far below or above it
        a, b = (t(x) for x in RNG.uniform(1, 2, (2, 40)))
        c = -(a * b) * t(2.0**scale) * (1 + t(ulp) * RNG.integers(-2, 3, 40).astype(t))
        rows += [tuple(map(float, row)) for row in zip(a, b, c)]
    rows += [(1.0, 1.0, 1.0)] * (-len(rows) % LANES)
    return [np.array(column, t) for column in zip(*rows)]


def kernel(d: str, forms: list, n: int, vector: bool) -> Kernel:
    """out[k][i] = forms[k](a[i], b[i], c[i]); a form that gives a function of where to store is a statement."""
    ins = [Buffer(name, d, (n,)) for name in "abc"]
    outs = [Buffer(f"out{k}", d, (n,)) for k in range(len(forms))]

    held = Buffer("held", d, (LANES,), Space.LOCAL)

    def all_of(i: Expr, lane: Expr) -> Stmt:
        args = [b[i] for b in ins]
        parts = []
        for f, out in zip(forms, outs):
            value = f(*args)
            parts.append(value(lambda v, o=out: store(o, i, v), held, lane, out, i) if callable(value) else store(out, i, value))
        return seq(*parts)

    if not vector:
        body = loop(n, lambda i: all_of(i, const(0, INDEX)))
        return Kernel("k", (*ins, *outs), Alloc(held, body), 3, len(outs))
    lane = Var("l", INDEX, 0, LANES - 1)
    body = loop(n // LANES, lambda k: For(lane, const(LANES, INDEX), all_of(k * LANES + lane, lane), Scope.VECTOR))
    return Kernel("k", (*ins, *outs), Alloc(held, body), 3, len(outs))


def in_local(a: Expr, b: Expr, c: Expr):
    """A product that waits in registers."""
    return lambda put, held, lane, out, i: seq(store(held, lane, a * b), put(held[lane] + c))


def in_memory(a: Expr, b: Expr, c: Expr):
    """A product that has been stored."""
    return lambda put, held, lane, out, i: seq(store(out, i, a * b), put(c + out[i]))


def bound(a: Expr, b: Expr, c: Expr):
    return lambda put, held, lane, out, i: let("product", a * b, lambda p: put(p + c))


ONCE = [fma, lambda a, b, c: fused(a * b + c), lambda a, b, c: fused(c + b * a), lambda a, b, c: fused(c - (-a) * b),
        lambda a, b, c: combine("sum", c, a * b)]
TWICE = [lambda a, b, c: a * b + c, lambda a, b, c: c + a * b, lambda a, b, c: c - (-(a * b)), lambda a, b, c: c - (-a) * b,
         lambda a, b, c: select(a.eq(a), a * b, c) + c, lambda a, b, c: -(-c - a * b), in_memory, in_local, bound]


@pytest.mark.parametrize("d", ["f32", "f64"])
def test_numpy_s_form_rounds_once(d: str) -> None:
    columns = hard(d)
    got = reference(*columns)
    want = np.array([once(*map(float, row), d) for row in zip(*columns)], columns[0].dtype)
    np.testing.assert_array_equal(got.view(np.uint8), want.view(np.uint8))
    nan, inf = np.nan, np.inf
    rows = ((inf, 0, 1), (inf, 1, -inf), (1, 1, inf), (1, inf, 1), (nan, 1, 1), (-inf, 2, 5))
    odd = [np.array(x, columns[0].dtype) for x in zip(*rows)]
    with np.errstate(invalid="ignore"):
        np.testing.assert_array_equal(reference(*odd), odd[0] * odd[1] + odd[2])


@needs_fma
@pytest.mark.parametrize("vector", [True, False])
@pytest.mark.parametrize("d", ["f32", "f64"])
def test_all_agree_on_one_rounding_and_on_two(d: str, vector: bool) -> None:
    columns = hard(d)
    forms = [*ONCE, *TWICE]
    wanted = [np.array([f(*map(float, row), d) for row in zip(*columns)], columns[0].dtype) for f in (once, twice)]
    assert np.sum(wanted[0] != wanted[1]) > len(wanted[0]) / 4
    k = kernel(d, forms, columns[0].size, vector)
    for who, got in runs(k, columns, "x86", "x86:haswell").items():
        for n, (out, _) in enumerate(zip(got, forms, strict=True)):
            want = wanted[n >= len(ONCE)]
            same = (out == want) & ((np.signbit(out) == np.signbit(want)) | (n != 0))
            assert same.all(), (who, n, [c[~same][:3] for c in (*columns, out, want)])


@needs_fma
def test_a_cpu_without_the_instruction_multiplies_and_adds_and_calls_nobody() -> None:
    columns = hard("f32")
    k = kernel("f32", [fma], columns[0].size, True)
    (got,) = runs(k, columns, "x86:nehalem")["x86:nehalem"]
    np.testing.assert_array_equal(got, np.array([twice(*map(float, row), "f32") for row in zip(*columns)], np.float32))
    _, asm = kernel_texts(k, parse_target("x86:nehalem", 1))
    assert "mulps" in asm and "addps" in asm and "vfmadd" not in asm and "fmaf" not in asm


@needs_fma
def test_the_instruction_is_there_where_it_is_said_and_nowhere_else() -> None:
    for form, yes, no in ((fma, "vfmadd", "vmulps"), (TWICE[0], "vaddps", "vfmadd")):
        _, asm = kernel_texts(kernel("f32", [form], LANES, True), parse_target("x86:haswell", 1))
        assert yes in asm and no not in asm


@needs_fma
def test_a_graph_s_product_and_sum_are_rounded_each() -> None:
    """As PyTorch's eager mode and onnxruntime do."""
    columns = hard("f32")
    n = columns[0].size
    graph = parse_graph(f"""graph @g(%a: f32[{n}], %b: f32[{n}], %c: f32[{n}]) -> f32[{n}] {{
      %0 = mul(%a, %b) : f32[{n}]
      %1 = add(%0, %c) : f32[{n}]
      return %1
    }}""")
    want = np.array([twice(*map(float, row), "f32") for row in zip(*columns)], np.float32)
    np.testing.assert_array_equal(evaluate(graph, columns)[0], want)
    np.testing.assert_array_equal(graphopt.compile(graph, target="x86")(*columns), want)


def test_integers_are_multiplied_and_added() -> None:
    x = Buffer("x", I32, (4,))
    assert fma(x[0], x[1], x[2]) is x[0] * x[1] + x[2]
    with pytest.raises(CodegenError, match="fma of"):
        fma(Buffer("y", F32, (1,))[0], x[0], x[1])


def test_a_formula_s_products_are_fused_and_its_arguments_left_alone() -> None:
    a, b, c = (Buffer(name, F32, (1,))[0] for name in "abc")
    assert fused(a * b + c) is fma(a, b, c)
    assert fused(a * b + c, (a * b,)) is a * b + c
    square = a * b
    assert fused(square + square * c) is fma(square, c, square)  # it is needed itself, too


@pytest.mark.skipif(cuda._nvrtc_library() is None, reason="no NVRTC")
def test_nvrtc_contracts_nothing() -> None:
    source = """extern "C" __global__ void k(float* x) { x[0] = x[1] * x[2] + x[3]; x[4] = fmaf(x[1], x[2], x[3]); }"""
    text = cuda._nvrtc(cuda._nvrtc_library(), source, "sm_90", "PTX").decode()
    assert text.count("fma.rn.f32") == 1 and "mul" in text and "add" in text


def test_nvcc_is_told_to_contract_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str] = []

    def run(command, folder, where):
        seen.extend(command)
        (folder / "kernels.cubin").write_bytes(b"")
        return ""

    monkeypatch.setattr(cuda, "run", run)
    cuda._nvcc("", "sm_90")
    assert "-fmad=false" in seen
