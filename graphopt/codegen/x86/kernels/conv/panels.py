"""Convolutions of row-major images by panels of pixels: the columns of a panel are packed for a block of the sum at a time,
unless the image already lies as a panel would (1x1, stride 1)."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from graphopt.codegen.kernel.expr import INDEX, Buffer, Expr, ExprLike, Var, as_expr, clamp, const, minimum
from graphopt.codegen.kernel.index import flat_index, split_index
from graphopt.codegen.kernel.loops import For, Stmt, loop, seq, store
from graphopt.codegen.kernel.spaces import Scope
from graphopt.codegen.lower.kernels import Lowered
from graphopt.codegen.x86.kernels.conv.images import Pixels, RowMajor, weight_at
from graphopt.codegen.x86.kernels.conv.problem import Problem
from graphopt.codegen.x86.kernels.tile import Tile, bounded, column_of, panel_starts, result_tiles

Rows = Callable[[Callable[[Expr], Stmt]], Stmt]  # a loop over tiles of rows: all, or a worker's


@dataclass(frozen=True)
class Choice:
    """How the work is cut. `block` products of the sum are taken at a time, in `blocks`; `by_rows`: threads share tiles of rows
    (each then makes its own copy of the panel), for want of panels."""

    tile: Tile
    row_tiles: int
    panels: int
    workers: int
    by_rows: bool
    block: int
    blocks: int
    in_place: bool


def choose(conv: RowMajor) -> Choice:
    """The tile by its model or as is wanted; threads share panels where there are enough of them."""
    p, style, costs = conv.problem, conv.style, conv.costs
    tile: Tile = style.pick("tile", result_tiles(p.outs, p.pixels, conv.lanes, conv.machine))
    tile = Tile(tile.rows, min(tile.vectors, -(-p.pixels // conv.lanes)), conv.lanes)
    row_tiles, panels = -(-p.outs // tile.rows), len(panel_starts(p.pixels, tile))
    workers = min(style.threads, p.images * panels * row_tiles) if conv.effort(p.multiply_adds) >= style.parallel_work else 1
    by_rows = p.images * panels < workers or bool(p.images * panels < 4 * workers and p.images * panels % workers)
    in_place = p.reads_in_place and p.pixels >= conv.lanes
    row = tile.columns * conv.dtype.itemsize
    blocks = 1 if in_place or p.depth * row <= costs.panel_bytes else -(-p.depth // max(1, costs.panel_bytes // row))
    return Choice(tile, row_tiles, panels, workers, by_rows, -(-p.depth // blocks), blocks, in_place)


class Panels:
    """The kernel for one choice."""

    def __init__(self, conv: RowMajor) -> None:
        self.conv, self.problem, self.choice = conv, conv.problem, choose(conv)
        p, c = self.problem, self.choice
        self.left = conv.pack_left(c.tile.rows)
        self.pad: Stmt = seq()
        self.source: Pixels | None = None
        if not c.in_place:
            self.pad, self.source = conv.image()
        self.panel = Buffer("panel", conv.dtype, (c.workers * c.block * c.tile.columns,))
        self.table = Buffer("pixels", "i32", (c.workers * c.tile.columns,))
        self.sums = Buffer("sums", conv.dtype, (c.workers * c.row_tiles * c.tile.rows * c.tile.columns,))
        conv.scratch += [] if c.in_place else [self.panel, self.table, *([self.sums] if c.blocks > 1 else [])]
        self.valid = p.pixels if p.pixels < conv.lanes else None  # lanes of the only vector

    def build(self) -> Lowered:
        p, c = self.problem, self.choice
        tasks = p.images * c.panels
        if c.workers > 1 and c.by_rows:
            per = -(-c.row_tiles // c.workers)
            worker = Var("w", INDEX, 0, c.workers - 1)
            first = minimum(worker * per, c.row_tiles - per)
            some: Rows = lambda f: loop(per, lambda r: f(bounded(first + r, c.row_tiles)), Scope.SERIAL, "m")
            body: Stmt = For(worker, const(c.workers, INDEX),
                             loop(tasks, lambda t: self.task(worker, t, some), Scope.SERIAL, "task"), Scope.PARALLEL)
        else:
            every: Rows = lambda f: loop(c.row_tiles, f, Scope.SERIAL, "m")
            body = self.conv.spread(tasks, self.conv.effort(p.multiply_adds), lambda worker, t: self.task(worker, t, every))
        return self.conv.finish(seq(self.pad, body))

    def task(self, worker: Expr, t: Expr, rows: Rows) -> Stmt:
        """A panel of one image and group, by all tiles of rows."""
        one = _Panel(self, worker, t)
        c, depth = self.choice, self.problem.depth
        if c.in_place:
            return rows(lambda m: one.product(m, 0, depth, True, True))
        parts = [one.positions()]
        for j in range(c.blocks):
            first = j * c.block
            count = min(c.block, depth - first)
            is_first, is_last = j == 0, j == c.blocks - 1
            parts += [one.fill(first, count),
                      rows(lambda m, f=first, n=count, a=is_first, z=is_last: one.product(m, f, n, a, z))]  # type: ignore[misc]
        return seq(*parts)


class _Panel:
    """One worker's panel."""

    def __init__(self, of: Panels, worker: Expr, t: Expr) -> None:
        self.of, self.worker, self.tile = of, worker, of.choice.tile
        self.number, image = t % of.choice.panels, t // of.choice.panels
        self.group, self.batch = image % of.problem.groups, image // of.problem.groups

    def positions(self) -> Stmt:
        """Where the pixels of the panel begin in the padded plane."""
        p, columns = self.of.problem, self.tile.columns
        lane = Var("l", INDEX, 0, columns - 1)
        at = [i * s for i, s in zip(split_index(_pixel_of(p, self.number, lane, self.tile), p.pixels_shape), p.stride)]
        put = store(self.of.table, self.worker * columns + lane, flat_index(at, p.padded).cast("i32"))
        return For(lane, const(columns, INDEX), put, Scope.SERIAL)

    def fill(self, first: int, count: int) -> Stmt:
        """Pack the panel's columns of `count` products from the `first` on."""
        p, columns, source = self.of.problem, self.tile.columns, self.of.source
        assert source is not None
        q, lane = Var("q", INDEX, 0, count - 1), Var("l", INDEX, 0, columns - 1)
        k, window = q + first, math.prod(p.window)
        shift = [o * d for o, d in zip(split_index(k % window, p.window), p.dilation)]
        plane = flat_index(shift, p.padded)
        offset = self.of.table[self.worker * columns + lane].cast(INDEX)
        zeros = [const(0, INDEX)] * (len(p.padded) - 1)
        value = source(self.batch, self.group * p.channels + k // window, [*zeros, plane + offset])
        put = store(self.of.panel, (self.worker * self.of.choice.block + q) * columns + lane, value)
        return For(q, const(count, INDEX), For(lane, const(columns, INDEX), put, Scope.SERIAL), Scope.SERIAL)

    def product(self, row_tile: Expr, first: int, count: int, is_first: bool, is_last: bool) -> Stmt:
        """A tile of rows by the panel, over `count` products from the `first` on; between the blocks of a sum it waits in
        memory."""
        of, p, conv, tile, c = self.of, self.of.problem, self.of.conv, self.tile, self.of.choice
        m0 = minimum(row_tile * tile.rows, p.outs - tile.rows)

        def weight(i: int, k: Expr) -> Expr:
            return weight_at(conv, of.left, tile, self.group, row_tile, m0, i, first + k)

        def pixel(v: int, k: Expr, l: Expr) -> Expr:
            if c.in_place:
                channel = (self.batch * p.groups + self.group) * p.channels + k
                return conv.element(conv.x, channel * p.pixels + column_of(self.number, v, p.pixels, tile) + l)
            return of.panel[(self.worker * c.block + k) * tile.columns + v * tile.lanes + l]

        def waiting(i: ExprLike, v: ExprLike, l: Expr) -> Expr:
            return ((self.worker * c.row_tiles + row_tile) * tile.rows + i) * tile.columns + as_expr(v) * tile.lanes + l

        def start(i: int, v: int, l: Expr) -> Expr:
            return conv.added(self.group * p.outs + m0 + i) if is_first else of.sums[waiting(i, v, l)]

        def write(i: ExprLike, v: ExprLike, l: Expr, value: Expr) -> list[Stmt]:
            if not is_last:
                return [store(of.sums, waiting(i, v, l), value)]
            at = column_of(self.number, v, p.pixels, tile) + l
            place = [self.batch, self.group * p.outs + m0 + i, *split_index(at, p.pixels_shape)]
            return [store(o, offset, y) for o, offset, y in conv.epilogue(place, value)]

        return conv.tile(tile, count, weight, pixel, write, start, of.valid if is_last else None)


def _pixel_of(p: Problem, panel: Expr, lane: Expr, tile: Tile) -> Expr:
    """The pixel in a lane of a panel; lanes beyond the last pixel repeat it."""
    if p.pixels < tile.lanes:
        return clamp(lane, 0, p.pixels - 1)
    if p.pixels <= tile.columns:
        v, l = lane // tile.lanes, lane % tile.lanes
        return minimum(v * tile.lanes, p.pixels - tile.lanes) + l
    return minimum(panel * tile.columns, p.pixels - tile.columns) + lane


__all__ = ["Choice", "Panels", "choose"]
