"""Matrix products on the register block: n is the last axis of the result.

A constant right operand is packed once, in panels [N/NR][K][NR]. Each thread walks its share of the result by blocks
of rows that stay in its L2, and within one by panels, each of which all row tiles read while it is in the cache. Rows
that would displace each other in L1, that are stored in another dtype, or that something is fused into, are packed
block by block.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence

import numpy as np

from graphopt.codegen.kernel.expr import INDEX, Buffer, Expr, ExprLike, Var, const, minimum
from graphopt.codegen.kernel.index import flat_index, split_index
from graphopt.codegen.kernel.loops import Prefetch, Stmt, loop, seq, store
from graphopt.codegen.kernel.spaces import Scope
from graphopt.codegen.lower.kernels import Lowered, Packing, Sources
from graphopt.codegen.lower.schedule import Output, Style, schedule
from graphopt.codegen.x86.kernels.blocking import Blocking, Product, aliases, blockings
from graphopt.codegen.x86.kernels.tile import Blocked, Pending, Tile, column_of, columns_of
from graphopt.ir.fused import makes
from graphopt.ir.graph import Op, Value
from graphopt.ir.types import DType
from graphopt.targets.x86 import X86


class Operands(Blocked):
    """A product's operands, and what is to be computed: `batches` times m by k and k by n. `rows_merged`: one right operand for
    the whole batch, so that all its rows are those of one matrix. `constant`: the right operand is one matrix, known now."""

    def __init__(self, op: Op, inner: Op, sources: Sources, name: str, style: Style, machine: X86) -> None:
        super().__init__(op, inner, sources, name, style, machine)
        a, b = inner.operands
        assert a is not None and b is not None
        self.a, self.b, self.ashape, self.bshape = a, b, a.static_shape, b.static_shape
        *batch, rows, self.n = inner.result.static_shape
        self.batch, self.k = tuple(batch), self.ashape[-1]
        count = math.prod(batch)
        self.rows_merged = math.prod(self.bshape[:-2]) == 1 and count > 1 and math.prod(self.ashape[:-2]) == count
        self.batches, self.m = (1, rows * count) if self.rows_merged else (count, rows)
        self.constant = self.packable(b) and math.prod(self.bshape[:-2]) == 1

    def converts(self, v: Value) -> bool:
        """Is a value stored in another dtype than it is multiplied in?"""
        return v.dtype is not self.dtype

    def is_computed(self, v: Value) -> bool:
        """Is something fused into this operand?"""
        return makes(self.op, v)

    def row(self, index: Sequence[Expr], row: Expr) -> Callable[[Expr], Expr]:
        """Elements of a row of the left operand, by k."""
        if self.is_computed(self.a):
            access = self.operand(self.a)
            batch = split_index(row, (*self.batch, self.ashape[-2])) if self.rows_merged else [*index, row]
            place = self.broadcast(self.ashape, batch)
            return lambda k: access(*place, k)
        base = self.base(self.a, self.ashape, index) + row * self.k
        return lambda k: self.element(self.a, base + k)

    def column(self, index: Sequence[Expr], column: Expr) -> Callable[[Expr], Expr]:
        """Elements of a column of the right operand, by k."""
        if self.is_computed(self.b):
            access = self.operand(self.b)
            place = self.broadcast(self.bshape[:-1], index)
            return lambda k: access(*place, k, column)
        base = self.base(self.b, self.bshape, index) + column
        return lambda k: self.element(self.b, base + k * self.n)

    def broadcast(self, shape: Sequence[int], index: Sequence[Expr]) -> list[Expr]:
        """The index of all but the last axis of an operand, whose batch dims broadcast to the result's."""
        own = index[len(index) - (len(shape) - 1):] if len(shape) > 1 else ()
        return [const(0, INDEX) if n == 1 else i for i, n in zip(own, shape[:-1])]

    def base(self, v: Value, shape: tuple[int, ...], index: Sequence[Expr]) -> Expr:
        """Offset of the matrix that batch `index` uses, with broadcasting."""
        own = index[len(index) - (len(shape) - 2):] if len(shape) > 2 else ()
        if self.rows_merged:
            return const(0, INDEX)
        place = [const(0, INDEX) if n == 1 else i for i, n in zip(own, shape[:-2])]
        return flat_index(place, shape[:-2]) * (shape[-2] * shape[-1])


