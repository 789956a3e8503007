"""Copies whose innermost axis changes, as from NCHW to NHWC: squares of elements are transposed in registers.

Both sides are read and written in whole vectors. Axes that follow each other in memory count as one on the side where they
are contiguous (H and W of row-major images), so that narrow images fill the lanes too. The last square of a row overlaps its
neighbour; squares go in tiles of a few lines of cache each way, so that both sides see runs longer than a line.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

from graphopt.codegen.kernel.expr import INDEX, Expr, Var, const, minimum
from graphopt.codegen.kernel.index import split_index
from graphopt.codegen.kernel.loops import For, Kernel, Stmt, let, nest, seq, store
from graphopt.codegen.kernel.spaces import Scope
from graphopt.codegen.lower.kernels import Lowered, Sources, inlined, position
from graphopt.codegen.lower.schedule import Style
from graphopt.codegen.x86.kernels.square import transposed
from graphopt.ir.graph import Op
from graphopt.ir.types import TensorType

TILE = 4  # squares of a tile each way
NARROWEST = 4  # lanes of a square


def template(op: Op, name: str, style: Style) -> Lowered | None:
    """The kernel of a `relayout` or `transpose`; None where rows stay rows, or are too short."""
    if op.name not in ("relayout", "transpose"):
        return None
    x, y = op.operands[0], op.result
    if x is None or inlined(x) or y.dtype.bits not in (32, 64) or not isinstance(x.type, TensorType) or 0 in y.static_shape:
        return None
    copy = _Copy(x.type, y.type, op.attrs.get("perm"), style.lanes * 32 // y.dtype.bits)  # type: ignore[arg-type]
    if not copy.changes:
        return None
    sources = Sources(op)
    (source,), (target,) = sources.buffers.values(), sources.outputs
    w = copy.lanes
    effort = math.prod(y.static_shape)

    def square(outer: Sequence[Expr], a: Expr, b: Expr) -> Stmt:
        """One of w by w, at `a` of the axes contiguous in the source and `b` of those contiguous in the target."""
        begin = copy.place(copy.source, copy.outer, outer, copy.source_base)
        end = copy.place(copy.target, copy.outer, outer, copy.target_base)
        row = lambda r: copy.run(copy.source, copy.after, b, r)
        column = lambda c: copy.run(copy.target, copy.before, a, c)
        return let("s", begin + a, lambda s: let("t", end + b, lambda t: transposed(
            w, y.dtype, lambda r, l: source[s + row(r) + l], lambda c, l, v: store(target, t + column(c) + l, v))))

    (rows, high), (columns, wide) = (copy.tiles(n) for n in copy.sizes)
    shape = [copy.shape[d] for d in copy.outer]
    units = math.prod(shape) * rows * columns

    def unit(u: Expr) -> Stmt:
        *outer, i, j = split_index(u, (*shape, rows, columns))
        at = lambda tile, size, k, n: minimum((tile * size + k) * w, n - w)
        return nest((wide, high), lambda b, a: square(outer, at(i, high, a, copy.sizes[0]), at(j, wide, b, copy.sizes[1])))

    parallel = style.threads > 1 and units > 1 and effort >= style.parallel_work
    p = Var("p", INDEX, 0, units - 1)
    body = seq(*sources.borders(style), For(p, const(units, INDEX), unit(p), Scope.PARALLEL if parallel else Scope.SERIAL))
    return Lowered(Kernel(name, (source, target), body, 1, 1), tuple(sources.operands))


class _Copy:
    """What is read and written where, in axes of the result. `before`: axes contiguous in the source, `after`: those contiguous
    in the target, `outer`: the others, each outermost first; axes of size 1 are in none of them."""

    def __init__(self, x: TensorType, y: TensorType, perm: Sequence[int] | None, lanes: int) -> None:
        self.shape = y.static_shape
        rank = len(self.shape)
        read = strides(x)
        self.source = [read[a] for a in (perm if perm is not None else range(rank))]
        self.target = strides(y)
        self.source_base, self.target_base = (position([0] * rank, t) for t in (x, y))
        axes = sorted((d for d in range(rank) if self.shape[d] > 1), key=lambda d: -self.target[d])
        first, last = ([d for d in axes if s[d] == 1] for s in (self.source, self.target))
        self.changes = bool(first and last and first != last)
        if not self.changes:
            return
        self.before = self.contiguous(self.source, self.target, first[0], set(last), lanes)
        self.after = self.contiguous(self.target, self.source, last[0], set(self.before), lanes)
        self.outer = [d for d in axes if d not in (*self.before, *self.after)]
        self.sizes = tuple(math.prod(self.shape[d] for d in run) for run in (self.before, self.after))
        self.lanes = lanes
        while self.lanes > min(self.sizes):
            self.lanes //= 2
        self.changes = self.lanes >= NARROWEST

    def contiguous(self, here: Sequence[int], there: Sequence[int], axis: int, without: set[int], lanes: int) -> list[int]:
        """The axes that `axis` and those outside of it are one row of, where that is one on the other side too or is needed to
        fill the lanes."""
        run = [axis]
        while True:
            joint = [d for d in range(len(self.shape)) if self.shape[d] > 1 and d not in without and d not in run
                     and self.follows(here, d, run[0])]
            if not joint or (math.prod(self.shape[d] for d in run) >= lanes and not self.follows(there, joint[0], run[0])):
                return run
            run.insert(0, joint[0])

    def follows(self, side: Sequence[int], outer: int, inner: int) -> bool:
        return side[outer] == side[inner] * self.shape[inner]

    def place(self, side: Sequence[int], axes: Sequence[int], index: Sequence[Expr], base: Expr) -> Expr:
        return sum((i * side[d] for d, i in zip(axes, index)), base)

    def run(self, side: Sequence[int], axes: Sequence[int], start: Expr, k: int) -> Expr:
        """Where element `start + k` of axes that are contiguous on the other side lies on this one."""
        if all(self.follows(side, a, b) for a, b in pairwise(axes)):
            return start * side[axes[-1]] + k * side[axes[-1]]
        return self.place(side, axes, split_index(start + k, [self.shape[d] for d in axes]), const(0, INDEX))

    def tiles(self, size: int) -> tuple[int, int]:
        """How many tiles cover an axis, and of how many squares each."""
        squares = -(-size // self.lanes)
        count = -(-squares // TILE)
        return count, -(-squares // count)


def strides(t: TensorType) -> list[int]:
    """Elements between neighbours along each logical axis."""
    found, step = [0] * t.rank, 1
    for axis, size in zip(reversed(t.storage_axes), reversed(t.storage)):
        found[axis] = step
        step *= size
    return found


__all__ = ["template"]
