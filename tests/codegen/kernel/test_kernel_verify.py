"""What the verifier of kernels refuses, and what it takes."""

import pytest

from graphopt.codegen.kernel.expr import INDEX, Apply, Buffer, Expr, Var, const, load, minimum, reduce
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
    Store,
    Wait,
    alloc,
    let,
    loop,
    nest,
    seq,
    store,
)
from graphopt.codegen.kernel.spaces import Scope, Space
from graphopt.codegen.kernel.verify import verify
from graphopt.errors import CodegenError
from graphopt.ir.types import F32, F64

X, Y = Buffer("x", "f32", (7,)), Buffer("y", "f32", (7,))
W = Var("t", INDEX, 0, 3)
I, J = Var("i", INDEX, 0, 6), Var("i", INDEX, 0, 7)
ONE = const(1, F32)


def kernel(body: Stmt, *more: Buffer) -> Kernel:
    return Kernel("k", (X, Y, *more), body, 1, 1)


def raw(kind: str, d, *args: Expr) -> Expr:
    """A node as nothing builds it."""
    node = Apply.__new__(Apply)
    node.kind, node.dtype, node.args = kind, d, args
    return node


def local(n: int, name: str = "t", space: Space = Space.LOCAL) -> Buffer:
    return Buffer(name, "f32", (n,), space)


T, S, R = local(4), local(4, "s", Space.SHARED), local(4, "r", Space.TILE)
filled = lambda *then: alloc("t", "f32", (4,), lambda t: seq(loop(4, lambda i: store(t, i, ONE)), *(f(t) for f in then)))
over = lambda var, n, body, scope=Scope.SERIAL: For(var, const(n, INDEX), body, scope)
block = lambda body: over(Var("b", INDEX, 0, 1), 2, body, Scope.BLOCK)
threads = lambda body: over(Var("t", INDEX, 0, 3), 4, body, Scope.THREAD)

FAULTS = {
    "is not bound": store(Y, I, ONE),
    "bound within itself": over(I, 7, over(I, 7, store(Y, I, X[I]))),
    "neither a parameter nor allocated": loop(7, lambda i: store(Y, i, Buffer("z", "f32", (7,))[i])),
    "allocated where it is there": Alloc(T, Alloc(T, store(T, 0, ONE))),
    "allocated in global": Alloc(Buffer("g", "f32", (4,)), store(Y, 0, ONE)),
    "store into the input": loop(7, lambda i: store(X, i, ONE)),
    "f64 stored into": Store(Y, (const(0, INDEX),), const(1, F64)),
    "add of f32, f64 is no f32": Store(Y, (const(0, INDEX),), raw("add", F32, ONE, const(1, F64))),
    "sqrt of index": loop(7, lambda i: store(Y, raw("sqrt", INDEX, i), ONE)),
    "a condition of f32": If(ONE, store(Y, 0, ONE)),
    "was not scheduled": store(Y, 0, reduce("sum", [7], lambda k: X[k])),
    "an index of f32": Store(Y, (ONE,), ONE),
    "2 indices": Store(Y, (const(0, INDEX),) * 2, ONE),
    "store at i, which is 0 to 7": over(J, 8, store(Y, J, ONE)),
    "load of 9": store(Y, 0, X[9]),
    "i runs from 0 to 6, and says 0 to 3": over(Var("i", INDEX, 0, 3), 7, store(Y, 0, ONE)),
    "is never in": Let(Var("v", INDEX, 0, 3), const(5, INDEX), store(Y, 0, ONE)),
    "loop of i over f32": For(I, ONE, store(Y, 0, ONE)),
    "lanes": loop(7, lambda i: For(Var("l", INDEX, 0, 6), i, store(Y, i, ONE), Scope.VECTOR)),
    "vectors within vectors": loop(2, lambda i: loop(2, lambda j: store(Y, i + j, ONE), Scope.VECTOR), Scope.VECTOR),
    "read before anything is written": alloc("t", "f32", (4,), lambda t: loop(4, lambda i: seq(
        store(Y, i, t[i]), store(t, i, ONE)))),
    "read before anything is written there: t[3]": alloc("t", "f32", (4,), lambda t: seq(store(t, 2, ONE), store(Y, 0, t[3]))),
    "a shuffle of 2 lanes": filled(lambda t: Shuffle(t, 0, t, 0, 2, (0, 4))),
    "2 lanes from 3": filled(lambda t: Shuffle(t, 0, t, 3, 0, (0, 1))),
    "no prefetch": alloc("t", "f32", (4,), lambda t: Prefetch(t, const(0, INDEX))),
    "shared by a block's threads": Alloc(S, store(S, 0, ONE)),
    "read or written by element": Alloc(R, store(R, 0, ONE)),
    "not in one over blocks": threads(store(Y, 0, ONE)),
    "a loop over blocks within": over(Var("g", INDEX, 0, 1), 2, block(store(Y, 0, ONE)), Scope.GRID),
    "a barrier of the warp": block(Barrier(Scope.WARP)),
    "only some threads": block(over(W, 4, If(W < 2, Barrier()), Scope.THREAD)),
    "only some threads come: lt(v": block(over(W, 4, let("v", W + 1, lambda v: If(v < 2, Barrier())), Scope.THREAD)),
    "which are not known": block(For(W, minimum(X[0].cast("i64").cast(INDEX), 4), Barrier(), Scope.THREAD)),
    "no asynchronous copy": block(Alloc(S, AsyncCopy(Y, const(0, INDEX), X, const(0, INDEX), 4))),
    "a copy of 4 from 4": block(Alloc(S, AsyncCopy(S, const(0, INDEX), X, const(4, INDEX), 4))),
    "waits for less than nothing": Wait(),
}


