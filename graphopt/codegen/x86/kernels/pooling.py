"""Pools of row-major images on x86: the rows under a window are brought into one first, then that row's elements.

A row of the result needs some rows of the image: their maxima or sums go to a buffer on the stack, a vector at a time and
between what stands for the padding. Along that buffer a window is a few vectors beside each other, every second element of
them where the stride is 2. Images that lie channels last are pooled by the general rule, a vector of channels at a time.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence

from graphopt.codegen.kernel.expr import INDEX, Buffer, Expr, Var, combine, const, identity_of, minimum
from graphopt.codegen.kernel.index import split_index
from graphopt.codegen.kernel.loops import Alloc, For, If, Kernel, Shuffle, Stmt, loop, seq, store
from graphopt.codegen.kernel.spaces import Scope, Space
from graphopt.codegen.lower.columns import LEAST_LANES
from graphopt.codegen.lower.common import all_of, inside
from graphopt.codegen.lower.kernels import Lowered, Sources
from graphopt.codegen.lower.pool import WINDOWS, shares
from graphopt.codegen.lower.registry import OpView
from graphopt.codegen.lower.schedule import Style
from graphopt.ir.graph import Op
from graphopt.ir.types import F32, TensorType

WIDEST = 1 << 13  # elements of a row that a buffer on the stack holds


def covers(op: Op) -> bool:
    """A pool of f32 images in rows of at least a short vector, by a stride of 1 or 2 along them."""
    x = op.operands[0] if op.name in WINDOWS else None
    if x is None or x.dtype is not F32 or 0 in (*x.static_shape, *op.result.static_shape):
        return False
    return op.attrs["stride"][-1] in (1, 2) and min(op.result.static_shape[-1], x.static_shape[-1]) >= LEAST_LANES \
        and x.static_shape[-1] + sum(op.attrs["pad"]) <= WIDEST


def template(op: Op, name: str, style: Style) -> Lowered | None:
    """The kernel of a pool; None where it is none, or its image or its result lies channels last."""
    if not covers(op) or style.lanes < LEAST_LANES or style.bind:
        return None
    if any(v is None or not isinstance(v.type, TensorType) or v.type.layout is not None for v in (op.operands[0], op.result)):
        return None
    return _Pool(op, name, style).build()


class _Pool:
    def __init__(self, op: Op, name: str, style: Style) -> None:
        self.op, self.name, self.style = op, name, style
        self.sources = Sources(op)
        a, rank = op.attrs, len(op.attrs["kernel"])
        self.kind, self.kernel, self.stride, self.dilation = WINDOWS[op.name], a["kernel"], a["stride"], a["dilation"]
        self.before = a["pad"][:rank]
        shape = op.operands[0].static_shape  # type: ignore[union-attr]
        self.lead, self.sizes, self.outs = math.prod(shape[:-rank]), shape[-rank:], op.result.static_shape[-rank:]
        self.width, self.out = self.sizes[-1], self.outs[-1]
        # What the row's windows span, from the padding before it on, and how much of the image's row is in that.
        self.span = (self.out - 1) * self.stride[-1] + (self.kernel[-1] - 1) * self.dilation[-1] + 1
        self.used = max(0, min(self.width, self.span - self.before[-1]))

    def build(self) -> Lowered | None:
        x = self.op.operands[0]
        if x not in self.sources.buffers or self.used < LEAST_LANES:
            return None
        self.x, self.y = self.sources.buffers[x], self.sources.outputs[0]
        lines = self.lead * math.prod(self.outs[:-1])
        work = lines * self.out * math.prod(self.kernel)
        parallel = self.style.threads > 1 and work >= self.style.parallel_work
        body = loop(lines, self.line, Scope.PARALLEL if parallel else Scope.SERIAL, "line")
        return Lowered(Kernel(self.name, (*self.sources.buffers.values(), self.y), body, len(self.sources.buffers), 1),
                       tuple(self.sources.operands))

    def lanes(self, n: int) -> int:
        lanes = self.style.lanes
        while lanes > n:
            lanes //= 2
        return lanes

    def vectors(self, n: int, block: Callable[[Expr, int], Stmt]) -> Stmt:
        """`block(start, lanes)` for vectors that cover n elements; the last one overlaps its neighbour."""
        lanes = self.lanes(n)
        count = -(-n // lanes)
        at = lambda b: b * lanes if n % lanes == 0 else minimum(b * lanes, n - lanes)
        return loop(count, lambda b: block(at(b), lanes), name="b")

    def line(self, line: Expr) -> Stmt:
        """One row of the result."""
        lead, *at = split_index(line, (self.lead, *self.outs[:-1]))
        # Beyond the span a vector of every second element reads one more, whatever it is.
        row = Buffer("row", F32, (max(self.span, self.before[-1] + self.used) + self.style.lanes,), Space.LOCAL)
        none = identity_of(self.kind, F32)
        first, end = self.before[-1], self.before[-1] + self.used
        edges = seq(loop(first, lambda j: store(row, j, none), name="j"),
                    loop(max(0, self.span - end), lambda j: store(row, j + end, none), name="j"))
        return Alloc(row, seq(edges, self.rows(lead, at, row), self.windows(line, at, row)))

    def rows(self, lead: Expr, at: Sequence[Expr], row: Buffer) -> Stmt:
        """The rows under the windows, combined into `row`."""
        taps = list(itertools.product(*(range(k) for k in self.kernel[:-1])))
        places = [[p * s - b + q * d for p, s, b, q, d in zip(at, self.stride, self.before, tap, self.dilation)] for tap in taps]
        hits = [all_of([inside(p, n) for p, n in zip(place, self.sizes)]) for place in places]

        def element(place: Sequence[Expr], column: Expr) -> Expr:
            line = lead
            for p, n in zip(place, self.sizes):
                line = line * n + p
            return self.x[line * self.width + column]

        def together(start: Expr, lanes: int) -> Stmt:
            def value(column: Expr) -> Expr:
                total = element(places[0], column)
                for place in places[1:]:
                    total = combine(self.kind, total, element(place, column))
                return total

            return self.vector(lanes, lambda l: store(row, start + l + self.before[-1], value(start + l)))

        whole = self.vectors(self.used, together)
        certain = all_of(hits)
        if getattr(certain, "value", None) is True:
            return whole

        def one(place: Sequence[Expr]) -> Stmt:
            def add(start: Expr, lanes: int) -> Stmt:
                held = lambda l: start + l + self.before[-1]
                return self.vector(lanes, lambda l: store(
                    row, held(l), combine(self.kind, row[held(l)], element(place, start + l))))

            # The last vector must not overlap: a sum would count elements twice.
            n, lanes = self.used, self.lanes(self.used)
            return seq(loop(n // lanes, lambda b: add(b * lanes, lanes), name="b"),
                       loop(n % lanes, lambda j: add(j + n // lanes * lanes, 1), name="j"))

        none = identity_of(self.kind, F32)
        clear = loop(self.used, lambda j: store(row, j + self.before[-1], none), name="j")
        return If(certain, whole, seq(clear, *(If(hit, one(place)) for hit, place in zip(hits, places))))

    def windows(self, line: Expr, at: Sequence[Expr], row: Buffer) -> Stmt:
        """The result's elements, from the combined row."""
        stride, reach = self.stride[-1], self.dilation[-1]

        def block(start: Expr, lanes: int) -> Stmt:
            acc, tap, pair = (Buffer(n, F32, (m * lanes,), Space.LOCAL) for n, m in (("acc", 1), ("tap", 1), ("pair", 2)))
            parts: list[Stmt] = []
            loaded: int | None = None  # the place in the row, from start * stride on, that `pair` holds
            for q in range(self.kernel[-1]):
                place = q * reach
                if stride == 2 and (loaded is None or place - loaded != 1):
                    parts += [self.vector(lanes, lambda l, k=k, place=place: store(  # type: ignore[misc]
                        pair, l + k * lanes, row[start * 2 + l + (place + k * lanes)])) for k in range(2)]
                    loaded = place
                if stride == 2:
                    assert loaded is not None
                    parts.append(Shuffle(tap, 0, pair, 0, lanes, tuple(2 * k + place - loaded for k in range(lanes))))
                element = lambda l, place=place: tap[l] if stride == 2 else row[start + l + place]  # type: ignore[misc]
                parts.append(self.vector(lanes, lambda l, q=q, x=element: store(  # type: ignore[misc]
                    acc, l, combine(self.kind, acc[l], x(l)) if q else x(l))))

            def result(l: Expr) -> Expr:
                if self.kind == "max":
                    return acc[l]
                return acc[l] / shares(OpView(self.op, []), [*at, start + l], self.sizes)

            parts.append(self.vector(lanes, lambda l: store(self.y, line * self.out + start + l, result(l))))
            return Alloc(acc, Alloc(pair, Alloc(tap, seq(*parts))))

        return self.vectors(self.out, block)

    def vector(self, lanes: int, body: Callable[[Expr], Stmt]) -> Stmt:
        if lanes == 1:
            return body(const(0, INDEX))
        lane = Var("l", INDEX, 0, lanes - 1)
        return For(lane, const(lanes, INDEX), body(lane), Scope.VECTOR)


__all__ = ["covers", "template"]