def matmul(op: Op, inner: Op, sources: Sources, name: str, style: Style, machine: X86) -> Lowered | None:
    """The kernel of a product, alone or fused; None where it is too small or too narrow."""
    of = Operands(op, inner, sources, name, style, machine)
    return Matmul(of).build() if covers(inner, of.constant, of.lanes) else None


def blocking_of(of: Operands) -> Blocking:
    """The one of the fewest cycles, or the one that is wanted."""
    # Work in scalar operations of a vector machine; reading the weights may take longer than multiplying them.
    effort = max(of.costs.effort(of.batches * of.m * of.n * of.k, of.dtype),
                 math.prod(of.bshape) * of.b.dtype.itemsize // of.costs.weighed)
    threads = of.style.threads if effort >= of.style.parallel_work else 1
    computed = of.is_computed(of.a)
    product = Product(of.batches, of.m, of.n, of.k, of.dtype.itemsize, whole=not of.constant or computed,
                      packed=of.constant, copied=computed or of.converts(of.a))
    return of.style.pick("blocking", blockings(product, of.lanes, of.machine, threads))


class Matmul:
    """The kernel for one blocking: threads, batches, blocks of rows, panels, row tiles. What is packed on the way has scratch
    memory: `left` rows, a `panel` of the right operand; `sums` wait there between blocks of k."""

    def __init__(self, of: Operands) -> None:
        self.of, self.blocking = of, blocking_of(of)
        self.cut, share, workers = self.blocking.tile, self.blocking.share, self.blocking.workers
        self.whole = (of.batches, -(-of.m // self.cut.rows), -(-of.n // self.cut.columns))
        self.right = of.pack(of.b, _pack_right(of.n, of.k, self.cut, of.dtype), of.dtype) if of.constant else None
        self.block_tiles = -(-share[1] // self.blocking.row_blocks)
        self.block_rows = min(self.block_tiles * self.cut.rows, of.m)
        self.deep = of.k // self.blocking.depths
        line = of.costs.line // of.dtype.itemsize
        self.stride = (-(-self.deep // line) | 1) * line  # an odd number of cache lines: rows fall on different sets
        block, memory = self.block_tiles * self.cut.rows * share[2] * self.cut.columns, self._memory
        self.sums = memory("sums", workers * block, self.blocking.depths > 1)
        self.left = memory("left", workers * self.block_rows * self.stride, self._copies_rows())
        copies = not of.constant and (share[1] >= of.costs.reread or of.is_computed(of.b))
        self.panel = memory("panel", workers * of.k * self.cut.columns, copies)

    def _memory(self, name: str, size: int, wanted: bool) -> Buffer | None:
        if not wanted:
            return None
        buffer = Buffer(name, self.of.dtype, (size,))
        self.of.scratch.append(buffer)
        return buffer

    def _copies_rows(self) -> bool:
        of = self.of
        many = self.blocking.share[2] > 1 and self.cut.rows > 1
        aliased = aliases(of.k * of.a.dtype.itemsize, self.cut.rows, of.machine)
        return of.is_computed(of.a) or (many and (of.converts(of.a) or aliased))

    def build(self) -> Lowered:
        """All tiles, each thread's share in a nest of its own. Shares overlap where they do not divide."""
        workers, (_, gm, gn) = self.blocking.workers, self.blocking.grid

        def work(worker: Expr) -> Stmt:
            place = (worker // (gm * gn), worker // gn % gm, worker % gn)
            batch, tile, panel = (minimum(w * share, n - share) for w, share, n in zip(place, self.blocking.share, self.whole))
            return loop(self.blocking.share[0], lambda t: self.rows_of(worker, t + batch, tile, panel), name="batch")

        of, body = self.of, loop(workers, work, Scope.PARALLEL, "w")
        return of.finish(seq(*of.sources.borders(of.style), body))

    def rows_of(self, worker: Expr, bt: Expr, tile: Expr, panel: Expr) -> Stmt:
        """One batch of a thread's share: blocks of rows, in each all its panels."""
        share, blocks, per = self.blocking.share, self.blocking.row_blocks, self.block_tiles
        index = split_index(bt, self.of.batch)

        def block(rb: Expr) -> Stmt:
            first = tile + rb * per
            count = minimum(share[1] - rb * per, per)
            start = minimum(first * self.cut.rows, self.of.m - self.block_rows)

            def over(p: Expr, d: Expr) -> Stmt:
                pt = panel + p
                body = loop(count, lambda t: self.tile_of(worker, index, first + t, pt, start, t, p, d), name="tile")
                return seq(self.copy_panel(worker, index, pt), body) if self.panel is not None else body

            def deep(d: Expr) -> Stmt:
                body = loop(share[2], lambda p: over(p, d), name="panel")
                return seq(self.copy_rows(worker, index, start, d), body) if self.left is not None else body

            return loop(self.blocking.depths, deep, name="depth")

        return loop(blocks, block, name="block")

    def copy_rows(self, worker: Expr, index: Sequence[Expr], start: Expr, d: Expr) -> Stmt:
        """The rows of a block, packed: computed, converted, or just side by side."""
        assert self.left is not None
        # the axes that k consists of before a reshape merges them
        factors = _factors(self.of.a, self.of.k) if self.blocking.depths == 1 else (self.deep,)
        r, *ks = (Var(f"i{d}", INDEX, 0, n - 1) for d, n in enumerate((self.block_rows, *factors)))
        k = flat_index(ks, factors)
        place = (worker * self.block_rows + r) * self.stride + k
        value = self.of.row(index, start + r)(d * self.deep + k)
        return self.fill((r, *ks), (self.block_rows, *factors), self.left, place, value)

    def copy_panel(self, worker: Expr, index: Sequence[Expr], pt: Expr) -> Stmt:
        """A panel of a right operand that is no constant."""
        assert self.panel is not None
        width, parts = self.cut.columns, []
        for v in range(self.cut.vectors):
            k, l = Var("k", INDEX, 0, self.of.k - 1), Var("l", INDEX, 0, self.of.lanes - 1)
            place = (worker * self.of.k + k) * width + v * self.of.lanes + l
            value = self.of.column(index, column_of(pt, v, self.of.n, self.cut) + l)(k)
            parts.append(self.fill((k, l), (self.of.k, self.of.lanes), self.panel, place, value))
        return seq(*parts)

    def fill(self, vars: Sequence[Var], shape: Sequence[int], into: Buffer, place: Expr, value: Expr) -> Stmt:
        """Store `value` at `place` for all values of the variables, in the thread that asks for it."""
        return schedule(vars, shape, [Output(into, value)], Style(self.of.lanes), place)

    def tile_of(self, worker: Expr, index: Sequence[Expr], mt: Expr, pt: Expr, start: Expr, t: Expr, p: Expr,
                d: Expr) -> Stmt:
        """One tile of the result: tile `t` of the block and panel `p` of the share, over block `d` of k."""
        tile, n = self.cut, self.of.n
        m0 = minimum(mt * tile.rows, self.of.m - tile.rows)

        def left(i: int, k: Expr) -> Expr:
            if self.left is not None:
                return self.left[(worker * self.block_rows + m0 - start + i) * self.stride + k]
            return self.of.row(index, m0 + i)(d * self.deep + k)

        def right(v: int, k: Expr, l: Expr) -> Expr:
            if self.right is not None:
                return self.right[(pt * self.of.k + d * self.deep + k) * tile.columns + v * tile.lanes + l]
            if self.panel is not None:
                return self.panel[(worker * self.of.k + k) * tile.columns + v * tile.lanes + l]
            return self.of.column(index, column_of(pt, v, n, tile) + l)(k)

        def write(i: ExprLike, v: ExprLike, l: Expr, value: Expr) -> list[Stmt]:
            row, col = m0 + i, column_of(pt, v, n, tile) + l
            place = [*split_index(row, (*self.of.batch, self.of.inner.result.static_shape[-2])), col] if self.of.rows_merged \
                else [*index, row, col]
            return [store(o, offset, x) for o, offset, x in self.of.epilogue(place, value)]

        weights = self.of.k * self.blocking.share[2] * tile.columns * self.of.dtype.itemsize  # that this thread reads
        fetch = self.right is not None and tile.rows >= self.of.costs.fetching and weights > self.of.machine.l2 // 2
        hint = self.ahead(pt, t, d) if fetch else None
        pending = None
        if self.sums is not None:
            place = (worker * self.blocking.share[2] + p) * self.block_tiles + t
            pending = Pending(self.sums, place * (tile.rows * tile.columns), d.eq(0), d.eq(self.blocking.depths - 1))
        partial = n if n < self.of.lanes else None
        return self.of.tile(tile, self.deep, left, right, write, partial=partial, hint=hint, pending=pending)

    def ahead(self, pt: Expr, t: Expr, d: Expr) -> Callable[[Sequence[Expr]], Stmt]:
        """What to fetch at each k: of the next panel, a part with each of the row tiles; with one tile, what comes soon."""
        assert self.right is not None
        right = self.right
        width, line = self.cut.columns, self.of.costs.line // self.of.dtype.itemsize
        lines = -(-width // line)
        if self.block_tiles == 1:
            return lambda k: seq(*(Prefetch(right, (pt * self.of.k + d * self.deep + k[0] + self.of.costs.ahead) * width + j, 1)
                                   for j in range(0, width, line)))
        at_once = -(-lines // self.block_tiles)
        pause = 1 << max(0, (self.block_tiles // lines).bit_length() - 1)  # steps of k from one line to the next
        share = -(-self.deep // pause)
        after = ((pt + 1) * self.of.k + d * self.deep) * width

        def hint(k: Sequence[Expr]) -> Stmt:
            step = minimum(t * share + k[0] // pause, self.deep * lines - 1)
            return seq(*(Prefetch(right, after + (step * at_once + j) * line) for j in range(at_once)))

        return hint


def covers(op: Op, constant: bool, lanes: int) -> bool:
    """Whether a matmul is one for the register block; `constant`: its right operand is a matrix that can be packed."""
    *_, m, n = op.result.static_shape
    assert op.operands[0] is not None
    k = op.operands[0].static_shape[-1]
    return (n >= lanes or constant) and m * n * k >= 8 and (n >= 4 or k >= 16)


def _factors(v: Value, k: int) -> tuple[int, ...]:
    """The last axis of a value as the axes that a reshape fused into it merged: elements along each lie at one stride."""
    while v.op is not None:
        op = v.op
        source = next((x for x in op.operands if x is not None and x.shape == v.shape), op.operands[0])
        assert source is not None
        last = source.static_shape[-1] if source.static_shape else 0
        if op.name == "reshape" and 1 < last < k and k % last == 0:
            return (k // last, last)
        if last != k or (op.name == "transpose" and op.attrs["perm"][-1] != len(v.static_shape) - 1):
            break
        v = source
    return (k,)


def _pack_right(n: int, k: int, tile: Tile, d: DType) -> Packing:
    columns = columns_of(n, tile)

    def parts(w: np.ndarray) -> Iterator[np.ndarray]:
        w = w.reshape(k, n)
        for c in columns:
            panel = w[:, np.maximum(c, 0)]
            panel[:, c < 0] = 0
            yield panel.astype(d.numpy, copy=False)

    return Packing(f"right{tile}{d}", columns.size * k * d.itemsize, parts)