@pytest.mark.parametrize("what", FAULTS)
def test_faults_are_named_and_where_they_are(what):
    with pytest.raises(CodegenError) as e:
        verify(kernel(FAULTS[what]))
    assert what in str(e.value) and "k" in str(e.value)


GOOD = {
    "guarded": loop(8, lambda i: If(i < 7, store(Y, minimum(i, 6), X[minimum(i, 6)]))),
    "an end that is computed": loop(7, lambda i: For(Var("j", INDEX, 0, 6), i, store(Y, i, ONE))),
    "written by the iteration before": alloc("t", "f32", (4,), lambda t: loop(4, lambda i: seq(
        If(Y[0].eq(ONE), store(Y, i, t[i])), store(t, i, ONE)))),
    "bound by value": let("v", X[0], lambda v: store(Y, 0, v)),
    "shared": block(Alloc(S, seq(threads(store(S, 0, ONE)), threads(store(Y, 0, S[0]))))),
    "barriers": block(Alloc(S, seq(over(W, 4, seq(AsyncCopy(S, W, X, W, 1), Commit(), Wait(), loop(2, lambda k: Barrier()), store(
        Y, W, S[3 - W])), Scope.THREAD), Barrier(), threads(store(Y, 0, ONE))))),
    "twice, one after the other": seq(over(I, 7, store(Y, I, X[I])), over(I, 7, store(Y, I, X[I]))),
}


@pytest.mark.parametrize("what", GOOD)
def test_what_is_well_formed_is_taken(what):
    verify(kernel(GOOD[what]))


def test_accesses_are_proved_where_ranges_say_it_and_else_reported():
    every = verify(kernel(loop(7, lambda i: store(Y, i, X[i]))))
    assert every.proved == 2 and not every.open
    picked = verify(kernel(loop(7, lambda i: store(Y, i, X[X[i].cast("i64").cast(INDEX)]))))
    assert picked.proved == 2 and [type(a).__name__ for a in picked.open] == ["Load"]


def test_what_may_never_run_is_left_to_the_interpreter():
    never = verify(kernel(loop(7, lambda i: If(i < 0, store(Y, i, X[i + 9])))))
    assert len(never.open) == 1


def test_parameters_are_counted_and_global():
    for wrong in (Kernel("k", (X,), seq(), 1, 1), Kernel("k", (X, X), seq(), 1, 1), Kernel("k", (X, T), seq(), 1, 1)):
        with pytest.raises(CodegenError):
            verify(wrong)


def test_scalars_are_ends_and_strides():
    n, s = Var("n", INDEX, 1, 64), Var("s", INDEX, 1, 64)
    a, b = Buffer("a", "f32", (4096,), length=n * 4), Buffer("b", "f32", (4096,), length=n * s)
    i, j = Var("i", INDEX, 0, 63), Var("j", INDEX, 0, 63)
    body = For(i, n, loop(4, lambda k: store(a, i * 4 + k, ONE)))
    every = verify(Kernel("k", (a,), body, 0, 1, scalars=(n,)))
    assert every.proved == 1 and not every.open
    strided = Kernel("k", (b,), For(i, n, For(j, s, store(b, i * s + j, ONE))), 0, 1, scalars=(n, s))
    assert len(verify(strided).open) == 1  # products of two sizes are left to the interpreter
    for wrong in (Kernel("k", (a,), body, 0, 1), Kernel("k", (a,), body, 0, 1, scalars=(n, n)),
                  Kernel("k", (a,), store(a, n * 4, ONE), 0, 1, scalars=(n,))):
        with pytest.raises(CodegenError):
            verify(wrong)


def test_scopes_and_spaces_are_types():
    with pytest.raises(TypeError):
        Buffer("x", "f32", (1,), "local")
    with pytest.raises(TypeError):
        loop(7, lambda i: store(Y, i, ONE), "parallel")
    assert isinstance(nest((2, 3), lambda i, j: store(Y, i + j, ONE), scope=Scope.FEW), For)


def test_a_load_of_another_dtype_than_its_buffer_is_refused():
    wrong = type(X[0]).__new__(type(X[0]))
    wrong.buffer, wrong.index, wrong.dtype = X, (const(0, INDEX),), F64
    with pytest.raises(CodegenError, match="is read from"):
        verify(kernel(store(Y, 0, wrong.cast("f32"))))
    assert load(X, (0,)) is X[0]
