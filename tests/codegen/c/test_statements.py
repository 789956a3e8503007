"""Every statement as C++: templates of x86 and kernels of threads, built by the host's compiler, give what the interpreter gives;
and sizes that are given at the call, in machine code too."""

from __future__ import annotations

import ctypes
import shutil
from dataclasses import replace

import numpy as np
import pytest

from graphopt.codegen.c import host as host_cc
from graphopt.codegen.c.emit import Dialect, print_kernel
from graphopt.codegen.kernel.expr import INDEX, Buffer, Var, const, minimum
from graphopt.codegen.kernel.fission import serial
from graphopt.codegen.kernel.loops import (
    Alloc,
    AsyncCopy,
    Barrier,
    Commit,
    For,
    If,
    Kernel,
    Stmt,
    Wait,
    alloc,
    let,
    loop,
    seq,
    statements,
    store,
)
from graphopt.codegen.kernel.machine import run_kernel
from graphopt.codegen.kernel.spaces import Scope, Space
from graphopt.codegen.kernel.verify import verify
from graphopt.errors import CodegenError
from graphopt.ir.types import F32
from tests.codegen.interpreting import graph_of, lowered
from tests.codegen.lower.lowering import random
from tests.codegen.test_templates import CASES, Deciding

needs_cc = pytest.mark.skipif(shutil.which("g++") is None, reason="no g++")
N = 8
X, Y = Buffer("x", "f32", (N,)), Buffer("y", "f32", (N,))
DATA = np.arange(1, N + 1, dtype=np.float32)


def library(*kernels: Kernel) -> ctypes.CDLL:
    public = Dialect(function='extern "C" void')
    return host_cc.load({"k.cpp": public.prelude() + "".join(print_kernel(k, public) for k in kernels)}, "k.cpp",
                        tuple("-O0" if f.startswith("-O") else f for f in host_cc.FLAGS))


def run(lib: ctypes.CDLL, kernel: Kernel, arrays: list[np.ndarray], scalars: tuple[int, ...] = ()) -> list[np.ndarray]:
    sizes = dict(zip(kernel.scalars, scalars))
    outs = [np.full(b.shape if b.length is None else (sizes[b.length],), 7, b.dtype.numpy)  # type: ignore[index]
            for b in kernel.params[kernel.inputs:]]
    pointers = [ctypes.c_void_p(a.ctypes.data) for a in (*map(np.ascontiguousarray, arrays), *outs)]
    getattr(lib, kernel.name)(*pointers, *map(ctypes.c_int64, scalars))
    return outs[:kernel.outputs]


def block(body: Stmt) -> Stmt:
    return For(Var("b", INDEX, 0, 0), const(1, INDEX), body, Scope.BLOCK)


def threads(body, n: int = N, scope: Scope = Scope.THREAD) -> Stmt:
    t = Var("t", INDEX, 0, n - 1)
    return For(t, const(n, INDEX), body(t), scope)


S = Buffer("s", "f32", (N,), Space.SHARED)


def halves(t) -> Stmt:
    step = lambda k: seq(Barrier(), let("v", S[t] + S[minimum(t + k, N - 1)], lambda v: seq(
        Barrier(), If(t < k, store(S, t, v)))))
    return seq(store(S, t, X[t]), step(4), step(2), step(1), Barrier(), store(Y, t, S[0]))


THREADS = {
    "swapped": threads(lambda t: seq(store(S, t, X[t]), Barrier(), store(Y, t, S[N - 1 - t]))),
    "a sum by halves": threads(halves),
    "of their own": threads(lambda t: alloc("own", "f32", (1,), lambda own: seq(
        store(own, 0, X[t]), loop(3, lambda k: seq(
            store(S, t, own[0]), Barrier(), store(own, 0, own[0] + S[N - 1 - t]), Barrier())),
        store(Y, t, own[0])))),
    "an index kept": threads(lambda t: let("at", t * 5 % N, lambda at: seq(store(S, at, X[t]), Barrier(), store(Y, at, S[at])))),
    "warps": threads(lambda w: threads(lambda t: seq(
        store(S, w * 4 + t, X[w * 4 + t]), Barrier(Scope.WARP), let("v", S[w * 4 + 3 - t], lambda v: seq(
            Barrier(), store(Y, N - 1 - (w * 4 + t), v)))), 4), 2, Scope.WARP),
    "copied": threads(lambda t: seq(AsyncCopy(S, t, X, t, 1), Commit(), Wait(), Barrier(), store(Y, t, S[N - 1 - t]))),
    "if all do": threads(lambda t: seq(store(S, t, X[t]), If(X[0] < 3.0, seq(Barrier(), store(Y, t, S[N - 1 - t]))))),
}


