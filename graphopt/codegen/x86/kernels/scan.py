"""Running sums and products along an axis that is not the last, on x86: blocks of lines whose totals stay in registers."""

from __future__ import annotations

import math

from graphopt.codegen.kernel.expr import INDEX, Buffer, Expr, Var, cast, combine, const, identity_of, minimum
from graphopt.codegen.kernel.loops import Alloc, For, Kernel, Stmt, loop, seq, store
from graphopt.codegen.kernel.spaces import Scope, Space
from graphopt.codegen.lower.columns import LEAST_LANES
from graphopt.codegen.lower.kernels import Lowered, Sources
from graphopt.codegen.lower.reduce import SCANS
from graphopt.codegen.lower.registry import computed
from graphopt.codegen.lower.schedule import Style
from graphopt.ir.graph import Op

VECTORS = 8  # of totals that a block of lines keeps: each is an addition behind the one before


def template(op: Op, name: str, style: Style) -> Lowered | None:
    """The kernel of a scan along an axis with elements of its own behind it; None for others, or too few of them."""
    if op.name not in SCANS:
        return None
    x = op.operands[0]
    assert x is not None
    shape, axis = x.static_shape, op.attrs["axis"]
    outer, n, inner = math.prod(shape[:axis]), shape[axis], math.prod(shape[axis + 1:])
    of = computed(x.dtype)
    lanes = style.lanes // (2 if of.bits == 64 else 1)
    if 0 in shape or min(inner, lanes) < LEAST_LANES:
        return None
    while inner < lanes:
        lanes //= 2
    width = lanes * VECTORS
    parallel = style.threads > 1 and 2 * math.prod(shape) >= style.parallel_work
    while width > lanes and (inner < width or (parallel and outer * (inner // width) < style.threads)):
        width //= 2
    sources = Sources(op)
    if x not in sources.buffers:
        return None
    given, result = sources.buffers[x], sources.outputs[0]
    kind = SCANS[op.name]
    blocks = -(-inner // width)

    def block(line: Expr, start: Expr) -> Stmt:
        total = Buffer("total", of, (width,), Space.LOCAL)
        lane = Var("l", INDEX, 0, width - 1)

        def each(s: Stmt) -> Stmt:
            return For(lane, const(width, INDEX), s, Scope.VECTOR)

        def step(k: Expr) -> Stmt:
            place = (line * n + (n - 1 - k if op.attrs["reverse"] else k)) * inner + start + lane
            add = each(store(total, lane, combine(kind, total[lane], cast(given[place], of))))
            put = each(store(result, place, cast(total[lane], result.dtype)))
            return seq(put, add) if op.attrs["exclusive"] else seq(add, put)

        return Alloc(total, seq(each(store(total, lane, identity_of(kind, of))), loop(n, step, name="k")))

    def one(p: Expr) -> Stmt:
        # The last block overlaps its neighbour rather than being narrower: every element is stored with the same value.
        start = p % blocks * width
        return block(p // blocks, start if inner % width == 0 else minimum(start, inner - width))

    body = loop(outer * blocks, one, Scope.PARALLEL if parallel else Scope.SERIAL, "p")
    return Lowered(Kernel(name, (*sources.buffers.values(), result), body, len(sources.buffers), 1), tuple(sources.operands))


__all__ = ["template"]
