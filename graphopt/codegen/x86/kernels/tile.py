"""The register block of x86 contractions, and what matmul and convolution share around it.

C[m, n] = sum over k of A[m, k] * B[k, n]. A tile of MR rows by NV vectors of accumulators stays in
registers over the whole k loop; A comes as broadcast scalars, B as vectors along n (GotoBLAS's inner kernel:
Goto and van de Geijn, ACM TOMS 34(3), 2008). Where M or N is no multiple of the tile, the last tile
overlaps its neighbour and stores the same values again; nothing is padded at run time. The epilogue is the
fused op's body, applied to the tile before it is stored.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from graphopt.codegen.kernel import math as vector_math
from graphopt.codegen.kernel.expr import (
    INDEX,
    Buffer,
    Const,
    Expr,
    ExprLike,
    Var,
    as_expr,
    cast,
    clamp,
    const,
    minimum,
)
from graphopt.codegen.kernel.index import flat_index, split_index
from graphopt.codegen.kernel.loops import Alloc, For, If, Kernel, Stmt, Store, dot, loop, nest, seq, store
from graphopt.codegen.kernel.spaces import Scope, Space
from graphopt.codegen.lower.kernels import Lowered, Packing, Sources, position
from graphopt.codegen.lower.registry import Inliner
from graphopt.codegen.lower.schedule import Style, work
from graphopt.codegen.x86.costs import Costs, costs_of
from graphopt.codegen.x86.isa import Row, multiply_add
from graphopt.codegen.x86.kernels.amx import tile_block
from graphopt.codegen.x86.kernels.shares import shares
from graphopt.errors import CodegenError
from graphopt.ir.fused import ends, held, kind, outsides, reads
from graphopt.ir.graph import Op, Value
from graphopt.ir.types import DType, TensorType
from graphopt.targets.x86 import X86

HEAVY = 6  # scalar operations of an epilogue above which it is not unrolled with the block


@dataclass(frozen=True)
class Tile:
    """Rows and vectors of the register block; `lanes` elements a vector."""

    rows: int
    vectors: int
    lanes: int

    @property
    def columns(self) -> int:
        return self.vectors * self.lanes

    @property
    def family(self) -> object:
        """What makes tiles differ much."""
        return self.vectors


def result_tiles(m: int, n: int, lanes: int, machine: X86) -> Iterator[tuple[float, Tile]]:
    """Tiles for an m by n result, of those that fit the registers with operands to spare, and the cycles that each takes."""
    registers, costs = machine.registers, costs_of(machine)
    for vectors in range(1, 8 if registers == 32 else 4):
        for rows in range(1, 15):
            # accumulators, the B vectors of one k, and one broadcast
            if rows * vectors + vectors + 1 > registers and rows * vectors > 1:
                continue
            tile = Tile(min(rows, m), vectors, lanes)
            tiles = math.ceil(m / tile.rows) * math.ceil(n / tile.columns)
            loads = tile.rows + vectors
            # multiply-adds bound the tile from below, and so do loads
            yield tiles * (max(tile.rows * vectors, loads / costs.loads, costs.latency) + costs.tile_load * loads), tile


def steps(tile: Tile, costs: Costs) -> tuple[int, int]:
    """Steps of k in an iteration of a tile, and the sets of accumulators that they go to in turns.

    A tile of one row does nothing but read the right operand, as fast as it comes. What fetches ahead from L2 (Zen 5) follows
    loads that advance by less than 2 KiB an iteration: at 32 vectors of 64 bytes half of the bandwidth is left, at 24 all
    of it. Such a body is also too long for LLVM to unroll it further.
    """
    if tile.rows > 1 or tile.vectors > costs.stream // 2:
        return 1, 1
    return costs.stream // tile.vectors, -(-costs.sums // tile.vectors)


@dataclass(frozen=True)
class Pending:
    """Sums over blocks of k: between the `first` and the `last` block a tile waits in `sums` from `base` on."""

    sums: Buffer
    base: Expr
    first: Expr
    last: Expr


class Blocked:
    """What matmul and convolution share: operands, accumulator dtype, epilogue, the tile itself."""

    def __init__(self, op: Op, inner: Op, sources: Sources, name: str, style: Style, machine: X86) -> None:
        self.op, self.inner, self.sources, self.name, self.style = op, inner, sources, name, style
        self.machine, self.costs, self.registers = machine, costs_of(machine), machine.registers
        self.dtype: DType = inner.definition.sum_dtype(inner.view())
        self.lanes = max(1, style.lanes // (2 if self.dtype.bits == 64 else 1))
        self.packings: dict[int, Packing] = {}
        self.scratch: list[Buffer] = []
        self.outer = outsides(op)

    def outside(self, v: Value) -> Value:
        """The value outside of the fused op that an operand of the contraction is."""
        return self.outer.get(v, v)

    def buffer(self, v: Value) -> Buffer:
        return self.sources.buffers[self.outside(v)]

    def element(self, v: Value, offset: Expr) -> Expr:
        """Element `offset` of a value, in the accumulator's dtype."""
        outer = self.outside(v)
        if outer in self.sources.buffers:
            return cast(self.sources.buffers[outer][offset], self.dtype)
        return cast(self.sources.access(outer)(), self.dtype)

    def pack(self, v: Value, packing: Packing, d: DType) -> Buffer:
        """Have a constant operand packed; its buffer afterwards."""
        outer = self.outside(v)
        position = self.sources.operands.index(outer)
        self.packings[position] = packing
        old = self.sources.buffers[outer]
        self.sources.buffers[outer] = Buffer(old.name, d, (packing.size // d.itemsize,))
        return self.sources.buffers[outer]

    def packable(self, v: Value) -> bool:
        """A constant that nothing but the contraction reads."""
        outer = self.outside(v)
        return outer.constant is not None and outer in self.sources.buffers and self.op.operands.count(outer) == 1 \
            and reads(self.op, v) == 1

    def finish(self, body: Stmt) -> Lowered:
        params = (*self.sources.buffers.values(), *self.sources.outputs, *self.scratch)
        kernel = Kernel(self.name, params, body, len(self.sources.buffers), len(self.sources.outputs))
        return Lowered(kernel, tuple(self.sources.operands), self.packings, tuple(self.scratch))

    def epilogue(self, index: Sequence[Expr], value: Expr) -> list[tuple[Buffer, Expr, Expr]]:
        """What to store where for result element `index` of the contraction: (buffer, offset, value)."""
        if kind(self.op) is None:
            t = self.op.result.type
            assert isinstance(t, TensorType)
            return [(self.sources.outputs[0], position(index, t), value.cast(t.dtype))]
        inside = self.inner.result
        value = cast(cast(value, inside.dtype), self.dtype)  # rounded as the op on its own would be
        accessors: dict[Value, object] = {inside: lambda *i: value}
        for v, outer in self.outer.items():
            accessors[v] = self.sources.access(outer)
        inliner = Inliner(accessors)  # type: ignore[arg-type]
        where = {inside: list(index)}  # of what the element becomes, its index there
        for op in held(self.op):
            source = next((v for v in op.operands if v is not None and v in where), None)
            if source is None:
                continue
            place = where[op.result] = _moved(op, where[source])
            if place is not where[source]:
                moved = inliner.at(source, where[source])
                accessors[op.result] = lambda *i, x=moved: x
        stores = []
        for b, v, r in zip(self.sources.outputs, ends(self.op), self.op.results):
            assert isinstance(r.type, TensorType)
            stores.append((b, position(where[v], r.type), inliner.at(v, where[v]).cast(b.dtype)))
        return stores

    def operand(self, v: Value) -> Callable[..., Expr]:
        """Elements of an operand of the contraction by logical index, with what is fused into it, in the accumulator's dtype."""
        access = Inliner({w: self.sources.access(outer) for w, outer in self.outer.items()})
        return lambda *index: cast(access.at(v, index), self.dtype)

    def tile(self, tile: Tile, depth: ExprLike, a: Callable[[int, Expr], Expr], b: Callable[[int, Expr, Expr], Expr],
             write: Callable[[ExprLike, ExprLike, Expr, Expr], list[Stmt]],
             start: Callable[[int, int, Expr], Expr] | None = None, partial: int | None = None,
             hint: Callable[[Sequence[Expr]], Stmt] | None = None, pending: Pending | None = None) -> Stmt:
        """The register block. `a(row, k)` is a scalar, `b(vector, k, lane)` a lane; `write(row, vector, lane, value)`
        stores one; `start` gives what to add to (default zero). `partial`: valid lanes of a single vector. `hint`: what
        to prefetch at each k. `pending`: where `depth` is a part of the sum only."""
        return self.stored(tile, (depth,), lambda i, k: a(i, k[0]), lambda v, k, l: b(v, k[0], l), start, write, partial,
                           hint, pending)

    def is_long(self, lanes: int, write: Callable[[Expr, Expr], Sequence[Stmt]]) -> bool:
        """Is an epilogue, what `write(lane, value)` does with an element, too long to be unrolled with its block?"""
        sample = write(Var("l", INDEX, 0, lanes - 1), Var("x", self.dtype))
        return sum(work(vector_math.expand(s.value)) for s in sample if isinstance(s, Store)) > HEAVY

    def stored(self, tile: Tile, depths: Sequence[ExprLike], a: Callable[[int, Sequence[Expr]], Expr],
               b: Callable[[int, Sequence[Expr], Expr], Expr], start: Callable[[int, int, Expr], Expr] | None,
               write: Callable[[ExprLike, ExprLike, Expr, Expr], list[Stmt]], partial: int | None = None,
               hint: Callable[[Sequence[Expr]], Stmt] | None = None, pending: Pending | None = None) -> Stmt:
        """`block`, its results stored by `write(row, vector, lane, value)`, `partial` lanes of a single vector."""
        count = tile.lanes if partial is None else partial
        if tile.rows * tile.vectors == 1 or not self.is_long(tile.lanes, lambda lane, value: write(0, 0, lane, value)):
            return self.block(tile, depths, a, b, start, write, count, hint=hint, pending=pending)

        # A long epilogue is written once, as a loop; the block goes through memory, since registers have no index.
        def drain(block: Buffer) -> Stmt:
            def one(i: Expr, v: Expr) -> Stmt:
                lane = Var("l", INDEX, 0, count - 1)
                scope = Scope.VECTOR if count == tile.lanes else Scope.SERIAL
                value = block[(i * tile.vectors + v) * tile.lanes + lane]
                return seq(*(For(lane, const(count, INDEX), s, scope) for s in write(i, v, lane, value)))

            return nest((tile.rows, tile.vectors), one, ("i", "v"), Scope.FEW)

        return self.block(tile, depths, a, b, start, drain=drain, hint=hint, pending=pending)

    def block(self, tile: Tile, depths: Sequence[ExprLike], a: Callable[[int, Sequence[Expr]], Expr],
              b: Callable[[int, Sequence[Expr], Expr], Expr], start: Callable[[int, int, Expr], Expr] | None = None,
              write: Callable[[int, int, Expr, Expr], list[Stmt]] | None = None, count: int = 0,
              drain: Callable[[Buffer], Stmt] | None = None, hint: Callable[[Sequence[Expr]], Stmt] | None = None,
              pending: Pending | None = None) -> Stmt:
        """`register_block` in the accumulators' dtype."""
        row = multiply_add(self.machine, self.dtype, tile.lanes)
        turns = steps(tile, self.costs) if len(depths) == 1 and isinstance(depths[0], int) and hint is None else (1, 1)
        return register_block(row, tile, depths, a, b, start, write, count, drain, hint, pending, turns)

    def effort(self, multiply_adds: int) -> int:
        """So many multiply-adds, in what `spread` is told."""
        return self.costs.effort(multiply_adds, self.dtype)

    def spread(self, units: int, effort: int, body: Callable[[Expr, Expr], Stmt]) -> Stmt:
        """`body(worker, unit)` for all units, shared out over the threads where there is enough to do."""
        own = shares(units, effort, self.style)
        return own.spread(own.each(lambda unit, _: body(own.worker, unit)))


def register_block(row: Row, tile: Tile, depths: Sequence[ExprLike], a: Callable[[int, Sequence[Expr]], Expr],
                   b: Callable[[int, Sequence[Expr], Expr], Expr], start: Callable[[int, int, Expr], Expr] | None = None,
                   write: Callable[[int, int, Expr, Expr], list[Stmt]] | None = None, count: int = 0,
                   drain: Callable[[Buffer], Stmt] | None = None, hint: Callable[[Sequence[Expr]], Stmt] | None = None,
                   pending: Pending | None = None, turns: tuple[int, int] = (1, 1)) -> Stmt:
    """Products by one instruction, added up over nested loops of `depths`, then stored from registers (`write`, `count` lanes of
    a vector) or through memory (`drain`, given the block as rows of vectors of lanes). `turns`: steps of k in an iteration of the
    one loop, and the sets of accumulators that they go to.

    `a` and `b` are elements as the row takes them; the last of `depths` counts elements of k, a multiple of its depth.
    """
    if row.tile:
        return tile_block(row, tile, depths, a, b, start, write, count, drain, hint, pending)
    width = tile.lanes
    if row.depth > 1:
        depths = (*depths[:-1], _steps(depths[-1], row))
    size = tile.rows * tile.vectors * width
    at_once, sets = turns
    acc = Buffer("acc", row.acc, (size * sets,), Space.LOCAL)

    def each(f: Callable[[int, int, Expr], Sequence[Stmt]], count: int = width) -> Stmt:
        scope = Scope.VECTOR if count == width else Scope.SERIAL
        parts: list[Stmt] = []
        for i in range(tile.rows):
            for v in range(tile.vectors):
                lane = Var("l", INDEX, 0, count - 1)
                parts += [For(lane, const(count, INDEX), s, scope) for s in f(i, v, lane)]
        return seq(*parts)

    def at_step(k: Sequence[Expr], d: Expr) -> Sequence[Expr]:
        return (*k[:-1], k[-1] * row.depth + d) if row.depth > 1 else k

    at = lambda i, v, l, s=0: ((s * tile.rows + i) * tile.vectors + v) * width + l
    zero = const(0, row.acc)
    first = each(lambda i, v, l: [store(acc, at(i, v, l), start(i, v, l) if start else zero)])
    if pending is not None:
        resume = each(lambda i, v, l: [store(acc, at(i, v, l), pending.sums[pending.base + at(i, v, l)])])
        first = If(pending.first, first, resume)

    def multiply(*k: Expr, s: int = 0) -> Stmt:
        def step(i: int, v: int) -> Stmt:
            lane = Var("l", INDEX, 0, width - 1)
            right = lambda d, l: b(v, at_step(k, d), l)
            return dot(acc[at(i, v, lane, s)], lambda d: a(i, at_step(k, d)), right, lane, width, row)

        add = [step(i, v) for i in range(tile.rows) for v in range(tile.vectors)]
        return seq(*([] if hint is None else [hint(k)]), *add)

    if at_once > 1:
        depth = depths[0]
        assert isinstance(depth, int)
        some = lambda k, n: seq(*(multiply(k + s, s=s % sets) for s in range(n)))

        def clear(s: int) -> Stmt:
            return each(lambda i, v, l: [store(acc, at(i, v, l, s), zero)])

        def join(s: int) -> Stmt:
            return each(lambda i, v, l: [store(acc, at(i, v, l), acc[at(i, v, l)] + acc[at(i, v, l, s)])])

        whole = depth // at_once
        step = seq(*map(clear, range(1, sets)), loop(whole, lambda k: some(k * at_once, at_once), name="k"),
                   some(const(whole * at_once, INDEX), depth - whole * at_once), *map(join, range(1, sets)))
    else:
        step = nest(depths, multiply, ("k", "kh", "kw"))
    if drain is None:
        assert write is not None
        end = each(lambda i, v, l: write(i, v, l, acc[at(i, v, l)]), count)
    else:
        memory = Buffer("block", row.acc, (size,), Space.LOCAL)
        spill = each(lambda i, v, l: [store(memory, at(i, v, l), acc[at(i, v, l)])])
        end = Alloc(memory, seq(spill, drain(memory)))
    if pending is not None:
        keep = each(lambda i, v, l: [store(pending.sums, pending.base + at(i, v, l), acc[at(i, v, l)])])
        end = If(pending.last, end, keep)
    return Alloc(acc, seq(first, step, end))


def _steps(depth: ExprLike, row: Row) -> int:
    """How many of a row's steps a loop of `depth` elements takes."""
    count = as_expr(depth)
    if not isinstance(count, Const) or count.value % row.depth:
        raise CodegenError(f"{row.name} takes {row.depth} elements of k at once, of {depth!r}", hint="Pack k up to a multiple")
    return count.value // row.depth


def _moved(op: Op, index: list[Expr]) -> list[Expr]:
    """Where the operand's element `index` is in the op's result; the same list where the op does not move it."""
    if op.name == "transpose":
        return [index[d] for d in op.attrs["perm"]]
    if op.name == "reshape":
        assert op.operands[0] is not None
        return split_index(flat_index(index, op.operands[0].static_shape), op.result.static_shape)
    return index


def apart(elements: int, d: DType, costs: Costs) -> int:
    """How many elements lie from the memory of one thread's own to the next's, where each has so many. A core that walks to
    the end of its own fetches lines beyond it, and takes them from the one that writes them."""
    return elements + costs.separate // d.itemsize


def bounded(e: Expr, count: int) -> Expr:
    return clamp(e, 0, count - 1)


def panel_starts(n: int, tile: Tile) -> list[int]:
    """First column of each panel; the last one overlaps its neighbour."""
    if n <= tile.columns:
        return [0]
    return [min(p * tile.columns, n - tile.columns) for p in range(-(-n // tile.columns))]


def column_of(panel: Expr, v: ExprLike, n: int, tile: Tile) -> Expr:
    """First column of vector v of a panel."""
    if n < tile.lanes:
        return const(0, INDEX)
    if n <= tile.columns:
        return minimum(as_expr(v) * tile.lanes, n - tile.lanes)
    return minimum(panel * tile.columns, n - tile.columns) + v * tile.lanes


def columns_of(n: int, tile: Tile) -> np.ndarray:
    """Column index of every panel element, [panels, columns]; -1 where there is none."""
    lane = np.arange(tile.lanes)
    if n < tile.lanes:
        return np.where(lane < n, lane, -1)[None]
    if n <= tile.columns:
        return np.concatenate([min(v * tile.lanes, n - tile.lanes) + lane for v in range(tile.vectors)])[None]
    return np.array(panel_starts(n, tile))[:, None] + np.arange(tile.columns)