def kernels_of_threads() -> dict[str, Kernel]:
    return {what: Kernel(f"t{n}", (X, Y), block(Alloc(S, body)), 1, 1) for n, (what, body) in enumerate(THREADS.items())}


def test_threads_that_wait_are_loops_that_end_at_barriers():
    for what, kernel in kernels_of_threads().items():
        verify(kernel)
        parted = replace(kernel, body=serial(kernel.body))
        assert not any(isinstance(s, Barrier) for loops in statements(parted.body) if isinstance(loops, For)
                       and loops.scope is Scope.THREAD for s in statements(loops.body))
        np.testing.assert_array_equal(run_kernel(parted, [DATA])[0], run_kernel(kernel, [DATA])[0], what)


def test_threads_that_part_before_a_barrier_are_no_loops():
    kernel = Kernel("k", (X, Y), block(threads(lambda t: seq(If(t < 3, Barrier()), store(Y, t, X[t])))), 1, 1)
    with pytest.raises(CodegenError, match="do not all come"):
        print_kernel(kernel)


def sums() -> Kernel:
    n, s = Var("n", INDEX, 1, 8), Var("s", INDEX, 1, 16)
    a, b = Buffer("a", "f32", (128,), length=n * s), Buffer("b", "f32", (8,), length=n)
    i, j = Var("i", INDEX, 0, 7), Var("j", INDEX, 0, 15)
    return Kernel("sums", (a, b), For(i, n, alloc("t", "f32", (1,), lambda t: seq(
        store(t, 0, const(0, F32)), For(j, s, store(t, 0, t[0] + a[i * s + j])), store(b, i, t[0])))), 1, 1, scalars=(n, s))


@needs_cc
def test_statements_of_threads_and_sizes_in_cpp():
    kernels = kernels_of_threads()
    lib = library(*kernels.values(), sums())
    for what, kernel in kernels.items():
        np.testing.assert_array_equal(run(lib, kernel, [DATA])[0], run_kernel(kernel, [DATA])[0], what)
    for rows, columns in ((1, 1), (3, 5), (8, 16)):
        x = np.arange(rows * columns, dtype=np.float32)
        got, = run(lib, sums(), [x], (rows, columns))
        np.testing.assert_array_equal(got, x.reshape(rows, columns).sum(1))


@needs_cc
def test_templates_in_cpp_give_what_the_interpreter_gives():
    jobs = {}
    rng = np.random.default_rng(5)
    for n, (template, what, text) in enumerate({t: (t, w, x) for t, w, x in CASES}.values()):
        op = next(o for o in graph_of(text, rng).ops if o.name not in ("const", "return"))
        low = lowered(op, "x86:haswell", 1, Deciding(None, int(what[2]) if template == "conv.winograd" else 0))
        kernel = replace(low.kernel, name=f"k{n}")
        jobs[template] = kernel, [random(rng, b.dtype.name, *b.shape) for b in kernel.params[:kernel.inputs]]
    lib = library(*(kernel for kernel, _ in jobs.values()))
    for template, (kernel, arrays) in jobs.items():
        for got, want in zip(run(lib, kernel, arrays), run_kernel(kernel, arrays), strict=True):
            written = ~np.isnan(want)
            np.testing.assert_allclose(got[written], want[written], rtol=2e-6, atol=2e-6, err_msg=template)


def test_sizes_in_machine_code(tmp_path):
    from tvm import IRModule, ir

    from graphopt.codegen.x86.build import _object
    from graphopt.codegen.x86.emit import emit_kernel
    from graphopt.targets import parse_target

    if shutil.which("cc") is None:
        pytest.skip("no C compiler")
    kernel = sums()
    function = emit_kernel(kernel).with_attr("global_symbol", "sums")
    (tmp_path / "k.o").write_bytes(_object(IRModule({ir.GlobalVar("sums"): function}), parse_target("x86")))
    host_cc.run(["cc", "-shared", "-o", "k.so", "k.o"], tmp_path)
    lib = ctypes.CDLL(str(tmp_path / "k.so"))
    for rows, columns in ((1, 1), (3, 5), (8, 16)):
        x = np.arange(rows * columns, dtype=np.float32)
        np.testing.assert_array_equal(run(lib, kernel, [x], (rows, columns))[0], x.reshape(rows, columns).sum(1))
