"""What statements do: lanes, threads and barriers, asynchronous copies, sizes given at the call; and races, which are found."""

import numpy as np
import pytest

from graphopt.codegen.kernel.expr import INDEX, Buffer, Expr, Var, bitcast, cast, const, minimum, reduce, select
from graphopt.codegen.kernel.loops import (
    Alloc,
    AsyncCopy,
    Barrier,
    Commit,
    For,
    If,
    Kernel,
    Prefetch,
    Shuffle,
    Stmt,
    Wait,
    alloc,
    let,
    loop,
    seq,
    store,
)
from graphopt.codegen.kernel.machine import run_kernel
from graphopt.codegen.kernel.spaces import Scope, Space
from graphopt.codegen.kernel.verify import verify
from graphopt.errors import CodegenError
from graphopt.ir.types import F32

N = 8
X, Y = Buffer("x", "f32", (N,)), Buffer("y", "f32", (N,))
DATA = np.arange(1, N + 1, dtype=np.float32)
ONE = const(1, F32)


def run(body: Stmt, *scalars: int) -> np.ndarray:
    kernel = Kernel("k", (X, Y), body, 1, 1)
    verify(kernel)
    return run_kernel(kernel, [DATA], scalars)[0]


def shared(name: str = "s", n: int = N) -> Buffer:
    return Buffer(name, "f32", (n,), Space.SHARED)


def block(body) -> Stmt:
    return For(Var("b", INDEX, 0, 0), const(1, INDEX), body, Scope.BLOCK)


def threads(body, n: int = N, scope: Scope = Scope.THREAD) -> Stmt:
    t = Var("t", INDEX, 0, n - 1)
    return For(t, const(n, INDEX), body(t), scope)


def test_threads_meet_at_barriers():
    s = shared()
    swap = lambda t: seq(store(s, t, X[t]), Barrier(), store(Y, t, s[N - 1 - t]))
    np.testing.assert_array_equal(run(block(Alloc(s, threads(swap)))), DATA[::-1])
    two = seq(threads(lambda t: store(s, t, X[t])), Barrier(), threads(lambda t: store(Y, t, s[N - 1 - t])))
    np.testing.assert_array_equal(run(block(Alloc(s, two))), DATA[::-1])


def test_a_sum_by_halves_in_shared_memory():
    s = shared()

    def body(t: Expr) -> Stmt:
        def step(k: int) -> Stmt:
            return seq(Barrier(), let("v", s[t] + s[minimum(t + k, N - 1)], lambda v: seq(Barrier(), If(t < k, store(s, t, v)))))

        return seq(store(s, t, X[t]), step(4), step(2), step(1), Barrier(), store(Y, t, s[0]))

    np.testing.assert_array_equal(run(block(Alloc(s, threads(body)))), np.full(N, DATA.sum()))


def test_memory_of_their_own_lives_across_barriers():
    s = shared()
    body = lambda t: alloc("own", "f32", (1,), lambda own: seq(
        store(own, 0, X[t]), loop(3, lambda k: seq(Barrier(), store(own, 0, own[0] + 1.0))), store(Y, t, own[0])))
    np.testing.assert_array_equal(run(block(Alloc(s, threads(body)))), DATA + 3)


def test_warps_have_barriers_of_their_own():
    s = shared()
    lane = lambda w: threads(lambda t: seq(store(s, w * 4 + t, X[w * 4 + t]), Barrier(Scope.WARP),
                                           let("v", s[w * 4 + 3 - t], lambda v: seq(Barrier(), store(Y, w * 4 + t, v)))), 4)
    np.testing.assert_array_equal(run(block(Alloc(s, threads(lane, 2, Scope.WARP)))), DATA.reshape(2, 4)[:, ::-1].reshape(-1))


RACES = {
    "no barrier": lambda s: threads(lambda t: seq(store(s, t, X[t]), store(Y, t, s[N - 1 - t]))),
    "between loops": lambda s: seq(threads(lambda t: store(s, t, X[t])), threads(lambda t: store(Y, t, s[N - 1 - t]))),
    "one place": lambda s: threads(lambda t: store(Y, 0, X[t])),
    "overwritten": lambda s: threads(lambda t: seq(store(s, t, X[t]), Barrier(), store(Y, t, s[N - 1 - t]), store(s, t, ONE))),
    "only a warp's": lambda s: threads(lambda w: threads(lambda t: seq(
        store(s, w * 4 + t, ONE), Barrier(Scope.WARP), store(Y, w * 4 + t, s[N - 1 - w * 4 - t])), 4), 2, Scope.WARP),
    "copied without a barrier": lambda s: threads(lambda t: seq(
        AsyncCopy(s, t, X, t, 1), Commit(), Wait(), store(Y, t, s[N - 1 - t]))),
}


@pytest.mark.parametrize("what", RACES)
def test_races_are_found(what):
    s = shared()
    with pytest.raises(CodegenError, match="a race for"):
        run(block(Alloc(s, RACES[what](s))))


@pytest.mark.parametrize("scope", [Scope.PARALLEL, Scope.GRID])
def test_iterations_that_overlap_may_write_the_same_value_only(scope):
    p = Var("p", INDEX, 0, 2)
    same = For(p, const(3, INDEX), loop(4, lambda k: store(Y, p * 2 + k, X[p * 2 + k])), scope)
    np.testing.assert_array_equal(run(same), DATA)
    for other in (store(Y, 0, p.cast("f32")), store(Y, p, Y[p + 1]), store(Y, p + 1, Y[p])):
        with pytest.raises(CodegenError, match="a race for"):
            run(For(p, const(3, INDEX), other, scope))


