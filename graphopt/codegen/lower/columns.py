"""Reductions along an outer axis: softmax, norms and the like over columns, a few vectors of columns at a time.

Loops in the order of the result would compute the sum of a column again for every element of it. Here the axes that no
reduction depends on become the innermost loops, and the last axis is cut into blocks that keep their sums in registers.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from graphopt.codegen.kernel.effort import reduces_in, transcendental, vectorisable, work
from graphopt.codegen.kernel.expr import (
    INDEX,
    Buffer,
    Expr,
    Reduce,
    Var,
    combine,
    const,
    free_vars,
    identity_of,
    linear,
    postorder,
    substitute,
)
from graphopt.codegen.kernel.loops import Alloc, For, If, Stmt, loop, seq, store
from graphopt.codegen.kernel.spaces import Scope, Space

VECTORS = 4  # of sums that a block of columns keeps
LEAST_LANES = 4

Axis = tuple[Var, int]


@dataclass(frozen=True)
class Down:
    """Axes of a result, each a variable and its extent: `along` those that no reduction depends on, `inner` the last one, on
    which all depend, `rest` the others."""

    rest: tuple[Axis, ...]
    along: tuple[Axis, ...]
    inner: Axis


def judged(axes: Sequence[Axis], values: Sequence[Expr]) -> Down | None:
    """The axes in their roles, where loops in the order of `axes` would repeat every reduction of `values`; else None."""
    found = reduces_in(values)
    *outer, inner = axes
    memo: dict[int, frozenset[Var]] = {}
    if not found or not all(inner[0] in free_vars(r, memo) for r in found):
        return None
    needed = frozenset().union(*(free_vars(r, memo) for r in found))
    along = tuple(a for a in outer if a[0] not in needed and a[1] > 1)
    return Down(tuple(a for a in outer if a not in along), along, inner) if along else None


def columns(down: Down, stores: Sequence[tuple[Buffer, Expr]], offset: Expr, lanes: int, threads: int,
            parallel_work: int) -> Stmt | None:
    """Each value stored at `offset` of its buffer for all points of the axes; None where lanes along the last axis do not pay."""
    inner, n = down.inner
    while lanes > LEAST_LANES and n < lanes:
        lanes //= 2
    if lanes < LEAST_LANES or n < lanes or not _in_lanes([v for _, v in stores], inner):
        return None
    outer = math.prod(extent for _, extent in down.rest)
    width = lanes * VECTORS
    while width > lanes and (n < width or outer * (n // width) < threads):
        width //= 2
    count = n // width

    def at(block: Expr, indices: dict[Expr, Expr]) -> Stmt:
        """A block of columns; the last one takes the columns that are left too, the last of them overlapping what is done."""
        own = [(b, substitute(v, indices)) for b, v in stores]
        place = substitute(offset, indices)

        def done(start: Expr, wide: int) -> Stmt:
            return _block(down, own, place, start, wide)

        left = n - count * width
        starts = [count * width + k for k in range(0, left - lanes + 1, lanes)] + ([n - lanes] if left % lanes else [])
        whole = done(block * width, width)
        more = seq(*(done(const(k, INDEX), lanes) for k in starts))
        if not starts:
            return whole
        return seq(whole, more if count == 1 else If(block.eq(count - 1), more))

    total = outer * count
    if threads == 1 or total < 2 or _effort(down, [v for _, v in stores]) < parallel_work:
        return _nested(down.rest, loop(count, lambda c: at(c, {}), name=inner.name))
    p = Var("p", INDEX, 0, total - 1)
    index: Expr = p // count
    indices: dict[Expr, Expr] = {}
    for k, (v, extent) in reversed(list(enumerate(down.rest))):
        indices[v] = index % extent if k else index
        index = index // extent
    return For(p, const(total, INDEX), at(p % count, indices), Scope.PARALLEL)


def _nested(axes: Sequence[Axis], inside: Stmt) -> Stmt:
    for v, extent in reversed(axes):
        inside = For(v, const(extent, INDEX), inside, Scope.SERIAL)
    return inside


def _alone(values: Sequence[Expr]) -> list[tuple[Reduce, Expr]]:
    """Every reduction with its body, reductions within bodies being as good as constants."""
    found = reduces_in(values)
    return [(r, substitute(r.body, {c: const(1, c.dtype) for c in found if c is not r})) for r in found]


def _in_lanes(values: Sequence[Expr], inner: Var) -> bool:
    bodies = [body for _, body in _alone(values)]
    known: dict[Expr, Expr] = {r: const(1, r.dtype) for r in reduces_in(values)}
    if any(node.dtype.bits == 64 and node.dtype is not INDEX for v in values for node in postorder(v)) \
            and any(transcendental(b) for b in bodies):
        return False
    return vectorisable([*bodies, *(substitute(v, known) for v in values)], inner)


def _effort(down: Down, values: Sequence[Expr]) -> int:
    """Scalar operations, each reduction computed once a column."""
    of_column = sum(math.prod(r.extents) * max(1, work(body)) for r, body in _alone(values))
    known: dict[Expr, Expr] = {r: const(1, r.dtype) for r in reduces_in(values)}
    each = sum(max(1, work(substitute(v, known))) for v in values)
    return math.prod(e for _, e in (*down.rest, down.inner)) * (of_column + each * math.prod(e for _, e in down.along))


def _block(down: Down, stores: Sequence[tuple[Buffer, Expr]], offset: Expr, start: Expr, width: int) -> Stmt:
    """`width` columns from `start` on: reductions, innermost first, then the results."""
    lane = Var("l", INDEX, 0, width - 1)
    moved: dict[Expr, Expr] = {down.inner[0]: start + lane}
    values, place = [substitute(v, moved) for _, v in stores], substitute(offset, moved)
    parts: list[Stmt] = []
    sums: list[Buffer] = []

    def lanes(s: Stmt) -> Stmt:
        return For(lane, const(width, INDEX), s, Scope.VECTOR)

    while found := reduces_in(values):
        r = found[0]  # operands come first, so no reduction is in its body
        acc = Buffer(f"acc{len(sums)}", r.dtype, (width,), Space.LOCAL)
        sums.append(acc)
        values = [substitute(v, {r: acc[lane]}) for v in values]
        parts.append(lanes(store(acc, lane, identity_of(r.kind, r.dtype))))
        step = lanes(store(acc, lane, combine(r.kind, acc[lane], r.body)))
        if len(stores) == 1 and len(down.along) == len(r.vars) == 1 and r.dtype is stores[0][0].dtype \
                and r.extents[0] == down.along[0][1] and transcendental(r.body) and lane in linear(place)[0]:
            # What is summed up is wanted once more: the result's memory holds it until then.
            element = substitute(r.body, {r.vars[0]: down.along[0][0]})
            if any(node is element for v in values for node in postorder(v)):
                buffer = stores[0][0]
                held = substitute(place, {down.along[0][0]: r.vars[0]})
                step = lanes(seq(store(buffer, held, r.body), store(acc, lane, combine(r.kind, acc[lane], buffer[held]))))
                values = [substitute(v, {element: buffer[place]}) for v in values]
        parts.append(_nested(tuple(zip(r.vars, r.extents)), step))
    results = lanes(seq(*(store(b, place, v.cast(b.dtype)) for (b, _), v in zip(stores, values))))
    parts.append(_nested(down.along, results))
    body = seq(*parts)
    for acc in reversed(sums):
        body = Alloc(acc, body)
    return body


__all__ = ["Down", "columns", "judged"]
