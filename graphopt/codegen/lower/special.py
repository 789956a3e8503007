"""Special functions: the formulas of `graphopt.ir.ops.special` as scalar expressions in f64."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from graphopt.codegen.kernel.expr import (
    INDEX,
    Buffer,
    Expr,
    ExprLike,
    as_expr,
    bitcast,
    call,
    cast,
    const,
    maximum,
    minimum,
    select,
)
from graphopt.codegen.kernel.loops import Stmt, alloc, let, loop, seq
from graphopt.codegen.lower.common import lines, read, write
from graphopt.codegen.lower.registry import OpView, compute, computed, loops
from graphopt.ir.ops.iterated import ITERATIONS
from graphopt.ir.ops.special import FORMULAS
from graphopt.ir.types import F64, I64

SIGN = -(1 << 63)  # of an f64


def _f64(x: ExprLike) -> Expr:
    return as_expr(x, F64)


class Arithmetic:
    """The functions of numpy that formulas use, over f64 expressions."""

    minimum = staticmethod(minimum)
    maximum = staticmethod(maximum)

    def __getattr__(self, name: str) -> Any:
        """exp, log, log1p, sqrt, sin, cos, floor, abs, isnan: kinds of expression of the same name."""
        return lambda x: call(name, x)

    @staticmethod
    def rint(x: Expr) -> Expr:
        return call("round", x)

    @staticmethod
    def equal(a: Expr, b: ExprLike) -> Expr:
        return a.eq(b)

    @staticmethod
    def power(a: Expr, b: ExprLike) -> Expr:
        return call("pow", a, _f64(b))

    @staticmethod
    def where(condition: Expr, a: ExprLike, b: ExprLike) -> Expr:
        return select(condition, _f64(a), _f64(b))

    @staticmethod
    def copysign(size: ExprLike, sign: Expr) -> Expr:
        bits = bitcast(_f64(size), I64) & const(~SIGN, I64)
        return bitcast(bits | (bitcast(sign, I64) & const(SIGN, I64)), F64)


ARITHMETIC = Arithmetic()


def _rule(name: str) -> None:
    formula = FORMULAS[name]

    @compute(name)
    def rule(o: OpView, *i: Expr) -> Expr:
        arguments = [cast(x, F64) for x in o.broadcast(i)]
        return cast(formula(ARITHMETIC, *arguments, **o.attrs), o.dtype)


for _name in FORMULAS:
    _rule(_name)


def _loop_rule(name: str) -> None:
    @loops(name)
    def rule(o: OpView, ins: Sequence[Buffer], outs: Sequence[Buffer]) -> Stmt:
        """One element after the other, its state in local memory."""
        f = ITERATIONS[name](**o.attrs)

        def element(*i: Expr) -> Stmt:
            x = [cast(read(b, *i), F64) for b in ins]
            start = [_f64(s) for s in f.start(ARITHMETIC, *x)]

            def run(state: Buffer) -> Stmt:
                held = [state[k] for k in range(len(start))]

                def step(k: Expr) -> Stmt:
                    new = f.step(ARITHMETIC, cast(k, F64), held, *x)
                    return _all(state, new)

                count = f.count(ARITHMETIC, *x)
                steps = cast(select(call("isnan", count), _f64(0.0), count), INDEX)
                return seq(_all(state, start), loop(steps, step, name="k"),
                           write(outs[0], i, cast(f.finish(ARITHMETIC, held, *x), computed(outs[0].dtype))))

            return alloc("state", F64, (len(start),), run)

        return lines(outs[0].shape, element, 100 * outs[0].size)


def _all(state: Buffer, new: Sequence[Expr]) -> Stmt:
    """All of the state at once: what is new depends on all that is old."""
    def then(k: int, values: tuple[Expr, ...]) -> Stmt:
        if k == len(new):
            return seq(*(write(state, [j], v) for j, v in enumerate(values)))
        return let(f"v{k}", new[k], lambda v: then(k + 1, (*values, v)))

    return then(0, ())


for _name in ITERATIONS:
    _loop_rule(_name)


@compute("gcd")
def gcd(o: OpView, *i: Expr) -> Expr:
    """Euclid's algorithm in as many steps as Fibonacci's numbers, its worst case, allow for in the width."""
    a, b = o.broadcast(i)
    if a.dtype.kind == "int":
        a, b = call("abs", a), call("abs", b)
    zero, one = const(0, a.dtype), const(1, a.dtype)
    for _ in range(math.ceil(a.dtype.bits * 1.4405) + 1):
        by = select(b.eq(zero), one, b)
        a, b = select(b.eq(zero), a, b), select(b.eq(zero), zero, a - call("div", a, by) * by)
    return call("abs", a) if a.dtype.kind == "int" else a  # the least integer has no absolute value, and its remainders a sign
