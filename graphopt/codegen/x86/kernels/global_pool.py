"""Reductions that leave the last axis in memory (the global pooling of images that lie channels last), on x86.

Totals of some vectors of the last axis stay in registers while rows pass, of several rows at a time where the axis is short.
Where it pays, each thread takes images of its own, or, of few images, a part of the rows, and the totals are combined then.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

from graphopt.codegen.kernel.expr import INDEX, Buffer, Expr, Var, cast, combine, const, identity_of, minimum
from graphopt.codegen.kernel.index import flat_index, split_index
from graphopt.codegen.kernel.loops import Alloc, For, Kernel, Stmt, loop, nest, seq, store
from graphopt.codegen.kernel.spaces import Scope, Space
from graphopt.codegen.lower.columns import LEAST_LANES
from graphopt.codegen.lower.kernels import Lowered, Match, Sources, position
from graphopt.codegen.lower.reduce import FOLDS, MEANS
from graphopt.codegen.lower.registry import computed
from graphopt.codegen.lower.schedule import Style
from graphopt.codegen.x86.costs import Costs, costs_of
from graphopt.codegen.x86.kernels.shares import Shares, shares
from graphopt.codegen.x86.kernels.tile import apart
from graphopt.ir.graph import Op
from graphopt.ir.types import DType, TensorType
from graphopt.targets.x86 import X86

KINDS = {**FOLDS, **MEANS}
VECTORS = 12  # of totals in registers, as many as one row has; of several rows where that is less than multiply-adds want


@dataclass(frozen=True)
class Problem:
    """The reduction `op` of x, computed `of` a dtype: axes `before`, which stay, then `inner`, which go, then one of `last`
    elements that stays, as they lie in memory; axes of one element apart."""

    op: Op
    kind: str
    of: DType
    shape: tuple[int, ...]
    before: tuple[int, ...]
    inner: tuple[int, ...]
    last_axis: int
    lanes: int

    @property
    def images(self) -> list[int]:
        return [self.shape[a] for a in self.before]

    @property
    def last(self) -> int:
        return self.shape[self.last_axis]

    @property
    def count(self) -> int:
        """Elements that go into a result."""
        return math.prod(self.shape[a] for a in self.inner)

    def where(self, of_before: Sequence[Expr], of_inner: Sequence[Expr], channel: Expr) -> list[Expr]:
        """The index of an element of x."""
        place: list[Expr] = [const(0, INDEX)] * len(self.shape)
        for a, i in (*zip(self.before, of_before), *zip(self.inner, of_inner), (self.last_axis, channel)):
            place[a] = i
        return place


def problem_of(op: Op, style: Style) -> Problem | None:
    """None for what is no reduction of floats over all axes between the first and the last, or too few elements in the last."""
    if op.name not in KINDS:
        return None
    x = op.operands[0]
    assert x is not None and isinstance(x.type, TensorType)
    shape, axes = x.static_shape, {a % len(x.static_shape) for a in op.attrs["axes"]}
    used = [a for a in x.type.storage_axes if shape[a] != 1]
    inner = [a for a in used if a in axes]
    if 0 in shape or not x.dtype.is_float or not inner or used[-1] in axes or used[-1 - len(inner):-1] != inner:
        return None
    of, last = computed(x.dtype), shape[used[-1]]
    lanes = style.lanes // (2 if of.bits == 64 else 1)
    if min(last, lanes) < LEAST_LANES:
        return None
    while last < lanes:
        lanes //= 2
    before = tuple(a for a in used if a not in axes and a != used[-1])
    return Problem(op, KINDS[op.name], of, tuple(shape), before, tuple(inner), used[-1], lanes)


@dataclass(frozen=True)
class Choice:
    """`blocks` of `vectors` vectors of the last axis; so many `rows` at a time have totals of their own. `split`: the threads
    take rows, else images."""

    vectors: int
    blocks: int
    rows: int
    split: bool


def choose(p: Problem, threads: int, costs: Costs) -> Choice:
    """As many vectors as registers hold totals of, in blocks of one size; of few, several rows."""
    vectors = min(VECTORS, p.last // p.lanes)
    blocks = -(-p.last // (vectors * p.lanes))
    vectors = min(vectors, -(-p.last // (blocks * p.lanes)))  # of the same number of blocks, the narrowest
    rows = max(1, min(costs.sums // vectors, p.shape[p.inner[-1]]))
    return Choice(vectors, blocks, rows, math.prod(p.images) < threads)


def template(machine: X86) -> Match:
    """Such reductions on that machine."""
    costs = costs_of(machine)

    def match(op: Op, name: str, style: Style) -> Lowered | None:
        problem = problem_of(op, style)
        if problem is None:
            return None
        sources = Sources(op)
        if op.operands[0] not in sources.buffers:
            return None
        return GlobalPool(problem, choose(problem, style.threads, costs), sources, style, costs).build(name)

    return match


class GlobalPool:
    """The kernel for one choice."""

    def __init__(self, problem: Problem, choice: Choice, sources: Sources, style: Style, costs: Costs) -> None:
        self.problem, self.choice, self.sources = problem, choice, sources
        x, result = problem.op.operands[0], problem.op.result.type
        assert x is not None and isinstance(x.type, TensorType) and isinstance(result, TensorType)
        self.x_type, self.result_type = x.type, result
        self.given, self.result = sources.buffers[x], sources.outputs[0]
        self.width = choice.vectors * problem.lanes
        outer, rows = math.prod(problem.images), problem.shape[problem.inner[0]]
        self.own: Shares = shares(rows if choice.split else outer, outer * problem.count * problem.last, style)
        self.several = choice.split and self.own.workers > 1  # workers whose totals are combined
        self.room = apart(outer * problem.last, problem.of, costs)
        self.totals = Buffer("totals", problem.of, (self.own.workers * self.room,))

    def build(self, name: str) -> Lowered:
        p, blocks, own = self.problem, self.choice.blocks, self.own
        over = [*p.images, blocks]
        if self.several:
            body = seq(own.spread(nest(over, lambda *i: self.block(i[:-1], i[-1]))), nest(over, self.together))
        elif self.choice.split:
            body = nest(over, lambda *i: self.block(i[:-1], i[-1]))
        else:
            body = own.spread(own.each(lambda u, _: loop(blocks, lambda b: self.block(split_index(u, p.images), b), name="b")))
        scratch = (self.totals,) if self.several else ()
        params = (*self.sources.buffers.values(), self.result, *scratch)
        kernel = Kernel(name, params, body, len(self.sources.buffers), 1)
        return Lowered(kernel, tuple(self.sources.operands), {}, scratch)

    def start(self, block: Expr) -> Expr:
        """A block's first element. The last one overlaps its neighbour rather than being narrower: every total is stored with the
        same value."""
        last, width = self.problem.last, self.width
        return minimum(block * width, last - width) if last % width else block * width

    def each(self, make: Callable[[Expr], Stmt]) -> Stmt:
        """For all elements of a block, vector by vector: LLVM keeps longer ones of odd sizes in memory."""
        lanes, parts = self.problem.lanes, []
        for v in range(self.choice.vectors):
            lane = Var("l", INDEX, 0, lanes - 1)
            parts.append(For(lane, const(lanes, INDEX), make(v * lanes + lane), Scope.VECTOR))
        return seq(*parts)

    def finished(self, of_before: Sequence[Expr], channel: Expr, total: Expr) -> Stmt:
        """Store a result."""
        p = self.problem
        index = p.where(of_before, [], channel)
        if not p.op.attrs["keepdims"]:
            axes = {a % len(p.shape) for a in p.op.attrs["axes"]}
            index = [i for a, i in enumerate(index) if a not in axes]
        value = total / const(p.count, p.of) if p.op.name in MEANS else total
        return store(self.result, position(index, self.result_type), cast(value, self.result.dtype))

    def block(self, of_before: Sequence[Expr], b: Expr) -> Stmt:
        """This worker's totals of a block."""
        p, width, rows = self.problem, self.width, self.choice.rows
        start, acc = self.start(b), Buffer("acc", p.of, (rows * width,), Space.LOCAL)

        def add(at: Sequence[Expr], into: int) -> Stmt:
            def one(i: Expr) -> Stmt:
                element = cast(self.given[position(p.where(of_before, at, start + i), self.x_type)], p.of)
                return store(acc, into * width + i, combine(p.kind, acc[into * width + i], element))

            return self.each(one)

        def end(i: Expr) -> Stmt:
            if not self.several:
                return self.finished(of_before, start + i, acc[i])
            here = self.own.worker * self.room + flat_index(of_before, p.images) * p.last + start + i
            return store(self.totals, here, acc[i])

        put = lambda k, i: store(acc, k * width + i, identity_of(p.kind, p.of))
        join = lambda k, i: store(acc, i, combine(p.kind, acc[i], acc[k * width + i]))
        init = [self.each(partial(put, k)) for k in range(rows)]
        fold = [self.each(partial(join, k)) for k in range(1, rows)]
        return Alloc(acc, seq(*init, self.sums(add), *fold, self.each(end)))

    def sums(self, add: Callable[[Sequence[Expr], int], Stmt]) -> Stmt:
        """All rows, or a worker's; `add(row, totals that it goes to)`."""
        p, rows = self.problem, self.choice.rows
        *outer, n = (p.shape[a] for a in p.inner)

        def line(*at: Expr) -> Stmt:
            """The rows of the innermost of the axes that go."""
            main = loop(n // rows, lambda r: seq(*(add([*at, r * rows + k], k) for k in range(rows))), name="r")
            return seq(main, *(add([*at, const(k, INDEX)], 0) for k in range(n // rows * rows, n)))

        if not self.several:
            return nest(outer, line)
        if not outer:
            return self.own.each(lambda h, _: add([h], 0))
        return self.own.each(lambda h, _: nest(outer[1:], lambda *m: line(h, *m)))

    def together(self, *i: Expr) -> Stmt:
        """A block's totals from those of all workers."""
        p, start = self.problem, self.start(i[-1])

        def one(k: Expr) -> Stmt:
            here = flat_index(i[:-1], p.images) * p.last + start + k
            total: Expr = self.totals[here]
            for w in range(1, self.own.workers):
                total = combine(p.kind, total, self.totals[w * self.room + here])
            return self.finished(i[:-1], start + k, total)

        return self.each(one)


__all__ = ["template"]
