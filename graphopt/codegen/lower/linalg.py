"""Linear algebra: one matrix after the other, in f64 scratch memory."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from graphopt.codegen.kernel.expr import INDEX, Buffer, Expr, call, cast, clamp, const, fma, select
from graphopt.codegen.kernel.loops import If, Seq, Stmt, alloc, let, loop, nest, seq
from graphopt.codegen.lower.common import read, write
from graphopt.codegen.lower.registry import OpView, computed, loops
from graphopt.ir.types import F64, I32

NOTHING = Seq(())


def _square(o: OpView) -> list[tuple[str, tuple[int, ...]]]:
    n = o.types[0].static_shape[-1]
    return [("f64", (n, n))]


def _beside(o: OpView) -> list[tuple[str, tuple[int, ...]]]:
    n, k = o.types[1].static_shape[-2:]
    return [("f64", (n, n + k))]


def _put(y: Buffer, index: Sequence[Expr], value: Expr) -> Stmt:
    """A value in f64 into the result's dtype."""
    return write(y, index, cast(value, computed(y.dtype)))


def eliminate(a: Buffer, n: int, k: Expr, largest: Buffer, row: Buffer, swapped: Stmt = NOTHING,
              pivot: Callable[[Expr], Stmt] = lambda p: NOTHING) -> Stmt:
    """Column k of n: find the largest element, bring its row up (and do `swapped`), do pivot(element), subtract from the rows
    below, which may have more than n columns."""
    columns = a.shape[1]

    def look(t: Expr) -> Stmt:
        p = k + 1 + t
        size = call("abs", a[p, k])
        return If(size > largest[0], seq(write(largest, [0], size), write(row, [0], cast(p, I32))))

    def exchange(found: Expr) -> Stmt:
        def swap(q: Expr) -> Stmt:
            return let("upper", a[k, q], lambda u: seq(write(a, [k, q], a[found, q]), write(a, [found, q], u)))

        return If(found.ne(k), seq(loop(columns, swap, name="q"), swapped))

    def subtract(t: Expr) -> Stmt:
        p = k + 1 + t
        return let("factor", a[p, k] / a[k, k],
                   lambda f: loop(columns, lambda q: write(a, [p, q], fma(-f, a[k, q], a[p, q])), name="q"))

    rest = n - 1 - k
    return seq(write(largest, [0], call("abs", a[k, k])), write(row, [0], cast(k, I32)), loop(rest, look, name="t"),
               let("pivot_row", clamp(cast(row[0], INDEX), 0, n - 1), exchange), pivot(a[k, k]),
               If(a[k, k].ne(0), loop(rest, subtract, name="t")))


def _with(then: Callable[[Buffer, Buffer], Stmt]) -> Stmt:
    return alloc("largest", F64, (1,), lambda largest: alloc("row", I32, (1,), lambda row: then(largest, row)))


@loops("det", scratch=_square)
def det(o: OpView, ins: Sequence[Buffer], outs: Sequence[Buffer], scratch: Sequence[Buffer]) -> Stmt:
    """The product of the pivots of Gaussian elimination with partial pivoting."""
    (x,), (y,), (a,) = ins, outs, scratch
    n = x.shape[-1]

    def matrix(*i: Expr) -> Stmt:
        def run(total: Buffer) -> Stmt:
            column = lambda largest, row: loop(n, lambda k: eliminate(
                a, n, k, largest, row, write(total, [0], -total[0]), lambda p: write(total, [0], total[0] * p)), name="k")
            return seq(nest((n, n), lambda p, q: write(a, [p, q], cast(read(x, *i, p, q), F64)), ("p", "q")),
                       write(total, [0], const(1, F64)), _with(column), _put(y, i, total[0]))

        return alloc("total", F64, (1,), run)

    return nest(x.shape[:-2], matrix)


@loops("slogdet", scratch=_square)
def slogdet(o: OpView, ins: Sequence[Buffer], outs: Sequence[Buffer], scratch: Sequence[Buffer]) -> Stmt:
    """The product of the pivots' signs, and the sum of the logarithms of their magnitudes."""
    (x,), (sign, log), (a,) = ins, outs, scratch
    n = x.shape[-1]

    def matrix(*i: Expr) -> Stmt:
        def pivot(state: Buffer, p: Expr) -> Stmt:
            of = select(p > 0, const(1, F64), select(p < 0, const(-1, F64), p))
            return seq(write(state, [0], state[0] * of), write(state, [1], state[1] + call("log", call("abs", p))))

        def run(state: Buffer) -> Stmt:
            column = lambda largest, row: loop(n, lambda k: eliminate(
                a, n, k, largest, row, write(state, [0], -state[0]), lambda p: pivot(state, p)), name="k")
            return seq(nest((n, n), lambda p, q: write(a, [p, q], cast(read(x, *i, p, q), F64)), ("p", "q")),
                       write(state, [0], const(1, F64)), write(state, [1], const(0, F64)), _with(column),
                       _put(sign, i, state[0]), _put(log, i, state[1]))

        return alloc("state", F64, (2,), run)

    return nest(x.shape[:-2], matrix)