def test_copies_arrive_with_their_wait():
    s, y = shared(), Y
    good = lambda t: seq(AsyncCopy(s, t, X, t, 1), Commit(), Wait(), Barrier(), store(y, t, s[N - 1 - t]))
    np.testing.assert_array_equal(run(block(Alloc(s, threads(good)))), DATA[::-1])
    early = lambda t: seq(AsyncCopy(s, t, X, t, 1), Commit(), Wait(1), store(y, t, s[t]), Wait())
    assert np.isnan(run(block(Alloc(s, threads(early))))).all()
    second = lambda t: seq(AsyncCopy(s, t * 2, X, t, 1), Commit(), AsyncCopy(s, t * 2 + 1, X, t, 1), Commit(), Wait(1),
                           store(y, t * 2, s[t * 2]), Wait(), store(y, t * 2 + 1, s[t * 2 + 1]))
    np.testing.assert_array_equal(run(block(Alloc(s, threads(second, 4)))), np.repeat(DATA[:4], 2))


FAULTS = {
    "never waited for": lambda s: threads(lambda t: seq(AsyncCopy(s, t, X, t, 1), Commit(), store(Y, t, ONE))),
    "while one side changed": lambda s: threads(lambda t: seq(AsyncCopy(s, t, X, t, 1), store(s, t, ONE), Commit(), Wait(),
                                                              store(Y, t, ONE))),
    "not all threads come to": lambda s: threads(lambda t: alloc("own", "f32", (1,), lambda own: seq(
        store(own, 0, X[t]), If(own[0] < 4.0, Barrier()), store(Y, t, ONE)))),
    "lanes of a vector store into one element": lambda s: loop(N, lambda l: store(Y, 0, X[l]), Scope.VECTOR),
    "lanes of a vector store into the same": lambda s: loop(N, lambda l: store(Y, minimum(l, 3), X[l]), Scope.VECTOR),
    "leaves": lambda s: loop(N, lambda l: store(Y, l, X[X[l].cast("i64").cast(INDEX)]), Scope.VECTOR),
}


@pytest.mark.parametrize("what", FAULTS)
def test_what_has_no_meaning_is_refused(what):
    s = shared()
    with pytest.raises(CodegenError, match=what):
        run(block(Alloc(s, FAULTS[what](s))))


def test_lanes_go_statement_by_statement():
    body = alloc("t", "f32", (N,), lambda t: seq(loop(N, lambda l: seq(
        store(t, l, X[l]), let("v", t[N - 1 - l], lambda v: store(Y, l, v + v))), Scope.VECTOR)))
    np.testing.assert_array_equal(run(body), DATA[::-1] * 2)


def test_hints_and_shuffles():
    body = alloc("t", "f32", (4,), lambda t: seq(
        loop(4, lambda l: store(t, l, X[l])), Prefetch(X, const(99, INDEX)), Shuffle(t, 0, t, 0, 2, (3, 0)),
        loop(4, lambda l: store(Y, l, t[l])), loop(4, lambda l: store(Y, l + 4, ONE))))
    np.testing.assert_array_equal(run(body), [4, 1, 3, 4, 1, 1, 1, 1])


def test_values_of_every_kind():
    body = loop(N, lambda i: store(Y, i, select(i % 3 < 1, bitcast(cast(X[i], "i32"),
                                                                    "f32"), -X[i])))
    want = np.where(np.arange(N) % 3 < 1, DATA.astype(np.int32).view(np.float32), -DATA)
    np.testing.assert_array_equal(run(body), want)
    np.testing.assert_array_equal(run_kernel(Kernel("k", (X, Y), loop(N, lambda i: store(
        Y, i, reduce("sum", [N], lambda k: X[k] * X[i]))), 1, 1), [DATA])[0], DATA.sum() * DATA)


def test_sizes_are_given_at_the_call():
    n, s = Var("n", INDEX, 1, 8), Var("s", INDEX, 1, 16)
    a, b = Buffer("a", "f32", (128,), length=n * s), Buffer("b", "f32", (8,), length=n)
    i, j = Var("i", INDEX, 0, 7), Var("j", INDEX, 0, 15)
    sums = For(i, n, alloc("t", "f32", (1,), lambda t: seq(
        store(t, 0, const(0, F32)), For(j, s, store(t, 0, t[0] + a[i * s + j])), store(b, i, t[0]))), Scope.PARALLEL)
    kernel = Kernel("k", (a, b), sums, 1, 1, scalars=(n, s))
    verify(kernel)
    for rows, columns in ((1, 1), (3, 5), (8, 16)):
        x = np.arange(rows * columns, dtype=np.float32)
        np.testing.assert_array_equal(run_kernel(kernel, [x], (rows, columns))[0], x.reshape(rows, columns).sum(1))
    for rows, columns in ((9, 5), (3, 0), (3, 6)):  # out of range, and another size than the array's
        with pytest.raises(CodegenError):
            run_kernel(kernel, [np.zeros(15, np.float32)], (rows, columns))
    with pytest.raises(CodegenError, match="2 scalars"):
        run_kernel(kernel, [np.zeros(15, np.float32)])
