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

from graphopt.codegen.blocking import Product, aliases, choose_blocking
from graphopt.codegen.expr import INDEX, Buffer, Expr, ExprLike, Var, const, minimum
from graphopt.codegen.index import flat_index, split_index
from graphopt.codegen.kernels import Lowered, Packing, Sources
from graphopt.codegen.loops import Prefetch, Stmt, loop, seq, store
from graphopt.codegen.schedule import Output, Style, schedule
from graphopt.codegen.tile import Blocked, Tile, column_of, columns_of
from graphopt.ir.graph import Op, Value
from graphopt.ir.types import DType
from graphopt.targets.x86 import X86

REREAD = 3  # row tiles from which a panel of a right operand in memory is copied, so that its vectors are aligned
AHEAD = 16  # steps of k by which weights are fetched before they are multiplied, where several rows hide the fetching
FETCHING = 4  # rows of a tile from which they do


class Matmul(Blocked):
    def __init__(self, op: Op, inner: Op, sources: Sources, name: str, style: Style, machine: X86) -> None:
        super().__init__(op, inner, sources, name, style, machine.registers)
        self.machine = machine

    def build(self) -> Lowered | None:
        a, b = self.inner.operands
        assert a is not None and b is not None
        self.a, self.b = a, b
        self.ashape, self.bshape = a.static_shape, b.static_shape
        out = self.inner.result.static_shape
        self.batch, self.m, self.n, self.k = out[:-2], out[-2], out[-1], self.ashape[-1]
        batches = math.prod(self.batch)
        # One right operand for the whole batch: more rows of one matrix.
        self.rows_merged = math.prod(self.bshape[:-2]) == 1 and batches > 1 and math.prod(self.ashape[:-2]) == batches
        if self.rows_merged:
            self.m, batches = self.m * batches, 1
        self.constant = self.packable(b) and math.prod(self.bshape[:-2]) == 1
        if self.n < self.lanes and not self.constant:
            return None
        if self.m * self.n * self.k < 8 or (self.n < 4 and self.k < 16):
            return None
        size = self.dtype.itemsize
        # Work in scalar operations of a vector machine; reading the weights may take longer than multiplying them.
        effort = max(batches * self.m * self.n * self.k // 8, math.prod(self.bshape) * b.dtype.itemsize // 3)
        threads = self.style.threads if effort >= self.style.parallel_work else 1
        self.blocking = choose_blocking(Product(batches, self.m, self.n, self.k, size), self.lanes, self.machine, threads)
        self.cut = self.blocking.tile
        self.whole = (batches, -(-self.m // self.cut.rows), -(-self.n // self.cut.columns))
        if self.constant:
            self.right = self.pack(b, _pack_right(self.n, self.k, self.cut, self.dtype), self.dtype)
        return self.finish(seq(*self.sources.borders(self.style), self.shared_out()))

    # The nest: threads, batches, blocks of rows, panels, row tiles ------------------------------------------------
    def shared_out(self) -> Stmt:
        """All tiles, each thread's share in a nest of its own. Shares overlap where they do not divide."""
        workers, (_, gm, gn) = self.blocking.workers, self.blocking.grid
        tiles = -(-self.blocking.share[1] // self.blocking.row_blocks)
        self.block_tiles, self.block_rows = tiles, min(tiles * self.cut.rows, self.m)
        self.prepare(workers)

        def work(worker: Expr) -> Stmt:
            place = (worker // (gm * gn), worker // gn % gm, worker % gn)
            batch, tile, panel = (minimum(w * share, n - share) for w, share, n in zip(place, self.blocking.share, self.whole))
            return loop(self.blocking.share[0], lambda t: self.rows_of(worker, t + batch, tile, panel), name="batch")

        return loop(workers, work, "parallel", "w")

    def prepare(self, workers: int) -> None:
        """Scratch memory for what is packed on the way."""
        size, share = self.dtype.itemsize, self.blocking.share
        row = self.ashape[-1] * self.a.dtype.itemsize
        self.left = self.panel = None
        many = share[2] > 1 and self.cut.rows > 1
        if many and (self.computed_dtype(self.a) or aliases(row, self.cut.rows, self.machine)):
            line = -(-self.k * size // 64)
            self.stride = (line | 1) * 64 // size  # an odd number of cache lines: rows fall on different sets
            self.left = Buffer("left", self.dtype, (workers * self.block_rows * self.stride,))
            self.scratch.append(self.left)
        if not self.constant and share[1] >= REREAD:
            self.panel = Buffer("panel", self.dtype, (workers * self.k * self.cut.columns,))
            self.scratch.append(self.panel)

    def computed_dtype(self, v: Value) -> bool:
        """Is a value stored in another dtype than it is multiplied in?"""
        return v.dtype is not self.dtype

    def rows_of(self, worker: Expr, bt: Expr, tile: Expr, panel: Expr) -> Stmt:
        """One batch of a thread's share: blocks of rows, in each all its panels."""
        share, blocks, per = self.blocking.share, self.blocking.row_blocks, self.block_tiles
        index = split_index(bt, self.batch)

        def block(rb: Expr) -> Stmt:
            first = tile + rb * per
            count = minimum(share[1] - rb * per, per)
            start = minimum(first * self.cut.rows, self.m - self.block_rows)

            def over(p: Expr) -> Stmt:
                pt = panel + p
                body = loop(count, lambda t: self.tile_of(worker, index, first + t, pt, start), name="tile")
                return seq(self.copy_panel(worker, index, pt), body) if self.panel is not None else body

            body = loop(share[2], over, name="panel")
            return seq(self.copy_rows(worker, index, start), body) if self.left is not None else body

        return loop(blocks, block, name="block")

    def copy_rows(self, worker: Expr, index: Sequence[Expr], start: Expr) -> Stmt:
        """The rows of a block, packed."""
        assert self.left is not None
        r, k = Var("r", INDEX, 0, self.block_rows - 1), Var("k", INDEX, 0, self.k - 1)
        at = lambda r: worker * (self.block_rows * self.stride) + r * self.stride
        return self.serial((r, k), (self.block_rows, self.k), self.left, at(r) + k, self.row(index, start + r)(k))

    def copy_panel(self, worker: Expr, index: Sequence[Expr], pt: Expr) -> Stmt:
        assert self.panel is not None
        width = self.cut.columns
        base = self.base(self.b, self.bshape, index)
        parts = []
        for v in range(self.cut.vectors):
            k, l = Var("k", INDEX, 0, self.k - 1), Var("l", INDEX, 0, self.lanes - 1)
            place = (worker * self.k + k) * width + v * self.lanes + l
            value = self.element(self.b, base + k * self.n + column_of(pt, v, self.n, self.cut) + l)
            parts.append(self.serial((k, l), (self.k, self.lanes), self.panel, place, value))
        return seq(*parts)

    def serial(self, vars: Sequence[Var], shape: Sequence[int], into: Buffer, place: Expr, value: Expr) -> Stmt:
        return schedule(vars, shape, [Output(into, value)], Style(self.lanes), place)

    def row(self, index: Sequence[Expr], row: Expr) -> Callable[[Expr], Expr]:
        """Elements of a row of the left operand, by k."""
        base = self.base(self.a, self.ashape, index) + row * self.k
        return lambda k: self.element(self.a, base + k)

    def tile_of(self, worker: Expr, index: Sequence[Expr], mt: Expr, pt: Expr, start: Expr) -> Stmt:
        """One tile of the result."""
        tile, n = self.cut, self.n
        m0 = minimum(mt * tile.rows, self.m - tile.rows)
        bbase = self.base(self.b, self.bshape, index)

        def left(i: int, k: Expr) -> Expr:
            if self.left is not None:
                return self.left[(worker * self.block_rows + m0 - start + i) * self.stride + k]
            return self.row(index, m0 + i)(k)

        def right(v: int, k: Expr, l: Expr) -> Expr:
            if self.constant:
                return self.right[(pt * self.k + k) * tile.columns + v * tile.lanes + l]
            if self.panel is not None:
                return self.panel[(worker * self.k + k) * tile.columns + v * tile.lanes + l]
            return self.element(self.b, bbase + k * n + column_of(pt, v, n, tile) + l)

        def write(i: ExprLike, v: ExprLike, l: Expr, value: Expr) -> list[Stmt]:
            row, col = m0 + i, column_of(pt, v, n, tile) + l
            place = [*split_index(row, (*self.batch, self.inner.result.static_shape[-2])), col] if self.rows_merged \
                else [*index, row, col]
            return [store(o, offset, x) for o, offset, x in self.epilogue(place, value)]

        line = 64 // self.dtype.itemsize

        def ahead(k: Sequence[Expr]) -> Stmt:
            place = (pt * self.k + k[0] + AHEAD) * tile.columns  # the next panel follows in memory
            return seq(*(Prefetch(self.right, place + j, 1) for j in range(0, tile.columns, line)))

        hint = ahead if self.constant and tile.rows >= FETCHING else None
        return self.tile(tile, self.k, left, right, write, partial=n if n < self.lanes else None, hint=hint)

    def base(self, v: Value, shape: tuple[int, ...], index: Sequence[Expr]) -> Expr:
        """Offset of the matrix that batch `index` uses, with broadcasting."""
        own = index[len(index) - (len(shape) - 2):] if len(shape) > 2 else ()
        if self.rows_merged:
            return const(0, INDEX)
        place = [const(0, INDEX) if n == 1 else i for i, n in zip(own, shape[:-2])]
        return flat_index(place, shape[:-2]) * (shape[-2] * shape[-1])


def _pack_right(n: int, k: int, tile: Tile, d: DType) -> Packing:
    columns = columns_of(n, tile)

    def parts(w: np.ndarray) -> Iterator[np.ndarray]:
        w = w.reshape(k, n)
        for c in columns:
            panel = w[:, np.maximum(c, 0)]
            panel[:, c < 0] = 0
            yield panel.astype(d.numpy, copy=False)

    return Packing(f"right{tile}{d}", columns.size * k * d.itemsize, parts)
