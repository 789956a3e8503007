"""Convolutions whose result lies channels last: a tile of pixels by vectors of output channels stays in registers.

Pixels of x are broadcast scalars, weights are vectors along the output channel, packed once as
[group][panel][window][channel][NR] so that every tile streams them in order. The tile's pixels form a box of the
image, so that with one base address all their offsets are constants. x is read in place where its buffer
has the halo that the window needs (or needs none), in any layout; else it is copied once with its zero border. This
is the direct convolution of Georganas et al. (SC 2018) with channels innermost instead of blocked.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from graphopt.codegen.kernel.expr import INDEX, Expr, ExprLike, as_expr, const, maximum, minimum
from graphopt.codegen.kernel.index import flat_index, split_index
from graphopt.codegen.kernel.loops import Prefetch, Stmt, seq
from graphopt.codegen.lower.kernels import Lowered, Sources
from graphopt.codegen.lower.schedule import Style
from graphopt.codegen.x86.kernels.conv.boxes import Box, Cut, boxes, first_channels, pack_panels
from graphopt.codegen.x86.kernels.conv.operands import Convolution
from graphopt.codegen.x86.kernels.conv.pixels import Pixels, Reduction, pixels_of, reduction_of
from graphopt.codegen.x86.kernels.tile import Tile
from graphopt.ir.dims import ceil_div
from graphopt.ir.graph import Op
from graphopt.ir.types import TensorType
from graphopt.targets.x86 import X86


def channels_last(op: Op, inner: Op, sources: Sources, name: str, style: Style, machine: X86) -> Lowered | None:
    """The kernel of a convolution whose groups have several output channels; None for others, and where weights cannot be
    packed."""
    conv = Convolution(op, inner, sources, name, style, machine)
    p = conv.problem
    if not conv.packs() or p.outs == 1:
        return None
    pixels = pixels_of(conv, conv.lanes_for(p.outs))
    grid = grid_of(conv, is_flat(conv, pixels))
    reduction = reduction_of(conv, pixels)
    tiles = Tiles(conv, grid, reduction, Cut(grid.count, blocks_of(conv, grid, reduction), grid.panels))

    def read(tile: TileAt, i: int, k: Sequence[Expr]) -> Expr:
        *window, c = reduction.split(k)
        return pixels.at(tile.image, tile.group * p.channels + c, p.places(tile.pixel(i), window))

    body = conv.spread(tiles.units, tiles.effort, lambda worker, u: tiles.step(u, read))
    return conv.finish(seq(*sources.borders(style), *pixels.copied, body))


def is_flat(conv: Convolution, pixels: Pixels) -> bool:
    """Are pixels numbered alike in x, the result and what the epilogue reads? Then rows do not matter."""
    p = conv.problem
    plain = all(k == 1 for k in p.window) and all(s == 1 for s in p.stride) and pixels.in_place
    halos = [v.type.layout.halo for v in (*conv.op.results, *conv.op.operands)
             if v is not None and isinstance(v.type, TensorType) and v.type.layout is not None]
    return plain and not any(halos)


@dataclass(frozen=True)
class Grid:
    """An image of the result by `size`, one line of pixels where rows do not matter (`flat`), under boxes, and its channels in
    `panels` of vectors of `lanes`."""

    size: tuple[int, ...]
    flat: bool
    box: Box
    lanes: int
    panels: int

    @property
    def tile(self) -> Tile:
        """A box as the register block that it is."""
        return Tile(self.box.pixels, self.box.vectors, self.lanes)

    @property
    def down(self) -> int:
        return -(-self.size[-2] // self.box.high)

    @property
    def across(self) -> int:
        return -(-self.size[-1] // self.box.wide)

    @property
    def count(self) -> int:
        """Boxes of an image."""
        return math.prod(self.size[:-2]) * self.down * self.across


def grid_of(conv: Convolution, flat: bool) -> Grid:
    """With the box of the fewest cycles, or the one that is wanted."""
    p = conv.problem
    lanes = conv.lanes_for(p.outs)
    size = (p.pixels,) if flat else p.pixels_shape
    size = (1,) * (2 - len(size)) + size
    box = conv.style.pick("box", boxes(size[-2], size[-1], p.outs, lanes, conv.machine))
    return Grid(size, flat, box, lanes, -(-p.outs // (box.vectors * lanes)))


def blocks_of(conv: Convolution, grid: Grid, reduction: Reduction) -> int:
    """Into how many blocks to cut the tiles; a block runs through a panel of weights before the next. Where all weights stay
    in L2: blocks of a few tiles, so that x is read and the result written from front to back. Else one, so that weights pass
    once and x once for every panel, or blocks of as many as read a part of x that stays in L2, so that x passes once and the
    weights for every such block."""
    p, count, machine = conv.problem, grid.count, conv.machine
    size, l2 = conv.dtype.itemsize, machine.l2
    strides = math.prod(min(s, k) for s, k in zip(p.stride, p.window))
    x = p.channels * grid.box.pixels * strides * size  # of a tile
    weights = grid.panels * reduction.depth * grid.tile.columns * size
    if weights <= l2 // 2:
        return ceil_div(count, max(1, min(count, conv.costs.few_tiles, machine.l1 // 2 // max(x, 1))))
    blocks = ceil_div(count, max(1, min(count, l2 // 4 // max(x, 1))))
    whole = weights + (grid.panels * x * count if x * count > l2 // 2 else x * count)
    parts = x * count + blocks * weights
    return 1 if whole <= parts else blocks


class Tiles:
    """What a convolution's tiles do, in the order of a cut, with weights packed for them."""

    def __init__(self, conv: Convolution, grid: Grid, reduction: Reduction, cut: Cut) -> None:
        self.conv, self.problem, self.grid, self.reduction, self.cut = conv, conv.problem, grid, reduction, cut
        p, tile, depth = conv.problem, grid.tile, reduction.depth
        starts = [first_channels(panel, p.outs, tile) for panel in range(grid.panels)]
        packing = pack_panels(p.groups, p.outs, starts, depth, tile, reduction.planar, conv.dtype)
        self.right = conv.pack(conv.w, packing, conv.dtype)
        weights = grid.panels * depth * tile.columns * conv.dtype.itemsize
        self.is_far = 1 < cut.most <= conv.costs.far_tiles and weights > conv.machine.l2 // 4
        self.units = p.images * grid.panels * grid.count
        self.effort = conv.effort(p.images * p.outs * p.pixels * depth)

    def step(self, u: Expr, read: Callable[[TileAt, int, Sequence[Expr]], Expr]) -> Stmt:
        """Step `u`; `read(tile, i, k)` is what pixel `i` of a tile multiplies in step `k` of the whole window."""
        steps = self.grid.panels * self.grid.count
        return self.cut.at(u % steps, lambda *place: TileAt(self, u // steps, *place).code(read))

    def rows_inside(self, y0: Expr) -> tuple[Expr, Expr]:
        """How many rows of the window lie in the padding before the image for a tile of pixels from row `y0` on, and how many
        after those see it for any of the tile's pixels: products with zeros are left out, most of all of wide dilations."""
        p, r = self.problem, self.reduction
        if r.planar or len(p.window) != 2 or p.window[0] == 1 or max(p.before[0], p.behind[0]) <= 0:
            return const(0, INDEX), const(r.depths[0], INDEX)
        return self._inside(0, y0, self.grid.box.high)

    def columns_inside(self, x0: Expr) -> tuple[Expr, Expr]:
        """The same of the window's columns, where some tile has one of them in the padding altogether."""
        p, r, wide = self.problem, self.reduction, self.grid.box.wide
        if r.planar or len(r.depths) != 3 or max(p.before[1], p.behind[1]) < wide * p.stride[1]:
            return const(0, INDEX), const(r.depths[min(1, len(r.depths) - 1)], INDEX)
        return self._inside(1, x0, wide)

    def _inside(self, axis: int, start: Expr, extent: int) -> tuple[Expr, Expr]:
        """Of the window along an axis: the first position that sees the image from any of `extent` pixels from `start` on, and
        how many do."""
        p = self.problem
        size, pad, s, d = p.window[axis], p.before[axis], p.stride[axis], p.dilation[axis]
        first = minimum(maximum(pad - (start + (extent - 1)) * s + (d - 1), 0) // d, size)
        end = minimum(maximum(p.image[axis] - 1 + pad - start * s + d, 0) // d, size)
        return first, maximum(end - first, 0)


class TileAt:
    """One tile: of an image of a group (`number` counts both), the box `t`, a panel; `passed` tiles of its block went before."""

    def __init__(self, of: Tiles, number: Expr, t: Expr, panel: Expr, passed: Expr) -> None:
        self.of, self.panel, self.passed = of, panel, passed
        grid, groups = of.grid, of.problem.groups
        self.group, self.image = number % groups, number // groups
        *deep, height, width = grid.size
        self.y0 = minimum(t // grid.across % grid.down * grid.box.high, height - grid.box.high)
        self.x0 = minimum(t % grid.across * grid.box.wide, width - grid.box.wide)
        self.outer = split_index(t // (grid.down * grid.across), deep)
        inside = [of.rows_inside(self.y0), of.columns_inside(self.x0)]
        self.seen = inside[:len(of.reduction.depths) - 1]  # the channels are the last
        self.weights = (self.group * grid.panels + panel) * of.reduction.depth  # where those of the panel begin, in columns

    def code(self, read: Callable[[TileAt, int, Sequence[Expr]], Expr]) -> Stmt:
        depths: tuple[ExprLike, ...] = (*(n for _, n in self.seen), *self.of.reduction.depths[len(self.seen):])
        source = lambda i, k: read(self, i, self._whole(k))
        return self.of.conv.stored(self.of.grid.tile, depths, source, self._weight, self._start, self._write, hint=self._ahead)

    def pixel(self, i: ExprLike) -> list[Expr]:
        """The place in the result of the tile's pixel `i`."""
        grid, shape = self.of.grid, self.of.problem.pixels_shape
        at = [*self.outer, self.y0 + as_expr(i) // grid.box.wide, self.x0 + as_expr(i) % grid.box.wide]
        at = [a if n != 1 else const(0, INDEX) for a, n in zip(at, grid.size)]
        return split_index(at[-1], shape) if grid.flat else at[len(at) - len(shape):]

    def _whole(self, k: Sequence[Expr]) -> list[Expr]:
        """A step's place in the whole window."""
        return [*(i + first for i, (first, _) in zip(k, self.seen)), *k[len(self.seen):]]

    def _weight(self, v: int, k: Sequence[Expr], lane: Expr) -> Expr:
        tile, place = self.of.grid.tile, flat_index(self._whole(k), self.of.reduction.depths)
        return self.of.right[(self.weights + place) * tile.columns + v * tile.lanes + lane]

    def _channel(self, v: ExprLike) -> Expr:
        """The first channel of a vector."""
        outs, tile = self.of.problem.outs, self.of.grid.tile
        if outs <= tile.columns:
            return self.group * outs + minimum(as_expr(v) * tile.lanes, outs - tile.lanes)
        return self.group * outs + minimum(self.panel * tile.columns, outs - tile.columns) + as_expr(v) * tile.lanes

    def _start(self, i: int, v: int, lane: Expr) -> Expr:
        return self.of.conv.added(self._channel(v) + lane)

    def _write(self, i: ExprLike, v: ExprLike, lane: Expr, value: Expr) -> list[Stmt]:
        return self.of.conv.put([self.image, self._channel(v) + lane, *self.pixel(i)], value)

    def _ahead(self, k: Sequence[Expr]) -> Stmt:
        """Weights come to L1 a little before they are multiplied. Where panels do not stay in L2, the one after this comes there
        while these tiles pass, a share of it with every step."""
        of, tile, depth = self.of, self.of.grid.tile, self.of.reduction.depth
        step, here = flat_index(self._whole(k), of.reduction.depths), self.weights * tile.columns
        there = here + (step + of.conv.costs.ahead) * tile.columns
        soon = [Prefetch(of.right, there + v * tile.lanes, 1) for v in range(tile.vectors)]
        if not of.is_far:
            return seq(*soon)
        share = -(-tile.columns // of.cut.most)
        return seq(*soon, Prefetch(of.right, here + depth * tile.columns + (self.passed * depth + step) * share, 2))


__all__ = ["Grid", "TileAt", "Tiles", "blocks_of", "channels_last", "grid_of"]
