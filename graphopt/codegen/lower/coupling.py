"""Class probabilities from those of pairs: each row iterates until it is done."""

from __future__ import annotations

from collections.abc import Sequence

from graphopt.codegen.kernel.expr import Buffer, Expr, call, const, select
from graphopt.codegen.kernel.loops import If, Stmt, alloc, let, loop, nest, seq
from graphopt.codegen.lower.common import lines, write
from graphopt.codegen.lower.registry import OpView, loops
from graphopt.ir.ops.coupling import ROUNDS


@loops("couple_pairs")
def couple_pairs(o: OpView, ins: Sequence[Buffer], outs: Sequence[Buffer]) -> Stmt:
    (r,), (p,) = ins, outs
    rows, k, _ = r.shape
    d = p.dtype
    zero = const(0, d)

    def row(n: Expr) -> Stmt:
        def with_memory(q: Buffer, qp: Buffer, state: Buffer) -> Stmt:
            total, worst, going = 0, 1, 2  # places in `state`

            def corner(t: Expr) -> Stmt:
                def add(j: Expr) -> Stmt:
                    return write(q, [t, t], q[t, t] + select(t.eq(j), zero, r[n, j, t] * r[n, j, t]))

                return seq(write(q, [t, t], zero), loop(k, add, name="j"))

            def side(t: Expr, j: Expr) -> Stmt:
                return If(t.ne(j), write(q, [t, j], -(r[n, j, t] * r[n, t, j])))

            def gradient(t: Expr) -> Stmt:
                return seq(write(qp, [t], zero), loop(k, lambda j: write(qp, [t], qp[t] + q[t, j] * p[n, j]), name="j"),
                           write(state, [total], state[total] + p[n, t] * qp[t]))

            def error(t: Expr) -> Stmt:
                away = call("abs", qp[t] - state[total])
                return write(state, [worst], select(away < state[worst], state[worst], away))

            def descend(t: Expr) -> Stmt:
                def by(diff: Expr) -> Stmt:
                    more = 1 + diff
                    grown = (state[total] + diff * (diff * q[t, t] + 2 * qp[t])) / more / more
                    return seq(write(p, [n, t], p[n, t] + diff), write(state, [total], grown),
                               loop(k, lambda j: seq(write(qp, [j], (qp[j] + diff * q[t, j]) / more),
                                                     write(p, [n, j], p[n, j] / more)), name="j"))

                return let("diff", (state[total] - qp[t]) / q[t, t], by)

            def again(_: Expr) -> Stmt:
                return If(state[going] > 0, seq(
                    write(state, [total], zero), write(state, [worst], zero),
                    loop(k, gradient, name="t"), loop(k, error, name="t"),
                    If(state[worst] < 0.005 / k, write(state, [going], zero), loop(k, descend, name="t"))))

            return seq(loop(k, corner, name="t"), nest((k, k), side, ("t", "j")),
                       loop(k, lambda t: write(p, [n, t], const(1 / k, d)), name="t"),
                       write(state, [going], const(1, d)), loop(ROUNDS, again, name="round"))

        return alloc("q", d, (k, k), lambda q: alloc("qp", d, (k,), lambda qp: alloc(
            "state", d, (3,), lambda state: with_memory(q, qp, state))))

    return lines((rows,), row, rows * k * k * 40) if k else nest(p.shape, lambda *i: write(p, i, zero))


__all__ = ["couple_pairs"]
