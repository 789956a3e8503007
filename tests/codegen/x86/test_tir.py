"""From loop nests to machine code: what the emitted code does, against numpy, and what it says of itself."""

from __future__ import annotations

import numpy as np
import pytest

import graphopt
from graphopt.codegen.kernel.expr import INDEX, Buffer, Var, binary, bitcast, call, cast, const, reduce, select, unary
from graphopt.codegen.kernel.loops import Alloc, For, If, Kernel, Let, Seq, Stmt, seq, store
from graphopt.codegen.kernel.spaces import Scope, Space
from graphopt.codegen.program.plan import Call, Program, Slot
from graphopt.codegen.x86.build import build
from graphopt.errors import CodegenError
from graphopt.ir import Builder, Graph, dtype, tensor
from graphopt.ir.ops.numeric import fma as one_rounding
from graphopt.runtime.host.executable import Pointer, address
from graphopt.targets import parse_target
from tests.codegen.lower.lowering import random
from tests.codegen.x86.compiling import Batch

RNG = np.random.default_rng(7)


def run(kernels: list[tuple[Kernel, list[np.ndarray]]], threads: int = 1) -> list[list[np.ndarray]]:
    """Outputs of each kernel on its inputs; all in one module, run on this machine."""
    graph = Graph()
    program = Program(graph)
    arrays: list[np.ndarray] = []
    outs: list[list[np.ndarray]] = []
    for n, (kernel, inputs) in enumerate(kernels):
        named = Kernel(f"k{n}", kernel.params, kernel.body, kernel.inputs, kernel.outputs)
        program.kernels.append(named)
        program.keys.append(f"{n}")
        results = [np.zeros(b.shape, b.dtype.numpy) for b in kernel.params[kernel.inputs:]]
        outs.append(results)
        slots = []
        for a in (*inputs, *results):
            slots.append(Slot("input", len(arrays)))
            graph.add_input(tensor("f32", 1))
            arrays.append(a)
        program.steps.append(Call(named, tuple(slots), graph.return_op))
    code = build(program, parse_target("x86", threads), in_memory=True)
    code.functions[0](*(Pointer(address(a)) for a in arrays), Pointer(0), Pointer(0))
    return outs


