"""The text form of kernels: read back it is the same kernel, for kernels of models on every target, all statements."""

from __future__ import annotations

import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from graphopt.backends.base import backend_of
from graphopt.backends.pipeline import optimise
from graphopt.capture import capture
from graphopt.codegen.kernel.expr import (
    ARITHMETIC,
    INDEX,
    Buffer,
    Expr,
    Var,
    _apply,
    binary,
    bitcast,
    call,
    cast,
    const,
    free_vars,
    select,
)
from graphopt.codegen.kernel.loops import (
    Alloc,
    AsyncCopy,
    Barrier,
    Commit,
    For,
    If,
    Kernel,
    Let,
    Prefetch,
    Shuffle,
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
from graphopt.codegen.kernel.text import parse_kernel, print_kernel, print_stmt
from graphopt.codegen.kernel.verify import verify
from graphopt.codegen.program.plan import plan
from graphopt.errors import CodegenError
from graphopt.ir.types import F32
from graphopt.targets import parse_target

X, Y = Buffer("x", "f32", (7, 3)), Buffer("y", "f32", (7,))


def again(kernel: Kernel) -> Kernel:
    """The kernel read from its text, which must be printed just so once more."""
    text = print_kernel(kernel)
    read = parse_kernel(text)
    assert print_kernel(read) == text
    assert [type(s) for s in statements(read.body)] == [type(s) for s in statements(kernel.body)]
    params = [[(b.name, b.dtype, b.shape, b.space) for b in k.params] for k in (read, kernel)]
    assert params[0] == params[1]
    return read


def models() -> dict[str, tuple]:
    import torch
    from torch import nn

    torch.manual_seed(0)
    image = nn.Sequential(nn.Conv2d(3, 16, 3, 2, 1), nn.ReLU6(), nn.Conv2d(16, 16, 3, padding=1, groups=16), nn.GELU(),
                          nn.Conv2d(16, 24, 1), nn.MaxPool2d(3, 2, 1), nn.Conv2d(24, 32, 3, padding=1), nn.Sigmoid(),
                          nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 10), nn.Softmax(-1))
    words = nn.TransformerEncoderLayer(32, 4, 64, batch_first=True)
    return {"image": (image.eval(), torch.randn(2, 3, 17, 17)), "words": (words.eval(), torch.randn(2, 9, 32)),
            "lstm": (nn.LSTM(9, 17, batch_first=True).eval(), torch.randn(2, 5, 9))}


@pytest.fixture(scope="module")
def captured():
    return {name: capture(net, (x,)) for name, (net, x) in models().items()}


@pytest.mark.parametrize("target", ["x86:skylake-avx512", "x86:haswell", "cuda:sm_90", "fpga:xc7z020"])
@pytest.mark.parametrize("name", ["image", "words", "lstm"])
def test_kernels_of_models_are_read_back(captured, name, target):
    machine = parse_target(target)
    graph, _ = optimise(captured[name], machine)
    backend = backend_of(machine)
    kernels = plan(graph, backend.style(machine), backend.templates(machine)).kernels
    assert kernels
    for kernel in kernels:
        assert verify(again(kernel)).proved == verify(kernel).proved


def test_what_it_looks_like():
    text = print_kernel(Kernel("k", (X, Y), loop(7, lambda i: alloc("acc", "f32", (1,), lambda acc: seq(
        store(acc, 0, const(0, F32)), loop(3, lambda k: store(acc, 0, acc[0] + X[i, k] * 2.0), name="k"),
        store(Y, i, acc[0]))), Scope.PARALLEL), 1, 1))
    assert text == """\
kernel @k(x: f32[7, 3]) -> (y: f32[7]) {
  for i < 7 parallel {
    alloc acc: f32[1] local {
      acc[0] = f32(0.0)
      for k < 3 {
        acc[0] = acc[0] + x[i, k] * f32(2.0)
      }
      y[i] = acc[0]
    }
  }
}
"""
    x = np.arange(21, dtype=np.float32).reshape(7, 3)
    np.testing.assert_array_equal(run_kernel(parse_kernel(text), [x])[0], x.sum(1) * 2)


