"""Reductions as reduce expressions, so that they fuse; running sums as loops."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from graphopt.codegen.kernel.expr import Buffer, Expr, call, cast, combine, const, identity_of, maximum, minimum, reduce, select
from graphopt.codegen.kernel.loops import If, Stmt, alloc, let, loop, seq
from graphopt.codegen.lower.common import ZERO, is_nan, lines, read, write
from graphopt.codegen.lower.registry import OpView, compute, computed, loops
from graphopt.ir.types import F64, I32, I64, U64


def over_axes(o: OpView, kind: str, index: Sequence[Expr], element: Callable[[Expr], Expr] = lambda e: e) -> Expr:
    """`kind` over o.axes of operand x, at result index `index`."""
    shape, axes = o.shape("x"), o.axes
    own = list(index)
    if not o.keepdims:
        for a in sorted(axes):
            own.insert(a, ZERO)

    def body(*r: Expr) -> Expr:
        at = list(own)
        for a, v in zip(axes, r):
            at[a] = v
        return element(o.x(*at))

    return reduce(kind, [shape[a] for a in axes], body)


def _count(o: OpView) -> int:
    out = 1
    for a in o.axes:
        out *= o.shape("x")[a]
    return out


# What each combines its elements by.
FOLDS = {"reduce_sum": "sum", "reduce_prod": "prod", "reduce_max": "max", "reduce_min": "min", "reduce_any": "any",
         "reduce_all": "all"}
MEANS = {"reduce_mean": "sum"}  # and divides by their number


@compute(*FOLDS)
def reduction(o: OpView, *i: Expr) -> Expr:
    return over_axes(o, FOLDS[o.op.name], i)


@compute(*MEANS)
def mean(o: OpView, *i: Expr) -> Expr:
    """Integers are summed in 64 bits and divided toward zero."""
    d = o.dtype
    if d.is_float:
        count = _count(o)
        return over_axes(o, MEANS[o.op.name], i) / const(count, d) if count else const(np.nan, d)
    wide = U64 if d.kind == "uint" else I64
    total = over_axes(o, MEANS[o.op.name], i, lambda e: cast(e, wide))
    return cast(total / const(max(_count(o), 1), wide), d)


@compute("argmax", "argmin")
def arg_extreme(o: OpView, *i: Expr) -> Expr:
    """The first (or last) position that holds the extreme; a NaN is more extreme than anything, as numpy has it."""
    n = o.shape("x")[o.axis]
    kind = "max" if o.op.name == "argmax" else "min"

    def at(k: Expr) -> Expr:
        return o.x(*i[:o.axis], k, *i[o.axis + o.keepdims:])

    extreme = reduce(kind, [n], at)
    position = I32 if n < 2**31 else I64

    def candidate(k: Expr) -> Expr:
        x = at(k)
        here = x.eq(extreme)
        if x.dtype.is_float:
            here = here | is_nan(x)
        return select(here, cast(k, position), const(-1 if o.select_last else n, position))

    # A lone NaN among candidates is the only candidate: nothing equals a NaN extreme.
    return cast(reduce("max" if o.select_last else "min", [n], candidate), I64)


SCANS = {"cumsum": "sum", "cumprod": "prod"}  # what each combines with what went before


@loops(*SCANS)
def running(o: OpView, ins: Sequence[Buffer], outs: Sequence[Buffer]) -> Stmt:
    """One pass along the axis for every line, in the order of the sum; lines are independent."""
    (x,), (y,) = ins, outs
    shape, axis = x.shape, o.axis
    kind = SCANS[o.op.name]
    d = computed(x.dtype)
    n = shape[axis]

    def line(*other: Expr) -> Stmt:
        def at(k: Expr) -> tuple[Expr, ...]:
            k = n - 1 - k if o.reverse else k
            return (*other[:axis], k, *other[axis:])

        def body(total: Buffer) -> Stmt:
            def step(k: Expr) -> Stmt:
                add = write(total, [0], combine(kind, total[0], read(x, *at(k))))
                put = write(y, at(k), total[0])
                return seq(put, add) if o.exclusive else seq(add, put)

            return seq(write(total, [0], identity_of(kind, d)), loop(n, step, name="k"))

        return alloc("total", d, (1,), body)

    return lines([*shape[:axis], *shape[axis + 1:]], line, 2 * x.size)


@loops("cummax", "cummin")
def running_extreme(o: OpView, ins: Sequence[Buffer], outs: Sequence[Buffer]) -> Stmt:
    """One pass along the axis for every line, the best so far and its place in locals."""
    (x,), (values, indices) = ins, outs
    shape, axis = x.shape, o.axis
    d = computed(x.dtype)
    largest = o.op.name == "cummax"

    def line(*other: Expr) -> Stmt:
        def body(best: Buffer, place: Buffer) -> Stmt:
            def step(k: Expr) -> Stmt:
                at = (*other[:axis], k, *other[axis:])

                def then(v: Expr) -> Stmt:
                    ahead = (best[0] <= v) if largest else (v <= best[0])
                    ahead = ahead | k.eq(0)
                    if d.is_float:  # nothing but NaN is ahead of NaN
                        ahead = ahead | is_nan(v)
                    take = If(ahead, seq(write(best, [0], v), write(place, [0], cast(k, I64))))
                    return seq(take, write(values, at, best[0]), write(indices, at, place[0]))

                return let("v", read(x, *at), then)

            return seq(write(best, [0], const(0, d)), write(place, [0], const(0, I64)), loop(shape[axis], step, name="k"))

        return alloc("best", d, (1,), lambda best: alloc("place", I64, (1,), lambda place: body(best, place)))

    return lines([*shape[:axis], *shape[axis + 1:]], line, 4 * x.size)


@loops("cumlogsumexp")
def running_logsumexp(o: OpView, ins: Sequence[Buffer], outs: Sequence[Buffer]) -> Stmt:
    """One pass along the axis for every line, in f64: log(e^a + e^b) = a + log1p(e^(b - a)) for a the greater."""
    (x,), (y,) = ins, outs
    shape, axis = x.shape, o.axis

    def line(*other: Expr) -> Stmt:
        def body(total: Buffer) -> Stmt:
            def step(k: Expr) -> Stmt:
                at = (*other[:axis], k, *other[axis:])

                def then(v: Expr, high: Expr) -> Stmt:
                    sum = high + call("log1p", call("exp", minimum(total[0], v) - high))
                    put = write(total, [0], select(call("abs", high) < np.inf, sum, high))
                    return seq(put, write(y, at, cast(total[0], computed(y.dtype))))

                return let("v", cast(read(x, *at), F64), lambda v: let("high", maximum(total[0], v), lambda high: then(v, high)))

            return seq(write(total, [0], const(-np.inf, F64)), loop(shape[axis], step, name="k"))

        return alloc("total", F64, (1,), body)

    return lines([*shape[:axis], *shape[axis + 1:]], line, 20 * x.size)