def elementwise(f, *arrays: np.ndarray, width: int | None = None) -> tuple[Kernel, list[np.ndarray]]:
    """out[i] = f(a[i], b[i], ...), in vectors of `width` where given."""
    n = arrays[0].size
    ins = [Buffer(f"in{k}", dtype(a.dtype), (n,)) for k, a in enumerate(arrays)]
    i = Var("i", INDEX, 0, n - 1)
    if width:
        outer, lane = Var("o", INDEX, 0, n // width - 1), Var("l", INDEX, 0, width - 1)
        value = f(*(b[outer * width + lane] for b in ins))
        out = Buffer("out", value.dtype, (n,))
        lanes = For(lane, const(width, INDEX), store(out, outer * width + lane, value), Scope.VECTOR)
        body: Stmt = For(outer, const(n // width, INDEX), lanes)
    else:
        value = f(*(b[i] for b in ins))
        out = Buffer("out", value.dtype, (n,))
        body = For(i, const(n, INDEX), store(out, i, value))
    return Kernel("k", (*ins, out), body, len(ins), 1), list(arrays)


@pytest.mark.parametrize("width", [None, 16])
def test_arithmetic_is_that_of_the_machine_types(width: int | None) -> None:
    floats = np.array([0.0, -0.0, 1.5, -1.5, 2.5, -2.5, 0.5, 1e-40, np.inf, -np.inf, np.nan, 3e38, 7, -7, 1, -1], np.float32)
    others = np.roll(floats, 3)
    ints = RNG.integers(-2**31, 2**31, 16).astype(np.int32)
    bytes_, small = RNG.integers(0, 256, 16).astype(np.uint8), RNG.integers(1, 31, 16).astype(np.int32)
    cases = [(lambda a, b: a + b, [floats, others], np.add), (lambda a, b: a - b, [floats, others], np.subtract),
             (lambda a, b: a * b, [ints, small], np.multiply), (lambda a, b: a / b, [floats, others], np.divide),
             (lambda a, b: binary("min", a, b), [floats, others], np.minimum),
             (lambda a, b: binary("max", a, b), [floats, others], np.maximum),
             (lambda a, b: a // b, [ints, small], np.floor_divide), (lambda a, b: a % b, [ints, small], np.mod),
             (lambda a: -a, [floats], np.negative), (lambda a: unary("abs", a), [floats], np.abs),
             (lambda a: unary("round", a), [floats], np.rint), (lambda a: unary("floor", a), [floats], np.floor),
             (lambda a: unary("trunc", a), [floats], np.trunc), (lambda a: unary("isnan", a), [floats], np.isnan),
             (lambda a: ~(a < 1.0), [floats], lambda a: ~(a < 1)), (lambda a, b: ~a.eq(b), [floats, others], np.not_equal),
             (lambda a, b: (a < b) | (b < a), [floats, others], lambda a, b: (a < b) | (b < a)),
             (lambda a: a & 15, [bytes_], lambda a: a & 15), (lambda a: ~a, [bytes_], np.invert),
             (lambda a, b: binary("shl", a, b), [ints, small], np.left_shift),
             (lambda a, b: binary("shr", a, b), [ints, small], np.right_shift),
             (lambda a: bitcast(a, "i32"), [floats], lambda a: a.view(np.int32)),
             (lambda a: a.cast("f64"), [ints], lambda a: a.astype(np.float64)),
             (lambda a: cast(a, "i8"), [ints], lambda a: a.astype(np.int8)),
             (lambda a: cast(a, "bool"), [floats], lambda a: a.astype(bool)),
             (lambda a, b: select(a < b, a, b * 2.0), [floats, others], lambda a, b: np.where(a < b, a, b * 2)),
             (lambda a, b: call("fma", a, b, a), [floats, others], lambda a, b: one_rounding(a, b, a))]
    with np.errstate(all="ignore"):
        results = run([elementwise(f, *a, width=width) for f, a, _ in cases])
        for k, ((_, arrays, wanted), (got,)) in enumerate(zip(cases, results, strict=True)):
            np.testing.assert_array_equal(got, wanted(*arrays), err_msg=f"case {k}")


def test_division_floors_also_for_negative_indices() -> None:
    """Indices below zero occur before a clamp; machine division truncates."""
    out = [Buffer(f"out{k}", "i32", (21,)) for k in range(2)]
    i = Var("i", INDEX, 0, 20)
    both = seq(store(out[0], i, ((i - 10) // 4).cast("i32")), store(out[1], i, ((i - 10) % 4).cast("i32")))
    body = For(i, const(21, INDEX), both)
    quotient, rest = run([(Kernel("k", tuple(out), body, 0, 2), [])])[0]
    np.testing.assert_array_equal(quotient, (np.arange(21) - 10) // 4)
    np.testing.assert_array_equal(rest, (np.arange(21) - 10) % 4)


def test_statements() -> None:
    x, out = Buffer("x", "f32", (10,)), Buffer("out", "f32", (10,))
    i = Var("i", INDEX, 0, 9)
    local = Buffer("local", "f32", (3,), Space.LOCAL)
    t = Var("t", const(0, "f32").dtype)
    j = Var("j", INDEX, 0, 2)
    body = For(i, const(10, INDEX), Alloc(local, seq(
        For(j, const(3, INDEX), store(local, j, x[i] + j.cast("f32")), Scope.UNROLL),
        Let(t, local[0] + local[1] + local[2], If(x[i] < 0.0, store(out, i, -t), store(out, i, t))),
        If(i < 5, Seq(())))))
    a = RNG.standard_normal(10).astype(np.float32)
    got, = run([(Kernel("k", (x, out), body, 1, 1), [a])])[0]
    zero, one, two = np.arange(3, dtype=np.float32)
    total = ((a + zero) + (a + one)) + (a + two)  # rounded at each step, as the statements are
    np.testing.assert_array_equal(got, np.where(a < 0, -total, total))


def test_parallel_loops_do_every_iteration_once() -> None:
    counts = Buffer("counts", "i32", (1000,))
    p = Var("p", INDEX, 0, 999)
    body = For(p, const(1000, INDEX), store(counts, p, counts[p] + p.cast("i32")), Scope.PARALLEL)
    for threads in (1, 2, 3):
        got, = run([(Kernel("k", (counts,), body, 0, 1), [])], threads)[0]
        np.testing.assert_array_equal(got, np.arange(1000))


def test_loops_of_few_iterations_do_every_one_once() -> None:
    counts = Buffer("counts", "i32", (60,))
    i, j = Var("i", INDEX, 0, 9), Var("j", INDEX, 0, 9)
    at = i * 6 + j
    inner = For(j, binary("min", i, const(6, INDEX)), store(counts, at, counts[at] + 1), Scope.FEW)
    body = For(i, const(10, INDEX), inner, Scope.FEW)
    got, = run([(Kernel("k", (counts,), body, 0, 1), [])])[0]
    np.testing.assert_array_equal(got.reshape(10, 6), np.arange(6) < np.arange(10)[:, None])


def test_a_long_epilogue_takes_no_registers_from_the_accumulators() -> None:
    graph = Graph()
    b = Builder(graph)
    w, bias = b.const(random(RNG, "f32", 48, 40, 1, 1)), b.const(random(RNG, "f32", 48))
    y = b.conv(b.relu(graph.add_input(tensor("f32", 1, 40, 28, 28), "x")), w, bias, stride=[1, 1], pad=[0] * 4,
               dilation=[1, 1], groups=1)
    graph.outputs = [b.transpose(b.mish(y), perm=[0, 2, 3, 1])]  # mish: two dozen constants
    lines = graphopt.compile(graph, target="x86:znver4", threads=1).source("asm").splitlines()
    labels = {line.split(":")[0]: k for k, line in enumerate(lines) if line.startswith(".L")}
    ends = [(labels[line.split()[1]], k) for k, line in enumerate(lines)
            if line.startswith("\tj") and labels.get(line.split()[1], k) < k]
    innermost = [lines[a:z] for a, z in ends if not any(a <= c and d <= z and (a, z) != (c, d) for c, d in ends)]
    products = [loop for loop in innermost if sum("vfmadd231ps" in line for line in loop) >= 12]
    assert products
    assert not [line for loop in products for line in loop if "(%rsp" in line and "%zmm" in line]


def test_a_reduction_must_be_scheduled_first() -> None:
    x, out = Buffer("x", "f32", (10,)), Buffer("out", "f32", (1,))
    kernel = Kernel("k", (x, out), store(out, 0, reduce("sum", [10], lambda k: x[k])), 1, 1)
    with pytest.raises(CodegenError, match="not scheduled"):
        run([(kernel, [np.zeros(10, np.float32)])])


def test_sources_show_kernels_and_main() -> None:
    batch = Batch()
    x = random(RNG, "f32", 5, 40)
    batch.give(batch.b.softmax(batch.b.matmul(batch.input(x), batch.b.const(random(RNG, "f32", 40, 30))), axis=1))
    model = batch.check()
    tir = model.source("tir")
    assert "def main" in tir and tir.count("@T.prim_func") == 1 + model.stats["kernels"]
    assert "main" in model.source("asm") and "ret" in model.source("asm")
    with pytest.raises(graphopt.InputError, match="'tir' or 'asm'"):
        model.source("llvm")


@pytest.mark.parametrize("target,register", [("x86:x86-64", "xmm"), ("x86:haswell", "ymm"), ("x86:znver4", "zmm")])
def test_targets_get_the_vectors_that_they_have(target: str, register: str) -> None:
    graph = Graph()
    graph.outputs = [Builder(graph).relu(graph.add_input(tensor("f32", 1024), "x"))]
    model = graphopt.compile(graph, target=target, threads=1)
    wider = {"xmm": "ymm", "ymm": "zmm", "zmm": "none"}[register]
    asm = model.source("asm")
    assert f"%{register}" in asm and f"%{wider}" not in asm
