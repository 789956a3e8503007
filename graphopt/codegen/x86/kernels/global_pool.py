"""Reductions that leave the last axis in memory (the global pooling of images that lie channels last), on x86.

Totals of some vectors of the last axis stay in registers while rows pass, of several rows at a time where the axis is short.
Where it pays, each thread takes images of its own, or, of few images, a part of the rows, and the totals are combined then.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial

from graphopt.codegen.kernel.expr import INDEX, Buffer, Expr, Var, cast, combine, const, identity_of, minimum
from graphopt.codegen.kernel.index import flat_index, split_index
from graphopt.codegen.kernel.loops import Alloc, For, Kernel, Stmt, loop, nest, seq, store
from graphopt.codegen.kernel.spaces import Scope, Space
from graphopt.codegen.lower.columns import LEAST_LANES
from graphopt.codegen.lower.kernels import Lowered, Sources, position
from graphopt.codegen.lower.reduce import FOLDS, MEANS
from graphopt.codegen.lower.registry import computed
from graphopt.codegen.lower.schedule import Style
from graphopt.codegen.x86.kernels.shares import shares
from graphopt.codegen.x86.kernels.tile import SUMS, apart
from graphopt.ir.graph import Op
from graphopt.ir.types import TensorType

KINDS = {**FOLDS, **MEANS}
VECTORS = 12  # of totals in registers, as many as one row has; of several rows where that is less than SUMS


def template(op: Op, name: str, style: Style) -> Lowered | None:
    """The kernel of a reduction of floats over all axes of x, as it lies in memory, between those that come first and the last;
    None for others, or too few elements in the last."""
    if op.name not in KINDS:
        return None
    x, kind = op.operands[0], KINDS[op.name]
    assert x is not None and isinstance(x.type, TensorType) and isinstance(op.result.type, TensorType)
    t, shape, axes = x.type, x.static_shape, {a % len(x.static_shape) for a in op.attrs["axes"]}
    used = [a for a in t.storage_axes if shape[a] != 1]
    inner = [a for a in used if a in axes]
    if 0 in shape or not x.dtype.is_float or not inner or used[-1] in axes or used[-1 - len(inner):-1] != inner:
        return None
    of, last, count = computed(x.dtype), shape[used[-1]], math.prod(shape[a] for a in inner)
    lanes = style.lanes // (2 if of.bits == 64 else 1)
    if min(last, lanes) < LEAST_LANES:
        return None
    while last < lanes:
        lanes //= 2
    sources = Sources(op)
    if x not in sources.buffers:
        return None
    given, result = sources.buffers[x], sources.outputs[0]
    before = [a for a in used if a not in axes and a != used[-1]]
    images = [shape[a] for a in before]
    outer = math.prod(images)

    vectors = min(VECTORS, last // lanes)
    blocks = -(-last // (vectors * lanes))
    vectors = min(vectors, -(-last // (blocks * lanes)))  # of the same number of blocks, the narrowest
    width = vectors * lanes
    rows = max(1, min(SUMS // vectors, shape[inner[-1]]))
    split = outer < style.threads  # rows over the threads, else images
    own = shares(shape[inner[0]] if split else outer, outer * count * last, style)
    several = split and own.workers > 1
    room = apart(outer * last, of)
    totals = Buffer("totals", of, (own.workers * room,))

    def start_of(block: Expr) -> Expr:
        # The last block overlaps its neighbour rather than being narrower: every total is stored with the same value.
        return minimum(block * width, last - width) if last % width else block * width

    def each(make: Callable[[Expr], Stmt]) -> Stmt:
        """For all elements of a block, vector by vector: LLVM keeps longer ones of odd sizes in memory."""
        parts = []
        for v in range(vectors):
            lane = Var("l", INDEX, 0, lanes - 1)
            parts.append(For(lane, const(lanes, INDEX), make(v * lanes + lane), Scope.VECTOR))
        return seq(*parts)

    def where(of_before: Sequence[Expr], of_inner: Sequence[Expr], channel: Expr) -> list[Expr]:
        place: list[Expr] = [const(0, INDEX)] * len(shape)
        for a, i in (*zip(before, of_before), *zip(inner, of_inner), (used[-1], channel)):
            place[a] = i
        return place

    def finished(of_before: Sequence[Expr], channel: Expr, total: Expr) -> Stmt:
        assert isinstance(op.result.type, TensorType)
        index = where(of_before, [], channel)
        if not op.attrs["keepdims"]:
            index = [i for a, i in enumerate(index) if a not in axes]
        value = total / const(count, of) if op.name in MEANS else total
        return store(result, position(index, op.result.type), cast(value, result.dtype))

    def block(of_before: Sequence[Expr], b: Expr) -> Stmt:
        """This worker's totals of a block."""
        start = start_of(b)
        acc = Buffer("acc", of, (rows * width,), Space.LOCAL)

        def add(at: Sequence[Expr], into: int) -> Stmt:
            def one(i: Expr) -> Stmt:
                element = cast(given[position(where(of_before, at, start + i), t)], of)
                return store(acc, into * width + i, combine(kind, acc[into * width + i], element))

            return each(one)

        def line(*at: Expr) -> Stmt:
            """The rows of the innermost of the axes that go."""
            whole = shape[inner[-1]] // rows
            main = loop(whole, lambda r: seq(*(add([*at, r * rows + k], k) for k in range(rows))), name="r")
            return seq(main, *(add([*at, const(k, INDEX)], 0) for k in range(whole * rows, shape[inner[-1]])))

        def end(i: Expr) -> Stmt:
            if not several:
                return finished(of_before, start + i, acc[i])
            return store(totals, own.worker * room + flat_index(of_before, images) * last + start + i, acc[i])

        init = [each(partial(lambda k, i: store(acc, k * width + i, identity_of(kind, of)), k)) for k in range(rows)]
        if not several:
            sums = nest([shape[a] for a in inner[:-1]], line)
        elif len(inner) == 1:
            sums = own.each(lambda h, _: add([h], 0))
        else:
            sums = own.each(lambda h, _: nest([shape[a] for a in inner[1:-1]], lambda *m: line(h, *m)))
        fold = [each(partial(lambda k, i: store(acc, i, combine(kind, acc[i], acc[k * width + i])), k)) for k in range(1, rows)]
        return Alloc(acc, seq(*init, sums, *fold, each(end)))

    def together(*i: Expr) -> Stmt:
        """A block's totals from those of all workers."""
        start = start_of(i[-1])

        def one(k: Expr) -> Stmt:
            here = flat_index(i[:-1], images) * last + start + k
            total: Expr = totals[here]
            for w in range(1, own.workers):
                total = combine(kind, total, totals[w * room + here])
            return finished(i[:-1], start + k, total)

        return each(one)

    if several:
        body = seq(own.spread(nest([*images, blocks], lambda *i: block(i[:-1], i[-1]))), nest([*images, blocks], together))
    elif split:
        body = nest([*images, blocks], lambda *i: block(i[:-1], i[-1]))
    else:
        body = own.spread(own.each(lambda u, _: loop(blocks, lambda b: block(split_index(u, images), b), name="b")))
    scratch = [totals] if several else []
    kernel = Kernel(name, (*sources.buffers.values(), result, *scratch), body, len(sources.buffers), 1)
    return Lowered(kernel, tuple(sources.operands), {}, tuple(scratch))


__all__ = ["template"]