@loops("solve", scratch=_beside)
def solve(o: OpView, ins: Sequence[Buffer], outs: Sequence[Buffer], scratch: Sequence[Buffer]) -> Stmt:
    """Elimination on a and b side by side, and what is unknown from the last row up."""
    (a, b), (x, info), (work,) = ins, outs, scratch
    n, k = b.shape[-2:]

    def matrix(*i: Expr) -> Stmt:
        def back(t: Expr) -> Stmt:
            p = n - 1 - t
            known = lambda c: loop(t, lambda j: write(work, [p, n + c], fma(
                -work[p, p + 1 + j], work[p + 1 + j, n + c], work[p, n + c])), name="j")
            return loop(k, lambda c: seq(known(c), write(work, [p, n + c], work[p, n + c] / work[p, p])), name="c")

        def run(bad: Buffer) -> Stmt:
            column = lambda largest, row: loop(n, lambda step: eliminate(
                work, n, step, largest, row, pivot=lambda p: If(
                    p.eq(0) & bad[0].eq(0), write(bad, [0], cast(step + 1, I32)))), name="k")
            return seq(nest((n, n), lambda p, q: write(work, [p, q], cast(read(a, *i, p, q), F64)), ("p", "q")),
                       nest((n, k), lambda p, q: write(work, [p, n + q], cast(read(b, *i, p, q), F64)), ("p", "q")),
                       write(bad, [0], const(0, I32)), _with(column), loop(n, back, name="t"),
                       nest((n, k), lambda p, q: _put(x, (*i, p, q), work[p, n + q]), ("p", "q")), write(info, i, bad[0]))

        return alloc("bad", I32, (1,), run)

    return nest(b.shape[:-2], matrix)


@loops("cholesky", scratch=_square)
def cholesky(o: OpView, ins: Sequence[Buffer], outs: Sequence[Buffer], scratch: Sequence[Buffer]) -> Stmt:
    """Column by column."""
    (x,), (y, info), (a,) = ins, outs, scratch
    n = x.shape[-1]

    def matrix(*i: Expr) -> Stmt:
        def reduced(p: Expr, k: Expr) -> Stmt:
            """a[p, k] less the products of what is known of rows p and k."""
            return loop(k, lambda j: write(a, [p, k], fma(-a[p, j], a[k, j], a[p, k])), name="j")

        def column(k: Expr, bad: Buffer) -> Stmt:
            holds = a[k, k] > 0
            root = select(holds & bad[0].eq(0), call("sqrt", select(holds, a[k, k], const(1, F64))), const(np.nan, F64))
            below = lambda t: seq(reduced(k + 1 + t, k), write(a, [k + 1 + t, k], a[k + 1 + t, k] / a[k, k]))
            return seq(reduced(k, k), If(~holds & bad[0].eq(0), write(bad, [0], cast(k + 1, I32))), write(a, [k, k], root),
                       loop(n - 1 - k, below, name="t"))

        def result(p: Expr, q: Expr, bad: Buffer) -> Stmt:
            lost = bad[0].ne(0) & (cast(bad[0], INDEX) - 1 <= p)
            return _put(y, (*i, p, q), select(p < q, const(0, F64), select(lost, const(np.nan, F64), a[p, q])))

        def run(bad: Buffer) -> Stmt:
            return seq(nest((n, n), lambda p, q: write(a, [p, q], cast(read(x, *i, p, q), F64)), ("p", "q")),
                       write(bad, [0], const(0, I32)), loop(n, lambda k: column(k, bad), name="k"),
                       nest((n, n), lambda p, q: result(p, q, bad), ("p", "q")), write(info, i, bad[0]))

        return alloc("bad", I32, (1,), run)

    return nest(x.shape[:-2], matrix)


@loops("triangular_solve", scratch=lambda o: [("f64", o.types[1].static_shape[-2:])])
def triangular_solve(o: OpView, ins: Sequence[Buffer], outs: Sequence[Buffer], scratch: Sequence[Buffer]) -> Stmt:
    """Row by row from the one with one unknown."""
    (a, b), (y,), (x,) = ins, outs, scratch
    n, k = b.shape[-2:]

    def matrix(*i: Expr) -> Stmt:
        def step(t: Expr) -> Stmt:
            p = n - 1 - t if o.upper else t
            at = lambda j: p + 1 + j if o.upper else j

            def unknown(c: Expr) -> Stmt:
                known = loop(t, lambda j: write(x, [p, c], fma(
                    -cast(read(a, *i, p, at(j)), F64), x[at(j), c], x[p, c])), name="j")
                return seq(known, NOTHING if o.unit else write(x, [p, c], x[p, c] / cast(read(a, *i, p, p), F64)))

            return loop(k, unknown, name="c")

        return seq(nest((n, k), lambda p, q: write(x, [p, q], cast(read(b, *i, p, q), F64)), ("p", "q")), loop(n, step, name="t"),
                   nest((n, k), lambda p, q: _put(y, (*i, p, q), x[p, q]), ("p", "q")))

    return nest(b.shape[:-2], matrix)
