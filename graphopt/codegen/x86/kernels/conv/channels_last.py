"""Convolutions whose result lies channels last: a tile of pixels by vectors of output channels stays in registers.

Pixels of x are broadcast scalars, weights are vectors along the output channel, packed once as
[group][panel][window][channel][NR] so that every tile streams them in order. The tile's pixels form a box of the
image, so that with one base address all their offsets are constants. x is read in place where its buffer
has the halo that the window needs (or needs none), in any layout; else it is copied once with its zero border. This
is the direct convolution of Georganas et al. (SC 2018) with channels innermost instead of blocked.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from graphopt.codegen.kernel.expr import INDEX, Buffer, Expr, ExprLike, Var, as_expr, const, maximum, minimum, select
from graphopt.codegen.kernel.index import flat_index, split_index
from graphopt.codegen.kernel.loops import Let, Prefetch, Stmt, seq, store
from graphopt.codegen.lower.kernels import Lowered, Packing, Sources, fill_around, position
from graphopt.codegen.lower.schedule import Output, Style, iteration, schedule
from graphopt.codegen.lower.tuning import best_of
from graphopt.codegen.x86.costs import costs_of
from graphopt.codegen.x86.kernels.tile import Blocked, Tile
from graphopt.ir.dims import ceil_div
from graphopt.ir.fused import outside
from graphopt.ir.graph import Op, Value
from graphopt.ir.types import DType, TensorType, channels_last, lies_channels_last
from graphopt.targets.x86 import X86


@dataclass(frozen=True)
class Box:
    """A register tile: `high` by `wide` pixels, `vectors` vectors of output channels."""

    high: int
    wide: int
    vectors: int

    @property
    def pixels(self) -> int:
        return self.high * self.wide

    @property
    def family(self) -> object:
        """What makes boxes differ much."""
        return self.vectors


@dataclass(frozen=True)
class Cut:
    """The order of `count` tiles by `panels` panels of weights: in `blocks` blocks of tiles, whose sizes differ by at most one,
    all tiles of a block with one panel after the other."""

    count: int
    blocks: int
    panels: int

    @property
    def most(self) -> int:
        """Tiles of the largest block."""
        return -(-self.count // self.blocks)

    def first(self, block: Expr) -> Expr:
        """The first tile of a block."""
        size, larger = divmod(self.count, self.blocks)
        return block * size + minimum(block, larger) if larger else block * size

    def at(self, u: Expr, body: Callable[[Expr, Expr, Expr], Stmt]) -> Stmt:
        """What to do in step u, given the tile, the panel, and how many tiles of the block went before with this panel."""
        size, larger = divmod(self.count, self.blocks)

        def within(u: Expr, size: int, first: int) -> tuple[Expr, Expr, Expr]:
            passed = u % size
            return first + u // (self.panels * size) * size + passed, u // size % self.panels, passed

        if not larger:
            return body(*within(u, size, 0))
        split = larger * (size + 1)
        before, behind = within(u, size + 1, 0), within(maximum(u - split * self.panels, 0), size, split)
        ends = (self.count, self.panels, self.most)
        vars = tuple(Var(name, INDEX, 0, n - 1) for name, n in zip(("tile", "panel", "passed"), ends))
        inside = body(*vars)
        for v, a, b in zip(vars, before, behind):
            inside = Let(v, select(u < split * self.panels, a, b), inside)
        return inside


def choose_box(height: int, width: int, channels: int, lanes: int, machine: X86) -> tuple[float, Box]:
    """The box that computes a height by width image of `channels` outputs in the fewest cycles per step of the
    reduction, and those cycles."""
    return best_of(boxes(height, width, channels, lanes, machine))


def boxes(height: int, width: int, channels: int, lanes: int, machine: X86) -> Iterator[tuple[float, Box]]:
    """All boxes with those cycles; of the same number, the smallest."""
    costs = costs_of(machine)
    for vectors in range(1, min(6, -(-channels // lanes)) + 1):
        panels = -(-channels // (vectors * lanes))
        for high in (1, 2, 3, 4):
            for wide in range(1, min(width, 28) + 1):
                pixels = high * wide
                if high > height or pixels * vectors + vectors + 1 > machine.registers or (high > 1 and wide < width):
                    continue
                if wide > 1 and -(-width // wide) == -(-width // (wide - 1)):
                    continue
                tiles = -(-height // high) * -(-width // wide)
                step = max(pixels * vectors / machine.fma, costs.latency) + costs.box_load * (pixels + vectors)
                step += costs.box_weights * vectors + costs.box_step
                yield tiles * panels * step, Box(high, wide, vectors)


def covers(op: Op, conv: Op) -> bool:
    """Is there a channels-last kernel for the convolution in `op`?"""
    w = conv.operands[1]
    assert w is not None
    if outside(op, w).constant is None or any(p < 0 for p in conv.attrs["pad"]) or not conv.result.dtype.is_float:
        return False
    outs = conv.result.static_shape[1] // conv.attrs["groups"]
    return outs >= 4 and math.prod(w.static_shape[1:]) * outs >= 16


class ChannelsLast(Blocked):
    """A convolution whose groups have several output channels."""

    def __init__(self, op: Op, inner: Op, sources: Sources, name: str, style: Style, machine: X86) -> None:
        super().__init__(op, inner, sources, name, style, machine)
        self.packed: Callable[[Expr, Expr], Expr] | None = None  # where pixels (flat) were packed: an element of one, by channel

    def build(self) -> Lowered | None:
        if not self.examine() or self.outs == 1:
            return None
        w = self.inner.operands[1]
        assert w is not None
        grid = self.pixels_shape
        if self.flat():
            grid = (math.prod(grid),)
        self.grid = (1,) * (2 - len(grid)) + tuple(grid)
        self.box = self.style.pick("box", boxes(self.grid[-2], self.grid[-1], self.outs, self.lanes, self.machine))
        return self.finish(seq(*self.sources.borders(self.style), *self.copied, self.tiles(w)))

    def examine(self) -> bool:
        """Take the convolution apart and decide where its image is read. False where the weights cannot be packed."""
        x, w, self.bias = (*self.inner.operands, None)[:3]
        assert x is not None and w is not None
        attrs = self.inner.attrs
        self.groups = attrs["groups"]
        out = self.inner.result.static_shape
        spatial = len(out) - 2
        self.batch, self.outs = out[0], out[1] // self.groups
        self.channels, self.window = w.static_shape[1], w.static_shape[2:]
        self.pixels_shape = out[2:]
        self.stride, self.dilation, self.before = attrs["stride"], attrs["dilation"], attrs["pad"][:spatial]
        if any(p < 0 for p in attrs["pad"]) or not self.packable(w):
            return False
        while self.outs < self.lanes:
            self.lanes //= 2
        self.read(x)
        return True

    def read(self, x: Value) -> None:
        """Decide where pixels are read: `self.pixel(image, channel, at)`, `at` from -before on."""
        t = self.outside(x).type
        assert isinstance(t, TensorType)
        self.x, self.x_type = x, t
        image = x.static_shape[2:]
        behind = [(o - 1) * s + (k - 1) * d + 1 - n - p for o, s, k, d, n, p in zip(
            self.pixels_shape, self.stride, self.window, self.dilation, image, self.before)]
        self.copied: list[Stmt] = []
        self.planar = False
        border = max(*self.before, *behind, 0)
        if (t.layout.serves(border) if t.layout is not None else not border) and self.outside(x) in self.sources.buffers:
            self.pixel = lambda b, c, at: self.element(x, position([b, c, *at], t))
            self.direct = True
            return
        # A copy with its border. Few channels that lie row-major stay so: rows are copied, not elements.
        self.planar = t.layout is None and x.static_shape[1] < self.lanes
        place = TensorType(self.dtype, (self.batch, x.static_shape[1], *(n + p + max(q, 0) for n, p, q in zip(
            image, self.before, behind))), None if self.planar else channels_last(len(x.static_shape)))
        copy = Buffer("padded", self.dtype, (math.prod(place.static_shape),))
        self.scratch.append(copy)
        shape, order = x.static_shape, place.storage_axes
        vars = iteration(shape)
        index = [v if n != 1 else const(0, INDEX) for v, n in zip(vars, shape)]
        there = position([*index[:2], *(i + p for i, p in zip(index[2:], self.before))], place)
        moved = [Output(copy, self.element(x, position(index, t)))]
        around = [(0, n, 0) for n in shape[:2]] + [(p, n, max(q, 0)) for p, n, q in zip(self.before, image, behind)]
        self.copied = [*fill_around(copy, place.storage, [around[a] for a in order], self.style),
                       schedule([vars[a] for a in order], [shape[a] for a in order], moved, self.style, there)]
        self.direct = False
        self.pixel = lambda b, c, at: copy[position([b, c, *(i + p for i, p in zip(at, self.before))], place)]

    def flat(self) -> bool:
        """Are pixels numbered alike in x, the result and what the epilogue reads? Then rows do not matter."""
        plain = all(k == 1 for k in self.window) and all(s == 1 for s in self.stride) and self.direct
        halos = [v.type.layout.halo for v in (*self.op.results, *self.op.operands)
                 if v is not None and isinstance(v.type, TensorType) and v.type.layout is not None]
        return plain and not any(halos)

    def contiguous(self) -> bool:
        """Do the channels of neighbouring window columns follow each other in memory?"""
        if self.groups > 1 or self.dilation[-1] != 1 or self.planar:
            return False
        if not self.direct:
            return True
        t = self.x_type
        return lies_channels_last(t) and t.storage[-1] == self.channels

    def tiles(self, w: Value) -> Stmt:
        box, lanes = self.box, self.lanes
        *deep, height, width = self.grid
        down, across = -(-height // box.high), -(-width // box.wide)
        tile = Tile(box.pixels, box.vectors, lanes)
        panels = -(-self.outs // tile.columns)
        starts = [first_channels(p, self.outs, tile) for p in range(panels)]
        depth = self.channels * math.prod(self.window)
        right = self.pack(w, pack_panels(self.groups, self.outs, starts, depth, tile, self.planar, self.dtype), self.dtype)
        count = math.prod(deep) * down * across  # tiles of one image
        cut = Cut(count, self.blocks_of(count, panels, depth), panels)
        block = cut.most
        far = 1 < block <= self.costs.far_tiles and panels * depth * tile.columns * self.dtype.itemsize > self.machine.l2 // 4
        units = self.batch * self.groups * panels * count

        def unit(worker: Expr, u: Expr) -> Stmt:
            return cut.at(u % (panels * count), lambda *place: at(u // (panels * count), *place))

        def at(image: Expr, t: Expr, panel: Expr, passed: Expr) -> Stmt:
            group, b = image % self.groups, image // self.groups
            y0 = minimum(t // across % down * box.high, height - box.high)
            x0 = minimum(t % across * box.wide, width - box.wide)
            outer = split_index(t // (down * across), deep)
            seen = [self.rows_inside(y0), self.columns_inside(x0)][:len(self.depths) - 1]  # the channels are the last
            depths: tuple[ExprLike, ...] = (*(n for _, n in seen), *self.depths[len(seen):])

            def whole(k: Sequence[Expr]) -> list[Expr]:
                """A step's place in the whole window."""
                return [*(i + first for i, (first, _) in zip(k, seen)), *k[len(seen):]]

            def pixel_at(i: ExprLike) -> list[Expr]:
                at = [*outer, y0 + as_expr(i) // box.wide, x0 + as_expr(i) % box.wide]
                at = [a if n != 1 else const(0, INDEX) for a, n in zip(at, self.grid)]
                if self.flat():
                    return split_index(at[-1], self.pixels_shape)
                return at[len(at) - len(self.pixels_shape):]

            def source(i: int, k: Sequence[Expr]) -> Expr:
                *window, c = self.split(whole(k))
                if self.packed is not None:
                    return self.packed(x0 + i, c)
                at = [p * s - q + o * d for p, s, q, o, d in
                      zip(pixel_at(i), self.stride, self.before, window, self.dilation)]
                return self.pixel(b, group * self.channels + c, at)

            def weight(v: int, k: Sequence[Expr], lane: Expr) -> Expr:
                place = flat_index(whole(k), self.depths)
                return right[((group * panels + panel) * depth + place) * tile.columns + v * lanes + lane]

            def channel(v: ExprLike) -> Expr:
                if self.outs <= tile.columns:
                    return group * self.outs + minimum(as_expr(v) * lanes, self.outs - lanes)
                return group * self.outs + minimum(panel * tile.columns, self.outs - tile.columns) + as_expr(v) * lanes

            def start(i: int, v: int, lane: Expr) -> Expr:
                return const(0, self.dtype) if self.bias is None else self.element(self.bias, channel(v) + lane)

            def write(i: ExprLike, v: ExprLike, lane: Expr, value: Expr) -> list[Stmt]:
                place = [b, channel(v) + lane, *pixel_at(i)]
                return [store(o, offset, y) for o, offset, y in self.epilogue(place, value)]

            def ahead(k: Sequence[Expr]) -> Stmt:
                step = flat_index(whole(k), self.depths)
                here = (group * panels + panel) * depth * tile.columns
                there = here + (step + self.costs.ahead) * tile.columns
                soon = [Prefetch(right, there + v * lanes, 1) for v in range(tile.vectors)]
                if not far:
                    return seq(*soon)
                # While these tiles pass, the panel after this one comes to L2, a share of it with every step.
                share = -(-tile.columns // block)
                next_panel = here + depth * tile.columns
                return seq(*soon, Prefetch(right, next_panel + (passed * depth + step) * share, 2))

            return self.stored(tile, depths, source, weight, start, write, hint=ahead)

        return self.spread(units, self.effort(self.batch * self.groups * self.outs * math.prod(self.pixels_shape) * depth), unit)

    def rows_inside(self, y0: Expr) -> tuple[Expr, Expr]:
        """How many rows of the window lie in the padding before the image for a tile of pixels from row `y0` on, and how many
        after those see it for any of the tile's pixels: products with zeros are left out, most of all of wide dilations."""
        if self.planar or len(self.window) != 2 or self.window[0] == 1 or max(self.beyond(0)) <= 0:
            return const(0, INDEX), const(self.depths[0], INDEX)
        return self.inside(0, y0, self.box.high)

    def columns_inside(self, x0: Expr) -> tuple[Expr, Expr]:
        """The same of the window's columns, where some tile has one of them in the padding altogether."""
        if self.planar or len(self.depths) != 3 or max(self.beyond(1)) < self.box.wide * self.stride[1]:
            return const(0, INDEX), const(self.depths[min(1, len(self.depths) - 1)], INDEX)
        return self.inside(1, x0, self.box.wide)

    def beyond(self, axis: int) -> tuple[int, int]:
        """How far windows reach beyond the image before it and behind it."""
        pad, reach = self.before[axis], (self.window[axis] - 1) * self.dilation[axis]
        return pad, (self.pixels_shape[axis] - 1) * self.stride[axis] + reach + 1 - self.x.static_shape[2 + axis] - pad

    def inside(self, axis: int, start: Expr, extent: int) -> tuple[Expr, Expr]:
        """Of the window along an axis: the first position that sees the image from any of `extent` pixels from `start` on, and
        how many do."""
        size, pad, s, d = self.window[axis], self.before[axis], self.stride[axis], self.dilation[axis]
        first = minimum(maximum(pad - (start + (extent - 1)) * s + (d - 1), 0) // d, size)
        end = minimum(maximum(self.x.static_shape[2 + axis] - 1 + pad - start * s + d, 0) // d, size)
        return first, maximum(end - first, 0)

    @property
    def depths(self) -> tuple[int, ...]:
        """Extents of the reduction's loops: window axes, then channels; the last two as one where memory allows."""
        if self.planar:
            return (self.channels, *self.window)
        if self.contiguous():
            return (*self.window[:-1], self.window[-1] * self.channels)
        return (*self.window, self.channels)

    def split(self, k: Sequence[Expr]) -> list[Expr]:
        """Window position and channel of a step of the reduction."""
        if self.planar:
            return [*k[1:], k[0]]
        if self.contiguous():
            *rows, last = k
            return [*rows, const(0, INDEX), last]  # the channel runs on into the next columns
        return list(k)

    def blocks_of(self, count: int, panels: int, depth: int) -> int:
        """Into how many blocks to cut the tiles; a block runs through a panel of weights before the next. Where all weights stay
        in L2: blocks of a few tiles, so that x is read and the result written from front to back. Else one, so that weights pass
        once and x once for every panel, or blocks of as many as read a part of x that stays in L2, so that x passes once and the
        weights for every such block."""
        size, l2 = self.dtype.itemsize, self.machine.l2
        strides = math.prod(min(s, k) for s, k in zip(self.stride, self.window))
        x = self.channels * self.box.pixels * strides * size  # of a tile
        weights = panels * depth * self.box.vectors * self.lanes * size
        if weights <= l2 // 2:
            return ceil_div(count, max(1, min(count, self.costs.few_tiles, self.machine.l1 // 2 // max(x, 1))))
        blocks = ceil_div(count, max(1, min(count, l2 // 4 // max(x, 1))))
        whole = weights + (panels * x * count if x * count > l2 // 2 else x * count)
        parts = x * count + blocks * weights
        return 1 if whole <= parts else blocks


def first_channels(panel: int, outs: int, tile: Tile) -> list[int]:
    """First channel of each vector of a panel."""
    if outs <= tile.columns:
        return [min(v * tile.lanes, outs - tile.lanes) for v in range(tile.vectors)]
    start = min(panel * tile.columns, outs - tile.columns)
    return [start + v * tile.lanes for v in range(tile.vectors)]


def pack_panels(groups: int, outs: int, starts: list[list[int]], depth: int, tile: Tile, planar: bool, d: DType) -> Packing:
    """[group][panel][step of the reduction][column]"""
    columns = [np.concatenate([s + np.arange(tile.lanes) for s in panel]) for panel in starts]

    def parts(w: np.ndarray) -> Iterator[np.ndarray]:
        for group in w.reshape(groups, outs, *w.shape[1:]):
            ahead = np.moveaxis(group, 0, -1) if planar else np.moveaxis(group, (0, 1), (-1, -2))  # outputs innermost
            for c in columns:
                yield ahead[..., c].astype(d.numpy, copy=False)

    size = groups * len(starts) * depth * tile.columns * d.itemsize
    return Packing(f"last{groups}x{tile.columns}x{tile.lanes}{'planar' if planar else ''}{d}", size, parts)
