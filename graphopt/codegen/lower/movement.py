"""Data movement: each result element is a copy of one operand element, or a constant."""

from __future__ import annotations

import numpy as np

from graphopt.codegen.kernel.expr import Expr, cast, clamp, const, maximum, minimum, select
from graphopt.codegen.kernel.index import flat_index, split_index
from graphopt.codegen.lower.common import ZERO, choose, guarded
from graphopt.codegen.lower.registry import OpView, compute
from graphopt.ir.types import I64


@compute("identity", "relayout")
def identity(o: OpView, *i: Expr) -> Expr:
    return o.x(*i)


@compute("reshape")
def reshape(o: OpView, *i: Expr) -> Expr:
    return o.x(*split_index(flat_index(i, o.out), o.types[0].static_shape))


@compute("transpose")
def transpose(o: OpView, *i: Expr) -> Expr:
    return o.x(*(i[o.perm.index(d)] for d in range(len(i))))


@compute("expand")
def expand(o: OpView, *i: Expr) -> Expr:
    return o.broadcast(i)[0]


@compute("slice")
def slice_(o: OpView, *i: Expr) -> Expr:
    at = list(i)
    for axis, start, end, step in zip(o.axes, o.starts, o.ends, o.steps):
        first, _, by = slice(start, end, step).indices(o.types[0].static_shape[axis])
        at[axis] = at[axis] * by + first
    return o.x(*at)


@compute("flip")
def flip(o: OpView, *i: Expr) -> Expr:
    return o.x(*(n - 1 - k if d in o.axes else k for d, (k, n) in enumerate(zip(i, o.out))))


@compute("tile")
def tile(o: OpView, *i: Expr) -> Expr:
    return o.x(*(k % max(n, 1) for k, n in zip(i, o.types[0].static_shape)))


@compute("concat", "join", cuts=lambda op: (op.attrs["axis"], [v.static_shape[op.attrs["axis"]] for v in op.variadic()]))
def concat(o: OpView, *i: Expr) -> Expr:
    """The part that holds position i[axis]; the other parts are read at their border and dropped."""
    axis = o.axis
    out: Expr | None = None
    end = o.out[axis]
    for part, t in reversed(list(zip(o.operands(), o.types))):
        n = t.static_shape[axis]
        if n == 0:
            continue
        begin = end - n
        at = (*i[:axis], clamp(i[axis] - begin, 0, n - 1), *i[axis + 1:])
        out = part(*at) if out is None else select(i[axis] < end, part(*at), out)
        end = begin
    return const(0, o.dtype) if out is None else out


@compute("split")
def split(o: OpView, *i: Expr) -> Expr:
    before = sum(o.sizes[:o.result])
    return o.x(*(k + before if d == o.axis else k for d, k in enumerate(i)))


def _source(position: Expr, n: int, before: int, after: int, mode: str) -> Expr:
    """The element of an axis of `n` that padding by `before` and `after` puts at `position` (counted from the axis's start)."""
    if mode == "edge":
        return clamp(position, 0, n - 1)
    if mode == "wrap":
        return position % n
    if n == 1:
        return ZERO
    last = n - 1
    mirrored = maximum(position, -position) if before <= last and after <= last else position % (2 * last)
    return minimum(mirrored, 2 * last - mirrored)


@compute("pad")
def pad(o: OpView, *i: Expr) -> Expr:
    shape = o.types[0].static_shape
    begins, ends = o.pads[:len(shape)], o.pads[len(shape):]
    skipped = [max(-b, 0) for b in begins]  # negative pads crop first
    kept = [n - s - max(-e, 0) for n, s, e in zip(shape, skipped, ends)]
    before, after = [max(b, 0) for b in begins], [max(e, 0) for e in ends]
    positions = [k - b for k, b in zip(i, before)]

    def element(*at: Expr) -> Expr:
        return o.x(*(p + s for p, s in zip(at, skipped)))

    if o.mode == "constant":
        value = o.accessor("value")
        fill = const(0, o.dtype) if value is None else value(*[ZERO] * len(o.types[1].static_shape))
        return guarded(element, positions, kept, fill) if all(kept) else fill
    return element(*(_source(p, n, b, e, o.mode) for p, n, b, e in zip(positions, kept, before, after)))


def _element(k: Expr, values: tuple[int, ...]) -> Expr:
    return choose(k, [const(v, I64) for v in values], I64)


@compute("iota")
def iota(o: OpView, *i: Expr) -> Expr:
    position, d = i[o.axis], o.dtype
    if d.is_integer and o.out[o.axis] - 1 > np.iinfo(d.numpy).max:  # wraps; within the range, as compilers demand of literals
        low = int(np.iinfo(d.numpy).min)
        position = (position - low) % (1 << d.bits) + low
    return cast(position, d)


@compute("shape")
def shape(o: OpView, i: Expr) -> Expr:
    return _element(i, o.types[0].static_shape)


@compute("dims")
def dims(o: OpView, i: Expr) -> Expr:
    return _element(i, o.values)

