"""Matrix products on the register block: n is the last axis of the result.

A constant right operand is packed once, in panels [N/NR][K][NR]; others are read in place.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import numpy as np

from graphopt.codegen.expr import (
    INDEX,
    Expr,
    ExprLike,
    const,
    minimum,
)
from graphopt.codegen.index import flat_index, split_index
from graphopt.codegen.kernels import Lowered, Packing
from graphopt.codegen.loops import Stmt, store
from graphopt.codegen.tile import Blocked, Tile, choose_tile, column_of, columns_of, panel_starts
from graphopt.ir.graph import Value
from graphopt.ir.types import DType


class Matmul(Blocked):
    def build(self) -> Lowered | None:
        a, b = self.inner.operands
        assert a is not None and b is not None
        self.ashape, self.bshape = a.static_shape, b.static_shape
        out = self.inner.result.static_shape
        self.batch, self.m, self.n, self.k = out[:-2], out[-2], out[-1], self.ashape[-1]
        batch = math.prod(self.batch)
        if math.prod(self.bshape[:-2]) == 1 and batch > 1 and math.prod(self.ashape[:-2]) == batch:
            # One right operand for the whole batch: more rows of one matrix.
            self.rows_merged = True
            self.m, batches = self.m * math.prod(self.batch), 1
        else:
            self.rows_merged = False
            batches = math.prod(self.batch)
        packed = self.packable(b) and math.prod(self.bshape[:-2]) == 1
        if self.n < self.lanes and not packed:
            return None
        if self.m * self.n * self.k < 8 or (self.n < 4 and self.k < 16):
            return None
        tile = choose_tile(self.m, self.n, self.lanes, self.registers)
        tile = Tile(tile.rows, min(tile.vectors, -(-self.n // self.lanes)), self.lanes)
        starts = panel_starts(self.n, tile)
        panels, tiles = len(starts), -(-self.m // tile.rows)
        if packed:
            right = self.pack(b, _pack_right(self.n, self.k, tile, self.dtype), self.dtype)
        valid = self.n if self.n < self.lanes else None

        def task(worker: Expr, t: Expr) -> Stmt:
            mt, pt, bt = t % tiles, t // tiles % panels, t // (tiles * panels)
            m0 = minimum(mt * tile.rows, self.m - tile.rows)
            column = lambda v, l: column_of(pt, v, self.n, tile) + l
            index = split_index(bt, self.batch)
            abase, bbase = self.base(a, self.ashape, index), self.base(b, self.bshape, index)

            def left(i: int, k: Expr) -> Expr:
                return self.element(a, abase + (m0 + i) * self.k + k)

            def from_panel(v: int, k: Expr, l: Expr) -> Expr:
                return right[(pt * self.k + k) * tile.columns + v * tile.lanes + l]

            def in_place(v: int, k: Expr, l: Expr) -> Expr:
                return self.element(b, bbase + k * self.n + column(v, l))

            def write(i: ExprLike, v: ExprLike, l: Expr, value: Expr) -> list[Stmt]:
                row, col = m0 + i, column(v, l)
                place = [*split_index(row, (*self.batch, self.inner.result.static_shape[-2])), col] if self.rows_merged \
                    else [*index, row, col]
                return [store(o, offset, x) for o, offset, x in self.epilogue(place, value)]

            return self.tile(tile, self.k, left, from_panel if packed else in_place, write, partial=valid)

        tasks = batches * panels * tiles
        return self.finish(self.shared(tasks, 2 * batches * self.m * self.n * self.k // 16, task))

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
