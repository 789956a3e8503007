"""Convolutions on the register block: m is the output channel, n the pixels, which NCHW keeps contiguous.

Weights are packed once, [CO/MR][K][MR]. A 1x1 stride-1 convolution reads the image in place; a larger window with
stride 1 reads the zero-padded plane in place; others copy a panel of it per task. With one output channel a group
(depthwise) there is nothing to block for: one accumulator a lane.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence

import numpy as np

from graphopt.codegen.kernel.expr import (
    INDEX,
    Buffer,
    Expr,
    ExprLike,
    Var,
    as_expr,
    clamp,
    const,
    maximum,
    minimum,
    reduce,
    select,
)
from graphopt.codegen.kernel.index import flat_index, split_index
from graphopt.codegen.kernel.loops import For, Stmt, loop, nest, seq, store
from graphopt.codegen.lower.kernels import Lowered, Packing
from graphopt.codegen.lower.schedule import Output, iteration, schedule
from graphopt.codegen.x86.kernels.tile import Blocked, Tile, bounded, column_of, panel_starts, result_tiles
from graphopt.ir.graph import Value
from graphopt.ir.types import DType

PANEL_BYTES = 1 << 18  # of a packed panel: a quarter of the L2 cache


class Convolution(Blocked):
    def build(self) -> Lowered | None:
        x, w, self.bias = (*self.inner.operands, None)[:3]
        assert x is not None and w is not None
        self.x, attrs = x, self.inner.attrs
        self.groups, self.stride, self.dilation = attrs["groups"], attrs["stride"], attrs["dilation"]
        shape, wshape = x.static_shape, w.static_shape
        out = self.inner.result.static_shape
        spatial = len(shape) - 2
        self.batch, self.channels, self.image = shape[0], shape[1] // self.groups, shape[2:]
        self.outs, self.pixels_shape, self.window = out[1] // self.groups, out[2:], wshape[2:]
        self.before, self.after = attrs["pad"][:spatial], attrs["pad"][spatial:]
        if any(p < 0 for p in attrs["pad"]):
            return None
        self.padded = tuple(n + p + q for n, p, q in zip(self.image, self.before, self.after))
        self.pixels, self.depth = math.prod(self.pixels_shape), self.channels * math.prod(self.window)
        if self.outs == 1 or self.depth * self.outs < 16:
            return self.direct(w)
        packed = self.packable(w)
        if len(self.image) <= 2 and all(s == 1 for s in self.stride) and math.prod(self.window) > 1 \
                and self.span() >= self.lanes and self.lanes > 1:
            return self.sliding(w, packed)
        if not packed and self.pixels < self.lanes:
            return None
        return self.blocked(x, w, packed)

    # Few channels a group: no reuse to block for, one accumulator a lane over the padded image.
    def direct(self, w: Value) -> Lowered | None:
        pad, source = self.padded_image()
        shape = self.inner.result.static_shape
        vars = iteration(shape)
        index = [v if n != 1 else const(0, INDEX) for v, n in zip(vars, shape)]
        def term(*r: Expr) -> Expr:
            c, window = r[0], r[1:]
            group = index[1] // self.outs
            at = [p * s + k * d for p, s, k, d in zip(index[2:], self.stride, window, self.dilation)]
            image = source(index[0], group * self.channels + c, at)
            return image * self.element(w, flat_index([index[1], c, *window], w.static_shape))

        total = reduce("sum", [self.channels, *self.window], term)
        if self.bias is not None:
            total = total + self.element(self.bias, index[1])
        outputs = [Output(b, value) for b, _, value in self.epilogue(index, total)]
        return self.finish(seq(pad, schedule(vars, shape, outputs, self.style)))

    def padded_image(self, slack: int = 0) -> tuple[Stmt, Callable[[Expr, Expr, Sequence[Expr]], Expr]]:
        """Statements that make the zero-padded image, where it needs any, and access to it: (batch, channel, position).

        With `slack` it is a copy in any case, and so many elements of any value can be read after its end.
        """
        shape = self.x.static_shape
        if self.padded == self.image and not slack:
            return seq(), lambda b, c, at: self.element(self.x, flat_index([b, c, *at], shape))
        full = (*shape[:2], *self.padded)
        copy = Buffer("image", self.dtype, (math.prod(full) + slack,))
        self.scratch.append(copy)
        vars = iteration(full)
        index = [v if n != 1 else const(0, INDEX) for v, n in zip(vars, full)]
        inside = const(True, "bool")
        at = []
        for v, p, n in zip(index[2:], self.before, self.image):
            inside = inside & (v >= p) & (v < n + p)
            at.append(clamp(v - p, 0, n - 1))
        value = select(inside, self.element(self.x, flat_index([*index[:2], *at], shape)), const(0, self.dtype))
        fill = schedule(vars, full, [Output(copy, value)], self.style)
        return fill, lambda b, c, at: copy[flat_index([b, c, *at], full)]

    def span(self) -> int:
        """Elements of the padded plane from the first output pixel's to the last one's."""
        last = 0
        for n, o in zip(self.padded, self.pixels_shape):
            last = last * n + o - 1
        return last + 1

    # Stride 1: where output pixels are numbered along the padded plane, B is a slice of it, shifted by the window's
    # position, and nothing is copied. The few columns between rows are computed and dropped.
    def sliding(self, w: Value, packed: bool) -> Lowered:
        span, wide, depth = self.span(), self.padded[-1], self.depth
        tile = self.style.pick("tile", result_tiles(self.outs, span, self.lanes, self.registers))
        rows, columns = tile.rows, tile.columns
        left = self.pack(w, _pack_left(self.groups, self.outs, depth, rows, self.dtype), self.dtype) if packed else None
        pad, source = self.padded_image(columns)
        row_tiles, panels = -(-self.outs // rows), -(-span // columns)
        height = self.pixels_shape[0] if len(self.pixels_shape) == 2 else 1

        def task(worker: Expr, t: Expr) -> Stmt:
            mt, pt, image = t % row_tiles, t // row_tiles % panels, t // (row_tiles * panels)
            group, b = image % self.groups, image // self.groups
            m0 = minimum(mt * rows, self.outs - rows)
            n0 = minimum(pt * columns, max(span - columns, 0))

            def weight(i: int, k: Sequence[Expr]) -> Expr:
                flat = flat_index(k, (self.channels, *self.window))
                if left is not None:
                    return left[((group * row_tiles + mt) * depth + flat) * rows + i]
                return self.element(w, (group * self.outs + m0 + i) * depth + flat)

            def pixel(v: int, k: Sequence[Expr], lane: Expr) -> Expr:
                shift = flat_index([o * d for o, d in zip(k[1:], self.dilation)], self.padded)
                zeros = [const(0, INDEX)] * (len(self.padded) - 1)
                return source(b, group * self.channels + k[0], [*zeros, shift + n0 + v * tile.lanes + lane])

            def start(i: int, v: int, lane: Expr) -> Expr:
                return self.element(self.bias, group * self.outs + m0 + i) if self.bias is not None else const(0, self.dtype)

            def drain(block: Buffer) -> Stmt:
                def stretch(i: Expr, r: Expr) -> Stmt:
                    y = n0 // wide + r
                    first = maximum(y * wide - n0, 0)
                    end = minimum(minimum(y * wide + self.pixels_shape[-1], span) - n0, columns)
                    x = Var("x", INDEX, 0, min(self.pixels_shape[-1], columns) - 1)
                    lane = first + x
                    column = n0 + lane - y * wide
                    place = [b, group * self.outs + m0 + i, *([y] if height > 1 or len(self.pixels_shape) == 2 else []), column]
                    stores = [store(o, offset, value) for o, offset, value in self.epilogue(place, block[i * columns + lane])]
                    return For(x, maximum(end - first, 0), seq(*stores), "serial")

                touched = (columns - 1) // wide + 2 if height > 1 else 1
                return nest((rows, touched), stretch, ("i", "r"))

            return self.block(tile, (self.channels, *self.window), weight, pixel, start, drain=drain)

        tasks = self.batch * self.groups * panels * row_tiles
        effort = 2 * self.batch * self.groups * self.outs * self.pixels * depth // 16
        return self.finish(seq(pad, self.spread(tasks, effort, task)))

    def blocked(self, x: Value, w: Value, packed: bool) -> Lowered | None:
        tile = self.style.pick("tile", result_tiles(self.outs, self.pixels, self.lanes, self.registers))
        tile = Tile(tile.rows, min(tile.vectors, -(-self.pixels // self.lanes)), self.lanes)
        rows, columns, depth = tile.rows, tile.columns, self.depth
        row_tiles, panels = -(-self.outs // rows), len(panel_starts(self.pixels, tile))
        wsize = self.outs * depth
        left = self.pack(w, _pack_left(self.groups, self.outs, depth, rows, self.dtype), self.dtype) if packed else None
        in_place = all(k == 1 for k in self.window) and all(s == 1 for s in self.stride) and self.padded == self.image \
            and self.pixels >= self.lanes
        pad, source = (seq(), None) if in_place else self.padded_image()
        valid = self.pixels if self.pixels < self.lanes else None
        images = self.batch * self.groups
        effort = 2 * images * self.outs * self.pixels * depth // 16
        workers = min(self.style.threads, images * panels * row_tiles) if effort >= self.style.parallel_work else 1
        # Threads share panels where there are enough of them, else rows (each then makes its own copy of the panel).
        by_rows = images * panels < workers or (images * panels < 4 * workers and images * panels % workers)
        row = columns * self.dtype.itemsize
        block = depth if depth * row <= PANEL_BYTES else max(1, PANEL_BYTES // row)
        blocks = -(-depth // block)
        block = -(-depth // blocks)
        if in_place:
            block, blocks = depth, 1
        panel = sums = table = None
        if not in_place:
            panel = Buffer("panel", self.dtype, (workers * block * columns,))
            table = Buffer("pixels", "i32", (workers * columns,))
            self.scratch += [panel, table]
            if blocks > 1:
                sums = Buffer("sums", self.dtype, (workers * row_tiles * rows * columns,))
                self.scratch.append(sums)
        window = math.prod(self.window)

        def panel_task(worker: Expr, t: Expr, tile_range: Callable[[Callable[[Expr], Stmt]], Stmt]) -> Stmt:
            pt, image = t % panels, t // panels
            group, b = image % self.groups, image // self.groups

            def positions() -> Stmt:
                assert table is not None
                lane = Var("l", INDEX, 0, columns - 1)
                pixel = self.pixel_of(pt, lane, tile)
                at = [p * s for p, s in zip(split_index(pixel, self.pixels_shape), self.stride)]
                put = store(table, worker * columns + lane, flat_index(at, self.padded).cast("i32"))
                return For(lane, const(columns, INDEX), put, "serial")

            def fill(first: int, count: int) -> Stmt:
                assert panel is not None and table is not None and source is not None
                q, lane = Var("q", INDEX, 0, count - 1), Var("l", INDEX, 0, columns - 1)
                k = q + first
                shift = [o * d for o, d in zip(split_index(k % window, self.window), self.dilation)]
                plane = flat_index(shift, self.padded)
                offset = table[worker * columns + lane].cast(INDEX)
                zeros = [const(0, INDEX)] * (len(self.padded) - 1)
                value = source(b, group * self.channels + k // window, [*zeros, plane + offset])
                put = store(panel, (worker * block + q) * columns + lane, value)
                return For(q, const(count, INDEX), For(lane, const(columns, INDEX), put, "serial"), "serial")

            def rows_of(first: int, count: int, is_first: bool, is_last: bool) -> Stmt:
                def one(mt: Expr) -> Stmt:
                    m0 = minimum(mt * rows, self.outs - rows)

                    def a(i: int, k: Expr) -> Expr:
                        if left is not None:
                            return left[((group * row_tiles + mt) * depth + first + k) * rows + i]
                        return self.element(w, group * wsize + (m0 + i) * depth + first + k)

                    def from_image(v: int, k: Expr, l: Expr) -> Expr:
                        channel = (b * self.groups + group) * self.channels + k
                        return self.element(x, channel * self.pixels + column_of(pt, v, self.pixels, tile) + l)

                    def from_panel(v: int, k: Expr, l: Expr) -> Expr:
                        assert panel is not None
                        return panel[(worker * block + k) * columns + v * tile.lanes + l]

                    def partial_sum(i: ExprLike, v: ExprLike, l: Expr) -> Expr:
                        return ((worker * row_tiles + mt) * rows + i) * columns + as_expr(v) * tile.lanes + l

                    def start(i: int, v: int, l: Expr) -> Expr:
                        if not is_first:
                            assert sums is not None
                            return sums[partial_sum(i, v, l)]
                        channel = group * self.outs + m0 + i
                        return self.element(self.bias, channel) if self.bias is not None else const(0, self.dtype)

                    def write(i: ExprLike, v: ExprLike, l: Expr, value: Expr) -> list[Stmt]:
                        if not is_last:
                            assert sums is not None
                            return [store(sums, partial_sum(i, v, l), value)]
                        pixel = column_of(pt, v, self.pixels, tile) + l
                        place = [b, group * self.outs + m0 + i, *split_index(pixel, self.pixels_shape)]
                        return [store(o, offset, y) for o, offset, y in self.epilogue(place, value)]

                    return self.tile(tile, count, a, from_image if in_place else from_panel, write, start,
                                     valid if is_last else None)

                return tile_range(one)

            if in_place:
                return rows_of(0, depth, True, True)
            parts = [positions()]
            for j in range(blocks):
                first = j * block
                count = min(block, depth - first)
                parts += [fill(first, count), rows_of(first, count, j == 0, j == blocks - 1)]
            return seq(*parts)

        if workers > 1 and by_rows:
            per = -(-row_tiles // workers)
            worker = Var("w", INDEX, 0, workers - 1)
            start_tile = minimum(worker * per, row_tiles - per)
            some = lambda f: loop(per, lambda r: f(bounded(start_tile + r, row_tiles)), "serial", "m")
            body: Stmt = For(worker, const(workers, INDEX),
                             loop(images * panels, lambda t: panel_task(worker, t, some), "serial", "task"), "parallel")
        else:
            every = lambda f: loop(row_tiles, f, "serial", "m")
            body = self.spread(images * panels, effort, lambda worker, t: panel_task(worker, t, every))
        return self.finish(seq(pad, body))

    def pixel_of(self, panel: Expr, lane: Expr, tile: Tile) -> Expr:
        """The pixel in a lane of a panel; lanes beyond the last pixel repeat it."""
        if self.pixels < tile.lanes:
            return clamp(lane, 0, self.pixels - 1)
        if self.pixels <= tile.columns:
            v, l = lane // tile.lanes, lane % tile.lanes
            return minimum(v * tile.lanes, self.pixels - tile.lanes) + l
        return minimum(panel * tile.columns, self.pixels - tile.columns) + lane


def _pack_left(groups: int, outs: int, depth: int, rows: int, d: DType) -> Packing:
    tiles = -(-outs // rows)
    starts = [min(t * rows, outs - rows) for t in range(tiles)]

    def parts(w: np.ndarray) -> Iterator[np.ndarray]:
        for group in w.reshape(groups, outs, depth):
            for s in starts:
                yield group[s:s + rows].T.astype(d.numpy, copy=False)

    return Packing(f"left{rows}x{groups}{d}", groups * tiles * depth * rows * d.itemsize, parts)