def test_every_statement_is_read_back():
    n, rows = Var("n", INDEX, 1, 64), Var("a size", INDEX, None, None)
    z, s = Buffer("z", "f32", (4096,), length=n * 64), Buffer("s", "f32", (16,), Space.SHARED)
    t, pick = Buffer("for", "f32", (8,), Space.LOCAL), Buffer("select", "bool", (1,))
    v, b, w = Var("v", INDEX, 0, 3), Var("b", INDEX, 0, 1), Var("t", INDEX, 0, 3)
    one = const(1, F32)
    shared = Alloc(s, For(w, const(4, INDEX), seq(AsyncCopy(s, w * 4, z, w, 4), Commit(), Wait(), Wait(2), Barrier(),
                                                  Barrier(Scope.WARP), store(Y, 0, s[w])), Scope.THREAD))
    body = seq(
        For(v, binary("min", n, const(4, INDEX)), store(Y, v, one), Scope.FEW),
        let("v", X[0, 0], lambda x: let("v", x + x, lambda y: store(Y, 0, x * y))),
        If(pick[0], store(Y, 0, one), seq(store(Y, 1, one), If(rows < n, seq()))), Prefetch(z, n * -3 - 2, 1),
        Alloc(t, seq(loop(8, lambda l: store(t, l, one), Scope.VECTOR, "l"), Shuffle(t, 4, t, 0, 4, (0, 7, 1, 2)))),
        For(b, const(2, INDEX), shared, Scope.BLOCK))
    kernel = again(Kernel("k", (X, pick, Y, z), body, 2, 1, "a template", (n, rows)))
    assert [(x.name, x.low, x.high) for x in kernel.scalars] == [("n", 1, 64), ("a size", None, None)]
    assert kernel.template == "a template" and kernel.params[3].length is not None
    assert "prefetch z, n * -3 + -2, 1" in print_stmt(Prefetch(z, n * -3 - 2, 1))


LEAVES = st.sampled_from([X[0, 1], X[2, 2], Var("v", F32), Var("v", F32), *(const(c, F32) for c in (
    0.0, -0.0, 1e-45, 3.4e38, 0.1, float("inf"), float("-inf"), float("nan")))])


def floats(inner: st.SearchStrategy[Expr]) -> st.SearchStrategy[Expr]:
    two = st.tuples(st.sampled_from([k for k, n in ARITHMETIC.items() if n == 2]), inner, inner)
    return st.one_of(
        two.map(lambda t: _apply(t[0], t[1:], F32)), inner.map(lambda a: call("exp", a)), inner.map(lambda a: -a),
        st.tuples(inner, inner, inner).map(lambda t: select((t[0] < t[1]) | t[2].eq(t[0]) & ~(t[0] <= t[2]), t[1], t[2])),
        inner.map(lambda a: cast(cast(a, "i8") + const(-128, "i8"), "f32")),
        inner.map(lambda a: bitcast(binary("xor", bitcast(a, "u32"), const(1 << 31, "u32")), "f32")),
        inner.map(lambda a: call("fma", a, a, a)), inner.map(lambda a: (a + a) * (a + a)))


@given(st.recursive(LEAVES, floats, max_leaves=30))
def test_expressions_are_read_back_as_the_same_nodes(e):
    body: Stmt = store(Y, 0, e)
    for v in sorted(free_vars(e), key=id):
        body = Let(v, X[1, 1], body)
    again(Kernel("k", (X, Y), body, 1, 1))


def test_long_and_shared_expressions_stay_short():
    e = X[0, 0]
    for _ in range(200):
        e = e * e + X[0, 1]
    kernel = Kernel("k", (X, Y), store(Y, 0, e), 1, 1)
    again(kernel)
    assert len(print_kernel(kernel)) < 20_000


Y_IS = "kernel @k() -> (y: f32[1])"
WRONG = {
    "expected kernel": "graph @k() -> () {}", "line 2": "kernel @k() -> () {\n  y[0] = 1\n}",
    "no token": "kernel @k() -> () { ? }", "expected a dtype": "kernel @k(x: f33[1]) -> () {}",
    "expected }|expected name": "kernel @k() -> () {", "expected nothing more": "kernel @k() -> () {} {}",
    "2 indices": f"{Y_IS} {{ y[0] = y[0, 0] }}", "expected an expression": f"{Y_IS} {{ y[0] = q }}",
    "takes 2 arguments": f"{Y_IS} {{ y[0] = max(y[0]) }}", "range": f"{Y_IS} {{ for i < 3 + 4 {{}} }}",
    "one of serial": f"{Y_IS} {{ for i < 3 sideways {{}} }}", "a literal of f32": f"{Y_IS} {{ y[0] = f32(x) }}",
    "an integer": "kernel @k() -> (y: f32[1.5]) {}", "expected more": f"{Y_IS} {{ y[0] = f32(",
    "a name in quotes": f"{Y_IS} by pool {{}}", "is no name": r'kernel @k() -> ("\q": f32[1]) {}',
}


@pytest.mark.parametrize("what", WRONG)
def test_faults_in_a_text_are_named_with_their_line(what):
    with pytest.raises(CodegenError) as e:
        parse_kernel(WRONG[what])
    assert re.search(what, str(e.value)) and "line" in str(e.value)
